# Figures, tables and targets of the studies whose runs stand in their configuration: everything follows from the list of
# products in studies/<study>_products.py.
import importlib
from dataclasses import fields

from mlip_studies.studies.context import RunInfo
from mlip_studies.studies.products import alias, product_inputs

PRODUCT_MODULES = {
    study: importlib.import_module(f"mlip_studies.studies.{study}_products")
    for study in RUNS
}


def study_product_inputs(study, product):
    try:
        return product_inputs(
            product,
            study,
            with_published(study),
            RUNS[study],
            f"{OUT}/{study}",
            f"{OUT}/data",
        )
    except InputError as error:
        raise WorkflowError(str(error)) from None


def with_published(study):
    """Configuration of a study, and which published potentials can be run."""
    known = {
        name: entry["path"] is not None for name, entry in PROJECT.pretrained.items()
    }
    return PROJECT.studies[study] | {"published": known}


def not_run(study):
    """Published potentials that a study's dynamics name but that cannot be run, and why."""
    jobs = PROJECT.studies[study].get("md", {}).values()
    named = {entry["run"] for job in jobs for entry in job["runs"]}
    reason = "no weights: name their folder by `weights` in config.yaml"
    missing = {
        name: reason
        for name, entry in PROJECT.pretrained.items()
        if name in named and entry["path"] is None
    }
    return {"matrix": {"not_run": missing}} if missing else {}


def study_products(study, wanted):
    """First files of the products of a study that can be made."""
    return [
        product.paths(f"{OUT}/{study}")[0]
        for product in PRODUCT_MODULES[study].PRODUCTS.values()
        if wanted(product) and product.possible(RUNS[study])
    ]


def study_verdict_inputs(study, demo):
    """All tables of all products, or of those that `make demo` makes."""
    return sorted(
        {
            path
            for product in PRODUCT_MODULES[study].PRODUCTS.values()
            if product.demo or not demo
            for path in study_product_inputs(study, product)
        }
    )


def product_context(study):
    """What products know about their study besides its results."""
    numbers = PROJECT.studies[study]
    return {
        "scale": SCALE,
        "n_train": {
            name: max(SPLITS[entry["split"]]["train"])
            for name, entry in numbers["data"].items()
            if SPLITS.get(entry["split"], {}).get("train")
        },
        "runs": {
            name: {field.name: getattr(run, field.name) for field in fields(RunInfo)}
            for name, run in RUNS[study].items()
        },
        "settings": numbers | not_run(study),
    }


def forecast_inputs(wildcards):
    """Measured costs of the dynamics and reference calculations that a study's forecast goes by."""
    study = wildcards.study
    product = PRODUCT_MODULES[study].PRODUCTS["forecast-table"]
    folder = f"{OUT}/{study}"
    pairs = product.simulations(study, with_published(study), RUNS[study])
    return {
        "summaries": [f"{folder}/md/{job}/{run}/summary.json" for job, run in pairs],
        "labels": [f"{folder}/checks/{job}/{run}/labels.csv" for job, run in pairs],
    }
