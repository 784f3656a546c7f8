# What every report ends with: costs and provenance; and its front page.
rule provenance:
    output:
        f"{OUT}/provenance.json",
    log:
        f"{LOGS}/provenance.log",
    benchmark:
        f"{BENCHMARKS}/provenance.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        commit=commit(),
        accepted="workflow/accepted-code.json",
        code=code("mlip_studies.provenance"),
    script:
        "../scripts/provenance.py"


rule costs:
    input:
        [f"{OUT}/{study}/verdicts.json" for study in VERDICT_INPUTS],
    output:
        html=report(
            f"{OUT}/costs.html",
            caption="../report/costs.rst",
            category="Costs",
            labels=report_labels("costs"),
        ),
        csv=f"{OUT}/costs.csv",
    log:
        f"{LOGS}/costs.log",
    benchmark:
        f"{BENCHMARKS}/costs.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        benchmarks=BENCHMARKS,
        results=lambda wildcards, output: str(Path(output.html).parent),
        code=code("mlip_studies.provenance"),
    script:
        "../scripts/costs.py"


REPORT_TARGETS = [f"{OUT}/costs.html", f"{OUT}/provenance.json"]

# The front page of `--report` is a template over the configuration: hand it what the finished run says.
config["front_page"] = front_page(
    OUT, SCALE, {name: PROJECT.titles[name] for name in PROJECT.studies}
)


# A target of the other scale stops with one line instead of "no rule to produce".
rule other_scale:
    input:
        wrong_scale,
    output:
        f"{PROJECT.settings['results']}/{OTHER_SCALE}/{{rest}}",
    log:
        f"{LOGS}/other_scale/{{rest}}.log",
    wildcard_constraints:
        rest=r".+",
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "exit 1"


# So does a target that no rule has, with the nearest names.
rule unknown_target:
    input:
        unknown_target,
    output:
        "{target}",
    log:
        f"{LOGS}/unknown_target/{{target}}.log",
    wildcard_constraints:
        target=r"[A-Za-z][A-Za-z0-9_]*",
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "exit 1"
