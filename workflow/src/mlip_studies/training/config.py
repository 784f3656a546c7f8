"""Everything that a training run can be told, with its checks, and the papers' recipes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlip_studies.errors import InputError
from mlip_studies.runtime.options import check, did_you_mean, read_options
from mlip_studies.training.loss import LOSSES, EnergyMSE, Loss, named, plain
from mlip_studies.training.optimizer import OptimizerConfig
from mlip_studies.training.schedule import SCHEDULES, Constant, PlateauConfig, Schedule

STEP_MODES = ("eager", "captured", "compiled")
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how to evaluate on the validation set; at the end of training always.

    Attributes:
        every_steps: evaluate after so many steps; None: by epochs.
        every_epochs: evaluate at the end of an epoch after so many, if ``every_steps`` is None.
        min_steps: but not before so many steps since the last evaluation.
        batch_size: molecules per forward pass.
        monitor: the measure that plateau, early stop and the best model go by.
    """

    every_steps: int | None = None
    every_epochs: int = 1
    min_steps: int = 1
    batch_size: int = 256
    monitor: str = "loss"

    def __post_init__(self) -> None:
        """Check the options."""
        where = "training.evaluation"
        check(self.every_steps is None or self.every_steps > 0, f"{where}.every_steps", "above 0", self.every_steps)
        check(self.every_epochs > 0, f"{where}.every_epochs", "a number above 0", self.every_epochs)
        check(self.batch_size > 0, f"{where}.batch_size", "a number above 0", self.batch_size)
        check(self.monitor in MONITORS, f"{where}.monitor", f"one of {', '.join(MONITORS)}", self.monitor)


MONITORS = (
    "loss",
    "energy_mae",
    "energy_rmse",
    "energy_per_atom_mae",
    "energy_per_atom_rmse",
    "force_mae",
    "force_rmse",
)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        loss: what is minimised.
        optimizer: Adam and its options, with the base learning rate.
        schedule: factor on the base rate by step.
        plateau: lowers the rate when the monitored error stalls; None: never.
        ema_decay: decay of the averaged weights, which are then evaluated and kept; None: no average.
        clip_norm: largest global norm of the gradient; None: not clipped.
        max_gradient_norm: training stops with an error when the norm before clipping is larger; None: only if it is not
            finite.
        batch_size: molecules per step; ``auto``: 1, 5, 10 or 100 for training sets below 500, 1000, 10,000 and above,
            as So3krates' own training does.
        micro_batches: parts of a batch that are computed one after another, to save memory; same gradient.
        max_steps: stop after so many steps; None for no limit.
        max_epochs: stop after so many passes over the training set; None for no limit.
        min_learning_rate: stop when the rate has fallen below; None: never.
        early_stop: evaluations without a new best value that are tolerated; None: all.
        evaluation: when and how to validate.
        precision: ``float32`` or ``float64``.
        seed: of the order of the data.
        step_mode: ``eager``; ``captured`` replays the step as one CUDA graph; ``compiled`` also fuses its kernels.
        checkpoint_seconds: wall time between checkpoints.
        log_steps: steps between lines of the metrics.
        check_steps: steps between looks at the device's numbers.
        max_edges: most directed edges that one molecule may have; a larger one stops the run before it starts.
        tensorboard: folder for TensorBoard; None: not written.
    """

    loss: Loss = field(default_factory=EnergyMSE)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: Schedule = field(default_factory=Constant)
    plateau: PlateauConfig | None = None
    ema_decay: float | None = None
    clip_norm: float | None = None
    max_gradient_norm: float | None = None
    batch_size: int | str = 32
    micro_batches: int = 1
    max_steps: int | None = None
    max_epochs: int | None = None
    min_learning_rate: float | None = None
    early_stop: int | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    precision: str = "float32"
    seed: int = 0
    step_mode: str = "eager"
    checkpoint_seconds: float = 300.0
    log_steps: int = 100
    check_steps: int = 20
    max_edges: int | None = None
    tensorboard: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        size = self.batch_size
        check(size == "auto" or (isinstance(size, int) and size > 0), "training.batch_size", "above 0, or auto", size)
        for name in ("micro_batches", "log_steps", "check_steps"):
            check(getattr(self, name) > 0, f"training.{name}", "a number above 0", getattr(self, name))
        for name in ("clip_norm", "max_gradient_norm", "max_steps", "max_epochs", "max_edges"):
            value = getattr(self, name)
            check(value is None or value > 0, f"training.{name}", "a number above 0", value)
        check(self.precision in PRECISIONS, "training.precision", " or ".join(PRECISIONS), self.precision)
        check(self.step_mode in STEP_MODES, "training.step_mode", f"one of {', '.join(STEP_MODES)}", self.step_mode)
        limits = (self.max_steps, self.max_epochs, self.min_learning_rate, self.early_stop)
        if all(limit is None for limit in limits):
            raise InputError("training: nothing ends it; set max_steps, max_epochs, min_learning_rate or early_stop")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Build from a mapping, in which ``recipe`` may name one of :data:`RECIPES` to start from.

        Raises:
            InputError: a key that does not exist, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"training: expected a mapping of options, found {values!r}")
        merged = dict(values)
        recipe = merged.pop("recipe", None)
        if recipe is not None:
            if recipe not in RECIPES:
                raise InputError(f"training.recipe: {recipe!r} is unknown{did_you_mean(recipe, RECIPES)}")
            merged = _merge(RECIPES[recipe], merged)
        if "loss" in merged:
            merged["loss"] = named(LOSSES, merged["loss"], "training.loss")
        if "schedule" in merged:
            merged["schedule"] = named(SCHEDULES, merged["schedule"], "training.schedule")
        return read_options(cls, merged, "training")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads."""
        return {**asdict(self), "loss": plain(LOSSES, self.loss), "schedule": plain(SCHEDULES, self.schedule)}

    def molecules_per_step(self, n_train: int) -> int:
        """Molecules per step for a training set of this size."""
        if isinstance(self.batch_size, int):
            return min(self.batch_size, max(n_train, 1))
        return next(size for limit, size in ((500, 1), (1000, 5), (10_000, 10), (float("inf"), 100)) if n_train < limit)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, nested mappings merged; one that names another loss or schedule replaces it whole."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = result.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            value = _merge(old, value)
        result[key] = value
    return result


