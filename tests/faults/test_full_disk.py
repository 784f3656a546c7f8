"""No room: every stage ends with one line that names the file and what to do, leaves no half file, and works later."""

import contextlib
import errno
import lzma
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from safetensors.torch import save_file
from stages import STAGES, data_of, run

from mlip_studies.artifacts import atomic_path, is_intact, write_text
from mlip_studies.errors import NoRoom, is_guess, no_room_reason
from mlip_studies.jobs import job
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.plotting.save import save_figure

#: largest file that a stage may write, from the first one to the last (bytes)
LIMITS = {
    "store": (1_000, 200_000, 3_000_000),
    "training": (100, 1_000, 8_000),
    "dynamics": (100, 2_000, 9_000),
    "dft": (100, 4_000, 12_000),
    "drawing": (100, 20_000, 50_000),
}
#: sizes of small disks, KiB
DISKS = {"store": (16, 4_000), "training": (8, 40, 80), "dynamics": (8, 24, 64), "dft": (8, 20, 36), "drawing": (8, 64)}


def start(processes, stage, inputs, out, limit=0):
    process = processes.Process(target=run, args=(stage, inputs, out), kwargs={"limit": limit})
    process.start()
    process.join(120)
    return process.exitcode


def refused(out, text):
    """The last line of a job's log, which must be its only error."""
    assert "Traceback" not in text, text[-3000:]
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and text.splitlines()[-1] == lines[0], text[-2000:]
    assert str(out) in lines[0]
    assert "make room" in lines[0], lines[0]
    return lines[0]


def check_nothing_half(out, outputs, expected):
    for name in outputs:
        if (out / name).exists():
            assert is_intact(out / name) and data_of(out / name) == expected[name], name
    assert [path for path in out.rglob(".*.tmp*") if ".state" not in path.parts] == []


@pytest.fixture(scope="module")
def prepared(processes, tmp_path_factory):
    """Inputs of every stage and what it makes with room enough."""
    result = {}
    for stage, (prepare, _, outputs) in STAGES.items():
        folder = tmp_path_factory.mktemp(stage)
        (folder / "inputs").mkdir()
        prepare(folder / "inputs")
        assert start(processes, stage, folder / "inputs", folder / "whole") == 0
        result[stage] = folder / "inputs", {name: data_of(folder / "whole" / name) for name in outputs}
    return result


