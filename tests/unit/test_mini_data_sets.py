"""The mini data sets in the published layouts: assembly from synthetic rows, resumption, and the shipped files."""

import csv
import dataclasses
import gzip
import hashlib
import importlib
import io
import json
import lzma
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from mlip_studies.data.force_check import ForceCheck
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.run import run_dft
from mlip_studies.errors import InputError
from mlip_studies.mini_data import ani1, comp6, md17, qm7x, spice
from mlip_studies.mini_data.assembly import atom_energies, sum_of_atoms
from mlip_studies.mini_data.recipe import SETS, builder, load_recipe, n_rows, system_entry
from mlip_studies.mini_data.shards import (
    complete_lines,
    fill_shard,
    read_lines,
    rows_of_system,
    shard_ranges,
    system_shard_name,
)
from mlip_studies.mini_data.systems import System, kabsch
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, HARTREE_TO_KCAL_PER_MOL

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "resources"
RECIPES = ROOT / "config" / "mini_data"
ATOMS = RESOURCES / "isolated-atoms" / "isolated_atoms.csv"
# 1 hartree/bohr in eV/Å.
ATOMIC_UNIT_OF_FORCE = HARTREE_TO_EV / BOHR_TO_ANGSTROM


def recipe_of(name):
    return load_recipe(RECIPES / f"{name}.yaml")


# ---- shards ----


def counting(row, state):
    state = (state or 0) + 1
    return {"row": row, "value": row * 0.1, "state": state}, state


def test_fill_shard_resumes_after_a_cut_line(tmp_path):
    output = tmp_path / "x_0004.jsonl"
    fill_shard(output, 4, 9, counting)
    whole = output.read_text().splitlines()
    assert [json.loads(line)["row"] for line in whole] == [4, 5, 6, 7, 8]
    output.unlink()
    partial = tmp_path / "x_0004.jsonl.partial"
    partial.write_text("\n".join(whole[:2]) + "\n" + whole[2][:10])
    asked = []

    def label(row, state):
        asked.append((row, state))
        return counting(row, state)

    fill_shard(output, 4, 9, label)
    # What was whole is kept to the bit, and the chain starts anew behind it.
    assert output.read_text().splitlines()[:2] == whole[:2]
    assert asked == [(6, None), (7, 1), (8, 2)]
    assert [row["value"] for row in read_lines(output)] == [json.loads(line)["value"] for line in whole]
    assert not partial.exists()


def test_a_row_out_of_order_ends_what_is_kept(tmp_path):
    path = tmp_path / "p"
    path.write_text('{"row": 0}\n{"row": 2}\n{"row": 3}\n')
    assert complete_lines(path) == ['{"row": 0}']
    assert complete_lines(path, first=1) == []
    assert complete_lines(tmp_path / "absent") == []


def test_an_interrupted_row_leaves_the_finished_ones(tmp_path):
    output = tmp_path / "x_0000.jsonl"

    def label(row, state):
        if row == 2:
            raise KeyboardInterrupt
        return {"row": row}, None

    with pytest.raises(KeyboardInterrupt):
        fill_shard(output, 0, 4, label)
    assert not output.exists()
    assert complete_lines(tmp_path / "x_0000.jsonl.partial") == ['{"row": 0}', '{"row": 1}']


