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

Everything is chunked and appended to, so memory stays flat; the file appears under its name only when it is whole.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError

FORMAT = "mlip-studies store"
VERSION = 1
UNITS = {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"}

_ROW_CHUNK = 16384
_ATOM_CHUNK = 32768
# Reads closer together than this many atoms are fetched as one range; a read is cut at the window.
_GAP_ATOMS = 8192
_WINDOW_ATOMS = 2_000_000


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
    """

    group: str
    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.floating]
    energies: dict[str, NDArray[np.float64]]
    forces: dict[str, NDArray[np.floating]]
    source_rows: NDArray[np.int64]

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
        )


def check_block(block: Block, source: PathLike) -> None:
    """Check shapes and numbers of a block.

    A label may be missing (energy NaN, and all force components NaN); half a label is an error.

    Raises:
        InputError: names the source file, the group and the row in it.
    """
    n_frames, n_atoms = block.positions.shape[:2]
    where = f"{source}: group {block.group}"

    def fail(bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(block.source_rows[int(np.argmax(bad))])
            raise InputError(
                f"{where}, row {row}: {what} ({int(bad.sum())} such row(s) here); repair or remove the row, "
                "or fetch the file again"
            )

    if block.positions.shape != (n_frames, len(block.atomic_numbers), 3) or len(block.source_rows) != n_frames:
        raise InputError(
            f"{where}: positions have shape {block.positions.shape}, expected "
            f"({len(block.source_rows)}, {len(block.atomic_numbers)}, 3)"
        )
    if n_atoms == 0:
        raise InputError(f"{where}: a molecule without atoms; expected at least one")
    if not ((block.atomic_numbers >= 1) & (block.atomic_numbers <= 118)).all():
        raise InputError(f"{where}: atomic numbers outside 1 to 118")
    fail(~np.isfinite(block.positions).all(axis=(1, 2)), "coordinates are NaN or infinite")
    for name, energy in block.energies.items():
        if energy.shape != (n_frames,):
            raise InputError(f"{where}: energy {name} has shape {energy.shape}, expected ({n_frames},)")
        fail(np.isinf(energy), f"energy {name} is infinite")
    for name, forces in block.forces.items():
        if forces.shape != (n_frames, n_atoms, 3):
            raise InputError(f"{where}: forces {name} have shape {forces.shape}, expected ({n_frames}, {n_atoms}, 3)")
        missing = np.isnan(forces).reshape(n_frames, -1)
        fail(np.isinf(forces).any(axis=(1, 2)), f"forces {name} are infinite")
        fail(missing.any(axis=1) & ~missing.all(axis=1), f"some force components of {name} are NaN")
        if name in block.energies:
            fail(np.isnan(block.energies[name]) & ~missing.any(axis=1), f"energy {name} is NaN but its forces are not")


def package_versions() -> dict[str, str]:
    """Versions of what writes and reads the store."""
    versions = {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version, "numpy": np.__version__}
    try:
        versions["mlip_studies"] = importlib.metadata.version("mlip_studies")
    except importlib.metadata.PackageNotFoundError:
        versions["mlip_studies"] = "uninstalled"
    return versions


def _remove_leftovers(path: Path) -> None:
    """Remove temporary stores of writers that were killed (their process no longer exists)."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):
        pid = leftover.name[len(path.stem) + 2 :].split(".")[0]
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                leftover.unlink(missing_ok=True)
            except PermissionError:
                continue


def atomic_number_array(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Atomic numbers of one molecule from a file, checked before they are narrowed to bytes.

    Args:
        values: what the file holds.
        where: file and key for the message.

    Raises:
        InputError: not a list of whole numbers from 1 to 118.
    """
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu":
        raise InputError(f"{where} has shape {values.shape} and type {values.dtype}, expected a list of atomic numbers")
    if values.min() < 1 or values.max() > 118:
        raise InputError(f"{where} holds {values.min()} to {values.max()}, expected atomic numbers from 1 to 118")
    return values.astype(np.uint8)


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Append blocks to a new store; the store appears when the ``with`` block ends without an error.

    Args:
        path: the store to write.
        fidelities: names of the energy columns.
        force_fidelities: names of those with forces.
        provenance: JSON-ready description (sources, checksums, reader, level, filters).
        positions_dtype: ``float32`` or ``float64``.

    Raises:
        InputError: the folder cannot be written to, or a block is malformed or holds non-finite numbers.
    """

    def __init__(
        self,
        path: PathLike,
        fidelities: Sequence[str],
        force_fidelities: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
        positions_dtype: str = "float32",
    ) -> None:
        self.path = Path(path)
        self.fidelities = tuple(fidelities)
        self.force_fidelities = tuple(force_fidelities)
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.n_rows = 0
        self.n_atoms = 0
        self._dtype = np.dtype(positions_dtype)
        self._groups: dict[str, int] = {}
        for name in (*self.fidelities, *self.force_fidelities):
            if not name or "/" in name or name == ".":
                raise InputError(f"fidelity {name!r}: expected a non-empty name without a slash")
        if unknown := set(self.force_fidelities) - set(self.fidelities):
            raise InputError(f"forces of {', '.join(sorted(unknown))}: no energy column of that name is declared")

    def __enter__(self) -> StoreWriter:
        if self.path.parent.is_dir():
            _remove_leftovers(self.path)
        self._atomic = atomic_path(self.path)
        temporary = self._atomic.__enter__()
        try:
            self._file = h5py.File(temporary, "w")
            self._create()
        except BaseException as error:
            if getattr(self, "_file", None) is not None:
                self._file.close()
            self._atomic.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _create(self) -> None:
        def column(name: str, dtype: Any, chunk: int, width: tuple[int, ...] = ()) -> h5py.Dataset:
            return self._file.create_dataset(
                name, shape=(0, *width), maxshape=(None, *width), dtype=dtype, chunks=(chunk, *width)
            )

        column("positions", self._dtype, _ATOM_CHUNK, (3,))
        column("atomic_numbers", np.uint8, _ATOM_CHUNK)
        column("ptr", np.int64, _ROW_CHUNK)
        column("group", np.int32, _ROW_CHUNK)
        column("source_row", np.int64, _ROW_CHUNK)
        for name in self.fidelities:
            column(f"energy/{name}", np.float64, _ROW_CHUNK)
        for name in self.force_fidelities:
            column(f"forces/{name}", np.float32, _ATOM_CHUNK, (3,))
        self._extend("ptr", np.zeros(1, dtype=np.int64))

    def _extend(self, name: str, values: NDArray[Any]) -> None:
        dataset = self._file[name]
        old = dataset.shape[0]
        dataset.resize(old + len(values), axis=0)
        dataset[old:] = values

    def append(
        self,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        energies: Mapping[str, ArrayLike],
        forces: Mapping[str, ArrayLike] | None = None,
        group: str = "",
        source_rows: ArrayLike | None = None,
        source: PathLike | None = None,
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
        )
        self.append_block(block, source)

    def append_block(self, block: Block, source: PathLike | None = None) -> None:
        """Append a block (see :meth:`append`)."""
        check_block(block, source or self.path)
        for name in block.energies:
            if name not in self.fidelities:
                raise InputError(f"{self.path}: no energy column {name!r}; declared: {', '.join(self.fidelities)}")
        for name in block.forces:
            if name not in self.force_fidelities:
                raise InputError(f"{self.path}: no forces {name!r}; declared: {', '.join(self.force_fidelities)}")
        n_frames, n_atoms = block.positions.shape[:2]
        if n_frames == 0:
            return
        index = self._groups.setdefault(block.group, len(self._groups))
        self._extend("positions", block.positions.reshape(-1, 3))
        self._extend("atomic_numbers", np.tile(block.atomic_numbers, n_frames))
        self._extend("ptr", self.n_atoms + n_atoms * np.arange(1, n_frames + 1, dtype=np.int64))
        self._extend("group", np.full(n_frames, index, dtype=np.int32))
        self._extend("source_row", block.source_rows)
        for name in self.fidelities:
            self._extend(f"energy/{name}", block.energies.get(name, np.full(n_frames, np.nan)))
        for name in self.force_fidelities:
            values = block.forces.get(name)
            if values is None:
                values = np.full((n_frames, n_atoms, 3), np.nan, dtype=np.float32)
            self._extend(f"forces/{name}", values.reshape(-1, 3))
        self.n_rows += n_frames
        self.n_atoms += n_frames * n_atoms

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._file.close()
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._file.close()
        self._atomic.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self.n_rows == 0:
            raise InputError(f"{self.path}: no rows to store; check the source files and the filters of the data set")
        self._file.create_dataset("group_names", data=list(self._groups), dtype=h5py.string_dtype())
        self.provenance |= {"fidelities": list(self.fidelities)}
        self.provenance.setdefault("versions", package_versions())
        attributes = self._file.attrs
        attributes["format"] = FORMAT
        attributes["version"] = VERSION
        attributes["units"] = json.dumps(UNITS)
        attributes["provenance"] = json.dumps(self.provenance, sort_keys=True)


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


class Store(AbstractContextManager["Store"]):
    """Read a canonical store.

    Args:
        path: the file.
        verify: check the recorded checksum first.

    Raises:
        InputError: missing, changed, truncated, not a store, or a store with a part missing.
    """

    def __init__(self, path: PathLike, verify: bool = True) -> None:
        self.path = Path(path)
        expected = "a canonical store written by this pipeline"
        if verify and self.path.exists():
            require(self.path)
        self._file = open_hdf5(self.path, expected)
        try:
            self._load(expected)
        except InputError:
            self._file.close()
            raise
        except (OSError, RuntimeError, ValueError) as error:
            self._file.close()
            raise InputError(f"{self.path}: damaged HDF5 file ({error}); expected {expected}") from None

    def _load(self, expected: str) -> None:
        file = self._file
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
        self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        self.ptr: NDArray[np.int64] = file["ptr"][:]
        self.n_rows = len(self.ptr) - 1
        self.fidelities: tuple[str, ...] = tuple(self.provenance.get("fidelities") or sorted(file["energy"]))
        forces = file.get("forces", ())
        self.force_fidelities: tuple[str, ...] = tuple(name for name in self.fidelities if name in forces)
        self.group_names: list[str] = [name.decode() for name in file["group_names"][:]]
        n_atoms = int(self.ptr[-1])
        lengths = {"positions": n_atoms, "atomic_numbers": n_atoms, "group": self.n_rows, "source_row": self.n_rows}
        lengths |= {f"energy/{name}": self.n_rows for name in self.fidelities}
        lengths |= {f"forces/{name}": n_atoms for name in self.force_fidelities}
        for name, length in lengths.items():
            if name not in file or len(file[name]) != length:
                found = str(len(file[name])) if name in file else "nothing"
                raise InputError(
                    f"{self.path}: key {name!r} holds {found}, expected {length} entries; delete it and build again"
                )

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return self.n_rows

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that the data set declares (or, if it declares none, that occur), ascending."""
        declared = self.provenance.get("elements")
        return sorted(declared) if declared else np.unique(self._file["atomic_numbers"][:]).tolist()

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

    def n_atoms(self, rows: ArrayLike | None = None) -> NDArray[np.int64]:
        """Atoms per row, shape (n_rows,); of all rows if none are given."""
        rows = self._check_rows(rows)
        return self.ptr[rows + 1] - self.ptr[rows]

    def groups(self, rows: ArrayLike | None = None) -> NDArray[np.int32]:
        """Group index per row, shape (n_rows,)."""
        return self._file["group"][:][self._check_rows(rows)]

    def source_rows(self, rows: ArrayLike | None = None) -> NDArray[np.int64]:
        """Row numbers in the source files, shape (n_rows,)."""
        return self._file["source_row"][:][self._check_rows(rows)]

    def energies(self, fidelity: str) -> NDArray[np.float64]:
        """The whole energy column, shape (n_rows,), eV, NaN = no label."""
        self._check_fidelity(fidelity)
        return self._file[f"energy/{fidelity}"][:]

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
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        counts = self.ptr[rows + 1] - self.ptr[rows]
        ptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        # Atoms are read in file order and written where the requested order puts them.
        source = _ranges(self.ptr[ordered], counts[order])
        target = _ranges(ptr[:-1][order], counts[order])
        try:
            atom = {"atomic_numbers": self._gather("atomic_numbers", source, target)}
            if positions:
                atom["positions"] = self._gather("positions", source, target)
            force_values = {name: self._gather(f"forces/{name}", source, target) for name in force_names}
            row_target = order.astype(np.int64)
            energy = {name: self._gather(f"energy/{name}", ordered, row_target) for name in names}
            group = self._gather("group", ordered, row_target)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: damaged HDF5 file ({error}); delete it and build again") from None
        empty = np.zeros((0, 3), dtype=np.float32)
        return Rows(rows, atom["atomic_numbers"], atom.get("positions", empty), ptr, energy, force_values, group)

    def _gather(self, name: str, source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[Any]:
        """Fill result[target] = dataset[source] for (nearly) ascending ``source`` with few contiguous reads."""
        dataset = self._file[name]
        result = np.empty((len(source), *dataset.shape[1:]), dtype=dataset.dtype)
        if len(source) == 0:
            return result
        cut = (np.diff(source) > _GAP_ATOMS) | (np.diff(source // _WINDOW_ATOMS) > 0)
        edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(source)]])
        for first, last in itertools.pairwise(edges):
            # Repeated rows step back by a molecule, so the ends are not the extremes.
            part = source[first:last]
            low = int(part.min())
            result[target[first:last]] = dataset[low : int(part.max()) + 1][part - low]
        return result

    def iter_chunks(self, size: int = 65536, rows: ArrayLike | None = None, **options: Any) -> Iterator[Rows]:
        """Yield ``rows`` (all by default) in chunks of at most ``size``; options as in :meth:`read`."""
        rows = self._check_rows(rows)
        for first in range(0, len(rows), size):
            yield self.read(rows[first : first + size], **options)


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenation of arange(start, start + count)."""
    total = int(counts.sum())
    offsets = np.cumsum(counts) - counts
    return np.arange(total, dtype=np.int64) + np.repeat(starts - offsets, counts)
