"""Figures and tables of robustness, from synthetic dynamics and checks with known failures and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from ase import units
from ase.data import atomic_masses

from mlip_studies.artifacts import write_text
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.md import spikes
from mlip_studies.run_names import parse_run_name
from mlip_studies.studies import md_forecast as forecasts
from mlip_studies.studies import stocker_active, stocker_conservation, stocker_large, stocker_tables
from mlip_studies.studies import stocker_robustness as robustness
from mlip_studies.studies.context import RunInfo, StudyContext

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "stocker.yaml")
TEMPERATURES = (300.0, 600.0, 1200.0)
SIZES = {"full": (3200, 32000, 320000, 3200000), "mini": (12, 36, 108, 324)}
SHIFT = {"full": "isolated_atoms", "mini": "per_element"}
LARGE = ("paracetamol", "furopyrrolamine", "histidine", "ser-trp-leu")
LARGE_ATOMS = {"paracetamol": 20, "furopyrrolamine": 15, "histidine": 20, "ser-trp-leu": 57}
SINGULAR = {"acetonitrile": 6, "hydrogen cyanide": 3, "propyne": 7, "acetylene": 4}
#: how many failures per ns at 1200 K with the smallest set; less with more data, and when it is cooler
FRAGILITY = {"gemnet_q": 2.5, "gemnet_t": 2.7, "schnet": 40.0, "dimenet_plus_plus": 8.0, "so3krates": 4.0, "egnn": 60.0}
KINDS = ("fragments", "topology", "temperature", "energy")
FIGURES = {
    "large-correlations": stocker_large.large_correlations, "large-hot": stocker_large.large_hot,
    "survival": robustness.survival, "survival-networks": robustness.survival_networks,
    "robustness-matrix": robustness.robustness_matrix, "nve-drift": stocker_conservation.nve_drift,
    "singularities": stocker_conservation.singularities, "active-learning": stocker_active.active_learning,
}  # fmt: skip
TABLES = {
    "robustness-matrix-table": stocker_tables.robustness_matrix_table, "checks": stocker_tables.checks_table,
    "check-costs": stocker_tables.check_costs_table, "results": stocker_tables.results_table,
    "forecast": stocker_tables.forecast_table,
}  # fmt: skip


def save(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, frame.to_csv(index=False))


def run_name(scale: str, network: str, size: int, data: str = "qm7x") -> str:
    return f"{data}-{network}-{SHIFT[scale]}-n{size}"


def rng_of(*parts: object) -> np.random.Generator:
    return np.random.default_rng([sum(map(ord, str(part))) for part in parts])


def write_training(root: Path, run: str, n_train: int, seeds: int = 3) -> float:
    """Errors on the test rows; returns the mean force MAE."""
    name = parse_run_name(run)
    assert name is not None
    rank = {"gemnet_q": 1.0, "gemnet_t": 1.04}.get(name.network, 2.2)
    force = 0.035 * rank * (n_train / 3200) ** -0.3
    rng = rng_of(run, "training")
    rows = [
        {
            "run": run, "seed": seed, "data": name.data, "model": name.network, "shift": name.shift, "beta": np.nan,
            "n_train": n_train, "n_test": 101, "n_parameters": 123456, "steps": 1000,
            "energy_mae_ev": 1.5 * force * (1 + 0.03 * rng.normal()),
            "force_mae_ev_per_angstrom": force * (1 + 0.02 * rng.normal()),
        }
        for seed in range(seeds)
    ]  # fmt: skip
    save(pd.DataFrame(rows), root / "tables" / run / "runs.csv")
    return force


def write_dynamics(
    root: Path,
    job: str,
    run: str,
    names: Sequence[str],
    atoms: Sequence[int],
    temperatures: Sequence[float],
    length_ps: float,
    rate_per_ns: float,
    nve: bool = False,
) -> pd.DataFrame:
    """Replicas, samples, summary, robustness and topology of one job; failures at 1200 K at so many per ns."""
    rng = rng_of(job, run)
    robust, replicas, samples, topology = [], [], [], []
    grid = np.linspace(0.0, length_ps, 101)
    pairs = [(start, kelvin) for start in range(len(names)) for kelvin in temperatures]
    for index, (start, kelvin) in enumerate(pairs):
        rate = rate_per_ns * (kelvin / 1200.0) ** 2.5
        first = rng.exponential(1000.0 / rate) if rate > 0 else np.inf
        failed = bool(first < length_ps)
        kind = KINDS[index % len(KINDS)] if failed else ""
        at = float(first) if failed else np.nan
        common = {
            "job": job, "run": run, "start": start, "name": names[start], "formula": "C2H6O", "n_atoms": atoms[start],
            "temperature_k": kelvin,
        }  # fmt: skip
        drift = 0.02 * (3 if "gemnet_q" in run else 1) * rng.normal() if nve else np.nan
        robust.append(
            {
                **common, "trajectory": index, "replica": 0, "n_samples": len(grid), "n_missing": 0,
                "observed_ps": length_ps, "failed": failed, "failure_ps": at, "failure_kind": kind, "detail": "",
                "first_topology_ps": np.nan, "first_fragments_ps": np.nan, "first_temperature_ps": np.nan,
                "first_energy_ps": np.nan, "n_fragments_end": 2 if failed else 1, "n_events": 2 if failed else 0,
                "mean_temperature_k": kelvin * (3 if failed else 1), "max_temperature_k": kelvin * 1.6,
                "max_potential_above_start_ev": 1.0, "energy_drift_mev_per_atom_ps": drift,
                "energy_drift_error_mev_per_atom_ps": abs(drift) / 10,
            }
        )  # fmt: skip
        replicas.append(
            {
                **common, "replica": index, "alive": True, "survived_ps": length_ps, "reason": "",
                "mean_temperature_k": kelvin,
                **({"drift_mev_per_atom_ps": drift, "fluctuation_mev_per_atom": 0.05 + abs(drift)} if nve else {}),
            }
        )  # fmt: skip
        noise = np.cumsum(rng.normal(0, 1e-3 if nve else 0.1, len(grid)))
        samples.append(
            pd.DataFrame(
                {
                    "job": job, "run": run, "replica": index, "start": start, "temperature_k": kelvin, "time_ps": grid,
                    "potential_ev": -100.0 + 0.2 * np.sin(40 * grid) + noise, "kinetic_ev": 1 - 0.2 * np.sin(40 * grid),
                    "measured_temperature_k": kelvin, "alive": True,
                }
            )
        )  # fmt: skip
        topology.append(
            pd.DataFrame(
                {"trajectory": index, "time_ps": grid, "n_fragments": 1, "n_broken": (grid > first).astype(int),
                 "n_formed": 0, "largest_bond_change_angstrom": 0.1}
            )
        )  # fmt: skip
    folder = root / "md" / job / run
    save(pd.DataFrame(replicas), folder / "replicas.csv")
    save(pd.concat(samples), folder / "samples.csv")
    save(pd.concat(topology), folder / "topology.csv")
    frame = pd.DataFrame(robust)
    save(frame, folder / "robustness.csv")
    n = len(pairs)
    summary = {
        "job": job, "run": run, "config": {"precision": "float32"}, "n_trajectories": n, "n_samples": len(grid),
        "n_atoms": int(sum(atoms[start] for start, _ in pairs)), "time_ps": length_ps, "steps": 4000, "seconds": 20.0,
        "steps_per_second": 200.0, "system_steps_per_second": 200.0 * n, "device": "cpu",
        "environment": {"processor": "Test CPU", "threads": 1, "device": "cpu"},
    }  # fmt: skip
    write_text(folder / "summary.json", json.dumps(summary))
    return frame


def write_checks(
    root: Path, job: str, run: str, frame: pd.DataFrame, error: float, samples: int, reference: bool = True,
    shift: float = 0.0, judge: str | None = None,
) -> None:  # fmt: skip
    """Checks at the same times of every trajectory: small errors before the failure, large ones and fewer after it."""
    rng = rng_of(job, run, judge or run)
    labels, judged, components = [], [], []
    index = 0
    for line in frame.to_dict("records"):
        fluctuation = 0.04 * np.sqrt(line["n_atoms"]) * line["temperature_k"] / 300
        for time in np.linspace(0.0, line["observed_ps"], samples):
            alive = not (line["failed"] and time >= line["failure_ps"])
            status = "converged"
            if not reference:
                status = ("unconverged", "nan_geometry", "timeout")[index % 3]
            elif not alive:
                status = ("converged", "converged_fallback", "unconverged", "unconverged")[index % 4]
            has = status.startswith("converged")
            scale = error * (line["temperature_k"] / 300) ** 0.5 * (1.0 if alive else 300.0)
            dft = -4.0 * line["n_atoms"] + fluctuation * rng.normal()
            wrong = shift + scale * rng.normal() * 2
            common = {
                "frame": index, "trajectory": line["trajectory"], "start": line["start"], "name": line["name"],
                "formula": line["formula"], "n_atoms": line["n_atoms"], "temperature_k": line["temperature_k"],
                "time_ps": time,
            }  # fmt: skip
            seconds = 0.02 * line["n_atoms"] ** 2.5 * (1 if status == "converged" else 5) * np.exp(0.1 * rng.normal())
            labels.append(
                {
                    **common, "status": status, "strategy": "diis" if status == "converged" else "newton", "cycles": 12,
                    "energy_ev": dft if has else np.nan, "seconds": 1.1 * seconds,
                    "cpu_seconds": np.nan if status == "timeout" else seconds, "max_rss_mb": 300.0,
                    "n_basis": 10 * line["n_atoms"], "level": "pbe0+mbd/def2-svp", "n_fragments": 1, "backend": "cpu",
                }
            )  # fmt: skip
            force = scale * (0.8 + 0.4 * rng.random())
            judged.append(
                {
                    **common, "alive": alive, "status": status, "strategy": labels[-1]["strategy"],
                    "ae_dft_ev": dft if has else np.nan, "ae_predicted_ev": dft + wrong,
                    "ae_error_ev": wrong if has else np.nan,
                    "force_mae_ev_per_angstrom": force if has else np.nan, "force_norm_dft": 2.0,
                }
            )  # fmt: skip
            if has:
                true = rng.laplace(0, 1.2, 12)
                components.append(
                    pd.DataFrame(
                        {"frame": index, "name": line["name"], "atom": 0, "element": "C", "component": "x",
                         "force_dft": true, "force_predicted": true + 1.25 * force * rng.normal(size=12)}
                    )
                )  # fmt: skip
            index += 1
    folder = root / "checks" / job / run
    if judge is None:
        save(pd.DataFrame(labels), folder / "labels.csv")
    save(pd.DataFrame(judged), folder / "judged" / f"{judge or run}.csv")
    empty = pd.DataFrame(columns=["frame", "name", "atom", "element", "component", "force_dft", "force_predicted"])
    save(pd.concat(components) if components else empty, folder / "judged" / f"{judge or run}.components.csv")


def write_study(
    root: Path,
    scale: str = "full",
    fragile: float = 1.0,
    networks: Sequence[str] = tuple(FRAGILITY),
    n_molecules: int = 20,
    samples: int = 6,
    no_reference: Sequence[str] = ("schnet",),
    large: Sequence[str] = LARGE,
    length_ps: float = 1000.0,
    floor: float = 0.02,
    seeds: int = 3,
    checked: bool = True,
) -> RunTables:
    """A whole study below ``root``; ``fragile`` multiplies all rates of failure."""
    sizes = SIZES[scale]
    names = [f"molecule-{index:02d}" for index in range(n_molecules)]
    atoms = [int(n) for n in np.linspace(5, 21, n_molecules)]
    for network in networks:
        own = (
            sizes
            if network == "gemnet_q"
            else (sizes[0], sizes[-1])
            if network in ("gemnet_t", "schnet")
            else sizes[-1:]
        )
        for size in own:
            run = run_name(scale, network, size)
            full_size = SIZES["full"][sizes.index(size)]
            error = write_training(root, run, full_size if scale == "full" else size, seeds)
            rate = fragile * FRAGILITY[network] * (full_size / 3200) ** -0.75 * (1000.0 / length_ps)
            frame = write_dynamics(root, "thermal", run, names, atoms, TEMPERATURES, length_ps, rate)
            if checked:
                write_checks(root, "thermal", run, frame, error, samples)
    small, big = run_name(scale, "gemnet_q", sizes[0]), run_name(scale, "gemnet_q", sizes[-1])
    if checked:
        frame = pd.read_csv(root / "md" / "thermal" / big / "robustness.csv")
        write_checks(root, "thermal", big, frame, 0.1, samples, judge=small)
    active = run_name(scale, "gemnet_q", sizes[0], "active")
    write_training(root, active, sizes[0] + 40, seeds)
    write_dynamics(root, "thermal", active, names, atoms, TEMPERATURES, length_ps, fragile * 0.4 * 1000 / length_ps)
    stocker_active.write_active(
        [
            {"robustness": root / "md" / "thermal" / run / "robustness.csv",
             "runs": root / "tables" / run / "runs.csv", "n_added": n}
            for run, n in ((small, 0), (active, 40))
        ],
        root / "active" / "active.csv",
    )  # fmt: skip
    for network in ("gemnet_q", "gemnet_t", "schnet"):
        if network not in networks:
            continue
        run = run_name(scale, network, sizes[-1])
        error = {"gemnet_q": 0.012, "gemnet_t": 0.014}.get(network, 0.08)
        for job, kelvin, rate in (("large1200", 1200.0, 0.0), ("large1800", 1800.0, 0.3)):
            if job == "large1800" and network != "gemnet_q":
                continue
            counts = [LARGE_ATOMS[name] for name in large]
            frame = write_dynamics(
                root, job, run, large, counts, [kelvin], length_ps, fragile * rate * 1000 / length_ps
            )
            if checked:
                write_checks(root, job, run, frame, error, 72 if scale == "full" else 4,
                             reference=network not in no_reference,
                             shift=0.1 if job == "large1200" else 0.0)  # fmt: skip
        write_dynamics(root, "nve", run, names, atoms, [300.0], length_ps / 10, 0.0, nve=True)
        if network != "schnet":
            chosen = dict(list(SINGULAR.items())[: 4 if scale == "full" else 2])
            write_dynamics(root, "singular", run, list(chosen), list(chosen.values()), [300.0], 20.0, 0.0, nve=True)
            rng = rng_of(run, "spikes")
            tables = [
                pd.DataFrame(
                    {
                        "trajectory": index, "time_ps": np.arange(2000) * 5e-4, "largest_force_ev_per_angstrom": 4.0,
                        "largest_force_change_ev_per_angstrom": np.abs(rng.normal(0.3, 0.1, 2000))
                        + (rng.random(2000) < 0.01) * (network == "gemnet_q") * rng.exponential(1.0, 2000),
                        "interval_fs": 0.5, "resolution_ev_per_angstrom": 1e-3,
                    }
                )
                for index in range(len(chosen))
            ]  # fmt: skip
            save(pd.concat(tables), root / "md" / "singular" / run / "spikes.csv")
    if checked:
        rows = {"row": range(50), "n_atoms": 15, "formula": "C2H6O", "status": "converged",
                "ae_difference_ev": floor * np.linspace(-2, 2, 50), "force_mae_ev_per_angstrom": floor / 2}  # fmt: skip
        save(pd.DataFrame(rows), root / "floor" / "floor.csv")
    summaries = sorted((root / "md").glob("thermal/*/summary.json"))
    forecasts.write_forecast(summaries, sorted((root / "checks").glob("*/*/labels.csv")), root / "forecast.csv",
                             {"atoms": 23}, "Test CPU")  # fmt: skip
    return read(root)


def read(root: Path) -> RunTables:
    paths = [
        path for path in sorted(root.rglob("*")) if path.suffix in (".csv", ".json") and ".sha256" not in path.parts
    ]
    return RunTables.from_paths(paths)


def make_context(scale: str = "full", networks: Sequence[str] = tuple(FRAGILITY)) -> StudyContext:
    runs = {}
    for network in networks:
        for size in SIZES[scale]:
            name = run_name(scale, network, size)
            runs[name] = RunInfo(name, ("curve",), "qm7x", network, SHIFT[scale], size, (0, 1, 2))
    settings: dict[str, Any] = {
        "checks": {"max_cycle": 50, "time_limit_s": 3600.0, "memory_limit_mb": 6000},
        "md": {"thermal": {"runs": [{"run": name} for name in runs]}},
    }
    return StudyContext(scale, CLAIMS, {}, runs, settings)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return write_study(tmp_path_factory.mktemp("full"), n_molecules=8, samples=3)


@pytest.fixture(scope="module")
def none_failed(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    networks = ("gemnet_q", "schnet")
    return write_study(tmp_path_factory.mktemp("none"), fragile=0.0, networks=networks, n_molecules=3, samples=2)


@pytest.fixture(scope="module")
def all_failed(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    """At the mini scale, with one large molecule and without a floor worth a mark."""
    return write_study(
        tmp_path_factory.mktemp("all"), "mini", fragile=1e6, networks=("gemnet_q", "schnet"), n_molecules=3, samples=3,
        no_reference=("gemnet_q", "schnet"), large=("furopyrrolamine",), length_ps=2.0, floor=0.0, seeds=1,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, pd.DataFrame]]:
    """Figures that a product would save, with what they draw."""
    saved: list[tuple[Any, pd.DataFrame]] = []

    def keep(figure: Any, tidy: pd.DataFrame, output: Any) -> None:
        plt.close(figure)
        saved.append((figure, tidy))

    for module in (robustness, stocker_large, stocker_conservation, stocker_active):
        monkeypatch.setattr(module, "save_figure", keep)
    return saved


def note_of(figure: Any) -> str:
    return str(figure._supxlabel.get_text().replace("\n", " "))


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_units_scale_and_numbers(
    name: str, full: RunTables, drawn: list[tuple[Any, pd.DataFrame]], tmp_path: Path
) -> None:
    FIGURES[name](full, make_context(), tmp_path / "a.png")
    ((figure, tidy),) = drawn
    assert len(tidy) > 0
    labels = [axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes if axis.axison]
    assert any("(" in label for label in labels)
    note = note_of(figure)
    assert note.startswith("full scale")
    assert " n = " in note
    assert "nan" not in " ".join([note, *texts_of(figure)]).lower().split()


@pytest.mark.parametrize("name", list(FIGURES))
@pytest.mark.parametrize("which", ["none_failed", "all_failed"])
def test_figures_of_extremes(name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tables = request.getfixturevalue(which)
    FIGURES[name](tables, make_context("mini" if which == "all_failed" else "full"), tmp_path / "a.png")
    for suffix in (".png", ".svg", ".csv"):
        assert (tmp_path / f"a{suffix}").stat().st_size > 0


@pytest.mark.parametrize("name", [*FIGURES, *(name for name in TABLES if name != "forecast")])
def test_nothing_run_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^(figure|table) [^\n]*config/studies/stocker\.yaml$"):
        {**FIGURES, **TABLES}[name](RunTables(), make_context(), tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_names_of_runs() -> None:
    run = "qm7x-gemnet_q-isolated_atoms-n3200"
    assert (robustness.network_of(run), robustness.size_of(run), robustness.data_of(run)) == ("gemnet_q", 3200, "qm7x")
    assert robustness.network_of("pretrained-ani2x") == "ani2x"
    assert robustness.is_pretrained("ani2x")
    assert robustness.look_of("ani2x").title == "ANI-2x"
    assert stocker_large.letter_of("Ser-Trp-Leu") == "D"


def test_networks_are_compared_at_the_size_most_of_them_have() -> None:
    runs = [run_name("full", "gemnet_q", size) for size in SIZES["full"]]
    runs += [run_name("full", name, 32000) for name in ("schnet", "egnn")]
    runs += [run_name("full", "so3krates", 3200), "ani2x"]
    chosen = robustness.matrix_runs(runs)
    assert [(robustness.network_of(run), robustness.size_of(run)) for run in chosen] == [
        ("gemnet_q", 32000), ("schnet", 32000), ("so3krates", 3200), ("egnn", 32000), ("ani2x", None),
    ]  # fmt: skip


def test_lifetimes_are_of_the_failure_or_the_end() -> None:
    frame = pd.DataFrame({"observed_ps": [10.0, 10.0], "failed": [True, False], "failure_ps": [4.0, np.nan]})
    assert list(robustness.lifetimes(frame)["time_ps"]) == [4.0, 10.0]


def test_survival_without_and_with_failures() -> None:
    time = np.array([1.0, 2.0, 3.0, 4.0])
    none = pd.DataFrame({"time_ps": time, "failed": False})
    found = robustness.survived(none)
    assert found.value == 1
    assert found.low == pytest.approx(4 / (4 + 1.959964**2), rel=1e-4)  # Wilson, all of n
    half = pd.DataFrame({"time_ps": time, "failed": [True, False, True, False]})
    # Of four one fails at 1, of the two left one at 3.
    assert robustness.survived(half).value == pytest.approx(0.75 * 0.5)
    curve = robustness.survival_curve(half)
    assert curve["time_ps"].iloc[0] == 0
    assert curve["time_ps"].iloc[-1] == 4
    rate = robustness.rate_of(half)
    assert rate.value == pytest.approx(2 / 0.010)
    assert rate.low < rate.value < rate.high
    assert not np.isfinite(robustness.rate_of(half.assign(time_ps=0.0)).value)


def test_survival_figure_draws_the_trajectories(full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    robustness.survival(full, make_context(), "a.png")
    figure, tidy = drawn[0]
    run = run_name("full", "gemnet_q", 32000)
    frame = full.robustness("thermal", run)
    hot = frame[frame["temperature_k"] == 1200]
    last = tidy[(tidy["run"] == run) & (tidy["temperature_k"] == 1200)].iloc[-1]
    # Censored at the end only, so the estimate is the share that is left.
    assert last["alive"] == pytest.approx(1 - hot["failed"].mean())
    assert 0 < last["alive"] < 1
    assert str(int((~hot["failed"]).sum())) in texts_of(figure)
    failed = sum(int(full.robustness("thermal", name)["failed"].sum()) for name in tidy["run"].unique())
    assert f"{failed} of 96 trajectories failed" in note_of(figure)


def test_figure_says_that_nothing_failed(none_failed: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    robustness.survival(none_failed, make_context(), "a.png")
    figure, tidy = drawn[0]
    assert (tidy["alive"] == 1).all()
    assert "None of the 36 trajectories failed" in note_of(figure)


def test_matrix_numbers(full: RunTables) -> None:
    rows = robustness.matrix_rows(full, "figure")
    assert len(rows) == len(FRAGILITY) * len(TEMPERATURES)
    run = run_name("full", "schnet", 3200000)
    row = rows[(rows["run"] == run) & (rows["temperature_k"] == 1200)].iloc[0]
    robust = robustness.lifetimes(full.robustness("thermal", run))
    hot = robust[robust["temperature_k"] == 1200]
    assert row["failures_per_ns"] == pytest.approx(1000 * hot["failed"].sum() / hot["time_ps"].sum())
    assert row["events_per_ns"] == pytest.approx(1000 * hot["n_events"].sum() / hot["observed_ps"].sum())
    judged = full.judged("thermal", run)
    good = judged[(judged["temperature_k"] == 1200) & (judged["status"] == "converged")]
    mean = good["ae_error_ev"].abs().groupby(good["trajectory"]).mean().mean()
    assert row["ae_mae_ev"] == pytest.approx(mean)
    assert row["n_converged"] == len(good)


def test_what_was_not_run_is_named_with_its_reason(
    none_failed: RunTables, drawn: list[tuple[Any, pd.DataFrame]], tmp_path: Path
) -> None:
    context = make_context(networks=("gemnet_q", "schnet", "egnn"))
    settings = {**context.settings, "matrix": {"not_run": {"ani2x": "the weights were not downloaded"}}}
    context = StudyContext("full", CLAIMS, {}, context.runs, settings)
    robustness.robustness_matrix(none_failed, context, "a.png")
    figure, _ = drawn[0]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["GemNet-Q", "SchNet", "EGNN\n(not run)", "ANI-2x\n(not run)"]
    assert "ANI-2x (the weights were not downloaded)" in note_of(figure)
    stocker_tables.robustness_matrix_table(none_failed, context, tmp_path / "a.html")
    frame = pd.read_csv(tmp_path / "a.csv").set_index("title")
    assert frame.loc["ANI-2x", "note"] == "not run: the weights were not downloaded"
    assert frame.loc["EGNN", "note"] == "not run: its dynamics are not among the results"


def test_large_summary_is_that_of_the_plainly_converged_frames() -> None:
    dft, errors = np.array([-10.0, -9.0, -8.0, -7.0]), np.array([0.4, 0.5, 0.6, 9.0])
    frame = pd.DataFrame(
        {"frame": range(4), "status": ["converged"] * 3 + ["converged_fallback"], "ae_dft_ev": dft,
         "ae_predicted_ev": dft + errors, "ae_error_ev": errors,
         "force_mae_ev_per_angstrom": [0.1, 0.2, 0.3, 5.0]}
    )  # fmt: skip
    true = np.linspace(-1, 1, 12)
    components = pd.DataFrame({"frame": np.repeat(range(4), 3), "force_dft": true, "force_predicted": true + 0.1})
    found = stocker_large.large_summary(frame, components)
    assert (found["n_frames"], found["n_converged"]) == (4, 3)
    assert found["ae_shift_ev"] == pytest.approx(0.5)
    assert found["ae_std_ev"] == pytest.approx(0.1)
    assert found["ae_r2"] == pytest.approx(np.corrcoef(dft[:3], (dft + errors)[:3])[0, 1] ** 2)
    assert found["force_mae_ev_per_angstrom"] == pytest.approx(0.2)
    assert found["force_std_ev_per_angstrom"] == pytest.approx(0, abs=1e-12)
    assert found["force_r2"] == pytest.approx(1)


def test_correlations_print_numbers_and_missing_references(
    full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]
) -> None:
    stocker_large.large_correlations(full, make_context(), "a.png")
    figure, tidy = drawn[0]
    texts = texts_of(figure)
    assert sum(text == "S no DFT reference" for text in texts) == 8
    assert "P +0.47 0.045 0.998" in texts
    assert texts.count("P 0.012 to 0.036") == 4
    summary = tidy[(tidy["kind"] == "summary") & (tidy["letter"] == "D")].set_index("network")
    shift = summary.loc["gemnet_q", "ae_shift_ev"]
    assert shift == pytest.approx(0.1, abs=0.03)
    assert any(text.startswith(f"Q +{shift:.2f}") or text.startswith("Q +0.0") for text in texts)
    assert [str(name) for name in tidy["letter"].dropna().unique()] == ["A", "B", "C", "D"]


def test_a_single_molecule_keeps_its_letter(all_failed: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    stocker_large.large_correlations(all_failed, make_context("mini"), "a.png")
    figure, tidy = drawn[0]
    assert set(tidy["letter"]) == {"B"}
    assert "no DFT\nreference" in texts_of(figure)
    assert "no reproduction of the paper" in note_of(figure)


def test_absurd_predictions_do_not_hide_the_others() -> None:
    figure, axis = plt.subplots()
    x = np.linspace(-10, -9, 50)
    data = [("qm7x-gemnet_q-none-n1", x, x + 0.01), ("qm7x-schnet-none-n1", x, x + 40.0)]
    outside = stocker_large._correlation(axis, data, ["gemnet_q", "schnet"], 0.02, 5.0)
    low, high = axis.get_ylim()
    plt.close(figure)
    assert outside == {"qm7x-gemnet_q-none-n1": 0, "qm7x-schnet-none-n1": 50}
    assert -11 < low < high < -8


def test_hot_dynamics_tell_fates(full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    stocker_large.large_hot(full, make_context(), "a.png")
    figure, _ = drawn[0]
    frame = robustness.lifetimes(full.robustness("large1800", run_name("full", "gemnet_q", 3200000)))
    titles = [axis.get_title() for axis in figure.axes[:4]]
    for title, line in zip(titles, frame.to_dict("records"), strict=True):
        assert ("fails at" in title) == line["failed"]
        assert ("stays whole" in title) == (not line["failed"])


def test_total_energy_counts_from_the_first_sample(full: RunTables) -> None:
    run = run_name("full", "gemnet_q", 3200000)
    energies = stocker_conservation.total_energies(full, "nve", run)
    first = energies.groupby("trajectory").first()
    assert (first["deviation_ev"] == 0).all()
    samples = full.md("samples", "nve", run)
    one = samples[samples["replica"] == 0]
    total = (one["potential_ev"] + one["kinetic_ev"]).to_numpy()
    np.testing.assert_allclose(energies.loc[energies["trajectory"] == 0, "deviation_ev"], total - total[0])


def test_exceedance_counts_what_is_above() -> None:
    values, share = stocker_conservation.exceedance(np.array([3.0, 1.0, np.nan, 2.0, 0.0, 4.0]))
    np.testing.assert_allclose(values, [1, 2, 3, 4])
    np.testing.assert_allclose(share, [1, 0.75, 0.5, 0.25])


def test_singularities_compare_the_jumps(full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    stocker_conservation.singularities(full, make_context(), "a.png")
    figure, tidy = drawn[0]
    rows = tidy[tidy["panel"] == "summary"].set_index(["network", "name"])
    spiked = full.md("spikes", "singular", run_name("full", "gemnet_q", 3200000))
    assert rows.loc[("gemnet_q", "acetonitrile"), "largest_jump"] == pytest.approx(
        spiked.loc[spiked["trajectory"] == 0, "largest_force_change_ev_per_angstrom"].max()
    )
    for name in SINGULAR:
        assert rows.loc[("gemnet_q", name), "largest_jump"] > rows.loc[("gemnet_t", name), "largest_jump"]
    assert "samples 0.5 fs apart" in note_of(figure)


def test_without_forces_the_jumps_are_of_the_energy(
    full: RunTables, drawn: list[tuple[Any, pd.DataFrame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = full.md_jobs
    monkeypatch.setattr(full, "md_jobs", lambda kind="replicas": [] if kind == "spikes" else jobs(kind))
    stocker_conservation.singularities(full, make_context(), "a.png")
    figure, tidy = drawn[0]
    assert "Forces were not kept" in note_of(figure)
    assert set(tidy["jump_of"].dropna()) == {"total energy (meV/atom)"}


def test_active_learning_before_and_after(full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    frame = stocker_active.active_frame(full)
    assert dict(frame.groupby("round")["n_train"].first()) == {0: 3200, 1: 3240}
    assert dict(frame.groupby("round")["n_added"].first()) == {0: 0, 1: 40}
    before = full.robustness("thermal", run_name("full", "gemnet_q", 3200))
    assert frame.loc[frame["round"] == 0, "failed"].sum() == before["failed"].sum() > 0
    stocker_active.active_learning(full, make_context(), "a.png")
    figure, tidy = drawn[0]
    rates = tidy[(tidy["panel"] == "failures_per_ns") & (tidy["temperature_k"] == 1200)].set_index("round")["value"]
    assert rates[0] > rates[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == [
        "before: 3\u202f200 rows", "after: 3\u202f240 rows, 40 added",
    ]  # fmt: skip


def test_rounds_without_training_tables(tmp_path: Path, full: RunTables, drawn: list[tuple[Any, pd.DataFrame]]) -> None:
    frame = full.robustness("thermal", run_name("full", "gemnet_q", 3200))
    save(frame, tmp_path / "robustness.csv")
    rounds = [{"robustness": tmp_path / "robustness.csv", "n_train": n} for n in (10, 20, 30)]
    stocker_active.write_active(rounds, tmp_path / "active" / "active.csv")
    stocker_active.active_learning(RunTables.from_paths([tmp_path / "active" / "active.csv"]), make_context(), "a.png")
    figure, _ = drawn[0]
    assert "test errors not given" in texts_of(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()][2] == "round 2: 30 rows"
    with pytest.raises(InputError, match="no rounds were given"):
        stocker_active.write_active([], tmp_path / "a.csv")


def test_results_stand_beside_the_papers(full: RunTables, tmp_path: Path) -> None:
    stocker_tables.results_table(full, make_context(), tmp_path / "results.html")
    frame = pd.read_csv(tmp_path / "results.csv").fillna({"paper": "", "reading": ""})
    main = frame[(frame["network"] == "GemNet-Q") & (frame["data"] == "random rows")]

    def paper(quantity: str, rows: int, kelvin: float | None = None, molecule: str | None = None) -> str:
        found = main[(main["quantity"] == quantity) & (main["n_train"] == rows)]
        if kelvin is not None:
            found = found[found["temperature_k"] == kelvin]
        if molecule is not None:
            found = found[found["molecule"] == molecule]
        return str(found.iloc[0]["paper"])

    assert paper("force MAE", 3200) == "0.035"
    assert paper("force MAE", 3200000) == "0.0043"
    assert paper("AE MAE against DFT", 3200, 300) == ">= 10"
    assert paper("AE MAE against DFT", 3200000, 1200) == "0.0284"
    assert paper("DFT converged", 320000, 600) == "100"
    assert paper("DFT converged", 3200, 1200) == "50"
    assert paper("mean AE error", 3200000, 1200, "D ser-trp-leu") == "0.47"
    assert paper("force MAE against DFT", 3200000, 1200, "A paracetamol") == "0.012 to 0.036"
    others = frame[frame["network"].isin(["SchNet", "EGNN"])]
    assert (others["paper"] == "").all()
    below = frame[frame["reading"].str.contains("below")]
    assert len(below) > 0
    assert (below["ours"] < below["floor"]).all()
    page = (tmp_path / "results.html").read_text()
    assert "nan" not in page.lower().split("<tbody>")[1].split("</tbody>")[0]
    crossed = frame[frame["where"].str.startswith("frames of")]
    assert set(crossed["n_train"]) == {3200}


def test_checks_are_counted_by_status(full: RunTables, tmp_path: Path) -> None:
    stocker_tables.checks_table(full, make_context(), tmp_path / "checks.html")
    frame = pd.read_csv(tmp_path / "checks.csv")
    statuses = list(stocker_tables.STATUSES)
    assert (frame[[*statuses, "other"]].sum(axis=1) == frame["n"]).all()
    labels = full.checks("thermal", run_name("full", "gemnet_q", 3200))
    hot = labels[labels["temperature_k"] == 1200]
    chosen = frame[(frame["job"] == "molecules of the data") & (frame["network"] == "GemNet-Q")]
    row = chosen[(chosen["n_train"] == 3200) & (chosen["temperature_k"] == 1200)].iloc[0]
    assert row["plain_percent"] == pytest.approx(100 * (hot["status"] == "converged").mean())
    assert row["ladder_percent"] > row["plain_percent"]
    page = (tmp_path / "checks.html").read_text()
    assert "50 cycles of plain DIIS, 3600 s" in page


def test_costs_by_size_follow_the_power_that_was_put_in(full: RunTables, tmp_path: Path) -> None:
    stocker_tables.check_costs_table(full, make_context(), tmp_path / "costs.html")
    frame = pd.read_csv(tmp_path / "costs.csv")
    assert frame["n"].sum() == sum((full.checks(*pair)["status"] != "nan_geometry").sum() for pair in full.check_jobs())
    np.testing.assert_allclose(frame["per_core_hour"], 3600 / frame["mean_seconds"])
    assert "to the power 2.5" in (tmp_path / "costs.html").read_text()


def make_summary(rate: float = 1000.0, gpu: str = "") -> dict[str, Any]:
    environment = {"processor": "P", "threads": 2, "device": "cuda" if gpu else "cpu", **({"gpu": gpu} if gpu else {})}
    return {
        "job": "thermal", "run": "qm7x-schnet-none-n12", "config": {"precision": "float32"}, "n_trajectories": 4,
        "n_atoms": 40, "steps": 10, "seconds": 1.0, "system_steps_per_second": rate, "environment": environment,
    }  # fmt: skip


def test_forecast_of_dynamics() -> None:
    table = forecasts.forecast([make_summary(), make_summary(7000.0, "H100")], [], {"atoms": 20})
    on_cpu, on_gpu = table.to_dict("records")
    # 280 ns of 0.5 fs at 1000 steps/s, on two threads; molecules of 10 atoms.
    assert on_cpu["hours"] == pytest.approx(2 * 560e6 / 1000 / 3600)
    assert on_cpu["hours_scaled"] == pytest.approx(2 * on_cpu["hours"])
    assert (on_cpu["unit"], on_cpu["hardware"]) == ("core h", "P")
    assert on_gpu["hours"] == pytest.approx(560e6 / 7000 / 3600)
    assert (on_gpu["unit"], on_gpu["hardware"]) == ("GPU h", "H100")


def make_labels(power: float = 3.0) -> pd.DataFrame:
    atoms = np.repeat([4, 6, 9], 4)
    return pd.DataFrame(
        {"n_atoms": atoms, "status": "converged", "seconds": 2.0 * atoms**power, "cpu_seconds": 1.0 * atoms**power,
         "level": "L", "n_basis": 10 * atoms, "backend": "cpu"}
    )  # fmt: skip


def test_forecast_of_calculations() -> None:
    labels = make_labels()
    row = forecasts.forecast([], [labels], {"atoms": 12}, "CPU").iloc[0]
    mean = np.mean(labels["n_atoms"].to_numpy(float) ** 3)
    assert row["hours"] == pytest.approx(17280 * mean / 3600)
    assert row["exponent"] == pytest.approx(3)
    assert row["hours_scaled"] == pytest.approx(17280 * 12**3 / 3600)
    assert "from 4 to 9 atoms to 12, power 3.00" in row["extrapolated"]
    basis = forecasts.forecast([], [labels], {"basis_functions": 180}).iloc[0]
    assert basis["hours_scaled"] == pytest.approx(17280 * 18**3 / 3600)


def test_forecast_scales_nothing_from_two_sizes() -> None:
    row = forecasts.forecast([], [make_labels().iloc[:8]], {"atoms": 12}).iloc[0]
    assert np.isnan(row["hours_scaled"])
    assert "fewer than 3 sizes" in row["extrapolated"]


def test_killed_calculations_count_with_their_wall_time() -> None:
    labels = make_labels()
    labels.loc[0, ["status", "cpu_seconds", "seconds"]] = ["timeout", np.nan, 5000.0]
    labels.loc[1, "status"] = "nan_geometry"
    row = forecasts.forecast([], [labels]).iloc[0]
    assert row["n_measured"] == 11
    assert row["seconds_measured"] == pytest.approx(5000 + (labels["n_atoms"].astype(float) ** 3).iloc[2:].sum())


def test_forecast_needs_a_measurement(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^forecast: no measured rates"):
        forecasts.forecast([make_summary(0.0)], [])
    with pytest.raises(InputError, match=r"^forecast: summary\.json without key 'seconds'"):
        forecasts.forecast([{key: value for key, value in make_summary().items() if key != "seconds"}], [])
    with pytest.raises(InputError, match=r"^forecast\.time_ns: "):
        forecasts.forecast([make_summary()], [], {"time_ns": -1.0})
    with pytest.raises(InputError, match=r"forecast\.csv was not given"):
        stocker_tables.forecast_table(RunTables(), make_context(), tmp_path / "a.html")


def test_forecast_table_names_hardware_and_extrapolation(full: RunTables, tmp_path: Path) -> None:
    stocker_tables.forecast_table(full, make_context(), tmp_path / "forecast.html")
    frame = pd.read_csv(tmp_path / "forecast.csv")
    assert set(frame["hardware"]) == {"Test CPU"}
    assert frame["extrapolated"].notna().all()
    assert set(frame.loc[frame["part"] == "dynamics", "parameters"]) == {123456}
    page = (tmp_path / "forecast.html").read_text()
    assert "280 ns in all" in page
    assert "17\u202f280 calculations (paper: 72 frames of 20 molecules" in page


def harmonic(n: int, step_fs: float, kink: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a carbon atom by velocity Verlet in a harmonic well with a kink at 0, and the forces on it."""
    mass = atomic_masses[6]
    unit = 1.0 / units.fs**2
    force = lambda x: -5.0 * x - kink * np.sign(x)  # noqa: E731
    x, v = np.zeros(n), 0.0
    x[0] = 0.1
    forces = np.zeros(n)
    for index in range(n):
        forces[index] = force(x[index])
        if index + 1 < n:
            a = forces[index] / (mass * unit)
            x[index + 1] = x[index] + v * step_fs + 0.5 * a * step_fs**2
            v += 0.5 * (a + force(x[index + 1]) / (mass * unit)) * step_fs
    positions = np.zeros((n, 1, 3))
    positions[:, 0, 0] = x
    return positions, forces


