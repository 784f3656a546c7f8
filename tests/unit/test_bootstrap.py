"""The guard against CUDA packages, the locks, and the refusals of envs/bootstrap.sh."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


check_resolution = _load(ROOT / "envs" / "check_resolution.py")
check_runs = _load(ROOT / "tests" / "slurm" / "check_runs.py")


def _report(*packages: tuple[str, str]) -> dict:
    return {"install": [{"metadata": {"name": name, "version": version}} for name, version in packages]}


CPU = _report(("torch", "2.13.0+cpu"), ("sympy", "1.14.0"))
CUDA = _report(
    ("torch", "2.13.0"), ("nvidia_cublas", "13.1"), ("triton", "3.7.1"), ("cuda-toolkit", "13.0"), ("sympy", "1")
)


def _lock(name: str) -> dict[str, str]:
    lines = (ROOT / "envs" / f"requirements-{name}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^\s=;]+", pin) for pin in pins), [p for p in pins if "==" not in p]
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    return dict(pin.split("==") for pin in pins)


def test_cuda_packages_are_refused_without_a_gpu():
    reason = check_resolution.refusal(CUDA, gpu=False)
    assert reason is not None
    assert "\n" not in reason
    assert "3 CUDA packages" in reason
    assert "nvidia-cublas" in reason
    assert "TORCH_INDEX" in reason


def test_cuda_packages_pass_with_a_gpu_and_cpu_builds_pass_without():
    assert check_resolution.refusal(CUDA, gpu=True) is None
    assert check_resolution.refusal(CPU, gpu=False) is None


@pytest.mark.parametrize("name", ["Nvidia.cudnn_cu13", "pytorch-triton-rocm", "cuda_bindings"])
def test_names_are_normalized_before_they_are_judged(name):
    assert check_resolution.cuda_packages([name, "barracuda", "tritonclient"]) == [name]


def test_guard_as_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_resolution, "has_gpu", lambda: False)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(CPU))
    assert check_resolution.main([str(path)]) == 0
    assert capsys.readouterr().out.strip() == "2.13.0+cpu"
    path.write_text(json.dumps(CUDA))
    assert check_resolution.main([str(path)]) == 3
    path.write_text("{}")
    assert check_resolution.main([str(path)]) == 2
    assert "pip" in capsys.readouterr().err


def test_gpu_is_seen_by_its_device_node(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    node = tmp_path / "nvidia0"
    assert not check_resolution.has_gpu(node)
    node.touch()
    assert check_resolution.has_gpu(node)


def test_locks_are_complete_pins_and_agree():
    cpu, gpu = _lock("cpu"), _lock("gpu")
    assert cpu["torch"] == gpu["torch"] == "2.13.0"
    assert cpu.items() <= gpu.items()
    only_gpu = set(gpu) - set(cpu)
    assert only_gpu == set(check_resolution.cuda_packages(only_gpu))
    assert not check_resolution.cuda_packages(cpu)


def test_lock_for_published_potentials_departs_from_the_cpu_lock_only_where_it_must():
    cpu, pretrained = _lock("cpu"), _lock("pretrained")
    assert set(cpu) <= set(pretrained)
    different = {name for name, version in cpu.items() if pretrained[name] != version}
    assert different == {"e3nn", "filelock", "huggingface-hub", "python-dateutil", "rich"}
    assert pretrained["e3nn"] == "0.4.4"
    assert not check_resolution.cuda_packages(pretrained)


@pytest.mark.parametrize(("name", "extras"), [("cpu", ["test"]), ("pretrained", ["test", "pretrained"])])
def test_every_dependency_of_the_project_is_in_the_lock(name, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [item for extra in extras for item in project["optional-dependencies"][extra]]
    names = {check_resolution.normalize(re.split(r"[<>=]", item)[0]) for item in wanted}
    assert names <= set(_lock(name))


@pytest.mark.parametrize("name", ["core", "dft", "pretrained"])
def test_conda_environments_follow_the_lock(name):
    lock = _lock("pretrained" if name == "pretrained" else "cpu")
    content = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    pins = []
    for item in content["dependencies"]:
        pins += item["pip"] if isinstance(item, dict) else [item]
    checked = 0
    for pin in pins:
        match = re.fullmatch(r"([A-Za-z0-9-]+) ?==?([0-9.]+)", pin)
        package = match and match[1].replace("matplotlib-base", "matplotlib")
        if match and package in lock:
            assert f"{lock[package]}.".startswith(f"{match[2]}."), pin
            checked += 1
    assert checked >= 5


def _bootstrap(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a copy that has the locks but no package, so that nothing real can be touched."""
    (tmp_path / "envs").mkdir()
    locks = ("requirements-cpu.txt", "requirements-pretrained.txt", "requirements-scatter.txt")
    for name in ("bootstrap.sh", "check_resolution.py", *locks):
        shutil.copy(ROOT / "envs" / name, tmp_path / "envs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {**os.environ, "VENV": ".venv", "PYTHON": sys.executable, "LOCK": "cpu", **settings}
    return subprocess.run(
        ["bash", "envs/bootstrap.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )


def _one_error_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_unknown_lock_is_one_line(tmp_path):
    assert "LOCK must be cpu, gpu or pretrained" in _one_error_line(_bootstrap(tmp_path, LOCK="tpu"))


def test_missing_interpreter_names_the_package(tmp_path):
    assert "apt-get install python3 python3-venv" in _one_error_line(_bootstrap(tmp_path, PYTHON="no-such-python"))


def test_old_interpreter_is_one_line(tmp_path):
    old = tmp_path / "python-old"
    # Answers every question about its version with "too old".
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    line = _one_error_line(_bootstrap(tmp_path, PYTHON=str(old)))
    assert "Python 3.9.2" in line
    assert ">= 3.11" in line


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    precious = tmp_path / "data"
    precious.mkdir()
    (precious / "keep.txt").write_text("keep")
    assert "not a virtual environment" in _one_error_line(_bootstrap(tmp_path, VENV=str(precious)))
    assert (precious / "keep.txt").read_text() == "keep"


def test_published_potentials_have_an_environment_of_their_own(tmp_path):
    # A file in its place stops the script before anything is made, and shows where it would have been.
    (tmp_path / ".venv-pretrained").touch()
    assert f"{tmp_path}/.venv-pretrained exists" in _one_error_line(_bootstrap(tmp_path, LOCK="pretrained", VENV=""))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (
            "LOCK=pretrained",
            "LOCK=pretrained VENV=.venv-pretrained TORCH_INDEX=https://download.pytorch.org/whl/cpu SCATTER=0",
        ),
        ("LOCK=pretrained VENV=other", "LOCK=pretrained VENV=other"),
        ("LOCK=cpu", "LOCK=cpu VENV=.venv TORCH_INDEX=https://download.pytorch.org/whl/cpu SCATTER=1"),
        ("LOCK=gpu", "LOCK=gpu VENV=.venv TORCH_INDEX= SCATTER=1"),
    ],
)
def test_settings_that_follow_from_the_lock(words, settings):
    # These may come from a `make test` around this one.
    own = ("LOCK", "VENV", "SCATTER", "TORCH_INDEX", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    result = subprocess.run(["make", "help", *words.split()], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert settings in result.stdout, result.stderr


def test_run_records_of_the_slurm_test(tmp_path):
    for seed, devices in enumerate(["0", "1"]):
        (tmp_path / f"seed{seed}").mkdir()
        record = {"environment": {"cuda_visible_devices": devices}, "resumed_from_step": 40 * seed}
        (tmp_path / f"seed{seed}" / "run.json").write_text(json.dumps(record))
    (tmp_path / "seed0" / ".sha256").mkdir()
    (tmp_path / "seed0" / ".sha256" / "run.json").write_text("0123 not JSON")
    assert "2 training jobs" in check_runs.devices(tmp_path, 2)
    with pytest.raises(ValueError, match="expected 3"):
        check_runs.devices(tmp_path, 3)
    assert "step 40" in check_runs.resumed(tmp_path / "seed1" / "run.json")
    with pytest.raises(ValueError, match="is 0"):
        check_runs.resumed(tmp_path / "seed0" / "run.json")
    (tmp_path / "seed1" / "run.json").write_text(json.dumps({"environment": {"cuda_visible_devices": None}}))
    with pytest.raises(ValueError, match="seed1"):
        check_runs.devices(tmp_path, 2)


def test_profile_is_found_by_name_and_holds_the_only_retries():
    assert (ROOT / "slurm").is_symlink()
    profile = yaml.safe_load((ROOT / "slurm" / "profile.yaml").read_text())
    assert profile["executor"] == "slurm"
    assert profile["retries"] == 2
    assert profile["rerun-incomplete"] is True
    assert "slurm-status-command" not in profile
    assert "slurm_partition" not in profile["default-resources"]
    for rules in (ROOT / "workflow" / "rules").rglob("*.smk"):
        text = rules.read_text()
        assert "slurm_partition" not in text, rules
