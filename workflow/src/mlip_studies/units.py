"""Conversion constants (CODATA 2022), the only place where they are written down.

Inside the package every quantity is in eV, Å, fs, K, atomic mass units and elementary charges; readers and
writers convert at the edges. References: E. Tiesinga et al., CODATA Recommended Values of the Fundamental
Physical Constants: 2022, https://physics.nist.gov/constants.
"""

from __future__ import annotations

HARTREE_TO_EV = 27.211386245981
BOHR_TO_ANGSTROM = 0.529177210544
BOLTZMANN_EV_PER_K = 8.617333262145e-5
BOLTZMANN_HARTREE_PER_K = BOLTZMANN_EV_PER_K / HARTREE_TO_EV
AVOGADRO = 6.02214076e23
ELEMENTARY_CHARGE_C = 1.602176634e-19
CALORIE_J = 4.184

EV_TO_KCAL_PER_MOL = ELEMENTARY_CHARGE_C * AVOGADRO / (1000.0 * CALORIE_J)
KCAL_PER_MOL_TO_EV = 1.0 / EV_TO_KCAL_PER_MOL
HARTREE_TO_KCAL_PER_MOL = HARTREE_TO_EV * EV_TO_KCAL_PER_MOL
HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM = HARTREE_TO_EV / BOHR_TO_ANGSTROM
EV_TO_MEV = 1000.0
DEBYE_TO_E_ANGSTROM = 0.20819433
