"""Build one canonical store from the published files of a data set, with a funnel of what was removed."""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies import elements as periodic
from mlip_studies.artifacts import PathLike, atomic_path, discard, recorded
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.download_local import Digests
from mlip_studies.data.filters import Elements, Filter, make_filters
from mlip_studies.data.force_check import ForceCheck
from mlip_studies.data.geometry import TOLERANCE_ANGSTROM, GeometryIndex
from mlip_studies.data.readers import ConfigurationIds, get_reader
from mlip_studies.data.readers.archives import UnpackAhead
from mlip_studies.data.store import UNITS, Block, StoreWriter
from mlip_studies.errors import InputError

__all__ = ["FUNNEL_COLUMNS", "build_store", "resolve_dataset"]

FUNNEL_COLUMNS = ("step", "rows", "removed", "reason")
_BLOCK_ROWS = 16384
_DIGEST_BYTES = 1 << 22


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


class _Digest(threading.Thread):
    """Takes the checksums of a file in one pass while it is being read for its content."""

    def __init__(self, path: Path, expected: Mapping[str, Any]) -> None:
        super().__init__(name=f"checksums of {path.name}", daemon=True)
        self._path = path
        self._before = path.stat()
        self._sums = Digests(expected, self._before.st_size)
        self._stop_early = threading.Event()
        self._failure: OSError | None = None

    def run(self) -> None:
        """Pass all bytes of the file through the checksums, which don't hold the interpreter's lock."""
        buffer = memoryview(bytearray(_DIGEST_BYTES))
        try:
            with self._path.open("rb", buffering=0) as stream:
                while not self._stop_early.is_set() and (count := stream.readinto(buffer)):
                    self._sums.update(buffer[:count])
        except OSError as error:
            self._failure = error

    def stop(self) -> None:
        """Give up."""
        self._stop_early.set()
        self.join()

    def result(self) -> dict[str, Any]:
        """Wait for the end; ``sha256`` and ``bytes``.

        Raises:
            InputError: unreadable, changed meanwhile, or not the content that the data set's entry or the record of
                the download states.
        """
        self.join()
        try:
            if self._failure is not None:
                raise self._failure
            after = self._path.stat()
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror or error}); fetch it again") from error
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise InputError(f"{self._path}: it changed while it was read; wait until it is whole and run again")
        if problem := self._sums.problem():
            raise InputError(f"{self._path}: wrong content, {problem}; fetch it again or correct config/datasets.yaml")
        found = {"sha256": self._sums.sha256, "bytes": after.st_size}
        if recorded(self._path) not in (None, tuple(found.values())):
            raise InputError(
                f"{self._path}: checksum mismatch, the file changed after it was written; run `make verify` to move "
                "it aside"
            )
        return found


@contextmanager
def _digest(path: Path, expected: Mapping[str, Any]) -> Iterator[_Digest]:
    """Checksums of a file that are taken in the background."""
    digest = _Digest(path, expected)
    digest.start()
    try:
        yield digest
    finally:
        digest.stop()


@contextmanager
def _blocks(source: Mapping[str, Any], path: Path, **places: Any) -> Iterator[Iterator[Block]]:
    """The blocks of a file, which is closed at once when the consumer fails.

    ``places`` tells readers of archives where to unpack and which file comes next (see :class:`UnpackAhead`).
    """
    blocks = get_reader(source["reader"]).load()(path, {**source, **places}, _BLOCK_ROWS)
    try:
        yield blocks
    finally:
        if isinstance(blocks, Generator):
            blocks.close()


class _Filters:
    """The filters of one data set and how many rows each removed."""

    def __init__(self, entry: Mapping[str, Any], aux: Mapping[str, Path]) -> None:
        self.owner = str(entry.get("name", "data"))
        self.filters: list[Filter] = make_filters(entry, aux) if entry.get("filters") else []
        self.removed = [0] * len(self.filters)

    def apply(self, block: Block, source: Path) -> Block:
        """What is left of a block of a file; a filter sees what those before it kept."""
        for number, one in enumerate(self.filters):
            one.source = str(source)
            keep = one.keep(block)
            if not keep.all():
                self.removed[number] += int(np.count_nonzero(~keep))
                block = block.select(keep)
            if len(block) == 0:
                break
        return block

    def report(self, funnel: _Funnel, several: bool) -> None:
        """Add a step per filter; they are told apart by the data set's name if several have filters."""
        for one, removed in zip(self.filters, self.removed, strict=True):
            funnel.add(f"{one.name} ({self.owner})" if several else one.name, removed, one.reason())


