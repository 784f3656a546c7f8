"""Figures 1 and 2 of the study of robustness, from synthetic results in which what breaks is known."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.studies import stocker
from mlip_studies.studies.context import RunInfo, StudyContext

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "stocker.yaml")
FULL_SIZES = (3200, 32000, 320000, 3200000)
MINI_SIZES = (12, 36, 108, 324)
NETWORKS = {"gemnet_q": 1.0, "gemnet_t": 1.05, "schnet": 2.6, "dimenet_plus_plus": 1.7}
MOLECULES = (
    "methane", "methanol", "ethanol", "propane", "acetone", "pyrrole", "furan", "thiophene", "aniline", "phenol",
    "toluene", "acetamide", "dimethyl sulfone", "chloroethene", "butadiene", "cyclohexane", "urea", "glycine",
    "acrylonitrile", "imidazole",
)  # fmt: skip
KELVIN = (300.0, 600.0, 1200.0)
FIGURES = {
    "learning-curves": stocker.learning_curves, "learning-curves-molecules": stocker.learning_curves_molecules,
    "high-energy": stocker.high_energy, "md-errors": stocker.md_errors, "dft-convergence": stocker.dft_convergence,
    "breaking-trajectory": stocker.breaking_trajectory, "cross-evaluation": stocker.cross_evaluation,
}  # fmt: skip


def run_of(data: str, network: str, size: int, full: bool = True) -> str:
    return f"{data}-{network}-{'isolated_atoms' if full else 'per_element'}-n{size}"


def write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def write_run(root: Path, run: str, size: int, factor: float = 1.0, seeds: int = 3, groups: int = 900) -> None:
    """Errors that fall with the power 0.4 of the training rows and level off."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, size, len(run)])
        force = factor * (0.9 * size**-0.4 + 0.0022) * np.exp(0.04 * rng.normal())
        energy = factor * (0.6 * size**-0.31 + 0.004) * np.exp(0.08 * rng.normal())
        rows.append(
            {"run": run, "seed": seed, "data": "qm7x", "model": run.split("-")[1], "shift": run.split("-")[2],
             "beta": np.nan, "n_train": size, "n_val": size // 4, "n_test": 10100, "n_groups": groups,
             "energy_mae_ev": energy, "force_mae_ev_per_angstrom": force}
        )  # fmt: skip
    write(pd.DataFrame(rows), root / "tables" / run / "runs.csv")


