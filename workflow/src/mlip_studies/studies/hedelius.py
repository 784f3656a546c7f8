"""Figures and tables of the SE(3)-Transformer's trainings on ANI-1 and ANI-1x.

After B. E. Hedelius, "Learning inter-atomic forces with an SE(3)-Transformer" (2021), section 3.2: the first attempt on
total energies, the sweeps of energy weight and learning rate, the long run, energies only, wider and higher-order
networks, and the test on COMP6 that it leaves as a next step.

Every product has the form ``f(tables, context, output)`` and writes <output>.png, .svg and .csv (figures) or .html and
.csv (tables); what the thesis states is taken from the claim file by id. Runs are found by their group. Results are in
eV and eV/Å, figures in the thesis's kcal/mol and kcal/mol/Å. The thesis calls its numbers errors or losses without
saying which; they are compared with root mean square errors, per molecule and per force component, because its text
speaks of root-mean-squared energies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, panel_letters, paper_line, style
from mlip_studies.studies.context import RunInfo, StudyContext
from mlip_studies.studies.pavlovic_cells import (
    Mean,
    count,
    not_run,
    note,
    number,
    over_seeds,
    percent,
    plain_log,
    stated,
    tick,
)
from mlip_studies.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_KCAL_PER_MOL, KCAL_PER_MOL_TO_EV

__all__ = [
    "channels",
    "comp6",
    "comp6_table",
    "energy_only",
    "energy_weights",
    "first_attempt",
    "learning_rates",
    "long_run",
    "s66x8",
    "self_energies_effect",
    "sizes",
    "table3_1",
    "table3_2",
]

Drawn = tuple[Figure, pd.DataFrame]

STUDY_FILE = "config/studies/hedelius.yaml"
FIRST, WEIGHTS, RATES, LONG = "first", "weights", "rates", "long"
ENERGY_ONLY, GRADIENT = "energy_only", "gradient"
#: degree 3 has a group of its own because of its smaller batches
SIZES, CHANNELS = ("sizes", "sizes_higher"), ("channels", "channels_higher")
COMP6 = "comp6"
S66X8 = "s66x8"
THESIS = "thesis (text)"
KCAL, KCAL_A = "kcal/mol", "kcal/mol/Å"
#: parts of the data, from what was learnt on to what was never seen
PARTS: Mapping[str, str] = {"train": "training", "validation": "validation", "test": "test"}
DASHED: Any = (0, (4, 2))


@dataclass(frozen=True)
class Quantity:
    """An error that is drawn.

    Attributes:
        column: of the tables, without the part's prefix; eV or eV/Å.
        name: in words.
        unit: in figures.
        si: unit of the second axis.
    """

    column: str
    name: str
    unit: str
    si: str

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"{self.name} ({self.unit})"

    def part(self, part: str) -> str:
        """Column of a part of the data; runs.csv writes test errors without a prefix."""
        return self.column if part == "test" else f"{part}_{self.column}"


ENERGY = Quantity("energy_rmse_ev", "energy RMSE", KCAL, "eV")
FORCE = Quantity("force_rmse_ev_per_angstrom", "force RMSE", KCAL_A, "eV/Å")


@dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    color: str
    marker: str
    line: Any
    title: str


NETWORKS: Mapping[str, Look] = {
    "se3_basic": Look(OKABE_ITO["blue"], "o", "-", "basic"),
    "se3_wider": Look(OKABE_ITO["orange"], "s", DASHED, "wider"),
    "se3_higher_order": Look(OKABE_ITO["bluish green"], "^", (0, (5, 1, 1, 1)), "higher-order"),
    "se3_gradient": Look(OKABE_ITO["reddish purple"], "D", (0, (3, 1, 1, 1)), "basic, forces = −dE/dR"),
}
#: network -> claims of Table 3.2
TABLE32: Mapping[str, tuple[str, str]] = {
    "se3_basic": ("table32-basic-energy", "table32-basic-force"),
    "se3_wider": ("table32-wider-energy", "table32-wider-force"),
    "se3_higher_order": ("table32-higher-energy", "table32-higher-force"),
}
#: colours, markers and lines of the values of a sweep, in its order
SWEEP: Sequence[tuple[str, str, Any]] = (
    (OKABE_ITO["vermillion"], "o", "-"),
    (OKABE_ITO["orange"], "s", (0, (5, 1.5))),
    (OKABE_ITO["bluish green"], "^", (0, (3, 1, 1, 1))),
    (OKABE_ITO["sky blue"], "D", (0, (1, 1))),
    (OKABE_ITO["blue"], "v", "-"),
    (OKABE_ITO["reddish purple"], "P", "--"),
)
STAR: dict[str, Any] = {"marker": "*", "markersize": 12, "linestyle": "none", "markeredgecolor": "black", "zorder": 7}
CLIPPED, FREE = "clipped", "not clipped"
TOTAL_SUFFIX = "_total"
PER_HEAD, IN_ALL = "channels for each head", "channels in all, one head"


# --- runs and numbers -----------------------------------------------------------------------------------------------


def runs_of(tables: RunTables, context: StudyContext, *groups: str) -> list[RunInfo]:
    """Runs of these groups that have results, in the order of the configuration."""
    there = set(tables.names("runs"))
    return [run for run in context.runs.values() if set(groups) & set(run.groups) and run.name in there]


def need_runs(tables: RunTables, context: StudyContext, what: str, *groups: str) -> list[RunInfo]:
    """The runs of :func:`runs_of`, if there are any.

    Raises:
        InputError: there are none.
    """
    found = runs_of(tables, context, *groups)
    if not found:
        raise InputError(f"{what}: no run of group {' or '.join(groups)} was trained; add one to {STUDY_FILE}")
    return found


def _missing(tables: RunTables, context: StudyContext, *groups: str) -> str:
    there = set(tables.names("runs"))
    return not_run(run.name for run in context.runs.values() if set(groups) & set(run.groups) and run.name not in there)


def history_of(tables: RunTables, run: str) -> pd.DataFrame:
    """The learning curves of a run, all seeds.

    Raises:
        InputError: they are not there, or empty.
    """
    try:
        frame = tables.history(run)
    except MissingDataError:
        frame = pd.DataFrame()
    if frame.empty:
        raise InputError(f"{run}: no table of its training (history.csv); run the rule analyse_run again")
    return frame


def error_of(tables: RunTables, run: str, quantity: Quantity, part: str = "test") -> Mean:
    """An error of the trained network over its seeds, kcal/mol or kcal/mol/Å."""
    frame = tables.get("runs", run)
    column = quantity.part(part)
    scaled = frame.assign(value=frame[column] * EV_TO_KCAL_PER_MOL) if column in frame else frame
    return over_seeds(scaled, "value")


def weight_text(value: float) -> str:
    """A power of ten as such, any other number as it is."""
    exponent = np.log10(value) if value > 0 else np.nan
    if np.isfinite(exponent) and abs(exponent - round(exponent)) < 1e-9:
        return f"$10^{{{round(exponent)}}}$" if round(exponent) not in (0, 1) else f"{value:g}"
    return f"{value:g}"


def rate_of(run: RunInfo, tables: RunTables) -> float:
    """Base learning rate: of the name, else the largest of the training."""
    return run.learning_rate or float(history_of(tables, run.name)["learning_rate"].max())


def is_clipped(run: RunInfo) -> bool:
    """Whether the norm of the gradient was limited; a name without ``-c`` trains as the network's recipe, clipped."""
    return run.clip_norm is None or run.clip_norm > 0


def rate_drops(frame: pd.DataFrame, factor: float = 3.0) -> list[tuple[float, float]]:
    """Steps at which the learning rate fell by more than a factor, and the new rates.

    The step is in the middle between the evaluations before and after.

    Args:
        frame: history of one run; the first seed counts.
        factor: smaller changes are no drops.
    """
    one = frame[frame["seed"] == frame["seed"].min()].sort_values("step")
    steps, rates = one["step"].to_numpy(float), one["learning_rate"].to_numpy(float)
    at = np.flatnonzero(rates[1:] * factor < rates[:-1])
    return [(float(steps[i] + steps[i + 1]) / 2, float(rates[i + 1])) for i in at]


