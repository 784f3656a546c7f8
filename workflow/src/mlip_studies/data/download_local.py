"""The local side of a download: digests while bytes arrive, room on the disk, one writer at a time, bars and lines."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mlip_studies.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

BLOCK = 1 << 20
# git_sha1 is what `git hash-object` prints; publishers who keep data in a repository state no other checksum.
CHECKSUMS = ("sha256", "md5", "git_sha1")


@dataclass(frozen=True)
class Limits:
    """Patience and safety margins of a download.

    Attributes:
        connect_s: seconds to wait for a connection.
        stall_s: seconds without a byte after which a connection counts as broken.
        attempts: attempts in a row that brought nothing new before an address is given up.
        backoff_s: wait after the first such attempt (s); doubles with each, and varies at random by half.
        backoff_max_s: longest such wait (s).
        retry_after_max_s: longest wait that a server may ask for (s).
        margin_bytes: bytes that must stay free on the disk.
        holder_s: seconds after which another process that fetches the same file without progress counts as stuck.
        poll_s: seconds between two looks at that process.
    """

    connect_s: float = 30.0
    stall_s: float = 60.0
    attempts: int = 8
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    retry_after_max_s: float = 300.0
    margin_bytes: int = 100_000_000
    holder_s: float = 900.0
    poll_s: float = 1.0


class Digests:
    """Checksums of a file that are updated as its bytes pass; SHA-256 always, others where the entry states one."""

    def __init__(self, entry: Mapping[str, Any], size: int | None = None) -> None:
        """Start the sums.

        Args:
            entry: states what is expected (``bytes``, ``sha256``, ``md5``, ``git_sha1``; each may be null or missing).
            size: size of the whole file, which git's checksum begins with.
        """
        self._expected = {kind: entry[kind].lower() for kind in CHECKSUMS if entry.get(kind)}
        self._bytes = entry.get("bytes")
        self.size = size
        # MD5 and SHA-1 are what some publishers state; they guard against damage, not against forgery.
        self._sums = {"sha256": hashlib.sha256()}
        if "md5" in self._expected:
            self._sums["md5"] = hashlib.md5(usedforsecurity=False)
        if "git_sha1" in self._expected and size is not None:
            self._sums["git_sha1"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._count = 0

    def update(self, block: bytes | memoryview) -> None:
        """Take the next bytes."""
        for one in self._sums.values():
            one.update(block)
        self._count += len(block)

    def usable_for(self, size: int | None) -> bool:
        """Whether the sums are those of a file of ``size`` bytes."""
        return "git_sha1" not in self._expected or size is None or size == self.size

    @property
    def sha256(self) -> str:
        """SHA-256 of what passed, in hexadecimal."""
        return self._sums["sha256"].hexdigest()

    def problem(self) -> str | None:
        """What is wrong with the bytes that passed, or None."""
        if self._bytes and self._count != self._bytes:
            return f"it has {self._count} bytes, expected {self._bytes}"
        for kind, expected in self._expected.items():
            found = self._sums[kind].hexdigest()
            if found != expected:
                return f"its {kind} is {found}, expected {expected}"
        return None


def digests_of(entry: Mapping[str, Any], path: Path, size: int | None = None) -> Digests:
    """Digests of a file on disk, read once in blocks; ``size`` if it is the beginning of a file of that many bytes."""
    digests = Digests(entry, path.stat().st_size if size is None else size)
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digests.update(buffer[:count])
    return digests


def content_problem(entry: Mapping[str, Any], path: Path) -> str | None:
    """What is wrong with a file, compared with the size and checksums of its entry, or None."""
    size = path.stat().st_size
    if entry.get("bytes") and size != entry["bytes"]:
        return f"it has {size} bytes, expected {entry['bytes']}"
    if not any(entry.get(kind) for kind in CHECKSUMS):
        return None
    return digests_of(entry, path).problem()


def size_text(count: float) -> str:
    """A number of bytes for people, for example 16.1 GB."""
    from rich.filesize import decimal

    return decimal(int(count))


def check_room(target: Path, need: int, margin: int) -> None:
    """Stop before a byte is written if the disk cannot hold what comes.

    Args:
        target: the file that grows; its folder exists.
        need: bytes still to be written.
        margin: bytes to be left free.

    Raises:
        InputError: too little room.
    """
    free = shutil.disk_usage(target.parent).free
    if need + margin > free:
        raise InputError(
            f"{target}: {size_text(need)} are needed (and {size_text(margin)} to spare), {size_text(free)} are free on "
            "this disk; make room or set another `results`"
        )


def cannot_write(path: Path, error: OSError) -> InputError:
    """The one line about a disk that is full, over quota or read-only."""
    return InputError(
        f"{error.filename or path}: cannot write ({error.strerror or error}); make room and run again to resume, or "
        "set another `results`"
    )


def _unfinished(folder: Path) -> frozenset[tuple[str, int]]:
    found = set()
    for pattern in ("*.part", "*.copy"):
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_size))
    return frozenset(found)


@contextlib.contextmanager
def only_writer(target: Path, limits: Limits, display: Display, stop: threading.Event) -> Iterator[None]:
    """Hold ``<target>.lock`` (process and host); wait for another process that holds it.

    A lock file that says who holds it works on every file system, also those of clusters that know no advisory locks.
    One whose process on this host is gone is taken over.

    Raises:
        InputError: the holder makes no progress.
    """
    from filelock import SoftFileLock, Timeout

    path = target.with_name(target.name + ".lock")
    lock = SoftFileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            process, host = path.read_text().split()[:2]
            holder = f"process {process} on {host}"
        except (OSError, ValueError):
            holder = "another process"
        display.say(f"{target.name}: {holder} is fetching it already; waiting")
        while True:
            before = _unfinished(target.parent)
            try:
                lock.acquire(timeout=limits.holder_s, poll_interval=limits.poll_s, cancel_check=stop.is_set)
                break
            except Timeout:
                if stop.is_set():
                    raise Stopped from None
                if _unfinished(target.parent) == before:
                    raise InputError(
                        f"{path}: {holder} holds it and nothing arrived for {limits.holder_s:g} s; end that process, "
                        "or delete this file if it no longer runs, and run again"
                    ) from None
    try:
        yield
    finally:
        lock.release()


class Stopped(Exception):
    """Other downloads of the same call ended it."""


class Bar:
    """The progress of one file."""

    def __init__(self, progress: Progress | None, name: str, total: int | None) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task(name, total=total)

    def at(self, done: int, total: int | None = None) -> None:
        """Show ``done`` bytes, of ``total`` where that has become known."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.remove_task(self._task)


