"""EGNN with random Fourier features: exactness, and what sets its two forms apart. Scatter backends."""

import math
from pathlib import Path

import pytest
import torch

from mlip_studies.errors import InputError
from mlip_studies.graph import batch as graph
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import scatter_sum, torch_scatter_available
from mlip_studies.models.catalog import model_module
from mlip_studies.models.egnn_rff import ELEMENTS, EGNNAsCoded, EGNNAsDescribed, PairLinear
from mlip_studies.models.registry import build_model

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
FORMALDEHYDE = (
    [6, 1, 1, 8],
    [[0.0, 0.0, 0.0], [0.94, 0.59, 0.0], [-0.94, 0.59, 0.0], [0.0, -1.21, 0.0]],
)  # planar


def make_batch(molecules, fidelity=None, cutoff=None):
    return graph.make_batch(molecules, cutoff, dtype=torch.float64, fidelity=fidelity)


def far_pair():
    numbers, positions = WATER
    return (numbers * 2, positions + [[x + 40.0, y, z] for x, y, z in positions])


def test_as_coded_is_not_extensive():
    # The scripts pool first and apply a perceptron afterwards: a property of that network, not an accident here.
    torch.manual_seed(0)
    model = EGNNAsCoded(cutoff=10.6).double()
    data = make_batch([WATER])
    pair = make_batch([far_pair()], cutoff=10.6)
    assert len(pair.receivers) == 12
    assert abs(float(model(pair)) - 2 * float(model(data))) > 1e-3


def test_as_described_sums_atomic_energies():
    torch.manual_seed(0)
    model = EGNNAsDescribed().double()
    numbers, positions = far_pair()
    batch = make_batch([(numbers, positions)])
    keep = (batch.positions[batch.receivers] - batch.positions[batch.senders]).norm(dim=1) < 10
    cut = GraphBatch(
        batch.atomic_numbers,
        batch.positions,
        batch.graph_index,
        batch.receivers[keep],
        batch.senders[keep],
        # C = 1/(M - 1) counts the atoms of the whole molecule: compare at equal M.
        torch.tensor([3]),
        batch.fidelity,
    )
    assert float(model(cut)) == pytest.approx(2 * float(model(make_batch([WATER]))), abs=1e-10)


def test_receiver_and_sender_are_not_interchangeable():
    torch.manual_seed(0)
    model = EGNNAsCoded().double()
    batch = make_batch([FORMALDEHYDE])
    directed = batch.receivers < batch.senders

    def energy(receivers, senders):
        return float(
            model(
                GraphBatch(
                    batch.atomic_numbers,
                    batch.positions,
                    batch.graph_index,
                    receivers,
                    senders,
                    batch.atoms_per_graph,
                    batch.fidelity,
                )
            )
        )

    one = energy(batch.receivers[directed], batch.senders[directed])
    other = energy(batch.senders[directed], batch.receivers[directed])
    assert abs(one - other) > 1e-6


def test_all_ones_encoding_hides_the_elements_of_high_fidelity_rows():
    torch.manual_seed(0)
    model = EGNNAsCoded(encoding="ones_for_high").double()
    numbers, positions = WATER
    nitrogen = ([7, *numbers[1:]], positions)
    high = model(make_batch([WATER, nitrogen], fidelity=[0, 0]))
    low = model(make_batch([WATER, nitrogen], fidelity=[1, 1]))
    assert float(high[0]) == pytest.approx(float(high[1]), abs=1e-12)
    assert abs(float(low[0] - low[1])) > 1e-3


def test_flag_encoding_tells_the_fidelities_apart():
    torch.manual_seed(0)
    model = EGNNAsCoded(encoding="flag").double()
    low, high = model(make_batch([WATER, WATER], fidelity=[1, 0]))
    assert abs(float(low - high)) > 1e-3


