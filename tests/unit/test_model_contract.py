"""What every model promises (models/base.py), for all models of the catalog."""

import importlib

import numpy as np
import pytest
import torch

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, RaggedDataset, make_batch
from mlip_studies.models.catalog import MODELS, model_module
from mlip_studies.models.equivariance import layer_errors, random_rotations
from mlip_studies.models.registry import build_model

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
HCN = ([6, 1, 7], [[0.0, 0.0, 0.0], [0.0, 0.0, -1.07], [0.0, 0.0, 1.15]])  # linear
ACETYLENE = ([6, 6, 1, 1], [[0.0, 0.0, 0.6], [0.0, 0.0, -0.6], [0.0, 0.0, 1.66], [0.0, 0.0, -1.66]])  # linear
FORMALDEHYDE = (
    [6, 1, 1, 8],
    [[0.0, 0.0, 0.0], [0.94, 0.59, 0.0], [-0.94, 0.59, 0.0], [0.0, -1.21, 0.0]],
)  # planar
ATOM = ([7], [[0.3, -0.2, 0.5]])

#: options that make a model small enough for a test, all sizes different where possible
GEMNET = {
    "num_spherical": 4, "num_radial": 3, "num_blocks": 2, "emb_size_atom": 12, "emb_size_edge": 16,
    "emb_size_trip": 8, "emb_size_rbf": 5, "emb_size_cbf": 6, "emb_size_bil_trip": 7,
}  # fmt: skip
SMALL = {
    "so3krates": {"n_features": 24, "n_layers": 2, "n_heads": 4, "n_radial": 8},
    "gemnet_t": GEMNET,
    "gemnet_q": GEMNET | {"emb_size_quad": 9, "emb_size_sbf": 10, "emb_size_bil_quad": 11, "int_cutoff": 7.0},
    "schnet": {"hidden": 16, "filters": 12, "n_layers": 2, "n_gaussians": 20},
    "dimenet_plus_plus": {
        "hidden": 16,
        "out": 20,
        "triplet": 8,
        "basis": 4,
        "n_blocks": 2,
        "n_spherical": 4,
        "n_radial": 3,
    },
    "se3_transformer": {"channels": 8, "max_degree": 2, "n_layers": 2, "n_heads": 2},
    "egnn": {"hidden": 16, "n_layers": 2},
    "egnn_rff_as_coded": {"hidden": 16, "n_layers": 2, "rff_dim": 10},
    "egnn_rff_as_described": {"hidden": 16, "n_layers": 2, "rff_dim": 10},
}


def generic(seed, n, spread=1.4):
    """A molecule without symmetry: n atoms, no two closer than 0.8 Å."""
    rng = np.random.default_rng(seed)
    positions = [rng.normal(size=3)]
    while len(positions) < n:
        new = positions[rng.integers(len(positions))] + rng.normal(size=3) * spread
        if min(np.linalg.norm(new - other) for other in positions) > 0.8:
            positions.append(new)
    return rng.choice([1, 6, 7, 8], n).tolist(), np.array(positions)


GENERIC = [generic(1, 7), generic(2, 5), generic(3, 9)]


def build(name, seed=3):
    torch.manual_seed(seed)
    model = build_model(name, SMALL.get(name, {})).double()
    # Weights that start at or near zero would make every test of this file pass for a wrong model.
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) < 1e-2:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch_of(model, molecules, cutoff="model", fidelity=None, dtype=torch.float64):
    return make_batch(molecules, model.cutoff if cutoff == "model" else cutoff, dtype=dtype, fidelity=fidelity)


def energies(model, molecules, **options):
    with torch.no_grad():
        return model(batch_of(model, molecules, **options)).double()


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return build(request.param)


def close(a, b, tolerance=1e-10):
    scale = max(1.0, float(b.abs().max()))
    assert float((a - b).abs().max()) <= tolerance * scale, float((a - b).abs().max()) / scale


@pytest.mark.parametrize("reflect", [False, True])
def test_energy_is_invariant_and_forces_rotate(model, reflect):
    if reflect and not model.reflection_symmetric:
        mirrored = [(z, np.asarray(x) * [1, 1, -1]) for z, x in GENERIC]
        difference = energies(model, mirrored) - energies(model, GENERIC)
        assert float(difference.abs().max()) > 1e-9, "this model claims to tell mirror images apart"
        return
    q = torch.as_tensor(random_rotations(1, 5)[0]) * (-1.0 if reflect else 1.0)
    batch = batch_of(model, [*GENERIC, WATER, ATOM])
    energy, forces = model.energy_and_forces(batch)
    moved = batch.with_positions(batch.positions @ q.T + torch.tensor([4.0, -3.0, 2.0], dtype=torch.float64))
    energy_moved, forces_moved = model.energy_and_forces(moved)
    close(energy_moved, energy)
    close(forces_moved, forces @ q.T, 1e-9)
    assert float(forces.abs().max()) > 1e-4
    assert float(energy.std()) > 1e-4


