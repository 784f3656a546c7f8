"""Applies the verdict rule to the claims of a study."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.schema import Claim, ClaimSet, load_claims
from mlip_studies.claims.verdicts import MIN_SEEDS, SEEDS, Estimate, Verdict, combine, judge, judge_difference
from mlip_studies.errors import InputError

Metric = Callable[..., Sequence[Estimate]]


class StudyClaims(Protocol):
    """What the module ``claims/<study>.py`` offers.

    Attributes:
        METRICS: functions ``(inputs, **arguments) -> estimates`` by name.
    """

    METRICS: Mapping[str, Metric]

    def read_inputs(self, paths: Iterable[PathLike]) -> Any:
        """The study's results from the files of a rule, in the form that its metrics take."""


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


def study_claims(study: str) -> StudyClaims:
    """The module of a study in this package: its metrics and how its results are read.

    Raises:
        InputError: there is no such module, or it lacks one of the two.
    """
    name = f"mlip_studies.claims.{study}"
    message = f"study '{study}' has no metrics; add claims/{study}.py with METRICS and read_inputs"
    try:
        module: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(message) from error
    if not (hasattr(module, "METRICS") and hasattr(module, "read_inputs")):
        raise InputError(message)
    found: StudyClaims = module
    return found


def evaluate(claims: ClaimSet, metrics: Mapping[str, Metric], tables: Any, scale: str) -> list[Outcome]:
    """Judge every claim.

    Args:
        claims: the claims.
        metrics: functions ``(tables, **arguments) -> estimates`` by name.
        tables: the results, in the form that the metrics take.
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


def evaluate_study(claims_path: PathLike, paths: Iterable[PathLike], scale: str) -> tuple[ClaimSet, list[Outcome]]:
    """Read a claim file and judge all its claims with the metrics of its study.

    Args:
        claims_path: the claim file.
        paths: files with results; those that the study does not know are ignored.
        scale: mini or full.

    Returns:
        the claims, and one outcome per claim.

    Raises:
        InputError: a wrong claim file, a study without metrics, or a damaged result.
    """
    claims = load_claims(claims_path)
    study = study_claims(claims.study)
    return claims, evaluate(claims, study.METRICS, study.read_inputs(paths), scale)


def _outcome(claim: Claim, metric: Metric, tables: Any, scale: str) -> Outcome:
    try:
        estimates = tuple(metric(tables, **claim.arguments))
    except MissingDataError as missing:
        return Outcome(claim, scale, (), Verdict.NOT_RUN, None, f"{missing}.")
    if not estimates:
        return Outcome(claim, scale, (), Verdict.NOT_RUN, None, "No data.")
    rule, reason = _apply(claim, estimates)
    if unresolved := _unresolved(claim, estimates):
        return Outcome(claim, scale, estimates, Verdict.NOT_COMPARABLE, None, unresolved)
    if scale in claim.judged_at:
        return Outcome(claim, scale, estimates, rule, rule if claim.kind != "value" else None, reason)
    scales = " or ".join(claim.judged_at)
    shown = rule if claim.kind != "value" else None
    return Outcome(
        claim, scale, estimates, Verdict.NOT_COMPARABLE, shown, f"Can be judged at scale {scales}; this is {scale}."
    )


def _unresolved(claim: Claim, estimates: Sequence[Estimate]) -> str:
    """Why our numbers cannot be compared with what is stated, "" if they can.

    Where results are checked against calculations of another level than that of the labels, no error below the
    difference of the two levels can be seen: a statement below this floor is neither confirmed nor refuted.
    """
    for one in estimates:
        if one.unresolved:
            return one.unresolved
        if one.floor is None or claim.is_comparison:
            continue
        if math.isnan(one.floor):
            return "The floor of the reference calculations was not measured."
        low = _lowest_stated(claim, one.name)
        if low < one.floor:
            return (
                f"The stated {f'{low:.4g} {claim.unit}'.rstrip()} is below the floor of "
                f"{f'{one.floor:.2g} {claim.unit}'.rstrip()}, by which the reference calculations themselves differ "
                f"from the labels."
            )
    return ""


def _lowest_stated(claim: Claim, part: str) -> float:
    if isinstance(claim.paper, Mapping) and "range" in claim.paper:
        return float(min(claim.paper["range"]))
    if isinstance(claim.paper, Mapping) and "relation" in claim.paper:
        return float(claim.paper["value"])
    numbers = claim.numbers()
    return numbers[part if part in numbers else ""]


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
        n, of = min((one.n, one.of) for one in few)
        if of != SEEDS:
            return verdict, f"{n} of at least {MIN_SEEDS} {of} that an interval needs."
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
