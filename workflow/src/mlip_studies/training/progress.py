"""Progress of a training: a live bar on a terminal, one line now and then in a batch log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from mlip_studies.training.config import TrainingConfig

BATCH_LOG_SECONDS = 30.0


class ProgressReporter:
    """Shows the records of the training loop; use as a context manager."""

    def __init__(self, label: str, config: TrainingConfig, interactive: bool | None = None) -> None:
        """Choose the form.

        Args:
            label: what is trained.
            config: its numbers.
            interactive: whether to draw a live bar; None: if standard output is a terminal.
        """
        self.label, self.config = label, config
        self.interactive = sys.stdout.isatty() if interactive is None else interactive
        self._last = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> ProgressReporter:
        """Start the bar."""
        if self.interactive:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("step {task.completed:.0f}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
            )
            self._task = self._bar.add_task(self.label, total=self.config.max_steps, numbers="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int) -> None:
        """Move the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def record(self, record: Mapping[str, Any]) -> None:
        """Show a record of the metrics."""
        split = "validation" if record["split"] == "validation" else "train"
        self._shown[split] = f"{split} {_errors(record)}"
        numbers = ", ".join([*self._shown.values(), f"learning rate {record['learning_rate']:.1e}"])
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], numbers=numbers)
            return
        now = time.monotonic()
        last = self.config.max_steps is not None and record["step"] >= self.config.max_steps
        if now - self._last < BATCH_LOG_SECONDS and not (last and split == "validation"):
            return
        self._last = now
        budget = f"/{self.config.max_steps}" if self.config.max_steps is not None else ""
        where = f"epoch {record['epoch']}, step {record['step']}{budget}, {record['seconds']:.0f} s"
        print(f"{self.label}: {where}, {numbers}", flush=True)


def _errors(record: Mapping[str, Any]) -> str:
    parts = [f"{1000 * record['energy_mae_ev']:.1f} meV"]
    if "force_mae_ev_per_angstrom" in record:
        parts.append(f"{1000 * record['force_mae_ev_per_angstrom']:.1f} meV/Å")
    return " ".join(parts)
