"""Named splits: sizes, nesting, whole groups, weighted draws, official rows, leakage, and impossible requests."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.config import read_yaml
from mlip_studies.data.build import build_store
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.named_splits import (
    closest_groups,
    load_named_split,
    locate_indices,
    make_split,
    mean_force_norms,
    read_indices,
    weighted_order,
    write_named_split,
)
from mlip_studies.data.store import Block, Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.units import KCAL_PER_MOL_TO_EV

GROUP_SIZES = (30, 10, 25, 40, 5, 20, 35, 15, 20)  # 200 rows
N_ROWS = sum(GROUP_SIZES)


def make_store(
    path: Path, sizes=GROUP_SIZES, copies: int = 0, seed: int = 0, forces: np.ndarray | None = None
) -> Store:
    """Groups m0, m1, … of water-like rows; ``copies`` rows of a last group repeat the geometries of the first rows."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(sum(sizes), 3, 3))
    if forces is None:
        forces = rng.normal(size=positions.shape) * rng.uniform(0.1, 5.0, size=(len(positions), 1, 1))
    sources = 1000 + rng.permutation(len(positions) + copies)
    half = np.where(np.arange(len(positions)) % 2, 1.0, np.nan)
    with StoreWriter(path, ["e", "half"], ["e"], positions_dtype="float64", info=["molecule"]) as writer:
        first = 0
        for number, size in enumerate(sizes):
            rows = slice(first, first + size)
            energies = {"e": np.zeros(size), "half": half[rows]}
            info = {"molecule": f"M{number // 2}"}
            writer.append_block(
                Block(f"m{number}", np.array([8, 1, 1], dtype=np.uint8), positions[rows], energies, {"e": forces[rows]},
                      sources[rows], info)
            )  # fmt: skip
            first += size
        if copies:
            turned = positions[:copies] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 3.0
            writer.append_block(
                Block("copies", np.array([8, 1, 1], dtype=np.uint8), turned, {"e": np.zeros(copies)},
                      {"e": forces[:copies]}, sources[first:], {"molecule": "C"})
            )  # fmt: skip
    return Store(path)


@pytest.fixture
def store(tmp_path):
    with make_store(tmp_path / "s.h5") as opened:
        yield opened


RANDOM = {"kind": "random", "train": [10, 40, 100], "val": [5, 10, 25], "test": 50, "seed": 3}
GROUPS = {"kind": "groups", "train": [10, 60], "val": [5, 20], "test": 50, "seed": 3}


def assert_disjoint(split):
    for a, b in itertools.combinations(split.parts().values(), 2):
        assert not np.intersect1d(a, b).size
    for rows in split.parts().values():
        assert rows.dtype == np.int64 and len(np.unique(rows)) == len(rows)


# ---- random ----


def test_random_sizes_prefixes_and_disjoint_parts(store):
    split = make_split(store, RANDOM)
    assert {name: len(rows) for name, rows in split.parts().items()} == {"train": 100, "val": 25, "test": 50}
    assert_disjoint(split)
    assert split.train_sizes == (10, 40, 100) and split.val_sizes == (5, 10, 25)
    np.testing.assert_array_equal(split.train_rows(40), split.train[:40])
    np.testing.assert_array_equal(split.val_rows(5), split.val[:5])
    np.testing.assert_array_equal(split.val_rows_for(40), split.val[:10])
    np.testing.assert_array_equal(split.val_rows_for(), split.val)
    np.testing.assert_array_equal(split.train_rows(), split.train)
    for wrong in (11, 200):
        with pytest.raises(InputError, match=rf"no train set of {wrong} rows; there is 10, 40, 100"):
            split.train_rows(wrong)
    # Not the file order, and spread over the file.
    assert (np.diff(split.train) < 0).any() and split.test.min() < 40 and split.test.max() > 160
    assert split.report["available"] == N_ROWS and split.report["unused"] == 25


def test_one_validation_set_serves_all_training_sets(store):
    split = make_split(store, {**RANDOM, "val": 25})
    assert split.val_sizes == (25,)
    np.testing.assert_array_equal(split.val_rows_for(10), split.val)
    none = make_split(store, {"kind": "random", "train": 10, "test": 10})
    assert none.val_sizes == () and len(none.val_rows_for(10)) == 0 and none.train_sizes == (10,)


