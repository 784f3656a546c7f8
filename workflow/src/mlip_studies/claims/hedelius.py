"""Metrics of the study of the SE(3)-Transformer: what answers each statement of the thesis and of ours.

Every metric takes the tables and the claim's arguments. A run is meant by a key of :data:`RUNS`. Errors are root mean
squares on training rows unless a metric says otherwise, energies per molecule in kcal/mol, forces per component in
kcal/mol/Å, summarised over seeds; comparisons of two runs are paired by seed. Errors on charged particles are those of
one training, with a bootstrap over test trajectories, in the units of the simulation. Dynamics are those of one network
and counted as an observation.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, require
from mlip_studies.claims.evaluate import Metric
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import Estimate, bootstrap, estimate
from mlip_studies.errors import InputError
from mlip_studies.run_names import RunName, parse_run_name
from mlip_studies.units import EV_TO_KCAL_PER_MOL

FloatArray = NDArray[np.float64]

#: a setting that must be there, whatever it is
SET = "set"
_ADJUSTED: Mapping[str, Any] = {
    "data": "ani1x", "network": "se3_basic", "shift": "per_element", "scale": "std", "energy_weight": 1.0,
    "learning_rate": 1.0e-3,
}  # fmt: skip
_RAW: Mapping[str, Any] = {"data": "ani1x", "network": "se3_basic", "shift": "none"}
#: settings of each run by the name that claims use; what is not named is not set
RUNS: Mapping[str, Mapping[str, Any]] = {
    "first": {**_RAW, "energy_weight": 1.0e-5, "clip_norm": 1.0, "max_steps": SET},
    "adjusted": _ADJUSTED,
    "long": {**_ADJUSTED, "max_steps": SET},
    "energy_only": {key: value for key, value in _ADJUSTED.items() if key != "energy_weight"} | {"data": "ani1"},
    "wider": {**_ADJUSTED, "network": "se3_wider"},
    "higher_order": {**_ADJUSTED, "network": "se3_higher_order"},
    "basic_total": {**_ADJUSTED, "network": "se3_basic_total"},
    "gradient": {**_ADJUSTED, "network": "se3_gradient"},
}
#: columns by quantity, without the prefix of the rows
COLUMNS: Mapping[str, str] = {"energy": "energy_rmse_ev", "force": "force_rmse_ev_per_angstrom"}
ROWS: Mapping[str, str] = {"train": "train_", "validation": "validation_", "test": ""}
#: evaluations on either side of a drop of the learning rate
N_AROUND_DROP = 3
#: networks whose layers are the thesis's
NETWORK_PREFIX = "se3_"
#: name of what is no single layer in the measured equivariance
WHOLE_NETWORK = "whole network"
STRUCTURES, TRAJECTORIES = "structures", "trajectories"
#: rows of Table 3.1 that claims mean: energies as they are, less our fit, and less free atoms
AS_THEY_ARE, FITTED, FREE_ATOMS = "as they are", "less linear fit, ours", "less isolated atom"


def read_inputs(paths: Iterable[PathLike]) -> RunTables:
    """The study's results from any files, recognised by where they lie."""
    return RunTables.from_paths(paths)


# --- which run


def _fits(parts: RunName, wanted: Mapping[str, Any]) -> bool:
    """Whether a run has these settings and no others."""
    for key, value in vars(parts).items():
        meant = wanted.get(key)
        if isinstance(meant, float) and value is not None:
            if not math.isclose(value, meant):
                return False
        elif (value is None) if meant == SET else value != meant:
            return False
    return True


def find_run(names: Iterable[str], run: str, **changes: Any) -> str:
    """The run that a claim means, among the names given; of several the one of most steps.

    Args:
        names: names of runs.
        run: key of RUNS.
        changes: settings that differ from those of the key.

    Raises:
        MissingDataError: there is none.
        InputError: the key is unknown.
    """
    if run not in RUNS:
        raise InputError(f"run '{run}' is unknown; known: {', '.join(RUNS)}")
    found = []
    for name in dict.fromkeys(names):
        parts = parse_run_name(name)
        if parts is not None and _fits(parts, {**RUNS[run], **changes}):
            found.append((-(parts.max_steps or 0), name))
    if not found:
        words = " ".join([run.replace("_", " "), *(f"{key} {value}" for key, value in changes.items())])
        raise MissingDataError(f"{words}: not among the results that were asked for")
    return min(found)[1]


