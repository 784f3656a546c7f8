"""Tables of the study of robustness: results beside the paper's, the matrix of networks, checks, and what all costs.

Every function has the form ``f(tables, context, output)`` and writes <output>.html and .csv; what the paper states is
taken from the claim file. Energies are in eV, forces in eV/Å, times in ps, temperatures in K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import write_html_table
from mlip_studies.studies import stocker_robustness as robustness
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.md_forecast import NOT_CALCULATED, calculation_seconds, cost_exponent
from mlip_studies.studies.pavlovic_cells import count, number, over_seeds
from mlip_studies.studies.stocker import THERMAL, floor_of
from mlip_studies.studies.stocker_conservation import NVE, SINGULAR, drift_rows
from mlip_studies.studies.stocker_large import HOT, LARGE, large_rows
from mlip_studies.studies.stocker_robustness import (
    MAIN_DATA,
    MAIN_NETWORK,
    PLAIN,
    STUDY_FILE,
    Interval,
    data_of,
    floor_note,
    is_pretrained,
    lifetimes,
    md_error,
    mean_of,
    need_tables,
    network_of,
    rate_of,
    run_order,
    scale_note,
    share_of,
    size_of,
    stated_range,
    survived,
)

#: what a status of a reference calculation means, in the order of the columns
STATUSES: Mapping[str, str] = {
    "converged": "converged",
    "converged_fallback": "converged with help",
    "unconverged": "not converged",
    "timeout": "time limit",
    "out_of_memory": "memory limit",
    "crashed": "crashed",
    "bad_geometry": "atoms coincide",
    "nan_geometry": "not finite",
    "odd_electrons": "odd electrons",
}
#: names of the paper's training sets, from small to large
PAPER_SIZES = ("3.2k", "32k", "320k", "3.2M")
DATA_TITLES: Mapping[str, str] = {
    "qm7x": "random rows", "highe": "rows by force norm", "molecules": "molecules kept out",
    "unknown": "SpookyNet's molecules kept out", "active": "own configurations added",
}  # fmt: skip
JOB_TITLES: Mapping[str, str] = {
    THERMAL: "molecules of the data", LARGE: "large molecules", HOT: "large molecules, hot",
    NVE: "constant energy", SINGULAR: "linear and planar molecules",
}  # fmt: skip


def _caption_scale(context: StudyContext) -> str:
    text = scale_note(context)
    return f"{text[0].upper()}{text[1:]}."


def _by_temperature(frame: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """Nominal temperatures (K) and the lines of each."""
    return [
        (float(kelvin), frame[frame["temperature_k"] == kelvin]) for kelvin in sorted(frame["temperature_k"].unique())
    ]


def _network_title(run: str) -> str:
    return robustness.run_title(run, [run])


# --- results --------------------------------------------------------------------------------------------------------

RESULT_HEADINGS: Mapping[str, str] = {
    "where": "where", "quantity": "quantity", "network": "network", "data": "training rows drawn",
    "n_train": "training rows",
    "temperature_k": "T (K)", "molecule": "molecule", "ours": "ours", "low": "95 % from", "high": "to", "unit": "unit",
    "n": "n",
    "n_of": "n counts", "floor": "floor of the checks", "paper": "paper", "paper_setting": "paper's setting",
    "reading": "reading",
}  # fmt: skip
BELOW = "below the floor"


class _Results:
    """Rows of the table of results."""

    def __init__(self, tables: RunTables, context: StudyContext) -> None:
        self.tables, self.context = tables, context
        self.floor = floor_of(tables)
        self.rows: list[dict[str, Any]] = []
        named = [size_of(run) for run in tables.names("runs") if data_of(run) == MAIN_DATA]
        self.sizes = context.sizes or tuple(sorted({size for size in named if size is not None}))

    def paper_size(self, run: str) -> str:
        """The paper's training set that a run stands for: by rank, the smallest and the largest where others miss."""
        size = size_of(run)
        if size not in self.sizes:
            return ""
        place = self.sizes.index(size)
        if len(self.sizes) == len(PAPER_SIZES):
            return PAPER_SIZES[place]
        return PAPER_SIZES[0] if place == 0 else PAPER_SIZES[-1] if place == len(self.sizes) - 1 else ""

    def is_main(self, run: str, size: str, data: str = MAIN_DATA, network: str = MAIN_NETWORK) -> bool:
        """Whether a run stands for one of the paper's networks."""
        return network_of(run) == network and data_of(run) == data and self.paper_size(run) == size

    def add(
        self,
        where: str,
        quantity: str,
        run: str,
        found: Interval,
        unit: str,
        n_of: str,
        *,
        temperature: float | None = None,
        molecule: str = "",
        floor: float | None = None,
        paper: str | Sequence[str] = (),
        setting: str = "",
    ) -> None:
        """One row; ``paper`` names the claim whose number stands beside ours."""
        claims = [paper] if isinstance(paper, str) else list(paper)
        stated = [self._stated(claim) for claim in claims if claim]
        row: dict[str, Any] = {
            "where": where, "quantity": quantity, "network": _network_title(run),
            "data": DATA_TITLES.get(data_of(run), data_of(run)), "n_train": size_of(run), "temperature_k": temperature,
            "molecule": molecule, "ours": found.value, "low": found.low, "high": found.high, "unit": unit, "n": found.n,
            "n_of": n_of, "floor": floor, "paper": "; ".join(stated), "paper_setting": setting if stated else "",
        }  # fmt: skip
        row["reading"] = self._reading(found, floor, claims)
        self.rows.append(row)

    def _stated(self, claim_id: str) -> str:
        paper = self.context.claim(claim_id).paper
        if isinstance(paper, Mapping) and "relation" in paper:
            return f"{paper['relation']} {paper['value']:g}"
        low, high = stated_range(self.context, claim_id)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    def _reading(self, found: Interval, floor: float | None, claims: Sequence[str]) -> str:
        if not np.isfinite(found.value):
            return "no reference"
        if floor is None or not floor > 0:
            return ""
        parts = ["ours"] if found.value < floor else []
        parts += [
            "the paper's"
            for claim in claims
            if claim
            and not isinstance(self.context.claim(claim).paper, Mapping)
            and stated_range(self.context, claim)[1] < floor
        ]
        return f"{' and '.join(parts)} {BELOW}" if parts else ""

    def test_errors(self) -> None:
        """Errors on the test rows, means over seeds."""
        stated = {
            ("3.2k", "force_mae_ev_per_angstrom", MAIN_DATA): "force-mae-q-3.2k",
            ("3.2M", "force_mae_ev_per_angstrom", MAIN_DATA): "force-mae-q-3.2m",
            ("3.2k", "energy_mae_ev", MAIN_DATA): "ae-mae-q-3.2k",
            ("3.2M", "energy_mae_ev", MAIN_DATA): "ae-mae-q-3.2m",
            ("3.2k", "force_mae_ev_per_angstrom", "highe"): "force-mae-highe",
            ("3.2k", "energy_mae_ev", "highe"): "ae-mae-highe",
        }  # fmt: skip
        for run in sorted(self.tables.names("runs"), key=run_order):
            frame = self.tables.get("runs", run)
            for column, quantity, unit in (
                ("force_mae_ev_per_angstrom", "force MAE", "eV/Å"),
                ("energy_mae_ev", "AE MAE", "eV"),
            ):
                mean = over_seeds(frame, column)
                low, high = mean.value - mean.half, mean.value + mean.half
                size = self.paper_size(run)
                claim = stated.get((size, column, data_of(run)), "") if network_of(run) == MAIN_NETWORK else ""
                self.add(
                    "test rows", quantity, run, Interval(mean.value, low, high, mean.n), unit, "seeds", paper=claim,
                    setting=f"{size} rows",
                )  # fmt: skip

    def dynamics(self) -> None:
        """Failures, errors against DFT and converged calculations of the molecules of the data."""
        judged = {(job, run) for job, run, judge in self.tables.judged_jobs() if run == judge}
        checked = set(self.tables.check_jobs())
        for job, run in self._jobs(self.tables.robustness_jobs(), THERMAL):
            frame = lifetimes(self.tables.robustness(job, run))
            for kelvin, group in _by_temperature(frame):
                alive = survived(group)
                percent = Interval(100 * alive.value, 100 * alive.low, 100 * alive.high, alive.n)
                where = JOB_TITLES[THERMAL]
                self.add(where, "without a failure", run, percent, "%", "trajectories", temperature=kelvin)
                rate = rate_of(group)
                rate = Interval(rate.value, rate.low, rate.high, len(group))
                self.add(where, "first failures per ns", run, rate, "1/ns", "trajectories", temperature=kelvin)
        for job, run in self._jobs(sorted(checked), THERMAL):
            frame = self.tables.checks(job, run)
            for kelvin, group in _by_temperature(frame):
                self._converged(run, kelvin, group)
        for job, run in self._jobs(sorted(judged), THERMAL):
            frame = self.tables.judged(job, run)
            for kelvin, group in _by_temperature(frame):
                self._md_errors(run, kelvin, group)

    def _jobs(self, pairs: Sequence[tuple[str, str]], job: str) -> list[tuple[str, str]]:
        return sorted((pair for pair in pairs if pair[0] == job), key=lambda pair: run_order(pair[1]))

    def _converged(self, run: str, kelvin: float, group: pd.DataFrame) -> None:
        size = self.paper_size(run)
        claim = ""
        if network_of(run) == MAIN_NETWORK and data_of(run) == MAIN_DATA:
            if size in ("320k", "3.2M"):
                claim = "dft-converged-exhaustive"
            elif size == "3.2k" and kelvin == 1200:
                claim = "dft-converged-3.2k-1200k"
        for wanted, quantity in (
            ((PLAIN,), "DFT converged"),
            ((PLAIN, "converged_fallback"), "DFT converged, also with help"),
        ):
            share = share_of(int(group["status"].isin(wanted).sum()), len(group))
            self.add(
                JOB_TITLES[THERMAL], quantity, run,
                Interval(100 * share.value, 100 * share.low, 100 * share.high, share.n),
                "%", "frames", temperature=kelvin, paper=claim if len(wanted) == 1 else "", setting=f"{size} rows",
            )  # fmt: skip

    def _md_errors(self, run: str, kelvin: float, group: pd.DataFrame) -> None:
        claim, setting = "", ""
        if self.is_main(run, "3.2k") and kelvin == 300:
            claim, setting = "md-ae-mae-3.2k-300k", "3.2k rows"
        elif self.is_main(run, "3.2M") and kelvin == 1200:
            claim, setting = "md-ae-mae-q-3.2m-1200k", "3.2M rows"
        for column, quantity, unit, place in (
            ("ae_error_ev", "AE MAE against DFT", "eV", 0),
            ("force_mae_ev_per_angstrom", "force MAE against DFT", "eV/Å", 1),
        ):
            self.add(
                JOB_TITLES[THERMAL], quantity, run, md_error(group, column), unit, "trajectories", temperature=kelvin,
                floor=self.floor and self.floor[place], paper=claim if place == 0 else "", setting=setting,
            )  # fmt: skip

    def crossed(self) -> None:
        """One network on another one's frames, beside its own."""
        for job, run, judge in self.tables.judged_jobs():
            if run == judge:
                continue
            frame = self.tables.judged(job, run, judge)
            for temperature, group in _by_temperature(frame):
                paper = self.is_main(judge, "3.2k") and self.is_main(run, "3.2M") and temperature == 1200
                self.add(
                    f"frames of {_network_title(run)}, {robustness.rows_text(size_of(run))}", "force MAE against DFT",
                    judge,
                    md_error(group, "force_mae_ev_per_angstrom"), "eV/Å", "trajectories", temperature=temperature,
                    floor=self.floor and self.floor[1], paper="cross-force-mae-other" if paper else "",
                    setting="3.2k rows on frames of 3.2M rows, one molecule",
                )  # fmt: skip

    def large(self) -> None:
        """Molecules beyond the training set."""
        for job in (LARGE, HOT):
            try:
                rows = large_rows(self.tables, job, "table results")
            except InputError:
                continue
            for _, row in rows.iterrows():
                self._large_row(job, row)

    def _large_row(self, job: str, row: pd.Series) -> None:
        run, letter = str(row["run"]), str(row["letter"])
        kelvin = float(self.tables.judged(job, run)["temperature_k"].iloc[0])
        stands = self.is_main(run, "3.2M") and job == LARGE
        claims = {"ae_shift_ev": "tripeptide-shift", "ae_std_ev": "tripeptide-std", "ae_r2": "tripeptide-r2"}
        for column, quantity, unit, place in (
            ("ae_shift_ev", "mean AE error", "eV", 0),
            ("ae_std_ev", "standard deviation of the AE error", "eV", None),
            ("ae_r2", "R² of AE", "", None),
            ("force_mae_ev_per_angstrom", "force MAE against DFT", "eV/Å", 1),
        ):
            claim = claims.get(column, "") if letter == "D" else ""
            claim = "force-mae-large" if column.startswith("force") else claim
            found = Interval(float(row[column]), math.nan, math.nan, int(row["n_converged"]))
            floor = self.floor[place] if self.floor and place is not None else None
            self.add(
                JOB_TITLES[job], quantity, run, found, unit, "converged frames", temperature=kelvin,
                molecule=f"{letter} {row['name']}", floor=floor if place == 1 else None,
                paper=claim if stands else "", setting="3.2M rows",
            )  # fmt: skip
        if row["failed"] is not None and not pd.isna(row["failed"]):
            found = Interval(float(row["failure_ps"]), math.nan, math.nan, int(row["failed"]))
            quantity = "first failure" if row["failed"] else "no failure until"
            if not row["failed"]:
                found = Interval(float(row["observed_ps"]), math.nan, math.nan, 0)
            self.add(
                JOB_TITLES[job],
                quantity,
                run,
                found,
                "ps",
                "failures",
                temperature=kelvin,
                molecule=f"{letter} {row['name']}",
            )

    def constant_energy(self) -> None:
        """Drift of the total energy."""
        for job in (NVE, SINGULAR):
            for _, run in self._jobs(self.tables.md_jobs("replicas"), job):
                frame = drift_rows(self.tables, job, run)
                kelvin = float(frame["temperature_k"].iloc[0]) if "temperature_k" in frame else None
                self.add(
                    JOB_TITLES[job], "size of the energy drift", run, mean_of(frame["drift_mev_per_atom_ps"].abs()),
                    "meV/atom/ps", "trajectories", temperature=kelvin,
                )  # fmt: skip


