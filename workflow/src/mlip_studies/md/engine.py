"""Batched molecular dynamics with trained potentials.

All trajectories (start structures x temperatures x replicas) advance together in one batch, by the integrators of
torch-sim (torch-sim-atomistic 0.3):

* ``nvt_langevin``: Langevin dynamics by the BAOAB splitting of B. Leimkuhler and C. Matthews, Appl. Math. Res. Express
  2013, 34 (half kick, half drift, exact Ornstein-Uhlenbeck step with exp(-gamma dt), half drift, half kick).
* ``nve``: velocity Verlet.

Momenta are drawn from the Maxwell-Boltzmann distribution, with the centre of mass at rest; at ``temperature_k: 0``
(``nve`` only) all atoms start at rest. Both ensembles start with
``thermalise_ps`` of Langevin dynamics with a strong friction, because half the kinetic energy of a molecule that starts
from a minimum goes into its potential energy; only then samples are taken. Integration is in double precision, forces
are in the configured one. Positions are moved so that the centre of mass stays at the origin, which changes nothing but
keeps single precision exact: Langevin dynamics let a molecule wander.

Every ``sample_every_fs`` all trajectories are looked at (:mod:`mlip_studies.md.stability`); those that ended are noted
with time and reason and leave the batch, the others go on. Their noise is another one from then on, because it is drawn
for the whole batch. ``stability: {ending: [not_finite]}`` lets broken molecules go on: what happened to them is noted.

A run resumes from its checkpoint (positions, momenta, forces, generators' state) with the same result, bit by bit on a
CPU. A configuration looks like this; paths are relative to the working directory::

    potential: results/full/pavlovic/runs/ethanol/seed0/model.safetensors
    # or a published one: {pretrained: ani2x, kind: ani, path: weights/ani-2x_8x.info, sha256: ...}
    start: {store: results/full/data/md17_ethanol/store.h5, rows: lowest_energy}
    ensemble: nvt_langevin     # or nve
    temperature_k: [300, 500]  # each start structure at each
    timestep_fs: 0.5
    friction_per_ps: 1.0
    time_ps: 300
    thermalise_ps: 5
    replicas: 6
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, require, sha256_of, write_text
from mlip_studies.elements import formula
from mlip_studies.errors import InputError
from mlip_studies.md.config import FS_PER_PS, TABLE_LINES, MDConfig, MDOutputs
from mlip_studies.md.dynamics import Dynamics, Network, Observation
from mlip_studies.md.observables import (
    degrees_of_freedom,
    energy_drift,
    mean_and_error,
    temperature_is_off,
    temperature_of,
)
from mlip_studies.md.potentials import open_potential
from mlip_studies.md.stability import REASONS
from mlip_studies.md.start import Molecule, read_start
from mlip_studies.md.trajectory import Segments, write_trajectory
from mlip_studies.models.calculators.graphs import as_dtype
from mlip_studies.models.checks import check_molecule
from mlip_studies.runtime.command import COMPUTE_OPTIONS, read_command_line
from mlip_studies.runtime.state import JobState, Requeue, StopRequest, disk_errors
from mlip_studies.training.checkpoint import Checkpoints, describe_model
from mlip_studies.training.device import choose_device, environment

__all__ = ["MDConfig", "MDOutputs", "build_trajectories", "main_md", "run_md"]
#: samples kept in memory between checkpoints, at most
BUFFER_BYTES = 1 << 28
BATCH_LOG_SECONDS = 30.0


def build_trajectories(
    molecules: Sequence[Molecule], temperatures_k: Sequence[float], replicas: int
) -> tuple[list[Molecule], NDArray[np.int64], NDArray[np.float64]]:
    """Start structure and temperature of each trajectory: starts, within them temperatures, within them replicas.

    Args:
        molecules: start structures.
        temperatures_k: K.
        replicas: of each start structure at each temperature.

    Returns:
        molecule, number of the start structure and temperature (K) of each trajectory.
    """
    start = np.repeat(np.arange(len(molecules)), len(temperatures_k) * replicas)
    temperature = np.tile(np.repeat(np.asarray(temperatures_k, dtype=np.float64), replicas), len(molecules))
    return [molecules[int(index)] for index in start], start, temperature


class _Run:
    """The state of a run between its intervals."""

    def __init__(self, config: MDConfig, dynamics: Dynamics, state: JobState, start: NDArray[np.int64]) -> None:
        self.config, self.dynamics, self.state, self.start = config, dynamics, state, start
        self.ptr = np.concatenate([[0], np.cumsum(dynamics.counts)]).astype(np.int64)
        self.segments = Segments(state.folder, self.ptr)
        self.checkpoints = Checkpoints(state.folder, "md", describe_model(dynamics.network.potential))
        self.interval = 0
        self.ends: dict[int, dict[str, Any]] = {}
        #: by trajectory, what of REASONS ever held, in the order of time
        self.notes: dict[int, list[dict[str, Any]]] = {}
        self._noted = np.zeros(len(dynamics.counts), dtype=np.int64)
        self.start_potential_ev = np.full(len(dynamics.counts), np.nan)
        self.seconds = self.steps = self.system_steps = 0.0
        self.jobs, self.resumed_from = 1, 0
        self.total = config.n_thermal + config.n_intervals

    @property
    def thermalising(self) -> bool:
        return self.interval < self.config.n_thermal

    @property
    def time_ps(self) -> float:
        """Since the end of thermalisation, negative before."""
        return (self.interval - self.config.n_thermal) * self.config.sample_every_fs / FS_PER_PS

    def begin(self) -> None:
        """Start, or go on from the newest checkpoint with all its segments."""
        self.checkpoints.sweep()
        saved = self.checkpoints.load()
        if saved is not None and self.segments.go_back_to(saved["segments"]):
            self._resume(saved)
            return
        self.segments.go_back_to([])
        torch.manual_seed(self.config.seed)
        self.dynamics.draw_momenta(self.config.seed)
        self.dynamics.evaluate()
        self._check_start()
        if self.thermalising:
            self._use()
        else:
            self._start_sampling()

    def _check_start(self) -> None:
        """Stop if the network has no energy or force for a start structure.

        Raises:
            InputError: names the first such structure.
        """
        dynamics = self.dynamics
        self.start_potential_ev, finite = dynamics.evaluated()
        if not finite.all():
            molecule = dynamics.molecules[int(np.argmin(finite))]
            raise InputError(
                f"md.potential: {self.config.run or dynamics.network.potential.name}: energy or forces of the start "
                f"structure {molecule.name} ({formula(molecule.atomic_numbers)}) are not finite numbers; train the "
                "network again, or start from another geometry"
            )

    def _resume(self, saved: dict[str, Any]) -> None:
        dynamics = self.dynamics
        self.interval = self.resumed_from = int(saved["interval"])
        self.ends = {int(index): end for index, end in saved["ends"]}
        self.notes = {int(index): list(notes) for index, notes in saved["notes"]}
        for index, notes in self.notes.items():
            self._noted[index] = sum(2 ** REASONS.index(note["reason"]) for note in notes)
        self.start_potential_ev = saved["start_potential_ev"].numpy()
        self.seconds, self.steps, self.system_steps = saved["costs"]
        self.jobs = int(saved["jobs"]) + 1
        if len(saved["alive"]):
            dynamics.go_on(saved["alive"].numpy(), saved["tensors"])
            self._use()
        else:
            dynamics.alive = np.zeros(0, dtype=np.int64)
        torch.set_rng_state(saved["generator"])
        if dynamics.network.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_generator"], dynamics.network.device)
        print(f"{self.config.job}: going on at {self.time_ps:.3f} ps", flush=True)

    def _use(self) -> None:
        config = self.config
        if self.thermalising:
            self.dynamics.use("nvt_langevin", config.thermalise_friction_per_ps)
        else:
            self.dynamics.use(config.ensemble, config.friction_per_ps)

    def _start_sampling(self) -> None:
        if self.config.ensemble == "nve":
            self.dynamics.stop_drift()
        self._use()
        self._record(self._look())

    def _look(self) -> Observation:
        """Observe; what happened is noted, and trajectories that ended leave."""
        dynamics = self.dynamics
        seen = dynamics.observe()
        for position in np.flatnonzero(seen.held & ~self._noted[dynamics.alive]).tolist():
            self._note(position, seen)
        well = seen.reason < 0
        if well.all():
            return seen
        for position in np.flatnonzero(~well).tolist():
            index = int(dynamics.alive[position])
            detail = dynamics.describe_end(position, seen)
            end = {"time_ps": self.time_ps, "reason": REASONS[int(seen.reason[position])], "detail": detail}
            self.ends[index] = end
            print(f"{self.config.job}: trajectory {index} ended at {self.time_ps:.3f} ps: {detail}", flush=True)
        seen = seen.part(well, dynamics.counts[dynamics.alive])
        if well.any():
            dynamics.keep(well)
        else:
            dynamics.alive = np.zeros(0, dtype=np.int64)
        return seen

    def _note(self, position: int, seen: Observation) -> None:
        """Note what holds for the first time of the trajectory at this position among those alive."""
        index = int(self.dynamics.alive[position])
        new = int(seen.held[position] & ~self._noted[index])
        self._noted[index] |= new
        for number, reason in enumerate(REASONS):
            if new & 2**number:
                detail = self.dynamics.describe_end(position, seen, reason)
                self.notes.setdefault(index, []).append({"time_ps": self.time_ps, "reason": reason, "detail": detail})
                if seen.reason[position] < 0:
                    print(
                        f"{self.config.job}: trajectory {index} at {self.time_ps:.3f} ps: {detail}; it goes on",
                        flush=True,
                    )

    def _record(self, seen: Observation) -> None:
        if len(self.dynamics.alive):
            self.segments.append(self.dynamics.alive, seen.positions, seen.potential_ev, seen.kinetic_ev)

    def step(self) -> None:
        """One interval."""
        started = time.perf_counter()
        n = self.config.steps_per_sample
        alive = len(self.dynamics.alive)
        was_thermalising = self.thermalising
        self.dynamics.advance(n)
        self.interval += 1
        seen = self._look()
        if not self.thermalising and len(self.dynamics.alive):
            if was_thermalising:
                self._start_sampling()
            else:
                self._record(seen)
        self.seconds += time.perf_counter() - started
        self.steps += n
        self.system_steps += n * alive

    @property
    def ns_per_day(self) -> float:
        """Simulated time per day of the machine's, ns, summed over the trajectories."""
        rate = self.system_steps / self.seconds if self.seconds else 0.0
        return rate * self.config.timestep_fs * 1e-6 * 86400.0

    @property
    def done(self) -> bool:
        return self.interval >= self.total or not len(self.dynamics.alive)

    def save(self) -> None:
        """Samples first, then the checkpoint that counts them."""
        self.state.check()
        dynamics = self.dynamics
        on_gpu = dynamics.network.device.type == "cuda"
        payload: dict[str, Any] = {
            "segments": self.segments.flush(),
            "interval": self.interval,
            "alive": torch.as_tensor(dynamics.alive),
            "tensors": {name: value.cpu() for name, value in dynamics.snapshot().items()},
            "generator": torch.get_rng_state(),
            "ends": [[index, end] for index, end in self.ends.items()],
            "notes": [[index, notes] for index, notes in self.notes.items()],
            "start_potential_ev": torch.as_tensor(self.start_potential_ev),
            "costs": [self.seconds, self.steps, self.system_steps],
            "jobs": self.jobs,
        }
        if on_gpu:
            payload["cuda_generator"] = torch.cuda.get_rng_state(dynamics.network.device)
        self.checkpoints.save(payload, self.interval)


