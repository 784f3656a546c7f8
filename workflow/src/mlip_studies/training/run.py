"""One training run from a configuration (a YAML file or the workflow) to its output files.

A configuration looks like this; paths are relative to the working directory::

    store: results/full/data/qm7x/store.h5
    split: results/full/stocker/split.npz
    train_size: 32000          # one of the split's nested training sets; its largest if not given
    fidelity: pbe0_mbd
    self_energies: results/full/data/qm7x/self_energies.json
    shift: per_element         # none | mean | mean_padded | per_element
    scale: none                # none | std
    train_predictions: false   # whether predictions.npz also has the energies of the training rows
    model: {name: gemnet_t, options: {}}
    training: {recipe: gemnet, max_steps: 300000}
    seed: 1
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of, write_text
from mlip_studies.data.named_splits import load_named_split
from mlip_studies.data.store import Rows, Store
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model
from mlip_studies.runtime.command import COMPUTE_OPTIONS, read_command_line
from mlip_studies.runtime.options import read_options, read_options_file
from mlip_studies.runtime.state import JobState, disk_errors
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.data import DTYPES, EnergyReference, build_dataset, fit_reference
from mlip_studies.training.device import choose_device, environment, launch_fabric
from mlip_studies.training.evaluate import error_summary, predict
from mlip_studies.training.loop import TrainingResult, train_stage
from mlip_studies.training.loss import LOSSES, plain
from mlip_studies.training.metrics import MetricsLog
from mlip_studies.training.progress import ProgressReporter

PARTS = ("train", "val", "test")
# Of more training rows than this, so many are drawn to state the training error.
MOST_TRAINING_ROWS = 20_000


@dataclass(frozen=True)
class ModelConfig:
    """Which model: its name in the catalog, and options of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run.

    Attributes:
        store: the data.
        split: file of a named split; or row numbers of the store as a mapping ``train``, ``val``, ``test``.
        fidelity: column of energies and forces.
        model: what to train.
        training: how.
        train_size: which of the split's nested training sets (and the validation set that goes with it).
        self_energies: JSON file of per-element energies, for shift ``per_element`` or ``isolated_atoms``.
        shift: see :func:`mlip_studies.training.data.fit_reference`.
        scale: ``none``; ``std`` divides energies and forces by the spread of the training energies.
        force_fidelity: column of the forces where it is not that of the energies (the same forces go with every energy
            that differs by constants only); None: that of the energies.
        train_predictions: whether the energies of the training rows are predicted as well.
        seed: of the weights and, unless ``training`` has its own, of the order of the data.
        label: name for the eyes.
    """

    store: str
    split: Any
    fidelity: str
    model: ModelConfig
    training: TrainingConfig
    train_size: int | None = None
    self_energies: str | None = None
    shift: str = "none"
    scale: str = "none"
    force_fidelity: str | None = None
    train_predictions: bool = False
    seed: int = 0
    label: str = "training"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from plain values.

        Raises:
            InputError: an unknown or missing key, or a value of another type.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"run: expected a mapping of options, found {values!r}")
        merged = dict(values)
        training = merged.get("training", {})
        if isinstance(training, Mapping):
            merged["training"] = TrainingConfig.from_dict({"seed": merged.get("seed", 0), **training})
        if isinstance(merged.get("model"), str):
            merged["model"] = {"name": merged["model"]}
        return read_options(cls, merged, "run")

    @classmethod
    def from_yaml(cls, path: PathLike) -> RunConfig:
        """Read a YAML file.

        Raises:
            InputError: no such file, not YAML, or a wrong key in it.
        """
        return read_options_file(cls.from_dict, path)

    @property
    def forces_of(self) -> str:
        """Column of the forces."""
        return self.force_fidelity or self.fidelity

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "model": {"name": self.model.name, "options": self.model.options},
            "training": self.training.to_dict(),
        }


@dataclass(frozen=True)
class RunOutputs:
    """Files that a run writes."""

    model: Path
    metrics: Path
    history: Path
    predictions: Path
    run: Path

    @classmethod
    def in_folder(cls, folder: PathLike) -> RunOutputs:
        """The usual names in a folder."""
        folder = Path(folder)
        names = ("model.safetensors", "metrics.jsonl", "history.csv", "predictions.npz", "run.json")
        return cls(*(folder / name for name in names))


def split_rows(config: RunConfig, store: Store) -> dict[str, NDArray[np.int64]]:
    """Rows of the parts ``train``, ``val`` and ``test``, each of shape (n,).

    Raises:
        InputError: no such split or size, rows that the store does not have, or no training rows.
    """
    if isinstance(config.split, Mapping):
        unknown = set(config.split) - set(PARTS)
        if unknown:
            raise InputError(f"split: unknown part {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
        rows = {part: np.asarray(config.split.get(part, ()), dtype=np.int64).reshape(-1) for part in PARTS}
        if config.train_size is not None:
            rows["train"] = rows["train"][: config.train_size]
        for part, values in rows.items():
            if len(values) and (values.min() < 0 or values.max() >= store.n_rows):
                raise InputError(f"split.{part}: rows beyond the {store.n_rows} of {store.path}; choose others")
    else:
        split = load_named_split(config.split, store)
        rows = {
            "train": split.train_rows(config.train_size),
            "val": split.val_rows_for(config.train_size),
            "test": split.test,
        }
    if len(rows["train"]) == 0:
        raise InputError("split: no training rows; choose another split")
    return rows


def check_force_labels(config: RunConfig, store: Store) -> None:
    """Make sure that the store of a run whose loss needs forces has some.

    Raises:
        InputError: it has not, as ANI-1, which was published without forces.
    """
    if config.forces_of in store.force_fidelities:
        return
    having = ", ".join(store.force_fidelities)
    loss = plain(LOSSES, config.training.loss)["name"]
    advice = f"set force_fidelity to one that has some ({having})" if having else "choose a data set with forces"
    raise InputError(
        f"{store.path}: no forces of fidelity {config.forces_of!r} (key 'forces/{config.forces_of}'), which "
        f"training.loss {loss!r} needs; train on energies with training.loss energy_mse, or {advice}"
    )


def run_training(
    config: RunConfig,
    outputs: RunOutputs,
    state_root: PathLike,
    device_name: str = "auto",
    threads: int | None = None,
    code: str = "",
) -> dict[str, Any] | None:
    """Train, predict the test rows and write the outputs of one run; resumes from ``state_root`` after a kill.

    Started by torchrun or srun in several processes, all train together, and the first one writes.

    Args:
        config: the run.
        outputs: files to write.
        state_root: folder for the resumable state of this run.
        device_name: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None: as torch chooses.
        code: hash of the code that a state must have been made with to be resumed.

    Returns:
        the content of ``run.json``; None in processes other than the first.

    Raises:
        InputError: missing or damaged inputs, a training that diverges, or a full disk.
        Requeue: the job was told to stop; the state is saved.
    """
    started = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device_name)
    fabric = launch_fabric(device)
    device = fabric.device
    is_first = fabric.global_rank == 0
    inputs = {"store": config.store}
    if not isinstance(config.split, Mapping):
        inputs["split"] = config.split
    if config.shift == "per_element" and config.self_energies is not None:
        inputs["self_energies"] = config.self_energies
    for path in inputs.values():
        require(path)
    hashes = {name: sha256_of(path) for name, path in inputs.items()}
    torch.manual_seed(config.seed)
    model = build_model(config.model.name, config.model.options)
    model.to(DTYPES[config.training.precision]).to(device)
    n_parameters = model.n_parameters()
    forces = config.training.loss.needs_forces
    # Paths may move; what they hold counts.
    content = {
        "config": {key: value for key, value in config.to_dict().items() if key not in inputs and key != "label"},
        "inputs": hashes,
        "code": code,
        "device": device.type,
        "processes": fabric.world_size,
    }
    holder = JobState(Path(state_root), content) if is_first else nullcontext(None)
    with (
        disk_errors(outputs.run.parent, "the finished training is kept"),
        Store(config.store, verify=False) as store,
        holder as state,
    ):
        if state is not None and state.started_fresh_because_changed:
            print("the configuration, data or code changed since the saved state: training from the start", flush=True)
        rows = split_rows(config, store)
        reference = fit_reference(
            store,
            config.fidelity,
            rows["train"],
            np.concatenate(list(rows.values())),
            config.shift,
            config.scale,
            config.self_energies,
            model.elements,
        )
        for warning in reference.warnings if is_first else ():
            print(f"warning: {warning}", flush=True)
        if forces:
            check_force_labels(config, store)

        def data(part: str) -> RaggedDataset:
            return build_dataset(
                store,
                rows[part],
                config.fidelity,
                reference,
                model,
                config.model.name,
                device,
                config.training.precision,
                forces,
                config.training.max_edges,
                config.forces_of,
            )

        train, validation = data("train"), data("val")
        if config.model.options.get("scale_factors") == "unset":
            _fit_scale_factors(model, validation if len(validation) else train, config.seed)
        metrics = MetricsLog(state.folder / "metrics.jsonl", config.training.tensorboard) if state is not None else None
        reporter = ProgressReporter(config.label, config.training) if is_first else None
        try:
            result = train_stage(
                fabric,
                model,
                train,
                validation,
                config.training,
                state,
                0,
                metrics,
                reporter,
                reference.scale,
                rows["train"],
            )
        finally:
            if metrics is not None:
                metrics.close()
        if fabric.world_size > 1:
            torch.distributed.destroy_process_group()
        if state is None or metrics is None:
            return None
        elements = tuple(z for z in model.elements if bool((train.atomic_numbers == z).any()))
        errors = _fit_errors(config, model, store, rows, {"train": train, "val": validation}, reference)
        del validation
        extra: dict[str, NDArray[Any]] = {}
        if config.train_predictions:
            learnt = store.read(rows["train"], positions=False, fidelities=(config.fidelity,), forces=False)
            energy, _ = predict(model, train, config.training.evaluation.batch_size)
            extra = {
                "train_rows": learnt.rows,
                "train_ptr": learnt.ptr,
                "train_atomic_numbers": learnt.atomic_numbers,
                "train_energy_label_ev": learnt.energy[config.fidelity],
                "train_energy_predicted_ev": reference.predicted(energy, learnt),
            }
        del train
        test = store.read(
            rows["test"],
            positions=False,
            fidelities=(config.fidelity,),
            forces=(config.forces_of,) if forces else False,
        )
        test_errors = _write_predictions(config, model, data("test"), test, reference, outputs.predictions, extra)
        _write_history(outputs.history, result.history)
        _copy_metrics(metrics, outputs.metrics)
        shifts = reference.for_model(elements)
        potential = Potential(
            model,
            config.model.name,
            config.model.options,
            {"high": shifts, "low": shifts},
            reference.scale,
            reference.constant,
            elements,
        )
        potential.save(outputs.model, {"run": config.to_dict(), "inputs": hashes, "code": code})
        summary = {
            "label": config.label,
            "config": config.to_dict(),
            "inputs": hashes,
            "code": code,
            "reference": reference.describe(),
            "warnings": list(reference.warnings),
            "n_train": len(rows["train"]),
            "n_val": len(rows["val"]),
            "n_test": len(rows["test"]),
            "n_parameters": n_parameters,
            "test": test_errors,
            "errors": errors,
            "device": device.type,
            **costs(result, device, fabric.world_size, time.perf_counter() - started),
            "environment": environment(device),
        }
        write_text(outputs.run, json.dumps(summary, indent=1))
        state.remove()
    return summary


def costs(result: TrainingResult, device: torch.device, processes: int, wall_seconds: float) -> dict[str, Any]:
    """What a training took, over all its jobs where it was resumed, and how it went; JSON-ready.

    Args:
        result: of the training.
        device: kind of device.
        processes: how many worked together.
        wall_seconds: of this job.
    """
    work = result.train_seconds + result.evaluation_seconds
    return {
        "stopped_by": result.stopped_by,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_value": result.best_value,
        "best_step": result.best_step,
        "resumed_from_step": result.resumed_from_step,
        "jobs": result.jobs,
        "processes": processes,
        "wall_seconds": wall_seconds,
        "train_seconds": result.train_seconds,
        "evaluation_seconds": result.evaluation_seconds,
        "seconds_per_epoch": float(np.median(result.epoch_seconds)),
        "configurations_per_second": result.configurations / result.train_seconds if result.train_seconds else None,
        "gpu_hours": max(wall_seconds, work) * processes / 3600 if device.type == "cuda" else 0.0,
        "process_id": os.getpid(),
    }


def _fit_scale_factors(model: Any, data: RaggedDataset, seed: int) -> None:
    """Fit GemNet's scale factors before training: 25 batches of 32 molecules, as its authors do."""
    # By name, so that other models' runs do not depend on that code.
    fit = importlib.import_module("mlip_studies.models.gemnet_scaling").fit_scale_factors
    rng = np.random.default_rng(seed)
    fit(model, [data.batch(rng.choice(len(data), min(32, len(data)), replace=False))[0] for _ in range(25)])


