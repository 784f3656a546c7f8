"""Files of any size in the published layouts, to measure what reading them costs.

The molecules are real ones, the numbers aren't: every configuration is a molecule's geometry with random displacements
and springs between near atoms, so that forces and energies belong together and all checks pass. Molecule sizes, group
sizes, types and the number of data sets per group are like those of the published files.

    python benchmarks/make_synthetic.py spice FILE.hdf5 --rows 1000000

Layouts: spice (groups of 50), ani1x (groups of some 1,600), qm7x (an .xz with 42 data sets per configuration) and ani1
(a tar of HDF5 files, without forces).
"""

from __future__ import annotations

import argparse
import functools
import io
import lzma
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

# Small molecules for QM7-X, ANI-1 and ANI-1x; larger ones for SPICE.
SMALL = (
    "CCO",
    "CC(=O)O",
    "c1ccccc1",
    "CCN(C)C",
    "CC(=O)NC",
    "C1CCOC1",
    "CCCCO",
    "N#CCC=O",
    "OC1CCCC1",
    "CC(C)CN",
    "C1=CNC=N1",
    "CC#CCO",
    "CCOCC",
    "NCC(=O)O",
    "O=C1CCCN1",
    "CC(N)C(=O)C",
    "CCCCCCC",
    "CC1CCC(C)O1",
    "NC1CCCCC1",
    "C1CC2CCC1C2",
)
WITH_SULFUR = ("CCSC", "c1ccsc1", "CS(C)=O", "NC(=S)N", "CC(=O)SC", "CCCl", "ClC1CCCC1", "OCCS", "CSCC=O", "Clc1ccco1")
LARGE = (
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "O=C(O)c1cccnc1",
    "CC(N)C(=O)NC(C)C(=O)NC",
    "NC(CO)C(=O)NCC(=O)O",
    "CSCCC(N)C(=O)NC",
    "OCC1OC(O)C(O)C(O)C1O",
    "CCN(CC)CCOC(=O)c1ccc(N)cc1",
    "C[NH3+]",
    "CC(=O)[O-]",
    "Fc1ccccc1Br",
    "CC(C)(C)c1ccc(O)cc1",
    "O=S(=O)(N)c1ccc(N)cc1",
)
ELEMENT_ENERGY_EV = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2042.0, 9: -2713.0, 16: -10830.0, 17: -12520.0, 35: -70030.0}
STIFFNESS = 20.0  # eV/Å²
REACH = 2.6  # Å, the longest spring
SPREAD = 0.05  # Å
SUBSETS = ("SPICE PubChem Set 1 Single Points Dataset v1.2", "SPICE Dipeptides Single Points Dataset v1.2")


