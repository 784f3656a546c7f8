"""Adapter of rule analyse_run: inputs runs (run.json of all seeds), predictions and store; params run."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.run_tables import RunFiles, analyse_run

    folders = list(dict.fromkeys(Path(path).parent for path in snakemake.input.runs))
    analyse_run(
        [RunFiles.in_folder(folder) for folder in folders],
        snakemake.input.store,
        Path(snakemake.output.runs).parent,
        name=snakemake.params.run,
    )
