"""Attention along the edges of a graph, with cheap second derivatives.

Both functions are products of atoms' and edges' features, followed by sums. Their first and second derivatives are
products and sums of the same kind; written out, they need no intermediate of an edge's features to be kept, and about
half of the passes over such tensors that a chain of elementary operations takes. A third derivative is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum


def _spread(weights: Tensor, heads: tuple[int, ...], width: int) -> Tensor:
    """A head's weight for each of its channels, (n, blocks * width) from (n, sum of heads)."""
    # Spread once and multiplied as often as needed: products that broadcast over a head's few channels are slow.
    spread = weights.new_empty(weights.shape[0], len(heads) * width)
    first = 0
    for block, n in enumerate(heads):
        channels = spread.narrow(1, block * width, width).unflatten(1, (n, width // n))
        channels.copy_(weights.narrow(1, first, n).unsqueeze(2))
        first += n
    return spread


def _head_sums(values: Tensor, heads: tuple[int, ...]) -> Tensor:
    """Sum of the channels of every head, (n, sum of heads) from (n, blocks * width)."""
    blocks = values.split(values.shape[1] // len(heads), dim=1)
    return torch.cat([block.unflatten(1, (n, -1)).sum(2) for block, n in zip(blocks, heads, strict=True)], dim=1)


def _directions(receivers: Tensor, filters: Tensor) -> list[slice]:
    """Ranges of edges whose filters are the rows of ``filters``: two where an edge and its reverse share them."""
    n_edges, n = receivers.shape[0], filters.shape[0]
    return [slice(first, first + n) for first in range(0, n_edges, max(n, 1))]


class _ScoresSlope(Function):
    """Derivatives of the scores times a weight per score."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        filters: Tensor,
        receivers: Tensor,
        senders: Tensor,
        heads: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(grad, query, key, filters, receivers, senders)
        ctx.heads = heads
        n, width = query.shape[0], query.shape[1] // len(heads)
        of_query, of_key, of_filters = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(filters)
        for edges in _directions(receivers, filters):
            i, j = receivers[edges], senders[edges]
            q, k = gather(query, i), gather(key, j)
            spread = _spread(grad[edges], heads, width)
            of_filters.addcmul_(q * k, spread)
            spread.mul_(filters)
            of_query.add_(scatter_sum(k.mul_(spread), i, n))
            of_key.add_(scatter_sum(q.mul_(spread), j, n))
        return of_query, of_key, of_filters

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, query, key, filters, receivers, senders = ctx.saved_tensors
        query_outer, key_outer, filters_outer = outer
        n, width = query.shape[0], query.shape[1] // len(ctx.heads)
        of_query, of_key, of_filters = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(filters)
        of_grad = torch.empty_like(grad)
        for edges in _directions(receivers, filters):
            i, j = receivers[edges], senders[edges]
            q, k = gather(query, i), gather(key, j)
            dq, dk = gather(query_outer, i), gather(key_outer, j)
            mixed = (dq * k).addcmul_(q, dk)
            of_grad[edges] = _head_sums((q * k).mul_(filters_outer).addcmul_(mixed, filters), ctx.heads)
            spread = _spread(grad[edges], ctx.heads, width)
            of_filters.addcmul_(mixed, spread)
            with_outer = spread * filters_outer
            spread.mul_(filters)
            of_query.add_(scatter_sum(dk.mul_(spread).addcmul_(k, with_outer), i, n))
            of_key.add_(scatter_sum(dq.mul_(spread).addcmul_(q, with_outer), j, n))
        return of_grad, of_query, of_key, of_filters, None, None, None


class _Scores(Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        filters: Tensor,
        receivers: Tensor,
        senders: Tensor,
        heads: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(query, key, filters, receivers, senders)
        ctx.heads = heads
        scores = query.new_empty(receivers.shape[0], sum(heads))
        for edges in _directions(receivers, filters):
            product = gather(query, receivers[edges]).mul_(gather(key, senders[edges])).mul_(filters)
            scores[edges] = _head_sums(product, heads)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_ScoresSlope.apply(grad, *ctx.saved_tensors, ctx.heads), None, None, None


def attention_scores(query: Tensor, key: Tensor, filters: Tensor, batch: GraphBatch, heads: tuple[int, ...]) -> Tensor:
    """Sum over a head's channels of q_i w_ij k_j, for every edge and head, shape (n_edges, sum of heads).

    Several blocks, each with its own heads, are done at once; a block's F channels are split evenly.

    Args:
        query: of the receiver i, shape (n_atoms, blocks * F).
        key: of the sender j, shape (n_atoms, blocks * F).
        filters: shape (n_edges, blocks * F), or (n_edges / 2, blocks * F) where edges come in pairs that share them.
        batch: molecules.
        heads: number of heads of each block.
    """
    scores: Tensor = _Scores.apply(query, key, filters, batch.receivers, batch.senders, heads)
    return scores


class _AttendSlope(Function):
    """Derivatives of the attended values times a weight per atom and channel."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weights: Tensor, values: Tensor, receivers: Tensor, senders: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(grad, weights, values, receivers, senders)
        heads = (weights.shape[1],)
        g = gather(grad, receivers)
        of_weights = _head_sums(gather(values, senders).mul_(g), heads)
        leaving = g.mul_(_spread(weights, heads, g.shape[1]))
        return of_weights, scatter_sum(leaving, senders, values.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights_outer: Tensor, values_outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, weights, values, receivers, senders = ctx.saved_tensors
        heads, n = (weights.shape[1],), values.shape[0]
        g, v, dv = gather(grad, receivers), gather(values, senders), gather(values_outer, senders)
        of_weights = _head_sums(dv * g, heads)
        spread = _spread(weights_outer, heads, v.shape[1])
        arriving = v.mul_(spread).addcmul_(dv, _spread(weights, heads, v.shape[1]))
        leaving = g.mul_(spread)
        return scatter_sum(arriving, receivers, n), of_weights, scatter_sum(leaving, senders, n), None, None


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values, receivers, senders)
        messages = gather(values, senders)
        messages.mul_(_spread(weights, (weights.shape[1],), messages.shape[1]))
        return scatter_sum(messages, receivers, values.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_AttendSlope.apply(grad, *ctx.saved_tensors), None, None


def attend(weights: Tensor, values: Tensor, batch: GraphBatch) -> Tensor:
    """Sum over neighbours j of α_ij v_j, head by head, shape (n_atoms, F).

    Args:
        weights: α of every edge, shape (n_edges, heads).
        values: v of the atoms, shape (n_atoms, F); a head has F / heads of these channels.
        batch: molecules.
    """
    attended: Tensor = _Attend.apply(weights, values, batch.receivers, batch.senders)
    return attended
