"""Robustness of the networks in dynamics: survival, matrix of networks, and what the figures of robustness share.

Figures of large molecules, of conservation of energy and of active learning stand in ``stocker_large``,
``stocker_conservation`` and ``stocker_active``.

Everything is drawn from the tidy files that :class:`~mlip_studies.claims.run_tables.RunTables` reads; what the paper
states is taken from the claim file. Energies are in eV, forces in eV/Å, times in ps, temperatures in K.

A trajectory fails at its first failure (robustness.csv); one that ends without is censored at the time looked at.
Errors against DFT are taken on frames whose calculation converged plainly, as in the paper: a restricted calculation
that converges only with help is, for a molecule in pieces, no trustworthy reference. They are means over the frames of
a trajectory, then over trajectories.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import half_width
from mlip_studies.errors import InputError
from mlip_studies.md.survival import failure_rate, kaplan_meier
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import (
    FULL_WIDTH,
    GREY,
    OKABE_ITO,
    footer,
    panel_letters,
    paper_line,
    style,
)
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies import pavlovic_ethanol, stocker
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import count, number, plain_log, tick
from mlip_studies.studies.pavlovic_ethanol import Look
from mlip_studies.studies.stocker import THERMAL, Floor, floor_of, short_count, size_style, wilson

STUDY_FILE = stocker.STUDY_FILE
PAPER = stocker.PAPER
#: data whose networks are simulated; the others (drawn by force norm, by molecule) have figures of their own
MAIN_DATA = stocker.RANDOM
MAIN_NETWORK = stocker.NETWORK
PLAIN = "converged"

#: networks that were trained elsewhere, by the name of their run
PRETRAINED: Mapping[str, str] = {"ani1x": "ANI-1x", "ani1ccx": "ANI-1ccx", "ani2x": "ANI-2x"}
#: networks of figure 3 by one letter, in the numbers under the panels
TAGS: Mapping[str, str] = {"gemnet_q": "Q", "gemnet_t": "T", "schnet": "S", "dimenet_plus_plus": "D"}
TEMPERATURE_LOOKS: tuple[tuple[str, str], ...] = (
    (OKABE_ITO["blue"], "o"),
    (OKABE_ITO["orange"], "s"),
    (OKABE_ITO["vermillion"], "^"),
    (OKABE_ITO["reddish purple"], "D"),
    (OKABE_ITO["black"], "v"),
)
#: lines of networks, which differ in colour and marker too
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (3, 1, 1, 1)),
    (0, (1.5, 1.2)),
    "--",
    (0, (6, 1.2, 1, 1.2, 1, 1.2)),
    "-.",
)
FAILURES: Mapping[str, str] = {
    "topology": "a bond breaks or forms",
    "fragments": "the molecule falls apart",
    "temperature": "the temperature runs away",
    "energy": "the energy runs away",
    "not_finite": "a number is not finite",
    "collision": "atoms collide",
}
#: points of a curve in a figure, at most
MOST_POINTS = 600

# Claims whose numbers stand in the figures.
CLAIM_MD_ENERGY = stocker.MD_ENERGY_LARGEST
CLAIM_BREAK_PS = stocker.BREAK_TIME


def stated_range(context: StudyContext, claim_id: str) -> tuple[float, float]:
    """Ends of the range that a claim states, or its number twice.

    Args:
        context: holds the claims.
        claim_id: id in the claim file.
    """
    paper = context.claim(claim_id).paper
    if isinstance(paper, Mapping) and "range" in paper:
        return float(paper["range"][0]), float(paper["range"][1])
    values = context.paper(claim_id).values()
    return min(values), max(values)


# --- runs, their names and looks ------------------------------------------------------------------------------------


def network_of(run: str) -> str:
    """Network of a run; a name of another form, of a network trained elsewhere, is the network itself.

    Args:
        run: name of the run.
    """
    name = parse_run_name(run)
    return run.removeprefix("pretrained-") if name is None else name.network


def size_of(run: str) -> int | None:
    """Training rows that a run's name says; None for a network trained elsewhere or on all rows."""
    name = parse_run_name(run)
    return None if name is None else name.train_size


def data_of(run: str) -> str:
    """Data of a run; empty for a network trained elsewhere."""
    name = parse_run_name(run)
    return "" if name is None else name.data


def is_pretrained(run: str) -> bool:
    """Whether the network was not trained in this study."""
    return parse_run_name(run) is None or network_of(run) in PRETRAINED


def look_of(network: str, others: Sequence[str] = ()) -> Look:
    """Name, colour and marker of a network, the same in all figures.

    Args:
        network: name of the network.
        others: all networks of the figure, so that unknown ones differ.
    """
    look = pavlovic_ethanol.look_of(network, others)
    return replace(look, title=PRETRAINED.get(network, look.title))


def rows_text(size: int | None) -> str:
    """Number of training rows in words, "" where it is not known."""
    return "" if size is None else f"{short_count(size)} rows"


