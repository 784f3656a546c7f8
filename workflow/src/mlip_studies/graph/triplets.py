"""Pairs of edges that meet in an atom, made on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum


def edge_pairs(batch: GraphBatch) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different edges into the same atom.

    Returns:
        ``edge`` and ``other``, each of shape (n_triplets,), int64: for an edge c→a, every edge b→a with b ≠ c; sorted
        by ``edge``. In a padded batch there are ``budget.triplets`` of them, and those that are left over pair the last
        two padding edges.
    """
    receivers = batch.receivers
    n_edges, device = batch.n_edges, receivers.device
    degree = scatter_sum(torch.ones_like(receivers), receivers, batch.n_atoms)
    order = torch.argsort(receivers, stable=True)
    first = torch.cumsum(degree, 0) - degree
    place = torch.arange(n_edges, device=device)
    # rank of each edge among those into its atom
    rank = torch.empty_like(place).scatter_(0, order, place) - gather(first, receivers)
    counts = gather(degree, receivers) - 1
    if batch.budget is None:
        edge = torch.repeat_interleave(counts)
        is_real = None
    else:
        counts = torch.where(gather(batch.graph_index, receivers) < batch.n_graphs - 1, counts, 0)
        number = torch.arange(batch.budget.triplets, device=device)
        edge = torch.searchsorted(torch.cumsum(counts, 0), number, right=True).clamp(max=n_edges - 1)
        is_real = number < counts.sum()
    within = torch.arange(edge.shape[0], device=device) - gather(torch.cumsum(counts, 0) - counts, edge)
    slot = within + (within >= gather(rank, edge)).to(within.dtype)
    start = gather(first, gather(receivers, edge))
    if is_real is None:
        return edge, gather(order, start + slot)
    slot = torch.where(is_real, start + slot, 0)
    other = gather(order, slot)
    return torch.where(is_real, edge, n_edges - 1), torch.where(is_real, other, n_edges - 2)
