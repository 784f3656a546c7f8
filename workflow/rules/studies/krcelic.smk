# Multi-fidelity study (Krčelić): figures, tables, verdicts.


include: "krcelic_common.smk"


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
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("mlip_studies.studies.collect"),
    script:
        "../../scripts/collect.py"


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
                data=krcelic_inputs(entry),
                claims="config/claims/krcelic.yaml",
            output:
                report(
                    f"{KRCELIC_OUT}/{kind}/{name}.{suffix}",
                    caption=f"../../report/krcelic/{name}.rst",
                    category="Multi-fidelity (Krčelić)",
                    subcategory=kind.capitalize(),
                    labels=report_labels(name, figure_number(name)),
                ),
                [f"{KRCELIC_OUT}/{kind}/{name}.{other}" for other in others],
            log:
                f"{LOGS}/{alias_name}.log",
            benchmark:
                f"{BENCHMARKS}/draw/{alias_name}.jsonl"
            priority: 100
            localrule: True
            conda:
                "../../../envs/core.yaml"
            resources:
                mem_mb=1000,
                runtime=10,
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
VERDICT_INPUTS["krcelic"] = {
    "verdicts": krcelic_inputs({"inputs": DEMO_PAIRS}),
    "verdicts-all": krcelic_inputs({"inputs": ALL_PAIRS}),
}


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
