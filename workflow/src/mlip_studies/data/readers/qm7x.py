"""Reader of QM7-X: .xz files of HDF5 with one group per configuration and tiny data sets in it.

``/<idmol>/Geom-m<r>-i<s>-c<t>-<u>/{atNUM, atXYZ, ePBE0+MBD, totFOR, ...}``: molecule r, stereoisomer s, conformer t,
and u = ``opt`` for the equilibrium structure or ``d1`` to ``d100`` for structures displaced from it along normal modes
(the data set's description writes the number without the d; both are read). The forces that belong to ``ePBE0+MBD``
are ``totFOR``; ``pbe0FOR`` lacks the dispersion. (J. Hoja et al., Sci. Data 8, 43 (2021).)

An archive is unpacked to a temporary file, one at a time: all eight need 82 GB together, the largest one 17 GB.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from h5py import h5d, h5g, h5o, h5s, h5t
from numpy.typing import NDArray

from mlip_studies.data.readers import convert, finished, reader_options, unit_factors
from mlip_studies.data.readers.archives import HDF5_SIGNATURE, signature, unpacked_xz
from mlip_studies.data.readers.hdf5 import Group, check_link, check_storage, damage, open_root
from mlip_studies.data.readers.hdf5_index import Index, open_index
from mlip_studies.data.store import Block, atomic_number_array
from mlip_studies.errors import InputError

EXPECTED = "QM7-X's layout (an .xz of HDF5, <molecule>/Geom-m…-i…-c…-…/{atNUM, atXYZ, energies, forces})"
_ID = re.compile(r"Geom-m(\d{1,9})-i(\d{1,9})-c(\d{1,9})-(?:opt|d?([1-9]\d{0,8}))")
_MAX_ATOMS = 10_000


@dataclass(frozen=True, order=True)
class ConfigurationId:
    """What the name of a configuration says; ``displacement`` is 0 for the equilibrium structure."""

    molecule: int
    isomer: int
    conformer: int
    displacement: int


def parse_id(name: str) -> ConfigurationId | None:
    """The parts of a name such as ``Geom-m1-i1-c1-opt`` or ``Geom-m1-i1-c1-d50``, or None."""
    match = _ID.fullmatch(name)
    return ConfigurationId(*(int(part or 0) for part in match.groups())) if match else None


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the molecules of a file.

    Args:
        path: the .xz file, or the HDF5 file in it.
        entry: the data set's entry; ``fidelities`` maps each fidelity to its ``energy`` and optional ``forces`` key.
            ``scratch``: folder for the unpacked file.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å; the group is the molecule's number, the columns are ``isomer``, ``conformer`` and
        ``displacement`` (0 = equilibrium). Within a molecule the frames are ordered by these.

    Raises:
        InputError: damaged, of another layout, a key missing, a configuration twice, no space for the unpacked file,
            or numbers that are NaN or infinite.
    """
    reader_options(entry, {})
    first = signature(path, EXPECTED)
    with nullcontext(path) if first == HDF5_SIGNATURE else unpacked_xz(path, entry, EXPECTED) as name:
        yield from _file(name, path, entry, block_rows)


def _file(name: Path, path: Path, entry: Mapping[str, Any], block_rows: int) -> Iterator[Block]:
    with open_root(name, str(path), EXPECTED) as root, damage(str(path)), open_index(name) as index:
        row = 0
        for molecule in sorted(root.names(), key=lambda text: (not text.isdecimal(), len(text), text)):
            with damage(f"{path}: group {molecule}"):
                group = root.subgroup(molecule)
                ids = _ids(group)
                for part in _same_atoms(group, ids, entry, index):
                    n_frames = len(part.index)
                    for start in range(0, n_frames, block_rows):
                        yield finished(part.block(molecule, ids, slice(start, start + block_rows), row, entry), path)
                row += len(ids)
                if index is not None:
                    index.forget()


def _ids(group: Group) -> list[tuple[ConfigurationId, str]]:
    """The configurations of a molecule, sorted."""
    ids = []
    for name in group.names():
        parsed = parse_id(name)
        if parsed is None:
            raise InputError(f"{group.where}: {name!r} is no name of a configuration, expected {EXPECTED}")
        ids.append((parsed, name))
    if not ids:
        raise InputError(f"{group.where}: it is empty, expected {EXPECTED}; fetch the file again")
    ids.sort()
    for (one, name), (other, another) in itertools.pairwise(ids):
        if one == other:
            raise InputError(f"{group.where}: {name} and {another} are the same configuration; remove one of them")
        if one.molecule != other.molecule:
            raise InputError(f"{group.where}: {name} and {another} are of different molecules; expected {EXPECTED}")
    return ids


