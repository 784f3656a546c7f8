"""Adapter of the rules that make start structures: representative molecules of a store, or files side by side."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from mlip_studies.data.representatives import collect_structures, write_representatives

    if "store" in snakemake.input.keys():  # noqa: SIM118 (Snakemake's lists of files are lists first)
        write_representatives(
            snakemake.input.store, snakemake.params.spec, snakemake.output.structures, snakemake.output.report
        )
    else:
        collect_structures(list(snakemake.input.files), snakemake.output.structures)
