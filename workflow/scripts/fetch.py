"""Adapter of rule fetch."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.data.download import fetch

    fetch(snakemake.params.file, Path(snakemake.output[0]), snakemake.params.mirror)
