# Rebuilding the mini data sets in resources/ from quantum chemistry: `snakemake mini_data` (hours), or one of them:
# mini_ani1x, mini_ani1, mini_comp6, mini_spice, mini_qm7x, mini_md17. Every calculation is kept, so a run can be cut off.
# The shipped minima and geometries are the starting point, so that every row comes out the same; mini_minima and
# mini_geometries make them anew. Nothing in resources/ is overwritten.
include: "mini_data_common.smk"


wildcard_constraints:
    set="|".join(MINI_SETS),
    system=r"[A-Za-z0-9-]+(_s\d+-\d+)?",


rule mini_data:
    input:
        f"{MINI_BUILD}/ani1x-mini.h5",
        f"{MINI_ROOT}/isolated_atoms.csv",
        [file for name in MINI_SETS for file in mini_outputs(name)],
    localrule: True


# ---- mini ANI-1x ----


rule mini_ani_minimum:
    input:
        MINI_RECIPE,
    output:
        f"{MINI_BUILD}/minima/{{molecule}}.json",
    log:
        f"{MINI_BUILD}/logs/minimum/{{molecule}}.log",
    benchmark:
        f"{MINI_BUILD}/benchmarks/minimum-{{molecule}}.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("mlip_studies.mini_data.ani"),
    script:
        "../scripts/mini_ani_minimum.py"


rule mini_ani_minima:
    input:
        [f"{MINI_BUILD}/minima/{m['name']}.json" for m in MINI_ANI["molecules"]],
    localrule: True


rule mini_ani_shard:
    input:
        recipe=MINI_RECIPE,
        minimum="resources/ani1x-mini/minima/{molecule}.json",
    output:
        f"{MINI_BUILD}/shards/{{molecule}}_{{kind}}_{{first}}.jsonl",
    log:
        f"{MINI_BUILD}/logs/shard/{{molecule}}_{{kind}}_{{first}}.log",
    benchmark:
        f"{MINI_BUILD}/benchmarks/shard-{{molecule}}_{{kind}}_{{first}}.jsonl"
    wildcard_constraints:
        kind="dft|cc",
        first=r"\d+",
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(6000),
        runtime=growing(180),
    params:
        code=code("mlip_studies.mini_data.ani"),
    script:
        "../scripts/mini_ani_shard.py"


rule mini_ani1x:
    input:
        recipe=MINI_RECIPE,
        shards=[f"{MINI_BUILD}/shards/{name}" for name in mini_shards()],
    output:
        data=f"{MINI_BUILD}/ani1x-mini.h5",
        rows=f"{MINI_BUILD}/rows.csv",
    log:
        f"{MINI_BUILD}/logs/assemble.log",
    benchmark:
        f"{MINI_BUILD}/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        minima="resources/ani1x-mini/minima",
        code=code("mlip_studies.mini_data.ani"),
    script:
        "../scripts/mini_ani_assemble.py"


# ---- the others ----


rule mini_minimum:
    input:
        "config/mini_data/qm7x.yaml",
    output:
        f"{MINI_ROOT}/qm7x/minima/{{system}}.json",
    log:
        f"{MINI_ROOT}/qm7x/logs/minimum/{{system}}.log",
    benchmark:
        f"{MINI_ROOT}/qm7x/benchmarks/minimum-{{system}}.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=mini_code("qm7x"),
    script:
        "../scripts/mini_minimum.py"


rule mini_minima:
    input:
        [f"{MINI_ROOT}/qm7x/minima/{system}.json" for system in mini_systems("qm7x")],
    localrule: True


rule mini_geometry:
    input:
        recipe=mini_recipe,
        minimum=mini_shipped_minimum,
    output:
        f"{MINI_ROOT}/{{set}}/geometries/{{system}}.json",
    log:
        f"{MINI_ROOT}/{{set}}/logs/geometry/{{system}}.log",
    benchmark:
        f"{MINI_ROOT}/{{set}}/benchmarks/geometry-{{system}}.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        minima=lambda wildcards: MINI_MINIMA.get(wildcards.set, ""),
        code=lambda wildcards: mini_code(wildcards.set),
    script:
        "../scripts/mini_geometry.py"