def write_dynamics(
    root: Path, run: str, hole: float, force_error: float, *, molecules: int = 20, samples: int = 24,
    length_ps: float = 1000.0, job: str = "thermal", kelvin: tuple[float, ...] = KELVIN, missing: int = 0,
    converge: float = 0.75, seed: int = 0,
) -> None:  # fmt: skip
    """Dynamics with their checks: `hole` is the share of trajectories that break at 1200 K.

    The last `missing` frames of every trajectory that breaks do not exist.
    """
    rng = np.random.default_rng([seed, len(run), int(1e6 * hole), int(1e6 * force_error)])
    robustness, topology, path, judged, labels, frame = [], [], [], [], [], 0
    for index in range(molecules * len(kelvin)):
        start, temperature = index // len(kelvin), kelvin[index % len(kelvin)]
        name, n_atoms = MOLECULES[start], 5 + start % 15
        chance = hole * (temperature / 1200.0) ** 0.8
        failed = bool((start + 0.5) / molecules < chance)
        failure = length_ps * rng.uniform(0.05, 0.9) if failed else np.nan
        common = {"job": job, "run": run, "trajectory": index, "start": start, "name": name, "formula": f"C{start}H4"}
        robustness.append(
            {**common, "n_atoms": n_atoms, "temperature_k": temperature, "replica": 0, "n_samples": 400,
             "n_missing": missing if failed else 0, "observed_ps": length_ps, "failed": failed, "failure_ps": failure,
             "failure_kind": "topology" if failed else "", "detail": "C-H broken" if failed else "",
             "n_events": int(failed)}
        )  # fmt: skip
        times = np.linspace(0, length_ps, 120)
        broken = times >= failure if failed else np.zeros(120, bool)
        # Of the network: a hole of 25 eV. Total energies differ from AE by the free atoms.
        energy = -40.0 - 2.0 * start + 8.6e-5 * temperature * n_atoms * (1 + 0.2 * rng.normal(size=120)) - 25.0 * broken
        path.append(
            pd.DataFrame({"job": job, "run": run, "replica": index, "start": start, "temperature_k": temperature,
                          "time_ps": times, "potential_ev": energy - 1000.0, "kinetic_ev": 0.4, "alive": ~broken})
        )  # fmt: skip
        topology.append(
            pd.DataFrame({"trajectory": index, "time_ps": times, "n_fragments": 1 + broken, "n_broken": broken * 1,
                          "n_formed": 0, "largest_bond_change_angstrom": 0.1 + 0.02 * rng.random(120)
                          + 40.0 * broken * (times - (failure if failed else 0)) / length_ps})
        )  # fmt: skip
        kept = samples - (missing if failed else 0)
        for time in np.linspace(length_ps / samples, length_ps, samples)[:kept]:
            after = failed and time >= failure
            status = "converged"
            if after and rng.random() > converge:
                status = ("converged_fallback", "unconverged", "timeout")[rng.choice(3, p=(0.4, 0.5, 0.1))]
            there = status.startswith("converged")
            size = 6 * force_error * (temperature / 300) ** 0.3
            error = -33.0 + 2 * rng.normal() if after else size * np.exp(0.4 * rng.normal()) * rng.choice([-1, 1])
            predicted = float(np.interp(time, times, energy))
            common = {"frame": frame, "trajectory": index, "start": start, "name": name, "formula": f"C{start}H4",
                      "n_atoms": n_atoms, "temperature_k": temperature, "time_ps": time, "status": status,
                      "strategy": "diis" if status == "converged" else "level_shift"}  # fmt: skip
            labels.append({**common, "seconds": 2.0, "level": "pbe0+mbd/def2-tzvp"})
            force = (8.0 if after else force_error * (temperature / 300) ** 0.4) * np.exp(0.3 * rng.normal())
            judged.append({**common, "alive": not after, "ae_dft_ev": predicted - error if there else np.nan,
                           "ae_predicted_ev": predicted, "ae_error_ev": error if there else np.nan,
                           "force_mae_ev_per_angstrom": force if there else np.nan})  # fmt: skip
            frame += 1
    folder = root / "md" / job / run
    write(pd.DataFrame(robustness), folder / "robustness.csv")
    write(pd.concat(topology), folder / "topology.csv")
    write(pd.concat(path), folder / "samples.csv")
    write(pd.DataFrame(labels), root / "checks" / job / run / "labels.csv")
    write(pd.DataFrame(judged), root / "checks" / job / run / "judged" / f"{run}.csv")


def write_judged_by(root: Path, run: str, judge: str, factor: float, job: str = "thermal") -> None:
    """Frames of one run as another network sees them."""
    folder = root / "checks" / job / run / "judged"
    frame = pd.read_csv(folder / f"{run}.csv")
    for column in ("ae_error_ev", "force_mae_ev_per_angstrom"):
        frame[column] *= factor
    write(frame, folder / f"{judge}.csv")


def write_floor(root: Path, energy: float, force: float, n: int) -> None:
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 1.0], n)
    write(
        pd.DataFrame({"row": np.arange(n), "n_atoms": 15, "formula": "C2H6O", "status": "converged",
                      "ae_difference_ev": energy * signs, "force_mae_ev_per_angstrom": force}),
        root / "floor" / "floor.csv",
    )  # fmt: skip


