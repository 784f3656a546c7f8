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
        mirror=PROJECT.settings.get("mirror"),
    script:
        "../scripts/fetch.py"


rule fetch_all:
    input:
        sorted(
            {
                path_of(entry["file"])
                for name in ENABLED_DATASETS
                for entry in source_entries(name)
                if not entry["file"].get("path")
            }
        ),
    localrule: True


rule store:
    input:
        source_files,
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
        dataset=lambda wildcards: resolve_dataset(
            PROJECT.datasets, wildcards.dataset, SCALE
        ),
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
