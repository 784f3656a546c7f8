"""Runs from a YAML file: outputs, energy references, resume after a kill, two processes, bad input."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mlip_studies.artifacts import write_text
from mlip_studies.data.named_splits import load_named_split, make_split, write_named_split
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.potential import load_potential
from mlip_studies.training.data import fit_reference
from mlip_studies.training.run import RunConfig, RunOutputs, main_train, run_training

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
SELF = {1: -13.5, 8: -2041.0}


def harmonic(positions):
    """Made-up energy and forces of each frame: springs between all atoms and their rest positions' distances."""
    n = positions.shape[1]
    rest = np.linalg.norm(positions.mean(axis=0)[:, None] - positions.mean(axis=0)[None], axis=-1)
    difference = positions[:, :, None] - positions[:, None]
    distance = np.linalg.norm(difference, axis=-1) + np.eye(n)
    stretch = (distance - rest) * (1 - np.eye(n))
    energy = 2.0 * (stretch**2).sum(axis=(1, 2)) / 2
    forces = -4.0 * ((stretch / distance)[..., None] * difference).sum(axis=2)
    return energy, forces


def make_inputs(folder: Path, n=40):
    """Waters and dimers of water with forces, self energies, a split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with StoreWriter(folder / "store.h5", ["dft"], ["dft"]) as writer:
        for name, geometry, numbers in (
            ("H2O", WATER, [8, 1, 1]),
            ("H4O2", np.concatenate([WATER, WATER + np.array([3.0, 0, 0])]), [8, 1, 1, 8, 1, 1]),
        ):
            positions = geometry + rng.normal(0, 0.05, size=(n, *geometry.shape))
            energy, forces = harmonic(positions)
            total = energy + sum(SELF[z] for z in numbers)
            writer.append(np.array(numbers), positions, {"dft": total}, {"dft": forces}, group=name)
    with Store(folder / "store.h5") as store:
        spec = {"kind": "random", "seed": 1, "train": [16, 40], "val": 12, "test": 12}
        write_named_split(make_split(store, spec), folder / "split.npz", folder / "split.json")
    fit = {"elements": list(SELF), "coefficients_ev": list(SELF.values())}
    write_text(folder / "self.json", json.dumps({"fidelities": {"dft": fit}}))


def make_config(folder: Path, **changes):
    training = {
        "loss": {"name": "so3krates", "beta": 0.9},
        "optimizer": {"learning_rate": 3e-3},
        "batch_size": 8,
        "max_steps": 30,
        "ema_decay": 0.9,
        "evaluation": {"every_steps": 10},
        "log_steps": 5,
        **changes.pop("training", {}),
    }
    return {
        "store": str(folder / "store.h5"),
        "split": str(folder / "split.npz"),
        "fidelity": "dft",
        "self_energies": str(folder / "self.json"),
        "shift": "per_element",
        "model": {"name": "egnn_rff_as_described", "options": {"hidden": 16, "n_layers": 1, "rff_dim": 16}},
        "seed": 3,
        "training": training,
        **changes,
    }


def run_in(folder, config):
    outputs = RunOutputs.in_folder(folder / "out")
    return run_training(RunConfig.from_dict(config), outputs, folder / "state", "cpu", 1), outputs


def test_run_writes_everything(tmp_path):
    make_inputs(tmp_path)
    summary, outputs = run_in(tmp_path, make_config(tmp_path, scale="std", training={"max_steps": 250}))
    arrays = np.load(outputs.predictions)
    assert (summary["n_train"], summary["n_val"], summary["n_test"]) == (40, 12, 12)
    error = arrays["energy_predicted_ev"] - arrays["energy_label_ev"]
    force_error = arrays["forces_predicted_ev_per_angstrom"] - arrays["forces_label_ev_per_angstrom"]
    assert summary["test"]["energy_mae_ev"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert summary["test"]["force_rmse_ev_per_angstrom"] == pytest.approx(np.sqrt((force_error**2).mean()), rel=1e-4)
    spread = arrays["forces_label_ev_per_angstrom"].std()
    assert np.sqrt((force_error**2).mean()) < 0.8 * spread
    # The saved potential predicts what the file says, in eV and eV/Å.
    potential, header = load_potential(outputs.model)
    with Store(tmp_path / "store.h5") as store:
        rows = store.read(arrays["rows"])
    molecules = [rows.molecule(i) for i in range(len(rows))]
    energy, forces = potential.energy_and_forces(make_batch(molecules, potential.cutoff, fidelity=[0] * 12))
    np.testing.assert_allclose(energy.numpy(), arrays["energy_predicted_ev"], atol=1e-3)
    np.testing.assert_allclose(forces.numpy(), arrays["forces_predicted_ev_per_angstrom"], atol=1e-4)
    assert potential.elements == (1, 8)
    assert header["provenance"]["run"]["seed"] == 3
    assert set(header["provenance"]["inputs"]) == {"store", "split", "self_energies"}
    # Costs, environment, history, metrics; no state is left.
    run = json.loads(outputs.run.read_text())
    assert run["steps"] == 250
    assert run["gpu_hours"] == 0.0
    assert 0 < run["train_seconds"] < run["wall_seconds"]
    assert run["environment"]["versions"]["torch"] == torch.__version__
    assert RunConfig.from_dict(run["config"]) == RunConfig.from_dict(
        make_config(tmp_path, scale="std", training={"max_steps": 250})
    )
    with outputs.history.open(newline="") as stream:
        history = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in history] == list(range(10, 260, 10))
    lines = [json.loads(line) for line in outputs.metrics.read_text().splitlines()]
    assert len([line for line in lines if line["split"] == "validation"]) == 25
    last = [line for line in lines if line["split"] == "validation"][-1]
    assert last["force_mae_ev_per_angstrom"] == float(history[-1]["validation_force_mae_ev_per_angstrom"])
    assert list((tmp_path / "state").iterdir()) == []


def test_validation_errors_are_in_ev_whatever_the_scale(tmp_path):
    make_inputs(tmp_path)
    values = []
    for scale in ("none", "std"):
        # A step too small to change anything; the model's output is that of its initial weights times the scale.
        config = make_config(tmp_path, scale=scale, training={"optimizer": {"learning_rate": 1e-300}, "max_steps": 1})
        run_in(tmp_path / scale, config)
        summary = json.loads((tmp_path / scale / "out" / "run.json").read_text())
        with (tmp_path / scale / "out" / "history.csv").open(newline="") as stream:
            (row,) = csv.DictReader(stream)
        values.append((summary["reference"]["scale_ev"], float(row["validation_energy_mae_ev"])))
    assert values[0][0] == 1.0
    with Store(tmp_path / "store.h5") as store:
        split = np.load(tmp_path / "split.npz")
        rows = store.read(split["train"], positions=False)
        residual = rows.energy["dft"] - np.add.reduceat([SELF[z] for z in rows.atomic_numbers], rows.ptr[:-1])
    assert values[1][0] == pytest.approx(residual.std())
    # Errors of random predictions are of the size of the labels in both cases, not divided by the scale.
    assert 0.2 < values[1][1] / values[0][1] < 5


def reference_of(folder, shift, scale="none"):
    with Store(folder / "store.h5") as store:
        split = np.load(folder / "split.npz")
        rows = np.arange(store.n_rows)
        reference = fit_reference(
            store, "dft", split["train"], rows, shift, scale, str(folder / "self.json"), (1, 6, 8)
        )
        return reference, store.read(rows, positions=False), store.read(split["train"], positions=False)


def test_energy_references(tmp_path):
    make_inputs(tmp_path)
    for shift in ("none", "mean", "per_element"):
        for scale in ("none", "std"):
            reference, rows, train = reference_of(tmp_path, shift, scale)
            energy = rows.energy["dft"]
            # Perfect learning gives perfect totals.
            np.testing.assert_allclose(
                reference.predicted(reference.targets(energy, rows), rows), energy, rtol=0, atol=1e-9
            )
            targets = reference.targets(train.energy["dft"], train)
            if scale == "std":
                assert targets.std() == pytest.approx(1.0)
            if shift == "mean":
                assert targets.mean() == pytest.approx(0.0, abs=1e-9)
    assert reference_of(tmp_path, "per_element")[0].for_model((8, 6, 1)) == [-2041.0, 0.0, -13.5]


def test_padded_mean_makes_the_slope_of_the_study(tmp_path):
    make_inputs(tmp_path)
    reference, rows, train = reference_of(tmp_path, "mean_padded")
    energy = rows.energy["dft"]
    mean = train.energy["dft"].mean()
    error = reference.predicted(reference.targets(energy, rows), rows) - energy
    # E_pred - E_true = mean (N / N_max - 1), although the network is perfect.
    np.testing.assert_allclose(error, mean * (rows.n_atoms / 6 - 1), rtol=1e-9, atol=1e-6)


def test_errors_on_training_and_validation_rows_are_stated(tmp_path, monkeypatch):
    make_inputs(tmp_path)
    config = make_config(tmp_path, scale="std", train_predictions=True, training={"max_steps": 20})
    summary, outputs = run_in(tmp_path / "a", config)
    arrays = np.load(outputs.predictions)
    error = arrays["train_energy_predicted_ev"] - arrays["train_energy_label_ev"]
    found = summary["errors"]["train"]
    assert found["n_rows"] == 40
    assert found["energy_mae_ev"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert found["energy_rmse_ev"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    # Validation rows and their forces: as if they were the test rows of the same training.
    with Store(tmp_path / "store.h5") as store:
        split = load_named_split(config["split"], store)
    rows = {"train": split.train_rows().tolist(), "val": split.val_rows().tolist(), "test": split.val_rows().tolist()}
    swapped, _ = run_in(tmp_path / "b", {**config, "split": rows})
    assert swapped["errors"]["val"].pop("n_rows") == 12
    assert swapped["errors"]["val"] == pytest.approx(swapped["test"], rel=1e-6)
    assert set(swapped["test"]) >= {"force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom"}
    # Of many training rows a sample is drawn, the same in every run.
    monkeypatch.setattr("mlip_studies.training.run.MOST_TRAINING_ROWS", 10)
    samples = [run_in(tmp_path / name, config)[0]["errors"]["train"] for name in ("c", "d")]
    assert samples[0] == samples[1]
    assert samples[0]["n_rows"] == 10
    assert samples[0]["energy_mae_ev"] != pytest.approx(found["energy_mae_ev"], rel=1e-9)


def test_a_run_without_validation_rows_states_no_errors_on_them(tmp_path):
    make_inputs(tmp_path)
    split = {"train": list(range(0, 60, 2)), "test": [61, 63]}
    summary, _ = run_in(tmp_path, make_config(tmp_path, split=split, training={"max_steps": 4}))
    assert summary["errors"]["val"]["n_rows"] == 0
    assert summary["errors"]["val"]["energy_mae_ev"] is None


def test_explicit_rows_and_sizes(tmp_path):
    make_inputs(tmp_path)
    summary, _ = run_in(tmp_path / "a", make_config(tmp_path, train_size=16, training={"max_steps": 2}))
    assert summary["n_train"] == 16
    split = {"train": [0, 1, 2, 41], "test": [5]}
    config = make_config(tmp_path, split=split, training={"max_steps": 2, "plateau": None})
    summary, outputs = run_in(tmp_path / "b", config)
    assert (summary["n_train"], summary["n_val"], summary["best_value"]) == (4, 0, None)
    assert np.load(outputs.predictions)["rows"].tolist() == [5]


def test_energy_only_run(tmp_path):
    make_inputs(tmp_path)
    config = make_config(tmp_path, shift="mean", training={"loss": "energy_mae", "max_steps": 5})
    summary, outputs = run_in(tmp_path, config)
    assert "forces_predicted_ev_per_angstrom" not in np.load(outputs.predictions)
    assert set(summary["test"]) == {
        "energy_mae_ev", "energy_rmse_ev", "energy_per_atom_mae_ev", "energy_per_atom_rmse_ev",
    }  # fmt: skip
    assert load_potential(outputs.model)[0].constant == pytest.approx(summary["reference"]["constant_ev"])


def test_forces_of_another_column_and_predictions_of_the_training_rows(tmp_path):
    make_inputs(tmp_path)
    with Store(tmp_path / "store.h5") as store:
        rows = store.read()
        names = store.group_names
    (tmp_path / "other").mkdir()
    with StoreWriter(tmp_path / "other" / "store.h5", ["dft", "relative"], ["dft"]) as writer:
        for i in range(len(rows)):
            numbers, positions = rows.molecule(i)
            atoms = slice(rows.ptr[i], rows.ptr[i + 1])
            relative = rows.energy["dft"][i : i + 1] - sum(SELF[int(z)] for z in numbers)
            energies = {"dft": rows.energy["dft"][i : i + 1], "relative": relative}
            forces = {"dft": rows.forces["dft"][atoms][None]}
            writer.append(numbers, positions[None], energies, forces, group=names[rows.group[i]])
    split = {"train": list(range(0, 70, 2)), "val": [71], "test": [73, 75, 77]}
    first, _ = run_in(tmp_path / "a", make_config(tmp_path, split=split, training={"max_steps": 4}))
    config = make_config(
        tmp_path, store=str(tmp_path / "other" / "store.h5"), split=split, fidelity="relative", force_fidelity="dft",
        shift="none", train_predictions=True, training={"max_steps": 4},
    )  # fmt: skip
    second, outputs = run_in(tmp_path / "b", config)
    # The same differences of energies and the same forces: the same training.
    assert second["test"]["force_mae_ev_per_angstrom"] == pytest.approx(
        first["test"]["force_mae_ev_per_angstrom"], rel=1e-3
    )
    assert second["test"]["energy_mae_ev"] == pytest.approx(first["test"]["energy_mae_ev"], abs=1e-3)
    arrays = np.load(outputs.predictions)
    assert arrays["train_rows"].tolist() == split["train"]
    with Store(tmp_path / "other" / "store.h5") as store:
        known = store.read(split["train"], fidelities=("relative",), forces=False)
    np.testing.assert_array_equal(arrays["train_energy_label_ev"], known.energy["relative"])
    potential, _ = load_potential(outputs.model)
    molecules = [known.molecule(i) for i in range(len(known))]
    energy = potential(make_batch(molecules, potential.cutoff, fidelity=[0] * len(molecules)))
    np.testing.assert_allclose(energy.detach().numpy(), arrays["train_energy_predicted_ev"], atol=1e-3)
    # Without the column of the forces there is one line.
    config.pop("force_fidelity")
    with pytest.raises(InputError, match="relative") as caught:
        run_in(tmp_path / "c", config)
    assert "\n" not in str(caught.value)


def test_one_mean_on_mixed_compositions_warns(tmp_path, capsys):
    make_inputs(tmp_path)
    summary, _ = run_in(tmp_path, make_config(tmp_path, shift="mean_padded", training={"max_steps": 2}))
    (warning,) = summary["warnings"]
    assert "mean_padded" in warning and f"warning: {warning}" in capsys.readouterr().out
    mean = summary["reference"]["training_constant_ev"]
    assert summary["reference"]["n_pad"] == 6 and f"{mean / 6:.4g}"[:5] in warning
    silent, _ = run_in(tmp_path / "b", make_config(tmp_path, training={"max_steps": 2}))
    assert silent["warnings"] == []


def test_scale_factors_of_gemnet_are_fitted_before_training(tmp_path):
    make_inputs(tmp_path)
    sizes = {name: 4 for name in ("emb_size_atom", "emb_size_edge", "emb_size_trip", "emb_size_bil_trip")}
    options = {"num_spherical": 2, "num_radial": 2, "num_blocks": 1, **sizes, "scale_factors": "unset"}
    model = {"name": "gemnet_t", "options": options}
    _, outputs = run_in(tmp_path, make_config(tmp_path, model=model, training={"recipe": "gemnet", "max_steps": 2}))
    potential, _ = load_potential(outputs.model)
    factors = potential.model.scales.values()
    assert len(factors) == 5
    assert all(0.01 < value < 100 for value in factors.values())
    assert len(set(factors.values())) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store": "/nowhere/store.h5"}, "/nowhere/store.h5: no such file"),
        ({"fidelity": "ccsd"}, "no self energies for fidelity 'ccsd'"),
        ({"fidelity": "ccsd", "shift": "none"}, "no energies of fidelity 'ccsd'"),
        ({"train_size": 17}, "no train set of 17 rows"),
        ({"shift": "median"}, "shift: 'median' is unknown"),
        ({"scale": "mad"}, "scale: 'mad' is unknown"),
        ({"self_energies": None}, "needs a file of self energies"),
        ({"model": "so3"}, "model 'so3' is unknown"),
        ({"model": {"name": "egnn_rff_as_described", "options": {"layers": 3}}}, "layers"),
        ({"split": {"train": [1000]}}, "rows beyond the 80"),
        ({"split": {"train": []}}, "no training rows"),
        ({"split": {"training": [1]}}, "unknown part 'training'"),
        ({"seeds": 3}, "unknown key 'seeds'; did you mean 'seed'"),
        ({"training": {"loss": "mse"}}, "'mse' is unknown"),
        ({"training": {"max_edges": 20}}, r"store\.h5 \(row \d+\): molecule \d+: 30 edges"),
    ],
)
def test_bad_runs_are_one_line(tmp_path, change, message):
    make_inputs(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        run_in(tmp_path, make_config(tmp_path, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_atoms_at_the_same_place_are_one_line(tmp_path):
    make_inputs(tmp_path)
    with StoreWriter(tmp_path / "store.h5", ["dft"], ["dft"]) as writer:
        positions = np.tile(WATER, (9, 1, 1))
        positions[4, 2] = positions[4, 1]
        energy = np.full(9, -2068.0)
        writer.append(np.array([8, 1, 1]), positions, {"dft": energy}, {"dft": np.zeros((9, 3, 3))}, group="H2O")
    split = {"train": [1, 3, 4, 5], "val": [0]}
    with pytest.raises(InputError, match=r"store\.h5 \(row 4\): molecule 2: atoms 1 and 2"):
        run_in(tmp_path, make_config(tmp_path, split=split, train_size=None))


def test_rows_without_forces_are_one_line(tmp_path):
    make_inputs(tmp_path)
    with StoreWriter(tmp_path / "store.h5", ["dft"], ["dft"]) as writer:
        forces = np.zeros((9, 3, 3))
        forces[4] = np.nan
        energy = np.full(9, -2068.0)
        writer.append(np.array([8, 1, 1]), np.tile(WATER, (9, 1, 1)), {"dft": energy}, {"dft": forces}, group="H2O")
    split = {"train": [1, 4, 5], "val": [0]}
    with pytest.raises(InputError, match=r"1 chosen rows lack energy or forces of dft \(first: row 4\)"):
        run_in(tmp_path, make_config(tmp_path, split=split))
    with StoreWriter(tmp_path / "store.h5", ["dft"]) as writer:
        writer.append(np.array([8, 1, 1]), np.tile(WATER, (9, 1, 1)), {"dft": energy}, group="H2O")
    # As ANI-1, which was published without forces.
    with pytest.raises(InputError, match=r"store\.h5: no forces of fidelity 'dft' \(key 'forces/dft'\)") as caught:
        run_in(tmp_path, make_config(tmp_path, split=split))
    assert "training.loss 'so3krates' needs; train on energies with training.loss energy_mse" in str(caught.value)
    assert "\n" not in str(caught.value)
    summary, _ = run_in(tmp_path, make_config(tmp_path, split=split, training={"loss": "energy_mse", "max_steps": 2}))
    assert "force_mae_ev_per_angstrom" not in summary["errors"]["train"]


def test_bad_yaml_files(tmp_path):
    path = tmp_path / "run.yaml"
    with pytest.raises(InputError, match=r"run\.yaml: cannot read"):
        main_train([str(path)])
    path.write_text("store: [1\n")
    with pytest.raises(InputError, match="not valid YAML") as caught:
        main_train([str(path)])
    assert "\n" not in str(caught.value)
    path.write_text("store: a\n")
    with pytest.raises(InputError, match=r"run\.yaml: training: nothing ends it"):
        main_train([str(path)])
    path.write_text("- a\n")
    with pytest.raises(InputError, match="expected a mapping"):
        main_train([str(path)])


# ---- processes ----

DRIVER = """
import sys
from mlip_studies.errors import InputError
from mlip_studies.training.run import main_train
try:
    sys.exit(main_train(sys.argv[1:]))