def _weighted(tables: RunTables, clip_norm: float) -> dict[float, str]:
    """Runs on raw energies by energy weight, from large to small.

    Raises:
        MissingDataError: fewer than two.
    """
    wanted = {**_RAW, "energy_weight": SET, "clip_norm": float(clip_norm)}
    found: dict[float, str] = {}
    for name in tables.names():
        parts = parse_run_name(name)
        if parts is not None and parts.energy_weight is not None and _fits(parts, wanted):
            found[parts.energy_weight] = name
    if len(found) < 2:
        kind = "clipped" if clip_norm else "not clipped"
        raise MissingDataError(f"energy weights, {kind}: {len(found)} runs, at least 2 are needed")
    return dict(sorted(found.items(), reverse=True))


# --- errors of a run


def _column(quantity: str, rows: str) -> str:
    if quantity not in COLUMNS:
        raise InputError(f"quantity '{quantity}' is unknown; known: {', '.join(COLUMNS)}")
    if rows not in ROWS:
        raise InputError(f"rows '{rows}' are unknown; known: {', '.join(ROWS)}")
    return ROWS[rows] + COLUMNS[quantity]


def by_seed(tables: RunTables, run: str, quantity: str, rows: str = "train") -> pd.Series:
    """An error of a run by seed, in kcal/mol or kcal/mol/Å; seeds without a value are left out.

    Args:
        tables: the results.
        run: name of the run.
        quantity: energy or force.
        rows: train, validation or test.

    Returns:
        series with the seeds as index, shape (n_seeds,).

    Raises:
        MissingDataError: the run is not there, or has no value.
        InputError: the quantity or the rows are unknown.
    """
    column = _column(quantity, rows)
    frame = tables.get("runs", run).set_index("seed")
    values = frame[column].astype(float).dropna() if column in frame else pd.Series(dtype=float)
    if values.empty:
        raise MissingDataError(f"{run}: no value of {column}")
    return EV_TO_KCAL_PER_MOL * values


def _of(tables: RunTables, run: str, quantity: str, rows: str = "train") -> pd.Series:
    return by_seed(tables, find_run(tables.names(), run), quantity, rows)


def _together(columns: Mapping[Any, pd.Series]) -> pd.DataFrame:
    """Columns of several runs, for seeds that all have."""
    both = pd.concat(columns, axis=1, join="inner")
    if both.empty:
        raise MissingDataError(f"no seed is common to {', '.join(map(str, columns))}")
    return both


def fit_error(tables: RunTables, run: str, quantity: str, rows: str = "train") -> list[Estimate]:
    """Error of a run at its end.

    Args:
        tables: the results.
        run: key of RUNS.
        quantity: energy or force.
        rows: train, validation or test.
    """
    return [estimate(quantity, _of(tables, run, quantity, rows).tolist())]


def fit_order(
    tables: RunTables, worse: str, better: str, quantities: Sequence[str], factor: float = 1.0, rows: str = "train"
) -> list[Estimate]:
    """Error of one run minus ``factor`` times that of another, each quantity."""
    found = []
    for quantity in quantities:
        both = _together({name: _of(tables, name, quantity, rows) for name in (worse, better)})
        label = f"{quantity}: {worse} − {f'{factor:g} × ' if factor != 1 else ''}{better}"
        found.append(estimate(label, (both[worse] - factor * both[better]).tolist()))
    return found


def fit_ratio(tables: RunTables, runs: Sequence[str], quantity: str) -> list[Estimate]:
    """Largest over smallest error of several runs, training rows."""
    both = _together({name: _of(tables, name, quantity) for name in runs})
    return [estimate("largest / smallest", (both.max(axis=1) / both.min(axis=1)).tolist())]


