# Rebuilding the mini data set in resources/ani1x-mini from quantum chemistry: `snakemake mini_data` (hours). The shipped
# minima are the starting point, so that every geometry comes out the same; `snakemake mini_ani_minima` makes them anew.


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


rule mini_data:
    input:
        recipe=MINI_RECIPE,
        shards=[f"{MINI_BUILD}/shards/{name}.jsonl" for name in mini_shards()],
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
