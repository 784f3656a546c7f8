# Networks for charged particles, which learn trajectories instead of energies and forces.


rule train_nbody:
    input:
        data=f"{OUT}/data/nbody/nbody.npz",
    output:
        model=f"{OUT}/{{study}}/nbody/{{network}}/model.safetensors",
        history=f"{OUT}/{{study}}/nbody/{{network}}/history.csv",
        predictions=f"{OUT}/{{study}}/nbody/{{network}}/predictions.npz",
        run=f"{OUT}/{{study}}/nbody/{{network}}/run.json",
    log:
        f"{LOGS}/train_nbody/{{study}}-{{network}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{study}}-nbody-{{network}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 2000),
        runtime=growing(1440 if SCALE == "full" else 60),
    params:
        settings=nbody_settings,
        device=PROJECT.settings["device"],
        state=lambda wildcards: (
            f"{STATE}/train_nbody/{wildcards.study}__{wildcards.network}"
        ),
        code=code("mlip_studies.training.nbody"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/train_nbody.py"


# What can be said without a network.
rule nbody_baselines:
    input:
        data=f"{OUT}/data/nbody/nbody.npz",
    output:
        f"{OUT}/{{study}}/nbody/baselines.csv",
    log:
        f"{LOGS}/nbody_baselines/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/nbody_baselines/{{study}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: {
            "ahead_frames": study_numbers(wildcards.study)["nbody"]["ahead_frames"]
        },
        code=code("mlip_studies.training.nbody"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/nbody_baselines.py"