#: How the papers and their code trained, as far as they say; the budget (``max_steps``) is the study's.
RECIPES: dict[str, dict[str, Any]] = {
    # Adam, 0.7 per 100,000 steps until 1e-5, no clipping, no average of weights.
    "so3krates": {
        "loss": {"name": "so3krates", "beta": 0.99},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "schedule": {"name": "exponential", "rate": 0.7, "steps": 100_000},
        "min_learning_rate": 1e-5,
        "batch_size": "auto",
    },
    # GemNet's settings for COLL; the study's own are in its supplement, which is not available.
    "gemnet": {
        "loss": {"name": "gemnet", "rho": 0.999},
        "optimizer": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "eps": 1e-7,
            "amsgrad": True,
            "weight_decay": 2e-6,
            "weight_decay_meaning": "per_step",
        },
        "schedule": {"name": "exponential", "rate": 0.01, "steps": 4_500_000, "warmup_steps": 3750},
        "plateau": {"factor": 0.5, "patience": 5, "cooldown": 5, "threshold": 1e-4},
        "ema_decay": 0.999,
        "clip_norm": 10.0,
        "batch_size": 32,
        "max_steps": 1_500_000,
        "early_stop": 5,
        "evaluation": {"every_steps": 7500},
        "seed": 42,
    },
    # SE(3)-Transformer study, first runs: energies weighted by 1e-5; the clipping norm is not stated.
    "se3_first": {
        "loss": {"name": "se3", "energy_weight": 1e-5},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "schedule": {"name": "steps", "milestones": [86_000, 176_000], "factors": [1e-2, 1e-4]},
        "clip_norm": 1.0,
        "batch_size": 100,
        "max_steps": 200_000,
    },
    # The same study after its labels were normalised.
    "se3_normalised": {
        "loss": {"name": "se3", "energy_weight": 1.0},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "clip_norm": 1.0,
        "batch_size": 100,
        "max_steps": 341_000,
    },
    # Five charged balls: Adam with cosine restarts from 1e-3 to 1e-4.
    "nbody": {
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "schedule": {"name": "cosine_restarts", "final": 0.1},
    },
}