rule mini_geometries:
    input:
        [
            f"{MINI_ROOT}/{name}/geometries/{system}.json"
            for name in MINI_SETS
            for system in mini_systems(name)
        ],
    localrule: True


rule mini_label:
    input:
        recipe=mini_recipe,
        geometries="resources/{set}-mini/geometries/{system}.json",
    output:
        f"{MINI_ROOT}/{{set}}/shards/{{system}}_{{first}}.jsonl",
    log:
        f"{MINI_ROOT}/{{set}}/logs/shard/{{system}}_{{first}}.log",
    benchmark:
        f"{MINI_ROOT}/{{set}}/benchmarks/shard-{{system}}_{{first}}.jsonl"
    wildcard_constraints:
        first=r"\d{4}",
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(6000),
        runtime=growing(120),
    params:
        code=code("mlip_studies.mini_data.shards"),
    script:
        "../scripts/mini_label.py"


rule mini_ani1:
    input:
        recipe="config/mini_data/ani1.yaml",
        geometries=mini_shipped_geometries("ani1"),
        shards=mini_system_shards("ani1"),
        atoms=MINI_ATOMS,
    output:
        mini_outputs("ani1"),
    log:
        f"{MINI_ROOT}/ani1/logs/assemble.log",
    benchmark:
        f"{MINI_ROOT}/ani1/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=mini_code("ani1"),
    script:
        "../scripts/mini_assemble.py"


rule mini_comp6:
    input:
        recipe="config/mini_data/comp6.yaml",
        geometries=mini_shipped_geometries("comp6"),
        shards=mini_system_shards("comp6"),
        atoms=MINI_ATOMS,
    output:
        mini_outputs("comp6"),
    log:
        f"{MINI_ROOT}/comp6/logs/assemble.log",
    benchmark:
        f"{MINI_ROOT}/comp6/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=mini_code("comp6"),
    script:
        "../scripts/mini_assemble.py"


rule mini_spice:
    input:
        recipe="config/mini_data/spice.yaml",
        geometries=mini_shipped_geometries("spice"),
        shards=mini_system_shards("spice"),
        atoms=MINI_ATOMS,
    output:
        mini_outputs("spice"),
    log:
        f"{MINI_ROOT}/spice/logs/assemble.log",
    benchmark:
        f"{MINI_ROOT}/spice/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=mini_code("spice"),
    script:
        "../scripts/mini_assemble.py"


rule mini_qm7x:
    input:
        recipe="config/mini_data/qm7x.yaml",
        geometries=mini_shipped_geometries("qm7x"),
        shards=mini_system_shards("qm7x"),
        atoms=MINI_ATOMS,
    output:
        mini_outputs("qm7x"),
    log:
        f"{MINI_ROOT}/qm7x/logs/assemble.log",
    benchmark:
        f"{MINI_ROOT}/qm7x/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=mini_code("qm7x"),
    script:
        "../scripts/mini_assemble.py"


rule mini_md17:
    input:
        recipe="config/mini_data/md17.yaml",
        geometries=mini_shipped_geometries("md17"),
        shards=mini_system_shards("md17"),
        atoms=MINI_ATOMS,
    output:
        mini_outputs("md17"),
    log:
        f"{MINI_ROOT}/md17/logs/assemble.log",
    benchmark:
        f"{MINI_ROOT}/md17/benchmarks/assemble.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=mini_code("md17"),
    script:
        "../scripts/mini_assemble.py"


rule mini_atoms:
    input:
        "config/mini_data/atoms.yaml",
    output:
        f"{MINI_ROOT}/isolated_atoms.csv",
    log:
        f"{MINI_ROOT}/logs/atoms.log",
    benchmark:
        f"{MINI_ROOT}/benchmarks/atoms.jsonl"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("mlip_studies.mini_data.atoms"),
    script:
        "../scripts/mini_atoms.py"