def sizes_order(tables: RunTables, order: Sequence[str]) -> list[Estimate]:
    """Error of each run minus that of the one before it, energies and forces, training rows."""
    return [
        one
        for smaller, larger in itertools.pairwise(order)
        for one in fit_order(tables, larger, smaller, tuple(COLUMNS))
    ]


def test_over_train(tables: RunTables, run: str) -> list[Estimate]:
    """Error on test rows minus that on training rows, energies and forces."""
    found = []
    for quantity in COLUMNS:
        both = _together({rows: _of(tables, run, quantity, rows) for rows in ("test", "train")})
        found.append(estimate(f"{quantity}: test − training", (both["test"] - both["train"]).tolist()))
    return found


def rates_order(tables: RunTables, best: float, others: Sequence[float]) -> list[Estimate]:
    """Error with each other learning rate minus that with the best, energies and forces, training rows."""

    def errors(rate: float, quantity: str) -> pd.Series:
        return by_seed(tables, find_run(tables.names(), "adjusted", learning_rate=float(rate)), quantity)

    found = []
    for quantity, rate in itertools.product(COLUMNS, others):
        both = _together({rate: errors(rate, quantity), best: errors(best, quantity)})
        found.append(estimate(f"{quantity}: {rate:g} − {best:g}", (both[rate] - both[best]).tolist()))
    return found


def more_parameters(tables: RunTables, more: str, fewer: str) -> list[Estimate]:
    """Trainable parameters of one network minus those of another."""

    def count(run: str) -> float:
        return float(tables.get("runs", find_run(tables.names(), run))["n_parameters"].iloc[0])

    return [estimate(f"{more} − {fewer}", count(more) - count(fewer), deterministic=True)]


# --- energy weights


def _spread(tables: RunTables, clip_norm: float, quantity: str) -> tuple[pd.Series, set[float]]:
    """Decimal logarithm of largest over smallest error over the energy weights, by seed, and the weights."""
    runs = _weighted(tables, clip_norm)
    errors = _together({weight: by_seed(tables, run, quantity) for weight, run in runs.items()})
    return np.log10(errors.max(axis=1) / errors.min(axis=1)), set(runs)


def weights_spread_order(tables: RunTables, clip_norm: float) -> list[Estimate]:
    """Spread of the force error over the energy weights minus that of the energy error, decades, training rows."""
    both = _together({quantity: _spread(tables, clip_norm, quantity)[0] for quantity in COLUMNS})
    return [estimate("force − energy", (both["force"] - both["energy"]).tolist())]


def clipping_hides(tables: RunTables) -> list[Estimate]:
    """Spread of the energy error over the energy weights without clipping minus that with, decades, training rows.

    Raises:
        MissingDataError: the weights are not the same in both.
    """
    (free, weights), (clipped, others) = (_spread(tables, clip, "energy") for clip in (0.0, 1.0))
    if weights != others:
        raise MissingDataError("energy weights: not the same with and without clipping")
    both = _together({"free": free, "clipped": clipped})
    return [estimate("not clipped − clipped", (both["free"] - both["clipped"]).tolist())]


def clipped_share(tables: RunTables, clip_norm: float) -> list[Estimate]:
    """Share of steps (%) whose gradient was clipped, of the energy weight that has the smallest.

    Steps are seen in windows of the training's log, whose mean norm counts.
    """
    shares = {}
    for weight, run in _weighted(tables, clip_norm).items():
        history = tables.history(run)
        if "clipped_share" not in history:
            raise MissingDataError(f"{run}: no share of clipped steps")
        shares[weight] = history["clipped_share"].astype(float).groupby(history["seed"]).mean().dropna()
    return [estimate("smallest share", (100.0 * _together(shares).min(axis=1)).tolist())]


def drop_effect(tables: RunTables, clip_norm: float) -> list[Estimate]:
    """Energy error before the first drop of the learning rate minus that after it, each energy weight.

    Means over three evaluations on either side, on training rows as seen by the training.

    Raises:
        MissingDataError: no drop with an evaluation on either side, or no error in the history.
    """
    return [
        estimate(f"weight {weight:g}", _around_drop(tables.history(run), run).tolist())
        for weight, run in _weighted(tables, clip_norm).items()
    ]


