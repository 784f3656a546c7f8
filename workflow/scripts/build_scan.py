"""Adapter of rule build_scan: params scan and settings; the input, if there is one, is the start geometry."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0], snakemake.params.code, snakemake.params.code_folder):
    from pathlib import Path

    from mlip_studies.adequacy.scans import RESOURCES, build_scan, write_scan

    starts = [Path(path) for path in snakemake.input]
    folder = starts[0].parent if starts else RESOURCES
    scan = build_scan(snakemake.params.scan, snakemake.params.settings, folder)
    write_scan(scan, snakemake.output[0])
    print(f"{scan.name}: {len(scan)} points of {scan.structures[0].formula}")
