"""What a SMILES says about a molecule: its charge and its atoms.

Strings are not sanitized: published data sets hold radicals, ions and coordination that valence rules reject, and
neither charges nor atoms depend on these rules.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from mlip_studies.elements import formula


@dataclass(frozen=True)
class SmilesFacts:
    """Facts of a SMILES.

    Attributes:
        charge: sum of the formal charges, in elementary charges. A zwitterion or a nitro group has charged atoms and a
            total of zero.
        composition: number of atoms per atomic number, hydrogens that are not written included.
        order: atomic numbers in the order of the map numbers, or None unless every atom has one of its own.
    """

    charge: int
    composition: tuple[tuple[int, int], ...]
    order: tuple[int, ...] | None

    def mismatch(self, atomic_numbers: NDArray[np.integer]) -> str | None:
        """How atomic numbers (n_atoms,) differ from the SMILES, or None."""
        numbers = tuple(int(z) for z in atomic_numbers)
        if tuple(sorted(Counter(numbers).items())) != self.composition:
            expected = [z for z, n in self.composition for _ in range(n)]
            return f"the SMILES is {formula(expected)}, the atoms are {formula(numbers)}"
        if self.order is not None and numbers != self.order:
            return "the atoms are in another order than the map numbers of the SMILES"
        return None


@lru_cache(maxsize=4096)
def smiles_facts(smiles: str) -> SmilesFacts | None:
    """The facts of a SMILES, or None if it cannot be parsed."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        if molecule is None or molecule.GetNumAtoms() == 0:
            return None
        # Counts the hydrogens that are not written; strict would apply the valence rules.
        molecule.UpdatePropertyCache(strict=False)
        atoms = list(molecule.GetAtoms())
        numbers = [atom.GetAtomicNum() for atom in atoms]
        counts = Counter(numbers)
        hidden = sum(atom.GetTotalNumHs() for atom in atoms)
        maps = [atom.GetAtomMapNum() for atom in atoms]
        charge = sum(atom.GetFormalCharge() for atom in atoms)
    if hidden:
        counts[1] += hidden
    if 0 in counts:
        # A wildcard is no atom.
        return None
    mapped = not hidden and all(maps) and len(set(maps)) == len(maps)
    order = tuple(z for _, z in sorted(zip(maps, numbers, strict=True))) if mapped else None
    return SmilesFacts(charge, tuple(sorted(counts.items())), order)
