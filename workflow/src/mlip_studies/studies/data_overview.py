"""Figures and tables of the data sets: selections, energies, self energies, composition, splits, charged particles.

Everything is drawn from small tidy files; which ones is listed in :mod:`~mlip_studies.studies.data_products`. A figure
function returns the figure and the tidy numbers in it, a table function the table and the headings of its columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import read_json, read_table
from mlip_studies.data.nbody import NBodySettings, read_nbody
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, style
from mlip_studies.studies.data_products import PRODUCTS, Product

__all__ = ["PRODUCTS", "Context", "DataFiles", "make_product"]

THIN = "\u202f"
FUNNEL_COLUMNS = ("step", "rows", "removed", "reason")
REFERENCE_COLUMNS = (
    "dataset", "fidelity", "level", "element", "kind", "energy_ev", "standard_error_ev", "source",
)  # fmt: skip
TABLE31_COLUMNS = (
    "row", "dataset", "energies", "self_energies", "n_rows", "mean_hartree", "std_hartree", "paper_label",
    "paper_mean_hartree", "paper_std_hartree",
)  # fmt: skip
# Rows that a paper states after its selection: data set, rows, who says so and where.
PAPER_ROWS: Mapping[str, tuple[int, str]] = {
    "spice": (680_000, "Pavlović, section III: molecules without charge that consist of H, C, N, O and S")
}
MINI = "mini scale: made by this project in the published layout, not the published data"
LINE_COLORS = ("blue", "vermillion", "bluish green", "reddish purple", "orange", "sky blue")
ELEMENT_ORDER = ["H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Si", "P", "S", "Cl", "K", "Ca", "Br", "I"]
# Letters of a title or legend that fit over half of a figure's width.
HALF_WIDTH_LETTERS = 40
# Fewer groups make no distribution.
FEWEST_GROUPS = 3
# One bin with more than this share of the counts flattens the others: counts go on a logarithmic axis then.
PEAKED = 0.35

FigureFunction = Callable[["DataFiles", "Context", str], tuple[Figure, pd.DataFrame]]
TableFunction = Callable[["DataFiles", "Context", str], tuple[pd.DataFrame, Mapping[str, str], str]]


@dataclass(frozen=True)
class Context:
    """What a product needs besides the results.

    Attributes:
        scale: mini or full.
        title: title of the data set, where a product is about one.
        shipped: whether all files are made by this project and ship with it.
    """

    scale: str
    title: str = ""
    shipped: bool = True


class DataFiles:
    """The small files that the products are made from, found by where they lie."""

    def __init__(self, files: Mapping[tuple[str, ...], PathLike]) -> None:
        """Keep the paths; nothing is read yet.

        Args:
            files: path of each (role, data set, ...).
        """
        self.files = {key: Path(path) for key, path in files.items()}

    @classmethod
    def from_paths(cls, paths: Iterable[PathLike]) -> DataFiles:
        """Recognise files by name and folder; others are ignored.

        Args:
            paths: any files, for instance all inputs of a rule.
        """
        files: dict[tuple[str, ...], Path] = {}
        for path in map(Path, paths):
            named = {"funnel.csv": "funnel", "self_energies.json": "self_energies", "summary.json": "summary"}
            single = {"reference_energies.csv": "reference_energies", "table31.csv": "table31", "nbody.npz": "nbody"}
            if path.name in named:
                files[named[path.name], path.parent.name] = path
            elif path.name in single:
                files[(single[path.name],)] = path
            elif path.parent.name == "splits" and path.suffix == ".json":
                files["split", path.parent.parent.name, path.stem] = path
        return cls(files)

    def path(self, *key: str) -> Path:
        """Path of a file.

        Raises:
            InputError: it was not given.
        """
        if key not in self.files:
            raise InputError(f"{' of '.join(key)}: not among the files given; add it to the inputs of this product")
        return self.files[key]

    def keys(self, role: str) -> list[tuple[str, ...]]:
        """What follows the role in the keys of all files of a role, in the order given."""
        return [key[1:] for key in self.files if key[0] == role]

    def json(self, *key: str) -> dict[str, Any]:
        """A JSON object, checked by its checksum."""
        return read_json(self.path(*key))

    def summary(self, dataset: str) -> dict[str, Any]:
        """Summary of a data set."""
        return self.json("summary", dataset)


# --- shared helpers -------------------------------------------------------------------------------------------------


def count(value: float) -> str:
    """A whole number with thin spaces."""
    return f"{int(value):,}".replace(",", THIN)


def percent(part: float, whole: float) -> str:
    """A share; small ones keep a digit, and what is not zero is never written as 0 %."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share in (0, 100) else f"{share:.1f} %"


def _level(summary: Mapping[str, Any], fidelity: str) -> str:
    return str((summary.get("levels") or {}).get(fidelity, fidelity))


def _title(summary: Mapping[str, Any], context: Context, dataset: str) -> str:
    return str(summary.get("title") or context.title or dataset)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _records(frame: pd.DataFrame) -> Iterable[Any]:
    """The rows, their columns as attributes."""
    rows: Iterable[Any] = frame.itertuples(index=False)
    return rows


def _scale_note(context: Context) -> str:
    if context.scale == "mini" and not context.shipped:
        return "mini scale: (also) published data, not all of them"
    return MINI if context.scale == "mini" else f"{context.scale} scale"


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".replace("-", "−")


def _energy(value: float) -> str:
    """An energy in eV, in meV where it is small; what is zero but for rounding as 0."""
    if abs(value) < 1e-6:
        return "0 eV"
    if abs(value) < 0.1:
        return _number(1000 * value, "meV")
    return f"{value:.1f} eV".replace("-", "−") if abs(value) >= 1000 else _number(value, "eV")


def _by_element(symbols: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(symbols))
    return sorted(found, key=lambda name: (ELEMENT_ORDER.index(name) if name in ELEMENT_ORDER else 99, name))


def _count_axis(axis: Axes, which: str = "y") -> None:
    """Counts as whole numbers with thin spaces."""
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_locator(MaxNLocator(4, integer=True))
    target.set_major_formatter(lambda value, _: count(value))


def _log_counts(axis: Axes, highest: float, free: float) -> None:
    """A logarithmic axis of counts that starts below one and leaves a share of its height free for text."""
    low, high = 0.5, max(highest, 2.0)
    axis.set_yscale("log")
    axis.set_ylim(low, low * (1.2 * high / low) ** (1 / (1 - free)))
    axis.yaxis.set_major_locator(LogLocator(numticks=6))
    axis.yaxis.set_minor_formatter(NullFormatter())


# --- funnel ---------------------------------------------------------------------------------------------------------


