"""Pytest plugin: say which reference material the tests found, and how many were skipped for want of it.

Optional folders hold published excerpts, reference implementations' numbers and the papers' texts; tests that need them
skip with a reason that names the variable.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLES = {
    "MLIP_STUDIES_REFERENCE_DATA": "excerpts of published data sets",
    "MLIP_STUDIES_PARITY": "numbers of reference implementations",
    "MLIP_STUDIES_PAPERS": "texts of the papers",
}


def summary_lines(reasons: list[str], environment: dict[str, str] | None = None) -> list[str]:
    """Return one line per variable: what was found and how many skip reasons name it."""
    environment = dict(os.environ) if environment is None else environment
    lines = []
    for variable, what in VARIABLES.items():
        value = environment.get(variable, "")
        state = "not set" if not value else value if Path(value).is_dir() else f"{value} (no such folder)"
        skipped = sum(variable in reason for reason in reasons)
        lines.append(f"{variable} ({what}): {state}; {skipped} tests skipped for want of it")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    reasons = [
        str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in reports
    ]
    for line in summary_lines(reasons):
        terminalreporter.write_line(line)
