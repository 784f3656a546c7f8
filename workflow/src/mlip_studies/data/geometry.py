"""Geometry keys: which structures are the same up to rotation, translation, reflection and permutation.

The key is the list of interatomic distances, sorted within every pair of elements. Two structures with equal keys
within the tolerance count as the same geometry (mirror images too: they have the same energy).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mlip_studies.data.store import Block, Rows

# Largest deviation between sorted distances (Å) at which two structures count as one.
TOLERANCE_ANGSTROM = 1e-3
_FRAMES_AT_ONCE = 8192


def distance_descriptor(positions: NDArray[np.floating], atomic_numbers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sorted distances per pair of elements.

    Args:
        positions: shape (n_frames, n_atoms, 3) or (n_atoms, 3), Å.
        atomic_numbers: shape (n_atoms,).

    Returns:
        shape (n_frames, n_atoms (n_atoms - 1) / 2), Å; element pairs in ascending order of their atomic numbers.
    """
    frames = np.asarray(positions, dtype=np.float64)
    if frames.ndim == 2:
        frames = frames[None]
    z = np.asarray(atomic_numbers, dtype=np.int64)
    i, j = np.triu_indices(len(z), 1)
    pair = np.minimum(z[i], z[j]) * 256 + np.maximum(z[i], z[j])
    by_pair = np.argsort(pair, kind="stable")
    i, j, pair = i[by_pair], j[by_pair], pair[by_pair]
    result = np.empty((len(frames), len(i)))
    edges = np.flatnonzero(np.diff(pair, prepend=-1, append=-1))
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        part = frames[first : first + _FRAMES_AT_ONCE]
        distances = np.linalg.norm(part[:, i] - part[:, j], axis=-1)
        for low, high in itertools.pairwise(edges):
            distances[:, low:high].sort(axis=1)
        result[first : first + _FRAMES_AT_ONCE] = distances
    return result


def _by_composition(rows: Rows) -> dict[bytes, list[tuple[NDArray[np.uint8], NDArray[np.int64]]]]:
    """Indices of rows with the same atoms in the same order, filed under their composition."""
    same_order: dict[bytes, list[int]] = {}
    numbers = np.ascontiguousarray(rows.atomic_numbers, dtype=np.uint8)
    for index in range(len(rows)):
        same_order.setdefault(numbers[rows.ptr[index] : rows.ptr[index + 1]].tobytes(), []).append(index)
    result: dict[bytes, list[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = {}
    for key, indices in same_order.items():
        z = np.frombuffer(key, dtype=np.uint8)
        result.setdefault(bytes(sorted(key)), []).append((z, np.array(indices, dtype=np.int64)))
    return result


def _descriptors(rows: Rows) -> Iterator[tuple[bytes, NDArray[np.int64], NDArray[np.float64]]]:
    """Per composition: indices of the rows and their descriptors."""
    for composition, parts in _by_composition(rows).items():
        indices = np.concatenate([index for _, index in parts])
        values = []
        for z, index in parts:
            atoms = rows.ptr[index][:, None] + np.arange(len(z))
            values.append(distance_descriptor(rows.positions[atoms], z))
        yield composition, indices, np.concatenate(values)


class GeometryIndex:
    """Look-up of geometries: one search tree per composition.

    Args:
        tolerance: largest deviation of any sorted distance, Å.
    """

    def __init__(self, tolerance: float = TOLERANCE_ANGSTROM) -> None:
        self.tolerance = tolerance
        self._points: dict[bytes, list[NDArray[np.float64]]] = {}
        self._labels: dict[bytes, list[NDArray[np.int64]]] = {}
        self._trees: dict[bytes, tuple[cKDTree | None, NDArray[np.int64]]] = {}

    def _add(self, composition: bytes, descriptors: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self._points.setdefault(composition, []).append(descriptors)
        self._labels.setdefault(composition, []).append(labels)
        self._trees.pop(composition, None)

    def add_rows(self, rows: Rows) -> None:
        """Add rows of a store; their labels are 0, 1, … in the given order."""
        for composition, indices, descriptors in _descriptors(rows):
            self._add(composition, descriptors, indices)

    def add_block(self, block: Block) -> None:
        """Add the frames of a block; their labels are the source rows."""
        descriptors = distance_descriptor(block.positions, block.atomic_numbers)
        self._add(bytes(sorted(block.atomic_numbers.tobytes())), descriptors, block.source_rows)

    def _match(self, composition: bytes, descriptors: NDArray[np.float64]) -> NDArray[np.int64]:
        missing = np.full(len(descriptors), -1, dtype=np.int64)
        if composition not in self._points or len(descriptors) == 0:
            return missing
        if composition not in self._trees:
            points = np.concatenate(self._points[composition])
            labels = np.concatenate(self._labels[composition])
            # A single atom has no distances: all of a kind are the same geometry.
            self._trees[composition] = (cKDTree(points) if points.shape[1] else None, labels)
        tree, labels = self._trees[composition]
        if tree is None:
            return np.full(len(descriptors), labels[0], dtype=np.int64)
        # The bound is exclusive; the next larger number makes it inclusive.
        bound = np.nextafter(self.tolerance, np.inf)
        _, nearest = tree.query(descriptors, p=np.inf, distance_upper_bound=bound)
        found = nearest < tree.n
        missing[found] = labels[nearest[found]]
        return missing

    def match_rows(self, rows: Rows) -> NDArray[np.int64]:
        """Label of the nearest equal geometry for every row, -1 where there is none; shape (n_rows,)."""
        result = np.full(len(rows), -1, dtype=np.int64)
        for composition, indices, descriptors in _descriptors(rows):
            result[indices] = self._match(composition, descriptors)
        return result

    def match_block(self, block: Block) -> NDArray[np.int64]:
        """Label of the nearest equal geometry for every frame, -1 where there is none; shape (n_frames,)."""
        descriptors = distance_descriptor(block.positions, block.atomic_numbers)
        return self._match(bytes(sorted(block.atomic_numbers.tobytes())), descriptors)


def find_duplicates(a: Rows, b: Rows, tolerance: float = TOLERANCE_ANGSTROM) -> NDArray[np.int64]:
    """For every row of ``a`` the index in ``b`` of an equal geometry.

    Args:
        a: rows to look up.
        b: rows to find.
        tolerance: largest deviation of any sorted distance, Å.

    Returns:
        index into ``b`` of the nearest match, -1 where there is none; shape (len(a),).
    """
    index = GeometryIndex(tolerance)
    index.add_rows(b)
    return index.match_rows(a)
