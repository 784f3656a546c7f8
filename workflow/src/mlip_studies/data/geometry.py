"""Geometry keys: which structures are the same up to rotation, translation, reflection and permutation.

The key is the list of interatomic distances, sorted within every pair of elements. Two structures with equal keys
within the tolerance count as the same geometry (mirror images too: they have the same energy).

Millions of rows are compared by a few projections of the keys first: if two keys differ by at most the tolerance in
every entry, so does any weighted mean of their entries. What the projections cannot tell apart is compared in full.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.spatial import cKDTree

from mlip_studies.data.store import Block, Rows, Store

# Largest deviation between sorted distances (Å) at which two structures count as one.
TOLERANCE_ANGSTROM = 1e-3
# Projections per row, and bytes of the largest array of distances at a time.
_PROJECTIONS = 6
_DISTANCE_BYTES = 1 << 24
_QUERIES = 1 << 17


class _Pairs:
    """The pairs of atoms of a molecule, ordered by their elements."""

    def __init__(self, atomic_numbers: NDArray[np.integer]) -> None:
        z = np.asarray(atomic_numbers, dtype=np.int64)
        i, j = np.triu_indices(len(z), 1)
        pair = np.minimum(z[i], z[j]) * 256 + np.maximum(z[i], z[j])
        order = np.argsort(pair, kind="stable")
        self.i, self.j, pair = i[order], j[order], pair[order]
        edges = np.flatnonzero(np.diff(pair, prepend=-1, append=-1))
        # What has one entry is sorted.
        self._runs = [(low, high) for low, high in itertools.pairwise(edges.tolist()) if high - low > 1]

    def __len__(self) -> int:
        return len(self.i)

    def parts(self, n_frames: int, dtype: DTypeLike) -> Iterator[slice]:
        """Stretches of frames whose distances take little memory."""
        size = max(1, _DISTANCE_BYTES // (max(1, len(self)) * np.dtype(dtype).itemsize))
        for first in range(0, n_frames, size):
            yield slice(first, min(first + size, n_frames))

    def distances(self, frames: NDArray[np.floating], dtype: DTypeLike) -> NDArray[np.floating]:
        """Sorted distances (n_frames, n_pairs) in Å of positions (n_frames, n_atoms, 3) in Å."""
        total = np.zeros((len(frames), len(self)), dtype=dtype)
        # Relative to an atom single precision loses nothing that matters, wherever the molecule is.
        origin = frames[:, :1].astype(np.float64)
        for axis in range(3):
            x = (frames[:, :, axis] - origin[:, :, axis]).astype(dtype, copy=False)
            step = x.take(self.i, axis=1)
            step -= x.take(self.j, axis=1)
            step *= step
            total += step
        np.sqrt(total, out=total)
        for low, high in self._runs:
            total[:, low:high].sort(axis=1)
        return total


def distance_descriptor(positions: NDArray[np.floating], atomic_numbers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sorted distances per pair of elements.

    Args:
        positions: shape (n_frames, n_atoms, 3) or (n_atoms, 3), Å.
        atomic_numbers: shape (n_atoms,).

    Returns:
        shape (n_frames, n_atoms (n_atoms - 1) / 2), Å; element pairs in ascending order of their atomic numbers.
    """
    frames = np.asarray(positions)
    if frames.ndim == 2:
        frames = frames[None]
    pairs = _Pairs(atomic_numbers)
    result = np.empty((len(frames), len(pairs)))
    for part in pairs.parts(len(frames), np.float64):
        result[part] = pairs.distances(frames[part], np.float64)
    return result


@dataclass(frozen=True)
class _SameAtoms:
    """Rows with the same composition, their atoms ordered by element.

    Attributes:
        atomic_numbers: ascending, shape (n_atoms,).
        index: which rows these are, shape (n,).
        atoms: where their atoms are, in this order, shape (n, n_atoms).
    """

    atomic_numbers: NDArray[np.uint8]
    index: NDArray[np.int64]
    atoms: NDArray[np.int64]

    @property
    def composition(self) -> bytes:
        """Key of the composition."""
        return self.atomic_numbers.tobytes()


def _by_composition(rows: Rows) -> Iterator[_SameAtoms]:
    """The rows, filed under their composition."""
    numbers = np.asarray(rows.atomic_numbers, dtype=np.uint8)
    n_atoms = rows.n_atoms
    for count in np.unique(n_atoms).tolist():
        index = np.flatnonzero(n_atoms == count)
        atoms = rows.ptr[index][:, None] + np.arange(count)
        z = numbers[atoms]
        # Neighboring rows mostly are of one molecule, so its order of atoms is found once.
        new = np.ones(len(z), dtype=np.bool_)
        new[1:] = (z[1:] != z[:-1]).any(axis=1)
        run = np.cumsum(new) - 1
        order = np.argsort(z[new], axis=1, kind="stable")
        ordered = np.ascontiguousarray(np.take_along_axis(z[new], order, axis=1))
        if count == 0:
            yield _SameAtoms(numbers[:0], index, atoms)
            continue
        _, first, kind = np.unique(ordered.view(f"V{count}")[:, 0], return_index=True, return_inverse=True)
        atoms = np.take_along_axis(atoms, order[run], axis=1)
        kinds = kind[run]
        by_kind = np.argsort(kinds, kind="stable")
        edges = np.searchsorted(kinds[by_kind], np.arange(len(first) + 1))
        for number, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
            members = by_kind[low:high]
            yield _SameAtoms(ordered[first[number]], index[members], atoms[members])


