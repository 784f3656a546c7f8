"""Costs, versions and hardware of a run, and the front page of the report."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
from collections import Counter
from dataclasses import dataclass
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
    rows: list[dict[str, Any]] = []
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


# Verdicts in the order of the columns, with places where a narrow screen may break the word.
_COLUMNS = {
    "reproduced": "repro\u00adduced",
    "contradicted": "contra\u00addicted",
    "inconclusive": "incon\u00adclusive",
    "not comparable at this scale": "not com\u00adparable",
    "not run": "not run",
}


@dataclass(frozen=True)
class _Judged:
    """Claims of one study in words: lines of verdicts.csv, those of its source and our own predictions."""

    theirs: list[dict[str, str]]
    own: list[dict[str, str]]
    n_findings: int


def front_page(results: str, scale: str, studies: dict[str, dict[str, str]]) -> str:
    """The report's front page in reStructuredText: what held and what did not, provenance, costs of what is there.

    Args:
        results: folder of the scale's results.
        scale: ``mini`` or ``full``.
        studies: title and citation by study name.
    """
    root = Path(results)
    judged = {name: _judged(root / name) for name in studies}
    found = {studies[name]["title"]: one for name, one in judged.items() if one is not None}
    parts = [
        *_what_held(found),
        f"Results at the **{scale}** scale. "
        + (
            "The mini scale shows the method working on small real quantum-chemistry data; "
            "it does not claim to reproduce the published numbers."
            if scale == "mini"
            else "The full scale uses the published data sets and settings."
        ),
        "",
        *_listed(found, "contradicted"),
        *_listed(found, "reproduced"),
        *_heading("Studies"),
    ]
    for name, study in studies.items():
        parts += [f"**{_plain(study['title'])}**. Source: {_plain(study['citation'])}", "", *_one_study(judged[name])]
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


def _judged(folder: Path) -> _Judged | None:
    """The verdicts of a study, on everything if there are such; None where there are none yet.

    Every job of a run makes the page anew, also while verdicts are being written: what cannot be read counts as none.
    """
    for stem in ("verdicts-all", "verdicts"):
        path = folder / f"{stem}.csv"
        if not (path.exists() and path.with_suffix(".json").exists()):
            continue
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                every = list(csv.DictReader(stream))
            # The CSV is in words; whose statement it is stands as a key in the JSON beside it.
            content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            ours = {record["id"] for record in content["claims"] if record.get("by") == "ours"}
            theirs = [line for line in every if line["claim"] not in ours]
            own = [line for line in every if line["claim"] in ours]
            needed = ("verdict", "place", "quantity", "paper", "ours", "unit", "kind")
            complete = len(every) == len(content["claims"])
            if complete and all(line[key] is not None for line in every for key in needed):
                return _Judged(theirs, own, len(content.get("findings", [])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None
    return None


def _counts(lines: list[dict[str, str]]) -> list[int]:
    found = Counter(line["verdict"] for line in lines)
    return [found[verdict] for verdict in _COLUMNS]


def _what_held(found: dict[str, _Judged]) -> list[str]:
    """One sentence and one small table: how many claims of each study were reproduced, contradicted and so on."""
    theirs = [line for one in found.values() for line in one.theirs]
    own = [line for one in found.values() for line in one.own]
    if not theirs and not own:
        return ["No verdicts yet: run a study first.", ""]
    counts = ", ".join(f"**{n}** {verdict}" for verdict, n in zip(_COLUMNS, _counts(theirs), strict=True) if n)
    summary = f"**{len(theirs)}** claims of {len(found)} source{'s' * (len(found) != 1)}: {counts or 'none judged'}."
    rows = [[_plain(title), *map(str, _counts(one.theirs)), str(len(one.theirs))] for title, one in found.items()]
    if len(rows) > 1:
        rows.append(["**all**", *(f"**{n}**" for n in _counts(theirs)), f"**{len(theirs)}**"])
    if own:
        rows.append(["predictions of this project, counted apart", *map(str, _counts(own)), str(len(own))])
    return [summary, "", *_list_table(["study", *_COLUMNS.values(), "all"], rows, css="counts")]


#: statements of one verdict that the front page lists of each study
MOST_LISTED = 15


def _listed(found: dict[str, _Judged], verdict: str) -> list[str]:
    """What was contradicted, or reproduced: place, quantity, stated and our number, one line each."""
    if not found:
        return []
    parts = _heading(f"What was {verdict}")
    n = 0
    for title, one in found.items():
        lines = [(line, "") for line in one.theirs] + [(line, " (prediction of this project)") for line in one.own]
        such = [(line, mark) for line, mark in lines if line["verdict"] == verdict]
        if such:
            parts += [f"*{_plain(title)}*", ""]
            parts += [f"- {_stated_and_ours(line)}{mark}" for line, mark in such[:MOST_LISTED]]
            more = len(such) - MOST_LISTED
            parts += [f"- and {more} more, under Verdicts in the menu"] if more > 0 else []
            parts.append("")
        n += len(such)
    return parts if n else [*parts, "Nothing, by the rule of the verdict pages.", ""]


def _stated_and_ours(line: dict[str, str]) -> str:
    unit = f" {line['unit']}" if line["unit"] else ""
    stated = f"{line['paper']}{unit if line['kind'] == 'value' else ''}"
    measured = f"{line['ours']}{unit}" if line["ours"] else "–"
    return f"{_plain(line['place'])}: {_plain(line['quantity'])}. Stated: {_plain(stated)}; ours: {_plain(measured)}"


def _one_study(one: _Judged | None) -> list[str]:
    """Two sentences; every claim stands in the pages under Verdicts."""
    if one is None:
        return ["No verdicts yet: run the study first.", ""]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in zip(_COLUMNS, _counts(one.theirs), strict=True) if n)
    text = f"{len(one.theirs)} claims of the source: {counts or 'none'}."
    if one.own:
        text += f" {len(one.own)} predictions of this project."
    if one.n_findings:
        text += f" {one.n_findings} finding{'s' * (one.n_findings != 1)} inside the source."
    return [f"{text} Each with its sentence, reason and tolerance under Verdicts in the menu.", ""]


def _plain(value: Any) -> str:
    text = "–" if value is None or value == "" else str(value)
    for mark in ("\\", "*", "`", "|", "_"):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _list_table(header: list[str], rows: list[list[str]], css: str = "") -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", *([f"   :class: {css}", "   :widths: auto"] if css else []), ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]
