"""Configuration and output files of dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlip_studies.artifacts import PathLike
from mlip_studies.md.potentials import check_potential
from mlip_studies.md.stability import REASONS, StabilityConfig
from mlip_studies.md.start import StartConfig
from mlip_studies.models.potential import FIDELITIES
from mlip_studies.runtime.options import check, read_options, read_options_file

ENSEMBLES = ("nvt_langevin", "nve")
PRECISIONS = ("float32", "float64")
FS_PER_PS = 1000.0
#: lines of samples.csv per trajectory, at most; the trajectory file has all samples
TABLE_LINES = 10_000


@dataclass(frozen=True)
class MDConfig:
    """Everything that defines a run.

    Attributes:
        potential: path of a saved potential, or a published one: a mapping of ``pretrained`` (its name), ``kind``,
            ``path``, ``sha256`` and what else :class:`mlip_studies.models.pretrained.PretrainedSpec` has.
        start: start structures.
        time_ps: sampled time, ps.
        temperature_k: one temperature, K, or several: each start structure runs at each. 0 starts at rest, which only
            ``nve`` without thermalisation can.
        ensemble: ``nvt_langevin`` or ``nve``.
        timestep_fs: fs.
        friction_per_ps: gamma of the sampled Langevin dynamics, 1/ps.
        thermalise_ps: time before that, ps.
        thermalise_friction_per_ps: gamma then, 1/ps.
        replicas: trajectories per start structure and temperature.
        seed: of momenta and noise.
        sample_every_fs: interval of samples and of the look at stability, a multiple of the time step, fs.
        stability: when a trajectory ends.
        precision: of the network, float32 or float64; integration is float64 always.
        fidelity: of potentials that know several.
        checkpoint_seconds: wall-clock interval of checkpoints; changes no result.
        job: name of these dynamics, for the tables.
        run: name of the training run that made the potential, for the tables.
    """

    potential: Any
    start: StartConfig
    time_ps: float
    temperature_k: Any = 300.0
    ensemble: str = "nvt_langevin"
    timestep_fs: float = 0.5
    friction_per_ps: float = 1.0
    thermalise_ps: float = 0.0
    thermalise_friction_per_ps: float = 50.0
    replicas: int = 1
    seed: int = 0
    sample_every_fs: float = 10.0
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    precision: str = "float32"
    fidelity: str = "high"
    checkpoint_seconds: float = 120.0
    job: str = "md"
    run: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of range.
        """
        check(self.ensemble in ENSEMBLES, "md.ensemble", f"one of {', '.join(ENSEMBLES)}", self.ensemble)
        check(self.precision in PRECISIONS, "md.precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        check(self.fidelity in FIDELITIES, "md.fidelity", f"one of {', '.join(FIDELITIES)}", self.fidelity)
        try:
            values = np.asarray(self.temperature_k, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.zeros(0)
        ok = len(values) > 0 and bool(np.isfinite(values).all() and (values >= 0).all())
        check(ok, "md.temperature_k", "one or more temperatures, 0 (at rest) or above", self.temperature_k)
        # A thermostat at 0 K takes the energy away that a start at rest is to keep.
        heated = self.ensemble != "nve" or self.thermalise_ps > 0
        wish = "temperatures above 0 with a thermostat (0, a start at rest, needs nve and thermalise_ps: 0)"
        check(not heated or bool((values > 0).all()), "md.temperature_k", wish, self.temperature_k)
        object.__setattr__(self, "temperature_k", tuple(float(value) for value in values))
        for name in ("time_ps", "timestep_fs", "sample_every_fs", "checkpoint_seconds"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"md.{name}", "more than 0", value)
        for name in ("friction_per_ps", "thermalise_ps", "thermalise_friction_per_ps"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, f"md.{name}", "0 or more", value)
        check_potential(self.potential, "md.potential")
        for name, value in vars(self.stability).items():
            if name != "ending":
                check(value > 0, f"md.stability.{name}", "more than 0", value)
        ending = self.stability.ending
        known = "not_finite" in ending and set(ending) <= set(REASONS)
        check(known, "md.stability.ending", f"not_finite and any of {', '.join(REASONS[1:])}", list(ending))
        check(self.replicas >= 1, "md.replicas", "at least 1", self.replicas)
        check(0 <= self.seed < 2**63, "md.seed", "0 or more", self.seed)
        steps = self.sample_every_fs / self.timestep_fs
        whole = round(steps) >= 1 and abs(steps - round(steps)) < 1e-6 * steps
        multiple = f"a multiple of the time step of {self.timestep_fs} fs"
        check(whole, "md.sample_every_fs", multiple, self.sample_every_fs)
        check(self.n_intervals >= 1, "md.time_ps", f"at least {self.sample_every_fs} fs, one sample", self.time_ps)

    @property
    def steps_per_sample(self) -> int:
        """Time steps between samples."""
        return round(self.sample_every_fs / self.timestep_fs)

    @property
    def n_intervals(self) -> int:
        """Sampled intervals; there is one sample more."""
        return round(self.time_ps * FS_PER_PS / self.sample_every_fs)

    @property
    def n_thermal(self) -> int:
        """Intervals of thermalisation."""
        return math.ceil(self.thermalise_ps * FS_PER_PS / self.sample_every_fs - 1e-6)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MDConfig:
        """Build from plain values.

        Raises:
            InputError: an unknown or missing key, or a wrong value.
        """
        return read_options(cls, values, "md")

    @classmethod
    def from_yaml(cls, path: PathLike) -> MDConfig:
        """Read a YAML file.

        Raises:
            InputError: no such file, not YAML, or a wrong key in it.
        """
        return read_options_file(cls.from_dict, path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads."""
        return {**asdict(self), "temperature_k": list(self.temperature_k)}


@dataclass(frozen=True)
class MDOutputs:
    """Files that a run writes.

    Attributes:
        trajectory: HDF5, see :mod:`mlip_studies.md.trajectory`.
        samples: CSV: job, run, replica, start, temperature_k (nominal), time_ps, potential_ev, kinetic_ev,
            measured_temperature_k, alive; at most :data:`TABLE_LINES` evenly spaced samples of a trajectory. After the
            end of a trajectory the measured columns are empty.
        replicas: CSV: job, run and one line per trajectory with what the summary says about it. ``first_reason`` and
            ``first_ps`` are what happened first of :data:`mlip_studies.md.stability.REASONS`, whether it ended the
            trajectory or was only noted; ``noted`` of the summary has the first time of each.
        summary: JSON: configuration, costs, and each replica's survival, temperature and conservation of energy. Times
            count from the end of thermalisation: ``ended_ps`` is negative and ``survived_ps`` 0 for what ended before.
    """

    trajectory: Path
    samples: Path
    replicas: Path
    summary: Path

    @classmethod
    def in_folder(cls, folder: PathLike) -> MDOutputs:
        """The usual names in a folder."""
        folder = Path(folder)
        return cls(*(folder / name for name in ("trajectory.h5", "samples.csv", "replicas.csv", "summary.json")))
