"""Many-body dispersion, MBD@rsSCS.

Free-atom polarisabilities are scaled by Hirshfeld volume ratios (A. Tkatchenko, M. Scheffler, Phys. Rev. Lett. 102,
073005 (2009)), screened by the short-range part of the dipole coupling at imaginary frequencies, and coupled as
harmonic oscillators by its long-range part (A. Ambrosetti, A. M. Reilly, R. A. DiStasio Jr., A. Tkatchenko, J. Chem.
Phys. 140, 18A508 (2014)).

Energies are in hartree and positions in Å at the interface, Hartree atomic units inside. Forces are the exact
derivatives of the energy at fixed Hirshfeld ratios; the response of the ratios to the displacement is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.elements import number, symbol
from mlip_studies.units import BOHR_TO_ANGSTROM

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer]

# Steepness of the Fermi damping, and the range separation fitted for each functional (Ambrosetti et al., table I).
FERMI_STEEPNESS = 6.0
MBD_BETA: dict[str, float] = {"pbe": 0.83, "pbe0": 0.85}

# Free atoms: static polarisability (bohr³), C6 (hartree bohr⁶), van der Waals radius (bohr). Polarisabilities and C6
# from X. Chu and A. Dalgarno, J. Chem. Phys. 121, 4083 (2004); radii from Tkatchenko and Scheffler (2009).
FREE_ATOMS: dict[str, tuple[float, float, float]] = {
    "H": (4.50, 6.50, 3.10),
    "He": (1.38, 1.46, 2.65),
    "Li": (164.2, 1387.0, 4.16),
    "Be": (38.0, 214.0, 4.17),
    "B": (21.0, 99.5, 3.89),
    "C": (12.0, 46.6, 3.59),
    "N": (7.40, 24.2, 3.34),
    "O": (5.40, 15.6, 3.19),
    "F": (3.80, 9.52, 3.04),
    "Ne": (2.67, 6.38, 2.91),
    "Na": (162.7, 1556.0, 3.73),
    "Mg": (71.0, 627.0, 4.27),
    "Al": (60.0, 528.0, 4.33),
    "Si": (37.0, 305.0, 4.20),
    "P": (25.0, 185.0, 4.01),
    "S": (19.6, 134.0, 3.86),
    "Cl": (15.0, 94.6, 3.71),
    "Ar": (11.1, 64.3, 3.55),
    "Br": (20.0, 162.0, 3.93),
    "Kr": (16.8, 129.6, 3.82),
}


@cache
def free_atom_density(element: str, xc: str, basis: str) -> FloatArray:
    """Density matrix of the spherical free atom, shape (n_basis, n_basis).

    Restricted Kohn-Sham with the open shell spread evenly over its orbitals, in the basis of the molecule, so that an
    atom far from all others has a volume ratio of one in any basis.

    Raises:
        RuntimeError: the field of the atom did not converge.
    """
    from pyscf import gto
    from pyscf.scf.atom_ks import AtomSphAverageRKS

    mol = gto.M(atom=[(element, (0.0, 0.0, 0.0))], basis=basis, spin=number(element) % 2, verbose=0)
    mf = AtomSphAverageRKS(mol, xc=xc)
    mf.kernel()
    if not mf.converged:
        raise RuntimeError(f"the spherical free atom {element} at {xc}/{basis} did not converge")
    return np.asarray(mf.make_rdm1())


def hirshfeld_ratios(mf: Any) -> FloatArray:
    """Ratio of the Hirshfeld volume of each atom to the volume of the free atom, shape (n_atoms,).

    The volume is the integral of r³ times the density, on the integration grid of ``mf``.

    Args:
        mf: a converged Kohn-Sham object of PySCF, all-electron, with one named spherical basis for all atoms.

    Raises:
        ValueError: the basis is Cartesian, not one name, or has effective core potentials.
    """
    from pyscf.dft.numint import NumInt

    mol = mf.mol
    if mol.cart or mol.has_ecp() or not isinstance(mol.basis, str):
        raise ValueError("Hirshfeld ratios need one named, spherical, all-electron basis for all atoms")
    density = np.asarray(mf.make_rdm1())
    if density.ndim == 3:
        density = density.sum(axis=0)
    free = [free_atom_density(mol.atom_pure_symbol(i), mf.xc, mol.basis) for i in range(mol.natm)]
    slices = [slice(start, stop) for start, stop in mol.aoslice_by_atom()[:, 2:]]
    centres = mol.atom_coords()
    integrator = NumInt()
    volume, volume_free = np.zeros(mol.natm), np.zeros(mol.natm)
    for orbitals, _, weights, points in integrator.block_loop(mol, mf.grids, deriv=0):
        total = np.einsum("gp,gp->g", orbitals @ density, orbitals)
        # The atomic densities are spherical, so each atom's own block of the molecular orbitals gives them anywhere.
        atomic = np.array(
            [np.einsum("gp,gp->g", orbitals[:, s] @ d, orbitals[:, s]) for s, d in zip(slices, free, strict=True)]
        )
        atomic = np.maximum(atomic, 0.0)
        cubes = np.linalg.norm(points[None] - centres[:, None], axis=-1) ** 3 * weights
        share = atomic / np.maximum(atomic.sum(axis=0), 1e-30)
        volume += (cubes * share) @ total
        volume_free += np.einsum("ag,ag->a", cubes, atomic)
    return volume / volume_free


def scaled_parameters(atomic_numbers: IntArray, ratios: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Polarisability, C6 and van der Waals radius of atoms in a molecule.

    They scale with the volume ratio v as v, v² and v^(1/3).

    Args:
        atomic_numbers: shape (n_atoms,).
        ratios: Hirshfeld volume ratios, shape (n_atoms,).

    Returns:
        polarisabilities (bohr³), C6 (hartree bohr⁶), radii (bohr), each of shape (n_atoms,).

    Raises:
        ValueError: an element has no tabulated free atom.
    """
    names = [symbol(int(z)) for z in atomic_numbers]
    missing = sorted(set(names) - set(FREE_ATOMS))
    if missing:
        raise ValueError(f"no free-atom dispersion parameters for {', '.join(missing)}")
    alpha, c6, radius = np.array([FREE_ATOMS[name] for name in names]).T
    return alpha * ratios, c6 * ratios**2, radius * np.cbrt(ratios)


