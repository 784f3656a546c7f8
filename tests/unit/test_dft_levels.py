"""Levels of theory: composite CCSD(T)/CBS, dispersion-corrected Kohn-Sham, charges, spins and isolated atoms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mlip_studies.dft.atoms import ground_state_spin, isolated_atom
from mlip_studies.dft.levels import DFT_LEVELS, DFTLevel, composite_ccsd_t_cbs, hf_cbs, mp2_cbs
from mlip_studies.dft.run import build_molecule, optimise_and_hessian, run_dft
from mlip_studies.units import BOHR_TO_ANGSTROM

COMPONENTS = (
    "hf_tz.energy",
    "hf_qz.energy",
    "mp2_tz.corr_energy",
    "mp2_qz.corr_energy",
    "npno_ccsd(t)_dz.corr_energy",
    "npno_ccsd(t)_tz.corr_energy",
    "tpno_ccsd(t)_dz.corr_energy",
)


def test_published_composite_energies():
    folder = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set: no published data to compare with")
    checked = missing = 0
    with h5py.File(Path(folder) / "ani" / "ani1x_schema_8rows.h5") as file:
        for group in file.values():
            for row, expected in enumerate(group["ccsd(t)_cbs.energy"][:]):
                found = composite_ccsd_t_cbs(*(float(group[key][row]) for key in COMPONENTS))
                # Rows without coupled cluster lack the components too.
                assert np.isnan(found) == np.isnan(expected)
                if np.isnan(expected):
                    missing += 1
                else:
                    assert abs(found - expected) < 1e-8
                    checked += 1
    assert (checked, missing) == (6, 2)


def test_extrapolations_recover_the_limit_of_their_own_law():
    limit, slope = -76.07, 3.1
    assert hf_cbs(*(limit + slope * np.exp(-5.46 * np.sqrt(n)) for n in (3, 4))) == pytest.approx(limit, abs=1e-12)
    assert mp2_cbs(*(limit + slope * n**-2.51 for n in (3, 4))) == pytest.approx(limit, abs=1e-12)


def test_canonical_coupled_cluster_has_no_local_correction():
    same = composite_ccsd_t_cbs(-76.05, -76.06, -0.26, -0.29, -0.21, -0.27, -0.21)
    shifted = composite_ccsd_t_cbs(-76.05, -76.06, -0.26, -0.29, -0.30, -0.27, -0.30)
    assert same == pytest.approx(shifted, abs=1e-12)


WATER = np.array([8, 1, 1])
BENT = np.array([[0.0, 0.02, 0.12], [0.03, 0.76, -0.47], [0.0, -0.74, -0.51]])
SPICE, QM7X, MD17 = "wb97m-d3(bj)/def2-tzvppd", "pbe0+mbd/def2-svp", "pbe-d3(bj)/def2-svp"


def small(name):
    """A level in the smallest def2 basis, for speed."""
    return replace(DFT_LEVELS[name], basis="def2-svp")


def test_dispersion_levels():
    levels = {name: DFT_LEVELS[name] for name in (SPICE, QM7X, MD17)}
    assert all(level.density_fit and not level.cartesian for level in levels.values())
    assert [level.dispersion for level in levels.values()] == ["d3bj", "mbd", "d3bj"]
    assert DFT_LEVELS["wb97x/6-31g(d)"].dispersion is None
    with pytest.raises(ValueError, match="'d4'"):
        DFTLevel("x", xc="pbe", basis="def2-svp", cartesian=False, density_fit=True, grid_level=3, dispersion="d4")


@pytest.mark.parametrize("name", [SPICE, MD17, QM7X])
def test_energy_and_forces_hold_the_dispersion(name):
    level, step = small(name), 2e-3
    result, density = run_dft(WATER, BENT, level)
    short = "mbd" if name == QM7X else "d3"
    assert result.converged
    assert result.parts[f"energy_{short}"] < -1e-5
    assert result.energy == pytest.approx(result.parts["energy_scf"] + result.parts[f"energy_{short}"], abs=1e-12)
    assert np.allclose(result.forces, result.parts["forces_scf"] + result.parts[f"forces_{short}"], atol=1e-12)
    assert np.abs(result.forces.sum(axis=0)).max() < 1e-6
    ends = []
    for sign in (1, -1):
        moved = BENT.copy()
        moved[1, 1] += sign * step
        end, _ = run_dft(WATER, moved, level, density, forces=False)
        assert np.isnan(end.forces).all()
        ends.append(end)
    for part, force, tolerance in (
        ("energy_scf", result.parts["forces_scf"], 1e-5),
        # At fixed volume ratios the many-body part is not the exact derivative.
        (f"energy_{short}", result.parts[f"forces_{short}"], 2e-5 if name == QM7X else 1e-8),
    ):
        slope = -(ends[0].parts[part] - ends[1].parts[part]) / (2 * step)
        assert force[1, 1] == pytest.approx(slope, abs=tolerance), part
    assert abs(result.parts[f"forces_{short}"][1, 1]) > 1e-6


def test_self_consistent_part_is_the_bare_functional():
    result, _ = run_dft(WATER, BENT, DFT_LEVELS[MD17])
    bare, _ = run_dft(WATER, BENT, replace(DFT_LEVELS[MD17], dispersion=None))
    assert result.parts["energy_scf"] == pytest.approx(bare.energy, abs=1e-8)
    assert np.allclose(result.parts["forces_scf"], bare.forces, atol=1e-6)
    assert set(bare.parts) == {"energy_scf", "forces_scf"}


def test_charge_and_spin():
    hydroxyl, positions = np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])
    radical, density = run_dft(hydroxyl, positions, DFT_LEVELS[QM7X], spin=1, forces=False)
    anion, closed = run_dft(hydroxyl, positions, DFT_LEVELS[QM7X], charge=-1, forces=False)
    assert radical.converged
    assert anion.converged
    assert density.shape[0] == 2
    assert closed.ndim == 2
    mol = build_molecule(hydroxyl, positions, "def2-svp", charge=-1)
    assert np.trace(closed @ mol.intor("int1e_ovlp")) == pytest.approx(10.0, abs=1e-8)
    # One electron more makes the atoms larger.
    assert (anion.parts["hirshfeld_ratios"] > radical.parts["hirshfeld_ratios"]).all()
    with pytest.raises(ValueError, match=r"even number of electrons \(10\) does not fit spin 1"):
        build_molecule(hydroxyl, positions, "def2-svp", charge=-1, spin=1)


def test_minimum_and_hessian_of_an_ion():
    numbers = np.array([2, 1])
    positions, hessian, energy = optimise_and_hessian(
        numbers, np.array([[0.0, 0.0, 0.0], [0.0, 0.1, 0.82]]), DFT_LEVELS[QM7X], charge=1
    )
    axis = (positions[1] - positions[0]) / np.linalg.norm(positions[1] - positions[0])
    stretch = np.concatenate([-axis, axis]) / 2
    curvature = stretch @ hessian @ stretch
    energies = [
        run_dft(numbers, positions + s * 0.01 * stretch.reshape(2, 3), DFT_LEVELS[QM7X], charge=1, forces=False)[0]
        for s in (-1, 0, 1)
    ]
    low, middle, high = (result.parts["energy_scf"] for result in energies)
    assert middle == pytest.approx(energy, abs=1e-8)
    assert (low + high - 2 * middle) / 0.01**2 == pytest.approx(curvature, rel=2e-3)
    assert 0.7 < np.linalg.norm(positions[1] - positions[0]) < 0.9


@pytest.mark.parametrize(
    ("element", "charge", "spin"),
    [("H", 0, 1), ("C", 0, 2), ("N", 0, 3), ("O", 0, 2), ("O", -1, 1), ("Na", 1, 0), ("Cl", 0, 1), ("Fe", 0, 4)],
)
def test_ground_state_spins(element, charge, spin):
    assert ground_state_spin(element, charge) == spin


def test_spins_that_are_not_known():
    with pytest.raises(ValueError, match="no electrons"):
        ground_state_spin("H", 1)
    with pytest.raises(ValueError, match="main groups"):
        ground_state_spin("Fe", 2)


# Isolated atoms of the published data sets, hartree: ANI (TorchANI) and SPICE (its reference energies).
ANI_ATOMS = {"H": -0.4993212, "C": -37.8338334, "N": -54.5732825, "O": -75.0424519, "S": -398.0814169}
SPICE_ATOMS = {
    "H": -0.4987605100487531,
    "C": -37.87264507233593,
    "N": -54.62327513368922,
    "O": -75.11317840410095,
    "S": -398.1599636677874,
}


@pytest.mark.parametrize("element", ANI_ATOMS)
def test_isolated_atoms_of_ani(element):
    atom = isolated_atom(element, "wb97x/6-31g(d)")
    assert (atom.converged, atom.status) == (True, "converged")
    assert atom.energy == pytest.approx(ANI_ATOMS[element], abs=1e-4)


@pytest.mark.parametrize("element", ["H", "N", *(pytest.param(e, marks=pytest.mark.slow) for e in ("C", "O", "S"))])
def test_isolated_atoms_of_spice(element):
    assert isolated_atom(element, SPICE).energy == pytest.approx(SPICE_ATOMS[element], abs=1e-3)


def test_fallback_ladder_is_reported():
    level = DFT_LEVELS["wb97x/6-31g(d)"]
    full, short = isolated_atom("O", level), isolated_atom("O", replace(level, max_cycle=5))
    assert short.status in {"converged_level_shift", "converged_newton"}
    assert short.energy == pytest.approx(full.energy, abs=1e-6)
    hopeless = isolated_atom("O", replace(level, max_cycle=0))
    assert (hopeless.converged, hopeless.status) == (False, "unconverged")
    with pytest.raises(ValueError, match="expected one of"):
        isolated_atom("O", "b3lyp")


@pytest.mark.slow
def test_published_spice_row(reference_data):
    with h5py.File(reference_data / "spice" / "SPICE-1.1.4_n2.hdf5") as file:
        group = file["C#C.[Na+]"]
        numbers = group["atomic_numbers"][:]
        positions = group["conformations"][0].astype(np.float64) * BOHR_TO_ANGSTROM
        energy, gradient = group["dft_total_energy"][0], group["dft_total_gradient"][0]
    result, _ = run_dft(numbers, positions, DFT_LEVELS[SPICE], charge=1)
    assert result.converged
    assert result.energy == pytest.approx(energy, abs=1e-4)
    assert np.abs(result.forces * BOHR_TO_ANGSTROM + gradient).max() < 3e-4
