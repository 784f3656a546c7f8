"""Transfer of one address to a partial file: resume, back-off, and no splicing of two versions of a file.

Requests is used because it honours proxies, private certificates and ``.netrc`` as sites set them up, and urllib3 below
it detects short bodies and reads ``Retry-After``; neither resumes a body, which is what this module adds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import requests
import urllib3

from mlip_studies.data.download_local import (
    BLOCK,
    CHECKSUMS,
    Bar,
    Digests,
    Display,
    Limits,
    Stopped,
    cannot_write,
    check_room,
    digests_of,
)

# 202 is what some archives answer while they fetch a file from tape or doubt that the client is friendly.
_TRANSIENT = frozenset({202, 408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError)
_HOPELESS = (requests.TooManyRedirects, requests.exceptions.InvalidHeader, ValueError)


class Failure(Exception):
    """An address that cannot serve the file; the message says why."""


class WrongContent(Failure):
    """The server has another file; ``written`` if its bytes are in the part."""

    def __init__(self, problem: str, written: bool = False) -> None:
        super().__init__(problem)
        self.written = written


class _TryAgain(Exception):
    """An attempt that may succeed later."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a part come from, and what tells this version of the file from another.

    Attributes:
        url: the address.
        etag: ETag that the server sent.
        last_modified: date that the server sent.
        total: size of the whole file (bytes).
    """

    url: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def condition(self) -> str | None:
        """Value for If-Range; a weak ETag must not be used there."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Part:
    """A partial file ``<name>.part``, its running checksums, and ``<name>.part.json`` about its origin."""

    def __init__(self, path: Path, entry: Mapping[str, Any], expected: int | None, checked: bool) -> None:
        """Open a part.

        Args:
            path: the partial file; need not exist.
            entry: checksums that run along.
            expected: size of the whole file if it is known (bytes).
            checked: whether a checksum will tell if the bytes are right.
        """
        self.path = path
        self.expected = expected
        self.checked = checked
        self._entry = entry
        self._about = path.with_name(path.name + ".json")
        self._stream: IO[bytes] | None = None
        self.origin: Origin | None = None
        self.size = path.stat().st_size if path.exists() else 0
        self.pieced = self.size > 0
        if self.size:
            self.origin = self._read_about()
            if expected is not None and self.size > expected:
                self.restart()
            else:
                total = expected or (self.origin.total if self.origin else None)
                self.digests = digests_of(entry, path, total)
                return
        self.digests = Digests(entry, expected)

    def _read_about(self) -> Origin | None:
        try:
            return Origin(**json.loads(self._about.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def may_continue(self, url: str) -> bool:
        """Whether bytes from ``url`` may follow those that are there.

        A checksum at the end proves the whole, wherever its pieces come from. Without one, the server has to confirm
        that the file is still the same.
        """
        if self.checked:
            return True
        return self.origin is not None and self.origin.url == url and bool(self.origin.condition or self.origin.etag)

    def restart(self) -> None:
        """Drop all bytes."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)
        self.origin = None
        self.size = 0
        self.pieced = False
        self.digests = Digests(self._entry, self.expected)

    def begin(self, origin: Origin) -> None:
        """Prepare for bytes from ``origin``; what the part holds already must belong to the same file."""
        self.pieced = self.size > 0
        if not self.digests.usable_for(origin.total):
            self.digests = digests_of(self._entry, self.path, origin.total) if self.size else Digests(
                self._entry, origin.total
            )  # fmt: skip
        try:
            # On disk before the first byte: a part never lies beside the validators of another version.
            temporary = self._about.with_name(self._about.name + ".tmp")
            temporary.write_text(json.dumps(asdict(origin)))
            os.replace(temporary, self._about)
            self._stream = self.path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.origin = origin

    def write(self, block: bytes) -> None:
        """Append bytes.

        Raises:
            WrongContent: more bytes than expected.
            InputError: the disk takes no more.
        """
        assert self._stream is not None
        if self.expected is not None and self.size + len(block) > self.expected:
            raise WrongContent(f"it goes on after the expected {self.expected} bytes", written=True)
        view = memoryview(block)
        while view:
            try:
                count = self._stream.write(view) or 0
            except OSError as error:
                stream, self._stream = self._stream, None
                with contextlib.suppress(OSError):
                    stream.close()
                raise cannot_write(self.path, error) from error
            self.digests.update(view[:count])
            self.size += count
            view = view[count:]

    def close(self) -> None:
        """Close the file; the bytes are on the disk then."""
        if self._stream is None:
            return
        stream, self._stream = self._stream, None
        try:
            # Network file systems and quotas may report a full disk only here.
            os.fsync(stream.fileno())
            stream.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def finish(self) -> Digests:
        """Digests of the whole file; read once more only if git's checksum met a size that nobody announced."""
        if not self.digests.usable_for(self.size):
            self.digests = digests_of(self._entry, self.path)
        return self.digests

    def forget(self) -> None:
        """Remove the note on the origin after the part was renamed."""
        self._about.unlink(missing_ok=True)


class Transfer:
    """Download of one address into a part."""

    def __init__(
        self,
        url: str,
        part: Part,
        name: str,
        limits: Limits,
        display: Display,
        stop: threading.Event,
        extra_room: int = 0,
    ) -> None:
        """Prepare.

        Args:
            url: http or https address.
            part: takes the bytes.
            name: name of the file, for messages.
            limits: patience.
            display: shows the progress.
            stop: ends the transfer when set.
            extra_room: bytes that are written later besides the part.
        """
        self._url, self._part, self._name = url, part, name
        self._limits, self._display, self._stop, self._extra_room = limits, display, stop, extra_room
        self._best = part.size
        # A file that changes again and again must not be begun for ever, although each time brings bytes.
        self._restarts = 0
        self.received = 0

    def run(self) -> None:
        """Download until the part is whole.

        Raises:
            Failure: this address cannot serve the file.
            WrongContent: it serves another one.
            InputError: no room on the disk.
        """
        part, limits = self._part, self._limits
        if part.size and not part.may_continue(self._url):
            part.restart()
        if part.expected is not None and part.size == part.expected:
            return
        if part.expected is not None:
            check_room(part.path, part.expected - part.size + self._extra_room, limits.margin_bytes)
        idle = 0
        bar = self._display.bar(self._name, part.expected)
        try:
            with requests.Session() as session:
                session.headers.update({"User-Agent": "mlip-studies", "Accept-Encoding": "identity"})
                while True:
                    wait = None
                    try:
                        if self._attempt(session, bar):
                            return
                        reason = "the file changed on the server while it was read"
                    except _TryAgain as error:
                        reason, wait = str(error), error.wait_s
                    except _NETWORK as error:
                        reason = _reason(error, limits)
                        if isinstance(error, _HOPELESS) or (not self.received and _unreachable(error)):
                            raise Failure(reason) from error
                    finally:
                        part.close()
                    idle = 0 if part.size > self._best else idle + 1
                    self._best = max(self._best, part.size)
                    if max(idle, self._restarts) >= limits.attempts:
                        raise Failure(f"{reason} ({limits.attempts} attempts)")
                    if wait is None:
                        wait = min(limits.backoff_max_s, limits.backoff_s * 2**idle) * random.uniform(0.5, 1.0)
                    pause(min(wait, limits.retry_after_max_s), self._stop)
        finally:
            bar.close()

    def _attempt(self, session: requests.Session, bar: Bar) -> bool:
        """One request; True when the part is whole, False when it was dropped because the file changed."""
        part, url = self._part, self._url
        headers = {}
        condition = None
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if part.origin is not None and part.origin.url == url and part.origin.condition:
                condition = headers["If-Range"] = part.origin.condition
        timeout = (self._limits.connect_s, self._limits.stall_s)
        with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416 and part.size:
                return self._nothing_left(response)
            if response.status_code not in (200, 206):
                text = f"HTTP {response.status_code}"
                wait = _retry_after(response)
                if response.status_code in _TRANSIENT or wait is not None:
                    raise _TryAgain(text, wait)
                raise Failure(text)
            total = _number(response.headers.get("Content-Length"))
            continued = response.status_code == 206
            if continued:
                start, total = _content_range(response)
                if start != part.size:
                    self._drop()
                    raise _TryAgain("the server sent another range than it was asked for")
            if part.expected is not None and total is not None and total > part.expected:
                raise WrongContent(f"it has {total} bytes, expected {part.expected}")
            now = Origin(
                url, response.headers.get("ETag"), response.headers.get("Last-Modified"), part.expected or total
            )
            changed = bool(part.size) and self._changed(now, condition)
            if continued and changed:
                self._drop()
                return False
            # The first bytes are looked at before a part gives way to them: it may be a page that says "log in".
            first = response.raw.read1(BLOCK, decode_content=False)
            self._check_kind(response, first)
            if not continued and part.size:
                if changed:
                    self._drop()
                else:
                    part.restart()
            check_room(part.path, (now.total or part.size) - part.size + self._extra_room, self._limits.margin_bytes)
            part.begin(now)
            self._pump(response, first, bar, now.total)
        whole = part.expected if part.expected is not None else total
        if whole is not None and part.size < whole:
            raise _TryAgain(f"it ended after {part.size} of {whole} bytes")
        return True

    def _pump(self, response: requests.Response, block: bytes, bar: Bar, total: int | None) -> None:
        part = self._part
        while block:
            if self._stop.is_set():
                raise Stopped
            part.write(block)
            self.received += len(block)
            bar.at(part.size, total)
            block = response.raw.read1(BLOCK, decode_content=False)

    def _drop(self) -> None:
        """Forget bytes that may belong to another version."""
        self._part.restart()
        self._best = 0
        self._restarts += 1

    def _nothing_left(self, response: requests.Response) -> bool:
        """The server has nothing after the part: it is whole, or no part of this file."""
        part = self._part
        total = _number((response.headers.get("Content-Range") or "").rpartition("/")[2])
        known = part.origin.total if part.origin is not None else None
        if total == part.size and part.expected is None and (part.checked or known in (None, total)):
            return True
        if total == part.size and part.expected is not None:
            raise _TryAgain(f"it has {total} bytes there, expected {part.expected}")
        self._drop()
        raise _TryAgain("the server has nothing after the bytes that are here")

    def _changed(self, now: Origin, condition: str | None) -> bool:
        """Whether the server's file is another version than the one the part was begun from."""
        before = self._part.origin
        if before is None:
            return False
        pairs: list[tuple[object, object]] = [(before.total, now.total)]
        if before.url == now.url:
            pairs += [(before.etag, now.etag), (before.last_modified, now.last_modified)]
        if any(old is not None and new is not None and old != new for old, new in pairs):
            return True
        return not (self._part.checked or condition is not None or (now.etag and now.etag == before.etag))

    def _check_kind(self, response: requests.Response, first: bytes) -> None:
        """Refuse what is certainly not the file: a web page, or a body that was compressed on the way."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        # A binary file that a server merely calls text/html is no page, and its checksum will prove it.
        looks_like_page = not self._part.checked or first.lstrip()[:1] == b"<"
        is_page = kind in ("text/html", "application/xhtml+xml") and looks_like_page
        if is_page and not self._name.lower().endswith((".html", ".htm", ".xml")):
            raise Failure("the server sent a web page instead of the file (a login or error page?)")
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding != "identity" and not self._part.checked and not self._name.endswith(("gz", ".xz", ".bz2")):
            raise Failure(f"the server sent it {coding}-encoded although it was asked not to")


def pause(seconds: float, stop: threading.Event) -> None:
    """Wait, unless the whole call is ended.

    Raises:
        Stopped: it is.
    """
    if stop.wait(seconds):
        raise Stopped


def is_checked(entry: Mapping[str, Any]) -> bool:
    """Whether an entry states a checksum."""
    return any(entry.get(kind) for kind in CHECKSUMS)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, as the server states them."""
    match = re.fullmatch(r"\s*bytes\s+(\d+)-\d+/(\d+|\*)\s*", response.headers.get("Content-Range") or "")
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait (it may send a number or a date)."""
    value = response.headers.get("Retry-After")
    try:
        return urllib3.Retry().parse_retry_after(value) if value else None
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [getattr(one, "reason", None), *one.args, one.__cause__, one.__context__]
    return found


def _unreachable(error: BaseException) -> bool:
    """Whether no server answered at all, which waiting seldom cures and a site without a network never."""
    kinds = (
        requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.exceptions.ConnectTimeout,
        urllib3.exceptions.NewConnectionError,
    )  # fmt: skip
    return any(isinstance(one, kinds) for one in _chain(error))


def _reason(error: BaseException, limits: Limits) -> str:
    chain = _chain(error)
    for one in chain:
        if isinstance(one, requests.exceptions.ConnectTimeout):
            return f"no answer within {limits.connect_s:g} s"
        if isinstance(one, urllib3.exceptions.ReadTimeoutError | requests.exceptions.ReadTimeout):
            return f"nothing arrived for {limits.stall_s:g} s"
        if isinstance(one, urllib3.exceptions.NameResolutionError):
            return "the name of the server is not known here"
        if isinstance(one, urllib3.exceptions.IncompleteRead):
            return "the connection broke"
    for one in chain:
        if isinstance(one, OSError) and not isinstance(one, requests.RequestException) and one.strerror:
            return one.strerror
    return " ".join(str(error).split()) or type(error).__name__
