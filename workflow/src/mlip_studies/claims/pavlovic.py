"""Metrics of the study of So3krates on SPICE: what answers each statement of the thesis and each prediction of ours.

Every metric takes the tables and the claim's arguments and returns estimates over seeds. Comparisons of two runs are
paired: both share the seed, and only seeds that both have count. Energies come out in eV and forces in eV/Å unless the
claim asks for kcal/mol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.evaluate import Metric
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import Estimate, estimate
from mlip_studies.errors import InputError
from mlip_studies.units import EV_TO_KCAL_PER_MOL

# Columns of runs.csv by what a claim calls them; see mlip_studies.studies.run_tables.analyse_run.
QUANTITIES: Mapping[str, str] = {
    "energy_mae": "energy_mae_ev",
    "energy_per_atom_mae": "energy_per_atom_mae_ev",
    "force_mae": "force_mae_ev_per_angstrom",
    "corrected_energy_mae": "corrected_test_energy_mae_ev",
    "corrected_energy_per_atom_mae": "corrected_test_energy_per_atom_mae_ev",
    "train_corrected_energy_per_atom_mae": "corrected_train_energy_per_atom_mae_ev",
    "aligned_energy_mae": "aligned_energy_mae_ev",
    "predicted_energy_mae": "predicted_energy_mae_ev",
    "slope": "slope_ev_per_atom",
    "slope_size": "slope_ev_per_atom",
    "slope_error": "slope_se",
    "predicted_slope": "predicted_slope_ev_per_atom",
    "mean": "mean_ev",
    "minus_mean": "mean_ev",
    "error_constant": "error_constant_ev",
    "error_r2": "error_r2",
    "outlier_fraction": "outlier_fraction",
}
FACTORS: Mapping[str, float] = {"eV": 1.0, "kcal/mol": EV_TO_KCAL_PER_MOL}
ROW_COLUMNS: Mapping[str, str] = {"training": "n_train", "validation": "n_val", "test": "n_test"}
# Half width of a normal 95 % interval in standard errors.
_NORMAL_95 = 1.959963984540054
_LAYERS = re.compile(r"-l(\d+)$")


def read_inputs(paths: Iterable[PathLike]) -> RunTables:
    """The study's results from any files, recognised by where they lie."""
    return RunTables.from_paths(paths)


def by_seed(tables: RunTables, run: str | Sequence[str], quantity: str) -> pd.Series:
    """One quantity of a run by seed, in eV, eV/Å or as it stands; seeds without a value are left out.

    Args:
        tables: the results.
        run: name of the run, or alternatives of which the first that was run counts.
        quantity: key of QUANTITIES.

    Returns:
        series with the seeds as index, shape (n_seeds,).

    Raises:
        MissingDataError: the run is not there, or has no value.
        InputError: the table lacks the column, or the quantity is unknown.
    """
    if quantity not in QUANTITIES:
        raise InputError(f"quantity '{quantity}' is unknown; known: {', '.join(QUANTITIES)}")
    name, column = _first(tables, run), QUANTITIES[quantity]
    table = tables.get("runs", name)
    if column not in table:
        raise InputError(f"runs.csv of {name}: column '{column}' is missing; delete the file and run again")
    values = table.set_index("seed")[column].astype(float).dropna()
    if values.empty:
        raise MissingDataError(f"{name}: no value of {column}")
    if quantity == "slope_size":
        values = values.abs()
    return -values if quantity == "minus_mean" else values


def _first(tables: RunTables, run: str | Sequence[str]) -> str:
    names = [run] if isinstance(run, str) else list(run)
    return next((name for name in names if name in tables.names()), names[0])


def _paired(one: pd.Series, other: pd.Series, what: str) -> pd.DataFrame:
    """Columns one and other, for seeds that both have."""
    both = pd.concat([one.rename("one"), other.rename("other")], axis=1, join="inner")
    if both.empty:
        raise MissingDataError(f"no seed is common to {what}")
    return both


def _factor(unit: str) -> float:
    if unit not in FACTORS:
        raise InputError(f"unit '{unit}' is unknown; known: {', '.join(FACTORS)}")
    return FACTORS[unit]


def value(
    tables: RunTables, run: str | Sequence[str], quantity: str, unit: str = "eV", exact: bool = False
) -> list[Estimate]:
    """One quantity of one run.

    Args:
        tables: the results.
        run: name of the run, or alternatives.
        quantity: key of QUANTITIES.
        unit: eV or kcal/mol (per Å for forces).
        exact: it involves no training, only data: the first seed counts.
    """
    values = _factor(unit) * by_seed(tables, run, quantity)
    if exact:
        return [estimate(quantity, float(values.iloc[0]), deterministic=True)]
    return [estimate(quantity, values.tolist())]


def rows(tables: RunTables, run: str, which: str | Sequence[str]) -> list[Estimate]:
    """Rows that a run trained, validated or tested on.

    Args:
        tables: the results.
        run: name of the run.
        which: training, validation, test, or several of them.
    """
    table = tables.get("runs", run)
    parts = [which] if isinstance(which, str) else list(which)
    return [estimate(part, float(table[ROW_COLUMNS[part]].iloc[0]), deterministic=True) for part in parts]


def data_rows(tables: RunTables, dataset: str) -> list[Estimate]:
    """Rows of a data set with an energy, from the check of energy shifts."""
    table = tables.shift_check()
    table = table[table["dataset"] == dataset]
    if table.empty:
        raise MissingDataError(f"data set {dataset}: not among the results that were asked for")
    return [estimate("rows", float(table["n_rows"].max()), deterministic=True)]