@dataclass
class _Counts:
    """Rows of all files of a build, by what happened to them."""

    read: Counter[str] = field(default_factory=Counter)
    empty_groups: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    unlabeled: int = 0
    duplicates: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def build_store(
    dataset: Mapping[str, Any],
    sources: Sequence[PathLike],
    output: PathLike,
    funnel_csv: PathLike,
    aux: Mapping[str, Path] | None = None,
) -> None:
    """Read the files of a data set, filter them and write the store and its funnel.

    Steps: elements outside the data set's list (an error, or dropped if ``unknown_elements: drop``), the data set's
    ``filters`` in their order, rows without any label, and, where ``deduplicate`` is set, frames of other fidelities
    whose geometry also carries the kept one. A file's checksums are taken in one pass while it is read. Memory doesn't
    grow with the size of the files. Store and funnel appear when they are whole; an error leaves neither.

    Args:
        dataset: the entry as :func:`resolve_dataset` returns it.
        sources: the files, in the order of ``source_entries``.
        output: the store.
        funnel_csv: table with the columns step, rows, removed, reason.
        aux: files that filters need, by role.

    Raises:
        InputError: files missing, damaged or of another layout; non-finite numbers; forces that don't belong to the
            energies; a configuration twice; nothing left to store; no room on the disk.
    """
    if "sources" in dataset and "source_entries" not in dataset:
        raise InputError(f"{output}: a composed data set needs the entries of its sources; pass it resolved")
    entries = dataset.get("source_entries") or [{"name": dataset.get("name", "data"), **dataset}]
    paths = [Path(path) for path in sources]
    aux = {role: Path(path) for role, path in (aux or {}).items()}
    if len(paths) != len(entries):
        names = ", ".join(entry["name"] for entry in entries)
        raise InputError(f"{output}: {len(paths)} source file(s) given, expected {len(entries)} ({names})")
    for path, name in [(path, entry["name"]) for path, entry in zip(paths, entries, strict=True)] + [
        (path, f"the file with the role {role}") for role, path in aux.items()
    ]:
        if not path.is_file():
            raise InputError(f"{path}: no such file; fetch {name} first (or set `mirror` to a copy)")

    fidelities = list(dict.fromkeys(name for entry in entries for name in entry["fidelities"]))
    force_fidelities = [
        name for name in fidelities if any(entry["fidelities"].get(name, {}).get("forces") for entry in entries)
    ]
    readers = [get_reader(entry["reader"]) for entry in entries]
    # The files of one data set share their filters.
    filters: dict[str, _Filters] = {}
    for entry in entries:
        if entry["name"] not in filters:
            filters[entry["name"]] = _Filters(entry, aux)
    # A composed data set may filter once more what its sources let through.
    joint = _Filters(dataset, aux) if "sources" in dataset else None
    reference, index = _reference_index(dataset, entries, paths)
    expected = sorted(periodic.numbers(dataset["elements"]))
    provenance: dict[str, Any] = {
        "dataset": dataset.get("name"),
        "title": dataset.get("title"),
        "elements": _remaining_elements(expected, filters.values()),
        "levels": {name: level for entry in entries for name, level in entry.get("levels", {}).items()},
        "licence": dataset.get("licence"),
        "citation": dataset.get("citation"),
        "units": UNITS,
        "filters": {
            part["name"]: part["filters"] for part in (*entries, dataset) if part.get("name") and part.get("filters")
        },
        "aux": [{"role": role, "file": path.name, **_checked(path, dataset, role)} for role, path in aux.items()],
    }
    allowed = np.zeros(256, dtype=np.bool_)
    allowed[expected] = True
    on_unknown = dataset.get("unknown_elements", "error")
    counts = _Counts()
    origin: list[dict[str, Any]] = []
    funnel = _Funnel()
    # An archive is unpacked beside the store, where there is room for it, while the one before is read.
    with (
        UnpackAhead() as ahead,
        StoreWriter(
            output,
            fidelities,
            force_fidelities,
            provenance,
            str(np.result_type(*(reader.positions_dtype for reader in readers))),
            columns=list(dict.fromkeys(name for reader in readers for name in reader.columns)),
            info=list(dict.fromkeys(name for reader in readers for name in reader.info)),
        ) as writer,
    ):
        ids = {name: ConfigurationIds() for name in filters}
        for path, entry, following in zip(paths, entries, [*paths[1:], None], strict=True):
            name = entry["name"]
            places = {"ahead": ahead, "next": following, "scratch": Path(output).parent}
            relative = {
                fidelity: str(keys["same_differences_as"])
                for fidelity, keys in entry["fidelities"].items()
                if keys.get("same_differences_as")
            }
            if unknown := sorted(set(relative.values()) - set(entry["fidelities"])):
                raise InputError(
                    f"{name}: same_differences_as: {unknown[0]!r} is not a fidelity of this data set; expected one of "
                    f"{', '.join(entry['fidelities'])}"
                )
            check = ForceCheck(relative=relative)
            before = counts.read[name]
            with _digest(path, entry.get("file") or {}) as digest, _blocks(entry, path, **places) as blocks:
                for block in blocks:
                    counts.read[name] += len(block)
                    counts.empty_groups += len(block) == 0
                    ids[name].add(block, entry["reader"], path)
                    if len(block) == 0:
                        continue
                    if not allowed[block.atomic_numbers].all():
                        _unknown_elements(block, allowed, on_unknown, counts, path)
                        continue
                    check.add(block)
                    block = filters[name].apply(block, path)
                    if joint is not None and len(block):
                        block = joint.apply(block, path)
                    if len(block):
                        _store(block, writer, path, counts, index if reference not in block.energies else None)
                # After reading, so that a file that is damaged visibly is described by what is wrong with it.
                found = digest.result()
            for other in origin:
                if other["sha256"] == found["sha256"]:
                    raise InputError(
                        f"{path}: the same content as {other['file']} (of {other['dataset']}); list every file once"
                    )
            origin.append(
                {
                    "dataset": name,
                    "file": path.name,
                    **found,
                    "reader": entry["reader"],
                    "rows": counts.read[name] - before,
                    "units": dict(entry["units"]),
                    "keys": {fidelity: dict(keys) for fidelity, keys in entry["fidelities"].items()},
                    "force_check": check.result(path),
                }
            )
        every = [*filters.values(), joint] if joint else [*filters.values()]
        _fill_funnel(funnel, counts, expected, fidelities, every)
        if index is not None:
            reason = f"geometry also present at {reference} (sorted distances within {index.tolerance:g} Å)"
            funnel.add("duplicates", counts.duplicates, reason)
        funnel.add("stored", 0, "labels: " + ", ".join(f"{counts.labels[name]} {name}" for name in fidelities))
        writer.provenance["sources"] = origin
        writer.provenance["funnel"] = [dict(zip(FUNNEL_COLUMNS, step, strict=True)) for step in funnel.steps]
        for name in fidelities:
            if counts.labels[name] == 0:
                raise InputError(f"{output}: no row has an energy of fidelity {name!r}; check its keys and the filters")
    try:
        funnel.write(funnel_csv)
    except BaseException:
        discard(output)
        raise


