"""What a store holds, in one streaming pass: composition, sizes, energies per group and the distribution of forces.

Counts per group and the columns of a store stay in memory; positions are not read, labels and forces pass by in chunks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.data.store import Rows, Store
from mlip_studies.elements import composition, symbol

# Logarithmic bins, in eV/Å for forces and in eV for energy ranges; what lies outside is counted in the end bins.
FORCE_EDGES = np.logspace(-6, 5, 20 * 11 + 1)
RANGE_EDGES = np.logspace(-6, 6, 10 * 12 + 1)
PROVENANCE_KEYS = ("dataset", "title", "levels", "licence", "citation", "sources")


@dataclass
class _LogHistogram:
    """Counts of positive numbers in fixed logarithmic bins; zeros are counted apart."""

    edges: NDArray[np.float64]
    zeros: int = 0
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)

    def add(self, values: NDArray[np.floating]) -> None:
        positive = values[values > 0]
        self.zeros += len(values) - len(positive)
        bins = np.clip(np.searchsorted(self.edges, positive, side="right") - 1, 0, len(self.counts) - 1)
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def content(self) -> dict[str, Any]:
        """Edges and counts without the empty bins at both ends."""
        filled = np.flatnonzero(self.counts)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        return {
            "edges": self.edges[first : last + 1].tolist() if last else [],
            "counts": self.counts[first:last].tolist(),
            "zeros": self.zeros,
        }


@dataclass
class _Energies:
    """Running statistics of one energy column, and its lowest and highest value per group."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    labeled: NDArray[np.int64]
    n: int = 0
    shift: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, n_groups: int) -> _Energies:
        return cls(np.full(n_groups, np.inf), np.full(n_groups, -np.inf), np.zeros(n_groups, dtype=np.int64))

    def add(self, energy: NDArray[np.float64], group: NDArray[np.integer]) -> None:
        finite = np.isfinite(energy)
        energy, group = energy[finite], group[finite]
        if len(energy) == 0:
            return
        if self.n == 0:
            self.shift = float(energy.mean())  # keeps the digits of the spread of large totals
        self.n += len(energy)
        self.total += float((energy - self.shift).sum())
        self.squares += float(((energy - self.shift) ** 2).sum())
        np.minimum.at(self.low, group, energy)
        np.maximum.at(self.high, group, energy)
        self.labeled += np.bincount(group, minlength=len(self.labeled))

    def content(self, one_composition: NDArray[np.bool_]) -> dict[str, Any]:
        if self.n == 0:
            return {"rows": 0, "energy": None, "group_energy_range": None}
        mean = self.total / self.n
        several = (self.labeled > 1) & one_composition
        spread = (self.high - self.low)[several]
        histogram = _LogHistogram(RANGE_EDGES)
        histogram.add(spread)
        return {
            "rows": self.n,
            "energy": {
                "min_ev": float(self.low.min()),
                "max_ev": float(self.high.max()),
                "mean_ev": self.shift + mean,
                "std_ev": float(np.sqrt(max(self.squares / self.n - mean**2, 0.0))),
            },
            "group_energy_range": {
                "groups": int(several.sum()),
                "left_out": {
                    "one_row": int((self.labeled == 1).sum()),
                    "several_compositions": int(((self.labeled > 1) & ~one_composition).sum()),
                },
                "min_ev": float(spread.min()) if len(spread) else None,
                "median_ev": float(np.median(spread)) if len(spread) else None,
                "max_ev": float(spread.max()) if len(spread) else None,
                "histogram": histogram.content(),
            },
        }


@dataclass
class _Forces:
    """Running statistics of the norms of atomic forces."""

    rows: int = 0
    atoms: int = 0
    total: float = 0.0
    squares: float = 0.0
    highest: float = 0.0
    histogram: _LogHistogram = field(default_factory=lambda: _LogHistogram(FORCE_EDGES))

    def add(self, chunk: Rows, name: str) -> None:
        # float32 squares overflow for the broken records that this is to show.
        norm = np.sqrt(np.einsum("ij,ij->i", chunk.forces[name], chunk.forces[name], dtype=np.float64))
        known = np.isfinite(norm)
        # A row has all of its force components or none (the store checks that), so its first atom tells.
        self.rows += int(known[chunk.ptr[:-1]].sum())
        norm = norm[known]
        if len(norm) == 0:
            return
        self.atoms += len(norm)
        self.total += float(norm.sum())
        self.squares += float((norm**2).sum())
        self.highest = max(self.highest, float(norm.max()))
        self.histogram.add(norm)

    def content(self) -> dict[str, Any] | None:
        if self.atoms == 0:
            return None
        return {
            "rows": self.rows,
            "atoms": self.atoms,
            "mean_ev_per_angstrom": self.total / self.atoms,
            "rms_ev_per_angstrom": float(np.sqrt(self.squares / self.atoms)),
            "max_ev_per_angstrom": self.highest,
            "histogram": self.histogram.content(),
        }


