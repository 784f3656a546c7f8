"""Adapter of rule build_scans: params scans (one output each) and settings; inputs are the start geometries."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from pathlib import Path

    from mlip_studies.adequacy.scans import RESOURCES, build_scan, write_scan

    folder = Path(snakemake.input[0]).parent if snakemake.input else RESOURCES
    for name, output in zip(snakemake.params.scans, snakemake.output, strict=True):
        scan = build_scan(name, snakemake.params.settings, folder)
        write_scan(scan, output)
        print(f"{scan.name}: {len(scan)} points of {scan.structures[0].formula}")