def test_atom_order_does_not_matter(model):
    numbers, positions = GENERIC[2]
    order = np.random.default_rng(0).permutation(len(numbers))
    permuted = ([numbers[i] for i in order], positions[order])
    energy, forces = model.energy_and_forces(batch_of(model, [GENERIC[2]]))
    energy_permuted, forces_permuted = model.energy_and_forces(batch_of(model, [permuted]))
    close(energy_permuted, energy)
    close(forces_permuted, forces[torch.as_tensor(order)], 1e-9)


def test_elements_matter(model):
    numbers, positions = GENERIC[0]
    other = [8 if z == 6 else 6 for z in numbers]
    assert float((energies(model, [(other, positions)]) - energies(model, [GENERIC[0]])).abs()) > 1e-6


def test_molecules_of_a_batch_do_not_see_each_other(model):
    molecules = [*GENERIC, WATER, ATOM]
    together, forces = model.energy_and_forces(batch_of(model, molecules))
    first = 0
    for index, molecule in enumerate(molecules):
        alone, own_forces = model.energy_and_forces(batch_of(model, [molecule]))
        n = len(molecule[0])
        close(together[index : index + 1], alone)
        close(forces[first : first + n], own_forces, 1e-9)
        first += n


def test_two_far_molecules_have_the_sum_of_their_energies(model):
    if model.cutoff is None:
        return  # every pair of atoms interacts in this model
    far = (WATER[0] + GENERIC[1][0], np.concatenate([WATER[1], GENERIC[1][1] + [0.0, 60.0, 0.0]]))
    energy = energies(model, [WATER, GENERIC[1], far])
    if model.extensive:
        close(energy[0] + energy[1], energy[2])
    else:
        assert float((energy[0] + energy[1] - energy[2]).abs()) > 1e-6


def test_edges_beyond_the_cutoff_contribute_nothing(model):
    if model.cutoff is None:
        return  # every pair of atoms interacts in this model
    stretched = [(z, np.asarray(x) * 2.5) for z, x in GENERIC]
    near, all_of_them = batch_of(model, stretched), batch_of(model, stretched, cutoff=None)
    if model.cutoff < 8.0:
        assert near.n_edges < all_of_them.n_edges
    energy, forces = model.energy_and_forces(near)
    energy_all, forces_all = model.energy_and_forces(all_of_them)
    close(energy_all, energy)
    close(forces_all, forces, 1e-9)


def test_energy_is_continuous_at_the_cutoff(model):
    if model.cutoff is None:
        return  # every pair of atoms interacts in this model

    def at(distance):
        return energies(model, [([6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])])

    inside, outside = at(model.cutoff - 1e-5), at(model.cutoff + 1e-5)
    assert (float((inside - outside).abs()) < 1e-7) == model.smooth_cutoff


def test_forces_are_the_gradient(model):
    molecule = GENERIC[0]
    batch = batch_of(model, [molecule])
    _, forces = model.energy_and_forces(batch)
    if model.direct_forces:
        assert forces.shape == batch.positions.shape
        return
    step = 1e-5
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = torch.as_tensor(rng.normal(size=batch.positions.shape))
        with torch.no_grad():
            up = model(batch.with_positions(batch.positions + step * direction))
            down = model(batch.with_positions(batch.positions - step * direction))
        slope = float((up - down).double().sum()) / (2 * step)
        assert -slope == pytest.approx(float((forces * direction).sum()), rel=1e-6, abs=1e-7)


