# Robustness of dynamics: start structures, what happened to the molecules, reference calculations of sampled frames, and
# what the networks say about these.


rule representatives:
    input:
        store=lambda wildcards: study_store(
            wildcards.study, start_entry(wildcards, "representatives")["data"]
        ),
    output:
        structures=f"{OUT}/{{study}}/starts/{{starts}}.xyz",
        report=f"{OUT}/{{study}}/starts/{{starts}}.json",
    log:
        f"{LOGS}/representatives/{{study}}-{{starts}}.log",
    benchmark:
        f"{BENCHMARKS}/representatives/{{study}}-{{starts}}.jsonl"
    wildcard_constraints:
        starts=starts_of("representatives"),
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1000),
        runtime=growing(120),
    params:
        spec=lambda wildcards: representatives_spec(wildcards),
        code=code("mlip_studies.data.representatives"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/representatives.py"


rule start_structures:
    input:
        files=lambda wildcards: [
            f"resources/{start_entry(wildcards, 'resources')['folder']}/{name}.xyz"
            for name in start_entry(wildcards, "resources")["files"]
        ],
    output:
        structures=f"{OUT}/{{study}}/starts/{{starts}}.xyz",
    log:
        f"{LOGS}/start_structures/{{study}}-{{starts}}.log",
    benchmark:
        f"{BENCHMARKS}/start_structures/{{study}}-{{starts}}.jsonl"
    wildcard_constraints:
        starts=starts_of("resources"),
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("mlip_studies.data.representatives"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/representatives.py"


rule isolated_atoms:
    input:
        store=lambda wildcards: f"{OUT}/data/{study_data(wildcards)['dataset']}/store.h5",
        published="config/self_energies.yaml",
        schema="workflow/schemas/self_energies.schema.yaml",
        own="resources/isolated-atoms/isolated_atoms.csv",
    output:
        f"{OUT}/{{study}}/isolated_atoms/{{data}}.json",
    log:
        f"{LOGS}/isolated_atoms/{{study}}-{{data}}.log",
    benchmark:
        f"{BENCHMARKS}/isolated_atoms/{{study}}-{{data}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        fidelity=lambda wildcards: study_data(wildcards)["fidelity"],
        atoms=lambda wildcards: study_data(wildcards)["isolated_atoms"],
        code=code("mlip_studies.data.isolated_atoms"),
    script:
        "../scripts/isolated_atoms.py"


rule md_robustness:
    input:
        trajectory=f"{OUT}/{{study}}/md/{{job}}/{{run}}/trajectory.h5",
    output:
        robustness=f"{OUT}/{{study}}/md/{{job}}/{{run}}/robustness.csv",
        topology=f"{OUT}/{{study}}/md/{{job}}/{{run}}/topology.csv",
    log:
        f"{LOGS}/md_robustness/{{study}}/{{job}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/md_robustness/{{study}}-{{job}}-{{run}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000 if SCALE == "full" else 1000),
        runtime=growing(60),
    params:
        limits=lambda wildcards: study_numbers(wildcards.study)["robustness"],
        code=code("mlip_studies.md.robustness"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md_robustness.py"


rule md_spikes:
    input:
        trajectory=f"{OUT}/{{study}}/md/{{job}}/{{run}}/trajectory.h5",
    output:
        f"{OUT}/{{study}}/md/{{job}}/{{run}}/spikes.csv",
    log:
        f"{LOGS}/md_spikes/{{study}}/{{job}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/md_spikes/{{study}}-{{job}}-{{run}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("mlip_studies.md.spikes"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/md_spikes.py"


rule sample_frames:
    input:
        trajectory=f"{OUT}/{{study}}/md/{{job}}/{{run}}/trajectory.h5",
        robustness=f"{OUT}/{{study}}/md/{{job}}/{{run}}/robustness.csv",
    output:
        f"{OUT}/{{study}}/checks/{{job}}/{{run}}/frames.npz",
    log:
        f"{LOGS}/sample_frames/{{study}}/{{job}}/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/sample_frames/{{study}}-{{job}}-{{run}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        samples=check_samples,
        code=code("mlip_studies.md.frames"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/sample_frames.py"


rule floor_frames:
    input:
        store=floor_store,
        split=floor_split,
    output:
        f"{OUT}/{{study}}/floor/frames.npz",
    log:
        f"{LOGS}/floor_frames/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/floor_frames/{{study}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=floor_settings,
        code=code("mlip_studies.studies.label_floor"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/floor_frames.py"


# All reference calculations of one network's dynamics in one resumable job, one process per core.
rule spot_check:
    input:
        frames=f"{OUT}/{{study}}/{{frames}}/frames.npz",
    output:
        labels_npz=f"{OUT}/{{study}}/{{frames}}/labels.npz",
        labels_csv=f"{OUT}/{{study}}/{{frames}}/labels.csv",
    log:
        f"{LOGS}/spot_check/{{study}}/{{frames}}.log",
    benchmark:
        f"{BENCHMARKS}/spot_check/{{study}}/{{frames}}.jsonl"
    wildcard_constraints:
        frames=r"floor|checks/[a-z0-9_]+/[A-Za-z0-9_.-]+",
    priority: 50
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 16
    resources:
        mem_mb=growing(48000 if SCALE == "full" else 3000),
        runtime=growing(1440 if SCALE == "full" else 60),
    params:
        config=spot_check_settings,
        state=lambda wildcards: (
            f"{STATE}/spot_check/{wildcards.study}__{wildcards.frames.replace(os.sep, '__')}"
        ),
        code=code("mlip_studies.dft.spot_check"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/spot_check.py"


rule floor:
    input:
        frames=f"{OUT}/{{study}}/floor/frames.npz",
        labels=f"{OUT}/{{study}}/floor/labels.npz",
        table=f"{OUT}/{{study}}/floor/labels.csv",
        store=floor_store,
        atoms=floor_atoms,
    output:
        f"{OUT}/{{study}}/floor/floor.csv",
    log:
        f"{LOGS}/floor/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/floor/{{study}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        fidelity=lambda wildcards: floor_data(wildcards)["fidelity"],
        code=code("mlip_studies.studies.label_floor"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/floor.py"


# What the network of run `judge` says about the frames of run `run`: usually its own, else a cross-evaluation.
rule spot_errors:
    input:
        frames=f"{OUT}/{{study}}/checks/{{job}}/{{run}}/frames.npz",
        labels=f"{OUT}/{{study}}/checks/{{job}}/{{run}}/labels.npz",
        table=f"{OUT}/{{study}}/checks/{{job}}/{{run}}/labels.csv",
        potential=lambda wildcards: run_potential(wildcards.study, wildcards.judge),
        atoms=judge_atoms,
        schema="workflow/schemas/self_energies.schema.yaml",
    output:
        errors=f"{OUT}/{{study}}/checks/{{job}}/{{run}}/judged/{{judge}}.csv",
        components=f"{OUT}/{{study}}/checks/{{job}}/{{run}}/judged/{{judge}}.components.csv",
    log:
        f"{LOGS}/spot_errors/{{study}}/{{job}}/{{run}}/{{judge}}.log",
    benchmark:
        f"{BENCHMARKS}/spot_errors/{{study}}-{{job}}-{{run}}-{{judge}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        mem_mb=growing(8000 if SCALE == "full" else 1500),
        runtime=growing(60),
    params:
        judge="{judge}",
        published=lambda wildcards: published_judge(wildcards),
        code=lambda wildcards: code(
            "mlip_studies.studies.spot_errors",
            *judge_modules(wildcards),
        ),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/spot_errors.py"


rule extend_store:
    input:
        unpack(extension_inputs),
    output:
        store=f"{OUT}/{{study}}/extended/{{data}}/store.h5",
        report=f"{OUT}/{{study}}/extended/{{data}}/report.json",
    log:
        f"{LOGS}/extend_store/{{study}}-{{data}}.log",
    benchmark:
        f"{BENCHMARKS}/extend_store/{{study}}-{{data}}.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000 if SCALE == "full" else 1000),
        runtime=growing(240),
    params:
        selection=lambda wildcards: study_data(wildcards)["extends"]["selection"],
        fidelity=lambda wildcards: study_data(wildcards)["fidelity"],
        code=code("mlip_studies.data.extend_store"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/extend_store.py"


rule extend_split:
    input:
        store=f"{OUT}/{{study}}/extended/{{data}}/store.h5",
        split=base_split_of,
    output:
        split=f"{OUT}/{{study}}/extended/{{data}}/split.npz",
        report=f"{OUT}/{{study}}/extended/{{data}}/split.json",
    log:
        f"{LOGS}/extend_split/{{study}}-{{data}}.log",
    benchmark:
        f"{BENCHMARKS}/extend_split/{{study}}-{{data}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        train_size=extended_size,
        total=extended_total,
        code=code("mlip_studies.data.extend_store"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/extend_store.py"


rule active_rounds:
    input:
        unpack(active_rounds),
    output:
        f"{OUT}/{{study}}/active/active.csv",
    log:
        f"{LOGS}/active_rounds/{{study}}.log",
    benchmark:
        f"{BENCHMARKS}/active_rounds/{{study}}.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("mlip_studies.studies.stocker_active"),
    script:
        "../scripts/active_rounds.py"
