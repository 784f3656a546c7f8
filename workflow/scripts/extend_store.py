"""Adapter of the rules of active learning: a store with labelled samples added, and splits of it."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.extend_store import Addition, FrameSelection, extend_split, extend_store

    names = set(snakemake.input.keys())
    if "frames" in names:
        # `frames`, `labels` and `table` are lists of the same length: one entry per run whose samples are added.
        starts = snakemake.input.starts if "starts" in names else None
        files = (snakemake.input.frames, snakemake.input.labels, snakemake.input.table)
        columns = ([column] if isinstance(column, str) else list(column) for column in files)
        extend_store(
            snakemake.input.store,
            [Addition(*entry, starts=starts) for entry in zip(*columns, strict=True)],
            FrameSelection.from_dict(snakemake.params.selection),
            snakemake.output.store,
            fidelity=snakemake.params.get("fidelity"),
            atoms=snakemake.input.atoms if "atoms" in names else None,
            report=snakemake.output.report,
        )
    else:
        extend_split(
            snakemake.input.split,
            snakemake.input.store,
            snakemake.params.train_size,
            snakemake.output.split,
            snakemake.output.report,
            total=snakemake.params.get("total"),
            use_new=snakemake.params.get("use_new", True),
        )
