"""Networks for charged particles: symmetry, baselines with known answers, training, resume after a kill, figures."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from scipy.spatial.transform import Rotation

from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import Background, Claim, ClaimSet
from mlip_studies.data.nbody import NBodySettings, Trajectories, simulate, write_nbody
from mlip_studies.errors import InputError
from mlip_studies.models.nbody import NBodyNetworkConfig, NBodyTransformer, load_nbody
from mlip_studies.studies import hedelius_nbody as figures
from mlip_studies.studies.context import StudyContext
from mlip_studies.training import nbody
from mlip_studies.training.nbody import (
    Linear,
    NBodyConfig,
    NBodyOutputs,
    Predictor,
    StraightLine,
    Systems,
    WindowErrors,
    run_nbody,
    window_errors,
    window_starts,
    write_baselines,
)

CPU = torch.device("cpu")
SHORT = NBodySettings(n_steps=701, save_every=50)
SMALL = {"channels": 4, "n_layers": 1, "n_heads": 2, "max_degree": 1, "channel_division": 1}
#: without a force and without walls in reach
FREE = NBodySettings(n_steps=701, save_every=50, strength=0.0, box=100.0)


def systems(n=6, seed=3, settings=SHORT, dtype=torch.float64):
    return Systems.of(simulate(n, seed, settings), CPU, dtype)


def network(variant="own", **options):
    torch.manual_seed(4)
    small = {"n_layers": 2, "n_heads": 2, "channels": 8, "max_degree": 2} | options
    return NBodyTransformer(NBodyNetworkConfig(variant, **small), 5).double()


def settings_of(data, **changes):
    training = {"batch_size": 16, "max_steps": 40, "evaluation": {"every_steps": 20}, **changes.pop("training", {})}
    return {
        "data": str(data),
        "network": {"variant": "own", **SMALL},
        "training": training,
        "ahead_frames": 3,
        **changes,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "nbody.npz"
    write_nbody(path, 90, 20, 5, SHORT)
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Folder of a study with both networks and the baselines."""
    root = tmp_path_factory.mktemp("study") / "nbody"
    for variant in ("own", "original"):
        config = NBodyConfig.from_dict(settings_of(data, network={"variant": variant, **SMALL}))
        run_nbody(config, NBodyOutputs.in_folder(root / variant), root.parent / "state" / variant, "code", "cpu")
    write_baselines(data, root / "baselines.csv", ahead_frames=3)
    return root


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["own", "original"])
def test_changes_turn_with_the_particles_and_follow_their_order(variant):
    model, data = network(variant), systems()
    x, v, q = data.positions[:, 0], data.velocities[:, 0], data.charges
    dx, dv = model(x, v, q)
    assert dx.abs().max() > 1e-3 and dv.abs().max() > 1e-3
    turn = torch.from_numpy(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    shift = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    turned = model(x @ turn.T + shift, v @ turn.T, q)
    torch.testing.assert_close(turned[0], dx @ turn.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned[1], dv @ turn.T, rtol=0, atol=1e-12)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = model(x[:, order], v[:, order], q[:, order])
    torch.testing.assert_close(moved[0], dx[:, order], rtol=0, atol=1e-12)
    # Systems of a batch do not see each other.
    alone = model(x[2:3], v[2:3], q[2:3])
    torch.testing.assert_close(alone[1], dv[2:3], rtol=0, atol=1e-12)


def test_networks_see_velocities_and_charges():
    model, data = network(), systems()
    x, v, q = data.positions[:, 0], data.velocities[:, 0], data.charges
    before = model(x, v, q)[0]
    other = q.clone()
    other[:, 0] = -other[:, 0]
    assert (model(x, v, other)[0] - before).abs().max() > 1e-4
    assert (model(x, 2 * v, q)[0] - before).abs().max() > 1e-4


def test_variants_differ_in_the_norm_and_options_replace_their_numbers():
    own, original = NBodyNetworkConfig().options(), NBodyNetworkConfig("original").options()
    assert (own["norm"], original["norm"]) == ("layer", "bias")
    assert NBodyNetworkConfig("original", max_degree=1).options() == {**original, "max_degree": 1}
    with pytest.raises(InputError, match="'fuchs' is unknown; choose one of own, original"):
        NBodyNetworkConfig("fuchs")
    with pytest.raises(InputError, match="velocities are vectors"):
        network(max_degree=0)
    with pytest.raises(InputError, match="systems of 3 particles; the network was built for 5"):
        network()(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), torch.ones(1, 3))


