"""Metrics of a run: one JSON object per line, and optionally TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlip_studies.errors import InputError


class MetricsLog:
    """A file of JSON lines that a resumed run continues exactly where its checkpoint was taken."""

    def __init__(self, path: Path, tensorboard: str | None = None) -> None:
        """Name the file; it is opened with the first line.

        Args:
            path: the file.
            tensorboard: folder for TensorBoard, or None.

        Raises:
            InputError: TensorBoard is asked for and not installed.
        """
        self.path = Path(path)
        self._position = 0
        self._stream: Any = None
        self._board: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise InputError(
                    "training.tensorboard: the package tensorboard is not installed; install it or remove the key"
                ) from error
            self._board = SummaryWriter(tensorboard)

    @property
    def position(self) -> int:
        """Bytes so far."""
        return self._position

    def resume(self, position: int) -> None:
        """Go on after so many bytes; what a killed job wrote later is dropped with the next line."""
        self._position = position

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record.

        Raises:
            InputError: the file cannot be written.
        """
        line = json.dumps(record).encode() + b"\n"
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = open(self.path, "r+b" if self.path.exists() else "w+b", buffering=0)  # noqa: SIM115
                size = self._stream.seek(0, os.SEEK_END)
                if size < self._position:
                    print(f"{self.path}: {self._position - size} bytes of earlier metrics are lost", flush=True)
                    self._position = size
                self._stream.truncate(self._position)
                self._stream.seek(self._position)
            self._stream.write(line)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write metrics ({error.strerror or error}); make room on the disk and run again "
                "to go on from the last checkpoint"
            ) from error
        self._position += len(line)
        if self._board is not None:
            split = record.get("split", "train")
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "stage"):
                    self._board.add_scalar(f"{split}/{name}", value, record.get("step"))

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._board is not None:
            self._board.close()
