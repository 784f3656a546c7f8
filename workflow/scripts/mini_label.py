"""Adapter of rule mini_label."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.recipe import load_recipe
    from mlip_studies.mini_data.shards import label_system
    from mlip_studies.mini_data.systems import System

    recipe = load_recipe(snakemake.input.recipe)
    system = System.load(Path(snakemake.input.geometries))
    first = int(snakemake.wildcards.first)
    last = min(first + recipe["shard_size"], len(system.positions))
    forces = recipe.get("forces", True)
    label_system(system, recipe["level"], first, last, Path(snakemake.output[0]), forces)