def frequency_grid(n: int = 15, scale: float = 0.6) -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre nodes and weights on imaginary frequencies from 0 to infinity (hartree), each of shape (n,)."""
    x, weights = np.polynomial.legendre.leggauss(n)
    return scale * (1.0 + x) / (1.0 - x), 2.0 * scale * weights / (1.0 - x) ** 2


@dataclass
class _Pairs:
    """Vectors between all atoms (n_atoms, n_atoms, 3) and distances (n_atoms, n_atoms), bohr; 1 on the diagonal."""

    vectors: FloatArray
    distances: FloatArray
    off_diagonal: FloatArray

    @classmethod
    def of(cls, coordinates: FloatArray) -> _Pairs:
        vectors = coordinates[:, None] - coordinates[None]
        identity = np.eye(len(coordinates))
        return cls(vectors, np.linalg.norm(vectors, axis=-1) + identity, 1.0 - identity)

    def tensor(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """``a`` times the unit matrix plus ``b`` times the outer product of the vector, shape (..., n, n, 3, 3)."""
        outer = self.vectors[..., :, None] * self.vectors[..., None, :]
        return a[..., None, None] * np.eye(3) + b[..., None, None] * outer

    def gradient(
        self, adjoint: FloatArray, da: FloatArray, b: FloatArray, db: FloatArray, radial: FloatArray | float = 0.0
    ) -> FloatArray:
        """Gradient with respect to the coordinates of sum(adjoint * tensor(a, b)), shape (n_atoms, 3).

        Args:
            adjoint: shape (..., n, n, 3, 3).
            da: derivative of ``a`` with respect to the distance, shape (..., n, n).
            b: factor of the outer product, shape (..., n, n).
            db: its derivative.
            radial: a further derivative with respect to the distance, shape (n, n).
        """
        right = np.einsum("...ijab,ijb->...ija", adjoint, self.vectors)
        left = np.einsum("...ijab,ija->...ijb", adjoint, self.vectors)
        slope = da * np.trace(adjoint, axis1=-2, axis2=-1) + db * np.einsum("...ija,ija->...ij", right, self.vectors)
        pair = slope[..., None] / self.distances[..., None] * self.vectors + b[..., None] * (left + right)
        pair = pair.reshape(-1, *self.vectors.shape).sum(axis=0)
        pair += (radial / self.distances)[..., None] * self.vectors
        pair *= self.off_diagonal[..., None]
        forces: FloatArray = pair.sum(axis=1) - pair.sum(axis=0)
        return forces


def _fermi(pairs: _Pairs, radii: FloatArray, beta: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fermi damping and its derivatives with respect to the distance and to the onset, each (n_atoms, n_atoms)."""
    onset = beta * (radii[:, None] + radii[None])
    damping = 1.0 / (1.0 + np.exp(-FERMI_STEEPNESS * (pairs.distances / onset - 1.0)))
    slope = FERMI_STEEPNESS * damping * (1.0 - damping)
    return damping, slope / onset, -slope * pairs.distances / onset**2