def test_shards_cover_all_rows():
    assert shard_ranges(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert shard_ranges(0, 4) == []


# ---- geometries ----


def test_systems_survive_writing(tmp_path):
    rng = np.random.default_rng(0)
    system = System("a", np.array([8, 1]), rng.normal(size=(3, 2, 3)), -1, ("x", "y", "z"), {"smiles": "[OH-]"})
    system.write(tmp_path / "a.json")
    again = System.load(tmp_path / "a.json")
    assert np.array_equal(again.positions, system.positions)
    assert (again.name, again.charge, again.tags, again.info) == ("a", -1, system.tags, system.info)
    empty = System("e", np.array([6, 1]), np.zeros((0, 2, 3)))
    empty.write(tmp_path / "e.json")
    assert System.load(tmp_path / "e.json").positions.shape == (0, 2, 3)


def test_broken_geometries_are_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"name": "a", "atomic_numbers": [1], "positions_angstrom": [[1')
    with pytest.raises(InputError, match=r"broken\.json"):
        System.load(path)
    with pytest.raises(InputError, match="2 tags for 1 frames"):
        System("a", np.array([1]), np.zeros((1, 1, 3)), tags=("x", "y"))
    with pytest.raises(InputError, match="shape"):
        System("a", np.array([1]), np.zeros((1, 2, 3)), tags=("x",))


def test_kabsch_undoes_a_rotation():
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(3)
    reference = rng.normal(size=(5, 3))
    moved = reference @ Rotation.from_quat(rng.normal(size=4)).as_matrix() + np.array([1.0, -2.0, 0.3])
    assert np.allclose(kabsch(moved, reference), reference, atol=1e-12)
    # A mirror image is not turned inside out.
    mirrored = kabsch(reference * np.array([1.0, 1.0, -1.0]), reference)
    assert np.abs(mirrored - reference).max() > 0.1


def test_mapped_smiles_give_atoms_in_map_order_and_charge():
    numbers, charge = spice.mapped_atoms("[H:3][C:1]#[C:2][H:4].[Na+:5]")
    assert numbers.tolist() == [6, 6, 1, 1, 11]
    assert charge == 1
    assert spice.mapped_atoms("[C-:1]#[O+:2]")[1] == 0
    with pytest.raises(InputError, match="map numbers"):
        spice.mapped_atoms("[CH4]")
    with pytest.raises(InputError, match="rejects"):
        spice.mapped_atoms("[C:1](")


def test_stored_positions_are_single_precision_in_bohr():
    positions = np.random.default_rng(1).normal(size=(4, 3))
    stored = spice.as_stored(positions)
    assert np.array_equal(spice.as_stored(stored), stored)
    assert np.abs(stored - positions).max() < 1e-6
    assert np.array_equal((stored / BOHR_TO_ANGSTROM).astype(np.float32), (positions / BOHR_TO_ANGSTROM).astype("f4"))


# ---- assembly from synthetic rows ----


def write_system(folder, system, forces=True, parts=False, bad=()):
    """A system with invented labels in two shards; returns the shards and the rows."""
    system.write(folder / "geometries" / f"{system.name}.json")
    rng = np.random.default_rng(len(system.name))
    n = len(system.atomic_numbers)
    rows, shards = [], []
    for row in range(len(system.positions)):
        content = {"row": row, "energy": -70.0 - 0.01 * row, "dipole": rng.normal(size=3).tolist(), "parts": {}}
        content |= {"converged": row not in bad, "seconds": 1.0, "cpu_seconds": 0.5}
        if forces:
            content["forces"] = rng.normal(size=(n, 3)).tolist()
        if parts:
            scf = rng.normal(size=(n, 3))
            content["parts"] = {
                "energy_scf": content["energy"] + 0.002,
                "energy_mbd": -0.002,
                "forces_scf": scf.tolist(),
                "forces_mbd": (np.array(content["forces"]) - scf).tolist(),
                "hirshfeld_ratios": [0.8] * n,
            }
        rows.append(content)
    for first, last in shard_ranges(len(rows), 2):
        path = folder / "shards" / system_shard_name(system.name, first)
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[first:last]))
        shards.append(path)
    return shards, rows


def water(name, n, info, tags=None, charge=0):
    base = np.array([[0.0, 0.0, 0.1], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    noise = np.random.default_rng(5).normal(scale=0.05, size=(n, 3, 3))
    positions = spice.as_stored((base + noise).astype(np.float32))
    return System(name, np.array([8, 1, 1]), positions, charge, tags or tuple(f"d{i}" for i in range(n)), info)


@pytest.fixture
def atoms_table(tmp_path):
    path = tmp_path / "atoms.csv"
    lines = ["level,element,charge,energy_hartree,energy_ev,converged"]
    lines += [f"some level,{e},0,{v},0,True" for e, v in (("H", -0.5), ("C", -37.8), ("O", -75.0))]
    lines.append("some level,H,-1,-0.9,0,True")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_isolated_atoms_are_summed(atoms_table):
    energies = atom_energies(atoms_table, "some level")
    assert sum_of_atoms([8, 1, 1], energies) == pytest.approx(-76.0)
    with pytest.raises(InputError, match="no energy of N"):
        sum_of_atoms([7], energies)
    with pytest.raises(InputError, match="other level"):
        atom_energies(atoms_table, "other level")


def test_missing_rows_are_named(tmp_path):
    system = water("w", 5, {})
    shards, rows = write_system(tmp_path, system)
    assert rows_of_system(system, shards) == rows
    with pytest.raises(InputError, match="w: 4 rows"):
        rows_of_system(system, shards[:-1])


def test_ani1_is_assembled(tmp_path, atoms_table):
    info = {"smiles": "[H]O[H]", "minimum_hartree": -70.05, "molecule": "H2O"}
    systems = [water("gdb11_s01-0", 6, info), water("gdb11_s02-0", 3, info | {"minimum_hartree": -70.0})]
    written = [write_system(tmp_path, system, forces=False, bad=(1,)) for system in systems]
    recipe = {"set": "ani1", "systems": [{"name": s.name} for s in systems], "high_energy_threshold_ev": 0.5}
    shards = [path for paths, _ in written for path in paths]
    ani1.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    first = (tmp_path / ani1.ARCHIVE).read_bytes()
    ani1.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    assert (tmp_path / ani1.ARCHIVE).read_bytes() == first
    # No file name in gzip's header: that of the temporary file would differ from run to run.
    assert first[3] == 0
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(first))) as archive:
        assert archive.getnames() == ["ANI-1_release/ani_gdb_s01.h5", "ANI-1_release/ani_gdb_s02.h5"]
        content = archive.extractfile("ANI-1_release/ani_gdb_s01.h5").read()
        other = archive.extractfile("ANI-1_release/ani_gdb_s02.h5").read()
    with h5py.File(io.BytesIO(content)) as stream:
        group = stream["gdb11_s01/gdb11_s01-0"]
        # 0.05 - 0.01 i hartree above the minimum; row 1 did not converge.
        assert group["energiesHE"][:] == pytest.approx([-70.0, -70.02, -70.03][:3])
        assert group["energies"][:] == pytest.approx([-70.04, -70.05])
        assert np.array_equal(group["coordinates"][:], systems[0].positions[4:].astype(np.float32))
        assert "forces" not in group
    with h5py.File(io.BytesIO(other)) as stream:
        assert "energiesHE" not in stream["gdb11_s02/gdb11_s02-0"]


def test_comp6_stores_gradients(tmp_path, atoms_table):
    system = water("mol00", 4, {})
    shards, rows = write_system(tmp_path, system)
    recipe = {"set": "comp6", "systems": [{"name": "mol00"}], "group": "dimers"}
    comp6.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    with h5py.File(tmp_path / comp6.FILE) as stream:
        group = stream["dimers/mol00"]
        assert np.array_equal(group["forces"][:], -np.array([row["forces"] for row in rows], dtype=np.float32))
        assert group["lot"][0] == b"wb97x/6-31g*"
        assert group["species"][:].tolist() == [b"O", b"H", b"H"]


def test_spice_is_assembled_with_units_and_an_empty_group(tmp_path, atoms_table):
    info = {"smiles": "[O:1]([H:2])[H:3]", "subset": "SPICE DES Monomers Single Points Dataset v1.1", "group": "O"}
    full = water("water", 3, info)
    empty = System("empty", np.array([6]), np.zeros((0, 1, 3)), 0, (), info | {"group": "empty", "smiles": "[C:1]"})
    shards, rows = write_system(tmp_path, full)
    write_system(tmp_path, empty)
    recipe = {"set": "spice", "level": "some level", "systems": [{"name": "water"}, {"name": "empty"}]}
    spice.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    with h5py.File(tmp_path / spice.FILE) as stream:
        group = stream["O"]
        assert group["smiles"].asstr()[0] == info["smiles"]
        assert np.allclose(group["conformations"][:] * BOHR_TO_ANGSTROM, full.positions, atol=1e-6)
        gradient = -np.array([row["forces"] for row in rows]) * BOHR_TO_ANGSTROM
        assert np.allclose(group["dft_total_gradient"][:], gradient, atol=1e-6)
        assert group["formation_energy"][:] == pytest.approx(group["dft_total_energy"][:] + 76.0)
        assert group["dft_total_gradient"].attrs["units"] == "hartree/bohr"
        assert stream["empty/conformations"].shape == (0,)
        assert stream["empty/dft_total_energy"].shape == (0,)


def test_md17_is_assembled_in_kilocalories(tmp_path, atoms_table):
    system = water("ethanol", 3, {})
    shards, rows = write_system(tmp_path, system)
    recipe = {"set": "md17", "systems": [{"name": "ethanol"}]}
    md17.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    with np.load(tmp_path / md17.FILE) as content:
        assert content["E"].shape == (3, 1)
        assert content["E"][:, 0] == pytest.approx([row["energy"] * HARTREE_TO_KCAL_PER_MOL for row in rows])
        assert np.allclose(content["F"], np.array([row["forces"] for row in rows]) * HARTREE_TO_KCAL_PER_MOL)
        assert np.array_equal(content["R"], system.positions)
        assert content["z"].dtype == np.uint8


def test_qm7x_is_assembled_with_a_turned_duplicate(tmp_path, atoms_table):
    info = {"idmol": "7", "file": "1000", "smiles": "O"}
    system = water("w", 3, info, tags=("opt", "d1", "d2"))
    shards, rows = write_system(tmp_path, system, parts=True)
    recipe = {
        "set": "qm7x",
        "level": "some level",
        "displaced": 2,
        "systems": [{"name": "w", "file": "1000"}],
        "duplicate": {"of": "w", "conformer": 2, "rotation_seed": 7},
    }
    qm7x.assemble(recipe, tmp_path / "geometries", shards, atoms_table, tmp_path)
    assert (tmp_path / qm7x.DUPLICATES).read_text() == "Geom-m7-i1-c2-opt\n"
    with h5py.File(io.BytesIO(lzma.decompress((tmp_path / "qm7x-mini-1000.xz").read_bytes()))) as stream:
        assert sorted(stream["7"]) == sorted(f"Geom-m7-i1-c{c}-{u}" for c in (1, 2) for u in ("opt", "d1", "d2"))
        one, two = stream["7/Geom-m7-i1-c1-d1"], stream["7/Geom-m7-i1-c2-d1"]
        assert one["ePBE0+MBD"][0] == pytest.approx(rows[1]["energy"] * HARTREE_TO_EV)
        assert one["eAT"][0] == pytest.approx((rows[1]["parts"]["energy_scf"] + 76.0) * HARTREE_TO_EV)
        assert np.allclose(one["totFOR"][:], np.array(rows[1]["forces"]) * HARTREE_TO_EV)
        assert two["ePBE0+MBD"][0] == one["ePBE0+MBD"][0]
        assert not np.allclose(two["atXYZ"][:], one["atXYZ"][:], atol=0.1)
        # Forces turn with the atoms: the virial stays.
        for key in ("totFOR", "pbe0FOR", "vdwFOR"):
            assert np.vdot(two[key][:], two["atXYZ"][:]) == pytest.approx(np.vdot(one[key][:], one["atXYZ"][:]))


# ---- recipes and shipped files ----


def test_unknown_recipes_are_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("set: other\nlevel: x\nshard_size: 1\nseed: 1\nsystems: []\n")
    with pytest.raises(InputError, match="expected `set`"):
        load_recipe(path)
    with pytest.raises(InputError, match="no system 'absent'"):
        system_entry(recipe_of("spice"), "absent")


@pytest.mark.parametrize("name", SETS)
def test_shipped_geometries_are_those_of_the_recipe(name):
    recipe = recipe_of(name)
    assert recipe["level"] in DFT_LEVELS
    with (RESOURCES / f"{name}-mini" / "rows.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for entry in recipe["systems"]:
        system = System.load(RESOURCES / f"{name}-mini" / "geometries" / f"{entry['name']}.json")
        mine = [row for row in rows if row["system"] == entry["name"]]
        assert len(mine) == len(system.positions) == n_rows(recipe, entry)
        assert [row["sampling"] for row in mine] == list(system.tags)
        assert all(row["converged"] == "True" for row in mine)
    assert {entry["name"] for entry in recipe["systems"]} >= {row["system"] for row in rows}
    assert all((RESOURCES / f"{name}-mini" / file).is_file() for file in builder(recipe).outputs(recipe))


def test_normal_mode_samples_are_drawn_again():
    for name, minima, system in (
        ("ani1", RESOURCES / "ani1x-mini" / "minima", "gdb11_s01-1"),
        ("qm7x", RESOURCES / "qm7x-mini" / "minima", "formaldehyde"),
    ):
        recipe = recipe_of(name)
        made = builder(recipe).make_system(recipe, system, minima)
        shipped = System.load(RESOURCES / f"{name}-mini" / "geometries" / f"{system}.json")
        assert np.allclose(made.positions, shipped.positions, atol=2e-6, rtol=0)


@pytest.fixture(scope="module")
def shipped_ani1():
    content = {}
    with tarfile.open(RESOURCES / "ani1-mini" / ani1.ARCHIVE) as archive:
        for member in archive:
            with h5py.File(io.BytesIO(archive.extractfile(member).read())) as stream:
                for top in stream:
                    for name, group in stream[top].items():
                        content[name] = (member.name, top, {key: group[key][:] for key in group})
    return content


def test_shipped_ani1(shipped_ani1):
    recipe = recipe_of("ani1")
    compositions = []
    n_low = n_high = 0
    for name, (member, top, group) in shipped_ani1.items():
        assert member == f"ANI-1_release/ani_gdb_{top.removeprefix('gdb11_')}.h5"
        assert name.startswith(f"{top}-")
        assert group["coordinates"].dtype == np.float32
        assert group["energies"].dtype == np.float64
        assert group["species"].dtype == np.dtype("S1") == group["smiles"].dtype
        heavy = sum(symbol != b"H" for symbol in group["species"])
        assert top == f"gdb11_s{heavy:02d}"
        assert b"".join(group["smiles"]).decode() == system_entry(recipe, name)["smiles"]
        compositions.append([int(np.sum(group["species"] == symbol)) for symbol in (b"H", b"C", b"N", b"O")])
        n_low += len(group["energies"])
        n_high += len(group.get("energiesHE", []))
        if "energiesHE" in group:
            assert group["energiesHE"].min() > group["energies"].max()
            assert group["coordinatesHE"].shape[1:] == group["coordinates"].shape[1:]
    assert np.linalg.matrix_rank(compositions) == 4
    assert n_low >= 300
    assert n_high >= 20


@pytest.fixture(scope="module")
def shipped_comp6():
    with h5py.File(RESOURCES / "comp6-mini" / comp6.FILE) as stream:
        return {name: {key: group[key][:] for key in group} for name, group in stream["dimers"].items()}


def test_shipped_comp6(shipped_comp6):
    assert len(shipped_comp6) >= 12
    for group in shipped_comp6.values():
        assert group["coordinates"].shape == (8, len(group["species"]), 3)
        assert (group["coordinates"].dtype, group["forces"].dtype) == (np.float32, np.float32)
        assert (group["energies"].dtype, group["species"].dtype) == (np.float64, np.dtype("S1"))
        assert group["lot"].dtype == np.dtype("S12")
        # The gradients of an isolated system have no sum.
        assert np.abs(group["forces"].sum(axis=1)).max() < 2e-4


def test_shipped_comp6_gradients_are_the_slope_along_the_separation(shipped_comp6):
    """Neighbouring separations: the energy changes by the stored gradient times the displacement."""
    change, work = [], []
    for group in shipped_comp6.values():
        x, g, e = (group[key].astype(float) for key in ("coordinates", "forces", "energies"))
        for i in range(4):
            change.append(e[i + 1] - e[i])
            work.append(0.5 * np.vdot(g[i] + g[i + 1], x[i + 1] - x[i]))
    assert np.corrcoef(work, change)[0, 1] > 0.98
    assert np.polyfit(work, change, 1)[0] == pytest.approx(1.0, abs=0.15)


@pytest.fixture(scope="module")
def shipped_spice():
    with h5py.File(RESOURCES / "spice-mini" / spice.FILE) as stream:
        return {
            name: {
                key: (group[key].asstr()[0] if key in ("smiles", "subset") else group[key][:], dict(group[key].attrs))
                for key in group
            }
            for name, group in stream.items()
        }


SPICE_UNITS = {
    "conformations": "bohr",
    "dft_total_energy": "hartree",
    "dft_total_gradient": "hartree/bohr",
    "formation_energy": "hartree",
    "scf_dipole": "elementary_charge*bohr",
}
SPICE_TYPES = {
    "conformations": np.float32,
    "dft_total_energy": np.float64,
    "dft_total_gradient": np.float32,
    "formation_energy": np.float64,
    "scf_dipole": np.float32,
    "atomic_numbers": np.int16,
}


def test_shipped_spice(shipped_spice):
    empty = []
    charges, elements = {}, {}
    for name, group in shipped_spice.items():
        numbers, charges[name] = spice.mapped_atoms(group["smiles"][0])
        assert numbers.tolist() == group["atomic_numbers"][0].tolist()
        elements[name] = set(numbers.tolist())
        for key, unit in SPICE_UNITS.items():
            assert group[key][1] == {"units": unit}
        for key, kind in SPICE_TYPES.items():
            assert group[key][0].dtype == kind
        if group["conformations"][0].ndim < 3:
            empty.append(name)
            continue
        shape = group["conformations"][0].shape
        assert shape == group["dft_total_gradient"][0].shape
        assert shape[1:] == (len(numbers), 3)
        # Bound against neutral atoms, also the ions (an electron gained or lost costs less than the bonds give).
        assert (group["formation_energy"][0] < 0).all() or charges[name] != 0
    assert len(empty) == 1
    kept = {name for name in shipped_spice if charges[name] == 0 and elements[name] <= {1, 6, 7, 8, 16}}
    removed = set(shipped_spice) - kept
    assert len(kept - set(empty)) >= 10
    assert {charges[name] for name in removed} == {-1, 0, 1}
    assert any(charges[name] == 0 and 17 in elements[name] and 11 in elements[name] for name in removed)
    assert any(16 in elements[name] for name in kept)
    prefixes = ("SPICE PubChem", "SPICE DES Monomers", "SPICE DES370K", "SPICE Ion Pairs")
    for prefix in prefixes:
        assert any(group["subset"][0].startswith(prefix) for group in shipped_spice.values())


def test_shipped_spice_has_crushed_bonds_below_the_published_cut(shipped_spice):
    """Two frames lie between a sensible cut (25 eV/Å) and that of the published files (1 hartree/bohr)."""
    largest = {
        name: np.abs(group["dft_total_gradient"][0]).max(axis=(1, 2)) * ATOMIC_UNIT_OF_FORCE
        for name, group in shipped_spice.items()
        if group["dft_total_gradient"][0].size
    }
    beyond = {name: int((values > 25.0).sum()) for name, values in largest.items() if (values > 25.0).any()}
    assert beyond == {"103147002": 2}
    assert max(values.max() for values in largest.values()) < ATOMIC_UNIT_OF_FORCE


def work_and_change(x, forces, e, pairs):
    """Work of the mean force, and energy difference, between frames."""
    change = np.array([e[j] - e[i] for i, j in pairs])
    work = np.array([-0.5 * np.vdot(forces[i] + forces[j], x[j] - x[i]) for i, j in pairs])
    return work, change


def nearest_pairs(x):
    """Each frame with the one most like it."""
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=(2, 3)))
    np.fill_diagonal(distance, np.inf)
    return [(i, int(distance[i].argmin())) for i in range(len(x))]