def _checked(path: Path, dataset: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Checksum and size of an auxiliary file, compared with its entry."""
    with _digest(path, (dataset.get("aux_files") or {}).get(role) or {}) as digest:
        return digest.result()


def _remaining_elements(expected: Sequence[int], filters: Iterable[_Filters]) -> list[int]:
    """The elements that a store may hold: those of the files, less what filters on elements remove from all of them."""
    parts = []
    for one in filters:
        keep = set(expected)
        for each in one.filters:
            if isinstance(each, Elements):
                keep &= set(each.allowed.tolist())
        parts.append(keep)
    return sorted(set().union(*parts)) or list(expected)


def _unknown_elements(block: Block, allowed: NDArray[np.bool_], on_unknown: str, counts: _Counts, path: Path) -> None:
    """Count a molecule with elements outside the data set's list, or stop."""
    names = ", ".join(periodic.symbols(np.unique(block.atomic_numbers[~allowed[block.atomic_numbers]])))
    if on_unknown != "drop":
        expected = ", ".join(periodic.symbols(np.flatnonzero(allowed)))
        raise InputError(
            f"{path}: group {block.group} holds {names}, expected only {expected}; is it the right file? "
            "(`unknown_elements: drop` removes such molecules)"
        )
    counts.unknown[names] += len(block)


def _store(block: Block, writer: StoreWriter, path: Path, counts: _Counts, index: GeometryIndex | None) -> None:
    """Append the rows that have a label and aren't among the geometries of ``index``."""
    keep = np.zeros(len(block), dtype=np.bool_)
    for values in block.energies.values():
        keep |= np.isfinite(values)
    counts.unlabeled += len(block) - int(np.count_nonzero(keep))
    if index is not None:
        duplicate = keep & (index.match_block(block) >= 0)
        counts.duplicates += int(np.count_nonzero(duplicate))
        keep &= ~duplicate
    block = block if keep.all() else block.select(keep)
    for name, values in block.energies.items():
        counts.labels[name] += int(np.count_nonzero(np.isfinite(values)))
    writer.append_block(block, path)


def _fill_funnel(
    funnel: _Funnel,
    counts: _Counts,
    elements: Sequence[int],
    fidelities: Sequence[str],
    filters: Sequence[_Filters],
) -> None:
    """The steps that every build has, and those of the filters."""
    reason = "; ".join(f"{n} rows of {name}" for name, n in counts.read.items())
    if counts.empty_groups:
        reason += f"; {counts.empty_groups} group(s) without rows"
    funnel.steps.append(("read", sum(counts.read.values()), 0, reason))
    allowed = ", ".join(periodic.symbols(elements))
    dropped = "; ".join(f"{n} with {name}" for name, n in sorted(counts.unknown.items())) or "none found"
    funnel.add("expected elements", sum(counts.unknown.values()), f"elements outside {allowed}: {dropped}")
    several = sum(bool(one.filters) for one in filters) > 1
    for one in filters:
        one.report(funnel, several)
    funnel.add("finite labels", counts.unlabeled, f"no energy at any of {', '.join(fidelities)}")


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
