"""Metrics of the study of robustness in long and hot dynamics: what answers each statement of the paper and of ours.

Every metric takes the tables and the claim's arguments. A run is meant by its data, its network and its training size,
which the claims call by the paper's names (3.2k, 32k, 320k, 3.2M; the four nested sizes of the mini scale stand for
them). Errors on test rows are summarised over seeds; comparisons of two runs are paired by seed.

Dynamics are those of one network. What is said of many molecules is summarised over molecules (each counts once, the
mean of its trajectories), what is said of one molecule over blocks of its trajectory's time, and whether it breaks over
its trajectories. Errors against DFT count frames whose calculation converged by the default procedure. Energies in eV,
forces in eV/Å, times in ps, shares in per cent.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.evaluate import Metric
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import Estimate, bootstrap, estimate, half_width
from mlip_studies.errors import InputError
from mlip_studies.run_names import parse_run_name

FloatArray = NDArray[np.float64]
Names = str | Sequence[str]

#: training rows by the paper's name of the size: at full, at mini (config/studies/stocker.yaml)
SIZES: Mapping[str, tuple[int, ...]] = {
    "3.2k": (3_200, 12),
    "32k": (32_000, 36),
    "320k": (320_000, 108),
    "3.2M": (3_200_000, 324),
}
#: references of the energies, the paper's first: a run of the second stands in where the first was not run
SHIFTS = ("isolated_atoms", "per_element")
#: columns by quantity: of test errors (runs.csv), and of errors of a frame against DFT
TEST_COLUMNS: Mapping[str, str] = {"ae": "energy_mae_ev", "force": "force_mae_ev_per_angstrom"}
FRAME_COLUMNS: Mapping[str, str] = {"ae": "ae_error_ev", "force": "force_mae_ev_per_angstrom"}
#: status of a calculation that converged by the default procedure
CONVERGED = "converged"
MOLECULES, TRAJECTORIES, BLOCKS = "molecules", "trajectories", "blocks of time"
#: blocks that the samples of one trajectory are cut into: nine samples each of the paper's 72
N_BLOCKS = 8
#: networks that a rank correlation needs at least
LEAST_NETWORKS = 4
_ELEMENT = re.compile(r"([A-Z][a-z]?)(\d*)")


def read_inputs(paths: Iterable[PathLike]) -> RunTables:
    """The study's results from any files, recognised by where they lie."""
    return RunTables.from_paths(paths)


# --- which run


def _several(value: Names) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def find_run(names: Iterable[str], network: str, size: str | None, data: str = "qm7x") -> str:
    """The run of a network on some data with one training size, among the names given.

    Args:
        names: names of runs.
        network: its network.
        size: key of SIZES; None: the largest that there is.
        data: name of its data.

    Raises:
        MissingDataError: there is none.
        InputError: the size is unknown.
    """
    if size is not None and size not in SIZES:
        raise InputError(f"training size '{size}' is unknown; known: {', '.join(SIZES)}")
    found = []
    for name in dict.fromkeys(names):
        parts = parse_run_name(name)
        if parts is None or (parts.data, parts.network) != (data, network) or parts.train_size is None:
            continue
        plain = parts.beta is None and parts.n_layers is None and parts.max_steps is None
        if plain and parts.shift in SHIFTS and (size is None or parts.train_size in SIZES[size]):
            found.append((SHIFTS.index(parts.shift), -parts.train_size, name))
    if not found:
        words = " ".join(part for part in (data, network, size) if part)
        raise MissingDataError(f"{words}: not among the results that were asked for")
    return min(found)[2]


def _trained(tables: RunTables, network: str, size: str | None, data: str = "qm7x") -> str:
    return find_run(tables.names(), network, size, data)


def _simulated(tables: RunTables, job: Names, network: str, size: str | None, data: str = "qm7x") -> tuple[str, str]:
    """(job, run) with an analysis of failures, from the first of the jobs that has one."""
    jobs, missing = _several(job), None
    for each in jobs:
        try:
            return each, find_run((run for of, run in tables.robustness_jobs() if of == each), network, size, data)
        except MissingDataError as error:
            missing = missing or error
    raise MissingDataError(f"job {' or '.join(jobs)}, {missing}")


def _checked(tables: RunTables, job: str, network: str, size: str | None, data: str = "qm7x") -> str:
    """The run whose frames in this job were judged by its own network."""
    names = [run for of, run, judge in tables.judged_jobs() if of == job and judge == run]
    return _named(job, names, network, size, data)


def _named(job: str, names: Iterable[str], network: str, size: str | None, data: str = "qm7x") -> str:
    try:
        return find_run(names, network, size, data)
    except MissingDataError as missing:
        raise MissingDataError(f"job {job}, {missing}") from missing


# --- test errors


def by_seed(tables: RunTables, run: str, quantity: str) -> pd.Series:
    """A test error of a run by seed, in eV or eV/Å; seeds without a value are left out.

    Args:
        tables: the results.
        run: name of the run.
        quantity: key of TEST_COLUMNS.

    Returns:
        series with the seeds as index, shape (n_seeds,).

    Raises:
        MissingDataError: the run is not there, or has no value.
        InputError: the quantity is unknown.
    """
    if quantity not in TEST_COLUMNS:
        raise InputError(f"quantity '{quantity}' is unknown; known: {', '.join(TEST_COLUMNS)}")
    values = tables.get("runs", run).set_index("seed")[TEST_COLUMNS[quantity]].astype(float).dropna()
    if values.empty:
        raise MissingDataError(f"{run}: no value of {TEST_COLUMNS[quantity]}")
    return values


