"""Splits: sizes, disjointness, nesting, what leaks where, and requests that cannot be met."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.data.splits import SplitSizes, load_split, multi_fidelity_split, write_split
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError

LOW, HIGH = "wb97x_dz", "ccsd(t)_cbs"
SIZES = SplitSizes(n_test=20, n_val_high=15, n_train_high=50, n_val_low=25, n_train_low=120)
N_ROWS, N_HIGH = 260, 110


def make_store(path: Path, n_rows: int = N_ROWS, n_high: int = N_HIGH, copies: int = 0, seed: int = 0) -> Store:
    """Random water-like rows in groups of 20; the first of each group have a high label.

    Args:
        path: the store.
        n_rows: rows with a low label.
        n_high: how many of them also have a high label, spread over the groups.
        copies: rows at the end that repeat the geometry of the first rows (rotated), with a low label only.
        seed: of the geometries.
    """
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(n_rows, 3, 3))
    high = np.full(n_rows, np.nan)
    per_group = [np.flatnonzero(np.arange(n_rows) // 20 == g) for g in range((n_rows + 19) // 20)]
    chosen = [row for rank in range(20) for rows in per_group for row in rows[rank : rank + 1]][:n_high]
    high[chosen] = -1.0
    with StoreWriter(path, [LOW, HIGH], positions_dtype="float64") as writer:
        for g, rows in enumerate(per_group):
            energies = {LOW: np.zeros(len(rows)), HIGH: high[rows]}
            writer.append([8, 1, 1], positions[rows], energies, group=f"g{g}")
        if copies:
            turned = positions[:copies] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 3.0
            writer.append([8, 1, 1], turned[:, [0, 2, 1]], {LOW: np.zeros(copies)}, group="copies")
    return Store(path)


def split(store: Store, **changes):
    options = {"low": LOW, "high": HIGH, "sizes": SIZES, "seed": 7} | changes
    return multi_fidelity_split(store, **options)


def test_sizes_labels_and_disjoint_parts(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        result = split(store)
        assert {name: len(rows) for name, rows in result.parts().items()} == {
            "test": 20, "val_high": 15, "train_high": 50, "val_low": 25, "train_low": 120,
        }  # fmt: skip
        for name, rows in result.parts().items():
            assert store.has_label(HIGH if name in ("test", "val_high", "train_high") else LOW)[rows].all()
            assert len(np.unique(rows)) == len(rows)
        for a, b in combinations(result.parts(), 2):
            # Only rows of the high training set may come back with their low label.
            if {a, b} not in ({"train_high", "train_low"}, {"train_high", "val_low"}):
                assert not np.intersect1d(getattr(result, a), getattr(result, b)).size, (a, b)
        for pair in ("train_low/test", "train_high/test", "val_low/test", "val_high/test", "train_low/val_high"):
            assert result.report["leakage"][pair]["shared_rows"] == 0
            assert result.report["leakage"][pair]["shared_geometries"] == 0
        # Groups are shared and said to be: these splits are over conformations.
        leak = result.report["leakage"]["train_low/test"]
        common = np.intersect1d(store.groups(result.train_low), store.groups(result.test))
        assert leak["shared_groups"] == len(common) > 0
        assert leak["rows_in_shared_groups"] == np.isin(store.groups(result.test), common).sum()
        assert result.report["available"] == {"low": N_ROWS, "high": N_HIGH}


def test_smaller_sets_are_prefixes_and_share_the_test_set(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        large = split(store)
        small = split(store, sizes=replace(SIZES, n_train_high=10, n_train_low=30))
        np.testing.assert_array_equal(small.test, large.test)
        np.testing.assert_array_equal(small.val_high, large.val_high)
        np.testing.assert_array_equal(small.val_low, large.val_low)
        np.testing.assert_array_equal(small.train_high, large.train_high[:10])
        np.testing.assert_array_equal(small.train_low, large.train_low[:30])


def test_the_seed_decides(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        for name, rows in split(store).parts().items():
            np.testing.assert_array_equal(rows, split(store).parts()[name])
            assert not np.array_equal(rows, split(store, seed=8).parts()[name])


def test_low_rows_with_the_geometry_of_a_test_row_are_removed(tmp_path):
    with make_store(tmp_path / "s.h5", copies=N_ROWS) as store:
        # Every row has a copy; ask for all that can be had.
        free = 2 * N_ROWS - 2 * SIZES.n_test - SIZES.n_val_high
        result = split(store, sizes=replace(SIZES, n_train_low=free - SIZES.n_val_low))
        forbidden = np.concatenate([result.test, N_ROWS + result.test])
        assert not np.isin(result.train_low, forbidden).any() and not np.isin(result.val_low, forbidden).any()
        removed = result.report["removed"]
        assert removed["low_equal_to_test"] == SIZES.n_test
        assert removed["low_in_test_or_val_high"] == SIZES.n_test + SIZES.n_val_high
        assert result.report["leakage"]["train_low/test"]["shared_geometries"] == 0
        with pytest.raises(InputError, match=rf"{free + 1} rows .* only {free} exist after removing .* equal to test"):
            split(store, sizes=replace(SIZES, n_train_low=free - SIZES.n_val_low + 1))


def test_high_rows_with_the_geometry_of_a_test_row_are_removed(tmp_path):
    rng = np.random.default_rng(0)
    positions = np.repeat(rng.normal(size=(40, 2, 3)), 2, axis=0)
    with StoreWriter(tmp_path / "s.h5", [LOW, HIGH]) as writer:
        writer.append([1, 1], positions, {LOW: np.zeros(80), HIGH: np.zeros(80)})
    with Store(tmp_path / "s.h5") as store:
        result = split(store, sizes=SplitSizes(10, 5, 20, 0, 0))
        pairs = result.test // 2
        assert not np.isin(np.concatenate([result.val_high, result.train_high]) // 2, pairs).any()
        assert result.report["leakage"]["train_high/test"]["shared_geometries"] == 0


def test_first_then_random_takes_the_head_of_the_file_and_leaks(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        result = split(store, selection="first_then_random")
        high = np.flatnonzero(store.has_label(HIGH))[: SIZES.n_high]
        assert sorted(np.concatenate([result.test, result.val_high, result.train_high])) == high.tolist()
        low = np.concatenate([result.val_low, result.train_low])
        assert sorted(low) == list(range(SIZES.n_low))
        leak = result.report["leakage"]["train_low/test"]
        overlap = np.intersect1d(result.train_low, result.test)
        assert leak["shared_rows"] == len(overlap) > 0
        assert leak["shared_geometries"] == len(overlap)
        assert result.report["removed"]["low_in_test_or_val_high"] == 0


@pytest.mark.parametrize("selection", ["random", "first_then_random"])
def test_more_rows_than_exist(tmp_path, selection):
    with make_store(tmp_path / "s.h5") as store:
        with pytest.raises(InputError) as caught:
            split(store, sizes=replace(SIZES, n_train_high=100), selection=selection)
        assert "135 rows with the label 'ccsd(t)_cbs' asked (20 test + 15 validation + 100 training)" in str(
            caught.value
        )
        assert "only 110 exist" in str(caught.value) and "s.h5" in str(caught.value)
        with pytest.raises(InputError, match=r"325 rows with the label 'wb97x_dz' asked .* only 260 exist"):
            split(store, sizes=replace(SIZES, n_train_low=300), selection=selection)


def test_zero_high_rows(tmp_path):
    with (
        make_store(tmp_path / "s.h5", n_high=0) as store,
        pytest.raises(InputError, match="no rows with the label 'ccsd"),
    ):
        split(store)


def test_impossible_requests(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        for changes, message in (
            ({"sizes": replace(SIZES, n_test=0)}, "n_test: no test rows"),
            ({"sizes": replace(SIZES, n_val_low=-1)}, "n_val_low: -1 rows asked"),
            ({"selection": "by_magic"}, "selection: 'by_magic' is unknown"),
            ({"low": "pbe"}, "no energies of fidelity 'pbe'"),
            ({"low": HIGH}, "low and high are both"),
        ):
            with pytest.raises(InputError, match=message.replace("(", r"\(")):
                split(store, **changes)


def test_round_trip(tmp_path):
    with make_store(tmp_path / "s.h5") as store:
        result = split(store)
    write_split(result, tmp_path / "split.npz", tmp_path / "split.json")
    loaded = load_split(tmp_path / "split.npz")
    for name, rows in result.parts().items():
        np.testing.assert_array_equal(getattr(loaded, name), rows)
    report = json.loads((tmp_path / "split.json").read_text())
    assert report["seed"] == 7 and report["sizes"]["train_low"] == 120
    assert set(report["leakage"]["train_low/test"]) == {
        "shared_rows", "shared_geometries", "shared_groups", "rows_in_shared_groups",
    }  # fmt: skip
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"other.npz: not a split file"):
        load_split(tmp_path / "other.npz")
