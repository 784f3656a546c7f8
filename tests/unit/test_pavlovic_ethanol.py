"""Figures and tables of ethanol in the study of So3krates on SPICE, from synthetic results with known numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.studies import pavlovic_ethanol as ethanol
from mlip_studies.studies.context import StudyContext
from mlip_studies.units import EV_TO_KCAL_PER_MOL

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "pavlovic.yaml")
PRODUCTS = {
    "ethanol": (ethanol.ethanol, "html"),
    "ethanol-learning-curve": (ethanol.ethanol_learning_curve, "png"),
    "md-distances": (ethanol.md_distances, "png"),
    "md-stability": (ethanol.md_stability, "png"),
    "md-stability-table": (ethanol.md_stability_table, "html"),
    "fig2-tradeoff": (ethanol.fig2_tradeoff, "png"),
}
# Force MAE (meV/Å), MD steps per second of one molecule, share of 300 ps that replicas live; invented.
NETWORKS = {
    "so3krates": (5.0, 210.0, 1.0),
    "gemnet_q": (3.1, 24.0, 1.0),
    "gemnet_t": (3.6, 41.0, 1.0),
    "schnet": (14.0, 260.0, 0.2),
    "dimenet_plus_plus": (8.0, 60.0, 0.6),
    "se3_basic": (11.0, 18.0, 0.45),
    "egnn": (20.0, 400.0, 0.02),
}
MAIN = "ethanol-so3krates-mean-b0.99-n1000"


def run_of(network: str, size: int = 1000) -> str:
    """Name of a network's run on the trajectory's frames."""
    return f"ethanol-{network}-mean{'-b0.99' if network == 'so3krates' else ''}-n{size}"


def write_runs(study: Path, run: str, n_train: int, seeds: int, energy_ev: float, force_ev: float, **more: Any) -> None:
    """runs.csv of a run; seeds differ by 2 % steps, the correction takes away half of the energy error."""
    factor = 1 + 0.02 * np.arange(seeds)
    frame = pd.DataFrame(
        {
            "run": run, "seed": range(seeds), "data": "md17_ethanol", "model": run.split("-")[1], "shift": "mean",
            "beta": 0.99 if "-b0.99" in run else np.nan, "n_layers": np.nan, "n_train": n_train, "n_val": 100,
            "n_test": 2000, "n_parameters": 319213, "steps": 120000, "train_seconds": 1200.0,
            "configurations_per_second": 1000.0, "device": "cuda", "gpu_hours": 0.4,
            "energy_mae_ev": energy_ev * factor,
            "force_mae_ev_per_angstrom": force_ev * factor, "corrected_train_energy_mae_ev": 0.55 * energy_ev * factor,
            "corrected_test_energy_mae_ev": 0.5 * energy_ev * factor,
        }
    ).assign(**more)  # fmt: skip
    folder = study / "tables" / run
    folder.mkdir(parents=True)
    frame.to_csv(folder / "runs.csv", index=False)


def density(centres: np.ndarray, width: float) -> np.ndarray:
    """A distribution of distances with peaks like ethanol's, 1/Å, integral 1."""
    peaks = ((1.1, 6), (1.43, 1), (1.52, 1), (2.1, 9), (2.5, 7), (2.8, 5), (3.1, 4), (3.7, 3))
    heights = sum(n * np.exp(-0.5 * ((centres - r) / (width * np.sqrt(r))) ** 2) for r, n in peaks)
    return heights / (heights.sum() * (centres[1] - centres[0]))


