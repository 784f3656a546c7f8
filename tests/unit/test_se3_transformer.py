"""SE(3)-Transformer: exactness against reference vectors, parameter counts, equivariance, graphs, stable gradients."""

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.spatial.transform import Rotation

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, make_batch
from mlip_studies.models import se3_transformer
from mlip_studies.models.equivariance import layer_errors
from mlip_studies.models.se3_transformer import (
    AttentiveSelfInteraction,
    BasisKernels,
    Norm,
    SE3Transformer,
    SE3TransformerNetwork,
    SphericalHarmonics,
    edge_softmax,
    mix_channels,
    n_kernels,
)

#: (degree in, degree out, J) of the original's kernels that have the opposite sign of e3nn's
OPPOSITE = {(0, 2, 2), (1, 1, 1), (1, 2, 2), (2, 0, 2), (2, 1, 3), (2, 2, 3), (2, 2, 4)}


def rotation(seed):
    return torch.as_tensor(Rotation.random(rng=np.random.default_rng(seed)).as_matrix())


def molecule(seed, n):
    rng = np.random.default_rng(seed)
    places = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(3)])[rng.permutation(27)[:n]]
    return rng.choice([1, 6, 7, 8], n), 1.5 * places + rng.normal(scale=0.2, size=(n, 3))


def small(**options):
    torch.manual_seed(1)
    return SE3Transformer(**{"channels": 8, "n_heads": 2, "n_layers": 2, **options}).double()


# ---- reference vectors


def load_radial(messages, index, source, last, names):
    """Copy the hidden layers of one reference network (its state by ``names``) and its reordered last layer."""
    networks = messages.networks
    first, norm_1, second, norm_2 = names
    networks.weight_1[index] = source[f"{first}.weight"].t()
    networks.bias_1[index] = source[f"{first}.bias"]
    networks.scale_1[index], networks.shift_1[index] = source[f"{norm_1}.weight"], source[f"{norm_1}.bias"]
    networks.weight_2[index] = source[f"{second}.weight"].t()
    networks.bias_2[index] = source[f"{second}.bias"]
    networks.scale_2[index], networks.shift_2[index] = source[f"{norm_2}.weight"], source[f"{norm_2}.bias"]
    weight, bias = last
    messages.weights[index].copy_(weight)
    if bias is not None:
        messages.biases[index].copy_(bias)


def load_original(network, state):
    """Weights of the original authors' network into ours."""

    def kernels(messages, prefixes):
        for index, group in enumerate(messages.groups):
            (into,), out = group.degrees_in, group.degree_out
            ((kind, channels),) = group.outputs
            prefix = f"{prefixes[kind]}.kernel_unary.({into},{out}).rp.net"
            n_in, n = messages.fiber_in[into], n_kernels(into, out)
            signs = torch.tensor(
                [
                    # Their edges point the other way.
                    (-1.0) ** order * (-1.0 if (into, out, order) in OPPOSITE else 1.0)
                    for order in range(abs(into - out), into + out + 1)
                ]
            )
            weight = state[f"{prefix}.6.weight"].view(channels, n_in, n, -1) * signs.view(1, 1, n, 1)
            bias = state[f"{prefix}.6.bias"].view(channels, n_in, n) * signs
            last = weight.permute(3, 2, 1, 0).flatten(1), bias.permute(2, 1, 0).flatten()
            load_radial(messages, index, state, last, [f"{prefix}.{part}" for part in ("0", "1.bn", "3", "4.bn")])

    with torch.no_grad():
        for number, (attention, norm) in enumerate(zip(network.attention, network.norms, strict=True)):
            prefix = f"L.{2 * number}"
            kernels(attention.messages, {"value": f"{prefix}.GMAB.v", "key": f"{prefix}.GMAB.k"})
            for degree, weight in attention.query.weights.items():
                weight.copy_(state[f"{prefix}.GMAB.q.transform.{degree}"])
            for degree, weight in attention.project.weights.items():
                weight.copy_(state[f"{prefix}.project.transform.{degree}"])
            for degree in norm.degrees:
                norm.shift[degree] = state[f"L.{2 * number + 1}.bias.{degree}"][0]
        prefix = f"L.{2 * len(network.norms)}"
        kernels(network.readout.messages, {"out": prefix})
        for degree, weight in network.readout.own.weights.items():
            weight.copy_(state[f"{prefix}.kernel_self.{degree}"][0])


