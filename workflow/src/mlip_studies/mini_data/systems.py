"""Sampled geometries of one molecule or complex, kept as JSON so that labels can be rebuilt bit by bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import write_text
from mlip_studies.errors import InputError


@dataclass(frozen=True)
class System:
    """Geometries of one molecule or complex.

    Attributes:
        name: file name stem; letters, digits, dots and dashes.
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_frames, n_atoms, 3), Å, exactly as labelled.
        charge: total charge, elementary charges.
        tags: one word per frame on how it was made.
        info: further facts (SMILES, temperatures, ...), JSON-ready.
    """

    name: str
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    charge: int = 0
    tags: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.positions.ndim != 3 or self.positions.shape[1:] != (len(self.atomic_numbers), 3):
            raise InputError(
                f"{self.name}: positions have shape {self.positions.shape}, expected (n, {len(self.atomic_numbers)}, 3)"
            )
        if len(self.tags) != len(self.positions):
            raise InputError(f"{self.name}: {len(self.tags)} tags for {len(self.positions)} frames")

    def write(self, path: Path) -> None:
        """Write as JSON, one frame per line."""
        head = {
            "name": self.name,
            "charge": self.charge,
            "atomic_numbers": self.atomic_numbers.tolist(),
            "info": self.info,
            "tags": list(self.tags),
        }
        frames = ",\n".join(json.dumps(frame.tolist()) for frame in self.positions)
        write_text(path, json.dumps(head)[:-1] + f', "positions_angstrom": [\n{frames}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> System:
        """Read a file written by :meth:`write`.

        Raises:
            InputError: the file is not such a file.
        """
        try:
            raw = json.loads(Path(path).read_text())
            numbers = np.array(raw["atomic_numbers"], dtype=np.int64)
            positions = np.array(raw["positions_angstrom"], dtype=np.float64).reshape(-1, len(numbers), 3)
            return cls(raw["name"], numbers, positions, raw["charge"], tuple(raw["tags"]), raw["info"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not a file of geometries ({error}); make it anew with its rule") from error


def kabsch(positions: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and rotate a geometry onto a reference (unit weights).

    Args:
        positions: shape (n_atoms, 3), Å.
        reference: shape (n_atoms, 3), Å.

    Returns:
        shape (n_atoms, 3), Å. (W. Kabsch, Acta Cryst. A 32, 922 (1976).)
    """
    centred, target = positions - positions.mean(axis=0), reference - reference.mean(axis=0)
    u, _, vt = np.linalg.svd(centred.T @ target)
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    aligned: NDArray[np.float64] = centred @ u @ proper @ vt + reference.mean(axis=0)
    return aligned
