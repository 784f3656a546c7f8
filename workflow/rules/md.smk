# Molecular dynamics with the networks of a study's runs: one job per (study, job of dynamics, run), with its first seed.


rule md:
    input:
        potential=lambda wildcards: run_potential(wildcards.study, wildcards.run),
        start=md_start,
    output:
        trajectory=f"{OUT}/{{study}}/md/{{job}}/{{run}}/trajectory.h5",
        samples=f"{OUT}/{{study}}/md/{{job}}/{{run}}/samples.csv",
        replicas=f"{OUT}/{{study}}/md/{{job}}/{{run}}/replicas.csv",
        summary=f"{OUT}/{{study}}/md/{{job}}/{{run}}/summary.json",
    log:
        f"{LOGS}/md/{{study}}/{{job}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/md/{{study}}-{{job}}-{{run}}.jsonl"
    priority: 50
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 2500),
        runtime=growing(1440 if SCALE == "full" else 60),
    params:
        config=md_config,
        device=PROJECT.settings["device"],
        state=lambda wildcards: (
            f"{STATE}/md/{wildcards.study}__{wildcards.job}__{wildcards.run}"
        ),
        code=lambda wildcards: code(
            "mlip_studies.md.engine", *run_model_modules(wildcards)
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md.py"


rule md_observables:
    input:
        trajectory=f"{OUT}/{{study}}/md/{{job}}/{{run}}/trajectory.h5",
        store=lambda wildcards: run_store(wildcards.study, wildcards.run),
    output:
        f"{OUT}/{{study}}/md/{{job}}/{{run}}/distances.csv",
    log:
        f"{LOGS}/md_observables/{{study}}/{{job}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/md_observables/{{study}}-{{job}}-{{run}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000 if SCALE == "full" else 1000),
        runtime=growing(60),
    params:
        reference=lambda wildcards: reference_frames(wildcards),
        code=code("mlip_studies.md.observables"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md_observables.py"


# The networks in turn in one process on one machine, so that their ratios mean something.
rule md_speed:
    input:
        potentials=lambda wildcards: [
            f"{OUT}/{wildcards.study}/runs/{run}/seed0/model.safetensors"
            for run in speed_runs(wildcards.study)
        ],
        store=lambda wildcards: run_store(
            wildcards.study, speed_runs(wildcards.study)[0]
        ),
    output:
        f"{OUT}/{{study}}/speed.csv",
    log:
        f"{LOGS}/md_speed/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/md_speed/{{study}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 2500),
        runtime=growing(240 if SCALE == "full" else 60),
    params:
        labels=lambda wildcards: speed_runs(wildcards.study),
        settings=lambda wildcards: study_numbers(wildcards.study)["speed"],
        device=PROJECT.settings["device"],
        code=lambda wildcards: code(
            "mlip_studies.md.speed",
            *sorted(
                {
                    model_module(PROJECT.models["networks"][network]["model"])
                    for network in {
                        RUNS[wildcards.study][run].network
                        for run in speed_runs(wildcards.study)
                    }
                }
            ),
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md_speed.py"
