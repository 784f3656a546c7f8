"""Splits of a store with two fidelities: seeded, nested by prefix, with a leakage report.

The high fidelity is what is tested. Training sets of any size are prefixes of ``train_high`` and ``train_low``, so the
smaller sets are contained in the larger ones and all models share one test set.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, write_text
from mlip_studies.data.geometry import TOLERANCE_ANGSTROM, GeometryIndex
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError

SELECTIONS = ("random", "first_then_random")
PARTS = ("test", "val_high", "train_high", "val_low", "train_low")
# Parts that are compared in the leakage report: (what is trained or tuned on, what it must not have seen).
_PAIRS = (
    ("train_low", "test"),
    ("train_high", "test"),
    ("val_low", "test"),
    ("val_high", "test"),
    ("train_low", "val_high"),
    ("train_high", "val_high"),
    ("train_high", "val_low"),
    ("train_low", "val_low"),
)
_CANDIDATES_AT_ONCE = 20_000

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SplitSizes:
    """Rows per part: for training and validation the largest number that any mix uses."""

    n_test: int
    n_val_high: int
    n_train_high: int
    n_val_low: int
    n_train_low: int

    @property
    def n_high(self) -> int:
        """Rows with a high-fidelity label that are needed."""
        return self.n_test + self.n_val_high + self.n_train_high

    @property
    def n_low(self) -> int:
        """Rows with a low-fidelity label that are needed."""
        return self.n_val_low + self.n_train_low


@dataclass(frozen=True)
class Split:
    """Row numbers of a store, each part in the order in which prefixes are taken."""

    test: Rows
    val_high: Rows
    train_high: Rows
    val_low: Rows
    train_low: Rows
    report: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Rows]:
        """All parts by name."""
        return {name: getattr(self, name) for name in PARTS}


def multi_fidelity_split(
    store: Store,
    low: str,
    high: str,
    sizes: SplitSizes,
    seed: int = 0,
    selection: str = "random",
    tolerance: float = TOLERANCE_ANGSTROM,
) -> Split:
    """Split a store with a low and a high fidelity.

    ``random`` permutes the rows of each fidelity with the seed. Rows whose geometry equals that of a test row are
    removed from all other parts, and the low-fidelity parts hold no row of the test or the high-fidelity validation
    set. A row with both labels may be in both training sets.

    ``first_then_random`` takes the first rows in file order of each fidelity and permutes those: neighbors in the
    file (conformations of one molecule) end up on both sides, and the low-fidelity rows may be those of the test
    set. The leakage report shows how many.

    Args:
        store: the data.
        low: the cheap fidelity.
        high: the accurate fidelity.
        sizes: rows per part.
        seed: seed of the permutations.
        selection: ``random`` or ``first_then_random``.
        tolerance: of the geometry comparison, Å.

    Raises:
        InputError: more rows are asked for than exist, or there are none of the high fidelity.
    """
    if selection not in SELECTIONS:
        raise InputError(f"selection: {selection!r} is unknown; expected one of {', '.join(SELECTIONS)}")
    if low == high:
        raise InputError(f"fidelities: low and high are both {low!r}; expected two different ones")
    for name, value in asdict(sizes).items():
        if value < 0:
            raise InputError(f"{name}: {value} rows asked; expected 0 or more")
    if sizes.n_test < 1:
        raise InputError("n_test: no test rows asked; expected at least 1")
    high_rows = np.flatnonzero(store.has_label(high))
    low_rows = np.flatnonzero(store.has_label(low))
    if len(high_rows) == 0:
        raise InputError(f"{store.path}: no rows with the label {high!r}; a multi-fidelity split needs some to test on")
    _enough(store, high, sizes.n_high, len(high_rows), _wanted(sizes, high=True))
    _enough(store, low, sizes.n_low, len(low_rows), _wanted(sizes, high=False))

    # One generator per fidelity: the size of one pool never changes the order of the other.
    high_random, low_random = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    removed = {"low_in_test_or_val_high": 0, "low_equal_to_test": 0, "high_equal_to_test": 0}
    if selection == "random":
        order = high_random.permutation(high_rows)
        test, rest = order[: sizes.n_test], order[sizes.n_test :]
        index = GeometryIndex(tolerance)
        index.add_rows(store.read(test, fidelities=[]))
        wanted = sizes.n_val_high + sizes.n_train_high
        picked, removed["high_equal_to_test"] = _take(store, rest, wanted, index)
        _enough(store, high, sizes.n_high, sizes.n_test + len(picked), _wanted(sizes, high=True), removed)
        val_high, train_high = np.split(picked, [sizes.n_val_high])

        used = np.isin(low_rows, np.concatenate([test, val_high]))
        removed["low_in_test_or_val_high"] = int(used.sum())
        pool = low_random.permutation(low_rows[~used])
        picked, removed["low_equal_to_test"] = _take(store, pool, sizes.n_low, index)
        _enough(store, low, sizes.n_low, len(picked), _wanted(sizes, high=False), removed)
    else:
        order = high_random.permutation(high_rows[: sizes.n_high])
        test, val_high, train_high = np.split(order, np.cumsum([sizes.n_test, sizes.n_val_high]))
        picked = low_random.permutation(low_rows[: sizes.n_low])
    val_low, train_low = np.split(picked, [sizes.n_val_low])
    parts = dict(zip(PARTS, (test, val_high, train_high, val_low, train_low), strict=True))
    report = {
        "store": store.path.name,
        "fidelities": {"low": low, "high": high},
        "sizes": {name: len(rows) for name, rows in parts.items()},
        "seed": seed,
        "selection": selection,
        "tolerance_angstrom": tolerance,
        "available": {"low": len(low_rows), "high": len(high_rows)},
        "removed": removed,
        "leakage": leakage_report(store, parts, tolerance),
    }
    return Split(**parts, report=report)


def _wanted(sizes: SplitSizes, high: bool) -> str:
    if high:
        return f"{sizes.n_test} test + {sizes.n_val_high} validation + {sizes.n_train_high} training"
    return f"{sizes.n_val_low} validation + {sizes.n_train_low} training"


def _enough(
    store: Store, fidelity: str, wanted: int, available: int, parts: str, removed: dict[str, int] | None = None
) -> None:
    if wanted > available:
        why = ""
        if removed is not None:
            names = [f"{count} {name.replace('_', ' ')}" for name, count in removed.items() if count]
            why = f" after removing {', '.join(names)}" if names else ""
        raise InputError(
            f"{store.path}: {wanted} rows with the label {fidelity!r} asked ({parts}), only {available} exist{why}; "
            "ask for fewer"
        )


def _take(store: Store, candidates: Rows, n: int, avoid: GeometryIndex) -> tuple[Rows, int]:
    """The first ``n`` candidates whose geometry is not in ``avoid``, and how many were passed over."""
    taken: list[Rows] = []
    n_taken = n_removed = first = 0
    while n_taken < n and first < len(candidates):
        part = candidates[first : first + min(_CANDIDATES_AT_ONCE, n - n_taken)]
        first += len(part)
        free = avoid.match_rows(store.read(part, fidelities=[])) < 0
        taken.append(part[free])
        n_taken += int(free.sum())
        n_removed += int((~free).sum())
    return (np.concatenate(taken) if taken else candidates[:0]), n_removed


def leakage_report(
    store: Store, parts: dict[str, Rows], tolerance: float = TOLERANCE_ANGSTROM
) -> dict[str, dict[str, int]]:
    """What the parts of a split share.

    Returns:
        per pair ``a/b``: ``shared_rows``, ``shared_geometries`` (rows of b whose geometry also is in a),
        ``shared_groups`` (groups present in both) and ``rows_in_shared_groups`` (rows of b in these groups).
    """
    # In file order a chunk is one stretch of the file.
    parts = {name: np.sort(rows) for name, rows in parts.items()}
    groups = {name: store.groups(rows) for name, rows in parts.items()}
    report = {}
    for a in dict.fromkeys(a for a, _ in _PAIRS if a in parts):
        index = GeometryIndex(tolerance)
        for chunk in store.iter_chunks(_CANDIDATES_AT_ONCE, parts[a], fidelities=[]):
            index.add_rows(chunk)
        for b in (b for first, b in _PAIRS if first == a and b in parts):
            common = np.intersect1d(groups[a], groups[b])
            chunks = store.iter_chunks(_CANDIDATES_AT_ONCE, parts[b], fidelities=[])
            report[f"{a}/{b}"] = {
                "shared_rows": len(np.intersect1d(parts[a], parts[b])),
                "shared_geometries": sum(int((index.match_rows(chunk) >= 0).sum()) for chunk in chunks),
                "shared_groups": len(common),
                "rows_in_shared_groups": int(np.isin(groups[b], common).sum()),
            }
    return report


def write_split(split: Split, npz: PathLike, report: PathLike) -> None:
    """Write the row numbers (npz) and the report (JSON)."""
    write_text(report, json.dumps(split.report, indent=2) + "\n")
    with atomic_path(npz) as temporary:
        arrays: dict[str, Any] = {name: rows.astype(np.int64) for name, rows in split.parts().items()}
        np.savez(temporary, **arrays)


def load_split(npz: PathLike) -> Split:
    """Read the row numbers of a split.

    Raises:
        InputError: missing, changed, or not a split.
    """
    path = require(npz)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Split(**{name: arrays[name].astype(np.int64) for name in PARTS})
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a split file ({error}), expected the arrays {', '.join(PARTS)}") from None