def test_net_force_and_torque_of_conservative_models_vanish(model):
    if model.direct_forces:
        return  # a head of its own promises neither
    batch = batch_of(model, [GENERIC[2]])
    _, forces = model.energy_and_forces(batch)
    close(forces.sum(dim=0), torch.zeros(3, dtype=torch.float64), 1e-9)
    close(torch.linalg.cross(batch.positions, forces).sum(dim=0), torch.zeros(3, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_geometries_give_finite_second_derivatives(model, dtype):
    model.to(dtype)
    batch = batch_of(model, [ATOM, WATER, HCN, ACETYLENE, FORMALDEHYDE, GENERIC[0]], dtype=dtype)
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    assert torch.isfinite(energy).all() and torch.isfinite(forces).all()
    loss = energy.square().sum() + forces.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert any(g is not None and float(g.abs().max()) > 0 for g in gradients)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_batches_without_edges(model):
    energy, forces = model.energy_and_forces(batch_of(model, [ATOM, ([1], [[0.0, 0.0, 0.0]])]))
    assert torch.isfinite(energy).all()
    assert float(forces.abs().max()) == 0.0


def test_padding_changes_nothing(model):
    molecules = [*GENERIC, WATER, ATOM]
    counts = np.array([len(z) for z, _ in molecules])
    data = RaggedDataset(
        np.concatenate([z for z, _ in molecules]),
        np.concatenate([np.asarray(x) for _, x in molecules]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.zeros(len(molecules)),
        dtype=torch.float64,
        cutoff=model.cutoff,
        forces=np.zeros((counts.sum(), 3)),
    )
    rows = np.array([4, 2, 0, 3])
    atoms, pairs, triplets = Budget.of_counts(counts[rows])
    budget = Budget(4, atoms + 3, pairs + 6, triplets + 11, int(counts.max()))
    ragged, _ = data.batch(rows)
    padded, _ = data.padded_batch(torch.as_tensor(rows), budget, reach=model.cutoff or 10.0)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(batch, n_graphs):
        energy, forces = model.energy_and_forces(batch, create_graph=True)
        loss = energy[:n_graphs].double().square().sum() + forces[:atoms].square().sum()
        return energy[:n_graphs], forces[:atoms], torch.autograd.grad(loss, parameters, allow_unused=True)

    energy, forces, slopes = gradients(ragged, 4)
    energy_padded, forces_padded, slopes_padded = gradients(padded, 4)
    close(energy_padded, energy)
    close(forces_padded, forces, 1e-9)
    for a, b in zip(slopes_padded, slopes, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b, 1e-8)


def test_single_precision_is_close_to_double(model):
    energy, forces = model.energy_and_forces(batch_of(model, GENERIC))
    model.float()
    energy32, forces32 = model.energy_and_forces(batch_of(model, GENERIC, dtype=torch.float32))
    assert forces32.dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float32
    close(energy32.double(), energy, 1e-4)
    close(forces32.double(), forces, 1e-3)


def test_steps_make_up_the_network(model):
    batch = batch_of(model, GENERIC)
    features = {}
    with torch.no_grad():
        for _, function in model.steps():
            features = function(batch, features)
    energy, forces = model.energy_and_forces(batch)
    close(features["energy"].double(), energy.double(), 1e-12)
    if model.direct_forces:
        close(features["forces"], forces, 1e-12)


@pytest.mark.parametrize(("dtype", "gate"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_every_layer_is_equivariant(model, dtype, gate):
    errors = layer_errors(model.to(dtype), batch_of(model, GENERIC, dtype=dtype), n_rotations=4)
    assert errors
    assert max(error.maximum for error in errors) < gate, max(errors, key=lambda e: e.maximum)
    if model.irreps:
        assert any(error.irreps not in ("scalar", "1x1o") or error.feature != "forces" for error in errors)


def test_wrongly_rotated_features_would_be_noticed(model):
    if not model.irreps:
        return
    name = next(iter(model.irreps))
    honest = model.irreps
    model.irreps = {key: value for key, value in honest.items() if key != name}
    errors = layer_errors(model, batch_of(model, GENERIC), n_rotations=2)
    assert max(error.maximum for error in errors) > 1e-3


def test_weights_do_not_depend_on_anything_but_the_seed(model, request):
    name = request.node.callspec.params["model"]
    torch.manual_seed(11)
    first = build_model(name, SMALL.get(name, {})).state_dict()
    torch.manual_seed(11)
    second = build_model(name, SMALL.get(name, {})).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_parameter_is_used(model):
    energy, forces = model.energy_and_forces(batch_of(model, GENERIC, fidelity=[0, 1, 0]), create_graph=True)
    loss = energy.double().square().sum() + forces.square().sum()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    unused = [name for name, slope in zip(names, slopes, strict=True) if slope is None]
    assert [name for name in unused if not name.startswith(model.unused_parameters)] == []


def test_a_misspelt_option_is_named(model, request):
    name = request.node.callspec.params["model"]
    with pytest.raises(InputError, match="cut_off"):
        build_model(name, {"cut_off": 5.0})


def test_the_catalog_is_complete():
    for name in MODELS:
        assert hasattr(importlib.import_module(model_module(name)), MODELS[name][1])
    with pytest.raises(InputError, match="unknown"):
        model_module("newton")
