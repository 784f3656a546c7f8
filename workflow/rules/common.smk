# Configuration, paths and the parameters that all rules share.
import os
import re
import subprocess

import yaml

from snakemake.exceptions import WorkflowError

from mlip_studies.codehash import code_hash
from mlip_studies.config import load_project, load_study, merge
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.errors import InputError
from mlip_studies.jobs import add_to_python_path
from mlip_studies.models.catalog import model_module
from mlip_studies.provenance import front_page
from mlip_studies.studies.runs import expand_runs, lookup_run, run_configuration

# Jobs import the package from this checkout, also where it is not installed (a compute node, a bare clone).
add_to_python_path(ROOT / "workflow" / "src")

try:
    PROJECT = load_project(
        {key: value for key, value in config.items() if key != "front_page"}, ROOT
    )
except InputError as error:
    raise WorkflowError(str(error)) from None


def check_writable(folder):
    """Stop with one line, before any job, when nothing can be written to the folder of results."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise WorkflowError(
            f"config/config.yaml: key 'results': cannot write to {folder} ({path} is "
            f"{'read-only' if path.is_dir() else 'a file'}); choose another folder"
        )


check_writable(PROJECT.settings["results"])

SCALE = PROJECT.scale
OUT = PROJECT.results
STATE = f"{OUT}/.state"
LOGS = f"{OUT}/logs"
BENCHMARKS = f"{OUT}/benchmarks"
OTHER_SCALE = "full" if SCALE == "mini" else "mini"

# Filled by the studies: everything, what `make demo` makes, and what the report's front needs.
STUDY_TARGETS = []
DEMO_TARGETS = []
VERDICTS = []


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    study=r"[a-z]+",
    experiment=r"[a-z0-9_]+",
    variant=r"[a-z0-9_]+",
    split=r"[a-z0-9_]+",
    mix=r"[A-Za-z0-9.-]+",
    seed=r"\d+",
    rows=r"train|all",
    network=r"[a-z0-9_]+",
    run=r"[A-Za-z0-9_.-]+",
    job=r"[a-z0-9_]+",


def code(*modules):
    """Parameter that changes when the code of a rule changes (see mlip_studies.codehash)."""
    return f"{'+'.join(modules)}={code_hash(*modules)}"


def growing(base):
    """A resource that grows with the attempt, for jobs that ran out of it."""
    return lambda wildcards, attempt: int(base * attempt)


def study_numbers(study):
    if study not in PROJECT.studies:
        raise WorkflowError(
            f"study {study} is not enabled; add it to `studies` in config/config.yaml"
        )
    return PROJECT.studies[study]


def lookup_experiment(study, experiment):
    experiments = study_numbers(study)["experiments"]
    if experiment not in experiments:
        raise WorkflowError(
            f"study {study} has no experiment {experiment}; it has {', '.join(experiments)}"
        )
    return experiments[experiment]


def wrong_scale(wildcards):
    raise WorkflowError(
        f"{PROJECT.settings['results']}/{OTHER_SCALE}/{wildcards.rest} belongs to the other scale: "
        f"run with --config scale={OTHER_SCALE}"
    )


# ---- data ----


def resolved(name):
    """Entry of a data set with the entries of its sources, as :func:`build_store` wants it."""
    try:
        return resolve_dataset(PROJECT.datasets, name, SCALE)
    except InputError as error:
        raise WorkflowError(str(error)) from None


def source_entries(name):
    """The files that are read into the store of a data set, each with the entry that describes it."""
    return resolved(name)["source_entries"]


def path_of(file):
    """Where a file lies: shipped with the project, or downloaded."""
    return file.get("path") or f"{OUT}/data/raw/{file['name']}"


def source_files(wildcards):
    return [path_of(entry["file"]) for entry in source_entries(wildcards.dataset)]


def auxiliary_files(wildcards):
    """Lists that filters use, by role."""
    return [path_of(file) for file in resolved(wildcards.dataset)["aux_files"].values()]


def all_files(name):
    """Everything that has to be there before a data set can be read."""
    entry = resolved(name)
    return [e["file"] for e in entry["source_entries"]] + list(
        entry["aux_files"].values()
    )


DOWNLOADS = {
    file["name"]: file
    for entry in PROJECT.datasets.values()
    for file in entry.get("files", [])
    if not file.get("path")
}

STUDY_DATASETS = sorted(
    {
        entry["dataset"]
        for numbers in PROJECT.studies.values()
        for kind in ("experiments", "data")
        for entry in numbers.get(kind, {}).values()
    }
)
# Data sets that `snakemake data` describes.
DATASETS = list(
    PROJECT.settings["data_sets"] or PROJECT.data["datasets"] or STUDY_DATASETS
)
ENABLED_DATASETS = sorted({*STUDY_DATASETS, *DATASETS})

# ---- named splits ----

SPLITS = PROJECT.data["splits"]


def splits_of(datasets):
    return [name for name, spec in SPLITS.items() if spec["dataset"] in datasets]


def split_path(name, suffix="npz"):
    return f"{OUT}/data/{SPLITS[name]['dataset']}/splits/{name}.{suffix}"


def lookup_split(wildcards):
    spec = SPLITS.get(wildcards.split)
    if spec is None or spec["dataset"] != wildcards.dataset:
        known = ", ".join(splits_of([wildcards.dataset])) or "none"
        raise WorkflowError(
            f"config/data.yaml: data set {wildcards.dataset} has no split {wildcards.split} at scale {SCALE}; it has {known}"
        )
    return spec


def base_split(wildcards):
    base = lookup_split(wildcards).get("base")
    return [split_path(base)] if base else []


def index_files(wildcards):
    """Files that hold the publisher's own split."""
    spec = lookup_split(wildcards)
    names = {
        spec[key].partition("#")[0]
        for key in ("train_index", "test_index")
        if key in spec
    }
    return [path_of(DOWNLOADS[name]) for name in sorted(names)]


