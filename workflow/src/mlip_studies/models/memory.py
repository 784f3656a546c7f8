"""How much memory a device can still give."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc/meminfo")


def available_bytes(device: torch.device) -> int:
    """Memory that an allocation on this device may still take, bytes.

    Of a GPU: what is free there and what torch keeps without using it. Of a CPU: what the kernel says is available,
    and no more than the control group of a batch job leaves.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    limits = [limit for limit in (_kernel(), _control_group()) if limit is not None]
    return min(limits) if limits else _physical()


def _kernel() -> int | None:
    try:
        lines = _PROC.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    """What version 2 of control groups leaves; None without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    # Pages of files count as used, and are given back when memory is short.
    return None if limit == "max" else max(0, int(limit) - used + _reclaimable())


def _reclaimable() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_words(n_bytes: float) -> str:
    """A number of bytes for people, such as ``3.1 GiB``."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024.0:
            return f"{value:.3g} {unit}"
        value /= 1024.0
    return f"{value:,.1f} GiB"
