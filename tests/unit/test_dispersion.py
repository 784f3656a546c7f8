"""Many-body dispersion: published energies, exact forces, symmetries and limits."""

from __future__ import annotations

import numpy as np
import pytest

from mlip_studies.dft.dispersion import (
    FREE_ATOMS,
    MBD_BETA,
    frequency_grid,
    hirshfeld_ratios,
    mbd_energy_and_forces,
    mbd_from_parameters,
    scaled_parameters,
)
from mlip_studies.units import BOHR_TO_ANGSTROM

# The published energies were computed with this bohr (Å).
OLD_BOHR = 0.529177249


def energy(atomic_numbers, positions, ratios, beta=0.83):
    return mbd_energy_and_forces(atomic_numbers, positions, ratios, beta, forces=False)[0]


def rotation(rng):
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


@pytest.fixture
def molecule():
    """Ten atoms of seven elements, none closer than 1.1 Å, with made-up volume ratios."""
    rng = np.random.default_rng(3)
    positions = [np.zeros(3)]
    while len(positions) < 10:
        trial = rng.uniform(-2.2, 2.2, size=3)
        if min(np.linalg.norm(trial - other) for other in positions) > 1.1:
            positions.append(trial)
    return np.array([6, 1, 8, 7, 16, 17, 1, 9, 1, 6]), np.array(positions), rng.uniform(0.5, 1.1, size=10)


@pytest.mark.parametrize("n_frequencies", [15, 20])
def test_published_argon_dimer(n_frequencies):
    """LibMBD's own check: two free argon atoms at 4 Å, PBE."""
    alpha, c6, radii = scaled_parameters(np.array([18, 18]), np.ones(2))
    coordinates = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0 / OLD_BOHR]])
    found, _ = mbd_from_parameters(coordinates, alpha, c6, radii, MBD_BETA["pbe"], n_frequencies=n_frequencies)
    assert found == pytest.approx(-0.0002462647623815428, rel=1e-10)


def test_published_benzene_dimer():
    """Interaction energy of the parallel-displaced benzene dimer as in libMBD's tests, PBE."""
    one = np.array(
        [
            [-1.047, -1.421, 0.000],
            [-1.454, -0.855, 1.206],
            [-1.454, -0.855, -1.206],
            [-2.266, 0.277, 1.206],
            [-2.671, 0.845, 0.000],
            [-2.266, 0.277, -1.206],
            [-1.133, -1.292, -2.142],
            [-2.582, 0.716, -2.143],
            [-3.303, 1.723, 0.000],
            [-2.582, 0.716, 2.143],
            [-1.133, -1.292, 2.142],
            [-0.406, -2.291, 0.000],
        ]
    )
    ratios = np.array([0.825, 0.821, 0.821, 0.815, 0.814, 0.815, 0.624, 0.611, 0.610, 0.611, 0.624, 0.643])
    numbers = np.repeat([6, 1], 6)

    def total(positions, numbers, ratios):
        return mbd_from_parameters(positions / OLD_BOHR, *scaled_parameters(numbers, ratios), 0.83, forces=False)[0]

    # The other molecule is the mirror image through the origin.
    dimer = total(np.vstack([one, -one]), np.tile(numbers, 2), np.tile(ratios, 2))
    assert dimer - 2 * total(one, numbers, ratios) == pytest.approx(-0.006312323931302544, rel=1e-9)


def test_published_water():
    """Volume ratios and energy of water at PBE/def2-SVP, from libMBD's interface to PySCF."""
    from pyscf import dft, gto

    mol = gto.M(atom="O 0 0 .1173; H 0 .7572 -.4692; H 0 -.7572 -.4692", basis="def2-svp", verbose=0)
    mf = dft.RKS(mol, xc="pbe").run()
    ratios = hirshfeld_ratios(mf)
    assert ratios == pytest.approx([0.95199, 0.549794, 0.549794], abs=2e-5)
    positions = mol.atom_coords() * BOHR_TO_ANGSTROM
    assert energy(np.array([8, 1, 1]), positions, ratios) == pytest.approx(-0.00024035, abs=1e-8)