def make_full(root: Path) -> RunTables:
    """As at full: four sizes, the two small ones of which break."""
    for network, factor in NETWORKS.items():
        for size in FULL_SIZES:
            write_run(root, run_of("qm7x", network, size), size, factor)
    for size in FULL_SIZES:
        for data, factor in (("molecules", 1.6), ("unknown", 1.9)):
            write_run(root, run_of(data, "gemnet_q", size), size, factor, groups=25 if data == "unknown" else 16)
    write_run(root, run_of("highe", "gemnet_q", 3200), 3200, 1.3)
    for size, hole, error in zip(FULL_SIZES, (0.9, 0.4, 0.0, 0.0), (0.06, 0.03, 0.012, 0.008), strict=True):
        write_dynamics(root, run_of("qm7x", "gemnet_q", size), hole, error, missing=2 if hole > 0.5 else 0)
    write_dynamics(root, run_of("highe", "gemnet_q", 3200), 1.0, 0.05, molecules=3, kelvin=(1200.0,))
    write_judged_by(root, run_of("qm7x", "gemnet_q", 3200000), run_of("qm7x", "gemnet_q", 3200), 8.0)
    write_floor(root, 0.02, 0.006, 200)
    return RunTables.from_paths(sorted(root.rglob("*.csv")))


def make_mini(root: Path, hole: float = 0.0) -> RunTables:
    """As at mini: one seed, three molecules, four frames per trajectory, three ps; the floor is nothing."""
    for network, factor in NETWORKS.items():
        for size in MINI_SIZES:
            write_run(root, run_of("qm7x", network, size, False), size, 3 * factor, seeds=1, groups=4)
    for size in MINI_SIZES[:2]:
        write_run(root, run_of("molecules", "gemnet_q", size, False), size, 5.0, seeds=1, groups=1)
    write_run(root, run_of("highe", "gemnet_q", 12, False), 12, 3.5, seeds=1)
    holes = (hole, hole / 2, 0.0, 0.0)
    for size, one, error in zip(MINI_SIZES, holes, (0.9, 0.5, 0.3, 0.2), strict=True):
        write_dynamics(root, run_of("qm7x", "gemnet_q", size, False), one, error, molecules=3, samples=4, length_ps=3.0)
    write_dynamics(root, run_of("highe", "gemnet_q", 12, False), hole, 0.8, molecules=3, samples=4, length_ps=3.0)
    write_judged_by(root, run_of("qm7x", "gemnet_q", 324, False), run_of("qm7x", "gemnet_q", 12, False), 2.0)
    write_floor(root, 1e-8, 1e-8, 6)
    return RunTables.from_paths(sorted(root.rglob("*.csv")))


