"""The models: exactness against reference vectors, symmetries, gradients."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, RaggedDataset, all_pairs
from mlip_studies.graph.scatter import scatter_sum, torch_scatter_available
from mlip_studies.models.catalog import MODELS, model_module
from mlip_studies.models.egnn_rff import ELEMENTS, EGNNAsCoded, EGNNAsDescribed, PairLinear
from mlip_studies.models.potential import Potential, load_potential
from mlip_studies.models.registry import build_model

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
HCN = ([6, 1, 7], [[0.0, 0.0, 0.0], [0.0, 0.0, -1.07], [0.0, 0.0, 1.15]])  # linear
FORMALDEHYDE = (
    [6, 1, 1, 8],
    [[0.0, 0.0, 0.0], [0.94, 0.59, 0.0], [-0.94, 0.59, 0.0], [0.0, -1.21, 0.0]],
)  # planar
ATOM = ([7], [[0.3, -0.2, 0.5]])
MOLECULES = [WATER, HCN, FORMALDEHYDE, ATOM]


def make_batch(molecules, fidelity=None, dtype=torch.float64):
    counts = [len(numbers) for numbers, _ in molecules]
    data = RaggedDataset(
        np.concatenate([numbers for numbers, _ in molecules]),
        np.concatenate([np.array(positions) for _, positions in molecules]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.zeros(len(molecules)),
        np.ones(len(molecules), dtype=int) if fidelity is None else np.array(fidelity),
        dtype=dtype,
    )
    return data.batch(np.arange(len(molecules)))[0]


@pytest.fixture(params=sorted(MODELS))
def model(request):
    torch.manual_seed(3)
    return build_model(request.param, {}).double()


def rotation(seed, reflect=False):
    q, r = np.linalg.qr(default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if (np.linalg.det(q) < 0) != reflect:
        q[:, 0] = -q[:, 0]
    return torch.tensor(q)


@pytest.mark.parametrize("reflect", [False, True])
def test_energy_is_invariant_and_forces_rotate(model, reflect):
    batch = make_batch(MOLECULES)
    q = rotation(1, reflect)
    energy, forces = model.energy_and_forces(batch)
    moved = batch.with_positions(batch.positions @ q.T + torch.tensor([4.0, -3.0, 2.0], dtype=torch.float64))
    energy_moved, forces_moved = model.energy_and_forces(moved)
    assert torch.allclose(energy, energy_moved, atol=1e-10, rtol=0)
    assert torch.allclose(forces @ q.T, forces_moved, atol=1e-9, rtol=0)
    assert forces.abs().max() > 1e-6


def test_energy_does_not_depend_on_atom_order(model):
    numbers, positions = FORMALDEHYDE
    order = [2, 0, 3, 1]
    permuted = ([numbers[i] for i in order], [positions[i] for i in order])
    energy, forces = model.energy_and_forces(make_batch([FORMALDEHYDE]))
    energy_permuted, forces_permuted = model.energy_and_forces(make_batch([permuted]))
    assert torch.allclose(energy, energy_permuted, atol=1e-11, rtol=0)
    assert torch.allclose(forces[order], forces_permuted, atol=1e-10, rtol=0)


def test_molecules_of_a_batch_do_not_see_each_other(model):
    together = model(make_batch(MOLECULES))
    alone = torch.cat([model(make_batch([molecule])) for molecule in MOLECULES])
    assert torch.allclose(together, alone, atol=1e-11, rtol=0)


def test_forces_are_minus_the_gradient(model):
    batch = make_batch([WATER, FORMALDEHYDE])
    _, forces = model.energy_and_forces(batch)
    step = 1e-5
    for atom in (0, 4):
        for axis in range(3):
            shift = torch.zeros_like(batch.positions)
            shift[atom, axis] = step
            up = model(batch.with_positions(batch.positions + shift)).sum()
            down = model(batch.with_positions(batch.positions - shift)).sum()
            assert float(forces[atom, axis]) == pytest.approx(-float(up - down) / (2 * step), abs=1e-7)


def test_double_backward_is_finite(model):
    batch = make_batch(MOLECULES)
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    (energy.sum() + forces.square().sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_isolated_atom_has_no_force(model):
    energy, forces = model.energy_and_forces(make_batch([ATOM]))
    assert torch.isfinite(energy).all()
    assert forces.abs().max() == 0.0


def far_pair():
    numbers, positions = WATER
    return (numbers * 2, positions + [[x + 40.0, y, z] for x, y, z in positions])


def test_as_coded_is_not_extensive():
    # The scripts pool first and apply a perceptron afterwards: a property of that network, not an accident here.
    torch.manual_seed(0)
    model = EGNNAsCoded(cutoff=10.6).double()
    data = make_batch([WATER])
    numbers, positions = far_pair()
    pair = RaggedDataset(
        np.array(numbers),
        np.array(positions),
        np.array([0, 6]),
        np.zeros(1),
        np.ones(1, dtype=int),
        dtype=torch.float64,
        cutoff=10.6,
    ).batch(np.array([0]))[0]
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


def test_all_pairs_and_batching():
    receivers, senders = all_pairs(torch.tensor([1, 3, 2]))
    pairs = set(zip(receivers.tolist(), senders.tolist(), strict=True))
    assert pairs == {(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (4, 5), (5, 4)}
    batch = make_batch([ATOM, WATER])
    assert batch.graph_index.tolist() == [0, 1, 1, 1]
    assert batch.atomic_numbers.tolist() == [7, 8, 1, 1]


def test_dataset_cutoff_drops_far_pairs():
    numbers, positions = far_pair()
    arguments = (np.array(numbers), np.array(positions), np.array([0, 6]), np.zeros(1), np.ones(1, dtype=int))
    whole, _ = RaggedDataset(*arguments).batch(np.array([0]))
    cut, _ = RaggedDataset(*arguments, cutoff=10.0).batch(np.array([0]))
    assert len(whole.receivers) == 30
    assert len(cut.receivers) == 12


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


def test_potential_file_round_trip(tmp_path):
    torch.manual_seed(5)
    options = {"encoding": "flag", "hidden": 16}
    model = build_model("egnn_rff_as_coded", options)
    shifts = {"high": [-13.0, -1035.0, -1488.0, -2045.0], "low": [-13.1, -1036.0, -1489.0, -2046.0]}
    potential = Potential(model, "egnn_rff_as_coded", options, shifts)
    path = tmp_path / "model.safetensors"
    potential.save(path, {"note": "test"})
    loaded, header = load_potential(path)
    batch = make_batch([WATER, WATER], fidelity=[1, 0], dtype=torch.float32)
    assert torch.equal(potential(batch), loaded(batch))
    assert header["provenance"] == {"note": "test"}
    energy = potential(batch)
    reference = potential.reference_energy(batch)
    assert reference.tolist() == pytest.approx([-2046.0 - 26.2, -2045.0 - 26.0])
    assert energy.dtype == torch.float64


def test_potential_file_of_another_kind(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="format"):
        load_potential(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_potential(path)


def test_unknown_names_are_one_line():
    with pytest.raises(InputError, match="choose one of"):
        model_module("egnn")
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
