"""Study of the SE(3)-Transformer: its claim file, tables and metrics; verdicts where the thesis is right and wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlip_studies.artifacts import write_text
from mlip_studies.claims import hedelius
from mlip_studies.claims.evaluate import evaluate_study
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import ClaimSet, load_claims, numbers_in
from mlip_studies.claims.verdicts import Verdict
from mlip_studies.errors import InputError
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.hedelius_products import PRODUCTS
from mlip_studies.studies.runs import expand_runs
from mlip_studies.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_EV

REPO = Path(__file__).resolve().parents[2]
CLAIMS_PATH = REPO / "config" / "claims" / "hedelius.yaml"
STUDY_PATH = REPO / "config" / "studies" / "hedelius.yaml"
CAPTIONS = REPO / "workflow" / "report" / "hedelius"
BASIC = "ani1x-se3_basic-per_element-std-w1-r0.001"
GRADIENT = "ani1x-se3_gradient-per_element-std-w1-r0.001"
FIRST = "ani1x-se3_basic-none-w0.00001-c1-s200000"
LONG = f"{BASIC}-s341000"
# Numbers of names, of units and of dimensions, not of results.
NAMES = r"SE\(3\)|COMP6|ANI-1x?|float\d+|95 %|\d-D"
# Statements of the thesis that depend on the network alone.
WITHOUT_DATA = ("equivariance-layers", "harmonics-unstable")


@pytest.fixture(scope="module")
def claims() -> ClaimSet:
    return load_claims(CLAIMS_PATH)


# --- the claim file


def test_at_mini_only_predictions_and_what_needs_no_data_are_judged(claims: ClaimSet) -> None:
    for claim in claims.claims.values():
        assert claim.is_ours == claim.id.startswith("ours-") == claim.place.startswith("our prediction"), claim.id
        assert claim.is_ours or claim.id in WITHOUT_DATA or claim.judged_at == ("full",), claim.id
    assert all(claims.claims[claim_id].judged_at == ("mini", "full") for claim_id in WITHOUT_DATA)


def test_runs_of_claims_are_those_of_the_configuration() -> None:
    content = yaml.safe_load(STUDY_PATH.read_text(encoding="utf-8"))["full"]
    numbers = {"seeds": [0], "training": {}, "data": content["data"]}
    groups = {
        name: {key: value for key, value in group.items() if value is not None}
        for name, group in content["groups"].items()
    }
    runs = expand_runs("hedelius", {**numbers, "groups": groups})
    by_group: dict[str, list[str]] = {}
    for name, run in runs.items():
        for group in run.groups:
            by_group.setdefault(group, []).append(name)
    names = list(runs)
    for key, group in (
        ("first", "first"), ("adjusted", "rates"), ("long", "long"), ("energy_only", "energy_only"),
        ("wider", "sizes"), ("higher_order", "sizes_higher"), ("basic_total", "channels"), ("gradient", "gradient"),
    ):  # fmt: skip
        assert hedelius.find_run(names, key) in by_group[group], key
    assert set(hedelius._weighted(RunTables({("runs", name): "x" for name in names}), 0.0)) == {
        1e-2, 1e-3, 1e-4, 1e-5, 1e-6,
    }  # fmt: skip
    assert hedelius.find_run(names, "adjusted", learning_rate=1e-5) in by_group["rates"]
    simulated = {entry["run"] for entry in content["md"]["water"]["runs"]}
    assert simulated == {hedelius.find_run(names, key) for key in ("adjusted", "gradient")} == {BASIC, GRADIENT}
    assert simulated <= set(names)


def test_every_product_has_a_caption_that_says_the_scale() -> None:
    for name in PRODUCTS:
        text = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
        assert text.startswith("**"), name
        assert not [line for line in text.splitlines() if line.startswith(" ") or len(line) > 120], name
        assert text.count('{% if snakemake.config["scale"] == "mini" %}') == text.count("{% endif %}") == 1, name
        assert "does not claim to reproduce the thesis" in text, name
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == set(PRODUCTS)


def test_numbers_in_captions_are_those_of_the_claims(claims: ClaimSet) -> None:
    known = {0.0, 0.001, 0.5}  # a learning rate of the thesis; our time step
    for claim in claims.claims.values():
        known |= {abs(number) for number in claim.numbers().values()}
        if isinstance(claim.paper, Mapping) and "value" in claim.paper:
            known.add(float(claim.paper["value"]))
        known |= {float(value) for value in claim.arguments.get("others", ())}
    known |= {item.value for item in claims.background.values()}
    known |= {1e-2, 1e-6, 4901.0}  # energy weights, and steps of a trajectory
    for path in CAPTIONS.glob("*.rst"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        text = re.sub(r"[Ff]igures? \d\.\d|[Tt]able \d\.\d|[Ss]ection \d\.\d|(?i:equation) \d\.\d", " ", text)
        text = re.sub(rf"{NAMES}|\"8 heads and 2 channels\"|with 2 or 4 channels|gives [24]\b", " ", text)
        text = re.sub(r"saves 49\.|energy weight 1\b|\{%.*?%\}|1/\|v\|", " ", text)
        wrong = [number for number in numbers_in(text) if not any(math.isclose(float(number), one) for one in known)]
        assert not wrong, (path.name, wrong)


def test_figures_find_the_numbers_that_they_draw(claims: ClaimSet) -> None:
    context = StudyContext("mini", claims)
    single = {
        "equivariance-layers": 1e-6, "nbody-mse-own": 0.0389, "nbody-mse-original": 0.0511, "nbody-paper-x": 0.0076,
        "nbody-paper-v": 0.075, "first-force-error": 4, "first-energy-error": 100, "self-energy-share": 99,
        "water-breaks-up": 900, "water-separation": 24, "table31-ani1-mean": -338, "table31-ani1-std": 60.9,
        "table31-ani1-without-mean": 0.0574, "table31-ani1-without-std": 0.110, "table31-ani1x-mean": -395,
        "table31-ani1x-std": 139, "table31-ani1x-without-mean": 0.0184, "table31-ani1x-without-std": 0.106,
        "table31-std-reduction": 99, "long-energy": 3.211, "long-force": 4.104, "table32-basic-energy": 3.211,
        "table32-basic-force": 4.104, "table32-wider-energy": 3.305, "table32-wider-force": 4.339,
        "table32-higher-energy": 5.459, "table32-higher-force": 6.294, "energy-only-error": 3.802,
    }  # fmt: skip
    for claim_id, number in single.items():
        assert context.paper(claim_id) == {"": number}, claim_id
    for claim_id in (
        "weights-affect-forces-more", "clipping-hides-weight", "drop-lowers-energy", "rate-1e-3-best", "sizes-order",
    ):  # fmt: skip
        assert context.claim(claim_id).is_comparison


def test_arithmetic_of_the_findings(claims: ClaimSet) -> None:
    text = {item["id"]: item["finding"] for item in claims.findings}
    values = {key: item.value for key, item in claims.background.items()}
    assert f"{(values['nbody-paper-x'] + values['nbody-paper-v']) / 2:.3f}" in text["nbody-mse-of-what"]
    assert f"a factor of {math.sqrt(3):.1f}" in text["rmse-or-mae"]
    assert values["steps-rates"] + values["steps-more"] == values["steps-long"]
    # Steps 100, 200, … 4900, and with the start one more.
    assert len(range(100, 4901, 100)) == 49 == values["nbody-saved-points"] - 1
    assert "49" in text["nbody-saved-frames"]
    # Equation (1.5) of the thesis for a harmonic oscillator of mass 1 has the period of one of mass 2.
    step, x = 0.01, [1.0, 1.0]
    while not (x[-2] < 0 <= x[-1]):
        x.append(2 * x[-1] - x[-2] - 0.5 * x[-1] * step**2)
    # It starts at the largest displacement and passes zero upwards after three quarters of a period.
    assert len(x) * step == pytest.approx(0.75 * 2 * math.pi * math.sqrt(2), rel=0.01)
    assert "twice the mass" in text["verlet-half"]
    spread = claims.claims["table31-ani1x-without-std"].numbers()[""] * HARTREE_TO_EV * EV_TO_KCAL_PER_MOL
    assert claims.claims["energies-learnt"].stated_interval()[1] == pytest.approx(spread, abs=0.05)
    stated = {key: claims.claims[f"table31-{key}"].numbers()[""] for key in ("ani1-std", "ani1-without-std")}
    assert 100 * (1 - stated["ani1-without-std"] / stated["ani1-std"]) > 99


# --- tables


def write(path: Path, rows: list[dict[str, Any]] | pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def run_table(
    folder: Path, run: str, energy: list[float], force: list[float] | None = None, test: float = 2.0, n: int = 719008
) -> Path:
    """Errors on training rows in kcal/mol by seed; those on test rows are ``test`` times as large."""
    force = energy if force is None else force
    rows = []
    for seed, (e, f) in enumerate(zip(energy, force, strict=True)):
        e_ev, f_ev = e / EV_TO_KCAL_PER_MOL, f / EV_TO_KCAL_PER_MOL
        rows.append(
            {"run": run, "seed": seed, "shift": "none", "beta": math.nan, "n_train": 100, "energy_mae_ev": test * e_ev,
             "force_mae_ev_per_angstrom": test * f_ev, "energy_rmse_ev": test * e_ev,
             "force_rmse_ev_per_angstrom": test * f_ev, "train_energy_rmse_ev": e_ev,
             "train_force_rmse_ev_per_angstrom": f_ev, "n_parameters": n}
        )  # fmt: skip
    return write(folder / "tables" / run / "runs.csv", rows)


def history_table(folder: Path, run: str, energy: list[float], rate: list[float], clipped: float = 1.0) -> Path:
    rows = [
        {"run": run, "seed": seed, "step": 100 * (k + 1), "learning_rate": rate[k], "clipped_share": clipped,
         "train_energy_rmse_ev": value / EV_TO_KCAL_PER_MOL, "train_force_rmse_ev_per_angstrom": value / 23.0}
        for seed in range(3)
        for k, value in enumerate(energy)
    ]  # fmt: skip
    return write(folder / "tables" / run / "history.csv", rows)


TABLE31 = [
    {"row": row, "dataset": "x", "fidelity": "d", "energies": energies, "self_energies": "y", "n_rows": 9,
     "mean_hartree": mean, "std_hartree": std, "paper_label": "z", "paper_mean_hartree": 1.0, "paper_std_hartree": 1.0}
    for row, energies, mean, std in (
        ("ANI-1", "as they are", -338.0, 60.9), ("ANI-1", "less linear fit, ours", 0.05, 0.11),
        ("ANI-1", "less linear fit, published", 5.0, 9.0), ("ANI-1", "less isolated atom, published", -3.0, 0.2),
        ("ANI-1", "less isolated atom, published", -2.0, 0.2), ("ANI-1x", "as they are", -395.0, 139.0),
        ("ANI-1x", "less linear fit, ours", 0.02, 0.106), ("ANI-1x", "less isolated atom, published", -2.0, 0.3),
    )
]  # fmt: skip


def curl_rows(asymmetry: list[float], work: list[float]) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "structure": f"{k:03d}", "n_atoms": 3, "asymmetry": a * (seed + 1), "loop_work_ev": w,
         "gradient_error": 0.1}
        for seed in range(2)
        for k, (a, w) in enumerate(zip(asymmetry, work, strict=True))
    ]  # fmt: skip


def transfer_rows(errors: Mapping[int, list[float]]) -> list[dict[str, Any]]:
    """Force errors (kcal/mol/Å) by seed of molecules with 1, 2, … atoms."""
    return [
        {"seed": seed, "subset": "s66", "group": "001", "formula": "H", "n_atoms": k + 1, "energy_true_ev": 0.0,
         "energy_predicted_ev": 0.1, "energy_error_ev": 0.1, "relative_energy_error_ev": 0.0,
         "force_mae_ev_per_angstrom": value / EV_TO_KCAL_PER_MOL, "force_rmse_ev_per_angstrom": 0.0}
        for seed, values in errors.items()
        for k, value in enumerate(values)
    ]  # fmt: skip


def gradient_rows(not_finite: Mapping[str, int]) -> list[dict[str, Any]]:
    """Two molecules of each variant; what else the table holds is not finite either."""
    rows = [
        (part, variant, case, quantity, n)
        for variant, number in not_finite.items()
        for part, case, quantity, n in (
            ("network", "water", "weights", number),
            ("network", "CO2", "weights", 0),
            ("network", "CO2", "positions", 7),
            ("direction", "", "derivative", 9),
        )
    ]
    names = ("part", "variant", "case", "quantity", "n_not_finite")
    return [{**dict(zip(names, row, strict=True)), "x": 0.0, "value": math.nan, "n_values": 10} for row in rows]


def network_file(folder: Path, name: str, errors: Mapping[str, float], whole: float | None = None) -> Path:
    layers: list[dict[str, Any]] = [
        {"layer": "norm", "feature": "x", "precision": key, "maximum": one} for key, one in errors.items()
    ]
    content = {"name": name, "parameters": 10, "layers": [], "rototranslations": layers}
    if whole is not None:
        layers.append({"layer": "whole network", "feature": "energy", "precision": "float32", "maximum": whole})
    path = folder / "models" / "networks" / f"{name}.json"
    write_text(path, json.dumps(content))
    return path


def particles(folder: Path, network: str, x: list[float], v: list[float], windows: str = "first") -> list[Path]:
    """A network's errors by trajectory at the first frame; those at another frame are ten times as large."""
    place = folder / "nbody" / network
    write_text(place / "run.json", json.dumps({"config": {"windows": windows}, "test": {}}))
    n = len(x)
    np.savez(
        place / "predictions.npz",
        window_trajectory=np.tile(np.arange(n), 2), window_start=np.repeat([0, 5], n),
        window_error_x=np.concatenate([x, 10 * np.array(x)]), window_error_v=np.concatenate([v, 10 * np.array(v)]),
    )  # fmt: skip
    return [place / "run.json", place / "predictions.npz"]


