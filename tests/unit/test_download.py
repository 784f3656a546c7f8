"""Downloads against a local server that misbehaves in every way a real one does; and against full disks and kills."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import email.utils
import hashlib
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlip_studies
from mlip_studies.artifacts import is_intact
from mlip_studies.data import download, download_http, download_local
from mlip_studies.data.download import Display, Limits, content_problem, fetch, fetch_many, published_files
from mlip_studies.data.download_local import Stopped
from mlip_studies.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
OTHER = np.random.default_rng(1).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
QUICK = Limits(attempts=4, stall_s=0.2, backoff_s=0.0, poll_s=0.02, holder_s=0.3)


@dataclasses.dataclass
class Reply:
    """How the server answers one request; by default as it should."""

    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut: int | None = None  # bytes of the body after which the connection is closed
    hold: threading.Event | None = None  # waited for after these bytes, instead of closing
    claim: int = 0  # added to Content-Length
    extra: bytes = b""  # sent after the body
    length: bool = True
    chunked: bool = False
    ranges: bool = True
    shift: int = 0  # added to the start of Content-Range
    before: Callable[[], object] | None = None
    body: bytes | None = None


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path; ``script`` holds the replies to come, afterwards all are good."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.tags: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.conditions: list[str | None] = []
        self.sent: list[int] = []
        self.script: collections.deque[Reply] = collections.deque()
        self.always: Reply | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        server.conditions.append(self.headers.get("If-Range"))
        reply = server.script.popleft() if server.script else server.always or Reply()
        if reply.before:
            reply.before()
        content = server.files.get(self.path) if reply.body is None else reply.body
        if content is None and reply.status is None:
            reply.status = 404
        tags = server.tags.get(self.path, {})
        if reply.status is not None and reply.status != 200:
            self.send_response(reply.status)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        condition = self.headers.get("If-Range")
        if wanted and reply.ranges and (condition is None or condition in tags.values()):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + reply.shift}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        for key, value in (tags | reply.headers).items():
            self.send_header(key, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.length:
            self.send_header("Content-Length", str(len(content) - start + reply.claim))
        self.end_headers()
        body = content[start:][: reply.cut] + reply.extra
        if reply.chunked:
            body = b"%x\r\n" % len(body) + body + b"\r\n" + (b"0\r\n\r\n" if reply.cut is None else b"")
        self.wfile.write(body)
        self.wfile.flush()
        server.sent.append(len(body))
        if reply.hold is not None:
            reply.hold.wait(20)
            self.wfile.write(content[start:][len(body) :])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch) -> None:
    """Waiting for the disk itself would take most of the time of these tests."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Waits that were asked for; none is made."""
    made: list[float] = []
    monkeypatch.setattr(download_http, "pause", lambda seconds, stop: made.append(seconds))
    return made


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(*urls: str, **changes) -> dict:
    return {
        "name": "data.bin",
        "urls": list(urls),
        "bytes": len(CONTENT),
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    } | changes


PACKAGE = str(Path(mlip_studies.__file__).parents[1])
UNKNOWN = {"bytes": None, "md5": None, "sha256": None}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def get(made: dict, output: Path, mirror: str | None = None, **options) -> Path:
    return fetch(made, output, mirror, **({"limits": QUICK} | options))


def child(code: str, *arguments: object) -> subprocess.Popen:
    """A Python process with the package; arguments arrive as a list in `a`."""
    return subprocess.Popen(
        [sys.executable, "-c", "import json, sys; a = json.loads(sys.argv[1])\n" + code, json.dumps(arguments)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PACKAGE},
    )  # fmt: skip


FETCH = """
from mlip_studies.data.download import Limits, fetch
fetch(a[0], a[1], limits=Limits(poll_s=0.02, stall_s=20))
"""


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


# ---- the plain way ----


def test_download_then_nothing_to_do(server, tmp_path, capsys):
    output = tmp_path / "raw" / "data.bin"
    assert get(entry(f"{server.url}/data.bin"), output) == output
    assert output.read_bytes() == CONTENT and is_intact(output)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"data.bin: fetching {server.url}/data.bin" and len(lines) == 2
    assert re.fullmatch(r"data\.bin: 3\.0 MB in \d+\.\d s \(\d+\.\d MB/s\), checksum matches", lines[1])
    get(entry(f"{server.url}/data.bin"), output)
    assert len(server.requests) == 1
    assert names(output.parent) == [".sha256", "data.bin"]


def test_the_bytes_are_read_once_only(server, tmp_path, monkeypatch):
    """Neither the checksums nor the record of the finished file need a second look at it."""
    monkeypatch.setattr(download, "digests_of", None)
    monkeypatch.setattr(download_http, "digests_of", None)
    server.script += [Reply(cut=1_000_000), Reply(cut=500_000)]
    get(entry(f"{server.url}/data.bin", git_sha1=git_sha1(CONTENT)), tmp_path / "data.bin")
    assert is_intact(tmp_path / "data.bin")


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_the_checksum_of_git(server, tmp_path, size, length):
    made = entry(f"{server.url}/data.bin", **UNKNOWN | {"bytes": size, "git_sha1": git_sha1(CONTENT)})
    server.always = Reply(length=length)
    get(made, tmp_path / "data.bin")
    assert content_problem(made, tmp_path / "data.bin") is None
    with pytest.raises(InputError, match=f"its git_sha1 is {git_sha1(CONTENT)}, expected {'0' * 40}"):
        get(made | {"git_sha1": "0" * 40}, tmp_path / "other.bin")
    (tmp_path / "data.bin").write_bytes(OTHER)
    assert content_problem(made, tmp_path / "data.bin") == f"its git_sha1 is {git_sha1(OTHER)}, expected " + git_sha1(
        CONTENT
    )


