"""Sums over groups of rows, the only place that chooses a backend.

``native`` (torch's index_add) is the default. ``torch_scatter`` uses the ``scatter`` function of the package of that
name; its segment kernels (segment_csr, segment_coo) are never used, because their second derivatives are wrong
without an error, and forces are trained through second derivatives.
"""

from __future__ import annotations

import importlib
import os

import torch
from torch import Tensor

from mlip_studies.errors import InputError

BACKENDS = ("native", "torch_scatter")


def torch_scatter_available() -> bool:
    """Whether torch-scatter imports and computes a sum correctly on this machine."""
    try:
        module = importlib.import_module("torch_scatter")
        total = module.scatter(torch.ones(3, 1), torch.tensor([0, 0, 1]), dim=0, dim_size=2, reduce="sum")
        right: bool = total.flatten().tolist() == [2.0, 1.0]
        return right
    except (ImportError, OSError, RuntimeError):
        return False


def _default_backend() -> str:
    name = os.environ.get("MLIP_STUDIES_SCATTER", "native")
    if name not in BACKENDS:
        raise InputError(f"MLIP_STUDIES_SCATTER={name}: unknown scatter backend; choose one of {', '.join(BACKENDS)}")
    return name


def scatter_sum(values: Tensor, index: Tensor, size: int, backend: str | None = None) -> Tensor:
    """Sum rows of ``values`` that share an index.

    Args:
        values: shape (n_rows, ...).
        index: target row of each row, shape (n_rows,), int64.
        size: number of target rows.
        backend: ``native``, ``torch_scatter``, or None for the environment's choice (MLIP_STUDIES_SCATTER).

    Returns:
        shape (size, ...).
    """
    if (backend or _default_backend()) == "torch_scatter":
        module = importlib.import_module("torch_scatter")
        sums: Tensor = module.scatter(values, index, dim=0, dim_size=size, reduce="sum")
        return sums
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` of ``values``: shape (n_rows, ...) from (size, ...), the transpose of :func:`scatter_sum`.

    ``index_select`` and its gradient are several times faster on a CPU than indexing with brackets.
    """
    # index_select refuses to take nothing from nothing, which a batch without edges asks for.
    return values.index_select(0, index) if values.shape[0] else values[index]
