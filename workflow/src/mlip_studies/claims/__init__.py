"""What a paper states about its own results, as data, and the verdict on each statement.

`schema` reads ``config/claims/<study>.yaml``, `inputs` reads the results, the module named after the study holds its
metrics, `verdicts` is the rule, `evaluate` applies it and `table` writes the outcome as CSV, JSON and HTML.
"""

from mlip_studies.claims.evaluate import Outcome, evaluate, evaluate_study
from mlip_studies.claims.schema import Claim, ClaimSet, load_claims
from mlip_studies.claims.verdicts import Estimate, Verdict, estimate

__all__ = [
    "Claim",
    "ClaimSet",
    "Estimate",
    "Outcome",
    "Verdict",
    "estimate",
    "evaluate",
    "evaluate_study",
    "load_claims",
]
