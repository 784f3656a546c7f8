"""Figures 1 and 2 of the study of robustness in long and hot dynamics.

After S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022): learning curves, errors of sampled frames against
DFT, converged calculations, one trajectory that breaks, and a sparse network on another one's trajectories.

Every product has the form ``f(tables, context, output)`` and writes <output>.png, .svg and .csv; what the paper states
is taken from the claim file by id. AE: atomization energy, the energy less those of the free atoms, each side with the
atoms of its own level, eV. Dynamics are those of the first seed's network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_line, style
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import Mean, count, number, over_seeds, plain_log, seeds_text, stated
from mlip_studies.studies.pavlovic_ethanol import look_of

__all__ = [
    "breaking_trajectory",
    "cross_evaluation",
    "dft_convergence",
    "high_energy",
    "learning_curves",
    "learning_curves_molecules",
    "md_errors",
]

Drawn = tuple[Figure, pd.DataFrame]

STUDY_FILE = "config/studies/stocker.yaml"
PAPER = "paper (text)"
#: data of the study's configuration
RANDOM, HIGH_ENERGY = "qm7x", "highe"
#: the networks of figure 1, and the one whose dynamics figure 2 shows
CURVE_NETWORKS = ("gemnet_q", "gemnet_t", "schnet", "dimenet_plus_plus")
NETWORK = "gemnet_q"
#: jobs without a thermostat
CLOSED = ("nve", "singular")
#: job of dynamics of figure 2
THERMAL = "thermal"
#: training rows of the paper's smallest and largest set (p. 3)
PAPER_SMALLEST, PAPER_LARGEST = 3200, 3_200_000
ENERGY, FORCE = "energy_mae_ev", "force_mae_ev_per_angstrom"
FRAME_ENERGY = "ae_error_ev"
NAMES: Mapping[str, str] = {ENERGY: "AE MAE (eV)", FORCE: "force MAE (eV/Å)"}
# Claims and quoted numbers that are drawn.
STATED_TEST: Mapping[str, Mapping[int, str]] = {
    ENERGY: {PAPER_SMALLEST: "ae-mae-q-3.2k", PAPER_LARGEST: "ae-mae-q-3.2m"},
    FORCE: {PAPER_SMALLEST: "force-mae-q-3.2k", PAPER_LARGEST: "force-mae-q-3.2m"},
}
SPOOKYNET = "spookynet-force-mae"
HIGH_ENERGY_TEST: Mapping[str, str] = {ENERGY: "ae-mae-highe", FORCE: "force-mae-highe"}
RANDOM_ENERGY = "ae-mae-q-3.2k-uniform"  # of the random network beside highE: 0.052 there, 0.05 in figure 1's text
HIGH_ENERGY_END = "highe-dissociation-time"
MD_ENERGY_SPARSE, MD_ENERGY_LARGEST = "md-ae-mae-3.2k-300k", "md-ae-mae-q-3.2m-1200k"
CONVERGED_EXHAUSTIVE, CONVERGED_SPARSE = "dft-converged-exhaustive", "dft-converged-3.2k-1200k"
BREAK_TIME, BREAK_ERROR = "breaking-time", "breaking-ae-error"
CROSS_OWN, CROSS_OTHER = "cross-force-mae-own", "cross-force-mae-other"
#: colour, marker and line of training sizes, from the smallest on
SIZE_STYLES: Sequence[tuple[str, str, Any]] = (
    (OKABE_ITO["vermillion"], "o", "-"),
    (OKABE_ITO["orange"], "s", (0, (5, 1.5))),
    (OKABE_ITO["sky blue"], "^", (0, (3, 1, 1, 1))),
    (OKABE_ITO["blue"], "D", "-"),
    (OKABE_ITO["bluish green"], "v", (0, (1, 1))),
    (OKABE_ITO["reddish purple"], "P", "--"),
)
STAR: dict[str, Any] = {"marker": "*", "markersize": 13, "linestyle": "none", "markeredgecolor": "black", "zorder": 7}
#: fewer trajectories than this have no bootstrap interval
LEAST_TRAJECTORIES = 5
#: frames with a number of DFT: headline (default procedure), and with what the further strategies saved
PLAIN, SAVED = "converged", "converged_fallback"
MEAN = "mean over trajectories"
#: relative difference that the frames saved by further strategies must make to be drawn
RING = 0.03
BEFORE, AFTER = OKABE_ITO["blue"], OKABE_ITO["vermillion"]


# --- runs, sizes, text ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sized:
    """A run of a plain setting with its number of training rows.

    Attributes:
        name: of the run.
        data: name of its data.
        network: name of its network.
        shift: reference of its energies.
        size: training rows.
    """

    name: str
    data: str
    network: str
    shift: str
    size: int


def sized_runs(names: Iterable[str], data: Iterable[str] | None = None, networks: Iterable[str] = ()) -> list[Sized]:
    """Runs that differ in nothing but data, network and size, from small to large.

    Args:
        names: names of runs; those of another form, or with other layers, steps or weights, are left out, and so are
            those of a rarer reference of energies, should a study have several.
        data: only these data; None: all.
        networks: only these networks; none: all.
    """
    found = []
    for name in dict.fromkeys(names):
        parts = parse_run_name(name)
        if parts is None or parts.train_size is None or {parts.beta, parts.n_layers, parts.max_steps} != {None}:
            continue
        if (data is None or parts.data in data) and (not networks or parts.network in networks):
            found.append(Sized(name, parts.data, parts.network, parts.shift, parts.train_size))
    shifts = Counter(run.shift for run in found)
    usual = max(shifts, key=lambda shift: shifts[shift], default="")
    return sorted((run for run in found if run.shift == usual), key=lambda run: (run.size, run.name))


def short_count(value: float) -> str:
    """A number of rows in short: 320, 3.2k, 32k, 3.2M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def size_style(index: int, n: int) -> tuple[str, str, Any]:
    """Colour, marker and line of a training size: the largest of up to four sizes is always the same.

    Args:
        index: of the size, from small to large.
        n: number of sizes.
    """
    chosen = list(range(n)) if n >= 4 else [*range(n - 1), 3]
    return SIZE_STYLES[chosen[index] % len(SIZE_STYLES)]


def _note(figure: Figure, context: StudyContext, *lines: str) -> None:
    """Scale, then what else there is to say, below a figure."""
    scale = f"{context.scale} scale"
    if context.scale == "mini":
        scale += " (small molecules, networks and budgets: no reproduction of the paper)"
    first, *more = [line for line in lines if line] or [""]
    footer(figure, "\n".join([" · ".join(part for part in (scale, first) if part), *more]))


def _missing(wanted: Iterable[str]) -> str:
    names = list(dict.fromkeys(wanted))
    return f"Not among the results given, so not drawn: {', '.join(names)}." if names else ""


def _span(values: Iterable[float], unit: str) -> str:
    """One count or the smallest and the largest, with a unit."""
    found = sorted({round(value) for value in values})
    text = count(found[0]) if len(found) == 1 else f"{count(found[0])} to {count(found[-1])}"
    return f"{text} {unit.removesuffix('s') if text == '1' else unit}"


