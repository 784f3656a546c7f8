"""Radial and angular basis functions of molecules' distances, angles and dihedral angles, in closed form.

Used by GemNet (J. Gasteiger, F. Becker, S. Günnemann, NeurIPS 2021) and DimeNet (J. Gasteiger, J. Groß, S. Günnemann,
ICLR 2020). Everything is made of smooth tensor operations, so it can be differentiated as often as needed, and every
constant is exact in the module's floating-point type, whatever types the module had before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.pieces import stack, unstack

#: lower bound of the length of a cross product in :func:`angle` (Å² for vectors in Å)
TINY = 1e-9


@cache
def _zeros(n_spherical: int, n_radial: int) -> NDArray[np.float64]:
    # Between two neighbouring zeros of j_l lies exactly one of j_{l+1}; those of j_0 are the multiples of pi.
    zeros = np.empty((n_spherical, n_radial))
    previous = np.arange(1, n_radial + n_spherical) * math.pi
    zeros[0] = previous[:n_radial]
    for order in range(1, n_spherical):
        previous = np.array(
            [
                brentq(lambda x, order=order: spherical_jn(order, x), low, high, xtol=1e-15, rtol=1e-15)
                for low, high in pairwise(previous)
            ]
        )
        zeros[order] = previous[:n_radial]
    zeros.setflags(write=False)
    return zeros


def bessel_zeros(n_spherical: int, n_radial: int) -> NDArray[np.float64]:
    """The first positive zeros of the spherical Bessel functions j_l.

    Args:
        n_spherical: number of orders, l = 0 … n_spherical - 1.
        n_radial: number of zeros of each.

    Returns:
        shape (n_spherical, n_radial), float64, ascending along the last axis.

    Raises:
        InputError: a number below 1.
    """
    if n_spherical < 1 or n_radial < 1:
        raise InputError(f"n_spherical={n_spherical}, n_radial={n_radial}: at least 1 of each is needed")
    return _zeros(n_spherical, n_radial)


@cache
def _series(l_max: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients of the ascending series: 1 / (2l + 1)!! (l_max + 1,), and those of (x²)^k, (k_max, l_max + 1)."""
    orders = np.arange(l_max + 1)
    factor = np.ones((1, l_max + 1))
    rows = [factor[0]]
    # Largest argument is l + 1; terms beyond float64's resolution there are left out.
    while np.any(np.abs(rows[-1]) * (orders + 1.0) ** (2 * (len(rows) - 1)) > 1e-18):
        k = len(rows)
        rows.append(rows[-1] * (-0.5) / (k * (2 * orders + 2 * k + 1)))
    double_factorial = np.array([1.0 / math.prod(range(1, 2 * order + 2, 2)) for order in orders])
    return double_factorial, np.array(rows)


def _series_table(l_max: int) -> NDArray[np.float64]:
    """Constants of :func:`_bessel_columns`, (k, l_max + 1, 1): turning points l + 1, 1 / (2l + 1)!!, the series."""
    first, rows = _series(l_max)
    return np.concatenate([np.arange(1.0, l_max + 2)[None], first[None], rows])[:, :, None]


def _bessel_columns(x: Tensor, table: Tensor) -> Tensor:
    """j_l of x[..., l, :], shape of x (..., l_max + 1, n): the ascending series below l + 1, the recurrence above.

    The upward recurrence loses digits below x = l + 1 (in float32 all of them), the series above.
    """
    n_orders = x.shape[-2]
    turn = table[0]
    # Each branch sees only arguments that it is good for, so that neither spoils the gradient of the other.
    low, high = torch.minimum(x, turn), torch.maximum(x, turn)
    square = low * low
    series = table[-1].expand_as(square)
    for k in range(table.shape[0] - 2, 1, -1):
        series = torch.addcmul(table[k], series, square)
    powers = [torch.ones_like(low[..., 0, :])]
    for order in range(1, n_orders):
        column = low[..., order, :]
        powers.append(column if order == 1 else column.pow(order))
    series = series * stack(powers, dim=-2) * table[1]

    inverse = 1.0 / high
    sine, cosine = torch.sin(high), torch.cos(high)
    before = sine * inverse
    columns = [before[..., 0, :]]
    if n_orders > 1:
        before, inverse = before[..., 1:, :], inverse[..., 1:, :]
        current = (before - cosine[..., 1:, :]) * inverse
        columns.append(current[..., 0, :])
        for order in range(2, n_orders):
            before, current, inverse = before[..., 1:, :], current[..., 1:, :], inverse[..., 1:, :]
            before, current = current, (2 * order - 1) * inverse * current - before
            columns.append(current[..., 0, :])
    return torch.where(x < turn, series, stack(columns, dim=-2))


def spherical_bessel(l_max: int, x: Tensor) -> Tensor:
    """Spherical Bessel functions j_0 … j_{l_max}, accurate in single precision too.

    Args:
        l_max: highest order.
        x: arguments, not negative, any shape, dimensionless.

    Returns:
        shape (*x.shape, l_max + 1).
    """
    columns = x.unsqueeze(-1).unsqueeze(-1).expand(*x.shape, l_max + 1, 1)
    table = torch.tensor(_series_table(l_max), dtype=x.dtype, device=x.device)
    return _bessel_columns(columns, table).squeeze(-1)


