"""Figures of So3krates on SPICE: the thesis's figure 3, and where the slope of its energies comes from.

A network whose training energies were shifted by one constant p per molecule, which the evaluation adds back as
p/n_pad per atom (n_pad: atoms of the largest molecule), errs by E_pred - E_true = p (N/n_pad - 1) even if it learned
everything: a line in the number of atoms N with the slope p/n_pad (mechanism A). A network that is trained on forces
alone (β = 1) knows energies only up to one constant per element, whose sum is another one in every composition
(mechanism B). The figures measure both and keep them apart.

Every figure function has the form ``f(tables, context, output)`` and writes <output>.png, .svg and .csv; what the
thesis states is taken from the claim file. Tables are made by :mod:`~mlip_studies.studies.pavlovic_tables`.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, panel_letters, paper_band, paper_line, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import (
    DATA_NAMES,
    MINUS,
    SHIFT_NAMES,
    SHIFT_STYLE,
    STUDY_FILE,
    Cell,
    Mean,
    count,
    need,
    need_cells,
    not_run,
    note,
    number,
    over_seeds,
    percent,
    plain_log,
    small_energy,
    spice_cells,
    stated,
    thousands,
    tick,
)
from mlip_studies.studies.pavlovic_products import CLEANED_RUN, CURE_RUN, MAIN_RUN
from mlip_studies.studies.pavlovic_tables import outliers_table, results_table, shift_check_table, slope_table
from mlip_studies.units import EV_TO_MEV

__all__ = [
    "beta",
    "convergence",
    "energies",
    "ensemble",
    "errors_by",
    "forces",
    "layers",
    "mechanisms",
    "outliers_table",
    "results_table",
    "shift_check_table",
    "slope",
    "slope_table",
]

FloatArray = NDArray[np.float64]
Drawn = tuple[Figure, pd.DataFrame]

BLUE, ORANGE = OKABE_ITO["blue"], OKABE_ITO["orange"]
LEGEND_ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (-0.02, 1.0),
    "borderaxespad": 0.1,
    "labelspacing": 0.25,
    "handletextpad": 0.5,
    "alignment": "left",
}
STAR: dict[str, Any] = {"marker": "*", "color": "black", "markersize": 12, "linestyle": "none", "zorder": 6}
THESIS = "thesis (text)"
# Claims whose numbers are drawn.
ENERGY_DEFAULT = "energy-mae-default"
ENERGY_FORCES_ONLY = "energy-mae-beta1"
ENERGY_CORRECTED = "energy-mae-corrected"
FORCE_DEFAULT = "force-mae-default"
FORCE_FORCES_ONLY = "force-mae-beta1"
OUTLIERS = "outlier-fraction"
RESIDUAL_LIMIT = 8.0  # eV/Å, the thesis's limit of an outlier
NEAR_ZERO = 1.0  # eV/Å, our reading of "near zero"
# A point cloud of more molecules shows no more, but makes the files large.
MOST_POINTS = 3000
FEW = 100  # molecules below which tenths of them mean nothing
BETAS = (0.99, 1.0)
SLOPE_COLUMNS = ("none", "mean_padded", "per_element")
LEAST_PER_BIN = 5  # molecules of a class, where there are more than a few hundred in all


def _first_seed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["seed"] == frame["seed"].min()].reset_index(drop=True)


def _round_ticks(n: int = 4, integer: bool = False) -> MaxNLocator:
    """About n ticks at round numbers."""
    return MaxNLocator(n, steps=[1, 2, 5, 10], integer=integer)


# --- figure 3, left -------------------------------------------------------------------------------------------------


def energies(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """True against predicted energies before and after the correction per element, and the corrected errors.

    After the thesis's figure 3, left; of :data:`~mlip_studies.studies.pavlovic_products.MAIN_RUN`.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: the main run was not trained.
    """
    save_figure(*energies_figure(tables, context), output)


def energies_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`energies`, and its numbers."""
    what = "figure fig3-left-energies"
    runs = need(tables, "runs", MAIN_RUN, what)
    molecules = _first_seed(need(tables, "molecules", MAIN_RUN, what))
    true, atoms = (molecules[column].to_numpy(float) for column in ("energy_true_ev", "n_atoms"))
    thesis = stated(context, ENERGY_CORRECTED)
    before = over_seeds(runs, "energy_mae_ev")
    fits: dict[str, tuple[str, str, Any]] = {
        "train": ("training", OKABE_ITO["bluish green"], "--"),
        "test": ("test", ORANGE, "-"),
    }
    tidy = [molecules.assign(stage="before", energy_ev=molecules["energy_predicted_ev"])]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.3))
        size = 22.0 if true.size < 200 else 7.0 if true.size < 2000 else 2.0
        dots: dict[str, Any] = {"s": size, "linewidth": 0, "alpha": 0.55, "rasterized": True}
        left.scatter(true, molecules["energy_predicted_ev"], color=BLUE, **dots)
        shown = "test" if molecules["energy_corrected_test_ev"].notna().any() else "train"
        left.scatter(true, molecules[f"energy_corrected_{shown}_ev"], color=ORANGE, **dots)
        ends = np.array([true.min(), true.max()])
        left.plot(ends, ends, color="black", linestyle="--", linewidth=1.2, zorder=4)
        left.set_xlabel("true energy (eV)")
        left.set_ylabel("predicted energy (eV)")
        for which in ("x", "y"):
            thousands(left, which)
        left.xaxis.set_major_locator(_round_ticks())
        left.yaxis.set_major_locator(_round_ticks(6))
        marks: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
        left.legend(
            handles=[
                Line2D([], [], color=BLUE, label=f"before, MAE {before.text()} eV", **marks),
                Line2D([], [], linestyle="none", label=f"(thesis, text: {stated(context, ENERGY_FORCES_ONLY):g} eV)"),
                Line2D([], [], color=ORANGE, label=f"after, fitted on {shown} energies", **marks),
                Line2D([], [], color="black", linestyle="--", label="predicted = true"),
            ],
            title="correction per element", **LEGEND_ABOVE,
        )  # fmt: skip
        paper_band(right, -EV_TO_MEV * thesis, EV_TO_MEV * thesis)
        handles: list[Any] = [
            Patch(facecolor="#D9D9D9", edgecolor="#8C8C8C", hatch="////",
                  label=f"± {thesis:g} (thesis, text)")
        ]  # fmt: skip
        errors = {fit: (molecules[f"energy_corrected_{fit}_ev"].to_numpy(float) - true) / atoms for fit in fits}
        there = {fit: EV_TO_MEV * error for fit, error in errors.items() if np.isfinite(error).all()}
        limit = 1.15 * max(
            [float(np.quantile(np.abs(error), 0.99)) for error in there.values()] + [1.1 * EV_TO_MEV * thesis]
        )
        edges = np.linspace(-limit, limit, 2 * int(np.clip(true.size**0.5 / 2, 6, 30)) + 2)
        outside = 0
        for fit, error in there.items():
            name, color, line = fits[fit]
            counts = np.histogram(error, edges)[0]
            outside = max(outside, int((np.abs(error) > limit).sum()))
            right.stairs(counts, edges, color=color, linestyle=line, linewidth=1.6, fill=False)
            mae = over_seeds(runs, f"corrected_{fit}_energy_per_atom_mae_ev")
            handles.append(Line2D([], [], color=color, linestyle=line, label=f"{mae.text()} (fitted on {name})"))
            tidy.append(molecules.assign(stage=f"corrected_{fit}", energy_ev=molecules[f"energy_corrected_{fit}_ev"]))
        right.set_xlim(-limit, limit)
        right.set_xlabel("corrected error per atom (meV/atom)")
        right.set_ylabel("molecules per bin")
        right.yaxis.set_major_locator(_round_ticks(6, integer=True))
        thousands(right, "x")
        right.legend(handles=handles, title="MAE after correction (eV/atom)", **LEGEND_ABOVE)
        for axis, letter in ((left, "(a)"), (right, "(b)")):
            axis.text(0.03, 0.97, letter, transform=axis.transAxes, va="top", fontweight="bold")
        cut = f" {count(outside)} molecules lie outside (b)." if outside else ""
        note(
            figure, context, [runs],
            f"β = 1 (forces only), one constant subtracted and re-added per padded atom; points and histograms: first "
            f"seed, {count(true.size)} molecules. The thesis does not say which energies its correction was fitted "
            f"on.{cut}",
            "" if "train" in there else not_run(["the fit on training energies"]),
        )  # fmt: skip
    columns = ["run", "seed", "row", "formula", "n_atoms", "energy_true_ev", "stage", "energy_ev"]
    frame = pd.concat(tidy, ignore_index=True)
    frame["error_per_atom_ev"] = (frame["energy_ev"] - frame["energy_true_ev"]) / frame["n_atoms"]
    return figure, frame[[column for column in [*columns, "error_per_atom_ev"] if column in frame]]


