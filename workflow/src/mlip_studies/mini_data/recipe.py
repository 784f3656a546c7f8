"""Recipes of the mini data sets (``config/mini_data/<set>.yaml``) and the modules that build them.

The build has three steps, each resumable: geometries of every system (:class:`~mlip_studies.mini_data.systems.System`,
shipped, so that the labels can be rebuilt bit by bit), labels in shards, and one assembly in the published layout.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from mlip_studies.errors import InputError

SETS = ("ani1", "comp6", "spice", "qm7x", "md17")
Recipe = dict[str, Any]


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: the file lacks the keys that every recipe has.
    """
    recipe: Recipe = yaml.safe_load(Path(path).read_text())
    missing = {"set", "level", "shard_size", "seed", "systems"} - set(recipe or {})
    if missing or recipe["set"] not in SETS:
        raise InputError(
            f"{path}: expected `set` as one of {', '.join(SETS)} and the keys level, shard_size, seed, systems; "
            f"missing: {', '.join(sorted(missing)) or 'none'}"
        )
    return recipe


def builder(recipe: Recipe) -> ModuleType:
    """The module that makes the geometries of a set and assembles it."""
    return importlib.import_module(f"mlip_studies.mini_data.{recipe['set']}")


def system_entry(recipe: Recipe, name: str) -> dict[str, Any]:
    """The entry of a system.

    Raises:
        InputError: there is no such system.
    """
    entry: dict[str, Any]
    for entry in recipe["systems"]:
        if entry["name"] == name:
            return entry
    raise InputError(
        f"recipe of {recipe['set']}: no system {name!r}; it has {', '.join(e['name'] for e in recipe['systems'])}"
    )


def system_index(recipe: Recipe, name: str) -> int:
    """Position of a system in the recipe, part of the seeds."""
    place: int = recipe["systems"].index(system_entry(recipe, name))
    return place


def n_rows(recipe: Recipe, entry: dict[str, Any]) -> int:
    """Number of geometries of a system."""
    rows: int
    if recipe["set"] == "comp6":
        return len(recipe["factors"])
    if recipe["set"] == "qm7x":
        rows = 1 + recipe["displaced"]
        return rows
    rows = entry["rows"] + len(entry.get("crushed", ()))
    return rows