def _funnel(files: DataFiles, context: Context, dataset: str) -> pd.DataFrame:
    """The funnel with shares of the rows read, and what a paper states."""
    path = files.path("funnel", dataset)
    frame = read_table(path, FUNNEL_COLUMNS)[list(FUNNEL_COLUMNS)]
    frame["reason"] = frame["reason"].astype(object).fillna("").astype(str)
    expected = frame["rows"].to_numpy()[:-1] - frame["removed"].to_numpy()[1:]
    if (frame["removed"] < 0).any() or not np.array_equal(frame["rows"].to_numpy()[1:], expected):
        raise InputError(f"{path}: rows and removed do not add up; delete the file and build the store again")
    whole = int(frame["rows"].iloc[0])
    before = frame["rows"] + frame["removed"]
    frame.insert(2, "percent_of_read", 100 * frame["rows"] / max(whole, 1))
    frame.insert(4, "percent_removed", 100 * frame["removed"] / before.clip(lower=1))
    frame.insert(0, "dataset", dataset)
    stated = PAPER_ROWS.get(dataset) if context.scale == "full" else None
    frame["paper_rows"] = [np.nan] * (len(frame) - 1) + [stated[0] if stated else np.nan]
    return frame


def funnel(files: DataFiles, context: Context, dataset: str) -> tuple[Figure, pd.DataFrame]:
    """Rows left after each step: a bar per step, what the step removed beside it, and why below it."""
    frame = _funnel(files, context, dataset)
    whole, stored = int(frame["rows"].iloc[0]), int(frame["rows"].iloc[-1])
    steps = [_words(step) for step in frame["step"]]
    stated = PAPER_ROWS.get(dataset) if context.scale == "full" else None
    entries = [
        (step, int(row.rows), int(row.removed), row.reason) for step, row in zip(steps, _records(frame), strict=True)
    ]
    if stated:
        entries.append(("paper", *stated[:1], 0, stated[1]))
    # All in inches: bars and their texts keep their distances whatever the number of steps.
    bar, line, gap, head, foot = 0.2, 0.165, 0.13, 0.62, 0.85
    left = 0.15 + 0.078 * max(len(step) for step in steps)
    width = FULL_WIDTH - left - 2.55
    letters = int((FULL_WIDTH - left - 0.1) / 0.072)
    reasons = [_shortened(reason, letters) for *_, reason in entries]
    tops = np.concatenate([[0.0], np.cumsum([bar + line * len(reason) + gap for reason in reasons])])
    height = head + tops[-1] + foot
    with style():
        # Without a placeholder the style's layout engine would come back when the figure is saved.
        figure = plt.figure(figsize=(FULL_WIDTH, height), layout=PlaceHolderLayoutEngine(True, True))
        axis = figure.add_axes((left / FULL_WIDTH, foot / height, width / FULL_WIDTH, tops[-1] / height))
        texts = blended_transform_factory(axis.transAxes, axis.transData)
        columns = [1 + inches / width for inches in (0.95, 1.6, 2.48)]
        for number, ((_, rows, removed, _), reason) in enumerate(zip(entries, reasons, strict=True)):
            middle = tops[number] + bar / 2
            paper = stated is not None and number == len(entries) - 1
            look: dict[str, Any] = {"facecolor": OKABE_ITO["blue"]}
            if paper:
                look = {"facecolor": "#D9D9D9", "edgecolor": "#8C8C8C", "hatch": "////", "linewidth": 0}
            axis.barh(middle, rows, height=bar, zorder=2, **look)
            if removed:
                axis.barh(
                    middle, removed, left=rows, height=bar, facecolor="#F6D9C6", edgecolor=OKABE_ITO["vermillion"],
                    hatch="////", linewidth=0.7, zorder=2,
                )  # fmt: skip
            cells = [
                (("about " if paper else "") + count(rows), "black"),
                (percent(rows, whole), GREY),
                ("" if number == 0 or paper else f"−{count(removed)}" if removed else "0", GREY),
            ]
            for place, (text, color) in zip(columns, cells, strict=True):
                color = OKABE_ITO["vermillion"] if text.startswith("−") else color
                axis.text(place, middle, text, transform=texts, va="center", ha="right", color=color)
            for position, text in enumerate(reason):
                axis.text(
                    0.0, tops[number] + bar + line * (position + 0.6), text, transform=texts, va="center", ha="left",
                    color="#404040",
                )  # fmt: skip
        for place, text in zip(columns, ("rows left", "of all", "removed"), strict=True):
            axis.text(place, -0.16, text, transform=texts, va="center", ha="right", fontweight="bold")
        axis.set_yticks(tops[:-1] + bar / 2, [step for step, *_ in entries])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(tops[-1], 0)
        axis.set_xlim(0, max(whole, 1))
        axis.grid(visible=False)
        _count_axis(axis, "x")
        axis.set_xlabel("rows (configurations)")
        figure.text(
            0.12 / FULL_WIDTH, 1 - 0.08 / height, textwrap.shorten(context.title or dataset, 92, placeholder=" …"),
            va="top", fontsize=10,
        )  # fmt: skip
        footer(figure, f"n = {count(whole)} rows read, {count(stored)} stored\n{_scale_note(context)}")
    return figure, frame


def _shortened(reason: str, letters: int) -> list[str]:
    """At most two lines; the table has the whole text."""
    lines = textwrap.wrap(reason, letters) or [""]
    if len(lines) <= 2:
        return lines
    return [lines[0], textwrap.shorten(" ".join(lines[1:]), letters, placeholder=" … (see the table)")]


def funnel_table(files: DataFiles, context: Context, dataset: str) -> tuple[pd.DataFrame, Mapping[str, str], str]:
    """The funnel as a table with the full reasons."""
    frame = _funnel(files, context, dataset)
    if context.scale == "full" and dataset in PAPER_ROWS:
        number, where = PAPER_ROWS[dataset]
        caption = f"Paper: about {count(number)} rows remain ({where})."
    else:
        frame = frame.drop(columns="paper_rows")
        caption = ""
    headings = {
        "dataset": "Data set", "step": "Step", "rows": "Rows left", "percent_of_read": "% of all",
        "removed": "Removed", "percent_removed": "% removed by the step", "reason": "Why",
        "paper_rows": "Paper (about)",
    }  # fmt: skip
    return frame, headings, caption


# --- energies before and after the regression -----------------------------------------------------------------------


def _rank_note(fit: Mapping[str, Any]) -> str:
    """What the compositions determine, in words."""
    note = fit.get("note")
    if note:
        return str(note)
    text = f"rank {fit['rank']} of {len(fit['elements'])}"
    return text if fit["rank"] == len(fit["elements"]) else f"{text}: single elements are not determined"


def _undetermined(fit: Mapping[str, Any]) -> set[str]:
    """Elements whose coefficient the compositions leave open."""
    names = symbols(fit["elements"])
    known = fit.get("determined") or [fit["rank"] == len(names)] * len(names)
    return {name for name, fixed in zip(names, known, strict=True) if not fixed}


