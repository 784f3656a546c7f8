"""Applies the verdict rule to the claims of a study."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError, Tables
from mlip_studies.claims.schema import Claim, ClaimSet, load_claims
from mlip_studies.claims.verdicts import MIN_SEEDS, Estimate, Verdict, combine, judge, judge_difference
from mlip_studies.errors import InputError

Metric = Callable[..., Sequence[Estimate]]


@dataclass(frozen=True)
class Outcome:
    """A claim, our number and the verdict.

    Attributes:
        claim: the claim.
        scale: mini or full.
        estimates: our number(s); for an ordering or trend, paired differences whose positive side is the claimed one.
        verdict: the verdict.
        at_this_scale: for relations, orderings and trends, what the rule says about our own numbers at this scale,
            also where the scale is not the paper's; None where the number cannot be compared or is missing.
        reason: one sentence on how the verdict came about.
    """

    claim: Claim
    scale: str
    estimates: tuple[Estimate, ...]
    verdict: Verdict
    at_this_scale: Verdict | None
    reason: str


def metrics_of(study: str) -> Mapping[str, Metric]:
    """The metrics of a study, from the module of its name in this package.

    Raises:
        InputError: there is no such module.
    """
    try:
        module = importlib.import_module(f"mlip_studies.claims.{study}")
    except ModuleNotFoundError as error:
        raise InputError(f"study '{study}' has no metrics; add claims/{study}.py with a METRICS table") from error
    metrics: Mapping[str, Metric] = module.METRICS
    return metrics


def evaluate(claims: ClaimSet, metrics: Mapping[str, Metric], tables: Tables, scale: str) -> list[Outcome]:
    """Judge every claim.

    Args:
        claims: the claims.
        metrics: functions ``(tables, **arguments) -> estimates`` by name.
        tables: the results.
        scale: mini or full.

    Returns:
        one outcome per claim, in the file's order.

    Raises:
        InputError: a claim names a metric that does not exist, or arguments that it does not take.
    """
    for claim in claims.claims.values():
        if claim.metric not in metrics:
            raise InputError(
                f"claim '{claim.id}' of study '{claims.study}': unknown metric '{claim.metric}'; "
                f"known: {', '.join(sorted(metrics))}"
            )
        try:
            inspect.signature(metrics[claim.metric]).bind(tables, **claim.arguments)
        except TypeError as error:
            raise InputError(
                f"claim '{claim.id}' of study '{claims.study}': metric '{claim.metric}': {error}; correct `arguments`"
            ) from error
    return [_outcome(claim, metrics[claim.metric], tables, scale) for claim in claims.claims.values()]


def evaluate_study(claims_path: PathLike, tables: Tables, scale: str) -> tuple[ClaimSet, list[Outcome]]:
    """Read a claim file and judge all its claims with the metrics of its study."""
    claims = load_claims(claims_path)
    return claims, evaluate(claims, metrics_of(claims.study), tables, scale)


def _outcome(claim: Claim, metric: Metric, tables: Tables, scale: str) -> Outcome:
    try:
        estimates = tuple(metric(tables, **claim.arguments))
    except MissingDataError as missing:
        return Outcome(claim, scale, (), Verdict.NOT_RUN, None, f"{missing}.")
    if not estimates:
        return Outcome(claim, scale, (), Verdict.NOT_RUN, None, "No data.")
    rule, reason = _apply(claim, estimates)
    if scale in claim.judged_at:
        return Outcome(claim, scale, estimates, rule, rule if claim.kind != "value" else None, reason)
    scales = " or ".join(claim.judged_at)
    shown = rule if claim.kind != "value" else None
    return Outcome(
        claim, scale, estimates, Verdict.NOT_COMPARABLE, shown, f"Can be judged at scale {scales}; this is {scale}."
    )


def _apply(claim: Claim, estimates: tuple[Estimate, ...]) -> tuple[Verdict, str]:
    """The rule on all parts of a claim, and why."""
    if claim.is_comparison:
        verdicts = [judge_difference(one) for one in estimates]
    else:
        parts = claim.numbers()
        if parts and "" not in parts and {one.name for one in estimates} != set(parts):
            raise InputError(
                f"claim '{claim.id}': metric '{claim.metric}' gives {', '.join(one.name for one in estimates)}, "
                f"the claim states {', '.join(parts)}; use the same parts"
            )
        verdicts = [judge(one, *claim.stated_interval(one.name if one.name in parts else "")) for one in estimates]
    verdict = combine(verdicts)
    few = [one for one in estimates if not one.deterministic and one.n < MIN_SEEDS]
    if few and verdict is not Verdict.CONTRADICTED:
        n = min(one.n for one in few)
        return verdict, f"{n} seed{'s' if n > 1 else ''}: an interval needs at least {MIN_SEEDS}."
    if len(verdicts) > 1:
        counts = [f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(verdicts)]
        return verdict, f"{len(verdicts)} parts: {', '.join(counts)}."
    side = "difference" if claim.is_comparison else "interval"
    words = {
        Verdict.REPRODUCED: f"The {side} lies within what is stated.",
        Verdict.CONTRADICTED: f"The {side} is disjoint from what is stated.",
        Verdict.INCONCLUSIVE: f"The {side} overlaps the border of what is stated.",
    }
    return verdict, words[verdict]