def _around_drop(history: pd.DataFrame, run: str) -> pd.Series:
    column = _column("energy", "train")
    if column not in history:
        raise MissingDataError(f"{run}: no errors along the training")
    falls = {}
    for seed, part in history.sort_values("step").groupby("seed"):
        rate, error = part["learning_rate"].to_numpy(float), part[column].to_numpy(float)
        dropped = rate < 0.5 * rate[0]
        first = int(np.argmax(dropped))
        if not dropped.any() or first == 0:
            continue
        # Up to the second drop.
        after = error[first:][rate[first:] > 0.5 * rate[first]][:N_AROUND_DROP]
        falls[seed] = float(error[max(0, first - N_AROUND_DROP) : first].mean() - after.mean())
    values = EV_TO_KCAL_PER_MOL * pd.Series(falls, dtype=float).dropna()
    if values.empty:
        raise MissingDataError(f"{run}: no drop of the learning rate with evaluations on either side")
    return values


def never_reached(tables: RunTables, higher: str, lower: str) -> list[Estimate]:
    """Lowest error at any time of one run minus that of another, energies and forces, training rows."""
    found = []
    for quantity in COLUMNS:
        column, lowest = _column(quantity, "train"), {}
        for run in (higher, lower):
            history = tables.history(find_run(tables.names(), run))
            if column not in history:
                raise MissingDataError(f"{run}: no errors along the training")
            lowest[run] = EV_TO_KCAL_PER_MOL * history[column].astype(float).groupby(history["seed"]).min().dropna()
        both = _together(lowest)
        found.append(estimate(f"{quantity}: {higher} − {lower}", (both[higher] - both[lower]).tolist()))
    return found


# --- table 3.1


def _table31(tables: RunTables, row: str, energies: str) -> pd.DataFrame:
    """The line of a data set whose energies are described by words that begin so, one or several.

    Raises:
        MissingDataError: there is none.
    """
    frame = tables.table31()
    chosen = frame[(frame["row"] == row) & frame["energies"].astype(str).str.startswith(energies)]
    if chosen.empty:
        raise MissingDataError(f"table 3.1, {row}, {energies}: not among the results that were asked for")
    return chosen


def _rows31(tables: RunTables) -> list[str]:
    return list(dict.fromkeys(tables.table31()["row"].astype(str)))


def table31_value(tables: RunTables, row: str, self_energies: bool, quantity: str) -> list[Estimate]:
    """Mean or standard deviation (Ha) of the energies of a data set.

    Args:
        tables: the results.
        row: ANI-1 or ANI-1x.
        self_energies: whether those of our fit were subtracted.
        quantity: mean or std.
    """
    if quantity not in ("mean", "std"):
        raise InputError(f"quantity '{quantity}' is unknown; known: mean, std")
    line = _table31(tables, row, FITTED if self_energies else AS_THEY_ARE).iloc[0]
    return [estimate(quantity, float(line[f"{quantity}_hartree"]), deterministic=True)]


def mean_reduction(tables: RunTables) -> list[Estimate]:
    """Size of the mean energy (Ha) minus that of the mean less self energies, each data set."""
    found = []
    for row in _rows31(tables):
        before, after = (abs(float(_table31(tables, row, of)["mean_hartree"].iloc[0])) for of in (AS_THEY_ARE, FITTED))
        found.append(estimate(row, before - after, deterministic=True))
    return found


def std_reduction(tables: RunTables) -> list[Estimate]:
    """By how many per cent subtracting self energies (our fit) lowers the standard deviation, each data set."""
    found = []
    for row in _rows31(tables):
        before, after = (float(_table31(tables, row, of)["std_hartree"].iloc[0]) for of in (AS_THEY_ARE, FITTED))
        found.append(estimate(row, 100.0 * (1.0 - after / before), deterministic=True))
    return found


