"""Bessel functions, harmonics and envelopes, and the tensor operations that models build from them."""

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y, spherical_jn

from mlip_studies.errors import InputError
from mlip_studies.graph.pieces import cut, join, route, stack, swap_halves, twice, unstack
from mlip_studies.models.layers.recompute import recomputed
from mlip_studies.models.layers.spherical import (
    SineBasis,
    SphericalBesselBasis,
    angle,
    bessel_zeros,
    cos_sin_angle,
    harmonic_orders,
    legendre_m0,
    multiple_angles,
    polynomial_envelope,
    real_spherical_harmonics,
    spherical_bessel,
)

DOUBLE = torch.float64


def uniform(n, low, high, seed=0):
    return torch.tensor(np.random.default_rng(seed).uniform(low, high, n))


def test_zeros_are_the_first_zeros():
    zeros = bessel_zeros(8, 7)
    assert zeros.shape == (8, 7)
    for order in range(8):
        assert np.abs(spherical_jn(order, zeros[order])).max() < 1e-14
        # As many changes of sign between 0 and the last one as zeros were asked for.
        values = spherical_jn(order, np.linspace(1e-3, zeros[order, -1] + 1e-6, 5000))
        # Values near 0 of high orders are tiny but positive.
        assert np.count_nonzero(np.diff(np.sign(values))) == 7
    with pytest.raises(InputError, match="at least 1"):
        bessel_zeros(0, 3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-7), (DOUBLE, 2e-15)])
def test_bessel_functions_are_accurate_at_all_arguments(dtype, error):
    x = torch.cat([torch.linspace(0.0, 9.0, 1500), torch.linspace(9.0, 40.0, 1000)]).to(dtype)
    expected = np.stack([spherical_jn(order, x.double().numpy()) for order in range(9)], axis=1)
    assert np.abs(spherical_bessel(8, x).double().numpy() - expected).max() < error


def test_bessel_functions_have_all_derivatives():
    x = uniform(7, 0.1, 9.0).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: spherical_bessel(6, x), x)
    assert torch.autograd.gradgradcheck(lambda x: spherical_bessel(6, x), x)


def test_bessel_basis_is_orthonormal_in_the_sphere():
    basis = SphericalBesselBasis(5, 4, 4.5).double()
    nodes, weights = np.polynomial.legendre.leggauss(80)
    d, weights = torch.tensor(2.25 * (nodes + 1.0)), torch.tensor(2.25 * weights)
    values = basis(d)
    overlap = torch.einsum("d,dln,dlm->lnm", weights * d**2, values, values)
    assert torch.allclose(overlap, torch.eye(4, dtype=DOUBLE).expand(5, 4, 4), atol=1e-12)
    with pytest.raises(InputError, match="cutoff"):
        SphericalBesselBasis(3, 3, 0.0)


def test_constants_are_exact_after_a_change_of_type():
    basis = SphericalBesselBasis(3, 3, 5.0).double()
    there_and_back = SphericalBesselBasis(3, 3, 5.0).float().double()
    d = uniform(10, 0.3, 5.0)
    assert torch.equal(basis(d), there_and_back(d))
    assert np.array_equal(basis.zeros.numpy(), bessel_zeros(3, 3) / 5.0)
    assert not basis.state_dict()


def test_sine_basis():
    basis = SineBasis(3, 5.0).double()
    d = uniform(10, 0.3, 5.0)
    expected = torch.stack([math.sqrt(2 / 5) * torch.sin(n * math.pi * d / 5) / d for n in (1, 2, 3)], dim=1)
    # The frequencies are parameters, and were float32 before.
    assert torch.allclose(basis(d), expected, atol=1e-6)
    assert basis.frequencies.requires_grad
    scaled = SineBasis(3, 5.0, norm=5.0).double()(d)
    assert torch.allclose(scaled, expected * 5.0 / math.sqrt(2 / 5), atol=1e-5)


