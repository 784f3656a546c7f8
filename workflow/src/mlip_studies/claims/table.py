"""The table of verdicts as CSV, JSON and HTML."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.claims.evaluate import Outcome
from mlip_studies.claims.schema import Background, Claim, ClaimSet
from mlip_studies.claims.verdicts import SEEDS, Estimate, Verdict
from mlip_studies.plotting.html_table import write_html_table

COLORS: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "good",
    Verdict.CONTRADICTED: "bad",
    Verdict.INCONCLUSIVE: "open",
    Verdict.NOT_COMPARABLE: "none",
    Verdict.NOT_RUN: "none",
}
HEADINGS: Mapping[str, str] = {
    "claim": "Claim",
    "place": "Place",
    "by": "Whose statement",
    "statement": "Statement",
    "quantity": "Quantity",
    "unit": "Unit",
    "paper": "Stated",
    "ours": "Ours (mean ± 95 %)",
    "seeds": "Seeds",
    "verdict": "Verdict",
    "at_this_scale": "Our numbers at this scale",
    "why": "Why",
    "kind": "Kind",
    "tolerance": "Tolerance",
    "tolerance_reason": "Why this tolerance",
    "judged_at": "Judged at",
    "scale": "Scale",
    "figure": "Shown in",
    "note": "Note",
}
RULE = (
    "Rule: m is the mean over seeds and h its 95 % half width (Student t, at least three seeds). Reproduced if "
    "[m − h, m + h] lies within the stated value ± tolerance, contradicted if it is disjoint from it, inconclusive "
    "otherwise and for fewer than three seeds of a stochastic quantity. Orderings and trends are judged by paired "
    "differences over seeds, signed so that positive agrees with the statement; every part of a statement must hold."
)
SAMPLES_RULE = (
    " Where the column of seeds names something else (molecules, trajectories, blocks of time), one network is judged "
    "and the interval is over these: a bootstrap, or Student t where one molecule is meant."
)
OURS_RULE = (
    " Predictions of this project were fixed before their results, are judged by the same rule and counted apart."
)
WHOSE: Mapping[str, str] = {"paper": "the paper", "ours": "prediction of this project"}


def _number(value: float) -> str:
    if math.isfinite(value) and value == round(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f" if abs(value) >= 10_000 else "").replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def describe_paper(claim: Claim) -> str:
    """The paper's value in words, for instance ``18.5 to 20`` or ``<= 3``."""
    if isinstance(claim.paper, str):
        return claim.paper
    if isinstance(claim.paper, Mapping):
        if "range" in claim.paper:
            return " to ".join(_number(float(end)) for end in claim.paper["range"])
        if "relation" in claim.paper:
            return f"{claim.paper['relation']} {_number(float(claim.paper['value']))}"
        return "; ".join(f"{part}: {_number(float(value))}" for part, value in claim.paper.items())
    return _number(float(claim.paper))


def describe_statement(claim: Claim) -> str:
    """The sentence, marked as quoted, translated (with the original) or paraphrased, or as a prediction of ours."""
    if claim.is_ours:
        return f"{claim.sentence} (prediction of this project)"
    if claim.wording == "translation":
        original = f"; original: “{claim.original}”" if claim.original else ""
        return f"“{claim.sentence}” (translated{original})"
    return f"“{claim.sentence}”" if claim.quoted else f"{claim.sentence} (paraphrase)"


def describe_tolerance(claim: Claim) -> str:
    """The tolerance with its unit, for instance ``± 20 %``."""
    if claim.is_comparison:
        return "sign"
    if claim.tolerance == 0:
        return "exact"
    return f"± {claim.tolerance * 100:g} %" if claim.relative else f"± {claim.tolerance:g} {claim.unit}".rstrip()


def describe_estimate(one: Estimate, named: bool) -> str:
    """Our number with its half width; a deterministic one stands alone."""
    text = _number(one.mean)
    if one.interval is not None:
        text = f"{text} ({_number(one.interval[0])} to {_number(one.interval[1])})"
    elif not one.deterministic and one.half_width is not None:
        digits = 0 if one.half_width >= 9.5 else 1 if one.half_width >= 0.95 else None
        if digits is None:
            text = f"{_number(one.mean)} ± {one.half_width:.2g}"
        else:
            text = f"{one.mean:.{digits}f} ± {one.half_width:.{digits}f}".replace("-", "−")
    return f"{one.name}: {text}" if named else text


