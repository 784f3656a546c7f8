"""The training loop: resume bit by bit, stops that keep the last good checkpoint, cadences, equal forms of a step."""

import hashlib
import io
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.runtime.state import JobState
from mlip_studies.training import checkpoint as checkpoint_module
from mlip_studies.training.checkpoint import Checkpoints, all_finite, describe_model
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.device import launch_fabric
from mlip_studies.training.ema import EMA
from mlip_studies.training.evaluate import evaluate, predict
from mlip_studies.training.loop import train_stage
from mlip_studies.training.loss import So3kratesLoss
from mlip_studies.training.metrics import MetricsLog
from mlip_studies.training.optimizer import make_optimizer
from mlip_studies.training.progress import ProgressReporter
from mlip_studies.training.steps import EagerStep, make_step

torch.set_num_threads(1)
FABRIC = launch_fabric(torch.device("cpu"))


class Toy(AtomisticModel):
    """A perceptron per atom on sums of Gaussians over its neighbours, with dropout and a hook per forward pass."""

    def __init__(self, width=8, dropout=0.0):
        super().__init__()
        self.elements = (1, 6, 8)
        self.cutoff = 4.0
        self.embedding = nn.Embedding(9, 6)
        self.net = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 1))
        self.register_buffer("centres", torch.linspace(0.5, 3.5, 6))
        self.calls = 0
        self.at = {}

    def forward(self, batch):
        if self.training:
            self.calls += 1
            self.at.pop(self.calls, lambda: None)()
        distance = batch.edge_vectors().norm(dim=1)
        inside = (distance < self.cutoff).to(distance.dtype) * (1 - distance / self.cutoff).square()
        radial = torch.exp(-((distance.unsqueeze(1) - self.centres) ** 2)) * inside.unsqueeze(1)
        radial = radial * gather(self.embedding(batch.atomic_numbers), batch.senders)
        return batch.sum_atoms(self.net(scatter_sum(radial, batch.receivers, batch.n_atoms)))


def dataset(n, seed=0, dtype=torch.float32):
    """Random molecules; labels from a fixed toy of another seed."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, n)
    ptr = np.concatenate([[0], np.cumsum(counts)])
    positions = rng.normal(size=(ptr[-1], 3)) * 1.5
    numbers = rng.choice([1, 6, 8], ptr[-1])
    torch.manual_seed(99)
    teacher = Toy().double().eval()
    data = RaggedDataset(numbers, positions, ptr, np.zeros(n), dtype=torch.float64)
    energy, forces = teacher.energy_and_forces(data.batch(np.arange(n))[0])
    return RaggedDataset(numbers, positions, ptr, energy.numpy(), dtype=dtype, cutoff=4.0, forces=forces.numpy())


def make_config(**changes):
    values = {
        "loss": {"name": "so3krates", "beta": 0.9},
        "optimizer": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 1e-3, "amsgrad": True},
        "schedule": {"name": "exponential", "rate": 0.5, "steps": 100, "warmup_steps": 5},
        "plateau": {"factor": 0.7, "patience": 0, "threshold": 0.5},
        "ema_decay": 0.9,
        "clip_norm": 0.5,
        "batch_size": 8,
        "max_steps": 60,
        "evaluation": {"every_steps": 7},
        "checkpoint_seconds": 1e6,
        "log_steps": 5,
        "check_steps": 4,
        **changes,
    }
    return TrainingConfig.from_dict(values)


class Job:
    """Trains a toy in a folder, again and again if it is interrupted."""

    def __init__(self, folder, config=None, n=40, dtype=torch.float32, dropout=0.2, width=8):
        self.folder, self.config = folder, make_config() if config is None else config
        self.train, self.validation = dataset(n, 1, dtype), dataset(12, 2, dtype)
        self.dtype, self.dropout, self.width = dtype, dropout, width

    @property
    def state_folder(self):
        (folder,) = (path for path in (self.folder / "state").iterdir() if path.is_dir())
        return folder

    @property
    def metrics_path(self):
        return self.folder / "metrics.jsonl"

    def __call__(self, at=None, row_names=None):
        torch.manual_seed(5)
        model = Toy(self.width, self.dropout).to(self.dtype)
        model.at = dict(at or {})
        metrics = MetricsLog(self.metrics_path)
        with JobState(self.folder / "state", {"job": 1}) as state:
            try:
                result = train_stage(
                    FABRIC, model, self.train, self.validation, self.config, state, 0, metrics, row_names=row_names
                )
            finally:
                metrics.close()
        return model, result

    def records(self):
        """Lines of metrics without times."""
        lines = [json.loads(line) for line in self.metrics_path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]

    def newest(self):
        """What the newest checkpoint holds."""
        path = Checkpoints(self.state_folder, "stage0", {}).files()[0]
        return torch.load(path, weights_only=True)


def assert_same(one, other):
    """Nested values equal bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if "second" not in str(key) and key not in ("jobs", "metrics_position"):
                assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


