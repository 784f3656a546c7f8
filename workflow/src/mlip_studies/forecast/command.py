"""``python -m mlip_studies forecast``: what targets will cost, what a run cost, and rates from a run."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlip_studies.config import SCALES, read_yaml
from mlip_studies.errors import InputError
from mlip_studies.forecast.jobs import list_jobs
from mlip_studies.forecast.measure import measure, read_result, write_rates
from mlip_studies.forecast.output import show, show_comparison, write, write_comparison
from mlip_studies.forecast.plan import Forecast, compare, forecast, measured_on_this_run
from mlip_studies.forecast.rates import RATES, read_rates
from mlip_studies.forecast.schedule import Hardware

#: jobs at once of the Slurm profile (workflow/profiles/slurm)
SLURM_JOBS = 50
#: settings that name folders of one machine: what they hold is not for a file of rates that others read
FOLDERS = ("mirror", "weights")
#: settings that leave the costs of a run as they are
FREE_SETTINGS = ("scale", "results")
#: targets of a finished run if none are named
FINISHED = ["demo"]
TARGETS_HELP = (
    "rules or files (default: those of `snakemake` without a target; of a finished run, with --measure or --compare: "
    f"{' '.join(FINISHED)})"
)


def this_machine() -> Hardware:
    """Cores and GPUs of this machine; no GPU if nvidia-smi is not there."""
    gpus = 0
    if shutil.which("nvidia-smi"):
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        gpus = sum(line.startswith("GPU ") for line in found.stdout.splitlines())
    return Hardware(len(os.sched_getaffinity(0)), gpus)


def other_hardware(hardware: Hardware) -> list[Hardware]:
    """What wall times are also given for: four times the cores, and a cluster with the Slurm profile."""
    speed = hardware.megabytes_per_second
    larger = Hardware(4 * hardware.cores, hardware.gpus, None, speed)
    return [larger, Hardware(hardware.cores, hardware.gpus, SLURM_JOBS, speed)] if not hardware.cluster_jobs else []


def run_forecast(
    targets: Sequence[str],
    config: Mapping[str, Any],
    hardware: Hardware,
    rates: Path = RATES,
    from_scratch: bool = False,
) -> Forecast:
    """Forecast of targets, from the top folder of a checkout.

    Args:
        targets: rules or files; none: the workflow's default.
        config: values as after ``--config``.
        hardware: where.
        rates: file of rates.
        from_scratch: as if nothing had been made yet.

    Raises:
        InputError: wrong rates, or a workflow that cannot be planned.
    """
    measured = read_rates(rates)
    jobs = list_jobs(targets, config, from_scratch)
    return forecast(jobs, measured, scale_of(config), hardware, targets, other_hardware(hardware))


def _setting(config: Mapping[str, Any], key: str) -> Any:
    return config[key] if key in config else read_yaml(Path("config/config.yaml"))[key]


def scale_of(config: Mapping[str, Any]) -> str:
    """The scale that a configuration means."""
    return str(_setting(config, "scale"))


def results_of(config: Mapping[str, Any]) -> Path:
    """The folder of results that a configuration means."""
    return Path(str(_setting(config, "results"))) / scale_of(config)


def read_config(words: Sequence[str], scale: str | None) -> dict[str, Any]:
    """Values of ``key=value`` words, as Snakemake reads them after ``--config``.

    Raises:
        InputError: a word without an equals sign, or a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise InputError(f"--config: expected key=value, found {word!r}")
        try:
            result[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--config: the value of {key!r} is not YAML: {value!r}") from None
    return result | ({"scale": scale} if scale else {})


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    here = this_machine()
    made = argparse.ArgumentParser(prog="python -m mlip_studies forecast", description=__doc__)
    made.add_argument("targets", nargs="*", help=TARGETS_HELP)
    made.add_argument("--scale", choices=SCALES, help="mini or full (default: that of config/config.yaml)")
    made.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake; comes last")
    made.add_argument(
        "--cores",
        type=int,
        default=here.cores,
        help="of the machine, or that a measured run was given (default: this one's)",
    )
    made.add_argument("--gpus", type=int, default=here.gpus, help="of the machine, or of the cluster's nodes")
    made.add_argument("--cluster-jobs", type=int, help="jobs that a cluster runs at once; without it: one machine")
    made.add_argument("--bandwidth", type=float, metavar="MB/s", help="of downloads; without it they take no time")
    made.add_argument("--from-scratch", action="store_true", help="as if nothing had been made yet")
    made.add_argument("--rates", type=Path, default=RATES, help=f"file of rates (default: {RATES})")
    made.add_argument("--output", type=Path, help="write FILE.html, .csv and .json")
    made.add_argument("--compare", action="store_true", help="with the costs of the run in the folder of results")
    made.add_argument("--measure", type=Path, metavar="FOLDER", help="write the rates of the run in FOLDER")
    made.add_argument("--name", help="of the measurement (default: scale and targets; needed with --config)")
    made.add_argument("--conditions", default="nothing else known to run there", help="of the measured run")
    return made


def main_forecast(arguments: Sequence[str]) -> int:
    """Entry point of the command.

    Raises:
        InputError: wrong arguments, rates or configuration.
    """
    options = parser().parse_args(arguments)
    config = read_config(options.config, options.scale)
    hardware = Hardware(options.cores, options.gpus, options.cluster_jobs, options.bandwidth)
    if options.measure is not None:
        return _measure(options, config, hardware)
    if options.compare:
        return _compare(options, config, hardware)
    result = run_forecast(options.targets, config, hardware, options.rates, options.from_scratch)
    show(result)
    if options.output is not None:
        for path in write(result, options.output.with_suffix(".html")):
            print(path)
    return 0


def command_of(targets: Sequence[str], config: Mapping[str, Any]) -> str:
    """The command that makes a run again, without folders of this machine.

    Args:
        targets: of the run.
        config: its values as after ``--config``.
    """
    scale = scale_of(config)
    if list(targets) == FINISHED and scale == "mini" and not _of_weight(config):
        return "make demo"
    values = {"scale": scale}
    for key, value in _of_weight(config).items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")
        values[key] = "FOLDER" if key in FOLDERS else text
    words = " ".join(shlex.quote(f"{key}={value}") for key, value in values.items())
    return f"snakemake {' '.join(map(shlex.quote, targets))} --config {words}"


def _of_weight(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make another run."""
    return {key: value for key, value in config.items() if key not in FREE_SETTINGS}


def _measure(options: argparse.Namespace, config: Mapping[str, Any], hardware: Hardware) -> int:
    scale, targets = scale_of(config), options.targets or FINISHED
    changed = _of_weight(config)
    if changed and not options.name:
        raise InputError(f"--name: a run with other settings ({', '.join(changed)}) needs a name of its own; give one")
    name = options.name or f"{scale}-{'-'.join(targets)}"
    jobs = list_jobs(targets, config, from_scratch=True)
    prefix = str(results_of(config))
    found = measure(
        jobs,
        prefix,
        options.measure,
        hardware=hardware,
        name=name,
        scale=scale,
        command=command_of(targets, config),
        conditions=options.conditions,
    )
    write_rates(found, options.rates)
    counts = f"{sum(rate.n for rate in found.jobs.values())} of {sum(not job.empty for job in jobs)} jobs"
    print(
        f"{options.rates}: {name}, {counts}, {len(found.training)} kinds of training, {len(found.dynamics)} of dynamics"
    )
    return 0


def _compare(options: argparse.Namespace, config: Mapping[str, Any], hardware: Hardware) -> int:
    rates = read_rates(options.rates)
    folder = results_of(config)
    jobs = list_jobs(options.targets or FINISHED, config, from_scratch=True)
    frame, walls = compare(jobs, rates, scale_of(config), hardware, str(folder), folder)
    if walls["actual_wall_s"] is None:
        raise InputError(
            f"{folder}: no benchmark files of jobs with a known rate; run these targets first, then compare"
        )
    lines = [
        f"Wall time on {hardware}: predicted {walls['predicted_wall_s']:.0f} s, actual {walls['actual_wall_s']:.0f} s "
        "(from the first job's start to the last one's end, pauses included)."
    ]
    if walls["left_out"]:
        lines.append(f"{walls['left_out']} jobs that ran have no measured rate: in no sum and in neither wall time.")
    path = folder / "provenance.json"
    made = read_result(path, ("made",))["made"] if path.exists() else None
    for name in measured_on_this_run(rates, made):
        lines.append(f"The rates '{name}' come from this very run: only rounding and averaging are compared.")
    show_comparison(frame, lines)
    output = options.output or folder / "forecast-compared.html"
    for written in write_comparison(frame, walls, lines, output.with_suffix(".html")):
        print(written)
    return 0
