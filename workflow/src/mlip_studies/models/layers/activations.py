"""Activation functions with cheap second derivatives.

Forces are trained through the second derivatives of every activation. Those that torch composes take several passes
over the edges' features each; here the first derivative is kept from the forward pass, and the second one is in closed
form. A third derivative is refused.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: from here on ln(1 + exp(x)) is x in double precision; torch's own limit of 20 makes a step of 2e-9 in value and slope
THRESHOLD = 40.0


class _SoftplusSlope(Function):
    """grad · σ(x)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, sigmoid: Tensor) -> Tensor:
        ctx.save_for_backward(grad, sigmoid)
        return grad * sigmoid

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        grad, sigmoid = ctx.saved_tensors
        return outer * sigmoid, torch.ops.aten.sigmoid_backward(outer * grad, sigmoid), None


class _ShiftedSoftplus(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, torch.sigmoid(x))
        return functional.softplus(x, threshold=THRESHOLD).sub_(math.log(2.0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = _SoftplusSlope.apply(grad, *ctx.saved_tensors)
        return slope


def shifted_softplus(x: Tensor) -> Tensor:
    """ln(1 + exp(x)) - ln 2 of any shape (K. T. Schütt et al., J. Chem. Phys. 148, 241722, 2018, eq. 7)."""
    if torch.is_grad_enabled() and x.requires_grad:
        value: Tensor = _ShiftedSoftplus.apply(x)
        return value
    return functional.softplus(x, threshold=THRESHOLD) - math.log(2.0)


class _SiLUSlope(Function):
    """grad · s'(x) for s(x) = x σ(x): s' = σ + s - s σ and s'' = (1 - σ)(2 s' - s)."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, value: Tensor, sigmoid: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(grad, value, sigmoid, slope)
        return grad * slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad, value, sigmoid, slope = ctx.saved_tensors
        curve = torch.sub(slope, value, alpha=0.5).mul_(grad).mul_(outer)
        curve.addcmul_(curve, sigmoid, value=-1.0).mul_(2.0)
        return outer * slope, curve, None, None, None


class _SiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(x)
        value = x * sigmoid
        slope = (sigmoid + value).addcmul_(value, sigmoid, value=-1.0)
        ctx.save_for_backward(x, value, sigmoid, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = _SiLUSlope.apply(grad, *ctx.saved_tensors)
        return slope


def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit (swish) x / (1 + exp(-x)) of any shape (S. Elfwing et al., Neural Networks 107, 3, 2018)."""
    if torch.is_grad_enabled() and x.requires_grad:
        value: Tensor = _SiLU.apply(x)
        return value
    return functional.silu(x)
