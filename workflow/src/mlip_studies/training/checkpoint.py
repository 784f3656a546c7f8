"""Checkpoints that survive a kill, a full disk and a damaged file.

A checkpoint is written whole beside the older ones and appears by rename; its name holds a generation number and the
beginning of its SHA-256. The newest two are kept, so that a damaged newest one costs one interval and not the run. They
are read with torch's weights-only loader, which executes nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError

FORMAT = "mlip-studies-checkpoint-2"
KEPT = 2
_DIGEST = 16


def describe_model(model: nn.Module) -> dict[str, str]:
    """Class of a model and a hash of the names, shapes and types of its weights."""
    entries = [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in sorted(model.state_dict().items())]
    return {
        "class": type(model).__name__,
        "weights": hashlib.sha256("\n".join(entries).encode()).hexdigest()[:_DIGEST],
    }


def all_finite(payload: Any) -> bool:
    """Whether all floating-point tensors in nested dictionaries and lists are finite."""
    tensors: list[Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, Tensor):
            if value.is_floating_point() and value.numel():
                tensors.append(value)
        elif isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                collect(each)

    collect(payload)
    # A sum can overflow where no entry does, so every entry is asked; one wait per device.
    answers: dict[torch.device, list[Tensor]] = {}
    for each in tensors:
        answers.setdefault(each.device, []).append(each.isfinite().all())
    return all(bool(torch.stack(values).all()) for values in answers.values())


class Checkpoints:
    """The checkpoints of one stage of a job.

    Args of the constructor: the ``folder``, the ``name`` that the files start with, and the ``model`` whose checkpoints
    they are (see :func:`describe_model`).
    """

    def __init__(self, folder: Path, name: str, model: dict[str, str]) -> None:
        self.folder = Path(folder)
        self.name = name
        self.model = model
        self.saved_step: int | None = None
        self._pattern = re.compile(rf"{re.escape(name)}-(\d{{8}})-([0-9a-f]{{{_DIGEST}}})\.pt")

    def files(self) -> list[Path]:
        """Files of this stage, newest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := self._pattern.fullmatch(path.name))]
        return [path for _, path in sorted(found, key=lambda entry: int(entry[0].group(1)), reverse=True)]

    def save(self, payload: dict[str, Any], step: int) -> Path:
        """Write a checkpoint and drop all but the newest two.

        Args:
            payload: nested dictionaries and lists of tensors, numbers and text.
            step: what the checkpoint is of, for messages.

        Raises:
            InputError: it cannot be written, for example because the disk is full. The older ones stay.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "model": self.model, "step": step, "payload": payload}, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()[:_DIGEST]
        files = self.files()
        number = int(files[0].name.split("-")[-2]) + 1 if files else 0
        path = self.folder / f"{self.name}-{number:08d}-{digest}.pt"
        temporary = self.folder / f".{self.name}.tmp"
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            kept = f"the checkpoint of step {self.saved_step} is kept" if files else "there is no older one"
            raise InputError(
                f"{self.folder}: cannot save the checkpoint of step {step} ({error.strerror or error}); {kept}; make "
                "room on the disk and run again to go on from there"
            ) from error
        self.saved_step = step
        for old in files[KEPT - 1 :]:
            with suppress(OSError):
                old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest intact checkpoint's payload, or None; says so if a newer one is damaged.

        Raises:
            InputError: it is of another model or of another version of this package.
        """
        files = self.files()
        damaged = False
        for path in files:
            content = path.read_bytes()
            expected = self._pattern.fullmatch(path.name)
            assert expected is not None
            if hashlib.sha256(content).hexdigest()[:_DIGEST] != expected.group(2):
                print(f"{path}: corrupted checkpoint (its checksum does not match its name)", flush=True)
                damaged = True
                continue
            saved = self._read(path, content)
            if damaged:
                print(f"{path}: using this previous checkpoint, of step {saved['step']}", flush=True)
            self.saved_step = saved["step"]
            payload: dict[str, Any] = saved["payload"]
            return payload
        if damaged:
            print(f"{self.folder}: no intact checkpoint is left; starting from the beginning", flush=True)
        return None

    def _read(self, path: Path, content: bytes) -> dict[str, Any]:
        advice = "give another folder for the state, or delete this file to start from the beginning"
        try:
            saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"{path}: not a checkpoint of this version ({type(error).__name__}); {advice}") from error
        found = saved.get("format") if isinstance(saved, dict) else None
        if found != FORMAT:
            raise InputError(f"{path}: checkpoint of version {found!r}, expected {FORMAT!r}; {advice}")
        if saved["model"] != self.model:
            raise InputError(
                f"{path}: checkpoint of another model (class {saved['model']['class']}, weights "
                f"{saved['model']['weights']}; expected {self.model['class']}, {self.model['weights']}); {advice}"
            )
        return saved

    def sweep(self) -> None:
        """Remove what a killed writer left unfinished."""
        with suppress(OSError):
            (self.folder / f".{self.name}.tmp").unlink(missing_ok=True)
