"""Adapter of a rule that times all potentials in one process: output the CSV; params entries and settings."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.adequacy.cost import measure_cost

    measure_cost(snakemake.params.entries, snakemake.output[0], snakemake.params.settings, threads=snakemake.threads)