def test_positions_of_every_step_hold_the_forces() -> None:
    positions, forces = harmonic(200, 0.5)
    masses = atomic_masses[[6]]
    found = spikes.forces_from_positions(positions, masses, 0.5)[:, 0, 0]
    np.testing.assert_allclose(found, forces[1:-1], atol=1e-8)
    rounded = positions.astype(np.float32)
    limit = spikes.resolution(rounded, masses, 0.5)
    error = np.diff(spikes.forces_from_positions(rounded, masses, 0.5)[:, 0, 0]) - np.diff(forces[1:-1])
    assert 0 < np.abs(error).max() <= limit < 0.01


def write_h5(path: Path, positions: np.ndarray, step_fs: float, ensemble: str = "nve") -> None:
    from mlip_studies.artifacts import record

    n = len(positions)
    with h5py.File(path, "w") as file:
        config = json.dumps({"ensemble": ensemble, "job": "singular", "run": "r"})
        file.attrs.update(format="mlip-studies-trajectory", version=trajectory_version(), config=config)
        file["time_ps"] = np.arange(n) * step_fs / 1000
        file["atomic_numbers"], file["ptr"] = [6], [0, 1]
        file["positions"] = positions.astype(np.float32)
        for name in ("potential_ev", "kinetic_ev"):
            file[name] = np.zeros((n, 1))
        file["start"], file["temperature_k"], file["replica"], file["n_valid"] = [0], [300.0], [0], [n]
    record(path)


