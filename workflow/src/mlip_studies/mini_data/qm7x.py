"""A mini set in the layout of QM7-X: xz-compressed HDF5, tiny data sets per configuration.

(J. Hoja et al., Sci. Data 8, 43 (2021).)
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import atomic_path, write_text
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.run import optimise_and_hessian
from mlip_studies.dft.sampling import normal_modes
from mlip_studies.mini_data.assembly import Labelled, atom_energies, labelled, sum_of_atoms
from mlip_studies.mini_data.recipe import Recipe, system_entry, system_index
from mlip_studies.mini_data.systems import System
from mlip_studies.mini_data.xtb import relax, start_geometry
from mlip_studies.units import BOLTZMANN_HARTREE_PER_K, HARTREE_TO_EV

DUPLICATES = "DupMols-mini.dat"


def make_minimum(recipe: Recipe, name: str, output: Path) -> None:
    """Optimise a molecule at the level of the set, from a GFN2-xTB geometry, and write minimum and Hessian as JSON."""
    numbers, positions = start_geometry(system_entry(recipe, name)["geometry"])
    # Heavy atoms first, as in the published files.
    order = sorted(range(len(numbers)), key=lambda i: (numbers[i] == 1, i))
    positions, _ = relax(numbers[order], positions[order])
    positions, hessian, energy = optimise_and_hessian(numbers[order], positions, DFT_LEVELS[recipe["level"]])
    write_text(
        output,
        json.dumps(
            {
                "molecule": name,
                "level": recipe["level"],
                "atomic_numbers": numbers[order].tolist(),
                "positions_angstrom": positions.tolist(),
                "hessian_hartree_per_angstrom2": hessian.tolist(),
                "energy_hartree": energy,
            }
        ),
    )


def make_system(recipe: Recipe, name: str, minima: Path) -> System:
    """The minimum and its displaced copies, drawn from the harmonic Boltzmann distribution.

    Every normal mode moves by a normal deviate of variance kT/K along its normalised displacement vector, so the mean
    harmonic energy is kT/2 per mode. Frame i > 0 is drawn from a generator seeded with (seed, system, i).

    Args:
        recipe: the recipe; ``temperature`` in K.
        name: system of the recipe.
        minima: folder of minima with Hessians (``<name>.json``).
    """
    from ase.data import atomic_masses

    entry = system_entry(recipe, name)
    minimum = json.loads((minima / f"{name}.json").read_text())
    numbers = np.array(minimum["atomic_numbers"], dtype=np.int64)
    positions = np.array(minimum["positions_angstrom"])
    hessian = np.array(minimum["hessian_hartree_per_angstrom2"])
    modes, force_constants = normal_modes(positions, atomic_masses[numbers], hessian)
    widths = np.sqrt(BOLTZMANN_HARTREE_PER_K * recipe["temperature"] / force_constants)
    frames = [positions]
    for row in range(1, recipe["displaced"] + 1):
        rng = np.random.default_rng([recipe["seed"], system_index(recipe, name), row])
        frames.append(positions + np.einsum("m,mac->ac", widths * rng.normal(size=len(widths)), modes))
    return System(
        name,
        numbers,
        np.array(frames).round(8),
        tags=("opt", *(f"d{row}" for row in range(1, recipe["displaced"] + 1))),
        info={key: entry[key] for key in ("idmol", "file", "smiles")},
    )


def outputs(recipe: Recipe) -> list[str]:
    """Names of the files that :func:`assemble` writes."""
    return [*(f"qm7x-mini-{file}.xz" for file in _files(recipe)), DUPLICATES, "rows.csv"]


def _files(recipe: Recipe) -> list[str]:
    return sorted({entry["file"] for entry in recipe["systems"]})


def configurations(content: Labelled, isolated: dict[str, float]) -> dict[str, dict[str, NDArray[Any]]]:
    """The data sets of every configuration of a molecule, keyed by its tag (``opt``, ``d1``, …), eV and Å.

    Energies have shape (1,), atomic numbers (n_atoms,), positions and forces (n_atoms, 3), Hirshfeld ratios (n_atoms,),
    dipoles (3,), e·Å.

    Totals are sums of the stored parts: ``ePBE0+MBD`` = ``ePBE0`` + ``eMBD``, ``totFOR`` = ``pbe0FOR`` + ``vdwFOR``.
    ``eAT`` is ``ePBE0`` minus the isolated atoms, negative for a bound molecule.
    """
    system = content.system
    atoms = sum_of_atoms(system.atomic_numbers, isolated)
    scf, mbd = content.part("energy_scf"), content.part("energy_mbd")
    forces_scf, forces_mbd, ratios = (content.part(key) for key in ("forces_scf", "forces_mbd", "hirshfeld_ratios"))
    result = {}
    for i, frame in enumerate(content.index):
        dipole = content.dipoles[i]
        result[system.tags[frame]] = {
            "atNUM": system.atomic_numbers,
            "atXYZ": system.positions[frame],
            "ePBE0+MBD": np.array([(scf[i] + mbd[i]) * HARTREE_TO_EV]),
            "ePBE0": np.array([scf[i] * HARTREE_TO_EV]),
            "eMBD": np.array([mbd[i] * HARTREE_TO_EV]),
            "eAT": np.array([(scf[i] - atoms) * HARTREE_TO_EV]),
            "totFOR": (forces_scf[i] + forces_mbd[i]) * HARTREE_TO_EV,
            "pbe0FOR": forces_scf[i] * HARTREE_TO_EV,
            "vdwFOR": forces_mbd[i] * HARTREE_TO_EV,
            "hRAT": ratios[i],
            "DIP": np.array([np.linalg.norm(dipole)]),
            "vDIP": dipole,
        }
    return result


VECTORS = ("atXYZ", "totFOR", "pbe0FOR", "vdwFOR", "vDIP")


def turned(values: dict[str, NDArray[Any]], rotation: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """A configuration rotated by a matrix (3, 3): positions, forces (n, 3) and dipole (3,) turn, all else stays."""
    return {key: value @ rotation.T if key in VECTORS else value for key, value in values.items()}


def assemble(recipe: Recipe, geometries: Path, shards: Iterable[Path], atoms: Path, folder: Path) -> None:
    """Write the .xz files and the list of duplicates.

    ``duplicate`` of the recipe names a molecule whose configurations occur once more, rotated, as another conformer;
    the list holds the id of that conformer's equilibrium structure.

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
    from scipy.spatial.transform import Rotation

    contents = labelled(recipe, geometries, shards, folder / "rows.csv")
    isolated = atom_energies(atoms, recipe["level"])
    duplicate = recipe["duplicate"]
    quaternion = np.random.default_rng(duplicate["rotation_seed"]).normal(size=4)
    rotation = Rotation.from_quat(quaternion).as_matrix()
    listed = []
    for file in _files(recipe):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as stream:
            for content in contents:
                info = content.system.info
                if info["file"] != file:
                    continue
                molecule = stream.create_group(info["idmol"])
                stem = f"Geom-m{info['idmol']}-i1-c"
                entries = {f"{stem}1-{tag}": data for tag, data in configurations(content, isolated).items()}
                if content.system.name == duplicate["of"]:
                    again = f"{stem}{duplicate['conformer']}-"
                    entries |= {again + key.rsplit("-", 1)[1]: turned(d, rotation) for key, d in entries.items()}
                    listed.append(f"{again}opt\n")
                for key, data in entries.items():
                    group = molecule.create_group(key)
                    for name, values in data.items():
                        group.create_dataset(name, data=values)
        with atomic_path(folder / f"qm7x-mini-{file}.xz") as temporary:
            temporary.write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    write_text(folder / DUPLICATES, "".join(listed))
