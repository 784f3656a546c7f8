"""Density-functional curves of scans, to compare potentials with.

Every point is calculated in a process of its own with one thread (:mod:`mlip_studies.dft.child`) and kept in the state
folder as it is finished; a run that was killed goes on with the missing points. A point that does not converge, takes
too long or too much memory is marked, and the others go on.

Where bonds break (diatomics, bond scans, cyclobutadiene near the square, the double bond of fluoroallene) a point is
calculated restricted and in broken symmetry, diatomics of open-shell atoms also as a triplet
(:mod:`mlip_studies.dft.open_shell`), and the lowest is the reference. All states start from free atoms first; then each
point starts anew from the orbitals of its neighbours along the coordinate and keeps what is lower, in sweeps over all
points at once, so that the result depends neither on the order nor on the number of processes. Other scans are
restricted, and only what did not converge starts anew from neighbours.

Points whose molecules are congruent or mirror images (water at a and 360° - a, cyclobutadiene with x and y exchanged)
are calculated once. Scans that move the whole molecule are calculated at every point: there the residual of the
integration grid is what is looked at.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.adequacy.scans import Scan, read_scan
from mlip_studies.adequacy.structures import net_force, net_torque
from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of, write_text
from mlip_studies.dft import open_shell as calculation
from mlip_studies.dft.atoms import ground_state_spin
from mlip_studies.dft.child import Outcome, WorkerPool
from mlip_studies.dft.dispersion import FREE_ATOMS
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.open_shell import PAIRED_S_SQUARED, STATES
from mlip_studies.dft.run import build_molecule
from mlip_studies.elements import symbol
from mlip_studies.errors import InputError
from mlip_studies.runtime.journal import Journal, Row, ended_by_lower_limit
from mlip_studies.runtime.options import check, did_you_mean, read_options
from mlip_studies.runtime.state import JobState, Requeue, StopRequest, disk_errors
from mlip_studies.units import HARTREE_TO_EV

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: what the workers call
TARGET = f"{calculation.__name__}:{calculation.calculate.__name__}"
WHERE_BONDS_BREAK = "both where bonds break"
METHODS = (WHERE_BONDS_BREAK, "both", "restricted")
#: kinds of scans, and molecules, in which electron pairs separate
BREAKING_KINDS = ("diatomic", "bond", "stretch", "surface")
BREAKING_MOLECULES = ("fluoroallene",)
#: kinds that move the whole molecule
RIGID_KINDS = ("rotation", "translation")
#: distances of congruent molecules agree to, Å
CONGRUENT_ANGSTROM = 1e-6
SHARD = "points.jsonl"
#: seconds between two lines of progress
LOG_SECONDS = 30.0
#: statuses of points: those of evaluators
STATUSES = ("ok", "not_converged", "failed", "unsupported")
_STATE_COLUMNS = ("energy_ev", "relative_energy_ev", "s_squared", "converged")
COLUMNS = (
    "point", "coordinate", "energy_ev", "relative_energy_ev", "status", "message", "net_force_ev_per_angstrom",
    "net_torque_ev", "max_force", "method", "s_squared", "converged", "cycles", "stable", "guess", "sweep",
    *(f"{state}_{column}" for state in STATES for column in _STATE_COLUMNS),
    "atoms_energy_ev", "same_as", "seconds", "cpu_seconds", "level", "scan",
)  # fmt: skip


@dataclass(frozen=True)
class ReferenceConfig:
    """How a curve is calculated.

    Attributes:
        level: name in :data:`~mlip_studies.dft.levels.DFT_LEVELS`.
        method: one of :data:`METHODS`.
        workers: processes of one thread; changes no result.
        time_limit_s: wall time of a point with all its states, s.
        memory_limit_mb: resident memory of a process, MiB.
        sweeps: times that points start anew from their neighbours.
        every: every how many points of the scan are calculated, of a surface along both axes; the last one always is.
        forces: compute forces of the lowest state.
        use_symmetry: calculate congruent points once, in scans that change the shape of the molecule.
        max_basis_functions: larger molecules are listed as unsupported; None for no limit.
    """

    level: str
    method: str = WHERE_BONDS_BREAK
    workers: int = 1
    time_limit_s: float = 1800.0
    memory_limit_mb: float = 4000.0
    sweeps: int = 2
    every: int = 1
    forces: bool = False
    use_symmetry: bool = True
    max_basis_functions: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        if self.level not in DFT_LEVELS:
            raise InputError(f"reference.level: unknown level {self.level!r}{did_you_mean(self.level, DFT_LEVELS)}")
        check(self.method in METHODS, "reference.method", f"one of {', '.join(METHODS)}", self.method)
        for name, smallest in (("workers", 1), ("every", 1), ("sweeps", 0)):
            check(getattr(self, name) >= smallest, f"reference.{name}", f"at least {smallest}", getattr(self, name))
        for name in ("time_limit_s", "memory_limit_mb"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"reference.{name}", "more than 0", value)
        limit = self.max_basis_functions
        check(limit is None or limit >= 1, "reference.max_basis_functions", "at least 1 or none", limit)


def states_of(scan: Scan, method: str = WHERE_BONDS_BREAK) -> tuple[str, ...]:
    """Spin states that the points of a scan are calculated in, names in :data:`~mlip_studies.dft.open_shell.STATES`.

    Args:
        scan: the scan.
        method: one of :data:`METHODS`.
    """
    breaks = scan.kind in BREAKING_KINDS or scan.molecule in BREAKING_MOLECULES
    if method == "restricted" or (method == WHERE_BONDS_BREAK and not breaks):
        return ("restricted",)
    atoms = scan.structures[0].atomic_numbers
    # Two triplet atoms make a triplet molecule in O2 and Si2; it does not end at them, the broken-symmetry state does.
    if scan.kind == "diatomic" and all(ground_state_spin(symbol(int(z))) >= 2 for z in atoms):
        return ("restricted", "broken_symmetry", "triplet")
    return ("restricted", "broken_symmetry")


def calculated_points(scan: Scan, every: int = 1) -> IntArray:
    """Points of a scan that are calculated, shape (n,), ascending; every n-th and the last, of a surface on both axes.

    Of two parts that are drawn apart they lie closer at the start, where the well is: as many, evenly in the logarithm
    of their number.
    """

    def thinned(count: int) -> set[int]:
        if scan.kind in ("diatomic", "bond") and every > 1:
            return set((np.geomspace(1, count, -(-count // every) + 1).round().astype(int) - 1).tolist())
        return {*range(0, count, every), count - 1}

    if scan.kind == "surface":
        _, x = np.unique(scan.columns["x_angstrom"], return_inverse=True)
        _, y = np.unique(scan.columns["y_angstrom"], return_inverse=True)
        kept = np.isin(x, list(thinned(int(x.max()) + 1))) & np.isin(y, list(thinned(int(y.max()) + 1)))
        return np.flatnonzero(kept).astype(np.int64)
    return np.array(sorted(thinned(len(scan))), dtype=np.int64)


def neighbours_of(scan: Scan, points: IntArray) -> dict[int, tuple[int, ...]]:
    """Those next to each point among some points (n,) of a scan, of a surface along both axes."""
    if scan.kind == "surface":
        _, x = np.unique(scan.columns["x_angstrom"][points], return_inverse=True)
        _, y = np.unique(scan.columns["y_angstrom"][points], return_inverse=True)
        at = {(int(i), int(j)): int(point) for i, j, point in zip(x, y, points, strict=True)}
        near = ((-1, 0), (0, -1), (0, 1), (1, 0))
        return {
            point: tuple(at[i + di, j + dj] for di, dj in near if (i + di, j + dj) in at)
            for (i, j), point in at.items()
        }
    order = [int(point) for point in points]
    return {
        point: tuple(order[j] for j in (index - 1, index + 1) if 0 <= j < len(order))
        for index, point in enumerate(order)
    }


def congruent(numbers: IntArray, first: FloatArray, second: FloatArray) -> bool:
    """Whether two geometries of one molecule have the same distances in some order of like atoms (or a mirror image).

    Args:
        numbers: atomic numbers, shape (n_atoms,).
        first: shape (n_atoms, 3), Å.
        second: shape (n_atoms, 3), Å.
    """
    a, b = (np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (first, second))
    n = len(numbers)
    # The order of the file is the likeliest one.
    partner: list[int] = []

    def fits(atom: int, other: int) -> bool:
        if numbers[atom] != numbers[other] or other in partner:
            return False
        return bool(np.all(np.abs(a[atom, :atom] - b[other, partner]) < CONGRUENT_ANGSTROM)) if partner else True

    def extend() -> bool:
        atom = len(partner)
        if atom == n:
            return True
        for other in sorted(range(n), key=lambda each: each != atom):
            if fits(atom, other):
                partner.append(other)
                if extend():
                    return True
                partner.pop()
        return False

    return extend()


def equal_points(scan: Scan, points: IntArray) -> dict[int, int]:
    """For each of some points (n,) the first one that is congruent to it, maybe itself."""
    numbers = scan.structures[0].atomic_numbers
    i, j = np.triu_indices(len(numbers), 1)
    pair = np.sort(np.array([numbers[i], numbers[j]]), axis=0)
    kind = pair[0] * 1000 + pair[1]
    result: dict[int, int] = {}
    found: list[int] = []
    spectra = np.zeros((0, len(i)))
    for point in (int(each) for each in points):
        positions = scan.structures[point].positions
        distance = np.linalg.norm(positions[i] - positions[j], axis=1)
        spectrum = distance[np.lexsort((distance, kind))]
        near = np.flatnonzero(np.abs(spectra - spectrum).max(axis=1, initial=0.0) < CONGRUENT_ANGSTROM)
        for each in near:
            if congruent(numbers, scan.structures[found[each]].positions, positions):
                result[point] = found[each]
                break
        else:
            result[point] = point
            found.append(point)
            spectra = np.vstack([spectra, spectrum])
    return result


def unsupported(scan: Scan, config: ReferenceConfig) -> str | None:
    """Why a scan cannot be calculated at a level, None if it can."""
    structure = scan.structures[0]
    level = DFT_LEVELS[config.level]
    for z in sorted({int(z) for z in structure.atomic_numbers}):
        if level.dispersion == "mbd" and symbol(z) not in FREE_ATOMS:
            return f"{config.level} has no dispersion parameters for {symbol(z)}"
        try:
            build_molecule(np.array([z]), np.zeros((1, 3)), level.basis, level.cartesian, spin=z % 2)
        except (KeyError, RuntimeError, ValueError) as error:
            return f"{config.level} has no basis for {symbol(z)} ({' '.join(str(error).split())})"
    try:
        mol = build_molecule(
            structure.atomic_numbers, structure.positions, level.basis, level.cartesian, structure.charge
        )
    except (RuntimeError, ValueError) as error:
        return " ".join(str(error).split())
    limit = config.max_basis_functions
    if limit is not None and mol.nao > limit:
        return f"{mol.nao} basis functions, more than max_basis_functions ({limit}): run it where there is room"
    return None


class _Shard(Journal):
    """Finished points and isolated atoms."""

    def __init__(self, path: Path, config: ReferenceConfig) -> None:
        self.points: dict[tuple[int, int], Row] = {}
        self.atoms: dict[str, Row] = {}
        super().__init__(path, lambda row: _counts(row, config), self._file)
        self.resumed = len(self.points)

    def _file(self, row: Row) -> None:
        if "element" in row:
            self.atoms[str(row["element"])] = row
        else:
            self.points[int(row["point"]), int(row["sweep"])] = row


def _counts(row: Row, config: ReferenceConfig) -> bool:
    """Whether a row of an earlier run counts; what a limit ended is tried again under a higher one."""
    if "element" not in row:
        int(row["point"]), int(row["sweep"])
    return not ended_by_lower_limit(row["ended"], row, config.time_limit_s, config.memory_limit_mb)


class _Best:
    """The lowest field of each state at each point, over the sweeps."""

    def __init__(self, folder: Path) -> None:
        self.states: dict[int, dict[str, dict[str, Any]]] = {}
        self.improved: set[int] = set()
        self._folder = folder

    def orbitals(self, point: int, sweep: int) -> Path:
        """File of the orbitals that a task writes."""
        return self._folder / f"{point}-{sweep}.npz"

    def take(self, row: Mapping[str, Any]) -> None:
        """Consider a finished task."""
        mine = self.states.setdefault(row["point"], {})
        for name, state in row["states"].items():
            before = mine.get(name)
            if before is None or (state["converged"] and not before["energy"] <= state["energy"]):
                mine[name] = {**state, "sweep": row["sweep"]}
                if state["converged"]:
                    self.improved.add(row["point"])

    def next_sweep(self) -> set[int]:
        """Points that got a lower field since this was asked last."""
        improved, self.improved = self.improved, set()
        return improved


def reference_curve(
    scan_npz: PathLike,
    level: str,
    output: PathLike,
    state_root: PathLike,
    code: str = "",
    workers: int = 1,
    method: str = WHERE_BONDS_BREAK,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Calculate the curve of a scan and write it; resumes from ``state_root`` after a kill.

    The table has one line per calculated point, :data:`COLUMNS` (and those of a surface's axes). ``energy_ev`` is that
    of the lowest converged state, ``method`` its name; the energies of all states stand beside it, all relative to the
    same zero: the scan's ``reference`` among the lowest states, ``minimum`` or ``first`` point, or for ``atoms`` free
    atoms in their ground states, ``atoms_energy_ev`` in all. ``method`` is ``restricted`` too where the
    broken-symmetry field is the restricted one (<S^2> < 1e-4). ``same_as`` is the congruent point that a line was
    copied from, -1 for a line of its own. Forces lie in an .npz file beside it if asked for
    (``forces_ev_per_angstrom``, shape (n_atoms, 3) per line, one after the other; ``ptr``).

    Args:
        scan_npz: file of :func:`~mlip_studies.adequacy.scans.write_scan`.
        level: name in :data:`~mlip_studies.dft.levels.DFT_LEVELS`.
        output: the .csv file to write.
        state_root: folder for the resumable state of this curve.
        code: hash of the code that a state must have been made with to be resumed.
        workers: processes of one thread.
        method: one of :data:`METHODS`.
        settings: further fields of :class:`ReferenceConfig`.

    Returns:
        ``scan``, ``level``, ``n_points``, ``counts`` by status, ``methods`` by name, ``calculated`` (points),
        ``resumed`` (tasks) and ``core_hours``.

    Raises:
        InputError: missing or damaged scan, a wrong setting, or a full disk.
        Requeue: the run was told to stop; the state is saved.
    """
    config = read_options(
        ReferenceConfig, {**(settings or {}), "level": level, "workers": workers, "method": method}, "reference"
    )
    scan = read_scan(require(scan_npz))
    points = calculated_points(scan, config.every)
    states = states_of(scan, config.method)
    reason = unsupported(scan, config)
    shared = config.use_symmetry and scan.kind not in RIGID_KINDS
    same = equal_points(scan, points) if shared and reason is None else {int(point): int(point) for point in points}
    # Limits, workers and thinning are left out: what is finished stays finished under others.
    content = {"level": level, "states": states, "forces": config.forces, "scan": sha256_of(scan_npz), "code": code}
    content["geometry"] = [shared, config.every]
    label = f"{scan.name} at {level}"
    output = Path(output)
    with (
        disk_errors(output.parent),
        JobState(Path(state_root), content) as state,
        StopRequest() as stop,
        closing(_Shard(state.folder / SHARD, config)) as shard,
    ):
        if state.started_fresh_because_changed and not shard.points:
            print("the settings, scan or code changed since the saved state: starting anew", flush=True)
        if shard.resumed:
            print(f"{label}: going on, {shard.resumed} calculations are done", flush=True)
        best = _Best(state.folder / "orbitals")
        if reason is None:
            pool = WorkerPool(TARGET, config.workers, config.time_limit_s, config.memory_limit_mb, state.folder)
            with pool:
                work = _Work(scan, config, states, sorted(set(same.values())), shard, best, label)
                if not work.run(pool, state, stop):
                    print(f"{label}: {stop.name}: {len(shard.points)} calculations are done; run again to go on")
                    raise Requeue
        summary = _write(scan, config, points, same, shard, best, reason, output)
        state.remove()
    return summary


