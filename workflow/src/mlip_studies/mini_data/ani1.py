"""A mini set in the layout of ANI-1: a tar of HDF5 files, energies only, with a high-energy part.

(J. S. Smith, O. Isayev, A. E. Roitberg, Sci. Data 4, 170193 (2017).)
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.artifacts import atomic_path
from mlip_studies.dft.sampling import normal_modes, sample_displacements
from mlip_studies.elements import symbol
from mlip_studies.mini_data.assembly import Labelled, labelled
from mlip_studies.mini_data.recipe import Recipe, system_entry, system_index
from mlip_studies.mini_data.systems import System
from mlip_studies.units import HARTREE_TO_EV

ARCHIVE = "ANI-1_release-mini.tar.gz"


def make_system(recipe: Recipe, name: str, minima: Path) -> System:
    """Normal-mode samples around a minimum, heavy atoms first, in single precision as ANI-1 stores them.

    Frame i is drawn at temperature ``temperatures[i % len(temperatures)]`` from a generator seeded with (seed, system,
    i), so a frame does not depend on how many are asked for.

    Args:
        recipe: the recipe.
        name: system of the recipe.
        minima: folder of minima with Hessians (``<molecule>.json``).
    """
    from ase.data import atomic_masses

    entry = system_entry(recipe, name)
    minimum = json.loads((minima / f"{entry['molecule']}.json").read_text())
    numbers = np.array(minimum["atomic_numbers"])
    positions = np.array(minimum["positions_angstrom"])
    hessian = np.array(minimum["hessian_hartree_per_angstrom2"])
    modes, force_constants = normal_modes(positions, atomic_masses[numbers], hessian)
    order = sorted(range(len(numbers)), key=lambda i: (numbers[i] == 1, i))
    temperatures = [recipe["temperatures"][i % len(recipe["temperatures"])] for i in range(entry["rows"])]
    frames = []
    for row, temperature in enumerate(temperatures):
        rng = np.random.default_rng([recipe["seed"], system_index(recipe, name), row])
        frame = positions + sample_displacements(modes, force_constants, temperature, rng)
        frames.append(frame[order].astype(np.float32))
    return System(
        name,
        numbers[order].astype(np.int64),
        np.array(frames, dtype=np.float64),
        tags=tuple(f"{temperature:g}K" for temperature in temperatures),
        info={"molecule": entry["molecule"], "smiles": entry["smiles"], "minimum_hartree": minimum["energy_hartree"]},
    )


def outputs(recipe: Recipe) -> list[str]:
    """Names of the files that :func:`assemble` writes."""
    return [ARCHIVE, "rows.csv"]


def _write_molecule(group: Any, content: Labelled, threshold_ev: float) -> None:
    system, energies = content.system, content.energies
    high = (energies - system.info["minimum_hartree"]) * HARTREE_TO_EV > threshold_ev
    options = {"compression": "gzip", "shuffle": True}
    # Molecules without such conformations have no high-energy part.
    for suffix, mask in (("", ~high), ("HE", high)):
        if mask.any():
            coordinates = content.positions[mask].astype(np.float32)
            group.create_dataset(f"coordinates{suffix}", data=coordinates, **options)
            group.create_dataset(f"energies{suffix}", data=energies[mask], **options)
    group.create_dataset("species", data=np.array([symbol(z) for z in system.atomic_numbers], dtype="S1"))
    group.create_dataset("smiles", data=np.array(list(system.info["smiles"]), dtype="S1"))


def assemble(recipe: Recipe, geometries: Path, shards: Iterable[Path], atoms: Path, folder: Path) -> None:
    """Write the archive: one HDF5 file per number of heavy atoms, with the members' dates fixed.

    Conformations more than ``high_energy_threshold_ev`` above the minimum of their molecule go to ``coordinatesHE``
    and ``energiesHE`` (ANI-1's own limit is 275 kcal/mol).

    Args:
        recipe: the recipe.
        geometries: folder of the geometries.
        shards: the finished shards.
        atoms: not used.
        folder: where the files go.

    Raises:
        InputError: rows are missing.
    """
    import h5py

    contents = labelled(recipe, geometries, shards, folder / "rows.csv")
    sets = sorted({content.system.name.rsplit("-", 1)[0] for content in contents})
    with (
        atomic_path(folder / ARCHIVE) as temporary,
        temporary.open("wb") as target,
        # Neither a name nor a date in the header.
        gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sets:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as stream:
                for content in contents:
                    if content.system.name.rsplit("-", 1)[0] == name:
                        group = stream.create_group(f"{name}/{content.system.name}")
                        _write_molecule(group, content, recipe["high_energy_threshold_ev"])
            member = tarfile.TarInfo(f"ANI-1_release/{name.replace('gdb11', 'ani_gdb')}.h5")
            member.size = buffer.seek(0, io.SEEK_END)
            buffer.seek(0)
            archive.addfile(member, buffer)
