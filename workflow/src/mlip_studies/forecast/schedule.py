"""Wall time of a graph of jobs on given hardware, by list scheduling."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlip_studies.errors import InputError
from mlip_studies.forecast.jobs import Job
from mlip_studies.runtime.options import check


@dataclass(frozen=True)
class Hardware:
    """Where jobs run.

    Attributes:
        cores: of one machine, or where snakemake runs for a cluster.
        gpus: of one machine; 0: jobs that ask for one run on the processor. Of a cluster: whether it has any.
        cluster_jobs: jobs that a cluster runs at once; None: one machine runs everything.
        megabytes_per_second: of downloads; None: downloads take no time here.
    """

    cores: int = 1
    gpus: int = 0
    cluster_jobs: int | None = None
    megabytes_per_second: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        check(self.cores >= 1, "--cores", "1 or more", self.cores)
        check(self.gpus >= 0, "--gpus", "0 or more", self.gpus)
        check(self.cluster_jobs is None or self.cluster_jobs >= 1, "--cluster-jobs", "1 or more", self.cluster_jobs)
        speed = self.megabytes_per_second
        check(speed is None or speed > 0, "--bandwidth", "more than 0 MB/s", speed)

    def __str__(self) -> str:
        """In words."""
        gpus = "" if not self.gpus else f", {self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        if self.cluster_jobs is None:
            return f"one machine, {self.cores} core{'s' if self.cores > 1 else ''}{gpus}"
        return f"cluster, {self.cluster_jobs} jobs at once{', GPUs' if self.gpus else ''} (queue not counted)"


@dataclass(frozen=True)
class Schedule:
    """A planned run.

    Attributes:
        wall_s: from the first start to the last end, s.
        start_s: start of each job by number, s.
        end_s: end of each job by number, s.
        peak_mem_mb: largest sum of the memory asked for by jobs that run together on one machine, MB.
    """

    wall_s: float
    start_s: Mapping[int, float]
    end_s: Mapping[int, float]
    peak_mem_mb: float


def reserved_threads(job: Job, hardware: Hardware) -> int:
    """Cores that a job holds while it runs: what it asks for, on one machine never more than there are."""
    on_cluster = hardware.cluster_jobs is not None and not job.local
    return job.threads if on_cluster else min(job.threads, hardware.cores)


def schedule(jobs: Sequence[Job], seconds: Mapping[int, float], hardware: Hardware) -> Schedule:
    """Start every job as soon as its inputs and its share of the machine are there, higher priorities first.

    A job never gets more threads or GPUs than there are, as under Snakemake. On a cluster only local jobs share the
    cores of the machine where snakemake runs; the others share nothing but the number of jobs at once.

    Args:
        jobs: those that run; inputs made by others count as there.
        seconds: of each by number.
        hardware: where.

    Raises:
        InputError: jobs that wait for each other.
    """
    by_number = {job.number: job for job in jobs}
    waits = {job.number: {each for each in job.needs if each in by_number} for job in jobs}
    followers: dict[int, list[int]] = {number: [] for number in by_number}
    for number, needed in waits.items():
        for each in needed:
            followers[each].append(number)
    ready = [(-by_number[number].priority, number) for number, needed in waits.items() if not needed]
    heapq.heapify(ready)
    cluster = hardware.cluster_jobs
    free = {"cores": hardware.cores, "gpus": hardware.gpus, "jobs": cluster or 0}
    running: list[tuple[float, int]] = []
    start: dict[int, float] = {}
    end: dict[int, float] = {}
    now = memory = peak = 0.0
    while ready or running:
        passed = []
        # Nothing more to look for when no core and no place on the cluster is left.
        while ready and (free["cores"] or free["jobs"]):
            entry = heapq.heappop(ready)
            job = by_number[entry[1]]
            asked = _asked(job, hardware)
            if any(free[key] < amount for key, amount in asked.items()):
                passed.append(entry)
                continue
            for key, amount in asked.items():
                free[key] -= amount
            start[job.number], end[job.number] = now, now + seconds[job.number]
            memory += 0.0 if "jobs" in asked else job.mem_mb
            peak = max(peak, memory)
            heapq.heappush(running, (end[job.number], job.number))
        for entry in passed:
            heapq.heappush(ready, entry)
        now = running[0][0]
        while running and running[0][0] <= now:
            job = by_number[heapq.heappop(running)[1]]
            asked = _asked(job, hardware)
            for key, amount in asked.items():
                free[key] += amount
            memory -= 0.0 if "jobs" in asked else job.mem_mb
            for number in followers[job.number]:
                waits[number].discard(job.number)
                if not waits[number]:
                    heapq.heappush(ready, (-by_number[number].priority, number))
    if len(end) < len(jobs):
        stuck = next(job for job in jobs if job.number not in end)
        raise InputError(f"forecast: jobs wait for each other, one of rule {stuck.rule}; the graph may have no circles")
    return Schedule(max(end.values(), default=0.0), start, end, peak)


def _asked(job: Job, hardware: Hardware) -> dict[str, int]:
    """What a job takes of the hardware while it runs."""
    if job.empty:
        return {}
    if hardware.cluster_jobs is not None and not job.local:
        return {"jobs": 1}
    asked = {"cores": reserved_threads(job, hardware)}
    # Without a GPU such jobs run on the processor.
    if hardware.cluster_jobs is None and hardware.gpus:
        asked["gpus"] = min(job.gpus, hardware.gpus)
    return asked
