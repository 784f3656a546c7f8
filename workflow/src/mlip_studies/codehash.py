"""Hashes of code by meaning: a change of a comment, docstring or layout leaves them as they are.

The hash of a module covers the syntax trees of that module and of everything in this package that it imports, found by
reading the imports, not by a list. Rules pass it as a parameter, so that Snakemake reruns what a change can affect.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from functools import cache
from pathlib import Path

PACKAGE = "mlip_studies"
ROOT = Path(__file__).parent


def module_path(name: str, root: Path = ROOT) -> Path | None:
    """File of a module of this package, or None if ``name`` is not one."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    base = root.joinpath(*parts[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(tree: ast.AST) -> set[str]:
    """Dotted names that a module of this package imports from this package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == PACKAGE}


def _normalised(tree: ast.Module) -> str:
    """The syntax tree as text, without docstrings and positions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            node.body
            and isinstance(node.body[0], ast.Expr)
            and isinstance(node.body[0].value, ast.Constant)
            and isinstance(node.body[0].value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree, include_attributes=False)


@cache
def _parsed(path: Path) -> tuple[str, frozenset[str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = frozenset(_imports(tree))
    return hashlib.sha256(_normalised(tree).encode()).hexdigest(), imports


def reachable_modules(*entries: str, root: Path = ROOT) -> list[str]:
    """The entry modules and all modules of this package that they import, directly or not, sorted."""
    seen: set[str] = set()
    todo = list(entries)
    while todo:
        name = todo.pop()
        path = module_path(name, root)
        if path is None or name in seen:
            continue
        seen.add(name)
        todo.extend(_parsed(path)[1])
    return sorted(seen)


def raw_code_hash(*entries: str, root: Path = ROOT) -> str:
    """Hash of the code reachable from the entry modules."""
    digest = hashlib.sha256()
    for name in reachable_modules(*entries, root=root):
        path = module_path(name, root)
        assert path is not None
        digest.update(f"{name}:{_parsed(path)[0]}\n".encode())
    return digest.hexdigest()[:16]


def accepted_path() -> Path:
    """The file that says which new hashes count as which old ones, with reasons."""
    return Path(os.environ.get("MLIP_STUDIES_ACCEPTED_CODE", ROOT.parents[1] / "accepted-code.json"))


def _read(path: Path) -> dict[str, dict[str, str]]:
    return json.loads(path.read_text()) if path.exists() else {}


def code_hash(*entries: str) -> str:
    """Hash for a rule's params: the raw hash, or the older one that it was accepted to be equivalent to."""
    value = raw_code_hash(*entries)
    accepted = _read(accepted_path())
    while value in accepted:
        value = accepted[value]["equivalent_to"]
    return value


def accept(entries: list[list[str]], recorded: dict[str, str], reason: str, commit: str) -> list[str]:
    """Declare that the current code gives the results of the recorded code.

    Args:
        entries: the entry-module lists of all rules.
        recorded: the hash that each list had when results were last made (key: entries joined by ``+``).
        reason: why the change does not alter results; it goes into the provenance.
        commit: the commit at which this was said.

    Returns:
        the entries whose hash changed and is now accepted.
    """
    accepted = _read(accepted_path())
    changed = []
    for names in entries:
        key = "+".join(names)
        new, old = raw_code_hash(*names), recorded.get(key)
        if old is not None and code_hash(*names) != old:
            accepted[new] = {"equivalent_to": old, "entry": key, "reason": reason, "commit": commit}
            changed.append(key)
    if changed:
        path = accepted_path()
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(accepted, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, path)
    return changed
