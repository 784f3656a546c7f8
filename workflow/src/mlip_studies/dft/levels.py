"""Named levels of theory.

One table says what a level name means, so that labels, spot checks and captions can never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt


@dataclass(frozen=True)
class DFTLevel:
    """A Kohn-Sham level.

    Attributes:
        name: the name used in configuration files and data cards.
        xc: functional, as PySCF spells it.
        basis: basis set, as PySCF spells it.
        cartesian: Cartesian (6D) instead of spherical (5D) d functions.
        density_fit: density fitting of the Coulomb and exchange integrals.
        grid_level: PySCF's grid level; 3 is (50,302) for H and (75,302) for C, N, O, pruned.
        conv_tol: energy convergence of the self-consistent field (hartree).
        max_cycle: limit of the plain DIIS iteration.
        dispersion: ``None``, ``"d3bj"`` (pairwise, part of the field's energy and gradient) or ``"mbd"`` (many-body,
            :mod:`mlip_studies.dft.dispersion`, added to the converged field).
    """

    name: str
    xc: str
    basis: str
    cartesian: bool
    density_fit: bool
    grid_level: int
    conv_tol: float = 1e-10
    max_cycle: int = 50
    dispersion: str | None = None

    def __post_init__(self) -> None:
        """Refuse a dispersion correction that is not implemented."""
        if self.dispersion not in (None, "d3bj", "mbd"):
            raise ValueError(f"dispersion {self.dispersion!r}: expected None, 'd3bj' or 'mbd'")


@dataclass(frozen=True)
class CCLevel:
    """The composite CCSD(T)/CBS level of ANI-1ccx, in canonical form.

    E = HF/CBS + MP2/CBS + (CCSD(T)/TZ - MP2/TZ) + (CCSD(T)/DZ - CCSD(T)/DZ), frozen core, cc-pVnZ. ANI-1ccx used
    DLPNO-CCSD(T) with NormalPNO and TightPNO settings, where the last bracket is a correction; with canonical
    coupled cluster it is zero. (J. S. Smith et al., Nat. Commun. 10, 2903 (2019).)

    HF and MP2 in the largest basis use the resolution of the identity with fitting sets one cardinal number larger
    (about 1e-6 and 1e-5 hartree from the conventional values, half the cost of the whole recipe); everything else is
    conventional.
    """

    name: str
    bases: tuple[str, str, str] = ("cc-pvdz", "cc-pvtz", "cc-pvqz")
    hf_alpha: float = 5.46
    mp2_beta: float = 2.51
    qz_jkfit: str = "cc-pv5z-jkfit"
    qz_ri: str = "cc-pv5z-ri"
    scf_conv_tol: float = 1e-10
    cc_conv_tol: float = 1e-9
    cc_conv_tol_normt: float = 1e-6


DFT_LEVELS: dict[str, DFTLevel] = {
    level.name: level
    for level in (
        # ANI-1, ANI-1x and COMP6: Gaussian's 6-31G(d) has Cartesian d functions.
        DFTLevel("wb97x/6-31g(d)", xc="wb97x", basis="6-31g*", cartesian=True, density_fit=False, grid_level=3),
        # SPICE: wB97M-D3(BJ), that is wB97M-V with its nonlocal part replaced by D3(BJ), without three-body terms.
        DFTLevel(
            "wb97m-d3(bj)/def2-tzvppd",
            xc="wb97m-d3bj",
            basis="def2-tzvppd",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="d3bj",
        ),
        # In the manner of QM7-X, which used numerical atomic orbitals; total energies are not comparable.
        DFTLevel(
            "pbe0+mbd/def2-svp",
            xc="pbe0",
            basis="def2-svp",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="mbd",
        ),
        # Nearer to QM7-X's tight numerical orbitals, for checks against published labels.
        DFTLevel(
            "pbe0+mbd/def2-tzvp",
            xc="pbe0",
            basis="def2-tzvp",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="mbd",
        ),
        DFTLevel(
            "pbe0+mbd/def2-tzvpp",
            xc="pbe0",
            basis="def2-tzvpp",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="mbd",
        ),
        # References for scans: wB97X-V with its nonlocal part replaced by D3(BJ); full exchange at long range, so that
        # broken bonds end at their fragments.
        DFTLevel(
            "wb97x-d3bj/def2-tzvp",
            xc="wb97x-d3bj",
            basis="def2-tzvp",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="d3bj",
        ),
        # Cheap, for timings and comparisons; no dispersion.
        DFTLevel("pbe0/def2-svp", xc="pbe0", basis="def2-svp", cartesian=False, density_fit=True, grid_level=3),
        # In the manner of MD17, which used PBE with the Tkatchenko-Scheffler correction.
        DFTLevel(
            "pbe-d3(bj)/def2-svp",
            xc="pbe",
            basis="def2-svp",
            cartesian=False,
            density_fit=True,
            grid_level=3,
            dispersion="d3bj",
        ),
    )
}

CC_LEVELS: dict[str, CCLevel] = {level.name: level for level in (CCLevel("ccsd(t)/cbs canonical"),)}


def hf_cbs(hf_tz: float, hf_qz: float, alpha: float = 5.46) -> float:
    """Two-point exponential extrapolation of the Hartree-Fock energy (hartree) from cc-pVTZ and cc-pVQZ."""
    a, b = exp(-alpha * sqrt(4.0)), exp(-alpha * sqrt(3.0))
    return (hf_tz * a - hf_qz * b) / (a - b)


def mp2_cbs(mp2_tz: float, mp2_qz: float, beta: float = 2.51) -> float:
    """Two-point power-law extrapolation of the MP2 correlation energy (hartree) from cc-pVTZ and cc-pVQZ.

    The exponent 2.51 reproduces the published ``ccsd(t)_cbs.energy`` column of ANI-1x; ORCA's usual 3.05 does not.
    """
    a, b = 3.0**beta, 4.0**beta
    limit: float = (a * mp2_tz - b * mp2_qz) / (a - b)
    return limit


def composite_ccsd_t_cbs(
    hf_tz: float,
    hf_qz: float,
    mp2_tz: float,
    mp2_qz: float,
    npno_ccsd_t_dz: float,
    npno_ccsd_t_tz: float,
    tpno_ccsd_t_dz: float,
    level: CCLevel = CC_LEVELS["ccsd(t)/cbs canonical"],
) -> float:
    """Total CCSD(T)/CBS energy (hartree) from its components (all correlation energies frozen-core, hartree)."""
    return (
        hf_cbs(hf_tz, hf_qz, level.hf_alpha)
        + mp2_cbs(mp2_tz, mp2_qz, level.mp2_beta)
        + (npno_ccsd_t_tz - mp2_tz)
        + (tpno_ccsd_t_dz - npno_ccsd_t_dz)
    )
