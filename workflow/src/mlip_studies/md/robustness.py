"""What became of the molecules of dynamics: first failure, and every change of their bonds, by trajectory.

S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022) speak of "holes" in a potential energy surface, by
which a trajectory leaves all that is reasonable, and of how many of them long dynamics meet; they do not say how to
find one. The rules here are ours. Radii are the covalent ones of B. Cordero et al., Dalton Trans. 2008, 2832; R is the
sum of two.

* Bonds are the pairs closer than 1.3 R in the start structure. One is broken from the sample on at which it is longer
  than 1.5 times its length there and than 1.3 R, until it is shorter than 1.3 R. A bond is formed between two other
  atoms from the sample on at which they are closer than 1.15 R, until they are farther apart than 1.3 R. Only what
  lasts for two samples counts: that is a failure ``topology``, and an event. Events less than 100 fs apart are one: a
  ring that opens breaks and makes several bonds.
* Fragments are connected by bonds that are not broken and by all pairs closer than 1.3 R. More of them than at the
  start for two samples are a failure ``fragments``.
* ``temperature``: the mean of the last 50 fs is more than 3 times the nominal temperature. For molecules of few atoms
  chance reaches that: for them it is the value that a temperature of so many degrees of freedom (chi-squared
  distributed) exceeds in one of 1e9 samples.
* ``energy``: the potential energy of two samples is more than 0.25 eV per atom below that of the start structure (more
  than molecules release by rearranging, as a rule, and the start is near a minimum), or more than 1 eV per atom above.
* ``collision``: two atoms are closer than 0.3 Å. ``not_finite``: the numbers became such that nothing could go on.

A proton that moves from one atom to another also is a change of bonds: at 1200 K some of them may be chemistry rather
than failure. The failure of a trajectory is the first of these in time; of those at the same time the first in
:data:`KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtri

from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.elements import formula, symbols
from mlip_studies.md.observables import degrees_of_freedom, temperature_of
from mlip_studies.md.trajectory import Trajectory
from mlip_studies.runtime.options import check, read_options
from mlip_studies.units import EV_TO_MEV

#: what a failure may be, those first that say most
KINDS = ("not_finite", "collision", "fragments", "topology", "energy", "temperature")
#: what the engine's reasons for an end are here
KIND_OF = {
    "not_finite": "not_finite",
    "collision": "collision",
    "broken_bond": "topology",
    "temperature": "temperature",
}
#: bytes of one block's distance vectors, about
_BLOCK_BYTES = 1 << 26
#: blocks of the error of a drift
_DRIFT_BLOCKS = 16
FS_PER_PS = 1000.0


@dataclass(frozen=True)
class RobustnessConfig:
    """Limits; see the module.

    Attributes:
        bond_factor: bonds at the start are shorter than this times R; also where a bond is whole again, or gone.
        broken_factor: a broken bond is longer than this times its length at the start.
        formed_factor: a new bond is shorter than this times R.
        sustained_samples: number of samples that a change must last.
        event_window_fs: changes closer than this belong to one event, fs.
        temperature_factor: largest mean temperature, in units of the nominal one.
        temperature_window_fs: over which the temperature is averaged, fs.
        temperature_tail: probability of a single sample to be above the limit by chance, for molecules of few atoms.
        energy_below_ev_per_atom: deepest potential energy below the start, eV per atom.
        energy_above_ev_per_atom: highest above it, eV per atom.
        collision_angstrom: smallest distance of two atoms, Å.
        topology_lines: lines per trajectory of the table of topologies, at most.
    """

    bond_factor: float = 1.3
    broken_factor: float = 1.5
    formed_factor: float = 1.15
    sustained_samples: int = 2
    event_window_fs: float = 100.0
    temperature_factor: float = 3.0
    temperature_window_fs: float = 50.0
    temperature_tail: float = 1e-9
    energy_below_ev_per_atom: float = 0.25
    energy_above_ev_per_atom: float = 1.0
    collision_angstrom: float = 0.3
    topology_lines: int = 500

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        for name, value in vars(self).items():
            check(math.isfinite(value) and value > 0, f"robustness.{name}", "more than 0", value)
        ordered = self.formed_factor < self.bond_factor
        check(ordered, "robustness.formed_factor", f"less than bond_factor of {self.bond_factor}", self.formed_factor)
        check(self.temperature_tail < 1, "robustness.temperature_tail", "less than 1", self.temperature_tail)


class _Topology:
    """Bonds of one molecule along a trajectory, block by block.

    Attributes:
        bonds: number of bonds at the start.
        n_start: fragments at the start.
        n_fragments, n_broken, n_formed, largest_change: of each sample so far; the last one in Å.
    """

    def __init__(self, numbers: NDArray[np.int64], positions: NDArray[np.float64], config: RobustnessConfig) -> None:
        from ase.data import covalent_radii

        self.config = config
        n = len(numbers)
        self._n = n
        self.i, self.j = np.triu_indices(n, 1)
        radii = covalent_radii[numbers]
        self._sum = radii[self.i] + radii[self.j]
        length = np.linalg.norm(positions[self.i] - positions[self.j], axis=1)
        self._bonded = length < config.bond_factor * self._sum
        self._far = config.bond_factor * self._sum
        self._length = length
        # Where a change begins: bonds that become long, others that become short.
        longest = np.maximum(config.broken_factor * length, self._far)
        self._begin = np.where(self._bonded, longest, config.formed_factor * self._sum)
        self._changed = np.zeros(len(self.i), dtype=bool)
        self._since = np.full(len(self.i), -1)
        self._first = 0
        self.n_start = self._components(np.zeros(len(self.i), dtype=bool), length < self._far)
        self._counts: dict[bytes, int] = {}
        self._parts: list[tuple[NDArray[Any], ...]] = []
        #: pair, first and last (exclusive) sample of each change that ended
        self._runs: list[NDArray[np.int64]] = []
        self.first_collision: int | None = None

    def _components(self, broken: NDArray[np.bool_], near: NDArray[np.bool_]) -> int:
        """Number of fragments."""
        edges = (self._bonded & ~broken) | near
        graph = coo_array((np.ones(int(edges.sum())), (self.i[edges], self.j[edges])), shape=(self._n, self._n))
        return int(connected_components(graph, directed=False, return_labels=False))

    def add(self, positions: NDArray[np.floating]) -> None:
        """The next samples, shape (n_frames, n_atoms, 3), Å; all finite."""
        n_frames, n_pairs = len(positions), len(self.i)
        if n_frames == 0:
            return
        x = positions.astype(np.float64)
        distance = np.linalg.norm(x[:, self.i] - x[:, self.j], axis=2)
        begins = np.where(self._bonded, distance > self._begin, distance < self._begin)
        ends = np.where(self._bonded, distance < self._far, distance > self._far)
        # Between the two limits a pair stays what it was.
        latest = np.where(begins | ends, np.arange(n_frames)[:, None], -1)
        latest = np.maximum.accumulate(latest, axis=0)
        changed = np.take_along_axis(begins, np.maximum(latest, 0), axis=0) if n_pairs else begins
        changed = np.where(latest >= 0, changed, self._changed)
        self._follow(changed)
        broken = changed & self._bonded
        fragments = np.full(n_frames, self.n_start)
        some = np.flatnonzero(broken.any(axis=1))
        if len(some):
            near = distance[some] < self._far
            keys = np.packbits((self._bonded & ~broken[some]) | near, axis=1)
            unique, rows, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
            found = np.zeros(len(unique), dtype=np.int64)
            for number, row in enumerate(rows):
                key = unique[number].tobytes()
                if key not in self._counts:
                    self._counts[key] = self._components(broken[some[row]], near[row])
                found[number] = self._counts[key]
            fragments[some] = found[inverse.reshape(-1)]
        bonded = self._bonded
        change = np.abs(distance[:, bonded] - self._length[bonded]).max(axis=1, initial=0.0)
        self._parts.append((fragments, broken.sum(axis=1), (changed & ~bonded).sum(axis=1), change))
        if self.first_collision is None and n_pairs:
            close = np.flatnonzero(distance.min(axis=1) < self.config.collision_angstrom)
            self.first_collision = self._first + int(close[0]) if len(close) else None
        self._first += n_frames

    def _follow(self, changed: NDArray[np.bool_]) -> None:
        """Note when pairs change, and change back."""
        before = np.concatenate([self._changed[None], changed[:-1]])
        begun = changed & ~before
        for sample, pair in np.argwhere(changed != before):
            if begun[sample, pair]:
                self._since[pair] = self._first + sample
            else:
                self._runs.append(np.array([pair, self._since[pair], self._first + sample]))
                self._since[pair] = -1
        self._changed = changed[-1].copy()

    def finish(self) -> None:
        """After the last sample."""
        columns = list(zip(*self._parts, strict=True)) if self._parts else [()] * 4
        kinds = (np.int64, np.int64, np.int64, np.float64)
        joined = [np.concatenate([np.zeros(0, kind), *parts]) for kind, parts in zip(kinds, columns, strict=True)]
        self.n_fragments, self.n_broken, self.n_formed = (values.astype(np.int64) for values in joined[:3])
        self.largest_change = joined[3]
        pending = np.flatnonzero(self._since >= 0)
        runs = [*self._runs, *(np.array([pair, self._since[pair], self._first]) for pair in pending)]
        table = np.stack(runs) if runs else np.zeros((0, 3), dtype=np.int64)
        table = table[table[:, 2] - table[:, 1] >= self.config.sustained_samples]
        self.events = table[np.argsort(table[:, 1], kind="stable")]

    def describe(self, pair: int, numbers: NDArray[np.int64]) -> str:
        """What happened to a pair."""
        names = symbols(numbers[[self.i[pair], self.j[pair]]])
        what = "broke" if self._bonded[pair] else "formed"
        return f"{names[0]}{self.i[pair]}-{names[1]}{self.j[pair]} {what}"


def _sustained(flags: NDArray[np.bool_], length: int) -> int | None:
    """First sample from which on ``flags`` holds for ``length`` samples in a row."""
    if len(flags) < length:
        return None
    total = np.concatenate([[0], np.cumsum(flags)])
    found = np.flatnonzero(total[length:] - total[:-length] == length)
    return int(found[0]) if len(found) else None


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of each value and the ``window - 1`` before it, as far as they exist, shape (n,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    slope: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return slope


def temperature_limit(degrees: int, config: RobustnessConfig | None = None) -> float:
    """Largest mean temperature of a molecule with so many degrees of freedom, in units of the nominal one."""
    config = config if config is not None else RobustnessConfig()
    return max(config.temperature_factor, float(chdtri(degrees, config.temperature_tail)) / degrees)


def drift_and_error(time_ps: NDArray[np.floating], total_ev: NDArray[np.floating], n_atoms: int) -> tuple[float, float]:
    """Slope of the total energy and its standard error, meV/atom/ps.

    The least-squares line is put through the means of 16 blocks, whose scatter about it makes the error: single samples
    are correlated. NaN for fewer than 64 samples.

    Args:
        time_ps: shape (n,).
        total_ev: shape (n,).
        n_atoms: of the molecule.
    """
    size = len(total_ev) // _DRIFT_BLOCKS
    if size < 4:
        return math.nan, math.nan
    kept = slice(len(total_ev) - size * _DRIFT_BLOCKS, None)
    time = np.asarray(time_ps, dtype=np.float64)[kept].reshape(_DRIFT_BLOCKS, size).mean(axis=1)
    # Relative to the first: total energies have many digits.
    energy = (
        (np.asarray(total_ev, dtype=np.float64)[kept] - total_ev[kept][0]).reshape(_DRIFT_BLOCKS, size).mean(axis=1)
    )
    time, energy = time - time.mean(), (energy - energy.mean()) * (EV_TO_MEV / n_atoms)
    slope = float(time @ energy / (time @ time))
    rest = float(np.square(energy - slope * time).sum()) / (_DRIFT_BLOCKS - 2)
    return slope, math.sqrt(rest / float(time @ time))


def write_robustness(
    trajectory: PathLike,
    robustness: PathLike,
    topology: PathLike,
    limits: RobustnessConfig | Mapping[str, Any] | None = None,
) -> None:
    """Tables of failures and of topologies along the trajectories of a file, which is read once, in blocks.

    Columns of ``robustness``, one line per trajectory: job, run, trajectory, start, name, formula, n_atoms,
    temperature_k (nominal), replica (of this start and temperature), n_samples (of a whole trajectory), n_missing
    (after its end, where that came early), observed_ps (until the last sample, or the end), failed, failure_ps (empty
    where it did not fail; 0 for failures of the thermalisation), failure_kind, detail, first_topology_ps,
    first_fragments_ps, first_temperature_ps, first_energy_ps, n_fragments_end, n_events, mean_temperature_k,
    max_temperature_k (of the running mean), max_potential_above_start_ev, energy_drift_mev_per_atom_ps and
    energy_drift_error_mev_per_atom_ps (NVE only, before the failure).

    Columns of ``topology``, at most ``topology_lines`` evenly spread samples of a trajectory: trajectory, time_ps,
    n_fragments, n_broken, n_formed, largest_bond_change_angstrom.

    Args:
        trajectory: HDF5 file of :func:`mlip_studies.md.engine.run_md`.
        robustness: CSV file.
        topology: CSV file.
        limits: values of :class:`RobustnessConfig`.

    Raises:
        InputError: a missing or damaged file, or an unknown or wrong limit.
    """
    import pandas as pd

    config = read_options(RobustnessConfig, limits if limits is not None else {}, "robustness")
    with Trajectory(trajectory) as file:
        watched = _watch(file, config)
        lines, tables = [], []
        replica: dict[tuple[int, float], int] = {}
        stride = max(1, math.ceil(len(file.time_ps) / config.topology_lines))
        for index, seen in enumerate(watched):
            key = (int(file.start[index]), float(file.temperature_k[index]))
            replica[key] = replica.get(key, -1) + 1
            lines.append(_line(file, index, replica[key], seen, config))
            chosen = slice(None, None, stride)
            columns = {
                "trajectory": index,
                "time_ps": file.time_ps[: len(seen.topology.n_broken)][chosen],
                "n_fragments": seen.topology.n_fragments[chosen],
                "n_broken": seen.topology.n_broken[chosen],
                "n_formed": seen.topology.n_formed[chosen],
                "largest_bond_change_angstrom": seen.topology.largest_change[chosen],
            }
            tables.append(pd.DataFrame(columns))
    write_text(topology, pd.concat(tables, ignore_index=True).to_csv(index=False, float_format="%.6g"))
    write_text(robustness, pd.DataFrame(lines).to_csv(index=False, float_format="%.10g"))


@dataclass
class _Seen:
    """One trajectory's topology, energies and temperature."""

    topology: _Topology
    potential: list[NDArray[np.float64]] = field(default_factory=list)
    kinetic: list[NDArray[np.float64]] = field(default_factory=list)


