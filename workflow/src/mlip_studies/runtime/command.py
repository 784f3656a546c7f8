"""Command lines of work outside the workflow: one YAML file in, one folder out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMPUTE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--device": {"default": "auto", "help": "auto, cpu or cuda (default: auto)"},
    "--threads": {"type": int, "help": "CPU threads (default: as torch chooses)"},
}


def read_command_line(
    name: str, description: str, arguments: Sequence[str] | None, extra: Mapping[str, Mapping[str, Any]]
) -> argparse.Namespace:
    """Arguments of ``python -m mlip_studies NAME run.yaml [--output DIR]``.

    Args:
        name: the command.
        description: one sentence for ``--help``.
        arguments: the command line without the program's name; None takes that of the process.
        extra: further options, with what ``add_argument`` is told about each.

    Returns:
        ``config`` and ``output`` as paths, and the further options.
    """
    parser = argparse.ArgumentParser(prog=f"python -m mlip_studies {name}", description=description)
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument("--output", type=Path, help="folder for the results (default: beside the YAML file)")
    for option, settings in extra.items():
        parser.add_argument(option, **settings)
    options = parser.parse_args(arguments)
    if options.output is None:
        options.output = options.config.with_suffix("")
    return options