def test_shipped_spice_gradients_have_sign_and_unit_of_their_name(shipped_spice):
    work, change = [], []
    for name, group in shipped_spice.items():
        x, g, e = (group[k][0].astype(float) for k in ("conformations", "dft_total_gradient", "dft_total_energy"))
        # Crushed bonds would outweigh all others.
        if x.ndim == 3 and name != "103147002":
            w, c = work_and_change(x, -g, e, nearest_pairs(x))
            work += w.tolist()
            change += c.tolist()
    assert np.corrcoef(work, change)[0, 1] > 0.95
    assert np.polyfit(work, change, 1)[0] == pytest.approx(1.0, abs=0.1)


@pytest.fixture(scope="module")
def shipped_qm7x():
    content = {}
    for path in sorted((RESOURCES / "qm7x-mini").glob("*.xz")):
        with h5py.File(io.BytesIO(lzma.decompress(path.read_bytes()))) as stream:
            for idmol, molecule in stream.items():
                for idconf, group in molecule.items():
                    content[idconf] = (path.name, idmol, {key: group[key][:] for key in group})
    return content


def test_shipped_qm7x(shipped_qm7x):
    listed = (RESOURCES / "qm7x-mini" / qm7x.DUPLICATES).read_text().split()
    assert len(listed) == 1
    equilibria = [name for name in shipped_qm7x if name.endswith("-opt")]
    assert listed[0] in equilibria
    assert len(equilibria) >= 7
    assert len({shipped_qm7x[name][1] for name in equilibria}) >= 6
    assert {shipped_qm7x[name][0] for name in equilibria} == {"qm7x-mini-1000.xz", "qm7x-mini-2000.xz"}
    elements = set()
    for name in equilibria:
        stem = name.removesuffix("opt")
        assert all(f"{stem}d{i}" in shipped_qm7x for i in range(1, 101))
        elements |= set(shipped_qm7x[name][2]["atNUM"].tolist())
        # A minimum of PBE0, so that only the dispersion forces are left.
        assert np.abs(shipped_qm7x[name][2]["pbe0FOR"]).max() < 0.01
    assert len(shipped_qm7x) == 101 * len(equilibria)
    assert elements == {1, 6, 7, 8, 16, 17}


