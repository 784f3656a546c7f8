# Names and input functions of the figures and tables of the data sets.
from mlip_studies.studies.data_products import PRODUCTS

DATA_OUT = f"{OUT}/data"


def data_targets():
    """Every figure and table of `snakemake data`: (alias, key of the product, data set or nothing)."""
    targets = []
    for key, product in PRODUCTS.items():
        if product.name == "table3.1" and not {*PROJECT.data["table31"].values()} <= {
            *DATASETS
        }:
            continue
        if key == "table-splits" and not splits_of(DATASETS):
            continue
        for dataset in DATASETS if product.per_dataset else [""]:
            plain = "_".join(
                part for part in ("data", key.replace(".", "_"), dataset) if part
            )
            targets.append((re.sub(r"[^a-z0-9]+", "_", plain), key, dataset))
    return targets


def data_inputs(key, dataset):
    splits = {name: SPLITS[name]["dataset"] for name in splits_of(DATASETS)}
    return PRODUCTS[key].input_paths(DATA_OUT, DATASETS, splits, dataset or None)


def data_outputs(key, dataset):
    return PRODUCTS[key].paths(DATA_OUT, dataset or None)


def data_labels(key, dataset):
    product = PRODUCTS[key]
    name = product.file_name(dataset or None)
    return {"name": name, "in the thesis": product.in_paper}


def levels_of(dataset):
    """Level of theory of each fidelity, as captions print it."""
    return resolved(dataset)["levels"]


def table31_files(name):
    return expand(
        f"{DATA_OUT}/{{dataset}}/{name}",
        dataset=list(PROJECT.data["table31"].values()),
    )
