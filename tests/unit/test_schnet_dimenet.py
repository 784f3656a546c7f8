"""SchNet and DimeNet++ against PyTorch Geometric's; cutoffs, straight molecules, padding."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, RaggedDataset, make_batch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.dimenet import DimeNetPP, _TripletSum, edge_places
from mlip_studies.models.layers.activations import shifted_softplus, silu
from mlip_studies.models.layers.spherical import bessel_zeros
from mlip_studies.models.schnet import SchNet

SMALL_SCHNET = {"hidden": 14, "filters": 10, "n_layers": 3, "n_gaussians": 12, "cutoff": 4.0}
SMALL_DIMENET = {
    "hidden": 12,
    "out": 18,
    "triplet": 10,
    "basis": 5,
    "n_blocks": 2,
    "n_spherical": 4,
    "n_radial": 3,
    "cutoff": 4.0,
    "n_before_skip": 2,
    "n_after_skip": 1,
    "n_output_layers": 2,
}
MODELS = [(SchNet, SMALL_SCHNET), (DimeNetPP, SMALL_DIMENET)]
ACETYLENE = (np.array([6, 6, 1, 1]), np.array([[-0.6, 0, 0], [0.6, 0, 0], [-1.66, 0, 0], [1.66, 0, 0.0]]))
BENZENE = (
    np.array([6] * 6 + [1] * 6),
    np.array([[r * np.cos(k * np.pi / 3), r * np.sin(k * np.pi / 3), 0.0] for r in (1.39, 2.48) for k in range(6)]),
)


def molecules(sizes=(5, 9, 2, 13), seed=0):
    """Molecules with random atoms at least 0.9 Å apart, wider than the small models' cutoff."""
    rng = np.random.default_rng(seed)
    made = []
    for n in sizes:
        places = [np.zeros(3)]
        while len(places) < n:
            place = rng.uniform(-2.6, 2.6, 3)
            if min(np.linalg.norm(place - other) for other in places) > 0.9:
                places.append(place)
        made.append((rng.choice([1, 6, 7, 8, 16], n), np.array(places)))
    return made


def build(cls, options, dtype=torch.float64):
    """A model whose biases are not zero either."""
    torch.manual_seed(3)
    model = cls(**options)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype)