def _together(columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Columns of several runs, for seeds that all have."""
    both = pd.concat(columns, axis=1, join="inner")
    if both.empty:
        raise MissingDataError(f"no seed is common to {', '.join(columns)}")
    return both


def _by_size(tables: RunTables, network: str, quantity: str, sizes: Sequence[str], data: str = "qm7x") -> pd.DataFrame:
    return _together({size: by_seed(tables, _trained(tables, network, size, data), quantity) for size in sizes})


def test_error(
    tables: RunTables, network: str, quantity: str, size: str | None = None, data: str = "qm7x"
) -> list[Estimate]:
    """MAE on the random test rows.

    Args:
        tables: the results.
        network: its network.
        quantity: ae (eV per molecule) or force (eV/Å per component).
        size: key of SIZES; None: the largest that there is.
        data: name of the data it was trained on.
    """
    return [estimate(quantity, by_seed(tables, _trained(tables, network, size, data), quantity).tolist())]


def split_rows(tables: RunTables, network: str) -> list[Estimate]:
    """Rows of every training set with its validation set, and test rows."""
    found, n_test = [], math.nan
    for size in SIZES:
        first = tables.get("runs", _trained(tables, network, size)).iloc[0]
        n_test = float(first["n_test"])
        found += [
            estimate(f"training {size}", float(first["n_train"]), deterministic=True),
            estimate(f"validation {size}", float(first["n_val"]), deterministic=True),
        ]
    return [estimate("test", n_test, deterministic=True), *found]


def parameters(tables: RunTables, network: str, size: str) -> list[Estimate]:
    """Trainable parameters of a network, in millions."""
    number = float(tables.get("runs", _trained(tables, network, size))["n_parameters"].iloc[0])
    return [estimate("parameters", number / 1e6, deterministic=True)]


def _rows_of(tables: RunTables, network: str, sizes: Sequence[str]) -> list[float]:
    return [float(tables.get("runs", _trained(tables, network, size))["n_train"].iloc[0]) for size in sizes]


def bend(tables: RunTables, network: str, quantity: str, sizes: Sequence[str]) -> list[Estimate]:
    """Distance of a middle size's error from the line between two others on the log–log scale, in decades, by seed."""
    errors = np.log10(_by_size(tables, network, quantity, sizes))
    low, middle, high = np.log10(_rows_of(tables, network, sizes))
    share = (middle - low) / (high - low)
    first, second, third = (errors[size] for size in sizes)
    return [estimate(f"distance at {sizes[1]}", (second - (1 - share) * first - share * third).abs().tolist())]


def levels_off(tables: RunTables, network: str, quantity: str, sizes: Sequence[str], share: float) -> list[Estimate]:
    """``share`` of the log–log slope between the first two sizes minus that between the last two; positive agrees."""
    errors = np.log10(_by_size(tables, network, quantity, sizes))
    low, middle, high = np.log10(_rows_of(tables, network, sizes))
    first, second, third = (errors[size] for size in sizes)
    early, late = (first - second) / (middle - low), (second - third) / (high - middle)
    return [estimate(f"{share:g} × slope before − slope after {sizes[1]}", (share * early - late).tolist())]


def errors_fall(tables: RunTables, network: str, quantity: str, pairs: Sequence[Sequence[str]]) -> list[Estimate]:
    """Error with the first size of each pair minus that with the second, paired by seed; positive where it falls."""
    found = []
    for small, large in pairs:
        both = _by_size(tables, network, quantity, (small, large))
        found.append(estimate(f"{small} − {large}", (both[small] - both[large]).tolist()))
    return found


def beats(
    tables: RunTables, quantity: str, sizes: Sequence[str], better: Sequence[str], worse: Sequence[str]
) -> list[Estimate]:
    """Error of each network of ``worse`` minus that of each of ``better``, at every size, paired by seed."""
    found = []
    for size, loser, winner in itertools.product(sizes, worse, better):
        both = _together({name: by_seed(tables, _trained(tables, name, size), quantity) for name in (loser, winner)})
        found.append(estimate(f"{size}: {loser} − {winner}", (both[loser] - both[winner]).tolist()))
    return found


def exception(
    tables: RunTables, quantity: str, size: str, better: Sequence[str], worse: Sequence[str]
) -> list[Estimate]:
    """Largest error of ``better`` minus smallest of ``worse``, by seed; positive where one of the latter wins."""
    both = _together({name: by_seed(tables, _trained(tables, name, size), quantity) for name in (*better, *worse)})
    difference = both[list(better)].max(axis=1) - both[list(worse)].min(axis=1)
    return [estimate(f"{size}: largest of {', '.join(better)} − smallest of {', '.join(worse)}", difference.tolist())]


def similarity(tables: RunTables, quantity: str, sizes: Sequence[str], networks: Sequence[str]) -> list[Estimate]:
    """Relative difference of two networks' errors at every size, paired by seed."""
    found = []
    for size in sizes:
        both = _together({name: by_seed(tables, _trained(tables, name, size), quantity) for name in networks})
        found.append(estimate(size, (both[networks[0]] / both[networks[1]] - 1).abs().tolist()))
    return found


def similarity_grows(
    tables: RunTables, quantity: str, small: Sequence[str], large: Sequence[str], networks: Sequence[str]
) -> list[Estimate]:
    """Relative difference of two networks' errors, mean of the small sizes minus mean of the large, paired by seed."""
    both = _together(
        {
            f"{size} {name}": by_seed(tables, _trained(tables, name, size), quantity)
            for size in (*small, *large)
            for name in networks
        }
    )
    one, other = networks
    difference = {size: (both[f"{size} {one}"] / both[f"{size} {other}"] - 1).abs() for size in (*small, *large)}
    means = [np.mean([difference[size] for size in sizes], axis=0) for sizes in (small, large)]
    return [estimate("small − large", (means[0] - means[1]).tolist())]


def _common(tables: RunTables, network: Names, data: str, against: str, quantity: str) -> dict[str, pd.DataFrame]:
    """Test errors of runs on two data at every size that both have, of the first network that has one."""
    for each in _several(network):
        found: dict[str, pd.DataFrame] = {}
        for size in SIZES:
            try:
                found[size] = _together(
                    {name: by_seed(tables, _trained(tables, each, size, name), quantity) for name in (data, against)}
                )
            except MissingDataError:
                continue
        if found:
            return found
    names = " or ".join(_several(network))
    raise MissingDataError(f"{data} and {against}, {names}: no size of both is among the results that were asked for")


def data_difference(tables: RunTables, network: Names, data: str, against: str, quantity: str) -> list[Estimate]:
    """Test error of runs on ``data`` minus that of runs on ``against``, every size that both have, paired by seed.

    Args:
        tables: the results.
        network: its network, or several of which the first counts that was run on both.
        data: name of the one data.
        against: name of the other data.
        quantity: ae or force.
    """
    common = _common(tables, network, data, against, quantity)
    return [
        estimate(f"{size}: {data} − {against}", (both[data] - both[against]).tolist()) for size, both in common.items()
    ]


def data_ratio(tables: RunTables, network: Names, data: str, against: str, quantity: str) -> list[Estimate]:
    """As :func:`data_difference`, as a ratio."""
    common = _common(tables, network, data, against, quantity)
    return [
        estimate(f"{size}: {data} / {against}", (both[data] / both[against]).tolist()) for size, both in common.items()
    ]


# --- the floor of the checks


def floor_of(tables: RunTables, quantity: str, n_atoms: float | None = None) -> float:
    """By how much test rows differ between the level of the checks and that of the labels.

    Args:
        tables: the results.
        quantity: ae (mean size of the difference, eV), force (MAE of components, eV/Å), or spread (standard deviation
            of the energy differences after one constant per element, eV).
        n_atoms: of the molecule that is judged: differences of energies grow with the molecule; None: as test rows.

    Returns:
        the floor, NaN where it was not measured.
    """
    try:
        frame = tables.floor()
    except MissingDataError:
        return math.nan
    frame = frame[frame["ae_difference_ev"].notna()]
    if frame.empty:
        return math.nan
    if quantity == "force":
        return float(frame["force_mae_ev_per_angstrom"].mean())
    difference, atoms = frame["ae_difference_ev"].to_numpy(float), frame["n_atoms"].to_numpy(float)
    if quantity == "ae":
        if n_atoms is None:
            return float(np.abs(difference).mean())
        return float(np.abs(difference / atoms).mean() * n_atoms)
    return _spread(difference, list(frame["formula"]))


def _spread(difference: FloatArray, formulas: Sequence[str]) -> float:
    counts = [{s: int(n or 1) for s, n in _ELEMENT.findall(text)} for text in formulas]
    elements = sorted({symbol for each in counts for symbol in each})
    columns = np.array([[each.get(symbol, 0) for symbol in elements] for each in counts], dtype=np.float64)
    free = len(difference) - int(np.linalg.matrix_rank(columns))
    if free < 1:
        return math.nan
    residual = difference - columns @ np.linalg.lstsq(columns, difference, rcond=None)[0]
    return float(np.sqrt((residual**2).sum() / free))


def floor(tables: RunTables, quantity: str) -> list[Estimate]:
    """The floor itself; data, no training.

    Raises:
        MissingDataError: it was not measured.
    """
    value = floor_of(tables, quantity)
    if math.isnan(value):
        raise MissingDataError("floor: not among the results that were asked for")
    return [estimate(f"floor, {quantity}", value, deterministic=True)]


# --- frames against DFT


def _key(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _of_molecules(frame: pd.DataFrame, molecules: Sequence[str] | None, what: str) -> pd.DataFrame:
    """Rows of these molecules, by name without regard to capitals and signs.

    Raises:
        MissingDataError: one of them is not there.
    """
    if molecules is None:
        return frame
    keys = frame["name"].map(_key)
    for molecule in molecules:
        if not (keys == _key(molecule)).any():
            raise MissingDataError(f"{what}, {molecule}: not among the results that were asked for")
    return frame[keys.isin([_key(molecule) for molecule in molecules])]


def _at(frame: pd.DataFrame, temperature: float | None, what: str) -> pd.DataFrame:
    if temperature is None:
        return frame
    rows = frame[np.isclose(frame["temperature_k"].astype(float), temperature)]
    if rows.empty:
        raise MissingDataError(f"{what} at {temperature:g} K: not among the results that were asked for")
    return rows


def frames_with_reference(
    tables: RunTables,
    job: str,
    run: str,
    temperature: float | None = None,
    judge: str | None = None,
    molecules: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Judged frames whose calculation converged by the default procedure.

    Args:
        tables: the results.
        job: name of the job.
        run: whose network drove the dynamics.
        temperature: in K; None: all.
        judge: whose network is judged; None: the same.
        molecules: names; None: all.

    Raises:
        MissingDataError: there is no such frame.
    """
    frame = _of_molecules(_at(tables.judged(job, run, judge), temperature, f"{job} {run}"), molecules, f"{job} {run}")
    frame = frame[(frame["status"] == CONVERGED) & frame["ae_error_ev"].notna()]
    if frame.empty:
        raise MissingDataError(f"{job} {run}: no calculation converged")
    return frame


def per_molecule(frame: pd.DataFrame, quantity: str) -> pd.Series:
    """MAE of each molecule, the mean over its trajectories of each one's MAE, by number of the start.

    Args:
        frame: judged frames.
        quantity: ae or force.
    """
    errors = frame.assign(error=frame[FRAME_COLUMNS[quantity]].astype(float).abs())
    trajectories = errors.groupby(["start", "trajectory"])["error"].mean()
    return trajectories.groupby("start").mean()


def _ratio(means: FloatArray) -> FloatArray:
    undefined = np.full(len(means), np.nan)
    ratios: FloatArray = np.divide(means[:, 0], means[:, 1], out=undefined, where=means[:, 1] != 0)
    return ratios


def _both(one: pd.Series, other: pd.Series, what: str) -> FloatArray:
    """Two columns, for molecules that both have, shape (n_molecules, 2)."""
    both = pd.concat([one.rename("one"), other.rename("other")], axis=1, join="inner").dropna()
    if both.empty:
        raise MissingDataError(f"{what}: no molecule is common to both")
    values: FloatArray = both.to_numpy(dtype=np.float64)
    return values


def md_error(
    tables: RunTables, job: str, network: str, size: str, quantity: str, temperature: float, data: str = "qm7x"
) -> list[Estimate]:
    """MAE of a network on frames of its own dynamics, over molecules.

    Args:
        tables: the results.
        job: name of the job.
        network: its network.
        size: key of SIZES.
        quantity: ae or force.
        temperature: nominal, in K.
        data: name of the data it was trained on.
    """
    frame = frames_with_reference(tables, job, _checked(tables, job, network, size, data), temperature)
    return [bootstrap(quantity, per_molecule(frame, quantity).to_numpy(), MOLECULES, floor=floor_of(tables, quantity))]


def md_over_test(
    tables: RunTables, job: str, network: str, size: str, quantity: str, temperature: float
) -> list[Estimate]:
    """MAE on frames of a network's own dynamics over that on its test rows, first seed, over molecules.

    The temperature is in K.
    """
    run = _checked(tables, job, network, size)
    values = per_molecule(frames_with_reference(tables, job, run, temperature), quantity).to_numpy()
    test = float(by_seed(tables, run, quantity).iloc[0])
    return [bootstrap(f"{quantity}: dynamics / test", values / test, MOLECULES)]


def _buried(values: FloatArray, floor: float, what: str) -> str:
    """Why a ratio to these errors cannot be formed: most of them is the difference of two levels of theory."""
    if math.isnan(floor) or values.mean() >= 2 * floor:
        return ""
    return f"Most of the {what} of {values.mean():.2g} is the floor of the reference calculations, {floor:.2g}."


def md_growth(
    tables: RunTables,
    job: str,
    network: str,
    sizes: Sequence[str],
    quantities: Sequence[str],
    temperatures: Sequence[float],
) -> list[Estimate]:
    """MAE in dynamics at the second temperature over that at the first, over molecules.

    Temperatures are in K.
    """
    found = []
    for size, quantity in itertools.product(sizes, quantities):
        run = _checked(tables, job, network, size)
        cold, hot = (per_molecule(frames_with_reference(tables, job, run, each), quantity) for each in temperatures)
        both = _both(hot, cold, f"{job} {run}")
        buried = _buried(both[:, 1], floor_of(tables, quantity), f"{quantity} error at {temperatures[0]:g} K")
        found.append(bootstrap(f"{size} {quantity}", both, MOLECULES, _ratio, unresolved=buried))
    return found


def md_rise(
    tables: RunTables,
    job: str,
    network: str,
    pairs: Sequence[Sequence[str]],
    quantities: Sequence[str],
    temperatures: Sequence[float],
    factor: float,
) -> list[Estimate]:
    """Increase of the MAE between two temperatures: first size of a pair minus ``factor`` times the second's.

    Temperatures are in K.
    """
    found = []
    for (steep, flat), quantity in itertools.product(pairs, quantities):
        rises = []
        for size in (steep, flat):
            run = _checked(tables, job, network, size)
            cold, hot = (per_molecule(frames_with_reference(tables, job, run, t), quantity) for t in temperatures)
            rises.append((hot - cold).dropna())
        both = _both(rises[0], rises[1], f"{job} {network} {steep} and {flat}")
        name = f"{quantity}: {steep} − {factor:g} × {flat}"
        found.append(bootstrap(name, both[:, 0] - factor * both[:, 1], MOLECULES))
    return found


def md_size_ratio(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], quantities: Sequence[str]
) -> list[Estimate]:
    """MAE in dynamics, all temperatures, with the first size over that with the second, over molecules."""
    found = []
    for quantity in quantities:
        one, other = (
            per_molecule(frames_with_reference(tables, job, _checked(tables, job, network, size)), quantity)
            for size in sizes
        )
        both = _both(one, other, f"{job} {network} {' and '.join(sizes)}")
        buried = _buried(both[:, 1], floor_of(tables, quantity), f"{quantity} error in dynamics")
        found.append(bootstrap(f"{quantity}: {sizes[0]} / {sizes[1]}", both, MOLECULES, _ratio, unresolved=buried))
    return found


# --- which calculations converge


def _share_by_molecule(frame: pd.DataFrame) -> pd.Series:
    """Share of converged calculations of each molecule, per cent, by number of the start."""
    return 100 * (frame["status"] == CONVERGED).groupby(frame["start"]).mean()


def _labelled(tables: RunTables, job: str, network: str, size: str) -> str:
    return _named(job, [run for of, run in tables.check_jobs() if of == job], network, size)


def converged_share(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], temperature: float | None = None
) -> list[Estimate]:
    """Share of calculations that converged by the default procedure, per cent, over molecules, one part per size.

    The temperature is in K; all if None.
    """
    found = []
    for size in sizes:
        run = _labelled(tables, job, network, size)
        frame = _at(tables.checks(job, run), temperature, f"{job} {run}")
        found.append(bootstrap(size, _share_by_molecule(frame).to_numpy(), MOLECULES))
    return found


def converged_falls(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], temperatures: Sequence[float]
) -> list[Estimate]:
    """Share that converged at the first temperature minus that at the second, paired by molecule.

    Temperatures are in K.
    """
    found = []
    for size in sizes:
        run = _labelled(tables, job, network, size)
        frame, what = tables.checks(job, run), f"{job} {run}"
        cold, hot = (_share_by_molecule(_at(frame, each, what)) for each in temperatures)
        both = _both(cold, hot, what)
        found.append(bootstrap(size, both[:, 0] - both[:, 1], MOLECULES))
    return found


def converged_of_molecule(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecule: Names
) -> list[Estimate]:
    """Share of calculations that converged by the default procedure, per cent, of single molecules, over blocks.

    The temperature is in K.
    """
    run = _labelled(tables, job, network, size)
    frame = _at(tables.checks(job, run), temperature, f"{job} {run}")
    found = []
    for name in _several(molecule):
        part = _of_molecules(frame, [name], f"{job} {run}")
        converged = part.assign(converged=100.0 * (part["status"] == CONVERGED))
        found.append(_over_blocks(name, converged, lambda block: float(block["converged"].mean())))
    return found


# --- failures


def _failures(
    tables: RunTables, job: str, run: str, temperature: float | None = None, molecules: Sequence[str] | None = None
) -> pd.DataFrame:
    frame = _at(tables.robustness(job, run), temperature, f"{job} {run}")
    return _of_molecules(frame, molecules, f"{job} {run}")


def _failed_by_molecule(
    tables: RunTables, job: str, network: str, size: str | None, temperature: float | None, data: str = "qm7x"
) -> pd.Series:
    """Share of a network's trajectories that failed, of each molecule, per cent, by number of the start."""
    of, run = _simulated(tables, job, network, size, data)
    frame = _failures(tables, of, run, temperature)
    return 100 * frame["failed"].groupby(frame["start"]).mean()


def failed_share(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], temperature: float | None = None
) -> list[Estimate]:
    """Share of trajectories that failed, per cent, over molecules, one part per size.

    The temperature is in K; all if None.
    """
    found = []
    for size in sizes:
        shares = _failed_by_molecule(tables, job, network, size, temperature)
        found.append(bootstrap(size, shares.to_numpy(), MOLECULES))
    return found


def failed_of_networks(
    tables: RunTables, job: str, networks: Sequence[str], size: str, temperature: float
) -> list[Estimate]:
    """As :func:`failed_share`, one part per network."""
    found = []
    for network in networks:
        shares = _failed_by_molecule(tables, job, network, size, temperature)
        found.append(bootstrap(network, shares.to_numpy(), MOLECULES))
    return found


def failed_difference(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], temperature: float | None = None
) -> list[Estimate]:
    """Share of trajectories that failed with the first size minus that with the second, paired by molecule.

    The temperature is in K; all if None.
    """
    shares = [_failed_by_molecule(tables, job, network, size, temperature) for size in sizes]
    both = _both(shares[0], shares[1], f"job {job} {network} {' and '.join(sizes)}")
    return [bootstrap(f"{sizes[0]} − {sizes[1]}", both[:, 0] - both[:, 1], MOLECULES)]


def failed_by_data(
    tables: RunTables, job: str, network: str, data: str, against: str, temperature: float, size: str
) -> list[Estimate]:
    """Share of trajectories that failed with training rows of ``against`` minus that with those of ``data``.

    Paired by molecule; positive where the latter fail less.

    Args:
        tables: the results.
        job: name of the job.
        network: its network.
        data: name of the data that is said to fail less, whatever their number of rows.
        against: name of the other.
        temperature: nominal, in K.
        size: key of SIZES, of ``against``.
    """
    shares = [
        _failed_by_molecule(tables, job, network, rows, temperature, name)
        for name, rows in ((against, size), (data, None))
    ]
    both = _both(shares[0], shares[1], f"job {job} {network} {against} and {data}")
    return [bootstrap(f"{against} − {data}", both[:, 0] - both[:, 1], MOLECULES)]


def fates(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecules: Sequence[str]
) -> list[Estimate]:
    """Share of trajectories that failed, per cent, one part per molecule, over its trajectories.

    The temperature is in K.
    """
    of, run = _simulated(tables, job, network, size)
    found = []
    for molecule in molecules:
        frame = _failures(tables, of, run, temperature, [molecule])
        found.append(_over_trajectories(molecule, np.asarray(100.0 * frame["failed"], dtype=np.float64)))
    return found


def failure_times(
    tables: RunTables,
    job: Names,
    network: str,
    temperature: float,
    size: str | None = None,
    data: str = "qm7x",
    molecule: str | None = None,
    pathological_of: str | None = None,
) -> list[Estimate]:
    """Time of the first failure, ps; a trajectory without one counts with its length.

    Args:
        tables: the results.
        job: name of the job, or alternatives of which the first counts that has the run.
        network: its network.
        temperature: nominal, in K.
        size: key of SIZES; None: the largest that there is.
        data: name of the data it was trained on.
        molecule: only this one, over its trajectories.
        pathological_of: only molecules that failed at this temperature with the network of the random rows of this
            size; over molecules.

    Raises:
        MissingDataError: no molecule is left.
    """
    of, run = _simulated(tables, job, network, size, data)
    frame = _failures(tables, of, run, temperature, None if molecule is None else [molecule])
    times = frame["failure_ps"].astype(float).where(frame["failed"], frame["observed_ps"].astype(float))
    if molecule is not None:
        return [_over_trajectories(molecule, np.asarray(times, dtype=np.float64))]
    by_molecule = times.groupby(frame["start"]).mean()
    if pathological_of is not None:
        sparse = _broken(tables, of, network, pathological_of, temperature)
        by_molecule = by_molecule[by_molecule.index.isin(sparse)]
        if by_molecule.empty:
            raise MissingDataError(f"no molecule failed with {network} {pathological_of} at {temperature:g} K")
    return [bootstrap("time of the first failure", by_molecule.to_numpy(), MOLECULES)]


def _broken(tables: RunTables, job: Names, network: str, size: str, temperature: float) -> list[int]:
    """Numbers of the starts of which a trajectory failed."""
    of, run = _simulated(tables, job, network, size)
    frame = _failures(tables, of, run, temperature)
    return sorted(set(frame.loc[frame["failed"], "start"]))


def latest_failure(
    tables: RunTables, job: str, network: str, sizes: Sequence[str], at_least_ps: float
) -> list[Estimate]:
    """Latest first failure of any trajectory, ps; an observation, since one trajectory suffices. 0 where none failed.

    Args:
        tables: the results.
        job: name of the job.
        network: its network.
        sizes: keys of SIZES.
        at_least_ps: trajectories must have been looked at for so long.

    Raises:
        MissingDataError: all are shorter.
    """
    frames = [_failures(tables, *_simulated(tables, job, network, size)) for size in sizes]
    frame = pd.concat(frames, ignore_index=True)
    longest = float(frame["observed_ps"].max())
    if longest < at_least_ps:
        raise MissingDataError(f"job {job}: the longest trajectory has {longest:g} ps, less than {at_least_ps:g}")
    failed = frame.loc[frame["failed"], "failure_ps"].astype(float)
    return [estimate("latest failure", float(failed.max()) if len(failed) else 0.0, deterministic=True)]


# --- before and after a failure


def _with_both(frame: pd.DataFrame) -> pd.DataFrame:
    """Frames of trajectories that have some before and some after their failure."""
    alive = frame.groupby("trajectory")["alive"]
    return frame[alive.transform("any") & ~alive.transform("all")]


def worst_after_break(tables: RunTables, job: str, network: str, size: str) -> list[Estimate]:
    """Largest AE error of a frame after the first failure, eV; an observation. 0 where no trajectory failed."""
    frame = frames_with_reference(tables, job, _checked(tables, job, network, size))
    errors = frame.loc[~frame["alive"], "ae_error_ev"].astype(float).abs()
    return [estimate("largest error", float(errors.max()) if len(errors) else 0.0, deterministic=True)]


def worst_error(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecules: Sequence[str]
) -> list[Estimate]:
    """Largest AE error of a frame of each molecule, eV; an observation."""
    run = _checked(tables, job, network, size)
    found = []
    for molecule in molecules:
        frame = frames_with_reference(tables, job, run, temperature, molecules=[molecule])
        found.append(estimate(molecule, float(frame["ae_error_ev"].abs().max()), deterministic=True))
    return found


def error_after_break(tables: RunTables, job: str, network: str, size: str, factor: float) -> list[Estimate]:
    """AE MAE after the first failure minus ``factor`` times that before, over trajectories that have both."""
    run = _checked(tables, job, network, size)
    frame = _with_both(frames_with_reference(tables, job, run))
    if frame.empty:
        raise MissingDataError(f"{job} {run}: no trajectory has converged frames before and after a failure")
    errors = frame["ae_error_ev"].astype(float).abs()
    table = errors.groupby([frame["trajectory"], frame["alive"]]).mean().unstack()
    return [bootstrap(f"after − {factor:g} × before", (table[False] - factor * table[True]).to_numpy(), TRAJECTORIES)]


def error_share_after_break(
    tables: RunTables, job: str, network: str, size: str, quantity: str, temperature: float
) -> list[Estimate]:
    """Share of the MAE in a network's own dynamics (%) that comes from frames after a failure, over molecules.

    The temperature is in K.
    """
    frame = frames_with_reference(tables, job, _checked(tables, job, network, size), temperature)
    column = FRAME_COLUMNS[quantity]
    whole = per_molecule(frame, quantity)
    after = per_molecule(frame.assign(**{column: frame[column].astype(float).where(~frame["alive"], 0.0)}), quantity)
    both = _both(after, whole, f"{job} {network} {size}")
    return [bootstrap(f"{quantity} after a failure", both, MOLECULES, lambda means: 100 * _ratio(means))]


def converged_after_break(tables: RunTables, job: str, network: str) -> list[Estimate]:
    """Share of converged calculations (%) before minus after the first failure, over trajectories of all sizes."""
    differences: list[float] = []
    for size in SIZES:
        try:
            run = _checked(tables, job, network, size)
        except MissingDataError:
            continue
        frame = _with_both(tables.judged(job, run))
        if frame.empty:
            continue
        share = 100.0 * (frame["status"] == CONVERGED)
        table = share.groupby([frame["trajectory"], frame["alive"]]).mean().unstack()
        differences += (table[True] - table[False]).tolist()
    if not differences:
        raise MissingDataError(f"job {job}, {network}: no trajectory has checked frames before and after a failure")
    return [bootstrap("before − after", np.array(differences), TRAJECTORIES)]


# --- one network on another one's trajectories


def cross_error(
    tables: RunTables, job: str, network: str, judge: str, frames: str, quantity: str, temperature: float
) -> list[Estimate]:
    """Error of the network of size ``judge`` on the dynamics of that of size ``frames``.

    Over molecules that broke in the dynamics of the former at this temperature (K).
    """
    values = _cross(tables, job, network, judge, frames, quantity, temperature)
    return [bootstrap(quantity, values.to_numpy(), MOLECULES, floor=floor_of(tables, quantity))]


def cross_order(
    tables: RunTables, job: str, network: str, judge: str, frames: str, quantity: str, temperature: float, factor: float
) -> list[Estimate]:
    """Error on the own dynamics minus ``factor`` times that on the other network's, paired by molecule.

    The temperature is in K.
    """
    own = _cross(tables, job, network, judge, judge, quantity, temperature)
    other = _cross(tables, job, network, judge, frames, quantity, temperature)
    both = _both(own, other, f"{job} {network} {judge}")
    return [bootstrap(f"own − {factor:g} × other", both[:, 0] - factor * both[:, 1], MOLECULES)]


def _cross(
    tables: RunTables, job: str, network: str, judge: str, frames: str, quantity: str, temperature: float
) -> pd.Series:
    sparse, driver = _checked(tables, job, network, judge), _checked(tables, job, network, frames)
    broken = _broken(tables, job, network, judge, temperature)
    frame = frames_with_reference(tables, job, driver, temperature, judge=sparse)
    frame = frame[frame["start"].isin(broken)]
    if frame.empty:
        raise MissingDataError(f"{job} {sparse}: no molecule failed at {temperature:g} K and has converged frames")
    return per_molecule(frame, quantity)


# --- single molecules


def _over_trajectories(name: str, values: FloatArray) -> Estimate:
    return Estimate(name, float(values.mean()), half_width(values.tolist()), len(values), of=TRAJECTORIES)


def _over_blocks(
    name: str, frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], floor: float | None = None
) -> Estimate:
    """A statistic of one molecule's frames, with an interval from blocks of time (Student t).

    The value is that of all frames, the interval that of the mean over blocks. With three trajectories or more these
    are the blocks.
    """
    trajectories = [part.sort_values("time_ps") for _, part in frame.groupby("trajectory")]
    if len(trajectories) >= 3:
        parts, of = trajectories, TRAJECTORIES
    else:
        pieces = [np.array_split(part.index.to_numpy(), min(N_BLOCKS, len(part))) for part in trajectories]
        parts, of = [frame.loc[rows] for each in pieces for rows in each], BLOCKS
    values = [value for value in (statistic(part) for part in parts) if math.isfinite(value)]
    return Estimate(name, statistic(frame), half_width(values), len(values), of=of, floor=floor)


