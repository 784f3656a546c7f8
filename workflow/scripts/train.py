"""Adapter of rule train."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.training.multi_fidelity import RunInputs, RunOutputs, RunSpec, run

    run(
        RunSpec.from_dict(snakemake.params.spec),
        RunInputs(**{key: Path(snakemake.input[key]) for key in ("store", "split", "self_energies")}),
        RunOutputs(**{key: Path(snakemake.output[key]) for key in ("model", "history", "predictions", "run")}),
        state_root=snakemake.params.state,
        device_name=snakemake.params.device,
        threads=snakemake.threads,
        code=snakemake.params.code,
    )
