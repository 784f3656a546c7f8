# Tidy tables of the runs that a study lists.


rule analyse_run:
    input:
        runs=lambda wildcards: seed_files(wildcards, "run.json"),
        predictions=lambda wildcards: seed_files(wildcards, "predictions.npz"),
        store=lambda wildcards: run_store(wildcards.study, wildcards.run),
    output:
        **{
            kind: f"{OUT}/{{study}}/tables/{{run}}/{kind}.csv"
            for kind in (
                "runs",
                "molecules",
                "forces",
                "elements",
                "outliers",
                "ensemble",
            )
        },
    log:
        f"{LOGS}/analyse_run/{{study}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/analyse_run/{{study}}-{{run}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000 if SCALE == "full" else 1000),
        runtime=growing(60),
    params:
        run="{run}",
        code=code("mlip_studies.studies.run_tables"),
    script:
        "../scripts/analyse_run.py"