def _log_counts(axis: Axes, low: float, high: float) -> None:
    """Logarithmic x axis of numbers of rows, with labels at the decades."""
    axis.set_xscale("log")
    axis.set_xlim(low / 1.8, high * 1.8)
    axis.xaxis.set_major_locator(FixedLocator([10.0**k for k in range(8) if low / 1.8 <= 10.0**k <= high * 1.8]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axis.xaxis.set_minor_locator(NullLocator())


def _limits(axis: Axes, values: Iterable[float], room: float = 1.5) -> None:
    """Logarithmic y axis around these values."""
    there = np.array([value for value in values if np.isfinite(value) and value > 0])
    low, high = (there.min(), there.max()) if there.size else (1e-3, 1.0)
    if high / low < 3:
        low, high = low / 2, high * 2
    axis.set_ylim(low, high)
    plain_log(axis, "y", room)


def _bar(mean: Mean) -> list[list[float]] | None:
    """Error bar for a logarithmic axis; None where there is none."""
    return None if mean.bar is None else [[min(mean.half, 0.95 * mean.value)], [mean.half]]


# --- the floor of the checks ----------------------------------------------------------------------------------------


class Floor(NamedTuple):
    """What the spot checks' level differs by from the labels; smaller errors cannot be seen in the checks.

    Attributes:
        energy: mean absolute difference of AE per molecule, eV.
        force: mean absolute difference of force components, eV/Å.
        n: test rows that were calculated again.
    """

    energy: float
    force: float
    n: int

    @property
    def values(self) -> Mapping[str, float]:
        """Both by the name of their column."""
        return {ENERGY: self.energy, FORCE: self.force}


def floor_of(tables: RunTables) -> Floor | None:
    """The floor, from test rows calculated again at the level of the checks; None if that was not done."""
    try:
        frame = tables.floor()
    except MissingDataError:
        return None
    frame = frame[np.isfinite(frame["ae_difference_ev"].to_numpy(float))]
    if frame.empty:
        return None
    return Floor(float(frame["ae_difference_ev"].abs().mean()), float(frame[FORCE].mean()), len(frame))


FLOOR_LABEL = "below the floor of the checks"


def _draw_floor(axis: Axes, floor: Floor | None, quantity: str) -> bool:
    """Shade what lies below the floor, on an axis whose limits are set; whether it reaches into the axis."""
    low, high = axis.get_ylim()
    if floor is None or not low < floor.values[quantity] < high:
        return False
    top = floor.values[quantity]
    axis.axhspan(low, top, facecolor="#F0F0F0", edgecolor="#B5B5B5", hatch="....", linewidth=0, zorder=0.4)
    axis.axhline(top, color="#8C8C8C", linestyle=":", linewidth=1.3, zorder=0.7)
    return True


def _floor_handle() -> Patch:
    return Patch(facecolor="#F0F0F0", edgecolor="#B5B5B5", hatch="....", label=FLOOR_LABEL)


def _floor_text(floor: Floor | None, drawn: bool) -> str:
    if floor is None:
        return "Floor of the checks: not calculated."
    values = f"{number(floor.values[ENERGY], 2)} eV (AE), {number(floor.values[FORCE], 2)} eV/Å (forces)"
    where = "" if drawn else ", below the axes"
    return f"Floor of the checks ({_span([floor.n], 'test rows')} calculated again at their level): {values}{where}."


# --- figure 1: learning curves --------------------------------------------------------------------------------------


def learning_curves(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Force and AE errors on the random test rows against the number of training rows, four networks (figure 1).

    Reads runs (group: the learning curves) and, if it is there, the floor of the checks.

    Args:
        tables: results; runs that are missing are left out and named.
        context: scale, claims and runs of the study.
        output: path of the PNG file.

    Raises:
        InputError: none of the runs was trained, or a claim is missing.
    """
    save_figure(*learning_curves_figure(tables, context), output)


def learning_curves_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`learning_curves`, and its numbers."""
    runs = _trained(tables, (RANDOM,), CURVE_NETWORKS, "figure learning-curves")
    results = {run: tables.get("runs", run.name) for run in runs}
    sizes = [over_seeds(frame, "n_train").value for frame in results.values()]
    floor = floor_of(tables)
    tidy, reached = [], False
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.4))
        for axis, quantity in zip(axes, (FORCE, ENERGY), strict=True):
            values: list[float] = []
            for network in CURVE_NETWORKS:
                look = look_of(network)
                series = [run for run in runs if run.network == network]
                rows = _curve(axis, [results[run] for run in series], quantity, look.color, look.marker, "-")
                tidy += [{"network": network, **row} for row in rows]
                values += [row["value"] for row in rows]
            for size, claim in STATED_TEST[quantity].items():
                value = stated(context, claim)
                axis.plot(size, value, color=look_of(NETWORK).color, **STAR)
                tidy.append(_stated_row(claim, quantity, value, network=NETWORK, n_train=size))
                values.append(value)
            if quantity == FORCE:
                value = stated(context, SPOOKYNET)
                paper_line(axis, value, "y")
                tidy.append(_stated_row(SPOOKYNET, quantity, value, network="spookynet"))
                values.append(value)
            _limits(axis, values)
            _log_counts(axis, min(*sizes, PAPER_SMALLEST), PAPER_LARGEST)
            axis.set_xlabel("training rows")
            axis.set_ylabel(f"{NAMES[quantity]}, random test rows")
            reached |= _draw_floor(axis, floor, quantity)
        panel_letters(axes)
        handles: list[Any] = [
            Line2D([], [], color=look_of(name).color, marker=look_of(name).marker, label=look_of(name).title)
            for name in CURVE_NETWORKS if any(run.network == name for run in runs)
        ]  # fmt: skip
        handles += [
            Line2D([], [], color=look_of(NETWORK).color, label=f"GemNet-Q, {PAPER}", **STAR),
            Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3,
                   label=f"SpookyNet, {stated(context, SPOOKYNET):g} eV/Å, {PAPER}"),
        ]  # fmt: skip
        if reached:
            handles.append(_floor_handle())
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.4)
        wanted = [run for run in _of_study(context, (RANDOM,), CURVE_NETWORKS) if run not in {r.name for r in runs}]
        _note(
            figure, context, _seeds_and_tests(results.values()),
            "AE: per molecule. Points: seeds; lines: their mean. "
            + (_floor_text(floor, reached) if floor is not None else ""),
            _missing(wanted),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _trained(
    tables: RunTables, data: Iterable[str] | None, networks: Iterable[str], what: str, sizes: Sequence[int] = ()
) -> list[Sized]:
    """Runs with results, from small to large.

    Raises:
        InputError: there is none.
    """
    runs = [run for run in sized_runs(tables.names("runs"), data, networks) if not sizes or run.size in sizes]
    if not runs:
        which = " or ".join(data) if data is not None else "several data"
        raise InputError(
            f"{what}: none of its runs was trained (data {which}, a training size in the name); add one to {STUDY_FILE}"
        )
    return runs


def _of_study(context: StudyContext, data: Iterable[str] | None, networks: Iterable[str]) -> list[str]:
    return [run.name for run in sized_runs(context.runs, data, networks)]


def _seeds_and_tests(frames: Iterable[pd.DataFrame]) -> str:
    frames = list(frames)
    tests = {float(n) for frame in frames if "n_test" in frame for n in frame["n_test"].dropna()}
    return " · ".join([seeds_text(frames), *([_span(tests, "test rows")] if tests else [])])


def _stated_row(claim: str, quantity: str, value: float, **more: Any) -> dict[str, Any]:
    return {"run": "paper", "claim": claim, "quantity": quantity, "value": value, "seed": "stated", **more}


def _curve(
    axis: Axes, frames: Sequence[pd.DataFrame], quantity: str, color: str, marker: str, line: Any
) -> list[dict[str, Any]]:
    """One line over training sizes: seeds as points, their mean as a line with 95 % bars; returns what it drew."""
    rows, at, means = [], [], []
    for frame in frames:
        mean = over_seeds(frame, quantity)
        if not mean.n:
            continue
        size = int(over_seeds(frame, "n_train").value)
        at.append(size)
        means.append(mean)
        common = {"run": frame["run"].iloc[0], "n_train": size, "quantity": quantity}
        for _, one in frame.iterrows():
            rows.append({**common, "seed": str(one["seed"]), "value": float(one[quantity]), "n": 1})
        rows.append({**common, "seed": "mean", "value": mean.value, "half_width_95": mean.half, "n": mean.n})
        axis.errorbar(size, mean.value, yerr=_bar(mean), color=color, capsize=2.5, linewidth=1.0, zorder=3)
        points = list(mean.values)
        axis.plot([size] * len(points), points, marker, color=color, markersize=5, alpha=0.8, zorder=4)
    axis.plot(at, [mean.value for mean in means], color=color, linestyle=line, linewidth=1.5, zorder=3)
    return rows


# --- learning curves on unseen molecules ----------------------------------------------------------------------------

#: of splits by molecules: what their test rows are, marker, line, colour where there is one network only
_SPLITS: Mapping[str, tuple[str, str, Any, str]] = {
    "stocker_molecules": ("rows of molecules never trained on", "s", (0, (5, 1.5)), OKABE_ITO["vermillion"]),
    "spookynet": ("rows of SpookyNet's test molecules", "^", (0, (1, 1)), OKABE_ITO["bluish green"]),
}
_RANDOM_ROWS = ("random rows", "o", "-", OKABE_ITO["blue"])


def learning_curves_molecules(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Learning curves on random test rows beside those on rows of molecules that were never trained on.

    Reads runs of the random split and of every other data of the study but :data:`HIGH_ENERGY`.

    Args:
        tables: results.
        context: scale, claims and settings (``data.<name>.split`` says how the data were split).
        output: path of the PNG file.

    Raises:
        InputError: no run of another split than the random one was trained, or a claim is missing.
    """
    save_figure(*learning_curves_molecules_figure(tables, context), output)


def split_look(context: StudyContext, data: str) -> tuple[str, str, Any, str]:
    """What the test rows of a study's data are, with marker, line and colour.

    Args:
        context: its settings name the splits.
        data: name of the data; without settings ``molecules`` and ``unknown`` are the splits by molecules.
    """
    entry = context.settings.get("data", {}).get(data, {})
    split = entry.get("split", {"molecules": "stocker_molecules", "unknown": "spookynet"}.get(data, ""))
    return _SPLITS.get(str(split), _RANDOM_ROWS)


def learning_curves_molecules_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`learning_curves_molecules`, and its numbers."""
    what = "figure learning-curves-molecules"
    there = {run.data for run in sized_runs(tables.names("runs"))}
    by_molecule = sorted(name for name in there if split_look(context, name) in _SPLITS.values())
    if not by_molecule:
        raise InputError(f"{what}: no run of a split by molecules was trained; add one to {STUDY_FILE}")
    others = _trained(tables, by_molecule, (), what)
    networks = [name for name in CURVE_NETWORKS if any(run.network == name for run in others)]
    networks += sorted({run.network for run in others} - set(networks))
    runs = [*_trained_or_none(tables, (RANDOM,), networks), *others]
    results = {run: tables.get("runs", run.name) for run in runs}
    data = sorted({run.data for run in runs}, key=lambda name: (name != RANDOM, name))
    tidy = []
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.4))
        sizes = [over_seeds(frame, "n_train").value for frame in results.values()]
        for axis, quantity in zip(axes, (FORCE, ENERGY), strict=True):
            values: list[float] = []
            for network in networks:
                for name in data:
                    _, marker, line, color = split_look(context, name)
                    series = [run for run in runs if (run.network, run.data) == (network, name)]
                    color = look_of(network, networks).color if len(networks) > 1 else color
                    rows = _curve(axis, [results[run] for run in series], quantity, color, marker, line)
                    tidy += [{"network": network, "data": name, **row} for row in rows]
                    values += [row["value"] for row in rows]
            for size, claim in STATED_TEST[quantity].items():
                value = stated(context, claim)
                axis.plot(size, value, color=look_of(NETWORK).color, **STAR)
                tidy.append(_stated_row(claim, quantity, value, network=NETWORK, data=RANDOM, n_train=size))
                values.append(value)
            _limits(axis, values)
            _log_counts(axis, min(*sizes, PAPER_SMALLEST), PAPER_LARGEST)
            axis.set_xlabel("training rows")
            axis.set_ylabel(f"{NAMES[quantity]}, test rows")
        panel_letters(axes)
        several = len(networks) > 1
        handles = [
            Line2D([], [], color=look_of(name, networks).color, label=look_of(name, networks).title)
            for name in networks if several
        ]  # fmt: skip
        for name in data:
            title, marker, line, color = split_look(context, name)
            handles.append(Line2D([], [], color=GREY if several else color, marker=marker, linestyle=line, label=title))
        color = look_of(NETWORK).color if several else _RANDOM_ROWS[-1]
        handles.append(Line2D([], [], color=color, label=f"GemNet-Q, random rows, {PAPER}", **STAR))
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4, handlelength=3)
        _note(
            figure, context, seeds_text(results.values()),
            f"{', '.join(look_of(name, networks).title for name in networks)}. Test: "
            + "; ".join(_tests_of(context, [(name, [results[r] for r in runs if r.data == name]) for name in data]))
            + ". Training and test rows of the splits differ. Points: seeds; lines: their mean. The paper tests on "
            "random rows only." + _references(context, runs),
            _missing(run for run in _of_study(context, data, networks) if run not in {r.name for r in runs}),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _references(context: StudyContext, runs: Iterable[Sized]) -> str:
    """A sentence on what energies were learnt less of, where runs differ in it."""
    titles = {"isolated_atoms": "isolated atoms", "per_element": "a fit per element"}
    shifts = {parsed.data: parsed.shift for run in runs if (parsed := parse_run_name(run.name))}
    if len(set(shifts.values())) < 2:
        return ""
    listed = [f"{titles.get(shift, shift)} ({split_look(context, name)[0]})" for name, shift in shifts.items()]
    return f" Energies were learnt less {', '.join(listed)}."


def _trained_or_none(tables: RunTables, data: Iterable[str], networks: Iterable[str]) -> list[Sized]:
    return sized_runs(tables.names("runs"), data, networks)


def _tests_of(context: StudyContext, frames: Iterable[tuple[str, Sequence[pd.DataFrame]]]) -> list[str]:
    """For every split: its test rows, and how many molecules they are of."""
    texts = []
    for data, parts in frames:
        rows = {float(n) for frame in parts if "n_test" in frame for n in frame["n_test"].dropna()}
        groups = {float(n) for frame in parts if "n_groups" in frame for n in frame["n_groups"].dropna()}
        inside = f" ({_span(groups, 'molecules')})" if groups else ""
        if rows:
            texts.append(f"{_span(rows, split_look(context, data)[0])}{inside}")
    return texts


# --- training rows drawn by force norm ------------------------------------------------------------------------------


def high_energy(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Training rows drawn by their force norm ("highE") beside random ones: test errors, and failures in dynamics.

    Reads runs of both data, and robustness of the jobs in which networks of both were simulated.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no network was trained on both data with the same number of rows, or a claim is missing.
    """
    save_figure(*high_energy_figure(tables, context), output)


_PAIR: Mapping[str, tuple[str, str, str]] = {
    RANDOM: ("random rows", OKABE_ITO["blue"], "o"),
    HIGH_ENERGY: ("rows drawn by\nforce norm (highE)", OKABE_ITO["vermillion"], "s"),
}


SHORT: Mapping[str, str] = {RANDOM: "random", HIGH_ENERGY: "highE"}


def high_energy_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`high_energy`, and its numbers."""
    what = "figure high-energy"
    high = _trained(tables, (HIGH_ENERGY,), (), what)
    # The paper's pair is one of the full network; should there be several, that one.
    run = next((each for each in high if each.network == NETWORK), high[0])
    twin = next((each for each in sized_runs(tables.names("runs"), (RANDOM,), (run.network,))
                 if each.size == run.size and each.shift == run.shift), None)  # fmt: skip
    if twin is None:
        raise InputError(f"{what}: {run.name} has no counterpart on random rows; add its size to {STUDY_FILE}")
    pair = {RANDOM: tables.get("runs", twin.name), HIGH_ENERGY: tables.get("runs", run.name)}
    claims = {
        FORCE: {RANDOM: STATED_TEST[FORCE][PAPER_SMALLEST], HIGH_ENERGY: HIGH_ENERGY_TEST[FORCE]},
        ENERGY: {RANDOM: RANDOM_ENERGY, HIGH_ENERGY: HIGH_ENERGY_TEST[ENERGY]},
    }
    failures = _failures(tables, {RANDOM: twin.name, HIGH_ENERGY: run.name})
    tidy: list[dict[str, Any]] = []
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 4.3))
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.75))
        for axis, quantity in ((left, FORCE), (middle, ENERGY)):
            values: list[float] = []
            for at, (data, frame) in enumerate(pair.items()):
                _, color, marker = _PAIR[data]
                mean = over_seeds(frame, quantity)
                if mean.n > 1:
                    axis.plot([at - 0.12] * mean.n, mean.values, marker, color=color, markersize=5, alpha=0.6, zorder=3)
                axis.errorbar(at + 0.06, mean.value, yerr=_bar(mean), marker=marker, color=color, markersize=8,
                              capsize=3, linestyle="none", zorder=4)  # fmt: skip
                value = stated(context, claims[quantity][data])
                axis.plot(at + 0.26, value, color=color, **STAR)
                values += [*mean.values, value]
                for seed, one in zip(frame["seed"], frame[quantity], strict=True):
                    tidy.append({"panel": quantity, "data": data, "run": frame["run"].iloc[0], "seed": str(seed),
                                 "value": float(one), "n": 1})  # fmt: skip
                tidy.append({"panel": quantity, "data": data, "run": frame["run"].iloc[0], "seed": "mean",
                             "value": mean.value, "half_width_95": mean.half, "n": mean.n})  # fmt: skip
                tidy.append({"panel": quantity, "data": data,
                             **_stated_row(claims[quantity][data], quantity, value)})  # fmt: skip
            _limits(axis, values)
            axis.set_xlim(-0.5, 1.6)
            axis.set_xticks([0, 1], [SHORT[data] for data in pair])
            axis.grid(axis="x", visible=False)
            axis.set_ylabel(f"{NAMES[quantity]}, test")
        tidy += _draw_failures(right, failures, context)
        panel_letters((left, middle, right))
        beyond = "" if right.get_xlim()[1] >= stated(context, HIGH_ENERGY_END) else "\n(beyond the axis)"
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=title.replace("\n", " "))
            for title, color, marker in _PAIR.values()
        ]
        handles += [
            Line2D([], [], color="white", label=PAPER, **STAR),
            Line2D([], [], color="black", marker=">", linestyle="none", markerfacecolor="white",
                   label="no failure until the end"),
            Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3,
                   label=f"highE, {PAPER}: all by about {stated(context, HIGH_ENERGY_END):g} ps{beyond}"),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        _note(
            figure, context, _seeds_and_tests(pair.values()),
            f"{look_of(run.network).title}, {_span([run.size], 'training rows')} in both; paper: "
            f"{short_count(PAPER_SMALLEST)}. Small points: seeds. The same random test rows.",
            _failure_text(failures),
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _failures(tables: RunTables, runs: Mapping[str, str]) -> pd.DataFrame:
    """Trajectories of the hottest temperature and of the molecules at which both networks were simulated.

    Args:
        tables: results.
        runs: name of the run by data.
    """
    frames = {data: [tables.robustness(job, name) for job, found in tables.robustness_jobs() if found == name
                     and job not in CLOSED] for data, name in runs.items()}  # fmt: skip
    if not all(frames.values()):
        return pd.DataFrame()
    merged = pd.concat([pd.concat(parts).assign(of=data) for data, parts in frames.items()], ignore_index=True)
    merged["name"] = told_apart(merged)
    both = merged.groupby(["job", "name", "temperature_k"])["of"].transform("nunique") == len(runs)
    merged = merged[both]
    return merged[merged["temperature_k"] == merged["temperature_k"].max()].reset_index(drop=True)


def _draw_failures(axis: Axes, failures: pd.DataFrame, context: StudyContext) -> list[dict[str, Any]]:
    """Times of the first failures by molecule, those that live on as arrows; returns what it drew."""
    axis.set_xlabel("time of the first failure (ps)")
    if failures.empty:
        axis.text(0.5, 0.5, "no molecule was simulated\nwith both networks", transform=axis.transAxes, ha="center",
                  va="center", color=GREY)  # fmt: skip
        axis.set_yticks([])
        return []
    names = list(dict.fromkeys(failures["name"]))
    rows = []
    for data, (_, color, marker) in _PAIR.items():
        for index, name in enumerate(names):
            part = failures[(failures["of"] == data) & (failures["name"] == name)]
            y = index + (-0.17 if data == RANDOM else 0.17)
            died = part[part["failed"]]
            alive = part[~part["failed"]]
            axis.plot(died["failure_ps"], [y] * len(died), marker, color=color, markersize=6, zorder=3, alpha=0.85)
            axis.plot(alive["observed_ps"], [y] * len(alive), ">", color=color, markerfacecolor="white",
                      markersize=7, markeredgewidth=1.3, zorder=3)  # fmt: skip
            for line in part.itertuples():
                rows.append({"panel": "failure", "data": data, "run": line.run, "name": name, "job": line.job,
                             "temperature_k": line.temperature_k, "trajectory": line.trajectory,
                             "quantity": "failure_ps" if line.failed else "survived_ps",
                             "value": line.failure_ps if line.failed else line.observed_ps})  # fmt: skip
    observed = float(failures["observed_ps"].max())
    limit = stated(context, HIGH_ENERGY_END)
    rows.append({"panel": "failure", "data": HIGH_ENERGY, **_stated_row(HIGH_ENERGY_END, "failure_ps", limit)})
    axis.set_xlim(-0.03 * observed, 1.08 * observed)
    if limit <= 1.08 * observed:
        paper_line(axis, limit, "x")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return rows


def _failure_text(failures: pd.DataFrame) -> str:
    if failures.empty:
        return "(c) needs dynamics of both networks for the same molecule and temperature."
    parts = []
    for data in _PAIR:
        part = failures[failures["of"] == data]
        failed, n = int(part["failed"].sum()), len(part)
        low, high = wilson(failed, n)
        parts.append(f"{SHORT[data]} {failed} of {n} failed ({100 * low:.0f} to {100 * high:.0f} %, Wilson)")
    kelvin = failures["temperature_k"].iloc[0]
    return (
        f"(c) {kelvin:g} K, first seed's network, at most {number(float(failures['observed_ps'].max()))} ps: "
        f"{'; '.join(parts)}. Paper: three molecules that dissociated with the random network."
    )


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a share k/n (E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927)); (0, 1) for n = 0.

    Args:
        k: how many of them.
        n: of how many.
    """
    from scipy import stats  # here, because it takes half a second

    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


# --- errors of sampled frames (figure 2b, c) ------------------------------------------------------------------------


def thermal_runs(pairs: Iterable[tuple[str, str]], job: str = THERMAL) -> list[Sized]:
    """Runs of figure 2's network on the random rows whose dynamics are there, from small to large.

    Args:
        pairs: (job, run) that have the table in question.
        job: name of the job.
    """
    return sized_runs((run for found, run in pairs if found == job), (RANDOM,), (NETWORK,))


def told_apart(frame: pd.DataFrame) -> pd.Series:
    """Names of the molecules; where several starts share one, with the number of the start.

    Args:
        frame: with the columns start and name.
    """
    names = frame["name"].astype(str)
    shared = frame["start"].groupby(names).transform("nunique") > 1
    return names.where(~shared, names + " " + frame["start"].astype(str))


def trajectory_errors(judged: pd.DataFrame) -> pd.DataFrame:
    """Mean errors of each trajectory over the frames that have a number of DFT.

    Args:
        judged: one row per frame, errors NaN where there is no number.

    Returns:
        one row per trajectory and reference ("plain": frames that the default procedure converged; "all": with those
        that a further strategy saved): trajectory, start, name, temperature_k, replica (its number among those of the
        same start and temperature), reference, n_frames, n (of them with a number), energy_mae_ev,
        force_mae_ev_per_angstrom (NaN for n = 0).
    """
    rows = []
    judged = judged.assign(name=told_apart(judged))
    for trajectory, frames in judged.groupby("trajectory", sort=True):
        first = frames.iloc[0]
        for reference, statuses in (("plain", (PLAIN,)), ("all", (PLAIN, SAVED))):
            used = frames[frames["status"].isin(statuses) & np.isfinite(frames[FRAME_ENERGY].to_numpy(float))]
            rows.append(
                {
                    "trajectory": trajectory, "start": first["start"], "name": first["name"],
                    "temperature_k": float(first["temperature_k"]), "reference": reference, "n_frames": len(frames),
                    "n": len(used), ENERGY: float(used[FRAME_ENERGY].abs().mean()) if len(used) else math.nan,
                    FORCE: float(used[FORCE].mean()) if len(used) else math.nan,
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    table["replica"] = (
        table.groupby(["start", "temperature_k", "reference"])["trajectory"].rank(method="first").astype(int) - 1
    )
    return table


def mean_and_bootstrap(values: Sequence[float]) -> tuple[float, float, float, int]:
    """Mean, 95 % percentile bootstrap interval of the mean (NaN below five values) and number of the finite values.

    Args:
        values: one per trajectory; the errors of trajectories span decades, so no symmetric interval.
    """
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    if not array.size:
        return math.nan, math.nan, math.nan, 0
    if array.size < LEAST_TRAJECTORIES:
        return float(array.mean()), math.nan, math.nan, int(array.size)
    draws = np.random.default_rng(0).choice(array, (4000, array.size)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(array.mean()), float(low), float(high), int(array.size)


def md_errors(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """AE and force errors of frames of a network's own dynamics against temperature and size (figure 2b, c).

    Reads judged frames of :data:`THERMAL` (every network judged on its own frames), runs and the floor of the checks.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no network was judged on its own frames, or a claim is missing.
    """
    save_figure(*md_errors_figure(tables, context), output)


def md_errors_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`md_errors`, and its numbers."""
    runs = thermal_runs((job, run) for job, run, judge in tables.judged_jobs() if judge == run)
    if not runs:
        raise InputError(
            f"figure md-errors: no frames of {NETWORK} on {RANDOM} were judged (job {THERMAL}); add a run to "
            f"md.{THERMAL} in {STUDY_FILE}"
        )
    judged = {run: tables.judged(THERMAL, run.name) for run in runs}
    errors = {run: trajectory_errors(frame) for run, frame in judged.items()}
    tests = {run: _first_seed_errors(tables, run.name) for run in runs}
    kelvin = sorted({t for frame in errors.values() for t in frame["temperature_k"]})
    floor, reached = floor_of(tables), False
    at_test = kelvin[0] / 2
    paper = _paper_temperatures(context, kelvin)
    tidy: list[dict[str, Any]] = []
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 5.0))
        for axis, quantity in zip(axes, (ENERGY, FORCE), strict=True):
            values: list[float] = []
            for index, run in enumerate(runs):
                color, marker, line = size_style(index, len(runs))
                shift = 1.045 ** (index - (len(runs) - 1) / 2)
                if math.isfinite(tests[run].get(quantity, math.nan)):
                    axis.plot(at_test * shift, tests[run][quantity], marker, color=color, markersize=7,
                              markerfacecolor="white", markeredgewidth=1.6, zorder=5)  # fmt: skip
                    values.append(tests[run][quantity])
                    tidy.append({**_of(run), "quantity": quantity, "what": "test rows, first seed",
                                 "value": tests[run][quantity]})  # fmt: skip
                rows = _temperature_lines(axis, errors[run], quantity, kelvin, shift, (color, marker, line))
                tidy += [{**_of(run), "quantity": quantity, **row} for row in rows]
                values += [row[key] for row in rows for key in ("value", "low", "high") if key in row]
            for where, size, value, claim, bound in paper[quantity]:
                stated_at = at_test if where is None else where
                color = _paper_color(size, len(runs))
                axis.plot(stated_at, value, color=color, **STAR)
                if bound:
                    axis.annotate("", (stated_at, value), (0, 24), textcoords="offset points", zorder=6,
                                  arrowprops={"arrowstyle": "<-", "linewidth": 1.2})  # fmt: skip
                values.append(value * (2.5 if bound else 1))
                tidy.append({**_stated_row(claim, quantity, value), "size": size, "temperature_k": where})
            _limits(axis, values)
            axis.set_xscale("log")
            axis.set_xlim(at_test / 1.45, kelvin[-1] * 1.35)
            axis.set_xticks([at_test, *kelvin], ["test", *(f"{t:g}" for t in kelvin)])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.axvline(math.sqrt(at_test * kelvin[0]), color="#BBBBBB", linewidth=0.8, zorder=0.6)
            axis.set_xlabel("temperature of the dynamics (K)")
            axis.set_ylabel(f"{NAMES[quantity]} against DFT")
            reached |= _draw_floor(axis, floor, quantity)
        panel_letters(axes)
        figure.legend(
            handles=_md_handles(runs, _rings(tidy), reached), loc="outside upper center", ncols=3, columnspacing=1.2
        )
        _note(
            figure, context, *_md_notes(context, runs, judged, errors, _floor_text(floor, reached), any(tests.values()))
        )
    return figure, pd.DataFrame(tidy)