def test_harmonics_are_those_of_scipy():
    polar, azimuth = uniform(50, 0.0, math.pi), uniform(50, -math.pi, math.pi, seed=1)
    values = real_spherical_harmonics(6, polar, azimuth).numpy()
    assert [m for degree, m in harmonic_orders(6) if degree == 3] == [0, 1, 2, 3, -3, -2, -1]
    for column, (degree, m) in enumerate(harmonic_orders(6)):
        complex_one = sph_harm_y(degree, abs(m), polar.numpy(), azimuth.numpy())
        part = complex_one.real if m >= 0 else complex_one.imag
        # scipy has the Condon-Shortley sign.
        expected = part if m == 0 else math.sqrt(2.0) * (-1.0) ** m * part
        assert np.abs(values[:, column] - expected).max() < 1e-13
    assert np.abs(legendre_m0(6, torch.cos(polar)).numpy() - values[:, [d * d for d in range(7)]]).max() < 1e-13


@pytest.mark.parametrize("l_max", [0, 1])
def test_harmonics_of_low_order(l_max):
    values = real_spherical_harmonics(l_max, uniform(3, 0, 3), uniform(3, 0, 3))
    assert values.shape == (3, (l_max + 1) ** 2)
    assert legendre_m0(l_max, uniform(3, -1, 1)).shape == (3, l_max + 1)
    assert torch.allclose(values[:, 0], torch.full((3,), 0.5 / math.sqrt(math.pi), dtype=DOUBLE))


def test_multiple_angles():
    theta = uniform(9, -3.0, 3.0)
    cosines, sines = multiple_angles(5, torch.cos(theta), torch.sin(theta))
    for m in range(6):
        assert torch.allclose(cosines[m], torch.cos(m * theta), atol=1e-14)
        assert torch.allclose(sines[m], torch.sin(m * theta), atol=1e-14)


@pytest.mark.parametrize("exponent", [1, 5, 6])
def test_envelope_ends_smoothly(exponent):
    x = torch.tensor([0.0, 0.4, 1.0 - 1e-9, 1.0, 1.7], dtype=DOUBLE, requires_grad=True)
    value = polynomial_envelope(x, exponent)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert value[0] == 1.0 and 0.0 < value[1] < 1.0
    assert torch.all(value[3:] == 0.0) and torch.all(slope[3:] == 0.0)
    assert value[2].abs() < 1e-15 and slope[2].abs() < 1e-14 and curvature[2].abs() < 1e-6
    assert torch.isfinite(curvature).all()


def test_angles():
    u = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0], [1, 0, 0]], dtype=DOUBLE)
    v = torch.tensor([[1.0, 1, 0], [0, 3, 0], [-1, 0, 1], [-5, 0, 0], [7, 0, 0]], dtype=DOUBLE, requires_grad=True)
    expected = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.0], dtype=DOUBLE) * math.pi
    assert torch.allclose(angle(u, v), expected, atol=1e-9)
    cosine, sine = cos_sin_angle(u, v)
    assert torch.allclose(cosine, torch.cos(expected), atol=1e-9)
    assert torch.allclose(sine, torch.sin(expected), atol=1e-9)
    # Also along a line, twice.
    (slope,) = torch.autograd.grad(angle(u, v).sum() + sine.sum(), v, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), v)
    assert torch.isfinite(slope).all() and torch.isfinite(curvature).all()
    assert slope[3:].abs().max() < 1e-9


def test_bases_against_reference_vectors(parity_folder):
    vectors = np.load(parity_folder / "gemnet" / "gemnet_Q_small.npz")
    d, polar, azimuth = (torch.tensor(vectors[f"dbg_{name}"]) for name in ("d", "alpha", "theta"))
    n_l, n_radial = 5, vectors["dbg_rbf"].shape[1]
    # The reference rounds the zeros of the Bessel functions to single precision.
    bessel = SphericalBesselBasis(n_l, n_radial, 5.0).double()(d) * 5.0**1.5
    assert np.abs(bessel.reshape(len(d), -1).numpy() - vectors["dbg_cbf3_bessel"]).max() < 5e-6
    radial = SineBasis(n_radial, 5.0).double()
    with torch.no_grad():
        radial.frequencies.copy_(torch.arange(1, n_radial + 1) * torch.tensor(math.pi, dtype=torch.float32))
        rbf = radial(d) * polynomial_envelope(d / 5.0, 5).unsqueeze(1)
    assert np.abs(rbf.numpy() - vectors["dbg_rbf"]).max() < 1e-6
    assert np.abs(legendre_m0(4, torch.cos(polar)).numpy() - vectors["dbg_cbf3_sph"]).max() < 1e-12
    harmonics = real_spherical_harmonics(4, polar, azimuth)
    assert np.abs(harmonics.numpy() - vectors["dbg_sbf_sph"]).max() < 1e-12


