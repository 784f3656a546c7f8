# One rule per figure and table of a study, named by its alias: `snakemake pavlovic_slope` makes
# results/<scale>/pavlovic/figures/slope.png.


include: "products_common.smk"


for study, module in PRODUCT_MODULES.items():
    for key, product in module.PRODUCTS.items():

        rule:
            name:
                alias(study, key)
            input:
                tables=study_product_inputs(study, product),
                claims=f"config/claims/{study}.yaml",
            output:
                report(
                    product.paths(f"{OUT}/{study}")[0],
                    caption=f"../report/{study}/{key}.rst",
                    category=module.CATEGORY,
                    subcategory=f"{product.kind.capitalize()}s",
                    labels=report_labels(key, product.in_paper),
                ),
                product.paths(f"{OUT}/{study}")[1:],
            log:
                f"{LOGS}/{study}/{key}.log",
            benchmark:
                f"{BENCHMARKS}/draw/{study}-{key}.jsonl"
            # First what is short: Snakemake looks up the inputs of all that is ready whenever a job ends.
            priority: 100
            localrule: True
            conda:
                "../../envs/core.yaml"
            resources:
                mem_mb=2000,
                runtime=10,
            params:
                module=product.module,
                function=product.function,
                tables="mlip_studies.claims.run_tables.RunTables",
                context=product_context(study),
                code=code(product.module),
            script:
                "../scripts/study_product.py"

    VERDICT_INPUTS[study] = {
        "verdicts": study_verdict_inputs(study, demo=True),
        "verdicts-all": study_verdict_inputs(study, demo=False),
    }


rule md_forecast:
    input:
        unpack(forecast_inputs),
    output:
        f"{OUT}/{{study}}/forecast.csv",
    log:
        f"{LOGS}/md_forecast/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/md_forecast/{{study}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: study_numbers(wildcards.study)["forecast"],
        code=code("mlip_studies.studies.md_forecast"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md_forecast.py"