def test_shipped_qm7x_parts_add_up(shipped_qm7x):
    atoms = atom_energies(ATOMS, "pbe0+mbd/def2-svp")
    for idconf, (_, idmol, group) in shipped_qm7x.items():
        assert idconf.startswith(f"Geom-m{idmol}-i1-c")
        n = len(group["atNUM"])
        assert group["ePBE0+MBD"].shape == (1,)
        assert group["ePBE0+MBD"][0] == pytest.approx(group["ePBE0"][0] + group["eMBD"][0], abs=1e-9)
        assert np.allclose(group["totFOR"], group["pbe0FOR"] + group["vdwFOR"], atol=1e-9)
        assert group["atXYZ"].shape == group["totFOR"].shape == (n, 3)
        assert group["hRAT"].shape == (n,)
        assert (group["hRAT"] > 0.3).all() and (group["hRAT"] < 1.3).all()
        assert group["eMBD"][0] < 0
        expected = group["ePBE0"][0] - sum_of_atoms(group["atNUM"], atoms) * HARTREE_TO_EV
        assert group["eAT"][0] == pytest.approx(expected, abs=1e-6)
        assert np.abs(group["totFOR"].sum(axis=0)).max() < 0.02


def test_shipped_qm7x_duplicate_is_a_turned_copy(shipped_qm7x):
    listed = (RESOURCES / "qm7x-mini" / qm7x.DUPLICATES).read_text().strip()
    for suffix in ("opt", "d1", "d57"):
        copy = shipped_qm7x[listed.replace("opt", suffix)][2]
        original = shipped_qm7x[listed.replace("-c2-opt", f"-c1-{suffix}")][2]
        assert copy["ePBE0+MBD"][0] == original["ePBE0+MBD"][0]
        distances = [np.linalg.norm(g["atXYZ"][:, None] - g["atXYZ"][None], axis=-1) for g in (copy, original)]
        assert np.allclose(*distances, atol=1e-9)
        assert not np.allclose(copy["atXYZ"], original["atXYZ"], atol=0.1)
        assert np.vdot(copy["totFOR"], copy["atXYZ"]) == pytest.approx(np.vdot(original["totFOR"], original["atXYZ"]))