# --- windows, errors, baselines --------------------------------------------------------------------------------------


def test_window_starts():
    assert window_starts(49, 5, "first") == [0]
    assert window_starts(49, 5, "random") == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert window_starts(11, 5, "random") == [0, 5]
    assert window_starts(11, 10, "random") == [0]
    with pytest.raises(InputError, match="ahead_frames: 49, but a trajectory has 49 frames"):
        window_starts(49, 49, "random")


def test_systems_keep_the_particles_and_axes():
    trajectories = simulate(4, 3, SHORT)
    data = Systems.of(trajectories, CPU, torch.float64)
    assert data.positions.shape == (4, SHORT.n_frames, 5, 3)
    assert float(data.velocities[2, 7, 4, 1]) == trajectories.velocities[2, 7, 1, 4]
    rows, frames = torch.tensor([3, 1]), torch.tensor([2, 6])
    x, v, q, dx, dv = data.window(rows, frames, 4)
    np.testing.assert_array_equal(x[1].T, trajectories.positions[1, 6])
    np.testing.assert_array_equal(q, trajectories.charges[[3, 1]])
    np.testing.assert_allclose((x + dx)[0].T, trajectories.positions[3, 6], atol=1e-14)
    np.testing.assert_allclose((v + dv)[1].T, trajectories.velocities[1, 10], atol=1e-14)


def test_free_particles_fly_straight_and_others_do_not():
    free, starts = systems(20, settings=FREE), window_starts(FREE.n_frames, 4, "random")
    duration = nbody.duration(FREE, 4)
    assert duration == pytest.approx(0.2)
    straight = window_errors(StraightLine(duration), free, 4, starts, 7)
    assert straight.x.max() < 1e-25 and straight.v.max() == 0.0
    still = window_errors(Predictor(), free, 4, starts, 7)
    # Every particle has the speed 0.5: its squared way, shared among three components.
    np.testing.assert_allclose(still.x, (0.5 * duration) ** 2 / 3, rtol=1e-10)
    fitted = window_errors(Linear(free, 4, starts), free, 4, starts, 7)
    assert fitted.x.max() < 1e-20 and fitted.v.max() < 1e-20
    charged = systems(20)
    assert window_errors(StraightLine(duration), charged, 4, starts, 7).summary()["mse_v"] > 1e-3


def test_a_linear_fit_is_the_best_one_of_its_kind():
    data, starts = systems(30), [0, 4]
    best = window_errors(Linear(data, 4, starts), data, 4, starts, 64).summary()
    for other in (Predictor(), StraightLine(nbody.duration(SHORT, 4))):
        errors = window_errors(other, data, 4, starts, 64).summary()
        assert best["mse_x"] < errors["mse_x"] and best["mse_v"] < errors["mse_v"]


def test_summaries_of_errors():
    errors = WindowErrors(np.array([0, 1, 0, 1]), np.array([0, 0, 5, 5]), np.array([1.0, 2, 3, 6]), np.zeros(4))
    found = errors.summary()
    assert (found["mse_x"], found["mse_v"], found["mse_both"]) == (3.0, 0.0, 1.5)
    assert (found["n_windows"], found["n_trajectories"]) == (4, 2)
    # Trajectories, whose means are 2 and 4, are independent; windows of one are not.
    assert found["sem_x"] == pytest.approx(1.0)
    assert found["median_x"] == 2.5
    assert found["worst_share_x"] == 0.5
    assert found["worst_share_v"] == 0.0
    assert errors.at([5]).summary()["mse_x"] == 4.5