def _rings(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a mean with the frames of the ladder is drawn beside that without."""
    means = [row for row in rows if row.get("what") == MEAN]
    plain, every = ({(row["run"], row["quantity"], row["temperature_k"]): row["value"] for row in means
                     if row["reference"] == reference} for reference in ("plain", "all"))  # fmt: skip
    return any(not np.isclose(every[key], plain[key], rtol=RING, atol=0, equal_nan=True) for key in plain)


def _of(run: Sized) -> dict[str, Any]:
    return {"run": run.name, "size": run.size}


def _first_seed_errors(tables: RunTables, run: str) -> dict[str, float]:
    """Test errors of the seed whose network was simulated; empty if the table is not there."""
    if run not in tables.names("runs"):
        return {}
    frame = tables.get("runs", run)
    first = frame[frame["seed"] == frame["seed"].min()].iloc[0]
    return {quantity: float(first[quantity]) for quantity in (ENERGY, FORCE)}


def _paper_temperatures(
    context: StudyContext, kelvin: Sequence[float]
) -> dict[str, list[tuple[float | None, int, float, str, bool]]]:
    """What the paper states, by quantity: temperature (None: test set), size, value, claim, whether a lower bound."""
    marks: dict[str, list[tuple[float | None, int, float, str, bool]]] = {
        quantity: [(None, size, stated(context, claim), claim, False) for size, claim in claims.items()]
        for quantity, claims in STATED_TEST.items()
    }
    for at, size, claim, bound in ((300.0, PAPER_SMALLEST, MD_ENERGY_SPARSE, True),
                                   (1200.0, PAPER_LARGEST, MD_ENERGY_LARGEST, False)):  # fmt: skip
        if kelvin[0] <= at <= kelvin[-1]:
            marks[ENERGY].append((at, size, stated(context, claim), claim, bound))
    return marks


def _temperature_lines(
    axis: Axes, errors: pd.DataFrame, quantity: str, kelvin: Sequence[float], shift: float, look: tuple[str, str, Any]
) -> list[dict[str, Any]]:
    """Single trajectories faint, their mean opaque, the mean with saved frames as rings; returns what it drew."""
    color, marker, line = look
    rows: list[dict[str, Any]] = []
    plain = errors[errors["reference"] == "plain"]
    for _, part in plain.groupby(["start", "replica"], sort=True):
        part = part.sort_values("temperature_k").dropna(subset=[quantity])
        axis.plot(part["temperature_k"] * shift, part[quantity].clip(lower=1e-12), color=color, alpha=0.22,
                  linewidth=0.9, marker=marker, markersize=3, markeredgewidth=0, zorder=2)  # fmt: skip
        rows += [{"what": "trajectory", "reference": "plain", "name": one.name, "trajectory": one.trajectory,
                  "temperature_k": one.temperature_k, "n": one.n, "value": getattr(one, quantity)}
                 for one in part.itertuples(index=False)]  # fmt: skip
    for reference in ("plain", "all"):
        means = []
        for temperature in kelvin:
            part = errors[(errors["reference"] == reference) & (errors["temperature_k"] == temperature)]
            if part.empty:
                continue
            value, low, high, n = mean_and_bootstrap(part[quantity].tolist())
            means.append((temperature, value, low, high))
            rows.append({"what": MEAN, "reference": reference, "temperature_k": temperature,
                         "value": value, "low": low, "high": high, "n": n, "n_trajectories": len(part),
                         "n_frames": int(part["n"].sum())})  # fmt: skip
        at, value, low, high = np.array(means, dtype=float).T
        if reference == "plain":
            axis.plot(at * shift, value, color=color, marker=marker, linestyle=line, markersize=6.5, linewidth=1.8,
                      zorder=4)  # fmt: skip
            axis.errorbar(at * shift, value, yerr=np.vstack([value - low, high - value]), color=color, capsize=2.5,
                          linestyle="none", linewidth=1.1, zorder=4)  # fmt: skip
            plain_values = value
        else:
            different = ~np.isclose(value, plain_values, rtol=RING, atol=0, equal_nan=True)
            axis.plot(at[different] * shift, value[different], marker, color=color, markersize=11, linestyle="none",
                      markerfacecolor="none", markeredgewidth=1.2, zorder=4)  # fmt: skip
    return rows


def _paper_color(size: int, n: int) -> str:
    """Colour of the paper's smallest or largest size: that of ours in the same place."""
    n = max(n, 2)
    return size_style(0 if size == PAPER_SMALLEST else n - 1, n)[0]


def size_title(run: Sized) -> str:
    """A size in a legend."""
    return f"{count(run.size)} training rows"


def _md_handles(runs: Sequence[Sized], saved: bool, floor: bool) -> list[Any]:
    handles: list[Any] = []
    for index, run in enumerate(runs):
        color, marker, line = size_style(index, len(runs))
        handles.append(Line2D([], [], color=color, marker=marker, linestyle=line, label=size_title(run)))
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=3, linewidth=0.9, alpha=0.5,
                          label="single trajectories"))  # fmt: skip
    if saved:
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=11, markerfacecolor="none", linestyle="none",
                              label="with frames of the SCF ladder"))  # fmt: skip
    for size in (PAPER_SMALLEST, PAPER_LARGEST):
        color = _paper_color(size, len(runs))
        handles.append(Line2D([], [], color=color, label=f"{PAPER}, {short_count(size)} rows", **STAR))
    if floor:
        handles.append(_floor_handle())
    return handles


