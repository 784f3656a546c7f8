"""Figures and tables of the multi-fidelity study, from synthetic results with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from scipy.ndimage import gaussian_filter1d

from mlip_studies.claims.inputs import COLUMNS, MissingDataError, Tables
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.studies import krcelic
from mlip_studies.studies.collect import collect_runs, error_metrics

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "krcelic.yaml")
# Rows of the mini scale: train low, train high, validation low, validation high.
MIXES = {
    "ANI-1x": (1600, 0, 200, 0),
    "ANI-1ccx": (0, 200, 0, 200),
    "20k-20k": (200, 200, 100, 200),
    "80k-20k": (800, 200, 100, 200),
    "160k-20k": (1600, 200, 200, 200),
    "20k-60k": (200, 600, 100, 200),
    "80k-60k": (800, 600, 100, 200),
    "160k-60k": (1600, 600, 200, 200),
}
# Test RMSE in eV by mix; 20k-20k is worse than ANI-1ccx, everything later is better, as the thesis says.
LEVEL = dict(zip(MIXES, (0.45, 0.30, 0.36, 0.27, 0.22, 0.19, 0.16, 0.13), strict=True))
ETHANOL = {"high-only": (0, 100, 0, 100), "500-100": (500, 100, 100, 100), "1000-100": (1000, 100, 100, 100)}
FACTOR = {"coded": 1.0, "coded_ones": 1.6, "described": 0.9, "transfer": 0.7, "delta": 0.4}
SEEDS = 3
N_TEST = 40


def write_run(folder: Path, experiment: str, variant: str, mix: str, seed: int, level: float, sizes: tuple) -> None:
    """One run's files; residuals have exactly the RMSE `level` (1 + 0.02 seed)."""
    index = (list(MIXES) + list(ETHANOL)).index(mix)
    rng = np.random.default_rng([seed, index, len(variant)])
    folder.mkdir(parents=True)
    epochs = 60 if sizes[0] + sizes[1] > 1000 else 90
    epoch = np.arange(1, epochs + 1)
    target = level * (1 + 0.02 * seed)
    curve = (target + 2.5 * np.exp(-epoch / 8)) * np.exp(rng.normal(0, 0.06, epochs))
    seconds = 0.02 + 0.0004 * (sizes[0] + sizes[1]) * (1 + 0.01 * seed)
    pd.DataFrame(
        {
            "epoch": epoch,
            "step": epoch * 4,
            "seconds": epoch * seconds,
            "learning_rate": 1e-4,
            "train_rmse_ev": 0.6 * curve,
            "val_rmse_ev": curve * np.exp(rng.normal(0, 0.1, epochs)),
        }
    ).to_csv(folder / "history.csv", index=False)
    atoms = rng.integers(3, 9, N_TEST)
    energy = -3.0 * atoms + rng.normal(0, 1.5, N_TEST)
    error = rng.normal(0, 1, N_TEST)
    error *= target / np.sqrt(np.mean(error**2))
    pd.DataFrame(
        {
            "row": np.arange(N_TEST),
            "n_atoms": atoms,
            "group": [f"g{i % 7}" for i in range(N_TEST)],
            "target_ev": energy,
            "predicted_ev": energy + error,
        }
    ).to_csv(folder / "predictions.csv", index=False)
    keys = dict(zip(("n_train_low", "n_train_high", "n_val_low", "n_val_high"), sizes, strict=True))
    content = {
        "experiment": experiment, "variant": variant, "mix": mix, "seed": seed, **keys, "n_test": N_TEST,
        "epochs": epochs, "steps": epochs * 4, "seconds_per_epoch": seconds, "train_seconds": epochs * seconds,
        "best_val_rmse_ev": target, "final_train_rmse_ev": 0.6 * target, "n_parameters": 341505, "device": "cpu",
        "stopped_by": "step budget", "anything_else": {"nested": 1},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))


