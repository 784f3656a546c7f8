"""Tables of So3krates on SPICE: results beside the thesis's, outliers, slopes, and the check of energy references.

Every function has the form ``f(tables, context, output)`` and writes <output>.html and .csv; what the thesis states or
quotes is taken from the claim file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_cells import (
    DATA_NAMES,
    SHIFT_NAMES,
    STUDY_FILE,
    Cell,
    count,
    need,
    need_cells,
    not_run,
    number,
    over_seeds,
    percent,
    seeds_text,
    spice_cells,
    stated,
)
from mlip_studies.studies.pavlovic_products import CLEANED_RUN, MAIN_RUN
from mlip_studies.units import EV_TO_KCAL_PER_MOL, EV_TO_MEV, KCAL_PER_MOL_TO_EV

MOST_OUTLIERS = 200  # lines of the table

# (column of runs.csv, name in the table, factor)
RESULTS: tuple[tuple[str, str, float], ...] = (
    ("energy_mae_ev", "energy_mae_ev", 1.0),
    ("energy_per_atom_mae_ev", "energy_mae_ev_per_atom", 1.0),
    ("corrected_train_energy_mae_ev", "corrected_train_ev", 1.0),
    ("corrected_train_energy_mae_ev", "corrected_train_kcal_per_mol", EV_TO_KCAL_PER_MOL),
    ("corrected_train_energy_per_atom_mae_ev", "corrected_train_ev_per_atom", 1.0),
    (
        "corrected_train_with_constant_energy_per_atom_mae_ev",
        "corrected_train_with_constant_ev_per_atom",
        1.0,
    ),
    ("corrected_test_energy_per_atom_mae_ev", "corrected_test_ev_per_atom", 1.0),
    ("force_mae_ev_per_angstrom", "force_mae_ev_per_angstrom", 1.0),
    ("force_mae_ev_per_angstrom", "force_mae_kcal_per_mol_per_angstrom", EV_TO_KCAL_PER_MOL),
)
# Quantities with their half width beside them.
WITH_WIDTH = (
    "energy_mae_ev",
    "corrected_train_ev_per_atom",
    "corrected_test_ev_per_atom",
    "force_mae_ev_per_angstrom",
)
RESULT_HEADINGS: Mapping[str, str] = {
    "who": "whose",
    "data": "energies",
    "shift": "shift",
    "beta": "β",
    "layers": "layers",
    "energy_mae_ev": "energy MAE (eV)",
    "energy_mae_ev_pm": "±",
    "energy_mae_ev_per_atom": "energy MAE (eV/atom)",
    "corrected_train_ev": "corrected, train fit (eV)",
    "corrected_train_kcal_per_mol": "corrected, train fit (kcal/mol)",
    "corrected_train_ev_per_atom": "corrected, train fit (eV/atom)",
    "corrected_train_ev_per_atom_pm": "±",
    "corrected_train_with_constant_ev_per_atom": "train fit with an intercept (eV/atom)",
    "corrected_test_ev_per_atom": "corrected, test fit (eV/atom)",
    "corrected_test_ev_per_atom_pm": "±",
    "force_mae_ev_per_angstrom": "force MAE (eV/Å)",
    "force_mae_ev_per_angstrom_pm": "±",
    "force_mae_kcal_per_mol_per_angstrom": "force MAE (kcal/mol/Å)",
    "n_train": "training molecules",
    "seeds": "seeds",
}


def _scale_note(context: StudyContext, frames: Sequence[pd.DataFrame]) -> str:
    """Scale and seeds for a caption."""
    mini = " It does not claim to reproduce the thesis." if context.scale == "mini" else ""
    return f"{context.scale.capitalize()} scale, {seeds_text(frames)}.{mini}".replace("error bars and ±", "±").replace(
        "error bars", "±"
    )


def _setting(cell: Cell, runs: pd.DataFrame) -> dict[str, Any]:
    layers = over_seeds(runs, "n_layers")
    return {
        "data": DATA_NAMES[cell.data],
        "shift": SHIFT_NAMES.get(cell.shift, cell.shift),
        "beta": cell.beta,
        "layers": round(layers.value) if layers.n else cell.n_layers,
    }


def results_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Errors of every cell beside the thesis's, those that it quotes, and chemical accuracy.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: no cell was trained.
    """
    cells = need_cells(spice_cells(tables), "table results", "So3krates on SPICE")
    frames = {cell: tables.get("runs", cell.run) for cell in cells}
    frame = pd.DataFrame([*reference_rows(context), *(_result(cell, frames[cell]) for cell in cells)])
    frame = frame.reindex(columns=list(RESULT_HEADINGS))
    for column in ("layers", "n_train", "seeds"):
        frame[column] = frame[column].astype("Int64")
    empty = [f"{name}_pm" for name in WITH_WIDTH if frame[f"{name}_pm"].isna().all()]
    caption = (
        "Test errors of So3krates on SPICE. 'Corrected': energies after a linear function of the number of atoms of "
        "each element, fitted to the errors of the training or of the test molecules; the thesis does not say which it "
        "used. ± is the 95 % half width over seeds (Student t, at least three). "
        f"{_scale_note(context, list(frames.values()))}"
    )
    after = {
        "Reading": [
            "The thesis's values are those of its text. MACE-OFF23 was trained on other rows, elements and splits; its "
            "values are quoted by the thesis.",
            f"Chemical accuracy is {number(stated(context, 'chemical-accuracy'), 1)} kcal/mol per molecule, not per "
            "atom: it stands in the columns of errors per molecule.",
        ]
    }
    write_html_table(
        frame, output, "So3krates on SPICE: errors", caption, headings=RESULT_HEADINGS, hidden=empty, after=after
    )  # fmt: skip


