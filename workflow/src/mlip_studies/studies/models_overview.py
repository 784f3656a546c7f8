"""Figures and tables of the networks: parameters, equivariance of each layer, singular points of GemNet-Q."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from mlip_studies.artifacts import PathLike, require
from mlip_studies.claims.inputs import read_json, read_table
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, OKABE_ITO, footer, panel_letters, paper_line, style

#: what D. R. Hedelius states for every layer of his network in single precision (section 3.1)
THESIS_LIMIT = 1e-6
COLORS = {"float32": OKABE_ITO["vermillion"], "float64": OKABE_ITO["blue"]}
MARKERS = {"float32": "o", "float64": "s"}


def _measured(paths: Iterable[PathLike]) -> list[dict[str, Any]]:
    found = [read_json(Path(path)) for path in paths]
    if not found:
        raise InputError("config/models.yaml: no network is listed; add one")
    return found


def _layers(paths: Iterable[PathLike]) -> pd.DataFrame:
    rows = [
        {"network": network["name"], "title": network["title"], **layer}
        for network in _measured(paths)
        for layer in network["layers"]
    ]
    return pd.DataFrame(rows)


def equivariance_figure(paths: Iterable[PathLike], output: PathLike) -> None:
    """Largest equivariance error of every layer of every network, in both precisions.

    Args:
        paths: files of :func:`mlip_studies.models.measure.measure_model`.
        output: path of the PNG file.
    """
    paths = list(paths)
    frame = _layers(paths)
    networks = list(dict.fromkeys(frame["title"]))
    n_rotations = _measured(paths)[0]["n_rotations"]
    with style():
        figure, axis = plt.subplots(figsize=(FULL_WIDTH, 1.2 + 0.33 * len(networks)))
        for precision, offset in (("float32", 0.16), ("float64", -0.16)):
            for turns in (True, False):
                part = frame[(frame["precision"] == precision) & ((frame["irreps"] != "scalar") == turns)]
                # An error of exactly zero (a layer that only looks up elements) has no place on a logarithmic axis.
                part = part[part["maximum"] > 0]
                height = [len(networks) - 1 - networks.index(title) + offset for title in part["title"]]
                axis.plot(
                    part["maximum"], height, MARKERS[precision], markersize=4.5, alpha=0.8, linestyle="none",
                    markeredgecolor=COLORS[precision], markerfacecolor=COLORS[precision] if turns else "none",
                    label=f"{precision}, {'turns with the molecule' if turns else 'invariant'}",
                )  # fmt: skip
        paper_line(axis, THESIS_LIMIT, label="thesis (text): every layer below this, float32")
        axis.set_xscale("log")
        axis.set_yticks(range(len(networks)), networks[::-1])
        axis.set_ylim(-0.6, len(networks) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("equivariance error of a layer\n(largest of the rotations, dimensionless)")
        figure.legend(loc="outside upper center", ncols=2)
        footer(
            figure,
            f"Error of Hedelius, eq. 3.1; one mark per layer and feature, inputs exactly rotated; {n_rotations} "
            "rotations, four molecules, random weights. The same at both scales.",
        )
    save_figure(figure, frame.drop(columns="title"), output)


def layers_table(paths: Iterable[PathLike], output: PathLike) -> None:
    """The same numbers as a table: one row per network, layer and feature.

    Args:
        paths: files of :func:`mlip_studies.models.measure.measure_model`.
        output: path of the HTML file.
    """
    frame = _layers(paths)
    wide = frame.pivot_table(
        index=["title", "layer", "feature", "irreps"], columns="precision", values="maximum", sort=False
    ).reset_index()
    wide["within_thesis_limit"] = wide["float32"].map(lambda value: "yes" if value < THESIS_LIMIT else "no")
    above = int((wide["float32"] >= THESIS_LIMIT).sum())
    caption = (
        "Equivariance error of every layer (Hedelius, eq. 3.1), largest of the rotations. The thesis states that all "
        f"layers of its network stay below 1e-6 in float32. Here {len(wide) - above} of {len(wide)} do; the float64 "
        "column tells rounding (falls with the precision) from a mistake (would not)."
    )
    headings = {
        "title": "network",
        "layer": "layer",
        "feature": "feature",
        "irreps": "turns as",
        "float32": "error, float32",
        "float64": "error, float64",
        "within_thesis_limit": "float32 below 1e-6",
    }
    write_html_table(wide, output, "Equivariance of every layer", caption, headings=headings)


def parameters_table(paths: Iterable[PathLike], output: PathLike) -> None:
    """Networks, where they come from, and their parameters beside the published count.

    Args:
        paths: files of :func:`mlip_studies.models.measure.measure_model`.
        output: path of the HTML file.
    """
    rows = []
    for network in _measured(paths):
        published = network["parameters_published"]
        rows.append(
            {
                "network": network["title"],
                "model": network["model"],
                "parameters": network["parameters"],
                "published": pd.NA if published is None else published,
                "agrees": "" if published is None else ("yes" if published == network["parameters"] else "no"),
                "cutoff_angstrom": network["cutoff"],
                "forces": network["forces"],
                "source": network["source"],
            }
        )
    caption = (
        "Trainable parameters counted in this project's networks with the papers' settings, beside the count that the "
        "paper states or that a public implementation has with the same settings. For the SE(3)-Transformer that is "
        "the count of its authors' layers with 16 or 32 channels per degree, one reading of the thesis, which states "
        "none."
    )
    headings = {
        "published": "paper or public code",
        "cutoff_angstrom": "cutoff (Å)",
        "agrees": "same count",
    }
    frame = pd.DataFrame(rows).astype({"published": "Int64"})
    write_html_table(frame, output, "Networks and their parameters", caption, headings=headings)


SCAN_COLUMNS = ("variant", "scan", "coordinate_angstrom", "direction_rad", "energy_ev", "force_ev_per_angstrom")
#: smaller differences of energies are rounding
ROUNDING_EV = 1e-12
LINES = ("-", "--", ":", "-.")


def _runs(paths: Iterable[PathLike]) -> list[dict[str, Any]]:
    """Runs of the check of training; a run's network is the folder above its seed."""
    return [{**read_json(Path(path)), "network": Path(path).parents[1].name} for path in paths]


