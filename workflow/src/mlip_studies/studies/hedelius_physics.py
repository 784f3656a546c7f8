"""Physics of the SE(3)-Transformer: equivariance, gradients that are no numbers, dynamics of water, curl of the forces.

After B. E. Hedelius, *Learning inter-atomic forces with an SE(3)-Transformer*, Brigham Young University 2021, sections
2.4, 3.1 and 3.2. Every product has the form ``f(tables, context, output)``. ``water``, ``curl`` and ``nan_gradients``
write <output>.png, .svg and .csv, ``equivariance_table`` writes <output>.html and .csv. Numbers of the thesis are taken
from the claim file by id. Energies are shown in kcal/mol, as in the thesis, and are in eV in the CSV files.

* ``water`` needs the job ``water`` (``trajectory.h5``, ``samples.csv``, ``summary.json``, ``replicas.csv``),
* ``curl`` needs ``curl/<run>.csv``, ``nan_gradients`` the file ``nan_gradients.csv``,
* ``equivariance_table`` needs ``models/networks/<network>.json`` of SE(3)-Transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.md.observables import degrees_of_freedom, temperature_of
from mlip_studies.md.trajectory import Trajectory
from mlip_studies.models import se3_singularities as singular
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_line, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import count, number, plain_log
from mlip_studies.units import EV_TO_KCAL_PER_MOL

__all__ = ["curl", "equivariance_table", "nan_gradients", "water"]

WATER = "water"
#: group of the runs whose forces are the gradient of the energy
GRADIENT = "gradient"
FS_PER_PS = 1000.0
#: claims whose numbers are drawn
STEPS, SEPARATION, LAYERS = "water-breaks-up", "water-separation", "equivariance-layers"
NETWORK_GATE = "ours-network-equivariance"


@dataclass(frozen=True)
class Look:
    """How one kind of forces is drawn."""

    label: str
    color: str
    marker: str
    line: Any


FORCES: Mapping[str, Look] = {
    "direct": Look("force head (direct)", OKABE_ITO["vermillion"], "o", "-"),
    GRADIENT: Look("gradient of the energy", OKABE_ITO["blue"], "s", (0, (5, 1.5))),
}
VARIANTS: Mapping[str, Look] = {
    singular.UNGUARDED: Look("v/|v| as written", OKABE_ITO["vermillion"], "s", (0, (1, 1))),
    singular.CLAMPED: Look("|v| at least 1e−12", OKABE_ITO["orange"], "^", (0, (5, 1.5))),
    singular.SMOOTHED: Look("|v| smoothed (used here)", OKABE_ITO["blue"], "o", "-"),
    singular.ANGLES: Look("smoothed, harmonics in angles", OKABE_ITO["bluish green"], "D", "--"),
}
#: fewer values than this are drawn one by one
FEW = 400


def scale_text(context: StudyContext) -> str:
    """Scale for a footer."""
    text = f"{context.scale} scale"
    return (
        f"{text} (small networks, hundreds of steps: no reproduction of the thesis)"
        if context.scale == "mini"
        else text
    )


def kind_of(run: str, context: StudyContext) -> str:
    """``direct`` or ``gradient``, by the groups of a run.

    Args:
        run: name of the run.
        context: knows its groups.

    Raises:
        InputError: the study has no such run.
    """
    if run not in context.runs:
        raise InputError(f"config/studies/hedelius.yaml: run {run} has results, but no group makes it; add it to one")
    return GRADIENT if GRADIENT in context.runs[run].groups else "direct"


# --- dynamics of water ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WaterRun:
    """One trajectory of a water molecule.

    Attributes:
        run: name of the network's run.
        time_fs: shape (n,).
        distances: O-H distances, shape (n, 2), Å.
        potential_ev, kinetic_ev: shape (n,), eV.
        timestep_fs: of the integrator.
    """

    run: str
    time_fs: NDArray[np.float64]
    distances: NDArray[np.float64]
    potential_ev: NDArray[np.float64]
    kinetic_ev: NDArray[np.float64]
    timestep_fs: float

    @property
    def change_ev(self) -> NDArray[np.float64]:
        """Total energy relative to the start, shape (n,), eV."""
        total = self.potential_ev + self.kinetic_ev
        change: NDArray[np.float64] = total - total[0]
        return change

    @property
    def temperature_k(self) -> NDArray[np.float64]:
        """Of every instant, shape (n,), K, without the centre of mass."""
        return temperature_of(self.kinetic_ev, int(degrees_of_freedom(np.array([3]), "nve")[0]))


def water_runs(context: StudyContext) -> list[WaterRun]:
    """First trajectory of each network in the job ``water``, direct forces first.

    Raises:
        InputError: no trajectory among the files, or one of another molecule.
    """
    result = []
    for path in map(Path, context.files):
        if path.name != "trajectory.h5" or path.parent.parent.name != WATER:
            continue
        with Trajectory(path) as file:
            numbers = file.atomic_numbers(0)
            oxygen = np.flatnonzero(numbers == 8)
            hydrogen = np.flatnonzero(numbers == 1)
            if len(numbers) != 3 or len(oxygen) != 1 or len(hydrogen) != 2:
                raise InputError(f"{path}: atoms {numbers.tolist()}; expected a water molecule in the job 'water'")
            positions = file.positions(0).astype(np.float64)
            potential, kinetic = file.energies(0)
            distances = np.linalg.norm(positions[:, hydrogen] - positions[:, oxygen], axis=2)
            run = path.parent.name
            timestep = float(file.attributes["config"]["timestep_fs"])
            time = file.time_ps[: len(potential)] * FS_PER_PS
            result.append(WaterRun(run, time, distances, potential, kinetic, timestep))
    if not result:
        raise InputError(
            "figure water: no trajectory.h5 of the job 'water' among its files; name the job in "
            "config/studies/hedelius.yaml"
        )
    return sorted(result, key=lambda each: (kind_of(each.run, context), each.run))


def water(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """A water molecule that starts at rest at its minimum: O-H distances, total energy and temperature against time.

    Args:
        tables: not read; the trajectories are among the context's files.
        context: scale, runs, claims and files.
        output: path of the PNG file.

    Raises:
        InputError: no trajectory of water.
    """
    del tables
    runs = water_runs(context)
    steps, separation = context.paper(STEPS)[""], context.paper(SEPARATION)[""]
    with style():
        figure, axes = plt.subplots(3, 1, figsize=(FULL_WIDTH, 7.4), sharex=True, height_ratios=[1.35, 1, 1])
        for each in runs:
            _draw_water(axes, each, FORCES[kind_of(each.run, context)])
        end = max(float(each.time_fs[-1]) for each in runs)
        longest = max(float(each.distances.max()) for each in runs)
        # The thesis's atoms are somewhere in here at the end of its few hundred steps.
        reached = steps * runs[0].timestep_fs
        top = max(3.0 * separation, 1.5 * longest)
        axes[0].fill_between(
            [0.0, reached], separation, top, facecolor="#D9D9D9", edgecolor="#8C8C8C", hatch="////", linewidth=0,
            zorder=0.5,
            label=f"thesis (text): “dozens of Å” (≥ {separation:g})\nafter “a few hundred” (≤ {steps:g}) steps",
        )  # fmt: skip
        axes[0].set_yscale("log")
        axes[0].set_ylim(0.6 * min(float(each.distances.min()) for each in runs), top)
        axes[0].yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].set_ylabel("O–H distance (Å)")
        axes[1].set_ylabel("|change of total\nenergy| (kcal/mol)")
        axes[2].set_ylabel("kinetic\ntemperature (K)")
        for axis in axes[1:]:
            _log(axis, "y")
            # Zeros of an oscillation and the start itself reach down to rounding.
            axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-5 * axis.get_ylim()[1]))
        axes[2].set_xlabel("time (fs)")
        axes[2].set_xlim(0, end)
        timestep = runs[0].timestep_fs
        above = axes[0].secondary_xaxis("top", functions=(lambda t: t / timestep, lambda n: n * timestep))
        above.set_xlabel(f"time steps of {timestep:g} fs")
        panel_letters(axes)
        figure.legend(loc="outside upper center", ncols=2)
        footer(figure, "\n".join(_water_notes(runs, context)))
    save_figure(figure, pd.concat([_water_rows(each, context) for each in runs], ignore_index=True), output)


def _draw_water(axes: Sequence[Axes], each: WaterRun, look: Look) -> None:
    for bond, width in ((0, 1.9), (1, 1.0)):
        label = f"{look.label}: two O–H" if bond == 0 else None
        axes[0].plot(
            each.time_fs, each.distances[:, bond], color=look.color, linestyle=look.line, linewidth=width, label=label
        )
    change = np.abs(each.change_ev) * EV_TO_KCAL_PER_MOL
    for axis, values in ((axes[1], change), (axes[2], each.temperature_k)):
        shown = values > 0
        axis.plot(each.time_fs[shown], values[shown], color=look.color, linestyle=look.line, linewidth=1.4)


def _water_notes(runs: Sequence[WaterRun], context: StudyContext) -> list[str]:
    lines = [
        f"{scale_text(context)} · n = 1 trajectory per network (first seed), all atoms at rest at the GFN2-xTB "
        f"minimum, NVE, time step {runs[0].timestep_fs:g} fs (the thesis states none); one molecule, so this is an "
        "observation without an interval. Total energy: kinetic plus predicted potential energy."
    ]
    parts = []
    for each in runs:
        largest = float(np.abs(each.change_ev).max()) * EV_TO_KCAL_PER_MOL
        parts.append(
            f"{FORCES[kind_of(each.run, context)].label}: O–H between {number(float(each.distances.min()))} and "
            f"{number(float(each.distances.max()))} Å, total energy changes by up to {number(largest)} kcal/mol, "
            f"{count(len(each.time_fs))} samples"
        )
    return [*lines, "; ".join(parts) + "."]


def _water_rows(each: WaterRun, context: StudyContext) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": each.run,
            "forces": kind_of(each.run, context),
            "time_fs": each.time_fs,
            "step": np.rint(each.time_fs / each.timestep_fs).astype(int),
            "oh_1_angstrom": each.distances[:, 0],
            "oh_2_angstrom": each.distances[:, 1],
            "potential_ev": each.potential_ev,
            "kinetic_ev": each.kinetic_ev,
            "total_change_ev": each.change_ev,
            "temperature_k": each.temperature_k,
        }
    )


def _log(axis: Axes, which: str, ticks: int = 6) -> None:
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_locator(LogLocator(base=10, numticks=ticks))
    target.set_minor_locator(NullLocator())
    target.set_minor_formatter(NullFormatter())


# --- curl -----------------------------------------------------------------------------------------------------------

CURL_PANELS: Mapping[str, tuple[str, str]] = {
    "asymmetry": ("asymmetry of the Jacobian", "‖J − Jᵀ‖ / ‖J + Jᵀ‖"),
    "loop_work": ("|work around a closed loop|", "(kcal/mol)"),
    "gradient_error": ("distance to the own gradient", "‖F + dE/dR‖ / ‖dE/dR‖"),
}


def curl(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """How far forces are from a gradient: asymmetry of their Jacobian, work around loops, distance to -dE/dR.

    Args:
        tables: ``curl/<run>.csv``.
        context: scale and runs.
        output: path of the PNG file.

    Raises:
        InputError: no such table.
    """
    runs = sorted(tables.curl_runs(), key=lambda run: (kind_of(run, context), run))
    if not runs:
        raise InputError("figure curl: no curl/<run>.csv among its files; name runs under `curl` in the study")
    frames = {run: tables.curl(run) for run in runs}
    tidy = []
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(FULL_WIDTH, 2.3 + 0.75 * len(runs)), sharey=True)
        for row, run in enumerate(reversed(runs)):
            look, frame = FORCES[kind_of(run, context)], frames[run]
            values = {
                "asymmetry": frame["asymmetry"],
                "loop_work": frame["loop_work_ev"].abs() * EV_TO_KCAL_PER_MOL,
                "gradient_error": frame["gradient_error"],
            }
            for axis, (panel, series) in zip(axes, values.items(), strict=True):
                _scatter(axis, series.to_numpy(dtype=float), row, look)
                tidy.append(frame.assign(run=run, forces=kind_of(run, context), panel=panel, value=series))
            if "loop_error_ev" in frame:
                error = float(frame["loop_error_ev"].median()) * EV_TO_KCAL_PER_MOL
                axes[1].plot([error, error], [row - 0.4, row + 0.4], color=GREY, linestyle=(0, (1, 1)), linewidth=1.6)
        for axis, (title, unit) in zip(axes, CURL_PANELS.values(), strict=True):
            axis.set_xlabel(f"{title}\n{unit}")
            if axis.collections:
                low, high = (float(value) for value in axis.dataLim.intervalx)
                room = max((high / low) ** 0.16, 1.3)
                axis.set_xlim(low / room, high * room)
                if high < 1e5 * low:
                    plain_log(axis, "x", 1.0)
                else:
                    _log(axis, "x", 5)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(runs)), [_curl_label(run, context) for run in reversed(runs)])
        axes[0].set_ylim(-0.65, len(runs) - 0.35)
        panel_letters(axes)
        _write_zeros(axes, frames, list(reversed(runs)))
        footer(figure, "\n".join(_curl_notes(frames, context)))
    save_figure(figure, pd.concat(tidy, ignore_index=True), output)


def _scatter(axis: Axes, values: NDArray[np.float64], row: int, look: Look) -> None:
    """One point per structure and seed, spread over the row by rank, and their median."""
    shown = np.sort(values[np.isfinite(values) & (values > 0)])
    if not len(shown):
        return
    if len(shown) > FEW:
        shown = np.quantile(shown, np.linspace(0, 1, FEW))
    # Fixed offsets, so that the same numbers give the same figure.
    spread = 0.28 * (2.0 * np.mod(np.arange(len(shown)) * 0.6180339887, 1.0) - 1.0)
    axis.scatter(shown, row + spread, s=12, color=look.color, marker=look.marker, alpha=0.45, linewidths=0)
    median = float(np.median(shown))
    axis.plot(
        [median], [row], marker=look.marker, markersize=9, color=look.color, markeredgecolor="black", linestyle="none"
    )
    axis.annotate(
        number(median, 2), (median, row), xytext=(0, 19), textcoords="offset points", ha="center", va="bottom"
    )


def _curl_label(run: str, context: StudyContext) -> str:
    return FORCES[kind_of(run, context)].label.replace(" (", "\n(").replace("gradient of ", "gradient of\n")


def _write_zeros(axes: Sequence[Axes], frames: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> None:
    """Say where all values are exactly zero and no logarithm exists."""
    for axis, column in zip(axes, ("asymmetry", "loop_work_ev", "gradient_error"), strict=True):
        for row, run in enumerate(runs):
            if (frames[run][column] == 0).all():
                axis.text(
                    0.5, row, "0, by construction", transform=axis.get_yaxis_transform(), ha="center", va="center",
                    color=GREY,
                )  # fmt: skip


def _curl_notes(frames: Mapping[str, pd.DataFrame], context: StudyContext) -> list[str]:
    first = next(iter(frames.values()))
    structures, seeds = first["structure"].nunique(), first["seed"].nunique()
    return [
        f"{scale_text(context)} · n = {count(structures)} test geometries of {count(first['n_atoms'].min())} to "
        f"{count(first['n_atoms'].max())} atoms, {count(seeds)} network{'s' if seeds > 1 else ''} per row (small: "
        "geometries and networks; large and in figures: their median), float64",
        "(b) loop: circle of radius 0.2 Å in all coordinates; dotted: median error of the sum over its points, what "
        "gradient forces are left with, because they jump where a ReLU switches. The thesis has no such test.",
    ]


# --- gradients that are no numbers ----------------------------------------------------------------------------------

SLOPE_LOOKS: Mapping[str, Look] = {
    singular.ANGLES: Look("in angles (acos, atan2)", OKABE_ITO["bluish green"], "D", "--"),
    singular.POLYNOMIALS: Look("as polynomials (used here)", OKABE_ITO["blue"], "o", "-"),
}


def nan_gradients(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Where gradients stop being numbers: harmonics, the direction v/|v|, whole networks, and a short training.

    Args:
        tables: ``nan_gradients.csv``.
        context: scale.
        output: path of the PNG file.

    Raises:
        InputError: no such table, or one without the parts.
    """
    frame = tables.nan_gradients()
    missing = [part for part in singular.PARTS if part not in set(frame["part"])]
    if missing:
        raise InputError(f"nan_gradients.csv: part '{missing[0]}' is missing; delete the file and run again")
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 10.6))
        grid = figure.add_gridspec(3, 2, height_ratios=[1, 1.75, 1])
        top = [figure.add_subplot(grid[0, column]) for column in (0, 1)]
        middle = [figure.add_subplot(grid[1, 0])]
        middle.append(figure.add_subplot(grid[1, 1], sharey=middle[0]))
        bottom = [figure.add_subplot(grid[2, 0])]
        bottom.append(figure.add_subplot(grid[2, 1], sharey=bottom[0]))
        _draw_slopes(top[0], frame[frame["part"] == "harmonics"], SLOPE_LOOKS, singular.exact_gradient())
        top[0].set_xlabel("angle from the pole (rad)")
        top[0].set_ylabel("gradient of all\nharmonics, l ≤ 4 (norm)")
        _draw_slopes(top[1], frame[frame["part"] == "direction"], VARIANTS, None)
        top[1].set_xlabel("|v|")
        top[1].set_ylabel("largest element\nof d(v/|v|)/dv")
        networks = frame[frame["part"] == "network"]
        for axis, quantity, label in (
            (middle[0], "weights", "largest gradient of the loss\nwith respect to a weight"),
            (middle[1], "positions", "largest gradient of the energy\nwith respect to a position (eV/Å)"),
        ):
            _draw_networks(axis, networks[networks["quantity"] == quantity])
            axis.set_xlabel(label)
        middle[1].tick_params(labelleft=False)
        training = frame[(frame["part"] == "training") & (frame["quantity"] == "gradient norm")]
        for axis, case, label in (
            (bottom[0], singular.SYMMETRIC, "training step, molecules at their minima"),
            (bottom[1], singular.DISPLACED, "training step, displaced molecules"),
        ):
            _draw_training(axis, training[training["case"] == case])
            axis.set_xlabel(label)
        bottom[0].set_ylabel("norm of the loss's gradient\n(weights, not clipped)")
        bottom[1].tick_params(labelleft=False)
        panel_letters([*top, *middle, *bottom])
        handles = [
            Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, label=look.label)
            for look in VARIANTS.values()
        ]
        handles.append(
            Line2D([], [], color="black", marker="X", markersize=8, linestyle="none", label="not a finite number")
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        footer(figure, "\n".join(_nan_notes(frame, context)))
    save_figure(figure, frame, output)


def _draw_slopes(axis: Axes, frame: pd.DataFrame, looks: Mapping[str, Look], exact: float | None) -> None:
    """Derivatives against the distance to the singular point; that itself stands left of the others."""
    smallest = float(frame.loc[frame["x"] > 0, "x"].min())
    zero = smallest / 30.0
    _log(axis, "x")
    axis.set_yscale("log")
    finite = frame.loc[np.isfinite(frame["value"]), "value"]
    low, high = float(finite.min()), float(finite.max())
    bad = high * (2.5 if high / low < 100 else 30.0)
    for index, (variant, look) in enumerate(looks.items()):
        own = frame[frame["variant"] == variant].sort_values("x")
        if own.empty:
            continue
        x = np.where(own["x"] > 0, own["x"], zero)
        shown = (own["n_not_finite"] == 0) & np.isfinite(own["value"])
        line = shown & (own["x"] > 0)
        axis.plot(
            x[line], own.loc[line, "value"], color=look.color, linestyle=look.line, linewidth=1.6,
            label=look.label if exact is not None else None,
        )  # fmt: skip
        few = line & (np.arange(len(own)) % 6 == 2 * index)
        marked = few | (shown & (own["x"] == 0))
        axis.plot(x[marked], own.loc[marked, "value"], color=look.color, marker=look.marker, linestyle="none")
        broken = ~shown
        axis.plot(
            x[broken], np.full(int(broken.sum()), bad), color=look.color, marker="X", markersize=6, linestyle="none"
        )
    if exact is not None:
        paper_line(axis, exact, "y", "exact, the same everywhere")
        axis.set_ylim(exact / 3.0, bad * 6.0)
        axis.set_yticks([2.0, exact, 10.0], ["2", number(exact), "10"])
        axis.yaxis.set_minor_locator(NullLocator())
        axis.legend(loc="upper right", borderaxespad=0.1, handlelength=1.8)
    else:
        axis.set_ylim(top=bad * 20.0)
        axis.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
        axis.yaxis.set_minor_locator(NullLocator())
    decades = np.arange(math.ceil(math.log10(smallest)), math.log10(float(frame["x"].max())) + 0.01)
    ticks = [10.0**value for value in decades[::-1][::3][::-1]]
    ticks = [value for value in ticks if value > 500 * zero]
    axis.xaxis.set_major_locator(FixedLocator([zero, *ticks]))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "0" if value < smallest else f"$10^{{{round(math.log10(value))}}}$")
    )
    axis.axvline(zero * 4.0, color=GREY, linewidth=0.7)