def baselines(folder: Path, first: float) -> Path:
    rows = [
        {"baseline": name, "windows": kind, "mse_x": 0.0, "mse_v": 0.0, "mse_both": value}
        for name, kind, value in (("unchanged", "first", 9.0), ("straight_line", "first", first),
                                  ("straight_line", "every", 7.0))
    ]  # fmt: skip
    return write(folder / "nbody" / "baselines.csv", rows)


def water(
    folder: Path, run: str, distance: list[float], total: list[float], pieces: list[int], ps: float
) -> list[Path]:
    """One trajectory with samples of 0.5 fs steps, evenly over ``ps`` ps."""
    place = folder / "md" / "water" / run
    times = np.linspace(0.0, ps, len(distance))
    topology = pd.DataFrame(
        {"trajectory": 0, "time_ps": times, "n_fragments": pieces, "n_broken": 0, "n_formed": 0,
         "largest_bond_change_angstrom": distance}
    )  # fmt: skip
    samples = pd.DataFrame(
        {"job": "water", "run": run, "replica": 0, "time_ps": times, "potential_ev": np.array(total) - 1.0,
         "kinetic_ev": 1.0}
    )  # fmt: skip
    write_text(place / "summary.json", json.dumps({"config": {"timestep_fs": 0.5, "time_ps": ps}}))
    return [
        write(place / "topology.csv", topology),
        write(place / "samples.csv", samples),
        place / "summary.json",
    ]