class _Work:
    """The tasks of a curve: atoms and all points from atoms, then sweeps from neighbours."""

    def __init__(
        self,
        scan: Scan,
        config: ReferenceConfig,
        states: tuple[str, ...],
        points: list[int],
        shard: _Shard,
        best: _Best,
        label: str,
    ) -> None:
        self.scan, self.config, self.states, self.points = scan, config, states, points
        self.shard, self.best, self.label = shard, best, label
        self.near = neighbours_of(scan, np.array(sorted(points), dtype=np.int64))
        if scan.kind == "surface":
            # Congruent points are gone, so that those next to each other are still steps of the surface.
            everything = neighbours_of(scan, calculated_points(scan, config.every))
            self.near = {point: tuple(j for j in everything[point] if j in set(points)) for point in points}

    def run(self, pool: WorkerPool, state: JobState, stop: StopRequest) -> bool:
        """Do what is missing; False if it was told to stop."""
        elements = self._elements()
        for sweep in range(self.config.sweeps + 1):
            changed = self.best.next_sweep()
            payloads = {point: self._task(point, sweep, changed) for point in self._wanted(sweep, changed)}
            wanted = [point for point, payload in payloads.items() if not sweep or payload["neighbours"]]
            tasks: list[tuple[Any, Any]] = [
                ((point, sweep), payloads[point])
                for point in wanted
                if (point, sweep) not in self.shard.points or not self._whole(point, sweep)
            ]
            if sweep == 0:
                missing = [name for name in elements if name not in self.shard.atoms]
                tasks += [(name, {"element": name, "level": self.config.level}) for name in missing]
            last = time.monotonic()
            for done, outcome in enumerate(pool.run(tasks, lambda: stop.name is not None), start=1):
                state.check()
                self.shard.add(_row(outcome, self.config))
                if time.monotonic() - last > LOG_SECONDS:
                    last = time.monotonic()
                    print(f"{self.label}, sweep {sweep}: {done}/{len(tasks)}", flush=True)
            atoms_done = all(name in self.shard.atoms for name in elements)
            if not atoms_done or any((point, sweep) not in self.shard.points for point in wanted):
                return False
            # In the order of the points, so that equal energies are decided alike in every run.
            for point in wanted:
                self.best.take(self.shard.points[point, sweep])
        return True

    def _elements(self) -> list[str]:
        if self.scan.reference != "atoms":
            return []
        return [symbol(z) for z in sorted({int(z) for z in self.scan.structures[0].atomic_numbers})]

    def _whole(self, point: int, sweep: int) -> bool:
        """Whether the orbitals that a finished task names are there."""
        found = any(state["converged"] for state in self.shard.points[point, sweep]["states"].values())
        return not found or self.best.orbitals(point, sweep).exists()

    def _wanted(self, sweep: int, changed: set[int]) -> list[int]:
        if sweep == 0:
            return self.points
        stale = [point for point in self.points if any(j in changed for j in self.near[point])]
        if len(self.states) > 1:
            return stale
        return [point for point in stale if not self._converged(point)]

    def _converged(self, point: int) -> bool:
        return any(state["converged"] for state in self.best.states.get(point, {}).values())

    def _task(self, point: int, sweep: int, changed: set[int]) -> dict[str, Any]:
        structure = self.scan.structures[point]
        mine = self.best.states.get(point, {})
        neighbours: dict[str, list[tuple[str, str]]] = {}
        for j in self.near[point] if sweep else ():
            for name, state in self.best.states.get(j, {}).items():
                # The paired field of a neighbour adds nothing to the restricted one.
                paired = name == "broken_symmetry" and state["converged"] and state["s_squared"] < PAIRED_S_SQUARED
                if j in changed and state["converged"] and not paired:
                    path = self.best.orbitals(j, state["sweep"])
                    neighbours.setdefault(name, []).append((f"point {j}", str(path)))
        known = {name: state["energy"] for name, state in mine.items() if state["converged"]}
        if "restricted" in known:
            # A broken-symmetry field is worth its name only below the restricted one.
            known["broken_symmetry"] = min(known.get("broken_symmetry", math.inf), known["restricted"])
        return {
            "atomic_numbers": structure.atomic_numbers,
            "positions": structure.positions,
            "charge": structure.charge,
            "level": self.config.level,
            "states": self.states,
            "neighbours": neighbours,
            "known": known,
            "forces": self.config.forces,
            "orbitals": str(self.best.orbitals(point, sweep)),
            "memory_limit_mb": self.config.memory_limit_mb,
        }


