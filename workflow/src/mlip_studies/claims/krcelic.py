"""Metrics of the multi-fidelity study: what answers each of the thesis's statements.

Every metric takes the tables and the claim's arguments and returns estimates over seeds. Comparisons are paired: both
runs share the seed, and only seeds that both have count. Energies come out in meV, times in ratios.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.evaluate import Metric
from mlip_studies.claims.inputs import MissingDataError, Tables
from mlip_studies.claims.verdicts import Estimate, estimate

MEV_PER_EV = 1000.0
# Columns of runs.csv by what a claim calls them, with the factor to the claim's unit.
QUANTITIES: Mapping[str, tuple[str, float]] = {
    "test_rmse": ("test_rmse_ev", MEV_PER_EV),
    "test_mae": ("test_mae_ev", MEV_PER_EV),
    "test_mse": ("test_mse_ev2", 1.0),
    "train_rmse": ("final_train_rmse_ev", MEV_PER_EV),
    "val_rmse": ("best_val_rmse_ev", MEV_PER_EV),
    "seconds_per_epoch": ("seconds_per_epoch", 1.0),
}
# What the claims call the columns of sizes.
SIZE_PARTS: Mapping[str, str] = {
    "n_train_low": "training low",
    "n_train_high": "training high",
    "n_val_low": "validation low",
    "n_val_high": "validation high",
    "n_test": "test",
}
SIZE_COLUMNS = tuple(SIZE_PARTS)


def label(mix: str) -> str:
    """The thesis's label of a mix: 20k/20k for 20k-20k."""
    return mix.replace("-", "/") if re.fullmatch(r"\d+k?-\d+k?", mix) else mix


def by_seed(runs: pd.DataFrame, quantity: str, mixes: Sequence[str]) -> pd.DataFrame:
    """One quantity by seed (rows) and mix (columns), only seeds that all mixes have.

    Args:
        runs: table of runs.
        quantity: key of QUANTITIES.
        mixes: mix ids.

    Raises:
        MissingDataError: a mix was not run, or no seed is common to all.
    """
    column, factor = QUANTITIES[quantity]
    missing = [mix for mix in mixes if mix not in set(runs["mix"])]
    if missing:
        raise MissingDataError(f"mix {label(missing[0])}: not among the results that were asked for")
    wide = runs[runs["mix"].isin(mixes)].pivot_table(index="seed", columns="mix", values=column, dropna=False)
    wide = wide.dropna()[list(mixes)] * factor
    if wide.empty:
        raise MissingDataError(f"no seed is common to {', '.join(map(label, mixes))}")
    return wide


def worse_than(
    tables: Tables,
    experiment: str,
    variant: str,
    pairs: Sequence[Sequence[str]],
    quantity: str = "test_rmse",
) -> list[Estimate]:
    """Paired differences first minus second of each pair; positive where the first is worse, as claimed."""
    runs = tables.runs(experiment, variant)
    found = []
    for worse, better in pairs:
        wide = by_seed(runs, quantity, (worse, better))
        found.append(estimate(f"{label(worse)} − {label(better)}", (wide[worse] - wide[better]).tolist()))
    return found


def decreasing(
    tables: Tables, experiment: str, variant: str, mixes: Sequence[str], quantity: str = "test_rmse"
) -> list[Estimate]:
    """Paired differences of neighbours in a series that is claimed to decrease; positive agrees."""
    return worse_than(tables, experiment, variant, list(pairwise(mixes)), quantity)


def rank(tables: Tables, experiment: str, variant: str, mix: str, quantity: str) -> list[Estimate]:
    """Rank of one mix among all mixes that were run, 1 = lowest."""
    runs = tables.runs(experiment, variant)
    mixes = list(dict.fromkeys(runs["mix"]))
    wide = by_seed(runs, quantity, mixes)
    if mix not in wide:
        raise MissingDataError(f"mix {label(mix)}: not among the results that were asked for")
    return [estimate(f"rank of {label(mix)} of {len(mixes)}", wide.rank(axis=1)[mix].tolist())]


def extreme_error(
    tables: Tables, experiment: str, variant: str, which: str, mixes: Sequence[str], quantity: str = "test_rmse"
) -> list[Estimate]:
    """Largest or smallest test error of all mixes, by seed.

    Args:
        tables: the results.
        experiment: name of the experiment.
        variant: name of the variant.
        which: "max" or "min".
        mixes: the mixes that must all be there.
        quantity: key of QUANTITIES.
    """
    wide = by_seed(tables.runs(experiment, variant), quantity, mixes)
    values = wide.max(axis=1) if which == "max" else wide.min(axis=1)
    return [estimate(f"{which}imum of {len(mixes)} mixes", values.tolist())]


