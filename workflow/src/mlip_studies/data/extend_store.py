"""Add labelled configurations to a store and to a training set: the step of active learning between two trainings.

A network's own dynamics are sampled, the samples are labelled, and some of them join the training set. The rows of the
old store keep their numbers, so its splits stay valid: validation and test rows are the same before and after.
(S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022), mention iterative training; the rules here are ours.)
"""

from __future__ import annotations

import csv
import itertools
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, require, sha256_of, write_text
from mlip_studies.data.geometry import TOLERANCE_ANGSTROM, shared_geometries
from mlip_studies.data.named_splits import NamedSplit, leakage, load_named_split, write_named_split
from mlip_studies.data.representatives import read_structures
from mlip_studies.data.self_energies import load_self_energies
from mlip_studies.data.store import Block, Rows, Store, StoreWriter
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError

#: row column of the extended store: number of the addition that a row came with, -1 for rows of the first store
COLUMN = "addition"
#: Å. Samples whose atoms all lie within half of this are one (a start structure that several trajectories share).
_SAME = 1e-5
_CHUNK = 16384
_FRAME_ARRAYS = ("atomic_numbers", "ptr", "positions", "trajectory", "time_ps", "alive", "name")
_LABEL_ARRAYS = ("energy_ev", "forces_ev_per_angstrom", "level", "atomic_numbers_isolated", "energies_isolated_ev")


@dataclass(frozen=True)
class Addition:
    """Labelled samples of one run's dynamics.

    Attributes:
        frames: npz file of sampled configurations.
        labels: npz file of their energies and forces.
        table: csv file of the calculations, one line per frame.
        starts: extxyz file of the start structures, which says the group of a name; None: the name is the group.
    """

    frames: PathLike
    labels: PathLike
    table: PathLike
    starts: PathLike | None = None


@dataclass(frozen=True)
class FrameSelection:
    """Which samples are added.

    Attributes:
        statuses: of the calculation.
        frames: ``all``, ``alive`` (before the first failure of the trajectory) or ``failed`` (after it).
        n_per_trajectory: at most this many of one trajectory; None: all.
        order: which of a trajectory's: ``uniform`` (evenly in time) or ``first`` (the earliest, which after a failure
            are those nearest to it).
        n_rows: at most this many in all, taken evenly; None: all.
        max_force_ev_per_angstrom: leave out samples with a larger norm of the labelled force on any atom; None: none.
    """

    statuses: tuple[str, ...] = ("converged", "converged_fallback")
    frames: str = "all"
    n_per_trajectory: int | None = None
    order: str = "uniform"
    n_rows: int | None = None
    max_force_ev_per_angstrom: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for key, allowed in (("frames", ("all", "alive", "failed")), ("order", ("uniform", "first"))):
            if getattr(self, key) not in allowed:
                raise InputError(
                    f"active learning: key {key!r}: {getattr(self, key)!r}; expected one of {', '.join(allowed)}"
                )
        for key in ("n_per_trajectory", "n_rows", "max_force_ev_per_angstrom"):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise InputError(f"active learning: key {key!r}: {value!r}; expected a number above 0, or none")
        if not self.statuses:
            raise InputError("active learning: key 'statuses' is empty; expected such as [converged]")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> FrameSelection:
        """Read a part of a configuration.

        Raises:
            InputError: an unknown key or a wrong value.
        """
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise InputError(f"active learning: unknown key {unknown[0]!r}; expected {', '.join(known)}")
        values = dict(options)
        if "statuses" in values:
            values["statuses"] = tuple(values["statuses"])
        return cls(**values)


@dataclass(frozen=True)
class _Samples:
    """Content of the files of one addition; frame i has the atoms ptr[i]:ptr[i+1]."""

    frames: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]]
    status: list[str]
    groups: dict[str, str]

    def __len__(self) -> int:
        return len(self.frames["ptr"]) - 1

    def atoms(self, frame: int) -> slice:
        return slice(int(self.frames["ptr"][frame]), int(self.frames["ptr"][frame + 1]))


