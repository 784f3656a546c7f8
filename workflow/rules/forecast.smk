# What targets will cost, before anything runs: `snakemake forecast`, for all studies or those named by forecast_targets.
# Part of no other target.
import time


include: "forecast_common.smk"


rule forecast:
    input:
        rates="benchmarks/rates.yaml",
    output:
        html=report(
            f"{OUT}/forecast.html",
            caption="../report/forecast.rst",
            category="Costs",
            labels=report_labels("forecast"),
        ),
        csv=f"{OUT}/forecast.csv",
        json=f"{OUT}/forecast.json",
    log:
        f"{LOGS}/forecast.log",
    benchmark:
        f"{BENCHMARKS}/forecast.jsonl"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        targets=forecast_targets(),
        # What was given on the command line; the rest is read again from config/config.yaml.
        config={
            key: value
            for key, value in workflow.config_settings.overwrite_config.items()
            if key not in NO_SETTINGS
        },
        # Another each time, so that the forecast is made anew: it depends on what is there already.
        asked=time.time_ns(),
        code=code("mlip_studies.forecast.command"),
    script:
        "../scripts/forecast.py"
