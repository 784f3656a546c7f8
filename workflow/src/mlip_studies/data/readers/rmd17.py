"""Reader of the revised MD17: npz files with ``nuclear_charges``, ``coords``, ``energies`` and ``forces``.

The published archive rmd17.tar.bz2 holds one npz file per molecule under ``rmd17/npz_data`` and the official splits as
``rmd17/splits/index_{train,test}_0{1..5}.csv``. ``old_indices`` are the frame numbers in the original trajectories,
``old_energies`` and ``old_forces`` the original labels, which may be read as a second fidelity. Forces are forces.
(A. S. Christensen, O. A. von Lilienfeld, Mach. Learn. Sci. Technol. 1, 045018 (2020), who advise to train on at most
1000 frames, because the trajectories are correlated.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.data.readers import reader_options
from mlip_studies.data.readers.archives import signature, tar_member, unpacked
from mlip_studies.data.readers.npz import Layout, read_npz
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError

LAYOUT = Layout(
    "nuclear_charges",
    "coords",
    "rMD17's npz layout with the arrays nuclear_charges, coords, energies and forces",
    columns=("old_indices",),
)
_EXPECTED_SPLIT = "one of rMD17's lists of row numbers (one whole number per line)"
_MAX_LIST_BYTES = 64 << 20


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the frames of one molecule.

    Args:
        path: an npz file, or the archive that holds it.
        entry: the data set's entry. ``reader_options.member``: which file of the archive to read, as its path or
            name. ``scratch``: folder for the unpacked file.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å with the column ``old_indices`` (-1 where the file has none); the group is the entry's
        ``group`` or the formula.

    Raises:
        InputError: damaged, of another layout, an array missing, or numbers that are not finite.
    """
    member = reader_options(entry, {"member": None})["member"]
    expected = LAYOUT.expected
    if signature(path, expected)[:2] == b"PK":
        yield from read_npz(path, str(path), entry, block_rows, LAYOUT)
        return
    with tar_member(path, member, ".npz", expected) as (name, stream), unpacked(stream, path, entry, expected) as file:
        yield from read_npz(file, f"{path}#{name}", entry, block_rows, LAYOUT)


def official_split(path: Path, member: str | None = None) -> NDArray[np.int64]:
    """Row numbers of an official split.

    Args:
        path: a csv file, or the archive that holds it.
        member: which file of the archive, as its path or name.

    Returns:
        row numbers in the npz file, shape (n,), in the order of the list.

    Raises:
        InputError: no such list, or not one row number per line, or one of them twice.
    """
    if path.suffix == ".csv":
        signature(path, _EXPECTED_SPLIT)
        label, content = str(path), path.read_bytes()
    else:
        with tar_member(path, member, ".csv", _EXPECTED_SPLIT) as (name, stream):
            label, content = f"{path}#{name}", stream.read(_MAX_LIST_BYTES)
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        if not (line.isascii() and line.isdecimal() and len(line) < 19):
            raise InputError(f"{label}, line {number}: {line[:40]!r}, expected {_EXPECTED_SPLIT}; fetch the file again")
        rows.append(int(line))
    if not rows or len(set(rows)) != len(rows):
        raise InputError(f"{label}: {'a row number twice' if rows else 'it is empty'}, expected {_EXPECTED_SPLIT}")
    return np.array(rows, dtype=np.int64)