class GeometryIndex:
    """Look-up of geometries: one search tree per composition.

    It keeps all sorted distances; :func:`shared_geometries` compares millions of rows.

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
        for same in _by_composition(rows):
            descriptors = distance_descriptor(rows.positions[same.atoms], same.atomic_numbers)
            self._add(same.composition, descriptors, same.index)

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
        for same in _by_composition(rows):
            descriptors = distance_descriptor(rows.positions[same.atoms], same.atomic_numbers)
            result[same.index] = self._match(same.composition, descriptors)
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


class _Projections:
    """Means of a few groups of a key's entries: if all entries of two keys agree within a tolerance, so do these."""

    def __init__(self, composition: bytes) -> None:
        self.pairs = _Pairs(np.frombuffer(composition, dtype=np.uint8))
        n = len(self.pairs)
        # Groups that don't overlap, with signs, vary more independently of each other than random weights do.
        rng = np.random.default_rng(n)
        group = rng.permutation(n) % _PROJECTIONS
        sign = rng.choice([-1.0, 1.0], n)
        size = np.bincount(group, minlength=_PROJECTIONS)
        self._weights = np.zeros((n, _PROJECTIONS), dtype=np.float32)
        self._weights[np.arange(n), group] = sign / size[group]

    def of(self, positions: NDArray[np.floating], atoms: NDArray[np.int64]) -> NDArray[np.float32]:
        """Projections (n, 6) in Å of rows whose atoms are at ``atoms`` (n, n_atoms) of positions (·, 3) in Å."""
        result = np.empty((len(atoms), _PROJECTIONS), dtype=np.float32)
        for part in self.pairs.parts(len(atoms), np.float32):
            result[part] = self.pairs.distances(positions[atoms[part]], np.float32) @ self._weights
        return result