def worse_than(
    tables: RunTables,
    pairs: Sequence[Sequence[str]],
    quantity: str,
    factor: float = 1.0,
    better_quantity: str | None = None,
) -> list[Estimate]:
    """Paired differences q(first) - factor q(second) of each pair of runs; positive where the first is worse.

    Args:
        tables: the results.
        pairs: names of two runs each.
        quantity: key of QUANTITIES.
        factor: how many times the second run's value the first must exceed.
        better_quantity: another quantity for the second run.
    """
    found = []
    for worse, better in pairs:
        both = _paired(
            by_seed(tables, worse, quantity),
            by_seed(tables, better, better_quantity or quantity),
            f"{worse} and {better}",
        )
        times = "" if factor == 1 else f"{factor:g} × "
        found.append(estimate(f"{worse} − {times}{better}", (both["one"] - factor * both["other"]).tolist()))
    return found


def improves(tables: RunTables, run: str, before: str, after: str) -> list[Estimate]:
    """Difference of two quantities of one run, before minus after; positive where it improved."""
    both = _paired(by_seed(tables, run, before), by_seed(tables, run, after), run)
    return [estimate("before − after", (both["one"] - both["other"]).tolist())]


def ratio(tables: RunTables, run: str | Sequence[str], numerator: str, denominator: str) -> list[Estimate]:
    """Ratio of two quantities of one run, by seed.

    Raises:
        MissingDataError: the denominator is zero, for instance the predicted slope where nothing is given back.
    """
    both = _paired(by_seed(tables, run, numerator), by_seed(tables, run, denominator), str(run))
    if (both["other"] == 0).any():
        raise MissingDataError(f"{_first(tables, run)}: {denominator} is zero")
    return [estimate(f"{numerator} / {denominator}", (both["one"] / both["other"]).tolist())]


def ratio_to(
    tables: RunTables, run: str | Sequence[str], quantity: str, number: float, unit: str = "eV"
) -> list[Estimate]:
    """One quantity over a number that the paper compares it with, both in ``unit``."""
    values = _factor(unit) * by_seed(tables, run, quantity) / number
    return [estimate(f"{quantity} / {number:g}", values.tolist())]


def run_ratio(tables: RunTables, run: str, other: str, quantity: str) -> list[Estimate]:
    """One quantity of a run over that of another run, paired by seed."""
    both = _paired(by_seed(tables, run, quantity), by_seed(tables, other, quantity), f"{run} and {other}")
    return [estimate(f"{quantity}: {run} / {other}", (both["one"] / both["other"]).tolist())]


def exceeds(
    tables: RunTables, run: str | Sequence[str], numbers: Mapping[str, float], unit: str = "eV"
) -> list[Estimate]:
    """Quantities minus numbers that they are said to exceed; positive agrees.

    Args:
        tables: the results.
        run: name of the run, or alternatives.
        numbers: number by quantity.
        unit: of the numbers, eV or kcal/mol (per Å for forces).
    """
    return [
        estimate(f"{quantity} − {number:g}", (_factor(unit) * by_seed(tables, run, quantity) - number).tolist())
        for quantity, number in numbers.items()
    ]


def slope_beyond_error(tables: RunTables, run: str) -> list[Estimate]:
    """Size of the slope of the energy error against the number of atoms beyond its own 95 % interval; positive agrees.

    The standard error is that of the line, clustered by molecule.
    """
    both = _paired(by_seed(tables, run, "slope_size"), by_seed(tables, run, "slope_error"), run)
    return [estimate("|slope| − 1.96 standard errors", (both["one"] - _NORMAL_95 * both["other"]).tolist())]


def other_layers(tables: RunTables, run: str) -> dict[int, str]:
    """Runs that differ from ``run`` in the number of layers alone, by number of layers.

    Raises:
        MissingDataError: there is none.
    """
    found = {
        int(match[1]): name for name in tables.names() if (match := _LAYERS.search(name)) and name == run + match[0]
    }
    # A run that names the default number of layers is the same network again.
    default = tables.get("runs", run)["n_layers"].iloc[0]
    found = {layers: name for layers, name in sorted(found.items()) if layers != default}
    if not found:
        raise MissingDataError(f"{run}: no other number of layers is among the results that were asked for")
    return found


def layers_change(tables: RunTables, run: str, quantity: str) -> list[Estimate]:
    """Largest relative change of a quantity with the number of layers, by seed.

    Args:
        tables: the results.
        run: the run with the default number of layers.
        quantity: key of QUANTITIES.
    """
    base = by_seed(tables, run, quantity)
    changes = {
        layers: (by_seed(tables, name, quantity) / base - 1).abs() for layers, name in other_layers(tables, run).items()
    }
    largest = pd.DataFrame(changes).dropna().max(axis=1)
    if largest.empty:
        raise MissingDataError(f"no seed is common to all numbers of layers of {run}")
    return [estimate("largest relative change", largest.tolist())]


def layers_not_better(tables: RunTables, run: str, quantity: str) -> list[Estimate]:
    """Difference of each other number of layers to the default, paired by seed; positive where the other is worse."""
    base = by_seed(tables, run, quantity)
    found = []
    for layers, name in other_layers(tables, run).items():
        both = _paired(by_seed(tables, name, quantity), base, f"{name} and {run}")
        found.append(estimate(f"{layers} layers − default", np.subtract(both["one"], both["other"]).tolist()))
    return found


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (
        value, rows, data_rows, worse_than, improves, ratio, ratio_to, run_ratio, exceeds, slope_beyond_error,
        layers_change, layers_not_better,
    )
}  # fmt: skip
