"""Adapter of the rules over all studies."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlip_studies.jobs import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake.log[0]):
    from mlip_studies.claims import all_claims
    from mlip_studies.studies import all_studies

    params, product = snakemake.params, snakemake.params.product
    context = all_studies.AllContext(**params.context)
    if product == "claims":
        out = Path(snakemake.output[0]).parents[2]
        inside = {
            file: str(snakemake.report_href(f"{out}/{file}"))
            for files in params.figures.values()
            for file in files.values()
        }
        studies = all_claims.read_verdicts(snakemake.input.verdicts)
        all_claims.write(studies, snakemake.output[0], context.titles, params.figures, inside, params.what)
    elif product == "summary":
        all_studies.summary(all_claims.read_verdicts(snakemake.input.verdicts), context, snakemake.output[0])
    else:
        studies = all_studies.by_study(snakemake.input.tables, list(context.titles))
        figure = next(path for path in snakemake.output if path.endswith(".png"))
        table = next(path for path in snakemake.output if path.endswith(".html"))
        if product == "regression":
            all_studies.regression(studies, snakemake.input.fits, context, figure, table)
        else:
            scorecard = next(iter(snakemake.input.scorecard), None)
            all_studies.matrix(studies, scorecard, context, figure, table)
