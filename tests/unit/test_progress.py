"""Snakemake's messages condensed: what runs, how far, how long still."""

import io
import itertools
import re
import subprocess
import sys

import pytest

from mlip_studies.forecast import progress
from mlip_studies.forecast.progress import Messages, describe, expected_seconds, follow

LOG = """Config file config/config.yaml is extended by additional config specified via the command line.

SNAKEMAKE
=========
  Date: 2026-11-22 01:13:05
  Command: snakemake demo

Building DAG of jobs...
Job stats:
job                count
---------------  -------
demo                   1
md                     1
krcelic_fig3_3         2
train_run              2
total                  6

Select jobs to execute...
Execute 2 jobs...

[Sun Nov 22 01:13:10 2026]
rule train_run:
    input: results/mini/data/a/store.h5
    jobid: 7
    reason: Missing output files: results/mini/x
    wildcards: study=stocker, run=qm7x-schnet, seed=0
    resources: tmpdir=/tmp
[Sun Nov 22 01:13:10 2026]
localrule krcelic_fig3_3:
    output: results/mini/b.png
    jobid: 8
Select jobs to execute...
[Sun Nov 22 01:13:50 2026]
Finished jobid: 8 (Rule: krcelic_fig3_3)
1 of 6 steps (17%) done
"""
FAILED = """[Sun Nov 22 01:14:00 2026]
Error in rule train_run:
    message: None
    jobid: 7
    log: results/mini/logs/train.log (check log file(s) for error details)
Exiting because a job execution failed. Look below for error messages
"""
SECONDS = {"train": 30.0, "md": 100.0, "draw": 10.0}


def read(text):
    messages = Messages(SECONDS)
    return messages, [shown for line in text.splitlines() if (shown := messages.feed(line)) is not None]


def test_blocks_about_jobs_are_condensed():
    messages, shown = read(LOG)
    assert shown == [LOG.splitlines()[0], "Building DAG of jobs...", "6 jobs of 4 kinds"]
    assert (messages.done, messages.total) == (1, 6)
    assert messages.running == {"7": "train_run stocker qm7x-schnet 0"}


def test_time_left_follows_from_the_time_that_jobs_of_each_rule_take():
    messages, _ = read(LOG)
    # Two trainings of 30 s, dynamics of 100 s, two figures and the target at 10 s each: 190 s, of which 10 are done.
    assert messages.share() == pytest.approx(10 / 190)
    line = describe(messages, 60.0)
    assert line.startswith("1 of 6 jobs (17 %), ")
    assert f"about {progress.duration(60.0 * 18)} left" in line
    assert line.endswith("running: train_run stocker qm7x-schnet 0")


def test_nothing_is_said_of_the_time_left_at_the_start():
    messages, _ = read(LOG.partition("Finished")[0])
    assert "left" not in describe(messages, 60.0) and messages.share() == 0.0


def test_errors_are_passed_on_whole():
    _, shown = read(LOG + FAILED)
    assert shown[3:] == FAILED.splitlines()[1:]


def test_without_a_terminal_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "expected_seconds", lambda scale: SECONDS)
    output = io.StringIO()
    ticks = itertools.count(0.0, 2.0)
    messages = follow((LOG + FAILED).splitlines(keepends=True), output, "mini", clock=lambda: next(ticks))
    lines = output.getvalue().splitlines()
    told = [line for line in lines if line.startswith("[progress]")]
    assert 1 < len(told) < 6 and "1 of 6 jobs" in told[-1]
    assert [line for line in lines if line not in told][-1].startswith("Exiting because")
    assert messages.done == 1


def test_measured_times_are_those_of_the_scale():
    seconds = expected_seconds("mini")
    assert {"train", "draw", "md"} <= set(seconds) and all(value > 0 for value in seconds.values())
    assert expected_seconds("mini", progress.Path("no/such/file.yaml")) == {}


def test_a_failure_of_snakemake_is_that_of_the_pipe():
    command = f"(echo 'no rule'; exit 3) 2>&1 | {sys.executable} -m mlip_studies progress"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and re.fullmatch(r"no rule\n", done.stdout) and done.stderr == ""
