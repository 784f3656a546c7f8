"""Measured rates (benchmarks/rates.yaml) and what they say about a job. What nobody measured stays unknown.

A job's time follows from a rate in one of these ways, in this order:

* ``measured``: the same network, batch and data (training), the same network, start structures and number of
  trajectories (dynamics), the same level and molecules (calculations), or a job of the same kind at the same scale.
* ``estimated``: the same network with another batch or other data, as time per molecule; a job at the other scale whose
  work does not depend on the scale (:data:`SCALE_FREE`).
* ``unknown``: everything else.

Rates of a processor say nothing about a GPU, and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlip_studies.config import SCALES, read_yaml
from mlip_studies.errors import InputError
from mlip_studies.forecast.jobs import Job, Work
from mlip_studies.forecast.schedule import Hardware, reserved_threads
from mlip_studies.runtime.options import check, read_options

RATES = Path("benchmarks/rates.yaml")
#: kinds of jobs that read small tables, or nothing, at every scale
SCALE_FREE = (
    "draw",
    "verdicts",
    "provenance",
    "costs",
    "build_scans",
    "nan_gradients",
    "gemnet_singularities",
    "models",
)
STATUSES = ("measured", "estimated", "unknown")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class JobRate:
    """Time of one job of a kind.

    Attributes:
        n: jobs measured.
        mean_s: mean wall time, s: what sums are made from.
        median_s: median, s.
        max_s: longest, s.
        bytes: mean size of a job's outputs, bytes.
    """

    n: int
    mean_s: float
    median_s: float
    max_s: float
    bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StepRate:
    """Time of one step of a network.

    Attributes:
        model: name in the catalog.
        options: of its constructor, those of no cost left out.
        n: jobs measured.
        seconds_per_step: s.
        start_s: rest of such a job, s: start, reading, last predictions, writing.
        share: steps that were taken, of those that were expected.
        precision: of the network.
        bytes: mean size of a job's outputs, bytes.
    """

    model: str
    options: dict[str, Any]
    n: int
    seconds_per_step: float
    start_s: float = 0.0
    share: float = 1.0
    precision: str = "float32"
    bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingRate(StepRate):
    """Time of one training step, with the validation that a run recorded; rates of bench_models.py have none.

    Attributes:
        batch: molecules per step, or ``auto``.
        data: data set.
    """

    batch: int | str
    data: str


@dataclass(frozen=True, kw_only=True)
class DynamicsRate(StepRate):
    """Time of one step of all trajectories together.

    Attributes:
        start: name of the start structures.
        trajectories: advanced together.
    """

    start: str
    trajectories: int


@dataclass(frozen=True)
class CalculationRate:
    """Time of one reference calculation on one core.

    Attributes:
        level: its name.
        frames: whose molecules: a job of dynamics, or ``floor``.
        n: calculations measured.
        seconds: core-seconds per calculation, failed ones included.
        start_s: rest of such a job, s.
        bytes: mean size of a job's outputs, bytes.
    """

    level: str
    frames: str
    n: int
    seconds: float
    start_s: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """Rates of one run or benchmark.

    Attributes:
        name: for tables.
        date: of the run.
        processor: model name.
        cores: of the machine.
        gpu: name, None: none.
        device: ``cpu`` or ``cuda``: what trainings and dynamics ran on.
        threads: that a training used. Only told: times are never scaled by threads.
        scale: of the run.
        conditions: what else ran there.
        commit: of the code.
        command: that repeats it.
        made: time stamp of the run's provenance.json; None: unknown.
        span_s: from the first job's start to the last one's end, s; None: a benchmark.
        overhead_s: per job, beside what the job measured itself, so that a schedule of the run on the hardware that it
            was given takes ``span_s`` less its pauses.
        jobs: by kind.
        training: by network, batch and data.
        dynamics: by network, start structures and number of trajectories.
        calculations: by level and molecules.
    """

    name: str
    date: str
    processor: str
    cores: int
    device: str
    scale: str
    conditions: str
    commit: str
    command: str
    gpu: str | None = None
    threads: int = 1
    made: str | None = None
    span_s: float | None = None
    overhead_s: float = 0.0
    jobs: dict[str, Any] = field(default_factory=dict)
    training: tuple[TrainingRate, ...] = ()
    dynamics: tuple[DynamicsRate, ...] = ()
    calculations: tuple[CalculationRate, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        check(self.device in DEVICES, f"{self.name}.device", f"one of {', '.join(DEVICES)}", self.device)
        check(self.scale in SCALES, f"{self.name}.scale", f"one of {', '.join(SCALES)}", self.scale)
        read = {key: read_options(JobRate, rate, f"{self.name}.jobs.{key}") for key, rate in self.jobs.items()}
        object.__setattr__(self, "jobs", read)
        rates = [(f"jobs.{key}", rate) for key, rate in read.items()]
        for part in ("training", "dynamics", "calculations"):
            rates += [(f"{part}[{index}]", rate) for index, rate in enumerate(getattr(self, part))]
        for where, rate in rates:
            for key, value in vars(rate).items():
                number = isinstance(value, (int, float))
                if number and (not math.isfinite(value) or value < 0 or (key == "n" and value < 1)):
                    check(False, f"{self.name}.{where}.{key}", "a number of 0 or more (n: 1 or more)", value)


@dataclass(frozen=True)
class Estimate:
    """What is known about a job's time.

    Attributes:
        status: one of :data:`STATUSES`.
        seconds: wall time, s; None where unknown.
        bytes: size of its outputs; None where unknown.
        source: name of the measurement.
        note: what it rests on, or what is missing.
        at_most: the job may end earlier.
    """

    status: str
    seconds: float | None = None
    bytes: float | None = None
    source: str = ""
    note: str = ""
    at_most: bool = False


def read_rates(path: Path = RATES) -> list[Measurement]:
    """The measurements of a file of rates.

    Raises:
        InputError: no such file, not YAML, or a wrong key in it.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; measure a run with python -m mlip_studies forecast --measure FOLDER")
    content = read_yaml(path)
    if not isinstance(content.get("measurements"), list):
        raise InputError(f"{path}: expected a list under 'measurements'; write it with forecast --measure FOLDER")
    entries = content["measurements"]
    result = [read_options(Measurement, entry, f"{path}: measurements[{i}]") for i, entry in enumerate(entries)]
    names = [each.name for each in result]
    for name in names:
        check(names.count(name) == 1, f"{path}: measurements", "every name once", name)
    return result


