"""Speed on ethanol with the So3krates paper's network: dynamics against ASE, compiled against eager training steps.

    python benchmarks/bench_md.py --threads 1

Formulations take turns in one process; the medians over the turns are printed, and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin

from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.md.dynamics import Dynamics, Network
from mlip_studies.md.start import Molecule
from mlip_studies.models.calculators.ase import MLIPCalculator
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model
from mlip_studies.training.config import TrainingConfig
from mlip_studies.training.device import processor_name
from mlip_studies.training.optimizer import make_optimizer
from mlip_studies.training.steps import make_step
from mlip_studies.units import KCAL_PER_MOL_TO_EV

FRAMES = Path(__file__).parents[1] / "resources" / "md17-mini" / "md17_ethanol-mini.npz"
TIMESTEP_FS = 0.5
# Random weights, made small: the molecule has to stay whole while it is timed.
SCALE = 0.01


def in_turn(formulations: Mapping[str, Callable[[int], object]], steps: int, rounds: int) -> dict[str, float]:
    """Median seconds per step of each formulation."""
    seconds: dict[str, list[float]] = {name: [] for name in formulations}
    for _ in range(rounds):
        for name, run in formulations.items():
            started = time.perf_counter()
            run(steps)
            seconds[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


def dynamics(options: dict, replicas: int, steps: int, rounds: int) -> dict[str, float]:
    """Steps of Langevin dynamics: ASE's, and ours with one and with several molecules."""
    torch.manual_seed(0)
    model = build_model("so3krates", options)
    potential = Potential(model, "so3krates", options, {"high": [0.0] * len(model.elements)}, scale=SCALE)
    with np.load(FRAMES) as frames:
        atoms = Atoms(frames["z"], frames["R"][0])
    atoms.calc = MLIPCalculator(potential, dtype="float32")
    plain = Langevin(atoms, TIMESTEP_FS * units.fs, temperature_K=5.0, friction=0.001 / units.fs)
    plain.run(3)
    molecule = Molecule(atoms.numbers.astype(np.int64), atoms.get_positions(), "ethanol")

    def engine(n: int) -> Dynamics:
        made = Dynamics(Network(potential), [molecule] * n, np.full(n, 5.0), TIMESTEP_FS)
        made.draw_momenta(0)
        made.evaluate()
        made.use("nvt_langevin", 1.0)
        made.advance(3)
        return made

    one, many = engine(1), engine(replicas)
    return in_turn({"ase": plain.run, "engine_1": one.advance, f"engine_{replicas}": many.advance}, steps, rounds)


def training(batch_size: int, steps: int, rounds: int) -> dict[str, float]:
    """Training steps, eager and compiled; the time to compile is not counted."""
    with np.load(FRAMES) as frames:
        energy = frames["E"].reshape(-1) * KCAL_PER_MOL_TO_EV
        forces = frames["F"].reshape(-1, 3) * KCAL_PER_MOL_TO_EV
        positions, numbers = frames["R"].reshape(-1, 3).astype(float), frames["z"]
    n = len(energy)
    rng = np.random.default_rng(0)

    def stepper(mode: str) -> Callable[[int], None]:
        torch.manual_seed(0)
        model = build_model("so3krates", {})
        data = RaggedDataset(
            np.tile(numbers, n), positions, np.arange(n + 1) * len(numbers), energy - energy.mean(),
            np.zeros(n, dtype=np.int64), torch.device("cpu"), torch.float32, model.cutoff, forces=forces,
        )  # fmt: skip
        config = TrainingConfig.from_dict({"recipe": "so3krates", "batch_size": batch_size, "step_mode": mode})
        step = make_step(config, model, data, make_optimizer(model, config.optimizer), None)

        def run(count: int) -> None:
            for _ in range(count):
                step(rng.choice(n, batch_size, replace=False))

        run(3)
        return run

    return in_turn({mode: stepper(mode) for mode in ("eager", "compiled")}, steps, rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip-training", action="store_true", help="compiling takes more than a minute")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{processor_name()}, {options.threads} thread(s), torch {torch.__version__}, float32")
    for name, settings in (("paper", {}), ("mini", {"n_features": 48, "n_layers": 2})):
        found = dynamics(settings, options.replicas, options.steps, options.rounds)
        many = f"engine_{options.replicas}"
        ratios = {"engine_1": found["ase"] / found["engine_1"], many: options.replicas * found["ase"] / found[many]}
        print(json.dumps({"dynamics": name, "ms": {k: 1e3 * v for k, v in found.items()}, "times_ase": ratios}))
    if not options.skip_training:
        found = training(options.batch, options.steps, options.rounds)
        milliseconds = {key: 1e3 * value for key, value in found.items()}
        print(json.dumps({"training": "paper", "ms": milliseconds, "times_eager": found["eager"] / found["compiled"]}))


if __name__ == "__main__":
    main()
