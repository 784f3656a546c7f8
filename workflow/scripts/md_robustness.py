"""Adapter of rule md_robustness: input trajectory; outputs robustness and topology; params limits (may be left out)."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.md.robustness import write_robustness

    write_robustness(
        snakemake.input.trajectory,
        snakemake.output.robustness,
        snakemake.output.topology,
        snakemake.params.get("limits", {}),
    )
