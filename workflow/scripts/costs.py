"""Adapter of rule costs."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.provenance import write_costs

    write_costs(Path(snakemake.params.benchmarks), Path(snakemake.params.results), Path(snakemake.output.html))