def _result(cell: Cell, runs: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"who": "ours", **_setting(cell, runs)}
    for column, name, factor in RESULTS:
        mean = over_seeds(runs, column)
        row[name] = factor * mean.value
        if name in WITH_WIDTH:
            row[f"{name}_pm"] = factor * mean.half
    row["n_train"] = int(runs["n_train"].iloc[0])
    row["seeds"] = int(runs["seed"].nunique())
    return row


def reference_rows(context: StudyContext) -> list[dict[str, Any]]:
    """Rows of the thesis, of MACE-OFF23 as it quotes it, and of chemical accuracy; energies in eV, forces in eV/Å.

    Args:
        context: holds the claims.
    """

    def value(claim_id: str) -> float:
        return stated(context, claim_id)

    force_default, force_only = value("force-mae-default"), value("force-mae-beta1")
    accuracy = KCAL_PER_MOL_TO_EV * value("chemical-accuracy")
    mace_force = value("mace-off23-force") / EV_TO_MEV
    rows: list[dict[str, Any]] = [
        {
            "who": "thesis (text), default",
            "beta": 0.99,
            "energy_mae_ev": value("energy-mae-default"),
            "force_mae_ev_per_angstrom": force_default,
        },
        {
            "who": "thesis (text), forces only",
            "beta": 1.0,
            "energy_mae_ev": value("energy-mae-beta1"),
            "corrected_test_ev_per_atom": value("energy-mae-corrected"),
            "force_mae_ev_per_angstrom": force_only,
        },
        {
            "who": "MACE-OFF23, quoted by the thesis",
            "energy_mae_ev_per_atom": value("mace-off23-energy") / EV_TO_MEV,
            "force_mae_ev_per_angstrom": mace_force,
        },
        {
            "who": "chemical accuracy, per molecule",
            "energy_mae_ev": accuracy,
            "corrected_train_ev": accuracy,
            "corrected_train_kcal_per_mol": value("chemical-accuracy"),
        },
    ]
    for row in rows:
        if "force_mae_ev_per_angstrom" in row:
            row["force_mae_kcal_per_mol_per_angstrom"] = EV_TO_KCAL_PER_MOL * row["force_mae_ev_per_angstrom"]
    return rows