def summarise_store(store: Store, chunk_rows: int = 32768) -> dict[str, Any]:
    """Describe a data set.

    Args:
        store: the data.
        chunk_rows: rows in memory at a time.

    Returns:
        JSON-ready description. ``elements``: rows and atoms of each element that occurs. ``n_atoms`` per row, with the
        number of rows of each size. ``subsets``: rows and groups by the group fact ``subset``. ``displacement``: rows
        with and without displacement (None if the data set does not tell). Per fidelity: statistics of the energies
        (eV), the range of the energies within each group of one composition and at least two labels (eV), and the
        distribution of the norms of atomic forces (eV/Å; None without forces). ``sources``, ``levels``, ``licence`` and
        ``citation`` are copied from the provenance of the store.

    Raises:
        InputError: the store is damaged, or holds an element that it does not declare.
    """
    declared = store.elements
    n_groups = len(store.group_names)
    rows_of_group = np.zeros(n_groups, dtype=np.int64)
    # Groups are compared by a weighted sum of their composition; wrap-around of the integers is meant.
    weights = np.random.default_rng(0).integers(1, 2**62, len(declared))
    lowest = np.full(n_groups, np.iinfo(np.int64).max)
    highest = np.full(n_groups, np.iinfo(np.int64).min)
    element_rows = np.zeros(len(declared), dtype=np.int64)
    element_atoms = np.zeros(len(declared), dtype=np.int64)
    sizes: Counter[int] = Counter()
    energies = {name: _Energies.of(n_groups) for name in store.fidelities}
    forces = {name: _Forces() for name in store.force_fidelities}
    for chunk in store.iter_chunks(chunk_rows, positions=False):
        counts = composition(chunk.atomic_numbers, chunk.ptr, declared)
        element_rows += (counts > 0).sum(axis=0)
        element_atoms += counts.sum(axis=0)
        values, numbers = np.unique(chunk.n_atoms, return_counts=True)
        sizes.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        rows_of_group += np.bincount(chunk.group, minlength=n_groups)
        signature = counts @ weights
        np.minimum.at(lowest, chunk.group, signature)
        np.maximum.at(highest, chunk.group, signature)
        for name, entry in energies.items():
            entry.add(chunk.energy[name], chunk.group)
        for name, statistics in forces.items():
            statistics.add(chunk, name)

    one_composition = lowest == highest
    ordered = sorted(sizes)
    occupied = rows_of_group[rows_of_group > 0]
    return {
        **{key: store.provenance.get(key) for key in PROVENANCE_KEYS},
        "n_rows": store.n_rows,
        "n_groups": len(occupied),
        "rows_per_group": {
            "min": int(occupied.min()),
            "median": float(np.median(occupied)),
            "max": int(occupied.max()),
        },
        "elements": [
            {"element": symbol(number), "rows": int(n_rows), "atoms": int(n_atoms)}
            for number, n_rows, n_atoms in zip(declared, element_rows, element_atoms, strict=True)
            if n_rows
        ],
        "n_atoms": {
            "min": ordered[0],
            "max": ordered[-1],
            "mean": int(element_atoms.sum()) / store.n_rows,
            "sizes": ordered,
            "rows": [sizes[size] for size in ordered],
        },
        "subsets": _subsets(store, rows_of_group),
        "displacement": _displacement(store),
        "fidelities": {
            name: {**entry.content(one_composition), "forces": forces[name].content() if name in forces else None}
            for name, entry in energies.items()
        },
    }


def _subsets(store: Store, rows_of_group: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Rows and groups of each subset, largest first; empty if the data set has none."""
    if "subset" not in store.info_names:
        return []
    rows: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    for name, count in zip(store.group_info("subset"), rows_of_group.tolist(), strict=True):
        rows[name] += count
        groups[name] += 1
    return [{"subset": name, "rows": count, "groups": groups[name]} for name, count in rows.most_common()]


def _displacement(store: Store) -> dict[str, int] | None:
    if "displacement" not in store.columns:
        return None
    values = store.column("displacement")
    counts = {"equilibrium": int((values == 0).sum()), "displaced": int((values > 0).sum())}
    unknown = store.n_rows - sum(counts.values())  # -1 or NaN
    return {**counts, **({"unknown": unknown} if unknown else {})}


def write_summary(store: PathLike, path: PathLike) -> None:
    """Describe a store in a JSON file (see :func:`summarise_store`).

    Raises:
        InputError: the store is missing or damaged.
    """
    with Store(store) as opened:
        content = summarise_store(opened)
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
