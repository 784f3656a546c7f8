"""Normal-mode sampling and rebuilding of rows of the shipped mini data set."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.data import atomic_masses

from mlip_studies.dft.levels import CC_LEVELS, DFT_LEVELS
from mlip_studies.dft.run import build_molecule, run_composite_cc, run_dft
from mlip_studies.dft.sampling import normal_modes, rigid_motions, sample_displacements
from mlip_studies.mini_data.ani import CC_KEYS, MoleculeSpec, Recipe, formula, label_shard, sample_geometries
from mlip_studies.units import BOLTZMANN_HARTREE_PER_K

ROOT = Path(__file__).parents[2]
DATA = ROOT / "resources" / "ani1x-mini"
RECIPE = ROOT / "config" / "mini_data" / "ani.yaml"


@pytest.fixture(scope="module")
def shipped():
    with h5py.File(DATA / "ani1x-mini.h5") as stream:
        return {name: {key: stream[name][key][:] for key in stream[name]} for name in stream}


@pytest.fixture(scope="module")
def index():
    with (DATA / "rows.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def minimum(name):
    return json.loads((DATA / "minima" / f"{name}.json").read_text())


def modes_of(name):
    content = minimum(name)
    numbers = np.array(content["atomic_numbers"])
    positions = np.array(content["positions_angstrom"])
    hessian = np.array(content["hessian_hartree_per_angstrom2"])
    return numbers, positions, hessian, *normal_modes(positions, atomic_masses[numbers], hessian)


@pytest.mark.parametrize(("name", "expected"), [("H2O", 3), ("HCN", 4), ("CO", 1), ("CH4", 9), ("C2H2", 7)])
def test_number_of_modes(name, expected):
    numbers, positions, _, modes, force_constants = modes_of(name)
    assert modes.shape == (expected, len(numbers), 3)
    assert (force_constants > 0).all()
    assert np.allclose(np.linalg.norm(modes.reshape(expected, -1), axis=1), 1.0)
    # Vibrations move neither the centre of mass nor turn the molecule.
    masses = atomic_masses[numbers]
    assert np.abs(np.einsum("a,mac->mc", masses, modes)).max() < 1e-6
    angular = np.cross(positions[None], modes * masses[None, :, None]).sum(axis=1)
    assert np.abs(angular).max() < 1e-4


def test_water_frequencies_are_those_of_water():
    numbers, positions, hessian, _, _ = modes_of("H2O")
    # cm-1 from hartree/Å²/amu: sqrt(k/m)/(2 pi c).
    factor = np.sqrt(4.3597447222e-18 / 1e-20 / 1.66053906892e-27) / (2 * np.pi * 2.99792458e10)
    root = np.repeat(1 / np.sqrt(atomic_masses[numbers]), 3)
    values = np.linalg.eigvalsh(root[:, None] * hessian * root[None, :])
    frequencies = np.sqrt(values[-3:]) * factor
    assert frequencies == pytest.approx([1717, 3821, 3947], abs=40)
    assert rigid_motions(positions, atomic_masses[numbers]).shape == (9, 6)


def test_displacement_energy_is_bounded_by_the_temperature():
    numbers, _, hessian, modes, force_constants = modes_of("CH4")
    rng = np.random.default_rng(0)
    temperature = 600.0
    energies = []
    for _ in range(400):
        shift = sample_displacements(modes, force_constants, temperature, rng).reshape(-1)
        energies.append(0.5 * shift @ hessian @ shift)
    # Harmonic energy = 3/2 N k T sum(c_i), with sum(c_i) uniform over the simplex: mean n/(n+1).
    limit = 1.5 * len(numbers) * BOLTZMANN_HARTREE_PER_K * temperature
    cross_terms = 1.25
    assert max(energies) < limit * cross_terms
    assert np.mean(energies) == pytest.approx(limit * 9 / 10, rel=0.1)


def test_rows_do_not_depend_on_how_many_are_asked():
    recipe = Recipe.load(RECIPE)
    fewer = Recipe(
        recipe.seed,
        recipe.temperatures,
        recipe.dft_level,
        recipe.cc_level,
        recipe.shard_size,
        tuple(MoleculeSpec(m.name, m.geometry, 7, 0) for m in recipe.molecules),
    )
    whole, temperatures = sample_geometries(recipe, minimum("NH3"))
    part, _ = sample_geometries(fewer, minimum("NH3"))
    assert np.array_equal(whole[:7], part)
    assert temperatures[:4].tolist() == [300.0, 600.0, 1000.0, 300.0]


def test_shipped_file_has_the_promised_content(shipped, index):
    n_dft = sum(len(group["wb97x_dz.energy"]) for group in shipped.values())
    n_cc = sum(int(np.isfinite(group["ccsd(t)_cbs.energy"]).sum()) for group in shipped.values())
    heavy = {name: int((group["atomic_numbers"] > 1).sum()) for name, group in shipped.items()}
    n_cc_two = sum(
        int(np.isfinite(group["ccsd(t)_cbs.energy"]).sum()) for name, group in shipped.items() if heavy[name] == 2
    )
    assert n_dft >= 2200
    assert n_cc >= 1000
    assert n_cc_two >= 100
    assert max(heavy.values()) == 3
    assert set(np.concatenate([group["atomic_numbers"] for group in shipped.values()]).tolist()) == {1, 6, 7, 8}
    assert len(index) >= n_dft
    assert all(row["dft_converged"] == "True" for row in index if int(row["row"]) >= 0)
    for group in shipped.values():
        assert np.isfinite(group["wb97x_dz.energy"]).all()
        assert np.isfinite(group["wb97x_dz.forces"]).all()
        present = np.isfinite(group["ccsd(t)_cbs.energy"])
        for key in CC_KEYS:
            assert np.array_equal(np.isfinite(group[key]), present)


def test_geometries_of_the_file_are_those_of_the_recipe(shipped, index):
    recipe = Recipe.load(RECIPE)
    for molecule in recipe.molecules:
        geometries, _ = sample_geometries(recipe, minimum(molecule.name))
        group = shipped[formula(np.array(minimum(molecule.name)["atomic_numbers"]))]
        for row in (r for r in index if r["molecule"] == molecule.name and int(r["row"]) >= 0):
            stored = group["coordinates"][int(row["row"])]
            assert np.allclose(stored, geometries[int(row["sample"])], atol=2e-6, rtol=0)


def test_forces_agree_with_energy_differences(shipped):
    """The energy difference of two frames is the work of their mean force, which fixes sign and unit."""
    group = shipped["H2O1"]
    positions, energy, forces = (group[k].astype(float) for k in ("coordinates", "wb97x_dz.energy", "wb97x_dz.forces"))
    direct = -0.5 * ((forces[0:60:2] + forces[1:60:2]) * (positions[1:60:2] - positions[0:60:2])).sum((1, 2))
    difference = energy[1:60:2] - energy[0:60:2]
    assert np.corrcoef(direct, difference)[0, 1] > 0.9
    assert np.polyfit(direct, difference, 1)[0] == pytest.approx(1.0, abs=0.2)


DFT_ROWS = [
    ("H2O", 0), ("H2O", 301), ("NH3", 5), ("NH3", 222), ("CH4", 17),
    ("HCN", 3), ("CO", 2), ("N2", 4), ("HNO", 1), ("H2CO", 6),
]  # fmt: skip
SLOW_DFT_ROWS = [("CH3OH", 7), ("C2H2", 9), ("H2O2", 11), ("CO2", 12), ("HCOOH", 8), ("H2CCO", 2)]


def stored_row(shipped, index, molecule, sample):
    row = next(r for r in index if r["molecule"] == molecule and int(r["sample"]) == sample)
    group = shipped[row["group"]]
    return group["atomic_numbers"], {key: group[key][int(row["row"])] for key in group if key != "atomic_numbers"}


def rebuild_dft(shipped, index, molecule, sample):
    numbers, stored = stored_row(shipped, index, molecule, sample)
    result, _ = run_dft(numbers, stored["coordinates"].astype(np.float64), DFT_LEVELS["wb97x/6-31g(d)"])
    assert result.converged
    assert result.energy == pytest.approx(float(stored["wb97x_dz.energy"]), abs=1e-7)
    assert np.allclose(result.forces, stored["wb97x_dz.forces"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("molecule", "sample"), DFT_ROWS)
def test_dft_rows_are_rebuilt(shipped, index, molecule, sample):
    rebuild_dft(shipped, index, molecule, sample)


@pytest.mark.slow
@pytest.mark.parametrize(("molecule", "sample"), SLOW_DFT_ROWS)
def test_more_dft_rows_are_rebuilt(shipped, index, molecule, sample):
    rebuild_dft(shipped, index, molecule, sample)


def rebuild_cc(shipped, index, molecule, sample):
    numbers, stored = stored_row(shipped, index, molecule, sample)
    result = run_composite_cc(numbers, stored["coordinates"].astype(np.float64), CC_LEVELS["ccsd(t)/cbs canonical"])
    assert result.converged
    for key in CC_KEYS:
        assert result.components[key] == pytest.approx(float(stored[key]), abs=1e-7), key


@pytest.mark.parametrize(("molecule", "sample"), [("H2O", 1), ("H2O", 30), ("H2O", 48)])
def test_coupled_cluster_rows_are_rebuilt(shipped, index, molecule, sample):
    rebuild_cc(shipped, index, molecule, sample)


@pytest.mark.slow
@pytest.mark.parametrize(("molecule", "sample"), [("NH3", 2), ("CH4", 3), ("CO", 5), ("HCN", 1), ("N2", 0)])
def test_more_coupled_cluster_rows_are_rebuilt(shipped, index, molecule, sample):
    rebuild_cc(shipped, index, molecule, sample)


@pytest.mark.slow
def test_largest_basis_with_and_without_fitting(shipped, index):
    """HF and MP2 in cc-pVQZ use density fitting; the difference to the conventional values stays small."""
    from pyscf import mp, scf

    numbers, stored = stored_row(shipped, index, "H2O", 2)
    mf = scf.RHF(build_molecule(numbers, stored["coordinates"].astype(np.float64), "cc-pvqz"))
    mf.conv_tol = 1e-10
    assert mf.kernel() == pytest.approx(float(stored["hf_qz.energy"]), abs=2e-6)
    correlation = mp.MP2(mf, frozen=1).kernel(with_t2=False)[0]
    assert correlation == pytest.approx(float(stored["mp2_qz.corr_energy"]), abs=2e-5)


def test_shard_resumes_after_a_cut_line(tmp_path):
    recipe = Recipe.load(RECIPE)
    path = DATA / "minima" / "CO.json"
    output = tmp_path / "CO_dft_0000.jsonl"
    label_shard(recipe, path, "dft", 0, 2, output)
    whole = output.read_text()
    lines = whole.splitlines()
    # Killed while writing the second row: one whole line and half of the next.
    output.with_name(output.name + ".partial").write_text(lines[0] + "\n" + lines[1][:50])
    output.unlink()
    label_shard(recipe, path, "dft", 0, 2, output)
    first, second = (json.loads(line) for line in output.read_text().splitlines())
    assert output.read_text().splitlines()[0] == lines[0]
    assert second["row"] == 1
    assert second["energy"] == pytest.approx(json.loads(lines[1])["energy"], abs=1e-8)
    assert first["converged"]
    assert not output.with_name(output.name + ".partial").exists()


def test_bad_geometry_is_named():
    with pytest.raises(ValueError, match="NaN"):
        build_molecule(np.array([8, 1, 1]), np.full((3, 3), np.nan), "cc-pvdz")
    with pytest.raises(ValueError, match="odd number"):
        build_molecule(np.array([8, 1]), np.zeros((2, 3)), "cc-pvdz")
