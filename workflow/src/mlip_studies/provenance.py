"""Costs, versions and hardware of a run, and the front page of the report."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlip_studies.artifacts import atomic_path, write_text

PACKAGES = (
    "snakemake",
    "torch",
    "torch-scatter",
    "lightning-fabric",
    "e3nn",
    "ase",
    "h5py",
    "pyscf",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "safetensors",
)


def write_provenance(output: Path, commit: str, accepted: Path) -> None:
    """Commit, versions and hardware of the machine that made the results, as JSON."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    content = {
        "commit": commit,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(memory, 1),
            "system": platform.platform(),
        },
        "accepted_code": json.loads(accepted.read_text()) if accepted.exists() else {},
    }
    write_text(output, json.dumps(content, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


COST_COLUMNS = ("rule", "jobs", "wall_s", "longest_job_s", "cpu_h", "gpu_h", "peak_memory_mb")


def summarise_costs(benchmarks: Path, results: Path) -> list[dict[str, Any]]:
    """Costs per rule from the workflow's benchmark files, with GPU hours from the training runs.

    Args:
        benchmarks: folder with one sub-folder or file per rule, JSON lines.
        results: folder whose ``run.json`` files tell which jobs used a GPU.

    Returns:
        one dictionary per rule, with a last one for the total.
    """
    rules: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(benchmarks.rglob("*.jsonl")):
        name = path.relative_to(benchmarks).parts[0].removesuffix(".jsonl")
        rules.setdefault(name, []).extend(json.loads(line) for line in path.read_text().splitlines() if line.strip())
    gpu_seconds = 0.0
    for path in results.rglob("run.json"):
        if ".sha256" in path.parts:
            continue
        content = json.loads(path.read_text())
        if content.get("device") == "cuda":
            gpu_seconds += content["wall_seconds"]
    rows = []
    for name, entries in rules.items():
        rows.append(
            {
                "rule": name,
                "jobs": len(entries),
                "wall_s": round(sum(_number(e, "s") for e in entries), 1),
                "longest_job_s": round(max(_number(e, "s") for e in entries), 1),
                "cpu_h": round(sum(_number(e, "cpu_time") for e in entries) / 3600, 4),
                "gpu_h": round(gpu_seconds / 3600, 4) if name == "train" else 0.0,
                "peak_memory_mb": round(max(_number(e, "max_rss") for e in entries), 0),
            }
        )
    rows.sort(key=lambda row: -row["wall_s"])
    if rows:
        total: dict[str, Any] = {"rule": "all"}
        for key in COST_COLUMNS[1:]:
            values = [row[key] for row in rows]
            total[key] = round(max(values) if key in ("longest_job_s", "peak_memory_mb") else sum(values), 4)
        rows.append(total)
    return rows


def _number(entry: dict[str, Any], key: str) -> float:
    try:
        return float(entry.get(key) or 0.0)
    except (TypeError, ValueError):
        return 0.0


def write_costs(benchmarks: Path, results: Path, html: Path) -> None:
    """Write the cost table as a page and as CSV beside it."""
    import pandas as pd

    from mlip_studies.plotting.html_table import write_html_table

    rows = summarise_costs(benchmarks, results)
    with atomic_path(html.with_suffix(".csv")) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COST_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_html_table(
        pd.DataFrame(rows, columns=list(COST_COLUMNS)),
        html,
        title="Costs by rule",
        caption="Sums over jobs: wall time, CPU and GPU hours; largest resident memory of one job.",
    )


def front_page(results: str, scale: str, studies: dict[str, dict[str, str]]) -> str:
    """The report's front page in reStructuredText: verdicts, provenance, costs of what is there.

    Args:
        results: folder of the scale's results.
        scale: ``mini`` or ``full``.
        studies: title and citation by study name.
    """
    root = Path(results)
    parts = [
        "Reproduction of published studies of machine-learned interatomic potentials. "
        f"This report shows results at the **{scale}** scale. "
        + (
            "The mini scale shows the method working on small real quantum-chemistry data; "
            "it does not claim to reproduce the published numbers."
            if scale == "mini"
            else "The full scale uses the published data sets and settings."
        ),
        "",
    ]
    for name, study in studies.items():
        # A citation that begins with an initial would be read as an item of a list.
        parts += [*_heading(study["title"]), f"Source: {study['citation']}", ""]
        tables = (root / name / f"{verdicts}.csv" for verdicts in ("verdicts-all", "verdicts"))
        path = next((path for path in tables if path.exists() and path.with_suffix(".json").exists()), None)
        try:
            found = [] if path is None else _verdict_table(path)
        except (OSError, ValueError, KeyError):
            # Every job of a run makes this page anew, also while the verdicts are being written.
            found = []
        parts += found or ["No verdicts yet: run the study first.", ""]
    path = root / "provenance.json"
    if path.exists():
        content = json.loads(path.read_text())
        hardware = content["hardware"]
        parts += _heading("Provenance")
        parts += [
            f"Commit {content['commit']}, made {content['made']} on {hardware['cores']} cores "
            f"({hardware['processor']}), {hardware['memory_gib']} GiB, {hardware['system']}.",
            "",
            "Versions: " + ", ".join(f"{name} {value}" for name, value in content["versions"].items()) + ".",
            "",
        ]
        for value in content.get("accepted_code", {}).values():
            parts += [f"Accepted code change at {value['commit']} ({value['entry']}): {value['reason']}", ""]
    path = root / "costs.csv"
    if path.exists():
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        parts += _heading("Costs")
        parts += _list_table(
            ["rule", "jobs", "wall s", "longest s", "CPU h", "GPU h", "peak MB"],
            [[row[key] for key in COST_COLUMNS] for row in rows],
        )
    return "\n".join(parts)


def _heading(text: str) -> list[str]:
    return ["", text, "-" * max(4, 2 * len(text)), ""]


def _verdict_table(path: Path) -> list[str]:
    """Counts by verdict, then one line per claim; sentences and reasons stand in the verdict page."""
    with path.open(newline="", encoding="utf-8") as stream:
        every = list(csv.DictReader(stream))
    # The CSV is in words; whose statement it is stands as a key in the JSON beside it.
    records = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["claims"]
    ours = {record["id"] for record in records if record.get("by") == "ours"}
    outcomes = [outcome for outcome in every if outcome["claim"] not in ours]
    own = len(every) - len(outcomes)
    counts = Counter(outcome["verdict"] for outcome in outcomes)
    summary = ", ".join(f"**{count}** {verdict}" for verdict, count in counts.most_common())
    rows = []
    for outcome in outcomes:
        unit = outcome.get("unit") or ""
        measured = f"{outcome['ours']} {unit}".strip() if outcome.get("ours") else ""
        paper = f"{outcome['paper']} {unit}".strip() if outcome["kind"] == "value" else outcome["paper"]
        cells = (outcome["quantity"], paper, measured, outcome["verdict"], outcome["at_this_scale"])
        rows.append([_plain(outcome["place"]), *(_plain(cell) for cell in cells)])
    header = ["place", "claim", "stated", "ours (mean ± 95 %)", "verdict", "at this scale"]
    return [
        f"{len(outcomes)} claims of the source: {summary or 'none'}. Sentences, reasons and tolerances are under "
        "Verdicts in the menu"
        + (f", with the verdicts on {own} predictions of this project beside them." if own else "."),
        "",
        *(_list_table(header, rows) if rows else []),
    ]


def _plain(value: Any) -> str:
    text = "–" if value is None or value == "" else str(value)
    for mark in ("\\", "*", "`", "|", "_"):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _list_table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]
