"""Runs of a study from lists of settings, and the products of the studies that list them."""

import ast
import importlib.util
from pathlib import Path

import pytest

from mlip_studies.config import SCALES, load_models, load_study, read_yaml
from mlip_studies.data.extend_store import FrameSelection
from mlip_studies.dft.spot_check import SpotCheckConfig
from mlip_studies.errors import InputError
from mlip_studies.md.engine import MDConfig
from mlip_studies.md.robustness import RobustnessConfig
from mlip_studies.run_names import AXES, parse_run_name, run_name
from mlip_studies.runtime.options import read_options
from mlip_studies.studies.hedelius_products import PRODUCTS as HEDELIUS
from mlip_studies.studies.pavlovic_products import PRODUCTS as PAVLOVIC
from mlip_studies.studies.products import product_inputs
from mlip_studies.studies.runs import expand_runs, lookup_run, run_configuration
from mlip_studies.studies.stocker_products import PRODUCTS as STOCKER
from mlip_studies.training.run import RunConfig

STUDIES = {"pavlovic": PAVLOVIC, "stocker": STOCKER, "hedelius": HEDELIUS}
ROOT = Path(__file__).parents[2]
PUBLISHED = dict.fromkeys(read_yaml(ROOT / "config" / "pretrained.yaml"), True)
NUMBERS = {
    "seeds": [0, 1, 2],
    "data": {"a": {"dataset": "set_a", "split": "s", "fidelity": "dft", "force_fidelity": "other"}},
    "training": {"max_steps": 100},
    "groups": {
        "grid": {"data": "a", "network": "net", "shift": ["mean", "none"], "beta": [0.99, 1.0], "n_seeds": 1},
        "sure": {"data": ["a"], "network": "net", "shift": "none", "beta": 1.0, "demo": True},
        "other": {"data": "a", "network": "net", "shift": "none", "train_size": [10], "training": {"max_steps": 7}},
    },
}
NETWORKS = {
    "net": {
        "model": "so3krates",
        "options": {},
        "training": {"recipe": "so3krates"},
        "trained": {"options": {"n_layers": 2, "n_features": 48}, "training": {"recipe": "so3krates", "batch_size": 4}},
    }
}


def changed(**groups):
    return {**NUMBERS, "groups": {**NUMBERS["groups"], **groups}}


def test_names_say_what_a_run_is():
    assert run_name({"data": "a", "network": "net", "shift": "mean"}) == "a-net-mean"
    values = {"data": "a", "network": "net", "shift": "mean", "beta": 1.0, "n_layers": 2, "train_size": 1000}
    assert run_name(values) == "a-net-mean-b1-l2-n1000"
    assert run_name({**values, "beta": 0.99}) == "a-net-mean-b0.99-l2-n1000"
    assert run_name({**values, "max_steps": 200_000}) == "a-net-mean-b1-l2-s200000-n1000"
    for run in expand_runs(
        "x", changed(long={"data": "a", "network": "net", "shift": "mean", "max_steps": 9})
    ).values():
        parsed = parse_run_name(run.name)
        assert {axis: getattr(parsed, axis) for axis in AXES} == {axis: getattr(run, axis) for axis in AXES}
    weighted = {"data": "a", "network": "net", "shift": "none", "scale": "std", "energy_weight": 1e-6, "clip_norm": 0.0}
    name = run_name({**weighted, "learning_rate": 1e-5})
    assert name == "a-net-none-std-w0.000001-c0-r0.00001"
    assert parse_run_name(name).energy_weight == 1e-6 and parse_run_name(name).learning_rate == 1e-5
    assert parse_run_name("a") is None and parse_run_name("a-net-mean-x3") is None


def test_a_decay_is_stretched_with_the_steps():
    group = {"data": "a", "network": "net", "shift": "mean", "max_steps": 400}
    runs = expand_runs("x", changed(long={**group, "training": {"schedule": {"steps": 25}}}))
    config = run_configuration(runs["a-net-mean-s400"], 0, NUMBERS["data"]["a"], NETWORKS, "D")
    assert config["training"]["max_steps"] == 400 and config["training"]["schedule"]["steps"] == 100


