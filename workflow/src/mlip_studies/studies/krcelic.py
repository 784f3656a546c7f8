"""Figures and tables of the multi-fidelity study: EGNN with random Fourier features on mixes of ANI-1x and ANI-1ccx.

Everything is drawn from the tidy files that :class:`~mlip_studies.claims.inputs.Tables` reads; what the thesis states
is taken from the claim file. A figure function returns the figure and the tidy numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import Tables
from mlip_studies.claims.krcelic import SIZE_COLUMNS, SIZE_PARTS, label
from mlip_studies.claims.verdicts import half_width
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_band, style
from mlip_studies.studies.context import PaperContext

MEV = 1000.0  # meV per eV
SERIES: Mapping[str, tuple[str, ...]] = {
    "20k ANI-1ccx": ("20k-20k", "80k-20k", "160k-20k"),
    "60k ANI-1ccx": ("20k-60k", "80k-60k", "160k-60k"),
}
SINGLE = ("ANI-1x", "ANI-1ccx")
MIX_ORDER = (*SINGLE, *SERIES["20k ANI-1ccx"], *SERIES["60k ANI-1ccx"])
MIX_STYLE: Mapping[str, tuple[str, Any]] = {
    "ANI-1x": (OKABE_ITO["black"], ":"),
    "ANI-1ccx": ("#7F7F7F", "-."),
    "20k-20k": (OKABE_ITO["sky blue"], "-"),
    "80k-20k": (OKABE_ITO["blue"], "-"),
    "160k-20k": (OKABE_ITO["reddish purple"], "-"),
    "20k-60k": (OKABE_ITO["orange"], "--"),
    "80k-60k": (OKABE_ITO["vermillion"], "--"),
    "160k-60k": (OKABE_ITO["bluish green"], "--"),
}
VARIANTS: Mapping[str, tuple[str, str, str]] = {
    "coded": ("as coded, one-hot", OKABE_ITO["blue"], ""),
    "coded_ones": ("as coded, all ones", OKABE_ITO["vermillion"], "//"),
    "described": ("as described", OKABE_ITO["bluish green"], "\\\\"),
    "transfer": ("transfer (DFT, then CC)", OKABE_ITO["orange"], ".."),
    "delta": ("delta (CC − DFT)", OKABE_ITO["reddish purple"], "xx"),
}
FIDELITY_NAMES: Mapping[str, str] = {
    "wb97x_dz": "ωB97X/6-31G(d)",
    "ccsd(t)_cbs": "CCSD(T)/CBS",
    "pbe_ts": "PBE+TS",
    "ccsd(t)": "CCSD(T)",
}
ELEMENT_SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O"}
TEST_METRICS: tuple[tuple[str, str, float], ...] = (
    ("test_mse_ev2", "MSE per molecule (eV²)", 1.0),
    ("test_rmse_ev", "RMSE per molecule (meV)", MEV),
    ("test_mae_ev", "MAE per molecule (meV)", MEV),
    ("test_rmse_per_atom_ev", "RMSE per atom (meV)", MEV),
    ("test_mae_per_atom_ev", "MAE per atom (meV)", MEV),
)
# Beyond this ratio of the largest to the smallest value bars hide the small ones: points on a logarithmic axis instead.
LOG_RATIO = 20.0

FigureFunction = Callable[[Tables, "Context"], tuple[Figure, pd.DataFrame]]
TableFunction = Callable[[Tables, "Context"], pd.DataFrame]


@dataclass(frozen=True)
class Context(PaperContext):
    """What a figure needs besides the results.

    Attributes:
        scale: mini or full.
        claims: the claims of the study: all numbers of the thesis come from here.
        asked: rows asked for at this scale: experiment, mix, then n_train_low, n_train_high, n_val_low, n_val_high,
            n_test.
        smoothing_train: standard deviation of the Gaussian smoothing of training curves, in epochs.
        smoothing_validation: likewise for validation curves.
    """

    asked: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    smoothing_train: float = 2.0
    smoothing_validation: float = 4.0

    def paper_sizes(self, mix: str) -> dict[str, float]:
        """Rows of a mix in the thesis's Table 3.1; empty for a mix that the thesis does not have."""
        claim_id = f"table3.1-{mix.lower()}"
        if claim_id not in self.claims.claims:
            return {}
        stated = self.paper(claim_id)
        return {column: stated[part] for column, part in SIZE_PARTS.items()}


@dataclass(frozen=True)
class FigureSpec:
    """A figure target.

    Attributes:
        name: file name without suffix.
        title: one line for the report.
        function: draws it.
        runs: (experiment, variant) pairs that it can show; pairs that were not run are simply not drawn.
        kinds: which tables of each pair it reads.
        self_energies: (experiment, rows) regressions that it reads.
    """

    name: str
    title: str
    function: FigureFunction
    runs: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ("runs",)
    self_energies: tuple[tuple[str, str], ...] = ()

    def inputs(self, root: str, available: Sequence[tuple[str, str]] | None = None) -> list[str]:
        """Paths of its inputs below results/<scale>/krcelic.

        Args:
            root: that folder.
            available: (experiment, variant) pairs that are run; None for all that the figure can show.
        """
        return _inputs(self, root, available)


@dataclass(frozen=True)
class TableSpec:
    """A table target; attributes as for a figure.

    Attributes:
        name: file name without suffix.
        title: one line for the report and the page.
        function: makes it.
        caption: caption of the page; scale and seeds are added.
        headings: column headings.
        runs: (experiment, variant) pairs that it can show.
        kinds: which tables of each pair it reads.
        self_energies: (experiment, rows) regressions that it reads.
        splits: experiments whose split report it reads.
    """

    name: str
    title: str
    function: TableFunction
    caption: str
    headings: Mapping[str, str]
    runs: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ("runs",)
    self_energies: tuple[tuple[str, str], ...] = ()
    splits: tuple[str, ...] = ()

    def inputs(self, root: str, available: Sequence[tuple[str, str]] | None = None) -> list[str]:
        """Paths of its inputs below results/<scale>/krcelic; see FigureSpec.inputs."""
        return _inputs(self, root, available)


def _inputs(spec: FigureSpec | TableSpec, root: str, available: Sequence[tuple[str, str]] | None) -> list[str]:
    chosen = [pair for pair in spec.runs if available is None or pair in available]
    paths = [
        f"{root}/tables/{experiment}/{variant}/{kind}.csv" for experiment, variant in chosen for kind in spec.kinds
    ]
    experiments = None if available is None else {experiment for experiment, _ in available}
    paths += [
        f"{root}/{experiment}/self_energies_{rows}.json"
        for experiment, rows in spec.self_energies
        if experiments is None or experiment in experiments
    ]
    splits = spec.splits if isinstance(spec, TableSpec) else ()
    return paths + [f"{root}/{name}/split.json" for name in splits if experiments is None or name in experiments]


# --- shared helpers -------------------------------------------------------------------------------------------------


def ordered_mixes(found: Sequence[str], asked: Sequence[str] = ()) -> list[str]:
    """Mixes in the thesis's order, then in the configuration's, then as found."""
    present = list(dict.fromkeys(found))
    order = [mix for mix in (*MIX_ORDER, *asked) if mix in present]
    return list(dict.fromkeys([*order, *present]))


