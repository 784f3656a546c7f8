# Multi-fidelity study (Krčelić): figures, tables, verdicts.
from mlip_studies.config import load_study

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


def product_inputs(entry):
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
    """Label of a figure in the report: its number in the thesis, or its name."""
    match = re.match(r"(fig|table)(\d+\.\d+)$", name.split("-")[0])
    kind = {"fig": "Figure", "table": "Table"}
    return f"{kind[match[1]]} {match[2]}" if match else "beyond the thesis"


rule krcelic_collect:
    input:
        runs=run_files,
    output:
        runs=f"{KRCELIC_OUT}/tables/{{experiment}}/{{variant}}/runs.csv",
        histories=f"{KRCELIC_OUT}/tables/{{experiment}}/{{variant}}/histories.csv",
        predictions=f"{KRCELIC_OUT}/tables/{{experiment}}/{{variant}}/predictions.csv",
    log:
        f"{LOGS}/krcelic_collect/{{experiment}}-{{variant}}.log",
    benchmark:
        f"{BENCHMARKS}/krcelic_collect/{{experiment}}-{{variant}}.jsonl"
    localrule: True
    conda:
        "../../../envs/core.yaml"
    params:
        code=code("mlip_studies.studies.collect"),
    script:
        "../../scripts/collect.py"


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


# One rule per figure and table, named by its alias: `snakemake krcelic_fig3_3` makes results/<scale>/krcelic/figures/fig3.3-test-loss.png.
ALIASES = {}
for kind, suffix, others in (
    ("figures", "png", ["svg", "csv"]),
    ("tables", "html", ["csv"]),
):
    for name, entry in KRCELIC[kind].items():
        alias_name = alias(kind, name, ALIASES)
        ALIASES[alias_name] = f"{KRCELIC_OUT}/{kind}/{name}.{suffix}"

        rule:
            name:
                alias_name
            input:
                data=product_inputs(entry),
                claims="config/claims/krcelic.yaml",
            output:
                report(
                    f"{KRCELIC_OUT}/{kind}/{name}.{suffix}",
                    caption=f"../../report/krcelic/{name}.rst",
                    category="Multi-fidelity (Krčelić)",
                    subcategory=kind.capitalize(),
                    labels={"name": name, "in the thesis": figure_number(name)},
                ),
                [f"{KRCELIC_OUT}/{kind}/{name}.{other}" for other in others],
            log:
                f"{LOGS}/{alias_name}.log",
            benchmark:
                f"{BENCHMARKS}/draw/{alias_name}.jsonl"
            localrule: True
            conda:
                "../../../envs/core.yaml"
            params:
                kind=kind,
                product=name,
                scale=SCALE,
                asked=asked_rows(),
                code=code("mlip_studies.studies.krcelic"),
            script:
                "../../scripts/krcelic_product.py"


# Verdicts twice: on what `make demo` runs, and on all variants (claims about a variant that did not run say so).
DEMO_PAIRS = [["ani", "coded"]]
ALL_PAIRS = [
    list(pair)
    for pair in dict.fromkeys(
        tuple(pair) for entry in KRCELIC["figures"].values() for pair in entry["inputs"]
    )
]
for verdicts, pairs in (("verdicts", DEMO_PAIRS), ("verdicts-all", ALL_PAIRS)):

    rule:
        name:
            f"krcelic_{verdicts.replace('-', '_')}"
        input:
            claims="config/claims/krcelic.yaml",
            tables=product_inputs({"inputs": pairs}),
        output:
            html=report(
                f"{KRCELIC_OUT}/{verdicts}.html",
                caption="../../report/verdicts.rst",
                category="Verdicts",
                labels={"name": verdicts, "in the thesis": "all claims"},
            ),
            csv=f"{KRCELIC_OUT}/{verdicts}.csv",
            json=f"{KRCELIC_OUT}/{verdicts}.json",
        log:
            f"{LOGS}/krcelic_{verdicts}.log",
        benchmark:
            f"{BENCHMARKS}/verdicts/krcelic-{verdicts}.jsonl"
        localrule: True
        conda:
            "../../../envs/core.yaml"
        params:
            scale=SCALE,
            code=code(
                "mlip_studies.claims.evaluate",
                "mlip_studies.claims.table",
                "mlip_studies.claims.krcelic",
            ),
        script:
            "../../scripts/verdicts.py"


def krcelic_products(wanted):
    return [
        f"{KRCELIC_OUT}/{kind}/{name}.{suffix}"
        for kind, suffix in (("figures", "png"), ("tables", "html"))
        for name, entry in KRCELIC[kind].items()
        if wanted(entry)
    ]


rule krcelic_demo:
    input:
        krcelic_products(lambda entry: entry["demo"]),
        f"{KRCELIC_OUT}/verdicts.html",
    localrule: True


rule krcelic:
    input:
        krcelic_products(lambda entry: True),
        f"{KRCELIC_OUT}/verdicts.html",
        f"{KRCELIC_OUT}/verdicts-all.html",
    localrule: True


STUDY_TARGETS += rules.krcelic.input
DEMO_TARGETS += rules.krcelic_demo.input
VERDICTS.append(f"{KRCELIC_OUT}/verdicts.json")
