"""Speed and memory of every model against its baseline, on a CPU or a GPU.

Baselines are the public package where one can be installed (PyTorch Geometric's SchNet and DimeNet++), otherwise the
plain formulation in ``baselines/``, on batches that were made before; ours makes its batch within the step. Both share
their weights, and their energies and forces are compared before anything is timed. On a CPU the formulations of a case
take turns, a few steps at a time, and the ratio is the median over the turns (of processor time where one thread is
used, so that other work on the machine does not count). Every result is appended to a file of
JSON lines at once, and a later call with the same file goes on where the last one was killed.

    python benchmarks/bench_models.py --output models.jsonl --threads 1 --seconds 5
    python benchmarks/bench_models.py --output models.jsonl --device cuda --batch 32 128 512
    python benchmarks/bench_models.py --output models.jsonl --render

Tasks: ``train`` (energy, forces, double backward, optimizer; energy alone for the multi-fidelity network), ``single``
(energy and forces of one molecule of 20 atoms), ``sixty`` (of 60 molecules in one batch), ``index`` (making a batch and
its sets of triplets or quadruplets). Modes: ``baseline``; ``eager``, ours on ragged batches; ``padded``, ours on
batches of fixed size; ``captured``, the same recorded as a CUDA graph; ``compiled``, traced and compiled as well.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import molecules as library
import numpy as np
import torch

from mlip_studies.graph.batch import GraphBatch, RaggedDataset, make_batch
from mlip_studies.training.capture import CapturedForces, CapturedStep, CompiledStep
from mlip_studies.training.device import environment
from mlip_studies.training.loss import EnergyMSE, So3kratesLoss
from mlip_studies.training.steps import EagerStep

TASKS = ("train", "single", "sixty", "index")
MODES = ("baseline", "eager", "padded", "captured", "compiled")
#: small, so that hundreds of steps towards random labels leave the network what it was
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Entry:
    """A model, its baseline, and what the public reference reaches.

    Attributes:
        title: name in the tables.
        module: of ``mlip_studies.models``, and the class in it.
        baseline: module of this folder and class; shares the model's parameters.
        options: of the constructor.
        elements: of the molecules; None for all.
        energy_only: trained on energies.
        reference: by (hardware, task, batch): configurations/s for ``train`` and ``sixty``, ms for ``single``.
    """

    title: str
    module: tuple[str, str]
    baseline: tuple[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    elements: tuple[int, ...] | None = None
    energy_only: bool = False
    reference: dict[tuple[str, str, int], float] = field(default_factory=dict)


def _reference(gpu: tuple[float | None, ...], cpu: tuple[float | None, ...]) -> dict[tuple[str, str, int], float]:
    keys = [("H100", "train", 32), ("H100", "train", 128), ("H100", "train", 512), ("H100", "single", 1)]
    keys += [("H100", "sixty", 60), ("CPU", "train", 32), ("CPU", "single", 1), ("CPU", "sixty", 60)]
    return {key: value for key, value in zip(keys, (*gpu, *cpu), strict=True) if value is not None}


# Reference columns: the public implementations (GemNet's PyTorch version, So3krates-torch, PyTorch Geometric, EGNN and
# the multi-fidelity network as their authors published them, NVIDIA's SE(3)-Transformer), measured on 2026-11-20 in
# float32 on one NVIDIA H100 80GB (torch 2.11; training at batch 32, 128, 512; ms of one molecule; systems/s of 60), and
# on two cores of a CPU (torch 2.13; training at batch 32; ms of one molecule; systems/s of 60).
HARDWARE_OF_REFERENCE = {"H100": "an NVIDIA H100 80GB", "CPU": "two CPU cores, both used"}
ENTRIES = {
    "so3krates": Entry(
        "So3krates", ("so3krates", "So3krates"), ("so3krates", "PlainSo3krates"),
        reference=_reference((585, 2028, 6641, 24, 2346), (86, 1000 / 144, 263)),
    ),
    "gemnet_t": Entry(
        "GemNet-T", ("gemnet", "GemNetT"), ("gemnet", "PlainGemNet"),
        reference=_reference((121, 517, 906, 105, 632), (8.4, 1000 / 19, 16.5)),
    ),
    "gemnet_q": Entry(
        "GemNet-Q", ("gemnet", "GemNetQ"), ("gemnet", "PlainGemNet"),
        reference=_reference((44, 109, None, 262, 204), (0.025 * 32 * 2, None, None)),
    ),
    "schnet": Entry(
        "SchNet", ("schnet", "SchNet"), ("pyg", "PlainSchNet"),
        reference=_reference((1100, 4356, 14030, 9.9, 6404), (140, 1000 / 248, 516)),
    ),
    "dimenet_plus_plus": Entry(
        "DimeNet++", ("dimenet", "DimeNetPP"), ("pyg", "PlainDimeNetPP"),
        reference=_reference((None, None, None, None, None), (14.2, 1000 / 31, 37.6)),
    ),
    "se3_transformer": Entry(
        "SE(3)-Transformer", ("se3_transformer", "SE3Transformer"), ("se3_transformer", "PlainSE3Transformer"),
        reference=_reference((763, 2709, 5525, 15.5, 3915), (26.9, 1000 / 71, 71.9)),
    ),
    "egnn": Entry(
        "EGNN", ("egnn", "EGNN"), ("egnn", "PlainEGNN"),
        reference=_reference((1165, 4996, 10265, 8.7, 6420), (89, 1000 / 182, 300)),
    ),
    "egnn_rff_as_coded": Entry(
        "EGNN + RFF (energy only)", ("egnn_rff", "EGNNAsCoded"), ("egnn_rff", "PlainEGNNRFF"),
        elements=(1, 6, 7, 8), energy_only=True,
        reference=_reference((3731, 13630, 31770, 6.6, 9301), (328, 1000 / 254, 484)),
    ),
}  # fmt: skip


def find(names: tuple[str, str], package: str) -> Any:
    """A class, or None where it does not exist."""
    module = f"{package}.{names[0]}"
    try:
        return getattr(importlib.import_module(module), names[1], None)
    except ModuleNotFoundError as error:
        print(f"{module}.{names[1]} is left out: {error}", file=sys.stderr, flush=True)
        return None


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Case:
    """One model on one device, with everything that its measurements share."""

    def __init__(self, name: str, device: torch.device, largest_batch: int) -> None:
        self.entry, self.device = ENTRIES[name], device
        cls = find(self.entry.module, "mlip_studies.models")
        if cls is None:
            raise SystemExit(0)
        self.plain_class = find(self.entry.baseline, "baselines")
        self.make = lambda: cls(**self.entry.options)
        torch.manual_seed(0)
        self.model = self.make().to(device)
        self.weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        known = set(self.model.elements)
        elements = self.entry.elements or tuple(e for e in library.SYMBOLS.values() if e in known)
        self.elements = elements
        self.loss = EnergyMSE() if self.entry.energy_only else So3kratesLoss()
        self.drawn = library.sample(max(256, 4 * largest_batch), seed=0, elements=elements)
        self.data = self._data(self.model.cutoff)
        self.plain = None if self.plain_class is None else self.plain_class(self.model)

    def _data(self, cutoff: float | None) -> RaggedDataset:
        energy, forces = library.labels(self.drawn)
        sizes = [len(z) for z, _ in self.drawn]
        return RaggedDataset(
            np.concatenate([z for z, _ in self.drawn]),
            np.concatenate([x for _, x in self.drawn]),
            np.concatenate([[0], np.cumsum(sizes)]),
            energy,
            device=self.device,
            cutoff=cutoff,
            forces=forces,
        )

    def rows(self, size: int, number: int) -> list[np.ndarray]:
        """Row numbers of ``number`` random batches."""
        rng = np.random.default_rng(size)
        return [rng.choice(len(self.data), size, replace=False) for _ in range(number)]

    def optimizer(self, ours: bool) -> torch.optim.Optimizer:
        """Adam; fused for ours, as torch chooses for the baseline."""
        options = {"fused": True} if ours else {}
        return torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=LEARNING_RATE, **options)

    def predict_plain(self, batch: GraphBatch, create_graph: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Energy and forces of the baseline."""
        return predict(self.plain, batch, create_graph)

    def agreement(self) -> dict[str, float]:
        """Largest relative difference between ours and the baseline in float64, of energies and forces."""
        torch.manual_seed(0)
        model = self.make().double().to(self.device)
        plain = self.plain_class(model).to(self.device)
        batch = make_batch(self.drawn[:6], model.cutoff, self.device, torch.float64)
        ours, theirs = model.energy_and_forces(batch), predict(plain, batch, False)
        return {
            what: float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-12))
            for what, a, b in zip(("energy", "forces"), ours, theirs, strict=True)
        }

    def baseline_step(self, size: int) -> Callable[[int], Any]:
        """A training step of the baseline on batches that exist already."""
        batches = [self.data.batch(rows) for rows in self.rows(size, 8)]
        optimizer = self.optimizer(ours=False)

        def step(number: int) -> None:
            batch, labels = batches[number % len(batches)]
            if self.entry.energy_only:
                energy, forces = self.plain(batch), None
            else:
                energy, forces = self.predict_plain(batch, True)
            loss, _ = self.loss(batch, labels, energy, forces)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def our_step(self, size: int, mode: str) -> Callable[[int], Any]:
        """A training step of ours, from row numbers."""
        cls = {"eager": EagerStep, "padded": CapturedStep, "captured": CapturedStep, "compiled": CompiledStep}[mode]
        options = {} if mode == "eager" else {"batch_size": size}
        step = cls(self.model, self.data, self.loss, self.optimizer(ours=True), None, None, None, None, **options)
        batches = self.rows(size, 8)
        if mode != "eager":
            batches = [rows for rows in batches if step._part_budget.holds(self.data.counts[rows])]

        def run(number: int) -> Any:
            return step(batches[number % len(batches)])

        run.problems = lambda: problems(step)  # type: ignore[attr-defined]
        run.difference = lambda: self.difference(step, batches[0])  # type: ignore[attr-defined]
        return run

    def difference(self, step: EagerStep, rows: np.ndarray) -> float:
        """Largest relative difference of loss and gradient norm between a step and the eager one, both in float32."""
        found = []
        for each in (step, EagerStep(self.model, self.data, self.loss, self.optimizer(ours=True))):
            self.restore()
            terms = each(rows)
            found.append([float(terms[name]) for name in ("loss", "grad_norm")])
        self.restore()
        return max(abs(a - b) / abs(b) for a, b in zip(*found, strict=True))

    def inference(self, size: int, mode: str) -> Callable[[int], Any]:
        """Energy and forces of the same molecules, one of 20 atoms or several."""
        chosen = library.sample(size, seed=1, elements=self.elements, n_atoms=20 if size == 1 else None)
        batch = make_batch(chosen, self.model.cutoff, self.device)
        if mode == "baseline":
            return lambda _: self.predict_plain(batch, False)
        if mode == "eager":
            return lambda _: self.model.energy_and_forces(batch)
        forces = CapturedForces(self.model, make_batch(chosen, None, self.device), compiled=mode == "compiled")

        def run(_: int) -> Any:
            return forces(batch.positions)

        run.problems = lambda: problems(forces)  # type: ignore[attr-defined]
        return run

    def action(self, task: str, size: int, mode: str) -> Callable[[int], Any]:
        """What is timed."""
        if task == "train":
            return self.baseline_step(size) if mode == "baseline" else self.our_step(size, mode)
        return self.inference(size, mode)

    def index_sets(self, size: int) -> dict[str, float]:
        """Median times (ms) of making a ragged batch, and the sets of edge pairs and quadruplets its model needs."""
        rows = self.rows(size, 1)[0]
        work: dict[str, Callable[[], Any]] = {"batch_ms": lambda: self.data.batch(rows)}
        batch, _ = self.data.batch(rows)
        if self.entry.module[0] == "dimenet":
            from mlip_studies.models.dimenet import edge_places

            work["triplets_ms"] = lambda: edge_places(batch)
        if self.entry.module[0] == "gemnet":
            from mlip_studies.graph.quadruplets import neighbour_table, quadruplet_blocks

            near = batch.edge_vectors().norm(dim=1) <= self.entry.options.get("cutoff", 5.0)
            edges = batch.receivers[near], batch.senders[near]
            pairs = batch.receivers, batch.senders
            work["triplets_ms"] = lambda: neighbour_table(batch, edges[0])
            if self.entry.title == "GemNet-Q":
                work["quadruplets_ms"] = lambda: quadruplet_blocks(batch, *edges, *pairs, self.model.chunk)
        result = {}
        for name, function in work.items():
            times = []
            for _ in range(7):
                synchronise(self.device)
                start = time.perf_counter()
                function()
                synchronise(self.device)
                times.append((time.perf_counter() - start) * 1e3)
            result[name] = statistics.median(times[2:])
        return result

    def restore(self) -> None:
        """Give the model its first weights again."""
        self.model.load_state_dict(self.weights)


