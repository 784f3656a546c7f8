"""Study of So3krates on SPICE: its claim file, the tables of its runs, its metrics, verdicts on known errors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_run_tables import CONSTANTS, MEAN, N_PAD, counts_of, make_seed, make_store

from mlip_studies.claims import pavlovic, table
from mlip_studies.claims.evaluate import Outcome, evaluate, evaluate_study, study_claims
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import ClaimSet, load_claims
from mlip_studies.claims.verdicts import Verdict
from mlip_studies.errors import InputError
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.pavlovic_products import PRODUCTS
from mlip_studies.studies.run_tables import analyse_run, mechanism_a
from mlip_studies.units import EV_TO_KCAL_PER_MOL, EV_TO_MEV

REPO = Path(__file__).resolve().parents[2]
CLAIMS_PATH = REPO / "config" / "claims" / "pavlovic.yaml"
CAPTIONS = REPO / "workflow" / "report" / "pavlovic"
PADDED, FORCES_ONLY = "formation-so3krates-mean_padded-b0.99", "formation-so3krates-mean_padded-b1"


@pytest.fixture(scope="module")
def claims() -> ClaimSet:
    return load_claims(CLAIMS_PATH)


def runs_frame(run: str, shift: str = "mean_padded", **columns: list[float]) -> pd.DataFrame:
    n = max(len(values) for values in columns.values())
    base: dict[str, Any] = {
        "run": run, "seed": range(n), "shift": shift, "beta": 1.0, "n_train": 100, "n_val": 20, "n_test": 30,
        "n_layers": 3, "energy_mae_ev": 1.0, "force_mae_ev_per_angstrom": 0.1,
    }  # fmt: skip
    return pd.DataFrame(base | columns)


def tables_of(folder: Path, *frames: pd.DataFrame) -> RunTables:
    paths = []
    for frame in frames:
        path = folder / "tables" / frame["run"].iloc[0] / "runs.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False)
        paths.append(path)
    return RunTables.from_paths(paths)


# --- the claim file


def test_quantities_of_arguments_exist(claims: ClaimSet) -> None:
    keys = ("quantity", "better_quantity", "before", "after", "numerator", "denominator")
    for claim in claims.claims.values():
        named = [claim.arguments[key] for key in keys if key in claim.arguments]
        named += list(claim.arguments.get("numbers", {}))
        assert set(named) <= set(pavlovic.QUANTITIES), claim.id


def test_translations_keep_the_words_of_the_thesis_and_ours_are_marked(claims: ClaimSet) -> None:
    for claim in claims.claims.values():
        assert (claim.wording == "translation") == bool(claim.original), claim.id
        assert claim.is_ours == claim.id.startswith("ours-") == claim.place.startswith("our prediction"), claim.id
        if re.search(r"-as-", claim.id):
            assert claim.wording == "paraphrase"
            assert claim.id.split("-as-")[0] in claims.claims, claim.id


def test_every_product_has_a_caption_that_says_the_scale() -> None:
    for name in (*PRODUCTS, "outliers-3d"):
        text = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
        assert text.startswith("**"), name
        assert "does not claim to reproduce the thesis" in text, name
        assert text.count('{% if snakemake.config["scale"] == "mini" %}') == text.count("{% endif %}") == 1, name


@pytest.mark.parametrize(
    "name",
    ["fig3-left-energies", "slope", "slope-mechanisms", "results-table", "slope-table", "beta"],
)
def test_captions_say_what_is_unproven(name: str) -> None:
    text = " ".join((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8").split())
    assert "which reference of the energies the author used (it is documented nowhere)" in text
    assert "binding energies, which describes the formation energies, without naming the key" in text


def test_arithmetic_of_the_findings(claims: ClaimSet) -> None:
    evidence = {item["id"]: item["evidence"] for item in claims.findings}
    share, limit = claims.claims["outlier-fraction"].numbers()[""], claims.background["outlier-threshold"].value
    least = share * limit
    assert f"{share} times {limit:g} eV/Å is {least:g} eV/Å" in evidence["outliers-and-force-error"]
    assert (
        f"{100 * least / claims.claims['force-mae-beta1'].numbers()['']:.0f} %" in evidence["outliers-and-force-error"]
    )
    assert f"{0.5 / 0.043:.1f}" in evidence["expected-errors"]
    text = {item["id"]: item["finding"] for item in claims.findings}["ethanol-units"]
    kcal_in_mev = EV_TO_MEV / EV_TO_KCAL_PER_MOL
    for mev, kcal in ((4.96, "0.114"), (5.01, "0.116")):
        assert f"{mev / kcal_in_mev:.3f}" == kcal
        assert kcal in text
        assert f"{mev / kcal_in_mev:.2f}" in ("0.11", "0.12")  # as stated
    assert f"{0.11 * kcal_in_mev:.2f}" == "4.77"
    assert f"{0.12 * kcal_in_mev:.2f}" == "5.20"
    corrected = claims.claims["energy-mae-corrected"].numbers()[""]
    quoted = claims.background["mace-off23-energy"].value / EV_TO_MEV
    assert corrected / quoted == pytest.approx(claims.claims["fifty-times-worse"].numbers()[""], rel=0.1)
    forces = EV_TO_MEV * claims.claims["force-mae-beta1"].numbers()[""] / claims.background["mace-off23-force"].value
    assert f"{forces:.1f}" == "2.4" or f"{forces:.2f}" == "2.35"


def test_context_gives_numbers_of_claims_and_of_background(claims: ClaimSet) -> None:
    context = StudyContext("mini", claims, {"formation": 110})
    assert context.paper("energy-mae-default") == {"": 90.0}
    assert context.paper("mace-off23-force") == {"": 20.0}
    assert context.paper("forces-expected") == {"": 0.05}  # a bound counts as its number
    assert context.paper("validation-test-rows") == {"validation": 20000.0, "test": 20000.0}
    assert context.claim("outlier-fraction").paper == 0.004
    with pytest.raises(InputError, match=r"config/claims/pavlovic\.yaml: claim 'none' is missing"):
        context.paper("none")


# --- the tables


def test_tables_are_recognised_by_place_and_are_copies(tmp_path: Path) -> None:
    tables = tables_of(
        tmp_path, runs_frame("a-run", energy_mae_ev=[1.0, 2.0]), runs_frame("b-run", energy_mae_ev=[3.0])
    )
    files = {
        "tables/a-run/molecules.csv": "run,seed,row,group,formula,n_atoms,energy_true_ev,energy_predicted_ev\n"
        "a-run,0,7,007,12,3,1,2\n",
        "tables/a-run/ensemble.csv": "run,row\n",
        "md/nvt300/a-run/replicas.csv": "replica,survived_ps,reason\n0,1.5,\n",
        "md/nvt300/a-run/summary.json": '{"replicas": [1]}',
        "speed.csv": "label,batch,steps_per_second\n001,1,2.5\n",
        "one/shift_check.csv": "dataset,fidelity,shift,n_rows\nspice,dft,none,10\n",
        "two/shift_check.csv": "dataset,fidelity,shift,n_rows\nethanol,dft,none,5\n",
        "tables/results.csv": "x\n1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    paths = [tmp_path / "tables" / run / "runs.csv" for run in ("a-run", "b-run")]
    tables = RunTables.from_paths([*paths, *(tmp_path / name for name in files), paths[0]])
    assert tables.names() == ["a-run", "b-run"]
    assert tables.names("molecules") == ["a-run"]
    assert tables.runs()["energy_mae_ev"].tolist() == [1.0, 2.0, 3.0]
    changed = tables.get("runs", "a-run")
    changed.loc[:, "energy_mae_ev"] = 0.0
    assert tables.get("runs", "a-run")["energy_mae_ev"].tolist() == [1.0, 2.0]
    molecules = tables.get("molecules", "a-run")
    assert (molecules["group"].iloc[0], molecules["formula"].iloc[0]) == ("007", "12")
    assert tables.get("ensemble", "a-run").empty  # one seed has none
    assert tables.md_jobs() == [("nvt300", "a-run")]
    assert tables.md("replicas", "nvt300", "a-run")["survived_ps"].tolist() == [1.5]
    assert tables.md_summary("nvt300", "a-run") == {"replicas": [1]}
    assert tables.speed()["label"].tolist() == ["001"]
    assert tables.shift_check()["dataset"].tolist() == ["spice", "ethanol"]


def test_what_is_missing_or_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, runs_frame("a-run", energy_mae_ev=[1.0]))
    for call in (
        lambda: tables.get("molecules", "a-run"),
        lambda: tables.get("runs", "b-run"),
        lambda: tables.md("samples", "nvt300", "a-run"),
        lambda: tables.md_summary("nvt300", "a-run"),
        tables.speed,
        tables.shift_check,
        lambda: RunTables().runs(),
    ):
        with pytest.raises(MissingDataError, match=r"among the results that were asked for"):
            call()
    path = tmp_path / "tables" / "a-run" / "runs.csv"
    again = tmp_path / "copy" / "tables" / "a-run" / "runs.csv"
    again.parent.mkdir(parents=True)
    again.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"holds the same table \(runs a-run\)"):
        RunTables.from_paths([path, again])
    again.write_text("run,seed\na-run,0\n")
    with pytest.raises(InputError, match=r"runs\.csv: column 'shift' is missing; delete the file and run again"):
        RunTables.from_paths([again]).get("runs", "a-run")
    again.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"runs\.csv: has no rows"):
        RunTables.from_paths([again]).get("runs", "a-run")


# --- metrics on hand-made numbers


def test_values_in_the_unit_of_the_claim_and_alternatives(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, runs_frame("second", energy_mae_ev=[0.1, 0.2, 0.3]))
    (one,) = pavlovic.value(tables, ["first", "second"], "energy_mae", unit="kcal/mol")
    assert one.mean == pytest.approx(0.2 * 23.0605, rel=1e-5)
    assert one.n == 3
    (exact,) = pavlovic.value(tables, "second", "energy_mae", exact=True)
    assert (exact.mean, exact.deterministic) == (pytest.approx(0.1), True)
    with pytest.raises(MissingDataError, match="first"):
        pavlovic.value(tables, ["first", "third"], "energy_mae")
    with pytest.raises(InputError, match=r"runs\.csv of second: column 'slope_ev_per_atom' is missing"):
        pavlovic.value(tables, "second", "slope")
    with pytest.raises(InputError, match="quantity 'mae' is unknown"):
        pavlovic.value(tables, "second", "mae")
    with pytest.raises(InputError, match="unit 'Hartree' is unknown"):
        pavlovic.value(tables, "second", "energy_mae", unit="Hartree")
    (over,) = pavlovic.ratio_to(tables, "second", "energy_mae", 1, unit="kcal/mol")
    assert over.mean == pytest.approx(one.mean)
    (above,) = pavlovic.exceeds(tables, "second", {"energy_mae": 0.15})
    assert above.mean == pytest.approx(0.05)


@pytest.mark.parametrize(("after", "verdict"), [(0.5, Verdict.REPRODUCED), (1.5, Verdict.CONTRADICTED)])
def test_the_correction_of_ethanol_is_an_ordering(tmp_path: Path, after: float, verdict: Verdict) -> None:
    before = [0.005, 0.0051, 0.0049]
    corrected = [after * one for one in before]
    frame = runs_frame(
        "ethanol-so3krates-mean-b0.99-n100", energy_mae_ev=before, corrected_test_energy_mae_ev=corrected
    )
    tables = tables_of(tmp_path, frame)
    found = {
        outcome.claim.id: outcome for outcome in evaluate(load_claims(CLAIMS_PATH), pavlovic.METRICS, tables, "full")
    }
    assert found["ethanol-correction-helps"].verdict is verdict


def test_comparisons_are_paired_over_common_seeds(tmp_path: Path) -> None:
    tables = tables_of(
        tmp_path,
        runs_frame("a", slope_ev_per_atom=[-1.0, -5.0, -9.0], energy_per_atom_mae_ev=[1.0, 1.0, 1.0]),
        runs_frame(
            "b", slope_ev_per_atom=[0.1, -0.48, 0.88], corrected_test_energy_per_atom_mae_ev=[2.0, 3.0, math.nan]
        ),
        runs_frame("c", slope_ev_per_atom=[-2.0, -6.0]),
        runs_frame("d", slope_ev_per_atom=[math.nan]),
    )
    (one,) = pavlovic.worse_than(tables, [["a", "b"]], "slope_size", factor=10)
    assert one.mean == pytest.approx(np.mean([0.0, 0.2, 0.2]))
    (two,) = pavlovic.worse_than(tables, [["a", "c"]], "slope_size")
    assert (two.mean, two.n, two.half_width) == (pytest.approx(-1.0), 2, None)
    (mixed,) = pavlovic.worse_than(
        tables, [["b", "a"]], "corrected_energy_per_atom_mae", better_quantity="energy_per_atom_mae"
    )
    assert (mixed.mean, mixed.n) == (pytest.approx(1.5), 2)  # a seed without a value does not count
    (quotient,) = pavlovic.run_ratio(tables, "c", "a", "slope")
    assert quotient.mean == pytest.approx((2 + 6 / 5) / 2)
    with pytest.raises(MissingDataError, match="no value of slope_ev_per_atom"):
        pavlovic.worse_than(tables, [["a", "d"]], "slope")


def test_ratios_and_slope(tmp_path: Path) -> None:
    tables = tables_of(
        tmp_path,
        runs_frame(
            "a", slope_ev_per_atom=[-2.0, -2.2, -2.1], slope_se=[0.1, 0.1, 0.1], predicted_slope_ev_per_atom=[-2.0] * 3,
            mean_ev=[-50.0] * 3, error_constant_ev=[50.0, 49.0, 51.0], corrected_test_energy_mae_ev=[0.25] * 3,
        ),
        runs_frame("b", slope_ev_per_atom=[-2.0], predicted_slope_ev_per_atom=[0.0]),
    )  # fmt: skip
    (one,) = pavlovic.ratio(tables, "a", "slope", "predicted_slope")
    assert one.mean == pytest.approx(1.05)
    (constant,) = pavlovic.ratio(tables, "a", "error_constant", "minus_mean")
    assert constant.mean == pytest.approx(1.0)
    (slope,) = pavlovic.slope_beyond_error(tables, "a")
    assert slope.mean == pytest.approx(2.1 - 0.196, abs=1e-4)
    (better,) = pavlovic.improves(tables, "a", "energy_mae", "corrected_energy_mae")
    assert better.mean == pytest.approx(0.75)
    with pytest.raises(MissingDataError, match="b: predicted_slope is zero"):
        pavlovic.ratio(tables, "b", "slope", "predicted_slope")


def test_layers_are_found_by_name_and_paired(tmp_path: Path) -> None:
    tables = tables_of(
        tmp_path,
        runs_frame("x-b1", force_mae_ev_per_angstrom=[0.10, 0.20]),
        runs_frame("x-b1-l1", n_layers=[1, 1], force_mae_ev_per_angstrom=[0.13, 0.22]),
        runs_frame("x-b1-l6", n_layers=[6, 6], force_mae_ev_per_angstrom=[0.09, 0.19]),
        runs_frame("x-b1-l3", n_layers=[3, 3], force_mae_ev_per_angstrom=[9.0, 9.0]),  # the default by its number
        runs_frame("y-b1-l2", n_layers=[2, 2], force_mae_ev_per_angstrom=[9.0, 9.0]),
        runs_frame("x-b1-l2-n50", n_layers=[2, 2], force_mae_ev_per_angstrom=[9.0, 9.0]),
    )
    assert list(pavlovic.other_layers(tables, "x-b1")) == [1, 6]
    (change,) = pavlovic.layers_change(tables, "x-b1", "force_mae")
    assert change.mean == pytest.approx((0.3 + 0.1) / 2)
    few, many = pavlovic.layers_not_better(tables, "x-b1", "force_mae")
    assert (few.mean, many.mean) == (pytest.approx(0.025), pytest.approx(-0.01))
    with pytest.raises(MissingDataError, match="no other number of layers"):
        pavlovic.layers_change(tables, "y-b1-l2", "force_mae")


def test_sizes_and_rows_of_the_data(tmp_path: Path, claims: ClaimSet) -> None:
    about_sizes = ("data-rows", "train-rows", "validation-test-rows")
    claims = replace(claims, claims={claim_id: claims.claims[claim_id] for claim_id in about_sizes})
    frame = runs_frame(PADDED, n_train=[100000], n_val=[20000], n_test=[20000])
    tables_of(tmp_path, frame)
    check = tmp_path / "shift_check.csv"
    check.write_text("dataset,fidelity,shift,n_rows\nspice,a,none,681234\nspice,b,none,681200\nspice_mini,a,none,170\n")
    paths = [check, tmp_path / "tables" / PADDED / "runs.csv"]
    outcomes = evaluate(claims, pavlovic.METRICS, pavlovic.read_inputs(paths), "full")
    assert outcomes[0].estimates[0].mean == 681234
    assert [outcome.verdict for outcome in outcomes] == [Verdict.REPRODUCED] * 3
    with pytest.raises(MissingDataError, match="data set qm7x"):
        pavlovic.data_rows(RunTables.from_paths(paths), "qm7x")
    tables = tables_of(tmp_path, frame.assign(n_val=10000))
    changed = evaluate(claims, pavlovic.METRICS, tables, "full")
    assert next(o.verdict for o in changed if o.claim.id == "validation-test-rows") is Verdict.CONTRADICTED


# --- verdicts on predictions with known errors


def padded(rows: Any) -> Any:
    return mechanism_a(MEAN, N_PAD, rows.n_atoms)


def free_constants(rows: Any) -> Any:
    """A network that has learnt forces alone, whose evaluation gives p/n_pad back per atom."""
    return counts_of(rows) @ CONSTANTS + MEAN / N_PAD * rows.n_atoms


def noise(seed: int, size: float) -> Any:
    return lambda rows: np.random.default_rng(seed).normal(size=len(rows)) * size


def analysed(folder: Path, store: Path, run: str, kind: str, error: Any, seeds: int = 3, force: float = 0.05) -> Path:
    files = []
    for seed in range(seeds):
        small = noise(seed, 0.02)

        def whole(rows: Any, small: Any = small) -> Any:
            return error(rows) + small(rows)

        files.append(make_seed(folder / run, store, whole, seed, kind, whole, force * (1 + 0.01 * seed)))
    analyse_run(files, store, folder / "tables" / run)
    return folder / "tables" / run / "runs.csv"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Outcomes at mini where both mechanisms act exactly as predicted."""
    folder = tmp_path_factory.mktemp("pavlovic")
    store = make_store(folder / "spice_like" / "store.h5")
    name = "formation-so3krates-{}-b{}"
    cases = [
        (name.format("mean_padded", "0.99"), "mean_padded", padded, 0.17),
        (name.format("none", "0.99"), "none", noise(1, 0.1), 0.1),
        (name.format("per_element", "0.99"), "per_element", noise(2, 0.1), 0.06),
        (name.format("mean_padded", "1"), "mean_padded", free_constants, 0.05),
        (name.format("none", "1"), "none", lambda rows: counts_of(rows) @ CONSTANTS, 0.05),
        (name.format("per_element", "1"), "per_element", lambda rows: counts_of(rows) @ CONSTANTS, 0.05),
    ]
    paths = [analysed(folder, store, run, kind, error, force=force) for run, kind, error, force in cases]
    _, found = evaluate_study(CLAIMS_PATH, paths, "mini")
    table.write(load_claims(CLAIMS_PATH), found, folder / "verdicts.html")
    content = json.loads((folder / "verdicts.json").read_text())
    assert sum(content["counts_of_our_predictions"].values()) == sum(o.claim.is_ours for o in found)
    return {outcome.claim.id: outcome for outcome in found}


