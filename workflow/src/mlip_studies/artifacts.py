"""Writing and checking of files: all outputs appear by rename, and every one carries a checksum.

The SHA-256 of an artefact is kept beside it in ``.sha256/<name>``. A consumer calls :func:`require`, which stops with
one line if the content is not what was written; :func:`verify_tree` finds all such files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlip_studies.errors import InputError

PathLike = str | os.PathLike[str]


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.parent / ".sha256" / path.name


def record(path: PathLike, sha256: str | None = None) -> None:
    """Write the checksum record of a finished file, which is read unless its ``sha256`` is known."""
    path = Path(path)
    target = _record_path(path)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    temporary.write_text(f"{sha256 or sha256_of(path)} {path.stat().st_size}\n")
    os.replace(temporary, target)


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    The temporary name keeps the suffix, because several writers choose the format by it.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot write ({error.strerror}); make the folder writable or set another `results`"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise
    record(path)


def write_text(path: PathLike, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def recorded(path: PathLike) -> tuple[str, int] | None:
    """SHA-256 and size that were recorded for a file, None if there is no record."""
    record_file = _record_path(Path(path))
    if not record_file.exists():
        return None
    digest, size = record_file.read_text().split()
    return digest, int(size)


def is_intact(path: PathLike) -> bool:
    """Whether a file has the content that was recorded; files without a record count as intact."""
    expected = recorded(path)
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


def verify_tree(root: PathLike, move_aside: bool = True) -> list[Path]:
    """Find the artefacts below ``root`` whose content changed, and rename them to ``<name>.corrupt``.

    Returns:
        the paths that did not match their record.
    """
    bad = []
    for record_file in sorted(Path(root).rglob(".sha256/*")):
        path = record_file.parent.parent / record_file.name
        if path.exists() and not is_intact(path):
            bad.append(path)
            if move_aside:
                os.replace(path, path.with_name(path.name + ".corrupt"))
    return bad
