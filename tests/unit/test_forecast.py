"""Forecasts: sums and schedules of made-up graphs by hand, rates, and the graph of the real workflow."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mlip_studies.__main__ import main
from mlip_studies.errors import InputError
from mlip_studies.forecast.command import command_of, main_forecast, read_config
from mlip_studies.forecast.jobs import Job, Work, group_of, list_jobs, read_job, work_of
from mlip_studies.forecast.measure import measure, write_rates
from mlip_studies.forecast.output import as_json, duration, summary, write
from mlip_studies.forecast.plan import compare, forecast
from mlip_studies.forecast.rates import RATES, CalculationRate, DynamicsRate, Measurement, estimate, read_rates
from mlip_studies.forecast.schedule import Hardware, schedule

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {
    "date": "2026-01-01",
    "processor": "some processor",
    "cores": 2,
    "device": "cpu",
    "scale": "mini",
    "conditions": "idle",
    "commit": "abc",
    "command": "make demo",
}
NETWORK = {"model": "schnet", "options": {"hidden": 48}}
RUN = {"name": "run", "scale": "mini", "command": "make demo", "conditions": "idle"}
RATE = {"n": 1, "mean_s": 10.0, "median_s": 9.0, "max_s": 12.0, "bytes": 100.0}


def measurement(**changes):
    return Measurement(**{"name": "test", **ABOUT, **changes})


def training_rate(**changes):
    from mlip_studies.forecast.rates import TrainingRate

    values = {**NETWORK, "batch": 16, "data": "d", "n": 1, "seconds_per_step": 0.5, "start_s": 5.0, **changes}
    return TrainingRate(**values)


def training_job(number=0, steps=100, batch=16, needs=(), data="d", **changes):
    """A training of ``steps`` steps, which takes ``start_s + 0.5 * steps`` seconds by :func:`training_rate`."""
    config = {
        "store": f"results/mini/data/{data}/store.h5",
        "model": {"name": "schnet", "options": {"hidden": 48, "elements": [1, 6]}},
        "training": {"max_steps": steps, "batch_size": batch},
        "train_size": 1000,
    }
    values = {"group": "train", "threads": 1, "gpus": 1, "mem_mb": 2000.0, "limit_s": 3600.0, "needs": tuple(needs)}
    return Job(number, "train_run", **{**values, **changes}, params={"config": config})


def plain_job(number, group="draw", needs=(), **changes):
    values = {"threads": 1, "mem_mb": 1000.0, "limit_s": 600.0, "local": True, **changes}
    return Job(number, group, group, tuple(needs), **values)


def test_schedule_by_hand():
    # 0 (4 s) before 2 (3 s); 1 (5 s) alone. Two cores: 0 and 1 at once, 2 from 4 to 7. One core: 12 s in all.
    jobs = [plain_job(0), plain_job(1), plain_job(2, needs=[0])]
    seconds = {0: 4.0, 1: 5.0, 2: 3.0}
    two = schedule(jobs, seconds, Hardware(2))
    assert two.wall_s == 7.0 and two.start_s == {0: 0.0, 1: 0.0, 2: 4.0} and two.peak_mem_mb == 2000.0
    one = schedule(jobs, seconds, Hardware(1))
    assert one.wall_s == 12.0 and one.peak_mem_mb == 1000.0


def test_schedule_respects_threads_gpus_and_priorities():
    # Two jobs of one GPU each, 10 s, on 4 cores and one GPU: one after the other; on no GPU (processor): together.
    jobs = [training_job(0), training_job(1)]
    seconds = {0: 10.0, 1: 10.0}
    assert schedule(jobs, seconds, Hardware(4, 1)).wall_s == 20.0
    assert schedule(jobs, seconds, Hardware(4, 2)).wall_s == 10.0
    assert schedule(jobs, seconds, Hardware(4, 0)).wall_s == 10.0
    # Four threads do not fit beside one on four cores; on two cores a job gets two.
    wide = [plain_job(0, threads=4), plain_job(1)]
    assert schedule(wide, seconds, Hardware(4)).wall_s == 20.0
    assert schedule(wide, seconds, Hardware(2)).wall_s == 20.0
    assert schedule(wide, seconds, Hardware(5)).wall_s == 10.0
    urgent = [plain_job(0), plain_job(1, priority=50.0)]
    assert schedule(urgent, seconds, Hardware(1)).start_s == {1: 0.0, 0: 10.0}


def test_schedule_on_a_cluster():
    # Three jobs, two at once: 20 s. The local one has the submitting machine for itself.
    jobs = [*(plain_job(i, local=False) for i in range(3)), plain_job(3)]
    planned = schedule(jobs, dict.fromkeys(range(4), 10.0), Hardware(1, cluster_jobs=2))
    assert planned.wall_s == 20.0
    assert planned.start_s[3] == 0.0
    assert planned.peak_mem_mb == 1000.0


def test_schedule_ignores_what_is_there_and_finds_circles():
    assert schedule([plain_job(1, needs=[0])], {1: 2.0}, Hardware(1)).wall_s == 2.0
    with pytest.raises(InputError, match="wait for each other"):
        schedule([plain_job(0, needs=[1]), plain_job(1, needs=[0])], {0: 1.0, 1: 1.0}, Hardware(1))


def test_jobs_that_only_collect_take_nothing():
    jobs = [plain_job(0), plain_job(1, needs=[0]), plain_job(2, needs=[1], empty=True)]
    assert schedule(jobs, {0: 1.0, 1: 1.0, 2: 0.0}, Hardware(1)).wall_s == 2.0


def test_sums_by_hand():
    # Two trainings of 100 steps: 5 + 0.5 * 100 = 55 s each; one figure of 10 s; one job that nobody measured.
    jobs = [
        training_job(0),
        training_job(1),
        plain_job(2, needs=[0, 1]),
        plain_job(3, "mystery", threads=4, limit_s=3600.0, mem_mb=7000.0),
        plain_job(4, "demo", needs=[2, 3], empty=True),
        plain_job(5, run=False),
    ]
    rates = [measurement(jobs={"draw": RATE}, training=(training_rate(bytes=50.0),), span_s=1.0, overhead_s=1.0)]
    result = forecast(jobs, rates, "mini", Hardware(2), ["demo"])
    total = result.total
    assert (total["jobs"], total["measured"], total["unknown"]) == (4, 3, 1)
    assert total["core_h"] == pytest.approx((55 + 55 + 10) / 3600)
    assert total["gpu_h"] == 0.0
    # Two of its four threads on two cores, for an hour.
    assert total["unknown_limit_core_h"] == pytest.approx(2.0)
    assert total["max_mem_mb"] == 7000.0
    assert total["disk_bytes"] == 50 + 50 + 100
    # With 1 s of overhead each: trainings to 56, then the figure (11 s), the mystery (1 s, or an hour; both cores).
    assert result.walls[0]["wall_s"] == pytest.approx(56 + 11 + 1)
    assert result.walls[0]["limit_wall_s"] == pytest.approx(56 + 11 + 3600)
    assert [line["kind"] for line in as_json(result)["kinds"]][-1] == "all"
    text = " ".join(summary(result))
    assert "1 jobs have no measured rate" in text and "some processor, 1 thread per training" in text


def test_core_hours_are_those_reserved():
    # A rate of one thread gains nothing from four, but they are held: 4 x 55 s; on two cores 2 x 55 s.
    jobs, rates = [training_job(0, threads=4)], [measurement(training=(training_rate(),))]
    assert forecast(jobs, rates, "mini", Hardware(8)).total["core_h"] == pytest.approx(4 * 55 / 3600)
    assert forecast(jobs, rates, "mini", Hardware(2)).total["core_h"] == pytest.approx(2 * 55 / 3600)
    assert forecast(jobs, rates, "mini", Hardware(8)).walls[0]["wall_s"] == pytest.approx(55)


def test_gpu_hours_only_from_gpu_rates():
    jobs = [training_job(0, gpus=2)]
    on_cpu = [measurement(training=(training_rate(),))]
    blind = forecast(jobs, on_cpu, "full", Hardware(8, 2)).total
    assert (
        blind["unknown"] == 1
        and blind["gpu_h"] == 0.0
        and "bench_gpu.sh" in forecast(jobs, on_cpu, "full", Hardware(8, 2)).table.iloc[0]["note"]
    )
    assert blind["unknown_limit_gpu_h"] == pytest.approx(2.0)
    on_gpu = [measurement(device="cuda", gpu="some GPU", training=(training_rate(),))]
    seen = forecast(jobs, on_gpu, "full", Hardware(8, 2)).total
    assert seen["gpu_h"] == pytest.approx(2 * 55 / 3600)
    assert forecast(jobs, on_gpu, "full", Hardware(8, 0)).total["unknown"] == 1


def test_unknown_kind_is_said():
    job = plain_job(0, "mystery")
    found = estimate(job, Work("job"), [measurement()], "mini", Hardware(1))
    assert found.status == "unknown" and found.seconds is None and "mystery" in found.note


def test_other_scale_counts_only_where_the_work_is_the_same():
    rates = [measurement(jobs={"draw": RATE, "store": RATE})]
    assert estimate(plain_job(0), Work("job"), rates, "full", Hardware(1)).status == "estimated"
    found = estimate(plain_job(0, "store"), Work("job"), rates, "full", Hardware(1))
    assert found.status == "unknown" and "at scale full" in found.note


def test_training_with_another_batch_is_estimated_per_molecule():
    job = training_job(batch=32)
    found = estimate(job, work_of(job, {0: job}), [measurement(training=(training_rate(),))], "mini", Hardware(1))
    assert found.status == "estimated" and found.seconds == pytest.approx(5 + 100 * 0.5 * 2)
    other = [measurement(training=(training_rate(options={"hidden": 64}),))]
    assert estimate(job, work_of(job, {0: job}), other, "mini", Hardware(1)).status == "unknown"


def test_steps_of_a_training_by_epochs_and_automatic_batches():
    job = training_job()
    config = {**job.params["config"], "training": {"max_epochs": 3, "batch_size": "auto"}, "train_size": 1001}
    work = work_of(replace(job, params={"config": config}), {})
    assert (work.amount, work.key["batch"]) == (3 * 101, 10)  # batches of 10 from 1,000 molecules on
    endless = {**config, "training": {"max_epochs": 3, "batch_size": 16}, "train_size": None}
    assert work_of(replace(job, params={"config": endless}), {}).amount is None


def test_steps_of_multi_fidelity_training():
    def steps(strategy, **training):
        spec = {
            "model": "egnn_rff_as_coded",
            "options": {},
            "strategy": strategy,
            "mix": {"train_low": 1000, "train_high": 101},
            "training": {"batch_size": 10, **training},
            "transfer": {"fraction": 0.5},
        }
        return work_of(Job(0, "train", inputs=("results/mini/data/x/store.h5",), params={"spec": spec}), {}).amount

    assert steps("mix", max_epochs=2) == 2 * 111
    assert steps("delta", max_epochs=2) == 2 * 11
    assert steps("transfer", max_epochs=2) == 100 + 11
    assert steps("mix", max_epochs=2, max_steps=50) == 50
    assert steps("mix") is None


def dynamics_jobs():
    config = {
        "potential": "results/mini/s/runs/r/seed0/model.safetensors",
        "start": {"file": "results/mini/s/starts/qm7x.xyz", "frames": ":"},
        "temperature_k": [300.0, 600.0],
        "replicas": 3,
        "time_ps": 2.0,
        "thermalise_ps": 1.0,
        "timestep_fs": 0.5,
    }
    starts = Job(1, "representatives", params={"spec": {"n": 4}})
    dynamics = Job(2, "md", "md", (0, 1), params={"config": config})
    frames = Job(3, "sample_frames", needs=(2,), params={"samples": 5})
    labels = Job(
        4,
        "spot_check",
        "spot_check",
        (3,),
        threads=16,
        inputs=("results/mini/s/checks/thermal/r/frames.npz",),
        params={"config": {"level": "pbe0"}},
    )
    return {job.number: job for job in (training_job(0), starts, dynamics, frames, labels)}


def test_dynamics_and_calculations():
    jobs = dynamics_jobs()
    dynamics, labels = work_of(jobs[2], jobs), work_of(jobs[4], jobs)
    assert dynamics.amount == 6000 and dynamics.key["trajectories"] == 4 * 2 * 3
    assert labels.amount == 24 * 5 and labels.key["frames"] == "thermal"
    rates = [
        measurement(
            dynamics=(DynamicsRate(**NETWORK, start="qm7x", trajectories=24, n=1, seconds_per_step=0.01, start_s=2.0),),
            calculations=(CalculationRate("pbe0", "thermal", 72, seconds=8.0, start_s=1.0),),
        )
    ]
    assert estimate(jobs[2], dynamics, rates, "mini", Hardware(4)).seconds == pytest.approx(62.0)
    # 120 calculations of 8 s by four processes.
    assert estimate(jobs[4], labels, rates, "mini", Hardware(4)).seconds == pytest.approx(1 + 240)
    assert estimate(jobs[4], labels, rates, "mini", Hardware(1, cluster_jobs=9)).seconds == pytest.approx(1 + 60)
    other = replace(dynamics, key={**dynamics.key, "trajectories": 3})
    assert estimate(jobs[2], other, rates, "mini", Hardware(4)).status == "unknown"


def test_downloads():
    jobs = [
        Job(0, "fetch", "fetch", local=True, params={"file": {"bytes": 50_000_000}}),
        Job(1, "fetch", "fetch", local=True, limit_s=3600.0, params={"file": {"bytes": None}}),
        Job(2, "fetch", "fetch", run=False, params={"file": {"bytes": 7}}),
    ]
    result = forecast(jobs, [measurement()], "full", Hardware(1, megabytes_per_second=10.0))
    assert result.total["download_bytes"] == 50_000_000 and result.present_bytes == 7
    assert result.walls[0]["wall_s"] == pytest.approx(5.0)
    assert result.total["unknown"] == 1
    # Five seconds of waiting for the network are no core hours, and neither is the limit of the other.
    assert result.total["core_h"] == 0.0 and result.total["unknown_limit_core_h"] == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devise": "cpu"}, "unknown key 'devise'"),
        ({"device": "tpu"}, "one of cpu, cuda"),
        ({"jobs": {"draw": {"n": 1}}}, "mean_s"),
        ({"jobs": {"draw": {**RATE, "mean_s": -1.0}}}, "0 or more"),
        ({"training": [{"model": "schnet"}]}, "is missing"),
    ],
)
def test_wrong_rates_are_one_line(tmp_path, capsys, change, said):
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump({"measurements": [{"name": "x", **ABOUT, **change}]}))
    assert main(["forecast", "--rates", str(path)]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and error.startswith("error: ") and said in error


@pytest.mark.parametrize("text", ["measurements: 3", "[1]", ""])
def test_rates_of_another_form(tmp_path, text):
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"rates\.yaml: .*expected"):
        read_rates(path)
    with pytest.raises(InputError, match="--measure"):
        read_rates(tmp_path / "none.yaml")


def test_shipped_rates_can_be_read():
    found = read_rates(ROOT / RATES)
    assert found and all(each.commit and each.command and each.conditions for each in found)


@pytest.mark.parametrize(("words", "said"), [(["scale"], "key=value"), (["a=[1"], "not YAML")])
def test_wrong_config_words(words, said):
    with pytest.raises(InputError, match=said):
        read_config(words, None)


def test_config_words():
    assert read_config(["studies=[krcelic]", "budget_scale=0.5"], "full") == {
        "studies": ["krcelic"],
        "budget_scale": 0.5,
        "scale": "full",
    }


def test_wrong_hardware(capsys):
    assert main(["forecast", "--cores", "0"]) == 1
    assert "--cores" in capsys.readouterr().err


def finished_run(folder):
    """A run of two trainings and a figure, and its jobs."""
    jobs = [training_job(0), training_job(1), plain_job(2, needs=[0, 1])]
    outputs = ["runs/0/run.json", "runs/1/run.json", "figures/a.png"]
    jobs = [
        replace(
            job, outputs=(f"results/mini/{path}",), benchmark=f"results/mini/benchmarks/{job.group}/{job.number}.jsonl"
        )
        for job, path in zip(jobs, outputs, strict=True)
    ]
    hardware = {"processor": "some processor", "cores": 2}
    files = {"provenance.json": {"commit": "abc", "made": "2026-01-01T00:00:00+00:00", "hardware": hardware}}
    for number, seconds in ((0, 60.0), (1, 70.0)):
        files[f"runs/{number}/run.json"] = {
            "device": "cpu",
            "steps": 100 - 50 * number,
            "train_seconds": 40.0,
            "evaluation_seconds": 10.0,
        }
        files[f"benchmarks/train/{number}.jsonl"] = {"s": seconds}
    files["figures/a.png"] = {"size": "small"}
    files["benchmarks/draw/2.jsonl"] = {"s": 4.0}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    # Trainings from 0 to 60 and 70, the figure from 76 to 80: 6 s passed between them.
    for name, end in (("train/0", 60.0), ("train/1", 70.0), ("draw/2", 80.0)):
        os.utime(folder / f"benchmarks/{name}.jsonl", (1e9 + end, 1e9 + end))
    return jobs


def test_measure_and_compare(tmp_path):
    folder = tmp_path / "run"
    jobs = finished_run(folder)
    found = measure(jobs, "results/mini", folder, hardware=Hardware(2), **RUN)
    (rate,) = found.training
    # 100 steps of 100 and 50 of 100, 50 s each: the sum over both jobs must come out again.
    assert rate.n == 2 and rate.seconds_per_step == pytest.approx(100 / 150, rel=1e-4)
    assert rate.start_s == pytest.approx((10 + 20) / 2) and rate.share == pytest.approx(0.75)
    assert found.jobs["draw"].mean_s == 4.0 and found.span_s == 80.0
    # Two trainings at once, then the figure: 70 + 4 and twice the overhead are 80 s.
    assert found.overhead_s == pytest.approx(3.0, abs=0.02)
    path = tmp_path / "rates.yaml"
    write_rates(replace(found, name="older"), path)
    write_rates(found, path)
    write_rates(found, path)
    assert read_rates(path) == [replace(found, name="older"), found]
    assert not (tmp_path / ".sha256").exists()
    frame, walls = compare(jobs, read_rates(path), "mini", Hardware(2), "results/mini", folder)
    total = frame.iloc[-1]
    # Trainings of 60 and 70 s and a figure of 4 s; each training is predicted with their mean, 65 s.
    assert total["compared"] == 3 and total["predicted_s"] == pytest.approx(130 + 4, rel=1e-4)
    assert total["actual_s"] == 134.0 and total["ratio"] == pytest.approx(1, rel=1e-4)
    assert walls["actual_wall_s"] == 80.0 and walls["left_out"] == 0
    assert walls["predicted_wall_s"] == pytest.approx(65 + 4 + 2 * found.overhead_s, rel=1e-4)


def test_a_training_that_does_not_record_its_validation(tmp_path):
    jobs = finished_run(tmp_path)
    for number in (0, 1):
        path = tmp_path / f"runs/{number}/run.json"
        run = json.loads(path.read_text())
        del run["evaluation_seconds"]
        path.write_text(json.dumps(run | {"environment": {"threads": 2}}))
    found = measure(jobs, "results/mini", tmp_path, hardware=Hardware(2), **RUN)
    # 40 s of 60 and of 70 are steps; the rest of 20 and 30 s is not scaled by steps.
    assert found.training[0].seconds_per_step == pytest.approx(80 / 150, rel=1e-4)
    assert found.training[0].start_s == 25.0 and found.threads == 2


def test_overhead_is_what_the_hardware_of_the_run_does_not_explain(tmp_path):
    # On one core the three jobs take 134 s, more than the 80 s of the run; so do two trainings that share one GPU.
    jobs = finished_run(tmp_path)
    for hardware in (Hardware(1), Hardware(2, 1)):
        assert measure(jobs, "results/mini", tmp_path, hardware=hardware, **RUN).overhead_s == 0.0
    # Places on a cluster: the trainings at once, the local figure after them.
    found = measure(jobs, "results/mini", tmp_path, hardware=Hardware(1, cluster_jobs=2), **RUN)
    assert found.overhead_s == pytest.approx(3.0, abs=0.02)


def test_a_night_between_two_commands_is_no_overhead(tmp_path):
    jobs = finished_run(tmp_path)
    figure = tmp_path / "benchmarks/draw/2.jsonl"
    os.utime(figure, (1e9 + 40_080.0, 1e9 + 40_080.0))
    found = measure(jobs, "results/mini", tmp_path, hardware=Hardware(2), **RUN)
    # The whole gap from 70 to 40,076 goes; 74 s are left for jobs of 70 and 4 s.
    assert found.span_s == 40_080.0 and found.overhead_s == pytest.approx(0.0, abs=0.02)
    # A gap of 50 s is no pause: two jobs after each other, 25 s each.
    os.utime(figure, (1e9 + 124.0, 1e9 + 124.0))
    assert measure(jobs, "results/mini", tmp_path, hardware=Hardware(2), **RUN).overhead_s == pytest.approx(
        25, abs=0.02
    )


def labels_of(folder, tables):
    """Jobs of reference calculations that took 30 s each with four threads asked for, and their tables."""
    jobs = []
    for number, text in enumerate(tables):
        path = f"checks/thermal/{number}/spot.csv"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        (folder / f"benchmarks/spot_check/{number}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"benchmarks/spot_check/{number}.jsonl").write_text('{"s": 30.0}')
        jobs.append(
            Job(
                number + 10,
                "spot_check",
                "spot_check",
                threads=4,
                inputs=("results/mini/s/checks/thermal/r/frames.npz",),
                outputs=(f"results/mini/{path}",),
                benchmark=f"results/mini/benchmarks/spot_check/{number}.jsonl",
                params={"config": {"level": "pbe0"}},
            )
        )
    return jobs


def test_rates_of_calculations(tmp_path):
    finished_run(tmp_path)
    # Four of 10 s by two processes leave 10 s of 30, one of 20 s leaves 20 s; a job without calculations says nothing.
    tables = ["seconds\n10\n10\n10\n10\n", "seconds\n20\n", "seconds\n"]
    found = measure(labels_of(tmp_path, tables), "results/mini", tmp_path, hardware=Hardware(2), **RUN)
    (rate,) = found.calculations
    assert (rate.n, rate.seconds, rate.start_s) == (5, 12.0, 15.0)
    assert found.jobs["spot_check"].n == 3


@pytest.mark.parametrize(
    ("text", "said"), [("", "expected a CSV table"), ("energy\n1\n", "expected a column 'seconds'")]
)
def test_tables_that_are_none(tmp_path, text, said):
    finished_run(tmp_path)
    with pytest.raises(InputError, match=rf"spot\.csv: {said}"):
        measure(labels_of(tmp_path, [text]), "results/mini", tmp_path, hardware=Hardware(2), **RUN)


def test_jobs_without_a_rate_are_in_neither_wall_time(tmp_path):
    # The figure has no rate: it ends 10 s after the trainings, which must not count as a wrong prediction.
    jobs = finished_run(tmp_path)
    found = replace(measure(jobs, "results/mini", tmp_path, hardware=Hardware(2), **RUN), jobs={}, overhead_s=0.0)
    frame, walls = compare(jobs, [found], "mini", Hardware(2), "results/mini", tmp_path)
    assert walls["left_out"] == 1 and frame.iloc[-1]["compared"] == 2
    assert walls["actual_wall_s"] == 70.0 and walls["predicted_wall_s"] == pytest.approx(65, rel=1e-4)
    # A training after it still waits for it, and so for the trainings before.
    late = replace(jobs[0], number=3, needs=(2,))
    _, walls = compare([*jobs, late], [found], "mini", Hardware(2), "results/mini", tmp_path)
    assert walls["predicted_wall_s"] == pytest.approx(130, rel=1e-4)
    _, walls = compare(jobs[2:], [found], "mini", Hardware(2), "results/mini", tmp_path)
    assert walls == {"predicted_wall_s": None, "actual_wall_s": None, "left_out": 1}


def test_recorded_command(tmp_path):
    assert command_of(["demo"], {"scale": "mini", "results": str(tmp_path)}) == "make demo"
    changed = {"scale": "mini", "results": str(tmp_path), "budget_scale": 0.1, "studies": ["krcelic", "ortiz"]}
    command = command_of(["demo"], changed | {"mirror": str(tmp_path)})
    assert command == ("snakemake demo --config scale=mini budget_scale=0.1 'studies=[krcelic, ortiz]' mirror=FOLDER")
    with pytest.raises(InputError, match=r"--name: .*budget_scale"):
        main_forecast(["demo", "--measure", str(tmp_path), "--config", "budget_scale=0.1"])


def test_measuring_nothing_is_an_error(tmp_path):
    about = {**RUN, "hardware": Hardware(2)}
    with pytest.raises(InputError, match=r"provenance\.json"):
        measure([plain_job(0)], "results/mini", tmp_path, **about)
    (tmp_path / "provenance.json").write_text('{"commit": "abc"}')
    with pytest.raises(InputError, match=r"provenance\.json: .*'made'"):
        measure([plain_job(0)], "results/mini", tmp_path, **about)
    jobs = finished_run(tmp_path)
    (tmp_path / "benchmarks/draw/2.jsonl").write_text("{half")
    with pytest.raises(InputError, match=r"2\.jsonl: expected JSON lines"):
        measure(jobs, "results/mini", tmp_path, **about)


def test_files(tmp_path):
    result = forecast([plain_job(0)], [measurement(jobs={"draw": RATE})], "mini", Hardware(1), ["some_figure"])
    paths = write(result, tmp_path / "forecast.html")
    assert sorted(path.suffix for path in paths) == [".csv", ".html", ".json"]
    assert json.loads((tmp_path / "forecast.json").read_text())["sources"][0]["processor"] == "some processor"
    assert "some_figure" in (tmp_path / "forecast.html").read_text()


def test_words():
    assert [duration(each) for each in (5.0, 600.0, 9000.0, 1e6, None)] == [
        "5 s",
        "10 min",
        "2.5 h",
        "11.6 days",
        "unknown",
    ]
    assert group_of("krcelic_fig3_3", "results/mini/benchmarks/draw/krcelic_fig3_3.jsonl") == "draw"
    assert group_of("costs", "results/mini/benchmarks/costs.jsonl") == "costs"
    assert group_of("demo", None) == "demo"


def test_jobs_of_a_figure_are_those_of_a_dry_run(tmp_path):
    # In an empty folder of results: nothing is there, so that everything has to run.
    config = {"results": str(tmp_path / "results")}
    jobs = list_jobs(["krcelic_fig3_3"], config, root=ROOT)
    command = [sys.executable, "-m", "snakemake", "krcelic_fig3_3", "-n", "--nolock", "--cores", "1"]
    found = subprocess.run(
        [*command, "--config", f"results={config['results']}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    stats = found.stdout + found.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", stats[stats.index("Job stats") :], flags=re.MULTILINE))
    total = int(counts.pop("total"))
    assert len([job for job in jobs if job.run]) == total
    for rule, count in counts.items():
        assert sum(job.run and job.rule == rule for job in jobs) == int(count), rule
    trainings = [job for job in jobs if job.rule == "train"]
    assert {work_of(job, {}).amount for job in trainings} == {1200}
    figure = next(job for job in jobs if job.rule == "krcelic_fig3_3")
    assert figure.local and not figure.empty and figure.needs
    assert not (tmp_path / "results").exists()


def test_unknown_target_is_one_line(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["forecast", "no_such_target"]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "no_such_target" in error


def test_not_a_checkout(tmp_path):
    with pytest.raises(InputError, match="top folder of a checkout"):
        list_jobs([], root=tmp_path)


def test_a_job_that_need_not_run_is_read_without_its_resources():
    job = read_job({"id": 3, "rule": "fetch", "run": False, "inputs": [], "outputs": ["a"], "needs": [], "params": {}})
    assert not job.run and job.limit_s == 0.0
