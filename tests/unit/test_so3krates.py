"""So3krates, its radial bases, cutoff functions, spherical harmonics and attention."""

import copy
import importlib.util
import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import comb
from torch.autograd import gradcheck, gradgradcheck

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, RaggedDataset, make_batch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.equivariance import rotate_feature
from mlip_studies.models.layers.cutoffs import CUTOFFS, cutoff_function
from mlip_studies.models.layers.pair_attention import attend, attention_scores
from mlip_studies.models.layers.radial import BernsteinBasis, GaussianBasis, PhysBasis, radial_basis
from mlip_studies.models.so3krates import ResidualMLP, So3krates, SphericalHarmonics

torch.set_num_threads(1)
F64 = torch.float64
SMALL = {"n_features": 24, "n_layers": 2, "n_heads": 2, "degrees": (1, 2, 3), "n_radial": 7, "cutoff": 3.0}
SMALL |= {"elements": (1, 6, 7, 8), "radial_basis": "gaussian"}
#: together they use every branch of the network
VARIANTS = [
    {},
    {"layer_norm": "pre", "residual_mlp": "2023", "radial_basis": "phys"},
    {"layer_norm": "post", "residual_mlp": "plain", "radial_basis": "bernstein", "cutoff_function": "polynomial"},
    {"normalization": "avg_num_neighbors", "avg_num_neighbors": 5.5, "cutoff_function": "exponential"},
    {"sphc_normalization": 4.0, "degrees": (1, 3), "embedding_rows": None},
    {"energy_scales": (1.5, 0.5, 2.0, 0.7), "energy_shifts": (-1.0, 3.0, 0.2, 0.4)},
    {"train_scales_and_shifts": True, "degrees": (2, 4), "rounded_contraction": ("filter", "interaction")},
]


def molecules(seed=0, sizes=(5, 7, 4), spread=1.3):
    rng = np.random.default_rng(seed)
    result = []
    for n in sizes:
        positions = [np.zeros(3)]
        while len(positions) < n:
            new = positions[rng.integers(len(positions))] + spread * rng.normal(size=3)
            if min(np.linalg.norm(new - old) for old in positions) > 0.8:
                positions.append(new)
        result.append((rng.choice([1, 6, 7, 8], n), np.array(positions)))
    return result