def _md_notes(
    context: StudyContext,
    runs: Sequence[Sized],
    judged: Mapping[Sized, pd.DataFrame],
    errors: Mapping[Sized, pd.DataFrame],
    floor: str,
    tested: bool,
) -> list[str]:
    plain = {run: frame[frame["reference"] == "plain"] for run, frame in errors.items()}
    trajectories = [len(frame) for frame in plain.values()]
    frames = sum(len(frame) for frame in judged.values())
    without = sum(int(frame["n_frames"].sum() - frame["n"].sum()) for frame in plain.values())
    lost = sum(int((frame["n"] == 0).sum()) for frame in plain.values())
    per_point = min(
        int((part[ENERGY].notna()).sum()) for frame in plain.values() for _, part in frame.groupby("temperature_k")
    )
    bars = (
        "bars: 95 % bootstrap over trajectories" if per_point >= LEAST_TRAJECTORIES
        else f"no bars below {LEAST_TRAJECTORIES} trajectories per point"
    )  # fmt: skip
    lines = [
        f"{look_of(NETWORK).title}, n = {_span(trajectories, 'trajectories')} per size, first seed's network; {bars}",
        "Means of the trajectories' means over the frames that plain DIIS converged"
        + (f"; {count(without)} of {count(frames)} did not, so that errors of broken molecules are lower bounds."
           if without else f", all {count(frames)}.")
        + (f" {count(lost)} {'trajectory has' if lost == 1 else 'trajectories have'} no such frame." if lost else ""),
        f"{'Open symbols: the same network on its test rows. ' if tested else ''}{floor}",
    ]  # fmt: skip
    wanted = [name for name in _simulated(context, THERMAL) if name not in {run.name for run in runs}]
    lines.append(_missing(run.name for run in sized_runs(wanted, (RANDOM,), (NETWORK,))))
    return lines


