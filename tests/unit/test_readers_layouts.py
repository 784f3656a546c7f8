"""Readers of every published layout: units, signs, options, and every way in which a file can be bad.

The numbers are those of molecules held together by springs, so that energies, forces and geometries belong together.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest

from mlip_studies.artifacts import host_name
from mlip_studies.data.readers import ConfigurationIds, archives, get_reader, hdf5_index
from mlip_studies.data.readers.qm7x import ConfigurationId, parse_id
from mlip_studies.data.readers.rmd17 import official_split
from mlip_studies.errors import InputError
from mlip_studies.units import (
    BOHR_TO_ANGSTROM,
    HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    HARTREE_TO_EV,
    KCAL_PER_MOL_TO_EV,
)

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
METHANE = (
    [6, 1, 1, 1, 1],
    [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
)
HYDROGEN_SULFIDE = ([16, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.97, -0.82], [0.0, -0.97, -0.82]])
ATOM_EV = {1: -13.6, 6: -1030.0, 7: -1486.0, 8: -2043.0, 16: -10831.0}


def springs(molecule, n: int, seed: int = 0, spread: float = 0.05):
    """Frames of a molecule with a spring between any two atoms, each turned at random.

    Returns:
        atomic numbers, positions in Å, energies in eV, forces in eV/Å.
    """
    rng = np.random.default_rng(seed)
    z, center = np.array(molecule[0]), np.array(molecule[1])
    turn = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    turn[:, :, 0] *= np.sign(np.linalg.det(turn))[:, None]
    positions = (center + spread * rng.normal(size=(n, len(z), 3))) @ turn
    i, j = np.triu_indices(len(z), 1)
    difference = positions[:, i] - positions[:, j]
    distance = np.linalg.norm(difference, axis=-1)
    stretch = distance - np.linalg.norm(center[i] - center[j], axis=-1)
    energies = sum(ATOM_EV[int(number)] for number in z) + 0.5 * 30.0 * (stretch**2).sum(axis=1)
    pull = -30.0 * (stretch / distance)[..., None] * difference
    forces = np.zeros_like(positions)
    for k, (a, b) in enumerate(zip(i, j, strict=True)):
        forces[:, a] += pull[:, k]
        forces[:, b] -= pull[:, k]
    return z, positions, energies, forces


def entry(reader: str, **changes) -> dict:
    """A data set's entry with the published keys and units."""
    kinds = {
        "spice": ("dft_total_energy", "dft_total_gradient", "hartree", "bohr"),
        "qm7x": ("ePBE0+MBD", "totFOR", "eV", "angstrom"),
        "ani1": ("energies", None, "hartree", "angstrom"),
        "ani1x": ("wb97x_dz.energy", "wb97x_dz.forces", "hartree", "angstrom"),
        "comp6": ("energies", "forces", "hartree", "angstrom"),
        "md17": ("E", "F", "kcal/mol", "angstrom"),
        "rmd17": ("energies", "forces", "kcal/mol", "angstrom"),
        "extxyz": ("energy", "forces", "eV", "angstrom"),
    }
    energy, forces, energy_unit, length = kinds[reader]
    keys = {"energy": energy} | ({"forces": forces} if forces else {})
    return {
        "reader": reader,
        "fidelities": {"level": keys},
        "units": {"energy": energy_unit, "length": length},
    } | changes


SMILES = {"water": "[O:1]([H:2])[H:3]", "sulfide": "[S:1]([H:2])[H:3]", "methane": "[C:1]([H:2])([H:3])([H:4])[H:5]"}


def write_spice(path: Path, n: int = 6) -> Path:
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        for name, molecule, seed in (("sulfide", HYDROGEN_SULFIDE, 1), ("water", WATER, 2)):
            z, positions, energies, forces = springs(molecule, n, seed)
            group = file.create_group(name)
            group.create_dataset("subset", data=["SPICE PubChem Set 1 Single Points Dataset v1.2"], dtype=text)
            group.create_dataset("smiles", data=[SMILES[name]], dtype=text)
            group["atomic_numbers"] = z.astype(np.int16)
            group["conformations"] = (positions / BOHR_TO_ANGSTROM).astype(np.float32)
            group["dft_total_energy"] = energies / HARTREE_TO_EV
            group["dft_total_gradient"] = (-forces / HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM).astype(np.float32)
            for key, unit in (
                ("conformations", "bohr"),
                ("dft_total_energy", "hartree"),
                ("dft_total_gradient", "hartree/bohr"),
            ):
                group[key].attrs["units"] = unit
    return path


def write_qm7x_hdf5(path: Path, n: int = 4, libver: str = "earliest", more: int = 3) -> Path:
    """Molecules 1 and 20; water has two conformers and, in the second one, its atoms in another order."""
    rng = np.random.default_rng(7)
    with h5py.File(path, "w", libver=libver) as file:
        for molecule, (number, conformers) in ((WATER, (20, 2)), (HYDROGEN_SULFIDE, (1, 1))):
            for conformer in range(1, conformers + 1):
                z, positions, energies, forces = springs(molecule, n + 1, seed=10 * number + conformer)
                order = [0, 1, 2] if conformer == 1 else [1, 0, 2]
                for frame in range(n + 1):
                    group = file.create_group(
                        f"{number}/Geom-m{number}-i1-c{conformer}-{f'd{frame}' if frame else 'opt'}"
                    )
                    group["atNUM"] = z[order]
                    group["atXYZ"] = positions[frame, order]
                    group["ePBE0+MBD"] = energies[frame : frame + 1]
                    group["totFOR"] = forces[frame, order]
                    for extra in range(more):
                        group[f"h{extra}"] = rng.normal(size=len(z))
    return path


