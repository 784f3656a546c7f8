# Names and input functions of the figures and tables of the data sets.
from mlip_studies.studies.data_products import PRODUCTS

DATA_OUT = f"{OUT}/data"


def data_products(per_dataset):
    """(name of the rule, key of the product) of what can be made for every data set, or of what is made once."""
    return [
        (f"data_{re.sub(r'[^a-z0-9]+', '_', key)}", key)
        for key, product in PRODUCTS.items()
        if product.per_dataset == per_dataset
    ]


def data_files(key, suffixes=slice(None)):
    """Files of a product; {dataset} stands for the data set where there is one product for each."""
    product = PRODUCTS[key]
    return product.paths(DATA_OUT, "{dataset}" if product.per_dataset else None)[
        suffixes
    ]


def data_inputs_of(key):
    """Input function of a product that there is once for every data set."""
    return lambda wildcards: PRODUCTS[key].input_paths(
        DATA_OUT, dataset=wildcards.dataset
    )


def data_inputs(key):
    splits = {name: SPLITS[name]["dataset"] for name in splits_of(DATASETS)}
    return PRODUCTS[key].input_paths(DATA_OUT, DATASETS, splits)


def data_labels(key):
    product = PRODUCTS[key]
    name = product.file_name("{dataset}" if product.per_dataset else None)
    return report_labels(name, product.in_paper)


def data_targets():
    """The page of every product that the data sets of this scale allow."""
    possible = {
        "table-table3.1": {*PROJECT.data["table31"].values()} <= {*DATASETS},
        "table-splits": bool(splits_of(DATASETS)),
    }
    return [
        path
        for key in PRODUCTS
        if possible.get(key, True)
        for path in expand(data_files(key, slice(1)), dataset=DATASETS)
    ]


def is_shipped(dataset):
    """Whether every file of a data set is made by this project."""
    return all(file.get("path") for file in all_files(dataset))


def levels_of(dataset):
    """Level of theory of each fidelity, as captions print it."""
    return resolved(dataset)["levels"]


def table31_files(name):
    return expand(
        f"{DATA_OUT}/{{dataset}}/{name}",
        dataset=list(PROJECT.data["table31"].values()),
    )