def mix_styles(mixes: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Colour and line of each mix; the same in all figures of an experiment.

    Args:
        mixes: all mixes of the experiment, in order.
    """
    spare = [name for name in OKABE_ITO.values() if name != OKABE_ITO["black"]]
    other = [mix for mix in mixes if mix not in MIX_STYLE]
    styles = {mix: (spare[i % len(spare)], ("-", "--", ":")[(i // len(spare)) % 3]) for i, mix in enumerate(other)}
    return {mix: MIX_STYLE.get(mix) or styles[mix] for mix in mixes}


def summarise(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean, 95 % half width and n over seeds, by variant and mix.

    Args:
        runs: table of runs.
        columns: quantities.

    Returns:
        tidy table: experiment, variant, mix, quantity, mean, half_width_95 (NaN below three seeds), n.
    """
    rows = []
    for (experiment, variant, mix), group in runs.groupby(["experiment", "variant", "mix"], sort=False):
        for column in columns:
            values = group[column].to_numpy(dtype=float)
            width = half_width(values.tolist())
            rows.append(
                (experiment, variant, mix, column, values.mean(), np.nan if width is None else width, values.size)
            )
    return pd.DataFrame(rows, columns=["experiment", "variant", "mix", "quantity", "mean", "half_width_95", "n"])


def _gather(tables: Tables, kind: str, pairs: Sequence[tuple[str, str]], what: str) -> pd.DataFrame:
    """All tables of one kind for those pairs that were run."""
    frames = [
        getattr(tables, kind)(experiment, variant)
        for experiment, variant in pairs
        if tables.has(kind, experiment, variant)
    ]
    if not frames:
        names = ", ".join(f"{experiment}/{variant}" for experiment, variant in pairs)
        raise InputError(f"{what}: none of its inputs was given ({kind} of {names}); add one of them to the study")
    return pd.concat(frames, ignore_index=True)


def _asked_mixes(context: Context, experiment: str) -> list[str]:
    return list(context.asked.get(experiment, {}))


def _seeds(frame: pd.DataFrame) -> str:
    counts = frame.groupby(["variant", "mix"])["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"n = {low} seed{'s' if low > 1 else ''}" if low == high else f"n = {low} to {high} seeds"


def size_note(frame: pd.DataFrame, context: Context) -> str:
    """How our training sets relate to those that the mixes are named after.

    Args:
        frame: table of runs; a table without sizes is completed with the rows asked for.
        context: gives the thesis's sizes and those asked for.
    """
    ratios = set()
    for _, row in frame.drop_duplicates(["experiment", "mix"]).iterrows():
        paper = context.paper_sizes(str(row["mix"]))
        sizes = row if "n_train_low" in frame else context.asked.get(row["experiment"], {}).get(row["mix"])
        if paper and sizes is not None:
            ours = sizes["n_train_low"] + sizes["n_train_high"]
            ratios.add(round((paper["n_train_low"] + paper["n_train_high"]) / max(ours, 1), 2))
    if not ratios:
        return ""
    if len(ratios) == 1:
        ratio = ratios.pop()
        return "training sets of the thesis's sizes" if ratio == 1 else f"training sets 1/{ratio:g} of the thesis's"
    return "training sets smaller than the thesis's"


def _footer(figure: Figure, context: Context, runs: pd.DataFrame, *more: str, tested: bool = True) -> None:
    """Scale, n and sizes below the figure; `more` are further lines."""
    tests = sorted(set(runs["n_test"])) if "n_test" in runs and tested else []
    parts = [f"{context.scale} scale", _seeds(runs)]
    if tests:
        parts.append(" / ".join(f"{int(n):,}".replace(",", "\u202f") for n in tests) + " test rows")
    if note := size_note(runs, context):
        parts.append(note)
    lines = [" · ".join(parts), *more]
    footer(figure, "\n".join(lines))


def _rows_text(row: pd.Series) -> str:
    """Training rows, low + high fidelity."""
    low, high = (f"{int(row[column]):,}".replace(",", "\u202f") for column in ("n_train_low", "n_train_high"))
    return f"{low} + {high}"


def _needs_log(values: np.ndarray) -> bool:
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size and positive.max() / positive.min() > LOG_RATIO)


def _plain_log(axis: Axes, which: str) -> None:
    """Plain numbers on a logarithmic axis, between the decades too where there are few."""
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    target = axis.xaxis if which == "x" else axis.yaxis
    decades = np.log10(high / low)
    steps = (1, 2, 3, 5) if decades < 1.2 else (1, 2, 5) if decades < 2.2 and which == "y" else (1,)
    ticks = [step * 10.0**exponent for exponent in range(-9, 10) for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if inside:
        target.set_ticks(inside, [f"{tick:g}" for tick in inside])
    target.set_minor_formatter(NullFormatter())


# --- loss curves (figures 3.1 and 3.2) ------------------------------------------------------------------------------


def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along epochs, as the thesis does it (SciPy's default borders).

    Args:
        values: shape (n_epochs,).
        sigma: standard deviation in epochs.
    """
    from scipy.ndimage import gaussian_filter1d  # here, because it takes a quarter of a second

    return np.asarray(gaussian_filter1d(np.asarray(values, dtype=float), sigma))


def fractional_epochs(history: pd.DataFrame) -> np.ndarray:
    """Epochs as a real number, so that a last epoch that was cut short lies where it belongs, shape (n_rows,).

    Args:
        history: one run, sorted by step, with columns epoch (complete epochs) and step.
    """
    epoch: np.ndarray = history["epoch"].to_numpy(dtype=float)
    step: np.ndarray = history["step"].to_numpy(dtype=float)
    if epoch[0] < 1 or step[0] <= 0:
        return epoch
    epochs: np.ndarray = step * epoch[0] / step[0]
    return epochs


def smoothing_width(epoch: np.ndarray, sigma: float) -> float:
    """The thesis's standard deviation, in points of a curve.

    It is given in epochs; where epochs were skipped between validations a point stands for several. Curves of few
    points are smoothed less (a tenth of their length): the thesis's width would average over most of them.

    Args:
        epoch: shape (n_points,).
        sigma: standard deviation in epochs.
    """
    spacing = float(np.median(np.diff(epoch))) if epoch.size > 1 else 1.0
    return min(sigma / max(spacing, 1e-9), epoch.size / 10)


def loss_curves(
    tables: Tables, context: Context, *, experiment: str, which: str, variant: str = "coded"
) -> tuple[Figure, pd.DataFrame]:
    """Loss against epoch: raw curves of every seed faint, mean of the smoothed curves over seeds bold."""
    histories = _gather(tables, "histories", [(experiment, variant)], f"loss curves of {experiment}")
    column = {"train": "train_rmse_ev", "validation": "val_rmse_ev"}[which]
    sigma = context.smoothing_train if which == "train" else context.smoothing_validation
    mixes = ordered_mixes(histories["mix"].tolist(), _asked_mixes(context, experiment))
    tidy = []
    for (mix, seed), run in histories.groupby(["mix", "seed"], sort=False):
        ordered = run.sort_values("step")
        raw = ordered[column].to_numpy(dtype=float) * MEV
        epoch = fractional_epochs(ordered)
        tidy.append(
            pd.DataFrame(
                {
                    "experiment": experiment,
                    "variant": variant,
                    "mix": mix,
                    "seed": str(seed),
                    "epoch": epoch,
                    "step": ordered["step"].to_numpy(),
                    "rmse_mev": raw,
                    "smoothed_rmse_mev": smoothed(raw, smoothing_width(epoch, sigma)),
                }
            )
        )
    curves = pd.concat(tidy, ignore_index=True)
    means = []
    for mix in mixes:
        of_mix = curves[curves["mix"] == mix]
        n_seeds = of_mix["seed"].nunique()
        grouped = of_mix.groupby("step")
        # Only steps that all seeds reached: a mean over fewer seeds would jump where one ends.
        common = grouped.size().loc[lambda size, n=n_seeds: size == n].index
        mean = grouped[["epoch", "rmse_mev", "smoothed_rmse_mev"]].mean().loc[common].reset_index()
        means.append(mean.assign(experiment=experiment, variant=variant, mix=mix, seed="mean"))
    curves = pd.concat([curves, *means], ignore_index=True)[list(curves.columns)]

    groups: list[tuple[str, list[str]]] = [("", mixes)]
    if set(mixes) & set(SERIES["20k ANI-1ccx"]) and set(mixes) & set(SERIES["60k ANI-1ccx"]):
        groups = [
            (f"single sets and {name}", [mix for mix in mixes if mix in SINGLE or mix in series])
            for name, series in SERIES.items()
        ]
    last = curves.groupby("mix")["epoch"].max()
    log_epochs = bool(last.max() / max(last.min(), 1) > 4)
    shift = 1 if log_epochs and curves["epoch"].min() <= 0 else 0
    with style():
        figure, axes = plt.subplots(1, len(groups), figsize=(FULL_WIDTH, 3.9), sharex=True, sharey=True, squeeze=False)
        for axis, (title, members) in zip(axes[0], groups, strict=True):
            for mix in members:
                color, line = mix_styles(mixes)[mix]
                of_mix = curves[curves["mix"] == mix]
                for seed, run in of_mix.groupby("seed"):
                    if seed == "mean":
                        axis.plot(run["epoch"] + shift, run["smoothed_rmse_mev"], color=color, linestyle=line, zorder=3)
                    else:
                        axis.plot(
                            run["epoch"] + shift, run["rmse_mev"], color=color, alpha=0.22, linewidth=0.6, zorder=2
                        )
            axis.set_title(title)
            axis.set_yscale("log")
            axis.set_xlabel("epoch (logarithmic)" if log_epochs else "epoch")
            if log_epochs:
                axis.set_xscale("log")
            handles = [
                Line2D([], [], color=mix_styles(mixes)[mix][0], linestyle=mix_styles(mixes)[mix][1], label=label(mix))
                for mix in members
            ]
            axis.legend(handles=handles, loc="upper right", handlelength=2.6, labelspacing=0.3)
        _clip_to_curves(axes[0], curves)
        for axis in axes[0]:
            _plain_log(axis, "y")
            if log_epochs:
                _plain_log(axis, "x")
        points = curves[curves["seed"] != "mean"].groupby(["mix", "seed"]).size()
        limit = " (at most 1/10 of a curve)" if points.min() < 10 * sigma else ""
        name = "training" if which == "train" else "validation"
        axes[0][0].set_ylabel(f"{name} RMSE (meV per molecule)")
        if len(groups) > 1:
            panel_letters(axes[0])
        _footer(
            figure,
            context,
            histories,
            f"bold: mean over seeds, Gaussian smoothing with σ = {sigma:g} epochs{limit}; faint: each seed, raw",
        )
    return figure, curves


def _clip_to_curves(axes: Sequence[Axes], curves: pd.DataFrame) -> None:
    """Limits from the smoothed curves with room for the raw ones, so that single spikes do not flatten everything."""
    values = curves["smoothed_rmse_mev"].to_numpy(dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        axes[0].set_ylim(values.min() / 1.25, values.max() * 1.6)


# --- test losses ----------------------------------------------------------------------------------------------------


def _bars(
    axis: Axes, summary: pd.DataFrame, runs: pd.DataFrame, column: str, factor: float, mixes: Sequence[str], log: bool
) -> None:
    """Horizontal bars (or points on a logarithmic axis) per mix, seeds as dots, 95 % half width as error bar."""
    styles = mix_styles(mixes)
    for position, mix in enumerate(mixes):
        row = summary[(summary["mix"] == mix) & (summary["quantity"] == column)]
        if row.empty:
            continue
        mean, width = factor * row["mean"].item(), factor * row["half_width_95"].item()
        color = styles[mix][0]
        seeds = factor * runs.loc[runs["mix"] == mix, column].to_numpy(dtype=float)
        if log:
            axis.plot([mean], [position], marker="D", color=color, markersize=7, zorder=3)
        else:
            axis.barh(position, mean, height=0.66, color=color, alpha=0.75, edgecolor=color, zorder=2)
        if np.isfinite(width):
            lower = min(width, 0.98 * mean) if log else min(width, mean)
            axis.errorbar(mean, position, xerr=[[lower], [width]], color="black", capsize=3, linewidth=1, zorder=4)
        # Beside the mean on a logarithmic axis, where the dots of similar seeds would cover it.
        spread = np.full(seeds.size, 0.36) if log else np.linspace(-0.16, 0.16, seeds.size) * (seeds.size > 1)
        axis.scatter(
            seeds, position + spread, s=9 if log else 11, facecolor="white", edgecolor="black", linewidth=0.7, zorder=5
        )


def loss_per_mix(
    tables: Tables, context: Context, *, experiment: str, variant: str = "coded"
) -> tuple[Figure, pd.DataFrame]:
    """Test error per mix in all units that the thesis's "25 to 12 meV" could mean."""
    runs = _gather(tables, "runs", [(experiment, variant)], f"test loss of {experiment}")
    mixes = ordered_mixes(runs["mix"].tolist(), _asked_mixes(context, experiment))
    summary = summarise(runs, [column for column, _, _ in TEST_METRICS])
    bands: dict[str, tuple[float, float]] = {}
    if experiment == "ani":
        bands = {
            "test_rmse_ev": (context.paper("test-error-min")[""], context.paper("test-error-max")[""]),
            "test_mse_ev2": (context.paper("test-error-min-as-mse")[""], context.paper("test-error-max-as-mse")[""]),
            "test_rmse_per_atom_ev": context.claim("error-per-atom").stated_interval(),
        }
    with style():
        figure, grid = plt.subplots(
            2, 3, figsize=(FULL_WIDTH, 1.9 + 0.46 * max(len(mixes), 6)), sharey=True, squeeze=False
        )
        # One kind of drawing for all panels: bars, or points where one panel needs a logarithmic axis.
        extents = {
            column: np.concatenate([factor * runs[column].to_numpy(float), np.asarray(bands.get(column, ()), float)])
            for column, _, factor in TEST_METRICS
        }
        log = any(_needs_log(extent) for column, extent in extents.items() if column != "test_mse_ev2")
        panels = [grid[0][0], grid[0][1], grid[0][2], grid[1][0], grid[1][1]]
        for axis, (column, name, factor) in zip(panels, TEST_METRICS, strict=True):
            ends = extents[column]
            if column in bands:
                paper_band(axis, *bands[column])
            if log:
                axis.set_xscale("log")
            _bars(axis, summary, runs, column, factor, mixes, log)
            axis.set_xlabel(name)
            axis.grid(axis="y", visible=False)
            if log:
                axis.set_xlim(ends.min() / 1.6, ends.max() * 1.6)
                _plain_log(axis, "x")
            else:
                axis.set_xlim(left=0)
                axis.xaxis.set_major_locator(MaxNLocator(4))
                axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        sizes = runs.drop_duplicates("mix").set_index("mix")
        for axis in (grid[0][0], grid[1][0]):
            axis.set_yticks(range(len(mixes)), [label(mix) for mix in mixes])
            axis.set_ylim(len(mixes) - 0.45, -0.55)
        panel_letters(panels)
        key = grid[1][2]
        key.axis("off")
        handles: list[Any] = [
            Line2D([], [], marker="D", linestyle="", color="#888888", markersize=7, label="mean over seeds")
            if log
            else Patch(facecolor="#888888", alpha=0.75, label="mean over seeds"),
            Line2D([], [], color="black", linewidth=1, marker="|", markersize=7, label="95 % (Student t)"),
            Line2D(
                [], [], marker="o", linestyle="", markerfacecolor="white", color="black", markersize=4, label="seeds"
            ),
        ]
        if bands:
            where = "" if context.scale == "full" else ",\nbelongs to full scale"
            handles.append(Patch(facecolor="#D9D9D9", edgecolor="#8C8C8C", hatch="////", label=f"thesis (text){where}"))
        key.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.05, 1.06))
        listing = "\n".join(f"{label(mix)}: {_rows_text(sizes.loc[mix])}" for mix in mixes)
        _footer(figure, context, runs)
        key.text(
            0.0, -0.29, f"training rows, low + high\n{listing}", va="bottom", transform=key.transAxes,
            fontsize=9, linespacing=1.15,
        )  # fmt: skip
    tidy = _tidy_runs(runs, summary, [column for column, _, _ in TEST_METRICS])
    return figure, tidy


def _tidy_runs(runs: pd.DataFrame, summary: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Values of single seeds and their means below each other (seed "mean")."""
    long = runs.melt(
        id_vars=["experiment", "variant", "mix", "seed", "n_train_low", "n_train_high"],
        value_vars=list(columns), var_name="quantity", value_name="value",
    )  # fmt: skip
    long["seed"] = long["seed"].astype(str)
    means = summary.rename(columns={"mean": "value"}).assign(seed="mean")
    sizes = runs.drop_duplicates(["variant", "mix"])[["variant", "mix", "n_train_low", "n_train_high"]]
    return pd.concat([long, means.merge(sizes, on=["variant", "mix"])], ignore_index=True)


def grouped_test_loss(
    tables: Tables, context: Context, *, experiment: str, variants: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Test RMSE per mix with one bar per variant, and the paired difference of each variant to the first one."""
    runs = _gather(tables, "runs", [(experiment, variant) for variant in variants], f"variants of {experiment}")
    present = [variant for variant in variants if variant in set(runs["variant"])]
    mixes = ordered_mixes(runs["mix"].tolist(), _asked_mixes(context, experiment))
    summary = summarise(runs, ["test_rmse_ev"])
    differences = paired_differences(runs, present[0], present[1:], mixes)
    with style():
        height = 1.7 + max(len(mixes), 3) * (0.22 + 0.15 * len(present))
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(FULL_WIDTH, height), sharey=True, gridspec_kw={"width_ratios": [1.25, 1]}
        )
        _draw_grouped(left, summary, runs, present, mixes)
        _draw_differences(right, differences, present[1:], mixes)
        right.set_xlabel(f"RMSE − RMSE ({VARIANTS[present[0]][0]})\n(meV per molecule, paired by seed)")
        right.set_title("positive: worse")
        panel_letters([left, right])
        figure.legend(handles=_variant_handles(present), loc="outside upper center", ncols=3, columnspacing=1.2)
        _footer(figure, context, runs, "dots: seeds; error bars: 95 % (Student t)")
    tidy = _tidy_runs(runs, summary, ["test_rmse_ev"])
    return figure, pd.concat([tidy, differences], ignore_index=True)


def paired_differences(runs: pd.DataFrame, base: str, others: Sequence[str], mixes: Sequence[str]) -> pd.DataFrame:
    """Difference of test RMSE between variants, paired by seed.

    Returns:
        tidy table: experiment, variant, mix, quantity = difference_to_<base>_ev, seed = "mean", value and
        half_width_95 in eV, n.
    """
    wide = runs.pivot_table(index=["mix", "seed"], columns="variant", values="test_rmse_ev")
    rows = []
    for variant in others:
        for mix in mixes:
            if base not in wide or mix not in wide.index.get_level_values("mix"):
                continue
            pair = wide.loc[mix][[base, variant]].dropna()
            if pair.empty:
                continue
            values = (pair[variant] - pair[base]).to_numpy()
            width = half_width(values.tolist())
            rows.append(
                {
                    "experiment": runs["experiment"].iloc[0],
                    "variant": variant,
                    "mix": mix,
                    "quantity": f"difference_to_{base}_ev",
                    "seed": "mean",
                    "value": float(values.mean()),
                    "half_width_95": np.nan if width is None else width,
                    "n": values.size,
                }
            )
    columns = ["experiment", "variant", "mix", "quantity", "seed", "value", "half_width_95", "n"]
    return pd.DataFrame(rows, columns=columns)


def _variant_handles(variants: Sequence[str]) -> list[Patch]:
    return [
        Patch(facecolor=VARIANTS[v][1], alpha=0.75, edgecolor="white", hatch=VARIANTS[v][2] * 2, label=VARIANTS[v][0])
        for v in variants
    ]


def _draw_grouped(
    axis: Axes, summary: pd.DataFrame, runs: pd.DataFrame, variants: Sequence[str], mixes: Sequence[str]
) -> None:
    values = MEV * runs["test_rmse_ev"].to_numpy(dtype=float)
    log = _needs_log(values)
    if log:
        axis.set_xscale("log")
    for position, mix in enumerate(mixes):
        there = [v for v in variants if ((summary["mix"] == mix) & (summary["variant"] == v)).any()]
        height = 0.8 / len(variants)
        for index, variant in enumerate(there):
            row = summary[(summary["mix"] == mix) & (summary["variant"] == variant)]
            y = position + (index - (len(there) - 1) / 2) * height
            mean, width = MEV * row["mean"].item(), MEV * row["half_width_95"].item()
            _, color, hatch = VARIANTS[variant]
            if log:
                axis.plot([mean], [y], marker="D", color=color, markersize=5, zorder=3)
            else:
                axis.barh(y, mean, height * 0.92, color=color, alpha=0.75, hatch=hatch, edgecolor="white", zorder=2)
            if np.isfinite(width):
                lower = min(width, 0.98 * mean)
                axis.errorbar(mean, y, xerr=[[lower], [width]], color="black", capsize=2, linewidth=0.9, zorder=4)
            seeds = MEV * runs.loc[(runs["mix"] == mix) & (runs["variant"] == variant), "test_rmse_ev"].to_numpy(float)
            axis.scatter(
                seeds,
                np.full(seeds.size, y + (0.42 * height if log else 0.0)),
                s=9,
                facecolor="white",
                edgecolor="black",
                linewidth=0.6,
                zorder=5,
            )
    axis.set_yticks(range(len(mixes)), [label(mix) for mix in mixes])
    axis.set_ylim(len(mixes) - 0.45, -0.55)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("test RMSE (meV per molecule)")
    if log:
        axis.set_xlim(values.min() / 1.5, values.max() * 1.5)
        _plain_log(axis, "x")
    else:
        axis.set_xlim(left=0)


def _draw_differences(axis: Axes, differences: pd.DataFrame, variants: Sequence[str], mixes: Sequence[str]) -> None:
    axis.axvline(0, color="black", linewidth=0.9)
    height = 0.8 / max(len(variants), 1)
    for index, variant in enumerate(variants):
        for position, mix in enumerate(mixes):
            row = differences[(differences["mix"] == mix) & (differences["variant"] == variant)]
            if row.empty:
                continue
            y = position + (index - (len(variants) - 1) / 2) * height
            width = MEV * row["half_width_95"].item()
            axis.errorbar(
                MEV * row["value"].item(), y, xerr=width if np.isfinite(width) else None, marker="s", markersize=4.5,
                color=VARIANTS[variant][1], capsize=2.5, linewidth=1.1, zorder=3,
            )  # fmt: skip
    axis.grid(axis="y", visible=False)
    values = differences[["value", "half_width_95"]].to_numpy(dtype=float) * MEV
    if values.size:
        ends = np.abs(values[:, 0]) + np.nan_to_num(values[:, 1])
        # Differences of very different size (an encoding that fails altogether): symmetric logarithmic axis.
        small = np.median(ends)
        if ends.max() > LOG_RATIO * max(small, 1e-9):
            axis.set_xscale("symlog", linthresh=float(max(small, 1e-6)))
    if not differences.empty and axis.get_xscale() == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(5))
    if differences.empty:
        axis.text(0.5, 0.5, "one variant only", transform=axis.transAxes, ha="center", color=GREY)


