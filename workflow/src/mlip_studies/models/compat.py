"""What old packages need on current torch, in one place.

e3nn 0.4.4, to which MACE's weights hold, reads its own tables with ``torch.load`` and needs ``slice`` among the globals
that may be loaded safely. mace-torch switches torch's safe loading off for the whole process when it is imported
(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD); here it stays on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FORCE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def allow_e3nn_tables() -> None:
    """Let e3nn 0.4.4 read its tables; harmless for newer versions. Call it before e3nn is imported."""
    torch.serialization.add_safe_globals([slice])


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