@dataclass(frozen=True)
class Molecule:
    """A molecule: SMILES with numbered atoms, atomic numbers (n,) and a geometry (n, 3) in Å."""

    smiles: str
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]

    def frames(self, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        """Positions (count, n, 3) in Å, energies (count,) in eV, forces (count, n, 3) in eV/Å of displaced copies."""
        x = self.positions + SPREAD * rng.standard_normal((count, len(self.numbers), 3))
        i, j = np.triu_indices(len(self.numbers), 1)
        rest = np.linalg.norm(self.positions[i] - self.positions[j], axis=1)
        near = rest < REACH
        i, j, rest = i[near], j[near], rest[near]
        step = x[:, i] - x[:, j]
        length = np.sqrt(np.einsum("npk,npk->np", step, step))
        stretch = length - rest
        energy = sum(ELEMENT_ENERGY_EV[int(z)] for z in self.numbers) + 0.5 * STIFFNESS * (stretch**2).sum(axis=1)
        # Every spring pulls at both of its ends.
        ends = np.zeros((len(i), len(self.numbers)))
        ends[np.arange(len(i)), i], ends[np.arange(len(i)), j] = -1.0, 1.0
        pull = STIFFNESS * (stretch / length)[:, :, None] * step
        forces = np.tensordot(ends, pull, axes=(0, 1)).transpose(1, 0, 2)
        return x.astype(np.float32), energy, forces.astype(np.float32)


@functools.cache
def molecules(names: tuple[str, ...]) -> list[Molecule]:
    """Molecules with hydrogens and a rough geometry."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    result = []
    for name in names:
        molecule = Chem.AddHs(Chem.MolFromSmiles(name))
        if AllChem.EmbedMolecule(molecule, randomSeed=1) != 0:
            raise RuntimeError(f"{name}: no geometry found")
        numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8)
        for atom in molecule.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        result.append(Molecule(Chem.MolToSmiles(molecule), numbers, molecule.GetConformer().GetPositions()))
    return result


def variants(names: tuple[str, ...], rng: np.random.Generator) -> Iterator[Molecule]:
    """Molecules without end, each time with another geometry."""
    while True:
        for one in molecules(names):
            yield Molecule(one.smiles, one.numbers, one.positions + 0.03 * rng.normal(size=one.positions.shape))


def write_spice(path: Path, rows: int, seed: int = 0) -> None:
    """SPICE's layout: groups of 50 conformations, bohr, hartree, gradients."""
    rng = np.random.default_rng(seed)
    source = variants(LARGE, rng)
    with h5py.File(path, "w") as file:
        for number, first in enumerate(range(0, rows, 50)):
            one, n = next(source), min(50, rows - first)
            x, energy, forces = one.frames(n, rng)
            group = file.create_group(f"{100000 + number}")
            group["atomic_numbers"] = one.numbers.astype(np.int16)
            group["smiles"] = [one.smiles]
            group["subset"] = [SUBSETS[number % 2]]
            units = {
                "conformations": ("bohr", x / BOHR_TO_ANGSTROM),
                "dft_total_energy": ("hartree", energy / HARTREE_TO_EV),
                "formation_energy": ("hartree", energy / HARTREE_TO_EV),
                "dft_total_gradient": ("hartree/bohr", -forces / (HARTREE_TO_EV / BOHR_TO_ANGSTROM)),
                "mbis_charges": ("elementary charge", rng.random((n, len(one.numbers), 1), dtype=np.float32)),
                "scf_dipole": ("elementary charge*bohr", rng.random((n, 3), dtype=np.float32)),
            }
            for key, (unit, values) in units.items():
                group[key] = values if values.ndim == 1 else values.astype(np.float32)
                group[key].attrs["units"] = unit


def write_ani1x(path: Path, rows: int, seed: int = 0) -> None:
    """ANI-1x's layout: about 1,600 configurations per group, coupled-cluster energies for a tenth of them."""
    rng = np.random.default_rng(seed)
    source = variants(SMALL, rng)
    with h5py.File(path, "w") as file:
        done = 0
        while done < rows:
            one, n = next(source), min(int(rng.integers(200, 3000)), rows - done)
            x, energy, forces = one.frames(n, rng)
            group = file.create_group(f"M{done:09d}")
            group["atomic_numbers"] = one.numbers
            group["coordinates"] = x
            group["wb97x_dz.energy"] = energy / HARTREE_TO_EV
            group["wb97x_dz.forces"] = (forces / HARTREE_TO_EV).astype(np.float32)
            group["wb97x_tz.energy"] = energy / HARTREE_TO_EV
            group["ccsd(t)_cbs.energy"] = np.where(rng.random(n) < 0.1, energy / HARTREE_TO_EV, np.nan)
            group["wb97x_dz.dipole"] = rng.random((n, 3), dtype=np.float32)
            done += n


# Names and shapes of what QM7-X holds per configuration besides the numbers that are read; a = atoms.
_QM7X_SCALARS = (
    "sRMSD",
    "eDFTB+MBD",
    "eAT",
    "ePBE0",
    "eMBD",
    "eTS",
    "eNN",
    "eKIN",
    "eNE",
    "eEE",
    "eXC",
    "eX",
    "eC",
    "eXX",
    "eKSE",
    "eH",
    "eL",
    "HLgap",
    "DIP",
    "mC6",
    "mPOL",
    "vIQ",
    "vEQ",
)
_QM7X_ARRAYS: dict[str, Callable[[int], tuple[int, ...]]] = {
    **dict.fromkeys(("vdwFOR", "pbe0FOR", "hVDIP"), lambda a: (a, 3)),
    **dict.fromkeys(("hVOL", "hRAT", "hCHG", "hDIP", "atC6", "atPOL", "vdwR"), lambda a: (a,)),
    **dict.fromkeys(("sMIT", "mTPOL"), lambda a: (9,)),
    "vDIP": lambda a: (3,),
    "vTQ": lambda a: (3,),
    "KSE": lambda a: (4 * a,),
}


def write_qm7x(path: Path, rows: int, seed: int = 0, displaced: int = 100) -> None:
    """QM7-X's layout: an .xz of HDF5 with 42 tiny data sets per configuration."""
    rng = np.random.default_rng(seed)
    source = variants(SMALL + WITH_SULFUR, rng)
    conformers_per_molecule = 6
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.hdf5"
        with h5py.File(plain, "w") as file:
            done = molecule = 0
            while done < rows:
                molecule += 1
                one = next(source)
                for conformer in range(1, conformers_per_molecule + 1):
                    n = min(displaced + 1, rows - done)
                    if n <= 0:
                        break
                    _write_conformer(file, one, f"{molecule}/Geom-m{molecule}-i1-c{conformer}", n, rng)
                    done += n
        with plain.open("rb") as unpacked, lzma.open(path, "wb", preset=6) as packed:
            shutil.copyfileobj(unpacked, packed, 1 << 22)


def _write_conformer(file: h5py.File, one: Molecule, name: str, n: int, rng: np.random.Generator) -> None:
    x, energy, forces = one.frames(n, rng)
    atoms = len(one.numbers)
    for index in range(n):
        group = file.create_group(f"{name}-{'opt' if index == 0 else f'd{index}'}")
        group["atNUM"] = one.numbers.astype(np.int64)
        group["atXYZ"] = x[index].astype(np.float64)
        group["ePBE0+MBD"] = energy[index : index + 1]
        group["totFOR"] = forces[index].astype(np.float64)
        for key in _QM7X_SCALARS:
            group[key] = rng.random(1)
        for key, shape in _QM7X_ARRAYS.items():
            group[key] = rng.random(shape(atoms), dtype=np.float32).astype(np.float64)


def write_ani1(path: Path, rows: int, seed: int = 0) -> None:
    """ANI-1's layout: a tar of HDF5 files without forces, some 400 rows per molecule, more of them high in energy."""
    rng = np.random.default_rng(seed)
    source = variants(SMALL, rng)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for part in range(1, 9):
            name = f"gdb11_s{part:02d}"
            target = rows * part // 8 - rows * (part - 1) // 8
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                done = number = 0
                while done < target:
                    one, n = next(source), min(int(rng.integers(100, 700)), target - done)
                    x, energy, _ = one.frames(n + n // 10, rng)
                    group = file.create_group(f"{name}/{name}-{number}")
                    group["coordinates"] = x[:n]
                    group["energies"] = energy[:n] / HARTREE_TO_EV
                    group["coordinatesHE"] = x[n:]
                    group["energiesHE"] = energy[n:] / HARTREE_TO_EV + 1.0
                    group["species"] = np.array([{1: "H", 6: "C", 7: "N", 8: "O"}[int(z)] for z in one.numbers], "S1")
                    group["smiles"] = np.frombuffer(one.smiles.encode(), "S1")
                    done += n
                    number += 1
            member = tarfile.TarInfo(f"ANI-1_release/ani_gdb_s{part:02d}.h5")
            member.size = buffer.tell() if buffer.seek(0, os.SEEK_END) else 0
            buffer.seek(0)
            archive.addfile(member, buffer)


LAYOUTS: dict[str, Callable[..., None]] = {
    "spice": write_spice,
    "ani1x": write_ani1x,
    "qm7x": write_qm7x,
    "ani1": write_ani1,
}


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="configurations (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    LAYOUTS[options.layout](options.path, options.rows, options.seed)


if __name__ == "__main__":
    main()