def load_nvidia(network, state):
    """Weights of NVIDIA's network into ours."""

    def kernels(messages, prefix):
        for index, group in enumerate(messages.groups):
            out, fused = group.degree_out, len(group.degrees_in) > 1
            name = f"conv_out.{out}" if fused else f"conv.{group.degrees_in[0]},{out}"
            name = f"{prefix}{name}.radial_func.net"
            n_in = messages.fiber_in[group.degrees_in[0]]
            sizes = [n_kernels(into, out) for into in group.degrees_in]
            weight = state[f"{name}.6.weight"].view(group.channels_out, n_in, sum(sizes), -1)
            parts = [part.permute(3, 2, 1, 0).flatten(1, 2) for part in weight.split(sizes, dim=2)]
            last = torch.cat(parts, dim=1).flatten(1), None
            load_radial(messages, index, state, last, [f"{name}.{part}" for part in (0, 1, 3, 4)])

    with torch.no_grad():
        for number, (attention, norm) in enumerate(zip(network.attention, network.norms, strict=True)):
            prefix = f"graph_modules.{2 * number}"
            kernels(attention.messages, f"{prefix}.to_key_value.")
            for ours, theirs in ((attention.query, "to_query"), (attention.project, "project")):
                for degree, weight in ours.weights.items():
                    weight.copy_(state[f"{prefix}.{theirs}.weights.{degree}"])
            prefix = f"graph_modules.{2 * number + 1}.group_norm"
            norm.scale.copy_(state[f"{prefix}.weight"].view_as(norm.scale))
            norm.shift.copy_(state[f"{prefix}.bias"].view_as(norm.shift))
        prefix = f"graph_modules.{2 * len(network.norms)}"
        kernels(network.readout.messages, f"{prefix}.")
        for degree, weight in network.readout.own.weights.items():
            weight.copy_(state[f"{prefix}.to_kernel_self.{degree}"])


def reference(parity_folder, name):
    file = torch.load(parity_folder / "se3transformer" / name, map_location="cpu", weights_only=True)
    if name.startswith("S2"):
        config = file["config"]
        network = SE3TransformerNetwork(
            {0: 4},
            {0: 1, 1: 1},
            channels=config["ch"],
            max_degree=config["ndeg"] - 1,
            n_layers=config["n_layers"],
            n_heads=config["heads"],
            channel_division=config["div"],
            self_interaction=config["selfint"],
            norm=config["nl"],
        )
        load_original(network, file["state_dict"])
    else:
        network = SE3TransformerNetwork({0: 4}, {0: 1, 1: 1}, style="nvidia")
        load_nvidia(network, file["state_dict"])
    return network, file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["S2_1x1_normbias.pt", "N1.pt"])
