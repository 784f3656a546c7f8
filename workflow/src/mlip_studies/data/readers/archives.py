"""Unpack one file of an archive at a time into a temporary file.

The temporary file lies in ``entry["scratch"]`` or, if that is not set, in the folder of :mod:`tempfile` (which obeys
``TMPDIR``). It is removed whether or not reading succeeds; what a killed process left is removed by the next one.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import struct
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mlip_studies.artifacts import host_name, process_exists
from mlip_studies.errors import InputError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_XZ_SIGNATURE = b"\xfd7zXZ\x00"
_CHUNK = 1 << 20
_PREFIX = "mlip-unpacked-"
# Host and process of a temporary file: several nodes may share the folder, and those of another one cannot be asked.
_OWNER = re.compile(rf"{_PREFIX}(?P<host>[A-Za-z0-9_-]+)-(?P<pid>\d{{1,9}})-[^-]+")
_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError, struct.error)


def signature(path: Path, expected: str) -> bytes:
    """The first eight bytes of a file.

    Raises:
        InputError: no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {expected}")
    with path.open("rb") as stream:
        return stream.read(8)


def _no_space(folder: Path, path: Path, need: str) -> InputError:
    return InputError(
        f"{folder}: no space to unpack {path.name}{need}; free some, or set `scratch` (or TMPDIR) to a larger folder"
    )