def results_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """All numbers of the study beside the paper's, with the floor of the checks.

    Args:
        tables: results; what was not run is left out.
        context: scale, claims and runs.
        output: path of the HTML file.

    Raises:
        InputError: there are no results, or a claim is missing.
    """
    results = _Results(tables, context)
    results.test_errors()
    results.dynamics()
    results.crossed()
    results.large()
    results.constant_energy()
    need_tables(results.rows, "table results", "neither trained networks nor dynamics were given")
    frame = pd.DataFrame(results.rows).reindex(columns=list(RESULT_HEADINGS))
    for column in ("n_train", "n"):
        frame[column] = frame[column].astype("Int64")
    for column in ("floor", "temperature_k"):
        frame[column] = frame[column].astype(float)
    caption = (
        "AE: atomization energy per molecule. Errors in dynamics are of frames that converged plainly: means over the "
        "frames of a trajectory, then over trajectories. Intervals: 95 % (Student t over seeds or trajectories from "
        "three on, Kaplan–Meier or Wilson for shares, Poisson for rates); frames of one trajectory have none, as "
        f"they are correlated. {floor_note(results.floor)} {_caption_scale(context)}"
    )
    after = {
        "Reading": [
            "The floor is how much the level of the checks differs from that of the labels: no smaller error can be "
            "seen, and a number of the paper below it is not comparable.",
            "The paper states its numbers for 3.2k to 3.2M training rows; at another scale they stand at the sets of "
            "the same rank, for orientation.",
            "A failure is the first change of bonds, fragment, runaway of temperature or energy, or number that is "
            "not finite; the paper names no criterion.",
        ]
    }
    hidden = [name for name in ("molecule",) if (frame[name] == "").all()]
    write_html_table(
        frame, output, "Robustness in dynamics: results", caption, headings=RESULT_HEADINGS, hidden=hidden, after=after,
        cell_class=lambda column, value: "open" if column == "reading" and BELOW in str(value) else None,
    )  # fmt: skip


