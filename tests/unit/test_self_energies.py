"""Per-element regression against exact coefficients, a dense solver, and sets that do not determine them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.config import read_yaml
from mlip_studies.data.build import build_store
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.named_splits import make_split, write_named_split
from mlip_studies.data.reference_energies import load_isolated_atoms
from mlip_studies.data.self_energies import (
    energy_chunks,
    fit_self_energies,
    load_self_energies,
    no_self_energies,
    regress_store,
    select_rows,
    write_self_energies,
)
from mlip_studies.data.split_self_energies import fit_on_split
from mlip_studies.data.splits import Split
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.elements import composition, formula, numbers, symbols
from mlip_studies.errors import InputError

ELEMENTS = [1, 6, 7, 8]
TRUE = np.array([-16.35, -1036.29, -1488.67, -2046.15])
MOLECULES = ([8, 1, 1], [7, 1, 1, 1], [6, 1, 1, 1, 1], [6, 7, 1], [6, 6, 8, 1, 1, 1, 1, 1, 1], [8, 6, 8])


def make_store(
    path: Path, molecules=MOLECULES, noise: float = 0.0, n: int = 50
) -> tuple[Store, np.ndarray, np.ndarray]:
    """A store whose energies are sums of the true coefficients plus noise; also counts and energies."""
    rng = np.random.default_rng(3)
    counts, energies = [], []
    with StoreWriter(path, ["e", "half"], provenance={"elements": ELEMENTS, "dataset": "toy"}) as writer:
        for z in molecules:
            x = np.array([z.count(e) for e in ELEMENTS])
            y = x @ TRUE + noise * rng.normal(size=n)
            half = y.copy()
            half[::2] = np.nan
            writer.append(z, np.zeros((n, len(z), 3)), {"e": y, "half": half}, group=formula(z))
            counts.append(np.tile(x, (n, 1)))
            energies.append(y)
    return Store(path), np.concatenate(counts).astype(float), np.concatenate(energies)


def fit(store: Store, **options):
    return fit_self_energies(store, {"e": np.arange(store.n_rows)}, **options)["fidelities"]["e"]


def test_exact_energies_give_exact_coefficients(tmp_path):
    store, _, y = make_store(tmp_path / "s.h5")
    with store:
        result = fit(store)
    assert result["elements"] == ELEMENTS
    np.testing.assert_allclose(result["coefficients_ev"], TRUE, rtol=0, atol=1e-9)
    assert result["rank"] == 4 and result["n_rows"] == 300
    assert result["after"]["std_ev"] < 1e-9 and result["after"]["mae_per_atom_ev"] < 1e-9
    assert result["before"]["mean_ev"] == pytest.approx(y.mean(), rel=1e-14)
    assert result["before"]["std_ev"] == pytest.approx(y.std(), rel=1e-12)


@pytest.mark.parametrize("chunk_rows", [7, 100000])
def test_against_a_dense_solver(tmp_path, chunk_rows):
    store, x, y = make_store(tmp_path / "s.h5", noise=0.3)
    with store:
        result = fit(store, chunk_rows=chunk_rows)
    solution, _, rank, singular = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ solution
    np.testing.assert_allclose(result["coefficients_ev"], solution, rtol=0, atol=1e-9)
    assert result["rank"] == rank == 4
    assert result["condition_number"] == pytest.approx(singular[0] / singular[-1], rel=1e-9)
    covariance = residual @ residual / (len(y) - 4) * np.linalg.inv(x.T @ x)
    np.testing.assert_allclose(result["standard_error_ev"], np.sqrt(np.diag(covariance)), rtol=1e-8)
    # The truth lies within a few of the standard errors.
    assert (np.abs(np.array(result["coefficients_ev"]) - TRUE) < 5 * np.array(result["standard_error_ev"])).all()
    per_atom = residual / x.sum(axis=1)
    assert result["after"]["mean_ev"] == pytest.approx(residual.mean(), abs=1e-9)
    assert result["after"]["std_ev"] == pytest.approx(residual.std(), rel=1e-9)
    assert result["after"]["std_per_atom_ev"] == pytest.approx(per_atom.std(), rel=1e-9)
    assert result["after"]["mae_per_atom_ev"] == pytest.approx(np.abs(per_atom).mean(), rel=1e-9)
    for name, values in (("before", y), ("after", residual)):
        histogram = result["histogram"][name]
        assert sum(histogram["counts"]) == len(y)
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        expected = np.histogram(values, histogram["edges"])[0]
        assert np.abs(expected - histogram["counts"]).sum() <= 2  # ends may differ by round-off


def test_one_formula_has_rank_one_and_the_minimum_norm(tmp_path):
    store, x, y = make_store(tmp_path / "s.h5", molecules=[[6, 6, 8, 1, 1, 1, 1, 1, 1]], noise=0.2)
    with store:
        result = fit(store)
    assert result["rank"] == 1
    np.testing.assert_allclose(result["coefficients_ev"], np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-9)
    assert result["coefficients_ev"][2] == 0.0  # no nitrogen
    assert result["after"]["mean_ev"] == pytest.approx(0.0, abs=1e-9)
    assert result["after"]["std_ev"] == pytest.approx(y.std(), rel=1e-9)
    json.dumps(result, allow_nan=False)


def test_offsets_of_other_elements_are_not_mixed_up(tmp_path):
    store, x, _ = make_store(tmp_path / "s.h5")
    with store:
        result = fit(store, elements=[8, 7, 6, 1])
        rows = store.read()
    np.testing.assert_allclose(result["coefficients_ev"], TRUE[::-1], atol=1e-9)
    np.testing.assert_array_equal(composition(rows.atomic_numbers, rows.ptr, ELEMENTS), x)


def test_rows_of_the_split_or_all(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    empty = np.zeros(0, dtype=np.int64)
    split = Split(
        test=empty, val_high=empty, train_high=np.array([1, 51]), val_low=empty, train_low=np.array([0, 2, 99])
    )
    with store:
        train = select_rows(store, split, "e", "half", "train")
        assert train["e"].tolist() == [0, 2, 99] and train["half"].tolist() == [1, 51]
        everything = select_rows(store, split, "e", "half", "all")
        assert len(everything["e"]) == 300 and len(everything["half"]) == 150
        with pytest.raises(InputError, match="'some' is unknown; expected one of train, all"):
            select_rows(store, split, "e", "half", "some")
        result = fit_self_energies(store, train, rows_name="train")
        assert result["rows"] == "train" and result["dataset"] == "toy"
        assert result["fidelities"]["e"]["n_rows"] == 3 and result["fidelities"]["half"]["rank"] == 2


def grouped_store(path: Path, n_groups: int = 12, seed: int = 4) -> tuple[Store, np.ndarray, np.ndarray, np.ndarray]:
    """Groups of different sizes whose energies share an error per group."""
    rng = np.random.default_rng(seed)
    counts, energies, groups = [], [], []
    with StoreWriter(path, ["e"], provenance={"elements": ELEMENTS}) as writer:
        for g in range(n_groups):
            z = [*MOLECULES[g % len(MOLECULES)], *([1] * (g % 3))]
            n = int(rng.integers(3, 30))
            x = np.array([z.count(e) for e in ELEMENTS])
            y = x @ TRUE + rng.normal() + 0.1 * rng.normal(size=n)
            writer.append(z, np.zeros((n, len(z), 3)), {"e": y}, group=f"g{g}")
            counts.append(np.tile(x, (n, 1)))
            energies.append(y)
            groups.append(np.full(n, g))
    return Store(path), np.concatenate(counts).astype(float), np.concatenate(energies), np.concatenate(groups)


@pytest.mark.parametrize("chunk_rows", [11, 100000])
def test_clustered_standard_errors_against_the_sandwich(tmp_path, chunk_rows):
    store, x, y, group = grouped_store(tmp_path / "s.h5")
    with store:
        result = fit(store, chunk_rows=chunk_rows)
    bread = np.linalg.inv(x.T @ x)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    meat = sum(
        np.outer(x[group == g].T @ residual[group == g], x[group == g].T @ residual[group == g]) for g in range(12)
    )
    factor = 12 / 11 * (len(y) - 1) / (len(y) - 4)
    expected = np.sqrt(np.diag(bread @ meat @ bread) * factor)
    np.testing.assert_allclose(result["standard_error_clustered_ev"], expected, rtol=1e-7)
    assert result["n_groups"] == 12
    # Errors that a group shares make the textbook error too small.
    assert (expected > 1.5 * np.array(result["standard_error_ev"])).all()


def test_clustered_standard_errors_cover_the_truth(tmp_path):
    hits, textbook, n = np.zeros(4), np.zeros(4), 25
    for seed in range(n):
        store, *_ = grouped_store(tmp_path / f"{seed}.h5", n_groups=40, seed=seed)
        with store:
            result = fit(store)
        error = np.abs(np.array(result["coefficients_ev"]) - TRUE)
        hits += error < 2 * np.array(result["standard_error_clustered_ev"])
        textbook += error < 2 * np.array(result["standard_error_ev"])
    assert (hits / n > 0.75).all() and (textbook / n < 0.75).all()


def test_per_atom_statistics(tmp_path):
    store, x, y = make_store(tmp_path / "s.h5", noise=0.3)
    with store:
        result = fit(store)
    per_atom = y / x.sum(axis=1)
    assert result["before"]["mean_per_atom_ev"] == pytest.approx(per_atom.mean(), rel=1e-12)
    assert result["before"]["std_per_atom_ev"] == pytest.approx(per_atom.std(), rel=1e-9)
    residual = (y - x @ result["coefficients_ev"]) / x.sum(axis=1)
    assert result["after"]["mean_per_atom_ev"] == pytest.approx(residual.mean(), abs=1e-9)


def test_what_the_compositions_leave_open_is_said(tmp_path):
    store, *_ = make_store(tmp_path / "one.h5", molecules=[[6, 6, 8, 1, 1, 1, 1, 1, 1]], noise=0.2)
    with store:
        result = fit(store)
    assert result["determined"] == [False, False, False, False]
    assert result["note"].startswith("rank 1 of 4: no atoms of N; the energies of H, C, O cannot be told apart")
    # One group: its spread says nothing about other molecules.
    assert result["n_groups"] == 1 and result["standard_error_clustered_ev"] is None

    # H and O only ever as H2O, C and N free: two of the energies are open, two are fixed.
    molecules = [[8, 1, 1, 6], [8, 1, 1, 6, 6, 7], [6, 7], [7, 7], [8, 1, 1, 8, 1, 1]]
    store, x, y = make_store(tmp_path / "two.h5", molecules=molecules)
    with store:
        result = fit(store)
    assert result["rank"] == 3 and result["determined"] == [False, True, True, False]
    assert "the energies of H, O cannot be told apart" in result["note"] and "C" not in result["note"].split(":")[1]
    np.testing.assert_allclose(np.array(result["coefficients_ev"])[[1, 2]], TRUE[[1, 2]], atol=1e-7)
    np.testing.assert_allclose(x @ result["coefficients_ev"], y, atol=1e-7)

    # Two pairs that are bound separately are named separately.
    store, *_ = make_store(tmp_path / "pairs.h5", molecules=[[1, 6], [1, 6, 7, 8], [7, 8, 7, 8]])
    with store:
        note = fit(store)["note"]
    assert "energies of H, C cannot" in note and "energies of N, O cannot" in note

    store, *_ = make_store(tmp_path / "all.h5")
    with store:
        result = fit(store)
    assert result["note"] is None and all(result["determined"])


def test_all_fidelities_of_a_store(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5", noise=0.1)
    with store:
        everything = regress_store(store)
        assert everything["rows"] == "all" and everything["dataset"] == "toy" and everything["without_rows"] == []
        assert {name: fit["n_rows"] for name, fit in everything["fidelities"].items()} == {"e": 300, "half": 150}
        by_rows = fit_self_energies(store, {"half": np.flatnonzero(store.has_label("half"))}, rows_name="all")
        assert by_rows["fidelities"]["half"] == everything["fidelities"]["half"]
        # Unlabeled rows among the given ones are passed over, here all of them for one fidelity.
        some = regress_store(store, rows=np.array([100, 2, 0, 50]))
        assert some["rows"] == "train" and some["without_rows"] == ["half"]
        assert list(some["fidelities"]) == ["e"] and some["fidelities"]["e"]["n_rows"] == 4
        with pytest.raises(InputError, match="no labeled rows to fit"):
            regress_store(store, rows=[])
        with pytest.raises(InputError, match="'some' is unknown; expected one of train, all"):
            regress_store(store, rows_name="some")
        json.dumps(everything, allow_nan=False)


def test_chunks_hold_labeled_rows_in_file_order(tmp_path):
    store, x, y = make_store(tmp_path / "s.h5")
    with store:
        parts = list(energy_chunks(store, "half", ELEMENTS, chunk_rows=7))
        labeled = np.flatnonzero(store.has_label("half"))
        assert all(0 < len(part[1]) <= 7 for part in parts)
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x[labeled])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y[labeled])
        np.testing.assert_array_equal(np.concatenate([part[2] for part in parts]), store.groups(labeled))
        chosen = next(iter(energy_chunks(store, "e", ELEMENTS, rows=[9, 3])))
        np.testing.assert_array_equal(chosen[1], y[[3, 9]])


def test_round_trip_and_baseline(tmp_path):
    store, _, y = make_store(tmp_path / "s.h5")
    with store:
        write_self_energies(fit_self_energies(store, {"e": np.arange(store.n_rows)}), tmp_path / "fit.json")
        rows = store.read()
    energies = load_self_energies(tmp_path / "fit.json")["e"]
    np.testing.assert_allclose(energies.baseline(rows.atomic_numbers, rows.ptr), y, atol=1e-8)
    with pytest.raises(InputError, match="element S in molecule 0: expected only H, C, N, O"):
        energies.baseline(np.array([16, 1, 1]), np.array([0, 3]))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad.json: not a file of self energies"):
        load_self_energies(tmp_path / "bad.json")


def test_no_energies_are_zero_for_every_element(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    with store:
        write_self_energies(no_self_energies(store, ("e", "half")), tmp_path / "none.json")
    read = load_self_energies(tmp_path / "none.json")
    assert set(read) == {"e", "half"}
    for one in read.values():
        assert one.elements == tuple(ELEMENTS)
        assert np.array_equal(one.baseline(np.array([8, 1, 1]), np.array([0, 3])), [0.0])


def test_bad_requests(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    with store:
        with pytest.raises(InputError, match="no rows to fit self energies of 'e'"):
            fit_self_energies(store, {"e": []})
        with pytest.raises(InputError, match="row 0 has no energy of 'half'"):
            fit_self_energies(store, {"half": [0, 1]})
        with pytest.raises(InputError, match="element N in molecule"):
            fit(store, elements=[1, 6, 8])


def test_elements():
    assert numbers(["H", "C", 8]) == [1, 6, 8] and symbols([7, 17]) == ["N", "Cl"]
    assert formula([8, 6, 1, 6, 1, 1, 1, 1, 1]) == "C2H6O" and formula([1, 8, 1]) == "H2O" and formula([6, 8]) == "CO"
    for wrong in ("Xx", "X", 0, 500):
        with pytest.raises(InputError):
            numbers([wrong])


def test_real_ani1_with_one_heavy_atom(reference_data, tmp_path):
    """CH4, NH3 and H2O: three formulas and four elements, so one combination stays open."""
    import h5py

    with (
        h5py.File(reference_data / "ani" / "ani_gdb_s01.h5") as file,
        StoreWriter(tmp_path / "s.h5", ["wb97x_dz"], provenance={"elements": ELEMENTS}) as writer,
    ):
        for top in file.values():
            for name, group in top.items():
                z = numbers([symbol.decode() for symbol in group["species"][:]])
                energy = group["energies"][:] * 27.211386245981
                writer.append(z, group["coordinates"][:], {"wb97x_dz": energy}, group=name)
    with Store(tmp_path / "s.h5") as store:
        result = regress_store(store)["fidelities"]["wb97x_dz"]
    assert result["n_rows"] == 10800 and result["n_groups"] == 3 and result["rank"] == 3
    assert result["determined"] == [False] * 4 and "H, C, N, O cannot be told apart" in result["note"]
    # Each formula has its own mean, so the residuals have none.
    assert result["after"]["mean_ev"] == pytest.approx(0.0, abs=1e-7)
    assert result["before"]["std_ev"] > 200 and 0.3 < result["after"]["std_ev"] < 3.0


# ---- on the training rows of a named split ----


def test_only_the_training_rows_of_a_split_enter(tmp_path):
    store, x, y = make_store(tmp_path / "s.h5", noise=0.3)
    with store:
        split = make_split(store, {"kind": "random", "train": [60, 150], "val": 30, "test": 60, "seed": 4})
        write_named_split(split, tmp_path / "x.npz", tmp_path / "x.json")
        result = fit_on_split(store, tmp_path / "x.npz", tmp_path / "x.self_energies.json")
        small = fit_on_split(store, tmp_path / "x.npz", train_size=60)
    for fitted, rows in ((result, split.train), (small, split.train[:60])):
        expected = np.linalg.lstsq(x[rows], y[rows], rcond=None)[0]
        np.testing.assert_allclose(fitted["fidelities"]["e"]["coefficients_ev"], expected, rtol=0, atol=1e-8)
        assert fitted["fidelities"]["e"]["n_rows"] == len(rows) and fitted["rows"] == "train"
        digest = hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()
        assert fitted["split"] == {"name": "x", "part": "train", "n_rows": len(rows), "rows_sha256": digest}
    # Rows of a fidelity with gaps are those of the training set that have it.
    labeled = split.train[split.train % 2 == 1]
    assert result["fidelities"]["half"]["n_rows"] == len(labeled) < 150
    loaded = load_self_energies(tmp_path / "x.self_energies.json")
    np.testing.assert_array_equal(loaded["e"].coefficients, result["fidelities"]["e"]["coefficients_ev"])
    # Test energies do not matter, training energies do.
    everything = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.abs(loaded["e"].coefficients - everything).max() > 1e-4


def test_splits_that_cannot_be_fitted_on(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    with store:
        write_named_split(make_split(store, {"kind": "test_only"}), tmp_path / "t.npz", tmp_path / "t.json")
        with pytest.raises(InputError, match=r"t.npz: no training rows to fit energies per element on"):
            fit_on_split(store, tmp_path / "t.npz", tmp_path / "out.json")
        write_named_split(
            make_split(store, {"kind": "random", "train": 50, "test": 10}), tmp_path / "x.npz", tmp_path / "x.json"
        )
        with pytest.raises(InputError, match="no train set of 49 rows; there is 50"):
            fit_on_split(store, tmp_path / "x.npz", train_size=49)
        with pytest.raises(InputError, match=r"none.npz"):
            fit_on_split(store, tmp_path / "none.npz")
    assert not (tmp_path / "out.json").exists()
    other, _, _ = make_store(tmp_path / "o.h5", n=20)
    with other, pytest.raises(InputError, match=r"x.npz: made for a store of 300 rows, .*o.h5 has 120"):
        fit_on_split(other, tmp_path / "x.npz")


def test_formation_energies_of_mini_spice_are_total_energies_less_isolated_atoms(repository, tmp_path):
    """The two energy columns of the shipped file differ by the shipped isolated atoms, row by row and in the fit."""
    dataset = resolve_dataset(read_yaml(repository / "config" / "datasets.yaml"), "spice_mini", "mini")
    paths = [repository / entry["file"]["path"] for entry in dataset["source_entries"]]
    build_store(dataset, paths, tmp_path / "s.h5", tmp_path / "f.csv")
    atoms = load_isolated_atoms(repository / "resources" / "isolated-atoms" / "isolated_atoms.csv")
    with Store(tmp_path / "s.h5") as store:
        assert store.force_fidelities == ("wb97m_d3bj",)
        assert store.fidelities == ("wb97m_d3bj", "wb97m_d3bj_formation")
        rows = store.read()
        fits = regress_store(store)["fidelities"]
        check = store.provenance["sources"][0]["force_check"]["wb97m_d3bj_formation"]
        alone = np.array([atoms["wb97m-d3(bj)/def2-tzvppd"][z] for z in store.elements])
        counts = composition(rows.atomic_numbers, rows.ptr, store.elements)
    assert check["verdict"] == "no forces" and check["differences"]["largest_deviation_ev"] < 1e-9
    difference = rows.energy["wb97m_d3bj"] - rows.energy["wb97m_d3bj_formation"]
    np.testing.assert_allclose(difference, counts @ alone, rtol=0, atol=1e-4)
    total, formation = (np.array(fits[name]["coefficients_ev"]) for name in ("wb97m_d3bj", "wb97m_d3bj_formation"))
    np.testing.assert_allclose(total - formation, alone, rtol=0, atol=1e-4)
    residuals = [fits[name]["after"]["std_ev"] for name in fits]
    assert residuals[0] == pytest.approx(residuals[1], rel=1e-9)
    assert fits["wb97m_d3bj"]["before"]["std_ev"] > 100 * fits["wb97m_d3bj_formation"]["before"]["std_ev"]
