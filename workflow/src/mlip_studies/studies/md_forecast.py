"""What the paper's dynamics and reference calculations would cost, from the rates measured in a study.

S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022) simulate 280 ns in steps of 0.5 fs and calculate 72
frames of each of 20 molecules at 3 temperatures with 4 networks: 17,280 calculations.

* Dynamics: hours = steps of one molecule / measured molecule steps per second. For molecules of another size the cost
  is taken as proportional to the number of atoms, which holds for networks with a cutoff in molecules that are larger
  than it, and is too little for smaller ones.
* Calculations: hours = number / measured calculations per core-hour, failed ones included with what they took. For
  molecules of another size the cost follows a power of the number of atoms (of basis functions, where the target names
  them), fitted to the medians of the measured sizes, from three sizes on.

On a processor hours count once per thread. The network is the measured one: that of another size costs something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.claims.inputs import read_json, read_table
from mlip_studies.errors import InputError
from mlip_studies.runtime.options import check, read_options

SECONDS_PER_HOUR = 3600.0
FS_PER_NS = 1e6
#: statuses of frames that nothing was calculated for
NOT_CALCULATED = ("nan_geometry", "bad_geometry", "odd_electrons")
#: sizes without which no power law is fitted
LEAST_SIZES = 3
COLUMNS = (
    "part", "job", "run", "what", "hardware", "threads", "unit", "precision", "n_measured", "seconds_measured",
    "atoms_measured", "rate", "rate_unit", "amount", "amount_unit", "hours", "atoms_target", "hours_scaled", "exponent",
    "exponent_error", "extrapolated",
)  # fmt: skip
_LABEL_COLUMNS = ("n_atoms", "status", "seconds", "level")
_SUMMARY_KEYS = (
    "job",
    "run",
    "n_trajectories",
    "n_atoms",
    "steps",
    "seconds",
    "system_steps_per_second",
    "environment",
)


@dataclass(frozen=True)
class ForecastConfig:
    """What is forecast.

    Attributes:
        time_ns: length of all dynamics together, ns.
        timestep_fs: time step, fs.
        calculations: number of reference calculations.
        atoms: of the molecules that are meant; None: of those measured.
        basis_functions: of one such calculation, where its basis differs from the measured one; None: as measured.
    """

    time_ns: float = 280.0
    timestep_fs: float = 0.5
    calculations: int = 17280
    atoms: float | None = None
    basis_functions: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        for name, value in vars(self).items():
            check(value is None or (math.isfinite(value) and value > 0), f"forecast.{name}", "more than 0", value)

    @property
    def steps(self) -> float:
        """Steps of single molecules."""
        return self.time_ns * FS_PER_NS / self.timestep_fs


def forecast(
    summaries: Sequence[Mapping[str, Any]],
    labels: Sequence[pd.DataFrame],
    config: ForecastConfig | Mapping[str, Any] | None = None,
    checks_hardware: str = "",
    speed: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One line per measured rate.

    Args:
        summaries: contents of summary.json of dynamics.
        labels: tables of reference calculations (labels.csv).
        config: values of :class:`ForecastConfig`.
        checks_hardware: processor or GPU of the calculations, which their table does not name.
        speed: measured speeds of the networks (speed.csv: label, batch, n_atoms, system_steps_per_second, device,
            hardware, threads, precision), for rates without the writing of trajectories; optional.

    Returns:
        :data:`COLUMNS`. ``hours`` is at the measured size, ``hours_scaled`` at that of the target (NaN where it is not
        given or nothing supports it), both of one ``unit``: GPU h or core h.

    Raises:
        InputError: a summary or table without what is needed, or nothing measured at all.
    """
    options = read_options(ForecastConfig, config if config is not None else {}, "forecast")
    rows = [row for summary in summaries for row in _dynamics(summary, options)]
    if speed is not None:
        rows += [_from_speed(line, options) for _, line in speed.iterrows()]
    if labels:
        rows += _checks(pd.concat(labels, ignore_index=True), options, checks_hardware)
    if not rows:
        raise InputError("forecast: no measured rates; give summary.json of dynamics or labels.csv of calculations")
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _dynamics(summary: Mapping[str, Any], options: ForecastConfig) -> list[dict[str, Any]]:
    missing = [key for key in _SUMMARY_KEYS if key not in summary]
    if missing:
        raise InputError(f"forecast: summary.json without key '{missing[0]}'; run the dynamics again")
    rate = summary["system_steps_per_second"]
    if not rate:
        # All trajectories ended before the first step, or a job found everything done.
        return []
    environment = summary["environment"]
    is_gpu = "gpu" in environment
    return [
        _rate_row(
            options,
            job=str(summary["job"]),
            run=str(summary["run"]),
            what=f"{summary['n_trajectories']} trajectories together",
            is_gpu=is_gpu,
            hardware=str(environment["gpu"] if is_gpu else environment.get("processor", "")),
            threads=1 if is_gpu else int(environment.get("threads", 1)),
            precision=str((summary.get("config") or {}).get("precision", "")),
            n_measured=int(summary["n_trajectories"]),
            seconds=float(summary["seconds"]),
            atoms=float(summary["n_atoms"]) / float(summary["n_trajectories"]),
            rate=float(rate),
        )
    ]