def estimate(job: Job, work: Work, rates: Sequence[Measurement], scale: str, hardware: Hardware) -> Estimate:
    """Wall time of a job from measured rates.

    Args:
        job: the job.
        work: how much it has to do.
        rates: the measurements, later ones going before earlier ones.
        scale: of the run that is forecast.
        hardware: where it will run.
    """
    if job.empty:
        return Estimate("measured", 0.0, 0.0)
    if work.kind == "download":
        return _download(work, hardware)
    device = "cuda" if job.gpus and hardware.gpus else "cpu"
    usable = [each for each in reversed(rates) if not job.gpus or each.device == device]
    if not usable:
        what = "benchmarks/bench_gpu.sh, or --measure a run on one" if device == "cuda" else "--measure a run"
        return Estimate("unknown", note=f"no rate measured on {device}: measure with {what}")
    if work.kind == "job":
        return _plain_job(job, usable, scale)
    if work.amount is None:
        return Estimate("unknown", note="how much there is to do is known only when it runs")
    if work.kind == "training":
        return _training(work, usable)
    if work.kind == "dynamics":
        return _dynamics(work, usable)
    return _calculations(job, work, usable, hardware)


def _download(work: Work, hardware: Hardware) -> Estimate:
    if work.amount is None:
        return Estimate("unknown", note="size of the file not in config/datasets.yaml")
    if hardware.megabytes_per_second is None:
        return Estimate("measured", 0.0, work.amount, note="time not counted: no --bandwidth given")
    seconds = work.amount / (1e6 * hardware.megabytes_per_second)
    return Estimate("estimated", seconds, work.amount, note="at the bandwidth given")


def _plain_job(job: Job, usable: Iterable[Measurement], scale: str) -> Estimate:
    other = None
    for each in usable:
        rate = each.jobs.get(job.group)
        if rate is None:
            continue
        if each.scale == scale:
            return Estimate("measured", rate.mean_s, rate.bytes, each.name)
        other = other or (each, rate)
    if other is not None and job.group in SCALE_FREE:
        return Estimate("estimated", other[1].mean_s, other[1].bytes, other[0].name, f"from {other[0].scale}")
    where = f" at scale {scale}" if other is not None else ""
    return Estimate("unknown", note=f"kind {job.group} not measured{where}")


def _training(work: Work, usable: Iterable[Measurement]) -> Estimate:
    amount, key = float(work.amount or 0.0), work.key
    near: tuple[Measurement, TrainingRate] | None = None
    for each in usable:
        for rate in each.training:
            if rate.model != key["model"] or rate.options != key["options"]:
                continue
            if rate.precision != key.get("precision", rate.precision):
                continue
            if rate.batch == key["batch"] and rate.data == key["data"]:
                seconds = rate.start_s + amount * rate.share * rate.seconds_per_step
                return Estimate("measured", seconds, rate.bytes, each.name, at_most=work.at_most and rate.share >= 1.0)
            if near is None and isinstance(rate.batch, int):
                near = (each, rate)
    if near is None or not isinstance(key["batch"], int):
        return Estimate("unknown", note=f"training of {key['model']} with these options not measured")
    each, rate = near
    per_molecule = rate.seconds_per_step / int(rate.batch)
    note = f"per molecule, from batches of {rate.batch} of {rate.data}"
    seconds = rate.start_s + amount * key["batch"] * per_molecule
    return Estimate("estimated", seconds, None, each.name, note, at_most=work.at_most)


def _dynamics(work: Work, usable: Iterable[Measurement]) -> Estimate:
    amount, key = float(work.amount or 0.0), work.key
    if key["trajectories"] is None:
        return Estimate("unknown", note="number of start structures known only when it runs")
    for each in usable:
        for rate in each.dynamics:
            if (rate.model, rate.options, rate.precision) != (key["model"], key["options"], key["precision"]):
                continue
            if (rate.start, rate.trajectories) == (key["start"], key["trajectories"]):
                seconds = rate.start_s + amount * rate.share * rate.seconds_per_step
                return Estimate("measured", seconds, rate.bytes, each.name, at_most=work.at_most and rate.share >= 1.0)
    return Estimate("unknown", note=f"dynamics of {key['model']} with these molecules not measured")


def _calculations(job: Job, work: Work, usable: Iterable[Measurement], hardware: Hardware) -> Estimate:
    for each in usable:
        for rate in each.calculations:
            if (rate.level, rate.frames) == (work.key["level"], work.key["frames"]):
                seconds = rate.start_s + float(work.amount or 0.0) * rate.seconds / reserved_threads(job, hardware)
                return Estimate("measured", seconds, rate.bytes, each.name)
    return Estimate("unknown", note=f"{work.key['level']} not measured for these molecules")
