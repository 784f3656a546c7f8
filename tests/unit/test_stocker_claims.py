"""Study of long and hot dynamics: its claim file, tables and metrics; verdicts where the paper is right and wrong."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import norm

from mlip_studies.claims import stocker, table
from mlip_studies.claims.evaluate import Outcome, evaluate, evaluate_study
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import ClaimSet, load_claims, numbers_in
from mlip_studies.claims.verdicts import Estimate, Verdict, bootstrap, estimate
from mlip_studies.errors import InputError
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.runs import expand_runs
from mlip_studies.studies.stocker_products import PRODUCTS
from mlip_studies.units import EV_TO_KCAL_PER_MOL

REPO = Path(__file__).resolve().parents[2]
CLAIMS_PATH = REPO / "config" / "claims" / "stocker.yaml"
STUDY_PATH = REPO / "config" / "studies" / "stocker.yaml"
CAPTIONS = REPO / "workflow" / "report" / "stocker"
ROWS = {"3.2k": 3200, "32k": 32000, "320k": 320000, "3.2M": 3200000}
KELVIN = (300.0, 600.0, 1200.0)
LARGE = ("paracetamol", "furopyrrolamine", "histidine", "ser-trp-leu")
# Names of training sets are no numbers of their own.
SIZE_NAME = re.compile(r"\b(?:3\.2|32|320) ?(?:k|Mio)\b")


@pytest.fixture(scope="module")
def claims() -> ClaimSet:
    return load_claims(CLAIMS_PATH)


# --- the claim file


def test_only_our_predictions_are_judged_at_mini(claims: ClaimSet) -> None:
    for claim in claims.claims.values():
        assert claim.is_ours == claim.id.startswith("ours-") == claim.place.startswith("our prediction"), claim.id
        assert claim.is_ours or claim.judged_at == ("full",), claim.id


def test_the_names_of_sizes_are_those_of_the_configuration() -> None:
    content = yaml.safe_load(STUDY_PATH.read_text(encoding="utf-8"))
    full = content["full"]["groups"]["quadruplets"]["train_size"]
    small = content["mini"]["groups"]["quadruplets"]["train_size"]
    assert list(stocker.SIZES.values()) == list(zip(full, small, strict=True))
    assert full == list(ROWS.values())
    # The names of molecules in the claims are those of the start structures.
    assert set(content["full"]["starts"]["large"]["files"]) == set(LARGE)
    # Runs of the first group are found under the names that the configuration gives them.
    numbers = {"seeds": [0], "training": {}, "data": content["full"]["data"]}
    settings = content["full"]["groups"]["quadruplets"]
    group = {key: settings[key] for key in ("data", "network", "shift", "train_size")}
    names = list(expand_runs("stocker", {**numbers, "groups": {"quadruplets": group}}))
    assert [stocker.find_run(names, "gemnet_q", size) for size in stocker.SIZES] == names


def test_every_product_has_a_caption_that_says_the_scale() -> None:
    for name in PRODUCTS:
        text = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
        assert text.startswith("**"), name
        assert not [line for line in text.splitlines() if line.startswith(" ") or len(line) > 120], name
        assert text.count('{% if snakemake.config["scale"] == "mini" %}') == text.count("{% endif %}") == 1, name
        assert "does not claim to reproduce" in text, name
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == set(PRODUCTS)


def test_numbers_in_captions_are_those_of_the_claims(claims: ClaimSet) -> None:
    known = {0.0}
    for claim in claims.claims.values():
        known |= set(claim.numbers().values())
        if isinstance(claim.paper, Mapping) and "value" in claim.paper:
            known.add(float(claim.paper["value"]))
    known |= {item.value for item in claims.background.values()}
    for path in CAPTIONS.glob("*.rst"):
        text = SIZE_NAME.sub(" ", path.read_text(encoding="utf-8")).replace("17,280", " ")
        text = re.sub(r"Figures? \d|p\. \d|95 %|\d+ K\b|4H-furo\S+|0\s+and 180 degrees", " ", text)
        text = re.sub(r"\{%.*?%\}", " ", text)
        wrong = [number for number in numbers_in(text) if not any(math.isclose(float(number), one) for one in known)]
        assert not wrong, (path.name, wrong)


def test_figures_find_the_numbers_that_they_draw(claims: ClaimSet) -> None:
    context = StudyContext("mini", claims)
    single = {
        "force-mae-q-3.2m": 0.0043, "ae-mae-q-3.2m": 0.01, "force-mae-q-3.2k": 0.035, "ae-mae-q-3.2k": 0.05,
        "spookynet-force-mae": 0.015, "ae-mae-highe": 0.195, "force-mae-highe": 0.037, "highe-dissociation-time": 100,
        "md-ae-mae-3.2k-300k": 10, "md-ae-mae-q-3.2m-1200k": 0.0284, "dft-converged-exhaustive": 100,
        "dft-converged-3.2k-1200k": 50, "breaking-time": 700, "breaking-ae-error": 20, "cross-force-mae-own": 6.8,
        "cross-force-mae-other": 0.16, "tripeptide-shift": 0.47, "tripeptide-std": 0.045, "tripeptide-r2": 0.998,
    }  # fmt: skip
    for claim_id, number in single.items():
        assert context.paper(claim_id) == {"": number}, claim_id
    assert sorted(context.paper("force-mae-large").values()) == [0.012, 0.036]


def test_arithmetic_of_the_findings(claims: ClaimSet) -> None:
    text = {item["id"]: item["finding"] for item in claims.findings}
    parts = (20 * 3 * 4, 4 * 3, 4, 3)
    assert parts == (240, 12, 4, 3)
    assert str(sum(parts)) in text["total-time"]
    assert str(sum(parts) + 20) in text["total-time"]
    assert 560 == claims.background["total-simulated-time"].value / 0.5 > claims.background["total-steps"].value
    assert f"{320 / 4200:.1%}".replace("%", " %") in text["share-of-the-data"]
    assert f"{400 / 4200:.1%}".replace("%", " %") in text["share-of-the-data"]
    assert f"{0.05 * EV_TO_KCAL_PER_MOL:.2f}" in text["rounded-twice"]
    rows = claims.claims["split-sizes"].numbers()
    together = (rows["test"] + rows["training 3.2M"] + rows["validation 3.2M"]) / 1e6
    assert f"{together:.2f} Mio" in text["rows-left-over"]
    assert together < claims.background["qm7x-rows"].value


# --- the tables

FULL = "qm7x-gemnet_q-isolated_atoms-n{}"
MINI = "qm7x-gemnet_q-per_element-n{}"


def write(path: Path, rows: list[dict[str, Any]] | pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def run_rows(run: str, energy: list[float], force: list[float], **more: Any) -> list[dict[str, Any]]:
    n_train = int(run.rsplit("-n", 1)[1])
    return [
        {"run": run, "seed": seed, "shift": run.split("-")[2], "beta": math.nan, "n_train": n_train,
         "n_val": n_train // 4, "n_test": 10100, "n_parameters": 2_158_470, "energy_mae_ev": e,
         "force_mae_ev_per_angstrom": f, **more}
        for seed, (e, f) in enumerate(zip(energy, force, strict=True))
    ]  # fmt: skip


def trajectory_row(job: str, run: str, trajectory: int, start: int, name: str, kelvin: float, **more: Any) -> Any:
    row = {
        "job": job, "run": run, "trajectory": trajectory, "start": start, "name": name, "formula": "CH4", "n_atoms": 5,
        "temperature_k": kelvin, "replica": 0, "n_samples": 100, "n_missing": 0, "observed_ps": 1000.0,
        "failed": False, "failure_ps": math.nan, "failure_kind": "", "detail": "", "n_events": 0,
        "energy_drift_mev_per_atom_ps": math.nan,
    }  # fmt: skip
    return row | more


def frame_row(frame: int, trajectory: int, start: int, name: str, kelvin: float, error: float, **more: Any) -> Any:
    row = {
        "frame": frame, "trajectory": trajectory, "start": start, "name": name, "formula": "CH4", "n_atoms": 5,
        "temperature_k": kelvin, "time_ps": float(frame), "alive": True, "status": "converged", "strategy": "diis",
        "seconds": 3.0, "level": "pbe0+mbd/def2-tzvp", "ae_dft_ev": -20.0 + 0.3 * math.sin(2.4 * frame),
        "ae_error_ev": error, "force_mae_ev_per_angstrom": abs(error) / 2,
    }  # fmt: skip
    row |= more
    if row["status"] != "converged":
        row["ae_error_ev"] = row["force_mae_ev_per_angstrom"] = math.nan
    row["ae_predicted_ev"] = row["ae_dft_ev"] + row["ae_error_ev"]
    return row


def test_tables_are_recognised_by_place_and_are_copies(tmp_path: Path) -> None:
    run, judge = FULL.format(3200000), FULL.format(3200)
    frames = [frame_row(0, 0, 0, "007", 300.0, 0.1), frame_row(1, 0, 0, "007", 300.0, 0.1, status="timeout")]
    failing = trajectory_row("thermal", run, 1, 1, "x", 300.0, failed=True, failure_ps=3.5, failure_kind="topology")
    topology = {"trajectory": 0, "time_ps": 0.0, "n_fragments": 1, "n_broken": 0, "n_formed": 0}
    spike = {"trajectory": 0, "time_ps": 0.0, "largest_force_change_ev_per_angstrom": 0.5}
    component = {"frame": 0, "name": "007", "force_dft": 1.0, "force_predicted": 1.1}
    again = {"row": 7, "n_atoms": 5, "formula": "CH4", "status": "converged", "ae_difference_ev": 0.01}
    contents: dict[str, list[dict[str, Any]]] = {
        f"md/thermal/{run}/robustness.csv": [trajectory_row("thermal", run, 0, 0, "007", 300.0), failing],
        f"md/thermal/{run}/topology.csv": [topology],
        f"md/singular/{run}/spikes.csv": [spike],
        f"checks/thermal/{run}/labels.csv": frames,
        f"checks/thermal/{run}/judged/{run}.csv": frames,
        f"checks/thermal/{run}/judged/{judge}.csv": frames[:1],
        f"checks/thermal/{run}/judged/{judge}.components.csv": [component],
        "floor/floor.csv": [again | {"force_mae_ev_per_angstrom": 0.002}],
        "floor/labels.csv": frames,
        "forecast.csv": [{"part": "dynamics"}],
        "active/active.csv": [{"round": 0}],
        "tables/other/labels.csv": frames,
    }
    paths = [write(tmp_path / name, rows) for name, rows in contents.items()]
    tables = RunTables.from_paths([*paths, paths[0]])
    assert tables.robustness_jobs() == [("thermal", run)]
    assert tables.check_jobs() == [("thermal", run)]
    assert tables.judged_jobs() == [("thermal", run, run), ("thermal", run, judge)]
    assert tables.judged_jobs("components") == [("thermal", run, judge)]
    robustness = tables.robustness("thermal", run)
    assert robustness["failed"].tolist() == [False, True]
    assert robustness["failure_kind"].tolist() == ["", "topology"]
    assert robustness["name"].tolist() == ["007", "x"]
    robustness.loc[:, "failed"] = True
    assert tables.robustness("thermal", run)["failed"].tolist() == [False, True]
    assert tables.topology("thermal", run)["n_fragments"].tolist() == [1]
    assert tables.md_jobs("spikes") == [("singular", run)]
    assert tables.checks("thermal", run)["status"].tolist() == ["converged", "timeout"]
    assert tables.judged("thermal", run)["alive"].tolist() == [True, True]
    assert len(tables.judged("thermal", run, judge)) == 1
    assert tables.components("thermal", run, judge)["force_predicted"].tolist() == [1.1]
    assert tables.floor()["row"].tolist() == [7]
    assert tables.forecast()["part"].tolist() == ["dynamics"]
    assert tables.active()["round"].tolist() == [0]


def test_what_is_missing_or_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    empty, run = RunTables(), FULL.format(3200)
    for call in (
        lambda: empty.robustness("thermal", run), lambda: empty.topology("thermal", run),
        lambda: empty.checks("thermal", run), lambda: empty.judged("thermal", run),
        lambda: empty.components("thermal", run, "other"), empty.floor, empty.forecast, empty.active,
    ):  # fmt: skip
        with pytest.raises(MissingDataError, match="not among the results that were asked for"):
            call()
    with pytest.raises(MissingDataError, match=r"thermal .*n3200 \(judged, judged by other\)"):
        empty.judged("thermal", run, "other")
    row = trajectory_row("thermal", run, 0, 0, "x", 300.0)
    path = write(tmp_path / "md/thermal" / run / "robustness.csv", [row | {"failed": "perhaps"}])
    with pytest.raises(InputError, match="column 'failed' must be True or False"):
        RunTables.from_paths([path]).robustness("thermal", run)
    write(path, [{key: value for key, value in row.items() if key != "observed_ps"}])
    with pytest.raises(InputError, match="column 'observed_ps' is missing"):
        RunTables.from_paths([path]).robustness("thermal", run)
    frame = frame_row(0, 0, 0, "x", 300.0, 0.1)
    path = write(tmp_path / "checks/thermal" / run / "judged" / f"{run}.csv", [frame | {"alive": math.nan}])
    with pytest.raises(InputError, match="column 'alive' must be True or False"):
        RunTables.from_paths([path]).judged("thermal", run)


def test_runs_are_found_by_data_network_and_size() -> None:
    names = [
        MINI.format(12), FULL.format(3200), "highe-gemnet_q-isolated_atoms-n3200", "qm7x-gemnet_q-mean-n32000",
        "qm7x-gemnet_q-isolated_atoms-b0.5-n32000", "qm7x-gemnet_q-isolated_atoms-s10-n32000", "ani2x",
        FULL.format(320000),
    ]  # fmt: skip
    assert stocker.find_run(names, "gemnet_q", "3.2k") == FULL.format(3200)  # the paper's before its stand-in
    assert stocker.find_run(names[:1], "gemnet_q", "3.2k") == MINI.format(12)
    assert stocker.find_run(names, "gemnet_q", None) == FULL.format(320000)
    assert stocker.find_run(names, "gemnet_q", None, "highe") == "highe-gemnet_q-isolated_atoms-n3200"
    for size, network in (("32k", "gemnet_q"), ("3.2k", "schnet")):
        with pytest.raises(MissingDataError, match=rf"qm7x {network} {size}: not among"):
            stocker.find_run(names, network, size)
    with pytest.raises(InputError, match=r"training size '3k' is unknown; known: 3\.2k"):
        stocker.find_run(names, "gemnet_q", "3k")


# --- intervals and the floor


def test_bootstrap_is_reproducible_and_needs_three() -> None:
    values = np.array([0.0, 0.0, 0.0, 40.0])
    one = bootstrap("x", values, "molecules")
    assert one == bootstrap("x", values, "molecules")
    assert one.mean == 10.0
    assert one.interval is not None
    assert one.interval[0] == 0.0 < one.mean < one.interval[1] <= 40.0  # as lopsided as the values
    assert one.bounds == one.interval
    two = bootstrap("x", values[2:], "molecules")
    assert (two.bounds, two.n, two.mean) == (None, 2, 20.0)
    constant = bootstrap("x", np.full(5, 7.0), "molecules")
    assert constant.bounds == (7.0, 7.0)
    ratio = bootstrap("x", np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 10.0]]), "molecules", stocker._ratio)
    assert ratio.bounds == (0.5, 0.5)
    # About as wide as Student's interval where values are normal and many.
    many = np.random.default_rng(1).normal(size=200)
    student, percentile = estimate("x", many.tolist()), bootstrap("x", many, "molecules")
    assert percentile.half_width == pytest.approx(student.half_width, rel=0.1)


def outcome_of(claims: ClaimSet, claim_id: str, estimates: list[Estimate], scale: str = "full") -> Outcome:
    claim = claims.claims[claim_id]
    small = ClaimSet("stocker", "", {claim_id: claim}, (), ())
    (found,) = evaluate(small, {claim.metric: lambda tables, **_: estimates}, None, scale)
    return found


def test_a_claim_below_the_floor_is_not_comparable(claims: ClaimSet) -> None:
    def one(floor: float | None, **more: Any) -> Estimate:
        return Estimate("ae", 0.0284, 0.001, 20, of="molecules", floor=floor, **more)

    claim_id = "md-ae-mae-q-3.2m-1200k"
    assert outcome_of(claims, claim_id, [one(None)]).verdict is Verdict.REPRODUCED
    assert outcome_of(claims, claim_id, [one(0.01)]).verdict is Verdict.REPRODUCED
    below = outcome_of(claims, claim_id, [one(0.05)])
    assert below.verdict is Verdict.NOT_COMPARABLE
    assert below.reason == (
        "The stated 0.0284 eV is below the floor of 0.05 eV, by which the reference calculations themselves differ "
        "from the labels."
    )
    assert below.estimates[0].mean == 0.0284  # still shown
    unknown = outcome_of(claims, claim_id, [one(math.nan)])
    assert (unknown.verdict, unknown.reason) == (
        Verdict.NOT_COMPARABLE, "The floor of the reference calculations was not measured."
    )  # fmt: skip
    # A bound counts as its number, an ordering has none, and a part has its own.
    assert outcome_of(claims, "md-ae-mae-3.2k-300k", [one(0.05)]).verdict is Verdict.CONTRADICTED
    assert outcome_of(claims, "large-narrow", [one(0.1)]).verdict is Verdict.NOT_COMPARABLE
    assert outcome_of(claims, "cross-order", [one(5.0)]).verdict is Verdict.REPRODUCED
    parts = [Estimate("smallest", 0.012, 0.001, 8, floor=0.01), Estimate("largest", 0.036, 0.001, 8, floor=0.01)]
    assert outcome_of(claims, "force-mae-large", parts).verdict is Verdict.REPRODUCED
    parts = [Estimate("smallest", 0.012, 0.001, 8, floor=0.02), Estimate("largest", 0.036, 0.001, 8, floor=0.02)]
    assert outcome_of(claims, "force-mae-large", parts).verdict is Verdict.NOT_COMPARABLE
    buried = outcome_of(claims, "md-slight-exhaustive", [one(None, unresolved="Buried.")])
    assert (buried.verdict, buried.reason) == (Verdict.NOT_COMPARABLE, "Buried.")


def test_too_few_of_anything_is_inconclusive_and_said(claims: ClaimSet) -> None:
    found = outcome_of(claims, "schnet-tripeptide-dissociates", [Estimate("x", 3.0, None, 1, of="trajectories")])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "1 of at least 3 trajectories that an interval needs."


def test_the_floor_by_quantity(tmp_path: Path) -> None:
    formulas = ["CH4", "C2H6", "CH4O", "C2H6O", "H2O", "C3H8"]
    atoms = [5, 8, 6, 9, 3, 11]
    counts = np.array([[1, 4, 0], [2, 6, 0], [1, 4, 1], [2, 6, 1], [0, 2, 1], [3, 8, 0]], dtype=float)
    noise = np.array([1, -1, -1, 1, 1, -1]) * 0.003
    difference = counts @ np.array([0.02, -0.01, 0.05]) + noise
    rows = [
        {"row": i, "n_atoms": atoms[i], "formula": formulas[i], "status": "converged",
         "ae_difference_ev": difference[i], "force_mae_ev_per_angstrom": 0.002 * (i + 1)}
        for i in range(6)
    ]  # fmt: skip
    rows.append(rows[0] | {"ae_difference_ev": math.nan, "force_mae_ev_per_angstrom": math.nan, "status": "timeout"})
    tables = RunTables.from_paths([write(tmp_path / "floor/floor.csv", rows)])
    assert stocker.floor_of(tables, "ae") == pytest.approx(np.abs(difference).mean())
    per_atom = np.abs(difference / np.array(atoms)).mean()
    assert stocker.floor_of(tables, "ae", 57) == pytest.approx(57 * per_atom)
    assert stocker.floor_of(tables, "force") == pytest.approx(0.007)
    left = noise - counts @ np.linalg.lstsq(counts, noise, rcond=None)[0]
    assert stocker.floor_of(tables, "spread") == pytest.approx(np.sqrt((left**2).sum() / 3))
    assert math.isnan(stocker.floor_of(RunTables(), "ae"))
    (one,) = stocker.floor(tables, "force")
    assert (one.mean, one.deterministic) == (pytest.approx(0.007), True)
    with pytest.raises(MissingDataError, match="floor: not among"):
        stocker.floor(RunTables(), "ae")


# --- test errors on hand-made numbers


def trained(folder: Path, **runs: Mapping[str, list[float]]) -> RunTables:
    """Tables of runs from {network: {size: force errors by seed}}; energies are twice the forces."""
    paths = []
    for key, sizes in runs.items():
        data, network = key.split("__") if "__" in key else ("qm7x", key)
        for size, force in sizes.items():
            run = f"{data}-{network}-isolated_atoms-n{ROWS[size]}"
            rows = run_rows(run, [2 * value for value in force], force)
            paths.append(write(folder / "tables" / run / "runs.csv", rows))
    return RunTables.from_paths(paths)


def test_learning_curves(tmp_path: Path) -> None:
    tables = trained(
        tmp_path,
        gemnet_q={"3.2k": [0.1, 0.1], "32k": [0.02, 0.05], "320k": [0.01, 0.01], "3.2M": [0.005, 0.01]},
        gemnet_t={"3.2k": [0.2, 0.1], "32k": [0.03, 0.03], "320k": [0.012, 0.008]},
        schnet={"3.2k": [0.15, 0.3], "32k": [0.01, 0.04]},
        dimenet_plus_plus={"3.2k": [0.3, 0.3], "32k": [0.06, 0.06]},
        highe__gemnet_q={"3.2k": [0.11, 0.13]},
    )
    (one,) = stocker.test_error(tables, "gemnet_q", "force", "3.2M")
    assert (one.mean, one.n) == (pytest.approx(0.0075), 2)
    (high,) = stocker.test_error(tables, "gemnet_q", "ae", data="highe")
    assert high.mean == pytest.approx(0.24)
    expected = (abs(math.log10(0.02) + 1.5) + abs(math.log10(0.05) + 1.5)) / 2
    (bend,) = stocker.bend(tables, "gemnet_q", "force", ["3.2k", "32k", "320k"])
    assert bend.mean == pytest.approx(expected)
    # Slope 1/2 before; log10(2) and 0 after.
    (flat,) = stocker.levels_off(tables, "gemnet_q", "force", ["3.2k", "320k", "3.2M"], 0.5)
    assert flat.mean == pytest.approx(0.25 - math.log10(2) / 2)
    first, second = stocker.errors_fall(tables, "gemnet_q", "ae", [["3.2k", "320k"], ["32k", "3.2M"]])
    assert (first.mean, second.mean) == (pytest.approx(0.18), pytest.approx(2 * (0.015 + 0.04) / 2))
    found = stocker.beats(tables, "force", ["3.2k", "32k"], ["gemnet_q"], ["schnet", "dimenet_plus_plus"])
    assert [one.mean for one in found] == pytest.approx([0.125, 0.2, -0.01, 0.025])
    (wins,) = stocker.exception(tables, "force", "32k", ["gemnet_q", "gemnet_t"], ["schnet", "dimenet_plus_plus"])
    assert wins.mean == pytest.approx((0.03 - 0.01 + 0.05 - 0.04) / 2)
    (alike,) = stocker.similarity(tables, "force", ["320k"], ["gemnet_q", "gemnet_t"])
    assert alike.mean == pytest.approx((abs(10 / 12 - 1) + abs(10 / 8 - 1)) / 2)
    (nearer,) = stocker.similarity_grows(tables, "force", ["3.2k", "32k"], ["320k"], ["gemnet_q", "gemnet_t"])
    small, large = ((1 / 2 + 1 / 3) / 2, (0 + 2 / 3) / 2), (1 / 6, 1 / 4)
    assert nearer.mean == pytest.approx((small[0] - large[0] + small[1] - large[1]) / 2)
    (ratio,) = stocker.data_ratio(tables, "gemnet_q", "highe", "qm7x", "force")
    assert ratio.mean == pytest.approx(1.2)
    (more,) = stocker.data_difference(tables, ["schnet", "gemnet_q"], "highe", "qm7x", "ae")
    assert (more.mean, more.name) == (pytest.approx(0.04), "3.2k: highe − qm7x")
    with pytest.raises(MissingDataError, match="molecules and qm7x, gemnet_q: no size of both"):
        stocker.data_difference(tables, "gemnet_q", "molecules", "qm7x", "ae")
    with pytest.raises(InputError, match="quantity 'mae' is unknown"):
        stocker.test_error(tables, "gemnet_q", "mae", "3.2k")


# --- dynamics on hand-made numbers


def test_errors_in_dynamics_count_molecules_once_and_converged_frames_alone(tmp_path: Path) -> None:
    run = FULL.format(3200)
    frames = [
        # molecule 0: two trajectories of 1 and 3 eV; molecule 1: one of 6 eV, of four frames
        frame_row(0, 0, 0, "a", 300.0, 1.0),
        frame_row(1, 1, 0, "a", 300.0, -3.0),
        *(frame_row(2 + i, 2, 1, "b", 300.0, 6.0 * (-1) ** i) for i in range(4)),
        frame_row(6, 2, 1, "b", 300.0, 500.0, status="unconverged"),
        frame_row(7, 2, 1, "b", 300.0, 500.0) | {"status": "converged_fallback"},
        frame_row(8, 3, 2, "c", 300.0, 1.0),
        frame_row(9, 4, 0, "a", 1200.0, 20.0),
    ]
    tables = RunTables.from_paths(
        [
            write(tmp_path / "checks/thermal" / run / "judged" / f"{run}.csv", frames),
            write(tmp_path / "checks/thermal" / run / "labels.csv", frames),
            write(tmp_path / "tables" / run / "runs.csv", run_rows(run, [0.05, 9.0], [0.1, 9.0])),
        ]
    )
    (one,) = stocker.md_error(tables, "thermal", "gemnet_q", "3.2k", "ae", 300)
    assert (one.mean, one.n, one.of) == (pytest.approx(3.0), 3, "molecules")
    assert math.isnan(one.floor)  # not measured
    (over,) = stocker.md_over_test(tables, "thermal", "gemnet_q", "3.2k", "ae", 300)
    assert over.mean == pytest.approx(60.0)  # of the first seed, whose network was simulated
    with pytest.raises(MissingDataError, match=r"at 600 K: not among"):
        stocker.md_error(tables, "thermal", "gemnet_q", "3.2k", "ae", 600)
    with pytest.raises(MissingDataError, match=r"job thermal, qm7x gemnet_q 32k: not among"):
        stocker.md_error(tables, "thermal", "gemnet_q", "32k", "ae", 300)
    (share,) = stocker.converged_share(tables, "thermal", "gemnet_q", ["3.2k"], 300)
    assert share.mean == pytest.approx((100 + 100 * 4 / 6 + 100) / 3)
    # One molecule is common to both temperatures.
    (growth,) = stocker.md_growth(tables, "thermal", "gemnet_q", ["3.2k"], ["ae"], [300, 1200])
    assert (growth.mean, growth.n, growth.interval) == (pytest.approx(10.0), 1, None)


def test_failures_and_their_times(tmp_path: Path) -> None:
    sparse, high, large = FULL.format(3200), "highe-gemnet_q-isolated_atoms-n3200", FULL.format(320000)

    def row(run: str, start: int, failure: float | None, kelvin: float = 1200.0, **more: Any) -> Any:
        failed = {} if failure is None else {"failed": True, "failure_ps": failure, "failure_kind": "topology"}
        return trajectory_row(
            "thermal", run, more.pop("trajectory", start), start, f"m{start}", kelvin, **failed, **more
        )

    tables = RunTables.from_paths(
        [
            write(tmp_path / "md/thermal" / sparse / "robustness.csv",
                  [row(sparse, 0, 700.0), row(sparse, 1, None), row(sparse, 2, 5.0), row(sparse, 3, 1.0),
                   row(sparse, 0, None, 300.0, trajectory=9)]),
            write(tmp_path / "md/thermal" / high / "robustness.csv",
                  [row(high, 0, 80.0), row(high, 1, 3.0), row(high, 2, None), row(high, 3, 10.0)]),
            write(tmp_path / "md/thermal" / large / "robustness.csv",
                  [row(large, start, None) for start in range(4)]),
        ]
    )  # fmt: skip
    (share,) = stocker.failed_share(tables, "thermal", "gemnet_q", ["3.2k"])
    assert share.mean == pytest.approx((50 + 0 + 100 + 100) / 4)
    (hot,) = stocker.failed_share(tables, "thermal", "gemnet_q", ["3.2k"], 1200)
    assert (hot.mean, hot.n) == (pytest.approx(75.0), 4)
    (difference,) = stocker.failed_difference(tables, "thermal", "gemnet_q", ["3.2k", "320k"], 1200)
    assert difference.mean == pytest.approx(75.0)
    (data,) = stocker.failed_by_data(tables, "thermal", "gemnet_q", "highe", "qm7x", 1200, "3.2k")
    assert data.mean == pytest.approx(0.0)
    (time,) = stocker.failure_times(
        tables, ["nowhere", "thermal"], "gemnet_q", 1200, data="highe", pathological_of="3.2k"
    )
    assert (time.mean, time.n) == (pytest.approx((80 + 1000 + 10) / 3), 3)  # survivors count with their length
    (latest,) = stocker.latest_failure(tables, "thermal", "gemnet_q", ["3.2k", "320k"], 200)
    assert (latest.mean, latest.deterministic) == (700.0, True)
    (none,) = stocker.latest_failure(tables, "thermal", "gemnet_q", ["320k"], 200)
    assert none.mean == 0.0
    with pytest.raises(MissingDataError, match="the longest trajectory has 1000 ps, less than 2000"):
        stocker.latest_failure(tables, "thermal", "gemnet_q", ["3.2k"], 2000)
    (fate,) = stocker.fates(tables, "thermal", "gemnet_q", "3.2k", 1200, ["M0"])
    assert (fate.mean, fate.n, fate.half_width, fate.of) == (100.0, 1, None, "trajectories")
    with pytest.raises(MissingDataError, match=r"m9: not among"):
        stocker.fates(tables, "thermal", "gemnet_q", "3.2k", 1200, ["m9"])
    with pytest.raises(MissingDataError, match="no molecule failed with gemnet_q 320k at 1200 K"):
        stocker.failure_times(tables, "thermal", "gemnet_q", 1200, data="highe", pathological_of="320k")


def test_before_and_after_a_failure(tmp_path: Path) -> None:
    run = FULL.format(3200)
    frames = []
    for trajectory in range(4):
        for step in range(6):
            alive = step < 3 or trajectory == 3  # the last one does not fail
            error = 0.1 if alive else 25.0 + trajectory
            status = "converged" if alive or step != 5 else "unconverged"
            frames.append(
                frame_row(
                    len(frames), trajectory, trajectory, f"m{trajectory}", 1200.0, error, alive=alive, status=status
                )
            )
    tables = RunTables.from_paths([write(tmp_path / "checks/thermal" / run / "judged" / f"{run}.csv", frames)])
    (worst,) = stocker.worst_after_break(tables, "thermal", "gemnet_q", "3.2k")
    assert worst.mean == 27.0
    (after,) = stocker.error_after_break(tables, "thermal", "gemnet_q", "3.2k", 10)
    assert (after.mean, after.n) == (pytest.approx(26.0 - 1.0), 3)
    (share,) = stocker.error_share_after_break(tables, "thermal", "gemnet_q", "3.2k", "ae", 1200)
    # Each molecule's MAE over its converged frames, three before and two after the failure; the last one does not fail.
    means = [(3 * 0.1 + 2 * (25.0 + i)) / 5 for i in range(3)] + [0.1]
    after = [2 * (25.0 + i) / 5 for i in range(3)] + [0.0]
    assert (share.mean, share.n) == (pytest.approx(100 * sum(after) / sum(means)), 4)
    (less,) = stocker.converged_after_break(tables, "thermal", "gemnet_q")
    assert (less.mean, less.n) == (pytest.approx(100 / 3), 3)
    (single,) = stocker.worst_error(tables, "thermal", "gemnet_q", "3.2k", 1200, ["m3"])
    assert single.mean == pytest.approx(0.1)


def test_one_network_on_another_ones_dynamics(tmp_path: Path) -> None:
    sparse, large = FULL.format(3200), FULL.format(3200000)
    failing = [
        trajectory_row(
            "thermal", sparse, i, i, f"m{i}", 1200.0, **({"failed": True, "failure_ps": 5.0} if i < 3 else {})
        )
        for i in range(4)
    ]
    own = [frame_row(i, i, i, f"m{i}", 1200.0, 12.0) for i in range(4)]
    other = [frame_row(i, i, i, f"m{i}", 1200.0, 0.2 if i < 3 else 99.0) for i in range(4)]
    folder = tmp_path / "checks/thermal"
    tables = RunTables.from_paths(
        [
            write(tmp_path / "md/thermal" / sparse / "robustness.csv", failing),
            write(folder / sparse / "judged" / f"{sparse}.csv", own),
            write(folder / large / "judged" / f"{large}.csv", [frame_row(0, 0, 0, "m0", 1200.0, 7.0)]),
            write(folder / large / "judged" / f"{sparse}.csv", other),
        ]
    )
    arguments = {"job": "thermal", "network": "gemnet_q", "judge": "3.2k", "quantity": "force", "temperature": 1200}
    (one,) = stocker.cross_error(tables, frames="3.2k", **arguments)
    (two,) = stocker.cross_error(tables, frames="3.2M", **arguments)
    assert (one.mean, one.n) == (pytest.approx(6.0), 3)
    assert (two.mean, two.n) == (pytest.approx(0.1), 3)
    (order,) = stocker.cross_order(tables, frames="3.2M", factor=10, **arguments)
    assert order.mean == pytest.approx(5.0)


def test_single_molecules_over_blocks_of_time_or_trajectories(tmp_path: Path) -> None:
    run = FULL.format(3200000)
    rng = np.random.default_rng(3)
    errors = 0.47 + 0.045 * rng.normal(size=72)
    frames = [frame_row(i, 0, 0, "ser-trp-leu", 1200.0, error, n_atoms=57) for i, error in enumerate(errors)]
    frames += [frame_row(100 + i, 1 + i % 3, 1, "Paracetamol", 1200.0, 0.1 * (1 + i % 3)) for i in range(30)]
    path = write(tmp_path / "checks/large1200" / run / "judged" / f"{run}.csv", frames)
    tables = RunTables.from_paths([path])
    at = {"job": "large1200", "network": "gemnet_q", "size": "3.2M", "temperature": 1200}
    (shift,) = stocker.error_shape(tables, molecule="ser-trp-leu", what="shift", **at)
    assert (shift.mean, shift.n, shift.of) == (pytest.approx(errors.mean()), 8, "blocks of time")
    blocks = errors.reshape(8, 9).mean(axis=1)
    assert shift.half_width == pytest.approx(estimate("x", blocks.tolist()).half_width)
    (std,) = stocker.error_shape(tables, molecule="ser-trp-leu", what="std", **at)
    assert std.mean == pytest.approx(errors.std(ddof=1))
    (r2,) = stocker.error_shape(tables, molecule="ser-trp-leu", what="r2", **at)
    truth = np.array([row["ae_dft_ev"] for row in frames[:72]])
    assert r2.mean == pytest.approx(np.corrcoef(truth, truth + errors)[0, 1] ** 2)
    (over,) = stocker.error_shape(tables, molecule="paracetamol", what="shift", **at)
    assert (over.mean, over.n, over.of) == (pytest.approx(0.2), 3, "trajectories")
    small, large = stocker.force_range(tables, molecules=["paracetamol", "ser-trp-leu"], **at)
    assert (small.mean, large.mean) == (pytest.approx(0.1), pytest.approx(np.abs(errors).mean() / 2))
    assert (small.name, large.name) == ("smallest", "largest")
    more = {key: at[key] for key in ("job", "size", "temperature")}
    (largest,) = stocker.largest_shift(tables, networks=["gemnet_q"], molecule="ser-trp-leu", **more)
    assert largest.mean == pytest.approx(errors.mean() - 0.2)
    (mean,) = stocker.mean_shift(tables, networks=["gemnet_q"], **more)
    assert (mean.mean, mean.n) == (pytest.approx((errors.mean() + 0.2) / 2), 2)
    with pytest.raises(InputError, match="'mode' is unknown; known: shift, std, r2, force"):
        stocker.error_shape(tables, molecule="ser-trp-leu", what="mode", **at)


def test_drifts_and_changes_of_forces_are_paired(tmp_path: Path) -> None:
    runs = {name: f"qm7x-{name}-per_element-n324" for name in ("gemnet_q", "gemnet_t")}
    paths = []
    for name, drifts in (("gemnet_q", [-3.0, 4.0, 5.0, 6.0]), ("gemnet_t", [1.0, -1.0, 1.0, math.nan])):
        rows = [
            trajectory_row("singular", runs[name], i, i // 2, f"m{i // 2}", 300.0, energy_drift_mev_per_atom_ps=drift)
            for i, drift in enumerate(drifts)
        ]
        paths.append(write(tmp_path / "md/singular" / runs[name] / "robustness.csv", rows))
        changes = [0.1] * 9 + [2.0 if name == "gemnet_q" else 0.3]
        spikes = [
            {"trajectory": i, "time_ps": float(k), "largest_force_change_ev_per_angstrom": change}
            for i in range(3) for k, change in enumerate(changes)
        ]  # fmt: skip
        paths.append(write(tmp_path / "md/singular" / runs[name] / "spikes.csv", spikes))
    tables = RunTables.from_paths(paths)
    pair = {"larger": {"network": "gemnet_q"}, "smaller": {"network": "gemnet_t"}}
    (one,) = stocker.drift_larger(tables, "singular", paired_by="trajectory", **pair)
    assert (one.mean, one.n, one.of) == (pytest.approx((2 + 3 + 4) / 3), 3, "trajectories")
    (two,) = stocker.drift_larger(tables, "singular", **pair)
    assert (two.mean, two.n, two.of) == (pytest.approx((2.5 + 4.5) / 2), 2, "molecules")
    (three,) = stocker.spikes_larger(tables, "singular", **pair)
    assert (three.mean, three.n) == (pytest.approx(20.0 - 3.0), 3)
    with pytest.raises(InputError, match="paired_by 'seed' is unknown"):
        stocker.drift_larger(tables, "singular", paired_by="seed", **pair)


def test_rank_correlation_of_test_errors_and_failures(tmp_path: Path) -> None:
    networks = ("gemnet_q", "gemnet_t", "schnet", "so3krates")

    def tables_of(folder: Path, n_failed: tuple[int, ...]) -> RunTables:
        paths = []
        for index, (network, failed) in enumerate(zip(networks, n_failed, strict=True)):
            run = f"qm7x-{network}-per_element-n324"
            paths.append(write(folder / "tables" / run / "runs.csv", run_rows(run, [0.1], [0.01 * (index + 1)])))
            rows = [
                trajectory_row("thermal", run, i, i, f"m{i}", 1200.0,
                               **({"failed": True, "failure_ps": 10.0} if i < failed else {}))
                for i in range(12)
            ]  # fmt: skip
            paths.append(write(folder / "md/thermal" / run / "robustness.csv", rows))
        return RunTables.from_paths(paths)

    at = {"job": "thermal", "size": "3.2M", "temperature": 1200, "quantity": "force"}
    (same,) = stocker.rank_correlation(tables_of(tmp_path / "a", (1, 3, 6, 10)), **at)
    (turned,) = stocker.rank_correlation(tables_of(tmp_path / "b", (10, 6, 3, 1)), **at)
    (mixed,) = stocker.rank_correlation(tables_of(tmp_path / "c", (3, 1, 6, 10)), **at)
    assert (same.mean, turned.mean, mixed.mean) == (pytest.approx(1.0), pytest.approx(-1.0), pytest.approx(0.8))
    with pytest.raises(MissingDataError, match="do not differ in their failures"):
        stocker.rank_correlation(tables_of(tmp_path / "d", (0, 0, 0, 0)), **at)
    few = tables_of(tmp_path / "e", (1, 3, 6, 10))
    with pytest.raises(MissingDataError, match="0 networks, at least 4"):
        stocker.rank_correlation(few, job="thermal", size="3.2k", temperature=1200, quantity="force")


# --- verdicts in a world where the paper is right, and in one where it is wrong


class World:
    """All results of the study, as the paper describes them or changed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.paths = folder, []
        self.changes = {"late": 700.0, "after": 40.0, "sparse_converged": 0.5, "exhaustive_fails": False,
                        "shift": 0.47, "hot": True, "floor": 0.003, "schnet": 1.5} | changes  # fmt: skip
        self._trainings()
        self._thermal()
        self._large()
        self._constant_energy()
        rows = [
            {"row": i, "n_atoms": 10, "formula": ("CH4", "C2H6", "H2O", "CH4O")[i % 4], "status": "converged",
             "ae_difference_ev": self.changes["floor"] * (1 + 0.1 * (i % 3)),
             "force_mae_ev_per_angstrom": self.changes["floor"]}
            for i in range(24)
        ]  # fmt: skip
        self._add(folder / "floor/floor.csv", rows)

    def _add(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.paths.append(write(path, rows))

    def _trainings(self) -> None:
        curves = {
            "gemnet_q": ([0.05, 0.04, 0.012, 0.01], [0.035, 0.012, 0.0046, 0.0043]),
            "gemnet_t": ([0.052, 0.041, 0.0125, 0.0104], [0.036, 0.0125, 0.0048, 0.0044]),
            "schnet": ([0.1, 0.07, 0.05, 0.03], [0.1, 0.05, 0.03, 0.02]),
            "dimenet_plus_plus": ([0.09, 0.03, 0.04, 0.02], [0.08, 0.04, 0.02, 0.01]),
            "so3krates": ([0.03], [0.009]),
        }
        for network, (energies, forces) in curves.items():
            for rows, energy, force in zip(list(ROWS.values())[-len(energies) :], energies, forces, strict=True):
                run = f"qm7x-{network}-isolated_atoms-n{rows}"
                spread = np.array([0.98, 1.0, 1.02])
                self._add(self.folder / "tables" / run / "runs.csv",
                          run_rows(run, list(energy * spread), list(force * spread)))  # fmt: skip
        for data, energy, force in (("highe", 0.195, 0.037), ("molecules", 0.07, 0.05)):
            run = f"{data}-gemnet_q-isolated_atoms-n3200"
            spread = np.array([0.98, 1.0, 1.02])
            self._add(self.folder / "tables" / run / "runs.csv",
                      run_rows(run, list(energy * spread), list(force * spread)))  # fmt: skip

    def _thermal(self) -> None:
        late, after, changes = self.changes["late"], self.changes["after"], self.changes
        quiet = {"3.2k": 0.06, "32k": 0.05, "320k": 0.022, "3.2M": 0.02}
        for size, n_rows in ROWS.items():
            run = FULL.format(n_rows)
            robustness, frames = [], []
            for trajectory, (start, kelvin) in enumerate(itertools.product(range(20), KELVIN)):
                name, hot = f"m{start}", kelvin == 1200.0
                failing = {"3.2k": start < 12 + 5 * hot, "32k": hot and start < 8}.get(
                    size, changes["exhaustive_fails"]
                )
                at = late if start == 0 else 100.0
                failed = {"failed": True, "failure_ps": at, "failure_kind": "topology"} if failing else {}
                robustness.append(trajectory_row("thermal", run, trajectory, start, name, kelvin, **failed))
                for step, time in enumerate(np.linspace(10, 1000, 8)):
                    alive = not failing or time < at
                    error = quiet[size] * (1 + 0.42 * hot) if alive else after * (1 + hot)
                    status = "converged"
                    # Broken frames converge less, also where it is not hot.
                    bad = {"3.2k": hot or (not alive and step > 4), "32k": hot and step == 7}.get(size, False)
                    if bad and (start + step) % 10 >= 10 * changes["sparse_converged"]:
                        status = "unconverged"
                    # A broken frame's forces are those that make the stated mean over frames.
                    force = error / 2 if alive else 7.7 if hot else 1.0
                    frames.append(frame_row(len(frames), trajectory, start, name, kelvin, error, time_ps=time,
                                            alive=alive, status=status, force_mae_ev_per_angstrom=force))  # fmt: skip
            self._add(self.folder / "md/thermal" / run / "robustness.csv", robustness)
            self._add(self.folder / "checks/thermal" / run / "labels.csv", frames)
            self._add(self.folder / "checks/thermal" / run / "judged" / f"{run}.csv", frames)
            if size == "3.2M":
                crossed = [row | {"force_mae_ev_per_angstrom": 0.16} for row in frames]
                judge = FULL.format(3200)
                self._add(self.folder / "checks/thermal" / run / "judged" / f"{judge}.csv", crossed)
        run = "highe-gemnet_q-isolated_atoms-n3200"
        rows = [trajectory_row("thermal", run, s, s, f"m{s}", 1200.0, failed=True, failure_ps=90.0) for s in range(20)]
        self._add(self.folder / "md/thermal" / run / "robustness.csv", rows)

    def _large(self) -> None:
        rng = np.random.default_rng(0)
        quantiles = norm.ppf((np.arange(72) + 0.5) / 72)
        # Mean, spread and force error of each molecule; three trajectories of each, so that fates can be judged.
        shape = {"paracetamol": (0.05, 0.03, 0.012), "furopyrrolamine": (0.04, 0.03, 0.02),
                 "histidine": (0.1, 0.04, 0.03), "ser-trp-leu": (self.changes["shift"], 0.045, 0.036)}  # fmt: skip
        worse = {"gemnet_q": 1.0, "gemnet_t": 1.1, "schnet": 10.0}
        for network, factor in worse.items():
            run = f"qm7x-{network}-isolated_atoms-n3200000"
            robustness, frames = [], []
            for trajectory, (start, replica) in enumerate(itertools.product(range(4), range(3))):
                name = LARGE[start]
                shift, std, force = shape[name]
                lost = network == "schnet" and name == "ser-trp-leu"
                failed = (
                    {"failed": True, "failure_ps": self.changes["schnet"], "failure_kind": "fragments"} if lost else {}
                )
                robustness.append(
                    trajectory_row("large1200", run, trajectory, start, name, 1200.0, replica=replica, **failed)
                )
                scatter, truths = rng.permutation(quantiles), rng.permutation(quantiles) - 50.0
                for step, (deviation, truth) in enumerate(zip(scatter, truths, strict=True)):
                    error = factor * (shift + std * deviation)
                    frames.append(frame_row(len(frames), trajectory, start, name, 1200.0, error, time_ps=14.0 * step,
                                            ae_dft_ev=truth, n_atoms=57 if start == 3 else 20,
                                            force_mae_ev_per_angstrom=factor * force, alive=not lost,
                                            status="unconverged" if lost else "converged"))  # fmt: skip
            self._write_large("large1200", run, robustness, frames)
        run, hot = FULL.format(3200000), self.changes["hot"]
        robustness, frames = [], []
        for trajectory, (start, replica) in enumerate(itertools.product(range(4), range(3))):
            breaks = (start > 1) == hot
            failed = {"failed": True, "failure_ps": 300.0, "failure_kind": "topology"} if breaks else {}
            robustness.append(
                trajectory_row("large1800", run, trajectory, start, LARGE[start], 1800.0, replica=replica, **failed)
            )
            frames += [
                frame_row(100 * trajectory + step, trajectory, start, LARGE[start], 1800.0, 4.0 if breaks else 0.1)
                for step in range(8)
            ]
        self._write_large("large1800", run, robustness, frames)

    def _write_large(self, job: str, run: str, robustness: list[Any], frames: list[Any]) -> None:
        self._add(self.folder / "md" / job / run / "robustness.csv", robustness)
        self._add(self.folder / "checks" / job / run / "labels.csv", frames)
        self._add(self.folder / "checks" / job / run / "judged" / f"{run}.csv", frames)

    def _constant_energy(self) -> None:
        for job, run, drift in (
            ("nve", FULL.format(3200), 3.0),
            ("nve", "highe-gemnet_q-isolated_atoms-n3200", 1.0),
            ("singular", FULL.format(3200000), 2.0),
            ("singular", "qm7x-gemnet_t-isolated_atoms-n3200000", 0.1),
        ):
            rows = [
                trajectory_row(job, run, i, i, f"m{i}", 300.0, energy_drift_mev_per_atom_ps=drift * (1 + 0.1 * i))
                for i in range(4)
            ]
            self._add(self.folder / "md" / job / run / "robustness.csv", rows)

    def verdicts(self, scale: str = "full") -> dict[str, Outcome]:
        _, outcomes = evaluate_study(CLAIMS_PATH, self.paths, scale)
        return {outcome.claim.id: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("right"))


def test_the_paper_is_reproduced_where_it_is_right(right: World, claims: ClaimSet) -> None:
    found = right.verdicts()
    wrong = {
        claim_id: (outcome.verdict, outcome.reason, outcome.estimates)
        for claim_id, outcome in found.items()
        if not claims.claims[claim_id].is_ours and outcome.verdict is not Verdict.REPRODUCED
    }
    assert not wrong


def test_nothing_of_the_paper_is_judged_at_mini(right: World) -> None:
    found = right.verdicts("mini")
    theirs = [outcome for outcome in found.values() if not outcome.claim.is_ours]
    assert {outcome.verdict for outcome in theirs} == {Verdict.NOT_COMPARABLE}


@pytest.mark.parametrize(
    ("changes", "contradicted"),
    [
        ({"late": 100.0}, {"late-instabilities"}),
        ({"after": 0.5}, {"md-ae-mae-3.2k-300k", "md-over-test-3.2k", "breaking-ae-error"}),
        ({"after": 0.001}, {"unphysical-frames-large-errors", "error-after-break"}),
        ({"sparse_converged": 1.0}, {"dft-converged-3.2k-1200k"}),
        ({"exhaustive_fails": True}, {"exhaustive-robust", "md-dramatic-sparse"}),
        ({"shift": -0.3}, {"tripeptide-shift", "tripeptide-largest-shift"}),
        ({"hot": False}, {"large-hot-decompose", "large-hot-stable", "large-hot-errors"}),
        ({"schnet": 500.0}, {"schnet-tripeptide-dissociates"}),
    ],
)
def test_the_paper_is_contradicted_where_it_is_wrong(
    tmp_path: Path, changes: dict[str, Any], contradicted: set[str]
) -> None:
    found = World(tmp_path, **changes).verdicts()
    assert {claim_id: found[claim_id].verdict for claim_id in contradicted} == dict.fromkeys(
        contradicted, Verdict.CONTRADICTED
    )


def test_a_high_floor_leaves_small_numbers_open_and_large_ones_not(tmp_path: Path) -> None:
    found = World(tmp_path, floor=0.04).verdicts()
    for claim_id in ("md-ae-mae-q-3.2m-1200k", "md-slight-exhaustive", "force-mae-large"):
        assert found[claim_id].verdict is Verdict.NOT_COMPARABLE, claim_id
        assert "floor" in found[claim_id].reason, claim_id
    for claim_id in ("md-ae-mae-3.2k-300k", "cross-force-mae-other", "large-hot-errors", "force-mae-q-3.2m"):
        assert found[claim_id].verdict is Verdict.REPRODUCED, claim_id
    assert found["ours-floor-force-full"].verdict is Verdict.REPRODUCED


def test_the_table_names_what_intervals_are_of(right: World, claims: ClaimSet, tmp_path: Path) -> None:
    outcomes = list(right.verdicts().values())
    table.write(claims, outcomes, tmp_path / "verdicts.html")
    content = json.loads((tmp_path / "verdicts.json").read_text())
    records = {record["id"]: record for record in content["claims"]}
    (ours,) = records["md-ae-mae-3.2k-300k"]["ours"]
    assert (ours["n"], ours["of"], len(ours["interval_95"])) == (20, "molecules", 2)
    assert records["force-mae-q-3.2m"]["ours"][0]["of"] == "seeds"
    frame = table.to_frame(outcomes).set_index("claim")
    assert frame.loc["md-ae-mae-3.2k-300k", "seeds"] == "20 molecules"
    assert frame.loc["force-mae-q-3.2m", "seeds"] == "3"
    assert " to " in frame.loc["md-ae-mae-3.2k-300k", "ours"]
    assert "blocks of time" in (tmp_path / "verdicts.html").read_text(encoding="utf-8")