class Killed(BaseException):
    """Stands for the end of the process."""


def kill():
    raise Killed


@pytest.mark.parametrize("moment", [3, 17, 36, 59])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e6], ids=["every step", "at best"])
def test_resume_equals_the_uninterrupted_run_bit_by_bit(tmp_path, moment, checkpoint_seconds):
    config = make_config(checkpoint_seconds=checkpoint_seconds)
    whole = Job(tmp_path / "whole", config)
    model, result = whole()
    job = Job(tmp_path / "cut", config)
    with pytest.raises(Killed):
        job({moment: kill})
    resumed, again = job()
    if checkpoint_seconds == 0.0:
        assert again.resumed_from_step == moment - 1
    else:
        assert again.resumed_from_step < moment
    assert_same(model.state_dict(), resumed.state_dict())
    # Weights, moments, averages, plateau, random numbers, best weights and history.
    one, other = whole.newest()["payload"], job.newest()["payload"]
    assert one["plateau"]["factor"] < 1.0
    assert not torch.equal(one["ema"]["net.0.weight"], one["model"]["net.0.weight"])
    assert_same(one, other)
    assert whole.records() == job.records()
    assert result.jobs == 1
    assert again.jobs == 2 or again.resumed_from_step == 0


def test_finished_stage_is_not_trained_again(tmp_path):
    job = Job(tmp_path)
    model, result = job()
    again, second = job({1: kill})
    assert_same(model.state_dict(), again.state_dict())
    assert second.resumed_from_step == result.steps > 0
    assert vars(second) == vars(result) | {"resumed_from_step": result.steps}


def test_corrupted_newest_checkpoint_falls_back_to_the_previous_one(tmp_path, capsys):
    config = make_config(checkpoint_seconds=0.0)
    model, _ = Job(tmp_path / "whole", config)()
    job = Job(tmp_path / "cut", config)
    with pytest.raises(Killed):
        job({30: kill})
    newest, previous = Checkpoints(job.state_folder, "stage0", {}).files()
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    capsys.readouterr()
    resumed, result = job()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{newest}: corrupted checkpoint (its checksum does not match its name)"
    assert lines[1] == f"{previous}: using this previous checkpoint, of step 28"
    assert result.resumed_from_step == 28
    assert_same(model.state_dict(), resumed.state_dict())


def test_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(Killed):
        Job(tmp_path)({10: kill})
    with pytest.raises(InputError, match=r"stage0-.*\.pt: checkpoint of another model \(class Toy") as caught:
        Job(tmp_path, width=9)()
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    job = Job(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_module, "FORMAT", "mlip-studies-checkpoint-1")
        job({10: kill})
    with pytest.raises(InputError, match="version 'mlip-studies-checkpoint-1', expected"):
        job()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_checkpoint_executes_nothing(tmp_path):
    stream = io.BytesIO()
    torch.save({"format": checkpoint_module.FORMAT, "bomb": Bomb(str(tmp_path / "exploded"))}, stream)
    content = stream.getvalue()
    digest = hashlib.sha256(content).hexdigest()[:16]
    (tmp_path / f"stage0-00000000-{digest}.pt").write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        Checkpoints(tmp_path, "stage0", {}).load()
    assert not (tmp_path / "exploded").exists()


