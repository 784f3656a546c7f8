"""The jobs of a command, from Snakemake's own graph, and how much work each one is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlip_studies.errors import InputError

#: the process that makes the graph; only it knows Snakemake
LISTER = Path("workflow/scripts/forecast_jobs.py")
#: rules whose parameters say how much work a job is, or which those rules look at
PARAMS_OF = (
    "fetch",
    "train",
    "train_run",
    "train_network",
    "train_nbody",
    "md",
    "spot_check",
    "sample_frames",
    "floor_frames",
    "representatives",
)
#: options of a network that name elements or columns and cost nothing
FREE_OPTIONS = ("elements", "encoding", "frequency_std")


@dataclass(frozen=True)
class Job:
    """One job of the graph.

    Attributes:
        number: in the graph.
        rule: its rule.
        group: what it is counted under: the first part of its benchmark's path, or the rule.
        needs: numbers of the jobs that make its inputs.
        run: whether it has to run; of the others only what the rest need is known.
        empty: it only collects others and starts no process.
        local: runs where snakemake runs, also on a cluster.
        threads: asked for.
        gpus: asked for.
        mem_mb: asked for, MB.
        limit_s: time limit asked for, s.
        priority: of Snakemake's scheduler.
        inputs: paths.
        outputs: paths.
        benchmark: path of its benchmark file, None if it has none.
        params: parameters, of rules in :data:`PARAMS_OF`.
    """

    number: int
    rule: str
    group: str = ""
    needs: tuple[int, ...] = ()
    run: bool = True
    empty: bool = False
    local: bool = False
    threads: int = 1
    gpus: int = 0
    mem_mb: float = 0.0
    limit_s: float = 0.0
    priority: float = 0.0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    benchmark: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """How much a job has to do.

    Attributes:
        kind: ``training``, ``dynamics``, ``calculations``, ``download`` or ``job`` (nothing but one job of its group).
        amount: steps, calculations, bytes; 1 for ``job``; None where it is known only when the job runs.
        unit: of the amount.
        key: what a measured rate must have in common with it.
        at_most: the amount is a limit that a run may end before.
    """

    kind: str
    amount: float | None = 1.0
    unit: str = "job"
    key: Mapping[str, Any] = field(default_factory=dict)
    at_most: bool = False


def list_jobs(
    targets: Sequence[str], config: Mapping[str, Any] | None = None, from_scratch: bool = False, root: Path = Path()
) -> list[Job]:
    """All jobs behind targets, those that need not run included.

    Args:
        targets: rules or files; none: the workflow's default.
        config: values as after ``--config``.
        from_scratch: as if nothing had been made yet.
        root: top folder of the checkout, where the workflow would be run.

    Raises:
        InputError: not a checkout, or Snakemake finds no way to the targets; with Snakemake's own words.
    """
    if not (root / LISTER).exists():
        raise InputError(f"{(root / LISTER).absolute()}: no such file; run this from the top folder of a checkout")
    request = {
        "targets": list(targets),
        "config": dict(config or {}),
        "from_scratch": from_scratch,
        "params_of": list(PARAMS_OF),
    }
    command = [sys.executable, str(LISTER), json.dumps(request)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if found.returncode:
        raise InputError(f"forecast: the workflow cannot be planned: {_reason(found.stderr)}")
    return [read_job(each) for each in json.loads(found.stdout)]


def _reason(messages: str) -> str:
    """The lines of Snakemake's message that say something, as one."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    start = max((i for i, line in enumerate(lines) if "DAG of jobs" in line), default=-1) + 1
    wanted = [line for line in lines[start:] if not line.startswith(("File ", "Traceback", "^"))]
    return " ".join(wanted[-6:]) or "no message"


def read_job(entry: Mapping[str, Any]) -> Job:
    """A job from a line of the lister."""
    benchmark = entry.get("benchmark")
    return Job(
        number=entry["id"],
        rule=entry["rule"],
        group=group_of(entry["rule"], benchmark),
        needs=tuple(entry["needs"]),
        run=entry["run"],
        empty=entry.get("empty", False),
        local=entry.get("local", False),
        threads=entry.get("threads", 1),
        gpus=entry.get("gpus", 0),
        mem_mb=entry.get("mem_mb", 0.0),
        limit_s=60.0 * entry.get("runtime_min", 0.0),
        priority=entry.get("priority", 0.0),
        inputs=tuple(entry["inputs"]),
        outputs=tuple(entry["outputs"]),
        benchmark=benchmark,
        params=entry["params"],
    )


def group_of(rule: str, benchmark: str | None) -> str:
    """What a job is counted under, as in the cost table: rules that draw are one group, trainings are one."""
    if benchmark is None:
        return rule
    parts = Path(benchmark).parts
    below = parts[parts.index("benchmarks") + 1 :] if "benchmarks" in parts else parts
    return below[0].removesuffix(".jsonl") if below else rule


def work_of(job: Job, jobs: Mapping[int, Job]) -> Work:
    """How much a job has to do, from its parameters and those of the jobs that make its inputs.

    Args:
        job: the job.
        jobs: all jobs by number.
    """
    if job.rule == "fetch":
        size = job.params["file"].get("bytes")
        return Work("download", None if size is None else float(size), "bytes")
    if job.rule in ("train_run", "train_network"):
        return _training(job)
    if job.rule == "train":
        return _multi_fidelity(job)
    if job.rule == "train_nbody":
        settings = job.params["settings"]
        steps = settings["training"].get("max_steps")
        batch = settings["training"].get("batch_size")
        key = _network_key("nbody", settings["network"]) | {"batch": batch, "data": _data_of(job)}
        return Work("training", steps, "steps", key, at_most=True)
    if job.rule == "md":
        return _dynamics(job, jobs)
    if job.rule == "spot_check":
        frames = _producer(job, jobs, ("sample_frames", "floor_frames"))
        key = {"level": job.params["config"]["level"], "frames": _frames_key(job)}
        return Work("calculations", _count_frames(frames, jobs), "calculations", key)
    return Work("job")


