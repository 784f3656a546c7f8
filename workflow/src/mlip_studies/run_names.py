"""Names of training runs: <data>-<network>-<shift>, then what else a group sets, such as ``-b0.99`` or ``-n324``.

In this order: ``-<scale>``, ``-w<energy weight>``, ``-c<clip norm>``, ``-r<learning rate>``, ``-b<beta>``,
``-l<layers>``, ``-s<steps>``, ``-n<rows>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: what a group may vary, in the order of a run's name
AXES = (
    "data",
    "network",
    "shift",
    "scale",
    "energy_weight",
    "clip_norm",
    "learning_rate",
    "beta",
    "n_layers",
    "max_steps",
    "train_size",
)
#: letter of each number in a name, and what it is
_NUMBERS: dict[str, tuple[str, type[float] | type[int]]] = {
    "energy_weight": ("w", float),
    "clip_norm": ("c", float),
    "learning_rate": ("r", float),
    "beta": ("b", float),
    "n_layers": ("l", int),
    "max_steps": ("s", int),
    "train_size": ("n", int),
}


def _decimal(value: float) -> str:
    """A number without exponent, because a name's parts are separated by ``-``."""
    return str(value) if isinstance(value, int) else f"{value:.12f}".rstrip("0").rstrip(".")


def run_name(values: Mapping[str, Any]) -> str:
    """Name of a run from its settings (keys: see :data:`AXES`; the first three are required)."""
    parts = [str(values["data"]), str(values["network"]), str(values["shift"])]
    if values.get("scale") is not None:
        parts.append(str(values["scale"]))
    for key, (letter, _) in _NUMBERS.items():
        if values.get(key) is not None:
            parts.append(f"{letter}{_decimal(values[key])}")
    return "-".join(parts)


@dataclass(frozen=True)
class RunName:
    """What the name of a run says; attributes as those of :class:`mlip_studies.studies.runs.Run`."""

    data: str
    network: str
    shift: str
    scale: str | None = None
    energy_weight: float | None = None
    clip_norm: float | None = None
    learning_rate: float | None = None
    beta: float | None = None
    n_layers: int | None = None
    max_steps: int | None = None
    train_size: int | None = None


_NAME = re.compile(
    r"(?P<data>[^-]+)-(?P<network>[^-]+)-(?P<shift>[^-]+)(-(?P<scale>std))?"
    + "".join(rf"(-{letter}(?P<{key}>[0-9.]+))?" for key, (letter, _) in _NUMBERS.items())
)


def parse_run_name(name: str) -> RunName | None:
    """Take a name of :func:`run_name` apart; None for one of another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parts = match.groupdict()
    numbers: dict[str, Any] = {
        key: None if parts[key] is None else kind(parts[key]) for key, (_, kind) in _NUMBERS.items()
    }
    return RunName(parts["data"], parts["network"], parts["shift"], parts["scale"], **numbers)