def _shape(what: str) -> Callable[[pd.DataFrame], float]:
    """Statistic of frames of one molecule: shift, std, r2 or force."""

    def r2(frame: pd.DataFrame) -> float:
        one, other = frame["ae_dft_ev"].to_numpy(float), frame["ae_predicted_ev"].to_numpy(float)
        if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
            return math.nan
        return float(np.corrcoef(one, other)[0, 1] ** 2)

    def std(frame: pd.DataFrame) -> float:
        return float(frame["ae_error_ev"].std(ddof=1)) if len(frame) > 1 else math.nan

    shapes: dict[str, Callable[[pd.DataFrame], float]] = {
        "shift": lambda frame: float(frame["ae_error_ev"].mean()),
        "std": std,
        "r2": r2,
        "force": lambda frame: float(frame["force_mae_ev_per_angstrom"].mean()),
    }
    if what not in shapes:
        raise InputError(f"'{what}' is unknown; known: {', '.join(shapes)}")
    return shapes[what]


def _shape_floor(tables: RunTables, what: str, frame: pd.DataFrame) -> float | None:
    if what == "shift":
        return floor_of(tables, "ae", float(frame["n_atoms"].mean()))
    return {"force": floor_of(tables, "force"), "std": floor_of(tables, "spread")}.get(what)


