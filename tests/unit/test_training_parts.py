"""Losses, schedules, optimizers, averages of weights and options, each against what it is defined by."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.training.config import RECIPES, TrainingConfig
from mlip_studies.training.ema import EMA
from mlip_studies.training.loss import (
    LOSSES,
    Counts,
    EnergyMAE,
    EnergyMSE,
    GemNetLoss,
    SE3Loss,
    So3kratesLoss,
    named,
    plain,
)
from mlip_studies.training.optimizer import (
    GradientScaler,
    OptimizerConfig,
    clip_gradients,
    decays,
    make_optimizer,
    set_learning_rate,
)
from mlip_studies.training.schedule import (
    SCHEDULES,
    CosineRestarts,
    Exponential,
    Plateau,
    PlateauConfig,
    Steps,
)

COUNTS = np.array([3, 1, 5, 2])


def dataset(dtype=torch.float64, forces=True):
    rng = np.random.default_rng(3)
    n = int(COUNTS.sum())
    return RaggedDataset(
        rng.integers(1, 9, n),
        rng.normal(size=(n, 3)) * 3,
        np.concatenate([[0], np.cumsum(COUNTS)]),
        rng.normal(size=len(COUNTS)),
        dtype=dtype,
        forces=rng.normal(size=(n, 3)) if forces else None,
    )


def molecule_errors(batch, labels, energy, forces):
    """Energy error and (n, 3) force errors of each real molecule, as numbers."""
    result = []
    graph = batch.graph_index.numpy()
    for index in range(len(COUNTS)):
        mask = graph == index
        result.append((float(energy[index] - labels.energy[index]), (forces - labels.forces).numpy()[mask]))
    return result


def by_hand(loss, errors):
    """The papers' formulas in loops."""
    n = len(errors)
    atoms = sum(len(f) for _, f in errors)
    energy_squares = sum(e**2 for e, _ in errors) / n
    energy_absolute = sum(abs(e) for e, _ in errors) / n
    if isinstance(loss, So3kratesLoss):
        if loss.force_mean == "components":
            force = sum((f**2).sum() for _, f in errors) / (3 * atoms)
        else:
            force = sum((f**2).sum() / (3 * len(f)) for _, f in errors) / n
        return (1 - loss.beta) * energy_squares + loss.beta * force
    if isinstance(loss, GemNetLoss):
        if loss.force_error == "l2":
            force = sum(math.sqrt((row**2).sum()) for _, f in errors for row in f) / atoms
        else:
            force = sum(abs(x) for _, f in errors for row in f for x in row) / (3 * atoms)
        return (1 - loss.rho) * energy_absolute + loss.rho * force
    if isinstance(loss, SE3Loss):
        return sum(loss.energy_weight * e**2 + (f**2).sum() / len(f) for e, f in errors) / n
    return energy_squares if isinstance(loss, EnergyMSE) else energy_absolute


