"""What the figures and tables of So3krates on SPICE share: names of runs, cells, means over seeds, numbers as text.

A run is named ``<data>-<network>-<shift>-b<beta>[-l<layers>][-s<steps>][-n<training size>]``; a cell is such a run with
all its seeds. Energies are in eV and forces in eV/Å, conversions are made where a number is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import MIN_SEEDS, half_width
from mlip_studies.errors import InputError
from mlip_studies.plotting.style import OKABE_ITO, footer
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies.context import StudyContext
from mlip_studies.units import EV_TO_MEV

THIN = "\u202f"
MINUS = "−"
NETWORK = "so3krates"
DEFAULT_LAYERS = 3  # of the published code; the names of such runs say nothing about layers
STUDY_FILE = "config/studies/pavlovic.yaml"

DATA_NAMES = {"formation": "formation energy", "total": "total energy", "cleaned": "formation energy, cleaned set"}
SHIFT_NAMES = {
    "mean_padded": "mean, padded",
    "mean": "mean",
    "none": "none",
    "per_element": "per element",
}
SHIFT_STYLE = {
    "mean_padded": (OKABE_ITO["vermillion"], "o"),
    "mean": (OKABE_ITO["reddish purple"], "D"),
    "none": (OKABE_ITO["blue"], "s"),
    "per_element": (OKABE_ITO["bluish green"], "^"),
}
SHIFT_ORDER = ("mean_padded", "mean", "none", "per_element")
DATA_ORDER = ("formation", "total", "cleaned")


@dataclass(frozen=True)
class Cell:
    """One run of the study, taken apart.

    Attributes:
        run: its name.
        data: formation, total, cleaned, ethanol, ...
        network: name of the network.
        shift: none, mean, mean_padded or per_element.
        beta: weight of the forces in the loss.
        layers: number of layers, None if the network's default.
        size: training molecules, None if the study's.
        steps: training steps, None if the study's.
    """

    run: str
    data: str
    network: str
    shift: str
    beta: float
    layers: int | None = None
    size: int | None = None
    steps: int | None = None

    @cached_property
    def n_layers(self) -> int:
        """Layers, the default filled in."""
        return DEFAULT_LAYERS if self.layers is None else self.layers

    @property
    def plain(self) -> bool:
        """Whether layers, steps and training size are the study's."""
        return self.layers is None and self.size is None and self.steps is None

    @property
    def order(self) -> tuple[int, int, float, int, int]:
        """Key that sorts cells as the figures show them."""
        data = DATA_ORDER.index(self.data) if self.data in DATA_ORDER else len(DATA_ORDER)
        shift = SHIFT_ORDER.index(self.shift) if self.shift in SHIFT_ORDER else len(SHIFT_ORDER)
        return data, shift, self.beta, self.n_layers, self.size or 0


def parse_run(run: str) -> Cell | None:
    """The cell of a run's name; None for a name of another form or without β."""
    name = parse_run_name(run)
    if name is None or name.beta is None:
        return None
    return Cell(run, name.data, name.network, name.shift, name.beta, name.n_layers, name.train_size, name.max_steps)


def spice_cells(tables: RunTables, kind: str = "runs") -> list[Cell]:
    """Cells of So3krates on SPICE with a table of this kind, in the order of the figures."""
    cells = (parse_run(run) for run in tables.names(kind))
    chosen = [cell for cell in cells if cell and cell.network == NETWORK and cell.data in DATA_ORDER]
    return sorted(chosen, key=lambda cell: cell.order)


def need(tables: RunTables, kind: str, run: str, what: str) -> pd.DataFrame:
    """One table of one run without which a product cannot be made.

    Args:
        tables: results.
        kind: kind of table.
        run: name of the run.
        what: name of the product.

    Raises:
        InputError: the run was not asked for.
    """
    if run not in tables.names(kind):
        raise InputError(f"{what}: the {kind} table of run '{run}' is missing; add the run to {STUDY_FILE}")
    return tables.get(kind, run)


def need_cells(cells: Sequence[Cell], what: str, which: str) -> Sequence[Cell]:
    """The cells, if there are any.

    Raises:
        InputError: there are none.
    """
    if not cells:
        raise InputError(f"{what}: none of its runs was trained ({which}); add one of them to {STUDY_FILE}")
    return cells


def stated(context: StudyContext, claim_id: str) -> float:
    """The single number of a claim, in its unit.

    Args:
        context: holds the claims.
        claim_id: id in the claim file.
    """
    return next(iter(context.paper(claim_id).values()))


