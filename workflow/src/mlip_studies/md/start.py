"""Start structures of dynamics: rows of a store, or a file of structures."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError
from mlip_studies.models.checks import check_molecule

NAMED_ROWS = ("first", "lowest_energy")
#: arrays of an npz file, as this package, MD17 and revised MD17 call them
_NUMBER_KEYS = ("atomic_numbers", "z", "nuclear_charges")
_POSITION_KEYS = ("positions", "R", "coords")


@dataclass(frozen=True)
class StartConfig:
    """Where start structures come from: a store, or a file.

    Attributes:
        store: path of a canonical store.
        rows: row numbers of the store, ``first`` or ``lowest_energy``; the latter two of each of ``groups``.
        groups: names of the store's groups (molecules); None: the store's only one.
        fidelity: whose energies ``lowest_energy`` compares; the store's first one if not given.
        file: a file that ASE reads, such as extxyz, or an npz file of atomic numbers and positions in Å.
        frames: which structures of the file, as ASE's index: ``:``, ``0``, ``-1``, ``::100``.
    """

    store: str | None = None
    rows: Any = "first"
    groups: tuple[str, ...] | None = None
    fidelity: str | None = None
    file: str | None = None
    frames: str = "0"

    @property
    def source(self) -> str:
        """The path that is read."""
        return str(self.store if self.store is not None else self.file)


@dataclass(frozen=True)
class Molecule:
    """One structure.

    Attributes:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        name: where it is from, for messages and tables; a structure of an extxyz file may have its own.
    """

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    name: str


def read_start(config: StartConfig) -> list[Molecule]:
    """The start structures.

    Args:
        config: where they are.

    Returns:
        at least one molecule.

    Raises:
        InputError: neither or both of store and file, a file that is missing or damaged, rows that are not there, or a
            structure that is periodic, empty or has atoms that coincide.
    """
    if (config.store is None) == (config.file is None):
        raise InputError("md.start: expected either `store` or `file`; give one of them")
    molecules = _from_file(config) if config.store is None else _from_store(config, config.store)
    if not molecules:
        raise InputError(f"md.start: {config.source}: no structures chosen; expected at least one")
    for molecule in molecules:
        check_molecule(molecule.atomic_numbers, molecule.positions, name=molecule.name)
    return molecules


def _from_store(config: StartConfig, path: PathLike) -> list[Molecule]:
    with Store(path) as store:
        if isinstance(config.rows, str):
            rows = _named_rows(store, config)
        else:
            rows = np.asarray(config.rows).reshape(-1)
            if rows.dtype.kind not in "iu" or (len(rows) and (rows.min() < 0 or rows.max() >= store.n_rows)):
                raise InputError(
                    f"md.start.rows: expected row numbers below {store.n_rows} of {path}, or one of "
                    f"{', '.join(NAMED_ROWS)}; found {config.rows!r}"
                )
        read = store.read(rows, fidelities=(), forces=False)
        names = [f"{store.group_names[group]} (row {row})" for group, row in zip(read.group, read.rows, strict=True)]
    result = []
    for index, name in enumerate(names):
        numbers, positions = read.molecule(index)
        result.append(Molecule(numbers.astype(np.int64), positions.astype(np.float64), name))
    return result


def _named_rows(store: Store, config: StartConfig) -> NDArray[np.int64]:
    if config.rows not in NAMED_ROWS:
        raise InputError(f"md.start.rows: {config.rows!r}; expected row numbers or one of {', '.join(NAMED_ROWS)}")
    names = config.groups
    if names is None:
        if len(store.group_names) != 1:
            raise InputError(
                f"md.start.groups: {store.path} has {len(store.group_names)} groups of geometries; name those whose "
                f"{config.rows} row to start from, such as [{store.group_names[0] if store.group_names else ''}]"
            )
        names = (store.group_names[0],)
    index_of = {name: index for index, name in enumerate(store.group_names)}
    for name in names:
        if name not in index_of:
            raise InputError(f"md.start.groups: {store.path} has no group {name!r}; it has {store.group_names[0]!r}, …")
    groups = store.groups()
    if config.rows == "first":
        return np.array([np.flatnonzero(groups == index_of[name])[0] for name in names])
    if not store.fidelities:
        raise InputError(f"md.start.rows: {store.path} has no energies; choose row numbers or first")
    fidelity = config.fidelity or store.fidelities[0]
    energy = store.energies(fidelity)
    result = []
    for name in names:
        rows = np.flatnonzero((groups == index_of[name]) & np.isfinite(energy))
        if not len(rows):
            raise InputError(f"md.start: {store.path}: group {name!r} has no energy of fidelity {fidelity!r}")
        result.append(rows[np.argmin(energy[rows])])
    return np.array(result)


def _from_file(config: StartConfig) -> list[Molecule]:
    path = Path(config.source)
    if not path.is_file():
        raise InputError(f"md.start.file: {path}: no such file; name a file of start structures")
    return _from_npz(path, config.frames) if path.suffix == ".npz" else _from_ase(path, config.frames)


def _from_ase(path: Path, frames: str) -> list[Molecule]:
    from ase.io import read

    try:
        images = read(path, index=frames)
    except Exception as error:
        # ASE's readers raise whatever they stumble over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"md.start.file: {path}: ASE cannot read frames {frames!r} of it ({reason})") from error
    result = []
    for index, atoms in enumerate(images if isinstance(images, list) else [images]):
        if atoms.pbc.any():
            raise InputError(f"md.start.file: {path}: structure {index} is periodic; expected molecules without a cell")
        name = " ".join(str(atoms.info.get("name", "")).split()) or f"{path.name} {index}"
        result.append(Molecule(atoms.numbers.astype(np.int64), atoms.positions.copy(), name))
    return result


def _from_npz(path: Path, frames: str) -> list[Molecule]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            numbers, positions = (_first_of(path, arrays, keys) for keys in (_NUMBER_KEYS, _POSITION_KEYS))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"md.start.file: {path}: not a readable npz file ({error})") from error
    if numbers.ndim != 1 or positions.ndim not in (2, 3) or positions.shape[-2:] != (len(numbers), 3):
        raise InputError(
            f"md.start.file: {path}: atomic numbers of shape {numbers.shape} and positions of shape {positions.shape}; "
            "expected (n_atoms,) and (n_frames, n_atoms, 3)"
        )
    positions = positions.reshape(-1, len(numbers), 3)
    order = np.arange(len(positions))
    parts = [part.strip() for part in frames.split(":")]
    try:
        numbers_given = [int(part) if part else None for part in parts]
        chosen = order[slice(*numbers_given)] if len(parts) > 1 else order[int(parts[0]) :][:1]
    except (ValueError, TypeError):
        raise InputError(f"md.start.frames: {frames!r}; expected a number or a slice such as 0, -1 or ::100") from None
    z = numbers.astype(np.int64)
    return [Molecule(z, positions[frame].astype(np.float64), f"{path.name} {frame}") for frame in chosen]


def _first_of(path: Path, arrays: Any, keys: Sequence[str]) -> NDArray[Any]:
    for key in keys:
        if key in arrays:
            return np.asarray(arrays[key])
    raise InputError(f"md.start.file: {path}: no array named {', '.join(keys[:-1])} or {keys[-1]}")
