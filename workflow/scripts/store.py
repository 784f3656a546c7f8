"""Adapter of rule store."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.build import build_store

    build_store(
        snakemake.params.dataset,
        [Path(path) for path in snakemake.input.sources],
        Path(snakemake.output.store),
        Path(snakemake.output.funnel),
        dict(zip(snakemake.params.dataset["aux_files"], map(Path, snakemake.input.aux), strict=True)),
    )