def test_the_size_of_one_part_does_not_reorder_another(store):
    split = make_split(store, RANDOM)
    more_train = make_split(store, {**RANDOM, "train": [10, 40, 125]})
    np.testing.assert_array_equal(more_train.train[:100], split.train)
    for part in ("val", "test"):
        np.testing.assert_array_equal(more_train.parts()[part], split.parts()[part])
    more_test = make_split(store, {**RANDOM, "test": 70})
    np.testing.assert_array_equal(more_test.test[:50], split.test)
    for part in ("train", "val"):
        # What other parts took is gone; the rest keeps its order.
        taken = [*more_test.test, *(more_test.val if part == "train" else [])]
        kept = [row for row in split.parts()[part] if row not in taken]
        np.testing.assert_array_equal(more_test.parts()[part][: len(kept)], kept)


def test_the_seed_decides(store):
    for spec in (RANDOM, GROUPS):
        one, same, other = (make_split(store, {**spec, "seed": seed}) for seed in (1, 1, 2))
        for name, rows in one.parts().items():
            np.testing.assert_array_equal(rows, same.parts()[name])
            assert not np.array_equal(np.sort(rows), np.sort(other.parts()[name]))


def test_fractions_and_the_rest(store):
    split = make_split(store, {"kind": "random", "train": [0.1, 0.29, "rest"], "val": 0.1, "test": 0.25})
    assert split.train_sizes == (20, 58, 130) and split.val_sizes == (20,) and len(split.test) == 50
    assert split.report["unused"] == 0
    with pytest.raises(InputError, match="130 training rows asked beside the rest, only 130 remain"):
        make_split(store, {"kind": "random", "train": [130, "rest"], "val": 0.1, "test": 0.25})
    with pytest.raises(InputError, match=r"key 'test': 0.001 of 200 rows is less than one"):
        make_split(store, {"kind": "random", "train": 10, "test": 0.001})


def test_first_then_random_takes_the_head_of_the_file(store):
    split = make_split(store, {**RANDOM, "kind": "first_then_random"})
    assert sorted(np.concatenate(list(split.parts().values()))) == list(range(175))
    assert_disjoint(split)
    assert split.report["leakage"]["train/test"]["shared_groups"] > 0
    with pytest.raises(InputError, match="takes a number of rows, not the rest"):
        make_split(store, {"kind": "first_then_random", "train": "rest", "test": 10})


def test_only_rows_with_the_label(store):
    split = make_split(store, {"kind": "random", "fidelity": "half", "train": 50, "val": 20, "test": 30})
    assert store.has_label("half")[np.concatenate(list(split.parts().values()))].all()
    assert split.report["available"] == 100 and split.report["unused"] == 0
    with pytest.raises(InputError, match="no energies of fidelity 'pbe'"):
        make_split(store, {"kind": "random", "fidelity": "pbe", "train": 50, "test": 30})


def test_equal_geometries_are_reported_and_can_be_kept_out(tmp_path):
    with make_store(tmp_path / "s.h5", copies=N_ROWS) as store:
        spec = {"kind": "random", "train": 250, "val": 50, "test": 50}
        split = make_split(store, spec)
        twin = np.where(np.arange(2 * N_ROWS) < N_ROWS, np.arange(2 * N_ROWS) + N_ROWS, np.arange(2 * N_ROWS) - N_ROWS)
        for a, b in (("train", "test"), ("val", "test"), ("train", "val")):
            expected = np.isin(twin[split.parts()[b]], split.parts()[a]).sum()
            assert split.report["leakage"][f"{a}/{b}"]["shared_geometries"] == expected
        assert split.report["leakage"]["train/test"]["shared_geometries"] > 0
        clean = make_split(store, {**spec, "exclude_equal_geometries": True})
        np.testing.assert_array_equal(clean.test, split.test)
        alone = [row for row in split.test if twin[row] not in split.test]
        assert clean.report["removed"]["equal_to_test"] == len(alone) > 0
        for pair in ("train/test", "val/test"):
            assert clean.report["leakage"][pair]["shared_geometries"] == 0
        free = 2 * N_ROWS - 50 - len(alone)
        asked = free - 50 + 1
        with pytest.raises(InputError, match=rf"50 validation \+ {asked} training beside 50 test, after removing"):
            make_split(store, {**spec, "train": asked, "exclude_equal_geometries": True})


