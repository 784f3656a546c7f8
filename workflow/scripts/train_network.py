"""Adapter of rule train_network."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.training.run import RunConfig, RunOutputs, run_training

    run_training(
        RunConfig.from_dict(snakemake.params.config),
        RunOutputs(**{key: Path(path) for key, path in snakemake.output.items()}),
        state_root=snakemake.params.state,
        device_name=snakemake.params.device,
        threads=snakemake.threads,
        code=snakemake.params.code,
    )
