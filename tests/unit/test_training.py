"""Training: learning, resume after a kill with the same result, bad input, device choice."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mlip_studies.artifacts import write_text
from mlip_studies.data.store import StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.models.potential import load_potential
from mlip_studies.runtime import state as state_module
from mlip_studies.runtime.state import JobState, fingerprint
from mlip_studies.training.device import choose_device
from mlip_studies.training.multi_fidelity import Numbers, RunInputs, RunOutputs, RunSpec, run

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
SELF_LOW = {1: -13.0, 8: -2040.0}
SELF_HIGH = {1: -13.5, 8: -2041.0}


def make_inputs(folder: Path, unlabelled_high: bool = False, numbers=(8, 1, 1)) -> RunInputs:
    """Sixty waters with a smooth made-up energy; high fidelity differs from low by a smooth term."""
    rng = np.random.default_rng(0)
    positions = WATER + rng.normal(0, 0.05, size=(60, 3, 3))
    first = np.linalg.norm(positions[:, 0] - positions[:, 1], axis=1)
    second = np.linalg.norm(positions[:, 0] - positions[:, 2], axis=1)
    low = 8 * (first + second - 1.92) + 10 * (first - 0.96) ** 2
    high = low + 0.5 * (first - second) ** 2
    low_total = low + SELF_LOW[8] + 2 * SELF_LOW[1]
    high_total = high + SELF_HIGH[8] + 2 * SELF_HIGH[1]
    if unlabelled_high:
        high_total[:] = np.nan
    with StoreWriter(folder / "store.h5", ["low", "high"]) as writer:
        writer.append(np.array(numbers), positions, {"low": low_total, "high": high_total}, group="H2O1")
    order = np.arange(60)
    np.savez(
        folder / "split.npz",
        test=order[:10],
        val_high=order[10:20],
        train_high=order[20:40],
        val_low=order[40:45],
        train_low=order[45:],
    )
    content = {
        name: {"elements": list(table), "coefficients_ev": list(table.values())}
        for name, table in (("low", SELF_LOW), ("high", SELF_HIGH))
    }
    write_text(folder / "self.json", json.dumps({"fidelities": content}))
    return RunInputs(folder / "store.h5", folder / "split.npz", folder / "self.json")


def make_spec(strategy="mix", **training):
    return {
        "experiment": "toy",
        "variant": strategy,
        "mix_name": "toy",
        "mix": {"train_low": 15, "train_high": 20, "val_low": 5, "val_high": 10},
        "seed": 1,
        "low": "low",
        "high": "high",
        "model": "egnn_rff_as_coded",
        "options": {"hidden": 16, "n_layers": 2},
        "strategy": strategy,
        "training": {
            "batch_size": 8,
            "learning_rate": 3e-3,
            "max_epochs": 1000,
            "max_steps": 60,
            "checkpoint_seconds": 1e-6,
            **training,
        },
        "transfer": {"fraction": 0.5, "learning_rate_factor": 0.5, "freeze": ["embed."]},
    }


def outputs_in(folder: Path) -> RunOutputs:
    return RunOutputs(
        folder / "model.safetensors", folder / "history.csv", folder / "predictions.csv", folder / "run.json"
    )


def read(path: Path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("strategy", ["mix", "transfer", "delta"])
def test_run_learns_and_writes_everything(tmp_path, strategy):
    inputs = make_inputs(tmp_path)
    outputs = outputs_in(tmp_path / "out")
    spec = make_spec(strategy, max_steps=200, learning_rate=1e-3, checkpoint_seconds=60)
    run(RunSpec.from_dict(spec), inputs, outputs, tmp_path / "state", "cpu")
    summary = json.loads(outputs.run.read_text())
    history = read(outputs.history)
    assert summary["steps"] == 200
    assert summary["stopped_by"] == "step budget"
    assert [int(row["step"]) for row in history] == sorted(int(row["step"]) for row in history)
    predictions = read(outputs.predictions)
    assert [int(row["row"]) for row in predictions] == list(range(10))
    target = np.array([float(row["target_ev"]) for row in predictions])
    error = np.array([float(row["predicted_ev"]) for row in predictions]) - target
    # Predicting the mean would give an error equal to the spread.
    assert np.sqrt(np.mean(error**2)) < 0.6 * target.std()
    potential, header = load_potential(outputs.model)
    assert header["provenance"]["run"]["seed"] == 1
    assert potential.shifts[0, 8] == pytest.approx(-2041.0)
    assert potential.shifts[1, 1] == pytest.approx(-13.0)
    assert list((tmp_path / "state").iterdir()) == []


def test_delta_prediction_adds_the_low_fidelity_label(tmp_path):
    inputs = make_inputs(tmp_path)
    outputs = outputs_in(tmp_path / "out")
    run(RunSpec.from_dict(make_spec("delta", max_steps=200)), inputs, outputs, tmp_path / "state", "cpu")
    errors = [float(row["predicted_ev"]) - float(row["target_ev"]) for row in read(outputs.predictions)]
    # The difference of the fidelities is small and smooth: far easier than the energy itself (spread about 1 eV).
    assert np.sqrt(np.mean(np.square(errors))) < 0.02
    assert json.loads(outputs.run.read_text())["n_train_low"] == 0


DRIVER = """
import json, sys
from pathlib import Path
from mlip_studies.training.multi_fidelity import RunInputs, RunOutputs, RunSpec, run
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
run(RunSpec.from_dict(json.loads((folder / "spec.json").read_text())),
    RunInputs(folder / "store.h5", folder / "split.npz", folder / "self.json"),
    RunOutputs(out / "model.safetensors", out / "history.csv", out / "predictions.csv", out / "run.json"),
    Path(sys.argv[3]), "cpu")
