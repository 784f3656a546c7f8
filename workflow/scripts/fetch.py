"""Adapter of rule fetch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

# Lines go to the log, a bar to the terminal from which the workflow was started.
terminal = sys.stderr
with job(snakemake.log[0]):
    from mlip_studies.data.download import Display, fetch

    # From the configuration, no parameter: another mirror is no reason to fetch a file again.
    with Display(terminal) as display:
        fetch(snakemake.params.file, Path(snakemake.output[0]), snakemake.config.get("mirror"), display=display)
