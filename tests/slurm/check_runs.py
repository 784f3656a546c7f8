"""Compare results and look into the records that jobs left behind; for run.sh, and by hand after a run on a cluster.

python tests/slurm/check_runs.py verdicts results/mini OTHER/results/mini
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open

#: columns, keys and arrays of what is measured anew in every run: times, rates, memory, hosts, processes
MEASURED = re.compile(
    r"(^|_)(seconds?|hours?|rss|memory|pid|process_id|speed|jobs|job_id|resumed|environment|heartbeat|created)($|_)"
    r"|ns_per_day|cuda_visible_devices"
)
#: what says with which code and from which file: counts only between runs of the same code
ORIGIN = re.compile(r"(^|_)(code|commit|sha256|provenance|versions?)($|_)")
CHECKSUM = re.compile(r"[0-9a-f]{64}")
TABLES = {".csv", ".json", ".jsonl"}
ARRAYS = {".npz", ".safetensors", ".h5"}
#: drawings, whose numbers are compared in the tables behind them, and what is no result
SKIPPED = {".html", ".png", ".svg", ".log", ".lock"}
SHOWN = 20


def devices(folder: Path, expected: int) -> str:
    """Return a line about the GPUs that the training jobs were given, or raise ValueError."""
    seen = {}
    for path in sorted(folder.rglob("run.json")):
        name = path.parent.relative_to(folder)
        # Hidden folders hold checksums under the same file names.
        if any(part.startswith(".") for part in name.parts):
            continue
        seen[str(name)] = json.loads(path.read_text())["environment"]["cuda_visible_devices"]
    if len(seen) < expected:
        raise ValueError(f"{len(seen)} run records under {folder}, expected {expected}")
    without = [name for name, value in seen.items() if str(value) not in {"0", "1"}]
    if without:
        raise ValueError(f"not 0 or 1 in {', '.join(f'{name}: {seen[name]!r}' for name in without)}")
    return f"{len(seen)} training jobs saw CUDA_VISIBLE_DEVICES {sorted(set(map(str, seen.values())))}"


def resumed(path: Path) -> str:
    """Return a line about where a training (run.json) or a simulation (summary.json) went on, or raise ValueError."""
    record = json.loads(path.read_text())
    kind = "step" if "resumed_from_step" in record else "interval"
    value = record[f"resumed_from_{kind}"]
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{path}: resumed_from_{kind} is {value!r}")
    return f"the retry resumed from {kind} {value}"


# ---- two folders of results ------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, Path]:
    """Results by their path below a folder: no state, logs, benchmarks, checksums or drawings."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in {"logs", "benchmarks"} and path.suffix not in SKIPPED:
            found["/".join(parts)] = path
    return found


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def numbers_of(path: Path, origin: bool = False) -> list[Any]:
    """What a table, record or file of arrays says, without what is measured anew in every run and without paths.

    Args:
        path: the file.
        origin: with the code and the files that tables and records come from.

    Raises:
        ValueError: none of these.
    """
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            return [
                {key: value for key, value in row.items() if not _left_out(key or "", origin)}
                for row in csv.DictReader(stream)
            ]
    if path.suffix == ".jsonl":
        return [_without_measured(json.loads(line), origin) for line in path.read_text().splitlines() if line]
    if path.suffix == ".json":
        return [_without_measured(json.loads(path.read_text()), origin)]
    if path.suffix in ARRAYS:
        return [(name, array.shape, array.dtype.str, array.tobytes()) for name, array in sorted(_arrays(path))]
    raise ValueError(f"{path}: no table and no arrays")