class _Source:
    """Passes reads on, remembers that an error came from here and not from the target, and can be told to stop."""

    def __init__(self, stream: IO[bytes], stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            if self._stop.is_set():
                raise EOFError("stopped")
            return self._stream.read(size)
        except BaseException as error:
            self.error = error
            raise


def _unpack(
    stream: IO[bytes], path: Path, folder: Path, expected: str, stop: threading.Event | None = None
) -> tempfile._TemporaryFileWrapper[bytes]:
    """Copy a (decompressing) stream to a new temporary file, which goes away when it is closed."""
    _remove_leftovers(folder)
    try:
        prefix = f"{_PREFIX}{host_name()}-{os.getpid()}-"
        temporary = tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{folder}: cannot write ({error.strerror}); set `scratch` (or TMPDIR)") from None
    source = _Source(stream, stop or threading.Event())
    try:
        shutil.copyfileobj(source, temporary, _CHUNK)
    except _ERRORS as error:
        temporary.close()
        if source.error is None and getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(folder, path, "") from None
        raise damaged(path, error, expected) from None
    except BaseException:
        temporary.close()
        raise
    return temporary


@contextmanager
def unpacked(stream: IO[bytes], path: Path, entry: Mapping[str, Any], expected: str) -> Iterator[Path]:
    """Copy a (decompressing) stream to a temporary file and yield its path.

    Args:
        stream: what to unpack.
        path: the archive, for messages.
        entry: the data set's entry; ``scratch`` may name a folder.
        expected: the layout, for messages.

    Raises:
        InputError: damaged, cut off, or no space.
    """
    with _unpack(stream, path, scratch_folder(entry), expected) as temporary:
        yield Path(temporary.name)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes of this machine that no longer exist."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        owner = _OWNER.fullmatch(leftover.name)
        if owner and owner["host"] == host_name() and not process_exists(int(owner["pid"])):
            leftover.unlink(missing_ok=True)


def scratch_folder(entry: Mapping[str, Any]) -> Path:
    """Where temporary files go.

    Raises:
        InputError: not a folder.
    """
    folder = Path(entry.get("scratch") or tempfile.gettempdir())
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set `scratch` to an existing one")
    return folder


def damaged(path: Path, error: BaseException, expected: str) -> InputError:
    """The message for an archive that cannot be unpacked."""
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: damaged or cut off ({message}), expected {expected}; fetch it again")


def _unpack_xz(
    path: Path, folder: Path, expected: str, stop: threading.Event | None = None
) -> tempfile._TemporaryFileWrapper[bytes]:
    """Unpack an .xz file after a look at its end and at the free space."""
    try:
        size = xz_size(path)
    except _ERRORS as error:
        raise damaged(path, error, expected) from None
    if shutil.disk_usage(folder).free < size:
        raise _no_space(folder, path, f" ({size / 1e9:.1f} GB unpacked)")
    with lzma.open(path) as stream:
        return _unpack(stream, path, folder, expected, stop)


@contextmanager
def unpacked_xz(path: Path, entry: Mapping[str, Any], expected: str) -> Iterator[Path]:
    """Unpack an .xz file and yield the path of the temporary file.

    If ``entry["ahead"]`` is an :class:`UnpackAhead` and ``entry["next"]`` the file that will be read after this one,
    that one is unpacked meanwhile.

    Raises:
        InputError: damaged, cut off, or no space.
    """
    ahead: UnpackAhead | None = entry.get("ahead")
    folder = scratch_folder(entry)
    with (ahead and ahead.take(path)) or _unpack_xz(path, folder, expected) as temporary:
        if ahead is not None and entry.get("next"):
            ahead.start(Path(entry["next"]), folder, expected)
        yield Path(temporary.name)


class UnpackAhead(AbstractContextManager["UnpackAhead"]):
    """Unpacks the next file in a thread while the current one is read (the decompressor needs no interpreter lock).

    At most two unpacked files lie on the disk; if there is no room for a second one, it is unpacked when its turn
    comes. Whatever goes wrong ahead is left to that turn, too.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._path: Path | None = None
        self._done: list[tempfile._TemporaryFileWrapper[bytes]] = []

    def start(self, path: Path, folder: Path, expected: str) -> None:
        """Begin to unpack a file, unless another one is still waiting to be taken."""
        if self._thread is not None:
            return

        def work() -> None:
            with suppress(InputError):
                self._done.append(_unpack_xz(path, folder, expected, self._stop))

        self._path = path
        self._thread = threading.Thread(target=work, name="unpack-ahead", daemon=True)
        self._thread.start()

    def take(self, path: Path) -> tempfile._TemporaryFileWrapper[bytes] | None:
        """The unpacked file, once it is whole, or None if it was not unpacked ahead."""
        if self._thread is None:
            return None
        if path != self._path:
            self._discard()
            return None
        self._thread.join()
        self._thread = None
        return self._done.pop() if self._done else None

    def _discard(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._stop.clear()
            self._thread = None
        while self._done:
            self._done.pop().close()

    def __exit__(self, *_: object) -> None:
        self._discard()


def xz_size(path: Path) -> int:
    """Unpacked size of the last stream of an .xz file, from its index.

    The index lies at the end (https://tukaani.org/xz/xz-file-format.txt), so a file that is cut off is noticed before
    gigabytes are unpacked.

    Raises:
        ValueError: no index at the end.
        OSError: unreadable.
    """
    with path.open("rb") as stream:
        if stream.read(6) != _XZ_SIGNATURE:
            raise ValueError("it does not begin like an .xz file")
        end = stream.seek(0, os.SEEK_END)
        # Streams are padded with zeros to multiples of four bytes.
        while end > 12:
            stream.seek(end - 12)
            footer = stream.read(12)
            if footer[8:] != b"\0\0\0\0":
                break
            end -= 4
        else:
            raise ValueError("nothing but zeros")
        if footer[10:] != b"YZ":
            raise ValueError("the end of the .xz file is missing")
        length = 4 * (int.from_bytes(footer[4:8], "little") + 1)
        if length > end - 24:
            raise ValueError("the index of the .xz file does not fit into it")
        stream.seek(end - 12 - length)
        index = stream.read(length)
    position = 0

    def integer() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(index) or shift > 62:
                raise ValueError("the index of the .xz file is damaged")
            byte = index[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    if integer() != 0:
        raise ValueError("the index of the .xz file is damaged")
    total = 0
    for _ in range(integer()):
        integer()
        total += integer()
    return total


def tar_members(path: Path, expected: str) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Files of a (compressed) tar archive, one after the other, as names and streams.

    A stream must be read before the next member is asked for.

    Raises:
        InputError: damaged, cut off, or not a tar archive.
    """
    try:
        # tarfile can decompress on its own, but does not compare checksums then.
        with _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content
            # A header that was lost passes for the end, but behind the real one there are only zeros.
            tail = archive.fileobj
            assert tail is not None
            while rest := tail.read(_CHUNK):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("a header is lost")
            while stream.read(_CHUNK):
                pass
    except _ERRORS as error:
        raise damaged(path, error, expected) from None


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        start = stream.read(6)
    opener: Any = open
    if start[:2] == b"\x1f\x8b":
        opener = gzip.open
    elif start[:3] == b"BZh":
        opener = bz2.open
    elif start == _XZ_SIGNATURE:
        opener = lzma.open
    plain: IO[bytes] = opener(path, "rb")
    return plain


@contextmanager
def tar_member(path: Path, wanted: str | None, suffix: str, expected: str) -> Iterator[tuple[str, IO[bytes]]]:
    """One file of a (compressed) tar archive as its name and stream.

    Args:
        path: the archive.
        wanted: path or file name in the archive; may be None if only one file has the suffix.
        suffix: suffix of the candidates.
        expected: the layout, for messages.

    Raises:
        InputError: damaged, cut off, not a tar archive, or no such file in it.
    """
    names: list[str] = []
    if wanted is None:
        with closing(tar_members(path, expected)) as members:
            names = [name for name, _ in members if name.endswith(suffix)]
        if len(names) != 1:
            raise InputError(
                f"{path}: it holds {len(names)} {suffix} files ({', '.join(names[:12])}); say which one as `member`"
            )
        wanted = names[0]
        names = []
    with closing(tar_members(path, expected)) as members:
        for name, stream in members:
            if name == wanted or Path(name).name == Path(wanted).name:
                yield name, stream
                return
            if name.endswith(suffix):
                names.append(name)
    raise InputError(f"{path}: no file {wanted!r} inside; it holds {', '.join(names[:12]) or f'no {suffix} file'}")
