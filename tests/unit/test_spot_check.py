"""Labels of frames: statuses, the ladder, workers that hang, crash or take too much memory, kills and resumption."""

import io
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ase.build import molecule

from mlip_studies.dft import ladder, run, spot_check
from mlip_studies.dft.child import WorkerPool
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.run import build_molecule, complete_field, mean_field, on_gpu
from mlip_studies.dft.spot_check import (
    SHARD,
    SpotCheckConfig,
    SpotCheckOutputs,
    basis_sizes,
    count_fragments,
    describe,
    geometry_status,
    main_spot_check,
    read_frames,
    run_spot_checks,
)
from mlip_studies.errors import InputError
from mlip_studies.runtime.state import REQUEUE_STATUS, Requeue
from mlip_studies.units import HARTREE_TO_EV

LEVEL = "pbe0+mbd/def2-svp"
WATER = molecule("H2O")
#: what the stand-in for calculations does, by the abscissa of the first atom
WELL, HANG, EXIT, KILL, GROW, HUGE, RAISE, ONCE, SIGNALS, ILL, FULL = range(11)
STAND_IN = """
import os, signal, time
from pathlib import Path

def calculate(task):
    if "element" in task:
        return {"energy": -0.5, "status": "converged"}
    kind, folder = int(task["positions"][0, 0]), Path(os.environ["STAND_IN_FOLDER"])
    with open(folder / "calls", "a") as stream:
        stream.write(f"{kind}\\n")
    if kind == 1:
        time.sleep(600)
    elif kind == 2:
        os._exit(3)
    elif kind == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == 4:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20) * 8))
            time.sleep(0.02)
    elif kind == 5:
        held = bytearray(1 << 40)
    elif kind == 6:
        raise ValueError("two\\nlines")
    elif kind == 7 and not (folder / "seen").exists():
        (folder / "seen").touch()
        os._exit(1)
    elif kind == 8:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
    elif kind == 9:
        raise RuntimeError("Ill geometry")
    elif kind == 10:
        raise OSError(28, os.strerror(28))
    forces = [[0.0, 0.0, 0.1 * i] for i in range(len(task["positions"]))]
    return {"converged": True, "strategy": "diis", "cycles": 7, "n_basis": 5, "plain_energy": -1.0, "energy": -1.5,
            "energy_scf": -1.0, "energy_mbd": -0.5, "forces": forces, "detail": ""}
"""


def write_frames(path, molecules, **columns):
    """Molecules given as (atomic numbers, positions)."""
    numbers = [np.asarray(z) for z, _ in molecules]
    np.savez(
        path,
        atomic_numbers=np.concatenate(numbers),
        ptr=np.cumsum([0, *map(len, numbers)]),
        positions=np.concatenate([np.asarray(positions, dtype=float) for _, positions in molecules]),
        **columns,
    )
    return str(path)


def hydrogen(length):
    return [1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, length]]


def stretched_water(factor):
    positions = WATER.positions.copy()
    positions[1] = positions[0] + factor * (positions[1] - positions[0])
    return WATER.numbers, positions