def self_energy_share(tables: RunTables) -> list[Estimate]:
    """Share (%) of the free atoms in the mean energy, each data set; the smallest of several sources."""
    found = []
    for row in _rows31(tables):
        whole = float(_table31(tables, row, AS_THEY_ARE)["mean_hartree"].iloc[0])
        rest = _table31(tables, row, FREE_ATOMS)["mean_hartree"].astype(float)
        found.append(estimate(row, float((100.0 * (1.0 - rest / whole)).min()), deterministic=True))
    return found


# --- equivariance


def _equivariance(tables: RunTables, precision: str, whole: bool) -> list[Estimate]:
    errors = []
    for name in tables.networks():
        if name.startswith(NETWORK_PREFIX):
            for line in tables.network(name).get("rototranslations", ()):
                if line["precision"] == precision and (line["layer"] == WHOLE_NETWORK) == whole:
                    errors.append(float(line["maximum"]))
    if not errors:
        part = "whole networks" if whole else "layers"
        raise MissingDataError(f"equivariance, {part}, {precision}: not among the results that were asked for")
    return [estimate("largest", max(errors), deterministic=True)]


def layer_error(tables: RunTables, precision: str) -> list[Estimate]:
    """Largest equivariance error (eq. 3.1) of any layer of the thesis's networks over all roto-translations."""
    return _equivariance(tables, precision, whole=False)


def network_error(tables: RunTables, precision: str) -> list[Estimate]:
    """Largest equivariance error of energies and forces of whole networks over all roto-translations."""
    return _equivariance(tables, precision, whole=True)


# --- gradients that are no numbers


def not_finite_weights(tables: RunTables, variant: str) -> list[Estimate]:
    """Gradients of weights that are no numbers, in whole networks with direct forces, all molecules and seeds.

    Args:
        tables: the results.
        variant: angles (harmonics in angles, smoothed norm), or the norm's: unguarded, clamped or smoothed.
    """
    frame = tables.nan_gradients()
    chosen = frame[(frame["part"] == "network") & (frame["quantity"] == "weights") & (frame["variant"] == variant)]
    if chosen.empty:
        raise MissingDataError(f"gradients of whole networks, {variant}: not among the results that were asked for")
    return [estimate("not finite", float(chosen["n_not_finite"].sum()), deterministic=True)]


# --- charged particles


def nbody_errors(tables: RunTables, network: str, quantity: str) -> FloatArray:
    """Mean squared errors of a network by test trajectory, on the windows that it was trained for.

    Args:
        tables: the results.
        network: own or original.
        quantity: x (positions), v (velocities) or both (their mean).

    Returns:
        shape (n_trajectories,), in order of the trajectories, squares of the simulation's units.

    Raises:
        MissingDataError: the network was not trained.
        InputError: the quantity is unknown, or the file is damaged.
    """
    if quantity not in ("x", "v", "both"):
        raise InputError(f"quantity '{quantity}' is unknown; known: x, v, both")
    runs = tables.nbody_runs()
    if network not in runs:
        raise MissingDataError(f"charged particles, {network}: not among the results that were asked for")
    path = require(tables.nbody_predictions(network))
    names = ("window_trajectory", "window_start", "window_error_x", "window_error_v")
    try:
        with np.load(path) as arrays:
            trajectory, start, x, v = (np.asarray(arrays[name]) for name in names)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not the errors of a network ({reason}); delete it and run again") from error
    values = {"x": x, "v": v, "both": 0.5 * (x + v)}[quantity].astype(np.float64)
    if runs[network].get("config", {}).get("windows") == "first":
        trajectory, values = trajectory[start == 0], values[start == 0]
    means: FloatArray = pd.Series(values).groupby(trajectory).mean().to_numpy(dtype=np.float64)
    return means


def nbody_mse(tables: RunTables, network: str, quantity: str) -> list[Estimate]:
    """Mean squared error of a network, over test trajectories; arguments as those of :func:`nbody_errors`."""
    return [bootstrap(quantity, nbody_errors(tables, network, quantity), TRAJECTORIES)]


def _both_networks(tables: RunTables, networks: Sequence[str]) -> FloatArray:
    columns = [nbody_errors(tables, network, "both") for network in networks]
    if len({len(column) for column in columns}) > 1:
        raise InputError(f"charged particles: {' and '.join(networks)} have different test sets; run them again")
    return np.stack(columns, axis=1)