class _Progress:
    """A bar on a terminal, one line now and then in a batch log."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self._bar: Any = None
        self._last = time.monotonic()
        if sys.stdout.isatty():
            from rich.progress import Progress

            self._bar = Progress()
            self._task = self._bar.add_task(run.config.job, total=run.total, completed=run.interval)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self) -> None:
        run = self.run
        if self._bar is not None:
            self._bar.update(self._task, completed=run.interval)
            return
        now = time.monotonic()
        if now - self._last < BATCH_LOG_SECONDS:
            return
        self._last = now
        print(
            f"{run.config.job}: {run.time_ps:.2f}/{run.config.time_ps:g} ps, {len(run.dynamics.alive)} of "
            f"{len(run.dynamics.molecules)} trajectories, {run.steps / run.seconds:.1f} steps/s, "
            f"{run.ns_per_day:.3g} ns/day in all",
            flush=True,
        )


def run_md(
    config: MDConfig,
    outputs: MDOutputs,
    state_root: PathLike,
    device_name: str = "auto",
    threads: int | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Run dynamics and write the outputs; resumes from ``state_root`` after a kill.

    Args:
        config: the run.
        outputs: files to write.
        state_root: folder for the resumable state of this run.
        device_name: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None: as torch chooses.
        code: hash of the code that a state must have been made with to be resumed.

    Returns:
        the content of the summary.

    Raises:
        InputError: missing or damaged inputs, an element that the potential does not know, or a full disk.
        Requeue: the job was told to stop; the state is saved.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device_name)
    # The noise comes from torch's global generators, which the caller gets back as they were.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return _run(config, outputs, Path(state_root), device, code)


def _run(config: MDConfig, outputs: MDOutputs, state_root: Path, device: torch.device, code: str) -> dict[str, Any]:
    published = isinstance(config.potential, Mapping)
    sha256 = "" if published else sha256_of(require(config.potential))
    molecules = read_start(config.start)
    potential: Any = config.potential
    if published:
        potential, sha256 = open_potential(config.potential, device, as_dtype(config.precision))
    network = Network(potential, device, config.precision, config.fidelity)
    for molecule in molecules:
        check_molecule(
            molecule.atomic_numbers,
            molecule.positions,
            network.potential.elements,
            name=molecule.name,
            min_distance=config.stability.min_distance_angstrom,
        )
    # Paths may move; what they hold counts.
    skipped = ("potential", "start", "checkpoint_seconds", "job", "run")
    content = {
        "config": {key: value for key, value in config.to_dict().items() if key not in skipped},
        "inputs": {"potential": sha256, "start": _digest(molecules)},
        "code": code,
        "device": device.type,
    }
    trajectories, start, temperature = build_trajectories(molecules, config.temperature_k, config.replicas)
    dynamics = Dynamics(network, trajectories, temperature, config.timestep_fs, config.stability)
    with disk_errors(outputs.summary.parent), JobState(state_root, content) as state, StopRequest() as stop:
        if state.started_fresh_because_changed:
            print("the configuration, potential or code changed since the saved state: starting anew", flush=True)
        run = _Run(config, dynamics, state, start)
        run.begin()
        saved = time.monotonic()
        with _Progress(run) as progress:
            while not run.done:
                run.step()
                progress.show()
                full = run.segments.buffered_bytes > BUFFER_BYTES
                if stop.name is not None or full or time.monotonic() - saved >= config.checkpoint_seconds:
                    run.save()
                    saved = time.monotonic()
                if stop.name is not None and not run.done:
                    print(f"{config.job}: {stop.name}: saved at {run.time_ps:.3f} ps; run again to go on", flush=True)
                    raise Requeue
        run.save()
        summary = _write(run, outputs, content)
        state.remove()
    return summary


def _digest(molecules: Sequence[Molecule]) -> str:
    digest = hashlib.sha256()
    for molecule in molecules:
        digest.update(np.int64(len(molecule.atomic_numbers)).tobytes())
        digest.update(np.ascontiguousarray(molecule.atomic_numbers, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(molecule.positions, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _write(run: _Run, outputs: MDOutputs, content: Mapping[str, Any]) -> dict[str, Any]:
    """The three outputs from segments that are all on disk."""
    config, dynamics = run.config, run.dynamics
    n, n_samples = len(dynamics.molecules), config.n_intervals + 1
    time_ps = np.arange(n_samples) * (config.sample_every_fs / FS_PER_PS)
    potential, kinetic = np.full((n_samples, n), np.nan), np.full((n_samples, n), np.nan)
    first = 0
    for segment in run.segments:
        last = first + len(segment["potential_ev"])
        potential[first:last], kinetic[first:last] = segment["potential_ev"], segment["kinetic_ev"]
        first = last
    valid = np.isfinite(potential).sum(axis=0)
    degrees = degrees_of_freedom(dynamics.counts, config.ensemble)
    temperature = temperature_of(kinetic, degrees)
    series = zip(valid, potential.T, kinetic.T, temperature.T, strict=True)
    replicas = [
        _replica(run, index, time_ps[:count], *(values[:count] for values in columns))
        for index, (count, *columns) in enumerate(series)
    ]
    per_second = run.steps / run.seconds if run.seconds else None
    summary: dict[str, Any] = {
        "job": config.job,
        "run": config.run,
        "config": config.to_dict(),
        "inputs": content["inputs"],
        "code": content["code"],
        "model": dynamics.network.potential.name,
        "ensemble": config.ensemble,
        "n_trajectories": n,
        "n_atoms": int(dynamics.counts.sum()),
        "n_samples": n_samples,
        "sample_every_ps": config.sample_every_fs / FS_PER_PS,
        "samples_stride": _stride(n_samples),
        "time_ps": config.n_intervals * config.sample_every_fs / FS_PER_PS,
        "thermalise_ps": config.n_thermal * config.sample_every_fs / FS_PER_PS,
        "temperatures": _by_temperature(replicas),
        "replicas": replicas,
        "noted": [{"replica": index, **note} for index, notes in sorted(run.notes.items()) for note in notes],
        "steps": int(run.steps),
        "seconds": run.seconds,
        "steps_per_second": per_second,
        "ns_per_day": run.ns_per_day if run.seconds else None,
        "system_steps_per_second": run.system_steps / run.seconds if run.seconds else None,
        "jobs": run.jobs,
        "resumed_from_interval": run.resumed_from,
        "device": dynamics.network.device.type,
        "environment": environment(dynamics.network.device),
    }
    summary = _plain(summary)
    tables = {
        "time_ps": time_ps,
        "atomic_numbers": np.concatenate([each.atomic_numbers for each in dynamics.molecules]),
        "ptr": run.ptr,
        "start": run.start,
        "temperature_k": dynamics.temperature_k,
        "replica": np.arange(n),
        "n_valid": valid.astype(np.int64),
        "start_positions": np.concatenate([each.positions for each in dynamics.molecules]),
        "start_potential_ev": run.start_potential_ev,
    }
    attributes = {"config": config.to_dict(), "inputs": content["inputs"], "code": content["code"]}
    attributes |= {
        "names": [each.name for each in dynamics.molecules],
        "ends": [[index, _plain(end)] for index, end in sorted(run.ends.items())],
    }
    write_trajectory(outputs.trajectory, run.segments, n_samples, tables, attributes)
    _write_replicas(outputs.replicas, summary)
    _write_samples(outputs.samples, run, time_ps, potential, kinetic, temperature)
    write_text(outputs.summary, json.dumps(summary, indent=1))
    for line in summary["temperatures"]:
        if line["temperature_off"]:
            print(
                f"warning: {config.job}: mean temperature of {line['mean_temperature_k']:.0f} K at a nominal one of "
                f"{line['temperature_k']:.0f} K, more than 10 % off",
                flush=True,
            )
    return summary


def _replica(
    run: _Run,
    index: int,
    time_ps: NDArray[np.floating],
    potential_ev: NDArray[np.float64],
    kinetic_ev: NDArray[np.float64],
    temperature_k: NDArray[np.float64],
) -> dict[str, Any]:
    """One trajectory's line of the summary; the arrays hold its samples."""
    config, dynamics = run.config, run.dynamics
    molecule, nominal = dynamics.molecules[index], float(dynamics.temperature_k[index])
    end = run.ends.get(index)
    notes = run.notes.get(index, [])
    sampled_ps = config.n_intervals * config.sample_every_fs / FS_PER_PS
    mean, error = mean_and_error(temperature_k)
    line = {
        "replica": index,
        "start": int(run.start[index]),
        "name": molecule.name,
        "formula": formula(molecule.atomic_numbers),
        "n_atoms": int(dynamics.counts[index]),
        "temperature_k": nominal,
        "alive": end is None,
        "survived_ps": max(0.0, end["time_ps"]) if end is not None else sampled_ps,
        "ended_ps": end["time_ps"] if end is not None else None,
        "reason": end["reason"] if end is not None else "",
        "detail": end["detail"] if end is not None else "",
        "first_reason": notes[0]["reason"] if notes else "",
        "first_ps": notes[0]["time_ps"] if notes else None,
        "mean_temperature_k": mean,
        "temperature_error_k": error,
        "temperature_off": _is_off(mean, nominal),
        "mean_potential_ev": float(potential_ev.mean()) if len(potential_ev) else math.nan,
    }
    if config.ensemble == "nve":
        drift, fluctuation = energy_drift(time_ps, potential_ev + kinetic_ev, int(dynamics.counts[index]))
        line |= {"drift_mev_per_atom_ps": drift, "fluctuation_mev_per_atom": fluctuation}
    return line