SETTINGS = {
    "data": {"qm7x": {"split": "stocker"}, "molecules": {"split": "stocker_molecules"},
             "unknown": {"split": "spookynet"}, "highe": {"split": "stocker_high_energy"}},
    "checks": {"max_cycle": 50},
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return make_full(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    """Nothing breaks."""
    return make_mini(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def context() -> StudyContext:
    return StudyContext("full", CLAIMS, settings=SETTINGS)


@pytest.fixture
def mini_context() -> StudyContext:
    return StudyContext("mini", CLAIMS, settings=SETTINGS)


def note_of(figure: Figure) -> str:
    """Text below a figure, which is closed."""
    text = figure._supxlabel.get_text().replace("\n", " ")
    plt.close(figure)
    return str(text)


@pytest.mark.parametrize("name", list(FIGURES))
@pytest.mark.parametrize("scale", ["full", "mini"])
def test_every_figure_has_units_the_paper_and_a_footer(
    name: str, scale: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(stocker, "save_figure", lambda figure, tidy, output: saved.append((figure, tidy, output)))
    FIGURES[name](request.getfixturevalue(scale), StudyContext(scale, CLAIMS, settings=SETTINGS), tmp_path / "a.png")
    figure, tidy, output = saved[0]
    assert output == tmp_path / "a.png"
    assert (tidy["run"] == "paper").any()
    labels = [axis.get_ylabel() + axis.get_xlabel() for axis in figure.axes]
    assert any("(" in label for label in labels)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("paper (text)" in text for text in legend)
    note = note_of(figure)
    assert note.startswith(f"{scale} scale")
    assert "n = " in note
    assert ("no reproduction" in note) == (scale == "mini")


def test_files_are_written(full: RunTables, context: StudyContext, tmp_path: Path) -> None:
    stocker.dft_convergence(full, context, tmp_path / "a.png")
    assert {path.suffix for path in tmp_path.iterdir()} >= {".png", ".svg", ".csv"}


@pytest.mark.parametrize("name", list(FIGURES))
def test_without_results_one_line_says_what_to_do(name: str, context: StudyContext, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        FIGURES[name](RunTables(), context, tmp_path / "a.png")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# --- runs and text --------------------------------------------------------------------------------------------------


def test_runs_of_another_setting_are_left_out() -> None:
    names = [
        "qm7x-gemnet_q-none-n12", "qm7x-gemnet_q-mean-n36", "qm7x-gemnet_q-mean-n12", "qm7x-gemnet_q-mean",
        "qm7x-so3krates-mean-b0.9-n12", "qm7x-gemnet_q-mean-l2-n12", "highe-gemnet_q-mean-n12", "nothing",
    ]  # fmt: skip
    assert [run.name for run in stocker.sized_runs(names, ("qm7x",))] == [names[2], names[1]]


@pytest.mark.parametrize(("value", "text"), [(12, "12"), (3200, "3.2k"), (320000, "320k"), (3200000, "3.2M")])
def test_short_counts(value: float, text: str) -> None:
    assert stocker.short_count(value) == text


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_sizes_differ_in_colour_and_marker_and_the_largest_of_few_is_blue(n: int) -> None:
    looks = [stocker.size_style(index, n) for index in range(n)]
    assert len({color for color, _, _ in looks}) == n
    assert len({marker for _, marker, _ in looks}) == n
    if n <= 4:
        assert looks[-1][:2] == stocker.SIZE_STYLES[3][:2]


def test_wilson_interval_of_a_known_share() -> None:
    # 8 of 10: the textbook's 0.490 to 0.943.
    assert stocker.wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert stocker.wilson(10, 10)[1] == pytest.approx(1.0)
    assert stocker.wilson(0, 0) == (0.0, 1.0)


def test_starts_of_one_name_are_told_apart() -> None:
    frame = pd.DataFrame({"start": [0, 0, 1, 2], "name": ["C2H6O", "C2H6O", "C2H6O", "CH4"]})
    assert stocker.told_apart(frame).tolist() == ["C2H6O 0", "C2H6O 0", "C2H6O 1", "CH4"]


# --- learning curves ------------------------------------------------------------------------------------------------


def test_learning_curves_hold_every_seed_and_their_means(full: RunTables, context: StudyContext) -> None:
    figure, tidy = stocker.learning_curves_figure(full, context)
    note = note_of(figure)
    ours = tidy[tidy["run"] != "paper"]
    assert len(ours) == 2 * 4 * 4 * (3 + 1)
    means = ours[ours["seed"] == "mean"]
    frame = full.get("runs", run_of("qm7x", "schnet", 32000))
    drawn = means[(means["run"] == frame["run"].iloc[0]) & (means["quantity"] == stocker.FORCE)].iloc[0]
    assert drawn["value"] == pytest.approx(frame[stocker.FORCE].mean())
    assert drawn["half_width_95"] > 0
    stated = tidy[tidy["run"] == "paper"].set_index("claim")["value"]
    assert stated["force-mae-q-3.2m"] == 0.0043
    assert stated["spookynet-force-mae"] == 0.015
    assert "10\u202f100 test rows" in note
    assert "0.020 eV (AE), 0.0060 eV/Å" in note


def test_learning_curves_name_what_was_not_run(mini: RunTables, mini_context: StudyContext) -> None:
    absent = RunInfo("qm7x-schnet-per_element-n972", ("curve",), "qm7x", "schnet", "per_element", 972, (0,))
    context = StudyContext("mini", CLAIMS, runs={absent.name: absent}, settings=SETTINGS)
    note = note_of(stocker.learning_curves_figure(mini, context)[0])
    assert f"Not among the results given, so not drawn: {absent.name}." in note
    assert "no error bars" in note
    assert "below the axes" in note
    assert "not drawn" not in note_of(stocker.learning_curves_figure(mini, mini_context)[0])


def test_a_curve_of_one_network_and_one_size(context: StudyContext, tmp_path: Path) -> None:
    write_run(tmp_path, run_of("qm7x", "schnet", 3200), 3200, seeds=1)
    figure, tidy = stocker.learning_curves_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)
    plt.close(figure)
    assert set(tidy.loc[tidy["run"] != "paper", "network"]) == {"schnet"}


def test_curves_by_molecule_show_each_split(full: RunTables, context: StudyContext, tmp_path: Path) -> None:
    figure, tidy = stocker.learning_curves_molecules_figure(full, context)
    note = note_of(figure)
    assert set(tidy["data"]) == {"qm7x", "molecules", "unknown"}
    assert set(tidy["network"]) == {"gemnet_q"}
    assert "SpookyNet's test molecules (25 molecules)" in note
    # Data of the random split under another name are no split by molecules.
    write_run(tmp_path, run_of("active", "gemnet_q", 3200), 3200)
    context = StudyContext("full", CLAIMS, settings={"data": {"active": {"split": "stocker"}}})
    with pytest.raises(InputError, match="split by molecules"):
        stocker.learning_curves_molecules_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)


# --- highE ----------------------------------------------------------------------------------------------------------


def test_high_energy_compares_what_both_simulated(full: RunTables, context: StudyContext) -> None:
    figure, tidy = stocker.high_energy_figure(full, context)
    note = note_of(figure)
    failures = tidy[(tidy["panel"] == "failure") & (tidy["run"] != "paper")]
    assert set(failures["name"]) == set(MOLECULES[:3])
    assert set(failures["temperature_k"]) == {1200.0}
    assert len(failures) == 6
    assert note.count("3 of 3 failed") == 2
    stated = tidy[tidy["run"] == "paper"].set_index("claim")["value"]
    assert stated["ae-mae-highe"] == 0.195
    assert stated["ae-mae-q-3.2k-uniform"] == 0.052


def test_high_energy_without_dynamics_says_so(context: StudyContext, tmp_path: Path) -> None:
    for data in ("qm7x", "highe"):
        write_run(tmp_path, run_of(data, "gemnet_q", 3200), 3200)
    figure, tidy = stocker.high_energy_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)
    texts = [text.get_text() for text in figure.axes[2].texts]
    assert any("no molecule was simulated" in text for text in texts)
    assert "needs dynamics of both networks" in note_of(figure)
    assert not (tidy["panel"] == "failure").any()


def test_high_energy_needs_its_counterpart(context: StudyContext, tmp_path: Path) -> None:
    write_run(tmp_path, run_of("highe", "gemnet_q", 3200), 3200)
    write_run(tmp_path, run_of("qm7x", "gemnet_q", 32000), 32000)
    with pytest.raises(InputError, match="no counterpart on random rows"):
        stocker.high_energy_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)


def test_trajectories_that_live_on_are_no_failures(mini: RunTables, mini_context: StudyContext) -> None:
    figure, tidy = stocker.high_energy_figure(mini, mini_context)
    failures = tidy[(tidy["panel"] == "failure") & (tidy["run"] != "paper")]
    assert set(failures["quantity"]) == {"survived_ps"}
    assert (failures["value"] == 3.0).all()
    assert note_of(figure).count("0 of 3 failed (0 to 56 %, Wilson)") == 2


# --- errors in dynamics ---------------------------------------------------------------------------------------------


def judged_frames() -> pd.DataFrame:
    """Two trajectories of one molecule: one with a saved and an unconverged frame, one without any number."""
    return pd.DataFrame(
        {
            "frame": range(6), "trajectory": [0, 0, 0, 0, 1, 1], "start": 0, "name": "a",
            "temperature_k": [300.0] * 4 + [600.0] * 2, "time_ps": [1.0, 2.0, 3.0, 4.0, 1.0, 2.0],
            "status": ["converged", "converged", "converged_fallback", "unconverged", "unconverged", "timeout"],
            "ae_error_ev": [0.1, -0.3, 5.0, np.nan, np.nan, np.nan],
            "force_mae_ev_per_angstrom": [0.2, 0.4, 3.0, np.nan, np.nan, np.nan],
        }
    )  # fmt: skip


def test_headline_errors_leave_out_what_only_further_strategies_converged() -> None:
    table = stocker.trajectory_errors(judged_frames()).set_index(["trajectory", "reference"])
    assert table.loc[(0, "plain"), stocker.ENERGY] == pytest.approx(0.2)
    assert table.loc[(0, "plain"), stocker.FORCE] == pytest.approx(0.3)
    assert table.loc[(0, "all"), stocker.ENERGY] == pytest.approx(1.8)
    assert table.loc[(0, "plain"), "n"] == 2
    assert table.loc[(0, "plain"), "n_frames"] == 4
    assert np.isnan(table.loc[(1, "all"), stocker.ENERGY])


def test_bootstrap_interval_covers_the_mean_and_needs_five() -> None:
    values = [0.01, 0.02, 0.05, 3.0, 10.0, 0.03, np.nan]
    mean, low, high, n = stocker.mean_and_bootstrap(values)
    assert (mean, n) == (pytest.approx(np.nanmean(values)), 6)
    assert 0 < low < mean < high
    assert np.isnan(stocker.mean_and_bootstrap(values[:4])[1])
    assert stocker.mean_and_bootstrap([np.nan])[3] == 0


def test_md_errors_average_over_trajectories(full: RunTables, context: StudyContext) -> None:
    figure, tidy = stocker.md_errors_figure(full, context)
    note = note_of(figure)
    run = run_of("qm7x", "gemnet_q", 3200)
    table = stocker.trajectory_errors(full.judged("thermal", run))
    expected = table[(table["reference"] == "plain") & (table["temperature_k"] == 1200)][stocker.ENERGY].mean()
    means = tidy[(tidy["what"] == stocker.MEAN) & (tidy["reference"] == "plain") & (tidy["run"] == run)]
    drawn = means[(means["quantity"] == stocker.ENERGY) & (means["temperature_k"] == 1200)].iloc[0]
    assert drawn["value"] == pytest.approx(expected)
    assert drawn["n_trajectories"] == 20
    lost = sum(
        int((full.judged("thermal", run_of("qm7x", "gemnet_q", size))["status"] != "converged").sum())
        for size in FULL_SIZES
    )
    assert f"{lost} of 5\u202f692 did not" in note
    assert set(tidy.loc[tidy["run"] == "paper", "claim"]) >= {"md-ae-mae-3.2k-300k", "md-ae-mae-q-3.2m-1200k"}
    single = tidy[(tidy["what"] == "trajectory") & (tidy["quantity"] == stocker.FORCE)]
    assert len(single) == 4 * 60


def test_md_errors_survive_frames_without_any_number(context: StudyContext, tmp_path: Path) -> None:
    run = run_of("qm7x", "gemnet_q", 3200)
    write_dynamics(tmp_path, run, 0.9, 0.05, molecules=3)
    path = tmp_path / "checks" / "thermal" / run / "judged" / f"{run}.csv"
    frame = pd.read_csv(path)
    hot = frame["temperature_k"] == 1200
    frame.loc[hot, ["ae_error_ev", "ae_dft_ev", "force_mae_ev_per_angstrom"]] = np.nan
    frame.loc[hot, "status"] = "unconverged"
    write(frame, path)
    figure, tidy = stocker.md_errors_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)
    assert "3 trajectories have no such frame" in note_of(figure)
    means = tidy[(tidy["what"] == stocker.MEAN) & (tidy["temperature_k"] == 1200)]
    assert means["value"].isna().all()
    assert (means["n"] == 0).all()


