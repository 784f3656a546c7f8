"""Ethanol in the study of So3krates on SPICE: errors, learning curve, dynamics, and speed against accuracy.

Everything is drawn from the tidy files that :class:`~mlip_studies.claims.run_tables.RunTables` reads; what the thesis
and the So3krates paper state is taken from the claim file. Ethanol is one composition, so that the thesis's correction
of the energies, a linear function of the number of atoms of each element, is a single constant here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import half_width
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, paper_line, style
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies.context import StudyContext
from mlip_studies.units import EV_TO_KCAL_PER_MOL, EV_TO_MEV

#: learning rates of So3krates' published training, and its decay: 0.7 per 100,000 steps (code of mlff, 2023)
FIRST_LEARNING_RATE, LAST_LEARNING_RATE, DECAY, DECAY_STEPS = 1e-3, 1e-5, 0.7, 100_000
#: steps until the published training stops
PUBLISHED_STEPS = round(DECAY_STEPS * math.log(LAST_LEARNING_RATE / FIRST_LEARNING_RATE) / math.log(DECAY))
#: training frames behind the published errors (Frank et al., NeurIPS 2022, table 1)
PUBLISHED_FRAMES = 1000
#: nominal temperature of the trajectory of MD17 (Chmiela et al., Sci. Adv. 2017), and of the mini set in its layout
REFERENCE_TEMPERATURE_K = 500.0
#: beyond this relative deviation from the nominal temperature a simulation is flagged
TEMPERATURE_TOLERANCE = 0.10
#: smallest time that is drawn on a logarithmic axis, in ps
FLOOR_PS = 1e-3

#: length of the arrow of a lower bound, in points
ARROW_POINTS = 26.0
SO3KRATES = "so3krates"
CLAIM_BEFORE = "ethanol-energy"
CLAIM_AFTER = "ethanol-energy-corrected"
CLAIM_FORCE = "ethanol-force"
CLAIM_PAPER_ENERGY = "ethanol-reference-energy"
CLAIM_PAPER_FORCE = "ethanol-reference-force"


@dataclass(frozen=True)
class Look:
    """How a network is called and drawn; the same in all figures."""

    title: str
    color: str
    marker: str


NETWORKS: Mapping[str, Look] = {
    SO3KRATES: Look("So3krates", OKABE_ITO["vermillion"], "*"),
    "gemnet_q": Look("GemNet-Q", OKABE_ITO["blue"], "s"),
    "gemnet_t": Look("GemNet-T", OKABE_ITO["sky blue"], "D"),
    "schnet": Look("SchNet", OKABE_ITO["bluish green"], "o"),
    "dimenet_plus_plus": Look("DimeNet++", OKABE_ITO["orange"], "^"),
    "se3_basic": Look("SE(3)-Transformer", OKABE_ITO["reddish purple"], "v"),
    "egnn": Look("EGNN", OKABE_ITO["black"], "P"),
}
SPARE = (("#7F7F7F", "X"), ("#8C510A", "h"), ("#35978F", "p"), ("#5E4FA2", "<"))
#: family of labels -> (name in a legend, colour, marker of each split)
FAMILIES: Mapping[str, tuple[str, str]] = {
    "ethanol": ("", OKABE_ITO["vermillion"]),
    "md17": ("published frames, original MD17 labels", OKABE_ITO["blue"]),
    "rmd17": ("published frames, revised labels", OKABE_ITO["bluish green"]),
}
OWN_FRAMES: Mapping[str, str] = {
    "full": "MD17, frames of the whole trajectory",
    "mini": "frames made by this project",
}
SPLIT_MARKERS = ("o", "s", "^", "D", "v")
_DATA = re.compile(r"(?P<family>ethanol|r?md17)(?:_(?P<split>\d+))?")


@dataclass(frozen=True)
class RunKey:
    """What the name of a run says.

    Attributes:
        data: name of the data in the study's configuration.
        family: which labels: ethanol (this scale's own frames), md17 or rmd17.
        split: number of the official split; None where there is one split only.
        network: name of the network.
        varied: whether the run differs in its number of layers from the network's own.
    """

    data: str
    family: str
    split: int | None
    network: str
    varied: bool


def run_key(run: str) -> RunKey | None:
    """Read a run's name, ``<data>-<network>-<shift>…``; None for a run on other data than ethanol.

    Args:
        run: name of the run.
    """
    name = parse_run_name(run)
    found = None if name is None else _DATA.fullmatch(name.data)
    if name is None or found is None:
        return None
    split = found["split"]
    varied = name.n_layers is not None
    return RunKey(name.data, found["family"], None if split is None else int(split), name.network, varied)


def look_of(network: str, others: Sequence[str] = ()) -> Look:
    """Name, colour and marker of a network.

    Args:
        network: name of the network.
        others: all networks in the figure, so that unknown ones differ.
    """
    if network in NETWORKS:
        return NETWORKS[network]
    unknown = [name for name in dict.fromkeys([*others, network]) if name not in NETWORKS]
    color, marker = SPARE[unknown.index(network) % len(SPARE)]
    return Look(network, color, marker)


def family_title(family: str, scale: str) -> str:
    """Name of a family of labels in a legend or table."""
    return FAMILIES[family][0] or OWN_FRAMES.get(scale, OWN_FRAMES["full"])


def _ethanol_runs(tables: RunTables, what: str) -> pd.DataFrame:
    """Runs on ethanol with what their names say in the columns family, split, network, varied."""
    frames = []
    for name in tables.names("runs"):
        key = run_key(name)
        if key is None:
            continue
        frame = tables.get("runs", name)
        frames.append(
            frame.assign(
                data_name=key.data, family=key.family, split=key.split, network=key.network, varied=key.varied
            ).astype({"split": "Int64"})
        )
    if not frames:
        raise InputError(f"{what}: none of the study's runs on ethanol was given; add one of them to the study")
    for column in ("steps", "configurations_per_second", "train_seconds", "n_test"):
        missing = [frame["run"].iloc[0] for frame in frames if column not in frame]
        if missing:
            raise InputError(
                f"{what}: column '{column}' is missing in runs.csv of {missing[0]}; run its analysis again"
            )
    return pd.concat(frames, ignore_index=True)


def _mean_and_width(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, 95 % half width (NaN below three values) and number of the finite values."""
    array = np.asarray(list(values), dtype=float)
    array = array[np.isfinite(array)]
    width = half_width(array.tolist())
    if width is None:
        return float(array.mean()) if array.size else math.nan, math.nan, int(array.size)
    # Equal values have no spread, whatever rounding makes of it.
    same = bool(np.ptp(array) == 0)
    return (float(array[0]), 0.0, int(array.size)) if same else (float(array.mean()), width, int(array.size))


def _thin(number: float) -> str:
    """An integer with thin spaces between thousands."""
    return f"{round(number):,}".replace(",", "\u202f")


def _range(values: Iterable[float], unit: str = "") -> str:
    """One number, or the smallest and the largest of several."""
    found = sorted({round(float(value)) for value in values if np.isfinite(value)})
    if not found:
        return f"? {unit}".rstrip()
    text = _thin(found[0]) if len(found) == 1 else f"{_thin(found[0])} to {_thin(found[-1])}"
    if text == "1":
        unit = unit.removesuffix("s")
    return f"{text} {unit}".rstrip()


def _schedule_note(runs: pd.DataFrame) -> str:
    """Which part of the published schedule the So3krates runs did; empty if all did the whole of it."""
    steps = runs.loc[runs["network"] == SO3KRATES, "steps"].to_numpy(dtype=float)
    if not steps.size:
        return ""
    text = f"So3krates: {_range(steps, 'steps')} of the published {_thin(PUBLISHED_STEPS)}"
    return f"{text} (short schedule)" if steps.min() < 0.99 * PUBLISHED_STEPS else text


def _seed_note(runs: pd.DataFrame) -> str:
    counts = runs.groupby("run")["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"n = {low} seed{'s' if low > 1 else ''}" if low == high else f"n = {low} to {high} seeds"


def _seconds_per_step(runs: pd.DataFrame) -> np.ndarray:
    """Time of one optimizer step, validation not counted, shape (n_runs,), in s."""
    batch = runs["batch_size"].to_numpy(float) if "batch_size" in runs else batch_size(runs)
    seconds: np.ndarray = batch / runs["configurations_per_second"].to_numpy(dtype=float)
    return seconds


def batch_size(runs: pd.DataFrame) -> np.ndarray:
    """Molecules per optimizer step, from the counts of molecules and of steps, shape (n_runs,).

    Args:
        runs: with configurations_per_second (1/s), train_seconds (s) and steps.
    """
    molecules = runs["configurations_per_second"].to_numpy(dtype=float) * runs["train_seconds"].to_numpy(dtype=float)
    epochs: np.ndarray = molecules / runs["steps"].to_numpy(dtype=float)
    return epochs


def forecast_hours(runs: pd.DataFrame) -> np.ndarray:
    """Hours that the whole published schedule would take at the measured speed, without validation, shape (n_runs,).

    Args:
        runs: one line per seed, with configurations_per_second (1/s) and batch_size, or what it follows from
            (see :func:`batch_size`).
    """
    return PUBLISHED_STEPS * _seconds_per_step(runs) / 3600.0


# --- table of errors ------------------------------------------------------------------------------------------------

_ERRORS: tuple[tuple[str, str, str], ...] = (
    ("energy_before", "energy_mae_ev", "E MAE"),
    ("energy_after_train", "corrected_train_energy_mae_ev", "E MAE, train fit"),
    ("energy_after_test", "corrected_test_energy_mae_ev", "E MAE, test fit"),
    ("force", "force_mae_ev_per_angstrom", "F MAE"),
)


def ethanol_rows(runs: pd.DataFrame, scale: str) -> pd.DataFrame:
    """One row per run: means over seeds with 95 % half widths.

    Args:
        runs: one line per run and seed, with the columns of runs.csv and family, split, network.
        scale: mini or full.

    Returns:
        energies in kcal/mol and meV, forces in kcal/mol/Å and meV/Å; half widths (``_pm``) are NaN below three seeds.
    """
    order = {name: number for number, name in enumerate(FAMILIES)}
    rows: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for run, group in runs.groupby("run", sort=False):
        first = group.iloc[0]
        network = str(first["network"])
        row: dict[str, Any] = {
            "source": "ours",
            "run": run,
            "data": family_title(str(first["family"]), scale),
            "split": first["split"],
            "network": look_of(network).title,
            "n_train": int(first["n_train"]),
            "n_test": int(first["n_test"]),
            "seeds": int(group["seed"].nunique()),
        }
        for name, column, _ in _ERRORS:
            values = group[column].to_numpy(dtype=float) if column in group else np.array([])
            mean, width, _ = _mean_and_width(values)
            for unit, factor in (("kcal", EV_TO_KCAL_PER_MOL), ("mev", EV_TO_MEV)):
                row[f"{name}_{unit}"], row[f"{name}_{unit}_pm"] = factor * mean, factor * width
        row["steps"] = int(group["steps"].median())
        row["molecules_per_step"] = int(np.round(np.median(batch_size(group))))
        row["training_hours"] = float(group["train_seconds"].mean()) / 3600.0
        # The schedule is So3krates' own.
        is_ours = network == SO3KRATES
        row["schedule_percent"] = 100.0 * row["steps"] / PUBLISHED_STEPS if is_ours else math.nan
        row["forecast_hours"] = float(forecast_hours(group).mean()) if is_ours else math.nan
        row["device"] = ", ".join(sorted(set(group["device"].astype(str)))) if "device" in group else ""
        key = (network != SO3KRATES, order[str(first["family"])], -row["n_train"], bool(first["varied"]), str(run))
        rows.append((key, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda entry: entry[0])])


def _reference_rows(context: StudyContext) -> pd.DataFrame:
    """What the thesis and, as it quotes it, the So3krates paper state."""
    kcal = {name: context.paper(name)[""] for name in (CLAIM_BEFORE, CLAIM_AFTER, CLAIM_FORCE)}
    paper = {name: context.paper(name)[""] for name in (CLAIM_PAPER_ENERGY, CLAIM_PAPER_FORCE)}
    data = "MD17 ethanol"
    rows: list[dict[str, Any]] = [
        {
            "source": "thesis", "data": data, "network": "So3krates",
            "energy_before_kcal": kcal[CLAIM_BEFORE], "energy_after_test_kcal": kcal[CLAIM_AFTER],
            "force_kcal": kcal[CLAIM_FORCE],
        },
        {
            "source": "So3krates paper", "data": data, "network": "So3krates",
            "n_train": PUBLISHED_FRAMES, "energy_before_kcal": paper[CLAIM_PAPER_ENERGY],
            "force_kcal": paper[CLAIM_PAPER_FORCE],
        },
    ]  # fmt: skip
    for row in rows:
        for name, _, _ in _ERRORS:
            if f"{name}_kcal" in row:
                row[f"{name}_mev"] = float(row[f"{name}_kcal"]) / EV_TO_KCAL_PER_MOL * EV_TO_MEV
    return pd.DataFrame(rows)


def ethanol(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Table of errors on ethanol before and after the correction, beside the thesis and the So3krates paper.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: no run on ethanol, or a claim that is missing.
    """
    runs = _ethanol_runs(tables, "table of ethanol")
    rows = ethanol_rows(runs, context.scale)
    columns = [name for name in rows.columns if "_mev" not in name] + [name for name in rows.columns if "_mev" in name]
    frame = pd.concat([_reference_rows(context), rows], ignore_index=True)[columns]
    frame = frame.astype(dict.fromkeys(("split", "n_train", "n_test", "seeds", "steps", "molecules_per_step"), "Int64"))
    headings = {
        "source": "Source", "data": "Frames, labels", "split": "Split", "network": "Network",
        "n_train": "Train", "n_test": "Test", "seeds": "Seeds", "steps": "Steps",
        "molecules_per_step": "Frames per step", "training_hours": "Training (h)",
        "schedule_percent": "Of the schedule (%)",
        "forecast_hours": "Whole schedule (h)", "device": "Device",
    }  # fmt: skip
    for name, _, title in _ERRORS:
        slash = "/Å" if name == "force" else ""
        headings |= {
            f"{name}_kcal": f"{title} (kcal/mol{slash})",
            f"{name}_mev": f"{title} (meV{slash})",
            f"{name}_kcal_pm": "±",
            f"{name}_mev_pm": "±",
        }
    own = "" if context.scale == "full" else f"; “{OWN_FRAMES['mini']}” are another level of theory than MD17's"
    caption = (
        "Mean absolute errors of energies (E, per molecule) and force components (F) on test frames of ethanol: mean "
        "over seeds and 95 % half width (±, Student t, from three seeds on). First rows: the thesis's section IV, and "
        "the So3krates paper as the thesis quotes it. All frames are one composition, so the linear correction by the "
        "numbers of atoms of each element is one constant, fitted on the training frames (train fit) or, as the thesis "
        f"seems to have done, on the test frames (test fit). The published schedule is {_thin(PUBLISHED_STEPS)} steps: "
        "the learning rate falls from 1e-3 to 1e-5 by 0.7 per 100,000 steps; shorter trainings let it fall faster. "
        "“Whole schedule” forecasts all of these steps from the measured frames/s on the device named, validation not "
        "counted. The thesis gives 4.96 meV and 5.01 meV/Å beside its 0.11 kcal/mol and 0.12 kcal/mol/Å; its row here "
        "is converted from kcal/mol. Scale: "
        f"{context.scale}{own}."
    )
    if context.scale != "full":
        caption += " The mini scale shows the method working; it does not claim to reproduce the thesis."
    hidden = ["run", *(f"{name}_mev_pm" for name, _, _ in _ERRORS)]
    title = f"Ethanol before and after the correction of the energies ({context.scale} scale)"
    write_html_table(frame, output, title, caption, headings=headings, hidden=hidden)


# --- learning curve -------------------------------------------------------------------------------------------------


def learning_curve_data(runs: pd.DataFrame) -> pd.DataFrame:
    """Single seeds and means of the So3krates runs by data (labels and split) and training size.

    Args:
        runs: one line per run and seed (see :func:`ethanol_rows`).

    Returns:
        tidy table: family, split, run, seed ("mean" for means over seeds), n_train, steps, quantity (energy,
        energy_corrected: one constant fitted on training energies, force), value (eV or eV/Å), half_width_95, n.
    """
    chosen = runs[(runs["network"] == SO3KRATES) & ~runs["varied"].astype(bool)]
    # The setting of the published check: the most common one, should others be there too.
    setting = chosen["shift"].astype(str) + chosen["beta"].astype(str)
    if setting.nunique() > 1:
        chosen = chosen[setting == chosen["n_train"].groupby(setting).nunique().idxmax()]
    quantities = {
        "energy": "energy_mae_ev",
        "energy_corrected": "corrected_train_energy_mae_ev",
        "force": "force_mae_ev_per_angstrom",
    }
    rows: list[dict[str, Any]] = []
    for quantity, column in quantities.items():
        if column not in chosen:
            continue
        for run, group in chosen.groupby("run", sort=False):
            first = group.iloc[0]
            common = {"family": first["family"], "split": first["split"], "run": run, "n_train": int(first["n_train"])}
            for _, one in group.iterrows():
                if np.isfinite(one[column]):
                    value, steps = float(one[column]), int(one["steps"])
                    rows.append({**common, "seed": str(one["seed"]), "steps": steps, "quantity": quantity,
                                 "value": value, "half_width_95": math.nan, "n": 1})  # fmt: skip
            mean, width, n = _mean_and_width(group[column])
            if n:
                rows.append({**common, "seed": "mean", "steps": int(group["steps"].median()), "quantity": quantity,
                             "value": mean, "half_width_95": width, "n": n})  # fmt: skip
    columns = ["family", "split", "run", "seed", "n_train", "steps", "quantity", "value", "half_width_95", "n"]
    return pd.DataFrame(rows, columns=columns).astype({"split": "Int64"})


def _clipped(mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Error bars for a logarithmic axis, shape (2, n): NaN where the half width is not known, never below zero."""
    width = np.asarray(width, dtype=float)
    mean = np.asarray(mean, dtype=float)
    return np.vstack([np.minimum(width, 0.95 * np.abs(mean)), width])


def _log_ticks(axis: Axes, which: str, wanted: int = 4) -> None:
    """Plain numbers on a logarithmic axis; between the decades too where there are few of them."""
    low, high = sorted(axis.get_xlim() if which == "x" else axis.get_ylim())
    target = axis.xaxis if which == "x" else axis.yaxis
    if low <= 0:
        return
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), tuple(range(1, 10))):
        ticks = [s * 10.0**e for e in range(-9, 10) for s in steps if low <= s * 10.0**e <= high]
        if len(ticks) >= wanted:
            break
    target.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    target.set_minor_locator(LogLocator(subs="all"))
    target.set_minor_formatter(NullFormatter())