# --- matrix ---------------------------------------------------------------------------------------------------------

_MATRIX: tuple[tuple[str, str, float], ...] = (
    ("survived", "without a failure (%)", 100.0),
    ("failures_per_ns", "first failures per ns", 1.0),
    ("events_per_ns", "changes of topology per ns", 1.0),
    ("ae_mae_ev", "AE MAE (eV)", 1.0),
    ("force_mae_ev_per_angstrom", "force MAE (eV/Å)", 1.0),
)


def robustness_matrix_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Survival, failures per ns and errors against DFT of every network at every temperature.

    Args:
        tables: the study's results.
        context: scale, and the networks that there should be.
        output: path of the HTML file.

    Raises:
        InputError: no dynamics.
    """
    rows = robustness.matrix_rows(tables, "table robustness-matrix")
    floor = floor_of(tables)
    headings = {"title": "network", "n_train": "training rows", "temperature_k": "T (K)",
                "n_trajectories": "trajectories", "time_ps": "length (ps)", "n_failed": "failed"}  # fmt: skip
    frame = rows[list(headings)].copy()
    for name, title, factor in _MATRIX:
        for suffix, word in (("", title), ("_low", "95 % from"), ("_high", "to")):
            frame[f"{name}{suffix}"] = factor * rows[f"{name}{suffix}"]
            headings[f"{name}{suffix}"] = word
    frame["n_frames"], frame["n_converged"], frame["kinds"] = rows["n_frames"], rows["n_converged"], rows["kinds"]
    headings |= {"n_frames": "frames checked", "n_converged": "of them converged", "kinds": "first failures by kind"}
    frame["note"] = ""
    headings["note"] = "note"
    if floor is not None:
        for name, value in (("ae_mae_ev", floor[0]), ("force_mae_ev_per_angstrom", floor[1])):
            below = frame[name] < value
            what = "AE" if name == "ae_mae_ev" else "force"
            frame.loc[below, "note"] = frame.loc[below, "note"].map(
                lambda text, what=what: f"{text}; {what} {BELOW}".strip("; ")
            )
    frame.loc[(frame["n_frames"] > 0) & (frame["n_converged"] == 0), "note"] = "no DFT reference"
    missing = robustness.missing_runs(context, rows["run"])
    absent = [{"title": name, "note": f"not run: {reason}"} for name, reason in missing.items()]
    if absent:
        frame = pd.concat([frame, pd.DataFrame(absent)], ignore_index=True)
    for column in ("n_train", "n_trajectories", "n_failed", "n_frames", "n_converged"):
        frame[column] = frame[column].astype("Int64")
    pretrained = rows["run"].map(is_pretrained).any()
    caption = (
        "One network per line and temperature (first seed's network), all with the same protocol. Intervals: 95 % "
        "(Kaplan–Meier, Wilson where all or none failed; Poisson; Student t over trajectories). Changes of topology "
        "count also after the first failure. "
        + ("Errors of pretrained networks hold the difference of their labels' level of theory. " if pretrained else "")
        + f"{floor_note(floor)} {_caption_scale(context)}"
    )

    def mark(column: str, value: Any) -> str | None:
        return "none" if column == "note" and str(value).startswith("not run") else None

    write_html_table(
        frame, output, "Robustness of the networks in dynamics", caption, headings=headings, cell_class=mark
    )


# --- reference calculations -----------------------------------------------------------------------------------------


def _all_checks(tables: RunTables, what: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    pairs = tables.check_jobs()
    need_tables(pairs, what, "no DFT checks were given (checks/<job>/<run>/labels.csv)")
    order = list(JOB_TITLES)
    ranked = sorted(
        pairs,
        key=lambda pair: (order.index(pair[0]) if pair[0] in order else len(order), run_order(pair[1])),
    )
    for job, run in ranked:
        yield job, run, tables.checks(job, run)


def checks_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Reference calculations by outcome, one line per job, network and temperature.

    Args:
        tables: the study's results.
        context: scale, claims and settings.
        output: path of the HTML file.

    Raises:
        InputError: no calculations.
    """
    rows, statuses, levels = [], set(), []
    for job, run, labels in _all_checks(tables, "table checks"):
        levels += list(labels["level"].dropna().unique())
        for temperature, group in _by_temperature(labels):
            statuses |= set(group["status"])
            plain, saved = int((group["status"] == PLAIN).sum()), int((group["status"] == "converged_fallback").sum())
            share, helped = share_of(plain, len(group)), share_of(plain + saved, len(group))
            calculated = group[~group["status"].isin(NOT_CALCULATED)]
            seconds = calculation_seconds(calculated)
            rows.append(
                {
                    "job": JOB_TITLES.get(job, job), "network": _network_title(run),
                    "data": DATA_TITLES.get(data_of(run), data_of(run)), "n_train": size_of(run),
                    "temperature_k": temperature,
                    "n": len(group), **{status: int((group["status"] == status).sum()) for status in STATUSES},
                    "other": int((~group["status"].isin(list(STATUSES))).sum()),
                    "plain_percent": 100 * share.value, "plain_low": 100 * share.low, "plain_high": 100 * share.high,
                    "ladder_percent": 100 * helped.value,
                    "core_hours": float(np.nansum(seconds)) / 3600.0,
                }
            )  # fmt: skip
    frame = pd.DataFrame(rows).astype({"n_train": "Int64"})
    headings = {
        "job": "dynamics of", "network": "network", "data": "training rows drawn", "n_train": "training rows",
        "temperature_k": "T (K)", "n": "frames", **STATUSES, "other": "other", "plain_percent": "converged plainly (%)",
        "plain_low": "95 % from", "plain_high": "to", "ladder_percent": "with help (%)", "core_hours": "core-hours",
    }  # fmt: skip
    hidden = [status for status in (*STATUSES, "other") if (frame[status] == 0).all() and status != PLAIN]
    settings = context.settings.get("checks") or {}
    limits = []
    if "max_cycle" in settings:
        limits.append(f"{settings['max_cycle']} cycles of plain DIIS")
    if "time_limit_s" in settings:
        limits.append(f"{settings['time_limit_s']:g} s")
    if "memory_limit_mb" in settings:
        limits.append(f"{settings['memory_limit_mb']:g} MB")
    exhaustive, sparse = (
        context.paper(claim)[""] for claim in ("dft-converged-exhaustive", "dft-converged-3.2k-1200k")
    )
    caption = (
        "Single-point calculations of frames sampled uniformly from the trajectories, at "
        f"{', '.join(dict.fromkeys(levels))}. "
        + (f"Limits of one: {', '.join(limits)}. " if limits else "")
        + "Plain convergence is the headline, with Wilson's 95 % interval; with help: level shift with damping, then "
        f"Newton's method from the last density. Paper (text), GemNet-Q: {exhaustive:g} % with 320k and 3.2M rows, "
        f"about {sparse:g} % with 3.2k rows at 1200 K. {_caption_scale(context)}"
    )
    after = {
        "Reading": [
            "What converges depends on the program, its starting density and its limit of cycles, which the paper "
            "does not state.",
            "A restricted calculation of a molecule in pieces may converge to a state that is not the lowest; frames "
            "that needed help are therefore not among the errors of figures and tables.",
            "Frames after the end of a trajectory (numbers that are not finite) do not exist and are not counted here.",
        ]
    }
    write_html_table(frame, output, "DFT checks by outcome", caption, headings=headings, hidden=hidden, after=after)