def _from_speed(line: pd.Series, options: ForecastConfig) -> dict[str, Any]:
    is_gpu = str(line.get("device", "cpu")) != "cpu"
    batch = int(line["batch"])
    threads = line.get("threads", 1)
    return _rate_row(
        options,
        job="speed",
        run=str(line["label"]),
        what=f"{batch} molecules together, nothing written",
        is_gpu=is_gpu,
        hardware=str(line.get("hardware", "")),
        threads=1 if is_gpu or pd.isna(threads) else int(threads),
        precision=str(line.get("precision", "")),
        n_measured=batch,
        seconds=math.nan,
        atoms=float(line["n_atoms"]) / batch,
        rate=float(line["system_steps_per_second"]),
    )


def _rate_row(
    options: ForecastConfig,
    *,
    job: str,
    run: str,
    what: str,
    is_gpu: bool,
    hardware: str,
    threads: int,
    precision: str,
    n_measured: int,
    seconds: float,
    atoms: float,
    rate: float,
) -> dict[str, Any]:
    hours = options.steps / rate / SECONDS_PER_HOUR * threads
    scaled, text = math.nan, "this network, batch and molecules"
    if options.atoms is not None:
        scaled = hours * options.atoms / atoms
        text = f"from {atoms:.3g} to {options.atoms:g} atoms, in proportion; this network and batch"
    return {
        "part": "dynamics", "job": job, "run": run, "what": what, "hardware": hardware, "threads": threads,
        "unit": "GPU h" if is_gpu else "core h", "precision": precision, "n_measured": n_measured,
        "seconds_measured": seconds, "atoms_measured": atoms, "rate": rate, "rate_unit": "molecule steps/s",
        "amount": options.steps, "amount_unit": "molecule steps", "hours": hours, "atoms_target": options.atoms,
        "hours_scaled": scaled, "exponent": 1.0, "exponent_error": math.nan, "extrapolated": text,
    }  # fmt: skip


def _checks(labels: pd.DataFrame, options: ForecastConfig, hardware: str) -> list[dict[str, Any]]:
    missing = [name for name in _LABEL_COLUMNS if name not in labels]
    if missing:
        raise InputError(f"forecast: labels.csv without column '{missing[0]}'; run the calculations again")
    labels = labels[~labels["status"].isin(NOT_CALCULATED)]
    backend = labels["backend"].fillna("").astype(str) if "backend" in labels else pd.Series("cpu", index=labels.index)
    rows = []
    for (level, kind), part in labels.groupby([labels["level"].astype(str), backend], sort=False):
        is_gpu = kind == "gpu"
        seconds = calculation_seconds(part, is_gpu)
        good = np.isfinite(seconds) & (seconds > 0)
        if not good.any():
            continue
        part, seconds = part[good], seconds[good]
        mean = float(seconds.mean())
        hours = options.calculations * mean / SECONDS_PER_HOUR
        scaled, exponent, error, text = _scaled(part, seconds, options)
        failed = int((part["status"] != "converged").sum())
        rows.append(
            {
                "part": "checks", "job": "", "run": "", "what": str(level), "hardware": hardware, "threads": 1,
                "unit": "GPU h" if is_gpu else "core h", "precision": "float64", "n_measured": len(part),
                "seconds_measured": float(seconds.sum()), "atoms_measured": float(part["n_atoms"].mean()),
                "rate": SECONDS_PER_HOUR / mean, "rate_unit": f"calculations per {'GPU' if is_gpu else 'core'}-hour",
                "amount": float(options.calculations), "amount_unit": "calculations", "hours": hours,
                "atoms_target": options.atoms, "hours_scaled": hours * scaled, "exponent": exponent,
                "exponent_error": error,
                "extrapolated": f"{text}; {failed} of {len(part)}, which did not converge plainly, count as they took",
            }
        )  # fmt: skip
    return rows


