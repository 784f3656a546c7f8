"""Figures of the study of physical adequacy.

After S. Ortiz Ropero, *Study and applicability of machine learning potentials*, Universitat Autònoma de Barcelona 2025,
sections 1, 4.1 and 5 and appendix G.

Every product has the form ``f(tables, context, output)`` and writes <output>.png, .svg and .csv. Numbers of the thesis
are taken from the claim file by id. A potential has the same colour, marker and line in every figure; the reference
level is black and named in the footer. Energies are in eV in the CSV files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter, NullLocator

from mlip_studies.adequacy.environments import degenerate_environments
from mlip_studies.adequacy.potentials import entry_family
from mlip_studies.artifacts import PathLike
from mlip_studies.claims.adequacy_tables import DOUBLE, OK, PRECISIONS, AdequacyTables
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.ortiz import SURFACE, Surface, cost_exponent, depth, extrema, is_turn, points
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_line, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import number, plain_log
from mlip_studies.units import EV_TO_MEV

__all__ = [
    "angles", "body_order", "bonds", "cosan", "cost", "cyclobutadiene", "cyclobutadiene_cut", "cyclobutadiene_others",
    "diatomics", "diatomics_others", "dihedrals", "dihedrals_others", "hydroxyl", "invariance", "invariance_others",
    "momentum", "smoothness", "symmetry_tests",
]  # fmt: skip

SETTINGS = "potentials"
REFERENCE = "reference"
#: rounding of numbers that are exactly zero, so that they have a place on a logarithmic axis
SMALLEST = 1e-16
MARK_EVERY = 9
#: claims whose numbers are drawn
CUTOFF, ORB_ROTATION, SQUARE = "interaction-end-ani", "rotation-orb", "cyclobutadiene-square"
MACE_OFF_MINIMUM = "cyclobutadiene-mace-off-minimum"
#: what the thesis could not have: it shows no reference along any scan
NO_REFERENCE = "The thesis shows no reference curve; its published figures are not digitised."


@dataclass(frozen=True)
class Look:
    """How a potential is drawn in every figure."""

    title: str
    family: str
    color: str
    marker: str
    line: Any


DASH, DOT, DASHDOT, LONG = (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2))
#: by family, in the order in which the configuration names its members
LOOKS: Mapping[str, Sequence[tuple[str, str, Any]]] = {
    "ani": (("vermillion", "o", "-"), ("orange", "s", DASH), ("reddish purple", "^", DASHDOT)),
    "mace": (("blue", "D", "-"), ("sky blue", "v", DASH), ("blue", "<", DOT)),
    "orb": (("bluish green", "P", "-"), ("bluish green", "X", DASH), ("bluish green", ">", DOT)),
    "xtb": (("grey", "*", "-"), ("grey", "d", DOT)),
    "trained": (
        ("sky blue", "h", DASHDOT), ("bluish green", "p", DOT), ("blue", "8", LONG), ("reddish purple", "H", DOT),
        ("orange", ">", DOT), ("vermillion", "<", DOT),
    ),
    "dft": (("black", "x", DASH), ("black", "+", DOT)),
}  # fmt: skip
FAMILY_TITLES: Mapping[str, str] = {
    "ani": "ANI", "mace": "MACE", "orb": "Orb", "xtb": "semi-empirical", "trained": "trained here", "dft": "DFT",
}  # fmt: skip


def family_of(name: str, entry: Mapping[str, Any]) -> str:
    """Family of a potential: as configured, else by its kind; by its name where nothing is configured."""
    if entry.get("family"):
        return str(entry["family"])
    if entry:
        return entry_family(entry)
    return next((each for each in ("ani", "mace", "orb", "xtb") if name.lower().startswith(each)), "trained")


def looks(tables: AdequacyTables, context: StudyContext) -> dict[str, Look]:
    """The look of every potential of the study, those first that the configuration names.

    Args:
        tables: names the potentials that were run.
        context: its settings name potentials in order.
    """
    entries: Mapping[str, Any] = context.settings.get(SETTINGS) or {}
    names = list(dict.fromkeys([*entries, *sorted(tables.potentials())]))
    place: dict[str, int] = {}
    result = {}
    for name in names:
        entry = entries.get(name) or {}
        family = family_of(name, entry)
        options = LOOKS.get(family, LOOKS["trained"])
        index = place[family] = place.get(family, -1) + 1
        color, marker, line = options[index % len(options)]
        # More members than looks: the lines tell them apart.
        line = LONG if index >= len(options) else line
        result[name] = Look(str(entry.get("title", name)), family, OKABE_ITO.get(color, GREY), marker, line)
    return result


# --- scans ----------------------------------------------------------------------------------------------------------

SCAN_TITLES: Mapping[str, str] = {
    "diatomic-h2": "H₂", "diatomic-n2": "N₂", "diatomic-c2": "C₂", "diatomic-o2": "O₂", "diatomic-si2": "Si₂",
    "diatomic-cl2": "Cl₂", "ethane-cc": "ethane C–C", "ethanol-co": "ethanol C–O", "ethanol-oh": "ethanol O–H",
    "water-hoh": "water H–O–H", "ethanol-cco": "ethanol C–C–O", "dihedral-ethane": "ethane H–C–C–H",
    "dihedral-biphenyl": "biphenyl", "dihedral-biaryl1": "biaryl 1 (3-furyl pyridone)",
    "dihedral-biaryl2": "biaryl 2 (2-furyl pyridone)", "dihedral-biaryl3": "biaryl 3 (pyrazolyl pyrrolopyrimidine)",
    "dihedral-fluoroallene": "fluoroallene", "cyclobutadiene-1d": "cyclobutadiene, one C–C pair",
    "cyclobutadiene-2d": "cyclobutadiene surface", "cosan": "COSAN ligand rotation",
}  # fmt: skip


def scan_title(scan: str) -> str:
    """What a scan is called in a figure."""
    if scan in SCAN_TITLES:
        return SCAN_TITLES[scan]
    kind, _, molecule = scan.partition("-")
    return f"{molecule} {kind}" if kind in ("rotation", "translation") else scan


def scale_text(context: StudyContext) -> str:
    """Scale for a footer."""
    if context.scale == "mini":
        return "mini scale (coarse scans, small reference level: no reproduction of the thesis)"
    return f"{context.scale} scale"


def ran(tables: AdequacyTables, scan: str, known: Mapping[str, Look]) -> list[str]:
    """Potentials with a curve of a scan, in the order of the looks."""
    own = {name for name, _, each in tables.curves() if each == scan}
    return [name for name in known if name in own]


def reason_of(frame: pd.DataFrame) -> str:
    """Why no point of a curve worked, in the words of its messages; "" if one did."""
    if (frame["status"] == OK).any():
        return ""
    messages = [str(each) for each in frame.get("message", pd.Series(dtype=str)).dropna().unique() if str(each)]
    return messages[0] if messages else str(frame["status"].iloc[0])


def listed(names: Iterable[str]) -> str:
    """Names with commas."""
    return ", ".join(names)


class Notes:
    """What the footer of a figure of scans must say, gathered while panels are drawn."""

    def __init__(self, tables: AdequacyTables, context: StudyContext, known: Mapping[str, Look]) -> None:
        """Start with nothing seen."""
        self.tables, self.context, self.known = tables, context, known
        self.shown: dict[str, str] = {}
        self.levels: list[str] = []
        self.without: list[str] = []
        self.unsupported: dict[str, list[str]] = {}
        self.failed: list[str] = []
        self.cut: list[str] = []
        self.n_points: list[int] = []

    def cannot(self, name: str, scan: str, reason: str) -> None:
        """A potential cannot describe the molecule of a scan."""
        self.unsupported.setdefault(f"{scan_title(scan)} ({reason})", []).append(self.known[name].title)

    def saw(self, name: str, *precisions: str) -> None:
        """A potential was drawn, in one precision or several."""
        self.shown[name] = " and ".join(precisions)

    def _precisions(self) -> str:
        """Double precision where nothing else is said, and which potentials have another one."""
        found = set(self.shown.values())
        if len(found) == 1:
            return found.pop()
        others: dict[str, list[str]] = {}
        for name, precision in self.shown.items():
            if precision != DOUBLE:
                others.setdefault(precision, []).append(self.known[name].title)
        told = "; ".join(f"{listed(titles)}: {precision}" for precision, titles in others.items())
        return f"{DOUBLE} ({told})" if told else DOUBLE

    def lines(self, *extra: str) -> str:
        """The footer's text.

        Args:
            extra: sentences of the figure.
        """
        size = ""
        if self.n_points:
            low, high = min(self.n_points), max(self.n_points)
            size = f", one deterministic curve each, {low if low == high else f'{low} to {high}'} points per curve"
        absent = [
            self.known[name].title if name in self.known else name
            for name in dict.fromkeys([*self.tables.missing(), *(self.context.settings.get(SETTINGS) or {})])
            if name not in self.tables.potentials() and name not in (self.context.settings.get("cost_only") or ())
        ]
        n = len(self.shown)
        head = f"{scale_text(self.context)} · n = {n} potential{'' if n == 1 else 's'}{size}"
        parts = [f"{head}, {self._precisions()}."]
        if self.levels:
            parts.append(f"Reference: {listed(dict.fromkeys(self.levels))}.")
        if self.without:
            parts.append(f"No reference calculation: {listed(self.without)}.")
        if self.unsupported:
            groups = [f"{what}: {listed(dict.fromkeys(names))}" for what, names in self.unsupported.items()]
            parts.append(f"Not applicable to {'; '.join(groups)}.")
        if self.failed:
            parts.append(f"Crosses: points that failed ({'; '.join(self.failed)}).")
        if self.cut:
            parts.append(f"Beyond the axes: {'; '.join(self.cut)}.")
        if absent:
            parts.append(f"Not run here: {listed(absent)} (reasons in the table of potentials).")
        return " ".join([*parts, *extra])


def legend(figure: Figure, known: Mapping[str, Look], shown: Iterable[str], extra: Sequence[Line2D] = ()) -> None:
    """One legend above all panels: potentials that were drawn, in a fixed order, then what else there is."""
    drawn = set(shown)
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, markersize=5, label=look.title)
        for name, look in known.items()
        if name in drawn
    ]
    handles += list(extra)
    if handles:
        labels = [str(handle.get_label()) for handle in handles]
        columns = next(each for each in range(min(len(labels), 5), 0, -1) if each == 1 or _fits(labels, each, figure))
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def _fits(labels: Sequence[str], columns: int, figure: Figure) -> bool:
    """Whether a legend with so many columns, filled one after the other, is as wide as the figure at most."""
    length, more = divmod(len(labels), columns)
    widths, start = 0.0, 0
    for column in range(columns):
        stop = start + length + (column < more)
        widths += max(len(label) for label in labels[start:stop]) + 8.5
        start = stop
    return widths <= 13.6 * figure.get_figwidth()


def black(label: str, line: Any = "-", width: float = 2.0) -> Line2D:
    """A legend entry of the reference."""
    return Line2D([], [], color="black", linestyle=line, linewidth=width, label=label)


def draw_scan(
    axis: Axes, notes: Notes, scan: str, factor: float = 1.0, centre: float | None = None, restricted: bool = True
) -> list[pd.DataFrame]:
    """Draw all curves of a scan and the reference, mark points that failed, and note what was not applicable.

    Args:
        axis: where.
        notes: gathers what the footer says.
        scan: its name.
        factor: energies are multiplied by it.
        centre: subtracted from the coordinate.
        restricted: whether the restricted calculation is drawn, too, where symmetry may break.

    Returns:
        what was drawn, with the columns source, scan, precision, coordinate, relative_energy_ev, status.
    """
    rows = []
    shift = centre or 0.0
    names = ran(notes.tables, scan, notes.known)
    for order, name in enumerate(names):
        look = notes.known[name]
        frame = notes.tables.best_curve(name, scan)
        precision = next(each for each in notes.tables.precisions(name) if (name, each, scan) in notes.tables.curves())
        if reason := reason_of(frame):
            notes.cannot(name, scan, reason)
            continue
        notes.saw(name, precision)
        notes.n_points.append(len(frame))
        # Gaps stay gaps.
        energy = frame["relative_energy_ev"].where(frame["status"] == OK)
        x = frame["coordinate"].to_numpy(dtype=float) - shift
        every = max(1, len(frame) // MARK_EVERY)
        axis.plot(
            x, energy * factor, color=look.color, linestyle=look.line, marker=look.marker, markersize=4.5,
            markevery=((order * every) // max(len(names), 1), every), linewidth=1.4, zorder=3,
        )  # fmt: skip
        bad = (frame["status"] != OK).to_numpy()
        if bad.any():
            axis.plot(
                x[bad], np.full(int(bad.sum()), 0.02), transform=axis.get_xaxis_transform(), color=look.color,
                marker="x", linestyle="none", markersize=6, clip_on=False, zorder=5,
            )  # fmt: skip
            notes.failed.append(f"{look.title}, {scan_title(scan)}: {int(bad.sum())}")
        rows.append(_rows(frame, name, scan, precision))
    rows += _draw_reference(axis, notes, scan, factor, shift, restricted)
    return rows


def _rows(frame: pd.DataFrame, source: str, scan: str, precision: str) -> pd.DataFrame:
    columns = ["point", "coordinate", "x_angstrom", "y_angstrom", "relative_energy_ev", "status", "method", "message"]
    own = frame[[column for column in columns if column in frame]]
    return own.assign(source=source, scan=scan, precision=precision)


def _draw_reference(
    axis: Axes, notes: Notes, scan: str, factor: float, shift: float, restricted: bool
) -> list[pd.DataFrame]:
    try:
        frame = notes.tables.reference(scan)
        x, energy = points(frame)
    except MissingDataError:
        notes.without.append(scan_title(scan))
        return []
    notes.levels.append(notes.tables.level(scan))
    axis.plot(x - shift, energy * factor, color="black", linewidth=2.2, zorder=2.5)
    rows = [_rows(frame, REFERENCE, scan, DOUBLE)]
    if restricted:
        own = notes.tables.methods(scan)
        own = own[(own["method"] == "restricted") & (own["status"] == OK)].sort_values("coordinate")
        lower = frame.set_index("point")["energy_ev"].reindex(own["point"]).to_numpy()
        if len(own) >= 3 and (own["energy_ev"].to_numpy() - lower > 1e-3).any():
            axis.plot(
                own["coordinate"] - shift, own["relative_energy_ev"] * factor, color="black", linestyle=DOT,
                linewidth=1.2, zorder=2.4,
            )  # fmt: skip
            rows.append(_rows(own, "reference, restricted", scan, DOUBLE))
    return rows


def _bound_energies(axis: Axes, notes: Notes, scan: str, low: float, high: float) -> None:
    """Cut the energy axis in units of the dissociation energy, and note what lies beyond it.

    Args:
        axis: where curves of the scan are.
        notes: gathers what is cut.
        scan: its name.
        low: lower end over the dissociation energy.
        high: upper end over the dissociation energy.
    """
    try:
        unit = depth(*points(notes.tables.reference(scan)))
    except MissingDataError:
        found = []
        for name in ran(notes.tables, scan, notes.known):
            try:
                found.append(depth(*points(notes.tables.best_curve(name, scan))))
            except MissingDataError:
                continue
        if not found:
            return
        unit = float(np.median(found))
    unit = max(abs(unit), 0.2)
    lowest, highest = low * unit, high * unit
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, lowest), min(top, highest))
    for name in ran(notes.tables, scan, notes.known):
        try:
            _, energy = points(notes.tables.best_curve(name, scan))
        except MissingDataError:
            continue
        beyond = []
        if energy.min() < lowest:
            beyond.append(f"down to {number(float(energy.min()), 2)}")
        # On the repulsive side every curve leaves the axes.
        outer = float(energy[int(np.argmin(energy)) :].max())
        if outer > highest:
            beyond.append(f"up to {number(outer, 2)}")
        if beyond:
            notes.cut.append(f"{notes.known[name].title} in {scan_title(scan)} {' and '.join(beyond)} eV")


def _need_any(tables: AdequacyTables, scans: Sequence[str], what: str) -> None:
    if not set(scans) & set(tables.scans()):
        raise InputError(f"figure {what}: no curves/<potential>/<precision>/{scans[0]}.csv among its files; run it")


def _empty(axis: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=GREY, wrap=True)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def _curves_figure(
    tables: AdequacyTables,
    context: StudyContext,
    output: PathLike,
    scans: Sequence[str],
    *,
    what: str,
    unit: str,
    columns: int = 2,
    height: float = 2.7,
    cut: tuple[float, float] | None = None,
    energy: str = "energy (eV)",
    lines: Mapping[str, float] | None = None,
    extra: Sequence[str] = (),
) -> None:
    """Panels of one scan each, with one legend and one footer."""
    _need_any(tables, scans, what)
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    rows: list[pd.DataFrame] = []
    n_rows = math.ceil(len(scans) / columns)
    with style():
        figure, grid = plt.subplots(n_rows, columns, figsize=(FULL_WIDTH, 1.5 + height * n_rows), squeeze=False)
        axes = list(grid.flat)
        for axis, scan in zip(axes, scans, strict=False):
            drawn = draw_scan(axis, notes, scan)
            rows += drawn
            axis.set_title(scan_title(scan))
            if not drawn:
                _empty(axis, "nothing that was run here\ncan describe this molecule")
                continue
            axis.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            for label, value in (lines or {}).items():
                paper_line(axis, value, "x", label)
            if cut:
                _bound_energies(axis, notes, scan, *cut)
            axis.set_xlabel(unit)
            axis.set_ylabel(energy)
            if "°" in unit:
                axis.xaxis.set_major_locator(MultipleLocator(60))
        for axis in axes[len(scans) :]:
            axis.set_visible(False)
        panel_letters(axes[: len(scans)])
        entries = _reference_entries(rows)
        if lines:
            entries += [
                Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, label=label) for label in lines
            ]
        legend(figure, known, notes.shown, entries)
        footer(figure, notes.lines(*extra, NO_REFERENCE))
    save_figure(figure, _together(rows, what), output)


def _reference_entries(rows: Sequence[pd.DataFrame]) -> list[Line2D]:
    sources = {str(frame["source"].iloc[0]) for frame in rows if len(frame)}
    entries = [black("reference (DFT)")] if REFERENCE in sources else []
    if "reference, restricted" in sources:
        entries.append(black("reference, restricted", DOT, 1.2))
    return entries


def _together(rows: Sequence[pd.DataFrame], what: str) -> pd.DataFrame:
    if not rows:
        raise InputError(f"figure {what}: no point of any curve worked; look at the messages in curves/")
    return pd.concat(rows, ignore_index=True)


# --- distances, angles, dihedrals -----------------------------------------------------------------------------------


def _cutoff_line(context: StudyContext) -> dict[str, float]:
    value = context.paper(CUTOFF)[""]
    return {f"thesis (text): cutoff about {value:g} Å": value}


def diatomics(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 7: H2 and N2 against the distance, energies against free atoms of the same method.

    Args:
        tables: curves and reference of ``diatomic-h2`` and ``diatomic-n2``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: neither was run.
    """
    _curves_figure(
        tables, context, output, ("diatomic-h2", "diatomic-n2"), what="fig7-diatomics", unit="distance (Å)",
        height=3.2, cut=(-1.6, 1.3), energy="energy − 2 E(atom) (eV)", lines=_cutoff_line(context),
    )  # fmt: skip


