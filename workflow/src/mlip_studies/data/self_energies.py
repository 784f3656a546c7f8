"""Per-element energies by streaming least squares on the composition, without an intercept.

The normal equations are accumulated over chunks (X'X holds exact integers), solved through their eigenvectors, and
refined once with the residuals of a second pass, so that total energies of 1e4 eV lose no digits. A third pass takes
the statistics of the residuals. If the compositions do not determine the coefficients (one formula only: rank 1), the
minimum-norm solution is returned, ``rank`` says so and ``note`` names the elements.

Rows of one molecule have the same composition and similar residuals, so the textbook standard error, which takes rows
as independent, is too small. The clustered one (K.-Y. Liang and S. L. Zeger, Biometrika 73, 13 (1986)) adds the
residuals up by group before they are squared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip_studies.artifacts import PathLike, require, write_text
from mlip_studies.data.splits import Split
from mlip_studies.data.store import Store
from mlip_studies.elements import composition, symbols
from mlip_studies.errors import InputError

ROWS = ("train", "all")
# Null vectors of X'X smaller than this in an element leave its coefficient alone.
_NULL_TOLERANCE = 1e-4
# Eigenvalues of X'X below this share of the largest count as zero; X'X holds integers, so round-off is near 1e-16.
_RANK_TOLERANCE = 1e-12

FloatArray = NDArray[np.float64]
# Compositions (n, n_elements), energies (n,) and groups (n,) of a chunk of rows.
Chunks = Callable[[], Iterator[tuple[FloatArray, FloatArray, NDArray[np.integer]]]]


@dataclass(frozen=True)
class SelfEnergies:
    """Energy per element of one fidelity.

    Attributes:
        elements: atomic numbers.
        coefficients: eV per atom, shape (n_elements,).
    """

    elements: tuple[int, ...]
    coefficients: FloatArray

    def baseline(self, atomic_numbers: NDArray[np.integer], ptr: NDArray[np.integer]) -> FloatArray:
        """Sum of the self energies per molecule, shape (n_rows,), eV.

        Raises:
            InputError: an element without a self energy.
        """
        return composition(atomic_numbers, ptr, self.elements) @ self.coefficients


class Moments:
    """Mean and population standard deviation of a stream of numbers.

    Attributes:
        n: how many there were.
        mean: their mean.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self.m2 = 0.0

    def add(self, values: FloatArray) -> None:
        """Add numbers, shape (n,)."""
        if len(values) == 0:
            return
        n, mean = len(values), float(values.mean())
        total, delta = self.n + n, mean - self.mean
        self.m2 += float(((values - mean) ** 2).sum()) + delta**2 * self.n * n / total
        self.mean += delta * n / total
        self.n = total

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return float(np.sqrt(self.m2 / self.n)) if self.n else 0.0