def error_shape(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecule: Names, what: str
) -> list[Estimate]:
    """Mean (shift) or standard deviation (std) of the AE error, R² of the AE, or force MAE, of single molecules.

    Args:
        tables: the results.
        job: name of the job.
        network: its network.
        size: key of SIZES.
        temperature: nominal, in K.
        molecule: name, or several.
        what: shift (predicted − DFT, eV), std (eV), r2 or force (eV/Å).
    """
    run = _checked(tables, job, network, size)
    found = []
    for name in _several(molecule):
        frame = frames_with_reference(tables, job, run, temperature, molecules=[name])
        found.append(_over_blocks(name, frame, _shape(what), _shape_floor(tables, what, frame)))
    return found


def force_range(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecules: Sequence[str]
) -> list[Estimate]:
    """Smallest and largest force MAE of several molecules, eV/Å, each with the interval of its molecule."""
    parts = sorted(error_shape(tables, job, network, size, temperature, molecules, "force"), key=lambda one: one.mean)
    return [
        Estimate(name, one.mean, one.half_width, one.n, of=one.of, floor=one.floor)
        for name, one in (("smallest", parts[0]), ("largest", parts[-1]))
    ]


def _shapes_by_molecule(
    tables: RunTables, job: str, network: str, size: str, temperature: float, molecules: Sequence[str] | None, what: str
) -> pd.Series:
    frame = frames_with_reference(tables, job, _checked(tables, job, network, size), temperature, molecules=molecules)
    return pd.Series({name: _shape(what)(part) for name, part in frame.groupby("name")}, dtype=float).dropna()


