"""What is measured along trajectories: distances, temperature, conservation of energy.

h(r), the distribution of the distances of all pairs of atoms, and its mean absolute error, the integral of
|<h(r)> - <h_reference(r)>| over r, are those of X. Fu et al., "Forces are not enough", Transactions on Machine Learning
Research (2023), for molecules. The error lies between 0 (equal) and 2 (nothing in common).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.data.store import Store
from mlip_studies.elements import formula
from mlip_studies.errors import InputError
from mlip_studies.md.trajectory import Trajectory
from mlip_studies.runtime.options import check, read_options
from mlip_studies.units import BOLTZMANN_EV_PER_K, EV_TO_MEV

#: a mean temperature farther than this from the nominal one, relative to it, is flagged
TEMPERATURE_TOLERANCE = 0.10
#: blocks below which the spread of block means says nothing
_MIN_BLOCKS = 16
_FRAMES = 4096
_ERRORS = ("distance_mae", "distance_mae_low", "distance_mae_high")


def degrees_of_freedom(n_atoms: NDArray[np.integer], ensemble: str) -> NDArray[np.int64]:
    """Of the kinetic energy: 3 per atom, of which NVE keeps the centre of mass at rest (but for a single atom).

    Args:
        n_atoms: of each molecule, shape (n,).
        ensemble: ``nvt_langevin``, whose noise also moves the centre of mass, or ``nve``.
    """
    n = np.asarray(n_atoms, dtype=np.int64)
    return 3 * n - np.where((ensemble == "nve") & (n > 1), 3, 0)


def temperature_of(kinetic_ev: NDArray[np.float64], degrees: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """2 K / (f k_B), K, of kinetic energies of any shape, eV, with f degrees of freedom, of the same shape or one."""
    return 2.0 * np.asarray(kinetic_ev, dtype=np.float64) / (np.asarray(degrees) * BOLTZMANN_EV_PER_K)


def mean_and_error(values: NDArray[np.floating]) -> tuple[float, float]:
    """Mean of a correlated series and its standard error.

    The error is the largest over block lengths 1, 2, 4, … with at least 16 blocks (H. Flyvbjerg and H. G. Petersen,
    J. Chem. Phys. 91, 461 (1989)); NaN for fewer than 16 values.

    Args:
        values: shape (n,).
    """
    series = np.asarray(values, dtype=np.float64)
    if not len(series):
        return float("nan"), float("nan")
    mean, error = float(series.mean()), float("nan")
    while len(series) >= _MIN_BLOCKS:
        error = np.fmax(error, series.std(ddof=1) / np.sqrt(len(series)))
        even = len(series) // 2 * 2
        series = series[:even].reshape(-1, 2).mean(axis=1)
    return mean, float(error)


def temperature_is_off(mean_k: float, nominal_k: float) -> bool:
    """Whether a mean temperature is more than 10 % off the nominal one."""
    return bool(abs(mean_k - nominal_k) > TEMPERATURE_TOLERANCE * nominal_k)


def energy_drift(time_ps: NDArray[np.floating], total_ev: NDArray[np.floating], n_atoms: int) -> tuple[float, float]:
    """Drift and fluctuation of the total energy of one trajectory.

    Args:
        time_ps: shape (n,).
        total_ev: potential plus kinetic energy, shape (n,).
        n_atoms: of the molecule.

    Returns:
        slope of the least-squares line, meV/atom/ps, and root-mean-square deviation from it, meV/atom; NaN for fewer
        than 3 samples.
    """
    if len(total_ev) < 3:
        return float("nan"), float("nan")
    time = np.asarray(time_ps, dtype=np.float64) - np.mean(time_ps)
    energy = (np.asarray(total_ev, dtype=np.float64) - np.mean(total_ev)) * (EV_TO_MEV / n_atoms)
    slope = float(time @ energy / (time @ time))
    return slope, float(np.sqrt(np.mean(np.square(energy - slope * time))))


class DistanceHistogram:
    """Distances of all pairs of atoms, counted frame by frame in bins of equal width from 0 on.

    Attributes:
        width: of a bin, Å.
        n_frames: that were counted.
    """

    def __init__(self, bin_width_angstrom: float) -> None:
        """No frames yet.

        Args:
            bin_width_angstrom: width of a bin, Å.
        """
        self.width, self.n_frames = bin_width_angstrom, 0
        self._counts = np.zeros(0, dtype=np.int64)

    def add(self, positions: NDArray[np.floating]) -> None:
        """Count frames (n_frames, n_atoms, 3), Å."""
        self.n_frames += len(positions)
        i, j = np.triu_indices(positions.shape[1], 1)
        for first in range(0, len(positions), _FRAMES):
            part = np.asarray(positions[first : first + _FRAMES], dtype=np.float64)
            distance = np.linalg.norm(part[:, i] - part[:, j], axis=2)
            counts = np.bincount((distance / self.width).astype(np.int64).ravel())
            if len(counts) > len(self._counts):
                self._counts = np.concatenate([self._counts, np.zeros(len(counts) - len(self._counts), dtype=np.int64)])
            self._counts[: len(counts)] += counts

    def density(self, n_bins: int | None = None) -> NDArray[np.float64]:
        """h(r), 1/Å, whose integral is 1, shape (n_bins,); NaN without frames.

        Args:
            n_bins: as many bins as were filled if not given.
        """
        n = len(self._counts) if n_bins is None else n_bins
        counts = np.zeros(n)
        counts[: len(self._counts)] = self._counts[:n]
        total = self._counts.sum()
        return counts / (total * self.width) if total else np.full(n, np.nan)

    def __len__(self) -> int:
        """Number of bins up to the longest distance."""
        return len(self._counts)


def distance_error(one: DistanceHistogram, other: DistanceHistogram) -> float:
    """Integral of the absolute difference of two h(r) with the same bins, from 0 to 2."""
    n = max(len(one), len(other))
    return float(np.abs(one.density(n) - other.density(n)).sum() * one.width)


@dataclass(frozen=True)
class ReferenceConfig:
    """Frames to compare distances with, and how.

    Attributes:
        store: path of a canonical store; rows with the same atoms in the same order as a trajectory are its reference.
        rows: row numbers to choose from; all if not given.
        max_frames: at most so many, evenly spread.
        temperature_k: at which the frames were sampled, K, where that is known.
        bin_width_angstrom: of the histograms, Å.
    """

    store: str
    rows: Any = None
    max_frames: int = 20000
    temperature_k: float | None = None
    bin_width_angstrom: float = 0.05


def _reference_histogram(
    store: Store, config: ReferenceConfig, candidates: NDArray[np.int64], atomic_numbers: NDArray[np.integer]
) -> DistanceHistogram:
    """Frames of the store with just these atoms in this order."""
    histogram = DistanceHistogram(config.bin_width_angstrom)
    same_size = candidates[store.n_atoms(candidates) == len(atomic_numbers)]
    # One row says what atoms all rows of its group have.
    groups = store.groups(same_size)
    chosen = []
    for group in np.unique(groups):
        rows = same_size[groups == group]
        sample = store.read(rows[:1], positions=False, fidelities=(), forces=False)
        if np.array_equal(sample.atomic_numbers, atomic_numbers):
            chosen.append(rows)
    if not chosen:
        return histogram
    rows = np.sort(np.concatenate(chosen))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), config.max_frames)).round().astype(np.int64))]
    for part in store.iter_chunks(_FRAMES, rows, fidelities=(), forces=False):
        histogram.add(part.positions.reshape(len(part), -1, 3))
    return histogram


def write_observables(trajectory: PathLike, reference: ReferenceConfig | Mapping[str, Any], output: PathLike) -> None:
    """Table of the distributions of distances along dynamics and of the reference frames.

    Columns: job, run, formula, source (``md``, all replicas of one temperature together, or ``reference``),
    temperature (nominal, K; of the reference where known), n_frames, r_low and r_high (Å), density (1/Å), and on lines
    of ``md`` distance_mae, the error of this h(r) against the reference's, and distance_mae_low and _high, the smallest
    and largest error of a single replica's h(r); empty without reference frames of the same molecule.

    Args:
        trajectory: HDF5 file of :func:`mlip_studies.md.engine.run_md`.
        reference: frames to compare with.
        output: CSV file to write.

    Raises:
        InputError: missing or damaged inputs, or an unknown key of ``reference``.
    """
    import pandas as pd

    config = read_options(ReferenceConfig, reference, "md.reference")
    check(config.bin_width_angstrom > 0, "md.reference.bin_width_angstrom", "more than 0", config.bin_width_angstrom)
    check(config.max_frames > 0, "md.reference.max_frames", "at least 1", config.max_frames)
    tables = []
    with Trajectory(trajectory) as frames, Store(config.store) as store:
        labels = {key: frames.attributes["config"][key] for key in ("job", "run")}
        candidates = np.arange(store.n_rows) if config.rows is None else np.asarray(config.rows, dtype=np.int64)
        if len(candidates) and (candidates.min() < 0 or candidates.max() >= store.n_rows):
            raise InputError(f"md.reference.rows: rows beyond the {store.n_rows} of {config.store}; choose others")
        for members in _same_molecule(frames):
            numbers = frames.atomic_numbers(members[0])
            known = _reference_histogram(store, config, candidates, numbers)
            parts: list[tuple[str, float | None, DistanceHistogram, dict[str, float]]] = []
            if len(known):
                parts.append(("reference", config.temperature_k, known, {}))
            for temperature in dict.fromkeys(float(frames.temperature_k[index]) for index in members):
                chosen = [index for index in members if frames.temperature_k[index] == temperature]
                pooled, errors = _md_histogram(frames, chosen, known)
                if len(pooled):
                    parts.append(("md", temperature, pooled, errors))
            n_bins = max((len(histogram) for _, _, histogram, _ in parts), default=0)
            low = np.arange(n_bins) * config.bin_width_angstrom
            for source, kelvin, histogram, errors in parts:
                columns = {"source": source, "temperature": kelvin, "n_frames": histogram.n_frames, "r_low": low}
                columns |= {"r_high": low + config.bin_width_angstrom, "density": histogram.density(n_bins)}
                columns |= {name: errors.get(name) for name in _ERRORS}
                tables.append(pd.DataFrame({**labels, "formula": formula(numbers), **columns}))
    names = ["job", "run", "formula", "source", "temperature", "n_frames", "r_low", "r_high", "density", *_ERRORS]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)
    write_text(output, table.to_csv(index=False, float_format="%.8g"))


def _md_histogram(
    frames: Trajectory, chosen: Iterable[int], known: DistanceHistogram
) -> tuple[DistanceHistogram, dict[str, float]]:
    """Distances of some trajectories together, and the errors against the reference, theirs and each one's own."""
    pooled, single = DistanceHistogram(known.width), []
    for index in chosen:
        own = DistanceHistogram(known.width)
        positions = frames.positions(index)
        own.add(positions)
        pooled.add(positions)
        if len(own) and len(known):
            single.append(distance_error(own, known))
    if not single:
        return pooled, {}
    return pooled, dict(zip(_ERRORS, (distance_error(pooled, known), min(single), max(single)), strict=True))


def _same_molecule(frames: Trajectory) -> Iterable[list[int]]:
    """Numbers of the trajectories, by their atoms."""
    groups: dict[bytes, list[int]] = {}
    for index in range(len(frames)):
        groups.setdefault(frames.atomic_numbers(index).tobytes(), []).append(index)
    return groups.values()
