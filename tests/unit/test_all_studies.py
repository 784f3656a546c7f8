"""Tables and figures over all studies: counts, words and numbers from synthetic results whose answers are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mlip_studies.artifacts import write_text
from mlip_studies.claims import all_claims, table
from mlip_studies.claims.evaluate import Outcome
from mlip_studies.claims.run_tables import MD_COLUMNS
from mlip_studies.claims.schema import Claim, ClaimSet
from mlip_studies.claims.verdicts import Estimate, Verdict
from mlip_studies.errors import InputError
from mlip_studies.provenance import front_page
from mlip_studies.studies import all_studies
from mlip_studies.studies.all_studies_products import PRODUCTS, chosen, paths
from mlip_studies.units import EV_TO_KCAL_PER_MOL

TITLES = {"alpha": "Study A & more", "beta": "Study B"}
FIGURES = {"alpha": {"fig1": "alpha/figures/fig1.png"}}


def outcome(study: str, number: int, verdict: Verdict, by: str = "paper", sentence: str = "It is ten") -> Outcome:
    claim = Claim(
        id=f"c{number}", study=study, place="4.1", sentence=sentence, wording="paraphrase",
        quantity=f"quantity {number}", unit="eV", kind="value", paper=10.0, tolerance=1.0, reason="rounding",
        metric="m", judged_at=("mini", "full"), figure="fig1", by=by,
    )  # fmt: skip
    estimates = (Estimate("x", 12.0, 0.5, 3), Estimate("y", float("nan"), None, 1, interval=(1.0, 2.0)))
    return Outcome(claim, "mini", estimates, verdict, None, "because")


def verdicts_file(folder: Path, study: str, outcomes: list[Outcome], findings: tuple[dict[str, str], ...] = ()) -> Path:
    claims = ClaimSet(study, f"Source of {study}", {one.claim.id: one.claim for one in outcomes}, findings, ())
    (folder / study).mkdir(parents=True)
    table.write(claims, outcomes, folder / study / "verdicts.html")
    return folder / study / "verdicts.json"


@pytest.fixture
def files(tmp_path):
    finding = {
        "id": "f",
        "place": "p. 3",
        "finding": "<b>text</b> against table",
        "kind": "text-table",
        "evidence": "12 & 13",
    }
    return [
        verdicts_file(tmp_path, "beta", [outcome("beta", 0, Verdict.NOT_RUN)]),
        verdicts_file(
            tmp_path,
            "alpha",
            [
                outcome("alpha", 0, Verdict.REPRODUCED, sentence='<script>alert("x")</script> & 5 < 6'),
                outcome("alpha", 1, Verdict.CONTRADICTED),
                outcome("alpha", 2, Verdict.CONTRADICTED, by="ours"),
            ],
            (finding,),
        ),
    ]


def test_records_give_back_the_words_of_the_studies_own_table(files, tmp_path):
    studies = all_claims.read_verdicts(files)
    frame = all_claims.claims_frame(studies, TITLES, FIGURES)
    assert list(frame["study"]) == ["alpha", "alpha", "alpha", "beta"]
    own = pd.read_csv(tmp_path / "alpha" / "verdicts.csv", keep_default_na=False, dtype=str)
    words = ["claim", "verdict", "place", "by", "statement", "quantity", "paper", "unit", "seeds", "why", "tolerance"]
    assert frame.loc[frame["study"] == "alpha", words].to_dict("records") == own[words].to_dict("records")
    assert frame["ours"].iloc[0] == "x: 12 ± 0.5; y: nan (1 to 2)"
    assert list(frame["figure_file"]) == ["alpha/figures/fig1.png"] * 3 + [""]


def test_counts_keep_our_predictions_apart(files):
    studies = all_claims.read_verdicts(files)
    theirs = all_claims.count_frame(studies, TITLES).set_index("study")
    assert theirs.loc["Study A & more", ["reproduced", "contradicted", "claims"]].tolist() == [1, 1, 2]
    assert theirs.loc["all", ["reproduced", "contradicted", "not run", "claims"]].tolist() == [1, 1, 1, 3]
    ours = all_claims.count_frame(studies, TITLES, by="ours").set_index("study")
    assert list(ours.index) == ["Study A & more"]
    assert ours["contradicted"].tolist() == [1]


def test_page_escapes_and_links(files, tmp_path):
    studies = all_claims.read_verdicts(files)
    path = tmp_path / "all" / "tables" / "claims.html"
    links = {"alpha/figures/fig1.png": "../0123/fig1.png"}
    written = all_claims.write(studies, path, TITLES, FIGURES, links)
    assert [one.name for one in written] == ["claims.html", "claims.csv", "claims.json"]
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>text</b>" not in page
    assert "(text-table): &lt;b&gt;text&lt;/b&gt; against table Evidence: 12 &amp; 13" in page
    anchors = re.findall(r'<a class="file" href="([^"]*)" data-report="([^"]*)">fig1</a>', page)
    assert anchors == [("../../alpha/figures/fig1.png", "../0123/fig1.png")] * 3
    assert (path.parent / anchors[0][0]).resolve() == tmp_path / "alpha" / "figures" / "fig1.png"
    assert page.count('data-label="Shown in"') == 4
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert content["counts"]["all"] == {
        "reproduced": 1, "contradicted": 1, "inconclusive": 0, "not comparable at this scale": 0, "not run": 1,
    }  # fmt: skip
    assert content["counts_of_our_predictions"]["all"]["contradicted"] == 1
    assert [(claim["study"], claim["id"]) for claim in content["claims"]] == [
        ("alpha", "c0"), ("alpha", "c1"), ("alpha", "c2"), ("beta", "c0"),
    ]  # fmt: skip
    assert content["findings"][0]["evidence"] == "12 & 13"


def test_one_study_has_no_sum(files, tmp_path):
    studies = all_claims.read_verdicts(files[:1])
    frame = all_claims.count_frame(studies, TITLES)
    assert list(frame["study"]) == ["Study B"]
    page = all_claims.write(studies, tmp_path / "one.html", TITLES, {})[0].read_text(encoding="utf-8")
    assert "Predictions of this project by study" not in page
    written = all_studies.summary(studies, context(), tmp_path / "summary.png")
    assert pd.read_csv(written[2])["n"].sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ({"claims": None}, "key 'claims' is no list"),
        ({"scale": "full"}, "is of scale full"),
        ({"study": "beta"}, "is among the files already"),
        ({"findings": ["x"]}, "key 'findings\\[0\\]': expected place and finding"),
        ("no verdict", "key 'claims\\[1\\]': key 'verdict' is missing"),
        ("odd verdict", "key 'claims\\[1\\]': 'perhaps' is not a valid Verdict"),
        ("no scale", "key 'scale' is missing"),
    ],
)
def test_wrong_json_is_one_line(files, change, message):
    content = json.loads(files[1].read_text(encoding="utf-8"))
    if isinstance(change, dict):
        text = json.dumps(content | change)
    elif change == "no verdict":
        del content["claims"][1]["verdict"]
        text = json.dumps(content)
    elif change == "odd verdict":
        content["claims"][1]["verdict"] = "perhaps"
        text = json.dumps(content)
    elif change == "no scale":
        del content["scale"]
        text = json.dumps(content)
    else:
        text = change
    write_text(files[1], text)
    with pytest.raises(InputError, match=message) as caught:
        all_claims.read_verdicts(files)
    assert "\n" not in str(caught.value)
    assert str(files[1]) in str(caught.value)


def test_no_files_is_one_line():
    with pytest.raises(InputError, match="enable at least one study"):
        all_claims.read_verdicts([])


def context() -> all_studies.AllContext:
    known = {"network": "net", "data": "d", "dataset": "water", "fidelity": "pbe"}
    return all_studies.AllContext(
        "mini",
        TITLES | {"mixes": "Mixes"},
        {"alpha": {name: known for name in ("raw", "fitted", "forces")}},
        {"net": "The Net"},
        {"ani": {"dataset": "ani_mini", "high": "cc", "self_energies": "all"}},
        {"coded": "EGNN"},
        {"mine": {"study": "alpha", "run": "fitted"}},
    )


def run_lines(run: str, shift: str, beta: float = 0.9, n_train: int = 20, **values: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": run, "seed": [0, 1], "model": "net", "shift": shift, "beta": beta, "n_train": n_train, "n_test": 7,
            "energy_mae_ev": [0.4, 0.6], "energy_per_atom_mae_ev": [0.04, 0.06],
            "corrected_train_energy_mae_ev": float("nan"), "corrected_train_energy_per_atom_mae_ev": float("nan"),
            "corrected_test_energy_mae_ev": 0.1, "corrected_test_energy_per_atom_mae_ev": 0.01, "correction_note": "",
            "force_mae_ev_per_angstrom": [0.1, 0.3], "train_seconds": [60.0, 180.0], "device": "cpu", **values,
        }
    )  # fmt: skip


def put(path: Path, content: pd.DataFrame | dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else json.dumps(content)
    write_text(path, text)
    return path


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results" / "mini"
    alpha = root / "alpha"
    mixes = pd.DataFrame(
        {
            "experiment": "ani", "variant": "coded", "mix": ["a", "b"], "seed": 0, "n_train_low": 100,
            "n_train_high": 10, "n_val_low": 1, "n_val_high": 1, "n_test": 5, "epochs": 1, "steps": 1,
            "seconds_per_epoch": 1.0, "train_seconds": 30.0, "best_val_rmse_ev": 1.0, "final_train_rmse_ev": 1.0,
            "test_mse_ev2": 1.0,
            "test_rmse_ev": 1.0, "test_mae_ev": 0.5, "test_rmse_per_atom_ev": 0.1, "test_mae_per_atom_ev": [0.09, 0.03],
            "n_parameters": 5, "device": "cpu", "stopped_by": "steps",
        }
    )  # fmt: skip
    trajectories = pd.DataFrame({"replica": range(5), "survived_ps": 1.0, "alive": [True, True, True, False, True]})
    trajectories["first_reason"] = ["", "", "", "not_finite", "bond"]  # the last one was noted and went on
    summary = {"time_ps": 2.0, "steps_per_second": 50.0, "n_trajectories": 4, "device": "cpu"}
    fit = {
        "n_rows": 9, "rank": 1, "elements": [1, 8], "note": None, "before": {"std_per_atom_ev": 5.0},
        "after": {"std_per_atom_ev": 0.05, "mae_per_atom_ev": 0.04},
    }  # fmt: skip
    return {
        "tables": [
            put(alpha / "tables" / "raw" / "runs.csv", run_lines("raw", "mean_padded")),
            put(alpha / "tables" / "fitted" / "runs.csv", run_lines("fitted", "per_element")),
            put(alpha / "tables" / "forces" / "runs.csv", run_lines("forces", "none", beta=1.0, n_train=50)),
            put(alpha / "md" / "hot" / "fitted" / "replicas.csv", trajectories),
            put(alpha / "md" / "hot" / "fitted" / "summary.json", summary),
            put(root / "mixes" / "tables" / "ani" / "coded" / "runs.csv", mixes),
        ],
        "fits": [
            put(
                root / "data" / "water" / "self_energies.json",
                {"dataset": "water", "rows": "all", "fidelities": {"pbe": fit, "empty": {"n_rows": 0}}},
            )
        ],
        "scorecard": put(
            root / "ortiz" / "tables" / "scorecard.csv",
            pd.DataFrame({"name": ["mine"] * 4 + ["other"], "verdict": ["pass", "pass", "fail", "not run", "pass"]}),
        ),
    }


def test_regression_says_where_it_was_fitted(results, tmp_path):
    studies = all_studies.by_study(results["tables"], list(context().titles))
    figure, page = tmp_path / "regression.png", tmp_path / "regression.html"
    all_studies.regression(studies, results["fits"], context(), figure, page)
    frame = pd.read_csv(page.with_suffix(".csv"), keep_default_na=False, na_values=["nan"])
    raw = frame[frame["run"] == "raw"].set_index("regression")
    assert list(raw.index) == [all_studies.WITHOUT, all_studies.AFTER_TEST]
    assert float(raw.loc[all_studies.WITHOUT, "energy_mae_mev_per_atom"]) == pytest.approx(50.0)
    assert float(raw.loc[all_studies.WITHOUT, "energy_mae_kcal_per_mol"]) == pytest.approx(0.5 * EV_TO_KCAL_PER_MOL)
    assert float(raw.loc[all_studies.AFTER_TEST, "energy_mae_mev_per_atom"]) == pytest.approx(10.0)
    assert list(frame.loc[frame["run"] == "fitted", "regression"]) == [all_studies.BEFORE]
    assert set(frame.loc[frame["run"] == "forces", "loss"]) == {"forces only"}
    mixed = frame[frame["study"] == "mixes"]
    assert set(mixed["regression"]) == {all_studies.BEFORE_ALL}
    assert list(mixed["energy_mae_mev_per_atom"].astype(float)) == pytest.approx([90.0, 30.0])
    alone = frame[frame["what"] == all_studies.STATISTICS]
    assert list(alone["spread_mev_per_atom"].astype(float)) == pytest.approx([5000.0, 50.0])
    assert alone["regression"].iloc[1] == "fitted to all rows, test rows among them"
    assert frame["source"].iloc[0] == "alpha/tables/raw/runs.csv"
    assert figure.stat().st_size > 10_000
    assert "fitted to TEST rows" in page.read_text(encoding="utf-8")


def test_training_rows_are_told_from_test_rows(results, tmp_path):
    lines = run_lines("raw", "none", corrected_train_energy_per_atom_mae_ev=0.02, corrected_train_energy_mae_ev=0.2)
    path = put(tmp_path / "results" / "full" / "alpha" / "tables" / "raw" / "runs.csv", lines)
    studies = all_studies.by_study([path], ["alpha"])
    rows = list(all_studies.regression_rows(studies, [], context()))
    assert [row["regression"] for row in rows] == [
        all_studies.WITHOUT, all_studies.AFTER_TRAIN, all_studies.AFTER_TEST,
    ]  # fmt: skip
    assert [row["energy_mae_mev_per_atom"] for row in rows] == pytest.approx([50.0, 20.0, 10.0])


def test_networks_on_energies_as_they_are(results, tmp_path):
    files = all_studies.by_study(results["tables"][-1:], ["mixes"])
    plain = {row["regression"] for row in all_studies.regression_rows(files, [], context())}
    untreated = replace(context(), untreated=["coded"])
    rows = list(all_studies.regression_rows(files, [], untreated))
    assert plain == {all_studies.BEFORE_ALL}
    assert {row["regression"] for row in rows} == {all_studies.WITHOUT}
    assert {row["note"] for row in rows} == {"both fidelities as they are"}


def test_the_figure_shows_the_largest_set_that_was_learnt_both_ways():
    without, with_it = all_studies.WITHOUT, all_studies.BEFORE
    lines = [
        ("both", without, 10), ("both", with_it, 10), ("both", without, 20), ("both", with_it, 20),
        ("both", with_it, 99), ("once", with_it, 10), ("once", with_it, 30), ("apart", without, 5),
        ("apart", with_it, 6), ("atoms", all_studies.ATOMS, 7), ("atoms", without, 7), ("atoms", without, 8),
    ]  # fmt: skip
    frame = pd.DataFrame(lines, columns=["row", "regression", "n_train"])
    assert all_studies._sizes_shown(frame) == {"both": 20, "once": 30, "apart": 6, "atoms": 7}


def test_matrix_takes_every_cell_from_a_file(results, tmp_path):
    studies = all_studies.by_study(results["tables"], list(context().titles))
    tidy = all_studies.matrix_rows(studies, results["scorecard"], context())
    net = tidy[tidy["architecture"] == "The Net"].set_index("measure")
    assert set(net["run"]) == {"fitted"}  # tested for adequacy, and with energies in its loss
    assert net.loc["energy_mae", "value"] == pytest.approx(50.0)
    assert net.loc["force_mae", "value"] == pytest.approx(200.0)
    assert net.loc["survival", "text"] == "3 of 5"
    assert net.loc["survival", "source"] == "alpha/md/hot/fitted/replicas.csv"
    failures = {column: "x" for column in MD_COLUMNS["robustness"]} | {"failed": [False, True]}
    analysed = put(Path(results["tables"][3]).with_name("robustness.csv"), pd.DataFrame(failures))
    again = all_studies.by_study([*results["tables"], analysed], list(context().titles))
    robust = all_studies.matrix_rows(again, results["scorecard"], context())
    assert set(robust.loc[(robust["measure"] == "survival") & (robust["study"] == "alpha"), "text"]) == {"1 of 2"}
    assert net.loc["adequacy", "value"] == pytest.approx(2 / 3)
    assert net.loc["training_cost", "value"] == pytest.approx(2.0)
    assert net.loc["md_speed", "value"] == 50.0
    egnn = tidy[tidy["architecture"] == "EGNN"].set_index("measure")
    assert egnn.loc["energy_mae", "value"] == pytest.approx(30.0)
    assert egnn.loc["energy_mae", "note"].startswith("mix b")
    assert list(egnn.loc[["force_mae", "survival", "adequacy", "md_speed"], "text"]) == [
        "no forces", "not run", "not run", "not run",
    ]  # fmt: skip
    assert (tidy.loc[tidy["value"].notna(), "source"] != "").all()
    page = tmp_path / "matrix.html"
    all_studies.matrix(studies, results["scorecard"], context(), tmp_path / "matrix.png", page)
    text = page.read_text(encoding="utf-8")
    assert "alpha/md/hot/fitted/summary.json" in text
    assert text.index("Where every cell comes from") < text.index("</main>")


def test_matrix_without_dynamics_and_adequacy(results, tmp_path):
    studies = all_studies.by_study([results["tables"][0], results["tables"][2]], ["alpha"])
    tidy = all_studies.matrix_rows(studies, None, context()).set_index("measure")
    assert set(tidy["run"]) == {"raw"}  # the other has more rows, but no energies in its loss
    assert list(tidy.loc[["survival", "adequacy", "md_speed"], "text"]) == ["not run"] * 3
    all_studies.matrix([], None, context(), tmp_path / "empty.png", tmp_path / "empty.html")
    all_studies.regression([], [], context(), tmp_path / "none.png", tmp_path / "none.html")
    assert pd.read_csv(tmp_path / "none.csv").empty


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tables", lambda text: text.replace("mean_padded", "median"), "shift 'median' is unknown"),
        ("tables", lambda text: text.replace("energy_mae_ev", "other"), "column 'energy_mae_ev' is missing"),
        ("fits", lambda text: text.replace("mae_per_atom_ev", "x"), "key 'fidelities.pbe'"),
        ("fits", lambda text: text.replace("fidelities", "x"), "key 'fidelities' is missing"),
    ],
)
def test_wrong_tables_are_one_line(results, name, change, message):
    path = results[name][0]
    write_text(path, change(path.read_text(encoding="utf-8")))
    studies = all_studies.by_study(results["tables"], list(context().titles))
    with pytest.raises(InputError, match=message) as caught:
        list(all_studies.regression_rows(studies, results["fits"], context()))
    assert "\n" not in str(caught.value)


def test_summary_counts(files, tmp_path):
    written = all_studies.summary(all_claims.read_verdicts(files), context(), tmp_path / "summary.png")
    tidy = pd.read_csv(written[2])
    assert tidy.loc[tidy["by"] == "the paper", "n"].sum() == 3
    assert tidy.loc[(tidy["study"] == "alpha") & (tidy["by"] != "the paper"), "n"].sum() == 1
    again = all_studies.summary(all_claims.read_verdicts(files), context(), tmp_path / "again.png")
    assert [one.read_bytes() for one in written] == [one.read_bytes() for one in again]


def test_products_name_their_files():
    everything = [path for product in PRODUCTS for suffix in ("", "-all") for path in paths(product, "out", suffix)]
    assert len(everything) == len(set(everything))
    files = ["a/runs.csv", "a/molecules.csv", "a/summary.json", "a/runs.csv"]
    assert chosen("regression", files) == ["a/runs.csv"]
    assert chosen("matrix", files) == ["a/runs.csv", "a/summary.json"]


def test_front_page_says_first_what_held(files, tmp_path):
    docutils_core = pytest.importorskip("docutils.core")
    studies = {name: {"title": title, "citation": "A. Author_ *et al.*"} for name, title in TITLES.items()}
    page = front_page(str(tmp_path), "mini", studies | {"gamma": {"title": "Study C", "citation": "B."}})
    assert page.startswith("**3** claims of 2 sources: **1** reproduced, **1** contradicted, **1** not run.")
    lines = page.splitlines()
    totals = lines.index("   * - **all**")
    assert [line.strip(" -*") for line in lines[totals + 1 : totals + 7]] == ["1", "1", "0", "0", "1", "3"]
    assert "4.1: quantity 1. Stated: 10 eV; ours: x: 12 ± 0.5; y: nan (1 to 2) eV" in page
    assert page.count("(prediction of this project)") == 1
    assert "No verdicts yet" in page
    assert "1 findings" not in page
    docutils_core.publish_string(page, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})


@pytest.mark.parametrize("broken", ["verdicts.json", "verdicts.csv"])
def test_front_page_of_incomplete_results(files, tmp_path, broken):
    path = tmp_path / "alpha" / broken
    path.write_text(path.read_text(encoding="utf-8")[:90], encoding="utf-8")
    studies = {name: {"title": title, "citation": "B."} for name, title in TITLES.items()}
    page = front_page(str(tmp_path), "mini", studies)
    assert page.startswith("**1** claims of 1 source")
    assert page.count("No verdicts yet") == 1