def mean_shift(tables: RunTables, job: str, networks: Sequence[str], size: str, temperature: float) -> list[Estimate]:
    """Mean AE error (predicted − DFT) of each network, over molecules; positive where predictions are less negative.

    The temperature is in K.
    """
    return [
        bootstrap(network, _shapes_by_molecule(tables, job, network, size, temperature, None, "shift").to_numpy(),
                  MOLECULES)
        for network in networks
    ]  # fmt: skip


def largest_shift(
    tables: RunTables, job: str, networks: Sequence[str], size: str, temperature: float, molecule: str
) -> list[Estimate]:
    """Mean AE error of one molecule minus the largest of all others, each network, over blocks of the molecule.

    The temperature is in K.
    """
    found = []
    for network in networks:
        shifts = _shapes_by_molecule(tables, job, network, size, temperature, None, "shift")
        others = shifts[[_key(name) != _key(molecule) for name in shifts.index]]
        if others.empty:
            raise MissingDataError(f"{job} {network}: no molecule beside {molecule}")
        (one,) = error_shape(tables, job, network, size, temperature, molecule, "shift")
        found.append(Estimate(network, one.mean - float(others.max()), one.half_width, one.n, of=one.of))
    return found


def network_difference(
    tables: RunTables,
    job: str,
    worse: str,
    better: Sequence[str],
    size: str,
    temperature: float,
    molecules: Sequence[str],
    what: Sequence[str],
) -> list[Estimate]:
    """Statistics of one network minus those of each other, paired by molecule; positive where the first is worse.

    Args:
        tables: the results.
        job: name of the job.
        worse: the one network.
        better: the others.
        size: key of SIZES.
        temperature: nominal, in K.
        molecules: names.
        what: any of shift, std, r2, force.
    """
    found = []
    for each, network in itertools.product(what, better):
        one, other = (
            _shapes_by_molecule(tables, job, name, size, temperature, molecules, each) for name in (worse, network)
        )
        both = _both(one, other, f"{job} {worse} and {network}")
        found.append(bootstrap(f"{each}: {worse} − {network}", both[:, 0] - both[:, 1], MOLECULES))
    return found


