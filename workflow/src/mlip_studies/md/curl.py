"""Whether forces are the gradient of an energy: their Jacobian, their work around loops, and the gradient itself.

Forces that are the gradient of anything have a symmetric Jacobian dF/dR and do no work around a closed loop. A head of
its own for the forces promises neither, and dynamics with it then have no energy that could be conserved. Three numbers
per geometry say how far from it the forces are:

* ``asymmetry``: ||J - Jᵀ|| / ||J + Jᵀ||, J = dF/dR by automatic differentiation, Frobenius norms; 0 for a gradient, and
  about 1 for a matrix of random numbers.
* ``loop_work_ev``: work F·dl done on the molecule around a circle in the space of all 3N coordinates, with radius
  0.2 Å (root of the sum of all squares) and the geometry as its centre, in a plane drawn with a seed. All atoms move,
  their mean position does not. ``loop_path_ev`` is the sum of the absolute values along it, ``loop_error_ev`` the
  difference to the work with half the points: the forces of a network with ReLU jump if they are a gradient, and a sum
  over points meets jumps with an error of the order of one over their number.
* ``gradient_error``: ||F + dE/dR|| / ||dE/dR||, with the energy that the same network predicts.

Everything is in double precision, so that rounding is no part of the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.data.named_splits import load_named_split
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.md.start import Molecule
from mlip_studies.models.checks import check_molecule
from mlip_studies.models.potential import Potential, load_potential

COLUMNS = (
    "seed", "structure", "n_atoms", "asymmetry", "loop_work_ev", "loop_error_ev", "loop_path_ev", "gradient_error",
)  # fmt: skip
#: Å, and number of points of the loop, even
LOOP_RADIUS = 0.2
LOOP_POINTS = 256
#: atoms of one batch
ATOMS_AT_ONCE = 512


@dataclass(frozen=True)
class ForceField:
    """What is known of the forces at one geometry.

    Attributes:
        forces: shape (n, 3), eV/Å.
        gradient: dE/dR, shape (n, 3), eV/Å.
        jacobian: dF/dR, rows forces, shape (3n, 3n), eV/Å².
    """

    forces: NDArray[np.float64]
    gradient: NDArray[np.float64]
    jacobian: NDArray[np.float64]

    @property
    def asymmetry(self) -> float:
        """||J - Jᵀ|| / ||J + Jᵀ||; NaN without any forces."""
        symmetric = float(np.linalg.norm(self.jacobian + self.jacobian.T))
        return float(np.linalg.norm(self.jacobian - self.jacobian.T)) / symmetric if symmetric else float("nan")

    @property
    def gradient_error(self) -> float:
        """||F + dE/dR|| / ||dE/dR||; NaN where the energy has no gradient."""
        size = float(np.linalg.norm(self.gradient))
        return float(np.linalg.norm(self.forces + self.gradient)) / size if size else float("nan")


def force_field(potential: Potential, molecule: Molecule) -> ForceField:
    """Forces, gradient and Jacobian at a geometry, in the potential's precision.

    Args:
        potential: any, best in double precision.
        molecule: one geometry.
    """
    batch = make_batch(
        [(molecule.atomic_numbers, molecule.positions)], potential.cutoff, potential.device, potential.dtype
    )
    positions = batch.positions.detach().requires_grad_(True)
    moved = batch.with_positions(positions)
    with torch.enable_grad():
        energy = potential(moved).sum()
        gradient = _slope(energy, positions, not potential.direct_forces)
        # A force head is differentiated itself; the usual way to gradient forces detaches the positions.
        forces = potential.energy_and_forces(moved, create_graph=True)[1] if potential.direct_forces else -gradient
        rows = [_slope(value, positions, False, keep=True).flatten() for value in forces.flatten()]
    return ForceField(_array(forces), _array(gradient), _array(torch.stack(rows)))


def _slope(value: Tensor, positions: Tensor, create_graph: bool, keep: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (slope,) = torch.autograd.grad(
        value, positions, create_graph=create_graph, retain_graph=create_graph or keep, allow_unused=True
    )
    return torch.zeros_like(positions) if slope is None else slope


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()


def loop(
    positions: NDArray[np.float64], seed: int = 0, radius: float = LOOP_RADIUS, n_points: int = LOOP_POINTS
) -> NDArray[np.float64]:
    """Geometries around a circle in the space of all coordinates, in a random plane.

    Args:
        positions: centre, shape (n, 3), Å.
        seed: of the plane.
        radius: root of the sum of all squared displacements, Å.
        n_points: how many; the last joins the first.

    Returns:
        shape (n_points, n, 3), Å.
    """
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(2, *positions.shape))
    plane -= plane.mean(axis=1, keepdims=True)
    # One atom cannot move without its centre of mass; it goes around in space.
    if len(positions) == 1:
        plane = rng.normal(size=(2, 1, 3))
    flat, _ = np.linalg.qr(plane.reshape(2, -1).T)
    first, second = flat.T.reshape(2, *positions.shape)
    angle = np.arange(n_points) * (2.0 * np.pi / n_points)
    circle: NDArray[np.float64] = positions + radius * (
        np.cos(angle)[:, None, None] * first + np.sin(angle)[:, None, None] * second
    )
    return circle


@dataclass(frozen=True)
class LoopWork:
    """Work around a closed loop.

    Attributes:
        work: eV.
        error: difference to the work with every other point, eV.
        path: sum of the absolute values along the loop, eV.
    """

    work: float
    error: float
    path: float


def loop_work(potential: Potential, molecule: Molecule, seed: int = 0) -> LoopWork:
    """Work of the forces around the loop.

    Args:
        potential: any, best in double precision.
        molecule: geometry at the loop's centre.
        seed: of the loop's plane.
    """
    points = loop(molecule.positions, seed)
    forces = []
    at_once = max(1, ATOMS_AT_ONCE // len(molecule.atomic_numbers))
    for start in range(0, len(points), at_once):
        some = [(molecule.atomic_numbers, geometry) for geometry in points[start : start + at_once]]
        batch = make_batch(some, potential.cutoff, potential.device, potential.dtype)
        forces.append(_array(potential.energy_and_forces(batch)[1]).reshape(len(some), -1, 3))
    whole, half = (_pieces(points[::step], np.concatenate(forces)[::step]) for step in (1, 2))
    work = float(whole.sum())
    return LoopWork(work, abs(work - float(half.sum())), float(np.abs(whole).sum()))


def _pieces(points: NDArray[np.float64], forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Work at each point with the chord between its neighbours: the rule of trapezoids around a closed curve."""
    chords = 0.5 * (np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0))
    work: NDArray[np.float64] = (forces * chords).sum(axis=(1, 2))
    return work


