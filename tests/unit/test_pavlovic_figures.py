"""Figures and tables of So3krates on SPICE, from synthetic results with known slopes."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.studies import pavlovic, pavlovic_cells, pavlovic_tables
from mlip_studies.studies.context import StudyContext

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "pavlovic.yaml")
ELEMENTS = ("H", "C", "N", "O", "S")
SHARES = np.array([0.5, 0.32, 0.08, 0.08, 0.02])
# eV per atom: binding, and total energy.
ENERGY = {
    "formation": np.array([-2.9, -6.8, -4.9, -3.9, -3.4]),
    "total": np.array([-16.5, -1038.0, -1490.0, -2047.0, -10835.0]),
}
SUBSETS = (
    "SPICE PubMed Set 1 Single Points Dataset v1.2", "SPICE Dipeptides Single Points Dataset v1.2",
    "SPICE Solvated Amino Acids Single Points Dataset v1.1", "SPICE DES370K Single Points Dataset v1.0",
)  # fmt: skip
FIGURES = {
    "fig3-left-energies": pavlovic.energies, "fig3-right-forces": pavlovic.forces, "slope": pavlovic.slope,
    "slope-mechanisms": pavlovic.mechanisms, "beta": pavlovic.beta, "layers": pavlovic.layers,
    "errors-by": pavlovic.errors_by, "ensemble": pavlovic.ensemble,
}  # fmt: skip
TABLES = {
    "results": pavlovic.results_table, "outliers": pavlovic.outliers_table, "slope-table": pavlovic.slope_table,
    "shift-check": pavlovic.shift_check_table,
}  # fmt: skip
SLOPE_RUNS = [
    f"{data}-so3krates-{shift}-b{beta}"
    for data in ("formation", "total") for shift in ("mean_padded", "none", "per_element") for beta in ("0.99", "1")
]  # fmt: skip
MORE_RUNS = [
    "formation-so3krates-mean_padded-b0.9", "formation-so3krates-mean_padded-b0.999",
    "formation-so3krates-mean_padded-b1-l1", "formation-so3krates-mean_padded-b1-l6",
    "cleaned-so3krates-mean_padded-b1",
]  # fmt: skip


def molecules_of(n: int, largest: int, seed: int = 0) -> np.ndarray:
    """Compositions, shape (n, 5), of 3 to `largest` atoms."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, largest + 1, n)
    return np.array([rng.multinomial(size, SHARES) for size in sizes])


