# Tables and figures over all enabled studies: on what `make demo` runs, and (-all) on everything.


include: "all_studies_common.smk"


for suffix in ("", "-all"):
    for product, title in ALL_TITLES.items():

        rule:
            name:
                f"all_{product}{suffix.replace('-', '_')}"
            input:
                **all_inputs(product, suffix),
            output:
                [
                    report(
                        path,
                        caption=f"../report/all/{product}.rst",
                        category=ALL.CATEGORY,
                        labels=report_labels(
                            f"{title}, {'figure' if path.endswith('png') else 'table'}",
                            "everything" if suffix else "what the demo runs",
                        ),
                    )
                    for path in ALL.paths(product, ALL_OUT, suffix)
                    if path.endswith((".png", ".html"))
                ],
                [
                    path
                    for path in ALL.paths(product, ALL_OUT, suffix)
                    if not path.endswith((".png", ".html"))
                ],
            log:
                f"{LOGS}/all_{product}{suffix}.log",
            benchmark:
                f"{BENCHMARKS}/all_studies/{product}{suffix}.jsonl"
            localrule: True
            conda:
                "../../envs/core.yaml"
            resources:
                mem_mb=1000,
                runtime=10,
            params:
                product=product,
                context=all_context(),
                figures=all_figures(demo=not suffix),
                what=("Runs of everything." if suffix else "Runs that the demo makes."),
                code=code(
                    "mlip_studies.claims.all_claims",
                    "mlip_studies.studies.all_studies",
                ),
            script:
                "../scripts/all_studies.py"


DEMO_TARGETS += [ALL.paths(product, ALL_OUT)[0] for product in ALL_TITLES]
STUDY_TARGETS += [
    ALL.paths(product, ALL_OUT, suffix)[0]
    for product in ALL_TITLES
    for suffix in ("", "-all")
]
