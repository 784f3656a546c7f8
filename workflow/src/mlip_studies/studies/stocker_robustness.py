"""Robustness of the networks in dynamics: survival, matrix of networks, large molecules, conservation of energy.

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
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.claims.inputs import MissingDataError, read_table
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
from mlip_studies.studies import stocker
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import MINUS, count, number, plain_log, tick
from mlip_studies.studies.pavlovic_ethanol import NETWORKS, SPARE, Look
from mlip_studies.studies.stocker import THERMAL, short_count, size_style
from mlip_studies.units import EV_TO_MEV

STUDY_FILE = stocker.STUDY_FILE
PAPER = stocker.PAPER
#: data whose networks are simulated; the others (drawn by force norm, by molecule) have figures of their own
MAIN_DATA = stocker.RANDOM
MAIN_NETWORK = stocker.NETWORK
LARGE, HOT, NVE, SINGULAR = "large1200", "large1800", "nve", "singular"
PLAIN = "converged"

#: networks that were trained elsewhere, by the name of their run
PRETRAINED: Mapping[str, str] = {"ani1x": "ANI-1x", "ani1ccx": "ANI-1ccx", "ani2x": "ANI-2x"}
#: networks of figure 3 by one letter, in the numbers under the panels
TAGS: Mapping[str, str] = {"gemnet_q": "Q", "gemnet_t": "T", "schnet": "S", "dimenet_plus_plus": "D"}
PAPER_TAG = "P"
TEMPERATURE_LOOKS: tuple[tuple[str, str], ...] = (
    (OKABE_ITO["blue"], "o"),
    (OKABE_ITO["orange"], "s"),
    (OKABE_ITO["vermillion"], "^"),
    (OKABE_ITO["reddish purple"], "D"),
    (OKABE_ITO["black"], "v"),
)
#: the paper's letters of the large molecules, and by which part of its name one is known
LETTERS: Mapping[str, str] = {"A": "paracetamol", "B": "furo", "C": "histidin", "D": "ser-trp-leu"}
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
#: standard error of the drift of the total energy, where the analysis of robustness gives it
DRIFT_ERROR = "energy_drift_error_mev_per_atom_ps"
#: points of a curve in a figure, at most
MOST_POINTS = 600

# Claims whose numbers stand in the figures.
CLAIM_SHIFT, CLAIM_SPREAD, CLAIM_R2 = "tripeptide-shift", "tripeptide-std", "tripeptide-r2"
CLAIM_FORCE_RANGE = "force-mae-large"
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
    if network in NETWORKS:
        return NETWORKS[network]
    unknown = [name for name in dict.fromkeys([*others, network]) if name not in NETWORKS]
    color, marker = SPARE[unknown.index(network) % len(SPARE)]
    return Look(PRETRAINED.get(network, network), color, marker)


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
    return sorted(runs, key=_run_order)


def _run_order(run: str) -> tuple[bool, int, int, str]:
    return is_pretrained(run), _network_rank(network_of(run)), size_of(run) or 0, run


def matrix_runs(runs: Iterable[str]) -> list[str]:
    """One run per network: those of the training size that most networks have, else each network's largest.

    Args:
        runs: candidates.

    Returns:
        the chosen ones, pretrained networks last.
    """
    runs = sorted(dict.fromkeys(runs), key=_run_order)
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


def wilson(successes: int, n: int) -> Interval:
    """Share with Wilson's 95 % interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 209, 1927).

    Args:
        successes: how many.
        n: of how many.
    """
    from scipy import stats  # here, because it takes half a second

    if n == 0:
        return NOTHING
    low, high = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


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
        return wilson(n - broken, n)
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


def floor_of(tables: RunTables) -> tuple[float, float, int] | None:
    """Smallest error that a check can show: test rows calculated again at the level of the checks.

    Returns:
        mean |difference| of atomization energies (eV), force MAE (eV/Å), and number of rows; None where it was not
        measured.
    """
    floor = stocker.floor_of(tables)
    return None if floor is None else (floor.values[stocker.ENERGY], floor.values[stocker.FORCE], floor.n)


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


def floor_note(floor: tuple[float, float, int] | None) -> str:
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
    low, logarithmic = _first_time(frame, end)
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
                _draw_curve(above, curve, part, one, low, 1.2 + 2.0 * (n - 1 - index) / max(n - 1, 1))
                tidy.append(
                    curve.assign(
                        run=one.run,
                        label=one.label,
                        temperature_k=temperature,
                        n=len(part),
                        n_failed=int(part["failed"].sum()),
                    )
                )
            _time_axis(above, low, end, logarithmic, len(temperatures))
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
            _failures_note(frame) + (" Where curves coincide, those below are wider." if n > 1 else ""),
        ]
        if mark is not None and not low < stated < end:
            lines.append(f"{PAPER.capitalize()}: an example of 3.2k rows breaks after {stated:g} ps, beyond this axis.")
        footer(figure, "\n".join([*lines, *([more] if more else [])]))
    return figure, pd.concat(tidy, ignore_index=True)


def _first_time(frame: pd.DataFrame, end: float) -> tuple[float, bool]:
    """Left end of an axis of times, and whether it is logarithmic: where failures come early."""
    failures = frame.loc[frame["failed"] & (frame["time_ps"] > 0), "time_ps"]
    if len(failures) and float(failures.min()) < end / 30:
        return float(failures.min()) / 2, True
    return 0.0, False


def _time_axis(axis: Axes, low: float, end: float, logarithmic: bool, panels: int) -> None:
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


def _failures_note(frame: pd.DataFrame) -> str:
    if not frame["failed"].any():
        return f"None of the {count(len(frame))} trajectories failed: that all live on is a lower bound."
    text = f"{count(int(frame['failed'].sum()))} of {count(len(frame))} trajectories failed"
    if frame["failed"].all():
        text = f"All {count(len(frame))} trajectories failed"
    early = int((frame["failed"] & (frame["time_ps"] == 0)).sum())
    text += f" ({count(early)} before the sampling began, at 0)" if early else ""
    return f"{text}; first failures: {kinds_text(frame)}."


def _draw_curve(axis: Axes, curve: pd.DataFrame, part: pd.DataFrame, one: Series, low: float, width: float) -> None:
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
        _upper_limit(axis, high, y, color, marker, upright=False)
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
    context: StudyContext, rows: pd.DataFrame, missing: Mapping[str, str], floor: tuple[float, float, int] | None
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


# --- large molecules ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LargeMolecule:
    """One of the molecules beyond the training set.

    Attributes:
        letter: A, B, …
        name: of the start structure.
        start: its number.
    """

    letter: str
    name: str
    start: int


def large_runs(tables: RunTables, job: str, what: str) -> list[str]:
    """Runs whose frames of a job they judged themselves: each network's largest.

    Raises:
        InputError: there is none.
    """
    runs = [run for found, run, judge in tables.judged_jobs() if found == job and run == judge]
    need_tables(runs, what, f"no DFT checks of job '{job}' were given (checks/{job}/<run>/judged)")
    best: dict[str, str] = {}
    for run in sorted(runs, key=_run_order):
        best[network_of(run)] = run
    return sorted(best.values(), key=_run_order)


def large_molecules(frames: Mapping[str, pd.DataFrame]) -> list[LargeMolecule]:
    """The start structures, in their order.

    Args:
        frames: tables with start and name, by run.
    """
    both = pd.concat([frame[["start", "name"]] for frame in frames.values()]).drop_duplicates("start")
    both = both.sort_values("start")
    return [
        LargeMolecule(letter_of(str(name)) or str(int(start) + 1), str(name), int(start))
        for start, name in both.itertuples(index=False)
    ]


def letter_of(name: str) -> str:
    """The paper's letter of a large molecule; empty for another one."""
    return next((letter for letter, part in LETTERS.items() if part in name.lower()), "")


