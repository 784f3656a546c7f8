"""Where the arrays of an HDF5 file lie, found without opening them one by one.

The HDF5 library spends some 0.1 ms on each data set that it opens, most of it on property lists and identifiers. A file
with a hundred million data sets of a few numbers takes hours that way. This module reads the structures of the original
file format (superblock 0, symbol-table groups, contiguous arrays, plain little-endian numbers) straight from the mapped
file. Whatever else it meets, it answers None, and the caller asks the library.

Format: The HDF Group, HDF5 File Format Specification Version 3.0, https://docs.hdfgroup.org/hdf5/develop/_s_p_e_c.html.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from struct import Struct, unpack_from
from struct import error as struct_error
from typing import Any

import numpy as np
from h5py import h5t
from numpy.typing import NDArray

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TREE = Struct("<4sBBHQQ")
_SYMBOLS = Struct("<4sBxH")
_SYMBOL_BYTES = 40
_HEAP = Struct("<4sB3xQQQ")
_HEADER = Struct("<BxHII4x")
_MESSAGE = Struct("<HHB3x")
_TWO = Struct("<QQ")
_SYMBOL_TABLE, _DATASPACE, _DATATYPE, _LAYOUT, _CONTINUATION = 0x11, 0x01, 0x03, 0x08, 0x10
_MAX_DEPTH = 8
_MAX_PARTS = 16
# Encoded type descriptions begin with two bytes that do not stand in a file.
_DTYPES = {
    kind.encode()[2:]: np.dtype(name)
    for kind, name in (
        (h5t.IEEE_F64LE, "<f8"),
        (h5t.IEEE_F32LE, "<f4"),
        (h5t.STD_I64LE, "<i8"),
        (h5t.STD_I32LE, "<i4"),
        (h5t.STD_I16LE, "<i2"),
        (h5t.STD_I8LE, "<i1"),
        (h5t.STD_U64LE, "<u8"),
        (h5t.STD_U32LE, "<u4"),
        (h5t.STD_U16LE, "<u2"),
        (h5t.STD_U8LE, "<u1"),
    )
}
_ERRORS = (struct_error, ValueError, IndexError, OverflowError)


class Index:
    """Finds groups and arrays in a mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def group(self, header: int) -> tuple[int, int] | None:
        """Addresses of the tree and the names of a group, from the address of its header."""
        try:
            for kind, start, length in self._messages(header):
                if kind == _SYMBOL_TABLE and length >= 16:
                    return _TWO.unpack_from(self._data, start)
        except _ERRORS:
            pass
        return None

    def subgroups(self, group: tuple[int, int]) -> dict[bytes, tuple[int, int]] | None:
        """The groups in a group whose tree and names the file keeps beside their names."""
        result = {}
        try:
            names = self._names(group[1])
            for start, count in self._symbol_nodes(group[0], _MAX_DEPTH):
                for position in range(start, start + _SYMBOL_BYTES * count, _SYMBOL_BYTES):
                    name, _, cached, *known = unpack_from("<QQI4xQQ", self._data, position)
                    if cached != 1:
                        return None
                    result[names[name : names.index(b"\0", name)]] = (known[0], known[1])
        except _ERRORS:
            return None
        return result

    def arrays(self, group: tuple[int, int], keys: Sequence[bytes]) -> list[NDArray[Any]] | None:
        """Arrays of a group, of any shape, as views of the file.

        Args:
            group: addresses of its tree and names.
            keys: their names.
        """
        try:
            headers: dict[int, int] = {}
            for start, count in self._symbol_nodes(group[0], _MAX_DEPTH):
                fields = unpack_from("<" + "QQ24x" * count, self._data, start)
                headers.update(zip(fields[::2], fields[1::2], strict=True))
            names = self._names(group[1])
            result = []
            for key in keys:
                # Names begin at multiples of eight bytes, each after the zero that ends or pads the one before.
                position = names.find(b"\0" + key + b"\0") + 1
                header = headers.get(position) if position else None
                array = self._array(header) if header is not None else None
                if array is None:
                    return None
                result.append(array)
            return result
        except _ERRORS:
            return None

    def forget(self) -> None:
        """Let go of the pages that were read, which count as memory of the process."""
        self._data.madvise(mmap.MADV_DONTNEED)

    def _names(self, address: int) -> bytes:
        magic, version, size, _, start = _HEAP.unpack_from(self._data, address)
        if magic != b"HEAP" or version != 0 or start + size > len(self._data):
            raise ValueError
        return self._data[start : start + size]

    def _symbol_nodes(self, address: int, depth: int) -> Iterator[tuple[int, int]]:
        """Address of the first symbol and number of symbols of each leaf of a tree."""
        magic, kind, level, used, _, _ = _TREE.unpack_from(self._data, address)
        if magic != b"TREE" or kind != 0 or depth == 0:
            raise ValueError
        for child in unpack_from("<" + "8xQ" * used, self._data, address + _TREE.size):
            if level:
                yield from self._symbol_nodes(child, depth - 1)
            else:
                magic, version, count = _SYMBOLS.unpack_from(self._data, child)
                if magic != b"SNOD" or version != 1:
                    raise ValueError
                yield child + _SYMBOLS.size, count

    def _messages(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Kind, address and length of each message of an object header."""
        version, _, _, size = _HEADER.unpack_from(self._data, address)
        if version != 1:
            raise ValueError
        parts = [(address + _HEADER.size, size)]
        for start, length in parts:
            end = start + length
            while start + _MESSAGE.size <= end:
                kind, size, flags = _MESSAGE.unpack_from(self._data, start)
                start += _MESSAGE.size
                if flags & 2:
                    # The message is shared, that is, it lies elsewhere.
                    raise ValueError
                if kind == _CONTINUATION:
                    if len(parts) > _MAX_PARTS:
                        raise ValueError
                    parts.append(_TWO.unpack_from(self._data, start))
                else:
                    yield kind, start, size
                start += size

    def _array(self, header: int) -> NDArray[Any] | None:
        data = self._data
        shape: tuple[int, ...] | None = None
        dtype = place = None
        for kind, start, length in self._messages(header):
            if kind == _DATASPACE:
                version, rank = data[start], data[start + 1]
                if version == 1:
                    shape = unpack_from(f"<{rank}Q", data, start + 8)
                elif version == 2 and data[start + 3] < 2:
                    shape = unpack_from(f"<{rank}Q", data, start + 4)
            elif kind == _DATATYPE:
                dtype = _dtype(data[start : start + length])
            elif kind == _LAYOUT and data[start] == 3 and data[start + 1] == 1:
                place = _TWO.unpack_from(data, start + 2)
        if shape is None or dtype is None or place is None:
            return None
        count = math.prod(shape)
        if count * dtype.itemsize != place[1] or place[0] + place[1] > len(data):
            return None
        return np.frombuffer(data, dtype, count, place[0]).reshape(shape)


def _dtype(message: bytes) -> np.dtype[Any] | None:
    # A message is padded to a multiple of eight bytes.
    for size in (len(message), 20, 12):
        if (found := _DTYPES.get(message[:size])) is not None:
            return found
    return None


@contextmanager
def open_index(path: Path) -> Iterator[Index | None]:
    """An index of a file, or None if it is of another version of the format."""
    with path.open("rb") as stream:
        start = stream.read(32)
        # Version 0, eight bytes per address and length, and addresses that count from the start of the file.
        known = start[8:9] == b"\0" and start[13:15] == b"\x08\x08" and not any(start[24:32])
        if start[:8] != _SIGNATURE or not known:
            yield None
            return
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed here: views of it may live on; it goes away with the last of them.
    yield Index(data)