def to_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per claim, in words; the columns of verdicts.csv."""
    rows = []
    for outcome in outcomes:
        claim, estimates = outcome.claim, outcome.estimates
        named = len(estimates) > 1 or claim.is_comparison
        stochastic = [(one.n, one.of) for one in estimates if not one.deterministic]
        rows.append(
            {
                "claim": claim.id,
                "verdict": str(outcome.verdict),
                "place": claim.place,
                "by": WHOSE[claim.by],
                "statement": describe_statement(claim),
                "quantity": claim.quantity,
                "paper": describe_paper(claim),
                "ours": "; ".join(describe_estimate(one, named) for one in estimates),
                "unit": claim.unit,
                "seeds": _sample(stochastic) if stochastic else "exact" if estimates else "",
                "at_this_scale": str(outcome.at_this_scale) if outcome.at_this_scale else "",
                "why": outcome.reason,
                "tolerance": describe_tolerance(claim),
                "tolerance_reason": claim.reason,
                "note": claim.note,
                "figure": claim.figure,
                "kind": claim.kind,
                "judged_at": ", ".join(claim.judged_at),
                "scale": outcome.scale,
            }
        )
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else list(HEADINGS))


def _sample(sizes: Sequence[tuple[int, str]]) -> str:
    """The smallest sample behind a claim, with what it is of unless these are seeds."""
    n, of = min(sizes)
    return str(n) if of == SEEDS else f"{n} {of}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def to_records(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One record per claim with all numbers; the content of verdicts.json."""
    return [
        {
            "id": outcome.claim.id,
            "study": outcome.claim.study,
            "place": outcome.claim.place,
            "sentence": outcome.claim.sentence,
            "by": outcome.claim.by,
            "original": outcome.claim.original,
            "quotation": outcome.claim.quoted,
            "wording": outcome.claim.wording,
            "quantity": outcome.claim.quantity,
            "unit": outcome.claim.unit,
            "kind": outcome.claim.kind,
            "paper": dict(outcome.claim.paper) if isinstance(outcome.claim.paper, Mapping) else outcome.claim.paper,
            "tolerance": outcome.claim.tolerance,
            "tolerance_is_relative": outcome.claim.relative,
            "tolerance_reason": outcome.claim.reason,
            "metric": outcome.claim.metric,
            "arguments": dict(outcome.claim.arguments),
            "judged_at": list(outcome.claim.judged_at),
            "figure": outcome.claim.figure,
            "note": outcome.claim.note,
            "scale": outcome.scale,
            "ours": [
                {
                    "name": one.name,
                    "mean": _finite(one.mean),
                    "half_width_95": _finite(one.half_width),
                    "interval_95": None if one.interval is None else [_finite(end) for end in one.interval],
                    "n": one.n,
                    "of": one.of,
                    "floor": _finite(one.floor),
                    "deterministic": one.deterministic,
                }
                for one in outcome.estimates
            ],
            "verdict": str(outcome.verdict),
            "at_this_scale": str(outcome.at_this_scale) if outcome.at_this_scale else None,
            "reason": outcome.reason,
        }
        for outcome in outcomes
    ]


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Number of claims by verdict, every verdict named."""
    found = Counter(outcome.verdict for outcome in outcomes)
    return {str(verdict): found[verdict] for verdict in Verdict}


def _count(outcomes: Sequence[Outcome], what: str) -> str:
    return f"{len(outcomes)} {what}{'' if len(outcomes) == 1 else 's'}"


def _summary(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in counts(outcomes).items() if n)


def _background(item: Background) -> str:
    return f"{item.place}: {item.text}: {_number(item.value)} {item.unit}".rstrip()


def write(claims: ClaimSet, outcomes: Sequence[Outcome], path_html: PathLike) -> list[Path]:
    """Write verdicts.html and, beside it, verdicts.csv and verdicts.json.

    Args:
        claims: the study's claims, for its findings and exclusions.
        outcomes: what became of them.
        path_html: path of the page.

    Returns:
        the three paths.
    """
    path = Path(path_html)
    scale = outcomes[0].scale if outcomes else ""
    frame = to_frame(outcomes)
    ours = [outcome for outcome in outcomes if outcome.claim.is_ours]
    theirs = [outcome for outcome in outcomes if not outcome.claim.is_ours]
    summary = f"{_count(theirs, 'claim')} of {claims.source}: {_summary(theirs)}."
    if ours:
        summary += f" {_count(ours, 'prediction')} of this project: {_summary(ours)}."

    sampled = any(one.of != SEEDS for outcome in outcomes for one in outcome.estimates)

    def mark(column: str, value: object) -> str | None:
        return COLORS[Verdict(str(value))] if column in ("verdict", "at_this_scale") and value else None

    mini = (
        " The mini scale shows the method working; it does not claim to reproduce the paper." if scale == "mini" else ""
    )
    written = write_html_table(
        frame,
        path,
        f"Claims and verdicts: {claims.study} ({scale} scale)",
        f"{summary}{mini}",
        headings=HEADINGS,
        cell_class=mark,
        cards=True,
        hidden=("kind", "judged_at", "scale", *(() if ours else ("by",))),
        before=RULE + (SAMPLES_RULE if sampled else "") + (OURS_RULE if ours else ""),
        after={
            "Findings inside the paper": [
                f"{item['place']} ({item['kind']}): {item['finding']} Evidence: {item['evidence']}"
                for item in claims.findings
            ],
            "Not counted as claims": [f"{item['text']}: {item['reason']}" for item in claims.excluded],
            "Quoted or taken as given": [_background(item) for item in claims.background.values()],
        },
    )
    path_json = path.with_suffix(".json")
    content = {
        "study": claims.study,
        "source": claims.source,
        "scale": scale,
        "counts": counts(theirs),
        "counts_of_our_predictions": counts(ours),
        "claims": to_records(outcomes),
        "findings": [dict(item) for item in claims.findings],
        "excluded": [dict(item) for item in claims.excluded],
        "background": [asdict(item) for item in claims.background.values()],
        "coverage": [dict(item) for item in claims.coverage],
    }
    write_text(path_json, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return [*written, path_json]
