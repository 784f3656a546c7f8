"""Named splits of a store: train, validation and test rows, seeded, nested by prefix, with a leakage report.

A split is described by a mapping with a ``kind``:

``random``
    rows at random.
``first_then_random``
    the first rows of the file, then at random among those, as the code of one thesis does.
``groups``
    whole groups (molecules) on one side.
``held_out_groups``
    all rows of the groups that are named are the test set (as the 25 molecules of O. T. Unke et al., SpookyNet,
    Nat. Commun. 12, 7273 (2021)).
``weighted_by_force``
    training rows with a probability proportional to the mean force norm of the row, without replacement; test and
    validation are those of a base split (the highE set of S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010
    (2022)).
``official``
    row numbers that the publisher gives in files.
``file_order``
    the publisher's training rows are the first file of the data set, its test rows the other files.
``test_only``
    no training.

Every part has its own random stream: how many rows one part takes never changes the order of another. Training and
validation sets of several sizes are prefixes of one array, so that the smaller ones are contained in the larger.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, write_text
from mlip_studies.data.geometry import TOLERANCE_ANGSTROM, shared_geometries
from mlip_studies.data.readers.archives import tar_members
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

PARTS = ("train", "val", "test")
PAIRS = (("train", "test"), ("val", "test"), ("train", "val"))
# Where the publisher's row numbers of each part are.
_INDEX = {part: f"{part}_index" for part in PARTS}
# Keys of a description: of every kind, and of each one. Those of the first line are for the reader and the caller.
_COMMON = frozenset({"dataset", "kind", "title", "note", "seed", "fidelity"})
_KEYS: dict[str, frozenset[str]] = {
    "random": frozenset({"train", "val", "test", "exclude_equal_geometries"}),
    "first_then_random": frozenset({"train", "val", "test", "exclude_equal_geometries"}),
    "groups": frozenset({"train", "val", "test", "by", "whole_groups_in_val"}),
    "held_out_groups": frozenset({"train", "val", "groups", "by", "allow_missing", "whole_groups_in_val"}),
    "weighted_by_force": frozenset({"train", "base"}),
    "official": frozenset({"train", "val", *_INDEX.values(), "index_key", "allow_missing", "val_from"}),
    "file_order": frozenset({"official_train", "train", "val", "test"}),
    "test_only": frozenset({"test"}),
}
KINDS = tuple(_KEYS)
# Random streams; the numbers are part of what a seed means.
_TEST, _VAL, _TRAIN = 0, 1, 2
_FORCE_ROWS = 65536


@dataclass(frozen=True)
class NamedSplit:
    """Row numbers of a store, each part in the order in which prefixes are taken.

    Attributes:
        train: the largest training set, shape (train_sizes[-1],).
        val: the largest validation set, shape (val_sizes[-1],).
        test: the test set, shape (n_test,).
        train_sizes: sizes of the nested training sets, ascending; empty if there is no training.
        val_sizes: sizes of the nested validation sets: none, one, or one per training set.
        n_store_rows: rows of the store that was split.
        report: what was asked, found and leaks (JSON-ready).
    """

    train: Rows
    val: Rows
    test: Rows
    train_sizes: tuple[int, ...]
    val_sizes: tuple[int, ...]
    n_store_rows: int
    report: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Rows]:
        """All parts by name, at their largest."""
        return {name: getattr(self, name) for name in PARTS}

    def train_rows(self, size: int | None = None) -> Rows:
        """The training set of ``size`` rows, shape (size,); the largest if None.

        Raises:
            InputError: not one of ``train_sizes``.
        """
        return self._prefix("train", size)

    def val_rows(self, size: int | None = None) -> Rows:
        """The validation set of ``size`` rows, shape (size,); the largest if None.

        Raises:
            InputError: not one of ``val_sizes``.
        """
        return self._prefix("val", size)

    def val_rows_for(self, train_size: int | None = None) -> Rows:
        """The validation set that goes with a training set.

        Raises:
            InputError: not one of ``train_sizes``.
        """
        self._prefix("train", train_size)
        if train_size is None or len(self.val_sizes) < 2:
            return self.val
        return self._prefix("val", self.val_sizes[self.train_sizes.index(train_size)])

    def _prefix(self, part: str, size: int | None) -> Rows:
        rows: Rows = getattr(self, part)
        sizes = getattr(self, f"{part}_sizes")
        if size is None:
            return rows
        if size not in sizes:
            raise InputError(f"split: no {part} set of {size} rows; there is {', '.join(map(str, sizes)) or 'none'}")
        return rows[:size]


def make_split(
    store: Store, spec: Mapping[str, Any], base: NamedSplit | None = None, tolerance: float = TOLERANCE_ANGSTROM
) -> NamedSplit:
    """Split a store.

    Sizes (``train``: a number or an ascending list, ``val``: none, one, or one per training set, ``test``: a number)
    are rows; a number below 1 is a fraction of the rows at hand, rounded down; ``rest`` as the last training size
    takes all that remain. Further keys of ``spec``: ``seed`` (0 by default), ``fidelity`` (only rows with this label;
    all rows by default), and per kind:

    * ``random``, ``first_then_random``: ``exclude_equal_geometries`` (keep rows whose geometry equals that of a test
      row out of the other parts; false by default, as in the papers).
    * ``groups``, ``held_out_groups``: ``by`` (``group`` or the name of a group fact such as ``molecule`` that several
      groups share), ``whole_groups_in_val`` (validation groups are not trained on; true and false by default).
      ``test`` is met as closely as whole groups in random order allow. ``held_out_groups`` takes ``groups`` (names)
      in its place, and with ``allow_missing: true`` passes over names that the store lacks.
    * ``weighted_by_force``: ``train`` only; ``fidelity`` says whose forces (not needed if there is but one).
    * ``official``: ``test_index`` and optionally ``train_index`` and ``val_index`` (files of source row numbers, see
      :func:`read_indices`), ``index_key`` (array in an npz), ``val`` with ``val_from: train | rest`` (drawn from the
      official training rows or from the rows that no file names), ``allow_missing`` (pass over rows that the store
      lacks).
    * ``file_order``: ``official_train`` (leading rows of the store that are the publisher's training part; they must be
      whole files, of which no filter removed a row), ``train`` and ``val`` (disjoint, both out of that part), ``test``
      (``all`` other rows by default).
    * ``test_only``: ``test`` (``all`` by default).

    Args:
        store: the data.
        spec: description of the split.
        base: the split whose test and validation sets ``weighted_by_force`` shares.
        tolerance: of the geometry comparison, Å.

    Returns:
        the split with its report: ``sizes``, ``available``, ``unused``, what the kind has to tell, and ``leakage``
        (see :func:`leakage`).

    Raises:
        InputError: a key that is unknown or of the wrong type, or more rows asked for than exist.
    """
    kind = spec.get("kind")
    if kind not in _KEYS:
        raise InputError(f"split: key 'kind': {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    known = _COMMON | _KEYS[kind]
    if unknown := sorted(set(spec) - known):
        raise InputError(f"split: key {unknown[0]!r} is unknown for kind {kind}; expected {', '.join(sorted(known))}")
    seed = _seed(spec)
    fidelity = spec.get("fidelity")
    pool = np.ones(store.n_rows, dtype=bool) if fidelity is None else store.has_label(fidelity)
    if not pool.any():
        raise InputError(f"{store.path}: no rows with the label {fidelity!r}; there is nothing to split")
    make = {
        "random": _random,
        "first_then_random": _random,
        "groups": _groups,
        "held_out_groups": _held_out_groups,
        "official": _official,
        "file_order": _file_order,
        "test_only": _test_only,
    }
    if kind == "weighted_by_force":
        parts, sizes, details = _weighted_by_force(store, spec, pool, seed, base)
    else:
        parts, sizes, details = make[kind](store, spec, pool, seed, tolerance)
    used = sum(len(rows) for rows in parts.values())
    report = {
        "store": store.path.name,
        "kind": kind,
        "spec": {key: value for key, value in spec.items() if key not in _INDEX.values()},
        "seed": seed,
        "sizes": {name: len(rows) for name, rows in parts.items()},
        "train_sizes": list(sizes["train"]),
        "val_sizes": list(sizes["val"]),
        "available": int(pool.sum()),
        "unused": int(pool.sum()) - used,
        "groups": {name: len(np.unique(store.groups(rows))) for name, rows in parts.items()},
        **details,
        "tolerance_angstrom": tolerance,
        "leakage": leakage(store, parts, tolerance),
    }
    return NamedSplit(
        **parts, train_sizes=sizes["train"], val_sizes=sizes["val"], n_store_rows=store.n_rows, report=report
    )


# ---- sizes ----


def _seed(spec: Mapping[str, Any]) -> int:
    seed = spec.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"split: key 'seed': {seed!r}; expected a whole number, 0 or more")
    return seed


def _flag(spec: Mapping[str, Any], key: str, default: bool) -> bool:
    value = spec.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"split: key {key!r}: {value!r}; expected true or false")
    return value


def _size(value: Any, key: str, available: int) -> int:
    """Rows that one entry of ``train``, ``val`` or ``test`` asks for."""
    wrong = InputError(f"split: key {key!r}: {value!r}; expected a number of rows, or a fraction between 0 and 1")
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer):
        raise wrong
    if isinstance(value, float):
        if 0.0 < value < 1.0:
            # The margin keeps 0.7 of 10 rows at 7, whatever the binary fraction.
            size = int(value * available + 1e-9)
            if size < 1:
                raise InputError(f"split: key {key!r}: {value} of {available} rows is less than one; ask for more")
            return size
        if value <= 1.0 or value != int(value):
            raise wrong
    if value < 1:
        raise wrong
    return int(value)


def _entries(spec: Mapping[str, Any], key: str) -> list[Any]:
    value = spec.get(key)
    if value is None or value == 0 or (isinstance(value, Sequence) and len(value) == 0):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


@dataclass
class _Wanted:
    """Sizes of the training and validation sets; ``rest`` is known when everything else is taken."""

    train: list[int]
    val: list[int]
    rest: bool

    @property
    def n_train(self) -> int:
        return max(self.train, default=0)

    @property
    def n_val(self) -> int:
        return max(self.val, default=0)

    def close(self, n_rest: int, store: Store) -> dict[str, tuple[int, ...]]:
        """All sizes, once ``n_rest`` rows are known to remain for training."""
        if self.rest:
            if n_rest <= self.n_train:
                raise InputError(
                    f"{store.path}: {self.n_train} training rows asked beside the rest, only {n_rest} remain; ask for "
                    "fewer"
                )
            self.train.append(n_rest)
        return {"train": tuple(self.train), "val": tuple(self.val)}


def _wanted(spec: Mapping[str, Any], available: int) -> _Wanted:
    entries = _entries(spec, "train")
    rest = bool(entries) and entries[-1] == "rest"
    sizes = [_size(value, "train", available) for value in (entries[:-1] if rest else entries)]
    val = [_size(value, "val", available) for value in _entries(spec, "val")]
    if any(b <= a for a, b in itertools.pairwise(sizes)):
        raise InputError(
            f"split: key 'train': {sizes} rows; expected ascending sizes, each training set holds the last"
        )
    if any(b < a for a, b in itertools.pairwise(val)):
        raise InputError(f"split: key 'val': {val} rows; expected sizes that do not fall")
    if len(val) > 1 and len(val) != len(entries):
        raise InputError(
            f"split: key 'val': {len(val)} sizes; expected one, or one for each of {len(entries)} in 'train'"
        )
    return _Wanted(sizes, val, rest)


def _enough(store: Store, asked: int, available: int, what: str) -> None:
    if asked > available:
        raise InputError(f"{store.path}: {asked} rows asked ({what}), only {available} available; ask for fewer")


def _stream(seed: int, part: int) -> np.random.Generator:
    return np.random.default_rng([seed, part])


def _shuffled(candidates: Mask, seed: int, part: int) -> Rows:
    """The rows of a mask in the part's random order, which does not depend on which other rows are in the mask."""
    order = _stream(seed, part).permutation(len(candidates)).astype(np.int64, copy=False)
    return order[candidates[order]]