def test_git_agrees(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    try:
        done = subprocess.run(["git", "hash-object", "--no-filters", tmp_path / "file"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert content_problem({"git_sha1": done.stdout.strip()}, tmp_path / "file") is None


def test_redirects_keep_the_range(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    server.script += [Reply(status=302, headers={"Location": "/data.bin"})]
    get(entry(f"{server.url}/elsewhere"), tmp_path / "data.bin")
    assert server.requests == [("/elsewhere", "bytes=1000-"), ("/data.bin", "bytes=1000-")]


def test_redirects_without_end(server, tmp_path):
    server.always = Reply(status=302, headers={"Location": "/data.bin"})
    with pytest.raises(InputError, match="redirects"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")


# ---- resume ----


def test_resume_of_an_earlier_run(server, tmp_path, capsys):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1_234_567])
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == [("/data.bin", "bytes=1234567-")]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("1.2 MB are there already") and "1.2 MB of it earlier" in lines[1]


def test_broken_connections_are_taken_up_again(server, tmp_path):
    server.script += [Reply(cut=1_000_000), Reply(cut=700_000), Reply(cut=0), Reply(cut=5, chunked=True)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.requests]
    assert asked == [None, "bytes=1000000-", "bytes=1700000-", "bytes=1700000-", "bytes=1700005-"]


def test_a_stalled_connection_is_given_up_and_resumed(server, tmp_path):
    hold = threading.Event()
    server.script += [Reply(cut=1_000_000, hold=hold)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    hold.set()
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000000-"]


def test_a_server_that_stalls_for_ever(server, tmp_path):
    hold = threading.Event()
    server.always = Reply(cut=0, hold=hold)
    with pytest.raises(InputError, match=r"nothing arrived for 0.05 s \(2 attempts\).*run again to resume"):
        get(
            entry(f"{server.url}/data.bin"), tmp_path / "data.bin", limits=Limits(stall_s=0.05, attempts=2, backoff_s=0)
        )
    hold.set()


def test_a_broken_download_keeps_its_part(server, tmp_path):
    server.script += [Reply(cut=1_000_000)]
    server.always = Reply(cut=0)
    with pytest.raises(InputError, match=r"data.bin: could not be downloaded .*broke.*run again to resume"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin.part").stat().st_size == 1_000_000 and not (tmp_path / "data.bin").exists()
    assert len(server.requests) == 1 + QUICK.attempts
    server.always = None
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert server.requests[-1] == ("/data.bin", "bytes=1000000-")


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.always = Reply(ranges=False)
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    server.script += [Reply(ranges=False, cut=2_000_000), Reply(ranges=False, cut=1_000_000)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and not (tmp_path / "data.bin.bad").exists()


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, tmp_path):
    server.always = Reply(ranges=False, cut=1_000_000)
    with pytest.raises(InputError, match=rf"the connection broke \({QUICK.attempts} attempts\)"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert len(server.requests) == 1 + QUICK.attempts


@pytest.mark.parametrize("known_size", [True, False])
def test_a_part_that_is_already_whole(server, tmp_path, known_size):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    get(entry(f"{server.url}/data.bin", **({} if known_size else {"bytes": None})), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.requests) == (0 if known_size else 1)


@pytest.mark.parametrize("known_size", [True, False])
def test_a_part_longer_than_the_file_is_dropped(server, tmp_path, known_size):
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    get(entry(f"{server.url}/data.bin", **({} if known_size else {"bytes": None})), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests][-1] is None


def test_kill_in_the_middle_then_resume(server, tmp_path):
    hold = threading.Event()
    server.script += [Reply(cut=1_500_000, hold=hold)]
    made, output, part = entry(f"{server.url}/data.bin"), tmp_path / "data.bin", tmp_path / "data.bin.part"
    process = child(FETCH, made, str(output))
    wait_until(lambda: part.exists() and part.stat().st_size == 1_500_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hold.set()
    assert process.returncode == -signal.SIGKILL and not output.exists()
    assert (tmp_path / "data.bin.lock").exists()
    get(made, output)
    assert output.read_bytes() == CONTENT
    assert server.requests == [("/data.bin", None), ("/data.bin", "bytes=1500000-")]
    assert server.sent == [1_500_000, 1_500_000]
    assert names(tmp_path) == [".sha256", "data.bin"]


# ---- another version of the file on the server ----

TAGS = [{"ETag": '"one"'}, {"Last-Modified": "Wed, 01 Mar 2023 10:00:00 GMT"}, {"ETag": 'W/"one"'}]
NEW_TAGS = [{"ETag": '"two"'}, {"Last-Modified": "Wed, 01 Mar 2023 11:00:00 GMT"}, {"ETag": 'W/"two"'}]


def replace_file(server: Server, tags: dict[str, str], content: bytes = OTHER) -> Callable[[], object]:
    def act() -> None:
        server.files["/data.bin"], server.tags["/data.bin"] = content, tags

    return act


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("same_run", [True, False])
def test_a_file_that_changes_between_attempts_is_restarted(server, tmp_path, number, same_run):
    """Nothing published would tell that two versions were spliced; the server's validators do."""
    server.tags["/data.bin"] = TAGS[number]
    made = entry(f"{server.url}/data.bin", **UNKNOWN)
    server.script += [Reply(cut=1_000_000)]
    change = replace_file(server, NEW_TAGS[number])
    if same_run:
        server.script += [Reply(before=change)]
    else:
        server.script += [Reply(status=404)]
        with pytest.raises(InputError, match="HTTP 404"):
            get(made, tmp_path / "data.bin")
        about = json.loads((tmp_path / "data.bin.part.json").read_text())
        assert about["url"] == f"{server.url}/data.bin" and about["total"] == len(CONTENT)
        change()
    get(made, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == OTHER
    strong = next(iter(TAGS[number].values()))
    assert (strong in server.conditions) == (number < 2)


@pytest.mark.parametrize("number", range(3))
def test_an_unchanged_file_without_a_checksum_is_resumed(server, tmp_path, number):
    server.tags["/data.bin"] = TAGS[number]
    server.script += [Reply(cut=1_000_000)]
    get(entry(f"{server.url}/data.bin", **UNKNOWN), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.sent == [1_000_000, 2_000_000]


def test_a_server_that_ignores_if_range_is_found_out(server, tmp_path):
    server.tags["/data.bin"] = TAGS[0]
    server.script += [Reply(cut=1_000_000)]
    # It answers 206 with the rest of the new file although the condition names the old one.
    server.script += [Reply(before=replace_file(server, NEW_TAGS[0] | {"X-Old": TAGS[0]["ETag"]}))]
    get(entry(f"{server.url}/data.bin", **UNKNOWN), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == OTHER
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000000-", None]


def test_without_checksum_and_validators_nothing_is_resumed(server, tmp_path):
    made = entry(f"{server.url}/data.bin", **UNKNOWN)
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    server.script += [Reply(cut=1_000_000), Reply(before=replace_file(server, {}))]
    get(made, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == OTHER
    assert server.requests[0] == ("/data.bin", None)


def test_a_file_that_changes_all_the_time_is_given_up(server, tmp_path):
    count = iter(range(1000))

    def change() -> None:
        replace_file(server, {"ETag": f'"{next(count)}"'}, os.urandom(100_000))()

    server.always = Reply(before=change, cut=50_000)
    with pytest.raises(InputError, match="attempts"):
        get(entry(f"{server.url}/data.bin", **UNKNOWN), tmp_path / "data.bin")
    assert len(server.requests) < 4 * QUICK.attempts and not (tmp_path / "data.bin").exists()


def test_a_spliced_file_is_fetched_anew_once(server, tmp_path, capsys):
    """A part of another file with a checksum that shows it: kept aside, then the right file comes."""
    (tmp_path / "data.bin.part").write_bytes(OTHER[:1_000_000])
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").read_bytes() == OTHER[:1_000_000] + CONTENT[1_000_000:]
    assert "data.bin.bad; it was pieced together, fetching it anew" in capsys.readouterr().err
    assert [wanted for _, wanted in server.requests] == ["bytes=1000000-", None]


def test_a_second_address_goes_on_where_the_first_stopped(server, tmp_path):
    server.files["/copy/data.bin"] = CONTENT
    server.script += [Reply(cut=1_000_000), Reply(status=404)]
    get(entry(f"{server.url}/data.bin", f"{server.url}/copy/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("/copy/data.bin", "bytes=1000000-")


def test_a_second_address_starts_over_where_nothing_proves_the_same_file(server, tmp_path):
    server.tags = {"/data.bin": TAGS[0], "/copy/data.bin": TAGS[0]}
    server.files["/copy/data.bin"] = OTHER
    server.script += [Reply(cut=1_000_000), Reply(status=404)]
    get(entry(f"{server.url}/data.bin", f"{server.url}/copy/data.bin", **UNKNOWN), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == OTHER


# ---- lies ----


@pytest.mark.parametrize("shift", [-7, 7])
def test_a_wrong_content_range_restarts(server, tmp_path, shift):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1_000_000])
    server.script += [Reply(shift=shift)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and not (tmp_path / "data.bin.bad").exists()
    assert [wanted for _, wanted in server.requests] == ["bytes=1000000-", None]


def test_a_length_that_is_too_short_is_made_up_for(server, tmp_path):
    server.script += [Reply(claim=-1_000_000), Reply(claim=-1)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_is_too_short_ends_in_a_clear_error(server, tmp_path):
    server.files["/data.bin"] = CONTENT[:1000]
    with pytest.raises(InputError, match=r"it has 1000 bytes there, expected 3000000 \(4 attempts\)"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()


def test_a_file_that_is_announced_too_long_is_not_begun(server, tmp_path):
    server.files["/data.bin"] = CONTENT[:1000]
    with pytest.raises(InputError, match="wrong content, it has 1000 bytes, expected 999"):
        get(entry(f"{server.url}/data.bin", bytes=999), tmp_path / "data.bin")
    assert names(tmp_path) == []


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_goes_on_too_long_is_stopped(server, tmp_path, chunked):
    hold = threading.Event()
    server.always = Reply(length=False, chunked=chunked, extra=b"more", hold=None if chunked else hold)
    with pytest.raises(InputError, match=r"wrong content, it goes on after the expected 3000000 bytes; kept as"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", limits=dataclasses.replace(QUICK, stall_s=20))
    hold.set()
    assert names(tmp_path) == ["data.bin.bad"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_length_that_is_too_long_never_gives_a_file(server, tmp_path, size):
    server.always = Reply(claim=1000)
    with pytest.raises(InputError):
        get(entry(f"{server.url}/data.bin", **UNKNOWN | {"bytes": size}), tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()


@pytest.mark.parametrize("checks", [{}, UNKNOWN])
@pytest.mark.parametrize("have", [0, 1000])
def test_a_web_page_instead_of_the_file(server, tmp_path, checks, have):
    page = Reply(body=b"\n<!doctype html><p>log in", headers={"Content-Type": "text/html; charset=utf-8"}, ranges=False)
    part = tmp_path / "data.bin.part"
    if have:
        part.write_bytes(CONTENT[:have])
    server.script += [page]
    with pytest.raises(InputError, match="the server sent a web page instead of the file"):
        get(entry(f"{server.url}/data.bin", **checks), tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()
    # What had arrived before is not sacrificed to the page.
    assert not have or checks == UNKNOWN or part.read_bytes() == CONTENT[:have]


def test_a_file_that_is_only_called_a_web_page(server, tmp_path):
    server.always = Reply(headers={"Content-Type": "text/html"})
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_an_encoding_that_was_not_asked_for(server, tmp_path):
    server.always = Reply(headers={"Content-Encoding": "gzip"})
    with pytest.raises(InputError, match="gzip-encoded although it was asked not to"):
        get(entry(f"{server.url}/data.bin", **UNKNOWN), tmp_path / "data.bin")
    # The bytes count, not what a server calls them.
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


# ---- patience ----


def test_server_errors_are_tried_again_and_other_addresses_too(server, tmp_path, pauses):
    server.script += [Reply(status=503), Reply(status=500)]
    get(entry(f"{server.url}/data.bin"), tmp_path / "a.bin")
    get(entry(f"{server.url}/gone.bin", f"{server.url}/data.bin"), tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/data.bin"] * 3 + ["/gone.bin", "/data.bin"]
    assert len(pauses) == 2


def test_retry_after_is_honoured(server, tmp_path, pauses):
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    values = ["7", email.utils.format_datetime(soon, usegmt=True), "99999", "soon", "Wed, 01 Mar 2023 10:00:00 GMT"]
    server.script += [Reply(status=503, headers={"Retry-After": value}) for value in values]
    limits = Limits(attempts=9, backoff_s=0.0, retry_after_max_s=300.0)
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", limits=limits)
    assert pauses[0] == 7 and 60 < pauses[1] <= 100 and pauses[2:] == [300.0, 0.0, 0.0]


def test_waits_grow_vary_and_are_bounded(server, tmp_path, pauses):
    server.script += [Reply(cut=1000), *[Reply(status=502)] * 7]
    server.always = Reply(status=503)
    limits = Limits(attempts=8, backoff_s=1.0, backoff_max_s=20.0)
    with pytest.raises(InputError, match=r"HTTP 503 \(8 attempts\)"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", limits=limits)
    assert len(server.requests) == 9 and len(pauses) == 8
    for wait, most in zip(pauses, [1, 2, 4, 8, 16, 20, 20, 20], strict=True):
        assert most / 2 <= wait <= most
    assert len(set(pauses)) == 8


def test_a_refusal_is_final(server, tmp_path, pauses):
    server.always = Reply(status=403)
    with pytest.raises(InputError, match=r"HTTP 403\)"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert len(server.requests) == 1 and not pauses
    server.always = Reply(status=403, headers={"Retry-After": "1"})
    with pytest.raises(InputError, match=r"HTTP 403 \(4 attempts\)"):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")


def test_without_a_network(server, tmp_path, pauses):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match=r"data.bin: could not be downloaded .*refused.* set `mirror`") as caught:
        get(entry(f"http://127.0.0.1:{port}/data.bin"), tmp_path / "data.bin")
    assert "\n" not in str(caught.value)
    # A site without a network must not have to wait to be told so.
    assert list(tmp_path.iterdir()) == [] and not pauses
    with pytest.raises(InputError, match=r"data.bin: it has no public address; set `mirror`"):
        get(entry(), tmp_path / "data.bin")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/data.bin", "http://", "data.bin", "http://[half/x"])
def test_addresses_that_are_none(tmp_path, url, pauses):
    for mirror in (None, url):
        with pytest.raises(InputError, match=r"could not be downloaded|not an address|is not a folder") as caught:
            get(entry(url), tmp_path / "data.bin", mirror=mirror)
        assert "\n" not in str(caught.value) and not pauses


# ---- wrong content ----


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_wrong_checksum_moves_the_file_aside(server, tmp_path, kind):
    wrong = "0" * len(entry()[kind])
    checks = {"md5": None, "sha256": None} | {kind: wrong}
    with pytest.raises(InputError) as caught:
        get(entry(f"{server.url}/data.bin", **checks), tmp_path / "data.bin")
    message = str(caught.value)
    assert entry()[kind] in message and wrong in message and "data.bin.bad" in message and "\n" not in message
    assert names(tmp_path) == ["data.bin.bad"]
    assert (tmp_path / "data.bin.bad").read_bytes() == CONTENT


def test_wrong_content_at_one_address_leads_to_the_next(server, tmp_path):
    server.files["/stale/data.bin"] = OTHER
    get(entry(f"{server.url}/stale/data.bin", f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").read_bytes() == OTHER


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"damaged")
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").read_bytes() == b"damaged"


def test_a_file_without_a_published_checksum_is_held_to_what_was_fetched(server, tmp_path):
    made, output = entry(f"{server.url}/data.bin", **UNKNOWN), tmp_path / "data.bin"
    get(made, output)
    get(made, output)
    assert len(server.requests) == 1
    output.write_bytes(CONTENT[:-1] + b"?")
    get(made, output)
    assert output.read_bytes() == CONTENT and is_intact(output) and len(server.requests) == 2


# ---- archives ----


def tar_of(content: bytes, name: str = "inner/data.bin", mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as bundle:
        for one, body in (("./readme.txt", b"hello"), (name, content)):
            info = tarfile.TarInfo(one)
            info.size = len(body)
            bundle.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def zip_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("inner/data.bin", content)
    return stream.getvalue()


SMALL = CONTENT[:120_000]
SMALL_CHECKS = {
    "bytes": len(SMALL),
    "md5": hashlib.md5(SMALL).hexdigest(),
    "sha256": hashlib.sha256(SMALL).hexdigest(),
    "git_sha1": git_sha1(SMALL),
}
ARCHIVES = {
    "zip": zip_of,
    **{f"tar{kind}": lambda c, k=kind: tar_of(c, mode=f"w:{k}") for kind in ("", "gz", "bz2", "xz")},
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_member_of_an_archive(server, tmp_path, kind):
    # The address says nothing about the kind, as with files that are known by number only.
    server.files["/18112775"] = ARCHIVES[kind](SMALL)
    made = entry(f"{server.url}/18112775#inner/data.bin", **SMALL_CHECKS)
    server.script += [Reply(cut=50_000)]
    get(made, tmp_path / "out" / "data.bin")
    assert (tmp_path / "out" / "data.bin").read_bytes() == SMALL and is_intact(tmp_path / "out" / "data.bin")
    assert names(tmp_path / "out") == [".sha256", "data.bin"]
    assert [wanted for _, wanted in server.requests] == [None, "bytes=50000-"]
    with pytest.raises(InputError, match=r"the archive does not hold other.bin \(it holds "):
        get(entry(f"{server.url}/18112775#other.bin", **UNKNOWN), tmp_path / "out" / "other.bin")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_damaged_archive(server, tmp_path, kind):
    packed = bytearray(ARCHIVES[kind](SMALL))
    packed[60_000:60_100] = bytes(100)
    server.files["/bundle"] = bytes(packed)
    with pytest.raises(InputError, match=r"wrong content, (the archive is damaged|its sha256 is)"):
        get(entry(f"{server.url}/bundle#inner/data.bin", **SMALL_CHECKS), tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists() and not list(tmp_path.glob("*.part*"))
    server.files["/bundle"] = ARCHIVES[kind](SMALL)[:60_000]
    with pytest.raises(InputError, match="wrong content, the archive is damaged"):
        get(entry(f"{server.url}/bundle#inner/data.bin", **SMALL_CHECKS), tmp_path / "data.bin")


def test_an_archive_at_a_second_address_is_another_archive(server, tmp_path):
    server.files |= {"/a": tar_of(SMALL), "/b": zip_of(SMALL)}
    server.script += [Reply(cut=50_000), Reply(status=404)]
    urls = [f"{server.url}/{name}#inner/data.bin" for name in "ab"]
    get(entry(*urls, **SMALL_CHECKS), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == SMALL
    assert server.requests[-1] == ("/b", None)


def test_wrong_content_in_an_archive(server, tmp_path):
    server.files["/bundle.tar"] = tar_of(OTHER[:120_000])
    with pytest.raises(InputError, match=r"wrong content, its sha256 is .*kept as .*data.bin.bad"):
        get(entry(f"{server.url}/bundle.tar#inner/data.bin", **SMALL_CHECKS), tmp_path / "data.bin")
    assert names(tmp_path) == ["data.bin.bad"]


# ---- mirrors and local files ----


def test_mirror_folder(tmp_path):
    folder = tmp_path / "mirror" / "deep" / "down"
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(CONTENT)
    (tmp_path / "mirror" / "data.bin").write_bytes(b"another file of the same name")
    for mirror in (str(tmp_path / "mirror"), (tmp_path / "mirror").as_uri()):
        get(entry(), tmp_path / "out.bin", mirror=mirror)
        assert (tmp_path / "out.bin").read_bytes() == CONTENT and is_intact(tmp_path / "out.bin")
        (tmp_path / "out.bin").unlink()
    (folder / "data.bin").unlink()
    with pytest.raises(InputError, match=r"wrong content, it has 29 bytes, expected 3000000"):
        get(entry(), tmp_path / "again.bin", mirror=str(tmp_path / "mirror"))
    assert (tmp_path / "mirror" / "data.bin").exists()
    with pytest.raises(InputError, match="is not a folder"):
        get(entry(), tmp_path / "again.bin", mirror=str(tmp_path / "nowhere"))
    (tmp_path / "mirror" / "data.bin").unlink()
    with pytest.raises(
        InputError, match=r"it has no public address; put it into the mirror .* has no file of this name"
    ):
        get(entry(), tmp_path / "again.bin", mirror=str(tmp_path / "mirror"))
    assert names(tmp_path) == [".sha256", "mirror"]


def test_a_damaged_mirror_leads_to_the_addresses(server, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "data.bin").write_bytes(OTHER)
    output = tmp_path / "raw" / "data.bin"
    output.parent.mkdir()
    (output.parent / "data.bin.part").write_bytes(CONTENT[:1000])
    get(entry(f"{server.url}/data.bin"), output, mirror=str(tmp_path / "mirror"))
    assert output.read_bytes() == CONTENT and names(output.parent) == [".sha256", "data.bin"]
    assert server.requests == [("/data.bin", "bytes=1000-")]


def test_mirror_that_holds_the_archive(server, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "bundle.tar.gz").write_bytes(tar_of(SMALL, mode="w:gz"))
    made = entry("http://127.0.0.1:9/files/bundle.tar.gz#inner/data.bin", **SMALL_CHECKS)
    get(made, tmp_path / "a.bin", mirror=str(tmp_path / "mirror"))
    server.files["/m/bundle.tar.gz"] = tar_of(SMALL, mode="w:gz")
    get(made, tmp_path / "b.bin", mirror=f"{server.url}/m")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes() == SMALL
    assert [path for path, _ in server.requests] == ["/m/data.bin", "/m/bundle.tar.gz"]
    assert names(tmp_path / "mirror") == ["bundle.tar.gz"]


def test_mirror_url_comes_first(server, tmp_path):
    server.files["/mirror/data.bin"] = CONTENT
    get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", mirror=f"{server.url}/mirror/")
    assert [path for path, _ in server.requests] == ["/mirror/data.bin"]
    del server.files["/mirror/data.bin"]
    get(entry(f"{server.url}/data.bin"), tmp_path / "again.bin", mirror=f"{server.url}/mirror/")
    assert [path for path, _ in server.requests][1:] == ["/mirror/data.bin", "/data.bin"]


def test_file_urls(tmp_path):
    (tmp_path / "source.bin").write_bytes(CONTENT)
    (tmp_path / "bundle").write_bytes(tar_of(CONTENT))
    get(entry((tmp_path / "source.bin").as_uri()), tmp_path / "data.bin")
    get(entry((tmp_path / "bundle").as_uri() + "#inner/data.bin"), tmp_path / "other.bin")
    assert (tmp_path / "data.bin").read_bytes() == (tmp_path / "other.bin").read_bytes() == CONTENT
    with pytest.raises(InputError, match="no such file"):
        get(entry((tmp_path / "nothing").as_uri()), tmp_path / "third.bin")


def test_a_file_that_ships_with_the_project(tmp_path):
    (tmp_path / "shipped.bin").write_bytes(CONTENT)
    get(entry(path=str(tmp_path / "shipped.bin")), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and (tmp_path / "shipped.bin").exists()
    with pytest.raises(InputError, match=r"lost.bin: no such file; it ships with the project"):
        get(entry(path=str(tmp_path / "lost.bin")), tmp_path / "other.bin")
    (tmp_path / "shipped.bin").write_bytes(OTHER)
    with pytest.raises(InputError, match=r"wrong content, its sha256"):
        get(entry(path=str(tmp_path / "shipped.bin")), tmp_path / "other.bin")


# ---- the disk ----


@pytest.fixture
def free(monkeypatch) -> Callable[[int], None]:
    """Sets how many bytes are free beyond the margin."""

    def set_to(count: int) -> None:
        usage = collections.namedtuple("usage", "total used free")
        room = count + QUICK.margin_bytes
        monkeypatch.setattr(download_local.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - room, room))

    return set_to


@pytest.mark.parametrize("known_size", [True, False])
def test_room_is_checked_before_a_byte_is_written(server, tmp_path, free, known_size):
    free(len(CONTENT) - 1)
    made = entry(f"{server.url}/data.bin", **({} if known_size else {"bytes": None}))
    with pytest.raises(
        InputError, match=r"3\.0 MB are needed \(and 100\.0 MB to spare\), 103\.0 MB are free"
    ) as caught:
        get(made, tmp_path / "data.bin")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    assert len(server.requests) == (0 if known_size else 1)
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    get(made, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_room_for_copies_and_archives(server, tmp_path, free):
    free(len(SMALL) - 1)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "data.bin").write_bytes(SMALL)
    with pytest.raises(InputError, match=r"data.bin.copy: 120\.0 kB are needed"):
        get(entry(**SMALL_CHECKS), tmp_path / "out" / "data.bin", mirror=str(tmp_path / "mirror"))
    assert names(tmp_path / "out") == []
    server.files["/bundle"] = tar_of(SMALL, mode="w:gz")
    free(len(SMALL) + 60_000)
    with pytest.raises(InputError, match=r"data.bin.archive.part: 24\d\.\d kB are needed"):
        get(entry(f"{server.url}/bundle#inner/data.bin", **SMALL_CHECKS), tmp_path / "out" / "data.bin")
    assert names(tmp_path / "out") == []


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"


def test_a_disk_that_fills_in_the_middle(server, tmp_path):
    made, output = entry(f"{server.url}/data.bin"), tmp_path / "data.bin"
    process = child(LIMITED + FETCH, made, str(output))
    _, errors = process.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("mlip_studies.errors.InputError: ")
    assert "data.bin.part: cannot write (File too large); make room and run again to resume" in last
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1_000_000] and not output.exists()
    get(made, output)
    assert output.read_bytes() == CONTENT and server.requests[-1] == ("/data.bin", "bytes=1000000-")


def test_a_disk_that_fills_while_copying(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "data.bin").write_bytes(CONTENT)
    code = LIMITED + FETCH.replace("a[1], ", "a[1], a[2], ")
    process = child(code, entry(), str(tmp_path / "out" / "data.bin"), str(tmp_path / "mirror"))
    _, errors = process.communicate(timeout=60)
    assert "data.bin.copy: cannot write (File too large)" in errors.strip().splitlines()[-1]
    assert names(tmp_path / "out") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_no_space_left_on_the_device(server, tmp_path):
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"data.bin.part: cannot write \(No space left on device\)") as caught:
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert "\n" not in str(caught.value) and len(server.requests) == 1


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"results.* cannot write"):
        get(entry("http://127.0.0.1:9/data.bin"), tmp_path / "results" / "raw" / "data.bin")
    with pytest.raises(InputError, match=r"results.* cannot write"):
        fetch_many([entry("http://127.0.0.1:9/data.bin")], tmp_path / "results" / "raw")


# ---- several at once ----


def test_two_processes_fetch_one_file(server, tmp_path):
    hold = threading.Event()
    server.script += [Reply(cut=1_000_000, hold=hold)]
    made, output = entry(f"{server.url}/data.bin"), tmp_path / "data.bin"
    first = child(FETCH, made, str(output))
    wait_until(lambda: len(server.sent) == 1)
    second = child(FETCH, made, str(output))
    line = second.stderr.readline()
    assert line == f"data.bin: process {first.pid} on {socket.gethostname()} is fetching it already; waiting\n"
    hold.set()
    for process in (first, second):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert output.read_bytes() == CONTENT and server.requests == [("/data.bin", None)]
    assert names(tmp_path) == [".sha256", "data.bin"]


def test_a_holder_that_makes_no_progress(server, tmp_path):
    other = socket.gethostname() + "-other"
    (tmp_path / "data.bin.lock").write_text(f"12345\n{other}\n")
    with pytest.raises(InputError, match=rf"process 12345 on {other} holds it and nothing arrived for 0.3 s") as caught:
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert "data.bin.lock" in str(caught.value) and server.requests == []


def test_many_files_at_once(server, tmp_path, capsys):
    together = threading.Barrier(3, timeout=20)
    server.files = {f"/{i}.bin": CONTENT[i * 1000 : 500_000] for i in range(3)}
    server.always = Reply(before=together.wait)
    entries = [
        {
            "name": f"{i}.bin",
            "urls": [f"{server.url}/{i}.bin"],
            "md5": hashlib.md5(CONTENT[i * 1000 : 500_000]).hexdigest(),
        }
        for i in range(3)
    ]
    paths = fetch_many([*entries, entries[0]], tmp_path / "raw", workers=3, limits=QUICK)
    assert [path.name for path in paths] == ["0.bin", "1.bin", "2.bin"]
    for i, path in enumerate(paths):
        assert path.read_bytes() == server.files[f"/{i}.bin"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all(line.count(".bin:") == 1 for line in lines)


def test_one_failure_among_many_does_not_stop_the_others(server, tmp_path):
    good = entry(f"{server.url}/data.bin")
    lost = [entry(f"{server.url}/gone", name=name) for name in ("a.bin", "b.bin")]
    with pytest.raises(InputError, match=r"^a.bin: could not be downloaded"):
        fetch_many([lost[0], good], tmp_path, limits=QUICK, workers=1)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"^2 of 3 files failed: a.bin: .* \| b.bin: ") as caught:
        fetch_many([*lost, good], tmp_path, limits=QUICK)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"two different files are called data.bin"):
        fetch_many([good, good | {"md5": None}], tmp_path)


def test_room_for_all_files_together(server, tmp_path, free):
    free(2 * len(CONTENT) - 1)
    entries = [entry(f"{server.url}/data.bin", name=name) for name in ("a.bin", "b.bin")]
    with pytest.raises(InputError, match=r"6\.0 MB are needed"):
        fetch_many(entries, tmp_path, limits=QUICK)
    assert server.requests == []
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    fetch_many(entries, tmp_path, limits=QUICK)


def test_interrupt_ends_all_and_keeps_the_parts(server, tmp_path):
    hold = threading.Event()
    server.always = Reply(cut=1_000_000, hold=hold)
    entries = [entry(f"{server.url}/data.bin", name=name) for name in ("a.bin", "b.bin", "c.bin")]
    # What starts in the background of a shell ignores the signal, and its children inherit that.
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mlip_studies.data.download import Limits, fetch_many\nfetch_many(*a, limits=Limits(stall_s=0.5))"
    )
    process = child(code, entries, str(tmp_path), None, 2)
    wait_until(lambda: len(list(tmp_path.glob("*.part"))) == 2 and len(server.sent) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    hold.set()
    assert errors.rstrip().endswith("KeyboardInterrupt") and process.returncode != 0
    assert len(list(tmp_path.glob("*.part"))) == 2 and not list(tmp_path.glob("*.lock"))


def test_stop_ends_a_wait(server, tmp_path):
    stop = threading.Event()
    server.always = Reply(status=503, headers={"Retry-After": "200"}, before=stop.set)
    with pytest.raises(Stopped):
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", stop=stop)


def test_files_of_data_sets():
    files = [{"name": "a"}, {"name": "b", "role": "duplicates"}, {"name": "c", "path": "shipped/c"}]
    datasets = {"one": {"files": files}, "two": {"files": files[:1]}, "both": {"sources": {"full": ["one", "two"]}}}
    assert [file["name"] for file in published_files(datasets, ["one"], "full")] == ["a", "b"]
    assert [file["name"] for file in published_files(datasets, ["both", "two"], "full")] == ["a"]
    with pytest.raises(InputError, match="no data set 'three'"):
        published_files(datasets, ["three"], "full")


# ---- what one sees ----


def test_a_bar_on_a_terminal(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    control, terminal = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                seen.append(os.read(control, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    server.script += [Reply(cut=1_500_000)]
    with os.fdopen(terminal, "w") as stream, Display(stream) as display, Display(stream) as second:
        get(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", display=display)
        bar = display.bar("shown", 1000)
        bar.at(500)
        assert second.bar("hidden", 10)._progress is None
        display._progress.refresh()
        bar.close()
    wait_until(lambda: not reader.is_alive())
    os.close(control)
    text = b"".join(seen).decode()
    assert "data.bin" in text and "shown" in text and "0.5/1.0 kB" in text and "hidden" not in text
    assert len(capsys.readouterr().err.splitlines()) == 2


# ---- anything a server may do ----

REPLIES = st.builds(
    Reply,
    status=st.sampled_from([None] * 6 + [503, 500, 429]),
    cut=st.none() | st.integers(0, 3000),
    claim=st.sampled_from([0, 0, 0, 0, -100, 100]),
    extra=st.sampled_from([b"", b"", b"more"]),
    length=st.booleans(),
    ranges=st.booleans(),
    shift=st.sampled_from([0, 0, 0, -1, 1]),
    chunked=st.sampled_from([False, False, True]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    replies=st.lists(REPLIES, max_size=7),
    size=st.booleans(),
    kind=st.sampled_from(["md5", "sha256", "git_sha1"]),
    part=st.none() | st.integers(0, 5000),
    junk=st.booleans(),
)
def test_the_right_file_or_none(server, tmp_path_factory, replies, size, kind, part, junk):
    """Whatever the server does, only the right file gets the name, a failure is one line, and it can be cured."""
    content = CONTENT[:4000]
    sums = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
    sums["git_sha1"] = git_sha1(content)
    server.files["/data.bin"] = content
    server.script = collections.deque(replies)
    output = tmp_path_factory.mktemp("any") / "data.bin"
    if part is not None:
        output.with_name("data.bin.part").write_bytes((OTHER if junk else content)[:part])
    made = {"name": "data.bin", "urls": [f"{server.url}/data.bin"], "bytes": 4000 if size else None, kind: sums[kind]}
    try:
        get(made, output)
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith("data.bin: ") and not output.exists()
    else:
        assert output.read_bytes() == content and is_intact(output)
    server.script.clear()
    for _ in range(2):
        # A wrong part that is left is found out by the first run at the latest.
        try:
            get(made, output)
        except InputError as error:
            assert "wrong content" in str(error)
    assert output.read_bytes() == content
