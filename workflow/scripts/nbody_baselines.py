"""Adapter of rule nbody_baselines."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.training.nbody import write_baselines

    write_baselines(snakemake.input["data"], snakemake.output[0], **snakemake.params.settings)
