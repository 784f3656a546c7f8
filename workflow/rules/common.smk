# Configuration, paths and the parameters that all rules share. Priorities: dynamics and reference calculations
# (50) and trainings (10) go before what is quick, so that the longest chain does not run alone at the end.
import difflib
import os
import re
import subprocess

from snakemake.exceptions import WorkflowError

from mlip_studies.codehash import code_hash
from mlip_studies.config import load_project, load_study, merge
from mlip_studies.data.catalog import resolve_dataset
from mlip_studies.errors import InputError
from mlip_studies.jobs import add_to_python_path
from mlip_studies.models.catalog import model_module
from mlip_studies.provenance import front_page
from mlip_studies.studies.runs import (
    data_store,
    expand_runs,
    lookup_run,
    run_configuration,
)

# Jobs import the package from this checkout, also where it is not installed (a compute node, a bare clone).
add_to_python_path(ROOT / "workflow" / "src")

# Keys of the configuration that are no settings: the front page of the report, and what a forecast is asked about.
NO_SETTINGS = ("front_page", "forecast_targets")

try:
    PROJECT = load_project(
        {key: value for key, value in config.items() if key not in NO_SETTINGS},
        ROOT,
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

# Filled by the studies: everything, what `make demo` makes, and what verdicts are judged on.
STUDY_TARGETS = []
DEMO_TARGETS = []
VERDICT_INPUTS = {}


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    study=r"[a-z]+",
    experiment=r"[a-z0-9_]+",
    variant=r"[a-z0-9_]+",
    split=r"[a-z0-9_]+",
    mix=r"[A-Za-z0-9.-]+",
    seed=r"\d+",
    rows=r"train|all|none",
    network=r"[a-z0-9_]+",
    run=r"[A-Za-z0-9_.-]+",
    job=r"[a-z0-9_]+",
    starts=r"[a-z0-9_]+",
    data=r"[a-z0-9_]+",
    test=r"[a-z0-9_]+",
    judge=r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]",


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


def fitted_rows(wildcards):
    """Rows that the energies per element of a multi-fidelity run are fitted to: train, all or none."""
    experiment = lookup_experiment(wildcards.study, wildcards.experiment)
    variant = study_numbers(wildcards.study)["variants"].get(wildcards.variant, {})
    return variant.get("self_energies", experiment["self_energies"])


def wrong_scale(wildcards):
    raise WorkflowError(
        f"{PROJECT.settings['results']}/{OTHER_SCALE}/{wildcards.rest} belongs to the other scale: "
        f"run with --config scale={OTHER_SCALE}"
    )


def unknown_target(wildcards):
    """One line about a target that no rule has, with the nearest names or the study that is not enabled."""
    name = wildcards.target
    study = name.partition("_")[0]
    if (ROOT / f"config/studies/{study}.yaml").is_file():
        study_numbers(study)
    # A rule with wildcards cannot be asked for by its name.
    known = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
    close = difflib.get_close_matches(name, known, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else "README.md lists the targets; `snakemake --list-target-rules` names all rules"
    )
    raise WorkflowError(f"no target {name}; {hint}")


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
        for kind in ("experiments", "data", "tests")
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
            f"{OUT}/{wildcards.study}",
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
    return study_store(study, run.data)


def study_store(study, data):
    """Store of an entry of a study's data."""
    entry = PROJECT.studies[study]["data"][data]
    return data_store(data, entry, f"{OUT}/data", f"{OUT}/{study}")


def run_modules(wildcards):
    """Modules whose code a run depends on."""
    config = run_config(wildcards)
    return training_modules(config["model"]["name"], config["training"])


def run_model_modules(wildcards):
    """The module of a run's network, for what uses the trained network."""
    if wildcards.run in PROJECT.pretrained:
        return ["mlip_studies.models.pretrained"]
    return [model_module(run_config(Seedless(wildcards))["model"]["name"])]


class JobOf:
    """Wildcards of a job of dynamics with a run's network."""

    def __init__(self, study, job, run):
        self.study, self.job, self.run = study, job, run


def judge_modules(wildcards):
    """The module of the network that judges frames."""
    if wildcards.judge in PROJECT.pretrained:
        return ["mlip_studies.models.pretrained"]
    judge = Seedless(wildcards, wildcards.judge)
    return [model_module(run_config(judge)["model"]["name"])]


class Seedless:
    """Wildcards of a job that uses the first seed of a run."""

    def __init__(self, wildcards, run=None):
        self.study, self.run, self.seed = wildcards.study, run or wildcards.run, "0"


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


def md_entry(study, job, run):
    """Settings of one job of dynamics with one run's network."""
    jobs = study_numbers(study).get("md", {})
    if job not in jobs:
        raise WorkflowError(
            f"study {study} has no dynamics {job}; it has {', '.join(jobs) or 'none'}"
        )
    settings = dict(jobs[job])
    own = [entry for entry in settings.pop("runs") if entry["run"] == run]
    if not own:
        raise WorkflowError(
            f"config/studies/{study}.yaml: key 'md.{job}.runs' does not list {run}"
        )
    settings |= {
        key: value for key, value in own[0].items() if key not in ("run", "demo")
    }
    # A few samples always: the smallest that a table can be made from.
    shortest = 4 * settings["sample_every_fs"] / 1000
    for key in {"time_ps", "thermalise_ps"} & set(settings):
        least = shortest if key == "time_ps" else 0.0
        settings[key] = scaled(settings[key], min(least, settings[key]))
    return settings