def test_reference_vectors(parity_folder, name, paired, dtype):
    network, file = reference(parity_folder, name)
    network.to(dtype)
    positions, senders, receivers = file["positions"].to(dtype), file["src"], file["dst"]
    n_pairs = None
    if paired:
        forward = receivers < senders
        receivers, senders = (
            torch.cat([receivers[forward], senders[forward]]),
            torch.cat([senders[forward], receivers[forward]]),
        )
        n_pairs = int(forward.sum())
        assert 2 * n_pairs == len(file["src"])
    vectors = positions[senders] - positions[receivers]
    with torch.no_grad():
        out = network({0: file["h0"].to(dtype)}, vectors, receivers, senders, n_pairs=n_pairs)
    for degree in (0, 1):
        expected = file["out"][str(degree)].to(dtype)
        assert float((out[degree] - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


# ---- parameter counts


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 719_008),
        ({"self_interaction": "attentive"}, 4_137_920),
        ({"variant": "wider"}, 2_675_456),
        ({"variant": "wider", "self_interaction": "attentive"}, 56_653_088),
        ({"variant": "higher_order"}, 6_109_152),
        ({"variant": "higher_order", "self_interaction": "attentive"}, 77_931_008),
        ({"channels": 2, "n_heads": 1}, 69_296),
        ({"channels": 2, "n_heads": 1, "self_interaction": "attentive"}, 70_808),
        ({"channels": 4, "n_heads": 1}, 101_416),
        ({"channels": 4, "n_heads": 1, "self_interaction": "attentive"}, 117_224),
        ({"channels": 4, "max_degree": 3, "n_heads": 1}, 194_096),
        ({"channels": 4, "max_degree": 3, "n_heads": 1, "self_interaction": "attentive"}, 214_544),
        ({"norm": "bias"}, 718_864),
        ({"variant": "wider", "norm": "bias"}, 2_675_168),
        ({"variant": "higher_order", "norm": "bias"}, 6_108_768),
        ({"style": "nvidia"}, 655_456),
        ({"n_layers": 2, "channels": 8, "n_heads": 2, "channel_division": 2, "norm": "bias"}, 80_416),
    ],
)
def test_parameter_counts(options, count):
    assert SE3Transformer(**options).n_parameters() == count


# ---- parts


def test_harmonics_are_those_of_e3nn():
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = SphericalHarmonics(6).double()(points / points.norm(dim=1, keepdim=True))
    theirs = o3.spherical_harmonics(list(range(7)), points, normalize=True, normalization="integral")
    assert float((ours - theirs).abs().max()) < 1e-12


def test_constants_stay_exact_through_single_precision():
    exact = BasisKernels([(1, 1), (2, 2)]).double().coupling
    assert torch.equal(BasisKernels([(1, 1), (2, 2)]).double().float().double().coupling, exact)


@pytest.mark.parametrize(("out", "into"), [(0, 1), (1, 1), (1, 2), (2, 2), (3, 1)])
def test_kernels_are_equivariant_and_independent(out, into):
    kernels = BasisKernels([(out, into)]).double()
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    points = points / points.norm(dim=1, keepdim=True)
    turn = rotation(3)

    def wigner(degree):
        samples = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        before, after = (o3.spherical_harmonics(degree, x, normalize=True) for x in (samples, samples @ turn.T))
        return torch.linalg.lstsq(before, after).solution.T

    shape = (7, 2 * out + 1, n_kernels(into, out), 2 * into + 1)
    before = kernels(points, False)[out, into].view(shape)
    after = kernels(points @ turn.T, False)[out, into].view(shape)
    expected = torch.einsum("ab,nbjc,dc->najd", wigner(out), before, wigner(into))
    assert float((after - expected).abs().max()) < 1e-12
    assert int(torch.linalg.matrix_rank(before[0].transpose(0, 1).flatten(1))) == n_kernels(into, out)
    both = kernels(points, True)[out, into]
    assert torch.allclose(both[1::2], kernels(-points, False)[out, into], atol=1e-14)
    assert torch.allclose(both[0::2], kernels(points, False)[out, into], atol=1e-14)


def test_mixing_block_by_block_equals_the_product(monkeypatch):
    monkeypatch.setattr(se3_transformer, "CPU_BLOCK", 1)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    arguments = draw(19, 3, 4), draw(19, 5), draw(5, 4 * 2), draw(8)
    direct = torch.einsum("rac,rco->rao", arguments[0], (arguments[1] @ arguments[2] + arguments[3]).view(19, 4, 2))
    assert torch.allclose(mix_channels(*arguments), direct)
    assert torch.allclose(mix_channels(*arguments, keep_weights=True), direct)
    # 19 rows are blocks of 8, 8 and 3.
    assert torch.autograd.gradcheck(mix_channels, arguments)
    few = tuple(a[:3].detach().requires_grad_() for a in arguments[:2])
    assert torch.autograd.gradgradcheck(mix_channels, (*few, *arguments[2:]))
    assert torch.autograd.gradcheck(mix_channels, (*arguments[:3], None))