def run_title(run: str, runs: Iterable[str]) -> str:
    """Short name of a run: its network, and the training rows where runs of the figure differ in them.

    Args:
        run: name of the run.
        runs: all runs of the figure.
    """
    title = look_of(network_of(run), [network_of(name) for name in runs]).title
    if is_pretrained(run):
        return f"{title}, pretrained"
    sizes = {size_of(name) for name in runs if not is_pretrained(name)}
    return f"{title}, {rows_text(size_of(run))}" if len(sizes) > 1 and size_of(run) is not None else title


def letter_tag(run: str, networks: Sequence[str]) -> str:
    """One letter or number for the network of a run, in the numbers under panels.

    Args:
        run: name of the run.
        networks: all networks of the figure.
    """
    network = network_of(run)
    return TAGS.get(network, str(1 + list(dict.fromkeys(networks)).index(network)))


def _network_rank(network: str) -> int:
    order = (MAIN_NETWORK, "gemnet_t", "schnet", "dimenet_plus_plus", "so3krates", "se3_basic", "egnn")
    return order.index(network) if network in order else len(order)


def simulated(
    tables: RunTables, job: str, what: str, kind: str = "robustness", data: str | None = MAIN_DATA
) -> list[str]:
    """Runs with a table of a job of dynamics, GemNet-Q first, small training sets first, pretrained networks last.

    Args:
        tables: the study's results.
        job: name of the job.
        what: the product, for messages.
        kind: which table (robustness, samples, replicas, …).
        data: only networks trained on this data, and pretrained ones; None: all.

    Raises:
        InputError: there is none.
    """
    runs = [
        run
        for found, run in tables.md_jobs(kind)
        if found == job and (data is None or is_pretrained(run) or data_of(run) == data)
    ]
    if not runs:
        raise InputError(
            f"{what}: no dynamics of job '{job}' were given ({kind}.csv); add runs to md.{job}.runs in {STUDY_FILE}"
        )
    return sorted(runs, key=run_order)


def run_order(run: str) -> tuple[bool, int, int, str]:
    """Key that sorts runs: GemNet-Q first, small training sets first, pretrained networks last.

    Args:
        run: name of the run.
    """
    return is_pretrained(run), _network_rank(network_of(run)), size_of(run) or 0, run


def matrix_runs(runs: Iterable[str]) -> list[str]:
    """One run per network: those of the training size that most networks have, else each network's largest.

    Args:
        runs: candidates.

    Returns:
        the chosen ones, pretrained networks last.
    """
    runs = sorted(dict.fromkeys(runs), key=run_order)
    trained = [run for run in runs if not is_pretrained(run)]
    networks = list(dict.fromkeys(map(network_of, trained)))
    sizes = {size_of(run) or 0 for run in trained}
    common = max(
        sizes,
        key=lambda size: (len({network_of(run) for run in trained if (size_of(run) or 0) == size}), size),
        default=0,
    )
    chosen = []
    for network in networks:
        own = [run for run in trained if network_of(run) == network]
        same = [run for run in own if (size_of(run) or 0) == common]
        chosen.append(same[-1] if same else max(own, key=lambda run: size_of(run) or 0))
    return [*chosen, *(run for run in runs if is_pretrained(run))]


def largest_runs(runs: Iterable[str]) -> list[str]:
    """Each network's run with the largest training set, in the order of :func:`run_order`.

    Args:
        runs: candidates.
    """
    best = {network_of(run): run for run in sorted(runs, key=run_order)}
    return sorted(best.values(), key=run_order)


def need_tables(names: Sequence[Any], what: str, which: str) -> None:
    """Stop if there is nothing to show.

    Raises:
        InputError: the sequence is empty.
    """
    if not names:
        raise InputError(f"{what}: {which}; add them in {STUDY_FILE}")


