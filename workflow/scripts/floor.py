"""Adapter of rule floor."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.studies.label_floor import write_floor

    write_floor(
        snakemake.input.store,
        snakemake.params.fidelity,
        snakemake.input.frames,
        snakemake.input.labels,
        snakemake.input.table,
        snakemake.input.atoms,
        snakemake.output[0],
    )