def test_mixed_precision_keeps_the_type_of_the_weights():
    model = small().float()
    batch = make_batch([molecule(0, 9)])
    _, forces = model.energy_and_forces(batch, create_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        energy, rough = model.energy_and_forces(batch, create_graph=True)
    (energy.sum() + rough.float().square().sum()).backward()
    assert float((rough.float() - forces).detach().abs().max()) < 0.3 * float(forces.detach().abs().max())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def directed_edges(network, receivers, senders, positions):
    return network.edges(positions[senders] - positions[receivers], receivers, senders, len(positions))


def test_softmax_is_over_the_edges_into_a_node():
    network = SE3TransformerNetwork({0: 1}, {0: 1}, channels=2, n_heads=2, max_degree=0, n_layers=1).double()
    receivers, senders = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 0, 3])
    edges = directed_edges(network, receivers, senders, torch.arange(12.0, dtype=torch.float64).view(4, 3))
    scores = torch.tensor([[1.0, 900.0], [2.0, -900.0], [5.0, 3.0], [-1.0, 901.0]], dtype=torch.float64)
    shares = edge_softmax(scores, edges)
    assert torch.allclose(shares[[0, 1, 3]], scores[[0, 1, 3]].softmax(dim=0))
    assert torch.allclose(shares[2], torch.ones(2, dtype=torch.float64))


def test_attentive_self_interaction_follows_the_equations():
    torch.manual_seed(0)
    layer = AttentiveSelfInteraction({1: 3, 2: 4}, {1: 2, 2: 5}).double()
    x = {1: torch.randn(6, 3, 3).double(), 2: torch.randn(6, 5, 4).double()}
    result = layer(x)
    for degree, n_out in ((1, 2), (2, 5)):
        norm, _, linear = layer.networks[str(degree)]
        for atom in range(6):
            v = x[degree][atom].T  # (channels, components)
            products = (v @ v.T).flatten()
            products = (products - products.mean()) / (products.var(unbiased=False) + 1e-5).sqrt()
            products = products * norm.weight + norm.bias
            products = torch.where(products > 0, products, 0.01 * products)
            weights = (linear.weight @ products + linear.bias).view(n_out, -1).softmax(dim=1)
            assert torch.allclose(result[degree][atom].T, weights @ v)


@pytest.mark.parametrize("kind", ["layer", "bias"])
def test_norm_keeps_directions_and_is_smooth_at_zero(kind):
    torch.manual_seed(0)
    norm = Norm({0: 4, 1: 4}, kind, 1e-4).double()
    with torch.no_grad():
        norm.shift.add_(torch.rand_like(norm.shift))
    x = {0: torch.randn(5, 1, 4).double(), 1: torch.randn(5, 3, 4).double()}
    y = norm(x)
    for index, degree in enumerate((0, 1)):
        length = x[degree].norm(dim=1)
        if kind == "layer":
            centred = length - length.mean(dim=1, keepdim=True)
            value = centred / (length.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt() + norm.shift[index]
        else:
            value = length + norm.shift[index]
        assert torch.allclose(y[degree], (value.relu() / length).unsqueeze(1) * x[degree], rtol=1e-6)
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(norm({0: zero[:, :1], 1: zero})[1].sum(), zero, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), zero)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(curvature).all()
    assert float(slope.detach().abs().max()) > 1.0


# ---- the network on graphs of any kind


