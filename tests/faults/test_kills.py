"""Fifty kills at random times, ten in each stage: what was declared is never half there, and a restart ends the same.

Delays are drawn by seed and spread over the time of an undisturbed run, or over what follows a write: kills fall on the
reading, the work, the writing of state and of outputs. A killed job is started again with the same state until it ends.
"""

import shutil
import time
from contextlib import suppress

import numpy as np
import pytest
from stages import STAGES, data_of, run

from mlip_studies.artifacts import is_intact

KILLS = 10


def start(processes, stage, inputs, out, **options):
    process = processes.Process(target=run, args=(stage, inputs, out), kwargs=options)
    process.start()
    return process


def finished(process, out):
    process.join(120)
    assert process.exitcode == 0, out.with_name(out.name + ".log").read_text()[-2000:]


def newest(out):
    """When something was last written below a folder, ns; 0 where nothing is."""
    times = [0]
    for path in out.rglob("*"):
        # Temporary files come and go.
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def wait_for_write(process, out):
    """Wait until a job writes something, or ends."""
    before = newest(out)
    while process.exitcode is None and newest(out) == before:
        time.sleep(0.002)


@pytest.mark.parametrize("stage", STAGES)
def test_ten_kills(processes, tmp_path, stage):
    prepare, _, outputs = STAGES[stage]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    prepare(inputs)
    finished(start(processes, stage, inputs, tmp_path / "warm"), tmp_path / "warm")
    began = time.monotonic()
    finished(start(processes, stage, inputs, tmp_path / "whole"), tmp_path / "whole")
    duration = time.monotonic() - began
    expected = {name: data_of(tmp_path / "whole" / name) for name in outputs}
    assert {name: data_of(tmp_path / "warm" / name) for name in outputs} == expected

    rng = np.random.default_rng(20)
    kills, lives, in_the_middle = 0, 0, 0
    while kills < KILLS:
        out = tmp_path / f"life{lives}"
        lives += 1
        ended = False
        while not ended:
            process = start(processes, stage, inputs, out)
            if kills < KILLS:
                # Every second delay counts from a write: on some machines most of the time is start-up.
                share = float(rng.uniform(0.0, 1.0))
                if kills % 2:
                    wait_for_write(process, out)
                    share *= 0.3
                process.join(share * duration)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                    kills += 1
                    in_the_middle += out.exists() and any(out.rglob("*"))
                    # Whatever has its declared name is whole.
                    for name in outputs:
                        if (out / name).exists():
                            assert is_intact(out / name)
                            assert data_of(out / name) == expected[name], name
                    continue
            finished(process, out)
            ended = True
        assert {name: data_of(out / name) for name in outputs} == expected
        # Nothing is left of those that were killed.
        left = [path.name for path in out.rglob("*") if path.is_file() and path.parent.name != ".sha256"]
        assert sorted(left) == sorted(outputs)
        assert not [path for path in (out / ".sha256").iterdir() if path.name not in outputs]
        assert lives < 60
        shutil.rmtree(out)
    print(f"{stage}: {kills} kills, {in_the_middle} after the first write, {lives} lives, {duration:.2f} s undisturbed")
    assert in_the_middle >= 3
