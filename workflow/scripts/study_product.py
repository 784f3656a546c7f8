"""Adapter of the rules of figures and tables; param tables names the class that reads the results."""

import importlib
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.claims.schema import load_claims
    from mlip_studies.studies.context import RunInfo, StudyContext

    context = snakemake.params.context
    module = importlib.import_module(snakemake.params.module)
    make = getattr(module, snakemake.params.function)
    reader, _, name = snakemake.params.tables.rpartition(".")
    make(
        getattr(importlib.import_module(reader), name).from_paths(snakemake.input.tables),
        StudyContext(
            context["scale"],
            load_claims(snakemake.input.claims),
            context["n_train"],
            {name: RunInfo(**run) for name, run in context["runs"].items()},
            context["settings"],
            tuple(snakemake.input.tables),
        ),
        snakemake.output[0],
    )