# --- convergence ----------------------------------------------------------------------------------------------------


def test_convergence_counts_by_outcome() -> None:
    status = ["converged"] * 6 + ["converged_fallback", "unconverged", "odd_electrons", "timeout"]
    frame = pd.DataFrame({"temperature_k": 300.0, "status": status})
    line = stocker.convergence_counts(frame).iloc[0]
    assert line["converged_share"] == 0.6
    assert line["with_ladder_share"] == 0.7
    assert (line["low"], line["high"]) == pytest.approx(stocker.wilson(6, 10))
    assert [line[title] for title in stocker.OUTCOMES] == [6, 1, 2, 1]


def test_convergence_figure_tells_frames_that_do_not_exist(full: RunTables, context: StudyContext) -> None:
    figure, tidy = stocker.dft_convergence_figure(full, context)
    labels = [text.get_text() for text in figure.axes[0].texts]
    note = note_of(figure)
    ours = tidy[tidy["run"] != "paper"]
    assert len(ours) == 4 * 3
    assert (ours.loc[ours["size"] == 3200000, "converged_share"] == 1).all()
    assert labels.count("100") == 2
    gone = int(ours["n_frames_gone"].sum())
    assert gone > 0
    assert f"{gone} frames do not exist" in note
    assert "within 50 cycles" in note
    assert "pbe0+mbd/def2-tzvp" in note
    stated = tidy[tidy["run"] == "paper"]
    assert set(stated["claim"]) == {"dft-converged-exhaustive", "dft-converged-3.2k-1200k"}
    assert set(stated["converged_share"]) == {1.0, 0.5}