def diatomics_others(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 29: C2, O2, Si2 and Cl2 as in figure 7; arguments and errors as there."""
    _curves_figure(
        tables, context, output, ("diatomic-c2", "diatomic-o2", "diatomic-si2", "diatomic-cl2"),
        what="fig29-diatomics", unit="distance (Å)", cut=(-1.8, 1.5), energy="energy − 2 E(atom) (eV)",
        lines=_cutoff_line(context),
    )  # fmt: skip


def bonds(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 8: ethane C-C and ethanol C-O, energies against the minimum.

    Args:
        tables: curves and reference of ``ethane-cc`` and ``ethanol-co``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: neither was run.
    """
    _curves_figure(
        tables, context, output, ("ethane-cc", "ethanol-co"), what="fig8-bonds", unit="distance (Å)", height=3.2,
        cut=(-0.15, 2.2), energy="energy − minimum (eV)", lines=_cutoff_line(context),
    )  # fmt: skip


def hydroxyl(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Ethanol O-H, which stands where the thesis has its unnamed figure 30; arguments and errors as for ``bonds``."""
    _curves_figure(
        tables, context, output, ("ethanol-oh",), what="fig30-ethanol-oh", unit="O–H distance (Å)", columns=1,
        height=3.4, cut=(-0.15, 2.2), energy="energy − minimum (eV)", lines=_cutoff_line(context),
        extra=("The thesis's figure 30 has no caption and no mention; this scan is its protocol's.",),
    )  # fmt: skip


def _residual(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate up to the half turn, and |E(a) - E(360 - a)| (eV)."""
    x, energy = points(frame, "energy_ev")
    half = x[x <= 180.0 + 1e-9]
    mirrored = 360.0 - half
    inside = (mirrored >= x[0] - 1e-9) & (mirrored <= x[-1] + 1e-9)
    at = np.searchsorted(x, mirrored[inside] - 1e-6).clip(0, len(x) - 1)
    exact = np.abs(x[at] - mirrored[inside]) < 1e-6
    here = energy[: len(half)][inside][exact]
    return half[inside][exact], np.abs(here - energy[at[exact]])


def _draw_residuals(axis: Axes, notes: Notes, scan: str) -> list[pd.DataFrame]:
    """|E(a) - E(360 - a)| on a logarithmic axis, in the best precision."""
    rows = []
    names = ran(notes.tables, scan, notes.known)
    for order, name in enumerate(names):
        look = notes.known[name]
        frame = notes.tables.best_curve(name, scan)
        if reason_of(frame):
            continue
        x, value = _residual(frame)
        if not len(x):
            continue
        every = max(1, len(x) // 6)
        axis.plot(
            x, np.maximum(value, SMALLEST) * EV_TO_MEV, color=look.color, linestyle=look.line, marker=look.marker,
            markersize=4, markevery=((order * every) // max(len(names), 1), every), linewidth=0.9,
        )  # fmt: skip
        rows.append(pd.DataFrame({"coordinate": x, "mirror_residual_ev": value, "source": name, "scan": scan}))
    _log_y(axis)
    axis.set_xlabel("angle a (°)")
    axis.set_ylabel("|E(a) − E(360° − a)| (meV)")
    return rows


def _log_y(axis: Axes, room: float = 3.0) -> None:
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / room, high * room)
    axis.yaxis.set_major_locator(LogLocator(base=10, numticks=7))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())


def angles(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 9: ethanol C-C-O near its minimum, water H-O-H up to its mirror image, and what breaks that symmetry.

    Args:
        tables: curves and reference of ``ethanol-cco`` and ``water-hoh``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: neither was run.
    """
    _need_any(tables, ("ethanol-cco", "water-hoh"), "fig9-angles")
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 7.6))
        grid = figure.add_gridspec(2, 2, height_ratios=[1, 1.1])
        small, mirror = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        wide = figure.add_subplot(grid[1, :])
        rows = draw_scan(small, notes, "ethanol-cco", factor=EV_TO_MEV)
        small.set_title(scan_title("ethanol-cco"))
        small.set_xlabel("C–C–O angle (°)")
        small.set_ylabel("energy − minimum (meV)")
        drawn = draw_scan(wide, notes, "water-hoh")
        rows += drawn
        wide.set_title(scan_title("water-hoh"))
        wide.set_xlabel("H–O–H angle (°)")
        wide.set_ylabel("energy − minimum (eV)")
        wide.xaxis.set_major_locator(MultipleLocator(45))
        if drawn:
            wide.axvline(180, color=GREY, linewidth=0.8, zorder=1)
            if limit := _bent_limit(notes):
                wide.set_ylim(top=min(wide.get_ylim()[1], limit))
        mirror.set_title("water, mirror symmetry")
        rows += _draw_residuals(mirror, notes, "water-hoh")
        panel_letters([small, mirror, wide])
        legend(figure, known, notes.shown, _reference_entries(rows))
        footer(
            figure,
            notes.lines(
                "(b) a and 360° − a are one structure: only rounding may differ. The thesis's text and caption "
                "disagree on which panel of its figure 9 is which.",
                NO_REFERENCE,
            ),
        )
    save_figure(figure, _together(rows, "fig9-angles"), output)


def _bent_limit(notes: Notes) -> float | None:
    """Where the energy axis of water ends: five times what the reference has at 180 degrees."""
    try:
        x, energy = points(notes.tables.reference("water-hoh"))
    except MissingDataError:
        return None
    return 5.0 * max(float(energy[int(np.argmin(np.abs(x - 180.0)))]), 0.5)


def _dihedral_figure(
    tables: AdequacyTables, context: StudyContext, output: PathLike, scans: Sequence[str], what: str, symmetric: bool
) -> None:
    _need_any(tables, scans, what)
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    rows: list[pd.DataFrame] = []
    n_rows = 2 if symmetric else math.ceil(len(scans) / 2)
    with style():
        figure, grid = plt.subplots(n_rows, 2, figsize=(FULL_WIDTH, 1.7 + 2.8 * n_rows), squeeze=False)
        upper = list(grid[0]) if symmetric else list(grid.flat)
        for axis, scan in zip(upper, scans, strict=False):
            drawn = draw_scan(axis, notes, scan)
            rows += drawn
            axis.set_title(scan_title(scan))
            if not drawn:
                _empty(axis, "nothing that was run here\ncan describe this molecule")
                continue
            _tame(axis, notes, scan)
            axis.set_xlabel("dihedral angle (°)")
            axis.set_ylabel("energy − minimum (eV)")
            axis.xaxis.set_major_locator(MultipleLocator(60))
        if symmetric:
            for axis, scan in zip(grid[1], scans, strict=True):
                axis.set_title(f"{scan_title(scan)}, mirror symmetry")
                rows += _draw_residuals(axis, notes, scan)
                axis.xaxis.set_major_locator(MultipleLocator(60))
        panel_letters(grid.flat)
        legend(figure, known, notes.shown, _reference_entries(rows))
        extra = ("Rigid rotations; all curves of a molecule start from one geometry.",)
        footer(figure, notes.lines(*extra, NO_REFERENCE))
    save_figure(figure, _together(rows, what), output)


def _tame(axis: Axes, notes: Notes, scan: str) -> None:
    """Cut the energy axis where one curve would hide all others, and note it."""
    tops = {}
    for name in ran(notes.tables, scan, notes.known):
        try:
            tops[notes.known[name].title] = float(points(notes.tables.best_curve(name, scan))[1].max())
        except MissingDataError:
            continue
    try:
        unit = float(points(notes.tables.reference(scan))[1].max())
    except MissingDataError:
        unit = float(np.median(list(tops.values()))) if tops else math.inf
    limit = 4.0 * max(unit, 0.02)
    if max(tops.values(), default=0.0) > limit:
        axis.set_ylim(-0.05 * limit, limit)
        notes.cut += [
            f"{title} in {scan_title(scan)} up to {number(top, 2)} eV" for title, top in tops.items() if top > limit
        ]


def dihedrals(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 10: ethane and biphenyl around the central bond, and the residual of the mirror symmetry.

    Args:
        tables: curves and reference of ``dihedral-ethane`` and ``dihedral-biphenyl``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: neither was run.
    """
    _dihedral_figure(
        tables, context, output, ("dihedral-ethane", "dihedral-biphenyl"), "fig10-dihedrals", symmetric=True
    )


def dihedrals_others(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 31: three biaryl fragments and fluoroallene; arguments and errors as for ``dihedrals``."""
    scans = ("dihedral-biaryl1", "dihedral-biaryl2", "dihedral-biaryl3", "dihedral-fluoroallene")
    _dihedral_figure(tables, context, output, scans, "fig31-dihedrals", symmetric=False)


# --- invariance and conservation ------------------------------------------------------------------------------------


def _draw_noise(axis: Axes, notes: Notes, scan: str, column: str, factor: float, start: bool) -> list[pd.DataFrame]:
    """Sizes along a scan on a logarithmic axis: float64 with markers, other precisions thin and pale.

    Args:
        axis: where.
        notes: gathers what was drawn.
        scan: its name.
        column: of the curve.
        factor: values are multiplied by it.
        start: whether the value at the first point is subtracted.
    """
    rows = []
    names = ran(notes.tables, scan, notes.known)
    for order, name in enumerate(names):
        look = notes.known[name]
        for precision in PRECISIONS:
            if (name, precision, scan) not in notes.tables.curves():
                continue
            frame = notes.tables.curve(name, precision, scan)
            if reason := reason_of(frame):
                notes.cannot(name, scan, reason)
                continue
            if column not in frame or frame[column].isna().all():
                continue
            x, value = points(frame, column)
            if start:
                # The first point is where all differences are zero.
                x, value = x[1:], value[1:] - value[0]
            best = precision == notes.tables.precisions(name)[0]
            if best:
                notes.saw(name, precision)
                notes.n_points.append(len(frame))
            every = max(1, len(x) // 6)
            axis.plot(
                x, np.maximum(np.abs(value), SMALLEST) * factor, color=look.color, linestyle=look.line,
                marker=look.marker if best else None, markersize=4, linewidth=1.1 if best else 0.8,
                markevery=((order * every) // max(len(names), 1), every), alpha=1.0 if best else 0.45,
            )  # fmt: skip
            rows.append(
                pd.DataFrame({"coordinate": x, column: value, "source": name, "scan": scan, "precision": precision})
            )
    try:
        reference = notes.tables.reference(scan)
        if column in reference and reference[column].notna().any():
            x, value = points(reference, column)
            x, value = (x[1:], value[1:] - value[0]) if start else (x, value)
            axis.plot(x, np.maximum(np.abs(value), SMALLEST) * factor, color="black", linewidth=1.6, zorder=2)
            rows.append(pd.DataFrame({"coordinate": x, column: value, "source": REFERENCE, "scan": scan}))
            notes.levels.append(notes.tables.level(scan))
    except MissingDataError:
        pass
    return rows


def _noise_figure(
    tables: AdequacyTables,
    context: StudyContext,
    output: PathLike,
    panels: Sequence[tuple[str, str, str, str, float, bool]],
    what: str,
    line: tuple[str, float] | None,
    extra: str,
) -> None:
    """Panels of (scan, title, column, axis label, factor, whether the first value is subtracted)."""
    _need_any(tables, [panel[0] for panel in panels], what)
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    rows: list[pd.DataFrame] = []
    with style():
        figure, grid = plt.subplots(2, 2, figsize=(FULL_WIDTH, 7.4))
        for axis, (scan, title, column, label, factor, start) in zip(grid.flat, panels, strict=True):
            drawn = _draw_noise(axis, notes, scan, column, factor, start)
            axis.set_title(title)
            if not drawn:
                _empty(axis, "nothing that was run here\ncan describe this molecule")
                continue
            rows += drawn
            if line:
                paper_line(axis, line[1], "y", line[0])
            _log_y(axis)
            turn = "rotation" in scan
            axis.set_xlabel("rotation about z (°)" if turn else "translation along (1, 1, 0) (Å)")
            axis.set_ylabel(label)
            if turn:
                axis.xaxis.set_major_locator(MultipleLocator(90))
        panel_letters(grid.flat)
        entries = _reference_entries(rows)
        if any(frame["precision"].iloc[0] != DOUBLE for frame in rows if "precision" in frame):
            entries.append(Line2D([], [], color=GREY, linewidth=0.9, alpha=0.6, label="pale, no marker: float32"))
        if line:
            entries.append(Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, label=line[0]))
        legend(figure, known, notes.shown, entries)
        footer(figure, notes.lines(extra))
    save_figure(figure, _together(rows, what), output)


def _invariance(tables: AdequacyTables, context: StudyContext, output: PathLike, molecules: Sequence[str], what: str
                ) -> None:  # fmt: skip
    value = context.paper(ORB_ROTATION)[""]
    panels = [
        (
            f"{kind}-{molecule}", f"{molecule}, {kind}", "energy_ev", "|energy − start| (meV)", EV_TO_MEV, True,
        )
        for molecule in molecules
        for kind in ("translation", "rotation")
    ]  # fmt: skip
    _noise_figure(
        tables,
        context,
        output,
        panels,
        what,
        (f"thesis (text): Orb, about {value:g} meV over a rotation", value),
        f"Differences that are exactly zero are drawn at {SMALLEST * EV_TO_MEV:.0e} meV.",
    )


def invariance(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 11: change of the energy of water and cyclobutadiene over translations and rotations.

    Args:
        tables: curves ``translation-<molecule>`` and ``rotation-<molecule>`` in all precisions.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: none was run.
    """
    _invariance(tables, context, output, ("water", "cyclobutadiene"), "fig11-invariance")


def invariance_others(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 34: as figure 11 for benzene and ethanol; arguments and errors as there."""
    _invariance(tables, context, output, ("benzene", "ethanol"), "fig34-invariance-others")


def momentum(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 12: norm of the net force and of the net torque of water over translations and rotations.

    Args:
        tables: curves ``translation-water`` and ``rotation-water`` in all precisions.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: neither was run.
    """
    force, torque = "net_force_ev_per_angstrom", "net_torque_ev"
    panels = [
        ("translation-water", "net force, translation", force, "|Σ F| (eV/Å)", 1.0, False),
        ("translation-water", "net torque, translation", torque, "|Σ r × F| (eV)", 1.0, False),
        ("rotation-water", "net force, rotation", force, "|Σ F| (eV/Å)", 1.0, False),
        ("rotation-water", "net torque, rotation", torque, "|Σ r × F| (eV)", 1.0, False),
    ]
    _noise_figure(
        tables, context, output, panels, "fig12-momentum", None,
        "Norms: the thesis summed the components of the torque, which can cancel. Orb's head subtracts net force and "
        "torque, so that zero says nothing about what it learned. The thesis states no number here.",
    )  # fmt: skip


# --- COSAN and cyclobutadiene ---------------------------------------------------------------------------------------


def cosan(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 13: one ligand of COSAN rotated against the other; each potential on its own scale.

    Args:
        tables: curves and reference of ``cosan``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: it was not run.
    """
    _need_any(tables, ("cosan",), "fig13-cosan")
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    usable = [name for name in ran(tables, "cosan", known) if not reason_of(tables.best_curve(name, "cosan"))]
    has_reference = bool(tables.levels("cosan"))
    shown = [*usable, *([REFERENCE] if has_reference else [])]
    rows: list[pd.DataFrame] = []
    with style():
        n = max(len(shown), 1)
        columns = min(n, 2)
        n_rows = math.ceil(n / columns)
        figure, grid = plt.subplots(n_rows, columns, figsize=(FULL_WIDTH, 1.7 + 3.1 * n_rows), squeeze=False)
        axes = list(grid.flat)
        for name in ran(tables, "cosan", known):
            if name not in usable:
                notes.cannot(name, "cosan", reason_of(tables.best_curve(name, "cosan")))
        if not shown:
            _empty(axes[0], "no potential that was run here\ndescribes cobalt and an anion")
        for axis, name in zip(axes, shown, strict=False):
            frame = tables.reference("cosan") if name == REFERENCE else tables.best_curve(name, "cosan")
            look = known.get(name, Look(tables.level("cosan") if has_reference else "", "dft", "black", "x", "-"))
            x, energy = points(frame)
            energy = energy - energy.min()
            axis.plot(
                x, energy, color=look.color, linestyle="-" if name == REFERENCE else look.line, marker=look.marker,
                markersize=4, markevery=max(1, len(x) // 12),
            )  # fmt: skip
            lows, _ = extrema(energy, is_turn(x))
            axis.plot(x[lows], energy[lows], marker="o", markersize=9, markerfacecolor="none", markeredgecolor="black",
                      linestyle="none")  # fmt: skip
            for low in lows:
                axis.annotate(number(float(energy[low] * EV_TO_MEV), 2), (x[low], energy[low]), xytext=(0, -14),
                              textcoords="offset points", ha="center")  # fmt: skip
            axis.margins(y=0.14)
            axis.set_title(look.title)
            axis.set_xlabel("rotation of one ligand (°)")
            axis.set_ylabel("energy − minimum (eV)")
            axis.xaxis.set_major_locator(MultipleLocator(72))
            if name == REFERENCE:
                notes.levels.append(tables.level("cosan"))
            else:
                notes.saw(name, tables.precisions(name)[0])
                notes.n_points.append(len(frame))
            rows.append(_rows(frame, name, "cosan", DOUBLE))
        for axis in axes[n:]:
            axis.set_visible(False)
        if not has_reference:
            notes.without.append("COSAN")
        panel_letters(axes[:n])
        footer(
            figure,
            notes.lines(
                "Rings: minima of at least 1 meV, with their energies in meV. One scale per panel, as the thesis's "
                "MACE-MP and Orb have one each; it states three minima and no energy. Geometry: our construction, "
                "relaxed with GFN2-xTB, rigid rotation."
            ),
        )
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["source", "scan", "coordinate"])
    save_figure(figure, frame, output)


CONTOURS = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
#: what figure 14 of the thesis shows
FIRST_SURFACES = ("maceoff", "orbd3v2")
#: shown in figure 14 where those were not run
SUBSTITUTES = ("ani2x", "ani1x", "xtb", "gfn2")
N_FIRST = 3


def _surfaces(tables: AdequacyTables, known: Mapping[str, Look], notes: Notes) -> dict[str, Surface]:
    """Surfaces of all potentials that have one, the reference first."""
    result = {}
    try:
        result[REFERENCE] = Surface(tables.reference(SURFACE))
        notes.levels.append(tables.level(SURFACE))
    except MissingDataError:
        notes.without.append(scan_title(SURFACE))
    for name in ran(tables, SURFACE, known):
        frame = tables.best_curve(name, SURFACE)
        if reason := reason_of(frame):
            notes.cannot(name, SURFACE, reason)
            continue
        result[name] = Surface(frame)
    return result


def first_surfaces(names: Sequence[str]) -> list[str]:
    """Which surfaces figure 14 shows: the reference, the thesis's two where they were run, and substitutes.

    Args:
        names: of what was run.
    """
    chosen = [name for name in names if name == REFERENCE]
    plain = {name: name.lower().replace("_", "").replace("-", "") for name in names}
    for wanted in (*FIRST_SURFACES, *SUBSTITUTES):
        chosen += [name for name in names if wanted in plain[name] and name not in chosen][:1]
    chosen += [name for name in names if name not in chosen]
    return chosen[:N_FIRST]


def _draw_surfaces(tables: AdequacyTables, context: StudyContext, output: PathLike, first: bool, what: str) -> None:
    _need_any(tables, (SURFACE,), what)
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    surfaces = _surfaces(tables, known, notes)
    chosen = first_surfaces(list(surfaces))
    shown = chosen if first else [name for name in surfaces if name not in chosen]
    square, crosses = context.paper(SQUARE)[""], context.paper(MACE_OFF_MINIMUM)
    rows: list[pd.DataFrame] = []
    with style():
        n = max(len(shown), 1)
        columns = min(n, 3)
        n_rows = math.ceil(n / columns)
        width = min(FULL_WIDTH, 1.3 + 2.9 * columns)
        figure, grid = plt.subplots(
            n_rows, columns, figsize=(max(width, 5.2), 2.5 + 2.75 * n_rows), squeeze=False, sharex=True, sharey=True
        )
        axes = list(grid.flat)
        if not shown:
            _empty(axes[0], "every surface that was run\nis in figure 14")
        image = None
        for axis, name in zip(axes, shown, strict=False):
            surface = surfaces[name]
            image = axis.contourf(
                surface.x, surface.y, surface.energy.T, levels=CONTOURS, cmap="viridis_r", norm=_contour_norm(),
                extend="max",
            )  # fmt: skip
            axis.contour(
                surface.x, surface.y, surface.energy.T, levels=[square / EV_TO_MEV], colors="white", linewidths=1.2
            )
            low, high = float(surface.x.min()), float(surface.x.max())
            axis.plot([low, high], [low, high], color="black", linestyle=":", linewidth=1.2)
            axis.plot(
                [crosses["short"], crosses["long"]], [crosses["long"], crosses["short"]], marker="x", markersize=9,
                markeredgewidth=2.2, color=OKABE_ITO["vermillion"], linestyle="none",
            )  # fmt: skip
            lowest = surface.minimum
            axis.plot(*lowest, marker="o", markersize=9, markerfacecolor="none", markeredgecolor="black",
                      markeredgewidth=1.5, linestyle="none")  # fmt: skip
            title = "reference (DFT)" if name == REFERENCE else known[name].title
            axis.set_title(f"{title}\nsquare: +{number(surface.square * EV_TO_MEV, 2)} meV")
            axis.grid(visible=False)
            axis.set_aspect("equal")
            axis.xaxis.set_major_locator(MultipleLocator(0.2))
            axis.yaxis.set_major_locator(MultipleLocator(0.2))
            if name == REFERENCE:
                rows.append(_rows(tables.reference(SURFACE), REFERENCE, SURFACE, DOUBLE))
            else:
                notes.saw(name, tables.precisions(name)[0])
                notes.n_points.append(surface.energy.size)
                rows.append(_rows(tables.best_curve(name, SURFACE), name, SURFACE, DOUBLE))
        for axis in axes[n:]:
            axis.set_visible(False)
        for row in range(n_rows):
            axes[row * columns].set_ylabel("C–C distance y (Å)")
        for axis in axes[max(0, n - columns) : n]:
            axis.set_xlabel("C–C distance x (Å)")
            axis.tick_params(labelbottom=True)
        if image is not None:
            bar = figure.colorbar(image, ax=axes, ticks=CONTOURS, location="bottom", shrink=0.9, aspect=40)
            bar.ax.set_xticklabels([f"{value:g}" for value in CONTOURS])
            bar.set_label("energy − minimum (eV)")
        if n > 1:
            for axis, letter in zip(axes[:n], "abcdefghijkl", strict=False):
                axis.text(
                    0.03,
                    0.97,
                    f"({letter})",
                    transform=axis.transAxes,
                    fontweight="bold",
                    va="top",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
                )
        entries = [
            Line2D([], [], marker="x", color=OKABE_ITO["vermillion"], markersize=8, markeredgewidth=2, linestyle="none",
                   label=f"thesis: DFT minimum, {crosses['short']:g}/{crosses['long']:g} Å"),
            Line2D([], [], marker="o", markerfacecolor="none", color="black", markersize=8, linestyle="none",
                   label="lowest point"),
            Line2D([], [], color="black", linestyle=":", label="squares, x = y"),
        ]  # fmt: skip
        figure.legend(handles=entries, loc="outside upper center", ncols=2 if columns < 3 else 3)
        footer(
            figure,
            notes.lines(
                f"White line: {square:g} meV, the thesis's square (text). Crosses: its ωB97X-D/6-31G(d) "
                "geometry, quoted. Ours are exactly D2h and D4h; the author's start was not symmetric (134.2° and "
                "135.8°), which alone tilts the surface.",
                "" if not first else _substituted(shown),
            ).strip(),
        )
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["source", "scan", "coordinate"])
    save_figure(figure, frame, output)


def _contour_norm() -> Any:
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(CONTOURS, 256, extend="max")


def _substituted(shown: Sequence[str]) -> str:
    plain = [name.lower().replace("_", "").replace("-", "") for name in shown]
    absent = [
        title
        for title, wanted in (("MACE-OFF", "maceoff"), ("Orb-D3-v2", "orbd3v2"))
        if not any(wanted in each for each in plain)
    ]
    return f"The thesis shows {' and '.join(absent)} here, which did not run." if absent else ""


def cyclobutadiene(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 14: surfaces of cyclobutadiene over its two C-C distances: the reference, the thesis's two or substitutes.

    Args:
        tables: curves and reference of ``cyclobutadiene-2d`` with the columns x_angstrom and y_angstrom.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: it was not run, or lacks a column.
    """
    _draw_surfaces(tables, context, output, first=True, what="fig14-cyclobutadiene")


def cyclobutadiene_others(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 33: the surfaces that figure 14 does not show; arguments and errors as there."""
    _draw_surfaces(tables, context, output, first=False, what="fig33-cyclobutadiene-surfaces")


def cyclobutadiene_cut(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 32: one pair of C-C distances of cyclobutadiene changes, the other stays.

    Args:
        tables: curves and reference of ``cyclobutadiene-1d``.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: it was not run.
    """
    _need_any(tables, ("cyclobutadiene-1d",), "fig32-cyclobutadiene-1d")
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    crosses = context.paper(MACE_OFF_MINIMUM)
    with style():
        figure, (wide, close) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.6))
        rows = draw_scan(wide, notes, "cyclobutadiene-1d")
        cut = Notes(tables, context, known)
        draw_scan(close, cut, "cyclobutadiene-1d", factor=EV_TO_MEV)
        for axis, unit in ((wide, "eV"), (close, "meV")):
            for value in crosses.values():
                paper_line(axis, value, "x")
            axis.set_xlabel("C–C distance (Å)")
            axis.set_ylabel(f"energy − minimum ({unit})")
        close.set_ylim(-20, 600)
        wide.set_title("all energies")
        close.set_title("near the minimum")
        panel_letters([wide, close])
        label = f"thesis: DFT distances, {crosses['short']:g} and {crosses['long']:g} Å"
        entries = [Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, label=label)]
        legend(figure, known, notes.shown, [*_reference_entries(rows), *entries])
        footer(figure, notes.lines(NO_REFERENCE))
    save_figure(figure, _together(rows, "fig32-cyclobutadiene-1d"), output)


# --- tests ----------------------------------------------------------------------------------------------------------

TEST_TITLES: Mapping[str, str] = {
    "rotation_energy_spread_ev": "energy under rotation", "translation_energy_spread_ev": "energy under translation",
    "force_equivariance": "forces turn with the molecule", "force_gradient_error": "forces against −ΔE/ΔR",
    "curl_asymmetry": "symmetry of the Hessian (curl)", "permutation_energy_ev": "energy under permutation",
    "mirror_energy_ev": "energy of the mirror image", "extensivity_ev": "two far copies, 2E",
    "locality_ev": "far molecule moved", "nve_drift_mev_per_atom_ps": "drift at constant energy",
    "body_order": "degenerate environments", "net_force_ev_per_angstrom": "net force", "net_torque_ev": "net torque",
}  # fmt: skip
BODY_ORDER, BODY_ORDER_CENTRAL = "body_order", "body_order_central"


def title_of_test(test: str) -> str:
    """What a symmetry test is called."""
    return TEST_TITLES.get(test, test.replace("_", " "))


def symmetry_frame(tables: AdequacyTables) -> pd.DataFrame:
    """All symmetry tests of all potentials in all precisions: the tables' columns, potential and precision."""
    frames = [
        tables.symmetry(potential, precision).assign(potential=potential, precision=precision)
        for potential, precision in tables.symmetries()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def symmetry_tests(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Each symmetry test of each potential over its limit: filled in float64, open in float32.

    Args:
        tables: symmetry tests.
        context: scale and potentials.
        output: path of the PNG file.

    Raises:
        InputError: no potential was tested.
    """
    frame = symmetry_frame(tables)
    if frame.empty:
        raise InputError("figure symmetry-tests: no symmetry/<potential>/<precision>.csv among its files; run them")
    frame = frame[~frame["test"].isin((BODY_ORDER, BODY_ORDER_CENTRAL))]
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    worst = frame.dropna(subset=["value", "limit"]).copy()
    worst["over_limit"] = worst["value"] / worst["limit"]
    worst = worst.sort_values("over_limit").groupby(["potential", "precision", "test"], as_index=False).tail(1)
    names = [name for name in known if name in set(worst["potential"])]
    present = set(frame["test"])
    tests = [test for test in TEST_TITLES if test in present]
    tests += sorted(present - set(tests))
    with style():
        figure, axis = plt.subplots(figsize=(FULL_WIDTH, 2.4 + 0.62 * len(tests)))
        smallest = 1e-12
        for row, test in enumerate(reversed(tests)):
            for place, name in enumerate(names):
                look = known[name]
                y = row + 0.34 - 0.68 * (place + 0.5) / len(names)
                own = worst[(worst["potential"] == name) & (worst["test"] == test)]
                for _, line in own.iterrows():
                    double = line["precision"] == DOUBLE
                    axis.plot(
                        [max(float(line["over_limit"]), smallest)], [y], marker=look.marker, color=look.color,
                        markerfacecolor=look.color if double else "white", markersize=6, linestyle="none",
                    )  # fmt: skip
        for name in names:
            notes.saw(name, *sorted(set(worst.loc[worst["potential"] == name, "precision"]), reverse=True))
        axis.axvline(1.0, color="black", linewidth=1.2)
        axis.axvspan(1.0, 1e12, color="#F4E3DA", zorder=0)
        axis.set_xscale("log")
        top = max(float(worst["over_limit"].max()), 10.0)
        axis.set_xlim(smallest / 3, top * 10)
        axis.set_ylim(-0.6, len(tests) - 0.4)
        labels = []
        for test in reversed(tests):
            own = frame[frame["test"] == test]
            limits = own["limit"].dropna().unique()
            unit = str(own["unit"].fillna("").iloc[0])
            unit = "" if unit in ("", "nan", "1") else f" {unit}"
            text = f"\nlimit {_span(limits)}{unit}" if len(limits) else "\nno limit"
            labels.append(title_of_test(test) + text)
        axis.set_yticks(range(len(tests)), labels)
        axis.set_xlabel("largest value over molecules / limit (shaded: failed)")
        for row in range(1, len(tests)):
            axis.axhline(row - 0.5, color="#D0D0D0", linewidth=0.8)
        axis.grid(axis="y", visible=False)
        entries = [Line2D([], [], marker="o", color=GREY, markerfacecolor="white", linestyle="none",
                          label="open: float32")]  # fmt: skip
        if (worst["precision"] == DOUBLE).all():
            entries = []
        legend(figure, known, names, entries)
        footer(
            figure,
            notes.lines(
                f"Zeros are drawn at {smallest:.0e}. The limits are ours, the same in both precisions. The "
                "thesis tests rotation, translation, net force and net torque only."
            ),
        )
    save_figure(figure, worst, output)


def _span(limits: np.ndarray) -> str:
    values = sorted(float(value) for value in limits)
    texts = [number(value, 2).rstrip("0").rstrip(".") for value in (values[0], values[-1])]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def body_order(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 6: two CH4-like molecules with equal distances and angles around carbon, and what potentials say of them.

    Args:
        tables: symmetry tests with rows ``body_order`` (energy of the molecule) and, for some potentials,
            ``body_order_central`` (energy of the carbon atom alone).
        context: scale and potentials.
        output: path of the PNG file.

    Raises:
        InputError: the test was not run with any potential.
    """
    frame = symmetry_frame(tables)
    frame = frame[frame["test"].isin((BODY_ORDER, BODY_ORDER_CENTRAL))] if len(frame) else frame
    frame = frame.dropna(subset="value") if len(frame) else frame
    if frame.empty:
        raise InputError("figure fig6-body-order: no test 'body_order' among its files; run the symmetry tests")
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    names = [name for name in known if name in set(frame["potential"])]
    smallest = 1e-14
    lines = [
        (name, test, own)
        for name in reversed(names)
        for test in (BODY_ORDER_CENTRAL, BODY_ORDER)
        if len(own := frame[(frame["potential"] == name) & (frame["test"] == test)])
    ]
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 4.3 + 0.36 * len(lines)))
        grid = figure.add_gridspec(2, 2, height_ratios=[2.3, 0.5 + 0.36 * len(lines)])
        drawings = [figure.add_subplot(grid[0, column], projection="3d") for column in (0, 1)]
        for axis, molecule, title in zip(
            drawings, degenerate_environments(), ("both hydrogens on one side", "one on each side"), strict=True
        ):
            _draw_environment(axis, molecule.positions)
            axis.set_title(title)
        axis = figure.add_subplot(grid[1, :])
        for y, (name, _, own) in enumerate(lines):
            look = known[name]
            # Several pairs of environments: the least of what is told apart decides.
            for precision, each in own.groupby("precision"):
                value = float(each["value"].abs().min())
                double = precision == DOUBLE
                axis.plot([smallest, max(value, smallest)], [y, y], color=look.color, linewidth=1, alpha=0.5)
                axis.plot([max(value, smallest)], [y], marker=look.marker, color=look.color, markersize=8,
                          markerfacecolor=look.color if double else "white", linestyle="none")  # fmt: skip
                if double:
                    axis.annotate(number(value, 2), (max(value, smallest), y), xytext=(8, 4),
                                  textcoords="offset points")  # fmt: skip
            limit = float(own["limit"].iloc[0])
            axis.plot([limit, limit], [y - 0.42, y + 0.42], color="black", linewidth=1.6)
            notes.saw(name, tables.precisions(name)[0])
        axis.set_xscale("log")
        axis.set_xlim(smallest / 3, max(float(frame["value"].abs().max()), 1.0) * 300)
        axis.set_yticks(
            range(len(lines)),
            [f"{known[name].title}{', carbon alone' if test == BODY_ORDER_CENTRAL else ''}" for name, test, _ in lines],
        )
        axis.set_ylim(-0.6, len(lines) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("|energy difference of the two molecules| (eV)")
        for letter, each in zip("abc", [*drawings, axis], strict=True):
            if each is axis:
                each.set_title(f"({letter})", loc="left", fontweight="bold")
            else:
                each.text2D(0.05, 0.9, f"({letter})", transform=each.transAxes, fontweight="bold")
        footer(
            figure,
            notes.lines(
                "Open markers: float32; black: limit above which two molecules count as told apart; zeros at the left "
                "edge. Carbon sees the same four distances and six angles in both, but each hydrogen sees other "
                "triangles, so that a sum over atoms may differ. The thesis planned this test and did not run it."
            ),
        )
    save_figure(figure, frame, output)


def _draw_environment(axis: Any, positions: np.ndarray) -> None:
    """A carbon atom at the origin with its hydrogen atoms; the plane across the first two is shaded."""
    for index, place in enumerate(positions[1:]):
        color = OKABE_ITO["blue"] if index < 2 else OKABE_ITO["vermillion"]
        axis.plot(*zip(positions[0], place, strict=True), color=GREY, linewidth=2)
        axis.scatter(*place, s=130, color=color, edgecolor="black", depthshade=False)
    axis.scatter(*positions[0], s=260, color="#404040", depthshade=False)
    turn = np.linspace(0, 2 * np.pi, 60)
    radius = float(np.linalg.norm(positions[1]))
    axis.plot(radius * np.cos(turn), radius * np.sin(turn), 0 * turn, color="#9A9A9A", linestyle="--", linewidth=0.9)
    axis.set_box_aspect((1, 1, 1), zoom=1.35)
    axis.set_xlim(-1, 1)
    axis.set_ylim(-1, 1)
    axis.set_zlim(-1, 1)
    axis.view_init(elev=14, azim=-14)
    axis.set_axis_off()


SMOOTH: Mapping[str, tuple[str, float]] = {
    "tortuosity": ("tortuosity\n(1: one way down and up)", 1.0),
    "force_flips": ("flips of the force", 1.0),
    "largest_jump_ev": ("largest step off\na smooth curve (meV)", EV_TO_MEV),
}


def smoothness(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Tortuosity, flips of the force and largest energy step of each scan, by potential, in the best precision.

    Args:
        tables: analysis of the curves.
        context: scale and potentials.
        output: path of the PNG file.

    Raises:
        InputError: there is no analysis, or it has none of these measures.
    """
    try:
        analysis = tables.analysis()
    except MissingDataError as error:
        raise InputError(
            "figure smoothness: no analysis.csv among its files; run the analysis of the curves"
        ) from error
    analysis = analysis[analysis["metric"].isin(SMOOTH)].dropna(subset="value")
    if analysis.empty:
        raise InputError(f"analysis.csv: none of {listed(SMOOTH)} is in it; delete the file and run again")
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    best = {name: tables.precisions(name)[0] for name in known if tables.precisions(name)}
    analysis = analysis[analysis["potential"].map(best) == analysis["precision"]]
    scans = [scan for scan in SCAN_TITLES if scan in set(analysis["scan"])]
    names = [name for name in known if name in set(analysis["potential"])]
    with style():
        figure, axes = plt.subplots(1, len(SMOOTH), figsize=(FULL_WIDTH, 2.2 + 0.4 * len(scans)), sharey=True)
        for axis, (metric, (label, factor)) in zip(axes, SMOOTH.items(), strict=True):
            own = analysis[analysis["metric"] == metric]
            positive = own.loc[own["value"] > 0, "value"]
            floor = float(positive.min()) * factor / 3 if len(positive) else 0.1
            for place, name in enumerate(names):
                look = known[name]
                mine = own[own["potential"] == name].set_index("scan")["value"]
                y = [row + 0.3 - 0.6 * (place + 0.5) / len(names) for row, scan in enumerate(reversed(scans))
                     if scan in mine.index]  # fmt: skip
                value = [float(mine[scan]) * factor for scan in reversed(scans) if scan in mine.index]
                axis.plot(
                    np.maximum(value, floor) if metric != "force_flips" else value, y, marker=look.marker,
                    color=look.color, linestyle="none", markersize=5,
                )  # fmt: skip
                notes.saw(name, best[name])
            if metric == "tortuosity":
                plain_log(axis, "x", 1.1)
            elif metric == "largest_jump_ev":
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(base=10, numticks=5))
                axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel(label)
            axis.grid(axis="y", visible=False)
            for row in range(1, len(scans)):
                axis.axhline(row - 0.5, color="#E3E3E3", linewidth=0.8)
        axes[0].set_yticks(range(len(scans)), [scan_title(scan).split(" (")[0] for scan in reversed(scans)])
        axes[0].set_ylim(-0.6, len(scans) - 0.4)
        panel_letters(axes)
        legend(figure, known, names)
        footer(
            figure,
            notes.lines(
                "Tortuosity: sum of all steps over the way down and up of a curve with one minimum. Flips: changes of "
                "the sign of the force; one minimum has one. Step: largest deviation of a point from the cubic through "
                "its neighbours. Zeros at the left edge. The thesis has no such test."
            ),
        )
    save_figure(figure, analysis, output)


# --- cost -----------------------------------------------------------------------------------------------------------


def cost(tables: AdequacyTables, context: StudyContext, output: PathLike) -> None:
    """Figure 1: wall time of energies and forces against size with fitted exponents, and accuracy against cost.

    Args:
        tables: wall times, and the analysis of the curves for the errors.
        context: scale, claims and potentials.
        output: path of the PNG file.

    Raises:
        InputError: nothing was timed.
    """
    try:
        frame = tables.cost()
    except MissingDataError as error:
        raise InputError("figure fig1-cost: no cost/cost.csv among its files; run the timings") from error
    frame = best_times(frame)
    known = looks(tables, context)
    notes = Notes(tables, context, known)
    entries = [name for name in dict.fromkeys(frame["potential"].astype(str))]
    spare = Look("", "dft", "black", "x", DASH)
    styles = {name: known.get(name, Look(name, "dft", spare.color, spare.marker, spare.line)) for name in entries}
    ordered = [*(name for name in known if name in entries), *(name for name in entries if name not in known)]
    errors = _errors(tables)
    tidy = []
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 5.2))
        sizes = sorted(frame["n_atoms"].unique())
        for name in ordered:
            look = styles[name]
            own = frame[frame["potential"] == name].sort_values("n_atoms")
            n, seconds = own["n_atoms"].to_numpy(dtype=float), own["seconds"].to_numpy(dtype=float)
            exponent = cost_exponent(n, seconds)
            fitted = f", $N^{{{exponent:.1f}}}$" if math.isfinite(exponent) else ""
            left.plot(n, seconds, color=look.color, marker=look.marker, linestyle=look.line, markersize=5,
                      label=f"{look.title}{fitted}")  # fmt: skip
            tidy.append(own.assign(exponent=exponent, rmse_ev=errors.get(name, math.nan)))
            if name in tables.potentials():
                notes.saw(name, tables.precisions(name)[0])
            if name in errors and len(own):
                middle = float(own.iloc[-1]["seconds"])
                right.plot([middle], [errors[name]], marker=look.marker, color=look.color, markersize=8,
                           linestyle="none")  # fmt: skip
        if len(sizes) > 1:
            _slopes(left, frame, context)
        left.set_xscale("log")
        left.set_yscale("log")
        for target in (left.xaxis, left.yaxis):
            target.set_minor_formatter(NullFormatter())
            target.set_minor_locator(NullLocator())
        ticks = [value for value in (5, 8, 10, 20, 30, 50, 100, 200) if sizes[0] * 0.9 <= value <= sizes[-1] * 1.1]
        left.set_xticks(ticks, [str(value) for value in ticks])
        left.set_xlabel("atoms N (alkanes)")
        left.set_ylabel("wall time of energy and forces (s)")
        left.set_title("cost")
        right.set_title("accuracy against cost")
        right.set_xlabel("wall time, largest alkane (s)")
        right.set_ylabel("RMSE against the reference,\nmedian over scans (eV)")
        if not errors:
            _empty(right, "no error against a reference")
        else:
            right.set_xscale("log")
            right.set_yscale("log")
            right.margins(0.2)
            right.autoscale_view()
            plain_log(right, "x", 1.0)
            plain_log(right, "y", 1.0)
        panel_letters([left, right])
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        used = int(frame["threads"].max()) if "threads" in frame else 0
        threads = f", {used} thread{'s' if used > 1 else ''}" if used else ""
        orders = [context.paper(each)[""] for each in ("cost-hartree-fock", "cost-dft")]
        footer(
            figure,
            f"{scale_text(context)} · n = {len(ordered)} methods, {len(sizes)} alkanes, median of repeats on one "
            f"machine{threads}. Exponents: fitted to the larger half of the sizes. Dotted: $N^{orders[0]:g}$ and "
            f"$N^{orders[1]:g}$, what the thesis states for Hartree–Fock and DFT (appendix A), and $N$; their heights "
            "are arbitrary. The thesis's figure 1 is a sketch from the literature; it planned these timings and did "
            "not make them. (b) Errors over all scans with a reference, less a constant.",
        )  # fmt: skip
    save_figure(figure, pd.concat(tidy, ignore_index=True), output)


def best_times(frame: pd.DataFrame) -> pd.DataFrame:
    """Timings that were made, of each potential in its best precision only."""
    frame = frame[frame["seconds"] > 0]
    if "precision" not in frame:
        return frame
    order = {each: place for place, each in enumerate(PRECISIONS)}
    rank = frame["precision"].map(order).fillna(len(order))
    return frame[rank == rank.groupby(frame["potential"]).transform("min")]


def _slopes(axis: Axes, frame: pd.DataFrame, context: StudyContext) -> None:
    """Guides with the exponents that the thesis states, from the middle of the data."""
    n = np.array([frame["n_atoms"].min(), frame["n_atoms"].max()], dtype=float)
    middle = float(np.exp(np.log(frame["seconds"]).mean()))
    for claim_id in ("cost-hartree-fock", "cost-dft", "cost-linear"):
        exponent = context.paper(claim_id)[""]
        line = middle * (n / math.sqrt(n[0] * n[1])) ** exponent
        axis.plot(n, line, color=GREY, linestyle=":", linewidth=1)
        axis.annotate(f"$N^{exponent:g}$" if exponent != 1 else "$N$", (n[1], line[1]), xytext=(2, 0), color=GREY,
                      textcoords="offset points", va="center")  # fmt: skip


def _errors(tables: AdequacyTables) -> dict[str, float]:
    """Median error over scans (eV) of each potential in its best precision."""
    try:
        analysis = tables.analysis()
    except MissingDataError:
        return {}
    own = analysis[analysis["metric"] == "rmse_ev"].dropna(subset="value")
    best = {name: tables.precisions(name)[0] for name in tables.potentials()}
    own = own[own["potential"].map(best) == own["precision"]]
    medians = own.groupby("potential")["value"].median()
    return {str(name): float(value) for name, value in medians.items() if value > 0}
