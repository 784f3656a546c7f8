"""The canonical HDF5 store: molecules of any size, several fidelities side by side.

Layout (all energies in eV, lengths in Å, forces in eV/Å)::

    positions          (n_atoms_total, 3)  float32 or float64
    atomic_numbers     (n_atoms_total,)    uint8
    ptr                (n_rows + 1,)       int64   atoms of row i are ptr[i]:ptr[i+1]
    group              (n_rows,)           int32   index into group_names
    group_names        (n_groups,)         str
    source_row         (n_rows,)           int64   row number in the source file
    energy/<fidelity>  (n_rows,)           float64 NaN = no label
    forces/<fidelity>  (n_atoms_total, 3)  float32 NaN = no label; absent if the level has no forces
    row/<name>         (n_rows,)           int64 (-1 = unknown) or float64 (NaN = unknown); optional
    group_info/<name>  (n_groups,)         str, empty = unknown; optional

Everything is appended in whole chunks, so memory stays flat whatever the size of the blocks; the file appears under its
name only when it is whole. The chunks are neither compressed nor filtered and lie at multiples of the size of an entry:
a reader finds them once and then fetches ranges with plain reads and scattered entries through a memory map.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError, NoRoom

FORMAT = "mlip-studies store"
VERSION = 2
UNITS = {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"}

_ROW_CHUNK = 16384
_ATOM_CHUNK = 65536
# Chunks start at multiples of three pages: a multiple of 1, 4, 8, 12 and 24 bytes, the sizes of all entries.
_ALIGNMENT = 3 * 4096
# Entries that are gathered at a time, and how many times as many may be read to get them in one range.
_WINDOW = 262_144
_DENSE = 4
# Up to this many entries are fetched in the order asked; more are fetched in file order.
_SMALL = 65_536
# Where only HDF5 can read: entries closer together than this are fetched as one range.
_GAP = 8192
# The smallest data sets are memory-mapped up to this many bytes in all, which bounds the resident memory. From the
# others scattered rows are read one by one, which costs less than faulting their pages in again and again.
_MAPPED_BYTES = 1 << 29


@dataclass(frozen=True)
class Block:
    """Geometries of one molecule, all with the same atoms in the same order.

    Attributes:
        group: name of the molecule group (rows of one group must be told apart in leakage checks).
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_frames, n_atoms, 3), Å.
        energies: per fidelity, shape (n_frames,), eV, NaN where there is no label.
        forces: per fidelity, shape (n_frames, n_atoms, 3), eV/Å, NaN where there is no label.
        source_rows: row numbers in the source file, shape (n_frames,).
        info: facts of the group, such as ``smiles``.
        columns: numbers per frame beside the labels, each of shape (n_frames,), such as ``displacement``.
    """

    group: str
    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.floating]
    energies: dict[str, NDArray[np.float64]]
    forces: dict[str, NDArray[np.floating]]
    source_rows: NDArray[np.int64]
    info: dict[str, str] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, keep: NDArray[np.bool_]) -> Block:
        """The frames where ``keep`` (n_frames,) is true."""
        return Block(
            self.group,
            self.atomic_numbers,
            self.positions[keep],
            {name: values[keep] for name, values in self.energies.items()},
            {name: values[keep] for name, values in self.forces.items()},
            self.source_rows[keep],
            self.info,
            {name: values[keep] for name, values in self.columns.items()},
        )


def _all_finite(values: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite, in one pass: a sum that holds one isn't finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def check_block(block: Block, source: PathLike) -> None:
    """Check shapes and numbers of a block.

    A label may be missing (energy NaN, and all force components NaN); half a label is an error.

    Raises:
        InputError: names the source file, the group and the row in it.
    """
    where = f"{source}: group {block.group}"

    def fail(bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(block.source_rows[int(np.argmax(bad))])
            raise InputError(
                f"{where}, row {row}: {what} ({int(bad.sum())} such row(s) here); repair or remove the row, "
                "or fetch the file again"
            )

    n_frames, n_atoms = len(block.source_rows), len(block.atomic_numbers)
    if block.positions.shape != (n_frames, n_atoms, 3):
        raise InputError(f"{where}: positions have shape {block.positions.shape}, expected ({n_frames}, {n_atoms}, 3)")
    if n_atoms == 0:
        raise InputError(f"{where}: a molecule without atoms; expected at least one")
    if block.atomic_numbers.min() < 1 or block.atomic_numbers.max() > 118:
        raise InputError(f"{where}: atomic numbers outside 1 to 118")
    if not _all_finite(block.positions):
        fail(~np.isfinite(block.positions).all(axis=(1, 2)), "coordinates are NaN or infinite")
    for name, energy in block.energies.items():
        if energy.shape != (n_frames,):
            raise InputError(f"{where}: energy {name} has shape {energy.shape}, expected ({n_frames},)")
        fail(np.isinf(energy), f"energy {name} is infinite")
    for name, forces in block.forces.items():
        if forces.shape != (n_frames, n_atoms, 3):
            raise InputError(f"{where}: forces {name} have shape {forces.shape}, expected ({n_frames}, {n_atoms}, 3)")
        labeled = np.ones(n_frames, dtype=np.bool_)
        if not _all_finite(forces):
            missing = np.isnan(forces).reshape(n_frames, -1)
            fail(np.isinf(forces).any(axis=(1, 2)), f"forces {name} are infinite")
            labeled = ~missing.any(axis=1)
            fail(~labeled & ~missing.all(axis=1), f"some force components of {name} are NaN")
        if name in block.energies:
            fail(np.isnan(block.energies[name]) & labeled, f"energy {name} is NaN but its forces are not")
    for name, values in block.columns.items():
        if values.shape != (n_frames,) or values.dtype.kind not in "biuf":
            raise InputError(
                f"{where}: column {name} has shape {values.shape} and type {values.dtype}, expected {n_frames} numbers"
            )


def package_versions() -> dict[str, str]:
    """Versions of what writes and reads the store."""
    versions = {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version, "numpy": np.__version__}
    try:
        versions["mlip_studies"] = importlib.metadata.version("mlip_studies")
    except importlib.metadata.PackageNotFoundError:
        versions["mlip_studies"] = "uninstalled"
    return versions


def atomic_number_array(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Atomic numbers of one molecule from a file, checked before they are narrowed to bytes.

    Args:
        values: what the file holds, shape (n_atoms,) if it is right.
        where: file and key for the message.

    Raises:
        InputError: not a list of whole numbers from 1 to 118.
    """
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu":
        raise InputError(f"{where} has shape {values.shape} and type {values.dtype}, expected a list of atomic numbers")
    if values.min() < 1 or values.max() > 118:
        raise InputError(f"{where} holds {values.min()} to {values.max()}, expected atomic numbers from 1 to 118")
    return values.astype(np.uint8)


