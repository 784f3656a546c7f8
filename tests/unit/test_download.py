"""Downloads against a local server: resume, broken connections, checksums, mirrors."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.artifacts import is_intact
from mlip_studies.data import download
from mlip_studies.data.download import fetch
from mlip_studies.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path; can ignore ranges, cut connections and answer with errors."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.requests: list[tuple[str, str | None]] = []
        self.cut_after: list[int] = []
        self.errors: list[int] = []
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if self.server.errors:
            self.send_error(self.server.errors.pop(0))
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cut_after:
            body = body[: self.server.cut_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def entry(*urls: str, **changes) -> dict:
    return {
        "name": "data.bin",
        "urls": list(urls),
        "bytes": len(CONTENT),
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    } | changes


def test_download_then_nothing_to_do(server, tmp_path):
    output = tmp_path / "raw" / "data.bin"
    assert fetch(entry(f"{server.url}/data.bin"), output) == output
    assert output.read_bytes() == CONTENT and is_intact(output)
    fetch(entry(f"{server.url}/data.bin"), output)
    assert len(server.requests) == 1
    assert sorted(path.name for path in output.parent.iterdir()) == [".sha256", "data.bin"]


def test_resume_of_an_earlier_run(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1_234_567])
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == [("/data.bin", "bytes=1234567-")]


def test_broken_connections_are_taken_up_again(server, tmp_path):
    server.cut_after = [1_000_000, 700_000, 0]
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.requests]
    assert asked == [None, "bytes=1000000-", "bytes=1700000-", "bytes=1700000-"]


def test_a_broken_download_keeps_its_part(server, tmp_path):
    server.cut_after = [1_000_000] + [0] * 20
    with pytest.raises(InputError, match=r"data.bin: could not be downloaded .* run again to resume"):
        fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin.part").stat().st_size == 1_000_000 and not (tmp_path / "data.bin").exists()
    server.cut_after = []
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert server.requests[-1] == ("/data.bin", "bytes=1000000-")


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("known_size", [True, False])
def test_a_part_that_is_already_whole(server, tmp_path, known_size):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    fetch(entry(f"{server.url}/data.bin", **({} if known_size else {"bytes": None})), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.requests) == (0 if known_size else 1)


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    fetch(entry(f"{server.url}/data.bin", bytes=None), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_server_errors_are_tried_again_and_other_addresses_too(server, tmp_path):
    server.errors = [503, 500]
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "a.bin")
    fetch(entry(f"{server.url}/gone.bin", f"{server.url}/data.bin"), tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_wrong_checksum_moves_the_file_aside(server, tmp_path, kind):
    wrong = "0" * len(entry()[kind])
    checks = {"md5": None, "sha256": None} | {kind: wrong}
    with pytest.raises(InputError) as caught:
        fetch(entry(f"{server.url}/data.bin", **checks), tmp_path / "data.bin")
    message = str(caught.value)
    assert entry()[kind] in message and wrong in message and "data.bin.bad" in message and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin.bad"]
    assert (tmp_path / "data.bin.bad").read_bytes() == CONTENT


def test_a_wrong_size_is_named(server, tmp_path):
    server.files["/data.bin"] = CONTENT[:1000]
    with pytest.raises(InputError, match="it has 1000 bytes, expected 999"):
        fetch(entry(f"{server.url}/data.bin", bytes=999), tmp_path / "data.bin")


def test_a_changed_file_is_fetched_again(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"damaged")
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").read_bytes() == b"damaged"


def test_a_member_of_a_zip(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as bundle:
        bundle.writestr("inner/data.bin", CONTENT)
    server.files["/bundle.zip"] = (tmp_path / "bundle.zip").read_bytes()
    fetch(entry(f"{server.url}/bundle.zip#inner/data.bin"), tmp_path / "out" / "data.bin")
    assert (tmp_path / "out" / "data.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".sha256", "data.bin"]
    with pytest.raises(InputError, match="the archive does not hold it"):
        fetch(entry(f"{server.url}/bundle.zip#other.bin"), tmp_path / "out" / "other.bin")


def test_mirror_folder(tmp_path):
    folder = tmp_path / "mirror" / "deep" / "down"
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(CONTENT)
    (tmp_path / "mirror" / "data.bin").write_bytes(b"another file of the same name")
    fetch(entry(), tmp_path / "out.bin", mirror=str(tmp_path / "mirror"))
    assert (tmp_path / "out.bin").read_bytes() == CONTENT
    (folder / "data.bin").unlink()
    with pytest.raises(InputError, match=r"wrong content, it has 29 bytes, expected 3000000"):
        fetch(entry(), tmp_path / "again.bin", mirror=str(tmp_path / "mirror"))
    assert (tmp_path / "mirror" / "data.bin").exists()
    with pytest.raises(InputError, match="is not a folder"):
        fetch(entry(), tmp_path / "again.bin", mirror=str(tmp_path / "nowhere"))


def test_mirror_url_comes_first(server, tmp_path):
    server.files["/mirror/data.bin"] = CONTENT
    fetch(entry(f"{server.url}/data.bin"), tmp_path / "data.bin", mirror=f"{server.url}/mirror/")
    assert [path for path, _ in server.requests] == ["/mirror/data.bin"]


def test_file_urls(tmp_path):
    (tmp_path / "source.bin").write_bytes(CONTENT)
    fetch(entry((tmp_path / "source.bin").as_uri()), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_ships_with_the_project(tmp_path):
    (tmp_path / "shipped.bin").write_bytes(CONTENT)
    fetch(entry(path=str(tmp_path / "shipped.bin")), tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and (tmp_path / "shipped.bin").exists()
    with pytest.raises(InputError, match=r"lost.bin: no such file; it ships with the project"):
        fetch(entry(path=str(tmp_path / "lost.bin")), tmp_path / "other.bin")


def test_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match=r"data.bin: could not be downloaded .*refused.* set `mirror`") as caught:
        fetch(entry(f"http://127.0.0.1:{port}/data.bin"), tmp_path / "data.bin")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"data.bin: it has no public address; set `mirror`"):
        fetch(entry(), tmp_path / "data.bin")


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"results.* cannot write"):
        fetch(entry("http://127.0.0.1:9/data.bin"), Path(tmp_path / "results" / "raw" / "data.bin"))
