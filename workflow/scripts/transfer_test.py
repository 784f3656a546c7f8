"""Adapter of rule transfer_test: inputs models (model.safetensors of all seeds), runs and store; params fidelity."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    import torch

    from mlip_studies.studies.transfer_test import write_transfer_test

    torch.set_num_threads(snakemake.threads)
    folders = list(dict.fromkeys(Path(path).parent for path in snakemake.input.models))
    write_transfer_test(
        folders,
        snakemake.input.store,
        snakemake.params.fidelity,
        snakemake.output[0],
        device_name=snakemake.params.get("device", "auto"),
    )