class _Output:
    """The file below HDF5 while a store is written.

    The HDF5 library doesn't recover from a full disk: a failed write leaves objects that can be neither written nor
    closed. So every call succeeds as far as HDF5 is concerned; the first error is kept and raised by :meth:`check`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._failure: BaseException | None = None
        # HDF5 asks for these as attributes of a file.
        self.seek, self.tell = self._file.seek, self._file.tell

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the current position."""
        return self._file.readinto(buffer) or 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes from the current position."""
        return self._file.read(size) or b""

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self._failure is None:
                done += self._file.write(view[done:]) or 0
        except BaseException as failure:  # also an interrupt, which HDF5 would swallow
            self._failure = failure
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        try:
            if self._failure is None:
                self._file.truncate(size)
        except BaseException as failure:
            self._failure = failure
        return size or 0

    def flush(self) -> None:
        """Nothing is buffered here."""

    def check(self) -> None:
        """Raise the first error since the file was opened."""
        if self._failure is not None:
            raise self._failure

    def close(self, sync: bool) -> None:
        """Close the file, after its bytes have reached the disk if ``sync``."""
        with self._file:
            if sync:
                self.check()
                os.fsync(self._file.fileno())


class _Appender:
    """Fills one chunk after another of a dataset that grows along its first axis."""

    def __init__(self, dataset: h5py.Dataset, output: _Output) -> None:
        self._dataset = dataset
        self._output = output
        self._buffer = np.zeros(dataset.chunks, dtype=dataset.dtype)
        self._used = self._written = 0

    @property
    def kind(self) -> str:
        """Kind of the numbers, ``i``, ``u`` or ``f``."""
        return str(self._buffer.dtype.kind)

    def extend(self, values: NDArray[Any]) -> None:
        """Append entries, converted to the type of the dataset."""
        done = 0
        while done < len(values):
            n = min(len(values) - done, len(self._buffer) - self._used)
            self._buffer[self._used : self._used + n] = values[done : done + n]
            done += n
            self._advance(n)

    def fill(self, value: float, count: int) -> None:
        """Append ``count`` times the same number."""
        while count:
            n = min(count, len(self._buffer) - self._used)
            self._buffer[self._used : self._used + n] = value
            count -= n
            self._advance(n)

    def _advance(self, n: int) -> None:
        self._used += n
        if self._used == len(self._buffer):
            self.flush()

    def flush(self) -> None:
        """Write the entries so far; only the last chunk may be a part."""
        if self._used == 0:
            return
        tail = self._buffer.shape[1:]
        self._buffer[self._used :] = 0
        self._dataset.id.set_extent((self._written + self._used, *tail))
        # A whole chunk goes to the file as it is, past HDF5's cache and conversion.
        self._dataset.id.write_direct_chunk((self._written, *(0 for _ in tail)), self._buffer)
        self._output.check()
        self._written += self._used
        self._used = 0


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Append blocks to a new store; the store appears when the ``with`` block ends without an error.

    Blocks of any size are gathered into chunks before they are written.

    Args:
        path: the store to write.
        fidelities: names of the energy columns.
        force_fidelities: names of those with forces.
        provenance: JSON-ready description (sources, checksums, reader, level, filters).
        positions_dtype: ``float32`` or ``float64``.
        columns: names of further numbers per row (:attr:`Block.columns`). The first block that has one decides whether
            it holds whole numbers (-1 where a block lacks it) or not (NaN).
        info: names of facts per group (:attr:`Block.info`), empty where a group lacks it.

    Raises:
        InputError: the folder cannot be written to, the disk is full, or a block is malformed or holds non-finite
            numbers. Nothing is left behind then.
    """

    def __init__(
        self,
        path: PathLike,
        fidelities: Sequence[str],
        force_fidelities: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
        positions_dtype: str = "float32",
        columns: Sequence[str] = (),
        info: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.fidelities = tuple(fidelities)
        self.force_fidelities = tuple(force_fidelities)
        self.columns = tuple(columns)
        self.info = tuple(info)
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.n_rows = 0
        self.n_atoms = 0
        self._dtype = np.dtype(positions_dtype)
        self._groups: dict[str, int] = {}
        self._group_info: dict[str, list[str]] = {name: [] for name in self.info}
        self._appenders: dict[str, _Appender] = {}
        for what, names in (
            ("fidelity", (*self.fidelities, *self.force_fidelities)),
            ("column", self.columns),
            ("info", self.info),
        ):
            for name in names:
                if not name or "/" in name or name == ".":
                    raise InputError(f"{what} {name!r}: expected a non-empty name without a slash")
        if unknown := set(self.force_fidelities) - set(self.fidelities):
            raise InputError(f"forces of {', '.join(sorted(unknown))}: no energy column of that name is declared")

    def __enter__(self) -> StoreWriter:
        self._atomic = atomic_path(self.path)
        temporary = self._atomic.__enter__()
        self._file: h5py.File | None = None
        self._output: _Output | None = None
        try:
            self._output = _Output(temporary)
            self._file = h5py.File(
                self._output, "w", alignment_threshold=_ROW_CHUNK, alignment_interval=_ALIGNMENT, libver="earliest"
            )
            self._create()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    def _create(self) -> None:
        self._column("positions", self._dtype, _ATOM_CHUNK, (3,))
        self._column("atomic_numbers", np.uint8, _ATOM_CHUNK)
        self._column("ptr", np.int64)
        self._column("group", np.int32)
        self._column("source_row", np.int64)
        for name in self.fidelities:
            self._column(f"energy/{name}", np.float64)
        for name in self.force_fidelities:
            self._column(f"forces/{name}", np.float32, _ATOM_CHUNK, (3,))
        self._appenders["ptr"].fill(0, 1)

    def _column(self, name: str, dtype: DTypeLike, chunk: int = _ROW_CHUNK, width: tuple[int, ...] = ()) -> _Appender:
        assert self._file is not None and self._output is not None
        dataset = self._file.create_dataset(
            name, shape=(0, *width), maxshape=(None, *width), dtype=dtype, chunks=(chunk, *width)
        )
        self._appenders[name] = _Appender(dataset, self._output)
        return self._appenders[name]

    def append(
        self,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        energies: Mapping[str, ArrayLike],
        forces: Mapping[str, ArrayLike] | None = None,
        group: str = "",
        source_rows: ArrayLike | None = None,
        source: PathLike | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        info: Mapping[str, str] | None = None,
    ) -> None:
        """Append frames of one molecule.

        Args:
            atomic_numbers: shape (n_atoms,).
            positions: shape (n_frames, n_atoms, 3), Å.
            energies: per fidelity, shape (n_frames,), eV, NaN = no label; columns that are not given become NaN.
            forces: per fidelity, shape (n_frames, n_atoms, 3), eV/Å, NaN = no label.
            group: name of the molecule group.
            source_rows: row numbers in the source, shape (n_frames,); a running number if not given.
            source: file that error messages name.
            columns: per declared column, shape (n_frames,).
            info: facts of the group.
        """
        positions = np.asarray(positions)
        n_frames = len(positions)
        if source_rows is None:
            source_rows = np.arange(self.n_rows, self.n_rows + n_frames)
        block = Block(
            group,
            np.asarray(atomic_numbers, dtype=np.uint8),
            positions,
            {name: np.asarray(values, dtype=np.float64) for name, values in energies.items()},
            {name: np.asarray(values) for name, values in (forces or {}).items()},
            np.asarray(source_rows, dtype=np.int64),
            dict(info or {}),
            {name: np.asarray(values) for name, values in (columns or {}).items()},
        )
        self.append_block(block, source)

    def append_block(self, block: Block, source: PathLike | None = None) -> None:
        """Append a block (see :meth:`append`); columns and info that were not declared are left out."""
        source = source or self.path
        check_block(block, source)
        for name in block.energies:
            if name not in self.fidelities:
                raise InputError(f"{self.path}: no energy column {name!r}; declared: {', '.join(self.fidelities)}")
        for name in block.forces:
            if name not in self.force_fidelities:
                raise InputError(f"{self.path}: no forces {name!r}; declared: {', '.join(self.force_fidelities)}")
        n_frames, n_atoms = block.positions.shape[:2]
        if n_frames == 0:
            return
        try:
            with np.errstate(over="raise"):
                self._append(block, source, n_frames, n_atoms)
        except FloatingPointError:
            raise InputError(
                f"{source}: group {block.group}: a number is beyond the range of single precision; repair the file"
            ) from None
        except OSError as error:
            raise self._cannot_write(error) from error
        self.n_rows += n_frames
        self.n_atoms += n_frames * n_atoms

    def _append(self, block: Block, source: PathLike, n_frames: int, n_atoms: int) -> None:
        n = n_frames * n_atoms
        into = self._appenders
        index = self._group(block, source)
        into["positions"].extend(block.positions.reshape(n, 3))
        into["atomic_numbers"].extend(np.tile(block.atomic_numbers, n_frames))
        into["ptr"].extend(self.n_atoms + n_atoms * np.arange(1, n_frames + 1, dtype=np.int64))
        into["group"].fill(index, n_frames)
        into["source_row"].extend(block.source_rows)
        for name in self.fidelities:
            if name in block.energies:
                into[f"energy/{name}"].extend(block.energies[name])
            else:
                into[f"energy/{name}"].fill(np.nan, n_frames)
        for name in self.force_fidelities:
            if name in block.forces:
                into[f"forces/{name}"].extend(block.forces[name].reshape(n, 3))
            else:
                into[f"forces/{name}"].fill(np.nan, n)
        for name in self.columns:
            self._append_column(name, block.columns.get(name), n_frames, f"{source}: group {block.group}")

    def _append_column(self, name: str, values: NDArray[Any] | None, n_frames: int, where: str) -> None:
        key = f"row/{name}"
        column = self._appenders.get(key)
        if column is None:
            if values is None:
                return
            whole = values.dtype.kind != "f"
            column = self._column(key, np.int64 if whole else np.float64)
            column.fill(-1 if whole else np.nan, self.n_rows)
        if values is None:
            column.fill(-1 if column.kind == "i" else np.nan, n_frames)
        elif column.kind == "i" and values.dtype.kind == "f":
            raise InputError(f"{where}: column {name} holds {values.dtype} numbers, expected whole ones as before")
        else:
            column.extend(values)

    def _group(self, block: Block, source: PathLike) -> int:
        """Index of the block's group, which is filed with its facts when it is new."""
        index = self._groups.get(block.group)
        if index is None:
            index = self._groups[block.group] = len(self._groups)
            for name, facts in self._group_info.items():
                facts.append(block.info.get(name, ""))
            return index
        for name, facts in self._group_info.items():
            fact = block.info.get(name, "")
            if fact and not facts[index]:
                facts[index] = fact
            elif fact and fact != facts[index]:
                raise InputError(
                    f"{source}: group {block.group}: {name} is {fact!r} here and {facts[index]!r} before; "
                    "expected one per group"
                )
        return index

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon(error)
            return
        try:
            self._finish()
        except OSError as failure:
            self._abandon(failure)
            raise self._cannot_write(failure) from failure
        except BaseException as failure:
            self._abandon(failure)
            raise
        try:
            self._atomic.__exit__(None, None, None)
        except OSError as failure:
            raise self._cannot_write(failure) from failure

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot write the store ({error.strerror or error}); make room on the disk or set another "
            "`results`"
        )

    def _abandon(self, error: BaseException) -> None:
        """Close what is open and remove the unfinished file."""
        if self._file is not None:
            with suppress(OSError, RuntimeError, ValueError):
                self._file.close()
        if self._output is not None:
            with suppress(OSError):
                self._output.close(sync=False)
        # It says in its own words that the disk is full; the caller raises its line.
        with suppress(NoRoom):
            self._atomic.__exit__(type(error), error, error.__traceback__)

    def _finish(self) -> None:
        assert self._file is not None and self._output is not None
        if self.n_rows == 0:
            raise InputError(f"{self.path}: no rows to store; check the source files and the filters of the data set")
        # Every declared column is there, also one that no block had.
        for name in self.columns:
            if f"row/{name}" not in self._appenders:
                self._column(f"row/{name}", np.float64).fill(np.nan, self.n_rows)
        for column in self._appenders.values():
            column.flush()
        self._file.create_dataset("group_names", data=list(self._groups), dtype=h5py.string_dtype())
        for name, facts in self._group_info.items():
            self._file.create_dataset(f"group_info/{name}", data=facts, dtype=h5py.string_dtype())
        self.provenance |= {"fidelities": list(self.fidelities)}
        self.provenance.setdefault("versions", package_versions())
        attributes = self._file.attrs
        attributes["format"] = FORMAT
        attributes["version"] = VERSION
        attributes["units"] = json.dumps(UNITS)
        attributes["provenance"] = json.dumps(self.provenance, sort_keys=True)
        self._file.close()
        self._output.close(sync=True)


