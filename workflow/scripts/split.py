"""Adapter of rule multi_fidelity_split."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.splits import SplitSizes, multi_fidelity_split, write_split
    from mlip_studies.data.store import Store

    wanted = snakemake.params.split
    sizes = SplitSizes(
        n_test=wanted["n_test"],
        n_val_high=wanted["val_high"],
        n_train_high=wanted["train_high"],
        n_val_low=wanted["val_low"],
        n_train_low=wanted["train_low"],
    )
    with Store(snakemake.input[0]) as store:
        split = multi_fidelity_split(store, wanted["low"], wanted["high"], sizes, wanted["seed"], wanted["selection"])
    write_split(split, Path(snakemake.output.split), Path(snakemake.output.report))
