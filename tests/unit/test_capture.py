"""Padded steps equal ragged ones, never wait for the device, and can be traced and compiled, for every model."""

import copy
import shutil

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset, make_batch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.catalog import MODELS
from mlip_studies.models.registry import build_model
from mlip_studies.training.capture import (
    CapturedForces,
    CapturedStep,
    CompiledStep,
    Replay,
    TracedForces,
    padding_reach,
)
from mlip_studies.training.ema import EMA
from mlip_studies.training.loss import EnergyMSE, GemNetLoss, So3kratesLoss
from mlip_studies.training.steps import EagerStep

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")

#: options that make a model small enough for a test
SMALL: dict[str, dict] = {
    "so3krates": {"n_layers": 2},
    "gemnet_t": {"num_blocks": 1},
    "gemnet_q": {"num_blocks": 1},
    "schnet": {"n_layers": 2},
    "dimenet_plus_plus": {"n_blocks": 1},
    "se3_transformer": {"n_layers": 2},
    "egnn": {"n_layers": 2},
}


class Springs(AtomisticModel):
    """Morse-like pair energies with a smooth cutoff, and one tanh: a model for tests of the machinery."""

    def __init__(self):
        super().__init__()
        self.elements, self.cutoff = (1, 6, 7, 8), 5.0
        self.charge = torch.nn.Embedding(10, 4)
        self.depth = torch.nn.Linear(4, 1)
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, batch):
        d = batch.edge_vectors().norm(dim=1)
        shape = (torch.cos(d * (np.pi / self.cutoff)) + 1.0) * (d < self.cutoff) * torch.exp(-d)
        features = self.charge(batch.atomic_numbers)
        pair = features.index_select(0, batch.receivers) * features.index_select(0, batch.senders)
        # The shift is constant by construction: a detach that belongs to the model.
        pair = pair - 0.5 * pair.detach()
        summed = batch.sum_edges(shape.unsqueeze(1) * pair)
        return batch.sum_atoms(self.depth(torch.tanh(summed)))


def molecule(rng, n, spread=1.3):
    places = [rng.normal(size=3)]
    while len(places) < n:
        new = places[rng.integers(len(places))] + rng.normal(size=3) * spread
        if min(np.linalg.norm(new - other) for other in places) > 0.8:
            places.append(new)
    return rng.choice([1, 6, 7, 8], n), np.array(places)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    # One that is longer than any cutoff, one atom alone, pairs.
    molecules = [molecule(rng, n) for n in (5, 4, 6, 1, 2, 3, 6)] + [molecule(rng, 7, 3.5)]
    sizes = [len(z) for z, _ in molecules]
    return RaggedDataset(
        np.concatenate([z for z, _ in molecules]),
        np.concatenate([x for _, x in molecules]),
        np.concatenate([[0], np.cumsum(sizes)]),
        rng.normal(size=len(sizes)),
        dtype=torch.float64,
        forces=rng.normal(size=(sum(sizes), 3)),
    )


def build(name, seed=3):
    torch.manual_seed(seed)
    model = Springs() if name == "springs" else build_model(name, SMALL.get(name, {}))
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) == 0.0:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make(cls, model, data, loss=None, **options):
    # A large eps: where a gradient is rounding noise, Adam would otherwise turn it into a full step.
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, eps=1e-2, weight_decay=0.01, fused=True
    )
    return cls(model, data, loss or So3kratesLoss(), optimizer, 5.0, None, EMA(model, 0.9), None, **options)


def close(a, b, tolerance):
    difference, scale = (a - b).detach().abs().max(), b.detach().abs().max()
    assert float(difference) <= tolerance * max(1.0, float(scale))


every_model = pytest.mark.parametrize("name", ["springs", *sorted(MODELS)])


