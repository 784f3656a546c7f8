"""Writing and checking of files: all outputs appear by rename, and every one carries a checksum.

The SHA-256 of an artefact is kept beside it in ``.sha256/<name>``. A consumer calls :func:`require`, which stops with
one line if the content is not what was written; :func:`verify_tree` finds all such files.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlip_studies.errors import InputError, NoRoom, no_room_reason

PathLike = str | os.PathLike[str]

#: a temporary file of another machine that was not written to for so long belongs to nobody
ABANDONED_SECONDS = 86400.0
#: clocks of a machine and of its disks may differ by so much
CLOCK_SECONDS = 60.0
_COUNTER = itertools.count()
# Host, process and number of a temporary file; the oldest names had the process only.
_OWNER = re.compile(r"(?P<host>[A-Za-z0-9_-]+)-(?P<pid>\d{1,9})-\d+|\d{1,9}")


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.parent / ".sha256" / path.name


def host_name() -> str:
    """Name of this machine, of letters that a file name can have."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())


def temporary_path(path: PathLike) -> Path:
    """A new name beside ``path`` that says whose it is; it keeps the suffix, by which writers choose the format."""
    path = Path(path)
    return path.with_name(f".{path.stem}.{host_name()}-{os.getpid()}-{next(_COUNTER)}.tmp{path.suffix}")


def remove_leftovers(path: PathLike, now: float | None = None) -> list[Path]:
    """Remove temporary files of writers of ``path`` that were killed.

    These are the files of this machine whose process no longer exists or is younger than the file (its number was
    given away again), and those of other machines that nobody has written to for a day: processes of machines that
    share the disk cannot be asked. A process of this machine may be idle for as long as it likes.

    Args:
        path: the file that they were to become.
        now: time in seconds, by the clock of the disk where that is known; the system's if not given.

    Returns:
        what was removed.
    """
    path = Path(path)
    before, after = f".{path.stem}.", f".tmp{path.suffix}"
    removed = []
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    for name in names:
        if not (name.startswith(before) and name.endswith(after)):
            continue
        owner = _OWNER.fullmatch(name[len(before) : len(name) - len(after)])
        if owner is None:
            continue
        leftover = path.with_name(name)
        with suppress(OSError):
            age = (time.time() if now is None else now) - leftover.stat().st_mtime
            if owner["host"] == host_name():
                abandoned = not _may_own(int(owner["pid"]), age)
            else:
                abandoned = age > ABANDONED_SECONDS
            if abandoned:
                _remove(leftover)
                removed.append(leftover)
    return removed


def _may_own(pid: int, age: float) -> bool:
    """Whether a process of this machine can have written to a file ``age`` seconds ago; yes where nobody knows."""
    if pid == os.getpid():
        return True
    if not process_exists(pid):
        return False
    lived = _process_seconds(pid)
    return lived is None or age < lived + CLOCK_SECONDS


