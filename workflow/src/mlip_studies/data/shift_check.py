"""What an energy shift does to a data set before any network is trained.

A network learns energies less a shift: nothing, one constant per molecule, or one constant per element. On molecules of
one composition all of these differ by a constant. On mixed compositions they do not, and one of them is wrong by
construction. ``mean_padded`` subtracts the mean p of the training energies from each molecule, and adds it back in
equal parts p/n_pad per *atom*, where n_pad is the number of atoms that molecules are padded to. A molecule of N atoms
gets back p N/n_pad in place of p, so that a network without any error of its own predicts

    E_predicted - E_true = p (N/n_pad - 1),

a line of slope p/n_pad in the number of atoms, which vanishes at N = n_pad only (mlff, the code of the So3krates paper,
treated the mean in this way in 2023). ``none`` and ``mean`` are consistent but leave the differences between
compositions to the network, which for total energies are thousands of times what bonds make of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip_studies import elements as periodic
from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.data.self_energies import Moments, energy_chunks
from mlip_studies.data.store import Store
from mlip_studies.errors import InputError

SHIFTS = ("none", "mean", "mean_padded", "per_element")
SEVERITIES = ("none", "warning", "error")
COLUMNS = (
    "dataset", "fidelity", "shift", "n_rows", "n_compositions", "mixed", "mean_ev", "n_pad", "slope_ev_per_atom",
    "perfect_network_mae_ev", "spread_ev", "per_element_spread_ev", "rank", "severity", "message",
)  # fmt: skip
# As in mlip_studies.data.self_energies: eigenvalues of X'X below this share of the largest are round-off.
_RANK_TOLERANCE = 1e-12
# An error of a perfect network below this, in eV, is round-off.
_NO_ERROR_EV = 1e-9

FloatArray = NDArray[np.float64]
# Compositions (n, n_elements) and energies (n,) of a chunk of rows; every call streams from the start.
Chunks = Callable[[], Iterator[tuple[FloatArray, FloatArray]]]


@dataclass(frozen=True)
class ShiftCheck:
    """What one shift does to one set of energies.

    Attributes:
        shift: one of :data:`SHIFTS`.
        n_rows: molecules looked at.
        n_compositions: different compositions among them.
        mixed: whether there is more than one.
        mean_ev: mean energy p, eV.
        n_pad: atoms that molecules are padded to.
        slope_ev_per_atom: p/n_pad for ``mean_padded``, 0 for the consistent shifts.
        perfect_network_mae_ev: mean of ``|p (N/n_pad - 1)|`` for ``mean_padded``, 0 for the consistent shifts.
        spread_ev: population standard deviation of the labels that the network must learn, eV.
        per_element_spread_ev: the same after a least-squares fit of one energy per element, eV.
        rank: of the compositions, shape (n_rows, n_elements).
        severity: ``error`` if predictions are wrong whatever the network learns, ``warning`` if the shift leaves the
            differences between compositions to the network, otherwise ``none``.
        message: one line that says so; None where there is nothing to say.
    """

    shift: str
    n_rows: int
    n_compositions: int
    mixed: bool
    mean_ev: float
    n_pad: int
    slope_ev_per_atom: float
    perfect_network_mae_ev: float
    spread_ev: float
    per_element_spread_ev: float
    rank: int
    severity: str
    message: str | None


@dataclass(frozen=True)
class _Facts:
    """What all shifts need to know about a set of energies; ``sizes`` counts molecules by their number of atoms."""

    n_rows: int
    n_compositions: int
    mean: float
    spread: float
    per_element_spread: float
    rank: int
    sizes: Mapping[int, int]


def check_shift(
    energy: ArrayLike, atomic_numbers: ArrayLike, ptr: ArrayLike, shift: str, n_pad: int | None = None
) -> ShiftCheck:
    """What a shift does to energies.

    Args:
        energy: total energies, eV, shape (n_rows,).
        atomic_numbers: of all molecules in turn, shape (n_atoms_total,).
        ptr: offsets of the molecules, shape (n_rows + 1,).
        shift: one of :data:`SHIFTS`.
        n_pad: atoms that molecules are padded to; those of the largest molecule by default.

    Returns:
        the numbers, and a message for ``none``, ``mean`` and ``mean_padded`` where compositions are mixed (or where
        the padding of ``mean_padded`` is larger than the molecules).

    Raises:
        InputError: unknown shift, no rows, shapes that do not fit, an unknown element, an energy that is not finite, or
            ``n_pad`` below the size of the largest molecule.
    """
    energies = np.asarray(energy, dtype=np.float64)
    numbers, offsets = np.asarray(atomic_numbers), np.asarray(ptr, dtype=np.int64)
    if energies.ndim != 1 or offsets.shape != (len(energies) + 1,) or offsets[0] != 0 or offsets[-1] != len(numbers):
        raise InputError(
            f"shift check: energies {energies.shape}, ptr {offsets.shape} and {len(numbers)} atoms do not fit; "
            "expected one offset more than energies, from 0 to the number of atoms"
        )
    if (np.diff(offsets) < 1).any():
        raise InputError(f"shift check: molecule {int(np.argmax(np.diff(offsets) < 1))} has no atoms; leave it out")
    if not np.isfinite(energies).all():
        raise InputError(
            f"shift check: energy {int(np.argmin(np.isfinite(energies)))} is not finite; choose rows with this label"
        )
    elements = periodic.numbers(np.unique(numbers).tolist())
    counts = periodic.composition(numbers, offsets, elements).astype(np.float64)
    return _judge(_facts(lambda: iter([(counts, energies)])), _known(shift), n_pad)


def shift_table(
    store_path: PathLike,
    fidelities: Iterable[str] | None = None,
    shifts: Sequence[str] = SHIFTS,
    n_pad: int | None = None,
    dataset: str | None = None,
    chunk_rows: int = 65536,
) -> list[dict[str, Any]]:
    """What every shift does to every fidelity of a store, streaming.

    Args:
        store_path: the store.
        fidelities: energies to look at; all by default.
        shifts: some of :data:`SHIFTS`.
        n_pad: as in :func:`check_shift`; the largest labeled molecule of the fidelity by default.
        dataset: name for the table; the store's own by default.
        chunk_rows: rows in memory at a time.

    Returns:
        a row per fidelity and shift with the keys of :data:`COLUMNS`.

    Raises:
        InputError: unknown shift or fidelity, a damaged store, or a fidelity without labels.
    """
    rows = []
    with Store(store_path) as store:
        name = dataset or store.provenance.get("dataset") or store.path.stem
        for fidelity in store.fidelities if fidelities is None else fidelities:

            def chunks(fidelity: str = fidelity) -> Iterator[tuple[FloatArray, FloatArray]]:
                for x, y, _ in energy_chunks(store, fidelity, store.elements, chunk_rows=chunk_rows):
                    yield x, y

            try:
                facts = _facts(chunks)
            except InputError as error:
                raise InputError(f"{store.path}: {fidelity}: {error}") from None
            for shift in shifts:
                check = _judge(facts, _known(shift), n_pad)
                rows.append({"dataset": name, "fidelity": fidelity, **asdict(check)})
    return rows


def write_shift_table(rows: Sequence[Mapping[str, Any]], path: PathLike) -> None:
    """Write rows of :func:`shift_table` as csv; a message that is None becomes an empty field."""
    import pandas

    with atomic_path(path) as temporary:
        pandas.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)


def _known(shift: str) -> str:
    if shift not in SHIFTS:
        raise InputError(f"shift: {shift!r} is unknown; choose one of {', '.join(SHIFTS)}")
    return shift


def _facts(chunks: Chunks) -> _Facts:
    """Three passes: sums, refinement of the per-element fit (see mlip_studies.data.self_energies), its residuals."""
    whole, sizes, kinds = Moments(), Counter[int](), set[bytes]()
    gram: NDArray[np.int64] | None = None
    moment: FloatArray | None = None
    for x, y in chunks():
        counts = x.astype(np.int64)
        gram = counts.T @ counts if gram is None else gram + counts.T @ counts
        whole.add(y)
        n_atoms, molecules = np.unique(counts.sum(axis=1), return_counts=True)
        sizes.update(dict(zip(n_atoms.tolist(), molecules.tolist(), strict=True)))
        kinds.update(row.tobytes() for row in np.unique(counts, axis=0))
        moment = x.T @ y if moment is None else moment + x.T @ y
    if gram is None or moment is None or whole.n == 0:
        raise InputError("shift check: no energies; choose rows with this label")
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    used = values > _RANK_TOLERANCE * values[-1]
    inverse = (vectors[:, used] / values[used]) @ vectors[:, used].T
    coefficients = inverse @ moment
    # The residuals carry the digits that the totals lost: refine once with their moments, then take the spread.
    correction = np.zeros_like(coefficients)
    for x, y in chunks():
        correction += x.T @ (y - x @ coefficients)
    coefficients = coefficients + inverse @ correction
    rest = Moments()
    for x, y in chunks():
        rest.add(y - x @ coefficients)
    return _Facts(whole.n, len(kinds), whole.mean, whole.std, rest.std, int(used.sum()), sizes)


def _judge(facts: _Facts, shift: str, n_pad: int | None) -> ShiftCheck:
    largest = max(facts.sizes)
    if n_pad is not None and (isinstance(n_pad, bool) or n_pad < largest):
        raise InputError(f"shift check: n_pad: {n_pad}; expected at least {largest}, the atoms of the largest molecule")
    padded = largest if n_pad is None else int(n_pad)
    mixed = facts.n_compositions > 1
    slope = error = 0.0
    if shift == "mean_padded":
        slope = facts.mean / padded
        missing = sum(count * (padded - size) for size, count in facts.sizes.items()) / facts.n_rows
        error = abs(slope) * missing
    spread = facts.per_element_spread if shift == "per_element" else facts.spread
    severity, message = "none", None
    kinds = f"{facts.n_compositions} composition" + ("s" if mixed else "")
    if error > _NO_ERROR_EV:
        severity = "error"
        message = (
            f"shift mean_padded: {kinds}: a perfect network's energies are off by {error:.4g} eV on average, "
            f"{slope:.4g} eV per atom (mean {facts.mean:.6g} eV over n_pad {padded}); use per_element"
        )
    elif mixed and shift != "per_element":
        severity = "warning"
        message = (
            f"shift {shift}: {kinds}: the network has to learn energies that spread by {facts.spread:.4g} eV, "
            f"{facts.per_element_spread:.4g} eV after one energy per element; use per_element"
        )
    return ShiftCheck(
        shift=shift,
        n_rows=facts.n_rows,
        n_compositions=facts.n_compositions,
        mixed=mixed,
        mean_ev=facts.mean,
        n_pad=padded,
        slope_ev_per_atom=slope,
        perfect_network_mae_ev=error,
        spread_ev=spread,
        per_element_spread_ev=facts.per_element_spread,
        rank=facts.rank,
        severity=severity,
        message=message,
    )
