"""Resumable state of long jobs: a folder that is never a declared output, with a lease and atomic checkpoints.

A job that was killed leaves its last checkpoint; the next job with the same fingerprint (configuration, data, code)
continues from it. The lease says who is writing, renewed by a heartbeat: a second job on the same host stops while the
first one lives; one on another host waits until the heartbeat is old (the job was killed) or stops (it is alive).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

from mlip_studies.errors import InputError

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 90.0


def fingerprint(content: dict[str, Any]) -> str:
    """Short hash of everything that a state depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


class JobState:
    """One state folder, ``<root>/<fingerprint>``; use as a context manager."""

    def __init__(self, root: Path, content: dict[str, Any]) -> None:
        """Name the folder; older folders beside it belong to another configuration and are removed on entry."""
        self.root = Path(root)
        self.folder = self.root / fingerprint(content)
        self._content = content
        self._lease = self.folder / "lease.json"
        self.started_fresh_because_changed = False
        self._stop = threading.Event()
        self._pulse: threading.Thread | None = None

    def __enter__(self) -> JobState:
        """Take the lease.

        Raises:
            InputError: another live job holds it, or the folder cannot be written to.
        """
        try:
            others = [p for p in self.root.iterdir() if p.is_dir()] if self.root.exists() else []
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write ({error.strerror}); make the folder writable") from error
        holder = self._wait_for_other_host()
        if holder is not None and self._alive(holder):
            raise InputError(
                f"{self.folder}: job {holder['job']} on {holder['host']} is writing here (heartbeat "
                f"{time.time() - holder['heartbeat']:.0f} s ago); wait for it or cancel it, then run again"
            )
        stale = [p for p in others if p != self.folder]
        self.started_fresh_because_changed = bool(stale) and not self.checkpoint_path.exists()
        for path in stale:
            shutil.rmtree(path, ignore_errors=True)
        (self.folder / "content.json").write_text(json.dumps(self._content, indent=1, sort_keys=True, default=str))
        self.heartbeat()
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back; the checkpoint stays."""
        self._stop.set()
        if self._pulse is not None:
            self._pulse.join()
        self._lease.unlink(missing_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / "checkpoint.pt"

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if not self.folder.exists():
                return
            self.heartbeat()

    def _wait_for_other_host(self) -> dict[str, Any] | None:
        """The lease's holder, after giving a killed job's heartbeat on another host the time to grow old."""
        holder = self._read_lease()
        if holder is None or holder["host"] == socket.gethostname():
            return holder
        if self._alive(holder):
            print(f"{self.folder}: waiting for job {holder['job']} on {holder['host']} to end", flush=True)
        first = holder["heartbeat"]
        while holder is not None and self._alive(holder) and holder["heartbeat"] == first:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            holder = self._read_lease()
        return holder

    def heartbeat(self) -> None:
        """Say that this job is alive."""
        job = os.environ.get("SLURM_JOB_ID", f"pid {os.getpid()}")
        payload = {"host": socket.gethostname(), "pid": os.getpid(), "job": job, "heartbeat": time.time()}
        temporary = self._lease.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(payload))
        os.replace(temporary, self._lease)

    def remove(self) -> None:
        """Forget the state after the outputs are in place."""
        self._stop.set()
        if self._pulse is not None:
            self._pulse.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_lease(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._lease.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @staticmethod
    def _alive(holder: dict[str, Any]) -> bool:
        if time.time() - holder["heartbeat"] > STALE_SECONDS:
            return False
        if holder["host"] == socket.gethostname():
            if holder["pid"] == os.getpid():
                return False
            try:
                os.kill(holder["pid"], 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                return True
        return True


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write a checkpoint by rename, keeping it readable whenever the job dies."""
    import torch

    temporary = path.with_suffix(".tmp")
    torch.save(payload, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None when there is none or it is unreadable (a fresh start is always correct)."""
    import torch

    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        print(f"{path}: unreadable checkpoint ({type(error).__name__}); starting from the beginning", flush=True)
        return None
