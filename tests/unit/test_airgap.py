"""A compute site without internet: the workflow in a network namespace with no way out, and a folder as mirror."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from mlip_studies.artifacts import is_intact, sha256_of

ROOT = Path(__file__).parents[2]
#: a file that ships with the project, made downloadable in the test's copy of the configuration
NAME, DATASET = "SPICE-mini.hdf5", "spice_mini"
#: a published file, where the published data are at hand
PUBLISHED, PUBLISHED_DATASET = "ethanol_ccsd_t-train.npz", "ethanol_ccsd_t"


@cache
def cut_off():
    """Words before a command that take its network away, or None where that is not allowed."""
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return None


@pytest.fixture
def folder(tmp_path):
    """A checkout without results, whose mini SPICE has to be downloaded."""
    if cut_off() is None:
        pytest.skip("unshare --net is not allowed here (root or user namespaces are needed)")
    for name in ("Snakefile", "workflow", "resources", "envs", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    path = tmp_path / "config" / "datasets.yaml"
    text = path.read_text()
    shipped = f"      path: resources/spice-mini/{NAME}\n      urls: []\n"
    assert text.count(shipped) == 1
    path.write_text(text.replace(shipped, f'      urls: ["https://data.invalid/{NAME}"]\n'))
    return tmp_path


def run_without_network(folder, target, *config):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        environment.pop(name, None)
        environment.pop(name.upper(), None)
    command = [*cut_off(), sys.executable, "-m", "snakemake", "--cores", "1", target]
    # One study is read faster than five.
    return subprocess.run(
        [*command, "--config", "studies=[krcelic]", *config],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def mirror_of(folder, *sources):
    """A folder in which the files lie somewhere."""
    for source in sources:
        target = folder / "mirror" / "some" / "where" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return folder / "mirror"


def entry_of(folder, dataset):
    return yaml.safe_load((folder / "config" / "datasets.yaml").read_text())[dataset]


def test_store_is_made_from_a_mirror_alone(folder):
    mirror = mirror_of(folder, ROOT / "resources" / "spice-mini" / NAME)
    done = run_without_network(folder, f"results/mini/data/{DATASET}/summary.json", f"mirror={mirror}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    raw = folder / "results" / "mini" / "data" / "raw" / NAME
    assert sha256_of(raw) == entry_of(folder, DATASET)["files"][0]["sha256"]
    assert is_intact(folder / "results" / "mini" / "data" / DATASET / "store.h5")
    # The mirror was read only.
    assert [path.name for path in mirror.rglob("*") if path.is_file()] == [NAME]


def test_published_file_comes_from_a_mirror(folder, reference_data):
    source = reference_data / "md17" / PUBLISHED
    if not source.is_file():
        pytest.skip(f"{PUBLISHED} is not among the published data at hand")
    mirror = mirror_of(folder, source)
    done = run_without_network(folder, f"results/mini/data/{PUBLISHED_DATASET}/store.h5", f"mirror={mirror}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    raw = folder / "results" / "mini" / "data" / "raw" / PUBLISHED
    assert sha256_of(raw) == entry_of(folder, PUBLISHED_DATASET)["files"][0]["sha256"]


def test_without_mirror_one_line_says_what_to_do(folder):
    done = run_without_network(folder, f"results/mini/data/raw/{NAME}")
    assert done.returncode != 0
    lines = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert len(lines) == 1, lines
    (line,) = lines
    assert NAME in line
    assert f"https://data.invalid/{NAME}" in line
    assert "set `mirror` to a folder or URL that has it" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "results" / "mini" / "data" / "raw" / NAME).exists()


def test_mirror_that_is_not_there_is_one_line_before_any_job(folder):
    done = run_without_network(folder, f"results/mini/data/raw/{NAME}", "mirror=nowhere")
    assert done.returncode != 0
    assert "config/config.yaml: key 'mirror': no folder nowhere; name the one that holds the data files" in done.stderr
    assert "localrule fetch" not in done.stdout + done.stderr