# --- statistics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its 95 % interval.

    Attributes:
        value: NaN where nothing was measured.
        low: lower end; NaN where there is no interval.
        high: upper end.
        n: how many observations.
    """

    value: float
    low: float
    high: float
    n: int


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def mean_of(values: Iterable[float]) -> Interval:
    """Mean of the finite values with its 95 % interval (Student t, from three on), not below zero for magnitudes.

    Args:
        values: magnitudes, shape (n,).
    """
    array = np.asarray(list(values), dtype=float)
    array = array[np.isfinite(array)]
    if not array.size:
        return NOTHING
    mean, half = float(array.mean()), half_width(array.tolist())
    if half is None or not np.isfinite(half):
        return Interval(mean, math.nan, math.nan, int(array.size))
    return Interval(mean, max(mean - half, 0.0), mean + half, int(array.size))


def share_of(successes: int, n: int) -> Interval:
    """Share with Wilson's 95 % interval.

    Args:
        successes: how many.
        n: of how many.
    """
    return Interval(successes / n, *wilson(successes, n), n) if n else NOTHING


def lifetimes(robustness: pd.DataFrame) -> pd.DataFrame:
    """Robustness table with ``time_ps``: the time of the first failure, else the time looked at.

    Args:
        robustness: one line per trajectory (robustness.csv).
    """
    failed = robustness["failed"].to_numpy(dtype=bool)
    first = robustness["failure_ps"].to_numpy(dtype=float)
    looked = robustness["observed_ps"].to_numpy(dtype=float)
    time = np.where(failed & np.isfinite(first), first, looked)
    return robustness.assign(time_ps=np.maximum(np.nan_to_num(time), 0.0))


def survival_curve(group: pd.DataFrame) -> pd.DataFrame:
    """Share of trajectories without a failure against time (Kaplan and Meier) as a step function from 0 to the end.

    Args:
        group: trajectories with time_ps and failed (see :func:`lifetimes`), shape (n, …).

    Returns:
        time_ps, alive, low, high (95 %), shares between 0 and 1, each valid from its time on.
    """
    columns = (np.asarray(each, dtype=float) for each in kaplan_meier(group["time_ps"], group["failed"]))
    curve = pd.DataFrame(dict(zip(("time_ps", "alive", "low", "high"), columns, strict=True)))
    if curve.empty or curve["time_ps"].iloc[0] > 0:
        start = pd.DataFrame({"time_ps": [0.0], "alive": [1.0], "low": [1.0], "high": [1.0]})
        curve = pd.concat([start, curve], ignore_index=True)
    end = float(group["time_ps"].max())
    if curve["time_ps"].iloc[-1] < end:
        curve = pd.concat([curve, curve.iloc[-1:].assign(time_ps=end)], ignore_index=True)
    return curve


def survived(group: pd.DataFrame) -> Interval:
    """Share without a failure at the end, with its 95 % interval.

    Where no trajectory or every one failed, Kaplan and Meier's estimate has no error; Wilson's interval is given then.

    Args:
        group: trajectories with time_ps and failed.
    """
    n, broken = len(group), int(group["failed"].sum())
    if n == 0:
        return NOTHING
    last = survival_curve(group).iloc[-1]
    if broken in (0, n):
        return share_of(n - broken, n)
    return Interval(float(last["alive"]), float(last["low"]), float(last["high"]), n)


def rate_of(group: pd.DataFrame) -> Interval:
    """First failures per ns of trajectories that were still whole, with the exact 95 % interval of Poisson.

    Args:
        group: trajectories with time_ps and failed.
    """
    if not len(group) or float(group["time_ps"].sum()) <= 0:
        return NOTHING
    rate, low, high = failure_rate(group["time_ps"], group["failed"])
    return Interval(float(rate), float(low), float(high), int(group["failed"].sum()))


def with_reference(judged: pd.DataFrame) -> pd.DataFrame:
    """Frames with a plainly converged reference.

    Args:
        judged: one line per frame (see the module's text).
    """
    return judged[(judged["status"] == PLAIN) & np.isfinite(judged["ae_error_ev"].to_numpy(dtype=float))]


def md_error(judged: pd.DataFrame, column: str) -> Interval:
    """Mean |error| over the frames of each trajectory, then over trajectories, with its 95 % interval.

    Args:
        judged: frames of one network at one temperature.
        column: ae_error_ev or a force error.
    """
    frames = with_reference(judged)
    if frames.empty:
        return NOTHING
    return mean_of(frames[column].abs().groupby(frames["trajectory"]).mean())


def thin(values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Numbers of at most so many evenly spaced elements, first and last among them, shape (n_kept,)."""
    n = len(values)
    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).round().astype(int))


# --- text -----------------------------------------------------------------------------------------------------------


def scale_note(context: StudyContext) -> str:
    """First words of a footer."""
    mini = " (small data and budget: no reproduction of the paper)" if context.scale == "mini" else ""
    return f"{context.scale} scale{mini}"


def floor_note(floor: Floor | None) -> str:
    """What the floor is; empty where it was not measured."""
    if floor is None:
        return "Floor of the checks: not measured."
    energy, force, n = floor
    return (
        f"Floor of the checks ({count(n)} test rows at the checks' level against their labels): {number(energy, 2)} "
        f"eV, {number(force, 2)} eV/Å."
    )


def span_text(values: Iterable[float], unit: str) -> str:
    """One number with its unit, or the smallest and the largest of several."""
    found = sorted({float(f"{value:.4g}") for value in values if np.isfinite(value)})
    if not found:
        return f"no {unit}"
    text = tick(found[0]) if len(found) == 1 else f"{tick(found[0])} to {tick(found[-1])}"
    if text == "1":
        unit = (
            unit.removesuffix("ies") + "y"
            if unit.endswith("ies")
            else unit
            if len(unit) == 2
            else unit.removesuffix("s")
        )
    return f"{text} {unit}"