def _simulated(context: StudyContext, job: str) -> list[str]:
    """Runs that the study simulates in a job, by its settings."""
    entries = context.settings.get("md", {}).get(job, {}).get("runs", [])
    return [str(entry["run"]) if isinstance(entry, Mapping) else str(entry) for entry in entries]


# --- converged calculations (figure 2d) -----------------------------------------------------------------------------

#: status -> class shown
OUTCOMES: Mapping[str, tuple[str, ...]] = {
    "converged (default DIIS)": (PLAIN,),
    "converged by a further strategy": (SAVED,),
    "not converged, or no SCF possible": ("unconverged", "bad_geometry", "nan_geometry", "odd_electrons"),
    "no result (time, memory, crash)": ("timeout", "out_of_memory", "crashed"),
}


def dft_convergence(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Share of converged DFT calculations on frames of the dynamics, by size and temperature (figure 2d).

    Reads checks (and robustness, for frames that do not exist) of :data:`THERMAL`.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no calculation on frames of figure 2's network, or a claim is missing.
    """
    save_figure(*dft_convergence_figure(tables, context), output)


def convergence_counts(checks: pd.DataFrame) -> pd.DataFrame:
    """Calculations by temperature and outcome.

    Args:
        checks: one row per calculation, with temperature_k and status.

    Returns:
        one row per temperature: n, converged, converged_share with low and high (Wilson, 95 %), with_ladder,
        with_ladder_share with low and high, and the number of each outcome of :data:`OUTCOMES`; a status that is not
        known counts as no result.
    """
    rows = []
    known = {status for statuses in OUTCOMES.values() for status in statuses}
    status = checks["status"].where(checks["status"].isin(known), "crashed")
    for temperature, part in status.groupby(checks["temperature_k"], sort=True):
        n = len(part)
        converged = int((part == PLAIN).sum())
        ladder = converged + int((part == SAVED).sum())
        low, high = wilson(converged, n)
        ladder_low, ladder_high = wilson(ladder, n)
        rows.append({"temperature_k": float(temperature), "n": n, "converged": converged,
                     "converged_share": converged / n, "low": low, "high": high, "with_ladder": ladder,
                     "with_ladder_share": ladder / n, "with_ladder_low": ladder_low, "with_ladder_high": ladder_high,
                     **{title: int(part.isin(statuses).sum()) for title, statuses in OUTCOMES.items()}})  # fmt: skip
    return pd.DataFrame(rows)


def dft_convergence_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`dft_convergence`, and its numbers."""
    runs = thermal_runs(tables.check_jobs())
    if not runs:
        raise InputError(
            f"figure dft-convergence: no calculation on frames of {NETWORK} on {RANDOM} (job {THERMAL}); add a run to "
            f"md.{THERMAL} in {STUDY_FILE}"
        )
    checks = {run: tables.checks(THERMAL, run.name) for run in runs}
    counts = {run: convergence_counts(frame).set_index("temperature_k") for run, frame in checks.items()}
    kelvin = sorted({t for frame in counts.values() for t in frame.index})
    gone = {run: _frames_gone(tables, run.name) for run in runs}
    tidy = []
    with style():
        figure, axes = plt.subplots(
            1, len(kelvin), figsize=(FULL_WIDTH, 4.7), sharey=True, sharex=True, squeeze=False
        )  # fmt: skip
        for axis, temperature in zip(axes[0], kelvin, strict=True):
            for index, run in enumerate(runs):
                if temperature not in counts[run].index:
                    axis.text(index, 4, "not run", rotation=90, ha="center", color=GREY)
                    continue
                line = counts[run].loc[temperature]
                _draw_outcomes(axis, index, line, size_style(index, len(runs))[0])
                tidy.append({**_of(run), "temperature_k": temperature, **line.to_dict(),
                             "n_frames_gone": gone[run].get(temperature, 0)})  # fmt: skip
            for index, value, claim in _paper_convergence(context, temperature, kelvin, len(runs)):
                axis.plot(index + 0.2, 100 * value, color="white", **STAR)
                tidy.append({"run": "paper", "size": f"{index + 1} of {len(runs)}", "temperature_k": temperature,
                             "claim": claim, "converged_share": value})  # fmt: skip
            axis.set_title(f"{temperature:g} K")
            axis.set_xlim(-0.6, len(runs) - 0.4)
            axis.grid(axis="x", visible=False)
            axis.set_xlabel("training rows")
            axis.set_xticks(range(len(runs)), [short_count(run.size) for run in runs])
        axes[0][0].set_ylim(0, 121)
        axes[0][0].set_yticks(range(0, 101, 20))
        axes[0][0].set_ylabel("DFT calculations (%)")
        panel_letters(axes[0])
        handles: list[Any] = [Patch(label=title, **_outcome_look(title, "#9A9A9A")) for title in OUTCOMES]
        handles += [
            Line2D([], [], color="black", marker="_", linestyle="-", label="headline: 95 % (Wilson)"),
            Line2D([], [], color="white", label=PAPER, **STAR),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        _note(figure, context, *_convergence_notes(context, runs, checks, gone))
    return figure, pd.DataFrame(tidy)


def _frames_gone(tables: RunTables, run: str) -> dict[float, int]:
    """Frames per temperature that do not exist because a trajectory had ended in numbers that are not finite."""
    if (THERMAL, run) not in tables.robustness_jobs():
        return {}
    frame = tables.robustness(THERMAL, run)
    sums = frame.groupby("temperature_k")["n_missing"].sum()
    return {float(t): int(n) for t, n in zip(sums.index, sums, strict=True) if n}


def _outcome_look(title: str, color: str) -> dict[str, Any]:
    number_ = list(OUTCOMES).index(title)
    return (
        {"facecolor": color, "edgecolor": color, "linewidth": 0.6},
        {"facecolor": "white", "edgecolor": color, "hatch": "/////", "linewidth": 0.6},
        {"facecolor": "white", "edgecolor": color, "linewidth": 0.9},
        {"facecolor": "white", "edgecolor": color, "hatch": "....", "linewidth": 0.6},
    )[number_]


def _draw_outcomes(axis: Axes, at: float, line: pd.Series, color: str) -> None:
    bottom = 0.0
    for title in OUTCOMES:
        height = 100.0 * float(line[title]) / float(line["n"])
        if height:
            axis.bar(at, height, 0.72, bottom=bottom, zorder=2, **_outcome_look(title, color))
        bottom += height
    share, low, high = (100.0 * float(line[key]) for key in ("converged_share", "low", "high"))
    bar = [[max(share - low, 0.0)], [max(high - share, 0.0)]]
    axis.errorbar(at - 0.12, share, yerr=bar, color="black", capsize=3.5, linewidth=1.2, zorder=4)
    ladder = 100.0 * float(line["with_ladder_share"])
    axis.text(at, 104.5, f"{share:.0f}", ha="center", va="bottom", fontsize=9, fontweight="bold")
    axis.text(at, 112, f"({ladder:.0f})", ha="center", va="bottom", fontsize=9, color=GREY)


def _paper_convergence(
    context: StudyContext, temperature: float, kelvin: Sequence[float], n: int
) -> list[tuple[int, float, str]]:
    """The paper's shares at a temperature: place of the size among n, share, claim.

    All calculations of the exhaustive (two large) sizes converge, about half of the smallest one's at the highest
    temperature.
    """
    marks = []
    if n >= 4:
        marks = [(n - 2, _share(context, CONVERGED_EXHAUSTIVE), CONVERGED_EXHAUSTIVE),
                 (n - 1, _share(context, CONVERGED_EXHAUSTIVE), CONVERGED_EXHAUSTIVE)]  # fmt: skip
    elif n > 1:
        marks = [(n - 1, _share(context, CONVERGED_EXHAUSTIVE), CONVERGED_EXHAUSTIVE)]
    if temperature == kelvin[-1]:
        marks.append((0, _share(context, CONVERGED_SPARSE), CONVERGED_SPARSE))
    return marks


def _share(context: StudyContext, claim: str) -> float:
    """A share that is stated as such or in percent."""
    value = stated(context, claim)
    unit = context.claim(claim).unit if claim in context.claims.claims else ""
    return value / 100.0 if unit == "%" or value > 1.0 else value


def _convergence_notes(
    context: StudyContext,
    runs: Sequence[Sized],
    checks: Mapping[Sized, pd.DataFrame],
    gone: Mapping[Sized, Mapping[float, int]],
) -> list[str]:
    levels = sorted({str(level) for frame in checks.values() for level in frame["level"].dropna()})
    per_bar = [len(part) for frame in checks.values() for _, part in frame.groupby("temperature_k")]
    lost = sum(sum(each.values()) for each in gone.values())
    cycles = context.settings.get("checks", {}).get("max_cycle")
    within = f" within {cycles} cycles" if cycles else ""
    sizes = "own four sizes, in the same order" if len(runs) >= 4 else "smallest and largest size"
    lines = [
        f"{look_of(NETWORK).title}, first seed's network · n = {_span(per_bar, 'calculations')} per bar, "
        f"{', '.join(levels)}",
        f"Bold: percent that plain DIIS converged{within} (headline); grey: with level shift and Newton. Frames of one "
        f"trajectory are alike, so the intervals are too narrow. Stars: the paper's {sizes}.",
    ]
    if lost:
        lines.append(
            f"{count(lost)} frames do not exist, as their trajectories had ended in numbers that are not finite; they "
            "are not counted."
        )
    wanted = [name for name in _simulated(context, THERMAL) if name not in {run.name for run in runs}]
    lines.append(_missing(run.name for run in sized_runs(wanted, (RANDOM,), (NETWORK,))))
    return lines


# --- one trajectory that breaks (figure 2e) -------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The trajectory that is shown.

    Attributes:
        run: whose network drove it.
        trajectory: its number in the job.
        failure_ps: time of its first failure, ps; NaN if it did not break and is the one with the largest error.
        broken: how many trajectories of this run broke.
        total: of how many.
        any_broken: whether a trajectory of any size broke.
        both: whether it has numbers of DFT before and after its failure.
    """

    run: Sized
    trajectory: int
    failure_ps: float
    broken: int
    total: int
    any_broken: bool
    both: bool = False


def choose_trajectory(tables: RunTables, runs: Sequence[Sized], job: str = THERMAL) -> Chosen | None:
    """The trajectory of figure 2e: one that breaks.

    It is of the smallest training set that has one, at the highest temperature, the one that held longest. Preferred to
    all others are trajectories with a number of DFT before and after the failure, then with one before it. If none
    broke, the one with the largest AE error of all; None if no frame has a number of DFT.

    Args:
        tables: with robustness and judged frames of the job.
        runs: from small to large.
        job: name of the job.
    """
    worst: tuple[float, Sized, int] | None = None
    broken = {run: tables.robustness(job, run.name) for run in runs}
    anything = any(bool(frame["failed"].any()) for frame in broken.values())
    for run in runs:
        judged, ends = tables.judged(job, run.name), broken[run]
        judged = judged[np.isfinite(judged[FRAME_ENERGY].to_numpy(float))]
        candidates = []
        failed: Any
        for failed in ends[ends["failed"]].itertuples():
            times = judged.loc[judged["trajectory"] == failed.trajectory, "time_ps"].to_numpy(float)
            before, after = bool((times < failed.failure_ps).any()), bool((times >= failed.failure_ps).any())
            if times.size:
                rank = (before and after, before, float(failed.temperature_k), float(failed.failure_ps))
                candidates.append((rank, int(failed.trajectory)))
        if candidates:
            (both, _, _, failure), trajectory = max(candidates, key=lambda entry: (entry[0], -entry[1]))
            return Chosen(run, trajectory, failure, int(ends["failed"].sum()), len(ends), True, both)
        if len(judged):
            largest = judged.loc[judged[FRAME_ENERGY].abs().idxmax()]
            if worst is None or abs(float(largest[FRAME_ENERGY])) > worst[0]:
                worst = (abs(float(largest[FRAME_ENERGY])), run, int(largest["trajectory"]))
    if worst is None:
        return None
    ends = broken[worst[1]]
    line = ends[ends["trajectory"] == worst[2]].iloc[0]
    failure = float(line["failure_ps"]) if line["failed"] else math.nan
    return Chosen(worst[1], worst[2], failure, int(ends["failed"].sum()), len(ends), anything)


def breaking_trajectory(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors and energy along one trajectory that breaks, before and after (figure 2e).

    Reads judged frames, robustness, samples and (if there) topology of :data:`THERMAL`.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no frame of figure 2's network has a number of DFT, or a claim is missing.
    """
    save_figure(*breaking_trajectory_figure(tables, context), output)


def breaking_trajectory_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`breaking_trajectory`, and its numbers."""
    judged_by_itself = {(job, run) for job, run, judge in tables.judged_jobs() if judge == run}
    runs = thermal_runs(pair for pair in tables.robustness_jobs() if pair in judged_by_itself)
    chosen = choose_trajectory(tables, runs)
    if chosen is None:
        raise InputError(
            f"figure breaking-trajectory: no frame of {NETWORK} on {RANDOM} (job {THERMAL}) has a number of DFT; check "
            f"checks/{THERMAL}/*/labels.csv"
        )
    run, index = chosen.run, chosen.trajectory
    frames = tables.judged(THERMAL, run.name)
    frames = frames[frames["trajectory"] == index].sort_values("time_ps").reset_index(drop=True)
    ends: Any = tables.robustness(THERMAL, run.name).set_index("trajectory").loc[index]
    path = _path(tables, run.name, index)
    topology = _topology(tables, run.name, index)
    failure = chosen.failure_ps
    end = max(float(ends["observed_ps"]), float(frames["time_ps"].max()))
    if not path.empty:
        end = max(end, float(path["time_ps"].max()))
    bonds = not topology.empty and "largest_bond_change_angstrom" in topology
    tidy = []
    with style():
        figure, axes = plt.subplots(
            4 if bonds else 3, 1, figsize=(FULL_WIDTH, 7.4 if bonds else 6.2), sharex=True,
            height_ratios=(1.2, 1.0, 1.2, 0.8)[: 4 if bonds else 3],
        )  # fmt: skip
        tidy += _draw_error_path(axes[0], frames, FRAME_ENERGY, failure)
        tidy += _draw_error_path(axes[1], frames, FORCE, failure)
        tidy += _draw_energy_path(axes[2], frames, path, failure)
        limit = stated(context, BREAK_ERROR)
        paper_line(axes[0], limit, "y")
        tidy.append(_stated_row(BREAK_ERROR, FRAME_ENERGY, limit))
        stated_time = stated(context, BREAK_TIME)
        tidy.append(_stated_row(BREAK_TIME, "failure_ps", stated_time))
        axes[0].set_ylabel("|AE error| (eV)")
        axes[1].set_ylabel("force MAE (eV/Å)")
        axes[2].set_ylabel("AE − network's AE\nat the start (eV)")
        energies = frames[FRAME_ENERGY].abs().tolist()
        _limits(axes[0], [*energies, limit])
        _limits(axes[1], frames[FORCE].tolist())
        if bonds:
            tidy += _draw_bonds(axes[3], topology)
        no_number = ~np.isfinite(frames[FRAME_ENERGY].to_numpy(float))
        for axis in axes:
            if math.isfinite(failure):
                axis.axvspan(failure, end, color="#F6E3DA", linewidth=0, zorder=0.3)
                axis.axvline(failure, color=AFTER, linestyle="-.", linewidth=1.2, zorder=1)
            if stated_time <= end:
                paper_line(axis, stated_time, "x")
        for axis in axes[:2]:
            rug = axis.get_xaxis_transform()
            if no_number.any():
                axis.plot(frames.loc[no_number, "time_ps"], [0.94] * int(no_number.sum()), "x", color="black",
                          transform=rug, markersize=6, zorder=5)  # fmt: skip
        axes[-1].set_xlim(-0.01 * end, 1.01 * end)
        axes[-1].set_xlabel("time (ps)")
        panel_letters(axes)
        axes[0].set_title(_trajectory_title(chosen, ends), loc="center", fontsize=9.5)
        floor = floor_of(tables)
        reached = [_draw_floor(axis, floor, quantity) for axis, quantity in zip(axes[:2], (ENERGY, FORCE), strict=True)]
        handles = _path_handles(frames, failure, bool(no_number.any()), f"{limit:g}", stated_time)
        if any(reached):
            handles.append(_floor_handle())
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)
        kind = str(ends["failure_kind"]) if math.isfinite(failure) else ""
        detail = str(ends.get("detail", "")) if pd.notna(ends.get("detail", math.nan)) else ""
        how = f"First failure: {kind}{f' ({detail})' if detail else ''}, {number(failure)} ps. " if kind else ""
        _note(
            figure, context,
            f"{look_of(NETWORK).title}, {size_title(run)}, first seed · n = {_span([len(frames)], 'frames')}"
            + (f" ({count(ends['n_missing'])} more, after the trajectory's end, missing)"
               if ends["n_missing"] else ""),
            f"{how}{_choice_text(chosen)} (c) line: network, points: DFT. Paper: a "
            f"{short_count(PAPER_SMALLEST)} network, low error until "
            f"{stated_time:g} ps, then above {limit:g} eV.",
        )  # fmt: skip
    table = pd.DataFrame(tidy)
    return figure, table.assign(training_run=run.name, trajectory=index, broken=math.isfinite(failure))


def _choice_text(chosen: Chosen) -> str:
    if not chosen.any_broken:
        return "No trajectory of any size broke; this one has the largest AE error."
    if not math.isfinite(chosen.failure_ps):
        return "No trajectory that broke has a number of DFT; this one has the largest AE error."
    which = "of those" if chosen.both else "none"
    return (
        f"{chosen.broken} of {chosen.total} trajectories of this network broke; shown ({which} with numbers of "
        "DFT before and after): at the highest temperature the one that held longest."
    )


def _trajectory_title(chosen: Chosen, line: pd.Series) -> str:
    formula = str(line.get("formula", ""))
    name = str(line["name"])
    which = name if not formula or formula in ("nan", name) else f"{name} ({formula})"
    told = "" if math.isfinite(chosen.failure_ps) else ": did not break"
    return f"{which}, {line['temperature_k']:g} K{told}"


def _path(tables: RunTables, run: str, trajectory: int) -> pd.DataFrame:
    """Potential energy of the network along a trajectory; empty if the samples were not given."""
    if (THERMAL, run) not in tables.md_jobs("samples"):
        return pd.DataFrame()
    frame = tables.md("samples", THERMAL, run)
    frame = frame[(frame["replica"] == trajectory) & np.isfinite(frame["potential_ev"].to_numpy(float))]
    return frame.sort_values("time_ps").reset_index(drop=True)


def _topology(tables: RunTables, run: str, trajectory: int) -> pd.DataFrame:
    if (THERMAL, run) not in tables.md_jobs("topology"):
        return pd.DataFrame()
    frame = tables.topology(THERMAL, run)
    return frame[frame["trajectory"] == trajectory].sort_values("time_ps").reset_index(drop=True)


def _halves(frames: pd.DataFrame, failure: float) -> list[tuple[pd.Series, str, str]]:
    after = frames["time_ps"] >= failure if math.isfinite(failure) else pd.Series(False, index=frames.index)
    return [(~after, BEFORE, "o"), (after, AFTER, "s")]


def _draw_error_path(axis: Axes, frames: pd.DataFrame, column: str, failure: float) -> list[dict[str, Any]]:
    """Errors of the frames of a trajectory: filled where plain DIIS converged, open where a further strategy did."""
    rows = []
    for chosen, color, marker in _halves(frames, failure):
        for status, face in ((PLAIN, color), (SAVED, "white")):
            part = frames[chosen & (frames["status"] == status)]
            axis.plot(part["time_ps"], part[column].abs(), marker, color=color, markerfacecolor=face, markersize=5,
                      markeredgewidth=1.2, zorder=3)  # fmt: skip
        part = frames[chosen]
        rows += [{"quantity": column, "frame": frame, "time_ps": time, "status": status, "value": value,
                  "after_failure": marker == "s"}
                 for frame, time, status, value in zip(part["frame"], part["time_ps"], part["status"], part[column],
                                                       strict=True)]  # fmt: skip
    return rows


def _draw_energy_path(
    axis: Axes, frames: pd.DataFrame, path: pd.DataFrame, failure: float
) -> list[dict[str, Any]]:  # fmt: skip
    """AE along a trajectory, relative to the network's at its start: the network as a line, DFT as points."""
    predicted = frames["ae_predicted_ev"].to_numpy(float)
    there = np.flatnonzero(np.isfinite(predicted))
    if not there.size:
        axis.text(0.5, 0.5, "no energies", transform=axis.transAxes, ha="center", color=GREY)
        return []
    start = float(predicted[there[0]])
    rows, values = [], []
    if path.empty:
        shown = frames.iloc[there]
        line_time, line_energy = shown["time_ps"].to_numpy(float), predicted[there] - start
    else:
        # The run's potential energies and AE differ by the free atoms, one constant of the molecule. Both are known
        # at the frames; frames before the failure lie on the coarse line closely enough to tell it.
        potential = path["potential_ev"].to_numpy(float)
        first = float(frames["time_ps"].iloc[there[0]])
        nearest = int(np.abs(path["time_ps"].to_numpy(float) - first).argmin())
        constant = start - potential[nearest]
        start = float(potential[0] + constant)
        line_time, line_energy = path["time_ps"].to_numpy(float), potential + constant - start
    axis.plot(line_time, line_energy, color=GREY, linewidth=0.9, zorder=2)
    values += line_energy.tolist()
    rows += [{"quantity": "ae_network_relative_ev", "time_ps": time, "value": value}
             for time, value in zip(line_time, line_energy, strict=True)]  # fmt: skip
    for chosen, color, marker in _halves(frames, failure):
        for status, face in ((PLAIN, color), (SAVED, "white")):
            part = frames[chosen & (frames["status"] == status)]
            relative = part["ae_dft_ev"].to_numpy(float) - start
            axis.plot(part["time_ps"], relative, marker, color=color, markerfacecolor=face, markersize=5,
                      markeredgewidth=1.2, zorder=3)  # fmt: skip
            values += relative.tolist()
            rows += [{"quantity": "ae_dft_relative_ev", "frame": frame, "time_ps": time, "status": status,
                      "value": value, "after_failure": marker == "s"}
                     for frame, time, value in zip(part["frame"], part["time_ps"], relative, strict=True)]  # fmt: skip
    finite = np.array(values)[np.isfinite(values)]
    spread = np.abs(finite)
    if spread.size and spread.max() > 30:
        axis.set_yscale("symlog", linthresh=10.0, linscale=1.5)
        axis.set_ylim(*(np.array([min(finite.min(), 0.0), max(finite.max(), 0.0)]) * 1.6))
        low, high = axis.get_ylim()
        ticks = [sign * 10.0**k for k in range(1, 9) for sign in (-1, 1)]
        axis.yaxis.set_major_locator(FixedLocator([0.0, *(t for t in ticks if low <= t <= high)]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    return rows


def _draw_bonds(axis: Axes, topology: pd.DataFrame) -> list[dict[str, Any]]:
    change = topology["largest_bond_change_angstrom"].to_numpy(float)
    axis.plot(topology["time_ps"], change, color="black", linewidth=1.0)
    axis.set_ylabel("largest change\nof a bond (Å)")
    finite = change[np.isfinite(change)]
    if finite.size and finite.max() > 20 * max(float(np.median(finite)), 1e-3):
        axis.set_yscale("log")
        _limits(axis, finite[finite > 0.02].tolist() or [0.1, 1.0], 1.2)
    else:
        axis.set_ylim(bottom=0)
    return [{"quantity": "largest_bond_change_angstrom", "time_ps": time, "value": value}
            for time, value in zip(topology["time_ps"], change, strict=True)]  # fmt: skip


def _path_handles(frames: pd.DataFrame, failure: float, unconverged: bool, limit: str, stated_time: float) -> list[Any]:
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 5.5}
    handles: list[Any] = [Line2D([], [], color=BEFORE, marker="o", label="frame checked by DFT", **marks)]
    if math.isfinite(failure):
        handles[0].set_label("frame before the failure")
        handles.append(Line2D([], [], color=AFTER, marker="s", label="frame after it", **marks))
        handles.append(Line2D([], [], color=AFTER, linestyle="-.", linewidth=1.2, label="first failure"))
    if (frames["status"] == SAVED).any():
        handles.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", markeredgewidth=1.2,
                              label="DFT by the ladder", **marks))  # fmt: skip
    if unconverged:
        handles.append(Line2D([], [], color="black", marker="x", label="DFT not converged", **marks))
    handles.append(Line2D([], [], color=GREY, linewidth=0.9, label="network"))
    handles.append(Line2D([], [], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3,
                          label=f"{PAPER}: {stated_time:g} ps, > {limit} eV"))  # fmt: skip
    return handles


# --- the sparse network on another one's trajectory -----------------------------------------------------------------


def cross_evaluation(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """A sparse network on frames of its own dynamics and on those of an exhaustive one's, molecule by molecule.

    Reads judged frames of :data:`THERMAL`: the sparse run by itself, the exhaustive run by itself and by the sparse
    one, and robustness of the sparse one (for the molecule of figure 2e).

    Args:
        tables: results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no network was judged on a larger one's frames and on its own, or a claim is missing.
    """
    save_figure(*cross_evaluation_figure(tables, context), output)


def _cross_pair(tables: RunTables) -> tuple[Sized, Sized] | None:
    """The smallest judge of a larger network's frames, and the largest such network."""
    jobs = tables.judged_jobs()
    known = {run.name: run for run in thermal_runs([(job, name) for job, *names in jobs for name in names])}
    pairs = [
        (known[judge], known[run]) for job, run, judge in jobs
        if job == THERMAL and {run, judge} <= set(known) and known[judge].size < known[run].size
        and (THERMAL, judge, judge) in jobs
    ]  # fmt: skip
    return min(pairs, key=lambda pair: (pair[0].size, -pair[1].size), default=None)


_CROSS: Mapping[str, tuple[str, str, str]] = {
    "own": ("sparse network on its own trajectories", OKABE_ITO["vermillion"], "o"),
    "other": ("sparse network on the exhaustive one's", OKABE_ITO["blue"], "D"),
    "exhaustive": ("exhaustive network on its own", OKABE_ITO["bluish green"], "|"),
}


def cross_evaluation_figure(tables: RunTables, context: StudyContext) -> Drawn:
    """The figure of :func:`cross_evaluation`, and its numbers."""
    pair = _cross_pair(tables)
    if pair is None:
        raise InputError(
            f"figure cross-evaluation: no network of {NETWORK} on {RANDOM} was judged on a larger one's frames (job "
            f"{THERMAL}) and on its own; add the judge to checks in {STUDY_FILE}"
        )
    sparse, exhaustive = pair
    parts = {
        "own": tables.judged(THERMAL, sparse.name),
        "other": tables.judged(THERMAL, exhaustive.name, sparse.name),
    }
    if (THERMAL, exhaustive.name, exhaustive.name) in tables.judged_jobs():
        parts["exhaustive"] = tables.judged(THERMAL, exhaustive.name)
    errors = {key: trajectory_errors(frame) for key, frame in parts.items()}
    plain = {key: frame[frame["reference"] == "plain"] for key, frame in errors.items()}
    tidy = [
        {"what": key, "judge": (exhaustive if key == "exhaustive" else sparse).name,
         "dynamics": (sparse if key == "own" else exhaustive).name, "quantity": quantity, "trajectory": one.trajectory,
         "name": one.name, "temperature_k": one.temperature_k, "reference": one.reference, "n_frames": one.n_frames,
         "n": one.n, "value": getattr(one, quantity)}
        for key, frame in errors.items() for one in frame.itertuples(index=False) for quantity in (FORCE, ENERGY)
    ]  # fmt: skip
    shared = set(plain["own"]["temperature_k"]) & set(plain["other"]["temperature_k"])
    if not shared:
        raise InputError("figure cross-evaluation: the two dynamics have no temperature in common; run both again")
    hottest = max(shared)
    at = {key: frame[frame["temperature_k"] == hottest] for key, frame in plain.items()}
    names = [name for name in dict.fromkeys(at["own"]["name"]) if name in set(at["other"]["name"])]
    means = at["own"].groupby("name")[FORCE].mean()
    names.sort(key=lambda name: -means.get(name, math.nan) if math.isfinite(means.get(name, math.nan)) else math.inf)
    marked = _marked_molecule(tables, sparse)
    floor, reached = floor_of(tables), False
    with style():
        figure, axes = plt.subplots(
            1, 2, figsize=(FULL_WIDTH, 2.9 + 0.27 * (len(names) + 1)), sharey=True
        )  # fmt: skip
        for axis, quantity in zip(axes, (FORCE, ENERGY), strict=True):
            values: list[float] = []
            for key in parts:
                title_rows = _draw_cross(axis, at[key], quantity, names, key)
                values += title_rows
                overall, low, high, n = mean_and_bootstrap(at[key][at[key]["name"].isin(names)][quantity].tolist())
                color, marker = _CROSS[key][1:]
                axis.errorbar(overall, len(names), xerr=[[overall - low], [high - overall]], color=color,
                              marker=marker, markersize=11 if marker == "|" else 8, capsize=3, zorder=4,
                              markeredgewidth=2.2 if marker == "|" else 1.0)  # fmt: skip
                values += [overall, low, high]
                tidy.append({"what": key, "quantity": quantity, "name": "mean", "temperature_k": hottest,
                             "reference": "plain", "value": overall, "low": low, "high": high, "n": n})  # fmt: skip
            for index, name in enumerate(names):
                ends = [float(at[key].loc[at[key]["name"] == name, quantity].mean()) for key in ("own", "other")]
                if np.isfinite(ends).all():
                    axis.plot(ends, [index, index], color="#BBBBBB", linewidth=1.2, zorder=1)
                elif not math.isfinite(ends[0]):
                    # Above its line, where no symbol is.
                    axis.annotate("no DFT number on its own", (1, index - 0.32), xycoords=("axes fraction", "data"),
                                  ha="right", va="center", fontsize=9, color=OKABE_ITO["vermillion"])  # fmt: skip
            if quantity == FORCE:
                row = names.index(marked) if marked in names else len(names)
                for key, claim in (("own", CROSS_OWN), ("other", CROSS_OTHER)):
                    value = stated(context, claim)
                    axis.plot(value, row, color=_CROSS[key][1], **STAR)
                    values.append(value)
                    tidy.append({**_stated_row(claim, quantity, value), "what": key, "name": "paper's molecule",
                                 "temperature_k": 1200.0})  # fmt: skip
            there = [value for value in values if np.isfinite(value) and value > 0]
            axis.set_xlim(min(there, default=1e-3), max(there, default=1.0))
            plain_log(axis, "x", 1.7)
            axis.set_xlabel(f"{NAMES[quantity]} against DFT")
            axis.axhline(len(names) - 0.5, color="black", linewidth=0.8)
            axis.grid(axis="y", visible=False)
            left, right = axis.get_xlim()
            if floor is not None and left < floor.values[quantity] < right:
                axis.axvspan(left, floor.values[quantity], facecolor="#F0F0F0", edgecolor="#B5B5B5", hatch="....",
                             linewidth=0, zorder=0.4)  # fmt: skip
                reached = True
        labels = [f"{name} (fig. 2e)" if name == marked else name for name in names]
        axes[0].set_yticks(range(len(names) + 1), [*labels, "mean"])
        axes[0].set_ylim(len(names) + 0.6, -0.6)
        panel_letters(axes)
        handles: list[Any] = [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=title, markersize=7,
                   markeredgewidth=2 if marker == "|" else 1)
            for key, (title, color, marker) in _CROSS.items() if key in parts
        ]  # fmt: skip
        handles.append(Line2D([], [], color="white", label=f"{PAPER}, molecule of its figure 2e", **STAR))
        if reached:
            handles.append(_floor_handle())
        figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.4)
        without = int((at["own"]["n_frames"] - at["own"]["n"]).sum())
        n_frames = int(at["own"]["n_frames"].sum())
        _note(
            figure, context,
            f"{look_of(NETWORK).title} at {hottest:g} K, first seeds' networks: sparse {size_title(sparse)}, "
            f"exhaustive {count(exhaustive.size)} · n = {_span([len(names)], 'molecules')}",
            f"Per molecule: mean over the frames of a trajectory that plain DIIS converged; {count(without)} of "
            f"{count(n_frames)} of the sparse network's own frames did not. Bars of the mean: 95 % bootstrap over "
            f"trajectories (from {LEAST_TRAJECTORIES} on). {_floor_text(floor, reached)}",
        )  # fmt: skip
    return figure, pd.DataFrame(tidy)


