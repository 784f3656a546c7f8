"""One table of every claim of all studies, from the JSON files that the studies' own tables of verdicts leave."""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike, atomic_path, write_text
from mlip_studies.claims.evaluate import Outcome
from mlip_studies.claims.inputs import read_json
from mlip_studies.claims.schema import Claim
from mlip_studies.claims.table import COLORS, OURS_RULE, RULE, SAMPLES_RULE, to_frame
from mlip_studies.claims.verdicts import Estimate, Verdict
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import render_html_table, render_table

#: what a file of verdicts must say
_KEYS = ("study", "source", "scale", "claims", "findings")
#: of a record, what is a field of Claim under another name
_RENAMED = {"tolerance_is_relative": "relative", "tolerance_reason": "reason"}
_CLAIM_KEYS = (
    "id", "study", "place", "sentence", "wording", "quantity", "unit", "kind", "paper", "tolerance",
    "tolerance_is_relative", "tolerance_reason", "metric", "arguments", "judged_at", "figure", "note", "original", "by",
)  # fmt: skip
HEADINGS: Mapping[str, str] = {
    "title": "Study",
    "verdict": "Verdict",
    "quantity": "Quantity",
    "paper": "Stated",
    "ours": "Ours (mean ± 95 %)",
    "unit": "Unit",
    "statement": "Statement",
    "place": "Place",
    "figure": "Shown in",
    "why": "Why",
    "at_this_scale": "Our numbers at this scale",
    "seeds": "Seeds",
    "by": "Whose statement",
}
#: columns of the CSV file that the page leaves out
HIDDEN = ("study", "claim", "scale", "figure_file", "tolerance", "tolerance_reason", "note", "kind", "judged_at")
SHORT: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "reproduced",
    Verdict.CONTRADICTED: "contradicted",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_COMPARABLE: "not comparable",
    Verdict.NOT_RUN: "not run",
}


@dataclass(frozen=True)
class StudyVerdicts:
    """What became of the claims of one study.

    Attributes:
        study: its name.
        source: the paper.
        scale: mini or full.
        outcomes: one per claim, in the order of the claim file.
        findings: contradictions, gaps and ambiguities inside the paper.
        records: the claims as the file has them.
    """

    study: str
    source: str
    scale: str
    outcomes: tuple[Outcome, ...]
    findings: tuple[Mapping[str, Any], ...]
    records: tuple[Mapping[str, Any], ...]

    def counts(self, by: str = "paper") -> dict[Verdict, int]:
        """Number of claims by verdict, every verdict named.

        Args:
            by: "paper" for the claims of the source, "ours" for predictions of this project.
        """
        found = Counter(outcome.verdict for outcome in self.outcomes if outcome.claim.by == by)
        return {verdict: found[verdict] for verdict in Verdict}


def read_verdicts(paths: Iterable[PathLike]) -> list[StudyVerdicts]:
    """Read the studies' files of verdicts, in the order given.

    Args:
        paths: ``verdicts.json`` or ``verdicts-all.json`` of each study.

    Raises:
        InputError: a missing, damaged or incomplete file, two files of one study, or files of two scales.
    """
    found: dict[str, StudyVerdicts] = {}
    for path in paths:
        one = _read(Path(path))
        if one.study in found:
            raise InputError(f"{path}: study {one.study} is among the files already; name one file per study")
        first = next(iter(found.values()), one)
        if one.scale != first.scale:
            raise InputError(
                f"{path}: is of scale {one.scale}, but {first.study} of {first.scale}; give files of one scale"
            )
        found[one.study] = one
    if not found:
        raise InputError("all claims: no file of verdicts; enable at least one study in config/config.yaml")
    return list(found.values())