def write_run(root: Path, run: str, n: int = 300, largest: int = 60, seeds: int = 3) -> None:
    """The tables of one run: errors are those of the mechanisms, plus noise of known size."""
    cell = pavlovic_cells.parse_run(run)
    assert cell is not None
    label = "total" if cell.data == "total" else "formation"
    counts = molecules_of(n, largest)
    atoms = counts.sum(axis=1)
    rng = np.random.default_rng([len(run), int(1000 * cell.beta)])
    true = counts @ ENERGY[label] + 0.05 * atoms * rng.normal(size=n)
    mean, n_pad = float(true.mean()), float(largest)
    padded = cell.shift == "mean_padded"
    folder = root / "tables" / run
    folder.mkdir(parents=True)
    rows, parts, elements, outliers, predictions, forces = [], [], [], [], [], []
    for seed in range(seeds):
        draw = np.random.default_rng([len(run), seed, int(1000 * cell.beta)])
        constants = np.zeros(5)
        if cell.beta == 1:
            scale = {"none": -ENERGY[label], "mean_padded": -ENERGY[label]}.get(cell.shift, np.full(5, 0.3))
            constants = scale * (1 + 0.05 * draw.normal(size=5))
        error = counts @ constants + 0.03 * atoms * draw.normal(size=n)
        if padded:
            error += mean * atoms / n_pad - (0 if cell.beta == 1 else mean)
        predicted = true + error
        gram = np.linalg.lstsq(counts.astype(float), -error, rcond=None)[0]
        corrected = {"test": predicted + counts @ gram, "train": predicted + counts @ (gram * 1.0001 + 0.002)}
        perfect = mean * (atoms / n_pad - 1) if padded else np.zeros(n)
        ones = np.column_stack([np.ones(n), counts])
        whole = np.linalg.lstsq(ones, error, rcond=None)[0]
        force = {0.9: 0.2, 0.99: 0.16, 0.999: 0.09}.get(cell.beta, 0.05) * (1 + 0.04 * seed)
        force *= {"mean_padded": 1.0, "none": 0.8, "per_element": 0.6}[cell.shift] * (cell.n_layers / 3) ** -0.3
        row = {
            "run": run, "seed": seed, "data": "spice", "model": "so3krates", "shift": cell.shift, "beta": cell.beta,
            "n_layers": float(cell.n_layers), "n_train": 800, "n_val": 100, "n_test": n,
            "n_parameters": 100_000 * cell.n_layers, "steps": cell.steps or 1000, "train_seconds": 20.0,
            "configurations_per_second": 900.0 / cell.n_layers, "device": "cpu", "gpu_hours": 0.0,
            "energy_mae_ev": np.abs(error).mean(), "energy_per_atom_mae_ev": np.abs(error / atoms).mean(),
            "force_mae_ev_per_angstrom": force, "aligned_energy_mae_ev": np.abs(error - error.mean()).mean(),
            "slope_ev_per_atom": np.polyfit(atoms, error, 1)[0], "slope_se": 0.01, "mean_ev": mean,
            "n_pad": n_pad if padded else np.nan, "predicted_slope_ev_per_atom": mean / n_pad if padded else 0.0,
            "predicted_energy_mae_ev": np.abs(perfect).mean(),
            "remainder_slope_ev_per_atom": np.polyfit(atoms, error - perfect, 1)[0],
            "remainder_r2": 0.97, "residual_mae_ev": 0.5, "error_constant_ev": whole[0],
            "error_with_constant_r2": 1 - np.var(error - ones @ whole) / np.var(error),
            "outlier_fraction": 0.0038 if cell.data != "cleaned" else 2e-5,
            "large_residual_fraction": 0.005 if cell.data != "cleaned" else 4e-5, "n_components": 3 * int(atoms.sum()),
        }  # fmt: skip
        for name, value in zip(ELEMENTS, constants, strict=True):
            row[f"remainder_element_{name}_ev"] = value
        for fit, energy in corrected.items():
            row[f"corrected_{fit}_energy_mae_ev"] = np.abs(energy - true).mean()
            row[f"corrected_{fit}_energy_per_atom_mae_ev"] = np.abs((energy - true) / atoms).mean()
        rows.append(row)
        formulas = ["".join(f"{e}{k}" for e, k in zip(ELEMENTS, c, strict=True) if k) for c in counts]
        frame = pd.DataFrame(
            {
                "run": run, "seed": seed, "row": np.arange(n), "group": np.arange(n) // 3,
                "subset": [SUBSETS[i % len(SUBSETS)] for i in range(n)], "formula": formulas, "n_atoms": atoms,
                "energy_true_ev": true, "energy_predicted_ev": predicted,
                "energy_corrected_train_ev": corrected["train"], "energy_corrected_test_ev": corrected["test"],
                "force_mae_ev_per_angstrom": force * np.exp(0.3 * draw.normal(size=n)),
                "largest_force_residual_ev_per_angstrom": 10 * force,
                "above_lowest_ev_per_atom": np.abs(0.03 * np.random.default_rng(7).normal(size=n)),
            }
        )  # fmt: skip
        parts.append(frame)
        predictions.append(corrected["train"])
        forces.append(frame["force_mae_ev_per_angstrom"].to_numpy())
        for index, name in enumerate(ELEMENTS):
            elements.append({"run": run, "seed": seed, "element": name, "n_atoms": 100,
                             "force_mae_ev_per_angstrom": force * (1 + 0.2 * index)})  # fmt: skip
        for index in range(60):
            size = 30.0 - 0.4 * index if cell.data != "cleaned" else 9 - 0.1 * index
            outliers.append(
                {"run": run, "seed": seed, "row": index // 4, "group": index // 4, "subset": SUBSETS[index % 2],
                 "formula": formulas[index // 4], "smiles": "CC(=O)N", "atom": index % 4, "element": "C",
                 "component": "xyz"[index % 3], "true": -size, "predicted": 0.1, "residual": size, "near_zero": True}
            )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)
    pd.concat(parts).to_csv(folder / "molecules.csv", index=False)
    pd.DataFrame(elements).to_csv(folder / "elements.csv", index=False)
    pd.DataFrame(outliers).to_csv(folder / "outliers.csv", index=False)
    force_table(rng, cell.data == "cleaned").to_csv(folder / "forces.csv", index=False)
    columns = ["run", "row", "group", "n_atoms", "n_seeds", "energy_std_ev_per_atom", "energy_error_ev_per_atom",
               "force_std_ev_per_angstrom", "force_error_ev_per_angstrom"]  # fmt: skip
    ensemble = pd.DataFrame(columns=columns)
    if seeds > 1:
        stack, force_stack = np.stack(predictions), np.stack(forces)
        values = (run, np.arange(n), np.arange(n) // 3, atoms, seeds, stack.std(0, ddof=1) / atoms,
                  np.abs(stack.mean(0) - true) / atoms, force_stack.std(0, ddof=1), force_stack.mean(0))  # fmt: skip
        ensemble = pd.DataFrame(dict(zip(columns, values, strict=True)))
    ensemble.to_csv(folder / "ensemble.csv", index=False)


