"""Adapter of rule train_nbody."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.training.nbody import NBodyConfig, NBodyOutputs, run_nbody

    run_nbody(
        NBodyConfig.from_dict({**snakemake.params.settings, "data": str(snakemake.input["data"])}),
        NBodyOutputs(**{key: Path(snakemake.output[key]) for key in ("model", "history", "predictions", "run")}),
        snakemake.params.state,
        code=snakemake.params.code,
        device_name=snakemake.params.device,
        threads=snakemake.threads,
    )