def _of_seeds(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values by step (index) and seed (columns), kcal/mol; finite and positive ones only."""
    if column not in frame:
        return pd.DataFrame()
    table = frame.pivot_table(index="step", columns="seed", values=column, aggfunc="last")
    return table.where(np.isfinite(table) & (table > 0)).dropna(how="all")


def _draw_curve(
    axis: Axes, frame: pd.DataFrame, column: str, color: str, line: Any, factor: float = 1.0, width: float = 1.6
) -> list[dict[str, Any]]:
    """One learning curve: the mean over seeds, and thin lines of seeds where there are several; returns the numbers."""
    table = _of_seeds(frame, column) * factor
    if table.empty:
        return []
    if table.shape[1] > 1:
        for seed in table:
            axis.plot(table.index, table[seed], color=color, linewidth=0.5, alpha=0.5, zorder=2)
    mean = table.mean(axis=1)
    axis.plot(table.index, mean, color=color, linestyle=line, linewidth=width, zorder=3)
    rows = []
    for seed, values in [*((str(seed), table[seed].dropna()) for seed in table), ("mean", mean)]:
        rows += [
            {"step": step, "seed": seed, "column": column, "value": value}
            for step, value in zip(values.index.tolist(), values.tolist(), strict=True)
        ]
    return rows


def _draw_error(
    axis: Axes, frame: pd.DataFrame, quantity: Quantity, color: str, line: Any, run: str, both: bool = True
) -> list[dict[str, Any]]:
    """Validation error as drawn, training error faint (it is a mean over the steps since the last evaluation)."""
    rows = []
    parts = [("validation", color, line, 1.6)]
    if both:
        parts.insert(0, ("train", color, (0, (1, 1.2)), 0.9))
    for part, shade, dash, width in parts:
        drawn = _draw_curve(axis, frame, quantity.part(part), shade, dash, EV_TO_KCAL_PER_MOL, width)
        rows += [{"run": run, "unit": quantity.unit, **row} for row in drawn]
    return rows


def _stated_row(claim: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    return {"run": "thesis", "claim": claim, "seed": "stated", "value": value, "unit": unit, **more}


# --- axes -----------------------------------------------------------------------------------------------------------


def _log_steps(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_xlabel("training step")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    low, high = axis.get_xlim()
    if np.log10(high / low) < 2.2:
        ticks = [s * 10.0**k for k in range(7) for s in (1, 2, 5) if low <= s * 10.0**k <= high]
        axis.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) < 6 else ticks[::2]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _second_axis(axis: Axes, quantity: Quantity) -> None:
    """Scale in eV or eV/Å on the right."""

    def to_ev(value: Any) -> Any:
        return value * KCAL_PER_MOL_TO_EV

    def to_kcal(value: Any) -> Any:
        return value * EV_TO_KCAL_PER_MOL

    second = axis.secondary_yaxis("right", functions=(to_ev, to_kcal))
    low, high = (limit * KCAL_PER_MOL_TO_EV for limit in axis.get_ylim())
    decades = np.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    second.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=8))
    second.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    second.yaxis.set_minor_locator(NullLocator())
    second.set_ylabel(quantity.si)


def _log_values(axis: Axes, values: Iterable[float]) -> None:
    """Logarithmic y axis around positive values, with some room at both ends."""
    there = np.array([value for value in values if np.isfinite(value) and value > 0])
    low, high = (there.min(), there.max()) if there.size else (0.1, 10.0)
    if high / low < 3:
        low, high = low / 1.7, high * 1.7
    axis.set_ylim(low, high)
    plain_log(axis, "y", max(1.3, (high / low) ** 0.07))


def _mark_drops(axis: Axes, drops: Sequence[tuple[float, float]]) -> None:
    """Dotted lines where the learning rate falls, with the new rates beside them, inside the axis."""
    for step, rate in drops:
        axis.axvline(step, color="#8C8C8C", linestyle=":", linewidth=1.2, zorder=0.7)
        axis.annotate(
            weight_text(rate), (step, 0.0), xycoords=("data", "axes fraction"), xytext=(-2, 3),
            textcoords="offset points", color=GREY, ha="right", va="bottom", fontsize=9,
        )  # fmt: skip


def _drop_handles(drops: Sequence[tuple[float, float]]) -> list[Line2D]:
    return [Line2D([], [], color="#8C8C8C", linestyle=":", linewidth=1.2, label="learning rate falls to …")] * bool(
        drops
    )


def _split_handles(color: str = "black") -> list[Line2D]:
    return [
        Line2D([], [], color=color, linewidth=1.6, label="validation"),
        Line2D([], [], color=color, linewidth=0.9, linestyle=(0, (1, 1.2)), label="training (mean since last point)"),
    ]


def _paper_handle(label: str) -> Line2D:
    return Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, label=label)


def _frames(tables: RunTables, runs: Iterable[RunInfo]) -> list[pd.DataFrame]:
    return [tables.get("runs", run.name) for run in runs]


def _steps_text(frames: Iterable[pd.DataFrame]) -> str:
    found = sorted({int(n) for frame in frames if "steps" in frame for n in frame["steps"].dropna()})
    if not found:
        return ""
    return f"{count(found[0])} steps" if len(found) == 1 else f"{count(found[0])} to {count(found[-1])} steps"


def _spread(tables: RunTables, run: str) -> float:
    """Standard deviation of the true test energies, kcal/mol; NaN where there is no table."""
    try:
        frame = tables.get("molecules", run)
    except MissingDataError:
        return np.nan
    frame = frame[frame["seed"] == frame["seed"].min()]
    return float(frame["energy_true_ev"].std(ddof=0)) * EV_TO_KCAL_PER_MOL


def _force_spread(tables: RunTables, run: str) -> float:
    """Root mean square of the true test force components from their histogram, kcal/mol/Å; NaN without a table."""
    try:
        frame = tables.get("forces", run)
    except MissingDataError:
        return np.nan
    if frame.empty or frame["count"].sum() == 0:
        return np.nan
    middle = 0.5 * (frame["true_low"] + frame["true_high"])
    return float(np.sqrt((frame["count"] * middle**2).sum() / frame["count"].sum())) * EV_TO_KCAL_PER_MOL


# --- figure 3.2: the first attempt ----------------------------------------------------------------------------------


def first_attempt(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Learning curves on total energies weighted by 1e-5, with two drops of the learning rate (figure 3.2).

    Args:
        tables: results of the group ``first``: runs, history, molecules and forces.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, no history, or a claim is missing.
    """
    save_figure(*first_attempt_figure(tables, context), output)


def first_attempt_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`first_attempt`, and its numbers."""
    run = need_runs(tables, context, "fig3-2-first-attempt", FIRST)[0]
    frame = history_of(tables, run.name)
    spreads = {ENERGY: _spread(tables, run.name), FORCE: _force_spread(tables, run.name)}
    claims = {ENERGY: "first-energy-error", FORCE: "first-force-error"}
    tidy: list[dict[str, Any]] = []
    color = NETWORKS["se3_basic"].color
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.1))
        for axis, quantity in zip(axes, (ENERGY, FORCE), strict=True):
            rows = _draw_error(axis, frame, quantity, color, "-", run.name)
            value = stated(context, claims[quantity])
            paper_line(axis, value, "y")
            axis.axhline(spreads[quantity], color="black", linestyle=(0, (3, 1, 1, 1)), linewidth=1.2, zorder=1)
            tidy += [*rows, _stated_row(claims[quantity], value, quantity.unit)]
            tidy.append({"run": run.name, "column": "spread", "value": spreads[quantity], "unit": quantity.unit})
            _log_values(axis, [value, spreads[quantity], *(row["value"] for row in rows)])
            _log_steps(axis)
            _mark_drops(axis, rate_drops(frame))
            axis.set_ylabel(quantity.label)
            _second_axis(axis, quantity)
        panel_letters(axes)
        figure.legend(
            handles=[
                *_split_handles(color), _paper_handle(f"{THESIS}: {stated(context, 'first-energy-error'):g} {KCAL}, "
                                                     f"{stated(context, 'first-force-error'):g} {KCAL_A}"),
                Line2D([], [], color="black", linestyle=(0, (3, 1, 1, 1)), linewidth=1.2,
                       label="spread of the labels (a constant; no force)"),
                *_drop_handles(rate_drops(frame)),
            ],
            loc="outside upper center", ncols=2, columnspacing=1.4,
        )  # fmt: skip
        energy, force = (error_of(tables, run.name, quantity) for quantity in (ENERGY, FORCE))
        note(
            figure, context, _frames(tables, [run]),
            f"Total energies, energy weight {weight_text(run.energy_weight or 1e-5)}, "
            f"{_steps_text(_frames(tables, [run]))}. "
            f"Test: {energy.text()} {KCAL}, {force.text()} {KCAL_A}; RMSE, forces per component.",
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


# --- figure 3.3: energy weights -------------------------------------------------------------------------------------


def energy_weights(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Energy weights from 1e-2 to 1e-6 with and without clipping of the gradient (figure 3.3 and its hypothesis).

    Curves, errors after training against the weight, how often the gradient was clipped and how large it was. The
    thesis supposes that clipping hides the weight: then the errors depend on it more where nothing is clipped.

    Args:
        tables: results of the group ``weights``: runs and history.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, or no history.
    """
    save_figure(*energy_weights_figure(tables, context), output)


def weight_range(tables: RunTables, runs: Iterable[RunInfo], quantity: Quantity) -> float:
    """Largest over smallest test error among runs (means over seeds); NaN with fewer than two."""
    values = [error_of(tables, run.name, quantity).value for run in runs]
    finite = [value for value in values if np.isfinite(value) and value > 0]
    return max(finite) / min(finite) if len(finite) > 1 else np.nan


def clipped_share(frame: pd.DataFrame) -> float:
    """Share of a training's windows of steps whose mean gradient norm was above the clipping norm.

    Intervals between evaluations count by their steps.
    """
    shares = []
    for _, one in frame.groupby("seed"):
        one = one.sort_values("step")
        length = np.diff(one["step"].to_numpy(float), prepend=0.0)
        values = one["clipped_share"].to_numpy(float)
        known = np.isfinite(values) & (length > 0)
        if known.any():
            shares.append(float(np.average(values[known], weights=length[known])))
    return float(np.mean(shares)) if shares else np.nan


def gradient_norm(frame: pd.DataFrame) -> float:
    """Mean norm of the gradient before clipping over the whole training; NaN where there is none."""
    means = []
    for _, one in frame.groupby("seed"):
        one = one.sort_values("step")
        length = np.diff(one["step"].to_numpy(float), prepend=0.0)
        values = one["grad_norm"].to_numpy(float) if "grad_norm" in one else np.full(len(one), np.nan)
        known = np.isfinite(values) & (length > 0)
        if known.any():
            means.append(float(np.average(values[known], weights=length[known])))
    return float(np.mean(means)) if means else np.nan


def energy_weights_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`energy_weights`, and its numbers."""
    runs = need_runs(tables, context, "fig3-3-energy-weights", WEIGHTS)
    weights = sorted({run.energy_weight for run in runs if run.energy_weight is not None}, reverse=True)
    kinds = {CLIPPED: [run for run in runs if is_clipped(run)], FREE: [run for run in runs if not is_clipped(run)]}
    looks = {weight: SWEEP[index % len(SWEEP)] for index, weight in enumerate(weights)}
    ends = {CLIPPED: (OKABE_ITO["blue"], "o", "-"), FREE: (OKABE_ITO["vermillion"], "s", DASHED)}
    histories = {run.name: history_of(tables, run.name) for run in runs}
    tidy: list[dict[str, Any]] = []
    with style():
        figure, axes = plt.subplots(4, 2, figsize=(FULL_WIDTH, 10.6))
        for column, quantity in enumerate((ENERGY, FORCE)):
            values: list[float] = []
            for row, (kind, members) in enumerate(kinds.items()):
                axis = axes[row, column]
                for run in members:
                    if run.energy_weight is None:
                        continue
                    color, _, line = looks[run.energy_weight]
                    drawn = _draw_error(axis, histories[run.name], quantity, color, line, run.name, both=False)
                    values += [entry["value"] for entry in drawn]
                    tidy += [{**entry, "clipping": kind, "energy_weight": run.energy_weight} for entry in drawn]
                axis.set_title(kind)
                axis.set_ylabel(
                    f"validation {quantity.label}".replace("validation energy", "val. energy").replace(
                        "validation force", "val. force"
                    )
                )
            for row, members in enumerate(kinds.values()):
                axis = axes[row, column]
                _log_values(axis, values)
                if members:
                    _log_steps(axis)
                    _mark_drops(axis, rate_drops(histories[members[0].name]))
                _second_axis(axis, quantity)
            axis = axes[2, column]
            values = []
            for kind, members in kinds.items():
                color, marker, line = ends[kind]
                rows = [(run.energy_weight, run, error_of(tables, run.name, quantity)) for run in members]
                rows = sorted((row for row in rows if row[0] and row[2].n), key=lambda row: row[0] or 0.0)
                axis.errorbar(
                    [row[0] for row in rows], [row[2].value for row in rows],
                    yerr=[np.nan_to_num(row[2].half) for row in rows], color=color, marker=marker, linestyle=line,
                    capsize=2.5, label=kind,
                )  # fmt: skip
                values += [row[2].value for row in rows]
                tidy += [
                    {"run": run.name, "clipping": kind, "energy_weight": weight, "column": quantity.column,
                     "seed": "mean", "value": mean.value, "half_width_95": mean.half, "n": mean.n,
                     "unit": quantity.unit}
                    for weight, run, mean in rows
                ]  # fmt: skip
            _log_values(axis, values)
            _second_axis(axis, quantity)
            axis.set_ylabel(f"test {quantity.label}")
        shares = {run.name: clipped_share(histories[run.name]) for run in runs}
        norms = {run.name: gradient_norm(histories[run.name]) for run in runs}
        for kind, members in kinds.items():
            color, marker, line = ends[kind]
            chosen = sorted((run for run in members if run.energy_weight), key=lambda run: run.energy_weight or 0.0)
            at = [run.energy_weight for run in chosen]
            if kind == CLIPPED:
                axes[3, 0].plot(at, [100 * shares[run.name] for run in chosen], color=color, marker=marker, label=kind)
            axes[3, 1].plot(
                at, [norms[run.name] for run in chosen], color=color, marker=marker, linestyle=line, label=kind
            )
            tidy += [
                {"run": run.name, "clipping": kind, "energy_weight": run.energy_weight, "column": "clipped_share",
                 "value": shares[run.name], "unit": "1"} for run in chosen
            ]  # fmt: skip
            tidy += [
                {"run": run.name, "clipping": kind, "energy_weight": run.energy_weight, "column": "grad_norm",
                 "value": norms[run.name], "unit": "loss"} for run in chosen
            ]  # fmt: skip
        axes[3, 0].set_ylim(-4, 104)
        axes[3, 0].set_ylabel("clipped windows of steps (%)")
        axes[3, 1].set_ylabel("mean gradient norm")
        limit = next((run.clip_norm for run in kinds[CLIPPED] if run.clip_norm), None)
        _log_values(axes[3, 1], [*norms.values(), *([] if limit is None else [limit])])
        if limit is not None:
            axes[3, 1].axhline(limit, color="black", linestyle=(0, (3, 1, 1, 1)), linewidth=1.2)
            axes[3, 1].annotate("clipping norm", (0.98, limit), xycoords=("axes fraction", "data"), xytext=(0, 3),
                                textcoords="offset points", ha="right", color="black")  # fmt: skip
        for axis in (*axes[2], *axes[3]):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(weights))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: weight_text(value)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel("energy weight $W_e$")
        panel_letters(axes.ravel())
        handles = [
            Line2D([], [], color=looks[w][0], linestyle=looks[w][2], label=f"$W_e$ = {weight_text(w)}") for w in weights
        ]
        handles += [
            Line2D([], [], color=color, marker=marker, linestyle=line, label=kind)
            for kind, (color, marker, line) in ends.items()
        ]
        handles += _drop_handles([drop for frame in histories.values() for drop in rate_drops(frame)])
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.4)
        note(
            figure, context, _frames(tables, runs), _weights_text(tables, kinds, shares),
            "Thesis: forces depend on the weight more than energies (figure 3.3, curves only), supposedly because of "
            "the clipping. A window of steps counts as clipped if its mean norm is above the limit.",
            _missing(tables, context, WEIGHTS),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _weights_text(tables: RunTables, kinds: Mapping[str, Sequence[RunInfo]], shares: Mapping[str, float]) -> str:
    """What the runs say about the hypothesis, in numbers."""
    parts = []
    for kind, members in kinds.items():
        ranges = [weight_range(tables, members, quantity) for quantity in (ENERGY, FORCE)]
        if np.isfinite(ranges).any():
            parts.append(f"{kind} energies {number(ranges[0], 2)}, forces {number(ranges[1], 2)}")
    text = f"Largest over smallest test error among the weights: {'; '.join(parts)}." if parts else ""
    found = [shares[run.name] for run in kinds[CLIPPED] if np.isfinite(shares[run.name])]
    if found:
        low, high = percent(min(found)), percent(max(found))
        text += f" Clipped windows: {low if low == high else f'{low} to {high}'}."
    return text


# --- figures 3.4 and 3.5: learning rates and the long run -----------------------------------------------------------


def learning_rates(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Learning rates on energies less self energies, normalised (figure 3.4).

    Args:
        tables: results of the group ``rates``: runs and history.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, no history, or a claim is missing.
    """
    save_figure(*learning_rates_figure(tables, context), output)


def learning_rates_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`learning_rates`, and its numbers."""
    runs = need_runs(tables, context, "fig3-4-learning-rates", RATES)
    runs = sorted(runs, key=lambda run: -rate_of(run, tables))
    tidy: list[dict[str, Any]] = []
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(FULL_WIDTH, 6.6))
        loss, ends = axes[0]
        values: dict[Any, list[float]] = {axis: [] for axis in axes.ravel()}
        finals: dict[Quantity, list[tuple[float, Mean]]] = {ENERGY: [], FORCE: []}
        handles = []
        for index, run in enumerate(runs):
            color, _, line = SWEEP[index % len(SWEEP)]
            frame, rate = history_of(tables, run.name), rate_of(run, tables)
            handles.append(Line2D([], [], color=color, linestyle=line, label=f"rate {weight_text(rate)}"))
            for part, dash, width in (("train_loss", (0, (1, 1.2)), 0.9), ("validation_loss", line, 1.6)):
                rows = _draw_curve(loss, frame, part, color, dash, 1.0, width)
                tidy += [{"run": run.name, "learning_rate": rate, "unit": "normalised", **row} for row in rows]
                values[loss] += [row["value"] for row in rows]
            for axis, quantity in zip(axes[1], (ENERGY, FORCE), strict=True):
                rows = _draw_error(axis, frame, quantity, color, line, run.name)
                tidy += [{"learning_rate": rate, **row} for row in rows]
                values[axis] += [row["value"] for row in rows]
                finals[quantity].append((rate, error_of(tables, run.name, quantity)))
        looks = {ENERGY: (OKABE_ITO["black"], "o", "-"), FORCE: (OKABE_ITO["reddish purple"], "s", DASHED)}
        for quantity, claim in ((ENERGY, "long-energy"), (FORCE, "long-force")):
            color, marker, line = looks[quantity]
            points = sorted(finals[quantity], key=lambda point: point[0])
            ends.errorbar(
                [rate for rate, _ in points], [mean.value for _, mean in points],
                yerr=[np.nan_to_num(mean.half) for _, mean in points], color=color, marker=marker, linestyle=line,
                capsize=2.5, label=f"{quantity.name} ({quantity.unit})",
            )  # fmt: skip
            value = stated(context, claim)
            ends.plot(1e-3, value, color=color, **STAR)
            values[ends] += [value, *(mean.value for _, mean in points)]
            tidy += [
                {"run": "mean", "learning_rate": rate, "column": quantity.column, "seed": "mean", "value": mean.value,
                 "half_width_95": mean.half, "n": mean.n, "unit": quantity.unit} for rate, mean in points
            ]  # fmt: skip
            tidy.append(_stated_row(claim, value, quantity.unit, learning_rate=1e-3))
        for axis in axes.ravel():
            _log_values(axis, values[axis])
        for axis in (loss, *axes[1]):
            _log_steps(axis)
        ends.set_xscale("log")
        ends.xaxis.set_major_locator(FixedLocator([rate for rate, _ in finals[ENERGY]]))
        ends.xaxis.set_major_formatter(FuncFormatter(lambda value, _: weight_text(value)))
        ends.xaxis.set_minor_locator(NullLocator())
        ends.set_xlabel("learning rate")
        ends.set_ylabel("test RMSE")
        loss.set_ylabel("loss (normalised units)")
        for axis, quantity in zip(axes[1], (ENERGY, FORCE), strict=True):
            axis.set_ylabel(quantity.label)
            _second_axis(axis, quantity)
        panel_letters(axes.ravel())
        handles += _split_handles()
        steps = count(stated(context, "steps-long"))
        handles += [
            Line2D([], [], color=color, marker=marker, linestyle=line, label=f"test {quantity.label}")
            for quantity, (color, marker, line) in looks.items()
        ]
        handles.append(
            Line2D([], [], color="white", label=f"{THESIS}, rate {weight_text(1e-3)}, {steps} steps", **STAR)
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)
        frames = _frames(tables, runs)
        note(
            figure, context, frames,
            f"Energies less self energies, energies and forces divided by the energies' standard deviation; "
            f"{_steps_text(frames)}. RMSE, forces per component. Thesis: the largest rate had the lowest losses after "
            f"{count(stated(context, 'steps-rates'))} steps (figure 3.4, curves only).",
            _missing(tables, context, RATES),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def long_run(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """The best learning rate for longer (figure 3.5).

    Args:
        tables: results of the groups ``long`` and ``rates``: runs and history.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, no history, or a claim is missing.
    """
    save_figure(*long_run_figure(tables, context), output)


def long_run_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`long_run`, and its numbers."""
    run = need_runs(tables, context, "fig3-5-long-run", LONG)[0]
    frame = history_of(tables, run.name)
    shorter = [other for other in runs_of(tables, context, RATES) if other.learning_rate == run.learning_rate]
    tidy: list[dict[str, Any]] = []
    color = NETWORKS["se3_basic"].color
    claims = {ENERGY: "long-energy", FORCE: "long-force"}
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.2))
        for axis, quantity in zip(axes, (ENERGY, FORCE), strict=True):
            rows = _draw_error(axis, frame, quantity, color, "-", run.name)
            value = stated(context, claims[quantity])
            paper_line(axis, value, "y")
            end = error_of(tables, run.name, quantity)
            last = float(frame["step"].max())
            axis.plot(last, end.value, "D", color=OKABE_ITO["vermillion"], markersize=6, zorder=6, clip_on=False)
            points = [value, end.value]
            for other in shorter:
                mean = error_of(tables, other.name, quantity)
                step = float(history_of(tables, other.name)["step"].max())
                axis.plot(
                    step, mean.value, "s", color=OKABE_ITO["orange"], markeredgecolor="black", markersize=6, zorder=6
                )
                points.append(mean.value)
                tidy.append({"run": other.name, "step": int(step), "seed": "mean", "column": quantity.column,
                             "value": mean.value, "unit": quantity.unit})  # fmt: skip
            tidy += [*rows, _stated_row(claims[quantity], value, quantity.unit)]
            tidy.append({"run": run.name, "step": int(last), "seed": "mean", "column": quantity.column,
                         "value": end.value, "unit": quantity.unit})  # fmt: skip
            _log_values(axis, [*points, *(row["value"] for row in rows)])
            _log_steps(axis)
            axis.set_ylabel(quantity.label)
            _second_axis(axis, quantity)
        panel_letters(axes)
        handles = [
            *_split_handles(color),
            Line2D([], [], color=OKABE_ITO["vermillion"], marker="D", linestyle="none", label="test, at its end"),
        ]
        if shorter:
            handles.append(Line2D([], [], color=OKABE_ITO["orange"], marker="s", markeredgecolor="black",
                                  linestyle="none", label="test, shorter run of figure 3.4"))  # fmt: skip
        handles.append(_paper_handle(f"{THESIS}: {stated(context, 'long-energy'):g} {KCAL}, "
                                     f"{stated(context, 'long-force'):g} {KCAL_A}"))  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        frames = _frames(tables, [run])
        note(
            figure, context, frames,
            f"Learning rate {weight_text(rate_of(run, tables))}, {_steps_text(frames)} "
            f"(thesis: {count(stated(context, 'steps-long'))}). The thesis's numbers are its latest training losses. "
            "RMSE, forces per component.",
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


# --- figure 3.6: energies only --------------------------------------------------------------------------------------


def energy_only(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Energies of ANI-1 without forces (figure 3.6): learning curve, and training, validation and test errors.

    Args:
        tables: results of the group ``energy_only``: runs and history.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, no history, or a claim is missing.
    """
    save_figure(*energy_only_figure(tables, context), output)


def energy_only_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`energy_only`, and its numbers."""
    run = need_runs(tables, context, "fig3-6-energy-only", ENERGY_ONLY)[0]
    frame = history_of(tables, run.name)
    value = stated(context, "energy-only-error")
    color = NETWORKS["se3_basic"].color
    with style():
        figure, (curve, bars) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.0), gridspec_kw={"width_ratios": (1.7, 1)})
        tidy = _draw_error(curve, frame, ENERGY, color, "-", run.name)
        shown = [row["value"] for row in tidy]
        ends = {part: error_of(tables, run.name, ENERGY, part) for part in PARTS}
        looks = {"train": ("o", OKABE_ITO["blue"]), "validation": ("s", OKABE_ITO["orange"]),
                 "test": ("D", OKABE_ITO["vermillion"])}  # fmt: skip
        for index, (part, mean) in enumerate(ends.items()):
            if not mean.n:
                continue
            marker, shade = looks[part]
            bars.errorbar(index, mean.value, yerr=mean.bar, color=shade, marker=marker, markersize=8,
                          capsize=3, linestyle="none")  # fmt: skip
            bars.annotate(
                number(mean.value), (index, mean.value), xytext=(9, 0), textcoords="offset points", va="center"
            )
            tidy.append({"run": run.name, "seed": "mean", "column": ENERGY.part(part), "value": mean.value,
                         "half_width_95": mean.half, "n": mean.n, "unit": KCAL})  # fmt: skip
        tidy.append(_stated_row("energy-only-error", value, KCAL))
        for axis in (curve, bars):
            paper_line(axis, value, "y")
        _log_values(curve, [value, *shown])
        _log_values(bars, [value, *(mean.value for mean in ends.values())])
        _log_steps(curve)
        _mark_drops(curve, rate_drops(frame))
        curve.set_ylabel(ENERGY.label)
        bars.set_xlim(-0.5, len(PARTS) - 0.1)
        bars.xaxis.set_major_locator(FixedLocator(range(len(PARTS))))
        bars.xaxis.set_major_formatter(FuncFormatter(lambda at, _: ["training", "valid.", "test"][round(at)]))
        bars.set_ylabel(f"{ENERGY.name}, trained ({KCAL})")
        for axis in (curve, bars):
            _second_axis(axis, ENERGY)
        panel_letters((curve, bars))
        figure.legend(
            handles=[*_split_handles(color), _paper_handle(f"{THESIS}: {value:g} {KCAL}, latest training loss"),
                     *_drop_handles(rate_drops(frame))],
            loc="outside upper center", ncols=3, columnspacing=1.2,
        )  # fmt: skip
        frames = _frames(tables, [run])
        note(figure, context, frames, f"{run.data}, energies less self energies, no forces; {_steps_text(frames)}.")
    return figure, pd.DataFrame(tidy)