def test_pair_linear_equals_the_concatenation():
    torch.manual_seed(0)
    layer = PairLinear(8, 3, 5).double()
    nodes, edges = torch.randn(6, 8).double(), torch.randn(10, 3).double()
    receivers, senders = torch.randint(0, 6, (10,)), torch.randint(0, 6, (10,))
    direct = layer.linear(torch.cat([nodes[receivers], nodes[senders], edges], dim=1))
    assert torch.allclose(layer(nodes, edges, receivers, senders), direct, atol=1e-13, rtol=0)


def test_parameter_count_of_the_thesis():
    assert EGNNAsCoded().n_parameters() == 341_505


def mapped_reference_weights(state):
    """Names of the reference vectors' network to ours."""
    renames = [
        ("emb_in.", "embed."),
        ("pred.", "head."),
        ("convs.", "layers."),
        ("RFF.B", "fourier.frequencies"),
        ("mlp_msg.0.", "message_in.linear."),
        ("mlp_msg.1.", "message_out.0."),
        ("mlp_msg.3.", "message_out.2."),
        ("mlp_msg.4.", "message_out.3."),
        ("mlp_upd.", "update."),
    ]
    result = {}
    for key, value in state.items():
        for old, new in renames:
            key = key.replace(old, new)
        result[key] = value.reshape(-1) if key.endswith("frequencies") else value
    return result


def test_as_coded_meets_the_reference_vectors(parity_folder):
    reference = torch.load(parity_folder / "egnn" / "R1_thesis.pt", map_location="cpu", weights_only=False)
    for name, encoding, fidelity in (("ani1x", "flag", 1), ("ani1ccx_as_coded", "ones_for_high", 0)):
        model = EGNNAsCoded(encoding=encoding).double()
        model.load_state_dict(mapped_reference_weights(reference["state_dict"]))
        raw = reference["batch_ani1x"]
        counts = torch.bincount(raw["batch"])
        batch = GraphBatch(
            torch.tensor(ELEMENTS)[raw["x"][:, :4].argmax(1)],
            raw["pos"],
            raw["batch"],
            raw["edge_index"][0],
            raw["edge_index"][1],
            counts,
            torch.full((len(counts),), fidelity),
        )
        expected = reference[f"out_{name}"][:, 0]
        assert model.n_parameters() == int(reference["params"])
        assert float((model(batch) - expected).abs().max()) <= 1e-8


@pytest.mark.parametrize("backend", ["native", "torch_scatter"])
def test_scatter_backends_agree_in_value_and_derivatives(backend):
    if backend == "torch_scatter" and not torch_scatter_available():
        pytest.skip("torch-scatter is not installed or does not work on this machine")
    torch.manual_seed(0)
    values = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 2, 2, 1, 0, 2, 4])

    def function(x):
        return scatter_sum(x.sin() * x, index, 5, backend).pow(3)

    dense = torch.zeros(5, 7, dtype=torch.float64)
    dense[index, torch.arange(7)] = 1.0
    assert torch.allclose(function(values), (dense @ (values.sin() * values)).pow(3), atol=1e-12)
    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_unknown_names_are_one_line():
    with pytest.raises(InputError, match="choose one of"):
        model_module("newton")
    with pytest.raises(InputError, match="hiden"):
        build_model("egnn_rff_as_coded", {"hiden": 3})
    with pytest.raises(InputError, match="encoding"):
        build_model("egnn_rff_as_coded", {"encoding": "one-hot"})


def test_fourier_features_follow_the_equations():
    torch.manual_seed(0)
    coded = EGNNAsCoded().layers[0].fourier
    described = EGNNAsDescribed().layers[0].fourier
    distance = torch.tensor([1.3])
    assert torch.allclose(coded(distance)[0, :32], torch.sin(1.3 * coded.frequencies))
    assert torch.allclose(described(distance)[0, 32:], torch.cos(2 * math.pi * 1.3 * described.frequencies), atol=1e-5)


def test_package_has_no_snakemake_import():
    root = Path(__file__).parents[2] / "workflow" / "src" / "mlip_studies"
    offenders = [
        p for p in root.rglob("*.py") if "import snakemake" in p.read_text() or "from snakemake" in p.read_text()
    ]
    assert offenders == []
