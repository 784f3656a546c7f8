"""Energies of isolated atoms at the levels of the mini data sets, as one table."""

from __future__ import annotations

from pathlib import Path

import yaml

from mlip_studies.dft.atoms import isolated_atom
from mlip_studies.mini_data.assembly import write_rows
from mlip_studies.units import HARTREE_TO_EV


def make_table(recipe: Path, output: Path) -> None:
    """Write level, element, charge, energy in hartree and eV, and convergence for the atoms of a recipe."""
    wanted = yaml.safe_load(Path(recipe).read_text())["levels"]
    rows = []
    for level, elements in wanted.items():
        for element in elements:
            atom = isolated_atom(element, level)
            rows.append(
                {
                    "level": level,
                    "element": atom.symbol,
                    "charge": atom.charge,
                    "energy_hartree": repr(atom.energy),
                    "energy_ev": repr(atom.energy * HARTREE_TO_EV),
                    "converged": atom.converged,
                }
            )
    write_rows(output, rows)