def force_table(rng: np.random.Generator, cleaned: bool) -> pd.DataFrame:
    """Histogram of components, 120 x 120 bins."""
    true = rng.laplace(0, 1.2, 40000)
    predicted = true + rng.normal(0, 0.12, true.size)
    if not cleaned:
        true[:150] = rng.normal(0, 14, 150)
        predicted[:150] = rng.normal(0, 0.3, 150)
    limit = 20.0
    edges = np.linspace(-limit, limit, 121)
    counts = np.histogram2d(np.clip(true, -limit, limit), np.clip(predicted, -limit, limit), bins=[edges, edges])[0]
    i, j = np.divmod(np.arange(120 * 120), 120)
    return pd.DataFrame({"true_low": edges[i], "true_high": edges[i + 1], "predicted_low": edges[j],
                         "predicted_high": edges[j + 1], "count": counts.ravel().astype(int)})  # fmt: skip


def shift_rows() -> pd.DataFrame:
    rows = []
    for dataset, mixed in (("spice", True), ("md17_ethanol", False)):
        for shift in ("none", "mean", "mean_padded", "per_element"):
            severity = "none" if not mixed or shift == "per_element" else "error" if "padded" in shift else "warning"
            rows.append(
                {"dataset": dataset, "fidelity": "wb97m_d3bj", "shift": shift, "n_rows": 100,
                 "n_compositions": 40 if mixed else 1, "mixed": mixed, "mean_ev": -120.0, "n_pad": 60,
                 "slope_ev_per_atom": -2.0 if severity == "error" else 0.0,
                 "perfect_network_mae_ev": 60.0 if severity == "error" else 0.0, "spread_ev": 50.0,
                 "per_element_spread_ev": 1.5, "rank": 5, "severity": severity,
                 "message": "" if severity == "none" else f"shift {shift}: use per_element"}
            )  # fmt: skip
    return pd.DataFrame(rows)


def make_results(root: Path, runs: list[str], n: int = 300, largest: int = 60, seeds: int = 3) -> RunTables:
    """Tables of these runs below `root`, read back."""
    for run in runs:
        write_run(root, run, n, largest, seeds)
    shift_rows().to_csv(root / "shift_check.csv", index=False)
    return RunTables.from_paths(sorted(root.rglob("*.csv")))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return make_results(tmp_path_factory.mktemp("full"), SLOPE_RUNS + MORE_RUNS)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    """As at the mini scale: one seed, few small molecules."""
    return make_results(tmp_path_factory.mktemp("mini"), SLOPE_RUNS + MORE_RUNS, n=20, largest=6, seeds=1)


