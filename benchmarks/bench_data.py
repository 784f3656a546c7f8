"""Building and reading stores: this package against the obvious way, a Python loop into an ASE database.

For every layout a file with random numbers is made (make_synthetic.py) and turned into a store by build_store, with the
filters of the data set's entry, in a process of its own. The obvious way opens the same file with h5py, makes an ASE
Atoms object per configuration and writes it into an ASE database (SQLite), on the first rows only. Random access is 512
rows out of all, against 512 rows of the database. QM7-X's published files have 4,195,237 configurations in 82.3 GB
unpacked: the time for them is extrapolated from the rate measured here.

Wall times depend on what else runs, so the rates per second of processor time stand beside them (all threads; "in
turn" is one after the other within the same run).

    python benchmarks/bench_data.py [--rows 1000000] [--qm7x-rows 20200] [--folder DIR]
"""

from __future__ import annotations

import argparse
import datetime
import json
import lzma
import multiprocessing
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from make_synthetic import LAYOUTS

from mlip_studies.data.build import build_store
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.data.geometry import shared_geometries
from mlip_studies.data.store import Store
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

ROOT = Path(__file__).parents[1]
NAMES = {"spice": "syn.hdf5", "ani1x": "syn-ani1x.h5", "qm7x": "syn.xz", "ani1": "syn.tar.gz"}
QM7X_ROWS = 4_195_237
BATCH = 512


def timed(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run ``work`` in a fresh process: its result, wall and processor seconds, and its peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue, work, arguments))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{work.__name__} failed")
    return queue.get()