def test_errors_do_not_depend_on_how_the_data_lie():
    """Rotated trajectories have rotated predictions, and so the same errors."""
    model, trajectories = network(), simulate(8, 11, SHORT)
    turn = Rotation.from_rotvec([1.0, 0.4, -0.2]).as_matrix()
    rotated = Trajectories(
        np.einsum("ij,nfjb->nfib", turn, trajectories.positions),
        np.einsum("ij,nfjb->nfib", turn, trajectories.velocities),
        *(getattr(trajectories, name) for name in ("charges", "wall_events", "clip_events")),
    )
    one, other = (
        window_errors(model, Systems.of(each, CPU, torch.float64), 4, [0, 4], 5) for each in (trajectories, rotated)
    )
    np.testing.assert_allclose(one.x, other.x, rtol=1e-9)
    np.testing.assert_allclose(one.v, other.v, rtol=1e-9)
    assert one.x.max() > 1e-4


def test_baselines_file(trained):
    frame = pd.read_csv(trained / "baselines.csv")
    assert list(zip(frame["windows"], frame["baseline"], strict=True)) == [
        (windows, name) for windows in ("first", "every") for name in ("unchanged", "straight_line", "linear")
    ]
    first = frame[frame["windows"] == "first"].set_index("baseline")
    assert first.loc["straight_line", "mse_x"] < first.loc["unchanged", "mse_x"]
    assert first.loc["straight_line", "mse_v"] == first.loc["unchanged", "mse_v"]
    assert set(first["n_windows"]) == {20} and set(frame["n_windows"]) == {20, 20 * 4}


# --- training --------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_its_files_agree(trained, data):
    report = json.loads((trained / "own" / "run.json").read_text())
    assert (report["n_train"], report["n_validation"], report["n_test"]) == (86, 4, 20)
    assert report["steps"] == 40 and report["jobs"] == 1
    assert report["test"] == report["test_by_windows"]["every"]
    assert [entry["start_frame"] for entry in report["test_by_start"]] == [0, 3, 6, 9]
    again = NBodyConfig.from_dict(report["config"]).to_dict()
    assert json.loads(json.dumps(again)) == report["config"]
    with open(trained / "own" / "history.csv", newline="") as stream:
        history = list(csv.DictReader(stream))
    assert [int(line["step"]) for line in history] == [20, 40]
    assert float(history[1]["train_mse"]) < float(history[0]["train_mse"])
    # Weights from the file give the errors that were reported.
    model = load_nbody(trained / "own" / "model.safetensors")
    content = nbody.read_nbody(data)
    test = Systems.of(content.test, CPU, torch.float32)
    errors = window_errors(model, test, 3, [0, 3, 6, 9], 256)
    assert errors.summary()["mse_both"] == pytest.approx(report["test"]["mse_both"], rel=1e-5)
    torch.manual_seed(report["config"]["seed"])
    untrained = NBodyTransformer(model.config, 5)
    assert window_errors(untrained, test, 3, [0, 3, 6, 9], 256).summary()["mse_both"] > report["test"]["mse_both"]
    with np.load(trained / "own" / "predictions.npz") as arrays:
        np.testing.assert_allclose(arrays["window_error_x"], errors.x, rtol=1e-4, atol=1e-9)
        true = arrays["example_positions"][:, arrays["start_frames"] + arrays["ahead_frames"]]
        kept = np.square(arrays["example_predicted_positions"] - true).mean(axis=(2, 3))
        by_window = arrays["window_error_x"].reshape(4, 20).T
    np.testing.assert_allclose(kept, by_window, rtol=1e-3, atol=1e-6)


def test_windows_are_drawn_from_all_frames_or_the_first(data, tmp_path):
    content = nbody.read_nbody(data)
    train = Systems.of(content.train, CPU, torch.float32)
    seen = {}
    for windows in ("first", "random"):
        config = NBodyConfig.from_dict(settings_of(data, windows=windows))
        state = nbody.JobState(tmp_path / windows, {})
        training = nbody._Training(config, network().float(), train, train, state)
        batches = [training.batch(step) for step in range(3 * training.n_batches)]
        seen[windows] = torch.cat([frames for _, frames in batches])
        epoch = torch.cat([rows for rows, _ in batches[: training.n_batches]])
        assert sorted(epoch.tolist()) == list(range(len(train)))
        assert all(torch.equal(a, b) for a, b in zip(training.batch(4), batches[4], strict=True))
    assert set(seen["first"].tolist()) == {0}
    assert set(seen["random"].tolist()) == set(range(SHORT.n_frames - 3))