def _fit_errors(
    config: RunConfig,
    model: Any,
    store: Store,
    rows: Mapping[str, NDArray[np.int64]],
    data: Mapping[str, RaggedDataset],
    reference: EnergyReference,
) -> dict[str, dict[str, float | None]]:
    """Errors of the final weights on training rows, at most :data:`MOST_TRAINING_ROWS` drawn by seed, and on others.

    Energies are those that a user gets (eV), as on the test rows; ``n_rows`` says how many rows were used.
    """
    result = {}
    for part, dataset in data.items():
        chosen = np.arange(len(dataset))
        if len(chosen) > MOST_TRAINING_ROWS and part == "train":
            chosen = np.sort(np.random.default_rng([config.seed, 1]).choice(len(chosen), MOST_TRAINING_ROWS, False))
        forces = dataset.forces is not None
        labels = store.read(
            rows[part][chosen],
            positions=False,
            fidelities=(config.fidelity,),
            forces=(config.forces_of,) if forces else False,
        )
        energy, force = predict(model, dataset, config.training.evaluation.batch_size, forces, chosen)
        error = reference.predicted(energy, labels) - labels.energy[config.fidelity]
        residual = None if force is None else force * reference.scale - labels.forces[config.forces_of]
        result[part] = {"n_rows": len(chosen), **error_summary(error, labels.n_atoms, residual)}
    return result