def small(dtype=F64, seed=1, **options):
    """A small model none of whose parameters is at its special starting value."""
    torch.manual_seed(seed)
    model = So3krates(**(SMALL | options)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def directed(batch, keep=slice(None), order=None):
    """The same edges, or some of them, as a list without pairs."""
    index = torch.arange(batch.n_edges)[keep] if order is None else order
    return GraphBatch(
        batch.atomic_numbers,
        batch.positions,
        batch.graph_index,
        batch.receivers[index],
        batch.senders[index],
        batch.atoms_per_graph,
        batch.fidelity,
    )


def error(a, b):
    return float((a - b).detach().abs().max())


# --- layers


def test_gaussian_and_phys_bases():
    d = torch.tensor([0.3, 1.0, 4.9, 7.0], dtype=F64)
    centres = np.linspace(0.0, 5.0, 8)
    expected = np.exp(-0.5 * ((d.numpy()[:, None] - centres) / (5.0 / 7)) ** 2)
    assert np.abs(radial_basis("gaussian", 8, 5.0).double()(d).numpy() - expected).max() < 1e-14
    narrow = np.exp(-0.5 * ((d.numpy()[:, None] - centres) / 0.1) ** 2)
    assert np.abs(GaussianBasis(8, 0.0, 5.0, 0.1).double()(d).numpy() - narrow).max() < 1e-14
    start = math.exp(-5.0)
    beta = (2.0 / 8 * (1.0 - start)) ** -2
    expected = np.exp(-beta * (np.exp(-d.numpy())[:, None] - np.linspace(start, 1.0, 8)) ** 2)
    assert np.abs(PhysBasis(8, 5.0).double()(d).numpy() - expected).max() < 1e-14


def test_bernstein_basis():
    d = torch.tensor([0.05, 0.7, 2.0, 30.0], dtype=F64)
    x = np.exp(-0.9448630629 * d.numpy())[:, None]
    k = np.arange(9)
    values = BernsteinBasis(9).double()(d).numpy()
    assert np.abs(values - comb(8, k) * x**k * (1.0 - x) ** (8 - k)).max() < 1e-13
    many = BernsteinBasis(120)(d.float())
    assert torch.isfinite(many).all()
    assert error(many.sum(1), torch.ones(4)) < 1e-4


def test_constants_are_exact_in_double_precision_after_single():
    basis = GaussianBasis(7, 0.0, 1.0)
    assert basis.centres.dtype == torch.float32
    exact = torch.linspace(0.0, 1.0, 7, dtype=F64)
    assert error(basis.float().double().centres, exact) < 1e-15
    assert error(copy.deepcopy(basis).float().centres.double(), exact) > 1e-10
    assert "centres" not in basis.state_dict()


@pytest.mark.parametrize("name", CUTOFFS)
def test_cutoffs_end_smoothly(name):
    function = cutoff_function(name)
    d = torch.linspace(1e-6, 5.999, 500, dtype=F64, requires_grad=True)
    value = function(d, 4.0)
    assert abs(float(value.detach()[0]) - 1.0) < 1e-10
    assert float(value.detach()[d >= 4.0].abs().max()) == 0.0
    assert float(value.detach().diff().max()) <= 0.0
    (slope,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), d)
    assert torch.isfinite(slope).all() and torch.isfinite(curve).all()
    assert float(slope.detach()[d >= 4.0].abs().max()) == 0.0
    near = function(torch.tensor([4.0 - 1e-5], dtype=F64), 4.0)
    assert float(near) < 1e-9
    assert abs(float(cutoff_function("cosine")(torch.tensor([2.0], dtype=F64), 4.0)) - 0.5) < 1e-15


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="phys"):
        radial_basis("fourier", 8, 5.0)
    with pytest.raises(InputError, match="cosine"):
        cutoff_function("step")
    with pytest.raises(InputError, match="at least 2"):
        radial_basis("phys", 1, 5.0)


def test_spherical_harmonics_are_those_of_e3nn():
    degrees = (1, 2, 3, 4, 6)
    unit = torch.nn.functional.normalize(torch.randn(40, 3, dtype=F64, generator=torch.manual_seed(0)), dim=1)
    harmonics = SphericalHarmonics(degrees).double()
    reference = o3.spherical_harmonics(list(degrees), unit[:, [1, 2, 0]], normalize=True, normalization="integral")
    assert error(harmonics(unit), reference) < 1e-14
    assert error(harmonics(-unit), harmonics(unit) * harmonics.parity) < 1e-15
    assert error(SphericalHarmonics((3,))(unit.float()).double(), harmonics(unit)[:, 8:15]) < 1e-6


