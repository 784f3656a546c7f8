"""Per-element energies by streaming least squares on the composition, without an intercept.

The normal equations are accumulated over chunks (X'X holds exact integers), solved through their eigenvectors, and
refined once with the residuals of a second pass, so that total energies of 1e4 eV lose no digits. A third pass takes
the statistics of the residuals. If the compositions do not determine the coefficients (one formula only: rank 1), the
minimum-norm solution is returned and ``rank`` says so.
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
from mlip_studies.elements import composition
from mlip_studies.errors import InputError

ROWS = ("train", "all")
# Eigenvalues of X'X below this share of the largest count as zero; X'X holds integers, so round-off is near 1e-16.
_RANK_TOLERANCE = 1e-12

FloatArray = NDArray[np.float64]
Chunks = Callable[[], Iterator[tuple[FloatArray, FloatArray]]]


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


class _Moments:
    """Mean, spread, range and histogram of a stream of numbers."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self.m2 = 0.0

    def add(self, values: FloatArray) -> None:
        if len(values) == 0:
            return
        n, mean = len(values), float(values.mean())
        total, delta = self.n + n, mean - self.mean
        self.m2 += float(((values - mean) ** 2).sum()) + delta**2 * self.n * n / total
        self.mean += delta * n / total
        self.n = total

    @property
    def std(self) -> float:
        return float(np.sqrt(self.m2 / self.n)) if self.n else 0.0


def _fit(chunks: Chunks, n_elements: int, bins: int) -> dict[str, Any]:
    gram = np.zeros((n_elements, n_elements), dtype=np.int64)
    moment = np.zeros(n_elements)
    n_rows = 0
    low, high = np.inf, -np.inf
    for x, y in chunks():
        whole = x.astype(np.int64)
        gram += whole.T @ whole
        moment += x.T @ y
        n_rows += len(y)
        low, high = min(low, y.min()), max(high, y.max())
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    used = values > _RANK_TOLERANCE * values[-1]
    inverse = (vectors[:, used] / values[used]) @ vectors[:, used].T
    coefficients = inverse @ moment

    # Refinement: the residuals are small, so their moments carry the digits that the totals lost.
    correction = np.zeros(n_elements)
    residual_low, residual_high = np.inf, -np.inf
    for x, y in chunks():
        residual = y - x @ coefficients
        correction += x.T @ residual
        residual_low, residual_high = min(residual_low, residual.min()), max(residual_high, residual.max())
    coefficients = coefficients + inverse @ correction

    before, after, per_atom = _Moments(), _Moments(), _Moments()
    sum_abs_per_atom = sum_squares = 0.0
    edges = {"before": _edges(low, high, bins), "after": _edges(residual_low, residual_high, bins)}
    counts = {name: np.zeros(bins, dtype=np.int64) for name in edges}
    for x, y in chunks():
        residual = y - x @ coefficients
        n_atoms = x.sum(axis=1)
        before.add(y)
        after.add(residual)
        per_atom.add(residual / n_atoms)
        sum_abs_per_atom += float(np.abs(residual / n_atoms).sum())
        sum_squares += float((residual**2).sum())
        for name, numbers in (("before", y), ("after", residual)):
            clipped = np.clip(numbers, edges[name][0], edges[name][-1])
            counts[name] += np.histogram(clipped, edges[name])[0]
    rank = int(used.sum())
    variance = sum_squares / (n_rows - rank) if n_rows > rank else 0.0
    return {
        "coefficients_ev": coefficients.tolist(),
        "standard_error_ev": np.sqrt(variance * np.diag(inverse).clip(min=0.0)).tolist(),
        "rank": rank,
        "condition_number": float(np.sqrt(values[used].max() / values[used].min())),
        "n_rows": n_rows,
        "before": {"mean_ev": before.mean, "std_ev": before.std},
        "after": {
            "mean_ev": after.mean,
            "std_ev": after.std,
            "std_per_atom_ev": per_atom.std,
            "mae_per_atom_ev": sum_abs_per_atom / n_rows,
        },
        "histogram": {
            name: {"edges": edges[name].tolist(), "counts": counts[name].tolist()} for name in ("before", "after")
        },
    }


def _edges(low: float, high: float, bins: int) -> FloatArray:
    margin = max(1e-9 * max(abs(low), abs(high)), 1e-6) if high - low < 1e-6 else 0.0
    return np.linspace(low - margin, high + margin, bins + 1)


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
        fidelity_rows: per fidelity the rows to fit on; fidelities without rows are not allowed.
        elements: atomic numbers; those of the store by default.
        rows_name: how the rows were chosen, ``train`` or ``all``.
        chunk_rows: rows in memory at a time.
        bins: bins of the histograms of energies and residuals.

    Returns:
        JSON-ready result. ``condition_number`` is the ratio of the largest to the smallest singular value of the
        compositions that is not zero; ``rank`` tells how many there are. Spreads are population standard deviations.

    Raises:
        InputError: no rows, rows without the label, or an element outside ``elements``.
    """
    elements = list(store.elements if elements is None else elements)
    result: dict[str, Any] = {
        "dataset": store.provenance.get("dataset") or store.path.stem,
        "rows": rows_name,
        "fidelities": {},
    }
    for fidelity, rows in fidelity_rows.items():
        chosen = np.sort(np.asarray(rows, dtype=np.int64))
        if len(chosen) == 0:
            raise InputError(f"{store.path}: no rows to fit self energies of {fidelity!r} on; ask for at least one")
        without = ~store.has_label(fidelity)[chosen]
        if without.any():
            row = int(chosen[int(np.argmax(without))])
            raise InputError(f"{store.path}: row {row} has no energy of {fidelity!r}; choose rows with this label")

        def chunks(fidelity: str = fidelity, chosen: NDArray[np.int64] = chosen) -> Iterator[Any]:
            options: dict[str, Any] = {"positions": False, "forces": False, "fidelities": [fidelity]}
            for part in store.iter_chunks(chunk_rows, chosen, **options):
                x = composition(part.atomic_numbers, part.ptr, elements).astype(np.float64)
                yield x, part.energy[fidelity]

        result["fidelities"][fidelity] = {"elements": elements, **_fit(chunks, len(elements), bins)}
    return result


def select_rows(store: Store, split: Split, low: str, high: str, rows: str = "train") -> dict[str, NDArray[np.int64]]:
    """Rows to fit on, per fidelity.

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
