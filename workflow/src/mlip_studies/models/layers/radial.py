"""Radial bases: fixed functions of a distance, (n,) in Å to (n, n_functions), without any cutoff inside."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mlip_studies.errors import InputError


class FixedTensors(nn.Module):
    """A module with constants that are exact in whatever floating-point type it is converted to.

    A plain buffer that went through single precision keeps the rounding in double precision; these are converted from
    their double-precision values every time. They are no part of the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def fix(self, name: str, values: ArrayLike) -> None:
        """Add a constant of any shape as buffer ``name``, of torch's default type until the module is converted."""
        exact = torch.as_tensor(np.asarray(values, dtype=np.float64))
        self._exact[name] = exact
        self.register_buffer(name, exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedTensors:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has it unannotated
        for name, exact in self._exact.items():
            buffer = getattr(self, name)
            setattr(self, name, exact.to(buffer.device, buffer.dtype))
        return self


def _check_number(n: int, least: int) -> None:
    if n < least:
        raise InputError(f"a radial basis of {n} functions; at least {least} are needed")


class GaussianBasis(FixedTensors):
    """exp(-(d - μ_k)² / (2 w²)) with equally spaced centres μ_k."""

    centres: Tensor

    def __init__(self, n: int, start: float, stop: float, width: float | None = None) -> None:
        """Place the centres.

        Args:
            n: number of functions.
            start: first centre, Å.
            stop: last centre, Å.
            width: w, Å; the distance between centres if not given.
        """
        super().__init__()
        _check_number(n, 2)
        self.width = (stop - start) / (n - 1) if width is None else width
        self.fix("centres", np.linspace(start, stop, n))

    def forward(self, d: Tensor) -> Tensor:
        """Shape (n, n_functions) from distances (n,), Å."""
        return torch.exp((-0.5 / self.width**2) * (d.unsqueeze(1) - self.centres).square())


class PhysBasis(FixedTensors):
    """exp(-β (exp(-d) - μ_k)²), Gaussians in exp(-d / 1 Å).

    The centres μ_k are equally spaced from exp(-cutoff) to 1 and β = (2 (1 - exp(-cutoff)) / n)^-2. Source: O. T. Unke,
    M. Meuwly, J. Chem. Theory Comput. 15, 3678 (2019).
    """

    centres: Tensor

    def __init__(self, n: int, cutoff: float) -> None:
        """Place n centres for a cutoff in Å."""
        super().__init__()
        _check_number(n, 2)
        self.beta = ((2.0 / n) * (1.0 - math.exp(-cutoff))) ** -2
        self.fix("centres", np.linspace(math.exp(-cutoff), 1.0, n))

    def forward(self, d: Tensor) -> Tensor:
        """Shape (n, n_functions) from distances (n,), Å."""
        return torch.exp(-self.beta * (torch.exp(-d).unsqueeze(1) - self.centres).square())


class BernsteinBasis(FixedTensors):
    """Bernstein polynomials of exp(-γ d): binom(n-1, k) x^k (1-x)^(n-1-k).

    γ = 0.9448630629 / Å (one half per Bohr) is fixed. Source: O. T. Unke et al., Nat. Commun. 12, 7273 (2021).
    """

    log_binomial: Tensor
    order: Tensor

    GAMMA = 0.9448630629

    def __init__(self, n: int) -> None:
        """Prepare n polynomials."""
        super().__init__()
        _check_number(n, 1)
        order = np.arange(n)
        total = math.lgamma(n)
        self.fix("log_binomial", [total - math.lgamma(k + 1) - math.lgamma(n - k) for k in range(n)])
        self.fix("order", order)

    def forward(self, d: Tensor) -> Tensor:
        """Shape (n, n_functions) from distances (n,) > 0, Å."""
        # In logarithms: the binomial coefficients overflow where the powers underflow.
        log_x = (-self.GAMMA * d).unsqueeze(1)
        log_rest = torch.log(-torch.expm1(log_x))
        return torch.exp(self.log_binomial + self.order * log_x + (self.order[-1] - self.order) * log_rest)


#: radial bases by name: (number of functions, cutoff in Å) -> module from distances (n,) to (n, number)
RADIAL_BASES: dict[str, Callable[[int, float], nn.Module]] = {
    "phys": PhysBasis,
    "gaussian": lambda n, cutoff: GaussianBasis(n, 0.0, cutoff),
    "bernstein": lambda n, cutoff: BernsteinBasis(n),
}


def radial_basis(name: str, n: int, cutoff: float) -> nn.Module:
    """The basis of :data:`RADIAL_BASES` with this name: ``n`` functions up to ``cutoff`` (Å).

    Raises:
        InputError: there is none, or too few functions.
    """
    if name not in RADIAL_BASES:
        raise InputError(f"radial basis {name!r} is unknown; choose one of {', '.join(RADIAL_BASES)}")
    return RADIAL_BASES[name](n, cutoff)
