"""Fetch published files: resume, checks while bytes arrive, mirrors for sites without a network.

A file appears under its name only when it is whole and matches its entry. Until then it is ``<name>.part`` (with
``<name>.part.json`` about its origin), or ``<name>.copy`` while it comes from a mirror folder or out of an archive;
a wrong one is kept as ``<name>.bad``.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import lzma
import os
import posixpath
import tarfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from mlip_studies.artifacts import PathLike, record, recorded
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.download_http import Failure, Part, Transfer, WrongContent, is_checked
from mlip_studies.data.download_local import (
    BLOCK,
    Digests,
    Display,
    Limits,
    Stopped,
    cannot_write,
    check_room,
    content_problem,
    digests_of,
    only_writer,
    size_text,
)
from mlip_studies.errors import InputError

__all__ = ["Display", "Limits", "content_problem", "fetch", "fetch_many", "published_files"]

# RuntimeError: zipfile's for encrypted files and unknown compression.
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError
)  # fmt: skip


def fetch(
    entry: Mapping[str, Any],
    output: PathLike,
    mirror: str | None = None,
    *,
    limits: Limits | None = None,
    display: Display | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Fetch one published file; a file that is there and matches is left alone.

    Args:
        entry: ``name``, ``urls``, ``bytes``, ``md5``, ``sha256``, ``git_sha1`` (each of the last four may be null or
            missing) and optionally ``path``, a file that ships with the project. A URL that ends in ``#member`` is a
            zip or (compressed) tar archive that holds the file under that name.
        output: where the file goes; an unfinished download is kept as ``<output>.part`` and resumed.
        mirror: a folder (searched by file name, recursively) or a URL prefix, tried before ``urls``.
        limits: patience and margins.
        display: shows the progress; by default bars if standard error is a terminal.
        stop: ends the download (with :class:`~mlip_studies.data.download_local.Stopped`) when set.

    Returns:
        ``output``.

    Raises:
        InputError: wrong size or checksum (the file is moved to ``<output>.bad``), nothing reachable, no room, not
            writable, or another process that fetches the same file is stuck.
    """
    output = Path(output)
    limits = limits or Limits()
    stop = stop or threading.Event()
    with contextlib.ExitStack() as stack:
        if display is None:
            display = stack.enter_context(Display())
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(output, limits, display, stop))
            return _Fetch(entry, output, limits, display, stop).run(mirror)
        except OSError as error:
            raise cannot_write(output, error) from error


def fetch_many(
    entries: Iterable[Mapping[str, Any]],
    folder: PathLike,
    mirror: str | None = None,
    workers: int = 4,
    *,
    limits: Limits | None = None,
    display: Display | None = None,
) -> list[Path]:
    """Fetch several files at once into one folder, each under its name.

    A file that fails does not stop the others.

    Args:
        entries: see :func:`fetch`.
        folder: where the files go.
        mirror: see :func:`fetch`.
        workers: files at a time.
        limits: see :func:`fetch`.
        display: see :func:`fetch`.

    Returns:
        the paths, in the order of the entries.

    Raises:
        InputError: two different entries of one name; too little room for all of them; or files that failed.
    """
    folder = Path(folder)
    limits = limits or Limits()
    wanted: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if wanted.setdefault(entry["name"], entry) != entry:
            raise InputError(f"config/datasets.yaml: two different files are called {entry['name']}; rename one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    _check_room_for_all(wanted.values(), folder, limits)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        shown = display or stack.enter_context(Display())
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workers), thread_name_prefix="fetch"))
        jobs = [
            pool.submit(fetch, entry, folder / name, mirror, limits=limits, display=shown, stop=stop)
            for name, entry in wanted.items()
        ]
        try:
            pending = set(jobs)
            while pending:
                _, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
        except BaseException:
            # Ctrl-C: the threads stop at their next block, so that leaving does not wait for whole files.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    errors = [job.exception() for job in jobs]
    for unexpected in errors:
        if unexpected is not None and not isinstance(unexpected, InputError):
            raise unexpected
    failed = [str(error) for error in errors if error is not None]
    if len(failed) > 1:
        raise InputError(f"{len(failed)} of {len(jobs)} files failed: " + " | ".join(failed))
    if failed:
        raise InputError(failed[0])
    return [job.result() for job in jobs]


