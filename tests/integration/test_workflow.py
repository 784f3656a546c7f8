"""The workflow itself: what it plans, what it makes, what it reruns, and how it fails."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TINY = ["seeds=[0]", "mixes=[ANI-1ccx,20k-20k]", "budget_scale=0.03", "reference_scans=[diatomic-h2]"]
# All runs and verdicts of the demo, and those of its figures and tables that are looked at here: others start as many
# processes again, and the demo itself draws them.
SLICE = [
    *("krcelic_demo", "results/mini/costs.html", "results/mini/provenance.json"),
    *(f"results/mini/{study}/verdicts.html" for study in ("pavlovic", "stocker", "hedelius", "ortiz")),
    *(f"results/mini/{path}" for path in (
        *(f"data/figures/funnel-{name}.png" for name in (
            "spice_mini", "qm7x_mini", "comp6_mini", "md17_ethanol_mini", "ani1x_mini",
        )),
        "data/spice_mini/self_energies.json",
        *(f"data/qm7x_mini/splits/{name}.npz" for name in ("stocker", "stocker_molecules", "stocker_high_energy")),
        *(f"data/tables/{name}.html" for name in ("table3.1", "overview")),
        *(f"models/tables/{name}.html" for name in ("parameters", "equivariance")),
        "models/figures/gemnet-singularities.png",
        *(f"pavlovic/figures/{name}.png" for name in (
            "fig3-left-energies", "fig3-right-forces", "slope", "md-stability",
        )),
        *("pavlovic/tables/results.html", "pavlovic/views/outliers-3d.html"),
        *(f"stocker/figures/{name}.png" for name in (
            "learning-curves", "molecules", "md-errors", "dft-convergence", "survival", "singularities",
        )),
        *(f"stocker/tables/{name}.html" for name in ("results", "checks", "forecast")),
        *(f"hedelius/figures/{name}.png" for name in (
            "fig3.1-nbody", "fig3.3-energy-weights", "fig3.7-sizes", "comp6", "water", "curl", "nan-gradients",
        )),
        *(f"hedelius/tables/{name}.html" for name in ("equivariance", "nbody", "table3.1", "table3.2")),
        *(f"ortiz/figures/{name}.png" for name in (
            "fig7-diatomics", "fig8-bonds", "fig12-momentum", "fig14-cyclobutadiene", "fig1-cost",
        )),
        *(f"ortiz/tables/{name}.html" for name in ("scorecard", "potentials")),
    )),
]  # fmt: skip


def copy_checkout(target: Path) -> Path:
    """The files that git knows or would know, so that tests can edit them and make results of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        source = ROOT / name
        if source.is_file() and not name.startswith(("results/", "resources/ani1x-mini/build")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                (target / name).symlink_to(os.readlink(source))
            else:
                shutil.copy(source, target / name)
        elif source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(os.readlink(source))
    return target


def snakemake(folder: Path, *arguments: str, config=(), check=True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    if config:
        command += ["--config", *config]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=1700
    )
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def planned(folder: Path, *arguments: str, config=TINY) -> dict[str, int]:
    """Jobs by rule that a dry run would do."""
    done = snakemake(folder, "-n", *arguments, config=config)
    text = done.stdout + done.stderr
    counts = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)\s+(\d+)", line.strip())
        if match:
            counts[match[1]] = int(match[2])
    return counts


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in which the tiny slice of the study has run."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    snakemake(folder, *SLICE, config=TINY)
    return folder


