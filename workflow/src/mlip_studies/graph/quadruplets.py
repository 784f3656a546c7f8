"""Neighbours of atoms in table form, and the dense blocks of triplets and quadruplets that follow from it.

A quadruplet c→a – b←d belongs to an edge c→a, an interaction pair b→a and an edge d→b. Instead of one index per
quadruplet there is one table of the edges into each atom: the block of atom ``a`` holds all (b, c, d) as products of
table rows. Sums over b and d become matrix products, and no list of quadruplets is ever made.

Tables are made on the device. Their widths are the largest degree (one number read back from the device) in a ragged
batch, and follow from the budget, without a synchronisation, in a padded one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum


@dataclass(frozen=True)
class NeighbourTable:
    """Edges into each atom.

    Attributes:
        edge: edge number, shape (n_atoms, width), int64; 0 where there is none.
        valid: whether there is one, shape (n_atoms, width), bool.
        row: place of each edge in the flattened table, shape (n_edges,), int64; n_atoms · width for those of the
            padding graph, which have no place.
        degree: edges into each atom, shape (n_atoms,), int64; 0 for padding atoms.
        complete: every edge has a place (always so in a ragged batch).
    """

    edge: Tensor
    valid: Tensor
    row: Tensor
    degree: Tensor
    complete: bool

    @property
    def width(self) -> int:
        """Places per atom."""
        return self.edge.shape[1]

    def read(self, values: Tensor) -> Tensor:
        """Values of each edge, shape (n_edges, ...), from those of the places, (n_atoms · width, ...); 0 if it has none."""
        if not self.complete:
            values = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return gather(values, self.row)


def neighbour_table(batch: GraphBatch, receivers: Tensor) -> NeighbourTable:
    """Table of the edges into each atom.

    Args:
        batch: molecules; only the numbers of atoms are used.
        receivers: atom that each edge goes to, shape (n_edges,), int64: all edges of the batch, or some of a ragged one.
    """
    n_atoms, n_edges, device = batch.n_atoms, receivers.shape[0], receivers.device
    places = torch.arange(n_edges, device=device)
    degree = scatter_sum(torch.ones_like(receivers), receivers, n_atoms)
    order = torch.argsort(receivers, stable=True)
    first = torch.cumsum(degree, 0) - degree
    rank = torch.empty_like(places).scatter_(0, order, places) - gather(first, receivers)
    if batch.budget is None:
        width = max(int(degree.max()), 1) if n_atoms else 1
        row = gather(torch.arange(n_atoms, device=device) * width, receivers) + rank
    else:
        # All pairs are edges, so that a molecule's atoms have one less neighbour than there are atoms.
        width = max(batch.budget.neighbours - 1, 1)
        is_real = batch.graph_index < batch.n_graphs - 1
        degree = torch.where(is_real, degree, 0)
        row = torch.where(gather(is_real, receivers), receivers * width + rank, n_atoms * width)
    # The last element collects edges without a place.
    edge = places.new_zeros(n_atoms * width + 1).scatter_(0, row, places)[:-1].view(n_atoms, width)
    valid = torch.arange(width, device=device) < degree.unsqueeze(1)
    return NeighbourTable(torch.where(valid, edge, 0), valid, row, degree, complete=batch.budget is None)


@dataclass(frozen=True)
class QuadrupletBlock:
    """Quadruplets c→a – b←d of some atoms a; A atoms, B pairs, C edges into each of them, D edges into each b.

    Attributes:
        into_a: edge c→a, shape (A, C), int64.
        pairs: interaction pair b→a, shape (A, B), int64.
        into_b: edge d→b, shape (A, B, D), int64.
        with_c: c→a and b→a exist and c ≠ b, shape (A, C, B), bool.
        with_d: b→a and d→b exist and d ≠ a, shape (A, B, D), bool.
        same: c is d, shape (A, B, C, D), bool; or None.
    """

    into_a: Tensor
    pairs: Tensor
    into_b: Tensor
    with_c: Tensor
    with_d: Tensor
    same: Tensor | None


@dataclass(frozen=True)
class Quadruplets:
    """All quadruplets of a batch, in blocks.

    Attributes:
        blocks: they hold every edge c→a once.
        row: place of each edge among the blocks' (A, C) places one after another, shape (n_edges,), int64; one past
            the end for edges of the padding graph.
        complete: every edge has a place.
    """

    blocks: list[QuadrupletBlock]
    row: Tensor
    complete: bool

    def read(self, values: list[Tensor]) -> Tensor:
        """Values of each edge (n_edges, ...) from those of the blocks' places, (A · C, ...) each; 0 if it has none."""
        if not self.complete:
            values = [*values, values[0].new_zeros(1, *values[0].shape[1:])]
        return gather(torch.cat(values), self.row)


