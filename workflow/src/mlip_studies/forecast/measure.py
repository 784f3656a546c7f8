"""Rates of a finished run, from its benchmark files and from what trainings, dynamics and calculations wrote."""

from __future__ import annotations

import datetime
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mlip_studies.errors import InputError
from mlip_studies.forecast.jobs import Job, Work, work_of
from mlip_studies.forecast.rates import Measurement, read_rates
from mlip_studies.forecast.schedule import Hardware, reserved_threads, schedule
from mlip_studies.runtime.options import read_options

HEADER = """# Measured rates that `python -m mlip_studies forecast` uses; docs/forecast.md says how. Written by
#     python -m mlip_studies forecast --measure FOLDER --conditions "..."
# which replaces the entry of the same name and leaves the others. Later entries go before earlier ones.
"""
#: parts of a second that are kept
DIGITS = 4
#: a longer time in which no job ran is a pause of the run, a shorter one the start of the next jobs, s
PAUSE_S = 60.0


def located(path: str, prefix: str, folder: Path) -> Path:
    """Where a file of the workflow's results lies in another folder of results of the same scale."""
    return folder / Path(path).relative_to(prefix) if Path(path).is_relative_to(prefix) else Path(path)


def seconds_of(jobs: Iterable[Job], prefix: str, folder: Path) -> dict[int, float]:
    """Wall time of the jobs that have a benchmark file, s, by number; of the last attempt.

    Args:
        jobs: with the paths of the workflow.
        prefix: folder of results in these paths, such as ``results/mini``.
        folder: where these results lie.

    Raises:
        InputError: a benchmark file that is not JSON lines with the key ``s``.
    """
    result = {}
    for job in jobs:
        path = None if job.benchmark is None else located(job.benchmark, prefix, folder)
        if path is None or not path.exists():
            continue
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            result[job.number] = float(lines[-1]["s"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise InputError(
                f"{path}: expected JSON lines with the key 's'; delete the file and run that job again"
            ) from None
    return result


def span_of(jobs: Iterable[Job], prefix: str, folder: Path, seconds: Mapping[int, float]) -> float:
    """Time from the first start to the last end, s, by the times at which benchmark files were written."""
    intervals = _intervals(jobs, prefix, folder, seconds)
    return max(end for _, end in intervals) - min(start for start, _ in intervals)


def pauses_of(jobs: Iterable[Job], prefix: str, folder: Path, seconds: Mapping[int, float]) -> float:
    """Sum of the times longer than :data:`PAUSE_S` in which no job of a run ran, s: a night between two commands."""
    intervals = sorted(_intervals(jobs, prefix, folder, seconds))
    total, latest = 0.0, intervals[0][1]
    for start, end in intervals:
        total += start - latest if start - latest > PAUSE_S else 0.0
        latest = max(latest, end)
    return total


def _intervals(
    jobs: Iterable[Job], prefix: str, folder: Path, seconds: Mapping[int, float]
) -> list[tuple[float, float]]:
    """Start and end of each job with a benchmark file, s since the epoch."""
    ends = {
        job.number: located(job.benchmark, prefix, folder).stat().st_mtime
        for job in jobs
        if job.benchmark is not None and job.number in seconds
    }
    return [(end - seconds[number], end) for number, end in ends.items()]


def measure(
    jobs: Sequence[Job],
    prefix: str,
    folder: Path,
    *,
    hardware: Hardware,
    name: str,
    scale: str,
    command: str,
    conditions: str,
) -> Measurement:
    """Rates of a run.

    Args:
        jobs: all jobs of the run, as if nothing had been made yet.
        prefix: folder of results in the jobs' paths.
        folder: where the results lie.
        hardware: cores, GPUs and places on a cluster that the run was given.
        name: of the measurement.
        scale: of the run.
        command: that made the run.
        conditions: what else ran on the machine.

    Raises:
        InputError: no run there, or files of it that cannot be read.
    """
    provenance = read_result(folder / "provenance.json", ("commit", "made", "hardware"))
    seconds = seconds_of(jobs, prefix, folder)
    if not seconds:
        raise InputError(f"{folder}: no benchmark files of these targets; run them there first")
    done = [job for job in jobs if job.number in seconds]
    by_number = {job.number: job for job in jobs}
    training: list[dict[str, Any]] = []
    dynamics: list[dict[str, Any]] = []
    calculations: list[dict[str, Any]] = []
    groups: dict[str, list[tuple[float, float]]] = {}
    devices = set()
    threads = {1}
    for job in done:
        work, s = work_of(job, by_number), seconds[job.number]
        size = sum(path.stat().st_size for path in _outputs(job, prefix, folder))
        groups.setdefault(job.group, []).append((s, size))
        if work.kind == "training":
            path = located(next(each for each in job.outputs if each.endswith("run.json")), prefix, folder)
            run = read_result(path, ("steps", "train_seconds"))
            devices.add(run.get("device", "cpu"))
            threads.add(run.get("environment", {}).get("threads", 1))
            training.append(_training(work, run, s, size))
        elif work.kind == "dynamics":
            path = located(next(each for each in job.outputs if each.endswith("summary.json")), prefix, folder)
            run = read_result(path, ("steps", "seconds", "n_trajectories"))
            devices.add(run.get("device", "cpu"))
            if run["steps"]:
                dynamics.append(_dynamics(work, run, s, size))
        elif work.kind == "calculations":
            table = _read_table(located(next(each for each in job.outputs if each.endswith(".csv")), prefix, folder))
            if len(table):
                calculations.append(_calculations(work, table, s, size, reserved_threads(job, hardware)))
    machine = provenance["hardware"]
    pauses = pauses_of(done, prefix, folder, seconds)
    span = span_of(done, prefix, folder, seconds)
    entry = {
        "name": name,
        "date": provenance["made"][:10],
        "processor": machine["processor"],
        "cores": int(machine["cores"]),
        "gpu": provenance.get("gpu"),
        "device": "cuda" if "cuda" in devices else "cpu",
        "threads": max(threads),
        "scale": scale,
        "conditions": conditions,
        "commit": provenance["commit"],
        "command": command,
        "made": provenance["made"],
        "span_s": round(span, 1),
        "overhead_s": round(_overhead(done, seconds, hardware, span - pauses), 2),
        "jobs": {group: _spread(values) for group, values in sorted(groups.items())},
        "training": _merged(training, ("model", "options", "batch", "data", "precision"), _per_step),
        "dynamics": _merged(dynamics, ("model", "options", "start", "trajectories", "precision"), _per_step),
        "calculations": _merged(calculations, ("level", "frames"), _per_calculation),
    }
    return read_options(Measurement, entry, name)


def read_result(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON file of a finished run, of any machine: without its checksum.

    Args:
        path: the file.
        keys: that must be there.

    Raises:
        InputError: no such file, not a JSON object, or a key that is missing.
    """
    try:
        content = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{path}: no such file; finish the run, then measure it") from None
    except ValueError:
        raise InputError(f"{path}: not JSON; run `make verify`, then the workflow again") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path}: expected an object with the key {missing[0]!r}; delete it and run the job again")
    return dict(content)


def _read_table(path: Path) -> pd.DataFrame:
    """A table of calculations, with the seconds that each took.

    Raises:
        InputError: no such file, not a table, or without the column.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):
        raise InputError(f"{path}: expected a CSV table; delete the file and run that job again") from None
    if "seconds" not in table:
        raise InputError(f"{path}: expected a column 'seconds'; delete the file and run that job again")
    return table


def _outputs(job: Job, prefix: str, folder: Path) -> list[Path]:
    paths = [located(each, prefix, folder) for each in job.outputs]
    return [path for path in paths if path.is_file()]


def _training(work: Work, run: Mapping[str, Any], seconds: float, size: float) -> dict[str, Any]:
    steps = max(int(run["steps"]), 1)
    # Multi-fidelity trainings do not record their validation: there it is part of the rest.
    inside = float(run["train_seconds"]) + float(run.get("evaluation_seconds", 0.0))
    key = dict(work.key)
    return key | {"precision": key.get("precision", "float32")} | _counts(work, inside, steps, seconds - inside, size)


def _dynamics(work: Work, run: Mapping[str, Any], seconds: float, size: float) -> dict[str, Any]:
    inside = float(run["seconds"])
    key = dict(work.key) | {"trajectories": int(run["n_trajectories"])}
    return key | _counts(work, inside, int(run["steps"]), seconds - inside, size)


def _calculations(work: Work, table: pd.DataFrame, seconds: float, size: float, threads: int) -> dict[str, Any]:
    inside = float(table["seconds"].sum())
    return dict(work.key) | _counts(work, inside, len(table), seconds - inside / threads, size)


def _counts(work: Work, inside: float, done: int, rest: float, size: float) -> dict[str, Any]:
    """What one job adds to the sums of its rate.

    Args:
        work: what was expected of the job; an unknown amount counts as what was done.
        inside: time of the steps or calculations, s.
        done: steps or calculations.
        rest: the other time of the job, s; clocks differ by a little, so that it can be negative.
        size: of its outputs, bytes.
    """
    return {"inside": inside, "done": done, "amount": work.amount or done, "start_s": max(rest, 0.0), "bytes": size}


def _spread(values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    seconds = [each[0] for each in values]
    return {
        "n": len(values),
        "mean_s": round(statistics.fmean(seconds), DIGITS),
        "median_s": round(statistics.median(seconds), DIGITS),
        "max_s": round(max(seconds), DIGITS),
        "bytes": round(statistics.fmean(each[1] for each in values)),
    }


def _per_step(inside: float, done: int, amount: float, jobs: int) -> dict[str, Any]:
    """A rate that gives the sum of times again: expected steps times share times seconds per step."""
    return {"n": jobs, "seconds_per_step": inside / done, "share": done / amount}


def _per_calculation(inside: float, done: int, amount: float, jobs: int) -> dict[str, Any]:
    return {"n": done, "seconds": inside / done}


def _merged(
    rows: Sequence[dict[str, Any]], keys: Sequence[str], rate: Callable[[float, int, float, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """One line per key: rates from the sums over its jobs, start and size as means over them.

    Args:
        rows: one per job, with the keys and what :func:`_counts` says.
        keys: what jobs of one line have in common.
        rate: from time inside, s, steps or calculations done and expected, and the number of jobs.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(json.dumps([row[key] for key in keys], sort_keys=True), []).append(row)
    result = []
    for same in found.values():
        inside, done, amount = (math.fsum(row[key] for row in same) for key in ("inside", "done", "amount"))
        numbers = rate(inside, round(done), amount, len(same))
        numbers["start_s"] = statistics.fmean(row["start_s"] for row in same)
        rounded = {key: value if key == "n" else float(f"{value:.5g}") for key, value in numbers.items()}
        size = round(statistics.fmean(row["bytes"] for row in same))
        result.append({key: same[0][key] for key in keys} | rounded | {"bytes": size})
    return result


def _overhead(jobs: Sequence[Job], seconds: Mapping[int, float], hardware: Hardware, span: float) -> float:
    """Time per job, s, that makes a schedule of the run as long as the run was; 0 where it is longer without.

    Args:
        jobs: those that ran.
        seconds: of each by number.
        hardware: what the run was given: jobs that waited for a GPU or a core had no overhead.
        span: of the run without its pauses, s.
    """

    def wall(overhead: float) -> float:
        return schedule(jobs, {job.number: seconds[job.number] + overhead for job in jobs}, hardware).wall_s

    if wall(0.0) >= span:
        return 0.0
    return _bisect(wall, span, 0.0, span)


def _bisect(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    for _ in range(24):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return low


def write_rates(measurement: Measurement, path: Path) -> None:
    """Put a measurement into a file of rates, in place of the one of its name; others stay as they are.

    Raises:
        InputError: a file that cannot be read as rates or not written.
    """
    others = [each for each in (read_rates(path) if path.exists() else []) if each.name != measurement.name]
    entries = [_plain(asdict(each)) for each in [*others, measurement]]
    text = yaml.dump({"measurements": entries}, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    now = datetime.date.today().isoformat()
    # Not an artefact of the workflow: no checksum beside it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{HEADER}# Last written on {now}.\n{text}", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot write ({error.strerror}); make it writable or give --rates") from error


class _Rate(dict[str, Any]):
    """A rate, written on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes rates on one line each."""


_Dumper.add_representer(
    _Rate, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=True)
)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """A measurement as YAML likes it: lists for tuples, each rate by itself."""
    result = dict(entry)
    result["jobs"] = {kind: _Rate(rate) for kind, rate in entry["jobs"].items()}
    for part in ("training", "dynamics", "calculations"):
        result[part] = [_Rate(rate) for rate in entry[part]]
    return result
