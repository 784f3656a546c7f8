"""What single targets pull in: only jobs of their own study, and of studies whose networks the configuration names.

One dry run per scale gives all jobs with their inputs and outputs; what a target needs is followed from there.
"""

import os
import re
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STUDIES = ("krcelic", "pavlovic", "stocker", "hedelius", "ortiz")
SCALES = ("mini", "full")
#: one figure of each study that is made of trainings, dynamics or scans
TARGETS = {
    "krcelic": "krcelic/figures/fig3.3-test-loss.png",
    "pavlovic": "pavlovic/figures/fig3-left-energies.png",
    "stocker": "stocker/figures/learning-curves.png",
    "hedelius": "hedelius/figures/fig3.3-energy-weights.png",
    "ortiz": "ortiz/figures/fig7-diatomics.png",
}
#: what planning everything may cost: processor seconds (wall time is that of other work, too) and bytes
PLANNING_SECONDS, PLANNING_BYTES = 20.0, 2 * 1024**3
JOB = re.compile(r"(?:local)?rule (\w+):$")


@dataclass
class Job:
    """One job of a dry run."""

    rule: str
    files: dict[str, list[str]] = field(default_factory=dict)
    wildcards: dict[str, str] = field(default_factory=dict)

    def studies(self, results):
        """Studies that its wildcards and outputs belong to."""
        named = {self.wildcards["study"]} if "study" in self.wildcards else set()
        for path in self.files.get("output", []):
            first = path.removeprefix(f"{results}/").split("/")[0]
            named |= {first} & set(STUDIES)
        return named


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout without results, out of links."""
    path = tmp_path_factory.mktemp("targets")
    for name in ("Snakefile", "config", "workflow", "resources", "envs", "pyproject.toml"):
        (path / name).symlink_to(ROOT / name)
    return path


#: processor seconds and peak bytes of dry runs that were made
COSTS: dict[tuple, tuple[float, int]] = {}


def dry_run(folder, scale, *targets, works=True):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "snakemake", "-n", "--nolock", "--cores", "1", *targets]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--config", f"scale={scale}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The peak is that of the largest child so far: never too small.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    COSTS[(scale, *targets)] = (seconds, after.ru_maxrss * 1024)
    assert (done.returncode == 0) == works, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@cache
def _jobs(folder, scale):
    jobs = []
    for line in dry_run(folder, scale).splitlines():
        if match := JOB.match(line):
            jobs.append(Job(match[1]))
        elif jobs and (match := re.match(r"    (input|output|wildcards): (.+)$", line)):
            values = match[2].split(", ")
            if match[1] == "wildcards":
                jobs[-1].wildcards = dict(value.split("=", 1) for value in values)
            else:
                jobs[-1].files[match[1]] = values
    return jobs


@cache
def makers(folder, scale):
    """Job by each of its outputs."""
    return {path: job for job in _jobs(folder, scale) for path in job.files.get("output", [])}


def needed(folder, scale, targets):
    """Jobs behind files."""
    by_output, found, waiting = makers(folder, scale), {}, list(targets)
    while waiting:
        job = by_output.get(waiting.pop())
        if job is not None and id(job) not in found:
            found[id(job)] = job
            waiting += job.files.get("input", [])
    return list(found.values())


def counts_in(text):
    """Jobs by kind, as a dry run prints them."""
    last = text.rpartition("Job stats")[2]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", last, re.MULTILINE)}


def lenders(study):
    """Studies whose networks a study's configuration names."""
    text = (ROOT / "config" / "studies" / f"{study}.yaml").read_text()

    def studies(value):
        if isinstance(value, dict):
            own = {value["study"]} if isinstance(value.get("study"), str) else set()
            return own.union(*map(studies, value.values()))
        return set().union(*map(studies, value)) if isinstance(value, list) else set()

    return studies(yaml.safe_load(text)) & set(STUDIES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_a_target_needs_no_other_study(folder, scale, study):
    results = f"results/{scale}"
    jobs = needed(folder, scale, [f"{results}/{TARGETS[study]}"])
    assert len(jobs) > 3, "the target has no jobs behind it"
    assert any(job.rule in {"train", "train_run", "run_scans", "reference_curve"} for job in jobs)
    allowed = {study} | lenders(study)
    strange = {f"{job.rule} of {other}" for job in jobs for other in job.studies(results) - allowed}
    assert not strange


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_figure_and_table_of_a_study_stays_inside_it(folder, scale, study):
    results = f"results/{scale}"
    products = [
        path
        for path in makers(folder, scale)
        if path.startswith((f"{results}/{study}/figures/", f"{results}/{study}/tables/"))
    ]
    assert len(products) > 5
    allowed = {study} | lenders(study)
    for path in products:
        for job in needed(folder, scale, [path]):
            assert job.studies(results) <= allowed, f"{path} needs {job.rule} {job.wildcards}"


def test_planning_the_full_scale_is_cheap(folder):
    assert len(_jobs(folder, "full")) > 900
    seconds, peak = COSTS[("full",)]
    assert 0 < seconds < PLANNING_SECONDS
    assert 2**25 < peak < PLANNING_BYTES


def test_only_physical_adequacy_borrows_networks():
    assert {study for study in STUDIES if lenders(study) - {study}} == {"ortiz"}


@pytest.mark.parametrize("scale", SCALES)
def test_counts_of_a_dry_run_are_those_of_the_jobs_behind_it(folder, scale):
    """What ``-n TARGET`` says, against the jobs followed by hand from the dry run of everything."""
    target = f"results/{scale}/{TARGETS['krcelic']}"
    counts = counts_in(dry_run(folder, scale, target))
    followed = Counter(job.rule for job in needed(folder, scale, [target]))
    assert counts.pop("total") == sum(followed.values())
    assert counts == followed
    assert counts["train"] == 24


def test_an_unknown_target_is_answered_with_the_nearest_ones(folder):
    printed = dry_run(folder, "mini", "krcelic_fig3_4", works=False)
    assert "no target krcelic_fig3_4; did you mean krcelic_fig3_3" in printed
    # The rule `sample_frames` has wildcards: it cannot be asked for by name.
    printed = dry_run(folder, "mini", "sample_frame", works=False)
    assert "no target sample_frame; " in printed and "sample_frames" not in printed


def test_a_job_of_another_study_is_noticed():
    by_wildcard = Job("md", {"output": ["results/mini/data/x/store.h5"]}, {"study": "stocker"})
    by_output = Job("store", {"output": ["results/mini/hedelius/speed.csv"]}, {"dataset": "qm7x"})
    shared = Job("store", {"output": ["results/mini/data/qm7x/store.h5"]}, {"dataset": "qm7x"})
    assert by_wildcard.studies("results/mini") == {"stocker"}
    assert by_output.studies("results/mini") == {"hedelius"}
    assert shared.studies("results/mini") == set()
