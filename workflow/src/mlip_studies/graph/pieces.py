"""Cutting and joining tensors, with derivatives of every order that are cuts and joins again.

torch differentiates a slice by filling a tensor of the full size with zeros. In a training step with forces that
happens for each piece of each ``cat`` (the derivative of its derivative), and takes longer than the sums between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Join(Function):
    @staticmethod
    def forward(ctx: Any, dim: int, *parts: Tensor) -> Tensor:
        ctx.dim, ctx.sizes = dim, [part.shape[dim] for part in parts]
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Cut.apply(grad, ctx.dim, ctx.sizes)


class _Cut(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, dim: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.dim = dim
        parts: tuple[Tensor, ...] = value.split(list(sizes), dim=dim)
        return parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Join.apply(ctx.dim, *grads), None, None


class _Twice(Function):
    @staticmethod
    def forward(ctx: Any, half: Tensor) -> Tensor:
        return torch.cat([half, half])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        folded: Tensor = _Fold.apply(grad)
        return folded


class _Fold(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        half = value.shape[0] // 2
        return value[:half] + value[half:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        doubled: Tensor = _Twice.apply(grad)
        return doubled


class _Swap(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        half = value.shape[0] // 2
        return torch.cat([value[half:], value[:half]])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        swapped: Tensor = _Swap.apply(grad)
        return swapped


class _Route(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return values.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _Route.apply(grad, back, there), None, None


def join(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat(parts, dim)`` of parts of any shape that fit."""
    return parts[0] if len(parts) == 1 else _Join.apply(dim, *parts)


def cut(value: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """``value.split(sizes, dim)`` of any shape; the pieces must not be changed in place."""
    return (value,) if len(sizes) == 1 else _Cut.apply(value, dim, list(sizes))


def stack(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.stack(parts, dim)`` of parts of the same shape."""
    return join([part.unsqueeze(dim) for part in parts], dim)


def unstack(value: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """``value.unbind(dim)`` of any shape; the pieces must not be changed in place."""
    return tuple(part.squeeze(dim) for part in cut(value, [1] * value.shape[dim], dim))


def twice(half: Tensor) -> Tensor:
    """``torch.cat([half, half])``, shape (2 n, ...) from (n, ...): edges share the values of their reverses."""
    doubled: Tensor = _Twice.apply(half)
    return doubled


def swap_halves(value: Tensor) -> Tensor:
    """The second half of the rows, then the first half, shape (n, ...), n even: values of the reverse edges."""
    swapped: Tensor = _Swap.apply(value)
    return swapped


def route(values: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Rows ``there`` of ``values``, where rows ``back`` of the result are ``values``.

    Both directions are reads: no gradient is summed over rows. Rows of the result that ``back`` does not read get
    arbitrary values, and their gradients go astray: what is made of them must be multiplied by zeros.

    Args:
        values: shape (n, ...).
        there: shape (m,), int64, each below n.
        back: shape (n,), int64, each below m.
    """
    routed: Tensor = _Route.apply(values, there, back)
    return routed