def scaled(value, least):
    """A length or number of a simulation or check, times the factor on budgets where that is below one."""
    factor = PROJECT.settings["budget_scale"]
    return value if factor >= 1 else max(value * factor, least)


def check_samples(wildcards):
    """Frames per trajectory that are calculated again."""
    samples = study_numbers(wildcards.study)["checks"]["samples"]
    return round(scaled(samples, 1))


def floor_settings(wildcards):
    """Test rows that are calculated again."""
    settings = study_numbers(wildcards.study)["checks"]["floor"]
    return settings | {"rows": round(scaled(settings["rows"], 1))}


def run_potential(study, run):
    """Weights of a run's network: of its first seed, or of a published potential."""
    published = PROJECT.pretrained.get(run)
    if published is None:
        return f"{OUT}/{study}/runs/{run}/seed0/model.safetensors"
    if published["path"] is None:
        raise WorkflowError(
            f"{run}: no weights at hand; name their folder by the key 'weights' of config/config.yaml"
        )
    return published["path"]


def potential_config(study, run):
    """What mlip_studies.md.potentials reads: a path, or the keys of a published potential."""
    if run not in PROJECT.pretrained:
        return run_potential(study, run)
    entry = PROJECT.pretrained[run]
    keys = ("kind", "sha256", "options", "licence")
    chosen = {key: entry[key] for key in keys if key in entry}
    return {"pretrained": run, "path": run_potential(study, run)} | chosen


def md_start(wildcards):
    """Where the start structures of dynamics are: a set of the study, or the store of the run."""
    start = md_entry(wildcards.study, wildcards.job, wildcards.run).get("start")
    if start is None:
        return run_store(wildcards.study, wildcards.run)
    return f"{OUT}/{wildcards.study}/starts/{start}.xyz"


def md_config(wildcards):
    """Configuration of one job of dynamics, as mlip_studies.md.engine.MDConfig reads it."""
    settings = md_entry(wildcards.study, wildcards.job, wildcards.run)
    path = md_start(wildcards)
    from_store = {"store": path, "rows": "lowest_energy"}
    start = {"file": path, "frames": ":"} if "start" in settings else from_store
    return {
        **settings,
        "job": wildcards.job,
        "run": wildcards.run,
        # From the wildcards: snakemake does not compare parameters that are made from inputs.
        "potential": potential_config(wildcards.study, wildcards.run),
        "start": start,
    }


# ---- tests of trained networks ----


def test_entry(wildcards):
    """Data set and label of a test of trained networks on other data."""
    tests = study_numbers(wildcards.study).get("tests", {})
    if wildcards.test not in tests:
        raise WorkflowError(
            f"study {wildcards.study} has no test {wildcards.test}; it has {', '.join(tests) or 'none'}"
        )
    return tests[wildcards.test]


def curl_data(wildcards):
    """Store and split whose test rows show whether forces are those of an energy."""
    numbers = study_numbers(wildcards.study)
    entry = numbers["data"][numbers["curl"]["data"]]
    folder = f"{OUT}/data/{entry['dataset']}"
    return {
        "store": f"{folder}/store.h5",
        "split": f"{folder}/splits/{entry['split']}.npz",
    }


def nbody_settings(wildcards):
    """What mlip_studies.training.nbody.NBodyConfig reads, besides the file of trajectories."""
    settings = dict(study_numbers(wildcards.study)["nbody"])
    networks = settings.pop("networks")
    if wildcards.network not in networks:
        raise WorkflowError(
            f"study {wildcards.study} has no network {wildcards.network} for charged particles; it has {', '.join(networks)}"
        )
    training = dict(settings.pop("training"))
    for key in ("max_steps", "max_epochs"):
        if training.get(key):
            training[key] = max(
                1, round(training[key] * PROJECT.settings["budget_scale"])
            )
    label = f"charged particles, {wildcards.network}"
    return settings | {
        "network": networks[wildcards.network],
        "training": training,
        "label": label,
    }


# ---- start structures, reference calculations ----


def starts_of(kind):
    """Pattern of the names of start structures of a kind, in any study."""
    names = {
        name
        for numbers in PROJECT.studies.values()
        for name, entry in numbers.get("starts", {}).items()
        if entry["kind"] == kind
    }
    return "|".join(sorted(names)) or "(?!)"


def start_entry(wildcards, kind):
    """Settings of a set of start structures."""
    starts = study_numbers(wildcards.study).get("starts", {})
    entry = starts.get(wildcards.starts)
    if entry is None or entry["kind"] != kind:
        raise WorkflowError(
            f"study {wildcards.study} has no start structures {wildcards.starts}; it has {', '.join(starts) or 'none'}"
        )
    return entry


