"""From the predictions of one run, all seeds, to the tidy tables that figures, tables and claims read.

Why energies may be off although forces are right, and how the parts are told apart (E energy of a molecule, N its
number of atoms, n_Z its number of atoms of element Z, p the mean training energy, n_pad the atoms of the largest
molecule; all energies in eV):

* shift ``mean_padded`` subtracts p per molecule in training and adds p/n_pad per atom in evaluation. A network that has
  learnt energies perfectly then errs by E_pred - E_true = p (N/n_pad - 1), a line of slope p/n_pad in N. What a network
  errs beyond that is the *remainder*.
* forces fix energies only up to a constant per molecule, which may depend on the composition. The part of the remainder
  that constants per element, Σ_Z n_Z c_Z, explain is ``remainder_r2``.

The line's part p N/n_pad is a sum of constants per element itself, its part -p is not. A network that has learnt forces
alone never saw p: its error is Σ_Z n_Z c_Z as a whole (``error_r2`` near 1) and a constant fitted beside the c_Z,
``error_constant_ev``, is near 0, where it is -p in a network that has learnt energies.

The So3krates study corrects energies by a linear function of n_Z that is fitted to E_true - E_pred. Without an
intercept that cannot take -p back; the corrections are given without and with one.
"""

from __future__ import annotations

import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.claims.inputs import read_json
from mlip_studies.data.store import Store
from mlip_studies.elements import composition, formula, symbol, symbols
from mlip_studies.errors import InputError

FILES = ("runs", "molecules", "forces", "elements", "outliers", "ensemble", "history")
# The So3krates study's outliers (its figure 3): components with such a residual where the prediction is near zero.
OUTLIER_RESIDUAL = 8.0  # eV/Å
NEAR_ZERO = 1.0  # eV/Å
LEAST_OUTLIERS, MOST_OUTLIERS = 50, 20_000  # components listed per seed
BINS = 120  # per axis of the histogram of force components
# Singular values below this share of the largest are zero; those of whole numbers are far from it on either side.
_RANK_TOLERANCE = 1e-10
# Round-off of a sum of total energies, as a share of the largest: a remainder below it has no variance to explain.
_ROUND_OFF = 1e-10

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RunFiles:
    """Files of one seed of a run.

    Attributes:
        seed: its seed.
        predictions: ``predictions.npz``.
        run: ``run.json``.
        history: ``history.csv``; None: not looked at, and there is no line of this seed about its training.
        metrics: ``metrics.jsonl``, the same.
    """

    seed: int
    predictions: Path
    run: Path
    history: Path | None = None
    metrics: Path | None = None

    @classmethod
    def in_folder(cls, folder: PathLike) -> RunFiles:
        """The usual names in a folder ``…/seed<k>``.

        Raises:
            InputError: the folder is not called so.
        """
        folder = Path(folder)
        number = folder.name.removeprefix("seed")
        if number == folder.name or not number.isdigit():
            raise InputError(f"{folder}: expected a folder named seed<k>, such as seed0; name the run's folders so")
        names = ("predictions.npz", "run.json", "history.csv", "metrics.jsonl")
        return cls(int(number), *(folder / file for file in names))


@dataclass(frozen=True)
class Fit:
    """Linear least squares.

    Attributes:
        coefficients: shape (n_columns,); the ones of least norm where the columns are dependent.
        standard_error: the same shape, from residuals summed by group (K.-Y. Liang and S. L. Zeger, Biometrika 73, 13
            (1986)), with the usual factor G/(G-1) · (n-1)/(n-rank); NaN with no more groups than coefficients.
        rank: how many columns are independent.
    """

    coefficients: FloatArray
    standard_error: FloatArray
    rank: int


def least_squares(columns: NDArray[Any], values: FloatArray, groups: NDArray[np.integer]) -> Fit:
    """Fit values by columns, with standard errors clustered by group.

    Args:
        columns: shape (n, n_columns).
        values: shape (n,).
        groups: index of each row's group, shape (n,).
    """
    x = np.asarray(columns, dtype=np.float64)
    n, width = x.shape
    u, sizes, vt = np.linalg.svd(x, full_matrices=False)
    used = sizes > _RANK_TOLERANCE * sizes.max(initial=0.0)
    rank = int(used.sum())
    u, sizes, v = u[:, used], sizes[used], vt[used].T
    coefficients = v @ ((u.T @ values) / sizes)
    # Once more with the residuals, which carry the digits that large totals lose.
    coefficients = coefficients + v @ ((u.T @ (values - x @ coefficients)) / sizes)
    residual = values - x @ coefficients
    of_row = np.unique(groups, return_inverse=True)[1]
    n_groups = int(of_row.max(initial=-1)) + 1
    if n_groups <= rank or n <= rank:
        return Fit(coefficients, np.full(width, math.nan), rank)
    scores = np.stack(
        [np.bincount(of_row, x[:, column] * residual, minlength=n_groups) for column in range(width)], axis=1
    )
    bread = (v / sizes**2) @ v.T
    factor = n_groups / (n_groups - 1) * (n - 1) / (n - rank)
    variance = np.diag(bread @ (scores.T @ scores) @ bread) * factor
    return Fit(coefficients, np.sqrt(variance.clip(min=0.0)), rank)