def _process_seconds(pid: int) -> float | None:
    """How long ago a process of this machine started (s), None where the system does not say."""
    try:
        # The name, in brackets, may hold anything; the start is the 22nd field, in ticks since the machine started.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def process_exists(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def record(path: PathLike, sha256: str | None = None) -> None:
    """Write the checksum record of a finished file, which is read unless its ``sha256`` is known."""
    path = Path(path)
    target = _record_path(path)
    target.parent.mkdir(exist_ok=True)
    temporary = temporary_path(target)
    try:
        temporary.touch()
        remove_leftovers(target, temporary.stat().st_mtime)
        temporary.write_text(f"{sha256 or sha256_of(path)} {path.stat().st_size}\n")
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    The temporary name keeps the suffix, because several writers choose the format by it, and says which process of
    which machine it belongs to, so that what a killed one left can be removed by the next (:func:`remove_leftovers`).

    Until the rename succeeded, a former file stays as it is, with its record.

    Raises:
        InputError: the folder cannot be written to, or the file cannot be put in its place.
        NoRoom: the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary, record_file = temporary_path(path), _record_path(path)
    # The record of the former file; a rename back needs no room, and keeps its time.
    former = temporary_path(record_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        remove_leftovers(path, temporary.stat().st_mtime)
    except OSError as error:
        if (reason := no_room_reason(error)) is not None and path.parent.is_dir():
            raise NoRoom(path, reason) from error
        raise InputError(
            f"{path.parent}: cannot write ({error.strerror}); make the folder writable or set another `results`"
        ) from error
    written = renamed = False
    try:
        yield temporary
        written = True
        # A kill between these lines leaves a whole file without a record, never one with the record of another.
        with suppress(FileNotFoundError):
            os.replace(record_file, former)
        os.replace(temporary, path)
        renamed = True
        record(path)
        with suppress(OSError):
            former.unlink(missing_ok=True)
    except BaseException as error:
        with suppress(OSError):
            if renamed:
                discard(path)
                former.unlink(missing_ok=True)
            elif written and former.exists():
                # Without it, the former file would count as whole for ever.
                os.replace(former, record_file)
        with suppress(OSError):
            _remove(temporary)
        reason = no_room_reason(error) if isinstance(error, Exception) and not isinstance(error, InputError) else None
        if reason is not None:
            raise NoRoom(path, reason) from error
        if written and isinstance(error, FileNotFoundError):
            raise InputError(
                f"{path}: cannot write (its temporary file is gone); let nothing else clean up {path.parent}, run again"
            ) from error
        if written and isinstance(error, OSError):
            raise InputError(f"{path}: cannot write ({error.strerror or error}); remove what is in its way") from error
        raise


def write_text(path: PathLike, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def recorded(path: PathLike) -> tuple[str, int] | None:
    """SHA-256 and size that were recorded for a file, None if there is no record.

    Raises:
        InputError: the record itself is damaged.
    """
    record_file = _record_path(Path(path))
    try:
        digest, size = record_file.read_text(encoding="ascii").split()
        return digest, int(size)
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(
            f"{record_file}: damaged checksum record of {Path(path).name}; run `make verify` to move the file aside"
        ) from None


def is_intact(path: PathLike) -> bool:
    """Whether a file has the content that was recorded; files without a record count as intact."""
    try:
        expected = recorded(path)
    except InputError:
        return False
    if expected is None:
        return True
    digest, size = expected
    return Path(path).stat().st_size == size and sha256_of(path) == digest


def discard(path: PathLike) -> None:
    """Remove a file and its record, as far as they are there and can be removed."""
    path = Path(path)
    for each in (path, _record_path(path)):
        with suppress(OSError):
            each.unlink()


def require(path: PathLike) -> Path:
    """Return ``path`` after checking that it exists and holds what was written.

    Raises:
        InputError: the file is missing or its content changed since it was written.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; run the pipeline up to it with `snakemake {path}`")
    if not is_intact(path):
        raise InputError(
            f"{path}: checksum mismatch, the file changed after it was written; run `make verify` to move it aside"
        )
    return path


def _aside_path(path: Path) -> Path:
    return path.parent / ".sha256" / f".{path.name}.aside"


def verify_tree(root: PathLike, move_aside: bool = True) -> list[Path]:
    """Find the artefacts below ``root`` whose content changed, and rename them to ``<name>.corrupt``.

    What they should have held, and when they were written, is noted for :func:`restore_times`.

    Returns:
        the paths that did not match their record.

    Raises:
        InputError: a file cannot be moved aside.
    """
    bad = []
    for record_file in sorted(Path(root).rglob(".sha256/*")):
        path = record_file.parent.parent / record_file.name
        if path.exists() and not is_intact(path):
            bad.append(path)
            if move_aside:
                try:
                    shutil.copy2(record_file, _aside_path(path))
                    os.replace(path, path.with_name(path.name + ".corrupt"))
                except OSError as error:
                    raise InputError(
                        f"{path}: corrupt, and cannot be moved aside ({error.strerror}); make its folder writable"
                    ) from error
    return bad


def restore_times(root: PathLike) -> list[Path]:
    """Give artefacts that were moved aside and rebuilt with the same content the time of the first ones.

    What was made from them is then up to date as before. The corrupt file goes, and so does the note about it.

    Returns:
        the paths that came out the same.

    Raises:
        InputError: a time cannot be set.
    """
    same = []
    for note in sorted(Path(root).rglob(".sha256/.*.aside")):
        path = note.parent.parent / note.name[1 : -len(".aside")]
        record_file = _record_path(path)
        if not (path.exists() and record_file.exists()):
            continue
        try:
            if record_file.read_bytes() == note.read_bytes() and is_intact(path):
                written = note.stat().st_mtime_ns  # of the first record, which was written with its file
                os.utime(path, ns=(written, written))
                path.with_name(path.name + ".corrupt").unlink(missing_ok=True)
                same.append(path)
            note.unlink()
        except OSError as error:
            raise InputError(f"{path}: cannot set its time ({error.strerror}); make its folder writable") from error
    return same