ALL_LOSSES = [
    So3kratesLoss(0.9),
    So3kratesLoss(0.9, "molecules"),
    GemNetLoss(0.7),
    GemNetLoss(0.7, "mae"),
    SE3Loss(1e-2),
    EnergyMSE(),
    EnergyMAE(),
]


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_loss_is_the_papers_formula(loss, padded):
    data = dataset()
    rows = np.arange(len(COUNTS))
    if padded:
        batch, labels = data.padded_batch(torch.as_tensor(rows), data.budget(len(rows), margin=1.5))
    else:
        batch, labels = data.batch(rows)
    rng = np.random.default_rng(1)
    energy = torch.tensor(rng.normal(size=batch.n_graphs), requires_grad=True)
    forces = torch.tensor(rng.normal(size=(batch.n_atoms, 3)), requires_grad=True)
    value, measures = loss(batch, labels, energy, forces if loss.needs_forces else None)
    errors = molecule_errors(batch, labels, energy.detach(), forces.detach())
    assert float(value.detach()) == pytest.approx(by_hand(loss, errors), rel=1e-13)
    assert value.dtype == torch.float64
    assert float(measures["energy_mae"]) == pytest.approx(np.mean([abs(e) for e, _ in errors]), rel=1e-13)
    assert float(measures["energy_per_atom_mse"]) == pytest.approx(
        np.mean([(e / len(f)) ** 2 for e, f in errors]), rel=1e-13
    )
    if loss.needs_forces:
        components = np.concatenate([f.ravel() for _, f in errors])
        assert float(measures["force_mae"]) == pytest.approx(np.abs(components).mean(), rel=1e-13)
        assert float(measures["force_mse"]) == pytest.approx((components**2).mean(), rel=1e-13)
    # Padding gets no gradient.
    value.backward()
    assert not energy.grad[len(COUNTS) :].any()
    if loss.needs_forces:
        assert not forces.grad[int(COUNTS.sum()) :].any()
        assert forces.grad.isfinite().all()


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
def test_parts_of_a_batch_add_up(loss):
    data = dataset()
    rng = np.random.default_rng(2)
    n = int(COUNTS.sum())
    energy, forces = torch.tensor(rng.normal(size=len(COUNTS))), torch.tensor(rng.normal(size=(n, 3)))
    batch, labels = data.batch(np.arange(4))
    whole, measures = loss(batch, labels, energy, forces if loss.needs_forces else None)
    counts = Counts(4.0, float(n))
    start = np.concatenate([[0], np.cumsum(COUNTS)])
    total, sums = 0.0, dict.fromkeys(measures, 0.0)
    for rows in ([0], [1, 2], [3]):
        part, part_labels = data.batch(np.array(rows))
        atoms = np.concatenate([np.arange(start[r], start[r + 1]) for r in rows])
        value, each = loss(part, part_labels, energy[rows], forces[atoms] if loss.needs_forces else None, counts)
        total += float(value)
        for name in sums:
            sums[name] += float(each[name])
    assert total == pytest.approx(float(whole), rel=1e-13)
    assert sums == pytest.approx({name: float(value) for name, value in measures.items()}, rel=1e-13)


def test_l2_loss_has_a_gradient_where_forces_are_exact():
    data = dataset()
    batch, labels = data.batch(np.arange(4))
    forces = labels.forces.clone().requires_grad_(True)
    value, _ = GemNetLoss()(batch, labels, labels.energy, forces)
    value.backward()
    assert float(value.detach()) == 0.0
    assert forces.grad.isfinite().all()


def test_loss_without_force_labels_is_one_line():
    batch, labels = dataset(forces=False).batch(np.arange(2))
    with pytest.raises(InputError, match="no force labels"):
        So3kratesLoss()(batch, labels, labels.energy, torch.zeros(batch.n_atoms, 3, dtype=torch.float64))


def test_names_and_options_make_a_round_trip():
    for registry, values in (
        (LOSSES, {"name": "gemnet", "rho": 0.5, "force_error": "mae"}),
        (SCHEDULES, {"name": "steps", "milestones": (3, 5), "factors": (0.1, 0.01)}),
    ):
        assert plain(registry, named(registry, values, "x")) == values
    assert named(LOSSES, "energy_mse", "x") == EnergyMSE()


# ---- schedules ----


def test_schedules_of_the_papers():
    so3krates = Exponential(0.7, 100_000)
    assert so3krates.factor(0) == 1.0
    assert so3krates.factor(200_000) == pytest.approx(0.49)
    # The study stops at 1e-5 from 1e-3.
    assert 1e-3 * so3krates.factor(1_291_143) < 1e-5 < 1e-3 * so3krates.factor(1_291_000)
    gemnet = Exponential(0.01, 4.5e6, warmup_steps=3750)
    assert gemnet.factor(0) == pytest.approx(1 / 3750)
    assert gemnet.factor(3749) == pytest.approx(0.01 ** (3749 / 4.5e6))
    assert gemnet.factor(4_500_000) == pytest.approx(0.01)
    assert gemnet.rising_steps == 3750
    assert Exponential(0.5, 10, staircase=True).factor(19) == 0.5
    hedelius = Steps()
    assert [1e-3 * hedelius.factor(t) for t in (0, 85_999, 86_000, 175_999, 176_000)] == pytest.approx(
        [1e-3, 1e-3, 1e-5, 1e-5, 1e-7]
    )


