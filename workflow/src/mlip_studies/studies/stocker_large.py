"""Molecules larger than the training data: correlations with DFT at 1200 K, errors along hot dynamics.

Conventions are those of :mod:`~mlip_studies.studies.stocker_robustness`: eV, eV/Å, ps, K; errors on frames whose
reference calculation converged plainly.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, footer, panel_letters, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import MINUS, number, plain_log, tick
from mlip_studies.studies.pavlovic_ethanol import Look
from mlip_studies.studies.stocker import Floor, floor_of
from mlip_studies.studies.stocker_robustness import (
    PAPER,
    error_scale,
    floor_note,
    kinds_text,
    largest_runs,
    letter_tag,
    lifetimes,
    look_of,
    need_tables,
    network_of,
    rows_text,
    scale_note,
    size_of,
    span_text,
    stated_range,
    thin,
    with_reference,
)

LARGE, HOT = "large1200", "large1800"
PAPER_TAG = "P"
#: the paper's letters of the large molecules, and by which part of its name one is known
LETTERS: Mapping[str, str] = {"A": "paracetamol", "B": "furo", "C": "histidin", "D": "ser-trp-leu"}

# Claims whose numbers stand in the figures.
CLAIM_SHIFT, CLAIM_SPREAD, CLAIM_R2 = "tripeptide-shift", "tripeptide-std", "tripeptide-r2"
CLAIM_FORCE_RANGE = "force-mae-large"


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
    return largest_runs(runs)


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
            label = f"{letter_tag(run, networks)}: {look.title}, {rows_text(size_of(run)) or 'all rows'}"
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
        axis.text(left, index + 1.5, f"{letter_tag(run, networks)} {text}", color=color, **place).set_in_layout(False)
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
    context: StudyContext, rows: pd.DataFrame, tables: RunTables, job: str, floor: Floor | None
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
            f"{letter} {letter_tag(run, list(rows['network']))}: {some} of {n}"
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
        error_scale(grid[0][0], pd.concat([with_reference(frame)["ae_error_ev"] for frame in judged.values()]))
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