@every_model
def test_padded_steps_equal_ragged_steps(name, data):
    eager_model = build(name)
    padded_model = copy.deepcopy(eager_model)
    eager = make(EagerStep, eager_model, data)
    padded = make(CapturedStep, padded_model, data, budget=data.budget(4, margin=1.3))
    for rows in ([0, 1, 2, 3], [7, 4, 5, 6], [6, 0, 3, 7]):
        expected, found = eager(np.array(rows)), padded(np.array(rows))
        assert set(expected) == set(found)
        for key, value in expected.items():
            close(found[key], value.double(), 1e-10)
    assert padded.summary() == {"padded_steps": 3, "ragged_steps": 0}
    moved = 0.0
    start = build(name)
    for first, a, b in zip(start.parameters(), eager_model.parameters(), padded_model.parameters(), strict=True):
        close(b, a, 1e-10)
        moved = max(moved, float((a - first).detach().abs().max()))
    assert moved > 1e-6, "the steps changed nothing"
    for key, value in eager.ema.state_dict().items():
        close(padded.ema.state_dict()[key], value, 1e-10)


class _OneHot(TorchFunctionMode):
    """one_hot looks at its values on a CPU only; this is what it does elsewhere."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.one_hot:
            index, classes = args
            return (index.unsqueeze(-1) == torch.arange(classes)).long()
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU program would wait for the device or copy from unpinned host memory."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim",
            "unique_consecutive", "bincount", "histc", "lift_fresh", "nonzero_numpy", "argwhere")  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name in self.WAIT:
            raise AssertionError(f"{func} waits for the device")
        if name in ("index", "index_put", "index_put_") and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in args[1]
        ):
            raise AssertionError("an index by a boolean mask waits for the device")
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise AssertionError("repeat_interleave without output_size waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool(x.sum() > 0),
        lambda x: torch.tensor([1.0, 2.0]) * x,
        lambda x: torch.repeat_interleave(x.long()),
        lambda x: x.nonzero(),
    ],
)
def test_waiting_is_noticed(forbidden):
    with pytest.raises(AssertionError, match="wait"), NoWaiting():
        forbidden(torch.ones(2))


@every_model
def test_padded_step_does_not_wait_for_the_device(name, data):
    step = make(CapturedStep, build(name), data, budget=data.budget(4, margin=1.3))
    step(np.array([0, 1, 2, 3]))  # tables that are made once
    with NoWaiting(), _OneHot():
        step._padded()


@every_model
def test_traced_forces_equal_eager_ones_with_gradients(name, data):
    model = build(name)
    rows = torch.tensor([7, 1, 2, 3])
    batch, labels = data.padded_batch(rows, data.budget(4, margin=1.3), padding_reach(model))
    parameters = [p for p in model.parameters() if p.requires_grad]
    traced = TracedForces(model, compiled=False)

    def run(function):
        with _OneHot():
            energy, forces = function(batch)
        value, _ = So3kratesLoss()(batch, labels, energy, forces)
        return energy[:-1], forces, torch.autograd.grad(value, parameters, allow_unused=True)

    expected = run(lambda b: model.energy_and_forces(b, create_graph=True))
    for _ in range(2):
        found = run(traced)
        close(found[0], expected[0], 1e-12)
        close(found[1], expected[1], 1e-12)
        for a, b in zip(found[2], expected[2], strict=True):
            if b is None or a is None:
                assert all(each is None or float(each.abs().max()) == 0.0 for each in (a, b))
            else:
                close(a, b, 1e-10)
    assert not traced.failed and len(traced._graphs) == 1
    # Weights changed in place are seen.
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(0.9)
    close(run(traced)[1], run(lambda b: model.energy_and_forces(b, create_graph=True))[1], 1e-12)
    assert not traced.failed and len(traced._graphs) == 1


def test_another_shape_is_traced_anew(data):
    model = build("springs")
    traced = TracedForces(model, compiled=False)
    for margin, number in ((1.3, 1), (1.4, 2), (1.3, 2)):
        batch, _ = data.padded_batch(torch.tensor([7, 1, 2, 3]), data.budget(4, margin=margin), padding_reach(model))
        expected, found = model.energy_and_forces(batch), traced(batch)
        close(found[0][:-1], expected[0][:-1], 1e-12)
        close(found[1], expected[1], 1e-12)
        assert len(traced._graphs) == number


@every_model
def test_captured_forces_follow_the_positions(name, data):
    model = build(name).eval()
    template, _ = data.batch(np.array([0, 2, 7]))
    replayed = CapturedForces(model, template)
    rng = np.random.default_rng(1)
    for _ in range(2):
        positions = template.positions + torch.as_tensor(rng.normal(scale=0.05, size=template.positions.shape))
        energy, forces = replayed(positions)
        expected = model.energy_and_forces(template.with_positions(positions))
        assert torch.equal(energy, expected[0]) and torch.equal(forces, expected[1])
        assert not energy.requires_grad and not forces.requires_grad
    with pytest.raises(InputError, match="new template"):
        replayed(positions[1:])


@needs_compiler
def test_compiled_steps_equal_eager_steps(data):
    model = build("springs")
    other = copy.deepcopy(model)
    eager = make(EagerStep, model, data, loss=GemNetLoss())
    compiled = make(CompiledStep, other, data, loss=GemNetLoss(), budget=data.budget(4, margin=1.3))
    for rows in ([0, 1, 2, 3], [7, 4, 5, 6], [1, 2, 3]):
        expected, found = eager(np.array(rows)), compiled(np.array(rows))
        for key, value in expected.items():
            close(found[key].double(), value.double(), 1e-10)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        close(b, a, 1e-10)
    assert not compiled.traced.failed
    assert compiled.summary() == {"padded_steps": 2, "ragged_steps": 1}


def test_a_failed_compilation_is_said_once_and_replaced(data, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    model = build("springs")
    expected = make(EagerStep, copy.deepcopy(model), data)(np.array([0, 1, 2, 3]))
    step = make(CompiledStep, model, data, budget=data.budget(4, margin=1.3))
    found = step(np.array([0, 1, 2, 3]))
    close(found["loss"], expected["loss"], 1e-10)
    step(np.array([0, 1, 2, 3]))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: Springs could not be compiled (no compiler); it runs uncompiled"]


def test_batches_that_do_not_fit_are_trained_on_ragged(data):
    model = build("springs")
    other = copy.deepcopy(model)
    eager = make(EagerStep, model, data)
    # The budget of four small molecules does not hold the large ones.
    small = RaggedDataset(
        data.atomic_numbers[:15].numpy(), data.positions[:15].numpy(), np.array([0, 5, 9, 15]), np.zeros(3)
    ).budget(3)
    captured = make(CapturedStep, other, data, budget=small)
    for rows in ([0, 1, 2], [6, 7, 2], [0, 1], [3, 4, 5]):
        expected, found = eager(np.array(rows)), captured(np.array(rows))
        close(found["loss"], expected["loss"], 1e-10)
    assert captured.summary() == {"padded_steps": 2, "ragged_steps": 2}
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        close(b, a, 1e-10)


def test_budget_comes_from_the_batch_size_not_from_the_first_batch(data):
    step = make(CapturedStep, build("springs"), data, batch_size=4)
    step(np.array([3]))
    assert step._part_budget == data.budget(4)
    assert step.summary() == {"padded_steps": 0, "ragged_steps": 1}
    step(np.array([3, 4, 5, 1]))
    assert step.summary() == {"padded_steps": 1, "ragged_steps": 1}


def test_micro_batches_add_up(data):
    model = build("springs")
    other = copy.deepcopy(model)
    whole, parts = make(EagerStep, model, data), make(CapturedStep, other, data, batch_size=4, micro_batches=2)
    for rows in ([3, 4, 5, 1], [5, 3, 1, 0], [1, 2, 3]):
        expected, found = whole(np.array(rows)), parts(np.array(rows))
        for key, value in expected.items():
            close(found[key].double(), value.double(), 1e-10)
    assert parts.summary()["ragged_steps"] == 1 and parts._part_budget.graphs == 2
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        close(b, a, 1e-10)


def test_energy_losses_need_no_forces(data):
    model = build("springs")
    other = copy.deepcopy(model)
    eager, captured = (
        make(cls, each, data, loss=EnergyMSE()) for cls, each in ((EagerStep, model), (CompiledStep, other))
    )
    expected, found = eager(np.array([0, 4, 2])), captured(np.array([0, 4, 2]))
    assert set(found) == set(expected) and "force_mae" not in found
    close(found["loss"], expected["loss"], 1e-12)


def test_learning_rates_reach_the_optimizer(data):
    """Also those of a recorded step, whose rates are tensors (here on the CPU)."""
    model = build("springs")
    step = make(CapturedStep, model, data, budget=data.budget(4, margin=1.3))
    step._prepare_optimizer()
    rows = np.array([0, 1, 2, 3])
    step(rows)
    rate = step.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    before = model.charge.weight.detach().clone()
    step.optimizer.param_groups[0]["lr"] = 0.0
    step(rows)
    assert torch.equal(model.charge.weight, before)
    assert step.optimizer.param_groups[0]["lr"] is rate
    step.optimizer.param_groups[0]["lr"] = torch.tensor(1e-2)
    step(rows)
    assert step.optimizer.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(1e-2)
    assert not torch.equal(model.charge.weight, before)


def test_an_optimizer_that_cannot_be_recorded_is_refused(data):
    step = make(CapturedStep, build("springs"), data)
    step._base = torch.optim.LBFGS(step.parameters)
    with pytest.raises(InputError, match="use Adam or AdamW"):
        step._prepare_optimizer()


def test_a_recording_that_fails_is_said_once_and_the_function_runs(monkeypatch, capsys):
    calls = []
    replay = Replay(lambda: calls.append(1) or 7, torch.device("cuda"), "the test", warm_up=1)
    monkeypatch.setattr(replay, "_on_side_stream", replay.function)

    class Unrecordable:
        def __init__(self):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Unrecordable)
    assert [replay(), replay(), replay()] == [7, 7, 7] and len(calls) == 3
    assert capsys.readouterr().err.splitlines() == [
        "warning: the test cannot be recorded as a CUDA graph (operation not permitted when stream is capturing); "
        "it runs unrecorded"
    ]


@pytest.mark.parametrize("compiler", [pytest.param(True, marks=needs_compiler), False])
def test_compiled_forces_for_molecular_dynamics(data, compiler, monkeypatch):
    if not compiler:
        monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    model = build("springs")
    template, _ = data.batch(np.array([0, 2]))
    replayed = CapturedForces(model, template, compiled=True)
    for scale in (1.0, 1.1):
        expected = model.energy_and_forces(template.with_positions(scale * template.positions))
        energy, forces = replayed(scale * template.positions)
        close(energy, expected[0], 1e-12)
        close(forces, expected[1], 1e-12)
        assert not energy.requires_grad and not forces.requires_grad
    assert not replayed._forces.failed


def test_all_pairs_template_is_exact_beyond_the_cutoff(data):
    """Molecular dynamics on a fixed graph: pairs move through the cutoff."""
    model = build("springs")
    numbers, places = [6, 8, 1], np.array([[0.0, 0, 0], [1.2, 0, 0], [0.0, 1.1, 0]])
    replayed = CapturedForces(model, make_batch([(numbers, places)], None, dtype=torch.float64))
    far = places + np.array([[0.0, 0, 0], [4.5, 0, 0], [0.0, 0, 0]])
    for x in (places, far):
        expected = model.energy_and_forces(make_batch([(numbers, x)], model.cutoff, dtype=torch.float64))
        energy, forces = replayed(torch.as_tensor(x))
        close(energy, expected[0], 1e-12)
        close(forces, expected[1], 1e-12)
