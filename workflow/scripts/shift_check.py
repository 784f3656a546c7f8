"""Adapter of rule shift_check."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.shift_check import shift_table, write_shift_table

    write_shift_table(shift_table(snakemake.input[0], dataset=snakemake.wildcards.dataset), snakemake.output[0])