# ---- groups ----


def test_whole_groups_on_one_side(store):
    split = make_split(store, GROUPS)
    assert_disjoint(split)
    groups = {name: set(store.groups(rows).tolist()) for name, rows in split.parts().items()}
    for a, b in itertools.combinations(groups, 2):
        assert not groups[a] & groups[b]
    # All rows of a test group are test rows.
    assert np.isin(store.groups(), list(groups["test"])).sum() == len(split.test)
    assert abs(len(split.test) - 50) <= 20
    assert split.report["test"]["asked"] == 50 and split.report["test"]["got"] == len(split.test)
    assert set(split.report["test"]["groups"]) == {store.group_names[g] for g in groups["test"]}
    assert len(split.train) == 60 and len(split.val) == 20
    assert all(leak["shared_groups"] == 0 for leak in split.report["leakage"].values())
    # Prefixes are random rows of the training groups, not one group after the other.
    assert len(np.unique(store.groups(split.train[:10]))) > 1


def test_validation_rows_from_training_groups_on_request(store):
    split = make_split(store, {**GROUPS, "whole_groups_in_val": False, "train": 100, "val": 40})
    leak = split.report["leakage"]
    assert leak["train/val"]["shared_groups"] > 0 and leak["train/val"]["shared_rows"] == 0
    assert leak["train/test"]["shared_groups"] == 0 and leak["val/test"]["shared_groups"] == 0


def test_groups_by_a_fact_that_several_share(store):
    split = make_split(store, {**GROUPS, "by": "molecule"})
    molecule = np.array(store.group_info("molecule"))[store.groups()]
    sides = {name: set(molecule[rows]) for name, rows in split.parts().items()}
    for a, b in itertools.combinations(sides, 2):
        assert not sides[a] & sides[b]
    assert np.isin(molecule, list(sides["test"])).sum() == len(split.test)
    with pytest.raises(InputError, match="no group fact 'smell'; expected one of group, molecule"):
        make_split(store, {**GROUPS, "by": "smell"})


def test_closest_groups_against_all_subsets():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(1, 30, size=8)
        target = int(rng.integers(1, counts.sum()))
        taken = closest_groups(counts, target)
        assert taken.any()
        error = abs(int(counts[taken].sum()) - target)
        best = min(
            abs(sum(subset) - target) for n in range(1, 9) for subset in itertools.combinations(counts.tolist(), n)
        )
        total = int(counts[taken].sum())
        assert error >= best
        if total < target:
            assert 2 * error <= counts[~taken].min()
        elif total > target and taken.sum() > 1:
            assert 2 * error < counts[taken].max()
    # The front of the order is preferred, and a group may not be cut to fit.
    assert closest_groups(np.array([5, 5, 5]), 10).tolist() == [True, True, False]
    assert closest_groups(np.array([100, 50]), 10).tolist() == [False, True]
    assert closest_groups(np.array([10, 7, 3]), 16).tolist() == [True, False, True]
    assert closest_groups(np.array([10, 7, 9]), 16).tolist() == [True, True, False]


def test_held_out_groups(store):
    spec = {"kind": "held_out_groups", "groups": ["m1", "m4"], "train": [50, 100], "val": [10, 20], "seed": 1}
    split = make_split(store, spec)
    rows = np.flatnonzero(np.isin(store.groups(), [1, 4]))
    np.testing.assert_array_equal(np.sort(split.test), rows)
    assert split.report["leakage"]["train/test"]["rows_in_shared_groups"] == 0
    assert split.report["leakage"]["train/val"]["shared_groups"] > 0
    whole = make_split(store, {**spec, "whole_groups_in_val": True})
    assert whole.report["leakage"]["train/val"]["shared_groups"] == 0
    by = make_split(store, {**spec, "by": "molecule", "groups": ["M0"]})
    np.testing.assert_array_equal(np.sort(by.test), np.arange(40))