# --- outliers -------------------------------------------------------------------------------------------------------

OUTLIER_HEADINGS: Mapping[str, str] = {
    "run": "run",
    "formula": "molecule",
    "subset": "subset",
    "smiles": "SMILES",
    "row": "row of the store",
    "atom": "atom (from 0)",
    "element": "element",
    "component": "component",
    "true": "true (eV/Å)",
    "predicted": "predicted (eV/Å)",
    "residual": "residual (eV/Å)",
    "near_zero": "predicted near zero",
    "seed": "seed",
}


def outliers_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """The force components with the largest residuals: which molecules they are of, and what a cleaned set leaves.

    Args:
        tables: results; the cleaned run is compared if it was trained.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: the main run was not trained.
    """
    what = "table outliers"
    runs = need(tables, "runs", MAIN_RUN, what)
    listed = need(tables, "outliers", MAIN_RUN, what)
    listed = listed[listed["seed"] == listed["seed"].min()]
    order = listed["residual"].abs().sort_values(ascending=False, kind="stable").index
    shown = listed.loc[order].head(MOST_OUTLIERS).reset_index(drop=True)
    shown["near_zero"] = shown["near_zero"].astype(bool)
    frame = shown[[column for column in OUTLIER_HEADINGS if column in shown and column != "run"]]
    limit = stated(context, "outlier-threshold")
    caption = (
        f"The {count(len(frame))} force components with the largest residuals (predicted − true) of run {MAIN_RUN}, "
        f"first seed. {_scale_note(context, [runs])}"
    )
    after = {
        "How many": _shares(tables, runs, limit, stated(context, "outlier-fraction")),
        f"Molecules of the components beyond {limit:g} eV/Å": _molecules(listed, limit),
        "Reading": [
            "A large residual alone does not say whose error it is. Where the reference force is large and the "
            "network, which was trained on such molecules, predicts nearly none, a failed reference calculation is "
            "likely; where all atoms of a molecule are off, rather a molecule unlike the training set's.",
            "The thesis supposes errors of the data set and names no molecules.",
        ],
    }
    write_html_table(
        frame, output, "Outliers of the force components", caption, headings=OUTLIER_HEADINGS, after=after
    )  # fmt: skip


def _shares(tables: RunTables, runs: pd.DataFrame, limit: float, thesis: float) -> list[str]:
    """Shares of outliers of the main and the cleaned run, in words."""
    lines = []
    found = {"All neutral molecules": runs}
    if CLEANED_RUN in tables.names("runs"):
        found["Cleaned set"] = tables.get("runs", CLEANED_RUN)
    for name, frame in found.items():
        near, large = over_seeds(frame, "outlier_fraction"), over_seeds(frame, "large_residual_fraction")
        force = over_seeds(frame, "force_mae_ev_per_angstrom")
        any_size = f" ({percent(large.value)} with any prediction)" if large.n else ""
        lines.append(
            f"{name}: {percent(near.value)} of {count(over_seeds(frame, 'n_components').value)} components have a "
            f"residual beyond {limit:g} eV/Å and a prediction below 1 eV/Å{any_size}; force MAE {force.text()} eV/Å."
        )
    lines.append(
        f"Thesis (text): {percent(thesis)}; the caption of its figure 3 does not say whether of all points or of those "
        "near zero."
    )
    if CLEANED_RUN not in tables.names("runs"):
        lines.append(not_run(["the cleaned set"]))
    return lines


