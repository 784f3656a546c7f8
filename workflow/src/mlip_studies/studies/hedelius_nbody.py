"""Charged particles: true and predicted paths, and errors beside the thesis's, for the SE(3)-Transformer study.

After B. E. Hedelius, *Learning inter-atomic forces with an SE(3)-Transformer*, Brigham Young University 2021, section
3.1 and figure 3.1. Every product has the form ``f(tables, context, output)``: ``nbody`` and ``nbody_errors`` write
<output>.png, .svg and .csv, ``nbody_table`` writes <output>.html and .csv. They need ``nbody/<network>/run.json`` of
the networks, ``nbody`` also a ``predictions.npz``, the other two ``nbody/baselines.csv``. All lengths, velocities and
times are in the units of the simulation; numbers of the thesis are taken from the claim file by id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mlip_studies.artifacts import PathLike, require
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_line, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import count, number

__all__ = ["nbody", "nbody_errors", "nbody_table"]

#: claims and quoted numbers that are drawn
STATED: Mapping[str, str] = {"own": "nbody-mse-own", "original": "nbody-mse-original"}
QUOTED: Mapping[str, str] = {"x": "nbody-paper-x", "v": "nbody-paper-v"}
#: networks and baselines from the bottom of a figure to its top, with their names
NETWORKS: Mapping[str, str] = {"own": "SE(3)-Transformer, thesis's norm", "original": "SE(3)-Transformer, published"}
BASELINES: Mapping[str, str] = {
    "linear": "linear least squares",
    "straight_line": "straight line",
    "unchanged": "all stays as it is",
}
WINDOWS: Mapping[str, str] = {"every": "windows along the whole trajectory", "first": "from the first saved frame"}
QUANTITIES: Mapping[str, str] = {"x": "position", "v": "velocity", "both": "mean of both"}
LOOKS: Mapping[str, tuple[str, str]] = {
    "own": (OKABE_ITO["blue"], "o"),
    "original": (OKABE_ITO["vermillion"], "s"),
    "linear": (OKABE_ITO["bluish green"], "^"),
    "straight_line": (OKABE_ITO["orange"], "D"),
    "unchanged": (OKABE_ITO["reddish purple"], "v"),
}
#: colour, marker and line of the particles; the thesis's are red, green, blue, orange and purple
PARTICLES: tuple[tuple[str, str, Any], ...] = (
    (OKABE_ITO["vermillion"], "o", "-"),
    (OKABE_ITO["bluish green"], "s", (0, (5, 1.5))),
    (OKABE_ITO["blue"], "^", "-"),
    (OKABE_ITO["orange"], "D", (0, (3, 1, 1, 1))),
    (OKABE_ITO["reddish purple"], "v", "-"),
)
CONFIDENCE = 1.96


def _scale_text(context: StudyContext) -> str:
    text = f"{context.scale} scale"
    return (
        f"{text} (few trajectories, small networks: no reproduction of the thesis)" if context.scale == "mini" else text
    )


def _runs(tables: RunTables) -> dict[str, dict[str, Any]]:
    """What the networks say about themselves, those of the thesis first.

    Raises:
        MissingDataError: there is none.
    """
    runs = tables.nbody_runs()
    if not runs:
        raise MissingDataError("nbody: no trained network is among the results that were asked for")
    order = [*NETWORKS, *runs]
    return dict(sorted(runs.items(), key=lambda item: order.index(item[0])))


# --- figure 3.1 ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paths:
    """One test trajectory with what a network predicts along it, turned to the principal axes of its motion.

    Attributes:
        trajectory: number in the test set.
        true: shape (n_frames, n_balls, 3).
        predicted: shape (n_windows, n_balls, 3).
        starts: frames that the predictions start from, shape (n_windows,).
        ahead: frames to the target.
        charges: shape (n_balls,).
        mse_x: mean squared error of the positions on this trajectory.
        mse_v: of the velocities.
    """

    trajectory: int
    true: np.ndarray
    predicted: np.ndarray
    starts: np.ndarray
    ahead: int
    charges: np.ndarray
    mse_x: float
    mse_v: float


def chosen_paths(path: PathLike) -> Paths:
    """A test trajectory that is typical and can be read.

    Of the middle third of those kept, by squared error, the one with charges of both signs whose particles stay
    farthest apart: the largest mean over its frames of the smallest distance.

    Args:
        path: ``predictions.npz`` of a network.

    Raises:
        InputError: missing, changed, or without the arrays.
    """
    path = require(path)
    try:
        with np.load(path) as archive:
            true, predicted = archive["example_positions"], archive["example_predicted_positions"]
            true_v, predicted_v = archive["example_velocities"], archive["example_predicted_velocities"]
            charges, starts = archive["example_charges"], archive["start_frames"]
            ahead = int(archive["ahead_frames"])
    except (KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not predictions of particles ({reason}); remove it to have it made again") from None
    x = np.square(predicted - true[:, starts + ahead], dtype=np.float64).mean(axis=(1, 2, 3))
    v = np.square(predicted_v - true_v[:, starts + ahead], dtype=np.float64).mean(axis=(1, 2, 3))
    third = len(x) // 3
    middle = np.argsort(x + v, kind="stable")[third : len(x) - third]
    first, second = np.triu_indices(true.shape[2], 1)
    closest = np.linalg.norm(true[:, :, first] - true[:, :, second], axis=-1).min(axis=2).mean(axis=1)
    # All charges alike only fly apart; where nothing else was kept, one of these is shown.
    alike = np.abs(charges.sum(axis=1)) == charges.shape[1]
    row = int(middle[np.argmax(closest[middle] - np.where(alike[middle], closest.max() + 1.0, 0.0))])
    centre = true[row].mean(axis=(0, 1))
    # The first two principal axes span the plane in which most of the motion is seen.
    _, _, axes = np.linalg.svd((true[row] - centre).reshape(-1, 3), full_matrices=False)
    return Paths(
        row,
        (true[row] - centre) @ axes.T,
        (predicted[row] - centre) @ axes.T,
        starts,
        ahead,
        charges[row],
        float(x[row]),
        float(v[row]),
    )


def _sign(charge: float) -> str:
    return "+" if charge > 0 else "−"


def _draw_paths(axis: Any, paths: Paths, axes: tuple[int, ...]) -> None:
    """True paths in colours, predictions as black crosses with a line to where the particle really was."""
    for ball in range(paths.true.shape[1]):
        color, marker, line = PARTICLES[ball % len(PARTICLES)]
        way = [paths.true[:, ball, k] for k in axes]
        axis.plot(*way, color=color, linestyle=line, linewidth=1.1, marker=".", markersize=2.2, zorder=2)
        target = [paths.true[paths.starts + paths.ahead, ball, k] for k in axes]
        axis.plot(*target, color=color, linestyle="none", marker=marker, markersize=4.6, zorder=3)
        guess = [paths.predicted[:, ball, k] for k in axes]
        for index in range(len(paths.starts)):
            ends = [[guess[k][index], target[k][index]] for k in range(len(axes))]
            axis.plot(*ends, color="black", linewidth=0.9, zorder=4)
        axis.plot(*guess, color="black", linestyle="none", marker="x", markersize=4.2, markeredgewidth=1.0, zorder=5)
        begin = [float(values[0]) for values in way]
        axis.plot(
            *[[value] for value in begin],
            linestyle="none",
            marker=marker,
            markersize=9.5,
            markerfacecolor="white",
            markeredgecolor=color,
            markeredgewidth=1.5,
            zorder=6,
        )
        text = axis.text(*begin, _sign(float(paths.charges[ball])), ha="center", va="center", fontsize=9)
        text.set_zorder(7)
        text.set_fontweight("bold")


def nbody(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """True paths of five charged particles and what a network predicts 500 steps ahead (figure 3.1).

    Args:
        tables: results; needs ``run.json`` and ``predictions.npz`` of one network, ``own`` if it is there.
        context: claims and scale.
        output: path of the PNG file.

    Raises:
        MissingDataError: nothing was trained.
    """
    figure, tidy = nbody_figure(tables, context)
    save_figure(figure, tidy, output)


def nbody_figure(tables: RunTables, context: StudyContext) -> tuple[Figure, pd.DataFrame]:
    """The figure and the numbers drawn, see :func:`nbody`."""
    runs = _runs(tables)
    network, run = next(iter(runs.items()))
    paths = chosen_paths(tables.nbody_predictions(network))
    every = int(run["system"]["save_every"])
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 8.2))
        grid = figure.add_gridspec(3, 2, height_ratios=[1.55, 1.15, 0.36])
        space: Any = figure.add_subplot(grid[0, :], projection="3d")
        flat = [figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])]
        _draw_paths(space, paths, (0, 1, 2))
        _space_axes(space, paths)
        for axis, axes in zip(flat, ((0, 1), (0, 2)), strict=True):
            _draw_paths(axis, paths, axes)
            axis.set_xlabel("axis 1 (simulation units)")
            axis.set_ylabel(f"axis {axes[1] + 1} (simulation units)")
            axis.margins(0.1)
            axis.set_aspect("equal", adjustable="datalim")
        panel_letters([space, *flat])
        legend = figure.add_subplot(grid[2, :])
        legend.axis("off")
        legend.legend(handles=_path_handles(paths, every), loc="center", ncols=3, columnspacing=1.4, handlelength=2.2)
        summary = run["test"]
        footer(
            figure,
            f"{_scale_text(context)} · {NETWORKS.get(network, network)}, {count(run['n_parameters'])} parameters, "
            f"{count(run['n_train'])} training trajectories · test trajectory {paths.trajectory}: of the middle third "
            "by squared error, the one with both charges whose particles stay farthest apart; turned to the principal "
            "axes of its motion\n"
            f"MSE of this trajectory: position {number(paths.mse_x)}, velocity {number(paths.mse_v)}; of the test set "
            f"({count(summary['n_windows'])} windows): position {number(summary['mse_x'])}, velocity "
            f"{number(summary['mse_v'])}, mean of both {number(summary['mse_both'])} (thesis {_thesis_text(context)}). "
            f"Walls reflect at ±{run['system']['box']:g} along the simulation's axes; a network that sees differences "
            "of positions cannot foresee that.",
        )
    return figure, _tidy_paths(paths, every, network)


def _thesis_text(context: StudyContext) -> str:
    own, original = (context.paper(STATED[key])[""] for key in ("own", "original"))
    return f"{own:g}, published code {original:g}"


def _space_axes(axis: Any, paths: Paths) -> None:
    """Equal units along the three axes, a quiet background, and room for the labels."""
    everything = np.concatenate([paths.true.reshape(-1, 3), paths.predicted.reshape(-1, 3)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    axis.set_box_aspect(np.maximum(high - low, 1e-6), zoom=1.25)
    for name, lower, upper in zip("xyz", low, high, strict=True):
        getattr(axis, f"set_{name}lim")(lower, upper)
        getattr(axis, f"{name}axis").pane.set_facecolor("white")
        getattr(axis, f"{name}axis").set_major_locator(MaxNLocator(4))
    axis.set_xlabel("axis 1", labelpad=1)
    axis.set_ylabel("axis 2", labelpad=1)
    axis.set_zlabel("axis 3", labelpad=1)
    # Full labels would run into each other.
    axis.set_title("axes in simulation units", fontsize=9.5)
    axis.tick_params(pad=0)
    axis.view_init(elev=24, azim=-62)


def _path_handles(paths: Paths, every: int) -> list[Line2D]:
    handles = []
    for ball, charge in enumerate(paths.charges):
        color, marker, line = PARTICLES[ball % len(PARTICLES)]
        label = f"particle {ball + 1}, charge {_sign(float(charge))}1"
        handles.append(Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4.6, label=label))
    steps = paths.ahead * every
    handles += [
        Line2D([], [], color=GREY, marker=".", markersize=4, label=f"true, every {every} steps"),
        Line2D([], [], color=GREY, marker="o", markersize=4.6, linestyle="none", label=f"true, every {steps} steps"),
        Line2D(
            [], [], color="black", marker="x", markersize=4.2, markeredgewidth=1.0, linewidth=0.9,
            label=f"predicted {steps} steps ahead, and its error",
        ),
        Line2D(
            [], [], color=GREY, marker="o", markersize=9, markerfacecolor="white", linestyle="none",
            label="first saved frame, sign of the charge",
        ),
    ]  # fmt: skip
    return handles


def _tidy_paths(paths: Paths, every: int, network: str) -> pd.DataFrame:
    rows = []
    for ball, charge in enumerate(paths.charges):
        series = [("true", frame, paths.true[frame, ball]) for frame in range(len(paths.true))]
        series += [
            ("predicted", int(start) + paths.ahead, paths.predicted[index, ball])
            for index, start in enumerate(paths.starts)
        ]
        for kind, frame, place in series:
            rows.append(
                {
                    "network": network, "trajectory": paths.trajectory, "particle": ball + 1, "charge": float(charge),
                    "kind": kind, "step": (frame + 1) * every, **{f"axis_{k + 1}": float(place[k]) for k in range(3)},
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


# --- errors ----------------------------------------------------------------------------------------------------------


def error_rows(tables: RunTables) -> pd.DataFrame:
    """Errors of every network and baseline on both kinds of test windows, baselines first.

    Columns: predictor, kind (network or baseline), windows, n_windows, n_trajectories, and of each of x, v and both
    ``mse_``, ``sem_`` (standard error over trajectories), ``median_`` and ``worst_share_``; networks also have
    n_parameters, n_train, steps, train_seconds and windows_per_second.

    Raises:
        MissingDataError: there is no network or no table of baselines.
    """
    runs = _runs(tables)
    baselines = tables.nbody_baselines()
    wanted = ["baseline", "windows", "n_windows", *(f"{name}_{part}" for name in ("mse", "sem") for part in QUANTITIES)]
    absent = [column for column in wanted if column not in baselines.columns]
    if absent:
        raise InputError(f"nbody/baselines.csv: column '{absent[0]}' is missing; delete the file and run again")
    known = list(BASELINES)
    baselines = baselines.rename(columns={"baseline": "predictor"}).assign(kind="baseline")
    baselines = baselines.sort_values(
        "predictor", key=lambda column: [-known.index(each) if each in known else 1 for each in column], kind="stable"
    )
    rows = []
    for network, run in reversed(runs.items()):
        for windows, summary in run["test_by_windows"].items():
            facts = {key: run[key] for key in ("n_parameters", "n_train", "steps", "train_seconds")}
            rows.append(
                {
                    "predictor": network, "windows": windows, "kind": "network", **summary, **facts,
                    "windows_per_second": run["windows_per_second"],
                    "configured": windows == ("first" if run["config"]["windows"] == "first" else "every"),
                }
            )  # fmt: skip
    return pd.concat([baselines, pd.DataFrame(rows)], ignore_index=True)


def _title(predictor: str) -> str:
    return {**NETWORKS, **BASELINES}.get(predictor, predictor)


def nbody_errors(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Mean squared errors of position, velocity and both, by network and baseline, beside the thesis's.

    Args:
        tables: results; needs every network's ``run.json`` and the baselines.
        context: claims and scale.
        output: path of the PNG file.

    Raises:
        MissingDataError: nothing was trained, or there are no baselines.
    """
    figure, tidy = nbody_errors_figure(tables, context)
    save_figure(figure, tidy, output)