def test_held_out_groups_that_do_not_exist(store):
    spec = {"kind": "held_out_groups", "groups": ["m1", "7020", 1771], "train": 50, "val": 10}
    with pytest.raises(InputError, match=r"2 of 3 are not in this store: 7020, 1771; it holds 9 such as m0, m1, m2"):
        make_split(store, spec)
    split = make_split(store, {**spec, "allow_missing": True})
    assert len(split.test) == 10 and split.report["test"]["missing_groups"] == ["7020", "1771"]
    with pytest.raises(InputError, match="1 of 1 are not in this store"):
        make_split(store, {**spec, "groups": ["x"], "allow_missing": True})


# ---- weighted by force ----


def test_successive_draws_have_the_stated_probabilities():
    weights = np.array([1.0, 2.0, 0.0, 5.0, np.nan, 0.5])
    share = np.nan_to_num(weights) / np.nansum(weights)
    n, random = 8000, np.random.default_rng(1)
    first, pairs = np.zeros(6), np.zeros((6, 6))
    rows = np.arange(6, dtype=np.int64)
    for _ in range(n):
        drawn, drawn_weights = weighted_order([(rows, weights)], 2, random)
        first[drawn[0]] += 1
        pairs[drawn[0], drawn[1]] += 1
        np.testing.assert_array_equal(drawn_weights, weights[drawn])
    sigma = np.sqrt(share * (1 - share) / n)
    assert (np.abs(first / n - share) <= 4.5 * sigma).all() and first[2] == first[4] == 0
    # Second draw: proportional among those that are left.
    for a in (0, 1, 3, 5):
        for b in (0, 1, 3, 5):
            if a != b:
                expected = share[a] * share[b] / (1 - share[a])
                assert abs(pairs[a, b] / n - expected) <= 4.5 * np.sqrt(expected / n)
    assert np.trace(pairs) == 0


def test_draws_nest_and_do_not_depend_on_chunks():
    rng = np.random.default_rng(5)
    weights = rng.exponential(size=1000)
    rows = np.arange(1000, dtype=np.int64)

    def draw(n, size):
        chunks = [(rows[i : i + size], weights[i : i + size]) for i in range(0, 1000, size)]
        return weighted_order(chunks, n, np.random.default_rng(9))[0]

    large = draw(300, 1000)
    np.testing.assert_array_equal(draw(300, 37), large)
    np.testing.assert_array_equal(draw(50, 111), large[:50])
    assert len(draw(0, 100)) == 0


def test_weighted_by_force_shares_test_and_validation(tmp_path):
    rng = np.random.default_rng(2)
    forces = rng.normal(size=(2000, 3, 3)) * rng.lognormal(size=(2000, 1, 1))
    forces[5] = 0.0
    with make_store(tmp_path / "s.h5", sizes=(2000,), forces=forces) as store:
        norms = np.concatenate(list(mean_force_norms(store, "e", chunk_rows=333)))
        np.testing.assert_allclose(norms, np.linalg.norm(forces, axis=2).mean(axis=1), rtol=1e-6)
        base = make_split(store, {"kind": "random", "train": [100, 400], "val": [50, 200], "test": 500, "seed": 1})
        spec = {"kind": "weighted_by_force", "base": "stocker", "train": 100, "seed": 1}
        split = make_split(store, spec, base)
        np.testing.assert_array_equal(split.test, base.test)
        np.testing.assert_array_equal(split.val, base.val)
        assert_disjoint(split)
        assert 5 not in split.train
        free = np.setdiff1d(np.arange(2000), np.concatenate([base.test, base.val]))
        told = split.report["weights"]
        assert told["mean_of_drawn"] == pytest.approx(norms[split.train].mean())
        assert told["mean_of_all"] == pytest.approx(norms[free][norms[free] > 0].mean())
        assert told["mean_of_drawn"] > 1.5 * told["mean_of_all"]
        # Rows of the base's training set may be drawn too.
        assert split.report["in_training_set_of_base"] == np.isin(split.train, base.train).sum()
        larger = make_split(store, {**spec, "train": [100, 300]}, base)
        np.testing.assert_array_equal(larger.train[:100], split.train)
        assert larger.val_sizes == (50, 200)
        with pytest.raises(InputError, match=r"1301 rows asked .* only 1300 available"):
            make_split(store, {**spec, "train": 1301}, base)
        with pytest.raises(InputError, match="needs a base split"):
            make_split(store, spec)
    with make_store(tmp_path / "t.h5") as other, pytest.raises(InputError, match="base split was made for 2000"):
        make_split(other, spec, base)


