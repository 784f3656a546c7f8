"""Adapter of rule provenance."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.provenance import write_provenance

    write_provenance(Path(snakemake.output[0]), snakemake.params.commit, Path(snakemake.params.accepted))
