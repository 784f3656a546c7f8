"""Start geometries of the scans whose molecules need a relaxation, all with GFN2-xTB (``resources/adequacy``).

Every molecule is a rigid rotor: a fixed part and a part that turns about a bond. After the relaxation each part is made
symmetric, so that turning by a and by -a gives mirror images and what a scan says of E(a) and E(360 - a) is said of the
potential alone:

* The biaryls and fluoroallene: the atoms of each part are projected on the part's own plane through the axis. A part
  that half a turn maps on itself (a phenyl ring, CH2) is averaged with its image.
* The cobalt bis(dicarbollide) anion, [3,3'-Co(1,2-C2B9H11)2]-: built from two icosahedra that share the cobalt atom as
  a vertex, the carbon atoms of one cage opposite to those of the other (C2h), relaxed, and averaged over the four
  operations of the group.

Run ``python -m mlip_studies.mini_data.adequacy_molecules --output <folder>`` to write them anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from mlip_studies.artifacts import PathLike
from mlip_studies.data.representatives import Structure, bonds, write_structures
from mlip_studies.errors import InputError
from mlip_studies.mini_data.xtb import relax

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SEED = 20250601  # of the embedding; any gives the same minimum up to conformers that the scan itself visits
#: largest force that is left, eV/Å
TOLERANCE = 2e-3

#: SMILES of the rotors of the thesis (figs. 10b and 31)
ROTORS: dict[str, str] = {
    "biphenyl": "c1ccccc1-c2ccccc2",
    "biaryl1": "C1=CC(=O)NC(=C1)C2=COC=C2",
    "biaryl2": "C1=CC(=O)NC(=C1)C2=CC=CO2",
    "biaryl3": "C1=CNC2=NC=NC(=C21)C3=CNN=C3",
    "fluoroallene": "FC=C=C",
}
#: SMARTS of the bond that turns; its second atom belongs to the part that moves
_TURNED = {name: "[c,C;R]-!@[c,C;R]" for name in ROTORS} | {"fluoroallene": "[CX2]=[CX3H2]"}

#: cage edge, height of cobalt over the face next to it, B-H and C-H at the start, Å
_EDGE, _HEIGHT, _BH, _CH = 1.77, 1.47, 1.19, 1.10
COSAN_CHARGE = -1
#: half a turn maps a part on itself if no atom is farther from its image, Å
_SAME = 0.05


@dataclass(frozen=True)
class Rotor:
    """A molecule of two parts that turn against each other.

    Attributes:
        structure: the first atom of the axis at the origin, the axis along z, the fixed part's plane is x-z; Å.
        energy: GFN2-xTB of the relaxed molecule before it was made symmetric, eV.
        moved: largest displacement by making it symmetric, Å.
    """

    structure: Structure
    energy: float
    moved: float


def moving_atoms(atomic_numbers: NDArray[np.integer], positions: FloatArray, axis: tuple[int, int]) -> IntArray:
    """Atoms on the side of ``axis[1]`` when the bond ``axis`` is cut, that atom among them, ascending.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å; bonds are found by distance.
        axis: two bonded atoms.

    Raises:
        InputError: the atoms are not bonded, or the bond is part of a ring.
    """
    pairs, _ = bonds(atomic_numbers, positions)
    links: dict[int, set[int]] = {index: set() for index in range(len(atomic_numbers))}
    for i, j in pairs.tolist():
        links[i].add(j)
        links[j].add(i)
    first, second = axis
    if second not in links[first]:
        raise InputError(f"axis {axis}: the atoms are not bonded; expected two neighbours")
    found, todo = {second}, [second]
    while todo:
        atom = todo.pop()
        for other in links[atom] - found:
            if (atom, other) == (second, first):
                continue
            found.add(other)
            todo.append(other)
    if first in found:
        raise InputError(f"axis {axis}: the bond is part of a ring; only chain bonds turn")
    return np.array(sorted(found), dtype=np.int64)


def _in_axis_frame(positions: FloatArray, axis: tuple[int, int]) -> FloatArray:
    """Positions with ``axis[0]`` at the origin and the axis along z."""
    shifted = positions - positions[axis[0]]
    along = shifted[axis[1]] / np.linalg.norm(shifted[axis[1]])
    helper = np.eye(3)[np.argmin(np.abs(along))]
    across = np.cross(helper, along)
    across /= np.linalg.norm(across)
    turned: FloatArray = shifted @ np.array([across, np.cross(along, across), along]).T
    return turned


def _flattened(atomic_numbers: IntArray, positions: FloatArray, atoms: IntArray) -> tuple[FloatArray, float]:
    """Atoms of a part projected on the plane through z closest to them, and that plane's angle to x, radians."""
    _, vectors = np.linalg.eigh(positions[atoms][:, :2].T @ positions[atoms][:, :2])
    direction = vectors[:, -1]
    # The atom farthest from the axis, of several the first, gives the sign, so that the angle is defined.
    radial = positions[atoms][:, :2] @ direction
    direction = direction * np.sign(radial[np.argmax(np.abs(radial).round(3))])
    flat = positions.copy()
    in_plane = _averaged(
        atomic_numbers[atoms], np.column_stack([positions[atoms][:, :2] @ direction, positions[atoms, 2]])
    )
    flat[atoms, :2], flat[atoms, 2] = in_plane[:, :1] * direction, in_plane[:, 1]
    return flat, float(np.arctan2(direction[1], direction[0]))


