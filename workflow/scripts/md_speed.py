"""Adapter of rule md_speed."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.speed import write_speed

    write_speed(
        snakemake.output[0],
        dict(zip(snakemake.params.labels, snakemake.input.potentials, strict=True)),
        {"store": snakemake.input.store, "rows": "lowest_energy"},
        snakemake.params.settings,
        device_name=snakemake.params.device,
        threads=snakemake.threads,
    )
