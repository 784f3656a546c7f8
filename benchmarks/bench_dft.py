"""Calculations per core-hour by size of the molecule, as the spot checks run them: energies, forces, fitting, workers.

    python benchmarks/bench_dft.py

Every calculation runs in a worker process of one thread, as in a study. The first calculations of a worker, in which it
also makes what it keeps (densities of the free atoms), are not counted; then the variants of a molecule take turns, and
medians over the turns are printed as a section for RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from mlip_studies.dft.child import WorkerPool
from mlip_studies.dft.ladder import calculate as checked
from mlip_studies.dft.ladder import warm_up
from mlip_studies.dft.levels import DFT_LEVELS

__all__ = ["calculate", "main", "warm_up"]
MOLECULES = {"water": "H2O", "methanol": "CH3OH", "ethanol": "CH3CH2OH", "benzene": "C6H6"}
DIRECT = " direct"
#: name: (end of the level's name, forces)
VARIANTS = {
    "energy and forces": ("", True),
    "energy only": ("", False),
    "energy and forces, without fitting": (DIRECT, True),
    "energy only, without fitting": (DIRECT, False),
}
LIMIT_S, LIMIT_MB = 900.0, 3000.0
Costs = dict[tuple[int, str, str], list[tuple[float, float, float]]]


def calculate(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker of the spot checks does, also without density fitting."""
    name = task["level"]
    if name.endswith(DIRECT):
        DFT_LEVELS.setdefault(name, replace(DFT_LEVELS[name.removesuffix(DIRECT)], name=name, density_fit=False))
    return checked(task)


def measure(names: Sequence[str], level: str, workers: int, rounds: int) -> Costs:
    """Wall seconds, processor seconds and peak memory (MB) of calculations, by (workers, molecule, variant)."""
    from ase.build import molecule

    def task(name: str, end: str, forces: bool) -> dict[str, Any]:
        atoms = molecule(MOLECULES[name])
        return {
            "atomic_numbers": atoms.numbers, "positions": atoms.positions, "level": level + end, "max_cycle": 50,
            "ladder": True, "forces": forces, "backend": "cpu", "memory_limit_mb": LIMIT_MB,
        }  # fmt: skip

    costs: Costs = defaultdict(list)
    with WorkerPool("bench_dft:calculate", workers, LIMIT_S, LIMIT_MB) as pool:
        list(pool.run([(index, task("methanol", "", True)) for index in range(2 * workers)]))
        for name in names:
            for _ in range(rounds):
                for variant, (end, forces) in VARIANTS.items():
                    for outcome in pool.run([(index, task(name, end, forces)) for index in range(workers)]):
                        if outcome.status != "done" or not outcome.value["converged"]:
                            raise RuntimeError(f"{name}, {variant}: {outcome.status} {outcome.detail}")
                        costs[workers, name, variant].append((outcome.seconds, outcome.cpu_seconds, outcome.max_rss_mb))
    return costs


def main() -> None:
    """Measure and print."""
    from ase.build import molecule

    from mlip_studies.dft.spot_check import basis_sizes
    from mlip_studies.training.device import processor_name

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", choices=[name for name in DFT_LEVELS], default="pbe0+mbd/def2-svp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--molecules", nargs="+", choices=MOLECULES, default=list(MOLECULES))
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    # Asked to end, it removes the workers' scratch files first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load, costs = os.getloadavg()[0], {}
    for workers in options.workers:
        costs |= measure(options.molecules, options.level, workers, options.rounds)
    print(f"## DFT spot checks at {options.level}\n")
    print(
        f"`python benchmarks/bench_dft.py`, {date.today()}, {processor_name()}, {os.cpu_count()} cores, load "
        f"{load:.1f} before and {os.getloadavg()[0]:.1f} after; medians of {options.rounds} turns. Calculations per "
        "hour and worker of one thread, by wall time, in parentheses by processor time; peak memory of a worker.\n"
    )
    columns = ["molecule", "atoms", "basis functions", "variant"]
    columns += [f"{workers} worker(s)" for workers in options.workers]
    print(f"| {' | '.join([*columns, 'MB'])} |\n{'|---' * (len(columns) + 1)}|")
    for name in options.molecules:
        numbers = molecule(MOLECULES[name]).numbers.tolist()
        sizes = basis_sizes(sorted(set(numbers)), options.level)
        for variant in VARIANTS:
            cells = [name, str(len(numbers)), str(sum(sizes[z] for z in numbers)), variant]
            for workers in options.workers:
                wall, cpu, memory = (statistics.median(x) for x in zip(*costs[workers, name, variant], strict=True))
                cells.append(f"{3600 / wall:.0f} ({3600 / cpu:.0f})")
            print(f"| {' | '.join([*cells, f'{memory:.0f}'])} |")


if __name__ == "__main__":
    main()