# --- means over seeds and numbers as text ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """A quantity over seeds.

    Attributes:
        value: mean; NaN where nothing was measured.
        half: 95 % half width (Student t); NaN below three seeds.
        n: seeds with a value.
        values: the seeds' values.
    """

    value: float
    half: float
    n: int
    values: tuple[float, ...]

    def text(self, digits: int = 3, factor: float = 1.0) -> str:
        """Mean, with ± and the half width where there is one."""
        if np.isfinite(self.half) and self.half > 1e-9 * abs(self.value):
            return f"{number(factor * self.value, digits)} ± {number(factor * self.half, 2)}"
        return number(factor * self.value, digits)

    @property
    def bar(self) -> float | None:
        """Length of the error bar; None where there is none."""
        return self.half if np.isfinite(self.half) else None


def over_seeds(frame: pd.DataFrame, column: str) -> Mean:
    """Mean and 95 % half width of one column of a table with one row per seed.

    Args:
        frame: the table; a column that is not there counts as not measured.
        column: name of the column.
    """
    values = frame[column].to_numpy(dtype=float) if column in frame else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size:
        return Mean(np.nan, np.nan, 0, ())
    width = half_width(values.tolist())
    return Mean(float(values.mean()), np.nan if width is None else width, values.size, tuple(values.tolist()))


def number(value: float, digits: int = 3) -> str:
    """A number of so many significant digits, without exponent below 10^6, thin spaces between thousands."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    exponent = int(np.floor(np.log10(abs(value))))
    if not -5 <= exponent < 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    rounded = round(value, digits - 1 - exponent)
    decimals = max(digits - 1 - int(np.floor(np.log10(abs(rounded)))), 0)  # 9.996 becomes 10.0
    return f"{rounded:,.{decimals}f}".replace(",", THIN).replace("-", MINUS)


def count(value: float) -> str:
    """A whole number with thin spaces."""
    return f"{int(value):,}".replace(",", THIN)


def small_energy(mean: Mean) -> str:
    """An energy with its unit, in meV where it is small."""
    if np.isfinite(mean.value) and 0 < abs(mean.value) < 0.1:
        return f"{mean.text(factor=EV_TO_MEV)} meV"
    return f"{mean.text()} eV"


def percent(share: float) -> str:
    """A share in percent; what is not zero is never written as 0 %."""
    return "0 %" if share == 0 else "< 0.001 %" if share < 1e-5 else f"{number(100 * share, 2)} %"


# --- axes and footers -----------------------------------------------------------------------------------------------


def thousands(axis: Axes, which: str = "y") -> None:
    """Tick labels with thin spaces between thousands and a real minus."""
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def tick(value: float) -> str:
    """Label of a tick."""
    text = count(value) if abs(value) >= 1000 else f"{value:g}"
    return text.replace("-", MINUS)


def plain_log(axis: Axes, which: str = "y", room: float = 1.5) -> None:
    """Logarithmic axis with plain numbers, between the decades too where there are few.

    Args:
        axis: where; its data limits must be set.
        which: "x" or "y".
        room: factor added at both ends.
    """
    target = axis.xaxis if which == "x" else axis.yaxis
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    low, high = low / room, high * room
    (axis.set_xlim if which == "x" else axis.set_ylim)(low, high)
    decades = np.log10(high / low)
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 0.8 else (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    if decades > 6:
        target.set_major_locator(LogLocator(base=10, numticks=6))
    else:
        ticks = [step * 10.0**exponent for exponent in range(-9, 10) for step in steps]
        target.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    target.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    target.set_minor_locator(NullLocator())
    target.set_minor_formatter(NullFormatter())


def seeds_text(frames: Iterable[pd.DataFrame]) -> str:
    """How many seeds, and what that means for error bars."""
    counts = sorted({int(frame["seed"].nunique()) for frame in frames})
    low, high = counts[0], counts[-1]
    text = f"n = {low} seed{'s' if low > 1 else ''}" if low == high else f"n = {low} to {high} seeds"
    if high < MIN_SEEDS:
        return f"{text}, no error bars (fewer than {MIN_SEEDS})"
    return f"{text}, error bars and ±: 95 % (Student t)" + (f" from {MIN_SEEDS} seeds on" if low < MIN_SEEDS else "")


def sizes_text(frames: Iterable[pd.DataFrame]) -> str:
    """Training and test molecules."""
    parts = []
    frames = list(frames)
    for column, word in (("n_train", "training"), ("n_test", "test")):
        found = sorted({int(n) for frame in frames if column in frame for n in frame[column].dropna()})
        if found:
            span = count(found[0]) if len(found) == 1 else f"{count(found[0])} to {count(found[-1])}"
            parts.append(f"{span} {word}")
    return " and ".join(parts) + " molecules" if parts else ""


def note(
    figure: Figure, context: StudyContext, frames: Sequence[pd.DataFrame], *more: str, seeds: str | None = None
) -> None:
    """Scale, seeds and sizes below a figure; ``more`` are further sentences.

    Args:
        figure: where.
        context: gives the scale.
        frames: tables of runs whose seeds and sizes are told.
        more: further lines; empty ones are left out.
        seeds: text about seeds instead of the usual one.
    """
    scale = f"{context.scale} scale"
    if context.scale == "mini":
        scale += " (small data and budget: no reproduction of the thesis)"
    parts = [scale, seeds_text(frames) if seeds is None else seeds, sizes_text(frames)]
    footer(figure, "\n".join([" · ".join(part for part in parts if part), *(line for line in more if line)]))


def not_run(wanted: Iterable[str]) -> str:
    """One sentence on what is not drawn; empty if all is there."""
    missing = list(wanted)
    return f"Not run, so not drawn: {', '.join(missing)}." if missing else ""
