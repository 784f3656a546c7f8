"""Adapter of a rule that says which potentials can be run: outputs described and missing (JSON); params entries."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.adequacy.potentials import write_descriptions

    write_descriptions(snakemake.params.entries, snakemake.output.described, snakemake.output.missing)