def representatives_spec(wildcards):
    """How many molecules are chosen, as mlip_studies.data.representatives reads it."""
    entry = start_entry(wildcards, "representatives")
    fidelity = PROJECT.studies[wildcards.study]["data"][entry["data"]]["fidelity"]
    n = round(scaled(entry["count"], 1))
    spec = {"n": n, "seed": entry["seed"], "fidelity": fidelity}
    return spec | {"names": entry["names"]} if "names" in entry else spec


def study_data(wildcards):
    """Entry of a study's data by its name."""
    entries = study_numbers(wildcards.study)["data"]
    if wildcards.data not in entries:
        raise WorkflowError(
            f"study {wildcards.study} has no data {wildcards.data}; it has {', '.join(entries)}"
        )
    return entries[wildcards.data]


def judge_atoms(wildcards):
    """Isolated atoms of the labels that a judge learnt from, the zero of its atomization energies."""
    if wildcards.judge in PROJECT.pretrained:
        return "config/self_energies.yaml"
    run = lookup_run(wildcards.study, RUNS[wildcards.study], wildcards.judge)
    return f"{OUT}/{wildcards.study}/isolated_atoms/{run.data}.json"


def published_judge(wildcards):
    """A published potential that judges frames, and the name of its isolated atoms; nothing for a trained network."""
    if wildcards.judge not in PROJECT.pretrained:
        return {}
    atoms = PROJECT.pretrained[wildcards.judge]["isolated_atoms"]
    return {
        "potential": potential_config(wildcards.study, wildcards.judge),
        "atoms": atoms,
    }


def spot_check_settings(wildcards):
    """Level and limits of a study's reference calculations."""
    checks = study_numbers(wildcards.study)["checks"]
    keys = ("level", "max_cycle", "memory_limit_mb")
    return {key: checks[key] for key in keys} | {
        "time_limit_s": scaled(checks["time_limit_s"], 30.0)
    }


def floor_data(wildcards):
    """Entry of the data whose test rows are calculated again."""
    numbers = study_numbers(wildcards.study)
    return numbers["data"][numbers["checks"]["floor"]["data"]]


def floor_store(wildcards):
    return f"{OUT}/data/{floor_data(wildcards)['dataset']}/store.h5"


def floor_split(wildcards):
    entry = floor_data(wildcards)
    return f"{OUT}/data/{entry['dataset']}/splits/{entry['split']}.npz"


def floor_atoms(wildcards):
    data = study_numbers(wildcards.study)["checks"]["floor"]["data"]
    return f"{OUT}/{wildcards.study}/isolated_atoms/{data}.json"


def extended_size(wildcards):
    """Rows that the extended training set begins with: those of the network whose dynamics extend it."""
    run = study_data(wildcards)["extends"]["run"]
    return lookup_run(wildcards.study, RUNS[wildcards.study], run).train_size


def extended_total(wildcards):
    """Rows of the extended training set: those that its run asks for."""
    runs = RUNS[wildcards.study].values()
    return next(run.train_size for run in runs if run.data == wildcards.data)


def active_rounds(wildcards):
    """Dynamics and errors before and after a study's data set was extended."""
    data, entry = next(
        (name, entry)
        for name, entry in study_numbers(wildcards.study)["data"].items()
        if "extends" in entry
    )
    job, first = entry["extends"]["job"], entry["extends"]["run"]
    after = next(
        name for name, run in RUNS[wildcards.study].items() if run.data == data
    )
    folder = f"{OUT}/{wildcards.study}"
    return {
        "robustness": [
            f"{folder}/md/{job}/{run}/robustness.csv" for run in (first, after)
        ],
        "runs": [f"{folder}/tables/{run}/runs.csv" for run in (first, after)],
        "report": f"{folder}/extended/{data}/report.json",
    }


def base_split_of(wildcards):
    """Split of the data set that is extended."""
    entry = study_data(wildcards)
    return f"{OUT}/data/{entry['dataset']}/splits/{entry['split']}.npz"


def extension_inputs(wildcards):
    """Checked frames that a study's data set is extended by, and what it extends."""
    entry = study_data(wildcards)
    added = entry["extends"]
    folder = f"{OUT}/{wildcards.study}/checks/{added['job']}/{added['run']}"
    data = f"{OUT}/data/{entry['dataset']}"
    return {
        "frames": f"{folder}/frames.npz",
        "labels": f"{folder}/labels.npz",
        "table": f"{folder}/labels.csv",
        "starts": md_start(JobOf(wildcards.study, added["job"], added["run"])),
        "store": f"{data}/store.h5",
        "atoms": f"{OUT}/{wildcards.study}/isolated_atoms/{wildcards.data}.json",
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


# ---- report ----


def report_labels(name, place=""):
    """Label of an entry of the report, with its place in the paper.

    One label only: of a further one that has two values the viewer makes a switch, and it breaks where an entry is
    missing in one of the two positions.
    """
    return {"name": f"{name} ({place})" if place else name}


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