def check_costs_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """What a reference calculation costs, by level and size of the molecule.

    Args:
        tables: the study's results.
        context: scale.
        output: path of the HTML file.

    Raises:
        InputError: no calculations.
    """
    labels = pd.concat([frame for *_, frame in _all_checks(tables, "table check-costs")], ignore_index=True)
    labels = labels[~labels["status"].isin(NOT_CALCULATED)]
    need_tables(list(labels.index), "table check-costs", "nothing was calculated: all geometries were impossible")
    labels = labels.assign(core_seconds=calculation_seconds(labels))
    rows, notes = [], []
    for level, part in labels.groupby("level", sort=False):
        for atoms in sorted(part["n_atoms"].unique()):
            group = part[part["n_atoms"] == atoms]
            plain = group[group["status"] == PLAIN]
            mean = float(group["core_seconds"].mean())
            rows.append(
                {
                    "level": level, "n_atoms": int(atoms),
                    "n_basis": float(group["n_basis"].median()) if "n_basis" in group else math.nan,
                    "n": len(group), "plain_percent": 100 * len(plain) / len(group),
                    "median_seconds": float(plain["core_seconds"].median()) if len(plain) else math.nan,
                    "mean_seconds": mean, "longest_seconds": float(group["core_seconds"].max()),
                    "per_core_hour": 3600.0 / mean if mean > 0 else math.nan,
                    "max_rss_mb": float(group["max_rss_mb"].max()) if "max_rss_mb" in group else math.nan,
                }
            )  # fmt: skip
        plain = part[part["status"] == PLAIN]
        exponent, error = cost_exponent(plain["n_atoms"].to_numpy(float), plain["core_seconds"].to_numpy(float))
        if np.isfinite(exponent):
            notes.append(
                f"{level}: the median cost of a plainly converged calculation grows with the number of atoms to the "
                f"power {number(exponent)} ± {number(error, 1)} (standard error of the fit)."
            )
        lost = part[part["status"] != PLAIN]["core_seconds"].sum() / part["core_seconds"].sum()
        notes.append(
            f"{level}: {number(100 * lost, 2)} % of the time went into calculations that did not converge plainly."
        )
    frame = pd.DataFrame(rows)
    frame["n_basis"] = frame["n_basis"].round().astype("Int64")
    headings = {
        "level": "level", "n_atoms": "atoms", "n_basis": "basis functions (median)", "n": "calculations",
        "plain_percent": "converged plainly (%)", "median_seconds": "median, converged (core-s)",
        "mean_seconds": "mean, all (core-s)",
        "longest_seconds": "longest (core-s)", "per_core_hour": "calculations per core-hour",
        "max_rss_mb": "memory (MB)",
    }  # fmt: skip
    hidden = [name for name in ("n_basis", "max_rss_mb") if frame[name].isna().all()]
    caption = (
        "Energy and forces with the dispersion, one process of one thread each; calculations per core-hour count all, "
        f"failed ones with what they took. n = {count(len(labels))} calculations. {_caption_scale(context)}"
    )
    write_html_table(
        frame, output, "What a DFT check costs", caption, headings=headings, hidden=hidden, after={"By size": notes}
    )


