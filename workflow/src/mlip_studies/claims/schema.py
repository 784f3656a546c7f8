"""Reading of claim files: validated by ``workflow/schemas/claims.schema.yaml``, errors in one line."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from mlip_studies.artifacts import PathLike
from mlip_studies.errors import InputError

SCHEMA_PATH = Path(__file__).resolve().parents[3] / "schemas" / "claims.schema.yaml"
# Numbers as a text writes them: thousands apart by spaces; not those in names (MD17, ANI-1x) or in references ([7]).
_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?")
_NO_NUMBER = re.compile(r"\[\d+\]|\b[A-Z]+-\d+[a-z]+\b")


@dataclass(frozen=True)
class Claim:
    """One statement of a paper about its own results.

    Attributes:
        id: unique within its study.
        study: name of the study.
        place: section, figure, table or equation of the paper.
        sentence: what the paper says, in English.
        wording: quotation, translation or paraphrase.
        quantity: what is stated.
        unit: unit of the paper's value, "" if it has none.
        kind: value, relation, ordering or trend.
        paper: a number; {part: number}; {"range": [low, high]}; {"relation": "<", "value": x}; or, for an ordering or
            trend, the relation in words.
        tolerance: half width around the paper's value, absolute, or relative if `relative`.
        relative: the tolerance is a fraction of the paper's value.
        reason: why this tolerance.
        metric: name of the function that answers it.
        arguments: keyword arguments of the metric.
        judged_at: scales at which a verdict is meaningful.
        figure: target that shows the number.
        note: anything that a reader of the verdict must know.
        original: the sentence in the paper's language, "" where that is English.
        by: "paper", or "ours" for a prediction of this project.
    """

    id: str
    study: str
    place: str
    sentence: str
    wording: str
    quantity: str
    unit: str
    kind: str
    paper: float | str | Mapping[str, Any]
    tolerance: float
    reason: str
    metric: str
    judged_at: tuple[str, ...]
    figure: str
    relative: bool = False
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""
    original: str = ""
    by: str = "paper"

    @property
    def quoted(self) -> bool:
        """Whether the sentence is the paper's own."""
        return self.wording == "quotation"

    @property
    def is_ours(self) -> bool:
        """Whether it is a prediction of this project and no statement of the paper."""
        return self.by == "ours"

    @property
    def is_comparison(self) -> bool:
        """Whether the metric gives paired differences (positive agrees with the paper)."""
        return self.kind in ("ordering", "trend")

    def numbers(self) -> dict[str, float]:
        """The paper's value by part; a single value has the part name ""."""
        if isinstance(self.paper, int | float):
            return {"": float(self.paper)}
        if isinstance(self.paper, Mapping) and not {"range", "relation"} & set(self.paper):
            return {str(part): float(value) for part, value in self.paper.items()}
        return {}

    def stated_interval(self, part: str = "") -> tuple[float, float]:
        """The interval that counts as agreement, tolerance included.

        Args:
            part: part of the paper's value, for values with several parts.
        """
        if isinstance(self.paper, Mapping) and "range" in self.paper:
            low, high = self.paper["range"]
            return low - self._margin(low), high + self._margin(high)
        if isinstance(self.paper, Mapping) and "relation" in self.paper:
            value = float(self.paper["value"])
            margin = self._margin(value)
            if self.paper["relation"].startswith("<"):
                return -math.inf, value + margin
            return value - margin, math.inf
        value = self.numbers()[part]
        return value - self._margin(value), value + self._margin(value)

    def _margin(self, value: float) -> float:
        return abs(value) * self.tolerance if self.relative else self.tolerance


@dataclass(frozen=True)
class Background:
    """A number that the paper quotes from others or takes as given.

    Attributes:
        id: unique within the study, claims included.
        place: section, figure or other paper.
        text: what it is.
        value: the number.
        unit: its unit, "" if it has none.
    """

    id: str
    place: str
    text: str
    value: float
    unit: str


@dataclass(frozen=True)
class ClaimSet:
    """All claims of a study, with what was found while reading it.

    Attributes:
        study: name of the study.
        source: the paper.
        claims: by id, in the file's order.
        findings: contradictions, gaps and ambiguities inside the paper: id, place, kind, finding, evidence.
        excluded: numbers of the results text that are no claims: text, reason.
        background: quoted numbers by id.
        coverage: passages of the results text with numbers: place, text, numbers.
    """

    study: str
    source: str
    claims: Mapping[str, Claim]
    findings: tuple[Mapping[str, str], ...]
    excluded: tuple[Mapping[str, str], ...]
    background: Mapping[str, Background] = field(default_factory=lambda: MappingProxyType({}))
    coverage: tuple[Mapping[str, Any], ...] = ()