def kinds_text(robustness: pd.DataFrame) -> str:
    """First failures by kind, in words.

    Args:
        robustness: trajectories.
    """
    kinds = robustness.loc[robustness["failed"], "failure_kind"].value_counts()
    return "; ".join(f"{FAILURES.get(str(kind), kind)} ({n})" for kind, n in kinds.items())


def missing_runs(context: StudyContext, shown: Iterable[str]) -> dict[str, str]:
    """Networks of the study without dynamics, and why, by title.

    Args:
        context: its ``settings`` may hold reasons, ``matrix: {not_run: {<network>: <reason>}}``.
        shown: runs that are shown.
    """
    there = set(map(network_of, shown))
    reasons = dict((context.settings.get("matrix") or {}).get("not_run") or {})
    wanted = [run.network for run in context.runs.values() if run.data == MAIN_DATA]
    asked = [network_of(str(entry["run"])) for entry in _thermal(context).get("runs", []) if "run" in entry]
    missing = {}
    for network in dict.fromkeys([*wanted, *asked, *reasons]):
        if network not in there:
            default = "its dynamics are not among the results" if network in asked else "no dynamics were asked for"
            missing[look_of(network).title] = str(reasons.get(network, default))
    if not any(is_pretrained(run) for run in shown) and not set(missing) & set(PRETRAINED.values()):
        missing["ANI"] = "no dynamics with pretrained weights were asked for"
    return missing


def _thermal(context: StudyContext) -> Mapping[str, Any]:
    return (context.settings.get("md") or {}).get(THERMAL) or {}


def not_run_text(missing: Mapping[str, str]) -> str:
    """One sentence; empty if nothing is missing."""
    groups: dict[str, list[str]] = {}
    for name, reason in missing.items():
        groups.setdefault(reason, []).append(name)
    return "" if not groups else "Not run: " + "; ".join(f"{', '.join(v)} ({k})" for k, v in groups.items()) + "."


# --- parts of figures -----------------------------------------------------------------------------------------------


def error_scale(axis: Axes, errors: pd.Series) -> None:
    """Symmetric axis of errors, logarithmic where the largest is far above the others.

    Args:
        axis: whose vertical axis is set.
        errors: signed, in the unit of the axis; NaN is left out.
    """
    size = errors.abs()
    size = size[size > 0]
    if size.empty:
        return
    middle = float(size.median())
    if size.max() > 30 * middle:
        step = 10.0 ** math.ceil(math.log10(middle))
        axis.set_yscale("symlog", linthresh=step)
        axis.yaxis.set_major_formatter(lambda value, _: tick(value))
    else:
        axis.yaxis.set_major_formatter(lambda value, _: tick(round(value, 9)))
    reach = 1.4 * float(size.max())
    axis.set_ylim(-reach, reach)


def upper_limit(axis: Axes, x: float, y: float, color: str, marker: str, upright: bool) -> None:
    """Draw an open symbol with an arrow to smaller values.

    Args:
        axis: the panel.
        x: place, in the unit of the axis.
        y: place, in the unit of the axis.
        color: colour.
        marker: symbol.
        upright: whether small values are below, else to the left.
    """
    axis.plot(x, y, marker, color=color, markersize=6, markerfacecolor="white", zorder=3)
    axis.annotate(
        "", (x, y), (0, -20) if upright else (-22, 0), textcoords="offset points",
        arrowprops={"arrowstyle": "<-", "color": color}, zorder=2,
    )  # fmt: skip


# --- survival -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """One curve of a figure of survival.

    Attributes:
        label: in the legend.
        short: beside the numbers at risk.
        color: colour.
        line: style of the line.
        run: name of the run.
        robustness: its trajectories.
    """

    label: str
    short: str
    color: str
    line: Any
    run: str
    robustness: pd.DataFrame


def survival(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Share of GemNet-Q's trajectories without a failure against time, one curve per training size.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no dynamics of GemNet-Q.
    """
    runs = [run for run in simulated(tables, THERMAL, "figure survival") if network_of(run) == MAIN_NETWORK]
    need_tables(runs, "figure survival", f"no dynamics of {look_of(MAIN_NETWORK).title} were given")
    series = []
    for index, run in enumerate(runs):
        color, _, line = size_style(index, len(runs))
        text = rows_text(size_of(run)) or "all rows"
        series.append(Series(text, text.removesuffix(" rows"), color, line, run, tables.robustness(THERMAL, run)))
    title = f"{look_of(MAIN_NETWORK).title} trained on"
    figure, tidy = survival_figure(series, context, title, CLAIM_BREAK_PS)
    save_figure(figure, tidy, output)