# --- figure 3.7 and Table 3.2: sizes and channels -------------------------------------------------------------------


def base_network(network: str) -> str:
    """Name of a network without what says how its channels are counted."""
    return network.removesuffix(TOTAL_SUFFIX)


def reading_of(network: str) -> str:
    """How "8 heads, 2 channels" is read in a network."""
    return IN_ALL if network.endswith(TOTAL_SUFFIX) else PER_HEAD


def _look(network: str) -> Look:
    return NETWORKS.get(base_network(network), Look(OKABE_ITO["black"], "x", "-", network))


def sizes(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Learning curves of the basic, the wider and the higher-order network (figure 3.7).

    Args:
        tables: results of the groups ``sizes*``: runs and history.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the group, no history, or a claim is missing.
    """
    save_figure(*sizes_figure(tables, context), output)


def sizes_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`sizes`, and its numbers."""
    runs = need_runs(tables, context, "fig3-7-sizes", *SIZES)
    tidy: list[dict[str, Any]] = []
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.3))
        for place, (axis, quantity) in enumerate(zip(axes, (ENERGY, FORCE), strict=True)):
            values: list[float] = []
            last = 1.0
            for run in runs:
                look = _look(run.network)
                frame = history_of(tables, run.name)
                rows = _draw_error(axis, frame, quantity, look.color, look.line, run.name)
                tidy += [{"network": run.network, **row} for row in rows]
                values += [row["value"] for row in rows]
                last = max(last, float(frame["step"].max()))
            for run in runs:
                claims = TABLE32.get(base_network(run.network))
                if claims is None:
                    continue
                value = stated(context, claims[place])
                # Beside each other at the end: two of the thesis's numbers are within 3 percent.
                at = last * (1.25 + 0.3 * list(TABLE32).index(base_network(run.network)))
                axis.plot(at, value, color=_look(run.network).color, **STAR)
                tidy.append(_stated_row(claims[place], value, quantity.unit, network=run.network))
                values.append(value)
            _log_values(axis, values)
            _log_steps(axis)
            axis.set_ylabel(quantity.label)
            _second_axis(axis, quantity)
        panel_letters(axes)
        handles = [
            Line2D([], [], color=_look(run.network).color, linestyle=_look(run.network).line,
                   label=_look(run.network).title) for run in runs
        ]  # fmt: skip
        handles += _split_handles()[1:]
        handles.append(Line2D([], [], color="white", label=f"{THESIS}, Table 3.2 (training errors)", **STAR))
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)
        frames = _frames(tables, runs)
        note(
            figure, context, frames,
            f"{_parameters_text(runs, frames)} {_steps_text(frames)} "
            f"(thesis: {count(stated(context, 'steps-long'))} for the basic network). RMSE, forces per component; "
            "stars stand at the right for space only.",
            _missing(tables, context, *SIZES),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _parameters_text(runs: Sequence[RunInfo], frames: Sequence[pd.DataFrame]) -> str:
    parts = [
        f"{_look(run.network).title} {count(frame['n_parameters'].iloc[0])}"
        for run, frame in zip(runs, frames, strict=True)
        if "n_parameters" in frame and len(frame)
    ]
    return f"Parameters: {', '.join(parts)}." if parts else ""


def published_parameters(tables: RunTables, network: str) -> float:
    """Parameters of the thesis's network by a reading of its channels; NaN where they are not known."""
    try:
        content = tables.network(network)
    except MissingDataError:
        return np.nan
    value = content.get("parameters_published")
    return np.nan if value is None else float(value)


def channels(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors against the number of parameters, for both readings of "8 heads × 2 channels".

    Args:
        tables: results of the groups ``sizes*`` and ``channels*``: runs; parameters of the networks, if they are there.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of the groups, or a claim is missing.
    """
    save_figure(*channels_figure(tables, context), output)


def channels_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`channels`, and its numbers."""
    runs = need_runs(tables, context, "channels", *SIZES, *CHANNELS)
    readings = {PER_HEAD: ("-", True), IN_ALL: (DASHED, False)}
    tidy: list[dict[str, Any]] = []
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.4))
        for place, (axis, quantity) in enumerate(zip(axes, (ENERGY, FORCE), strict=True)):
            values: list[float] = []
            for reading, (line, filled) in readings.items():
                chosen = [run for run in runs if reading_of(run.network) == reading]
                points = []
                for run in chosen:
                    frame = tables.get("runs", run.name)
                    parameters = over_seeds(frame, "n_parameters").value
                    for part in ("train", "test"):
                        mean = error_of(tables, run.name, quantity, part)
                        if not mean.n or not np.isfinite(parameters):
                            continue
                        tidy.append({"run": run.name, "network": base_network(run.network), "reading": reading,
                                     "parameters": parameters, "column": quantity.part(part), "value": mean.value,
                                     "half_width_95": mean.half, "n": mean.n, "unit": quantity.unit})  # fmt: skip
                        values.append(mean.value)
                        if part == "test":
                            points.append((parameters, mean.value))
                        look = _look(run.network)
                        axis.errorbar(
                            parameters, mean.value, yerr=mean.bar, color=look.color, capsize=2.5,
                            marker=look.marker if part == "test" else "x", linestyle="none", zorder=4,
                            markerfacecolor=look.color if filled else "white", markersize=7 if part == "test" else 6,
                        )  # fmt: skip
                points.sort()
                axis.plot(
                    *zip(*points, strict=True), color=GREY, linestyle=line, linewidth=1.0, zorder=2
                ) if points else None
            for network, claims in TABLE32.items():
                value = stated(context, claims[place])
                both = sorted(
                    count for count in (published_parameters(tables, network + suffix) for suffix in ("", TOTAL_SUFFIX))
                    if np.isfinite(count)
                )  # fmt: skip
                tidy.append(_stated_row(claims[place], value, quantity.unit, network=network,
                                        parameters=both[-1] if both else np.nan))  # fmt: skip
                values.append(value)
                color = NETWORKS[network].color
                if not both:
                    axis.axhline(value, color=color, linestyle=(0, (5, 3)), linewidth=1.3, zorder=0.6)
                    continue
                axis.plot([both[0], both[-1]], [value, value], color=color, linewidth=1.0, zorder=5)
                axis.plot(both, [value] * len(both), color=color, **STAR)
            _log_values(axis, values)
            axis.set_xscale("log")
            axis.set_xlabel("parameters")
            axis.set_ylabel(quantity.label)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
            _second_axis(axis, quantity)
        panel_letters(axes)
        handles = [
            Line2D([], [], color=NETWORKS[name].color, marker=NETWORKS[name].marker, linestyle="none",
                   label=NETWORKS[name].title) for name in TABLE32
        ]  # fmt: skip
        handles += [
            Line2D([], [], color=GREY, linestyle="-", marker="o", label=f"{PER_HEAD}, test"),
            Line2D([], [], color=GREY, linestyle=DASHED, marker="o", markerfacecolor="white", label=f"{IN_ALL}, test"),
            Line2D([], [], color=GREY, marker="x", linestyle="none", label="training"),
            Line2D([], [], color="white", label=f"{THESIS}, at both counts", **STAR),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0, handletextpad=0.6)
        frames = _frames(tables, runs)
        note(
            figure, context, frames,
            "The thesis gives no number of parameters: its training errors stand at the counts that both readings of "
            "“8 heads, 2 channels” give for its size, joined by a line. RMSE, forces per component.",
            _missing(tables, context, *SIZES, *CHANNELS),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


TABLE32_HEADINGS: Mapping[str, str] = {
    "network": "Network", "reading": "“8 heads, 2 channels” read as", "n_parameters": "Parameters",
    "full_parameters": "Parameters at the thesis's size", "thesis_energy": "Energy, thesis (training; kcal/mol)",
    "train_energy": "Energy RMSE, training", "validation_energy": "validation", "test_energy": "test (kcal/mol)",
    "test_energy_mae": "Energy MAE, test", "thesis_force": "Force, thesis (training; kcal/mol/Å)",
    "train_force": "Force RMSE, training", "validation_force": "validation", "test_force": "test (kcal/mol/Å)",
    "test_force_mae": "Force MAE, test", "test_force_vector": "Force RMSE per atom, test", "steps": "Steps",
    "n_train": "Training molecules", "seeds": "Seeds",
}  # fmt: skip


def table32_frame(tables: RunTables, context: StudyContext) -> pd.DataFrame:
    """Rows of :func:`table3_2`: errors in kcal/mol and kcal/mol/Å, means over seeds."""
    rows = []
    for run in need_runs(tables, context, "table3-2", *SIZES, LONG, *CHANNELS, GRADIENT):
        frame = tables.get("runs", run.name)
        claims = TABLE32.get(base_network(run.network))
        row: dict[str, Any] = {
            "network": _look(run.network).title + (", long run" if LONG in run.groups else ""),
            "reading": reading_of(run.network),
            "n_parameters": _whole(frame, "n_parameters"), "full_parameters": published_parameters(tables, run.network),
            "thesis_energy": stated(context, claims[0]) if claims else np.nan,
        }  # fmt: skip
        for quantity, word in ((ENERGY, "energy"), (FORCE, "force")):
            if quantity is FORCE:
                row["thesis_force"] = stated(context, claims[1]) if claims else np.nan
            for part in PARTS:
                row[f"{part}_{word}"] = error_of(tables, run.name, quantity, part).value
            mae = Quantity(quantity.column.replace("rmse", "mae"), "", "", "")
            row[f"test_{word}_mae"] = error_of(tables, run.name, mae).value
        # Eq. 3.2 sums squares over the components of an atom, so that its root is larger by √3.
        row["test_force_vector"] = row["test_force"] * np.sqrt(3.0)
        row |= {"steps": _whole(frame, "steps"), "n_train": _whole(frame, "n_train"), "seeds": len(frame)}
        rows.append(row)
    return pd.DataFrame(rows)[list(TABLE32_HEADINGS)]


def _whole(frame: pd.DataFrame, column: str) -> int | None:
    mean = over_seeds(frame, column).value
    return round(mean) if np.isfinite(mean) else None


def _caption_scale(context: StudyContext) -> str:
    return (
        "mini scale: small data and budget, no reproduction of the thesis."
        if context.scale == "mini"
        else f"{context.scale} scale."
    )


def table3_2(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Table 3.2 with training, validation and test errors, for both readings of the channels.

    Args:
        tables: results of the groups ``sizes*``, ``long``, ``channels*`` and ``gradient``: runs;
            parameters of the networks, if they are there.
        context: scale, claims and runs of the study.
        output: path of the HTML file.

    Raises:
        InputError: no run of the groups, or a claim is missing.
    """
    frame = table32_frame(tables, context)
    write_html_table(
        frame,
        output,
        "Table 3.2: networks of different sizes",
        f"Errors of the trained networks, means over seeds; {_caption_scale(context)}",
        headings=TABLE32_HEADINGS,
        after={
            "How to read it": [
                "The thesis's numbers are the latest errors on training data: it compares them with no other rows. "
                "Compare them with the column of training errors. Its basic network is that of the long run.",
                "The thesis calls them errors or losses; here they stand beside root mean square errors. Force RMSE "
                "is per component; per atom it is larger by √3, as in eq. 3.2.",
                "Both readings of “8 heads, 2 channels”: two channels for each of eight heads, or two in all, "
                "which one head then has to itself. The last network of the list takes forces from the energy.",
            ]
        },
    )


# --- self energies --------------------------------------------------------------------------------------------------


def self_energies_effect(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """What subtracting self energies does to the energies and to what is learnt (figure 3.2 against 3.4, Table 3.1).

    Args:
        tables: results of the groups ``first`` and ``rates``: runs, history and molecules; table31.csv.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: no run of one of the groups, no history, or a claim is missing.
    """
    save_figure(*self_energies_effect_figure(tables, context), output)


def _normalised(tables: RunTables, context: StudyContext, what: str) -> RunInfo:
    """The run on energies less self energies with the largest learning rate."""
    runs = [run for run in need_runs(tables, context, what, RATES) if run.shift != "none"]
    if not runs:
        raise InputError(f"{what}: no run of group {RATES} subtracts self energies; change its shift in {STUDY_FILE}")
    return max(runs, key=lambda run: rate_of(run, tables))


def self_energies_effect_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`self_energies_effect`, and its numbers."""
    what = "self-energies-effect"
    without = need_runs(tables, context, what, FIRST)[0]
    with_them = _normalised(tables, context, what)
    spreads = {without.name: _spread(tables, without.name), with_them.name: _scale(tables, with_them.name)}
    looks = {without.name: (OKABE_ITO["vermillion"], "s", DASHED, "total energies"),
             with_them.name: (OKABE_ITO["blue"], "o", "-", "less self energies")}  # fmt: skip
    thesis_spread = {without.name: "table31-ani1x-std", with_them.name: "table31-ani1x-without-std"}
    thesis_error = {without.name: "first-energy-error", with_them.name: "long-energy"}
    tidy: list[dict[str, Any]] = []
    with style():
        figure, (curve, ends) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.4))
        values: list[float] = []
        bars: list[float] = []
        for run in (without, with_them):
            color, marker, line, _ = looks[run.name]
            rows = _draw_error(curve, history_of(tables, run.name), ENERGY, color, line, run.name)
            tidy += rows
            values += [row["value"] for row in rows]
            error = error_of(tables, run.name, ENERGY)
            stated_points = (
                stated(context, thesis_spread[run.name]) * HARTREE_TO_KCAL_PER_MOL,
                stated(context, thesis_error[run.name]),
            )
            ends.plot(
                [0, 1], [spreads[run.name], error.value], color=color, marker=marker, linestyle=line, markersize=7
            )
            ends.plot([0, 1], stated_points, color=color, **{**STAR, "linestyle": ":"})
            bars += [spreads[run.name], error.value, *stated_points]
            tidy += [
                {"run": run.name, "column": "spread", "value": spreads[run.name], "unit": KCAL},
                {"run": run.name, "column": ENERGY.column, "value": error.value, "unit": KCAL, "seed": "mean"},
                _stated_row(thesis_spread[run.name], stated_points[0], KCAL, column="spread"),
                _stated_row(thesis_error[run.name], stated_points[1], KCAL, column=ENERGY.column),
            ]
        stated_first = stated(context, "first-energy-error")
        paper_line(curve, stated_first, "y")
        _log_values(curve, [stated_first, *values])
        _log_steps(curve)
        curve.set_ylabel(ENERGY.label)
        _log_values(ends, bars)
        ends.set_xlim(-0.3, 1.3)
        ends.xaxis.set_major_locator(FixedLocator([0, 1]))
        ends.xaxis.set_major_formatter(
            FuncFormatter(lambda at, _: ["spread of\nthe energies", "test RMSE of\nthe network"][round(at)])
        )
        ends.set_ylabel(f"energy ({KCAL})")
        for axis in (curve, ends):
            _second_axis(axis, ENERGY)
        panel_letters((curve, ends))
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle=line, label=title)
            for color, marker, line, title in looks.values()
        ]
        handles += [
            _split_handles()[1], _paper_handle(f"{THESIS}: {stated_first:g} {KCAL} on total energies"),
            Line2D([], [], color="white", label=f"{THESIS}, ANI-1x (Table 3.1, figures 3.2 and 3.5)", **STAR),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.2)
        parts = []
        for run in (without, with_them):
            share = error_of(tables, run.name, ENERGY).value / spreads[run.name]
            parts.append(f"{looks[run.name][3]}: {percent(share)}")
        frames = _frames(tables, (without, with_them))
        note(
            figure, context, frames,
            f"Error as a share of the spread that was to be learnt: {'; '.join(parts)}. Spread: standard deviation, of "
            f"the test molecules (total) and of the training molecules (less self energies). Energy weights "
            f"{weight_text(without.energy_weight or 1e-5)} and {weight_text(with_them.energy_weight or 1.0)}.",
            _reduction_text(tables),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _scale(tables: RunTables, run: str) -> float:
    """Standard deviation of the training energies after the shift, kcal/mol: what they were divided by."""
    return over_seeds(tables.get("runs", run), "scale_ev").value * EV_TO_KCAL_PER_MOL


def _reduction_text(tables: RunTables) -> str:
    try:
        frame = table31_rows(tables)
    except MissingDataError:
        return ""
    parts = [
        f"{row['dataset']} {number(row['reduction_percent'], 4)} %"
        for _, row in frame[frame["energies"] == "less linear fit, ours"].iterrows()
    ]
    return f"Less of the standard deviation after a linear fit of self energies: {', '.join(parts)}." if parts else ""


_TABLE31_CLAIMS: Mapping[str, str] = {
    "ANI1": "table31-ani1", "ANI1 w/o SI": "table31-ani1-without",
    "ANI1x": "table31-ani1x", "ANI1x w/o SI": "table31-ani1x-without",
}  # fmt: skip


def table31_rows(tables: RunTables) -> pd.DataFrame:
    """Table 3.1 of our data, with the share of the standard deviation that self energies take away.

    Raises:
        MissingDataError: table31.csv was not asked for.
    """
    frame = tables.table31()
    whole = frame[frame["self_energies"] == "none"].set_index("dataset")["std_hartree"]
    frame["reduction_percent"] = [
        100 * (1 - std / whole[name]) if kind != "none" and name in whole.index else np.nan
        for name, kind, std in zip(frame["dataset"], frame["self_energies"], frame["std_hartree"], strict=True)
    ]
    return frame


def table3_1(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Table 3.1: mean and standard deviation of the energies with and without self energies, the thesis's beside ours.

    Args:
        tables: table31.csv.
        context: scale and claims of the study.
        output: path of the HTML file.

    Raises:
        InputError: the table was not made, or a claim is missing.
    """
    try:
        frame = table31_rows(tables)
    except MissingDataError:
        raise InputError("table3-1: table31.csv is missing; make the target of the data's Table 3.1 first") from None
    claims = [_TABLE31_CLAIMS.get(str(label)) for label in frame["paper_label"]]
    for column in ("mean", "std"):
        frame[f"thesis_{column}"] = [stated(context, f"{claim}-{column}") if claim else np.nan for claim in claims]
    thesis = {claim: value for claim, value in zip(claims, frame["thesis_std"], strict=True) if claim}
    frame["thesis_reduction"] = [
        100 * (1 - value / thesis[claim.removesuffix("-without")])
        if claim and claim.endswith("-without") and claim.removesuffix("-without") in thesis
        else np.nan
        for claim, value in zip(claims, frame["thesis_std"], strict=True)
    ]
    headings = {
        "row": "Data set", "energies": "Energies", "thesis_mean": "Mean, thesis (Ha)",
        "mean_hartree": "Mean, ours (Ha)",
        "thesis_std": "Std, thesis (Ha)", "std_hartree": "Std, ours (Ha)",
        "thesis_reduction": "Std reduced by, thesis (%)", "reduction_percent": "Std reduced by, ours (%)",
        "n_rows": "Rows, ours", "dataset": "Ours from", "self_energies": "Self energies",
    }  # fmt: skip
    write_html_table(
        frame[list(headings)],
        output,
        "Table 3.1: energies with and without self energies",
        "Total energies as they are and less self energies of several sources; "
        + ("mini scale: other, smaller molecules, so that means and spreads are not the thesis's."
           if context.scale == "mini" else f"{context.scale} scale."),
        headings=headings,
        after={
            "How to read it": [
                "The thesis does not say which self energies it subtracted. Means near zero need fitted ones: energies "
                "less those of isolated atoms are atomization energies, which are below zero for bound molecules.",
                "Each of our rows with self energies stands beside the one number that the thesis states.",
            ]
        },
    )  # fmt: skip


# --- COMP6 ----------------------------------------------------------------------------------------------------------

RANDOM_TEST = "random test rows"
#: quantity -> column per molecule of a transfer test, name, unit
COMP6_QUANTITIES: Mapping[str, tuple[str, str, str]] = {
    "energy": ("energy_error_ev", "energy RMSE", KCAL),
    "relative": ("relative_energy_error_ev", "relative energy RMSE", KCAL),
    "force": ("force_rmse_ev_per_angstrom", "force RMSE", KCAL_A),
}


def _rms(values: pd.Series, weights: pd.Series | None = None) -> float:
    """Root of the (weighted) mean square of the finite values; NaN if there are none."""
    finite = np.isfinite(values.to_numpy(float))
    if not finite.any():
        return np.nan
    squares = np.square(values.to_numpy(float)[finite])
    return float(np.sqrt(np.average(squares, weights=None if weights is None else weights.to_numpy(float)[finite])))


def comp6_frame(tables: RunTables, context: StudyContext, test: str = COMP6) -> pd.DataFrame:
    """Errors by network, part of the test set and seed, kcal/mol and kcal/mol/Å, beside those on the random test rows.

    Columns: run, network, subset, seed, n, n_groups, n_atoms (mean), ``energy``, ``relative``, ``force`` (RMSE, per
    component of the forces), ``energy_per_atom``. The relative energy takes conformations with others of their
    molecule only: the error of a single one is zero by definition.

    Raises:
        InputError: the test was made with no run of the study.
    """
    runs = [run for name, run in tables.transfer_tests() if name == test]
    if not runs:
        raise InputError(f"{test}: tested with no run; add one to {STUDY_FILE}")
    rows = []
    for run in runs:
        info = context.runs.get(run)
        network = info.network if info is not None else run
        frame = tables.transfer(test, run)
        for keys, part in frame.groupby(["seed", "subset"], sort=False):
            seed, subset = keys
            rows.append({"run": run, "network": network, "subset": str(subset), "seed": seed, **_measures(part)})
        try:
            known, results = tables.get("molecules", run), tables.get("runs", run)
        except MissingDataError:
            continue
        for seed, part in known.groupby("seed"):
            error = part["energy_predicted_ev"] - part["energy_true_ev"]
            part = part.assign(
                energy_error_ev=error, relative_energy_error_ev=error - error.groupby(part["group"]).transform("mean")
            )
            line = _measures(part)
            found = results.loc[results["seed"] == seed, FORCE.column]
            line["force"] = float(found.iloc[0]) * EV_TO_KCAL_PER_MOL if len(found) else np.nan
            rows.append({"run": run, "network": network, "subset": RANDOM_TEST, "seed": seed, **line})
    return pd.DataFrame(rows)


def _measures(part: pd.DataFrame) -> dict[str, float]:
    """Errors of some molecules of one seed."""
    others = part.groupby("group")["energy_error_ev"].transform("size") > 1
    result: dict[str, float] = {
        "n": len(part), "n_groups": part["group"].nunique(), "n_atoms": float(part["n_atoms"].mean()),
        "energy": _rms(part["energy_error_ev"]) * EV_TO_KCAL_PER_MOL,
        "relative": _rms(part.loc[others, "relative_energy_error_ev"]) * EV_TO_KCAL_PER_MOL,
        "energy_per_atom": _rms(part["energy_error_ev"] / part["n_atoms"]) * EV_TO_KCAL_PER_MOL,
        "force": np.nan,
    }  # fmt: skip
    if "force_rmse_ev_per_angstrom" in part:
        result["force"] = _rms(part["force_rmse_ev_per_angstrom"], part["n_atoms"]) * EV_TO_KCAL_PER_MOL
    return result


def _subset_order(frame: pd.DataFrame) -> list[str]:
    """The random test rows first, then the parts by the size of their molecules."""
    sizes = frame.groupby("subset")["n_atoms"].mean().sort_values()
    return [RANDOM_TEST] * (RANDOM_TEST in sizes.index) + [name for name in sizes.index if name != RANDOM_TEST]


def comp6(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors on the parts of COMP6 beside those on the random test rows, by network.

    Args:
        tables: transfer tests ``comp6``, and runs and molecules of the tested runs.
        context: scale and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: the test was made with no run.
    """
    save_figure(*comp6_figure(tables, context), output)


def s66x8(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """The same for the published S66x8 part of COMP6 alone, at any scale.

    Args:
        tables: transfer tests ``s66x8``, and runs and molecules of the tested runs.
        context: scale and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: the test was made with no run.
    """
    save_figure(*comp6_figure(tables, context, S66X8), output)


def comp6_figure(tables: RunTables, context: StudyContext, test: str = COMP6) -> Drawn:
    """The figure of :func:`comp6`, and its numbers; of another test by its name."""
    frame = comp6_frame(tables, context, test)
    order = _subset_order(frame)
    runs = list(dict.fromkeys(frame["run"]))
    panels = (("energy", ENERGY), ("relative", ENERGY), ("force", FORCE))
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(FULL_WIDTH, 4.4))
        for axis, (key, quantity) in zip(axes, panels, strict=True):
            values = []
            for index, run in enumerate(runs):
                look = _look(str(frame.loc[frame["run"] == run, "network"].iloc[0]))
                shift = 0.75 * ((index + 0.5) / len(runs) - 0.5)
                for place, subset in enumerate(order):
                    part = frame[(frame["run"] == run) & (frame["subset"] == subset)]
                    mean = over_seeds(part, key)
                    if not mean.n:
                        continue
                    values.append(mean.value)
                    axis.errorbar(
                        place + shift, mean.value, yerr=mean.bar, color=look.color, marker=look.marker,
                        markersize=7, capsize=2.5, linestyle="none", zorder=4,
                    )  # fmt: skip
            _log_values(axis, values)
            axis.set_xlim(-0.6, len(order) - 0.4)
            axis.xaxis.set_major_locator(FixedLocator(range(len(order))))
            axis.set_xticklabels([name.replace("random test rows", "random\ntest rows") for name in order], rotation=90)
            axis.set_ylabel(f"{COMP6_QUANTITIES[key][1]} ({quantity.unit})")
        panel_letters(axes)
        handles = []
        for run in runs:
            look = _look(str(frame.loc[frame["run"] == run, "network"].iloc[0]))
            label = look.title if runs.count(run) == 1 and len({_title(frame, r) for r in runs}) == len(runs) else run
            handles.append(Line2D([], [], color=look.color, marker=look.marker, linestyle="none", label=label))
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        chosen = frame[frame["subset"] != RANDOM_TEST]
        first = chosen[(chosen["run"] == runs[0]) & (chosen["seed"] == chosen["seed"].min())]
        tested = ", ".join(f"{row['subset']} {count(row['n'])}" for _, row in first.iterrows())
        note(
            figure, context, [tables.get("runs", run) for run in runs if run in tables.names("runs")] or [frame],
            f"Molecules tested: {tested}. (b): less the mean error of each molecule's conformations. Forces per "
            "component. The thesis announces this test (3.2) and states no numbers.",
        )  # fmt: skip
    return figure, frame


def _title(frame: pd.DataFrame, run: str) -> str:
    return _look(str(frame.loc[frame["run"] == run, "network"].iloc[0])).title


def comp6_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """The numbers of :func:`comp6` as a table, means over seeds.

    Args:
        tables: as for the figure.
        context: scale and runs of the study.
        output: path of the HTML file.

    Raises:
        InputError: the test was made with no run.
    """
    frame = comp6_frame(tables, context)
    order = _subset_order(frame)
    rows = []
    for run in dict.fromkeys(frame["run"]):
        own = frame[frame["run"] == run]
        base = over_seeds(own[own["subset"] == RANDOM_TEST], "force").value
        for subset in order:
            part = own[own["subset"] == subset]
            if part.empty:
                continue
            means = {key: over_seeds(part, key).value for key in ("energy", "energy_per_atom", "relative", "force")}
            rows.append(
                {"network": _look(str(part["network"].iloc[0])).title, "subset": subset, "n": int(part["n"].iloc[0]),
                 "n_groups": int(part["n_groups"].iloc[0]), "n_atoms": float(part["n_atoms"].iloc[0]), **means,
                 "energy_ev": means["energy"] * KCAL_PER_MOL_TO_EV, "force_ev": means["force"] * KCAL_PER_MOL_TO_EV,
                 "force_ratio": means["force"] / base if base > 0 else np.nan, "seeds": part["seed"].nunique(),
                 "run": run}
            )  # fmt: skip
    headings = {
        "network": "Network", "subset": "Part", "n": "Conformations", "n_groups": "Molecules", "n_atoms": "Atoms, mean",
        "energy": "Energy RMSE (kcal/mol)", "energy_per_atom": "per atom", "relative": "relative (kcal/mol)",
        "force": "Force RMSE (kcal/mol/Å)", "energy_ev": "Energy RMSE (eV)", "force_ev": "Force RMSE (eV/Å)",
        "force_ratio": "Force RMSE over that of the random test rows", "seeds": "Seeds", "run": "Run",
    }  # fmt: skip
    write_html_table(
        pd.DataFrame(rows)[list(headings)],
        output,
        "Test on COMP6",
        f"Root mean square errors on each part of COMP6 and on the random test rows, means over seeds; "
        f"{_caption_scale(context)}",
        headings=headings,
        after={
            "How to read it": [
                "Relative: less the mean error of each molecule's conformations, which a constant per composition "
                "cannot change.",
                "The thesis announces this test as a next step (section 3.2) and states no numbers.",
            ]
        },
    )
