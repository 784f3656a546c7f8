"""Readers of public file layouts.

A reader is a generator function ``read(path, entry, block_rows)`` that yields :class:`~mlip_studies.data.store.Block`
objects in eV, Å and eV/Å; ``entry`` is the data set's entry of ``config/datasets.yaml``. A new reader needs one module
here and one line in :data:`READERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlip_studies.data.store import Block
from mlip_studies.errors import InputError
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV

Reader = Callable[[Path, Mapping[str, Any], int], Iterator[Block]]


@dataclass(frozen=True)
class ReaderSpec:
    """Where a reader lives and how its layout stores coordinates."""

    target: str
    positions_dtype: str

    def load(self) -> Reader:
        """Import the reader function."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)


READERS: dict[str, ReaderSpec] = {
    "ani1x": ReaderSpec("mlip_studies.data.readers.ani1x:read", "float32"),
    "md17": ReaderSpec("mlip_studies.data.readers.md17:read", "float64"),
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
