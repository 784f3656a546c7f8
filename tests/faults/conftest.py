"""Shared by the fault tests: processes that start fast and can be killed, and small disks."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# The writers of published layouts, molecules and configurations of the unit tests are used here, too.
for folder in (HERE, ROOT / "tests" / "unit"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def tmp_path():
    """A folder in memory, where there is one: these jobs flush every few bytes, which takes most of the time."""
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 30 else None
    folder = Path(tempfile.mkdtemp(prefix="mlip-faults-", dir=where))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def processes():
    """A context whose processes are forked from one that has imported everything, as jobs of their own."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE), str(ROOT / "tests" / "unit"), str(ROOT / "workflow" / "src"), os.environ.get("PYTHONPATH", "")]
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages"])
    return context


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts an empty file system of some KiB and returns its folder; needs root."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a small file system here (not root)")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