# --- figure 3, right ------------------------------------------------------------------------------------------------


def forces(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """True against predicted force components with the thesis's limit of an outlier, and the same for a cleaned set.

    Reads forces and runs of the main run and of :data:`~mlip_studies.studies.pavlovic_products.CLEANED_RUN` (if it was
    trained); after the thesis's figure 3, right.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: the main run was not trained.
    """
    save_figure(*forces_figure(tables, context), output)


def forces_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`forces`, and its numbers."""
    what = "figure fig3-right-forces"
    panels = {"all neutral molecules": MAIN_RUN}
    if CLEANED_RUN in tables.names("forces"):
        panels["cleaned set"] = CLEANED_RUN
    share_stated = stated(context, OUTLIERS)
    tidy, all_runs = [], []
    histograms = {title: need(tables, "forces", run, what) for title, run in panels.items()}
    limit = max(float(np.abs(_occupied(frame)).max()) for frame in histograms.values())
    limit = max(1.05 * limit, 1.3 * RESIDUAL_LIMIT)
    with style():
        figure, axes = plt.subplots(
            1, len(panels), figsize=(FULL_WIDTH if len(panels) > 1 else 0.62 * FULL_WIDTH, 4.75), sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        mesh = None
        top = max(float(frame["count"].max()) for frame in histograms.values())
        for axis, (title, run) in zip(axes[0], panels.items(), strict=True):
            frame = histograms[title]
            runs = need(tables, "runs", run, what)
            all_runs.append(runs)
            tidy.append(frame[frame["count"] > 0].assign(run=run))
            mesh = _mesh(axis, frame, top)
            ends = np.array([-limit, limit])
            axis.plot(ends, ends, color="black", linestyle="--", linewidth=1.0)
            for sign in (-1, 1):
                axis.plot(
                    ends, ends + sign * RESIDUAL_LIMIT, color=OKABE_ITO["vermillion"], linestyle=":", linewidth=1.5
                )
            axis.axhspan(-NEAR_ZERO, NEAR_ZERO, color=OKABE_ITO["orange"], alpha=0.25, linewidth=0, zorder=0.5)
            axis.set_xlim(-limit, limit)
            axis.set_ylim(-limit, limit)
            axis.set_aspect("equal")
            axis.set_xlabel("true force component (eV/Å)")
            thousands(axis, "x")
            thousands(axis)
            share, n = over_seeds(runs, "outlier_fraction"), over_seeds(runs, "n_components")
            drawn_share = f"outliers: {_share(share)}"
            if run == MAIN_RUN:
                drawn_share += f" (thesis, text: {100 * share_stated:g} %)"
            axis.set_title(
                f"{title}, n = {count(n.value)}\n{drawn_share}",
                loc="left",
                x=0.1 if len(panels) > 1 else 0.16,
                fontsize=9,
            )
        axes[0][0].set_ylabel("predicted force component (eV/Å)")
        for axis, letter in zip(axes[0], "ab", strict=False):
            axis.text(0.0, 1.02, f"({letter})", transform=axis.transAxes, fontweight="bold", va="bottom")
        if mesh is not None:
            bar = figure.colorbar(mesh, ax=axes[0].tolist(), shrink=0.75, pad=0.02)
            bar.set_label("components per bin")
        handles: list[Any] = [
            Line2D([], [], color="black", linestyle="--", label="predicted = true"),
            Line2D([], [], color=OKABE_ITO["vermillion"], linestyle=":",
                   label=f"|residual| = {RESIDUAL_LIMIT:g} eV/Å"),
            Patch(facecolor=OKABE_ITO["orange"], alpha=0.3, label=f"predicted near zero\n(|F| < {NEAR_ZERO:g} eV/Å)"),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=3 if len(panels) > 1 else 1, columnspacing=1.2)
        note(
            figure, context, all_runs,
            f"Outliers: |residual| > {RESIDUAL_LIMIT:g} eV/Å with the predicted component near zero, "
            "shares of all n components. Counts: first seed; what lies beyond the axes counts in the outermost bins.",
            "" if len(panels) > 1 else not_run(["the cleaned set"]),
        )  # fmt: skip
    return figure, pd.concat(tidy, ignore_index=True)


def _share(mean: Mean) -> str:
    if np.isfinite(mean.half) and mean.half > 1e-9 * mean.value:
        return f"{number(100 * mean.value, 2)} ± {number(100 * mean.half, 1)} %"
    return percent(mean.value)


def _occupied(frame: pd.DataFrame) -> FloatArray:
    """Outer edges of the bins that hold anything, any shape, eV/Å."""
    filled = frame[frame["count"] > 0]
    limits: FloatArray = filled[["true_low", "true_high", "predicted_low", "predicted_high"]].to_numpy(dtype=float)
    return limits


def _mesh(axis: Axes, frame: pd.DataFrame, top: float) -> Any:
    """Draw a 2-D histogram that is given by its bins; bins that are missing count as empty."""
    edges = []
    for name in ("true", "predicted"):
        low, high = frame[f"{name}_low"].to_numpy(float), frame[f"{name}_high"].to_numpy(float)
        width = float(np.median(high - low))
        n = round((high.max() - low.min()) / width)
        edges.append(np.linspace(low.min(), high.max(), n + 1))
    counts = np.histogram2d(
        (frame["true_low"] + frame["true_high"]).to_numpy(float) / 2,
        (frame["predicted_low"] + frame["predicted_high"]).to_numpy(float) / 2,
        bins=edges, weights=frame["count"].to_numpy(float),
    )[0]  # fmt: skip
    shown = np.ma.masked_less(counts.T, 1)
    return axis.pcolormesh(
        edges[0], edges[1], shown, norm=LogNorm(1, max(top, 2)), cmap=DENSITY, rasterized=True, zorder=2
    )


# Without the palest fifth: a single component must be seen on white.
DENSITY = LinearSegmentedColormap.from_list("density", plt.get_cmap("viridis_r")(np.linspace(0.18, 1.0, 256)))


# --- the slope ------------------------------------------------------------------------------------------------------


def slope(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Error against the number of atoms for every shift, β and energy label, with the line that mechanism A predicts.

    Args:
        tables: results; cells that were not trained are left out.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no cell was trained.
    """
    save_figure(*slope_figure(tables, context), output)


def _grid_cells(tables: RunTables, kind: str) -> list[Cell]:
    """Cells of the experiment: both labels, shifts and values of β with the study's layers and size."""
    return [
        cell for cell in spice_cells(tables, kind)
        if cell.data in ("formation", "total") and cell.beta in BETAS and cell.plain
    ]  # fmt: skip


def predicted_error(atoms: FloatArray, mean_ev: float, n_pad: float) -> FloatArray:
    """Error of a perfect network under mechanism A, p (N/n_pad - 1), eV.

    Args:
        atoms: numbers of atoms N, any shape.
        mean_ev: p, the constant subtracted in training, eV.
        n_pad: atoms of the largest molecule.
    """
    return mean_ev * (np.asarray(atoms, dtype=float) / n_pad - 1.0)


def slope_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`slope`, and its numbers."""
    cells = need_cells(_grid_cells(tables, "molecules"), "figure slope", "formation or total, β 0.99 or 1")
    shifts = [shift for shift in SLOPE_COLUMNS if any(cell.shift == shift for cell in cells)]
    shifts += [shift for shift in SHIFT_NAMES if shift not in shifts and any(cell.shift == shift for cell in cells)]
    lines = [
        (data, beta) for data in ("formation", "total") for beta in BETAS
        if any((cell.data, cell.beta) == (data, beta) for cell in cells)
    ]  # fmt: skip
    tidy, all_runs, missing = [], [], []
    with style():
        figure, axes = plt.subplots(
            len(lines), len(shifts), figsize=(FULL_WIDTH, 1.7 + 1.95 * len(lines)), sharex=True, squeeze=False
        )
        for row, (data, beta) in enumerate(lines):
            for column, shift in enumerate(shifts):
                axis = axes[row][column]
                found = [cell for cell in cells if (cell.data, cell.beta, cell.shift) == (data, beta, shift)]
                if row == len(lines) - 1:
                    axis.set_xlabel("number of atoms N")
                if column == 0:
                    axis.set_ylabel(f"{data}, β = {beta:g}\nerror (eV)")
                if not found:
                    missing.append(f"{data} {shift} β = {beta:g}")
                    axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
                    axis.set_yticks([])
                else:
                    runs = need(tables, "runs", found[0].run, "figure slope")
                    all_runs.append(runs)
                    tidy.append(_draw_slope(axis, tables.get("molecules", found[0].run), runs))
                if row == 0:
                    axis.annotate(
                        f"shift: {SHIFT_NAMES[shift]}", (0, 1), xytext=(0, 31), textcoords="offset points",
                        xycoords="axes fraction", fontweight="bold", fontsize=9.5,
                    )  # fmt: skip
        figure.legend(handles=_slope_handles(), loc="outside upper center", ncols=3, columnspacing=1.4)
        note(
            figure, context, all_runs,
            "Numbers: slopes per atom. Error: predicted − true energy of a test molecule, as the evaluation of each "
            "shift gives it; every panel has its own scale. Black: p (N/n_pad − 1), the error of a perfect network "
            f"under mechanism A; its slope is p/n_pad with the shift '{SHIFT_NAMES['mean_padded']}' (as the code of "
            "2023), else 0; with β = 1 the network never saw p, so its offset −p is not expected. The thesis shows a "
            f"slope and gives no number. Points and thick lines: first seed (at most {count(MOST_POINTS)} molecules); "
            "thin lines: the others.",
            not_run(missing),
        )  # fmt: skip
    return figure, pd.concat(tidy, ignore_index=True)


def _slope_handles() -> list[Any]:
    return [
        Line2D([], [], marker="o", linestyle="none", color=OKABE_ITO["sky blue"], markersize=5, label="test molecules"),
        Line2D([], [], color=OKABE_ITO["vermillion"], linewidth=2, label="least-squares line"),
        Line2D([], [], color="black", linestyle=(0, (4, 2)), linewidth=1.6, label="mechanism A, predicted"),
    ]


def _line(molecules: pd.DataFrame) -> tuple[FloatArray, FloatArray, float, float]:
    """Numbers of atoms, errors (eV), and slope (eV/atom) and intercept (eV) of their least-squares line."""
    atoms = molecules["n_atoms"].to_numpy(float)
    error = (molecules["energy_predicted_ev"] - molecules["energy_true_ev"]).to_numpy(float)
    gradient, intercept = np.polyfit(atoms, error, 1) if np.unique(atoms).size > 1 else (0.0, float(error.mean()))
    return atoms, error, float(gradient), float(intercept)


def _draw_slope(axis: Axes, all_molecules: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One panel; returns the points drawn, with the fitted and the predicted error."""
    molecules = _first_seed(all_molecules)
    atoms, error, gradient, intercept = _line(molecules)
    padded = runs["shift"].iloc[0] == "mean_padded"
    mean, n_pad = float(runs["mean_ev"].iloc[0]), float(runs["n_pad"].iloc[0])
    predicted = predicted_error(atoms, mean, n_pad) if padded else np.zeros_like(atoms)
    shown = np.linspace(0, atoms.size - 1, min(atoms.size, MOST_POINTS)).round().astype(int)
    axis.scatter(
        atoms[shown], error[shown], s=24 if shown.size < 100 else 8 if shown.size < 1000 else 4,
        color=OKABE_ITO["sky blue"], alpha=0.5,
        linewidth=0, rasterized=True, zorder=2,
    )  # fmt: skip
    ends = np.array([atoms.min(), atoms.max()])
    lines = []
    for seed, part in all_molecules.groupby("seed"):
        _, _, one_slope, one_intercept = _line(part)
        first = seed == molecules["seed"].iloc[0]
        axis.plot(
            ends, one_slope * ends + one_intercept, color=OKABE_ITO["vermillion"], linewidth=2 if first else 1,
            alpha=1 if first else 0.6, zorder=3,
        )  # fmt: skip
        lines.append(one_slope * ends + one_intercept)
    line = predicted_error(ends, mean, n_pad) if padded else np.zeros(2)
    axis.plot(ends, line, color="black", linestyle=(0, (4, 2)), linewidth=1.6, zorder=4)
    values = np.concatenate([np.quantile(error, [0.001, 0.999]), line, *lines])
    room = 0.08 * max(float(np.ptp(values)), 1e-6)
    axis.set_ylim(values.min() - room, values.max() + room)
    axis.yaxis.set_major_locator(_round_ticks(5))
    axis.xaxis.set_major_locator(_round_ticks(integer=True))
    thousands(axis)
    texts = (
        (f"fit: {small_energy(over_seeds(runs, 'slope_ev_per_atom'))}", OKABE_ITO["vermillion"], 14),
        (f"predicted: {small_energy(over_seeds(runs, 'predicted_slope_ev_per_atom'))}", "black", 3),
    )
    for text, color, height in texts:
        axis.annotate(
            text, (0, 1), xytext=(0, height), textcoords="offset points", xycoords="axes fraction", color=color,
            fontsize=9,
        )  # fmt: skip
    part = molecules.iloc[shown]
    return pd.DataFrame(
        {
            "run": runs["run"].iloc[0],
            "seed": part["seed"].to_numpy(),
            "row": part["row"].to_numpy(),
            "n_atoms": atoms[shown].astype(int),
            "error_ev": error[shown],
            "fitted_error_ev": (gradient * atoms + intercept)[shown],
            "predicted_error_ev": predicted[shown],
        }
    )


MECHANISMS = (
    ("slope_ev_per_atom", "measured", "black", "o"),
    ("predicted_slope_ev_per_atom", "predicted by mechanism A (p/n_pad)", OKABE_ITO["vermillion"], "s"),
    ("remainder_slope_ev_per_atom", "remainder (mechanism B, and what was not learned)", OKABE_ITO["blue"], "^"),
)


def mechanisms(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Measured slope, slope of mechanism A and what remains, for every cell.

    Args:
        tables: results; cells that were not trained are left out.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no cell was trained.
    """
    save_figure(*mechanisms_figure(tables, context), output)


def mechanisms_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`mechanisms`, and its numbers."""
    cells = need_cells(_grid_cells(tables, "runs"), "figure slope-mechanisms", "formation or total, β 0.99 or 1")
    labels = [data for data in ("formation", "total") if any(cell.data == data for cell in cells)]
    rows = sorted({(cell.order[1], cell.shift, cell.beta) for cell in cells})
    tidy, all_runs, missing = [], [], []
    with style():
        figure, axes = plt.subplots(
            1, len(labels), figsize=(FULL_WIDTH, 2.3 + 0.42 * len(rows)), sharey=True, squeeze=False
        )
        for axis, data in zip(axes[0], labels, strict=True):
            drawn: list[float] = []
            for position, (_, shift, beta) in enumerate(rows):
                found = [cell for cell in cells if (cell.data, cell.shift, cell.beta) == (data, shift, beta)]
                if not found:
                    missing.append(f"{data} {shift} β = {beta:g}")
                    continue
                runs = tables.get("runs", found[0].run)
                all_runs.append(runs)
                for offset, (column, name, color, marker) in zip((-0.24, 0.0, 0.24), MECHANISMS, strict=True):
                    mean = over_seeds(runs, column)
                    axis.errorbar(
                        mean.value, position + offset, xerr=mean.bar, marker=marker, color=color, capsize=2.5,
                        markersize=6, linewidth=1.2, linestyle="none", zorder=3,
                    )  # fmt: skip
                    drawn += [abs(mean.value), *([abs(mean.value) + mean.half] if mean.bar else [])]
                    tidy.append(_row(found[0], column, name, mean))
                whole = _told_apart(runs)
                tidy += [_row(found[0], column, name, mean) for column, name, mean in whole]
                for (_, _, mean), shift_points in zip(whole, TEXT_COLUMNS, strict=True):
                    _beside(axis, _share_text(mean.value), position, shift_points)
            for text, shift_points in zip(("R²", "c₀/−p"), TEXT_COLUMNS, strict=True):
                _beside(axis, text, -0.78, shift_points)
            _symlog(axis, np.array(drawn))
            axis.axvline(0, color="black", linewidth=0.8, zorder=1)
            for between in range(1, len(rows)):
                axis.axhline(between - 0.5, color="#BBBBBB", linewidth=0.6, zorder=0.5)
            axis.grid(axis="y", visible=False)
            axis.set_xlabel("slope of the error (eV/atom)")
            axis.set_title(DATA_NAMES[data])
        axes[0][0].set_yticks(range(len(rows)), [f"{SHIFT_NAMES[shift]}\nβ = {beta:g}" for _, shift, beta in rows])
        axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
        panel_letters(axes[0])
        handles = [
            Line2D([], [], marker=marker, color=color, linestyle="none", markersize=6, label=name)
            for _, name, color, marker in MECHANISMS
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        note(
            figure, context, all_runs,
            "Axis linear around 0, logarithmic beyond. R²: share of the error's variance that one constant per "
            "element and one for all molecules, c₀, explain. c₀ is −p where the network learned energies less their "
            "mean p that came back per padded atom (mechanism A), and 0 where it never saw p (forces only). "
            "The thesis shows a slope and gives no number.",
            not_run(missing),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


TEXT_COLUMNS = (4.0, 34.0)  # points right of a panel


def _beside(axis: Axes, text: str, position: float, points: float) -> None:
    """A short text right of a panel."""
    axis.annotate(
        text, (1, position), xycoords=axis.get_yaxis_transform(), xytext=(points, 0), textcoords="offset points",
        va="center", fontsize=9, color=OKABE_ITO["blue"],
    )  # fmt: skip


def _share_text(value: float) -> str:
    """Two decimals; never minus zero."""
    if not np.isfinite(value):
        return "–"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def _told_apart(runs: pd.DataFrame) -> list[tuple[str, str, Mean]]:
    """What tells the mechanisms apart beside the slopes: (quantity, name, mean)."""
    ratio = runs.assign(constant_over_mean=-runs["error_constant_ev"] / runs["mean_ev"].where(runs["mean_ev"] != 0))
    return [
        ("error_with_constant_r2", "share explained by constants per element and one for all",
         over_seeds(runs, "error_with_constant_r2")),
        ("constant_over_mean", "constant for all over −p", over_seeds(ratio, "constant_over_mean")),
    ]  # fmt: skip


def convergence(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Slope of the energy error and force error against the number of training steps, with energies in the loss.

    A slope that belongs to the reference of the energies stays when training goes on; one of energies that are not
    learned yet goes away.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no run has another number of steps than the study's.
    """
    save_figure(*convergence_figure(tables, context), output)


def convergence_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`convergence`, and its numbers."""
    cells = [cell for cell in spice_cells(tables) if cell.size is None and cell.layers is None]
    families = {(cell.data, cell.beta) for cell in cells if cell.steps is not None}
    chosen = need_cells(
        [cell for cell in cells if (cell.data, cell.beta) in families], "figure convergence", "names with -s"
    )
    runs = {cell: tables.get("runs", cell.run) for cell in chosen}
    columns = {
        "slope_ev_per_atom": "slope of the\nenergy error (eV/atom)",
        FORCE: "force MAE (eV/Å)",
    }
    shifts = sorted({cell.shift for cell in chosen}, key=list(SHIFT_NAMES).index)
    tidy, handles = [], []
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 3.5), squeeze=False)
        for shift in shifts:
            series = sorted(
                (cell for cell in chosen if cell.shift == shift), key=lambda cell: over_seeds(runs[cell], "steps").value
            )
            at = [over_seeds(runs[cell], "steps").value for cell in series]
            color, marker = SHIFT_STYLE[shift]
            for axis, column in zip(axes[0], columns, strict=True):
                means = [over_seeds(runs[cell], column) for cell in series]
                _series(axis, at, means, color, marker)
                tidy += [
                    _row(cell, column, columns[column].replace("\n", " "), mean, steps=steps)
                    for cell, mean, steps in zip(series, means, at, strict=True)
                ]
            handles.append(Line2D([], [], color=color, marker=marker, label=f"shift: {SHIFT_NAMES[shift]}"))
            predicted = over_seeds(runs[series[-1]], "predicted_slope_ev_per_atom")
            axes[0][0].axhline(predicted.value, color=color, linestyle=(0, (4, 2)), linewidth=1.3, zorder=1)
        handles.append(
            Line2D(
                [], [], color=GREY, linestyle=(0, (4, 2)), label="mechanism A, predicted: p/n_pad (padded mean) or 0"
            )
        )
        steps = sorted({over_seeds(frame, "steps").value for frame in runs.values()})
        for axis, name in zip(axes[0], columns.values(), strict=True):
            axis.set_xscale("log")
            axis.set_xticks(steps, [count(value) for value in steps])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel("training steps")
            axis.set_ylabel(name)
        plain_log(axes[0][1])
        panel_letters(axes[0])
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        betas = ", ".join(f"{DATA_NAMES[data]}, β = {beta:g}" for data, beta in sorted(families))
        note(
            figure, context, list(runs.values()),
            f"{betas}. The decay of the learning rate is stretched with the number of steps. The thesis gives no such "
            "numbers.",
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _row(cell: Cell, column: str, name: str, mean: Mean, **more: Any) -> dict[str, Any]:
    """One tidy row of a figure of means over seeds."""
    return {
        "run": cell.run, "data": cell.data, "shift": cell.shift, "beta": cell.beta,
        "quantity": column, "name": name, "mean": mean.value, "half_width_95": mean.half, "n": mean.n, **more,
    }  # fmt: skip


def _symlog(axis: Axes, drawn: FloatArray) -> None:
    """Symmetric logarithmic x axis of two to four decades on either side, with at most five labels."""
    sizes = drawn[np.isfinite(drawn) & (drawn > 0)]
    top = int(np.ceil(np.log10(sizes.max() * 1.3))) if sizes.size else 0
    bottom = int(np.floor(np.log10(np.quantile(sizes, 0.1)))) if sizes.size else -3
    bottom = max(min(bottom, top - 2), top - 5)
    axis.set_xscale("symlog", linthresh=10.0**bottom, linscale=0.5)
    axis.set_xlim(-(10.0**top), 10.0**top)
    powers = [10.0**power for power in range(top, bottom, -1)]
    # Two labels on either side: five digits at the ends and further ones near 0 find no room.
    labeled = (powers[1::2] if top > 3 else powers[::2] if len(powers) > 2 else powers)[:2]
    axis.xaxis.set_major_locator(FixedLocator(sorted({0.0, *(sign * x for x in labeled for sign in (-1, 1))})))
    axis.xaxis.set_minor_locator(FixedLocator([sign * x for x in powers for sign in (-1, 1)]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())


# --- weight of the forces, layers -----------------------------------------------------------------------------------

BEFORE, CORRECTED, FORCE = "energy_mae_ev", "corrected_train_energy_per_atom_mae_ev", "force_mae_ev_per_angstrom"
CORRECTED_TEST = "corrected_test_energy_per_atom_mae_ev"


def _corrected_column(frames: Sequence[pd.DataFrame]) -> str:
    """Fit on training energies where every run has it, else on test energies."""
    return CORRECTED if all(over_seeds(frame, CORRECTED).n for frame in frames) else CORRECTED_TEST


def beta(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors of energy (before and after the correction) and forces against β, for every shift and energy label.

    Args:
        tables: results; cells that were not trained are left out.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no cell was trained.
    """
    save_figure(*beta_figure(tables, context), output)


def beta_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`beta`, and its numbers."""
    cells = [cell for cell in spice_cells(tables) if cell.data in ("formation", "total") and cell.plain]
    need_cells(cells, "figure beta", "formation or total")
    runs = {cell: tables.get("runs", cell.run) for cell in cells}
    labels = [data for data in ("formation", "total") if any(cell.data == data for cell in cells)]
    corrected = _corrected_column(list(runs.values()))
    paper = {
        BEFORE: [(0.99, stated(context, ENERGY_DEFAULT)), (1.0, stated(context, ENERGY_FORCES_ONLY))],
        corrected: [(1.0, stated(context, ENERGY_CORRECTED))],
        FORCE: [(0.99, stated(context, FORCE_DEFAULT)), (1.0, stated(context, FORCE_FORCES_ONLY))],
    }
    names = {
        BEFORE: "energy MAE before\ncorrection (eV)",
        corrected: "energy MAE after\ncorrection (eV/atom)",
        FORCE: "force MAE (eV/Å)",
    }
    betas = sorted({cell.beta for cell in cells} | {0.99, 1.0})
    shifts = sorted({cell.shift for cell in cells}, key=list(SHIFT_NAMES).index)
    tidy = []
    with style():
        figure, axes = plt.subplots(
            len(labels), 3, figsize=(FULL_WIDTH, 1.5 + 2.3 * len(labels)), squeeze=False, sharex=True
        )
        for row, data in enumerate(labels):
            for axis, (column, name) in zip(axes[row], names.items(), strict=True):
                for index, shift in enumerate(shifts):
                    series = [cell for cell in cells if (cell.data, cell.shift) == (data, shift)]
                    means = [over_seeds(runs[cell], column) for cell in series]
                    offset = 0.13 * (index - (len(shifts) - 1) / 2)
                    at = [betas.index(cell.beta) + offset for cell in series]
                    _series(axis, at, means, *SHIFT_STYLE[shift])
                    tidy += [_row(cell, column, name, mean) for cell, mean in zip(series, means, strict=True)]
                for value, number_ in paper[column]:
                    axis.plot(betas.index(value), number_, **STAR)
                axis.set_xticks(range(len(betas)), [f"{value:g}" for value in betas])
                axis.set_xlim(-0.5, len(betas) - 0.5)
                plain_log(axis)
                axis.set_ylabel(name)
                axis.set_title(DATA_NAMES[data], fontsize=9, x=0.57)
                if row == len(labels) - 1:
                    axis.set_xlabel("β")
        panel_letters(axes.ravel())
        handles = [
            Line2D(
                [], [], color=SHIFT_STYLE[shift][0], marker=SHIFT_STYLE[shift][1], label=f"shift: {SHIFT_NAMES[shift]}"
            )
            for shift in shifts
        ] + [Line2D([], [], label=THESIS, **STAR)]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        note(
            figure, context, list(runs.values()),
            f"Correction fitted on {'training' if corrected == CORRECTED else 'test'} energies. The thesis's shift is "
            "not documented and its label not named, so its stars stand in every row. Weight of the energies: 1 − β.",
        )  # fmt: skip
    frame = pd.DataFrame(tidy)
    points = pd.DataFrame(
        [{"run": THESIS, "beta": b, "quantity": column, "mean": v} for column, each in paper.items() for b, v in each]
    )
    return figure, pd.concat([frame, points], ignore_index=True)


def _series(
    axis: Axes, at: Sequence[float], means: Sequence[Mean], color: str, marker: str, line: str = "-", **more: Any
) -> None:
    """Means over seeds joined by a line, with error bars where there are any; seeds as small open dots."""
    if not means:
        return
    bars = np.array([mean.half for mean in means])
    values = np.array([mean.value for mean in means])
    axis.plot(at, values, color=color, marker=marker, markersize=6, linestyle=line, linewidth=1.2, zorder=3, **more)
    if np.isfinite(bars).any():
        lower = np.minimum(bars, 0.95 * np.abs(values))  # a logarithmic axis has no room below zero
        axis.errorbar(
            at, values, yerr=[np.nan_to_num(lower), np.nan_to_num(bars)], color=color, capsize=2.5, linewidth=1.1,
            linestyle="none", zorder=2,
        )  # fmt: skip


def layers(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors and cost against the number of layers.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no run has another number of layers than the default.
    """
    save_figure(*layers_figure(tables, context), output)


def layers_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`layers`, and its numbers."""
    cells = [cell for cell in spice_cells(tables) if cell.size is None and cell.steps is None]
    families = {(cell.data, cell.shift, cell.beta) for cell in cells if cell.layers is not None}
    chosen = need_cells(
        [cell for cell in cells if (cell.data, cell.shift, cell.beta) in families], "figure layers", "names with -l"
    )
    runs = {cell: tables.get("runs", cell.run) for cell in chosen}
    corrected = _corrected_column(list(runs.values()))
    names = {
        corrected: "energy MAE after\ncorrection (eV/atom)",
        FORCE: "force MAE (eV/Å)",
        "configurations_per_second": "training speed\n(molecules/s)",
    }
    paper = {corrected: stated(context, ENERGY_CORRECTED), FORCE: stated(context, FORCE_FORCES_ONLY)}
    lines: tuple[Any, ...] = ("-", "--", ":", "-.")
    family_order = sorted(families, key=lambda family: (family[0], list(SHIFT_NAMES).index(family[1]), family[2]))
    numbers = sorted({_layer_count(runs[cell], cell) for cell in chosen})
    tidy = []
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(FULL_WIDTH, 3.3), squeeze=False)
        handles: list[Any] = []
        for index, family in enumerate(family_order):
            series = sorted(
                (cell for cell in chosen if (cell.data, cell.shift, cell.beta) == family),
                key=lambda cell: _layer_count(runs[cell], cell),
            )
            color, marker = SHIFT_STYLE[family[1]]
            at = [float(_layer_count(runs[cell], cell)) for cell in series]
            name = f"{DATA_NAMES[family[0]]}, {SHIFT_NAMES[family[1]]}, β = {family[2]:g}"
            for axis, column in zip(axes[0], names, strict=True):
                means = [over_seeds(runs[cell], column) for cell in series]
                _series(axis, at, means, color, marker, lines[index % len(lines)])
                tidy += [
                    _row(
                        cell, column, names[column].replace("\n", " "), mean, n_layers=_layer_count(runs[cell], cell),
                        n_parameters=over_seeds(runs[cell], "n_parameters").value,
                    )
                    for cell, mean in zip(series, means, strict=True)
                ]  # fmt: skip
            handles.append(Line2D([], [], color=color, marker=marker, linestyle=lines[index % len(lines)], label=name))
        for axis, (column, name) in zip(axes[0], names.items(), strict=True):
            if column in paper:
                paper_line(axis, paper[column], "y")
            axis.set_xlabel("layers")
            axis.set_ylabel(name)
            axis.set_xticks(numbers)
            axis.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
            plain_log(axis)
        panel_letters(axes[0])
        handles.append(
            Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label=f"{THESIS}, number of layers not stated")
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=1 if len(handles) < 4 else 2)
        fit = "training" if corrected == CORRECTED else "test"
        note(figure, context, list(runs.values()), f"Correction fitted on {fit} energies.")
    return figure, pd.DataFrame(tidy)


def _layer_count(runs: pd.DataFrame, cell: Cell) -> int:
    """Layers as the run says, else as its name says."""
    mean = over_seeds(runs, "n_layers")
    return round(mean.value) if mean.n else cell.n_layers


# --- where the errors are -------------------------------------------------------------------------------------------

COMPARED = (
    (MAIN_RUN, "mean, padded, β = 1, corrected on training energies", OKABE_ITO["vermillion"], "o"),
    (CURE_RUN, "per element, β = 0.99, as predicted", OKABE_ITO["bluish green"], "^"),
)
SIZE_EDGES = (0, 10, 20, 30, 40, 50, 60, 80, 100, 1000)
SMALL = 12  # up to so many atoms every number of atoms is a class
ABOVE_EDGES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 100.0)


def errors_by(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors by subset, number of atoms, energy above the lowest conformation of the molecule, and element.

    Args:
        tables: results; of the main run and the one with a shift per element, those that were trained.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: neither was trained.
    """
    save_figure(*errors_by_figure(tables, context), output)


def _with_errors(molecules: pd.DataFrame, run: str) -> pd.DataFrame:
    """Adds the energy error per atom (corrected for the main run) and the classes by which errors are grouped."""
    predicted = molecules["energy_predicted_ev"]
    if run == MAIN_RUN:
        fit = "train" if molecules["energy_corrected_train_ev"].notna().all() else "test"
        predicted = molecules[f"energy_corrected_{fit}_ev"]
    frame = molecules.assign(
        energy_error_mev_per_atom=EV_TO_MEV * (predicted - molecules["energy_true_ev"]).abs() / molecules["n_atoms"],
        force_error_mev=EV_TO_MEV * molecules["force_mae_ev_per_angstrom"],
    )
    small = frame["n_atoms"].max() <= SMALL
    frame["size"] = _classes(frame["n_atoms"], range(1, SMALL + 2) if small else SIZE_EDGES, single=small)
    if "above_lowest_ev_per_atom" in frame and frame["above_lowest_ev_per_atom"].notna().any():
        frame["above"] = _classes(EV_TO_MEV * frame["above_lowest_ev_per_atom"], EV_TO_MEV * np.array(ABOVE_EDGES))
    if "subset" in frame and frame["subset"].notna().any():
        frame["subset_name"] = frame["subset"].fillna("none stated").map(short_subset)
    return frame


def _classes(values: pd.Series, bounds: Sequence[float] | FloatArray, single: bool = False) -> pd.Series:
    """Class of each value as text, in the order of the bounds (the last class is open).

    Args:
        values: shape (n,).
        bounds: shape (n_classes + 1,).
        single: each class is one whole number.
    """
    edges = np.asarray(bounds, dtype=float)
    one = int(pd.api.types.is_integer_dtype(values))  # 10–19 for whole numbers, 10–20 for others
    names = [f"{low:g}" if single else f"{low:g}–{high - one:g}" for low, high in itertools.pairwise(edges)]
    if not single:
        names[-1] = f"≥ {edges[-2]:g}"
    return pd.cut(values, edges.tolist(), right=False, labels=names)


def short_subset(name: str) -> str:
    """Name of a subset of SPICE without what all of them share."""
    text = " ".join(str(name).replace("_", " ").split())
    for part in ("SPICE ", " Single Points Dataset", " Dataset"):
        text = text.replace(part, "")
    words = [word for word in text.split() if not (word.startswith("v") and word[1:2].isdigit())]
    return " ".join(words)[:26]


def grouped_errors(frame: pd.DataFrame, key: str, column: str) -> pd.DataFrame:
    """Mean error of each class over its molecules, then over seeds.

    Args:
        frame: molecules of all seeds.
        key: column of the classes.
        column: column of the error.

    Returns:
        tidy table: class, mean, half_width_95 (NaN below three seeds), n (seeds), n_molecules (of one seed); classes of
        fewer than five molecules are left out unless there are few molecules at all.
    """
    rows = []
    least = LEAST_PER_BIN if frame["row"].nunique() > 40 * LEAST_PER_BIN else 1
    for name, group in frame.groupby(key, observed=True, sort=True):
        n_molecules = int(group.groupby("seed").size().max())
        if n_molecules < least:
            continue
        mean = over_seeds(group.groupby("seed")[column].mean().to_frame(), column)
        rows.append(
            {
                "class": str(name),
                "mean": mean.value,
                "half_width_95": mean.half,
                "n": mean.n,
                "n_molecules": n_molecules,
            }
        )
    return pd.DataFrame(rows, columns=["class", "mean", "half_width_95", "n", "n_molecules"])


def errors_by_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`errors_by`, and its numbers."""
    present = [entry for entry in COMPARED if entry[0] in tables.names("molecules")]
    if not present:
        raise InputError(f"figure errors-by: neither '{COMPARED[0][0]}' nor '{COMPARED[1][0]}' was trained; "
                         f"add one of them to {STUDY_FILE}")  # fmt: skip
    frames = {run: _with_errors(tables.get("molecules", run), run) for run, *_ in present}
    keys = [
        (key, name) for key, name in (
            ("subset_name", "subset"), ("size", "number of atoms"),
            ("above", "energy above the lowest conformation of its molecule (meV/atom)"),
        ) if any(key in frame and frame[key].notna().any() for frame in frames.values())
    ]  # fmt: skip
    quantities = (
        ("energy_error_mev_per_atom", "energy MAE (meV/atom)"), ("force_error_mev", "force MAE (meV/Å)"),
    )  # fmt: skip
    tidy = []
    classes = {key: _class_names(list(frames.values()), key) for key, _ in keys}
    elements = _element_errors(tables, [run for run, *_ in present])
    heights = [0.35 + 0.2 * max(len(classes[key]), 3) for key, _ in keys]
    if not elements.empty:
        heights.append(0.35 + 0.2 * max(elements["class"].nunique(), 3))
    with style():
        figure, axes = plt.subplots(
            len(heights), 2, figsize=(FULL_WIDTH, 1.6 + 0.45 * len(heights) + sum(heights)), squeeze=False,
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        for line, (key, title) in zip(axes, keys, strict=False):
            for axis, (column, label) in zip(line, quantities, strict=True):
                for index, (run, _, color, marker) in enumerate(present):
                    if key not in frames[run]:
                        continue
                    part = grouped_errors(frames[run], key, column)
                    _draw_classes(axis, part, classes[key], color, marker, index, len(present))
                    tidy.append(part.assign(run=run, by=title, quantity=column))
                _class_axis(axis, classes[key], label)
            line[0].set_ylabel("\n".join(textwrap.wrap(title, 26)))
            line[1].tick_params(labelleft=False)
            sizes = _class_sizes(list(frames.values()), key)
            for position, name in enumerate(classes[key]):
                line[1].annotate(
                    count(sizes.get(name, 0)), (1, position), xycoords=line[1].get_yaxis_transform(), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=9, color=GREY,
                )  # fmt: skip
        if not elements.empty:
            names = sorted(elements["class"].unique(), key=("H", "C", "N", "O", "S").index
                           if set(elements["class"]) <= set("HCNOS") else str)  # fmt: skip
            axis = axes[-1][1]
            for index, (run, _, color, marker) in enumerate(present):
                _draw_classes(axis, elements[elements["run"] == run], names, color, marker, index, len(present))
            _class_axis(axis, names, quantities[1][1])
            axis.set_ylabel("element")
            axes[-1][0].axis("off")
            tidy.append(elements)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=name)
            for _, name, color, marker in present
        ]
        if elements.empty:
            figure.legend(handles=handles, loc="outside upper center", ncols=1)
        else:
            axes[-1][0].legend(handles=handles, loc="center left", bbox_to_anchor=(-0.75, 0.5))
        drawn = [axis for axis in axes.ravel() if axis.axison]
        panel_letters(drawn)
        runs = [tables.get("runs", run) for run, *_ in present if run in tables.names("runs")]
        note(
            figure, context, runs or list(frames.values()),
            f"Mean over the molecules of a class, then over seeds. Grey: test molecules of the class; classes of fewer "
            f"than {LEAST_PER_BIN} are drawn only where there are few molecules at all.",
            not_run(run for run, *_ in COMPARED if run not in frames),
        )  # fmt: skip
    return figure, pd.concat(tidy, ignore_index=True)


def _class_names(frames: Sequence[pd.DataFrame], key: str) -> list[str]:
    """Classes with enough molecules in any frame, in order."""
    joined = [frame[key] for frame in frames if key in frame]
    first = joined[0]
    order = list(first.cat.categories) if isinstance(first.dtype, pd.CategoricalDtype) else sorted(
        {str(name) for each in joined for name in each.dropna()}
    )  # fmt: skip
    kept = {
        name for frame in frames if key in frame
        for name in grouped_errors(frame.assign(one=1.0), key, "one")["class"]
    }  # fmt: skip
    return [name for name in order if name in kept]


def _class_sizes(frames: Sequence[pd.DataFrame], key: str) -> dict[str, int]:
    """Test molecules of each class."""
    first = _first_seed(next(frame for frame in frames if key in frame))
    return {str(name): int(n) for name, n in first[key].value_counts().items()}


def _draw_classes(
    axis: Axes, part: pd.DataFrame, names: Sequence[str], color: str, marker: str, index: int, of: int
) -> None:
    """Horizontal points of one run, shifted a little from those of the others."""
    offset = 0.26 * (index - (of - 1) / 2)
    for _, row in part[part["class"].isin(names)].iterrows():
        width = row["half_width_95"]
        axis.errorbar(
            row["mean"], names.index(row["class"]) + offset, xerr=width if np.isfinite(width) else None, marker=marker,
            color=color, capsize=2, markersize=5, linewidth=1, linestyle="none",
        )  # fmt: skip


def _class_axis(axis: Axes, names: Sequence[str], label: str) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axis.set_xlabel(label)
    plain_log(axis, "x", room=1.25)


def _element_errors(tables: RunTables, names: Sequence[str]) -> pd.DataFrame:
    """Force MAE by element in meV/Å, one row per run and element."""
    rows = []
    for run in names:
        if run not in tables.names("elements"):
            continue
        frame = tables.get("elements", run)
        for element, group in frame.groupby("element", sort=False):
            mean = over_seeds(group, FORCE)
            rows.append({"class": str(element), "mean": EV_TO_MEV * mean.value, "half_width_95": EV_TO_MEV * mean.half,
                         "n": mean.n, "run": run, "by": "element", "quantity": "force_error_mev"})  # fmt: skip
    return pd.DataFrame(rows)


# --- spread over seeds ----------------------------------------------------------------------------------------------


def ensemble(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Spread of predictions over seeds against the error of their mean, for energies and forces.

    Args:
        tables: results; of the main run and the one with a shift per element, those with at least two seeds.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: neither has two seeds.
    """
    save_figure(*ensemble_figure(tables, context), output)


def ensemble_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`ensemble`, and its numbers."""
    found = {run: _ensemble_table(tables, run) for run, *_ in COMPARED}
    frames = {run: frame for run, frame in found.items() if frame is not None}
    if not frames:
        raise InputError(
            f"figure ensemble: neither '{COMPARED[0][0]}' nor '{COMPARED[1][0]}' has two seeds; give one of them at "
            f"least two in {STUDY_FILE}"
        )
    present = [entry for entry in COMPARED if entry[0] in frames]
    panels = (
        ("energy", "energy_std_ev_per_atom", "energy_error_ev_per_atom", "meV/atom"),
        ("force", "force_std_ev_per_angstrom", "force_error_ev_per_angstrom", "meV/Å"),
    )
    from scipy import stats  # here, because it takes half a second

    tidy, all_runs = [], []
    with style():
        figure, axes = plt.subplots(len(present), 2, figsize=(FULL_WIDTH, 1.3 + 2.9 * len(present)), squeeze=False)
        for line, (run, name, color, _) in zip(axes, present, strict=True):
            frame = frames[run]
            n_seeds = int(frame["n_seeds"].iloc[0])
            if run in tables.names("runs"):
                all_runs.append(tables.get("runs", run))
            for axis, (quantity, spread, error, unit) in zip(line, panels, strict=True):
                both = EV_TO_MEV * frame[[spread, error]].dropna().to_numpy(dtype=float)
                both = both[(both > 0).all(axis=1)]
                if both.size == 0:
                    axis.text(0.5, 0.5, "no such predictions", transform=axis.transAxes, ha="center", color=GREY)
                    continue
                _draw_spread(axis, both, color)
                rank = float(stats.spearmanr(both[:, 0], both[:, 1]).statistic) if len(both) > 2 else np.nan
                factor = float(both[:, 1].mean() / both[:, 0].mean())
                axis.set_title(
                    f"rank correlation {number(rank, 2)}\nmean |error| / mean std {number(factor, 2)}", fontsize=9,
                    loc="left", x=0.1,
                )  # fmt: skip
                axis.set_xlabel(f"std of the {quantity} over {n_seeds} seeds ({unit})")
                axis.set_ylabel(f"|error| of the mean\n({unit})")
                tidy.append(
                    pd.DataFrame(
                        {"run": run, "quantity": quantity, "unit": unit, "std": both[:, 0], "error": both[:, 1]}
                    )
                )
            line[0].annotate(
                "\n".join(textwrap.wrap(name, 30)), (0, 0.5), xytext=(-62, 0), xycoords="axes fraction",
                textcoords="offset points", rotation=90, ha="center", va="center", fontsize=9, fontweight="bold",
            )  # fmt: skip
        for axis, letter in zip(axes.ravel(), "abcd", strict=False):
            axis.text(-0.02, 1.03, f"({letter})", transform=axis.transAxes, fontweight="bold", va="bottom")
        handles: list[Any] = [
            Line2D([], [], marker="o", linestyle="none", color=GREY, markersize=4, label="test molecules"),
            Line2D([], [], color="black", linestyle="--", linewidth=1, label="|error| = std"),
        ]
        if any(len(frame) >= FEW for frame in frames.values()):
            handles.insert(
                1, Line2D([], [], marker="D", color="black", markersize=5, label="mean of a tenth of the molecules")
            )
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        note(
            figure, context, all_runs,
            "Energies per atom, after the correction fitted on training energies where there is one; forces: mean over "
            "the components of a molecule. A constant that all seeds share does not show in the spread.",
            not_run(f"{run} (fewer than two seeds)" for run in found if run not in frames),
            seeds=f"n = {' and '.join(sorted({str(int(f['n_seeds'].iloc[0])) for f in frames.values()}))} seeds",
        )  # fmt: skip
    return figure, pd.concat(tidy, ignore_index=True)


def _ensemble_table(tables: RunTables, run: str) -> pd.DataFrame | None:
    """The ensemble table of a run; None if it was not trained or has one seed (a table without rows)."""
    if run not in tables.names("ensemble"):
        return None
    if run in tables.names("runs") and tables.get("runs", run)["seed"].nunique() < 2:
        return None
    return tables.get("ensemble", run)


def _draw_spread(axis: Axes, both: FloatArray, color: str) -> None:
    """Cloud of (std, error), its means in tenths by std, and the diagonal, on logarithmic axes."""
    shown = np.linspace(0, len(both) - 1, min(len(both), MOST_POINTS)).round().astype(int)
    axis.scatter(
        both[shown, 0], both[shown, 1], s=22 if shown.size < 200 else 7 if shown.size < 1000 else 3,
        color=color, alpha=0.4, linewidth=0,
        rasterized=True,
    )  # fmt: skip
    if len(both) >= FEW:
        parts = np.array_split(both[np.argsort(both[:, 0])], 10)
        means = np.array([part.mean(axis=0) for part in parts])
        axis.plot(means[:, 0], means[:, 1], color="black", marker="D", markersize=5, linewidth=1.2, zorder=4)
    axis.set_xlim(*np.quantile(both[:, 0], [0.002, 0.998]))
    axis.set_ylim(*np.quantile(both[:, 1], [0.02, 0.998]))
    plain_log(axis, "x", room=1.3)
    plain_log(axis, "y", room=1.3)
    ends = np.array([min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])])
    limits = axis.get_xlim(), axis.get_ylim()
    axis.plot(ends, ends, color="black", linestyle="--", linewidth=1)
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])