def test_shipped_qm7x_total_forces_belong_to_the_total_energies(shipped_qm7x):
    """From the minimum to a displaced structure and between displaced ones."""
    work, change = [], []
    for name in (n for n in shipped_qm7x if n.endswith("c1-opt")):
        groups = [shipped_qm7x[name.replace("opt", u)][2] for u in ("opt", *(f"d{i}" for i in range(1, 101)))]
        x, f = (np.array([g[key] for g in groups]) for key in ("atXYZ", "totFOR"))
        e = np.array([g["ePBE0+MBD"][0] for g in groups])
        w, c = work_and_change(x, f, e, [(0, i) for i in range(1, 101)])
        work += w.tolist()
        change += c.tolist()
    assert np.corrcoef(work, change)[0, 1] > 0.9
    assert np.polyfit(work, change, 1)[0] == pytest.approx(1.0, abs=0.25)


@pytest.fixture(scope="module")
def shipped_md17():
    with np.load(RESOURCES / "md17-mini" / md17.FILE) as content:
        return {key: content[key] for key in content.files}


def test_shipped_md17(shipped_md17):
    n = len(shipped_md17["E"])
    assert n >= 150
    assert shipped_md17["E"].shape == (n, 1)
    assert shipped_md17["F"].shape == shipped_md17["R"].shape == (n, 9, 3)
    assert shipped_md17["z"].tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    assert shipped_md17["z"].dtype == np.uint8
    assert {shipped_md17[key].dtype for key in "EFR"} == {np.dtype(np.float64)}
    assert shipped_md17["md5"].item() == md17.fingerprint(shipped_md17)
    assert np.abs(shipped_md17["F"].sum(axis=1)).max() < 0.5
    # A trajectory at 500 K, not a minimum and its rattled copies: about 3N-6 times kT/2 of potential energy spread.
    assert 1.0 < shipped_md17["E"].std() < 10.0