def _read(path: Path) -> StudyVerdicts:
    content = read_json(path)
    for key in _KEYS:
        if key not in content:
            raise InputError(f"{path}: key '{key}' is missing; delete the file and run again")
    kinds: tuple[tuple[str, type], ...] = (("study", str), ("scale", str), ("claims", list), ("findings", list))
    for key, kind in kinds:
        if not isinstance(content[key], kind):
            raise InputError(f"{path}: key '{key}' is no {kind.__name__}; delete the file and run again")
    outcomes = []
    for number, record in enumerate(content["claims"]):
        try:
            outcomes.append(_outcome(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise InputError(f"{path}: key 'claims[{number}]': {reason}; delete the file and run again") from None
    for number, finding in enumerate(content["findings"]):
        if not isinstance(finding, dict) or not {"place", "finding"} <= set(finding):
            raise InputError(
                f"{path}: key 'findings[{number}]': expected place and finding; delete the file and run again"
            )
    return StudyVerdicts(
        content["study"],
        str(content["source"]),
        content["scale"],
        tuple(outcomes),
        tuple(content["findings"]),
        tuple(content["claims"]),
    )


def _outcome(record: Mapping[str, Any]) -> Outcome:
    """The outcome that :func:`mlip_studies.claims.table.to_records` wrote."""
    fields = {_RENAMED.get(key, key): record[key] for key in _CLAIM_KEYS}
    claim = Claim(**{**fields, "judged_at": tuple(record["judged_at"])})
    estimates = tuple(
        Estimate(
            one["name"],
            math.nan if one["mean"] is None else float(one["mean"]),
            one["half_width_95"],
            one["n"],
            one["deterministic"],
            one["of"],
            None if one["interval_95"] is None else _interval(one["interval_95"]),
            one["floor"],
        )
        for one in record["ours"]
    )
    at_this_scale = record["at_this_scale"]
    return Outcome(
        claim,
        record["scale"],
        estimates,
        Verdict(record["verdict"]),
        Verdict(at_this_scale) if at_this_scale else None,
        record["reason"],
    )


def _interval(ends: Sequence[float | None]) -> tuple[float, float]:
    low, high = (math.nan if end is None else float(end) for end in ends)
    return low, high


def claims_frame(
    studies: Sequence[StudyVerdicts], titles: Mapping[str, str], figures: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """One row per claim of all studies, sorted by study and otherwise in the order of the papers.

    Args:
        studies: what became of their claims.
        titles: title of each study.
        figures: of each study, file of each figure and table that is made, relative to the folder of the scale.

    Returns:
        columns study, title, figure_file (empty where it is not made) and those of
        :func:`mlip_studies.claims.table.to_frame`.
    """
    parts = []
    for one in sorted(studies, key=lambda one: one.study):
        frame = to_frame(one.outcomes)
        frame.insert(0, "study", one.study)
        frame.insert(1, "title", titles.get(one.study, one.study))
        frame["figure_file"] = [figures.get(one.study, {}).get(name, "") for name in frame["figure"]]
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def count_frame(studies: Sequence[StudyVerdicts], titles: Mapping[str, str], by: str = "paper") -> pd.DataFrame:
    """Number of claims by study and verdict, and their sums in the last line.

    Args:
        studies: what became of their claims.
        titles: title of each study.
        by: as :meth:`StudyVerdicts.counts`.

    Returns:
        columns study, one per verdict, and claims; studies without such claims are left out.
    """
    lines: list[dict[str, Any]] = []
    for one in sorted(studies, key=lambda one: one.study):
        counts = one.counts(by)
        if total := sum(counts.values()):
            name = {"study": titles.get(one.study, one.study)}
            lines.append(name | {str(verdict): n for verdict, n in counts.items()} | {"claims": total})
    frame = pd.DataFrame(lines, columns=["study", *map(str, Verdict), "claims"])
    if len(lines) > 1:
        total_line = {"study": "all", **{column: int(frame[column].sum()) for column in frame.columns[1:]}}
        frame = pd.concat([frame, pd.DataFrame([total_line])], ignore_index=True)
    return frame


def findings(studies: Sequence[StudyVerdicts], titles: Mapping[str, str]) -> list[dict[str, str]]:
    """What disagrees, is missing or is ambiguous inside the papers: study, title, place, kind, finding, evidence."""
    return [
        {
            "study": one.study,
            "title": titles.get(one.study, one.study),
            **{key: str(finding.get(key) or "") for key in ("id", "place", "kind", "finding", "evidence")},
        }
        for one in sorted(studies, key=lambda one: one.study)
        for finding in one.findings
    ]


_STYLE = """<style>
tr[hidden] { display: none !important; }
form.filter[hidden] { display: none; }
form.filter { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: .6rem 0 1rem; align-items: end; }
form.filter label { display: flex; flex-direction: column; font-size: .85rem; color: var(--muted); }
form.filter input, form.filter select { font: inherit; color: var(--text); background: var(--back);
  border: 1px solid var(--line); border-radius: 4px; padding: .3rem .4rem; max-width: 17rem; }
form.filter output { align-self: end; padding: .3rem 0; }
</style>
"""
# Rows are hidden by what their cells say; the words that a person types must all occur in a row.
_SCRIPT = """<script>
(function () {
  var form = document.querySelector("form.filter"), table = document.getElementById("claims-start");
  while (table && !table.matches("div.scroll")) { table = table.nextElementSibling; }
  if (!form || !table) { return; }
  var rows = Array.prototype.slice.call(table.querySelectorAll("tbody tr"));
  function cell(row, name) { return row.querySelector('td[data-label="' + name + '"]').dataset.sort; }
  function apply() {
    var words = form.words.value.toLowerCase().split(/\\s+/), n = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      var shown = words.every(function (word) { return text.indexOf(word) >= 0; });
      form.querySelectorAll("select").forEach(function (one) {
        if (one.value && cell(row, one.dataset.column) !== one.value) { shown = false; }
      });
      row.hidden = !shown;
      n += shown ? 1 : 0;
    });
    form.querySelector("output").textContent = n + " of " + rows.length + " claims";
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.hidden = false;
  apply();
})();
</script>
"""


def _filter_form(frame: pd.DataFrame) -> str:
    """Boxes that hide rows; without scripts they stay hidden themselves."""
    selects = []
    for column in ("title", "verdict", "at_this_scale", "by"):
        values = [value for value in dict.fromkeys(frame[column]) if value]
        if len(values) < 2:
            continue
        options = "".join(f'<option value="{html.escape(v)}">{html.escape(v)}</option>' for v in values)
        heading = html.escape(HEADINGS[column])
        selects.append(
            f'<label>{heading}<select data-column="{heading}"><option value="">all</option>{options}</select></label>'
        )
    return (
        f'{_STYLE}<form class="filter" hidden><label>Words<input type="search" name="words"></label>{"".join(selects)}'
        '<output aria-live="polite"></output></form>\n<div id="claims-start"></div>\n'
    )


_FIGURE_CELL = re.compile(
    rf'(<td class="[^"]*" data-label="{re.escape(HEADINGS["figure"])}" data-sort=")([^"]*)(">)([^<]*)(</td>)'
)


def _with_links(page: str, files: Sequence[tuple[str, str, str]]) -> str:
    """The page with links to figures.

    Args:
        page: with one cell "Shown in" for each entry of ``files``, in their order.
        files: name of the figure, its path relative to the page ("" for none) and its path inside a zipped report.
    """
    waiting = iter(files)

    def link(match: re.Match[str]) -> str:
        name, path, inside = next(waiting)
        if not path:
            return match.group(0)
        report = f' data-report="{html.escape(inside)}"' if inside else ""
        anchor = f'<a class="file" href="{html.escape(path)}"{report}>{html.escape(name)}</a>'
        return f"{match[1]}{match[2]}{match[3]}{anchor}{match[5]}"

    return _FIGURE_CELL.sub(link, page)


def _mark(column: str, value: object) -> str | None:
    return COLORS[Verdict(str(value))] if column in ("verdict", "at_this_scale") and value else None


def _finding_text(item: Mapping[str, str]) -> str:
    kind = f" ({item['kind']})" if item["kind"] else ""
    evidence = f" Evidence: {item['evidence']}" if item["evidence"] else ""
    return f"{item['place']}{kind}: {item['finding']}{evidence}"


def write(
    studies: Sequence[StudyVerdicts],
    path_html: PathLike,
    titles: Mapping[str, str],
    figures: Mapping[str, Mapping[str, str]],
    report_links: Mapping[str, str] | None = None,
    what: str = "",
) -> list[Path]:
    """Write the page of all claims and, beside it, the same as CSV and JSON.

    Args:
        studies: what became of their claims.
        path_html: path of the page, two folders below the folder of the scale.
        titles: title of each study.
        figures: as for :func:`claims_frame`.
        report_links: of these files, the path inside a zipped report relative to the page there.
        what: which runs stand behind the verdicts, for the caption.

    Returns:
        the three paths.
    """
    path = Path(path_html)
    scale = studies[0].scale
    frame = claims_frame(studies, titles, figures)
    counted, own = count_frame(studies, titles), count_frame(studies, titles, by="ours")
    report_links = report_links or {}
    sampled = any(one.of != "seeds" for study in studies for out in study.outcomes for one in out.estimates)
    mini = (
        " The mini scale shows the method working; it does not claim to reproduce the papers."
        if scale == "mini"
        else ""
    )
    theirs = int((frame["by"] == "the paper").sum())
    tables = render_table(
        counted, "Claims of the papers by study and verdict", f"{theirs} claims of {len(studies)} source(s). {what}",
        headings={"study": "Study", "claims": "all"},
    )  # fmt: skip
    if len(own):
        tables += render_table(
            own,
            "Predictions of this project by study and verdict",
            "Predictions of this project, fixed before their results; counted apart.",
            headings={"study": "Study", "claims": "all"},
        )
    found = findings(studies, titles)
    rule = RULE + (SAMPLES_RULE if sampled else "") + (OURS_RULE if len(own) else "")
    sections: dict[str, list[str]] = {"How verdicts are made": [rule]}
    for item in found:
        sections.setdefault(f"Findings inside the papers: {item['title']}", []).append(_finding_text(item))
    columns = [*HEADINGS, *(column for column in frame.columns if column not in HEADINGS)]
    page = render_html_table(
        frame[columns],
        f"Claims and verdicts of all studies ({scale} scale)",
        f"Every claim of all studies, sorted by study.{mini}",
        headings=HEADINGS,
        cell_class=_mark,
        cards=True,
        hidden=[column for column in HIDDEN if column in frame],
        before=_in_words(counted.iloc[-1], len(studies)) if len(counted) else "",
        first=f"{tables}{_filter_form(frame)}",
        after=sections,
    )
    links = [
        (name, f"../../{file}" if file else "", report_links.get(file, ""))
        for name, file in zip(frame["figure"], frame["figure_file"], strict=True)
    ]
    write_text(path, _with_links(page, links).replace("</body>", f"{_SCRIPT}</body>"))
    with atomic_path(path.with_suffix(".csv")) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    content = {
        "scale": scale,
        "counts": _by_study(studies, "paper"),
        "counts_of_our_predictions": _by_study(studies, "ours"),
        "claims": [
            {**record, "study": one.study, "figure_file": figures.get(one.study, {}).get(str(record["figure"]), "")}
            for one in sorted(studies, key=lambda one: one.study)
            for record in one.records
        ],
        "findings": found,
    }
    path_json = path.with_suffix(".json")
    write_text(path_json, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return [path, path.with_suffix(".csv"), path_json]


def _in_words(total: pd.Series, sources: int) -> str:
    """The last row of the counts as a sentence."""
    counts = ", ".join(f"{total[str(verdict)]} {verdict}" for verdict in Verdict if total[str(verdict)])
    return f"{total['claims']} claims of {sources} source{'' if sources == 1 else 's'}: {counts or 'none'}."


def _by_study(studies: Sequence[StudyVerdicts], by: str) -> dict[str, dict[str, int]]:
    """Counts by study and verdict, and their sums under "all"."""
    counts = {
        one.study: {str(verdict): n for verdict, n in one.counts(by).items()}
        for one in sorted(studies, key=lambda one: one.study)
    }
    total = {str(verdict): sum(each[str(verdict)] for each in counts.values()) for verdict in Verdict}
    return {**counts, "all": total}