def nbody_errors_figure(tables: RunTables, context: StudyContext) -> tuple[Figure, pd.DataFrame]:
    """The figure and the numbers drawn, see :func:`nbody_errors`."""
    frame = error_rows(tables)
    predictors = list(dict.fromkeys(frame["predictor"]))[::-1]
    tidy = []
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(FULL_WIDTH, 4.1), sharey=True)
        for axis, (quantity, title) in zip(axes, QUANTITIES.items(), strict=True):
            for _, row in frame.iterrows():
                color, marker = LOOKS.get(row["predictor"], ("black", "P"))
                first = row["windows"] == "first"
                y = predictors.index(row["predictor"]) + (0.16 if first else -0.16)
                value, half = float(row[f"mse_{quantity}"]), CONFIDENCE * float(row[f"sem_{quantity}"])
                half = half if math.isfinite(half) else 0.0
                axis.errorbar(
                    value, y, xerr=[[min(half, 0.95 * value)], [half]], color=color, marker=marker, markersize=6.5,
                    markerfacecolor="white" if first else color, capsize=2.5, linewidth=1.2,
                )  # fmt: skip
                tidy.append(
                    {
                        "predictor": row["predictor"], "windows": row["windows"], "quantity": quantity, "mse": value,
                        "half_width_95": half, "n_windows": int(row["n_windows"]), "source": "ours",
                    }
                )  # fmt: skip
            tidy += _draw_stated(axis, context, quantity)
            axis.set_xscale("log")
            axis.set_title(f"{title}", fontsize=9.5)
            axis.set_xlabel("MSE (simulation units²)" if quantity != "both" else "MSE")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
            low, high = axis.get_xlim()
            axis.set_xlim(low / 1.15, high * 1.15)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(predictors)), [_wrapped(_title(each)) for each in predictors])
        axes[0].set_ylim(-0.6, len(predictors) - 0.4)
        panel_letters(axes)
        figure.legend(handles=_error_handles(context), loc="outside upper center", ncols=2, columnspacing=1.4)
        footer(figure, "\n".join([_sizes_text(tables, context, frame), _reading_text()]))
    return figure, pd.DataFrame(tidy)


