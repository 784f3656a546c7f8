"""Molecules of different sizes, kept on one device and batched by index.

The whole training set stays in device memory; a batch is made there from row numbers, without a loader process.

Edges come in pairs: edge k (i receives from j) and edge k + n_pairs (j receives from i) are each other's reverse. What
is symmetric in the two atoms, like any function of their distance, needs to be computed for the first half only
(:meth:`GraphBatch.symmetric`).

Two forms of a batch exist. A *ragged* one has just its atoms and edges. A *padded* one has the sizes of a
:class:`Budget` whatever molecules it holds, so that a step always runs the same kernels on the same shapes: one more
graph at the end holds the padding atoms, and padding edges connect an atom of it to itself across a displacement that
is longer than the cutoff. Models need no masks: nothing reaches a real molecule from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mlip_studies.errors import InputError
from mlip_studies.graph.pieces import join, twice
from mlip_studies.graph.scatter import gather, scatter_sum


@dataclass(frozen=True)
class Budget:
    """Sizes of a padded batch.

    Attributes:
        graphs: molecules, without the padding graph.
        atoms: atoms, padding included; at least one more than any batch has.
        pairs: unordered pairs, padding included; at least two more than any batch has.
        triplets: ordered pairs of different edges into the same atom, padding included.
        neighbours: largest number of atoms of a molecule (for dense layouts within molecules).
    """

    graphs: int
    atoms: int
    pairs: int
    triplets: int
    neighbours: int

    @staticmethod
    def of_counts(counts: NDArray[np.integer]) -> tuple[int, int, int]:
        """Atoms, pairs and triplets of molecules with these numbers of atoms (n_graphs,), all pairs being edges."""
        n = np.asarray(counts, dtype=np.int64)
        return int(n.sum()), int((n * (n - 1) // 2).sum()), int((n * (n - 1) * (n - 2)).sum())

    def holds(self, counts: NDArray[np.integer]) -> bool:
        """Whether molecules with these numbers of atoms (n_graphs,) fit."""
        atoms, pairs, triplets = self.of_counts(counts)
        return (
            len(counts) == self.graphs
            and atoms < self.atoms
            and pairs + 2 <= self.pairs
            and triplets <= self.triplets
            and int(np.max(counts, initial=0)) <= self.neighbours
        )


@dataclass(frozen=True)
class GraphBatch:
    """A batch of molecules.

    Attributes:
        atomic_numbers: shape (n_atoms,), int64.
        positions: shape (n_atoms, 3), Å.
        graph_index: molecule of each atom, shape (n_atoms,), int64.
        receivers: atom i that an edge's message goes to, shape (n_edges,), int64.
        senders: atom j that it comes from, shape (n_edges,), int64.
        atoms_per_graph: shape (n_graphs,), int64; the padding graph included.
        fidelity: 1 for a row with low-fidelity label, 0 for high fidelity, shape (n_graphs,), int64.
        n_pairs: if given, edges k and k + n_pairs are each other's reverse for all k < n_pairs = n_edges / 2; None for
            edges in any other order, or a directed graph.
        edge_shift: added to the vector of each edge, shape (n_edges, 3), Å; None: nothing is.
        budget: of a padded batch; the last graph is padding then. None for a ragged one.
    """

    atomic_numbers: Tensor
    positions: Tensor
    graph_index: Tensor
    receivers: Tensor
    senders: Tensor
    atoms_per_graph: Tensor
    fidelity: Tensor
    n_pairs: int | None = None
    edge_shift: Tensor | None = None
    budget: Budget | None = None

    @property
    def n_graphs(self) -> int:
        """Number of molecules, the padding graph included."""
        return self.atoms_per_graph.shape[0]

    @property
    def n_atoms(self) -> int:
        """Number of atoms, padding included."""
        return self.atomic_numbers.shape[0]

    @property
    def n_edges(self) -> int:
        """Number of directed edges, padding included."""
        return self.receivers.shape[0]

    @property
    def is_padded(self) -> bool:
        """Whether the last graph is padding."""
        return self.budget is not None

    def with_positions(self, positions: Tensor) -> GraphBatch:
        """The same graph at other positions (n_atoms, 3), Å, for example ones that require gradients."""
        return replace(self, positions=positions)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> GraphBatch:
        """The batch on another device, or with positions of another floating-point type."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = value.to(device, dtype if value.is_floating_point() else None)
        return replace(self, **changed)

    def edge_vectors(self) -> Tensor:
        """R_sender - R_receiver of each edge, shape (n_edges, 3), Å; computed once per pair."""
        if self.n_pairs is None:
            vectors = gather(self.positions, self.senders) - gather(self.positions, self.receivers)
        else:
            half = self.n_pairs
            forward = gather(self.positions, self.senders[:half]) - gather(self.positions, self.receivers[:half])
            vectors = join([forward, -forward])
        return vectors if self.edge_shift is None else vectors + self.edge_shift

    def symmetric(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``function(*inputs)`` for edge quantities that are the same for an edge and its reverse.

        Each input has n_edges rows, shape (n_edges, ...). Where edges come in pairs, only the first half is computed.
        """
        if self.n_pairs is None:
            return function(*inputs)
        return twice(function(*(value[: self.n_pairs] for value in inputs)))

    def reverse_edge(self) -> Tensor:
        """Index of each edge's reverse, shape (n_edges,), int64.

        Raises:
            ValueError: the edges do not come in pairs.
        """
        if self.n_pairs is None:
            raise ValueError("this graph's edges do not come in pairs")
        index = torch.arange(self.n_edges, device=self.receivers.device)
        return torch.cat([index[self.n_pairs :], index[: self.n_pairs]])

    def sum_edges(self, values: Tensor) -> Tensor:
        """Sum of edge values (n_edges, ...) over the edges into each atom, shape (n_atoms, ...)."""
        return scatter_sum(values, self.receivers, self.n_atoms)

    def sum_atoms(self, values: Tensor) -> Tensor:
        """Sum of atomic energies (n_atoms,) or (n_atoms, 1) over each molecule, shape (n_graphs,), float64."""
        return scatter_sum(values.reshape(-1).double(), self.graph_index, self.n_graphs)


@dataclass(frozen=True)
class Labels:
    """What a batch is compared with; padding has zeros.

    Attributes:
        energy: shape (n_graphs,), eV, float64.
        forces: shape (n_atoms, 3), eV/Å, or None.
        graph_weight: 1 for a molecule and 0 for padding, shape (n_graphs,), or None for a ragged batch.
        atom_weight: 1 for an atom and 0 for padding, shape (n_atoms,), or None for a ragged batch.
    """

    energy: Tensor
    forces: Tensor | None = None
    graph_weight: Tensor | None = None
    atom_weight: Tensor | None = None


def all_pairs(atoms_per_graph: Tensor, n_pairs: int | None = None) -> tuple[Tensor, Tensor]:
    """All unordered pairs of distinct atoms within each molecule.

    Pair number k of a molecule of n atoms joins atom i = k mod n with atom i + s (mod n), s = 1 + k div n, which meets
    every pair once for k < n (n - 1) / 2.

    Args:
        atoms_per_graph: shape (n_graphs,), int64.
        n_pairs: sum of n (n - 1) / 2, if known (saves a synchronisation on a GPU).

    Returns:
        the atoms of each pair, two tensors of shape (n_pairs,).
    """
    counts = torch.div(atoms_per_graph * (atoms_per_graph - 1), 2, rounding_mode="floor")
    if n_pairs is None:
        n_pairs = int(counts.sum())
    graph = torch.repeat_interleave(counts, output_size=n_pairs)
    first_pair = torch.cumsum(counts, 0) - counts
    first_atom = torch.cumsum(atoms_per_graph, 0) - atoms_per_graph
    within = torch.arange(n_pairs, device=counts.device) - gather(first_pair, graph)
    n = gather(atoms_per_graph, graph)
    i, j = _pair_of(within, n)
    offset = gather(first_atom, graph)
    return i + offset, j + offset


def _pair_of(number: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms of pair ``number`` in a molecule of ``n`` atoms, see :func:`all_pairs`."""
    turn = torch.div(number, n, rounding_mode="floor")
    i = number - turn * n
    return i, torch.remainder(i + turn + 1, n)


def make_batch(
    molecules: Sequence[tuple[ArrayLike, ArrayLike]],
    cutoff: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fidelity: Sequence[int] | None = None,
) -> GraphBatch:
    """One ragged batch of a few molecules.

    Args:
        molecules: (atomic numbers (n,), positions (n, 3) in Å) of each.
        cutoff: pairs farther apart (Å) are no edges; None keeps all pairs.
        device: where to put it.
        dtype: floating-point type of the positions.
        fidelity: 1 low, 0 high, of each molecule; low if not given.

    Raises:
        InputError: no molecules, or arrays whose shapes do not fit together.
    """
    if len(molecules) == 0:
        raise InputError("a batch needs at least one molecule")
    numbers = [np.asarray(z, dtype=np.int64).reshape(-1) for z, _ in molecules]
    positions = [np.asarray(x, dtype=np.float64) for _, x in molecules]
    for index, (z, x) in enumerate(zip(numbers, positions, strict=True)):
        if x.shape != (len(z), 3):
            raise InputError(
                f"molecule {index}: {len(z)} atomic numbers and positions of shape {x.shape}; expected ({len(z)}, 3)"
            )
    data = RaggedDataset(
        np.concatenate(numbers),
        np.concatenate(positions),
        np.concatenate([[0], np.cumsum([len(z) for z in numbers])]),
        np.zeros(len(numbers)),
        np.ones(len(numbers), dtype=np.int64) if fidelity is None else np.asarray(fidelity),
        device,
        dtype,
        cutoff,
        centre=False,
    )
    return data.batch(np.arange(len(numbers)))[0]


class RaggedDataset:
    """Molecules with their labels, on one device."""

    def __init__(
        self,
        atomic_numbers: NDArray[np.integer],
        positions: NDArray[np.floating],
        ptr: NDArray[np.integer],
        energy: NDArray[np.floating],
        fidelity: NDArray[np.integer] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cutoff: float | None = None,
        forces: NDArray[np.floating] | None = None,
        centre: bool = True,
    ) -> None:
        """Copy arrays to the device.

        Args:
            atomic_numbers: shape (n_atoms,).
            positions: shape (n_atoms, 3), Å.
            ptr: first atom of each molecule, shape (n_graphs + 1,).
            energy: energy to learn, shape (n_graphs,), eV.
            fidelity: 1 low, 0 high, shape (n_graphs,); low if not given.
            device: where to keep everything.
            dtype: floating-point type of positions and forces.
            cutoff: pairs farther apart (Å) are no edges of ragged batches; None keeps all pairs.
            forces: shape (n_atoms, 3), eV/Å.
            centre: move each molecule's mean position to the origin, which keeps single precision exact.
        """
        counts = np.diff(ptr).astype(np.int64)
        positions = np.asarray(positions, dtype=np.float64)
        if centre:
            graph = np.repeat(np.arange(len(counts)), counts)
            mean = np.zeros((len(counts), 3))
            np.add.at(mean, graph, positions)
            positions = positions - (mean / np.maximum(counts, 1)[:, None])[graph]
        self.device = torch.device(device)
        self.dtype = dtype
        self.atomic_numbers = torch.as_tensor(np.asarray(atomic_numbers), dtype=torch.int64, device=self.device)
        self.positions = torch.as_tensor(positions, dtype=dtype, device=self.device)
        self.first_atom = torch.as_tensor(np.asarray(ptr)[:-1].astype(np.int64), device=self.device)
        self.atoms_per_graph = torch.as_tensor(counts, device=self.device)
        self._counts = counts
        self.energy = torch.as_tensor(np.asarray(energy), dtype=torch.float64, device=self.device)
        self.forces = None if forces is None else torch.as_tensor(np.asarray(forces), dtype=dtype, device=self.device)
        fidelity = np.ones(len(counts), dtype=np.int64) if fidelity is None else fidelity
        self.fidelity = torch.as_tensor(np.asarray(fidelity), dtype=torch.int64, device=self.device)
        self.cutoff = None if cutoff is None or self._all_within(positions, ptr, cutoff) else cutoff

    @staticmethod
    def _all_within(positions: NDArray[np.floating], ptr: NDArray[np.integer], cutoff: float) -> bool:
        """Whether no pair of any molecule can be beyond the cutoff: the mask would keep everything."""
        counts = np.diff(ptr)
        if len(positions) == 0:
            return True
        first = positions[np.repeat(np.asarray(ptr)[:-1], counts)]
        distance = np.linalg.norm(positions - first, axis=1)
        return bool(2.0 * distance.max() <= cutoff)

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self._counts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Atoms of each molecule, on the host, shape (len(self),)."""
        return self._counts

    def budget(self, graphs: int, draws: int = 200, margin: float = 1.02, seed: int = 0) -> Budget:
        """A budget that nearly every random batch fits into.

        It is the largest need of ``draws`` random batches times ``margin``; a batch that does not fit is made ragged.

        Args:
            graphs: molecules of a batch.
            draws: random batches to look at.
            margin: factor on the largest need that was seen.
            seed: of the draws.
        """
        rng = np.random.default_rng(seed)
        graphs = min(graphs, len(self))
        needs = np.array([Budget.of_counts(rng.choice(self._counts, graphs, replace=False)) for _ in range(draws)])
        atoms, pairs, triplets = (int(np.ceil(value * margin)) for value in needs.max(axis=0))
        return Budget(graphs, atoms + 1, pairs + 2, triplets, int(self._counts.max()))

    def batch(self, rows: NDArray[np.integer]) -> tuple[GraphBatch, Labels]:
        """The molecules ``rows``, shape (n_graphs,), as one ragged batch, and their labels."""
        counts = self._counts[rows]
        n_atoms, n_pairs, _ = Budget.of_counts(counts)
        index = torch.as_tensor(np.ascontiguousarray(rows), dtype=torch.int64, device=self.device)
        per_graph = gather(self.atoms_per_graph, index)
        graph = torch.repeat_interleave(per_graph, output_size=n_atoms)
        offset = gather(self.first_atom, index) - (torch.cumsum(per_graph, 0) - per_graph)
        atoms = torch.arange(n_atoms, device=self.device) + gather(offset, graph)
        i, j = all_pairs(per_graph, n_pairs)
        positions = gather(self.positions, atoms)
        if self.cutoff is not None:
            near = (gather(positions, i) - gather(positions, j)).norm(dim=1) <= self.cutoff
            i, j = i[near], j[near]
        batch = GraphBatch(
            gather(self.atomic_numbers, atoms),
            positions,
            graph,
            torch.cat([i, j]),
            torch.cat([j, i]),
            per_graph,
            gather(self.fidelity, index),
            n_pairs=i.shape[0],
        )
        forces = None if self.forces is None else gather(self.forces, atoms)
        return batch, Labels(gather(self.energy, index), forces)

    def padded_batch(self, rows: Tensor, budget: Budget, reach: float = 10.0) -> tuple[GraphBatch, Labels]:
        """The molecules ``rows`` as one batch of the budget's sizes, all pairs being edges, and their labels.

        Works on the device without waiting for it, so that it can be captured together with the step.

        Args:
            rows: on the device, int64, shape (budget.graphs,).
            budget: sizes; the caller has checked with :meth:`Budget.holds` that the molecules fit.
            reach: the model's longest cutoff (Å); padding edges are longer.
        """
        real = gather(self.atoms_per_graph, rows)
        n_real = real.sum(dim=0, keepdim=True)
        per_graph = torch.cat([real, budget.atoms - n_real])
        graph = torch.repeat_interleave(per_graph, output_size=budget.atoms)
        is_atom = graph < budget.graphs
        start = torch.cumsum(per_graph, 0) - per_graph
        # Padding atoms repeat the first atom of the first molecule; only their element and place matter to nobody.
        offset = torch.cat([gather(self.first_atom, rows) - start[:-1], -start[-1:]])
        atoms = torch.arange(budget.atoms, device=self.device) + gather(offset, graph)
        atoms = torch.where(is_atom, atoms, self.first_atom[:1])
        pairs_of = torch.div(real * (real - 1), 2, rounding_mode="floor")
        n_pairs_real = pairs_of.sum(dim=0, keepdim=True)
        # A last graph with the remaining pairs: its pairs are replaced below.
        owner = torch.repeat_interleave(torch.cat([pairs_of, budget.pairs - n_pairs_real]), output_size=budget.pairs)
        number = torch.arange(budget.pairs, device=self.device)
        is_pair = owner < budget.graphs
        first_pair = torch.cat([torch.cumsum(pairs_of, 0) - pairs_of, n_pairs_real])
        within = number - gather(first_pair, owner)
        n = gather(per_graph, owner)
        i, j = _pair_of(within, n)
        j = torch.where(is_pair, j, i)
        origin = gather(start, owner)
        i, j = i + origin, j + origin
        positions = gather(self.positions, atoms)
        # Padding pairs join an atom to itself; neighbouring ones are at right angles, so that angles are well defined.
        axis = torch.arange(3, device=self.device)
        along = (torch.remainder(number, 2).unsqueeze(1) == axis).to(self.dtype)
        shift = torch.where(is_pair.unsqueeze(1), torch.zeros_like(along), along * (reach + 1.0))
        weight = is_atom.to(self.dtype)
        batch = GraphBatch(
            gather(self.atomic_numbers, atoms),
            positions,
            graph,
            torch.cat([i, j]),
            torch.cat([j, i]),
            per_graph,
            torch.cat([gather(self.fidelity, rows), self.fidelity[:1]]),
            n_pairs=budget.pairs,
            edge_shift=torch.cat([shift, -shift]),
            budget=budget,
        )
        energy = torch.cat([gather(self.energy, rows), self.energy.new_zeros(1)])
        forces = None if self.forces is None else gather(self.forces, atoms) * weight.unsqueeze(1)
        graph_weight = torch.cat([torch.ones_like(rows), torch.zeros_like(rows[:1])]).double()
        return batch, Labels(energy, forces, graph_weight, weight)