def _fit(chunks: Chunks, elements: Sequence[int], n_groups: int, bins: int) -> dict[str, Any]:
    n_elements = len(elements)
    gram = np.zeros((n_elements, n_elements), dtype=np.int64)
    moment = np.zeros(n_elements)
    n_rows = 0
    low, high = np.inf, -np.inf
    for x, y, _ in chunks():
        whole = x.astype(np.int64)
        gram += whole.T @ whole
        moment += x.T @ y
        n_rows += len(y)
        low, high = min(low, y.min()), max(high, y.max())
    if n_rows == 0:
        return {"n_rows": 0}
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    used = values > _RANK_TOLERANCE * values[-1]
    inverse = (vectors[:, used] / values[used]) @ vectors[:, used].T
    coefficients = inverse @ moment

    # Refinement: the residuals are small, so their moments carry the digits that the totals lost.
    correction = np.zeros(n_elements)
    residual_low, residual_high = np.inf, -np.inf
    for x, y, _ in chunks():
        residual = y - x @ coefficients
        correction += x.T @ residual
        residual_low, residual_high = min(residual_low, residual.min()), max(residual_high, residual.max())
    coefficients = coefficients + inverse @ correction

    before, before_per_atom, after, per_atom = Moments(), Moments(), Moments(), Moments()
    sum_abs_per_atom = sum_squares = 0.0
    scores = np.zeros((n_groups, n_elements))
    seen = np.zeros(n_groups, dtype=bool)
    edges = {"before": _edges(low, high, bins), "after": _edges(residual_low, residual_high, bins)}
    counts = {name: np.zeros(bins, dtype=np.int64) for name in edges}
    for x, y, group in chunks():
        residual = y - x @ coefficients
        n_atoms = x.sum(axis=1)
        before.add(y)
        before_per_atom.add(y / n_atoms)
        after.add(residual)
        per_atom.add(residual / n_atoms)
        sum_abs_per_atom += float(np.abs(residual / n_atoms).sum())
        sum_squares += float((residual**2).sum())
        present, of_row = np.unique(group, return_inverse=True)
        seen[present] = True
        for column in range(n_elements):
            scores[present, column] += np.bincount(of_row, x[:, column] * residual, minlength=len(present))
        for name, numbers in (("before", y), ("after", residual)):
            clipped = np.clip(numbers, edges[name][0], edges[name][-1])
            counts[name] += np.histogram(clipped, edges[name])[0]
    rank, n_seen = int(used.sum()), int(seen.sum())
    variance = sum_squares / (n_rows - rank) if n_rows > rank else 0.0
    determined, note = _what_is_determined(elements, gram, vectors[:, ~used])
    clustered = None
    # With no more groups than coefficients every group is fitted exactly and says nothing about the spread.
    if n_seen > rank and n_rows > rank:
        factor = n_seen / (n_seen - 1) * (n_rows - 1) / (n_rows - rank)
        covariance = inverse @ (scores.T @ scores) @ inverse * factor
        clustered = np.sqrt(np.diag(covariance).clip(min=0.0)).tolist()
    return {
        "coefficients_ev": coefficients.tolist(),
        "standard_error_ev": np.sqrt(variance * np.diag(inverse).clip(min=0.0)).tolist(),
        "standard_error_clustered_ev": clustered,
        "determined": determined,
        "rank": rank,
        "note": note,
        "condition_number": float(np.sqrt(values[used].max() / values[used].min())),
        "n_rows": n_rows,
        "n_groups": n_seen,
        "before": {
            "mean_ev": before.mean,
            "std_ev": before.std,
            "mean_per_atom_ev": before_per_atom.mean,
            "std_per_atom_ev": before_per_atom.std,
        },
        "after": {
            "mean_ev": after.mean,
            "std_ev": after.std,
            "mean_per_atom_ev": per_atom.mean,
            "std_per_atom_ev": per_atom.std,
            "mae_per_atom_ev": sum_abs_per_atom / n_rows,
        },
        "histogram": {
            name: {"edges": edges[name].tolist(), "counts": counts[name].tolist()} for name in ("before", "after")
        },
    }


def _what_is_determined(
    elements: Sequence[int], gram: NDArray[np.int64], null: FloatArray
) -> tuple[list[bool], str | None]:
    """Which coefficients the compositions fix, and a sentence about those that they do not.

    Args:
        elements: atomic numbers.
        gram: X'X, shape (n_elements, n_elements).
        null: orthonormal vectors along which the coefficients may be shifted, shape (n_elements, n_missing).
    """
    present = np.diag(gram) > 0
    projector = null @ null.T
    loose = present & (np.diag(projector) > _NULL_TOLERANCE**2)
    determined = (present & ~loose).tolist()
    if null.shape[1] == 0:
        return determined, None
    names = symbols(elements)
    parts = []
    if not present.all():
        parts.append(f"no atoms of {', '.join(n for n, there in zip(names, present, strict=True) if not there)}")
    left = np.flatnonzero(loose).tolist()
    while left:
        together = {left[0]}
        grown = True
        while grown:
            more = {j for j in left if any(abs(projector[i, j]) > _NULL_TOLERANCE**2 for i in together)}
            grown = not more <= together
            together |= more
        left = [i for i in left if i not in together]
        parts.append(
            f"the energies of {', '.join(names[i] for i in sorted(together))} cannot be told apart, because their "
            "numbers of atoms do not vary independently"
        )
    rank = len(elements) - null.shape[1]
    return determined, f"rank {rank} of {len(elements)}: {'; '.join(parts)}; the solution of least norm is given"