def _draw_networks(axis: Axes, frame: pd.DataFrame) -> None:
    """Rows are molecules; one point per variant is the largest over the weights drawn, or a cross at the right."""
    cases = list(dict.fromkeys(frame["case"]))
    values = frame.loc[np.isfinite(frame["value"]) & (frame["value"] > 0), "value"]
    low, high = float(values.min()), float(values.max())
    bad = high * (high / low) ** 0.12
    for row, case in enumerate(reversed(cases)):
        for offset, (variant, look) in enumerate(VARIANTS.items()):
            own = frame[(frame["case"] == case) & (frame["variant"] == variant)]
            y = row + 0.27 - 0.18 * offset
            if (own["n_not_finite"] > 0).any():
                axis.plot([bad], [y], marker="X", markersize=7, color=look.color, linestyle="none")
            elif len(own) and float(own["value"].max()) > 0:
                axis.plot([float(own["value"].max())], [y], marker=look.marker, color=look.color, linestyle="none")
            elif len(own):
                axis.plot([low / 3.0], [y], marker="|", color=look.color, linestyle="none")
    _log(axis, "x", 6)
    axis.set_xlim(low / 6.0, bad * (high / low) ** 0.08)
    axis.set_yticks(range(len(cases)), [_wrapped(case) for case in reversed(cases)])
    axis.set_ylim(-0.55, len(cases) - 0.45)
    for row in range(1, len(cases)):
        axis.axhline(row - 0.5, color="#E3E3E3", linewidth=0.8)
    axis.grid(axis="y", visible=False)