def split_params(wildcards):
    """Largest numbers that any mix uses: one split serves all of them."""
    entry = lookup_experiment(wildcards.study, wildcards.experiment)
    all_mixes = ALL_MIXES[wildcards.study][wildcards.experiment].values()
    largest = {
        key: max(mix[key] for mix in all_mixes)
        for key in ("train_low", "train_high", "val_low", "val_high")
    }
    return {
        **largest,
        "n_test": entry["split"]["n_test"],
        "seed": entry["split"]["seed"],
        "selection": entry["split"]["selection"],
        "low": entry["low"],
        "high": entry["high"],
    }


# ---- training ----

RUN_FILES = {
    "model": "model.safetensors",
    "metrics": "metrics.jsonl",
    "history": "history.csv",
    "predictions": "predictions.npz",
    "run": "run.json",
}


def expanded(study):
    try:
        return expand_runs(study, PROJECT.studies[study])
    except InputError as error:
        raise WorkflowError(str(error)) from None


# Runs of the studies that list them.
RUNS = {
    study: expanded(study)
    for study, numbers in PROJECT.studies.items()
    if "groups" in numbers
}


def run_config(wildcards):
    """Configuration of one run, as mlip_studies.training.run.RunConfig reads it."""
    numbers = study_numbers(wildcards.study)
    try:
        run = lookup_run(wildcards.study, RUNS.get(wildcards.study, {}), wildcards.run)
        return run_configuration(
            run,
            int(wildcards.seed),
            numbers["data"][run.data],
            PROJECT.models["networks"],
            f"{OUT}/data",
            PROJECT.settings["budget_scale"],
        )
    except InputError as error:
        raise WorkflowError(str(error)) from None


def seed_files(wildcards, name):
    """One file of every seed of a run."""
    try:
        run = lookup_run(wildcards.study, RUNS.get(wildcards.study, {}), wildcards.run)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    return [
        f"{OUT}/{wildcards.study}/runs/{run.name}/seed{seed}/{name}"
        for seed in run.seeds
    ]


def run_store(study, name):
    """Store that a run learns from."""
    run = lookup_run(study, RUNS.get(study, {}), name)
    return f"{OUT}/data/{PROJECT.studies[study]['data'][run.data]['dataset']}/store.h5"


def run_modules(wildcards):
    """Modules whose code a run depends on."""
    config = run_config(wildcards)
    return training_modules(config["model"]["name"], config["training"])


def run_model_modules(wildcards):
    """The module of a run's network, for what uses the trained network."""
    return [model_module(run_config(Seedless(wildcards))["model"]["name"])]