def network_of(job: Job) -> dict[str, Any]:
    """Model and options of the network that a training job trains.

    Raises:
        InputError: the job trains nothing.
    """
    if job.rule == "train":
        spec = job.params["spec"]
        return _network_key(spec["model"], spec["options"])
    if job.rule in ("train_run", "train_network"):
        model = job.params["config"]["model"]
        return _network_key(model["name"], model.get("options", {}))
    raise InputError(f"forecast: a job of rule {job.rule} trains no network")


def _network_key(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "options": {k: v for k, v in sorted(options.items()) if k not in FREE_OPTIONS}}


def _data_of(job: Job) -> str:
    """The folder of the first store or file of data among the inputs: the name of the data set."""
    names = [Path(path).parent.name for path in job.inputs if path.endswith(("store.h5", ".npz"))]
    return names[0] if names else ""


def _training(job: Job) -> Work:
    from mlip_studies.training.config import TrainingConfig

    config = job.params["config"]
    training = TrainingConfig.from_dict(config["training"])
    size = config.get("train_size")
    # The split alone knows how many rows there are where no size is named.
    batch = training.molecules_per_step(size) if size else training.batch_size
    steps = training.max_steps
    if training.max_epochs and size:
        in_epochs = training.max_epochs * math.ceil(size / int(batch))
        steps = in_epochs if steps is None else min(steps, in_epochs)
    key = network_of(job) | {
        "batch": batch,
        "precision": training.precision,
        "data": Path(config["store"]).parent.name,
    }
    stops = training.early_stop is not None or training.min_learning_rate is not None
    return Work("training", steps, "steps", key, at_most=stops)


def _multi_fidelity(job: Job) -> Work:
    spec = job.params["spec"]
    training, mix = spec["training"], spec["mix"]
    batch = training["batch_size"]
    low, high = mix["train_low"], mix["train_high"]
    epochs = training.get("max_epochs")
    if spec["strategy"] == "transfer":
        share = spec["transfer"].get("fraction", 0.5)
        per_epoch = share * math.ceil(low / batch) + (1 - share) * math.ceil(high / batch)
    else:
        per_epoch = math.ceil((high if spec["strategy"] == "delta" else low + high) / batch)
    limits = [training.get("max_steps"), round(epochs * per_epoch) if epochs else None]
    known = [limit for limit in limits if limit]
    key = network_of(job) | {"batch": batch, "precision": "float32", "data": _data_of(job)}
    return Work("training", min(known) if known else None, "steps", key, at_most=True)


def _producer(job: Job, jobs: Mapping[int, Job], rules: Sequence[str]) -> Job | None:
    return next((jobs[number] for number in job.needs if jobs[number].rule in rules), None)


def _start(job: Job, jobs: Mapping[int, Job]) -> tuple[str, int | None]:
    """Name and number of the start structures of dynamics."""
    start = job.params["config"]["start"]
    if "store" in start:
        return Path(start["store"]).parent.name, 1
    name = Path(start["file"]).stem
    made_by = _producer(job, jobs, ("representatives", "start_structures"))
    if made_by is None:
        return name, None
    if made_by.rule == "representatives":
        return name, int(made_by.params["spec"]["n"])
    return name, len(made_by.inputs)


def _trajectories(job: Job, jobs: Mapping[int, Job]) -> int | None:
    config = job.params["config"]
    temperatures = config.get("temperature_k", 300.0)
    n_temperatures = len(temperatures) if isinstance(temperatures, list) else 1
    count = _start(job, jobs)[1]
    return None if count is None else count * n_temperatures * int(config.get("replicas", 1))


def _dynamics(job: Job, jobs: Mapping[int, Job]) -> Work:
    config = job.params["config"]
    steps = round((config["time_ps"] + config.get("thermalise_ps", 0.0)) * 1000.0 / config.get("timestep_fs", 0.5))
    trained = _producer(job, jobs, ("train", "train_run", "train_network"))
    potential = config["potential"]
    network = (
        network_of(trained)
        if trained is not None
        else {"model": potential.get("pretrained", "") if isinstance(potential, dict) else "", "options": {}}
    )
    key = network | {
        "trajectories": _trajectories(job, jobs),
        "start": _start(job, jobs)[0],
        "precision": config.get("precision", "float32"),
    }
    return Work("dynamics", float(steps), "steps", key, at_most=True)


def _frames_key(job: Job) -> str:
    """Whose molecules are calculated: the job of dynamics, or the test rows."""
    parts = Path(job.inputs[0]).parts
    return parts[-3] if "checks" in parts else parts[-2]


def _count_frames(frames: Job | None, jobs: Mapping[int, Job]) -> float | None:
    if frames is None:
        return None
    if frames.rule == "floor_frames":
        return float(frames.params["settings"]["rows"])
    dynamics = _producer(frames, jobs, ("md",))
    count = None if dynamics is None else _trajectories(dynamics, jobs)
    return None if count is None else float(count * frames.params["samples"])