def _arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable npz file ({reason}); delete it and make it anew") from None
    for name in names:
        if name not in arrays:
            raise InputError(
                f"{path}: key {name!r} is missing; expected {', '.join(names)}; delete it and make it anew"
            )
    return arrays


def _read(addition: Addition) -> _Samples:
    frames_path, labels_path, table_path = (
        require(path) for path in (addition.frames, addition.labels, addition.table)
    )
    frames, labels = _arrays(frames_path, _FRAME_ARRAYS), _arrays(labels_path, _LABEL_ARRAYS)
    n = len(frames["ptr"]) - 1
    noted = labels.get("frames_sha256", labels.get("sha256"))
    if noted is not None and str(noted) != sha256_of(frames_path):
        raise InputError(f"{labels_path}: made for other frames than {frames_path}; delete it and label again")
    n_atoms = int(frames["ptr"][-1])
    if labels["energy_ev"].shape != (n,) or labels["forces_ev_per_angstrom"].shape != (n_atoms, 3):
        raise InputError(
            f"{labels_path}: {len(labels['energy_ev'])} energies and {len(labels['forces_ev_per_angstrom'])} forces "
            f"for the {n} frames with {n_atoms} atoms of {frames_path}; delete it and label again"
        )
    with table_path.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    if len(lines) != n or any(int(line.get("frame", -1)) != index for index, line in enumerate(lines)):
        raise InputError(f"{table_path}: expected one line for each of {n} frames in order; delete it and label again")
    if n and "status" not in lines[0]:
        raise InputError(f"{table_path}: column 'status' is missing; delete it and label again")
    groups = {}
    if addition.starts is not None:
        groups = {structure.name: structure.group for structure in read_structures(addition.starts)}
    return _Samples(frames, labels, [line["status"] for line in lines], groups)


def _evenly(n: int, most: int) -> NDArray[np.int64]:
    """``most`` of ``n`` numbers, evenly and with both ends; all if there are not more."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(np.int64)


def _choose(samples: _Samples, selection: FrameSelection) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Frames to add, and how many each step left out."""
    n, frames = len(samples), samples.frames
    energy, forces = samples.labels["energy_ev"], samples.labels["forces_ev_per_angstrom"]
    starts = frames["ptr"][:-1].astype(np.int64)
    norm = np.maximum.reduceat(np.linalg.norm(forces, axis=1), starts) if n else np.zeros(0)
    alive = frames["alive"].astype(bool)
    steps = {
        "status": np.isin(samples.status, selection.statuses),
        # The largest norm is NaN where any force is.
        "no_label": np.isfinite(energy) & np.isfinite(norm),
        "alive_or_failed": {"all": np.ones(n, dtype=bool), "alive": alive, "failed": ~alive}[selection.frames],
    }
    if selection.max_force_ev_per_angstrom is not None:
        steps["large_force"] = norm <= selection.max_force_ev_per_angstrom
    left, counts = np.ones(n, dtype=bool), {"frames": n}
    for name, keep in steps.items():
        counts[name] = int((left & ~keep).sum())
        left &= keep
    seen: set[tuple[bytes, bytes]] = set()
    counts["repeated"] = 0
    for frame in np.flatnonzero(left).tolist():
        at = samples.atoms(frame)
        grid = np.round(frames["positions"][at] / _SAME).astype(np.int64)
        key = frames["atomic_numbers"][at].tobytes(), grid.tobytes()
        if key in seen:
            left[frame] = False
            counts["repeated"] += 1
        seen.add(key)
    chosen = []
    for trajectory in np.unique(frames["trajectory"][left]):
        of_one = np.flatnonzero(left & (frames["trajectory"] == trajectory))
        of_one = of_one[np.argsort(frames["time_ps"][of_one], kind="stable")]
        if selection.n_per_trajectory is not None:
            most = int(selection.n_per_trajectory)
            of_one = of_one[:most] if selection.order == "first" else of_one[_evenly(len(of_one), most)]
        chosen.append(of_one)
    result = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    counts["beyond_n_per_trajectory"] = int(left.sum()) - len(result)
    return result, counts


