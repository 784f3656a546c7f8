"""The canonical store: round trip, ragged reads, and every way in which a file can be bad."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
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


WAYS = ("ranges", "map", "one by one", "by gaps", "compressed")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["random", "ascending", "few"])
def test_every_way_of_reading_agrees(tmp_path, monkeypatch, way, order):
    """Chunks, windows and gaps are made so small that rows cross them."""
    for name, value in (("_ATOM_CHUNK", 8), ("_ROW_CHUNK", 4), ("_WINDOW", 50), ("_SMALL", 60), ("_GAP", 4)):
        monkeypatch.setattr(f"mlip_studies.data.store.{name}", value)
    monkeypatch.setattr("mlip_studies.data.store._DENSE", 1000 if way == "ranges" else 0)
    monkeypatch.setattr("mlip_studies.data.store._MAPPED_BYTES", 1 << 20 if way == "map" else 0)
    path = tmp_path / "store.h5"
    expected = write_store(path, sizes=[(3, 20), (19, 20), (1, 5), (27, 3)])
    if way in ("by gaps", "compressed"):
        with h5py.File(path, "a") as file:
            for name in ("positions", "energy/" + LOW, "forces/" + LOW, "atomic_numbers", "group"):
                values = file[name][:]
                del file[name]
                file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
        artifacts.record(path)
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, 48, 3 if order == "few" else 60)
    chosen = np.sort(chosen) if order == "ascending" else chosen
    with Store(path) as store:
        assert_rows_match(store.read(chosen), chosen, expected)
        np.testing.assert_array_equal(store.groups(chosen), [expected[row]["group"] for row in chosen])
        np.testing.assert_array_equal(store.source_rows(chosen), chosen)
        assert_rows_match(store.read(), range(48), expected)


def test_reading_a_large_store_maps_only_what_is_small(tmp_path, monkeypatch):
    path = tmp_path / "store.h5"
    expected = write_store(path, sizes=[(9, 400)])
    monkeypatch.setattr("mlip_studies.data.store._MAPPED_BYTES", 20_000)
    with Store(path) as store:
        ways = {name: column._entries is not None for name, column in store._columns.items()}
        assert ways["group"] and ways["atomic_numbers"] and not ways["positions"] and not ways[f"forces/{LOW}"]
        assert_rows_match(store.read([399, 0, 7]), [399, 0, 7], expected)


def test_small_blocks_give_the_same_file_as_large_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("mlip_studies.data.store._ATOM_CHUNK", 32)
    monkeypatch.setattr("mlip_studies.data.store._ROW_CHUNK", 8)
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(50, 5, 3)), rng.normal(size=50)
    for name, size in (("one", 1), ("seven", 7), ("all", 50)):
        with StoreWriter(tmp_path / f"{name}.h5", ["e", "none"], ["e"], positions_dtype="float64") as writer:
            for first in range(0, 50, size):
                part = slice(first, first + size)
                writer.append(np.full(5, 6), x[part], {"e": e[part]}, {"e": x[part]}, group="a")
    stores = [h5py.File(tmp_path / f"{name}.h5") for name in ("one", "seven", "all")]
    for name in ("positions", "atomic_numbers", "ptr", "group", "source_row", "energy/e", "energy/none", "forces/e"):
        values = [store[name][:] for store in stores]
        assert values[0].dtype == values[2].dtype
        np.testing.assert_array_equal(values[0], values[2])
        np.testing.assert_array_equal(values[1], values[2])
    np.testing.assert_array_equal(stores[0]["positions"][:].reshape(50, 5, 3), x)
    for store in stores:
        store.close()


def test_columns_and_facts_of_groups(tmp_path):
    path = tmp_path / "store.h5"
    one, two, frames = [0.0], [0.0, 1.0], np.zeros((2, 1, 3))
    with StoreWriter(path, ["e"], columns=["displacement", "weight", "unused"], info=["smiles", "subset"]) as writer:
        writer.append([1], frames[:1], {"e": one}, group="a", info={"smiles": "[H]"})
        writer.append(
            [1],
            frames,
            {"e": two},
            group="b",
            columns={"displacement": [0, 3], "weight": [0.5, 1.5], "left out": [1, 1]},
            info={"smiles": "[H+]", "subset": "ions"},
        )
        writer.append([1], frames[:1], {"e": one}, group="a", columns={"weight": [2]}, info={"subset": "atoms"})
    with Store(path) as store:
        assert set(store.columns) == {"displacement", "weight", "unused"}
        assert store.column("displacement").tolist() == [-1, 0, 3, -1]
        assert store.column("displacement").dtype == np.int64
        np.testing.assert_array_equal(store.column("weight"), [np.nan, 0.5, 1.5, 2.0])
        assert np.isnan(store.column("unused")).all()
        assert store.column("displacement", [2, 2, 1]).tolist() == [3, 3, 0]
        assert set(store.info_names) == {"smiles", "subset"}
        assert store.group_names == ["a", "b"]
        assert store.group_info("smiles") == ["[H]", "[H+]"] and store.group_info("subset") == ["atoms", "ions"]
        with pytest.raises(InputError, match="no column 'isomer'; this store holds displacement, unused, weight"):
            store.column("isomer")
        with pytest.raises(InputError, match="no group info 'name'; this store holds smiles, subset"):
            store.group_info("name")


def test_columns_and_facts_that_contradict(tmp_path):
    def attempt(*calls):
        with StoreWriter(tmp_path / "store.h5", ["e"], columns=["c"], info=["smiles"]) as writer:
            for options in calls:
                writer.append([1], np.zeros((1, 1, 3)), {"e": [0.0]}, group="a", source="in.h5", **options)

    with pytest.raises(InputError, match=r"in.h5: group a: smiles is 'C' here and 'N' before"):
        attempt({"info": {"smiles": "N"}}, {"info": {"smiles": "C"}})
    with pytest.raises(InputError, match=r"in.h5: group a: column c holds float64 numbers, expected whole ones"):
        attempt({"columns": {"c": [1]}}, {"columns": {"c": [0.5]}})
    with pytest.raises(InputError, match=r"column c has shape \(2,\)"):
        attempt({"columns": {"c": [1, 2]}})
    with pytest.raises(InputError, match=r"column c has shape .* and type <U1"):
        attempt({"columns": {"c": ["x"]}})
    with pytest.raises(InputError, match="column 'a/b': expected a non-empty name"):
        StoreWriter(tmp_path / "store.h5", ["e"], columns=["a/b"])
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_single_precision(tmp_path):
    with (
        pytest.raises(InputError, match="beyond the range of single precision"),
        StoreWriter(tmp_path / "store.h5", ["e"]) as writer,
    ):
        writer.append([1], np.full((1, 1, 3), 1e300), {"e": [0.0]})
    # Finite numbers whose sum isn't are fine.
    with StoreWriter(tmp_path / "store.h5", ["e"], positions_dtype="float64") as writer:
        writer.append([1], np.full((1, 1, 3), 1e308), {"e": [0.0]})


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


def test_a_store_that_is_cut_while_it_is_open(tmp_path, monkeypatch):
    """Touching the map beyond the end of the file would kill the process; it must be an error with one line."""
    path = tmp_path / "store.h5"
    write_store(path, sizes=[(50, 4000)])
    for dense in (0, 4):
        monkeypatch.setattr("mlip_studies.data.store._DENSE", dense)
        with Store(path, verify=False) as store:
            whole = path.read_bytes()
            os.truncate(path, 8192)
            for rows in ([3999], [0, 3999, 7], range(4000)):
                with pytest.raises(InputError, match=r"store.h5: truncated while it was open \(8192 of \d+ bytes"):
                    store.read(rows)
        path.write_bytes(whole)


def test_a_chunk_beyond_the_end_of_the_file(tmp_path):
    path = tmp_path / "store.h5"
    write_store(path, sizes=[(50, 4000)])
    data = path.read_bytes()
    with h5py.File(path) as file:
        address = file["positions"].id.get_chunk_info(2).byte_offset.to_bytes(8, "little")
    assert data.count(address) == 1
    path.write_bytes(data.replace(address, (len(data) - 4096).to_bytes(8, "little")))
    with pytest.raises(
        InputError, match=r"store.h5: damaged HDF5 file \(a chunk of 'positions' ends at byte"
    ) as caught:
        Store(path, verify=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_one_line_or_no_harm(tmp_path, seed):
    """Bytes of the tables are overwritten; reading ends with an InputError or with some numbers, never otherwise."""
    path = tmp_path / "store.h5"
    write_store(path, sizes=[(5, 40), (3, 60)])
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    # Away from the chunks, which are large and hold plain numbers.
    with h5py.File(path) as file:
        spans = []
        file.visititems(
            lambda _, item: (
                spans.extend(
                    (item.id.get_chunk_info(i).byte_offset, item.id.get_chunk_info(i).size)
                    for i in range(item.id.get_num_chunks())
                )
                if isinstance(item, h5py.Dataset) and item.chunks
                else None
            )
        )
    free = np.ones(len(data), dtype=bool)
    for offset, size in spans:
        free[offset : offset + size] = False
    for place in rng.choice(np.flatnonzero(free), 40, replace=False):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    try:
        with Store(path, verify=False) as store:
            store.read(rng.integers(0, store.n_rows, 10))
            store.read()
    except InputError as error:
        assert "\n" not in str(error)


def test_offsets_that_do_not_ascend(tmp_path):
    path = tmp_path / "store.h5"
    write_store(path)
    with h5py.File(path, "a") as file:
        file["ptr"][3] = 10**9
    with pytest.raises(InputError, match="key 'ptr' doesn't ascend"):
        Store(path, verify=False)


def test_version_1_is_refused(tmp_path):
    path = tmp_path / "store.h5"
    write_store(path)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 1
    with pytest.raises(InputError, match="store version 1, expected 2; delete it and build again"):
        Store(path, verify=False)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) + Path("/proc/self/maps").read_text().count("store.h5")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_closing_leaves_no_handle_and_no_map(tmp_path):
    path = tmp_path / "store.h5"
    write_store(path)
    Store(path).close()
    before = open_files()
    for _ in range(3):
        with Store(path) as store:
            rows = store.read([3, 1, 12])
            assert "store.h5" in Path("/proc/self/maps").read_text()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError):
        Store(path, verify=False)
    assert open_files() == before
    # What was read stays.
    assert np.isfinite(rows.positions).all()
    with pytest.raises(ValueError, match="closed"):
        store.read([1])


def test_a_store_can_be_pickled_and_forked(tmp_path):
    expected = write_store(tmp_path / "store.h5", sizes=[(3, 300)])
    chosen = [299, 0, 17]
    with Store(tmp_path / "store.h5") as store:
        with pickle.loads(pickle.dumps(store)) as copy:
            assert_rows_match(copy.read(chosen), chosen, expected)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                assert_rows_match(store.read(chosen), chosen, expected)
                assert_rows_match(store.read(), range(300), expected)
                store.close()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert_rows_match(store.read(chosen), chosen, expected)


FILL = """
import resource, sys
import numpy as np
from pathlib import Path
from mlip_studies.data.store import StoreWriter
from mlip_studies.errors import InputError
folder, limit, blocks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with StoreWriter(folder / "store.h5", ["e"], ["e"]) as writer:
        for number in range(blocks):
            x = np.ones((1000, 9, 3), dtype=np.float32)
            writer.append(np.full(9, 6), x, {"e": np.zeros(1000)}, {"e": x}, group=str(number))