def _averaged(atomic_numbers: IntArray, in_plane: FloatArray) -> FloatArray:
    """Positions (n, 2) in a plane, averaged with their image across the second axis where that is the same part."""
    image = in_plane * np.array([-1.0, 1.0])
    distance = np.linalg.norm(image[:, None] - in_plane[None], axis=2)
    partner = distance.argmin(axis=1)
    same = (
        distance.min(axis=1).max() < _SAME
        and len(set(partner.tolist())) == len(partner)
        and (atomic_numbers[partner] == atomic_numbers).all()
    )
    if not same:
        return in_plane
    mean = in_plane.copy()
    mean[partner] = (in_plane[partner] + image) / 2
    return mean


def symmetric_rotor(
    atomic_numbers: NDArray[np.integer], positions: FloatArray, axis: tuple[int, int]
) -> tuple[FloatArray, float]:
    """Make both parts of a rotor flat, each in a plane of its own through the axis, and even where they nearly are.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        axis: the atoms of the bond that turns.

    Returns:
        positions (n_atoms, 3), Å, in the axis frame with the fixed part in the x-z plane, and the largest displacement,
        Å.
    """
    framed = _in_axis_frame(positions, axis)
    moving = moving_atoms(atomic_numbers, positions, axis)
    fixed = np.setdiff1d(np.arange(len(atomic_numbers)), moving)
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    flat, angle = _flattened(numbers, framed, fixed)
    flat, _ = _flattened(numbers, flat, moving)
    moved = float(np.linalg.norm(flat - framed, axis=1).max())
    c, s = np.cos(angle), np.sin(angle)
    turned = flat @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    turned[fixed, 1] = 0.0
    return turned, moved


def make_rotor(name: str, seed: int = SEED) -> Rotor:
    """Make one molecule of :data:`ROTORS`: embedded, MMFF94, GFN2-xTB, made symmetric.

    Raises:
        InputError: unknown name, the molecule cannot be embedded, or its relaxed parts are not flat.
    """
    if name not in ROTORS:
        raise InputError(f"rotor {name!r}: expected one of {', '.join(ROTORS)}")
    with rdBase.BlockLogs():
        molecule = Chem.AddHs(Chem.MolFromSmiles(ROTORS[name]))
    smiles = str(Chem.MolToSmiles(Chem.RemoveHs(molecule)))
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
        raise InputError(f"rotor {name}: no three-dimensional start was found; use another seed")
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=5000)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    rough = np.array(molecule.GetConformer().GetPositions())
    positions, energy = relax(numbers, rough, steps=2000, tolerance=TOLERANCE)
    positions, moved = symmetric_rotor(numbers, positions, rotor_axis(name, molecule))
    if moved > 0.1:
        raise InputError(f"rotor {name}: a part is {moved:.2f} Å from flat; expected less than 0.1 Å, use another seed")
    return Rotor(Structure(name, numbers, positions, name, smiles), energy, moved)


def rotor_axis(name: str, molecule: Chem.Mol | None = None) -> tuple[int, int]:
    """The atoms of the bond of a molecule of :data:`ROTORS` that turns, in the order of its SMILES."""
    if molecule is None:
        molecule = Chem.AddHs(Chem.MolFromSmiles(ROTORS[name]))
    matches = molecule.GetSubstructMatches(Chem.MolFromSmarts(_TURNED[name]))
    if len(matches) != 1:
        raise InputError(f"rotor {name}: {len(matches)} bonds that could turn; expected one")
    first, second = matches[0]
    return int(first), int(second)