# Runs of So3krates on SPICE at mini: 12 + 2 more seeds + 6 + 2 + 2 + 1 on SPICE, 3 + 6 on our ethanol, 8 on published
# frames; at full: 12 + 6 + 2 + 4 + 1 on SPICE, 5 + 6 and 8 on ethanol, with three seeds each. Long and hot dynamics:
# four networks of four sizes, 1 by force, 8 by molecule, 2 others and 1 extended; at mini three seeds of SchNet.
# SE(3)-Transformer: 1 first attempt, 6 (full: 10) weights, 3 rates, 1 long, 1 on ANI-1, 2 sizes, 3 read otherwise, 1
# gradient. For the figure of energies with and without a regression: 3 of mixes, 4 (full: 8) and 5 of runs. Scans:
# GFN2-xTB in float64, four networks of other studies in two precisions.
@pytest.mark.parametrize(
    ("scale", "rows", "runs", "simulations", "stores", "references"),
    [("mini", 114, 42 + 40 + 23, 12 + 22 + 2, 11, 6), ("full", 114, 132 + 92 + 71, 12 + 24 + 2, 11, 19)],
)
def test_both_scales_resolve_and_count_jobs_by_kind(tmp_path, scale, rows, runs, simulations, stores, references):
    folder = copy_checkout(tmp_path)
    counts = planned(folder, config=[f"scale={scale}"])
    assert counts["train"] == rows
    assert counts["train_run"] == runs
    assert counts["md"] == simulations
    assert counts["store"] == stores
    assert counts["spot_check"] == 17
    assert (counts["train_nbody"], counts["transfer_test"], counts["curl"]) == (2, 8, 2)
    assert (counts["run_scans"], counts["symmetry_report"], counts["reference_curve"]) == (9, 9, references)
    assert counts["total"] == sum(counts.values()) - counts["total"]


def test_every_published_data_set_and_split_resolves_at_full_scale(tmp_path):
    folder = copy_checkout(tmp_path)
    names = "spice,spice_recommended,qm7x,ani1,ani1x,comp6,rmd17_ethanol,md17_ethanol"
    counts = planned(folder, "data", config=["scale=full", f"data_sets=[{names}]"])
    # One download per published file: 1 SPICE, 8 + 1 QM7-X, 1 ANI-1, 1 ANI-1x, 11 COMP6, 1 rMD17, 1 MD17.
    assert counts["fetch"] == 25
    assert counts["store"] == 8
    assert counts["named_split"] == 15
    fetched = planned(folder, "fetch_all", config=["scale=full", f"data_sets=[{names}]"])
    # The studies' own sets come on top: the CCSD(T) ethanol frames, and two splits of rMD17 in two files each.
    assert fetched["fetch"] == 30


def test_profile_resolves_from_a_fresh_checkout(tmp_path):
    folder = copy_checkout(tmp_path)
    done = snakemake(folder, "-n", "--profile", "slurm")
    assert "train" in done.stdout + done.stderr


def test_tiny_slice_makes_all_products(checkout):
    out = checkout / "results" / "mini"
    figures = {path.name for path in (out / "krcelic" / "figures").glob("*.png")}
    assert {"fig3.1-train-loss.png", "fig3.2-validation-loss.png", "fig3.3-test-loss.png"} <= figures
    for name in figures:
        assert (out / "krcelic" / "figures" / name).with_suffix(".svg").exists()
        assert (out / "krcelic" / "figures" / name).with_suffix(".csv").exists()
    run = json.loads((out / "krcelic/runs/ani/coded/20k-20k/seed0/run.json").read_text())
    assert (run["n_train_low"], run["n_train_high"], run["n_test"]) == (200, 200, 200)
    assert run["n_parameters"] == 341_505
    verdicts = json.loads((out / "krcelic" / "verdicts.json").read_text())
    assert len(verdicts["claims"]) >= 15
    # One seed and a handful of steps: nothing stochastic may count as reproduced.
    assert not [c["id"] for c in verdicts["claims"] if c["verdict"] == "reproduced" and "test" in c["metric"]]
    assert (out / "costs.html").exists()


