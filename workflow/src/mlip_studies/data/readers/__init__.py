"""Readers of public file layouts.

A reader is a generator function ``read(path, entry, block_rows)`` that yields :class:`~mlip_studies.data.store.Block`
objects in eV, Å and eV/Å; ``entry`` is the data set's entry of ``config/datasets.yaml``. A new reader needs one module
here and one line in :data:`READERS`.

A molecule comes as one block unless it has more than ``block_rows`` frames. A group without frames comes as a block of
length zero, so that it can be counted. Whatever is wrong with a file is an :class:`~mlip_studies.errors.InputError`
that names the file and the key.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.data.store import Block, check_block
from mlip_studies.errors import InputError
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV

Reader = Callable[[Path, Mapping[str, Any], int], Iterator[Block]]


@dataclass(frozen=True)
class ReaderSpec:
    """Where a reader lives and what its blocks carry.

    Attributes:
        target: ``module:function``.
        positions_dtype: type of the coordinates in its blocks.
        info: names of the facts per group.
        columns: names of the numbers per frame beside the labels.
        identity: columns that tell the frames of a group apart: the same group and the same values twice, in one file
            or in two, are an error. An empty tuple: a group may occur in one file only. None: groups may recur.
    """

    target: str
    positions_dtype: str
    info: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    identity: tuple[str, ...] | None = None

    def load(self) -> Reader:
        """Import the reader function."""
        module, name = self.target.split(":")
        reader: Reader = getattr(importlib.import_module(module), name)
        return reader


_HERE = "mlip_studies.data.readers"
READERS: dict[str, ReaderSpec] = {
    "ani1": ReaderSpec(f"{_HERE}.ani1:read", "float32", info=("smiles",), columns=("high_energy",), identity=()),
    "ani1x": ReaderSpec(f"{_HERE}.ani1x:read", "float32", identity=()),
    "comp6": ReaderSpec(f"{_HERE}.comp6:read", "float32", identity=()),
    "extxyz": ReaderSpec(f"{_HERE}.extxyz:read", "float64", columns=("charge",)),
    "md17": ReaderSpec(f"{_HERE}.md17:read", "float64"),
    "qm7x": ReaderSpec(
        f"{_HERE}.qm7x:read",
        "float32",
        columns=("isomer", "conformer", "displacement"),
        identity=("isomer", "conformer", "displacement"),
    ),
    "rmd17": ReaderSpec(f"{_HERE}.rmd17:read", "float64", columns=("old_indices",)),
    "spice": ReaderSpec(f"{_HERE}.spice:read", "float32", info=("smiles", "subset"), identity=()),
}

ENERGY_UNITS = {"eV": 1.0, "hartree": HARTREE_TO_EV, "kcal/mol": KCAL_PER_MOL_TO_EV}
LENGTH_UNITS = {"angstrom": 1.0, "bohr": BOHR_TO_ANGSTROM}


def get_reader(name: str) -> ReaderSpec:
    """The reader called ``name``.

    Raises:
        InputError: no such reader.
    """
    if name not in READERS:
        raise InputError(f"reader {name!r}: no such reader; expected one of {', '.join(READERS)}")
    return READERS[name]


def unit_factors(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Factors that turn the data set's energies and lengths into eV and Å.

    Raises:
        InputError: an unknown unit.
    """
    units = entry["units"]
    for kind, table in (("energy", ENERGY_UNITS), ("length", LENGTH_UNITS)):
        if units.get(kind) not in table:
            raise InputError(f"units.{kind}: {units.get(kind)!r} is unknown; expected one of {', '.join(table)}")
    return ENERGY_UNITS[units["energy"]], LENGTH_UNITS[units["length"]]


def reader_options(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``reader_options`` of a data set on top of the reader's defaults.

    Raises:
        InputError: an option that the reader does not have.
    """
    given = entry.get("reader_options") or {}
    if unknown := sorted(set(given) - set(defaults)):
        known = ", ".join(defaults) or "none"
        raise InputError(f"reader_options: the reader {entry.get('reader')} has no {unknown[0]!r}; it has: {known}")
    return {**defaults, **given}


def convert(values: NDArray[Any], factor: float, dtype: DTypeLike) -> NDArray[Any]:
    """Multiply values of any shape in double precision, then round once to ``dtype``."""
    if factor == 1.0:
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(values, dtype=dtype)
    # Numbers that damage made too large or signaling NaN are reported with their row afterwards.
    with np.errstate(invalid="ignore", over="ignore"):
        converted: NDArray[Any] = np.multiply(values, factor, dtype=np.float64).astype(dtype, copy=False)
    return converted


def finished(block: Block, path: PathLike) -> Block:
    """A block of a layout that has no convention for missing labels, after its checks.

    Raises:
        InputError: a malformed block, numbers that are not finite, or labels that are NaN (which can only be damage).
    """
    check_block(block, path)
    labels: list[tuple[str, NDArray[Any]]] = [(f"energy {name}", values) for name, values in block.energies.items()]
    # check_block knows that either no force component of a frame is NaN or all are.
    labels += [(f"forces {name}", values[:, 0, 0]) for name, values in block.forces.items()]
    for what, values in labels:
        missing = np.isnan(values)
        if missing.any():
            row = int(block.source_rows[int(np.argmax(missing))])
            raise InputError(
                f"{path}: group {block.group}, row {row}: {what} is NaN ({int(missing.sum())} such row(s) here); "
                "repair or remove the row, or fetch the file again"
            )
    return block


class ConfigurationIds:
    """Finds configurations that occur twice in the files of a data set.

    Memory: one entry per group, and four bytes per frame and identity column.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, list[NDArray[np.int32]]]] = {}

    def add(self, block: Block, reader: str, path: PathLike) -> None:
        """Take note of a block.

        Raises:
            InputError: its group, or one of its frames, was there before.
        """
        identity = get_reader(reader).identity
        if identity is None or len(block) == 0:
            return
        source, parts = self._seen.setdefault((reader, block.group), (str(path), []))
        if not identity:
            if source != str(path):
                raise InputError(
                    f"{path}: group {block.group} occurs also in {source}; list every file of the data set once"
                )
            return
        keys = np.stack([block.columns[name] for name in identity], axis=1).astype(np.int32)
        rows = np.concatenate([*parts, keys])
        unique, counts = np.unique(rows, axis=0, return_counts=True)
        if len(unique) < len(rows):
            first = unique[int(np.argmax(counts > 1))]
            which = ", ".join(f"{name} {value}" for name, value in zip(identity, first, strict=True))
            where = f" ({source} has it too)" if source != str(path) else ""
            raise InputError(
                f"{path}: group {block.group}: {which} occurs twice{where}; remove one, or list every file once"
            )
        parts.append(keys)
