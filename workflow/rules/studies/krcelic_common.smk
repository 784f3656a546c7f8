# Names, numbers and input functions of the multi-fidelity study.

KRCELIC = PROJECT.studies["krcelic"]
KRCELIC_OUT = f"{OUT}/krcelic"
# Every mix, also those that `mixes` in config.yaml leaves out: the split must not depend on what is run.
ALL_MIXES = {
    "krcelic": {
        name: entry["mixes"]
        for name, entry in load_study(ROOT, "krcelic", SCALE)[0]["experiments"].items()
    }
}


def mixes_of(experiment, variant):
    """Mixes that a variant's strategy can use."""
    wanted = KRCELIC["variants"][variant]["mixes"]
    return [
        name
        for name, mix in KRCELIC["experiments"][experiment]["mixes"].items()
        if wanted == "all"
        or (isinstance(wanted, list) and name in wanted)
        or (mix["train_high"] and wanted == "high_only" and not mix["train_low"])
        or (mix["train_high"] and mix["train_low"] and wanted == "paired")
    ]


def run_files(wildcards):
    return expand(
        f"{KRCELIC_OUT}/runs/{wildcards.experiment}/{wildcards.variant}/{{mix}}/seed{{seed}}/{{file}}",
        mix=mixes_of(wildcards.experiment, wildcards.variant),
        seed=KRCELIC["seeds"],
        file=["run.json", "history.csv", "predictions.csv"],
    )


def krcelic_inputs(entry):
    """Tidy files that a figure or table is made from."""
    files = [
        f"{KRCELIC_OUT}/tables/{experiment}/{variant}/{name}.csv"
        for experiment, variant in entry["inputs"]
        for name in ("runs", "histories", "predictions")
    ]
    experiments = sorted({experiment for experiment, _ in entry["inputs"]} or {"ani"})
    for experiment in experiments:
        files.append(f"{KRCELIC_OUT}/{experiment}/split.json")
        files += [
            f"{KRCELIC_OUT}/{experiment}/self_energies_{rows}.json"
            for rows in ("train", "all")
        ]
    return files


def figure_number(name):
    """Number of a figure in the thesis, "" if it has none there."""
    match = re.match(r"(fig|table)(\d+\.\d+)$", name.split("-")[0])
    kind = {"fig": "Figure", "table": "Table"}
    return f"{kind[match[1]]} {match[2]}" if match else ""


def asked_rows():
    """Rows that each mix asks for at this scale, for captions and Table 3.1."""
    return {
        experiment: {
            name: {
                **{f"n_{key}": value for key, value in mix.items()},
                "n_test": entry["split"]["n_test"],
            }
            for name, mix in entry["mixes"].items()
        }
        for experiment, entry in KRCELIC["experiments"].items()
    }


def alias(kind, name, taken):
    """Short target name: krcelic_fig3_3, krcelic_table3_1, or the whole name where it has no number."""
    head = name.split("-")[0]
    numbered = f"krcelic_{head.replace('.', '_')}"
    if re.match(r"(fig|table)\d", head) and numbered not in taken:
        return numbered
    plain = re.sub(r"[^a-z0-9]+", "_", name)
    return f"krcelic_{plain}" if kind == "figures" else f"krcelic_table_{plain}"


def krcelic_products(wanted):
    return [
        f"{KRCELIC_OUT}/{kind}/{name}.{suffix}"
        for kind, suffix in (("figures", "png"), ("tables", "html"))
        for name, entry in KRCELIC[kind].items()
        if wanted(entry)
    ]