def graph_inputs(seed=0, n_edge_features=2):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    receivers = torch.tensor([0, 1, 2, 3, 4, 0, 0, 2])
    senders = torch.tensor([1, 2, 3, 4, 0, 2, 3, 0])
    return {0: draw(5, 3, 1), 1: draw(5, 2, 3)}, draw(5, 3), receivers, senders, draw(8, n_edge_features)


def core(**options):
    torch.manual_seed(0)
    return SE3TransformerNetwork(
        {0: 3, 1: 2}, {0: 2, 1: 3, 2: 1}, channels=4, n_heads=2, n_edge_features=2, **options
    ).double()


@pytest.mark.parametrize("style", ["original", "nvidia"])
@pytest.mark.parametrize("self_interaction", ["1x1", "attentive"])
def test_network_with_vectors_and_edge_features_is_equivariant(style, self_interaction):
    network = core(style=style, self_interaction=self_interaction)
    features, positions, receivers, senders, edge_features = graph_inputs()
    vectors = positions[senders] - positions[receivers]
    turn = rotation(4)
    with torch.no_grad():
        out = network(features, vectors, receivers, senders, edge_features)
        turned = {0: features[0], 1: features[1] @ turn.T}
        out_turned = network(turned, vectors @ turn.T, receivers, senders, edge_features)
        other = network(features, vectors, receivers, senders, edge_features + 0.1)
    assert {degree: tuple(value.shape) for degree, value in out.items()} == {
        0: (5, 2, 1),
        1: (5, 3, 3),
        2: (5, 1, 5),
    }
    assert float((out[0] - out_turned[0]).abs().max()) < 1e-11
    assert float((out[1] @ turn.T - out_turned[1]).abs().max()) < 1e-11
    assert float((out[2].norm(dim=2) - out_turned[2].norm(dim=2)).abs().max()) < 1e-11
    assert float((out[2] - out_turned[2]).abs().max()) > 1e-3
    assert float((out[0] - other[0]).abs().max()) > 1e-6


@pytest.mark.parametrize("style", ["original", "nvidia"])
def test_messages_go_from_sender_to_receiver(style):
    """On the chain 2 → 1 → 0, what node 2 is reaches the others one layer at a time, and node 0 reaches nobody."""
    torch.manual_seed(0)
    network = SE3TransformerNetwork({0: 2}, {0: 1, 1: 1}, channels=4, n_heads=2, n_layers=1, style=style).double()
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.1, 0.2, 0.1], [1.9, 1.0, -0.4]], dtype=torch.float64)
    receivers, senders = torch.tensor([0, 1]), torch.tensor([1, 2])
    vectors = positions[senders] - positions[receivers]
    x = torch.randn(3, 2, 1, dtype=torch.float64)

    def run(values):
        with torch.no_grad():
            return network({0: values}, vectors, receivers, senders)[1][:, 0]

    base = run(x)

    def changed(node):
        moved = x.clone()
        moved[node] += 1.0
        return ((run(moved) - base).abs().amax(dim=1) > 1e-9).tolist()

    # One attention layer and the convolution: two hops against the arrows' heads. Node 2 hears nothing at all.
    assert changed(2) == [True, True, False]
    assert changed(1) == [True, False, False] or changed(1) == [True, True, False]
    assert changed(0)[1:] == [False, False]
    assert torch.equal(base[2], torch.zeros(3, dtype=torch.float64))
    # The force on the end of a single edge in a two-node graph lies along it, and turns with the edge's direction.
    swapped = run_pair(network, x[:2], positions[:2])
    direction = (positions[1] - positions[0]) / (positions[1] - positions[0]).norm()
    assert float(torch.linalg.cross(swapped[0], direction).norm()) < 1e-12
    assert float(swapped[0].norm()) > 1e-6


def run_pair(network, x, positions):
    receivers, senders = torch.tensor([0]), torch.tensor([1])
    with torch.no_grad():
        return network({0: x}, positions[senders] - positions[receivers], receivers, senders)[1][:, 0]