def test_tables_are_recognised_by_place(tmp_path: Path) -> None:
    paths = [
        run_table(tmp_path, BASIC, [1.0]),
        history_table(tmp_path, BASIC, [2.0, 1.0], [1e-3, 1e-3]),
        write(tmp_path / "tests" / "comp6" / f"{BASIC}.csv", transfer_rows({0: [1.0]})),
        # A run may be called like a table.
        write(tmp_path / "curl" / "speed.csv", curl_rows([0.1], [0.0])),
        write(tmp_path / "nan_gradients.csv", gradient_rows({"smoothed": 0})),
        write(tmp_path / "data" / "table31.csv", TABLE31),
        network_file(tmp_path, "se3_basic", {"float32": 1e-7}),
        *particles(tmp_path, "own", [1.0], [1.0]),
        baselines(tmp_path, 1.0),
        write(tmp_path / "nbody" / "own" / "history.csv", [{"step": 1}]),
    ]
    tables = RunTables.from_paths([*paths, paths[0]])
    assert tables.names() == [BASIC]
    assert tables.names("history") == [BASIC]
    assert len(tables.history(BASIC)) == 6
    assert tables.transfer_tests() == [("comp6", BASIC)]
    assert tables.transfer("comp6", BASIC)["group"].tolist() == ["001"]  # a name, not the number 1
    assert tables.curl_runs() == ["speed"]
    assert tables.curl("speed")["structure"].tolist() == ["000", "000"]
    assert tables.nan_gradients()["part"].tolist() == ["network", "network", "network", "direction"]
    assert len(tables.table31()) == len(TABLE31)
    assert tables.networks() == ["se3_basic"]
    assert tables.network("se3_basic")["parameters"] == 10
    assert set(tables.nbody_runs()) == {"own"}
    assert tables.nbody_predictions("own").name == "predictions.npz"
    assert len(tables.nbody_baselines()) == 3
    frame = tables.curl("speed")
    frame.loc[:, "asymmetry"] = 0.0
    assert tables.curl("speed")["asymmetry"].tolist() == [0.1, 0.2]  # callers get copies


