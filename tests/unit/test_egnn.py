"""EGNN of its authors: exactness against reference vectors, symmetries, graphs of any kind."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.egnn import EGNN, EGNNNetwork
from mlip_studies.models.egnn_rff import EGNNAsCoded, EGNNAsDescribed
from mlip_studies.models.equivariance import layer_errors


def molecule(seed, n, spacing=1.5):
    rng = np.random.default_rng(seed)
    places = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(3)])[rng.permutation(27)[:n]]
    return rng.choice([1, 6, 7, 8], n), spacing * places + rng.normal(scale=0.2, size=(n, 3))


def excited(model):
    """The coordinates' heads start so small that no test would see them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "coordinate.2" in name:
                parameter.normal_(std=0.05)
    return model.double()


def network(**options):
    torch.manual_seed(0)
    return excited(EGNNNetwork(3, 2, hidden=8, n_layers=2, n_edge_features=2, **options))


def graph(seed=0):
    generator = torch.Generator().manual_seed(seed)
    h, x, a = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((5, 3), (5, 3), (7, 2)))
    receivers = torch.tensor([0, 1, 2, 3, 0, 0, 2])
    senders = torch.tensor([1, 2, 3, 4, 2, 3, 0])
    return h, x, receivers, senders, a


@pytest.mark.parametrize("paired", [False, True])
def test_reference_vectors(parity_folder, paired):
    file = torch.load(parity_folder / "egnn" / "E1_default.pt", map_location="cpu", weights_only=True)
    config = file["config"]
    model = EGNNNetwork(
        config["in_node_nf"],
        config["out_node_nf"],
        hidden=config["hidden_nf"],
        n_layers=config["n_layers"],
        n_edge_features=config["in_edge_nf"],
    ).double()
    names = {"embedding_in": "embed", "embedding_out": "head", "edge_mlp": "edge", "node_mlp": "node"}
    names |= {"coord_mlp": "coordinate", "gcl_": "layers."}
    state = {}
    for key, value in file["state_dict"].items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    model.load_state_dict(state)
    receivers, senders = file["edges"]
    features, n_pairs = file["edge_attr"], None
    if paired:
        forward = receivers < senders
        n_pairs = int(forward.sum())
        receivers, senders = (
            torch.cat([receivers[forward], senders[forward]]),
            torch.cat([senders[forward], receivers[forward]]),
        )
        features = features[forward].repeat(2, 1)
    with torch.no_grad():
        h, x = model(file["h"], file["x"], receivers, senders, features, n_pairs)
    assert len(receivers) == len(file["edges"][0])
    assert float((h - file["h_out"]).abs().max()) <= 1e-8 * float(file["h_out"].abs().max())
    assert float((x - file["x_out"]).abs().max()) <= 1e-8 * float(file["x_out"].abs().max())


@pytest.mark.parametrize("options", [{}, {"aggregation": "sum"}, {"attention": True}], ids=str)
def test_layer_follows_the_equations(options):
    """One layer, written out edge by edge."""
    torch.manual_seed(0)
    model = excited(EGNNNetwork(3, 2, hidden=8, n_layers=1, n_edge_features=2, **options))
    h, x, receivers, senders, a = graph()
    layer = model.layers[0]
    nodes = model.embed(h)
    messages, steps, counts = torch.zeros_like(nodes), torch.zeros_like(x), [0] * 5
    for edge, (i, j) in enumerate(zip(receivers.tolist(), senders.tolist(), strict=True)):
        difference = x[i] - x[j]
        message = layer.edge(torch.cat([nodes[i], nodes[j], difference.dot(difference).view(1), a[edge]]))
        if layer.gate is not None:
            message = message * layer.gate(message)
        messages[i] += message
        steps[i] += difference * layer.coordinate(message)
        counts[i] += 1
    if options.get("aggregation") != "sum":
        steps = steps / torch.tensor(counts).clamp(min=1).unsqueeze(1)
    out, moved = model(h, x, receivers, senders, a)
    assert torch.allclose(moved, x + steps, atol=1e-12)
    assert float(steps.detach().abs().max()) > 1e-3
    expected = model.head(nodes + layer.node(torch.cat([nodes, messages], dim=1)))
    assert torch.allclose(out, expected, atol=1e-12)


def test_messages_go_from_sender_to_receiver():
    model = network()
    h, x, receivers, senders, a = graph()
    out, moved = model(h, x, receivers, senders, a)
    # Node 4 receives nothing: it does not move, and what others are does not matter to it.
    assert torch.equal(moved[4], x[4])
    other = h.clone()
    other[:4] += 1.0
    assert torch.equal(model(other, x, receivers, senders, a)[0][4], out[4])
    # It is heard by node 3 in one layer and by nodes 0 and 2 in two, but not by node 1.
    other = h.clone()
    other[4] += 1.0
    changed = (model(other, x, receivers, senders, a)[0] - out).abs().amax(dim=1) > 1e-9
    assert changed.tolist() == [True, False, True, True, True]