def _edges(low: float, high: float, bins: int) -> FloatArray:
    margin = max(1e-9 * max(abs(low), abs(high)), 1e-6) if high - low < 1e-6 else 0.0
    return np.linspace(low - margin, high + margin, bins + 1)


def energy_chunks(
    store: Store,
    fidelity: str,
    elements: Sequence[int],
    rows: ArrayLike | None = None,
    chunk_rows: int = 65536,
    strict: bool = False,
) -> Iterator[tuple[FloatArray, FloatArray, NDArray[np.int32]]]:
    """Stream compositions, energies and groups of labeled rows in file order.

    Args:
        store: the data.
        fidelity: the label.
        elements: atomic numbers.
        rows: row numbers; all if None.
        chunk_rows: rows in memory at a time.
        strict: rows without the label are an error; otherwise they are passed over.

    Yields:
        counts (n, n_elements), energies (n,) in eV and group indices (n,), n > 0.

    Raises:
        InputError: a row without the label (if ``strict``), or an element outside ``elements``.
    """
    chosen = None if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    n_rows = store.n_rows if chosen is None else len(chosen)
    for first in range(0, n_rows, chunk_rows):
        last = min(first + chunk_rows, n_rows)
        part = store.read(
            np.arange(first, last) if chosen is None else chosen[first:last],
            positions=False,
            forces=False,
            fidelities=[fidelity],
        )
        energy = part.energy[fidelity]
        labeled = np.isfinite(energy)
        if strict and not labeled.all():
            row = int(part.rows[int(np.argmin(labeled))])
            raise InputError(f"{store.path}: row {row} has no energy of {fidelity!r}; choose rows with this label")
        if not labeled.any():
            continue
        x = composition(part.atomic_numbers, part.ptr, elements).astype(np.float64)
        if labeled.all():
            yield x, energy, part.group
        else:
            yield x[labeled], energy[labeled], part.group[labeled]


def _fit_rows(
    store: Store,
    fidelity: str,
    rows: ArrayLike | None,
    elements: Sequence[int],
    chunk_rows: int,
    bins: int,
    strict: bool,
) -> dict[str, Any]:
    def chunks() -> Iterator[tuple[FloatArray, FloatArray, NDArray[np.integer]]]:
        return energy_chunks(store, fidelity, elements, rows, chunk_rows, strict)

    return {"elements": list(elements), **_fit(chunks, elements, len(store.group_names), bins)}


def _header(store: Store, rows_name: str) -> dict[str, Any]:
    return {"dataset": store.provenance.get("dataset") or store.path.stem, "rows": rows_name, "fidelities": {}}


def fit_self_energies(
    store: Store,
    fidelity_rows: Mapping[str, ArrayLike],
    elements: Sequence[int] | None = None,
    rows_name: str = "train",
    chunk_rows: int = 65536,
    bins: int = 60,
) -> dict[str, Any]:
    """Fit one energy per element for every fidelity.

    Args:
        store: the data.
        fidelity_rows: per fidelity the rows to fit on, shape (n,); fidelities without rows are not allowed.
        elements: atomic numbers; those of the store by default.
        rows_name: how the rows were chosen, ``train`` or ``all``.
        chunk_rows: rows in memory at a time.
        bins: bins of the histograms of energies and residuals.

    Returns:
        JSON-ready result. Per fidelity: ``coefficients_ev`` with ``standard_error_ev`` (rows independent) and
        ``standard_error_clustered_ev`` (groups independent; None if there are no more groups than coefficients);
        ``determined`` per element, ``rank`` and ``note`` (what the compositions leave open; None if nothing);
        ``condition_number``, the ratio of the largest to the smallest singular value of the compositions that is not
        zero; ``n_rows``, ``n_groups``; ``before`` and ``after`` (mean and population standard deviation of energies
        and residuals, also per atom); ``histogram``.

    Raises:
        InputError: no rows, rows without the label, or an element outside ``elements``.
    """
    elements = list(store.elements if elements is None else elements)
    result = _header(store, rows_name)
    for fidelity, rows in fidelity_rows.items():
        if np.size(rows) == 0:
            raise InputError(f"{store.path}: no rows to fit self energies of {fidelity!r} on; ask for at least one")
        result["fidelities"][fidelity] = _fit_rows(store, fidelity, rows, elements, chunk_rows, bins, strict=True)
    return result


