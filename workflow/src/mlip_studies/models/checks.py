"""Checks of molecules on the host, before they reach a model.

A model sees tensors on a device and cannot stop without waiting for it; so whatever a user can get wrong is found here,
once per molecule, with one line that names the molecule and its atoms. An atom without neighbours is no mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist, squareform

from mlip_studies.elements import symbols
from mlip_studies.errors import InputError

#: Å. Atoms closer than this are the same atom twice: bonds and collisions stay above 0.1 Å, while single precision
#: still resolves the direction between two atoms 1e-3 Å apart (positions of 10 Å have steps of 1e-6 Å).
MIN_DISTANCE = 1e-3
#: up to this many atoms all distances are computed, a tree is searched above
_DENSE_ATOMS = 200
#: numbers of coordinates that :func:`check_molecules` holds at a time
_CHUNK = 4_000_000


def _label(index: int | None, name: str | None) -> str:
    words = ["molecule"] + ([] if index is None else [str(index)]) + ([] if not name else [f"({name})"])
    return " ".join(words)


def _listed(values: Sequence[int] | NDArray[np.integer], most: int = 5) -> str:
    shown = ", ".join(str(int(value)) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")


def check_elements(
    numbers: NDArray[np.integer], elements: Iterable[int], index: int | None = None, name: str | None = None
) -> None:
    """Stop if a molecule of atomic numbers (n_atoms,) has an element that is not among ``elements``.

    Raises:
        InputError: names the atoms and the known elements.
    """
    elements = sorted(int(z) for z in elements)
    foreign = np.flatnonzero(~np.isin(numbers, elements))
    if len(foreign):
        kinds = sorted({int(numbers[i]) for i in foreign})
        known = [z for z in kinds if 1 <= z <= 118]
        unknown = symbols(known) + [f"atomic number {z}" for z in kinds if z not in known]
        raise InputError(
            f"{_label(index, name)}: unknown element {', '.join(unknown)} (atoms {_listed(foreign)}); the model knows "
            f"{', '.join(symbols(elements))}"
        )


def check_positions(
    positions: NDArray[np.floating],
    index: int | None = None,
    name: str | None = None,
    min_distance: float = MIN_DISTANCE,
) -> None:
    """Stop if positions (n, 3), Å, are not finite or two atoms coincide.

    Raises:
        InputError: names the atoms.
    """
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise InputError(
            f"{_label(index, name)}: positions of atoms {_listed(bad)} are not finite numbers (NaN or inf)"
        )
    if len(positions) < 2:
        return
    if len(positions) <= _DENSE_ATOMS:
        distances = pdist(positions)
        if distances.min() >= min_distance:
            return
        i, j = np.argwhere(np.triu(squareform(distances) < min_distance, 1))[0]
    else:
        # The tree includes the distance itself, so look a little nearer.
        pairs = cKDTree(positions).query_pairs(np.nextafter(min_distance, 0.0), output_type="ndarray")
        if len(pairs) == 0:
            return
        i, j = min(tuple(sorted(pair)) for pair in pairs.tolist())
    distance = float(np.linalg.norm(positions[i] - positions[j]))
    raise InputError(
        f"{_label(index, name)}: atoms {i} and {j} coincide ({distance:.2g} Å apart); expected at least "
        f"{min_distance:g} Å"
    )


def count_edges(positions: NDArray[np.floating], cutoff: float | None) -> int:
    """Number of directed edges within ``cutoff`` (Å) among positions (n, 3); all pairs if it is None."""
    n = len(positions)
    if cutoff is None:
        return n * (n - 1)
    if n <= _DENSE_ATOMS:
        return 2 * int(np.count_nonzero(pdist(positions) <= cutoff)) if n > 1 else 0
    tree = cKDTree(positions)
    return int(tree.count_neighbors(tree, cutoff)) - n


def check_molecule(
    numbers: ArrayLike,
    positions: ArrayLike,
    elements: Iterable[int] | None = None,
    *,
    index: int | None = None,
    name: str | None = None,
    cutoff: float | None = None,
    max_atoms: int | None = None,
    max_edges: int | None = None,
    min_distance: float = MIN_DISTANCE,
) -> None:
    """Stop if a molecule cannot be evaluated.

    Args:
        numbers: atomic numbers, shape (n,).
        positions: shape (n, 3), Å.
        elements: atomic numbers that the model knows; any if None.
        index: number of the molecule, for the message.
        name: name of the molecule, for the message.
        cutoff: of the edges that ``max_edges`` counts, Å; None: all pairs.
        max_atoms: largest number of atoms of a molecule.
        max_edges: largest number of directed edges of a molecule.
        min_distance: atoms closer than this coincide, Å.

    Raises:
        InputError: no atoms, shapes that do not fit, positions that are not finite, an unknown element, coincident
            atoms, or a molecule beyond the limits.
    """
    numbers, positions = np.asarray(numbers), np.asarray(positions)
    label = _label(index, name)
    if numbers.ndim != 1 or positions.shape != (len(numbers), 3):
        raise InputError(
            f"{label}: atomic numbers of shape {numbers.shape} and positions of shape {positions.shape}; expected (n,) "
            "and (n, 3)"
        )
    if len(numbers) == 0:
        raise InputError(f"{label}: no atoms; expected at least one")
    if elements is not None:
        check_elements(numbers, elements, index, name)
    if max_atoms is not None and len(numbers) > max_atoms:
        raise InputError(f"{label}: {len(numbers)} atoms, more than the limit of {max_atoms} for one molecule")
    check_positions(positions.astype(np.float64, copy=False), index, name, min_distance)
    if max_edges is not None and (edges := count_edges(positions, cutoff)) > max_edges:
        within = "" if cutoff is None else f" within {cutoff:g} Å"
        raise InputError(f"{label}: {edges} edges{within}, more than the limit of {max_edges} for one molecule")


def check_molecules(
    numbers: ArrayLike,
    positions: ArrayLike,
    ptr: ArrayLike,
    elements: Iterable[int] | None = None,
    *,
    max_atoms: int | None = None,
    max_edges: int | None = None,
    cutoff: float | None = None,
    min_distance: float = MIN_DISTANCE,
) -> None:
    """:func:`check_molecule` for a whole data set; stops at the first molecule (of its size) that fails.

    Molecules of the same size are looked at together, a few million coordinates at a time.

    Args:
        numbers: atomic numbers of all molecules, shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        ptr: first atom of each molecule, shape (n_molecules + 1,).
        elements: atomic numbers that the model knows; any if None.
        max_atoms: largest number of atoms of a molecule.
        max_edges: largest number of directed edges of a molecule.
        cutoff: of the edges that ``max_edges`` counts, Å; None: all pairs.
        min_distance: atoms closer than this coincide, Å.

    Raises:
        InputError: as :func:`check_molecule`, naming the molecule's number.
    """
    numbers, positions, ptr = np.asarray(numbers), np.asarray(positions), np.asarray(ptr, dtype=np.int64)
    counts = np.diff(ptr)
    if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(numbers) or (counts < 0).any() or len(positions) != len(numbers):
        raise InputError(
            f"{len(numbers)} atomic numbers, positions of shape {positions.shape} and molecules that end at atom "
            f"{int(ptr[-1]) if len(ptr) else 0}; expected arrays that belong together"
        )
    suspects = counts == 0
    if elements is not None:
        allowed = np.isin(numbers, sorted(elements))
        suspects |= _any(~allowed, ptr)
    if max_atoms is not None:
        suspects |= counts > max_atoms
    suspects |= _any(~np.isfinite(positions).all(axis=1), ptr)
    for n in np.unique(counts[~suspects]):
        rows = np.flatnonzero((counts == n) & ~suspects)
        step = max(1, _CHUNK // (3 * int(n)))
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            suspects[chosen] |= _suspicious(positions, ptr[chosen], int(n), min_distance, cutoff, max_edges)
    # The one that is at fault is checked alone, for the message.
    for row in np.flatnonzero(suspects):
        atoms = slice(ptr[row], ptr[row + 1])
        check_molecule(
            numbers[atoms],
            positions[atoms],
            elements,
            index=int(row),
            cutoff=cutoff,
            max_atoms=max_atoms,
            max_edges=max_edges,
            min_distance=min_distance,
        )


def _any(flags: NDArray[np.bool_], ptr: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether any atom of each molecule is flagged, shape (n_molecules,)."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[ptr[1:]] > total[ptr[:-1]]


def _suspicious(
    positions: NDArray[np.floating],
    first: NDArray[np.int64],
    n: int,
    min_distance: float,
    cutoff: float | None,
    max_edges: int | None,
) -> NDArray[np.bool_]:
    """Whether molecules of n atoms have coincident atoms or too many edges, shape (len(first),)."""
    x = positions[first[:, None] + np.arange(n)].astype(np.float64, copy=False)
    close = np.zeros(len(first), dtype=bool)
    edges = np.zeros(len(first), dtype=np.int64)
    # All pairs as atom k with atom k + s (mod n); for even n the last turn meets each pair twice.
    for s in range(1, n // 2 + 1):
        squared = np.square(x - np.roll(x, -s, axis=1)).sum(axis=2)
        if 2 * s == n:
            squared = squared[:, :s]
        close |= (squared < min_distance**2).any(axis=1)
        if max_edges is not None:
            edges += 2 * (squared.shape[1] if cutoff is None else np.count_nonzero(squared <= cutoff**2, axis=1))
    return close if max_edges is None else close | (edges > max_edges)
