"""Labels of many molecular frames at a Kohn-Sham level: each converges or not, and none stops the others.

A frame gets one status:

* ``converged``: plain DIIS converged within ``max_cycle`` cycles, from PySCF's guess; the share of these is the
  convergence rate of the level on the frames;
* ``converged_fallback``: a further step of the ladder did (:mod:`mlip_studies.dft.ladder`);
* ``unconverged``: no step did, or the many-body dispersion has no solution;
* ``nan_geometry``, ``bad_geometry`` (atoms within 0.1 Å), ``odd_electrons``: nothing to calculate. Molecules are
  uncharged and closed-shell, so an odd number of electrons has no restricted field;
* ``timeout``, ``out_of_memory``, ``crashed``: the calculation was ended or ended itself.

Every calculation runs in a process of its own with one thread (:mod:`mlip_studies.dft.child`), the largest molecules
first, so that no core waits for a long one at the end. Finished rows are appended to a file in the state folder; a run
that was killed goes on with the rows that are missing. A configuration looks like this; paths are relative to the
working directory::

    frames: results/full/stocker/checks/thermal/qm7x-gemnet_q-isolated_atoms-n3200/frames.npz
    level: pbe0+mbd/def2-tzvp
    workers: 16
    time_limit_s: 1800
    memory_limit_mb: 4000
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of, write_text
from mlip_studies.dft import ladder as calculation
from mlip_studies.dft.child import Outcome, WorkerPool
from mlip_studies.dft.dispersion import FREE_ATOMS
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.run import build_molecule, gpu_available
from mlip_studies.elements import formula, number, symbol
from mlip_studies.errors import InputError
from mlip_studies.runtime.command import read_command_line
from mlip_studies.runtime.journal import Journal, Row, ended_by_lower_limit
from mlip_studies.runtime.options import check, did_you_mean, read_options, read_options_file
from mlip_studies.runtime.state import JobState, Requeue, StopRequest, disk_errors
from mlip_studies.units import HARTREE_TO_EV

#: what the workers call
TARGET = f"{calculation.__name__}:{calculation.calculate.__name__}"
BACKENDS = ("auto", "cpu", "gpu")
STATUSES = (
    "converged", "converged_fallback", "unconverged", "bad_geometry", "nan_geometry", "odd_electrons", "timeout",
    "out_of_memory", "crashed",
)  # fmt: skip
CONVERGED = ("converged", "converged_fallback")
#: statuses of frames that were not calculated
NO_CALCULATION = ("bad_geometry", "nan_geometry", "odd_electrons")
#: atoms that are closer lie on top of each other, Å
MIN_DISTANCE_ANGSTROM = 0.1
#: atoms closer than this times the sum of their covalent radii belong to one fragment
BOND_FACTOR = 1.3
BATCH_LOG_SECONDS = 30.0
SHARD = "rows.jsonl"
COLUMNS = (
    "frame", "trajectory", "start", "name", "formula", "n_atoms", "temperature_k", "time_ps", "status", "strategy",
    "cycles", "plain_energy_ev", "energy_ev", "energy_scf_ev", "energy_mbd_ev", "seconds", "cpu_seconds", "max_rss_mb",
    "n_basis", "n_fragments", "level", "backend", "attempts", "detail",
)  # fmt: skip


@dataclass(frozen=True)
class SpotCheckConfig:
    """Everything that defines a run.

    Attributes:
        frames: file of the frames (:func:`read_frames`).
        level: name in :data:`~mlip_studies.dft.levels.DFT_LEVELS`; it says whether many-body dispersion belongs to it.
        workers: processes of one thread; changes no result.
        time_limit_s: wall time of a calculation, with all steps of the ladder and forces, s.
        memory_limit_mb: resident memory of a process, MiB.
        max_cycle: limit of plain DIIS.
        ladder: try again what plain DIIS does not converge.
        forces: compute forces of converged frames.
        backend: ``cpu``, ``gpu`` (gpu4pyscf) or ``auto``: a GPU if gpu4pyscf and a device are there.
    """

    frames: str
    level: str
    workers: int = 1
    time_limit_s: float = 1800.0
    memory_limit_mb: float = 4000.0
    max_cycle: int = 50
    ladder: bool = True
    forces: bool = True
    backend: str = "auto"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        if self.level not in DFT_LEVELS:
            raise InputError(f"spot_check.level: unknown level {self.level!r}{did_you_mean(self.level, DFT_LEVELS)}")
        check(self.workers >= 1, "spot_check.workers", "at least 1", self.workers)
        check(self.max_cycle >= 1, "spot_check.max_cycle", "at least 1", self.max_cycle)
        for name in ("time_limit_s", "memory_limit_mb"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"spot_check.{name}", "more than 0", value)
        check(self.backend in BACKENDS, "spot_check.backend", f"one of {', '.join(BACKENDS)}", self.backend)

    @property
    def mbd(self) -> bool:
        """Whether many-body dispersion belongs to the level."""
        return DFT_LEVELS[self.level].dispersion == "mbd"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpotCheckConfig:
        """Build from plain values.

        Raises:
            InputError: an unknown or missing key, or a wrong value.
        """
        return read_options(cls, values, "spot_check")

    @classmethod
    def from_yaml(cls, path: PathLike) -> SpotCheckConfig:
        """Read a YAML file.

        Raises:
            InputError: no such file, not YAML, or a wrong key in it.
        """
        return read_options_file(cls.from_dict, path)


@dataclass(frozen=True)
class SpotCheckOutputs:
    """Files that a run writes, both in the order of the frames.

    Attributes:
        labels_npz: arrays ``ptr`` (n_frames + 1,), ``energy_ev``, ``energy_scf_ev`` and ``mbd_energy_ev`` (n_frames,),
            ``forces_ev_per_angstrom`` (n_atoms_total, 3), all NaN where a frame did not converge; ``level``,
            ``frames_sha256``; and the isolated atoms of all elements at the level, ``atomic_numbers_isolated`` and
            ``energies_isolated_ev`` (NaN if unconverged).
        labels_csv: one line per frame, :data:`COLUMNS`. ``strategy`` is the step of the ladder that converged,
            ``cycles`` counts those of all steps, ``plain_energy_ev`` is that of the last cycle of plain DIIS (without
            many-body dispersion; it means nothing if it did not converge). ``seconds`` is the wall time of the process,
            thus of one core; ``n_fragments`` comes from the geometry alone.
    """

    labels_npz: Path
    labels_csv: Path

    @classmethod
    def in_folder(cls, folder: PathLike) -> SpotCheckOutputs:
        """The usual names in a folder."""
        return cls(Path(folder) / "labels.npz", Path(folder) / "labels.csv")


@dataclass(frozen=True)
class Frames:
    """Molecular frames one after the other.

    Attributes:
        atomic_numbers: shape (n_atoms_total,).
        ptr: offsets of the frames, shape (n_frames + 1,).
        positions: shape (n_atoms_total, 3), Å.
        trajectory: trajectory of each frame, -1 if it has none, shape (n_frames,).
        start: its start structure, -1 if it has none, shape (n_frames,).
        temperature_k: nominal, NaN if there is none, shape (n_frames,).
        time_ps: NaN if there is none, shape (n_frames,).
        names: name of each frame's molecule, shape (n_frames,).
    """

    atomic_numbers: NDArray[np.int64]
    ptr: NDArray[np.int64]
    positions: NDArray[np.float64]
    trajectory: NDArray[np.int64]
    start: NDArray[np.int64]
    temperature_k: NDArray[np.float64]
    time_ps: NDArray[np.float64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.ptr) - 1

    def frame(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Atomic numbers (n_atoms,) and positions (n_atoms, 3) in Å of a frame."""
        part = slice(self.ptr[index], self.ptr[index + 1])
        return self.atomic_numbers[part], self.positions[part]

    def digest(self) -> str:
        """SHA-256 of the molecules and geometries."""
        result = hashlib.sha256()
        for values in (self.atomic_numbers, self.ptr, self.positions):
            result.update(np.ascontiguousarray(values).tobytes())
        return result.hexdigest()