def test_two_sizes_are_compared_with_the_extremes_of_the_paper(tmp_path: Path) -> None:
    sizes = (12, 324)
    for size in sizes:
        write_dynamics(tmp_path, run_of("qm7x", "gemnet_q", size, False), 0.5 * (size == 12), 0.1, molecules=4)
    names = [run_of("qm7x", "gemnet_q", size, False) for size in (*sizes, 36)]
    context = StudyContext("mini", CLAIMS, settings={"md": {"thermal": {"runs": [{"run": name} for name in names]}}})
    tables = RunTables.from_paths(tmp_path.rglob("*.csv"))
    figure, tidy = stocker.dft_convergence_figure(tables, context)
    note = note_of(figure)
    assert "the paper's smallest and largest size" in note
    assert f"so not drawn: {names[-1]}." in note
    assert set(tidy.loc[tidy["run"] == "paper", "size"]) == {"1 of 2", "2 of 2"}
    note = note_of(stocker.md_errors_figure(tables, context)[0])
    assert "test rows" not in note
    assert "Floor of the checks: not calculated." in note


# --- one trajectory -------------------------------------------------------------------------------------------------


def test_the_trajectory_shown_breaks_between_frames(full: RunTables, context: StudyContext) -> None:
    runs = stocker.thermal_runs(full.check_jobs())
    chosen = stocker.choose_trajectory(full, runs)
    assert chosen is not None
    assert chosen.run.size == 3200
    assert chosen.both
    ends = full.robustness("thermal", chosen.run.name).set_index("trajectory")
    assert ends.loc[chosen.trajectory, "failed"]
    hot = ends[ends["failed"] & (ends["temperature_k"] == 1200)]
    assert ends.loc[chosen.trajectory, "temperature_k"] == 1200
    judged = full.judged("thermal", chosen.run.name).dropna(subset=["ae_error_ev"])
    after = judged.groupby("trajectory")["time_ps"].max().reindex(hot.index) >= hot["failure_ps"]
    before = judged.groupby("trajectory")["time_ps"].min().reindex(hot.index) < hot["failure_ps"]
    assert chosen.failure_ps == hot.loc[after & before, "failure_ps"].max()
    figure, tidy = stocker.breaking_trajectory_figure(full, context)
    note = note_of(figure)
    assert f"{int(ends['failed'].sum())} of 60 trajectories of this network broke" in note
    errors = tidy[(tidy["quantity"] == "ae_error_ev") & (tidy["run"] != "paper")]
    assert errors.loc[errors["after_failure"] == True, "value"].abs().min() > 20  # noqa: E712
    assert errors.loc[errors["after_failure"] == False, "value"].abs().max() < 3  # noqa: E712
    # The network's energies, of another zero, meet its own predictions.
    line = tidy[tidy["quantity"] == "ae_network_relative_ev"]
    dft = tidy[(tidy["quantity"] == "ae_dft_relative_ev") & (tidy["after_failure"] == False)]  # noqa: E712
    assert line["value"].iloc[0] == 0
    assert abs(dft["value"].mean()) < 1.5