def nbody_order(tables: RunTables, better: str, worse: str) -> list[Estimate]:
    """Mean squared error of one network minus that of another, paired by test trajectory."""
    both = _both_networks(tables, (worse, better))
    return [bootstrap(f"{worse} − {better}", both[:, 0] - both[:, 1], TRAJECTORIES)]


def nbody_ratio(tables: RunTables, networks: Sequence[str]) -> list[Estimate]:
    """Larger over smaller mean squared error of two networks, over test trajectories."""

    def ratio(means: FloatArray) -> FloatArray:
        return np.asarray(means.max(axis=1) / means.min(axis=1))

    return [bootstrap("larger / smaller", _both_networks(tables, networks), TRAJECTORIES, ratio)]


def nbody_beats_line(tables: RunTables, network: str) -> list[Estimate]:
    """Mean squared error of a straight line minus that of a network, over test trajectories of the latter.

    Raises:
        MissingDataError: there is no straight line of the same kind of windows.
    """
    errors = nbody_errors(tables, network, "both")
    frame = tables.nbody_baselines()
    kind = "first" if tables.nbody_runs()[network].get("config", {}).get("windows") == "first" else "every"
    line = frame[(frame["baseline"] == "straight_line") & (frame["windows"] == kind)]
    if line.empty:
        raise MissingDataError(f"charged particles, straight line, windows {kind}: not among the results")
    return [bootstrap("straight line − network", float(line["mse_both"].iloc[0]) - errors, TRAJECTORIES)]


# --- dynamics of water


def _simulated(tables: RunTables, kind: str, job: str, run: str) -> str:
    try:
        return find_run((name for of, name in tables.md_jobs(kind) if of == job), run)
    except MissingDataError as missing:
        raise MissingDataError(f"job {job}, {missing}") from missing


def _topology(tables: RunTables, job: str, run: str) -> tuple[pd.DataFrame, int]:
    """Topology with a column ``step``, and the number of steps that were simulated."""
    name = _simulated(tables, "topology", job, run)
    config = tables.md_summary(job, name)["config"]
    timestep_ps = float(config["timestep_fs"]) / 1000.0
    frame = tables.topology(job, name)
    frame["step"] = np.rint(frame["time_ps"].astype(float) / timestep_ps).astype(int)
    return frame, round(float(config["time_ps"]) / timestep_ps)


def _too_short(simulated: int, steps: int) -> str:
    return f"{simulated} steps were simulated, {steps} are needed." if simulated < steps else ""


def steps_to_pieces(tables: RunTables, job: str, run: str, steps: int, pieces: int) -> list[Estimate]:
    """Steps until a molecule is in so many pieces, the first of its trajectories; all steps simulated if it never is.

    Args:
        tables: the results.
        job: name of the job.
        run: key of RUNS.
        steps: what a simulation without such an end must have lasted.
        pieces: fragments.
    """
    frame, simulated = _topology(tables, job, run)
    broken = frame.loc[frame["n_fragments"] >= pieces, "step"]
    if broken.empty:
        short = _too_short(simulated, steps + 1)
        return [Estimate("not in pieces after", float(simulated), 0.0, 1, True, unresolved=short)]
    return [estimate("steps", float(broken.min()), deterministic=True)]


def bond_change(tables: RunTables, job: str, run: str, steps: int) -> list[Estimate]:
    """Largest change of a bond's length (Å) within so many steps."""
    frame, simulated = _topology(tables, job, run)
    within = frame.loc[frame["step"] <= steps, "largest_bond_change_angstrom"].astype(float)
    if within.empty:
        raise MissingDataError(f"job {job}, {run}: no sample within {steps} steps")
    largest = float(within.max())
    return [Estimate("largest change", largest, 0.0, 1, True, unresolved=_too_short(simulated, steps))]


def pieces_at_end(tables: RunTables, job: str, run: str) -> list[Estimate]:
    """Fragments at the end of the dynamics."""
    frame, _ = _topology(tables, job, run)
    last = frame.sort_values("step").groupby("trajectory")["n_fragments"].last()
    return [estimate("pieces", float(last.max()), deterministic=True)]


