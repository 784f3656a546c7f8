"""Training of networks that say where charged particles are some time ahead, and predictions without a network.

B. E. Hedelius, *Learning inter-atomic forces with an SE(3)-Transformer*, Brigham Young University 2021, section 3.1:
from the positions, velocities and charges of now, the changes of position and velocity over the next 500 steps, five
saved frames. The thesis gives one mean squared error per network and does not say of what; here those of the positions
and of the velocities are separate (means over windows, particles and the three components), and ``mse_both`` is the
mean of the two, which is also the loss. Units are those of the simulation (:mod:`mlip_studies.data.nbody`).

All data lie in memory as tensors. The batch of a step depends only on (seed, step) and everything that changes is in
the checkpoint, so that a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of, write_text
from mlip_studies.data.nbody import NBodyData, NBodySettings, Trajectories, read_nbody
from mlip_studies.errors import InputError
from mlip_studies.models.nbody import NBodyNetworkConfig, NBodyTransformer, save_nbody
from mlip_studies.runtime.options import check, read_options
from mlip_studies.runtime.state import JobState, Requeue, StopRequest
from mlip_studies.training.checkpoint import Checkpoints, all_finite, describe_model
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.data import DTYPES
from mlip_studies.training.device import choose_device, environment
from mlip_studies.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from mlip_studies.training.progress import BATCH_LOG_SECONDS, ProgressReporter

FloatArray = NDArray[np.float64]
Errors = dict[str, float]

WINDOWS = ("first", "random")
#: predictions without a network
BASELINES = ("unchanged", "straight_line", "linear")
#: options of a training that this loop does not have, with the value that says so
_WITHOUT: Mapping[str, Any] = {
    "ema_decay": None, "plateau": None, "early_stop": None, "min_learning_rate": None, "max_edges": None,
    "tensorboard": None, "micro_batches": 1, "step_mode": "eager",
}  # fmt: skip


@dataclass(frozen=True)
class NBodyConfig:
    """Everything that defines a run.

    Attributes:
        data: file of trajectories.
        network: what to train.
        training: how; ``recipe: nbody`` is that of the published code.
        ahead_frames: frames from the input to the target.
        windows: ``first``: the input is the first saved frame, one example per trajectory; ``random``: any frame that
            has a target, drawn anew whenever a trajectory is used. Tests then use every ``ahead_frames``-th frame, the
            windows of the thesis's figure 3.1. Both kinds of test are reported in either case.
        n_train: trajectories to train and validate with; None: all of the training set.
        n_validation: how many of these, the last ones, choose the weights that are kept; None: one in twenty.
        n_test: trajectories to test with; None: the whole test set.
        n_examples: test trajectories whose predictions are kept.
        seed: of the weights and, unless ``training`` has its own, of the order of the data.
        label: name for the eyes.
    """

    data: str
    network: NBodyNetworkConfig = field(default_factory=NBodyNetworkConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig.from_dict({"recipe": "nbody", "batch_size": 128, "max_epochs": 100})
    )
    ahead_frames: int = 5
    windows: str = "random"
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    n_examples: int = 64
    seed: int = 0
    label: str = "n-body"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: out of range, or an option of the training that has no meaning here.
        """
        check(self.windows in WINDOWS, "nbody.windows", " or ".join(WINDOWS), self.windows)
        for name in ("ahead_frames", "n_train", "n_validation", "n_test", "n_examples"):
            value = getattr(self, name)
            check(value is None or value > 0, f"nbody.{name}", "a number above 0", value)
        for name, neutral in _WITHOUT.items():
            value = getattr(self.training, name)
            check(value == neutral, f"nbody.training.{name}", f"{neutral}, this training has no such option", value)
        check(isinstance(self.training.batch_size, int), "nbody.training.batch_size", "a number", "auto")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NBodyConfig:
        """Build from plain values.

        Raises:
            InputError: an unknown or missing key, or a value of another type or out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"nbody: expected a mapping of options, found {values!r}")
        merged = dict(values)
        training = merged.get("training")
        if isinstance(training, Mapping):
            if "loss" in training:
                raise InputError("nbody.training.loss: the loss of this task is fixed; remove the key")
            training = {"recipe": "nbody", "batch_size": 128, "seed": merged.get("seed", 0), **training}
            merged["training"] = TrainingConfig.from_dict(training)
        return read_options(cls, merged, "nbody")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        training = {key: value for key, value in self.training.to_dict().items() if key != "loss"}
        return {**plain, "network": asdict(self.network), "training": training}


@dataclass(frozen=True)
class NBodyOutputs:
    """Files that a run writes."""

    model: Path
    history: Path
    predictions: Path
    run: Path

    @classmethod
    def in_folder(cls, folder: PathLike) -> NBodyOutputs:
        """The usual names in a folder."""
        names = ("model.safetensors", "history.csv", "predictions.npz", "run.json")
        return cls(*(Path(folder) / name for name in names))


# --- data and errors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Systems:
    """Trajectories as tensors on one device.

    Attributes:
        positions: shape (n, n_frames, n_balls, 3).
        velocities: shape (n, n_frames, n_balls, 3).
        charges: shape (n, n_balls).
    """

    positions: Tensor
    velocities: Tensor
    charges: Tensor

    @classmethod
    def of(cls, trajectories: Trajectories, device: torch.device, dtype: torch.dtype) -> Systems:
        """Read trajectories into memory."""
        kind = np.float64 if dtype == torch.float64 else np.float32

        def tensor(values: np.ndarray) -> Tensor:
            # The axes of a particle last; from the mapped file straight into the wanted type.
            return torch.from_numpy(np.array(values.transpose(0, 1, 3, 2), dtype=kind, order="C")).to(device)

        charges = torch.from_numpy(np.array(trajectories.charges, dtype=kind)).to(device)
        return cls(tensor(trajectories.positions), tensor(trajectories.velocities), charges)

    def __len__(self) -> int:
        """Number of trajectories."""
        return int(self.charges.shape[0])

    def __getitem__(self, rows: slice) -> Systems:
        """A range of trajectories."""
        return Systems(self.positions[rows], self.velocities[rows], self.charges[rows])

    @property
    def n_frames(self) -> int:
        """Saved frames of a trajectory."""
        return int(self.positions.shape[1])

    def window(self, rows: Tensor, frames: Tensor, ahead: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Inputs and targets of windows: positions, velocities, charges, changes of position, changes of velocity.

        Args:
            rows: trajectories, shape (n,), int64.
            frames: frame of the input in each, shape (n,), int64.
            ahead: frames to the target.

        Returns:
            shapes (n, n_balls, 3), of the charges (n, n_balls).
        """
        x, v = self.positions[rows, frames], self.velocities[rows, frames]
        then = frames + ahead
        return x, v, self.charges[rows], self.positions[rows, then] - x, self.velocities[rows, then] - v


