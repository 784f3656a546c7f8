# Names, numbers and input functions of the study of So3krates on SPICE.
from mlip_studies.studies.pavlovic_products import MAIN_RUN as PAVLOVIC_MAIN
from mlip_studies.studies.pavlovic_products import PRODUCTS as PAVLOVIC_PRODUCTS

PAVLOVIC = PROJECT.studies["pavlovic"]
PAVLOVIC_OUT = f"{OUT}/pavlovic"
PAVLOVIC_RUNS = RUNS["pavlovic"]


def pavlovic_simulations(product):
    """(job, run) of the dynamics that a product needs."""
    return [
        (job, entry["run"])
        for job in product.md
        for entry in PAVLOVIC["md"][job]["runs"]
        if not product.simulated
        or {*product.simulated}
        & {*lookup_run("pavlovic", PAVLOVIC_RUNS, entry["run"]).groups}
    ]


def pavlovic_inputs(product):
    """Tidy files that a figure or table is made from."""
    try:
        names = product.run_names(PAVLOVIC_RUNS)
        simulations = pavlovic_simulations(product)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    # Whoever shows a simulation also shows the errors of its network.
    files = [
        f"{PAVLOVIC_OUT}/tables/{name}/{kind}.csv"
        for name in dict.fromkeys([*names, *(run for _, run in simulations)])
        for kind in product.kinds
    ]
    files += [
        f"{PAVLOVIC_OUT}/md/{job}/{run}/{name}"
        for job, run in simulations
        for name in ("replicas.csv", "samples.csv", "distances.csv", "summary.json")
    ]
    files += [f"{PAVLOVIC_OUT}/speed.csv"] if product.speed else []
    if product.shift_check:
        files += [
            f"{OUT}/data/{name}/shift_check.csv"
            for name in dict.fromkeys(
                PAVLOVIC["data"][key]["dataset"] for key in ("formation", "ethanol")
            )
        ]
    return files


def pavlovic_alias(key):
    """Short name of a target: pavlovic_fig3_left_energies, pavlovic_results_table."""
    return f"pavlovic_{key.replace('-', '_')}"


def pavlovic_products(wanted):
    return [
        product.paths(PAVLOVIC_OUT)[0]
        for product in PAVLOVIC_PRODUCTS.values()
        if wanted(product) and product.possible(PAVLOVIC_RUNS)
    ]


def pavlovic_verdict_inputs(demo):
    """All tables of all products, or of those that `make demo` makes."""
    return sorted(
        {
            path
            for product in PAVLOVIC_PRODUCTS.values()
            if product.demo or not demo
            for path in pavlovic_inputs(product)
        }
    )
