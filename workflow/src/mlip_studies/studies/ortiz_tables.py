"""Tables of the study of physical adequacy: the scorecard, the potentials and the measures of all curves.

Every product has the form ``f(tables, context, output)`` and writes <output>.html and .csv. The scorecard sets every
potential against every test: a number, a limit that was fixed beforehand, pass, fail or not run with its reason, and
links to the figure and to the numbers of the curve.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.adequacy.analysis import largest_fall
from mlip_studies.adequacy.scans import bond_length
from mlip_studies.artifacts import PathLike, atomic_path, write_text
from mlip_studies.claims.adequacy_tables import DOUBLE, OK, AdequacyTables
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.ortiz import SURFACE, Surface, depth, minimum_position, points
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import render_html_table, render_table, write_html_table
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.ortiz import (
    BODY_ORDER,
    BODY_ORDER_CENTRAL,
    FAMILY_TITLES,
    Look,
    looks,
    reason_of,
    scale_text,
    scan_title,
    title_of_test,
)

__all__ = ["analysis", "potentials", "scorecard"]

PASS, FAIL, NOT_RUN, OPEN = "pass", "fail", "not run", "no limit"
BELOW, ABOVE = "at most", "more than"
#: figure that shows a symmetry test
SYMMETRY_FIGURE, BODY_FIGURE = "symmetry-tests", "fig6-body-order"


@dataclass(frozen=True)
class Check:
    """A test of one curve.

    Attributes:
        test: what is tested.
        scan: its curve.
        measure: the number, from the tables, the potential and its precision.
        limit: largest value that passes, in ``unit``.
        unit: of the value and the limit.
        figure: file name of the figure that shows the curve.
        needs_reference: whether it compares with the reference level.
    """

    test: str
    scan: str
    measure: Callable[[AdequacyTables, str, str, str], float]
    limit: float
    unit: str
    figure: str
    needs_reference: bool = False


def _curve(tables: AdequacyTables, potential: str, precision: str, scan: str) -> tuple[Any, Any]:
    return points(tables.curve(potential, precision, scan))


def _minimum(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
    own = minimum_position(*_curve(tables, potential, precision, scan))
    return abs(own - minimum_position(*points(tables.reference(scan))))


def _fall(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
    return largest_fall(*_curve(tables, potential, precision, scan), bond_length(scan))


def _depth(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
    true = depth(*points(tables.reference(scan)))
    return abs(depth(*_curve(tables, potential, precision, scan)) - true) / true


def _spread(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
    _, energy = points(tables.curve(potential, precision, scan), "energy_ev")
    return float(energy.max() - energy.min())


def _net(column: str) -> Callable[[AdequacyTables, str, str, str], float]:
    def measure(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
        curve = tables.curve(potential, precision, scan)
        if column not in curve:
            raise MissingDataError("no forces along the scan")
        return float(points(curve, column)[1].max())

    return measure


def _from_analysis(metric: str, sign: float = 1.0, offset: float = 0.0) -> Callable[..., float]:
    def measure(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
        frame = tables.analysis()
        own = frame[(frame["potential"] == potential) & (frame["precision"] == precision) & (frame["scan"] == scan)]
        value = own.loc[own["metric"] == metric, "value"].dropna()
        if value.empty:
            raise MissingDataError(f"no {metric.replace('_', ' ')}")
        return offset + sign * float(value.iloc[0])

    return measure


def _surface(kind: str) -> Callable[[AdequacyTables, str, str, str], float]:
    def measure(tables: AdequacyTables, potential: str, precision: str, scan: str) -> float:
        own = Surface(tables.curve(potential, precision, scan))
        if kind == "bias":
            return own.largest_bias(1.0)
        true = Surface(tables.reference(scan))
        if kind == "square":
            return abs(own.square - true.square) / true.square
        low, high = sorted(own.minimum)
        true_low, true_high = sorted(true.minimum)
        return max(abs(low - true_low), abs(high - true_high))

    return measure


#: limits, fixed before any result: a tenth of the thesis's own 10 meV for what symmetry makes equal; 0.05 Å and 20 % of
#: a dissociation energy or barrier for what a reference says
EQUAL_EV, LENGTH, FRACTION = 1e-3, 0.05, 0.2


def checks() -> list[Check]:
    """All tests of curves, in the order of the thesis."""
    found = []
    for group, figure in (
        (("diatomic-h2", "diatomic-n2"), "fig7-diatomics"),
        (("diatomic-c2", "diatomic-o2", "diatomic-si2", "diatomic-cl2"), "fig29-diatomics"),
        (("ethane-cc", "ethanol-co"), "fig8-bonds"),
        (("ethanol-oh",), "fig30-ethanol-oh"),
    ):
        for scan in group:
            found += [
                Check("minimum at the right distance", scan, _minimum, LENGTH, "Å", figure, True),
                Check("dissociates without a fall of the energy", scan, _fall, 0.05, "eV", figure),
                Check("dissociation energy, relative error", scan, _depth, FRACTION, "", figure, True),
            ]
    harmonic = _from_analysis("harmonic_r2", -1.0, 1.0)
    found += [
        Check("harmonic near the minimum, 1 − R²", "ethanol-cco", harmonic, 0.02, "", "fig9-angles"),
        Check("equal under α → 360° − α", "water-hoh", _from_analysis("symmetry_residual_ev"), EQUAL_EV, "eV",
              "fig9-angles"),
        Check("RMSE against the reference", "water-hoh", _from_analysis("rmse_ev"), 0.2, "eV", "fig9-angles", True),
    ]  # fmt: skip
    for scan in ("dihedral-ethane", "dihedral-biphenyl", "dihedral-biaryl1", "dihedral-biaryl2", "dihedral-biaryl3",
                 "dihedral-fluoroallene"):  # fmt: skip
        figure = "fig10-dihedrals" if scan in ("dihedral-ethane", "dihedral-biphenyl") else "fig31-dihedrals"
        found += [
            Check("mirror and turn symmetry", scan, _from_analysis("symmetry_residual_ev"), EQUAL_EV, "eV", figure),
            Check("RMSE against the reference", scan, _from_analysis("rmse_ev"), 0.05, "eV", figure, True),
        ]
    for molecule in ("water", "cyclobutadiene", "benzene", "ethanol"):
        figure = "fig11-invariance" if molecule in ("water", "cyclobutadiene") else "fig34-invariance-others"
        for kind in ("rotation", "translation"):
            found.append(Check("energy does not change", f"{kind}-{molecule}", _spread, EQUAL_EV, "eV", figure))
    for kind in ("translation", "rotation"):
        scan = f"{kind}-water"
        found += [
            Check("no net force", scan, _net("net_force_ev_per_angstrom"), EQUAL_EV, "eV/Å", "fig12-momentum"),
            Check("no net torque", scan, _net("net_torque_ev"), EQUAL_EV, "eV", "fig12-momentum"),
        ]
    return [
        *found,
        Check("mirror symmetry", "cosan", _from_analysis("symmetry_residual_ev"), 5e-3, "eV", "fig13-cosan"),
        Check("E(x, y) = E(y, x)", SURFACE, _surface("bias"), EQUAL_EV, "eV", "fig14-cyclobutadiene"),
        Check("minimum at the right distances", SURFACE, _surface("minimum"), LENGTH, "Å",
              "fig14-cyclobutadiene", True),
        Check("energy of the square, relative error", SURFACE, _surface("square"), FRACTION, "",
              "fig14-cyclobutadiene", True),
    ]  # fmt: skip


def _row(potential: str, look: Look, precision: str, test: str, subject: str, **values: Any) -> dict[str, Any]:
    return {
        "potential": look.title,
        "family": FAMILY_TITLES.get(look.family, look.family),
        "precision": precision,
        "test": test,
        "subject": subject,
        "verdict": NOT_RUN,
        "value": math.nan,
        "limit": math.nan,
        "sense": BELOW,
        "unit": "",
        "reason": "",
        "figure": "",
        "curve": "",
        "name": potential,
        **values,
    }


def scorecard_rows(tables: AdequacyTables, context: StudyContext) -> Iterator[dict[str, Any]]:
    """One row per potential and test, in the best precision; potentials that were not run have one row with the reason.

    Args:
        tables: curves, references, symmetry tests, analysis and reasons.
        context: its settings name the potentials.
    """
    known = looks(tables, context)
    missing = tables.missing()
    timed = context.settings.get("cost_only") or ()
    for name in dict.fromkeys([*known, *missing]):
        if name in timed and name not in tables.potentials():
            continue
        look = known.get(name) or Look(name, "", "black", "x", "-")
        if name not in tables.potentials():
            reason = missing.get(name, "not among the results that were asked for")
            yield _row(name, look, "", "all", "all", reason=reason)
            continue
        precision = tables.precisions(name)[0]
        for check in checks():
            yield _checked(tables, name, look, precision, check)
        try:
            frame = tables.symmetry(name, precision)
        except MissingDataError:
            continue
        for _, line in frame.iterrows():
            yield _tested(name, look, precision, line)


def _checked(tables: AdequacyTables, name: str, look: Look, precision: str, check: Check) -> dict[str, Any]:
    row = _row(
        name, look, precision, check.test, scan_title(check.scan), limit=check.limit, unit=check.unit,
        figure=f"{check.figure}.png", curve=f"{name}/{precision}/{check.scan}.csv",
    )  # fmt: skip
    if (name, precision, check.scan) not in tables.curves():
        return {**row, "curve": "", "reason": "this scan is not part of the run"}
    curve = tables.curve(name, precision, check.scan)
    if reason := reason_of(curve):
        return {**row, "reason": reason}
    if check.needs_reference and not tables.levels(check.scan):
        return {**row, "reason": "no reference calculation of this scan"}
    try:
        value = check.measure(tables, name, precision, check.scan)
    except MissingDataError as error:
        return {**row, "reason": str(error)}
    failed = int((curve["status"] != OK).sum())
    note = f"{failed} of {len(curve)} points failed" if failed else ""
    if not math.isfinite(value):
        return {**row, "reason": note or "the curve does not say"}
    return {**row, "value": value, "verdict": PASS if value <= check.limit else FAIL, "reason": note}


def _tested(name: str, look: Look, precision: str, line: pd.Series) -> dict[str, Any]:
    test = str(line["test"])
    value, limit = float(line["value"]), float(line["limit"])
    above = str(line.get("sense", "below")) == "above"
    unit = "" if pd.isna(line["unit"]) else str(line["unit"])
    figure = BODY_FIGURE if test in (BODY_ORDER, BODY_ORDER_CENTRAL) else SYMMETRY_FIGURE
    row = _row(
        name, look, precision, title_of_test(test), str(line["molecule"]), limit=limit, unit=unit,
        sense=ABOVE if above else BELOW, figure=f"{figure}.png",
    )  # fmt: skip
    if not math.isfinite(value):
        message = "" if pd.isna(line.get("message")) else str(line["message"])
        return {**row, "reason": message or str(line.get("status", "no value"))}
    if not math.isfinite(limit):
        return {**row, "value": value, "verdict": OPEN}
    passed = value > limit if above else value <= limit
    return {**row, "value": value, "verdict": PASS if passed else FAIL}


HEADINGS: Mapping[str, str] = {
    "potential": "potential", "test": "test", "subject": "molecule or scan", "verdict": "verdict", "value": "value",
    "passes": "passes if", "reason": "remark", "figure": "figure", "curve": "numbers",
}  # fmt: skip
MARKS = {PASS: "good", FAIL: "bad", NOT_RUN: "none", OPEN: "open"}
_LINK = re.compile(r'(<td class="[^"]*" data-label="(figure|numbers)"[^>]*>)([^<]+)(</td>)')
_FOLDERS = {"figure": "../figures/", "numbers": "../curves/"}


def with_links(page: str) -> str:
    """A page in which names of figures and of curves are links to the files beside it.

    Args:
        page: of a table with the headings "figure" and "numbers".
    """

    def link(match: re.Match[str]) -> str:
        start, column, text, end = match.groups()
        target = html.escape(_FOLDERS[column] + html.unescape(text))
        short = text.removesuffix(".png") if column == "figure" else "CSV"
        return f'{start}<a class="file" href="{target}">{short}</a>{end}'

    return _LINK.sub(link, page)


def _passes(row: pd.Series) -> str:
    """When a row passes, in words with its unit; empty without a limit."""
    if not math.isfinite(row["limit"]):
        return ""
    return f"{row['sense']} {row['limit']:g} {row['unit']}".strip()


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Tests against potentials: how many of a potential's tests passed, as in 2/3; empty where none was judged.

    Args:
        rows: of :func:`scorecard_rows`.

    Returns:
        column ``test``, and one for each potential with a test that was judged; last line: all tests.
    """
    judged = rows[rows["verdict"].isin((PASS, FAIL))]
    judged = pd.concat([judged, judged.assign(test="all tests")])
    titles = list(dict.fromkeys(judged["potential"]))
    lines = []
    for test, own in judged.groupby("test", sort=False):
        line = {"test": test} | dict.fromkeys(titles, "")
        for title, mine in own.groupby("potential", sort=False):
            line[str(title)] = f"{int((mine['verdict'] == PASS).sum())}/{len(mine)}"
        lines.append(line)
    return pd.DataFrame(lines, columns=["test", *titles])


