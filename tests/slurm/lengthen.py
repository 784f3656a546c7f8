"""Make a training and a simulation of a study last longer than a minute, with checkpoints every few seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

#: chosen so that each lasts two minutes or more on one core of an AMD EPYC with nothing else running
MAX_STEPS = 2000
TIME_PS = 40.0
CHECKPOINT_SECONDS = 5


def main(path: str, factor: float) -> None:
    """Rewrite the configuration of the study of long and hot dynamics, in a scratch copy.

    Args:
        path: of ``config/studies/stocker.yaml``.
        factor: on both lengths, for faster or slower machines.
    """
    numbers = yaml.safe_load(Path(path).read_text())
    mini = numbers["mini"]
    mini["groups"]["quadruplets"]["training"] = {
        "max_steps": round(MAX_STEPS * factor),
        "checkpoint_seconds": CHECKPOINT_SECONDS,
    }
    mini["md"]["thermal"] |= {"time_ps": TIME_PS * factor, "checkpoint_seconds": CHECKPOINT_SECONDS}
    Path(path).write_text(yaml.safe_dump(numbers, sort_keys=False))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