def window_starts(n_frames: int, ahead: int, windows: str) -> list[int]:
    """Frames that a test starts from: the first one, or every ``ahead``-th one that has a target.

    Raises:
        InputError: the trajectories are too short.
    """
    if ahead >= n_frames:
        raise InputError(
            f"nbody.ahead_frames: {ahead}, but a trajectory has {n_frames} frames; give a smaller number or longer "
            "trajectories"
        )
    return [0] if windows == "first" else list(range(0, n_frames - ahead, ahead))


@dataclass(frozen=True)
class WindowErrors:
    """Squared errors of windows, means over particles and components.

    Attributes:
        trajectory: shape (n,), int64.
        start: frame of the input, shape (n,), int64.
        x: of the positions, shape (n,).
        v: of the velocities, shape (n,).
    """

    trajectory: NDArray[np.int64]
    start: NDArray[np.int64]
    x: FloatArray
    v: FloatArray

    def at(self, starts: Iterable[int]) -> WindowErrors:
        """Those of windows that start there."""
        keep = np.isin(self.start, list(starts))
        return WindowErrors(self.trajectory[keep], self.start[keep], self.x[keep], self.v[keep])

    def summary(self) -> dict[str, float]:
        """Means with their standard errors (over trajectories), medians, and how much the worst windows weigh.

        ``worst_share_x`` is the part of the sum of squared errors that the worst one in a hundred windows make up.
        """
        result: dict[str, float] = {"n_windows": len(self.x), "n_trajectories": len(np.unique(self.trajectory))}
        _, index = np.unique(self.trajectory, return_inverse=True)
        per_trajectory = np.bincount(index)
        for name, values in (("x", self.x), ("v", self.v), ("both", 0.5 * (self.x + self.v))):
            means = np.bincount(index, weights=values) / per_trajectory
            worst = max(1, len(values) // 100)
            total = float(values.sum())
            result[f"mse_{name}"] = float(values.mean())
            result[f"sem_{name}"] = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
            result[f"median_{name}"] = float(np.median(values))
            result[f"worst_share_{name}"] = float(np.sort(values)[-worst:].sum() / total) if total else 0.0
        return result


class Predictor:
    """Changes (of position, of velocity), each (n, n_balls, 3), from positions, velocities and charges."""

    def __call__(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; here everything stays as it is."""
        return torch.zeros_like(positions), torch.zeros_like(velocities)


class StraightLine(Predictor):
    """Every particle keeps its velocity."""

    def __init__(self, duration: float) -> None:
        self.duration = duration

    def __call__(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return velocities * self.duration, torch.zeros_like(velocities)


class Linear(Predictor):
    """Least squares of both changes on a particle's own position and velocity and a constant, float64."""

    def __init__(self, data: Systems, ahead: int, starts: Sequence[int]) -> None:
        """Fit to windows.

        Args:
            data: trajectories to fit to.
            ahead: frames to the target.
            starts: frames that windows start from.
        """
        normal, right = torch.zeros(7, 7, dtype=torch.float64), torch.zeros(7, 6, dtype=torch.float64)
        for start in starts:
            rows = torch.arange(len(data), device=data.charges.device)
            x, v, _, dx, dv = data.window(rows, torch.full_like(rows, start), ahead)
            inputs = self._inputs(x, v).flatten(0, 1).cpu()
            targets = torch.cat([dx, dv], dim=2).flatten(0, 1).double().cpu()
            normal += inputs.t() @ inputs
            right += inputs.t() @ targets
        self.weights = torch.linalg.lstsq(normal, right, driver="gelsd").solution

    @staticmethod
    def _inputs(x: Tensor, v: Tensor) -> Tensor:
        return torch.cat([x, v, torch.ones_like(x[..., :1])], dim=2).double()

    def __call__(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        changes = self._inputs(positions, velocities) @ self.weights.to(positions.device)
        return changes[..., :3], changes[..., 3:]


@torch.no_grad()
def window_errors(predict: Any, data: Systems, ahead: int, starts: Sequence[int], batch_size: int) -> WindowErrors:
    """Errors of a predictor on all trajectories from these frames.

    Args:
        predict: a network or a :class:`Predictor`.
        data: trajectories.
        ahead: frames to the target.
        starts: frames that windows start from.
        batch_size: windows at once.
    """
    device = data.charges.device
    x_errors, v_errors = [], []
    for start in starts:
        for rows in torch.arange(len(data), device=device).split(batch_size):
            x, v, charges, dx, dv = data.window(rows, torch.full_like(rows, start), ahead)
            px, pv = predict(x, v, charges)
            x_errors.append((px.double() - dx.double()).square().mean(dim=(1, 2)))
            v_errors.append((pv.double() - dv.double()).square().mean(dim=(1, 2)))
    trajectory = np.tile(np.arange(len(data)), len(starts))
    start_of = np.repeat(np.asarray(starts, dtype=np.int64), len(data))
    return WindowErrors(trajectory, start_of, torch.cat(x_errors).cpu().numpy(), torch.cat(v_errors).cpu().numpy())


def _summaries(errors: WindowErrors, windows: str) -> dict[str, Any]:
    """The test as configured, that of both kinds of windows, and the errors by frame."""
    by_windows = {"first": errors.at([0]).summary(), "every": errors.summary()}
    starts = sorted(set(errors.start.tolist()))
    by_start = []
    for start in starts:
        part = errors.at([start])
        by_start.append({"start_frame": start, "mse_x": float(part.x.mean()), "mse_v": float(part.v.mean())})
    return {
        "test": by_windows["first" if windows == "first" else "every"],
        "test_by_windows": by_windows,
        "test_by_start": by_start,
    }


# --- one run ---------------------------------------------------------------------------------------------------------


class _Reporter(ProgressReporter):
    """The same bar and lines with this task's numbers."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Show an evaluation."""
        numbers = (
            f"train {record['train_mse']:.4f}, validation x {record['validation_mse_x']:.4f} "
            f"v {record['validation_mse_v']:.4f}, learning rate {record['learning_rate']:.1e}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], numbers=numbers)
            return
        now = time.monotonic()
        last = self.config.max_steps is not None and record["step"] >= self.config.max_steps
        if now - self._last < BATCH_LOG_SECONDS and not last:
            return
        self._last = now
        print(f"{self.label}: step {record['step']}, {record['seconds']:.0f} s, {numbers}", flush=True)


@dataclass
class _Progress:
    """Everything that changes besides tensors."""

    step: int = 0
    evaluated_step: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    windows: int = 0
    best: float | None = None
    best_step: int = 0
    jobs: int = 0
    finished: bool = False
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list[dict[str, float]] = field(default_factory=list)


class _Training:
    """The loop of one network."""

    def __init__(
        self,
        config: NBodyConfig,
        model: NBodyTransformer,
        train: Systems,
        validation: Systems,
        state: JobState,
    ) -> None:
        self.config, self.model, self.train, self.validation, self.state = config, model, train, validation, state
        assert isinstance(config.training.batch_size, int)
        self.size = min(config.training.batch_size, len(train))
        self.n_batches = math.ceil(len(train) / self.size)
        self.starts = window_starts(train.n_frames, config.ahead_frames, config.windows)
        self.optimizer = make_optimizer(model, config.training.optimizer)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.checkpoints = Checkpoints(state.folder, "nbody", describe_model(model))
        self.progress = _Progress()
        self.best: dict[str, Tensor] | None = None
        self.resumed_from = 0
        # Squared errors of x and v and the gradient's norm since the last evaluation, on the device.
        self.sums = torch.zeros(3, dtype=torch.float64, device=train.charges.device)
        self._drawn: tuple[int, Tensor, Tensor] | None = None
        self._clock = 0.0
        self._last_save = time.monotonic()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Trajectories and input frames of a step."""
        epoch, number = divmod(step, self.n_batches)
        if self._drawn is None or self._drawn[0] != epoch:
            random = np.random.default_rng([self.config.training.seed, epoch])
            order = random.permutation(len(self.train))
            frames = np.zeros(len(order), dtype=np.int64)
            if self.config.windows == "random":
                frames = random.integers(self.train.n_frames - self.config.ahead_frames, size=len(order))
            device = self.train.charges.device
            self._drawn = (epoch, torch.from_numpy(order).to(device), torch.from_numpy(frames).to(device))
        part = slice(number * self.size, (number + 1) * self.size)
        return self._drawn[1][part], self._drawn[2][part]

    def is_over(self) -> bool:
        """Whether a limit is reached."""
        limits, step = self.config.training, self.progress.step
        return (limits.max_steps is not None and step >= limits.max_steps) or (
            limits.max_epochs is not None and step >= limits.max_epochs * self.n_batches
        )

    def evaluation_is_due(self) -> bool:
        """Whether to evaluate after the present step."""
        cadence, since = self.config.training.evaluation, self.progress.step - self.progress.evaluated_step
        if cadence.every_steps is not None:
            return since >= cadence.every_steps
        whole = self.progress.step % self.n_batches == 0
        return whole and since >= max(cadence.min_steps, cadence.every_epochs * self.n_batches)

    def learning_rate(self, step: int) -> float:
        """Rate of a step."""
        return self.config.training.optimizer.learning_rate * self.config.training.schedule.factor(step)

    def run(self) -> None:
        """Train to the end; the model has its best weights then."""
        self._restore()
        if not self.progress.finished:
            self.progress.jobs += 1
            self.model.train()
            with ExitStack() as stack:
                request = stack.enter_context(StopRequest())
                reporter = stack.enter_context(_Reporter(self.config.label, self.config.training))
                self._clock = time.perf_counter()
                while not self.is_over():
                    self._step()
                    reporter.step(self.progress.step)
                    if self.evaluation_is_due():
                        reporter.record(self._evaluate())
                    self._after_step(request)
                if self.progress.evaluated_step != self.progress.step:
                    reporter.record(self._evaluate())
                self.progress.finished = True
                self._save()
        assert self.best is not None
        self.model.load_state_dict(self.best)
        self.model.eval()

    def _step(self) -> None:
        x, v, charges, dx, dv = self.train.window(*self.batch(self.progress.step), self.config.ahead_frames)
        set_learning_rate(self.optimizer, self.learning_rate(self.progress.step))
        self.optimizer.zero_grad(set_to_none=True)
        px, pv = self.model(x, v, charges)
        error_x, error_v = (px - dx).square().mean(), (pv - dv).square().mean()
        (0.5 * (error_x + error_v)).backward()
        norm = clip_gradients(self.parameters, self.config.training.clip_norm)
        self.optimizer.step()
        self.sums += torch.stack([error_x.detach(), error_v.detach(), norm.detach()]).double()
        self.progress.step += 1
        self.progress.windows += len(charges)

    def _after_step(self, request: StopRequest) -> None:
        due = time.monotonic() - self._last_save > self.config.training.checkpoint_seconds
        if self.progress.step % self.config.training.check_steps == 0:
            self._check()
        if due or request.name is not None:
            self._save()
        if request.name is not None:
            print(
                f"{request.name} received: checkpoint saved at step {self.progress.step}; run again to go on",
                flush=True,
            )
            raise Requeue

    def _check(self) -> None:
        if not bool(self.sums.isfinite().all()):
            kept = self.checkpoints.saved_step
            rest = "there is no checkpoint" if kept is None else f"the checkpoint of step {kept} is kept"
            raise InputError(
                f"nbody training stopped: loss or gradient is not finite at step {self.progress.step}; {rest}; lower "
                "training.optimizer.learning_rate or set training.clip_norm"
            )

    def _tick(self) -> float:
        """Seconds since the last look at the clock."""
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before

    def _evaluate(self) -> dict[str, float]:
        self._check()
        progress, steps = self.progress, max(1, self.progress.step - self.progress.evaluated_step)
        train_x, train_v, norm = (self.sums / steps).tolist()
        progress.seconds += self._tick()
        self.model.eval()
        errors = window_errors(
            self.model,
            self.validation,
            self.config.ahead_frames,
            self.starts,
            self.config.training.evaluation.batch_size,
        )
        self.model.train()
        progress.evaluation_seconds += self._tick()
        x, v = float(errors.x.mean()), float(errors.v.mean())
        line = {
            "step": progress.step,
            "epoch": progress.step / self.n_batches,
            "seconds": progress.seconds,
            "learning_rate": self.learning_rate(max(0, progress.step - 1)),
            "grad_norm": norm,
            "train_mse_x": train_x,
            "train_mse_v": train_v,
            "train_mse": 0.5 * (train_x + train_v),
            "validation_mse_x": x,
            "validation_mse_v": v,
            "validation_mse": 0.5 * (x + v),
        }
        progress.history.append(line)
        progress.evaluated_step = progress.step
        self.sums.zero_()
        if progress.best is None or line["validation_mse"] < progress.best:
            progress.best, progress.best_step = line["validation_mse"], progress.step
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return line

    def _save(self) -> None:
        self.progress.seconds += self._tick()
        self.state.check()
        self.progress.sums = self.sums.tolist()
        payload: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if not all_finite(payload):
            raise InputError(
                f"nbody training stopped: weights are not finite after step {self.progress.step}; lower "
                "training.optimizer.learning_rate or set training.clip_norm"
            )
        payload |= {"best": self.best, "progress": asdict(self.progress)}
        self.checkpoints.save(payload, self.progress.step)
        self._last_save = time.monotonic()
        self._clock = time.perf_counter()

    def _restore(self) -> None:
        self.checkpoints.sweep()
        payload = self.checkpoints.load()
        if payload is None:
            return
        self.model.load_state_dict(payload["model"])
        self.optimizer.load_state_dict(payload["optimizer"])
        device = self.train.charges.device
        if payload["best"] is not None:
            self.best = {name: value.to(device) for name, value in payload["best"].items()}
        self.progress = _Progress(**payload["progress"])
        self.sums = torch.tensor(self.progress.sums, dtype=torch.float64, device=device)
        self.resumed_from = self.progress.step
        if not self.progress.finished:
            print(f"resuming at step {self.progress.step}", flush=True)


def _parts(config: NBodyConfig, data: NBodyData) -> tuple[Trajectories, Trajectories, Trajectories]:
    """Training, validation and test trajectories.

    Raises:
        InputError: the file has fewer than asked for, or nothing is left for a part.
    """
    for name, wanted, there in (("n_train", config.n_train, data.n_train), ("n_test", config.n_test, data.n_test)):
        if wanted is not None and wanted > there:
            raise InputError(f"nbody.{name}: {wanted}, but {config.data} has {there}; give at most that number")
    n = config.n_train or data.n_train
    n_validation = config.n_validation if config.n_validation is not None else max(1, n // 20)
    if n_validation >= n:
        raise InputError(f"nbody.n_validation: {n_validation} of {n} trajectories; expected less than all of them")
    n_test = config.n_test or data.n_test
    if n_test < 1:
        raise InputError(f"{config.data}: no test trajectories; make the file with n_test above 0")
    return data.train[: n - n_validation], data.train[n - n_validation : n], data.test[:n_test]


def run_nbody(
    config: NBodyConfig,
    outputs: NBodyOutputs,
    state_root: PathLike,
    code: str = "",
    device_name: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Train a network, test it and write the outputs; resumes from ``state_root`` after a kill.

    ``run.json`` has ``test`` (see :meth:`WindowErrors.summary`) of the configured windows, ``test_by_windows`` of
    ``first`` and ``every``, and ``test_by_start``, the errors by the frame that is the input.

    Args:
        config: the run.
        outputs: files to write.
        state_root: folder for the resumable state.
        code: hash of the code that a state must have been made with to be resumed.
        device_name: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None: as torch chooses.

    Returns:
        the content of ``run.json``.

    Raises:
        InputError: missing or damaged data, too few trajectories, or a training that diverges.
        Requeue: the job was told to stop; the state is saved.
    """
    started = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device_name)
    data = read_nbody(require(config.data))
    settings = data.settings
    window_starts(settings.n_frames, config.ahead_frames, config.windows)
    dtype = DTYPES[config.training.precision]
    train, validation, test = (Systems.of(part, device, dtype) for part in _parts(config, data))
    torch.manual_seed(config.seed)
    model = NBodyTransformer(config.network, settings.n_balls).to(dtype).to(device)
    digest = sha256_of(config.data)
    plain = config.to_dict()
    # Paths and names may change; what the data hold counts.
    content = {
        "config": {key: value for key, value in plain.items() if key not in ("data", "label")},
        "data": digest,
        "code": code,
        "device": device.type,
    }
    with JobState(Path(state_root), content) as state:
        if state.started_fresh_because_changed:
            print("the configuration, data or code changed since the saved state: training from the start", flush=True)
        training = _Training(config, model, train, validation, state)
        training.run()
        batch_size = config.training.evaluation.batch_size
        starts = window_starts(settings.n_frames, config.ahead_frames, "random")
        errors = window_errors(model, test, config.ahead_frames, starts, batch_size)
        _write_predictions(outputs.predictions, model, test, errors, config, starts)
        _write_rows(outputs.history, training.progress.history)
        save_nbody(model, outputs.model, {"run": plain, "data": digest, "code": code})
        progress = training.progress
        summary = {
            "label": config.label,
            "config": plain,
            "data": digest,
            "system": asdict(settings),
            "code": code,
            "duration": duration(settings, config.ahead_frames),
            "n_train": len(train),
            "n_validation": len(validation),
            "n_test": len(test),
            "n_parameters": model.n_parameters(),
            **_summaries(errors, config.windows),
            "best_validation_mse": progress.best,
            "best_step": progress.best_step,
            "steps": progress.step,
            "epochs": progress.step / training.n_batches,
            "windows_trained": progress.windows,
            "train_seconds": progress.seconds,
            "evaluation_seconds": progress.evaluation_seconds,
            "windows_per_second": progress.windows / progress.seconds if progress.seconds else None,
            "resumed_from_step": training.resumed_from,
            "jobs": progress.jobs,
            "wall_seconds": time.perf_counter() - started,
            "device": device.type,
            "environment": environment(device),
            "process_id": os.getpid(),
        }
        write_text(outputs.run, json.dumps(summary, indent=1))
        state.remove()
    return summary


def duration(settings: NBodySettings, ahead_frames: int) -> float:
    """Time from the input to the target, in the unit of the simulation."""
    return ahead_frames * settings.save_every * settings.time_step


@torch.no_grad()
def _write_predictions(
    path: Path,
    model: NBodyTransformer,
    test: Systems,
    errors: WindowErrors,
    config: NBodyConfig,
    starts: Sequence[int],
) -> None:
    """Errors of all test windows, and whole example trajectories with what is predicted from every start."""
    examples = test[: config.n_examples]
    rows = torch.arange(len(examples), device=test.charges.device)
    predicted_x, predicted_v = [], []
    for start in starts:
        x, v, charges, _, _ = examples.window(rows, torch.full_like(rows, start), config.ahead_frames)
        dx, dv = model(x, v, charges)
        predicted_x.append(x + dx)
        predicted_v.append(v + dv)
    tensors = {
        "example_positions": examples.positions,
        "example_velocities": examples.velocities,
        "example_charges": examples.charges,
        "example_predicted_positions": torch.stack(predicted_x, dim=1),
        "example_predicted_velocities": torch.stack(predicted_v, dim=1),
    }
    examples_of: dict[str, Any] = {name: value.cpu().numpy().astype(np.float32) for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            **examples_of,
            start_frames=np.asarray(starts),
            ahead_frames=np.asarray(config.ahead_frames),
            window_trajectory=errors.trajectory,
            window_start=errors.start,
            window_error_x=errors.x,
            window_error_v=errors.v,
        )


def _write_rows(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_baselines(
    data: PathLike, output: PathLike, ahead_frames: int = 5, n_train: int | None = None, n_test: int | None = None
) -> None:
    """Errors of predictions without a network, as a CSV file: one line per baseline and kind of test windows.

    ``unchanged``: position and velocity stay; ``straight_line``: the velocity stays; ``linear``: least squares on a
    particle's position and velocity, fitted to the training set's windows of the same kind. ``windows`` is ``first`` or
    ``every``, and the other columns are those of :meth:`WindowErrors.summary`.

    Args:
        data: file of trajectories.
        output: the CSV file.
        ahead_frames: frames from the input to the target.
        n_train: trajectories to fit to; None: the whole training set.
        n_test: trajectories to test with; None: the whole test set.

    Raises:
        InputError: missing or damaged data, or too few trajectories.
    """
    config = NBodyConfig(str(data), ahead_frames=ahead_frames, n_train=n_train, n_validation=1, n_test=n_test)
    content = read_nbody(require(data))
    device, kind = torch.device("cpu"), torch.float64
    train, _, test = (Systems.of(part, device, kind) for part in _parts(config, content))
    rows: list[dict[str, Any]] = []
    for windows, named in (("first", "first"), ("random", "every")):
        starts = window_starts(content.settings.n_frames, ahead_frames, windows)
        predictors: dict[str, Predictor] = {
            "unchanged": Predictor(),
            "straight_line": StraightLine(duration(content.settings, ahead_frames)),
            "linear": Linear(train, ahead_frames, starts),
        }
        for name in BASELINES:
            errors = window_errors(predictors[name], test, ahead_frames, starts, 4096)
            rows.append({"baseline": name, "windows": named, **errors.summary()})
    _write_rows(output, rows)
