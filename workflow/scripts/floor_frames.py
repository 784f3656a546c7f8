"""Adapter of rule floor_frames."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.studies.label_floor import write_floor_frames

    settings = snakemake.params.settings
    write_floor_frames(
        snakemake.input.store, snakemake.input.split, settings["rows"], settings["seed"], snakemake.output[0]
    )