@dataclass(frozen=True)
class Rows:
    """Rows of a store, concatenated.

    Attributes:
        rows: row numbers in the store, shape (n_rows,).
        atomic_numbers: shape (n_atoms_total,).
        positions: shape (n_atoms_total, 3), Å (empty if not asked for).
        ptr: offsets into the atom arrays, shape (n_rows + 1,).
        energy: per fidelity, shape (n_rows,), eV, NaN = no label.
        forces: per fidelity, shape (n_atoms_total, 3), eV/Å, NaN = no label.
        group: index of the group, shape (n_rows,).
    """

    rows: NDArray[np.int64]
    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.floating]
    ptr: NDArray[np.int64]
    energy: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    forces: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    group: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """Atoms per row, shape (n_rows,)."""
        return np.diff(self.ptr)

    def molecule(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.floating]]:
        """Atomic numbers (n_atoms,) and positions (n_atoms, 3) of the row at ``index``."""
        atoms = slice(int(self.ptr[index]), int(self.ptr[index + 1]))
        return self.atomic_numbers[atoms], self.positions[atoms]


def open_hdf5(path: PathLike, expected: str) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        InputError: missing, cut off, or not HDF5.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {expected}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = "truncated HDF5 file" if "truncated" in str(error) else "not a readable HDF5 file"
        raise InputError(
            f"{path}: {reason} ({path.stat().st_size} bytes), expected {expected}; fetch it again"
        ) from None


