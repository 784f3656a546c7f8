"""Resumable shards of JSON lines, one line per finished row, and labelling of geometries with them.

A shard appends one line per row to a ``.partial`` file and is renamed when it is whole. Floats are written with
``repr`` precision, so a shard read back is bit-identical.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.run import run_dft
from mlip_studies.errors import InputError
from mlip_studies.mini_data.systems import System

Row = dict[str, Any]


def complete_lines(path: Path, first: int = 0) -> list[str]:
    """The whole JSON lines of a partial shard whose rows count up from ``first``.

    A line cut off by a kill, and everything behind it, is dropped; so is a line with another row number.
    """
    lines: list[str] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(row, dict) or row.get("row") != first + len(lines):
                break
            lines.append(line)
    return lines


def fill_shard(output: Path, first: int, last: int, label: Callable[[int, Any], tuple[Row, Any]]) -> None:
    """Write rows ``first``…``last``-1 as JSON lines, resuming a partial shard.

    Args:
        output: the finished shard; the rows go to ``<output>.partial`` until it is whole.
        first: first row.
        last: last row + 1.
        label: called with (row, state) for every missing row in order; returns the JSON-ready content, which must hold
            ``row``, and the next state. The state is None at the start and after a resumption.
    """
    partial = output.with_name(output.name + ".partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    done = complete_lines(partial, first)[: last - first]
    with partial.open("w") as stream:
        stream.writelines(line + "\n" for line in done)
        stream.flush()
        state = None
        for row in range(first + len(done), last):
            payload, state = label(row, state)
            stream.write(json.dumps(payload) + "\n")
            stream.flush()
    os.replace(partial, output)


def read_lines(path: Path) -> list[Row]:
    """The rows of a finished shard."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def shard_ranges(n_rows: int, size: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the shards that cover ``n_rows`` rows."""
    return [(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]


def system_shard_name(system: str, first: int) -> str:
    """File name of a shard of a system."""
    return f"{system}_{first:04d}.jsonl"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def label_system(system: System, level: str, first: int, last: int, output: Path, forces: bool = True) -> None:
    """Label frames ``first``…``last``-1 of a system at a Kohn-Sham level and write them as a shard.

    Rows hold ``row``, ``energy`` (hartree), ``forces`` (hartree/Å, absent without ``forces``), ``dipole`` (e·Å, about
    the origin), ``parts`` (see :class:`mlip_studies.dft.run.DFTResult`), ``converged``, ``seconds`` (wall) and
    ``cpu_seconds``.
    """

    def label(row: int, density: Any) -> tuple[Row, Any]:
        start = time.process_time()
        result, density = run_dft(
            system.atomic_numbers,
            system.positions[row],
            DFT_LEVELS[level],
            density,
            charge=system.charge,
            forces=forces,
        )
        payload = {
            "row": row,
            "energy": result.energy,
            "dipole": result.dipole.tolist(),
            "parts": {key: _plain(value) for key, value in result.parts.items()},
            "converged": result.converged,
            "seconds": result.seconds,
            "cpu_seconds": time.process_time() - start,
        }
        if forces:
            payload["forces"] = result.forces.tolist()
        # A field that did not converge is no guess for the next one.
        return payload, density if result.converged else None

    fill_shard(Path(output), first, last, label)


def rows_of_system(system: System, paths: Iterable[Path]) -> list[Row]:
    """All rows of a system from its shards, in order.

    Raises:
        InputError: rows are missing or occur twice.
    """
    rows = [
        row for path in sorted(paths) if Path(path).stem.rsplit("_", 1)[0] == system.name for row in read_lines(path)
    ]
    if [row["row"] for row in rows] != list(range(len(system.positions))):
        raise InputError(
            f"{system.name}: {len(rows)} rows in the shards, expected rows 0 to {len(system.positions) - 1} in order; "
            "remove the system's shards and build again"
        )
    return rows