def energies(files: DataFiles, context: Context, dataset: str) -> tuple[Figure, pd.DataFrame]:
    """Distribution of the energies before and after the per-element regression, a row of panels per fidelity."""
    fits: Mapping[str, Any] = files.json("self_energies", dataset)["fidelities"]
    summary = files.summary(dataset)
    tidy = []
    with style():
        figure, axes = plt.subplots(len(fits), 2, figsize=(FULL_WIDTH, 1.2 + 2.15 * len(fits)), squeeze=False)
        for line, (fidelity, fit) in enumerate(fits.items()):
            color = OKABE_ITO[LINE_COLORS[line % len(LINE_COLORS)]]
            for axis, stage in zip(axes[line], ("before", "after"), strict=True):
                histogram, numbers = fit["histogram"][stage], fit[stage]
                edges, counts = np.asarray(histogram["edges"], float), np.asarray(histogram["counts"], float)
                axis.stairs(counts, edges, fill=True, color=color, alpha=0.6)
                axis.stairs(counts, edges, color=color, linewidth=0.9)
                # The line ends below the text.
                axis.axvline(numbers["mean_ev"], ymax=0.64, color="black", linewidth=1)
                # Outliers stretch the axis: without a logarithmic one they could not be seen.
                # (Total energies are spiky by nature: one peak per formula.)
                log = stage == "after" and counts.max() > PEAKED * counts.sum() and np.count_nonzero(counts) > 4
                if log:
                    _log_counts(axis, counts.max(), 0.36)
                else:
                    axis.set_ylim(0, 1.6 * max(counts.max(), 1))
                    _count_axis(axis)
                text = f"mean {_energy(numbers['mean_ev'])}\nstd {_energy(numbers['std_ev'])}"
                if "std_per_atom_ev" in numbers:
                    text += f"\nstd per atom {_energy(numbers['std_per_atom_ev'])}"
                left = edges[:-1][counts.argmax()] < edges.mean()
                axis.text(
                    0.98 if left else 0.02, 0.96, text, transform=axis.transAxes, va="top",
                    ha="right" if left else "left",
                    bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
                axis.xaxis.set_major_locator(MaxNLocator(4))
                axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
                axis.grid(axis="x", visible=False)
                level = textwrap.fill(_level(summary, fidelity), HALF_WIDTH_LETTERS)
                axis.set_title(f"{level}\n{stage} the regression" if len(fits) > 1 else stage)
                tidy.append(
                    pd.DataFrame(
                        {
                            "dataset": dataset, "fidelity": fidelity, "stage": stage, "edge_low_ev": edges[:-1],
                            "edge_high_ev": edges[1:], "count": counts.astype(int), "mean_ev": numbers["mean_ev"],
                            "std_ev": numbers["std_ev"],
                        }
                    )
                )  # fmt: skip
            axes[line][0].set_ylabel("rows per bin")
        axes[-1][0].set_xlabel("energy as labeled (eV)")
        axes[-1][1].set_xlabel("energy − Σ self energies (eV)")
        panel_letters(axes.ravel())
        figure.suptitle(textwrap.fill(_title(summary, context, dataset), 90), x=0.01, ha="left")
        lines = [_scale_note(context)]
        for fidelity, fit in fits.items():
            lines.append(f"{_level(summary, fidelity)}: n = {count(fit['n_rows'])} rows; {_rank_note(fit)}")
        footer(figure, "\n".join(lines))
    return figure, pd.concat(tidy, ignore_index=True)


# --- self energies across data sets and levels ----------------------------------------------------------------------

KIND_STYLES: Mapping[str, tuple[str, str, str]] = {
    "linear fit, ours": ("least squares, ours (± standard error)", OKABE_ITO["blue"], "o"),
    "linear fit, published": ("least squares, published", OKABE_ITO["vermillion"], "s"),
    "isolated atom": ("isolated atom, published", OKABE_ITO["bluish green"], "D"),
    "isolated atom, ours": ("isolated atom, ours", OKABE_ITO["reddish purple"], "^"),
}
OUR_FIT = "linear fit, ours"
# Which isolated atom the others are compared with, the first that there is: at the mini scale the levels are ours.
REFERENCES: Mapping[str, tuple[str, str]] = {
    "mini": ("isolated atom, ours", "isolated atom"),
    "full": ("isolated atom", "isolated atom, ours"),
}


def reference_table(files: DataFiles, context: Context) -> pd.DataFrame:
    """Self energies relative to the isolated atom.

    Returns:
        the comparison table without elements that a data set does not hold, with the columns reference (kind and
        level of the atom compared with), reference_ev, difference_ev (NaN without such an atom) and determined
        (whether the compositions of the data set fix the coefficient).
    """
    path = files.path("reference_energies")
    frame = read_table(path, REFERENCE_COLUMNS)
    texts = ["dataset", "fidelity", "level", "element", "kind", "source"]
    frame[texts] = frame[texts].astype(object).fillna("").astype(str)
    undetermined = {
        (dataset, fidelity, element)
        for (dataset,) in files.keys("self_energies")
        for fidelity, fit in files.json("self_energies", dataset)["fidelities"].items()
        for element in _undetermined(fit)
    }
    keys = list(zip(frame["dataset"], frame["fidelity"], frame["element"], strict=True))
    frame["determined"] = [key not in undetermined for key in keys]
    # An element without atoms gets the coefficient 0 from the solution of least norm.
    absent = {
        key
        for key, kind, energy in zip(keys, frame["kind"], frame["energy_ev"], strict=True)
        if kind == OUR_FIT and key in undetermined and abs(energy) < 1e-3
    }
    frame = frame[[key not in absent for key in keys]].reset_index(drop=True)
    frame["determined"] |= frame["kind"] != OUR_FIT
    reference: dict[tuple[str, str, str], tuple[str, str, float]] = {}
    for kind in REFERENCES[context.scale]:
        for row in _records(frame[frame["kind"] == kind]):
            reference.setdefault((row.dataset, row.fidelity, row.element), (kind, row.level, row.energy_ev))
    keys = list(zip(frame["dataset"], frame["fidelity"], frame["element"], strict=True))
    found = [reference.get(key, ("", "", np.nan)) for key in keys]
    frame["reference"] = [f"{kind}: {level}" if kind else "" for kind, level, _ in found]
    frame["reference_ev"] = [energy for *_, energy in found]
    frame["difference_ev"] = frame["energy_ev"] - frame["reference_ev"]
    frame["is_reference"] = [
        kind == of and energy == value
        for (of, _, value), kind, energy in zip(found, frame["kind"], frame["energy_ev"], strict=True)
    ]
    return frame


def _same_level(one: str, other: str) -> bool:
    return one.casefold().replace("ω", "w") == other.casefold().replace("ω", "w")


def self_energies(files: DataFiles, context: Context, dataset: str = "") -> tuple[Figure, pd.DataFrame]:
    """Self energies relative to the isolated atom, a panel per element, a line per data set and level."""
    frame = reference_table(files, context)
    shown = frame[~frame["is_reference"] & frame["difference_ev"].notna()]
    if shown.empty:
        return _nothing_to_compare(frame, context), frame
    ours = frame[frame["kind"] == OUR_FIT].drop_duplicates(["dataset", "fidelity"])
    level_of = {(row.dataset, row.fidelity): row.level for row in _records(ours)}
    lines = list(dict.fromkeys(zip(shown["dataset"], shown["fidelity"], strict=True)))
    levels = list(dict.fromkeys(level_of.get(line, line[1]) for line in lines))
    lines.sort(key=lambda line: levels.index(level_of.get(line, line[1])))
    labels = [f"{line[0]} [{levels.index(level_of.get(line, line[1])) + 1}]" for line in lines]
    elements = _by_element(shown["element"])
    columns = 2 if len(elements) == 4 else min(3, len(elements))
    n_lines = -(-len(elements) // columns)
    height = 0.3 * len(lines) + 0.62
    with style():
        figure, grid = plt.subplots(
            n_lines, columns, figsize=(FULL_WIDTH, 1.7 + height * n_lines), sharey=True, squeeze=False
        )
        panels = grid.ravel()[: len(elements)]
        for axis in grid.ravel()[len(elements) :]:
            axis.axis("off")
        for number, (axis, element) in enumerate(zip(panels, elements, strict=True)):
            _self_energy_panel(axis, shown[shown["element"] == element], lines)
            axis.set_title(element)
            axis.set_yticks(range(len(lines)), labels)
            axis.set_ylim(len(lines) - 0.4, -0.6)
            if number >= len(elements) - columns:
                axis.set_xlabel("difference (eV)")
        panel_letters(panels)
        handles = [Line2D([], [], color="black", linewidth=1, label="isolated atom of the level (0 eV)")]
        handles += [
            Line2D([], [], linestyle="", marker=marker, color=color, markersize=6, label=name)
            for kind, (name, color, marker) in KIND_STYLES.items()
            if (shown["kind"] == kind).any()
        ]
        if not shown["determined"].all():
            handles.append(
                Line2D(
                    [], [], linestyle="", marker="o", markerfacecolor="white", color=OKABE_ITO["blue"], markersize=6,
                    label="rank-deficient fit (triangle: off the scale)",
                )
            )  # fmt: skip
        figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.2, handletextpad=0.4)
        footer(figure, "\n".join(_level_notes(frame, context, levels, level_of, lines)))
    return figure, frame


def _nothing_to_compare(frame: pd.DataFrame, context: Context) -> Figure:
    """Says why there is no comparison: a user's own level, for instance, has no known atoms."""
    levels = ", ".join(dict.fromkeys(frame["level"])) or "these levels"
    text = f"No energies of isolated atoms are known at {levels}.\nThe fitted self energies are in the table."
    with style():
        figure, axis = plt.subplots(figsize=(FULL_WIDTH, 1.4))
        axis.axis("off")
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
        footer(figure, _scale_note(context))
    return figure


def _level_notes(
    frame: pd.DataFrame,
    context: Context,
    levels: Sequence[str],
    level_of: Mapping[tuple[str, str], str],
    lines: Sequence[tuple[str, str]],
) -> list[str]:
    """The levels behind the numbers in brackets, atoms of another level, and what could not be shown."""
    notes = [_scale_note(context)]
    for number, level in enumerate(levels, 1):
        at_level = [line for line in lines if level_of.get(line, line[1]) == level]
        rows = frame[[key in at_level for key in zip(frame["dataset"], frame["fidelity"], strict=True)]]
        used = dict.fromkeys(text.partition(": ")[2] for text in rows["reference"] if text)
        other = [text for text in used if not _same_level(text, level)]
        notes.append(f"[{number}] {level}" + (f"; atoms: {'; '.join(other)}" if other else ""))
    without = frame[frame["difference_ev"].isna()]
    missing: dict[tuple[str, str], list[str]] = {}
    for row in _records(without[without["kind"] == OUR_FIT]):
        missing.setdefault((row.dataset, row.level), []).append(row.element)
    if missing:
        told = [f"{', '.join(elements)} of {dataset} ({level})" for (dataset, level), elements in missing.items()]
        notes.append(f"not shown, no isolated atom: {'; '.join(told)}")
    return notes


def _self_energy_panel(axis: Axes, rows: pd.DataFrame, lines: Sequence[tuple[str, str]]) -> None:
    """Points of one element; the scale is set by what is determined, numbers beyond it stand at the edge."""
    axis.axvline(0, color="black", linewidth=1, zorder=1)
    sure = rows[rows["determined"]]["difference_ev"].to_numpy(float)
    low, high = min(0.0, sure.min(initial=0.0)), max(0.0, sure.max(initial=0.0))
    margin = max(0.15 * (high - low), 0.5)
    low, high = low - margin, high + margin
    axis.set_xlim(low, high)
    for position, line in enumerate(lines):
        of_line = rows[(rows["dataset"] == line[0]) & (rows["fidelity"] == line[1])]
        # Points of one line stand a little apart, so that none covers another.
        shifts = 0.2 * (np.arange(len(of_line)) - (len(of_line) - 1) / 2)
        for row, shift in zip(_records(of_line), shifts, strict=True):
            _, color, marker = KIND_STYLES.get(row.kind, (row.kind, GREY, "v"))
            value, place = row.difference_ev, position + shift
            if not low <= value <= high:
                end, tip, step, side = (low, "<", 7, "left") if value < low else (high, ">", -7, "right")
                axis.plot([end], [place], marker=tip, color=color, markerfacecolor="white", clip_on=False, zorder=5)
                axis.annotate(
                    f"{value:.0f} eV".replace("-", "−"), (end, place), (step, 0), textcoords="offset points",
                    ha=side, va="center", color=color, zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )  # fmt: skip
                continue
            error = row.standard_error_ev
            if np.isfinite(error) and row.determined:
                axis.errorbar(value, place, xerr=error, color=color, capsize=2, linewidth=1, zorder=3)
            axis.plot(
                [value], [place], marker=marker, markersize=5, color=color,
                markerfacecolor=color if row.determined else "white", zorder=4,
            )  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def self_energy_table(
    files: DataFiles, context: Context, dataset: str = ""
) -> tuple[pd.DataFrame, Mapping[str, str], str]:
    """All self energies, with those that have no isolated atom to compare with."""
    frame = reference_table(files, context)
    headings = {
        "dataset": "Data set", "fidelity": "Fidelity", "level": "Level", "element": "Element", "kind": "Kind",
        "energy_ev": "Self energy (eV)", "standard_error_ev": "Standard error (eV)", "source": "Source",
        "reference": "Compared with", "reference_ev": "Isolated atom (eV)", "difference_ev": "Difference (eV)",
        "determined": "Determined", "is_reference": "Is what is compared with",
    }  # fmt: skip
    caption = (
        "Difference: to the isolated atom. Not determined: the numbers of atoms in the data set do not vary "
        "independently (rank-deficient), so the energy of this element alone has no meaning; the solution of least "
        "norm is given. Standard errors take molecules, not rows, as independent."
    )
    return frame, headings, caption


# --- Table 3.1 of Hedelius ------------------------------------------------------------------------------------------


def table31(files: DataFiles, context: Context, dataset: str = "") -> tuple[pd.DataFrame, Mapping[str, str], str]:
    """Mean and standard deviation of the energies with and without self energies, the thesis's beside ours."""
    frame = read_table(files.path("table31"), TABLE31_COLUMNS)
    order = [
        "row", "energies", "paper_label", "paper_mean_hartree", "mean_hartree", "paper_std_hartree", "std_hartree",
        "comparable", "n_rows", "dataset", "self_energies",
    ]  # fmt: skip
    frame["comparable"] = "yes" if context.scale == "full" else "no: other data at this scale"
    headings = {
        "row": "Data set", "energies": "Energies", "paper_label": "Row of the thesis",
        "paper_mean_hartree": "Mean, thesis (Ha)", "mean_hartree": "Mean, ours (Ha)",
        "paper_std_hartree": "Std, thesis (Ha)", "std_hartree": "Std, ours (Ha)", "comparable": "Comparable",
        "n_rows": "Rows, ours", "dataset": "Ours from", "self_energies": "Self energies",
    }  # fmt: skip
    caption = (
        "Total energies as they are and less self energies. The thesis states one number per data set for the latter; "
        "each of ours with self energies stands beside it."
    )
    return frame[order], headings, caption


# --- splits ---------------------------------------------------------------------------------------------------------

LEAKS: Mapping[str, str] = {
    "shared_rows": "same rows",
    "shared_geometries": "same geometries",
    "shared_groups": "same groups",
}
SPLIT_PAIRS = ("train/test", "val/test", "train/val")


def _sizes(report: Mapping[str, Any], part: str) -> str:
    nested = report.get(f"{part}_sizes") or []
    total = int((report.get("sizes") or {}).get(part, 0))
    sizes = nested if len(nested) > 1 else [total]
    return " ⊂ ".join(count(size) for size in sizes) if any(sizes) else "none"


def splits(files: DataFiles, context: Context, dataset: str = "") -> tuple[pd.DataFrame, Mapping[str, str], str]:
    """All named splits: kind, sizes, and what each pair of parts shares."""
    rows = []
    for of, name in files.keys("split"):
        report = files.json("split", of, name)
        row: dict[str, Any] = {
            "split": name, "dataset": of, "kind": _words(str(report.get("kind", ""))),
            "train": _sizes(report, "train"), "val": _sizes(report, "val"), "test": _sizes(report, "test"),
            "unused": report.get("unused"), "seed": report.get("seed"),
        }  # fmt: skip
        leakage = report.get("leakage") or {}
        for pair in SPLIT_PAIRS:
            for key in LEAKS:
                row[f"{key}_{pair}"] = leakage.get(pair, {}).get(key)
        rows.append(row)
    if not rows:
        raise InputError("table of splits: no split report was given; name a split in config/data.yaml")
    frame = pd.DataFrame(rows)
    numbers = [name for name in frame.columns if "/" in name or name in ("unused", "seed")]
    frame[numbers] = frame[numbers].astype("Int64")
    headings = {
        "split": "Split", "dataset": "Data set", "kind": "Kind", "train": "Training rows (nested)",
        "val": "Validation rows", "test": "Test rows", "unused": "Unused rows", "seed": "Seed",
        **{f"{key}_{pair}": f"{pair}: {name}" for pair in SPLIT_PAIRS for key, name in LEAKS.items()},
    }  # fmt: skip
    caption = (
        "Smaller training sets are contained in the larger ones. A/B: rows of both parts; rows of B whose geometry is "
        "in A (sorted distances equal within the tolerance); groups (molecules) that are in both. Counts are for the "
        "largest sets; empty: a part has no rows."
    )
    return frame, headings, caption


# --- composition ----------------------------------------------------------------------------------------------------


def composition(files: DataFiles, context: Context, dataset: str) -> tuple[Figure, pd.DataFrame]:
    """Rows per element, sizes, subsets, forces and energy ranges of a data set, as far as it has them."""
    summary = files.summary(dataset)
    tidy: list[tuple[str, str, str, float, float, float]] = []
    fidelities = summary["fidelities"]
    with_forces = [name for name, entry in fidelities.items() if entry.get("forces")]
    ranges = {
        name: entry["group_energy_range"] for name, entry in fidelities.items() if entry.get("group_energy_range")
    }
    # One or two groups make no distribution; the note below the figure tells them.
    with_range = [name for name, entry in ranges.items() if entry["groups"] >= FEWEST_GROUPS]
    kinds = summary.get("subsets") or list((summary.get("displacement") or {}).items())
    # Lines of panels: their heights in inches, and which panels stand in them.
    rows: list[tuple[float, list[Any]]] = [(max(2.1, 0.55 + 0.24 * len(summary["elements"])), ["elements", "sizes"])]
    if kinds:
        rows.append((0.75 + 0.25 * len(kinds), ["kinds", "kinds"]))
    last = [name for name, found in (("range", with_range), ("forces", with_forces)) if found]
    if last:
        rows.append((2.35, last if len(last) == 2 else last * 2))
    with style():
        figure, axes = plt.subplot_mosaic(
            [names for _, names in rows],
            figsize=(FULL_WIDTH, 0.9 + sum(height for height, _ in rows)),
            height_ratios=[height for height, _ in rows],
        )
        _element_panel(axes["elements"], summary, tidy)
        _size_panel(axes["sizes"], summary, tidy)
        if kinds:
            _kind_panel(axes["kinds"], summary, tidy)
        if with_range:
            _range_panel(axes["range"], summary, with_range, tidy)
        if with_forces:
            _force_panel(axes["forces"], summary, with_forces, tidy)
        panel_letters(axes.values())
        figure.suptitle(textwrap.fill(_title(summary, context, dataset), 90), x=0.01, ha="left")
        groups = "group" if summary["n_groups"] == 1 else "groups"
        notes = [f"n = {count(summary['n_rows'])} rows in {count(summary['n_groups'])} {groups}", _scale_note(context)]
        if without := [_level(summary, name) for name in fidelities if name not in with_forces]:
            notes.append(f"no forces: {', '.join(without)}")
        for name in (name for name in fidelities if name not in with_range):
            found = ranges.get(name) or {"groups": 0}
            told = f"at most {_energy(found['max_ev'])}" if found["groups"] else "no group has two energies"
            notes.append(f"energy range of a group at {_level(summary, name)}: {told}")
        footer(figure, "\n".join(notes))
    frame = pd.DataFrame(tidy, columns=["panel", "series", "item", "bin_low", "bin_high", "count"])
    frame.insert(0, "dataset", dataset)
    return figure, frame


def _bar_labels(axis: Axes, values: Sequence[float], whole: float) -> None:
    highest = max(values)
    for position, value in enumerate(values):
        inside = value > 0.55 * highest
        axis.text(
            value - 0.02 * highest if inside else value + 0.02 * highest, position,
            f"{count(value)} ({percent(value, whole)})", va="center", ha="right" if inside else "left",
            color="white" if inside else "black",
        )  # fmt: skip


def _element_panel(axis: Axes, summary: Mapping[str, Any], tidy: list[Any]) -> None:
    entries = {entry["element"]: entry for entry in summary["elements"]}
    names = _by_element(entries)
    rows = [entries[name]["rows"] for name in names]
    axis.barh(range(len(names)), rows, color=OKABE_ITO["blue"], height=0.72, zorder=2)
    _bar_labels(axis, rows, summary["n_rows"])
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    _count_axis(axis, "x")
    axis.set_xlabel("rows with the element")
    axis.set_title("elements")
    tidy += [("elements", "rows", name, np.nan, np.nan, entries[name]["rows"]) for name in names]
    tidy += [("elements", "atoms", name, np.nan, np.nan, entries[name]["atoms"]) for name in names]


def _size_panel(axis: Axes, summary: Mapping[str, Any], tidy: list[Any]) -> None:
    sizes, rows = np.asarray(summary["n_atoms"]["sizes"]), np.asarray(summary["n_atoms"]["rows"])
    axis.bar(sizes, rows, width=0.9, color=OKABE_ITO["blue"], zorder=2)
    mean = summary["n_atoms"]["mean"]
    low, high = int(sizes[0]), int(sizes[-1])
    if high > low:
        axis.axvline(mean, ymax=0.78, color="black", linewidth=1, zorder=3)
    margin = 0.5 + max(0.06 * (high - low), 2.5 - 0.5 * (high - low), 0.3)
    axis.set_xlim(low - margin, high + margin)
    axis.set_ylim(0, 1.28 * rows.max())
    left = mean < low + 0.5 * (high - low)
    axis.text(
        0.98 if left else 0.02, 0.96, f"{low} to {high}, mean {mean:.1f}" if high > low else f"all {low}",
        transform=axis.transAxes, va="top", ha="right" if left else "left",
    )  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _count_axis(axis)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("atoms per row")
    axis.set_ylabel("rows")
    axis.set_title("sizes")
    tidy += [("sizes", "rows", "", size, size, n) for size, n in zip(sizes.tolist(), rows.tolist(), strict=True)]


def _kind_panel(axis: Axes, summary: Mapping[str, Any], tidy: list[Any]) -> None:
    """Subsets, or equilibrium against displaced geometries; names stand beside the bars, as they may be long."""
    if summary.get("subsets"):
        panel = "subsets"
        entries = [(entry["subset"] or "(none)", entry["rows"]) for entry in summary["subsets"]]
    else:
        panel = "geometries"
        entries = list(summary["displacement"].items())
    rows = [n for _, n in entries]
    axis.barh(range(len(rows)), rows, color=OKABE_ITO["blue"], height=0.72, zorder=2)
    for position, (name, n) in enumerate(entries):
        axis.text(
            n + 0.012 * max(rows), position,
            f"{_subset_name(name)}: {count(n)} ({percent(n, summary['n_rows'])})", va="center", ha="left",
        )  # fmt: skip
    axis.set_yticks([])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, 1.75 * max(rows))
    axis.grid(visible=False)
    ticks = MaxNLocator(5, integer=True).tick_values(0, max(rows))
    axis.set_xticks(ticks[ticks <= max(rows)])
    axis.xaxis.set_major_formatter(lambda value, _: count(value))
    axis.set_xlabel("rows", loc="left")
    axis.set_title(panel)
    tidy += [(panel, "rows", name, np.nan, np.nan, n) for name, n in entries]