def _wrapped(case: str) -> str:
    return case.replace("carbon dioxide", "CO₂").replace(" on the pole", ",\non the pole")


def _draw_training(axis: Axes, frame: pd.DataFrame) -> None:
    for index, (variant, look) in enumerate(VARIANTS.items()):
        own = frame[frame["variant"] == variant].sort_values("x")
        if own.empty:
            continue
        good = own[own["n_not_finite"] == 0]
        axis.plot(
            good["x"], good["value"], color=look.color, linestyle=look.line, marker=look.marker,
            markevery=(3 * index, 10), linewidth=1.4, zorder=3 - 0.1 * index,
        )  # fmt: skip
        for _, bad in own[own["n_not_finite"] > 0].iterrows():
            axis.plot([bad["x"]], [0.93], transform=axis.get_xaxis_transform(), marker="X", markersize=9,
                      color=look.color, linestyle="none", clip_on=False)  # fmt: skip
            axis.annotate(
                f"not a number at step {int(bad['x'])}", (bad["x"], 0.93), xycoords=axis.get_xaxis_transform(),
                xytext=(9, 0), textcoords="offset points", va="center",
            )  # fmt: skip
    _log(axis, "y")
    axis.set_xlim(left=-1.5)
    # Room for the words.
    axis.set_ylim(top=axis.get_ylim()[1] * 100.0)