def ethanol_learning_curve(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Energy and force MAE of So3krates on ethanol against the number of training frames.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no So3krates run on ethanol, or a claim that is missing.
    """
    runs = _ethanol_runs(tables, "learning curve of ethanol")
    tidy = learning_curve_data(runs)
    if tidy.empty:
        raise InputError("learning curve of ethanol: no So3krates run on ethanol was given; add one to the study")
    marks = [
        ("energy", context.paper(CLAIM_BEFORE)[""], "x", "thesis, as predicted"),
        ("energy", context.paper(CLAIM_AFTER)[""], "+", "thesis, corrected"),
        ("energy", context.paper(CLAIM_PAPER_ENERGY)[""], "d", "So3krates paper (quoted in the thesis)"),
        ("force", context.paper(CLAIM_FORCE)[""], "x", ""),
        ("force", context.paper(CLAIM_PAPER_FORCE)[""], "d", ""),
    ]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.6))
        for axis, quantities in zip(axes, (("energy", "energy_corrected"), ("force",)), strict=True):
            for quantity in quantities:
                _draw_curves(axis, tidy[tidy["quantity"] == quantity], corrected=quantity == "energy_corrected")
            for quantity, value, marker, _ in marks:
                if quantity == quantities[0]:
                    axis.plot(PUBLISHED_FRAMES, value, zorder=6, **_mark_style(marker))
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.margins(0.1)
            axis.set_xlabel("training frames")
        slashes = ("", "/Å")
        for axis, name, slash in zip(axes, ("energy", "force"), slashes, strict=True):
            axis.set_ylabel(f"{name} MAE, test (kcal/mol{slash})")
            _log_ticks(axis, "x", 3)
            _log_ticks(axis, "y")
            _mev_axis(axis, f"meV{slash}")
        panel_letters(axes)
        figure.legend(
            handles=_curve_handles(tidy, context.scale, marks), loc="outside upper center", ncols=2, handlelength=2.8
        )
        parts = [f"{context.scale} scale", _seed_note(runs[runs["network"] == SO3KRATES]), "points: seeds"]
        parts.append("error bars: 95 % (Student t)")
        tests = _range(runs.loc[runs["network"] == SO3KRATES, "n_test"], "test frames")
        lines = [" · ".join(parts), f"{tests} · {_schedule_note(runs)}"]
        lines.append("One composition: the correction is one constant, here fitted on the training frames.")
        if context.scale != "full":
            lines.append("The mini scale does not claim to reproduce the published values.")
        footer(figure, "\n".join(lines))
    save_figure(figure, _marked(tidy, marks), output)


def _draw_curves(axis: Axes, frame: pd.DataFrame, corrected: bool) -> None:
    groups: Any = frame.groupby(["family", "split"], dropna=False, sort=False)
    for (family, split), part in groups:
        color, marker = FAMILIES[family][1], _split_marker(split)
        means = part[part["seed"] == "mean"].sort_values("n_train")
        value = EV_TO_KCAL_PER_MOL * means["value"].to_numpy()
        bars = _clipped(value, EV_TO_KCAL_PER_MOL * means["half_width_95"].to_numpy())
        axis.errorbar(
            means["n_train"], value, yerr=bars, color=color, linestyle="--" if corrected else "-", capsize=2.5,
            linewidth=1.3, elinewidth=0.9, zorder=3,
        )  # fmt: skip
        points = part[part["seed"] != "mean"]
        axis.plot(
            points["n_train"], EV_TO_KCAL_PER_MOL * points["value"], marker, markersize=4.5, color=color, alpha=0.85,
            markerfacecolor="white" if corrected else color, markeredgewidth=0.9, zorder=4,
        )  # fmt: skip


def _split_marker(split: Any) -> str:
    return SPLIT_MARKERS[0 if pd.isna(split) else (int(split) - 1) % len(SPLIT_MARKERS)]


def _mev_axis(axis: Axes, unit: str) -> None:
    """A second axis on the right, in meV."""
    factor = EV_TO_MEV / EV_TO_KCAL_PER_MOL
    functions = (partial(np.multiply, factor), partial(np.multiply, 1.0 / factor))
    right = axis.secondary_yaxis("right", functions=functions)
    right.set_ylabel(unit)
    right.spines["right"].set_visible(True)
    low, high = (limit * factor for limit in axis.get_ylim())
    decades = math.log10(high / low)
    steps = (1,) if decades > 3 else (1, 3) if decades > 2 else (1, 2, 5)
    ticks = [s * 10.0**e for e in range(-6, 9) for s in steps if low <= s * 10.0**e <= high]
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.yaxis.set_minor_formatter(NullFormatter())


def _curve_handles(tidy: pd.DataFrame, scale: str, marks: Sequence[tuple[str, float, str, str]]) -> list[Line2D]:
    handles = []
    for family, split in tidy[["family", "split"]].drop_duplicates().itertuples(index=False):
        number = "" if pd.isna(split) else f", split {split}"
        label = f"{family_title(family, scale)}{number}"
        color, marker = FAMILIES[family][1], _split_marker(split)
        handles.append(Line2D([], [], color=color, marker=marker, markersize=4.5, label=label))
    if (tidy["quantity"] == "energy_corrected").any():
        handles.append(
            Line2D(
                [], [], color=GREY, linestyle="--", marker="o", markersize=4.5, markerfacecolor="white",
                label="energy after the correction",
            )
        )  # fmt: skip
    for _, _, marker, label in marks:
        if label:
            handles.append(Line2D([], [], label=label, **_mark_style(marker)))
    return handles


def _mark_style(marker: str) -> dict[str, Any]:
    """Published values are marks without a face, so that they hide nothing."""
    return {
        "linestyle": "", "marker": marker, "markersize": 11 if marker == "d" else 9.5, "markeredgecolor": "black",
        "markerfacecolor": "none", "markeredgewidth": 1.1 if marker == "d" else 1.9,
    }  # fmt: skip


def _marked(tidy: pd.DataFrame, marks: Sequence[tuple[str, float, str, str]]) -> pd.DataFrame:
    """The drawn numbers with the published ones below, in the same units (eV, eV/Å)."""
    names = {"x": "thesis", "+": "thesis", "d": "So3krates paper"}
    rows = [
        {
            "family": "md17", "run": names[marker], "seed": "published", "n_train": PUBLISHED_FRAMES,
            "quantity": "energy_corrected" if marker == "+" else quantity, "value": value / EV_TO_KCAL_PER_MOL,
        }
        for quantity, value, marker, _ in marks
    ]  # fmt: skip
    published = pd.DataFrame(rows).reindex(columns=tidy.columns).astype({"split": "Int64"})
    return pd.concat([tidy, published], ignore_index=True)


# --- dynamics -------------------------------------------------------------------------------------------------------


def ensemble_of(job: str) -> str:
    """Ensemble of a job, nve or nvt, from its name."""
    return "nve" if job.startswith("nve") else "nvt"


def _md_jobs(tables: RunTables, kind: str, what: str, ensemble: str | None = None) -> list[tuple[str, str]]:
    """(job, run) pairs on ethanol, in the order of jobs and, within a job, of NETWORKS."""
    order = list(NETWORKS)
    pairs = []
    for job, run in tables.md_jobs(kind):
        key = run_key(run)
        if key is None or (ensemble is not None and ensemble_of(job) != ensemble):
            continue
        rank = order.index(key.network) if key.network in order else len(order)
        pairs.append(((job, rank, run), (job, run)))
    if not pairs:
        raise InputError(f"{what}: no simulation of ethanol was given ({kind}.csv); add a job to the study's md")
    return [pair for _, pair in sorted(pairs)]


def _run_titles(runs: Iterable[str]) -> dict[str, str]:
    """Short names of runs: the network, and what tells it from others of the same network."""
    names = list(dict.fromkeys(runs))
    keys = {run: run_key(run) for run in names}
    titles = {}
    for run, key in keys.items():
        if key is None:
            titles[run] = run
            continue
        title = look_of(key.network).title
        same = [other for other, found in keys.items() if found is not None and found.network == key.network]
        if len(same) > 1:
            title += f", {run.removeprefix(f'{key.data}-{key.network}-')} ({key.data})"
        titles[run] = title
    return titles


def distance_data(tables: RunTables) -> pd.DataFrame:
    """Distributions of interatomic distances of all simulations with a thermostat, beside the reference frames'.

    Returns:
        tidy table: job, run, temperature_k, r_low, r_high, density (1/Å), reference_density, difference; one line per
        bin.

    Raises:
        InputError: no simulation, or bins that differ between simulation and reference.
    """
    frames = []
    for job, run in _md_jobs(tables, "distances", "figure of distances", "nvt"):
        frame = tables.md("distances", job, run)
        simulated = frame[frame["source"] == "md"]
        reference = frame[frame["source"] == "reference"].drop_duplicates("r_low")
        for temperature in sorted(simulated["temperature"].unique()):
            part = simulated[simulated["temperature"] == temperature]
            both = part.merge(reference[["r_low", "r_high", "density"]], on="r_low", suffixes=("", "_reference"))
            if len(both) != len(part) or not np.allclose(both["r_high"], both["r_high_reference"]):
                raise InputError(
                    f"distances.csv of {job} {run}: the bins of the reference differ from those of the simulation; "
                    "run the analysis of the dynamics again"
                )
            frames.append(
                pd.DataFrame(
                    {
                        "job": job, "run": run, "temperature_k": float(temperature),
                        "r_low": both["r_low"], "r_high": both["r_high"], "density": both["density"],
                        "reference_density": both["density_reference"],
                        "difference": both["density"] - both["density_reference"],
                    }
                ).sort_values("r_low")
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def distance_error(part: pd.DataFrame) -> float:
    """Integral of the absolute difference of two distributions of distances, dimensionless, between 0 and 2.

    Source: Fu et al., "Forces are not enough", TMLR 2023, section 4.1 (MAE of h(r)).

    Args:
        part: bins of one simulation (see :func:`distance_data`).
    """
    return float((part["difference"].abs() * (part["r_high"] - part["r_low"])).sum())


def md_distances(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Distribution of interatomic distances in the simulations against the reference frames, and their difference.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no simulation of ethanol with a thermostat.
    """
    tidy = distance_data(tables)
    temperatures = sorted(tidy["temperature_k"].unique())
    titles = _run_titles(tidy["run"])
    families = list(dict.fromkeys(map(_family, tidy["run"])))
    reference_colors = dict(zip(families, ("#CFCFCF", "#A9C7DC", "#BBD9BB"), strict=False))
    with style():
        figure, grid = plt.subplots(
            2, len(temperatures), figsize=(FULL_WIDTH, 4.9), sharex=True, sharey="row", squeeze=False,
            height_ratios=(1.7, 1),
        )  # fmt: skip
        for column, temperature in enumerate(temperatures):
            above, below = grid[0][column], grid[1][column]
            part = tidy[tidy["temperature_k"] == temperature]
            for family, color in reference_colors.items():
                first = part[part["run"].map(_family) == family]
                first = first[first["run"] == first["run"].iloc[0]] if len(first) else first
                above.fill_between(
                    0.5 * (first["r_low"] + first["r_high"]), first["reference_density"], step="mid", color=color,
                    linewidth=0, alpha=0.9, zorder=1,
                )  # fmt: skip
            # So3krates last, above the others.
            names = list(dict.fromkeys(part["run"]))
            for run in sorted(names, key=lambda run: _network(run) == SO3KRATES):
                one = part[part["run"] == run]
                look, bold = look_of(_network(run), [_network(name) for name in names]), _network(run) == SO3KRATES
                lines = {
                    "color": look.color, "linewidth": 1.4 if bold else 1.0, "linestyle": "-" if bold else "--",
                    "zorder": 3 if bold else 2, "where": "mid",
                }  # fmt: skip
                middle = 0.5 * (one["r_low"] + one["r_high"])
                above.step(middle, one["density"], **lines)
                below.step(middle, one["difference"], **lines)
            below.axhline(0, color="black", linewidth=0.7, zorder=1)
            above.set_title(f"simulation at {temperature:g} K", fontsize=9.5)
            best = part[part["run"].map(_network) == SO3KRATES]
            if not best.empty:
                error = distance_error(best[best["run"] == best["run"].iloc[0]])
                above.text(
                    0.98, 0.96, f"So3krates: ∫|Δh| dr = {error:.2g}", transform=above.transAxes, ha="right", va="top"
                )
            below.set_xlabel("distance r of two atoms (Å)")
        grid[0][0].set_ylabel("h(r) (1/Å)")
        grid[1][0].set_ylabel("simulation −\nreference (1/Å)")
        highest = tidy[["density", "reference_density"]].to_numpy().max()
        filled = tidy[tidy[["density", "reference_density"]].max(axis=1) > 0.01 * highest]
        grid[0][0].set_xlim(filled["r_low"].min() - 0.2, filled["r_high"].max() + 0.2)
        grid[0][0].set_ylim(0, 1.2 * highest)
        for row in grid:
            row[0].yaxis.set_label_coords(-0.16 if len(temperatures) > 1 else -0.08, 0.5)
        panel_letters(grid.ravel())
        shown = [run for run in titles if run in set(tidy["run"])]
        handles: list[Any] = [
            Rectangle((0, 0), 1, 1, color=color, label=f"reference: {reference_title(family, context.scale)}")
            for family, color in reference_colors.items()
        ]
        for run in shown:
            bold = _network(run) == SO3KRATES
            handles.append(
                Line2D(
                    [], [], color=look_of(_network(run), [_network(name) for name in shown]).color,
                    linewidth=1.4 if bold else 1.0, linestyle="-" if bold else "--", label=titles[run],
                )
            )  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=2 if len(handles) < 5 else 3)
        footer(figure, "\n".join(_distance_notes(tables, context, tidy, temperatures)))
    errors = tidy.groupby(["job", "run", "temperature_k"], sort=False)[["r_low", "r_high", "difference"]].apply(
        distance_error
    )
    tidy = tidy.merge(errors.rename("integrated_difference").reset_index(), on=["job", "run", "temperature_k"])
    save_figure(figure, tidy, output)


