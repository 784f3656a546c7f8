"""Start structure of the dynamics of one water molecule: its minimum with GFN2-xTB.

Run ``python -m mlip_studies.mini_data.water <file>`` to write it anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlip_studies.artifacts import PathLike
from mlip_studies.data.representatives import Structure, write_structures
from mlip_studies.errors import InputError
from mlip_studies.mini_data.stocker_molecules import oriented
from mlip_studies.mini_data.xtb import relax, start_geometry

#: largest force that is left, eV/Å
TOLERANCE = 1e-4


def make_water() -> tuple[Structure, float]:
    """The molecule, in the x-y plane, and its GFN2-xTB energy in eV."""
    numbers, rough = start_geometry("H2O")
    positions, energy = relax(numbers, rough, tolerance=TOLERANCE)
    return Structure("water", numbers, oriented(positions), "water", "O"), energy


def write_water(output: PathLike) -> float:
    """Write the molecule as extxyz; returns its energy, eV.

    Raises:
        InputError: the file cannot be written.
    """
    structure, energy = make_water()
    write_structures([structure], output)
    return energy


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlip_studies.mini_data.water", description=__doc__)
    parser.add_argument("output", help="the extxyz file to write")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.output}: water, GFN2-xTB {write_water(options.output):.6f} eV")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
