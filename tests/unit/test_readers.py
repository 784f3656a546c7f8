"""Readers and the builder: units, masks, filters, duplicates, and every way in which a file can be bad."""

from __future__ import annotations

import copy
import csv
import os
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
import yaml

from mlip_studies.data.build import build_store, resolve_dataset
from mlip_studies.data.readers import READERS, get_reader
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError
from mlip_studies.units import HARTREE_TO_EV, KCAL_PER_MOL_TO_EV

ROOT = Path(__file__).parents[2]
DATASETS = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "datasets.schema.yaml").read_text(encoding="utf-8"))
LOW, HIGH = "wb97x_dz", "ccsd(t)_cbs"


@pytest.fixture
def published() -> Path:
    folder = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set: no published data to read")
    return Path(folder)


def write_ani(path: Path, seed: int = 0, high: bool = True) -> Path:
    """A file in the layout of ani1x-release.h5; numbers are random, labels partly missing."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for name, z, n in (("C1H4", [6, 1, 1, 1, 1], 6), ("H2O1", [1, 1, 8], 9)):
            group = file.create_group(name)
            group["atomic_numbers"] = np.array(z, dtype=np.uint8)
            group["coordinates"] = rng.normal(size=(n, len(z), 3)).astype(np.float32)
            group["wb97x_dz.energy"] = rng.normal(size=n) - 76.0
            group["wb97x_dz.forces"] = rng.normal(size=(n, len(z), 3)).astype(np.float32)
            group["wb97x_tz.energy"] = np.full(n, np.nan)
            cc = rng.normal(size=n) - 76.0
            cc[n // 2 if high else 0 :] = np.nan
            group["ccsd(t)_cbs.energy"] = cc
    return path


def without_checksums(entry: dict) -> dict:
    """The entry without what is known of the published files, which made-up files cannot match."""
    parts = [part | {"file": {"name": part["file"]["name"]}} for part in entry["source_entries"]]
    return entry | {"source_entries": parts}


def ani_entry(**changes) -> dict:
    return without_checksums(resolve_dataset({**DATASETS, "ani1x": DATASETS["ani1x"] | changes}, "ani1x", "full"))


def build(entry, sources, folder: Path) -> tuple[Store, list[dict]]:
    build_store(entry, sources, folder / "store.h5", folder / "funnel.csv")
    with (folder / "funnel.csv").open(newline="") as stream:
        return Store(folder / "store.h5"), list(csv.DictReader(stream))


def edit(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def fails(entry, sources, folder: Path, *fragments: str) -> None:
    """The build fails with one line that holds the fragments, and writes nothing."""
    with pytest.raises(InputError) as caught:
        build_store(entry, sources, folder / "out" / "store.h5", folder / "out" / "funnel.csv")
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message
    assert not [item for item in (folder / "out").rglob("*") if item.is_file()]


def test_ani_file_becomes_a_store_in_ev(tmp_path):
    source = write_ani(tmp_path / "ani.h5")
    store, funnel = build(ani_entry(), [source], tmp_path)
    with store, h5py.File(source) as file:
        assert store.n_rows == 15
        assert store.group_names == ["C1H4", "H2O1"]
        rows = store.read(np.flatnonzero(store.groups() == 1))
        water = file["H2O1"]
        np.testing.assert_array_equal(rows.positions.reshape(9, 3, 3), water["coordinates"][:])
        np.testing.assert_allclose(rows.energy[LOW], water["wb97x_dz.energy"][:] * HARTREE_TO_EV, rtol=1e-15)
        np.testing.assert_allclose(
            rows.forces[LOW].reshape(9, 3, 3), water["wb97x_dz.forces"][:] * HARTREE_TO_EV, rtol=1e-6
        )
        assert store.has_label(HIGH).sum() == 3 + 4
        assert store.provenance["sources"][0]["file"] == "ani.h5"
        assert len(store.provenance["sources"][0]["sha256"]) == 64
        assert store.provenance["levels"][LOW] == "ωB97X/6-31G(d)"
    assert [step["step"] for step in funnel] == ["read", "expected elements", "finite labels", "stored"]
    assert [int(step["rows"]) for step in funnel] == [15] * 4


def test_blocks_do_not_change_the_result(tmp_path):
    source = write_ani(tmp_path / "ani.h5")
    read = get_reader("ani1x").load()
    whole, cut = list(read(source, ani_entry(), 1000)), list(read(source, ani_entry(), 4))
    assert [len(block) for block in cut] == [4, 2, 4, 4, 1]
    for name in (LOW, HIGH):
        np.testing.assert_array_equal(
            np.concatenate([block.energies[name] for block in whole]),
            np.concatenate([block.energies[name] for block in cut]),
        )
    assert np.concatenate([block.source_rows for block in cut]).tolist() == list(range(15))


def test_rows_without_any_label_are_removed_and_counted(tmp_path):
    def change(file):
        file["H2O1/wb97x_dz.energy"][8] = np.nan
        file["H2O1/wb97x_dz.forces"][8] = np.nan

    store, funnel = build(ani_entry(), [edit(write_ani(tmp_path / "ani.h5"), change)], tmp_path)
    with store:
        assert store.n_rows == 14
    step = next(step for step in funnel if step["step"] == "finite labels")
    assert (step["rows"], step["removed"]) == ("14", "1")


@pytest.mark.parametrize(
    ("key", "index", "value", "message"),
    [
        ("wb97x_dz.energy", (4,), np.nan, "energy wb97x_dz is NaN but its forces are not"),
        ("wb97x_dz.energy", (4,), np.inf, "energy wb97x_dz is infinite"),
        ("ccsd(t)_cbs.energy", (4,), -np.inf, "energy ccsd(t)_cbs is infinite"),
        ("wb97x_dz.forces", (4, 0, 1), np.nan, "some force components of wb97x_dz are NaN"),
        ("wb97x_dz.forces", (4, 0, 1), np.inf, "forces wb97x_dz are infinite"),
        ("coordinates", (4, 2, 2), np.nan, "coordinates are NaN or infinite"),
    ],
)
def test_numbers_that_are_not_finite(tmp_path, key, index, value, message):
    def change(file):
        file[f"H2O1/{key}"][index] = value

    source = edit(write_ani(tmp_path / "ani.h5"), change)
    # Row 4 of the second group is row 10 of the file.
    fails(ani_entry(), [source], tmp_path, "ani.h5: group H2O1, row 10: ", message)


@pytest.mark.parametrize("key", ["atomic_numbers", "coordinates", "wb97x_dz.energy", "ccsd(t)_cbs.energy"])
def test_a_missing_key(tmp_path, key):
    def change(file):
        del file["H2O1"][key]

    source = edit(write_ani(tmp_path / "ani.h5"), change)
    fails(ani_entry(), [source], tmp_path, f"ani.h5: group H2O1: key '{key}' is missing, expected the layout")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_a_truncated_file(tmp_path, share):
    source = write_ani(tmp_path / "ani.h5")
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    fails(ani_entry(), [source], tmp_path, "ani.h5: truncated HDF5 file", "expected the layout of ani1x-release.h5")


def test_other_layouts(tmp_path):
    with h5py.File(tmp_path / "ani1.h5", "w") as file:
        file["gdb11_s01/gdb11_s01-0/coordinates"] = np.zeros((2, 3, 3))
    fails(ani_entry(), [tmp_path / "ani1.h5"], tmp_path, "ani1.h5: group gdb11_s01: key 'atomic_numbers' is missing")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["coordinates"] = np.zeros((2, 3, 3))
    fails(ani_entry(), [tmp_path / "flat.h5"], tmp_path, "flat.h5: layout of another data set")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    fails(ani_entry(), [tmp_path / "empty.h5"], tmp_path, "empty.h5: no groups")
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    fails(ani_entry(), [tmp_path / "text.h5"], tmp_path, "text.h5: not a readable HDF5 file")
    fails(ani_entry(), [tmp_path / "absent.h5"], tmp_path, "absent.h5: no such file")


def test_wrong_lengths(tmp_path):
    def short_energy(file):
        del file["H2O1/wb97x_dz.energy"]
        file["H2O1/wb97x_dz.energy"] = np.zeros(8)

    def flat_coordinates(file):
        del file["H2O1/coordinates"]
        file["H2O1/coordinates"] = np.zeros((9, 4, 3))

    for name, change in (("a", short_energy), ("b", flat_coordinates)):
        source = edit(write_ani(tmp_path / f"{name}.h5"), change)
        fails(ani_entry(), [source], tmp_path, f"{name}.h5: group H2O1", "shape")


def test_an_element_outside_the_list(tmp_path):
    def change(file):
        file["H2O1/atomic_numbers"][2] = 16

    source = edit(write_ani(tmp_path / "ani.h5"), change)
    fails(ani_entry(), [source], tmp_path, "ani.h5: group H2O1 holds S, expected only H, C, N, O")
    store, funnel = build(ani_entry(unknown_elements="drop"), [source], tmp_path)
    with store:
        assert store.n_rows == 6
    assert funnel[1]["removed"] == "9" and "9 with S" in funnel[1]["reason"]


def test_zero_rows_of_the_high_fidelity(tmp_path):
    source = write_ani(tmp_path / "ani.h5", high=False)
    fails(ani_entry(), [source], tmp_path, "no row has an energy of fidelity 'ccsd(t)_cbs'")


def test_unknown_reader_data_set_and_scale():
    assert set(READERS) == {"ani1", "ani1x", "comp6", "extxyz", "md17", "qm7x", "rmd17", "spice"}
    with pytest.raises(InputError, match="reader 'spicy': no such reader; expected one of ani1, ani1x"):
        get_reader("spicy")
    with pytest.raises(InputError, match="no data set 'ani2x'; expected one of ani1x_mini"):
        resolve_dataset(DATASETS, "ani2x", "mini")
    with pytest.raises(InputError, match="no scale 'huge'"):
        resolve_dataset(DATASETS, "ethanol_mf", "huge")


# Ethanol, Å.
CENTER = np.array(
    [
        [1.17, -0.38, 0.0],
        [0.0, 0.55, 0.0],
        [-1.19, -0.22, 0.0],
        [2.11, 0.18, 0.0],
        [1.14, -1.02, 0.89],
        [1.14, -1.02, -0.89],
        [0.05, 1.2, 0.89],
        [0.05, 1.2, -0.89],
        [-1.95, 0.35, 0.0],
    ]
)


def md17_arrays(n: int = 12, seed: int = 0, spread: float = 0.05) -> dict[str, np.ndarray]:
    """Ethanol with a spring between any two atoms, so that forces and energies belong together (kcal/mol, Å)."""
    rng = np.random.default_rng(seed)
    z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], dtype=np.uint8)
    positions = CENTER + spread * rng.normal(size=(n, 9, 3))
    stiffness = 500.0

    def distances(of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = of[..., :, None, :] - of[..., None, :, :]
        return vectors, np.linalg.norm(vectors, axis=-1)

    vectors, lengths = distances(positions)
    stretch = lengths - distances(CENTER)[1]
    energy = -97000.0 + 0.25 * stiffness * (stretch**2).sum(axis=(1, 2))
    pull = stretch / np.where(lengths > 0, lengths, 1.0)
    forces = -stiffness * (pull[..., None] * vectors).sum(axis=2)
    return {"E": energy[:, None], "F": forces, "R": positions, "z": z}


def write_md17(path: Path, **changes) -> Path:
    arrays = md17_arrays() | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def md17_entry() -> dict:
    return without_checksums(resolve_dataset(DATASETS, "md17_ethanol_2000", "mini"))


def ethanol_entry() -> dict:
    return without_checksums(resolve_dataset(DATASETS, "ethanol_mf", "mini"))


def test_md17_file_becomes_a_store_in_ev(tmp_path):
    arrays = md17_arrays(n=40)
    store, _ = build(md17_entry(), [write_md17(tmp_path / "e.npz", **arrays)], tmp_path)
    with store:
        rows = store.read()
        np.testing.assert_allclose(rows.energy["pbe_ts"], arrays["E"][:, 0] * KCAL_PER_MOL_TO_EV, rtol=1e-15)
        np.testing.assert_allclose(rows.positions.reshape(-1, 9, 3), arrays["R"], rtol=1e-15)
        np.testing.assert_allclose(rows.forces["pbe_ts"].reshape(-1, 9, 3), arrays["F"] * KCAL_PER_MOL_TO_EV, rtol=1e-6)
        assert store.group_names == ["C2H6O"]
        check = store.provenance["sources"][0]["force_check"]["pbe_ts"]
        assert check["correlation"] > 0.99 and check["slope"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_md17_is_streamed_in_blocks(tmp_path, save, order):
    arrays = md17_arrays() | {"R": np.asarray(md17_arrays()["R"], order=order)}
    save(tmp_path / "e.npz", **arrays)
    blocks = list(get_reader("md17").load()(tmp_path / "e.npz", md17_entry(), 5))
    assert [len(block) for block in blocks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([block.positions for block in blocks]), arrays["R"])


def test_gradients_instead_of_forces_are_noticed(tmp_path):
    arrays = md17_arrays(n=40)
    source = write_md17(tmp_path / "e.npz", **(arrays | {"F": -arrays["F"]}))
    fails(md17_entry(), [source], tmp_path, "e.npz: forces of pbe_ts point uphill")


def test_bad_md17_files(tmp_path):
    def bad(name, value):
        arrays = md17_arrays()
        arrays[name][(3,) + (0,) * (arrays[name].ndim - 1)] = value
        return write_md17(tmp_path / "e.npz", **arrays)

    fails(md17_entry(), [bad("E", np.nan)], tmp_path, "e.npz: group C2H6O, row 3: energy pbe_ts is NaN")
    fails(md17_entry(), [bad("E", np.inf)], tmp_path, "row 3: energy pbe_ts is infinite")
    fails(md17_entry(), [bad("F", np.nan)], tmp_path, "row 3: some force components of pbe_ts are NaN")
    fails(md17_entry(), [bad("R", np.inf)], tmp_path, "row 3: coordinates are NaN or infinite")
    everything = md17_arrays()
    everything["E"][3], everything["F"][3] = np.nan, np.nan
    fails(md17_entry(), [write_md17(tmp_path / "e.npz", **everything)], tmp_path, "row 3: energy pbe_ts is NaN")
    fails(md17_entry(), [write_md17(tmp_path / "e.npz", F=None)], tmp_path, "e.npz: key 'F' is missing")
    fails(md17_entry(), [write_md17(tmp_path / "e.npz", E=np.zeros(3))], tmp_path, "array 'E' has shape (3,)")
    fails(md17_entry(), [write_md17(tmp_path / "e.npz", R=np.zeros((4, 3)))], tmp_path, "array 'R' has shape")
    source = write_md17(tmp_path / "e.npz")
    source.write_bytes(source.read_bytes()[:-700])
    fails(md17_entry(), [source], tmp_path, "e.npz: not a whole npz file")
    source.write_bytes(b"something else")
    fails(md17_entry(), [source], tmp_path, "e.npz: not a whole npz file")


def test_composed_data_set_drops_what_the_high_fidelity_has(tmp_path):
    low, high = md17_arrays(n=30, seed=1), md17_arrays(n=10, seed=2)
    # Frames 4 and 9 of the low fidelity are frames 0 and 3 of the high one, rotated and with hydrogens exchanged.
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    order = [0, 1, 2, 8, 7, 3, 4, 5, 6]
    for target, source in ((4, 0), (9, 3)):
        low["R"][target] = (high["R"][source] @ turn.T + 1.5)[order]
        low["F"][target] = (high["F"][source] @ turn.T)[order]
        low["E"][target] = high["E"][source]
    sources = [write_md17(tmp_path / "low.npz", **low), write_md17(tmp_path / "high.npz", **high)]
    store, funnel = build(ethanol_entry(), sources, tmp_path)
    with store:
        assert store.fidelities == ("pbe_ts", "ccsd(t)")
        assert store.has_label("pbe_ts").sum() == 28 and store.has_label("ccsd(t)").sum() == 10
        assert not (store.has_label("pbe_ts") & store.has_label("ccsd(t)")).any()
        kept = store.source_rows()[store.has_label("pbe_ts")]
        assert kept.tolist() == [row for row in range(30) if row not in (4, 9)]
    step = next(step for step in funnel if step["step"] == "duplicates")
    assert (step["rows"], step["removed"]) == ("38", "2") and "ccsd(t)" in step["reason"]
    with pytest.raises(InputError, match=r"1 source file\(s\) given, expected 2 \(md17_ethanol_2000, ethanol_ccsd_t\)"):
        build_store(ethanol_entry(), sources[:1], tmp_path / "x.h5", tmp_path / "x.csv")


def test_an_unresolved_composed_data_set(tmp_path):
    with pytest.raises(InputError, match="pass it resolved"):
        build_store(DATASETS["ethanol_mf"], [tmp_path / "a", tmp_path / "b"], tmp_path / "x.h5", tmp_path / "x.csv")


def test_a_readable_file_with_another_checksum(tmp_path):
    entry = resolve_dataset(DATASETS, "md17_ethanol_2000", "mini")
    fails(entry, [write_md17(tmp_path / "e.npz")], tmp_path, "e.npz: wrong content, it has", "expected 880967")


def test_config_matches_its_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DATASETS, SCHEMA)
    for name, change in (
        ("ani1x", {"elments": ["H"]}),
        ("ani1x", {"reader": "spicy"}),
        ("ani1x", {"sources": {"mini": ["a"], "full": ["a"]}}),
        ("ethanol_mf", {"files": DATASETS["ani1x"]["files"]}),
        ("ani1x", {"units": {"energy": "Hartree", "length": "angstrom"}}),
    ):
        wrong = copy.deepcopy(DATASETS)
        wrong[name] |= change
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)
    short = copy.deepcopy(DATASETS)
    short["ani1x"]["files"][0]["md5"] = "98090dd6"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(short, SCHEMA)


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_resolves(name, scale):
    entry = resolve_dataset(DATASETS, name, scale)
    assert entry["source_entries"]
    for part in entry["source_entries"]:
        get_reader(part["reader"]).load()
        assert part["file"]["name"] and set(part["elements"]) <= set(entry["elements"])
        assert set(part["fidelities"]) <= set(entry["levels"])


def test_published_ani1x_rows(published, tmp_path):
    source = published / "ani" / "ani1x_schema_8rows.h5"
    store, funnel = build(ani_entry(), [source], tmp_path)
    with store, h5py.File(source) as file:
        assert store.n_rows == 8 and len(store.group_names) == 5
        assert store.has_label(HIGH).tolist() == [True, True, True, True, False, False, True, True]
        assert store.has_label(LOW).all()
        stored = np.concatenate([file[name]["wb97x_dz.energy"][:] for name in file])
        np.testing.assert_allclose(store.energies(LOW), stored * HARTREE_TO_EV, rtol=1e-15)
    assert funnel[-1]["rows"] == "8"


def test_published_files_of_other_layouts(published, tmp_path):
    fails(ani_entry(), [published / "ani" / "ani_gdb_s01.h5"], tmp_path, "ani_gdb_s01.h5", "is missing")
    fails(ani_entry(), [published / "spice" / "SPICE-1.1.4_n2.hdf5"], tmp_path, "'coordinates' is missing")
    fails(ani_entry(), [published / "md17" / "md17_ethanol_2000.npz"], tmp_path, "not a readable HDF5 file")
    fails(md17_entry(), [published / "rmd17" / "rmd17_ethanol_test_01.npz"], tmp_path, "key 'z' is missing", "coords")


def test_published_ethanol(published, tmp_path):
    entry = resolve_dataset(DATASETS, "ethanol_mf", "mini")
    sources = [published / "md17" / part["file"]["name"] for part in entry["source_entries"]]
    store, funnel = build(entry, sources, tmp_path)
    with store:
        assert store.has_label("pbe_ts").sum() == 2000 and store.has_label("ccsd(t)").sum() == 1000
        assert [step["removed"] for step in funnel] == ["0"] * 5
        # Total energies of ethanol: -154.9 hartree at both levels.
        assert np.nanmean(store.energies("ccsd(t)")) == pytest.approx(-4210, abs=5)
        check = store.provenance["sources"][0]["force_check"]["pbe_ts"]
        assert check["correlation"] > 0.99 and check["slope"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("z", [np.zeros(0, int), np.ones(9), np.ones((2, 9), int), np.zeros(9, int), np.full(9, 262)])
def test_bad_atomic_numbers(tmp_path, z):
    fails(md17_entry(), [write_md17(tmp_path / "e.npz", z=z)], tmp_path, "e.npz: array 'z' h", "atomic numbers")

    def change(file):
        del file["H2O1/atomic_numbers"]
        file["H2O1/atomic_numbers"] = z

    source = edit(write_ani(tmp_path / "ani.h5"), change)
    fails(ani_entry(), [source], tmp_path, "ani.h5: group H2O1: atomic_numbers h", "atomic numbers")
