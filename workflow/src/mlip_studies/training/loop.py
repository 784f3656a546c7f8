"""The training loop of all models: schedules, evaluation, early stop, metrics, and a state that survives a kill.

The data of a step depend only on (seed, stage, step), and everything that changes is in the checkpoint, so a run that
was killed and resumed takes the same steps as one that was not: on a CPU its weights are equal bit by bit.

Between looks at the device (every ``check_steps`` steps, and where a checkpoint, an evaluation or a line of metrics is
due) the host only queues work: the numbers of each step wait in a small table on the device.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.runtime.state import JobState, Requeue, StopRequest
from mlip_studies.training.checkpoint import Checkpoints, all_finite, describe_model
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.device import sum_over_processes
from mlip_studies.training.ema import EMA
from mlip_studies.training.evaluate import evaluate, measures_in_ev, with_units
from mlip_studies.training.metrics import MetricsLog
from mlip_studies.training.optimizer import make_optimizer, set_learning_rate
from mlip_studies.training.progress import ProgressReporter
from mlip_studies.training.schedule import Plateau
from mlip_studies.training.steps import Step, make_step

_SHOWN_ROWS = 32


@dataclass
class TrainingResult:
    """What a stage of training leaves behind.

    Attributes:
        history: one dictionary per evaluation: ``epoch``, ``step``, ``seconds``, ``learning_rate``, ``grad_norm``, and
            the measures with ``train_`` (mean over the steps since the evaluation before) and ``validation_`` in front.
        epoch_seconds: training time of each complete epoch.
        best_value: best monitored validation error, None without validation.
        best_step: step that it belongs to.
        steps: optimizer steps.
        epochs: complete passes over the training set.
        train_seconds: time spent in steps, over all jobs.
        evaluation_seconds: time spent in evaluations, over all jobs.
        configurations: molecules that were trained on, repeats counted.
        stopped_by: ``step budget``, ``epoch limit``, ``learning rate`` or ``early stop``.
        resumed_from_step: step of the checkpoint that the last job began with; 0 for none.
        jobs: number of jobs that the training took.
    """

    history: list[dict[str, float]]
    epoch_seconds: list[float]
    best_value: float | None
    best_step: int
    steps: int
    epochs: int
    train_seconds: float
    evaluation_seconds: float
    configurations: int
    stopped_by: str
    resumed_from_step: int
    jobs: int


@dataclass
class _Progress:
    """Everything that changes during training, besides tensors and the plateau."""

    step: int = 0
    evaluated_step: int = 0
    logged_step: int = 0
    seconds: float = 0.0
    logged_seconds: float = 0.0
    epoch_start_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    configurations: int = 0
    best: float | None = None
    best_step: int = 0
    bad_evaluations: int = 0
    stopped_by: str | None = None
    jobs: int = 0
    metrics_position: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    window: dict[str, list[float]] = field(default_factory=dict)
    line: dict[str, list[float]] = field(default_factory=dict)


class Recorder:
    """Collects the numbers of the steps on the device and hands them to the host a table at a time."""

    def __init__(self, device: torch.device, size: int, fabric: Any) -> None:
        """Make room for ``size`` steps between looks."""
        self._device, self._size, self._fabric = device, size, fabric
        self._names: list[str] = []
        self._table: Tensor | None = None
        self._steps: list[tuple[int, int, int]] = []

    @property
    def is_full(self) -> bool:
        """Whether no further step has room."""
        return len(self._steps) >= self._size

    def add(self, step: int, numbers: dict[str, Tensor], n_graphs: int, n_atoms: int) -> None:
        """Take the numbers of a step, scalars, without waiting for them."""
        if self._table is None:
            self._names = list(numbers)
            self._table = torch.zeros(self._size, len(self._names), dtype=torch.float64, device=self._device)
        values = torch.stack([numbers[name].double() for name in self._names])
        self._table[len(self._steps)].copy_(values)
        self._steps.append((step, n_graphs, n_atoms))

    def take(self) -> list[tuple[int, dict[str, float], int, int]]:
        """Wait for the device; (step, numbers, molecules, atoms) of the steps since the last look."""
        if self._table is None or not self._steps:
            return []
        table = self._table[: len(self._steps)].clone()
        world = 1 if self._fabric is None else self._fabric.world_size
        if world > 1:
            # Each process has its part of every sum; the norm of the gradient is the same everywhere.
            table[:, self._names.index("grad_norm")] /= world
            sum_over_processes(self._fabric, table)
        rows = table.tolist()
        taken = [
            (step, dict(zip(self._names, row, strict=True)), n_graphs, n_atoms)
            for (step, n_graphs, n_atoms), row in zip(self._steps, rows, strict=True)
        ]
        self._steps = []
        return taken


def _add(sums: dict[str, list[float]], numbers: dict[str, float], n_graphs: int, n_atoms: int) -> None:
    """Add a step's means, weighted by what they are means over."""
    for name, value in numbers.items():
        weight = n_atoms if name.startswith("force_") else 1 if name == "grad_norm" else n_graphs
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[0] += value * weight
        entry[1] += weight


