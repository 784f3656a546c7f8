"""Resumable state of long jobs: a folder that is never a declared output, with a lease, and the wish to stop early.

A job that was killed leaves its last checkpoint; the next job with the same fingerprint (configuration, data, code)
continues from it. The lease says who is writing, renewed by a heartbeat: a second job on the same host stops while the
first one lives; one on another host waits until the heartbeat is old (the job was killed) or stops (it is alive).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlip_studies.artifacts import process_exists
from mlip_studies.errors import InputError, NoRoom, no_room_reason

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 90.0
LOCK_SECONDS = 30.0
#: exit status of a job that was told to stop, saved its state and wants to be started again (EX_TEMPFAIL)
REQUEUE_STATUS = 75


def fingerprint(content: dict[str, Any]) -> str:
    """Short hash of everything that a state depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def disk_errors(folder: Path, kept: str = "what was saved is kept") -> Iterator[None]:
    """One line where a job's outputs cannot be written; its state stays.

    Args:
        folder: of the outputs.
        kept: what the next run goes on from, in words.

    Raises:
        NoRoom: no room, a quota, a limit on file sizes, or a file system that is read-only.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) and not isinstance(error, NoRoom):
            raise
        reason = no_room_reason(error)
        if reason is None:
            raise
        raise NoRoom(error.where if isinstance(error, NoRoom) else folder, reason, kept) from error


class Requeue(SystemExit):
    """Ends the process with :data:`REQUEUE_STATUS`: the state is saved, the same command goes on from it."""

    def __init__(self) -> None:
        """The status is the same always."""
        super().__init__(REQUEUE_STATUS)


class StopRequest:
    """Remembers SIGTERM and SIGUSR1 (which Slurm sends before a time limit); use as a context manager.

    Outside the main thread, where Python allows no handlers, it hears nothing.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        """Nothing was asked so far."""
        self.name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.name = signal.Signals(number).name

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class JobState:
    """One state folder, ``<root>/<fingerprint>``; use as a context manager.

    Attributes:
        folder: where the state lies.
        started_fresh_because_changed: there was a state, but of another configuration, data or code.
    """

    def __init__(self, root: Path, content: dict[str, Any]) -> None:
        """Name the folder; older folders beside it belong to another configuration and are removed on entry."""
        self.root = Path(root)
        self.folder = self.root / fingerprint(content)
        self.started_fresh_because_changed = False
        self._content = content
        self._lease = self.folder / "lease.json"
        self._token = uuid.uuid4().hex
        self._lost_to: dict[str, Any] | None = None
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
            if (reason := no_room_reason(error)) is not None:
                raise NoRoom(self.folder, reason) from error
            raise InputError(f"{self.folder}: cannot write ({error.strerror}); make the folder writable") from error
        stale = [p for p in others if p != self.folder]
        for path in stale:
            holder = _read_lease(path / "lease.json")
            if holder is not None and _alive(holder):
                raise _held(path, holder)
        self._take()
        self.started_fresh_because_changed = bool(stale) and not any(self.folder.glob("*.pt"))
        for path in stale:
            shutil.rmtree(path, ignore_errors=True)
        (self.folder / "content.json").write_text(json.dumps(self._content, indent=1, sort_keys=True, default=str))
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back; the checkpoint stays."""
        self._end_pulse()
        holder = _read_lease(self._lease)
        if holder is not None and holder.get("token") == self._token:
            self._lease.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that the lease is still this job's.

        Raises:
            InputError: the job was suspended so long that another one took over.
        """
        if self._lost_to is not None:
            raise InputError(
                f"{self.folder}: job {self._lost_to['job']} on {self._lost_to['host']} took over while this one gave "
                "no sign of life; it goes on, this one stops"
            )

    def remove(self) -> None:
        """Forget the state after the outputs are in place."""
        self._end_pulse()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_pulse(self) -> None:
        self._stop.set()
        if self._pulse is not None:
            self._pulse.join()

    def _take(self) -> None:
        """Write the lease; exactly one of several jobs that try at once succeeds."""
        holder = self._wait_for_other_host()
        if holder is not None and _alive(holder):
            raise _held(self.folder, holder)
        # Between a look at the lease and writing it, nobody else may do the same.
        with _lock(self.folder / "lease.lock"):
            holder = _read_lease(self._lease)
            if holder is not None and _alive(holder):
                raise _held(self.folder, holder)
            for leftover in self.folder.glob("lease.*.new"):  # of a job that was killed while it wrote
                with suppress(OSError):
                    leftover.unlink()
            temporary = self.folder / f"lease.{self._token}.new"
            temporary.write_text(json.dumps(self._entry()))
            os.replace(temporary, self._lease)

    def _entry(self) -> dict[str, Any]:
        job = os.environ.get("SLURM_JOB_ID", f"pid {os.getpid()}")
        host = socket.gethostname()
        return {"host": host, "pid": os.getpid(), "job": job, "heartbeat": time.time(), "token": self._token}

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if not self.folder.exists():
                return
            holder = _read_lease(self._lease)
            if holder is not None and holder.get("token") != self._token:
                self._lost_to = holder
                return
            # A full disk must not end the heartbeat for good.
            with suppress(OSError):
                temporary = self.folder / f"lease.{self._token}.new"
                temporary.write_text(json.dumps(self._entry()))
                os.replace(temporary, self._lease)

    def _wait_for_other_host(self) -> dict[str, Any] | None:
        """The lease's holder, after giving a killed job's heartbeat on another host the time to grow old."""
        holder = _read_lease(self._lease)
        if holder is None or holder["host"] == socket.gethostname():
            return holder
        if _alive(holder):
            print(f"{self.folder}: waiting for job {holder['job']} on {holder['host']} to end", flush=True)
        first = holder["heartbeat"]
        while holder is not None and _alive(holder) and holder["heartbeat"] == first:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            holder = _read_lease(self._lease)
        return holder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock of the file system.

    Where it has none, two jobs that start within a millisecond may both get the lease, and the one that lost it notices
    at its next heartbeat.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise InputError(
            f"{path}: locked for {LOCK_SECONDS:.0f} s; end the job that holds it, then run again"
        ) from None
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _held(folder: Path, holder: dict[str, Any]) -> InputError:
    return InputError(
        f"{folder}: job {holder['job']} on {holder['host']} is writing here (heartbeat "
        f"{time.time() - holder['heartbeat']:.0f} s ago); wait for it or cancel it, then run again"
    )


def _read_lease(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
        return content if {"host", "pid", "job", "heartbeat"} <= set(content) else None
    except (OSError, ValueError, TypeError):
        return None


def _alive(holder: dict[str, Any]) -> bool:
    if time.time() - holder["heartbeat"] > STALE_SECONDS:
        return False
    if holder["host"] == socket.gethostname():
        return holder["pid"] != os.getpid() and process_exists(holder["pid"])
    return True
