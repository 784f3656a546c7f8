"""Per-element regression against exact coefficients, a dense solver, and sets that do not determine them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.data.self_energies import (
    fit_self_energies,
    load_self_energies,
    select_rows,
    write_self_energies,
)
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
