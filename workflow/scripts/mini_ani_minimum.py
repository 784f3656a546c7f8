"""Adapter of rule mini_ani_minimum."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.ani import Recipe, make_minimum

    make_minimum(Recipe.load(snakemake.input[0]), snakemake.wildcards.molecule, Path(snakemake.output[0]))
