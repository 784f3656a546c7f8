"""What runs, how far, how long still: snakemake's messages condensed for a reader (``snakemake … 2>&1 | progress``).

Blocks about single jobs become one line with progress, time left and what runs. All else is passed on, errors too.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mlip_studies.errors import InputError
from mlip_studies.forecast.output import duration
from mlip_studies.forecast.rates import RATES, read_rates

#: seconds between lines where the output is not a terminal
EVERY_S = 30.0
#: share of the work after which the time left is told
ENOUGH = 0.02
#: jobs that are named at a time
MOST_NAMED = 3

_RULE = re.compile(r"(?:local)?(?:rule|checkpoint) (\w+):$")
_FIELD = re.compile(r"    (\w+): (.*)$")
_FINISHED = re.compile(r"Finished jobid: (\d+) \(Rule: (\w+)\)")
_STEPS = re.compile(r"(\d+) of (\d+) steps \([\d.]+%\) done$")
_COUNT = re.compile(r"(\w+) +(\d+)$")
_STAMP = re.compile(r"\[\w{3} \w{3} +\d+ [\d:]{8} \d{4}\]$")
_NOISE = re.compile(r"(Select jobs to execute\.\.\.|Execute \d+ jobs\.\.\.|=+|-+ -+)$")


class Messages:
    """State of a run, from what snakemake prints.

    Attributes:
        done, total: jobs.
        running: what runs, by job id: rule and wildcards.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        """Nothing has been read yet.

        Args:
            seconds: how long a job takes, s, by rule or kind of work, as :func:`expected_seconds` gives it.
        """
        self.done = self.total = 0
        self.running: dict[str, str] = {}
        self._seconds = dict(seconds)
        self._counts: dict[str, int] = {}
        self._finished = 0.0
        self._block: dict[str, str] | None = None
        self._in_counts = self._in_header = False

    def feed(self, line: str) -> str | None:
        """Take one line; returns it if it is to be shown."""
        text = line.rstrip("\n")
        if self._block is not None:
            if text.startswith("    "):
                if found := _FIELD.match(text):
                    self._block[found[1]] = found[2]
                return None
            self._close_block()
        if self._in_header and (text.startswith("  ") or _NOISE.match(text)):
            return None
        self._in_header = text == "SNAKEMAKE"
        if self._in_counts:
            return self._count(text)
        if found := _RULE.match(text):
            self._block = {"rule": found[1]}
        elif found := _FINISHED.match(text):
            self.running.pop(found[1], None)
            self._finished += self._weight(found[2])
        elif found := _STEPS.match(text):
            self.done, self.total = int(found[1]), int(found[2])
        elif text == "Job stats:":
            self._in_counts = True
        elif text and not self._in_header and not _STAMP.match(text) and not _NOISE.match(text):
            return text
        return None

    def share(self) -> float:
        """Share of the work that is done, by the time that jobs of each rule take; 0 where nothing is known."""
        whole = sum(self._weight(rule) * n for rule, n in list(self._counts.items()))
        return min(self._finished / whole, 1.0) if whole else 0.0

    def _weight(self, rule: str) -> float:
        # Trainings are measured as one kind, and so are figures and tables, whose rules bear their names.
        kind = rule if rule in self._seconds else "train" if rule.startswith("train") else "draw"
        return self._seconds.get(kind, 1.0)

    def _close_block(self) -> None:
        block, self._block = self._block or {}, None
        if "jobid" in block:
            values = [part.partition("=")[2] for part in block.get("wildcards", "").split(", ") if part]
            self.running[block["jobid"]] = " ".join([block["rule"], *values])

    def _count(self, text: str) -> str | None:
        found = _COUNT.match(text)
        if found is None or found[1] in ("job", "total"):
            if found and found[1] == "total":
                self.total, self._in_counts = int(found[2]), False
                return f"{self.total} jobs of {len(self._counts)} kinds"
            return None
        self._counts[found[1]] = int(found[2])
        return None


def expected_seconds(scale: str, path: Path = RATES) -> dict[str, float]:
    """Mean time of a job by rule or kind of work, s, from the measured runs at a scale; later measurements go before.

    Args:
        scale: ``mini`` or ``full``.
        path: measured rates.

    Returns:
        by rule or kind; empty where nothing was measured or the file cannot be read, as progress must not stop a run.
    """
    try:
        measured = [entry for entry in read_rates(path) if entry.scale == scale]
    except InputError:
        return {}
    return {rule: rate.mean_s for entry in measured for rule, rate in entry.jobs.items()}


def describe(messages: Messages, elapsed_s: float) -> str:
    """One line: jobs done, time so far and left, what runs.

    Args:
        messages: state of the run.
        elapsed_s: time since its start, s.
    """
    if not messages.total:
        return f"planning, {duration(elapsed_s)}"
    percent = round(100 * messages.done / messages.total)
    parts = [f"{messages.done} of {messages.total} jobs ({percent} %)", duration(elapsed_s)]
    share = messages.share()
    if share >= ENOUGH and messages.done < messages.total:
        parts.append(f"about {duration(elapsed_s * (1 - share) / share)} left")
    names = list(messages.running.values())
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        parts.append(f"running: {'; '.join(names[:MOST_NAMED])}{more}")
    return ", ".join(parts)


def follow(lines: Iterable[str], output: TextIO, scale: str, clock: Callable[[], float] = time.monotonic) -> Messages:
    """Show the progress of a run until its messages end.

    Args:
        lines: what snakemake prints.
        output: a terminal gets one line that changes, anything else a line now and then.
        scale: whose rates tell how long jobs take.
        clock: time in s.

    Returns:
        the state at the end.
    """
    messages = Messages(expected_seconds(scale))
    started = said = clock()
    if output.isatty():
        console = Console(file=output)

        def status() -> Text:
            """Asked for again and again, as minutes pass without a message."""
            return Text(describe(messages, clock() - started), no_wrap=True, overflow="ellipsis")

        with Live(get_renderable=status, console=console, refresh_per_second=1, transient=True):
            for line in lines:
                if (text := messages.feed(line)) is not None:
                    console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        for line in lines:
            if (text := messages.feed(line)) is not None:
                print(text, file=output, flush=True)
            if messages.total and clock() - said >= EVERY_S:
                said = clock()
                print(f"[progress] {describe(messages, said - started)}", file=output, flush=True)
    if messages.total:
        print(f"[progress] {describe(messages, clock() - started)}", file=output, flush=True)
    return messages


def main_progress(arguments: Sequence[str]) -> int:
    """``progress [--scale SCALE]``: condense snakemake's messages on standard input; returns the exit status.

    Args:
        arguments: command line without the program's name.
    """
    parser = argparse.ArgumentParser(prog="python -m mlip_studies progress", description=__doc__)
    parser.add_argument("--scale", default="mini", help="whose measured times tell how long jobs take (default: mini)")
    options = parser.parse_args(arguments)
    # Ctrl-C goes to snakemake, too, whose last words still have to pass.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow(sys.stdin, sys.stdout, options.scale)
    return 0
