"""Reader of the layout of ani1x-release.h5 (ANI-1x and ANI-1ccx in one file).

One HDF5 group per molecule with ``atomic_numbers`` (n_atoms,), ``coordinates`` (n_frames, n_atoms, 3) and label arrays
such as ``wb97x_dz.energy`` (n_frames,) and ``wb97x_dz.forces`` (n_frames, n_atoms, 3); NaN where there is no label.
The stored forces are forces (minus the gradient), so no sign is changed. (J. S. Smith et al., Sci. Data 7, 134 (2020).)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlip_studies.data.readers import reader_options, unit_factors
from mlip_studies.data.readers.hdf5 import damage, molecule_blocks, open_root
from mlip_studies.data.store import Block, atomic_number_array, check_block

EXPECTED = "the layout of ani1x-release.h5 (one group per molecule with atomic_numbers, coordinates and labels)"


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the groups of a file.

    Args:
        path: the HDF5 file.
        entry: the data set's entry; ``fidelities`` maps each fidelity to its ``energy`` and optional ``forces`` key.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å.

    Raises:
        InputError: truncated, of another layout, a key missing, or numbers that are not finite.
    """
    reader_options(entry, {})
    energy, length = unit_factors(entry)
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    with open_root(path, str(path), EXPECTED) as root, damage(str(path)):
        row = 0
        for name in root.names():
            with damage(f"{path}: group {name}"):
                group = root.subgroup(name)
                stored = group.numbers("atomic_numbers")
                numbers = atomic_number_array(stored.all(), stored.where)
                coordinates = group.numbers("coordinates")
                energies = {f: group.numbers(keys["energy"]) for f, keys in fidelities.items()}
                forces = {f: group.numbers(keys["forces"]) for f, keys in fidelities.items() if keys.get("forces")}
                factors = (length, energy, energy / length)
                for block in molecule_blocks(group, numbers, coordinates, energies, forces, factors, row, block_rows):
                    check_block(block, path)
                    yield block
                    row += len(block)
