"""Adapter of rule outlier_structures: inputs run (run.json of one seed), predictions and store; params title."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.outlier_structures import StructureOutputs, outlier_structures
    from mlip_studies.studies.run_tables import RunFiles

    outlier_structures(
        RunFiles.in_folder(Path(snakemake.input.run).parent),
        snakemake.input.store,
        StructureOutputs(**{key: Path(snakemake.output[key]) for key in ("extxyz", "chemiscope", "page")}),
        title=snakemake.params.title,
    )
