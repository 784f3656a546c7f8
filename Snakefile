# mlip-studies: five studies of machine-learned interatomic potentials, reproduced. Start with README.md.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow" / "src"))


configfile: "config/config.yaml"


pathvars:
    logs="results/logs",
    benchmarks="results/benchmarks",


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/md.smk"
include: "workflow/rules/particles.smk"
include: "workflow/rules/robustness.smk"
include: "workflow/rules/products.smk"
include: "workflow/rules/mini_data.smk"


for name in PROJECT.studies:

    include: f"workflow/rules/studies/{name}.smk"


include: "workflow/rules/verdicts.smk"
include: "workflow/rules/all_studies.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data_report.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/forecast.smk"


localrules:
    all,
    demo,


rule all:
    default_target: True
    input:
        STUDY_TARGETS,
        REPORT_TARGETS,


rule demo:
    input:
        DEMO_TARGETS,
        REPORT_TARGETS,
