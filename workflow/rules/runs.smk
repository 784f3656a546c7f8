# Tidy tables of the runs that a study lists.


rule analyse_run:
    input:
        runs=lambda wildcards: seed_files(wildcards, "run.json"),
        predictions=lambda wildcards: seed_files(wildcards, "predictions.npz"),
        history=lambda wildcards: seed_files(wildcards, "history.csv"),
        metrics=lambda wildcards: seed_files(wildcards, "metrics.jsonl"),
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
                "history",
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


# What a run's networks, all seeds, say about another data set.
rule transfer_test:
    input:
        models=lambda wildcards: seed_files(wildcards, "model.safetensors"),
        runs=lambda wildcards: seed_files(wildcards, "run.json"),
        store=lambda wildcards: (
            f"{OUT}/data/{test_entry(wildcards)['dataset']}/store.h5"
        ),
    output:
        f"{OUT}/{{study}}/tests/{{test}}/{{run}}.csv",
    log:
        f"{LOGS}/transfer_test/{{study}}/{{test}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/transfer_test/{{study}}-{{test}}-{{run}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1500),
        runtime=growing(240 if SCALE == "full" else 60),
    params:
        fidelity=lambda wildcards: test_entry(wildcards)["fidelity"],
        code=lambda wildcards: code(
            "mlip_studies.studies.transfer_test", *run_model_modules(wildcards)
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/transfer_test.py"


# Whether the forces of a run's networks are those of an energy.
rule curl:
    input:
        models=lambda wildcards: seed_files(wildcards, "model.safetensors"),
        store=lambda wildcards: curl_data(wildcards)["store"],
        split=lambda wildcards: curl_data(wildcards)["split"],
    output:
        f"{OUT}/{{study}}/curl/{{run}}.csv",
    log:
        f"{LOGS}/curl/{{study}}-{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/curl/{{study}}-{{run}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1500),
        runtime=growing(240 if SCALE == "full" else 60),
    params:
        rows=lambda wildcards: round(
            scaled(study_numbers(wildcards.study)["curl"]["rows"], 2)
        ),
        seed=lambda wildcards: study_numbers(wildcards.study)["curl"]["seed"],
        code=lambda wildcards: code(
            "mlip_studies.md.curl", *run_model_modules(wildcards)
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/curl.py"