def _nan_notes(frame: pd.DataFrame, context: StudyContext) -> list[str]:
    harmonics = frame[(frame["part"] == "harmonics") & (frame["variant"] == singular.ANGLES)]
    cone = float(harmonics.loc[harmonics["n_not_finite"] > 0, "x"].max())
    # Two poles; the share of a sphere within a small angle of a pole is half of 1 - cos.
    share = 1.0 - math.cos(cone)
    networks = frame[frame["part"] == "network"]
    draws, angle, million = networks["x"].nunique(), number(cone, 2), number(1e-6 / share, 2)
    return [
        f"{context.scale} scale (the same at every scale); untrained networks, float32, direct forces · "
        f"n = {draws} draws of the weights (largest shown; tick at the left edge of c, d: 0), 1 training each. The "
        "thesis (section 2.4) blames the harmonics and shows no numbers.",
        f"Harmonics in angles fail within {angle} rad of a pole, one direction in {million} million, and only if "
        "positions are differentiated (d); no weight's gradient contains their derivative (c). What fails there is "
        "v/|v|, where symmetry makes v zero (CO₂, a lone atom); displaced molecules train alike with all (f).",
    ]


# --- equivariance ---------------------------------------------------------------------------------------------------

EQUIVARIANCE_HEADINGS: Mapping[str, str] = {
    "network": "network", "layer_type": "layer", "precision": "precision", "features": "features",
    "maximum": "largest Δ_EQ", "mean": "mean Δ_EQ", "n": "roto-translations", "bound": "bound", "source": "bound from",
    "reading": "reading",
}  # fmt: skip
WHOLE = "whole network"