# --- constant energy, and test errors against failures


def drift_larger(
    tables: RunTables, job: str, larger: Mapping[str, Any], smaller: Mapping[str, Any], paired_by: str = "molecule"
) -> list[Estimate]:
    """Size of the drift of the total energy of one run minus that of another, meV/atom/ps; positive agrees.

    Args:
        tables: the results.
        job: a job at constant energy.
        larger: network, and optionally size and data, of the run that is said to drift more.
        smaller: the same of the other.
        paired_by: molecule or trajectory.

    Raises:
        MissingDataError: a run is not there, or has no drift.
    """
    if paired_by not in ("molecule", "trajectory"):
        raise InputError(f"paired_by '{paired_by}' is unknown; known: molecule, trajectory")
    drifts = []
    for which in (larger, smaller):
        of, run = _simulated(tables, job, which["network"], which.get("size"), which.get("data", "qm7x"))
        frame = tables.robustness(of, run)
        if "energy_drift_mev_per_atom_ps" not in frame:
            raise InputError(f"robustness.csv of {of} {run}: column 'energy_drift_mev_per_atom_ps' is missing")
        drift = frame["energy_drift_mev_per_atom_ps"].astype(float).abs()
        key = frame["start"] if paired_by == "molecule" else frame["trajectory"]
        drifts.append(drift.groupby(key).mean().dropna())
    both = _both(drifts[0], drifts[1], f"job {job}, drift")
    of_what = MOLECULES if paired_by == "molecule" else TRAJECTORIES
    return [bootstrap("difference of the drifts", both[:, 0] - both[:, 1], of_what)]


