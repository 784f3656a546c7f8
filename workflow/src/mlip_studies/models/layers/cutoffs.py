"""Functions that switch interactions off smoothly at a cutoff: 1 at distance 0, and exactly 0 from the cutoff on.

Each takes distances (n,) in Å and the cutoff in Å and returns (n,). Where the cutoff is None, nothing is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mlip_studies.errors import InputError


def cosine_cutoff(d: Tensor, cutoff: float) -> Tensor:
    """(cos(π d/c) + 1) / 2, with one continuous derivative at the cutoff; d of any shape in the unit of c (Å).

    Source: J. Behler, J. Chem. Phys. 134, 074106 (2011).
    """
    value = 0.5 * (torch.cos(d * (math.pi / cutoff)) + 1.0)
    return value * (d < cutoff)


def polynomial_cutoff(d: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), x = d/c.

    Two derivatives are continuous at the cutoff; d of any shape in the unit of c (Å).
    Source: J. Gasteiger, J. Groß, S. Günnemann, ICLR 2020.
    """
    # Clamped, so that long edges do not overflow before they are multiplied by 0.
    x = (d / cutoff).clamp(max=1.0)
    value = 1.0 + x**p * (-0.5 * (p + 1) * (p + 2) + x * (p * (p + 2) - x * (0.5 * p * (p + 1))))
    return value * (d < cutoff)


def exponential_cutoff(d: Tensor, cutoff: float) -> Tensor:
    """exp(-d² / ((c - d)(c + d))), smooth to all orders; d of any shape in the unit of c (Å).

    Source: O. T. Unke et al., Nat. Commun. 12, 7273 (2021).
    """
    inside = d < cutoff
    # At 0 instead of beyond the cutoff: no division by 0 there, neither in a derivative.
    squared = torch.where(inside, d, torch.zeros_like(d)).square()
    # exp(-1000) is 0: without the limit, derivatives at the cutoff would be 0 times infinity.
    exponent = squared / (cutoff**2 - squared).clamp(min=1e-3 * cutoff**2)
    return torch.exp(-exponent) * inside


#: cutoff functions by name
CUTOFFS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "cosine": cosine_cutoff,
    "polynomial": polynomial_cutoff,
    "exponential": exponential_cutoff,
}


def cutoff_function(name: str) -> Callable[[Tensor, float], Tensor]:
    """The function of :data:`CUTOFFS` with this name.

    Raises:
        InputError: there is none.
    """
    if name not in CUTOFFS:
        raise InputError(f"cutoff function {name!r} is unknown; choose one of {', '.join(CUTOFFS)}")
    return CUTOFFS[name]
