# Figures and tables of the data sets: `snakemake data`.


include: "data_report_common.smk"


rule reference_energies:
    input:
        fits=[f"{DATA_OUT}/{name}/self_energies.json" for name in DATASETS],
        published="config/self_energies.yaml",
        schema="workflow/schemas/self_energies.schema.yaml",
        atoms="resources/isolated-atoms/isolated_atoms.csv",
    output:
        f"{DATA_OUT}/reference_energies.csv",
    log:
        f"{LOGS}/reference_energies.log",
    benchmark:
        f"{BENCHMARKS}/reference_energies.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        levels={name: levels_of(name) for name in DATASETS},
        code=code("mlip_studies.data.reference_energies"),
    script:
        "../scripts/reference_energies.py"


rule table31:
    input:
        stores=table31_files("store.h5"),
        fits=table31_files("self_energies.json"),
        published="config/self_energies.yaml",
        schema="workflow/schemas/self_energies.schema.yaml",
    output:
        f"{DATA_OUT}/table31.csv",
    log:
        f"{LOGS}/table31.log",
    benchmark:
        f"{BENCHMARKS}/table31.jsonl"
    localrule: SCALE == "mini"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        rows=list(PROJECT.data["table31"]),
        code=code("mlip_studies.data.reference_energies"),
    script:
        "../scripts/table31.py"


# Figures and tables of one data set, by path: results/mini/data/figures/funnel-spice_mini.png. Any data set will do.
for rule_name, key in data_products(per_dataset=True):

    rule:
        name:
            rule_name
        input:
            data_inputs_of(key),
        output:
            report(
                data_files(key)[0],
                caption=f"../report/data/{PRODUCTS[key].caption}",
                category="Data sets",
                subcategory="{dataset}",
                labels=data_labels(key),
            ),
            data_files(key)[1:],
        log:
            f"{LOGS}/{rule_name}/{{dataset}}.log",
        benchmark:
            f"{BENCHMARKS}/draw/{rule_name}-{{dataset}}.jsonl"
        priority: 100
        localrule: True
        conda:
            "../../envs/core.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            product=key,
            dataset=lambda wildcards: wildcards.dataset,
            scale=SCALE,
            title=lambda wildcards: resolved(wildcards.dataset)["title"],
            shipped=lambda wildcards: is_shipped(wildcards.dataset),
            code=code("mlip_studies.studies.data_overview"),
        script:
            "../scripts/data_product.py"


# Figures and tables across data sets, also by their alias: `snakemake data_self_energies`.
for rule_name, key in data_products(per_dataset=False):

    rule:
        name:
            rule_name
        input:
            data_inputs(key),
        output:
            report(
                data_files(key)[0],
                caption=f"../report/data/{PRODUCTS[key].caption}",
                category="Data sets",
                subcategory="all",
                labels=data_labels(key),
            ),
            data_files(key)[1:],
        log:
            f"{LOGS}/{rule_name}.log",
        benchmark:
            f"{BENCHMARKS}/draw/{rule_name}.jsonl"
        priority: 100
        localrule: True
        conda:
            "../../envs/core.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            product=key,
            dataset="",
            scale=SCALE,
            title="",
            shipped=all(is_shipped(name) for name in DATASETS),
            code=code("mlip_studies.studies.data_overview"),
        script:
            "../scripts/data_product.py"


rule data:
    input:
        data_targets(),
    localrule: True


STUDY_TARGETS += rules.data.input
DEMO_TARGETS += rules.data.input