def _means(sums: dict[str, list[float]]) -> dict[str, float]:
    return {name: total / weight for name, (total, weight) in sums.items()}


class Trainer:
    """One stage of training; see :func:`train_stage`. ``row_names`` are the rows' numbers in the store, (n_train,)."""

    def __init__(
        self,
        fabric: Any,
        model: AtomisticModel,
        train: RaggedDataset,
        validation: RaggedDataset | None,
        config: TrainingConfig,
        state: JobState | None,
        stage: int,
        metrics: MetricsLog | None,
        reporter: ProgressReporter | None,
        scale: float,
        row_names: NDArray[np.integer] | None,
    ) -> None:
        if len(train) == 0:
            raise InputError("training: the training set is empty; choose another split or size")
        for name, data in (("training", train), ("validation", validation)):
            if config.loss.needs_forces and data is not None and len(data) and data.forces is None:
                raise InputError(f"training: the loss needs forces, but the {name} set has none; use an energy loss")
        self.fabric, self.model, self.train, self.config = fabric, model, train, config
        self.validation = validation if validation is not None and len(validation) else None
        self.stage, self.metrics, self.reporter = stage, metrics, reporter
        self.scale, self.row_names, self.state = scale, row_names, state
        self.is_first = fabric.global_rank == 0
        self.world = fabric.world_size
        self.size = config.molecules_per_step(len(train))
        self.n_batches = math.ceil(len(train) / self.size)
        self.optimizer = make_optimizer(model, config.optimizer)
        self.plateau = None if config.plateau is None else Plateau(config.plateau)
        self.ema = None if config.ema_decay is None else EMA(model, config.ema_decay)
        self.checkpoints = (
            Checkpoints(state.folder, f"stage{stage}", describe_model(model)) if state is not None else None
        )
        self.recorder = Recorder(train.device, config.check_steps, fabric)
        self.progress = _Progress()
        self.best_weights: dict[str, Tensor] | None = None
        self.resumed_from = 0
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._started = 0.0
        self._last_save = time.monotonic()
        if (config.early_stop is not None or config.plateau is not None) and self.validation is None:
            raise InputError("training: early_stop and plateau need validation rows; there are none")
        if config.loss.needs_forces is False and config.evaluation.monitor.startswith("force"):
            raise InputError(
                f"training.evaluation.monitor: {config.evaluation.monitor} needs a loss with forces; choose another"
            )

    # ---- what a step is made of ----

    def rows(self, step: int) -> NDArray[np.int64]:
        """Rows of the batch of a step, shape (n_graphs,)."""
        epoch, number = divmod(step, self.n_batches)
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self.config.seed, self.stage, epoch]).permutation(len(self.train))
            self._order = (epoch, order)
        return self._order[1][number * self.size : (number + 1) * self.size]

    def learning_rate(self, step: int) -> float:
        """Rate of a step."""
        plateau = 1.0 if self.plateau is None else self.plateau.factor
        return self.config.optimizer.learning_rate * self.config.schedule.factor(step) * plateau

    def end(self) -> str | None:
        """Why training ends here, or None."""
        config, step = self.config, self.progress.step
        if config.max_steps is not None and step >= config.max_steps:
            return "step budget"
        if config.max_epochs is not None and step >= config.max_epochs * self.n_batches:
            return "epoch limit"
        # Rates are compared with some room for rounding: 1e-3 halved is not below 5e-4.
        lowest = config.min_learning_rate
        rising = step < config.schedule.rising_steps
        if lowest is not None and not rising and self.learning_rate(step) < lowest * (1.0 - 1e-9):
            return "learning rate"
        if config.early_stop is not None and self.progress.bad_evaluations > config.early_stop:
            return "early stop"
        return None

    def evaluation_is_due(self) -> bool:
        """Whether the cadence asks for an evaluation after the present step."""
        cadence, since = self.config.evaluation, self.progress.step - self.progress.evaluated_step
        if cadence.every_steps is not None:
            return since >= cadence.every_steps
        at_end_of_epoch = self.progress.step % self.n_batches == 0
        return at_end_of_epoch and since >= max(cadence.min_steps, cadence.every_epochs * self.n_batches)

    # ---- the loop ----

    def run(self) -> TrainingResult:
        """Train to the end."""
        self._restore()
        progress, config = self.progress, self.config
        if progress.stopped_by is not None:
            return self._result()
        progress.jobs += 1
        step: Step = make_step(config, self.model, self.train, self.optimizer, self.ema, self.fabric)
        self.model.train()
        with ExitStack() as stack:
            request = stack.enter_context(StopRequest())
            if self.reporter is not None:
                stack.enter_context(self.reporter)
            self._started = time.perf_counter()
            if self.is_first and self.checkpoints is not None and self.checkpoints.saved_step is None:
                self._save()
            while (ended := self.end()) is None:
                rows = self.rows(progress.step)
                set_learning_rate(self.optimizer, self.learning_rate(progress.step))
                numbers = step(rows)
                progress.step += 1
                self.recorder.add(progress.step, numbers, len(rows), int(self.train.counts[rows].sum()))
                self._after_step(request)
            if progress.evaluated_step != progress.step:
                self._evaluate()
            else:
                self._look()
            progress.stopped_by = ended
            self._save()
        return self._result()

    def _after_step(self, request: StopRequest) -> None:
        progress, config = self.progress, self.config
        if self.recorder.is_full:
            self._look()
        if progress.step % self.n_batches == 0:
            self._look()
            progress.epoch_seconds.append(progress.seconds - progress.epoch_start_seconds)
            progress.epoch_start_seconds = progress.seconds
        if progress.step - progress.logged_step >= config.log_steps:
            self._log_line()
        improved = self._evaluate() if self.evaluation_is_due() else False
        if self.reporter is not None:
            self.reporter.step(progress.step)
        wanted, due = request.name is not None, time.monotonic() - self._last_save > config.checkpoint_seconds
        if self.world > 1:
            if progress.step % config.check_steps and not improved:
                return
            # All processes decide alike: one that was told to stop stops all, and the first one's clock counts.
            decision = torch.tensor([float(wanted), float(due and self.is_first)], device=self.train.device)
            wanted, due = (bool(value) for value in sum_over_processes(self.fabric, decision).tolist())
        if wanted or due or improved:
            self._save()
        if wanted:
            if self.is_first:
                kept = "checkpoint saved" if self.checkpoints is not None else "no checkpoint folder"
                print(
                    f"{request.name or 'signal to another process'} received: {kept} at step {progress.step}; "
                    "run again to go on",
                    flush=True,
                )
            raise Requeue

    def _tick(self) -> None:
        """Count the time since the last look as training time."""
        now = time.perf_counter()
        self.progress.seconds += now - self._started
        self._started = now

    def _look(self) -> None:
        """Wait for the device, take the numbers of the steps, stop if they are not good."""
        for step, numbers, n_graphs, n_atoms in self.recorder.take():
            self._check(step, numbers)
            self.progress.configurations += n_graphs
            _add(self.progress.window, numbers, n_graphs, n_atoms)
            _add(self.progress.line, numbers, n_graphs, n_atoms)
        self._tick()

    def _check(self, step: int, numbers: dict[str, float]) -> None:
        limit = self.config.max_gradient_norm
        loss, norm = numbers["loss"], numbers["grad_norm"]
        if math.isfinite(loss) and math.isfinite(norm) and (limit is None or norm <= limit):
            return
        if math.isfinite(loss) and math.isfinite(norm):
            what = f"the norm of the gradient is {norm:.3g}, above max_gradient_norm {limit:g},"
        else:
            what = f"the loss is {loss:.3g} and the norm of its gradient {norm:.3g}"
        rows = self.rows(step - 1)
        names = rows if self.row_names is None else self.row_names[rows]
        shown = ", ".join(map(str, names[:_SHOWN_ROWS].tolist()))
        more = f" and {len(names) - _SHOWN_ROWS} more" if len(names) > _SHOWN_ROWS else ""
        where, saved = "", self.checkpoints
        if saved is not None and saved.saved_step is not None:
            where = f"; the checkpoint of step {saved.saved_step} is kept in {saved.folder}"
        raise InputError(
            f"training stopped: {what} at step {step}, with rows {shown}{more}{where}; look at these rows, lower the "
            "learning rate or set clip_norm"
        )

    def _log_line(self) -> None:
        """One line of metrics about the steps since the last one."""
        self._look()
        progress = self.progress
        if progress.line:
            elapsed = progress.seconds - progress.logged_seconds
            self._write("train", _means(progress.line), elapsed)
        progress.line, progress.logged_step, progress.logged_seconds = {}, progress.step, progress.seconds

    def _write(self, split: str, means: dict[str, float], elapsed: float | None = None) -> None:
        """A record for the file of metrics and for the eyes."""
        progress = self.progress
        n_graphs = progress.line["loss"][1] if split == "train" else 0.0
        record: dict[str, Any] = {
            "split": split,
            "stage": self.stage,
            "step": progress.step,
            "epoch": progress.step // self.n_batches,
            "seconds": round(progress.seconds, 3),
            "learning_rate": self.learning_rate(max(progress.step - 1, 0)),
        }
        if split == "train":
            record |= with_units(measures_in_ev(means, self.scale))
            record["grad_norm"] = means["grad_norm"]
            record["configurations_per_second"] = n_graphs / elapsed if elapsed else None
        else:
            record |= with_units(means)
        if self.metrics is not None and self.is_first:
            self.metrics.write(record)
        if self.reporter is not None:
            self.reporter.record(record)

    def _evaluate(self) -> bool:
        """Measure the validation errors, adapt the learning rate, keep the best weights; whether they are new."""
        self._log_line()
        progress, config = self.progress, self.config
        learning_rate = self.learning_rate(max(progress.step - 1, 0))
        started = time.perf_counter()
        measured: dict[str, float] = {}
        if self.validation is not None:
            with self.ema.applied() if self.ema is not None else nullcontext():
                measured = evaluate(
                    self.model, self.validation, config.loss, config.evaluation.batch_size, self.scale, self.fabric
                )
        window = _means(progress.window)
        entry = {
            "epoch": progress.step // self.n_batches,
            "step": progress.step,
            "seconds": progress.seconds,
            "learning_rate": learning_rate,
            "grad_norm": window.get("grad_norm", math.nan),
        }
        entry |= {f"train_{name}": value for name, value in with_units(measures_in_ev(window, self.scale)).items()}
        entry |= {f"validation_{name}": value for name, value in with_units(measured).items()}
        progress.history.append(entry)
        progress.window, progress.evaluated_step = {}, progress.step
        if measured:
            self._write("validation", measured)
        improved = self._judge(measured) if measured else False
        now = time.perf_counter()
        progress.evaluation_seconds += now - started
        self._started = now
        return improved

    def _judge(self, measured: dict[str, float]) -> bool:
        progress = self.progress
        value = measured[self.config.evaluation.monitor]
        if not math.isfinite(value):
            kept = self.checkpoints.saved_step if self.checkpoints is not None else None
            raise InputError(
                f"training stopped: the validation error is {value} at step {progress.step}"
                + (f"; the checkpoint of step {kept} is kept" if kept is not None else "")
                + "; lower the learning rate or look at the validation rows"
            )
        if self.plateau is not None:
            self.plateau.update(value)
        if progress.best is not None and value >= progress.best:
            progress.bad_evaluations += 1
            return False
        progress.best, progress.best_step, progress.bad_evaluations = value, progress.step, 0
        with self.ema.applied() if self.ema is not None else nullcontext():
            self.best_weights = _copy(self.model.state_dict())
        return True

    # ---- state ----

    def _save(self) -> None:
        """Write a checkpoint, unless a weight is not finite."""
        self._look()
        self._last_save = time.monotonic()
        if self.state is not None:
            self.state.check()
        if self.checkpoints is None or not self.is_first:
            return
        payload: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        if not all_finite(payload):
            kept = self.checkpoints.saved_step
            raise InputError(
                f"training stopped: weights are not finite after step {self.progress.step}; the checkpoint of step "
                f"{kept} is kept; lower the learning rate or set clip_norm"
            )
        if self.metrics is not None:
            self.progress.metrics_position = self.metrics.position
        payload |= {
            "plateau": None if self.plateau is None else self.plateau.state_dict(),
            "best": self.best_weights,
            "progress": asdict(self.progress),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.train.device.type == "cuda" else None,
        }
        self.checkpoints.save(payload, self.progress.step)
        # Writing is no training time.
        self._started = time.perf_counter()

    def _restore(self) -> None:
        """Go on from the newest intact checkpoint, if there is one."""
        payload = None
        if self.checkpoints is not None and self.is_first:
            self.checkpoints.sweep()
            payload = self.checkpoints.load()
        if self.world > 1:
            payload = self.fabric.broadcast(payload)
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
            if self.ema is not None and payload is None:
                self.ema = EMA(self.model, self.ema.decay)
        if payload is None:
            return
        device = self.train.device
        self.model.load_state_dict(payload["model"])
        self.optimizer.load_state_dict(payload["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(payload["ema"])
        if self.plateau is not None:
            self.plateau.load_state_dict(payload["plateau"])
        if payload["best"] is not None:
            self.best_weights = {name: value.to(device) for name, value in payload["best"].items()}
        self.progress = _Progress(**payload["progress"])
        torch.set_rng_state(payload["random"])
        if payload["random_cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(payload["random_cuda"])
        if self.metrics is not None:
            self.metrics.resume(self.progress.metrics_position)
        # Also where only the end was left to do: a job that was ended while it wrote its results.
        self.resumed_from = self.progress.step
        if self.is_first and self.progress.stopped_by is None:
            epoch = self.progress.step // self.n_batches
            print(f"resuming stage {self.stage} at step {self.progress.step} (epoch {epoch})", flush=True)

    def _result(self) -> TrainingResult:
        """The result; the model gets its final weights."""
        progress = self.progress
        assert progress.stopped_by is not None
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif self.ema is not None:
            averaged = self.ema.state_dict()
            self.model.load_state_dict({**self.model.state_dict(), **averaged})
        self.model.eval()
        return TrainingResult(
            history=progress.history,
            epoch_seconds=progress.epoch_seconds or [progress.seconds],
            best_value=progress.best,
            best_step=progress.best_step if progress.best is not None else progress.step,
            steps=progress.step,
            epochs=progress.step // self.n_batches,
            train_seconds=progress.seconds,
            evaluation_seconds=progress.evaluation_seconds,
            configurations=progress.configurations,
            stopped_by=progress.stopped_by,
            resumed_from_step=self.resumed_from,
            jobs=progress.jobs,
        )


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def train_stage(
    fabric: Any,
    model: AtomisticModel,
    train: RaggedDataset,
    validation: RaggedDataset | None,
    config: TrainingConfig,
    state: JobState | None = None,
    stage: int = 0,
    metrics: MetricsLog | None = None,
    reporter: ProgressReporter | None = None,
    scale: float = 1.0,
    row_names: NDArray[np.integer] | None = None,
) -> TrainingResult:
    """Train a model and leave its best weights in it: those of the best validation, averaged if so configured.

    Without validation rows the last weights are kept. A stage whose checkpoint says that it is complete is not trained
    again.

    Args:
        fabric: a launched ``lightning_fabric.Fabric``.
        model: trained in place, on the fabric's device; parameters with ``requires_grad`` False stay.
        train: training molecules, labels in units of ``scale``.
        validation: molecules that steer the learning rate and the choice of the final weights.
        config: numbers of the run.
        state: where checkpoints go, held by this job; None: no checkpoints.
        stage: number of the stage in a run of several stages.
        metrics: file of metrics, or None.
        reporter: shows progress, or None.
        scale: energy unit of model and labels, eV (forces: scale per Å).
        row_names: names of the training rows for messages, such as their rows in the store, shape (len(train),).

    Raises:
        InputError: loss, gradient or weights are not finite (the last good checkpoint is kept), the disk is full, or a
            checkpoint is of another model.
        Requeue: SIGTERM or SIGUSR1 came; the state is saved.
    """
    return Trainer(fabric, model, train, validation, config, state, stage, metrics, reporter, scale, row_names).run()
