"""Reader of COMP6's HDF5 layout (the benchmarks of the ANI-1x potential).

``/<set>/<molecule>/{coordinates, energies, forces, species}``, nested at most four deep. What is stored as ``forces``
are gradients (along the dissociation curves of S66x8 the energy rises with their work), so the sign is turned.
(J. S. Smith et al., J. Chem. Phys. 148, 241733 (2018).)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlip_studies.data.readers import finished, reader_options, unit_factors
from mlip_studies.data.readers.hdf5 import atomic_numbers_of, damage, molecule_blocks, open_root
from mlip_studies.data.store import Block

EXPECTED = "COMP6's layout (nested groups with coordinates, energies, forces and species)"
_DEPTH = 4


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the molecules of a file.

    Args:
        path: the HDF5 file.
        entry: the data set's entry; ``fidelities`` maps each fidelity to its ``energy`` key and optional ``forces``
            key, under which the gradient is stored.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å; the group is the path in the file.

    Raises:
        InputError: truncated, of another layout, a key missing, or numbers that are NaN or infinite.
    """
    reader_options(entry, {})
    energy, length = unit_factors(entry)
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    factors = (length, energy, -energy / length)
    with open_root(path, str(path), EXPECTED) as root, damage(str(path)):
        row = 0
        for group in root.leaves("coordinates", _DEPTH):
            with damage(group.where):
                numbers = atomic_numbers_of(group.texts("species"), f"{group.where}: species")
                coordinates = group.numbers("coordinates")
                energies = {f: group.numbers(keys["energy"]) for f, keys in fidelities.items()}
                gradients = {f: group.numbers(keys["forces"]) for f, keys in fidelities.items() if keys.get("forces")}
                for block in molecule_blocks(
                    group, numbers, coordinates, energies, gradients, factors, row, block_rows
                ):
                    yield finished(block, path)
                    row += len(block)
