"""Adapter of rule table31."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]), ExitStack() as stack:
    from mlip_studies.data.reference_energies import load_fit, load_reference_energies, table31, write_csv
    from mlip_studies.data.store import Store

    rows = snakemake.params.rows
    stores = {name: stack.enter_context(Store(path)) for name, path in zip(rows, snakemake.input.stores, strict=True)}
    fits = {name: load_fit(path) for name, path in zip(rows, snakemake.input.fits, strict=True)}
    reference = load_reference_energies(snakemake.input.published, snakemake.input.schema)
    write_csv(table31(reference, stores, fits), snakemake.output[0])
