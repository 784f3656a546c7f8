"""Fetch published files: resume, size and checksum verification, mirrors for sites without a network.

Only the standard library is used: one ``Range`` header does not justify a dependency.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mlip_studies.artifacts import PathLike, record
from mlip_studies.errors import InputError

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0
# Broken connections are resumed this often in a row without any progress before the next address is tried.
_STALLS = 4
_AGENT = "mlip-studies"


def fetch(entry: Mapping[str, Any], output: PathLike, mirror: str | None = None) -> Path:
    """Fetch one published file; a file that is there and matches is left alone.

    Args:
        entry: ``name``, ``urls``, ``bytes``, ``md5``, ``sha256`` (each of the last three may be null) and optionally
            ``path``, a file that ships with the project. A URL that ends in ``#member`` is a zip archive that holds
            the file under that name.
        output: where the file goes; an unfinished download is kept as ``<output>.part`` and resumed.
        mirror: a folder (searched by file name, recursively) or a URL prefix, tried before ``urls``.

    Returns:
        ``output``.

    Raises:
        InputError: wrong size or checksum (the file is moved to ``<output>.bad``), nothing reachable, not writable.
    """
    output = Path(output)
    name = entry["name"]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            if not content_problem(entry, output):
                record(output)
                return output
            os.replace(output, output.with_name(output.name + ".bad"))
        part = output.with_name(output.name + ".part")
        if entry.get("path"):
            local = Path(entry["path"])
            if not local.is_file():
                raise InputError(
                    f"{local}: no such file; it ships with the project, restore it (`git checkout {local}`)"
                )
            return _copy(entry, local, output)
        urls = list(entry.get("urls") or ())
        hint = "set `mirror` to a folder or URL that has it"
        if mirror and not _is_url(mirror):
            folder = Path(mirror).expanduser()
            if not folder.is_dir():
                raise InputError(f"mirror: {folder} is not a folder; expected a folder or a URL prefix")
            found = sorted(path for path in folder.rglob(name) if path.is_file())
            good = [path for path in found if not content_problem(entry, path)]
            if good or (found and not urls):
                return _copy(entry, (good or found)[0], output)
            hint = f"the mirror {folder} has no {'intact ' if found else ''}file of this name"
        elif mirror:
            urls.insert(0, f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}")
        if not urls:
            raise InputError(f"{name}: it has no public address; {hint}")
        failures = []
        for url in urls:
            try:
                _get(url, part, entry)
            except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as error:
                if _is_local_failure(error):
                    raise
                failures.append(f"{url.split('#')[0]}: {_reason(error)}")
                continue
            return _accept(entry, part, output)
        advice = hint if mirror else f"without a network {hint}"
        raise InputError(f"{name}: could not be downloaded ({'; '.join(failures)}); run again to resume, or {advice}")
    except OSError as error:
        raise InputError(
            f"{error.filename or output}: cannot write ({error.strerror or error}); make room or set another `results`"
        ) from error


def _is_url(text: str) -> bool:
    return urllib.parse.urlsplit(text).scheme in ("http", "https", "file")


def _is_local_failure(error: BaseException) -> bool:
    """Failures of our own disk, which no other address can cure."""
    return isinstance(error, OSError) and error.filename is not None and not isinstance(error, urllib.error.URLError)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    if isinstance(error, KeyError):
        return "the archive does not hold it"
    return str(error) or type(error).__name__


def content_problem(entry: Mapping[str, Any], path: Path) -> str | None:
    """What is wrong with a file, compared with the size and checksums of its entry, or None."""
    size = path.stat().st_size
    if entry.get("bytes") and size != entry["bytes"]:
        return f"it has {size} bytes, expected {entry['bytes']}"
    for kind in ("sha256", "md5"):
        if entry.get(kind):
            # MD5 is what some publishers state; it guards against damage, not against forgery.
            new = functools.partial(hashlib.new, kind, usedforsecurity=False)
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, new)
            if found.hexdigest() != entry[kind].lower():
                return f"its {kind} is {found.hexdigest()}, expected {entry[kind].lower()}"
    return None


def _accept(entry: Mapping[str, Any], part: Path, output: Path) -> Path:
    problem = content_problem(entry, part)
    if problem:
        bad = output.with_name(output.name + ".bad")
        os.replace(part, bad)
        raise InputError(
            f"{entry['name']}: wrong content, {problem}; kept as {bad}, run again to fetch it anew or "
            "correct the entry in config/datasets.yaml"
        )
    os.replace(part, output)
    record(output)
    return output


def _copy(entry: Mapping[str, Any], source: Path, output: Path) -> Path:
    part = output.with_name(output.name + ".part")
    shutil.copyfile(source, part)
    return _accept(entry, part, output)


def _get(url: str, part: Path, entry: Mapping[str, Any]) -> None:
    """Download one address into ``part``."""
    address, _, member = url.partition("#")
    if not member:
        _download(address, part, entry.get("bytes"))
        return
    archive = part.with_name(part.name.removesuffix(".part") + ".zip.part")
    _download(address, archive, None)
    with zipfile.ZipFile(archive) as bundle, bundle.open(member) as stream, part.open("wb") as target:
        shutil.copyfileobj(stream, target, _BLOCK)
    archive.unlink()


def _download(url: str, part: Path, expected: int | None) -> None:
    """Download with resume; broken connections are taken up again as long as bytes keep coming."""
    stalls = 0
    while True:
        start = part.stat().st_size if part.exists() else 0
        if expected and start > expected:
            part.unlink()
            start = 0
        if expected and start == expected:
            return
        try:
            if _request(url, part, start):
                return
            reason: Exception = http.client.IncompleteRead(b"")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:
                # Nothing is left to send: the part is whole, or not a part of this file, which the checksum tells.
                total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if total == str(start):
                    return
                part.unlink()
                start = -1
            elif error.code not in (429, 500, 502, 503, 504):
                raise
            reason = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
        now = part.stat().st_size if part.exists() else 0
        stalls = 0 if now > start else stalls + 1
        if stalls >= _STALLS or (now == 0 and isinstance(reason, urllib.error.URLError) and not _transient(reason)):
            raise reason
        time.sleep(min(0.2 * 2**stalls, 5.0))


def _transient(error: urllib.error.URLError) -> bool:
    return isinstance(error, urllib.error.HTTPError)


def _request(url: str, part: Path, start: int) -> bool:
    """One request from byte ``start``; whether everything that was announced arrived."""
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = getattr(response, "status", 200) == 206
        if resumed and not (response.headers.get("Content-Range") or f"bytes {start}-").startswith(f"bytes {start}-"):
            resumed = False
        if start and not resumed and response.status == 206:
            part.unlink()
            return False
        begin = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else None
        with part.open("ab" if resumed else "wb") as target:
            done = _pump(response, target, begin, total, part.name.removesuffix(".part"))
    return total is None or done == total


def _pump(source: Any, target: BinaryIO, done: int, total: int | None, name: str) -> int:
    show = sys.stderr.isatty()
    shown = 0.0
    while block := source.read(_BLOCK):
        target.write(block)
        done += len(block)
        if show and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            share = f" of {total / 1e6:.1f} MB ({100 * done / total:.0f} %)" if total else " MB"
            print(f"\r{name}: {done / 1e6:.1f}{share}", end="", file=sys.stderr, flush=True)
    if show:
        print(file=sys.stderr)
    return done
