"""Published and own energies per element side by side, and the statistics of Table 3.1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from mlip_studies.data.reference_energies import (
    COLUMNS,
    TABLE_COLUMNS,
    comparison_table,
    load_fit,
    load_isolated_atoms,
    load_reference_energies,
    residual_statistics,
    table31,
    write_csv,
)
from mlip_studies.data.self_energies import regress_store, write_self_energies
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.elements import number
from mlip_studies.errors import InputError
from mlip_studies.units import HARTREE_TO_EV, KCAL_PER_MOL_TO_EV

ATOMS = {1: -0.5, 6: -38.0, 8: -75.0}  # hartree
MOLECULES = ([8, 1, 1], [6, 1, 1, 1, 1], [6, 8], [6, 8, 1, 1])


@pytest.fixture
def reference(repository):
    return load_reference_energies(
        repository / "config" / "self_energies.yaml", repository / "workflow" / "schemas" / "self_energies.schema.yaml"
    )


def make_store(path: Path, dataset: str = "ani1_mini") -> tuple[Store, np.ndarray, np.ndarray]:
    """Energies (hartree) of sums over atoms less a binding energy, and what is left (hartree)."""
    rng = np.random.default_rng(0)
    energies, binding = [], []
    provenance = {"elements": [1, 6, 7, 8], "dataset": dataset}
    with StoreWriter(path, ["wb97x_dz", "other"], provenance=provenance) as writer:
        for z in MOLECULES:
            bound = -0.1 * len(z) + 0.02 * rng.normal(size=25)
            y = sum(ATOMS[a] for a in z) + bound
            writer.append(z, np.zeros((25, len(z), 3)), {"wb97x_dz": HARTREE_TO_EV * y}, group=str(z))
            energies.append(y)
            binding.append(bound)
    return Store(path), np.concatenate(energies), np.concatenate(binding)


def test_the_shipped_table(reference):
    spice = reference.published["spice_atoms"]
    assert spice.kind == "isolated_atom" and spice.energies_ev[1] == pytest.approx(-0.4987605100487531 * HARTREE_TO_EV)
    assert spice.energies_ev[number("I")] == pytest.approx(-297.76228914445625 * HARTREE_TO_EV)
    assert reference.published["qm7x_atoms"].energies_ev[number("Cl")] == -12516.444619523
    assert reference.published["md17_atoms"].energies_ev[8] == pytest.approx(-47069.30768969713 * KCAL_PER_MOL_TO_EV)
    # Levels that describe the same atoms agree within an eV per atom; a slip of a digit or a unit would not.
    for a, b in (
        ("spice_atoms", "torchani_atoms_wb97x"), ("spice_atoms", "qm7x_atoms"), ("ani1_readme", "torchani_atoms_wb97x"),
        ("torchani_atoms_ccsdt", "torchani_atoms_wb97x"), ("ani1x_linear_fit", "ani1ccx_linear_fit"),
    ):  # fmt: skip
        one, other = reference.published[a].energies_ev, reference.published[b].energies_ev
        for z in set(one) & set(other):
            assert abs(one[z] / other[z] - 1) < 0.003 + (0.01 if z == 1 else 0.0), (a, b, z)
    # Fits hold the mean binding energy, so they lie below the atoms.
    for fit, atoms in (("ani1x_linear_fit", "torchani_atoms_wb97x"), ("qm7x_linear_fit", "qm7x_atoms")):
        for z, energy in reference.published[fit].energies_ev.items():
            assert -10.0 < energy - reference.published[atoms].energies_ev[z] < -1.0


def test_data_sets_that_the_numbers_belong_to(reference):
    readme, fit = reference.published["ani1_readme"], reference.published["ani1x_linear_fit"]
    assert readme.belongs_to("ani1", "wb97x_dz") and readme.belongs_to("ani1_mini", "wb97x_dz")
    assert not readme.belongs_to("ani1x", "wb97x_dz") and not readme.belongs_to("ani1", "ccsd(t)_cbs")
    assert fit.belongs_to("ani1x_mini", "wb97x_dz") and not fit.belongs_to("ani1_mini", "wb97x_dz")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("published", "spice_atoms", "unit"), "rydberg", r"spice_atoms.unit.*expected one of .*found 'rydberg'"),
        (("published", "spice_atoms", "titel"), "x", "unknown key 'published.spice_atoms.titel'; did you mean 'title'"),
        (("published", "spice_atoms", "energies", "H"), 0.5, "published.spice_atoms.energies.H"),
        (("published", "spice_atoms", "energies", "Xx"), -1.0, "'published.spice_atoms.energies': element 'Xx'"),
        (("table31", "rows", "ANI-1", "published"), ["ani2"], r"table31.rows.ANI-1.published': 'ani2' is not among"),
        (("table31", "rows", "ANI-1", "after", "std_hartree"), -1, "table31.rows.ANI-1.after.std_hartree"),
    ],
)
def test_mistakes_in_the_file(repository, tmp_path, path, value, message):
    content = yaml.safe_load((repository / "config" / "self_energies.yaml").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "self_energies.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message) as caught:
        load_reference_energies(
            tmp_path / "self_energies.yaml", repository / "workflow" / "schemas" / "self_energies.schema.yaml"
        )
    assert "\n" not in str(caught.value) and "self_energies.yaml" in str(caught.value)


def test_comparison(reference, tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    with store:
        fit = regress_store(store)
    (tmp_path / "atoms.csv").write_text(
        "level,element,charge,energy_hartree,energy_ev,converged\n"
        "wB97X/6-31G(d),H,0,-0.5,-13.6,True\n"
        "wB97X/6-31G(d),O,0,-75.0,-2041.0,False\n"
        "wB97X/6-31G(d),C,1,-37.0,-1000.0,True\n"
        "wB97X/6-31G(d),S,0,-398.0,-10830.0,True\n"
        "other,C,0,-38.0,-1034.0,True\n"
    )
    atoms = load_isolated_atoms(tmp_path / "atoms.csv")
    assert atoms == {"wb97x/6-31g(d)": {1: -13.6, 16: -10830.0}, "other": {6: -1034.0}}
    table = comparison_table(reference, [fit], {"ani1_mini": {"wb97x_dz": "ωB97X/6-31G(d)"}}, atoms)
    assert tuple(table.columns) == COLUMNS
    assert set(table["dataset"]) == {"ani1_mini"} and set(table["element"]) == {"H", "C", "N", "O"}
    ours = table[table["kind"] == "linear fit, ours"].set_index("element")
    assert ours["level"].unique().tolist() == ["ωB97X/6-31G(d)"]
    result = fit["fidelities"]["wb97x_dz"]
    np.testing.assert_array_equal(ours.loc[["H", "C", "N", "O"], "energy_ev"], result["coefficients_ev"])
    np.testing.assert_array_equal(
        ours.loc[["H", "C", "N", "O"], "standard_error_ev"], result["standard_error_clustered_ev"]
    )
    assert "not determined" in ours.loc["N", "source"] and "not determined" not in ours.loc["H", "source"]
    published = table[table["kind"] == "isolated atom"]
    assert len(published) == 8 and published["standard_error_ev"].isna().all()  # README and torchani, four each
    own = table[table["kind"] == "isolated atom, ours"]
    assert own[["element", "energy_ev"]].to_numpy().tolist() == [["H", -13.6]]
    assert "linear fit, published" not in set(table["kind"])
    as_ani1x = comparison_table(reference, [{**fit, "dataset": "ani1x"}])
    assert (as_ani1x["kind"] == "linear fit, published").sum() == 4


def test_atoms_that_cannot_be_read(tmp_path):
    (tmp_path / "atoms.csv").write_text("level,element,energy_ev\nx,H,-1\n")
    with pytest.raises(InputError, match=r"atoms.csv: no column 'charge'"):
        load_isolated_atoms(tmp_path / "atoms.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty.csv: not a csv file"):
        load_isolated_atoms(tmp_path / "empty.csv")


def test_statistics_after_given_self_energies(tmp_path):
    store, _, binding = make_store(tmp_path / "s.h5")
    energies = {z: HARTREE_TO_EV * energy for z, energy in ATOMS.items()}
    with store:
        told = residual_statistics(store, "wb97x_dz", energies)
        assert told["n_rows"] == 100
        assert told["mean_ev"] == pytest.approx(HARTREE_TO_EV * binding.mean(), rel=1e-9)
        assert told["std_ev"] == pytest.approx(HARTREE_TO_EV * binding.std(), rel=1e-7)
        some = residual_statistics(store, "wb97x_dz", energies, rows=[99, 0])
        assert some["mean_ev"] == pytest.approx(HARTREE_TO_EV * binding[[0, 99]].mean(), rel=1e-9)
        with pytest.raises(InputError, match="element O in molecule 0: expected only H, C"):
            residual_statistics(store, "wb97x_dz", {1: -1.0, 6: -1.0})
        with pytest.raises(InputError, match="no rows with the label 'other'"):
            residual_statistics(store, "other", energies)


def test_table_3_1(reference, tmp_path):
    store, y, _ = make_store(tmp_path / "s.h5")
    with store:
        fit = regress_store(store)
        stores, fits = {"ANI-1": store, "ANI-1x": store}, {"ANI-1": fit, "ANI-1x": {**fit, "dataset": "ani1x"}}
        table = table31(reference, stores, fits)
        with pytest.raises(InputError, match=r"no data set for ANI-1x; set table31.ANI-1x in config/data.yaml"):
            table31(reference, {"ANI-1": store}, fits)
    assert tuple(table.columns) == TABLE_COLUMNS
    rows = table[table["row"] == "ANI-1"].reset_index(drop=True)
    assert rows["energies"].tolist() == [
        "as they are", "less linear fit, ours", "less linear fit, published", "less isolated atom, published",
        "less isolated atom, published",
    ]  # fmt: skip
    assert rows["paper_mean_hartree"].tolist() == [-338, 0.0574, 0.0574, 0.0574, 0.0574]
    assert rows["paper_std_hartree"].tolist() == [60.9, 0.110, 0.110, 0.110, 0.110]
    assert table[table["row"] == "ANI-1x"]["paper_std_hartree"].tolist()[:2] == [139, 0.106]
    assert rows.loc[0, "mean_hartree"] == pytest.approx(y.mean(), rel=1e-12)
    assert rows.loc[0, "std_hartree"] == pytest.approx(y.std(), rel=1e-12)
    residual = fit["fidelities"]["wb97x_dz"]["after"]
    assert rows.loc[1, "std_hartree"] == pytest.approx(residual["std_ev"] / HARTREE_TO_EV)
    # The linear fit has the least spread of all about zero.
    rms = np.hypot(rows["mean_hartree"], rows["std_hartree"])
    assert rms[1] == rms.min()
    expected = y - np.repeat(
        [sum(reference.published["ani1_readme"].energies_ev[a] for a in z) / HARTREE_TO_EV for z in MOLECULES], 25
    )
    assert rows.loc[3, "mean_hartree"] == pytest.approx(expected.mean(), rel=1e-9)
    assert "isayev/ANI1_dataset" in rows.loc[3, "self_energies"]
    write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == ",".join(TABLE_COLUMNS)


def test_fits_are_read_whole(tmp_path):
    store, _, _ = make_store(tmp_path / "s.h5")
    with store:
        fit = regress_store(store)
    write_self_energies(fit, tmp_path / "fit.json")
    assert load_fit(tmp_path / "fit.json") == fit
    for text in ("{}", "[1", "3"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad.json: not a file of self energies"):
            load_fit(tmp_path / "bad.json")