def _subset_name(name: str) -> str:
    """A subset's name without what all names of the release share."""
    short = name.removeprefix("SPICE ").replace(" Single Points Dataset", "")
    return textwrap.shorten(short, 40, placeholder=" …")


LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


def _steps(axis: Axes, histogram: Mapping[str, Any], line: int, merge: int) -> tuple[float, float, float]:
    """Draw a histogram as a line; returns the highest count and the ends."""
    edges, counts = np.asarray(histogram["edges"], float), np.asarray(histogram["counts"], float)
    if len(counts) == 0:
        return 0.0, np.inf, -np.inf
    if merge > 1:
        ratio = edges[1] / edges[0]
        counts = np.concatenate([counts, np.zeros(-len(counts) % merge)]).reshape(-1, merge).sum(axis=1)
        edges = edges[0] * ratio ** (merge * np.arange(len(counts) + 1))
    color = OKABE_ITO[LINE_COLORS[line % len(LINE_COLORS)]]
    if line == 0:
        axis.stairs(counts, edges, fill=True, color=color, alpha=0.3)
    axis.stairs(counts, edges, color=color, linewidth=1.3, linestyle=LINES[line % len(LINES)])
    return float(counts.max()), float(edges[0]), float(edges[-1])


def _log_panel(axis: Axes, histograms: Mapping[str, tuple[str, Mapping[str, Any]]], merge: int) -> None:
    """Histograms with logarithmic bins, and logarithmic counts where there are many.

    Args:
        axis: where to draw.
        histograms: per fidelity its text and its histogram.
        merge: bins of the file that make one bin of the figure.
    """
    ends = [_steps(axis, histogram, line, merge) for line, (_, histogram) in enumerate(histograms.values())]
    highest, low, high = max(e[0] for e in ends), min(e[1] for e in ends), max(e[2] for e in ends)
    axis.set_xscale("log")
    if highest:
        # At least a decade and a half, so that there are ticks to read.
        widen = max(0.06, 0.5 * (1.5 - np.log10(high / low)))
        axis.set_xlim(low * 10**-widen, high * 10**widen)
    free = 0.04 + 0.115 * sum(1 + text.count("\n") for text, _ in histograms.values())
    if highest > 30:
        _log_counts(axis, highest, free)
    else:
        axis.set_ylim(0, 1.05 * max(highest, 1) / (1 - free))
        _count_axis(axis)
    decades = np.log10(axis.get_xlim()[1] / axis.get_xlim()[0])
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=8))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{np.log10(value):.0f}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    handles = [
        Line2D([], [], color=OKABE_ITO[LINE_COLORS[line % len(LINE_COLORS)]], linestyle=LINES[line % 4], label=text)
        for line, (text, _) in enumerate(histograms.values())
    ]
    legend = axis.legend(handles=handles, loc="upper left", handlelength=1.6, borderaxespad=0.1, labelspacing=0.2)
    legend.set_in_layout(False)  # a long name must not push the panels apart