def _molecules(listed: pd.DataFrame, limit: float) -> list[str]:
    """Which molecules the outliers are of, most components first."""
    beyond = listed[listed["residual"].abs() > limit]
    if beyond.empty:
        return ["There are none: the table lists the largest residuals below that limit."]
    lines = []
    keys = [key for key in ("subset", "formula") if key in beyond and beyond[key].notna().any()]
    for key in keys:
        groups = beyond.groupby(key)["row"].agg(["size", "nunique"]).sort_values("size", ascending=False)
        parts = [
            f"{name} ({count(row['size'])} components of {count(row['nunique'])} conformations)"
            for name, row in groups.head(8).iterrows()
        ]
        more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
        lines.append(f"By {'molecule' if key == 'formula' else key}: {', '.join(parts)}{more}.")
    near = int(beyond["near_zero"].astype(bool).sum())
    conformations = beyond["row"].nunique()
    lines.append(
        f"{count(len(beyond))} components in {count(conformations)} conformations are listed, {count(near)} near zero."
    )
    return lines


# --- slopes ---------------------------------------------------------------------------------------------------------

SLOPES: tuple[tuple[str, str], ...] = (
    ("slope_ev_per_atom", "slope_ev_per_atom"),
    ("predicted_slope_ev_per_atom", "predicted_slope_ev_per_atom"),
    ("remainder_slope_ev_per_atom", "remainder_slope_ev_per_atom"),
    ("mean_ev", "mean_ev"),
    ("n_pad", "n_pad"),
    ("energy_mae_ev", "energy_mae_ev"),
    ("predicted_energy_mae_ev", "predicted_energy_mae_ev"),
    ("aligned_energy_mae_ev", "aligned_energy_mae_ev"),
    ("residual_mae_ev", "residual_mae_ev"),
    ("error_with_constant_r2", "error_with_constant_r2"),
    ("error_constant_ev", "error_constant_ev"),
)
SLOPE_HEADINGS: Mapping[str, str] = {
    "data": "energies",
    "shift": "shift",
    "beta": "β",
    "layers": "layers",
    "slope_ev_per_atom": "measured slope (eV/atom)",
    "slope_pm": "± over seeds",
    "slope_se": "standard error, one seed",
    "predicted_slope_ev_per_atom": "p/n_pad (eV/atom)",
    "remainder_slope_ev_per_atom": "remainder (eV/atom)",
    "mean_ev": "p (eV)",
    "n_pad": "n_pad",
    "energy_mae_ev": "energy MAE (eV)",
    "predicted_energy_mae_ev": "MAE of a perfect network (eV)",
    "aligned_energy_mae_ev": "MAE after one constant (eV)",
    "residual_mae_ev": "MAE after mechanism A and constants per element (eV)",
    "error_with_constant_r2": "R² of c₀ and constants per element",
    "error_constant_ev": "c₀ (eV)",
    "constants_ev": "constants per element of the remainder (eV)",
    "seeds": "seeds",
}