@pytest.mark.parametrize(
    ("dataset", "module"), [("md17_ethanol_mini", "md17"), ("qm7x_mini", "qm7x"), ("spice_mini", "spice")]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shipped_files_pass_the_check_of_forces(dataset, module, sign):
    """As the store is built: energies change by the work of the forces; turned forces are noticed."""
    entry = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text())[dataset]
    reader = importlib.import_module(f"mlip_studies.data.readers.{module}")
    check = ForceCheck()
    for file in entry["files"]:
        if file.get("role", "data") == "data":
            for block in reader.read(ROOT / file["path"], entry):
                check.add(dataclasses.replace(block, forces={k: sign * v for k, v in block.forces.items()}))
    if sign > 0:
        # Further energies in a file may have no forces of their own.
        (report,) = (found for found in check.result(dataset).values() if found["verdict"] != "no forces")
        assert report["verdict"] == "verified"
        assert report["correlation"] > 0.95
        assert report["slope"] == pytest.approx(1.0, abs=0.1)
    else:
        with pytest.raises(InputError):
            check.result(dataset)


def test_md17_fingerprint_is_the_published_recipe():
    arrays = {"z": np.array([1, 1], dtype=np.uint8), "R": np.ones((1, 2, 3)), "E": np.zeros((1, 1))}
    arrays["F"] = np.zeros((1, 2, 3))
    digest = hashlib.md5(b"".join(hashlib.md5(arrays[key].tobytes()).digest() for key in "zREF")).hexdigest()
    assert md17.fingerprint(arrays) == digest.encode()


