"""One training run of the multi-fidelity study: rows of a mix, a strategy, and the run's four output files."""

from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of, write_text
from mlip_studies.data.store import Rows, Store
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model
from mlip_studies.runtime.options import read_options
from mlip_studies.runtime.state import JobState
from mlip_studies.training.config import EvaluationConfig, TrainingConfig
from mlip_studies.training.data import DTYPES, check_elements, check_geometries
from mlip_studies.training.device import choose_device, environment, launch_fabric
from mlip_studies.training.evaluate import predict
from mlip_studies.training.loop import TrainingResult, train_stage
from mlip_studies.training.loss import EnergyMSE
from mlip_studies.training.optimizer import OptimizerConfig
from mlip_studies.training.progress import ProgressReporter
from mlip_studies.training.schedule import PlateauConfig

STRATEGIES = ("mix", "transfer", "delta")
HIGH, LOW = 0, 1


@dataclass(frozen=True)
class Mix:
    """How many rows of each fidelity a run uses (a row of Table 3.1)."""

    train_low: int
    train_high: int
    val_low: int
    val_high: int


@dataclass(frozen=True)
class Numbers:
    """Numbers of a run's training: Adam on the mean squared energy error, the rate lowered where validation stalls.

    Attributes:
        batch_size: molecules per step.
        learning_rate: at the start.
        min_learning_rate: training stops when the rate falls below.
        plateau_factor: the rate is multiplied by this when the validation loss stalls.
        plateau_patience: validations without improvement before that.
        max_epochs: stop after so many passes over the training set.
        max_steps: stop after so many optimizer steps; None for no limit.
        steps_between_validations: validate at the end of the first epoch after at least so many steps.
        checkpoint_seconds: wall time between checkpoints of the resumable state.
        precision: ``float32`` or ``float64``.
        evaluation_batch_size: molecules per forward pass outside training.
        step_mode: see :class:`mlip_studies.training.config.TrainingConfig`.
    """

    batch_size: int = 128
    learning_rate: float = 1e-4
    min_learning_rate: float = 1e-7
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    max_epochs: int = 500
    max_steps: int | None = None
    steps_between_validations: int = 1
    checkpoint_seconds: float = 60.0
    precision: str = "float32"
    evaluation_batch_size: int = 512
    step_mode: str = "eager"

    def config(self, seed: int) -> TrainingConfig:
        """The same for the training loop."""
        return TrainingConfig(
            loss=EnergyMSE(),
            optimizer=OptimizerConfig(name="adam", learning_rate=self.learning_rate),
            plateau=PlateauConfig(self.plateau_factor, self.plateau_patience),
            batch_size=self.batch_size,
            max_steps=self.max_steps,
            max_epochs=self.max_epochs,
            min_learning_rate=self.min_learning_rate,
            evaluation=EvaluationConfig(
                min_steps=self.steps_between_validations, batch_size=self.evaluation_batch_size
            ),
            precision=self.precision,
            seed=seed,
            step_mode=self.step_mode,
            checkpoint_seconds=self.checkpoint_seconds,
        )


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines a run.

    Attributes:
        experiment: name of the experiment (data set and split).
        variant: name of the variant (model and strategy).
        mix_name: name of the mix.
        mix: its sizes.
        seed: seed of weights and data order.
        low: fidelity column of the cheap labels.
        high: fidelity column of the accurate labels.
        model: name in the model registry.
        options: options of the model.
        strategy: ``mix`` trains on both fidelities at once; ``transfer`` trains on the low-fidelity rows and then
            fine-tunes on the high-fidelity ones; ``delta`` learns the difference high minus low.
        training: numbers of the training.
        transfer: for ``transfer``: ``fraction`` of the step budget before fine-tuning, ``learning_rate_factor`` after,
            and ``freeze``, prefixes of parameter names that stay fixed then.
    """

    experiment: str
    variant: str
    mix_name: str
    mix: Mix
    seed: int
    low: str
    high: str
    model: str
    options: dict[str, Any]
    strategy: str
    training: Numbers
    transfer: dict[str, Any]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSpec:
        """Build from plain values, as the workflow passes them.

        Raises:
            InputError: unknown strategy, or a strategy that the mix cannot serve.
        """
        values = dict(values)
        spec = cls(
            mix=Mix(**values.pop("mix")), training=read_options(Numbers, values.pop("training"), "training"), **values
        )
        label = f"{spec.experiment}/{spec.variant}/{spec.mix_name}"
        if spec.strategy not in STRATEGIES:
            raise InputError(f"{label}: strategy {spec.strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if spec.mix.train_low + spec.mix.train_high == 0:
            raise InputError(f"{label}: no training rows; set train_low or train_high")
        if spec.strategy != "mix" and spec.mix.train_high == 0:
            raise InputError(f"{label}: strategy {spec.strategy} needs high-fidelity rows; set train_high above 0")
        if spec.strategy == "transfer" and (spec.mix.train_low == 0 or spec.mix.val_low == 0):
            raise InputError(f"{label}: strategy transfer needs low-fidelity rows; set train_low and val_low above 0")
        return spec


@dataclass(frozen=True)
class RunInputs:
    """Files that a run reads."""

    store: Path
    split: Path
    self_energies: Path


@dataclass(frozen=True)
class RunOutputs:
    """Files that a run writes."""

    model: Path
    history: Path
    predictions: Path
    run: Path


class _Shifts:
    """Per-element reference energies of both fidelities."""

    def __init__(self, path: Path, low: str, high: str) -> None:
        content = json.loads(require(path).read_text())["fidelities"]
        self.tables = {}
        for name, fidelity in (("low", low), ("high", high)):
            if fidelity not in content:
                raise InputError(f"{path}: no self energies for fidelity {fidelity!r}; run the regression again")
            entry = content[fidelity]
            self.tables[name] = dict(zip(entry["elements"], entry["coefficients_ev"], strict=True))

    def of(self, rows: Rows, fidelity: str) -> NDArray[np.float64]:
        """Sum of the reference energies of each row, shape (n_rows,), eV."""
        table = self.tables[fidelity]
        lookup = np.full(256, np.nan)
        lookup[list(table)] = list(table.values())
        return np.add.reduceat(lookup[rows.atomic_numbers], rows.ptr[:-1]) if len(rows) else np.empty(0)

    def for_model(self, model: AtomisticModel) -> dict[str, list[float]]:
        """Shifts ordered as ``model.elements``."""
        return {name: [float(table.get(z, 0.0)) for z in model.elements] for name, table in self.tables.items()}


def _take(split: dict[str, NDArray[np.int64]], key: str, n: int, path: Path) -> NDArray[np.int64]:
    available = len(split[key])
    if n > available:
        raise InputError(f"{path}: {n} rows of {key} asked, the split holds {available}; lower the mix's numbers")
    return split[key][:n]


def _dataset(
    spec: RunSpec,
    store: Store,
    shifts: _Shifts,
    low_rows: NDArray[np.int64],
    high_rows: NDArray[np.int64],
    device: torch.device,
    model: AtomisticModel,
    delta: bool = False,
) -> RaggedDataset:
    """Rows of both fidelities with their targets: label minus self energies, or high minus low."""
    rows = store.read(np.concatenate([low_rows, high_rows]), fidelities=(spec.low, spec.high), forces=False)
    check_elements(rows, model, spec.model, store)
    check_geometries(rows, store)
    is_low = np.arange(len(rows)) < len(low_rows)
    low = rows.energy[spec.low] - shifts.of(rows, "low")
    high = rows.energy[spec.high] - shifts.of(rows, "high")
    target = high - low if delta else np.where(is_low, low, high)
    if not np.isfinite(target).all():
        raise InputError(f"{store.path}: {np.sum(~np.isfinite(target))} chosen rows lack a label; make the split again")
    return RaggedDataset(
        rows.atomic_numbers,
        rows.positions.astype(np.float64),
        rows.ptr,
        target,
        np.where(is_low, LOW, HIGH),
        device,
        DTYPES[spec.training.precision],
        model.cutoff,
    )


def run(
    spec: RunSpec,
    inputs: RunInputs,
    outputs: RunOutputs,
    state_root: PathLike,
    device_name: str = "auto",
    threads: int = 1,
    code: str = "",
) -> None:
    """Train, test and write the outputs of one run; resumes from ``state_root`` after a kill.

    Args:
        spec: the run.
        inputs: store, split and self energies.
        outputs: files to write.
        state_root: folder for the resumable state of this run.
        device_name: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        code: hash of the code that a state must have been made with to be resumed.

    Raises:
        InputError: missing or damaged inputs, or more rows asked than exist.
    """
    started = time.perf_counter()
    torch.set_num_threads(threads)
    device = choose_device(device_name)
    fabric = launch_fabric(device)
    for path in (inputs.store, inputs.split, inputs.self_energies):
        require(path)
    with np.load(inputs.split) as content:
        split = {key: content[key] for key in content.files}
    shifts = _Shifts(inputs.self_energies, spec.low, spec.high)
    torch.manual_seed(spec.seed)
    model = build_model(spec.model, spec.options)
    model.to(DTYPES[spec.training.precision]).to(device)
    n_parameters = model.n_parameters()
    delta = spec.strategy == "delta"
    mix = spec.mix
    none = np.empty(0, dtype=np.int64)
    content = {
        "spec": asdict(spec),
        "store": sha256_of(inputs.store),
        "split": sha256_of(inputs.split),
        "self_energies": sha256_of(inputs.self_energies),
        "code": code,
        "device": device.type,
    }
    with Store(inputs.store, verify=False) as store, JobState(Path(state_root), content) as state:
        if state.started_fresh_because_changed:
            print("the configuration, data or code changed since the saved state: training from the start", flush=True)

        def data(low_rows: NDArray[np.int64], high_rows: NDArray[np.int64]) -> RaggedDataset:
            return _dataset(spec, store, shifts, low_rows, high_rows, device, model, delta)

        train_low = none if delta else _take(split, "train_low", mix.train_low, inputs.split)
        train_high = _take(split, "train_high", mix.train_high, inputs.split)
        val_low = none if delta else _take(split, "val_low", mix.val_low, inputs.split)
        val_high = _take(split, "val_high", mix.val_high, inputs.split)
        test = split["test"]
        if len(val_low) + len(val_high) == 0:
            raise InputError(f"{spec.experiment}/{spec.mix_name}: no validation rows; set val_low or val_high")
        if spec.strategy == "transfer":
            stages = [(train_low, none, val_low, none), (none, train_high, none, val_high)]
        else:
            stages = [(train_low, train_high, val_low, val_high)]
        results = []
        for index, (a, b, c, d) in enumerate(stages):
            config = _stage_config(spec, index).config(spec.seed)
            _freeze(model, spec.transfer.get("freeze", []) if index == 1 else [])
            reporter = ProgressReporter(f"{spec.mix_name} seed {spec.seed}", config)
            names = np.concatenate([a, b])
            results.append(
                train_stage(
                    fabric, model, data(a, b), data(c, d), config, state, index, reporter=reporter, row_names=names
                )
            )
        test_data = data(none, test)
        rows = store.read(test, positions=False, fidelities=(spec.low, spec.high), forces=False)
        predicted, _ = predict(model, test_data, spec.training.evaluation_batch_size)
        target = rows.energy[spec.high] - shifts.of(rows, "high")
        if delta:
            predicted = predicted + rows.energy[spec.low] - shifts.of(rows, "low")
        groups = [store.group_names[i] for i in rows.group]
        _write_history(outputs.history, results)
        _write_predictions(outputs.predictions, test, rows.n_atoms, groups, target, predicted)
        potential = Potential(model, spec.model, spec.options, shifts.for_model(model))
        potential.save(
            outputs.model, {"run": asdict(spec), "inputs": {k: v for k, v in content.items() if k != "spec"}}
        )
        summary = _summary(spec, results, n_parameters, device, len(test))
        summary["environment"] = environment(device)
        summary["code"] = code
        summary["wall_seconds"] = time.perf_counter() - started
        write_text(outputs.run, json.dumps(summary, indent=1))
        state.remove()


def _stage_config(spec: RunSpec, index: int) -> Numbers:
    """The share of the budget that a stage gets."""
    config = spec.training
    if spec.strategy != "transfer":
        return config
    fraction = float(spec.transfer.get("fraction", 0.5))
    share = fraction if index == 0 else 1.0 - fraction
    factor = 1.0 if index == 0 else float(spec.transfer.get("learning_rate_factor", 1.0))
    return replace(
        config,
        max_steps=None if config.max_steps is None else max(1, round(config.max_steps * share)),
        max_epochs=max(1, round(config.max_epochs * share)),
        learning_rate=config.learning_rate * factor,
    )


def _freeze(model: AtomisticModel, prefixes: list[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(name.startswith(prefix) for prefix in prefixes))


def _write_history(path: Path, results: list[TrainingResult]) -> None:
    """History of all stages, epochs and steps counted on."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        columns = ["epoch", "step", "seconds", "learning_rate", "train_rmse_ev", "val_rmse_ev"]
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        offset = {"epoch": 0, "step": 0, "seconds": 0.0}
        names = {"train_rmse_ev": "train_energy_rmse_ev", "val_rmse_ev": "validation_energy_rmse_ev"}
        for result in results:
            for entry in result.history:
                writer.writerow({key: entry[names.get(key, key)] + offset.get(key, 0) for key in columns})
            offset["epoch"] += result.epochs
            offset["step"] += result.steps
            offset["seconds"] += result.train_seconds


