"""Look into the run records that training jobs left behind; used by run.sh."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def devices(folder: Path, expected: int) -> str:
    """Return a line about the GPUs that the training jobs were given, or raise ValueError."""
    seen = {}
    for path in sorted(folder.rglob("run.json")):
        name = path.parent.relative_to(folder)
        # Hidden folders hold checksums under the same file names.
        if any(part.startswith(".") for part in name.parts):
            continue
        seen[str(name)] = json.loads(path.read_text())["environment"]["cuda_visible_devices"]
    if len(seen) < expected:
        raise ValueError(f"{len(seen)} run records under {folder}, expected {expected}")
    without = [name for name, value in seen.items() if str(value) not in {"0", "1"}]
    if without:
        raise ValueError(f"not 0 or 1 in {', '.join(f'{name}: {seen[name]!r}' for name in without)}")
    return f"{len(seen)} training jobs saw CUDA_VISIBLE_DEVICES {sorted(set(map(str, seen.values())))}"


def resumed(path: Path) -> str:
    """Return a line about the step from which a run went on, or raise ValueError."""
    step = json.loads(path.read_text())["resumed_from_step"]
    if not isinstance(step, int) or step <= 0:
        raise ValueError(f"resumed_from_step is {step!r}")
    return f"the retry resumed from step {step}"


def main(argv: list[str]) -> int:
    try:
        if argv[0] == "devices":
            print(devices(Path(argv[1]), int(argv[2])))
        else:
            print(resumed(Path(argv[1])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
