# Data sets: download, canonical store, splits, per-element regression.


rule fetch:
    output:
        protected(f"{OUT}/data/raw/{{file}}"),
    log:
        f"{LOGS}/fetch/{{file}}.log",
    benchmark:
        f"{BENCHMARKS}/fetch/{{file}}.jsonl"
    wildcard_constraints:
        file="|".join(re.escape(name) for name in DOWNLOADS),
    retries: 2
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=500,
        runtime=720,
    params:
        file=lambda wildcards: DOWNLOADS[wildcards.file],
    script:
        "../scripts/fetch.py"


rule fetch_all:
    input:
        sorted(
            {
                path_of(file)
                for name in ENABLED_DATASETS
                for file in all_files(name)
                if not file.get("path")
            }
        ),
    localrule: True


rule store:
    input:
        sources=source_files,
        aux=auxiliary_files,
    output:
        store=f"{OUT}/data/{{dataset}}/store.h5",
        funnel=f"{OUT}/data/{{dataset}}/funnel.csv",
    log:
        f"{LOGS}/store/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/store/{{dataset}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(240),
    params:
        dataset=lambda wildcards: resolved(wildcards.dataset),
        code=lambda wildcards: code(
            "mlip_studies.data.build",
            *sorted(
                {
                    f"mlip_studies.data.readers.{entry['reader']}"
                    for entry in source_entries(wildcards.dataset)
                }
            ),
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/store.py"


rule multi_fidelity_split:
    input:
        lambda wildcards: f"{OUT}/data/{lookup_experiment(wildcards.study, wildcards.experiment)['dataset']}/store.h5",
    output:
        split=f"{OUT}/{{study}}/{{experiment}}/split.npz",
        report=f"{OUT}/{{study}}/{{experiment}}/split.json",
    log:
        f"{LOGS}/multi_fidelity_split/{{study}}/{{experiment}}.log",
    benchmark:
        f"{BENCHMARKS}/multi_fidelity_split/{{study}}-{{experiment}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1000),
        runtime=growing(60),
    params:
        split=split_params,
        code=code("mlip_studies.data.splits"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/split.py"


rule self_energies:
    input:
        store=lambda wildcards: f"{OUT}/data/{lookup_experiment(wildcards.study, wildcards.experiment)['dataset']}/store.h5",
        split=f"{OUT}/{{study}}/{{experiment}}/split.npz",
    output:
        f"{OUT}/{{study}}/{{experiment}}/self_energies_{{rows}}.json",
    log:
        f"{LOGS}/self_energies/{{study}}/{{experiment}}-{{rows}}.log",
    benchmark:
        f"{BENCHMARKS}/self_energies/{{study}}-{{experiment}}-{{rows}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        dataset=lambda wildcards: lookup_experiment(
            wildcards.study, wildcards.experiment
        )["dataset"],
        low=lambda wildcards: lookup_experiment(wildcards.study, wildcards.experiment)[
            "low"
        ],
        high=lambda wildcards: lookup_experiment(
            wildcards.study, wildcards.experiment
        )["high"],
        code=code("mlip_studies.data.self_energies"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/self_energies.py"


rule regress:
    input:
        f"{OUT}/data/{{dataset}}/store.h5",
    output:
        f"{OUT}/data/{{dataset}}/self_energies.json",
    log:
        f"{LOGS}/regress/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/regress/{{dataset}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("mlip_studies.data.self_energies"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/regress.py"


rule shift_check:
    input:
        f"{OUT}/data/{{dataset}}/store.h5",
    output:
        f"{OUT}/data/{{dataset}}/shift_check.csv",
    log:
        f"{LOGS}/shift_check/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/shift_check/{{dataset}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("mlip_studies.data.shift_check"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/shift_check.py"


rule summary:
    input:
        f"{OUT}/data/{{dataset}}/store.h5",
    output:
        f"{OUT}/data/{{dataset}}/summary.json",
    log:
        f"{LOGS}/summary/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/summary/{{dataset}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("mlip_studies.data.summary"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/summary.py"


rule named_split:
    input:
        store=f"{OUT}/data/{{dataset}}/store.h5",
        base=base_split,
        index=index_files,
    output:
        split=f"{OUT}/data/{{dataset}}/splits/{{split}}.npz",
        report=f"{OUT}/data/{{dataset}}/splits/{{split}}.json",
    log:
        f"{LOGS}/named_split/{{dataset}}-{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/named_split/{{dataset}}-{{split}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000 if SCALE == "full" else 1000),
        runtime=growing(120),
    params:
        spec=lookup_split,
        code=code("mlip_studies.data.named_splits"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/named_split.py"


rule split_self_energies:
    input:
        store=f"{OUT}/data/{{dataset}}/store.h5",
        split=f"{OUT}/data/{{dataset}}/splits/{{split}}.npz",
    output:
        f"{OUT}/data/{{dataset}}/splits/{{split}}.self_energies.json",
    log:
        f"{LOGS}/split_self_energies/{{dataset}}-{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/split_self_energies/{{dataset}}-{{split}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("mlip_studies.data.split_self_energies"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/split_self_energies.py"


rule nbody:
    output:
        f"{OUT}/data/nbody/nbody.npz",
    log:
        f"{LOGS}/nbody.log",
    benchmark:
        f"{BENCHMARKS}/nbody.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        settings=PROJECT.data["nbody"],
        code=code("mlip_studies.data.nbody"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/nbody.py"
