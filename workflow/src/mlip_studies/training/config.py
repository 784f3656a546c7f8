"""Numbers of a training run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mlip_studies.errors import InputError


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; energies in eV, learning rates per step of Adam.

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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Build from a mapping.

        Raises:
            InputError: a key that does not exist.
        """
        known = {field.name for field in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise InputError(f"training: unknown key {sorted(unknown)[0]!r}; known keys: {', '.join(sorted(known))}")
        return cls(**values)
