"""Adapter of rule isolated_atoms."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.data.isolated_atoms import write_isolated_atoms

    write_isolated_atoms(
        snakemake.input.store,
        snakemake.params.fidelity,
        snakemake.params.atoms,
        snakemake.input.published,
        snakemake.input.schema,
        snakemake.input.own,
        snakemake.output[0],
    )