@pytest.mark.parametrize("paired", [True, False])
def test_attention_and_its_derivatives(paired):
    torch.manual_seed(0)
    batch = make_batch(molecules(sizes=(3, 2)), None, dtype=F64)
    if not paired:
        batch = directed(batch, order=torch.tensor([5, 0, 3, 6]))
    n, heads = 5, (2, 3)
    q, k, v = (torch.randn(n, width, dtype=F64, requires_grad=True) for width in (12, 12, 6))
    w = torch.randn(batch.n_edges // (2 if paired else 1), 12, dtype=F64, requires_grad=True)
    a = torch.randn(batch.n_edges, 3, dtype=F64, requires_grad=True)

    def scores(q, k, w):
        return attention_scores(q, k, w, batch, heads)

    every = w.repeat(2, 1) if paired else w
    product = (gather(q, batch.receivers) * gather(k, batch.senders) * every).detach().numpy()
    expected = np.concatenate(
        [product[:, :6].reshape(-1, 2, 3).sum(2), product[:, 6:].reshape(-1, 3, 2).sum(2)], axis=1
    )
    assert np.abs(scores(q, k, w).detach().numpy() - expected).max() < 1e-14
    plain = scatter_sum(a.repeat_interleave(2, 1) * gather(v, batch.senders), batch.receivers, n)
    assert error(attend(a, v, batch), plain) < 1e-14
    for function, inputs in ((scores, (q, k, w)), (lambda a, v: attend(a, v, batch), (a, v))):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


# --- the network against the reference vectors


def flax_kernel(data, name):
    return torch.as_tensor(data[f"param:params/{name}/kernel"])


def load_flax(model, data):
    """Weights of the JAX program."""

    def get(name):
        return torch.as_tensor(data[f"param:params/{name}"])

    with torch.no_grad():
        model.embedding.copy_(get("feature_embeddings_0/Embed_0/embedding"))
        for number, layer in enumerate(model.layers):
            f = layer.filters
            for block, name in enumerate(("FeatureBlock_0", "GeometricBlock_0")):
                root = f"layers_{number}/{name}/filter_fn/"
                for kind, mlp in (("radial", "VmapMLP_0"), ("spherical", "VmapMLP_1")):
                    for stage, dense in (("in", "layers_0"), ("out", "layers_1")):
                        kernel, bias = get(f"{root}{mlp}/{dense}/kernel")[0], get(f"{root}{mlp}/{dense}/bias")[0]
                        weight = getattr(f, f"{kind}_{stage}")
                        (weight[block] if stage == "out" else weight.chunk(2, 1)[block]).copy_(kernel)
                        getattr(f, f"{kind}_{stage}_bias").chunk(2)[block].copy_(bias)
            root = f"layers_{number}/FeatureBlock_0/attention_fn/"
            qk = "VmapConvAttentionCoefficients_0"
            parts = [f"{qk}/Dense_0", f"{qk}/Dense_1", "VmapAttentionAggregation_0/Dense_0"]
            layer.feature_projection.copy_(torch.cat([flax_kernel(data, root + part) for part in parts], 2))
            root = f"layers_{number}/GeometricBlock_0/attention_fn/"
            layer.geometry_projection.copy_(torch.cat([flax_kernel(data, root + part) for part in parts[:2]], 2))
            root = f"layers_{number}/InteractionBlock_0/MLP_0/layers_0"
            layer.interaction.weight.copy_(get(f"{root}/kernel").T)
            layer.interaction.bias.copy_(get(f"{root}/bias"))
        for linear, name in ((model.head_in, "layers_0"), (model.head_out, "layers_1")):
            linear.weight.copy_(get(f"observables_0/MLP_0/{name}/kernel").T)
            linear.bias.copy_(get(f"observables_0/MLP_0/{name}/bias"))


@pytest.fixture(scope="module")
def flax(parity_folder):
    return np.load(parity_folder / "so3krates" / "J1_thesis_default_F132_L3_H4_l123_phys.npz")


@pytest.mark.parametrize(("rounded", "tolerance"), [(("interaction",), 1e-12), ((), 1e-7)])
def test_energies_and_forces_of_the_jax_program(flax, rounded, tolerance):
    model = So3krates(rounded_contraction=rounded).double()
    load_flax(model, flax)
    worst = 0.0
    for number in range(5):
        z, positions = flax[f"in{number}:z"], flax[f"in{number}:R"]
        energy, forces = flax[f"out{number}:E"], torch.as_tensor(flax[f"out{number}:F"])
        pairs = make_batch([(z, positions)], 5.0, dtype=F64)
        given = GraphBatch(
            pairs.atomic_numbers,
            pairs.positions,
            pairs.graph_index,
            torch.as_tensor(flax[f"in{number}:idx_i"]),
            torch.as_tensor(flax[f"in{number}:idx_j"]),
            pairs.atoms_per_graph,
            pairs.fidelity,
        )
        for batch in (pairs, given):
            e, f = model.energy_and_forces(batch)
            worst = max(worst, abs(float(e) - float(energy[0])) / max(1.0, abs(float(energy[0]))))
            worst = max(worst, error(f, forces) / float(forces.abs().max()))
    assert worst < tolerance
    if not rounded:
        # The option has an effect of the size that single-precision factors have.
        assert worst > 1e-10


def load_torch(model, state):
    """Weights of the PyTorch program; a missing key would raise."""
    with torch.no_grad():
        model.embedding.copy_(state["inv_feature_embedding.embedding.weight"].T)
        for number, layer in enumerate(model.layers):
            root = f"euclidean_transformers.{number}."
            f = layer.filters
            for block, name in enumerate(("inv", "ev")):
                for kind, mlp in (("radial", "mlp_rbf"), ("spherical", "mlp_ev")):
                    for stage, dense in (("in", "0"), ("out", f"{mlp}_layer_1.0")):
                        path = f"{root}filter_net_{name}.{mlp}.{dense}"
                        weight = getattr(f, f"{kind}_{stage}")
                        target = weight[block] if stage == "out" else weight.chunk(2, 1)[block]
                        target.copy_(state[f"{path}.weight"].T)
                        getattr(f, f"{kind}_{stage}_bias").chunk(2)[block].copy_(state[f"{path}.bias"])
            attention = root + "euclidean_attention_block."
            parts = [state[f"{attention}W_{letter}_inv"] for letter in "qkv"]
            layer.feature_projection.copy_(torch.cat(parts, 2))
            layer.geometry_projection.copy_(torch.cat([state[f"{attention}W_{letter}_ev"] for letter in "qk"], 2))
            layer.interaction.weight.copy_(state[root + "interaction_block.linear_layer.weight"])
            layer.interaction.bias.copy_(state[root + "interaction_block.linear_layer.bias"])
        for linear, name in ((model.head_in, "layers.0"), (model.head_out, "final_layer")):
            linear.weight.copy_(state[f"atomic_energy_output_block.{name}.weight"])
            linear.bias.copy_(state[f"atomic_energy_output_block.{name}.bias"])


def test_everything_that_the_torch_program_shows(parity_folder):
    data = torch.load(parity_folder / "so3krates" / "A_thesis_like.pt", weights_only=True)
    state, inputs, outputs = data["state_dict"], data["inputs"], data["outputs"]
    model = So3krates(
        elements=range(1, 21),
        embedding_rows=None,
        radial_basis="gaussian",
        energy_scales=state["atomic_energy_output_block.energy_scales.weight"].flatten().tolist(),
        energy_shifts=state["atomic_energy_output_block.energy_shifts"].tolist(),
        rounded_contraction=("filter", "interaction"),
    ).double()
    assert model.n_parameters() == 308_653
    load_torch(model, state)
    batch = GraphBatch(
        inputs["atomic_numbers"],
        inputs["positions"],
        inputs["batch"],
        inputs["edge_index"][0],
        inputs["edge_index"][1],
        inputs["ptr"].diff(),
        torch.ones(5, dtype=torch.int64),
    )
    energy, forces = model.energy_and_forces(batch)
    assert float(((energy - outputs["energy"]).abs() / outputs["energy"].abs().clamp(min=1.0)).max()) < 1e-12
    assert error(forces, outputs["forces"]) < 1e-12 * float(outputs["forces"].abs().max())
    features = {}
    for name, step in model.steps():
        features = step(batch, features)
        if name.startswith("layer "):
            number = int(name.removeprefix("layer ")) - 1
            inv, ev = outputs["att_scores"]["inv"][number], outputs["att_scores"]["ev"][number]
            assert error(features["attention"][:, :4], inv.squeeze(2)) < 1e-12 * float(inv.abs().max())
            assert error(features["attention"][:, 4:], ev[:, [0, 3, 8]]) < 1e-12 * float(ev.abs().max())
            x, chi = features["x"], features["chi"]
    # Its edge vectors point the other way, which changes the sign of odd degrees.
    assert error(x, outputs["inv_features"]) < 1e-12 * float(outputs["inv_features"].abs().max())
    reference = outputs["ev_features"]
    assert error(chi * model.harmonics.parity, reference) < 1e-12 * float(reference.abs().max())


def test_parameters_of_the_thesis():
    assert So3krates().n_parameters() == 319_213
    assert So3krates(elements=(1, 6, 7, 8, 16)).n_parameters() == 319_213
    assert So3krates(elements=(1, 6), train_scales_and_shifts=True).n_parameters() == 319_213 + 4


def test_initial_weights():
    torch.manual_seed(0)
    model = So3krates()
    assert abs(float(model.embedding.detach().std()) * math.sqrt(132) - 1.0) < 0.03
    layer = model.layers[1]
    for weight, fan_in in (
        (layer.filters.radial_out, 132),
        (layer.filters.radial_in, 32),
        (layer.feature_projection, 33),
        (layer.geometry_projection, 44),
        (layer.interaction.weight, 135),
        (model.head_in.weight, 132),
    ):
        assert abs(float(weight.detach().std()) * math.sqrt(fan_in) - 1.0) < 0.05
    assert float(layer.filters.radial_out_bias.abs().max()) == 0.0


# --- the network itself


@pytest.fixture(scope="module")
def plain_class(repository):
    path = repository / "benchmarks" / "baselines" / "so3krates.py"
    spec = importlib.util.spec_from_file_location("plain_so3krates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PlainSo3krates


def forces_and_gradients(network, model, batch):
    positions = batch.positions.clone().requires_grad_(True)
    energy = network(batch.with_positions(positions))
    (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    loss = energy.square().sum() + (slope * torch.linspace(0.5, 1.5, 3, dtype=slope.dtype)).square().sum()
    return energy, slope, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("edges", ["pairs", "directed"])
def test_the_plain_formulation_agrees(plain_class, options, edges):
    model = small(**options)
    batch = make_batch(molecules(), 3.0, dtype=F64)
    if edges == "directed":
        # Not symmetric: tells the receiver from the sender.
        batch = directed(batch, order=torch.randperm(batch.n_edges, generator=torch.manual_seed(3))[::2])
    energy, slope, gradients = forces_and_gradients(model, model, batch)
    energy_plain, slope_plain, gradients_plain = forces_and_gradients(plain_class(model), model, batch)
    assert error(energy, energy_plain) < 1e-12 * float(energy.abs().max())
    assert error(slope, slope_plain) < 1e-12 * max(1.0, float(slope.abs().max()))
    for a, b in zip(gradients, gradients_plain, strict=True):
        assert error(a, b) < 1e-11 * max(1.0, float(b.abs().max()))


def test_options_are_different_networks():
    batch = make_batch(molecules(), 3.0, dtype=F64)
    energies = []
    for options in [*VARIANTS, {"layer_norm": "post"}, {"layer_norm": "pre"}, {"residual_mlp": "plain"}]:
        with torch.no_grad():
            energies.append(small(**options)(batch))
    for index, energy in enumerate(energies):
        for other in energies[:index]:
            assert error(energy, other) > 1e-6


def test_a_message_goes_from_sender_to_receiver():
    model = small()
    pair = make_batch([([6, 8], [[0.0, 0.0, 0.0], [0.0, 0.3, 1.1]])], 3.0, dtype=F64)
    one_way = directed(pair, order=torch.tensor([0]))
    i, j = int(one_way.receivers[0]), int(one_way.senders[0])
    alone = make_batch([([6], [[0.0, 0.0, 0.0]]), ([8], [[0.0, 0.0, 0.0]])], 3.0, dtype=F64)

    def atoms(batch):
        features = {}
        for _, step in model.steps()[:-1]:
            features = step(batch, features)
        return model.atomic_energies(batch, features["x"]), features["chi"]

    with torch.no_grad():
        (one, chi), (none, _) = atoms(one_way), atoms(alone)
    assert error(one[j], none[j]) < 1e-14
    assert error(one[i], none[i]) > 1e-3
    assert float(chi[j].abs().max()) == 0.0
    assert float(chi[i].abs().max()) > 1e-4


def test_euclidean_variables_turn_with_the_molecule():
    model = small(sphc_normalization=3.0)
    assert model.irreps["chi"] == "1x1o+1x2e+1x3o"
    batch = make_batch(molecules(), 3.0, dtype=F64)
    rotation = torch.as_tensor(np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0])
    rotation = rotation * torch.sign(torch.det(rotation))
    for matrix in (rotation, -rotation):
        turned = batch.with_positions(batch.positions @ matrix.T)
        first, second = {}, {}
        for name, step in model.steps():
            first, second = step(batch, first), step(turned, second)
            for key in first:
                turned_feature = rotate_feature(model, key, first[key], matrix.numpy())
                assert error(turned_feature, second[key]) < 1e-11, (name, key)
                assert (key not in model.irreps) or error(first[key], second[key]) > 1e-3


def test_the_initial_euclidean_variables_are_mean_harmonics():
    model = small(sphc_normalization=3.0)
    batch = make_batch(molecules(), 3.0, dtype=F64)
    vectors = batch.edge_vectors()
    d = vectors.norm(dim=1)
    harmonics = o3.spherical_harmonics([1, 2, 3], vectors[:, [1, 2, 0]], normalize=True, normalization="integral")
    weighted = harmonics * (0.5 * (torch.cos(math.pi * d / 3.0) + 1.0)).unsqueeze(1) / 3.0
    assert error(model.embed(batch)["chi"], scatter_sum(weighted, batch.receivers, batch.n_atoms)) < 1e-14
    assert float(small().embed(batch)["chi"].abs().max()) == 0.0


def test_where_the_features_are_normalised():
    batch = make_batch(molecules(), 3.0, dtype=F64)
    pre, post = (So3krates(**(SMALL | {"layer_norm": place})).double() for place in ("pre", "post"))
    features = post.layers[0](batch, post.embed(batch))
    assert error(features["x"].mean(1), torch.zeros(batch.n_atoms)) < 1e-12
    assert error(features["x"].std(1, unbiased=False), torch.ones(batch.n_atoms)) < 1e-4
    before = pre.embed(batch)
    larger = before | {"x": 1e3 * before["x"] + 1.0}
    first, second = pre.layers[0](batch, before), pre.layers[0](batch, larger)
    # What a block reads is normalised, what it adds to is not.
    assert error(first["attention"], second["attention"]) < 1e-3 * float(first["attention"].abs().max())
    assert error(second["x"], larger["x"]) < 20.0
    assert error(post.layers[0](batch, larger)["attention"], features["attention"]) > 1.0


def test_residual_perceptrons():
    x = torch.randn(5, 8, dtype=F64)
    silu = torch.nn.functional.silu
    old, new = ResidualMLP(8, "2023").double(), ResidualMLP(8, "plain").double()
    torch.nn.init.normal_(new.outer.bias)
    inner = silu(silu(x) @ old.inner.weight.T) @ old.outer.weight.T
    assert error(old(x), silu(x + inner) @ old.last.weight.T) < 1e-14
    assert error(new(x), x + silu(silu(x) @ new.inner.weight.T) @ new.outer.weight.T + new.outer.bias) < 1e-14
    assert [sum(p.numel() for p in mlp.parameters()) for mlp in (old, new)] == [3 * 64, 2 * 72]


def test_energy_scales_and_shifts():
    scales, shifts = (1.5, 0.5, 2.0, 0.7), (-1.0, 3.0, 0.2, 0.4)
    batch = make_batch([([1, 8, 6], molecules()[0][1][:3])], 3.0, dtype=F64)
    bare, scaled = small(), small(energy_scales=scales, energy_shifts=shifts)
    scaled.load_state_dict(bare.state_dict(), strict=False)
    x = torch.randn(3, 24, dtype=F64)
    expected = bare.atomic_energies(batch, x) * torch.tensor([1.5, 0.7, 0.5], dtype=F64)
    expected = expected + torch.tensor([-1.0, 0.4, 3.0], dtype=F64)
    assert error(scaled.atomic_energies(batch, x), expected) < 1e-14
    trained = small(energy_scales=scales, train_scales_and_shifts=True)
    assert {"tables.scales", "tables.shifts"} <= {name for name, _ in trained.named_parameters()}
    with torch.no_grad():
        trained.load_state_dict(bare.state_dict(), strict=False)
        trained.tables.scales.copy_(torch.tensor(scales, dtype=F64))
        trained.tables.shifts.copy_(torch.tensor(shifts, dtype=F64))
    assert error(trained.atomic_energies(batch, x), expected) < 1e-14


@pytest.mark.parametrize("options", [VARIANTS[0], VARIANTS[2], VARIANTS[3], VARIANTS[4]])
def test_edges_beyond_the_cutoff_and_padding_change_nothing(options):
    model = small(**options)
    parts = [*molecules(sizes=(6, 5)), (np.array([7]), np.zeros((1, 3)))]
    near, everything = make_batch(parts, 3.0, dtype=F64), make_batch(parts, None, dtype=F64)
    assert near.n_edges < everything.n_edges
    counts = [len(z) for z, _ in parts]
    data = RaggedDataset(
        np.concatenate([z for z, _ in parts]),
        np.concatenate([x for _, x in parts]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.zeros(3),
        dtype=F64,
        cutoff=3.0,
        centre=False,
    )
    padded, _ = data.padded_batch(torch.arange(3), data.budget(3, draws=2, margin=1.3), 3.0)
    assert padded.is_padded
    energy, forces = model.energy_and_forces(near)
    for batch in (everything, padded):
        e, f = model.energy_and_forces(batch)
        assert error(e[:3], energy) < 1e-12 * float(energy.abs().max())
        assert error(f[: sum(counts)], forces) < 1e-12 * max(1.0, float(forces.abs().max()))
        _, _, gradients = forces_and_gradients(model, model, batch)
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("options", VARIANTS[:5])
def test_atoms_without_neighbours_and_special_shapes(options):
    model = small(**options)
    atom = (np.array([7]), np.zeros((1, 3)))
    line = (np.array([6, 1, 7]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.1], [0.0, 0.0, 1.2]]))
    far = (np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
    for parts in ([atom], [atom, far], [line], [line, atom, far]):
        batch = make_batch(parts, 3.0, dtype=F64)
        energy, forces, gradients = forces_and_gradients(model, model, batch)
        assert torch.isfinite(energy).all() and torch.isfinite(forces).all()
        assert all(torch.isfinite(g).all() for g in gradients)
    _, forces = model.energy_and_forces(make_batch([atom, far], 3.0, dtype=F64))
    assert float(forces.abs().max()) == 0.0


def test_single_precision_is_close_to_double():
    model = small()
    energy, forces = model.energy_and_forces(make_batch(molecules(), 3.0, dtype=F64))
    single = copy.deepcopy(model).float()
    energy_single, forces_single = single.energy_and_forces(make_batch(molecules(), 3.0))
    assert energy_single.dtype == F64 and forces_single.dtype == torch.float32
    assert error(energy_single, energy) < 1e-5 * float(energy.abs().max())
    assert error(forces_single, forces) < 1e-5 * max(1.0, float(forces.abs().max()))
    # Constants survive the way through single precision.
    energy_back, _ = copy.deepcopy(model).float().double().energy_and_forces(make_batch(molecules(), 3.0, dtype=F64))
    assert error(energy_back, energy) < 1e-5 * float(energy.abs().max())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_features": 26}, "multiple"),
        ({"n_features": 12, "n_heads": 5}, "n_heads"),
        ({"n_layers": 0}, "n_layers"),
        ({"degrees": ()}, "degrees"),
        ({"degrees": (0, 1)}, "degrees"),
        ({"degrees": (2, 1)}, "degrees"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"radial_basis": "fourier"}, "radial basis"),
        ({"cutoff_function": "step"}, "cutoff function"),
        ({"layer_norm": "both"}, "layer_norm"),
        ({"residual_mlp": "2024"}, "residual_mlp"),
        ({"normalization": "softmax"}, "normalization"),
        ({"normalization": "avg_num_neighbors"}, "avg_num_neighbors"),
        ({"sphc_normalization": -1.0}, "sphc_normalization"),
        ({"rounded_contraction": ("head",)}, "rounded_contraction"),
        ({"elements": (1, 1)}, "elements"),
        ({"elements": (0,)}, "elements"),
        ({"elements": (1, 100)}, "elements"),
        ({"elements": None, "embedding_rows": None}, "embedding_rows"),
        ({"energy_shifts": (1.0,)}, "energy_shifts"),
    ],
)
def test_options_that_make_no_network(options, match):
    with pytest.raises(InputError, match=match) as raised:
        So3krates(**(SMALL | options))
    assert "\n" not in str(raised.value)
