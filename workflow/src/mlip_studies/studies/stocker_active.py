"""Active learning: one table of all rounds, and the figure of survival, failures and test errors before and after.

Conventions are those of :mod:`~mlip_studies.studies.stocker_robustness`: eV/Å, ps, K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.claims.inputs import MissingDataError, read_table
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, footer, panel_letters, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import count, plain_log
from mlip_studies.studies.stocker import size_style
from mlip_studies.studies.stocker_robustness import (
    STUDY_FILE,
    Series,
    draw_curve,
    failures_note,
    first_time,
    lifetimes,
    need_tables,
    rate_of,
    scale_note,
    span_text,
    survival_curve,
    time_axis,
    upper_limit,
)

ACTIVE_COLUMNS = (
    "round", "n_train", "n_added", "force_mae_ev_per_angstrom", "trajectory", "temperature_k", "observed_ps", "failed",
    "failure_ps", "failure_kind",
)  # fmt: skip


def write_active(rounds: Sequence[Mapping[str, Any]], output: PathLike) -> pd.DataFrame:
    """Put the rounds of an active-learning loop into one table, one line per round and trajectory.

    Args:
        rounds: in order; each with ``robustness`` (path of robustness.csv of its dynamics) and optionally ``runs``
            (path of runs.csv of its training, for the errors on the random test rows), ``n_train`` (training rows, if
            ``runs`` is not given) and ``n_added`` (rows added to the training set before it; 0 by default).
        output: path of the CSV file.

    Returns:
        the table: round, n_train, n_added, force_mae_ev_per_angstrom and energy_mae_ev (test, mean over seeds; NaN
        where not given), and the columns of robustness.csv.

    Raises:
        InputError: no rounds, or a file that is missing, damaged or lacks a column.
    """
    need_tables(rounds, "active learning", "no rounds were given, at least the dynamics before the first addition")
    first = ["round", "n_train", "n_added", "force_mae_ev_per_angstrom", "energy_mae_ev"]
    parts = []
    for index, entry in enumerate(rounds):
        texts = ("job", "run", "name", "formula", "failure_kind", "detail")
        frame = read_table(entry["robustness"], ACTIVE_COLUMNS[4:], texts)
        values: dict[str, Any] = dict.fromkeys(first, math.nan)
        values |= {"round": index, "n_added": int(entry.get("n_added") or 0), "n_train": entry.get("n_train")}
        if entry.get("runs"):
            runs = read_table(entry["runs"], ("n_train", *first[3:]), ("run",))
            values["n_train"] = int(runs["n_train"].iloc[0])
            values |= {name: float(runs[name].mean()) for name in first[3:]}
        parts.append(frame.assign(**values))
    table = pd.concat(parts, ignore_index=True)
    table = table[[*first, *(name for name in table if name not in first)]]
    with atomic_path(output) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return table


def active_learning(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Survival, failures per ns and test error before and after failed configurations joined the training set.

    Args:
        tables: the study's results (active.csv, see :func:`write_active`).
        context: scale.
        output: path of the PNG file.

    Raises:
        InputError: the loop was not run, or a column is missing.
    """
    frame = active_frame(tables)
    rounds = sorted(frame["round"].unique())
    temperatures = sorted(frame["temperature_k"].unique())
    series, labels = [], {}
    for index, number_of in enumerate(rounds):
        part = frame[frame["round"] == number_of]
        color, _, line = size_style(index, len(rounds))
        added, total = int(part["n_added"].iloc[0]), int(part["n_train"].iloc[0])
        labels[number_of] = "before" if number_of == 0 else f"round {number_of}" if len(rounds) > 2 else "after"
        text = f"{labels[number_of]}: {count(total)} rows"
        text += f", {count(added)} added" if added else ""
        series.append(Series(text, labels[number_of], color, line, str(number_of), part))
    tidy: list[dict[str, Any]] = []
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 6.6))
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.2, 1])
        upper, lower = parts
        curves = upper.subplots(1, len(temperatures), sharey=True, squeeze=False)[0]
        end = float(frame["observed_ps"].max())
        low, logarithmic = first_time(frame, end)
        drawn = []
        for axis, temperature in zip(curves, temperatures, strict=True):
            for index, one in enumerate(series):
                part = one.robustness[one.robustness["temperature_k"] == temperature]
                if part.empty:
                    continue
                curve = survival_curve(part)
                draw_curve(axis, curve, part, one, low, 3.0 - 1.6 * index)
                drawn.append(curve.assign(panel="survival", round=int(one.run), temperature_k=temperature))
            axis.set_title(f"{temperature:g} K", fontsize=9.5)
            axis.set_xlabel("time (ps)")
            time_axis(axis, low, end, logarithmic, len(temperatures))
            axis.set_ylim(-4, 104)
        curves[0].set_ylabel("without a failure (%)")
        rate, error = lower.subplots(1, 2)
        _rates_by_round(rate, frame, series, temperatures, tidy)
        _errors_by_round(error, frame, series, tidy)
        panel_letters([*curves, rate, error])
        handles: list[Any] = [
            Line2D([], [], color=s.color, linestyle=s.line, linewidth=1.8, marker="os"[i % 2], label=s.label)
            for i, s in enumerate(series)
        ]
        handles.append(Line2D([], [], linestyle="", marker="|", markersize=8, color="black", label="censored"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=3)
        counts = frame.groupby(["round", "temperature_k"]).size()
        lines = [
            f"{scale_note(context)} · n = {span_text(counts, 'trajectories')} per round and temperature of "
            f"{span_text([end], 'ps')}, "
            "one network each",
            "Added: failed and other configurations of the round before, with DFT labels. Bands and bars: 95 % "
            "(Kaplan–Meier; Poisson). The paper names such a loop and does not run it.",
            failures_note(frame),
        ]
        footer(figure, "\n".join(lines))
    save_figure(figure, pd.concat([*drawn, pd.DataFrame(tidy)], ignore_index=True), output)


def active_frame(tables: RunTables) -> pd.DataFrame:
    """Trajectories of all rounds of the active-learning loop with time_ps, see :func:`lifetimes`.

    Args:
        tables: the study's results (active.csv, see :func:`write_active`).

    Raises:
        InputError: the loop was not run, or a column is missing.
    """
    try:
        frame = tables.active()
    except MissingDataError:
        raise InputError(
            f"figure active-learning: active.csv was not given; add dynamics before and after to {STUDY_FILE}"
        ) from None
    missing = [name for name in ACTIVE_COLUMNS if name not in frame]
    if missing:
        raise InputError(f"active.csv: column '{missing[0]}' is missing; run the active-learning loop again")
    frame["failed"] = frame["failed"].astype(str).str.lower().isin(("true", "1"))
    frame["failure_kind"] = frame["failure_kind"].fillna("")
    return lifetimes(frame)


def _rates_by_round(
    axis: Axes,
    frame: pd.DataFrame,
    series: Sequence[Series],
    temperatures: Sequence[float],
    tidy: list[dict[str, Any]],
) -> None:
    for index, one in enumerate(series):
        marker, offset = "os"[index % 2], 0.2 * (index - (len(series) - 1) / 2)
        for place, temperature in enumerate(temperatures):
            group = frame[(frame["round"] == int(one.run)) & (frame["temperature_k"] == temperature)]
            found = rate_of(group)
            if not np.isfinite(found.value):
                continue
            row = {"panel": "failures_per_ns", "round": int(one.run), "temperature_k": temperature, "n": len(group)}
            tidy.append({**row, "value": found.value, "low": found.low, "high": found.high})
            if found.value == 0:
                upper_limit(axis, place + offset, found.high, one.color, marker, upright=True)
            else:
                bars = [[found.value - found.low], [found.high - found.value]]
                axis.errorbar(place + offset, found.value, yerr=bars, marker=marker, color=one.color, capsize=2)
    axis.set_ylabel("first failures per ns\n(open: none, upper limit)")
    axis.set_xticks(range(len(temperatures)), [f"{temperature:g} K" for temperature in temperatures])
    axis.set_xlim(-0.5, len(temperatures) - 0.5)
    if axis.lines:
        plain_log(axis, "y", 1.5)


def _errors_by_round(axis: Axes, frame: pd.DataFrame, series: Sequence[Series], tidy: list[dict[str, Any]]) -> None:
    axis.set_ylabel("test error, random rows:\nforce MAE (eV/Å)")
    axis.set_xticks(range(len(series)), [one.short for one in series])
    axis.set_xlim(-0.5, len(series) - 0.5)
    first = frame.groupby("round")["force_mae_ev_per_angstrom"].first()
    for index, one in enumerate(series):
        value = float(first[int(one.run)])
        if np.isfinite(value):
            axis.plot(index, value, "os"[index % 2], color=one.color, markersize=7)
            tidy.append({"panel": "test_force_mae", "round": int(one.run), "value": value})
    if axis.lines:
        axis.set_ylim(0, 1.3 * float(first.max()))
    else:
        axis.text(0.5, 0.5, "test errors not given", transform=axis.transAxes, ha="center", color=GREY)