def encoding(tables: Tables, context: Context, *, experiment: str = "ani") -> tuple[Figure, pd.DataFrame]:
    """Does the all-ones encoding of the high fidelity explain that a little low-fidelity data makes the model worse?"""
    variants = ["coded", "coded_ones"]
    runs = _gather(tables, "runs", [(experiment, variant) for variant in variants], "comparison of encodings")
    present = [variant for variant in variants if variant in set(runs["variant"])]
    mixes = ordered_mixes(runs["mix"].tolist(), _asked_mixes(context, experiment))
    summary = summarise(runs, ["test_rmse_ev"])
    differences = paired_differences(runs, present[0], present[1:], mixes)
    worse = []
    for variant in present:
        wide = runs[runs["variant"] == variant].pivot_table(index="seed", columns="mix", values="test_rmse_ev")
        for mix in SERIES["20k ANI-1ccx"]:
            if mix not in wide or "ANI-1ccx" not in wide:
                continue
            values = (wide[mix] - wide["ANI-1ccx"]).dropna().to_numpy()
            if values.size:
                width = half_width(values.tolist())
                worse.append(
                    {
                        "experiment": experiment,
                        "variant": variant,
                        "mix": mix,
                        "quantity": "difference_to_ANI-1ccx_ev",
                        "seed": "mean",
                        "value": float(values.mean()),
                        "half_width_95": np.nan if width is None else width,
                        "n": values.size,
                    }
                )
    against = pd.DataFrame(worse, columns=differences.columns)
    with style():
        figure = plt.figure(figsize=(FULL_WIDTH, 6.6))
        grid = figure.add_gridspec(2, 2, height_ratios=[1.9, 1], width_ratios=[1.25, 1])
        left = figure.add_subplot(grid[0, 0])
        right = figure.add_subplot(grid[0, 1], sharey=left)
        below = figure.add_subplot(grid[1, :])
        _draw_grouped(left, summary, runs, present, mixes)
        _draw_differences(right, differences, present[1:], mixes)
        right.tick_params(labelleft=False)
        right.set_xlabel("RMSE (all ones) − RMSE (one-hot)\n(meV per molecule, paired by seed)")
        shown = [mix for mix in SERIES["20k ANI-1ccx"] if mix in set(against["mix"])]
        _draw_differences(below, against, present, shown)
        below.set_yticks(range(len(shown)), [label(mix) for mix in shown])
        below.set_ylim(len(shown) - 0.4, -0.6)
        below.set_xlabel("RMSE (mix) − RMSE (ANI-1ccx) (meV per molecule, paired by seed)")
        below.set_title("positive: the mix is worse than ANI-1ccx; thesis (text): only 20k/20k is")
        panel_letters([left, right, below])
        names = {
            "coded": "one-hot, fifth component 0 (text)",
            "coded_ones": "all five components 1 (published converter)",
        }
        handles = _variant_handles(present)
        for handle, variant in zip(handles, present, strict=True):
            handle.set_label(names[variant])
        figure.legend(
            handles=handles, loc="outside upper center", ncols=2, title="encoding of ANI-1ccx atoms", columnspacing=1.5
        )
        _footer(figure, context, runs, "dots: seeds; error bars: 95 % (Student t)")
    tidy = _tidy_runs(runs, summary, ["test_rmse_ev"])
    return figure, pd.concat([tidy, differences, against], ignore_index=True)


