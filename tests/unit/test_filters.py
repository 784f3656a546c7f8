"""Filters: what each rule keeps, what it counts, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlip_studies.data.filters import FILTERS, Filter, make_filters
from mlip_studies.data.molecules import smiles_facts
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError

ETHANOL = "[C:1]([C:2]([O:3][H:9])([H:7])[H:8])([H:4])([H:5])[H:6]"
ETHANOL_Z = [6, 6, 8, 1, 1, 1, 1, 1, 1]


def block(numbers, n: int = 4, group: str = "g", info=None, columns=None, energies=None, forces=None) -> Block:
    numbers = np.array(numbers, dtype=np.uint8)
    shape = (n, len(numbers), 3)
    return Block(
        group,
        numbers,
        np.zeros(shape),
        {"level": np.zeros(n) if energies is None else np.asarray(energies, dtype=float)},
        {"level": np.zeros(shape) if forces is None else forces},
        np.arange(n),
        info or {},
        columns or {},
    )


def one(options: dict, aux=None):
    (made,) = make_filters({"filters": [options]}, aux or {})
    return made


def smiles_block(smiles: str, numbers, **options) -> Block:
    return block(numbers, info={"smiles": smiles}, **options)


# ---- SMILES ----


@pytest.mark.parametrize(
    ("smiles", "charge", "numbers"),
    [
        (ETHANOL, 0, ETHANOL_Z),
        ("[N+:1]([H:2])([H:3])([H:4])[C:5]([H:6])([H:7])[C:8](=[O:9])[O-:10]", 0, [7, 1, 1, 1, 6, 1, 1, 6, 8, 8]),
        ("[C:1]([H:2])([H:3])([H:4])[N+:5](=[O:6])[O-:7]", 0, [6, 1, 1, 1, 7, 8, 8]),
        ("[H:3][C:1]#[C:2][H:4].[Na+:5]", 1, [6, 6, 1, 1, 11]),
        ("[Na+:1].[Cl-:2]", 0, [11, 17]),
        ("[Ca++:1]", 2, [20]),
        ("[O-:1][H:2]", -1, [8, 1]),
        # Seven bonds of a carbon are no concern of the charge.
        ("[C:1]([H:2])([H:3])([H:4])([H:5])[H:6]", 0, [6, 1, 1, 1, 1, 1]),
    ],
)
def test_charges_and_atoms_of_smiles(smiles, charge, numbers):
    facts = smiles_facts(smiles)
    assert facts.charge == charge
    assert facts.mismatch(np.array(numbers)) is None
    assert facts.order == tuple(numbers)


def test_hydrogens_that_are_not_written_count():
    facts = smiles_facts("CCO")
    assert facts.order is None and facts.mismatch(np.array(ETHANOL_Z)) is None
    assert facts.mismatch(np.array(ETHANOL_Z[::-1])) is None
    assert "the SMILES is C2H6O, the atoms are C2H4O" in facts.mismatch(np.array(ETHANOL_Z[:-2]))


def test_order_follows_the_map_numbers():
    assert "another order" in smiles_facts(ETHANOL).mismatch(np.array([6, 8, 6, 1, 1, 1, 1, 1, 1]))
    # Without a map number on every atom there is no order to compare with.
    assert smiles_facts("[O:1]([H])[H]").order is None
    assert smiles_facts("[O:1]([H:1])[H:2]").order is None


@pytest.mark.parametrize("smiles", ["C(", "not a molecule", "[Xx]", "", "*C"])
def test_smiles_that_are_rejected(smiles):
    assert smiles_facts(smiles) is None


# ---- neutral ----


def test_neutral_sums_over_atoms():
    neutral = one({"name": "neutral"})
    zwitterion = "[N+:1]([H:2])([H:3])([H:4])[C:5]([H:6])([H:7])[C:8](=[O:9])[O-:10]"
    assert neutral.keep(smiles_block(zwitterion, [7, 1, 1, 1, 6, 1, 1, 6, 8, 8])).all()
    assert neutral.keep(smiles_block("[Na+:1].[Cl-:2]", [11, 17])).all()
    assert not neutral.keep(smiles_block("[O-:1][H:2]", [8, 1], n=3)).any()
    assert not neutral.keep(smiles_block("[Na+:1]", [11], n=2)).any()
    assert neutral.keep(smiles_block("[Na+:1]", [11], n=0)).shape == (0,)
    assert neutral.reason() == "total formal charge of the SMILES not 0: 3 of charge -1, 2 of charge +1"


def test_neutral_refuses_smiles_of_other_atoms():
    neutral = one({"name": "neutral"})
    neutral.source = "S.hdf5"
    for smiles, numbers, message in (
        (ETHANOL, ETHANOL_Z[:-1], "the SMILES is C2H6O, the atoms are C2H5O"),
        (ETHANOL, ETHANOL_Z[::-1], "another order than the map numbers"),
        ("C(", [6], "RDKit cannot parse it"),
    ):
        with pytest.raises(InputError, match=r"^S\.hdf5: group g: SMILES ") as caught:
            neutral.keep(smiles_block(smiles, numbers))
        assert message in str(caught.value) and "\n" not in str(caught.value)
    lenient = one({"name": "neutral", "on_bad_smiles": "drop"})
    assert not lenient.keep(smiles_block("C(", [6], n=5)).any()
    assert not lenient.keep(smiles_block(ETHANOL, ETHANOL_Z[:-1], n=2)).any()
    assert "7 with a SMILES that cannot be parsed or is of other atoms" in lenient.reason()
    with pytest.raises(InputError, match="it has no smiles, which the filter neutral needs"):
        neutral.keep(block([6]))


# ---- the others ----


def test_elements():
    elements = one({"name": "elements", "keep": ["H", "C", "N", "O", "S"]})
    assert elements.keep(block([6, 1, 16])).all()
    assert not elements.keep(block([6, 17, 9])).any()
    assert not elements.keep(block([35], n=0)).any()
    assert elements.reason() == "elements other than H, C, N, O, S: 4 with Cl, 4 with F"
    with pytest.raises(InputError, match="'Q'"):
        one({"name": "elements", "keep": ["Q"]})


def test_subsets():
    names = ["SPICE PubChem Set 1 v1.2", "SPICE Ion Pairs v1.1", "SPICE DES Monomers v1.1"]
    blocks = [block([6], n=n, info={"subset": name}) for n, name in enumerate(names, start=1)]
    chosen = one({"name": "subsets", "prefixes": ["SPICE PubChem", "SPICE DES", "SPICE Dipeptides"]})
    assert [chosen.keep(item).all() for item in blocks] == [True, False, True]
    assert "2 of SPICE Ion Pairs v1.1" in chosen.reason() and "not met at all: SPICE Dipeptides" in chosen.reason()
    without = one({"name": "subsets", "exclude": ["SPICE Ion Pairs"]})
    assert [without.keep(item).all() for item in blocks] == [True, False, True]
    assert "not met" not in without.reason()
    both = one({"name": "subsets", "prefixes": ["SPICE"], "exclude": ["SPICE PubChem Set 1"]})
    assert [both.keep(item).all() for item in blocks] == [False, True, True]
    with pytest.raises(InputError, match="it has no subset"):
        without.keep(block([6]))
    with pytest.raises(InputError, match="expected `prefixes` or `exclude`"):
        one({"name": "subsets"})


def test_max_force():
    forces = np.zeros((4, 2, 3))
    forces[1, 0, 2], forces[2, 1, 1], forces[3] = -10.1, 9.9, np.nan
    limited = one({"name": "max_force", "ev_per_angstrom": 10.0})
    assert limited.keep(block([6, 1], forces=forces)).tolist() == [True, False, True, True]
    assert limited.reason() == "a force component above 10 eV/Å (largest met: 10.1 eV/Å)"
    other = one({"name": "max_force", "ev_per_angstrom": 10.0, "fidelity": "another"})
    assert other.keep(block([6, 1], forces=forces)).all()
    assert limited.keep(block([6, 1], n=0)).shape == (0,)
    with pytest.raises(InputError, match="expected a positive number"):
        one({"name": "max_force", "ev_per_angstrom": 0})


def test_energy_outliers():
    rng = np.random.default_rng(0)
    energies = -1000.0 + rng.normal(scale=0.5, size=50)
    energies[[7, 9]] = [-1060.0, -1009.0]
    energies[11] = np.nan
    default = one({"name": "energy_outliers"})
    keep = default.keep(block([6], n=50, energies=energies))
    # 15 robust deviations of 0.5 eV are 7.5 eV, below the floor of 8 eV; 9 eV and 60 eV are above it.
    assert np.flatnonzero(~keep).tolist() == [7, 9]
    assert "1 groups affected, the largest deviation is" in default.reason()
    strict = one({"name": "energy_outliers", "threshold": 3.0, "floor_ev": 0.0})
    calm = energies[20:40].copy()
    calm[3] += 4.0
    assert np.flatnonzero(~strict.keep(block([6], n=20, energies=calm))).tolist() == [3]
    wide = one({"name": "energy_outliers", "threshold": 15, "floor_ev": 100})
    assert wide.keep(block([6], n=50, energies=energies)).all()
    small = one({"name": "energy_outliers"})
    assert small.keep(block([6], n=4, energies=[0, 0, 0, 900])).all()
    assert "4 frames in groups too small to be judged" in small.reason()
    assert small.keep(block([6], n=0)).shape == (0,)
    assert one({"name": "energy_outliers", "fidelity": "x"}).keep(block([6], n=50, energies=energies)).all()
    with pytest.raises(InputError, match="expected threshold > 0"):
        one({"name": "energy_outliers", "threshold": 0})


def qm7x_block(group: str, isomer, conformer, displacement) -> Block:
    columns = {"isomer": isomer, "conformer": conformer, "displacement": displacement}
    arrays = {name: np.array(values, dtype=np.int32) for name, values in columns.items()}
    return block([6, 1], n=len(displacement), group=group, columns=arrays)


def test_listed_duplicates_go_with_their_displaced_structures(tmp_path):
    path = tmp_path / "DupMols.dat"
    path.write_text("Geom-m2-i1-c2-opt\nGeom-m2-i2-c1-opt\nGeom-m9-i1-c1-opt\n\n")
    listed = one({"name": "listed_duplicates"}, {"duplicates": path})
    first = qm7x_block("2", [1, 1, 1, 1, 2], [1, 2, 2, 2, 1], [0, 0, 1, 2, 5])
    assert listed.keep(first).tolist() == [True, False, False, False, False]
    assert listed.keep(qm7x_block("20", [1, 2], [2, 1], [0, 0])).all()
    assert listed.reason().endswith("3 ids listed, 1 met, 2 not met")
    assert not listed.keep(qm7x_block("2", [2], [1], [0])).any()
    assert listed.reason().endswith("3 ids listed, 2 met, 1 not met")
    with pytest.raises(InputError, match="it has no column isomer"):
        listed.keep(block([6]))


@pytest.mark.parametrize(
    ("content", "message"),
    [("Geom-m2-i1-c2-opt\nGeom-m2\n", "line 2: 'Geom-m2'"), ("Geom-m2-i1-c2-d1\n", "line 1"), ("\n", "it is empty")],
)
def test_bad_lists_of_duplicates(tmp_path, content, message):
    (tmp_path / "Dup.dat").write_text(content)
    with pytest.raises(InputError) as caught:
        one({"name": "listed_duplicates"}, {"duplicates": tmp_path / "Dup.dat"})
    assert "Dup.dat" in str(caught.value) and message in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.dat: no such file"):
        one({"name": "listed_duplicates"}, {"duplicates": tmp_path / "absent.dat"})
    with pytest.raises(InputError, match="no file with `role: duplicates`"):
        one({"name": "listed_duplicates"})


def test_equilibrium():
    item = qm7x_block("1", [1, 1, 1], [1, 1, 2], [0, 7, 0])
    assert one({"name": "equilibrium", "keep": "only"}).keep(item).tolist() == [True, False, True]
    assert one({"name": "equilibrium", "keep": "none"}).keep(item).tolist() == [False, True, False]
    with pytest.raises(InputError, match="expected only or none"):
        one({"name": "equilibrium", "keep": "some"})


# ---- the list ----


def test_filters_are_made_in_order_and_each_has_a_reason():
    entry = {
        "filters": [
            {"name": "neutral"},
            {"name": "elements", "keep": ["C"]},
            {"name": "subsets", "exclude": ["x"]},
            {"name": "max_force", "ev_per_angstrom": 1},
            {"name": "energy_outliers"},
            {"name": "equilibrium", "keep": "only"},
        ]
    }
    made = make_filters(entry, {})
    assert [item.name for item in made] == [item["name"] for item in entry["filters"]]
    assert all(item.reason() and "\n" not in item.reason() for item in made)
    assert make_filters({}, {}) == make_filters({"filters": None}, {}) == []
    assert {name: kind.name for name, kind in FILTERS.items()} == {name: name for name in FILTERS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "neutrl"}, r"filters\[0\]: no filter 'neutrl'; expected one of neutral, elements"),
        ({}, r"filters\[0\]: no filter None"),
        ({"name": "elements"}, "filters.elements: .*keep"),
        ({"name": "max_force", "limit": 1}, "filters.max_force: .*limit"),
        ({"name": "neutral", "on_bad_smiles": "ignore"}, "expected error or drop"),
        ({"name": "max_force", "ev_per_angstrom": "a lot"}, "filters.max_force"),
    ],
)
def test_bad_filters(options, message):
    with pytest.raises(InputError, match=message):
        make_filters({"filters": [options]}, {"duplicates": Path("x")})


def test_high_energy_and_the_base_class():
    with pytest.raises(InputError, match=r"filters.high_energy.keep: 'some'; expected only or none"):
        one({"name": "high_energy", "keep": "some"})
    with pytest.raises(TypeError, match="abstract"):
        Filter()
