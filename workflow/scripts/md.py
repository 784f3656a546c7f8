"""Adapter of rule md."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.engine import MDConfig, MDOutputs, run_md

    run_md(
        MDConfig.from_dict(snakemake.params.config),
        MDOutputs(**{key: Path(path) for key, path in snakemake.output.items()}),
        state_root=snakemake.params.state,
        device_name=snakemake.params.device,
        threads=snakemake.threads,
        code=snakemake.params.code,
    )
