"""One optimizer step: batch, prediction, loss, gradient, update.

A step takes row numbers and returns detached scalars on the device; it never waits for the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, Labels, RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.device import sum_over_processes
from mlip_studies.training.ema import EMA
from mlip_studies.training.loss import Counts, Loss
from mlip_studies.training.optimizer import GradientScaler, clip_gradients

Step = Callable[[NDArray[np.integer]], dict[str, Tensor]]


def forward(
    model: AtomisticModel, batch: GraphBatch, needs_forces: bool, create_graph: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Energy (n_graphs,), eV, and, if they are needed, forces (n_atoms, 3), eV/Å."""
    if needs_forces:
        return model.energy_and_forces(batch, create_graph=create_graph)
    return model(batch), None


class EagerStep:
    """The step as it is written, kernel by kernel.

    With several processes each takes its share of the rows. Losses are divided by the counts of the whole batch, so
    that the sum of the processes' gradients, which every one then has, is the gradient of the whole.
    """

    def __init__(
        self,
        model: AtomisticModel,
        data: RaggedDataset,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        gradient_scales: Mapping[str, float] | None = None,
        ema: EMA | None = None,
        fabric: Any = None,
        *,
        micro_batches: int = 1,
    ) -> None:
        """Put the parts together.

        Args:
            model: trained in place.
            data: training set.
            loss: what is minimised.
            optimizer: of the model's trainable parameters.
            clip_norm: largest global norm of the gradient, or None.
            gradient_scales: factors on the gradients of parameters or modules, by name, before the norm is taken.
            ema: averaged weights to update, or None.
            fabric: the processes; None for one.
            micro_batches: parts of a batch that are computed one after another.

        Raises:
            InputError: a loss with forces and a data set without.
        """
        self.model, self.data, self.loss, self.optimizer, self.ema = model, data, loss, optimizer, ema
        self.clip_norm, self.micro_batches, self.fabric = clip_norm, micro_batches, fabric
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.world: int = 1 if fabric is None else fabric.world_size
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._scaler = GradientScaler(model, gradient_scales)
        if loss.needs_forces and data.forces is None:
            raise InputError("the loss needs forces, but the training set has no force labels; use an energy loss")

    def __call__(self, rows: NDArray[np.integer]) -> dict[str, Tensor]:
        """Take one step.

        Args:
            rows: rows of the whole batch, shape (n_graphs,), the same in all processes.

        Returns:
            ``loss`` and the measures of :meth:`mlip_studies.training.loss.Errors.measures`, of which the processes'
            values add up to that of the batch, and ``grad_norm``, the norm of the gradient before clipping.
        """
        counts = Counts(float(len(rows)), float(self.data.counts[rows].sum()))
        share = rows[self.rank :: self.world]
        self.optimizer.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for part in np.array_split(share, max(1, min(self.micro_batches, len(share)))):
            batch, labels = self.data.batch(part) if len(part) else self._without_weight(rows[:1])
            for name, value in self._accumulate(batch, labels, counts).items():
                total[name] = total[name] + value if name in total else value
        return self._finish(total)

    def energy_and_forces(self, batch: GraphBatch) -> tuple[Tensor, Tensor | None]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, or None for a loss without forces."""
        return forward(self.model, batch, self.loss.needs_forces)

    def update(self, batch: GraphBatch, labels: Labels) -> dict[str, Tensor]:
        """Take one step on a whole batch; returns the scalars that :meth:`__call__` does."""
        self.optimizer.zero_grad(set_to_none=True)
        return self._finish(self._accumulate(batch, labels, None))

    def _accumulate(self, batch: GraphBatch, labels: Labels, counts: Counts | None) -> dict[str, Tensor]:
        """Add the gradient of a part to those of the weights."""
        energy, forces = self.energy_and_forces(batch)
        value, measures = self.loss(batch, labels, energy, forces, counts)
        # Gradients of the weights only: those of the positions would be thrown away.
        value.backward(inputs=self.parameters)
        return {"loss": value.detach(), **measures}

    def _finish(self, total: dict[str, Tensor]) -> dict[str, Tensor]:
        """Update the weights with the gradients that are there."""
        self._sum_gradients()
        self._scaler.apply()
        total["grad_norm"] = clip_gradients(self.parameters, self.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        return total

    def _without_weight(self, rows: NDArray[np.integer]) -> tuple[GraphBatch, Labels]:
        """A batch that adds nothing, for a process without molecules: all processes do the same then."""
        batch, labels = self.data.batch(rows)
        graphs, atoms = torch.zeros_like(labels.energy), batch.positions.new_zeros(batch.n_atoms)
        return batch, replace(labels, graph_weight=graphs, atom_weight=atoms)

    def _sum_gradients(self) -> None:
        if self.world == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = sum_over_processes(self.fabric, torch.cat([each.reshape(-1) for each in gradients]))
        for each, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            each.copy_(part.view_as(each))


def make_step(
    config: TrainingConfig,
    model: AtomisticModel,
    data: RaggedDataset,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    fabric: Any = None,
) -> Step:
    """The step that a configuration asks for.

    Raises:
        InputError: a mode that several processes cannot use.
    """
    scales = getattr(model, "gradient_scales", None)
    arguments = (model, data, config.loss, optimizer, config.clip_norm, scales, ema, fabric)
    if config.step_mode == "eager":
        return EagerStep(*arguments, micro_batches=config.micro_batches)
    if fabric is not None and fabric.world_size > 1:
        raise InputError(f"training.step_mode: {config.step_mode} works with one process; use eager with several")
    # By name, so that runs with eager steps do not depend on that code.
    capture = importlib.import_module("mlip_studies.training.capture")
    cls = capture.CapturedStep if config.step_mode == "captured" else capture.CompiledStep
    step: Step = cls(*arguments, micro_batches=config.micro_batches, batch_size=config.molecules_per_step(len(data)))
    return step
