"""Adapter of rule regress."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.self_energies import regress_store, write_self_energies
    from mlip_studies.data.store import Store

    with Store(snakemake.input[0]) as store:
        result = regress_store(store)
    write_self_energies({**result, "dataset": snakemake.wildcards.dataset}, snakemake.output[0])
