"""Single-point calculations with PySCF: energies, forces, Hessians and composite coupled cluster.

Inputs are in Å; results keep hartree and hartree/Å because they are written to the public layouts, which use these
units. A calculation that does not converge is a result (``converged`` is False), never an exception.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.dft.levels import CCLevel, DFTLevel, composite_ccsd_t_cbs
from mlip_studies.dft.sampling import rigid_motions
from mlip_studies.units import BOHR_TO_ANGSTROM, DEBYE_TO_E_ANGSTROM

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer]


@dataclass
class DFTResult:
    """A Kohn-Sham single point.

    Attributes:
        energy: total energy including dispersion, hartree.
        forces: total forces including dispersion, shape (n_atoms, 3), hartree/Å; NaN if they were not asked for.
        dipole: shape (3,), e·Å, about the origin of the coordinates.
        converged: whether the field converged and a many-body dispersion energy exists; otherwise the numbers mean
            nothing.
        seconds: wall time.
        parts: ``energy_scf`` (hartree, without dispersion), with a correction also ``energy_d3`` or ``energy_mbd``
            (hartree) and for MBD ``hirshfeld_ratios`` (n_atoms,); if forces were asked for ``forces_scf`` and
            ``forces_d3`` or ``forces_mbd`` (n_atoms, 3), hartree/Å.
    """

    energy: float
    forces: FloatArray
    dipole: FloatArray
    converged: bool
    seconds: float
    parts: dict[str, float | FloatArray] = field(default_factory=dict)


@dataclass
class CCResult:
    """Components of the composite coupled-cluster energy, keyed as in ani1x-release.h5 (hartree)."""

    components: dict[str, float] = field(default_factory=dict)
    converged: bool = True
    seconds: float = 0.0


def build_molecule(
    atomic_numbers: IntArray,
    positions: FloatArray,
    basis: str,
    cartesian: bool = False,
    charge: int = 0,
    spin: int = 0,
    max_memory: float = 6000,
) -> Any:
    """A PySCF molecule.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        basis: basis set, as PySCF spells it; the def2 sets bring their effective core potentials beyond krypton.
        cartesian: Cartesian instead of spherical d functions.
        charge: total charge, elementary charges.
        spin: number of unpaired electrons.
        max_memory: what PySCF plans its blocks with, MB.

    Raises:
        ValueError: positions are not finite, or the number of electrons does not fit the spin.
    """
    from pyscf import gto

    positions = np.asarray(positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise ValueError("positions hold NaN or infinite values")
    electrons = int(np.sum(atomic_numbers)) - charge
    if electrons < spin or (electrons - spin) % 2:
        kind = "odd" if electrons % 2 else "even"
        raise ValueError(f"{kind} number of electrons ({electrons}) does not fit spin {spin} (unpaired electrons)")
    atoms = [(int(z), tuple(xyz)) for z, xyz in zip(atomic_numbers, positions / BOHR_TO_ANGSTROM, strict=True)]
    ecp = basis if basis.startswith("def2") and np.max(atomic_numbers) > 36 else None
    return gto.M(
        atom=atoms,
        unit="Bohr",
        basis=basis,
        ecp=ecp,
        cart=cartesian,
        charge=charge,
        spin=spin,
        verbose=0,
        max_memory=max_memory,
    )


def mean_field(mol: Any, level: DFTLevel, unrestricted: bool = False) -> Any:
    """The Kohn-Sham object of a level, unrestricted if asked for or if the molecule has unpaired electrons."""
    from pyscf import dft

    mf = dft.UKS(mol, xc=level.xc) if mol.spin or unrestricted else dft.RKS(mol, xc=level.xc)
    if level.density_fit:
        mf = mf.density_fit()
    # A functional named "...-d3bj" switches its correction on itself.
    if level.dispersion == "d3bj" and not level.xc.endswith("d3bj"):
        mf.disp = "d3bj"
    mf.grids.level = level.grid_level
    mf.conv_tol = level.conv_tol
    mf.max_cycle = level.max_cycle
    return mf


def gpu_available() -> bool:
    """Whether gpu4pyscf and a device for it are there."""
    try:
        import_module("gpu4pyscf")
        found: bool = import_module("cupy").cuda.runtime.getDeviceCount() > 0
        return found
    except Exception:  # a driver that is missing or does not fit says so in many ways
        return False


def on_gpu(mf: Any) -> Any:
    """The same Kohn-Sham object, to be solved by gpu4pyscf.

    Raises:
        RuntimeError: gpu4pyscf or a device is missing.
    """
    if not gpu_available():
        raise RuntimeError("no GPU for quantum chemistry: gpu4pyscf, cupy or a device is missing")
    return mf.to_gpu()


def _host(values: Any) -> FloatArray:
    """An array of numpy or cupy as one of numpy."""
    return np.asarray(values.get() if hasattr(values, "get") else values)


def _on_host(mf: Any, level: DFTLevel) -> Any:
    """A CPU object with the converged orbitals of ``mf``, which is ``mf`` itself if it is on the CPU."""
    if not hasattr(mf.mo_coeff, "get"):
        return mf
    copy = mean_field(mf.mol, level)
    copy.mo_coeff, copy.mo_occ, copy.mo_energy = (_host(x) for x in (mf.mo_coeff, mf.mo_occ, mf.mo_energy))
    copy.e_tot, copy.converged = float(mf.e_tot), bool(mf.converged)
    return copy


def complete_field(
    mf: Any, energy: float, atomic_numbers: IntArray, positions: FloatArray, level: DFTLevel, forces: bool = True
) -> tuple[float, FloatArray, dict[str, float | FloatArray]]:
    """Forces and dispersion of a field that was iterated.

    Args:
        mf: the Kohn-Sham object, of PySCF or gpu4pyscf; many-body dispersion is computed on the CPU.
        energy: its energy, hartree.
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        level: the level of theory.
        forces: compute forces.

    Returns:
        total energy (hartree), total forces (n_atoms, 3) in hartree/Å, NaN without ``forces``, and the parts as in
        :class:`DFTResult`.
    """
    parts: dict[str, float | FloatArray] = {"energy_scf": energy}
    total_forces = np.full((len(atomic_numbers), 3), np.nan)
    if forces:
        gradient = mf.nuc_grad_method()
        gradient.grid_response = True
        total_forces = -_host(gradient.kernel()) / BOHR_TO_ANGSTROM
        parts["forces_scf"] = total_forces
    if level.dispersion == "d3bj":
        parts["energy_d3"] = float(mf.scf_summary["dispersion"])
        parts["energy_scf"] = energy - parts["energy_d3"]
        if forces:
            parts["forces_d3"] = -_host(gradient.get_dispersion()) / BOHR_TO_ANGSTROM
            parts["forces_scf"] = total_forces - parts["forces_d3"]
    elif level.dispersion == "mbd":
        from mlip_studies.dft.dispersion import MBD_BETA, hirshfeld_ratios, mbd_energy_and_forces

        ratios = hirshfeld_ratios(_on_host(mf, level))
        energy_mbd, forces_mbd = mbd_energy_and_forces(
            atomic_numbers, positions, ratios, MBD_BETA[level.xc], forces=forces
        )
        parts |= {"energy_mbd": energy_mbd, "hirshfeld_ratios": ratios}
        energy += energy_mbd
        if forces:
            parts["forces_mbd"] = forces_mbd
            total_forces = total_forces + forces_mbd
    return energy, total_forces, parts


def run_dft(
    atomic_numbers: IntArray,
    positions: FloatArray,
    level: DFTLevel,
    initial_density: FloatArray | None = None,
    charge: int = 0,
    spin: int = 0,
    forces: bool = True,
) -> tuple[DFTResult, FloatArray]:
    """Energy, forces and dipole at a Kohn-Sham level.

    MBD forces are those at fixed Hirshfeld ratios (see :mod:`mlip_studies.dft.dispersion`).

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        level: the level of theory.
        initial_density: density matrix of a similar geometry, a starting guess.
        charge: total charge, elementary charges.
        spin: number of unpaired electrons.
        forces: compute forces; without them the result holds NaN.

    Returns:
        The result and the density matrix, shape (n_basis, n_basis), or (2, n_basis, n_basis) with unpaired electrons.

    Raises:
        ValueError: positions are not finite, or the number of electrons does not fit the spin.
    """
    start = time.perf_counter()
    mol = build_molecule(atomic_numbers, positions, level.basis, level.cartesian, charge, spin)
    mf = mean_field(mol, level)
    energy = float(mf.kernel(dm0=initial_density))
    energy, total_forces, parts = complete_field(mf, energy, atomic_numbers, positions, level, forces)
    dipole = np.asarray(mf.dip_moment(verbose=0)) * DEBYE_TO_E_ANGSTROM
    density = np.asarray(mf.make_rdm1())
    converged = bool(mf.converged and np.isfinite(energy))
    return DFTResult(energy, total_forces, dipole, converged, time.perf_counter() - start, parts), density


def optimise_and_hessian(
    atomic_numbers: IntArray,
    positions: FloatArray,
    level: DFTLevel,
    max_steps: int = 60,
    tolerance: float = 1e-4,
    charge: int = 0,
) -> tuple[FloatArray, FloatArray, float]:
    """Minimise a geometry and return it with its Hessian.

    Newton steps in the internal degrees of freedom with the Hessian of the start geometry, renewed every ten steps
    and when the forces have grown; the Hessian of the result is computed at the minimum. Closed shells only.

    A many-body dispersion correction of the level is left out of energy, gradient and Hessian (some 0.01 eV/Å in the
    forces of small molecules), because the result only serves to place normal-mode samples; D3(BJ) is included.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: starting geometry, shape (n_atoms, 3), Å.
        level: the level of theory.
        max_steps: largest number of Newton steps.
        tolerance: largest internal force component at the minimum, hartree/Å.
        charge: total charge, elementary charges.

    Returns:
        positions (n_atoms, 3) in Å, Hessian (3 n_atoms, 3 n_atoms) in hartree/Å², energy in hartree.

    Raises:
        RuntimeError: no minimum within ``max_steps``, or the field did not converge.
    """
    positions = np.array(positions, dtype=np.float64)
    n = len(atomic_numbers)
    density: Any = None
    # Made in the first step at the latest.
    hessian: FloatArray = np.empty((0, 0))
    previous = np.inf
    for step_index in range(max_steps):
        mf = mean_field(build_molecule(atomic_numbers, positions, level.basis, level.cartesian, charge), level)
        energy = mf.kernel(dm0=density)
        if not mf.converged:
            raise RuntimeError("the self-consistent field did not converge during the optimisation")
        density = mf.make_rdm1()
        solver = mf.nuc_grad_method()
        solver.grid_response = True
        gradient = solver.kernel().reshape(-1) / BOHR_TO_ANGSTROM
        internal = _internal_directions(positions)
        internal_gradient = internal.T @ gradient
        largest = np.abs(internal @ internal_gradient).max()
        converged = largest < tolerance
        if converged or step_index % 10 == 0 or largest > previous:
            hessian = mf.Hessian().kernel().transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) / BOHR_TO_ANGSTROM**2
        if converged:
            return positions, hessian, float(energy)
        previous = largest
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