def large_summary(judged: pd.DataFrame, components: pd.DataFrame | None) -> dict[str, Any]:
    """What a correlation plot says in numbers.

    Args:
        judged: frames of one molecule by one network.
        components: force components of the same molecule; None where they were not given.

    Returns:
        n_frames, n_converged, statuses, ae_shift_ev (mean of predicted minus DFT), ae_std_ev, ae_r2 (squared
        correlation, blind to the shift, as the paper's beside a shift of half an eV), ae_mae_ev,
        force_mae_ev_per_angstrom, force_std_ev_per_angstrom, force_r2. NaN without reference.
    """
    good = with_reference(judged)
    error = good["ae_error_ev"].to_numpy(dtype=float)
    summary: dict[str, Any] = {
        "n_frames": len(judged),
        "n_converged": len(good),
        "statuses": ", ".join(f"{status} {n}" for status, n in judged["status"].value_counts().items()),
        "ae_shift_ev": float(error.mean()) if error.size else math.nan,
        "ae_std_ev": float(error.std(ddof=1)) if error.size > 1 else math.nan,
        "ae_r2": _r2(good["ae_dft_ev"], good["ae_predicted_ev"]),
        "ae_mae_ev": float(np.abs(error).mean()) if error.size else math.nan,
        "force_mae_ev_per_angstrom": float(good["force_mae_ev_per_angstrom"].mean()) if len(good) else math.nan,
        "force_std_ev_per_angstrom": math.nan,
        "force_r2": math.nan,
    }
    if components is not None:
        part = components[components["frame"].isin(good["frame"])]
        if len(part) > 1:
            difference = (part["force_predicted"] - part["force_dft"]).to_numpy(dtype=float)
            summary["force_std_ev_per_angstrom"] = float(np.nanstd(difference, ddof=1))
            summary["force_r2"] = _r2(part["force_dft"], part["force_predicted"])
    return summary


def _r2(first: pd.Series, second: pd.Series) -> float:
    """Squared Pearson correlation; NaN below three points or without spread."""
    x, y = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def large_rows(tables: RunTables, job: str, what: str) -> pd.DataFrame:
    """One line per network and large molecule, see :func:`large_summary`, with robustness where it is there.

    Raises:
        InputError: no checks of the job.
    """
    runs = large_runs(tables, job, what)
    frames = {run: tables.judged(job, run) for run in runs}
    robust = set(tables.robustness_jobs())
    rows = []
    for run in runs:
        components = _components(tables, job, run)
        failures = lifetimes(tables.robustness(job, run)) if (job, run) in robust else None
        for molecule in large_molecules(frames):
            part = frames[run][frames[run]["start"] == molecule.start]
            own = None if components is None else components[components["frame"].isin(part["frame"])]
            row = {
                "job": job, "run": run, "network": network_of(run), "n_train": size_of(run), "letter": molecule.letter,
                "name": molecule.name, "n_atoms": int(part["n_atoms"].iloc[0]) if len(part) else None,
                **large_summary(part, own),
            }  # fmt: skip
            group = None if failures is None else failures[failures["start"] == molecule.start]
            row["failed"] = None if group is None or group.empty else int(group["failed"].sum())
            row["failure_ps"] = math.nan if group is None else float(group.loc[group["failed"], "time_ps"].min())
            row["failure_kind"] = "" if group is None else kinds_text(group)
            row["observed_ps"] = math.nan if group is None else float(group["observed_ps"].max())
            rows.append(row)
    return pd.DataFrame(rows).astype({"n_train": "Int64", "n_atoms": "Int64", "failed": "Int64"})


def _components(tables: RunTables, job: str, run: str) -> pd.DataFrame | None:
    there = (job, run, run) in tables.judged_jobs("components")
    return tables.components(job, run) if there else None


