"""Adapter of the rules for figures and tables of the data sets."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.data_overview import Context, DataFiles, make_product

    make_product(
        snakemake.params.product,
        DataFiles.from_paths(snakemake.input),
        Context(snakemake.params.scale, snakemake.params.title, snakemake.params.shipped),
        snakemake.output[0],
        snakemake.params.dataset,
    )
