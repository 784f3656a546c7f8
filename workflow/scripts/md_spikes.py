"""Adapter of rule md_spikes."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.spikes import write_spikes

    write_spikes(snakemake.input.trajectory, snakemake.output[0])