def _share(column: str, text: Any) -> str | None:
    """Colour of a cell of the matrix."""
    if column == "test":
        return None
    passed, _, judged = str(text).partition("/")
    return "good" if passed == judged else "bad" if passed == "0" else "open"


def scorecard(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Every potential against every test: number, limit, pass or fail, or why it was not run; links to the curves.

    Args:
        tables: see :func:`scorecard_rows`.
        context: scale and potentials.
        output: path of the HTML file.

    Raises:
        InputError: nothing was run and nothing is known to be missing.
    """
    frame = pd.DataFrame(scorecard_rows(tables, context))
    if frame.empty:
        raise InputError("table scorecard: no curve, test or unavailable.json among its files; run the scans")
    summary = []
    for title, own in frame.groupby("potential", sort=False):
        counts = own["verdict"].value_counts()
        judged = int(counts.get(PASS, 0) + counts.get(FAIL, 0))
        if judged:
            summary.append(
                f"{title}: {int(counts.get(PASS, 0))} of {judged} tests passed, {int(counts.get(NOT_RUN, 0))} not run."
            )
        else:
            summary.append(f"{title}: not run ({own['reason'].iloc[0]}).")
    levels = sorted({tables.level(scan) for scan in tables.scans() if tables.levels(scan)})
    shown = frame.assign(passes=frame.apply(_passes, axis=1))
    page = render_html_table(
        shown[list(HEADINGS)],
        "Scorecard: potentials against tests of physical adequacy",
        f"One row per potential and test, in the best precision of the potential. Reference: "
        f"{', '.join(levels) if levels else 'none was run'}. The thesis gives no limits: all are this project's, fixed "
        "beforehand.",
        headings=HEADINGS,
        cell_class=lambda column, value: MARKS.get(value) if column == "verdict" else None,
        cards=True,
        before="Click a heading to sort by it. Links lead to the figure and to the numbers behind it.",
        first=render_table(
            matrix(frame),
            "Tests passed by each potential",
            f"{scale_text(context)}. Tests passed of those judged: green all, yellow some, red none.",
            cell_class=_share,
        ),
        after={
            "Passed by potential": summary,
            "Limits": [
                f"What symmetry makes equal may differ by {EQUAL_EV * 1000:g} meV, a tenth of what the thesis reports "
                "as a defect; the same in float64 and float32.",
                f"Against the reference: {LENGTH:g} Å for a distance, {100 * FRACTION:g} % for a dissociation energy "
                "or a barrier. The reference is another level than that of the training data of most potentials, so "
                "that a failure may be the level's and not the potential's.",
                "Passing says that a potential has no defect that the test sees, not that it is right.",
            ],
        },
    )
    path = Path(output)
    write_text(path, with_links(page))
    with atomic_path(path.with_suffix(".csv")) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


# --- the potentials


POTENTIAL_HEADINGS: Mapping[str, str] = {
    "title": "potential", "family": "family", "ran": "run here", "reason": "why not", "precision": "precision",
    "cutoff": "cutoff (Å)", "elements": "elements", "level": "level of its labels", "direct_forces": "forces",
    "licence": "licence", "sha256": "SHA-256 of the weights", "packages": "packages", "citation": "citation",
}  # fmt: skip


def potential_rows(tables: AdequacyTables, context: StudyContext) -> Iterator[dict[str, Any]]:
    """One row per potential: what it is, whether it was run, and why not.

    Args:
        tables: what was run, descriptions and reasons.
        context: its settings name the potentials.
    """
    known, missing, described = looks(tables, context), tables.missing(), tables.descriptions()
    entries: Mapping[str, Any] = context.settings.get("potentials") or {}
    only_timed = context.settings.get("cost_only") or ()
    timed, not_asked = "timed only: it is what others are compared with", "not among the results that were asked for"
    for name in dict.fromkeys([*known, *described, *missing]):
        about = {**(entries.get(name) or {}), **described.get(name, {})}
        family = known[name].family if name in known else str(about.get("family", ""))
        was_run = name in tables.potentials()
        direct = about.get("direct_forces")
        precisions = tables.precisions(name) if was_run else about.get("precision") or []
        precisions = [precisions] if isinstance(precisions, str) else precisions
        yield {
            "title": about.get("title", known[name].title if name in known else name),
            "family": FAMILY_TITLES.get(family, family),
            "ran": "yes" if was_run else "no",
            "reason": "" if was_run else missing.get(name, timed if name in only_timed else not_asked),
            "precision": ", ".join(map(str, precisions)),
            "cutoff": float(about["cutoff"]) if about.get("cutoff") else math.nan,
            "elements": _elements(about.get("elements")),
            "level": about.get("level") or "",
            "direct_forces": "" if direct is None else "predicted directly" if direct else "gradient of the energy",
            "licence": about.get("licence") or "",
            "sha256": about.get("sha256") or "",
            "packages": about.get("packages") or "",
            "citation": about.get("citation") or "",
            "name": name,
        }


def _elements(elements: Sequence[Any] | None) -> str:
    """Symbols of the elements that a potential knows; ranges where there are many."""
    from ase.data import chemical_symbols

    if not elements:
        return ""
    symbols = [chemical_symbols[int(each)] if str(each).isdigit() else str(each) for each in elements]
    return ", ".join(symbols) if len(symbols) <= 15 else f"{len(symbols)} elements, {symbols[0]} to {symbols[-1]}"


def potentials(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """What ran, with licence, checksum, cutoff and precision; what did not, and why.

    Args:
        tables: see :func:`potential_rows`.
        context: scale and potentials.
        output: path of the HTML file.

    Raises:
        InputError: no potential is known.
    """
    frame = pd.DataFrame(potential_rows(tables, context))
    if frame.empty:
        raise InputError("table potentials: no potential in config/studies/ortiz.yaml or among its files; name some")
    count = int((frame["ran"] == "yes").sum())
    write_html_table(
        frame,
        output,
        "Potentials of the study of physical adequacy",
        f"{scale_text(context)}. {count} of {len(frame)} potentials were run. The thesis ran ANI-1x, ANI-1ccx, ANI-2x, "
        "MACE-MP, MACE-OFF, Orb-v2 and Orb-D3-v2.",
        headings=POTENTIAL_HEADINGS,
        cell_class=lambda column, value: {"yes": "good", "no": "none"}.get(value) if column == "ran" else None,
        cards=True,
        hidden=("name",),
    )


# --- the analysis


def analysis(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Measures of all curves: one row per potential, precision and scan, one column per measure.

    Args:
        tables: analysis of the curves.
        context: scale and potentials.
        output: path of the HTML file.

    Raises:
        InputError: there is no analysis.
    """
    try:
        frame = tables.analysis()
    except MissingDataError as error:
        raise InputError("table analysis: no analysis.csv among its files; run the analysis of the curves") from error
    known = looks(tables, context)
    units = frame.dropna(subset="unit").groupby("metric")["unit"].first().to_dict()
    wide = frame.pivot_table(
        index=["potential", "precision", "scan"], columns="metric", values="value", sort=False
    ).reset_index()
    wide.columns.name = None
    wide["potential"] = [known[name].title if name in known else name for name in wide["potential"]]
    wide["scan"] = [scan_title(scan) for scan in wide["scan"]]
    shown = {"angstrom": "Å", "degree": "°", "1": "", "eV": "eV"}
    headings = {
        metric: " ".join(
            part for part in (
                metric.removesuffix("_ev").removesuffix("_angstrom").replace("_", " "),
                f"({shown.get(unit, unit)})" if shown.get(unit, unit) and "position" not in metric else "",
            ) if part
        )
        for metric, unit in units.items()
    }  # fmt: skip
    headings |= {"minimum_position": "minimum (Å or °)", "minimum_error": "minimum, error (Å or °)"}
    write_html_table(
        wide,
        output,
        "Measures of all curves",
        f"{scale_text(context)}. Only points that worked count; {DOUBLE} and float32 stand beside each other. The "
        "thesis describes its curves in words and gives no such numbers.",
        headings=headings,
    )