def _draw_stated(axis: Axes, context: StudyContext, quantity: str) -> list[dict[str, Any]]:
    """The thesis's errors where it is not said of what, and the SE(3)-Transformer paper's in the other panels."""
    if quantity == "both":
        values = {key: context.paper(claim)[""] for key, claim in STATED.items()}
    else:
        values = {"quoted": context.paper(QUOTED[quantity])[""]}
    rows = []
    for key, value in values.items():
        line: Any = paper_line(axis, value)
        line.set_linestyle({"own": (0, (5, 3)), "original": ":", "quoted": "-."}[key])
        if key != "quoted":
            line.set_color(LOOKS[key][0])
        rows.append({"predictor": key, "windows": "", "quantity": quantity, "mse": value, "source": "stated"})
    return rows


def _error_handles(context: StudyContext) -> list[Line2D]:
    stated = {key: context.paper(claim)[""] for key, claim in STATED.items()}
    quoted = " and ".join(f"{context.paper(claim)['']:g}" for claim in QUOTED.values())
    return [
        Line2D([], [], color=GREY, marker="o", linestyle="none", label=f"ours, {WINDOWS['every']}"),
        Line2D([], [], color=GREY, marker="o", linestyle="none", mfc="white", label=f"ours, {WINDOWS['first']}"),
        Line2D([], [], color=LOOKS["own"][0], linestyle=(0, (5, 3)), label=f"thesis, own: {stated['own']:g}"),
        Line2D([], [], color=LOOKS["original"][0], linestyle=":", label=f"thesis, published: {stated['original']:g}"),
        Line2D([], [], color=GREY, linestyle="-.", label=f"SE(3)-Transformer paper: {quoted}"),
    ]  # fmt: skip


