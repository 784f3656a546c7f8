"""Adapter of rule mini_ani_shard."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.ani import Recipe, label_shard

    recipe = Recipe.load(snakemake.input.recipe)
    kind, first = snakemake.wildcards.kind, int(snakemake.wildcards.first)
    last = recipe.shard_end(snakemake.wildcards.molecule, kind, first)
    label_shard(recipe, Path(snakemake.input.minimum), kind, first, last, Path(snakemake.output[0]))