def equivariance_rows(tables: RunTables, context: StudyContext) -> Iterator[dict[str, Any]]:
    """Largest and mean error of each type of layer and of whole networks, in each precision.

    Raises:
        InputError: no network among the results, or one without roto-translations.
    """
    names = tables.networks()
    if not names:
        raise InputError("table equivariance: no models/networks/<network>.json among its files; name networks")
    layer_bound, gate = context.paper(LAYERS)[""], context.paper(NETWORK_GATE)[""]
    for name in names:
        network = tables.network(name)
        if not network.get("rototranslations"):
            raise InputError(f"models/networks/{name}.json: no 'rototranslations'; delete the file and run again")
        frame = pd.DataFrame(network["rototranslations"])
        frame["layer_type"] = frame["layer"].str.replace(r"\s*\d+$", "", regex=True)
        for precision in dict.fromkeys(frame["precision"]):
            for layer in dict.fromkeys(frame["layer_type"]):
                own = frame[(frame["precision"] == precision) & (frame["layer_type"] == layer)]
                judged = precision == "float32"
                bound = (gate if layer == WHOLE else layer_bound) if judged else math.nan
                largest = float(own["maximum"].max())
                yield {
                    "network": name,
                    "layer_type": layer,
                    "precision": precision,
                    "features": ", ".join(dict.fromkeys(own["feature"])),
                    "maximum": largest,
                    "mean": float(own["mean"].mean()),
                    "n": int(network["n_rotations"]),
                    "bound": bound,
                    "source": "" if not judged else "this project" if layer == WHOLE else "thesis",
                    "reading": "" if not judged else "below" if largest < bound else "above",
                }


