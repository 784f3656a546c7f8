"""Adapter of rule gemnet_singularities."""

from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.models.gemnet_scan import write_singularities

    write_singularities(snakemake.output[0])
