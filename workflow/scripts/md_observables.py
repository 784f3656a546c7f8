"""Adapter of rule md_observables."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.observables import write_observables

    write_observables(
        snakemake.input.trajectory,
        {"store": snakemake.input.store, **snakemake.params.get("reference", {})},
        snakemake.output[0],
    )