# --- time per epoch -------------------------------------------------------------------------------------------------


def epoch_time(tables: Tables, context: Context, *, experiment: str = "ani") -> tuple[Figure, pd.DataFrame]:
    """Median seconds per epoch against training rows, with the proportionality that the thesis states."""
    runs = _gather(tables, "runs", [(experiment, "coded")], "time per epoch")
    mixes = ordered_mixes(runs["mix"].tolist(), _asked_mixes(context, experiment))
    styles = mix_styles(mixes)
    runs["n_train"] = runs["n_train_low"] + runs["n_train_high"]
    summary = summarise(runs, ["seconds_per_epoch"]).set_index("mix").loc[mixes]
    rows = runs.drop_duplicates("mix").set_index("mix").loc[mixes, "n_train"].to_numpy(dtype=float)
    mean = summary["mean"].to_numpy(dtype=float)
    slope, intercept = np.polyfit(rows, mean, 1) if np.unique(rows).size > 1 else (np.nan, np.nan)
    residual = mean - (slope * rows + intercept)
    spread = ((mean - mean.mean()) ** 2).sum()
    r_squared = 1 - (residual**2).sum() / spread if spread > 0 else np.nan
    ratios = _time_ratios(runs, context)
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.3), gridspec_kw={"width_ratios": [1.35, 1]})
        for mix, n, value in zip(mixes, rows, mean, strict=True):
            width = summary.loc[mix, "half_width_95"]
            left.errorbar(
                n, value, yerr=width if np.isfinite(width) else None, marker="o", color=styles[mix][0], capsize=2.5,
                markersize=7, linestyle="", zorder=4,
            )  # fmt: skip
            seeds = runs.loc[runs["mix"] == mix, "seconds_per_epoch"].to_numpy(dtype=float)
            left.scatter(
                np.full(seeds.size, n), seeds, s=9, facecolor="white", edgecolor="black", linewidth=0.6, zorder=5
            )
        line = np.array([0.0, rows.max() * 1.04])
        fit_label = f"linear fit, R² = {r_squared:.3f}"
        (fit,) = left.plot(line, slope * line + intercept, color="black", linewidth=1, label=fit_label)
        base = "20k-20k"
        paper = None
        if base in mixes:
            at = mixes.index(base)
            (paper,) = left.plot(
                line, mean[at] * line / rows[at], color=GREY, linestyle=(0, (5, 3)), linewidth=1.3,
                label="proportional to rows\nfrom 20k/20k: thesis (text)",
            )  # fmt: skip
        left.set_xlim(left=0)
        left.set_ylim(bottom=0, top=1.1 * max(runs["seconds_per_epoch"].max(), 1e-12))
        left.set_xlabel("training rows (both fidelities)")
        left.set_ylabel("median time per epoch (s)")
        points = [
            Line2D([], [], marker="o", linestyle="", color=styles[mix][0], markersize=6, label=label(mix))
            for mix in mixes
        ]
        lines = [h for h in (fit, paper) if h is not None]
        figure.legend(
            handles=[*points, *lines], loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.4
        )
        _draw_ratios(right, ratios)
        panel_letters([left, right])
        devices = ", ".join(sorted(set(runs["device"].astype(str))))
        sign = "+" if intercept >= 0 else "−"
        more = (
            f"device: {devices}; fit: {slope:.3g} s per row {sign} {abs(intercept):.3g} s; error bars: 95 % (Student t)"
        )
        _footer(figure, context, runs, more, tested=False)
    long = runs[["experiment", "variant", "mix", "seed", "n_train", "seconds_per_epoch", "device"]].copy()
    long = long.rename(columns={"seconds_per_epoch": "value"}).assign(quantity="seconds_per_epoch")
    long["seed"] = long["seed"].astype(str)
    fit_rows = pd.DataFrame(
        {
            "quantity": ["fit_slope_s_per_row", "fit_intercept_s", "fit_r_squared"],
            "value": [slope, intercept, r_squared],
            "seed": "mean",
            "experiment": experiment,
        }
    )
    return figure, pd.concat([long, ratios.assign(experiment=experiment, variant="coded"), fit_rows], ignore_index=True)


