"""Build one canonical store from the published files of a data set, with a funnel of what was removed."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies import elements as periodic
from mlip_studies.artifacts import PathLike, atomic_path, sha256_of
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.download import content_problem
from mlip_studies.data.geometry import TOLERANCE_ANGSTROM, GeometryIndex
from mlip_studies.data.readers import get_reader
from mlip_studies.data.store import Block, StoreWriter
from mlip_studies.errors import InputError

__all__ = ["FUNNEL_COLUMNS", "ForceSignCheck", "build_store", "resolve_dataset"]

FUNNEL_COLUMNS = ("step", "rows", "removed", "reason")
_BLOCK_ROWS = 16384


@dataclass
class _Funnel:
    """Rows that are left after each step."""

    steps: list[tuple[str, int, int, str]] = field(default_factory=list)

    def add(self, step: str, removed: int, reason: str) -> None:
        before = self.steps[-1][1]
        self.steps.append((step, before - removed, removed, reason))

    def write(self, path: PathLike) -> None:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(FUNNEL_COLUMNS)
            writer.writerows(self.steps)


class ForceSignCheck:
    """Compares energy differences of neighboring frames with the work of their forces.

    For displacements d between similar frames, E2 - E1 = -(F1 + F2)·d/2 up to third order. Gradients stored as forces
    give a correlation near -1, a wrong unit a slope far from 1.
    """

    def __init__(self, max_displacement: float = 0.5, max_pairs: int = 5000, min_pairs: int = 20) -> None:
        self._max_displacement = max_displacement
        self._max_pairs = max_pairs
        self._min_pairs = min_pairs
        self._work: dict[str, list[np.ndarray]] = {}
        self._change: dict[str, list[np.ndarray]] = {}

    def add(self, block: Block) -> None:
        """Use the neighboring frames of a block."""
        step = np.diff(block.positions.astype(np.float64), axis=0)
        near = np.abs(step).max(axis=(1, 2), initial=0.0) < self._max_displacement
        for name, forces in block.forces.items():
            if sum(map(len, self._work.get(name, []))) >= self._max_pairs:
                continue
            work = -0.5 * ((forces[1:].astype(np.float64) + forces[:-1]) * step).sum(axis=(1, 2))
            change = np.diff(block.energies[name])
            use = near & np.isfinite(work) & np.isfinite(change) & (np.abs(step).max(axis=(1, 2), initial=0.0) > 0)
            self._work.setdefault(name, []).append(work[use])
            self._change.setdefault(name, []).append(change[use])

    def result(self, source: PathLike) -> dict[str, dict[str, float]]:
        """Correlation, slope and number of pairs per fidelity.

        Raises:
            InputError: the forces of a fidelity have the wrong sign.
        """
        report = {}
        for name, parts in self._work.items():
            work, change = np.concatenate(parts), np.concatenate(self._change[name])
            if len(work) < self._min_pairs or work.std() == 0 or change.std() == 0:
                continue
            correlation = float(np.corrcoef(work, change)[0, 1])
            slope = float(np.dot(work, change) / np.dot(work, work))
            if correlation < -0.5:
                raise InputError(
                    f"{source}: forces of {name} point uphill (correlation of their work with the energy "
                    f"{correlation:.2f}, expected near 1): the file holds gradients; use a reader that flips the sign"
                )
            report[name] = {"correlation": correlation, "slope": slope, "pairs": len(work)}
        return report


@contextmanager
def _blocks(source: Mapping[str, Any], path: Path) -> Iterator[Iterator[Block]]:
    """The blocks of a file, which is closed at once when the consumer fails."""
    blocks = get_reader(source["reader"]).load()(path, source, _BLOCK_ROWS)
    try:
        yield blocks
    finally:
        if isinstance(blocks, Generator):
            blocks.close()


def build_store(
    dataset: Mapping[str, Any], sources: Sequence[PathLike], output: PathLike, funnel_csv: PathLike
) -> None:
    """Read the files of a data set, filter them and write the store and its funnel.

    Steps: elements outside the data set's list (an error, or dropped if ``unknown_elements: drop``), rows without any
    label, and, where ``deduplicate`` is set, frames of other fidelities whose geometry also carries the kept one.

    Args:
        dataset: the entry as :func:`resolve_dataset` returns it.
        sources: the files, in the order of ``source_entries``.
        output: the store.
        funnel_csv: table with the columns step, rows, removed, reason.

    Raises:
        InputError: files missing, damaged or of another layout; non-finite numbers; nothing left to store.
    """
    if "sources" in dataset and "source_entries" not in dataset:
        raise InputError(f"{output}: a composed data set needs the entries of its sources; pass it resolved")
    entries = dataset.get("source_entries") or [{"name": dataset.get("name", "data"), **dataset}]
    paths = [Path(path) for path in sources]
    if len(paths) != len(entries):
        names = ", ".join(entry["name"] for entry in entries)
        raise InputError(f"{output}: {len(paths)} source file(s) given, expected {len(entries)} ({names})")
    for path, entry in zip(paths, entries, strict=True):
        if not path.is_file():
            raise InputError(f"{path}: no such file; fetch {entry['name']} first (or set `mirror` to a copy)")

    allowed = np.array(periodic.numbers(dataset["elements"]))
    on_unknown = dataset.get("unknown_elements", "error")
    fidelities = list(dict.fromkeys(name for entry in entries for name in entry["fidelities"]))
    force_fidelities = [
        name for name in fidelities if any(entry["fidelities"].get(name, {}).get("forces") for entry in entries)
    ]
    reference, index = _reference_index(dataset, entries, paths)

    read: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    n_read = n_unknown = n_unlabeled = n_duplicates = 0
    origin = []
    dtypes = [get_reader(entry["reader"]).positions_dtype for entry in entries]
    provenance: dict[str, Any] = {
        "dataset": dataset.get("name"),
        "title": dataset.get("title"),
        "elements": sorted(allowed.tolist()),
        "levels": {name: level for entry in entries for name, level in entry.get("levels", {}).items()},
        "licence": dataset.get("licence"),
        "citation": dataset.get("citation"),
        "units": {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"},
    }
    with StoreWriter(output, fidelities, force_fidelities, provenance, str(np.result_type(*dtypes))) as writer:
        for path, entry in zip(paths, entries, strict=True):
            sign_check = ForceSignCheck()
            with _blocks(entry, path) as blocks:
                for block in blocks:
                    n_read += len(block)
                    read[entry["name"]] += len(block)
                    outside = np.setdiff1d(block.atomic_numbers, allowed)
                    if len(outside):
                        names = ", ".join(periodic.symbols(outside))
                        if on_unknown != "drop":
                            raise InputError(
                                f"{path}: group {block.group} holds {names}, expected only "
                                f"{', '.join(periodic.symbols(allowed))}; is it the right file? "
                                "(`unknown_elements: drop` removes such molecules)"
                            )
                        n_unknown += len(block)
                        unknown[names] += len(block)
                        continue
                    sign_check.add(block)
                    labeled = np.any([np.isfinite(values) for values in block.energies.values()], axis=0)
                    n_unlabeled += int((~labeled).sum())
                    keep = labeled
                    if index is not None and reference not in block.energies:
                        duplicate = labeled & (index.match_block(block) >= 0)
                        n_duplicates += int(duplicate.sum())
                        keep = labeled & ~duplicate
                    block = block if keep.all() else block.select(keep)
                    for name, values in block.energies.items():
                        labels[name] += int(np.isfinite(values).sum())
                    writer.append_block(block, path)
            # After reading, so that a file that is damaged visibly is described by what is wrong with it.
            if problem := content_problem(entry.get("file") or {}, path):
                raise InputError(f"{path}: wrong content, {problem}; fetch it again or correct config/datasets.yaml")
            origin.append(
                {
                    "dataset": entry["name"],
                    "file": path.name,
                    "sha256": sha256_of(path),
                    "bytes": path.stat().st_size,
                    "reader": entry["reader"],
                    "rows": read[entry["name"]],
                    "units": dict(entry["units"]),
                    "keys": {name: dict(keys) for name, keys in entry["fidelities"].items()},
                    "force_check": sign_check.result(path),
                }
            )
        writer.provenance["sources"] = origin
        counts = ", ".join(f"{labels[name]} {name}" for name in fidelities)
        funnel = _Funnel([("read", n_read, 0, "; ".join(f"{n} rows of {name}" for name, n in read.items()))])
        dropped = "; ".join(f"{n} with {name}" for name, n in sorted(unknown.items())) or "none found"
        funnel.add("elements", n_unknown, f"elements outside {', '.join(periodic.symbols(allowed))}: {dropped}")
        funnel.add("finite labels", n_unlabeled, f"no energy at any of {', '.join(fidelities)}")
        if index is not None:
            reason = f"geometry also present at {reference} (sorted distances within {index.tolerance:g} Å)"
            funnel.add("duplicates", n_duplicates, reason)
        funnel.add("stored", 0, f"labels: {counts}")
        writer.provenance["funnel"] = [dict(zip(FUNNEL_COLUMNS, step, strict=True)) for step in funnel.steps]
        for name in fidelities:
            if labels[name] == 0:
                raise InputError(f"{output}: no row has an energy of fidelity {name!r}; check its keys and the filters")
        funnel.write(funnel_csv)


def _reference_index(
    dataset: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], paths: Sequence[Path]
) -> tuple[str | None, GeometryIndex | None]:
    """Geometries of the fidelity that wins when a data set composed of several files is deduplicated."""
    settings = dataset.get("deduplicate")
    if not settings:
        return None, None
    reference = settings["keep"]
    index = GeometryIndex(float(settings.get("tolerance_angstrom", TOLERANCE_ANGSTROM)))
    found = False
    for path, entry in zip(paths, entries, strict=True):
        if reference in entry["fidelities"]:
            found = True
            with _blocks(entry, path) as blocks:
                for block in blocks:
                    index.add_block(block)
    if not found:
        raise InputError(f"deduplicate.keep: no source has the fidelity {reference!r}")
    return reference, index
