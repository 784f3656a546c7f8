"""Tiny jobs of every stage, through the package's entry points, for processes that are killed or run out of room.

Each stage has ``prepare(inputs)``, which makes what it reads, and ``run(inputs, out)``, which writes its outputs to
``out`` and keeps its state in ``out/.state``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import test_md
import test_readers_layouts
import test_training_run
import torch
from ase.build import molecule
from ase.io import write as write_structure

from mlip_studies.data.build import build_store
from mlip_studies.data.store import Store
from mlip_studies.dft import spot_check
from mlip_studies.dft.spot_check import SpotCheckConfig, SpotCheckOutputs, run_spot_checks
from mlip_studies.errors import InputError
from mlip_studies.md.engine import MDConfig, MDOutputs, run_md
from mlip_studies.studies.data_overview import Context, DataFiles, make_product
from mlip_studies.training.run import RunConfig, RunOutputs, run_training

LEVEL = "pbe0+mbd/def2-svp"
N_CALCULATIONS = 120
#: in place of quantum chemistry: numbers that depend on the geometry alone
STAND_IN = """
import time

def calculate(task):
    if "element" in task:
        return {"energy": -0.5, "status": "converged"}
    x = task["positions"]
    time.sleep(0.004)
    energy = float((x ** 2).sum())
    return {"converged": True, "strategy": "diis", "cycles": 7, "n_basis": 5, "plain_energy": energy, "energy": energy,
            "energy_scf": energy, "energy_mbd": 0.0, "forces": (-2.0 * x).tolist(), "detail": ""}
"""
FUNNEL = "step,rows,removed,reason\nread,49823,0,1 file\nions,40000,9823,charged\nstored,40000,0,labels\n"


def _prepare_store(inputs: Path) -> None:
    test_readers_layouts.write_spice(inputs / "spice.hdf5", n=30_000)


def _store(inputs: Path, out: Path) -> None:
    entry = test_readers_layouts.entry("spice", name="toy", levels={}, elements=["H", "O", "S"])
    build_store(entry, [inputs / "spice.hdf5"], out / "store.h5", out / "funnel.csv")


def _train(inputs: Path, out: Path) -> None:
    config = test_training_run.make_config(inputs, training={"max_steps": 60, "checkpoint_seconds": 0})
    run_training(RunConfig.from_dict(config), RunOutputs.in_folder(out), out / ".state", "cpu", 1)


def _prepare_md(inputs: Path) -> None:
    test_md.network(scale=0.05).save(inputs / "model.safetensors", {})
    write_structure(inputs / "start.extxyz", molecule("CH3CH2OH"))


def _md(inputs: Path, out: Path) -> None:
    # Weak forces on cold atoms: nothing breaks, so that every sample counts.
    config = test_md.make_config(inputs, temperature_k=4.0, time_ps=0.06, checkpoint_seconds=1e-6)
    run_md(MDConfig.from_dict(config), MDOutputs.in_folder(out), out / ".state", "cpu", 1)


def write_frames(inputs: Path, n: int) -> None:
    """``n`` waters, each turned and stretched a little."""
    water = molecule("H2O")
    positions = water.positions + np.random.default_rng(1).normal(0, 0.02, size=(n, 3, 3))
    np.savez(
        inputs / "frames.npz",
        atomic_numbers=np.tile(water.numbers, n),
        ptr=3 * np.arange(n + 1),
        positions=positions.reshape(-1, 3),
    )


def _prepare_dft(inputs: Path) -> None:
    (inputs / "stand_in_for_calculations.py").write_text(STAND_IN)
    write_frames(inputs, N_CALCULATIONS)


def _dft(inputs: Path, out: Path) -> None:
    # Workers are processes that import what TARGET names.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(inputs), os.environ.get("PYTHONPATH", "")])
    spot_check.TARGET = "stand_in_for_calculations:calculate"
    values = {"frames": str(inputs / "frames.npz"), "level": LEVEL, "backend": "cpu", "time_limit_s": 120}
    run_spot_checks(SpotCheckConfig.from_dict(values), SpotCheckOutputs.in_folder(out), out / ".state")


def _prepare_drawing(inputs: Path) -> None:
    (inputs / "toy").mkdir()
    (inputs / "toy" / "funnel.csv").write_text(FUNNEL)


def _drawing(inputs: Path, out: Path) -> None:
    files, context = DataFiles.from_paths([inputs / "toy" / "funnel.csv"]), Context("mini", "Toy", ())
    make_product("funnel", files, context, out / "funnel.png", "toy")
    make_product("table-funnel", files, context, out / "funnel-table.html", "toy")


STAGES: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], None], tuple[str, ...]]] = {
    "store": (_prepare_store, _store, ("store.h5", "funnel.csv")),
    "training": (
        test_training_run.make_inputs, _train,
        ("model.safetensors", "metrics.jsonl", "history.csv", "predictions.npz", "run.json"),
    ),
    "dynamics": (_prepare_md, _md, ("trajectory.h5", "replicas.csv", "samples.csv", "summary.json")),
    "dft": (_prepare_dft, _dft, ("labels.npz", "labels.csv")),
    "drawing": (
        _prepare_drawing, _drawing,
        ("funnel.png", "funnel.svg", "funnel.csv", "funnel-table.html", "funnel-table.csv"),
    ),
}  # fmt: skip


def run(stage: str, inputs: Path, out: Path, limit: int = 0) -> None:
    """Body of a job's process: exit status 0, or 1 after one line of an InputError in ``<out>.log``.

    Args:
        stage: its name.
        inputs: folder that it reads.
        out: folder that it writes.
        limit: largest file that it may write, bytes; 0: any.
    """
    torch.set_num_threads(1)
    status = 0
    with open(f"{out}.log", "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            STAGES[stage][1](inputs, out)
        except InputError as error:
            print(f"error: {error}", flush=True)
            status = 1
        except BaseException:
            traceback.print_exc()
            status = 2
    sys.stdout.flush()
    os._exit(status)


def data_of(path: Path) -> object:
    """What a file holds, without times, paths and process numbers; equal runs give equal values."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {key: (arrays[key].dtype.str, arrays[key].shape, arrays[key].tobytes()) for key in arrays.files}
    if path.name == "store.h5":
        with Store(path) as store:
            rows = store.read()
            arrays = {"positions": rows.positions, "z": rows.atomic_numbers, "ptr": rows.ptr, "group": rows.group}
            arrays |= {f"e {key}": value for key, value in rows.energy.items()}
            arrays |= {f"f {key}": value for key, value in rows.forces.items()}
            return {key: value.tobytes() for key, value in arrays.items()}
    if path.name == "trajectory.h5":
        import h5py

        with h5py.File(path) as file:
            return {key: value[()].tobytes() for key, value in file.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {key: value.numpy().tobytes() for key, value in load_file(path).items()}
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    if path.name == "run.json":
        content = json.loads(path.read_text())
        return {key: content[key] for key in ("test", "errors", "steps", "best_value", "best_step", "reference")}
    if path.name == "summary.json":
        content = json.loads(path.read_text())
        return {key: content[key] for key in ("replicas", "temperatures", "steps", "noted", "n_samples")}
    if path.name in ("labels.csv", "history.csv"):
        import pandas as pd

        table = pd.read_csv(path)
        measured = [name for name in table.columns if "second" in name or name in ("max_rss_mb", "attempts")]
        return table.drop(columns=measured).to_csv(index=False)
    return path.read_bytes()
