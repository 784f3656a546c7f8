"""One look for all figures: colour-blind-safe, at least 9 pt at print size, the same file for the same data."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's palette; yellow is left out because it is too faint on white.
OKABE_ITO: Mapping[str, str] = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "bluish green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "reddish purple": "#CC79A7",
}
GREY = "#666666"
FULL_WIDTH = 7.2  # inches; a page's text width
PAPER_LABEL = "thesis (text)"

RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same letters
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "figure.dpi": 100,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "mlip-studies",
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Use the project's style inside the block; figures made in it keep it."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, "backend": "Agg"}
    settings.update(RC)
    with plt.rc_context(settings):
        yield


def panel_letters(axes: Iterable[Axes]) -> None:
    """Write (a), (b), … in bold at the upper left corner of each panel, left of its title."""
    for letter, axis in zip(string.ascii_lowercase, axes, strict=False):
        axis.set_title(f"({letter})", loc="left", fontweight="bold")


def footer(figure: Figure, text: str) -> None:
    """State scale and n in small grey print below the figure, wrapped to its width."""
    width = int(14.5 * figure.get_figwidth())
    text = "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width))
    figure.supxlabel(text, fontsize=9, color=GREY, x=0.01, ha="left")


def paper_band(axis: Axes, low: float, high: float, orientation: str = "x", label: str = PAPER_LABEL) -> Artist:
    """Draw a range that the paper states: grey, hatched.

    Args:
        axis: where to draw.
        low: lower end, in the axis' unit.
        high: upper end.
        orientation: axis that carries the value, "x" or "y".
        label: legend entry; say here if the range belongs to another scale.
    """
    span = axis.axvspan if orientation == "x" else axis.axhspan
    return span(low, high, facecolor="#D9D9D9", edgecolor="#8C8C8C", hatch="////", linewidth=0, zorder=0.5, label=label)


def paper_line(axis: Axes, value: float, orientation: str = "x", label: str = PAPER_LABEL) -> Line2D:
    """Draw a single value that the paper states: dashed, grey.

    Args:
        axis: where to draw.
        value: in the axis' unit.
        orientation: axis that carries the value, "x" or "y".
        label: legend entry; say here if the value belongs to another scale.
    """
    line = axis.axvline if orientation == "x" else axis.axhline
    return line(value, color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, zorder=0.6, label=label)