def test_shipped_atoms_cover_every_level():
    for name, elements in (
        ("wb97x/6-31g(d)", "H C N O"),
        ("wb97m-d3(bj)/def2-tzvppd", "H C N O F Na S Cl"),
        ("pbe0+mbd/def2-svp", "H C N O S Cl"),
        ("pbe-d3(bj)/def2-svp", "H C O"),
    ):
        assert set(atom_energies(ATOMS, name)) == set(elements.split())
    published = {"H": -0.4993212, "C": -37.8338334, "N": -54.5732825, "O": -75.0424519}
    ours = atom_energies(ATOMS, "wb97x/6-31g(d)")
    for element, energy in published.items():
        assert ours[element] == pytest.approx(energy, abs=2e-3)


# ---- labels computed again ----


def rebuild(name, system_name, row, forces=True):
    """Label a shipped geometry again, from a cold start; returns the result and the geometry."""
    system = System.load(RESOURCES / f"{name}-mini" / "geometries" / f"{system_name}.json")
    level = DFT_LEVELS[recipe_of(name)["level"]]
    result, _ = run_dft(system.atomic_numbers, system.positions[row], level, charge=system.charge, forces=forces)
    assert result.converged
    return result, system


def test_an_ani1_row_is_rebuilt(shipped_ani1):
    result, system = rebuild("ani1", "gdb11_s01-2", 1, forces=False)
    group = shipped_ani1["gdb11_s01-2"][2]
    (row,) = np.flatnonzero((group["coordinates"] == system.positions[1].astype(np.float32)).all(axis=(1, 2)))
    assert result.energy == pytest.approx(group["energies"][row], abs=1e-7)