def _write_predictions(
    config: RunConfig,
    model: Any,
    data: RaggedDataset,
    rows: Rows,
    reference: EnergyReference,
    path: Path,
    extra: Mapping[str, Any],
) -> dict[str, float | None]:
    """Total energies and forces of the test rows beside their labels, as arrays; returns the errors."""
    forces_wanted = data.forces is not None
    energy, forces = predict(model, data, config.training.evaluation.batch_size, forces_wanted)
    predicted, label = reference.predicted(energy, rows), rows.energy[config.fidelity]
    arrays: dict[str, Any] = {
        "rows": rows.rows,
        "ptr": rows.ptr,
        "group": rows.group,
        "atomic_numbers": rows.atomic_numbers,
        "energy_label_ev": label,
        "energy_predicted_ev": predicted,
    }
    residual = None
    if forces is not None:
        forces_ev = forces * reference.scale
        arrays["forces_label_ev_per_angstrom"] = rows.forces[config.forces_of]
        arrays["forces_predicted_ev_per_angstrom"] = forces_ev.astype(np.float32)
        residual = forces_ev - rows.forces[config.forces_of]
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays, **extra)
    return error_summary(predicted - label, rows.n_atoms, residual)


def _write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """One line per evaluation."""
    columns = list(dict.fromkeys(key for entry in history for key in entry))
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(history)


def _copy_metrics(metrics: MetricsLog, path: Path) -> None:
    """The lines up to the last checkpoint, under the output's name."""
    content = metrics.path.read_bytes()[: metrics.position] if metrics.path.exists() else b""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def main_train(arguments: Sequence[str] | None = None) -> int:
    """``train run.yaml [--output DIR]``: train one model outside the workflow; returns the exit status.

    Args:
        arguments: command line without the program's name.

    Raises:
        InputError: see :func:`run_training`.
    """
    options = read_command_line("train", "Train one model.", arguments, COMPUTE_OPTIONS)
    config, output = RunConfig.from_yaml(options.config), options.output
    summary = run_training(config, RunOutputs.in_folder(output), output / ".state", options.device, options.threads)
    if summary is not None:
        test = ", ".join(f"{name} {value:.4g}" for name, value in summary["test"].items() if value is not None)
        print(
            f"{output}: {summary['steps']} steps in {summary['train_seconds']:.0f} s, ended by {summary['stopped_by']}"
            + (f"; test {test}" if test else "")
        )
    return 0
