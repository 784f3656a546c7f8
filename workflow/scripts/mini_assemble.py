"""Adapter of the rules that assemble a mini data set."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.recipe import builder, load_recipe

    recipe = load_recipe(snakemake.input.recipe)
    builder(recipe).assemble(
        recipe,
        Path(snakemake.input.geometries[0]).parent,
        [Path(path) for path in snakemake.input.shards],
        Path(snakemake.input.atoms),
        Path(snakemake.output[0]).parent,
    )
