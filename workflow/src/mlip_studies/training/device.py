"""Choice of the device and what is reported about it."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mlip_studies.errors import InputError

REPORTED_PACKAGES = (
    "torch",
    "torch-scatter",
    "lightning-fabric",
    "e3nn",
    "numpy",
    "scipy",
    "h5py",
    "pyscf",
    "snakemake",
)


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    ``auto`` takes a GPU if torch sees one; if the job was given one (CUDA_VISIBLE_DEVICES) that torch cannot use, it
    warns once and takes the CPU.

    Raises:
        InputError: ``cuda`` was asked for and there is none, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"config: device {name!r} is unknown; choose auto, cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if name == "cuda":
        raise InputError(
            f"config: device cuda was asked for, but torch {torch.__version__} sees no GPU "
            f"(CUDA_VISIBLE_DEVICES={visible!r}); use `device: auto` or install the GPU environment"
        )
    if visible not in ("", "-1"):
        print(
            f"warning: CUDA_VISIBLE_DEVICES={visible} but torch sees no GPU; training on the CPU",
            file=sys.stderr,
            flush=True,
        )
    return torch.device("cpu")


def launch_fabric(device: torch.device) -> Any:
    """A launched ``lightning_fabric.Fabric`` for one process on one device.

    The plain environment is named, because Fabric would otherwise read a batch job's SLURM_* variables as a request for
    several tasks.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    accelerator = "gpu" if device.type == "cuda" else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=1, plugins=[LightningEnvironment()])
    fabric.launch()
    return fabric


def processor_name() -> str:
    """Name of this machine's processor."""
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result can depend on."""
    result = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    return result


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and software of this job, for its run.json."""
    report = {
        "host": socket.gethostname(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": package_versions(),
    }
    if device.type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(device)
        report["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return report
