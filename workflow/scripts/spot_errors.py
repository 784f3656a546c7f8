"""Adapter of rule spot_errors: inputs frames, labels, table, potential (or param pretrained), atoms; param judge."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    import torch

    from mlip_studies.studies.spot_errors import write_spot_errors

    torch.set_num_threads(snakemake.threads)
    pretrained = snakemake.params.get("pretrained")
    write_spot_errors(
        snakemake.input.frames,
        snakemake.input.labels,
        snakemake.input.table,
        snakemake.input.potential if pretrained is None else pretrained,
        snakemake.output.errors,
        snakemake.params.judge,
        snakemake.params.get("atomic_reference", snakemake.input.get("atoms")),
        components=snakemake.output.get("components"),
        fidelity=snakemake.params.get("fidelity", "high"),
        device=snakemake.params.get("device", "cpu"),
    )
