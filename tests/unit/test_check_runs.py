"""Comparing the results of two runs, as done after a run on a cluster (tests/slurm/check_runs.py)."""

import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

SCRIPT = Path(__file__).parents[1] / "slurm" / "check_runs.py"


@pytest.fixture(scope="module")
def check_runs():
    spec = importlib.util.spec_from_file_location("check_runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(folder, *, error="0.25", seconds="1.5", verdict="reproduced", mean=3.0):
    """A small folder of results."""
    study = folder / "krcelic"
    (study / "runs" / "a").mkdir(parents=True)
    (study / ".sha256").mkdir()
    (folder / "logs").mkdir()
    (study / "runs" / "a" / "model.safetensors").write_bytes(b"weights")
    (study / "runs" / "a" / "run.json").write_text(
        json.dumps(
            {"error": error, "train_seconds": float(seconds), "state": f"{folder}/x", "process_id": len(seconds)}
        )
    )
    (study / "table.csv").write_text(f"mix,rmse_per_atom,seconds_per_epoch\nA,{error},{seconds}\n")
    (study / ".sha256" / "table.csv").write_text(seconds)
    (folder / "logs" / "train.log").write_text(seconds)
    claim = {"id": "c1", "verdict": verdict, "at_this_scale": None, "ours": [{"name": "", "mean": mean}]}
    (study / "verdicts.json").write_text(json.dumps({"claims": [claim]}))
    return folder


def test_measured_times_and_paths_do_not_count(check_runs, tmp_path):
    one, other = results(tmp_path / "one"), results(tmp_path / "other", seconds="9.25")
    assert check_runs.compare(one, other) == ([], [], ["krcelic/runs/a/run.json", "krcelic/table.csv"], 2)
    assert check_runs.same(one, other) == "2 files are equal byte by byte, 2 differ in measured times only"


def test_a_number_that_differs_is_named(check_runs, tmp_path, capsys):
    one, other = results(tmp_path / "one"), results(tmp_path / "other", error="0.26")
    with pytest.raises(ValueError, match="2 with other numbers, 2 equal"):
        check_runs.same(one, other)
    assert "other numbers: krcelic/table.csv" in capsys.readouterr().out


def test_errors_per_atom_are_no_measured_rates(check_runs):
    measured = ("seconds", "train_seconds", "seconds_per_epoch", "ns_per_day", "resumed_from_step", "max_rss")
    physical = ("rmse_per_atom", "mae_mev_per_atom", "time_ps", "timestep_fs", "n_trajectories", "steps", "seed")
    assert all(check_runs.MEASURED.search(name) for name in measured)
    assert not any(check_runs.MEASURED.search(name) for name in physical)


def test_other_bytes_of_a_binary_file_are_other_numbers(check_runs, tmp_path):
    one, other = results(tmp_path / "one"), results(tmp_path / "other")
    (other / "krcelic" / "runs" / "a" / "model.safetensors").write_bytes(b"Weights")
    assert check_runs.compare(one, other)[1] == ["krcelic/runs/a/model.safetensors"]


def put_arrays(folder, seconds=1.0, weight=0.5, code="a"):
    weights = {"w": np.array([weight, np.nan])}
    save_file(weights, folder / "model.safetensors", metadata={"code": code})
    np.savez(folder / "curve.npz", energy_ev=np.array([weight]), seconds=np.array(seconds))
    with h5py.File(folder / "trajectory.h5", "w") as content:
        content.attrs["code"] = code
        content["samples/positions"] = np.full((2, 3), weight)
        content["cost/seconds"] = seconds


def test_arrays_count_and_what_stands_beside_them_does_not(check_runs, tmp_path):
    folders = [tmp_path / name for name in ("one", "again", "other")]
    for folder, options in zip(folders, ({}, {"seconds": 9.0, "code": "b"}, {"weight": 0.6}), strict=True):
        folder.mkdir()
        put_arrays(folder, **options)
    names = ["curve.npz", "model.safetensors", "trajectory.h5"]
    assert check_runs.compare(folders[0], folders[1]) == ([], [], names, 0)
    assert check_runs.compare(folders[0], folders[2]) == ([], names, [], 0)
    # Runs of the same code give the same bytes.
    assert check_runs.compare(folders[0], folders[1], origin=True) == ([], names, [], 0)


def test_another_code_counts_between_runs_of_the_same(check_runs, tmp_path):
    for name, code in (("one", "a"), ("other", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"code": code, "input": 64 * code, "seconds": ord(code)}))
    folders = tmp_path / "one", tmp_path / "other"
    assert check_runs.compare(*folders)[1:3] == ([], ["run.json"])
    assert check_runs.compare(*folders, origin=True)[1:3] == (["run.json"], [])


def test_a_file_in_one_folder_only_is_named(check_runs, tmp_path):
    one, other = results(tmp_path / "one"), results(tmp_path / "other")
    (other / "krcelic" / "more.csv").write_text("a\n")
    assert check_runs.compare(one, other)[0] == ["krcelic/more.csv"]
    with pytest.raises(ValueError, match="1 files in one folder only"):
        check_runs.same(one, other)


def test_verdicts_that_agree(check_runs, tmp_path, capsys):
    one, other = results(tmp_path / "one"), results(tmp_path / "other", mean=3.3)
    assert check_runs.verdicts(one, other) == "1 verdict tables with 1 claims agree"
    out = capsys.readouterr().out
    assert "krcelic/verdicts.json: 1 claims, largest relative change of a number 0.091" in out
    assert "numbers differ: krcelic/verdicts.json" in out


def test_verdicts_that_differ_fail_with_the_claim(check_runs, tmp_path, capsys):
    one, other = results(tmp_path / "one"), results(tmp_path / "other", verdict="contradicted")
    assert check_runs.main(["verdicts", str(one), str(other)]) == 1
    out = capsys.readouterr().out
    assert "krcelic/verdicts.json: c1: verdict 'reproduced' and 'contradicted'" in out
    assert out.splitlines()[-1] == "ValueError: 1 differences between the verdict tables"


def test_folders_without_verdicts_or_files_are_one_line(check_runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert check_runs.main(["verdicts", str(results(tmp_path / "one")), str(tmp_path / "empty")]) == 1
    assert check_runs.main(["same", str(tmp_path / "empty"), str(tmp_path / "empty")]) == 1
    assert check_runs.main(["verdict"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ValueError: no */verdicts*.json below ")
    assert "have no equal file" in lines[1]
    assert lines[2].startswith("expected: ")


def test_resumed_simulations_and_trainings(check_runs, tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"resumed_from_step": 40}))
    (tmp_path / "summary.json").write_text(json.dumps({"resumed_from_interval": 7}))
    assert check_runs.main(["resumed", str(tmp_path / "run.json"), str(tmp_path / "summary.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the retry resumed from step 40",
        "the retry resumed from interval 7",
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"resumed_from_interval": 0}))
    assert check_runs.main(["resumed", str(tmp_path / "summary.json")]) == 1
