"""Adapter of rule named_split."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.named_splits import load_named_split, locate_indices, make_split, write_named_split
    from mlip_studies.data.store import Store

    spec = locate_indices(snakemake.params.spec, [Path(path) for path in snakemake.input.index])
    with Store(snakemake.input.store) as store:
        base = load_named_split(snakemake.input.base[0], store) if len(snakemake.input.base) else None
        split = make_split(store, spec, base)
    write_named_split(split, snakemake.output.split, snakemake.output.report)
