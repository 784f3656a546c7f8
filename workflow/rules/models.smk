# The networks themselves: parameters, equivariance of each layer, singular points. `snakemake models`.


include: "models_common.smk"


rule measure_model:
    output:
        f"{MODELS_OUT}/networks/{{network}}.json",
    log:
        f"{LOGS}/measure_model/{{network}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_model/{{network}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        entry=lambda wildcards: {
            key: value
            for key, value in lookup_network(wildcards.network).items()
            if key not in ("training", "trained")
        },
        code=lambda wildcards: code(
            "mlip_studies.models.measure",
            model_module(lookup_network(wildcards.network)["model"]),
        ),
    script:
        "../scripts/measure_model.py"


rule gemnet_singularities:
    output:
        f"{MODELS_OUT}/gemnet_singularities.csv",
    log:
        f"{LOGS}/gemnet_singularities.log",
    benchmark:
        f"{BENCHMARKS}/gemnet_singularities.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("mlip_studies.models.gemnet_scan"),
    script:
        "../scripts/gemnet_singularities.py"


rule nan_gradients:
    output:
        f"{MODELS_OUT}/nan_gradients.csv",
    log:
        f"{LOGS}/nan_gradients.log",
    benchmark:
        f"{BENCHMARKS}/nan_gradients.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        seed=0,
        code=code("mlip_studies.models.se3_singularities"),
    script:
        "../scripts/nan_gradients.py"


for key in MODEL_PRODUCTS:

    rule:
        name:
            f"models_{key.replace('-', '_')}"
        input:
            **model_inputs(key),
        output:
            report(
                model_files(key)[0],
                caption=f"../report/models/{key}.rst",
                category="Networks",
                labels=report_labels(key, MODEL_PRODUCTS[key].in_paper),
            ),
            model_files(key)[1:],
        log:
            f"{LOGS}/models/{key}.log",
        benchmark:
            f"{BENCHMARKS}/draw/models-{key}.jsonl"
        priority: 100
        localrule: True
        conda:
            "../../envs/core.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            product=key,
            scale=SCALE,
            code=code("mlip_studies.studies.models_overview"),
        script:
            "../scripts/model_product.py"


rule train_network:
    input:
        store=f"{OUT}/data/{TRAINING_CHECK['dataset']}/store.h5",
        split=f"{OUT}/data/{TRAINING_CHECK['dataset']}/splits/{TRAINING_CHECK['split']}.npz",
        self_energies=f"{OUT}/data/{TRAINING_CHECK['dataset']}/self_energies.json",
    output:
        **dict(
            zip(
                ("model", "metrics", "history", "predictions", "run"),
                expand(
                    f"{MODELS_OUT}/training/{{{{network}}}}/seed{{{{seed}}}}/{{name}}",
                    name=[
                        "model.safetensors",
                        "metrics.jsonl",
                        "history.csv",
                        "predictions.npz",
                        "run.json",
                    ],
                ),
            )
        ),
    log:
        f"{LOGS}/train_network/{{network}}-seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{network}}-seed{{seed}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 2000),
        runtime=growing(1440 if SCALE == "full" else 20),
    params:
        config=training_check_run,
        device=PROJECT.settings["device"],
        state=lambda wildcards: (
            f"{STATE}/train_network/{wildcards.network}__seed{wildcards.seed}"
        ),
        code=lambda wildcards: code(*network_modules(wildcards.network)),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/train_network.py"


rule models:
    input:
        model_targets(trained=False),
    localrule: True


rule models_check:
    input:
        model_targets(trained=True),
    localrule: True


# The check of training is a target of its own: at full scale it would download a data set that nobody asked for.
STUDY_TARGETS += rules.models.input
DEMO_TARGETS += rules.models.input
