"""Start structures of the named molecules: what is shipped, and that the code makes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from scipy.spatial.distance import pdist

from mlip_studies.artifacts import sha256_of
from mlip_studies.data.representatives import perceived_smiles, read_structures
from mlip_studies.errors import InputError
from mlip_studies.mini_data.stocker_molecules import MOLECULES, Recipe, _is_still, main, make_molecule, oriented
from mlip_studies.mini_data.xtb import relax

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "stocker-molecules"
# Formula and atoms of A to D: figure 3 of Stocker et al. shows 9 to 29 heavy atoms.
EXPECTED = {
    "paracetamol": ("C8H9NO2", 20), "furopyrrolamine": ("C6H6N2O", 15), "histidine": ("C6H9N3O2", 20),
    "ser-trp-leu": ("C20H28N4O5", 57), "acetonitrile": ("C2H3N", 6), "hydrogen-cyanide": ("CHN", 3),
    "propyne": ("C3H4", 7), "acetylene": ("C2H2", 4),
}  # fmt: skip
LINEAR = {"acetonitrile": (0, 1, 2), "hydrogen-cyanide": (2, 0, 1), "propyne": (0, 1, 2), "acetylene": (2, 0, 1)}


def shipped(name):
    (structure,) = read_structures(FOLDER / f"{name}.xyz")
    return structure


def with_hydrogens(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def test_all_molecules_are_shipped_and_in_the_card():
    assert set(EXPECTED) == set(MOLECULES) == {path.stem for path in FOLDER.glob("*.xyz")}
    card = dict(re.findall(r"\| `(\S+)\.xyz` \| [\d,]+ \| `([0-9a-f]{64})` \|", (FOLDER / "DATA_CARD.md").read_text()))
    assert card == {name: sha256_of(FOLDER / f"{name}.xyz") for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_shipped_molecule_is_the_one_named(name):
    structure = shipped(name)
    formula, n_atoms = EXPECTED[name]
    assert (structure.name, structure.formula, len(structure.atomic_numbers)) == (name, formula, n_atoms)
    smiles = Chem.CanonSmiles(MOLECULES[name].smiles)
    assert structure.smiles == smiles
    assert _is_still(with_hydrogens(MOLECULES[name].smiles), smiles, structure.positions)
    # Perceived from the geometry alone, without the SMILES.
    assert perceived_smiles(structure.atomic_numbers, structure.positions) == smiles


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "ser-trp-leu"])
def test_shipped_molecule_is_a_minimum(name):
    structure = shipped(name)
    positions, _ = relax(structure.atomic_numbers, structure.positions, tolerance=3e-3, steps=1)
    np.testing.assert_array_equal(positions, structure.positions)


@pytest.mark.parametrize("name", LINEAR)
def test_small_molecules_have_collinear_atoms(name):
    xyz = shipped(name).positions
    first, middle, last = LINEAR[name]
    a, b = xyz[first] - xyz[middle], xyz[last] - xyz[middle]
    assert np.dot(a, b) < 0
    assert np.linalg.norm(np.cross(a, b)) < 1e-6


@pytest.mark.parametrize("name", ["hydrogen-cyanide", "acetonitrile"])
def test_molecule_is_made_anew(name):
    made, there = make_molecule(name), shipped(name)
    assert made.structure.smiles == there.smiles
    np.testing.assert_array_equal(made.structure.atomic_numbers, there.atomic_numbers)
    np.testing.assert_allclose(pdist(made.structure.positions), pdist(there.positions), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paracetamol", "furopyrrolamine"])
def test_larger_molecule_is_made_anew(name):
    made, there = make_molecule(name), shipped(name)
    np.testing.assert_allclose(pdist(made.structure.positions), pdist(there.positions), atol=2e-2)


def test_a_changed_molecule_is_noticed():
    structure, smiles = shipped("histidine"), Chem.CanonSmiles(MOLECULES["histidine"].smiles)
    molecule = with_hydrogens(MOLECULES["histidine"].smiles)
    assert _is_still(molecule, smiles, structure.positions)
    assert not _is_still(molecule, smiles, -structure.positions), "the mirror image is D-histidine"
    moved = structure.positions.copy()
    moved[-1] += 3.0
    assert not _is_still(molecule, smiles, moved), "a hydrogen left"


def test_orientation_turns_and_does_not_mirror():
    structure = shipped("histidine")
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    moved = structure.positions @ turn + rng.normal(size=3)
    np.testing.assert_allclose(oriented(moved), structure.positions, atol=1e-6)
    assert np.abs(oriented(-moved) - structure.positions).max() > 0.1
    spread = np.ptp(structure.positions, axis=0)
    assert spread[0] > spread[1] > spread[2]


def test_mistakes_are_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="'C1' is not a SMILES"):
        make_molecule("ring", Recipe("C1"))
    assert main(["benzene", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: molecule 'benzene': expected one of paracetamol, ")
    assert not list(tmp_path.iterdir())


def test_command_line_writes_the_molecule(tmp_path, capsys):
    assert main(["acetylene", "--output", str(tmp_path)]) == 0
    assert "acetylene: C2H2, 4 atoms, C#C" in capsys.readouterr().out
    (made,) = read_structures(tmp_path / "acetylene.xyz")
    np.testing.assert_allclose(pdist(made.positions), pdist(shipped("acetylene").positions), atol=2e-3)