@dataclass(frozen=True)
class _Energies:
    """Energies of some rows.

    Attributes:
        rows: in the store, shape (n,).
        ptr: offsets of the atoms, shape (n + 1,).
        atomic_numbers: shape (n_atoms,).
        label: eV, shape (n,).
        predicted: eV, shape (n,).
    """

    rows: NDArray[np.int64]
    ptr: NDArray[np.int64]
    atomic_numbers: NDArray[np.int64]
    label: FloatArray
    predicted: FloatArray

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """Shape (n,)."""
        return np.diff(self.ptr)

    @property
    def error(self) -> FloatArray:
        """Predicted minus label, eV, shape (n,)."""
        return self.predicted - self.label


@dataclass(frozen=True)
class SeedResults:
    """What one seed left: ``run.json``, test energies and forces (eV/Å, shape (n_atoms, 3)), training energies."""

    seed: int
    content: Mapping[str, Any]
    test: _Energies
    group: NDArray[np.int64]
    forces_label: FloatArray | None
    forces_predicted: FloatArray | None
    train: _Energies | None
    predictions: Path
    run: Path

    @property
    def residual(self) -> FloatArray | None:
        """Predicted minus true force components, eV/Å, shape (n_atoms, 3)."""
        if self.forces_label is None or self.forces_predicted is None:
            return None
        return self.forces_predicted - self.forces_label


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(require(path), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not an archive of arrays ({reason}); delete it and train this run again") from None


class _Reader:
    """Takes arrays of an archive by name and checks their shapes and numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays = _arrays(path)

    def get(self, name: str, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
        """The array, as int64 (kind ``i``) or float64 (``f``); a negative length in ``shape`` stands for any."""
        if name not in self.arrays:
            raise InputError(f"{self.path}: array {name!r} is missing; train this run again")
        values = self.arrays.pop(name)
        fits = len(shape) == values.ndim and all(n in (m, -1) for n, m in zip(shape, values.shape, strict=True))
        if not fits or values.dtype.kind not in ("iu" if kind == "i" else "iuf"):
            wanted = f"({', '.join('any' if n < 0 else str(n) for n in shape)})"
            raise InputError(
                f"{self.path}: array {name!r} has shape {values.shape} and type {values.dtype}, expected {wanted} "
                f"{'whole numbers' if kind == 'i' else 'numbers'}; train this run again"
            )
        if kind == "i":
            return values.astype(np.int64)
        result = values.astype(np.float64)
        if not np.isfinite(result).all():
            bad = int((~np.isfinite(result)).sum())
            raise InputError(
                f"{self.path}: {bad} of {result.size} numbers of {name!r} are not finite; "
                "lower the learning rate of this run or train it again"
            )
        return result

    def energies(self, prefix: str = "") -> _Energies:
        """The test rows', or with a prefix the training rows' energies."""
        rows = self.get(f"{prefix}rows", (-1,), "i")
        ptr = self.get(f"{prefix}ptr", (len(rows) + 1,), "i")
        if len(rows) == 0:
            raise InputError(f"{self.path}: {prefix}rows is empty; give the run's split at least one such row")
        if ptr[0] != 0 or (np.diff(ptr) < 1).any():
            raise InputError(f"{self.path}: array '{prefix}ptr' does not ascend from 0; train this run again")
        return _Energies(
            rows,
            ptr,
            self.get(f"{prefix}atomic_numbers", (int(ptr[-1]),), "i"),
            self.get(f"{prefix}energy_label_ev", (len(rows),), "f"),
            self.get(f"{prefix}energy_predicted_ev", (len(rows),), "f"),
        )


def read_seed(files: RunFiles) -> SeedResults:
    """Read and check the files of one seed.

    Raises:
        InputError: a missing, damaged or non-finite file, key or array, or files that do not go together.
    """
    content = read_json(files.run)
    reader = _Reader(Path(files.predictions))
    test = reader.energies()
    group = reader.get("group", (len(test.rows),), "i")
    label = predicted = None
    if "forces_label_ev_per_angstrom" in reader.arrays or "forces_predicted_ev_per_angstrom" in reader.arrays:
        label = reader.get("forces_label_ev_per_angstrom", (len(test.atomic_numbers), 3), "f")
        predicted = reader.get("forces_predicted_ev_per_angstrom", (len(test.atomic_numbers), 3), "f")
    train = reader.energies("train_") if any(name.startswith("train_") for name in reader.arrays) else None
    seed = SeedResults(
        files.seed, content, test, group, label, predicted, train, Path(files.predictions), Path(files.run)
    )
    if (found := entry(seed, "config.seed")) != files.seed:
        raise InputError(f"{files.run}: is of seed {found!r}, expected {files.seed}; name the files of one seed")
    stated, found = entry(seed, "test.energy_mae_ev"), float(np.abs(test.error).mean())
    if not isinstance(stated, int | float) or not math.isclose(stated, found, rel_tol=1e-6, abs_tol=1e-9):
        raise InputError(
            f"{files.run}: key 'test.energy_mae_ev' is {stated!r}, but {files.predictions} gives {found:.6g}; name "
            "the files of one training"
        )
    if train is not None and len(both := np.intersect1d(train.rows, test.rows)):
        raise InputError(
            f"{files.predictions}: {len(both)} row(s) are both training and test rows (first: {both[0]}); make the "
            "split again"
        )
    return seed


def entry(seed: SeedResults, key: str) -> Any:
    """A value of run.json by its dotted key.

    Raises:
        InputError: it is not there.
    """
    value: Any = seed.content
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"{seed.run}: key '{key}' is missing; train this run again")
        value = value[part]
    return value


# What two seeds of a run may differ in: the seed itself, names, and paths (the content of files is compared by hash).
_FREE = ("seed", "label", "store", "split", "self_energies")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{prefix}.{name}").items()}


def _check_same_run(first: SeedResults, other: SeedResults) -> None:
    """Make sure that two seeds are of one run.

    Raises:
        InputError: they are not.
    """
    configs = []
    for seed in (first, other):
        config = {key: value for key, value in dict(entry(seed, "config")).items() if key not in _FREE}
        flat = _flat({"config": config, "inputs": seed.content.get("inputs", {})})
        flat.pop(".config.training.seed", None)
        configs.append(flat)
    for key in dict.fromkeys([*configs[0], *configs[1]]):
        if configs[0].get(key) != configs[1].get(key):
            raise InputError(
                f"{other.run}: key '{key[1:]}' is {configs[1].get(key)!r}, but {configs[0].get(key)!r} in {first.run}; "
                "give the seeds of one run only"
            )
    same = np.array_equal(first.test.rows, other.test.rows) and np.array_equal(first.test.label, other.test.label)
    if not same or (first.residual is None) != (other.residual is None):
        raise InputError(
            f"{other.predictions}: its test rows or labels are not those of {first.predictions}; give the seeds of one "
            "run only"
        )


@dataclass(frozen=True)
class RowFacts:
    """What the store knows of the test rows; names and facts have shape (n,)."""

    data: str
    group: NDArray[Any]
    info: dict[str, NDArray[Any]]
    formula: NDArray[Any]
    above_lowest: FloatArray


def row_facts(seed: SeedResults, store: Store, fidelity: str) -> RowFacts:
    """Read the facts of the test rows, and make sure that the rows are the store's.

    Raises:
        InputError: they are not.
    """
    test = seed.test
    for what, part in (("test", test), ("training", seed.train)):
        if part is None:
            continue
        outside = (part.rows < 0) | (part.rows >= store.n_rows)
        if outside.any():
            raise InputError(
                f"{seed.predictions}: {what} row {part.rows[np.argmax(outside)]} is not in {store.path}, which has "
                f"{store.n_rows} rows; name the store that the run was trained on"
            )
        read = store.read(part.rows, positions=False, fidelities=(fidelity,), forces=False)
        same = np.array_equal(read.ptr, part.ptr) and np.array_equal(read.atomic_numbers, part.atomic_numbers)
        if not same or not np.allclose(read.energy[fidelity], part.label, rtol=1e-9, atol=1e-9):
            raise InputError(
                f"{seed.predictions}: atoms or {fidelity} energies of the {what} rows are not those of {store.path}; "
                "name the store that the run was trained on"
            )
        if part is test and not np.array_equal(read.group, seed.group):
            raise InputError(
                f"{seed.predictions}: array 'group' is not that of {store.path}; name the store that the run was "
                "trained on"
            )
    energies = store.energies(fidelity)
    lowest = np.full(len(store.group_names), np.inf)
    labeled = np.isfinite(energies)
    np.minimum.at(lowest, store.groups()[labeled], energies[labeled])
    names = np.array(store.group_names, dtype=object)
    info: dict[str, NDArray[Any]] = {
        name: np.array(store.group_info(name), dtype=object)[seed.group]
        for name in ("subset", "smiles")
        if name in store.info_names
    }
    elements = np.unique(test.atomic_numbers).tolist()
    kinds, kind = np.unique(composition(test.atomic_numbers, test.ptr, elements), axis=0, return_inverse=True)
    formulas = np.array([formula(np.repeat(elements, counts)) for counts in kinds], dtype=object)
    return RowFacts(
        store.path.parent.name,
        names[seed.group],
        info,
        formulas[kind.reshape(-1)],
        (test.label - lowest[seed.group]) / test.n_atoms,
    )


def mechanism_a(mean: float, n_pad: int | None, n_atoms: NDArray[np.integer]) -> FloatArray:
    """Error of a perfect network whose mean is subtracted per molecule and added back per padded atom.

    Args:
        mean: mean training energy p, eV.
        n_pad: atoms of the largest molecule; None: another shift, no error.
        n_atoms: shape (n,).

    Returns:
        p (N/n_pad - 1), eV, shape (n,).
    """
    if n_pad is None:
        return np.zeros(len(n_atoms))
    return mean * (np.asarray(n_atoms, dtype=np.float64) / n_pad - 1.0)


@dataclass(frozen=True)
class _Analysis:
    """Line of runs.csv, and corrected energies of the test rows (eV, shape (n,); NaN without training energies)."""

    line: dict[str, Any]
    corrected_train: FloatArray
    corrected_test: FloatArray


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mae(name: str, error: FloatArray, n_atoms: NDArray[np.int64]) -> dict[str, float]:
    return {
        f"{name}energy_mae_ev": float(np.abs(error).mean()),
        f"{name}energy_per_atom_mae_ev": float(np.abs(error / n_atoms).mean()),
    }


def _with_ones(columns: FloatArray) -> FloatArray:
    """The columns after one of ones."""
    return np.hstack([np.ones((len(columns), 1)), columns])


def _reference(seed: SeedResults) -> tuple[float, int | None]:
    """The mean p (eV) that training subtracted, and n_pad where it was added back per padded atom."""
    mean, n_pad = entry(seed, "reference.training_constant_ev"), entry(seed, "reference.n_pad")
    if not isinstance(mean, int | float) or not math.isfinite(mean):
        raise InputError(
            f"{seed.run}: key 'reference.training_constant_ev' is {mean!r}, expected a number; train again"
        )
    if entry(seed, "reference.kind") != "mean_padded":
        return float(mean), None
    if not isinstance(n_pad, int) or n_pad < 1:
        raise InputError(f"{seed.run}: key 'reference.n_pad' is {n_pad!r}, expected a number of atoms; train again")
    return float(mean), n_pad


def _corrections(seed: SeedResults, elements: list[int]) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Entries of runs.csv about corrected energies, and by part those of the test rows, eV, shape (n,)."""
    test = seed.test
    counts = composition(test.atomic_numbers, test.ptr, elements).astype(np.float64)
    entries: dict[str, Any] = {}
    notes: list[str] = []
    corrected: dict[str, FloatArray] = {}
    for part, energies in (("train", seed.train), ("test", test)):
        name = f"corrected_{part}_"
        if energies is None:
            corrected[part] = np.full(len(test.rows), math.nan)
            keys = ("energy_mae_ev", "energy_per_atom_mae_ev")
            entries |= {f"{name}{extra}{key}": math.nan for extra in ("", "with_constant_") for key in keys}
            entries[f"{name}rank"] = math.nan
            notes.append("train: no energies of these rows")
            continue
        fitted = composition(energies.atomic_numbers, energies.ptr, elements).astype(np.float64)
        one_group = np.zeros(len(fitted), dtype=np.int64)  # the coefficients alone are wanted
        fit = least_squares(fitted, -energies.error, one_group)
        corrected[part] = test.predicted + counts @ fit.coefficients
        entries |= _mae(name, corrected[part] - test.label, test.n_atoms)
        whole = least_squares(_with_ones(fitted), -energies.error, one_group).coefficients
        entries |= _mae(f"{name}with_constant_", test.error + _with_ones(counts) @ whole, test.n_atoms)
        entries[f"{name}rank"] = fit.rank
        if fit.rank < len(elements):
            absent = [symbol(z) for z, n in zip(elements, fitted.sum(axis=0).tolist(), strict=True) if n == 0]
            why = f"no atoms of {', '.join(absent)}" if absent else "numbers of atoms do not vary independently"
            notes.append(f"{part}: rank {fit.rank} of {len(elements)} ({why}), constants of least norm")
    return {**entries, "correction_note": "; ".join(notes)}, corrected


def _mechanisms(seed: SeedResults, elements: list[int]) -> dict[str, Any]:
    """Entries of runs.csv about the parts of the energies' error."""
    test, groups = seed.test, seed.group
    n_atoms, error = test.n_atoms, test.error
    mean, n_pad = _reference(seed)
    counts = composition(test.atomic_numbers, test.ptr, elements).astype(np.float64)
    perfect = mechanism_a(mean, n_pad, n_atoms)
    remainder = error - perfect

    line = _with_ones(n_atoms[:, None].astype(np.float64))
    slope, remainder_slope = least_squares(line, error, groups), least_squares(line, remainder, groups)
    sloped = slope.rank == 2  # molecules of one size have no slope
    constants = least_squares(counts, remainder, groups)
    whole = least_squares(_with_ones(counts), error, groups)
    told_apart = whole.rank == counts.shape[1] + 1
    left = remainder - counts @ constants.coefficients
    left_whole = error - _with_ones(counts) @ whole.coefficients
    left_error = error - counts @ least_squares(counts, error, groups).coefficients
    again = perfect - counts @ least_squares(counts, perfect, groups).coefficients
    noise = (_ROUND_OFF * max(np.abs(test.label).max(), np.abs(perfect).max())) ** 2

    def share(values: FloatArray, rest: FloatArray) -> float:
        variance = float(np.square(values - values.mean()).mean())
        return 1.0 - float(np.square(rest).mean()) / variance if variance > noise else math.nan

    names = symbols(elements)
    return {
        "aligned_energy_mae_ev": float(np.abs(error - error.mean()).mean()),
        "slope_ev_per_atom": float(slope.coefficients[1]) if sloped else math.nan,
        "slope_se": float(slope.standard_error[1]) if sloped else math.nan,
        "intercept_ev": float(slope.coefficients[0]) if sloped else math.nan,
        "mean_ev": mean,
        "n_pad": math.nan if n_pad is None else n_pad,
        "predicted_slope_ev_per_atom": 0.0 if n_pad is None else mean / n_pad,
        "predicted_energy_mae_ev": float(np.abs(perfect).mean()),
        **_mae("predicted_corrected_", again, n_atoms),
        "remainder_slope_ev_per_atom": float(remainder_slope.coefficients[1]) if sloped else math.nan,
        "remainder_slope_se": float(remainder_slope.standard_error[1]) if sloped else math.nan,
        **{f"remainder_element_{name}_ev": float(c) for name, c in zip(names, constants.coefficients, strict=True)},
        **{f"remainder_element_{name}_se": float(c) for name, c in zip(names, constants.standard_error, strict=True)},
        "remainder_mae_ev": float(np.abs(remainder).mean()),
        "remainder_r2": share(remainder, left),
        "residual_mae_ev": float(np.abs(left).mean()),
        "error_r2": share(error, left_error),
        "error_with_constant_r2": share(error, left_whole),
        "error_constant_ev": float(whole.coefficients[0]) if told_apart else math.nan,
        "error_constant_se": float(whole.standard_error[0]) if told_apart else math.nan,
    }


def _force_errors(seed: SeedResults) -> dict[str, Any]:
    """Entries of runs.csv about forces."""
    residual = seed.residual
    if residual is None or seed.forces_predicted is None:
        names = ("force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom")
        return {
            **dict.fromkeys((*names, "outlier_fraction", "large_residual_fraction"), math.nan),
            "n_components": 0,
        }
    large = np.abs(residual) > OUTLIER_RESIDUAL
    return {
        "force_mae_ev_per_angstrom": float(np.abs(residual).mean()),
        "force_rmse_ev_per_angstrom": float(np.sqrt(np.square(residual).mean())),
        "outlier_fraction": float((large & (np.abs(seed.forces_predicted) < NEAR_ZERO)).mean()),
        "large_residual_fraction": float(large.mean()),
        "n_components": residual.size,
    }


def _analyse(run: str, seed: SeedResults, facts: RowFacts) -> _Analysis:
    """Everything about one seed that is one line, and its corrected energies."""
    test = seed.test
    known = [test.atomic_numbers, *([] if seed.train is None else [seed.train.atomic_numbers])]
    elements = np.unique(np.concatenate(known)).tolist()
    corrections, corrected = _corrections(seed, elements)
    loss, options = entry(seed, "config.training").get("loss"), entry(seed, "config.model").get("options")
    line = {
        "run": run,
        "seed": seed.seed,
        "data": facts.data,
        "fidelity": entry(seed, "config.fidelity"),
        "model": entry(seed, "config.model.name"),
        "shift": entry(seed, "reference.kind"),
        "beta": _number(loss.get("beta")) if isinstance(loss, Mapping) else math.nan,
        "n_layers": _number(options.get("n_layers")) if isinstance(options, Mapping) else math.nan,
        **{key: entry(seed, key) for key in ("n_train", "n_val", "n_test", "n_parameters", "steps")},
        "train_seconds": _number(entry(seed, "train_seconds")),
        "configurations_per_second": _number(entry(seed, "configurations_per_second")),
        "device": entry(seed, "device"),
        "gpu_hours": _number(entry(seed, "gpu_hours")),
        **_mae("", test.error, test.n_atoms),
        "energy_rmse_ev": float(np.sqrt(np.square(test.error).mean())),
        **_force_errors(seed),
        **_fit_errors(seed),
        "energy_weight": _option(seed, "loss", "energy_weight"),
        "learning_rate": _option(seed, "optimizer", "learning_rate"),
        "clip_norm": _option(seed, "clip_norm"),
        "scale_ev": _number(seed.content.get("reference", {}).get("scale_ev")),
        **corrections,
        **_mechanisms(seed, elements),
        "n_groups": len(np.unique(seed.group)),
        "warnings": " | ".join(map(str, seed.content.get("warnings", []))),
    }
    return _Analysis(line, corrected["train"], corrected["test"])


# Measures of runs.csv on training and validation rows, and their keys in run.json.
_FIT_MEASURES = ("energy_mae_ev", "energy_rmse_ev", "force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom")
_FIT_PARTS = {"train": "train", "validation": "val"}


def _fit_errors(seed: SeedResults) -> dict[str, float]:
    """Errors on training and validation rows, NaN where ``run.json`` has none."""
    errors = seed.content.get("errors")
    result = {}
    for name, part in _FIT_PARTS.items():
        found = errors.get(part) if isinstance(errors, Mapping) else None
        for measure in _FIT_MEASURES:
            result[f"{name}_{measure}"] = _number(found.get(measure)) if isinstance(found, Mapping) else math.nan
    return result


def _option(seed: SeedResults, *keys: str) -> float:
    """A number below ``config.training`` of run.json, NaN where it is none."""
    value: Any = entry(seed, "config.training")
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return _number(value)


HISTORY_COLUMNS = ("run", "seed", "step", "learning_rate", "grad_norm", "clip_norm", "clipped_share")


def _gradient_norms(path: Path) -> tuple[NDArray[np.int64], FloatArray]:
    """Last step and mean norm of the gradient before clipping, of each window that the metrics have.

    Raises:
        InputError: missing or damaged.
    """
    steps, norms = [], []
    try:
        for line in require(path).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("split") == "train" and "grad_norm" in record:
                steps.append(int(record["step"]))
                norms.append(float(record["grad_norm"]))
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not lines of metrics ({reason}); train this run again") from None
    return np.array(steps, dtype=np.int64), np.array(norms)


def _history(run: str, seed: SeedResults, files: RunFiles) -> pd.DataFrame:
    """One line per evaluation, as ``history.csv`` of the seed, with what clipping did since the last one.

    Raises:
        InputError: a missing or damaged file.
    """
    if files.history is None:
        return pd.DataFrame(columns=list(HISTORY_COLUMNS))
    try:
        frame = pd.read_csv(require(files.history))
    except (ValueError, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{files.history}: not a table ({' '.join(str(error).split())}); train this run again"
        ) from None
    for column in ("step", "learning_rate"):
        if len(frame) and column not in frame:
            raise InputError(f"{files.history}: column '{column}' is missing; train this run again")
    frame.insert(0, "run", run)
    frame.insert(1, "seed", seed.seed)
    clip = _option(seed, "clip_norm")
    frame["clip_norm"] = clip if math.isfinite(clip) else 0.0
    frame["clipped_share"] = 0.0 if not math.isfinite(clip) else math.nan
    if math.isfinite(clip) and files.metrics is not None and len(frame):
        steps, norms = _gradient_norms(files.metrics)
        ends = frame["step"].to_numpy()
        for index, (low, high) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            within = norms[(steps > low) & (steps <= high)]
            if within.size:
                frame.loc[index, "clipped_share"] = float((within > clip).mean())
    return frame


def _molecules(run: str, seed: SeedResults, facts: RowFacts, analysis: _Analysis) -> pd.DataFrame:
    test = seed.test
    mae = largest = np.full(len(test.rows), math.nan)
    if seed.residual is not None:
        per_atom = np.abs(seed.residual)
        mae = np.add.reduceat(per_atom.sum(axis=1), test.ptr[:-1]) / (3 * test.n_atoms)
        largest = np.maximum.reduceat(per_atom.max(axis=1), test.ptr[:-1])
    return pd.DataFrame(
        {
            "run": run,
            "seed": seed.seed,
            "row": test.rows,
            "group": facts.group,
            **({"subset": facts.info["subset"]} if "subset" in facts.info else {}),
            "formula": facts.formula,
            "n_atoms": test.n_atoms,
            "energy_true_ev": test.label,
            "energy_predicted_ev": test.predicted,
            "energy_corrected_train_ev": analysis.corrected_train,
            "energy_corrected_test_ev": analysis.corrected_test,
            "force_mae_ev_per_angstrom": mae,
            "largest_force_residual_ev_per_angstrom": largest,
            "above_lowest_ev_per_atom": facts.above_lowest,
        }
    )


def _force_histogram(seed: SeedResults) -> pd.DataFrame:
    """Counts of (true, predicted) components on a square grid; components beyond it count in its outermost bins."""
    columns = ("true_low", "true_high", "predicted_low", "predicted_high", "count")
    if seed.forces_label is None or seed.forces_predicted is None:
        return pd.DataFrame(columns=list(columns))
    true, predicted = seed.forces_label.ravel(), seed.forces_predicted.ravel()
    reach = float(np.quantile(np.abs(np.concatenate([true, predicted])), 0.9999))
    step = 10.0 ** math.floor(math.log10(max(reach, 1e-6)))
    limit = math.ceil(reach / step + 1e-9) * step
    edges = np.linspace(-limit, limit, BINS + 1)
    count, _, _ = np.histogram2d(np.clip(true, -limit, limit), np.clip(predicted, -limit, limit), bins=[edges, edges])
    i, j = np.divmod(np.arange(BINS * BINS), BINS)
    values = (edges[i], edges[i + 1], edges[j], edges[j + 1], count.ravel().astype(np.int64))
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def _elements(run: str, seed: SeedResults) -> pd.DataFrame:
    columns = ("run", "seed", "element", "n_atoms", "force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom")
    if seed.residual is None:
        return pd.DataFrame(columns=list(columns))
    elements, kind = np.unique(seed.test.atomic_numbers, return_inverse=True)
    n = np.bincount(kind)
    mae = np.bincount(kind, np.abs(seed.residual).mean(axis=1)) / n
    rmse = np.sqrt(np.bincount(kind, np.square(seed.residual).mean(axis=1)) / n)
    values = (run, seed.seed, symbols(elements), n, mae, rmse)
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def _outliers(run: str, seed: SeedResults, facts: RowFacts) -> pd.DataFrame:
    """Components with the largest residuals, largest first."""
    test, residual = seed.test, seed.residual
    extra = [name for name in ("subset", "formula", "smiles") if name == "formula" or name in facts.info]
    columns = ["run", "seed", "row", "group", *extra, "atom", "element", "component"]
    columns += ["true", "predicted", "residual", "near_zero"]
    if residual is None or seed.forces_label is None or seed.forces_predicted is None:
        return pd.DataFrame(columns=columns)
    size = np.abs(residual).ravel()
    n = int(np.clip((size > OUTLIER_RESIDUAL).sum(), LEAST_OUTLIERS, MOST_OUTLIERS))
    order = np.argsort(-size, kind="stable")[:n]
    atom, axis = np.divmod(order, 3)
    molecule = np.searchsorted(test.ptr, atom, side="right") - 1
    facts_of: dict[str, NDArray[Any]] = {"formula": facts.formula, **facts.info}
    predicted = seed.forces_predicted.ravel()[order]
    values: dict[str, Any] = {
        "run": run,
        "seed": seed.seed,
        "row": test.rows[molecule],
        "group": facts.group[molecule],
        **{name: facts_of[name][molecule] for name in extra},
        "atom": atom - test.ptr[molecule],
        "element": np.array([symbol(int(z)) for z in test.atomic_numbers[atom]], dtype=object),
        "component": np.array(["x", "y", "z"], dtype=object)[axis],
        "true": seed.forces_label.ravel()[order],
        "predicted": predicted,
        "residual": residual.ravel()[order],
        "near_zero": np.abs(predicted) < NEAR_ZERO,
    }
    return pd.DataFrame(values)[columns]


def _ensemble(run: str, seeds: Sequence[SeedResults], analyses: Sequence[_Analysis], facts: RowFacts) -> pd.DataFrame:
    """Spread over the seeds beside the error of their mean."""
    columns = ["run", "row", "group", "n_atoms", "n_seeds", "energy_std_ev_per_atom", "energy_error_ev_per_atom"]
    columns += ["force_std_ev_per_angstrom", "force_error_ev_per_angstrom"]
    if len(seeds) < 2:
        return pd.DataFrame(columns=columns)
    test = seeds[0].test
    energy = np.stack(
        [seed.test.predicted if seed.train is None else analysis.corrected_train
         for seed, analysis in zip(seeds, analyses, strict=True)]
    )  # fmt: skip
    force_std = force_error = np.full(len(test.rows), math.nan)
    if seeds[0].forces_label is not None:
        forces = np.stack([seed.forces_predicted for seed in seeds if seed.forces_predicted is not None])

        def per_molecule(values: FloatArray) -> FloatArray:
            return np.add.reduceat(values.mean(axis=1), test.ptr[:-1]) / test.n_atoms

        force_std = per_molecule(forces.std(axis=0, ddof=1))
        force_error = per_molecule(np.abs(forces.mean(axis=0) - seeds[0].forces_label))
    values = (
        run, test.rows, facts.group, test.n_atoms, len(seeds),
        energy.std(axis=0, ddof=1) / test.n_atoms, np.abs(energy.mean(axis=0) - test.label) / test.n_atoms,
        force_std, force_error,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def analyse_run(runs: Sequence[RunFiles], store: PathLike, output_folder: PathLike, name: str | None = None) -> None:
    """Write the tables of one run, all its seeds.

    Energies are in eV, forces in eV/Å, errors are predicted minus true. All tables but ``runs.csv`` have lines of test
    molecules or of their atoms; a table that the run has nothing for has its header only (``ensemble.csv`` of one seed,
    the tables of forces where there are none).

    * ``runs.csv``: one line per seed. Settings, costs and errors on the test rows; ``train_*`` and ``validation_*``:
      those of the final weights on training rows (at most 20,000) and validation rows, NaN where the run states none.
      ``corrected_train_*``, ``corrected_test_*``: errors of E_pred + Σ_Z n_Z c_Z with c from least squares of
      E_true - E_pred over the training rows (NaN unless the run has ``train_predictions``) or the test rows;
      ``*_with_constant_*`` with an intercept beside c; ``*_rank`` and ``correction_note`` where the compositions leave
      constants open. ``aligned_energy_mae_ev``: after the mean error is taken off (So3krates study, eq. 11).
      ``slope_ev_per_atom``, ``intercept_ev``: line of the error against N; every ``*_se`` is clustered by group.
      ``mean_ev`` p and ``n_pad``, and what these alone would do: ``predicted_slope_ev_per_atom``,
      ``predicted_energy_mae_ev``, ``predicted_corrected_*`` (after the correction over the test rows).
      ``remainder_*``: its slope, constants per element, mean absolute size and ``remainder_r2``; ``residual_mae_ev``:
      what these constants leave. ``error_r2``, ``error_with_constant_r2``, ``error_constant_ev``: the error as a whole
      by constants per element, without and with a constant for all molecules. Shares r2 are
      1 - Σ rest²/Σ (values - mean)², NaN where there is nothing to explain, below 0 where their mean alone does better.
      ``outlier_fraction`` (residual above 8 eV/Å, prediction below 1 eV/Å) and ``large_residual_fraction`` (any
      prediction) of ``n_components`` force components.
    * ``molecules.csv``: one line per seed and test molecule; ``above_lowest_ev_per_atom`` is the label minus the lowest
      one of its group in the whole store, per atom.
    * ``forces.csv``: true against predicted components of the first seed, 120 x 120 bins over all but 1 of 10,000;
      those beyond count in the outermost bins.
    * ``elements.csv``: force errors by element and seed.
    * ``outliers.csv``: per seed all components with a residual above 8 eV/Å (at least the 50, at most the 20,000
      largest), largest first; ``atom`` counts from 0 in its molecule.
    * ``history.csv``: losses and errors along the training of each seed, one line per evaluation, with ``clip_norm``
      (0: not clipped) and ``clipped_share``: of the windows of steps that the metrics have since the last evaluation,
      the share whose mean norm of the gradient is above it. No lines without the files of the training.
    * ``ensemble.csv``: standard deviation over seeds (n - 1) of energies per atom, corrected over training rows where
      possible, and of force components (mean over a molecule), beside the absolute errors of the seeds' mean.

    Args:
        runs: files of each seed.
        store: the data that the run was trained on.
        output_folder: where the files go.
        name: of the run; the folder's name if not given.

    Raises:
        InputError: no seeds, one twice, or seeds of different runs; a missing, damaged or non-finite file, key or
            array; rows that are not those of the store.
    """
    folder = Path(output_folder)
    run = folder.name if name is None else name
    if not runs:
        raise InputError(f"{folder}: no seeds to analyse; name at least one in the study's configuration")
    runs = sorted(runs, key=lambda files: files.seed)
    seeds = [read_seed(files) for files in runs]
    for first, other in itertools.pairwise(seeds):
        if first.seed == other.seed:
            raise InputError(f"{other.run}: seed {other.seed} is already in {first.run}; name each seed once")
    for other in seeds[1:]:
        _check_same_run(seeds[0], other)
    fidelity = str(entry(seeds[0], "config.fidelity"))
    with Store(store) as opened:
        facts = row_facts(seeds[0], opened, fidelity)
        for other in seeds[1:]:
            _facts_agree(seeds[0], other)
    analyses = [_analyse(run, seed, facts) for seed in seeds]
    pairs = list(zip(seeds, analyses, strict=True))
    tables = {
        "runs": pd.DataFrame([analysis.line for analysis in analyses]),
        "molecules": pd.concat([_molecules(run, seed, facts, analysis) for seed, analysis in pairs], ignore_index=True),
        "forces": _force_histogram(seeds[0]),
        "elements": pd.concat([_elements(run, seed) for seed in seeds], ignore_index=True),
        "outliers": pd.concat([_outliers(run, seed, facts) for seed in seeds], ignore_index=True),
        "ensemble": _ensemble(run, seeds, analyses, facts),
        "history": pd.concat(
            [_history(run, seed, files) for seed, files in zip(seeds, runs, strict=True)], ignore_index=True
        ),
    }
    for kind in FILES:
        with atomic_path(folder / f"{kind}.csv") as temporary:
            tables[kind].to_csv(temporary, index=False, lineterminator="\n", float_format="%.12g")


def _facts_agree(first: SeedResults, other: SeedResults) -> None:
    """Make sure that another seed has the first one's atoms and training rows, which were compared with the store.

    Raises:
        InputError: it has not.
    """
    pairs = [(first.test.ptr, other.test.ptr), (first.test.atomic_numbers, other.test.atomic_numbers)]
    pairs.append((first.group, other.group))
    if first.train is not None and other.train is not None:
        for name in ("rows", "ptr", "atomic_numbers", "label"):
            pairs.append((getattr(first.train, name), getattr(other.train, name)))
    if (first.train is None) != (other.train is None) or not all(np.array_equal(a, b) for a, b in pairs):
        raise InputError(
            f"{other.predictions}: its atoms or training rows are not those of {first.predictions}; give the seeds of "
            "one run only"
        )