def error_per_atom(tables: Tables, experiment: str, variant: str, mixes: Sequence[str]) -> list[Estimate]:
    """Mean over the mixes of test RMSE per molecule / mean number of atoms, as the thesis divides (meV)."""
    wide = by_seed(tables.runs(experiment, variant), "test_rmse", mixes)
    atoms = _mean_atoms(tables, experiment, variant)
    return [estimate("mean of the mixes", (wide.mean(axis=1) / atoms).tolist())]


def atoms_per_molecule(tables: Tables, experiment: str, variant: str) -> list[Estimate]:
    """Mean number of atoms of the test molecules."""
    return [estimate("test molecules", _mean_atoms(tables, experiment, variant), deterministic=True)]


def _mean_atoms(tables: Tables, experiment: str, variant: str) -> float:
    rows = tables.predictions(experiment, variant).drop_duplicates("row")
    return float(rows["n_atoms"].mean())


def sizes(tables: Tables, experiment: str, variant: str, mix: str) -> list[Estimate]:
    """Rows of one mix as achieved: training, validation, test."""
    first = _first_run(tables.runs(experiment, variant), mix)
    return [estimate(part, float(first[column]), deterministic=True) for column, part in SIZE_PARTS.items()]


def size_ratio(
    tables: Tables, experiment: str, variant: str, mixes: Sequence[str], columns: Sequence[str], base: float
) -> list[Estimate]:
    """Training rows of several mixes as a ratio.

    Args:
        tables: the results.
        experiment: name of the experiment.
        variant: name of the variant.
        mixes: mix ids.
        columns: which rows are added up (n_train_low, n_train_high).
        base: number that the first mix gets.
    """
    runs = tables.runs(experiment, variant)
    totals = np.array([float(sum(_first_run(runs, mix)[column] for column in columns)) for mix in mixes])
    ratios = base * totals / totals[0]
    return [estimate(label(mix), float(r), deterministic=True) for mix, r in zip(mixes, ratios, strict=True)]


def fidelity_ratio(tables: Tables, experiment: str, variant: str, mixes: Sequence[str]) -> list[Estimate]:
    """Training rows of low over high fidelity of each mix."""
    runs = tables.runs(experiment, variant)
    rows = [_first_run(runs, mix) for mix in mixes]
    return [
        estimate(label(mix), float(row["n_train_low"] / row["n_train_high"]), deterministic=True)
        for mix, row in zip(mixes, rows, strict=True)
    ]


def time_ratio(tables: Tables, experiment: str, variant: str, mixes: Sequence[str], base: float) -> list[Estimate]:
    """Median seconds per epoch of each mix over that of the first, times `base`; the first is exact and left out."""
    wide = by_seed(tables.runs(experiment, variant), "seconds_per_epoch", mixes)
    return [estimate(label(mix), (base * wide[mix] / wide[mixes[0]]).tolist()) for mix in mixes[1:]]


def number_of_mixes(tables: Tables, experiment: str, variant: str) -> list[Estimate]:
    """Number of different mixes that were trained."""
    return [estimate("mixes", tables.runs(experiment, variant)["mix"].nunique(), deterministic=True)]


def labelled_rows(tables: Tables, experiment: str, fidelity: str) -> list[Estimate]:
    """Rows of the data set with an energy of one fidelity."""
    return [estimate(fidelity, float(_labelled(tables, experiment, fidelity)), deterministic=True)]


def labelled_ratio(tables: Tables, experiment: str, low: str, high: str) -> list[Estimate]:
    """Rows with the low fidelity over rows with the high one, in the whole data set."""
    ratio = _labelled(tables, experiment, low) / _labelled(tables, experiment, high)
    return [estimate("rows, low over high", ratio, deterministic=True)]


def _labelled(tables: Tables, experiment: str, fidelity: str) -> int:
    fidelities = tables.self_energies(experiment, "all")["fidelities"]
    if fidelity not in fidelities:
        raise MissingDataError(f"fidelity {fidelity}: not in the data set of {experiment}")
    return int(fidelities[fidelity]["n_rows"])


def _first_run(runs: pd.DataFrame, mix: str) -> pd.Series:
    chosen = runs[runs["mix"] == mix]
    if chosen.empty:
        raise MissingDataError(f"mix {label(mix)}: not among the results that were asked for")
    return chosen.iloc[0]


def read_inputs(paths: Iterable[PathLike]) -> Tables:
    """The study's results from any files, recognised by where they lie."""
    return Tables.from_paths(paths)


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (
        worse_than, decreasing, rank, extreme_error, error_per_atom, atoms_per_molecule, sizes, size_ratio,
        fidelity_ratio, time_ratio, number_of_mixes, labelled_rows, labelled_ratio,
    )
}  # fmt: skip