def test_tiny_slice_of_so3krates_on_spice_makes_all_products(checkout):
    out = checkout / "results" / "mini" / "pavlovic"
    for name in ("fig3-left-energies", "fig3-right-forces", "slope", "md-stability"):
        assert all((out / "figures" / name).with_suffix(suffix).exists() for suffix in (".png", ".svg", ".csv"))
    assert (out / "tables" / "results.html").exists() and (out / "views" / "outliers-3d.html").exists()
    # The reference alone: p/n_pad, with the smallest and the largest energies.
    for label, low, high in (("formation", 1.0, 4.0), ("total", 300.0, 1500.0)):
        (run,) = read_csv(out / "tables" / f"{label}-so3krates-mean_padded-b1" / "runs.csv")
        assert float(run["predicted_slope_ev_per_atom"]) == pytest.approx(float(run["mean_ev"]) / 6)
        assert low < -float(run["predicted_slope_ev_per_atom"]) < high
        assert int(run["n_train"]) == 110 and int(run["steps"]) == 18
    # Forces alone never see the energies: both labels train the same network.
    forces = [
        read_csv(out / "tables" / f"{label}-so3krates-none-b1" / "runs.csv")[0]["force_mae_ev_per_angstrom"]
        for label in ("formation", "total")
    ]
    assert forces[0] == forces[1]
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert len(verdicts["claims"]) >= 40
    assert not [c["id"] for c in verdicts["claims"] if c["by"] == "paper" and c["verdict"] == "reproduced"]


def test_tiny_slice_of_long_and_hot_dynamics_makes_all_products(checkout):
    out = checkout / "results" / "mini" / "stocker"
    for name in ("learning-curves", "molecules", "md-errors", "dft-convergence", "survival", "singularities"):
        assert all((out / "figures" / name).with_suffix(suffix).exists() for suffix in (".png", ".svg", ".csv"))
    for name in ("results", "checks", "forecast"):
        assert (out / "tables" / f"{name}.html").exists()
    # Labels and checks share their level at this scale: the test row that was calculated again has its own energy.
    floor = read_csv(out / "floor" / "floor.csv")
    assert floor and all(row["status"] == "converged" for row in floor)
    assert all(abs(float(row["ae_difference_ev"])) < 1e-4 for row in floor)
    assert all(float(row["force_mae_ev_per_angstrom"]) < 1e-3 for row in floor)
    # One molecule at three temperatures, of the fewest and of the most training rows; every frame has a status.
    for size in (12, 324):
        run = f"qm7x-gemnet_q-per_element-n{size}"
        robustness = read_csv(out / "md" / "thermal" / run / "robustness.csv")
        assert len(robustness) == 3 and {float(row["temperature_k"]) for row in robustness} == {300, 600, 1200}
        checks = read_csv(out / "checks" / "thermal" / run / "labels.csv")
        judged = read_csv(out / "checks" / "thermal" / run / "judged" / f"{run}.csv")
        assert len(checks) == len(judged) == 3 - sum(int(row["n_missing"]) for row in robustness)
        for check, errors in zip(checks, judged, strict=True):
            assert check["status"] == errors["status"]
            if check["status"] == "converged":
                shift = float(errors["ae_predicted_ev"]) - float(errors["ae_dft_ev"])
                assert float(errors["ae_error_ev"]) == pytest.approx(shift, abs=1e-6)
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert len(verdicts["claims"]) >= 50
    assert not [c["id"] for c in verdicts["claims"] if c["by"] == "paper" and c["verdict"] == "reproduced"]


def test_tiny_slice_of_the_se3_transformer_makes_all_products(checkout):
    out = checkout / "results" / "mini" / "hedelius"
    for name in ("fig3.1-nbody", "fig3.3-energy-weights", "fig3.7-sizes", "comp6", "water", "curl", "nan-gradients"):
        assert all((out / "figures" / f"{name}{suffix}").exists() for suffix in (".png", ".svg", ".csv"))
    for name in ("equivariance", "nbody", "table3.1", "table3.2"):
        assert (out / "tables" / f"{name}.html").exists()
    # Forces of a head of its own have a curl; the gradient of an energy has none.
    direct, gradient = (f"ani1x-{name}-per_element-std-w1-r0.001" for name in ("se3_basic", "se3_gradient"))
    for name, low, high in ((direct, 1e-6, 10.0), (gradient, 0.0, 1e-6)):
        assert all(low <= float(row["asymmetry"]) < high for row in read_csv(out / "curl" / f"{name}.csv"))
    # Errors on what was learnt, on what chose the weights and on the rest stand side by side.
    (run,) = read_csv(out / "tables" / direct / "runs.csv")
    assert all(float(run[f"{part}energy_rmse_ev"]) > 0 for part in ("train_", "validation_", ""))
    tested = read_csv(out / "tests" / "comp6" / f"{direct}.csv")
    assert len(tested) == 96 and {row["seed"] for row in tested} == {"0"}
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert len(verdicts["claims"]) >= 30


