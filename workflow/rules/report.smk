# What every report ends with: costs and provenance; and its front page.
import subprocess

from mlip_studies.provenance import front_page


def commit():
    """Commit of the checkout, with a mark if tracked files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"


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
    params:
        commit=commit(),
        accepted="workflow/accepted-code.json",
        code=code("mlip_studies.provenance"),
    script:
        "../scripts/provenance.py"


rule costs:
    input:
        VERDICTS,
    output:
        html=report(
            f"{OUT}/costs.html",
            caption="../report/costs.rst",
            category="Costs",
            labels={"name": "costs", "in the thesis": "beyond the thesis"},
        ),
        csv=f"{OUT}/costs.csv",
    log:
        f"{LOGS}/costs.log",
    benchmark:
        f"{BENCHMARKS}/costs.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    params:
        benchmarks=BENCHMARKS,
        results=OUT,
        code=code("mlip_studies.provenance"),
    script:
        "../scripts/costs.py"


REPORT_TARGETS = [f"{OUT}/costs.html", f"{OUT}/provenance.json"]

# The front page of `--report` is a template over the configuration: hand it what the finished run says.
config["front_page"] = front_page(
    OUT, SCALE, {name: PROJECT.titles[name] for name in PROJECT.studies}
)