class _Keys:
    """Compositions and projections of some rows of a store, filed under their composition."""

    def __init__(self, store: Store, rows: NDArray[np.int64], chunk_rows: int) -> None:
        self._store = store
        # In file order a chunk is one stretch of the file.
        self.order = np.argsort(rows, kind="stable")
        self.rows = rows[self.order]
        self._chunk_rows = chunk_rows
        self.kind = np.empty(len(rows), dtype=np.int32)
        self._kinds: dict[bytes, int] = {}
        for first, chunk in self._chunks(positions=False):
            for same in _by_composition(chunk):
                self.kind[first + same.index] = self._kinds.setdefault(same.composition, len(self._kinds))
        self.extent = 0.0

    def _chunks(self, positions: bool) -> Iterator[tuple[int, Rows]]:
        options = {"positions": positions, "fidelities": [], "forces": False}
        for number, chunk in enumerate(self._store.iter_chunks(self._chunk_rows, self.rows, **options)):
            yield number * self._chunk_rows, chunk

    @property
    def compositions(self) -> set[bytes]:
        """Compositions that occur."""
        return set(self._kinds)

    def project(self, projections: dict[bytes, _Projections]) -> None:
        """Compute the projections of the rows of these compositions, and forget the other rows."""
        keep = np.isin(self.kind, [self._kinds[composition] for composition in projections])
        self.rows, self.order, self.kind = self.rows[keep], self.order[keep], self.kind[keep]
        self._points = np.empty((len(self.rows), _PROJECTIONS), dtype=np.float32)
        for first, chunk in self._chunks(positions=True):
            self.extent = max(self.extent, _extent(chunk))
            for same in _by_composition(chunk):
                found = projections[same.composition].of(chunk.positions, same.atoms)
                self._points[first + same.index] = found
        self._by_kind = np.argsort(self.kind, kind="stable")
        self._edges = np.searchsorted(self.kind[self._by_kind], np.arange(len(self._kinds) + 1))

    def of(self, composition: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places in ``rows`` and projections of the rows of a composition."""
        kind = self._kinds[composition]
        members = self._by_kind[self._edges[kind] : self._edges[kind + 1]]
        return members, self._points[members]


def _extent(rows: Rows) -> float:
    """A bound of the distances in some rows, Å."""
    if len(rows.positions) == 0:
        return 0.0
    first = rows.ptr[:-1][rows.n_atoms > 0]
    size = np.maximum.reduceat(rows.positions, first) - np.minimum.reduceat(rows.positions, first)
    return float(np.linalg.norm(size.astype(np.float64), axis=1).max())


def shared_geometries(
    store: Store,
    rows_a: ArrayLike,
    rows_b: ArrayLike,
    tolerance: float = TOLERANCE_ANGSTROM,
    chunk_rows: int = 20_000,
) -> NDArray[np.int64]:
    """For every row of ``rows_b`` a row of ``rows_a`` with an equal geometry.

    Positions are read three times at most, ``chunk_rows`` rows at a time; per row of either side about 50 bytes are
    kept, and for the most frequent composition a search tree.

    Args:
        store: the data.
        rows_a: row numbers to search, shape (n_a,).
        rows_b: row numbers to look up, shape (n_b,).
        tolerance: largest deviation of any sorted distance, Å.
        chunk_rows: rows in memory at a time.

    Returns:
        row numbers of the store out of ``rows_a``, -1 where there is none; shape (n_b,). A row that is in both finds
        itself.
    """
    a = np.unique(np.asarray(rows_a, dtype=np.int64))
    b = np.asarray(rows_b, dtype=np.int64)
    result = np.full(len(b), -1, dtype=np.int64)
    if len(a) == 0 or len(b) == 0:
        return result
    same = a[np.minimum(np.searchsorted(a, b), len(a) - 1)] == b
    result[same] = b[same]
    open_b = np.flatnonzero(~same)
    if len(open_b) == 0:
        return result
    keys_a, keys_b = _Keys(store, a, chunk_rows), _Keys(store, b[open_b], chunk_rows)
    projections = {composition: _Projections(composition) for composition in keys_a.compositions & keys_b.compositions}
    if not projections:
        return result
    keys_a.project(projections)
    keys_b.project(projections)
    # Rounding of the single-precision distances and of their means must not hide a match.
    margin = 32 * float(np.finfo(np.float32).eps) * max(keys_a.extent, keys_b.extent)
    for composition, projection in projections.items():
        places_a, points_a = keys_a.of(composition)
        places_b, points_b = keys_b.of(composition)
        if len(projection.pairs) == 0:
            # Single atoms of an element have no distances: they are all the same geometry.
            result[open_b[keys_b.order[places_b]]] = keys_a.rows[places_a[0]]
            continue
        tree = cKDTree(points_a, balanced_tree=False, compact_nodes=False)
        compare = _Comparison(store, projection.pairs, len(composition), chunk_rows, tolerance)
        for first in range(0, len(places_b), _QUERIES):
            part = places_b[first : first + _QUERIES]
            found = _search(
                tree,
                points_b[first : first + _QUERIES],
                keys_a.rows[places_a],
                keys_b.rows[part],
                tolerance + margin,
                compare,
            )
            result[open_b[keys_b.order[part]]] = found
    return result


def _search(
    tree: cKDTree,
    points: NDArray[np.float32],
    rows_a: NDArray[np.int64],
    rows_b: NDArray[np.int64],
    bound: float,
    compare: _Comparison,
) -> NDArray[np.int64]:
    """Rows of the tree that equal ``rows_b``: candidates in the order of their distance, until one is equal in full."""
    result = np.full(len(rows_b), -1, dtype=np.int64)
    pending = np.arange(len(rows_b))
    low, high = 1, 2
    while len(pending) and low <= tree.n:
        _, nearest = tree.query(points[pending], k=list(range(low, high)), p=np.inf, distance_upper_bound=bound)
        near = nearest < tree.n
        which, column = np.nonzero(near)
        equal = compare(rows_a[nearest[which, column]], rows_b[pending[which]])
        # The first of several wins, because later ones are assigned before.
        result[pending[which[equal][::-1]]] = rows_a[nearest[which, column][equal][::-1]]
        pending = pending[near[:, -1] & (result[pending] < 0)]
        low, high = high, min(2 * high, high + 64)
    return result


class _Comparison:
    """Compares rows of one composition in full."""

    def __init__(self, store: Store, pairs: _Pairs, n_atoms: int, chunk_rows: int, tolerance: float) -> None:
        self._store = store
        self._pairs = pairs
        self._n_atoms = n_atoms
        self._chunk_rows = chunk_rows
        self._tolerance = tolerance

    def __call__(self, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether rows ``rows_a`` and ``rows_b`` (n,) are equal pair by pair; shape (n,)."""
        result = np.empty(len(rows_a), dtype=np.bool_)
        for first in range(0, len(rows_a), self._chunk_rows):
            part = slice(first, first + self._chunk_rows)
            a, b = self._positions(rows_a[part]), self._positions(rows_b[part])
            for some in self._pairs.parts(len(a), np.float64):
                difference = self._pairs.distances(a[some], np.float64) - self._pairs.distances(b[some], np.float64)
                result[part][some] = np.abs(difference).max(axis=1) <= self._tolerance
        return result

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Positions (n, n_atoms, 3) in Å, atoms ordered by element."""
        read = self._store.read(rows, fidelities=[], forces=False)
        numbers = read.atomic_numbers.reshape(len(rows), self._n_atoms)
        order = np.argsort(numbers, axis=1, kind="stable")
        return np.take_along_axis(read.positions.reshape(len(rows), self._n_atoms, 3), order[:, :, None], axis=1)