def test_groups_are_products_and_share_runs():
    runs = expand_runs("x", NUMBERS)
    assert set(runs) == {
        "a-net-mean-b0.99", "a-net-mean-b1", "a-net-none-b0.99", "a-net-none-b1", "a-net-none-n10",
    }  # fmt: skip
    shared = runs["a-net-none-b1"]
    assert shared.groups == ("grid", "sure") and shared.seeds == (0, 1, 2) and shared.demo
    assert runs["a-net-none-b0.99"].seeds == (0,) and not runs["a-net-none-b0.99"].demo
    assert runs["a-net-none-n10"].training == {"max_steps": 7}


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"data": "b", "network": "net", "shift": "none"}, "groups.new': 'b' is none of the study's data; known: a"),
        (
            {"data": "a", "network": "net", "shift": "none", "beta": 1.0, "training": {"max_steps": 3}},
            "run a-net-none-b1 is trained in another way in group grid",
        ),
        (
            {"data": "a", "network": "net", "shift": "none", "beta": 1.0, "paper_network": True},
            "run a-net-none-b1 is trained in another way in group grid",
        ),
    ],
)
def test_wrong_groups_are_one_line(group, message):
    with pytest.raises(InputError) as caught:
        expand_runs("x", changed(new=group))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_configuration_is_what_training_reads():
    runs = expand_runs("x", changed(big={"data": "a", "network": "net", "shift": "per_element", "paper_network": True}))
    small = run_configuration(runs["a-net-none-b1"], 3, NUMBERS["data"]["a"], NETWORKS, "D", budget=0.5)
    assert small["store"] == "D/set_a/store.h5" and small["split"] == "D/set_a/splits/s.npz"
    assert small["force_fidelity"] == "other" and small["seed"] == 3 and "self_energies" not in small
    config = RunConfig.from_dict(small)
    assert config.training.max_steps == 50 and config.training.batch_size == 4
    assert config.training.loss.beta == 1.0 and config.model.options["n_features"] == 48
    paper = run_configuration(runs["a-net-per_element"], 0, NUMBERS["data"]["a"], NETWORKS, "D")
    assert paper["self_energies"] == "D/set_a/splits/s.self_energies.json"
    assert paper["model"]["options"] == {} and RunConfig.from_dict(paper).training.batch_size == "auto"
    layers = expand_runs("x", changed(l={"data": "a", "network": "net", "shift": "none", "n_layers": 5}))
    deep = run_configuration(layers["a-net-none-l5"], 0, NUMBERS["data"]["a"], NETWORKS, "D")
    assert deep["model"]["options"]["n_layers"] == 5


def test_unknown_runs_and_networks_are_one_line():
    runs = expand_runs("x", NUMBERS)
    with pytest.raises(InputError, match="study x has no run b; it has a-net"):
        lookup_run("x", runs, "b")
    with pytest.raises(InputError, match="'net' is no network"):
        run_configuration(runs["a-net-none-b1"], 0, NUMBERS["data"]["a"], {}, "D")


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_run_of_a_study_is_a_valid_training(study, scale):
    numbers, _ = load_study(ROOT, study, scale)
    networks = load_models(ROOT, scale)["networks"]
    runs = expand_runs(study, numbers)
    for run in runs.values():
        RunConfig.from_dict(run_configuration(run, 0, numbers["data"][run.data], networks, "D", study_folder="S"))
    simulated = {entry["run"] for job in numbers["md"].values() for entry in job["runs"]}
    assert simulated <= {*runs, *PUBLISHED}
    numbers["published"] = PUBLISHED
    for product in STUDIES[study].values():
        names = product.run_names(runs)
        others = ("md", "shift_check", "starts", "active", "charged_particles", "files")
        assert names or any(getattr(product, name) for name in others)
        if product.demo:
            assert all(runs[name].demo for name in names)
            assert all(runs[name].demo for _, name in product.simulations(study, numbers, runs))
        inputs = product_inputs(product, study, numbers, runs, "S", "D")
        assert inputs and len(inputs) == len(set(inputs))


def test_the_experiment_that_explains_the_energies_has_every_combination():
    for scale in SCALES:
        runs = expand_runs("pavlovic", load_study(ROOT, "pavlovic", scale)[0])
        assert sum("slope" in run.groups for run in runs.values()) == 12


