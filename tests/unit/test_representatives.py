"""Representative molecules: cover of the elements, farthest points, seeds, files of start structures, their drawing."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from ase.build import molecule
from ase.io import read as ase_read
from scipy.spatial.distance import pdist

from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.data.representatives import (
    Structure,
    bonds,
    choose_representatives,
    collect_structures,
    n_pieces,
    perceived_smiles,
    read_structures,
    representative_structures,
    write_representatives,
    write_structures,
)
from mlip_studies.data.store import Block, Store, StoreWriter
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.molecule_drawings import draw_molecules, molecules, projected

NAMES = ("CH4", "C2H6", "C2H4", "C2H2", "CH3OH", "H2CO", "CH3Cl", "CH3SH", "CH3NO2", "HCN", "C6H6", "C3H8", "H2O")
N_ROWS = 4
LOWEST = 2


def make_store(path, more=()) -> Store:
    """A group per molecule of ``NAMES``; row ``LOWEST`` of each is the undistorted one and has the lowest energy."""
    rng = np.random.default_rng(1)
    with StoreWriter(path, ["e", "other"], [], positions_dtype="float64") as writer:
        for index, name in enumerate(NAMES):
            atoms = molecule(name)
            positions = atoms.positions + rng.normal(scale=0.03, size=(N_ROWS, len(atoms), 3))
            positions[LOWEST] = atoms.positions
            energy = -100.0 * len(atoms) + np.array([0.3, np.nan, 0.0, 0.5])
            columns = {"e": energy, "other": energy[::-1].copy()}
            writer.append_block(
                Block(
                    str(1000 + index),
                    atoms.numbers.astype(np.uint8),
                    positions,
                    columns,
                    {},
                    np.arange(N_ROWS),
                )
            )
        for group, numbers, positions in more:
            writer.append(numbers, positions[None], {"e": [-1.0]}, group=group)
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with make_store(tmp_path_factory.mktemp("store") / "store.h5") as opened:
        yield opened


def elements_of(store, rows):
    return set(symbols(np.unique(store.read(rows, forces=False).atomic_numbers)))


@pytest.mark.parametrize("seed", range(5))
def test_elements_are_covered_first(store, seed):
    chosen = choose_representatives(store, 6, seed)
    cover = [choice for choice in chosen.choices if choice.reason == "cover"]
    assert elements_of(store, [choice.row for choice in cover]) == {"H", "C", "N", "O", "S", "Cl"}
    assert not chosen.missing
    added = [len(choice.elements) for choice in cover]
    assert added == sorted(added, reverse=True)
    # Nitromethane alone has four elements, so three molecules do.
    assert cover[0].formula == "CH3NO2"
    assert len(cover) == 3
    assert [choice.reason for choice in chosen.choices[3:]] == ["farthest"] * 3


def test_lowest_row_stands_for_its_group(store):
    chosen = choose_representatives(store, len(NAMES))
    assert (chosen.rows % N_ROWS == LOWEST).all()
    assert sorted(chosen.rows // N_ROWS) == list(range(len(NAMES)))
    # The other fidelity has its lowest energy in another row, and one without an energy never counts.
    assert (choose_representatives(store, 3, fidelity="other").rows % N_ROWS == N_ROWS - 1 - LOWEST).all()


def test_seed_settles_ties_only(store):
    a, b = (choose_representatives(store, 8, seed=3) for _ in range(2))
    assert a.to_dict() == b.to_dict()
    assert choose_representatives(store, 5, seed=3).to_dict()["choices"] == a.to_dict()["choices"][:5]
    # Every molecule has hydrogen, so which one comes first is a matter of the seed.
    first = {choose_representatives(store, 1, seed, elements=["H"]).choices[0].group for seed in range(12)}
    assert len(first) > 3


def test_next_is_the_farthest(store):
    """Distances of the chosen fall once the elements are covered, and beat those of all that were not chosen."""
    distances = [c.distance for c in choose_representatives(store, len(NAMES), seed=1).choices if c.reason != "cover"]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(distances))
    assert distances[0] > 2 * distances[-1] > 0
    groups = [choice.group for choice in choose_representatives(store, 4, elements=["H"]).choices]
    assert str(1000 + NAMES.index("C6H6")) in groups, "the only ring is far from everything"


def test_elements_asked_for_come_first(store):
    chosen = choose_representatives(store, 2, elements=["S", 17])
    assert [choice.elements for choice in chosen.choices] in ([("S",), ("Cl",)], [("Cl",), ("S",)])


def test_too_few_molecules_say_what_they_miss(store):
    chosen = choose_representatives(store, 1)
    assert chosen.missing == ("S", "Cl")
    assert np.isnan(chosen.choices[0].distance)
    assert chosen.to_dict()["choices"][0]["distance"] is None


def test_pieces_and_radicals_are_left_out(tmp_path):
    water = molecule("H2O")
    pair = np.concatenate([water.positions, water.positions + 8.0])
    more = [
        ("pair", np.tile(water.numbers, 2), pair),
        ("radical", np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 0.97]])),
        ("atom", np.array([35]), np.zeros((1, 3))),
    ]
    with make_store(tmp_path / "store.h5", more) as store:
        chosen = choose_representatives(store, len(NAMES))
        assert chosen.n_groups == len(NAMES) + 3
        assert chosen.n_left_out == 3
        assert not {choice.group for choice in chosen.choices} & {"pair", "radical", "atom"}
        with pytest.raises(InputError, match=f"{len(NAMES) + 1} molecules asked, {len(NAMES)} of {len(NAMES) + 3}"):
            choose_representatives(store, len(NAMES) + 1)
        with pytest.raises(InputError, match="no molecule with Br"):
            choose_representatives(store, 3, elements=["Br"])


def test_impossible_requests_are_one_line(store, tmp_path):
    for spec, message in [
        ({"n": 0}, "key 'n': 0"),
        ({}, "key 'n' is missing"),
        ({"n": 3, "sede": 1}, "unknown key 'sede'"),
        ({"n": 3, "elements": ["I"]}, "no molecule with I"),
        ({"n": 3, "fidelity": "x"}, "fidelity 'x'"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            write_representatives(store.path, spec, tmp_path / "out.xyz")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.xyz").exists()


def test_files_hold_what_was_chosen(store, tmp_path, capsys):
    output, report = tmp_path / "starts.xyz", tmp_path / "starts.json"
    chosen = write_representatives(store.path, {"n": 2, "seed": 2, "names": {"1008": "nitromethane"}}, output, report)
    assert "do not cover" in capsys.readouterr().out
    told = json.loads(report.read_text())
    assert [entry["row"] for entry in told["choices"]] == chosen.rows.tolist()
    structures = read_structures(output)
    assert structures[0].name == "nitromethane"
    assert structures[1].name == f"m{chosen.choices[1].group}"
    for structure, choice in zip(structures, chosen.choices, strict=True):
        numbers, positions = store.read([choice.row], forces=False).molecule(0)
        assert structure.group == choice.group
        assert structure.row == choice.row
        assert structure.formula == choice.formula
        np.testing.assert_array_equal(structure.atomic_numbers, numbers)
        np.testing.assert_allclose(structure.positions, positions, atol=1e-8)
    # What other readers of extxyz see.
    frames = ase_read(output, ":")
    assert [frame.info["name"] for frame in frames] == [structure.name for structure in structures]
    assert not frames[0].pbc.any()
    assert not frames[0].calc


def test_texts_survive_the_file(tmp_path):
    hf = molecule("HF")
    texts = [("T", "1e5", "F"), ("a b", "007", "F/C=C\\F"), ("1", "x", "")]
    written = [
        Structure(name, hf.numbers.astype(np.int64), hf.positions, group, smiles) for name, group, smiles in texts
    ]
    write_structures(written, tmp_path / "a.xyz")
    assert [(s.name, s.group, s.smiles) for s in read_structures(tmp_path / "a.xyz")] == texts
    write_structures([Structure("z", hf.numbers.astype(np.int64), hf.positions)], tmp_path / "b.xyz")
    collect_structures([tmp_path / "b.xyz", tmp_path / "a.xyz"], tmp_path / "c.xyz")
    assert [s.name for s in read_structures(tmp_path / "c.xyz")] == ["z", "T", "a b", "1"]
    assert read_structures(tmp_path / "c.xyz")[0].group == "z"
    with pytest.raises(InputError, match="two structures are called 'z'"):
        collect_structures([tmp_path / "b.xyz"] * 2, tmp_path / "d.xyz")
    with pytest.raises(InputError, match="expected text without quotes"):
        write_structures([Structure('z"', hf.numbers.astype(np.int64), hf.positions)], tmp_path / "d.xyz")
    (tmp_path / "e.xyz").write_text("2\n\nH 0 0 0\n")
    with pytest.raises(InputError, match="not an extxyz file of molecules"):
        read_structures(tmp_path / "e.xyz")
    with pytest.raises(InputError, match="no such file"):
        read_structures(tmp_path / "f.xyz")


@pytest.mark.parametrize(
    ("name", "smiles", "n_bonds"),
    [
        ("CH4", "C", 4), ("C2H2", "C#C", 3), ("HCN", "C#N", 2), ("CH3Cl", "CCl", 4), ("C6H6", "c1ccccc1", 12),
        ("CH3CONH2", "CC(N)=O", 8), ("CO2", "O=C=O", 2), ("CH3SH", "CS", 5),
    ],
)  # fmt: skip
def test_bonds_and_smiles_of_known_molecules(name, smiles, n_bonds):
    atoms = molecule(name)
    pairs, ratio = bonds(atoms.numbers, atoms.positions)
    assert len(pairs) == n_bonds
    assert n_pieces(len(atoms), pairs) == 1
    assert (ratio > 0.7).all()
    assert (ratio < 1.15).all()
    assert perceived_smiles(atoms.numbers, atoms.positions) == smiles


def test_smiles_of_what_is_no_neutral_molecule_is_empty():
    assert perceived_smiles(np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 0.97]])) == ""
    assert perceived_smiles(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 6.0]])) == ""


# ---- drawing ----


def test_projection_keeps_the_molecule_and_shows_every_atom():
    atoms = molecule("C6H6")
    seen = projected(atoms.numbers, atoms.positions)
    np.testing.assert_allclose(pdist(seen), pdist(atoms.positions), atol=1e-9)
    assert pdist(seen[:, :2]).min() > 0.9, "benzene is seen from above"
    np.testing.assert_allclose(seen[:, :2].max(axis=0) + seen[:, :2].min(axis=0), 0, atol=1e-9)
    # Methane's four hydrogens are all in view.
    atoms = molecule("CH4")
    assert pdist(projected(atoms.numbers, atoms.positions)[1:, :2]).min() > 0.5


@pytest.mark.parametrize("n", [1, 3, 9])
def test_drawing_holds_all_atoms_and_repeats(store, tmp_path, n):
    structures = representative_structures(store, choose_representatives(store, n))
    write_structures(structures, tmp_path / "s.xyz")
    contents = []
    for name in ("one", "two"):
        draw_molecules(tmp_path / "s.xyz", tmp_path / f"{name}.png", "mini", "a note")
        contents.append([(tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".png", ".svg", ".csv")])
    assert contents[0] == contents[1]
    tidy = pd.read_csv(tmp_path / "one.csv", dtype={"group": str})
    assert list(tidy["name"].unique()) == [s.name for s in structures]
    assert len(tidy) == sum(len(s.atomic_numbers) for s in structures)
    for structure in structures:
        drawn = tidy[tidy["name"] == structure.name]
        flat = pdist(drawn[["x_angstrom", "y_angstrom"]])
        assert (flat <= pdist(structure.positions) + 1e-5).all(), "a projection shortens"


def test_product_draws_the_file_of_start_structures(repository, store, tmp_path):
    claims = load_claims(repository / "config" / "claims" / "pavlovic.yaml")
    write_representatives(store.path, {"n": 3}, tmp_path / "s.xyz")
    tables, output = RunTables.from_paths([]), tmp_path / "molecules.png"
    molecules(tables, StudyContext("mini", claims, files=("a/runs.csv", str(tmp_path / "s.xyz"))), output)
    assert pd.read_csv(output.with_suffix(".csv"))["name"].nunique() == 3
    with pytest.raises(InputError, match="0 files of start structures given"):
        molecules(tables, StudyContext("mini", claims, files=("a/runs.csv",)), output)