except InputError as error:
    assert "\\n" not in str(error)
    print("refused:", error)
else:
    print("written")
"""


def run_fill(*arguments: object) -> str:
    command = [sys.executable, "-c", FILL, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("limit", [10_000, 1_000_000, 3_300_000, 4_000_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, limit):
    """The disk fills up in the first chunk, in later ones, and while the file is finished."""
    message = run_fill(tmp_path, limit, 20)
    assert "store.h5: cannot write the store (File too large); make room" in message
    assert [item for item in tmp_path.rglob("*") if item.is_file()] == []
    assert run_fill(tmp_path, 0, 20).strip() == "written"


def test_a_full_file_system_is_one_line_and_leaves_nothing(tmp_path):
    unshare = shutil.which("unshare")
    mount = ["unshare", "-rm", "sh", "-c"]
    if unshare is None or subprocess.run([*mount, f"mount -t tmpfs none {tmp_path}"], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    run = f'{sys.executable} -c "$0" {tmp_path} 0 $1; find {tmp_path} -type f'
    inside = f"mount -t tmpfs -o size=3m none {tmp_path} && {run}"
    done = subprocess.run([*mount, inside, FILL, "20"], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].endswith(
        "store.h5: cannot write the store (No space left on device); make room on the disk or set another `results`"
    )
    assert len(done.stdout.splitlines()) == 1


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


def test_memory_stays_flat(tmp_path):
    """Writing and reading thirty times as many rows needs no more memory."""
    script = textwrap.dedent(
        """
        import sys
        import numpy as np
        from mlip_studies.data.store import Store, StoreWriter
        path, n = sys.argv[1], int(sys.argv[2])
        x = np.ones((500, 9, 3), dtype=np.float32)
        with StoreWriter(path, ["e"], ["e"]) as writer:
            for number in range(n):
                writer.append(np.full(9, 6), x, {"e": np.zeros(500)}, {"e": x}, group=str(number))
        with Store(path) as store:
            total = sum(len(rows) for rows in store.iter_chunks(2000))
        assert total == 500 * n
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        """
    )

    def peak(n: int) -> int:
        command = [sys.executable, "-c", script, str(tmp_path / "store.h5"), str(n)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # The file has 100 MB at the end.
    assert peak(900) - peak(30) < 30_000
