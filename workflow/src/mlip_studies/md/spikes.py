"""Forces along dynamics at constant energy, from the positions alone, and how much they change between samples.

Velocity Verlet gives x(t + h) - 2 x(t) + x(t - h) = h² F(t) / m exactly (L. Verlet, Phys. Rev. 159, 98, 1967), so that
positions that were kept at every step hold the forces; at larger intervals the second difference is their mean with a
triangular weight. Positions are float32, which limits the resolution; the table says to what. A potential energy with
a kink shows as changes that are much larger than the usual ones.
"""

from __future__ import annotations

import numpy as np
from ase import units
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.errors import InputError
from mlip_studies.md.trajectory import Trajectory

FS_PER_PS = 1000.0
#: amu Å/fs² in eV/Å: ASE's unit of time follows from eV, Å and amu
_FORCE_UNIT = 1.0 / units.fs**2
#: lines of the table per trajectory, at most; each is the largest change within its stretch of samples
TABLE_LINES = 20_000


def forces_from_positions(
    positions: NDArray[np.floating], masses: NDArray[np.float64], interval_fs: float
) -> NDArray[np.float64]:
    """Forces at the inner samples, shape (n_samples - 2, n_atoms, 3), eV/Å.

    Args:
        positions: relative to a centre that does not accelerate, Å, shape (n_samples, n_atoms, 3).
        masses: amu, shape (n_atoms,).
        interval_fs: time between samples, fs.
    """
    x = np.asarray(positions, dtype=np.float64)
    acceleration = (x[2:] - 2.0 * x[1:-1] + x[:-2]) / interval_fs**2
    return acceleration * masses[None, :, None] * _FORCE_UNIT


def resolution(positions: NDArray[np.floating], masses: NDArray[np.float64], interval_fs: float) -> float:
    """What the rounding of float32 positions may add to a change of a force component, at most, eV/Å.

    Args:
        positions: Å, shape (n_samples, n_atoms, 3).
        masses: amu, shape (n_atoms,).
        interval_fs: time between samples, fs.
    """
    rounding = 0.5 * np.spacing(np.abs(positions).max(axis=(0, 2)).astype(np.float32)).astype(np.float64)
    # A change of a second difference is the sum of 1, 3, 3, 1 positions, each rounded.
    return float((8.0 * rounding * masses).max() / interval_fs**2 * _FORCE_UNIT)


def write_spikes(trajectory: PathLike, output: PathLike) -> None:
    """Table of the largest force and the largest change of a force between successive samples.

    Columns: trajectory, time_ps, largest_force_ev_per_angstrom (norm, over the atoms),
    largest_force_change_ev_per_angstrom (norm of the change of an atom's force since the sample before, over the
    atoms), interval_fs, resolution_ev_per_angstrom.

    Args:
        trajectory: HDF5 file of dynamics at constant energy.
        output: path of the CSV file.

    Raises:
        InputError: a missing or damaged file, or dynamics with a thermostat, whose noise would count as force.
    """
    import pandas as pd
    from ase.data import atomic_masses

    tables = []
    with Trajectory(trajectory) as file:
        ensemble = file.attributes["config"]["ensemble"]
        if ensemble != "nve":
            raise InputError(f"{file.path}: dynamics with a thermostat ({ensemble}); forces need ensemble: nve")
        interval = float(np.diff(file.time_ps[:2])[0]) * FS_PER_PS if len(file.time_ps) > 1 else np.nan
        for index in range(len(file)):
            positions = file.positions(index)
            n = len(positions)
            masses = atomic_masses[file.atomic_numbers(index)]
            if n < 4:
                continue
            forces = forces_from_positions(positions, masses, interval)
            change = np.linalg.norm(np.diff(forces, axis=0), axis=2).max(axis=1)
            size = np.linalg.norm(forces[1:], axis=2).max(axis=1)
            time = file.time_ps[2 : n - 1]
            # The largest of every stretch, so that no spike is lost in a long table.
            starts = np.arange(0, len(change), -(-len(change) // TABLE_LINES))
            tables.append(
                pd.DataFrame(
                    {
                        "trajectory": index,
                        "time_ps": time[starts],
                        "largest_force_ev_per_angstrom": np.maximum.reduceat(size, starts),
                        "largest_force_change_ev_per_angstrom": np.maximum.reduceat(change, starts),
                        "interval_fs": interval,
                        "resolution_ev_per_angstrom": resolution(positions, masses, interval),
                    }
                )
            )
    if not tables:
        raise InputError(
            f"{trajectory}: no trajectory has four samples; lengthen md.time_ps or shorten sample_every_fs"
        )
    with atomic_path(output) as temporary:
        pd.concat(tables, ignore_index=True).to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")
