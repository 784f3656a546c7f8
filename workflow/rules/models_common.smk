# Names and files of the figures and tables of the networks.
from mlip_studies.studies.model_products import MODEL_PRODUCTS

MODELS_OUT = f"{OUT}/models"
NETWORKS = PROJECT.models["networks"]
TRAINING_CHECK = PROJECT.models["training_check"]


def lookup_network(name):
    if name not in NETWORKS:
        raise WorkflowError(
            f"config/models.yaml has no network {name}; it has {', '.join(NETWORKS)}"
        )
    return NETWORKS[name]


def model_inputs(key):
    """Input files of a product by role."""
    files = {
        "networks": [f"{MODELS_OUT}/networks/{name}.json" for name in NETWORKS],
        "singularities": [f"{MODELS_OUT}/gemnet_singularities.csv"],
        "runs": training_check_files("run.json"),
        "histories": training_check_files("history.csv"),
    }
    return {role: files[role] for role in MODEL_PRODUCTS[key].roles}


def model_files(key):
    return MODEL_PRODUCTS[key].paths(MODELS_OUT)


def model_targets(trained):
    """The first file of every product, of those with or without training."""
    return [
        model_files(key)[0]
        for key, product in MODEL_PRODUCTS.items()
        if product.trained == trained
    ]


def training_check_files(name):
    """One file of every run of the check of training."""
    return expand(
        f"{MODELS_OUT}/training/{{network}}/seed{{seed}}/{name}",
        network=[n for n, entry in NETWORKS.items() if entry["training"]],
        seed=TRAINING_CHECK["seeds"],
    )


def training_check_run(wildcards):
    """Configuration of one run, as mlip_studies.training.run.RunConfig reads it."""
    entry = lookup_network(wildcards.network)
    if not entry["training"]:
        raise WorkflowError(
            f"config/models.yaml: network {wildcards.network} has no key training; its study trains it"
        )
    check = TRAINING_CHECK
    training = merge(entry["trained"]["training"], check["training"])
    training["max_steps"] = max(
        1, round(training["max_steps"] * PROJECT.settings["budget_scale"])
    )
    data = f"{OUT}/data/{check['dataset']}"
    return {
        "store": f"{data}/store.h5",
        "split": f"{data}/splits/{check['split']}.npz",
        "train_size": check["train_size"],
        "fidelity": check["fidelity"],
        "self_energies": f"{data}/self_energies.json",
        "shift": "per_element",
        "model": {"name": entry["model"], "options": entry["trained"]["options"]},
        "training": training,
        "seed": int(wildcards.seed),
        "label": f"{entry['title']}, seed {wildcards.seed}",
    }


def network_modules(name):
    """Modules whose code the check of a network's training depends on."""
    entry = lookup_network(name)
    return training_modules(entry["model"], entry["trained"]["training"] or {})
