"""The canonical store: round trip, ragged reads, and every way in which a file can be bad."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mlip_studies import artifacts
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError

LOW, HIGH = "wb97x_dz", "ccsd(t)_cbs"


def write_store(path: Path, sizes=((3, 5), (4, 7), (2, 1)), seed: int = 0) -> list[dict]:
    """Write molecules given as (n_atoms, n_frames); returns what was written, row by row."""
    rng = np.random.default_rng(seed)
    expected = []
    with StoreWriter(path, [LOW, HIGH], [LOW], {"elements": [1, 6, 8], "dataset": "toy"}) as writer:
        for number, (n_atoms, n_frames) in enumerate(sizes):
            z = rng.choice([1, 6, 8], n_atoms)
            positions = rng.normal(size=(n_frames, n_atoms, 3)).astype(np.float32)
            low, high = rng.normal(size=(2, n_frames)) - 1e4
            high[::2] = np.nan
            forces = rng.normal(size=(n_frames, n_atoms, 3)).astype(np.float32)
            writer.append(z, positions, {LOW: low, HIGH: high}, {LOW: forces}, group=f"molecule{number}")
            for i in range(n_frames):
                row = {"z": z, "positions": positions[i], LOW: low[i], HIGH: high[i], "forces": forces[i]}
                expected.append(row | {"group": number})
    return expected


def assert_rows_match(rows, chosen, expected) -> None:
    assert len(rows) == len(chosen)
    for i, row in enumerate(chosen):
        z, positions = rows.molecule(i)
        atoms = slice(rows.ptr[i], rows.ptr[i + 1])
        np.testing.assert_array_equal(z, expected[row]["z"])
        np.testing.assert_array_equal(positions, expected[row]["positions"])
        np.testing.assert_array_equal(rows.forces[LOW][atoms], expected[row]["forces"])
        np.testing.assert_equal(rows.energy[HIGH][i], expected[row][HIGH])
        assert rows.energy[LOW][i] == expected[row][LOW]
        assert rows.group[i] == expected[row]["group"]


@pytest.mark.parametrize("chosen", [range(13), [12, 0, 5, 5, 3, 11], [4], []])
def test_rows_come_back_in_the_order_asked(tmp_path, chosen):
    expected = write_store(tmp_path / "store.h5")
    with Store(tmp_path / "store.h5") as store:
        assert_rows_match(store.read(list(chosen)), list(chosen), expected)


def test_reads_cut_into_windows_agree(tmp_path, monkeypatch):
    expected = write_store(tmp_path / "store.h5", sizes=[(3, 20), (7, 20), (1, 5)])
    monkeypatch.setattr("mlip_studies.data.store._GAP_ATOMS", 4)
    monkeypatch.setattr("mlip_studies.data.store._WINDOW_ATOMS", 10)
    chosen = np.random.default_rng(1).integers(0, 45, 60)
    with Store(tmp_path / "store.h5") as store:
        assert_rows_match(store.read(chosen), chosen, expected)


def test_chunks_cover_all_rows(tmp_path):
    write_store(tmp_path / "store.h5")
    with Store(tmp_path / "store.h5") as store:
        assert store.n_rows == 13
        assert store.fidelities == (LOW, HIGH) and store.force_fidelities == (LOW,)
        assert store.elements == [1, 6, 8]
        assert store.group_names == ["molecule0", "molecule1", "molecule2"]
        assert store.has_label(LOW).all() and store.has_label(HIGH).sum() == 5
        assert np.concatenate([part.rows for part in store.iter_chunks(4)]).tolist() == list(range(13))
        np.testing.assert_array_equal(store.n_atoms([0, 5, 12]), [3, 4, 2])
        assert store.source_rows().tolist() == list(range(13))


def test_units_and_versions_are_in_the_provenance(tmp_path):
    write_store(tmp_path / "store.h5")
    with Store(tmp_path / "store.h5") as store:
        assert {"h5py", "numpy", "mlip_studies"} <= store.provenance["versions"].keys()
    with h5py.File(tmp_path / "store.h5") as file:
        assert '"energy": "eV"' in file.attrs["units"]


def test_double_precision_positions_are_kept(tmp_path):
    positions = np.random.default_rng(0).normal(size=(2, 2, 3))
    with StoreWriter(tmp_path / "store.h5", ["e"], positions_dtype="float64") as writer:
        writer.append([1, 1], positions, {"e": [0.0, 1.0]})
    with Store(tmp_path / "store.h5") as store:
        np.testing.assert_array_equal(store.read().positions.reshape(2, 2, 3), positions)


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("positions", np.nan, "coordinates are NaN or infinite"),
        ("positions", np.inf, "coordinates are NaN or infinite"),
        ("energy", np.inf, "energy e is infinite"),
        ("energy", np.nan, "energy e is NaN but its forces are not"),
        ("forces", np.nan, "some force components of e are NaN"),
        ("forces", -np.inf, "forces e are infinite"),
    ],
)
def test_numbers_that_are_not_finite_name_file_group_and_row(tmp_path, what, value, message):
    arrays = {"positions": np.zeros((3, 2, 3)), "energy": np.zeros(3), "forces": np.zeros((3, 2, 3))}
    arrays[what][(1,) * arrays[what].ndim] = value
    with (
        pytest.raises(InputError, match=rf"source.h5: group water, row 1: {message}"),
        StoreWriter(tmp_path / "store.h5", ["e"], ["e"]) as writer,
    ):
        writer.append(
            [1, 1], arrays["positions"], {"e": arrays["energy"]}, {"e": arrays["forces"]}, "water", source="source.h5"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_label_with_missing_forces_is_fine(tmp_path):
    forces = np.zeros((2, 1, 3))
    forces[1] = np.nan
    with StoreWriter(tmp_path / "store.h5", ["e"], ["e"]) as writer:
        writer.append([1], np.zeros((2, 1, 3)), {"e": [0.0, np.nan]}, {"e": forces})
    with Store(tmp_path / "store.h5") as store:
        assert store.has_label("e").tolist() == [True, False]


def test_wrong_shapes_and_columns(tmp_path):
    def attempt(*arguments):
        with StoreWriter(tmp_path / "store.h5", ["e"]) as writer:
            writer.append(*arguments)

    with pytest.raises(InputError, match="positions have shape"):
        attempt([1, 1], np.zeros((1, 3, 3)), {"e": [0.0]})
    with pytest.raises(InputError, match="energy e has shape"):
        attempt([1], np.zeros((1, 1, 3)), {"e": [0.0, 1.0]})
    with pytest.raises(InputError, match="no energy column 'f'"):
        attempt([1], np.zeros((1, 1, 3)), {"f": [0.0]})
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_is_not_written(tmp_path):
    with pytest.raises(InputError, match="no rows to store"), StoreWriter(tmp_path / "store.h5", ["e"]):
        pass
    assert not (tmp_path / "store.h5").exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_store(tmp_path, share):
    path = tmp_path / "store.h5"
    write_store(path, sizes=[(5, 4000)])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"store.h5: checksum mismatch"):
        Store(path)
    with pytest.raises(InputError, match=r"store.h5: truncated HDF5 file .* expected a canonical store"):
        Store(path, verify=False)


def test_files_that_are_not_stores(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match=r"text.h5: not a readable HDF5 file"):
        Store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["gdb11_s01/coordinates"] = np.zeros(3)
    with pytest.raises(InputError, match=r"other.h5: layout of another data set \(it holds gdb11_s01\)"):
        Store(tmp_path / "other.h5")
    with pytest.raises(InputError, match=r"none.h5: no such file"):
        Store(tmp_path / "none.h5")


@pytest.mark.parametrize("key", ["positions", "ptr", f"energy/{HIGH}", "group_names"])
def test_a_missing_key(tmp_path, key):
    path = tmp_path / "store.h5"
    write_store(path)
    with h5py.File(path, "a") as file:
        del file[key]
    artifacts.record(path)
    with pytest.raises(InputError) as caught:
        Store(path)
    assert key in str(caught.value) and "store.h5" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_fidelity_and_row(tmp_path):
    write_store(tmp_path / "store.h5")
    with Store(tmp_path / "store.h5") as store:
        with pytest.raises(InputError, match="no energies of fidelity 'pbe'; this store holds wb97x_dz"):
            store.energies("pbe")
        with pytest.raises(InputError, match="has 0 to 12"):
            store.read([13])


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot write"), StoreWriter(tmp_path / "results" / "store.h5", ["e"]):
        pass


def test_kill_in_the_middle_leaves_no_store(tmp_path):
    path = tmp_path / "store.h5"
    script = textwrap.dedent(
        f"""
        import numpy as np, sys, time
        from mlip_studies.data.store import StoreWriter
        with StoreWriter({str(path)!r}, ["e"]) as writer:
            writer.append([1, 1], np.zeros((5000, 2, 3)), {{"e": np.zeros(5000)}})
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    assert len(list(tmp_path.glob(".store.*"))) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not path.exists()
    # The next writer removes what the killed one left, and works.
    write_store(path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".store")] == []
    with Store(path) as store:
        assert store.n_rows == 13


def test_a_running_writer_is_left_alone(tmp_path):
    other = tmp_path / f".store.{os.getppid()}.tmp.h5"
    other.touch()
    write_store(tmp_path / "store.h5")
    assert other.exists()


def test_memory_stays_flat_and_reads_are_fast(tmp_path):
    path = tmp_path / "store.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, ["e"], ["e"]) as writer:
        for number in range(40):
            positions = rng.normal(size=(1000, 9, 3)).astype(np.float32)
            writer.append(np.full(9, 6), positions, {"e": np.zeros(1000)}, {"e": positions}, group=str(number))
    with Store(path) as store:
        start = time.perf_counter()
        rows = store.read(rng.permutation(store.n_rows)[:10000])
        assert time.perf_counter() - start < 5.0
        assert rows.positions.shape == (90000, 3)