def write_self_energies(path: Path, low: str, high: str, elements: list[int], rank: int) -> None:
    """A regression report in the pipeline's layout."""
    rng = np.random.default_rng(5)
    fidelities = {}
    for fidelity, shift in ((low, 0.0), (high, 2.0)):
        stages = {}
        for stage, values in (
            ("before", rng.choice([-1100, -2080, -3120, -4100], 500) + shift + rng.normal(0, 30, 500)),
            ("after", rng.normal(0, 0.8, 500)),
        ):
            counts, edges = np.histogram(values, 30)
            stages[stage] = (
                {"mean_ev": values.mean(), "std_ev": values.std()},
                {"edges": edges.tolist(), "counts": counts.tolist()},
            )
        fidelities[fidelity] = {
            "elements": elements, "coefficients_ev": [-13.6 - shift] * len(elements),
            "standard_error_ev": [0.01] * len(elements), "rank": rank, "condition_number": 12.5, "n_rows": 500,
            "before": stages["before"][0],
            "after": {**stages["after"][0], "std_per_atom_ev": 0.1, "mae_per_atom_ev": 0.08},
            "histogram": {"before": stages["before"][1], "after": stages["after"][1]},
        }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": "x", "rows": path.stem.split("_")[-1], "fidelities": fidelities}))


def make_results(root: Path, variants: dict[str, float] = FACTOR, seeds: int = SEEDS) -> Path:
    """All tidy files of the study below `root`, in the pipeline's layout; returns the study's folder."""
    study = root / "krcelic"
    for experiment, mixes in (("ani", MIXES), ("ethanol", ETHANOL)):
        for variant, factor in variants.items() if experiment == "ani" else [("coded", 1.0)]:
            folders = []
            for mix, sizes in mixes.items():
                level = LEVEL.get(mix, 0.02 + 0.01 * (sizes[0] == 0)) * factor
                for seed in range(seeds):
                    folder = study / "runs" / experiment / variant / mix / f"seed{seed}"
                    write_run(folder, experiment, variant, mix, seed, level, sizes)
                    folders.append(folder)
            out = study / "tables" / experiment / variant
            collect_runs(folders, out / "runs.csv", out / "histories.csv", out / "predictions.csv")
    for rows in ("train", "all"):
        write_self_energies(study / "ani" / f"self_energies_{rows}.json", "wb97x_dz", "ccsd(t)_cbs", [1, 6, 7, 8], 4)
        write_self_energies(study / "ethanol" / f"self_energies_{rows}.json", "pbe_ts", "ccsd(t)", [1, 6, 8], 1)
    (study / "ani" / "split.json").write_text(
        json.dumps({"sizes": {"test": 40}, "seed": 1, "leakage": {"groups": [], "clean": True}, "notes": [{"a": 1}]})
    )
    return study


def make_context(scale: str = "mini") -> krcelic.Context:
    """Context with the rows asked for."""

    def asked(mixes: dict[str, tuple]) -> dict[str, dict[str, int]]:
        return {mix: dict(zip(krcelic.SIZE_COLUMNS, (*sizes, N_TEST), strict=True)) for mix, sizes in mixes.items()}

    return krcelic.Context(scale, CLAIMS, {"ani": asked(MIXES), "ethanol": asked(ETHANOL)})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def tables(study: Path) -> Tables:
    return Tables.from_paths(path for path in study.rglob("*") if path.is_file() and "runs" not in path.parts)


@pytest.fixture
def context() -> krcelic.Context:
    return make_context()


def axis_labels(figure: Figure) -> list[str]:
    return [axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes if axis.axison]


@pytest.mark.parametrize("name", list(krcelic.FIGURES))
def test_every_figure_has_units_and_numbers(name: str, tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.FIGURES[name].function(tables, context)
    try:
        assert len(tidy) > 0
        assert any("(" in text for text in axis_labels(figure))
        note = figure._supxlabel.get_text()
        assert note.startswith("mini scale")
        assert "seed" in note or "n = " in note
    finally:
        plt.close(figure)


def test_loss_curves_are_smoothed_as_scipy_does(tables: Tables, context: krcelic.Context) -> None:
    for which, column, sigma in (("train", "train_rmse_ev", 2), ("validation", "val_rmse_ev", 4)):
        figure, tidy = krcelic.loss_curves(tables, context, experiment="ani", which=which)
        plt.close(figure)
        history = tables.histories("ani", "coded")
        one = history[(history["mix"] == "80k-20k") & (history["seed"] == 1)]
        got = tidy[(tidy["mix"] == "80k-20k") & (tidy["seed"] == "1")]
        raw = 1000 * one[column].to_numpy()
        np.testing.assert_allclose(got["rmse_mev"], raw, rtol=1e-12)
        np.testing.assert_allclose(got["smoothed_rmse_mev"], gaussian_filter1d(raw, sigma), rtol=1e-12)
        mean = tidy[(tidy["mix"] == "80k-20k") & (tidy["seed"] == "mean")]["smoothed_rmse_mev"].to_numpy()
        each = [
            gaussian_filter1d(1000 * run[column].to_numpy(), sigma)
            for _, run in history[history["mix"] == "80k-20k"].groupby("seed")
        ]
        np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-12)