def _arrays(path: Path) -> list[tuple[str, np.ndarray]]:
    """Arrays of a file by name, but for those that are measured anew; attributes and metadata are left out."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            found = [(name, content[name]) for name in content.files]
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as content:
            found = [(name, content.get_tensor(name)) for name in content.keys()]  # noqa: SIM118 # no mapping
    else:
        names: list[str] = []
        with h5py.File(path) as content:
            content.visit(names.append)
            found = [(name, np.asarray(content[name][()])) for name in names if isinstance(content[name], h5py.Dataset)]
    return [(name, array) for name, array in found if not any(_left_out(part) for part in name.split("/"))]


def _left_out(name: str, origin: bool = False) -> bool:
    return bool(MEASURED.search(name)) or (not origin and bool(ORIGIN.search(name)))


def _without_measured(value: Any, origin: bool) -> Any:
    if isinstance(value, dict):
        return {key: _without_measured(each, origin) for key, each in value.items() if not _left_out(key, origin)}
    if isinstance(value, list):
        return [_without_measured(each, origin) for each in value]
    if not origin and isinstance(value, str) and CHECKSUM.fullmatch(value):
        return "checksum"
    # A path differs where the folder of results does.
    return Path(value).name if isinstance(value, str) and "/" in value else value


def _same_numbers(one: Path, other: Path, origin: bool) -> bool:
    """Whether two files of other bytes say the same; a file that cannot be read does not, nor arrays of one origin."""
    if one.suffix not in (TABLES if origin else TABLES | ARRAYS):
        return False
    try:
        return numbers_of(one, origin) == numbers_of(other, origin)
    except (OSError, ValueError, SafetensorError):
        return False


def compare(first: Path, second: Path, origin: bool = False) -> tuple[list[str], list[str], list[str], int]:
    """Compare two folders of results.

    Args:
        first: one folder.
        second: the other.
        origin: the code is the same, so that it counts, and files of arrays must be equal byte by byte.

    Returns:
        names that only one has, names whose content differs, names whose bytes alone differ (times, paths, code),
        and how many are equal byte by byte.
    """
    ours, theirs = files_of(first), files_of(second)
    single = sorted(set(ours) ^ set(theirs))
    content, measured, equal = [], [], 0
    for name in sorted(set(ours) & set(theirs)):
        if sha256(ours[name]) == sha256(theirs[name]):
            equal += 1
        elif _same_numbers(ours[name], theirs[name], origin):
            measured.append(name)
        else:
            content.append(name)
    return single, content, measured, equal


def same(first: Path, second: Path) -> str:
    """Return a line about two folders that hold the same numbers, or raise ValueError."""
    single, content, measured, equal = compare(first, second, origin=True)
    for title, names in (("only in one folder", single), ("other numbers", content)):
        for name in names[:SHOWN]:
            print(f"{title}: {name}")
    if not equal:
        raise ValueError(f"{first} and {second} have no equal file")
    if single or content:
        raise ValueError(f"{len(single)} files in one folder only, {len(content)} with other numbers, {equal} equal")
    return f"{equal} files are equal byte by byte, {len(measured)} differ in measured times only"


# ---- verdicts --------------------------------------------------------------------------------------------------------


def verdict_tables(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Claims by table and identifier, of all verdicts*.json below a folder."""
    tables = {}
    for path in sorted(folder.glob("*/verdicts*.json")):
        tables[str(path.relative_to(folder))] = {claim["id"]: claim for claim in json.loads(path.read_text())["claims"]}
    return tables


def _differences(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for claim in sorted(set(ours) ^ set(theirs)):
        yield f"{name}: {claim}: only in one table"
    for claim in sorted(set(ours) & set(theirs)):
        one, other = ours[claim], theirs[claim]
        for key in ("verdict", "at_this_scale"):
            if one[key] != other[key]:
                yield f"{name}: {claim}: {key} {one[key]!r} and {other[key]!r}"


def _largest_change(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest relative change of a number behind the same claim."""
    largest = 0.0
    for claim in set(ours) & set(theirs):
        for one, other in zip(ours[claim]["ours"], theirs[claim]["ours"], strict=False):
            a, b = one["mean"], other["mean"]
            if a is not None and b is not None and a != b:
                largest = max(largest, abs(a - b) / max(abs(a), abs(b), math.ulp(1.0)))
    return largest


def verdicts(first: Path, second: Path) -> str:
    """Compare the verdict tables of two folders of results and list the files that differ.

    Returns:
        a line about tables that agree.

    Raises:
        ValueError: no tables, or a verdict that differs.
    """
    ours, theirs = verdict_tables(first), verdict_tables(second)
    if not ours or not theirs:
        raise ValueError(f"no */verdicts*.json below {first if not ours else second}")
    lines = [f"{name}: only in one folder" for name in sorted(set(ours) ^ set(theirs))]
    claims = 0
    for name in sorted(set(ours) & set(theirs)):
        lines += _differences(name, ours[name], theirs[name])
        claims += len(ours[name])
        change = _largest_change(ours[name], theirs[name])
        print(f"{name}: {len(ours[name])} claims, largest relative change of a number {change:.2g}")
    single, content, measured, equal = compare(first, second)
    print(
        f"files: {equal} equal byte by byte, {len(measured)} differ in measured times or paths only, "
        f"{len(content)} in numbers, {len(single)} in one folder only"
    )
    for title, names in (("numbers differ", content), ("in one folder only", single)):
        for name in names:
            print(f"  {title}: {name}")
    for line in lines:
        print(line)
    if lines:
        raise ValueError(f"{len(lines)} differences between the verdict tables")
    return f"{len(ours)} verdict tables with {claims} claims agree"


def main(argv: list[str]) -> int:
    """Run one of the checks: its name, then its arguments; status 1 and one line when it fails."""
    try:
        match argv:
            case ["devices", folder, expected]:
                print(devices(Path(folder), int(expected)))
            case ["resumed", *paths] if paths:
                for path in paths:
                    print(resumed(Path(path)))
            case ["same", first, second]:
                print(same(Path(first), Path(second)))
            case ["verdicts", first, second]:
                print(verdicts(Path(first), Path(second)))
            case _:
                print("expected: devices FOLDER N | resumed FILE... | same FOLDER FOLDER | verdicts FOLDER FOLDER")
                return 2
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