THERE, BACK = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3, 0, 2])
PIECES = {
    "join": lambda x: join([x, 2.0 * x[:, :2]], dim=1),
    "cut": lambda x: cut(x, [1, 2], dim=1)[1] * cut(x, [1, 2], dim=1)[0],
    "stack": lambda x: stack([x, x.sin()], dim=1),
    "unstack": lambda x: unstack(x, 1)[0] * unstack(x, 1)[2],
    "twice": twice,
    "swap_halves": swap_halves,
    "route": lambda x: route(x, THERE, BACK),
}
TORCH = {
    "join": lambda x: torch.cat([x, 2.0 * x[:, :2]], dim=1),
    "cut": lambda x: x[:, 1:] * x[:, :1],
    "stack": lambda x: torch.stack([x, x.sin()], dim=1),
    "unstack": lambda x: x[:, 0] * x[:, 2],
    "twice": lambda x: torch.cat([x, x]),
    "swap_halves": lambda x: x.roll(2, 0),
    "route": lambda x: x[THERE],
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces(name):
    x = uniform((4, 3), -1, 1).requires_grad_(True)
    assert torch.equal(PIECES[name](x), TORCH[name](x))
    assert torch.autograd.gradcheck(PIECES[name], x)
    assert torch.autograd.gradgradcheck(PIECES[name], x)


def test_recomputed_function_has_the_same_derivatives():
    def function(a, b, c):
        x = torch.sin(a @ b) * c
        return x, x.square().sum(0)

    inputs = [
        uniform((3, 4), -1, 1).requires_grad_(),
        uniform((4, 2), -1, 1, 1).requires_grad_(),
        uniform((3, 2), 0, 1),
    ]

    def third_derivative(function):
        y, z = function(*inputs)
        (first,) = torch.autograd.grad(y.pow(3).sum() + z.sum(), inputs[0], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), inputs[1], create_graph=True)
        return [y, first, second, *torch.autograd.grad(second.square().sum(), inputs[:2])]

    again = third_derivative(lambda *values: recomputed(function, *values))
    for value, expected in zip(again, third_derivative(function), strict=True):
        assert torch.allclose(value, expected, rtol=1e-11, atol=1e-11)


def test_recomputed_function_keeps_only_its_inputs():
    kept = []

    def function(x):
        for _ in range(20):
            x = torch.sin(x)
        return (x,)

    x = uniform(100, -1, 1).requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        recomputed(function, x)
        n_recomputed = len(kept)
        function(x)
    assert n_recomputed == 1 and len(kept) - n_recomputed == 20


def test_signs_of_symbols_are_those_of_the_newer_e3nn(monkeypatch):
    from mlip_studies.models import compat

    for degrees, sign in (((1, 2, 2), -1.0), ((5, 4, 4), -1.0), ((1, 1, 2), 1.0), ((1, 1, 1), 1.0)):
        plain = compat.e3nn_o3().wigner_3j(*degrees, dtype=torch.float64)
        monkeypatch.setattr(compat, "version", lambda _: "0.4.4")
        assert torch.equal(compat.wigner_3j(*degrees), sign * plain)
        monkeypatch.setattr(compat, "version", lambda _: "0.6.0")
        assert torch.equal(compat.wigner_3j(*degrees), plain)
    monkeypatch.setattr(compat, "version", lambda _: "0.4.4")
    with pytest.raises(InputError, match=r"degree 7 with e3nn 0\.4\.4: expected at most 6"):
        compat.wigner_3j(1, 7, 7)
