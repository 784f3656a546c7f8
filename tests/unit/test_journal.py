"""The journal of finished rows: cut-off and refused lines, resuming, and rows that are on disk when they are added."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlip_studies.runtime.journal import Journal, Row, ended_by_lower_limit


def read(path: Path, accept: Any = lambda row: row["n"] >= 0) -> list[Row]:
    """The rows that a journal finds."""
    rows: list[Row] = []
    Journal(path, accept, rows.append).close()
    return rows


def test_a_new_journal_is_empty_and_added_rows_are_found_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", []
    with closing(Journal(path, lambda row: True, rows.append)) as journal:
        assert rows == []
        journal.add({"n": 0, "energy": 0.1 + 0.2})
        journal.add({"n": 1, "energy": float("inf")})
    assert rows == read(path)
    assert rows[0]["energy"] == 0.1 + 0.2  # bit for bit
    with closing(Journal(path, lambda row: True, lambda row: None)) as journal:
        journal.add({"n": 2})
    assert [row["n"] for row in read(path)] == [0, 1, 2]


@pytest.mark.parametrize("cut", [b'{"n": 2', b'{"n": 2, "text": "\xc3', b'{"n"', b"{"])
def test_a_line_cut_off_by_a_kill_is_dropped_and_does_not_run_into_the_next(tmp_path: Path, cut: bytes) -> None:
    path, rows = tmp_path / "rows.jsonl", []
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n' + cut)
    with closing(Journal(path, lambda row: True, rows.append)) as journal:
        assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n'
        journal.add({"n": 3})
    assert [row["n"] for row in rows] == [0, 1, 3]
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n{"n": 3}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}')
    assert [row["n"] for row in read(path)] == [0, 1]
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n'


def test_refused_rows_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    # Refused by its number, without the key, of the wrong type, no object, no JSON, and an empty line.
    path.write_bytes(b'{"n": 0}\n{"n": -1}\n{"m": 1}\n{"n": "x"}\n[1]\n7\n"n"\nnonsense\n\n{"n": 2}\n')
    assert [row["n"] for row in read(path)] == [0, 2]
    assert path.read_bytes() == b'{"n": 0}\n{"n": 2}\n'


def test_a_journal_that_counts_as_a_whole_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 0}\n')
    before = path.stat()
    read(path)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_row_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "rows.jsonl", []
    synced: list[tuple[bytes, int]] = []
    real = os.fsync

    def fsync(number: int) -> None:
        assert os.path.samestat(os.fstat(number), path.stat())
        synced.append((path.read_bytes(), len(rows)))
        real(number)

    with closing(Journal(path, lambda row: True, rows.append)) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        journal.add({"n": 0})
        journal.add({"n": 1})
    # At each call the whole line is in the file, and the row was not handed on before.
    assert synced == [(b'{"n": 0}\n', 0), (b'{"n": 0}\n{"n": 1}\n', 1)]
    assert rows == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize(
    ("ended", "time_limit_s", "memory_limit_mb", "again"),
    [
        ("timeout", 10.0, 100.0, False),
        ("timeout", 11.0, 100.0, True),
        ("timeout", 9.0, 200.0, False),
        ("out_of_memory", 10.0, 100.0, False),
        ("out_of_memory", 10.0, 101.0, True),
        ("out_of_memory", 20.0, 99.0, False),
        ("converged", 20.0, 200.0, False),
        ("crashed", 20.0, 200.0, False),
    ],
)
def test_what_a_limit_ended_is_tried_again_under_a_higher_one(
    tmp_path: Path, ended: str, time_limit_s: float, memory_limit_mb: float, again: bool
) -> None:
    row = {"ended": ended, "time_limit_s": 10.0, "memory_limit_mb": 100.0}
    assert ended_by_lower_limit(ended, row, time_limit_s, memory_limit_mb) is again
    path = tmp_path / "rows.jsonl"
    with closing(Journal(path, lambda row: True, lambda row: None)) as journal:
        journal.add(row)
    found = read(path, lambda row: not ended_by_lower_limit(row["ended"], row, time_limit_s, memory_limit_mb))
    assert found == ([] if again else [row])