class Seedless:
    """Wildcards of a job that uses the first seed of a run."""

    def __init__(self, wildcards):
        self.study, self.run, self.seed = wildcards.study, wildcards.run, "0"


def training_modules(model, training):
    """The loop, the model and, as the loop imports them by name, captured steps."""
    captured = training.get("step_mode", "eager") != "eager"
    return (
        "mlip_studies.training.run",
        model_module(model),
        *(["mlip_studies.training.capture"] if captured else []),
    )


def run_spec(wildcards):
    """All numbers of one run, as plain values."""
    numbers = study_numbers(wildcards.study)
    experiment = lookup_experiment(wildcards.study, wildcards.experiment)
    if wildcards.variant not in numbers["variants"]:
        raise WorkflowError(
            f"study {wildcards.study} has no variant {wildcards.variant}; it has {', '.join(numbers['variants'])}"
        )
    variant = numbers["variants"][wildcards.variant]
    if wildcards.mix not in experiment["mixes"]:
        raise WorkflowError(
            f"experiment {wildcards.experiment} has no mix {wildcards.mix}; it has {', '.join(experiment['mixes'])}"
        )
    return {
        "experiment": wildcards.experiment,
        "variant": wildcards.variant,
        "mix_name": wildcards.mix,
        "mix": experiment["mixes"][wildcards.mix],
        "seed": int(wildcards.seed),
        "low": experiment["low"],
        "high": experiment["high"],
        "model": variant["model"],
        "options": variant["options"],
        "strategy": variant["strategy"],
        "training": {**numbers["training"], **variant.get("training", {})},
        "transfer": variant.get("transfer", {}),
    }


# ---- molecular dynamics ----


def md_config(wildcards):
    """Configuration of one job of dynamics, as mlip_studies.md.engine.MDConfig reads it."""
    jobs = study_numbers(wildcards.study).get("md", {})
    if wildcards.job not in jobs:
        raise WorkflowError(
            f"study {wildcards.study} has no dynamics {wildcards.job}; it has {', '.join(jobs) or 'none'}"
        )
    settings = dict(jobs[wildcards.job])
    own = [entry for entry in settings.pop("runs") if entry["run"] == wildcards.run]
    if not own:
        raise WorkflowError(
            f"config/studies/{wildcards.study}.yaml: key 'md.{wildcards.job}.runs' does not list {wildcards.run}"
        )
    settings |= {
        key: value for key, value in own[0].items() if key not in ("run", "demo")
    }
    return {
        **settings,
        "job": wildcards.job,
        "run": wildcards.run,
        # From the wildcards: snakemake does not compare parameters that are made from inputs.
        "potential": f"{OUT}/{wildcards.study}/runs/{wildcards.run}/seed0/model.safetensors",
        "start": {
            "store": run_store(wildcards.study, wildcards.run),
            "rows": "lowest_energy",
        },
    }


def reference_frames(wildcards):
    """What is known about the frames that a run learnt from, for comparison with its dynamics."""
    numbers = study_numbers(wildcards.study)
    run = lookup_run(wildcards.study, RUNS[wildcards.study], wildcards.run)
    temperature = numbers["data"][run.data].get("temperature_k")
    return {} if temperature is None else {"temperature_k": temperature}


def speed_runs(study):
    """Runs whose networks are timed: those of the group tradeoff, and the first one that is simulated."""
    jobs = study_numbers(study)["md"]
    first = next(iter(jobs.values()))["runs"][0]["run"]
    return [
        first,
        *(name for name, run in RUNS[study].items() if "tradeoff" in run.groups),
    ]


# ---- mini data ----

MINI_RECIPE = "config/mini_data/ani.yaml"
MINI_ANI = yaml.safe_load((ROOT / MINI_RECIPE).read_text())
MINI_BUILD = f"{PROJECT.settings['results']}/mini_data/ani"


def mini_shards():
    """File names of all shards: molecule, fidelity and first row."""
    size = MINI_ANI["shard_size"]
    return [
        f"{molecule['name']}_{kind}_{first:04d}"
        for molecule in MINI_ANI["molecules"]
        for kind in ("dft", "cc")
        for first in range(0, molecule[f"n_{kind}"], size)
    ]


# ---- report ----


def commit():
    """Commit of the checkout, with a mark if tracked files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
