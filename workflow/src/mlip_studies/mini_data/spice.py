"""A mini set in the layout of SPICE 1.1: bohr, hartree, gradients, mapped SMILES.

(P. Eastman et al., Sci. Data 10, 11 (2023).)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import atomic_path
from mlip_studies.errors import InputError
from mlip_studies.mini_data.assembly import atom_energies, labelled, sum_of_atoms
from mlip_studies.mini_data.recipe import Recipe, system_entry, system_index
from mlip_studies.mini_data.systems import System
from mlip_studies.mini_data.xtb import best_dimer, relax, start_geometry, trajectory
from mlip_studies.units import BOHR_TO_ANGSTROM

FILE = "SPICE-mini.hdf5"


def mapped_atoms(smiles: str) -> tuple[NDArray[np.int64], int]:
    """Atomic numbers (n_atoms,) in the order of the map numbers, and the total formal charge, of a mapped SMILES.

    Raises:
        InputError: RDKit rejects the SMILES, or its atoms are not numbered 1 to n.
    """
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        raise InputError(f"SMILES {smiles!r}: RDKit rejects it")
    atoms = sorted(molecule.GetAtoms(), key=lambda atom: atom.GetAtomMapNum())
    if [atom.GetAtomMapNum() for atom in atoms] != list(range(1, len(atoms) + 1)):
        raise InputError(f"SMILES {smiles!r}: atoms must carry the map numbers 1 to {len(atoms)}, hydrogens included")
    charge = sum(atom.GetFormalCharge() for atom in atoms)
    return np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64), charge


def embed(smiles: str, seed: int) -> NDArray[np.float64]:
    """A rough geometry (n_atoms, 3) in Å from a mapped SMILES, in the order of the map numbers (RDKit's ETKDG)."""
    from rdkit import Chem
    from rdkit.Chem.rdDistGeom import EmbedMolecule

    options: Any = Chem.SmilesParserParams()  # the stubs describe its attributes as another class
    options.removeHs = False
    molecule = Chem.MolFromSmiles(smiles, options)
    if EmbedMolecule(molecule, randomSeed=seed) != 0:
        raise InputError(f"SMILES {smiles!r}: no geometry found; give the system a `geometry` in the recipe")
    order = np.argsort([atom.GetAtomMapNum() for atom in molecule.GetAtoms()])
    positions: NDArray[np.float64] = molecule.GetConformer().GetPositions()[order]
    return positions


def as_stored(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (..., 3), Å, rounded to what the file holds: single precision in bohr."""
    return (np.asarray(positions) / BOHR_TO_ANGSTROM).astype(np.float32).astype(np.float64) * BOHR_TO_ANGSTROM


def make_system(recipe: Recipe, name: str, minima: Path) -> System:
    """Frames of GFN2-xTB trajectories, one per temperature, and bonds crushed on purpose where the recipe says so.

    Args:
        recipe: the recipe.
        name: system of the recipe: ``smiles``, ``rows`` and ``temperatures``; start from ``geometry`` (element x y z),
            from the best dimer of ``dimer`` (ASE g2 names) or from the SMILES; ``crushed`` lists factors by which the
            relaxed geometry is scaled.
        minima: not used.
    """
    entry = system_entry(recipe, name)
    numbers, charge = mapped_atoms(entry["smiles"])
    seed = recipe["seed"] + 100 * system_index(recipe, name)
    if "dimer" in entry:
        first, second = (start_geometry(geometry) for geometry in entry["dimer"])
        found, positions = best_dimer(first, second, seed)
    elif "geometry" in entry:
        found, positions = start_geometry(entry["geometry"])
    else:
        found, positions = numbers, embed(entry["smiles"], seed)
    if not np.array_equal(found, numbers):
        raise InputError(f"recipe of spice: {name}: the geometry's atoms are not those of the SMILES in map order")
    temperatures: Any = entry.get("temperatures", recipe["temperatures"])
    frames, tags = [], []
    if entry["rows"]:
        minimum, _ = relax(numbers, positions, charge)
        share = [entry["rows"] // len(temperatures)] * len(temperatures)
        share[0] += entry["rows"] - sum(share)
        runs = [
            list(
                trajectory(
                    numbers,
                    minimum,
                    temperature,
                    seed + index,
                    n_frames,
                    stride_fs=recipe["stride_fs"],
                    equilibration_fs=recipe["equilibration_fs"],
                    charge=charge,
                )
            )
            for index, (temperature, n_frames) in enumerate(zip(temperatures, share, strict=True))
        ]
        # The temperatures take turns, so that the first rows of a system are a sample of all.
        for row in range(max(share)):
            for temperature, run in zip(temperatures, runs, strict=True):
                if row < len(run):
                    frames.append(run[row])
                    tags.append(f"{temperature:g}K")
        for factor in entry.get("crushed", ()):
            frames.append(minimum.mean(axis=0) + factor * (minimum - minimum.mean(axis=0)))
            tags.append(f"crushed-{factor:g}")
    return System(
        name,
        numbers,
        as_stored(np.array(frames).reshape(-1, len(numbers), 3)),
        charge,
        tuple(tags),
        {"smiles": entry["smiles"], "subset": entry["subset"], "group": entry["group"]},
    )


def outputs(recipe: Recipe) -> list[str]:
    """Names of the files that :func:`assemble` writes."""
    return [FILE, "rows.csv"]


def assemble(recipe: Recipe, geometries: Path, shards: Iterable[Path], atoms: Path, folder: Path) -> None:
    """Write one group per molecule with the keys, types and ``units`` attributes of SPICE.

    ``formation_energy`` is the total energy minus the isolated neutral atoms. A group without conformations holds empty
    one-dimensional data sets, as in the published files.

    Args:
        recipe: the recipe.
        geometries: folder of the geometries.
        shards: the finished shards.
        atoms: table of isolated atoms.
        folder: where the files go.

    Raises:
        InputError: rows or isolated atoms are missing.
    """
    import h5py

    contents = labelled(recipe, geometries, shards, folder / "rows.csv")
    isolated = atom_energies(atoms, recipe["level"])
    with atomic_path(folder / FILE) as temporary, h5py.File(temporary, "w") as stream:
        for content in sorted(contents, key=lambda item: item.system.info["group"]):
            system = content.system
            group = stream.create_group(system.info["group"])
            for key in ("subset", "smiles"):
                group.create_dataset(key, data=[system.info[key]], dtype=h5py.string_dtype())
            group.create_dataset("atomic_numbers", data=system.atomic_numbers.astype(np.int16))
            reference = sum_of_atoms(system.atomic_numbers, isolated)
            empty = np.zeros(0, dtype=np.float32)
            some = bool(content.rows)
            # hartree/Å · Å/bohr = hartree/bohr
            gradient = (-content.forces * BOHR_TO_ANGSTROM).astype(np.float32) if some else empty
            conformations = (content.positions / BOHR_TO_ANGSTROM).astype(np.float32) if some else empty
            dipoles = (content.dipoles / BOHR_TO_ANGSTROM).astype(np.float32) if some else empty
            for key, values, unit in (
                ("conformations", conformations, "bohr"),
                ("dft_total_energy", content.energies, "hartree"),
                ("dft_total_gradient", gradient, "hartree/bohr"),
                ("formation_energy", content.energies - reference, "hartree"),
                ("scf_dipole", dipoles, "elementary_charge*bohr"),
            ):
                group.create_dataset(key, data=values).attrs["units"] = unit
