"""A mini set in the layout of COMP6's S66x8: dimers at eight separations, gradients under the name ``forces``.

(J. S. Smith, B. Nebgen, N. Lubbers, O. Isayev, A. E. Roitberg, J. Chem. Phys. 148, 241733 (2018); J. Řezáč,
K. E. Riley, P. Hobza, J. Chem. Theory Comput. 7, 2427 (2011).)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mlip_studies.artifacts import atomic_path
from mlip_studies.elements import symbol
from mlip_studies.mini_data.assembly import labelled
from mlip_studies.mini_data.recipe import Recipe, system_entry, system_index
from mlip_studies.mini_data.systems import System
from mlip_studies.mini_data.xtb import best_dimer, relax, start_geometry

FILE = "dimers-mini.h5"
# The level as COMP6 writes it.
LEVEL_OF_THEORY = "wb97x/6-31g*"


def make_system(recipe: Recipe, name: str, minima: Path) -> System:
    """A dimer relaxed with GFN2-xTB, its rigid monomers moved along the line of their centroids.

    Args:
        recipe: the recipe; ``factors`` multiply the centroid distance of the relaxed dimer.
        name: system of the recipe; its ``monomers`` are ASE g2 names.
        minima: not used.
    """
    entry = system_entry(recipe, name)
    monomers = []
    for geometry in entry["monomers"]:
        numbers, positions = start_geometry(geometry)
        monomers.append((numbers, relax(numbers, positions)[0]))
    first, second = monomers
    numbers, positions = best_dimer(first, second, seed=recipe["seed"] + system_index(recipe, name))
    split = len(monomers[0][0])
    positions = positions - positions[:split].mean(axis=0)
    centroid = positions[split:].mean(axis=0)
    frames = []
    for factor in recipe["factors"]:
        moved = positions.copy()
        moved[split:] += (factor - 1.0) * centroid
        frames.append(moved.astype(np.float32))
    return System(
        name,
        numbers,
        np.array(frames, dtype=np.float64),
        tags=tuple(f"{factor:.2f}" for factor in recipe["factors"]),
        info={
            "monomers": list(entry["monomers"]),
            "atoms_of_first": split,
            "centroid_distance_angstrom": float(np.linalg.norm(centroid)),
        },
    )


def outputs(recipe: Recipe) -> list[str]:
    """Names of the files that :func:`assemble` writes."""
    return [FILE, "rows.csv"]


def assemble(recipe: Recipe, geometries: Path, shards: Iterable[Path], atoms: Path, folder: Path) -> None:
    """Write ``/<group>/<molXX>/{coordinates, energies, forces, species, lot}``; ``forces`` are gradients, hartree/Å.

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
    with atomic_path(folder / FILE) as temporary, h5py.File(temporary, "w") as stream:
        for content in contents:
            group = stream.create_group(f"{recipe['group']}/{content.system.name}")
            options = {"compression": "gzip", "shuffle": True}
            group.create_dataset("coordinates", data=content.positions.astype(np.float32), **options)
            group.create_dataset("energies", data=content.energies, **options)
            group.create_dataset("forces", data=(-content.forces).astype(np.float32), **options)
            symbols = np.array([symbol(z) for z in content.system.atomic_numbers], dtype="S1")
            group.create_dataset("species", data=symbols)
            group.create_dataset("lot", data=np.array([LEVEL_OF_THEORY], dtype="S12"))