def _tidy_histogram(tidy: list[Any], panel: str, series: str, histogram: Mapping[str, Any]) -> None:
    edges = histogram["edges"]
    tidy.append((panel, series, "zero", 0.0, 0.0, histogram["zeros"]))
    tidy += [
        (panel, series, "", low, high, n)
        for low, high, n in zip(edges[:-1], edges[1:], histogram["counts"], strict=True)
    ]


def _fidelity_histograms(
    axis: Axes,
    summary: Mapping[str, Any],
    panel: str,
    texts: Mapping[str, str],
    histograms: Mapping[str, Mapping[str, Any]],
    merge: int,
    tidy: list[Any],
) -> None:
    """Histograms of the fidelities in one panel, named by their levels where there are several."""
    if len(texts) > 1:
        texts = {
            name: f"{textwrap.fill(_level(summary, name), HALF_WIDTH_LETTERS)}\n{text}" for name, text in texts.items()
        }
    _log_panel(axis, {name: (texts[name], histogram) for name, histogram in histograms.items()}, merge)
    for name, histogram in histograms.items():
        _tidy_histogram(tidy, panel, name, histogram)


def _range_panel(axis: Axes, summary: Mapping[str, Any], names: Sequence[str], tidy: list[Any]) -> None:
    entries = {name: summary["fidelities"][name]["group_energy_range"] for name in names}
    texts = {name: f"median {_energy(entry['median_ev'])}" for name, entry in entries.items()}
    histograms = {name: entry["histogram"] for name, entry in entries.items()}
    _fidelity_histograms(axis, summary, "energy range", texts, histograms, 1, tidy)
    axis.set_title("energy range of a group")
    axis.set_xlabel("highest − lowest energy (eV)")
    axis.set_ylabel("groups per bin")


