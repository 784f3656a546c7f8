"""Reader of MD17's npz layout: one molecule, arrays ``E`` (n_frames,) or (n_frames, 1), ``F``, ``R`` and ``z``.

Forces are forces. (S. Chmiela et al., Sci. Adv. 3, e1603015 (2017).)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlip_studies.data.readers import reader_options
from mlip_studies.data.readers.npz import Layout, read_npz
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError

LAYOUT = Layout("z", "R", "MD17's npz layout with the arrays E, F, R and z")


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the frames of one file.

    Args:
        path: the npz file.
        entry: the data set's entry with exactly one fidelity, whose ``energy`` and optional ``forces`` name arrays.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å; the group is the entry's ``group`` or the formula.

    Raises:
        InputError: truncated, of another layout, an array missing, or numbers that are not finite.
    """
    reader_options(entry, {})
    if len(entry["fidelities"]) != 1:
        raise InputError(
            f"fidelities: {LAYOUT.expected} holds one level of theory, {len(entry['fidelities'])} are configured"
        )
    yield from read_npz(path, str(path), entry, block_rows, LAYOUT)