@pytest.mark.parametrize(("stage", "limit"), [(stage, limit) for stage in STAGES for limit in LIMITS[stage]])
def test_a_limit_on_file_sizes(processes, tmp_path, prepared, stage, limit):
    (inputs, expected), out = prepared[stage], tmp_path / "out"
    # The log of the job is a pipe, which may be as long as it has to be.
    log = tmp_path / "out.log"
    os.mkfifo(log)
    with open(log, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as pipe:
        status = start(processes, stage, inputs, out, limit)
        text = pipe.read()
    log.unlink()
    assert status == 1, text[-3000:]
    assert "File too large" in refused(out, text)
    check_nothing_half(out, STAGES[stage][2], expected)
    assert start(processes, stage, inputs, out) == 0
    assert {name: data_of(out / name) for name in expected} == expected
    left = [path.name for path in out.rglob("*") if path.is_file() and path.parent.name != ".sha256"]
    assert sorted(left) == sorted(expected)


@pytest.mark.parametrize(("stage", "size"), [(stage, size) for stage in STAGES for size in DISKS[stage]])
def test_a_full_file_system(processes, tmp_path, prepared, small_disk, stage, size):
    (inputs, expected), disk = prepared[stage], small_disk(size)
    out, log = disk / "out", tmp_path / "log"
    (disk / "out.log").symlink_to(log)
    status = start(processes, stage, inputs, out)
    assert status == 1, log.read_text()[-3000:]
    refused(disk, log.read_text())
    check_nothing_half(out, STAGES[stage][2], expected)
    # There is room again: on the same disk, from the same state.
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert start(processes, stage, inputs, out) == 0, log.read_text()[-3000:]
    assert {name: data_of(out / name) for name in expected} == expected


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(100_000)


def write_figure(path):
    figure, axis = plt.subplots()
    axis.plot(np.random.default_rng(0).normal(size=5_000))
    figure.savefig(path, format=path.suffix[1:])
    plt.close(figure)


WRITERS = {
    "x.txt": lambda path: path.write_text("x" * 800_000),
    "x.csv": lambda path: pd.DataFrame({"a": np.arange(100_000)}).to_csv(path),
    "x.npz": lambda path: np.savez(path, x=np.ones(100_000)),
    "x.npy": lambda path: np.save(path, np.ones(100_000)),
    "x.h5": write_hdf5,
    "x.safetensors": lambda path: save_file({"x": torch.ones(100_000)}, path),
    "x.pt": lambda path: torch.save({"x": torch.ones(100_000)}, path),
    "x.png": write_figure,
    "x.svg": write_figure,
    "x.xz": lambda path: path.write_bytes(lzma.compress(np.random.default_rng(0).bytes(800_000), preset=0)),
}
LIBRARY = """
import resource, sys
sys.path += {here!r}
from pathlib import Path
from test_full_disk import WRITERS
from mlip_studies.artifacts import atomic_path
from mlip_studies.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
for name, write in WRITERS.items():
    try:
        with atomic_path(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except InputError as error:
        print(type(error).__name__, error)
    else:
        print("written", name)
print("end")
"""


def test_every_library_that_writes_says_it_in_the_same_words(tmp_path, repository):
    """Each reports a full disk in its own way; the line is one, and neither a crash nor a file is left."""
    (tmp_path / "there").mkdir()
    for name in WRITERS:
        (tmp_path / "there" / name).write_text("the former content")
    script = LIBRARY.format(here=[str(repository / "tests" / name) for name in ("faults", "unit")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "there")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "end" and len(lines) == len(WRITERS) + 1
    for name, line in zip(WRITERS, lines, strict=False):
        assert re.fullmatch(rf"NoRoom \S+/{name}: cannot write \(.+\); make room on the disk .+ run again", line), line
        # What was there before is still there.
        assert (tmp_path / "there" / name).read_text() == "the former content"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == sorted(WRITERS)


def test_products_on_a_full_disk(tmp_path, small_disk):
    disk = small_disk(16)
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    for write in (
        lambda: save_figure(figure, pd.DataFrame({"a": [1]}), disk / "figure.png"),
        lambda: write_html_table(pd.DataFrame({"a": range(5_000)}), disk / "table.html", "Table"),
        lambda: write_text(disk / "text.txt", "x" * 20_000),
    ):
        with pytest.raises(NoRoom, match=r"(figure.png|table.html|text.txt): cannot write \(No space left on device\)"):
            write()
    assert [path for path in disk.rglob("*") if path.is_file()] == []


def test_a_checksum_that_finds_no_room_takes_its_file_with_it(tmp_path, monkeypatch):
    """A file without its record would count as whole for ever."""

    def full(path, sha256=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlip_studies.artifacts.record", full)
    with pytest.raises(NoRoom, match=r"x\.txt"):
        write_text(tmp_path / "x.txt", "content")
    assert list(tmp_path.iterdir()) == []


def test_no_room_outside_a_writer_is_one_line_of_the_job(tmp_path, capsys):
    """Also where a library writes by itself, or where the log is what finds no room."""
    log = tmp_path / "log"
    with pytest.raises(SystemExit) as caught, job(log), open("/dev/full", "w") as stream:
        stream.write("x")
        stream.flush()
    assert caught.value.code == 1
    log.unlink()
    log.symlink_to("/dev/full")
    with pytest.raises(SystemExit) as caught, job(log):
        print("a line for the log", flush=True)
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        re.fullmatch(r"error: .+: cannot write \(No space left on device\); make room .+", line) for line in lines
    )


def test_a_full_disk_that_is_guessed_from_words_keeps_its_traceback(tmp_path, capsys):
    """A disk that fails is told in the same words by some libraries."""

    def fail(error, writer):
        if not writer:
            raise error
        with atomic_path(tmp_path / "model.pt"):
            raise error

    number = OSError(errno.ENOSPC, "No space left on device")
    cases = [
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), True),
        (OSError("4 requested and 0 written"), True),
        (number, False),
        (RuntimeError("I/O error: (os error 28)"), False),
    ]
    for case, (error, guessed) in enumerate(cases):
        for writer in (False, True):
            log = tmp_path / f"log-{case}-{writer}"
            with pytest.raises(SystemExit) as caught, job(log):
                fail(error, writer)
            assert caught.value.code == 1
            first, *rest = log.read_text().splitlines()
            assert first.startswith("error: ") and "make room" in first
            assert capsys.readouterr().err == first + "\n"
            assert bool(rest) is guessed
            assert not guessed or (rest[0].startswith("Traceback") and any(str(error) in line for line in rest))
    # Its own line repeats the words; they are no guess of anybody.
    assert not is_guess(NoRoom(tmp_path, "No space left on device"))


