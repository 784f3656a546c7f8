"""Errors and predictions of a model on a data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.training.device import sum_over_processes
from mlip_studies.training.loss import Counts, Loss
from mlip_studies.training.steps import forward

#: unit of each measure, which becomes part of its name in files
UNITS = {
    "loss": "",
    "energy_mae": "_ev",
    "energy_rmse": "_ev",
    "energy_per_atom_mae": "_ev",
    "energy_per_atom_rmse": "_ev",
    "force_mae": "_ev_per_angstrom",
    "force_rmse": "_ev_per_angstrom",
}


@contextmanager
def evaluating(model: AtomisticModel) -> Iterator[None]:
    """Within the block the model is in evaluation mode and its weights need no gradient."""
    was_training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(was_training)


def measures_in_ev(sums: Mapping[str, float], scale: float = 1.0) -> dict[str, float]:
    """Measures of :meth:`mlip_studies.training.loss.Errors.measures` in eV and eV/Å, squares as roots.

    Args:
        sums: mean absolute errors ``*_mae``, mean squared errors ``*_mse`` and the ``loss`` in units of the model.
        scale: energy unit of the model, eV; the loss stays as it is.
    """
    result = {}
    for name, value in sums.items():
        if name.endswith("_mse"):
            result[f"{name[:-4]}_rmse"] = math.sqrt(max(value, 0.0)) * scale
        elif name.endswith("_mae"):
            result[name] = value * scale
        elif name == "loss":
            result[name] = value
    return {name: result[name] for name in UNITS if name in result}


def with_units(measures: Mapping[str, float]) -> dict[str, float]:
    """The measures under names that hold their units."""
    return {f"{name}{UNITS[name]}": value for name, value in measures.items()}


def evaluate(
    model: AtomisticModel, data: RaggedDataset, loss: Loss, batch_size: int, scale: float = 1.0, fabric: Any = None
) -> dict[str, float]:
    """Loss and errors over a whole data set, as if it were one batch.

    Several processes share the work, and all get the result.

    Args:
        model: predicts in units of ``scale``.
        data: labels in units of ``scale``.
        loss: the loss of training.
        batch_size: molecules per forward pass.
        scale: energy unit of model and labels, eV.
        fabric: the processes; None for one.

    Returns:
        see :func:`measures_in_ev`.
    """
    counts = Counts(float(max(len(data), 1)), float(max(int(data.counts.sum()), 1)))
    rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    names: list[str] = []
    total: Tensor | None = None
    with evaluating(model), torch.no_grad():
        for number, rows in enumerate(_chunks(len(data), batch_size)):
            if number % world != rank and number >= world:
                continue
            batch, labels = data.batch(rows)
            energy, forces = forward(model, batch, loss.needs_forces, create_graph=False)
            value, measures = loss(batch, labels, energy, forces, counts)
            names = ["loss", *measures]
            values = torch.stack([value, *measures.values()])
            # The first chunks are computed by all processes, so that each one knows the names; one of them counts.
            if number % world != rank:
                values = torch.zeros_like(values)
            total = values if total is None else total + values
    if total is None:
        return {}
    sum_over_processes(fabric, total)
    return measures_in_ev(dict(zip(names, total.tolist(), strict=True)), scale)


def predict(
    model: AtomisticModel,
    data: RaggedDataset,
    batch_size: int,
    forces: bool = False,
    chosen: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Energies and, if asked, forces of a data set, in units of the model.

    Args:
        model: what predicts.
        data: molecules.
        batch_size: molecules per forward pass.
        forces: whether forces are wanted.
        chosen: numbers of the molecules within the data set, shape (n,); None: all, in order.

    Returns:
        energies, shape (n,), and forces, shape (n_atoms, 3) in the order of the molecules, or None.
    """
    energies, force_parts = [np.empty(0)], [np.empty((0, 3))]
    with evaluating(model), torch.no_grad():
        for rows in _chunks(len(data) if chosen is None else len(chosen), batch_size):
            batch, _ = data.batch(rows if chosen is None else chosen[rows])
            energy, force = forward(model, batch, forces, create_graph=False)
            energies.append(energy.double().cpu().numpy())
            if force is not None:
                force_parts.append(force.double().cpu().numpy())
    return np.concatenate(energies), np.concatenate(force_parts) if forces else None


def error_summary(
    energy: NDArray[np.float64], n_atoms: NDArray[np.integer], force: NDArray[np.floating] | None = None
) -> dict[str, float | None]:
    """Mean absolute and root mean square errors, per molecule, per atom and per force component.

    Args:
        energy: predicted minus true, eV, shape (n,).
        n_atoms: atoms of each molecule, shape (n,).
        force: predicted minus true, eV/Å, any shape; None: not predicted.

    Returns:
        ``energy_mae_ev``, ``energy_rmse_ev``, the same for ``energy_per_atom``, and, if there are forces,
        ``force_mae_ev_per_angstrom`` and ``force_rmse_ev_per_angstrom``; None where there is nothing to average.
    """
    errors = {"energy": energy, "energy_per_atom": energy / n_atoms}
    if force is not None:
        errors["force"] = force.ravel()
    result: dict[str, float | None] = {}
    for name, values in errors.items():
        unit = "ev_per_angstrom" if name == "force" else "ev"
        result[f"{name}_mae_{unit}"] = float(np.abs(values).mean()) if len(values) else None
        result[f"{name}_rmse_{unit}"] = math.sqrt(float(np.square(values).mean())) if len(values) else None
    return result


def _chunks(n: int, size: int) -> list[NDArray[np.int64]]:
    return [np.arange(first, min(first + size, n)) for first in range(0, n, size)]
