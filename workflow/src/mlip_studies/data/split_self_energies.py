"""Energies per element from the training rows of a named split, so that no test energy enters the reference."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.artifacts import PathLike
from mlip_studies.data.named_splits import load_named_split
from mlip_studies.data.self_energies import regress_store, write_self_energies
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError


def fit_on_split(
    store: Store, split_path: PathLike, output: PathLike | None = None, train_size: int | None = None
) -> dict[str, Any]:
    """Fit one energy per element for every fidelity on a training set of a named split.

    Args:
        store: the data.
        split_path: the split (npz).
        output: JSON file to write, in the form that :func:`mlip_studies.data.self_energies.load_self_energies` reads;
            None writes nothing.
        train_size: which of the nested training sets; the largest by default. The smaller sets are contained in it.

    Returns:
        as :func:`mlip_studies.data.self_energies.regress_store`, and ``split``: ``name``, ``part``, ``n_rows`` and
        ``rows_sha256`` (of the row numbers, ascending, as little-endian 64-bit integers).

    Raises:
        InputError: a split that is missing, damaged or of another store, or without training rows (of this size).
    """
    split = load_named_split(split_path, store)
    rows = split.train_rows(train_size)
    if len(rows) == 0:
        raise InputError(f"{split_path}: no training rows to fit energies per element on; choose a split with some")
    result = regress_store(store, rows, rows_name="train")
    result["split"] = {
        "name": Path(split_path).stem,
        "part": "train",
        "n_rows": len(rows),
        "rows_sha256": hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest(),
    }
    if output is not None:
        write_self_energies(result, output)
    return result
