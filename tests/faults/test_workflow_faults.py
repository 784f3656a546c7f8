"""Faults that go through the workflow: a damaged store is rebuilt alone, and two runs of Snakemake in one folder."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_damage import flip

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location(
    "integration_workflow", ROOT / "tests" / "integration" / "test_workflow.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
snakemake = _MODULE.snakemake

SPLIT = "results/mini/data/md17_ethanol_mini/splits/ethanol.npz"
STORE = "results/mini/data/md17_ethanol_mini/store.h5"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in which one store and one split were made."""
    folder = _MODULE.copy_checkout(tmp_path_factory.mktemp("checkout"))
    snakemake(folder, SPLIT)
    return folder


def verify(folder):
    done = subprocess.run(
        [sys.executable, "-m", "mlip_studies", "verify"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder / "workflow" / "src")}, timeout=300,
    )  # fmt: skip
    assert done.stderr == ""
    return done


def test_a_damaged_store_is_rebuilt_alone(checkout):
    """What was made from it is spared when it comes out the same, byte by byte."""
    whole = (checkout / STORE).read_bytes()
    flip(checkout / STORE, 0.4)
    first = verify(checkout)
    assert first.returncode == 1 and f"snakemake {STORE}" in first.stdout and not (checkout / STORE).exists()
    snakemake(checkout, STORE)
    assert (checkout / STORE).read_bytes() == whole
    second = verify(checkout)
    assert second.returncode == 0 and f"{STORE}: rebuilt with the same content" in second.stdout
    assert _MODULE.planned(checkout, SPLIT, config=()) == {}


def test_two_runs_in_one_folder(checkout):
    """The second one stops with a word about the lock and what to do; the first one ends well."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--force", SPLIT]
    first = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 120
    while not list((checkout / ".snakemake" / "locks").glob("*")):
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)
    try:
        # Forced: where nothing is to be done, no lock is asked for.
        second = snakemake(checkout, "--force", SPLIT, check=False)
        assert second.returncode == 1
        text = second.stdout + second.stderr
        assert "Traceback" not in text
        assert [line for line in text.splitlines() if line.startswith("LockException")] == ["LockException:"]
        assert "cannot be locked" in text and "--unlock" in text
    finally:
        first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output[-3000:]
    assert (checkout / SPLIT).exists()
