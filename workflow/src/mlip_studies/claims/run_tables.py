"""Lazy access to the tidy tables of network runs, of their dynamics, speed and forces, and of the checks of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError, read_json, read_table
from mlip_studies.errors import InputError

# Columns without which a table of the kind means nothing. Energies in eV, forces in eV/Å, lengths in Å, times in ps.
RUN_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "runs": ("run", "seed", "shift", "beta", "n_train", "energy_mae_ev", "force_mae_ev_per_angstrom"),
    "molecules": ("run", "seed", "row", "n_atoms", "energy_true_ev", "energy_predicted_ev"),
    "forces": ("true_low", "true_high", "predicted_low", "predicted_high", "count"),
    "elements": ("element",),
    "outliers": ("run", "seed", "row", "true", "predicted", "residual", "near_zero"),
    "ensemble": ("row",),
    "history": ("seed", "step", "learning_rate"),
}
MD_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "samples": ("job", "replica", "time_ps", "potential_ev", "kinetic_ev"),
    "distances": ("source", "temperature", "r_low", "r_high", "density"),
    "replicas": ("replica", "survived_ps"),
    "robustness": (
        "job", "run", "trajectory", "start", "name", "n_atoms", "temperature_k", "n_samples", "n_missing",
        "observed_ps", "failed", "failure_ps", "failure_kind", "n_events",
    ),
    "topology": ("trajectory", "time_ps", "n_fragments", "n_broken", "n_formed"),
    "spikes": ("trajectory", "time_ps", "largest_force_change_ev_per_angstrom"),
}  # fmt: skip
# Reference calculations on sampled frames, and what a network says on the same frames (per frame and per component).
CHECK_COLUMNS: tuple[str, ...] = (
    "frame", "trajectory", "start", "name", "n_atoms", "temperature_k", "time_ps", "status", "strategy", "seconds",
    "level",
)  # fmt: skip
JUDGED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "judged": (
        "frame", "trajectory", "start", "name", "n_atoms", "temperature_k", "time_ps", "alive", "status",
        "ae_dft_ev", "ae_predicted_ev", "ae_error_ev", "force_mae_ev_per_angstrom",
    ),
    "components": ("frame", "name", "force_dft", "force_predicted"),
}  # fmt: skip
SINGLE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "speed": ("label", "batch", "steps_per_second"),
    "shift_check": ("dataset", "fidelity", "shift", "n_rows"),
    "floor": ("row", "n_atoms", "status", "ae_difference_ev", "force_mae_ev_per_angstrom"),
    "forecast": (),
    "active": (),
    "nan_gradients": ("part", "variant", "case", "quantity", "x", "value", "n_not_finite", "n_values"),
    "table31": (
        "row",
        "dataset",
        "energies",
        "self_energies",
        "n_rows",
        "mean_hartree",
        "std_hartree",
        "paper_label",
        "paper_mean_hartree",
        "paper_std_hartree",
    ),
}
# Tables of one run outside its own folder: errors on another test set, and how far forces are from a gradient.
TRANSFER_COLUMNS: tuple[str, ...] = (
    "seed", "subset", "group", "n_atoms", "energy_true_ev", "energy_predicted_ev", "energy_error_ev",
    "relative_energy_error_ev", "force_mae_ev_per_angstrom",
)  # fmt: skip
CURL_COLUMNS: tuple[str, ...] = ("seed", "structure", "n_atoms", "asymmetry", "loop_work_ev", "gradient_error")
NETWORK_KEYS = ("name", "parameters", "layers")
BASELINE_COLUMNS: tuple[str, ...] = ("baseline", "windows", "mse_x", "mse_v", "mse_both")
# Columns that are names: without this a formula or a group of digits only would become a number.
RUN_TEXT_COLUMNS = (
    "run", "data", "model", "shift", "device", "group", "subset", "formula", "smiles", "element", "job", "reason",
    "source", "label", "precision", "warnings", "fidelity", "correction_note", "dataset", "severity", "message", "name",
    "failure_kind", "detail", "status", "strategy", "level", "component", "structure", "network", "baseline",
)  # fmt: skip
_COMPONENTS = ".components"


class RunTables:
    """The tidy results of a study of network runs, read once and when they are asked for; callers get copies.

    A run is all seeds of one setting, for instance ``formation-so3krates-mean-b0.99``. Anything that is not among the
    given files counts as not run.
    """

    def __init__(
        self,
        runs: Mapping[tuple[str, str], PathLike] | None = None,
        dynamics: Mapping[tuple[str, str, str], PathLike] | None = None,
        single: Mapping[str, Sequence[PathLike]] | None = None,
        checks: Mapping[tuple[str, str], PathLike] | None = None,
        judged: Mapping[tuple[str, str, str, str], PathLike] | None = None,
        named: Mapping[tuple[str, ...], PathLike] | None = None,
    ) -> None:
        """Keep the paths; nothing is read yet.

        Args:
            runs: path of each (kind, run).
            dynamics: path of each (kind, job, run).
            single: paths of the tables of the whole study, by kind: speed, shift_check, floor, forecast, active,
                nan_gradients, table31; several are put together.
            checks: path of the reference calculations of each (job, run).
            judged: path of each (kind, job, run, judge), kind judged or components.
            named: path of each (transfer, test, run), (curl, run), (nbody_run, network), (nbody_predictions, network),
                (nbody_baselines,) and (network, name).
        """
        self._runs = {key: Path(path) for key, path in (runs or {}).items()}
        self._dynamics = {key: Path(path) for key, path in (dynamics or {}).items()}
        self._single = {kind: [Path(path) for path in paths] for kind, paths in (single or {}).items()}
        self._checks = {key: Path(path) for key, path in (checks or {}).items()}
        self._judged = {key: Path(path) for key, path in (judged or {}).items()}
        self._named = {key: Path(path) for key, path in (named or {}).items()}
        self._table = cache(self._read)
        self._json = cache(lambda path: json.dumps(read_json(path)))

    @classmethod
    def from_paths(cls, paths: Iterable[PathLike]) -> RunTables:
        """Recognise files by where they lie; others are ignored.

        ``…/tables/<run>/<kind>.csv``, ``…/md/<job>/<run>/<kind>.csv`` (and its ``summary.json``),
        ``…/checks/<job>/<run>/labels.csv``, ``…/checks/<job>/<run>/judged/<judge>.csv`` (and
        ``<judge>.components.csv``), ``…/floor/floor.csv``, ``…/active/active.csv``, ``…/speed.csv``,
        ``…/shift_check.csv``, ``…/forecast.csv``, ``…/nan_gradients.csv``, ``…/data/table31.csv``,
        ``…/tests/<test>/<run>.csv``, ``…/curl/<run>.csv``, ``…/nbody/<network>/run.json`` (and its
        ``predictions.npz``), ``…/nbody/baselines.csv`` and ``…/models/networks/<name>.json``.

        Args:
            paths: any files, for instance all inputs of a rule.

        Raises:
            InputError: two files hold the same table of one run.
        """
        runs: dict[tuple[str, str], Path] = {}
        dynamics: dict[tuple[str, str, str], Path] = {}
        single: dict[str, list[Path]] = {}
        checks: dict[tuple[str, str], Path] = {}
        judged: dict[tuple[str, str, str, str], Path] = {}
        named: dict[tuple[str, ...], Path] = {}
        for path in dict.fromkeys(map(Path, paths)):
            folders = path.parts
            key = _named_key(path)
            if key is not None:
                # Before the others: a run or a test may have any name.
                _add(named, key, path)
            elif path.suffix == ".csv" and len(folders) >= 5 and folders[-2] == "judged" and folders[-5] == "checks":
                # Before the others: a judge may have any name.
                kind = "components" if path.stem.endswith(_COMPONENTS) else "judged"
                _add(judged, (kind, folders[-4], folders[-3], path.stem.removesuffix(_COMPONENTS)), path)
            elif path.name == "labels.csv" and len(folders) >= 4 and folders[-4] == "checks":
                _add(checks, (folders[-3], folders[-2]), path)
            elif path.suffix == ".csv" and path.stem in SINGLE_COLUMNS:
                single.setdefault(path.stem, []).append(path)
            elif len(folders) >= 4 and folders[-4] == "md" and (path.stem in MD_COLUMNS or path.name == "summary.json"):
                _add(dynamics, (path.stem, folders[-3], folders[-2]), path)
            elif len(folders) >= 3 and folders[-3] == "tables" and path.suffix == ".csv" and path.stem in RUN_COLUMNS:
                _add(runs, (path.stem, folders[-2]), path)
        return cls(runs, dynamics, single, checks, judged, named)

    def names(self, kind: str = "runs") -> list[str]:
        """Runs with a table of this kind, in the order given."""
        return [run for found, run in self._runs if found == kind]

    def get(self, kind: str, run: str) -> pd.DataFrame:
        """One table of one run, all seeds; without rows where the run has nothing for it (one seed: no ensemble).

        Args:
            kind: runs, molecules, forces, elements, outliers, ensemble or history.
            run: name of the run.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        if (kind, run) not in self._runs:
            raise MissingDataError(f"{run} ({kind}): not among the results that were asked for")
        return self._table(self._runs[kind, run], RUN_COLUMNS[kind], kind != "runs").copy()

    def history(self, run: str) -> pd.DataFrame:
        """Losses and errors (eV, eV/Å) of a run along its training, one row per seed and evaluation.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        return self.get("history", run)

    def runs(self) -> pd.DataFrame:
        """One row per run and seed, all runs.

        Raises:
            MissingDataError: there is none.
        """
        names = self.names("runs")
        if not names:
            raise MissingDataError("no run is among the results that were asked for")
        return pd.concat([self.get("runs", name) for name in names], ignore_index=True)

    def md_jobs(self, kind: str = "replicas") -> list[tuple[str, str]]:
        """(job, run) pairs with a table of this kind, in the order given."""
        return [(job, run) for found, job, run in self._dynamics if found == kind]

    def md(self, kind: str, job: str, run: str) -> pd.DataFrame:
        """One table of one job of molecular dynamics.

        Args:
            kind: samples, distances, replicas, robustness, topology or spikes.
            job: name of the job.
            run: name of the run whose network drove it.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        return self._table(self._md_path(kind, job, run), MD_COLUMNS[kind], False).copy()

    def md_summary(self, job: str, run: str) -> dict[str, Any]:
        """What a job of molecular dynamics says about itself.

        Raises:
            MissingDataError: it was not asked for.
        """
        summary: dict[str, Any] = json.loads(self._json(self._md_path("summary", job, run)))
        return summary

    def robustness(self, job: str, run: str) -> pd.DataFrame:
        """When and how each trajectory of a job failed, one row per trajectory.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        frame = self.md("robustness", job, run)
        frame["failed"] = _truth(frame["failed"], self._md_path("robustness", job, run))
        frame["failure_kind"] = frame["failure_kind"].fillna("")
        return frame

    def topology(self, job: str, run: str) -> pd.DataFrame:
        """Bonds and fragments along the trajectories of a job, one row per trajectory and sample.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self.md("topology", job, run)

    def robustness_jobs(self) -> list[tuple[str, str]]:
        """(job, run) pairs with a table of failures, in the order given."""
        return self.md_jobs("robustness")

    def checks(self, job: str, run: str) -> pd.DataFrame:
        """The reference calculations on the sampled frames of a job, one row per frame.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        if (job, run) not in self._checks:
            raise MissingDataError(f"{job} {run} (reference calculations): not among the results that were asked for")
        return self._table(self._checks[job, run], CHECK_COLUMNS, False).copy()

    def check_jobs(self) -> list[tuple[str, str]]:
        """(job, run) pairs with reference calculations, in the order given."""
        return list(self._checks)

    def judged(self, job: str, run: str, judge: str | None = None) -> pd.DataFrame:
        """What a network says on the frames of a job, one row per frame; errors are NaN where there is no reference.

        Args:
            job: name of the job.
            run: name of the run whose network drove the dynamics.
            judge: name of the run whose network is judged on the frames; the same one if None.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        path = self._judged_path("judged", job, run, judge)
        frame = self._table(path, JUDGED_COLUMNS["judged"], False).copy()
        frame["alive"] = _truth(frame["alive"], path)
        return frame

    def components(self, job: str, run: str, judge: str | None = None) -> pd.DataFrame:
        """Reference and predicted force components (eV/Å) on the frames of a job; as ``judged``.

        Raises:
            MissingDataError: it was not asked for.
        """
        path = self._judged_path("components", job, run, judge)
        return self._table(path, JUDGED_COLUMNS["components"], True).copy()

    def judged_jobs(self, kind: str = "judged") -> list[tuple[str, str, str]]:
        """(job, run, judge) with a table of this kind (judged or components), in the order given."""
        return [(job, run, judge) for found, job, run, judge in self._judged if found == kind]

    def floor(self) -> pd.DataFrame:
        """Test rows calculated again at the level of the spot checks: the smallest error that a check can show.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("floor")

    def forecast(self) -> pd.DataFrame:
        """What the full scale costs by measured rates.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("forecast")

    def active(self) -> pd.DataFrame:
        """Robustness before and after failed configurations were added to the training set.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("active")

    def speed(self) -> pd.DataFrame:
        """Measured simulation speed of every network: label, batch, ms_per_step, steps_per_second and more.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("speed")

    def shift_check(self) -> pd.DataFrame:
        """What the choice of the energy reference does to every data set.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("shift_check")

    def nan_gradients(self) -> pd.DataFrame:
        """Gradients at and near the points where formulas of harmonics and of norms are singular.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("nan_gradients")

    def table31(self) -> pd.DataFrame:
        """Mean and standard deviation (Ha) of the energies of data sets, with and without self energies.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._whole("table31")

    def transfer(self, test: str, run: str) -> pd.DataFrame:
        """Errors of a run on another test set, one row per seed and molecule; energies in eV, forces in eV/Å.

        Args:
            test: name of the test set.
            run: name of the run.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        return self._table(self._named_path("transfer", test, run), TRANSFER_COLUMNS, False).copy()

    def transfer_tests(self) -> list[tuple[str, str]]:
        """(test, run) pairs with errors on another test set, in the order given."""
        return [(key[1], key[2]) for key in self._named if key[0] == "transfer"]

    def curl(self, run: str) -> pd.DataFrame:
        """How far the forces of a run are from a gradient, one row per seed and structure.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        return self._table(self._named_path("curl", run), CURL_COLUMNS, False).copy()

    def curl_runs(self) -> list[str]:
        """Runs whose forces were examined, in the order given."""
        return [key[1] for key in self._named if key[0] == "curl"]

    def nbody_runs(self) -> dict[str, dict[str, Any]]:
        """What each network that was trained on charged particles says about itself, by network; may be empty."""
        keys = [key for key in self._named if key[0] == "nbody_run"]
        return {key[1]: json.loads(self._json(self._named[key])) for key in keys}

    def nbody_predictions(self, network: str) -> Path:
        """Path of the arrays (npz) of true and predicted particles of a network.

        Raises:
            MissingDataError: it was not asked for.
        """
        return self._named_path("nbody_predictions", network)

    def nbody_baselines(self) -> pd.DataFrame:
        """Errors of predictions of the particles without a network.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a column.
        """
        return self._table(self._named_path("nbody_baselines"), BASELINE_COLUMNS, False).copy()

    def network(self, name: str) -> dict[str, Any]:
        """Parameters of a network and the equivariance of its layers, by its name in config/models.yaml.

        Raises:
            MissingDataError: it was not asked for.
            InputError: the file is damaged or lacks a key.
        """
        path = self._named_path("network", name)
        content: dict[str, Any] = json.loads(self._json(path))
        missing = [key for key in NETWORK_KEYS if key not in content]
        if missing:
            raise InputError(f"{path}: key '{missing[0]}' is missing; delete the file and run again")
        return content

    def networks(self) -> list[str]:
        """Names of the networks that were measured, in the order given."""
        return [key[1] for key in self._named if key[0] == "network"]

    def _named_path(self, *key: str) -> Path:
        if key not in self._named:
            what = key[0].replace("_", " ")
            label = f"{' '.join(key[1:])} ({what})" if key[1:] else what
            raise MissingDataError(f"{label}: not among the results that were asked for")
        return self._named[key]

    def _md_path(self, kind: str, job: str, run: str) -> Path:
        if (kind, job, run) not in self._dynamics:
            raise MissingDataError(f"{job} {run} ({kind}): not among the results that were asked for")
        return self._dynamics[kind, job, run]

    def _judged_path(self, kind: str, job: str, run: str, judge: str | None) -> Path:
        key = (kind, job, run, judge or run)
        if key not in self._judged:
            by = "" if key[3] == run else f", judged by {key[3]}"
            raise MissingDataError(f"{job} {run} ({kind}{by}): not among the results that were asked for")
        return self._judged[key]

    def _whole(self, kind: str) -> pd.DataFrame:
        if not self._single.get(kind):
            raise MissingDataError(f"{kind.replace('_', ' ')}: not among the results that were asked for")
        tables = [self._table(path, SINGLE_COLUMNS[kind], False) for path in self._single[kind]]
        return pd.concat(tables, ignore_index=True)

    @staticmethod
    def _read(path: Path, columns: tuple[str, ...], may_be_empty: bool) -> pd.DataFrame:
        return read_table(path, columns, RUN_TEXT_COLUMNS, may_be_empty)


def _named_key(path: Path) -> tuple[str, ...] | None:
    """What a file holds by where it lies, for files of which any stem is a name; None for all others."""
    folders = path.parts
    if path.suffix == ".csv" and len(folders) >= 3 and folders[-3] == "tests":
        return "transfer", folders[-2], path.stem
    if path.suffix == ".csv" and len(folders) >= 2 and folders[-2] == "curl":
        return "curl", path.stem
    if path.name == "baselines.csv" and len(folders) >= 2 and folders[-2] == "nbody":
        return ("nbody_baselines",)
    if path.name in ("run.json", "predictions.npz") and len(folders) >= 3 and folders[-3] == "nbody":
        return f"nbody_{path.stem}", folders[-2]
    if path.suffix == ".json" and len(folders) >= 3 and folders[-3:-1] == ("models", "networks"):
        return "network", path.stem
    return None


def _truth(column: pd.Series, path: Path) -> pd.Series:
    """A column of True and False, however CSV gave it back."""
    values = column.astype(str).str.strip().str.lower().map({"true": True, "false": False, "1": True, "0": False})
    if values.isna().any():
        raise InputError(f"{path}: column '{column.name}' must be True or False; delete the file and run again")
    return values.astype(bool)


def _add(files: dict[Any, Path], key: tuple[str, ...], path: Path) -> None:
    if key in files:
        raise InputError(f"{path}: {files[key]} holds the same table ({' '.join(key)}); give one of them")
    files[key] = path
