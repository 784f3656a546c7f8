"""Adapter of rule measure_model."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.models.measure import measure_model

    measure_model(snakemake.wildcards.network, snakemake.params.entry, snakemake.output[0], threads=snakemake.threads)
