"""Adapter of rule active_rounds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.studies.stocker_active import write_active

    added = [0, json.loads(Path(snakemake.input.report).read_text())["n_new"]]
    pairs = zip(snakemake.input.robustness, snakemake.input.runs, added, strict=True)
    write_active(
        [{"robustness": robustness, "runs": runs, "n_added": n} for robustness, runs, n in pairs],
        snakemake.output[0],
    )
