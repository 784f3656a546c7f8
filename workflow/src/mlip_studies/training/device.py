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
    "safetensors",
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
    """A launched ``lightning_fabric.Fabric``: one process, or one of those that torchrun or srun started.

    One process gets the plain environment by name, because Fabric would otherwise read a batch job's SLURM_* variables
    as a request for several tasks.

    Raises:
        InputError: more processes on a node than GPUs.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    plugin: ClusterEnvironment
    if torch.distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        plugin = TorchElasticEnvironment()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        world = int(os.environ["SLURM_STEP_NUM_TASKS"])
        local = world // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
        plugin = SLURMEnvironment()
    else:
        world = local = 1
        plugin = LightningEnvironment()
    if device.type == "cuda" and local > torch.cuda.device_count():
        raise InputError(
            f"{local} processes on a node with {torch.cuda.device_count()} GPU(s); start one process per GPU"
        )
    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        plugins=[plugin],
    )
    fabric.launch()
    return fabric


def sum_over_processes(fabric: Any, value: torch.Tensor) -> torch.Tensor:
    """Add up a tensor of all processes in place, of any shape, the same in all."""
    if fabric is not None and fabric.world_size > 1:
        torch.distributed.all_reduce(value)
    return value


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
        report["cuda"] = torch.version.cuda
        report["gpu"] = torch.cuda.get_device_name(device)
        report["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return report
