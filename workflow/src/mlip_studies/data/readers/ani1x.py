"""Reader of the layout of ani1x-release.h5 (ANI-1x and ANI-1ccx in one file).

One HDF5 group per molecule with ``atomic_numbers`` (n_atoms,), ``coordinates`` (n_frames, n_atoms, 3) and label arrays
such as ``wb97x_dz.energy`` (n_frames,) and ``wb97x_dz.forces`` (n_frames, n_atoms, 3); NaN where there is no label.
The stored forces are forces (minus the gradient), so no sign is changed. (J. S. Smith et al., Sci. Data 7, 134 (2020).)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mlip_studies.data.readers import unit_factors
from mlip_studies.data.store import Block, atomic_number_array, check_block, open_hdf5
from mlip_studies.errors import InputError

EXPECTED = "the layout of ani1x-release.h5 (one group per molecule with atomic_numbers, coordinates and labels)"


def _dataset(path: Path, group: h5py.Group, name: str, length: int | None = None) -> h5py.Dataset:
    item = group.get(name)
    where = f"{path}: group {group.name.lstrip('/')}"
    if not isinstance(item, h5py.Dataset):
        found = ", ".join(sorted(group)[:6]) + (", …" if len(group) > 6 else "")
        raise InputError(f"{where}: key {name!r} is missing, expected {EXPECTED}; it holds {found or 'nothing'}")
    if length is not None and (item.ndim == 0 or item.shape[0] != length):
        raise InputError(f"{where}: key {name!r} has shape {item.shape}, expected {length} rows; fetch the file again")
    return item


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
    energy_factor, length_factor = unit_factors(entry)
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    with open_hdf5(path, EXPECTED) as file:
        if len(file) == 0:
            raise InputError(f"{path}: no groups, expected {EXPECTED}; fetch the file again")
        offset = 0
        for name in file:
            try:
                group = file[name]
                if not isinstance(group, h5py.Group):
                    raise InputError(f"{path}: layout of another data set (a bare {name!r}), expected {EXPECTED}")
                stored = np.asarray(_dataset(path, group, "atomic_numbers")[()])
                numbers = atomic_number_array(stored, f"{path}: group {name}: atomic_numbers")
                coordinates = _dataset(path, group, "coordinates")
                if coordinates.ndim != 3 or coordinates.shape[1:] != (len(numbers), 3):
                    raise InputError(
                        f"{path}: group {name}: coordinates have shape {coordinates.shape}, "
                        f"expected (rows, {len(numbers)}, 3); fetch the file again"
                    )
                n_frames = len(coordinates)
                energy = {f: _dataset(path, group, keys["energy"], n_frames) for f, keys in fidelities.items()}
                forces = {
                    f: _dataset(path, group, keys["forces"], n_frames)
                    for f, keys in fidelities.items()
                    if keys.get("forces")
                }
                for first in range(0, n_frames, block_rows):
                    part = slice(first, min(first + block_rows, n_frames))
                    block = Block(
                        group=name,
                        atomic_numbers=numbers,
                        positions=_scaled(coordinates[part], length_factor),
                        energies={f: energy_factor * data[part].astype(np.float64) for f, data in energy.items()},
                        forces={f: _scaled(data[part], energy_factor / length_factor) for f, data in forces.items()},
                        source_rows=np.arange(offset + part.start, offset + part.stop, dtype=np.int64),
                    )
                    check_block(block, path)
                    yield block
                offset += n_frames
            except (OSError, RuntimeError, KeyError) as error:
                message = str(error).splitlines()[0]
                raise InputError(f"{path}: group {name}: damaged HDF5 data ({message}); fetch the file again") from None


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    """Convert in double precision and return the type of the file."""
    return values if factor == 1.0 else (values.astype(np.float64) * factor).astype(values.dtype)
