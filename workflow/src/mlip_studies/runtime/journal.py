"""Finished rows of a long job in a file of its state folder, one JSON line each, kept as soon as they are there.

A job that was killed reads the rows again and goes on with those that are missing. A last line that was cut off is
dropped, and so is a row that the job does not accept, such as one that was ended by a lower limit than today's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Journal:
    """Rows of a file that grows by whole lines; close it at the end.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, accept: Callable[[Row], bool], keep: Callable[[Row], None]) -> None:
        """Read the rows and open the file for more.

        Args:
            path: the file; it need not exist, its folder must.
            accept: whether a row of the file counts. One that lacks what it looks for (``KeyError``, ``TypeError``,
                ``ValueError``) does not. Lines that do not count are removed from the file.
            keep: called with each row that counts, in the order of the file, and with each that is added.
        """
        self.path = path
        self._keep = keep
        content = path.read_bytes() if path.exists() else b""
        kept = [line for line in content.split(b"\n") if line and self._take(line, accept)]
        whole = b"".join(line + b"\n" for line in kept)
        # A line that was cut off by a kill must not run into the next one.
        if whole != content:
            temporary = path.with_suffix(".new")
            temporary.write_bytes(whole)
            os.replace(temporary, path)
        self._stream = path.open("ab")

    def _take(self, line: bytes, accept: Callable[[Row], bool]) -> bool:
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not accept(row):
                return False
        except (ValueError, KeyError, TypeError):
            return False
        self._keep(row)
        return True

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        self._stream.write(json.dumps(row).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._keep(row)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def ended_by_lower_limit(ended: str, row: Mapping[str, Any], time_limit_s: float, memory_limit_mb: float) -> bool:
    """Whether a calculation was ended by a limit below today's, so that it is worth another try.

    Args:
        ended: how it ended, ``timeout`` and ``out_of_memory`` being the limits.
        row: holds the limits that it ran under, ``time_limit_s`` and ``memory_limit_mb``.
        time_limit_s: today's limit, s.
        memory_limit_mb: today's limit, MiB.

    Raises:
        KeyError: the row does not say its limit.
    """
    if ended == "timeout":
        return bool(row["time_limit_s"] < time_limit_s)
    return ended == "out_of_memory" and bool(row["memory_limit_mb"] < memory_limit_mb)
