"""What the assemblies of the mini data sets share: labelled rows of all systems, their list, isolated atoms."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import atomic_path
from mlip_studies.elements import symbol
from mlip_studies.errors import InputError
from mlip_studies.mini_data.recipe import Recipe
from mlip_studies.mini_data.shards import Row, rows_of_system
from mlip_studies.mini_data.systems import System


@dataclass(frozen=True)
class Labelled:
    """The converged rows of a system.

    Attributes:
        system: all its geometries.
        index: frames that converged, shape (n,).
        rows: their labels, in order.
    """

    system: System
    index: NDArray[np.int64]
    rows: list[Row]

    @property
    def positions(self) -> NDArray[np.float64]:
        """Shape (n, n_atoms, 3), Å."""
        return self.system.positions[self.index]

    @property
    def energies(self) -> NDArray[np.float64]:
        """Total energies, shape (n,), hartree."""
        return np.array([row["energy"] for row in self.rows], dtype=np.float64)

    @property
    def forces(self) -> NDArray[np.float64]:
        """Total forces, shape (n, n_atoms, 3), hartree/Å."""
        shape = (len(self.rows), len(self.system.atomic_numbers), 3)
        return np.array([row["forces"] for row in self.rows], dtype=np.float64).reshape(shape)

    @property
    def dipoles(self) -> NDArray[np.float64]:
        """Shape (n, 3), e·Å, about the origin."""
        return np.array([row["dipole"] for row in self.rows], dtype=np.float64).reshape(-1, 3)

    def part(self, key: str) -> NDArray[np.float64]:
        """A part of the label, shape (n, ...), in hartree, hartree/Å or without unit."""
        return np.array([row["parts"][key] for row in self.rows], dtype=np.float64)


def labelled(recipe: Recipe, geometries: Path, shards: Iterable[Path], report: Path) -> list[Labelled]:
    """The converged rows of every system of a recipe; ``report`` lists all rows with their cost.

    Raises:
        InputError: rows are missing, or the geometries are not those of the recipe.
    """
    shards = list(shards)
    result, lines = [], []
    for entry in recipe["systems"]:
        system = System.load(geometries / f"{entry['name']}.json")
        rows = rows_of_system(system, shards)
        for row, tag in zip(rows, system.tags, strict=True):
            lines.append(
                {
                    "system": system.name,
                    "row": row["row"],
                    "sampling": tag,
                    "converged": row["converged"],
                    "seconds": round(row["seconds"], 2),
                    "cpu_seconds": round(row["cpu_seconds"], 2),
                }
            )
        index = [i for i, row in enumerate(rows) if row["converged"]]
        result.append(Labelled(system, np.array(index, dtype=np.int64), [rows[i] for i in index]))
    write_rows(report, lines)
    return result


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write dictionaries with the same keys as CSV."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def atom_energies(path: Path, level: str) -> dict[str, float]:
    """Energies (hartree) of the neutral isolated atoms at a level, from ``isolated_atoms.csv``.

    Raises:
        InputError: the file has no converged atom at this level.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        found = {
            row["element"]: float(row["energy_hartree"])
            for row in csv.DictReader(stream)
            if row["level"] == level and row["charge"] == "0" and row["converged"] == "True"
        }
    if not found:
        raise InputError(f"{path}: no isolated atoms at level {level!r}; run `snakemake mini_atoms`")
    return found


def sum_of_atoms(numbers: Iterable[int], energies: dict[str, float]) -> float:
    """Sum of the energies of the isolated neutral atoms (hartree).

    Raises:
        InputError: an element is missing.
    """
    try:
        return float(sum(energies[symbol(int(number))] for number in numbers))
    except KeyError as error:
        raise InputError(
            f"isolated atoms: no energy of {error.args[0]}; add it to config/mini_data/atoms.yaml"
        ) from None
