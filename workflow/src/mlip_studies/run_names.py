"""Names of training runs: <data>-<network>-<shift>[-b<beta>][-l<layers>][-s<steps>][-n<rows>]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: what a group may vary, in the order of a run's name
AXES = ("data", "network", "shift", "beta", "n_layers", "max_steps", "train_size")


def run_name(values: Mapping[str, Any]) -> str:
    """Name of a run from its settings (keys: see :data:`AXES`)."""
    parts = [str(values["data"]), str(values["network"]), str(values["shift"])]
    for key, letter in (("beta", "b"), ("n_layers", "l"), ("max_steps", "s"), ("train_size", "n")):
        if values.get(key) is not None:
            parts.append(f"{letter}{values[key]}" if isinstance(values[key], int) else f"{letter}{values[key]:g}")
    return "-".join(parts)


@dataclass(frozen=True)
class RunName:
    """What the name of a run says; attributes as those of :class:`mlip_studies.studies.runs.Run`."""

    data: str
    network: str
    shift: str
    beta: float | None = None
    n_layers: int | None = None
    max_steps: int | None = None
    train_size: int | None = None


_NAME = re.compile(
    r"(?P<data>[^-]+)-(?P<network>[^-]+)-(?P<shift>[^-]+)(-b(?P<beta>[0-9.]+))?(-l(?P<n_layers>\d+))?"
    r"(-s(?P<max_steps>\d+))?(-n(?P<train_size>\d+))?"
)


def parse_run_name(name: str) -> RunName | None:
    """Take a name of :func:`run_name` apart; None for one of another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parts = match.groupdict()
    numbers = {key: None if parts[key] is None else int(parts[key]) for key in ("n_layers", "max_steps", "train_size")}
    beta = None if parts["beta"] is None else float(parts["beta"])
    return RunName(parts["data"], parts["network"], parts["shift"], beta, **numbers)