def energy_change_order(tables: RunTables, job: str, larger: str, smaller: str) -> list[Estimate]:
    """Largest deviation of the total energy from its start (eV), one run minus another, largest over trajectories.

    Energies that are no numbers count as infinitely far off.
    """
    changes = []
    for run in (larger, smaller):
        frame = tables.md("samples", job, _simulated(tables, "samples", job, run)).sort_values("time_ps")
        total = frame["potential_ev"].astype(float) + frame["kinetic_ev"].astype(float)
        change = (total - total.groupby(frame["replica"]).transform("first")).abs()
        changes.append(float(change.max()) if np.isfinite(total).all() else math.inf)
    if not math.isfinite(changes[1]):
        raise MissingDataError(f"job {job}, {smaller}: energies are no numbers")
    return [estimate(f"{larger} − {smaller}", min(changes[0] - changes[1], 1e300), deterministic=True)]


# --- curl


def _curl(tables: RunTables, run: str) -> pd.DataFrame:
    return tables.curl(find_run(tables.curl_runs(), run))


def largest_asymmetry(tables: RunTables, run: str) -> list[Estimate]:
    """Largest asymmetry of the Jacobian of the forces over structures and seeds."""
    return [estimate("largest", float(_curl(tables, run)["asymmetry"].astype(float).max()), deterministic=True)]


def _per_structure(frame: pd.DataFrame, column: str) -> pd.Series:
    """Sizes of a column for the first seed, by structure."""
    first = frame[frame["seed"] == frame["seed"].min()].set_index("structure")
    return first[column].astype(float).abs().dropna()


def asymmetry(tables: RunTables, run: str) -> list[Estimate]:
    """Mean asymmetry of the Jacobian of the forces of the first seed, over structures."""
    return [bootstrap("mean", _per_structure(_curl(tables, run), "asymmetry").to_numpy(), STRUCTURES)]


def loop_work_order(tables: RunTables, larger: str, smaller: str) -> list[Estimate]:
    """Size of the work around a closed loop (eV), one run minus another, first seeds, paired by structure."""
    columns = {run: _per_structure(_curl(tables, run), "loop_work_ev") for run in (larger, smaller)}
    both = pd.concat(columns, axis=1, join="inner")
    if both.empty:
        raise MissingDataError(f"curl: no structure is common to {larger} and {smaller}")
    return [bootstrap(f"{larger} − {smaller}", (both[larger] - both[smaller]).to_numpy(), STRUCTURES)]


# --- another test set


def transfer_order(tables: RunTables, test: str, run: str) -> list[Estimate]:
    """Force MAE (kcal/mol/Å) on another test set minus that on random test rows, per component, by seed."""
    name = find_run((each for of, each in tables.transfer_tests() if of == test), run)
    frame = tables.transfer(test, name)
    # Molecules count by their atoms, as on the random rows.
    weighted = frame["force_mae_ev_per_angstrom"].astype(float) * frame["n_atoms"]
    there = weighted.groupby(frame["seed"]).sum() / frame["n_atoms"].groupby(frame["seed"]).sum()
    here = tables.get("runs", name).set_index("seed")["force_mae_ev_per_angstrom"].astype(float)
    both = _together({test: there.dropna(), "random": here.dropna()})
    return [estimate(f"{test} − random", (EV_TO_KCAL_PER_MOL * (both[test] - both["random"])).tolist())]


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (
        fit_error, fit_order, fit_ratio, sizes_order, test_over_train, rates_order, more_parameters,
        weights_spread_order, clipping_hides, clipped_share, drop_effect, never_reached,
        table31_value, mean_reduction, std_reduction, self_energy_share, layer_error, network_error, not_finite_weights,
        nbody_mse, nbody_order, nbody_ratio, nbody_beats_line,
        steps_to_pieces, bond_change, pieces_at_end, energy_change_order,
        largest_asymmetry, asymmetry, loop_work_order, transfer_order,
    )
}  # fmt: skip