def command(folder, settings):
    code = (
        "import sys, json; from mlip_studies.training.nbody import *; folder, values = sys.argv[1:];"
        "run_nbody(NBodyConfig.from_dict(json.loads(values)), NBodyOutputs.in_folder(folder), folder + '/state', 'x',"
        "'cpu', 1)"
    )
    return [sys.executable, "-c", code, str(folder), json.dumps(settings)]


def test_a_killed_run_ends_as_one_that_was_not(data, tmp_path):
    settings = settings_of(data, training={"max_steps": 120, "checkpoint_seconds": 0, "clip_norm": 0.5})
    process = subprocess.Popen(
        command(tmp_path / "killed", settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("state/*/nbody-0000003*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "run.json").exists()
    second = subprocess.run(command(tmp_path / "killed", settings), capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert "resuming at step" in second.stdout
    torch.set_num_threads(1)
    run_nbody(
        NBodyConfig.from_dict(settings), NBodyOutputs.in_folder(tmp_path / "whole"), tmp_path / "s", "x", "cpu", 1
    )
    with (
        np.load(tmp_path / "whole" / "predictions.npz") as one,
        np.load(tmp_path / "killed" / "predictions.npz") as two,
    ):
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])

    def history(name):
        frame = pd.read_csv(tmp_path / name / "history.csv")
        return frame.drop(columns="seconds")

    pd.testing.assert_frame_equal(history("whole"), history("killed"), check_exact=True)
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["jobs"] == 2
    assert not list((tmp_path / "killed" / "state").glob("*/*.pt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": "all"}, "nbody.windows: expected first or random, found 'all'"),
        ({"ahead_frames": 14}, "ahead_frames: 14, but a trajectory has 14 frames"),
        ({"n_train": 91}, "nbody.n_train: 91, but .* has 90"),
        ({"n_test": 21}, "nbody.n_test: 21, but .* has 20"),
        ({"n_validation": 90}, "n_validation: 90 of 90 trajectories"),
        ({"epochs": 3}, "nbody: unknown key 'epochs'"),
        ({"training": {"ema_decay": 0.9}}, "nbody.training.ema_decay: expected None"),
        ({"training": {"loss": {"name": "energy_mse"}}}, "nbody.training.loss: the loss of this task is fixed"),
        ({"training": {"batch_size": "auto"}}, "nbody.training.batch_size: expected a number"),
        ({"training": {"optimizer": {"learning_rate": 1e30}}}, "not finite"),
        ({"network": {"variant": "own", "channels": 5}}, "channels=5: expected a multiple of"),
    ],
)
def test_bad_settings_are_one_line(data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        config = NBodyConfig.from_dict(settings_of(data, **changes))
        run_nbody(config, NBodyOutputs.in_folder(tmp_path), tmp_path / "state", "", "cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.json").exists()


def test_a_damaged_network_is_not_read(trained, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_nbody(tmp_path / "none.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"not a network")
    with pytest.raises(InputError, match="not a trained n-body network"):
        load_nbody(tmp_path / "other.safetensors")


# --- figures ---------------------------------------------------------------------------------------------------------


def claim(name, value):
    fields = {field.name: "" for field in dataclasses.fields(Claim) if field.default is dataclasses.MISSING}
    return Claim(**{**fields, "id": name, "kind": "value", "paper": value, "tolerance": 0.1, "judged_at": ("full",)})


STATED = {"nbody-mse-own": 0.0311, "nbody-mse-original": 0.0522}
QUOTED = {"nbody-paper-x": 0.0071, "nbody-paper-v": 0.073}


@pytest.fixture
def context():
    claims = {name: claim(name, value) for name, value in STATED.items()}
    background = {name: Background(name, "", "", value, "") for name, value in QUOTED.items()}
    return StudyContext("mini", ClaimSet("hedelius", "", claims, (), (), background))


def results(root):
    return RunTables.from_paths([path for path in Path(root).rglob("*") if path.is_file() and path.suffix != ".pt"])


def test_paths_figure_shows_the_trajectory_and_its_predictions(trained, context):
    tables = results(trained)
    figure, tidy = figures.nbody_figure(tables, context)
    with np.load(trained / "own" / "predictions.npz") as arrays:
        row = int(tidy["trajectory"].iloc[0])
        true, charges = arrays["example_positions"][row], arrays["example_charges"][row]
    drawn = tidy[tidy["kind"] == "true"].pivot(index="step", columns="particle", values=["axis_1", "axis_2", "axis_3"])
    places = np.stack([drawn[f"axis_{k}"].to_numpy() for k in (1, 2, 3)], axis=-1)
    # A rotated and shifted picture has the same distances.
    np.testing.assert_allclose(
        np.linalg.norm(places[:, 0] - places[:, 3], axis=1), np.linalg.norm(true[:, 0] - true[:, 3], axis=1), atol=1e-5
    )
    spread = [drawn[f"axis_{k}"].to_numpy().var() for k in (1, 2, 3)]
    assert spread == sorted(spread, reverse=True)
    predicted = tidy[tidy["kind"] == "predicted"]
    assert sorted(set(predicted["step"])) == [(start + 3 + 1) * 50 for start in (0, 3, 6, 9)]
    assert len(figure.axes) == 4
    flat = figure.axes[1]
    signs = [text.get_text() for text in flat.texts]
    assert signs == ["+" if charge > 0 else "−" for charge in charges]
    crosses = [line for line in flat.lines if line.get_marker() == "x"]
    assert len(crosses) == 5 and {line.get_color() for line in crosses} == {"black"}
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes[:3])
    assert "0.0311" in figure._supxlabel.get_text() and "mini scale" in figure._supxlabel.get_text()
    plt.close(figure)


def test_errors_figure_draws_ours_and_what_is_stated(trained, context):
    figure, tidy = figures.nbody_errors_figure(results(trained), context)
    report = json.loads((trained / "original" / "run.json").read_text())
    ours = tidy[(tidy["source"] == "ours") & (tidy["predictor"] == "original")].set_index(["quantity", "windows"])
    assert ours.loc[("v", "first"), "mse"] == report["test_by_windows"]["first"]["mse_v"]
    assert len(tidy[tidy["source"] == "ours"]) == 5 * 2 * 3
    for axis, wanted in zip(figure.axes, ({0.0071}, {0.073}, {0.0311, 0.0522}), strict=True):
        lines = {float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "None"}
        assert wanted <= lines
        low, high = axis.get_xlim()
        assert all(low < value < high for value in wanted) and axis.get_xlabel()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label.startswith("SE(3)") for label in labels] == [True, True, False, False, False]
    colors = {to_rgba(line.get_color()) for line in figure.axes[0].lines if line.get_marker() in "os^Dv"}
    assert len(colors) == 5
    plt.close(figure)


def test_products_write_their_files(trained, context, tmp_path):
    tables = results(trained)
    figures.nbody(tables, context, tmp_path / "fig3-1-nbody.png")
    figures.nbody_errors(tables, context, tmp_path / "nbody-errors.png")
    figures.nbody_table(tables, context, tmp_path / "nbody-table.html")
    assert (tmp_path / "fig3-1-nbody.svg").stat().st_size > 1000
    assert len(pd.read_csv(tmp_path / "nbody-errors.csv")) == 30 + 4
    table = pd.read_csv(tmp_path / "nbody-table.csv")
    assert len(table) == 10
    np.testing.assert_allclose(table["mse_sum"], 2 * table["mse_both"])
    assert set(table["thesis"].dropna()) == {0.0311, 0.0522}
    assert "close encounters" in (tmp_path / "nbody-table.html").read_text()


def test_products_say_what_is_missing(trained, context, tmp_path):
    with pytest.raises(MissingDataError, match="no trained network"):
        figures.nbody_figure(RunTables(), context)
    only = RunTables.from_paths([trained / "own" / "run.json"])
    with pytest.raises(MissingDataError):
        figures.nbody_figure(only, context)
    with pytest.raises(MissingDataError):
        figures.nbody_errors_figure(only, context)
    path = tmp_path / "nbody" / "own" / "predictions.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, start_frames=np.arange(2))
    with pytest.raises(InputError, match="not predictions of particles"):
        figures.chosen_paths(path)