# --- forecast -------------------------------------------------------------------------------------------------------

FORECAST_HEADINGS: Mapping[str, str] = {
    "part": "part", "network": "network or level", "parameters": "parameters", "job": "measured in", "what": "measured",
    "hardware": "hardware", "threads": "threads", "precision": "precision",
    "n_measured": "trajectories or calculations",
    "atoms_measured": "atoms per molecule, mean", "rate": "rate", "rate_unit": "unit of the rate", "amount": "amount",
    "amount_unit": "of", "hours": "hours at this size", "atoms_target": "to atoms", "hours_scaled": "hours, scaled",
    "unit": "of",
    "extrapolated": "what is extrapolated",
}  # fmt: skip


def forecast_table(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """GPU hours and core hours of the paper's dynamics and reference calculations, by measured rates.

    Args:
        tables: the study's results (forecast.csv, see :mod:`mlip_studies.studies.md_forecast`; runs for numbers of
            parameters).
        context: scale and claims.
        output: path of the HTML file.

    Raises:
        InputError: the forecast was not made.
    """
    try:
        table = tables.forecast()
    except MissingDataError:
        raise InputError(
            f"table forecast: forecast.csv was not given; add dynamics or checks to {STUDY_FILE}"
        ) from None
    parameters = {
        run: int(frame["n_parameters"].iloc[0])
        for run in tables.names("runs")
        if "n_parameters" in (frame := tables.get("runs", run))
    }
    frame = table.copy()
    runs = frame["run"].fillna("").astype(str)
    frame["network"] = [_forecast_name(run, what) for run, what in zip(runs, frame["what"].astype(str), strict=True)]
    frame["parameters"] = [parameters.get(run) for run in runs]
    frame["parameters"] = frame["parameters"].astype("Int64")
    is_check = frame["part"] == "checks"
    frame.loc[is_check, "what"] = "single calculations"
    frame.loc[is_check, "job"] = "all checks"
    frame["job"] = frame["job"].fillna("")
    frame = frame.reindex(columns=list(FORECAST_HEADINGS))
    for column in ("threads", "n_measured"):
        frame[column] = frame[column].astype("Int64")
    for column in ("precision", "hardware", "extrapolated"):
        frame[column] = frame[column].fillna("")
    length, molecules, samples = (
        context.paper(name)[""] for name in ("total-simulated-time", "md-molecules", "samples-per-trajectory")
    )
    amounts = table.groupby("part")["amount"].first()
    text = []
    if "dynamics" in amounts:
        text.append(
            f"{count(amounts['dynamics'])} steps of one molecule (paper: {length:g} ns in all, steps of 0.5 fs)"
        )
    if "checks" in amounts:
        text.append(
            f"{count(amounts['checks'])} calculations (paper: {samples:g} frames of {molecules:g} molecules at 3 "
            "temperatures with 4 networks)"
        )
    caption = (
        f"What the paper's programme would take at the rates measured here: {'; '.join(text)}. Each line forecasts "
        "the whole amount with that network or level alone. Hours on a processor count once per thread. "
        f"{_caption_scale(context)}"
    )
    after = {"What follows, and what does not": _forecast_notes(table, context)}
    hidden = [name for name in ("parameters", "hours_scaled", "atoms_target", "precision") if _is_empty(frame[name])]
    write_html_table(
        frame,
        output,
        "Forecast of the full dynamics and checks",
        caption,
        headings=FORECAST_HEADINGS,
        hidden=hidden,
        after=after,
    )


def _is_empty(column: pd.Series) -> bool:
    return bool((column.isna() | (column.astype(str) == "")).all())


def _forecast_name(run: str, what: str) -> str:
    if not run:
        return what
    size = robustness.rows_text(size_of(run))
    data = "" if data_of(run) in ("", MAIN_DATA) else DATA_TITLES.get(data_of(run), data_of(run))
    return ", ".join(part for part in (_network_title(run), size, data) if part)


def _forecast_notes(table: pd.DataFrame, context: StudyContext) -> list[str]:
    notes = []
    dynamics, checks = (table[table["part"] == part] for part in ("dynamics", "checks"))
    for part, word in ((dynamics, "dynamics"), (checks, "checks")):
        for unit, group in part.groupby("unit"):
            hours = group["hours_scaled"].fillna(group["hours"])
            low, high = float(hours.min()), float(hours.max())
            span = number(low) if low == high else f"{number(low)} to {number(high)}"
            scaled = bool(group["hours_scaled"].notna().all())
            atoms = f"{number(float(group['atoms_measured'].mean()), 2)} atoms"
            size = "" if scaled else f" for molecules as measured ({atoms}): too few sizes to scale them"
            notes.append(f"All {word}: {span} {unit} by the lines above{size}.")
    if context.scale != "full":
        notes.append(
            "Small networks and molecules were measured: the paper's networks cost more per step, and its "
            "calculations have a larger basis."
        )
    notes.append(
        "The cost of dynamics is scaled in proportion to the number of atoms, that of a calculation by a power fitted "
        "to the measured sizes; batches, networks and hardware stay as measured."
    )
    return notes
