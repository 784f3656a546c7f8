# Configuration, paths and the parameters that all rules share.
import os
import re

from snakemake.exceptions import WorkflowError

from mlip_studies.codehash import code_hash
from mlip_studies.config import load_project
from mlip_studies.errors import InputError

# Jobs import the package from this checkout, also where it is not installed (a compute node, a bare clone).
os.environ["PYTHONPATH"] = os.pathsep.join(
    part
    for part in (str(ROOT / "workflow" / "src"), os.environ.get("PYTHONPATH"))
    if part
)

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
    mix=r"[A-Za-z0-9.-]+",
    seed=r"\d+",
    rows=r"train|all",


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


# A target of the other scale stops with one line instead of "no rule to produce".
rule other_scale:
    input:
        wrong_scale,
    output:
        f"{PROJECT.settings['results']}/{OTHER_SCALE}/{{rest}}",
    log:
        f"{LOGS}/other_scale/{{rest}}.log",
    wildcard_constraints:
        rest=r".+",
    localrule: True
    conda:
        "../../envs/core.yaml"
    shell:
        "exit 1"
