# So3krates on SPICE (Pavlović): its targets, and the view of its outliers.
from mlip_studies.studies.pavlovic_products import MAIN_RUN as PAVLOVIC_MAIN

PAVLOVIC_OUT = f"{OUT}/pavlovic"


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
            labels=report_labels("outliers-3d", "section IV and Figure 3, right"),
        ),
        extxyz=f"{PAVLOVIC_OUT}/views/outliers.extxyz",
        chemiscope=f"{PAVLOVIC_OUT}/views/outliers.chemiscope.json.gz",
    log:
        f"{LOGS}/pavlovic/outliers-3d.log",
    benchmark:
        f"{BENCHMARKS}/draw/pavlovic-outliers-3d.jsonl"
    priority: 100
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


rule pavlovic_demo:
    input:
        study_products("pavlovic", lambda product: product.demo),
        rules.pavlovic_outliers_3d.output.page,
        f"{PAVLOVIC_OUT}/verdicts.html",
    localrule: True


# The check on published ethanol frames, which are downloaded.
rule pavlovic_ethanol:
    input:
        study_products("pavlovic", lambda product: "published" in product.file_name),
    localrule: True


rule pavlovic:
    input:
        study_products("pavlovic", lambda product: True),
        rules.pavlovic_outliers_3d.output.page,
        f"{PAVLOVIC_OUT}/verdicts.html",
        f"{PAVLOVIC_OUT}/verdicts-all.html",
    localrule: True


STUDY_TARGETS += rules.pavlovic.input
DEMO_TARGETS += rules.pavlovic_demo.input
