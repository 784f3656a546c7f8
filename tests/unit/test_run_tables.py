"""Tables of a run from predictions with known errors: both mechanisms, corrections, clustered errors, bad input."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlip_studies.artifacts import is_intact
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.elements import composition
from mlip_studies.errors import InputError
from mlip_studies.studies.run_tables import FILES, RunFiles, analyse_run, least_squares, mechanism_a

ELEMENTS = [1, 6, 8]
SELF = np.array([-16.0, -1037.0, -2048.0])
CONSTANTS = np.array([0.3, -0.7, 1.1])
MEAN, N_PAD = -2500.0, 12
FORMULAS = (
    (8, 1, 1),
    (6, 1, 1, 1, 1),
    (6, 8, 8),
    (6, 6, 8, 1, 1, 1, 1, 1, 1),
    (6, 8, 1, 1),
    (6, 6, 1, 1, 1, 1, 1, 1),
    (6, 6, 6, 8, 8, 8, 1, 1, 1, 1, 1, 1),
)
N_FRAMES = 12


def make_store(path, formulas=FORMULAS, info=True):
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(path, ["dft"], ["dft"], info=("smiles", "subset") if info else ()) as writer:
        for number, z in enumerate(formulas):
            counts = np.array([z.count(e) for e in ELEMENTS])
            writer.append(
                np.array(z),
                rng.normal(size=(N_FRAMES, len(z), 3)),
                {"dft": counts @ SELF + rng.normal(size=N_FRAMES)},
                {"dft": rng.normal(size=(N_FRAMES, len(z), 3))},
                group=f"{number:03d}",
                info={"smiles": "C" * (number + 1), "subset": f"set {number % 2}"} if info else None,
            )
    return path


def counts_of(rows):
    return composition(rows.atomic_numbers, rows.ptr, ELEMENTS).astype(float)


def make_seed(folder, store_path, error, seed=0, kind="mean_padded", train_error=None, force_error=0.0, **changes):
    """Files of one seed whose test energies err by ``error(rows)`` and forces by ``force_error`` (a number or array).

    Even rows of the store are training rows, odd ones test rows. ``changes``: entries of run.json by dotted key.
    """
    with Store(store_path) as store:
        index = np.arange(store.n_rows)
        test = store.read(index[1::2][::-1], positions=False)
        train = store.read(index[::2], positions=False, forces=False)
    predicted = test.energy["dft"] + error(test)
    arrays = {
        "rows": test.rows,
        "ptr": test.ptr,
        "group": test.group,
        "atomic_numbers": test.atomic_numbers,
        "energy_label_ev": test.energy["dft"],
        "energy_predicted_ev": predicted,
        "forces_label_ev_per_angstrom": test.forces["dft"],
        "forces_predicted_ev_per_angstrom": (test.forces["dft"] + force_error).astype(np.float32),
    }
    if train_error is not None:
        arrays |= {
            "train_rows": train.rows,
            "train_ptr": train.ptr,
            "train_atomic_numbers": train.atomic_numbers,
            "train_energy_label_ev": train.energy["dft"],
            "train_energy_predicted_ev": train.energy["dft"] + train_error(train),
        }
    padded = kind == "mean_padded"
    content = {
        "config": {
            "store": str(store_path),
            "split": "split.npz",
            "fidelity": "dft",
            "model": {"name": "so3krates", "options": {"n_layers": 2}},
            "training": {"loss": {"name": "so3krates", "beta": 0.99}, "seed": seed},
            "seed": seed,
            "label": f"seed {seed}",
        },
        "inputs": {"store": "0" * 64},
        "reference": {
            "kind": kind,
            "training_constant_ev": MEAN if kind.startswith("mean") else 0.0,
            "n_pad": N_PAD if padded else None,
        },
        "warnings": ["mixed compositions"],
        "n_train": len(train),
        "n_val": 0,
        "n_test": len(test),
        "n_parameters": 17,
        "test": {"energy_mae_ev": float(np.abs(predicted - test.energy["dft"]).mean())},
        "steps": 5,
        "train_seconds": 2.0,
        "configurations_per_second": None,
        "device": "cpu",
        "gpu_hours": 0.0,
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for part in path:
            place = place[part]
        if value is None and last != "n_pad":
            del place[last]
        else:
            place[last] = value
    folder = folder / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "predictions.npz", **arrays)
    (folder / "run.json").write_text(json.dumps(content))
    history = {"epoch": [1, 2], "step": [10, 30], "learning_rate": [1e-3, 1e-4], "grad_norm": [6.0, 2.0],
               "train_loss": [4.0, 1.0 + seed], "validation_energy_rmse_ev": [2.0, 1.0]}  # fmt: skip
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    norms = {5: 8.0, 10: 4.0, 15: 4.0, 20: 2.0, 25: 1.0, 30: 1.0}
    lines = [{"split": "train", "step": step, "grad_norm": norm} for step, norm in norms.items()]
    lines += [{"split": "validation", "step": 30, "loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFiles.in_folder(folder)


def change_arrays(files, **changes):
    """Replace arrays of predictions.npz; None removes one."""
    with np.load(files.predictions) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    np.savez(files.predictions, **{name: values for name, values in arrays.items() if values is not None})


def padded(rows):
    return mechanism_a(MEAN, N_PAD, rows.n_atoms)


def nothing(rows):
    return np.zeros(len(rows))


def read(folder, kind):
    return pd.read_csv(folder / f"{kind}.csv", dtype={"group": str, "correction_note": str})


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("data") / "spice_like" / "store.h5")


def analyse(tmp_path, store_path, *seeds, name="a-run"):
    folder = tmp_path / "tables" / name
    analyse_run(list(seeds), store_path, folder)
    return folder


def only_line(folder):
    runs = read(folder, "runs")
    assert len(runs) == 1
    return runs.iloc[0]


def test_perfect_network_of_padded_mean(tmp_path, store_path):
    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, padded, train_error=padded)))
    assert line["slope_ev_per_atom"] == pytest.approx(MEAN / N_PAD, rel=1e-9)
    assert line["predicted_slope_ev_per_atom"] == pytest.approx(MEAN / N_PAD, rel=1e-11)
    assert line["intercept_ev"] == pytest.approx(-MEAN, rel=1e-9)
    assert line["slope_se"] == pytest.approx(0.0, abs=1e-6)
    assert line["energy_mae_ev"] == pytest.approx(line["predicted_energy_mae_ev"], rel=1e-10)
    assert line["energy_mae_ev"] > 100.0
    assert line["remainder_slope_ev_per_atom"] == pytest.approx(0.0, abs=1e-8)
    assert line["remainder_mae_ev"] == pytest.approx(0.0, abs=1e-8)
    assert line["residual_mae_ev"] == pytest.approx(0.0, abs=1e-8)
    assert math.isnan(line["remainder_r2"])
    # -p is no sum of constants per element: without an intercept the correction does not take it back.
    assert line["corrected_test_energy_mae_ev"] == pytest.approx(line["predicted_corrected_energy_mae_ev"], rel=1e-6)
    assert line["corrected_test_energy_mae_ev"] > 100.0
    assert line["corrected_test_with_constant_energy_mae_ev"] == pytest.approx(0.0, abs=1e-7)
    assert line["corrected_train_with_constant_energy_mae_ev"] == pytest.approx(0.0, abs=1e-7)
    assert line["error_constant_ev"] == pytest.approx(-MEAN, rel=1e-9)
    assert line["error_with_constant_r2"] == pytest.approx(1.0, abs=1e-12)
    assert line["error_r2"] < 0.999


def test_right_up_to_constants_per_element(tmp_path, store_path):
    def error(rows):
        return counts_of(rows) @ CONSTANTS

    seed = make_seed(tmp_path, store_path, error, kind="none", train_error=error)
    line = only_line(analyse(tmp_path, store_path, seed))
    assert line["remainder_r2"] == pytest.approx(1.0, abs=1e-12)
    for name, value in zip("HCO", CONSTANTS, strict=True):
        assert line[f"remainder_element_{name}_ev"] == pytest.approx(value, abs=1e-9)
    for part in ("train", "test"):
        assert line[f"corrected_{part}_energy_mae_ev"] == pytest.approx(0.0, abs=1e-9)
        assert line[f"corrected_{part}_rank"] == 3
    assert line["residual_mae_ev"] == pytest.approx(0.0, abs=1e-9)
    assert (line["predicted_slope_ev_per_atom"], line["predicted_energy_mae_ev"]) == (0.0, 0.0)
    assert math.isnan(line["n_pad"])
    assert line["error_constant_ev"] == pytest.approx(0.0, abs=1e-9)
    assert isinstance(line["correction_note"], float)  # empty


def test_both_mechanisms_are_told_apart(tmp_path, store_path):
    def error(rows):
        return padded(rows) + counts_of(rows) @ CONSTANTS

    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, error)))
    for name, value in zip("HCO", CONSTANTS, strict=True):
        assert line[f"remainder_element_{name}_ev"] == pytest.approx(value, abs=1e-9)
    assert line["remainder_r2"] == pytest.approx(1.0, abs=1e-10)
    difference = line["slope_ev_per_atom"] - line["remainder_slope_ev_per_atom"]
    assert difference == pytest.approx(MEAN / N_PAD, rel=1e-9)
    assert math.isnan(line["corrected_train_energy_mae_ev"])  # no energies of training rows
    assert "train" in line["correction_note"]


def test_a_network_of_forces_alone_never_saw_the_mean(tmp_path, store_path):
    def error(rows):
        return MEAN * rows.n_atoms / N_PAD - counts_of(rows) @ SELF

    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, error)))
    assert line["error_constant_ev"] == pytest.approx(0.0, abs=1e-7)
    assert line["error_r2"] == pytest.approx(1.0, abs=1e-12)
    assert line["corrected_test_energy_mae_ev"] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("kind", ["mean", "per_element"])
def test_other_shifts_predict_no_slope(tmp_path, store_path, kind):
    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, nothing, kind=kind)))
    assert line["predicted_slope_ev_per_atom"] == 0.0
    assert line["energy_mae_ev"] == 0.0
    assert line["mean_ev"] == (MEAN if kind == "mean" else 0.0)


def test_corrections_are_fitted_on_their_own_rows(tmp_path, store_path):
    noise = np.random.default_rng(5)

    def error(rows):
        return counts_of(rows) @ CONSTANTS + noise.normal(size=len(rows))

    def other(rows):
        return counts_of(rows) @ (2 * CONSTANTS) + noise.normal(size=len(rows))

    seed = make_seed(tmp_path, store_path, error, kind="none", train_error=other)
    folder = analyse(tmp_path, store_path, seed)
    molecules, line = read(folder, "molecules"), only_line(folder)
    with np.load(seed.predictions) as archive, Store(store_path) as store:
        part = {}
        for name, prefix in (("train", "train_"), ("test", "")):
            rows = store.read(archive[f"{prefix}rows"])
            wrong = archive[f"{prefix}energy_label_ev"] - archive[f"{prefix}energy_predicted_ev"]
            part[name] = np.linalg.lstsq(counts_of(rows), wrong, rcond=None)[0]
        test = store.read(archive["rows"])
    for name, coefficients in part.items():
        expected = molecules["energy_predicted_ev"] + counts_of(test) @ coefficients
        np.testing.assert_allclose(molecules[f"energy_corrected_{name}_ev"], expected, rtol=1e-9)
        off = np.abs(expected - molecules["energy_true_ev"])
        assert line[f"corrected_{name}_energy_mae_ev"] == pytest.approx(off.mean(), rel=1e-6)
        per_atom = (off / molecules["n_atoms"]).mean()
        assert line[f"corrected_{name}_energy_per_atom_mae_ev"] == pytest.approx(per_atom, rel=1e-6)
    squares = {
        name: np.square(molecules[f"energy_corrected_{name}_ev"] - molecules["energy_true_ev"]).sum() for name in part
    }
    assert squares["test"] < squares["train"]
    # The correction over training rows does not look at test energies.
    again = make_seed(
        tmp_path / "other", store_path, lambda rows: counts_of(rows) @ CONSTANTS + 5.0, kind="none", train_error=nothing
    )
    moved = read(analyse(tmp_path / "other", store_path, again), "molecules")
    np.testing.assert_allclose(moved["energy_corrected_train_ev"], moved["energy_predicted_ev"], rtol=1e-12)


def test_one_formula(tmp_path):
    path = make_store(tmp_path / "ethanol" / "store.h5", [FORMULAS[3]], info=False)
    seed = make_seed(tmp_path, path, lambda rows: np.full(len(rows), 0.25), kind="mean", train_error=nothing)
    folder = analyse(tmp_path, path, seed)
    line = only_line(folder)
    assert line["corrected_test_rank"] == 1
    assert line["correction_note"].count("rank 1 of 3") == 2
    assert line["corrected_test_energy_mae_ev"] == pytest.approx(0.0, abs=1e-9)
    assert line["corrected_train_energy_mae_ev"] == pytest.approx(0.25, abs=1e-9)
    assert line["aligned_energy_mae_ev"] == pytest.approx(0.0, abs=1e-9)
    counts = np.array([FORMULAS[3].count(z) for z in ELEMENTS])
    least_norm = 0.25 * counts / (counts @ counts)
    found = [line[f"remainder_element_{name}_ev"] for name in "HCO"]
    np.testing.assert_allclose(found, least_norm, atol=1e-9)
    for column in ("slope_ev_per_atom", "slope_se", "intercept_ev", "remainder_slope_ev_per_atom", "error_constant_ev"):
        assert math.isnan(line[column]), column
    assert line["data"] == "ethanol"
    assert not {"subset", "smiles"} & {*read(folder, "molecules"), *read(folder, "outliers")}


def test_an_element_without_training_rows_is_named(tmp_path, store_path):
    seed = make_seed(tmp_path, store_path, nothing, train_error=nothing)
    with Store(store_path) as store:
        water = store.read(np.arange(0, N_FRAMES, 2), positions=False)
    change_arrays(
        seed,
        train_rows=water.rows,
        train_ptr=water.ptr,
        train_atomic_numbers=water.atomic_numbers,
        train_energy_label_ev=water.energy["dft"],
        train_energy_predicted_ev=water.energy["dft"],
    )
    assert "train: rank 1 of 3 (no atoms of C)" in only_line(analyse(tmp_path, store_path, seed))["correction_note"]


def test_clustered_standard_error_is_that_of_the_sandwich():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 5)
    x = np.stack([np.ones(150), rng.integers(2, 20, 150)], axis=1).astype(float)
    y = x @ [3.0, -2.0] + rng.normal(size=30)[groups] + 0.1 * rng.normal(size=150)
    fit = least_squares(x, y, groups)
    beta = np.linalg.solve(x.T @ x, x.T @ y)
    bread = np.linalg.inv(x.T @ x)
    meat = sum(np.outer(s, s) for g in range(30) for s in [x[groups == g].T @ (y[groups == g] - x[groups == g] @ beta)])
    expected = np.sqrt(np.diag(bread @ meat @ bread) * 30 / 29 * 149 / 148)
    np.testing.assert_allclose(fit.coefficients, beta, rtol=1e-10)
    np.testing.assert_allclose(fit.standard_error, expected, rtol=1e-10)
    # With every row its own group the repeated rows would pretend to know more.
    assert least_squares(x, y, np.arange(150)).standard_error[0] < 0.8 * fit.standard_error[0]
    assert np.isnan(least_squares(x, y, groups % 2).standard_error).all()


def test_molecules(tmp_path, store_path):
    rng = np.random.default_rng(2)
    with Store(store_path) as store:
        n_atoms = int(store.n_atoms(np.arange(store.n_rows)[1::2]).sum())
    force_error = rng.normal(size=(n_atoms, 3))
    seed = make_seed(tmp_path, store_path, nothing, force_error=force_error)
    molecules = read(analyse(tmp_path, store_path, seed), "molecules")
    with np.load(seed.predictions) as archive, Store(store_path) as store:
        residual = np.abs(
            archive["forces_predicted_ev_per_angstrom"].astype(float) - archive["forces_label_ev_per_angstrom"]
        )
        ptr, rows = archive["ptr"], archive["rows"]
        energies, groups = store.energies("dft"), store.groups()
        subsets = np.array(store.group_info("subset"))[groups[rows]]
    parts = [residual[a:b] for a, b in itertools.pairwise(ptr)]
    np.testing.assert_allclose(molecules["force_mae_ev_per_angstrom"], [part.mean() for part in parts])
    np.testing.assert_allclose(molecules["largest_force_residual_ev_per_angstrom"], [part.max() for part in parts])
    lowest = np.array([energies[groups == groups[row]].min() for row in rows])
    above = (energies[rows] - lowest) / np.diff(ptr)
    np.testing.assert_allclose(molecules["above_lowest_ev_per_atom"], above, atol=1e-12)
    assert (above >= 0).all()
    assert above.max() > 0.1
    assert molecules["subset"].tolist() == subsets.tolist()
    assert molecules["row"].tolist() == rows.tolist()
    assert molecules["group"].tolist() == [f"{groups[row]:03d}" for row in rows]
    assert set(molecules["formula"]) == {"H2O", "CH4", "CO2", "C2H6O", "CH2O", "C2H6", "C3H6O3"}
    assert (molecules.loc[molecules["formula"] == "CO2", "n_atoms"] == 3).all()


def test_forces_elements_and_outliers(tmp_path, store_path):
    with Store(store_path) as store:
        test = store.read(np.arange(store.n_rows)[1::2][::-1], positions=False)
    wrong = np.zeros((len(test.atomic_numbers), 3))
    wrong[np.asarray(test.atomic_numbers) == 8] = 0.5
    label = test.forces["dft"]
    wrong[7, 1] = 20.0 - label[7, 1]  # large, prediction far from zero
    wrong[11, 2] = -9.0 - label[11, 2]
    folder = analyse(tmp_path, store_path, make_seed(tmp_path, store_path, nothing, force_error=wrong))
    line, elements, outliers, forces = (
        only_line(folder), read(folder, "elements"), read(folder, "outliers"), read(folder, "forces"),
    )  # fmt: skip
    assert line["n_components"] == wrong.size
    assert line["large_residual_fraction"] == pytest.approx(2 / wrong.size)
    assert line["outlier_fraction"] == 0.0
    assert line["force_mae_ev_per_angstrom"] == pytest.approx(np.abs(wrong).mean(), rel=1e-6)
    assert elements["n_atoms"].sum() == len(wrong)
    weighted = (elements["n_atoms"] * elements["force_mae_ev_per_angstrom"]).sum() / len(wrong)
    assert weighted == pytest.approx(np.abs(wrong).mean(), rel=1e-6)
    assert len(outliers) == 50
    first = outliers.iloc[0]
    molecule = int(np.searchsorted(test.ptr, 7, side="right")) - 1
    assert (first["row"], first["atom"], first["component"]) == (test.rows[molecule], 7 - test.ptr[molecule], "y")
    assert first["predicted"] == pytest.approx(20.0, abs=1e-5)
    assert first["residual"] == pytest.approx(wrong[7, 1], abs=1e-5)
    assert first["true"] + first["residual"] == pytest.approx(first["predicted"])
    assert not first["near_zero"]
    assert outliers["residual"].abs().is_monotonic_decreasing
    assert {"smiles", "subset", "formula"} <= set(outliers)
    assert len(forces) == 120 * 120
    assert forces["count"].sum() == wrong.size
    assert forces["true_low"].min() == -forces["true_high"].max()


def test_outliers_of_the_study_are_large_errors_of_small_predictions(tmp_path, store_path):
    with Store(store_path) as store:
        test = store.read(np.arange(store.n_rows)[1::2][::-1], positions=False)
    label = test.forces["dft"].astype(float)
    seed = make_seed(tmp_path, store_path, nothing, force_error=0.5 - label)
    true = label.copy()
    true[:, 0] = 9.0
    change_arrays(seed, forces_label_ev_per_angstrom=true)
    folder = analyse(tmp_path, store_path, seed)
    assert only_line(folder)["outlier_fraction"] == pytest.approx(1 / 3)
    outliers = read(folder, "outliers")
    assert len(outliers) == len(label) > 50
    assert outliers["near_zero"].all()


def test_settings_and_costs(tmp_path, store_path):
    folder = analyse(tmp_path, store_path, make_seed(tmp_path, store_path, nothing))
    line = only_line(folder)
    expected = {
        "run": "a-run", "seed": 0, "data": "spice_like", "fidelity": "dft", "model": "so3krates",
        "shift": "mean_padded", "beta": 0.99, "n_layers": 2, "n_parameters": 17, "steps": 5, "train_seconds": 2.0,
        "device": "cpu", "mean_ev": MEAN, "n_pad": N_PAD, "warnings": "mixed compositions", "n_groups": len(FORMULAS),
    }  # fmt: skip
    assert {key: line[key] for key in expected} == expected
    assert math.isnan(line["configurations_per_second"])
    assert sorted(path.name for path in folder.glob("*.csv")) == sorted(f"{kind}.csv" for kind in FILES)
    assert all(is_intact(folder / f"{kind}.csv") for kind in FILES)
    plain = {"config__model__options": {}, "config__training__loss": {"name": "energy_forces"}}
    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, nothing, **plain)))
    assert math.isnan(line["beta"])
    assert math.isnan(line["n_layers"])


def test_training_and_validation_errors(tmp_path, store_path):
    errors = {
        "train": {"n_rows": 7, "energy_rmse_ev": 0.5, "force_mae_ev_per_angstrom": 0.25},
        "val": {"n_rows": 0, "energy_rmse_ev": None},
    }
    training = {"loss": {"name": "se3", "energy_weight": 1e-5}, "clip_norm": None, "optimizer": {"learning_rate": 1e-3}}
    seed = make_seed(tmp_path, store_path, nothing, errors=errors, config__training=training, reference__scale_ev=2.5)
    line = only_line(analyse(tmp_path, store_path, seed))
    assert line["train_energy_rmse_ev"] == 0.5
    assert line["train_force_mae_ev_per_angstrom"] == 0.25
    assert math.isnan(line["train_energy_mae_ev"])
    assert math.isnan(line["validation_energy_rmse_ev"])
    assert (line["energy_weight"], line["learning_rate"], line["scale_ev"]) == (1e-5, 1e-3, 2.5)
    assert math.isnan(line["clip_norm"])
    # A run that was trained before these errors were kept.
    line = only_line(analyse(tmp_path, store_path, make_seed(tmp_path, store_path, nothing)))
    assert math.isnan(line["train_energy_rmse_ev"])


def test_history_of_all_seeds_and_the_share_of_clipped_steps(tmp_path, store_path):
    options = {"config__training__clip_norm": 3.0}
    seeds = [make_seed(tmp_path, store_path, nothing, seed=k, **options) for k in (1, 0)]
    history = read(analyse(tmp_path, store_path, *seeds), "history")
    assert history["seed"].tolist() == [0, 0, 1, 1]
    assert history["train_loss"].tolist() == [4.0, 1.0, 4.0, 2.0]
    assert set(history["run"]) == {"a-run"}
    # Norms 8 and 4, then 4, 2, 1 and 1, of which those above 3 were clipped.
    assert history["clipped_share"].tolist() == [1.0, 0.25, 1.0, 0.25]
    assert set(history["clip_norm"]) == {3.0}
    free = make_seed(tmp_path, store_path, nothing)
    history = read(analyse(tmp_path, store_path, free), "history")
    assert history[["clip_norm", "clipped_share"]].to_numpy().tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("case", ["missing", "column", "metrics"])
def test_bad_histories_are_one_line(tmp_path, store_path, case):
    seed = make_seed(tmp_path, store_path, nothing, config__training__clip_norm=3.0)
    folder = seed.run.parent
    if case == "missing":
        (folder / "history.csv").unlink()
    if case == "column":
        (folder / "history.csv").write_text("step,loss\n10,1.0\n")
    if case == "metrics":
        (folder / "metrics.jsonl").write_text('{"split": "train", "step": 10, "grad\n')
    messages = {"missing": "history.csv", "column": "'learning_rate' is missing", "metrics": "not lines of metrics"}
    with pytest.raises(InputError, match=messages[case]) as caught:
        analyse(tmp_path, store_path, seed)
    assert "\n" not in str(caught.value)


def test_seeds_and_ensemble(tmp_path, store_path):
    spread = [1.0, 2.0, 4.0]
    seeds = [
        make_seed(
            tmp_path, store_path, lambda rows, s=s: s * rows.n_atoms, seed=k, kind="none", force_error=0.1 * s,
            train_error=None,
        )
        for k, s in enumerate(spread)
    ]  # fmt: skip
    folder = analyse(tmp_path, store_path, seeds[2], seeds[0], seeds[1])
    runs, ensemble = read(folder, "runs"), read(folder, "ensemble")
    assert runs["seed"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(runs["slope_ev_per_atom"], spread)
    np.testing.assert_allclose(ensemble["energy_std_ev_per_atom"], np.std(spread, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(ensemble["energy_error_ev_per_atom"], np.mean(spread), rtol=1e-9)
    np.testing.assert_allclose(ensemble["force_std_ev_per_angstrom"], 0.1 * np.std(spread, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(ensemble["force_error_ev_per_angstrom"], 0.1 * np.mean(spread), rtol=1e-5)
    assert len(read(folder, "molecules")) == 3 * len(ensemble)
    # Corrected over training rows the seeds agree.
    seeds = [
        make_seed(
            tmp_path / "c", store_path, lambda rows, s=s: s * rows.n_atoms, seed=k, kind="none",
            train_error=lambda rows, s=s: s * rows.n_atoms,
        )
        for k, s in enumerate(spread)
    ]  # fmt: skip
    ensemble = read(analyse(tmp_path / "c", store_path, *seeds), "ensemble")
    np.testing.assert_allclose(ensemble["energy_std_ev_per_atom"], 0.0, atol=1e-9)


def test_tables_are_read_by_the_study(tmp_path, store_path):
    seeds = [make_seed(tmp_path, store_path, padded, seed=k, train_error=padded) for k in (0, 1)]
    folder = analyse(tmp_path, store_path, *seeds)
    tables = RunTables.from_paths(folder / f"{kind}.csv" for kind in FILES)
    for kind in FILES:
        assert len(tables.get(kind, "a-run"))


def test_without_forces_and_the_same_bytes_twice(tmp_path, store_path):
    seed = make_seed(tmp_path, store_path, padded, train_error=padded)
    change_arrays(seed, forces_label_ev_per_angstrom=None, forces_predicted_ev_per_angstrom=None)
    folder = analyse(tmp_path, store_path, seed)
    line = only_line(folder)
    assert math.isnan(line["force_mae_ev_per_angstrom"])
    assert line["n_components"] == 0
    for kind in ("forces", "elements", "outliers", "ensemble"):
        table = read(folder, kind)
        assert len(table) == 0
        assert len(table.columns) >= 5
    assert read(folder, "molecules")["force_mae_ev_per_angstrom"].isna().all()
    before = {kind: (folder / f"{kind}.csv").read_bytes() for kind in FILES}
    analyse(tmp_path, store_path, seed)
    assert before == {kind: (folder / f"{kind}.csv").read_bytes() for kind in FILES}


BAD_ARRAYS = {
    "missing": ({"group": None}, "array 'group' is missing"),
    "half the forces": ({"forces_label_ev_per_angstrom": None}, "array 'forces_label_ev_per_angstrom' is missing"),
    "half the training": ({"train_rows": np.array([0, 2])}, "array 'train_ptr' is missing"),
    "length": ({"energy_label_ev": np.zeros(3)}, "shape (3,)"),
    "type": ({"rows": np.linspace(0, 1, 42)}, "whole numbers"),
    "objects": ({"rows": np.array([{}], dtype=object)}, "not an archive of arrays"),
    "ptr": ({"ptr": np.zeros(43, dtype=int)}, "'ptr' does not ascend"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path, store_path, case):
    seed = make_seed(tmp_path, store_path, nothing)
    changes, message = BAD_ARRAYS[case]
    change_arrays(seed, **changes)
    with pytest.raises(InputError) as caught:
        analyse(tmp_path, store_path, seed)
    assert message in str(caught.value)
    assert str(seed.predictions) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("name", ["energy_predicted_ev", "forces_predicted_ev_per_angstrom", "energy_label_ev"])
def test_not_finite(tmp_path, store_path, name):
    seed = make_seed(tmp_path, store_path, nothing)
    with np.load(seed.predictions) as archive:
        values = archive[name].copy()
    values.ravel()[[1, 4]] = [np.nan, np.inf]
    change_arrays(seed, **{name: values})
    with pytest.raises(InputError, match=f"2 of {values.size} numbers of '{name}' are not finite"):
        analyse(tmp_path, store_path, seed)


BAD_KEYS = {
    "no mean": ({"reference__training_constant_ev": None}, "key 'reference.training_constant_ev' is missing"),
    "mean is text": ({"reference__training_constant_ev": "high"}, "is 'high', expected a number"),
    "no n_pad": ({"reference__n_pad": None}, "key 'reference.n_pad' is None"),
    "n_pad": ({"reference__n_pad": 0}, "expected a number of atoms"),
    "no test": ({"test": None}, "key 'test.energy_mae_ev' is missing"),
    "another training": ({"test__energy_mae_ev": 3.0}, "name the files of one training"),
    "another seed": ({"config__seed": 4}, "is of seed 4, expected 0"),
    "no fidelity": ({"config__fidelity": None}, "key 'config.fidelity' is missing"),
    "another fidelity": ({"config__fidelity": "hf"}, "no energies of fidelity 'hf'"),
    "no costs": ({"steps": None}, "key 'steps' is missing"),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_bad_keys(tmp_path, store_path, case):
    changes, message = BAD_KEYS[case]
    seed = make_seed(tmp_path, store_path, nothing, **changes)
    with pytest.raises(InputError) as caught:
        analyse(tmp_path, store_path, seed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MIXED = {
    "beta": ({"config__training__loss": {"name": "so3krates", "beta": 1.0}}, "key 'config.training.loss.beta' is 1.0"),
    "data": ({"inputs__store": "1" * 64}, "key 'inputs.store'"),
    "layers": ({"config__model__options": {"n_layers": 3}}, "key 'config.model.options.n_layers' is 3"),
}


@pytest.mark.parametrize("case", MIXED)
def test_seeds_of_different_runs(tmp_path, store_path, case):
    changes, message = MIXED[case]
    first = make_seed(tmp_path, store_path, nothing)
    other = make_seed(tmp_path, store_path, nothing, seed=1, **changes)
    with pytest.raises(InputError, match="seeds of one run only") as caught:
        analyse(tmp_path, store_path, first, other)
    assert message in str(caught.value)


def test_seeds_that_do_not_go_together(tmp_path, store_path):
    first = make_seed(tmp_path, store_path, nothing)
    with pytest.raises(InputError, match="no seeds to analyse"):
        analyse(tmp_path, store_path)
    with pytest.raises(InputError, match="name each seed once"):
        analyse(tmp_path, store_path, first, first)
    other = make_seed(tmp_path, store_path, nothing, seed=1)
    with np.load(other.predictions) as archive:
        rows = archive["rows"]
    change_arrays(other, rows=rows - 1)
    with pytest.raises(InputError, match="test rows or labels"):
        analyse(tmp_path, store_path, first, other)
    with_training = make_seed(tmp_path, store_path, nothing, seed=2, train_error=nothing)
    with pytest.raises(InputError, match="atoms or training rows"):
        analyse(tmp_path, store_path, first, with_training)
    with pytest.raises(InputError, match="seed<k>"):
        RunFiles.in_folder(tmp_path / "seedling")


def test_rows_that_are_not_in_the_store(tmp_path, store_path):
    seed = make_seed(tmp_path, store_path, nothing, train_error=nothing)
    small = make_store(tmp_path / "small" / "store.h5", FORMULAS[:3])
    with pytest.raises(InputError, match=r"row 83 is not in .*36 rows"):
        analyse(tmp_path, small, seed)
    another = make_store(tmp_path / "another" / "store.h5", FORMULAS[::-1])
    with pytest.raises(InputError, match="atoms or dft energies of the test rows"):
        analyse(tmp_path, another, seed)
    with np.load(seed.predictions) as archive:
        group, rows, train_rows = archive["group"], archive["rows"], archive["train_rows"]
    change_arrays(seed, group=group[::-1])
    with pytest.raises(InputError, match="'group'"):
        analyse(tmp_path, store_path, seed)
    change_arrays(seed, group=group, train_rows=np.where(train_rows == 0, rows[0], train_rows))
    with pytest.raises(InputError, match="both training and test rows"):
        analyse(tmp_path, store_path, seed)
    change_arrays(seed, train_rows=np.roll(train_rows, 1))
    with pytest.raises(InputError, match="training rows are not those"):
        analyse(tmp_path, store_path, seed)


def test_missing_and_damaged_files(tmp_path, store_path):
    seed = make_seed(tmp_path, store_path, nothing)
    content = seed.predictions.read_bytes()
    seed.predictions.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"predictions\.npz: not an archive of arrays"):
        analyse(tmp_path, store_path, seed)
    seed.predictions.unlink()
    with pytest.raises(InputError, match=r"predictions\.npz: no such file"):
        analyse(tmp_path, store_path, seed)
    seed.run.write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not valid JSON"):
        analyse(tmp_path, store_path, seed)


def test_light():
    code = "import sys, mlip_studies.studies.run_tables; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