def test_a_mean_curve_ends_with_the_shortest_seed(tables: Tables, context: krcelic.Context, tmp_path: Path) -> None:
    history = tables.histories("ani", "coded")
    short = history[(history["mix"] != "20k-20k") | (history["seed"] != 0) | (history["epoch"] <= 30)]
    path = tmp_path / "tables" / "ani" / "coded" / "histories.csv"
    path.parent.mkdir(parents=True)
    short.to_csv(path, index=False)
    figure, tidy = krcelic.loss_curves(Tables.from_paths([path]), context, experiment="ani", which="train")
    plt.close(figure)
    of_mix = tidy[tidy["mix"] == "20k-20k"]
    assert of_mix[of_mix["seed"] == "mean"]["epoch"].max() == 30
    assert of_mix[of_mix["seed"] == "1"]["epoch"].max() == 90


def test_epochs_and_smoothing_of_sparse_curves() -> None:
    history = pd.DataFrame({"epoch": [3, 6, 9, 9], "step": [21, 42, 63, 66]})
    epoch = krcelic.fractional_epochs(history)
    np.testing.assert_allclose(epoch, [3, 6, 9, 66 / 7])
    assert krcelic.smoothing_width(np.arange(1.0, 401.0), 4) == 4
    assert krcelic.smoothing_width(np.arange(3.0, 303.0, 3.0), 4) == pytest.approx(4 / 3)
    assert krcelic.smoothing_width(np.arange(1.0, 10.0), 4) == pytest.approx(0.9)


def test_test_loss_numbers(tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.loss_per_mix(tables, context, experiment="ani")
    texts = [text.get_text() for axis in figure.axes for text in (axis.get_legend().texts if axis.get_legend() else [])]
    plt.close(figure)
    row = tidy[(tidy["mix"] == "80k-20k") & (tidy["seed"] == "mean") & (tidy["quantity"] == "test_rmse_ev")].iloc[0]
    values = 0.27 * np.array([1.0, 1.02, 1.04])
    assert row["value"] == pytest.approx(values.mean(), rel=1e-9)
    assert row["half_width_95"] == pytest.approx(stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3), rel=1e-9)
    assert row["n"] == 3
    assert any("full scale" in text for text in texts)


def test_single_seed_has_no_interval(tmp_path: Path, context: krcelic.Context) -> None:
    study = make_results(tmp_path, {"coded": 1.0}, seeds=1)
    tables = Tables.from_paths((study / "tables").rglob("*.csv"))
    for name in ("fig3.3-test-loss", "epoch-time", "fig3.1-train-loss", "fig3.3-encoding", "baselines", "parity"):
        figure, tidy = krcelic.FIGURES[name].function(tables, context)
        plt.close(figure)
        if "half_width_95" in tidy:
            assert tidy["half_width_95"].isna().all(), name
    frame = krcelic.TABLES["outcome"].function(tables, context)
    assert frame["test_rmse_mev_pm"].isna().all()
    assert (frame["seeds"] == 1).all()


