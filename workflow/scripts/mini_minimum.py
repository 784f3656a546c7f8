"""Adapter of rule mini_minimum."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.mini_data.qm7x import make_minimum
    from mlip_studies.mini_data.recipe import load_recipe

    make_minimum(load_recipe(snakemake.input[0]), snakemake.wildcards.system, Path(snakemake.output[0]))
