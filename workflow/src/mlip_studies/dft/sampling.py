"""Normal-mode sampling (J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017); thesis eq. 2.10-2.14)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlip_studies.units import BOLTZMANN_HARTREE_PER_K

FloatArray = NDArray[np.float64]


def rigid_motions(positions: FloatArray, masses: FloatArray) -> FloatArray:
    """Orthonormal mass-weighted translations and rotations.

    Args:
        positions: shape (n_atoms, 3), Å.
        masses: shape (n_atoms,), atomic mass units.

    Returns:
        shape (3 n_atoms, 6), or (3 n_atoms, 5) for a linear molecule.
    """
    root = np.sqrt(masses)
    centred = positions - np.average(positions, axis=0, weights=masses)
    vectors = []
    for axis in np.eye(3):
        vectors.append((root[:, None] * axis).reshape(-1))
        vectors.append((root[:, None] * np.cross(axis, centred)).reshape(-1))
    left, singular, _ = np.linalg.svd(np.array(vectors).T, full_matrices=False)
    return left[:, singular > 2e-2]


def normal_modes(positions: FloatArray, masses: FloatArray, hessian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Normalised Cartesian displacement vectors and their force constants (eq. 2.10, 2.11).

    Args:
        positions: a minimum, shape (n_atoms, 3), Å.
        masses: shape (n_atoms,), atomic mass units.
        hessian: shape (3 n_atoms, 3 n_atoms), hartree/Å².

    Returns:
        modes of shape (n_modes, n_atoms, 3), each with unit Euclidean norm, and force constants of shape (n_modes,)
        in hartree/Å²; n_modes is 3 n_atoms - 6, or 3 n_atoms - 5 for linear molecules.

    Raises:
        ValueError: the geometry is not a minimum (a force constant is not positive).
    """
    n = len(masses)
    inverse_root = np.repeat(1.0 / np.sqrt(masses), 3)
    weighted = inverse_root[:, None] * 0.5 * (hessian + hessian.T) * inverse_root[None, :]
    rigid = rigid_motions(positions, masses)
    # An orthonormal basis of the internal motions: the complement of the rigid ones.
    full, _ = np.linalg.qr(np.hstack([rigid, np.eye(3 * n)]))
    internal = full[:, rigid.shape[1] : 3 * n]
    eigenvalues, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    if eigenvalues.min() <= 0:
        raise ValueError(f"not a minimum: the lowest squared frequency is {eigenvalues.min():.3e} hartree/Å²/amu")
    cartesian = (inverse_root[:, None] * (internal @ vectors)).T
    norms = np.linalg.norm(cartesian, axis=1)
    force_constants = eigenvalues / norms**2
    return (cartesian / norms[:, None]).reshape(-1, n, 3), force_constants


def sample_displacements(
    modes: FloatArray, force_constants: FloatArray, temperature: float, rng: np.random.Generator
) -> FloatArray:
    """One displacement of all atoms by normal-mode sampling (eq. 2.12-2.14).

    The coefficients c_i are uniform over the simplex c_i >= 0, sum c_i <= 1; each mode moves by
    R_i = ±sqrt(3 c_i N_a k_B T / K_i) along its normalised displacement vector.

    Args:
        modes: shape (n_modes, n_atoms, 3).
        force_constants: shape (n_modes,), hartree/Å².
        temperature: K.
        rng: source of randomness.

    Returns:
        shape (n_atoms, 3), Å.
    """
    n_modes, n_atoms, _ = modes.shape
    coefficients = rng.dirichlet(np.ones(n_modes + 1))[:n_modes]
    signs = rng.choice([-1.0, 1.0], size=n_modes)
    amplitudes = signs * np.sqrt(3.0 * coefficients * n_atoms * BOLTZMANN_HARTREE_PER_K * temperature / force_constants)
    displacement: FloatArray = np.einsum("m,mac->ac", amplitudes, modes)
    return displacement