def _network(run: str) -> str:
    key = run_key(run)
    return run if key is None else key.network


def _family(run: str) -> str:
    key = run_key(run)
    return "" if key is None else key.family


def reference_title(family: str, scale: str) -> str:
    """What the reference frames of a family of labels are."""
    if family == "ethanol" and scale != "full":
        return f"this project's frames, {REFERENCE_TEMPERATURE_K:g} K"
    return f"frames of MD17, {REFERENCE_TEMPERATURE_K:g} K"


def _distance_notes(
    tables: RunTables, context: StudyContext, tidy: pd.DataFrame, temperatures: Sequence[float]
) -> list[str]:
    pairs = list(dict.fromkeys(zip(tidy["job"], tidy["run"], strict=True)))
    replicas = _range([_replica_count(tables, job, run) for job, run in pairs], "replicas")
    lines = [f"{context.scale} scale · {replicas} of one network (first seed) each · all pairs of atoms, ∫h(r) dr = 1"]
    families = {_family(run) for _, run in pairs}
    if {reference_title(family, context.scale) for family in families} != {reference_title("ethanol", "mini")}:
        other = [f"{value:g}" for value in temperatures if abs(value - REFERENCE_TEMPERATURE_K) > 1]
        note = f"MD17's trajectory is at {REFERENCE_TEMPERATURE_K:g} K"
        if other:
            note += f": at {' and '.join(other)} K a right simulation differs from it, by narrower peaks"
        lines.append(f"{note}.")
    if "ethanol" in families and context.scale != "full":
        lines.append(
            f"Reference frames: few, of a short GFN2-xTB trajectory at {REFERENCE_TEMPERATURE_K:g} K; differences show "
            "that too."
        )
    runs = _maybe_runs(tables, [run for _, run in pairs])
    if runs:
        lines.append(_schedule_note(pd.concat(runs, ignore_index=True)))
    return [line for line in lines if line]