@pytest.mark.parametrize("scale", SCALES)
def test_dynamics_and_checks_of_the_robustness_study_are_valid(scale):
    numbers, _ = load_study(ROOT, "stocker", scale)
    for name, job in numbers["md"].items():
        assert job["start"] in numbers["starts"], name
        settings = {key: value for key, value in job.items() if key not in ("runs", "start")}
        MDConfig.from_dict({**settings, "potential": "p", "start": {"file": "s.xyz", "frames": ":"}})
    checks = numbers["checks"]
    SpotCheckConfig.from_dict(
        {key: checks[key] for key in ("level", "max_cycle", "time_limit_s", "memory_limit_mb")} | {"frames": "f"}
    )
    read_options(RobustnessConfig, numbers["robustness"], "robustness")
    FrameSelection.from_dict(numbers["data"]["active"]["extends"]["selection"])
    for entry in numbers["starts"].values():
        for file in entry.get("files", ()):
            assert (ROOT / "resources/stocker-molecules" / f"{file}.xyz").is_file()
    runs = {(job, entry["run"]) for job, settings in numbers["md"].items() for entry in settings["runs"]}
    assert {(pair["job"], pair[key]) for pair in checks["crossed"] for key in ("frames", "judge")} <= runs
    # All four sizes of the paper's network run, and the demo's are the fewest and the most rows.
    sizes = sorted({run.train_size for run in expand_runs("stocker", numbers).values() if "schnet" in run.groups})
    every = expand_runs("stocker", numbers)
    numbers["published"] = PUBLISHED
    found = [every[run].train_size for _, run in STOCKER["md-errors-all"].simulations("stocker", numbers, every)]
    ends = [every[run].train_size for _, run in STOCKER["md-errors"].simulations("stocker", numbers, every)]
    assert found == sizes and ends == [sizes[0], sizes[-1]]


def test_weights_rate_and_clipping_reach_the_training():
    group = {"data": "a", "network": "net", "shift": "none", "scale": "std", "n_seeds": 1}
    swept = {"energy_weight": [0.01, 1.0], "clip_norm": [0.0, 2.0], "learning_rate": [1e-5]}
    runs = expand_runs("x", {**NUMBERS, "groups": {"sweep": {**group, **swept}}})
    assert len(runs) == 4
    found = {
        name: RunConfig.from_dict(run_configuration(run, 0, NUMBERS["data"]["a"], NETWORKS, "D"))
        for name, run in runs.items()
    }
    chosen = found["a-net-none-std-w0.01-c0-r0.00001"]
    assert chosen.scale == "std" and chosen.training.loss.energy_weight == 0.01
    assert chosen.training.clip_norm is None and chosen.training.optimizer.learning_rate == 1e-5
    assert found["a-net-none-std-w1-c2-r0.00001"].training.clip_norm == 2.0


def test_published_potentials_run_where_their_weights_are():
    numbers, _ = load_study(ROOT, "stocker", "mini")
    runs, matrix = expand_runs("stocker", numbers), STOCKER["robustness-matrix"]
    for there in (True, False):
        known = numbers | {"published": {"ani2x": there}}
        assert (("thermal", "ani2x") in matrix.simulations("stocker", known, runs)) is there
        files = product_inputs(matrix, "stocker", known, runs, "S", "D")
        assert ("S/checks/thermal/ani2x/judged/ani2x.csv" in files) is there
        assert not [path for path in files if path.startswith("S/tables/ani2x")]
        assert ("thermal", "ani2x") not in STOCKER["md-errors"].simulations("stocker", known, runs)
    with pytest.raises(InputError, match="has no run ani2x"):
        matrix.simulations("stocker", numbers, runs)


def test_a_product_that_needs_several_seeds_is_left_out_without_them():
    numbers, _ = load_study(ROOT, "pavlovic", "mini")
    assert PAVLOVIC["ensemble"].possible(expand_runs("pavlovic", numbers))
    one = expand_runs("pavlovic", {**numbers, "seeds": [0]})
    assert [name for name, product in PAVLOVIC.items() if not product.possible(one)] == ["ensemble"]


@pytest.mark.parametrize("study", STUDIES)
def test_every_product_has_its_function_and_caption(study):
    for key, product in STUDIES[study].items():
        source = importlib.util.find_spec(product.module).origin
        functions = {
            node.name for node in ast.parse(Path(source).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert product.function in functions, key
        assert (ROOT / "workflow/report" / study / f"{key}.rst").read_text().strip(), key
    paths = [path for product in STUDIES[study].values() for path in product.paths("x")]
    assert len(paths) == len(set(paths))
