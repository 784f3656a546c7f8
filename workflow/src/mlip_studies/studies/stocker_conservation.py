"""Conservation of energy: drift of the total energy without a thermostat, and linear and planar molecules.

Conventions are those of :mod:`~mlip_studies.studies.stocker_robustness`: energies in eV (drifts and fluctuations in
meV/atom), times in ps, temperatures in K.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, footer, panel_letters, style
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import count, number, plain_log
from mlip_studies.studies.pavlovic_ethanol import Look
from mlip_studies.studies.stocker_robustness import (
    LINES,
    error_scale,
    largest_runs,
    letter_tag,
    look_of,
    network_of,
    run_title,
    scale_note,
    simulated,
    span_text,
    thin,
)
from mlip_studies.units import EV_TO_MEV

NVE, SINGULAR = "nve", "singular"
#: standard error of the drift of the total energy, where the analysis of robustness gives it
DRIFT_ERROR = "energy_drift_error_mev_per_atom_ps"


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
    runs = largest_runs(simulated(tables, SINGULAR, what, "samples", data=None))
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
        error_scale(grid[0][0], deviations)
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
            0, index + 1.5, f"{letter_tag(run, networks)} {text}", transform=axis.get_yaxis_transform(), va="center",
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