def _child(queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(*arguments)
    times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    # The kernel's own record; that of getrusage begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    queue.put({"result": result, "peak_mb": peak, **times})


def entry_of(layout: str, source: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The data set's entry as the pipeline has it, for a file that isn't the published one."""
    datasets = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text(encoding="utf-8"))
    entry = resolve_dataset(datasets, layout, "full")
    entry["source_entries"] = [entry["source_entries"][0] | {"file": {"name": source.name}}]
    entry["aux_files"] = {}
    aux = {}
    if layout == "qm7x":
        aux["duplicates"] = source.with_name("DupMols.dat")
        aux["duplicates"].write_text("Geom-m1-i1-c2-opt\nGeom-m2-i1-c1-opt\n")
    return entry, aux


def build(layout: str, source: Path, store: Path) -> int:
    """Build a store; returns the rows that were read."""
    entry, aux = entry_of(layout, source)
    build_store(entry, [source], store, store.with_suffix(".csv"), aux)
    with Store(store, verify=False) as opened:
        return int(opened.provenance["funnel"][0]["rows"])


def random_access(store: Path, repeats: int) -> dict[str, float]:
    """Milliseconds per batch of 512 random rows (positions, numbers, energies, forces), after a warm-up."""
    rng = np.random.default_rng(0)
    wall, cpu = [], []
    with Store(store, verify=False) as opened:
        for number in range(2 * repeats):
            rows = rng.integers(0, len(opened), BATCH)
            start, used = time.perf_counter(), time.process_time()
            opened.read(rows)
            if number >= repeats:
                wall.append(1e3 * (time.perf_counter() - start))
                cpu.append(1e3 * (time.process_time() - used))
        return {"rows": len(opened), "median_ms": statistics.median(wall), "cpu_ms": statistics.mean(cpu)}


def sequential(store: Path) -> float:
    """Read all rows once; returns the bytes."""
    total = 0
    with Store(store, verify=False) as opened:
        for rows in opened.iter_chunks():
            total += rows.positions.nbytes + sum(values.nbytes for values in rows.forces.values())
    return total


def leakage(store: Path) -> int:
    """Compare the geometries of 80 % of the rows with the other 20 %; returns the rows."""
    with Store(store, verify=False) as opened:
        order = np.random.default_rng(0).permutation(len(opened))
        cut = int(0.8 * len(order))
        shared_geometries(opened, order[:cut], order[cut:])
        return len(order)


def plain_rows(layout: str, source: Path, slice_rows: int) -> Iterator[tuple[Any, Any, float, Any]]:
    """Numbers, positions (Å), energy (eV) and forces (eV/Å) one by one, as h5py gives them."""
    if layout == "qm7x":
        unpacked = source.with_suffix(".plain")
        with lzma.open(source) as packed, unpacked.open("wb") as target:
            # The obvious way unpacks everything; here only its share of the time counts, see obvious().
            while block := packed.read(1 << 22):
                target.write(block)
        with h5py.File(unpacked) as file:
            for molecule in file.values():
                for one in molecule.values():
                    yield one["atNUM"][:], one["atXYZ"][:], float(one["ePBE0+MBD"][0]), one["totFOR"][:]
        return
    if layout == "ani1":
        with tarfile.open(source) as archive:
            archive.extract(archive.next(), source.parent, filter="data")
        symbols = {b"H": 1, b"C": 6, b"N": 7, b"O": 8}
        with h5py.File(source.parent / "ANI-1_release" / "ani_gdb_s01.h5") as file:
            for part in file.values():
                for one in part.values():
                    numbers = [symbols[s] for s in one["species"][:]]
                    for index in range(len(one["energies"])):
                        yield numbers, one["coordinates"][index], one["energies"][index] * HARTREE_TO_EV, None
        return
    with h5py.File(source) as file:
        for one in file.values():
            if layout == "spice":
                for index in range(len(one["dft_total_energy"])):
                    energy = one["dft_total_energy"][index] * HARTREE_TO_EV
                    forces = -one["dft_total_gradient"][index] * (HARTREE_TO_EV / BOHR_TO_ANGSTROM)
                    yield one["atomic_numbers"][:], one["conformations"][index] * BOHR_TO_ANGSTROM, energy, forces
            else:
                for index in range(len(one["wb97x_dz.energy"])):
                    energy = one["wb97x_dz.energy"][index] * HARTREE_TO_EV
                    forces = one["wb97x_dz.forces"][index] * HARTREE_TO_EV
                    yield one["atomic_numbers"][:], one["coordinates"][index], energy, forces


def obvious(layout: str, source: Path, database: Path, slice_rows: int, rows: int) -> dict[str, float]:
    """The obvious way on the first rows: seconds per row (wall, processor), and milliseconds per random batch."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    # What happens before the first row comes is unpacking, which is shared by all rows of the file.
    start, used = time.perf_counter(), time.process_time()
    stream = plain_rows(layout, source, slice_rows)
    first = next(stream)
    unpack = time.perf_counter() - start, time.process_time() - used
    start, used = time.perf_counter(), time.process_time()
    with connect(str(database)) as db:
        for count, (numbers, positions, energy, forces) in enumerate(_chain(first, stream), 1):
            atoms = Atoms(numbers=numbers, positions=positions)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
            db.write(atoms)
            if count == slice_rows:
                break
    loop = time.perf_counter() - start, time.process_time() - used
    share = rows if layout == "qm7x" else rows / 8 if layout == "ani1" else rows
    rng = np.random.default_rng(0)
    batches = []
    with connect(str(database)) as db:
        for _ in range(3):
            start = time.perf_counter()
            for row in rng.integers(1, count + 1, BATCH).tolist():
                atoms = db.get_atoms(row)
                if layout != "ani1":
                    atoms.get_forces()
            batches.append(1e3 * (time.perf_counter() - start))
    return {
        "rows": count,
        "wall": loop[0] / count + unpack[0] / share,
        "cpu": loop[1] / count + unpack[1] / share,
        "batch_ms": min(batches),
    }


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def describe() -> str:
    """Machine, load and time."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{datetime.date.today()}; {os.cpu_count()} x {model}; load {load}; {' '.join(sys.argv)}"


def main() -> None:
    """Measure and print Markdown tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="configurations per file (default: 1,000,000)")
    parser.add_argument("--qm7x-rows", type=int, default=20_200, help="configurations in QM7-X's layout")
    parser.add_argument("--slice", type=int, default=2000, help="rows of the obvious way")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--folder", type=Path, help="where the files go (some GB; default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure all layouts in turn."""
    print(describe())
    results: dict[str, Any] = {}
    for layout in options.layouts:
        rows = options.qm7x_rows if layout == "qm7x" else options.rows
        source, store = folder / NAMES[layout], folder / f"{layout}.store.h5"
        timed(LAYOUTS[layout], source, rows)
        ours = timed(build, layout, source, store)
        plain = timed(obvious, layout, source, folder / f"{layout}.db", options.slice, rows)["result"]
        access = timed(random_access, store, 50)
        read = timed(sequential, store)
        shared = timed(leakage, store)
        results[layout] = {
            # ANI-1's files hold more rows than asked: those high in energy.
            "rows": ours["result"],
            "file_mb": source.stat().st_size / 1e6,
            "store_mb": store.stat().st_size / 1e6,
            "build": ours,
            "obvious": plain,
            "random": access["result"],
            "sequential_mb_per_s": read["result"] / 1e6 / read["wall"],
            "leakage": shared,
        }
        print(f"{layout}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
    print("\nConfigurations per second of wall time, in parentheses per second of processor time:\n")
    print("| layout | rows | build_store | peak memory (MB) | obvious way (rows of it) | ratio of processor time |")
    print("|---|---|---|---|---|---|")
    for layout, one in results.items():
        ours, plain = one["build"], one["obvious"]
        print(
            f"| {layout} | {one['rows']:,} | {one['rows'] / ours['wall']:,.0f} ({one['rows'] / ours['cpu']:,.0f}) | "
            f"{ours['peak_mb']:.0f} | {1 / plain['wall']:,.0f} ({1 / plain['cpu']:,.0f}; {plain['rows']}) | "
            f"{plain['cpu'] * one['rows'] / ours['cpu']:.0f} |"
        )
    print(
        "\n| layout | stored rows | 512 random rows (ms wall; processor) | obvious way (ms) | ratio | all rows (MB/s) |"
    )
    print("|---|---|---|---|---|---|")
    for layout, one in results.items():
        access = one["random"]
        print(
            f"| {layout} | {access['rows']:,} | {access['median_ms']:.1f} ({access['cpu_ms']:.1f}) | "
            f"{one['obvious']['batch_ms']:.0f} | {one['obvious']['batch_ms'] / access['median_ms']:.0f} | "
            f"{one['sequential_mb_per_s']:.0f} |"
        )
    print("\n| layout | geometries compared (80 % against 20 %), rows/s wall (processor) | peak memory (MB) |")
    print("|---|---|---|")
    for layout, one in results.items():
        n, shared = one["leakage"]["result"], one["leakage"]
        print(f"| {layout} | {n / shared['wall']:,.0f} ({n / shared['cpu']:,.0f}) | {shared['peak_mb']:.0f} |")
    if "qm7x" in results:
        one = results["qm7x"]
        wall, cpu = (QM7X_ROWS / one["rows"] * one["build"][kind] / 60 for kind in ("wall", "cpu"))
        print(f"\nQM7-X, all {QM7X_ROWS:,} rows, extrapolated: {wall:.0f} min wall, {cpu:.0f} min of processor time")
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