def slope_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Measured slopes, what mechanism A predicts, and what remains, with the constants per element.

    Args:
        tables: results.
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: no cell was trained.
    """
    chosen = [cell for cell in spice_cells(tables) if cell.size is None]
    cells = need_cells(chosen, "table slope", "So3krates on SPICE")
    frames = {cell: tables.get("runs", cell.run) for cell in cells}
    frame = pd.DataFrame([_slope_row(cell, frames[cell]) for cell in cells]).reindex(columns=list(SLOPE_HEADINGS))
    for column in ("layers", "n_pad", "seeds"):
        frame[column] = frame[column].round().astype("Int64")
    default, forces_only = stated(context, "energy-mae-default"), stated(context, "energy-mae-beta1")
    caption = (
        "Slope of the error of the predicted energy with the number of atoms N. With the padded mean a perfect network "
        "errs by p (N/n_pad − 1), slope p/n_pad (mechanism A); the remainder is measured less that. "
        f"{_scale_note(context, list(frames.values()))}"
    )
    after = {
        "Reading": [
            f"Thesis (text): energy MAE {number(default)} eV with β = 0.99 and {number(forces_only)} eV with β = 1; a "
            "slope that is shown and not given as a number.",
            "c₀ and R²: the error as a whole, fitted by one constant for all molecules and one per element. A network "
            "that learned energies less p has c₀ = −p with the padded mean; one that saw forces only never saw p, and "
            "its error is a sum of constants per element alone (mechanism B).",
            "Constants per element of the remainder are determined only as far as the compositions vary independently.",
            "Which shift and which label the author used is not documented: that mechanism A gives errors of the "
            "thesis's size with formation energies is consistent with it and no proof.",
        ]
    }
    hidden = [column for column in ("slope_pm",) if frame[column].isna().all()]
    write_html_table(
        frame, output, "Where the slope comes from", caption, headings=SLOPE_HEADINGS, hidden=hidden, after=after
    )  # fmt: skip


def _slope_row(cell: Cell, runs: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = _setting(cell, runs)
    for column, name in SLOPES:
        row[name] = over_seeds(runs, column).value
    row["slope_pm"] = over_seeds(runs, "slope_ev_per_atom").half
    row["slope_se"] = over_seeds(runs, "slope_se").value
    constants = {
        column.removeprefix("remainder_element_").removesuffix("_ev"): over_seeds(runs, column).value
        for column in map(str, runs.columns)
        if column.startswith("remainder_element_") and column.endswith("_ev")
    }
    row["constants_ev"] = ", ".join(
        f"{name} {number(value)}" for name, value in constants.items() if np.isfinite(value)
    )
    row["seeds"] = int(runs["seed"].nunique())
    return row


# --- check of energy references -------------------------------------------------------------------------------------

CHECK_HEADINGS: Mapping[str, str] = {
    "dataset": "data set",
    "fidelity": "energies",
    "shift": "shift",
    "severity": "verdict",
    "message": "what it means",
    "n_rows": "rows",
    "n_compositions": "compositions",
    "mean_ev": "mean energy p (eV)",
    "n_pad": "n_pad",
    "slope_ev_per_atom": "slope p/n_pad (eV/atom)",
    "perfect_network_mae_ev": "MAE of a perfect network (eV)",
    "spread_ev": "spread to be learned (eV)",
    "per_element_spread_ev": "spread after constants per element (eV)",
    "rank": "rank of the compositions",
}
VERDICTS = {"none": ("fits", "good"), "warning": ("warning", "open"), "error": ("wrong", "bad")}


def shift_check_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """What every choice of the energy reference does to every data set, before any network is trained.

    Args:
        tables: results.
        context: scale.
        output: path of the HTML file.

    Raises:
        InputError: no data set was checked.
    """
    try:
        frame = tables.shift_check().reset_index(drop=True)
    except MissingDataError:
        raise InputError(f"table shift-check: no data set was checked; add data to {STUDY_FILE}") from None
    frame["shift"] = frame["shift"].fillna("none").map(lambda shift: SHIFT_NAMES.get(shift, shift))
    frame["severity"] = frame["severity"].fillna("none").map(lambda severity: VERDICTS[severity][0])
    frame["message"] = frame["message"].fillna("")
    frame = frame[[column for column in CHECK_HEADINGS if column in frame]]
    wrong = frame.loc[frame["severity"] == VERDICTS["error"][0], "dataset"].nunique()
    caption = (
        "Four ways of referring energies before training, for every data set of the study. 'wrong': predictions are "
        "off whatever the network learns; 'warning': differences between compositions are left to the network; 'fits': "
        f"neither. The padded mean is wrong for {wrong} of {frame['dataset'].nunique()} data sets; training warns of "
        f"it. {context.scale.capitalize()} scale; nothing is trained for this table."
    )
    colors = {word: color for word, color in VERDICTS.values()}
    write_html_table(
        frame,
        output,
        "Energy references that fit, and those that do not",
        caption,
        headings=CHECK_HEADINGS,
        cell_class=lambda column, value: colors.get(value) if column == "severity" else None,
    )
