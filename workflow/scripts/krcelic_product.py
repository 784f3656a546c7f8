"""Adapter of the figure and table rules of the multi-fidelity study."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.claims.inputs import Tables
    from mlip_studies.claims.schema import load_claims
    from mlip_studies.studies.krcelic import Context, make_figure, make_table

    make = make_figure if snakemake.params.kind == "figures" else make_table
    make(
        snakemake.params.product,
        Tables.from_paths(snakemake.input.data),
        Context(snakemake.params.scale, load_claims(snakemake.input.claims), asked=snakemake.params.asked),
        snakemake.output[0],
    )