def trajectory_version() -> int:
    from mlip_studies.md import trajectory

    return trajectory.VERSION


def test_a_kink_is_a_spike(tmp_path: Path) -> None:
    largest = {}
    for kink in (0.0, 0.3):
        positions, _ = harmonic(400, 0.5, kink)
        write_h5(tmp_path / "trajectory.h5", positions, 0.5)
        spikes.write_spikes(tmp_path / "trajectory.h5", tmp_path / "spikes.csv")
        frame = pd.read_csv(tmp_path / "spikes.csv")
        assert len(frame) == 397
        largest[kink] = frame["largest_force_change_ev_per_angstrom"].max()
        assert set(frame["interval_fs"]) == {0.5}
    # The force jumps by twice the kink where it changes sign.
    assert largest[0.3] - largest[0.0] == pytest.approx(0.6, abs=0.02)


def test_forces_need_constant_energy(tmp_path: Path) -> None:
    write_h5(tmp_path / "trajectory.h5", harmonic(10, 0.5)[0], 0.5, "nvt_langevin")
    with pytest.raises(InputError, match=r"dynamics with a thermostat \(nvt_langevin\)"):
        spikes.write_spikes(tmp_path / "trajectory.h5", tmp_path / "spikes.csv")
    write_h5(tmp_path / "trajectory.h5", harmonic(3, 0.5)[0], 0.5)
    with pytest.raises(InputError, match=r"no trajectory has four samples"):
        spikes.write_spikes(tmp_path / "trajectory.h5", tmp_path / "spikes.csv")
