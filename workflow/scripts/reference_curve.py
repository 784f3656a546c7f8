"""Adapter of rule reference_curve."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.adequacy.reference import describe, reference_curve

    settings = dict(snakemake.params.settings)
    method = {"method": settings.pop("method")} if "method" in settings else {}
    summary = reference_curve(
        snakemake.input.scan,
        snakemake.params.level,
        snakemake.output.curve,
        state_root=snakemake.params.state,
        code=snakemake.params.code,
        workers=snakemake.threads,
        settings=settings,
        **method,
    )
    print(describe(summary))