@pytest.fixture
def context() -> StudyContext:
    return StudyContext("full", CLAIMS, {"formation": 800})


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_units_and_a_footer(
    name: str, tables: RunTables, context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(pavlovic, "save_figure", lambda figure, tidy, output: saved.append((figure, tidy, output)))
    FIGURES[name](tables, context, tmp_path / "a.png")
    figure, tidy, output = saved[0]
    try:
        assert output == tmp_path / "a.png"
        assert len(tidy) > 0
        texts = [axis.get_xlabel() + axis.get_ylabel() + axis.get_title() for axis in figure.axes if axis.axison]
        assert any("(" in text for text in texts)
        note = figure._supxlabel.get_text()
        assert note.startswith("full scale · n = 3 seeds")
        assert "not drawn" not in note
    finally:
        plt.close(figure)


def drawn(figure: Figure, tidy: pd.DataFrame) -> pd.DataFrame:
    plt.close(figure)
    return tidy


def test_names_of_runs() -> None:
    cell = pavlovic_cells.parse_run("formation-so3krates-mean_padded-b0.99-l2-n1000")
    assert cell is not None
    assert (cell.data, cell.network, cell.shift, cell.beta) == ("formation", "so3krates", "mean_padded", 0.99)
    assert (cell.layers, cell.size, cell.n_layers, cell.plain) == (2, 1000, 2, False)
    plain = pavlovic_cells.parse_run(pavlovic.MAIN_RUN)
    assert plain is not None
    assert plain.plain
    assert plain.n_layers == pavlovic_cells.DEFAULT_LAYERS
    assert pavlovic_cells.parse_run("ethanol-gemnet_t-mean") is None


def test_cells_are_those_of_spice_in_order(tables: RunTables) -> None:
    cells = pavlovic_cells.spice_cells(tables)
    assert len(cells) == len(SLOPE_RUNS) + len(MORE_RUNS)
    assert cells[0].run == "formation-so3krates-mean_padded-b0.9"
    assert cells[-1].data == "cleaned"


def test_means_over_seeds_and_their_text() -> None:
    values = [1.0, 1.2, 1.4]
    mean = pavlovic_cells.over_seeds(pd.DataFrame({"x": values}), "x")
    assert mean.value == pytest.approx(1.2)
    assert mean.half == pytest.approx(stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3))
    assert mean.text() == "1.20 ± 0.50"
    two = pavlovic_cells.over_seeds(pd.DataFrame({"x": values[:2]}), "x")
    assert np.isnan(two.half)
    assert two.text() == "1.10"
    assert pavlovic_cells.over_seeds(pd.DataFrame({"x": values}), "absent").n == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0530, "0.0530"), (-1234.5, "−1\u202f230"), (0, "0"), (9.996, "10.0"), (1.23e-7, "1.23e−07"), (np.nan, "–")],
)
def test_numbers_as_text(value: float, text: str) -> None:
    assert pavlovic_cells.number(value) == text


def test_energies_are_told_in_the_unit_that_reads_well() -> None:
    def mean(value: float) -> pavlovic_cells.Mean:
        return pavlovic_cells.Mean(value, np.nan, 1, (value,))

    assert pavlovic_cells.small_energy(mean(-0.0123)) == "−12.3 meV"
    assert pavlovic_cells.small_energy(mean(-2.25)) == "−2.25 eV"
    assert pavlovic_cells.percent(0.004) == "0.40 %"
    assert pavlovic_cells.percent(0.0) == "0 %"


def test_seeds_below_three_have_no_error_bars(mini: RunTables, context: StudyContext) -> None:
    figure, tidy = pavlovic.mechanisms_figure(mini, context)
    note = figure._supxlabel.get_text().replace("\n", " ")
    plt.close(figure)
    assert "n = 1 seed, no error bars" in note
    assert tidy["half_width_95"].isna().all()
    assert (tidy["n"] <= 1).all()


def test_energy_figure_corrects_and_counts(tables: RunTables, context: StudyContext) -> None:
    figure, tidy = pavlovic.energies_figure(tables, context)
    texts = [text.get_text() for axis in figure.axes for text in axis.get_legend().texts]
    plt.close(figure)
    assert set(tidy["stage"]) == {"before", "corrected_train", "corrected_test"}
    mae = tidy["error_per_atom_ev"].abs().groupby(tidy["stage"]).mean()
    assert mae["before"] > 1
    assert mae["corrected_test"] < 0.03
    runs = tables.get("runs", pavlovic.MAIN_RUN)
    stated = pavlovic_cells.over_seeds(runs, "corrected_train_energy_per_atom_mae_ev").text()
    assert any(text.startswith(stated) for text in texts)
    assert any("0.053" in text for text in texts)
    assert any("63.3" in text for text in texts)


def test_without_training_energies_the_test_fit_is_drawn_and_said(context: StudyContext, tmp_path: Path) -> None:
    tables = make_results(tmp_path, [pavlovic.MAIN_RUN], n=40, seeds=1)
    for kind, columns in (
        ("molecules", "energy_corrected_train_ev"),
        ("runs", "corrected_train_energy_per_atom_mae_ev"),
    ):
        path = tmp_path / "tables" / pavlovic.MAIN_RUN / f"{kind}.csv"
        pd.read_csv(path).assign(**{columns: np.nan}).to_csv(path, index=False)
    figure, tidy = pavlovic.energies_figure(tables, context)
    note = figure._supxlabel.get_text().replace("\n", " ")
    plt.close(figure)
    assert set(tidy["stage"]) == {"before", "corrected_test"}
    assert "the fit on training energies" in note