def test_where_nothing_broke_the_worst_is_shown_and_said(mini: RunTables, mini_context: StudyContext) -> None:
    figure, tidy = stocker.breaking_trajectory_figure(mini, mini_context)
    title = figure.axes[0].get_title()
    note = note_of(figure)
    assert "did not break" in title
    assert "No trajectory of any size broke; this one has the largest AE error." in note
    judged = pd.concat([mini.judged("thermal", run_of("qm7x", "gemnet_q", size, False)) for size in MINI_SIZES])
    drawn = tidy[(tidy["quantity"] == "ae_error_ev") & (tidy["run"] != "paper")]["value"].abs().max()
    assert drawn == pytest.approx(judged["ae_error_ev"].abs().max())
    assert not tidy["broken"].any()


def test_unconverged_frames_and_missing_samples_are_drawn_as_such(context: StudyContext, tmp_path: Path) -> None:
    run = run_of("qm7x", "gemnet_q", 3200)
    write_dynamics(tmp_path, run, 1.0, 0.05, molecules=2, converge=0.1)
    for name in ("samples", "topology"):
        (tmp_path / "md" / "thermal" / run / f"{name}.csv").unlink()
    figure, tidy = stocker.breaking_trajectory_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(figure.axes) == 3
    plt.close(figure)
    assert "DFT not converged" in legend
    errors = tidy[(tidy["quantity"] == "ae_error_ev") & (tidy["run"] != "paper")]
    without = errors[~errors["status"].isin(["converged", "converged_fallback"])]
    assert len(without) > 0
    assert without["value"].isna().all()