def read_frames(path: PathLike) -> Frames:
    """Read frames from a .npz file.

    Args:
        path: holds ``atomic_numbers`` (n_atoms_total,), ``ptr`` (n_frames + 1,), ``positions`` (n_atoms_total, 3) in Å
            and, as far as known, ``trajectory``, ``start``, ``temperature_k`` and ``time_ps`` (n_frames,) and ``name``,
            of each frame or of each start structure.

    Raises:
        InputError: no such file, damaged, or its arrays do not fit.
    """
    path = require(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path}: not a readable .npz file ({error}); sample the frames again") from error
    missing = [key for key in ("atomic_numbers", "ptr", "positions") if key not in arrays]
    if missing:
        raise InputError(f"{path}: array {missing[0]!r} is missing; sample the frames again")
    ptr = arrays["ptr"].astype(np.int64).reshape(-1)
    numbers = arrays["atomic_numbers"].astype(np.int64).reshape(-1)
    positions = arrays["positions"].astype(np.float64)
    whole = len(ptr) >= 1 and ptr[0] == 0 and ptr[-1] == len(numbers) and (np.diff(ptr) > 0).all()
    if not whole or positions.shape != (len(numbers), 3):
        raise InputError(f"{path}: `ptr`, `atomic_numbers` and `positions` do not fit; sample the frames again")
    n = len(ptr) - 1

    def column(key: str, missing: float, kind: type) -> NDArray[Any]:
        values: NDArray[Any] = arrays.get(key, np.full(n, missing)).astype(kind)
        if values.shape != (n,):
            raise InputError(f"{path}: `{key}` has shape {values.shape}, expected ({n},); sample the frames again")
        return values

    start = column("start", -1, np.int64)
    names = [str(each) for each in arrays.get("name", np.full(n, "")).reshape(-1)]
    if len(names) != n:
        if n and (start.min() < 0 or start.max() >= len(names)):
            raise InputError(f"{path}: `name` has {len(names)} entries, expected {n}; sample the frames again")
        names = [names[index] for index in start]
    return Frames(
        numbers,
        ptr,
        positions,
        column("trajectory", -1, np.int64),
        start,
        column("temperature_k", math.nan, np.float64),
        column("time_ps", math.nan, np.float64),
        tuple(names),
    )


