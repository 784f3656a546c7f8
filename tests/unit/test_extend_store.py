"""Labelled samples join a store and a training set; everything else stays as it was."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from mlip_studies.artifacts import record, sha256_of
from mlip_studies.data.extend_store import Addition, FrameSelection, _evenly, extend_split, extend_store
from mlip_studies.data.named_splits import load_named_split, make_split, write_named_split
from mlip_studies.data.representatives import Structure, write_structures
from mlip_studies.data.self_energies import write_self_energies
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError

WATER, METHANE = np.array([8, 1, 1], dtype=np.uint8), np.array([6, 1, 1, 1, 1], dtype=np.uint8)
LEVELS = {"dft": "PBE0+MBD/def2-SVP", "cheap": "GFN2-xTB"}
N_OLD = 40
STATUSES = ("converged", "converged_fallback", "unconverged", "timeout")


def make_store(path):
    """Water and methane in turns, so that rows of a group are not neighbours; every 5th row lacks the second label."""
    rng = np.random.default_rng(0)
    provenance = {"levels": LEVELS, "elements": [1, 6, 8], "dataset": "toy"}
    with StoreWriter(
        path, ["dft", "cheap"], ["dft"], provenance, "float64", columns=["isomer", "weight"], info=["smiles"]
    ) as writer:
        for start in range(0, N_OLD, 4):
            numbers, group, smiles = (WATER, "7", "O") if start % 8 else (METHANE, "m", "C")
            shape = (4, len(numbers), 3)
            cheap = np.where(np.arange(start, start + 4) % 5, rng.normal(size=4), np.nan)
            writer.append(
                numbers,
                rng.normal(size=shape),
                {"dft": rng.normal(size=4), "cheap": cheap},
                {"dft": rng.normal(size=shape)},
                group,
                rng.integers(1000, size=4),
                columns={"isomer": np.arange(4), "weight": rng.normal(size=4)} if start else {"isomer": np.arange(4)},
                info={"smiles": smiles},
            )
    return path


def make_addition(folder, name="a", n_trajectories=3, n_samples=4, level="pbe0+mbd/def2-svp", seed=1, **changes):
    """Samples of water (trajectory 0, 2, …) and methane; the last two of each trajectory come after its failure."""
    rng = np.random.default_rng(seed)
    of_frame = np.repeat(np.arange(n_trajectories), n_samples)
    numbers = [METHANE if t % 2 else WATER for t in of_frame]
    ptr = np.concatenate([[0], np.cumsum([len(z) for z in numbers])])
    frames = {
        "atomic_numbers": np.concatenate(numbers).astype(np.int64),
        "ptr": ptr.astype(np.int64),
        "positions": rng.normal(size=(ptr[-1], 3)),
        "trajectory": of_frame,
        "time_ps": np.tile(np.arange(1.0, n_samples + 1), n_trajectories),
        "alive": np.tile(np.arange(n_samples) < n_samples - 2, n_trajectories),
        "name": np.array(["methane" if t % 2 else "water" for t in of_frame]),
    }
    labels = {
        "energy_ev": rng.normal(size=len(of_frame)),
        "forces_ev_per_angstrom": rng.normal(size=(ptr[-1], 3)),
        "level": np.array(level),
        "atomic_numbers_isolated": np.array([1, 6, 8]),
        "energies_isolated_ev": np.array([-13.0, -1000.0, -2000.0]),
    }
    status = ["converged"] * len(of_frame)
    for frame, value in changes.pop("status", {}).items():
        status[frame] = value
        if value not in STATUSES[:2]:
            labels["energy_ev"][frame] = np.nan
            labels["forces_ev_per_angstrom"][ptr[frame] : ptr[frame + 1]] = np.nan
    for key, value in changes.items():
        (frames if key in frames else labels)[key] = value
    paths = [folder / f"{name}{suffix}" for suffix in (".frames.npz", ".labels.npz", ".csv")]
    np.savez(paths[0], **frames)
    np.savez(paths[1], **{"frames_sha256": np.array(sha256_of(paths[0])), **labels})
    with paths[2].open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["frame", "status"])
        writer.writerows(enumerate(status))
    return Addition(*paths), frames, labels


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "old" / "store.h5")


def old_rows_are_the_same(before, after):
    assert after.fidelities == before.fidelities
    assert after.group_names[: len(before.group_names)] == before.group_names
    a, b = before.read(), after.read(np.arange(before.n_rows))
    for name in ("atomic_numbers", "positions", "ptr", "group"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for part in ("energy", "forces"):
        for name, values in getattr(a, part).items():
            np.testing.assert_array_equal(values, getattr(b, part)[name])
    np.testing.assert_array_equal(before.source_rows(), after.source_rows()[: before.n_rows])
    for name in before.columns:
        values = after.column(name)
        assert values.dtype == before.column(name).dtype
        np.testing.assert_array_equal(before.column(name), values[: before.n_rows])
    for name in before.info_names:
        assert after.group_info(name)[: len(before.group_names)] == before.group_info(name)


def test_old_rows_stay_and_new_ones_follow(store, tmp_path):
    addition, frames, labels = make_addition(tmp_path, status={1: "converged_fallback", 5: "unconverged", 8: "timeout"})
    starts = tmp_path / "starts.xyz"
    write_structures([Structure("water", WATER.astype(np.int64), np.eye(3), "7", "O")], starts)
    addition = Addition(addition.frames, addition.labels, addition.table, starts)
    output, report = tmp_path / "new" / "store.h5", tmp_path / "new" / "report.json"
    result = extend_store(store, [addition], FrameSelection(), output, report=report)
    assert json.loads(report.read_text()) == result
    assert (result["n_rows_before"], result["n_new"], result["n_rows"]) == (N_OLD, 10, N_OLD + 10)
    assert result["additions"][0]["left_out"]["status"] == 2
    with Store(store) as before, Store(output) as after:
        assert after.n_rows == N_OLD + 10
        old_rows_are_the_same(before, after)
        new = after.read(np.arange(N_OLD, after.n_rows))
        kept = [frame for frame in range(12) if frame not in (5, 8)]
        np.testing.assert_array_equal(after.source_rows(new.rows), kept)
        np.testing.assert_array_equal(new.energy["dft"], labels["energy_ev"][kept])
        assert np.isnan(new.energy["cheap"]).all()
        for index, frame in enumerate(kept):
            at = slice(frames["ptr"][frame], frames["ptr"][frame + 1])
            numbers, positions = new.molecule(index)
            np.testing.assert_array_equal(numbers, frames["atomic_numbers"][at])
            np.testing.assert_array_equal(positions, frames["positions"][at])
            forces = new.forces["dft"][new.ptr[index] : new.ptr[index + 1]]
            np.testing.assert_array_equal(forces, labels["forces_ev_per_angstrom"][at].astype(np.float32))
            # Water's start structure is of group 7; what has no start structure is a group of its own.
            expected = "7" if frames["name"][frame] == "water" else "methane"
            assert after.group_names[new.group[index]] == expected
        assert (after.column("addition") == np.repeat([-1, 0], [N_OLD, 10])).all()
        assert (after.column("isomer", new.rows) == -1).all()
        assert np.isnan(after.column("weight", new.rows)).all()
        assert after.provenance["extends"] == {"store": "store.h5", "sha256": sha256_of(store), "rows": N_OLD}
        assert after.provenance["additions"][0]["added"] == 10
        assert after.provenance["levels"] == LEVELS


def test_an_extended_store_can_be_extended(store, tmp_path):
    first, second = (make_addition(tmp_path, name, seed=seed)[0] for name, seed in (("a", 1), ("b", 2)))
    extend_store(store, [first], FrameSelection(n_rows=5), tmp_path / "one.h5")
    extend_store(tmp_path / "one.h5", [second], FrameSelection(n_rows=2), tmp_path / "two.h5")
    extend_store(store, [first, second], FrameSelection(), tmp_path / "both.h5")
    with Store(tmp_path / "one.h5") as one, Store(tmp_path / "two.h5") as two, Store(tmp_path / "both.h5") as both:
        old_rows_are_the_same(one, two)
        np.testing.assert_array_equal(two.column("addition"), np.repeat([-1, 0, 1], [N_OLD, 5, 2]))
        np.testing.assert_array_equal(both.column("addition"), np.repeat([-1, 0, 1], [N_OLD, 12, 12]))
        assert [entry["added"] for entry in two.provenance["additions"]] == [5, 2]


def test_no_sample_to_add_is_no_error(store, tmp_path):
    addition, _, _ = make_addition(tmp_path, alive=np.ones(12, dtype=bool))
    result = extend_store(store, [addition], FrameSelection(frames="failed"), tmp_path / "new.h5")
    assert result["n_new"] == 0
    with Store(store) as before, Store(tmp_path / "new.h5") as after:
        assert after.n_rows == N_OLD
        old_rows_are_the_same(before, after)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, list(range(12))),
        ({"frames": "failed"}, [2, 3, 6, 7, 10, 11]),
        ({"frames": "alive"}, [0, 1, 4, 5, 8, 9]),
        ({"n_per_trajectory": 1, "order": "first"}, [0, 4, 8]),
        ({"n_per_trajectory": 1, "order": "first", "frames": "failed"}, [2, 6, 10]),
        ({"n_per_trajectory": 2}, [0, 3, 4, 7, 8, 11]),
        ({"n_rows": 3}, [0, 6, 11]),
        ({"max_force_ev_per_angstrom": 50.0}, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]),
        ({"statuses": ["unconverged"]}, []),
    ],
)
def test_selection(store, tmp_path, options, kept):
    forces = np.random.default_rng(0).normal(size=(8 * 3 + 4 * 5, 3))
    forces[(8 * 3 + 4 * 5) - 4 * 3 + 1] = 60.0  # second atom of frame 8
    addition, _, _ = make_addition(tmp_path, forces_ev_per_angstrom=forces)
    result = extend_store(store, [addition], FrameSelection.from_dict(options), tmp_path / "new.h5")
    with Store(tmp_path / "new.h5") as after:
        assert after.source_rows()[N_OLD:].tolist() == kept
    left_out = result["additions"][0]["left_out"]
    if "n_rows" not in options:
        assert sum(left_out.values()) - left_out["frames"] == left_out["frames"] - len(kept)


def test_a_start_structure_shared_by_trajectories_is_added_once(store, tmp_path):
    _, frames, _ = make_addition(tmp_path)
    positions = frames["positions"].copy()
    positions[frames["ptr"][8] : frames["ptr"][9]] = positions[:3] + 1e-7
    addition, _, _ = make_addition(tmp_path, positions=positions)
    result = extend_store(store, [addition], FrameSelection(), tmp_path / "new.h5")
    assert result["n_new"] == 11
    assert result["additions"][0]["left_out"]["repeated"] == 1


def test_labels_of_another_level_are_joined_as_atomization_energies(store, tmp_path):
    addition, frames, labels = make_addition(tmp_path, level="pbe0+mbd/def2-tzvp")
    with pytest.raises(InputError, match=r"labels at pbe0\+mbd/def2-tzvp, .* holds PBE0\+MBD/def2-SVP"):
        extend_store(store, [addition], FrameSelection(), tmp_path / "new.h5")
    atoms = tmp_path / "atoms.json"
    fit = {"elements": [1, 6, 8], "coefficients_ev": [-13.5, -1030.0, -2050.0]}
    write_self_energies({"fidelities": {"dft": fit}}, atoms)
    result = extend_store(store, [addition], FrameSelection(), tmp_path / "new.h5", atoms=atoms)
    assert result["additions"][0]["energies_joined"] == "as atomization energies"
    with Store(tmp_path / "new.h5") as after:
        energy = after.read(np.arange(N_OLD, after.n_rows)).energy["dft"]
    water, methane = 2 * -0.5 - 50.0, 4 * -0.5 - 30.0
    shift = np.where(frames["name"] == "water", water, methane)
    np.testing.assert_allclose(energy, labels["energy_ev"] + shift, atol=1e-9)
    write_self_energies({"fidelities": {"dft": {"elements": [1, 6], "coefficients_ev": [0.0, 0.0]}}}, atoms)
    with pytest.raises(InputError, match="no isolated atom of O in both"):
        extend_store(store, [addition], FrameSelection(), tmp_path / "new.h5", atoms=atoms)


def test_files_that_do_not_belong_together_are_one_line(store, tmp_path):
    good, frames, labels = make_addition(tmp_path)
    other, _, _ = make_addition(tmp_path, "other", seed=5)
    short, _, _ = make_addition(tmp_path, "short", n_samples=3)
    foreign, _, _ = make_addition(tmp_path, "foreign", atomic_numbers=np.where(frames["atomic_numbers"] == 8, 9, 1))
    headless = tmp_path / "headless.npz"
    np.savez(headless, ptr=frames["ptr"])
    bare = tmp_path / "bare.npz"
    np.savez(bare, **{**labels, "energy_ev": labels["energy_ev"][:3]})
    (tmp_path / "cut.npz").write_bytes(bare.read_bytes()[:100])
    for addition, message in [
        (Addition(good.frames, other.labels, good.table), "made for other frames"),
        (Addition(good.frames, good.labels, short.table), "one line for each of 12 frames"),
        (Addition(good.frames, bare, good.table), "3 energies and 44 forces for the 12 frames with 44 atoms"),
        (Addition(headless, good.labels, good.table), "key 'atomic_numbers' is missing"),
        (Addition(good.frames, tmp_path / "cut.npz", good.table), "not a readable npz file"),
        (Addition(good.frames, tmp_path / "none.npz", good.table), "no such file"),
        (foreign, "F is not among the elements"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            extend_store(store, [addition], FrameSelection(), tmp_path / "new.h5")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new.h5").exists()
    record(good.labels, "0" * 64)
    with pytest.raises(InputError, match="checksum mismatch"):
        extend_store(store, [good], FrameSelection(), tmp_path / "new.h5")
    with pytest.raises(InputError, match="no forces of fidelity 'cheap'"):
        extend_store(store, [good], FrameSelection(), tmp_path / "new.h5", fidelity="cheap")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "all"}, "unknown key 'frame'"),
        ({"frames": "dead"}, "'dead'; expected one of all, alive, failed"),
        ({"order": "last"}, "expected one of uniform, first"),
        ({"n_rows": 0}, "key 'n_rows': 0"),
        ({"n_per_trajectory": True}, "key 'n_per_trajectory'"),
        ({"max_force_ev_per_angstrom": "20"}, "key 'max_force_ev_per_angstrom'"),
        ({"statuses": []}, "'statuses' is empty"),
    ],
)
def test_selection_mistakes_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        FrameSelection.from_dict(options)


def test_evenly_takes_both_ends_and_no_number_twice():
    for n in range(1, 30):
        for most in range(2, 30):
            taken = _evenly(n, most)
            assert len(taken) == min(n, most) == len(set(taken.tolist()))
            assert taken[0] == 0
            assert taken[-1] == n - 1


# ---- splits ----


@pytest.fixture
def extended(store, tmp_path):
    """The old split with 6, 12 and 24 training rows, and a store with 12 new rows, one of them a turned test row."""
    split = tmp_path / "old" / "split.npz"
    with Store(store) as opened:
        made = make_split(
            opened, {"kind": "random", "train": [6, 12, 24], "val": [2, 3, 4], "test": 6, "fidelity": "dft"}
        )
        write_named_split(made, split, tmp_path / "old" / "split.json")
        test = next(row for row in made.test.tolist() if opened.n_atoms([row])[0] == 3)
        _, geometry = opened.read([test]).molecule(0)
    _, frames, _ = make_addition(tmp_path)
    positions = frames["positions"].copy()
    positions[frames["ptr"][9] : frames["ptr"][10]] = geometry @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 2.0
    addition, _, _ = make_addition(tmp_path, positions=positions)
    extend_store(store, [addition], FrameSelection(), tmp_path / "new" / "store.h5")
    return split, tmp_path / "new" / "store.h5", made


def test_split_keeps_val_and_test_and_adds_the_new_rows(extended, tmp_path):
    split, store, old = extended
    output, report = tmp_path / "new" / "split.npz", tmp_path / "new" / "split.json"
    extend_split(split, store, 12, output, report)
    with Store(store) as opened:
        new = load_named_split(output, opened, report)
    np.testing.assert_array_equal(new.test, old.test)
    np.testing.assert_array_equal(new.val_rows_for(23), old.val_rows(3))
    np.testing.assert_array_equal(new.train_rows(23)[:12], old.train_rows(12))
    # Row N_OLD + 9 is a test row turned and shifted.
    expected = [row for row in range(N_OLD, N_OLD + 12) if row != N_OLD + 9]
    assert new.train[12:].tolist() == expected
    assert new.report["new_rows"] == 11
    assert new.report["new_rows_equal_to_test_or_val"] == 1
    assert new.report["leakage"]["train/test"]["shared_geometries"] == 0
    assert new.report["leakage"]["train/val"]["shared_rows"] == 0


@pytest.mark.parametrize(
    ("total", "use_new", "n_new", "n_filled"),
    [(14, True, 2, 0), (17, True, 5, 0), (23, True, 11, 0), (24, True, 11, 1), (20, False, 0, 8), (12, True, 0, 0)],
)
def test_total_is_met_exactly(extended, tmp_path, total, use_new, n_new, n_filled):
    split, store, old = extended
    made = extend_split(split, store, 12, tmp_path / "s.npz", tmp_path / "s.json", total=total, use_new=use_new)
    assert made.train_sizes == (total,)
    assert len(set(made.train.tolist())) == total == len(made.train)
    assert int((made.train >= N_OLD).sum()) == n_new == made.report["new_rows"]
    np.testing.assert_array_equal(made.train[12 + n_new :], old.train[12 : 12 + n_filled])
    assert made.report["rows_filled_up"] == n_filled


def test_impossible_splits_are_one_line(extended, store, tmp_path):
    split, new_store, _ = extended
    outputs = (tmp_path / "s.npz", tmp_path / "s.json")
    other = tmp_path / "other.npz"
    with Store(new_store) as opened:
        spec = {"kind": "random", "train": [6], "test": 6}
        write_named_split(make_split(opened, spec), other, tmp_path / "other.json")
    for arguments, options, message in [
        ((split, store, 12), {}, "not an extended store"),
        ((other, new_store, 6), {}, "made for a store of 52 rows, .* extends one of 40"),
        ((split, new_store, 7), {}, "no train set of 7 rows"),
        ((split, new_store, 12), {"total": 11}, "key 'total': 11 rows, 12 are there already"),
        ((split, new_store, 12), {"total": 40}, "40 training rows asked, 35 are there with 11 new ones"),
        ((split, new_store, 24), {"total": 25, "use_new": False}, "25 training rows asked, 24 are there"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            extend_split(*arguments, *outputs, **options)
        assert "\n" not in str(caught.value)
    assert not outputs[0].exists()
