"""Scans, their start geometries and symmetries, degenerate environments, and what is read off curves."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from scipy.spatial.distance import pdist, squareform

from mlip_studies.adequacy import analysis
from mlip_studies.adequacy.analysis import analyse, analyse_files, curve_metrics, force_along
from mlip_studies.adequacy.environments import (
    PLANAR,
    central_invariants,
    degenerate_environments,
    same_geometry,
    two_body_environments,
)
from mlip_studies.adequacy.scans import (
    CH,
    KINDS,
    SCAN_NAMES,
    angle,
    bond_length,
    build_scan,
    cyclobutadiene,
    dihedral,
    n_points,
    read_scan,
    scan_names,
    scan_shape,
    start_file,
    start_structure,
    turned,
    write_scan,
)
from mlip_studies.adequacy.structures import Structure
from mlip_studies.artifacts import sha256_of, write_text
from mlip_studies.data.representatives import perceived_smiles
from mlip_studies.errors import InputError
from mlip_studies.mini_data.adequacy_molecules import (
    ROTORS,
    cosan_start,
    make_rotor,
    moving_atoms,
    rotor_axis,
    symmetric_cosan,
    symmetric_rotor,
)

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "resources" / "adequacy"
# Points, first and last coordinate of the author's protocol.
PROTOCOL = {
    "diatomic-h2": (100, 0.3, 6.5), "diatomic-n2": (100, 0.8, 6.5), "diatomic-c2": (100, 0.8, 6.5),
    "diatomic-o2": (100, 0.9, 6.5), "diatomic-si2": (100, 1.5, 6.5), "diatomic-cl2": (100, 1.5, 6.5),
    "ethane-cc": (80, 1.0, 6.0), "ethanol-co": (80, 1.0, 6.0), "ethanol-oh": (80, 0.7, 6.0),
    "water-hoh": (200, 44.0, 316.0), "ethanol-cco": (100, 97.11, 117.11),
    "dihedral-ethane": (181, 0, 360), "dihedral-biphenyl": (181, 0, 360), "dihedral-fluoroallene": (181, 0, 360),
    "dihedral-biaryl1": (181, 0, 360), "dihedral-biaryl2": (181, 0, 360), "dihedral-biaryl3": (181, 0, 360),
    "rotation-water": (181, 0, 360), "rotation-cyclobutadiene": (181, 0, 360), "translation-benzene": (68, 0, 10.05),
    "cyclobutadiene-1d": (60, 1.2, 1.8), "cyclobutadiene-2d": (3600, 0, 3599), "cosan": (181, 0, 360),
}  # fmt: skip
MIRRORED = [name for name in SCAN_NAMES if scan_shape(name).mirrored]
DIHEDRALS = [name for name in SCAN_NAMES if scan_shape(name).kind == "dihedral"]


def scan(name, **settings):
    return build_scan(name, settings or None, FOLDER)


def coarse(name):
    return scan(name, points=25)


def fingerprint(structure):
    """Distances of each pair of elements, sorted: the same of mirror images and of any order of like atoms."""
    i, j = np.triu_indices(len(structure), 1)
    z = np.sort(np.column_stack([structure.atomic_numbers[i], structure.atomic_numbers[j]]), axis=1)
    return np.array(sorted(zip(z[:, 0], z[:, 1], pdist(structure.positions), strict=True)))


def matrix(structure):
    return squareform(pdist(structure.positions))


# ---- structures ----


def test_a_structure_keeps_its_arrays_to_itself():
    positions = np.zeros((1, 3))
    structure = Structure(np.array([2]), positions, "helium")
    positions[0, 0] = 1.0
    assert structure.positions[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        structure.positions[0, 0] = 1.0
    moved = structure.moved(positions, "moved")
    assert (moved.name, moved.positions[0, 0], structure.name, moved.formula) == ("moved", 1.0, "helium", "He")


@pytest.mark.parametrize(
    ("numbers", "positions", "multiplicity", "message"),
    [
        ([1, 1], np.zeros((1, 3)), 1, "expected"),
        ([], np.zeros((0, 3)), 1, "at least one atom"),
        ([1], np.full((1, 3), np.nan), 1, "not finite"),
        ([1], np.zeros((1, 3)), 0, "multiplicity"),
    ],
)
def test_structures_that_cannot_be(numbers, positions, multiplicity, message):
    with pytest.raises(InputError, match=message):
        Structure(np.array(numbers, dtype=np.int64), positions, "bad", 0, multiplicity)


# ---- scans ----


@pytest.mark.parametrize("name", PROTOCOL)
def test_full_scans_have_the_parameters_of_the_protocol(name):
    count, first, last = PROTOCOL[name]
    full = scan(name)
    assert len(full) == len(full.coordinate) == count
    np.testing.assert_allclose(full.coordinate[[0, -1]], [first, last], atol=5e-3)
    if full.kind != "surface":
        np.testing.assert_allclose(np.diff(full.coordinate), np.diff(full.coordinate)[0])


def test_every_scan_can_be_built_and_points_are_settings():
    assert scan_names({}) == list(SCAN_NAMES)
    settings = {"points": {"diatomic": 7, "diatomic-h2": 9, "dihedral": 13}, "grid": 4}
    assert [n_points(name, settings) for name in ("diatomic-h2", "diatomic-n2", "dihedral-ethane", "cosan")] == [
        9, 7, 13, 181,
    ]  # fmt: skip
    for name in SCAN_NAMES:
        built = build_scan(name, {"points": 5, "grid": 3}, FOLDER)
        assert len(built) == (9 if name == "cyclobutadiene-2d" else 5)
        assert len({each.name for each in built.structures}) == len(built)
        assert built.kind in KINDS
        assert built.reference == {"diatomic": "atoms", "rotation": "first", "translation": "first"}.get(
            built.kind, "minimum"
        )
        # Atoms never lie on top of each other, and no scan shares its arrays with another.
        assert min(pdist(each.positions).min() for each in built.structures) > 0.29


@pytest.mark.parametrize("name", [name for name in SCAN_NAMES if scan_shape(name).kind != "surface"])
def test_a_point_depends_on_nothing_but_its_coordinate(name):
    # Five points are among seventeen; were a point built from the one before, rounding would add up differently.
    few, many = scan(name, points=5), scan(name, points=17)
    for index in range(5):
        assert few.coordinate[index] == pytest.approx(many.coordinate[4 * index], abs=1e-12)
        np.testing.assert_allclose(few.structures[index].positions, many.structures[4 * index].positions, atol=1e-12)


@pytest.mark.parametrize("name", MIRRORED)
def test_a_and_360_less_a_are_mirror_images(name):
    built = scan(name, points=37)
    assert (np.abs(built.coordinate + built.coordinate[::-1] - 360.0) < 1e-9).all()
    for first, last in zip(built.structures, reversed(built.structures), strict=True):
        # ASE's ethane and files are printed to 1e-6 and 1e-8 Å.
        np.testing.assert_allclose(fingerprint(first), fingerprint(last), atol=3e-6)


def test_water_is_the_same_molecule_at_a_and_360_less_a():
    built = scan("water-hoh")
    for value, first, last in zip(built.coordinate, built.structures, reversed(built.structures), strict=True):
        np.testing.assert_allclose(matrix(first), matrix(last), atol=1e-12)
        assert angle(first.positions, 1, 0, 2) == pytest.approx(min(value, 360 - value), abs=1e-6)
        np.testing.assert_array_equal(first.positions[:2], built.structures[0].positions[:2])


@pytest.mark.parametrize("name", [name for name in DIHEDRALS if scan_shape(name).fold > 1])
def test_turns_by_a_part_of_the_circle_are_the_same_molecule(name):
    built = scan(name, points=37)
    step = 36 // built.fold
    for index in range(36):
        one, other = built.structures[index], built.structures[(index + step) % 36]
        np.testing.assert_allclose(fingerprint(one), fingerprint(other), atol=3e-6)
    # And by less they are not.
    assert np.abs(fingerprint(built.structures[0]) - fingerprint(built.structures[step // 2])).max() > 0.05


@pytest.mark.parametrize("name", DIHEDRALS)
def test_dihedral_scans_turn_rigidly_by_the_coordinate(name):
    built = coarse(name)
    start = start_structure(built.molecule, FOLDER)
    axis = (0, 1) if built.molecule == "ethane" else rotor_axis(built.molecule)
    moving = moving_atoms(start.atomic_numbers, start.positions, axis)
    fixed = np.setdiff1d(np.arange(len(start)), moving)
    for part in (np.append(fixed, axis[1]), np.append(moving, axis[0])):
        for each in built.structures:
            np.testing.assert_allclose(
                pdist(each.positions[part]), pdist(start.positions[part]), atol=1e-10
            )  # the whole part, with the other end of the axis, stays as it was
    np.testing.assert_array_equal(built.structures[3].positions[fixed], start.positions[fixed])
    # The same pair of atoms turns by what the coordinate says, right-handed.
    off = next(i for i in fixed if np.linalg.norm(np.cross(*_arms(start, i, axis))) > 0.3)
    other = next(i for i in moving if np.linalg.norm(np.cross(*_arms(start, i, axis))) > 0.3)
    angles = np.array([dihedral(each.positions, off, *axis, other) for each in built.structures])
    np.testing.assert_allclose((np.diff(angles) + 180) % 360 - 180, 15.0, atol=1e-8)


def _arms(structure, atom, axis):
    bond = structure.positions[axis[1]] - structure.positions[axis[0]]
    return structure.positions[atom] - structure.positions[axis[0]], bond / np.linalg.norm(bond)


def test_dihedral_coordinate_is_zero_where_neighbours_eclipse():
    ethane = scan("dihedral-ethane", points=5)
    assert dihedral(ethane.structures[0].positions, 2, 0, 1, 5) == pytest.approx(0, abs=1e-9)
    # Rings of biphenyl lie in one plane at 0 and 180, and are perpendicular at 90.
    spread = [
        np.linalg.svd(s.positions - s.positions.mean(0))[1][2] for s in scan("dihedral-biphenyl", points=5).structures
    ]
    assert max(spread[0], spread[2], spread[4]) < 1e-6
    assert spread[1] > 1


def test_dihedral_and_angle_of_known_points():
    points = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1.0, 1]])
    # Seen from the second atom, the last is a quarter turn clockwise of the first (IUPAC: positive).
    assert dihedral(points, 0, 1, 2, 3) == pytest.approx(90)
    assert dihedral(points * [1, -1, 1], 0, 1, 2, 3) == pytest.approx(270)
    assert angle(points, 0, 1, 2) == pytest.approx(90)
    np.testing.assert_allclose(turned(points[:1], np.array([0, 0, 2.0]), np.zeros(3), 90), [[0, 1, 0]], atol=1e-15)


@pytest.mark.parametrize(
    ("name", "bond", "moving"),
    [("ethane-cc", (0, 1), [1, 5, 6, 7]), ("ethanol-co", (1, 2), [2, 3]), ("ethanol-oh", (2, 3), [3])],
)
def test_bond_scans_stretch_one_bond(name, bond, moving):
    built = coarse(name)
    start = start_structure(built.molecule)
    fixed = np.setdiff1d(np.arange(len(start)), moving)
    way = start.positions[bond[1]] - start.positions[bond[0]]
    for value, each in zip(built.coordinate, built.structures, strict=True):
        assert matrix(each)[bond] == pytest.approx(value, abs=1e-12)
        np.testing.assert_array_equal(each.positions[fixed], start.positions[fixed])
        shift = each.positions[moving] - start.positions[moving]
        np.testing.assert_allclose(shift, np.tile(shift[0], (len(moving), 1)), atol=1e-12)
        np.testing.assert_allclose(np.cross(shift[0], way), 0, atol=1e-12)


def test_angle_of_ethanol_opens_in_its_plane():
    built = scan("ethanol-cco", points=11)
    for value, each in zip(built.coordinate, built.structures, strict=True):
        assert angle(each.positions, 0, 1, 2) == pytest.approx(value, abs=1e-9)
        assert matrix(each)[2, 3] == pytest.approx(matrix(built.structures[5])[2, 3], abs=1e-12)
    np.testing.assert_allclose(built.structures[5].positions, start_structure("ethanol").positions, atol=1e-12)


@pytest.mark.parametrize("molecule", ["water", "benzene", "ethanol", "cyclobutadiene"])
def test_rigid_motions_change_nothing_inside(molecule):
    start = start_structure(molecule)
    rotation, translation = scan(f"rotation-{molecule}", points=7), scan(f"translation-{molecule}")
    for each in (*rotation.structures, *translation.structures):
        np.testing.assert_allclose(matrix(each), matrix(start), atol=1e-12)
    np.testing.assert_allclose(rotation.structures[-1].positions, start.positions, atol=1e-12)
    np.testing.assert_allclose(rotation.structures[3].positions[:, 2], start.positions[:, 2], atol=1e-15)
    shift = translation.structures[1].positions - start.positions
    np.testing.assert_allclose(shift, np.tile([0.15 / np.sqrt(2)] * 2 + [0], (len(start), 1)), atol=1e-12)


def test_rotation_is_about_the_centre_of_mass():
    from ase import Atoms

    for each in scan("rotation-ethanol", points=5).structures:
        centre = Atoms(each.atomic_numbers, each.positions).get_center_of_mass()
        start = start_structure("ethanol")
        np.testing.assert_allclose(
            centre, Atoms(start.atomic_numbers, start.positions).get_center_of_mass(), atol=1e-12
        )


D2 = {"mirror x": [-1, 1, 1], "mirror y": [1, -1, 1], "mirror z": [1, 1, -1], "inversion": [-1, -1, -1]}


def symmetric_under(structure, operation):
    """Whether an operation, (3, 3), maps each atom on one of its element, exactly."""
    image = structure.positions @ np.asarray(operation).T
    distance = np.linalg.norm(image[:, None] - structure.positions[None], axis=2)
    partner = distance.argmin(axis=1)
    return (
        distance.min(axis=1).max() == 0.0
        and sorted(partner) == list(range(len(structure)))
        and (structure.atomic_numbers[partner] == structure.atomic_numbers).all()
    )


def test_cyclobutadiene_is_exactly_symmetric():
    quarter = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    for each in scan("cyclobutadiene-2d", grid=5).structures:
        x, y = (np.ptp(each.positions[:4, axis]) for axis in (0, 1))
        assert all(symmetric_under(each, np.diag(signs)) for signs in D2.values())
        assert symmetric_under(each, quarter) == (x == y)
        # Both angles H-C-C are the same in every rectangle.
        assert angle(each.positions, 4, 0, 1) == pytest.approx(135, abs=1e-9)
        assert angle(each.positions, 4, 0, 3) == pytest.approx(135, abs=1e-9)
        assert matrix(each)[0, 4] == pytest.approx(CH)


def test_surface_holds_both_ways_round_and_the_cut():
    surface = scan("cyclobutadiene-2d", grid=4)
    x, y = surface.columns["x_angstrom"], surface.columns["y_angstrom"]
    np.testing.assert_allclose(np.unique(x), np.linspace(1.2, 1.8, 4))
    for index, each in enumerate(surface.structures):
        m = matrix(each)
        assert (m[0, 1], m[1, 2]) == (pytest.approx(x[index]), pytest.approx(y[index]))
        partner = int(np.flatnonzero((x == y[index]) & (y == x[index]))[0])
        np.testing.assert_allclose(fingerprint(each), fingerprint(surface.structures[partner]), atol=1e-14)
    cut = scan("cyclobutadiene-1d", points=7)
    assert [matrix(each)[0, 1] for each in cut.structures] == pytest.approx(cut.coordinate.tolist())
    assert {round(matrix(each)[1, 2], 12) for each in cut.structures} == {1.4}
    np.testing.assert_array_equal(start_structure("cyclobutadiene").positions, cyclobutadiene(1.4, 1.4).positions)


def test_diatomics():
    for name, z in (("h2", 1), ("si2", 14), ("cl2", 17)):
        built = scan(f"diatomic-{name}", points=4)
        assert set(built.structures[0].atomic_numbers) == {z}
        assert [pdist(each.positions)[0] for each in built.structures] == pytest.approx(built.coordinate.tolist())
    # Ground states of O2 and Si2 are triplets.
    assert [scan(f"diatomic-{name}", points=3).structures[0].multiplicity for name in ("n2", "o2", "si2")] == [1, 3, 3]


# ---- COSAN ----


def test_cosan_is_the_anion_with_two_cages():
    built = scan("cosan", points=37)
    first = built.structures[0]
    assert (first.formula, len(first), first.charge, first.multiplicity) == ("C4H22B18Co", 45, -1, 1)
    start = start_structure("cosan", FOLDER)
    np.testing.assert_allclose(built.structures[18].positions, start.positions, atol=1e-9)  # 180°
    one, other = np.arange(1, 23), np.arange(23, 45)
    for each in built.structures:
        np.testing.assert_array_equal(each.positions[one], start.positions[one])
        for cage in (one, other):
            part = np.append(cage, 0)
            np.testing.assert_allclose(pdist(each.positions[part]), pdist(start.positions[part]), atol=1e-9)
        # The faces next to cobalt stay parallel and at their distance: the turn is about their normal.
        normal = np.linalg.svd(each.positions[1:6] - each.positions[1:6].mean(0))[2][2]
        height = each.positions[[*range(1, 6), *range(23, 28)]] @ normal
        assert np.ptp(height[5:]) < 0.1
        assert abs(height[:5].mean() - height[5:].mean()) == pytest.approx(
            abs((start.positions[1:6].mean(0) - start.positions[23:28].mean(0)) @ normal), abs=1e-9
        )
        # Ten atoms of the two faces next to cobalt, two of them carbon each.
        bonded = np.sort(np.linalg.norm(each.positions[1:] - each.positions[0], axis=1))
        assert 1.9 < bonded[0] < bonded[9] < 2.3 < bonded[10]


def test_cosan_coordinate_is_the_angle_between_the_carbon_pairs():
    built = scan("cosan", points=13)
    for value, each in zip(built.coordinate, built.structures, strict=True):
        xyz = each.positions - each.positions[0]
        axis = np.linalg.svd(xyz[1:6] - xyz[1:6].mean(0))[2][2]
        pair = [xyz[index][each.atomic_numbers[index] == 6].mean(0) for index in (np.arange(1, 12), np.arange(23, 34))]
        flat = [v - axis * (v @ axis) for v in pair]
        cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        assert cosine == pytest.approx(np.cos(np.radians(value)), abs=1e-6)


def test_cosan_has_three_rotamers_and_the_open_one_is_lowest():
    from mlip_studies.mini_data.xtb import _atoms

    built = scan("cosan", points=11)  # steps of 36°: 36, 108 and 180 staggered, 72 and 144 eclipsed
    energy = {
        round(value): _atoms(each.atomic_numbers, each.positions, each.charge).get_potential_energy()
        for value, each in zip(built.coordinate[1:7], built.structures[1:7], strict=True)
    }
    assert energy[180] < energy[108] < energy[36]
    assert energy[72] > energy[36] and energy[144] > energy[108]
    assert energy[216] == pytest.approx(energy[144], abs=1e-5)


def test_cosan_start_is_symmetric_and_symmetrising_takes_noise_away():
    numbers, start = cosan_start()
    structure = Structure(numbers, start, "start")
    assert sorted(np.unique(numbers, return_counts=True)[1]) == [1, 4, 18, 22]
    edges = pdist(start[1:12])
    assert (edges < 1.9).sum() == 25  # an icosahedron has 30, five of them at the missing vertex
    shaken = start + np.random.default_rng(0).normal(size=start.shape) * 0.02
    made, moved = symmetric_cosan(shaken)
    assert 0 < moved < 0.2
    np.testing.assert_allclose(made[1:23], -made[23:], atol=1e-12)
    mirrored = Structure(numbers, made * [1, -1, 1], "mirrored")
    np.testing.assert_allclose(fingerprint(mirrored), fingerprint(structure.moved(made)), atol=1e-12)
    assert np.abs(np.sort(made[1:, 1]) + np.sort(made[1:, 1])[::-1]).max() < 1e-12


# ---- start geometries ----


def test_all_start_geometries_are_shipped_and_in_the_card():
    expected = {start_file(name) for name in SCAN_NAMES} - {None}
    assert expected == {path.name for path in FOLDER.glob("*.xyz")} == {f"{name}.xyz" for name in (*ROTORS, "cosan")}
    card = dict(re.findall(r"\| `(\S+\.xyz)` \| [\d,]+ \| `([0-9a-f]{64})` \|", (FOLDER / "DATA_CARD.md").read_text()))
    assert card == {name: sha256_of(FOLDER / name) for name in expected}


@pytest.mark.parametrize("name", ROTORS)
def test_shipped_rotors_are_the_molecules_of_the_thesis_and_flat(name):
    found = start_structure(name, FOLDER)
    assert perceived_smiles(found.atomic_numbers, found.positions) == Chem.CanonSmiles(ROTORS[name])
    first, second = rotor_axis(name)
    np.testing.assert_allclose(found.positions[first], 0, atol=1e-8)
    np.testing.assert_allclose(found.positions[second, :2], 0, atol=1e-8)
    moving = moving_atoms(found.atomic_numbers, found.positions, (first, second))
    fixed = np.setdiff1d(np.arange(len(found)), moving)
    assert np.abs(found.positions[fixed, 1]).max() == 0.0
    assert np.linalg.svd(found.positions[moving, :2])[1][1] < 1e-7


def test_a_rotor_is_made_anew():
    made = make_rotor("fluoroallene")
    found = start_structure("fluoroallene", FOLDER)
    np.testing.assert_allclose(pdist(made.structure.positions), pdist(found.positions), atol=2e-3)
    assert made.moved < 0.05


def test_symmetric_rotor_flattens_both_parts():
    start = start_structure("biphenyl", FOLDER)
    axis = rotor_axis("biphenyl")
    shaken = start.positions + np.random.default_rng(1).normal(size=(22, 3)) * 0.003
    flat, moved = symmetric_rotor(start.atomic_numbers, shaken, axis)
    assert 0.001 < moved < 0.05
    # Half a turn of either ring is the same molecule.
    half = flat.copy()
    moving = moving_atoms(start.atomic_numbers, flat, axis)
    half[moving] *= [-1, -1, 1]
    turned_half, made = Structure(start.atomic_numbers, half, "half"), Structure(start.atomic_numbers, flat, "made")
    np.testing.assert_allclose(fingerprint(turned_half), fingerprint(made), atol=1e-12)
    again, still = symmetric_rotor(start.atomic_numbers, flat, axis)
    assert still < 1e-12
    # Up to half a turn about the axis, which is not defined.
    np.testing.assert_allclose(pdist(again), pdist(flat), atol=1e-12)
    np.testing.assert_allclose(pdist(flat), pdist(start.positions), atol=0.15)


def test_moving_atoms_need_a_bond_that_turns():
    benzene, ethane = start_structure("benzene"), start_structure("ethane")
    with pytest.raises(InputError, match="part of a ring"):
        moving_atoms(benzene.atomic_numbers, benzene.positions, (0, 1))
    with pytest.raises(InputError, match="not bonded"):
        moving_atoms(ethane.atomic_numbers, ethane.positions, (2, 5))
    with pytest.raises(InputError, match="expected one of biphenyl"):
        make_rotor("naphthalene")


# ---- settings and files ----


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("water-hooh", {}, "did you mean 'water-hoh'"),
        ("cosan", {"points": 2}, "at least 3"),
        ("cosan", {"points": {"cosan": "many"}}, "whole number"),
        ("cosan", {"points": {"rotation": 9, "diatomics": 9}}, "did you mean 'diatomic'"),
        ("cyclobutadiene-2d", {"grid": 2}, "grid: 2"),
        ("cosan", {"amount": 9}, "unknown key 'amount'"),
    ],
)
def test_bad_settings_are_one_line(name, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        build_scan(name, settings, FOLDER)
    assert "\n" not in str(caught.value)


def test_names_of_scans_are_checked_and_ordered():
    assert scan_names({"scans": ["cosan", "diatomic-h2"]}) == ["diatomic-h2", "cosan"]
    with pytest.raises(InputError, match="did you mean 'ethane-cc'"):
        scan_names({"scans": ["ethane-c"]})
    with pytest.raises(InputError, match="a list of names"):
        scan_names({"scans": "cosan"})


def test_missing_start_geometry(tmp_path):
    with pytest.raises(InputError, match=r"biphenyl\.xyz: no such file"):
        build_scan("dihedral-biphenyl", None, tmp_path)
    with pytest.raises(InputError, match="no scan starts with it"):
        start_structure("naphthalene", FOLDER)


@pytest.mark.parametrize("name", ["diatomic-o2", "cyclobutadiene-2d", "cosan"])
def test_files_hold_what_was_built(name, tmp_path):
    built = build_scan(name, {"points": 5, "grid": 3}, FOLDER)
    write_scan(built, tmp_path / "scan.npz")
    read = read_scan(tmp_path / "scan.npz")
    for key in ("name", "kind", "unit", "molecule", "reference", "figure", "fold", "periodic", "mirrored"):
        assert getattr(read, key) == getattr(built, key)
    np.testing.assert_array_equal(read.coordinate, built.coordinate)
    assert list(read.columns) == list(built.columns)
    for one, other in zip(read.structures, built.structures, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        assert (one.name, one.charge, one.multiplicity) == (other.name, other.charge, other.multiplicity)
    with np.load(tmp_path / "scan.npz") as arrays:
        assert arrays["ptr"].tolist() == list(np.arange(len(built) + 1) * len(built.structures[0]))


def test_damaged_files_of_scans(tmp_path):
    path = tmp_path / "scan.npz"
    write_scan(scan("diatomic-h2", points=3), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="checksum"):
        read_scan(path)
    np.savez(tmp_path / "other.npz", coordinate=np.zeros(3))
    with pytest.raises(InputError, match="not a file of a scan"):
        read_scan(tmp_path / "other.npz")


# ---- environments ----


@pytest.mark.parametrize("angles", [(), PLANAR, (60.0, 100.0), (80.0, 100.0)])
def test_degenerate_environments_agree_in_two_and_three_bodies_and_differ(angles):
    first, second = degenerate_environments(*angles)
    for one, other in zip(central_invariants(first), central_invariants(second), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert central_invariants(first)[1].shape == (6, 5)
    assert not same_geometry(first, second, tolerance=0.05)
    assert first.formula == second.formula == "CH4"
    # Even the distances of all atoms are the same, without an order: what a sum over pairs is made of.
    np.testing.assert_allclose(np.sort(pdist(first.positions)), np.sort(pdist(second.positions)), atol=1e-9)
    # A triangle of hydrogen atoms tells them apart.
    triples = [
        sorted(sorted(pdist(s.positions[1:][np.arange(4) != k]).round(6)) for k in range(4)) for s in (first, second)
    ]
    assert triples[0] != triples[1]


def test_planar_pair_is_planar_and_the_other_is_not():
    planar, spatial = degenerate_environments(*PLANAR), degenerate_environments()
    assert max(np.linalg.svd(each.positions)[1][2] for each in planar) < 1e-12
    assert min(np.linalg.svd(each.positions)[1][2] for each in spatial) > 0.1


def test_two_body_pair_agrees_in_distances_only():
    bent, linear = two_body_environments()
    np.testing.assert_allclose(central_invariants(bent)[0], central_invariants(linear)[0], atol=1e-12)
    assert np.abs(central_invariants(bent)[1] - central_invariants(linear)[1]).max() > 70
    assert not same_geometry(bent, linear)


def test_same_geometry_knows_rotations_mirrors_and_orders():
    first, _ = degenerate_environments()
    image = turned(first.positions * [1, 1, -1], np.array([1.0, 2, 3]), np.zeros(3), 77)[[0, 3, 1, 4, 2]] + 5
    assert same_geometry(first, Structure(first.atomic_numbers, image, "image"))
    assert not same_geometry(first, Structure(np.array([14, 1, 1, 1, 1]), image, "silane"))
    with pytest.raises(InputError, match="at most 8"):
        same_geometry(start_structure("benzene"), start_structure("benzene"))


@pytest.mark.parametrize("angles", [(90.0, 100.0), (0.0, 100.0), (50.0, 60.0), (50.0, 130.0)])
def test_impossible_environments(angles):
    with pytest.raises(InputError, match="environments"):
        degenerate_environments(*angles)


# ---- analysis ----


def table(coordinate, energy, **columns):
    return pd.DataFrame({"coordinate": coordinate, "relative_energy_ev": energy, "status": "ok", **columns})


def metrics(name, curve, reference=None, precision="float64"):
    return {metric: value for metric, value, _ in curve_metrics(name, curve, reference, precision)}


def morse(r, depth=4.5, width=1.9, minimum=0.77):
    return depth * ((1 - np.exp(-width * (r - minimum))) ** 2 - 1)


R = np.linspace(0.3, 6.5, 100)


def test_a_morse_curve_is_one_well_that_dissociates():
    found = metrics("diatomic-h2", table(R, morse(R)))
    assert found["minimum_position"] == pytest.approx(0.77, abs=5e-3)
    assert found["well_depth_ev"] == -morse(R).min() == pytest.approx(4.5, abs=2e-2)
    assert (found["n_minima"], found["dissociation_monotone"], found["force_flips"]) == (1, 1, 1)
    assert (found["minimum_at_edge"], found["n_failed"], found["n_points"]) == (0, 0, 100)
    assert found["largest_rise_ev"] == pytest.approx(0, abs=1e-12)
    assert found["tortuosity"] == pytest.approx(1)
    assert found["limit_ev"] == pytest.approx(morse(6.5))
    assert np.isnan(found["zero_beyond_angstrom"])
    assert "rmse_ev" not in found and "minimum_error" not in found


def test_a_hump_on_the_way_is_seen():
    hump = morse(R) + 2.0 * np.exp(-((R - 2.5) ** 2) / 0.1)
    found = metrics("diatomic-h2", table(R, hump))
    # The well, the hump, and the shallow dip between it and the end.
    assert (found["dissociation_monotone"], found["n_minima"], found["force_flips"]) == (0, 2, 3)
    assert found["largest_rise_ev"] == pytest.approx(hump[R > 1].max() - hump[-1])
    # Beyond the hump the curve falls into the tail of the well, below the end.
    beyond = hump[hump.argmin() :]
    falls = max(beyond[i] - beyond[i:].min() for i in range(len(beyond)))
    assert found["largest_fall_ev"] == pytest.approx(falls)
    assert found["tortuosity"] > 1.2


def test_what_leads_to_a_wrong_end_is_a_fall():
    # Lowest where the atoms are far from each other, behind a hump.
    energy = np.where(R < 3.0, morse(R) + 5.0, -1.0)
    found = metrics("diatomic-h2", table(R, energy))
    assert found["dissociation_monotone"] == 0
    assert found["largest_fall_ev"] == pytest.approx(energy[R < 3.0][-1] + 1.0, abs=0.01)


def test_lengths_of_bonds_are_those_of_the_radii():
    assert bond_length("ethane-cc") == pytest.approx(1.52)
    assert bond_length("diatomic-cl2") == pytest.approx(2.04)
    assert bond_length("ethanol-oh") == pytest.approx(0.97)
    with pytest.raises(InputError, match="water-hoh parts no two atoms"):
        bond_length("water-hoh")


def test_interaction_that_ends_is_zero_beyond():
    energy = np.where(R < 5.0, morse(R) * (1 - R / 5.0) ** 2, 0.0)
    found = metrics("diatomic-h2", table(R, energy))
    first = np.flatnonzero(np.abs(energy) > 1e-6)[-1] + 1
    assert found["zero_beyond_angstrom"] == R[first] == pytest.approx(5.0, abs=0.1)
    assert found["limit_ev"] == 0
    # Noise of float32 is no interaction in float32, and is one in float64.
    noisy = energy + np.random.default_rng(0).uniform(-2e-4, 2e-4, len(R))
    assert metrics("diatomic-h2", table(R, noisy), precision="float32")["zero_beyond_angstrom"] <= R[R >= 5.0][0]
    assert np.isnan(metrics("diatomic-h2", table(R, noisy))["zero_beyond_angstrom"])


def test_bond_depth_is_counted_from_the_last_point():
    r = np.linspace(1.0, 6.0, 80)
    energy = morse(r, minimum=1.5)
    found = metrics("ethane-cc", table(r, energy - energy.min()))
    assert found["well_depth_ev"] == pytest.approx(energy[-1] - energy.min())
    assert "limit_ev" not in found


def test_failed_points_are_counted_and_left_out():
    curve = table(R, morse(R))
    curve.loc[[3, 50], "status"] = "not_finite"
    curve.loc[[3, 50], "relative_energy_ev"] = np.nan
    curve.loc[70, "status"] = "failed"
    curve.loc[71, "relative_energy_ev"] = np.inf  # no energy, whatever it is called
    found = metrics("diatomic-h2", curve)
    assert (found["n_failed"], found["dissociation_monotone"]) == (3, 1)
    assert np.isnan(found["largest_jump_ev"])
    nothing = metrics("diatomic-h2", curve.assign(status="unsupported"))
    assert nothing["n_failed"] == 100
    assert np.isnan(nothing["minimum_position"]) and np.isnan(nothing["tortuosity"])


def test_a_molecule_without_its_atoms_still_has_a_shape():
    curve = table(R, np.nan, energy_ev=morse(R) - 30.0)
    found = metrics("diatomic-h2", curve)
    assert found["well_depth_ev"] == pytest.approx(morse(6.5) - morse(R).min())
    assert found["minimum_position"] == pytest.approx(0.77, abs=5e-3)
    assert found["n_failed"] == 0 and np.isnan(found["limit_ev"])


def test_jump_is_the_step_and_not_the_slope():
    assert metrics("ethanol-cco", table(R, 50 - 7 * R))["largest_jump_ev"] == pytest.approx(0, abs=1e-9)
    assert metrics("diatomic-h2", table(R, 50 - 7 * np.minimum(R, 0.7)))["largest_jump_ev"] < 1e-9
    smooth = metrics("ethanol-cco", table(np.linspace(97, 117, 41), 0.01 * np.linspace(-1, 1, 41) ** 3))
    assert smooth["largest_jump_ev"] == pytest.approx(0, abs=1e-12)
    energy = np.zeros(41)
    energy[20] = 0.25
    assert metrics("ethanol-cco", table(np.linspace(97, 117, 41), energy))["largest_jump_ev"] == pytest.approx(0.25)


TURN = np.linspace(0, 360, 181)


def test_ethane_has_three_equal_minima():
    energy = 0.06 * (1 + np.cos(np.radians(3 * TURN)))
    found = metrics("dihedral-ethane", table(TURN, energy))
    assert found["n_minima"] == 3
    assert found["minimum_position"] == pytest.approx(60, abs=1e-3)
    assert found["barrier_ev"] == pytest.approx(0.12)
    assert found["symmetry_residual_ev"] == pytest.approx(0, abs=1e-12)
    # A term of one fold breaks the three-fold axis, one of a sine the mirror.
    broken = metrics("dihedral-ethane", table(TURN, energy + 0.01 * np.cos(np.radians(TURN))))
    assert broken["symmetry_residual_ev"] == pytest.approx(0.01 * np.sqrt(3), rel=1e-3)
    sine = metrics("dihedral-biaryl1", table(TURN, 0.01 * np.sin(np.radians(TURN))))
    assert sine["symmetry_residual_ev"] == pytest.approx(0.02)


def test_minima_across_the_ends_of_a_turn_count_once():
    found = metrics("dihedral-biaryl1", table(TURN, 0.1 * (1 - np.cos(np.radians(2 * TURN)))))
    assert found["n_minima"] == 2
    assert found["minimum_position"] in (pytest.approx(0, abs=1e-6), pytest.approx(180, abs=1e-6))
    assert metrics("cosan", table(TURN, np.zeros(181)))["n_minima"] == 0


def test_water_is_bent_or_straight():
    theta = np.linspace(44, 316, 200)
    x = (theta - 180) / 76
    bent = metrics("water-hoh", table(theta, 1.5 * (x**2 - 1) ** 2))
    assert bent["barrier_ev"] == pytest.approx(1.5, abs=0.01)
    assert bent["minimum_position"] == pytest.approx(104, abs=0.1)
    assert (bent["n_minima"], bent["symmetry_residual_ev"]) == (2, pytest.approx(0, abs=1e-12))
    assert 0.99 < bent["harmonic_r2"] < 1
    straight = metrics("water-hoh", table(theta, x**2))
    assert straight["barrier_ev"] < -0.1 and straight["n_minima"] == 1
    assert straight["harmonic_r2"] == pytest.approx(1)
    few = theta[::10]
    assert np.isnan(metrics("water-hoh", table(few, ((few - 180) / 76) ** 2))["harmonic_r2"])


def test_errors_against_the_reference_are_after_alignment_and_near_the_minimum():
    reference = table(R, morse(R))
    assert metrics("diatomic-h2", table(R, morse(R) + 3.0), reference)["rmse_ev"] == pytest.approx(0, abs=1e-12)
    shifted = morse(R, minimum=0.80)
    found = metrics("diatomic-h2", table(R, shifted), reference)
    assert found["minimum_error"] == pytest.approx(0.03, abs=3e-3)
    near = morse(R) <= morse(R).min() + analysis.WINDOW_EV
    assert 0 < near.sum() < len(R)
    difference = (shifted - morse(R))[near]
    assert found["rmse_ev"] == pytest.approx(difference.std())
    reference.loc[::2, "status"] = "not_converged"
    difference = (shifted - morse(R))[1::2][near[1::2]]
    assert metrics("diatomic-h2", table(R, shifted), reference)["rmse_ev"] == pytest.approx(difference.std())


def surface(energy, n=13):
    x, y = (each.ravel() for each in np.meshgrid(*[np.linspace(1.2, 1.8, n)] * 2, indexing="ij"))
    return table(np.arange(n * n, dtype=float), energy(x, y), x_angstrom=x, y_angstrom=y)


def test_surface_with_two_rectangles():
    def two(x, y):
        return 20 * (x + y - 2.9) ** 2 + 0.4 * (((x - y) / 0.2) ** 2 - 1) ** 2

    found = metrics("cyclobutadiene-2d", surface(two))
    assert found["n_minima"] == 2
    assert sorted((found["minimum_x"], found["minimum_y"])) == pytest.approx([1.35, 1.55])
    assert found["rectangularity"] == pytest.approx(0.2)
    assert found["barrier_ev"] == pytest.approx(0.4, abs=1e-9)
    assert found["symmetry_residual_ev"] == pytest.approx(0, abs=1e-12)
    tilted = metrics("cyclobutadiene-2d", surface(lambda x, y: two(x, y) + 0.1 * (x - y)))
    assert tilted["symmetry_residual_ev"] == pytest.approx(0.12)
    assert tilted["minimum_x"] < tilted["minimum_y"]
    square = metrics("cyclobutadiene-2d", surface(lambda x, y: (x - 1.45) ** 2 + (y - 1.45) ** 2))
    assert (square["barrier_ev"], square["rectangularity"], square["n_minima"]) == (0, 0, 1)


def test_rigid_motion_residual_is_the_spread():
    found = metrics("rotation-water", table(TURN, 0.01 * np.sin(np.radians(TURN))))
    assert found["symmetry_residual_ev"] == pytest.approx(0.02)
    assert "barrier_ev" not in found


def test_force_along_a_bond_is_the_derivative_of_the_energy():
    built = scan("ethanol-oh", points=401)
    forces = np.zeros((len(built), 9, 3))
    for index, each in enumerate(built.structures):
        bond = each.positions[3] - each.positions[2]
        r = np.linalg.norm(bond)
        pull = -2 * 4.5 * 1.9 * (1 - np.exp(-1.9 * (r - 0.97))) * np.exp(-1.9 * (r - 0.97))
        forces[index, 3], forces[index, 2] = pull * bond / r, -pull * bond / r
    along = force_along(built, forces.reshape(-1, 3))
    slope = np.gradient(morse(built.coordinate, minimum=0.97), built.coordinate, edge_order=2)
    np.testing.assert_allclose(along[1:-1], -slope[1:-1], atol=0.02)
    assert np.abs(slope).max() > 5
    with pytest.raises(InputError, match="forces of shape"):
        force_along(built, np.zeros((3, 3)))
    with pytest.raises(InputError, match="no single coordinate"):
        force_along(scan("cyclobutadiene-2d", grid=3), np.zeros((72, 3)))


def test_force_flips_come_from_the_forces_where_there_are_any():
    wavy = np.where(R < 0.77, 1.0, -1.0) * np.where((R > 3) & (R < 4), -1.0, 1.0)
    assert metrics("diatomic-h2", table(R, morse(R), force_along=wavy))["force_flips"] == 3
    assert metrics("diatomic-h2", table(R, morse(R)))["force_flips"] == 1


def test_analysis_of_several_curves_and_bad_tables():
    curves = pd.concat(
        [table(R, morse(R) + k, potential=name, precision="float64", scan="diatomic-h2") for k, name in enumerate("ab")]
    )
    reference = table(R, morse(R), scan="diatomic-h2", level="pbe0", method="restricted")
    worse = reference.assign(relative_energy_ev=reference["relative_energy_ev"] + 1, method="broken_symmetry")
    found = analyse(curves, pd.concat([worse, reference]))
    assert tuple(found.columns) == analysis.COLUMNS
    assert set(found["potential"]) == {"a", "b", "pbe0"}
    own = found[(found["potential"] == "pbe0") & (found["metric"] == "n_points")]
    assert own["value"].tolist() == [100] and own["precision"].tolist() == ["reference"]
    assert (found[found["metric"] == "rmse_ev"]["value"] < 1e-12).all()
    with pytest.raises(InputError, match="no column status"):
        analyse(curves.drop(columns="status"))
    with pytest.raises(InputError, match="2 levels; expected one"):
        analyse(curves, pd.concat([reference, reference.assign(level="hf")]))
    with pytest.raises(InputError, match="no such scan"):
        analyse(curves.assign(scan="diatomic-xe2"))


@pytest.fixture
def files(tmp_path):
    """Files of a scan, of two curves (one with forces) and of a reference with two methods."""
    built = scan("diatomic-h2")
    write_scan(built, tmp_path / "scans" / "diatomic-h2.npz")
    curve = table(built.coordinate, morse(built.coordinate)).assign(point=range(100), energy_ev=0.0)
    paths = [tmp_path / "curves" / name / "float64" / "diatomic-h2.csv" for name in ("good", "flat")]
    write_text(paths[0], curve.to_csv(index=False))
    write_text(paths[1], curve.assign(relative_energy_ev=0.0).to_csv(index=False))
    forces = np.zeros((100, 2, 3))
    forces[:, 1, 2] = -np.gradient(morse(built.coordinate), built.coordinate)
    forces[60, 1, 2] *= -1
    np.savez(paths[0].with_suffix(".npz"), forces=forces.reshape(-1, 3))
    done = curve.drop(columns="status").assign(converged=True, method="broken_symmetry")
    other = done.assign(converged=False, relative_energy_ev=-99.0, method="restricted")
    reference = tmp_path / "reference" / "diatomic-h2" / "pbe0.csv"
    write_text(reference, pd.concat([other, done]).to_csv(index=False))
    return SimpleNamespace(
        folder=tmp_path, curves=paths, scans=[tmp_path / "scans/diatomic-h2.npz"], reference=reference
    )


def test_analysis_of_files(files):
    found = analyse_files(files.curves, files.scans, files.folder / "analysis.csv", [files.reference])
    value = found.set_index(["potential", "metric"])["value"]
    assert value["good", "rmse_ev"] == pytest.approx(0, abs=1e-12)
    assert value["good", "force_flips"] == 3  # the well, and the point whose force was turned
    assert value["flat", "n_minima"] == 0
    assert value["pbe0", "minimum_position"] == pytest.approx(0.77, abs=5e-3)
    written = pd.read_csv(files.folder / "analysis.csv")
    pd.testing.assert_frame_equal(written, found.reset_index(drop=True), check_exact=False)


def test_damaged_inputs_of_the_analysis(files):
    with pytest.raises(InputError, match="no scan diatomic-h2"):
        analyse_files(files.curves, [], files.folder / "out.csv")
    with pytest.raises(InputError, match="no such file"):
        analyse_files([files.folder / "curves/none/float64/diatomic-h2.csv"], files.scans, files.folder / "out.csv")
    files.curves[0].with_suffix(".npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a file of forces"):
        analyse_files(files.curves, files.scans, files.folder / "out.csv")
    write_text(files.curves[1], "coordinate\n1\n")
    with pytest.raises(InputError, match="no column relative_energy_ev, status"):
        analyse_files(files.curves[1:], files.scans, files.folder / "out.csv")
    short = table(R[:50], morse(R[:50]))
    write_text(files.curves[1], short.to_csv(index=False))
    with pytest.raises(InputError, match="50 points of a scan of 100"):
        analyse_files(files.curves[1:], files.scans, files.folder / "out.csv")


def test_scripts(files):
    scripts = REPO / "workflow" / "scripts"
    params = SimpleNamespace(
        scans=["dihedral-fluoroallene"], settings={"points": {"dihedral": 13}}, code="", code_folder=None
    )
    output = files.folder / "scans" / "dihedral-fluoroallene.npz"
    job = SimpleNamespace(
        input=[FOLDER / "fluoroallene.xyz"], output=[output], params=params, log=[files.folder / "log.txt"]
    )
    runpy.run_path(str(scripts / "build_scans.py"), init_globals={"snakemake": job})
    assert len(read_scan(output)) == 13
    inputs = SimpleNamespace(
        curves=[each for path in files.curves for each in (path, path.with_suffix(".npz"))],
        scans=files.scans,
        references=[files.reference],
    )
    table_file = files.folder / "analysis.csv"
    job = SimpleNamespace(input=inputs, output=[table_file], params=params, log=[files.folder / "log.txt"])
    runpy.run_path(str(scripts / "analyse_scans.py"), init_globals={"snakemake": job})
    assert set(pd.read_csv(table_file)["potential"]) == {"good", "flat", "pbe0"}
    assert "2 curves and 1 references" in (files.folder / "log.txt").read_text()
