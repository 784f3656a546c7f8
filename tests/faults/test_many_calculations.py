"""Five thousand calculations in one job that is killed: flat memory, linear time; and two writers of one state."""

import json
import os
import signal
import time

import numpy as np
import pytest
import stages
from stages import STAGES, data_of, run
from test_kills import finished, start

N = 5_000
FAST = stages.STAND_IN.replace("time.sleep(0.004)", "pass")


def resident_mb(pid):
    with open(f"/proc/{pid}/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_for(condition, process, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.exitcode is None and time.monotonic() < end, "the job ended early or hangs"
        time.sleep(0.02)


def test_five_thousand_calculations(processes, tmp_path):
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    (inputs / "stand_in_for_calculations.py").write_text(FAST)
    stages.write_frames(inputs, N)

    def done():
        return sum(path.read_bytes().count(b"\n") for path in out.glob(".state/*/rows.jsonl"))

    began = time.monotonic()
    process = start(processes, "dft", inputs, out)
    wait_for(lambda: done() >= 500, process)
    first_500, memory_500 = time.monotonic() - began, resident_mb(process.pid)
    wait_for(lambda: done() >= 3_000, process)
    by_3000, memory_3000 = time.monotonic() - began, resident_mb(process.pid)
    process.kill()
    process.join()
    kept = done()
    assert not (out / "labels.csv").exists() and not (out / "labels.npz").exists()

    began = time.monotonic()
    process = start(processes, "dft", inputs, out)
    wait_for(lambda: process.exitcode is not None or done() > kept, process)
    again = time.monotonic() - began
    finished(process, out)
    log = (tmp_path / "out.log").read_text()
    # The last line may have been cut off by the kill.
    went_on = int(log.split("going on, ")[1].split(" of")[0])
    assert kept - 1 <= went_on <= kept
    labels = np.load(out / "labels.npz")
    positions = np.load(inputs / "frames.npz")["positions"].reshape(N, 3, 3)
    expected = (positions**2).sum(axis=(1, 2))
    assert np.allclose(labels["energy_ev"] / labels["energy_ev"][0], expected / expected[0], rtol=1e-12)
    assert not (out / ".state").exists() or not list((out / ".state").iterdir())
    print(
        f"500 in {first_500:.1f} s at {memory_500:.0f} MB, 3000 in {by_3000:.1f} s at {memory_3000:.0f} MB; "
        f"going on took {again:.1f} s, {kept} rows kept"
    )
    # A finished row costs some kB (as a line and in memory), whatever the number before it.
    assert memory_3000 - memory_500 < 40
    assert by_3000 < 12 * first_500
    assert again < by_3000


@pytest.mark.parametrize("stage", ["training", "dynamics", "dft"])
def test_two_writers_of_one_state(processes, tmp_path, stage):
    """The second one stops with one line while the first one lives, also while it is suspended."""
    prepare, _, outputs = STAGES[stage]
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    prepare(inputs)
    finished(start(processes, stage, inputs, tmp_path / "whole"), tmp_path / "whole")
    first = start(processes, stage, inputs, out)
    wait_for(lambda: list(out.glob(".state/*/lease.json")), first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        (lease,) = out.glob(".state/*/lease.json")
        assert json.loads(lease.read_text())["pid"] == first.pid
        second = processes.Process(target=run, args=(stage, inputs, out))
        second.start()
        second.join(120)
        assert second.exitcode == 1
    finally:
        os.kill(first.pid, signal.SIGCONT)
    finished(first, out)
    lines = [line for line in (tmp_path / "out.log").read_text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "is writing here" in lines[0] and "wait for it or cancel it" in lines[0]
    assert {name: data_of(out / name) for name in outputs} == {
        name: data_of(tmp_path / "whole" / name) for name in outputs
    }
