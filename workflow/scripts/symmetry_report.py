"""Adapter of a rule that tests one potential: output the CSV; params entry, precision and settings."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    import torch

    from mlip_studies.adequacy.symmetry import symmetry_report

    torch.set_num_threads(snakemake.threads)
    symmetry_report(snakemake.params.entry, snakemake.params.precision, snakemake.output[0], snakemake.params.settings)