def _atom_energies(samples: _Samples) -> dict[int, float]:
    numbers, energies = (samples.labels[key] for key in ("atomic_numbers_isolated", "energies_isolated_ev"))
    return {int(z): float(e) for z, e in zip(numbers, energies, strict=True)}


def _offsets(
    samples: _Samples, addition: Addition, store: Store, fidelity: str, atoms: PathLike | None
) -> dict[int, float] | None:
    """What to add to a label's energy per atom of each element, eV; None if both are at one level."""
    level, of_store = str(samples.labels["level"]), str((store.provenance.get("levels") or {}).get(fidelity, ""))
    if level.lower().replace(" ", "") == of_store.lower().replace(" ", ""):
        return None
    if atoms is None:
        raise InputError(
            f"{addition.labels}: labels at {level}, {store.path} holds {of_store or 'energies of an unnamed level'}; "
            "name isolated atoms of the store's level, so that atomization energies can be joined"
        )
    reference = load_self_energies(atoms)
    if fidelity not in reference:
        raise InputError(f"{atoms}: no energies for {fidelity!r}; it has {', '.join(reference)}")
    fit = reference[fidelity]
    theirs = dict(zip(fit.elements, fit.coefficients.tolist(), strict=True))
    ours = _atom_energies(samples)
    used = sorted({int(z) for z in samples.frames["atomic_numbers"]})
    if missing := [z for z in used if z not in theirs or z not in ours]:
        raise InputError(
            f"{atoms} and {addition.labels}: no isolated atom of {', '.join(symbols(missing))} in both; make them anew"
        )
    return {z: theirs[z] - ours[z] for z in used}


def _runs(chunk: Rows) -> list[slice]:
    """Stretches of neighbouring rows of one group with the same atoms in the same order."""
    ends = [0]
    for index in range(1, len(chunk)):
        (before, _), (here, _) = chunk.molecule(index - 1), chunk.molecule(index)
        if chunk.group[index] != chunk.group[index - 1] or not np.array_equal(before, here):
            ends.append(index)
    ends.append(len(chunk))
    return [slice(a, b) for a, b in itertools.pairwise(ends)] if len(chunk) else []


def _copy(store: Store, writer: StoreWriter) -> None:
    """Append all rows of a store."""
    info = {name: store.group_info(name) for name in store.info_names}
    for chunk in store.iter_chunks(_CHUNK):
        sources = store.source_rows(chunk.rows)
        columns = {name: store.column(name, chunk.rows) for name in store.columns}
        for run in _runs(chunk):
            n, atoms = run.stop - run.start, slice(int(chunk.ptr[run.start]), int(chunk.ptr[run.stop]))
            group = int(chunk.group[run.start])
            numbers = chunk.molecule(run.start)[0]
            here = {name: values[run] for name, values in columns.items()}
            here.setdefault(COLUMN, np.full(n, -1, dtype=np.int64))
            writer.append_block(
                Block(
                    store.group_names[group],
                    numbers,
                    chunk.positions[atoms].reshape(n, len(numbers), 3),
                    {name: values[run] for name, values in chunk.energy.items()},
                    {name: values[atoms].reshape(n, len(numbers), 3) for name, values in chunk.forces.items()},
                    sources[run],
                    {name: values[group] for name, values in info.items()},
                    here,
                ),
                store.path,
            )