def test_what_is_missing_or_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    empty = RunTables()
    calls: list[Callable[[], Any]] = [
        lambda: empty.history(BASIC), lambda: empty.transfer("comp6", BASIC), lambda: empty.curl(BASIC),
        empty.nan_gradients, empty.table31, empty.nbody_baselines, lambda: empty.nbody_predictions("own"),
        lambda: empty.network("se3_basic"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(MissingDataError, match="not among the results that were asked for"):
            call()
    assert empty.nbody_runs() == {}
    assert empty.networks() == []
    path = write(tmp_path / "curl" / "x.csv", [{"seed": 0, "structure": "a", "n_atoms": 3, "asymmetry": 0.1}])
    with pytest.raises(InputError, match="column 'loop_work_ev' is missing"):
        RunTables.from_paths([path]).curl("x")
    path = tmp_path / "models" / "networks" / "x.json"
    write_text(path, '{"name": "x", "parameters": 1}')
    with pytest.raises(InputError, match="key 'layers' is missing"):
        RunTables.from_paths([path]).network("x")
    with pytest.raises(InputError, match="holds the same table"):
        RunTables.from_paths([path, tmp_path / "again" / "models" / "networks" / "x.json"])
    paths = particles(tmp_path, "own", [1.0], [1.0])
    np.savez(paths[1], other=np.zeros(1))
    with pytest.raises(InputError, match="not the errors of a network") as caught:
        hedelius.nbody_errors(RunTables.from_paths(paths), "own", "x")
    assert len(str(caught.value).splitlines()) == 1


# --- which run


def test_runs_are_found_by_all_that_their_names_say() -> None:
    names = [
        "ani1x-se3_basic-none-w0.00001-c1", FIRST, f"{BASIC}-n300", "ani1x-se3_basic-per_element-w1-r0.001",
        "ani1x-se3_basic-per_element-std-w1-r0.0001", LONG, BASIC, "ani1-se3_basic-per_element-std-r0.001", "ani2x",
    ]  # fmt: skip
    assert hedelius.find_run(names, "first") == FIRST
    assert hedelius.find_run(names, "adjusted") == BASIC
    assert hedelius.find_run(names, "long") == LONG
    assert hedelius.find_run([*names, f"{BASIC}-s500000"], "long") == f"{BASIC}-s500000"
    assert hedelius.find_run(names, "energy_only") == names[-2]
    assert hedelius.find_run(names, "adjusted", learning_rate=1e-4) == names[4]
    with pytest.raises(MissingDataError, match=r"^wider: not among the results"):
        hedelius.find_run(names, "wider")
    with pytest.raises(MissingDataError, match=r"adjusted learning_rate 0\.01: not among"):
        hedelius.find_run(names, "adjusted", learning_rate=0.01)
    with pytest.raises(InputError, match="run 'second' is unknown; known: first"):
        hedelius.find_run(names, "second")
    for key, wanted in hedelius.RUNS.items():
        assert set(wanted) <= set(vars(parse_run_name(BASIC))), key


# --- metrics on hand-made numbers


def means(estimates: Any) -> list[float]:
    return [one.mean for one in estimates]


def test_errors_of_runs(tmp_path: Path) -> None:
    paths = [
        run_table(tmp_path, FIRST, [100.0, 110.0, 90.0], [4.0, 5.0, 6.0]),
        run_table(tmp_path, BASIC, [3.0, 4.0, 5.0], [4.0, 4.0, 4.0]),
        run_table(tmp_path, BASIC.replace("0.001", "0.0001"), [5.0, 5.0, 8.0], [6.0, 6.0, 6.0]),
        run_table(tmp_path, BASIC.replace("basic", "wider"), [4.0, 4.0, 4.0], [5.0, 5.0, 5.0], n=100),
        run_table(tmp_path, BASIC.replace("basic", "higher_order"), [7.0, 7.0, 7.0], [9.0, 9.0, 9.0], n=300),
    ]
    tables = RunTables.from_paths(paths)
    (one,) = hedelius.fit_error(tables, "adjusted", "energy")
    assert (one.mean, one.n) == (pytest.approx(4.0), 3)
    assert one.half_width == pytest.approx(4.302652730 / math.sqrt(3))
    assert means(hedelius.fit_error(tables, "adjusted", "force", "test")) == [pytest.approx(8.0)]
    with pytest.raises(MissingDataError, match="no value of validation_energy_rmse_ev"):
        hedelius.fit_error(tables, "adjusted", "energy", "validation")
    with pytest.raises(InputError, match="quantity 'x' is unknown; known: energy, force"):
        hedelius.fit_error(tables, "adjusted", "x")
    with pytest.raises(InputError, match="rows 'all' are unknown; known: train"):
        hedelius.fit_error(tables, "adjusted", "energy", "all")
    assert means(hedelius.fit_order(tables, "first", "adjusted", ["energy", "force"])) == pytest.approx([96.0, 1.0])
    assert means(hedelius.fit_order(tables, "first", "adjusted", ["energy"], factor=10)) == pytest.approx([60.0])
    assert means(hedelius.fit_ratio(tables, ["first", "adjusted"], "force")) == pytest.approx([1.25])
    order = hedelius.sizes_order(tables, ["adjusted", "wider", "higher_order"])
    assert means(order) == pytest.approx([0.0, 1.0, 3.0, 4.0])
    assert means(hedelius.test_over_train(tables, "adjusted")) == pytest.approx([4.0, 4.0])
    assert means(hedelius.rates_order(tables, 1e-3, [1e-4])) == pytest.approx([2.0, 2.0])
    (more,) = hedelius.more_parameters(tables, "higher_order", "wider")
    assert (more.mean, more.deterministic) == (200.0, True)


def weights(folder: Path, clip: str, energy: list[float], force: list[float], clipped: float = 1.0) -> list[Path]:
    paths = []
    for weight, e, f in zip(("0.01", "0.0001"), energy, force, strict=True):
        run = f"ani1x-se3_basic-none-w{weight}-c{clip}"
        paths.append(run_table(folder, run, [e, e, e], [f, f, f]))
        paths.append(
            history_table(folder, run, [9.0, 8.0, 8.0, 8.0, 4.0, 4.0, 1.0], [1e-3] * 4 + [1e-5] * 2 + [1e-7], clipped)
        )
    return paths


def test_energy_weights(tmp_path: Path) -> None:
    clipped = weights(tmp_path, "1", [100.0, 100.0], [4.0, 40.0], 0.97)
    free = weights(tmp_path, "0", [10.0, 1000.0], [4.0, 4.0], 0.0)
    tables = RunTables.from_paths([*clipped, *free])
    assert means(hedelius.weights_spread_order(tables, 1.0)) == pytest.approx([1.0])
    assert means(hedelius.weights_spread_order(tables, 0.0)) == pytest.approx([-2.0])
    assert means(hedelius.clipping_hides(tables)) == pytest.approx([2.0])
    assert means(hedelius.clipped_share(tables, 1.0)) == pytest.approx([97.0])
    # Three evaluations before the first drop; after it only those before the second.
    assert means(hedelius.drop_effect(tables, 1.0)) == pytest.approx([4.0, 4.0])
    with pytest.raises(MissingDataError, match="not the same with and without clipping"):
        hedelius.clipping_hides(RunTables.from_paths([*clipped, *free, *weights_more(tmp_path)]))
    with pytest.raises(MissingDataError, match="energy weights, not clipped: 0 runs, at least 2"):
        hedelius.clipping_hides(RunTables.from_paths(clipped))
    flat = history_table(tmp_path / "flat", BASIC, [3.0, 2.0], [1e-3, 1e-3])
    with pytest.raises(MissingDataError, match="no drop of the learning rate"):
        hedelius._around_drop(RunTables.from_paths([flat]).history(BASIC), BASIC)


def weights_more(folder: Path) -> list[Path]:
    return [run_table(folder, "ani1x-se3_basic-none-w0.000001-c0", [1.0, 1.0, 1.0])]


def test_never_reached(tmp_path: Path) -> None:
    paths = []
    for network, energies in (("wider", [9.0, 3.0, 5.0]), ("higher_order", [9.0, 7.0, 4.0])):
        run = BASIC.replace("basic", network)
        paths += [run_table(tmp_path, run, [1.0]), history_table(tmp_path, run, energies, [1e-3] * 3)]
    found = hedelius.never_reached(RunTables.from_paths(paths), "higher_order", "wider")
    assert means(found) == pytest.approx([1.0, EV_TO_KCAL_PER_MOL / 23.0])


def test_table31(tmp_path: Path) -> None:
    tables = RunTables.from_paths([write(tmp_path / "table31.csv", TABLE31)])
    assert means(hedelius.table31_value(tables, "ANI-1", True, "std")) == [0.11]
    assert means(hedelius.table31_value(tables, "ANI-1x", False, "mean")) == [-395.0]
    assert means(hedelius.mean_reduction(tables)) == pytest.approx([337.95, 394.98])
    assert means(hedelius.std_reduction(tables)) == pytest.approx([100 * (1 - 0.11 / 60.9), 100 * (1 - 0.106 / 139)])
    # Free atoms, the smallest share of two sources.
    assert means(hedelius.self_energy_share(tables)) == pytest.approx([100 * (1 - 3 / 338), 100 * (1 - 2 / 395)])
    with pytest.raises(MissingDataError, match=r"table 3\.1, ANI-2, as they are"):
        hedelius.table31_value(tables, "ANI-2", False, "mean")
    with pytest.raises(InputError, match="quantity 'median' is unknown"):
        hedelius.table31_value(tables, "ANI-1", False, "median")


def test_equivariance(tmp_path: Path) -> None:
    paths = [
        network_file(tmp_path, "se3_basic", {"float32": 4e-7, "float64": 1e-15}, whole=3e-6),
        network_file(tmp_path, "se3_wider", {"float32": 9e-7, "float64": 2e-15}),
        network_file(tmp_path, "gemnet_q", {"float32": 1.0, "float64": 1.0}, whole=1.0),
    ]
    tables = RunTables.from_paths(paths)
    assert means(hedelius.layer_error(tables, "float32")) == [9e-7]
    assert means(hedelius.layer_error(tables, "float64")) == [2e-15]
    assert means(hedelius.network_error(tables, "float32")) == [3e-6]
    with pytest.raises(MissingDataError, match="equivariance, whole networks, float32: not"):
        hedelius.network_error(RunTables.from_paths(paths[1:]), "float32")


def test_singular_gradients(tmp_path: Path) -> None:
    rows = gradient_rows({"angles": 0, "unguarded": 3})
    tables = RunTables.from_paths([write(tmp_path / "nan_gradients.csv", rows)])
    assert means(hedelius.not_finite_weights(tables, "unguarded")) == [3.0]
    assert means(hedelius.not_finite_weights(tables, "angles")) == [0.0]
    with pytest.raises(MissingDataError, match="gradients of whole networks, clamped: not among"):
        hedelius.not_finite_weights(tables, "clamped")


def test_charged_particles(tmp_path: Path) -> None:
    own = particles(tmp_path, "own", [0.01, 0.02, 0.03], [0.03, 0.06, 0.09])
    other = particles(tmp_path, "original", [0.02, 0.04, 0.06], [0.06, 0.12, 0.18])
    tables = RunTables.from_paths([*own, *other, baselines(tmp_path, 0.1)])
    assert hedelius.nbody_errors(tables, "own", "x") == pytest.approx([0.01, 0.02, 0.03])
    (both,) = hedelius.nbody_mse(tables, "own", "both")
    assert (both.mean, both.n, both.of) == (pytest.approx(0.04), 3, "trajectories")
    assert means(hedelius.nbody_order(tables, "own", "original")) == pytest.approx([0.04])
    (ratio,) = hedelius.nbody_ratio(tables, ["own", "original"])
    assert ratio.bounds == pytest.approx((2.0, 2.0))  # paired: the same trajectories are drawn for both
    assert means(hedelius.nbody_beats_line(tables, "own")) == pytest.approx([0.06])
    every = RunTables.from_paths([*particles(tmp_path / "a", "own", [0.01], [0.03], "random"), baselines(tmp_path, 0)])
    assert means(hedelius.nbody_mse(every, "own", "x")) == pytest.approx([0.055])  # 0.01 and 0.1
    assert means(hedelius.nbody_beats_line(every, "own")) == pytest.approx([7.0 - 0.11])
    with pytest.raises(MissingDataError, match="charged particles, original: not among"):
        hedelius.nbody_mse(every, "original", "x")
    with pytest.raises(InputError, match="quantity 'z' is unknown; known: x, v, both"):
        hedelius.nbody_mse(every, "own", "z")
    short = RunTables.from_paths([*own, *particles(tmp_path / "b", "original", [0.1], [0.1])])
    with pytest.raises(InputError, match="own and original have different test sets"):
        hedelius.nbody_ratio(short, ["own", "original"])


def test_water(tmp_path: Path) -> None:
    # Samples at steps 0, 500, 1000, 1500, 2000.
    direct = water(tmp_path, BASIC, [0, 30, 60, 90, 120], [0, 1, 9, 9, 8], [1, 3, 3, 3, 2], 1.0)
    gradient = water(tmp_path, GRADIENT, [0, 0.1, 0.1, 0.1, 0.1], [0, 0.1, -0.2, 0, 0], [1] * 5, 1.0)
    tables = RunTables.from_paths([*direct, *gradient])
    assert means(hedelius.steps_to_pieces(tables, "water", "adjusted", 900, 3)) == [500.0]
    assert means(hedelius.bond_change(tables, "water", "adjusted", 900)) == [30.0]
    assert means(hedelius.pieces_at_end(tables, "water", "adjusted")) == [2.0]
    (whole,) = hedelius.steps_to_pieces(tables, "water", "gradient", 900, 3)
    assert (whole.name, whole.mean, whole.unresolved) == ("not in pieces after", 2000.0, "")
    change = hedelius.energy_change_order(tables, "water", "adjusted", "gradient")
    assert means(change) == [pytest.approx(8.8)]
    # A simulation shorter than what is stated says nothing.
    short = RunTables.from_paths(water(tmp_path / "short", BASIC, [0, 0.1], [0, 0], [1, 1], 0.4))
    (unknown,) = hedelius.steps_to_pieces(short, "water", "adjusted", 900, 3)
    assert unknown.unresolved == "800 steps were simulated, 901 are needed."
    assert hedelius.bond_change(short, "water", "adjusted", 900)[0].unresolved
    with pytest.raises(MissingDataError, match="job water, gradient: not among"):
        hedelius.pieces_at_end(short, "water", "gradient")
    broken = [*water(tmp_path / "nan", BASIC, [0, 1], [0, math.nan], [1, 3], 1.0), *gradient]
    assert hedelius.energy_change_order(RunTables.from_paths(broken), "water", "adjusted", "gradient")[0].mean > 1e6


def test_curl(tmp_path: Path) -> None:
    direct = write(tmp_path / "curl" / f"{BASIC}.csv", curl_rows([0.1, 0.2, 0.3], [1.0, -2.0, 3.0]))
    gradient = write(tmp_path / "curl" / f"{GRADIENT}.csv", curl_rows([1e-9, 2e-9, 3e-9], [0.0, -0.5, 0.0]))
    tables = RunTables.from_paths([direct, gradient])
    assert means(hedelius.largest_asymmetry(tables, "gradient")) == [6e-9]  # of the second seed
    (one,) = hedelius.asymmetry(tables, "adjusted")
    assert (one.mean, one.n, one.of) == (pytest.approx(0.2), 3, "structures")
    assert means(hedelius.loop_work_order(tables, "adjusted", "gradient")) == pytest.approx([5.5 / 3])


def test_transfer(tmp_path: Path) -> None:
    comp6 = write(tmp_path / "tests" / "comp6" / f"{BASIC}.csv", transfer_rows({0: [3.0, 6.0], 1: [4.0, 4.0]}))
    tables = RunTables.from_paths([comp6, run_table(tmp_path, BASIC, [1.0, 1.0], test=3.0)])
    # Atoms count alike: (1 x 3 + 2 x 6) / 3 = 5 and 4, against 3 and 3.
    assert means(hedelius.transfer_order(tables, "comp6", "adjusted")) == pytest.approx([1.5])
    with pytest.raises(MissingDataError, match="gradient: not among"):
        hedelius.transfer_order(tables, "comp6", "gradient")


# --- verdicts


def verdicts(paths: list[Path], scale: str = "full") -> dict[str, Verdict]:
    _, outcomes = evaluate_study(CLAIMS_PATH, paths, scale)
    return {outcome.claim.id: outcome.verdict for outcome in outcomes}


def results(folder: Path, right: bool) -> list[Path]:
    """Results in which the thesis, and our predictions, are right or wrong."""

    def seeds(good: float, bad: float) -> list[float]:
        return [(good if right else bad) * factor for factor in (0.99, 1.0, 1.01)]

    def named(network: str) -> str:
        return BASIC.replace("basic", network)

    paths = [
        run_table(folder, FIRST, seeds(100, 2), seeds(4, 90), test=1.1 if right else 0.9),
        run_table(folder, BASIC, seeds(3.2, 9), seeds(4.1, 12), test=1.1 if right else 0.9),
        run_table(folder, LONG, seeds(3.2, 90), seeds(4.1, 12), test=1.1 if right else 0.9),
        run_table(folder, BASIC.replace("0.001", "0.0001"), seeds(5, 3), seeds(6, 3)),
        run_table(folder, BASIC.replace("0.001", "0.00001"), seeds(7, 3), seeds(8, 3)),
        run_table(folder, named("wider"), seeds(3.4, 8), seeds(4.4, 11), n=100),
        run_table(folder, named("higher_order"), seeds(5.5, 1), seeds(6.3, 1), n=200 if right else 50),
        run_table(folder, named("basic_total"), seeds(20, 1), seeds(20, 1)),
        run_table(folder, named("gradient"), seeds(3, 3), seeds(4, 4)),
        run_table(folder, "ani1-se3_basic-per_element-std-r0.001", seeds(3.8, 9)),
        history_table(folder, named("wider"), [9.0, 4.0], [1e-3] * 2),
        history_table(folder, named("higher_order"), [9.0, 6.0 if right else 2.0], [1e-3] * 2),
    ]
    for clip, energy, force in (("1", [100, 110], [4, 40]), ("0", [10, 1000], [4, 4.1])):
        energy, force = (energy, force) if right else (force, energy)
        for weight, e, f in zip(("0.01", "0.0001"), energy, force, strict=True):
            run, last = f"ani1x-se3_basic-none-w{weight}-c{clip}", 4.0 if right else 12.0
            noise = [0.999, 1.0, 1.001]
            paths.append(run_table(folder, run, [e * one for one in noise], [f * one for one in reversed(noise)]))
            paths.append(
                history_table(folder, run, [9.0, 8.0, last, last], [1e-3] * 2 + [1e-5] * 2, 1.0 if right else 0.2)
            )
    table = pd.DataFrame(TABLE31)
    if not right:
        table["std_hartree"], table["mean_hartree"] = 3.0, np.where(table["energies"] == "as they are", 4.0, 5.0)
    paths.append(write(folder / "data" / "table31.csv", table))
    paths.append(network_file(folder, "se3_basic", {"float32": 5e-7 if right else 5e-6,
                                                    "float64": 1e-15 if right else 1e-9},
                              whole=4e-6 if right else 4e-4))  # fmt: skip
    not_finite = {"angles": int(right), "unguarded": int(right), "smoothed": int(not right)}
    paths.append(write(folder / "nan_gradients.csv", gradient_rows(not_finite)))
    x = np.full(20, 0.0189 if right else 0.3)
    paths += particles(folder, "own", x.tolist(), (x + 0.04).tolist())
    paths += particles(folder, "original", (x + (0.012 if right else -0.2)).tolist(),
                       (x + (0.052 if right else -0.2)).tolist())  # fmt: skip
    paths.append(baselines(folder, 1.0 if right else 0.1))
    far, pieces = ([0, 30, 60, 90], [1, 3, 3, 3]) if right else ([0, 0.1, 0.1, 0.1], [1] * 4)
    energies = [0.0, 5.0, 9.0, 9.0]
    still = [0.0, 0.01, 0.01, 0.0]
    paths += water(folder, BASIC, far, energies if right else still, pieces, 0.75)
    paths += water(folder, GRADIENT, [0, 0.1, 0.1, 0.1], still if right else energies, [1] * 4, 0.75)
    curly, straight = curl_rows([0.1, 0.2, 0.15], [1.0, 2.0, 1.5]), curl_rows([1e-9] * 3, [1e-9] * 3)
    paths.append(write(folder / "curl" / f"{BASIC}.csv", curly if right else straight))
    paths.append(write(folder / "curl" / f"{GRADIENT}.csv", straight if right else curly))
    comp6 = {seed: [40.0 if right else 0.1] for seed in range(3)}
    paths.append(write(folder / "tests" / "comp6" / f"{BASIC}.csv", transfer_rows(comp6)))
    return paths


def test_every_statement_can_be_reproduced_and_contradicted(tmp_path: Path, claims: ClaimSet) -> None:
    found = {right: verdicts(results(tmp_path / str(right), right)) for right in (True, False)}
    assert set(found[True]) == set(claims.claims)
    wrong = {key: verdict for key, verdict in found[True].items() if verdict is not Verdict.REPRODUCED}
    assert not wrong
    wrong = {key: verdict for key, verdict in found[False].items() if verdict is not Verdict.CONTRADICTED}
    assert not wrong


def test_at_mini_numbers_of_the_thesis_are_not_judged(tmp_path: Path, claims: ClaimSet) -> None:
    found = verdicts(results(tmp_path, True), "mini")
    for claim in claims.claims.values():
        judged = "mini" in claim.judged_at
        assert found[claim.id] is (Verdict.REPRODUCED if judged else Verdict.NOT_COMPARABLE), claim.id


def test_one_seed_decides_nothing_over_seeds(tmp_path: Path) -> None:
    paths = results(tmp_path, True)
    for path in paths:
        frame = pd.read_csv(path) if path.name == "runs.csv" else pd.DataFrame()
        if not frame.empty:
            write(path, frame[frame["seed"] == 0])
    found = verdicts(paths)
    assert found["table32-basic-energy"] is found["sizes-order"] is Verdict.INCONCLUSIVE
    assert found["ours-raw-energies-worse"] is found["clipping-hides-weight"] is Verdict.INCONCLUSIVE
    assert found["equivariance-layers"] is found["table31-std-reduction"] is Verdict.REPRODUCED
