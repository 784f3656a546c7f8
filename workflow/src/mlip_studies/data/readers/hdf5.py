"""Small, fast access to HDF5 files of untrusted content.

h5py's low-level interface opens and reads a tiny data set several times faster than its high-level one, which decides
how long the layouts with a data set per configuration take. In exchange every shape is checked here before anything is
read into an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t
from numpy.typing import DTypeLike, NDArray

from mlip_studies.data.readers import convert
from mlip_studies.data.store import Block
from mlip_studies.elements import number
from mlip_studies.errors import InputError

# What h5py and HDF5 raise when a file is damaged in one way or another.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
# Deflate cannot pack better than about 1:1030, so a larger ratio means that the stored shape is damaged.
_MAX_RATIO = 2048
_MAX_TEXT = 1 << 20
# More atoms than any molecule has, and more than one block may hold of them at a time.
_MAX_LIST = 1 << 20
_MAX_BLOCK_BYTES = 1 << 28
_TEXT = h5py.string_dtype()
_TEXT_IN_MEMORY = h5t.py_create(_TEXT)


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn the library's errors into one line.

    Raises:
        InputError: in place of any of :data:`HDF5_ERRORS`.
    """
    try:
        yield
    except HDF5_ERRORS as error:
        message = (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: damaged HDF5 data ({message}); fetch the file again") from None


@contextmanager
def open_root(path: Path, label: str, expected: str) -> Iterator[Group]:
    """The root group of a file.

    Args:
        path: file to open; ``label`` is what messages call it (an unpacked file has no name of its own).
        label: name in messages.
        expected: the layout, for messages.

    Raises:
        InputError: missing, cut off, not HDF5, or empty.
    """
    if not path.is_file():
        raise InputError(f"{label}: no such file; expected {expected}")
    try:
        file = h5py.File(path, "r")
    except HDF5_ERRORS as error:
        reason = "truncated HDF5 file" if "truncated" in str(error) else "not a readable HDF5 file"
        size = path.stat().st_size
        raise InputError(f"{label}: {reason} ({size} bytes), expected {expected}; fetch it again") from None
    with file:
        root = Group(file.id, label, "", expected)
        with damage(label):
            # The number of objects is stored apart from the list that is walked.
            empty = not root.names()
        if empty:
            raise InputError(f"{label}: no groups, expected {expected}; fetch the file again")
        yield root


def check_link(group: h5g.GroupID, name: bytes, where: str) -> None:
    """Make sure that a member lies in this file and in this group.

    Raises:
        InputError: it is a link to another place or another file, which no published layout has.
    """
    # What is not there is for the caller to say.
    if group.links.exists(name) and group.links.get_info(name).type != h5l.TYPE_HARD:
        raise InputError(
            f"{where}: {name.decode('utf-8', 'replace')!r} is a link to somewhere else, which is not followed; "
            "fetch the file again, or copy what is meant into the group"
        )


def check_storage(ident: h5d.DatasetID, where: str) -> None:
    """Make sure that the numbers of a data set lie in this file.

    Raises:
        InputError: they lie in other files (external storage or a virtual data set).
    """
    created = ident.get_create_plist()
    if created.get_layout() == h5d.VIRTUAL or created.get_external_count():
        raise InputError(f"{where}: its numbers lie in another file, which is not read; copy them into this one")


class Numbers:
    """A data set of numbers.

    Attributes:
        shape: its shape.
        where: file, group and key, for messages.
    """

    __slots__ = ("_id", "_type", "shape", "where")

    def __init__(self, ident: h5d.DatasetID, where: str) -> None:
        self._id = ident
        self.where = where
        stored = ident.get_type()
        if stored.get_class() not in (h5t.INTEGER, h5t.FLOAT):
            raise InputError(f"{where}: expected plain numbers, found {ident.dtype}")
        self._type = stored.dtype
        self.shape: tuple[int, ...] = ident.shape
        check_storage(ident, where)
        logical = math.prod(self.shape) * self._type.itemsize
        held = ident.get_storage_size()
        filters = ident.get_create_plist().get_nfilters() if held < logical else 0
        if held < logical and (not filters or logical > _MAX_RATIO * held):
            raise InputError(
                f"{where}: shape {self.shape} needs {logical} bytes, the file holds {held} of them; fetch it again"
            )

    def expect(self, *shapes: tuple[int, ...]) -> Numbers:
        """Itself, if it has one of the shapes.

        Raises:
            InputError: another shape.
        """
        if self.shape not in shapes:
            raise InputError(f"{self.where}: shape {self.shape}, expected {' or '.join(map(str, shapes))}")
        return self

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """Entries ``first`` to ``last`` of the leading axis, shape (n, ...), in the type of the file."""
        result = np.empty((last - first, *self.shape[1:]), dtype=self._type)
        if result.size == 0:
            return result
        if (first, last) == (0, self.shape[0]):
            self._id.read(h5s.ALL, h5s.ALL, result)
        else:
            space = self._id.get_space()
            space.select_hyperslab((first,) + (0,) * (len(self.shape) - 1), result.shape)
            self._id.read(h5s.create_simple(result.shape), space, result)
        return result

    def all(self) -> NDArray[Any]:
        """Everything, in the shape that the file has, (n, ...) or a scalar.

        Raises:
            InputError: it is longer than any molecule.
        """
        if math.prod(self.shape) > _MAX_LIST:
            raise InputError(f"{self.where}: shape {self.shape}, expected at most {_MAX_LIST} numbers")
        if not self.shape:
            result = np.empty((), dtype=self._type)
            self._id.read(h5s.ALL, h5s.ALL, result)
            return result
        return self.rows(0, self.shape[0])

    def attribute(self, name: str) -> str | None:
        """A text attribute, or None if there is none."""
        try:
            item = h5a.open(self._id, name.encode("utf-8"))
        except KeyError:
            return None
        if item.shape == () and _is_text(item.get_type()):
            value = np.empty((), dtype=_TEXT)
            item.read(value, _TEXT_IN_MEMORY)
            return _decoded(value[()])
        return _decoded(h5py.Dataset(self._id).attrs[name])


def _is_text(stored: h5t.TypeID) -> bool:
    """Whether a type is that of strings of any length."""
    return isinstance(stored, h5t.TypeStringID) and stored.is_variable_str()


def _texts(ident: h5d.DatasetID, where: str) -> NDArray[Any]:
    """Strings of any length, flat, one after the other: many may point to the same long one.

    Raises:
        InputError: more text than a molecule has.
    """
    if not ident.shape:
        value = np.empty((), dtype=_TEXT)
        ident.read(h5s.ALL, h5s.ALL, value, _TEXT_IN_MEMORY)
        return value
    values = np.empty(math.prod(ident.shape), dtype=_TEXT)
    one, space, total = np.empty((1,) * len(ident.shape), dtype=_TEXT), ident.get_space(), 0
    for position, place in enumerate(np.ndindex(ident.shape)):
        space.select_hyperslab(place, one.shape)
        ident.read(h5s.create_simple(one.shape), space, one, _TEXT_IN_MEMORY)
        values[position] = one.flat[0]
        total += len(one.flat[0] or b"")
        if total > _MAX_TEXT:
            raise InputError(f"{where}: more than {_MAX_TEXT} letters, expected the text of a molecule")
    return values


def _decoded(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


class Group:
    """An HDF5 group.

    Attributes:
        id: its low-level identifier.
        label: what messages call the file.
        name: path of the group in the file, without a leading slash.
    """

    __slots__ = ("expected", "id", "label", "name")

    def __init__(self, ident: h5g.GroupID, label: str, name: str, expected: str) -> None:
        self.id = ident
        self.label = label
        self.name = name
        self.expected = expected

    @property
    def where(self) -> str:
        """File and group, for messages."""
        return f"{self.label}: group {self.name}" if self.name else self.label

    def names(self) -> list[str]:
        """Names of the members, in the order of the file's index."""
        names: list[bytes] = []
        self.id.links.iterate(names.append)
        return [name.decode("utf-8") for name in names]

    def _found(self) -> str:
        names = sorted(self.names())
        return (", ".join(names[:6]) + (", …" if len(names) > 6 else "")) or "nothing"

    def member(self, name: str) -> Group | h5d.DatasetID:
        """A subgroup or a data set.

        Raises:
            InputError: neither.
        """
        check_link(self.id, name.encode("utf-8"), self.where)
        ident = h5o.open(self.id, name.encode("utf-8"))
        if isinstance(ident, h5g.GroupID):
            return Group(ident, self.label, f"{self.name}/{name}" if self.name else name, self.expected)
        if isinstance(ident, h5d.DatasetID):
            return ident
        raise InputError(f"{self.where}: {name!r} is neither a group nor a data set, expected {self.expected}")

    def subgroup(self, name: str) -> Group:
        """A subgroup.

        Raises:
            InputError: a data set lies there.
        """
        item = self.member(name)
        if not isinstance(item, Group):
            raise InputError(f"{self.where}: layout of another data set (a bare {name!r}), expected {self.expected}")
        return item

    def has(self, name: str) -> bool:
        """Whether there is a member of this name."""
        present: bool = self.id.links.exists(name.encode("utf-8"))
        return present

    def _dataset(self, key: str) -> h5d.DatasetID:
        try:
            check_link(self.id, key.encode("utf-8"), self.where)
            item = h5o.open(self.id, key.encode("utf-8"))
        except KeyError:
            item = None
        if not isinstance(item, h5d.DatasetID):
            raise InputError(
                f"{self.where}: key {key!r} is missing, expected {self.expected}; it holds {self._found()}"
            )
        return item

    def numbers(self, key: str) -> Numbers:
        """A data set of numbers.

        Raises:
            InputError: missing, not numbers, or less data than its shape says.
        """
        return Numbers(self._dataset(key), f"{self.where}: {key}")

    def texts(self, key: str) -> list[str]:
        """A data set of strings, flat.

        Raises:
            InputError: missing, or not strings.
        """
        ident = self._dataset(key)
        where = f"{self.where}: {key}"
        stored = ident.get_type()
        size = 1 if _is_text(stored) else stored.get_size()
        if stored.get_class() != h5t.STRING or math.prod(ident.shape) * size > _MAX_TEXT:
            raise InputError(f"{where}: expected text, found type {ident.dtype} and shape {ident.shape}")
        check_storage(ident, where)
        values = _texts(ident, where) if _is_text(stored) else np.asarray(h5py.Dataset(ident)[()])
        try:
            return [_decoded(value) for value in values.reshape(-1).tolist()]
        except UnicodeDecodeError:
            raise InputError(f"{where}: the text is not UTF-8; fetch the file again") from None

    def leaves(self, key: str, depth: int, seen: set[int] | None = None) -> Iterator[Group]:
        """Groups that hold ``key``, at most ``depth`` levels below this one.

        Args:
            key: name of a data set.
            depth: levels.
            seen: addresses of the groups that were met on the way.

        Yields:
            the groups, in the order of the file's index.

        Raises:
            InputError: a data set outside such a group, a branch that ends without one, or a group that is met twice.
        """
        seen = {h5o.get_info(self.id).addr} if seen is None else seen
        for name in self.names():
            item = self.subgroup(name)
            address = h5o.get_info(item.id).addr
            if address in seen:
                raise InputError(f"{item.where}: the same group under a second name; fetch the file again")
            seen.add(address)
            if item.has(key):
                yield item
            elif depth > 1:
                found = False
                for leaf in item.leaves(key, depth - 1, seen):
                    found = True
                    yield leaf
                if not found:
                    raise InputError(f"{item.where}: it is empty, expected {self.expected}; fetch the file again")
            else:
                raise InputError(
                    f"{item.where}: key {key!r} is missing, expected {self.expected}; it holds {item._found()}"
                )


def atomic_numbers_of(symbols: Sequence[str], where: str) -> NDArray[np.uint8]:
    """Atomic numbers (n_atoms,) of the element symbols of a molecule.

    Raises:
        InputError: none, or not a chemical symbol.
    """
    if not symbols:
        raise InputError(f"{where}: no elements; expected one symbol per atom")
    try:
        return np.array([number(symbol.strip()) for symbol in symbols], dtype=np.uint8)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def molecule_blocks(
    group: Group,
    numbers: NDArray[np.uint8],
    coordinates: Numbers,
    energies: Mapping[str, Numbers],
    forces: Mapping[str, Numbers],
    factors: tuple[float, float, float],
    first_row: int,
    block_rows: int,
    info: Mapping[str, str] | None = None,
) -> Iterator[Block]:
    """The frames of one molecule whose arrays lie side by side in a group, in single precision as in these files.

    Args:
        group: the molecule.
        numbers: shape (n_atoms,).
        coordinates: shape (n_frames, n_atoms, 3).
        energies: per fidelity, shape (n_frames,).
        forces: per fidelity, shape (n_frames, n_atoms, 3).
        factors: of coordinates, energies and forces (negative for gradients).
        first_row: number of the first frame in the file.
        block_rows: most frames per block.
        info: facts of the molecule.

    Yields:
        blocks, at least one; an empty one if there are no frames.

    Raises:
        InputError: shapes that do not belong together.
    """
    n_frames = coordinates.shape[0] if coordinates.shape else 0
    full = (n_frames, len(numbers), 3)
    if n_frames:
        for data in (coordinates, *forces.values()):
            data.expect(full)
        for data in energies.values():
            data.expect((n_frames,))
    length, energy, force = factors
    # The shapes are the file's word; what is in memory at a time is ours.
    block_rows = max(1, min(block_rows, _MAX_BLOCK_BYTES // (24 * len(numbers))))
    for first in range(0, max(n_frames, 1), block_rows):
        last = min(first + block_rows, n_frames)

        def part(data: Numbers, factor: float, dtype: DTypeLike, first: int = first, last: int = last) -> NDArray[Any]:
            if first == last:
                return np.zeros(full if dtype is np.float32 else 0, dtype=dtype)
            return convert(data.rows(first, last), factor, dtype)

        yield Block(
            group=group.name,
            atomic_numbers=numbers,
            positions=part(coordinates, length, np.float32),
            energies={name: part(data, energy, np.float64) for name, data in energies.items()},
            forces={name: part(data, force, np.float32) for name, data in forces.items()},
            source_rows=np.arange(first_row + first, first_row + last, dtype=np.int64),
            info=dict(info or {}),
        )