def numbers_in(text: str) -> list[str]:
    """The numbers of a text as it writes them, without separators of thousands.

    Args:
        text: a passage; references like [7] and digits inside names do not count.
    """
    return [number.replace(" ", "") for number in _NUMBER.findall(_NO_NUMBER.sub(" ", text))]


def _one_line(error: ValidationError, path: Path, content: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    steps = list(error.absolute_path)
    if len(steps) >= 2 and steps[0] == "claims":
        entry = content["claims"][steps[1]]
        name = entry.get("id", f"number {steps[1]}") if isinstance(entry, dict) else f"number {steps[1]}"
        where = ".".join(["claims", str(name), *(str(step) for step in steps[2:])])
    where = f" `{where}`" if where else ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        allowed = sorted(error.schema.get("properties", {}))
        for key in sorted(set(error.instance) - set(allowed)):
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(allowed)}"
            return f"{path}:{where} unknown key '{key}'; {hint}"
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in error.instance]
        return f"{path}:{where} missing key '{missing[0]}'; add it"
    message = error.message.splitlines()[0]
    return (
        f"{path}:{where} {message[:200]}; correct the value (workflow/schemas/claims.schema.yaml lists what is allowed)"
    )


def load_claims(path: PathLike, schema_path: PathLike = SCHEMA_PATH) -> ClaimSet:
    """Read and validate a claim file.

    Raises:
        InputError: the file is missing, is not YAML, has an unknown key or an impossible value.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the claims ({error.strerror}); check the path") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}:{line} is not valid YAML ({getattr(error, 'problem', error)}); correct it") from error
    schema = yaml.safe_load(Path(schema_path).read_text(encoding="utf-8"))
    errors = list(Draft202012Validator(schema).iter_errors(content))
    if errors:
        # An unknown key is usually the cause of everything else, so it is reported first.
        unknown = [error for error in errors if error.validator == "additionalProperties"]
        raise InputError(_one_line(unknown[0] if unknown else best_match(errors), path, content))
    claims: dict[str, Claim] = {}
    for entry in content["claims"]:
        claim = _claim(entry, content["study"], path)
        if claim.id in claims:
            raise InputError(f"{path}: claims `{claim.id}` occurs twice; ids must be unique")
        claims[claim.id] = claim
    background: dict[str, Background] = {}
    for entry in content.get("background", ()):
        if entry["id"] in background or entry["id"] in claims:
            raise InputError(f"{path}: background `{entry['id']}` occurs twice; ids must be unique")
        background[entry["id"]] = Background(**entry)
    findings = tuple(content.get("findings", ()))
    for finding_id, n in Counter(finding["id"] for finding in findings).items():
        if n > 1:
            raise InputError(f"{path}: findings `{finding_id}` occurs twice; ids must be unique")
    coverage = tuple(content.get("coverage", ()))
    _check_coverage(coverage, claims, background, path)
    return ClaimSet(
        content["study"],
        content["source"],
        MappingProxyType(claims),
        findings,
        tuple(content.get("excluded", ())),
        MappingProxyType(background),
        coverage,
    )


def _check_coverage(
    coverage: tuple[Mapping[str, Any], ...],
    claims: Mapping[str, Claim],
    background: Mapping[str, Background],
    path: Path,
) -> None:
    """Every number of every passage is listed, and what it is said to be exists."""
    for entry in coverage:
        where = f"{path}: coverage “{entry['text'][:40]}…”"
        found = Counter(numbers_in(entry["text"]))
        for number in found.keys() ^ entry["numbers"].keys():
            problem = "is not listed" if number in found else "does not occur in the passage"
            raise InputError(f"{where} number {number} {problem}; correct `numbers`")
        for number, what in entry["numbers"].items():
            for claim_id in what.get("claims", ()):
                if claim_id not in claims:
                    raise InputError(f"{where} number {number}: there is no claim '{claim_id}'; correct the id")
            if "background" in what and what["background"] not in background:
                raise InputError(
                    f"{where} number {number}: there is no background '{what['background']}'; correct the id"
                )


def _claim(entry: Mapping[str, Any], study: str, path: Path) -> Claim:
    values = dict(entry)
    values["judged_at"] = tuple(values["judged_at"])
    values.setdefault("study", study)
    claim = Claim(**values)
    where = f"{path}: claims `{claim.id}`"
    if claim.study != study:
        raise InputError(f"{where} study '{claim.study}' differs from the file's '{study}'; correct one of them")
    if claim.is_comparison and not isinstance(claim.paper, str):
        raise InputError(f"{where} paper must state the {claim.kind} in words; write a text")
    if not claim.is_comparison and isinstance(claim.paper, str):
        raise InputError(f"{where} paper must be a number, parts, a range or a relation for kind '{claim.kind}'")
    if claim.is_comparison and claim.tolerance != 0:
        raise InputError(f"{where} tolerance must be 0 for kind '{claim.kind}': the sign of the difference decides")
    return claim
