"""Progress of a training: a live line on a terminal, one line now and then in a batch log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mlip_studies.training.config import TrainingConfig

BATCH_LOG_SECONDS = 30.0


def progress_reporter(label: str, config: TrainingConfig) -> Callable[[dict[str, float]], None]:
    """A function that reports a history entry of the training loop."""
    interactive = sys.stdout.isatty()
    last = 0.0

    def report(entry: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        finished = config.max_steps is not None and entry["step"] >= config.max_steps
        if not interactive and now - last < BATCH_LOG_SECONDS and not finished:
            return
        last = now
        budget = f"/{config.max_steps}" if config.max_steps is not None else ""
        line = (
            f"{label}: epoch {entry['epoch']:.0f}, step {entry['step']:.0f}{budget}, {entry['seconds']:.0f} s, "
            f"train {1000 * entry['train_rmse_ev']:.1f} meV, validation {1000 * entry['val_rmse_ev']:.1f} meV, "
            f"learning rate {entry['learning_rate']:.1e}"
        )
        print(f"\r\033[K{line}" if interactive else line, end="" if interactive and not finished else "\n", flush=True)

    return report