@pytest.mark.parametrize(
    "claim_id",
    [
        "ours-slope-formation", "ours-slope-none", "ours-slope-per-element", "ours-error-is-composition",
        "ours-constant-with-energies", "ours-constant-forces-only", "ours-slope-forces-only", "ours-forces-per-element",
    ],
)  # fmt: skip
def test_predictions_hold_where_the_mechanisms_act(outcomes: dict[str, Outcome], claim_id: str) -> None:
    assert outcomes[claim_id].verdict is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("claim_id", "verdict"),
    [
        ("slope-with-atoms", Verdict.REPRODUCED),
        ("linear-correction-helps", Verdict.REPRODUCED),
        ("one-constant", Verdict.CONTRADICTED),  # across compositions
    ],
)
def test_what_our_numbers_say_about_the_thesis(outcomes: dict[str, Outcome], claim_id: str, verdict: Verdict) -> None:
    assert outcomes[claim_id].at_this_scale is verdict


def test_the_thesis_is_not_judged_at_mini(outcomes: dict[str, Outcome]) -> None:
    judged = {Verdict.NOT_COMPARABLE, Verdict.NOT_RUN}
    assert {outcome.verdict for outcome in outcomes.values() if not outcome.claim.is_ours} == judged
    assert outcomes["energy-mae-default"].verdict is Verdict.NOT_COMPARABLE
    assert outcomes["energy-mae-default-as-total"].verdict is Verdict.NOT_RUN