@pytest.mark.parametrize("kind", ["full", "limit", "file in the way"])
def test_a_record_of_code_that_finds_no_room_is_one_line(tmp_path, capsys, small_disk, kind):
    folder = tmp_path / "code"
    if kind == "full":
        folder = small_disk(16)
        with contextlib.suppress(OSError):
            (folder / "all").write_bytes(bytes(1 << 20))
    elif kind == "file in the way":
        folder.touch()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(SystemExit) as caught, job(None, "mlip_studies.a=0123", str(folder)):
        if kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert re.fullmatch(rf"error: {folder}/mlip_studies\.a: cannot write \(.+\); (make room|remove) .+\n", printed), (
        printed
    )
    assert folder.is_file() or [path.name for path in folder.iterdir()] == (["all"] if kind == "full" else [])


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    for error in (OSError(13, "Permission denied"), ValueError("28"), KeyError("os error"), RuntimeError("bad model")):
        assert no_room_reason(error) is None
        with pytest.raises(type(error)), atomic_path(tmp_path / "x.txt"):
            raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["read-only folder", "file in the way", "read-only disk"])
def test_results_that_cannot_be_written_are_one_line_before_any_job(tmp_path, repository, small_disk, kind):
    """Snakemake stops while it reads the configuration, and the package's own commands at the first write."""
    if kind == "read-only disk":
        results = small_disk(64)
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
    elif kind == "file in the way":
        results = tmp_path / "file"
        results.touch()
    else:
        results = tmp_path / "folder"
        results.mkdir(mode=0o555)
        try:
            (results / "probe").touch()
        except PermissionError:
            pass
        else:
            pytest.skip("root may write to a read-only folder")
    (tmp_path / "work").mkdir()
    for name in ("Snakefile", "config", "workflow", "resources"):
        (tmp_path / "work" / name).symlink_to(repository / name)
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--config", f"results={results}"]
    done = subprocess.run(command, cwd=tmp_path / "work", capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "cannot write" in line]
    assert len(lines) == 1 and str(results) in lines[0] and "choose another folder" in lines[0]
    script = """
        import sys
        from mlip_studies.artifacts import write_text
        from mlip_studies.errors import InputError
        from mlip_studies.runtime.state import JobState
        from pathlib import Path
        try:
            if sys.argv[2] == "state":
                JobState(Path(sys.argv[1]), {}).__enter__()
            write_text(Path(sys.argv[1]) / "sub" / "x.txt", "x")
        except InputError as error:
            print("refused:", error)
        """
    for what in ("state", "file"):
        command = [sys.executable, "-c", textwrap.dedent(script), str(results), what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stderr == "" and len(done.stdout.splitlines()) == 1, done.stderr
        assert "cannot write" in done.stdout and str(results) in done.stdout
    assert shutil.disk_usage(tmp_path).free > 0