def stand_in_frames(path, kinds):
    positions = WATER.positions - WATER.positions[0]
    return write_frames(path, [(WATER.numbers, positions + np.array([kind, 0.0, 0.0])) for kind in kinds])


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Workers run the stand-in; the folder notes its calls."""
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "stand_in_for_tests.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("STAND_IN_FOLDER", str(folder))
    monkeypatch.setattr(spot_check, "TARGET", "stand_in_for_tests:calculate")
    return folder


def calls(folder):
    return [int(line) for line in (folder / "calls").read_text().split()]


def label(tmp_path, frames, name="out", **options):
    config = SpotCheckConfig.from_dict(
        {"frames": frames, "level": LEVEL, "backend": "cpu", "time_limit_s": 120, **options}
    )
    outputs = SpotCheckOutputs.in_folder(tmp_path / name)
    summary = run_spot_checks(config, outputs, tmp_path / f"{name}_state")
    return summary, pd.read_csv(outputs.labels_csv, keep_default_na=True), np.load(outputs.labels_npz)


# Labels


@pytest.fixture(scope="module")
def published(repository):
    """Two rows of the mini QM7-X, as stored."""
    content = lzma.decompress((repository / "resources" / "qm7x-mini" / "qm7x-mini-1000.xz").read_bytes())
    with h5py.File(io.BytesIO(content)) as stored:
        groups = [stored["4/Geom-m4-i1-c1-d3"], stored["7/Geom-m7-i1-c1-d5"]]
        return [{key: group[key][()] for key in group} for group in groups]


def test_labels_of_the_mini_set_are_reproduced(tmp_path, published, repository):
    frames = write_frames(
        tmp_path / "frames.npz",
        [(row["atNUM"], row["atXYZ"]) for row in published],
        name=np.array(["acetylene", "formaldehyde"]),
        start=np.array([0, 1]),
        trajectory=np.array([4, 5]),
        temperature_k=np.array([300.0, 600.0]),
        time_ps=np.array([0.5, 1.5]),
    )
    summary, table, labels = label(tmp_path, frames, memory_limit_mb=3000, time_limit_s=500)
    assert summary["counts"] == {"converged": 2} and summary["plain_converged"] == 1.0
    assert labels["energy_ev"] == pytest.approx([row["ePBE0+MBD"].item() for row in published], abs=1e-6)
    assert labels["mbd_energy_ev"] == pytest.approx([row["eMBD"].item() for row in published], abs=1e-6)
    # stored fields started from a neighbour's density; energies are converged to 1e-10 hartree, orbitals to 1e-5
    expected = np.concatenate([row["totFOR"] for row in published])
    assert np.abs(labels["forces_ev_per_angstrom"] - expected).max() < 1e-4
    atoms = pd.read_csv(repository / "resources" / "isolated-atoms" / "isolated_atoms.csv")
    atoms = atoms[(atoms["level"] == LEVEL) & (atoms["charge"] == 0)].set_index("element")["energy_ev"]
    assert labels["atomic_numbers_isolated"].tolist() == [1, 6, 8]
    # The hole of oxygen's p shell turns freely against the integration grid: 2.4e-5 eV between two processors.
    assert labels["energies_isolated_ev"] == pytest.approx(atoms[["H", "C", "O"]].to_numpy(), abs=1e-4)
    assert labels["energies_isolated_ev"][:2] == pytest.approx(atoms[["H", "C"]].to_numpy(), abs=1e-6)
    assert table["energy_ev"].to_numpy() == pytest.approx(labels["energy_ev"], abs=1e-9)
    line = table.iloc[1]
    assert (line["formula"], line["n_atoms"], line["n_basis"], line["n_fragments"]) == ("CH2O", 4, 38, 1)
    assert (line["name"], line["trajectory"], line["temperature_k"]) == ("formaldehyde", 5, 600.0)
    assert line["strategy"] == "diis" and 5 < line["cycles"] < 30 and line["attempts"] == 1
    assert line["energy_scf_ev"] == pytest.approx(line["plain_energy_ev"], abs=1e-9)
    assert line["seconds"] > 0 and line["cpu_seconds"] > 0 and 50 < line["max_rss_mb"] < 3000
    (cost,) = summary["cost"]
    assert cost["n_atoms"] == 4 and cost["n"] == 2
    assert cost["per_core_hour"] == pytest.approx(7200 / table["seconds"].sum())
    assert "per core-hour" in describe(summary)
    # the outputs are whole, so the state is gone
    assert not list((tmp_path / "out_state").iterdir())


def test_larger_bases_are_named_levels():
    sizes = [sum(basis_sizes([1, 8], f"pbe0+mbd/def2-{name}").values()) for name in ("svp", "tzvp", "tzvpp")]
    assert sizes == [5 + 14, 6 + 31, 14 + 31]
    assert {DFT_LEVELS[f"pbe0+mbd/def2-{name}"].dispersion for name in ("svp", "tzvp", "tzvpp")} == {"mbd"}


def task_of(numbers, positions, **options):
    settings = {"level": LEVEL, "max_cycle": 50, "ladder": True, "forces": True, "backend": "cpu"}
    return {"atomic_numbers": np.array(numbers), "positions": positions, "memory_limit_mb": 2000, **settings, **options}


def test_plain_diis_has_a_limit_and_the_ladder_goes_beyond_it():
    converged = ladder.calculate(task_of(WATER.numbers, WATER.positions))
    assert converged["strategy"] == "diis" and converged["energy_scf"] == converged["plain_energy"]
    short = ladder.calculate(task_of(WATER.numbers, WATER.positions, max_cycle=3, ladder=False))
    assert not short["converged"] and short["strategy"] == "none" and short["cycles"] == 3
    assert short["forces"] is None and np.isnan(short["energy"]) and np.isfinite(short["plain_energy"])
    helped = ladder.calculate(task_of(WATER.numbers, WATER.positions, max_cycle=3))
    assert helped["converged"] and helped["strategy"] == "level_shift" and helped["cycles"] > 3
    assert helped["plain_energy"] == short["plain_energy"]
    assert helped["energy"] == pytest.approx(converged["energy"], abs=1e-8)
    assert np.abs(helped["forces"] - converged["forces"]).max() < 1e-5


def test_second_order_solver_ends_in_the_state_of_the_forces(monkeypatch):
    # Whether 100 shifted cycles converge here depends on the processor's last digits; 20 are too few.
    monkeypatch.setattr(ladder, "SHIFT_CYCLES", 20)
    numbers, positions = stretched_water(3.0)
    found = ladder.calculate(task_of(numbers, positions))
    assert found["converged"] and found["strategy"] == "newton" and found["cycles"] > 50
    assert found["energy_scf"] < found["plain_energy"] - 0.1
    # the force along the stretched bond is the slope of the energy
    step = 0.01 * (positions[1] - positions[0]) / np.linalg.norm(positions[1] - positions[0])
    moved = positions.copy()
    moved[1] += step
    other = ladder.calculate(task_of(numbers, moved))
    mean_force = 0.5 * (found["forces"][1] + other["forces"][1])
    assert other["energy"] - found["energy"] == pytest.approx(-mean_force @ step, abs=2e-6)
    assert np.abs(found["forces"].sum(axis=0)).max() < 1e-6


def test_numbers_that_break_down_are_unconverged(monkeypatch):
    def singular(*_):
        raise np.linalg.LinAlgError("singular\nmatrix")

    monkeypatch.setattr(ladder, "converge", singular)
    result = ladder.calculate(task_of(WATER.numbers, WATER.positions))
    assert not result["converged"] and result["detail"] == "LinAlgError: singular matrix"


def test_field_without_dispersion_energy_is_unconverged(monkeypatch):
    nothing = float("nan"), np.zeros((2, 3)), {"energy_scf": -1.1, "energy_mbd": float("nan")}
    monkeypatch.setattr(ladder, "complete_field", lambda *_: nothing)
    result = ladder.calculate(task_of(*hydrogen(0.74)))
    assert not result["converged"] and result["strategy"] == "diis" and result["energy_scf"] == -1.1
    assert result["forces"] is None and "dispersion" in result["detail"]


# Statuses and geometry


def test_frames_that_cannot_be_calculated(tmp_path, stand_in):
    close = stretched_water(0.05)
    gone = stretched_water(np.nan)
    hydroxyl = ([8, 1], WATER.positions[:2])
    frames = write_frames(tmp_path / "frames.npz", [close, gone, hydroxyl, (WATER.numbers, WATER.positions)])
    summary, table, labels = label(tmp_path, frames)
    assert table["status"].tolist() == ["bad_geometry", "nan_geometry", "odd_electrons", "converged"]
    assert table["strategy"].tolist()[:3] == ["none"] * 3 and (table["attempts"] == [0, 0, 0, 1]).all()
    assert np.isnan(labels["energy_ev"][:3]).all() and labels["energy_ev"][3] == pytest.approx(-1.5 * HARTREE_TO_EV)
    assert np.isnan(labels["forces_ev_per_angstrom"][:8]).all()
    assert labels["forces_ev_per_angstrom"][-1] == pytest.approx([0, 0, 0.2 * HARTREE_TO_EV])
    assert calls(stand_in) == [WELL]
    assert summary["plain_converged"] == 0.25 and [cost["n"] for cost in summary["cost"]] == [1]
    assert table["n_fragments"].tolist()[1] == 0


def test_no_frames_are_no_error(tmp_path, stand_in):
    path = tmp_path / "frames.npz"
    np.savez(path, atomic_numbers=np.zeros(0, int), ptr=[0], positions=np.zeros((0, 3)), name=np.zeros(0, "U1"))
    summary, table, labels = label(tmp_path, str(path))
    assert summary["n_frames"] == len(table) == len(labels["energy_ev"]) == 0 and not summary["cost"]
    assert list(table.columns) == list(spot_check.COLUMNS)
    assert "0 frames" in describe(summary)


def test_geometry_statuses():
    assert geometry_status(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.11]])) == ""
    assert geometry_status(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.09]])) == "bad_geometry"
    assert geometry_status(np.array([1]), np.array([[0, np.inf, 0]])) == "nan_geometry"
    assert geometry_status(np.array([7]), np.zeros((1, 3))) == "odd_electrons"


def test_fragments():
    assert count_fragments(WATER.numbers, WATER.positions) == 1
    assert count_fragments(*stretched_water(2.0)) == 2
    both = np.concatenate([WATER.positions, WATER.positions + 5.0])
    assert count_fragments(np.tile(WATER.numbers, 2), both) == 2


# Workers


def test_nothing_that_a_worker_does_ends_the_run(tmp_path, stand_in, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    kinds = [HANG, WELL, EXIT, KILL, GROW, HUGE, RAISE, ONCE, SIGNALS, ILL, WELL]
    frames = stand_in_frames(tmp_path / "frames.npz", kinds)
    before = set(children_of(os.getpid()))
    _, table, labels = label(tmp_path, frames, workers=2, time_limit_s=5, memory_limit_mb=150)
    expected = {
        HANG: "timeout", WELL: "converged", EXIT: "crashed", KILL: "crashed", GROW: "out_of_memory",
        HUGE: "out_of_memory", RAISE: "crashed", ONCE: "converged", SIGNALS: "converged", ILL: "bad_geometry",
    }  # fmt: skip
    assert dict(zip(kinds, table["status"], strict=True)) == expected
    by_kind = table.assign(kind=kinds).drop_duplicates("kind").set_index("kind")
    # a worker that dies is given a second chance, an error of the function is not
    tries = dict(zip(by_kind.index, by_kind["attempts"], strict=True))
    assert tries == {**dict.fromkeys(expected, 1), EXIT: 2, KILL: 2, ONCE: 2}
    assert calls(stand_in).count(KILL) == 2 and calls(stand_in).count(RAISE) == 1
    assert by_kind.loc[EXIT, "detail"] == "ended with status 3"
    assert by_kind.loc[KILL, "detail"] == "ended by SIGKILL"
    assert by_kind.loc[RAISE, "detail"] == "ValueError: two lines"
    assert by_kind.loc[HANG, "seconds"] >= 5 and by_kind.loc[HANG, "cpu_seconds"] < 4
    assert by_kind.loc[GROW, "max_rss_mb"] > 50
    assert np.isfinite(labels["energy_ev"]).sum() == 4
    assert set(children_of(os.getpid())) == before
    assert not list(scratch.iterdir())


def test_largest_molecules_come_first_and_the_tables_keep_the_order(tmp_path, stand_in, monkeypatch):
    molecules = [molecule(name) for name in ("H2O", "CH3CH2OH", "H2", "CH4")]
    frames = write_frames(
        tmp_path / "frames.npz", [(each.numbers, each.positions - each.positions[0]) for each in molecules]
    )
    # the state is kept for a look at the order
    monkeypatch.setattr(spot_check.JobState, "remove", lambda _: None)
    _, table, _ = label(tmp_path, frames)
    (shard,) = (tmp_path / "out_state").glob(f"*/{SHARD}")
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    assert [row["frame"] for row in rows if "frame" in row] == [1, 3, 0, 2]
    assert table["formula"].tolist() == ["H2O", "C2H6O", "H2", "CH4"]
    assert table["n_basis"].tolist() == [24, 72, 10, 34]


def test_workers_have_one_thread_and_files_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "looks_around.py").write_text(
        "import os\ndef look(task):\n    return {key: os.environ[key] for key in task}\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    with WorkerPool("looks_around:look", 2, 60, 500, tmp_path) as pool:
        names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TMPDIR", "PYSCF_TMPDIR"]
        outcomes = list(pool.run([(key, names) for key in range(4)]))
    assert sorted(outcome.key for outcome in outcomes) == [0, 1, 2, 3]
    for outcome in outcomes:
        assert [outcome.value[name] for name in names[:3]] == ["1"] * 3
        assert outcome.value["TMPDIR"] == outcome.value["PYSCF_TMPDIR"] and not Path(outcome.value["TMPDIR"]).exists()
    assert not (tmp_path / "scratch.json").exists()


def test_workers_that_cannot_start_are_an_error(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"before their first task.*no_such_module"),
        WorkerPool("no_such_module:calculate", 1, 60, 500) as pool,
    ):
        list(pool.run([(0, None)]))


# Kills, stops and resumption


def hydrogens(path, n=10):
    return write_frames(path, [hydrogen(0.6 + 0.03 * k) for k in range(n)])


def start(tmp_path, frames, workers=2):
    (tmp_path / "run.yaml").write_text(
        f"frames: {frames}\nlevel: {LEVEL}\nworkers: {workers}\nbackend: cpu\nmemory_limit_mb: 1000\n"
    )
    command = [sys.executable, "-m", "mlip_studies", "spot-check", str(tmp_path / "run.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def two_rows():
        assert process.poll() is None, process.stdout.read()
        shards = list((tmp_path / "run" / ".state").glob(f"*/{SHARD}"))
        return bool(shards) and shards[0].read_bytes().count(b"\n") >= 2

    wait_until(two_rows)
    return process


def test_kill_of_the_whole_run_loses_nothing(tmp_path):
    frames = hydrogens(tmp_path / "frames.npz")
    process = start(tmp_path, frames)
    workers = children_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    # the workers end with it
    wait_until(lambda: not any(alive(pid) for pid in workers))
    (shard,) = (tmp_path / "run" / ".state").glob(f"*/{SHARD}")
    folder = Path(json.loads((shard.parent / "scratch.json").read_text())["folder"])
    assert folder.is_dir()
    kept = shard.read_text().splitlines()
    assert 2 <= len(kept) < 13
    # the last line was cut off by the kill
    shard.write_text("\n".join(kept) + "\n" + kept[0][:40])
    config = SpotCheckConfig.from_yaml(tmp_path / "run.yaml")
    outputs = SpotCheckOutputs.in_folder(tmp_path / "run")
    summary = run_spot_checks(config, outputs, tmp_path / "run" / ".state")
    assert summary["resumed_frames"] == sum("frame" in json.loads(line) for line in kept)
    assert not folder.exists()
    _, table, expected = label(tmp_path, frames, "whole")
    found = np.load(outputs.labels_npz)
    assert set(found.files) == set(expected.files)
    for key in found.files:
        if found[key].dtype.kind == "f":
            assert np.abs(found[key] - expected[key]).max() < 1e-9, key
        else:
            assert (found[key] == expected[key]).all(), key
    assert (table["status"] == "converged").all()
    same = ["frame", "status", "strategy", "cycles", "n_basis", "formula"]
    assert pd.read_csv(outputs.labels_csv)[same].equals(table[same])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_keeps_its_rows_and_wants_to_be_started_again(tmp_path, number):
    frames = hydrogens(tmp_path / "frames.npz")
    process = start(tmp_path, frames)
    workers = children_of(process.pid)
    # as at the end of a batch job, everybody is told
    for pid in [process.pid, *workers]:
        os.kill(pid, number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == REQUEUE_STATUS, text
    assert number.name in text and "run again to go on" in text
    assert not any(alive(pid) for pid in workers)
    (shard,) = (tmp_path / "run" / ".state").glob(f"*/{SHARD}")
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    assert all(row["status"] == "converged" for row in rows)
    assert not (tmp_path / "run" / "labels.csv").exists()


def test_rows_ended_by_a_limit_are_tried_again_under_a_higher_one(tmp_path, stand_in, monkeypatch):
    frames = stand_in_frames(tmp_path / "frames.npz", [HANG, WELL, GROW])

    def no_room(*_):
        raise OSError(28, os.strerror(28))

    def run_up_to_the_outputs(**limits):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot write"):
            patch.setattr(spot_check, "_write", no_room)
            label(tmp_path, frames, workers=3, **limits)

    run_up_to_the_outputs(time_limit_s=4, memory_limit_mb=120)
    assert sorted(calls(stand_in)) == [WELL, HANG, GROW]
    run_up_to_the_outputs(time_limit_s=3, memory_limit_mb=100)
    assert sorted(calls(stand_in)) == [WELL, HANG, GROW]
    run_up_to_the_outputs(time_limit_s=5, memory_limit_mb=120)
    assert sorted(calls(stand_in)) == [WELL, HANG, HANG, GROW]
    _, table, _ = label(tmp_path, frames, time_limit_s=4, memory_limit_mb=120)
    assert sorted(calls(stand_in)) == [WELL, HANG, HANG, GROW]
    assert table["status"].tolist() == ["timeout", "converged", "out_of_memory"]


def test_full_disk_is_one_line_and_what_was_saved_is_kept(tmp_path, stand_in, monkeypatch):
    frames = stand_in_frames(tmp_path / "frames.npz", [WELL] * 4)
    real, count = os.fsync, []

    def fsync(descriptor):
        count.append(descriptor)
        if len(count) > 2:
            raise OSError(28, os.strerror(28))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError) as caught:
        label(tmp_path, frames)
    assert "make room on the disk" in one_line(caught)
    monkeypatch.setattr(os, "fsync", real)
    summary, table, _ = label(tmp_path, frames)
    assert summary["resumed_frames"] >= 2 and (table["status"] == "converged").all()


def test_full_scratch_disk_says_nothing_about_a_frame(tmp_path, stand_in):
    frames = stand_in_frames(tmp_path / "frames.npz", [FULL])
    with pytest.raises(InputError) as caught:
        label(tmp_path, frames)
    assert "TMPDIR" in one_line(caught)


def test_damaged_lines_of_the_state_are_calculated_again(tmp_path, stand_in, monkeypatch):
    frames = stand_in_frames(tmp_path / "frames.npz", [WELL, SIGNALS, WELL])
    with monkeypatch.context() as patch, pytest.raises(Requeue):
        patch.setattr(spot_check.StopRequest, "__enter__", lambda self: setattr(self, "name", "SIGTERM") or self)
        label(tmp_path, frames)
    (shard,) = (tmp_path / "out_state").glob(f"*/{SHARD}")
    shard.write_bytes(b'{"frame": 0}\n[1]\n\xff\xfe\n{"status": "converged"}\n')
    summary, table, _ = label(tmp_path, frames)
    assert summary["resumed_frames"] == 0 and (table["status"] == "converged").all()


def test_other_frames_start_anew(tmp_path, stand_in, capsys):
    first = stand_in_frames(tmp_path / "frames.npz", [FULL])
    with pytest.raises(InputError):
        label(tmp_path, first)
    second = stand_in_frames(tmp_path / "other.npz", [WELL])
    label(tmp_path, second)
    assert "starting anew" in capsys.readouterr().out


# GPU


class DeviceArray(np.ndarray):
    """An array that has to be fetched, as those of cupy."""

    def get(self):
        return np.asarray(self)


def test_fields_of_a_gpu_are_completed_on_the_host():
    level = DFT_LEVELS[LEVEL]
    numbers, positions = WATER.numbers, WATER.positions
    mf = mean_field(build_molecule(numbers, positions, level.basis), level)
    energy = float(mf.kernel())
    expected = complete_field(mf, energy, numbers, positions, level)
    for name in ("mo_coeff", "mo_occ", "mo_energy"):
        setattr(mf, name, getattr(mf, name).view(DeviceArray))
    copy = run._on_host(mf, level)
    assert copy is not mf and type(copy.mo_coeff) is np.ndarray
    found = complete_field(mf, energy, numbers, positions, level)
    assert found[0] == pytest.approx(expected[0], abs=1e-10)
    assert np.abs(found[1] - expected[1]).max() < 1e-8


def test_gpu_is_used_if_it_is_there_and_refused_if_not(tmp_path, monkeypatch):
    frames = hydrogens(tmp_path / "frames.npz", 1)
    monkeypatch.setattr(spot_check, "gpu_available", lambda: False)
    with pytest.raises(InputError) as caught:
        label(tmp_path, frames, backend="gpu")
    assert "gpu-dft" in one_line(caught)
    assert spot_check._backend("auto") == "cpu"
    monkeypatch.setattr(spot_check, "gpu_available", lambda: True)
    assert spot_check._backend("auto") == spot_check._backend("gpu") == "gpu"
    assert spot_check._backend("cpu") == "cpu"
    monkeypatch.setattr(run, "gpu_available", lambda: False)
    with pytest.raises(RuntimeError, match="no GPU"):
        on_gpu(None)


def test_ladder_iterates_what_the_gpu_makes_of_it(monkeypatch):
    moved = []

    def to_gpu(mf):
        moved.append(mf)
        return mf

    monkeypatch.setattr(ladder, "on_gpu", to_gpu)
    level = replace(DFT_LEVELS[LEVEL], max_cycle=3)
    mol = build_molecule(WATER.numbers, WATER.positions, level.basis)
    field = ladder.converge(mol, level, backend="gpu")
    assert field.strategy == "level_shift" and field.mf is moved[1] and len(moved) == 2
    moved.clear()
    assert ladder.converge(mol, level).strategy == "level_shift" and not moved


# Bad input


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"level": "pbe0+mbd/def2-svpp"}, "did you mean 'pbe0+mbd/def2-svp'"),
        ({"workers": 0}, "spot_check.workers: expected at least 1"),
        ({"time_limit_s": 0}, "spot_check.time_limit_s: expected more than 0"),
        ({"memory_limit_mb": "nan"}, "spot_check.memory_limit_mb: expected more than 0"),
        ({"max_cycle": 0}, "spot_check.max_cycle: expected at least 1"),
        ({"backend": "tpu"}, "spot_check.backend: expected one of auto, cpu, gpu"),
        ({"ladders": True}, "unknown key 'ladders'; did you mean 'ladder'?"),
    ],
)
def test_configuration_says_what_is_wrong(options, text):
    with pytest.raises(InputError) as caught:
        SpotCheckConfig.from_dict({"frames": "frames.npz", "level": LEVEL, **options})
    assert text in one_line(caught)


def test_level_says_whether_dispersion_belongs_to_it():
    assert SpotCheckConfig("frames.npz", LEVEL).mbd and not SpotCheckConfig("frames.npz", "wb97x/6-31g(d)").mbd


def test_frames_files_that_do_not_fit(tmp_path):
    path = tmp_path / "frames.npz"
    with pytest.raises(InputError, match="no such file"):
        read_frames(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="not a readable"):
        read_frames(path)
    np.savez(path, ptr=[0, 1], positions=np.zeros((1, 3)))
    with pytest.raises(InputError, match="'atomic_numbers' is missing"):
        read_frames(path)
    for ptr in ([0, 2], [1, 3], [0, 0, 3], [0, 4, 3]):
        np.savez(path, atomic_numbers=WATER.numbers, ptr=ptr, positions=WATER.positions)
        with pytest.raises(InputError, match="do not fit"):
            read_frames(path)
    write_frames(path, [(WATER.numbers, WATER.positions)], start=np.zeros(2))
    with pytest.raises(InputError, match="`start` has shape"):
        read_frames(path)
    write_frames(path, [(WATER.numbers, WATER.positions)], name=np.array(["a", "b"]))
    with pytest.raises(InputError, match="`name` has 2 entries"):
        read_frames(path)


def test_names_may_belong_to_frames_or_to_start_structures(tmp_path):
    two = [(WATER.numbers, WATER.positions)] * 2
    each = read_frames(write_frames(tmp_path / "a.npz", two, name=np.array(["a", "b"])))
    assert each.names == ("a", "b") and each.trajectory.tolist() == [-1, -1] and np.isnan(each.time_ps).all()
    starts = write_frames(tmp_path / "b.npz", two, name=np.array(["a", "b", "c"]), start=np.array([2, 0]))
    assert read_frames(starts).names == ("c", "a")


def test_elements_without_a_level_are_named(tmp_path):
    frames = write_frames(tmp_path / "frames.npz", [([53, 1], [[0, 0, 0], [0, 0, 1.6]])])
    with pytest.raises(InputError) as caught:
        label(tmp_path, frames)
    assert "element I" in one_line(caught) and "dispersion" in one_line(caught)
    with pytest.raises(InputError, match=r"element Og.*no basis"):
        basis_sizes([118], LEVEL)


def test_command_line(tmp_path, stand_in, capsys):
    frames = stand_in_frames(tmp_path / "frames.npz", [WELL])
    (tmp_path / "run.yaml").write_text(f"frames: {frames}\nlevel: {LEVEL}\nbackend: cpu\n")
    assert main_spot_check([str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out"), "--workers", "2"]) == 0
    assert "converged by plain DIIS: 100.0 %" in capsys.readouterr().out
    assert (tmp_path / "out" / "labels.npz").exists()
    with pytest.raises(InputError, match="workers"):
        main_spot_check([str(tmp_path / "run.yaml"), "--workers", "0"])
    (tmp_path / "run.yaml").write_text("frames: [\n")
    with pytest.raises(InputError, match="not valid YAML"):
        main_spot_check([str(tmp_path / "run.yaml")])
    with pytest.raises(InputError, match="cannot read"):
        main_spot_check([str(tmp_path / "none.yaml")])