def test_tiny_slice_of_physical_adequacy_makes_all_products(checkout):
    out = checkout / "results" / "mini" / "ortiz"
    for name in ("fig7-diatomics", "fig8-bonds", "fig12-momentum", "fig14-cyclobutadiene", "fig1-cost"):
        assert all((out / "figures" / f"{name}{suffix}").exists() for suffix in (".png", ".svg", ".csv"))
    # What cannot be run is a row with its reason.
    potentials = {row["name"]: row for row in read_csv(out / "tables" / "potentials.csv")}
    assert len(potentials) == 13
    ran = {name for name, row in potentials.items() if row["ran"] == "yes"}
    assert ran == {"xtb", "gemnet_q", "schnet", "so3krates", "se3"}
    assert all(row["reason"] for name, row in potentials.items() if name not in {*ran, "pbe0"})
    # The DFT of two hydrogen atoms far from each other is that of two atoms, and the restricted one is not.
    (*_, last) = read_csv(out / "reference" / "diatomic-h2" / "pbe0-def2-svp.csv")
    assert abs(float(last["relative_energy_ev"])) < 0.01
    assert float(last["restricted_relative_energy_ev"]) > 1.0
    # Every point has a status: networks of these elements know no cobalt.
    for precision in ("float64", "float32"):
        cosan = read_csv(out / "curves" / "schnet" / precision / "cosan.csv")
        assert {row["status"] for row in cosan} == {"unsupported"}
        water = read_csv(out / "curves" / "schnet" / precision / "rotation-water.csv")
        energies = [float(row["energy_ev"]) for row in water]
        assert max(energies) - min(energies) < {"float64": 1e-9, "float32": 1e-4}[precision]
    score = read_csv(out / "tables" / "scorecard.csv")
    assert {row["verdict"] for row in score} >= {"pass", "fail", "not run"}
    # A head of forces of its own is no gradient, whatever it has learnt.
    direct = [row["verdict"] for row in score if (row["name"], row["test"]) == ("se3", "forces against −ΔE/ΔR")]
    assert set(direct) == {"fail"}
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert len(verdicts["claims"]) >= 60


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_funnel_of_spice_counts_what_the_file_holds(checkout):
    kept = charged = other = 0
    with h5py.File(checkout / "resources/spice-mini/SPICE-mini.hdf5") as file:
        for group in file.values():
            n = len(group["conformations"])
            smiles = group["smiles"][0].decode()
            # Signs stand before the map number, inside brackets; every mapped ion here carries one unit of charge.
            charge = len(re.findall(r"\+:\d", smiles)) - len(re.findall(r"-:\d", smiles))
            if charge:
                charged += n
            elif set(group["atomic_numbers"][:]) <= {1, 6, 7, 8, 16}:
                kept += n
            else:
                other += n
    steps = {row["step"]: row for row in read_csv(checkout / "results/mini/data/spice_mini/funnel.csv")}
    funnel = [row["step"] for row in read_csv(checkout / "results/mini/data/spice_mini/funnel.csv")]
    assert min(kept, charged, other) > 0
    assert funnel[:4] == ["read", "expected elements", "neutral", "elements"]
    assert int(steps["neutral"]["removed"]) == charged
    assert int(steps["stored"]["rows"]) == kept
    assert "1 group(s) without rows" in steps["read"]["reason"]
    # What the filter removed is no element of the store, so the regression is of full rank.
    fit = json.loads((checkout / "results/mini/data/spice_mini/self_energies.json").read_text())
    fit = fit["fidelities"]["wb97m_d3bj"]
    assert (fit["elements"], fit["rank"]) == ([1, 6, 7, 8, 16], 5)
    recommended = read_csv(checkout / "results/mini/data/spice_mini_recommended/funnel.csv")
    assert int(next(row for row in recommended if row["step"] == "max_force")["removed"]) > 0


