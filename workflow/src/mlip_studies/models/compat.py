"""What old packages need on current torch, in one place.

e3nn 0.4.4, to which MACE's weights hold, reads its own tables with ``torch.load`` and needs ``slice`` among the globals
that may be loaded safely. mace-torch switches torch's safe loading off for the whole process when it is imported
(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD); here it stays on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mlip_studies.errors import InputError

_FORCE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def allow_e3nn_tables() -> None:
    """Let e3nn 0.4.4 read its tables; harmless for newer versions. Call it before e3nn is imported."""
    torch.serialization.add_safe_globals([slice])


def e3nn_o3() -> Any:
    """e3nn.o3, in the version that MACE holds too."""
    allow_e3nn_tables()
    from e3nn import o3

    return o3


#: degrees, in ascending order, whose symbols have the other sign in the tables of e3nn 0.4.4; complete up to degree 6
_OTHER_SIGN = {
    *((1, degree, degree) for degree in range(2, 7)),
    (3, 4, 6),
    (4, 4, 5),
    (4, 5, 6),
    (5, 5, 5),
    (5, 6, 6),
}


def wigner_3j(first: int, second: int, third: int) -> Tensor:
    """e3nn's symbol with the signs of e3nn 0.6, so that a model computes the same with 0.4.4, which MACE holds.

    Its shape is (2 first + 1, 2 second + 1, 2 third + 1), its type float64.

    Raises:
        InputError: a degree above 6 with e3nn 0.4.
    """
    degrees = tuple(sorted((first, second, third)))
    old = version("e3nn").startswith("0.4.")
    if old and degrees[-1] > 6:
        raise InputError(
            f"degree {degrees[-1]} with e3nn {version('e3nn')}: expected at most 6, whose signs are known; use "
            "an environment with a newer e3nn"
        )
    symbol: Tensor = e3nn_o3().wigner_3j(first, second, third, dtype=torch.float64)
    if old and degrees in _OTHER_SIGN:
        return -symbol
    return symbol


@contextmanager
def foreign_imports() -> Iterator[None]:
    """Import or unpickle code of published potentials; global settings of torch that it changes are put back."""
    allow_e3nn_tables()
    forced = os.environ.get(_FORCE)
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        if forced is None:
            os.environ.pop(_FORCE, None)
        else:
            os.environ[_FORCE] = forced
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