def calculation_seconds(labels: pd.DataFrame, is_gpu: bool = False) -> np.ndarray:
    """Time of each calculation, shape (n,), s: processor time, or wall time on a GPU or where it was not noted.

    Args:
        labels: one line per calculation.
        is_gpu: whether the wall time counts.
    """
    wall: np.ndarray = labels["seconds"].to_numpy(dtype=float)
    if is_gpu or "cpu_seconds" not in labels:
        return wall
    processor = labels["cpu_seconds"].to_numpy(dtype=float)
    # A process that was killed could not say what it used: it had one core for the whole time.
    seconds: np.ndarray = np.where(np.isfinite(processor) & (processor > 0), processor, wall)
    return seconds


def _scaled(labels: pd.DataFrame, seconds: np.ndarray, options: ForecastConfig) -> tuple[float, float, float, str]:
    """Factor on the mean cost, exponent with its standard error, and what was done, in words."""
    by_basis = options.basis_functions is not None and "n_basis" in labels and labels["n_basis"].notna().any()
    column, target = ("n_basis", options.basis_functions) if by_basis else ("n_atoms", options.atoms)
    name = "basis functions" if by_basis else "atoms"
    if target is None:
        return math.nan, math.nan, math.nan, "these molecules"
    plain = (labels["status"] == "converged").to_numpy()
    size = labels[column].to_numpy(dtype=float)
    exponent, error = cost_exponent(size[plain], seconds[plain])
    if not np.isfinite(exponent):
        return math.nan, math.nan, math.nan, f"fewer than {LEAST_SIZES} sizes: not scaled to {target:g} {name}"
    # Each calculation is scaled by itself: a mean cost is not the cost of the mean size.
    known = np.isfinite(size)
    factor = float(np.mean(seconds[known] * (target / size[known]) ** exponent) / seconds.mean())
    text = f"from {np.nanmin(size):g} to {np.nanmax(size):g} {name} to {target:g}, power {exponent:.2f}"
    return factor, exponent, error, text


def cost_exponent(size: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Power of the size that the median cost follows, and its standard error; NaN below three sizes.

    Args:
        size: atoms or basis functions, shape (n,).
        seconds: cost, shape (n,).
    """
    frame = pd.DataFrame({"size": size, "seconds": seconds}).dropna()
    median = frame.groupby("size")["seconds"].median()
    if len(median) < LEAST_SIZES:
        return math.nan, math.nan
    from scipy.stats import linregress

    fit = linregress(np.log(median.index.to_numpy(dtype=float)), np.log(median.to_numpy()))
    return float(fit.slope), float(fit.stderr)


def write_forecast(
    summaries: Iterable[PathLike],
    labels: Iterable[PathLike],
    output: PathLike,
    config: ForecastConfig | Mapping[str, Any] | None = None,
    checks_hardware: str = "",
    speed: PathLike | None = None,
) -> pd.DataFrame:
    """Read the measurements, see :func:`forecast`, and write the table.

    Args:
        summaries: files summary.json of dynamics.
        labels: files labels.csv of reference calculations.
        output: path of the CSV file.
        config: what is forecast.
        checks_hardware: processor or GPU of the calculations.
        speed: file speed.csv; optional.

    Returns:
        the table.

    Raises:
        InputError: a file that is missing, damaged or lacks a column.
    """
    table = forecast(
        [read_json(path) for path in summaries],
        [read_table(path, _LABEL_COLUMNS, ("name", "formula", "status", "strategy", "level")) for path in labels],
        config,
        checks_hardware,
        None
        if speed is None
        else read_table(speed, ("label", "batch", "n_atoms", "system_steps_per_second"), ("label",)),
    )
    with atomic_path(output) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return table