class ExactBuffers(nn.Module):
    """A module whose constants are exact after every change of type.

    ``model.double()`` on a float32 buffer would keep its float32 rounding; here the buffers are made again from their
    float64 values. They are no part of the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, NDArray[np.float64]] = {}

    def register_exact(self, name: str, values: NDArray[np.float64]) -> None:
        """Register float64 values of any shape as a buffer of the default floating-point type."""
        values = np.array(values, dtype=np.float64)
        self._exact[name] = values
        self.register_buffer(name, torch.tensor(values, dtype=torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactBuffers:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has it unannotated
        for name, values in self._exact.items():
            buffer = self._buffers[name]
            assert buffer is not None
            if buffer.device.type != "meta":
                self._buffers[name] = torch.tensor(values, dtype=buffer.dtype, device=buffer.device)
        return self


class SphericalBesselBasis(ExactBuffers):
    """Orthonormal radial functions c^(-3/2) N_ln j_l(z_ln d / c) within a sphere of radius c.

    z_ln is the n-th zero of j_l and N_ln = sqrt(2) / |j_{l+1}(z_ln)|. There is no envelope, and nothing is trainable.
    """

    zeros: Tensor
    norms: Tensor
    series: Tensor

    def __init__(self, n_spherical: int, n_radial: int, cutoff: float) -> None:
        """Build the basis.

        Args:
            n_spherical: orders l = 0 … n_spherical - 1.
            n_radial: functions of each.
            cutoff: c, Å.

        Raises:
            InputError: a number below 1, or a cutoff that is not positive.
        """
        super().__init__()
        if not cutoff > 0:
            raise InputError(f"cutoff={cutoff}: expected a positive length in Å")
        zeros = bessel_zeros(n_spherical, n_radial)
        orders = np.arange(n_spherical)[:, None]
        norms = math.sqrt(2.0) / np.abs(spherical_jn(orders + 1, zeros)) * cutoff**-1.5
        self.register_exact("zeros", zeros / cutoff)
        self.register_exact("norms", norms)
        self.register_exact("series", _series_table(n_spherical - 1))

    def forward(self, distances: Tensor) -> Tensor:
        """Functions (n, l, n_radial), Å^(-3/2), of distances (n,), Å."""
        return _bessel_columns(distances.reshape(-1, 1, 1) * self.zeros, self.series) * self.norms


class SineBasis(nn.Module):
    """Radial functions norm · sin(f_n d / c) / d with trainable frequencies f_n that start at n π; no envelope."""

    def __init__(self, n_radial: int, cutoff: float, norm: float | None = None) -> None:
        """Build the basis.

        Args:
            n_radial: number of functions.
            cutoff: c, Å.
            norm: factor; sqrt(2 / c) if not given, which makes the initial functions orthonormal.
        """
        super().__init__()
        self.cutoff = cutoff
        self.norm = math.sqrt(2.0 / cutoff) if norm is None else norm
        self.frequencies = nn.Parameter(torch.arange(1, n_radial + 1, dtype=torch.get_default_dtype()) * math.pi)

    def forward(self, distances: Tensor) -> Tensor:
        """Functions (n, n_radial) of distances (n,), Å."""
        distances = distances.unsqueeze(-1)
        return torch.sin(distances * (self.frequencies / self.cutoff)) * (self.norm / distances)


def polynomial_envelope(x: Tensor, exponent: int) -> Tensor:
    """Smooth step from 1 at x = 0 to 0 at x = 1 with two vanishing derivatives there, and exactly 0 beyond.

    u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) (DimeNet, eq. 8).

    Args:
        x: distance over cutoff, any shape.
        exponent: p, at least 1.
    """
    p = exponent
    inside = x.clamp(max=1.0)
    a, b, c = -(p + 1) * (p + 2) / 2.0, p * (p + 2.0), -p * (p + 1) / 2.0
    value = 1.0 + inside.pow(p) * (a + inside * (b + inside * c))
    return torch.where(x < 1.0, value, torch.zeros_like(value))


def cos_sin_angle(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle between vectors, shape (...,) each, from vectors (..., 3).

    They are those of :func:`angle`, without the angle: sin = s / r, cos = u·v / r with s = max(|u×v|, 1e-9) and
    r² = (u·v)² + s². At parallel vectors the sine's gradient is 0.
    """
    cross = torch.linalg.cross(u, v, dim=-1).square().sum(-1)
    sine = cross.clamp(min=TINY * TINY).sqrt()
    dot = (u * v).sum(-1)
    inverse = torch.rsqrt(dot.square() + sine.square())
    return dot * inverse, sine * inverse


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle between vectors in [0, π], shape (...,), from vectors (..., 3): atan2(max(|u×v|, 1e-9), u·v).

    At parallel vectors its gradient is 0, and at a zero vector it is π/2.
    """
    cross = torch.linalg.cross(u, v, dim=-1).square().sum(-1)
    return torch.atan2(cross.clamp(min=TINY * TINY).sqrt(), (u * v).sum(-1))


def legendre_m0(l_max: int, cos: Tensor, dim: int = -1) -> Tensor:
    """Spherical harmonics Y_l0 = sqrt((2l + 1) / 4π) P_l(cos), shape (..., l_max + 1), from cosines (...,).

    ``dim`` is where the result has its axis of orders.
    """
    before, current = torch.ones_like(cos), cos
    columns = [before, current][: l_max + 1]
    for order in range(2, l_max + 1):
        before, current = current, ((2 * order - 1) / order) * cos * current - ((order - 1) / order) * before
        columns.append(current)
    return stack(
        [math.sqrt((2 * order + 1) / (4.0 * math.pi)) * column for order, column in enumerate(columns)], dim=dim
    )


def legendre_without_sine(l_max: int, cos: Tensor, dim: int = -1) -> Tensor:
    """Normalised associated Legendre functions divided by sin^m, polynomials in the cosine.

    Q_lm = k_m N_lm P_l^m(cos) / sin^m with P_m^m = (2m - 1)!! sin^m (no Condon-Shortley sign), N_lm the norm of the
    spherical harmonics, and k_m = 1 for m = 0, sqrt(2) otherwise: the real harmonics are Q_lm sin^m cos(mθ) and
    Q_lm sin^m sin(mθ).

    Args:
        l_max: highest order.
        cos: cosines of the polar angle, shape (...,).
        dim: where the result has its axis of functions.

    Returns:
        shape (..., (l_max + 1)(l_max + 2) / 2) for ``dim=-1``, sorted by m, then l: (l, m) has column
        :func:`legendre_column`.
    """
    columns = []
    for m in range(l_max + 1):
        # A three-term recurrence of the normalised functions in l keeps all numbers of order one.
        start = math.sqrt((2.0 if m else 1.0) / (4.0 * math.pi))
        for k in range(1, m + 1):
            start *= math.sqrt((2 * k + 1) / (2.0 * k))
        before, current = torch.zeros_like(cos), torch.full_like(cos, start)
        columns.append(current)
        for order in range(m + 1, l_max + 1):
            scale = math.sqrt((4.0 * order * order - 1.0) / (order * order - m * m))
            drop = math.sqrt(((order - 1.0) ** 2 - m * m) / (4.0 * (order - 1.0) ** 2 - 1.0)) if order > m + 1 else 0.0
            following = scale * cos * current
            if drop:
                following = following - (scale * drop) * before
            before, current = current, following
            columns.append(current)
    return stack(columns, dim=dim)


def legendre_column(l_max: int, order: int, m: int) -> int:
    """Column of (l, m), m >= 0, in :func:`legendre_without_sine`."""
    return m * (l_max + 1) - m * (m - 1) // 2 + order - m


def harmonic_orders(l_max: int) -> list[tuple[int, int]]:
    """(l, m) of the columns of :func:`real_spherical_harmonics`: within l, m = 0, 1, …, l, -l, …, -1."""
    return [(order, m) for order in range(l_max + 1) for m in (*range(order + 1), *range(-order, 0))]


def multiple_angles(n: int, cos: Tensor, sin: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """cos(mθ) and sin(mθ), m = 0 … n, from the cosine and sine of θ, of any shape, by the addition theorem."""
    cosines, sines = [torch.ones_like(cos), cos][: n + 1], [torch.zeros_like(sin), sin][: n + 1]
    for _ in range(2, n + 1):
        cosines, sines = (
            [*cosines, cosines[-1] * cos - sines[-1] * sin],
            [*sines, sines[-1] * cos + cosines[-1] * sin],
        )
    return cosines, sines


def real_spherical_harmonics(l_max: int, polar: Tensor, azimuth: Tensor) -> Tensor:
    """Real spherical harmonics Y_lm of angles, in GemNet's order of columns.

    Y_lm = sqrt(2) N_lm P_l^m(cos polar) cos(m azimuth), m > 0; with sin(|m| azimuth), m < 0; N_l0 P_l, m = 0. There is
    no Condon-Shortley sign.

    Args:
        l_max: highest order.
        polar: polar angle, shape (...,), rad.
        azimuth: shape (...,), rad.

    Returns:
        shape (..., (l_max + 1)²), columns as :func:`harmonic_orders`.
    """
    legendre = unstack(legendre_without_sine(l_max, torch.cos(polar)), -1)
    sine = torch.sin(polar)
    cosines, sines = multiple_angles(l_max, torch.cos(azimuth), torch.sin(azimuth))
    columns = []
    for order, m in harmonic_orders(l_max):
        function = legendre[legendre_column(l_max, order, abs(m))] * sine.pow(abs(m))
        columns.append(function * (cosines[m] if m >= 0 else sines[-m]))
    return stack(columns, dim=-1)