"""


def saved_position(state: Path) -> tuple[int, int]:
    """Stage and step of the newest checkpoint, (-1, -1) if there is none yet."""
    import torch

    found = []
    for path in state.glob("*/stage?-*.pt"):
        try:
            saved = torch.load(path, weights_only=True)
        except FileNotFoundError:  # two newer ones are there by now
            continue
        found.append((int(path.name[5]), saved["step"]))
    return max(found, default=(-1, -1))


@pytest.mark.parametrize(("strategy", "position"), [("mix", (0, 20)), ("transfer", (1, 10))])
def test_resume_after_kill_gives_the_same_result(tmp_path, strategy, position):
    make_inputs(tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(make_spec(strategy, max_steps=300, checkpoint_seconds=0.01)))

    def command(out, state):
        return [sys.executable, "-c", DRIVER, str(tmp_path), str(tmp_path / out), str(tmp_path / state)]

    spec = RunSpec.from_dict(json.loads((tmp_path / "spec.json").read_text()))
    inputs = RunInputs(tmp_path / "store.h5", tmp_path / "split.npz", tmp_path / "self.json")
    run(spec, inputs, outputs_in(tmp_path / "whole"), tmp_path / "state_whole", "cpu")
    process = subprocess.Popen(command("killed", "state"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while saved_position(tmp_path / "state") < position:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "run.json").exists()
    second = subprocess.run(command("killed", "state"), check=True, capture_output=True, text=True, timeout=300)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "predictions.csv").read_bytes() == (killed / "predictions.csv").read_bytes()
    columns = ("epoch", "step", "learning_rate", "train_rmse_ev", "val_rmse_ev")
    one, other = read(whole / "history.csv"), read(killed / "history.csv")
    assert [[row[c] for c in columns] for row in one] == [[row[c] for c in columns] for row in other]
    assert f"resuming stage {position[0]} at step" in second.stdout
    assert json.loads((killed / "run.json").read_text())["resumed_from_step"] >= position[1]


def test_changed_configuration_starts_fresh_and_says_so(tmp_path, capsys):
    inputs = make_inputs(tmp_path)
    state = tmp_path / "state"
    (state / "0123456789abcdef").mkdir(parents=True)
    (state / "0123456789abcdef" / "stage0-00000001-0123456789abcdef.pt").write_bytes(b"of another configuration")
    run(RunSpec.from_dict(make_spec(max_steps=5)), inputs, outputs_in(tmp_path / "out"), state, "cpu")
    assert "training from the start" in capsys.readouterr().out
    assert not (state / "0123456789abcdef").exists()


def test_all_checkpoints_corrupted_starts_fresh(tmp_path, capsys):
    inputs = make_inputs(tmp_path)
    spec = RunSpec.from_dict(make_spec(max_steps=5))
    with pytest.raises(InputError):
        run(spec, inputs, outputs_in(Path("/proc/nowhere")), tmp_path / "state", "cpu")
    (folder,) = (tmp_path / "state").iterdir()
    files = list(folder.glob("*.pt"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(b"half a checkpoint")
    run(spec, inputs, outputs_in(tmp_path / "out"), tmp_path / "state", "cpu")
    output = capsys.readouterr().out
    assert "corrupted checkpoint" in output
    assert "starting from the beginning" in output


def test_second_writer_stops(tmp_path):
    content = {"a": 1}
    folder = tmp_path / fingerprint(content)
    folder.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lease = {"host": socket.gethostname(), "pid": other.pid, "job": "17", "heartbeat": time.time()}
        (folder / "lease.json").write_text(json.dumps(lease))
        with pytest.raises(InputError, match=r"job 17 .* is writing here"), JobState(tmp_path, content):
            pass
    finally:
        other.kill()
        other.wait()
    with JobState(tmp_path, content):
        assert json.loads((folder / "lease.json").read_text())["pid"] == os.getpid()
    assert not (folder / "lease.json").exists()


def test_live_job_of_another_configuration_stops_this_one(tmp_path):
    folder = tmp_path / fingerprint({"a": 1})
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        lease = {"host": socket.gethostname(), "pid": other.pid, "job": "17", "heartbeat": time.time()}
        (folder / "lease.json").write_text(json.dumps(lease))
        with pytest.raises(InputError, match=r"job 17 .* is writing here"), JobState(tmp_path, {"a": 2}):
            pass
        other.kill()
    # It ended: its state is of no use for this configuration.
    with JobState(tmp_path, {"a": 2}) as state:
        assert state.started_fresh_because_changed
    assert not folder.exists()


def test_of_many_jobs_at_once_one_gets_the_lease(tmp_path):
    # All start together, and the one that gets the lease keeps it until the others have their answers.
    code = """