def padded(batch_molecules, dtype=torch.float64, reach=5.0):
    """A padded batch of molecules with some room."""
    counts = np.array([len(z) for z, _ in batch_molecules])
    data = RaggedDataset(
        np.concatenate([z for z, _ in batch_molecules]),
        np.concatenate([x for _, x in batch_molecules]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.zeros(len(counts)),
        dtype=dtype,
        centre=False,
    )
    atoms, pairs, triplets = Budget.of_counts(counts)
    budget = Budget(len(counts), atoms + 3, pairs + 7, triplets + 5, int(counts.max()) + 2)
    return data.padded_batch(torch.arange(len(counts)), budget, reach)[0]


@pytest.fixture(scope="session")
def baselines(repository):
    """The module benchmarks/baselines/pyg.py."""
    pytest.importorskip("torch_geometric", reason="torch_geometric is not installed: nothing to compare with")
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        yield importlib.import_module("baselines.pyg")
    finally:
        sys.path.remove(str(repository / "benchmarks"))


def test_parameter_counts():
    assert SchNet().n_parameters() == 455_809
    assert DimeNetPP().n_parameters() == 1_885_830


def test_schnet_equals_the_public_one(baselines):
    model = build(SchNet, SMALL_SCHNET)
    plain = baselines.PlainSchNet(model)
    batch = make_batch(molecules(), cutoff=4.0, dtype=torch.float64)
    energy, forces = model.energy_and_forces(batch)
    expected = AtomisticModel.energy_and_forces(plain, batch)
    assert batch.n_pairs < sum(n * (n - 1) // 2 for n in (5, 9, 2, 13))
    torch.testing.assert_close(energy, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, expected[1], rtol=1e-11, atol=1e-11)


def adopt_rounding(model, network):
    """Take over the constants of torch_geometric's spherical basis, which are rounded to single precision.

    Its zeros are ours, rounded; its norms are read off the basis itself at one distance.
    """
    basis, n_l = model.spherical_basis, model.n_spherical
    n_n = basis.zeros.shape[1]
    zeros = bessel_zeros(n_l, n_n).astype(np.float32).astype(np.float64)
    x = torch.full((1,), 0.37, dtype=torch.float64)
    theirs = network.sbf(x * model.cutoff, torch.zeros_like(x), torch.zeros(1, dtype=torch.int64))
    p = model.envelope_exponent + 1
    envelope = (1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)) / x
    orders = np.arange(n_l)[:, None]
    at_zero_angle = np.sqrt((2 * orders + 1) / (4 * np.pi))
    values = theirs.detach().numpy().reshape(n_l, n_n) / envelope.item() / at_zero_angle
    norms = torch.as_tensor(values / spherical_jn(orders, zeros * x.item()) * model.cutoff**-1.5)
    torch.testing.assert_close(norms, basis.norms, rtol=1e-6, atol=0.0)
    basis.zeros.copy_(torch.as_tensor(zeros / model.cutoff))
    basis.norms.copy_(norms)


def test_dimenet_equals_the_public_one(baselines):
    model = build(DimeNetPP, SMALL_DIMENET)
    plain = baselines.PlainDimeNetPP(model)
    batch = make_batch(molecules(), cutoff=4.0, dtype=torch.float64)
    expected_energy, expected_forces = AtomisticModel.energy_and_forces(plain, batch)
    energy, forces = model.energy_and_forces(batch)
    scale = expected_forces.abs().max().item()
    torch.testing.assert_close(energy, expected_energy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(forces, expected_forces, rtol=0.0, atol=2e-6 * scale)
    adopt_rounding(model, plain.network)
    energy, forces = model.energy_and_forces(batch)
    torch.testing.assert_close(energy, expected_energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forces, expected_forces, rtol=0.0, atol=1e-10 * scale)


@pytest.mark.parametrize("exponent", [3, 5])
def test_dimenet_bases_equal_the_public_ones(baselines, exponent):
    dimenet = importlib.import_module("torch_geometric.nn.models.dimenet")
    model = build(DimeNetPP, SMALL_DIMENET | {"envelope_exponent": exponent})
    rbf = dimenet.BesselBasisLayer(3, 4.0, exponent).double()
    rbf.freq = torch.nn.Parameter(model.radial_basis.frequencies.detach() * 1.1)
    model.radial_basis.frequencies = rbf.freq
    positions = np.zeros((2, 3))
    for d in (0.6, 1.9, 3.9):
        positions[1, 2] = d
        batch = make_batch([([1, 6], positions)], dtype=torch.float64)
        features = model.steps()[0][1](batch, {})
        expected = rbf(torch.tensor([d], dtype=torch.float64))
        torch.testing.assert_close(features["rbf"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_graph_may_hold_more_pairs_or_no_pairs(cls, options):
    model = build(cls, options)
    near = make_batch(molecules(), cutoff=4.0, dtype=torch.float64)
    energy, forces = model.energy_and_forces(near)
    order = torch.randperm(near.n_edges, generator=torch.Generator().manual_seed(0))
    unpaired = replace(near, n_pairs=None, receivers=near.receivers[order], senders=near.senders[order])
    every = make_batch(molecules(), dtype=torch.float64)
    assert every.n_pairs > near.n_pairs
    for batch in (every, unpaired, replace(every, n_pairs=None)):
        other_energy, other_forces = model.energy_and_forces(batch)
        torch.testing.assert_close(other_energy, energy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other_forces, forces, rtol=1e-10, atol=1e-10)
    loose = padded(molecules())
    other_energy, other_forces = model.energy_and_forces(loose)
    torch.testing.assert_close(other_energy[:-1], energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other_forces[: near.n_atoms], forces, rtol=1e-10, atol=1e-10)
    assert torch.isfinite(other_energy).all() and torch.isfinite(other_forces).all()


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_far_edges_contribute_exactly_nothing(cls, options):
    # An atom at exactly the cutoff and beyond: bitwise the same energy as that of the two parts.
    model = build(cls, options)
    for distance in (4.0, 4.5, 40.0):
        pair = make_batch([([6, 8], [[0, 0, 0], [distance, 0, 0]])], dtype=torch.float64)
        parts = make_batch([([6], [[0, 0, 0]]), ([8], [[0, 0, 0]])], dtype=torch.float64)
        energy, forces = model.energy_and_forces(pair)
        assert energy.item() == model(parts).sum().item()
        assert not forces.any()


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_energy_is_smooth_at_the_cutoff(cls, options):
    model = build(cls, options)
    energies = [
        model(make_batch([([6, 8], [[0, 0, 0], [4.0 + step, 0, 0]])], dtype=torch.float64)).item()
        for step in (-1e-4, 1e-4)
    ]
    assert abs(energies[0] - energies[1]) < 1e-7


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_forces_are_the_exact_gradient(cls, options):
    model = build(cls, options)
    batch = make_batch(molecules((6, 4)), dtype=torch.float64)
    forces = model.energy_and_forces(batch)[1]
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (5, 2), (8, 0)):
        energies = []
        for sign in (1, -1):
            positions = batch.positions.clone()
            positions[atom, axis] += sign * step
            energies.append(model(batch.with_positions(positions)).sum().item())
        assert float(forces[atom, axis]) == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=2e-6, rel=2e-6)


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_parameter_gradients_of_a_force_loss(cls, options):
    # The double backward against finite differences of the loss along a random direction of all parameters.
    model = build(cls, options)
    batch = make_batch(molecules((6, 4)), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)

    def loss(create_graph):
        energy, forces = model.energy_and_forces(batch, create_graph=create_graph)
        return 0.1 * energy.square().mean() + (forces - target).square().mean()

    loss(True).backward()
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    slope = sum((p.grad * d).sum().item() for p, d in zip(parameters, directions, strict=True))
    values = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=sign * 1e-6)
        values.append(loss(False).item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_special_molecules(cls, options, dtype):
    # Straight, flat, single atoms, a pair that is too far: finite forces and finite parameter gradients of them.
    model = build(cls, options, dtype)
    single, far = ([7], np.zeros((1, 3))), ([1, 1], [[0, 0, 0], [30.0, 0, 0]])
    cases = [[ACETYLENE], [BENZENE], [single], [far], [single, ACETYLENE, far, BENZENE]]
    batches = [make_batch(case, cutoff=4.0, dtype=dtype) for case in cases]
    batches.append(padded([(np.asarray(z), np.asarray(x)) for z, x in cases[-1]], dtype))
    for batch in batches:
        model.zero_grad()
        energy, forces = model.energy_and_forces(batch, create_graph=True)
        assert energy.dtype == torch.float64
        loss = energy.square().mean() + forces.square().mean()
        loss.backward()
        assert torch.isfinite(energy).all() and torch.isfinite(forces).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    forces = model.energy_and_forces(batches[0])[1]
    assert forces[:, 0].abs().max() > 1e-3
    assert forces[:, 1:].abs().max() < 1e-5


def test_every_neighbour_counts():
    # 60 neighbours within the cutoff; moving the last one changes the energy.
    rng = np.random.default_rng(4)
    directions = rng.normal(size=(60, 3))
    directions *= 3.5 / np.linalg.norm(directions, axis=1, keepdims=True)
    positions = np.concatenate([np.zeros((1, 3)), directions])
    model = build(SchNet, SMALL_SCHNET)
    numbers = [6] + [1] * 60
    base = make_batch([(numbers, positions)], cutoff=4.0, dtype=torch.float64)
    forces = model.energy_and_forces(base)[1]
    assert (forces.norm(dim=1) > 1e-8).all()
    assert int(torch.bincount(base.receivers)[0]) == 60


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_steps_are_the_network(cls, options):
    model = build(cls, options)
    batch = make_batch(molecules(), dtype=torch.float64)
    names = [name for name, _ in model.steps()]
    assert names[0] == "embedding" and names[1] == "layer 1" and names[-1] == "readout"
    features = {}
    for _, step in model.steps():
        features = step(batch, features)
    assert torch.equal(features["energy"], model(batch))


@pytest.mark.parametrize(("cls", "options"), MODELS)
def test_double_precision_has_exact_constants(cls, options):
    converted = build(cls, options, torch.float32).double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        born = cls(**options)
    finally:
        torch.set_default_dtype(before)
    born.load_state_dict(converted.state_dict())
    batch = make_batch(molecules(), dtype=torch.float64)
    torch.testing.assert_close(converted(batch), born(batch), rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("function", [shifted_softplus, silu])
def test_activations(function):
    x = torch.linspace(-40.0, 40.0, 41, dtype=torch.float64, requires_grad=True)
    native = {
        shifted_softplus: lambda v: torch.logaddexp(v, torch.zeros_like(v)) - np.log(2.0),
        silu: torch.nn.functional.silu,
    }[function]
    torch.testing.assert_close(function(x), native(x), rtol=1e-14, atol=1e-15)
    with torch.no_grad():
        torch.testing.assert_close(function(x), native(x), rtol=1e-14, atol=1e-15)
    small = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, small)
    assert torch.autograd.gradgradcheck(function, small)


@pytest.mark.parametrize("w_counts", [True, False])
def test_triplet_sum(monkeypatch, w_counts):
    generator = torch.Generator().manual_seed(5)
    shapes = (3, 2 * 3, 4), (3, 2, 2), (3, 2)
    t, x, w = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    w.requires_grad_(w_counts)
    expected = torch.einsum("nkbi,bc,nkc->nic", t.view(3, 2, 3, 4), w, x)
    parts = [slice(0, 2), slice(2, 4)]
    for chunked in (False, True):
        if chunked:
            monkeypatch.setattr("mlip_studies.models.dimenet._chunks", lambda *_: parts)
        torch.testing.assert_close(_TripletSum.apply(t, x, w), expected)
        assert torch.autograd.gradcheck(_TripletSum.apply, (t, x, w))
        assert torch.autograd.gradgradcheck(_TripletSum.apply, (t, x, w))


def test_places_of_edges_are_distinct():
    paired = make_batch(molecules(), cutoff=3.0, dtype=torch.float64)
    loose = padded(molecules())
    for batch, real in (
        (paired, torch.ones(paired.n_edges, dtype=torch.bool)),
        (replace(paired, n_pairs=None), torch.ones(paired.n_edges, dtype=torch.bool)),
        (loose, batch_is_real(loose)),
    ):
        incoming, outgoing, n_slots = edge_places(batch)
        for places, atoms in ((incoming, batch.receivers), (outgoing, batch.senders)):
            kept = places[real]
            assert len(kept.unique()) == len(kept)
            assert torch.equal(kept // n_slots, atoms[real])
        assert (incoming[~real] == batch.n_atoms * n_slots).all()


def batch_is_real(batch):
    """Which edges of a padded batch belong to molecules."""
    return batch.graph_index[batch.receivers] < batch.n_graphs - 1


@pytest.mark.parametrize(
    ("cls", "options", "word"),
    [
        (SchNet, {"hidden": 1}, "hidden"),
        (SchNet, {"n_gaussians": 1}, "n_gaussians"),
        (SchNet, {"cutoff": 0.0}, "cutoff"),
        (SchNet, {"elements": [0, 1]}, "elements"),
        (SchNet, {"elements": []}, "elements"),
        (DimeNetPP, {"n_spherical": 0}, "n_spherical"),
        (DimeNetPP, {"cutoff": -1.0}, "cutoff"),
        (DimeNetPP, {"output_init": "ones"}, "output_init"),
        (DimeNetPP, {"elements": [1, 95]}, "elements"),
    ],
)
def test_bad_options(cls, options, word):
    with pytest.raises(InputError, match=word):
        cls(**options)


def test_initial_weights():
    torch.manual_seed(0)
    zeros = DimeNetPP(**SMALL_DIMENET, output_init="zeros").double()
    assert not zeros(make_batch(molecules(), dtype=torch.float64)).any()
    weight = DimeNetPP().interactions[0].skip.weight
    gram = weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(128) * gram[0, 0], atol=1e-4, rtol=0.0)
    assert weight.var().item() == pytest.approx(2.0 / 256, rel=1e-3)
    bound = (6.0 / 256) ** 0.5
    filters = SchNet().layers[0].filter_out
    assert 0.98 * bound < filters.weight.abs().max().item() <= bound
    assert not filters.bias.any()