def test_force_figure_keeps_every_component(tables: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.forces_figure(tables, context))
    assert set(tidy["run"]) == {pavlovic.MAIN_RUN, pavlovic.CLEANED_RUN}
    assert (tidy.groupby("run")["count"].sum() == 40000).all()


def test_force_figure_without_a_cleaned_run_says_so(context: StudyContext, tmp_path: Path) -> None:
    figure, tidy = pavlovic.forces_figure(make_results(tmp_path, [pavlovic.MAIN_RUN], n=40, seeds=1), context)
    note = figure._supxlabel.get_text().replace("\n", " ")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    plt.close(figure)
    assert "not drawn: the cleaned set" in note
    assert set(tidy["run"]) == {pavlovic.MAIN_RUN}
    assert any("0.38 %" in title and "0.4 %" in title for title in titles)


def test_predicted_error_is_a_line_through_the_largest_molecule() -> None:
    np.testing.assert_allclose(pavlovic.predicted_error(np.array([60, 30, 0]), -120.0, 60), [0.0, 60.0, 120.0])


def test_slope_figure_gives_both_lines(tables: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.slope_figure(tables, context))
    assert set(tidy["run"]) == set(SLOPE_RUNS)
    for run, sign in (("formation-so3krates-mean_padded-b0.99", -1), ("formation-so3krates-per_element-b0.99", 0)):
        part, runs = tidy[tidy["run"] == run], tables.get("runs", run)
        predicted = np.polyfit(part["n_atoms"], part["predicted_error_ev"], 1)[0]
        fitted = np.polyfit(part["n_atoms"], part["fitted_error_ev"], 1)[0]
        assert predicted == pytest.approx(runs["predicted_slope_ev_per_atom"].iloc[0], abs=1e-9)
        assert fitted == pytest.approx(runs["slope_ev_per_atom"].iloc[0], abs=1e-9)
        assert np.sign(round(predicted, 6)) == sign


def test_large_clouds_are_thinned(tables: RunTables, context: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pavlovic, "MOST_POINTS", 50)
    tidy = drawn(*pavlovic.slope_figure(tables, context))
    assert (tidy.groupby("run").size() == 50).all()


def test_mechanisms_tell_the_slopes_and_constants(tables: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.mechanisms_figure(tables, context)).set_index(["run", "quantity"])["mean"]
    learned, forces_only = (f"formation-so3krates-mean_padded-b{beta}" for beta in ("0.99", "1"))
    assert tidy[learned, "slope_ev_per_atom"] == pytest.approx(tidy[learned, "predicted_slope_ev_per_atom"], rel=0.02)
    assert tidy[forces_only, "remainder_slope_ev_per_atom"] == pytest.approx(
        tidy[forces_only, "slope_ev_per_atom"] - tidy[forces_only, "predicted_slope_ev_per_atom"], rel=1e-6
    )
    assert tidy[learned, "constant_over_mean"] == pytest.approx(1, abs=0.05)
    assert tidy[forces_only, "constant_over_mean"] == pytest.approx(0, abs=0.05)


def test_cells_that_were_not_run_are_named(context: StudyContext, tmp_path: Path) -> None:
    runs = [pavlovic.MAIN_RUN, "formation-so3krates-none-b0.99"]
    tables = make_results(tmp_path, runs, n=40, seeds=1)
    figure, tidy = pavlovic.slope_figure(tables, context)
    note = figure._supxlabel.get_text().replace("\n", " ")
    plt.close(figure)
    assert "Not run, so not drawn: formation mean_padded β = 0.99, formation none β = 1." in note
    assert set(tidy["run"]) == set(runs)


def test_beta_figure_holds_the_thesis(tables: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.beta_figure(tables, context))
    thesis = tidy[tidy["run"] == pavlovic.THESIS]
    assert sorted(thesis["mean"]) == [0.047, 0.053, 0.17, 63.3, 90]
    ours = tidy[(tidy["data"] == "formation") & (tidy["shift"] == "mean_padded")]
    assert sorted(ours["beta"].unique()) == [0.9, 0.99, 0.999, 1.0]


