"""Forecasts for the terminal and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from mlip_studies.artifacts import write_text
from mlip_studies.data.download_local import size_text
from mlip_studies.forecast.plan import Forecast, as_json
from mlip_studies.plotting.html_table import write_html_table

HEADINGS = {
    "kind": "kind of job",
    "jobs": "jobs",
    "measured": "time measured",
    "estimated": "estimated",
    "unknown": "unknown",
    "core_h": "core hours reserved (no speed-up assumed)",
    "gpu_h": "GPU hours",
    "longest_s": "longest job, s",
    "unknown_limit_core_h": "unknown jobs: core hours asked for, at most",
    "unknown_limit_gpu_h": "unknown jobs: GPU hours asked for, at most",
    "max_mem_mb": "memory asked for by a job, MB",
    "download_bytes": "download, bytes",
    "disk_bytes": "disk, bytes",
    "note": "note",
}
#: columns of the terminal
SHORT = ("kind", "jobs", "unknown", "core_h", "gpu_h", "unknown_limit_core_h", "unknown_limit_gpu_h", "max_mem_mb")
SHORT_HEADINGS = (
    "kind",
    "jobs",
    "not covered",
    "reserved core h",
    "GPU h",
    "not covered: core h ≤",
    "GPU h ≤",
    "MB a job",
)
COMPARED_HEADINGS = {
    "kind": "kind of job",
    "jobs": "jobs predicted",
    "compared": "jobs compared",
    "predicted_s": "predicted, s",
    "actual_s": "actual, s",
    "ratio": "predicted / actual",
}


def duration(seconds: float | None) -> str:
    """A time in words: 12 s, 3 min, 5.1 h, 40 days."""
    if seconds is None:
        return "unknown"
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h")):
        if seconds < limit:
            return f"{_number(seconds / unit)} {name}"
    return f"{_number(seconds / 86400.0)} days"


def summary(result: Forecast) -> list[str]:
    """The forecast in sentences."""
    total = result.total
    lines = [f"{total['jobs']} jobs at scale {result.scale}: {', '.join(result.targets) or 'default targets'}."]
    if total["unknown"]:
        lines.append(
            f"{total['unknown']} jobs have no measured rate and are in no hour or wall time below; if each "
            f"took the time that it may, {total['unknown_limit_core_h']:,.0f} core hours and "
            f"{total['unknown_limit_gpu_h']:,.0f} GPU hours more."
        )
    covered = " (covered jobs alone)" if total["unknown"] else ""
    gpu_hours = f"{_number(total['gpu_h'])} GPU hours"
    if total["unknown_limit_gpu_h"] and not total["gpu_h"]:
        gpu_hours = "GPU hours unknown"
    lines.append(f"Hours on {result.hardware}{covered}: {_number(total['core_h'])} core hours reserved, {gpu_hours}.")
    for wall in result.walls:
        line = f"Wall time{covered}, {wall['hardware']}: {duration(wall['wall_s'])}"
        if total["unknown"]:
            line += f"; {duration(wall['limit_wall_s'])} if the others took their limit"
        lines.append(f"{line}; memory asked for at once {size_text(1e6 * wall['peak_mem_mb'])}.")
    fetches = result.table[result.table["kind"] == "fetch"]
    unsized = int(fetches["unknown"].sum())
    there = f" and {unsized} files of unknown size" if unsized else ""
    there += f", {size_text(result.present_bytes)} there already" if result.present_bytes else ""
    lines.append(
        f"Downloads: {size_text(total['download_bytes'])}{there}. Disk: {size_text(total['disk_bytes'])} for the jobs "
        f"of known size. Largest job: {size_text(1e6 * total['max_mem_mb'])} of memory asked for."
    )
    lines.append(
        "Core hours are a job's time times the cores that it holds. No speed-up by more threads than were measured is "
        "assumed, except for reference calculations; downloads count none."
    )
    for each in result.sources:
        machine = f"{each.gpu}, " if each.device == "cuda" else ""
        lines.append(
            f"Rates '{each.name}': {each.date}, {machine}{each.cores} cores of {each.processor}, {each.threads} "
            f"thread{'s' if each.threads > 1 else ''} per training, scale {each.scale}, commit {each.commit}, "
            f"{each.conditions}."
        )
    return lines


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _rich(frame: pd.DataFrame, columns: Sequence[str], headings: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for _, row in frame.iterrows():
        table.add_row(*(_number(row[column]) for column in columns), style="bold" if row["kind"] == "all" else None)
    return table


def show(result: Forecast, console: Console | None = None) -> None:
    """Print a forecast."""
    console = console or Console()
    console.print(_rich(result.table, SHORT, SHORT_HEADINGS))
    for line in summary(result):
        console.print(line, highlight=False)
    notes = result.table[(result.table["note"] != "") & (result.table["unknown"] > 0)]
    kinds: dict[str, list[str]] = {}
    for _, row in notes.iterrows():
        # What differs between kinds is their name alone.
        kinds.setdefault(str(row["note"]).replace(f"kind {row['kind']} ", ""), []).append(row["kind"])
    for note, names in kinds.items():
        console.print(f"  {note}: {', '.join(names)}", highlight=False, markup=False)


def show_comparison(frame: pd.DataFrame, lines: Sequence[str], console: Console | None = None) -> None:
    """Print a comparison."""
    console = console or Console()
    console.print(_rich(frame, list(COMPARED_HEADINGS), list(COMPARED_HEADINGS.values())))
    for line in lines:
        console.print(line, highlight=False)


def write(result: Forecast, html: Path) -> list[Path]:
    """Write the page, and beside it the same as CSV and JSON.

    Returns:
        the paths.

    Raises:
        InputError: the folder cannot be written to.
    """
    paths = write_html_table(
        result.table,
        html,
        "Forecast of costs",
        f"What {', '.join(result.targets) or 'the default targets'} will cost at scale {result.scale}.",
        headings=HEADINGS,
        after={"In short": summary(result)},
    )
    path = html.with_suffix(".json")
    write_text(path, json.dumps(as_json(result), indent=1))
    return [*paths, path]


def write_comparison(frame: pd.DataFrame, walls: Mapping[str, Any], lines: Sequence[str], html: Path) -> list[Path]:
    """Write a comparison as page, CSV and JSON; returns the paths."""
    title = "Forecast and actual costs"
    paths = write_html_table(frame, html, title, headings=COMPARED_HEADINGS, after={"In short": list(lines)})
    path = html.with_suffix(".json")
    records = [{k: None if v != v else v for k, v in row.items()} for row in frame.to_dict("records")]
    write_text(path, json.dumps({"kinds": records, **walls}, indent=1))
    return [*paths, path]
