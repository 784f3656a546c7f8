"""Adapter of rule verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.claims.evaluate import evaluate_study
    from mlip_studies.claims.table import write

    claims, outcomes = evaluate_study(Path(snakemake.input.claims), snakemake.input.tables, snakemake.params.scale)
    write(claims, outcomes, Path(snakemake.output.html))
