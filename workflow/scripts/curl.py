"""Adapter of rule curl: inputs models (all seeds), store and split; params rows and seed."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from pathlib import Path

    from mlip_studies.md.curl import drawn_structures, force_field_report

    # Checksums lie beside the models; the models are what is read.
    models = [path for path in dict.fromkeys(snakemake.input.models) if Path(path).suffix == ".safetensors"]
    seed = snakemake.params.seed
    structures = drawn_structures(snakemake.input.store, snakemake.input.split, snakemake.params.rows, seed)
    force_field_report(models, structures, snakemake.output[0], seed, snakemake.threads)