def _blocks(n_samples: int, n_pairs: int) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // max(1, 24 * n_pairs))
    for first in range(0, n_samples, size):
        yield slice(first, min(first + size, n_samples))


def _watch(file: Trajectory, config: RobustnessConfig) -> list[_Seen]:
    """Go through the file once."""
    watched = []
    for index in range(len(file)):
        start = file.start_positions(index)
        watched.append(_Seen(_Topology(file.atomic_numbers(index), start, config)))
    most = max(len(seen.topology.i) for seen in watched)
    for rows in _blocks(len(file.time_ps), most):
        positions, potential, kinetic = file.block(rows)
        for index, seen in enumerate(watched):
            there = max(0, min(int(file.n_valid[index]) - rows.start, rows.stop - rows.start))
            seen.topology.add(positions[:there, file.ptr[index] : file.ptr[index + 1]])
            seen.potential.append(potential[:there, index])
            seen.kinetic.append(kinetic[:there, index])
    for seen in watched:
        seen.topology.finish()
    return watched


def _line(file: Trajectory, index: int, replica: int, seen: _Seen, config: RobustnessConfig) -> dict[str, Any]:
    """One trajectory's line."""
    run = file.attributes["config"]
    numbers, n_atoms = file.atomic_numbers(index), len(file.atomic_numbers(index))
    nominal, time = float(file.temperature_k[index]), file.time_ps
    potential, kinetic = np.concatenate(seen.potential), np.concatenate(seen.kinetic)
    n = len(potential)
    interval_fs = float(time[1] - time[0]) * FS_PER_PS if len(time) > 1 else config.temperature_window_fs
    degrees = int(degrees_of_freedom(np.array([n_atoms]), run["ensemble"])[0])
    kelvin = temperature_of(kinetic, degrees)
    smooth = running_mean(kelvin, max(1, round(config.temperature_window_fs / interval_fs)))
    above = potential - file.start_potential_ev(index)
    topology = seen.topology
    # A start at rest has no temperature to compare with.
    limit = temperature_limit(degrees, config) * nominal if nominal > 0 else math.inf
    hot = np.flatnonzero(smooth > limit)
    runaway = (above < -config.energy_below_ev_per_atom * n_atoms) | (above > config.energy_above_ev_per_atom * n_atoms)
    sustained = config.sustained_samples
    first: dict[str, int | None] = {
        "collision": topology.first_collision,
        "fragments": _sustained(topology.n_fragments > topology.n_start, sustained),
        "topology": int(topology.events[0, 1]) if len(topology.events) else None,
        "energy": _sustained(runaway, sustained),
        "temperature": int(hot[0]) if len(hot) else None,
    }
    times = {kind: float(time[sample]) for kind, sample in first.items() if sample is not None}
    details = _details(first, topology, numbers, above, smooth)
    observed = float(time[n - 1]) if n else 0.0
    end = file.ends.get(index)
    if end is not None:
        kind, at = KIND_OF[end["reason"]], max(0.0, float(end["time_ps"]))
        observed = max(observed, at)
        if at < times.get(kind, math.inf):
            times[kind], details[kind] = at, end["detail"]
    failure = min(times.values(), default=math.nan)
    kind = next((kind for kind in KINDS if times.get(kind) == failure), "")
    whole = n if not times else int(np.searchsorted(time[:n], failure))
    drift = (math.nan, math.nan)
    if run["ensemble"] == "nve":
        drift = drift_and_error(time[:whole], (potential + kinetic)[:whole], n_atoms)
    return {
        "job": run["job"],
        "run": run["run"],
        "trajectory": index,
        "start": int(file.start[index]),
        "name": file.names[index],
        "formula": formula(numbers),
        "n_atoms": n_atoms,
        "temperature_k": nominal,
        "replica": replica,
        "n_samples": len(time),
        "n_missing": len(time) - n,
        "observed_ps": observed,
        "failed": bool(times),
        "failure_ps": failure,
        "failure_kind": kind,
        "detail": details.get(kind, ""),
        **{
            f"first_{name}_ps": times.get(name, math.nan) for name in ("topology", "fragments", "temperature", "energy")
        },
        "n_fragments_end": int(topology.n_fragments[-1]) if n else math.nan,
        "n_events": _count_events(time[topology.events[:, 1]], config.event_window_fs / FS_PER_PS),
        "mean_temperature_k": float(kelvin.mean()) if n else math.nan,
        "max_temperature_k": float(smooth.max()) if n else math.nan,
        "max_potential_above_start_ev": float(above.max()) if n else math.nan,
        "energy_drift_mev_per_atom_ps": drift[0],
        "energy_drift_error_mev_per_atom_ps": drift[1],
    }