def report(potential: Potential, structures: Sequence[Molecule], seed: int = 0) -> list[dict[str, Any]]:
    """One line per geometry, see the module; all but ``seed``.

    Args:
        potential: is converted to double precision.
        structures: geometries.
        seed: of the loops' planes.

    Raises:
        InputError: an element that the potential does not know, or numbers that are not finite.
    """
    potential = potential.to(dtype=torch.float64)
    rows = []
    for molecule in structures:
        check_molecule(molecule.atomic_numbers, molecule.positions, potential.elements, name=molecule.name)
        field = force_field(potential, molecule)
        if not np.isfinite(field.jacobian).all():
            raise InputError(f"{potential.name}: derivatives of the forces of {molecule.name} are not finite numbers")
        around = loop_work(potential, molecule, seed)
        rows.append(
            {
                "structure": molecule.name,
                "n_atoms": len(molecule.atomic_numbers),
                "asymmetry": field.asymmetry,
                "loop_work_ev": around.work,
                "loop_error_ev": around.error,
                "loop_path_ev": around.path,
                "gradient_error": field.gradient_error,
            }
        )
    return rows


def _seed_of(path: Path, index: int) -> int:
    found = re.fullmatch(r"seed(\d+)", path.parent.name)
    return int(found.group(1)) if found else index


def drawn_structures(store: PathLike, split: PathLike, rows: int, seed: int) -> list[Molecule]:
    """Molecules of at least two atoms of the test part of a split, drawn with a seed; in the order of the store.

    Args:
        store: canonical store.
        split: row numbers of its parts.
        rows: how many; all if there are fewer.
        seed: of the draw.

    Raises:
        InputError: a missing or damaged file, or no such molecule.
    """
    with Store(store) as opened:
        test = load_named_split(split, opened).test
        test = test[np.diff(opened.ptr)[test] > 1]
        if not len(test):
            raise InputError(f"{split}: no molecule of two or more atoms in the test part; make another split")
        chosen = np.sort(np.random.default_rng(seed).choice(test, min(rows, len(test)), replace=False))
        names = [str(row) for row in chosen]
        read = opened.read(chosen, fidelities=(), forces=False)
        labels = [f"{opened.group_names[group]} (row {row})" for group, row in zip(read.group, names, strict=True)]
    result = []
    for index, name in enumerate(labels):
        numbers, positions = read.molecule(index)
        result.append(Molecule(numbers.astype(np.int64), positions.astype(np.float64), name))
    return result


def force_field_report(
    potentials: Sequence[PathLike],
    structures: Sequence[Molecule],
    output: PathLike,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Examine the forces of all seeds of a run and write a CSV, see the module for its columns.

    ``seed`` of the CSV is the number of the folder ``seed<k>`` that a potential lies in, else its place in the list.

    Args:
        potentials: files of trained potentials.
        structures: geometries.
        output: path of the CSV file.
        seed: of the loops' planes.
        threads: CPU threads.
        device: cpu or cuda.

    Raises:
        InputError: nothing to look at, a missing or damaged file, or an element that a potential does not know.
    """
    torch.set_num_threads(threads)
    if not structures or not potentials:
        raise InputError(f"{output}: {len(potentials)} potentials and {len(structures)} structures; expected some")
    lines = []
    for index, path in enumerate(map(Path, potentials)):
        potential, _ = load_potential(path, device, torch.float64)
        lines += [{"seed": _seed_of(path, index), **row} for row in report(potential, structures, seed)]
    with atomic_path(output) as temporary:
        pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
