"""The training loop: one optimizer, a plateau schedule, wall-clock checkpoints, bitwise resume on one CPU thread.

The data order of an epoch depends only on (seed, stage, epoch), so a run that was killed at any step and resumed from
its checkpoint takes the same steps as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.state import JobState, load_checkpoint, save_checkpoint


@dataclass
class TrainingResult:
    """What a stage of training leaves behind.

    ``history`` has one dictionary per validation: epoch, step, seconds, learning_rate, train_rmse_ev, val_rmse_ev.
    """

    history: list[dict[str, float]]
    epoch_seconds: list[float]
    best_val_rmse: float
    steps: int
    epochs: int
    train_seconds: float
    stopped_by: str
    resumed_from_step: int


@dataclass
class _Progress:
    """Everything that changes during training, besides weights and optimizer."""

    epoch: int = 0
    batch_in_epoch: int = 0
    step: int = 0
    steps_at_validation: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    squared_error: float = 0.0
    n_seen: int = 0
    best: float = math.inf
    bad_validations: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    all_epoch_seconds: list[float] = field(default_factory=list)


def predict(model: AtomisticModel, data: RaggedDataset, batch_size: int) -> NDArray[np.float64]:
    """Predicted energies of all molecules, shape (len(data),), eV."""
    model.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, len(data), batch_size):
            batch, _ = data.batch(np.arange(first, min(first + batch_size, len(data))))
            parts.append(model(batch).double().cpu())
    model.train()
    return torch.cat(parts).numpy() if parts else np.empty(0)


def rmse(model: AtomisticModel, data: RaggedDataset, batch_size: int) -> float:
    """Root mean squared error per molecule, eV."""
    error = predict(model, data, batch_size) - data.target.double().cpu().numpy()
    return float(np.sqrt(np.mean(error**2)))


def train_stage(
    fabric: Any,
    model: AtomisticModel,
    train: RaggedDataset,
    validation: RaggedDataset,
    config: TrainingConfig,
    seed: int,
    stage: int,
    state: JobState,
    on_validation: Callable[[dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Minimise the mean squared energy error and leave the weights of the best validation in ``model``.

    Args:
        fabric: a launched ``lightning_fabric.Fabric``.
        model: trained in place; parameters with ``requires_grad`` False stay.
        train: training molecules.
        validation: molecules that steer the learning rate and the choice of the final weights.
        config: numbers of the run.
        seed: seed of the data order.
        stage: number of the stage in a run of several stages.
        state: where checkpoints go.
        on_validation: called with each new history entry.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    wrapped, optimizer = fabric.setup(model, optimizer)
    progress = _Progress()
    best_weights: dict[str, Tensor] = copy.deepcopy(model.state_dict())
    resumed_from = 0
    checkpoint = load_checkpoint(state.checkpoint_path)
    if checkpoint is not None and checkpoint["stage"] == stage:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        best_weights = checkpoint["best"]
        progress = _Progress(**checkpoint["progress"])
        resumed_from = progress.step
        print(f"resuming stage {stage} at step {progress.step} (epoch {progress.epoch})", flush=True)
    # Summed on the device, so that a step never waits for the host.
    squared_error = torch.tensor(progress.squared_error, dtype=torch.float64, device=fabric.device)
    last_save = time.monotonic()

    def save() -> None:
        nonlocal last_save
        progress.squared_error = float(squared_error)
        save_checkpoint(
            state.checkpoint_path,
            {
                "stage": stage,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "best": best_weights,
                "progress": vars(progress),
            },
        )
        last_save = time.monotonic()

    def reached_limit() -> str | None:
        if config.max_steps is not None and progress.step >= config.max_steps:
            return "step budget"
        if progress.epoch >= config.max_epochs:
            return "epoch limit"
        if optimizer.param_groups[0]["lr"] < config.min_learning_rate:
            return "learning rate"
        return None

    if checkpoint is None:
        # The lease and the fingerprint are on disk before the first step: a kill at any later moment can resume.
        save()
    stopped_by = reached_limit()
    while stopped_by is None:
        order = np.random.default_rng([seed, stage, progress.epoch]).permutation(len(train))
        n_batches = math.ceil(len(train) / config.batch_size)
        started = time.perf_counter()
        while progress.batch_in_epoch < n_batches and stopped_by is None:
            first = progress.batch_in_epoch * config.batch_size
            batch, target = train.batch(order[first : first + config.batch_size])
            loss = (wrapped(batch) - target).square().mean()
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimizer.step()
            squared_error += loss.detach().double() * batch.n_graphs
            progress.n_seen += batch.n_graphs
            progress.batch_in_epoch += 1
            progress.step += 1
            if time.monotonic() - last_save > config.checkpoint_seconds:
                elapsed = time.perf_counter() - started
                progress.seconds += elapsed
                progress.epoch_seconds += elapsed
                save()
                started = time.perf_counter()
            if config.max_steps is not None and progress.step >= config.max_steps:
                stopped_by = "step budget"
        elapsed = time.perf_counter() - started
        progress.seconds += elapsed
        progress.epoch_seconds += elapsed
        if progress.batch_in_epoch >= n_batches:
            progress.all_epoch_seconds.append(progress.epoch_seconds)
            progress.epoch_seconds = 0.0
            progress.epoch += 1
            progress.batch_in_epoch = 0
        due = progress.step - progress.steps_at_validation >= config.steps_between_validations
        if (due and progress.batch_in_epoch == 0) or stopped_by is not None:
            progress.squared_error = float(squared_error)
            _validate(model, validation, config, progress, optimizer, best_weights, on_validation)
            squared_error.zero_()
        stopped_by = stopped_by or reached_limit()
    model.load_state_dict(best_weights)
    return TrainingResult(
        history=progress.history,
        epoch_seconds=progress.all_epoch_seconds or [progress.epoch_seconds],
        best_val_rmse=progress.best,
        steps=progress.step,
        epochs=progress.epoch,
        train_seconds=progress.seconds,
        stopped_by=stopped_by,
        resumed_from_step=resumed_from,
    )


def _validate(
    model: AtomisticModel,
    validation: RaggedDataset,
    config: TrainingConfig,
    progress: _Progress,
    optimizer: Any,
    best_weights: dict[str, Tensor],
    on_validation: Callable[[dict[str, float]], None] | None,
) -> None:
    """Measure the validation error, adapt the learning rate, keep the best weights."""
    value = rmse(model, validation, config.evaluation_batch_size)
    if not math.isfinite(value):
        raise FloatingPointError(f"the validation loss is {value} at step {progress.step}: lower the learning rate")
    learning_rate = optimizer.param_groups[0]["lr"]
    progress.history.append(
        {
            "epoch": progress.epoch,
            "step": progress.step,
            "seconds": progress.seconds,
            "learning_rate": learning_rate,
            "train_rmse_ev": math.sqrt(progress.squared_error / max(progress.n_seen, 1)),
            "val_rmse_ev": value,
        }
    )
    progress.squared_error, progress.n_seen = 0.0, 0
    progress.steps_at_validation = progress.step
    if value < progress.best:
        progress.best = value
        progress.bad_validations = 0
        best_weights.update({key: tensor.detach().clone() for key, tensor in model.state_dict().items()})
    else:
        progress.bad_validations += 1
        if progress.bad_validations > config.plateau_patience:
            progress.bad_validations = 0
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * config.plateau_factor
    if on_validation is not None:
        on_validation(progress.history[-1])