def test_self_interaction_counts_edges_only_in_the_sum():
    """Doubling every edge leaves a mean as it is and doubles a sum."""
    features, positions, receivers, senders, edge_features = graph_inputs()
    vectors = positions[senders] - positions[receivers]
    twice = [torch.cat([value, value]) for value in (vectors, receivers, senders, edge_features)]
    for style, factor in (("original", 1.0), ("nvidia", 2.0)):
        network = core(style=style, n_layers=1)
        with torch.no_grad():
            once = network(features, vectors, receivers, senders, edge_features)
            both = network(features, *twice)
        for degree in (0, 1, 2):
            assert torch.allclose(both[degree], factor * once[degree], atol=1e-10)


def test_pairs_give_the_same_as_any_order():
    network = core()
    features, positions, *_ = graph_inputs()
    first, second = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 3, 4])
    receivers, senders = torch.cat([first, second]), torch.cat([second, first])
    edge_features = torch.randn(4, 2, dtype=torch.float64).repeat(2, 1)
    vectors = positions[senders] - positions[receivers]
    order = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    with torch.no_grad():
        paired = network(features, vectors, receivers, senders, edge_features, n_pairs=4)
        loose = network(features, vectors[order], receivers[order], senders[order], edge_features[order])
    for degree in paired:
        assert torch.allclose(paired[degree], loose[degree], atol=1e-11)


# ---- the model of molecules


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "nvidia"},
        {"norm": "bias", "channel_division": 2},
        {"self_interaction": "attentive"},
        {"max_degree": 3},
        {"cutoff": 3.0},
        {"forces": "gradient"},
    ],
    ids=str,
)
def test_layers_are_equivariant(options):
    model = small(**options)
    molecules = [molecule(0, 9), molecule(1, 6)]
    for dtype, gate in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        errors = layer_errors(model.to(dtype), make_batch(molecules, model.cutoff, dtype=dtype), n_rotations=4)
        assert {error.feature for error in errors} >= {"degree_0", "degree_1", "degree_2", "energy"}
        assert max(error.maximum for error in errors) < gate, max(errors, key=lambda e: e.maximum)


def test_mirror_images_differ():
    model = small()
    z, x = molecule(0, 9)
    energy = model(make_batch([(z, x), (z, x * [1, 1, -1])], dtype=torch.float64))
    assert abs(float(energy[0] - energy[1])) > 1e-6


@pytest.mark.parametrize("cutoff_function", ["cosine", "polynomial", "hard"])
@pytest.mark.parametrize("style", ["original", "nvidia"])
def test_edges_beyond_the_cutoff_contribute_nothing(style, cutoff_function):
    model = small(cutoff=2.5, cutoff_function=cutoff_function, style=style)
    molecules = [molecule(0, 9), molecule(1, 6), ([6, 1], [[0, 0, 0], [0, 0, 4.0]])]
    near, far = (make_batch(molecules, cutoff, dtype=torch.float64) for cutoff in (2.5, None))
    assert near.n_edges < far.n_edges
    with torch.no_grad():
        (energy, forces), (energy_far, forces_far) = model.energy_and_forces(near), model.energy_and_forces(far)
    assert torch.allclose(energy, energy_far, atol=1e-11)
    assert torch.allclose(forces, forces_far, atol=1e-11)
    assert float(energy[:2].abs().min()) > 1e-3
    assert float(energy[2]) == 0.0


def test_gradient_forces_are_the_gradient_and_train():
    model = small(forces="gradient", cutoff=3.0)
    batch = make_batch([molecule(0, 7)], 3.0, dtype=torch.float64)
    _, forces = model.energy_and_forces(batch, create_graph=True)
    step = 1e-5
    for atom, axis in ((0, 0), (3, 2)):
        shift = torch.zeros_like(batch.positions)
        shift[atom, axis] = step
        with torch.no_grad():
            up, down = (model(batch.with_positions(batch.positions + s)) for s in (shift, -shift))
        assert float(forces[atom, axis]) == pytest.approx(-float(up - down) / (2 * step), rel=1e-5, abs=1e-7)
    forces.square().sum().backward()
    assert float(model.network.attention[0].messages.weights[0].grad.abs().max()) > 0.0


