# Training runs. Studies with a list of runs: one job per (study, run, seed). Multi-fidelity: one per (study, experiment,
# variant, mix, seed).


rule train_run:
    input:
        store=lambda wildcards: run_config(wildcards)["store"],
        split=lambda wildcards: run_config(wildcards)["split"],
        self_energies=lambda wildcards: run_config(wildcards).get("self_energies", []),
    output:
        **{
            key: f"{OUT}/{{study}}/runs/{{run}}/seed{{seed}}/{name}"
            for key, name in RUN_FILES.items()
        },
    log:
        f"{LOGS}/train_run/{{study}}/{{run}}-seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{study}}-{{run}}-seed{{seed}}.jsonl"
    priority: 10
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(24000 if SCALE == "full" else 2500),
        runtime=growing(1440 if SCALE == "full" else 60),
    params:
        config=lambda wildcards: run_config(wildcards),
        device=PROJECT.settings["device"],
        state=lambda wildcards: (
            f"{STATE}/train_run/{wildcards.study}__{wildcards.run}__seed{wildcards.seed}"
        ),
        code=lambda wildcards: code(*run_modules(wildcards)),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/train_network.py"


rule train:
    input:
        store=lambda wildcards: f"{OUT}/data/{lookup_experiment(wildcards.study, wildcards.experiment)['dataset']}/store.h5",
        split=f"{OUT}/{{study}}/{{experiment}}/split.npz",
        self_energies=lambda wildcards: (
            f"{OUT}/{wildcards.study}/{wildcards.experiment}/self_energies_{fitted_rows(wildcards)}.json"
        ),
    output:
        model=f"{OUT}/{{study}}/runs/{{experiment}}/{{variant}}/{{mix}}/seed{{seed}}/model.safetensors",
        history=f"{OUT}/{{study}}/runs/{{experiment}}/{{variant}}/{{mix}}/seed{{seed}}/history.csv",
        predictions=f"{OUT}/{{study}}/runs/{{experiment}}/{{variant}}/{{mix}}/seed{{seed}}/predictions.csv",
        run=f"{OUT}/{{study}}/runs/{{experiment}}/{{variant}}/{{mix}}/seed{{seed}}/run.json",
    log:
        f"{LOGS}/train/{{study}}/{{experiment}}/{{variant}}/{{mix}}-seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{study}}-{{experiment}}-{{variant}}-{{mix}}-seed{{seed}}.jsonl"
    priority: 10
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 2000),
        runtime=growing(1440 if SCALE == "full" else 20),
    params:
        spec=run_spec,
        device=PROJECT.settings["device"],
        state=lambda wildcards: (
            f"{STATE}/train/{wildcards.study}__{wildcards.experiment}__{wildcards.variant}"
            f"__{wildcards.mix}__seed{wildcards.seed}"
        ),
        code=lambda wildcards: code(
            "mlip_studies.training.multi_fidelity",
            model_module(
                study_numbers(wildcards.study)["variants"][wildcards.variant]["model"]
            ),
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/train.py"
