"""Reader of ANI-1's layout: a (compressed) tar archive of HDF5 files, or one of these files on its own.

``/<set>/<molecule>/{coordinates, energies, species, smiles}``, without forces. Configurations more than 275 kcal/mol
above the minimum lie apart as ``coordinatesHE`` and ``energiesHE``; the option ``high_energy`` says what becomes of
them. The files of an archive are unpacked one at a time. (J. S. Smith et al., Sci. Data 4, 170193 (2017).)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.data.readers import finished, reader_options, unit_factors
from mlip_studies.data.readers.archives import HDF5_SIGNATURE, signature, tar_members, unpacked
from mlip_studies.data.readers.hdf5 import atomic_numbers_of, damage, molecule_blocks, open_root
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError

EXPECTED = "ANI-1's layout (a tar archive of HDF5 files, or one of these: nested coordinates, energies and species)"
HIGH_ENERGY = ("exclude", "include", "separate")
_DEPTH = 4
# The keys of the high-energy part end like this.
_SUFFIX = "HE"


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the molecules of an archive or of one HDF5 file.

    Args:
        path: the archive or the HDF5 file.
        entry: the data set's entry with exactly one fidelity without forces. ``reader_options.high_energy``: exclude
            (the default) leaves the high-energy part out, include yields it after the other frames of its molecule,
            separate yields it under the group ``<group>/high_energy``. Rows are numbered alike in all three cases.
            ``scratch``: folder for the file that is being read.
        block_rows: most frames per block.

    Yields:
        blocks in eV and Å with the fact ``smiles`` (empty if the file has none) and the column ``high_energy`` (0, 1).

    Raises:
        InputError: damaged, of another layout, a key missing, a group twice, or numbers that are NaN or infinite.
    """
    option = reader_options(entry, {"high_energy": "exclude"})["high_energy"]
    if option not in HIGH_ENERGY:
        raise InputError(f"reader_options.high_energy: {option!r}; expected one of {', '.join(HIGH_ENERGY)}")
    if any(keys.get("forces") for keys in entry["fidelities"].values()):
        raise InputError("fidelities: this layout holds no forces; remove the `forces` key of the data set")
    seen: set[str] = set()
    if signature(path, EXPECTED) == HDF5_SIGNATURE:
        yield from _file(path, str(path), path, entry, option, block_rows, 0, seen)
        return
    row = 0
    for name, stream in tar_members(path, EXPECTED):
        if not name.lower().endswith((".h5", ".hdf5")):
            continue
        with unpacked(stream, path, entry, EXPECTED) as member:
            row = yield from _file(member, f"{path}#{name}", path, entry, option, block_rows, row, seen)
    if not seen:
        raise InputError(f"{path}: no HDF5 files inside, expected {EXPECTED}")


def _file(
    file: Path,
    label: str,
    path: Path,
    entry: Mapping[str, Any],
    option: str,
    block_rows: int,
    row: int,
    seen: set[str],
) -> Generator[Block, None, int]:
    """The molecules of one HDF5 file; returns the number of the row after the last one."""
    energy, length = unit_factors(entry)
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    with open_root(file, label, EXPECTED) as root, damage(label):
        for group in root.leaves("coordinates", _DEPTH):
            with damage(group.where):
                if group.name in seen:
                    raise InputError(f"{group.where}: another file of the archive holds it, too; remove one of them")
                seen.add(group.name)
                numbers = atomic_numbers_of(group.texts("species"), f"{group.where}: species")
                info = {"smiles": "".join(group.texts("smiles")) if group.has("smiles") else ""}
                for high, suffix in ((0, ""), (1, _SUFFIX)):
                    if high and not group.has(f"coordinates{suffix}"):
                        continue
                    coordinates = group.numbers(f"coordinates{suffix}")
                    energies = {f: group.numbers(keys["energy"] + suffix) for f, keys in fidelities.items()}
                    blocks = molecule_blocks(
                        group, numbers, coordinates, energies, {}, (length, energy, 1.0), row, block_rows, info
                    )
                    row += coordinates.shape[0] if coordinates.shape else 0
                    if high and option == "exclude":
                        continue
                    for block in blocks:
                        block.columns["high_energy"] = np.full(len(block), high, dtype=np.uint8)
                        if high and option == "separate":
                            block = dataclasses.replace(block, group=f"{block.group}/high_energy")
                        yield finished(block, path)
    return row