def _row(outcome: Outcome, config: ReferenceConfig) -> dict[str, Any]:
    """A task's outcome as a line of the shard, hartree and hartree/Å as they come.

    Raises:
        InputError: the disk of the scratch files is full, which says nothing about the point.
    """
    if os.strerror(errno.ENOSPC) in outcome.detail:
        raise InputError(f"no room for scratch files ({outcome.detail}); set TMPDIR to a larger disk and run again")
    limits = {"time_limit_s": config.time_limit_s, "memory_limit_mb": config.memory_limit_mb}
    row = {"ended": outcome.status, "detail": outcome.detail, "seconds": outcome.seconds, **limits}
    row["cpu_seconds"] = outcome.cpu_seconds
    if isinstance(outcome.key, str):
        nothing = {"energy": math.nan, "status": outcome.status}
        return {"element": outcome.key, **(outcome.value or nothing), **row}
    states = outcome.value["states"] if outcome.status == "done" else {}
    for state in states.values():
        if state["forces"] is not None:
            state["forces"] = np.asarray(state["forces"]).tolist()
    return {"point": outcome.key[0], "sweep": outcome.key[1], "states": states, **row}


def lowest_state(states: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Name of the converged state of the lowest energy, the restricted one among equals; None if none converged.

    Args:
        states: by name, with ``converged``, ``energy`` (hartree) and ``s_squared``.
    """
    converged = {name: state for name, state in states.items() if state["converged"]}
    if not converged:
        return None
    name = min(converged, key=lambda each: (converged[each]["energy"], list(STATES).index(each)))
    paired = name == "broken_symmetry" and converged[name]["s_squared"] < PAIRED_S_SQUARED
    return "restricted" if paired and "restricted" in converged else name


def _line(
    scan: Scan,
    point: int,
    source: int,
    rows: Sequence[Mapping[str, Any]],
    states: Mapping[str, Any],
    reason: str | None,
) -> dict[str, Any]:
    """A line of the table without relative energies."""
    line: dict[str, Any] = {
        "point": point, "coordinate": float(scan.coordinate[point]), "same_as": -1 if source == point else source,
        "scan": scan.name, "message": "", "method": "", "status": "ok", "converged": False, "guess": "", "sweep": -1,
        "cycles": sum(state["cycles"] for state in states.values()), "stable": math.nan,
        **{key: sum(row[key] for row in rows) if source == point else 0.0 for key in ("seconds", "cpu_seconds")},
        **{key: math.nan for key in ("energy_ev", "s_squared")},
        **{key: math.nan for key in ("net_force_ev_per_angstrom", "net_torque_ev", "max_force")},
    }  # fmt: skip
    line |= {name: float(values[point]) for name, values in scan.columns.items()}
    for name in STATES:
        state = states.get(name)
        line[f"{name}_converged"] = state is not None and state["converged"]
        line[f"{name}_energy_ev"] = state["energy"] * HARTREE_TO_EV if state is not None else math.nan
        line[f"{name}_s_squared"] = state["s_squared"] if state is not None else math.nan
    if reason is not None:
        return {**line, "status": "unsupported", "message": reason}
    found = lowest_state(states)
    if found is None:
        # What ended the first calculation says why there is no number; later ones had nothing to start from.
        ended = rows[0]["ended"] if rows else "done"
        details = [state["detail"] for state in states.values() if state["detail"]]
        line["status"] = "not_converged" if ended == "done" else "failed"
        line["message"] = (details or ["no field converged"])[0] if ended == "done" else f"{ended}: {rows[0]['detail']}"
        return line
    state = states[found]
    line |= {"method": found, "converged": True, "energy_ev": state["energy"] * HARTREE_TO_EV}
    line |= {key: state[key] for key in ("s_squared", "guess", "sweep")}
    line["stable"] = math.nan if state["stable"] is None else float(state["stable"])
    if state["stable"] is False:
        line["message"] = "a lower field may exist: the softest orbital rotation could not be followed"
    return line


def _write(
    scan: Scan,
    config: ReferenceConfig,
    points: IntArray,
    same: Mapping[int, int],
    shard: _Shard,
    best: _Best,
    reason: str | None,
    output: Path,
) -> dict[str, Any]:
    """The outputs and the summary."""
    import pandas as pd

    lines, forces = [], []
    for point in (int(each) for each in points):
        source = same[point]
        rows = [row for (each, _), row in sorted(shard.points.items()) if each == source]
        states = best.states.get(source, {})
        line = _line(scan, point, source, rows, states, reason)
        found = lowest_state(states)
        structure = scan.structures[point]
        force = np.full((len(structure), 3), np.nan)
        # Those of a congruent molecule belong to other directions and another order of the atoms.
        if found is not None and config.forces and source == point:
            force = np.array(states[found]["forces"]) * HARTREE_TO_EV
            line |= {
                "net_force_ev_per_angstrom": net_force(force),
                "net_torque_ev": net_torque(structure, force),
                "max_force": float(np.linalg.norm(force, axis=1).max()),
            }
        forces.append(force)
        lines.append(line)
    table = pd.DataFrame(lines)
    atoms = math.nan
    if scan.reference == "atoms" and reason is None:
        energies = {name: row["energy"] * HARTREE_TO_EV for name, row in shard.atoms.items()}
        atoms = sum(energies[symbol(int(z))] for z in scan.structures[0].atomic_numbers)
        if not math.isfinite(atoms):
            print(f"warning: a free atom of {scan.name} did not converge at {config.level}: no relative energies")
    zero = atoms if scan.reference == "atoms" else _zero(table["energy_ev"].to_numpy(dtype=np.float64), scan.reference)
    table["level"], table["atoms_energy_ev"] = config.level, atoms
    table["relative_energy_ev"] = table["energy_ev"] - zero
    for name in STATES:
        table[f"{name}_relative_energy_ev"] = table[f"{name}_energy_ev"] - zero
    if config.forces:
        with atomic_path(output.with_suffix(".npz")) as temporary:
            ptr = np.cumsum([0, *(len(each) for each in forces)])
            np.savez(temporary, forces_ev_per_angstrom=np.concatenate(forces), ptr=ptr, point=points)
    write_text(output, table[[*COLUMNS, *scan.columns]].to_csv(index=False))
    used = table[table["status"] == "ok"]
    return {
        "scan": scan.name,
        "level": config.level,
        "n_points": len(table),
        "counts": {str(key): int(value) for key, value in table["status"].value_counts().items()},
        "methods": {str(key): int(value) for key, value in used["method"].value_counts().items()},
        "calculated": len(set(same.values())) if reason is None else 0,
        "resumed": shard.resumed,
        "core_hours": sum(row["seconds"] for row in shard.points.values()) / 3600.0,
    }


def _zero(energy: FloatArray, reference: str) -> float:
    if not np.isfinite(energy).any():
        return math.nan
    return float(energy[0]) if reference == "first" else float(np.nanmin(energy))


def describe(summary: Mapping[str, Any]) -> str:
    """One line about a summary."""
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items())
    methods = ", ".join(f"{count} {name}" for name, count in summary["methods"].items()) or "none"
    return (
        f"{summary['scan']} at {summary['level']}: {summary['n_points']} points ({counts}), "
        f"{summary['calculated']} calculated; lowest state: {methods}; {summary['core_hours']:.3f} core-hours"
    )