def test_two_generations_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "stage0", describe_model(Toy()))
    for step in range(5):
        checkpoints.save({"x": torch.tensor(step)}, step)
    assert len(list(tmp_path.iterdir())) == 2
    assert int(checkpoints.load()["x"]) == 4
    (tmp_path / ".stage0.tmp").write_bytes(b"left by a killed writer")
    checkpoints.sweep()
    assert len(list(tmp_path.iterdir())) == 2


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    config = make_config(checkpoint_seconds=0.0)
    model, _ = Job(tmp_path / "whole", config)()
    job = Job(tmp_path / "cut", config)

    # Writing to this device fails with "no space left".
    def fill():
        (job.state_folder / ".stage0.tmp").symlink_to("/dev/full")

    with pytest.raises(
        InputError, match=r"cannot save .* step 20 \(No space left.*step 19 is kept; make room"
    ) as caught:
        job({20: fill})
    assert "\n" not in str(caught.value)
    assert job.newest()["step"] == 19
    resumed, result = job()
    assert result.resumed_from_step == 19
    assert_same(model.state_dict(), resumed.state_dict())


def test_full_disk_of_metrics_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match="cannot write metrics"):
        Job(tmp_path)()


def position_of(job, row):
    """First step, from 1, whose batch holds a row."""
    order = np.random.default_rng([job.config.seed, 0, 0]).permutation(len(job.train))
    return int(np.flatnonzero(order == row)[0]) // job.config.batch_size + 1


def test_nan_stops_at_once_and_names_step_and_rows(tmp_path):
    job = Job(tmp_path, make_config(checkpoint_seconds=0.0, check_steps=50, ema_decay=None))
    job.train.energy[21] = float("nan")
    step = position_of(job, 21)
    assert step > 1
    with pytest.raises(InputError, match=f"the loss is nan .* at step {step}, with rows .*\\b1021\\b") as caught:
        job(row_names=np.arange(1000, 1040))
    message = str(caught.value)
    assert "\n" not in message
    assert f"the checkpoint of step {step - 1} is kept" in message
    saved = job.newest()
    assert saved["step"] == step - 1
    assert all_finite(saved)


def test_nan_is_noticed_without_a_look_at_every_step(tmp_path):
    job = Job(tmp_path, make_config(check_steps=20, evaluation={"every_steps": 100}, log_steps=100, plateau=None))
    job.train.forces[0, 0] = float("inf")
    step = position_of(job, 0)
    with pytest.raises(InputError, match=f"at step {step}, with rows"):
        job()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    job = Job(tmp_path, make_config(checkpoint_seconds=0.0), dropout=0.0)
    weight = {}

    def break_it():
        # A weight that no molecule uses: neither loss nor gradient tells.
        with torch.no_grad():
            weight["model"].embedding.weight[0] = float("inf")

    original = Toy.forward

    def forward(self, batch):
        weight["model"] = self
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Toy, "forward", forward)
        with pytest.raises(InputError, match="weights are not finite after step 9; the checkpoint of step 8 is kept"):
            job({9: break_it})
    assert job.newest()["step"] == 8
    assert all_finite(job.newest())


def test_all_finite_looks_at_every_entry():
    assert all_finite({"a": torch.full((3,), 3e38), "b": [torch.arange(3)], "c": float("inf")})
    assert not all_finite({"a": [torch.ones(3), {"b": torch.tensor([0.0, float("-inf")])}]})


def test_exploding_gradient_stops(tmp_path):
    job = Job(tmp_path, make_config(max_gradient_norm=1e-4))
    with pytest.raises(
        InputError, match=r"norm of the gradient is .*, above max_gradient_norm 0.0001, at step 1, with"
    ):
        job()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_asks_for_requeue(tmp_path, capsys, number):
    model, _ = Job(tmp_path / "whole")()
    job = Job(tmp_path / "cut")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        job({20: lambda: os.kill(os.getpid(), number)})
    assert caught.value.code == 75
    assert signal.getsignal(number) is before
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"{number.name} received: checkpoint saved at step 20; run again to go on"
    resumed, result = job()
    assert result.resumed_from_step == 20
    assert_same(model.state_dict(), resumed.state_dict())


# ---- the numbers of a run ----


def test_training_learns(tmp_path):
    config = make_config(
        schedule={"name": "exponential", "rate": 0.1, "steps": 400},
        optimizer={"name": "adam", "learning_rate": 2e-2},
        plateau=None,
        max_steps=500,
        evaluation={"every_epochs": 5},
    )
    job = Job(tmp_path, config, n=60, dropout=0.0)
    _, result = job()
    first, best = result.history[0]["validation_loss"], result.best_value
    assert best < 0.2 * first
    assert result.stopped_by == "step budget"