def test_planted_duplicate_of_qm7x_goes_with_all_its_displacements(checkout):
    steps = {row["step"]: row for row in read_csv(checkout / "results/mini/data/qm7x_mini/funnel.csv")}
    assert int(steps["listed_duplicates"]["removed"]) == 101
    assert int(steps["stored"]["rows"]) == int(steps["read"]["rows"]) - 101


def test_named_splits_nest_and_keep_molecules_apart(checkout):
    folder = checkout / "results/mini/data/qm7x_mini/splits"
    random, molecules = np.load(folder / "stocker.npz"), np.load(folder / "stocker_molecules.npz")
    for split in (random, molecules):
        parts = [split[name] for name in ("train", "val", "test")]
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
        assert split["train_sizes"].tolist() == [12, 36, 108, 324]
    with h5py.File(checkout / "results/mini/data/qm7x_mini/store.h5") as store:
        group = store["group"][:]
    assert not set(group[molecules["train"]]) & set(group[molecules["test"]])
    assert set(group[random["train"]]) & set(group[random["test"]])
    high = np.load(folder / "stocker_high_energy.npz")
    assert high["test"].tolist() == random["test"].tolist()
    report = json.loads((folder / "stocker_high_energy.json").read_text())
    weights = report["details"]["weights"] if "details" in report else report["weights"]
    assert weights["mean_of_drawn"] > weights["mean_of_all"]


def test_networks_have_the_published_size_and_equivariant_layers(checkout):
    models = checkout / "results/mini/models"
    parameters = {row["network"]: row for row in read_csv(models / "tables/parameters.csv")}
    assert {row["agrees"] for row in parameters.values() if row["published"]} == {"yes"}
    assert {parameters[name]["parameters"] for name in ("So3krates", "GemNet-Q", "GemNet-T")} == {
        "319213", "2158470", "1892294",
    }  # fmt: skip
    layers = read_csv(models / "tables/equivariance.csv")
    assert {row["title"] for row in layers} == set(parameters)
    assert max(float(row["float64"]) for row in layers if row["float64"]) < 1e-13
    assert max(float(row["float32"]) for row in layers if row["float32"]) < 1e-5
    scan = read_csv(models / "figures/gemnet-singularities.csv")
    largest = {
        variant: max(float(row["force_ev_per_angstrom"]) for row in scan if row["variant"] == variant)
        for variant in ("GemNet-T", "GemNet-Q", "GemNet-Q, smooth")
    }
    assert largest["GemNet-Q"] > 1000 * max(largest["GemNet-T"], largest["GemNet-Q, smooth"])