def _split_rest(
    store: Store, free: Mask, wanted: _Wanted, seed: int, already: str
) -> tuple[Rows, Rows, dict[str, tuple[int, ...]]]:
    """Validation and training rows at random out of the free ones."""
    _enough(
        store,
        wanted.n_val + wanted.n_train,
        int(free.sum()),
        f"{wanted.n_val} validation + {wanted.n_train} training{already}",
    )
    val = _shuffled(free, seed, _VAL)[: wanted.n_val]
    left = free.copy()
    left[val] = False
    train = _shuffled(left, seed, _TRAIN)
    sizes = wanted.close(len(train), store)
    return val, train[: max(sizes["train"], default=0)], sizes


# ---- kinds ----

_Made = tuple[dict[str, Rows], dict[str, tuple[int, ...]], dict[str, Any]]


def _parts(train: Rows, val: Rows, test: Rows) -> dict[str, Rows]:
    return {"train": train, "val": val, "test": test}


def _random(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    exclude = _flag(spec, "exclude_equal_geometries", False)
    available = int(pool.sum())
    wanted = _wanted(spec, available)
    n_test = _size(spec.get("test"), "test", available)
    asked = n_test + wanted.n_val + wanted.n_train
    _enough(store, asked, available, f"{n_test} test + {wanted.n_val} validation + {wanted.n_train} training")
    candidates = pool
    if spec["kind"] == "first_then_random":
        if wanted.rest:
            raise InputError("split: key 'train': first_then_random takes a number of rows, not the rest; give sizes")
        candidates = np.zeros_like(pool)
        candidates[np.flatnonzero(pool)[:asked]] = True
    test = _shuffled(candidates, seed, _TEST)[:n_test]
    free = candidates.copy()
    free[test] = False
    removed = 0
    if exclude:
        others = np.flatnonzero(free)
        equal = shared_geometries(store, np.sort(test), others, tolerance=tolerance) >= 0
        removed = int(equal.sum())
        free[others[equal]] = False
    already = f" beside {n_test} test" + (
        f", after removing {removed} with the geometry of a test row" if removed else ""
    )
    val, train, sizes = _split_rest(store, free, wanted, seed, already)
    details = {"exclude_equal_geometries": exclude, "removed": {"equal_to_test": removed}}
    return _parts(train, val, test), sizes, details


def _keys(store: Store, by: Any) -> tuple[NDArray[np.int64], list[str]]:
    """What must stay together: key per row, shape (n_rows,), and the names of the keys."""
    groups = store.groups().astype(np.int64)
    if by == "group":
        return groups, list(store.group_names)
    if by not in store.info_names:
        raise InputError(
            f"{store.path}: split: key 'by': no group fact {by!r}; expected one of "
            f"{', '.join(['group', *store.info_names])}"
        )
    values = list(store.group_info(by))
    number = {name: index for index, name in enumerate(dict.fromkeys(values))}
    key_of_group = np.array([number[name] for name in values], dtype=np.int64)
    return key_of_group[groups], list(number)


def closest_groups(counts: NDArray[np.integer], target: int) -> NDArray[np.bool_]:
    """Pick groups so that their rows come close to a target.

    Groups are taken in the given order as long as they fit. Then the smallest of the others is added if that brings
    the total nearer to the target (or if nothing fitted), so that the total is off by at most half of that group.

    Args:
        counts: rows of each group, at least 1, shape (n_groups,).
        target: rows wanted.

    Returns:
        which groups are taken, shape (n_groups,).
    """
    taken = np.zeros(len(counts), dtype=bool)
    missing = target
    for index, count in enumerate(counts.tolist()):
        if count <= missing:
            taken[index] = True
            missing -= count
        if missing == 0:
            break
    others = np.flatnonzero(~taken)
    if len(others) and missing:
        smallest = int(others[np.argmin(counts[others])])
        taken[smallest] = counts[smallest] - missing < missing or not taken.any()
    return taken


def _group_rest(
    store: Store, spec: Mapping[str, Any], free: Mask, key: Rows, wanted: _Wanted, seed: int, whole: bool, already: str
) -> tuple[Rows, Rows, dict[str, tuple[int, ...]], dict[str, Any]]:
    """Validation and training rows out of the free ones; validation groups are not trained on if ``whole``."""
    if not whole or not wanted.n_val:
        val, train, sizes = _split_rest(store, free, wanted, seed, already)
        return val, train, sizes, {"whole_groups_in_val": whole}
    counts = np.bincount(key[free], minlength=int(key.max()) + 1)
    order = _stream(seed, _VAL).permutation(len(counts))
    order = order[counts[order] > 0]
    # Enough groups for the largest validation set; rows beyond it stay unused, so that the sizes are exact.
    n_taken = int(np.searchsorted(np.cumsum(counts[order]), wanted.n_val)) + 1
    _enough(store, wanted.n_val, int(free.sum()), f"{wanted.n_val} validation{already}")
    reserved = free & np.isin(key, order[:n_taken])
    left = free & ~reserved
    _enough(
        store,
        wanted.n_train,
        int(left.sum()),
        f"{wanted.n_train} training{already} and {n_taken} whole groups ({int(reserved.sum())} rows) for validation",
    )
    val = _shuffled(reserved, seed, _VAL)[: wanted.n_val]
    train = _shuffled(left, seed, _TRAIN)
    sizes = wanted.close(len(train), store)
    details = {"whole_groups_in_val": True, "val_groups": n_taken, "val_rows_in_groups": int(reserved.sum())}
    return val, train[: max(sizes["train"], default=0)], sizes, details


def _groups(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    by = spec.get("by", "group")
    key, names = _keys(store, by)
    available = int(pool.sum())
    wanted = _wanted(spec, available)
    target = _size(spec.get("test"), "test", available)
    _enough(
        store,
        target + wanted.n_val + wanted.n_train,
        available,
        f"{target} test + {wanted.n_val} validation + {wanted.n_train} training",
    )
    counts = np.bincount(key[pool], minlength=len(names))
    order = _stream(seed, _TEST).permutation(len(names))
    order = order[counts[order] > 0]
    taken = order[closest_groups(counts[order], target)]
    in_test = pool & np.isin(key, taken)
    already = f" beside {int(in_test.sum())} test in {len(taken)} whole groups"
    whole = _flag(spec, "whole_groups_in_val", True)
    val, train, sizes, more = _group_rest(store, spec, pool & ~in_test, key, wanted, seed, whole, already)
    details = {
        "by": by,
        "n_groups": len(order),
        "test": {"asked": target, "got": int(in_test.sum()), "groups": sorted(names[k] for k in taken)[:200]},
        **more,
    }
    return _parts(train, val, _shuffled(in_test, seed, _TEST)), sizes, details


def _held_out_groups(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    by = spec.get("by", "group")
    asked = spec.get("groups")
    if not isinstance(asked, list | tuple) or not asked:
        raise InputError("split: key 'groups': expected a list of the names of the groups that are held out")
    asked = list(dict.fromkeys(str(name) for name in asked))
    key, names = _keys(store, by)
    index = {name: number for number, name in enumerate(names)}
    counts = np.bincount(key[pool], minlength=len(names))
    missing = [name for name in asked if name not in index or counts[index[name]] == 0]
    found = [name for name in asked if name not in missing]
    if missing and (not _flag(spec, "allow_missing", False) or not found):
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise InputError(
            f"{store.path}: split: key 'groups': {len(missing)} of {len(asked)} are not in this store: {shown}; it "
            f"holds {len(names)} such as {', '.join(names[:3])}"
        )
    in_test = pool & np.isin(key, [index[name] for name in found])
    available = int((pool & ~in_test).sum())
    wanted = _wanted(spec, available)
    already = f" beside {int(in_test.sum())} test in {len(found)} named groups"
    whole = _flag(spec, "whole_groups_in_val", False)
    val, train, sizes, more = _group_rest(store, spec, pool & ~in_test, key, wanted, seed, whole, already)
    details = {
        "by": by,
        "test": {"asked_groups": len(asked), "groups": found, "missing_groups": missing, "got": int(in_test.sum())},
        **more,
    }
    return _parts(train, val, _shuffled(in_test, seed, _TEST)), sizes, details


def weighted_order(
    chunks: Iterable[tuple[Rows, NDArray[np.float64]]], n: int, random: np.random.Generator
) -> tuple[Rows, NDArray[np.float64]]:
    """Draw without replacement with probabilities proportional to weights, in one pass.

    Each row gets the exponential variate -ln(u)/w; the rows with the n smallest, in ascending order, are distributed
    as n successive draws (P. S. Efraimidis and P. G. Spirakis, Inf. Process. Lett. 97, 181 (2006)). Every row uses one
    number of the stream, also where its weight is zero, so the sizes of the chunks do not matter.

    Args:
        chunks: pairs of row numbers and weights, each of shape (n_chunk,); weights that are zero or NaN are never
            drawn.
        n: rows to draw.
        random: the stream.

    Returns:
        rows in the order of the draws and their weights, shape (min(n, rows with a weight),).
    """
    rows = np.zeros(0, dtype=np.int64)
    keys, weights = np.zeros(0), np.zeros(0)
    for chunk_rows, chunk_weights in chunks:
        exponential = random.standard_exponential(len(chunk_rows), method="inv")
        drawn = chunk_weights > 0
        keys = np.concatenate([keys, exponential[drawn] / chunk_weights[drawn]])
        rows = np.concatenate([rows, chunk_rows[drawn]])
        weights = np.concatenate([weights, chunk_weights[drawn]])
        if len(keys) > n:
            best = np.argpartition(keys, n - 1)[:n] if n else np.zeros(0, dtype=np.int64)
            keys, rows, weights = keys[best], rows[best], weights[best]
    order = np.argsort(keys, kind="stable")
    return rows[order], weights[order]


def mean_force_norms(store: Store, fidelity: str, chunk_rows: int = _FORCE_ROWS) -> Iterator[NDArray[np.float64]]:
    """Mean over the atoms of the norm of the force, per row, in file order.

    Args:
        store: the data.
        fidelity: whose forces.
        chunk_rows: rows in memory at a time.

    Yields:
        arrays of shape (n_chunk,), eV/Å, NaN where there is no label.

    Raises:
        InputError: the store has no forces of this fidelity.
    """
    for first in range(0, store.n_rows, chunk_rows):
        rows = np.arange(first, min(first + chunk_rows, store.n_rows))
        part = store.read(rows, positions=False, fidelities=[], forces=[fidelity])
        forces = part.forces[fidelity]
        norms = np.sqrt(np.einsum("ij,ij->i", forces, forces, dtype=np.float64))
        yield np.add.reduceat(norms, part.ptr[:-1]) / part.n_atoms


def _weighted_by_force(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, base: NamedSplit | None) -> _Made:
    if base is None:
        raise InputError("split: kind weighted_by_force needs a base split, whose test and validation sets it shares")
    if base.n_store_rows != store.n_rows:
        raise InputError(
            f"{store.path}: has {store.n_rows} rows, the base split was made for {base.n_store_rows}; make it again"
        )
    fidelity = spec.get("fidelity")
    if fidelity is None:
        if len(store.force_fidelities) != 1:
            raise InputError(
                f"{store.path}: split: key 'fidelity' is missing; say whose forces weigh the rows "
                f"({', '.join(store.force_fidelities) or 'this store has none'})"
            )
        fidelity = store.force_fidelities[0]
    free = pool.copy()
    free[base.test] = False
    free[base.val] = False
    wanted = _wanted(spec, int(free.sum()))
    if wanted.rest or not wanted.train:
        raise InputError("split: key 'train': weighted_by_force needs numbers of rows")
    n_free = n_without = 0
    total = 0.0

    def chunks() -> Iterator[tuple[Rows, NDArray[np.float64]]]:
        nonlocal n_free, n_without, total
        first = 0
        for norms in mean_force_norms(store, fidelity):
            rows = np.arange(first, first + len(norms), dtype=np.int64)
            first += len(norms)
            # Rows that may not be drawn weigh nothing but keep their random number.
            weights = np.where(free[rows], np.nan_to_num(norms, nan=0.0), 0.0)
            n_free += int((weights > 0).sum())
            n_without += int((free[rows] & ~(weights > 0)).sum())
            total += float(weights.sum())
            yield rows, weights

    train, weights = weighted_order(chunks(), wanted.n_train, _stream(seed, _TRAIN))
    _enough(
        store, wanted.n_train, n_free, f"{wanted.n_train} training with forces outside test and validation of the base"
    )
    # Validation sets go with the training sets if there are as many; otherwise the largest serves all.
    val_sizes = base.val_sizes if len(base.val_sizes) == len(wanted.train) else base.val_sizes[-1:]
    val = base.val[: max(val_sizes, default=0)]
    details = {
        "weights": {
            "quantity": "mean force norm of the row (eV/angstrom)",
            "fidelity": fidelity,
            "rows_to_draw_from": n_free,
            "rows_without_forces": n_without,
            "mean_of_all": total / n_free if n_free else None,
            "mean_of_drawn": float(weights.mean()),
        },
        "in_training_set_of_base": int(np.isin(train, base.train).sum()),
    }
    return _parts(train, val, base.test), {"train": tuple(wanted.train), "val": tuple(val_sizes)}, details


def read_indices(path: PathLike, key: str | None = None) -> Rows:
    """Row numbers out of a file: csv or txt (one number per line), npy, or npz with the array ``key``.

    Args:
        path: the file; ``archive#member`` takes a file out of a (compressed) tar archive.
        key: name of the array in an npz.

    Returns:
        shape (n,).

    Raises:
        InputError: missing, or not such a file.
    """
    expected = "row numbers (csv or txt with one per line, npy, or npz)"
    name, _, member = str(path).partition("#")
    if Path(path).is_file() or not member:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; expected {expected}")
        content = Path(path).read_bytes()
    else:
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file; expected an archive with {member}")
        for found, stream in tar_members(Path(name), f"an archive with {member}"):
            if found.removeprefix("./") == member:
                content = stream.read()
                break
        else:
            raise InputError(f"{name}: no member {member}; expected {expected} there")
    try:
        if str(path).endswith(".npz"):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                if key is None or key not in arrays:
                    raise InputError(
                        f"{path}: array {key!r} asked, it holds {', '.join(arrays.files)}; set 'index_key' in the split"
                    )
                values = arrays[key]
        elif str(path).endswith(".npy"):
            values = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            lines = content.decode("utf-8").split()
            values = np.array([int(line) for line in lines], dtype=np.int64)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a list of row numbers ({message}); expected {expected}") from None
    if values.dtype.kind not in "iu" or values.size == 0:
        raise InputError(f"{path}: {values.size} entries of type {values.dtype}; expected {expected}")
    flat: Rows = values.reshape(-1).astype(np.int64)
    return flat


def locate_indices(spec: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """A description whose index files are given by name, with their paths in place of the names.

    Args:
        spec: description; ``train_index`` and the like may be ``name`` or ``archive#member``.
        files: where the files lie.

    Raises:
        InputError: a file that is named but not given.
    """
    by_name = {path.name: path for path in files}
    result = dict(spec)
    for key in _INDEX.values():
        if result.get(key) is None:
            continue
        name, separator, member = str(result[key]).partition("#")
        if Path(name).name not in by_name:
            raise InputError(
                f"split: key {key!r}: {name} is not among the input files {', '.join(by_name) or '(none)'}"
            )
        result[key] = f"{by_name[Path(name).name]}{separator}{member}"
    return result


def _official(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    files = {part: spec[key] for part, key in _INDEX.items() if spec.get(key) is not None}
    if "test" not in files:
        raise InputError("split: key 'test_index' is missing; it names the file with the publisher's test rows")
    val_from = spec.get("val_from", "train")
    if val_from not in ("train", "rest"):
        raise InputError(f"split: key 'val_from': {val_from!r} is unknown; expected train or rest")
    lenient = _flag(spec, "allow_missing", False)
    source = store.source_rows()
    order = np.argsort(source, kind="stable")
    ordered = source[order]
    if (np.diff(ordered) == 0).any():
        raise InputError(
            f"{store.path}: several rows have the same source row (the data set has more than one file); official "
            "row numbers need a store of one file"
        )
    rows: dict[str, Rows] = {part: np.zeros(0, dtype=np.int64) for part in PARTS}
    missing: dict[str, int] = {}
    for part, path in files.items():
        wanted_rows = read_indices(path, spec.get("index_key"))
        if len(np.unique(wanted_rows)) < len(wanted_rows):
            raise InputError(f"{path}: the same row number occurs twice; expected each once")
        place = np.searchsorted(ordered, wanted_rows).clip(max=len(ordered) - 1)
        found = order[place]
        there = (ordered[place] == wanted_rows) & pool[found]
        missing[part] = int((~there).sum())
        if missing[part] and (not lenient or not there.any()):
            raise InputError(
                f"{path}: {missing[part]} of {len(wanted_rows)} rows are not in {store.path} (such as source row "
                f"{int(wanted_rows[int(np.argmax(~there))])}); use the data set that the file was made for"
            )
        rows[part] = found[there]
    train, val, test = (rows[part] for part in PARTS)
    taken = np.concatenate([train, val, test])
    n_twice = len(taken) - len(np.unique(taken))
    if n_twice:
        raise InputError(
            f"split: {n_twice} row numbers occur in two of the index files; expected parts without overlap"
        )
    wanted = _wanted(spec, len(train) if val_from == "train" else int(pool.sum()) - len(taken))
    if wanted.n_val and len(val):
        raise InputError("split: key 'val': the files name the validation rows already; leave one of them out")
    if wanted.n_val and val_from == "rest":
        free = pool.copy()
        free[taken] = False
        _enough(store, wanted.n_val, int(free.sum()), f"{wanted.n_val} validation beside the official rows")
        val = _shuffled(free, seed, _VAL)[: wanted.n_val]
    elif wanted.n_val:
        free = np.zeros(store.n_rows, dtype=bool)
        free[train] = True
        what = f"{wanted.n_val} validation + {wanted.n_train} training out of the official training rows"
        _enough(store, wanted.n_val + wanted.n_train, len(train), what)
        val = _shuffled(free, seed, _VAL)[: wanted.n_val]
        train = train[~np.isin(train, val)]
    _enough(store, wanted.n_train, len(train), f"{wanted.n_train} training out of the official training rows")
    if wanted.train and not wanted.rest:
        sizes = {"train": tuple(wanted.train), "val": tuple(wanted.val)}
        train = train[: wanted.n_train]
    elif wanted.rest:
        sizes = wanted.close(len(train), store)
    else:
        sizes = {"train": (len(train),) if len(train) else (), "val": tuple(wanted.val)}
    if len(val) and not sizes["val"]:
        sizes["val"] = (len(val),)
    details = {
        "files": {part: Path(path).name for part, path in files.items()},
        "missing": missing,
        "val_from": "file" if "val" in files else val_from,
    }
    return _parts(train, val, test), sizes, details


def _file_order(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    n_official = spec.get("official_train")
    if isinstance(n_official, bool) or not isinstance(n_official, int) or n_official < 1:
        raise InputError(
            f"split: key 'official_train': {n_official!r}; expected the number of leading rows that are training rows"
        )
    sources = store.provenance.get("sources") or []
    ends = list(itertools.accumulate(int(source["rows"]) for source in sources))
    held = ", ".join(f"{source['rows']} rows of {source['file']}" for source in sources) or "no record of its files"
    if not ends or ends[-1] != store.n_rows:
        raise InputError(
            f"{store.path}: {store.n_rows} rows, but {held}; file_order needs every row: remove the filters"
        )
    if n_official not in ends[:-1]:
        raise InputError(
            f"{store.path}: split: key 'official_train': {n_official} is not where a file ends ({held}); list the "
            "training files first and give the number of their rows"
        )
    official = np.arange(store.n_rows) < n_official
    others = pool & ~official
    n_others, asked = int(others.sum()), spec.get("test", "all")
    n_test = n_others if asked == "all" else _size(asked, "test", n_others)
    _enough(store, n_test, n_others, f"{n_test} test out of the rows after the first {n_official}")
    free = pool & official
    wanted = _wanted(spec, int(free.sum()))
    val, train, sizes = _split_rest(store, free, wanted, seed, f" out of the first {n_official} rows")
    details = {
        "official": {
            "train": n_official,
            "test": store.n_rows - n_official,
            "files": [str(source["file"]) for source in sources],
        }
    }
    return _parts(train, val, _shuffled(others, seed, _TEST)[:n_test]), sizes, details


def _test_only(store: Store, spec: Mapping[str, Any], pool: Mask, seed: int, tolerance: float) -> _Made:
    available = int(pool.sum())
    asked = spec.get("test", "all")
    n_test = available if asked == "all" else _size(asked, "test", available)
    _enough(store, n_test, available, f"{n_test} test")
    empty = np.zeros(0, dtype=np.int64)
    return _parts(empty, empty, _shuffled(pool, seed, _TEST)[:n_test]), {"train": (), "val": ()}, {}


# ---- leakage ----


def leakage(
    store: Store, parts: Mapping[str, Rows], tolerance: float = TOLERANCE_ANGSTROM
) -> dict[str, dict[str, int]]:
    """What every pair of parts shares.

    Args:
        store: the data.
        parts: row numbers of ``train``, ``val`` and ``test``.
        tolerance: largest deviation of any sorted distance of two geometries that count as one, Å.

    Returns:
        per pair ``a/b`` of parts that are not empty: ``shared_rows``, ``shared_groups`` (groups present in both),
        ``rows_in_shared_groups`` (rows of b in these) and ``shared_geometries`` (rows of b whose geometry is in a).
    """
    ordered = {name: np.sort(rows) for name, rows in parts.items()}
    groups = {name: store.groups(rows) for name, rows in ordered.items()}
    report = {}
    for a in dict.fromkeys(a for a, _ in PAIRS):
        others = [b for first, b in PAIRS if first == a and len(ordered[a]) and len(ordered[b])]
        if not others:
            continue
        # All that are compared with a go at once, because to look through the geometries of a is what takes time.
        together = np.concatenate([ordered[b] for b in others])
        equal = shared_geometries(store, ordered[a], together, tolerance=tolerance) >= 0
        ends = np.cumsum([len(ordered[b]) for b in others])
        for b, of_b in zip(others, np.split(equal, ends[:-1]), strict=True):
            common = np.intersect1d(groups[a], groups[b])
            report[f"{a}/{b}"] = {
                "shared_rows": len(np.intersect1d(ordered[a], ordered[b], assume_unique=True)),
                "shared_groups": len(common),
                "rows_in_shared_groups": int(np.isin(groups[b], common).sum()),
                "shared_geometries": int(of_b.sum()),
            }
    return report


# ---- files ----


def write_named_split(split: NamedSplit, npz: PathLike, report: PathLike) -> None:
    """Write the row numbers (npz) and the report (JSON)."""
    write_text(report, json.dumps(split.report, indent=2) + "\n")
    with atomic_path(npz) as temporary:
        arrays: dict[str, Any] = {
            **split.parts(),
            "train_sizes": np.array(split.train_sizes, dtype=np.int64),
            "val_sizes": np.array(split.val_sizes, dtype=np.int64),
            "n_store_rows": np.int64(split.n_store_rows),
        }
        np.savez(temporary, **arrays)


def load_named_split(npz: PathLike, store: Store | None = None, report: PathLike | None = None) -> NamedSplit:
    """Read a split.

    Args:
        npz: the row numbers.
        store: the store that the rows are of, to check that they fit.
        report: the JSON report, to have it too.

    Raises:
        InputError: missing, changed, not a split, or made for another store.
    """
    path = require(npz)
    expected = ", ".join([*PARTS, "train_sizes", "val_sizes", "n_store_rows"])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = {name: arrays[name].astype(np.int64) for name in PARTS}
            sizes = {name: tuple(int(n) for n in arrays[f"{name}_sizes"]) for name in ("train", "val")}
            n_store_rows = int(arrays["n_store_rows"])
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a named split ({error}), expected the arrays {expected}") from None
    if store is not None and n_store_rows != store.n_rows:
        raise InputError(
            f"{path}: made for a store of {n_store_rows} rows, {store.path} has {store.n_rows}; delete the split and "
            "make it again"
        )
    for name, rows in parts.items():
        if len(rows) and (rows.min() < 0 or rows.max() >= n_store_rows):
            raise InputError(f"{path}: {name} holds rows beyond the {n_store_rows} of the store; delete it")
        if name in sizes and max(sizes[name], default=0) != len(rows):
            raise InputError(f"{path}: {name} holds {len(rows)} rows, its sizes are {sizes[name]}; delete it")
    told = json.loads(require(report).read_text(encoding="utf-8")) if report is not None else {}
    return NamedSplit(
        **parts, train_sizes=sizes["train"], val_sizes=sizes["val"], n_store_rows=n_store_rows, report=told
    )
