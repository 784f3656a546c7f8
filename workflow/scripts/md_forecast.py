"""Adapter of rule md_forecast."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.studies.md_forecast import write_forecast
    from mlip_studies.training.device import processor_name

    write_forecast(
        snakemake.input.summaries,
        snakemake.input.labels,
        snakemake.output[0],
        snakemake.params.get("settings", {}),
        # The calculations' table does not name the machine; on one machine it is this one.
        snakemake.params.get("checks_hardware", "") or f"{processor_name()} (where this table was made)",
        snakemake.input.get("speed"),
    )
