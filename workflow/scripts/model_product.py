"""Adapter of the rules for figures and tables of the networks."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.models_overview import draw

    draw(
        snakemake.params.product,
        {key: [files] if isinstance(files, str) else list(files) for key, files in snakemake.input.items()},
        snakemake.output[0],
        snakemake.params.scale,
    )