def test_layers_include_the_default_and_need_another(tables: RunTables, context: StudyContext, tmp_path: Path) -> None:
    tidy = drawn(*pavlovic.layers_figure(tables, context))
    forces = tidy[tidy["quantity"] == pavlovic.FORCE]
    assert sorted(forces["n_layers"]) == [1, 3, 6]
    assert forces.sort_values("n_layers")["mean"].is_monotonic_decreasing
    with pytest.raises(InputError, match=r"figure layers: none of its runs was trained \(names with -l\)"):
        pavlovic.layers_figure(make_results(tmp_path, [pavlovic.MAIN_RUN], n=20, seeds=1), context)


def test_convergence_is_drawn_against_the_steps_done(context: StudyContext, tmp_path: Path) -> None:
    names = [
        f"formation-so3krates-{shift}-b0.99{steps}" for shift in ("none", "mean_padded") for steps in ("", "-s3000")
    ]
    results = make_results(tmp_path, names, n=30, seeds=1)
    tidy = drawn(*pavlovic.convergence_figure(results, context))
    slopes = tidy[tidy["quantity"] == "slope_ev_per_atom"]
    assert sorted(slopes["steps"]) == [1000, 1000, 3000, 3000]
    # A run with other steps is none of the experiment's cells.
    assert len(pavlovic.slope_figure(results, context)[1]["run"].unique()) == 2
    with pytest.raises(InputError, match=r"figure convergence: none of its runs was trained \(names with -s\)"):
        pavlovic.convergence_figure(make_results(tmp_path / "b", names[:1], n=20, seeds=1), context)


def test_errors_by_class(tables: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.errors_by_figure(tables, context))
    assert set(tidy["by"]) == {
        "subset", "number of atoms", "energy above the lowest conformation of its molecule (meV/atom)", "element",
    }  # fmt: skip
    elements = tidy[(tidy["by"] == "element") & (tidy["run"] == pavlovic.MAIN_RUN)].set_index("class")["mean"]
    assert elements["C"] / elements["H"] == pytest.approx(1.2)
    sizes = tidy[(tidy["by"] == "number of atoms") & (tidy["run"] == pavlovic.MAIN_RUN)]
    assert sizes[sizes["quantity"] == "force_error_mev"]["n_molecules"].sum() <= 300


def test_classes_are_means_over_molecules_then_seeds() -> None:
    frame = pd.DataFrame(
        {"row": [0, 1, 0, 1, 0, 1], "seed": [0, 0, 1, 1, 2, 2], "key": ["a", "b"] * 3, "x": [1.0, 9, 2, 9, 3, 9]}
    )
    table = pavlovic.grouped_errors(frame, "key", "x").set_index("class")
    assert table.loc["a", "mean"] == 2.0
    assert table.loc["a", "half_width_95"] == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
    assert table.loc["b", "n_molecules"] == 1


def test_names_of_subsets_lose_what_all_share() -> None:
    assert pavlovic.short_subset("SPICE PubMed Set 1 Single Points Dataset v1.2") == "PubMed Set 1"
    assert pavlovic.short_subset("SPICE Solvated Amino Acids Single Points Dataset v1.1") == "Solvated Amino Acids"


def test_ensemble_needs_two_seeds(tables: RunTables, mini: RunTables, context: StudyContext) -> None:
    tidy = drawn(*pavlovic.ensemble_figure(tables, context))
    assert set(tidy["quantity"]) == {"energy", "force"}
    assert (tidy["std"] > 0).all()
    with pytest.raises(InputError, match=r"figure ensemble: neither .* has two seeds"):
        pavlovic.ensemble_figure(mini, context)


