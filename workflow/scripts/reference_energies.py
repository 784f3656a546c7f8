"""Adapter of rule reference_energies."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.data.reference_energies import (
        comparison_table,
        load_fit,
        load_isolated_atoms,
        load_reference_energies,
        write_csv,
    )

    table = comparison_table(
        load_reference_energies(snakemake.input.published, snakemake.input.schema),
        [load_fit(path) for path in snakemake.input.fits],
        snakemake.params.levels,
        load_isolated_atoms(snakemake.input.atoms),
    )
    write_csv(table, snakemake.output[0])