@pytest.mark.parametrize("factor", [1, 2])
def test_cosine_restarts_follow_torch(factor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7, factor, eta_min=0.1)
    ours = CosineRestarts(7, factor, 0.1)
    for step in range(120):
        assert ours.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_plateau_follows_torch():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.linspace(1, 0.5, 10), 0.5 + 0.01 * rng.normal(size=80)])
    config = PlateauConfig(0.5, 3, 2, 1e-2)
    ours = Plateau(config)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=3, cooldown=2, threshold=1e-2, threshold_mode="rel", eps=0.0
    )
    for number, value in enumerate(values):
        if number == 40:  # the state goes through a checkpoint
            other = Plateau(config)
            other.load_state_dict(ours.state_dict())
            ours = other
        ours.update(value)
        reference.step(value)
        assert ours.factor == optimizer.param_groups[0]["lr"]
    assert ours.factor < 0.1


# ---- optimizers ----


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.shared = nn.Linear(4, 4)
        self.edge_embedding = nn.Linear(2, 2, bias=False)
        self.frequencies = nn.Parameter(torch.ones(2, 2))
        self.out = nn.Linear(4, 1, bias=False)


def test_what_decays():
    assert decays(Net(), OptimizerConfig().no_decay) == {
        "embedding.weight": False,
        "shared.weight": True,
        "shared.bias": False,
        "edge_embedding.weight": True,
        "frequencies": False,
        "out.weight": True,
    }


@pytest.mark.parametrize(
    ("meaning", "lost"),
    # Per step and at half the base rate: lr * decay * w, and decay * w * lr(t)/lr(0).
    [("per_learning_rate", 5e-4 * 2e-3), ("per_step", 2e-3 * 0.5)],
)
def test_meaning_of_weight_decay(meaning, lost):
    torch.manual_seed(0)
    model = Net().double()
    optimizer = make_optimizer(
        model, OptimizerConfig("adamw", 1e-3, weight_decay=2e-3, weight_decay_meaning=meaning, amsgrad=True)
    )
    set_learning_rate(optimizer, 5e-4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 - lost if decays(model, ())[name] and name != "frequencies" else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_adam_by_hand(name):
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    optimizer = make_optimizer(model, OptimizerConfig(name, 0.1, (0.8, 0.9), 1e-3))
    w, m, v, largest = weight.detach().numpy().copy(), 0.0, 0.0, 0.0
    for step, gradient in enumerate(([[1.0, -3.0]], [[0.1, 0.2]], [[-0.5, 0.1]]), start=1):
        gradient = np.array(gradient)
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        largest = np.maximum(largest, v)
        second = (largest if name == "amsgrad" else v) / (1 - 0.9**step)
        w = w - 0.1 * m / (1 - 0.8**step) / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-12)


def test_gradients_of_shared_layers_are_scaled_before_clipping():
    model = Net().double()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    GradientScaler(model, {"shared.": 0.25, "out.weight": 0.5}).apply()
    assert float(model.shared.weight.grad.max()) == 0.25
    norm = clip_gradients(model.parameters(), 2.0)
    expected = math.sqrt(12 + 20 * 0.25**2 + 4 + 4 + 4 * 0.5**2)
    assert float(norm) == pytest.approx(expected)
    assert float(model.shared.bias.grad[0]) == pytest.approx(0.25 * 2.0 / expected, rel=1e-5)
    assert float(clip_gradients(model.parameters(), None)) == pytest.approx(2.0, rel=1e-5)
    with pytest.raises(InputError, match="no parameter or module 'share'"):
        GradientScaler(model, {"share": 0.5})


