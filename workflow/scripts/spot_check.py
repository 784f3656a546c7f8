"""Adapter of rule spot_check."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.dft.spot_check import SpotCheckConfig, SpotCheckOutputs, describe, run_spot_checks

    config = {**snakemake.params.config, "frames": snakemake.input.frames, "workers": snakemake.threads}
    summary = run_spot_checks(
        SpotCheckConfig.from_dict(config),
        SpotCheckOutputs(Path(snakemake.output.labels_npz), Path(snakemake.output.labels_csv)),
        state_root=snakemake.params.state,
        code=snakemake.params.code,
    )
    print(describe(summary))