def _count_events(times_ps: NDArray[np.float64], window_ps: float) -> int:
    """Number of changes, those closer than the window to the first of an event being part of it."""
    count, begun = 0, -math.inf
    for time in times_ps:
        if time - begun >= window_ps:
            count, begun = count + 1, float(time)
    return count


def _details(
    first: Mapping[str, int | None],
    topology: _Topology,
    numbers: NDArray[np.int64],
    above: NDArray[np.float64],
    smooth: NDArray[np.float64],
) -> dict[str, str]:
    """What happened, in words."""
    result = {}
    if first["collision"] is not None:
        result["collision"] = f"two atoms closer than {topology.config.collision_angstrom:g} Å"
    if first["fragments"] is not None:
        result["fragments"] = (
            f"{int(topology.n_fragments[first['fragments']])} fragments, {topology.n_start} at the start"
        )
    if first["topology"] is not None:
        together = topology.events[topology.events[:, 1] == first["topology"], 0]
        shown = [topology.describe(int(pair), numbers) for pair in together[:3]]
        result["topology"] = "; ".join(shown) + (f" and {len(together) - 3} more" if len(together) > 3 else "")
    if first["energy"] is not None:
        result["energy"] = f"potential energy {above[first['energy']]:+.2f} eV from the start"
    if first["temperature"] is not None:
        result["temperature"] = f"mean temperature of {smooth[first['temperature']]:.0f} K"
    return result