class _File:
    """The bytes of a store: plain reads, and a memory map for what is scattered.

    Every access to the map first makes sure that the file still is as long as when its table of chunks was read:
    touching a mapped page beyond the end would kill the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self.map: mmap.mmap | None = None
        with suppress(OSError, ValueError):
            self.map = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                self.map.madvise(mmap.MADV_RANDOM)

    def check(self) -> None:
        """Make sure that the file wasn't cut.

        Raises:
            InputError: it is shorter than it was.
        """
        size = os.fstat(self._file.fileno()).st_size
        if size < self.size:
            raise InputError(
                f"{self.path}: truncated while it was open ({size} of {self.size} bytes left); build it again"
            )

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on."""
        done = 0
        while done < len(buffer):
            n = os.preadv(self._file.fileno(), [buffer[done:]], offset + done)
            if n == 0:
                self._ends_early()
            done += n

    def read_parts(self, offsets: list[int], sizes: list[int]) -> bytearray:
        """The bytes of many short stretches, one after another."""
        number, read = self._file.fileno(), os.pread
        result = bytearray().join([read(number, size, at) for at, size in zip(offsets, sizes, strict=True)])
        if len(result) != sum(sizes):
            self._ends_early()
        return result

    def _ends_early(self) -> NoReturn:
        self.check()
        raise InputError(f"{self.path}: damaged HDF5 file (a chunk ends beyond the file); delete it and build again")

    def close(self) -> None:
        """Close file and map."""
        if self.map is not None:
            # A view that an error's traceback still holds keeps the map until it is gone.
            with suppress(BufferError):
                self.map.close()
            self.map = None
        self._file.close()


