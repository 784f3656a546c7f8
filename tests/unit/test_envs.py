"""Conda files against the locks and pyproject.toml, and the definition of the container, without building either."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from mlip_studies.codehash import module_path, reachable_modules

ROOT = Path(__file__).parents[2]
ENVS = ROOT / "envs"
LOCK_OF = {"core": "cpu", "dft": "cpu", "pretrained": "pretrained"}
#: name on conda-forge -> name of the distribution in the lock
CONDA_NAMES = {"matplotlib-base": "matplotlib", "tblite-python": "tblite"}
#: dependencies that no rule's environment needs: they start the rules
OUTSIDE = {"snakemake", "snakemake-executor-plugin-slurm"}
#: imported name -> name of the distribution
DISTRIBUTIONS = {"yaml": "pyyaml", "lightning_fabric": "lightning-fabric", "torch_sim": "torch-sim-atomistic"}
SECTIONS = ("arguments", "files", "post", "environment", "test", "help", "labels")


def normalize(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(name):
    lines = (ENVS / f"requirements-{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def conda(name):
    """Version by distribution, of both kinds of entries, without python and pip."""
    content = yaml.safe_load((ENVS / f"{name}.yaml").read_text())
    assert set(content) == {"channels", "dependencies"}
    assert content["channels"] == ["conda-forge", "nodefaults"]
    versions = {}
    for item in content["dependencies"]:
        if isinstance(item, dict):
            assert set(item) == {"pip"}
            pairs = [re.fullmatch(r"([A-Za-z0-9-]+)==([0-9.]+)", entry) for entry in item["pip"]]
            assert all(pairs), item["pip"]
        elif item == "pip" or item.startswith("python "):
            continue
        else:
            pairs = [re.fullmatch(r"([a-z0-9-]+) =([0-9]+(?:\.[0-9]+)*)", item)]
            assert all(pairs), item
        for pair in pairs:
            distribution = normalize(CONDA_NAMES.get(pair[1], pair[1]))
            assert distribution not in versions, f"{distribution} is named twice"
            versions[distribution] = pair[2]
    return versions


@pytest.mark.parametrize("name", LOCK_OF)
def test_every_version_is_that_of_the_lock(name):
    pins = lock(LOCK_OF[name])
    versions = conda(name)
    assert len(versions) > 8
    for distribution, version in versions.items():
        assert distribution in pins, f"{distribution} is not in the lock"
        assert f"{pins[distribution]}.".startswith(f"{version}."), (
            f"{distribution}: {version}, lock {pins[distribution]}"
        )


@pytest.mark.parametrize("name", LOCK_OF)
def test_python_is_what_the_project_supports(name):
    entries = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
    (python,) = [entry for entry in entries if isinstance(entry, str) and entry.startswith("python ")]
    least = project()["requires-python"].removeprefix(">=")
    assert python == f"python >={least},<3.13"
    # pip has to be asked for where it is used.
    assert "pip" in entries


@pytest.mark.parametrize("name", ["core", "pretrained"])
def test_no_dependency_of_the_project_is_missing(name):
    wanted = {normalize(re.match(r"[A-Za-z0-9._-]+", entry)[0]) for entry in project()["dependencies"]}
    if name == "pretrained":
        wanted |= {
            normalize(re.match(r"[A-Za-z0-9._-]+", e)[0]) for e in project()["optional-dependencies"]["pretrained"]
        }
    versions = conda(name)
    assert wanted - OUTSIDE <= set(versions)
    assert not OUTSIDE & set(versions)


def test_reference_calculations_find_what_they_import():
    """The smaller environment, against the imports of the modules that its rules run."""
    rules = (ROOT / "workflow" / "rules" / "mini_data.smk").read_text()
    assert "envs/dft.yaml" in rules
    assert "envs/core.yaml" not in rules
    package = ROOT / "workflow" / "src" / "mlip_studies"
    entries = [f"mlip_studies.mini_data.{path.stem}" for path in (package / "mini_data").glob("[a-z]*.py")]
    assert len(entries) > 3
    imported = set()
    for module in reachable_modules(*entries):
        for node in ast.parse(module_path(module).read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0] for name in names}
    foreign = imported - set(sys.stdlib_module_names) - {"mlip_studies"}
    assert {"numpy", "h5py"} <= foreign
    assert {normalize(DISTRIBUTIONS.get(name, name)) for name in foreign} <= set(conda("dft"))


@pytest.mark.parametrize("name", LOCK_OF)
def test_files_say_that_they_are_untested(name):
    assert "# Untested: " in (ENVS / f"{name}.yaml").read_text()


def test_rules_name_only_environments_that_are_there():
    named = set()
    for path in (ROOT / "workflow" / "rules").rglob("*.smk"):
        for file in re.findall(r'"((?:\.\./)+envs/[a-z]+\.yaml)"', path.read_text()):
            assert (path.parent / file).resolve().parent == ENVS, f"{path.name}: {file}"
            assert (path.parent / file).is_file(), f"{path.name}: {file}"
            named.add(Path(file).stem)
    assert named == {"core", "dft"}


# ---- container -------------------------------------------------------------------------------------------------------


def definition():
    """Header and sections of envs/apptainer.def."""
    text = (ENVS / "apptainer.def").read_text()
    header, *rest = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    assert len(sections) == len(rest) // 2, "a section is there twice"
    return header, sections


def test_container_definition_has_its_sections():
    header, sections = definition()
    assert tuple(sections) == SECTIONS
    lines = [line for line in header.splitlines() if line and not line.startswith("#")]
    assert [line.split(":")[0] for line in lines] == ["Bootstrap", "From"]
    assert "Never built or run" in header
    base = lines[1].partition(": ")[2]
    version = tuple(int(number) for number in re.search(r"python:(\d+)\.(\d+)", base).groups())
    assert version >= tuple(int(n) for n in project()["requires-python"].removeprefix(">=").split("."))


def test_container_definition_copies_the_locks_that_it_installs():
    _, sections = definition()
    copied = {}
    for line in sections["files"].split("\n"):
        if line.strip():
            source, target = line.split()
            assert (ROOT / source).is_file(), source
            copied[target] = source
    arguments = dict(line.strip().split("=", 1) for line in sections["arguments"].splitlines() if line.strip())
    assert f"/opt/mlip-studies/requirements-{arguments['LOCK']}.txt" in copied
    # Every lock that the argument can choose is in the image.
    chosen = {path.name for path in ENVS.glob("requirements-*.txt")} - {"requirements-scatter.txt"}
    assert {Path(source).name for source in copied.values()} == chosen
    used = set(re.findall(r"\{\{ (\w+) \}\}", sections["post"]))
    assert used == set(arguments)
    assert "/opt/mlip-studies/requirements-{{ LOCK }}.txt" in sections["post"]
    # The same index for torch as `make env`.
    assert arguments["TORCH_INDEX"] in (ENVS / "bootstrap.sh").read_text()


def test_container_definition_is_shell():
    _, sections = definition()
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    for name in ("post", "environment", "test"):
        text = re.sub(r"\{\{ (\w+) \}\}", r"\1", sections[name])
        assert len(text.splitlines()) >= 3
        done = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"%{name}: {done.stderr}"


def test_imports_of_the_container_test_work_here_too():
    """A name that cannot be imported from the lock's packages would fail every build."""
    _, sections = definition()
    code = re.search(r'python -c "import (torch, [^;]+);', sections["test"])[1]
    names = [name.strip() for name in code.split(",")]
    assert len(names) > 4
    pins = lock("cpu")
    for name in names:
        assert normalize(DISTRIBUTIONS.get(name, name)) in pins, name
