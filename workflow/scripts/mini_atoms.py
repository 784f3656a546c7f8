"""Adapter of rule mini_atoms."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.atoms import make_table

    make_table(Path(snakemake.input[0]), Path(snakemake.output[0]))