def _time_ratios(runs: pd.DataFrame, context: Context) -> pd.DataFrame:
    """Time per epoch over that of the smallest mix of its series: ours by seed, the thesis's, and the rows'."""
    rows = []
    for (series, members), claim in zip(SERIES.items(), ("epoch-time-20k", "epoch-time-60k"), strict=True):
        if not set(members) <= set(runs["mix"]):
            continue
        sizes = runs.drop_duplicates("mix").set_index("mix")["n_train"]
        # The thesis gives whole numbers (2:5:9); the smallest mix is their first.
        first = {"20k ANI-1ccx": 2.0, "60k ANI-1ccx": 4.0}[series]
        stated = context.paper(claim)
        wide = runs.pivot_table(index="seed", columns="mix", values="seconds_per_epoch")[list(members)].dropna()
        for mix in members:
            values = (wide[mix] / wide[members[0]]).to_numpy(dtype=float)
            width = half_width(values.tolist())
            rows.append(
                {
                    "mix": mix,
                    "quantity": "time_ratio",
                    "seed": "mean",
                    "series": series,
                    "value": float(values.mean()) if values.size else np.nan,
                    "half_width_95": np.nan if width is None else width,
                    "n": values.size,
                    "n_train": int(sizes[mix]),
                    "row_ratio": float(sizes[mix] / sizes[members[0]]),
                    "thesis_ratio": stated.get(label(mix), first) / first,
                }
            )
    columns = [
        "mix", "quantity", "seed", "series", "value", "half_width_95", "n", "n_train", "row_ratio", "thesis_ratio",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _draw_ratios(axis: Axes, ratios: pd.DataFrame) -> None:
    positions = []
    names = []
    for position, (_, row) in enumerate(ratios.iterrows()):
        y = position + (0.5 if row["series"].startswith("60k") else 0.0)
        positions.append(y)
        names.append(label(row["mix"]))
        color = MIX_STYLE[row["mix"]][0]
        axis.barh(y, row["value"], height=0.62, color=color, alpha=0.75, zorder=2)
        if np.isfinite(row["half_width_95"]):
            axis.errorbar(row["value"], y, xerr=row["half_width_95"], color="black", capsize=3, linewidth=1, zorder=4)
        axis.plot(
            [row["thesis_ratio"]] * 2, [y - 0.4, y + 0.4], color=GREY, linestyle=(0, (2, 1)), linewidth=2, zorder=5
        )
    axis.set_yticks(positions, names)
    if positions:
        axis.set_ylim(positions[-1] + 1.9, -0.7)
    axis.set_xlim(left=0)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("time per epoch, smallest of series = 1")
    handles: list[Any] = [
        Patch(facecolor="#888888", alpha=0.75, label="ours, paired by seed"),
        Line2D([], [], color=GREY, linestyle=(0, (2, 1)), linewidth=2, label="thesis (text): 2:5:9; 4:7:11"),
    ]
    axis.legend(handles=handles, loc="lower right")


# --- parity ---------------------------------------------------------------------------------------------------------


def parity(
    tables: Tables, context: Context, *, experiment: str = "ani", variant: str = "coded"
) -> tuple[Figure, pd.DataFrame]:
    """Predicted against reference test energies and the residuals: reference mix, best and worst mix."""
    predictions = _gather(tables, "predictions", [(experiment, variant)], "parity")
    runs = _gather(tables, "runs", [(experiment, variant)], "parity")
    mixes = ordered_mixes(predictions["mix"].tolist(), _asked_mixes(context, experiment))
    mean = runs.groupby("mix")["test_rmse_ev"].mean()
    roles = {"best": mean.idxmin(), "worst": mean.idxmax()}
    if "ANI-1ccx" in mean.index and "ANI-1ccx" not in roles.values():
        roles = {"high fidelity only": "ANI-1ccx", **roles}
    if roles["best"] == roles["worst"]:
        roles = {"only mix": roles["best"]}
    tidy = []
    with style():
        figure, axes = plt.subplots(
            2, len(roles), figsize=(FULL_WIDTH * (0.28 + 0.24 * len(roles)), 5.0), squeeze=False, sharex=True,
            gridspec_kw={"height_ratios": [1.6, 1]},
        )  # fmt: skip
        for column, (role, mix) in enumerate(roles.items()):
            of_mix = predictions[predictions["mix"] == mix]
            seed = of_mix["seed"].min()
            shown = of_mix[of_mix["seed"] == seed]
            target, predicted = shown["target_ev"].to_numpy(float), shown["predicted_ev"].to_numpy(float)
            error = predicted - target
            color = mix_styles(mixes)[mix][0]
            top, bottom = axes[0][column], axes[1][column]
            dots = {
                "s": 9 if error.size < 2000 else 3,
                "color": color,
                "alpha": 0.5,
                "linewidth": 0,
                "rasterized": True,
            }
            top.scatter(target, predicted, **dots)
            ends = np.array([min(target.min(), predicted.min()), max(target.max(), predicted.max())])
            top.plot(ends, ends, color="black", linewidth=0.8)
            low, high = float(ends[0]), float(ends[1])
            top.set_ylim(low - 0.05 * (high - low), high + 0.32 * (high - low))
            top.set_title(f"{label(mix)}\n{role}")
            mae = MEV * float(np.abs(error).mean())
            bias = f"mean {MEV * error.mean():+.3g} meV".replace("-", "−")
            rmse = MEV * float(np.sqrt(np.mean(error**2)))
            top.text(
                0.04, 0.97, f"RMSE {rmse:.3g} meV\nMAE {mae:.3g} meV\n{bias}",
                transform=top.transAxes, va="top", fontsize=9,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}, zorder=6,
            )  # fmt: skip
            bottom.scatter(target, MEV * error, **dots)
            bottom.axhline(0, color="black", linewidth=0.8)
            bottom.set_xlabel("reference energy (eV)")
            bottom.xaxis.set_major_locator(MaxNLocator(4))
            top.yaxis.set_major_locator(MaxNLocator(5))
            tidy.append(
                shown[["experiment", "variant", "mix", "seed", "row", "n_atoms", "target_ev", "predicted_ev"]].assign(
                    error_ev=error, role=role
                )
            )
        axes[0][0].set_ylabel("predicted energy (eV)")
        axes[1][0].set_ylabel("predicted − reference\n(meV)")
        panel_letters([*axes[0], *axes[1]])
        n_rows = "/".join(str(len(part)) for part in {len(t): t for t in tidy}.values())
        footer(
            figure,
            f"{context.scale} scale · seed {', '.join(sorted({str(t['seed'].iloc[0]) for t in tidy}))} of each mix · "
            f"{n_rows} test molecules · best and worst by mean RMSE over seeds\n"
            "energies: high fidelity minus per-element self energies",
        )
    return figure, pd.concat(tidy, ignore_index=True)