# ---- official, test only ----


def test_official_rows_by_source_row(store, tmp_path):
    source = store.source_rows()
    (tmp_path / "train.csv").write_text("".join(f"{n}\n" for n in source[[7, 3, 150, 99]]))
    np.save(tmp_path / "test.npy", source[[0, 199]])
    spec = {"kind": "official", "train_index": tmp_path / "train.csv", "test_index": tmp_path / "test.npy"}
    split = make_split(store, spec)
    assert split.train.tolist() == [7, 3, 150, 99] and split.test.tolist() == [0, 199] and len(split.val) == 0
    assert split.train_sizes == (4,) and split.report["files"]["train"] == "train.csv"
    part = make_split(store, {**spec, "train": [1, 3], "val": 1})
    assert sorted([*part.train, *part.val]) == [3, 7, 99, 150] and part.train_sizes == (1, 3)
    assert part.train.tolist() == [row for row in (7, 3, 150, 99) if row not in part.val]
    rest = make_split(store, {**spec, "val": 20, "val_from": "rest"})
    assert len(rest.val) == 20 and rest.train.tolist() == [7, 3, 150, 99]
    assert_disjoint(rest)
    with pytest.raises(InputError, match=r"5 rows asked \(1 validation \+ 4 training"):
        make_split(store, {**spec, "train": 4, "val": 1})


def test_official_rows_from_an_archive(store, tmp_path):
    lines = "".join(f"{n}\n" for n in store.source_rows()[[1, 2]]).encode()
    with tarfile.open(tmp_path / "set.tar.bz2", "w:bz2") as archive:
        for name in ("set/other.csv", "set/index_test_01.csv"):
            entry = tarfile.TarInfo(name)
            entry.size = len(lines)
            archive.addfile(entry, io.BytesIO(lines))
    named = {"kind": "official", "test_index": "set.tar.bz2#set/index_test_01.csv"}
    split = make_split(store, locate_indices(named, [tmp_path / "set.tar.bz2"]))
    assert split.test.tolist() == [1, 2] and split.train_sizes == ()
    with pytest.raises(InputError, match=r"set.tar.bz2: no member set/index_test_09.csv"):
        read_indices(f"{tmp_path}/set.tar.bz2#set/index_test_09.csv")
    with pytest.raises(InputError, match=r"'test_index': set.tar.bz2 is not among the input files \(none\)"):
        locate_indices(named, [])


def test_official_rows_that_do_not_fit(store, tmp_path):
    source = store.source_rows()
    np.savetxt(tmp_path / "far.csv", [*source[:3], 5_000_000], fmt="%d")
    spec = {"kind": "official", "test_index": tmp_path / "far.csv"}
    with pytest.raises(InputError, match=r"far.csv: 1 of 4 rows are not in .*s.h5 \(such as source row 5000000\)"):
        make_split(store, spec)
    assert make_split(store, {**spec, "allow_missing": True}).test.tolist() == [0, 1, 2]
    np.savetxt(tmp_path / "twice.csv", [source[0], source[0]], fmt="%d")
    with pytest.raises(InputError, match="the same row number occurs twice"):
        make_split(store, {**spec, "test_index": tmp_path / "twice.csv"})
    np.savetxt(tmp_path / "one.csv", [source[0]], fmt="%d")
    with pytest.raises(InputError, match="1 row numbers occur in two of the index files"):
        make_split(store, {"kind": "official", "test_index": tmp_path / "one.csv", "train_index": tmp_path / "one.csv"})
    with pytest.raises(InputError, match="key 'test_index' is missing"):
        make_split(store, {"kind": "official"})


@pytest.mark.parametrize("content", [b"", b"1.5\n2\n", b"index\n1\n", b"\xff\xfe", b"1,2\n"])
def test_index_files_that_are_none(tmp_path, content):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"bad.csv: .*expected row numbers"):
        read_indices(tmp_path / "bad.csv")


