"""Joins the files of single runs into the tidy tables that figures, tables and claims read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.claims.inputs import COLUMNS, read_json, read_table
from mlip_studies.errors import InputError

KEYS = ("experiment", "variant", "mix", "seed")
HISTORY_COLUMNS = tuple(column for column in COLUMNS["histories"] if column not in KEYS)
PREDICTION_COLUMNS = tuple(column for column in COLUMNS["predictions"] if column not in KEYS)


def error_metrics(predictions: pd.DataFrame, path: PathLike = "predictions") -> dict[str, float]:
    """Errors on the test rows.

    Args:
        predictions: columns target_ev, predicted_ev (eV per molecule) and n_atoms.
        path: where they come from, for messages.

    Returns:
        test_mse_ev2 (eV²), test_rmse_ev, test_mae_ev (eV per molecule), test_rmse_per_atom_ev and test_mae_per_atom_ev
        (error of each molecule divided by its number of atoms, eV).

    Raises:
        InputError: an energy is not finite, or a molecule has no atoms.
    """
    error = (predictions["predicted_ev"] - predictions["target_ev"]).to_numpy(dtype=float)
    atoms = predictions["n_atoms"].to_numpy(dtype=float)
    if not np.isfinite(error).all():
        raise InputError(
            f"{path}: {int((~np.isfinite(error)).sum())} of {error.size} energies are not finite; "
            "lower the learning rate of this run or train it again"
        )
    if (atoms < 1).any():
        raise InputError(f"{path}: a molecule has n_atoms below 1; predict again")
    per_atom = error / atoms
    mse = float(np.mean(error**2))
    return {
        "test_mse_ev2": mse,
        "test_rmse_ev": float(np.sqrt(mse)),
        "test_mae_ev": float(np.mean(np.abs(error))),
        "test_rmse_per_atom_ev": float(np.sqrt(np.mean(per_atom**2))),
        "test_mae_per_atom_ev": float(np.mean(np.abs(per_atom))),
    }


def collect_runs(
    run_dirs: Sequence[PathLike], runs_csv: PathLike, histories_csv: PathLike, predictions_csv: PathLike
) -> None:
    """Write runs.csv, histories.csv and predictions.csv from the folders of single runs.

    Args:
        run_dirs: folders with run.json, history.csv and predictions.csv.
        runs_csv: one row per run, errors on the test rows added.
        histories_csv: one row per run and epoch.
        predictions_csv: one row per run and test molecule.

    Raises:
        InputError: no runs, a missing key or column, or a run that occurs twice.
    """
    if not run_dirs:
        raise InputError("no runs to collect; name at least one mix and one seed in the study's configuration")
    runs, histories, predictions = [], [], []
    seen: dict[tuple[object, ...], Path] = {}
    for folder in map(Path, run_dirs):
        content = read_json(folder / "run.json")
        columns = [column for column in COLUMNS["runs"] if not column.startswith("test_")]
        missing = [column for column in columns if column not in content]
        if missing:
            raise InputError(f"{folder / 'run.json'}: key '{missing[0]}' is missing; run this training again")
        key = tuple(content[name] for name in KEYS)
        if key in seen:
            raise InputError(
                f"{folder}: is the same run as {seen[key]} ({'/'.join(map(str, key))}); name each run once"
            )
        seen[key] = folder
        keys = dict(zip(KEYS, key, strict=True))
        tested = read_table(folder / "predictions.csv", PREDICTION_COLUMNS)
        row = {column: content[column] for column in columns} | error_metrics(tested, folder / "predictions.csv")
        runs.append({column: row[column] for column in COLUMNS["runs"]})
        history = read_table(folder / "history.csv", HISTORY_COLUMNS)
        histories.append(history[list(HISTORY_COLUMNS)].assign(**keys)[list(COLUMNS["histories"])])
        predictions.append(tested[list(PREDICTION_COLUMNS)].assign(**keys)[list(COLUMNS["predictions"])])
    for frame, path in (
        (pd.DataFrame(runs), runs_csv),
        (pd.concat(histories, ignore_index=True), histories_csv),
        (pd.concat(predictions, ignore_index=True), predictions_csv),
    ):
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
