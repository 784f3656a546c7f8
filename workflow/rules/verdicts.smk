# Verdicts twice for every study: on what `make demo` runs, and on everything (claims about what did not run say so).
for study in VERDICT_INPUTS:
    for verdicts, tables in VERDICT_INPUTS[study].items():

        rule:
            name:
                f"{study}_{verdicts.replace('-', '_')}"
            input:
                claims=f"config/claims/{study}.yaml",
                tables=tables,
            output:
                html=report(
                    f"{OUT}/{study}/{verdicts}.html",
                    caption="../report/verdicts.rst",
                    category="Verdicts",
                    labels=report_labels(
                        PROJECT.titles[study]["title"],
                        (
                            "what the demo runs"
                            if verdicts == "verdicts"
                            else "everything"
                        ),
                    ),
                ),
                csv=f"{OUT}/{study}/{verdicts}.csv",
                json=f"{OUT}/{study}/{verdicts}.json",
            log:
                f"{LOGS}/{study}_{verdicts}.log",
            benchmark:
                f"{BENCHMARKS}/verdicts/{study}-{verdicts}.jsonl"
            localrule: True
            conda:
                "../../envs/core.yaml"
            resources:
                mem_mb=1000,
                runtime=10,
            params:
                scale=SCALE,
                code=code(
                    "mlip_studies.claims.evaluate",
                    "mlip_studies.claims.table",
                    f"mlip_studies.claims.{study}",
                ),
            script:
                "../scripts/verdicts.py"