def test_average_of_weights_is_evaluated_and_kept(tmp_path):
    job = Job(tmp_path, make_config(max_steps=7, plateau=None), dropout=0.0)
    model, result = job()
    payload = job.newest()["payload"]
    for name, value in payload["ema"].items():
        assert torch.equal(model.state_dict()[name], value)
    measured = evaluate(model, job.validation, job.config.loss, 5)
    assert measured["loss"] == pytest.approx(result.history[-1]["validation_loss"], rel=1e-6)
    assert result.best_step == 7


def test_history_holds_the_mean_over_the_steps(tmp_path):
    # Without change of weights the mean over an epoch's steps is the error over the training set.
    config = make_config(
        optimizer={"name": "adam", "learning_rate": 1e-300}, plateau=None, max_epochs=2, max_steps=None,
        evaluation={"every_epochs": 1}, ema_decay=None, batch_size=7,
    )  # fmt: skip
    job = Job(tmp_path, config, dtype=torch.float64, dropout=0.0)
    model, result = job()
    measured = evaluate(model, job.train, config.loss, 100)
    for entry in result.history:
        assert entry["train_energy_mae_ev"] == pytest.approx(measured["energy_mae"], rel=1e-12)
        assert entry["train_energy_per_atom_rmse_ev"] == pytest.approx(measured["energy_per_atom_rmse"], rel=1e-12)
        assert entry["train_force_rmse_ev_per_angstrom"] == pytest.approx(measured["force_rmse"], rel=1e-12)
    assert (result.epochs, result.steps, result.stopped_by) == (2, 12, "epoch limit")
    assert result.configurations == 80
    assert len(result.epoch_seconds) == 2


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size):
    data, model = dataset(12, 2, torch.float64), Toy().double()
    loss = So3kratesLoss(0.9)
    measured = evaluate(model, data, loss, batch_size, scale=2.0)
    energy, forces = predict(model, data, batch_size, forces=True)
    error, force_error = energy - data.energy.numpy(), forces - data.forces.numpy()
    assert measured["energy_rmse"] == pytest.approx(2 * np.sqrt(np.mean(error**2)), rel=1e-12)
    assert measured["energy_per_atom_mae"] == pytest.approx(2 * np.mean(np.abs(error) / data.counts), rel=1e-12)
    assert measured["force_mae"] == pytest.approx(2 * np.abs(force_error).mean(), rel=1e-12)
    assert measured["loss"] == pytest.approx(0.1 * np.mean(error**2) + 0.9 * np.mean(force_error**2), rel=1e-12)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


@pytest.mark.parametrize(
    ("cadence", "steps"),
    [
        ({"every_steps": 7}, [7, 14, 20]),
        ({"every_epochs": 1}, [5, 10, 15, 20]),
        ({"every_epochs": 2}, [10, 20]),
        ({"every_epochs": 1, "min_steps": 8}, [10, 20]),
    ],
)
def test_cadence_of_evaluations(tmp_path, cadence, steps):
    _, result = Job(tmp_path, make_config(max_steps=20, evaluation=cadence))()
    assert [entry["step"] for entry in result.history] == steps


def test_early_stop_and_learning_rate(tmp_path):
    config = make_config(
        optimizer={"name": "adam", "learning_rate": 1e-300}, plateau=None, early_stop=2, ema_decay=None
    )
    _, result = Job(tmp_path / "early", config)()
    # One best value, then three that are not better.
    assert (result.stopped_by, result.steps, result.best_step) == ("early stop", 28, 7)
    config = make_config(schedule={"name": "steps", "milestones": [12], "factors": [0.1]}, plateau=None)
    config = TrainingConfig.from_dict({**config.to_dict(), "min_learning_rate": 5e-3})
    _, result = Job(tmp_path / "rate", config)()
    assert (result.stopped_by, result.steps) == ("learning rate", 12)


def test_without_validation_the_last_averages_are_kept(tmp_path):
    job = Job(tmp_path, make_config(plateau=None))
    job.validation = None
    model, result = job()
    assert result.best_value is None
    for name, value in job.newest()["payload"]["ema"].items():
        assert torch.equal(model.state_dict()[name], value)
    job.config = make_config()
    with pytest.raises(InputError, match="need validation rows"):
        job()


