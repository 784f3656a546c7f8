"""Adapter of rule forecast."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.forecast.command import run_forecast, this_machine
    from mlip_studies.forecast.output import write

    result = run_forecast(
        snakemake.params.targets, snakemake.params.config, this_machine(), Path(snakemake.input.rates)
    )
    write(result, Path(snakemake.output.html))