def test_index_files_as_npz(tmp_path):
    np.savez(tmp_path / "i.npz", old_indices=np.array([3, 1]), energies=np.zeros(2))
    assert read_indices(tmp_path / "i.npz", "old_indices").tolist() == [3, 1]
    for key, message in ((None, "array None asked"), ("energies", "2 entries of type float64")):
        with pytest.raises(InputError, match=message):
            read_indices(tmp_path / "i.npz", key)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "i.npz").read_bytes()[:50])
    for name in ("cut.npz", "none.csv"):
        with pytest.raises(InputError, match=name):
            read_indices(tmp_path / name)


def test_several_files_have_no_official_rows(tmp_path):
    with StoreWriter(tmp_path / "s.h5", ["e"]) as writer:
        for group in "ab":
            writer.append([1, 1], np.zeros((3, 2, 3)), {"e": np.zeros(3)}, group=group, source_rows=[0, 1, 2])
    np.savetxt(tmp_path / "i.csv", [0], fmt="%d")
    with Store(tmp_path / "s.h5") as store, pytest.raises(InputError, match="several rows have the same source row"):
        make_split(store, {"kind": "official", "test_index": tmp_path / "i.csv"})


def test_test_only(store):
    everything = make_split(store, {"kind": "test_only"})
    assert sorted(everything.test) == list(range(N_ROWS)) and len(everything.train) == 0
    assert everything.train_sizes == () and everything.report["leakage"] == {}
    some = make_split(store, {"kind": "test_only", "test": 0.1})
    np.testing.assert_array_equal(some.test, everything.test[:20])


# ---- file order ----

ORDER = {"kind": "file_order", "official_train": 60, "train": [10, 20, 45], "val": [5, 10, 15], "seed": 2}


def two_files(path: Path, sizes=(60, 40), recorded=None) -> Store:
    """One molecule in several files, as a builder that read ``recorded`` rows of each would leave it."""
    recorded = sizes if recorded is None else recorded
    rng = np.random.default_rng(8)
    sources = [{"file": f"f{number}.npz", "rows": rows} for number, rows in enumerate(recorded)]
    with StoreWriter(path, ["e"], provenance={"sources": sources}, positions_dtype="float64") as writer:
        for size in sizes:
            energies = np.where(np.arange(size) % 2, 1.0, np.nan)
            writer.append([8, 1, 1], rng.normal(size=(size, 3, 3)), {"e": energies}, group="m")
    return Store(path)


def test_file_order_keeps_the_publishers_parts(tmp_path):
    with two_files(tmp_path / "s.h5") as store:
        split = make_split(store, ORDER)
        assert split.train_sizes == (10, 20, 45) and split.val_sizes == (5, 10, 15)
        assert_disjoint(split)
        assert sorted([*split.train, *split.val]) == list(range(60)) and sorted(split.test) == list(range(60, 100))
        assert (np.diff(split.train) < 0).any() and (np.diff(split.test) < 0).any()
        assert split.report["official"] == {"train": 60, "test": 40, "files": ["f0.npz", "f1.npz"]}
        assert split.report["unused"] == 0
        leak = split.report["leakage"]["train/test"]
        assert leak["shared_rows"] == leak["shared_geometries"] == 0 and leak["rows_in_shared_groups"] == 40
        # Other sizes neither move a row across the publisher's border nor change the order.
        fewer = make_split(store, {**ORDER, "train": 20, "val": 15, "test": 7})
        np.testing.assert_array_equal(fewer.train, split.train[:20])
        np.testing.assert_array_equal(fewer.test, split.test[:7])
        assert not np.array_equal(make_split(store, {**ORDER, "seed": 3}).train, split.train)
        rest = make_split(store, {**ORDER, "train": "rest", "val": 15})
        assert rest.train_sizes == (45,)
        labeled = make_split(store, {**ORDER, "fidelity": "e", "train": 20, "val": 10})
        assert (labeled.test % 2 == 1).all() and len(labeled.test) == 20