class Display:
    """Bars on a terminal, whole lines on standard error; a context manager.

    A terminal shows the bars of one process at a time: several jobs of a workflow share it, and bars drawn by two
    processes would garble each other.
    """

    def __init__(self, terminal: TextIO | None = None) -> None:
        """Choose where bars go: ``terminal``, or standard error; none are drawn if that is no terminal."""
        self._terminal = terminal or sys.stderr
        self._progress: Progress | None = None
        self._turn: int | None = None

    def __enter__(self) -> Display:
        """Start to draw."""
        if self._terminal.isatty() and self._take_turn():
            from rich import progress
            from rich.console import Console

            # Lines go to standard error as it is (in a job: its log), so nothing may be redirected here.
            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
                progress.TransferSpeedColumn(), progress.TimeRemainingColumn(), console=Console(file=self._terminal),
                transient=True, redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None

    def _take_turn(self) -> bool:
        try:
            self._turn = os.open(os.ttyname(self._terminal.fileno()), os.O_RDONLY | os.O_NOCTTY)
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if self._turn is not None:
                os.close(self._turn)
                self._turn = None
            return False
        return True

    def say(self, line: str) -> None:
        """Print one line."""
        if self._progress is not None and self._terminal is sys.stderr:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def bar(self, name: str, total: int | None) -> Bar:
        """A bar for one file."""
        return Bar(self._progress, name, total)