def test_making_weights_again_gives_the_gradients_of_keeping_them():
    """Direct forces go through the block-wise product; the same loss with kept weights has the same gradients."""
    model = small()
    batch = make_batch([molecule(0, 7), molecule(1, 5)], dtype=torch.float64)
    parameters = list(model.parameters())

    def gradients(keep):
        edges, x = model._edges(batch), model._embed(batch)
        for attention, norm in zip(model.network.attention, model.network.norms, strict=True):
            x = norm(attention(x, edges, keep))
        x = model.network.readout(x, edges, keep)
        return torch.autograd.grad(x[0].square().sum() + x[1].square().sum(), parameters)

    for a, b in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(a, b, atol=1e-9 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("options", [{}, {"style": "nvidia"}, {"norm": "bias"}, {"forces": "gradient"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_symmetric_environments_have_finite_gradients(options, dtype):
    model = small(**options).to(dtype)
    lone = ([7], [[0.3, -0.2, 0.5]])
    carbon_dioxide = ([8, 6, 8], [[0.0, 0.0, -1.16], [0.0, 0.0, 0.0], [0.0, 0.0, 1.16]])
    corners = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    methane = ([6, 1, 1, 1, 1], [[0.0, 0.0, 0.0], *(0.63 * np.array(corners)).tolist()])
    batch = make_batch([lone, carbon_dioxide, methane], dtype=dtype)
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    loss = energy.square().sum() + forces.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert torch.isfinite(forces).all()
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
    # Centres of inversion and of a tetrahedron: no direction is left for a force, and rounding must not invent one.
    scale = float(forces.abs().max())
    for atom in (0, 2, 4):
        assert float(forces[atom].abs().max()) <= (1e-2 if dtype == torch.float32 else 1e-9) * scale


def test_receivers_and_senders_of_a_batch():
    """In a directed graph only the receiver has an energy."""
    model = small()
    whole = make_batch([([6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.2]])], dtype=torch.float64)
    one_way = GraphBatch(
        whole.atomic_numbers,
        whole.positions,
        whole.graph_index,
        torch.tensor([0]),
        torch.tensor([1]),
        whole.atoms_per_graph,
        whole.fidelity,
    )
    with torch.no_grad():
        forces = model.energy_and_forces(one_way)[1]
    assert float(forces[0].norm()) > 0.0
    assert float(forces[1].norm()) == 0.0


def test_plain_formulation_agrees(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from baselines.se3_transformer import PlainSE3Transformer

    batch = make_batch([molecule(0, 9), molecule(1, 6), ([6], [[0, 0, 0]])], dtype=torch.float64)
    for options in (
        {},
        {"style": "nvidia"},
        {"norm": "bias", "channel_division": 2},
        {"self_interaction": "attentive"},
    ):
        model = small(**options)
        ours, plain = model.energy_and_forces(batch), PlainSE3Transformer(model).energy_and_forces(batch)
        for a, b in zip(ours, plain, strict=True):
            assert torch.allclose(a.double(), b.double(), atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 12}, "multiple"),
        ({"variant": "deeper"}, "variant"),
        ({"style": "fuchs"}, "style"),
        ({"norm": "batch"}, "norm"),
        ({"self_interaction": "att"}, "self_interaction"),
        ({"forces": "both"}, "forces"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"cutoff_function": "linear"}, "cutoff_function"),
        ({"n_layers": 0}, "n_layers"),
        ({"elements": [1, 1]}, "elements"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message) as caught:
        SE3Transformer(**options)
    assert "\n" not in str(caught.value)


def test_wrong_edge_features_are_named():
    features, positions, receivers, senders, _ = graph_inputs()
    with pytest.raises(InputError, match="edge features"):
        core()(features, positions[senders] - positions[receivers], receivers, senders)