def quadruplet_blocks(
    batch: GraphBatch,
    receivers: Tensor,
    senders: Tensor,
    pair_receivers: Tensor,
    pair_senders: Tensor,
    chunk: int | None = None,
) -> Quadruplets:
    """Quadruplets of a batch.

    Args:
        batch: molecules.
        receivers: atoms a of the embedding graph's edges c→a, shape (n_edges,), int64.
        senders: their atoms c.
        pair_receivers: atoms a of the interaction graph's pairs b→a, shape (n_interactions,), int64.
        pair_senders: their atoms b.
        chunk: atoms a of a block; None: all in one.
    """
    into, partners = neighbour_table(batch, receivers), neighbour_table(batch, pair_receivers)
    n_atoms, device = batch.n_atoms, receivers.device
    chunk = max(n_atoms, 1) if chunk is None else chunk
    starts = range(0, n_atoms, chunk)
    if batch.budget is None:
        # Atoms of similar degrees share a block, so that little of it is empty.
        reach = torch.zeros_like(into.degree).scatter_reduce_(
            0, pair_receivers, gather(into.degree, pair_senders), "amax", include_self=True
        )
        numbers = torch.stack([partners.degree, reach, into.degree]).tolist()
        sequence = sorted(range(n_atoms), key=list(zip(*numbers, strict=True)).__getitem__)
        widths = [
            [max(max(column[atom] for atom in sequence[start : start + chunk]), 1) for column in numbers]
            for start in starts
        ]
        atoms = torch.tensor(sequence, dtype=torch.int64, device=device)
    else:
        widths = [[partners.width, into.width, into.width] for _ in starts]
        atoms = torch.arange(n_atoms, device=device)

    blocks, place, end = [], torch.empty_like(atoms), 0
    for start, (n_b, n_d, n_c) in zip(starts, widths, strict=True):
        a = atoms[start : start + chunk]
        n_a = a.shape[0]
        into_a, has_c = gather(into.edge, a)[:, :n_c], gather(into.valid, a)[:, :n_c]
        pairs, has_b = gather(partners.edge, a)[:, :n_b], gather(partners.valid, a)[:, :n_b]
        b = gather(pair_senders, pairs.reshape(-1))
        into_b = gather(into.edge, b)[:, :n_d].reshape(n_a, n_b, n_d)
        has_d = gather(into.valid, b)[:, :n_d].reshape(n_a, n_b, n_d)
        b = b.view(n_a, n_b)
        c = gather(senders, into_a.reshape(-1)).view(n_a, n_c)
        d = gather(senders, into_b.reshape(-1)).view(n_a, n_b, n_d)
        blocks.append(
            QuadrupletBlock(
                into_a,
                pairs,
                into_b,
                has_c.unsqueeze(2) & has_b.unsqueeze(1) & (c.unsqueeze(2) != b.unsqueeze(1)),
                has_b.unsqueeze(2) & has_d & (d != a.view(-1, 1, 1)),
                c.view(n_a, 1, n_c, 1) == d.unsqueeze(2),
            )
        )
        place.scatter_(0, a, end + n_c * torch.arange(n_a, device=device))
        end += n_a * n_c
    rank = into.row - receivers * into.width
    row = gather(place, receivers) + rank
    if not into.complete:
        row = torch.where(into.row < n_atoms * into.width, row, end)
    return Quadruplets(blocks, row, into.complete)