def _force_panel(axis: Axes, summary: Mapping[str, Any], names: Sequence[str], tidy: list[Any]) -> None:
    entries = {name: summary["fidelities"][name]["forces"] for name in names}
    texts = {
        name: f"rms {entry['rms_ev_per_angstrom']:.3g}, max {_number(entry['max_ev_per_angstrom'], 'eV/Å')}"
        for name, entry in entries.items()
    }
    histograms = {name: entry["histogram"] for name, entry in entries.items()}
    _fidelity_histograms(axis, summary, "forces", texts, histograms, 2, tidy)
    axis.set_title("forces on atoms")
    axis.set_xlabel("norm of the force (eV/Å)")
    axis.set_ylabel("atoms per bin")


# --- overview -------------------------------------------------------------------------------------------------------


def _units(sources: Sequence[Mapping[str, Any]]) -> str:
    found = dict.fromkeys(", ".join(str(unit) for unit in (source.get("units") or {}).values()) for source in sources)
    return "; ".join(unit for unit in found if unit)


def _force_check(sources: Sequence[Mapping[str, Any]], fidelities: Mapping[str, Any]) -> tuple[str, float, float]:
    """Whether the forces were verified from the data, with the lowest correlation and the slope farthest from 1."""
    with_forces = [name for name, entry in fidelities.items() if entry.get("forces")]
    if not with_forces:
        return "no forces", np.nan, np.nan
    checks = [
        (name, check)
        for source in sources
        for name, check in (source.get("force_check") or {}).items()
        if name in with_forces and check.get("verdict") != "no forces"
    ]
    good = [check for _, check in checks if check.get("verdict") == "verified"]
    found = dict.fromkeys(str(check["reason"]) for _, check in checks if check.get("reason"))
    reason = next(iter(found), "too few similar geometries")
    if not good:
        return f"not verified: {reason}", np.nan, np.nan
    text = "yes"
    if len(good) < len(checks):
        # A file per source, and each level is checked in each file.
        text = f"yes, {len(good)} of {len(checks)} checks; the others: {reason}"
    if missing := [name for name in with_forces if name not in {name for name, _ in checks}]:
        text += f"; not checked: {', '.join(missing)}"
    slopes = [float(check["slope"]) for check in good]
    return text, min(float(check["correlation"]) for check in good), max(slopes, key=lambda slope: abs(slope - 1))


