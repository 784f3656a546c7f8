"""Figures and tables of the SE(3)-Transformer's trainings from synthetic results in which every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mlip_studies.artifacts import is_intact
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.potential import Potential, load_potential
from mlip_studies.models.registry import build_model
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies import hedelius
from mlip_studies.studies.context import RunInfo, StudyContext
from mlip_studies.studies.transfer_test import COLUMNS, subsets_of, write_transfer_test
from mlip_studies.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_KCAL_PER_MOL, KCAL_PER_MOL_TO_EV

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "hedelius.yaml")
NORMALISED = "ani1x-{}-per_element-std-w1-r{}"
BASIC = NORMALISED.format("se3_basic", "0.001")
FIRST = "ani1x-se3_basic-none-w0.00001-c1"
LONG = f"{BASIC}-s680"
ENERGIES = "ani1-se3_basic-per_element-std-r0.001"
#: run -> groups, final test RMSE of energies (kcal/mol) and forces (kcal/mol/Å), steps, first error over the last
RUNS: dict[str, tuple[tuple[str, ...], float, float, int]] = {
    FIRST: (("first",), 180.0, 9.0, 300),
    BASIC: (("rates", "sizes"), 4.0, 6.0, 200),
    NORMALISED.format("se3_basic", "0.0001"): (("rates",), 8.0, 9.0, 200),
    NORMALISED.format("se3_basic", "0.00001"): (("rates",), 25.0, 16.0, 200),
    LONG: (("long",), 2.5, 3.5, 680),
    ENERGIES: (("energy_only",), 5.0, np.nan, 200),
    NORMALISED.format("se3_wider", "0.001"): (("sizes",), 4.4, 6.5, 200),
    NORMALISED.format("se3_higher_order", "0.001"): (("sizes_higher",), 6.0, 8.0, 200),
    NORMALISED.format("se3_basic_total", "0.001"): (("channels",), 7.0, 9.0, 200),
    NORMALISED.format("se3_wider_total", "0.001"): (("channels",), 6.4, 8.5, 200),
    NORMALISED.format("se3_higher_order_total", "0.001"): (("channels_higher",), 7.5, 9.5, 200),
    NORMALISED.format("se3_gradient", "0.001"): (("gradient",), 3.0, 4.5, 200),
}
for weight, (energy, free, force) in {
    "0.01": (150.0, 60.0, 20.0), "0.0001": (160.0, 150.0, 12.0), "0.000001": (180.0, 900.0, 10.0),
}.items():  # fmt: skip
    RUNS[f"ani1x-se3_basic-none-w{weight}-c1"] = (("weights",), energy, force, 150)
    RUNS[f"ani1x-se3_basic-none-w{weight}-c0"] = (("weights",), free, force, 150)
PARAMETERS = {"se3_basic": 719008, "se3_wider": 2675456, "se3_higher_order": 6109152}
TOTAL = {"se3_basic": 69296, "se3_wider": 101416, "se3_higher_order": 194096}
FIGURES = {
    "fig3-2-first-attempt": hedelius.first_attempt, "fig3-3-energy-weights": hedelius.energy_weights,
    "fig3-4-learning-rates": hedelius.learning_rates, "fig3-5-long-run": hedelius.long_run,
    "fig3-6-energy-only": hedelius.energy_only, "fig3-7-sizes": hedelius.sizes,
    "self-energies-effect": hedelius.self_energies_effect, "channels": hedelius.channels, "comp6": hedelius.comp6,
}  # fmt: skip
TABLES = {"table3-1": hedelius.table3_1, "table3-2": hedelius.table3_2, "comp6-table": hedelius.comp6_table}
SCALE_EV = 0.75  # standard deviation of the shifted training energies
TOTAL_STD_EV = 946.0  # of the total energies of the test rows


def write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def info_of(run: str, seeds: int) -> RunInfo:
    parts = parse_run_name(run)
    assert parts is not None
    return RunInfo(
        run, RUNS[run][0], parts.data, parts.network, parts.shift, None, tuple(range(seeds)), parts.scale,
        parts.energy_weight, parts.clip_norm, parts.learning_rate, parts.max_steps,
    )  # fmt: skip


def write_run(root: Path, run: str, seeds: int) -> None:
    """Tables of a run: test errors as RUNS says, training errors 0.8 and validation errors 0.95 of them."""
    _, energy, force, steps = RUNS[run]
    network, raw = run.split("-")[1], run.split("-")[2] == "none"
    folder, lines, curves = root / "tables" / run, [], []
    at = np.unique([*range(25, steps + 1, 25), steps])
    for seed in range(seeds):
        factor = 1.0 + 0.03 * (seed - (seeds - 1) / 2)
        line = {
            "run": run, "seed": seed, "data": "ani1x", "model": "se3_transformer", "shift": run.split("-")[2],
            "beta": np.nan, "n_train": 1600, "n_val": 200, "n_test": 400, "steps": steps,
            "scale_ev": 1.0 if raw else SCALE_EV,
            "n_parameters": {"se3_gradient": 29000}.get(network)
            or PARAMETERS[network.removesuffix("_total")] // (80 if network.endswith("_total") else 20),
        }  # fmt: skip
        history: dict[str, object] = {"run": run, "seed": seed, "epoch": at // 40, "step": at}
        rate = 1e-3 * np.where(at <= 129, 1, 1e-2) if raw else np.full(len(at), 1e-3)
        history |= {"learning_rate": rate, "clip_norm": 0.0 if run.endswith("-c0") else 1.0}
        history["grad_norm"] = 40.0 * (at / 25.0) ** -0.5 * (1 if raw else 0.02)
        history["clipped_share"] = 0.0 if run.endswith("-c0") else np.where(at < 100, 1.0, 0.5)
        for name, unit, value in (("energy", "ev", energy), ("force", "ev_per_angstrom", force)):
            value = factor * value * KCAL_PER_MOL_TO_EV
            for part, share in (("", 1.0), ("train_", 0.8), ("validation_", 0.95)):
                line[f"{part}{name}_mae_{unit}"] = 0.7 * share * value
                line[f"{part}{name}_rmse_{unit}"] = share * value
                if part and np.isfinite(value):
                    fall = (at / steps) ** (-2.0 if raw and name == "energy" else -0.6)
                    history[f"{part}{name}_rmse_{unit}"] = share * value * fall
        history["train_loss"] = 0.8 * (at / steps) ** -1.2 * energy
        history["validation_loss"] = 1.0 * (at / steps) ** -1.2 * energy
        lines.append(line)
        curves.append(pd.DataFrame(history))
    write(pd.DataFrame(lines), folder / "runs.csv")
    write(pd.concat(curves), folder / "history.csv")
    rng = np.random.default_rng(0)
    spread = rng.normal(size=400)
    true = TOTAL_STD_EV * (spread - spread.mean()) / spread.std() - 2000.0
    error = np.where(np.arange(400) % 2, 1.0, -1.0) * energy * KCAL_PER_MOL_TO_EV + 0.01
    write(
        pd.concat(
            pd.DataFrame({"run": run, "seed": seed, "row": np.arange(400), "group": np.arange(400) // 8, "n_atoms": 6,
                          "formula": "CH4O", "energy_true_ev": true, "energy_predicted_ev": true + error})
            for seed in range(seeds)
        ), folder / "molecules.csv",
    )  # fmt: skip
    # Components of 2 eV/Å only.
    write(
        pd.DataFrame({"true_low": [-2.5, 1.5], "true_high": [-1.5, 2.5], "predicted_low": [-3.0, 0.0],
                      "predicted_high": [0.0, 3.0], "count": [7, 7]}), folder / "forces.csv",
    )  # fmt: skip


def write_comp6(root: Path, run: str, seeds: int) -> None:
    """Errors of two parts: energies off by 3 kcal/mol plus 10 per molecule, forces by 2 times those of RUNS."""
    rows = []
    for seed in range(seeds):
        for subset, atoms, groups in (("s66x8", 20, 5), ("gdb11_07", 14, 4)):
            for group in range(groups):
                frames = 1 if subset == "gdb11_07" and group == 0 else 4
                for frame in range(frames):
                    own = (3.0 if frame % 2 else -3.0) if frames > 1 else 0.0
                    error = (10.0 + own) * KCAL_PER_MOL_TO_EV
                    force = 2 * RUNS[run][2] * KCAL_PER_MOL_TO_EV
                    rows.append(
                        {"seed": seed, "subset": subset, "group": f"{subset}/m{group}", "formula": "C4H8O2",
                         "n_atoms": atoms, "energy_true_ev": -8000.0, "energy_predicted_ev": -8000.0 + error,
                         "energy_error_ev": error, "relative_energy_error_ev": own * KCAL_PER_MOL_TO_EV,
                         "force_mae_ev_per_angstrom": 0.7 * force, "force_rmse_ev_per_angstrom": force}
                    )  # fmt: skip
    write(pd.DataFrame(rows)[list(COLUMNS)], root / "tests" / "comp6" / f"{run}.csv")


def write_all(root: Path, seeds: int = 3) -> None:
    study = root / "hedelius"
    for run in RUNS:
        write_run(study, run, seeds)
    for run in (BASIC, NORMALISED.format("se3_wider", "0.001"), NORMALISED.format("se3_gradient", "0.001")):
        write_comp6(study, run, seeds)
    for counts, suffix in ((PARAMETERS, ""), (TOTAL, "_total")):
        for network, number in counts.items():
            path = root / "models" / "networks" / f"{network}{suffix}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"name": path.stem, "parameters": number // 20, "parameters_published": number, "layers": []}
            path.write_text(json.dumps(content))
    rows = []
    for row, label, std in (("ANI-1", "ANI1", 40.0), ("ANI-1x", "ANI1x", 35.0)):
        for energies, kind, fraction, suffix in (
            ("as they are", "none", 1.0, ""),
            ("less linear fit, ours", "fit on all rows", 0.001, " w/o SI"),
            ("less isolated atom, published", "free atoms", 0.02, " w/o SI"),
        ):
            rows.append(
                {"row": row, "dataset": label.lower(), "fidelity": "wb97x_dz", "energies": energies,
                 "self_energies": kind, "n_rows": 400, "mean_hartree": -90.0 * fraction,
                 "std_hartree": std * fraction, "paper_label": f"{label}{suffix}", "paper_mean_hartree": 0.0,
                 "paper_std_hartree": 0.0}
            )  # fmt: skip
    write(pd.DataFrame(rows), root / "data" / "table31.csv")


def paths_of(root: Path) -> list[Path]:
    return sorted([*root.rglob("*.csv"), *root.rglob("*.json")])


def context_of(scale: str = "mini", seeds: int = 3, without: tuple[str, ...] = ()) -> StudyContext:
    return StudyContext(scale, CLAIMS, runs={run: info_of(run, seeds) for run in RUNS if run not in without})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_all(root)
    return root


@pytest.fixture(scope="module")
def tables(results: Path) -> RunTables:
    return RunTables.from_paths(paths_of(results))


def stated(claim: str) -> float:
    return next(iter(StudyContext("mini", CLAIMS).paper(claim).values()))


@pytest.mark.parametrize("name", [*FIGURES, *TABLES])
def test_products_are_written_twice_the_same(name, tables, tmp_path):
    product = {**FIGURES, **TABLES}[name]
    suffixes = ("png", "svg", "csv") if name in FIGURES else ("html", "csv")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        product(tables, context_of(), tmp_path / folder / f"{name}.{suffixes[0]}")
    for suffix in suffixes:
        first, second = (tmp_path / folder / f"{name}.{suffix}" for folder in ("a", "b"))
        assert is_intact(first)
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", [*FIGURES, *TABLES])
def test_without_results_there_is_one_line(name, tmp_path):
    empty = RunTables.from_paths([])
    with pytest.raises(InputError) as caught:
        {**FIGURES, **TABLES}[name](empty, context_of(), tmp_path / "x.png")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def texts(figure) -> str:
    found = [text.get_text() for text in figure.findobj(plt.Text)]
    plt.close(figure)
    return "\n".join(found).replace("\u202f", " ")


FIGURE_MAKERS = {
    "fig3-2-first-attempt": hedelius.first_attempt_figure, "fig3-3-energy-weights": hedelius.energy_weights_figure,
    "fig3-4-learning-rates": hedelius.learning_rates_figure, "fig3-5-long-run": hedelius.long_run_figure,
    "fig3-6-energy-only": hedelius.energy_only_figure, "fig3-7-sizes": hedelius.sizes_figure,
    "self-energies-effect": hedelius.self_energies_effect_figure, "channels": hedelius.channels_figure,
    "comp6": hedelius.comp6_figure,
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURE_MAKERS)
def test_scale_seeds_and_units_are_on_every_figure(name, tables):
    figure, _ = FIGURE_MAKERS[name](tables, context_of())
    sizes = [text.get_fontsize() for text in figure.findobj(plt.Text) if text.get_text().strip()]
    assert min(sizes) >= 9
    found = texts(figure)
    assert "mini scale (small data and budget: no reproduction of the thesis)" in found
    assert "n = 3 seeds" in found
    assert "kcal/mol" in found


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("fig3-2-first-attempt", ("first-energy-error", "first-force-error")),
        ("fig3-5-long-run", ("long-energy", "long-force")),
        ("fig3-6-energy-only", ("energy-only-error",)),
        ("fig3-7-sizes", ("table32-basic-energy", "table32-wider-energy", "table32-higher-force")),
        ("channels", ("table32-basic-energy", "table32-wider-force", "table32-higher-force")),
    ],
)
def test_the_numbers_of_the_thesis_are_drawn(name, claims, tables):
    figure, tidy = FIGURE_MAKERS[name](tables, context_of())
    drawn = {
        round(float(value), 6)
        for axis in figure.axes for line in axis.lines for value in np.atleast_1d(np.asarray(line.get_ydata(), float))
    }  # fmt: skip
    plt.close(figure)
    for claim in claims:
        assert round(stated(claim), 6) in drawn
        assert tidy.loc[tidy["claim"] == claim, "value"].tolist() == [stated(claim)]


def test_first_attempt_shows_what_a_constant_would_do(tables):
    figure, tidy = hedelius.first_attempt_figure(tables, context_of())
    plt.close(figure)
    spread = tidy[tidy["column"] == "spread"].set_index("unit")["value"]
    assert spread["kcal/mol"] == pytest.approx(TOTAL_STD_EV * EV_TO_KCAL_PER_MOL)
    assert spread["kcal/mol/Å"] == pytest.approx(2.0 * EV_TO_KCAL_PER_MOL)
    last = tidy[(tidy["column"] == "validation_energy_rmse_ev") & (tidy["seed"] == "mean") & (tidy["step"] == 300)]
    assert last["value"].iloc[0] == pytest.approx(0.95 * 180.0)


def test_drops_of_the_rate_are_those_of_the_schedule():
    frame = pd.DataFrame({"seed": 0, "step": [25, 50, 75, 100], "learning_rate": [1e-3, 1e-3, 1e-5, 1e-7]})
    assert hedelius.rate_drops(frame) == [(62.5, 1e-5), (87.5, 1e-7)]
    # A slow decay is no drop.
    assert hedelius.rate_drops(frame.assign(learning_rate=[1e-3, 8e-4, 6e-4, 5e-4])) == []


def test_energy_weights_tell_whether_clipping_hides_them(tables):
    context = context_of()
    runs = hedelius.runs_of(tables, context, "weights")
    clipped = [run for run in runs if hedelius.is_clipped(run)]
    free = [run for run in runs if not hedelius.is_clipped(run)]
    assert (len(clipped), len(free)) == (3, 3)
    assert hedelius.weight_range(tables, clipped, hedelius.ENERGY) == pytest.approx(180 / 150)
    assert hedelius.weight_range(tables, free, hedelius.ENERGY) == pytest.approx(15.0)
    assert np.isnan(hedelius.weight_range(tables, clipped[:1], hedelius.ENERGY))
    found = texts(hedelius.energy_weights_figure(tables, context)[0]).replace("\n", " ")
    assert "clipped energies 1.2, forces 2.0" in found
    assert "not clipped energies 15, forces 2.0" in found


def test_the_share_of_clipped_windows_counts_steps_not_evaluations():
    frame = pd.DataFrame({"seed": 0, "step": [10, 100], "clipped_share": [1.0, 0.5]})
    assert hedelius.clipped_share(frame) == pytest.approx((10 * 1.0 + 90 * 0.5) / 100)
    assert np.isnan(hedelius.clipped_share(frame.assign(clipped_share=np.nan)))


def test_learning_rates_are_in_order_and_read_from_the_history_where_the_name_has_none(tables):
    _, tidy = hedelius.learning_rates_figure(tables, context_of())
    plt.close("all")
    means = tidy[(tidy["run"] == "mean") & (tidy["column"] == "energy_rmse_ev")].set_index("learning_rate")["value"]
    assert means.to_dict() == pytest.approx({1e-3: 4.0, 1e-4: 8.0, 1e-5: 25.0})
    info = info_of(FIRST, 3)
    assert info.learning_rate is None
    assert hedelius.rate_of(info, tables) == 1e-3


def test_long_run_shows_the_shorter_one_of_the_same_rate(tables):
    figure, tidy = hedelius.long_run_figure(tables, context_of())
    plt.close(figure)
    ends = tidy[(tidy["seed"] == "mean") & (tidy["column"] == "energy_rmse_ev")].set_index("step")["value"]
    assert ends.to_dict() == pytest.approx({200.0: 4.0, 680.0: 2.5})


def test_energies_only_have_three_errors_and_no_forces(tables):
    figure, tidy = hedelius.energy_only_figure(tables, context_of())
    plt.close(figure)
    ends = tidy[tidy["half_width_95"].notna()].set_index("column")["value"]
    assert ends.to_dict() == pytest.approx(
        {"train_energy_rmse_ev": 4.0, "validation_energy_rmse_ev": 4.75, "energy_rmse_ev": 5.0}
    )
    assert not tidy["column"].astype(str).str.contains("force").any()


def test_sizes_name_what_was_not_run(results):
    lacking = NORMALISED.format("se3_higher_order", "0.001")
    tables = RunTables.from_paths(path for path in paths_of(results) if path.parent.name != lacking)
    figure, tidy = hedelius.sizes_figure(tables, context_of())
    assert lacking in texts(figure).replace("\n", "")
    assert set(tidy["network"].dropna()) == {"se3_basic", "se3_wider"}


def test_channels_have_both_readings(tables):
    figure, tidy = hedelius.channels_figure(tables, context_of())
    plt.close(figure)
    test = tidy[(tidy["column"] == "energy_rmse_ev") & tidy["reading"].notna()]
    assert test.groupby("reading")["network"].nunique().to_dict() == {hedelius.PER_HEAD: 3, hedelius.IN_ALL: 3}
    one = test.set_index(["network", "reading"]).loc["se3_basic"]
    assert one["value"].to_dict() == pytest.approx({hedelius.PER_HEAD: 4.0, hedelius.IN_ALL: 7.0})
    assert one.loc[hedelius.PER_HEAD, "parameters"] > one.loc[hedelius.IN_ALL, "parameters"]


def test_table3_2_keeps_training_and_test_errors_apart(tables, tmp_path):
    frame = hedelius.table32_frame(tables, context_of())
    assert len(frame) == 8
    basic = frame[(frame["network"] == "basic") & (frame["reading"] == hedelius.PER_HEAD)].iloc[0]
    assert basic["test_energy"] == pytest.approx(4.0)
    assert basic["train_energy"] == pytest.approx(3.2)
    assert basic["validation_force"] == pytest.approx(5.7)
    assert basic["test_force_mae"] == pytest.approx(0.7 * 6.0)
    assert basic["test_force_vector"] == pytest.approx(6.0 * np.sqrt(3))
    assert (basic["thesis_energy"], basic["thesis_force"]) == (
        stated("table32-basic-energy"), stated("table32-basic-force"),
    )  # fmt: skip
    assert basic["full_parameters"] == PARAMETERS["se3_basic"]
    other = frame[(frame["network"] == "basic") & (frame["reading"] == hedelius.IN_ALL)].iloc[0]
    assert other["full_parameters"] == TOTAL["se3_basic"]
    ours = frame[frame["network"] == "basic, forces = −dE/dR"].iloc[0]
    assert np.isnan(ours["thesis_energy"])
    long = frame[frame["steps"] == 680].iloc[0]
    assert (long["network"], long["thesis_energy"]) == ("basic, long run", stated("table32-basic-energy"))
    hedelius.table3_2(tables, context_of(), tmp_path / "table3-2.html")
    assert "latest errors on training data" in (tmp_path / "table3-2.html").read_text()


def test_table3_1_has_the_reduction_of_the_spread(tables, tmp_path):
    hedelius.table3_1(tables, context_of(), tmp_path / "table3-1.html")
    frame = pd.read_csv(tmp_path / "table3-1.csv")
    fitted = frame[frame["energies"] == "less linear fit, ours"].set_index("row")
    assert fitted["reduction_percent"].to_dict() == pytest.approx({"ANI-1": 99.9, "ANI-1x": 99.9})
    expected = 100 * (1 - stated("table31-ani1x-without-std") / stated("table31-ani1x-std"))
    assert fitted.loc["ANI-1x", "thesis_reduction"] == pytest.approx(expected)
    assert fitted.loc["ANI-1", "thesis_mean"] == stated("table31-ani1-without-mean")
    assert frame.loc[frame["self_energies"] == "none", "reduction_percent"].isna().all()


def test_self_energies_set_errors_against_the_spread_that_was_learnt(tables):
    figure, tidy = hedelius.self_energies_effect_figure(tables, context_of())
    found = texts(figure).replace("\n", " ")
    spread = tidy[(tidy["column"] == "spread") & (tidy["run"] != "thesis")].set_index("run")["value"]
    assert spread[FIRST] == pytest.approx(TOTAL_STD_EV * EV_TO_KCAL_PER_MOL)
    assert spread[BASIC] == pytest.approx(SCALE_EV * EV_TO_KCAL_PER_MOL)
    total = tidy[tidy["claim"] == "table31-ani1x-std"]["value"].iloc[0]
    assert total == pytest.approx(stated("table31-ani1x-std") * HARTREE_TO_KCAL_PER_MOL)
    assert f"less self energies: {100 * 4.0 / (SCALE_EV * EV_TO_KCAL_PER_MOL):.0f} %" in found


def test_comp6_compares_parts_with_the_random_test(tables, tmp_path):
    frame = hedelius.comp6_frame(tables, context_of())
    one = frame[(frame["run"] == BASIC) & (frame["seed"] == 1)].set_index("subset")
    assert set(one.index) == {"s66x8", "gdb11_07", hedelius.RANDOM_TEST}
    assert one.loc["s66x8", "energy"] == pytest.approx(np.sqrt(10.0**2 + 3.0**2))
    # The molecule with one conformation says nothing about relative energies.
    assert one.loc["gdb11_07", "relative"] == pytest.approx(3.0)
    assert one.loc["gdb11_07", "n"] == 13
    assert one.loc["s66x8", "force"] == pytest.approx(12.0)
    assert one.loc[hedelius.RANDOM_TEST, "force"] == pytest.approx(6.0)
    assert one.loc[hedelius.RANDOM_TEST, "relative"] == pytest.approx(4.0, rel=1e-6)
    hedelius.comp6_table(tables, context_of(), tmp_path / "comp6-table.html")
    table = pd.read_csv(tmp_path / "comp6-table.csv")
    assert table.loc[0, "subset"] == hedelius.RANDOM_TEST
    ratio = table[table["run"] == BASIC].set_index("subset")["force_ratio"]
    assert ratio["s66x8"] == pytest.approx(2.0)


# --- test of trained networks on another data set -------------------------------------------------------------------

SELF = {1: -16.0, 8: -2043.0}
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def springs(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (n,) and forces (n, atoms, 3) of springs between all atoms at the distances of the mean geometry."""
    difference = positions[:, :, None] - positions[:, None]
    distance = np.linalg.norm(difference, axis=-1) + np.eye(positions.shape[1])
    stretch = (distance - distance.mean(axis=0)) * (1 - np.eye(positions.shape[1]))
    energy = 6.0 * (stretch**2).sum(axis=(1, 2))
    return energy, -24.0 * ((stretch / distance)[..., None] * difference).sum(axis=2)