def test_predictions_fail_where_the_mechanisms_do_not_act(tmp_path: Path) -> None:
    """The padded mean without its line, and a network that has learnt energies although β is 1."""
    store = make_store(tmp_path / "spice_like" / "store.h5")
    paths = [
        analysed(tmp_path, store, PADDED, "mean_padded", noise(3, 0.1)),
        analysed(tmp_path, store, FORCES_ONLY, "mean_padded", padded),
        analysed(tmp_path, store, "formation-so3krates-per_element-b0.99", "per_element", padded),
        analysed(tmp_path, store, "formation-so3krates-none-b1", "none", lambda rows: np.full(len(rows), 3.0)),
    ]
    _, outcomes = evaluate_study(CLAIMS_PATH, paths, "mini")
    found = {outcome.claim.id: outcome.verdict for outcome in outcomes}
    for claim_id in (
        "ours-slope-formation", "ours-slope-per-element", "ours-constant-with-energies", "ours-constant-forces-only",
    ):  # fmt: skip
        assert found[claim_id] is Verdict.CONTRADICTED, claim_id


def test_metrics_are_those_of_the_study() -> None:
    study = study_claims("pavlovic")
    assert study.METRICS is pavlovic.METRICS
    assert isinstance(study.read_inputs([]), RunTables)
