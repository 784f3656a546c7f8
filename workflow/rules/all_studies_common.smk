# Names, inputs and contexts of the tables and figures over all studies.
from mlip_studies.studies import all_studies_products as ALL

ALL_OUT = f"{OUT}/all"


def all_verdicts(suffix):
    """JSON of the verdicts of every study; a study without verdicts on everything has those of the demo."""
    return [
        f"{OUT}/{study}/{f'verdicts{suffix}' if f'verdicts{suffix}' in kinds else 'verdicts'}.json"
        for study, kinds in VERDICT_INPUTS.items()
    ]


def all_tables(product, suffix):
    """Tidy files of the studies that a product reads: of those that their verdicts are judged on."""
    files = [
        path
        for kinds in VERDICT_INPUTS.values()
        for path in kinds.get(f"verdicts{suffix}", kinds["verdicts"])
    ]
    return ALL.chosen(product, files)


def regression_tables(demo):
    """Tidy files of runs that exist only to show what a regression does: the group, or the pairs, of that name."""
    files = [
        f"{OUT}/{study}/tables/{name}/runs.csv"
        for study, runs in RUNS.items()
        for name, run in runs.items()
        if any(group.startswith("regression") for group in run.groups)
        and (run.demo or not demo)
    ]
    if "krcelic" in RUNNING:
        files += [
            f"{KRCELIC_OUT}/tables/{experiment}/{variant}/runs.csv"
            for experiment, variant in KRCELIC["regression"]
            if mixes_of(experiment, variant)
        ]
    return files


def all_fits():
    """Energies per element of the data sets that the enabled studies use and the data report describes."""
    return [
        f"{OUT}/data/{name}/self_energies.json"
        for name in STUDY_DATASETS
        if name in DATASETS
    ]


def all_inputs(product, suffix):
    """Input files of a product by role."""
    if product in ("claims", "summary"):
        return {"verdicts": all_verdicts(suffix)}
    tables = all_tables(product, suffix)
    if product == "regression":
        own = regression_tables(demo=not suffix)
        return {"tables": sorted({*tables, *own}), "fits": all_fits()}
    scorecard = [f"{OUT}/ortiz/tables/scorecard.csv"] if "ortiz" in RUNNING else []
    return {"tables": tables, "scorecard": scorecard}


def all_figures(demo):
    """Figure or table of each name that claims refer to, by study, relative to the folder of the scale."""
    found = {
        study: {
            key: product.paths(study)[0]
            for key, product in module.PRODUCTS.items()
            if product.possible(RUNS[study]) and (product.demo or not demo)
        }
        for study, module in PRODUCT_MODULES.items()
    }
    if "krcelic" in RUNNING:
        found["krcelic"] = {
            name: f"krcelic/{kind}/{name}.{suffix}"
            for kind, suffix in (("tables", "html"), ("figures", "png"))
            for name, entry in KRCELIC[kind].items()
            if entry["demo"] or not demo
        }
    if "ortiz" in RUNNING:
        found["ortiz"] = {
            key: product.paths("ortiz")[0] for key, product in ADEQUACY.PRODUCTS.items()
        }
    return found


def all_context():
    """Names of runs, networks and data: what mlip_studies.studies.all_studies.AllContext reads."""
    networks = PROJECT.models["networks"]
    by_model = {entry["model"]: entry["title"] for entry in networks.values()}
    mixed = [
        numbers for numbers in PROJECT.studies.values() if "experiments" in numbers
    ]
    return {
        "scale": SCALE,
        "titles": {study: PROJECT.titles[study]["title"] for study in PROJECT.studies},
        "runs": {
            study: {
                name: {
                    "network": run.network,
                    "data": run.data,
                    "dataset": PROJECT.studies[study]["data"][run.data]["dataset"],
                    "fidelity": PROJECT.studies[study]["data"][run.data]["fidelity"],
                }
                for name, run in runs.items()
            }
            for study, runs in RUNS.items()
        },
        "networks": {name: entry["title"] for name, entry in networks.items()},
        "experiments": {
            name: {key: entry[key] for key in ("dataset", "high", "self_energies")}
            for numbers in mixed
            for name, entry in numbers["experiments"].items()
        },
        "untreated": [
            name
            for numbers in mixed
            for name, entry in numbers["variants"].items()
            if entry.get("self_energies") == "none"
        ],
        "variants": {
            name: by_model.get(entry["model"], entry["model"])
            + (f", {name}" if entry["strategy"] != "mix" else "")
            for numbers in mixed
            for name, entry in numbers["variants"].items()
        },
        "potentials": {
            name: entry["trained"]
            for numbers in PROJECT.studies.values()
            for name, entry in numbers.get("potentials", {}).items()
            if "trained" in entry
        },
    }


RUNNING = list(VERDICT_INPUTS)
ALL_TITLES = {
    "claims": "all claims and verdicts",
    "summary": "verdicts by study",
    "regression": "with and without energies per element",
    "matrix": "what each network is good for",
}