@pytest.mark.parametrize("name", ["fig3-left-energies", "fig3-right-forces", "slope", "beta", "errors-by"])
def test_missing_runs_are_one_line(name: str, context: StudyContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^figure [^\n]*config/studies/pavlovic\.yaml$"):
        FIGURES[name](RunTables(), context, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(TABLES))
def test_missing_runs_of_tables_are_one_line(name: str, context: StudyContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^table [^\n]*config/studies/pavlovic\.yaml$"):
        TABLES[name](RunTables(), context, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_results_table(tables: RunTables, context: StudyContext, tmp_path: Path) -> None:
    pavlovic.results_table(tables, context, tmp_path / "results.html")
    frame = pd.read_csv(tmp_path / "results.csv")
    ours = frame[frame["who"] == "ours"]
    assert len(ours) == len(SLOPE_RUNS) + len(MORE_RUNS)
    thesis = frame.set_index("who").loc["thesis (text), forces only"]
    assert (thesis["energy_mae_ev"], thesis["corrected_test_ev_per_atom"]) == (63.3, 0.053)
    assert thesis["force_mae_kcal_per_mol_per_angstrom"] == pytest.approx(0.047 * 23.0605, rel=1e-4)
    mace = frame.set_index("who").loc["MACE-OFF23, quoted by the thesis"]
    assert (mace["energy_mae_ev_per_atom"], mace["force_mae_ev_per_angstrom"]) == (0.001, 0.02)
    accuracy = frame.set_index("who").loc["chemical accuracy, per molecule"]
    assert accuracy["energy_mae_ev"] == pytest.approx(0.0434, abs=1e-4)
    main = ours[(ours["data"] == "formation energy") & (ours["beta"] == 1) & (ours["shift"] == "mean, padded")]
    row = main[main["layers"] == 3].iloc[0]
    runs = tables.get("runs", pavlovic.MAIN_RUN)
    assert row["energy_mae_ev"] == pytest.approx(runs["energy_mae_ev"].mean())
    assert row["corrected_train_kcal_per_mol"] == pytest.approx(23.0605 * row["corrected_train_ev"], rel=1e-4)
    assert row["seeds"] == 3


def test_single_seeds_have_no_column_of_widths(mini: RunTables, tmp_path: Path) -> None:
    pavlovic.results_table(mini, StudyContext("mini", CLAIMS), tmp_path / "results.html")
    page = (tmp_path / "results.html").read_text()
    assert ">±<" not in page
    assert "does not claim to reproduce" in page
    assert "nan" not in page.lower().split("<tbody>")[1].split("</tbody>")[0]


def test_outliers_table_tells_molecules_and_shares(tables: RunTables, context: StudyContext, tmp_path: Path) -> None:
    pavlovic.outliers_table(tables, context, tmp_path / "outliers.html")
    frame = pd.read_csv(tmp_path / "outliers.csv")
    assert len(frame) == 60
    assert (frame["residual"].abs().diff().dropna() <= 0).all()
    page = (tmp_path / "outliers.html").read_text()
    assert "0.38 % of" in page
    assert "Cleaned set: 0.0020 %" in page
    assert "Thesis (text): 0.40 %" in page
    beyond = int((frame["residual"].abs() > 8).sum())
    assert f"{beyond} components in" in page


def test_slope_table_holds_both_mechanisms(tables: RunTables, context: StudyContext, tmp_path: Path) -> None:
    pavlovic.slope_table(tables, context, tmp_path / "slope.html")
    frame = pd.read_csv(tmp_path / "slope.csv")
    row = frame[(frame["data"] == "total energy") & (frame["shift"] == "mean, padded") & (frame["beta"] == 0.99)].iloc[
        0
    ]
    assert row["slope_ev_per_atom"] == pytest.approx(row["predicted_slope_ev_per_atom"], rel=1e-3)
    assert row["n_pad"] == 60
    assert row["predicted_slope_ev_per_atom"] == pytest.approx(row["mean_ev"] / 60)
    assert row["constants_ev"].startswith("H ")
    assert frame[frame["shift"] == "none"]["n_pad"].isna().all()


def test_shift_check_table_marks_what_is_wrong(tables: RunTables, context: StudyContext, tmp_path: Path) -> None:
    pavlovic.shift_check_table(tables, context, tmp_path / "shift-check.html")
    frame = pd.read_csv(tmp_path / "shift-check.csv")
    verdict = frame.set_index(["dataset", "shift"])["severity"]
    assert verdict["spice", "mean, padded"] == "wrong"
    assert verdict["spice", "per element"] == "fits"
    assert verdict["md17_ethanol", "mean, padded"] == "fits"
    assert "wrong for 1 of 2 data sets" in (tmp_path / "shift-check.html").read_text()


def test_reference_rows_take_every_number_from_the_claims(context: StudyContext) -> None:
    rows = pavlovic_tables.reference_rows(context)
    assert [row["who"].split(",")[0] for row in rows] == [
        "thesis (text)", "thesis (text)", "MACE-OFF23", "chemical accuracy",
    ]  # fmt: skip
    assert rows[0]["energy_mae_ev"] == context.paper("energy-mae-default")[""]
