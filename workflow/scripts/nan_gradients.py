"""Adapter of rule nan_gradients."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.models.se3_singularities import nan_gradients

    nan_gradients(snakemake.output[0], seed=snakemake.params.seed, threads=snakemake.threads)
