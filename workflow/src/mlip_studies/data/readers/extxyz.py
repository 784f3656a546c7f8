"""Reader of extended XYZ files: a user's own molecules.

Each frame states its number of atoms, a line of ``key=value`` pairs and a line per atom, as ASE reads and writes them
(https://wiki.fysik.dtu.dk/ase/ase/io/formatoptions.html#extxyz). Frames may be of different molecules in any order;
frames of the same molecule are put together within windows of ``block_rows`` frames. Only finite systems are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from numpy.typing import NDArray

from mlip_studies.data.readers import convert, reader_options, unit_factors
from mlip_studies.data.store import Block, atomic_number_array, check_block
from mlip_studies.elements import formula
from mlip_studies.errors import InputError

EXPECTED = "extended XYZ (number of atoms, a line of key=value pairs, a line per atom)"
_MAX_ATOMS = 100_000
_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class _Frame:
    row: int
    group: str
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float64]
    energies: dict[str, float]
    forces: dict[str, NDArray[np.float64]]
    charge: float


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the frames of a file.

    Args:
        path: the file.
        entry: the data set's entry; ``fidelities`` maps each fidelity to the key of its energy and the optional name of
            its forces. A frame may lack a fidelity, but not all of them. ``reader_options.group``: key whose value
            names the molecule group (default: the formula); ``reader_options.charge``: key of the total charge.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å with the column ``charge`` (elementary charges, NaN if not known).

    Raises:
        InputError: not extended XYZ, periodic, a key missing, or numbers that are not finite; names the frame.
    """
    options = reader_options(entry, {"group": None, "charge": None})
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {EXPECTED}")
    pending: dict[tuple[str, bytes], list[_Frame]] = {}
    n_pending = n_frames = 0
    labeled: set[str] = set()
    for row, text in enumerate(_frames(path)):
        frame = _parse(f"{path}, frame {row}", row, text, entry, options)
        labeled.update(frame.forces)
        pending.setdefault((frame.group, frame.numbers.tobytes()), []).append(frame)
        n_pending += 1
        n_frames += 1
        if n_pending == block_rows:
            yield from _blocks(path, pending, entry)
            pending, n_pending = {}, 0
    yield from _blocks(path, pending, entry)
    if n_frames == 0:
        raise InputError(f"{path}: no frames, expected {EXPECTED}")
    for name, keys in entry["fidelities"].items():
        if keys.get("forces") and name not in labeled:
            raise InputError(f"{path}: no frame has forces called {keys['forces']!r}; correct `fidelities` or the file")


def _frames(path: Path) -> Iterator[str]:
    """The text of each frame.

    ASE's own splitting trusts the number of atoms and reads the whole file first.
    """
    with path.open("rb") as stream:
        frame = 0
        while True:
            first = stream.readline(_MAX_LINE)
            if not first.strip():
                # Blank lines are allowed at the end of the file only.
                if first and stream.read(_MAX_LINE).strip():
                    raise InputError(f"{path}, frame {frame}: an empty line, expected {EXPECTED}")
                return
            try:
                n_atoms = int(first)
            except ValueError:
                n_atoms = 0
            if not 0 < n_atoms <= _MAX_ATOMS:
                raise InputError(
                    f"{path}, frame {frame}: {first[:40].decode('utf-8', 'replace').strip()!r}, expected a number of "
                    f"atoms from 1 to {_MAX_ATOMS} at the start of {EXPECTED}"
                )
            lines = [first, *(stream.readline(_MAX_LINE) for _ in range(n_atoms + 1))]
            if not lines[-1]:
                raise InputError(f"{path}, frame {frame}: the file ends within {n_atoms} atoms; fetch it again")
            try:
                yield b"".join(lines).decode("utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{path}, frame {frame}: not a text file, expected {EXPECTED}") from None
            frame += 1


def _parse(where: str, row: int, text: str, entry: Mapping[str, Any], options: Mapping[str, Any]) -> _Frame:
    try:
        atoms = ase.io.read(io.StringIO(text), format="extxyz")
    # The parser lets exceptions of many kinds out of it (IndexError, KeyError, AttributeError, its own, ...).
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: unreadable ({message}), expected {EXPECTED}") from None
    assert isinstance(atoms, ase.Atoms)
    if atoms.pbc.any():
        raise InputError(f'{where}: it is periodic; expected molecules (pbc="F F F"), remove the cell if it has none')
    energy_factor, length_factor = unit_factors(entry)
    results = atoms.calc.results if atoms.calc is not None else {}
    # Where ASE knows a key, it moves the value to a calculator.
    per_frame, per_atom = {**results, **atoms.info}, {**results, **atoms.arrays}
    energies, forces = {}, {}
    for name, keys in entry["fidelities"].items():
        if keys["energy"] in per_frame:
            energies[name] = energy_factor * _number(where, keys["energy"], per_frame[keys["energy"]])
            if keys.get("forces") in per_atom and keys.get("forces"):
                values = np.asarray(per_atom[keys["forces"]])
                if values.shape != (len(atoms), 3) or values.dtype.kind not in "fiu":
                    raise InputError(
                        f"{where}: {keys['forces']} has shape {values.shape} and type {values.dtype}, "
                        f"expected numbers of shape ({len(atoms)}, 3)"
                    )
                forces[name] = convert(values, energy_factor / length_factor, np.float64)
    if not energies:
        wanted = ", ".join(keys["energy"] for keys in entry["fidelities"].values())
        raise InputError(f"{where}: no energy ({wanted}); it holds {', '.join(map(str, per_frame)) or 'nothing'}")
    charge = np.nan
    if options["charge"] is not None:
        if options["charge"] not in per_frame:
            raise InputError(f"{where}: no {options['charge']!r} (reader_options.charge)")
        charge = _number(where, options["charge"], per_frame[options["charge"]])
    numbers = atomic_number_array(atoms.numbers, f"{where}: the list of elements")
    group = formula(numbers)
    if options["group"] is not None:
        if options["group"] not in atoms.info:
            raise InputError(f"{where}: no {options['group']!r} (reader_options.group)")
        group = str(atoms.info[options["group"]])
    positions = convert(atoms.positions, length_factor, np.float64)
    return _Frame(row, group, numbers, positions, energies, forces, charge)


def _number(where: str, key: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise InputError(f"{where}: {key} is {str(value)[:40]!r}, expected a number")
    return float(array.reshape(()))


def _blocks(path: Path, pending: Mapping[Any, list[_Frame]], entry: Mapping[str, Any]) -> Iterator[Block]:
    for frames in pending.values():
        first = frames[0]
        no_forces = np.full((len(first.numbers), 3), np.nan)
        block = Block(
            group=first.group,
            atomic_numbers=first.numbers,
            positions=np.array([frame.positions for frame in frames]),
            energies={
                name: np.array([frame.energies.get(name, np.nan) for frame in frames]) for name in entry["fidelities"]
            },
            forces={
                name: np.array([frame.forces.get(name, no_forces) for frame in frames])
                for name, keys in entry["fidelities"].items()
                if keys.get("forces")
            },
            source_rows=np.array([frame.row for frame in frames], dtype=np.int64),
            columns={"charge": np.array([frame.charge for frame in frames])},
        )
        check_block(block, path)
        yield block
