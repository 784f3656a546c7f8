"""Adapter of rule split_self_energies."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.self_energies import write_self_energies
    from mlip_studies.data.split_self_energies import fit_on_split
    from mlip_studies.data.store import Store

    with Store(snakemake.input.store) as store:
        result = fit_on_split(store, snakemake.input.split)
    write_self_energies({**result, "dataset": snakemake.wildcards.dataset}, snakemake.output[0])
