"""Speed of dynamics: several potentials in turn in one process, so that they meet the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlip_studies.artifacts import PathLike, require, write_text
from mlip_studies.errors import InputError
from mlip_studies.md.dynamics import Dynamics, Network
from mlip_studies.md.start import StartConfig, read_start
from mlip_studies.runtime.options import check, read_options
from mlip_studies.training.device import choose_device, processor_name

if TYPE_CHECKING:
    import pandas as pd

#: steps before the first timed ones: first calls allocate memory and, on a GPU, record the step
_WARM_UP = 6


def measure_speed(
    potentials: Mapping[str, PathLike],
    start: StartConfig | Mapping[str, Any],
    batches: Sequence[int] = (1, 16),
    steps: int = 100,
    device: torch.device | str = "cpu",
    rounds: int = 5,
    precision: str = "float32",
    temperature_k: float = 300.0,
    timestep_fs: float = 0.5,
    friction_per_ps: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Time steps of Langevin dynamics.

    Every round times each potential with each batch once, all from the same start structures and momenta. The median
    over the rounds is the result: other work on the machine disturbs single rounds, and all potentials alike.

    Args:
        potentials: path of each label's potential.
        start: start structures; replicas of them fill a batch.
        batches: numbers of molecules that advance together.
        steps: time steps per round.
        device: where.
        rounds: how often.
        precision: of the networks.
        temperature_k: K.
        timestep_fs: fs.
        friction_per_ps: 1/ps.
        seed: of momenta and noise.

    Returns:
        one line per label and batch: label, model, batch, n_atoms (of the whole batch), ms_per_step (median),
        ms_per_step_low and _high (fastest and slowest round), steps_per_second, system_steps_per_second (steps times
        batch), precision, device, hardware, threads, steps, rounds.

    Raises:
        InputError: a missing or damaged input, an element that a potential does not know, or nothing to measure.
    """
    import pandas as pd

    check(bool(potentials), "speed.potentials", "at least one", dict(potentials))
    check(len(batches) > 0 and min(batches) >= 1, "speed.batches", "numbers of at least 1", list(batches))
    check(steps >= 1, "speed.steps", "at least 1", steps)
    check(rounds >= 1, "speed.rounds", "at least 1", rounds)
    device = torch.device(device)
    molecules = read_start(read_options(StartConfig, start, "speed.start"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        runs = {}
        for label, path in potentials.items():
            try:
                network = Network(require(path), device, precision)
                for batch in batches:
                    copies = [molecules[index % len(molecules)] for index in range(batch)]
                    dynamics = Dynamics(network, copies, np.full(batch, temperature_k), timestep_fs)
                    dynamics.draw_momenta(seed)
                    dynamics.evaluate()
                    dynamics.use("nvt_langevin", friction_per_ps)
                    runs[label, batch] = dynamics, dynamics.snapshot()
                    dynamics.advance(_WARM_UP)
            except InputError as error:
                raise InputError(f"speed: {label}: {error}") from None
        milliseconds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
        for _ in range(rounds):
            for key, (dynamics, snapshot) in runs.items():
                # A network that blows up would become faster, because edges are lost.
                dynamics.restore(snapshot)
                _wait(device)
                started = time.perf_counter()
                dynamics.advance(steps)
                _wait(device)
                milliseconds[key].append(1000.0 * (time.perf_counter() - started) / steps)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    lines = []
    for (label, batch), values in milliseconds.items():
        dynamics = runs[label, batch][0]
        median = statistics.median(values)
        lines.append(
            {
                "label": label,
                "model": dynamics.network.potential.name,
                "batch": batch,
                "n_atoms": int(dynamics.counts.sum()),
                "ms_per_step": median,
                "ms_per_step_low": min(values),
                "ms_per_step_high": max(values),
                "steps_per_second": 1000.0 / median,
                "system_steps_per_second": 1000.0 * batch / median,
                "precision": precision,
                "device": device.type,
                "hardware": hardware,
                "threads": torch.get_num_threads(),
                "steps": steps,
                "rounds": rounds,
            }
        )
    return pd.DataFrame(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_speed(
    output: PathLike,
    potentials: Mapping[str, PathLike],
    start: Mapping[str, Any],
    options: Mapping[str, Any],
    device_name: str = "auto",
    threads: int | None = None,
) -> None:
    """:func:`measure_speed` to a CSV file.

    Args:
        output: CSV file.
        potentials: path of each label's potential.
        start: keys of :class:`mlip_studies.md.start.StartConfig`.
        options: further arguments of :func:`measure_speed`.
        device_name: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None: as torch chooses.

    Raises:
        InputError: see :func:`measure_speed`, or an option that it does not have.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    known = ("batches", "steps", "rounds", "precision", "temperature_k", "timestep_fs", "friction_per_ps", "seed")
    for key in options:
        if key not in known:
            raise InputError(f"speed: unknown key {key!r}; known: {', '.join(known)}")
    table = measure_speed(potentials, start, device=choose_device(device_name), **options)
    write_text(output, table.to_csv(index=False, float_format="%.6g"))
