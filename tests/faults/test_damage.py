"""A flipped byte anywhere: the consumer stops and names the file, verify sets it aside, and just that is made again."""

import os
import re
import subprocess
import time

import numpy as np
import pytest
from stages import FUNNEL, STAGES
from test_md import network

from mlip_studies import artifacts
from mlip_studies.artifacts import (
    ABANDONED_SECONDS,
    atomic_path,
    record,
    remove_leftovers,
    require,
    restore_times,
    temporary_path,
    verify_tree,
    write_text,
)
from mlip_studies.data.store import Store
from mlip_studies.dft.spot_check import read_frames
from mlip_studies.errors import InputError
from mlip_studies.models.potential import load_potential
from mlip_studies.studies.data_overview import FIGURES, Context, DataFiles
from mlip_studies.training.checkpoint import Checkpoints


def flip(path, place):
    """Change one byte and leave size and time as they are, as a bad disk does."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_store(path):
    STAGES["training"][0](path.parent)


def make_table(path):
    path.parent.mkdir(exist_ok=True)
    write_text(path, FUNNEL)


def make_frames(path):
    with atomic_path(path) as temporary:
        np.savez(temporary, atomic_numbers=[1, 1], ptr=[0, 2], positions=np.eye(3)[:2])


ARTEFACTS = {
    "store.h5": (make_store, lambda path: Store(path)),
    "model.safetensors": (lambda path: network().save(path, {}), load_potential),
    "toy/funnel.csv": (
        make_table,
        lambda path: FIGURES["funnel"](DataFiles.from_paths([path]), Context("mini"), "toy"),
    ),
    "frames.npz": (make_frames, read_frames),
}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_flipped_byte_stops_the_consumer(tmp_path, name):
    make, read = ARTEFACTS[name]
    path = tmp_path / name
    make(path)
    read(path)
    whole = path.read_bytes()
    for place in (0.0, *np.random.default_rng(3).uniform(size=6), 0.999999):
        flip(path, place)
        with pytest.raises(InputError) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message and "make verify" in message and "\n" not in message
        assert verify_tree(tmp_path) == [path]
        assert not path.exists() and path.with_name(path.name + ".corrupt").exists()
        path.write_bytes(whole)
        record(path)
        read(path)
    assert verify_tree(tmp_path) == []


def test_a_damaged_checksum_record_is_one_line(tmp_path):
    write_text(tmp_path / "x.txt", "content")
    for text in (b"", b"\xff\xfe", b"abc", b"abc def", b"a b c"):
        (tmp_path / ".sha256" / "x.txt").write_bytes(text)
        with pytest.raises(InputError, match="make verify") as caught:
            require(tmp_path / "x.txt")
        assert "x.txt" in str(caught.value) and "\n" not in str(caught.value)
    assert verify_tree(tmp_path) == [tmp_path / "x.txt"]


def test_a_damaged_checkpoint_costs_one_interval(tmp_path, capsys):
    import torch

    checkpoints = Checkpoints(tmp_path, "stage", {"class": "x", "weights": "y"})
    for step in range(3):
        checkpoints.save({"x": torch.tensor(step)}, step)
    flip(checkpoints.files()[0], 0.5)
    assert int(checkpoints.load()["x"]) == 1
    assert "corrupted checkpoint" in capsys.readouterr().out


def test_only_a_rebuilt_file_of_the_same_content_gets_its_time_back(tmp_path):
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    for path in (same, other):
        write_text(path, "content")
        os.utime(path, (1000, 1000))
        os.utime(tmp_path / ".sha256" / path.name, (1000, 1000))
        flip(path, 0.5)
    assert verify_tree(tmp_path) == [other, same]
    assert restore_times(tmp_path) == []  # not rebuilt yet; the notes stay
    write_text(same, "content")
    write_text(other, "another content")
    assert restore_times(tmp_path) == [same]
    assert same.stat().st_mtime == 1000 and other.stat().st_mtime > 1000
    assert not same.with_name("same.txt.corrupt").exists() and other.with_name("other.txt.corrupt").exists()
    assert restore_times(tmp_path) == [] and verify_tree(tmp_path) == []


# Leftovers


def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_killed_writers_go_with_the_next_one(tmp_path):
    target = tmp_path / "a.b.csv"
    ours = temporary_path(target)
    host, pid, _ = re.fullmatch(r"\.a\.b\.(.+)-(\d+)-(\d+)\.tmp\.csv", ours.name).groups()
    assert int(pid) == os.getpid()

    def leave(owner, age=0.0, stem="a.b"):
        path = tmp_path / f".{stem}.{owner}.tmp.csv"
        path.write_text("half")
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
        return path

    old = 2 * ABANDONED_SECONDS
    go = [
        leave(f"{host}-{dead_pid()}-0"),
        leave(f"{host}-{os.getppid()}-0", old),  # the number was given to another process since
        leave("other-node-17-3", old),
        leave("4194000", old),  # named as in earlier versions
    ]
    stay = [
        leave(f"{host}-{os.getppid()}-1"),  # lives
        leave("other-node-17-4"),  # cannot be asked
        leave(f"{host}x-{dead_pid()}-0"),
        leave("4194001"),
        leave(f"{host}-{dead_pid()}-0", old, stem="a"),  # of another file
        leave("somebody's own", old),
    ]
    folder = tmp_path / f".a.b.{host}-{dead_pid()}-7.tmp.csv"
    folder.mkdir()
    (folder / "part").touch()
    ours.write_text("being written by this process")
    write_text(target, "whole")
    assert not any(path.exists() for path in [*go, folder])
    assert all(path.exists() for path in [*stay, ours])
    assert remove_leftovers(tmp_path / "nowhere" / "x.txt") == []


def test_an_idle_writer_of_this_machine_keeps_its_file(tmp_path, monkeypatch):
    """However old the file is; the one of another machine goes at that age."""
    target = tmp_path / "x.csv"
    name = temporary_path(target).name
    writer = subprocess.Popen(["sleep", "600"])
    try:
        idle = tmp_path / name.replace(f"-{os.getpid()}-", f"-{writer.pid}-")
        other = tmp_path / f".x.other-node-{writer.pid}-0.tmp.csv"
        for path in (idle, other):
            path.touch()
        monkeypatch.setattr(artifacts, "ABANDONED_SECONDS", -3600.0)
        assert remove_leftovers(target) == [other]
        # As if the process had started after the last write.
        now = idle.stat().st_mtime
        assert remove_leftovers(target, now + artifacts.CLOCK_SECONDS / 2) == []
        assert remove_leftovers(target, now + 600 + artifacts.CLOCK_SECONDS) == [idle]
        # Where the system does not say when a process started, it is left alone.
        idle.touch()
        monkeypatch.setattr(artifacts, "_process_seconds", lambda pid: None)
        assert remove_leftovers(target, now + 1e9) == [] and idle.exists()
    finally:
        writer.kill()
        writer.wait()
    assert remove_leftovers(target) == [idle]


def test_the_age_of_a_process(tmp_path):
    before = time.monotonic()
    with subprocess.Popen(["sleep", "600"]) as process:
        time.sleep(0.3)
        lived = artifacts._process_seconds(process.pid)
        process.kill()
    assert lived is None or 0.2 < lived < time.monotonic() - before + 0.1
    assert artifacts._process_seconds(dead_pid()) is None


@pytest.mark.parametrize("kind", ["refused", "gone", "interrupted"])
def test_a_rename_that_fails_leaves_the_former_file_with_its_record(tmp_path, monkeypatch, kind):
    target = tmp_path / "x.txt"
    write_text(target, "former")
    os.utime(tmp_path / ".sha256" / "x.txt", (1000, 1000))
    replace = os.replace

    def failing(source, destination):
        if destination == target:
            raise PermissionError(1, "Operation not permitted") if kind == "refused" else KeyboardInterrupt
        replace(source, destination)

    message = {
        "refused": r"x\.txt: cannot write \(Operation not permitted\); remove what",
        "gone": r"x\.txt: cannot write \(its temporary file is gone\); let nothing",
    }
    with monkeypatch.context() as patch:
        if kind != "gone":
            patch.setattr(os, "replace", failing)
        expected = KeyboardInterrupt if kind == "interrupted" else InputError
        with pytest.raises(expected, match=message.get(kind)), atomic_path(target) as temporary:
            temporary.write_text("new")
            if kind == "gone":
                temporary.unlink()
    assert target.read_text() == "former" and verify_tree(tmp_path) == []
    assert (tmp_path / ".sha256" / "x.txt").stat().st_mtime == 1000
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == [".sha256/x.txt", "x.txt"]
    flip(target, 0.5)
    assert verify_tree(tmp_path) == [target]
    write_text(target, "new")
    assert require(target).read_text() == "new"
    assert [path.name for path in (tmp_path / ".sha256").iterdir() if path.name != ".x.txt.aside"] == ["x.txt"]


def test_a_rename_that_fails_for_a_first_file_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(InputError, match=r"x\.txt: cannot write .+; remove what is in its way"):
        write_text(tmp_path / "x.txt", "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.txt"]


def test_names_of_files_are_no_patterns(tmp_path):
    for name in ("a[1].csv", "a*.csv", "a 1.csv", ".hidden", "none"):
        target = tmp_path / name
        leftover = temporary_path(target)
        leftover = leftover.with_name(leftover.name.replace(f"-{os.getpid()}-", f"-{dead_pid()}-"))
        leftover.touch()
        write_text(target, "x")
        assert target.read_text() == "x" and not leftover.exists()


def test_two_writers_of_one_file_in_one_process(tmp_path):
    """Each has a file of its own; the last one to end wins, and both were whole."""
    target = tmp_path / "x.txt"
    with atomic_path(target) as one, atomic_path(target) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one" and verify_tree(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sha256", "x.txt"]