def training_figure(histories: Iterable[PathLike], runs: Iterable[PathLike], output: PathLike, scale: str) -> None:
    """Validation errors of every network against the optimizer step.

    Args:
        histories: history.csv of every run.
        runs: run.json of every run.
        output: path of the PNG file.
        scale: mini or full.
    """
    labels = {run["network"]: run for run in _runs(runs)}
    frames = [
        pd.read_csv(require(path)).assign(network=Path(path).parents[1].name, seed=Path(path).parent.name)
        for path in histories
    ]
    frame = pd.concat(frames, ignore_index=True)
    panels = {
        "validation_force_mae_ev_per_angstrom": "force MAE, validation (meV/Å)",
        "validation_energy_per_atom_mae_ev": "energy MAE, validation (meV/atom)",
    }
    colors = [color for name, color in OKABE_ITO.items() if name != "black"]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(FULL_WIDTH, 3.6))
        for axis, (column, label) in zip(axes, panels.items(), strict=True):
            for index, network in enumerate(dict.fromkeys(frame["network"])):
                for number, (_, part) in enumerate(frame[frame["network"] == network].groupby("seed")):
                    axis.plot(
                        part["step"], 1000.0 * part[column], LINES[index // len(colors)],
                        color=colors[index % len(colors)],
                        label=labels[network]["label"].rsplit(",", 1)[0] if number == 0 else None,
                    )  # fmt: skip
            axis.set_yscale("log")
            axis.set_xlabel("optimizer step")
            axis.set_ylabel(label)
        panel_letters(axes)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
        run = next(iter(labels.values()))
        note = (
            "mini scale, data and networks made small for it: shows that training works, not which network is better"
            if scale == "mini"
            else "full scale"
        )
        store = Path(run["config"]["store"]).parent.name
        footer(figure, f"{store}: {run['n_train']} training and {run['n_val']} validation molecules; {note}.")
    save_figure(figure, frame, output)


def training_table(runs: Iterable[PathLike], output: PathLike, scale: str) -> None:
    """Test errors and costs of the check of training.

    Args:
        runs: run.json of every run.
        output: path of the HTML file.
        scale: mini or full.
    """
    rows = []
    for run in _runs(runs):
        test = run["test"]
        rows.append(
            {
                "network": run["label"].rsplit(",", 1)[0],
                "seed": run["config"]["seed"],
                "parameters": run["n_parameters"],
                "n_train": run["n_train"],
                "n_test": run["n_test"],
                "energy_mae_mev": 1000.0 * test["energy_mae_ev"],
                "energy_per_atom_mae_mev": 1000.0 * test["energy_per_atom_mae_ev"],
                "force_mae_mev_per_angstrom": 1000.0 * test["force_mae_ev_per_angstrom"],
                "steps": run["steps"],
                "configurations_per_second": run["configurations_per_second"],
                "train_seconds": run["train_seconds"],
                "peak_memory_mb": run["environment"]["peak_memory_mb"],
                "device": run["device"],
            }
        )
    headings = {
        "n_train": "training molecules",
        "n_test": "test molecules",
        "energy_mae_mev": "energy MAE (meV)",
        "energy_per_atom_mae_mev": "energy MAE (meV/atom)",
        "force_mae_mev_per_angstrom": "force MAE (meV/Å)",
        "configurations_per_second": "molecules/s in training",
        "train_seconds": "training (s)",
        "peak_memory_mb": "peak memory (MB)",
    }
    what = "with networks made small for it" if scale == "mini" else "with the papers' networks"
    caption = (
        f"Every network trained on energies and forces of the same rows, {what}, with its paper's loss and optimizer "
        "and the same number of steps. It shows that training works; the studies compare networks."
    )
    write_html_table(pd.DataFrame(rows), output, f"Check of training ({scale} scale)", caption, headings=headings)


def draw(product: str, paths: Mapping[str, Iterable[PathLike]], output: PathLike, scale: str) -> None:
    """Make one product by name.

    Args:
        product: name of the figure or table.
        paths: its input files by role.
        output: path of the PNG or HTML file.
        scale: mini or full.

    Raises:
        InputError: no such product.
    """
    if product == "equivariance":
        equivariance_figure(paths["networks"], output)
    elif product == "equivariance-table":
        layers_table(paths["networks"], output)
    elif product == "parameters":
        parameters_table(paths["networks"], output)
    elif product == "gemnet-singularities":
        singularities_figure(next(iter(paths["singularities"])), output)
    elif product == "training":
        training_figure(paths["histories"], paths["runs"], output, scale)
    elif product == "training-table":
        training_table(paths["runs"], output, scale)
    else:
        raise InputError(f"product {product!r} of the networks is unknown")


def singularities_figure(path: PathLike, output: PathLike) -> None:
    """GemNet-Q at a planar and at a nearly collinear molecule, beside its smooth form and GemNet-T.

    Args:
        path: CSV file of the scans (:mod:`mlip_studies.models.gemnet_singularities`).
        output: path of the PNG file.
    """
    frame = read_table(Path(path), SCAN_COLUMNS)
    variants = list(dict.fromkeys(frame["variant"]))
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(FULL_WIDTH, 3.3))
        for variant, color, line, marker in zip(
            variants, ("bluish green", "vermillion", "blue"), ("--", "-", ":"), ("^", "o", "s"), strict=False
        ):
            look = {"color": OKABE_ITO[color], "linestyle": line, "marker": marker, "markersize": 3.5}
            part = frame[frame["variant"] == variant]
            plane = part[part["scan"] == "out_of_plane"].sort_values("coordinate_angstrom")
            axes[0].plot(plane["coordinate_angstrom"], 1000.0 * plane["force_ev_per_angstrom"], label=variant, **look)
            line_scan = part[part["scan"] == "off_line"].groupby("coordinate_angstrom")
            spread = line_scan["energy_ev"].agg(lambda energy: energy.max() - energy.min())
            axes[1].plot(spread.index, 1000.0 * spread.clip(lower=ROUNDING_EV), **look)
            largest = line_scan["force_ev_per_angstrom"].max()
            axes[2].plot(largest.index, largest, **look)
        axes[0].set_xlabel("H above the plane\nof ethylene (Å)")
        axes[0].set_ylabel("force on H along\nthe normal (meV/Å)")
        axes[1].set_ylabel("energy, spread over\ndirections (meV)")
        axes[2].set_ylabel("largest force on an atom (eV/Å)")
        for axis in axes[1:]:
            axis.set_xlabel("N beside the C–C line\nof acetonitrile, ρ (Å)")
            axis.set_xscale("log")
            axis.set_yscale("log")
        panel_letters(axes)
        figure.legend(loc="outside upper center", ncols=len(variants))
        footer(
            figure,
            "Untrained networks of the papers' size with random weights, float64; spreads below 1e-9 meV are drawn at "
            "1e-9 meV. The same at both scales.",
        )
    save_figure(figure, frame, output)