def test_file_order_with_several_test_files(tmp_path):
    with two_files(tmp_path / "s.h5", (60, 30, 10)) as store:
        assert sorted(make_split(store, {**ORDER, "test": 40}).test) == list(range(60, 100))
        assert sorted(make_split(store, {**ORDER, "official_train": 90}).test) == list(range(90, 100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"official_train": None}, "key 'official_train': None; expected the number of leading rows"),
        ({"official_train": True}, "key 'official_train': True"),
        ({"official_train": 0}, "key 'official_train': 0"),
        (
            {"official_train": 50},
            r"'official_train': 50 is not where a file ends \(60 rows of f0.npz, 40 rows of f1.npz",
        ),
        ({"official_train": 100}, "'official_train': 100 is not where a file ends"),
        ({"train": [10, 20, 46]}, r"61 rows asked \(15 validation \+ 46 training out of the first 60 rows\), only 60"),
        ({"test": 41}, r"41 rows asked \(41 test out of the rows after the first 60\), only 40 available"),
        ({"test": "some"}, "key 'test': 'some'"),
        ({"groups": ["m"]}, "key 'groups' is unknown for kind file_order"),
    ],
)
def test_file_order_that_does_not_add_up(tmp_path, changes, message):
    with two_files(tmp_path / "s.h5") as store, pytest.raises(InputError, match=message) as caught:
        make_split(store, {**ORDER, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recorded", [(60, 41), (61, 40), ()])
def test_file_order_needs_every_row_of_the_files(tmp_path, recorded):
    with (
        two_files(tmp_path / "s.h5", recorded=recorded) as store,
        pytest.raises(InputError, match=r"s.h5: 100 rows, but .*file_order needs every row: remove the filters"),
    ):
        make_split(store, ORDER)


# ---- bad requests, files ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "magic"}, "key 'kind': 'magic' is unknown; expected one of random, first_then_random, groups"),
        ({"tset": 1}, "key 'tset' is unknown for kind random"),
        ({"train": [100, 40]}, r"key 'train': \[100, 40\] rows; expected ascending sizes"),
        ({"train": [10, 10]}, "expected ascending sizes"),
        ({"val": [5, 6]}, "key 'val': 2 sizes; expected one, or one for each of 3"),
        ({"val": [9, 6, 7]}, "expected sizes that do not fall"),
        ({"test": None}, "key 'test': None; expected a number of rows"),
        ({"test": 0}, "key 'test': 0; expected a number of rows"),
        ({"test": -3}, "key 'test': -3"),
        ({"test": 1.0}, "key 'test': 1.0"),
        ({"test": True}, "key 'test': True"),
        ({"train": ["rest", 10]}, "key 'train': 'rest'"),
        ({"train": [126]}, r"201 rows asked \(50 test \+ 25 validation \+ 126 training\), only 200 available"),
        ({"seed": "a"}, "key 'seed': 'a'; expected a whole number"),
        ({"exclude_equal_geometries": 1}, "key 'exclude_equal_geometries': 1; expected true or false"),
    ],
)
def test_bad_requests(store, changes, message):
    spec = {**RANDOM, **changes}
    if "train" in changes and len(changes["train"]) == 1:
        spec["val"] = 25
    with pytest.raises(InputError, match=message) as caught:
        make_split(store, spec)
    assert "\n" not in str(caught.value)


def test_groups_that_are_too_few(store):
    with pytest.raises(
        InputError, match=r"129 training beside \d+ test in \d+ whole groups and \d+ whole groups .* for validation"
    ):
        make_split(store, {**GROUPS, "train": 129, "val": 21})


def test_round_trip_and_checks(store, tmp_path):
    split = make_split(store, GROUPS)
    write_named_split(split, tmp_path / "x.npz", tmp_path / "x.json")
    loaded = load_named_split(tmp_path / "x.npz", store, tmp_path / "x.json")
    for name, rows in split.parts().items():
        np.testing.assert_array_equal(getattr(loaded, name), rows)
    assert loaded.train_sizes == (10, 60) and loaded.val_sizes == (5, 20)
    assert loaded.report == json.loads(json.dumps(split.report, allow_nan=False))
    assert set(loaded.report["leakage"]) == {"train/test", "val/test", "train/val"}
    with (
        make_store(tmp_path / "small.h5", sizes=(60, 60)) as other,
        pytest.raises(InputError, match=r"x.npz: made for a store of 200 rows, .*small.h5 has 120"),
    ):
        load_named_split(tmp_path / "x.npz", other)
    np.savez(tmp_path / "y.npz", train=np.zeros(3))
    with pytest.raises(InputError, match=r"y.npz: not a named split"):
        load_named_split(tmp_path / "y.npz")
    arrays = dict(np.load(tmp_path / "x.npz"))
    for changes, message in (
        ({"n_store_rows": np.int64(20)}, "holds rows beyond the 20"),
        ({"train_sizes": np.array([10, 59])}, r"train holds 60 rows, its sizes are \(10, 59\)"),
    ):
        np.savez(tmp_path / "z.npz", **{**arrays, **changes})
        with pytest.raises(InputError, match=message):
            load_named_split(tmp_path / "z.npz")