def dicarbollide() -> tuple[IntArray, FloatArray]:
    """One idealised cage C2B9H11 over a metal atom at the origin, the face next to it across z.

    Two carbon atoms and three boron atoms in that face, five boron atoms in the next plane, one at the top; hydrogen
    points away from the centre of the icosahedron. The x-z plane is a mirror plane.

    Returns:
        atomic numbers (22,), 11 cage atoms and then their hydrogen atoms, and positions (22, 3), Å.
    """
    # Of an icosahedron with edge a: radius of its pentagons, their separation, and the height of a vertex above one.
    radius = _EDGE / (2 * np.sin(np.pi / 5))
    separation = radius
    height = np.sqrt(_EDGE**2 - radius**2)
    near = np.radians(36 + 72 * np.arange(5))
    far = near + np.radians(36)
    cage = np.vstack(
        [
            np.column_stack([radius * np.cos(near), radius * np.sin(near), np.full(5, _HEIGHT)]),
            np.column_stack([radius * np.cos(far), radius * np.sin(far), np.full(5, _HEIGHT + separation)]),
            [[0.0, 0.0, _HEIGHT + separation + height]],
        ]
    )
    numbers = np.full(11, 5)
    # At +36 and -36 degrees.
    numbers[[0, 4]] = 6
    outward = cage - np.array([0.0, 0.0, _HEIGHT + separation / 2])
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    hydrogen = cage + outward * np.where(numbers == 6, _CH, _BH)[:, None]
    return np.concatenate([numbers, np.ones(11, dtype=np.int64)]).astype(np.int64), np.vstack([cage, hydrogen])


def cosan_start() -> tuple[IntArray, FloatArray]:
    """Idealised anion, C2h: cobalt, one cage, and its image under inversion; atomic numbers (45,), positions, Å."""
    numbers, cage = dicarbollide()
    return np.concatenate([[27], numbers, numbers]).astype(np.int64), np.vstack([np.zeros((1, 3)), cage, -cage])


def symmetric_cosan(positions: FloatArray) -> tuple[FloatArray, float]:
    """Average of a geometry over the operations of C2h (inversion, mirror x-z); positions (45, 3) and displacement, Å.

    The geometry must lie as :func:`cosan_start` gives it; cobalt is moved to the origin.
    """
    _, start = cosan_start()
    centred = positions - positions[0]
    mean = np.zeros_like(centred)
    for signs in ((1, 1, 1), (-1, -1, -1), (1, -1, 1), (-1, 1, -1)):
        image = start * np.array(signs)
        partner = np.linalg.norm(image[:, None] - start[None], axis=2).argmin(axis=1)
        mean[partner] += centred * np.array(signs) / 4
    return mean, float(np.linalg.norm(mean - centred, axis=1).max())


def make_cosan() -> Rotor:
    """The anion, relaxed with GFN2-xTB and averaged over C2h."""
    numbers, start = cosan_start()
    positions, energy = relax(numbers, start, charge=COSAN_CHARGE, steps=1000, tolerance=TOLERANCE)
    positions, moved = symmetric_cosan(positions)
    if moved > 0.1:
        raise InputError(f"cosan: {moved:.2f} Å from C2h after the relaxation; expected less than 0.1 Å")
    return Rotor(Structure("cosan", numbers, positions, "cosan"), energy, moved)


def write_molecules(folder: PathLike, names: Sequence[str] = ()) -> list[Rotor]:
    """Write ``<name>.xyz`` for each name (all if none is given); returns what was made."""
    made = []
    for name in names or (*ROTORS, "cosan"):
        result = make_cosan() if name == "cosan" else make_rotor(name)
        write_structures([result.structure], Path(folder) / f"{name}.xyz")
        made.append(result)
        print(
            f"{name}: {result.structure.formula}, {len(result.structure.atomic_numbers)} atoms, "
            f"GFN2-xTB {result.energy:.6f} eV, moved {result.moved:.4f} Å",
            flush=True,
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlip_studies.mini_data.adequacy_molecules", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"molecules to make: {', '.join(ROTORS)}, cosan; all if none is named")
    parser.add_argument("--output", required=True, help="folder")
    options = parser.parse_args(arguments)
    try:
        write_molecules(options.output, options.names)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
