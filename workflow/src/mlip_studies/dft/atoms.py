"""Energies of isolated atoms, the physical zero of potentials that are trained on total energies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlip_studies.dft.levels import DFT_LEVELS, DFTLevel
from mlip_studies.dft.run import build_molecule, mean_field
from mlip_studies.elements import number, symbol


@dataclass(frozen=True)
class AtomEnergy:
    """The energy of an isolated atom.

    Attributes:
        symbol: chemical symbol.
        charge: elementary charges.
        spin: number of unpaired electrons.
        level: name of the level of theory.
        energy: hartree. Dispersion corrections are zero for one atom.
        converged: whether any step of the ladder converged.
        status: ``converged`` (plain DIIS), ``converged_level_shift``, ``converged_newton`` or ``unconverged``.
    """

    symbol: str
    charge: int
    spin: int
    level: str
    energy: float
    converged: bool
    status: str


def ground_state_spin(element: str, charge: int = 0) -> int:
    """Number of unpaired electrons of an isolated atom or main-group ion in its ground state.

    An ion has the configuration of the neutral atom with as many electrons, which does not hold where d or f shells
    fill.

    Args:
        element: its symbol.
        charge: elementary charges.

    Raises:
        ValueError: no electrons are left, or the ion or its isoelectronic atom has an open d or f shell.
    """
    from ase.data import ground_state_magnetic_moments

    z = number(element)
    electrons = z - charge
    if electrons < 1:
        raise ValueError(f"{element} with charge {charge:+d} has no electrons")
    if charge and any(first <= n <= last for n in (z, electrons) for first, last in ((21, 30), (39, 48), (57, 80))):
        raise ValueError(
            f"{element} with charge {charge:+d}: ground-state spins of ions are known for main groups only"
        )
    return int(ground_state_magnetic_moments[electrons])


def isolated_atom(element: str, level: str | DFTLevel, charge: int = 0) -> AtomEnergy:
    """Unrestricted Kohn-Sham energy of an atom in its ground-state spin, at the settings of a level.

    A field that plain DIIS does not converge is tried again from its last density with level shift and damping, then
    with a second-order solver.

    Args:
        element: chemical symbol.
        level: name in :data:`~mlip_studies.dft.levels.DFT_LEVELS`, or a level.
        charge: elementary charges.

    Raises:
        ValueError: unknown level or spin, or the basis has no functions for the element.
    """
    if isinstance(level, str):
        if level not in DFT_LEVELS:
            raise ValueError(f"level {level!r}: expected one of {', '.join(DFT_LEVELS)}")
        level = DFT_LEVELS[level]
    z = number(element)
    spin = ground_state_spin(element, charge)
    mol = build_molecule(np.array([z]), np.zeros((1, 3)), level.basis, level.cartesian, charge, spin)
    mf = mean_field(mol, level)
    energy, status = float(mf.kernel()), "converged"
    if not mf.converged:
        density = mf.make_rdm1()
        mf = mean_field(mol, level)
        mf.level_shift, mf.damp, mf.max_cycle = 0.5, 0.3, 2 * level.max_cycle
        energy, status = float(mf.kernel(dm0=density)), "converged_level_shift"
    if not mf.converged:
        density = mf.make_rdm1()
        mf = mean_field(mol, level).newton()
        mf.max_cycle = 2 * level.max_cycle
        energy, status = float(mf.kernel(dm0=density)), "converged_newton"
    converged = bool(mf.converged)
    return AtomEnergy(symbol(z), charge, spin, level.name, energy, converged, status if converged else "unconverged")