def spikes_larger(tables: RunTables, job: str, larger: Mapping[str, Any], smaller: Mapping[str, Any]) -> list[Estimate]:
    """Largest change of a force between samples over the usual one (median), one run minus another; positive agrees.

    Paired by trajectory; arguments as those of :func:`drift_larger`.
    """
    heights = []
    for which in (larger, smaller):
        names = [run for of, run in tables.md_jobs("spikes") if of == job]
        run = _named(job, names, which["network"], which.get("size"), which.get("data", "qm7x"))
        table = tables.md("spikes", job, run)
        changes = table["largest_force_change_ev_per_angstrom"].groupby(table["trajectory"])
        heights.append(changes.max() / changes.median())
    both = _both(heights[0], heights[1], f"job {job}, changes of forces")
    return [bootstrap("largest over usual change", both[:, 0] - both[:, 1], TRAJECTORIES)]


def rank_correlation(tables: RunTables, job: str, size: str, temperature: float, quantity: str) -> list[Estimate]:
    """Spearman's correlation of test error and failures per observed time, networks of one size, over molecules.

    The temperature is in K.

    Molecules are drawn once for all networks, and failures per time are counted anew in every draw.

    Raises:
        MissingDataError: fewer than four networks, or no difference in their failures.
    """
    from scipy import stats  # here, because it takes half a second

    tests, failed, observed = [], [], []
    runs = {run for of, run in tables.robustness_jobs() if of == job}
    for run in sorted(runs & set(tables.names())):
        parts = parse_run_name(run)
        if parts is None or parts.data != "qm7x" or parts.train_size not in SIZES[size]:
            continue
        frame = _failures(tables, job, run, temperature)
        tests.append(float(by_seed(tables, run, quantity).iloc[0]))
        failed.append(frame["failed"].astype(float).groupby(frame["start"]).sum().rename(run))
        ends = frame["failure_ps"].astype(float).where(frame["failed"], frame["observed_ps"].astype(float))
        observed.append(ends.groupby(frame["start"]).sum().rename(run))
    if len(tests) < LEAST_NETWORKS:
        raise MissingDataError(f"job {job}, {size}: {len(tests)} networks, at least {LEAST_NETWORKS} are needed")
    table = pd.concat([*failed, *observed], axis=1, join="inner")
    if table.empty:
        raise MissingDataError(f"job {job}, {size}: no molecule is common to all networks")
    n, ranks = len(tests), stats.rankdata(tests)

    def correlation(means: FloatArray) -> FloatArray:
        rates = np.divide(means[:, :n], means[:, n:], out=np.full((len(means), n), np.nan), where=means[:, n:] > 0)
        ranked = stats.rankdata(rates, axis=1)
        centred, reference = ranked - ranked.mean(axis=1, keepdims=True), ranks - ranks.mean()
        scale = np.sqrt((centred**2).sum(axis=1) * (reference**2).sum())
        # Equal rates in all networks order nothing.
        undefined = np.full(len(means), np.nan)
        found: FloatArray = np.divide(centred @ reference, scale, out=undefined, where=scale > 0)
        return found

    samples = table.to_numpy(dtype=np.float64)
    if not np.isfinite(correlation(samples.mean(axis=0, keepdims=True))[0]):
        raise MissingDataError(f"job {job}, {size} at {temperature:g} K: the networks do not differ in their failures")
    return [bootstrap("rank correlation", samples, MOLECULES, correlation)]


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (
        test_error, split_rows, parameters, bend, levels_off, errors_fall, beats, exception, similarity,
        similarity_grows, data_difference, data_ratio, floor, md_error, md_over_test, md_growth, md_rise,
        md_size_ratio, converged_share, converged_falls, converged_of_molecule, failed_share,
        failed_of_networks, failed_difference, fates, failure_times, latest_failure, worst_after_break,
        worst_error, error_after_break, error_share_after_break, converged_after_break, cross_error,
        cross_order, error_shape, force_range, mean_shift, largest_shift, network_difference, drift_larger,
        spikes_larger, failed_by_data, rank_correlation,
    )
}  # fmt: skip