def no_self_energies(store: Store, fidelities: Sequence[str]) -> dict[str, Any]:
    """Zero for every element, for networks that are trained on energies as they are.

    Args:
        store: the data.
        fidelities: the labels.

    Returns:
        JSON-ready, as of :func:`fit_self_energies`, with ``elements`` and ``coefficients_ev`` (0 eV) alone.
    """
    elements = [int(element) for element in store.elements]
    result = _header(store, "none")
    for fidelity in fidelities:
        result["fidelities"][fidelity] = {"elements": elements, "coefficients_ev": [0.0] * len(elements)}
    return result


def regress_store(
    store: Store,
    rows: ArrayLike | None = None,
    rows_name: str | None = None,
    elements: Sequence[int] | None = None,
    chunk_rows: int = 65536,
    bins: int = 60,
) -> dict[str, Any]:
    """Fit one energy per element for every fidelity of a store.

    Args:
        store: the data.
        rows: rows to fit on, shape (n,), such as a training set; each fidelity uses those that have its label. All if
            None.
        rows_name: how the rows were chosen; ``all`` if none are given, else ``train``.
        elements: atomic numbers; those of the store by default.
        chunk_rows: rows in memory at a time.
        bins: bins of the histograms.

    Returns:
        as :func:`fit_self_energies`, and ``without_rows``: fidelities that none of the rows has.

    Raises:
        InputError: no row has any label, or an element outside ``elements``.
    """
    name = rows_name or ("all" if rows is None else "train")
    if name not in ROWS:
        raise InputError(f"self_energies.rows: {name!r} is unknown; expected one of {', '.join(ROWS)}")
    elements = list(store.elements if elements is None else elements)
    result = {**_header(store, name), "without_rows": []}
    for fidelity in store.fidelities:
        fit = _fit_rows(store, fidelity, rows, elements, chunk_rows, bins, strict=False)
        if fit["n_rows"]:
            result["fidelities"][fidelity] = fit
        else:
            result["without_rows"].append(fidelity)
    if not result["fidelities"]:
        raise InputError(f"{store.path}: no labeled rows to fit self energies on; ask for other rows")
    return result


def select_rows(store: Store, split: Split, low: str, high: str, rows: str = "train") -> dict[str, NDArray[np.int64]]:
    """Rows to fit on, per fidelity, each of shape (n,).

    Args:
        store: the data.
        split: its split.
        low: fidelity of ``train_low``.
        high: fidelity of ``train_high``.
        rows: ``train`` (the training parts) or ``all`` (every labeled row, test rows included).

    Raises:
        InputError: unknown choice.
    """
    if rows == "train":
        return {low: split.train_low, high: split.train_high}
    if rows == "all":
        return {name: np.flatnonzero(store.has_label(name)) for name in (low, high)}
    raise InputError(f"self_energies.rows: {rows!r} is unknown; expected one of {', '.join(ROWS)}")


def write_self_energies(result: Mapping[str, Any], path: PathLike) -> None:
    """Write a fit as JSON."""
    write_text(path, json.dumps(result, indent=2) + "\n")


def load_self_energies(path: PathLike) -> dict[str, SelfEnergies]:
    """Read the coefficients per fidelity.

    Raises:
        InputError: missing, changed, or not a file of self energies.
    """
    path = require(path)
    try:
        fidelities = json.loads(path.read_text(encoding="utf-8"))["fidelities"]
        return {
            name: SelfEnergies(tuple(fit["elements"]), np.array(fit["coefficients_ev"], dtype=np.float64))
            for name, fit in fidelities.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of self energies ({error!r}); delete it and fit again") from None
