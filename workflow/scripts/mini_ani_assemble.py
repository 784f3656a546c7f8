"""Adapter of rule mini_ani1x."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.ani import Recipe, assemble

    assemble(
        Recipe.load(snakemake.input.recipe),
        Path(snakemake.params.minima),
        [Path(path) for path in snakemake.input.shards],
        Path(snakemake.output.data),
        Path(snakemake.output.rows),
    )