def _sizes_text(tables: RunTables, context: StudyContext, frame: pd.DataFrame) -> str:
    runs = _runs(tables)
    short = {network: NETWORKS.get(network, network).rpartition(", ")[2] for network in runs}
    networks = "; ".join(
        f"{short[network]}: {count(run['n_parameters'])} parameters, {count(run['n_train'])} training trajectories, "
        f"{count(run['steps'])} steps"
        for network, run in runs.items()
    )
    sizes = {windows: int(part["n_windows"].max()) for windows, part in frame.groupby("windows")}
    tests = ", ".join(f"{count(sizes[windows])} {text}" for windows, text in WINDOWS.items() if windows in sizes)
    return f"{_scale_text(context)} · {networks} · test: {tests}; bars: 95 % over trajectories."


def _reading_text() -> str:
    return (
        "The thesis states one MSE per network and not of what; it is drawn where it would be the mean of position and "
        "velocity. The SE(3)-Transformer paper's numbers are of its own settings."
    )


def _wrapped(text: str) -> str:
    head, _, tail = text.partition(", ")
    return f"{head},\n{tail}" if tail else text


def nbody_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """All errors of networks and baselines with how they were obtained, beside the thesis's.

    Args:
        tables: results; needs every network's ``run.json`` and the baselines.
        context: claims and scale.
        output: path of the HTML file.

    Raises:
        MissingDataError: nothing was trained, or there are no baselines.
    """
    frame = error_rows(tables)
    rows = []
    for _, row in frame.iloc[::-1].iterrows():
        line: dict[str, Any] = {"predictor": _title(row["predictor"]), "windows": WINDOWS[row["windows"]]}
        for part in QUANTITIES:
            line[f"mse_{part}"] = float(row[f"mse_{part}"])
            line[f"half_{part}"] = CONFIDENCE * float(row[f"sem_{part}"])
        line["mse_sum"] = line["mse_x"] + line["mse_v"]
        stated = STATED.get(row["predictor"])
        line["thesis"] = math.nan if stated is None else context.paper(stated)[""]
        for name in ("median_both", "worst_share_both", "n_windows", "n_parameters", "n_train", "steps"):
            line[name] = float(row.get(name, math.nan))
        for name in ("train_seconds", "windows_per_second"):
            line[name] = float(row.get(name, math.nan))
        rows.append(line)
    table = pd.DataFrame(rows)
    for name in ("n_windows", "n_parameters", "n_train", "steps"):
        table[name] = table[name].astype("Int64")
    quoted = ", ".join(f"{QUANTITIES[part]} {context.paper(claim)['']:g}" for part, claim in QUOTED.items())
    runs = _runs(tables)
    facts = next(iter(runs.values()))
    system = facts["system"]
    write_html_table(
        table,
        output,
        "Charged particles: errors of predictions",
        f"{_scale_text(context)}. Mean squared errors over windows, particles and components, in squared units of the "
        f"simulation; target {facts['config']['ahead_frames'] * system['save_every']} steps after the input "
        f"({facts['duration']:g} units of time).",
        headings=HEADINGS,
        after={
            "How to read it": [
                "The thesis states one MSE per network and not whether it is that of positions, of velocities, their "
                "mean or their sum; the claims are compared with the mean of both.",
                f"Its SE(3)-Transformer is compared there with the published one; for that the SE(3)-Transformer paper "
                f"gives, with settings of its own: {quoted}.",
                "Squared errors are dominated by close encounters: see the share that the worst hundredth of the "
                "windows has in the sum, and the median.",
                f"Walls stand at ±{system['box']:g}; a network that knows differences of positions only cannot foresee "
                "reflections, which become frequent late in a trajectory: windows along the whole trajectory are "
                "harder than those from the first saved frame.",
                "± is 1.96 standard errors over test trajectories.",
            ]
        },
    )


HEADINGS: Mapping[str, str] = {
    "predictor": "prediction", "windows": "test windows",
    "mse_x": "MSE position", "half_x": "± position", "mse_v": "MSE velocity", "half_v": "± velocity",
    "mse_both": "MSE, mean of both", "half_both": "± mean", "mse_sum": "MSE, sum of both", "thesis": "thesis",
    "median_both": "median, mean of both", "worst_share_both": "share of the worst 1 %", "n_windows": "windows",
    "n_parameters": "parameters", "n_train": "training trajectories", "steps": "steps",
    "train_seconds": "training (s)", "windows_per_second": "windows/s",
}  # fmt: skip
