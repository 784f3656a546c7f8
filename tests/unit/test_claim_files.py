"""What holds for every claim file: metrics, coverage of the results text, findings, and the papers' own words."""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlip_studies.claims.evaluate import evaluate, study_claims
from mlip_studies.claims.schema import Claim, ClaimSet, load_claims, numbers_in
from mlip_studies.claims.verdicts import Verdict
from mlip_studies.units import EV_TO_KCAL_PER_MOL, EV_TO_MEV

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "config" / "claims"
KINDS = {"text-table", "text-figure", "text-code", "arithmetic", "gap", "ambiguity"}
# Names of training sets are no numbers of their own.
SIZE_NAME = r"\b(?:3\.2|32|320) ?(?:k|Mio)\b"


# --- the papers' texts


def words(text: str) -> str:
    """A text without line breaks and the commonest markup."""
    return " ".join(re.sub(r"[*$]", "", text).replace("’", "'").split())


def between(text: str, start: str, end: str) -> str:
    return text[text.index(start) : text.index(end, text.index(start))]


def thousands(text: str) -> str:
    """60,000 as 60 000."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", " ", text)


def krcelic_text(text: str) -> str:
    text = re.sub(r"\b10\^\{-(\d)\}", lambda match: f"{10.0 ** -int(match[1]):.{match[1]}f}", text)
    return " ".join(re.sub(r"\$|\\", "", thousands(text.replace("\t", " | "))).split())


def krcelic_results(text: str) -> str:
    # The first heading of this name is that of the table of contents.
    return krcelic_text(
        between(text[text.index("1 Introduction\n\n") :], "\n3 Results and Discussion\n", "\nAppendix\n")
    )


def pavlovic_results(text: str) -> str:
    return between(" ".join(text.split()), "III. METODA", "[1] J.T. Frank")


def pavlovic_quoted(text: str) -> str:
    text = pavlovic_results(text)
    return text + " " + " ".join(re.sub(r"\$|\\text\{|\}", "", text).split())


def stocker_results(text: str) -> str:
    """The third paragraph to the conclusion, without markup of formulas."""
    text = " ".join(between(text, "In this contribution, we aim", "## Data availability statement").split())
    text = re.sub(r"\$\\mathbf\{F\}_i = .*?\$", " ", text).replace("<sup>-1</sup>", "^{-1}")
    text = re.sub(r"\\text\{([^}]*)\}", r"\1", text)
    text = text.replace("\\AA", "Å").replace("\\approx", "≈").replace("$", "").replace("\\text{", "")
    text = re.sub(r"eV \{?\}?\s*\}?Å\}?\^\{-1\}", "eV/Å", text)
    text = re.sub(r"kcal mol\}?\^\{-1\}", "kcal/mol", text)
    return " ".join(text.split())


def hedelius_text(text: str) -> str:
    """Powers of ten written out, cells between bars."""
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL).replace("\t", " | ")
    text = text.replace("$1.19 \\times 10^{-7}$", "0.000000119")
    text = re.sub(r"\$10\^\{-(\d)\}\$", lambda match: f"{10.0 ** -int(match[1]):.{match[1]}f}", text)
    text = text.replace("\\AA", "Å").replace("\\cdot", " ")
    text = re.sub(r"\\text\{\s*([^}]*?)\s*\}", r" \1 ", text)
    text = re.sub(r"kcal\s+mol\s+\^\{-1\}", "kcal/mol", text)
    text = re.sub(r"kcal/mol\s+Å\s+\^\{-1\}", "kcal/mol/Å", text)
    return re.sub(r" (?=[.,;])", "", " ".join(thousands(text.replace("$", " ")).split()))


def hedelius_results(text: str) -> str:
    return hedelius_text(between(text, "# Chapter 3", "# Bibliography"))


def hedelius_quoted(text: str) -> str:
    abstract = between(text, "## ABSTRACT", "## ACKNOWLEDGMENTS")
    return hedelius_text(abstract + between(text, "## 2.4 Challenges", "# Bibliography"))


def ortiz_text(text: str) -> str:
    text = text.replace("$^{-1}$", "⁻¹").replace("*", "")
    text = re.sub(r"\$\\sim\s*", "~ ", text)
    text = text.replace(r"(360 - \alpha)^\circ", "(360 − α)°").replace(r"\alpha^\circ", "α°").replace(r"^\circ", "°")
    return " ".join(text.replace("$", "").replace("NNP s", "NNPs").split())


def ortiz_results(text: str) -> str:
    return ortiz_text(between(text, "\n5 Interpreting the models", "\n6 Conclusions"))


@dataclass(frozen=True)
class Paper:
    """How a paper's text is read, where it is at hand.

    Attributes:
        file: name of its text.
        results: its results, discussion and conclusion, as the coverage quotes them.
        quoted: the part that claims quote, likewise.
        no_numbers: pattern of names, places and equations, whose digits are no numbers of results.
        units: factors from a claim's unit to those in which its number may be written.
        other_units: the factor of single numbers.
        digits: relative difference of single numbers that are written with other digits than the claim's.
        not_compared: numbers of a passage that a claim lists for another reason than its value.
        outside: claims with a value that the results text does not write in digits: in words or in another section.
    """

    file: str
    results: Callable[[str], str]
    quoted: Callable[[str], str]
    no_numbers: str
    units: tuple[float, ...] = (1.0,)
    other_units: Mapping[str, float] = field(default_factory=dict)
    digits: Mapping[str, float] = field(default_factory=dict)
    not_compared: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()


MEV_PER_KCAL = EV_TO_MEV / EV_TO_KCAL_PER_MOL
PAPERS = {
    "krcelic": Paper(
        "krcelic-multi-fidelity.txt", krcelic_results, krcelic_text,
        r"(?:Section|Table|Figs?\.|Figures?) \d\.\d(?: and \d\.\d)?|\b\d\.\d (?=[A-Z])|"
        r"\b[34] (?=Results and|Conclusion)|ANI-1\b",
        units=(1.0, 1e-3, 1e3),
        outside=frozenset({"eight-models", "four-times-more", "rows-low", "rows-high"}),
    ),
    "pavlovic": Paper(
        "pavlovic-so3krates-on-spice.txt", pavlovic_results, pavlovic_quoted,
        r"\$\$[^$]*(?:\\mathcal\{L\}|\\tilde\{f\})[^$]*\$\$|[Ss]li[ck][aiu] \d",
        # Per cent; meV for kcal/mol; meV, where the claim states the ratio to it.
        other_units={"0.4": 100.0, "4.96": MEV_PER_KCAL, "5.01": MEV_PER_KCAL, "43": 43.0},
        digits={"4.96": 0.05, "5.01": 0.05},
    ),
    "stocker": Paper(
        "stocker-gemnet-robustness.txt", stocker_results, stocker_results,
        # [39, 40] are references, and 4 H-Furo[2,3-c] … 6-amin is a name.
        rf"[Ff]igures? ?\d|\*\*Figure \d|\[\d+(?:, \d+)+\]|4 H-Furo\[2,3-c\]pyrrol-6-amin|{SIZE_NAME}",
        # As written, in thousands or millions, in kcal/mol.
        units=(1.0, 1e-3, 1e-6, EV_TO_KCAL_PER_MOL),
        digits={"0.23": 0.01}, not_compared=frozenset({"1200"}),
        outside=frozenset({"dft-converged-exhaustive", "dft-converged-3.2k-1200k", "highe-forces-similar"}),
    ),
    "hedelius": Paper(
        "hedelius-se3-transformer.txt", hedelius_results, hedelius_quoted,
        r"(?:Figure|Fig\.|Table|chapter|# Chapter) \d(?:\.\d)?|#+ \d\.\d|SE\(3\)|COMP6|ANI-1x?|float\d+|95 %|\d-D",
        units=(1.0, -1.0),
    ),
    "ortiz": Paper(
        "ortiz-physical-adequacy.txt", ortiz_results, ortiz_text,
        r"Sec(?:tion|\.)? ?\d(?:\.\d)*|Figures? \d+|Figs?\. ?\.?\d+[a-d]?|\b\d(?:\.\d)+\b(?= [A-Z\d])|"
        r"\b5(?= Interpreting)|[A-Z]_\d|ANI-\d\w+|Orb-\w+|ORB-D3-v2|\\\[\d+\\\]|\d-body|1D|wB97XD/6-31G\(d\)|"
        r"\b\d+[a-d]\b|\^2|figure \.11d|and 33(?= \(centered)|rightarrow 0|[DHNCO]\d[hd]?\b",
        units=(1.0, 1e-3),
        # Two and three minima in words; correct; the distances of the reference, which a figure shows.
        outside=frozenset({
            "water-two-minima-ani2x", "water-two-minima-mace", "water-two-minima-orb", "water-linear-ani2x",
            "ethane-minima-ani", "ethane-minima-mace-off", "ethane-minima-orb", "cyclobutadiene-mace-off-minimum",
        }),
    ),
}  # fmt: skip
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
studies = pytest.mark.parametrize("study", STUDIES)


def claims_of(study: str) -> ClaimSet:
    return load_claims(FOLDER / f"{study}.yaml")


def numbers(study: str, passage: str) -> Counter[str]:
    return Counter(numbers_in(re.sub(PAPERS[study].no_numbers, " ", passage)))


def stated(claim: Claim) -> list[float]:
    """The numbers that a claim states, ends of a range included."""
    ends = claim.paper["range"] if isinstance(claim.paper, Mapping) and "range" in claim.paper else ()
    return [*claim.numbers().values(), *map(float, ends)]


def text_of(study: str, folder: Path) -> str:
    return (folder / PAPERS[study].file).read_text(encoding="utf-8")


def test_every_claim_file_has_a_paper() -> None:
    assert set(STUDIES) == set(PAPERS)
    assert STUDIES


# --- metrics


@pytest.mark.parametrize("scale", ["mini", "full"])
@studies
def test_every_metric_takes_its_arguments_and_is_not_run_without_data(study: str, scale: str) -> None:
    claims, metrics = claims_of(study), study_claims(study)
    # evaluate stops at a metric that does not exist and at arguments that it does not take.
    outcomes = evaluate(claims, metrics.METRICS, metrics.read_inputs([]), scale)
    assert [outcome.claim.id for outcome in outcomes] == list(claims.claims)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.NOT_RUN}
    assert not [outcome.claim.id for outcome in outcomes if outcome.estimates or not outcome.reason]


@studies
def test_every_metric_is_used_and_every_figure_is_a_target(study: str) -> None:
    claims = claims_of(study).claims.values()
    assert {claim.metric for claim in claims} == set(study_claims(study).METRICS)
    if study == "krcelic":
        module = importlib.import_module("mlip_studies.studies.krcelic")
        targets = {*module.FIGURES, *module.TABLES}
    else:
        targets = set(importlib.import_module(f"mlip_studies.studies.{study}_products").PRODUCTS)
    assert {claim.figure for claim in claims} <= targets


@studies
def test_predictions_are_marked_as_ours_and_translations_have_an_original(study: str) -> None:
    claims = claims_of(study).claims
    for claim in claims.values():
        assert claim.is_ours == claim.id.startswith("ours-") == claim.place.startswith("our prediction"), claim.id
        assert (claim.wording == "translation") == bool(claim.original), claim.id
        if "-as-" in claim.id and claim.id.split("-as-")[0] in claims:  # another reading of a statement
            assert claim.wording == "paraphrase", claim.id


# --- coverage


@studies
def test_every_stated_number_is_covered_and_agrees(study: str) -> None:
    """Each passage's numbers are those of the claims that it names, and no claim with a number is left out."""
    claims, paper = claims_of(study), PAPERS[study]
    covered: set[str] = set()
    for entry in claims.coverage:
        for number, what in entry["numbers"].items():
            for claim_id in what.get("claims", ()):
                covered.add(claim_id)
                claim = claims.claims[claim_id]
                assert not claim.is_ours, claim_id
                if claim.kind == "value" and number not in paper.not_compared:
                    factors = (paper.other_units[number],) if number in paper.other_units else paper.units
                    written = [factor * value for factor in factors for value in stated(claim)]
                    tolerance = paper.digits.get(number, 1e-9)
                    assert any(math.isclose(one, float(number), rel_tol=tolerance) for one in written), (
                        claim_id, number,
                    )  # fmt: skip
            if "background" in what:
                assert claims.background[what["background"]].value == float(number), number
    values = {claim.id for claim in claims.claims.values() if claim.kind == "value" and not claim.is_ours}
    assert values - covered == paper.outside