def equivariance_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Equivariance errors (eq. 3.1) of every type of layer and of whole networks beside the thesis's bound.

    Args:
        tables: ``models/networks/<network>.json``.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: no networks, or results without roto-translations.
    """
    frame = pd.DataFrame(equivariance_rows(tables, context))
    bound, gate = context.paper(LAYERS)[""], context.paper(NETWORK_GATE)[""]
    networks = [tables.network(name) for name in tables.networks()]
    molecules = ", ".join(networks[0]["molecules"])
    shift = networks[0]["translation_angstrom"]
    layers = frame[(frame["precision"] == "float32") & (frame["layer_type"] != WHOLE)]
    whole = frame[(frame["precision"] == "float32") & (frame["layer_type"] == WHOLE)]
    write_html_table(
        frame,
        output,
        "Equivariance of the SE(3)-Transformer",
        f"Δ_EQ = ‖LΦ(f) − ΦL(f)‖ / ‖LΦ(f)‖ (eq. 3.1), largest over layers of a type, features and "
        f"{networks[0]['n_rotations']} random roto-translations (rotations uniform, translations normal with "
        f"{shift:g} Å along each axis) of {len(networks[0]['molecules'])} molecules ({molecules}, displaced); "
        f"untrained networks of full size, so that this is the same at every scale (here: {context.scale}).",
        headings=EQUIVARIANCE_HEADINGS,
        cell_class=lambda column, value: {"below": "good", "above": "bad"}.get(value) if column == "reading" else None,
        after={
            "Reading": [
                f"The thesis tests layers one by one in float32 and finds less than {_power(bound)}. Here every layer "
                f"gets exactly moved inputs, too; the largest error is {number(float(layers['maximum'].max()), 2)}.",
                "A whole network gets moved positions only: rounding of a layer goes through all that follow, and the "
                "energy and the forces are sums whose terms partly cancel while their rounding does not. The bound of "
                f"one layer is therefore not one of a network; {_power(gate)} is ours. The largest error is "
                f"{number(float(whole['maximum'].max()), 2)}.",
                "In float64 all errors fall by the ratio of the two precisions (about 1e9): what is seen in float32 is "
                "rounding, not a broken symmetry.",
                "Embedding and the norms of scalars act on numbers that no rotation changes: exactly zero.",
            ],
        },
    )


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")
