"""Adapter of rule sample_frames: inputs trajectory and robustness; params samples."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.frames import sample_frames

    print(
        sample_frames(
            snakemake.input.trajectory, snakemake.params.samples, snakemake.output[0], snakemake.input.robustness
        )
    )