def _gaussian_dipole(
    pairs: _Pairs, widths: FloatArray
) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Dipole coupling of Gaussian charge clouds and its derivative with respect to the distance.

    Args:
        pairs: vectors and distances.
        widths: combined width of both clouds, shape (..., n, n), bohr.

    Returns:
        ((a, b), (da, db)), factors of :meth:`_Pairs.tensor`, each of the shape of ``widths``.
    """
    from scipy.special import erf

    r = pairs.distances
    z = r / widths
    theta = 2.0 / np.sqrt(np.pi) * z * np.exp(-(z**2))
    cloud = erf(z) - theta
    a, b = cloud / r**3, (2.0 * z**2 * theta - 3.0 * cloud) / r**5
    da = 2.0 * z * theta / (widths * r**3) - 3.0 * a / r
    db = -4.0 * z**3 * theta / (widths * r**5) - 5.0 * b / r
    return (a, b), (da, db)


def mbd_from_parameters(
    coordinates: FloatArray,
    alpha: FloatArray,
    c6: FloatArray,
    radii: FloatArray,
    beta: float,
    forces: bool = True,
    n_frequencies: int = 15,
) -> tuple[float, FloatArray]:
    """MBD@rsSCS energy and its gradient at fixed atomic parameters, in Hartree atomic units.

    Args:
        coordinates: shape (n_atoms, 3), bohr.
        alpha: static polarisabilities, shape (n_atoms,), bohr³.
        c6: dispersion coefficients, shape (n_atoms,), hartree bohr⁶.
        radii: van der Waals radii, shape (n_atoms,), bohr.
        beta: range separation.
        forces: compute the gradient; otherwise it is NaN.
        n_frequencies: number of imaginary frequencies of the quadrature.

    Returns:
        energy (hartree) and gradient, shape (n_atoms, 3), hartree/bohr; both NaN where the oscillator model breaks
        down (a polarisability or a squared frequency is not positive), as it may for atoms pushed together.
    """
    n = len(alpha)
    pairs = _Pairs.of(np.asarray(coordinates, dtype=np.float64))
    failed = float("nan"), np.full((n, 3), np.nan)
    frequencies, weights = frequency_grid(n_frequencies)
    # The static response comes first; it takes no part in the quadrature.
    frequencies, weights = np.append(0.0, frequencies), np.append(0.0, weights)

    # Screening by the short-range coupling.
    dynamic = alpha / (1.0 + (frequencies[:, None] / (4.0 / 3.0 * c6 / alpha**2)) ** 2)
    widths: FloatArray = np.cbrt(np.sqrt(2.0 / np.pi) * dynamic / 3.0)
    widths = np.sqrt(widths[:, :, None] ** 2 + widths[:, None, :] ** 2)
    damping, d_damping, _ = _fermi(pairs, radii, beta)
    short, d_short = 1.0 - damping, -d_damping
    (ga, gb), (dga, dgb) = _gaussian_dipole(pairs, widths)
    coupling = pairs.tensor(short * ga, short * gb) * pairs.off_diagonal[..., None, None]
    response: NDArray[np.floating] = coupling.transpose(0, 1, 3, 2, 4).reshape(-1, 3 * n, 3 * n)
    response[:, np.arange(3 * n), np.arange(3 * n)] += np.repeat(1.0 / dynamic, 3, axis=1)
    response = np.linalg.inv(response)
    blocks = response.reshape(-1, n, 3, n, 3)
    screened = np.einsum("kiaja->ki", blocks) / 3.0
    if not (screened > 0).all():
        return failed

    # Coupled oscillators with the long-range coupling.
    polarisability = screened[0]
    oscillator = 4.0 / np.pi * (weights @ screened**2) / polarisability**2
    screened_radii = radii * np.cbrt(polarisability / alpha)
    damping, d_damping, d_onset = _fermi(pairs, screened_radii, beta)
    r = pairs.distances
    bare = pairs.tensor(r**-3.0, -3.0 * r**-5.0) * pairs.off_diagonal[..., None, None]
    strength = oscillator * np.sqrt(polarisability)
    scale = strength[:, None] * strength[None]
    hamiltonian = (scale * damping)[..., None, None] * bare
    hamiltonian = hamiltonian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) + np.diag(np.repeat(oscillator**2, 3))
    squares, modes = np.linalg.eigh(hamiltonian)
    if squares[0] <= 0:
        return failed
    energy = 0.5 * float(np.sqrt(squares).sum()) - 1.5 * float(oscillator.sum())
    if not forces:
        return energy, failed[1]

    # Derivatives of the energy, from the eigenvalues back to the positions.
    adjoint = ((modes / (4.0 * np.sqrt(squares))) @ modes.T).reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
    overlap = np.einsum("ijab,ijab->ij", adjoint, bare)
    to_strength = 2.0 * (damping * overlap) @ strength
    to_oscillator = 2.0 * oscillator * np.einsum("iiaa->i", adjoint) - 1.5 + to_strength * np.sqrt(polarisability)
    to_damping = scale * overlap
    to_radii = 2.0 * beta * (to_damping * d_onset).sum(axis=1)
    to_static = (
        to_strength * oscillator / (2.0 * np.sqrt(polarisability))
        + to_radii * screened_radii / (3.0 * polarisability)
        - 2.0 * to_oscillator * oscillator / polarisability
    )
    to_screened = 8.0 / np.pi * weights[:, None] * screened * (to_oscillator / polarisability**2)
    to_screened[0] += to_static
    gradient = pairs.gradient(
        (scale * damping)[..., None, None] * adjoint,
        -3.0 * r**-4.0,
        -3.0 * r**-5.0,
        15.0 * r**-6.0,
        radial=to_damping * d_damping,
    )
    # d(inverse) = -inverse d(coupling) inverse; every Cartesian direction is a pair of vectors of the response.
    left = np.einsum("ki,kiajb->kajb", to_screened, blocks)
    right = blocks.sum(axis=3)
    to_coupling = -np.einsum("kaib,kjca->kijbc", left, right) / 3.0
    gradient += pairs.gradient(to_coupling, d_short * ga + short * dga, short * gb, d_short * gb + short * dgb)
    return energy, gradient


def mbd_energy_and_forces(
    atomic_numbers: IntArray, positions: FloatArray, ratios: FloatArray, beta: float, forces: bool = True
) -> tuple[float, FloatArray]:
    """MBD@rsSCS energy, and forces at fixed Hirshfeld ratios.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        ratios: Hirshfeld volume ratios, shape (n_atoms,).
        beta: range separation, :data:`MBD_BETA` of the functional.
        forces: compute forces; otherwise they are NaN.

    Returns:
        energy (hartree) and forces, shape (n_atoms, 3), hartree/Å; NaN where the oscillator model breaks down.

    Raises:
        ValueError: an element has no tabulated free atom.
    """
    alpha, c6, radii = scaled_parameters(atomic_numbers, np.asarray(ratios, dtype=np.float64))
    energy, gradient = mbd_from_parameters(
        np.asarray(positions) / BOHR_TO_ANGSTROM, alpha, c6, radii, beta, forces=forces
    )
    return energy, -gradient / BOHR_TO_ANGSTROM