def write_store(path: Path, sign: float = 1.0, forces: bool = True, element: int = 8, n: int = 40) -> Path:
    rng = np.random.default_rng(3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(path, ["dft"], ["dft"] if forces else []) as writer:
        for group, geometry, numbers in (
            ("s66x8/mol00", WATER, [element, 1, 1]),
            (
                "gdb11_07/mol00",
                np.concatenate([WATER, WATER + np.array([2.9, 0.3, 0.2])]),
                [element, 1, 1, element, 1, 1],
            ),
        ):
            positions = geometry + rng.normal(0, 0.04, size=(n, *geometry.shape))
            energy, force = springs(positions)
            energy = energy + sum(SELF.get(z, -500.0) for z in numbers)
            labels = {"dft": sign * force} if forces else None
            writer.append(np.array(numbers), positions, {"dft": energy}, labels, group=group)
    return path


def write_model(folder: Path, seed: int = 0, loss: str = "se3") -> Path:
    folder = folder / f"seed{seed}"
    folder.mkdir(parents=True)
    options = {"hidden": 8, "n_layers": 1, "rff_dim": 8}
    model = build_model("egnn_rff_as_described", options)
    shifts = [SELF[1], SELF[8]]
    Potential(model, "egnn_rff_as_described", options, {"high": shifts}, 0.1, 0.0, (1, 8)).save(
        folder / "model.safetensors", {}
    )
    content = {"config": {"seed": seed, "training": {"loss": {"name": loss}}}}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_transfer_test_is_what_the_network_says(tmp_path):
    store = write_store(tmp_path / "data" / "store.h5")
    folders = [write_model(tmp_path / "run", seed) for seed in (0, 1)]
    output = tmp_path / "tests" / "comp6" / "a-run.csv"
    write_transfer_test(folders[::-1], store, "dft", output, "cpu")
    assert is_intact(output)
    frame = RunTables.from_paths([output]).transfer("comp6", "a-run")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["seed"].tolist() == [0] * 80 + [1] * 80
    assert frame.groupby("subset")["group"].first().to_dict() == {"s66x8": "s66x8/mol00", "gdb11_07": "gdb11_07/mol00"}
    np.testing.assert_allclose(
        frame["energy_error_ev"], frame["energy_predicted_ev"] - frame["energy_true_ev"], atol=1e-7
    )
    np.testing.assert_allclose(frame.groupby(["seed", "group"])["relative_energy_error_ev"].sum(), 0.0, atol=1e-6)
    potential, _ = load_potential(folders[1] / "model.safetensors")
    with Store(store) as opened:
        rows = opened.read()
        assert subsets_of(opened) == ["s66x8", "gdb11_07"]
    for index in (0, 45, 79):
        energy, forces = potential.energy_and_forces(make_batch([rows.molecule(index)], None, fidelity=[0]))
        error = forces.numpy() - rows.forces["dft"][rows.ptr[index] : rows.ptr[index + 1]]
        line = frame.iloc[80 + index]
        assert line["energy_predicted_ev"] == pytest.approx(float(energy[0]), abs=1e-4)
        assert line["energy_true_ev"] == pytest.approx(rows.energy["dft"][index])
        assert line["force_mae_ev_per_angstrom"] == pytest.approx(np.abs(error).mean(), rel=1e-3)
        assert line["force_rmse_ev_per_angstrom"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)


def test_forces_of_the_wrong_sign_stop_a_transfer_test(tmp_path):
    store = write_store(tmp_path / "store.h5", sign=-1.0)
    folder = write_model(tmp_path / "run")
    with pytest.raises(InputError, match=r"store\.h5.*(gradient|sign)") as caught:
        write_transfer_test([folder], store, "dft", tmp_path / "out.csv", "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


def test_transfer_test_without_forces_on_either_side(tmp_path):
    folder = write_model(tmp_path / "energies", loss="energy_mse")
    for name, forces in (("with", True), ("without", False)):
        store = write_store(tmp_path / name / "store.h5", forces=forces)
        write_transfer_test([folder], store, "dft", tmp_path / f"{name}.csv", "cpu")
        frame = pd.read_csv(tmp_path / f"{name}.csv")
        assert frame["force_rmse_ev_per_angstrom"].isna().all()
        assert frame["energy_error_ev"].notna().all()


@pytest.mark.parametrize("case", ["element", "seed", "fidelity", "none", "loss"])
def test_bad_transfer_tests_are_one_line(tmp_path, case):
    store = write_store(tmp_path / "store.h5", element=6 if case == "element" else 8)
    folder = write_model(tmp_path / "run")
    if case == "seed":
        folder = folder.rename(folder.parent / "seed7")
    if case == "loss":
        (folder / "run.json").write_text(json.dumps({"config": {"seed": 0, "training": {}}}))
    messages = {
        "element": "element C is not among", "seed": "is of seed 0", "fidelity": "no energies of fidelity 'mp2'",
        "none": "no seeds to test", "loss": "'config.training.loss.name' is missing",
    }  # fmt: skip
    with pytest.raises(InputError, match=messages[case]) as caught:
        write_transfer_test(
            [] if case == "none" else [folder],
            store,
            "mp2" if case == "fidelity" else "dft",
            tmp_path / "out.csv",
            "cpu",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.csv").exists()