@dataclass(frozen=True)
class _Window:
    """Stretches of a data set that are fetched together.

    Attributes:
        starts: first entry of every stretch, shape (n,).
        counts: entries per stretch, shape (n,).
        index: all entries, shape (counts.sum(),).
        target: where they go in the result; None = one after another from ``first``.
        first: entries in the windows before.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    index: NDArray[np.int64]
    target: NDArray[np.int64] | None = None
    first: int = 0

    @property
    def place(self) -> Any:
        """Where the entries go in the result."""
        return slice(self.first, self.first + len(self.index)) if self.target is None else self.target


@dataclass(frozen=True)
class _Places:
    """Which entries of a data set to read: one range, or stretches in windows."""

    total: int
    range: tuple[int, int] | None = None
    windows: tuple[_Window, ...] = ()

    @classmethod
    def of(cls, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> _Places:
        """Stretches ``starts`` of ``counts`` entries each, in any order, with repeats."""
        total = int(counts.sum())
        if total == 0:
            return cls(0)
        if (starts[1:] == starts[:-1] + counts[:-1]).all():
            return cls(total, (int(starts[0]), int(starts[0]) + total))
        if total <= _SMALL:
            return cls(total, None, (_Window(starts, counts, _ranges(starts, counts)),))
        # Read in file order, written where the requested order puts it.
        targets = np.cumsum(counts) - counts
        order: NDArray[np.int64] | slice = slice(None)
        ascending = bool((np.diff(starts) >= 0).all())
        if not ascending:
            order = np.argsort(starts, kind="stable")
        starts, counts, targets = starts[order], counts[order], targets[order]
        before = np.cumsum(counts) - counts
        edges = np.unique(np.append(np.searchsorted(before, np.arange(0, total, _WINDOW)), len(counts)))
        windows = []
        for first, last in itertools.pairwise(edges.tolist()):
            part = starts[first:last], counts[first:last]
            target = None if ascending else _ranges(targets[first:last], part[1])
            windows.append(_Window(*part, _ranges(*part), target, int(before[first])))
        return cls(total, None, tuple(windows))


class _Column:
    """One data set of a store, read along its first axis."""

    def __init__(self, dataset: h5py.Dataset, file: _File) -> None:
        self._dataset = dataset
        self._file = file
        self._length: int = dataset.shape[0]
        self._dtype = dataset.dtype
        self._tail = dataset.shape[1:]
        self._bytes = self._dtype.itemsize * int(np.prod(self._tail, dtype=np.int64))
        self._chunk, self._offsets = self._layout()
        self._entries: NDArray[Any] | None = None
        if self._offsets is not None:
            end = int(self._offsets.max()) + self._chunk * self._bytes
            if end > file.size:
                raise InputError(
                    f"{file.path}: damaged HDF5 file (a chunk of {dataset.name.lstrip('/')!r} ends at byte {end} of "
                    f"{file.size}); delete it and build again"
                )

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        size: int = self._length * self._bytes
        return size

    def _layout(self) -> tuple[int, NDArray[np.int64] | None]:
        """Entries per chunk and where the chunks start, None if only HDF5 can tell what they hold."""
        dataset = self._dataset
        if self._length == 0 or dataset.file.userblock_size or not self._dtype.isnative or self._dtype.hasobject:
            return 1, None
        if dataset.chunks is None:
            offset = dataset.id.get_offset()
            return self._length, None if offset is None else np.array([offset], dtype=np.int64)
        chunk = dataset.chunks[0]
        if dataset.id.get_create_plist().get_nfilters() or dataset.chunks[1:] != self._tail:
            return chunk, None
        # A chunk that was never written has no place in the file.
        found = np.full(-(-self._length // chunk), -1, dtype=np.int64)

        def note(info: Any) -> None:
            number = info.chunk_offset[0] // chunk
            if number < len(found) and info.size == chunk * self._bytes:
                found[number] = info.byte_offset

        dataset.id.chunk_iter(note)
        return chunk, None if (found < 0).any() else found

    def view(self) -> None:
        """See the map as entries of this data set, if all its chunks lie on one grid of such entries."""
        if self._offsets is None or self._file.map is None:
            return
        shift = int(self._offsets[0]) % self._bytes
        if (self._offsets % self._bytes == shift).all() and shift % self._dtype.itemsize == 0:
            count = (self._file.size - shift) // self._bytes
            self._entries = np.ndarray((count, *self._tail), self._dtype, self._file.map, shift)
            self._places = (self._offsets - shift) // self._bytes

    def release(self) -> None:
        """Drop the view of the map."""
        self._entries = None

    def range(self, low: int, high: int) -> NDArray[Any]:
        """Entries ``low`` to ``high`` (exclusive)."""
        if self._offsets is None:
            whole: NDArray[Any] = self._dataset[low:high]
            return whole
        result = np.empty((high - low, *self._tail), dtype=self._dtype)
        buffer = result.reshape(-1).view(np.uint8).data
        first = low
        while first < high:
            number, within = divmod(first, self._chunk)
            last = min(high, (number + 1) * self._chunk)
            part = buffer[(first - low) * self._bytes : (last - low) * self._bytes]
            self._file.read_into(part, int(self._offsets[number]) + within * self._bytes)
            first = last
        return result

    def take(self, places: _Places) -> NDArray[Any]:
        """The entries at ``places`` in the order asked."""
        if places.range is not None:
            return self.range(*places.range)
        if len(places.windows) == 1:
            return self._window(places.windows[0])
        result = np.empty((places.total, *self._tail), dtype=self._dtype)
        for window in places.windows:
            result[window.place] = self._window(window)
        return result

    def _window(self, window: _Window) -> NDArray[Any]:
        index = window.index
        low, high = int(window.starts.min()), int((window.starts + window.counts).max())
        if high - low <= _DENSE * len(index):
            return self.range(low, high).take(index - low, axis=0)
        if self._offsets is None:
            return self._by_gaps(index)
        if self._entries is not None:
            self._file.check()
            number, within = np.divmod(index, self._chunk)
            taken: NDArray[Any] = self._entries.take(self._places[number] + within, axis=0)
            return taken
        return self._one_by_one(window)

    def _one_by_one(self, window: _Window) -> NDArray[Any]:
        """A read per stretch, two where it lies in two chunks."""
        assert self._offsets is not None
        starts, counts = window.starts, window.counts
        while (over := starts % self._chunk + counts - self._chunk).max() > 0:
            cut = np.flatnonzero(over > 0)
            starts = np.insert(starts, cut + 1, starts[cut] + counts[cut] - over[cut])
            counts = np.insert(counts, cut + 1, over[cut])
            counts[cut + np.arange(len(cut))] -= over[cut]
        number, within = np.divmod(starts, self._chunk)
        offsets = self._offsets[number] + within * self._bytes
        data = self._file.read_parts(offsets.tolist(), (counts * self._bytes).tolist())
        return np.frombuffer(data, dtype=self._dtype).reshape(-1, *self._tail)

    def _by_gaps(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """What lies close together in one read."""
        result = np.empty((len(index), *self._tail), dtype=self._dtype)
        edges = np.concatenate([[0], np.flatnonzero(np.abs(np.diff(index)) > _GAP) + 1, [len(index)]])
        for first, last in itertools.pairwise(edges.tolist()):
            part = index[first:last]
            low = int(part.min())
            result[first:last] = self.range(low, int(part.max()) + 1).take(part - low, axis=0)
        return result


def _reopen(path: Path) -> Store:
    return Store(path, verify=False)


class Store(AbstractContextManager["Store"]):
    """Read a canonical store.

    A store can be pickled (the copy opens the file again) and used after a fork.

    Args:
        path: the file.
        verify: check the recorded checksum first.

    Attributes:
        n_rows: number of rows.
        ptr: offsets into the atom arrays, shape (n_rows + 1,).
        fidelities: names of the energy columns.
        force_fidelities: names of those with forces.
        columns: names of the further numbers per row (:meth:`column`).
        info_names: names of the facts per group (:meth:`group_info`).
        group_names: names of the groups.
        provenance: what the writer noted.

    Raises:
        InputError: missing, changed, truncated, not a store, or a store with a part missing.
    """

    def __init__(self, path: PathLike, verify: bool = True) -> None:
        self.path = Path(path)
        expected = "a canonical store written by this pipeline"
        if verify and self.path.exists():
            require(self.path)
        self._hdf5 = open_hdf5(self.path, expected)
        self._raw: _File | None = None
        self._columns: dict[str, _Column] = {}
        try:
            self._load(expected)
        except InputError:
            self.close()
            raise
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self.close()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.path}: damaged HDF5 file ({reason}); expected {expected}") from None

    def _load(self, expected: str) -> None:
        file = self._hdf5
        if file.attrs.get("format") != FORMAT:
            found = ", ".join(list(file)[:4]) or "nothing"
            raise InputError(f"{self.path}: layout of another data set (it holds {found}); expected {expected}")
        if int(file.attrs.get("version", 0)) != VERSION:
            raise InputError(
                f"{self.path}: store version {file.attrs.get('version')}, expected {VERSION}; delete it and build again"
            )
        for name in ("positions", "atomic_numbers", "ptr", "group", "group_names", "source_row", "energy"):
            if name not in file:
                raise InputError(
                    f"{self.path}: key {name!r} is missing; expected {expected}; delete it and build again"
                )
        self._raw = _File(self.path)
        self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        self.fidelities: tuple[str, ...] = tuple(self.provenance.get("fidelities") or sorted(file["energy"]))
        forces = file.get("forces", ())
        self.force_fidelities: tuple[str, ...] = tuple(name for name in self.fidelities if name in forces)
        self.columns: tuple[str, ...] = tuple(file.get("row", ()))
        self.info_names: tuple[str, ...] = tuple(file.get("group_info", ()))
        self.group_names: list[str] = [name.decode() for name in file["group_names"][:]]
        self.ptr: NDArray[np.int64] = _Column(file["ptr"], self._raw).range(0, len(file["ptr"]))
        self.n_rows = len(self.ptr) - 1
        if self.n_rows < 0 or self.ptr[0] != 0 or (np.diff(self.ptr) < 0).any():
            raise InputError(f"{self.path}: key 'ptr' doesn't ascend from 0; delete it and build again")
        n_atoms = int(self.ptr[-1])
        lengths = {"positions": n_atoms, "atomic_numbers": n_atoms, "group": self.n_rows, "source_row": self.n_rows}
        lengths |= {f"energy/{name}": self.n_rows for name in self.fidelities}
        lengths |= {f"forces/{name}": n_atoms for name in self.force_fidelities}
        lengths |= {f"row/{name}": self.n_rows for name in self.columns}
        for name, length in lengths.items():
            if name not in file or len(file[name]) != length:
                found = str(len(file[name])) if name in file else "nothing"
                raise InputError(
                    f"{self.path}: key {name!r} holds {found}, expected {length} entries; delete it and build again"
                )
            self._columns[name] = _Column(file[name], self._raw)
        mapped = 0
        for column in sorted(self._columns.values(), key=lambda column: column.size):
            mapped += column.size
            if mapped <= _MAPPED_BYTES:
                column.view()

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        return _reopen, (self.path.absolute(),)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        for column in self._columns.values():
            column.release()
        self._columns = {}
        self._hdf5.close()
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def __len__(self) -> int:
        return self.n_rows

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that the data set declares (or, if it declares none, that occur), ascending."""
        declared = self.provenance.get("elements")
        if declared:
            return sorted(declared)
        count = np.zeros(256, dtype=np.int64)
        for first in range(0, int(self.ptr[-1]), 1 << 24):
            last = min(first + (1 << 24), int(self.ptr[-1]))
            part = self._fetch("atomic_numbers", _Places(last - first, (first, last)))
            count += np.bincount(part, minlength=256)
        return np.flatnonzero(count).tolist()

    def _check_fidelity(self, fidelity: str, forces: bool = False) -> None:
        known = self.force_fidelities if forces else self.fidelities
        if fidelity not in known:
            what = "forces" if forces else "energies"
            raise InputError(
                f"{self.path}: no {what} of fidelity {fidelity!r}; this store holds {', '.join(known) or 'none'}"
            )

    def _check_rows(self, rows: ArrayLike | None) -> NDArray[np.int64]:
        if rows is None:
            return np.arange(self.n_rows, dtype=np.int64)
        result = np.asarray(rows)
        if result.dtype == np.bool_:
            result = np.flatnonzero(result)
        result = result.astype(np.int64).reshape(-1)
        if len(result) and (result.min() < 0 or result.max() >= self.n_rows):
            raise InputError(f"{self.path}: rows {result.min()} to {result.max()} asked, it has 0 to {self.n_rows - 1}")
        return result

    def _fetch(self, name: str, places: _Places) -> NDArray[Any]:
        if self._raw is None:
            raise ValueError(f"{self.path}: the store is closed")
        try:
            return self._columns[name].take(places)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: damaged HDF5 file ({error}); delete it and build again") from None

    def _per_row(self, name: str, rows: ArrayLike | None) -> NDArray[Any]:
        if rows is None:
            return self._fetch(name, _Places(self.n_rows, (0, self.n_rows)))
        rows = self._check_rows(rows)
        return self._fetch(name, _Places.of(rows, np.ones_like(rows)))

    def n_atoms(self, rows: ArrayLike | None = None) -> NDArray[np.int64]:
        """Atoms per row, shape (n_rows,); of all rows if none are given."""
        if rows is None:
            return np.diff(self.ptr)
        rows = self._check_rows(rows)
        return self.ptr[rows + 1] - self.ptr[rows]

    def groups(self, rows: ArrayLike | None = None) -> NDArray[np.int32]:
        """Group index per row, shape (n_rows,)."""
        return self._per_row("group", rows)

    def source_rows(self, rows: ArrayLike | None = None) -> NDArray[np.int64]:
        """Row numbers in the source files, shape (n_rows,)."""
        return self._per_row("source_row", rows)

    def column(self, name: str, rows: ArrayLike | None = None) -> NDArray[Any]:
        """Further numbers per row, shape (n_rows,): int64 (-1 = unknown) or float64 (NaN = unknown).

        Args:
            name: one of ``columns``.
            rows: row numbers or a mask; all rows if None.

        Raises:
            InputError: no such column.
        """
        if name not in self.columns:
            raise InputError(f"{self.path}: no column {name!r}; this store holds {', '.join(self.columns) or 'none'}")
        return self._per_row(f"row/{name}", rows)

    def group_info(self, name: str) -> list[str]:
        """One fact per group in the order of ``group_names``, such as its SMILES; empty where unknown.

        Raises:
            InputError: no such fact.
        """
        if name not in self.info_names:
            found = ", ".join(self.info_names) or "none"
            raise InputError(f"{self.path}: no group info {name!r}; this store holds {found}")
        if self._raw is None:
            raise ValueError(f"{self.path}: the store is closed")
        return [value.decode() for value in self._hdf5[f"group_info/{name}"][:]]

    def energies(self, fidelity: str) -> NDArray[np.float64]:
        """The whole energy column, shape (n_rows,), eV, NaN = no label."""
        self._check_fidelity(fidelity)
        return self._per_row(f"energy/{fidelity}", None)

    def has_label(self, fidelity: str) -> NDArray[np.bool_]:
        """Which rows have an energy of this fidelity, shape (n_rows,)."""
        return np.isfinite(self.energies(fidelity))

    def read(
        self,
        rows: ArrayLike | None = None,
        positions: bool = True,
        fidelities: Sequence[str] | None = None,
        forces: Sequence[str] | bool = True,
    ) -> Rows:
        """Read rows in any order, with repeats if asked.

        Args:
            rows: row numbers, or a mask of shape (n_rows,); all rows if None.
            positions: read the positions.
            fidelities: energies to read; all if None.
            forces: forces to read: names, or True for all of ``fidelities`` that have any, or False.
        """
        rows = self._check_rows(rows)
        names = list(self.fidelities if fidelities is None else fidelities)
        for name in names:
            self._check_fidelity(name)
        force_names = (
            [name for name in names if name in self.force_fidelities] if forces is True else list(forces or ())
        )
        for name in force_names:
            self._check_fidelity(name, forces=True)
        starts = self.ptr[rows]
        counts = self.ptr[rows + 1] - starts
        ptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        atoms = _Places.of(starts, counts)
        places = _Places.of(rows, np.ones_like(rows))
        return Rows(
            rows,
            self._fetch("atomic_numbers", atoms),
            self._fetch("positions", atoms) if positions else np.zeros((0, 3), dtype=np.float32),
            ptr,
            {name: self._fetch(f"energy/{name}", places) for name in names},
            {name: self._fetch(f"forces/{name}", atoms) for name in force_names},
            self._fetch("group", places),
        )

    def iter_chunks(self, size: int = 65536, rows: ArrayLike | None = None, **options: Any) -> Iterator[Rows]:
        """Yield ``rows``, shape (n,) (all by default), in chunks of at most ``size``; options as in :meth:`read`."""
        rows = self._check_rows(rows)
        for first in range(0, len(rows), size):
            yield self.read(rows[first : first + size], **options)


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenation of arange(start, start + count)."""
    total = int(counts.sum())
    offsets = np.cumsum(counts) - counts
    indices: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(starts - offsets, counts)
    return indices