def extend_store(
    store: PathLike,
    additions: Sequence[Addition],
    selection: FrameSelection,
    output: PathLike,
    fidelity: str | None = None,
    atoms: PathLike | None = None,
    report: PathLike | None = None,
) -> dict[str, Any]:
    """Write a store with all rows of another one, under the same numbers, and chosen labelled samples after them.

    A new row belongs to the group of its start structure, holds the label of one fidelity, its frame number as source
    row, and in the column ``addition`` which addition it came with. Where the samples were labelled at another level
    than the store's, energies are joined as atomization energies: minus the isolated atoms of the labels, plus those of
    the store's level.

    Args:
        store: the old store.
        additions: labelled samples.
        selection: which of them.
        output: the new store.
        fidelity: whose labels they become; the store's first one if not given.
        atoms: isolated atoms at the store's level (JSON as ``data/isolated_atoms.py`` writes it); needed if the levels
            differ.
        report: JSON file of what was added; not written if None.

    Returns:
        the report: ``n_rows_before``, ``n_rows``, ``n_new`` and per addition how many samples each step left out. No
        sample to add is no error.

    Raises:
        InputError: files that are damaged or do not belong together, labels of another level without ``atoms``, or an
            element that the store does not declare.
    """
    with Store(store) as old:
        fidelity = fidelity or old.fidelities[0]
        if fidelity not in old.force_fidelities:
            raise InputError(
                f"{old.path}: no forces of fidelity {fidelity!r}; it has {', '.join(old.force_fidelities) or 'none'}"
            )
        read = [_read(addition) for addition in additions]
        picks: list[NDArray[np.int64]] = []
        entries: list[dict[str, Any]] = []
        offsets: list[dict[int, float] | None] = []
        for addition, samples in zip(additions, read, strict=True):
            chosen, counts = _choose(samples, selection)
            foreign = sorted({int(z) for z in samples.frames["atomic_numbers"]} - set(old.elements))
            if foreign:
                raise InputError(
                    f"{addition.frames}: {', '.join(symbols(foreign))} is not among the elements of {old.path}"
                )
            offset = _offsets(samples, addition, old, fidelity, atoms)
            picks.append(chosen)
            offsets.append(offset)
            entries.append(
                {
                    "frames": Path(addition.frames).name,
                    "frames_sha256": sha256_of(addition.frames),
                    "labels_sha256": sha256_of(addition.labels),
                    "level": str(samples.labels["level"]),
                    "energies_joined": "as they are" if offset is None else "as atomization energies",
                    "left_out": counts,
                }
            )
        # Evenly over all additions, in their order.
        origin = np.repeat(np.arange(len(picks)), [len(pick) for pick in picks])
        frames = np.concatenate(picks) if picks else np.zeros(0, dtype=np.int64)
        kept = np.arange(len(frames)) if selection.n_rows is None else _evenly(len(frames), int(selection.n_rows))
        first_number = len(old.provenance.get("additions") or [])
        provenance = dict(old.provenance)
        provenance.pop("versions", None)
        for number, entry in enumerate(entries):
            entry["added"] = int((origin[kept] == number).sum())
        provenance["extends"] = {"store": old.path.name, "sha256": sha256_of(old.path), "rows": old.n_rows}
        provenance["additions"] = [*(old.provenance.get("additions") or []), *entries]
        options = {each.name: getattr(selection, each.name) for each in fields(selection)}
        result = {
            "n_rows_before": old.n_rows,
            "n_new": len(kept),
            "n_rows": old.n_rows + len(kept),
            "fidelity": fidelity,
            "selection": {**options, "statuses": list(selection.statuses)},
            "additions": entries,
        }
        dtype = old.read([0], fidelities=(), forces=False).positions.dtype.name
        columns = [*old.columns, *([] if COLUMN in old.columns else [COLUMN])]
        with StoreWriter(
            output, old.fidelities, old.force_fidelities, provenance, dtype, columns, old.info_names
        ) as writer:
            _copy(old, writer)
            for number, frame in zip(origin[kept].tolist(), frames[kept].tolist(), strict=True):
                samples, offset = read[number], offsets[number]
                at = samples.atoms(frame)
                numbers = samples.frames["atomic_numbers"][at].astype(np.uint8)
                energy = float(samples.labels["energy_ev"][frame])
                if offset is not None:
                    energy += sum(offset[int(z)] for z in numbers)
                name = str(samples.frames["name"][frame])
                writer.append_block(
                    Block(
                        samples.groups.get(name, name),
                        numbers,
                        samples.frames["positions"][at][None],
                        {fidelity: np.array([energy])},
                        {fidelity: samples.labels["forces_ev_per_angstrom"][at][None]},
                        np.array([frame], dtype=np.int64),
                        columns={COLUMN: np.array([first_number + number], dtype=np.int64)},
                    ),
                    additions[number].labels,
                )
    if report is not None:
        write_text(report, json.dumps(result, indent=2) + "\n")
    return result