def test_network_is_equivariant():
    model = network()
    h, x, receivers, senders, a = graph()
    turn = torch.as_tensor(Rotation.random(rng=np.random.default_rng(1)).as_matrix()) * -1.0
    shift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    out, moved = model(h, x, receivers, senders, a)
    out_turned, moved_turned = model(h, x @ turn.T + shift, receivers, senders, a)
    assert torch.allclose(out, out_turned, atol=1e-11)
    assert torch.allclose(moved @ turn.T + shift, moved_turned, atol=1e-11)


def test_pairs_give_the_same_as_any_order():
    model = network()
    h, x, *_ = graph()
    first, second = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 3, 4])
    receivers, senders = torch.cat([first, second]), torch.cat([second, first])
    a = torch.randn(4, 2, dtype=torch.float64).repeat(2, 1)
    shift = torch.randn(4, 3, dtype=torch.float64)
    shift = torch.cat([shift, -shift])
    order = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    paired = model(h, x, receivers, senders, a, n_pairs=4, edge_shift=shift)
    loose = model(h, x, receivers[order], senders[order], a[order], edge_shift=shift[order])
    unshifted = model(h, x, receivers, senders, a, n_pairs=4)
    for one, other in zip(paired, loose, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert float((paired[0] - unshifted[0]).detach().abs().max()) > 1e-6


def test_parameter_count():
    # 4 layers of: edge 258·128 + 128 + 128² + 128, node 256·128 + 128 + 128² + 128, coordinate 128² + 128 + 128
    layer = (258 * 128 + 128 + 128**2 + 128) + (256 * 128 + 128 + 128**2 + 128) + (128**2 + 128 + 128)
    assert EGNN().n_parameters() == (4 * 128 + 128) + 4 * layer + 129


@pytest.mark.parametrize("options", [{}, {"initial_distance": False, "attention": True}, {"moves": False}], ids=str)
def test_plain_formulation_agrees(repository, monkeypatch, options):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from baselines.egnn import PlainEGNN

    torch.manual_seed(0)
    model = excited(EGNN(hidden=16, **options))
    batch = make_batch([molecule(0, 9), molecule(1, 6), ([6], [[0, 0, 0]])], dtype=torch.float64)
    results = []
    for network in (model, PlainEGNN(model)):
        energy, forces = network.energy_and_forces(batch, create_graph=True)
        loss = energy.square().sum() + forces.square().sum()
        slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        results.append([energy, forces, *(torch.zeros(()) if slope is None else slope for slope in slopes)])
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours.double(), plain.double(), atol=1e-10)
    assert float(results[0][1].detach().abs().max()) > 1e-6


def test_single_layers_are_equivariant():
    torch.manual_seed(0)
    model = excited(EGNN(hidden=16))
    for dtype, gate in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        errors = layer_errors(model.to(dtype), make_batch([molecule(0, 9)], dtype=dtype), n_rotations=4)
        assert {error.feature for error in errors} == {"nodes", "positions", "energy"}
        assert max(error.maximum for error in errors) < gate


@pytest.mark.parametrize("cls", [EGNNAsCoded, EGNNAsDescribed])
def test_fourier_networks_drop_edges_beyond_their_cutoff(cls):
    torch.manual_seed(0)
    model = excited(cls(hidden=16, cutoff=2.5))
    molecules = [molecule(0, 9), molecule(1, 6)]
    near, far = (make_batch(molecules, cutoff, dtype=torch.float64) for cutoff in (2.5, None))
    assert near.n_edges < far.n_edges
    for one, other in zip(model.energy_and_forces(near), model.energy_and_forces(far), strict=True):
        assert torch.allclose(one, other, atol=1e-11)
    model.cutoff = None
    assert float((model(near) - model(far)).detach().abs().max()) > 1e-6


@pytest.mark.parametrize("cls", [EGNNAsCoded, EGNNAsDescribed])
def test_fourier_networks_have_forces(cls):
    torch.manual_seed(0)
    model = excited(cls(hidden=16))
    batch = make_batch([molecule(0, 6)], dtype=torch.float64)
    _, forces = model.energy_and_forces(batch)
    shift = torch.zeros_like(batch.positions)
    shift[2, 1] = 1e-5
    with torch.no_grad():
        up, down = (model(batch.with_positions(batch.positions + s)) for s in (shift, -shift))
    assert float(forces[2, 1]) == pytest.approx(-float(up - down) / 2e-5, rel=1e-6, abs=1e-8)
    assert len(model.steps()) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"aggregation": "max"}, "aggregation"), ({"hidden": 0}, "hidden"), ({"elements": [6, 6]}, "elements")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        EGNN(**options)


def test_wrong_edge_features_are_named():
    h, x, receivers, senders, _ = graph()
    with pytest.raises(InputError, match="edge features"):
        network()(h, x, receivers, senders)