def predict(plain: Any, batch: GraphBatch, create_graph: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces of a baseline: its own method where it has one, else the energy's gradient."""
    if hasattr(plain, "energy_and_forces"):
        return plain.energy_and_forces(batch, create_graph=create_graph)
    positions = batch.positions.detach().requires_grad_(True)
    energy = plain(batch.with_positions(positions))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
    return energy, -gradient


def problems(runner: Any) -> list[str]:
    """What a captured or compiled runner could not do."""
    found = []
    if getattr(getattr(runner, "_replay", None), "failed", False):
        found.append("not recorded")
    traced = getattr(runner, "traced", getattr(runner, "_forces", None))
    if getattr(traced, "failed", False):
        found.append("not compiled")
    return found


def kernel_fraction(run: Callable[[int], Any], seconds_per_step: float) -> float:
    """Share of a step's time in which the GPU computes: the kernels' time over the step's time without profiler."""
    from torch.profiler import ProfilerActivity, profile

    steps = 3
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for number in range(steps):
            run(number)
        torch.cuda.synchronize()
    total = sum(event.self_device_time_total for event in profiler.key_averages())
    return total * 1e-6 / (steps * seconds_per_step)


def time_turns(
    runs: dict[str, Callable[[int], Any]], seconds: float, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """Seconds per step of each function, of wall time and of processor time, in turns of a few steps each."""
    per_turn: dict[str, int] = {}
    number = 0
    for name, run in runs.items():
        # The first calls build tables, compile and record; the last one of them says how many steps a turn takes.
        for warm in range(6):
            run(warm)
            synchronise(device)
            if device.type == "cpu" and warm >= 1:
                break
        start = time.perf_counter()
        run(number)
        synchronise(device)
        once = time.perf_counter() - start
        per_turn[name] = max(1, min(200, round(min(0.25, seconds / 8) / max(once, 1e-5))))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, run in runs.items():
            synchronise(device)
            start, processor = time.perf_counter(), time.process_time()
            for _ in range(per_turn[name]):
                run(number)
                number += 1
            synchronise(device)
            end_processor = time.process_time()
            times[name].append(
                ((time.perf_counter() - start) / per_turn[name], (end_processor - processor) / per_turn[name])
            )
    return times


def rate(task: str, size: int, seconds: float) -> float:
    """Configurations per second; milliseconds for one molecule."""
    return seconds * 1e3 if task == "single" else size / seconds


class Results:
    """The file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def done(self, **key: Any) -> bool:
        """Whether this measurement exists, or was begun twice without an end."""
        same = [line for line in self.lines if all(line.get(name) == value for name, value in key.items())]
        return any(line["status"] != "begun" for line in same) or len(same) >= 2

    def add(self, **line: Any) -> None:
        """Append a line, on disk before anything else happens."""
        self.lines.append(line)
        with open(self.path, "a") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def hardware(device: torch.device, threads: int) -> str:
    """Name of what is measured on, as in the tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{environment(device)['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def measure_model(name: str, options: argparse.Namespace, until: float) -> None:
    """All measurements of one model that are not in the file yet."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    results = Results(options.output)
    where = {"hardware": hardware(device, options.threads), "model": name}
    case = Case(name, device, max(options.batch))
    has_plain = case.plain is not None
    if has_plain and not results.done(**where, task="agreement"):
        results.add(**where, task="agreement", status="ok", **case.agreement())
    if has_plain:
        found = next(line for line in results.lines if line.get("task") == "agreement" and line["model"] == name)
        if not max(found["energy"], found["forces"]) < 1e-6:
            raise SystemExit(f"{name}: ours and the baseline differ by {found}; nothing is timed")
    plan = [(task, size) for task in options.tasks for size in sizes_of(task, options.batch)]
    for task, size in plan:
        key = {**where, "task": task, "batch": size}
        if task == "index":
            if not results.done(**key):
                results.add(**key, status="ok", **case.index_sets(size))
            continue
        modes = [mode for mode in options.modes if has_plain or mode != "baseline"]
        if device.type == "cpu":
            # Padded and captured are the same on a CPU, and inference has no padding.
            modes = [mode for mode in modes if mode != "captured" and not (mode == "padded" and task != "train")]
        else:
            modes = [mode for mode in modes if mode != "padded"]
        groups = [modes] if device.type == "cpu" else [[mode] for mode in modes]
        for group in groups:
            missing = [mode for mode in group if not results.done(**key, mode=mode)]
            if not missing:
                continue
            if time.time() > until:
                return
            if device.type == "cpu" and "baseline" in group and "baseline" not in missing:
                missing = ["baseline", *missing]  # ratios are of the same run
            measure_group(case, key, missing, options.seconds, results)


def sizes_of(task: str, batch: list[int]) -> list[int]:
    """Molecules per batch of a task."""
    return {"train": batch, "single": [1], "sixty": [60], "index": batch[:2]}[task]


def measure_group(case: Case, key: dict[str, Any], modes: list[str], seconds: float, results: Results) -> None:
    """Time some formulations of one case in turn and write a line for each."""
    task, size, device = key["task"], key["batch"], case.device
    for mode in modes:
        results.add(**key, mode=mode, status="begun")
    case.restore()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        resident = torch.cuda.memory_allocated(device)
    started = time.perf_counter()
    runs: dict[str, Callable[[int], Any]] = {}
    try:
        runs = {mode: case.action(task, size, mode) for mode in modes}
        turns = time_turns(runs, seconds, device)
        times = {mode: [wall for wall, _ in turns[mode]] for mode in modes}
        # On one thread the processor's time tells what a busy machine's clock does not.
        one_thread = device.type == "cpu" and torch.get_num_threads() == 1
        compared = {mode: [each[one_thread] for each in turns[mode]] for mode in modes}
        lines = {}
        for mode in modes:
            median = statistics.median(times[mode])
            line: dict[str, Any] = {"value": rate(task, size, median), "ms": median * 1e3, "turns": len(times[mode])}
            line["spread"] = float(np.subtract(*np.quantile(times[mode], [0.75, 0.25])) / median)
            if "baseline" in modes and mode != "baseline":
                pairs = zip(compared["baseline"], compared[mode], strict=True)
                line["ratio"] = statistics.median(a / b for a, b in pairs)
            if one_thread:
                line["value_processor"] = rate(task, size, statistics.median(compared[mode]))
            if hasattr(runs[mode], "difference") and mode != "eager":
                line["difference_to_eager"] = runs[mode].difference()
            if wrong := getattr(runs[mode], "problems", list)():
                line["problems"] = wrong
            if device.type == "cuda":
                # Also what a recording keeps to itself.
                line["peak_mib"] = (torch.cuda.max_memory_allocated(device) - resident) / 2**20
                line["reserved_mib"] = torch.cuda.max_memory_reserved(device) / 2**20
                line["kernel_fraction"] = kernel_fraction(runs[mode], median)
            lines[mode] = line
        for mode, line in lines.items():
            results.add(**key, mode=mode, status="ok", seconds=time.perf_counter() - started, **line)
            print(f"{key['model']} {task} {size} {mode}: " + json.dumps(line), flush=True)
    except (torch.OutOfMemoryError, MemoryError) as error:
        for mode in modes:
            results.add(**key, mode=mode, status="out of memory", error=str(error).splitlines()[0])
    except Exception as error:  # one model's failure must not end the others' measurements
        for mode in modes:
            results.add(**key, mode=mode, status="failed", error=f"{type(error).__name__}: {str(error)[:300]}")
        print(f"{key['model']} {task} {size} {modes}: {error}", file=sys.stderr, flush=True)


def measure_memory(name: str, mode: str, size: int, options: argparse.Namespace) -> None:
    """Peak memory of two training steps on a CPU, above that of the loaded program; its own process."""
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    case = Case(name, device, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    run = case.action("train", size, mode)
    for number in range(2):
        run(number)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    key = {"hardware": hardware(device, options.threads), "model": name, "task": "memory", "batch": size, "mode": mode}
    Results(options.output).add(**key, status="ok", peak_mib=after - before, process_mib=after)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


HEADINGS = {"train": "training, batch {}", "single": "one molecule of 20 atoms", "sixty": "60 molecules in one batch"}
UNITS = {"train": "configurations/s", "single": "ms", "sixty": "systems/s"}


def render(path: Path) -> str:
    """Markdown tables of a file of results."""
    lines = [line for line in Results(path).lines if line["status"] != "begun"]
    parts = []
    for machine in dict.fromkeys(line["hardware"] for line in lines):
        latest = {
            (line["task"], line.get("batch"), line["model"], line.get("mode")): line
            for line in lines
            if line["hardware"] == machine
        }
        parts.append(f"### {machine}")
        for task in UNITS:
            for size in sorted({key[1] for key in latest if key[0] == task}):
                parts += [f"\n{HEADINGS[task].format(size)}\n", speed_table(latest, task, size, machine)]
        parts += other_tables(latest)
    return "\n".join(parts)


def speed_table(latest: dict[tuple, dict[str, Any]], task: str, size: int, machine: str) -> str:
    """Rates of one task at one size, with the ratios to the baseline and the public reference's rate."""
    kind = "H100" if "H100" in machine else "CPU" if "thread" in machine else None
    modes = [mode for mode in MODES if any((task, size, name, mode) in latest for name in ENTRIES)]
    rows = []
    for name, entry in ENTRIES.items():
        found = [latest.get((task, size, name, mode)) for mode in modes]
        if not any(found):
            continue
        first = (latest.get((task, size, name, "baseline")) or {}).get("value")
        ratios = []
        for mode, line in zip(modes, found, strict=True):
            if mode == "baseline":
                continue
            ratio = (line or {}).get("ratio")
            if ratio is None and first and (line or {}).get("value"):
                ratio = first / line["value"] if task == "single" else line["value"] / first
            ratios.append(number(ratio))
        row = [entry.title, *map(cell, found), " / ".join(ratios)]
        rows.append(row if kind is None else [*row, number(entry.reference.get((kind, task, size)))])
    own = " [of processor time]" if any("value_processor" in line for line in latest.values()) else ""
    headers = ["model", *(f"{mode}, {UNITS[task]}{own}" for mode in modes), "times the baseline"]
    if kind is not None:
        headers.append(f"public reference, measured on {HARDWARE_OF_REFERENCE[kind]}")
    return table(headers, rows)


def other_tables(latest: dict[tuple, dict[str, Any]]) -> list[str]:
    """Memory and kernels, index sets, agreement."""
    memory, index, agreement, steps = [], [], [], []
    for line in latest.values():
        title, size = ENTRIES[line["model"]].title, str(line.get("batch"))
        if line["task"] in ("train", "memory") and "peak_mib" in line:
            memory.append([title, size, line["mode"], number(line["peak_mib"]), number(line.get("kernel_fraction"))])
        if "difference_to_eager" in line:
            steps.append([title, size, line["mode"], f"{line['difference_to_eager']:.1e}"])
        if line["task"] == "index" and line["status"] == "ok":
            kinds = ("batch_ms", "triplets_ms", "quadruplets_ms")
            index.append([title, size, *(number(line.get(kind)) for kind in kinds)])
        if line["task"] == "agreement":
            agreement.append([title, f"{line['energy']:.1e}", f"{line['forces']:.1e}"])
    parts = []
    for heading, headers, rows in (
        ("memory of a training step, and the share of its time in GPU kernels",
         ["model", "batch", "mode", "peak, MiB", "kernels"], memory),
        ("index sets", ["model", "batch", "batch, ms", "triplets, ms", "quadruplets, ms"], index),
        ("difference of padded and captured steps to eager ones in float32, relative, of loss and gradient norm",
         ["model", "batch", "mode", "difference"], steps),
        ("largest difference to the baseline in float64, relative", ["model", "energy", "forces"], agreement),
    ):  # fmt: skip
        if rows:
            parts += [f"\n{heading}\n", table(headers, rows)]
    return parts


def cell(line: dict[str, Any] | None) -> str:
    """A value, or why there is none."""
    if line is None:
        return "–"
    if line["status"] != "ok":
        return line["status"]
    processor = f" [{number(line['value_processor'])}]" if "value_processor" in line else ""
    return number(line["value"]) + processor + "".join(f" ({each})" for each in line.get("problems", []))


def main() -> None:
    """Measure what is missing, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines, appended to")
    parser.add_argument("--models", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES[:4]))
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="molecules of a training batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per case and mode, warm-up not counted")
    parser.add_argument("--total-seconds", type=float, default=1e9, help="start no case after this time")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="peak memory on a CPU, one process per mode")
    parser.add_argument("--render", action="store_true", help="print tables of --output and stop")
    parser.add_argument("--quiet", action="store_true", help="no tables at the end")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.render:
        print(render(options.output))
        return
    if options.memory_of:
        measure_memory(options.models[0], options.memory_of, options.batch[0], options)
        return
    if options.until:
        measure_model(options.models[0], options, options.until)
        return
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; use --device cpu")
    results = Results(options.output)
    results.add(
        task="run",
        status="begun",
        hardware=hardware(device, options.threads),
        command=sys.argv[1:],
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **environment(device),
    )
    until = time.time() + options.total_seconds
    for name in options.models:
        command = [sys.executable, __file__, *strip(sys.argv[1:], "--models"), "--models", name]
        if not options.memory:
            command += ["--until", str(until)]
            limit = max(10.0, until - time.time() + 30.0)
            run_child(command, limit)
            continue
        for mode in options.modes:
            key = {"hardware": hardware(device, options.threads), "model": name, "task": "memory", "mode": mode}
            if mode != "captured" and not results.done(**key, batch=options.batch[0]):
                run_child([*command, "--memory-of", mode], options.total_seconds)
        if time.time() > until:
            break
    if not options.quiet:
        print(render(options.output))


def strip(arguments: list[str], option: str) -> list[str]:
    """Command-line arguments without an option and its values."""
    if option not in arguments:
        return arguments
    start = arguments.index(option)
    end = next((k for k in range(start + 1, len(arguments)) if arguments[k].startswith("--")), len(arguments))
    return arguments[:start] + arguments[end:]


def run_child(command: list[str], limit: float) -> None:
    """Run one model in a process of its own, so that a crash ends only that."""
    environ = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        code = subprocess.run(command, timeout=min(limit, 1e6), check=False, env=environ).returncode
    except subprocess.TimeoutExpired:
        print(f"{command[-3:]}: stopped at the time limit", file=sys.stderr, flush=True)
        return
    if code:
        print(f"{command[-3:]}: exit status {code}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