def test_encoding_differences_are_paired(tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.encoding(tables, context)
    plt.close(figure)
    scale = np.array([1.0, 1.02, 1.04])
    row = tidy[(tidy["quantity"] == "difference_to_coded_ev") & (tidy["mix"] == "20k-20k")].iloc[0]
    assert row["value"] == pytest.approx(0.36 * 0.6 * scale.mean(), rel=1e-9)
    against = tidy[tidy["quantity"] == "difference_to_ANI-1ccx_ev"].set_index(["variant", "mix"])["value"]
    assert against["coded", "20k-20k"] == pytest.approx(0.06 * scale.mean(), rel=1e-9)
    assert against["coded_ones", "80k-20k"] == pytest.approx(-0.03 * 1.6 * scale.mean(), rel=1e-9)


def test_epoch_time_fit_and_ratios(tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.epoch_time(tables, context)
    plt.close(figure)
    value = tidy.set_index("quantity")["value"]
    assert value["fit_slope_s_per_row"] == pytest.approx(0.0004 * 1.01, rel=1e-6)
    assert value["fit_intercept_s"] == pytest.approx(0.02, rel=1e-6)
    assert value["fit_r_squared"] == pytest.approx(1.0)
    ratios = tidy[tidy["quantity"] == "time_ratio"].set_index("mix")
    assert ratios.loc["160k-20k", "thesis_ratio"] == 4.5
    assert ratios.loc["160k-60k", "thesis_ratio"] == 2.75
    assert ratios.loc["160k-20k", "row_ratio"] == 4.5
    expected = np.mean([(0.02 + 0.72 * s) / (0.02 + 0.16 * s) for s in (1.0, 1.01, 1.02)])
    assert ratios.loc["160k-20k", "value"] == pytest.approx(expected, rel=1e-9)


def test_parity_shows_best_and_worst(tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.parity(tables, context)
    plt.close(figure)
    assert dict(zip(tidy["role"], tidy["mix"], strict=True)) == {
        "high fidelity only": "ANI-1ccx", "best": "160k-60k", "worst": "ANI-1x",
    }  # fmt: skip
    np.testing.assert_allclose(tidy["error_ev"], tidy["predicted_ev"] - tidy["target_ev"])


def test_self_energy_figure_and_table(tables: Tables, context: krcelic.Context) -> None:
    figure, tidy = krcelic.self_energies(tables, context, experiment="ethanol")
    note = figure._supxlabel.get_text()
    plt.close(figure)
    assert "rank-deficient" in note
    assert tidy.groupby(["fidelity", "stage"])["count"].sum().eq(500).all()
    frame = krcelic.TABLES["self-energies"].function(tables, context)
    assert set(frame["element"]) == {"H", "C", "N", "O"}
    assert set(frame["rank"]) == {"4 of 4", "1 of 3"}


def test_table_3_1_sets_thesis_beside_ours(tables: Tables, context: krcelic.Context) -> None:
    frame = krcelic.TABLES["table3.1-data-distribution"].function(tables, context).set_index("mix")
    row = frame.loc["160k/60k"]
    assert (row["n_train_low_thesis"], row["n_train_low_asked"], row["n_train_low_achieved"]) == (160000, 1600, 1600)
    assert row["n_test_thesis"] == 20000
    assert set(frame["as_asked"]) == {"yes"}
    other = make_context()
    other.asked["ani"]["20k-20k"]["n_val_low"] = 999
    changed = krcelic.TABLES["table3.1-data-distribution"].function(tables, other).set_index("mix")
    assert changed.loc["20k/20k", "as_asked"] == "no"


def test_outcome_table_units(tables: Tables, context: krcelic.Context) -> None:
    frame = krcelic.TABLES["outcome"].function(tables, context)
    assert len(frame) == 5 * len(MIXES) + len(ETHANOL)
    row = frame[(frame["variant"] == "delta") & (frame["mix"] == "20k/60k")].iloc[0]
    assert row["test_rmse_mev"] == pytest.approx(1000 * 0.19 * 0.4 * 1.02, rel=1e-9)
    assert row["test_mse_ev2"] == pytest.approx(np.mean((0.19 * 0.4 * np.array([1, 1.02, 1.04])) ** 2), rel=1e-9)


def test_split_table_is_flat(tables: Tables, context: krcelic.Context) -> None:
    frame = krcelic.TABLES["split"].function(tables, context).set_index("item")["value"]
    assert dict(frame) == {
        "sizes.test": "40", "seed": "1", "leakage.groups": "", "leakage.clean": "yes", "notes[0].a": "1",
    }  # fmt: skip


def test_colors_of_a_mix_are_the_same_everywhere() -> None:
    alone = krcelic.mix_styles(["20k-60k"])
    together = krcelic.mix_styles(krcelic.MIX_ORDER)
    assert alone["20k-60k"] == together["20k-60k"]
    assert len({color for color, _ in together.values()}) == len(krcelic.MIX_ORDER)
    assert krcelic.label("20k-60k") == "20k/60k"
    assert krcelic.label("cc-100") == "cc-100"


def test_inputs_of_specs() -> None:
    spec = krcelic.FIGURES["baselines"]
    assert spec.inputs("r", [("ani", "coded"), ("ani", "delta")]) == [
        "r/tables/ani/coded/runs.csv", "r/tables/ani/delta/runs.csv",
    ]  # fmt: skip
    assert krcelic.TABLES["split"].inputs("r", [("ani", "coded")]) == ["r/ani/split.json"]
    assert krcelic.FIGURES["self-energies"].inputs("r") == ["r/ani/self_energies_train.json"]


def test_unknown_products_and_missing_inputs_are_named(context: krcelic.Context, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"figure 'fig9' .* known: fig3\.1"):
        krcelic.make_figure("fig9", Tables({}), context, tmp_path / "a.png")
    with pytest.raises(InputError, match="table 'x'"):
        krcelic.make_table("x", Tables({}), context, tmp_path / "a.html")
    with pytest.raises(InputError, match="runs of ani/coded"):
        krcelic.make_figure("fig3.3-test-loss", Tables({}), context, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_make_table_writes_page_and_csv(tables: Tables, context: krcelic.Context, tmp_path: Path) -> None:
    krcelic.make_table("table3.1-data-distribution", tables, context, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert "train low: thesis" in page
    assert "does not claim to reproduce" in page
    assert pd.read_csv(tmp_path / "t.csv")["n_train_low_achieved"].iloc[0] == 1600


def test_error_metrics_by_hand() -> None:
    frame = pd.DataFrame({"target_ev": [0.0, 1.0], "predicted_ev": [0.3, 0.6], "n_atoms": [3, 4]})
    got = error_metrics(frame)
    assert got["test_mse_ev2"] == pytest.approx((0.09 + 0.16) / 2)
    assert got["test_mae_ev"] == pytest.approx(0.35)
    assert got["test_rmse_per_atom_ev"] == pytest.approx(0.1)
    assert got["test_mae_per_atom_ev"] == pytest.approx(0.1)


def test_collect_runs_joins_and_checks(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_run(folder, "ani", "coded", "80k-20k", 0, 0.2, MIXES["80k-20k"])
    out = [tmp_path / f"{name}.csv" for name in ("runs", "histories", "predictions")]
    collect_runs([folder], *out)
    for path in out:
        assert list(pd.read_csv(path).columns) == list(COLUMNS[path.stem])
    assert pd.read_csv(out[0])["test_rmse_ev"].item() == pytest.approx(0.2)
    with pytest.raises(InputError, match="is the same run as"):
        collect_runs([folder, folder], *out)
    with pytest.raises(InputError, match="no runs"):
        collect_runs([], *out)
    predictions = pd.read_csv(folder / "predictions.csv")
    predictions.loc[3, "predicted_ev"] = np.inf
    predictions.to_csv(folder / "predictions.csv", index=False)
    with pytest.raises(InputError, match=r"1 of 40 energies are not finite"):
        collect_runs([folder], *out)
    content = json.loads((folder / "run.json").read_text())
    del content["steps"]
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="key 'steps' is missing"):
        collect_runs([folder], *out)


def test_tables_read_lazily_and_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "ani" / "coded" / "runs.csv"
    tables = Tables.from_paths([path, tmp_path / "other.txt"])
    assert tables.pairs() == [("ani", "coded")]
    with pytest.raises(InputError, match="no such file"):
        tables.runs("ani", "coded")
    path.parent.mkdir(parents=True)
    path.write_text("experiment,variant\nani,coded\n")
    with pytest.raises(InputError, match="column 'mix' is missing"):
        Tables.from_paths([path]).runs("ani", "coded")
    path.write_text("")
    with pytest.raises(InputError, match="not a CSV table"):
        Tables.from_paths([path]).runs("ani", "coded")
    with pytest.raises(MissingDataError):
        tables.runs("ani", "described")
