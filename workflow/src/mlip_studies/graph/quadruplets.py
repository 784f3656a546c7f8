"""Neighbours of atoms in table form, and the dense blocks of triplets and quadruplets that follow from it.

A triplet is a pair of edges c→a←b; a quadruplet c→a – b←d belongs to an edge c→a, an interaction pair b→a and an edge
d→b. Instead of one index per quadruplet there is one table of the edges into each atom: the block of atom ``a`` holds
all (b, c, d) as products of table rows. Sums over b and d become matrix products; no list of quadruplets is made.

Tables are made on the device. Their widths are the largest degree (one number read back from the device) in a ragged
batch, and follow from the budget, without a synchronisation, in a padded one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.pieces import route
from mlip_studies.graph.scatter import gather, scatter_sum


@dataclass(frozen=True)
class Places:
    """Places of a table that hold each edge once; some may be empty.

    What is computed for an empty place must be multiplied by zeros before it is summed with anything; values and
    gradients there are arbitrary (those of edge 0).

    Attributes:
        edge: edge at each place, shape (n_places,), int64; 0 at empty ones.
        row: place of each edge, shape (n_edges,), int64; n_places for edges of the padding graph, which have none.
        complete: every edge has a place (always so in a ragged batch).
    """

    edge: Tensor
    row: Tensor
    complete: bool

    def take(self, values: Tensor) -> Tensor:
        """Values of the places (n_places, ...) from those of the edges (n_edges, ...)."""
        return route(values, self.edge, self.row) if self.complete else gather(values, self.edge)

    def read(self, values: Tensor) -> Tensor:
        """Values of the edges (n_edges, ...) from those of the places (n_places, ...); 0 for edges without a place."""
        if self.complete:
            return route(values, self.row, self.edge)
        return gather(torch.cat([values, values.new_zeros(1, *values.shape[1:])]), self.row)


@dataclass(frozen=True)
class NeighbourTable:
    """Edges into each atom.

    Attributes:
        edge: edge number, shape (n_atoms, width), int64; 0 where there is none.
        valid: whether there is one, shape (n_atoms, width), bool.
        rank: column of each edge, shape (n_edges,), int64.
        placed: whether an edge is in the table, shape (n_edges,), bool; None: all are, as in a ragged batch.
        degree: edges into each atom, shape (n_atoms,), int64; 0 for padding atoms.
    """

    edge: Tensor
    valid: Tensor
    rank: Tensor
    placed: Tensor | None
    degree: Tensor

    @property
    def width(self) -> int:
        """Columns."""
        return self.edge.shape[1]

    def places(self, receivers: Tensor, atoms: Tensor, blocks: list[tuple[int, int]]) -> Places:
        """Places of the edges when the rows of the table are cut into blocks of different widths, one after another.

        Args:
            receivers: atom that each edge goes to, shape (n_edges,), int64.
            atoms: sequence of the rows, shape (n_atoms,), int64.
            blocks: number of rows and width of each block.
        """
        edges, starts, row, end = [], torch.empty_like(atoms), 0, 0
        for n_rows, width in blocks:
            of_block = atoms[row : row + n_rows]
            edges.append(gather(self.edge, of_block)[:, :width].reshape(-1))
            starts.scatter_(0, of_block, end + width * torch.arange(n_rows, device=atoms.device))
            row, end = row + n_rows, end + n_rows * width
        place = gather(starts, receivers) + self.rank
        if self.placed is not None:
            place = torch.where(self.placed, place, end)
        return Places(torch.cat(edges), place, self.placed is None)


def neighbour_table(batch: GraphBatch, receivers: Tensor) -> NeighbourTable:
    """Table of the edges into each atom.

    Args:
        batch: molecules; only the numbers of atoms are used.
        receivers: atom that each edge goes to, shape (n_edges,), int64; of all edges, or some of a ragged batch.
    """
    n_atoms, n_edges, device = batch.n_atoms, receivers.shape[0], receivers.device
    numbers = torch.arange(n_edges, device=device)
    degree = scatter_sum(torch.ones_like(receivers), receivers, n_atoms)
    order = torch.argsort(receivers, stable=True)
    first = torch.cumsum(degree, 0) - degree
    rank = torch.empty_like(numbers).scatter_(0, order, numbers) - gather(first, receivers)
    if batch.budget is None:
        width, placed = (max(int(degree.max()), 1) if n_atoms else 1), None
        place = receivers * width + rank
    else:
        # All pairs are edges, so that a molecule's atoms have one less neighbour than there are atoms.
        width = max(batch.budget.neighbours - 1, 1)
        is_real = batch.graph_index < batch.n_graphs - 1
        placed = gather(is_real, receivers)
        degree = torch.where(is_real, degree, 0)
        place = torch.where(placed, receivers * width + rank, n_atoms * width)
    # The last element collects edges without a place.
    edge = numbers.new_zeros(n_atoms * width + 1).scatter_(0, place, numbers)[:-1].view(n_atoms, width)
    valid = torch.arange(width, device=device) < degree.unsqueeze(1)
    return NeighbourTable(torch.where(valid, edge, 0), valid, rank, placed, degree)


def _chunks(n: int, chunk: int | None) -> list[int]:
    """Sizes of the chunks of n rows."""
    chunk = max(n, 1) if chunk is None else chunk
    return [min(chunk, n - start) for start in range(0, n, chunk)]


def _sequence(columns: list[list[int]], chunks: list[int]) -> tuple[list[int], list[list[int]]]:
    """Rows sorted by some sizes, so that those of a chunk are alike, and for each chunk the largest of each size."""
    sequence = sorted(range(len(columns[0])), key=list(zip(*columns, strict=True)).__getitem__)
    largest, start = [], 0
    for n in chunks:
        rows = sequence[start : start + n]
        largest.append([max(max(column[row] for row in rows), 1) for column in columns])
        start += n
    return sequence, largest


@dataclass(frozen=True)
class TripletBlock:
    """Triplets c→a←b of some atoms a: A atoms, K edges into each.

    Attributes:
        edges: edges into a, shape (A, K), int64.
        different: both edges exist and are different, shape (A, K, K), bool.
    """

    edges: Tensor
    different: Tensor


@dataclass(frozen=True)
class Triplets:
    """All triplets of a batch, in blocks.

    Attributes:
        blocks: they hold every edge once.
        places: of the edges, block after block.
    """

    blocks: list[TripletBlock]
    places: Places


def triplet_blocks(batch: GraphBatch, receivers: Tensor, table: NeighbourTable, chunk: int | None = None) -> Triplets:
    """Triplets of a batch.

    Args:
        batch: molecules.
        receivers: atoms a of the edges, shape (n_edges,), int64.
        table: of these edges.
        chunk: atoms of a block; None: all in one.
    """
    device = receivers.device
    if table.placed is None:
        chunks = _chunks(batch.n_atoms, chunk)
        sequence, largest = _sequence([table.degree.tolist()], chunks)
        widths = [width for (width,) in largest]
        atoms = torch.tensor(sequence, dtype=torch.int64, device=device)
    else:
        # Nothing is known of the atoms before the step: blocks would all have the same width.
        chunks, widths = [batch.n_atoms], [table.width]
        atoms = torch.arange(batch.n_atoms, device=device)
    blocks = []
    for a, width in zip(atoms.split(chunks), widths, strict=True):
        valid = gather(table.valid, a)[:, :width]
        both = valid.unsqueeze(2) & valid.unsqueeze(1)
        blocks.append(
            TripletBlock(gather(table.edge, a)[:, :width], both & ~torch.eye(width, dtype=torch.bool, device=device))
        )
    return Triplets(blocks, table.places(receivers, atoms, list(zip(chunks, widths, strict=True))))


@dataclass(frozen=True)
class QuadrupletBlock:
    """Quadruplets c→a – b←d of some atoms a; A atoms, B pairs, C edges into each of them, D edges into each b.

    Attributes:
        into_a: edge c→a, shape (A, C), int64.
        pairs: interaction pair b→a, shape (A, B), int64.
        into_b: edge d→b, shape (A, B, D), int64.
        with_c: c→a and b→a exist and c ≠ b, shape (A, C, B), bool.
        with_d: b→a and d→b exist and d ≠ a, shape (A, B, D), bool.
        same: d exists and is c, shape (A, B, C, D), bool.
    """

    into_a: Tensor
    pairs: Tensor
    into_b: Tensor
    with_c: Tensor
    with_d: Tensor
    same: Tensor


@dataclass(frozen=True)
class Quadruplets:
    """All quadruplets of a batch, in blocks.

    Attributes:
        blocks: they hold every edge c→a once.
        places: of the edges among the blocks' (A, C) places, block after block.
    """

    blocks: list[QuadrupletBlock]
    places: Places


def quadruplet_blocks(
    batch: GraphBatch,
    receivers: Tensor,
    senders: Tensor,
    pair_receivers: Tensor,
    pair_senders: Tensor,
    into: NeighbourTable,
    chunk: int | None = None,
) -> Quadruplets:
    """Quadruplets of a batch.

    Args:
        batch: molecules.
        receivers: atoms a of the embedding graph's edges c→a, shape (n_edges,), int64.
        senders: their atoms c.
        pair_receivers: atoms a of the interaction graph's pairs b→a, shape (n_interactions,), int64.
        pair_senders: their atoms b.
        into: table of the embedding graph's edges.
        chunk: atoms a of a block; None: all in one.
    """
    partners = neighbour_table(batch, pair_receivers)
    n_atoms, device = batch.n_atoms, receivers.device
    chunks = _chunks(n_atoms, chunk)
    if into.placed is None:
        reach = torch.zeros_like(into.degree).scatter_reduce_(
            0, pair_receivers, gather(into.degree, pair_senders), "amax", include_self=True
        )
        sequence, widths = _sequence(torch.stack([partners.degree, reach, into.degree]).tolist(), chunks)
        atoms = torch.tensor(sequence, dtype=torch.int64, device=device)
    else:
        widths = [[partners.width, into.width, into.width] for _ in chunks]
        atoms = torch.arange(n_atoms, device=device)

    blocks = []
    for a, (n_b, n_d, n_c) in zip(atoms.split(chunks), widths, strict=True):
        n_a = a.shape[0]
        into_a, has_c = gather(into.edge, a)[:, :n_c], gather(into.valid, a)[:, :n_c]
        pairs, has_b = gather(partners.edge, a)[:, :n_b], gather(partners.valid, a)[:, :n_b]
        b = gather(pair_senders, pairs.reshape(-1))
        into_b = gather(into.edge, b)[:, :n_d].reshape(n_a, n_b, n_d)
        has_d = gather(into.valid, b)[:, :n_d].reshape(n_a, n_b, n_d)
        b = b.view(n_a, n_b)
        c = gather(senders, into_a.reshape(-1)).view(n_a, n_c)
        d = gather(senders, into_b.reshape(-1)).view(n_a, n_b, n_d)
        with_d = has_b.unsqueeze(2) & has_d & (d != a.view(-1, 1, 1))
        blocks.append(
            QuadrupletBlock(
                into_a,
                pairs,
                into_b,
                has_c.unsqueeze(2) & has_b.unsqueeze(1) & (c.unsqueeze(2) != b.unsqueeze(1)),
                with_d,
                (c.view(n_a, 1, n_c, 1) == d.unsqueeze(2)) & with_d.unsqueeze(2),
            )
        )
    sizes = [(n, n_c) for n, (_, _, n_c) in zip(chunks, widths, strict=True)]
    return Quadruplets(blocks, into.places(receivers, atoms, sizes))