def write_md(
    study: Path, job: str, run: str, replicas: int, length_ps: float, live: float, index: int = 0, widen: float = 1.0
) -> None:
    """Tables of a simulation in which the share `live` of the replicas reaches its end."""
    folder = study / "md" / job / run
    folder.mkdir(parents=True)
    nominal = float(job.removeprefix("nvt").removeprefix("nve"))
    rng = np.random.default_rng([index, len(job)])
    n_alive = round(live * replicas)
    alive = np.arange(replicas) < n_alive
    lived = np.where(alive, length_ps, np.linspace(0.1, 0.8, replicas) * length_ps * max(live, 0.02))
    frame = pd.DataFrame(
        {
            "job": job, "run": run, "replica": range(replicas), "start": 0, "formula": "C2H6O", "n_atoms": 9,
            "temperature_k": nominal, "alive": alive, "survived_ps": lived, "ended_ps": np.where(alive, np.nan, lived),
            "reason": np.where(alive, "", "broken_bond"), "detail": "",
            "mean_temperature_k": nominal * (1 + 0.01 * rng.normal(size=replicas) + 0.15 * (run == run_of("egnn"))),
            "temperature_error_k": 2.0, "temperature_off": False, "distance_mae": 0.05 + 0.01 * np.arange(replicas),
        }
    )  # fmt: skip
    if job.startswith("nve"):
        frame = frame.assign(drift_mev_per_atom_ps=1e-4 * np.arange(replicas), fluctuation_mev_per_atom=0.1)
    frame.to_csv(folder / "replicas.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"job": job, "run": run, "time_ps": length_ps}))
    low = np.arange(0, 5, 0.05).round(2)
    tables = []
    for source, temperature, width in (
        ("md", nominal, 0.05 * widen * np.sqrt(nominal / 500)),
        ("reference", None, 0.05),
    ):
        tables.append(
            pd.DataFrame(
                {
                    "job": job, "run": run, "formula": "C2H6O", "source": source, "temperature": temperature,
                    "r_low": low, "r_high": (low + 0.05).round(2), "density": density(low + 0.025, width),
                }
            )
        )  # fmt: skip
    pd.concat(tables).to_csv(folder / "distances.csv", index=False)


def make_study(
    root: Path, seeds: int = 3, replicas: int = 6, length_ps: float = 300.0, live: float | None = None
) -> Path:
    """All inputs of the products of ethanol; returns the study's folder."""
    study = root / "pavlovic"
    for size in (50, 100, 200, 500, 1000):
        write_runs(
            study, run_of("so3krates", size), size, seeds, 0.005 * (1000 / size) ** 0.7, 0.005 * (1000 / size) ** 0.6
        )
    for number, (data, sizes) in enumerate({"md17_01": (950,), "md17_02": (50, 200, 950), "rmd17_01": (950,)}.items()):
        for size in sizes:
            level = (1 + 0.25 * number) * (1000 / size) ** 0.7
            write_runs(study, f"{data}-so3krates-mean-b0.99-n{size}", size, seeds, 0.006 * level, 0.0055 * level)
    for number, (network, (force, _, share)) in enumerate(NETWORKS.items()):
        if network != "so3krates":
            write_runs(study, run_of(network), 1000, seeds, 1.1e-3 * force, 1e-3 * force, steps=300000)
        share = share if live is None else live
        write_md(study, "nvt500", run_of(network), replicas, length_ps, share, number, 1 + 0.3 * (1 - share))
    for job in ("nvt300", "nve300"):
        write_md(study, job, MAIN, replicas, length_ps if job == "nvt300" else length_ps / 3, 1.0)
    lines = []
    for (network, (_, speed, _)), batch in itertools.product(NETWORKS.items(), (1, 64)):
        each = speed / (1 + batch / 40)
        lines.append(
            {
                "label": run_of(network), "model": network, "batch": batch, "n_atoms": 9 * batch,
                "ms_per_step": 1000 / each, "ms_per_step_low": 960 / each, "ms_per_step_high": 1100 / each,
                "steps_per_second": each, "system_steps_per_second": each * batch, "precision": "float32",
                "device": "cpu", "hardware": "Some CPU", "threads": 1, "steps": 200, "rounds": 5,
            }
        )  # fmt: skip
    pd.DataFrame(lines).to_csv(study / "speed.csv", index=False)
    return study


def tables_of(study: Path, *patterns: str) -> RunTables:
    """All files of a study, or those that match one of the patterns."""
    return RunTables.from_paths(sorted({path for pattern in patterns or ("**/*",) for path in study.glob(pattern)}))


def context_of(scale: str = "full") -> StudyContext:
    """Context with the study's own claims."""
    return StudyContext(scale, CLAIMS, {})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def tables(study: Path) -> RunTables:
    return tables_of(study)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that are drawn, kept open until the test ends."""
    figures: list[Figure] = []

    def keep(figure: Figure, tidy: pd.DataFrame, path: Path) -> list[Path]:
        figures.append(figure)
        tidy.to_csv(Path(path).with_suffix(".csv"), index=False)
        return [Path(path)]

    monkeypatch.setattr(ethanol, "save_figure", keep)
    yield figures
    for figure in figures:
        plt.close(figure)


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", [name for name, (_, suffix) in PRODUCTS.items() if suffix == "png"])
def test_figures_have_units_scale_and_steps(
    name: str, scale: str, tables: RunTables, kept: list[Figure], tmp_path: Path
) -> None:
    PRODUCTS[name][0](tables, context_of(scale), tmp_path / "a.png")
    (figure,) = kept
    labels = [axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes]
    assert any("(" in text for text in labels)
    note = " ".join(figure._supxlabel.get_text().split())
    assert note.startswith(f"{scale} scale")
    assert "120 000 steps of the published 1 291 139 (short schedule)" in note
    assert "seed" in note
    assert not pd.read_csv(tmp_path / "a.csv").empty


def test_products_write_their_files(tables: RunTables, tmp_path: Path) -> None:
    for name, (function, suffix) in PRODUCTS.items():
        function(tables, context_of(), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"{name}.csv").is_file()
        assert (tmp_path / f"{name}.{suffix}").stat().st_size > 2000


def test_names_of_runs_are_read() -> None:
    key = ethanol.run_key("rmd17_02-se3_basic-mean-n950")
    assert key == ethanol.RunKey("rmd17_02", "rmd17", 2, "se3_basic", False)
    assert ethanol.run_key("ethanol-so3krates-mean-b0.99-l2-n100").varied
    assert ethanol.run_key("formation-so3krates-mean_padded-b1") is None
    assert ethanol.run_key("ethanol") is None
    unknown = [ethanol.look_of(name, ["one", "two"]) for name in ("one", "two")]
    assert unknown[0] != unknown[1]
    assert ethanol.look_of("gemnet_t").title == "GemNet-T"


def test_published_schedule_and_forecast() -> None:
    last = 1e-3 * 0.7 ** (ethanol.PUBLISHED_STEPS / 100_000)
    assert last == pytest.approx(1e-5, rel=1e-5)
    runs = pd.DataFrame(
        {"configurations_per_second": [1000.0, 500.0], "train_seconds": [1200.0, 100.0], "steps": [120_000, 50_000]}
    )
    np.testing.assert_allclose(ethanol.batch_size(runs), [10, 1])
    # 10 molecules per step at 1000/s: 100 steps/s.
    np.testing.assert_allclose(
        ethanol.forecast_hours(runs), np.array([1.0, 0.2]) * ethanol.PUBLISHED_STEPS / 100 / 3600
    )


def test_ethanol_table_numbers(tables: RunTables, tmp_path: Path) -> None:
    ethanol.ethanol(tables, context_of(), tmp_path / "t.html")
    frame = pd.read_csv(tmp_path / "t.csv")
    thesis, paper = frame.iloc[0], frame.iloc[1]
    assert (thesis["energy_before_kcal"], thesis["energy_after_test_kcal"], thesis["force_kcal"]) == (0.11, 0.052, 0.12)
    assert (paper["energy_before_kcal"], paper["force_kcal"], paper["n_train"]) == (0.052, 0.096, 1000)
    assert thesis["force_mev"] == pytest.approx(120 / EV_TO_KCAL_PER_MOL)
    row = frame[frame["run"] == MAIN].iloc[0]
    energy = 0.005 * np.array([1.0, 1.02, 1.04])
    assert row["energy_before_kcal"] == pytest.approx(energy.mean() * EV_TO_KCAL_PER_MOL)
    assert row["energy_before_mev"] == pytest.approx(5.1)
    assert row["energy_after_train_mev"] == pytest.approx(0.55 * 5.1)
    assert row["energy_after_test_mev"] == pytest.approx(0.5 * 5.1)
    expected = stats.t.ppf(0.975, 2) * energy.std(ddof=1) / np.sqrt(3)
    assert row["energy_before_kcal_pm"] == pytest.approx(expected * EV_TO_KCAL_PER_MOL)
    assert row["force_mev"] == pytest.approx(5.1)
    assert (row["steps"], row["molecules_per_step"], row["seeds"]) == (120000, 10, 3)
    assert row["schedule_percent"] == pytest.approx(100 * 120000 / ethanol.PUBLISHED_STEPS)
    assert row["forecast_hours"] == pytest.approx(ethanol.PUBLISHED_STEPS / 100 / 3600)
    # The schedule is So3krates' own.
    assert frame.loc[frame["network"] != "So3krates", "forecast_hours"].isna().all()
    assert len(frame) == 2 + 5 + 5 + 6
    page = (tmp_path / "t.html").read_text()
    assert "one constant" in page
    assert "does not claim" not in page
    ethanol.ethanol(tables, context_of("mini"), tmp_path / "m.html")
    assert "does not claim to reproduce" in (tmp_path / "m.html").read_text()


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    study = make_study(tmp_path, seeds=1, replicas=2)
    tables = tables_of(study)
    for name, (function, suffix) in PRODUCTS.items():
        function(tables, context_of("mini"), tmp_path / f"{name}.{suffix}")
    frame = pd.read_csv(tmp_path / "ethanol.csv")
    assert frame["energy_before_kcal_pm"].isna().all()
    assert pd.read_csv(tmp_path / "ethanol-learning-curve.csv")["half_width_95"].isna().all()
    assert pd.read_csv(tmp_path / "md-stability-table.csv")["survived_ps_pm"].isna().all()


def test_learning_curve_keeps_splits_and_layers_apart(study: Path, tables: RunTables, tmp_path: Path) -> None:
    ethanol.ethanol_learning_curve(tables, context_of(), tmp_path / "a.png")
    tidy = pd.read_csv(tmp_path / "a.csv", dtype={"seed": str})
    means = tidy[(tidy["seed"] == "mean") & (tidy["quantity"] == "force")]
    assert len(means) == 5 + 5
    assert (means["n"] == 3).all()
    own = means[(means["family"] == "ethanol") & (means["n_train"] == 100)].iloc[0]
    assert own["value"] == pytest.approx(0.005 * 10**0.6 * 1.02)
    published = tidy[tidy["seed"] == "published"].set_index(["run", "quantity"])["value"] * EV_TO_KCAL_PER_MOL
    assert published["thesis", "energy"] == pytest.approx(0.11)
    assert published["thesis", "energy_corrected"] == pytest.approx(0.052)
    assert published["So3krates paper", "force"] == pytest.approx(0.096)
    extra = tmp_path / "pavlovic"
    write_runs(extra, "ethanol-so3krates-mean-b0.99-l1-n1000", 1000, 3, 0.5, 0.5)
    write_runs(extra, MAIN, 1000, 3, 0.005, 0.005)
    ethanol.ethanol_learning_curve(tables_of(extra), context_of(), tmp_path / "b.png")
    assert set(pd.read_csv(tmp_path / "b.csv")["run"]) == {MAIN, "thesis", "So3krates paper"}


def test_survival_is_that_of_kaplan_and_meier() -> None:
    time, share = ethanol.survival([10.0, 10.0, 10.0], [False, False, False])
    assert (time.tolist(), share.tolist()) == ([0, 10], [1, 1])
    time, share = ethanol.survival([2.0, 5.0, 10.0, 10.0], [True, True, False, False])
    assert share[np.searchsorted(time, 1.0, side="right") - 1] == 1
    assert share[np.searchsorted(time, 3.0, side="right") - 1] == pytest.approx(0.75)
    assert share[-1] == pytest.approx(0.5)
    # A replica that ended alive at 3 no longer counts at 5: 2/3 * 1/2.
    time, share = ethanol.survival([2.0, 3.0, 5.0], [True, False, True])
    assert share[np.searchsorted(time, 2.5, side="right") - 1] == pytest.approx(2 / 3)
    assert share[-1] == pytest.approx(0.0)


def test_stability_rows(tables: RunTables, tmp_path: Path) -> None:
    frame = ethanol.stability_rows(tables).set_index(["job", "network"])
    row = frame.loc["nvt500", "So3krates"]
    assert (row["alive_percent"], row["survived_ps"], row["reasons"]) == (100, 300, "")
    assert row["distance_error"] == pytest.approx(0.075)
    half = frame.loc["nvt500", "DimeNet++"]
    assert half["alive_percent"] == pytest.approx(100 * 4 / 6)
    assert half["reasons"] == "a bond breaks (2)"
    egnn = frame.loc["nvt500", "EGNN"]
    assert (egnn["alive_percent"], egnn["time_ps"], egnn["flagged"]) == (0, 300, "yes")
    assert row["flagged"] == "no"
    closed = frame.loc["nve300", "So3krates"]
    assert closed["drift_mev_per_atom_per_ps"] == pytest.approx(2.5e-4)
    assert np.isnan(row["drift_mev_per_atom_per_ps"])
    ethanol.md_stability_table(tables, context_of(), tmp_path / "s.html")
    assert "broken" not in (tmp_path / "s.html").read_text()


def test_distances_are_compared_bin_by_bin(study: Path, tables: RunTables, tmp_path: Path) -> None:
    tidy = ethanol.distance_data(tables)
    same = tidy[(tidy["run"] == MAIN) & (tidy["job"] == "nvt500")]
    assert ethanol.distance_error(same) == pytest.approx(0.0, abs=1e-12)
    colder = tidy[(tidy["run"] == MAIN) & (tidy["job"] == "nvt300")]
    centres = (colder["r_low"] + 0.025).to_numpy()
    expected = np.abs(density(centres, 0.05 * np.sqrt(0.6)) - density(centres, 0.05)).sum() * 0.05
    assert ethanol.distance_error(colder) == pytest.approx(expected)
    path = tmp_path / "md" / "nvt500" / MAIN / "distances.csv"
    path.parent.mkdir(parents=True)
    frame = pd.read_csv(study / "md" / "nvt500" / MAIN / "distances.csv")
    frame.loc[frame["source"] == "reference", "r_high"] += 0.01
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match="bins of the reference differ"):
        ethanol.distance_data(RunTables.from_paths([path]))


def test_each_family_has_its_own_reference(kept: list[Figure], tmp_path: Path) -> None:
    study = tmp_path / "pavlovic"
    other = "md17_01-so3krates-mean-b0.99-n950"
    for run in (MAIN, other):
        write_md(study, "nvt500", run, 3, 1.0, 1.0)
    ethanol.md_distances(tables_of(study), context_of("mini"), tmp_path / "a.png")
    names = [text.get_text() for text in kept[0].legends[0].get_texts()]
    assert names[:2] == ["reference: this project's frames, 500 K", "reference: frames of MD17, 500 K"]
    assert names[2:] == ["So3krates, mean-b0.99-n1000 (ethanol)", "So3krates, mean-b0.99-n950 (md17_01)"]
    assert set(pd.read_csv(tmp_path / "a.csv")["run"]) == {MAIN, other}


def test_tradeoff_numbers(tables: RunTables, study: Path, tmp_path: Path) -> None:
    frame = ethanol.tradeoff_data(tables).set_index(["network", "batch"])
    assert len(frame) == 2 * len(NETWORKS)
    row = frame.loc["egnn", 1]
    assert row["steps_per_second"] == pytest.approx(400 / (1 + 1 / 40))
    assert row["steps_per_second_low"] == pytest.approx(row["steps_per_second"] / 1.1)
    assert row["force_mae_ev_per_angstrom"] == pytest.approx(0.0204)
    assert row["survived_ps"] == pytest.approx(300 * 0.02 * np.linspace(0.1, 0.8, 6).mean())
    assert (row["temperature_k"], row["time_ps"], row["n_replicas"], row["alive_percent"]) == (500, 300, 6, 0)
    # Without dynamics the errors are still shown.
    part = tables_of(study, "tables/**/*.csv", "speed.csv")
    assert ethanol.tradeoff_data(part)["survived_ps"].isna().all()
    ethanol.fig2_tradeoff(part, context_of(), tmp_path / "a.png")


@pytest.mark.parametrize("live", [1.0, 0.0])
def test_tradeoff_shows_all_networks(live: float, kept: list[Figure], tmp_path: Path) -> None:
    tables = tables_of(make_study(tmp_path, live=live))
    ethanol.fig2_tradeoff(tables, context_of(), tmp_path / "a.png")
    (figure,) = kept
    figure.canvas.draw()
    names = {text.get_text(): text.get_fontweight() for text in figure.legends[0].get_texts()}
    assert {look.title for look in ethanol.NETWORKS.values()} <= set(names)
    assert [name for name, weight in names.items() if weight == "bold"] == ["So3krates"]
    left, right = figure.axes
    for axis in (left, right):
        marks = {line.get_marker() for line in axis.lines}
        assert {look.marker for look in ethanol.NETWORKS.values()} <= marks
    # Arrows of lower bounds where replicas reach the end, none where all break; all inside the panel.
    arrows = left.texts
    assert len(arrows) == (len(NETWORKS) if live else 0)
    inside = left.get_window_extent()
    for arrow in arrows:
        assert arrow.arrow_patch.get_window_extent().y1 <= inside.y1 + 1
    lines = [line.get_ydata()[0] for line in right.lines if line.get_linestyle() in ("--", ":")]
    np.testing.assert_allclose(sorted(lines), np.array([96, 120]) / EV_TO_KCAL_PER_MOL)


def test_missing_inputs_are_named(study: Path, tmp_path: Path) -> None:
    empty = RunTables.from_paths([])
    for name, message in (
        ("ethanol", "table of ethanol: none of the study's runs"),
        ("ethanol-learning-curve", "learning curve of ethanol: none"),
        ("md-distances", r"figure of distances: no simulation of ethanol .*distances\.csv"),
        ("md-stability", r"figure of stability: no simulation"),
    ):
        function, suffix = PRODUCTS[name]
        with pytest.raises(InputError, match=message):
            function(empty, context_of(), tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match="no measured speed of a trained network"):
        ethanol.tradeoff_data(tables_of(study, "speed.csv"))
    other = tables_of(study, "tables/ethanol-schnet*/runs.csv")
    with pytest.raises(InputError, match="no So3krates run on ethanol"):
        ethanol.ethanol_learning_curve(other, context_of(), tmp_path / "a.png")
    path = tmp_path / "md" / "nvt500" / MAIN / "replicas.csv"
    path.parent.mkdir(parents=True)
    frame = pd.read_csv(study / "md" / "nvt500" / MAIN / "replicas.csv")
    frame.drop(columns="alive").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"replicas\.csv of nvt500 .*: column 'alive' is missing"):
        ethanol.stability_rows(RunTables.from_paths([path]))
    assert not list(tmp_path.glob("a.*"))
