"""Adapter of rule analyse_scans: inputs curves (CSV; the npz beside them hold forces), scans and references."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from pathlib import Path

    from mlip_studies.adequacy.analysis import analyse_files

    # A rule may name the files of forces, too; they are found beside the tables.
    curves, references = (
        [path for path in paths if Path(path).suffix == ".csv"]
        for paths in (snakemake.input.curves, snakemake.input.references)
    )
    table = analyse_files(curves, snakemake.input.scans, snakemake.output[0], references)
    print(f"{len(table)} numbers of {len(curves)} curves and {len(references)} references")