def test_frozen_parameters_are_left_out():
    model = Net()
    model.out.weight.requires_grad_(False)
    count = sum(len(group["params"]) for group in make_optimizer(model, OptimizerConfig()).param_groups)
    assert count == 5
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameters"):
        make_optimizer(model, OptimizerConfig())


def test_average_of_weights():
    model = Net().double()
    start = model.out.weight.detach().clone()
    ema = EMA(model, 0.9)
    expected = start.clone()
    for _ in range(3):
        with torch.no_grad():
            model.out.weight += 1.0
        ema.update()
        expected = 0.9 * expected + 0.1 * model.out.weight.detach()
    address = model.out.weight.data_ptr()
    with ema.applied():
        torch.testing.assert_close(model.out.weight.detach(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(model.out.weight.detach(), start + 3.0, rtol=0, atol=0)
    assert model.out.weight.data_ptr() == address
    other = EMA(model, 0.9)
    other.load_state_dict(ema.state_dict())
    torch.testing.assert_close(other.state_dict()["out.weight"], expected, rtol=1e-14, atol=0)


# ---- options ----


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_are_complete_and_make_a_round_trip(recipe):
    config = TrainingConfig.from_dict({"recipe": recipe, "max_steps": 10})
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert config.max_steps == 10


def test_recipe_of_gemnet_and_changes_to_it():
    config = TrainingConfig.from_dict(
        {"recipe": "gemnet", "optimizer": {"eps": "1e-9"}, "schedule": {"name": "constant"}, "plateau": None}
    )
    assert config.optimizer.torch_weight_decay == pytest.approx(2e-3)
    assert config.optimizer.amsgrad
    assert config.optimizer.eps == 1e-9
    assert config.schedule.factor(10**6) == 1.0
    assert config.plateau is None
    assert (config.clip_norm, config.ema_decay, config.loss) == (10.0, 0.999, GemNetLoss(0.999))


@pytest.mark.parametrize(("n", "size"), [(499, 1), (999, 5), (9_999, 10), (10_000, 100)])
def test_automatic_batch_size(n, size):
    config = TrainingConfig.from_dict({"recipe": "so3krates"})
    assert config.molecules_per_step(n) == size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 3}, r"unknown key 'batchsize'; did you mean 'batch_size'\?"),
        ({"batch_size": 0}, "training.batch_size: expected above 0, or auto, found 0"),
        ({"batch_size": "many"}, "batch_size"),
        ({"loss": "mse"}, "training.loss: 'mse' is unknown"),
        ({"loss": {"name": "so3krates", "rho": 1}}, "training.loss: unknown key 'rho'"),
        ({"loss": {"name": "so3krates", "beta": 2}}, "loss.beta: expected a number from 0 to 1"),
        ({"loss": {"beta": 1}}, "the key 'name'"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name: expected one of adam"),
        ({"optimizer": {"learning_rate": "fast"}}, "training.optimizer.learning_rate: expected a number"),
        ({"optimizer": {"name": "adam", "weight_decay": 0.1}}, "needs name adamw"),
        ({"optimizer": {"betas": [0.9]}}, "expected 2 values"),
        ({"schedule": {"name": "steps", "milestones": [5, 3], "factors": [0.1, 0.01]}}, "ascending milestones"),
        ({"evaluation": {"monitor": "rmse"}}, "evaluation.monitor"),
        ({"evaluation": 3}, "training.evaluation: expected a mapping"),
        ({"step_mode": "fast"}, "training.step_mode"),
        ({"precision": "half"}, "training.precision"),
        ({"max_steps": 2.5}, "training.max_steps: expected a whole number"),
        ({"max_steps": None}, "nothing ends it"),
        ({"recipe": "gemnets"}, "did you mean 'gemnet'"),
        ({"max_edges": 0}, "max_edges: expected a number above 0"),
        ({"plateau": {"factor": 2}}, "plateau.factor"),
        ({"ema_decay": "often"}, "training.ema_decay: expected a number"),
    ],
)
def test_bad_options_are_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainingConfig.from_dict({"max_steps": 5, **change})
    assert "\n" not in str(caught.value)
