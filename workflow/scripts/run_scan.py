"""Adapter of a rule that asks one potential for all its scans: inputs scans, outputs curves (csv) and forces (npz).

Params entry (of the potential) and precision.
"""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.adequacy.run_scan import run_scans

    run_scans(
        snakemake.params.entry,
        snakemake.params.precision,
        list(snakemake.input.scans),
        list(snakemake.output.curves),
        list(snakemake.output.forces),
        threads=snakemake.threads,
    )