def test_real_revised_md17(reference_data, tmp_path):
    """The published training and test frames, told apart by their rows in MD17."""
    files = {part: reference_data / "rmd17" / f"rmd17_ethanol_{part}_01.npz" for part in ("train", "test")}
    data = {part: dict(np.load(path)) for part, path in files.items()}
    positions = np.concatenate([data[part]["coords"] for part in data])
    sources = np.concatenate([data[part]["old_indices"] for part in data])
    order = np.argsort(sources)
    with StoreWriter(tmp_path / "s.h5", ["pbe"], positions_dtype="float64") as writer:
        writer.append(
            data["train"]["nuclear_charges"], positions[order], {"pbe": np.zeros(2000)}, source_rows=sources[order]
        )
    spec = {"kind": "official", "index_key": "old_indices", "train": [50, 950], "val": [50]}
    spec |= {f"{part}_index": path for part, path in files.items()}
    with Store(tmp_path / "s.h5") as store:
        split = make_split(store, spec)
        assert split.train_sizes == (50, 950) and len(split.val) == 50 and len(split.test) == 1000
        np.testing.assert_array_equal(store.source_rows(split.test), data["test"]["old_indices"])
        assert np.isin(store.source_rows(split.train), data["train"]["old_indices"]).all()
        assert split.report["leakage"]["train/test"]["shared_rows"] == 0
        assert split.report["leakage"]["train/test"]["rows_in_shared_groups"] == 1000


@pytest.mark.parametrize("number", ["01", "02"])
def test_real_revised_md17_in_the_order_of_its_files(reference_data, repository, tmp_path, number):
    """The data sets and splits of the configuration, built from the published files."""
    config = repository / "config"
    dataset = resolve_dataset(read_yaml(config / "datasets.yaml"), f"rmd17_ethanol_{number}", "full")
    spec = read_yaml(config / "data.yaml")["full"]["splits"][f"ethanol_{number}"]
    assert spec["dataset"] == f"rmd17_ethanol_{number}"
    paths = [reference_data / "rmd17" / entry["file"]["name"] for entry in dataset["source_entries"]]
    build_store(dataset, paths, tmp_path / "s.h5", tmp_path / "f.csv")
    data = [dict(np.load(path)) for path in paths]
    with Store(tmp_path / "s.h5") as store:
        split = make_split(store, spec)
        assert split.train_sizes == (50, 100, 200, 500, 950) and len(split.val) == 50 and len(split.test) == 1000
        assert split.report["unused"] == 0
        frames = store.column("old_indices")
        assert set(frames[[*split.train, *split.val]]) == set(data[0]["old_indices"])
        assert set(frames[split.test]) == set(data[1]["old_indices"])
        assert split.report["leakage"]["train/test"]["shared_geometries"] == 0
        # Both kinds of labels of the frame, in eV and eV/Å.
        rows = store.read(np.array([3, 1003]))
    for position, file in enumerate(data):
        for fidelity, energy, forces in (("pbe", "energies", "forces"), ("pbe_ts", "old_energies", "old_forces")):
            expected = file[energy][3] * KCAL_PER_MOL_TO_EV
            assert rows.energy[fidelity][position] == pytest.approx(expected, rel=1e-14)
            found = rows.forces[fidelity][rows.ptr[position] : rows.ptr[position + 1]]
            np.testing.assert_allclose(found, file[forces][3] * KCAL_PER_MOL_TO_EV, rtol=1e-6, atol=1e-9)
