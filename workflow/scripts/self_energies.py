"""Adapter of rule self_energies."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.self_energies import (
        fit_self_energies,
        no_self_energies,
        select_rows,
        write_self_energies,
    )
    from mlip_studies.data.splits import load_split
    from mlip_studies.data.store import Store

    split = load_split(snakemake.input.split)
    low, high, rows = snakemake.params.low, snakemake.params.high, snakemake.wildcards.rows
    with Store(snakemake.input.store) as store:
        if rows == "none":
            result = no_self_energies(store, (low, high))
        else:
            result = fit_self_energies(store, select_rows(store, split, low, high, rows), rows_name=rows)
    write_self_energies({**result, "dataset": snakemake.params.dataset}, Path(snakemake.output[0]))