def _is_off(mean_k: float, nominal_k: float) -> bool:
    """Whether a mean temperature is off; a start at rest (0 K) promises none."""
    return nominal_k > 0 and temperature_is_off(mean_k, nominal_k)


def _by_temperature(replicas: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What replicas of the same nominal temperature have in common."""
    result = []
    for nominal in dict.fromkeys(line["temperature_k"] for line in replicas):
        lines = [line for line in replicas if line["temperature_k"] == nominal]
        means = np.array([line["mean_temperature_k"] for line in lines])
        errors = np.array([line["temperature_error_k"] for line in lines])
        sampled = np.isfinite(means)
        mean = float(means[sampled].mean()) if sampled.any() else math.nan
        error = float(np.sqrt(np.square(errors[sampled]).sum()) / sampled.sum()) if sampled.any() else math.nan
        result.append(
            {
                "temperature_k": nominal,
                "n": len(lines),
                "n_alive": sum(line["alive"] for line in lines),
                "mean_survived_ps": float(np.mean([line["survived_ps"] for line in lines])),
                "mean_temperature_k": mean,
                "temperature_error_k": error,
                "temperature_off": _is_off(mean, nominal),
            }
        )
    return result


def _stride(n_samples: int) -> int:
    return math.ceil(n_samples / TABLE_LINES)


def _write_replicas(path: Path, summary: Mapping[str, Any]) -> None:
    import pandas as pd

    labels = {"job": summary["job"], "run": summary["run"]}
    write_text(path, pd.DataFrame([{**labels, **line} for line in summary["replicas"]]).to_csv(index=False))


def _write_samples(
    path: Path,
    run: _Run,
    time_ps: NDArray[np.floating],
    potential: NDArray[np.float64],
    kinetic: NDArray[np.float64],
    temperature: NDArray[np.float64],
) -> None:
    import pandas as pd

    chosen = slice(None, None, _stride(len(time_ps)))
    n = potential.shape[1]
    count = len(time_ps[chosen])
    table = pd.DataFrame(
        {
            "job": run.config.job,
            "run": run.config.run,
            "replica": np.repeat(np.arange(n), count),
            "start": np.repeat(run.start, count),
            "temperature_k": np.repeat(run.dynamics.temperature_k, count),
            "time_ps": np.tile(time_ps[chosen], n),
            "potential_ev": potential[chosen].T.ravel(),
            "kinetic_ev": kinetic[chosen].T.ravel(),
            "measured_temperature_k": temperature[chosen].T.ravel(),
            "alive": np.isfinite(potential[chosen]).T.ravel(),
        }
    )
    write_text(path, table.to_csv(index=False, float_format="%.12g"))


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def main_md(arguments: Sequence[str] | None = None) -> int:
    """``md run.yaml [--output DIR]``: dynamics outside the workflow; returns the exit status.

    Args:
        arguments: command line without the program's name.

    Raises:
        InputError: see :func:`run_md`.
    """
    options = read_command_line("md", "Molecular dynamics.", arguments, COMPUTE_OPTIONS)
    config, output = MDConfig.from_yaml(options.config), options.output
    summary = run_md(config, MDOutputs.in_folder(output), output / ".state", options.device, options.threads)
    rate = f"{summary['steps_per_second']:.1f} steps/s" if summary["steps_per_second"] else "no steps"
    for line in summary["temperatures"]:
        mean = "none" if line["mean_temperature_k"] is None else f"{line['mean_temperature_k']:.1f} K"
        print(
            f"{output}: {line['temperature_k']:g} K: {line['n_alive']} of {line['n']} trajectories lasted "
            f"{summary['time_ps']:g} ps, mean temperature {mean}; {rate}"
        )
    return 0
