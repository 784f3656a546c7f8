# So3krates on SPICE (Pavlović): figures, tables, verdicts.


include: "pavlovic_common.smk"


# One rule per figure and table, named by its alias: `snakemake pavlovic_slope` makes results/<scale>/pavlovic/figures/slope.png.
for key, product in PAVLOVIC_PRODUCTS.items():

    rule:
        name:
            pavlovic_alias(key)
        input:
            tables=pavlovic_inputs(product),
            claims="config/claims/pavlovic.yaml",
        output:
            report(
                product.paths(PAVLOVIC_OUT)[0],
                caption=f"../../report/pavlovic/{key}.rst",
                category="So3krates on SPICE (Pavlović)",
                subcategory=f"{product.kind.capitalize()}s",
                labels={"name": key, "in the thesis": product.in_paper},
            ),
            product.paths(PAVLOVIC_OUT)[1:],
        log:
            f"{LOGS}/pavlovic/{key}.log",
        benchmark:
            f"{BENCHMARKS}/draw/pavlovic-{key}.jsonl"
        localrule: True
        conda:
            "../../../envs/core.yaml"
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            module=product.module,
            function=product.function,
            scale=SCALE,
            n_train={
                name: max(SPLITS[entry["split"]]["train"])
                for name, entry in PAVLOVIC["data"].items()
                if SPLITS.get(entry["split"], {}).get("train")
            },
            code=code(product.module),
        script:
            "../../scripts/study_product.py"


rule pavlovic_outliers_3d:
    input:
        run=f"{PAVLOVIC_OUT}/runs/{PAVLOVIC_MAIN}/seed0/run.json",
        predictions=f"{PAVLOVIC_OUT}/runs/{PAVLOVIC_MAIN}/seed0/predictions.npz",
        store=run_store("pavlovic", PAVLOVIC_MAIN),
    output:
        page=report(
            f"{PAVLOVIC_OUT}/views/outliers-3d.html",
            caption="../../report/pavlovic/outliers-3d.rst",
            category="So3krates on SPICE (Pavlović)",
            subcategory="Views",
            labels={
                "name": "outliers-3d",
                "in the thesis": "section IV and Figure 3, right",
            },
        ),
        extxyz=f"{PAVLOVIC_OUT}/views/outliers.extxyz",
        chemiscope=f"{PAVLOVIC_OUT}/views/outliers.chemiscope.json.gz",
    log:
        f"{LOGS}/pavlovic/outliers-3d.log",
    benchmark:
        f"{BENCHMARKS}/draw/pavlovic-outliers-3d.jsonl"
    localrule: True
    conda:
        "../../../envs/core.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        title=f"Largest force residuals of {PAVLOVIC_MAIN}, scale {SCALE}",
        code=code("mlip_studies.studies.outlier_structures"),
    script:
        "../../scripts/outlier_structures.py"


for verdicts, demo in (("verdicts", True), ("verdicts-all", False)):

    rule:
        name:
            f"pavlovic_{verdicts.replace('-', '_')}"
        input:
            claims="config/claims/pavlovic.yaml",
            tables=pavlovic_verdict_inputs(demo),
        output:
            html=report(
                f"{PAVLOVIC_OUT}/{verdicts}.html",
                caption="../../report/verdicts.rst",
                category="Verdicts",
                labels={
                    "name": f"{verdicts} (So3krates on SPICE)",
                    "in the thesis": "all claims",
                },
            ),
            csv=f"{PAVLOVIC_OUT}/{verdicts}.csv",
            json=f"{PAVLOVIC_OUT}/{verdicts}.json",
        log:
            f"{LOGS}/pavlovic_{verdicts}.log",
        benchmark:
            f"{BENCHMARKS}/verdicts/pavlovic-{verdicts}.jsonl"
        localrule: True
        conda:
            "../../../envs/core.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            scale=SCALE,
            code=code(
                "mlip_studies.claims.evaluate",
                "mlip_studies.claims.table",
                "mlip_studies.claims.pavlovic",
            ),
        script:
            "../../scripts/verdicts.py"


rule pavlovic_demo:
    input:
        pavlovic_products(lambda product: product.demo),
        rules.pavlovic_outliers_3d.output.page,
        f"{PAVLOVIC_OUT}/verdicts.html",
    localrule: True


# The check on published ethanol frames, which are downloaded.
rule pavlovic_ethanol:
    input:
        pavlovic_products(lambda product: "published" in product.file_name),
    localrule: True


rule pavlovic:
    input:
        pavlovic_products(lambda product: True),
        rules.pavlovic_outliers_3d.output.page,
        f"{PAVLOVIC_OUT}/verdicts.html",
        f"{PAVLOVIC_OUT}/verdicts-all.html",
    localrule: True


STUDY_TARGETS += rules.pavlovic.input
DEMO_TARGETS += rules.pavlovic_demo.input
VERDICTS.append(f"{PAVLOVIC_OUT}/verdicts.json")