def _write_predictions(
    path: Path,
    rows: NDArray[np.int64],
    n_atoms: NDArray[np.int64],
    groups: list[str],
    target: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "n_atoms", "group", "target_ev", "predicted_ev"])
        for line in zip(rows.tolist(), n_atoms.tolist(), groups, target.tolist(), predicted.tolist(), strict=True):
            writer.writerow(line)


def _summary(
    spec: RunSpec, results: list[TrainingResult], n_parameters: int, device: torch.device, n_test: int
) -> dict[str, Any]:
    mix = spec.mix
    delta = spec.strategy == "delta"
    return {
        "experiment": spec.experiment,
        "variant": spec.variant,
        "mix": spec.mix_name,
        "seed": spec.seed,
        "n_train_low": 0 if delta else mix.train_low,
        "n_train_high": mix.train_high,
        "n_val_low": 0 if delta else mix.val_low,
        "n_val_high": mix.val_high,
        "n_test": n_test,
        "epochs": sum(r.epochs for r in results),
        "steps": sum(r.steps for r in results),
        "seconds_per_epoch": float(np.median(results[-1].epoch_seconds)),
        "train_seconds": sum(r.train_seconds for r in results),
        "best_val_rmse_ev": min(entry["validation_energy_rmse_ev"] for entry in results[-1].history),
        "final_train_rmse_ev": results[-1].history[-1]["train_energy_rmse_ev"],
        "n_parameters": n_parameters,
        "device": device.type,
        "stopped_by": results[-1].stopped_by,
        # Of the last stage that was resumed: those before it were at their ends.
        "resumed_from_step": next((r.resumed_from_step for r in reversed(results) if r.resumed_from_step), 0),
        "strategy": spec.strategy,
        "model": spec.model,
        "process_id": os.getpid(),
    }
