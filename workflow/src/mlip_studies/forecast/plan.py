"""A forecast: costs of the jobs behind targets by kind, their sums, and wall times on stated hardware."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.forecast.jobs import Job, Work, work_of
from mlip_studies.forecast.measure import seconds_of, span_of
from mlip_studies.forecast.rates import Estimate, Measurement, estimate
from mlip_studies.forecast.schedule import Hardware, reserved_threads, schedule

SECONDS_PER_HOUR = 3600.0
COLUMNS = (
    "kind",
    "jobs",
    "measured",
    "estimated",
    "unknown",
    "core_h",
    "gpu_h",
    "longest_s",
    "unknown_limit_core_h",
    "unknown_limit_gpu_h",
    "max_mem_mb",
    "download_bytes",
    "disk_bytes",
    "note",
)
COMPARED = ("kind", "jobs", "compared", "predicted_s", "actual_s", "ratio")


@dataclass(frozen=True)
class Planned:
    """A job with what is known about its cost."""

    job: Job
    work: Work
    estimate: Estimate


@dataclass(frozen=True)
class Forecast:
    """What targets will cost.

    Attributes:
        scale: mini or full.
        targets: asked for; none: the workflow's default.
        hardware: asked about.
        table: one line per kind, :data:`COLUMNS`, the last one for all.
        walls: one line per hardware: ``hardware``, ``wall_s`` (jobs of unknown time count as nothing), ``limit_wall_s``
            (they take the time that they ask for; None if one asks for none), ``peak_mem_mb``.
        present_bytes: of downloads that are there already.
        sources: the measurements that were used, by name.
    """

    scale: str
    targets: tuple[str, ...]
    hardware: Hardware
    table: pd.DataFrame
    walls: tuple[dict[str, Any], ...]
    present_bytes: float
    sources: tuple[Measurement, ...]

    @property
    def total(self) -> dict[str, Any]:
        """The last line of the table."""
        return dict(self.table.iloc[-1])


def plan(jobs: Sequence[Job], rates: Sequence[Measurement], scale: str, hardware: Hardware) -> list[Planned]:
    """The jobs that run, each with its estimate.

    Args:
        jobs: all jobs of the graph.
        rates: measurements.
        scale: mini or full.
        hardware: where.
    """
    by_number = {job.number: job for job in jobs}
    result = []
    for job in jobs:
        if job.run:
            work = Work("job") if job.empty else work_of(job, by_number)
            result.append(Planned(job, work, estimate(job, work, rates, scale, hardware)))
    return result


def forecast(
    jobs: Sequence[Job],
    rates: Sequence[Measurement],
    scale: str,
    hardware: Hardware,
    targets: Sequence[str] = (),
    others: Sequence[Hardware] = (),
) -> Forecast:
    """Costs of the jobs that run.

    Args:
        jobs: all jobs of the graph.
        rates: measurements.
        scale: mini or full.
        hardware: what hours are counted on, and the first wall time.
        targets: for the heading.
        others: more hardware to give wall times for.
    """
    planned = plan(jobs, rates, scale, hardware)
    working = [each for each in planned if not each.job.empty]
    kinds = sorted({each.job.group for each in working})
    rows = [_row(kind, [each for each in working if each.job.group == kind], hardware) for kind in kinds]
    rows.sort(key=lambda row: (-row["core_h"] - row["gpu_h"], -row["jobs"], row["kind"]))
    rows.append(_row("all", working, hardware) | {"note": ""})
    walls = []
    for each in (hardware, *others):
        known = planned if each == hardware else plan(jobs, rates, scale, each)
        walls.append(_wall(known, rates, each))
    used = {each.estimate.source for each in planned}
    downloads = [job for job in jobs if job.rule == "fetch" and not job.run]
    present = sum(float(job.params["file"].get("bytes") or 0.0) for job in downloads)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    sources = tuple(each for each in rates if each.name in used)
    return Forecast(scale, tuple(targets), hardware, table, tuple(walls), present, sources)


def _row(kind: str, planned: Sequence[Planned], hardware: Hardware) -> dict[str, Any]:
    """One line of the table; core hours are those that the jobs hold, downloads hold none."""
    known = [each for each in planned if each.estimate.seconds is not None]
    unknown = [each for each in planned if each.estimate.seconds is None]
    count = {status: sum(each.estimate.status == status for each in planned) for status in ("measured", "estimated")}
    has_gpus = hardware.gpus > 0
    notes = {each.estimate.note: None for each in planned if each.estimate.note}
    if any(each.estimate.at_most for each in planned):
        notes["at most: may end earlier"] = None
    return {
        "kind": kind,
        "jobs": len(planned),
        **count,
        "unknown": len(unknown),
        "core_h": _hours((e.estimate.seconds or 0.0) * _cores(e, hardware) for e in known),
        "gpu_h": _hours((e.estimate.seconds or 0.0) * e.job.gpus * has_gpus for e in known),
        "longest_s": max((e.estimate.seconds or 0.0 for e in known), default=0.0),
        "unknown_limit_core_h": _hours(e.job.limit_s * _cores(e, hardware) for e in unknown),
        "unknown_limit_gpu_h": _hours(e.job.limit_s * e.job.gpus * has_gpus for e in unknown),
        "max_mem_mb": max((e.job.mem_mb for e in planned), default=0.0),
        "download_bytes": sum(e.work.amount or 0.0 for e in planned if e.work.kind == "download"),
        "disk_bytes": sum(e.estimate.bytes or 0.0 for e in planned),
        "note": "; ".join(notes),
    }


def _cores(planned: Planned, hardware: Hardware) -> int:
    """Cores that count as used: a download waits for the network."""
    return 0 if planned.work.kind == "download" else reserved_threads(planned.job, hardware)


def _hours(seconds: Iterable[float]) -> float:
    return math.fsum(seconds) / SECONDS_PER_HOUR


def _wall(planned: Sequence[Planned], rates: Sequence[Measurement], hardware: Hardware) -> dict[str, Any]:
    """Wall time on hardware, with the overhead per job of the newest measured run."""
    overhead = next((each.overhead_s for each in reversed(rates) if each.span_s is not None), 0.0)
    jobs = [each.job for each in planned]
    seconds = {
        each.job.number: 0.0 if each.job.empty else (each.estimate.seconds or 0.0) + overhead for each in planned
    }
    limits = {
        each.job.number: each.job.limit_s if each.estimate.seconds is None else seconds[each.job.number]
        for each in planned
    }
    unlimited = any(each.estimate.seconds is None and not each.job.limit_s for each in planned)
    run = schedule(jobs, seconds, hardware)
    # Longer jobs can give a shorter schedule by chance (Graham's anomaly); as a limit that would be wrong.
    limit = None if unlimited else max(run.wall_s, schedule(jobs, limits, hardware).wall_s)
    return {
        "hardware": str(hardware),
        "wall_s": run.wall_s,
        "limit_wall_s": limit,
        "peak_mem_mb": run.peak_mem_mb,
    }


def compare(
    jobs: Sequence[Job],
    rates: Sequence[Measurement],
    scale: str,
    hardware: Hardware,
    prefix: str,
    folder: Path,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What a finished run cost beside what is predicted for it.

    Args:
        jobs: all jobs of the run, as if nothing had been made yet.
        rates: measurements.
        scale: mini or full.
        hardware: of the run.
        prefix: folder of results in the jobs' paths.
        folder: where they lie.

    Returns:
        one line per kind, :data:`COMPARED`, the last one for all (``jobs`` predicted, ``compared`` those that
        have both, over which both sums go); and predicted and actual wall time of these jobs, s, as
        ``predicted_wall_s`` and ``actual_wall_s`` (None without benchmark files of jobs with an estimate), with
        ``left_out``, the number of jobs that ran without an estimate: they are in neither.
    """
    planned = [each for each in plan(jobs, rates, scale, hardware) if not each.job.empty]
    actual = seconds_of((each.job for each in planned), prefix, folder)
    rows = []
    kinds = sorted({each.job.group for each in planned})
    for kind in [*kinds, "all"]:
        of_kind = [each for each in planned if kind in (each.job.group, "all")]
        known = [each for each in of_kind if each.job.number in actual and each.estimate.seconds is not None]
        predicted = math.fsum(each.estimate.seconds or 0.0 for each in known)
        took = math.fsum(actual[each.job.number] for each in known)
        rows.append(
            {
                "kind": kind,
                "jobs": len(of_kind),
                "compared": len(known),
                "predicted_s": predicted,
                "actual_s": took,
                "ratio": predicted / took if took else math.nan,
            }
        )
    ran = {each.job.number for each in planned if each.job.number in actual}
    both = [each.job for each in planned if each.job.number in ran and each.estimate.seconds is not None]
    compared = {job.number for job in both}
    # The others take no time, but what waits for them still waits for what they need.
    chain = [
        each if each.job.number in compared else replace(each, job=replace(each.job, empty=True)) for each in planned
    ]
    walls: dict[str, Any] = {
        "predicted_wall_s": _wall(chain, rates, hardware)["wall_s"] if both else None,
        "actual_wall_s": span_of(both, prefix, folder, actual) if both else None,
        "left_out": len(ran - compared),
    }
    return pd.DataFrame(rows, columns=list(COMPARED)), walls


def measured_on_this_run(rates: Sequence[Measurement], made: str | None) -> list[str]:
    """Names of the measurements that a run itself gave, by its time stamp: a comparison with these says little."""
    return [each.name for each in rates if made is not None and each.made == made]


def as_json(result: Forecast) -> Mapping[str, Any]:
    """A forecast as plain values."""
    return {
        "scale": result.scale,
        "targets": list(result.targets),
        "hardware": str(result.hardware),
        "kinds": result.table.to_dict("records"),
        "wall_times": list(result.walls),
        "present_download_bytes": result.present_bytes,
        "sources": [
            {
                key: getattr(each, key)
                for key in ("name", "date", "processor", "cores", "threads", "gpu", "device", "scale")
            }
            | {"conditions": each.conditions, "commit": each.commit, "command": each.command}
            for each in result.sources
        ],
    }