def published_files(datasets: Mapping[str, Any], names: Iterable[str], scale: str) -> list[dict[str, Any]]:
    """Entries of the files to be downloaded for some data sets; those that ship with the project are left out.

    Args:
        datasets: the content of ``config/datasets.yaml``.
        names: data sets.
        scale: ``mini`` or ``full``; chooses the sources of a composed data set.

    Raises:
        InputError: no such data set.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        resolved = resolve_dataset(datasets, name, scale)
        files = [entry["file"] for entry in resolved["source_entries"]]
        for file in [*files, *resolved.get("aux_files", {}).values()]:
            if not file.get("path"):
                found[file["name"]] = file
    return list(found.values())


def _check_room_for_all(entries: Iterable[Mapping[str, Any]], folder: Path, limits: Limits) -> None:
    need = 0
    for entry in entries:
        path = folder / entry["name"]
        part = path.with_name(path.name + ".part")
        if not path.exists():
            need += max(0, (entry.get("bytes") or 0) - (part.stat().st_size if part.exists() else 0))
    check_room(folder / "all files", need, limits.margin_bytes)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _local_path(url: str) -> Path | None:
    """The file that a ``file:`` address means."""
    parts = _split(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url}: not an address ({error}); correct `mirror` or config/datasets.yaml") from None


class _Fetch:
    """One call of :func:`fetch`, in the folder that exists, under the lock."""

    def __init__(
        self, entry: Mapping[str, Any], output: Path, limits: Limits, display: Display, stop: threading.Event
    ) -> None:
        self.entry, self.output = entry, output
        self.name: str = entry["name"]
        self.limits, self.display, self.stop = limits, display, stop
        self.failures: list[tuple[str, Failure]] = []

    def run(self, mirror: str | None) -> Path:
        entry, output = self.entry, self.output
        if output.exists() and self._is_there():
            return output
        if entry.get("path"):
            local = Path(entry["path"])
            if not local.is_file():
                raise InputError(
                    f"{local}: no such file; it ships with the project, restore it (`git checkout {local}`)"
                )
            if self._try(str(local), lambda: self._copy(local, None)):
                return output
            raise self._error(f"restore {local}")
        urls = list(entry.get("urls") or ())
        hint = "set `mirror` to a folder or URL that has it"
        if mirror and _split(mirror).scheme in ("http", "https"):
            prefix = mirror.rstrip("/")
            archives = [f"{prefix}/{urllib.parse.quote(base)}#{member}" for base, member in _archives(urls)]
            urls = [f"{prefix}/{urllib.parse.quote(self.name)}", *archives, *urls]
            hint = f"put it where the mirror {mirror} serves it"
        elif mirror:
            folder = _local_path(mirror) or Path(mirror).expanduser()
            if not folder.is_dir():
                raise InputError(f"mirror: {folder} is not a folder; expected a folder or a URL prefix")
            found = list(self._candidates(folder, urls))
            for path, member in found:
                if self._try(str(path), lambda path=path, member=member: self._copy(path, member)):
                    return output
            hint = f"put it into the mirror {folder}, which has no {'intact ' if found else ''}file of this name"
        if not urls and not self.failures:
            raise InputError(f"{self.name}: it has no public address; {hint}")
        for url in urls:
            if self._try(url.partition("#")[0], lambda url=url: self._get(url)):
                return output
        raise self._error(hint if mirror else f"without a network {hint}")

    def _is_there(self) -> bool:
        """Whether the output is right; a wrong one is moved aside. Read once, for all checksums and its record."""
        output = self.output
        digests = digests_of(self.entry, output)
        problem = digests.problem()
        # Where nothing published tells whether it is right, it must at least be what was once fetched.
        known = recorded(output)
        if problem is None and not is_checked(self.entry) and known is not None and known[0] != digests.sha256:
            problem = "it changed after it was fetched"
        if problem is None:
            record(self.output, digests.sha256)
            return True
        bad = _beside(output, ".bad")
        os.replace(output, bad)
        self.display.say(f"{self.name}: wrong content, {problem}; moved to {bad}, fetching it anew")
        return False

    def _try(self, where: str, action: Any) -> bool:
        try:
            action()
        except Failure as error:
            self.failures.append((where, error))
            self.display.say(f"{self.name}: {where}: {error}")
            return False
        return True

    def _error(self, advice: str) -> InputError:
        if all(isinstance(error, WrongContent) for _, error in self.failures):
            text = "; ".join(f"wrong content, {error} ({where})" for where, error in self.failures)
            return InputError(
                f"{self.name}: {text}; run again to fetch it anew or correct the entry in config/datasets.yaml"
            )
        text = "; ".join(f"{where}: {error}" for where, error in self.failures)
        return InputError(f"{self.name}: could not be downloaded ({text}); run again to resume, or {advice}")

    # ---- what ends well ----

    def _finish(self, path: Path, digests: Digests, begun: float, received: int) -> None:
        """Give the checked file its name, on disk before its record says so."""
        size = path.stat().st_size
        os.replace(path, self.output)
        record(self.output, digests.sha256)
        seconds = max(time.monotonic() - begun, 1e-3)
        there = f", {size_text(size - received)} of it earlier" if 0 < received < size else ""
        known = "checksum matches" if is_checked(self.entry) else "no published checksum"
        self.display.say(
            f"{self.name}: {size_text(size)} in {seconds:.1f} s ({received / seconds / 1e6:.1f} MB/s{there}), {known}"
        )

    def _wrong(self, path: Path, problem: str, written: bool = True) -> WrongContent:
        bad = _beside(self.output, ".bad")
        os.replace(path, bad)
        return WrongContent(f"{problem}; kept as {bad}", written)

    # ---- from a folder, or out of an archive ----

    def _candidates(self, folder: Path, urls: list[str]) -> Iterator[tuple[Path, str | None]]:
        """Files of the mirror by this name, then archives that hold it."""
        for name, member in [(self.name, None), *_archives(urls)]:
            for path in sorted(folder.rglob(glob.escape(name))):
                if path.is_file():
                    yield path, member

    def _copy(self, source: Path, member: str | None) -> None:
        """Copy a local file, or one of an archive; the source stays, so a wrong copy is not kept."""
        expected = self.entry.get("bytes")
        try:
            size = source.stat().st_size
            if member is None and expected and size != expected:
                raise WrongContent(f"it has {size} bytes, expected {expected}")
            if member is not None:
                self._extract(source, member, keep_wrong=False)
                return
            with source.open("rb", buffering=0) as stream:
                self._take(stream, size, keep_wrong=False)
        except OSError as error:
            # Reading failed; what fails on our own disk is an InputError already.
            raise Failure(error.strerror or str(error)) from error

    def _take(self, stream: IO[bytes], size: int, keep_wrong: bool) -> None:
        """Write a stream of ``size`` bytes to ``<output>.copy``, check it on the way, and give it its name."""
        copy = _beside(self.output, ".copy")
        copy.unlink(missing_ok=True)
        check_room(copy, size, self.limits.margin_bytes)
        self.display.say(f"{self.name}: copying {size_text(size)}")
        begun = time.monotonic()
        digests = Digests(self.entry, size)
        bar = self.display.bar(self.name, size)
        done = 0
        try:
            target = copy.open("wb", buffering=0)
        except OSError as error:
            raise cannot_write(copy, error) from error
        try:
            with contextlib.closing(target):
                while block := stream.read(BLOCK):
                    if self.stop.is_set():
                        raise Stopped
                    _write_all(target, block, copy)
                    digests.update(block)
                    done += len(block)
                    bar.at(done)
                _sync(target, copy)
            if done != size:
                raise Failure(f"it ended after {done} of {size} bytes")
            problem = digests.problem()
            if problem is not None:
                raise self._wrong(copy, problem) if keep_wrong else WrongContent(problem)
            self._finish(copy, digests, begun, done)
        finally:
            bar.close()
            copy.unlink(missing_ok=True)

    def _extract(self, archive: Path, member: str, keep_wrong: bool) -> None:
        """Take one file out of a zip or tar archive, whatever its name says it is."""
        try:
            if not tarfile.is_tarfile(archive):
                with zipfile.ZipFile(archive) as bundle:
                    try:
                        info = bundle.getinfo(member)
                    except KeyError:
                        raise _no_member(member, bundle.namelist()) from None
                    with bundle.open(info) as inner:
                        self._take(inner, info.file_size, keep_wrong)
                return
            names = []
            # Read in order: a compressed archive is unpacked once, and only up to the member.
            with tarfile.open(archive, "r:*") as tar:
                for one in tar:
                    if one.name.removeprefix("./") == member and one.isfile():
                        stream = tar.extractfile(one)
                        assert stream is not None
                        self._take(stream, one.size, keep_wrong)
                        return
                    names.append(one.name)
            raise _no_member(member, names)
        except (*_DAMAGED, OSError) as error:
            # bz2 reports damage as an OSError without a number; those with one come from the disk.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise WrongContent(f"the archive is damaged ({str(error) or type(error).__name__})") from error

    # ---- from a server ----

    def _get(self, url: str) -> None:
        address, _, member = url.partition("#")
        local = _local_path(address)
        if local is not None:
            if not local.is_file():
                raise Failure("no such file")
            self._copy(local, urllib.parse.unquote(member) or None)
            return
        try:
            self._download(address, urllib.parse.unquote(member))
        except _Pieced as error:
            # Pieces of two versions, or of another file of this name: begin once more, from nothing.
            self.display.say(f"{self.name}: wrong content, {error}; it was pieced together, fetching it anew")
            self._download(address, urllib.parse.unquote(member))

    def _download(self, address: str, member: str) -> None:
        entry, output, limits = self.entry, self.output, self.limits
        checked = is_checked(entry)
        if member:
            # The archive's own checksum is unknown, that of the file in it is checked as it comes out.
            part = Part(_beside(output, ".archive.part"), {}, None, checked)
            if part.origin is None or part.origin.url != address:
                # Another archive that holds the same file has other bytes.
                part.restart()
            room = entry.get("bytes") or 0
        else:
            part = Part(_beside(output, ".part"), entry, entry.get("bytes"), checked)
            room = 0
        begun = time.monotonic()
        there = f", {size_text(part.size)} are there already" if part.size else ""
        self.display.say(f"{self.name}: fetching {address}{there}")
        transfer = Transfer(address, part, self.name, limits, self.display, self.stop, room)
        try:
            transfer.run()
        except WrongContent as error:
            if not error.written:
                raise
            raise self._reject(part, str(error)) from error
        if member:
            # The archive stays if the disk is full or the member's name is wrong: it need not be fetched again then.
            try:
                self._extract(part.path, member, keep_wrong=True)
            except WrongContent as error:
                pieced = part.pieced
                part.restart()
                raise (_Pieced if pieced else WrongContent)(str(error)) from error
            part.restart()
            return
        digests = part.finish()
        problem = digests.problem()
        if problem is not None:
            raise self._reject(part, problem)
        self._finish(part.path, digests, begun, transfer.received)
        part.forget()

    def _reject(self, part: Part, problem: str) -> WrongContent:
        pieced = part.pieced
        part.close()
        wrong = self._wrong(part.path, problem)
        part.forget()
        return _Pieced(str(wrong)) if pieced else wrong


class _Pieced(WrongContent):
    """Wrong content that came in pieces, perhaps of different files."""


def _archives(urls: list[str]) -> list[tuple[str, str]]:
    """File name and member of the archives among some addresses."""
    parts = [_split(url) for url in urls]
    return [
        (urllib.parse.unquote(posixpath.basename(part.path)), urllib.parse.unquote(part.fragment))
        for part in parts
        if part.fragment and posixpath.basename(part.path)
    ]


def _no_member(member: str, names: list[str]) -> Failure:
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return Failure(f"the archive does not hold {member} (it holds {some or 'nothing'})")


def _write_all(target: IO[bytes], block: bytes, path: Path) -> None:
    view = memoryview(block)
    while view:
        try:
            view = view[target.write(view) or 0 :]
        except OSError as error:
            raise cannot_write(path, error) from error


def _sync(target: IO[bytes], path: Path) -> None:
    try:
        os.fsync(target.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
