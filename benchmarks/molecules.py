"""The molecules of the benchmarks: organic, 15 to 23 atoms, 18 on average.

Their geometries lie beside this file in ``molecules.xyz`` (made once by ``python benchmarks/molecules.py`` with RDKit:
ETKDG with a fixed seed, then MMFF94), so that a machine without RDKit measures the same ones. A benchmark's data set is
any number of copies of them with random displacements, and random but fixed energies and forces as labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GEOMETRIES = Path(__file__).with_name("molecules.xyz")
SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}
#: typical small molecules of the public data sets: amino acids, bases, drugs' fragments, alcohols, ethers, amides
SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OCC(O)CO",
    "CCOC(=O)CC",
    "NCC(=O)NCC(=O)O",
    "CC(N)C(=O)NC",
    "CC(O)C(=O)OCC",
    "c1ccc2ccccc2c1",
    "Cc1ccccc1O",
    "COc1ccccc1",
    "CN(C)c1ccccc1",
    "CC(=O)c1ccccc1",
    "NC(=O)c1ccccc1",
    "OC(=O)Cc1ccccc1",
    "CCCCCC",
    "C1CCCCC1",
    "OC1CCCCC1",
    "O=C1CCCCC1",
    "C1CCNCC1",
    "CN1CCOCC1",
    "CC(C)CC(N)C(=O)O",
    "NC(CO)C(=O)O",
    "CC(O)C(N)C(=O)O",
    "NC(CC(N)=O)C(=O)O",
    "NC(CC(=O)O)C(=O)O",
    "OC(=O)C1CCCN1",
    "NC(CS)C(=O)O",
    "Nc1ncnc2[nH]cnc12",
    "Nc1nc2[nH]cnc2c(=O)[nH]1",
    "Cc1c[nH]c(=O)[nH]c1=O",
    "c1ccc2[nH]ccc2c1",
    "c1ccc2ncccc2c1",
    "Cn1cnc2ccccc12",
    "CC(C)(C)O",
    "CCN(CC)CC",
    "CCOCC",
    "CCCCO",
    "CC(C)C(=O)OC",
    "CCCC(=O)N",
    "CCC(=O)CC",
    "CC1CCC(=O)O1",
    "CCSCC",
    "CCCCS",
    "Fc1ccc(C)cc1",
    "Clc1ccc(CN)cc1",
    "CS(=O)(=O)c1ccccc1",
    "NCCc1ccccc1",
    "OCc1ccccc1",
    "OC(=O)c1ccccc1O",
    "Nc1ccc(C(=O)O)cc1",
    "COC(=O)c1cccnc1",
    "CNC(=O)c1ccco1",
    "CC(=O)OCC(C)C",
    "CCC1CO1",
    "OCC1CCCO1",
    "C=CC(=O)OCC",
    "CC=CC(=O)OC",
    "C1=CC=CCC1",
    "CC(C)=CCO",
    "OCC#CCO",
    "N#CCCCCC",
    "CC#CCCO",
    "OC1COCC1O",
    "C(CO)OCCO",
    "NCCNCCN",
    "CC(=O)NCC(=O)NC",
    "CC(NC(C)=O)C(=O)NC",
    "NC(Cc1ccccc1)C(=O)O",
    "NC(CCC(=O)O)C(=O)O",
    "NC(CCC(N)=O)C(=O)O",
    "CSCCC(N)C(=O)O",
    "NC(Cc1cnc[nH]1)C(=O)O",
    "CC(C)C(N)C(=O)NC",
    "CCCCCCC",
    "CCCCCCO",
    "CC1CCCCC1O",
    "CC(C)CCOC(C)=O",
    "CCOC(=O)CC(=O)OCC",
    "CN(C)CCOC(C)=O",
    "COc1cc(C=O)ccc1OC",
    "COc1ccc(CCN)cc1",
    "CC(C)c1ccc(O)cc1",
    "CCOC(=O)c1ccccc1",
    "Cn1c(=O)c2[nH]cnc2n(C)c1=O",
    "OCC1OCC(O)C1O",
)


def make_geometries(path: Path = GEOMETRIES) -> None:
    """Write the geometries of ``SMILES`` whose molecules have 15 to 23 atoms (needs RDKit)."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    lines = []
    for smiles in SMILES:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        if not 15 <= molecule.GetNumAtoms() <= 23:
            continue
        AllChem.EmbedMolecule(molecule, randomSeed=20)
        AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
        lines += [str(molecule.GetNumAtoms()), smiles]
        for atom, place in zip(molecule.GetAtoms(), molecule.GetConformer().GetPositions(), strict=True):
            lines.append(f"{atom.GetSymbol()} {place[0]:.4f} {place[1]:.4f} {place[2]:.4f}")
    path.write_text("\n".join(lines) + "\n")


def geometries(path: Path = GEOMETRIES) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """(atomic numbers (n,), positions (n, 3) in Å) of each molecule, in the order of the file."""
    lines = path.read_text().splitlines()
    molecules, at = [], 0
    while at < len(lines):
        n = int(lines[at])
        rows = [line.split() for line in lines[at + 2 : at + 2 + n]]
        numbers = np.array([SYMBOLS[row[0]] for row in rows], dtype=np.int64)
        molecules.append((numbers, np.array([[float(x) for x in row[1:]] for row in rows])))
        at += n + 2
    return molecules


def sample(
    count: int,
    seed: int = 0,
    elements: tuple[int, ...] | None = None,
    displacement: float = 0.05,
    n_atoms: int | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """``count`` displaced copies of the molecules, drawn in a shuffled order.

    Args:
        count: how many.
        seed: of the order and of the displacements.
        elements: leave out molecules with other elements.
        displacement: standard deviation of each coordinate's displacement, Å.
        n_atoms: only molecules of this size.
    """
    rng = np.random.default_rng(seed)
    pool = [
        (z, x)
        for z, x in geometries()
        if (elements is None or set(z.tolist()) <= set(elements)) and (n_atoms is None or len(z) == n_atoms)
    ]
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(pool)).tolist()
    return [(pool[k][0], pool[k][1] + rng.normal(scale=displacement, size=pool[k][1].shape)) for k in order[:count]]


def labels(
    molecules: list[tuple[NDArray[np.int64], NDArray[np.float64]]], seed: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random energies (count,), eV, and forces (all atoms, 3), eV/Å, for timing only."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=len(molecules)), rng.normal(size=(sum(len(z) for z, _ in molecules), 3))


if __name__ == "__main__":
    make_geometries()
    sizes = [len(z) for z, _ in geometries()]
    print(f"{GEOMETRIES.name}: {len(sizes)} molecules of {min(sizes)} to {max(sizes)} atoms, mean {np.mean(sizes):.2f}")
