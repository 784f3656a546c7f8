"""Adapter of rule spot_errors."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    import torch

    from mlip_studies.data.reference_energies import load_reference_energies
    from mlip_studies.studies.spot_errors import write_spot_errors

    torch.set_num_threads(snakemake.threads)
    published = snakemake.params.published
    potential, atoms = snakemake.input.potential, snakemake.input.atoms
    if published:
        potential = published["potential"]
        atoms = load_reference_energies(atoms, snakemake.input.schema).published[published["atoms"]].energies_ev
    write_spot_errors(
        snakemake.input.frames,
        snakemake.input.labels,
        snakemake.input.table,
        potential,
        snakemake.output.errors,
        snakemake.params.judge,
        atoms,
        components=snakemake.output.components,
    )
