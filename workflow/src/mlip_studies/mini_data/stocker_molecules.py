"""Start structures of named molecules: conformer search with RDKit, relaxed with GFN2-xTB.

The four large molecules of S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022), figure 3, and four small
ones with collinear atoms, where dihedral angles are not defined. The paper does not print geometries; these are ours.

Per molecule: random conformers (ETKDG, seeded), relaxed with MMFF94; the lowest of them roughly relaxed with GFN2-xTB;
the lowest of those relaxed fully. A conformer that changed its bonds or its stereochemistry on the way is dropped.

Run ``python -m mlip_studies.mini_data.stocker_molecules --output <folder>`` to write them anew.
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
from scipy.spatial.distance import pdist

from mlip_studies.artifacts import PathLike
from mlip_studies.data.representatives import Structure, bonds, write_structures
from mlip_studies.errors import InputError
from mlip_studies.mini_data.xtb import relax

FloatArray = NDArray[np.float64]

SEED = 20221101  # the day on which the paper appeared
#: Å. Conformers whose sorted distances all agree within this are one.
SAME = 0.05
# Largest force in eV/Å, and steps at most: to compare conformers, and of the result.
_ROUGH = (3e-2, 300)
_FINE = (2e-3, 2000)


@dataclass(frozen=True)
class Recipe:
    """How to make one start structure.

    Attributes:
        smiles: what it is, with stereochemistry.
        conformers: random conformers to begin with.
        kept: of these, how many different ones of lowest MMFF94 energy are compared with GFN2-xTB.
    """

    smiles: str
    conformers: int = 20
    kept: int = 5


MOLECULES: dict[str, Recipe] = {
    "paracetamol": Recipe("CC(=O)Nc1ccc(O)cc1", 30, 4),
    "furopyrrolamine": Recipe("NC1=NCc2ccoc12", 20, 4),  # 4H-furo[2,3-c]pyrrol-6-amine
    "histidine": Recipe("N[C@@H](Cc1c[nH]cn1)C(=O)O", 100, 10),
    "ser-trp-leu": Recipe("CC(C)C[C@H](NC(=O)[C@H](Cc1c[nH]c2ccccc12)NC(=O)[C@@H](N)CO)C(=O)O", 300, 10),
    "acetonitrile": Recipe("CC#N", 5, 1),
    "hydrogen-cyanide": Recipe("C#N", 5, 1),
    "propyne": Recipe("CC#C", 5, 1),
    "acetylene": Recipe("C#C", 5, 1),
}


@dataclass(frozen=True)
class Relaxed:
    """The lowest conformer that was found.

    Attributes:
        structure: centred, axes along its principal axes, Å.
        energy: GFN2-xTB, eV.
        n_compared: conformers compared with GFN2-xTB.
        n_dropped: of these, dropped because bonds or stereochemistry changed.
    """

    structure: Structure
    energy: float
    n_compared: int
    n_dropped: int


def _conformers(molecule: Chem.Mol, recipe: Recipe, seed: int) -> list[FloatArray]:
    """The different conformers of lowest MMFF94 energy, lowest first."""
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    parameters.useRandomCoords = True
    ids = list(rdDistGeom.EmbedMultipleConfs(molecule, recipe.conformers, parameters))
    if not ids:
        return []
    results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, numThreads=1, maxIters=5000)
    order = sorted(range(len(ids)), key=lambda index: results[index][1])
    found: list[FloatArray] = []
    for index in order:
        positions = np.array(molecule.GetConformer(ids[index]).GetPositions())
        distances = np.sort(pdist(positions))
        if all(np.abs(distances - np.sort(pdist(other))).max() > SAME for other in found):
            found.append(positions)
        if len(found) == recipe.kept:
            break
    return found


def _is_still(molecule: Chem.Mol, smiles: str, positions: FloatArray) -> bool:
    """Whether a geometry has the bonds and the stereochemistry of the molecule."""
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    pairs, _ = bonds(numbers, positions)
    expected = {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in molecule.GetBonds()}
    if {tuple(pair) for pair in pairs.tolist()} != expected:
        return False
    copy = Chem.Mol(molecule)
    copy.RemoveAllConformers()
    conformer = Chem.Conformer(len(numbers))
    for index, xyz in enumerate(positions):
        conformer.SetAtomPosition(index, [float(value) for value in xyz])
    copy.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(copy)
    return bool(Chem.MolToSmiles(Chem.RemoveHs(copy)) == smiles)


def oriented(positions: FloatArray) -> FloatArray:
    """Positions (n_atoms, 3), Å, centred and turned (not mirrored) so that the axes are the principal axes."""
    centred = positions - positions.mean(axis=0)
    _, _, axes = np.linalg.svd(centred)
    # The atom farthest along an axis lies on its positive side; the third axis keeps the handedness.
    for axis in axes[:2]:
        along = centred @ axis
        axis *= np.sign(along[np.argmax(np.abs(along))]) or 1.0
    axes[2] = np.cross(axes[0], axes[1])
    # Adding zero makes a negative zero positive.
    turned: FloatArray = (centred @ axes.T).round(8) + 0.0
    return turned


def make_molecule(name: str, recipe: Recipe | None = None, seed: int = SEED) -> Relaxed:
    """Make the start structure of a molecule (see the module).

    Args:
        name: of the molecule; a key of :data:`MOLECULES` unless a recipe is given.
        recipe: how.
        seed: of the conformers.

    Raises:
        InputError: an unknown name, a SMILES that cannot be read, or no conformer left.
    """
    if recipe is None:
        if name not in MOLECULES:
            raise InputError(f"molecule {name!r}: expected one of {', '.join(MOLECULES)}")
        recipe = MOLECULES[name]
    with rdBase.BlockLogs():
        parsed = Chem.MolFromSmiles(recipe.smiles)
    if parsed is None:
        raise InputError(f"molecule {name}: {recipe.smiles!r} is not a SMILES that RDKit reads; correct it")
    smiles = str(Chem.MolToSmiles(parsed))
    molecule = Chem.AddHs(parsed)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    starts = _conformers(molecule, recipe, seed)
    rough = [relax(numbers, positions, tolerance=_ROUGH[0], steps=_ROUGH[1]) for positions in starts]
    whole = [(positions, energy) for positions, energy in rough if _is_still(molecule, smiles, positions)]
    if not whole:
        raise InputError(f"molecule {name}: none of {len(starts)} conformers kept its bonds; use more conformers")
    positions, _ = min(whole, key=lambda result: result[1])
    positions, energy = relax(numbers, positions, tolerance=_FINE[0], steps=_FINE[1])
    if not _is_still(molecule, smiles, positions):
        raise InputError(f"molecule {name}: the lowest conformer changed its bonds in the relaxation; use another seed")
    structure = Structure(name, numbers, oriented(positions), name, smiles)
    return Relaxed(structure, energy, len(starts), len(starts) - len(whole))


def write_molecules(folder: PathLike, names: Sequence[str] = (), seed: int = SEED) -> list[Relaxed]:
    """Write ``<name>.xyz`` for each name (all of :data:`MOLECULES` if none is given); returns what was made."""
    made = []
    for name in names or MOLECULES:
        result = make_molecule(name, seed=seed)
        write_structures([result.structure], Path(folder) / f"{name}.xyz")
        made.append(result)
        print(
            f"{name}: {result.structure.formula}, {len(result.structure.atomic_numbers)} atoms, "
            f"{result.structure.smiles}, GFN2-xTB {result.energy:.6f} eV, lowest of {result.n_compared} conformers, "
            f"{result.n_dropped} dropped",
            flush=True,
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlip_studies.mini_data.stocker_molecules", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"molecules to make: {', '.join(MOLECULES)}; all if none is named")
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--seed", type=int, default=SEED, help="of the conformers (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        write_molecules(options.output, options.names, options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