except InputError as error:
    sys.exit(f"error: {error}")
"""


def command(folder, name):
    options = ["--output", str(folder / name), "--device", "cpu", "--threads", "1"]
    return [sys.executable, "-c", DRIVER, str(folder / "run.yaml"), *options]


def test_kill_of_a_yaml_run_loses_nothing(tmp_path):
    make_inputs(tmp_path)
    config = make_config(tmp_path, training={"max_steps": 150, "checkpoint_seconds": 0})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(command(tmp_path, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob(".state/*/stage0-0000002*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "run.json").exists()
    second = subprocess.run(command(tmp_path, "killed"), capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert "resuming stage 0 at step" in second.stdout
    assert "150 steps" in second.stdout.splitlines()[-1]
    main_train([str(tmp_path / "run.yaml"), "--output", str(tmp_path / "whole"), "--device", "cpu", "--threads", "1"])
    one, other = np.load(tmp_path / "whole" / "predictions.npz"), np.load(tmp_path / "killed" / "predictions.npz")
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])

    def lines(name):
        text = (tmp_path / name / "metrics.jsonl").read_text()
        return [{k: v for k, v in json.loads(x).items() if "second" not in k} for x in text.splitlines()]

    assert lines("whole") == lines("killed")
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["jobs"] == 2


def processes_of(folder, name, world):
    """Start ranks with the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(world):
        variables = {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "OMP_NUM_THREADS": "1",
        }
        started.append(
            subprocess.Popen(
                command(folder, name),
                env={**os.environ, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def test_two_processes_equal_one(tmp_path):
    make_inputs(tmp_path)
    # The last batch of an epoch has one molecule: one process has none then.
    split = {"train": list(range(30, 55)), "val": list(range(10)), "test": list(range(60, 70))}
    training = {
        "max_steps": 200,
        "log_steps": 20,
        "check_steps": 5,
        "precision": "float64",
        "clip_norm": 0.5,
        "plateau": {"patience": 1},
        "evaluation": {"every_steps": 6, "batch_size": 4},
    }
    config = make_config(tmp_path, split=split, training=training)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    ranks = processes_of(tmp_path, "two", 2)
    main_train([str(tmp_path / "run.yaml"), "--output", str(tmp_path / "one"), "--device", "cpu", "--threads", "1"])
    # A signal to one of them stops both; started again, both go on from the first one's checkpoint.
    deadline = time.monotonic() + 120
    while not list((tmp_path / "two").glob(".state/*/metrics.jsonl")):
        assert ranks[0].poll() is None and ranks[1].poll() is None, ranks[0].communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ranks[1].send_signal(signal.SIGTERM)
    for process in ranks:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 75, output
    for process in processes_of(tmp_path, "two", 2):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert json.loads((tmp_path / "two" / "run.json").read_text())["resumed_from_step"] > 0
    one, other = np.load(tmp_path / "one" / "predictions.npz"), np.load(tmp_path / "two" / "predictions.npz")
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-8)
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(records[0]) == len(records[1])
    for a, b in zip(*records, strict=True):
        assert (b["split"], b["step"]) == (a["split"], a["step"])
        for key in a.keys() - {"split", "seconds", "configurations_per_second"}:
            assert b[key] == pytest.approx(a[key], rel=1e-6), key
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


def test_signal_to_a_yaml_run_ends_it_with_the_status_for_requeue(tmp_path):
    make_inputs(tmp_path)
    config = make_config(tmp_path, training={"max_steps": 100_000, "checkpoint_seconds": 1000})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(command(tmp_path, "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".state/*/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGUSR1 received: checkpoint saved at step" in output.splitlines()[-1]
    (folder,) = (tmp_path / "out" / ".state").iterdir()
    assert not (folder / "lease.json").exists()