@studies
def test_the_coverage_is_that_of_the_paper(study: str, papers_folder: Path) -> None:
    """Every number of the results text, as often as it occurs, and every passage in the paper's words."""
    claims = claims_of(study)
    text = PAPERS[study].results(text_of(study, papers_folder))
    for entry in claims.coverage:
        assert " ".join(entry["text"].split()) in text, entry["text"]
    listed = sum((numbers(study, entry["text"]) for entry in claims.coverage), Counter[str]())
    assert numbers(study, text) == listed


@studies
def test_quotations_are_the_papers_words(study: str, papers_folder: Path) -> None:
    text = PAPERS[study].quoted(text_of(study, papers_folder))
    for claim in claims_of(study).claims.values():
        quotation = claim.original or (claim.sentence if claim.quoted else "")
        if "MAE(E)" in quotation:  # an equation
            continue
        for part in re.split(r"…|\[[^\]]*\]", thousands(quotation)):
            # A sentence may begin with another first letter.
            assert part.strip()[1:] in re.sub(r"\[[^\]]*\]", "", text) or part.strip()[1:] in text, (claim.id, part)


# --- findings


@studies
def test_findings_say_what_contradicts_what(study: str) -> None:
    claims = claims_of(study)
    assert claims.findings
    for item in claims.findings:
        assert item["kind"] in KINDS, item["id"]
        assert item["evidence"].strip(), item["id"]
        assert item["evidence"] != item["finding"], item["id"]
        # A contradiction has two sides; what is missing is named.
        if item["kind"] == "gap":
            assert "missing" in item["evidence"].lower(), item["id"]
        for claim_id in re.findall(r"\(([a-z0-9.-]+(?:-[a-z0-9.]+)+)\)", item["finding"]):
            assert claim_id in claims.claims or claim_id in claims.background, (item["id"], claim_id)


@studies
def test_evidence_quotes_the_paper(study: str, papers_folder: Path) -> None:
    text = words(text_of(study, papers_folder))
    for item in claims_of(study).findings:
        for quotation in re.findall("“([^”]*)”", item["evidence"]):
            assert words(quotation) in text, (item["id"], quotation)