def extend_split(
    split: PathLike,
    store: PathLike,
    train_size: int,
    output: PathLike,
    report: PathLike,
    total: int | None = None,
    use_new: bool = True,
    tolerance: float = TOLERANCE_ANGSTROM,
) -> NamedSplit:
    """Write a split of an extended store: old training rows of one size and the new ones; the other parts as before.

    New rows with the geometry of a test or validation row stay out. With ``total`` the training set has exactly that
    many rows, known beforehand: new rows beyond are thinned out evenly, and what is missing is filled up with further
    training rows of the old split. Without new rows (``use_new`` false) that is the control: as many rows, drawn as
    before.

    Args:
        split: the old split (npz), of the store that was extended.
        store: the extended store.
        train_size: one of the training sizes of the old split.
        output: the new split (npz).
        report: its report (JSON).
        total: rows of the new training set; None: as many as there are.
        use_new: whether to add the new rows.
        tolerance: of the geometry comparison, Å.

    Returns:
        the split, with one training size and the validation set that belongs to ``train_size``.

    Raises:
        InputError: the store is no extension, or the split is not of the store that was extended or too small.
    """
    with Store(store) as extended:
        origin = extended.provenance.get("extends")
        if not origin:
            raise InputError(f"{extended.path}: not an extended store; give the one that the new rows were added to")
        n_before = int(origin["rows"])
        base = load_named_split(split)
        if base.n_store_rows != n_before:
            raise InputError(
                f"{split}: made for a store of {base.n_store_rows} rows, {extended.path} extends one of {n_before}; "
                "use the split of that store"
            )
        prefix, val = base.train_rows(train_size), base.val_rows_for(train_size)
        new = np.arange(n_before, extended.n_rows, dtype=np.int64) if use_new else np.zeros(0, dtype=np.int64)
        kept = np.concatenate([base.test, val])
        equal = shared_geometries(extended, kept, new, tolerance=tolerance) >= 0 if len(new) and len(kept) else new < 0
        new = new[~equal]
        n_found = len(new)
        filler = np.zeros(0, dtype=np.int64)
        if total is not None:
            room = total - len(prefix)
            if room < 0:
                raise InputError(
                    f"active learning: key 'total': {total} rows, {train_size} are there already; ask for more"
                )
            new = new[_evenly(len(new), room)] if room else new[:0]
            filler = base.train[train_size : train_size + room - len(new)]
            if len(filler) < room - len(new):
                raise InputError(
                    f"{split}: {total} training rows asked, {len(prefix) + len(new) + len(filler)} are there with "
                    f"{len(new)} new ones; ask for fewer or use a split with a larger training set"
                )
        parts = {"train": np.concatenate([prefix, new, filler]), "val": val, "test": base.test}
        sizes = {"train": (len(parts["train"]),), "val": (len(val),) if len(val) else ()}
        content = {
            "store": extended.path.name,
            "kind": "extended",
            "spec": {"base": Path(split).name, "train_size": train_size, "total": total, "use_new": use_new},
            "seed": None,
            "sizes": {name: len(rows) for name, rows in parts.items()},
            "train_sizes": list(sizes["train"]),
            "val_sizes": list(sizes["val"]),
            "available": extended.n_rows,
            "unused": extended.n_rows - sum(len(rows) for rows in parts.values()),
            "groups": {name: len(np.unique(extended.groups(rows))) for name, rows in parts.items()},
            "rows_of_old_training_set": len(prefix),
            "new_rows": len(new),
            "new_rows_thinned_out": n_found - len(new),
            "new_rows_equal_to_test_or_val": int(equal.sum()),
            "rows_filled_up": len(filler),
            "tolerance_angstrom": tolerance,
            "leakage": leakage(extended, parts, tolerance),
        }
        result = NamedSplit(**parts, train_sizes=sizes["train"], val_sizes=sizes["val"],
                            n_store_rows=extended.n_rows, report=content)  # fmt: skip
    write_named_split(result, output, report)
    return result
