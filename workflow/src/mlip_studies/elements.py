"""Chemical symbols, atomic numbers and compositions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase.data import atomic_numbers as _NUMBER_OF
from ase.data import chemical_symbols as _SYMBOLS
from numpy.typing import NDArray

from mlip_studies.errors import InputError


def symbol(number: int) -> str:
    """Chemical symbol of an atomic number.

    Raises:
        InputError: no such element.
    """
    if not 1 <= int(number) < len(_SYMBOLS):
        raise InputError(f"atomic number {number}: no such element; expected 1 to {len(_SYMBOLS) - 1}")
    return _SYMBOLS[int(number)]


def number(name: str) -> int:
    """Atomic number of a chemical symbol.

    Raises:
        InputError: no such element.
    """
    value = _NUMBER_OF.get(name, 0)
    if value < 1:
        raise InputError(f"element {name!r}: no such chemical symbol; expected one such as H, C, N or O")
    return int(value)


def numbers(names: Iterable[str | int]) -> list[int]:
    """Atomic numbers of symbols; numbers pass through after a check."""
    return [number(name) if isinstance(name, str) else number(symbol(name)) for name in names]


def symbols(values: Iterable[int]) -> list[str]:
    """Chemical symbols of atomic numbers."""
    return [symbol(int(value)) for value in values]


def formula(atomic_numbers: Sequence[int] | NDArray[np.integer]) -> str:
    """Hill formula, for example ``C2H6O``, of atomic numbers (n_atoms,)."""
    values, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    count = {symbol(int(z)): int(n) for z, n in zip(values, counts, strict=True)}
    order = sorted(count)
    if "C" in count:
        order.sort(key=lambda name: (name != "C", name != "H", name))
    return "".join(name + (str(count[name]) if count[name] > 1 else "") for name in order)


def composition(
    atomic_numbers: NDArray[np.integer], ptr: NDArray[np.integer], elements: Sequence[int]
) -> NDArray[np.int64]:
    """Number of atoms of each element in each molecule.

    Args:
        atomic_numbers: shape (n_atoms_total,).
        ptr: offsets of the molecules, shape (n_rows + 1,).
        elements: atomic numbers that make the columns, in this order.

    Returns:
        counts of shape (n_rows, n_elements).

    Raises:
        InputError: a molecule holds an element outside ``elements``.
    """
    atomic_numbers = np.asarray(atomic_numbers, dtype=np.int64)
    ptr = np.asarray(ptr, dtype=np.int64)
    n_rows, n_elements = len(ptr) - 1, len(elements)
    column_of = np.full(256, -1, dtype=np.int64)
    column_of[np.asarray(elements, dtype=np.int64)] = np.arange(n_elements)
    columns = column_of[atomic_numbers]
    rows = np.repeat(np.arange(n_rows), np.diff(ptr))
    if (columns < 0).any():
        first = int(np.argmax(columns < 0))
        raise InputError(
            f"element {symbol(int(atomic_numbers[first]))} in molecule {int(rows[first])}: expected only "
            f"{', '.join(symbols(elements))}; remove such molecules or extend `elements`"
        )
    flat = np.bincount(rows * n_elements + columns, minlength=n_rows * n_elements)
    return flat.reshape(n_rows, n_elements).astype(np.int64)