def test_metrics_are_tidy_lines(tmp_path):
    job = Job(tmp_path)
    job()
    lines = [json.loads(line) for line in job.metrics_path.read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert [line["step"] for line in lines if line["split"] == "validation"] == [*range(7, 57, 7), 60]
    for line in train:
        assert {"loss", "energy_mae_ev", "energy_per_atom_rmse_ev", "force_mae_ev_per_angstrom", "grad_norm"} <= set(
            line
        )
        assert line["configurations_per_second"] > 0
    rates = [line["learning_rate"] for line in train]
    assert rates[0] == pytest.approx(1e-2 * 0.5 ** (4 / 100))
    assert min(rates) < rates[0]


def test_progress_forms(tmp_path, capsys):
    record = {
        "split": "train", "stage": 0, "step": 3, "epoch": 1, "seconds": 2.0, "learning_rate": 1e-3,
        "energy_mae_ev": 0.25, "force_mae_ev_per_angstrom": 0.5,
    }  # fmt: skip
    config = make_config()
    with ProgressReporter("toy", config, interactive=False) as reporter:
        reporter.record(record)
        reporter.record(record)
        reporter.record({**record, "split": "validation", "step": 60})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: epoch 1, step 3/60, 2 s, train 250.0 meV 500.0 meV/Å, learning rate 1.0e-03"
    assert len(lines) == 2
    assert "validation 250.0 meV" in lines[1]
    with ProgressReporter("toy", config, interactive=True) as reporter:
        reporter.step(2)
        reporter.record(record)
    assert "toy" in capsys.readouterr().out


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path / "metrics.jsonl", str(tmp_path / "board"))
    for step in (1, 2):
        log.write({"split": "train", "stage": 0, "step": step, "loss": 1.0 / step})
    log.close()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]


# ---- forms of a step ----


def trained(step_of, dtype=torch.float64, steps=20, ema=True):
    data = dataset(40, 1, dtype)
    torch.manual_seed(5)
    model = Toy().to(dtype)
    config = make_config()
    optimizer = make_optimizer(model, config.optimizer)
    average = EMA(model, 0.9) if ema else None
    step = step_of(model, data, config, optimizer, average)
    rng = np.random.default_rng(0)
    numbers = [step(rng.permutation(40)[:8]) for _ in range(steps)]
    return model, average, [{name: float(value) for name, value in each.items()} for each in numbers]


def eager(model, data, config, optimizer, ema, **options):
    return EagerStep(model, data, config.loss, optimizer, config.clip_norm, None, ema, FABRIC, **options)


def assert_equal_training(one, other, rtol=1e-10):
    for name, value in one[0].state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], value, rtol=rtol, atol=rtol)
    for a, b in zip(one[2], other[2], strict=True):
        assert b == pytest.approx(a, rel=1e-8)


def test_micro_batches_give_the_same_training():
    parts = trained(lambda *arguments: eager(*arguments, micro_batches=3))
    assert_equal_training(trained(eager), parts)


def test_captured_mode_gives_the_same_training():
    def captured(model, data, config, optimizer, ema):
        config = TrainingConfig.from_dict({**config.to_dict(), "step_mode": "captured"})
        return make_step(config, model, data, optimizer, ema, FABRIC)

    assert_equal_training(trained(eager), trained(captured))


def test_captured_mode_in_the_loop(tmp_path):
    one, _ = Job(tmp_path / "a", make_config(), dtype=torch.float64, dropout=0.0)()
    other, _ = Job(tmp_path / "b", make_config(step_mode="captured"), dtype=torch.float64, dropout=0.0)()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_step_reports_the_norm_before_clipping():
    _, _, numbers = trained(eager, steps=1)
    data, config = dataset(40, 1, torch.float64), make_config()
    torch.manual_seed(5)
    model = Toy().double()
    batch, labels = data.batch(np.random.default_rng(0).permutation(40)[:8])
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    value, _ = config.loss(batch, labels, energy, forces)
    value.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
    assert float(norm) > 0.5
    assert numbers[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-12)
    assert numbers[0]["loss"] == pytest.approx(value.item(), rel=1e-12)


def test_loss_with_forces_needs_force_labels(tmp_path):
    job = Job(tmp_path)
    job.train.forces = None
    with pytest.raises(InputError, match="the training set has none"):
        job()