@pytest.mark.parametrize(("element", "spin"), [("Ne", 0), ("N", 3)])
def test_an_isolated_atom_has_its_free_volume(element, spin):
    from pyscf import dft, gto

    mol = gto.M(atom=f"{element} 0 0 0", basis="def2-svp", spin=spin, verbose=0)
    mf = (dft.UKS if spin else dft.RKS)(mol, xc="pbe").run()
    # Exact for a closed shell; the spin polarisation of nitrogen is not in the restricted free atom.
    assert hirshfeld_ratios(mf) == pytest.approx([1.0], abs=5e-2 if spin else 1e-5)
    assert energy(np.array([10 if element == "Ne" else 7]), np.zeros((1, 3)), np.ones(1)) == pytest.approx(0, abs=1e-15)


def test_bases_that_cannot_be_divided():
    from pyscf import dft, gto

    mf = dft.RKS(gto.M(atom="He 0 0 0", basis="6-31g*", cart=True, verbose=0), xc="pbe")
    with pytest.raises(ValueError, match="spherical"):
        hirshfeld_ratios(mf)


def test_forces_are_exact_derivatives(molecule):
    numbers, positions, ratios = molecule
    found, forces = mbd_energy_and_forces(numbers, positions, ratios, 0.85)
    assert found == pytest.approx(energy(numbers, positions, ratios, 0.85), abs=1e-16)
    step, numerical = 1e-3, np.zeros_like(positions)
    for index in np.ndindex(*positions.shape):
        values = []
        for shift in (2, 1, -1, -2):
            moved = positions.copy()
            moved[index] += shift * step
            values.append(energy(numbers, moved, ratios, 0.85))
        far, near, back, far_back = values
        numerical[index] = (far - 8 * near + 8 * back - far_back) / (12 * step)
    assert np.abs(forces).max() > 1e-4
    assert np.abs(forces - numerical).max() < 1e-9


def test_symmetries(molecule):
    numbers, positions, ratios = molecule
    rng = np.random.default_rng(5)
    matrix, order = rotation(rng), rng.permutation(len(numbers))
    found, forces = mbd_energy_and_forces(numbers, positions, ratios, 0.83)
    turned, turned_forces = mbd_energy_and_forces(
        numbers[order], (positions @ matrix.T + [3.0, -1.0, 2.0])[order], ratios[order], 0.83
    )
    assert turned == pytest.approx(found, rel=1e-11)
    assert np.abs(turned_forces - (forces @ matrix.T)[order]).max() < 1e-12
    assert np.abs(forces.sum(axis=0)).max() < 1e-14
    assert np.abs(np.cross(positions, forces).sum(axis=0)).max() < 1e-14


def test_distant_atoms_attract_as_c6(molecule):
    """Beyond the damping the energy of a pair is -C6/R⁶ with the scaled coefficient; distant molecules only add up."""
    ratio = 0.9
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 25.0]])
    expected = -FREE_ATOMS["C"][1] * ratio**2 / (25.0 / BOHR_TO_ANGSTROM) ** 6
    found, forces = mbd_energy_and_forces(np.array([6, 6]), pair, np.full(2, ratio), 0.83)
    assert found == pytest.approx(expected, rel=1e-3)
    assert forces[1, 2] == pytest.approx(6 * expected / 25.0, rel=1e-3)
    numbers, positions, ratios = molecule
    far = positions + np.array([0.0, 0.0, 200.0])
    two = energy(np.tile(numbers, 2), np.vstack([positions, far]), np.tile(ratios, 2))
    assert two == pytest.approx(2 * energy(numbers, positions, ratios), rel=1e-6)


def test_casimir_polder_gives_c6_back():
    frequencies, weights = frequency_grid(20)
    alpha, c6 = FREE_ATOMS["N"][:2]
    dynamic = alpha / (1 + (frequencies / (4 * c6 / (3 * alpha**2))) ** 2)
    assert 3 / np.pi * weights @ dynamic**2 == pytest.approx(c6, rel=1e-8)


def test_breakdown_is_not_a_number():
    """Three strongly polarisable atoms on top of each other have no stable coupled oscillators."""
    numbers = np.array([3, 3, 3, 3])
    positions = 0.6 * np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    found, forces = mbd_energy_and_forces(numbers, positions, np.full(4, 3.0), 0.2)
    assert np.isnan(found)
    assert np.isnan(forces).all()


def test_unknown_element_is_named():
    with pytest.raises(ValueError, match="Pt"):
        scaled_parameters(np.array([1, 78]), np.ones(2))
