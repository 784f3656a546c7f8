"""Adapter of rule mini_geometry."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.recipe import builder, load_recipe

    recipe = load_recipe(snakemake.input.recipe)
    system = builder(recipe).make_system(recipe, snakemake.wildcards.system, Path(snakemake.params.minima))
    system.write(Path(snakemake.output[0]))