def survival_networks(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Share of trajectories without a failure against time, one curve per network at one training size.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no dynamics.
    """
    runs = matrix_runs(simulated(tables, THERMAL, "figure survival-networks"))
    networks = [network_of(run) for run in runs]
    series = []
    for index, run in enumerate(runs):
        look = look_of(network_of(run), networks)
        line = LINES[index % len(LINES)]
        label = run_title(run, runs)
        series.append(Series(label, look.title, look.color, line, run, tables.robustness(THERMAL, run)))
    sizes = sorted({size for size in map(size_of, runs) if size is not None})
    title = f"networks trained on {rows_text(sizes[0])}" if len(sizes) == 1 else "networks"
    figure, tidy = survival_figure(series, context, title, None, not_run_text(missing_runs(context, runs)))
    save_figure(figure, tidy, output)


def survival_figure(
    series: Sequence[Series], context: StudyContext, title: str, mark: str | None = None, more: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """Curves of Kaplan and Meier, one panel per temperature, with the numbers at risk below.

    Args:
        series: the curves.
        context: scale and claims.
        title: of the legend.
        mark: claim that gives the time (ps) at which the paper's example breaks, drawn where the axis reaches it.
        more: a further line of the footer.

    Returns:
        the figure and what it draws.
    """
    everything = [lifetimes(one.robustness).assign(run=one.run) for one in series]
    frame = pd.concat(everything, ignore_index=True)
    temperatures = sorted(frame["temperature_k"].unique())
    end = float(frame["observed_ps"].max())
    low, logarithmic = first_time(frame, end)
    tidy: list[pd.DataFrame] = []
    n = len(series)
    with style():
        risk_height = 0.19 * (n + 1.5)
        figure, grid = plt.subplots(
            2, len(temperatures), figsize=(FULL_WIDTH, 3.5 + 0.2 * math.ceil(n / 4) + risk_height), squeeze=False,
            height_ratios=[2.3, risk_height], sharex="col", sharey="row",
        )  # fmt: skip
        stated = context.paper(mark)[""] if mark is not None else math.nan
        for column, temperature in enumerate(temperatures):
            above, below = grid[0][column], grid[1][column]
            for index, one in enumerate(series):
                part = frame[(frame["run"] == one.run) & (frame["temperature_k"] == temperature)]
                if part.empty:
                    continue
                curve = survival_curve(part)
                draw_curve(above, curve, part, one, low, 1.2 + 2.0 * (n - 1 - index) / max(n - 1, 1))
                tidy.append(
                    curve.assign(
                        run=one.run,
                        label=one.label,
                        temperature_k=temperature,
                        n=len(part),
                        n_failed=int(part["failed"].sum()),
                    )
                )
            time_axis(above, low, end, logarithmic, len(temperatures))
            if low < stated < end:
                paper_line(above, stated, label=f"{PAPER}: an example of 3.2k rows breaks")
            above.set_ylim(-4, 104)
            above.set_title(f"{temperature:g} K", fontsize=9.5)
            above.tick_params(labelbottom=True)
            above.set_xlabel("time (ps)")
            _numbers_at_risk(below, above, frame[frame["temperature_k"] == temperature], series, column == 0, end)
        grid[0][0].set_ylabel("without a failure (%)")
        panel_letters(grid[0])
        handles: list[Any] = [
            Line2D([], [], color=s.color, linestyle=s.line, linewidth=1.8, label=s.label) for s in series
        ]
        handles.append(Line2D([], [], linestyle="", marker="|", markersize=8, color="black", label="censored"))
        handles.append(Patch(color="#BDBDBD", label="95 %"))
        if low < stated < end:
            handles.append(
                Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label=f"{PAPER}: example of 3.2k rows breaks")
            )
        figure.legend(
            handles=handles, loc="outside upper center", ncols=4, title=title, handlelength=3.0, columnspacing=1.2
        )
        counts = frame.groupby(["run", "temperature_k"]).size()
        lines = [
            f"{scale_note(context)} · n = {span_text(counts, 'trajectories')} per curve (first seed's network), "
            f"{span_text([end], 'ps')} · bands: Kaplan–Meier, 95 % (log-log Greenwood), none where all live",
            failures_note(frame) + (" Where curves coincide, those below are wider." if n > 1 else ""),
        ]
        if mark is not None and not low < stated < end:
            lines.append(f"{PAPER.capitalize()}: an example of 3.2k rows breaks after {stated:g} ps, beyond this axis.")
        footer(figure, "\n".join([*lines, *([more] if more else [])]))
    return figure, pd.concat(tidy, ignore_index=True)


def first_time(frame: pd.DataFrame, end: float) -> tuple[float, bool]:
    """Left end (ps) of an axis of times, and whether it is logarithmic: where failures come early.

    Args:
        frame: trajectories with time_ps and failed (see :func:`lifetimes`).
        end: right end, ps.
    """
    failures = frame.loc[frame["failed"] & (frame["time_ps"] > 0), "time_ps"]
    if len(failures) and float(failures.min()) < end / 30:
        return float(failures.min()) / 2, True
    return 0.0, False


def time_axis(axis: Axes, low: float, end: float, logarithmic: bool, panels: int) -> None:
    """Set the limits and ticks of an axis of times.

    Args:
        axis: whose horizontal axis is set.
        low: left end of a logarithmic axis, ps (see :func:`first_time`).
        end: right end, ps.
        logarithmic: whether it is.
        panels: how many stand side by side.
    """
    if not logarithmic:
        axis.set_xlim(-0.04 * end, 1.04 * end)
        axis.xaxis.set_major_locator(MaxNLocator(3 if panels > 2 else 5, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(lambda value, _: tick(round(value, 9)))
        return
    axis.set_xscale("log")
    axis.set_xlim(low, 1.15 * end)
    _time_ticks(axis)


def _time_ticks(axis: Axes) -> None:
    """Few plain numbers on a logarithmic axis of times."""
    low, high = axis.get_xlim()
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [step * 10.0**power for power in range(-4, 7) for step in steps if low < step * 10.0**power < high]
        if len(ticks) >= 3:
            break
    while len(ticks) > 5:
        ticks = ticks[::-1][::2][::-1]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(lambda value, _: tick(value))
    axis.xaxis.set_minor_formatter(NullFormatter())


def failures_note(frame: pd.DataFrame) -> str:
    """One sentence about how many trajectories failed and by what.

    Args:
        frame: trajectories with time_ps, failed and failure_kind (see :func:`lifetimes`).
    """
    if not frame["failed"].any():
        return f"None of the {count(len(frame))} trajectories failed: that all live on is a lower bound."
    text = f"{count(int(frame['failed'].sum()))} of {count(len(frame))} trajectories failed"
    if frame["failed"].all():
        text = f"All {count(len(frame))} trajectories failed"
    early = int((frame["failed"] & (frame["time_ps"] == 0)).sum())
    text += f" ({count(early)} before the sampling began, at 0)" if early else ""
    return f"{text}; first failures: {kinds_text(frame)}."


def draw_curve(axis: Axes, curve: pd.DataFrame, part: pd.DataFrame, one: Series, low: float, width: float) -> None:
    """Draw a survival curve in percent with its band and the censored trajectories.

    Args:
        axis: the panel.
        curve: steps (see :func:`survival_curve`).
        part: the trajectories behind it, with time_ps and failed.
        one: colour and line.
        low: left end of the axis, ps.
        width: of the line, points.
    """
    time = curve["time_ps"].clip(lower=low)
    axis.fill_between(
        time, 100 * curve["low"], 100 * curve["high"], step="post", color=one.color, alpha=0.13, linewidth=0, zorder=1
    )
    axis.step(time, 100 * curve["alive"], where="post", color=one.color, linestyle=one.line, linewidth=width, zorder=3)
    censored = part.loc[~part["failed"], "time_ps"].to_numpy(dtype=float)
    if censored.size:
        # The share at a time is that of the last step before it.
        where = np.searchsorted(curve["time_ps"].to_numpy(), censored, side="right") - 1
        share = 100 * curve["alive"].to_numpy()[where]
        axis.plot(np.maximum(censored, low), share, "|", color=one.color, markersize=9, markeredgewidth=1.4, zorder=4)


def _numbers_at_risk(
    axis: Axes, above: Axes, frame: pd.DataFrame, series: Sequence[Series], labelled: bool, end: float
) -> None:
    """How many trajectories are still whole at the ticks of the panel above."""
    low, high = above.get_xlim()
    ticks = [value for value in above.get_xticks() if low <= value <= min(high, 1.001 * end)]
    n = len(series)
    axis.set_ylim(n + 0.2, -1.3)
    axis.grid(visible=False)
    axis.tick_params(which="both", left=False, labelleft=False, bottom=False, labelbottom=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if labelled:
        axis.text(-0.1, -0.75, "whole", transform=axis.get_yaxis_transform(), ha="right", va="center", color=GREY)
    for index, one in enumerate(series):
        part = frame[frame["run"] == one.run]
        if labelled:
            axis.text(
                -0.1,
                index + 0.35,
                one.short,
                transform=axis.get_yaxis_transform(),
                ha="right",
                va="center",
                color=one.color,
            )
        for value in ticks:
            whole = int((part["time_ps"] >= value * (1 - 1e-9)).sum())
            text = str(whole) if len(part) else "–"
            axis.text(value, index + 0.35, text, ha="center", va="center", color=one.color)


# --- robustness matrix ----------------------------------------------------------------------------------------------


def matrix_rows(tables: RunTables, what: str) -> pd.DataFrame:
    """One line per network and temperature: survival, failures per ns, errors against DFT.

    Args:
        tables: the study's results.
        what: the product, for messages.

    Returns:
        run, network, title, n_train, temperature_k, n_trajectories, n_failed, time_ps (looked at, longest), and with
        _low and _high (95 %): survived, failures_per_ns, events_per_ns (changes of topology that last, also after the
        first), ae_mae_ev, force_mae_ev_per_angstrom; n_frames, n_converged (plainly), kinds.

    Raises:
        InputError: no dynamics.
    """
    runs = matrix_runs(simulated(tables, THERMAL, what))
    judged = {run: judge for job, run, judge in tables.judged_jobs() if job == THERMAL and run == judge}
    rows: list[dict[str, Any]] = []
    for run in runs:
        frame = lifetimes(tables.robustness(THERMAL, run))
        frames = tables.judged(THERMAL, run) if run in judged else None
        for temperature in sorted(frame["temperature_k"].unique()):
            group = frame[frame["temperature_k"] == temperature]
            row: dict[str, Any] = {
                "run": run, "network": network_of(run), "title": run_title(run, runs), "n_train": size_of(run),
                "temperature_k": float(temperature), "n_trajectories": len(group),
                "n_failed": int(group["failed"].sum()),
                "time_ps": float(group["observed_ps"].max()),
            }  # fmt: skip
            _add(row, "survived", survived(group))
            _add(row, "failures_per_ns", rate_of(group))
            _add(row, "events_per_ns", _events(group))
            part = None if frames is None else frames[frames["temperature_k"] == temperature]
            _add(row, "ae_mae_ev", NOTHING if part is None else md_error(part, "ae_error_ev"))
            _add(
                row,
                "force_mae_ev_per_angstrom",
                NOTHING if part is None else md_error(part, "force_mae_ev_per_angstrom"),
            )
            row["n_frames"] = 0 if part is None else len(part)
            row["n_converged"] = 0 if part is None else int((part["status"] == PLAIN).sum())
            row["kinds"] = kinds_text(group)
            rows.append(row)
    return pd.DataFrame(rows).astype({"n_train": "Int64"})


def _add(row: dict[str, Any], name: str, interval: Interval) -> None:
    row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _events(group: pd.DataFrame) -> Interval:
    """Changes of topology that last, per ns of all that was looked at, with the exact interval of Poisson."""
    events, time = group["n_events"].fillna(0).to_numpy(dtype=float), group["observed_ps"].fillna(0).clip(lower=0)
    if not len(group) or float(time.sum()) <= 0:
        return NOTHING
    rate, low, high = failure_rate(time, events)
    return Interval(rate, low, high, int(events.sum()))


_MATRIX_PANELS: tuple[tuple[str, str, float], ...] = (
    ("survived", "trajectories without a failure (%)", 100.0),
    ("failures_per_ns", "first failures per ns", 1.0),
    ("ae_mae_ev", "atomization energy MAE\nagainst DFT (eV)", 1.0),
    ("force_mae_ev_per_angstrom", "force MAE against DFT (eV/Å)", 1.0),
)


def robustness_matrix(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Survival, failures per ns and errors against DFT of every network at every temperature.

    Args:
        tables: the study's results.
        context: scale, claims, and the networks that there should be.
        output: path of the PNG file.

    Raises:
        InputError: no dynamics, or a claim that is missing.
    """
    rows = matrix_rows(tables, "figure robustness-matrix")
    missing = missing_runs(context, rows["run"])
    titles = [*dict.fromkeys(rows["title"]), *missing]
    height = {title: len(titles) - 1 - index for index, title in enumerate(titles)}
    temperatures = sorted(rows["temperature_k"].unique())
    floor = floor_of(tables)
    stated = context.paper(CLAIM_MD_ENERGY)[""]
    with style():
        figure, grid = plt.subplots(
            2, 2, figsize=(FULL_WIDTH, 2.7 + 0.92 * max(len(titles), 3)), sharey=True, squeeze=False
        )
        for axis, (name, label, factor) in zip(grid.ravel(), _MATRIX_PANELS, strict=True):
            for order, temperature in enumerate(temperatures):
                color, marker = TEMPERATURE_LOOKS[order % len(TEMPERATURE_LOOKS)]
                offset = 0.26 * ((len(temperatures) - 1) / 2 - order) * 3 / max(len(temperatures), 3)
                for _, row in rows[rows["temperature_k"] == temperature].iterrows():
                    _interval_point(axis, row, name, factor, height[row["title"]] + offset, color, marker)
            axis.set_xlabel(label)
            axis.grid(axis="y", visible=False)
            for line in range(len(titles) - 1):
                axis.axhline(line + 0.5, color="#DDDDDD", linewidth=0.6, zorder=0.2)
        main = rows[rows["network"] == MAIN_NETWORK]
        if len(main):
            y = height[main["title"].iloc[0]] + 0.26 * ((len(temperatures) - 1) / 2 - (len(temperatures) - 1))
            grid[1][0].plot(
                stated, y, linestyle="", marker="x", markersize=9, color="black", markeredgewidth=1.8, zorder=5
            )
        grid[0][0].set_xlim(-4, 104)
        for axis, column in (
            (grid[0][1], "failures_per_ns"),
            (grid[1][0], "ae_mae_ev"),
            (grid[1][1], "force_mae_ev_per_angstrom"),
        ):
            _matrix_scale(axis, rows, column, stated if column == "ae_mae_ev" else math.nan)
        for axis, value in ((grid[1][0], floor and floor[0]), (grid[1][1], floor and floor[1])):
            if value and value > 1e-6:
                axis.axvspan(
                    axis.get_xlim()[0],
                    max(value, axis.get_xlim()[0]),
                    facecolor="#EDEDED",
                    edgecolor="#9C9C9C",
                    hatch="....",
                    linewidth=0,
                    zorder=0.4,
                )
        for axis in grid.ravel():
            axis.set_yticks([height[title] for title in titles], [_wrapped(title, missing) for title in titles])
            axis.set_ylim(-0.5, len(titles) - 0.5)
            axis.tick_params(axis="y", length=0)
        panel_letters(grid.ravel())
        handles: list[Any] = [
            Line2D([], [], color=color, marker=marker, markersize=6, linewidth=1.1, label=f"{temperature:g} K")
            for temperature, (color, marker) in zip(temperatures, TEMPERATURE_LOOKS, strict=False)
        ]
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="x",
                markersize=8,
                color="black",
                markeredgewidth=1.8,
                label=f"{PAPER}, 3.2M rows, 1200 K",
            )
        )
        if (rows["n_failed"] == 0).any():
            handles.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker=r"$\leftarrow$",
                    markersize=10,
                    color="black",
                    label="no failure: upper limit",
                )
            )
        if floor and max(floor[:2]) > 0:
            handles.append(
                Patch(facecolor="#EDEDED", edgecolor="#9C9C9C", hatch="....", linewidth=0, label="floor of the checks")
            )
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        footer(figure, "\n".join(_matrix_notes(context, rows, missing, floor)))
    published = pd.DataFrame(
        [{"run": PAPER, "network": MAIN_NETWORK, "title": PAPER, "temperature_k": 1200.0, "ae_mae_ev": stated}]
    )
    save_figure(figure, pd.concat([rows, published], ignore_index=True), output)