def large_correlations(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Predicted against DFT atomization energies and force components of molecules beyond the training set (fig. 3).

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no checks, or a claim that is missing.
    """
    figure, tidy = large_figure(tables, context, LARGE, "figure fig3-large")
    save_figure(figure, tidy, output)


def large_figure(tables: RunTables, context: StudyContext, job: str, what: str) -> tuple[Figure, pd.DataFrame]:
    """The figure of one job and what it draws; see :func:`large_correlations`."""
    rows = large_rows(tables, job, what)
    runs = list(dict.fromkeys(rows["run"]))
    networks = [network_of(run) for run in runs]
    frames = {run: with_reference(tables.judged(job, run)) for run in runs}
    molecules = large_molecules({run: tables.judged(job, run) for run in runs})
    components = {run: _components(tables, job, run) for run in runs}
    floor = floor_of(tables)
    n, lines = len(molecules), len(runs) + 2
    tidy: list[pd.DataFrame] = [rows.assign(kind="summary")]
    with style():
        figure, energies, forces = _large_grid(n, lines)
        for column, molecule in enumerate(molecules):
            (above, above_text), (below, below_text) = energies[column], forces[column]
            own = rows[rows["letter"] == molecule.letter]
            energy, force = [], []
            for run in runs:
                part = frames[run][frames[run]["start"] == molecule.start]
                energy.append((run, part["ae_dft_ev"].to_numpy(float), part["ae_predicted_ev"].to_numpy(float)))
                every = components[run]
                if every is None:
                    force.append((run, np.empty(0), np.empty(0)))
                else:
                    mine = every[every["frame"].isin(part["frame"])]
                    force.append((run, mine["force_dft"].to_numpy(float), mine["force_predicted"].to_numpy(float)))
                    tidy.append(_points(mine.iloc[thin(mine["frame"].to_numpy(), 2000)], run, molecule, "force"))
                tidy.append(_points(part, run, molecule, "energy"))
            out_energy = _correlation(above, energy, networks, floor and floor[0], 6.5)
            out_force = _correlation(below, force, networks, floor and floor[1], 4.5)
            if molecule.letter == "D" and len(above.lines):
                _paper_shift(above, context.paper(CLAIM_SHIFT)[""])
            # The last line is left to the letter of the panel.
            above.set_title(f"{_short_name(molecule, n)}\n ", fontsize=9.5)
            above.set_xlabel("DFT (eV)", labelpad=1)
            below.set_xlabel("DFT (eV/Å)", labelpad=1)
            _numbers(above_text, own, "energy", runs, out_energy, _paper_energy(context, molecule.letter), n > 2)
            _numbers(below_text, own, "force", runs, out_force, _paper_force(context), n > 2)
        energies[0][0].set_ylabel("network:\natomization energy (eV)")
        forces[0][0].set_ylabel("network:\nforce component (eV/Å)")
        panel_letters([axis for axis, _ in (*energies, *forces)])
        handles: list[Any] = []
        for run in runs:
            look = look_of(network_of(run), networks)
            label = f"{_tag(run, networks)}: {look.title}, {rows_text(size_of(run)) or 'all rows'}"
            handles.append(
                Line2D(
                    [], [], linestyle="", marker=look.marker, color=look.color, label=label,
                    markersize=4.5 if handles else 7, markerfacecolor=look.color if handles else "none",
                )
            )  # fmt: skip
        handles.append(Line2D([], [], color="black", linewidth=0.9, label="network = DFT"))
        handles.append(
            Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label=f"{PAPER_TAG}: {PAPER}, GemNet-Q, 3.2M rows")
        )
        if floor and max(floor[:2]) > 1e-4:
            handles.append(Patch(facecolor="#D9D9D9", label="floor of the checks"))
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        footer(figure, "\n".join(_large_notes(context, rows, tables, job, floor)))
    return figure, pd.concat(tidy, ignore_index=True)


def _large_grid(n: int, lines: int) -> tuple[Figure, list[tuple[Axes, Axes]], list[tuple[Axes, Axes]]]:
    """Panels of energies and of forces, each with room for numbers below; side by side for one or two molecules."""
    text = 0.165 * lines
    beside = n <= 2
    columns = 2 * n if beside else n
    side = min((FULL_WIDTH - 0.5) / columns - 0.5, 2.4)
    heights = [side, text] if beside else [side, text, side, text]
    figure, grid = plt.subplots(
        len(heights), columns, figsize=(FULL_WIDTH, sum(heights) + (2.6 if beside else 3.5)), squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    first = list(zip(grid[0][:n], grid[1][:n], strict=True))
    second = list(zip(grid[0][n:], grid[1][n:], strict=True)) if beside else list(zip(grid[2], grid[3], strict=True))
    return figure, first, second


def _short_name(molecule: LargeMolecule, n: int) -> str:
    return "\n".join(textwrap.wrap(f"{molecule.letter} {molecule.name}", 17 if n > 3 else 30))


def _points(frame: pd.DataFrame, run: str, molecule: LargeMolecule, kind: str) -> pd.DataFrame:
    names = ("ae_dft_ev", "ae_predicted_ev") if kind == "energy" else ("force_dft", "force_predicted")
    return pd.DataFrame(
        {
            "kind": kind, "run": run, "letter": molecule.letter, "name": molecule.name, "frame": frame["frame"],
            "dft": frame[names[0]], "predicted": frame[names[1]],
        }
    )  # fmt: skip


def _tag(run: str, networks: Sequence[str]) -> str:
    network = network_of(run)
    return TAGS.get(network, str(1 + list(dict.fromkeys(networks)).index(network)))


def _correlation(
    axis: Axes,
    data: Sequence[tuple[str, np.ndarray, np.ndarray]],
    networks: Sequence[str],
    floor: float | None,
    size: float,
) -> dict[str, int]:
    """Scatter with the diagonal; returns how many points of each run lie beyond the limits.

    The first network's symbols are open and large, so that those of the others can be seen in them.
    The limits hold all references and the middle of the predictions, so that a few absurd ones do not hide the others.
    """
    axis.set_box_aspect(1)
    axis.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    reference = np.concatenate([x for _, x, _ in data]) if data else np.empty(0)
    if not reference.size:
        axis.text(0.5, 0.5, "no DFT\nreference", transform=axis.transAxes, ha="center", va="center", color=GREY)
        axis.set_xticks([])
        axis.set_yticks([])
        return {}
    low, high = float(reference.min()), float(reference.max())
    width = max(high - low, 1e-3)
    for _, x, y in data:
        if len(y):
            quartiles = np.quantile(y, [0.02, 0.98])
            if np.quantile(np.abs(y - x), 0.75) < 2 * width:
                low, high = min(low, float(quartiles[0])), max(high, float(quartiles[1]))
    low, high = low - 0.08 * (high - low) - 1e-4, high + 0.08 * (high - low) + 1e-4
    outside = {}
    for order, (run, x, y) in enumerate(data):
        if not len(x):
            continue
        look = look_of(network_of(run), networks)
        shown = thin(x, 1500)
        inside = np.clip(y[shown], low, high)
        axis.plot(
            x[shown], inside, linestyle="", marker=look.marker, color=look.color, zorder=4 + 0.1 * order,
            markersize=0.45 * size if order else size, markerfacecolor=look.color if order else "none",
            markeredgewidth=0 if order else 0.8, rasterized=True,
        )  # fmt: skip
        outside[run] = int(((y < low) | (y > high)).sum())
    axis.plot([low, high], [low, high], color="black", linewidth=0.9, zorder=3)
    if floor and floor > 1e-4:
        axis.fill_between(
            [low, high], [low - floor, high - floor], [low + floor, high + floor], color="#D9D9D9", zorder=0.4
        )
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    for target in (axis.xaxis, axis.yaxis):
        target.set_major_formatter(lambda value, _: tick(round(value, 6)))
    return outside


def _paper_shift(axis: Axes, shift: float) -> None:
    (low, high), limits = axis.get_xlim(), axis.get_ylim()
    axis.plot([low, high], [low + shift, high + shift], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, zorder=6)
    axis.set_ylim(limits)


def _paper_energy(context: StudyContext, letter: str) -> str:
    if letter != "D":
        return ""
    shift, spread, r2 = (context.paper(claim)[""] for claim in (CLAIM_SHIFT, CLAIM_SPREAD, CLAIM_R2))
    return f"{PAPER_TAG} +{shift:g} {spread:g} {r2:g}"


def _paper_force(context: StudyContext) -> str:
    low, high = stated_range(context, CLAIM_FORCE_RANGE)
    return f"{PAPER_TAG} {low:g} to {high:g}"


def _numbers(
    axis: Axes,
    rows: pd.DataFrame,
    kind: str,
    runs: Sequence[str],
    outside: Mapping[str, int],
    paper: str,
    narrow: bool,
) -> None:
    """Lines of numbers below a panel, in the colours of the networks."""
    axis.axis("off")
    # Wider than a narrow panel: they begin below its tick labels.
    left = -0.33 if narrow and (rows["n_converged"] > 0).any() else 0.0
    networks = [network_of(run) for run in runs]
    n = len(runs) + 2
    axis.set_ylim(n, 0)
    head = "    Δ, σ (eV), R²" if kind == "energy" else "    MAE, σ (eV/Å), R²"
    place: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center"}
    axis.text(left, 0.5, head, color=GREY, **place).set_in_layout(False)
    for index, run in enumerate(runs):
        row = rows[rows["run"] == run].iloc[0]
        names = (
            ("ae_shift_ev", "ae_std_ev", "ae_r2")
            if kind == "energy"
            else ("force_mae_ev_per_angstrom", "force_std_ev_per_angstrom", "force_r2")
        )
        text = "no DFT reference" if row["n_frames"] else "not simulated"
        if row["n_converged"]:
            value, spread, r2 = (float(row[name]) for name in names)
            sign = "+" if kind == "energy" and value > 0 else ""
            text = f"{sign}{_brief(value)} {_brief(spread)} {_share(r2)}"
            if outside.get(run):
                text += f" ({outside[run]}→)"
        color = look_of(network_of(run), networks).color
        axis.text(left, index + 1.5, f"{_tag(run, networks)} {text}", color=color, **place).set_in_layout(False)
    if paper:
        axis.text(left, n - 0.5, paper, color=GREY, **place).set_in_layout(False)


def _brief(value: float) -> str:
    """Two significant digits below 0.1, at most three decimals above."""
    if not np.isfinite(value):
        return "–"
    return number(value, 2) if abs(value) < 0.1 or abs(value) >= 100 else f"{value:.2f}".replace("-", MINUS)


def _share(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}" if value < 0.9995 else f"{value:.4f}"


def _large_notes(
    context: StudyContext, rows: pd.DataFrame, tables: RunTables, job: str, floor: tuple[float, float, int] | None
) -> list[str]:
    kelvin = span_text(tables.judged(job, rows["run"].iloc[0])["temperature_k"], "K")
    frames = span_text(rows.loc[rows["n_frames"] > 0, "n_frames"], "frames")
    lines = [
        f"{scale_note(context)} · n = {frames} per molecule and network, uniform in one "
        f"trajectory at {kelvin} of {span_text(rows['observed_ps'], 'ps')} (first seed's network)",
        "Δ: mean of network − DFT; σ: standard deviation of the error; R²: squared correlation; "
        "n→: points beyond the axes, drawn at the edge. Frames are correlated in time.",
    ]
    if (rows["n_frames"] > rows["n_converged"]).any():
        lacking = rows[rows["n_frames"] > rows["n_converged"]]
        columns = (lacking[name] for name in ("letter", "run", "n_converged", "n_frames"))
        parts = [
            f"{letter} {_tag(run, list(rows['network']))}: {some} of {n}"
            for letter, run, some, n in zip(*columns, strict=True)
        ]
        lines.append(f"Plainly converged DFT calculations (all where not named): {'; '.join(parts)}.")
    lines.append(floor_note(floor))
    return lines


def large_hot(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors against DFT along the dynamics of the large molecules at 1800 K, with the first failures.

    Args:
        tables: the study's results.
        context: scale.
        output: path of the PNG file.

    Raises:
        InputError: no checks of the job.
    """
    what = "figure large-hot"
    rows = large_rows(tables, HOT, what)
    runs = list(dict.fromkeys(rows["run"]))
    networks = [network_of(run) for run in runs]
    judged = {run: tables.judged(HOT, run) for run in runs}
    molecules = large_molecules(judged)
    floor = floor_of(tables)
    tidy: list[pd.DataFrame] = []
    end = max(float(frame["time_ps"].max()) for frame in judged.values())
    with style():
        n = len(molecules)
        figure, grid = plt.subplots(2, n, figsize=(FULL_WIDTH, 5.4), sharex=True, sharey="row", squeeze=False)
        levels = floor[:2] if floor else (0.0, 0.0)
        panels = (("ae_error_ev", levels[0]), ("force_mae_ev_per_angstrom", levels[1]))
        for column, molecule in enumerate(molecules):
            for (name, _), axis in zip(panels, grid[:, column], strict=True):
                for run in runs:
                    part = judged[run][judged[run]["start"] == molecule.start]
                    _draw_along(axis, part, name, look_of(network_of(run), networks))
                    tidy.append(
                        pd.DataFrame({"run": run, "letter": molecule.letter, "name": molecule.name, "quantity": name,
                                      "time_ps": part["time_ps"], "value": part[name], "status": part["status"]})
                    )  # fmt: skip
            own = rows[rows["letter"] == molecule.letter]
            for network, at in zip(own["network"], own["failure_ps"], strict=True):
                for axis in grid[:, column] if np.isfinite(at) else ():
                    color = look_of(network, networks).color
                    axis.axvline(at, color=color, linestyle=":", linewidth=1.6, zorder=1)
            grid[0][column].set_title(f"{_short_name(molecule, n)}\n{_fate(own)}\n ", fontsize=9.5)
            grid[0][column].axhline(0, color="black", linewidth=0.7, zorder=1)
            grid[1][column].set_xlabel("time (ps)")
            grid[1][column].xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            grid[1][column].set_xlim(-0.03 * end, 1.05 * end)
        _error_scale(grid[0][0], pd.concat([with_reference(frame)["ae_error_ev"] for frame in judged.values()]))
        forces = pd.concat([with_reference(frame)["force_mae_ev_per_angstrom"] for frame in judged.values()])
        forces = forces[forces > 0]
        if len(forces):
            grid[1][0].set_ylim(float(forces.min()) / 1.5, float(forces.max()) * 1.5)
            plain_log(grid[1][0], "y", 1.2)
        for axis in grid.ravel() if not len(forces) else ():
            axis.text(0.5, 0.5, "no DFT\nreference", transform=axis.transAxes, ha="center", va="center", color=GREY)
            axis.set_yticks([])
        for (name, level), line in zip(panels, grid, strict=True):
            for axis in line if level > 1e-6 and len(forces) else ():
                low = -level if name == "ae_error_ev" else axis.get_ylim()[0]
                axis.axhspan(low, max(level, low), color="#D9D9D9", zorder=0.4)
        grid[0][0].set_ylabel("atomization energy:\nnetwork − DFT (eV)")
        grid[1][0].set_ylabel("force MAE (eV/Å)")
        panel_letters(grid.ravel())
        handles: list[Any] = []
        for run in runs:
            look = look_of(network_of(run), networks)
            label = f"{look.title}, {rows_text(size_of(run)) or 'all rows'}"
            handles.append(
                Line2D([], [], marker=look.marker, color=look.color, linewidth=0.8, markersize=5, label=label)
            )
        handles.append(Line2D([], [], linestyle="", marker="|", color="black", markersize=8, label="DFT not converged"))
        if rows["failure_ps"].notna().any():
            handles.append(Line2D([], [], color="black", linestyle=":", linewidth=1.6, label="first failure"))
        if floor and max(floor[:2]) > 1e-6:
            handles.append(Patch(facecolor="#D9D9D9", label="floor of the checks"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        kelvin = span_text(judged[runs[0]]["temperature_k"], "K")
        frames = span_text(rows.loc[rows["n_frames"] > 0, "n_frames"], "frames")
        lines = [
            f"{scale_note(context)} · n = {frames} per molecule, uniform in one trajectory "
            f"at {kelvin} of {span_text(rows['observed_ps'], 'ps')} (first seed's network)",
            "Paper (text; GemNet-Q, 3.2M rows): C and D decompose, with deviations of several eV; A and B remain "
            "stable.",
            floor_note(floor),
        ]
        footer(figure, "\n".join(lines))
    save_figure(figure, pd.concat([*tidy, rows.assign(quantity="summary")], ignore_index=True), output)


def _fate(rows: pd.DataFrame) -> str:
    """Whether a molecule stays whole, in a few words (of the first network of the figure)."""
    row = rows.iloc[0]
    if pd.isna(row["failed"]):
        return "not analysed" if row["n_frames"] else "not simulated"
    if not row["failed"]:
        return "stays whole"
    return f"fails at {tick(float(f'{row.failure_ps:.3g}'))} ps"


def _draw_along(axis: Axes, part: pd.DataFrame, column: str, look: Look) -> None:
    good = with_reference(part).sort_values("time_ps")
    axis.plot(good["time_ps"], good[column], color=look.color, linewidth=0.7, alpha=0.6, zorder=2)
    axis.plot(
        good["time_ps"], good[column], linestyle="", marker=look.marker, color=look.color, markersize=3.5, zorder=3
    )
    lost = part[~part["frame"].isin(good["frame"])]
    if len(lost):
        axis.plot(
            lost["time_ps"], np.full(len(lost), 0.03), linestyle="", marker="|", color="black", markersize=7,
            transform=axis.get_xaxis_transform(), clip_on=False, zorder=4,
        )  # fmt: skip


def _error_scale(axis: Axes, errors: pd.Series) -> None:
    """Symmetric logarithmic axis where errors span more than two decades."""
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


# --- dynamics without a thermostat ----------------------------------------------------------------------------------


def total_energies(tables: RunTables, job: str, run: str) -> pd.DataFrame:
    """Total energy of each trajectory against its first sample.

    Args:
        tables: the study's results.
        job: dynamics at constant energy.
        run: name of the run.

    Returns:
        trajectory, name, n_atoms, time_ps, deviation_ev; samples after a trajectory's end are left out.

    Raises:
        InputError: samples and replicas do not fit.
    """
    samples, replicas = tables.md("samples", job, run), tables.md("replicas", job, run)
    for column in ("name", "n_atoms"):
        if column not in replicas:
            raise InputError(f"replicas.csv of {job} {run}: column '{column}' is missing; run the dynamics again")
    samples = samples.assign(total_ev=samples["potential_ev"] + samples["kinetic_ev"])
    samples = samples[np.isfinite(samples["total_ev"].to_numpy(dtype=float))].sort_values(["replica", "time_ps"])
    first = samples.groupby("replica")["total_ev"].transform("first")
    frame = pd.DataFrame(
        {"trajectory": samples["replica"], "time_ps": samples["time_ps"], "deviation_ev": samples["total_ev"] - first}
    )
    known = replicas[["replica", "name", "n_atoms"]].rename(columns={"replica": "trajectory"})
    return frame.merge(known, on="trajectory", how="left")


def drift_rows(tables: RunTables, job: str, run: str) -> pd.DataFrame:
    """Drift and fluctuation of the total energy of each trajectory.

    Returns:
        trajectory, start, name, n_atoms, drift_mev_per_atom_ps, drift_error (NaN where it is not known),
        fluctuation_mev_per_atom, alive, and failed where the analysis of robustness is there.

    Raises:
        InputError: a column is missing.
    """
    replicas = tables.md("replicas", job, run)
    for column in ("drift_mev_per_atom_ps", "fluctuation_mev_per_atom", "alive"):
        if column not in replicas:
            raise InputError(
                f"replicas.csv of {job} {run}: column '{column}' is missing; the job must have ensemble: nve"
            )
    frame = replicas.rename(columns={"replica": "trajectory"})
    frame["drift_error"] = math.nan
    frame["failed"] = ~frame["alive"].astype(bool)
    if (job, run) in tables.robustness_jobs():
        robust = tables.robustness(job, run)
        frame["failed"] = frame["trajectory"].map(robust.set_index("trajectory")["failed"]).fillna(frame["failed"])
        if DRIFT_ERROR in robust:
            frame["drift_error"] = frame["trajectory"].map(robust.set_index("trajectory")[DRIFT_ERROR])
    columns = ("start", "name", "formula", "n_atoms", "temperature_k")
    return frame[
        ["trajectory", *(name for name in columns if name in frame), "drift_mev_per_atom_ps", "drift_error",
         "fluctuation_mev_per_atom", "failed"]
    ]  # fmt: skip


def nve_drift(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Conservation of the total energy without a thermostat: deviation against time, drift and fluctuation.

    Args:
        tables: the study's results.
        context: scale.
        output: path of the PNG file.

    Raises:
        InputError: no dynamics at constant energy.
    """
    runs = simulated(tables, NVE, "figure nve-drift", "replicas")
    sampled = set(tables.md_jobs("samples"))
    networks = [network_of(run) for run in runs]
    titles = {run: run_title(run, runs) for run in runs}
    tidy: list[pd.DataFrame] = []
    drifts = {run: drift_rows(tables, NVE, run) for run in runs}
    with style():
        n = len(runs)
        figure = plt.figure(figsize=(FULL_WIDTH, 4.3 + 0.42 * max(n, 3)))
        grid = figure.add_gridspec(2, 2, height_ratios=[2.3, 0.7 + 0.42 * max(n, 3)])
        above = figure.add_subplot(grid[0, :])
        drift = figure.add_subplot(grid[1, 0])
        noise = figure.add_subplot(grid[1, 1], sharey=drift)
        smallest = math.inf
        for index, run in enumerate(runs):
            look = look_of(network_of(run), networks)
            if (NVE, run) in sampled:
                curve = _deviation_curve(total_energies(tables, NVE, run))
                later = curve[curve["median"] > 0]
                above.fill_between(
                    later["time_ps"],
                    later["low"].clip(lower=1e-9),
                    later["high"],
                    color=look.color,
                    alpha=0.12,
                    linewidth=0,
                )
                above.plot(
                    later["time_ps"], later["median"], color=look.color, linestyle=LINES[index % len(LINES)],
                    linewidth=1.4,
                    label=titles[run],
                )  # fmt: skip
                smallest = min([smallest, *later["median"].tail(max(1, len(later) // 2))])
                tidy.append(curve.assign(panel="deviation_mev_per_atom", run=run))
            y = n - 1 - index
            for axis, column in ((drift, "drift_mev_per_atom_ps"), (noise, "fluctuation_mev_per_atom")):
                _magnitudes(axis, drifts[run], column, y, look)
                tidy.append(drifts[run].assign(panel=column, run=run, value=drifts[run][column]))
        above.set_xlabel("time (ps)")
        above.set_ylabel("|total energy − first|\n(meV/atom), median")
        if above.lines:
            plain_log(above, "y", 1.2)
            if np.isfinite(smallest):
                above.set_ylim(bottom=max(above.get_ylim()[0], smallest / 30))
            above.set_xlim(left=0)
            figure.legend(loc="outside upper center", ncols=min(n, 4), handlelength=3)
        else:
            above.text(0.5, 0.5, "no samples", transform=above.transAxes, ha="center", color=GREY)
        drift.set_xlabel("|energy drift| (meV/atom/ps)")
        noise.set_xlabel("energy fluctuation about the drift,\nr.m.s. (meV/atom)")
        drift.set_yticks(range(n), ["\n".join(textwrap.wrap(titles[run], 18)) for run in runs][::-1])
        drift.set_ylim(-0.6, n - 0.4)
        noise.tick_params(labelleft=False)
        for axis in (drift, noise):
            if axis.lines:
                plain_log(axis, "x", 1.4)
            axis.grid(axis="y", visible=False)
        panel_letters((above, drift, noise))
        failed = sum(int(frame["failed"].sum()) for frame in drifts.values())
        lengths = [_length(tables, NVE, run) for run in runs]
        n_trajectories = span_text([len(frame) for frame in drifts.values()], "trajectories")
        nominal = pd.concat(list(drifts.values())).get("temperature_k", pd.Series(dtype=float))
        kelvin = span_text(nominal, "K")
        lines = [
            f"{scale_note(context)} · n = {n_trajectories} per network "
            f"of {span_text(lengths, 'ps')}, velocities of {kelvin} at the start (first seed's network)",
            "(a) line: median over trajectories, band: 10th to 90th percentile; (b), (c) small: trajectories, large: "
            "their median; thin bar: standard error of one slope. The paper has no such test.",
        ]
        if failed:
            lines.append(f"Open: {count(failed)} trajectories that failed (drift until then).")
        footer(figure, "\n".join(lines))
    save_figure(figure, pd.concat(tidy, ignore_index=True), output)


def _length(tables: RunTables, job: str, run: str) -> float:
    if (job, run) in tables.md_jobs("summary"):
        return float(tables.md_summary(job, run)["time_ps"])
    return float(tables.md("replicas", job, run)["survived_ps"].max())


def _deviation_curve(energies: pd.DataFrame) -> pd.DataFrame:
    """Median, 10th and 90th percentile over trajectories of |deviation| per atom (meV) against time."""
    frame = energies.assign(value=(EV_TO_MEV * energies["deviation_ev"] / energies["n_atoms"]).abs())
    groups = frame.groupby("time_ps")["value"]
    quantiles = (("low", 0.1), ("median", 0.5), ("high", 0.9))
    curve = pd.DataFrame({name: groups.quantile(share) for name, share in quantiles})
    return curve.reset_index().iloc[thin(np.arange(len(curve)))]


def _magnitudes(axis: Axes, frame: pd.DataFrame, column: str, y: float, look: Look) -> None:
    values = frame[column].to_numpy(dtype=float)
    good = np.isfinite(values) & (values != 0)
    size, failed = np.abs(values[good]), frame["failed"].to_numpy(dtype=bool)[good]
    if not size.size:
        axis.annotate("none", (0.02, y), xycoords=axis.get_yaxis_transform(), va="center", color=look.color)
        return
    spread = y - 0.2 + 0.12 * (np.arange(size.size) % 3 - 1) / 2
    errors = (
        frame["drift_error"].to_numpy(dtype=float)[good] if column.startswith("drift") else np.full(size.size, np.nan)
    )
    if np.isfinite(errors).any():
        bars = np.vstack([np.minimum(errors, 0.97 * size), errors])
        axis.errorbar(
            size, spread, xerr=np.nan_to_num(bars), linestyle="", color=look.color, elinewidth=0.5, alpha=0.5, zorder=1
        )
    for kind, face in ((~failed, look.color), (failed, "white")):
        axis.plot(
            size[kind], spread[kind], "o", markersize=3.5, color=look.color, markerfacecolor=face, alpha=0.65, zorder=2
        )
    axis.plot(np.median(size), y + 0.15, look.marker, markersize=8, color=look.color, zorder=3)


# --- planar and collinear arrangements ------------------------------------------------------------------------------


def exceedance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of values above each of them: sorted values and shares, each shape (n,), largest value at share 1/n.

    Args:
        values: shape (n,); those that are not finite or not above 0 are left out.
    """
    values = np.sort(values[np.isfinite(values) & (values > 0)])
    n = len(values)
    return values, 1.0 - np.arange(n) / n if n else np.empty(0)


def singularities(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Energy conservation and force spikes of linear and planar molecules, GemNet-Q beside GemNet-T.

    The basis of GemNet-Q is not smooth where four atoms lie in a plane, GemNet-T has no quadruplets. Jumps of the
    forces between samples (spikes.csv) are drawn where they were calculated, else those of the total energy.

    Args:
        tables: the study's results.
        context: scale.
        output: path of the PNG file.

    Raises:
        InputError: no dynamics of these molecules.
    """
    what = "figure singularities"
    runs = _largest(simulated(tables, SINGULAR, what, "samples", data=None))
    networks = [network_of(run) for run in runs]
    energies = {run: total_energies(tables, SINGULAR, run) for run in runs}
    spiked = set(tables.md_jobs("spikes"))
    spikes = {run: tables.md("spikes", SINGULAR, run) for run in runs if (SINGULAR, run) in spiked}
    forces = bool(spikes)
    names = list(dict.fromkeys(name for frame in energies.values() for name in frame["name"]))
    rows = _singular_rows(energies, spikes, tables)
    tidy: list[pd.DataFrame] = [rows.assign(panel="summary")]
    with style():
        n = len(names)
        text_height = 0.25 * (len(runs) + 1)
        figure, grid = plt.subplots(
            3,
            n,
            figsize=(FULL_WIDTH, 5.6 + text_height),
            squeeze=False,
            height_ratios=[2.1, 2.1, text_height],
            sharey="row",
        )
        for column, name in enumerate(names):
            above, below = grid[0][column], grid[1][column]
            own_jumps = []
            for index, run in enumerate(runs):
                look, line = look_of(network_of(run), networks), LINES[index % 2]
                part = energies[run][energies[run]["name"] == name]
                for trajectory, one in part.groupby("trajectory"):
                    one = one.iloc[thin(one["time_ps"].to_numpy())]
                    value = EV_TO_MEV * one["deviation_ev"] / one["n_atoms"]
                    above.plot(one["time_ps"], value, color=look.color, linewidth=0.9, linestyle=line, zorder=3 - index)
                    tidy.append(
                        pd.DataFrame({"panel": "deviation_mev_per_atom", "run": run, "name": name,
                                      "trajectory": trajectory, "x": one["time_ps"], "value": value})
                    )  # fmt: skip
                jumps = _jumps(spikes.get(run), part, forces)
                x, share = exceedance(jumps)
                share = 100 * share
                own_jumps.append(x)
                if len(x):
                    keep = np.unique(np.r_[thin(x, 300), np.arange(max(len(x) - 50, 0), len(x))])
                    below.plot(x[keep], share[keep], color=look.color, linestyle=line, linewidth=1.3, zorder=3 - index)
                    below.plot(x[-1], share[-1], look.marker, color=look.color, markersize=5.5, zorder=4)
                    tidy.append(
                        pd.DataFrame(
                            {"panel": "exceedance", "run": run, "name": name, "x": x[keep], "value": share[keep]}
                        )
                    )
            above.set_title(_molecule_title(name, energies, n), fontsize=9.5)
            above.set_xlabel("time (ps)")
            above.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            below.set_xlabel("largest change of a\nforce (eV/Å)" if forces else "jump of the total\nenergy (meV/atom)")
            if below.lines:
                _tail(below, [jumps for jumps in own_jumps if jumps.size])
            _spike_numbers(grid[2][column], rows[rows["name"] == name], runs, networks, column == 0)
        deviations = pd.concat([EV_TO_MEV * frame["deviation_ev"] / frame["n_atoms"] for frame in energies.values()])
        _error_scale(grid[0][0], deviations)
        grid[0][0].set_ylabel("total energy − first\n(meV/atom)")
        grid[1][0].set_ylabel("samples above (%)")
        lowest = [line.get_ydata().min() for axis in grid[1] for line in axis.lines]
        if lowest:
            grid[1][0].set_ylim(min(lowest), 100)
            plain_log(grid[1][0], "y", 1.5)
        panel_letters([*grid[0], *grid[1]])
        handles = [
            Line2D(
                [], [], color=look_of(network, networks).color, linestyle=LINES[index % 2],
                marker=look_of(network).marker,
                markersize=5.5, label=run_title(run, runs),
            )
            for index, (run, network) in enumerate(zip(runs, networks, strict=True))
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=2, handlelength=3)
        footer(figure, "\n".join(_singular_notes(tables, context, runs, energies, spikes)))
    save_figure(figure, pd.concat(tidy, ignore_index=True), output)


def _tail(axis: Axes, jumps: Sequence[np.ndarray]) -> None:
    """Logarithmic axis from a tenth of the smallest median to the largest value."""
    if jumps:
        axis.set_xlim(min(float(np.median(x)) for x in jumps) / 10, max(float(x[-1]) for x in jumps))
        plain_log(axis, "x", 1.5)


def _largest(runs: Sequence[str]) -> list[str]:
    best = {network_of(run): run for run in sorted(runs, key=_run_order)}
    return sorted(best.values(), key=_run_order)


def _jumps(spikes: pd.DataFrame | None, energies: pd.DataFrame, forces: bool) -> np.ndarray:
    """Largest change of a force of each sample (eV/Å), or change of the total energy (meV/atom), shape (n,)."""
    if forces:
        if spikes is None:
            return np.empty(0)
        own = spikes[spikes["trajectory"].isin(energies["trajectory"])]
        changes: np.ndarray = own["largest_force_change_ev_per_angstrom"].to_numpy(dtype=float)
        return changes
    parts = [
        np.abs(np.diff(EV_TO_MEV * one["deviation_ev"] / one["n_atoms"])) for _, one in energies.groupby("trajectory")
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _singular_rows(
    energies: Mapping[str, pd.DataFrame], spikes: Mapping[str, pd.DataFrame], tables: RunTables
) -> pd.DataFrame:
    rows = []
    for run, frame in energies.items():
        drifts = drift_rows(tables, SINGULAR, run)
        for name, part in frame.groupby("name", sort=False):
            own = drifts[drifts["trajectory"].isin(part["trajectory"])]
            jumps = _jumps(spikes.get(run), part, run in spikes)
            deviation = EV_TO_MEV * part["deviation_ev"] / part["n_atoms"]
            jumps = jumps[np.isfinite(jumps)]
            rows.append(
                {
                    "run": run, "network": network_of(run), "name": name, "n_atoms": int(part["n_atoms"].iloc[0]),
                    "trajectories": part["trajectory"].nunique(), "samples": len(part),
                    "drift_mev_per_atom_ps": float(own["drift_mev_per_atom_ps"].abs().mean()),
                    "largest_deviation_mev_per_atom": float(deviation.abs().max()),
                    "largest_jump": float(jumps.max()) if jumps.size else math.nan,
                    "median_jump": float(np.median(jumps)) if jumps.size else math.nan,
                    "jump_of": "force (eV/Å)" if run in spikes else "total energy (meV/atom)",
                    "failed": int(own["failed"].sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _molecule_title(name: str, energies: Mapping[str, pd.DataFrame], n: int) -> str:
    first = next(frame for frame in energies.values() if (frame["name"] == name).any())
    atoms = int(first.loc[first["name"] == name, "n_atoms"].iloc[0])
    return "\n".join([*textwrap.wrap(name, 17 if n > 3 else 30), f"{atoms} atoms"])


def _spike_numbers(
    axis: Axes, rows: pd.DataFrame, runs: Sequence[str], networks: Sequence[str], labelled: bool
) -> None:
    axis.axis("off")
    axis.set_ylim(len(runs) + 1, 0)
    axis.text(0, 0.5, "  |drift|, max/median", transform=axis.get_yaxis_transform(), va="center", color=GREY)
    for index, run in enumerate(runs):
        part = rows[rows["run"] == run]
        text = "not simulated"
        if len(part):
            row = part.iloc[0]
            ratio = row["largest_jump"] / row["median_jump"] if row["median_jump"] > 0 else math.nan
            text = f"{number(row['drift_mev_per_atom_ps'], 2)}, {number(ratio, 2)}"
            if row["failed"]:
                text += ", failed"
        axis.text(
            0, index + 1.5, f"{_tag(run, networks)} {text}", transform=axis.get_yaxis_transform(), va="center",
            color=look_of(network_of(run), networks).color,
        )  # fmt: skip


def _singular_notes(
    tables: RunTables,
    context: StudyContext,
    runs: Sequence[str],
    energies: Mapping[str, pd.DataFrame],
    spikes: Mapping[str, pd.DataFrame],
) -> list[str]:
    per = [frame.groupby("name")["trajectory"].nunique() for frame in energies.values()]
    lengths = [_length(tables, SINGULAR, run) for run in runs]
    lines = [
        f"{scale_note(context)} · n = {span_text(pd.concat(per), 'trajectories')} per molecule and network at constant "
        f"energy, {span_text(lengths, 'ps')} (first seed's network)",
        "Below: mean |drift| (meV/atom/ps); largest jump over the median one. Molecules of three atoms have no "
        "quadruplets, so no such kink. The paper does not mention this.",
    ]
    if spikes:
        step = {round(float(frame["interval_fs"].iloc[0]), 6) for frame in spikes.values() if "interval_fs" in frame}
        resolution = max(
            (
                float(frame["resolution_ev_per_angstrom"].max())
                for frame in spikes.values()
                if "resolution_ev_per_angstrom" in frame
            ),
            default=math.nan,
        )
        text = "Forces: second differences of the positions (exact for velocity Verlet at every step)"
        if step:
            text += f", samples {span_text(step, 'fs')} apart"
        if np.isfinite(resolution):
            text += f", resolution {number(resolution, 1)} eV/Å"
        lines.append(f"{text}. Symbols: the largest.")
    else:
        lines.append("Forces were not kept: jumps of the total energy between samples instead.")
    return lines


# --- active learning ------------------------------------------------------------------------------------------------


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
        low, logarithmic = _first_time(frame, end)
        drawn = []
        for axis, temperature in zip(curves, temperatures, strict=True):
            for index, one in enumerate(series):
                part = one.robustness[one.robustness["temperature_k"] == temperature]
                if part.empty:
                    continue
                curve = survival_curve(part)
                _draw_curve(axis, curve, part, one, low, 3.0 - 1.6 * index)
                drawn.append(curve.assign(panel="survival", round=int(one.run), temperature_k=temperature))
            axis.set_title(f"{temperature:g} K", fontsize=9.5)
            axis.set_xlabel("time (ps)")
            _time_axis(axis, low, end, logarithmic, len(temperatures))
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
            _failures_note(frame),
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
                _upper_limit(axis, place + offset, found.high, one.color, marker, upright=True)
            else:
                bars = [[found.value - found.low], [found.high - found.value]]
                axis.errorbar(place + offset, found.value, yerr=bars, marker=marker, color=one.color, capsize=2)
    axis.set_ylabel("first failures per ns\n(open: none, upper limit)")
    axis.set_xticks(range(len(temperatures)), [f"{temperature:g} K" for temperature in temperatures])
    axis.set_xlim(-0.5, len(temperatures) - 0.5)
    if axis.lines:
        plain_log(axis, "y", 1.5)


def _upper_limit(axis: Axes, x: float, y: float, color: str, marker: str, upright: bool) -> None:
    """An open symbol with an arrow to smaller values."""
    axis.plot(x, y, marker, color=color, markersize=6, markerfacecolor="white", zorder=3)
    axis.annotate(
        "", (x, y), (0, -20) if upright else (-22, 0), textcoords="offset points",
        arrowprops={"arrowstyle": "<-", "color": color}, zorder=2,
    )  # fmt: skip


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
