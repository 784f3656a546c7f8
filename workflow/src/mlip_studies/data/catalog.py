"""Entries of config/datasets.yaml; imports nothing heavy, so the workflow can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlip_studies.errors import InputError


def resolve_dataset(datasets: Mapping[str, Any], name: str, scale: str) -> dict[str, Any]:
    """The entry of one data set, with the entries of its sources filled in.

    Args:
        datasets: the content of ``config/datasets.yaml``.
        name: the data set.
        scale: ``mini`` or ``full``; chooses the sources of a composed data set.

    Returns:
        the entry, plus ``name``, ``source_entries``: one entry per file that is read, in the order in which
        :func:`build_store` expects the files (each with ``name`` and ``file``), and ``aux_files``: the other files, by
        role.

    Raises:
        InputError: no such data set or source.
    """

    def lookup(key: str, user: str) -> dict[str, Any]:
        if key not in datasets:
            raise InputError(f"config/datasets.yaml: no data set {key!r}{user}; expected one of {', '.join(datasets)}")
        return {"name": key, **datasets[key]}

    entry = lookup(name, "")
    if "sources" not in entry:
        return entry | {
            "source_entries": [entry | {"file": file} for file in _data_files(entry)],
            "aux_files": {file["role"]: file for file in entry["files"] if file.get("role", "data") != "data"},
        }
    if scale not in entry["sources"]:
        raise InputError(f"config/datasets.yaml: {name}.sources has no scale {scale!r}; expected mini and full")
    parts = [lookup(key, f" (a source of {name})") for key in entry["sources"][scale]]
    return entry | {
        "source_entries": [part | {"file": file} for part in parts for file in _data_files(part)],
        "aux_files": {},
    }


def _data_files(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [file for file in entry["files"] if file.get("role", "data") == "data"]
