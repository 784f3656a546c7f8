"""Evaluating a function without keeping its intermediate results, to any order of derivatives.

``torch.utils.checkpoint`` recomputes for the first derivative; a graph of the forces (``create_graph=True``) would keep
everything again. Here the gradient is itself a recomputed function of the same inputs, and so are its gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, function = ctx.saved_tensors, ctx.function
        wanted = [number for number, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        n_inputs = len(inputs)

        def gradient(*values: Tensor) -> tuple[Tensor, ...]:
            # With a graph only where somebody asks for it: a second derivative recomputes this function in turn.
            keep = torch.is_grad_enabled()
            with torch.enable_grad():
                leaves = [
                    value if keep and value.requires_grad else value.detach().requires_grad_(number in wanted)
                    for number, value in enumerate(values[:n_inputs])
                ]
                results = function(*leaves)
                pairs = [
                    (result, grad)
                    for result, grad in zip(results, values[n_inputs:], strict=True)
                    if result.requires_grad
                ]
                found = torch.autograd.grad(
                    [result for result, _ in pairs],
                    [leaves[number] for number in wanted],
                    [grad for _, grad in pairs],
                    create_graph=keep,
                    allow_unused=True,
                    materialize_grads=True,
                )
            return tuple(found)

        found = iter(recomputed(gradient, *inputs, *grads))
        return None, *(next(found) if number in wanted else None for number in range(n_inputs))


def recomputed(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """``function(*inputs)``, whose intermediate results are computed again whenever a derivative needs them.

    Args:
        function: a pure function of its tensor arguments, with a tuple of tensors as its result; what it reads from its
            surroundings must not require gradients.
        inputs: floating-point tensors of any shape.
    """
    if not (torch.is_grad_enabled() and any(value.requires_grad for value in inputs)):
        return function(*inputs)
    outputs: tuple[Tensor, ...] = _Recomputed.apply(function, *inputs)
    return outputs