def _marked_molecule(tables: RunTables, sparse: Sized) -> str:
    """Name of the molecule of figure 2e, if that is a trajectory of this network."""
    judged_by_itself = {(job, run) for job, run, judge in tables.judged_jobs() if judge == run}
    runs = thermal_runs(pair for pair in tables.robustness_jobs() if pair in judged_by_itself)
    chosen = choose_trajectory(tables, runs) if runs else None
    if chosen is None or chosen.run.name != sparse.name or not math.isfinite(chosen.failure_ps):
        return ""
    frame = tables.robustness(THERMAL, sparse.name)
    return str(told_apart(frame)[frame["trajectory"] == chosen.trajectory].iloc[0])


def _draw_cross(axis: Axes, errors: pd.DataFrame, quantity: str, names: Sequence[str], key: str) -> list[float]:
    """Errors of single trajectories in the rows of their molecules; returns them."""
    _, color, marker = _CROSS[key]
    part = errors[errors["name"].isin(names)].dropna(subset=[quantity])
    rows = [names.index(name) for name in part["name"]]
    axis.plot(part[quantity], rows, marker, color=color, markersize=9 if marker == "|" else 5.5, linestyle="none",
              markeredgewidth=2 if marker == "|" else 0.8, zorder=3)  # fmt: skip
    return [float(value) for value in part[quantity]]
