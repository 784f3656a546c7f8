"""Adapter of rule krcelic_collect."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.collect import collect_runs

    folders = list(dict.fromkeys(Path(path).parent for path in snakemake.input.runs))
    collect_runs(folders, snakemake.output.runs, snakemake.output.histories, snakemake.output.predictions)