def _maybe_runs(tables: RunTables, names: Iterable[str]) -> list[pd.DataFrame]:
    """Tables of those runs that were given."""
    there = set(tables.names("runs"))
    return [tables.get("runs", name).assign(network=_network(name)) for name in dict.fromkeys(names) if name in there]


def _replica_count(tables: RunTables, job: str, run: str) -> float:
    return float(len(tables.md("replicas", job, run))) if (job, run) in tables.md_jobs("replicas") else math.nan


# --- stability ------------------------------------------------------------------------------------------------------

REPLICA_COLUMNS = ("replica", "temperature_k", "alive", "survived_ps", "reason", "mean_temperature_k")
DRIFT = "drift_mev_per_atom_ps"
FLUCTUATION = "fluctuation_mev_per_atom"
REASONS: Mapping[str, str] = {
    "not_finite": "not finite",
    "collision": "atoms collide",
    "broken_bond": "a bond breaks",
    "temperature": "temperature explodes",
}


def replica_data(tables: RunTables, what: str, ensemble: str | None = None) -> pd.DataFrame:
    """All replicas of the simulations of ethanol, one line each.

    Args:
        tables: the study's results.
        what: for messages.
        ensemble: nvt or nve; None for both.

    Returns:
        the columns of replicas.csv, with job, run, ensemble, dead (whether the replica broke) and time_ps (how long the
        simulation was to be).

    Raises:
        InputError: no simulation, or a column that is missing.
    """
    pairs = _md_jobs(tables, "replicas", what, ensemble)
    return pd.concat([_replicas_of(tables, job, run) for job, run in pairs], ignore_index=True)