import sys, time
from pathlib import Path
from mlip_studies.errors import InputError
from mlip_studies.runtime.state import JobState
root, me = Path(sys.argv[1]), sys.argv[2]
def wait_for(name):
    while not (root.parent / name).exists():
        time.sleep(0.001)
def answer(text):
    (root.parent / f"answer{me}.new").write_text(text)
    (root.parent / f"answer{me}.new").rename(root.parent / f"answer{me}")
(root.parent / f"ready{me}").touch()
wait_for("go")
try:
    with JobState(root, {"a": 1}):
        answer("got it")
        wait_for("end")
except InputError as error:
    answer("refused" if "is writing here" in str(error) else str(error))
"""
    root = tmp_path / "state"
    folder = root / fingerprint({"a": 1})
    folder.mkdir(parents=True)
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "job": "16", "heartbeat": time.time()}
    (folder / "lease.json").write_text(json.dumps(dead))
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(root), str(k)]) for k in range(4)]

    def all_have(name):
        end = time.monotonic() + 120
        while not all((tmp_path / f"{name}{k}").exists() for k in range(4)):
            assert time.monotonic() < end, f"no {name} from some job"
            time.sleep(0.01)

    try:
        all_have("ready")
        (tmp_path / "go").touch()
        all_have("answer")
        (tmp_path / "end").touch()
        assert [job.wait(timeout=60) for job in jobs] == [0, 0, 0, 0]
    finally:
        for job in jobs:
            job.kill()
    answers = sorted((tmp_path / f"answer{k}").read_text() for k in range(4))
    assert answers == ["got it", "refused", "refused", "refused"]
    assert not (folder / "lease.json").exists()


def test_job_that_was_taken_over_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "HEARTBEAT_SECONDS", 0.05)
    with JobState(tmp_path, {"a": 1}) as state:
        state.check()
        other = {"host": "elsewhere", "pid": 1, "job": "18", "heartbeat": time.time(), "token": "x"}
        (state.folder / "lease.json").write_text(json.dumps(other))
        time.sleep(0.3)
        with pytest.raises(InputError, match="job 18 on elsewhere took over"):
            state.check()
    # The other one's lease stays.
    assert json.loads((state.folder / "lease.json").read_text())["job"] == "18"


def test_lease_of_another_host(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "STALE_SECONDS", 0.5)
    content = {"a": 1}
    folder = tmp_path / fingerprint(content)
    folder.mkdir()
    lease = {"host": "elsewhere", "pid": 1, "job": "17", "heartbeat": time.time()}
    (folder / "lease.json").write_text(json.dumps(lease))
    # Its job was killed: no new heartbeat comes, so the state is taken over once the last one is old.
    started = time.time()
    with JobState(tmp_path, content):
        assert time.time() - started > 0.3
    # Its job lives: a new heartbeat comes while we wait.
    monkeypatch.setattr(state_module, "STALE_SECONDS", 20.0)
    (folder / "lease.json").write_text(json.dumps({**lease, "heartbeat": time.time()}))

    def renew():
        time.sleep(0.3)
        (folder / "lease.json").write_text(json.dumps({**lease, "heartbeat": time.time() + 1}))

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(InputError, match="elsewhere"), JobState(tmp_path, content):
        pass
    thread.join()


def test_heartbeat_renews_the_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "HEARTBEAT_SECONDS", 0.05)
    with JobState(tmp_path, {"a": 1}) as state:
        first = json.loads((state.folder / "lease.json").read_text())["heartbeat"]
        time.sleep(0.3)
        assert json.loads((state.folder / "lease.json").read_text())["heartbeat"] > first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "boost"}, "strategy 'boost' is unknown"),
        ({"mix": {"train_low": 0, "train_high": 0, "val_low": 5, "val_high": 5}}, "no training rows"),
        ({"strategy": "delta", "mix": {"train_low": 5, "train_high": 0, "val_low": 5, "val_high": 0}}, "train_high"),
        ({"strategy": "transfer", "mix": {"train_low": 0, "train_high": 5, "val_low": 0, "val_high": 5}}, "train_low"),
        ({"training": {"batchsize": 3}}, "unknown key 'batchsize'"),
        ({"model": "egnn_x"}, "model 'egnn_x' is unknown"),
        ({"mix": {"train_low": 0, "train_high": 21, "val_low": 0, "val_high": 10}}, "21 rows of train_high asked"),
        ({"mix": {"train_low": 5, "train_high": 0, "val_low": 0, "val_high": 0}}, "no validation rows"),
    ],
)
def test_bad_runs_are_one_line(tmp_path, change, message):
    inputs = make_inputs(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        run(
            RunSpec.from_dict({**make_spec(max_steps=2), **change}),
            inputs,
            outputs_in(tmp_path / "out"),
            tmp_path / "state",
            "cpu",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_rows_without_label_stop_the_run(tmp_path):
    inputs = make_inputs(tmp_path, unlabelled_high=True)
    with pytest.raises(InputError, match="lack a label"):
        run(RunSpec.from_dict(make_spec()), inputs, outputs_in(tmp_path / "out"), tmp_path / "state", "cpu")


def test_element_outside_the_model(tmp_path):
    inputs = make_inputs(tmp_path, numbers=(16, 1, 1))
    with pytest.raises(InputError, match="element 16 is not among those of model"):
        run(RunSpec.from_dict(make_spec()), inputs, outputs_in(tmp_path / "out"), tmp_path / "state", "cpu")


def test_changed_input_is_noticed(tmp_path):
    inputs = make_inputs(tmp_path)
    with inputs.store.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    with pytest.raises(InputError, match="checksum mismatch"):
        run(RunSpec.from_dict(make_spec()), inputs, outputs_in(tmp_path / "out"), tmp_path / "state", "cpu")


def test_plateau_lowers_the_rate_and_ends_training(tmp_path):
    inputs = make_inputs(tmp_path)
    spec = make_spec(max_steps=None, learning_rate=1e-3, min_learning_rate=2e-4, plateau_patience=0, max_epochs=2000)
    outputs = outputs_in(tmp_path / "out")
    run(RunSpec.from_dict(spec), inputs, outputs, tmp_path / "state", "cpu")
    rates = [float(row["learning_rate"]) for row in read(outputs.history)]
    assert json.loads(outputs.run.read_text())["stopped_by"] == "learning rate"
    assert set(rates) == {1e-3, 5e-4, 2.5e-4}
    assert rates == sorted(rates, reverse=True)


def test_device_choice(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert choose_device("auto").type == "cpu"
    assert "training on the CPU" in capsys.readouterr().err
    with pytest.raises(InputError, match="sees no GPU"):
        choose_device("cuda")
    with pytest.raises(InputError, match="choose auto, cpu or cuda"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


def test_defaults_are_those_of_the_thesis():
    config = Numbers()
    assert (config.learning_rate, config.min_learning_rate) == (1e-4, 1e-7)
    assert (config.plateau_factor, config.plateau_patience) == (0.5, 10)