def geometry_status(atomic_numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> str:
    """Why there is nothing to calculate, one of :data:`NO_CALCULATION`, or nothing.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
    """
    if not np.isfinite(positions).all():
        return "nan_geometry"
    if len(positions) > 1:
        i, j = np.triu_indices(len(positions), 1)
        if np.linalg.norm(positions[i] - positions[j], axis=1).min() < MIN_DISTANCE_ANGSTROM:
            return "bad_geometry"
    return "odd_electrons" if int(np.sum(atomic_numbers)) % 2 else ""


def count_fragments(atomic_numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> int:
    """Number of groups of atoms that are held together, 0 if positions are not finite.

    Atoms closer than 1.3 times the sum of their covalent radii (B. Cordero et al., Dalton Trans. 2008, 2832) belong
    together.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
    """
    from ase.data import covalent_radii
    from scipy.sparse.csgraph import connected_components

    if not np.isfinite(positions).all():
        return 0
    radii = covalent_radii[np.asarray(atomic_numbers)]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return int(connected_components(distance < BOND_FACTOR * (radii[:, None] + radii[None]), directed=False)[0])


def basis_sizes(elements: Sequence[int], level: str) -> dict[int, int]:
    """Number of basis functions of each element at a level.

    Args:
        elements: atomic numbers.
        level: name of the level.

    Raises:
        InputError: the level does not know an element.
    """
    found, sizes = DFT_LEVELS[level], {}
    for z in elements:
        try:
            mol = build_molecule(np.array([z]), np.zeros((1, 3)), found.basis, found.cartesian, spin=z % 2)
        except (KeyError, RuntimeError, ValueError) as error:
            detail = " ".join(str(error).split())
            raise InputError(f"element {symbol(z)}: {level} has no basis for it ({detail})") from error
        if found.dispersion == "mbd" and symbol(z) not in FREE_ATOMS:
            known = ", ".join(FREE_ATOMS)
            raise InputError(f"element {symbol(z)}: {level} has no dispersion parameters for it; expected only {known}")
        sizes[z] = int(mol.nao)
    return sizes


class _Rows(Journal):
    """Finished frames and isolated atoms."""

    def __init__(self, path: Path, config: SpotCheckConfig) -> None:
        self.frames: dict[int, Row] = {}
        self.atoms: dict[str, Row] = {}
        super().__init__(path, lambda row: _counts(row, config), self._file)
        self.resumed = len(self.frames)

    def _file(self, row: Row) -> None:
        if "element" in row:
            self.atoms[str(row["element"])] = row
        else:
            self.frames[int(row["frame"])] = row


def _counts(row: Row, config: SpotCheckConfig) -> bool:
    """Whether a row of an earlier run counts; frames that a limit ended are tried again under a higher one."""
    if "element" in row:
        return row["status"] not in ("timeout", "out_of_memory")
    int(row["frame"])
    return not ended_by_lower_limit(row["status"], row, config.time_limit_s, config.memory_limit_mb)


class _Progress:
    """A bar on a terminal, one line now and then in a batch log."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.done = label, total, done
        self.counts: dict[str, int] = {}
        self._bar: Any = None
        self._last = self._began = time.monotonic()
        self._first = done

    def __enter__(self) -> _Progress:
        if sys.stdout.isatty():
            from rich.progress import Progress

            self._bar = Progress()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def finished(self, status: str) -> None:
        """Count a row."""
        self.done += 1
        self.counts[status] = self.counts.get(status, 0) + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if now - self._last < BATCH_LOG_SECONDS:
            return
        self._last = now
        rate = 60.0 * (self.done - self._first) / (now - self._began)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        print(f"{self.label}: {self.done}/{self.total} frames, {rate:.1f} per minute; {counts}", flush=True)


def run_spot_checks(
    config: SpotCheckConfig, outputs: SpotCheckOutputs, state_root: PathLike, code: str = ""
) -> dict[str, Any]:
    """Label frames and write the outputs; resumes from ``state_root`` after a kill.

    Args:
        config: the run.
        outputs: files to write.
        state_root: folder for the resumable state of this run.
        code: hash of the code that a state must have been made with to be resumed.

    Returns:
        ``n_frames``, ``counts`` by status, ``plain_converged`` and ``ladder_converged`` (shares of the frames),
        ``cost`` (by number of atoms: calculations, mean seconds, calculations per core-hour), ``core_hours``,
        ``level``, ``backend`` and ``resumed_frames``.

    Raises:
        InputError: missing or damaged inputs, an element that the level does not know, no GPU where one is asked for,
            or a full disk.
        Requeue: the run was told to stop; the state is saved.
    """
    frames = read_frames(config.frames)
    backend = _backend(config.backend)
    elements = sorted(int(z) for z in np.unique(frames.atomic_numbers))
    sizes = basis_sizes(elements, config.level)
    n_basis = np.array([sum(sizes[int(z)] for z in frames.frame(index)[0]) for index in range(len(frames))], dtype=int)
    # Limits and workers are left out: what is finished stays finished under others.
    settings = {key: getattr(config, key) for key in ("level", "max_cycle", "ladder", "forces")}
    content = {"config": {**settings, "backend": backend}, "frames": frames.digest(), "code": code}
    label = f"spot checks at {config.level}"
    with (
        disk_errors(outputs.labels_csv.parent),
        JobState(Path(state_root), content) as state,
        StopRequest() as stop,
        closing(_Rows(state.folder / SHARD, config)) as rows,
    ):
        if state.started_fresh_because_changed and not (rows.frames or rows.atoms):
            print("the configuration, frames or code changed since the saved state: starting anew", flush=True)
        if rows.resumed:
            print(f"{label}: going on, {rows.resumed} of {len(frames)} frames are done", flush=True)
        pool = WorkerPool(
            TARGET, config.workers, config.time_limit_s, config.memory_limit_mb, state.folder, backend == "cpu"
        )
        with _Progress(label, len(frames), len(rows.frames)) as progress, pool:
            for index in range(len(frames)):
                status = "" if index in rows.frames else geometry_status(*frames.frame(index))
                if status:
                    rows.add(_empty_row(index, status))
                    progress.finished(status)
            tasks = _tasks(config, frames, rows, backend, elements, n_basis)
            for outcome in pool.run(tasks, lambda: stop.name is not None):
                state.check()
                row = _row(outcome, config)
                rows.add(row)
                if "frame" in row:
                    progress.finished(row["status"])
        if len(rows.frames) < len(frames) or len(rows.atoms) < len(elements):
            print(f"{label}: {stop.name}: {len(rows.frames)} of {len(frames)} frames are done; run again to go on")
            raise Requeue
        summary = _write(config, outputs, frames, rows, n_basis, backend)
        state.remove()
    return summary


def _backend(wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    there = gpu_available()
    if wanted == "gpu" and not there:
        raise InputError(
            "spot_check.backend: gpu, but gpu4pyscf or a CUDA device is missing; install the extra gpu-dft or set cpu"
        )
    return "gpu" if there else "cpu"


def _tasks(
    config: SpotCheckConfig,
    frames: Frames,
    rows: _Rows,
    backend: str,
    elements: Sequence[int],
    n_basis: NDArray[np.integer],
) -> list[tuple[Any, dict[str, Any]]]:
    """What is missing, the longest first."""
    common = {
        "level": config.level, "max_cycle": config.max_cycle, "ladder": config.ladder, "forces": config.forces,
        "backend": backend, "memory_limit_mb": config.memory_limit_mb,
    }  # fmt: skip
    missing = [index for index in range(len(frames)) if index not in rows.frames]
    tasks: list[tuple[Any, dict[str, Any]]] = []
    for index in sorted(missing, key=lambda index: (-int(n_basis[index]), index)):
        numbers, positions = frames.frame(index)
        tasks.append((index, {**common, "atomic_numbers": numbers, "positions": positions}))
    names = [symbol(z) for z in elements]
    return tasks + [(name, {"element": name, "level": config.level}) for name in names if name not in rows.atoms]


def _empty_row(frame: int, status: str) -> dict[str, Any]:
    return {
        "frame": frame, "status": status, "strategy": "none", "cycles": 0, "plain_energy": math.nan, "energy": math.nan,
        "energy_scf": math.nan, "energy_mbd": math.nan, "forces": None, "detail": "", "seconds": 0.0,
        "cpu_seconds": 0.0, "max_rss_mb": 0.0, "attempts": 0,
    }  # fmt: skip


def _row(outcome: Outcome, config: SpotCheckConfig) -> dict[str, Any]:
    """A task's outcome as a line of the shard, hartree and hartree/Å as they come.

    Raises:
        InputError: the disk of the scratch files is full, which says nothing about the frame.
    """
    if os.strerror(errno.ENOSPC) in outcome.detail:
        raise InputError(f"no room for scratch files ({outcome.detail}); set TMPDIR to a larger disk and run again")
    if isinstance(outcome.key, str):
        nothing = {"energy": math.nan, "status": outcome.status}
        return {"element": outcome.key, **(outcome.value or nothing), "detail": outcome.detail}
    row = _empty_row(outcome.key, "crashed")
    row |= {key: getattr(outcome, key) for key in ("detail", "seconds", "cpu_seconds", "max_rss_mb", "attempts")}
    if outcome.status in ("timeout", "out_of_memory"):
        row |= {"status": outcome.status}
        row |= {"time_limit_s": config.time_limit_s, "memory_limit_mb": config.memory_limit_mb}
    elif outcome.status == "failed" and "Ill geometry" in outcome.detail:
        row["status"] = "bad_geometry"
    elif outcome.status == "done":
        value = dict(outcome.value)
        fallback = "converged" if value["strategy"] == "diis" else "converged_fallback"
        row["status"] = fallback if value.pop("converged") else "unconverged"
        if value["forces"] is not None:
            value["forces"] = np.asarray(value["forces"]).tolist()
        row |= {key: value[key] for key in row if key in value}
    return row


def _write(
    config: SpotCheckConfig,
    outputs: SpotCheckOutputs,
    frames: Frames,
    rows: _Rows,
    n_basis: NDArray[np.integer],
    backend: str,
) -> dict[str, Any]:
    """Both outputs and the summary."""
    import pandas as pd

    n = len(frames)
    lines, forces = [], np.full(frames.positions.shape, np.nan)
    for index in range(n):
        row, (numbers, positions) = rows.frames[index], frames.frame(index)
        if row["forces"] is not None:
            forces[frames.ptr[index] : frames.ptr[index + 1]] = np.array(row["forces"]) * HARTREE_TO_EV
        energies = {
            f"{key}_ev": row[key] * HARTREE_TO_EV for key in ("plain_energy", "energy", "energy_scf", "energy_mbd")
        }
        line = {
            "frame": index,
            "trajectory": int(frames.trajectory[index]),
            "start": int(frames.start[index]),
            "name": frames.names[index],
            "formula": formula(numbers),
            "n_atoms": len(numbers),
            "temperature_k": frames.temperature_k[index],
            "time_ps": frames.time_ps[index],
            **energies,
            **{key: row[key] for key in ("status", "strategy", "cycles", "seconds", "cpu_seconds", "max_rss_mb")},
            "n_basis": int(n_basis[index]),
            "n_fragments": count_fragments(numbers, positions),
            "level": config.level,
            "backend": backend,
            **{key: row[key] for key in ("attempts", "detail")},
        }
        lines.append(line)
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    atoms = sorted((number(name), row) for name, row in rows.atoms.items())
    arrays: dict[str, Any] = {
        "ptr": frames.ptr,
        "energy_ev": table["energy_ev"].to_numpy(dtype=np.float64),
        "energy_scf_ev": table["energy_scf_ev"].to_numpy(dtype=np.float64),
        "mbd_energy_ev": table["energy_mbd_ev"].to_numpy(dtype=np.float64),
        "forces_ev_per_angstrom": forces,
        "level": np.array(config.level),
        "frames_sha256": np.array(sha256_of(config.frames)),
        "atomic_numbers_isolated": np.array([z for z, _ in atoms], dtype=np.int64),
        "energies_isolated_ev": np.array([row["energy"] for _, row in atoms], dtype=np.float64) * HARTREE_TO_EV,
    }
    with atomic_path(outputs.labels_npz) as temporary:
        np.savez(temporary, **arrays)
    write_text(outputs.labels_csv, table.to_csv(index=False))
    for z, row in atoms:
        if not math.isfinite(row["energy"]):
            print(f"warning: isolated atom {symbol(z)} at {config.level}: {row['status']}; no atomization energies")
    counts = {str(key): int(value) for key, value in table["status"].value_counts().items()}
    calculated = table[~table["status"].isin(NO_CALCULATION)]
    return {
        "n_frames": n,
        "counts": counts,
        "plain_converged": counts.get("converged", 0) / n if n else math.nan,
        "ladder_converged": sum(counts.get(key, 0) for key in CONVERGED) / n if n else math.nan,
        "cost": _costs(calculated),
        "core_hours": float(calculated["seconds"].sum() / 3600.0),
        "level": config.level,
        "backend": backend,
        "isolated_atoms": {symbol(z): row["status"] for z, row in atoms},
        "resumed_frames": rows.resumed,
        "config": asdict(config),
    }


def _costs(table: Any) -> list[dict[str, Any]]:
    """Costs by number of atoms. A worker keeps one core, so its wall time is core time."""
    return [
        {
            "n_atoms": int(n_atoms),
            "n": len(part),
            "seconds": float(part["seconds"].mean()),
            "cpu_seconds": float(part["cpu_seconds"].mean()),
            "max_rss_mb": float(part["max_rss_mb"].max()),
            "per_core_hour": 3600.0 * len(part) / max(float(part["seconds"].sum()), 1e-9),
        }
        for n_atoms, part in table.groupby("n_atoms")
    ]


def describe(summary: Mapping[str, Any]) -> str:
    """Lines about a summary: counts, convergence, and calculations per core-hour by size."""
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    lines = [
        f"{summary['n_frames']} frames at {summary['level']} ({summary['backend']}): {counts}",
        f"converged by plain DIIS: {100 * summary['plain_converged']:.1f} %, with the ladder "
        f"{100 * summary['ladder_converged']:.1f} %; {summary['core_hours']:.3f} core-hours",
    ]
    lines += [
        f"{cost['n_atoms']} atoms: {cost['n']} calculations, {cost['seconds']:.1f} s each, "
        f"{cost['per_core_hour']:.0f} per core-hour, at most {cost['max_rss_mb']:.0f} MB"
        for cost in summary["cost"]
    ]
    return "\n".join(lines)


def main_spot_check(arguments: Sequence[str] | None = None) -> int:
    """``spot-check run.yaml [--output DIR]``: labels of frames outside the workflow; returns the exit status.

    Args:
        arguments: command line without the program's name.

    Raises:
        InputError: see :func:`run_spot_checks`.
    """
    workers = {"--workers": {"type": int, "help": "processes of one thread (default: as the YAML file says)"}}
    options = read_command_line("spot-check", "DFT labels of frames.", arguments, workers)
    config, output = SpotCheckConfig.from_yaml(options.config), options.output
    if options.workers is not None:
        values = {field.name: getattr(config, field.name) for field in fields(config)}
        config = SpotCheckConfig.from_dict({**values, "workers": options.workers})
    print(describe(run_spot_checks(config, SpotCheckOutputs.in_folder(output), output / ".state")))
    return 0
