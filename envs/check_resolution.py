"""Refuse a pip resolution that would bring CUDA packages onto a machine without a GPU.

Reads the JSON report of `pip install --dry-run --report FILE` and uses the standard library only, because it runs
before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

_CUDA_NAME = re.compile(r"^(nvidia-.+|cuda-.+|triton|pytorch-triton(-.+)?|cupy(-.+)?)$")


def normalize(name: str) -> str:
    """Return a distribution name in the canonical form that indexes use (lower case, single hyphens)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(report: dict) -> list[tuple[str, str]]:
    """Return (canonical name, version) of everything the report would install."""
    return [(normalize(item["metadata"]["name"]), item["metadata"]["version"]) for item in report["install"]]


def cuda_packages(names: Iterable[str]) -> list[str]:
    """Return the sorted names that only make sense beside an NVIDIA GPU."""
    return sorted({name for name in names if _CUDA_NAME.match(normalize(name))})


def has_gpu(device: Path = Path("/dev/nvidia0")) -> bool:
    """Tell whether this machine shows an NVIDIA GPU, by its device node or by the driver's tool."""
    return device.exists() or shutil.which("nvidia-smi") is not None


def refusal(report: dict, gpu: bool) -> str | None:
    """Return the one-line reason not to install what the report lists, or None when it is fine.

    Args:
        report: parsed installation report of pip.
        gpu: whether the machine has a GPU.
    """
    cuda = cuda_packages(name for name, _ in distributions(report))
    if gpu or not cuda:
        return None
    shown = ", ".join(cuda[:3]) + (f" and {len(cuda) - 3} more" if len(cuda) > 3 else "")
    return (
        f"torch would bring {len(cuda)} CUDA packages ({shown}; several GB) onto a machine without a GPU: set "
        "TORCH_INDEX to an index that has CPU builds, or ALLOW_CUDA=1 if that is what you want"
    )


def main(argv: list[str] | None = None) -> int:
    """Check one report; exit status 3 means refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path, help="JSON file written by pip install --dry-run --report")
    args = parser.parse_args(argv)
    try:
        report = json.loads(args.report.read_text(encoding="utf-8"))
        found = dict(distributions(report))
        reason = refusal(report, has_gpu())
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{args.report}: not a pip installation report ({error!r}); pip >= 22.2 writes one", file=sys.stderr)
        return 2
    if reason:
        print(reason, file=sys.stderr)
        return 3
    print(found.get("torch", "already installed"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