class _Part:
    """Configurations of a molecule with the same atoms in the same order."""

    def __init__(self, numbers: NDArray[np.uint8], capacity: int, keys: Mapping[str, Mapping[str, str]]) -> None:
        self.numbers = numbers
        self.index: list[int] = []
        # What is not written to costs no memory, so there is room for all configurations of the molecule.
        self.positions = np.empty((capacity, len(numbers), 3))
        self.energies = {name: np.empty(capacity) for name in keys}
        self.forces = {name: np.empty_like(self.positions) for name, key in keys.items() if key.get("forces")}

    def block(
        self,
        group: str,
        ids: list[tuple[ConfigurationId, str]],
        rows: slice,
        first_row: int,
        entry: Mapping[str, Any],
    ) -> Block:
        """Some of the configurations, converted."""
        energy, length = unit_factors(entry)
        index = np.array(self.index[rows], dtype=np.int64)
        rows = slice(rows.start, rows.start + len(index))
        keys = [ids[position][0] for position in index]
        return Block(
            group=group,
            atomic_numbers=self.numbers,
            positions=convert(self.positions[rows], length, np.float32),
            energies={name: convert(values[rows], energy, np.float64) for name, values in self.energies.items()},
            forces={name: convert(values[rows], energy / length, np.float32) for name, values in self.forces.items()},
            source_rows=first_row + index,
            columns={
                "isomer": np.array([key.isomer for key in keys], dtype=np.int32),
                "conformer": np.array([key.conformer for key in keys], dtype=np.int32),
                "displacement": np.array([key.displacement for key in keys], dtype=np.int32),
            },
        )


def _same_atoms(
    group: Group, ids: list[tuple[ConfigurationId, str]], entry: Mapping[str, Any], index: Index | None
) -> list[_Part]:
    """Read the configurations of a molecule.

    What happens here happens four million times, hence the index, and the low-level calls where it has no answer.
    """
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    energies = [(name, keys["energy"]) for name, keys in fidelities.items()]
    forces = [(name, keys["forces"]) for name, keys in fidelities.items() if keys.get("forces")]
    keys = ["atNUM", "atXYZ", *(key for _, key in energies), *(key for _, key in forces)]
    encoded = [key.encode("utf-8") for key in keys]
    places: Mapping[bytes, tuple[int, int]] = {}
    if index is not None and (place := index.group(h5o.get_info(group.id).addr)) is not None:
        places = index.subgroups(place) or {}
    parts: dict[bytes, _Part] = {}

    for position, (_, name) in enumerate(ids):
        place = places.get(name.encode("utf-8"))
        arrays = index.arrays(place, encoded) if index is not None and place is not None else None
        if arrays is None:
            arrays = _arrays(group, name, keys)
        stored = arrays[0]
        if stored.ndim != 1 or not 0 < len(stored) <= _MAX_ATOMS or stored.dtype.kind not in "iu":
            raise InputError(
                f"{group.where}/{name}: atNUM: shape {stored.shape} and type {stored.dtype}, "
                "expected the atomic numbers of a molecule"
            )
        part = parts.get(found := stored.tobytes())
        if part is None:
            numbers = atomic_number_array(stored, f"{group.where}/{name}: atNUM")
            part = parts[found] = _Part(numbers, len(ids), fidelities)
        slot = len(part.index)
        part.index.append(position)
        targets = [part.positions[slot]]
        targets += [part.energies[fidelity][slot : slot + 1] for fidelity, _ in energies]
        targets += [part.forces[fidelity][slot] for fidelity, _ in forces]
        for key, values, target in zip(keys[1:], arrays[1:], targets, strict=True):
            if values.shape != target.shape and not (target.ndim == 1 and values.size == 1):
                raise InputError(f"{group.where}/{name}: {key}: shape {values.shape}, expected {target.shape}")
            target[...] = values if values.shape == target.shape else values.reshape(1)
    return list(parts.values())


def _arrays(group: Group, name: str, keys: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays of a configuration, read by the library."""
    check_link(group.id, name.encode("utf-8"), group.where)
    where = h5g.open(group.id, name.encode("utf-8"))
    result = []
    for key in keys:
        try:
            check_link(where, key.encode("utf-8"), f"{group.where}/{name}")
            source = h5d.open(where, key.encode("utf-8"))
        except KeyError:
            # Tells a missing key from a damaged one.
            result.append(Group(where, group.label, f"{group.name}/{name}", EXPECTED).numbers(key).all())
            continue
        shape = source.shape
        kind = source.get_type().get_class()
        if kind not in (h5t.INTEGER, h5t.FLOAT) or math.prod(shape) > 3 * _MAX_ATOMS:
            raise InputError(
                f"{group.where}/{name}: {key}: shape {shape} and type {source.dtype}, expected a few plain numbers"
            )
        check_storage(source, f"{group.where}/{name}: {key}")
        values = np.empty(shape, dtype=np.int64 if kind == h5t.INTEGER else np.float64)
        source.read(h5s.ALL, h5s.ALL, values, h5t.NATIVE_INT64 if kind == h5t.INTEGER else h5t.NATIVE_DOUBLE)
        result.append(values)
    return result
