"""Reader of MD17's npz layout: one molecule, arrays ``E`` (n_frames,) or (n_frames, 1), ``F``, ``R`` and ``z``.

C-ordered arrays are streamed out of the archive, so the full trajectories (half a million frames) need no more memory
than a block. Forces are forces. (S. Chmiela et al., Sci. Adv. 3, e1603015 (2017).)
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.data.readers import unit_factors
from mlip_studies.data.store import Block, atomic_number_array, check_block
from mlip_studies.elements import formula
from mlip_studies.errors import InputError

EXPECTED = "MD17's npz layout with the arrays E, F, R and z"


class _ArrayStream:
    """Sequential reader of the leading axis of one array inside an npz archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, key: str) -> None:
        self._where = f"{path}: array {key!r}"
        try:
            self._stream = archive.open(f"{key}.npy")
        except KeyError:
            found = ", ".join(sorted(name.removesuffix(".npy") for name in archive.namelist())) or "nothing"
            raise InputError(f"{path}: key {key!r} is missing, expected {EXPECTED}; it holds {found}") from None
        version = np.lib.format.read_magic(self._stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = header(self._stream)
        if self.dtype.hasobject or self.dtype.kind not in "fiu":
            raise InputError(f"{self._where} has type {self.dtype}, expected plain numbers")
        self._next = 0
        # The leading axis of a Fortran-ordered array is not contiguous: such an array is held whole.
        self._whole = self._bytes(self.shape).reshape(self.shape, order="F") if fortran else None

    def _bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise InputError(f"{self._where} is cut off; fetch the file again")
        return np.frombuffer(data, dtype=self.dtype)

    def read(self, n: int) -> np.ndarray:
        """The next ``n`` entries of the leading axis."""
        self._next += n
        if self._whole is not None:
            return self._whole[self._next - n : self._next]
        shape = (n, *self.shape[1:])
        return self._bytes(shape).reshape(shape)

    def close(self) -> None:
        """Close the member of the archive."""
        self._stream.close()

    def read_all(self) -> np.ndarray:
        """The whole array, also one without axes."""
        return self._bytes(self.shape).reshape(self.shape) if self._whole is None else self._whole


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
    energy_factor, length_factor = unit_factors(entry)
    if len(entry["fidelities"]) != 1:
        raise InputError(f"fidelities: {EXPECTED} holds one level of theory, {len(entry['fidelities'])} are configured")
    ((fidelity, keys),) = entry["fidelities"].items()
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {EXPECTED}")
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as opened:

            def array(key: str) -> _ArrayStream:
                return opened.enter_context(contextlib.closing(_ArrayStream(path, archive, key)))

            z, positions, energy = array("z"), array("R"), array(keys["energy"])
            forces = array(keys["forces"]) if keys.get("forces") else None
            numbers = atomic_number_array(z.read_all(), f"{path}: array 'z'")
            n_frames, n_atoms = positions.shape[0] if positions.shape else 0, len(numbers)
            expected = {"R": (n_frames, n_atoms, 3)} | ({keys["forces"]: (n_frames, n_atoms, 3)} if forces else {})
            for name, stream in (("R", positions), (keys.get("forces"), forces)):
                if stream is not None and stream.shape != expected[name]:
                    raise InputError(f"{path}: array {name!r} has shape {stream.shape}, expected {expected[name]}")
            if energy.shape not in ((n_frames,), (n_frames, 1)):
                raise InputError(f"{path}: array {keys['energy']!r} has shape {energy.shape}, expected ({n_frames},)")
            for first in range(0, n_frames, block_rows):
                n = min(block_rows, n_frames - first)
                block = Block(
                    group=entry.get("group") or formula(numbers),
                    atomic_numbers=numbers,
                    positions=positions.read(n).astype(np.float64) * length_factor,
                    energies={fidelity: energy.read(n).reshape(n).astype(np.float64) * energy_factor},
                    forces=(
                        {fidelity: forces.read(n).astype(np.float64) * (energy_factor / length_factor)}
                        if forces
                        else {}
                    ),
                    source_rows=np.arange(first, first + n, dtype=np.int64),
                )
                check_block(block, path)
                missing = np.isnan(block.energies[fidelity])
                if missing.any():
                    # This layout has no convention for missing labels, so a NaN can only be damage.
                    row = first + int(np.argmax(missing))
                    raise InputError(
                        f"{path}: group {block.group}, row {row}: energy {fidelity} is NaN; repair or remove the row"
                    )
                yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a whole npz file ({error}), expected {EXPECTED}; fetch it again") from None
