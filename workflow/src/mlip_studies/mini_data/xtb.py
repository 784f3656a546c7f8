"""Cheap geometries with GFN2-xTB (tblite): minima, dimers and trajectories.

GFN2-xTB only says where structures lie; every label of a mini data set comes from density functional theory.
(C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019).)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlip_studies.mini_data.systems import kabsch

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = NDArray[np.float64]


def _atoms(numbers: NDArray[np.integer], positions: FloatArray, charge: int) -> Atoms:
    from ase import Atoms
    from tblite.ase import TBLite

    atoms = Atoms(numbers=np.asarray(numbers), positions=positions)
    atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
    return atoms


def start_geometry(geometry: str) -> tuple[NDArray[np.int64], FloatArray]:
    """Atomic numbers (n,) and rough positions (n, 3), Å, from an ASE g2 name or from ``element x y z`` lines."""
    from ase import Atoms
    from ase.build import molecule

    if "\n" in geometry:
        rows = [line.split() for line in geometry.strip().splitlines()]
        atoms = Atoms([row[0] for row in rows], [[float(v) for v in row[1:]] for row in rows])
    else:
        atoms = molecule(geometry)
    return atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)


def relax(
    numbers: NDArray[np.integer], positions: FloatArray, charge: int = 0, steps: int = 400, tolerance: float = 5e-3
) -> tuple[FloatArray, float]:
    """Minimise a geometry; returns positions (n_atoms, 3) in Å and the energy in eV (largest force ``tolerance``)."""
    from ase.optimize import BFGS

    atoms = _atoms(numbers, positions, charge)
    BFGS(atoms, logfile=None).run(fmax=tolerance, steps=steps)
    return atoms.positions.copy(), float(atoms.get_potential_energy())


def trajectory(
    numbers: NDArray[np.integer],
    positions: FloatArray,
    temperature: float,
    seed: int,
    n_frames: int,
    stride_fs: float = 50.0,
    equilibration_fs: float = 1000.0,
    timestep_fs: float = 0.5,
    friction_per_fs: float = 0.01,
    charge: int = 0,
) -> Iterator[FloatArray]:
    """Frames of a Langevin trajectory, each rotated onto the start geometry.

    Args:
        numbers: shape (n_atoms,).
        positions: start geometry, shape (n_atoms, 3), Å.
        temperature: K.
        seed: of velocities and random forces.
        n_frames: number of frames.
        stride_fs: time between frames, fs.
        equilibration_fs: time before the first frame, fs.
        timestep_fs: fs.
        friction_per_fs: 1/fs.
        charge: total charge, elementary charges.

    Yields:
        positions of shape (n_atoms, 3), Å.
    """
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

    rng = np.random.RandomState(seed)
    atoms = _atoms(numbers, positions, charge)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms, timestep_fs * units.fs, temperature_K=temperature, friction=friction_per_fs / units.fs, rng=rng
    )
    dynamics.run(round(equilibration_fs / timestep_fs))
    for _ in range(n_frames):
        dynamics.run(round(stride_fs / timestep_fs))
        yield kabsch(atoms.positions, positions)


def best_dimer(
    first: tuple[NDArray[np.int64], FloatArray],
    second: tuple[NDArray[np.int64], FloatArray],
    seed: int,
    trials: int = 24,
    separation: float = 3.6,
) -> tuple[NDArray[np.int64], FloatArray]:
    """The lowest dimer found from randomly turned monomers.

    Args:
        first: atomic numbers (n,) and positions (n, 3), Å, of the first monomer.
        second: the same of the second.
        seed: of the orientations.
        trials: number of start orientations.
        separation: distance of the centroids at the start, Å.

    Returns:
        atomic numbers (n,) and positions (n, 3), Å, first monomer first.
    """
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    numbers = np.concatenate([first[0], second[0]])
    best, lowest = np.empty((0, 3)), np.inf
    for _ in range(trials):
        turned = [
            (xyz - xyz.mean(axis=0)) @ Rotation.from_quat(rng.normal(size=4)).as_matrix() for _, xyz in (first, second)
        ]
        start = np.vstack([turned[0], turned[1] + np.array([0.0, 0.0, separation])])
        positions, energy = relax(numbers, start, steps=150, tolerance=2e-2)
        if energy < lowest:
            best, lowest = positions, energy
    return numbers, relax(numbers, best)[0]
