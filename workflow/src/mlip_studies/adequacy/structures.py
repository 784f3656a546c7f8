"""One molecule at one geometry: what scans are made of and what evaluators read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlip_studies.elements import formula
from mlip_studies.errors import InputError


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule at one geometry; its arrays are its own and cannot be written to.

    Attributes:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        name: says which molecule and, where it has one, which point of a scan.
        charge: total charge, elementary charges.
        multiplicity: 2S + 1; 1 is a closed shell.
    """

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    name: str
    charge: int = 0
    multiplicity: int = 1

    def __post_init__(self) -> None:
        """Copy the arrays and check their shapes.

        Raises:
            InputError: shapes that do not agree, no atom, a position that is not finite, or a multiplicity below 1.
        """
        numbers = np.array(self.atomic_numbers, dtype=np.int64)
        positions = np.array(self.positions, dtype=np.float64)
        if numbers.ndim != 1 or not len(numbers) or positions.shape != (len(numbers), 3):
            raise InputError(
                f"structure {self.name}: atomic numbers {numbers.shape} and positions {positions.shape}; "
                "expected (n_atoms,) and (n_atoms, 3) with at least one atom"
            )
        if not np.isfinite(positions).all():
            raise InputError(f"structure {self.name}: a position is not finite; correct the geometry")
        if self.multiplicity < 1:
            raise InputError(f"structure {self.name}: multiplicity {self.multiplicity}; expected 2S + 1, at least 1")
        for each in (numbers, positions):
            each.flags.writeable = False
        object.__setattr__(self, "atomic_numbers", numbers)
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def formula(self) -> str:
        """Hill formula, for example ``C2H6O``."""
        return formula(self.atomic_numbers)

    def moved(self, positions: NDArray[np.float64], name: str | None = None) -> Structure:
        """The same molecule at other positions (n_atoms, 3), Å."""
        return Structure(self.atomic_numbers, positions, name or self.name, self.charge, self.multiplicity)


def net_force(forces: NDArray[np.float64]) -> float:
    """Norm of the sum of forces (n_atoms, 3), eV/Å."""
    return float(np.linalg.norm(forces.sum(axis=0)))


def net_torque(structure: Structure, forces: NDArray[np.float64]) -> float:
    """Norm of the sum of r x F about the centre of mass, eV, of forces (n_atoms, 3), eV/Å."""
    from ase.data import atomic_masses

    masses = atomic_masses[structure.atomic_numbers]
    arms = structure.positions - masses @ structure.positions / masses.sum()
    return float(np.linalg.norm(np.cross(arms, forces).sum(axis=0)))