def overview(files: DataFiles, context: Context, dataset: str = "") -> tuple[pd.DataFrame, Mapping[str, str], str]:
    """All data sets: sizes, elements, levels, units, verified forces, licence and citation."""
    rows = []
    for (name,) in files.keys("summary"):
        summary = files.summary(name)
        sources = summary.get("sources") or []
        verified, correlation, slope = _force_check(sources, summary["fidelities"])
        rows.append(
            {
                "dataset": name,
                "title": summary.get("title"),
                "rows": summary["n_rows"],
                "groups": summary["n_groups"],
                "elements": ", ".join(_by_element(entry["element"] for entry in summary["elements"])),
                "atoms_min": summary["n_atoms"]["min"],
                "atoms_max": summary["n_atoms"]["max"],
                "levels": "; ".join(
                    f"{_level(summary, fidelity)} ({count(entry['rows'])})"
                    for fidelity, entry in summary["fidelities"].items()
                ),
                "units": _units(sources),
                "forces_verified": verified,
                "force_correlation": correlation,
                "force_slope": slope,
                "licence": summary.get("licence"),
                "citation": summary.get("citation"),
            }
        )
    if not rows:
        raise InputError("table of data sets: no summary was given; name a data set in config/data.yaml")
    headings = {
        "dataset": "Data set", "title": "Title", "rows": "Rows", "groups": "Groups", "elements": "Elements",
        "atoms_min": "Atoms: fewest", "atoms_max": "Atoms: most", "levels": "Level of theory (labeled rows)",
        "units": "Units in the file", "forces_verified": "Forces verified", "force_correlation": "Correlation",
        "force_slope": "Slope", "licence": "Licence", "citation": "Citation",
    }  # fmt: skip
    caption = (
        "Rows, groups and elements after the selection. Forces verified: energy differences of similar geometries "
        "against the work of the forces between them; lowest correlation and slope farthest from 1 of all files and "
        "fidelities (both 1 for forces of the right sign, unit and pairing)."
    )
    return pd.DataFrame(rows), headings, caption


# --- charged particles ----------------------------------------------------------------------------------------------


