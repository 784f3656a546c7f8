"""Trajectories of one molecule in an npz archive, read as a stream.

C-ordered arrays are streamed out of the archive, so that full trajectories (half a million frames) need no more memory
than a block.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.data.readers import convert, finished, unit_factors
from mlip_studies.data.store import Block, atomic_number_array
from mlip_studies.elements import formula
from mlip_studies.errors import InputError

# What zipfile, its decompressors and numpy's header parser raise when an archive is damaged.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Layout:
    """Names of the arrays of a layout, and its description for messages.

    Attributes:
        numbers: atomic numbers, shape (n_atoms,).
        positions: shape (n_frames, n_atoms, 3).
        expected: description.
        columns: further arrays of shape (n_frames,) that become columns, where a file has them.
    """

    numbers: str
    positions: str
    expected: str
    columns: tuple[str, ...] = ()


class _ArrayStream:
    """Sequential reader of the leading axis of one array inside an npz archive."""

    def __init__(self, label: str, archive: zipfile.ZipFile, key: str, expected: str) -> None:
        self._where = f"{label}: array {key!r}"
        try:
            self._stream = archive.open(f"{key}.npy")
        except KeyError:
            found = ", ".join(sorted(name.removesuffix(".npy") for name in archive.namelist())) or "nothing"
            raise InputError(f"{label}: key {key!r} is missing, expected {expected}; it holds {found}") from None
        version = np.lib.format.read_magic(self._stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = header(self._stream)
        if self.dtype.hasobject or self.dtype.kind not in "fiu":
            raise InputError(f"{self._where} has type {self.dtype}, expected plain numbers")
        held = archive.getinfo(f"{key}.npy").file_size
        if any(length < 0 for length in self.shape) or math.prod(self.shape) * self.dtype.itemsize > held:
            raise InputError(f"{self._where}: shape {self.shape} does not fit into its {held} bytes; fetch it again")
        self._next = 0
        # The leading axis of a Fortran-ordered array is not contiguous: such an array is held whole.
        self._whole = self._bytes(self.shape).reshape(self.shape, order="F") if fortran else None

    def _bytes(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise InputError(f"{self._where} is cut off; fetch the file again")
        return np.frombuffer(data, dtype=self.dtype)

    def read(self, n: int) -> NDArray[Any]:
        """The next ``n`` entries of the leading axis."""
        self._next += n
        if self._whole is not None:
            return self._whole[self._next - n : self._next]
        shape = (n, *self.shape[1:])
        return self._bytes(shape).reshape(shape)

    def end(self) -> None:
        """Read what is left, so that the archive's own checksum of the array is compared."""
        while self._stream.read(1 << 20):
            pass

    def close(self) -> None:
        """Close the member of the archive."""
        self._stream.close()

    def read_all(self) -> NDArray[Any]:
        """The whole array, also one without axes."""
        return self._bytes(self.shape).reshape(self.shape) if self._whole is None else self._whole


def read_npz(path: Path, label: str, entry: Mapping[str, Any], block_rows: int, layout: Layout) -> Iterator[Block]:
    """Stream the frames of one file.

    Args:
        path: the npz file.
        label: what messages call it.
        entry: the data set's entry; ``fidelities`` maps each fidelity to the arrays of its energies and forces.
        block_rows: most frames per block.
        layout: names of the other arrays.

    Yields:
        blocks in eV, Å and eV/Å in double precision; the group is the entry's ``group`` or the formula.

    Raises:
        InputError: truncated, of another layout, an array missing, or numbers that are not finite.
    """
    energy_factor, length_factor = unit_factors(entry)
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    if not path.is_file():
        raise InputError(f"{label}: no such file; expected {layout.expected}")
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as opened:
            streams: list[_ArrayStream] = []

            def array(key: str) -> _ArrayStream:
                stream = _ArrayStream(label, archive, key, layout.expected)
                streams.append(opened.enter_context(contextlib.closing(stream)))
                return stream

            def expect(key: str, stream: _ArrayStream, *shapes: tuple[int, ...]) -> None:
                if stream.shape not in shapes:
                    raise InputError(f"{label}: array {key!r} has shape {stream.shape}, expected {shapes[0]}")

            z, positions = array(layout.numbers), array(layout.positions)
            energies = {name: array(keys["energy"]) for name, keys in fidelities.items()}
            forces = {name: array(keys["forces"]) for name, keys in fidelities.items() if keys.get("forces")}
            present = set(archive.namelist())
            columns = {name: array(name) for name in layout.columns if f"{name}.npy" in present}
            numbers = atomic_number_array(z.read_all(), f"{label}: array {layout.numbers!r}")
            n_frames, n_atoms = positions.shape[0] if positions.shape else 0, len(numbers)
            expect(layout.positions, positions, (n_frames, n_atoms, 3))
            for name, stream in energies.items():
                expect(fidelities[name]["energy"], stream, (n_frames,), (n_frames, 1))
            for name, stream in forces.items():
                expect(fidelities[name]["forces"], stream, (n_frames, n_atoms, 3))
            for name, stream in columns.items():
                expect(name, stream, (n_frames,))
            for first in range(0, n_frames, block_rows):
                n = min(block_rows, n_frames - first)
                block = Block(
                    group=entry.get("group") or formula(numbers),
                    atomic_numbers=numbers,
                    positions=convert(positions.read(n), length_factor, np.float64),
                    energies={
                        name: convert(stream.read(n).reshape(n), energy_factor, np.float64)
                        for name, stream in energies.items()
                    },
                    forces={
                        name: convert(stream.read(n), energy_factor / length_factor, np.float64)
                        for name, stream in forces.items()
                    },
                    source_rows=np.arange(first, first + n, dtype=np.int64),
                    # A file without the column says so with -1 in every row.
                    columns={
                        name: columns[name].read(n).astype(np.int64) if name in columns else np.full(n, -1)
                        for name in layout.columns
                    },
                )
                yield finished(block, label)
            for stream in streams:
                stream.end()
    except _ERRORS as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{label}: not a whole npz file ({message}), expected {layout.expected}; fetch it again"
        ) from None