def write_qm7x(path: Path, **options) -> Path:
    bare = write_qm7x_hdf5(path.with_suffix(".hdf5"), **options)
    path.write_bytes(lzma.compress(bare.read_bytes()))
    bare.unlink()
    return path


def write_ani1_member(path: Path, number: int = 1, n: int = 6, high: int = 2) -> Path:
    with h5py.File(path, "w") as file:
        for index, molecule in enumerate((METHANE, WATER)):
            z, positions, energies, _ = springs(molecule, n + high, seed=number)
            group = file.create_group(f"gdb11_s0{number}/gdb11_s0{number}-{index}")
            group["coordinates"] = positions[:n].astype(np.float32)
            group["energies"] = energies[:n] / HARTREE_TO_EV
            group["species"] = np.array([ase.data.chemical_symbols[k] for k in z], dtype="S1")
            group["smiles"] = np.array(list("[H]O[H]"), dtype="S1")
            group["coordinatesHE"] = positions[n:].astype(np.float32)
            group["energiesHE"] = energies[n:] / HARTREE_TO_EV + 1.0
    return path


def write_ani1(path: Path, numbers=(1, 2), mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        note = tarfile.TarInfo("ANI-1_release/README")
        note.size = 5
        archive.addfile(note, io.BytesIO(b"notes"))
        for position, number in enumerate(numbers):
            member = write_ani1_member(path.with_name("member.h5"), number)
            archive.add(member, f"ANI-1_release/ani_gdb_s0{position + 1}.h5")
            member.unlink()
    return path


def write_comp6(path: Path, n: int = 6) -> Path:
    with h5py.File(path, "w") as file:
        for index, molecule in enumerate((WATER, METHANE)):
            z, positions, energies, forces = springs(molecule, n, seed=index)
            group = file.create_group(f"set/mol{index:02d}")
            group["coordinates"] = positions.astype(np.float32)
            group["energies"] = energies / HARTREE_TO_EV
            group["forces"] = (-forces / HARTREE_TO_EV).astype(np.float32)
            group["species"] = np.array([ase.data.chemical_symbols[k] for k in z], dtype="S1")
    return path


def write_ani1x(path: Path, n: int = 6) -> Path:
    with h5py.File(path, "w") as file:
        for name, molecule in (("C1H4", METHANE), ("H2O1", WATER)):
            z, positions, energies, forces = springs(molecule, n, seed=len(name))
            group = file.create_group(name)
            group["atomic_numbers"] = z.astype(np.uint8)
            group["coordinates"] = positions.astype(np.float32)
            group["wb97x_dz.energy"] = energies / HARTREE_TO_EV
            group["wb97x_dz.forces"] = (forces / HARTREE_TO_EV).astype(np.float32)
    return path


def write_rmd17(path: Path, n: int = 9, **changes) -> Path:
    z, positions, energies, forces = springs(WATER, n)
    arrays = {
        "nuclear_charges": z.astype(np.uint8),
        "coords": positions,
        "energies": energies / KCAL_PER_MOL_TO_EV,
        "forces": forces / KCAL_PER_MOL_TO_EV,
        "old_indices": np.arange(n)[::-1] * 7,
        "old_energies": energies / KCAL_PER_MOL_TO_EV + 1.0,
        "old_forces": forces / KCAL_PER_MOL_TO_EV,
    } | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def write_md17(path: Path, n: int = 9) -> Path:
    z, positions, energies, forces = springs(WATER, n)
    np.savez(path, z=z, R=positions, E=energies[:, None] / KCAL_PER_MOL_TO_EV, F=forces / KCAL_PER_MOL_TO_EV)
    return path


def write_extxyz(path: Path, n: int = 6) -> Path:
    frames = []
    for pair in zip(*(frames_of(molecule, n) for molecule in (WATER, METHANE)), strict=True):
        frames.extend(pair)
    ase.io.write(path, frames, format="extxyz")
    return path


def frames_of(molecule, n: int) -> list[ase.Atoms]:
    z, positions, energies, forces = springs(molecule, n)
    frames = []
    for frame in range(n):
        atoms = ase.Atoms(z, positions[frame], info={"REF_energy": float(energies[frame]), "charge": 0, "set": "a"})
        atoms.arrays["REF_forces"] = forces[frame]
        frames.append(atoms)
    return frames


def xyz_entry(**options) -> dict:
    keys = {"energy": "REF_energy", "forces": "REF_forces"}
    return entry("extxyz", fidelities={"level": keys}, reader_options=options)


def read(reader: str, path: Path, block_rows: int = 16384, **changes):
    return list(get_reader(reader).load()(path, entry(reader, **changes), block_rows))


def fails(reader: str, path: Path, *fragments: str, **changes) -> None:
    """Reading ends with one line that names the file and holds the fragments."""
    with pytest.raises(InputError) as caught:
        read(reader, path, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message


def edit(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replace(file: h5py.File, key: str, values, **options) -> None:
    del file[key]
    file.create_dataset(key, data=values, **options)


@pytest.fixture
def scratch(tmp_path) -> Path:
    """A folder for temporary files, which must be empty afterwards."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def published() -> Path:
    folder = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set: no published data to read")
    return Path(folder)


def check(block, molecule, n: int, seed: int, dtype=np.float32, order=slice(None), frames=slice(None)) -> None:
    """The block holds the frames of ``springs`` in eV, Å and eV/Å."""
    z, positions, energies, forces = springs(molecule, n, seed)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    assert block.positions.dtype == dtype and block.atomic_numbers.dtype == np.uint8
    np.testing.assert_array_equal(block.atomic_numbers, z[order])
    np.testing.assert_allclose(block.positions, positions[frames][:, order], atol=tolerance)
    np.testing.assert_allclose(block.energies["level"], energies[frames], rtol=1e-13)
    if block.forces:
        np.testing.assert_allclose(block.forces["level"], forces[frames][:, order], atol=10 * tolerance)


# ---- SPICE ----


def test_spice_turns_gradients_into_forces_in_ev_per_angstrom(tmp_path):
    sulfide, water = read("spice", write_spice(tmp_path / "s.hdf5"))
    check(sulfide, HYDROGEN_SULFIDE, 6, 1)
    check(water, WATER, 6, 2)
    assert water.info == {"smiles": SMILES["water"], "subset": "SPICE PubChem Set 1 Single Points Dataset v1.2"}
    assert (sulfide.group, water.group) == ("sulfide", "water")
    assert [block.source_rows.tolist() for block in (sulfide, water)] == [list(range(6)), list(range(6, 12))]
    blocks = read("spice", tmp_path / "s.hdf5", block_rows=4)
    assert [len(block) for block in blocks] == [4, 2, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b.positions for b in blocks[2:]]), water.positions)


@pytest.mark.parametrize("shape", [(0,), (0, 3, 3)])
def test_spice_groups_without_conformations_are_counted(tmp_path, shape):
    def change(file):
        replace(file, "sulfide/conformations", np.zeros(shape, np.float32))
        replace(file, "sulfide/dft_total_energy", np.zeros(0))
        replace(file, "sulfide/dft_total_gradient", np.zeros(shape, np.float32))

    blocks = read("spice", edit(write_spice(tmp_path / "s.hdf5"), change))
    assert [(block.group, len(block)) for block in blocks] == [("sulfide", 0), ("water", 6)]
    assert blocks[0].positions.shape == (0, 3, 3) and blocks[0].info["smiles"] == SMILES["sulfide"]
    assert blocks[1].source_rows.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("key", "unit", "expected"),
    [
        ("conformations", "angstrom", "'bohr'"),
        ("dft_total_energy", "kcal/mol", "'hartree'"),
        ("dft_total_gradient", "hartree/angstrom", "'hartree/bohr'"),
    ],
)
def test_spice_units_must_be_the_same_in_every_group(tmp_path, key, unit, expected):
    def change(file):
        file[f"water/{key}"].attrs["units"] = unit

    path = edit(write_spice(tmp_path / "s.hdf5"), change)
    fails("spice", path, f"s.hdf5: group water: {key}: its units attribute says {unit!r}, expected {expected}")

    def remove(file):
        del file[f"water/{key}"].attrs["units"]

    assert len(read("spice", edit(path, remove))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["water/dft_total_energy"].write_direct(np.full(6, np.nan)), "row 6: energy level is NaN"),
        (lambda f: f["water/dft_total_gradient"].__setitem__(2, np.nan), "row 8: forces level is NaN"),
        (lambda f: f["water/dft_total_gradient"].__setitem__((2, 0, 0), np.inf), "row 8: forces level are infinite"),
        (lambda f: f["water/conformations"].__setitem__((1, 1, 1), np.nan), "row 7: coordinates are NaN"),
        (lambda f: f.__delitem__("water/smiles"), "key 'smiles' is missing"),
        (lambda f: f.__delitem__("water/dft_total_gradient"), "key 'dft_total_gradient' is missing"),
        (lambda f: replace(f, "water/smiles", ["a", "b"], dtype=h5py.string_dtype()), "smiles holds 2 texts"),
        (lambda f: replace(f, "water/smiles", [1.0]), "smiles: expected text"),
        (lambda f: replace(f, "water/atomic_numbers", [8.0, 1.0, 1.0]), "atomic_numbers has shape"),
        (lambda f: replace(f, "water/conformations", np.zeros((6, 4, 3))), "conformations: shape (6, 4, 3)"),
        (lambda f: replace(f, "water/dft_total_energy", np.zeros(5)), "dft_total_energy: shape (5,), expected (6,)"),
        (lambda f: replace(f, "water/dft_total_energy", ["x"] * 6), "dft_total_energy: expected plain numbers"),
    ],
)
def test_bad_spice_groups(tmp_path, change, message):
    fails("spice", edit(write_spice(tmp_path / "s.hdf5"), change), "s.hdf5: group water", message)


def test_chunks_that_were_never_written_are_not_read_as_zeros(tmp_path):
    def change(file):
        del file["water/dft_total_energy"]
        file.create_dataset("water/dft_total_energy", shape=(6,), chunks=(2,), dtype="f8")

    fails("spice", edit(write_spice(tmp_path / "s.hdf5"), change), "dft_total_energy: shape (6,) needs 48 bytes")


def test_published_spice(published):
    path = published / "spice" / "SPICE-1.1.4_n2.hdf5"
    blocks = read("spice", path)
    assert {block.group: len(block) for block in blocks} == {"103147721": 50, "C#C.[Na+]": 5}
    with h5py.File(path) as file:
        for block in blocks:
            gradient = file[block.group]["dft_total_gradient"][:].astype(np.float64)
            expected = -gradient * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
            np.testing.assert_allclose(block.forces["level"], expected, rtol=1e-6)
            np.testing.assert_allclose(
                block.energies["level"], file[block.group]["dft_total_energy"][:] * HARTREE_TO_EV
            )


# ---- QM7-X ----


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_qm7x_puts_the_conformations_of_a_molecule_together(tmp_path, scratch, libver):
    blocks = read("qm7x", write_qm7x(tmp_path / "1000.xz", libver=libver), scratch=str(scratch))
    assert [(block.group, len(block)) for block in blocks] == [("1", 5), ("20", 5), ("20", 5)]
    check(blocks[0], HYDROGEN_SULFIDE, 5, 11)
    check(blocks[1], WATER, 5, 201)
    check(blocks[2], WATER, 5, 202, order=[1, 0, 2])
    assert blocks[2].columns["conformer"].tolist() == [2] * 5
    assert blocks[2].columns["isomer"].tolist() == [1] * 5
    assert blocks[2].columns["displacement"].tolist() == [0, 1, 2, 3, 4]
    assert np.concatenate([block.source_rows for block in blocks]).tolist() == list(range(15))
    cut = read("qm7x", tmp_path / "1000.xz", block_rows=3, scratch=str(scratch))
    assert [len(block) for block in cut] == [3, 2, 3, 2, 3, 2]
    np.testing.assert_array_equal(np.concatenate([b.forces["level"] for b in cut[:2]]), blocks[0].forces["level"])


def test_the_index_is_used_and_agrees_with_the_library(tmp_path, monkeypatch):
    path = write_qm7x_hdf5(tmp_path / "a.hdf5", n=12, more=40)
    asked: Counter[bool] = Counter()
    arrays = hdf5_index.Index.arrays

    def counting(self, *arguments):
        result = arrays(self, *arguments)
        asked[result is not None] += 1
        return result

    monkeypatch.setattr(hdf5_index.Index, "arrays", counting)
    fast = read("qm7x", path)
    assert asked == {True: 39}
    monkeypatch.setattr(hdf5_index.Index, "arrays", lambda *_: None)
    for one, other in zip(fast, read("qm7x", path), strict=True):
        assert one.group == other.group
        for name in ("positions", "atomic_numbers", "source_rows"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.energies["level"], other.energies["level"])
        np.testing.assert_array_equal(one.forces["level"], other.forces["level"])


def test_the_index_leaves_unusual_storage_to_the_library(tmp_path):
    def change(file):
        group = file["20/Geom-m20-i1-c1-d1"]
        values = group["totFOR"][:]
        del group["totFOR"]
        group.create_dataset("totFOR", data=values, chunks=(1, 3), compression="gzip")
        replace(group, "atNUM", group["atNUM"][:].astype(">i2"))

    path = write_qm7x_hdf5(tmp_path / "a.hdf5")
    plain = read("qm7x", path)
    for one, other in zip(plain, read("qm7x", edit(path, change)), strict=True):
        np.testing.assert_array_equal(one.forces["level"], other.forces["level"])


def test_names_of_configurations():
    assert parse_id("Geom-m12-i3-c4-opt") == ConfigurationId(12, 3, 4, 0)
    assert parse_id("Geom-m12-i3-c4-d50") == parse_id("Geom-m12-i3-c4-50") == ConfigurationId(12, 3, 4, 50)
    for name in ("Geom-m12-i3-c4-d0", "Geom-m12-i3-c4-", "Geom-m12-i3-opt", "geom-m1-i1-c1-opt", "Geom-m1-i1-c1-opt\n"):
        assert parse_id(name) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.copy("20/Geom-m20-i1-c1-d2", "20/Geom-m20-i1-c1-2"), "are the same configuration"),
        (lambda f: f.copy("20/Geom-m20-i1-c1-d2", "20/Geom-m21-i1-c1-d2"), "are of different molecules"),
        (lambda f: f.create_group("20/other"), "'other' is no name of a configuration"),
        (lambda f: f.create_group("7"), "group 7: it is empty"),
        (lambda f: f.__delitem__("20/Geom-m20-i1-c2-d3/totFOR"), "Geom-m20-i1-c2-d3: key 'totFOR' is missing"),
        (
            lambda f: replace(f, "20/Geom-m20-i1-c1-d1/totFOR", np.zeros((4, 3))),
            "totFOR: shape (4, 3), expected (3, 3)",
        ),
        (lambda f: replace(f, "20/Geom-m20-i1-c1-d1/atNUM", [8.0, 1.0, 1.0]), "d1: atNUM: shape (3,) and type float64"),
        (lambda f: replace(f, "20/Geom-m20-i1-c1-d1/atNUM", [0, 1, 1]), "d1: atNUM holds 0 to 1"),
        (lambda f: replace(f, "20/Geom-m20-i1-c1-d1/ePBE0+MBD", [1.0, 2.0]), "ePBE0+MBD: shape (2,), expected (1,)"),
        (lambda f: replace(f, "20/Geom-m20-i1-c1-d1/ePBE0+MBD", ["x"]), "ePBE0+MBD: shape (1,) and type"),
        (lambda f: f["20/Geom-m20-i1-c1-d1/ePBE0+MBD"].__setitem__(0, np.nan), "row 6: energy level is NaN"),
    ],
)
def test_bad_qm7x_files(tmp_path, change, message):
    fails("qm7x", edit(write_qm7x_hdf5(tmp_path / "a.hdf5"), change), "a.hdf5: ", message)


@pytest.mark.parametrize("keep", [0, 3, 10, 100, -1, -13, -200])
def test_truncated_xz(tmp_path, scratch, keep):
    path = write_qm7x(tmp_path / "1000.xz")
    path.write_bytes(path.read_bytes()[:keep])
    fails("qm7x", path, "1000.xz: damaged or cut off", "fetch it again", scratch=str(scratch))


def test_damaged_xz(tmp_path, scratch):
    path = write_qm7x(tmp_path / "1000.xz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    fails("qm7x", path, "1000.xz: damaged or cut off", scratch=str(scratch))
    path.write_bytes(lzma.compress(b"not HDF5"))
    fails("qm7x", path, "1000.xz: not a readable HDF5 file (8 bytes)", scratch=str(scratch))
    fails("qm7x", tmp_path / "absent.xz", "absent.xz: no such file", scratch=str(scratch))
    fails("qm7x", write_qm7x(path), "no such folder; set `scratch`", scratch=str(tmp_path / "nowhere"))


def test_size_of_an_xz_file_with_several_blocks_streams_and_padding(tmp_path):
    path = tmp_path / "a.xz"
    for content, expected in (
        (lzma.compress(bytes(100_000)), 100_000),
        (lzma.compress(b"ab") + lzma.compress(bytes(1000)) + bytes(8), 1000),
        (lzma.compress(b""), 0),
    ):
        path.write_bytes(content)
        assert archives.xz_size(path) == expected


def test_no_space_for_the_unpacked_file(tmp_path, scratch, monkeypatch):
    path = write_qm7x(tmp_path / "1000.xz")
    usage = shutil._ntuple_diskusage(100, 100, 0)
    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "disk_usage", lambda _: usage)
        fails("qm7x", path, "no space to unpack 1000.xz (0.0 GB unpacked)", scratch=str(scratch))

    def full(source, target, length):
        target.write(source.read(length))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    fails("qm7x", path, "no space to unpack 1000.xz", "set `scratch`", scratch=str(scratch))


def test_a_consumer_that_stops_leaves_no_temporary_file(tmp_path, scratch):
    blocks = get_reader("qm7x").load()(write_qm7x(tmp_path / "1000.xz"), entry("qm7x", scratch=str(scratch)), 100)
    next(blocks)
    assert len(list(scratch.iterdir())) == 1
    blocks.close()


def test_leftovers_of_a_killed_process_are_removed(tmp_path, scratch):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host, dead = host_name(), int(child.stdout)
    with archives.unpacked(io.BytesIO(b"x"), tmp_path / "a.xz", {"scratch": str(scratch)}, "anything") as ours:
        assert ours.name.startswith(f"mlip-unpacked-{host}-{os.getpid()}-")
        random = ours.name.rpartition("-")[2]
        gone = scratch / f"mlip-unpacked-{host}-{dead}-{random}"
        stay = [
            scratch / f"mlip-unpacked-{host}-{os.getppid()}-{random}",
            # Nodes whose processes cannot be asked, also where one's name begins like that of this one.
            scratch / f"mlip-unpacked-another-node-{dead}-{random}",
            scratch / f"mlip-unpacked-{host}-{dead}-{os.getpid()}-{random}",
            scratch / f"mlip-unpacked-{dead}-{random}",
            scratch / "mlip-unpacked-by-hand",
        ]
        for path in (gone, *stay):
            path.write_bytes(b"x")
        os.utime(stay[1], (0, 0))
        read("qm7x", write_qm7x(tmp_path / "1000.xz"), scratch=str(scratch))
        assert set(scratch.iterdir()) == {*stay, ours}
    for path in stay:
        path.unlink()


def test_the_next_file_is_unpacked_while_one_is_read(tmp_path, scratch):
    paths = [write_qm7x(tmp_path / f"{number}000.xz") for number in (1, 2, 3)]
    paths[2].write_bytes(paths[2].read_bytes()[:-5])
    counts = []
    with archives.UnpackAhead() as ahead:
        for path, following in itertools.pairwise([*paths, None]):
            options = {"scratch": str(scratch), "ahead": ahead, "next": following}
            if path is paths[2]:
                # What went wrong ahead of time is reported when it is this file's turn.
                fails("qm7x", path, "3000.xz: damaged or cut off", **options)
                continue
            for block in get_reader("qm7x").load()(path, entry("qm7x", **options), 100):
                counts.append(len(block))
                assert len(list(scratch.iterdir())) <= 2
        assert counts == [5] * 6
        # One that is never asked for goes away, too.
        ahead.start(paths[0], scratch, "anything")


# ---- ANI-1 ----


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_ani1_archives(tmp_path, scratch, mode):
    path = write_ani1(tmp_path / "ani1.tar", mode=mode)
    blocks = read("ani1", path, scratch=str(scratch))
    assert [block.group for block in blocks] == [f"gdb11_s0{s}/gdb11_s0{s}-{m}" for s in (1, 2) for m in (0, 1)]
    check(blocks[0], METHANE, 8, 1, frames=slice(0, 6))
    check(blocks[3], WATER, 8, 2, frames=slice(0, 6))
    assert blocks[0].info == {"smiles": "[H]O[H]"} and not blocks[0].forces
    assert [block.source_rows[0] for block in blocks] == [0, 8, 16, 24]


def test_ani1_high_energy_part(tmp_path):
    path = write_ani1_member(tmp_path / "s01.h5")
    ordinary, include, separate = (
        read("ani1", path, reader_options={"high_energy": option}) for option in ("exclude", "include", "separate")
    )
    assert [len(block) for block in ordinary] == [6, 6] and not any(b.columns["high_energy"].any() for b in ordinary)
    assert [len(block) for block in include] == [len(block) for block in separate] == [6, 2, 6, 2]
    for blocks in (include, separate):
        assert blocks[1].columns["high_energy"].tolist() == [1, 1]
        assert blocks[1].source_rows.tolist() == [6, 7]
        _, _, energies, _ = springs(METHANE, 8, 1)
        np.testing.assert_allclose(blocks[1].energies["level"], energies[6:] + HARTREE_TO_EV)
    assert include[1].group == include[0].group
    assert separate[1].group == f"{separate[0].group}/high_energy"
    fails("ani1", path, "reader_options.high_energy: 'all'", reader_options={"high_energy": "all"})
    fails("ani1", path, "reader_options: the reader ani1 has no 'high'", reader_options={"high": 1})


def test_bad_ani1_archives(tmp_path, scratch):
    options = {"scratch": str(scratch)}
    path = write_ani1(tmp_path / "a.tar.gz", numbers=(1, 1))
    fails("ani1", path, "a.tar.gz#ANI-1_release/ani_gdb_s02.h5: group gdb11_s01/gdb11_s01-0: another file", **options)
    content = write_ani1(path).read_bytes()
    for cut in (0, 5, len(content) // 2, len(content) - 9):
        path.write_bytes(content[:cut])
        fails("ani1", path, "a.tar.gz: damaged or cut off", **options)
    # A header of the second file that was lost must not pass for the end of the archive.
    plain = bytearray(gzip.decompress(content))
    header = plain.index(b"ANI-1_release/ani_gdb_s02.h5")
    plain[header] ^= 0x01
    path.write_bytes(plain)
    fails("ani1", path, "a.tar.gz: damaged or cut off (a header is lost)", **options)
    plain[header : header + 512] = bytes(512)
    path.write_bytes(plain)
    fails("ani1", path, "a.tar.gz: damaged or cut off (a header is lost)", **options)
    # Neither must a wrong byte that only the checksum of the compressed stream can tell.
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])
    fails("ani1", path, "a.tar.gz: damaged or cut off (CRC check failed", **options)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("ani_gdb_s01.txt"))
    fails("ani1", path, "a.tar.gz: no HDF5 files inside", **options)
    keys = {"level": {"energy": "energies", "forces": "forces"}}
    fails("ani1", write_ani1_member(tmp_path / "m.h5"), "fidelities: this layout holds no forces", fidelities=keys)

    def change(file):
        replace(file, "gdb11_s01/gdb11_s01-0/species", np.array([b"C", b"H", b"H", b"Q", b"H"]))

    fails("ani1", edit(tmp_path / "m.h5", change), "m.h5: group gdb11_s01/gdb11_s01-0: species: element 'Q'")


def test_published_ani1(published):
    blocks = read("ani1", published / "ani" / "ani_gdb_s01.h5")
    assert [len(block) for block in blocks] == [5400, 3600, 1800]
    # Energies of methane, ammonia and water at their minima: -40.50, -56.54 and -76.39 hartree.
    lowest = [block.energies["level"].min() / HARTREE_TO_EV for block in blocks]
    assert lowest == pytest.approx([-40.50, -56.54, -76.39], abs=0.02)


# ---- COMP6, ANI-1x ----


def test_comp6_turns_gradients_into_forces(tmp_path):
    water, methane = read("comp6", write_comp6(tmp_path / "c.h5"))
    check(water, WATER, 6, 0)
    check(methane, METHANE, 6, 1)
    assert (water.group, methane.group) == ("set/mol00", "set/mol01")


def test_comp6_nesting(tmp_path):
    path = write_comp6(tmp_path / "c.h5")
    edit(path, lambda file: file.move("set/mol00", "a/b/c/mol00"))
    assert [block.group for block in read("comp6", path)] == ["a/b/c/mol00", "set/mol01"]
    edit(path, lambda file: file.move("a/b/c/mol00", "a/b/c/d/mol00"))
    fails("comp6", path, "c.h5: group a/b/c/d: key 'coordinates' is missing", "it holds mol00")
    edit(path, lambda file: file.__delitem__("a/b/c"))
    fails("comp6", path, "c.h5: group a/b: it is empty")


def test_published_comp6_holds_gradients(published):
    path = published / "comp6" / "s66x8_wb97x6-31gd.h5"
    blocks = read("comp6", path)
    assert len(blocks) == 66 and sum(map(len, blocks)) == 528
    with h5py.File(path) as file:
        stored = file["s66x8/mol00/forces"][:].astype(np.float64)
    np.testing.assert_allclose(blocks[0].forces["level"], -stored * HARTREE_TO_EV, rtol=1e-6)


def test_ani1x_keeps_the_sign(tmp_path):
    methane, water = read("ani1x", write_ani1x(tmp_path / "a.h5"))
    check(methane, METHANE, 6, 4)
    check(water, WATER, 6, 4)


# ---- rMD17 ----


def test_rmd17_with_both_labels(tmp_path):
    both = {
        "level": {"energy": "energies", "forces": "forces"},
        "old": {"energy": "old_energies", "forces": "old_forces"},
    }
    first, second = read("rmd17", write_rmd17(tmp_path / "r.npz"), block_rows=5, fidelities=both)
    check(first, WATER, 9, 0, np.float64, frames=slice(0, 5))
    check(second, WATER, 9, 0, np.float64, frames=slice(5, 9))
    np.testing.assert_allclose(first.energies["old"] - first.energies["level"], KCAL_PER_MOL_TO_EV, rtol=1e-9)
    assert second.columns["old_indices"].tolist() == [21, 14, 7, 0]
    (bare,) = read("rmd17", write_rmd17(tmp_path / "r.npz", old_indices=None))
    assert bare.columns["old_indices"].tolist() == [-1] * 9


def write_rmd17_archive(path: Path) -> Path:
    with tarfile.open(path, "w:bz2") as archive:
        for name in ("ethanol", "benzene"):
            archive.add(
                write_rmd17(path.with_name("m.npz"), n=9 if name == "ethanol" else 4),
                f"rmd17/npz_data/rmd17_{name}.npz",
            )
        for part, rows in (("train", [3, 1, 2]), ("test", [0, 8])):
            content = "".join(f"{row}\n" for row in rows).encode()
            info = tarfile.TarInfo(f"rmd17/splits/index_{part}_01.csv")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_rmd17_archive_and_official_splits(tmp_path, scratch):
    path = write_rmd17_archive(tmp_path / "rmd17.tar.bz2")
    for member in ("rmd17/npz_data/rmd17_ethanol.npz", "rmd17_ethanol.npz"):
        (block,) = read("rmd17", path, reader_options={"member": member}, scratch=str(scratch))
        check(block, WATER, 9, 0, np.float64)
    fails("rmd17", path, "rmd17.tar.bz2: it holds 2 .npz files", "say which one", scratch=str(scratch))
    options = {"reader_options": {"member": "rmd17_naphthalene.npz"}, "scratch": str(scratch)}
    fails("rmd17", path, "no file 'rmd17_naphthalene.npz' inside", "rmd17_ethanol.npz", **options)
    assert official_split(path, "index_train_01.csv").tolist() == [3, 1, 2]
    (tmp_path / "index_test_01.csv").write_text("0\n8\n\n")
    assert official_split(tmp_path / "index_test_01.csv").tolist() == [0, 8]
    path.write_bytes(path.read_bytes()[:-100])
    options = {"reader_options": {"member": "rmd17_toluene.npz"}, "scratch": str(scratch)}
    fails("rmd17", path, "rmd17.tar.bz2: damaged or cut off", **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [("1\n2.5\n", "line 2: '2.5'"), ("1\n1\n", "a row number twice"), ("\n", "it is empty"), ("-1\n", "line 1: '-1'")],
)
def test_bad_split_files(tmp_path, content, message):
    (tmp_path / "index.csv").write_text(content)
    with pytest.raises(InputError, match=r"index\.csv.*") as caught:
        official_split(tmp_path / "index.csv")
    assert message in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        official_split(tmp_path / "absent.csv")


def test_bad_rmd17_files(tmp_path):
    path = tmp_path / "r.npz"
    for changes, message in (
        ({"coords": None}, "r.npz: key 'coords' is missing"),
        ({"coords": np.zeros((9, 4, 3))}, "array 'coords' has shape (9, 4, 3), expected (9, 3, 3)"),
        (
            {"energies": np.full(9, np.nan), "forces": np.full((9, 3, 3), np.nan)},
            "group H2O, row 0: energy level is NaN (9 such row(s) here)",
        ),
        ({"energies": np.array(["x"] * 9)}, "array 'energies' has type <U1"),
        ({"energies": np.array([None] * 9)}, "array 'energies' has type object"),
        ({"old_indices": np.zeros(8)}, "array 'old_indices' has shape (8,), expected (9,)"),
    ):
        fails("rmd17", write_rmd17(path, **changes), message)
    content = write_rmd17(path).read_bytes()
    path.write_bytes(content[:-50])
    fails("rmd17", path, "r.npz: not a whole npz file")
    path.write_bytes(bz2.compress(b"no archive"))
    fails("rmd17", path, "r.npz: damaged or cut off")


def test_published_rmd17(published):
    folder = published / "rmd17"
    (train,) = read("rmd17", folder / "rmd17_ethanol_train_01.npz")
    (test,) = read("rmd17", folder / "rmd17_ethanol_test_01.npz")
    assert len(train) == len(test) == 1000 and train.group == "C2H6O"
    assert not np.intersect1d(train.columns["old_indices"], test.columns["old_indices"]).size
    # Ethanol: -154.9 hartree.
    assert train.energies["level"].mean() == pytest.approx(-4210, abs=10)


# ---- extended XYZ ----


def test_extxyz_puts_frames_of_a_molecule_together(tmp_path):
    path = write_extxyz(tmp_path / "u.xyz")
    read_blocks = get_reader("extxyz").load()
    water, methane = read_blocks(path, xyz_entry(), 100)
    z, positions, energies, forces = springs(WATER, 6)
    np.testing.assert_array_equal(water.atomic_numbers, z)
    np.testing.assert_allclose(water.positions, positions, atol=1e-7)
    np.testing.assert_allclose(water.energies["level"], energies, rtol=1e-12)
    np.testing.assert_allclose(water.forces["level"], forces, atol=1e-7)
    assert (water.group, methane.group) == ("H2O", "CH4")
    assert water.source_rows.tolist() == [0, 2, 4, 6, 8, 10]
    assert np.isnan(water.columns["charge"]).all()
    assert [len(block) for block in read_blocks(path, xyz_entry(), 4)] == [2, 2] * 3
    options = {"charge": "charge", "group": "set"}
    blocks = list(read_blocks(path, xyz_entry(**options), 100))
    assert [block.group for block in blocks] == ["a", "a"] and blocks[0].columns["charge"].tolist() == [0.0] * 6


def test_extxyz_units_and_missing_labels(tmp_path):
    frames = frames_of(WATER, 3)
    del frames[1].arrays["REF_forces"]
    ase.io.write(tmp_path / "u.xyz", frames, format="extxyz")
    kcal = xyz_entry() | {"units": {"energy": "kcal/mol", "length": "bohr"}}
    (block,) = get_reader("extxyz").load()(tmp_path / "u.xyz", kcal, 100)
    _, positions, energies, forces = springs(WATER, 3)
    np.testing.assert_allclose(block.positions, positions * BOHR_TO_ANGSTROM, atol=1e-7)
    np.testing.assert_allclose(block.energies["level"], energies * KCAL_PER_MOL_TO_EV, rtol=1e-12)
    expected = forces * KCAL_PER_MOL_TO_EV / BOHR_TO_ANGSTROM
    np.testing.assert_allclose(block.forces["level"][[0, 2]], expected[[0, 2]], atol=1e-7)
    assert np.isnan(block.forces["level"][1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1].info.pop("REF_energy"), "frame 1: no energy (REF_energy); it holds charge, set"),
        (lambda f: f[1].set_cell([9, 9, 9]) or f[1].set_pbc(True), "frame 1: it is periodic"),
        (lambda f: f[1].info.update(REF_energy="low"), "frame 1: REF_energy is 'low', expected a number"),
        (lambda f: f[1].info.update(REF_energy=[1.0, 2.0]), "frame 1: REF_energy is"),
        (lambda f: f[1].info.update(REF_energy=float("inf")), "row 1: energy level is infinite"),
        (lambda f: f[1].arrays.update(REF_forces=np.zeros((3, 2))), "frame 1: REF_forces has shape (3, 2)"),
        (lambda f: [frame.arrays.pop("REF_forces") for frame in f], "no frame has forces called 'REF_forces'"),
        (lambda f: f[1].numbers.__setitem__(0, 0), "frame 1: the list of elements holds 0 to 1"),
    ],
)
def test_bad_extxyz_frames(tmp_path, change, message):
    frames = frames_of(WATER, 3)
    change(frames)
    ase.io.write(tmp_path / "u.xyz", frames, format="extxyz")
    with pytest.raises(InputError) as caught:
        list(get_reader("extxyz").load()(tmp_path / "u.xyz", xyz_entry(), 100))
    assert "u.xyz" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no frames"),
        (b"hello\n", "frame 0: 'hello', expected a number of atoms"),
        (b"99999999999999\n", "expected a number of atoms from 1 to 100000"),
        (b"2\nREF_energy=1\nH 0 0 0\n", "frame 0: the file ends within 2 atoms"),
        (b"1\nREF_energy=1\nH 0 0 x\n", "frame 0: unreadable"),
        (b"1\nREF_energy=1\nH 0 0 \xff\n", "frame 0: not a text file"),
        (b"1\nREF_energy=1\nH 0 0 0\n\n1\n", "frame 1: an empty line"),
    ],
)
def test_bad_extxyz_text(tmp_path, content, message):
    (tmp_path / "u.xyz").write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(get_reader("extxyz").load()(tmp_path / "u.xyz", xyz_entry(), 100))
    assert "u.xyz" in str(caught.value) and message in str(caught.value)


def test_published_3bpa(published):
    (block,) = read("extxyz", published / "bpa" / "train_300K.xyz")
    assert block.positions.shape == (500, 27, 3)
    assert np.isfinite(block.forces["level"]).all() and block.energies["level"].mean() == pytest.approx(-17660, abs=2)


# ---- configurations that occur twice ----


def test_groups_that_occur_in_two_files(tmp_path):
    one, other = write_spice(tmp_path / "a.hdf5"), write_spice(tmp_path / "b.hdf5")
    ids = ConfigurationIds()
    for block in read("spice", one, block_rows=4):
        ids.add(block, "spice", one)
    with pytest.raises(InputError, match=r"b\.hdf5: group sulfide occurs also in .*a\.hdf5"):
        ids.add(read("spice", other)[0], "spice", other)


def test_configurations_that_occur_in_two_files(tmp_path):
    one, other = write_qm7x_hdf5(tmp_path / "a.hdf5"), write_qm7x_hdf5(tmp_path / "b.hdf5")
    ids = ConfigurationIds()
    for block in read("qm7x", one, block_rows=3):
        ids.add(block, "qm7x", one)
    with pytest.raises(InputError, match="group 20: isomer 1, conformer 2, displacement 3 occurs twice") as caught:
        ids.add(read("qm7x", other)[2].select(np.array([False, False, False, True, True])), "qm7x", other)
    assert "a.hdf5 has it too" in str(caught.value)
    # Another molecule of the same number of frames is fine, and so are layouts without identities.
    path = write_md17(tmp_path / "m.npz")
    for block in read("md17", path) * 2:
        ids.add(block, "md17", path)