def _wrapped(title: str, missing: Mapping[str, str]) -> str:
    return f"{title}\n(not run)" if title in missing else "\n".join(textwrap.wrap(title, 18))


def _interval_point(axis: Axes, row: pd.Series, name: str, factor: float, y: float, color: str, marker: str) -> None:
    value, low, high = (factor * float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if not np.isfinite(value):
        if name.endswith(("_ev", "angstrom")):
            text = "no DFT reference" if row["n_frames"] else "no checks"
            axis.annotate(text, (0.02, y), xycoords=axis.get_yaxis_transform(), va="center", color=color, fontsize=9)
        return
    if name == "failures_per_ns" and value == 0:
        # On a logarithmic axis a count of zero is its upper limit.
        upper_limit(axis, high, y, color, marker, upright=False)
        return
    bars = None
    if np.isfinite(low) and np.isfinite(high):
        bars = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
    axis.errorbar(value, y, xerr=bars, marker=marker, color=color, markersize=6, linewidth=1.1, capsize=2, zorder=3)


def _matrix_scale(axis: Axes, rows: pd.DataFrame, column: str, stated: float = math.nan) -> None:
    """Logarithmic axis around what is drawn; intervals that reach 0 end at its edge."""
    value, low, high = (rows[name].to_numpy(dtype=float) for name in (column, f"{column}_low", f"{column}_high"))
    there = np.concatenate([value[value > 0], low[low > 0.02 * value], np.where(value >= 0, high, np.nan), [stated]])
    there = there[np.isfinite(there) & (there > 0)]
    if not there.size:
        axis.set_xlim(0, 1)
        axis.set_xticks([])
        return
    axis.set_xlim(float(there.min()) / 1.1, float(there.max()) * 1.1)
    plain_log(axis, "x", 1.6)


def _matrix_notes(
    context: StudyContext, rows: pd.DataFrame, missing: Mapping[str, str], floor: Floor | None
) -> list[str]:
    frames, n = rows["n_frames"].sum(), span_text(rows["n_trajectories"], "trajectories")
    lines = [
        f"{scale_note(context)} · n = {n} of {span_text(rows['time_ps'], 'ps')} "
        f"per point (first seed's network), {count(frames)} frames checked by DFT, {count(rows['n_converged'].sum())} "
        "converged",
        "Bars: 95 %; (a) Kaplan–Meier (Wilson where all or none failed), (b) Poisson, per ns until the first failure, "
        "(c), (d) Student t over trajectories; cut where they reach 0.",
        floor_note(floor),
    ]
    if rows["run"].map(is_pretrained).any():
        lines.append("Pretrained networks have labels of another level of theory: (c), (d) hold that difference too.")
    return [line for line in [*lines, not_run_text(missing)] if line]