# --- self energies --------------------------------------------------------------------------------------------------


def self_energies(
    tables: Tables, context: Context, *, experiment: str = "ani", rows: str = "train"
) -> tuple[Figure, pd.DataFrame]:
    """Distribution of the energies before and after the per-element regression, both fidelities."""
    content = tables.self_energies(experiment, rows)
    fidelities: Mapping[str, Any] = content["fidelities"]
    tidy = []
    with style():
        figure, axes = plt.subplots(
            len(fidelities), 2, figsize=(FULL_WIDTH, 0.9 + 2.1 * len(fidelities)), squeeze=False
        )
        for line, (fidelity, entry) in enumerate(fidelities.items()):
            for column, stage in enumerate(("before", "after")):
                axis = axes[line][column]
                histogram, numbers = entry["histogram"][stage], entry[stage]
                edges, counts = np.asarray(histogram["edges"], float), np.asarray(histogram["counts"], float)
                color = (OKABE_ITO["blue"], OKABE_ITO["vermillion"])[line % 2]
                axis.stairs(counts, edges, fill=True, color=color, alpha=0.65)
                axis.stairs(counts, edges, color=color, linewidth=0.9)
                axis.axvline(numbers["mean_ev"], color="black", linewidth=1)
                text = f"mean {_energy(numbers['mean_ev'])}\nstd {_energy(numbers['std_ev'])}"
                if stage == "after":
                    text += f"\nstd per atom {_energy(numbers['std_per_atom_ev'])}"
                peak_left = edges[:-1][counts.argmax()] < edges.mean()
                axis.text(
                    0.97 if peak_left else 0.03, 0.95, text, transform=axis.transAxes, va="top",
                    ha="right" if peak_left else "left", fontsize=9,
                    bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
                axis.set_ylim(0, 1.5 * max(counts.max(), 1))
                axis.xaxis.set_major_locator(MaxNLocator(5))
                axis.set_title(f"{FIDELITY_NAMES.get(fidelity, fidelity)}, {stage}")
                axis.grid(axis="x", visible=False)
                tidy.append(
                    pd.DataFrame(
                        {
                            "experiment": experiment,
                            "rows": rows,
                            "fidelity": fidelity,
                            "stage": stage,
                            "edge_low_ev": edges[:-1],
                            "edge_high_ev": edges[1:],
                            "count": counts.astype(int),
                            "mean_ev": numbers["mean_ev"],
                            "std_ev": numbers["std_ev"],
                        }
                    )
                )
            axes[line][0].set_ylabel("molecules per bin")
        axes[-1][0].set_xlabel("total energy (eV)")
        axes[-1][1].set_xlabel("energy − Σ self energies (eV)")
        panel_letters(axes.ravel())
        n_rows = ", ".join(
            f"{FIDELITY_NAMES.get(name, name)} n = {int(entry['n_rows']):,}".replace(",", "\u202f")
            for name, entry in fidelities.items()
        )
        which = "training rows" if rows == "train" else "all rows (as the published code)"
        lacking = [name for name, entry in fidelities.items() if entry["rank"] < len(entry["elements"])]
        more = "\nrank-deficient: the self energies of single elements are not determined" if lacking else ""
        footer(figure, f"{context.scale} scale · regression on {which} · {n_rows}{more}")
    return figure, pd.concat(tidy, ignore_index=True)


def _energy(value: float) -> str:
    """An energy in eV, in meV where it is small."""
    if abs(value) < 0.1:
        return f"{value * MEV:.3g} meV".replace("-", "−")
    return f"{value:.4g} eV".replace("-", "−")


# --- tables ---------------------------------------------------------------------------------------------------------


def data_distribution(tables: Tables, context: Context) -> pd.DataFrame:
    """Rows of every mix: the thesis's, those asked for at this scale, and those achieved."""
    runs = _gather(tables, "runs", [("ani", "coded")], "Table 3.1")
    rows = []
    for mix in ordered_mixes(runs["mix"].tolist(), _asked_mixes(context, "ani")):
        of_mix = runs[runs["mix"] == mix]
        row: dict[str, Any] = {"mix": label(mix), "seeds": of_mix["seed"].nunique()}
        thesis, asked = context.paper_sizes(mix), context.asked.get("ani", {}).get(mix, {})
        for column in SIZE_COLUMNS:
            row[f"{column}_thesis"] = thesis.get(column)
            row[f"{column}_asked"] = asked.get(column)
            row[f"{column}_achieved"] = int(of_mix[column].iloc[0])
        row["as_asked"] = (
            "yes" if all(row[f"{c}_asked"] in (None, row[f"{c}_achieved"]) for c in SIZE_COLUMNS) else "no"
        )
        rows.append(row)
    frame = pd.DataFrame(rows)
    counts = [column for column in frame if column.startswith("n_")]
    frame[counts] = frame[counts].astype("Int64")
    return frame


OUTCOME_COLUMNS: Mapping[str, tuple[str, float]] = {
    "test_rmse_mev": ("test_rmse_ev", MEV),
    "test_mae_mev": ("test_mae_ev", MEV),
    "test_rmse_per_atom_mev": ("test_rmse_per_atom_ev", MEV),
    "test_mae_per_atom_mev": ("test_mae_per_atom_ev", MEV),
    "test_mse_ev2": ("test_mse_ev2", 1.0),
    "best_val_rmse_mev": ("best_val_rmse_ev", MEV),
    "final_train_rmse_mev": ("final_train_rmse_ev", MEV),
    "seconds_per_epoch": ("seconds_per_epoch", 1.0),
    "train_seconds": ("train_seconds", 1.0),
}


def outcome(tables: Tables, context: Context, *, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """All runs by experiment, variant and mix: mean ± 95 % half width of errors and times, epochs, seeds."""
    runs = _gather(tables, "runs", pairs, "outcome table")
    atoms: dict[tuple[str, str], float] = {}
    for experiment, variant in pairs:
        if tables.has("predictions", experiment, variant):
            tested = tables.predictions(experiment, variant).drop_duplicates("row")
            atoms[experiment, variant] = float(tested["n_atoms"].mean())
    rows = []
    for (experiment, variant), of_variant in runs.groupby(["experiment", "variant"], sort=False):
        for mix in ordered_mixes(of_variant["mix"].tolist(), _asked_mixes(context, experiment)):
            group = of_variant[of_variant["mix"] == mix]
            row: dict[str, Any] = {
                "experiment": experiment,
                "variant": variant,
                "mix": label(mix),
                "seeds": int(group["seed"].nunique()),
                "n_train_low": int(group["n_train_low"].iloc[0]),
                "n_train_high": int(group["n_train_high"].iloc[0]),
                "n_test": int(group["n_test"].iloc[0]),
            }
            for name, (column, factor) in OUTCOME_COLUMNS.items():
                values = factor * group[column].to_numpy(dtype=float)
                row[name] = float(values.mean())
                width = half_width(values.tolist())
                row[f"{name}_pm"] = np.nan if width is None else width
            row["epochs"] = float(group["epochs"].median())
            row["steps"] = float(group["steps"].median())
            row["mean_atoms"] = atoms.get((experiment, variant), np.nan)
            row["n_parameters"] = int(group["n_parameters"].iloc[0])
            row["stopped_by"] = ", ".join(sorted(set(group["stopped_by"].astype(str))))
            row["device"] = ", ".join(sorted(set(group["device"].astype(str))))
            rows.append(row)
    return pd.DataFrame(rows)


def self_energy_table(tables: Tables, context: Context, *, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Coefficients of the per-element regression, its conditioning, and the energies before and after."""
    rows = []
    for experiment, which in pairs:
        if not tables.has("self_energies", experiment, which):
            continue
        for fidelity, entry in tables.self_energies(experiment, which)["fidelities"].items():
            errors = entry["standard_error_ev"]
            for element, value, error in zip(entry["elements"], entry["coefficients_ev"], errors, strict=True):
                rows.append(
                    {
                        "experiment": experiment,
                        "rows": which,
                        "fidelity": FIDELITY_NAMES.get(fidelity, fidelity),
                        "n_rows": entry["n_rows"],
                        "element": ELEMENT_SYMBOLS.get(element, str(element)),
                        "self_energy_ev": value,
                        "standard_error_ev": error,
                        "rank": f"{entry['rank']} of {len(entry['elements'])}",
                        "condition_number": entry["condition_number"],
                        "mean_before_ev": entry["before"]["mean_ev"],
                        "std_before_ev": entry["before"]["std_ev"],
                        "mean_after_ev": entry["after"]["mean_ev"],
                        "std_after_ev": entry["after"]["std_ev"],
                        "std_after_per_atom_mev": MEV * entry["after"]["std_per_atom_ev"],
                        "mae_after_per_atom_mev": MEV * entry["after"]["mae_per_atom_ev"],
                    }
                )
    if not rows:
        raise InputError("self-energy table: no regression was given; add self_energies_train.json to its inputs")
    return pd.DataFrame(rows)


def split_table(tables: Tables, context: Context, *, experiments: Sequence[str]) -> pd.DataFrame:
    """The split reports: sizes, seeds, how rows were selected, and what the leakage check found."""
    rows = []
    for experiment in experiments:
        if tables.has("split", experiment):
            for item, value in _flatten(tables.split(experiment)):
                rows.append({"experiment": experiment, "item": item, "value": value})
    if not rows:
        raise InputError("split table: no split report was given; add split.json to its inputs")
    return pd.DataFrame(rows)


def _flatten(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted key, text) pairs."""
    if isinstance(content, Mapping):
        return [
            pair
            for key, value in content.items()
            for pair in _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(content, list) and any(isinstance(item, dict | list) for item in content):
        return [pair for i, value in enumerate(content) for pair in _flatten(value, f"{prefix}[{i}]")]
    if isinstance(content, list):
        return [(prefix, ", ".join(map(str, content)))]
    if isinstance(content, bool):
        return [(prefix, "yes" if content else "no")]
    return [(prefix, "" if content is None else str(content))]


# --- registries -----------------------------------------------------------------------------------------------------

ANI_VARIANTS = tuple(("ani", variant) for variant in VARIANTS)
ETHANOL_VARIANTS = tuple(("ethanol", variant) for variant in VARIANTS)
ALL_RUNS = (*ANI_VARIANTS, *ETHANOL_VARIANTS)
REGRESSIONS = (("ani", "train"), ("ani", "all"), ("ethanol", "train"), ("ethanol", "all"))

FIGURES: Mapping[str, FigureSpec] = {
    spec.name: spec
    for spec in (
        FigureSpec(
            "fig3.1-train-loss", "Figure 3.1: training loss against epoch",
            partial(loss_curves, experiment="ani", which="train"), (("ani", "coded"),), ("histories",),
        ),
        FigureSpec(
            "fig3.2-validation-loss", "Figure 3.2: validation loss against epoch",
            partial(loss_curves, experiment="ani", which="validation"), (("ani", "coded"),), ("histories",),
        ),
        FigureSpec(
            "fig3.3-test-loss", "Figure 3.3: test loss per mix", partial(loss_per_mix, experiment="ani"),
            (("ani", "coded"),),
        ),
        FigureSpec("epoch-time", "Time per epoch against training rows", epoch_time, (("ani", "coded"),)),
        FigureSpec(
            "parity", "Predicted against reference energies", parity, (("ani", "coded"),), ("runs", "predictions"),
        ),
        FigureSpec(
            "self-energies", "Energies before and after the per-element regression", self_energies,
            self_energies=(("ani", "train"),),
        ),
        FigureSpec(
            "fig3.3-encoding", "Figure 3.3 with both encodings of the high fidelity", encoding,
            (("ani", "coded"), ("ani", "coded_ones")),
        ),
        FigureSpec(
            "fig3.3-variants", "Figure 3.3 with the network as coded and as described",
            partial(grouped_test_loss, experiment="ani", variants=("coded", "described")),
            (("ani", "coded"), ("ani", "described")),
        ),
        FigureSpec(
            "baselines", "Mixed training against transfer learning and delta learning",
            partial(grouped_test_loss, experiment="ani", variants=("coded", "transfer", "delta")),
            (("ani", "coded"), ("ani", "transfer"), ("ani", "delta")),
        ),
        FigureSpec(
            "ethanol-test-loss", "Test loss per mix, ethanol", partial(loss_per_mix, experiment="ethanol"),
            (("ethanol", "coded"),),
        ),
        FigureSpec(
            "ethanol-self-energies", "Energies before and after the per-element regression, ethanol",
            partial(self_energies, experiment="ethanol"), self_energies=(("ethanol", "train"),),
        ),
    )
}  # fmt: skip

_SIZE_NAMES = ("train low", "train high", "val. low", "val. high", "test high")
TABLES: Mapping[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TableSpec(
            "table3.1-data-distribution",
            "Table 3.1: data distribution",
            data_distribution,
            "Rows of each mix: in the thesis, asked for at this scale, and achieved. Low: ANI-1x; high: ANI-1ccx.",
            {
                "mix": "Mix",
                "seeds": "Seeds",
                "as_asked": "As asked",
                **{
                    f"{column}_{which}": f"{name}: {which}"
                    for column, name in zip(SIZE_COLUMNS, _SIZE_NAMES, strict=True)
                    for which in ("thesis", "asked", "achieved")
                },
            },
            (("ani", "coded"),),
        ),
        TableSpec(
            "outcome",
            "Outcome of all runs",
            partial(outcome, pairs=ALL_RUNS),
            "Mean over seeds and 95 % half width (±, Student t, from three seeds on); epochs and steps are medians.",
            {
                "experiment": "Experiment", "variant": "Variant", "mix": "Mix", "seeds": "Seeds",
                "n_train_low": "Train low", "n_train_high": "Train high", "n_test": "Test rows",
                "test_rmse_mev": "Test RMSE (meV/molecule)", "test_mae_mev": "Test MAE (meV/molecule)",
                "test_rmse_per_atom_mev": "Test RMSE (meV/atom)", "test_mae_per_atom_mev": "Test MAE (meV/atom)",
                "test_mse_ev2": "Test MSE (eV²)", "best_val_rmse_mev": "Best val. RMSE (meV/molecule)",
                "final_train_rmse_mev": "Final train RMSE (meV/molecule)", "seconds_per_epoch": "Time per epoch (s)",
                "train_seconds": "Training time (s)", "epochs": "Epochs", "steps": "Steps",
                "mean_atoms": "Atoms per test molecule", "n_parameters": "Parameters", "stopped_by": "Stopped by",
                "device": "Device", **{f"{name}_pm": "±" for name in OUTCOME_COLUMNS},
            },
            ALL_RUNS,
            ("runs", "predictions"),
        ),
        TableSpec(
            "self-energies",
            "Per-element regression",
            partial(self_energy_table, pairs=REGRESSIONS),
            "Least squares on composition. Rows: train = training rows only (used), all = all rows (published code).",
            {
                "experiment": "Experiment", "rows": "Rows", "fidelity": "Fidelity", "n_rows": "n", "element": "Element",
                "self_energy_ev": "Self energy (eV)", "standard_error_ev": "Standard error (eV)", "rank": "Rank",
                "condition_number": "Condition number", "mean_before_ev": "Mean before (eV)",
                "std_before_ev": "Std before (eV)", "mean_after_ev": "Mean after (eV)",
                "std_after_ev": "Std after (eV)",
                "std_after_per_atom_mev": "Std after (meV/atom)", "mae_after_per_atom_mev": "MAE after (meV/atom)",
            },
            self_energies=REGRESSIONS,
        ),
        TableSpec(
            "split",
            "Splits and leakage check",
            partial(split_table, experiments=("ani", "ethanol")),
            "Sizes, seeds, selection and what the leakage check found.",
            {"experiment": "Experiment", "item": "Item", "value": "Value"},
            splits=("ani", "ethanol"),
        ),
    )
}  # fmt: skip


def make_figure(name: str, tables: Tables, context: Context, path_png: PathLike) -> None:
    """Draw one figure and write its png, svg and csv.

    Raises:
        InputError: there is no such figure.
    """
    if name not in FIGURES:
        raise InputError(f"figure '{name}' of study krcelic: unknown; known: {', '.join(FIGURES)}")
    figure, tidy = FIGURES[name].function(tables, context)
    save_figure(figure, tidy, path_png)


def make_table(name: str, tables: Tables, context: Context, path_html: PathLike) -> None:
    """Make one table and write its html and csv.

    Raises:
        InputError: there is no such table.
    """
    if name not in TABLES:
        raise InputError(f"table '{name}' of study krcelic: unknown; known: {', '.join(TABLES)}")
    spec = TABLES[name]
    frame = spec.function(tables, context)
    mini = " The mini scale shows the method working; it does not claim to reproduce the thesis."
    caption = f"{spec.caption} Scale: {context.scale}.{mini if context.scale == 'mini' else ''}"
    write_html_table(frame, path_html, f"{spec.title} ({context.scale} scale)", caption, headings=spec.headings)