# --- cross evaluation -----------------------------------------------------------------------------------------------


def test_cross_evaluation_pairs_the_sparse_network_with_the_largest(full: RunTables, context: StudyContext) -> None:
    figure, tidy = stocker.cross_evaluation_figure(full, context)
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    note = note_of(figure)
    assert rows[-1] == "mean"
    assert sum("(fig. 2e)" in row for row in rows) == 1
    hot = tidy[(tidy["quantity"] == stocker.FORCE) & (tidy["temperature_k"] == 1200) & (tidy["reference"] == "plain")]
    single = hot[hot["name"].isin(MOLECULES)].groupby("what")["value"].mean()
    assert single["own"] > 10 * single["other"]
    assert single["other"] == pytest.approx(8 * single["exhaustive"])
    assert "sparse 3\u202f200 training rows, exhaustive 3\u202f200\u202f000" in note
    stated = tidy[tidy["run"] == "paper"].set_index("claim")["value"]
    assert (stated["cross-force-mae-own"], stated["cross-force-mae-other"]) == (6.8, 0.16)


def test_cross_evaluation_needs_the_judge_on_its_own_frames(context: StudyContext, tmp_path: Path) -> None:
    small, large = (run_of("qm7x", "gemnet_q", size) for size in (3200, 32000))
    write_dynamics(tmp_path, large, 0.0, 0.05, molecules=2)
    write_judged_by(tmp_path, large, small, 2.0)
    with pytest.raises(InputError, match="on its own"):
        stocker.cross_evaluation_figure(RunTables.from_paths(tmp_path.rglob("*.csv")), context)


# --- the floor ------------------------------------------------------------------------------------------------------


def test_floor_is_the_mean_size_of_the_differences(tmp_path: Path) -> None:
    write_floor(tmp_path, 0.02, 0.006, 200)
    path = tmp_path / "floor" / "floor.csv"
    frame = pd.read_csv(path)
    frame.loc[0, ["ae_difference_ev", "force_mae_ev_per_angstrom"]] = np.nan
    write(frame, path)
    floor = stocker.floor_of(RunTables.from_paths([path]))
    assert floor is not None
    assert floor.n == 199
    assert floor.values[stocker.ENERGY] == pytest.approx(0.02)
    assert floor.values[stocker.FORCE] == pytest.approx(0.006)
    assert stocker.floor_of(RunTables()) is None
