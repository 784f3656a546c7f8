# Physical adequacy: scans and symmetry tests of potentials, reference curves, costs. Potentials whose weights or packages
# are not at hand are left out; unavailable.json says which, and why.


include: "adequacy_common.smk"


rule list_potentials:
    input:
        [path for name in RUNNABLE for path in weights_of(name)],
    output:
        described=f"{ADEQUACY_OUT}/potentials.json",
        missing=f"{ADEQUACY_OUT}/unavailable.json",
    log:
        f"{LOGS}/list_potentials.log",
    benchmark:
        f"{BENCHMARKS}/list_potentials.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        entries=ENTRIES,
        code=code("mlip_studies.adequacy.potentials"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/list_potentials.py"


# In one process: starting it takes longer than all of them.
rule build_scans:
    input:
        scan_starts(),
    output:
        scan_files(),
    log:
        f"{LOGS}/build_scans.log",
    benchmark:
        f"{BENCHMARKS}/build_scans.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        scans=ADEQUACY_SCANS,
        settings=adequacy_numbers()["scans"],
        code=code("mlip_studies.adequacy.scans"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/build_scans.py"


# All scans of one potential in one process: opening it takes longer than most of them.
rule run_scans:
    input:
        scans=scan_files(),
        weights=lambda wildcards: weights_of(wildcards.potential),
    output:
        curves=curve_files("{potential}", "{precision}"),
        forces=curve_files("{potential}", "{precision}", suffix="npz"),
    log:
        f"{LOGS}/run_scans/{{potential}}-{{precision}}.log",
    benchmark:
        f"{BENCHMARKS}/run_scans/{{potential}}-{{precision}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(16000 if SCALE == "full" else 3000),
        runtime=growing(240 if SCALE == "full" else 60),
    params:
        entry=lambda wildcards: ENTRIES[wildcards.potential],
        precision="{precision}",
        code=code("mlip_studies.adequacy.run_scan"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/run_scan.py"


rule reference_curve:
    input:
        scan=f"{ADEQUACY_OUT}/scans/{{scan}}.npz",
    output:
        curve=f"{ADEQUACY_OUT}/reference/{{scan}}/{level_file()}.csv",
    log:
        f"{LOGS}/reference_curve/{{scan}}.log",
    benchmark:
        f"{BENCHMARKS}/reference_curve/{{scan}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 16
    resources:
        mem_mb=growing(64000 if SCALE == "full" else 3000),
        runtime=growing(1440 if SCALE == "full" else 60),
    params:
        level=adequacy_numbers()["reference"]["level"],
        settings={
            key: value
            for key, value in adequacy_numbers()["reference"].items()
            if key not in ("level", "scans", "exclude")
        },
        state=lambda wildcards: f"{STATE}/reference_curve/{wildcards.scan}",
        code=code("mlip_studies.adequacy.reference", "mlip_studies.dft.open_shell"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/reference_curve.py"


rule symmetry_report:
    input:
        weights=lambda wildcards: weights_of(wildcards.potential),
    output:
        f"{ADEQUACY_OUT}/symmetry/{{potential}}/{{precision}}.csv",
    log:
        f"{LOGS}/symmetry_report/{{potential}}-{{precision}}.log",
    benchmark:
        f"{BENCHMARKS}/symmetry_report/{{potential}}-{{precision}}.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1 if SCALE == "mini" else 4
    resources:
        gpu=1,
        mem_mb=growing(8000 if SCALE == "full" else 3000),
        runtime=growing(60),
    params:
        entry=lambda wildcards: ENTRIES[wildcards.potential],
        precision="{precision}",
        settings=adequacy_numbers()["symmetry"],
        code=code("mlip_studies.adequacy.symmetry"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/symmetry_report.py"


# In one process on one machine, so that their ratios mean something.
rule measure_cost:
    input:
        [path for name in RUNNABLE for path in weights_of(name)],
    output:
        f"{ADEQUACY_OUT}/cost/cost.csv",
    log:
        f"{LOGS}/measure_cost.log",
    benchmark:
        f"{BENCHMARKS}/measure_cost.jsonl"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(16000 if SCALE == "full" else 3000),
        runtime=growing(240 if SCALE == "full" else 60),
    params:
        entries=RUNNABLE,
        settings=adequacy_numbers()["cost"],
        code=code("mlip_studies.adequacy.cost"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/measure_cost.py"


rule analyse_scans:
    input:
        curves=all_curves(),
        forces=all_curves(suffix="npz"),
        scans=scan_files(),
        references=reference_files(),
    output:
        f"{ADEQUACY_OUT}/analysis.csv",
    log:
        f"{LOGS}/analyse_scans.log",
    benchmark:
        f"{BENCHMARKS}/analyse_scans.jsonl"
    priority: 100
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("mlip_studies.adequacy.analysis"),
        code_folder=f"{STATE}/code",
    script:
        "../scripts/analyse_scans.py"


for key, product in ADEQUACY.PRODUCTS.items():

    rule:
        name:
            product_alias("ortiz", key)
        input:
            tables=adequacy_inputs(key),
            claims="config/claims/ortiz.yaml",
        output:
            report(
                product.paths(ADEQUACY_OUT)[0],
                caption=f"../report/ortiz/{key}.rst",
                category=ADEQUACY.CATEGORY,
                subcategory=f"{product.kind.capitalize()}s",
                labels=report_labels(key, product.in_paper),
            ),
            product.paths(ADEQUACY_OUT)[1:],
        log:
            f"{LOGS}/ortiz/{key}.log",
        benchmark:
            f"{BENCHMARKS}/draw/ortiz-{key}.jsonl"
        priority: 100
        localrule: True
        conda:
            "../../envs/core.yaml"
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            module=product.module,
            function=product.function,
            tables="mlip_studies.claims.adequacy_tables.AdequacyTables",
            context=adequacy_context(),
            code=code(product.module),
        script:
            "../scripts/study_product.py"


VERDICT_INPUTS["ortiz"] = {
    "verdicts": sorted(
        {path for key in ADEQUACY.PRODUCTS for path in adequacy_inputs(key)}
    ),
}
