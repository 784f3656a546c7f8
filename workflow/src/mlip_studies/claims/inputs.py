"""Lazy access to the small tidy files that figures, tables and claims are made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike, require
from mlip_studies.errors import InputError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "runs": (
        "experiment", "variant", "mix", "seed", "n_train_low", "n_train_high", "n_val_low", "n_val_high", "n_test",
        "epochs", "steps", "seconds_per_epoch", "train_seconds", "best_val_rmse_ev", "final_train_rmse_ev",
        "test_mse_ev2", "test_rmse_ev", "test_mae_ev", "test_rmse_per_atom_ev", "test_mae_per_atom_ev",
        "n_parameters", "device", "stopped_by",
    ),
    "histories": (
        "experiment", "variant", "mix", "seed", "epoch", "step", "seconds", "learning_rate", "train_rmse_ev",
        "val_rmse_ev",
    ),
    "predictions": (
        "experiment", "variant", "mix", "seed", "row", "n_atoms", "group", "target_ev", "predicted_ev",
    ),
}  # fmt: skip


# Columns that are names even where they look like numbers.
TEXT_COLUMNS = ("mix", "group", "stopped_by", "device")


class MissingDataError(LookupError):
    """A result that is not among the inputs, for instance a variant that was not run."""


def read_table(
    path: PathLike, columns: Iterable[str], text: Iterable[str] = TEXT_COLUMNS, may_be_empty: bool = False
) -> pd.DataFrame:
    """Read a CSV file after its checksum, and check its columns.

    Args:
        path: the file.
        columns: names that must be there.
        text: columns that are read as text.
        may_be_empty: a header without rows is a table without rows and no error.

    Raises:
        InputError: the file is missing, changed, empty, or lacks a column.
    """
    path = require(path)
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table ({str(error).splitlines()[0]}); delete it and run again") from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{path}: column '{missing[0]}' is missing; delete the file and run again")
    if frame.empty and not may_be_empty:
        raise InputError(f"{path}: has no rows; delete the file and run again")
    return frame


def read_json(path: PathLike) -> dict[str, Any]:
    """Read a JSON object after its checksum.

    Raises:
        InputError: the file is missing, changed, or not a JSON object.
    """
    path = require(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object; delete it and run again")
    return content


class Tables:
    """The tidy results of one study, read when they are asked for.

    Keys name what a file holds: ``runs/<experiment>/<variant>`` (likewise ``histories``, ``predictions``),
    ``self_energies/<experiment>/<rows>`` and ``split/<experiment>``. Anything that is not given counts as not run.
    """

    def __init__(self, files: Mapping[str, PathLike]) -> None:
        """Keep the paths; nothing is read yet.

        Args:
            files: path of each key.
        """
        self.files = {key: Path(path) for key, path in files.items()}
        self._read = cache(self._read_uncached)

    @classmethod
    def from_paths(cls, paths: Iterable[PathLike]) -> Tables:
        """Recognise files by where they lie (``…/tables/<experiment>/<variant>/runs.csv``); others are ignored.

        Args:
            paths: any files, for instance all inputs of a rule.
        """
        files: dict[str, Path] = {}
        for path in map(Path, paths):
            if path.suffix == ".csv" and path.stem in COLUMNS and len(path.parts) >= 3:
                files["/".join((path.stem, *path.parts[-3:-1]))] = path
            elif path.suffix == ".json" and path.stem.startswith("self_energies_"):
                files[f"self_energies/{path.parent.name}/{path.stem.removeprefix('self_energies_')}"] = path
            elif path.name == "split.json":
                files[f"split/{path.parent.name}"] = path
        return cls(files)

    def has(self, kind: str, *key: str) -> bool:
        """Whether there is such a file."""
        return "/".join((kind, *key)) in self.files

    def pairs(self, kind: str = "runs") -> list[tuple[str, str]]:
        """All (experiment, variant) pairs with a table of this kind, in the order given."""
        split = [tuple(key.split("/")) for key in self.files]
        return [(parts[1], parts[2]) for parts in split if parts[0] == kind]

    def runs(self, experiment: str, variant: str) -> pd.DataFrame:
        """One row per run."""
        return self._table("runs", experiment, variant)

    def histories(self, experiment: str, variant: str) -> pd.DataFrame:
        """One row per run and epoch; errors in eV per molecule."""
        return self._table("histories", experiment, variant)

    def predictions(self, experiment: str, variant: str) -> pd.DataFrame:
        """One row per run and test molecule; energies in eV."""
        return self._table("predictions", experiment, variant)

    def self_energies(self, experiment: str, rows: str = "train") -> dict[str, Any]:
        """The per-element regression of one experiment."""
        return self._json("self_energies", experiment, rows)

    def split(self, experiment: str) -> dict[str, Any]:
        """The report of the split of one experiment."""
        return self._json("split", experiment)

    def _table(self, kind: str, experiment: str, variant: str) -> pd.DataFrame:
        frame: pd.DataFrame = self._read(self._key(kind, experiment, variant))
        return frame.copy()  # callers may add columns

    def _json(self, kind: str, *key: str) -> dict[str, Any]:
        return dict(self._read(self._key(kind, *key)))

    def _key(self, kind: str, *key: str) -> str:
        name = "/".join((kind, *key))
        if name not in self.files:
            raise MissingDataError(f"{' '.join(key)}: not among the results that were asked for")
        return name

    def _read_uncached(self, name: str) -> Any:
        kind = name.split("/")[0]
        return read_table(self.files[name], COLUMNS[kind]) if kind in COLUMNS else read_json(self.files[name])
