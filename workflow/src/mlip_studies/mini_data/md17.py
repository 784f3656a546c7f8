"""A mini set in the layout of MD17: ethanol, kcal/mol, frames of a trajectory.

(S. Chmiela et al., Sci. Adv. 3, e1603015 (2017).)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import atomic_path
from mlip_studies.mini_data.assembly import labelled
from mlip_studies.mini_data.recipe import Recipe, system_entry
from mlip_studies.mini_data.systems import System
from mlip_studies.mini_data.xtb import relax, start_geometry, trajectory
from mlip_studies.units import HARTREE_TO_KCAL_PER_MOL

FILE = "md17_ethanol-mini.npz"


def make_system(recipe: Recipe, name: str, minima: Path) -> System:
    """Frames of a GFN2-xTB Langevin trajectory, rounded to 1e-5 Å, atoms in the order of MD17 (C C O H…).

    Args:
        recipe: the recipe.
        name: system of the recipe.
        minima: not used.
    """
    entry = system_entry(recipe, name)
    numbers, positions = start_geometry(entry["geometry"])
    minimum, _ = relax(numbers, positions)
    frames = trajectory(
        numbers,
        minimum,
        entry["temperature"],
        recipe["seed"],
        entry["rows"],
        stride_fs=entry["stride_fs"],
        equilibration_fs=entry["equilibration_fs"],
    )
    return System(
        name,
        numbers,
        np.array(list(frames)).round(5),
        tags=(f"{entry['temperature']:g}K",) * entry["rows"],
        info={"stride_fs": entry["stride_fs"], "equilibration_fs": entry["equilibration_fs"]},
    )


def outputs(recipe: Recipe) -> list[str]:
    """Names of the files that :func:`assemble` writes."""
    return [FILE, "rows.csv"]


def fingerprint(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The md5 that such files carry: of the md5 digests of z, R, E and F in this order.

    Args:
        arrays: z (n_atoms,), R (n, n_atoms, 3), Å, E (n, 1), kcal/mol, and F (n, n_atoms, 3), kcal/mol/Å.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        digest.update(hashlib.md5(np.ascontiguousarray(arrays[key]).tobytes(), usedforsecurity=False).digest())
    return digest.hexdigest().encode("ascii")


def assemble(recipe: Recipe, geometries: Path, shards: Iterable[Path], atoms: Path, folder: Path) -> None:
    """Write the npz: E (n, 1) kcal/mol, F (n, 9, 3) kcal/mol/Å, R (n, 9, 3) Å, z (9,), and the descriptive keys.

    Args:
        recipe: the recipe.
        geometries: folder of the geometries.
        shards: the finished shards.
        atoms: not used.
        folder: where the files go.

    Raises:
        InputError: rows are missing.
    """
    (content,) = labelled(recipe, geometries, shards, folder / "rows.csv")
    arrays: dict[str, Any] = {
        "E": content.energies[:, None] * HARTREE_TO_KCAL_PER_MOL,
        "F": content.forces * HARTREE_TO_KCAL_PER_MOL,
        "R": content.positions,
        "z": content.system.atomic_numbers.astype(np.uint8),
    }
    with atomic_path(folder / FILE) as temporary:
        np.savez_compressed(
            temporary,
            **arrays,
            name=np.array(b"ethanol"),
            theory=np.array("PySCF: PBE-D3(BJ), def2-SVP"),
            type=np.array(b"d"),
            md5=np.array(fingerprint(arrays)),
        )