def particle_energies(
    positions: NDArray[np.float64],
    velocities: NDArray[np.float64],
    charges: NDArray[np.float64],
    settings: NBodySettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kinetic and Coulomb energy along a trajectory, in the simulation's units.

    A stored velocity is half a time step older than the position; half a kick brings it to the same time.

    Args:
        positions: shape (n_frames, 3, n_balls), in the simulation's units, as the velocities.
        velocities: shape (n_frames, 3, n_balls), in the simulation's units.
        charges: shape (n_balls,), dimensionless.
        settings: of the simulation.

    Returns:
        kinetic and potential energy, each of shape (n_frames,).
    """
    difference = positions[:, :, :, None] - positions[:, :, None, :]
    distance = np.sqrt((difference**2).sum(axis=1))
    product = settings.strength * charges[:, None] * charges[None, :]
    i, j = np.triu_indices(len(charges), 1)
    potential = (product[i, j] / distance[:, i, j]).sum(axis=1)
    distance[:, range(len(charges)), range(len(charges))] = np.inf
    force = ((product / distance**3)[:, None] * difference).sum(axis=3)
    kick = 0.5 * settings.time_step * np.clip(force, -settings.max_force, settings.max_force)
    return 0.5 * ((velocities + kick) ** 2).sum(axis=(1, 2)), potential


def nbody(files: DataFiles, context: Context, dataset: str = "", n: int = 3) -> tuple[Figure, pd.DataFrame]:
    """The first trajectories of charged particles: projection on the xy plane, and energies along time."""
    data = read_nbody(files.path("nbody"))
    settings, total = data.settings, len(data.trajectories)
    first = data.trajectories[: min(n, total)]
    colors = {1: OKABE_ITO["vermillion"], -1: OKABE_ITO["blue"]}
    tidy, spreads = [], []
    with style():
        figure, axes = plt.subplots(2, len(first), figsize=(FULL_WIDTH, 5.4), squeeze=False, height_ratios=[1.25, 1])
        for column in range(len(first)):
            x, v = np.array(first.positions[column]), np.array(first.velocities[column])
            charges = first.charges[column]
            time = settings.time_step * settings.save_every * np.arange(1, len(x) + 1)
            kinetic, potential = particle_energies(x, v, charges, settings)
            spreads.append(float(np.ptp(kinetic + potential) / kinetic.max()))
            axis = axes[0][column]
            for ball, charge in enumerate(charges):
                _draw_particle(axis, x[:, :2, ball], colors[1 if charge > 0 else -1], "+" if charge > 0 else "_")
            wall = settings.box
            axis.add_patch(
                Rectangle((-wall, -wall), 2 * wall, 2 * wall, fill=False, edgecolor=GREY, linestyle=":", linewidth=1)
            )
            _square(axis, x[:, :2])
            axis.set_title(f"trajectory {column + 1}")
            axis.set_xlabel("x")
            axis = axes[1][column]
            axis.plot(time, kinetic, color=OKABE_ITO["bluish green"], linestyle="--", label="kinetic")
            axis.plot(time, potential, color=OKABE_ITO["reddish purple"], linestyle=":", label="Coulomb")
            axis.plot(time, kinetic + potential, color="black", label="total")
            axis.set_xlabel("time")
            axis.set_xlim(0, time[-1] * 1.02)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            energy = {"kinetic": kinetic, "potential": potential, "total": kinetic + potential}
            for ball, charge in enumerate(charges):
                place = {name: x[:, k, ball] for k, name in enumerate("xyz")}
                place |= {f"v{name}": v[:, k, ball] for k, name in enumerate("xyz")}
                facts = {"trajectory": column, "particle": ball, "charge": charge, "time": time}
                tidy.append(pd.DataFrame({**facts, **place, **energy}))
        axes[0][0].set_ylabel("y")
        axes[1][0].set_ylabel("energy")
        handles: list[Any] = [
            Line2D([], [], marker="o", color=colors[1], markersize=6, label="charge +1"),
            Line2D([], [], marker="o", color=colors[-1], markersize=6, label="charge −1"),
            Line2D(
                [], [], marker="o", linestyle="", color=GREY, markerfacecolor="white", markersize=4, label="first frame"
            ),
        ]
        if any(np.abs([*axis.get_xlim(), *axis.get_ylim()]).max() > settings.box for axis in axes[0]):
            handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="wall"))
        handles += axes[1][0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper center", ncols=7, columnspacing=0.9, handlelength=1.4)
        panel_letters(axes.ravel())
        cut = [f"{column + 1}" for column, events in enumerate(first.clip_events) if events]
        clipped = f"; forces were cut in trajectory {', '.join(cut)}" if cut else ""
        footer(
            figure,
            f"{context.scale} scale · {count(len(first))} of n = {count(total)} trajectories, "
            f"{settings.n_frames} frames each, xy projection · units of the simulation\n"
            f"total energy varies by at most {100 * max(spreads):.2g} % of the largest kinetic energy{clipped}",
        )
    return figure, pd.concat(tidy, ignore_index=True)


def _draw_particle(axis: Axes, path: NDArray[np.float64], color: str, sign: str) -> None:
    """The way of a particle, (n_frames, 2): open where it starts, with its sign where it ends."""
    axis.plot(path[:, 0], path[:, 1], color=color, linewidth=1.1, alpha=0.8, zorder=2)
    axis.plot(*path[0], "o", color=color, markerfacecolor="white", markersize=4, zorder=3)
    axis.plot(*path[-1], "o", color=color, markersize=9, zorder=4)
    axis.plot(*path[-1], marker=sign, color="white", markersize=6, markeredgewidth=1.3, zorder=5)


def _square(axis: Axes, points: NDArray[np.float64]) -> None:
    """Equal scales and a square around all points, shape (frame, 2, particle)."""
    low, high = points.min(axis=(0, 2)), points.max(axis=(0, 2))
    half = 0.56 * max(float((high - low).max()), 1e-3)
    middle = (low + high) / 2
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half, middle[1] + half)
    axis.set_aspect("equal", adjustable="box")
    for target in (axis.xaxis, axis.yaxis):
        target.set_major_locator(MaxNLocator(5, integer=half > 2))


# --- making ---------------------------------------------------------------------------------------------------------

FIGURES: Mapping[str, FigureFunction] = {
    "funnel": funnel,
    "energies": energies,
    "composition": composition,
    "self-energies": self_energies,
    "nbody": nbody,
}
TABLES: Mapping[str, TableFunction] = {
    "funnel": funnel_table,
    "self-energies": self_energy_table,
    "table3.1": table31,
    "splits": splits,
    "overview": overview,
}


def make_product(key: str, files: DataFiles, context: Context, output: PathLike, dataset: str = "") -> None:
    """Make one figure (png, svg, csv) or table (html, csv).

    Args:
        key: name in ``PRODUCTS``.
        files: what it is made from.
        context: the scale.
        output: path of the png or html file.
        dataset: the data set, where there is one product per data set.

    Raises:
        InputError: no such product, an input is missing or of another layout, or a data set is not named.
    """
    if key not in PRODUCTS:
        raise InputError(f"data product {key!r}: unknown; known: {', '.join(PRODUCTS)}")
    product = PRODUCTS[key]
    if product.per_dataset and not dataset:
        raise InputError(f"data product {key!r}: made for one data set; name it")
    if product.kind == "figure":
        figure, tidy = FIGURES[product.name](files, context, dataset)
        save_figure(figure, tidy, output)
        return
    frame, headings, caption = TABLES[product.name](files, context, dataset)
    write_html_table(
        frame,
        output,
        _page_title(product, context, dataset),
        _page_caption(product, caption, context),
        headings=headings,
    )


def _page_title(product: Product, context: Context, dataset: str) -> str:
    of = f": {dataset}" if dataset and product.per_dataset else ""
    return f"{product.title}{of} ({context.scale} scale)"


def _page_caption(product: Product, caption: str, context: Context) -> str:
    note = _scale_note(context)
    return " ".join(part for part in (caption, f"{note[0].upper()}{note[1:]}.") if part)