def test_a_network_trains_from_the_workflow_and_its_file_is_a_potential(checkout):
    folder = checkout / "results/mini/models/training/schnet/seed0"
    snakemake(checkout, str((folder / "run.json").relative_to(checkout)), config=[*TINY, "budget_scale=0.05"])
    run = json.loads((folder / "run.json").read_text())
    assert (run["steps"], run["n_train"], run["n_test"]) == (20, 324, 101)
    history = read_csv(folder / "history.csv")
    assert int(history[-1]["step"]) == 20
    script = (
        "from ase.build import molecule; from mlip_studies.models.calculators.ase import MLIPCalculator; "
        "atoms = molecule('CH3CH2OH'); atoms.calc = MLIPCalculator('model.safetensors'); "
        "print(atoms.get_potential_energy())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Total energies: the atoms of ethanol alone have -4200 eV in the data set's level of theory.
    assert -4300 < float(done.stdout) < -4100


def test_a_network_that_is_not_there_is_one_line(checkout):
    done = snakemake(checkout, "-n", "results/mini/models/networks/newton.json", check=False)
    assert "config/models.yaml has no network newton; it has " in done.stdout + done.stderr


def test_table_3_1_and_figures_of_the_data_sets(checkout):
    data = checkout / "results/mini/data"
    table = read_csv(data / "tables/table3.1.csv")
    assert {row["row"] for row in table} == {"ANI-1", "ANI-1x"}
    before, after = (next(r for r in table if r["row"] == "ANI-1" and r["energies"] == e) for e in
                     ("as they are", "less linear fit, ours"))  # fmt: skip
    assert float(after["std_hartree"]) < 0.01 * float(before["std_hartree"])
    overview = {row["dataset"]: row for row in read_csv(data / "tables/overview.csv")}
    for name in ("spice_mini", "qm7x_mini", "comp6_mini", "md17_ethanol_mini", "ani1x_mini"):
        assert overview[name]["forces_verified"] == "yes"
        assert (data / f"figures/funnel-{name}.png").exists()
    assert overview["ani1_mini"]["forces_verified"] == "no forces"


def test_gradients_taken_for_forces_stop_the_store(tmp_path):
    folder = copy_checkout(tmp_path)
    path = folder / "config/datasets.yaml"
    text = path.read_text()
    # The reader of ANI-1x trusts the sign; COMP6's layout holds gradients under the name of forces.
    with h5py.File(folder / "resources/ani1x-mini/ani1x-mini.h5", "r+") as file:
        for group in file.values():
            group["wb97x_dz.forces"][...] = -group["wb97x_dz.forces"][...]
    entry = text[text.index("ani1x_mini:") : text.index("\nani1x:")]
    size = (folder / "resources/ani1x-mini/ani1x-mini.h5").stat().st_size
    new = re.sub(r"bytes: \d+", f"bytes: {size}", re.sub(r"sha256: \w+", "sha256: null", entry))
    path.write_text(text.replace(entry, new))
    done = snakemake(folder, "results/mini/data/ani1x_mini/store.h5", check=False)
    assert done.returncode != 0
    assert "gradients" in done.stdout + done.stderr
    assert not (folder / "results/mini/data/ani1x_mini/store.h5").exists()


def test_second_run_does_nothing(checkout):
    done = snakemake(checkout, *SLICE, config=TINY)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_report_opens_on_the_verdicts(checkout):
    snakemake(checkout, *SLICE, "--report", "report.html", config=TINY)
    text = (checkout / "report.html").read_text()
    assert "does not claim to reproduce" in text
    assert "fig3.3-test-loss" in text
    assert "Provenance" in text


def test_alias_makes_one_figure_only(checkout):
    target = checkout / "results/mini/krcelic/figures/fig3.3-test-loss.png"
    target.unlink()
    assert planned(checkout, "krcelic_fig3_3") == {"krcelic_fig3_3": 1, "total": 1}
    snakemake(checkout, str(target.relative_to(checkout)), config=TINY)
    assert target.exists()


def edited(path: Path, old: str, new: str):
    """Edit a file for the time of a ``with`` block."""

    class Edit:
        def __enter__(self):
            self.text = path.read_text()
            assert old in self.text
            self.times = (path.stat().st_atime, path.stat().st_mtime)
            path.write_text(self.text.replace(old, new, 1))

        def __exit__(self, *_):
            path.write_text(self.text)
            os.utime(path, self.times)

    return Edit()


def test_plot_edit_only_redraws(checkout):
    path = checkout / "workflow/src/mlip_studies/plotting/style.py"
    with edited(path, "from __future__ import annotations", "from __future__ import annotations\n\nEXTRA = 1"):
        counts = planned(checkout, "krcelic_demo")
    assert counts["krcelic_fig3_3"] == 1
    assert "train" not in counts
    assert "store" not in counts


def test_model_edit_retrains(checkout):
    path = checkout / "workflow/src/mlip_studies/models/egnn_rff.py"
    with edited(path, "return nodes + self.update", "return 1.0 * nodes + self.update"):
        counts = planned(checkout, "krcelic_demo")
    assert counts["train"] == 2
    assert "store" not in counts
    assert "multi_fidelity_split" not in counts


def test_docstring_edit_reruns_nothing(checkout):
    path = checkout / "workflow/src/mlip_studies/models/egnn_rff.py"
    with edited(path, '"""E(n)-equivariant graph networks', '"""Some E(n)-equivariant graph networks'):
        assert planned(checkout, "krcelic_demo") == {}


def test_accepted_code_change_reruns_nothing(checkout):
    path = checkout / "workflow/src/mlip_studies/models/egnn_rff.py"
    with edited(path, "return nodes + self.update", "return self.update"):
        text = path.read_text().replace(
            "return self.update(torch.cat([nodes, received], dim=1))",
            "return self.update(torch.cat([nodes, received], dim=1)) + nodes",
            1,
        )
        path.write_text(text)
        assert planned(checkout, "krcelic_demo")["train"] == 2
        environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow" / "src")}
        command = [sys.executable, "-m", "mlip_studies", "accept-code", "--reason", "order of a sum"]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "accepted: " in done.stdout
        assert "train" not in planned(checkout, "krcelic_demo")
    (checkout / "workflow" / "accepted-code.json").unlink()


def one_line(done: subprocess.CompletedProcess, expected: str) -> None:
    assert done.returncode != 0
    text = done.stdout + done.stderr
    lines = [line for line in text.splitlines() if expected in line]
    assert lines, text[-3000:]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["scael=mini"], "config/config.yaml: unknown key 'scael'; did you mean 'scale'?"),
        (["scale=huge"], "config/config.yaml: key 'scale'"),
        (["results=README.md/x"], "config/config.yaml: key 'results': cannot write to README.md/x"),
        (["studies=[nobody]"], "study 'nobody' is unknown"),
    ],
)
def test_bad_settings_are_one_line(checkout, config, message):
    one_line(snakemake(checkout, "-n", config=config, check=False), message)