def _replicas_of(tables: RunTables, job: str, run: str) -> pd.DataFrame:
    """Replicas of one simulation; see :func:`replica_data`."""
    frame = tables.md("replicas", job, run)
    missing = [column for column in REPLICA_COLUMNS if column not in frame]
    if missing:
        raise InputError(f"replicas.csv of {job} {run}: column '{missing[0]}' is missing; run the dynamics again")
    length = float(frame["survived_ps"].max())
    if (job, run) in tables.md_jobs("summary"):
        # Where all replicas broke, only the summary knows how long they were to be.
        length = max(length, float(tables.md_summary(job, run)["time_ps"]))
    return frame.assign(
        job=job,
        run=run,
        ensemble=ensemble_of(job),
        reason=frame["reason"].fillna("").astype(str),
        dead=~frame["alive"].astype(bool),
        time_ps=length,
    )


def survival(survived_ps: Iterable[float], dead: Iterable[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Share of replicas alive against time (Kaplan and Meier; replicas that ended alive are censored).

    Args:
        survived_ps: time that each replica lived or was simulated, in ps.
        dead: whether it broke at that time.

    Returns:
        times of a step function in ps, starting with 0, and the share alive from each of them on, both of shape (n,).
    """
    from scipy import stats  # here, because it takes half a second

    time, broken = np.asarray(list(survived_ps), dtype=float), np.asarray(list(dead), dtype=bool)
    end = float(time.max())
    if not broken.any():
        return np.array([0.0, end]), np.array([1.0, 1.0])
    data = stats.CensoredData(uncensored=time[broken], right=time[~broken])
    curve = stats.ecdf(data).sf
    times = np.concatenate([[0.0], curve.quantiles, [end]])
    share = np.concatenate([[1.0], curve.probabilities, curve.probabilities[-1:]])
    return times, share


def _simulations(replicas: pd.DataFrame) -> list[tuple[str, str, float, pd.DataFrame]]:
    """Job, run, nominal temperature (K) and replicas of each simulation."""
    groups: Any = replicas.groupby(["job", "run", "temperature_k"], sort=False)
    return [(job, run, float(temperature), group) for (job, run, temperature), group in groups]


def stability_rows(tables: RunTables) -> pd.DataFrame:
    """One row per simulation (job, run, nominal temperature).

    Returns:
        replicas, time_ps, alive_percent, survived_ps with 95 % half width over replicas, reasons, measured temperature
        in K with half width, deviation_percent, flagged, drift in meV/atom/ps and fluctuation in meV/atom (NVE only),
        distance_error with half
        width (of single replicas, see :func:`distance_error`).
    """
    replicas = replica_data(tables, "table of stability")
    titles = _run_titles(replicas["run"])
    rows = []
    for job, run, temperature, group in _simulations(replicas):
        lived, lived_pm, n = _mean_and_width(group["survived_ps"])
        kelvin, kelvin_pm, _ = _mean_and_width(group["mean_temperature_k"])
        is_nve = ensemble_of(job) == "nve"
        deviation = math.nan if is_nve else 100.0 * (kelvin / float(temperature) - 1.0)
        drift, drift_pm, _ = _mean_and_width(group[DRIFT] if is_nve and DRIFT in group else [])
        fluctuation, _, _ = _mean_and_width(group[FLUCTUATION] if is_nve and FLUCTUATION in group else [])
        reasons = group.loc[group["dead"], "reason"].value_counts()
        apart, apart_pm, _ = _mean_and_width(group.get("distance_mae", []))
        rows.append(
            {
                "job": job,
                "network": titles[run],
                "run": run,
                "temperature_k": float(temperature),
                "replicas": n,
                "time_ps": float(group["time_ps"].max()),
                "alive_percent": 100.0 * float((~group["dead"]).mean()),
                "survived_ps": lived,
                "survived_ps_pm": lived_pm,
                "reasons": "; ".join(f"{REASONS.get(reason, reason)} ({count})" for reason, count in reasons.items()),
                "measured_k": kelvin,
                "measured_k_pm": kelvin_pm,
                "deviation_percent": deviation,
                "flagged": ""
                if math.isnan(deviation)
                else "yes"
                if abs(deviation) > 100.0 * TEMPERATURE_TOLERANCE
                else "no",
                "drift_mev_per_atom_per_ps": drift,
                "drift_pm": drift_pm,
                "fluctuation_mev_per_atom": fluctuation,
                "distance_error": apart,
                "distance_error_pm": apart_pm,
            }
        )
    return pd.DataFrame(rows)


def md_stability_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Table of the simulations: survival, temperature, drift of the energy, distances.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: no simulation of ethanol.
    """
    frame = stability_rows(tables)
    headings = {
        "job": "Simulation", "network": "Network", "temperature_k": "Nominal temperature (K)", "replicas": "Replicas",
        "time_ps": "Length (ps)", "alive_percent": "Alive at the end (%)", "survived_ps": "Mean time survived (ps)",
        "survived_ps_pm": "±", "reasons": "Ended by", "measured_k": "Measured temperature (K)", "measured_k_pm": "±",
        "deviation_percent": "Deviation (%)", "flagged": "Beyond 10 %",
        "drift_mev_per_atom_per_ps": "Energy drift, NVE (meV/atom/ps)", "drift_pm": "±",
        "fluctuation_mev_per_atom": "Energy fluctuation, NVE (meV/atom)", "distance_error": "∫|Δh(r)| dr",
        "distance_error_pm": "±",
    }  # fmt: skip
    families = dict.fromkeys(map(_family, frame["run"]))
    reference = " and ".join(dict.fromkeys(reference_title(family, context.scale) for family in families))
    caption = (
        "Simulations of ethanol by the network of the first seed; mean over replicas and 95 % half width (±, Student "
        "t, from three replicas on). A replica ends when a bond differs by more than 0.5 Å from its start length "
        "(criterion of Fu et al., 2023), atoms collide, the temperature explodes or a number is not finite; mean time "
        "survived counts the length of the simulation for replicas that live on, a lower bound where any does, and 0 "
        "for those that end while they are thermalised. "
        "Measured temperatures are means after thermalisation; a simulation at constant energy has no nominal "
        f"temperature to keep. ∫|Δh(r)| dr compares the distances with a reference: {reference}. Scale: "
        f"{context.scale}."
    )
    if context.scale != "full":
        caption += " The mini scale shows the method working; it does not claim to reproduce a paper."

    def mark(column: str, value: Any) -> str | None:
        return ("bad" if value == "yes" else "good") if column == "flagged" else None

    title = f"Stability of the simulations ({context.scale} scale)"
    write_html_table(frame, output, title, caption, headings=headings, hidden=["run"], cell_class=mark)


def md_stability(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Share of replicas alive against time, measured against nominal temperature, and energy drift without thermostat.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no simulation of ethanol.
    """
    replicas = replica_data(tables, "figure of stability")
    titles = _run_titles(replicas["run"])
    networks = [_network(run) for run in titles]
    heated, closed = (replicas[replicas["ensemble"] == name] for name in ("nvt", "nve"))
    groups = _simulations(heated)
    tidy: list[dict[str, Any]] = []
    with style():
        n_rows = max(len(groups), 3)
        figure = plt.figure(figsize=(FULL_WIDTH, 3.9 + 0.27 * n_rows))
        grid = figure.add_gridspec(2, 2, height_ratios=[2.4, 0.8 + 0.27 * n_rows], width_ratios=[1.25, 1])
        alive, warm, drift = (figure.add_subplot(cell) for cell in (grid[0, :], grid[1, 0], grid[1, 1]))
        hottest = max((temperature for _, _, temperature, _ in groups), default=0.0)
        for number, (job, run, temperature, group) in enumerate(groups):
            look = look_of(_network(run), networks)
            time, share = survival(group["survived_ps"], group["dead"])
            # Curves that stay at 100 % lie upon each other: those below are wider.
            width = 1.0 + 2.4 * (1 - number / max(len(groups) - 1, 1))
            alive.step(
                time, 100.0 * share, where="post", color=look.color,
                linestyle="-" if temperature == hottest else (0, (4, 2)), linewidth=width,
                label=f"{titles[run]}, {temperature:g} K",
            )  # fmt: skip
            tidy += [
                {"panel": "alive", "job": job, "run": run, "temperature_k": temperature, "time_ps": t, "value": 100 * s}
                for t, s in zip(time, share, strict=True)
            ]
            y = len(groups) - 1 - number
            deviation = 100.0 * (group["mean_temperature_k"].to_numpy(dtype=float) / float(temperature) - 1.0)
            tidy += _drawn("temperature", job, run, temperature, deviation)
            _strip(warm, deviation, y, look)
        alive.set_xlabel("time (ps)")
        alive.set_ylabel("replicas alive (%)")
        alive.set_ylim(-6, 106)
        if groups:
            alive.set_xlim(left=0)
            alive.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), handlelength=3.2)
            warm.set_yticks(range(len(groups)), [f"{titles[run]}, {t:g} K" for _, run, t, _ in groups][::-1])
            warm.set_ylim(-0.6, len(groups) - 0.4)
        else:
            alive.text(0.5, 0.5, "no simulation with a thermostat", transform=alive.transAxes, ha="center", color=GREY)
        tolerance = 100.0 * TEMPERATURE_TOLERANCE
        warm.axvspan(-tolerance, tolerance, color="#E8E8E8", zorder=0.4)
        warm.axvline(0, color="black", linewidth=0.8, zorder=1)
        warm.set_xlabel("measured − nominal\ntemperature (%)")
        warm.margins(x=0.15)
        _symmetric(warm, 1.3 * tolerance)
        tidy += _draw_drift(drift, closed, titles, networks)
        for axis in (warm, drift):
            axis.grid(axis="y", visible=False)
        panel_letters((alive, warm, drift))
        footer(figure, "\n".join(_stability_notes(tables, context, replicas)))
    save_figure(figure, pd.DataFrame(tidy), output)


def _strip(axis: Axes, values: np.ndarray, y: float, look: Look) -> None:
    """Single values as small points, their mean with 95 % half width above them."""
    values = values[np.isfinite(values)]
    if not values.size:
        return
    axis.plot(values, np.full(values.size, y - 0.22), "o", markersize=3, color=look.color, alpha=0.55, zorder=2)
    mean, width, _ = _mean_and_width(values)
    axis.errorbar(
        mean, y + 0.08, xerr=None if math.isnan(width) else width, marker=look.marker, markersize=7, color=look.color,
        capsize=2.5, linewidth=1.1, zorder=3,
    )  # fmt: skip


def _drawn(panel: str, job: str, run: str, temperature: float, values: Iterable[float]) -> list[dict[str, Any]]:
    return [
        {"panel": panel, "job": job, "run": run, "temperature_k": temperature, "replica": number, "value": float(value)}
        for number, value in enumerate(values)
    ]


def _symmetric(axis: Axes, least: float) -> None:
    """Limits of x that are symmetric about zero and at least ±``least``."""
    reach = max(least, *(abs(limit) for limit in axis.get_xlim()))
    axis.set_xlim(-reach, reach)


def _draw_drift(
    axis: Axes, closed: pd.DataFrame, titles: Mapping[str, str], networks: Sequence[str]
) -> list[dict[str, Any]]:
    axis.set_xlabel("energy drift without\nthermostat (meV/atom/ps)")
    if closed.empty or DRIFT not in closed:
        axis.text(0.5, 0.5, "no simulation at constant energy", transform=axis.transAxes, ha="center", color=GREY)
        axis.set_yticks([])
        return []
    tidy = []
    groups = _simulations(closed)
    for number, (job, run, temperature, group) in enumerate(groups):
        values = group[DRIFT].to_numpy(dtype=float)
        _strip(axis, values, len(groups) - 1 - number, look_of(_network(run), networks))
        tidy += _drawn("drift", job, run, temperature, values)
    axis.axvline(0, color="black", linewidth=0.8, zorder=1)
    labels = [f"{titles[run]},\nstart {t:g} K" for _, run, t, _ in groups][::-1]
    axis.set_yticks(range(len(groups)), labels)
    axis.set_ylim(-0.6 - 0.4 * (len(groups) == 1), len(groups) - 0.4 + 0.4 * (len(groups) == 1))
    axis.margins(x=0.15)
    values = closed[DRIFT].to_numpy(dtype=float)
    values = np.abs(values[np.isfinite(values) & (values != 0)])
    if values.size and values.max() > 50 * np.median(values):
        axis.set_xscale("symlog", linthresh=float(np.median(values)))
    else:
        _symmetric(axis, 0.0)
        axis.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    return tidy


def _stability_notes(tables: RunTables, context: StudyContext, replicas: pd.DataFrame) -> list[str]:
    counts = replicas.groupby(["job", "run", "temperature_k"])["replica"].nunique()
    length = sorted(set(replicas["time_ps"].round(3)))
    span = f"{length[0]:g} ps" if len(length) == 1 else f"{length[0]:g} to {length[-1]:g} ps"
    lines = [
        f"{context.scale} scale · n = {_range(counts, 'replicas')} of one network (first seed) each, {span} · small "
        "points: replicas; error bars: 95 % (Student t)",
        "A replica ends when a bond is 0.5 Å off its length at the start (Fu et al., 2023). (a) where "
        "curves coincide, those below are wider; (b) grey: ±10 %.",
    ]
    runs = _maybe_runs(tables, replicas["run"])
    if runs:
        lines.append(_schedule_note(pd.concat(runs, ignore_index=True)))
    return [line for line in lines if line]


# --- figure 2: stability and accuracy against speed -----------------------------------------------------------------


def tradeoff_data(tables: RunTables) -> pd.DataFrame:
    """Speed, force error and stability of every network on ethanol, one line per run and batch.

    Returns:
        run, network, batch, steps_per_second (median over rounds) with its slowest and fastest round,
        system_steps_per_second, precision, device, force_mae_ev_per_angstrom with half width over n_seeds seeds, steps,
        and, for the hottest simulation with a thermostat, job, temperature_k, time_ps, n_replicas, alive_percent and
        survived_ps with half width over replicas (NaN where it was not simulated).

    Raises:
        InputError: no measured speed of a network on ethanol.
    """
    speed = tables.speed()
    speed = speed[[run_key(str(label)) is not None for label in speed["label"]]]
    there = set(tables.names("runs"))
    hot: dict[str, pd.DataFrame] = {}
    for job, run in tables.md_jobs("replicas"):
        if run_key(run) is None or ensemble_of(job) != "nvt":
            continue
        frame = _replicas_of(tables, job, run)
        frame = frame[frame["temperature_k"] == frame["temperature_k"].max()]
        if run not in hot or frame["temperature_k"].iloc[0] > hot[run]["temperature_k"].iloc[0]:
            hot[run] = frame
    rows = []
    for _, line in speed.iterrows():
        run = str(line["label"])
        if run not in there:
            continue
        results = tables.get("runs", run)
        force, force_pm, n_seeds = _mean_and_width(results["force_mae_ev_per_angstrom"])
        row: dict[str, Any] = {
            "run": run, "network": _network(run), "batch": int(line["batch"]),
            "steps_per_second": float(line["steps_per_second"]),
            "system_steps_per_second": float(line.get("system_steps_per_second", math.nan)),
            "steps_per_second_low": 1000.0 / float(line.get("ms_per_step_high", math.nan)),
            "steps_per_second_high": 1000.0 / float(line.get("ms_per_step_low", math.nan)),
            "precision": str(line.get("precision", "")),
            "device": _machine(line),
            "force_mae_ev_per_angstrom": force, "force_mae_pm": force_pm, "n_seeds": n_seeds,
            "n_train": int(results["n_train"].iloc[0]), "steps": float(results["steps"].median()),
        }  # fmt: skip
        if run in hot:
            group = hot[run]
            lived, lived_pm, n = _mean_and_width(group["survived_ps"])
            row |= {
                "job": str(group["job"].iloc[0]), "temperature_k": float(group["temperature_k"].iloc[0]),
                "time_ps": float(group["time_ps"].max()), "n_replicas": n,
                "alive_percent": 100.0 * float((~group["dead"]).mean()), "survived_ps": lived, "survived_pm": lived_pm,
            }  # fmt: skip
        rows.append(row)
    if not rows:
        raise InputError(
            "trade-off figure: no measured speed of a trained network on ethanol; add speed.csv to its inputs"
        )
    columns = (
        "run", "network", "batch", "steps_per_second", "steps_per_second_low", "steps_per_second_high",
        "system_steps_per_second", "precision", "device",
        "force_mae_ev_per_angstrom", "force_mae_pm", "n_seeds", "n_train", "steps", "job", "temperature_k", "time_ps",
        "n_replicas", "alive_percent", "survived_ps", "survived_pm",
    )  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=list(columns))


def _machine(line: pd.Series) -> str:
    """The machine of a measured speed, with its threads on a processor."""
    name = str(line.get("hardware", line.get("device", "")))
    threads = line.get("threads", math.nan)
    if str(line.get("device", "")) != "cpu" or pd.isna(threads):
        return name
    return f"{name}, {int(threads)} thread{'s' if int(threads) > 1 else ''}"


def fig2_tradeoff(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """The thesis's figure 2 a, b, measured here: stability and force error against the speed of a simulation.

    Args:
        tables: the study's results.
        context: scale and claims.
        output: path of the PNG file.

    Raises:
        InputError: no measured speed of a network on ethanol, or a claim that is missing.
    """
    tidy = tradeoff_data(tables)
    # One point per network: the smallest batch, and the first precision measured.
    single = tidy[tidy["batch"] == tidy["batch"].min()].drop_duplicates("run")
    stable = single.dropna(subset=["survived_ps"])
    published = [
        (f"{who}: {context.paper(claim)['']:g} kcal/mol/Å", line, context.paper(claim)[""] / EV_TO_KCAL_PER_MOL)
        for who, claim, line in (
            ("thesis", CLAIM_FORCE, (0, (5, 3))),
            ("So3krates paper", CLAIM_PAPER_FORCE, (0, (1, 1.5))),
        )
    ]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 4.8))
        panels = (
            (axes[0], stable, stable["survived_ps"].clip(lower=FLOOR_PS), stable["survived_pm"]),
            (
                axes[1], single, EV_TO_MEV * single["force_mae_ev_per_angstrom"], EV_TO_MEV * single["force_mae_pm"],
            ),
        )  # fmt: skip
        for axis, part, value, width in panels:
            _tradeoff_points(axis, part, value.to_numpy(dtype=float), width.to_numpy(dtype=float))
            axis.set_xlabel(f"MD steps per second, {_batch_text(single)}")
        handles: list[Line2D] = []
        if not stable.empty:
            end = float(stable["time_ps"].max())
            axes[0].axhline(end, color=GREY, linestyle="-.", linewidth=1.0, zorder=0.7)
            handles.append(Line2D([], [], color=GREY, linestyle="-.", linewidth=1.0, label="end of simulation"))
            for _, row in stable[stable["alive_percent"] > 0].iterrows():
                axes[0].annotate(
                    "", (row["steps_per_second"], max(row["survived_ps"], FLOOR_PS)), (0, ARROW_POINTS),
                    textcoords="offset points", arrowprops={"arrowstyle": "<-", "linewidth": 1.0}, zorder=2,
                )  # fmt: skip
        for label, line, value in published:
            paper_line(axes[1], EV_TO_MEV * value, "y").set_linestyle(line)
            handles.append(Line2D([], [], color=GREY, linestyle=line, linewidth=1.3, label=label))
        axes[0].set_ylabel(f"mean time survived{_temperature_text(stable)} (ps)")
        axes[1].set_ylabel("force MAE, test (meV/Å)")
        levels = (
            [float(stable["time_ps"].max())] if len(stable) else [],
            [EV_TO_MEV * value for _, _, value in published],
        )
        for (axis, part, value, width), lines, room in zip(panels, levels, (3.0, 1.3), strict=True):
            _tradeoff_limits(axis, part["steps_per_second"], value, width, lines, room)
        if stable.empty:
            axes[0].text(0.5, 0.5, "no simulation", transform=axes[0].transAxes, ha="center", color=GREY)
        panel_letters(axes)
        legend = figure.legend(
            handles=[*_network_handles(single), *handles], loc="outside upper center", ncols=3, columnspacing=1.4
        )
        for text in legend.get_texts():
            if text.get_text().split(",")[0] == NETWORKS[SO3KRATES].title:
                text.set_fontweight("bold")
        footer(figure, "\n".join(_tradeoff_notes(context, single, stable)))
    save_figure(figure, tidy, output)


def _network_handles(single: pd.DataFrame) -> list[Line2D]:
    titles, networks = _run_titles(single["run"]), list(single["network"])
    handles = []
    for run, network in zip(single["run"], networks, strict=True):
        look = look_of(network, networks)
        size = 13 if network == SO3KRATES else 7.5
        handles.append(
            Line2D(
                [], [], linestyle="", marker=look.marker, markersize=size, color=look.color, markeredgecolor="black",
                markeredgewidth=0.7, label=titles[run],
            )
        )  # fmt: skip
    return handles


def _tradeoff_points(axis: Axes, part: pd.DataFrame, value: np.ndarray, width: np.ndarray) -> None:
    networks = list(part["network"])
    bars = _clipped(value, width)
    for number, (_, row) in enumerate(part.iterrows()):
        look = look_of(row["network"], networks)
        bold = row["network"] == SO3KRATES
        speed = row["steps_per_second"]
        across = np.nan_to_num(
            [[speed - row["steps_per_second_low"]], [row["steps_per_second_high"] - speed]], nan=0.0
        ).clip(min=0.0)
        axis.errorbar(
            speed, value[number], xerr=across, yerr=bars[:, number : number + 1], marker=look.marker,
            color=look.color, markersize=15 if bold else 7.5, markeredgecolor="black", markeredgewidth=0.7,
            ecolor="black", elinewidth=0.9, capsize=2.5, zorder=4 if bold else 3,
        )  # fmt: skip


def _tradeoff_limits(
    axis: Axes, speed: pd.Series, value: pd.Series, width: pd.Series, levels: Sequence[float], room: float
) -> None:
    """Logarithmic axes with room around the points and the lines at ``levels``, above ``room`` times the points."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    if len(speed):
        axis.set_xlim(float(speed.min()) / 1.6, float(speed.max()) * 1.6)
        points = value.to_numpy(dtype=float)
        bars = np.nan_to_num(_clipped(points, width.to_numpy(dtype=float)))
        low, high = float((points - bars[0]).min()), float((points + bars[1]).max())
        axis.set_ylim(min([low, *levels]) / 1.8, max([room * points.max(), 1.1 * high, *(1.1 * y for y in levels)]))
    _log_ticks(axis, "x", 3)
    _log_ticks(axis, "y", 3)


def _batch_text(single: pd.DataFrame) -> str:
    batch = int(single["batch"].iloc[0])
    return "one molecule" if batch == 1 else f"{batch} molecules together"


def _temperature_text(stable: pd.DataFrame) -> str:
    kelvin = sorted(set(stable["temperature_k"]))
    return f" at {kelvin[0]:g} K" if len(kelvin) == 1 else ""


def _tradeoff_notes(context: StudyContext, single: pd.DataFrame, stable: pd.DataFrame) -> list[str]:
    machine = "; ".join(dict.fromkeys(f"{row.device}, {row.precision}" for row in single.itertuples()))
    data = single["run"].map(lambda run: run.split("-")[0])
    same = ", the same for all" if single["n_train"].nunique() == data.nunique() == 1 else ""
    lines = [
        f"{context.scale} scale · n = {_range(single['n_seeds'], 'seeds')}, "
        f"{_range(single['n_train'], 'training frames')}{same} · error bars: 95 % (Student t)",
        f"Speeds: in turn in one process ({machine}); bars: slowest and fastest round.",
    ]
    if not stable.empty:
        lines.append(
            f"(a) {_range(stable['n_replicas'], 'replicas')} of the first seed's network, at most "
            f"{stable['time_ps'].max():g} ps; arrow: some live on, a lower bound."
        )
        if (stable["survived_ps"] < FLOOR_PS).any():
            lines[-1] += f" What broke while it was brought to temperature stands at {FLOOR_PS:g} ps."
    short = single[single["network"] == SO3KRATES]
    if len(short):
        lines.append(f"{_schedule_note(short)}.")
    others = single.loc[single["network"] != SO3KRATES, "steps"]
    if len(others):
        lines[-1] += f" Others: {_range(others, 'steps')}."
    lines.append("The thesis takes its figure 2 from Frank et al. (2024) and states no numbers of it.")
    if context.scale != "full":
        lines.append("Small networks on few frames of this project: not the order of the papers' networks.")
    return lines
