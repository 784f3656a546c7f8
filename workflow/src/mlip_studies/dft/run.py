"""Single-point calculations with PySCF: energies, forces, Hessians and composite coupled cluster.

Inputs are in Å; results keep hartree and hartree/Å because they are written to the public layouts, which use these
units. A calculation that does not converge is a result (``converged`` is False), never an exception.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlip_studies.dft.levels import CCLevel, DFTLevel, composite_ccsd_t_cbs
from mlip_studies.dft.sampling import rigid_motions
from mlip_studies.units import BOHR_TO_ANGSTROM, DEBYE_TO_E_ANGSTROM

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer]


@dataclass
class DFTResult:
    """A Kohn-Sham single point. Energy in hartree, forces in hartree/Å, dipole in e·Å, shape (3,)."""

    energy: float
    forces: FloatArray
    dipole: FloatArray
    converged: bool
    seconds: float


@dataclass
class CCResult:
    """Components of the composite coupled-cluster energy, keyed as in ani1x-release.h5 (hartree)."""

    components: dict[str, float] = field(default_factory=dict)
    converged: bool = True
    seconds: float = 0.0


def build_molecule(atomic_numbers: IntArray, positions: FloatArray, basis: str, cartesian: bool = False):
    """A neutral closed-shell PySCF molecule; positions (n_atoms, 3) in Å.

    Raises:
        ValueError: positions are not finite or the electron count is odd.
    """
    from pyscf import gto

    positions = np.asarray(positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise ValueError("positions hold NaN or infinite values")
    if int(np.sum(atomic_numbers)) % 2:
        raise ValueError("odd number of electrons: only closed-shell neutral molecules are supported here")
    atoms = [(int(z), tuple(xyz)) for z, xyz in zip(atomic_numbers, positions / BOHR_TO_ANGSTROM, strict=True)]
    return gto.M(atom=atoms, unit="Bohr", basis=basis, cart=cartesian, verbose=0, max_memory=6000)


def _mean_field(mol, level: DFTLevel):
    from pyscf import dft

    mf = dft.RKS(mol, xc=level.xc)
    if level.density_fit:
        mf = mf.density_fit()
    mf.grids.level = level.grid_level
    mf.conv_tol = level.conv_tol
    mf.max_cycle = level.max_cycle
    return mf


def run_dft(
    atomic_numbers: IntArray, positions: FloatArray, level: DFTLevel, initial_density: FloatArray | None = None
) -> tuple[DFTResult, FloatArray]:
    """Energy, forces and dipole at a Kohn-Sham level.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        level: the level of theory.
        initial_density: density matrix of a similar geometry, a starting guess.

    Returns:
        The result and the density matrix, shape (n_basis, n_basis).
    """
    start = time.perf_counter()
    mf = _mean_field(build_molecule(atomic_numbers, positions, level.basis, level.cartesian), level)
    energy = mf.kernel(dm0=initial_density)
    gradient = mf.nuc_grad_method()
    gradient.grid_response = True
    forces = -np.asarray(gradient.kernel()) / BOHR_TO_ANGSTROM
    dipole = np.asarray(mf.dip_moment(verbose=0)) * DEBYE_TO_E_ANGSTROM
    density = np.asarray(mf.make_rdm1())
    return DFTResult(float(energy), forces, dipole, bool(mf.converged), time.perf_counter() - start), density


def optimise_and_hessian(
    atomic_numbers: IntArray, positions: FloatArray, level: DFTLevel, max_steps: int = 60, tolerance: float = 1e-4
) -> tuple[FloatArray, FloatArray, float]:
    """Minimise a geometry and return it with its Hessian.

    Newton steps in the internal degrees of freedom with the Hessian of the start geometry (renewed every ten steps);
    the Hessian of the result is computed at the minimum.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: starting geometry, shape (n_atoms, 3), Å.
        level: the level of theory.
        max_steps: largest number of Newton steps.
        tolerance: largest internal force component at the minimum, hartree/Å.

    Returns:
        positions (n_atoms, 3) in Å, Hessian (3 n_atoms, 3 n_atoms) in hartree/Å², energy in hartree.

    Raises:
        RuntimeError: no minimum within ``max_steps``, or the field did not converge.
    """
    positions = np.array(positions, dtype=np.float64)
    n = len(atomic_numbers)
    density = hessian = None
    for step_index in range(max_steps):
        mf = _mean_field(build_molecule(atomic_numbers, positions, level.basis, level.cartesian), level)
        energy = mf.kernel(dm0=density)
        if not mf.converged:
            raise RuntimeError("the self-consistent field did not converge during the optimisation")
        density = mf.make_rdm1()
        solver = mf.nuc_grad_method()
        solver.grid_response = True
        gradient = solver.kernel().reshape(-1) / BOHR_TO_ANGSTROM
        internal = _internal_directions(positions)
        internal_gradient = internal.T @ gradient
        converged = np.abs(internal @ internal_gradient).max() < tolerance
        if converged or step_index % 10 == 0:
            hessian = mf.Hessian().kernel().transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) / BOHR_TO_ANGSTROM**2
        if converged:
            return positions, hessian, float(energy)
        values, vectors = np.linalg.eigh(internal.T @ hessian @ internal)
        # Negative or soft curvature is followed downhill with a bounded step.
        step = -internal @ (vectors @ ((vectors.T @ internal_gradient) / np.maximum(np.abs(values), 0.01)))
        positions = positions + (step * min(1.0, 0.15 / np.abs(step).max())).reshape(n, 3)
    raise RuntimeError(f"no minimum within {max_steps} steps: largest force {np.abs(gradient).max():.2e} hartree/Å")


def _internal_directions(positions: FloatArray) -> FloatArray:
    """Orthonormal complement of translations and rotations, shape (3 n_atoms, n_internal)."""
    n = len(positions)
    rigid = rigid_motions(positions, np.ones(n))
    full, _ = np.linalg.qr(np.hstack([rigid, np.eye(3 * n)]))
    return full[:, rigid.shape[1] : 3 * n]


def run_composite_cc(atomic_numbers: IntArray, positions: FloatArray, level: CCLevel) -> CCResult:
    """Components of the composite CCSD(T)/CBS energy, canonical and frozen-core.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        level: the composite level.
    """
    from pyscf import cc, scf
    from pyscf.mp.dfmp2_native import DFRMP2

    start = time.perf_counter()
    result = CCResult()
    n_core = int(np.sum(np.asarray(atomic_numbers) > 2))
    previous = None
    for short, basis in zip(("dz", "tz", "qz"), level.bases, strict=True):
        mol = build_molecule(atomic_numbers, positions, basis)
        mf = scf.RHF(mol)
        if short == "qz":
            mf = mf.density_fit(auxbasis=level.qz_jkfit)
        mf.conv_tol = level.scf_conv_tol
        guess = None if previous is None else scf.addons.project_dm_nr2nr(previous[0], previous[1], mol)
        energy = mf.kernel(dm0=guess)
        previous = (mol, mf.make_rdm1())
        result.converged &= bool(mf.converged)
        result.components[f"hf_{short}.energy"] = float(energy)
        if short == "qz":
            solver = DFRMP2(mf, frozen=n_core, auxbasis=level.qz_ri)
            solver.kernel()
            result.components["mp2_qz.corr_energy"] = float(solver.e_corr)
            continue
        solver = cc.CCSD(mf, frozen=n_core)
        solver.conv_tol = level.cc_conv_tol
        solver.conv_tol_normt = level.cc_conv_tol_normt
        solver.max_cycle = 100
        eris = solver.ao2mo()
        result.components[f"mp2_{short}.corr_energy"] = float(solver.init_amps(eris)[0])
        correlation = solver.kernel(eris=eris)[0]
        result.converged &= bool(solver.converged)
        total = float(correlation + solver.ccsd_t(eris=eris))
        result.components[f"npno_ccsd(t)_{short}.corr_energy"] = total
        if short == "dz":
            result.components["tpno_ccsd(t)_dz.corr_energy"] = total
    c = result.components
    c["ccsd(t)_cbs.energy"] = composite_ccsd_t_cbs(
        c["hf_tz.energy"],
        c["hf_qz.energy"],
        c["mp2_tz.corr_energy"],
        c["mp2_qz.corr_energy"],
        c["npno_ccsd(t)_dz.corr_energy"],
        c["npno_ccsd(t)_tz.corr_energy"],
        c["tpno_ccsd(t)_dz.corr_energy"],
        level,
    )
    result.seconds = time.perf_counter() - start
    return result