def test_target_of_the_other_scale(checkout):
    done = snakemake(checkout, "-n", "results/full/krcelic/figures/fig3.3-test-loss.png", check=False)
    one_line(done, "run with --config scale=full")


def test_truncated_data_stops_the_store_and_leaves_nothing(checkout):
    data = checkout / "resources/ani1x-mini/ani1x-mini.h5"
    content = data.read_bytes()
    store = checkout / "results/other/mini/data/ani1x_mini/store.h5"
    try:
        data.write_bytes(content[: len(content) // 2])
        done = snakemake(
            checkout, "results/other/mini/data/ani1x_mini/store.h5", config=["results=results/other"], check=False
        )
    finally:
        data.write_bytes(content)
    one_line(done, "ani1x-mini.h5")
    assert not store.exists()
    assert not [path for path in store.parent.glob("*") if path.is_file()]


def test_corrupt_split_stops_training_and_verify_moves_it(checkout):
    split = checkout / "results/mini/krcelic/ani/split.npz"
    content, times = split.read_bytes(), (split.stat().st_atime, split.stat().st_mtime)
    run = checkout / "results/mini/krcelic/runs/ani/coded/20k-20k/seed0/run.json"
    kept = run.read_bytes()
    try:
        split.write_bytes(content[:-1] + b"x")
        os.utime(split, times)
        run.unlink()
        done = snakemake(checkout, str(run.relative_to(checkout)), config=TINY, check=False)
        one_line(done, "split.npz: checksum mismatch")
        assert not run.exists()
        environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow" / "src")}
        done = subprocess.run(
            [sys.executable, "-m", "mlip_studies", "verify"], cwd=checkout, capture_output=True, text=True,
            check=False, env=environment,
        )  # fmt: skip
        assert "split.npz: content changed" in done.stdout
        assert not split.exists()
    finally:
        split.write_bytes(content)
        os.utime(split, times)
        run.write_bytes(kept)
        split.with_name("split.npz.corrupt").unlink(missing_ok=True)


def test_missing_download_says_how_to_get_it(checkout):
    done = snakemake(
        checkout, "results/mini/data/ethanol_mf/store.h5", "--retries", "0",
        config=["mirror=/nonexistent/mirror"], check=False,
    )  # fmt: skip
    one_line(done, "mirror")