def test_a_spice_row_is_rebuilt(shipped_spice):
    result, _ = rebuild("spice", "hydroxide", 0)
    group = shipped_spice["[OH-]"]
    assert result.energy == pytest.approx(group["dft_total_energy"][0][0], abs=1e-7)
    assert np.allclose(-result.forces * BOHR_TO_ANGSTROM, group["dft_total_gradient"][0][0], atol=1e-5)


def test_a_qm7x_row_is_rebuilt(shipped_qm7x):
    result, _ = rebuild("qm7x", "acetylene", 3)
    group = shipped_qm7x["Geom-m4-i1-c1-d3"][2]
    assert result.energy * HARTREE_TO_EV == pytest.approx(group["ePBE0+MBD"][0], abs=1e-5)
    assert np.allclose(result.forces * HARTREE_TO_EV, group["totFOR"], atol=1e-3)


@pytest.mark.slow
def test_more_rows_are_rebuilt(shipped_comp6, shipped_md17):
    result, _ = rebuild("comp6", "mol07", 2)
    assert result.energy == pytest.approx(shipped_comp6["mol07"]["energies"][2], abs=1e-7)
    assert np.allclose(-result.forces, shipped_comp6["mol07"]["forces"][2], atol=2e-5)
    result, _ = rebuild("md17", "ethanol", 5)
    assert result.energy * HARTREE_TO_KCAL_PER_MOL == pytest.approx(shipped_md17["E"][5, 0], abs=1e-4)


@pytest.mark.slow
def test_trajectories_and_dimers_are_made_again():
    """GFN2-xTB geometries from scratch: the same start of a short trajectory, and dimers at the same distances."""
    recipe = recipe_of("spice")
    made = spice.make_system(recipe, "hydroxide", Path())
    shipped = System.load(RESOURCES / "spice-mini" / "geometries" / "hydroxide.json")
    assert np.allclose(made.positions[0], shipped.positions[0], atol=1e-3)
    recipe = recipe_of("comp6")
    made = comp6.make_system(recipe, "mol08", Path())
    split = made.info["atoms_of_first"]
    base = made.info["centroid_distance_angstrom"]
    for factor, frame in zip(recipe["factors"], made.positions, strict=True):
        distance = np.linalg.norm(frame[split:].mean(axis=0) - frame[:split].mean(axis=0))
        assert distance == pytest.approx(factor * base, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "system_name", "row"),
    [("spice", "water", 1), ("comp6", "mol00", 2), ("qm7x", "formaldehyde", 5), ("md17", "ethanol", 0)],
)
def test_forces_are_the_slope_of_the_energy(name, system_name, row):
    """Central differences along a random direction, at one geometry per level."""
    result, system = rebuild(name, system_name, row)
    level = DFT_LEVELS[recipe_of(name)["level"]]
    direction = np.random.default_rng(11).normal(size=system.positions[row].shape)
    direction /= np.linalg.norm(direction)
    step = 0.004
    energies = [
        run_dft(system.atomic_numbers, system.positions[row] + sign * step * direction, level, forces=False)[0].energy
        for sign in (1, -1)
    ]
    slope = -(energies[0] - energies[1]) / (2 * step)
    # hartree/Å; forces of many-body dispersion lack the response of the Hirshfeld ratios.
    assert np.vdot(result.forces, direction) == pytest.approx(slope, abs=2e-4)
