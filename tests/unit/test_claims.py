"""Claims: the schema, the verdict rule, the metrics, the table of verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlip_studies.claims import krcelic, table
from mlip_studies.claims.evaluate import evaluate, evaluate_study, study_claims
from mlip_studies.claims.inputs import COLUMNS, MissingDataError, Tables
from mlip_studies.claims.schema import Claim, ClaimSet, load_claims, numbers_in
from mlip_studies.claims.verdicts import Estimate, Verdict, combine, estimate, half_width, judge, judge_difference
from mlip_studies.errors import InputError

REPO = Path(__file__).resolve().parents[2]
CLAIMS_PATH = REPO / "config" / "claims" / "krcelic.yaml"
ENTRY: dict[str, Any] = {
    "id": "one", "place": "Section 3", "sentence": "It is 10", "wording": "quotation", "quantity": "error",
    "unit": "meV", "kind": "value", "paper": 10, "tolerance": 1, "reason": "rounding", "metric": "constant",
    "judged_at": ["full"], "figure": "outcome",
}  # fmt: skip


def claim_file(tmp_path: Path, *entries: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "claims.yaml"
    content = {"study": "krcelic", "source": "A thesis", "claims": [{**ENTRY, **entry} for entry in entries], **more}
    path.write_text(yaml.safe_dump(content))
    return path


def claims_of(tmp_path: Path, *entries: dict[str, Any]) -> ClaimSet:
    return load_claims(claim_file(tmp_path, *entries))


def judged(tmp_path: Path, entry: dict[str, Any], estimates: list[Estimate], scale: str = "full") -> Any:
    return evaluate(claims_of(tmp_path, entry), {"constant": lambda tables: estimates}, Tables({}), scale)[0]


# --- the rule


def test_half_width_is_students() -> None:
    # t(0.975, 2) = 4.302653, s = 1, n = 3
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert half_width([1.0, 2.0]) is None
    assert half_width([2.0, 2.0, 2.0]) == 0


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([10.0, 10.1, 9.9], Verdict.REPRODUCED),
        ([12.0, 12.1, 11.9], Verdict.CONTRADICTED),
        ([8.0, 8.1, 7.9], Verdict.CONTRADICTED),
        ([10.8, 10.9, 11.0], Verdict.INCONCLUSIVE),  # mean inside, interval over the border
        ([5.0, 10.0, 15.0], Verdict.INCONCLUSIVE),  # interval wider than the stated one
        ([10.0, 10.0], Verdict.INCONCLUSIVE),
        ([10.0], Verdict.INCONCLUSIVE),
        ([10.0, float("nan"), 10.0], Verdict.INCONCLUSIVE),
    ],
)
def test_value_rule(tmp_path: Path, values: list[float], verdict: Verdict) -> None:
    outcome = judged(tmp_path, {}, [estimate("error", values)])
    assert outcome.verdict is verdict
    assert outcome.at_this_scale is None


def test_borders_count_as_inside() -> None:
    assert judge(Estimate("a", 10, 1, 3), 9, 11) is Verdict.REPRODUCED
    assert judge(Estimate("a", 12, 1, 3), 9, 11) is Verdict.INCONCLUSIVE
    assert judge(Estimate("a", 12.001, 1, 3), 9, 11) is Verdict.CONTRADICTED


def test_a_deterministic_number_needs_no_seeds(tmp_path: Path) -> None:
    assert judged(tmp_path, {}, [estimate("rows", 10.5, deterministic=True)]).verdict is Verdict.REPRODUCED
    assert judged(tmp_path, {}, [estimate("rows", 11.5, deterministic=True)]).verdict is Verdict.CONTRADICTED


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([2.0, 2.1, 1.9], Verdict.REPRODUCED),
        ([-2.0, -2.1, -1.9], Verdict.CONTRADICTED),
        ([-1.0, 0.5, 1.0], Verdict.INCONCLUSIVE),
        ([5.0], Verdict.INCONCLUSIVE),
        ([5.0, 5.0], Verdict.INCONCLUSIVE),
    ],
)
def test_ordering_rule(tmp_path: Path, values: list[float], verdict: Verdict) -> None:
    entry = {"kind": "ordering", "paper": "a worse than b", "tolerance": 0}
    outcome = judged(tmp_path, entry, [estimate("a − b", values)])
    assert outcome.verdict is verdict
    assert outcome.at_this_scale is verdict


def test_no_difference_is_on_neither_side() -> None:
    assert judge_difference(Estimate("d", 0, 0.0, 3)) is Verdict.INCONCLUSIVE
    assert judge_difference(Estimate("d", 0, 0.0, 1, True)) is Verdict.CONTRADICTED


def test_a_trend_needs_every_step(tmp_path: Path) -> None:
    entry = {"kind": "trend", "paper": "falls", "tolerance": 0}
    good, bad, open_ = ([2.0, 2.1, 1.9], [-2.0, -2.1, -1.9], [-1.0, 0.5, 1.0])
    for steps, verdict in (
        ((good, good), Verdict.REPRODUCED),
        ((good, open_), Verdict.INCONCLUSIVE),
        ((open_, bad), Verdict.CONTRADICTED),
    ):
        parts = [estimate(f"step {i}", values) for i, values in enumerate(steps)]
        assert judged(tmp_path, entry, parts).verdict is verdict
    assert combine([]) is Verdict.NOT_RUN


@pytest.mark.parametrize(
    ("paper", "value", "verdict"),
    [
        ({"relation": "<=", "value": 3}, 3.5, Verdict.REPRODUCED),
        ({"relation": "<", "value": 3}, 4.5, Verdict.CONTRADICTED),
        ({"relation": ">", "value": 3}, 2.5, Verdict.REPRODUCED),
        ({"relation": ">=", "value": 3}, 1.5, Verdict.CONTRADICTED),
        ({"range": [3, 5]}, 5.9, Verdict.REPRODUCED),
        ({"range": [3, 5]}, 6.1, Verdict.CONTRADICTED),
        ({"range": [3, 5]}, 1.9, Verdict.CONTRADICTED),
    ],
)
def test_relations_and_ranges(tmp_path: Path, paper: Any, value: float, verdict: Verdict) -> None:
    entry = {"kind": "relation", "paper": paper}
    assert judged(tmp_path, entry, [estimate("x", value, deterministic=True)]).verdict is verdict


def test_parts_are_matched_by_name(tmp_path: Path) -> None:
    entry = {"paper": {"a": 2, "b": 100}, "tolerance": 0.1, "relative": True}
    a, b, wrong = (estimate(n, v, deterministic=True) for n, v in (("a", 2.1), ("b", 109), ("b", 111)))
    assert judged(tmp_path, entry, [b, a]).verdict is Verdict.REPRODUCED
    assert judged(tmp_path, entry, [a, wrong]).verdict is Verdict.CONTRADICTED
    with pytest.raises(InputError, match="use the same parts"):
        judged(tmp_path, entry, [a])


def test_other_scale_shows_our_number_and_what_the_rule_would_say(tmp_path: Path) -> None:
    entry = {"kind": "ordering", "paper": "a worse than b", "tolerance": 0}
    outcome = judged(tmp_path, entry, [estimate("a − b", [2.0, 2.1, 1.9])], scale="mini")
    assert outcome.verdict is Verdict.NOT_COMPARABLE
    assert outcome.at_this_scale is Verdict.REPRODUCED
    assert outcome.estimates[0].mean == pytest.approx(2.0)
    value = judged(tmp_path, {}, [estimate("error", [10.0, 10.1, 9.9])], scale="mini")
    assert (value.verdict, value.at_this_scale) == (Verdict.NOT_COMPARABLE, None)


def test_no_data_is_not_run_and_an_unknown_metric_is_an_error(tmp_path: Path) -> None:
    def nothing(tables: Tables) -> list[Estimate]:
        raise MissingDataError("ani described: not among the results")

    claims = claims_of(tmp_path, {})
    for scale in ("mini", "full"):
        outcome = evaluate(claims, {"constant": nothing}, Tables({}), scale)[0]
        assert outcome.verdict is Verdict.NOT_RUN
        assert "described" in outcome.reason
    assert evaluate(claims, {"constant": lambda tables: []}, Tables({}), "full")[0].verdict is Verdict.NOT_RUN
    with pytest.raises(InputError, match="unknown metric 'constant'; known: other"):
        evaluate(claims, {"other": nothing}, Tables({}), "full")
    with pytest.raises(InputError, match=r"missing a required argument: 'mix'.*correct `arguments`"):
        evaluate(claims, {"constant": lambda tables, mix: []}, Tables({}), "full")
    for study in ("nostudy", "verdicts"):  # no module; a module of this package that is no study
        with pytest.raises(InputError, match=f"study '{study}' has no metrics; add claims/{study}.py"):
            study_claims(study)


def test_a_study_reads_its_own_inputs(tmp_path: Path) -> None:
    runs = runs_table(**{"20k_20k": [0.3, 0.31, 0.29], "ANI_1ccx": [0.2, 0.21, 0.19]})
    path = tmp_path / "tables" / "ani" / "coded" / "runs.csv"
    path.parent.mkdir(parents=True)
    runs.to_csv(path, index=False)
    other = tmp_path / "anything.csv"
    other.write_text("a\n1\n")
    claims, outcomes = evaluate_study(CLAIMS_PATH, [other, path], "full")
    assert claims.study == "krcelic"
    by_id = {outcome.claim.id: outcome for outcome in outcomes}
    assert by_id["small-mix-worse"].verdict is Verdict.REPRODUCED
    assert by_id["small-mix-worse"].estimates[0].mean == pytest.approx(100)


# --- the schema


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tolerence": 1}, r"claims\.one` unknown key 'tolerence'; did you mean 'tolerance'\?"),
        ({"colour": 1}, r"unknown key 'colour'; allowed: arguments,"),
        ({"tolerance": -1}, r"`claims\.one\.tolerance` -1 is less than the minimum of 0"),
        ({"tolerance": "a"}, r"`claims\.one\.tolerance` 'a' is not of type 'number'"),
        ({"kind": "guess"}, r"`claims\.one\.kind` 'guess' is not one of"),
        ({"judged_at": ["tiny"]}, r"claims\.one\.judged_at\.0` 'tiny' is not one of"),
        ({"judged_at": []}, r"claims\.one\.judged_at"),
        ({"kind": "ordering"}, "paper must state the ordering in words"),
        ({"paper": "ten"}, "paper must be a number"),
        ({"kind": "trend", "paper": "falls"}, "tolerance must be 0"),
        ({"study": "other"}, "study 'other' differs"),
        ({"paper": {"relation": "~", "value": 1}}, r"claims\.one\.paper"),
        ({"by": "us"}, r"claims\.one\.by` 'us' is not one of"),
    ],
)
def test_wrong_claims_give_one_line(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        claims_of(tmp_path, entry)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "claims.yaml") in str(caught.value)


def test_wrong_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the claims"):
        load_claims(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("claims: [\n")
    with pytest.raises(InputError, match=r"bad\.yaml: line \d+ is not valid YAML"):
        load_claims(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="`one` occurs twice"):
        claims_of(tmp_path, {}, {})
    with pytest.raises(InputError, match="unknown key 'finding'; did you mean 'findings'"):
        load_claims(claim_file(tmp_path, {}, finding=[]))
    finding = {"id": "gap", "place": "Table 1", "kind": "gap", "finding": "No spread.", "evidence": "Missing: seeds."}
    for wrong, message in (
        ([{**finding, "kind": "typo"}], r"`findings\.0\.kind` 'typo' is not one of"),
        ([{key: value for key, value in finding.items() if key != "evidence"}], "missing key 'evidence'"),
        ([{**finding, "evidence": ""}], r"findings\.0\.evidence"),
        ([finding, finding], "findings `gap` occurs twice; ids must be unique"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_claims(claim_file(tmp_path, {}, findings=wrong))
        assert "\n" not in str(caught.value)
    missing = yaml.safe_load(claim_file(tmp_path, {}).read_text())
    del missing["claims"][0]["reason"]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(missing))
    with pytest.raises(InputError, match="missing key 'reason'"):
        load_claims(tmp_path / "claims.yaml")


# --- quoted numbers and coverage


def coverage_file(tmp_path: Path, text: str, numbers: dict[str, Any], **more: Any) -> Path:
    background = [{"id": "quoted", "place": "Section 1", "text": "others", "value": 5, "unit": "%"}]
    entry = {"place": "Section 3", "text": text, "numbers": numbers}
    return claim_file(tmp_path, {}, background=background, coverage=[entry], **more)


def test_numbers_are_found_as_a_text_writes_them() -> None:
    assert numbers_in("about 680 000 rows, 0.17 eV, 5% [7], MD17, 0.047, A100 and 20 meV") == [
        "680000", "0.17", "5", "0.047", "20",
    ]  # fmt: skip
    assert numbers_in("$\\beta = 0.999$ i $F = 132$, $l = [1, 2, 3]$, 100 000 i 1.5.") == [
        "0.999", "132", "1", "2", "3", "100000", "1.5",
    ]  # fmt: skip
    assert numbers_in("20k ANI-1ccx and 160k ANI-1x rows, type-0, -338") == ["20", "160", "0", "338"]


def test_coverage_lists_every_number(tmp_path: Path) -> None:
    numbers = {"10": {"claims": ["one"]}, "5": {"background": "quoted"}, "3": {"excluded": "set-up"}}
    claims = load_claims(coverage_file(tmp_path, "It is 10, others 5 with 3 layers", numbers))
    assert claims.background["quoted"].value == 5
    assert len(claims.coverage) == 1
    for text, wrong, message in (
        ("It is 10, others 5 with 3 layers, and 7", numbers, "number 7 is not listed"),
        ("It is 10, others 5", numbers, "number 3 does not occur in the passage"),
        ("It is 10", {"10": {"claims": ["two"]}}, "number 10: there is no claim 'two'"),
        ("It is 10", {"10": {"background": "one"}}, "number 10: there is no background 'one'"),
        ("It is 10", {"10": {}}, "10"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_claims(coverage_file(tmp_path, text, wrong))
        assert "\n" not in str(caught.value)


def test_ids_are_unique_over_claims_and_background(tmp_path: Path) -> None:
    same = [{"id": "one", "place": "1", "text": "others", "value": 5, "unit": ""}]
    with pytest.raises(InputError, match="background `one` occurs twice"):
        load_claims(claim_file(tmp_path, {}, background=same))


# --- the thesis's claims and their metrics


def runs_table(**levels: list[float]) -> pd.DataFrame:
    rows = []
    for mix, values in levels.items():
        for seed, value in enumerate(values):
            row = dict.fromkeys(COLUMNS["runs"], 1.0)
            row |= {"experiment": "ani", "variant": "coded", "mix": mix.replace("_", "-"), "seed": seed}
            row |= {"test_rmse_ev": value, "seconds_per_epoch": value}
            rows.append(row)
    return pd.DataFrame(rows)


def tables_of(tmp_path: Path, runs: pd.DataFrame) -> Tables:
    path = tmp_path / "tables" / "ani" / "coded" / "runs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.to_csv(path, index=False)
    return Tables.from_paths([path])


def test_comparisons_are_paired_by_seed_in_mev(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, runs_table(a=[0.1, 0.5, 0.9], b=[0.09, 0.48, 0.89], c=[0.2, 0.3]))
    (one,) = krcelic.worse_than(tables, "ani", "coded", [["a", "b"]])
    assert one.mean == pytest.approx(np.mean([10, 20, 10]))
    assert one.bounds is not None
    assert one.bounds[0] > -2  # unpaired, the spread of 0.1 to 0.9 eV would make this hundreds of meV
    (short,) = krcelic.worse_than(tables, "ani", "coded", [["a", "c"]])
    assert (short.n, short.half_width) == (2, None)
    with pytest.raises(MissingDataError, match="mix d"):
        krcelic.worse_than(tables, "ani", "coded", [["a", "d"]])
    steps = krcelic.decreasing(tables, "ani", "coded", ["a", "b"])
    assert [step.mean for step in steps] == [one.mean]


def test_rank_extremes_and_time_ratio(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, runs_table(a=[1.0, 2.0, 2.0], b=[2.0, 4.0, 1.0]))
    (rank,) = krcelic.rank(tables, "ani", "coded", "a", "test_rmse")
    assert rank.mean == pytest.approx((1 + 1 + 2) / 3)
    (largest,) = krcelic.extreme_error(tables, "ani", "coded", "max", ["a", "b"])
    assert largest.mean == pytest.approx(1000 * (2 + 4 + 2) / 3)
    (smallest,) = krcelic.extreme_error(tables, "ani", "coded", "min", ["a", "b"])
    assert smallest.mean == pytest.approx(1000 * (1 + 2 + 1) / 3)
    (ratio,) = krcelic.time_ratio(tables, "ani", "coded", ["a", "b"], base=2)
    assert ratio.mean == pytest.approx((4 + 4 + 1) / 3)


def test_data_set_counts(tmp_path: Path) -> None:
    path = tmp_path / "ani" / "self_energies_all.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"fidelities": {"wb97x_dz": {"n_rows": 4956005}, "ccsd(t)_cbs": {"n_rows": 489571}}}))
    outcomes = {
        outcome.claim.id: outcome
        for outcome in evaluate(load_claims(CLAIMS_PATH), krcelic.METRICS, Tables.from_paths([path]), "full")
    }
    assert outcomes["rows-low"].verdict is Verdict.CONTRADICTED
    assert outcomes["rows-high"].verdict is Verdict.REPRODUCED
    assert outcomes["four-times-more"].verdict is Verdict.CONTRADICTED
    assert outcomes["small-mix-worse"].verdict is Verdict.NOT_RUN


def test_sizes_of_a_mix_at_full_scale(tmp_path: Path) -> None:
    runs = runs_table(**{"80k_20k": [1.0]}).astype({"test_rmse_ev": float})
    runs[list(krcelic.SIZE_COLUMNS)] = [[80000, 20000, 10000, 20000, 20000]]
    claims = load_claims(CLAIMS_PATH)

    def verdict(frame: pd.DataFrame) -> Verdict:
        outcomes = evaluate(claims, krcelic.METRICS, tables_of(tmp_path, frame), "full")
        return next(outcome.verdict for outcome in outcomes if outcome.claim.id == "table3.1-80k-20k")

    assert verdict(runs) is Verdict.REPRODUCED
    assert verdict(runs.assign(n_val_low=9999)) is Verdict.CONTRADICTED


@pytest.mark.parametrize(("more", "verdict"), [(0.1, Verdict.REPRODUCED), (0.3, Verdict.CONTRADICTED)])
def test_more_high_fidelity_rows_at_equal_low_ones(tmp_path: Path, more: float, verdict: Verdict) -> None:
    spread = [0.99, 1.0, 1.01]
    levels = {f"{low}k_{high}k": [(0.2 if high == 20 else more) * one for one in spread]
              for low in (20, 80, 160) for high in (20, 60)}  # fmt: skip
    outcomes = evaluate(load_claims(CLAIMS_PATH), krcelic.METRICS, tables_of(tmp_path, runs_table(**levels)), "full")
    assert next(one.verdict for one in outcomes if one.claim.id == "more-high-same-low") is verdict


def test_the_thesis_ratios_agree_with_its_table() -> None:
    claims = load_claims(CLAIMS_PATH).claims
    for claim_id in ("size-ratio-20k", "fidelity-ratio-20k", "fidelity-ratio-60k"):
        claim = claims[claim_id]
        for part, stated in claim.numbers().items():
            sizes = claims[f"table3.1-{part.replace('/', '-')}"].numbers()
            low, high = sizes["training low"], sizes["training high"]
            got = (low + high) / 20000 if claim_id == "size-ratio-20k" else low / high
            assert got == pytest.approx(stated, abs=claim.tolerance), (claim_id, part)


def test_arithmetic_of_the_findings() -> None:
    claims = load_claims(CLAIMS_PATH)
    evidence = {item["id"]: item["evidence"] for item in claims.findings}
    stated = {
        key: claims.claims[key].numbers()[""] for key in ("rows-low", "rows-high", "test-error-max", "test-error-min")
    }
    assert f"a ratio of {stated['rows-low'] / stated['rows-high']:.1f}" in evidence["ratio-of-the-data-sets"]
    # A mean squared error of 0.025 eV², for 25 meV.
    roots = [1000 * math.sqrt(stated[f"test-error-{end}"] / 1000) for end in ("max", "min")]
    assert f"{roots[0]:.0f} and {roots[1]:.0f} meV" in evidence["unit-of-the-test-loss"]
    assert (
        f"25 over 12 is {stated['test-error-max'] / stated['test-error-min']:.1f}" in evidence["inversely-proportional"]
    )
    rows = [claims.claims[f"table3.1-{mix}-20k"].numbers()["training low"] for mix in ("20k", "160k")]
    assert f"160k over 20k is {rows[1] / rows[0]:g}" in evidence["inversely-proportional"]


# --- the table


def test_table_in_three_formats(tmp_path: Path) -> None:
    claims = claims_of(
        tmp_path,
        {"id": "good"},
        {"id": "parts", "paper": {"a": 1600, "b": 20000}, "tolerance": 0, "metric": "parts"},
        {
            "id": "order",
            "kind": "ordering",
            "paper": "a < b",
            "tolerance": 0,
            "metric": "order",
            "wording": "paraphrase",
        },
        {"id": "missing", "metric": "missing"},
    )

    def missing(tables: Tables) -> list[Estimate]:
        raise MissingDataError("nothing")

    metrics: dict[str, Any] = {
        "constant": lambda tables: [estimate("x", [10.0, 10.1, 9.9])],
        "parts": lambda tables: [estimate(n, v, deterministic=True) for n, v in (("a", 1600), ("b", 2))],
        "order": lambda tables: [estimate("b − a", [3.0])],
        "missing": missing,
    }
    outcomes = evaluate(claims, metrics, Tables({}), "full")
    paths = table.write(claims, outcomes, tmp_path / "verdicts.html")
    assert {path.name for path in paths} == {"verdicts.html", "verdicts.csv", "verdicts.json"}
    frame = pd.read_csv(tmp_path / "verdicts.csv").set_index("claim")
    assert dict(frame["verdict"]) == {
        "good": "reproduced", "parts": "contradicted", "order": "inconclusive", "missing": "not run",
    }  # fmt: skip
    assert frame.loc["good", "ours"] == "10 ± 0.25"
    assert frame.loc["parts", "ours"] == "a: 1600; b: 2"
    assert frame.loc["order", "why"] == "1 seed: an interval needs at least 3."
    page = (tmp_path / "verdicts.html").read_text()
    for mark, word in (("good", "reproduced"), ("bad", "contradicted"), ("open", "inconclusive"), ("none", "not run")):
        assert f'<span class="{mark}">{word}</span>' in page
    content = json.loads((tmp_path / "verdicts.json").read_text())
    assert content["counts"] == {
        "reproduced": 1, "contradicted": 1, "inconclusive": 1, "not comparable at this scale": 0, "not run": 1,
    }  # fmt: skip
    assert content["counts_of_our_predictions"]["reproduced"] == 0
    assert "Whose statement" not in page
    assert content["claims"][0]["ours"][0]["n"] == 3
    assert content["claims"][2]["ours"][0]["half_width_95"] is None


def test_translations_and_our_predictions_are_marked_and_counted_apart(tmp_path: Path) -> None:
    claims = claims_of(
        tmp_path,
        {"id": "theirs", "wording": "translation", "sentence": "It is ten", "original": "Deset je"},
        {"id": "ours-one", "wording": "paraphrase", "sentence": "It will be ten", "by": "ours"},
    )
    outcomes = evaluate(claims, {"constant": lambda tables: [estimate("x", [10.0, 10.1, 9.9])]}, Tables({}), "full")
    table.write(claims, outcomes, tmp_path / "verdicts.html")
    frame = pd.read_csv(tmp_path / "verdicts.csv").set_index("claim")
    assert frame.loc["theirs", "statement"] == "“It is ten” (translated; original: “Deset je”)"
    assert frame.loc["ours-one", "statement"] == "It will be ten (prediction of this project)"
    assert list(frame["by"]) == ["the paper", "prediction of this project"]
    page = (tmp_path / "verdicts.html").read_text()
    assert "1 claim of A thesis: 1 reproduced. 1 prediction of this project: 1 reproduced." in page
    content = json.loads((tmp_path / "verdicts.json").read_text())
    assert content["counts"]["reproduced"] == content["counts_of_our_predictions"]["reproduced"] == 1


def test_findings_stand_in_the_table_with_their_evidence(tmp_path: Path) -> None:
    finding = {"id": "gap", "place": "Table 1", "kind": "gap", "finding": "No spread.", "evidence": "Missing: seeds."}
    claims = load_claims(claim_file(tmp_path, {}, findings=[finding]))
    outcomes = evaluate(claims, {"constant": lambda tables: [estimate("x", [10.0, 10.1])]}, Tables({}), "full")
    table.write(claims, outcomes, tmp_path / "verdicts.html")
    assert "Table 1 (gap): No spread. Evidence: Missing: seeds." in (tmp_path / "verdicts.html").read_text()
    assert json.loads((tmp_path / "verdicts.json").read_text())["findings"] == [finding]


def test_claim_is_frozen() -> None:
    claim = next(iter(load_claims(CLAIMS_PATH).claims.values()))
    assert isinstance(claim, Claim)
    with pytest.raises(AttributeError):
        claim.tolerance = 1  # type: ignore[misc]
