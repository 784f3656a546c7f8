"""Lazy access to what scans, symmetry tests and timings say of potentials and of the reference level."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike, require
from mlip_studies.claims.inputs import MissingDataError, read_json, read_table
from mlip_studies.errors import InputError

# Columns without which a table means nothing. Energies in eV, forces in eV/Å, lengths in Å, times in s.
CURVE_COLUMNS: tuple[str, ...] = ("point", "coordinate", "energy_ev", "relative_energy_ev", "status")
REFERENCE_COLUMNS: tuple[str, ...] = ("point", "coordinate", "energy_ev", "relative_energy_ev")
SYMMETRY_COLUMNS: tuple[str, ...] = ("test", "molecule", "value", "unit", "limit")
COST_COLUMNS: tuple[str, ...] = ("potential", "molecule", "n_atoms", "seconds")
ANALYSIS_COLUMNS: tuple[str, ...] = ("potential", "precision", "scan", "metric", "value", "unit")
TEXT_COLUMNS = (
    "status", "message", "method", "level", "test", "molecule", "unit", "potential", "precision", "scan", "metric",
    "name", "sense", "hardware",
)  # fmt: skip
OK = "ok"
#: end of the columns with the energies of single states of spin in a reference
_STATE = "_energy_ev"
DOUBLE, SINGLE = "float64", "float32"
#: precisions from best to worst
PRECISIONS = (DOUBLE, SINGLE)


def plain_name(name: str) -> str:
    """A name in lower case without anything but letters and digits: ``mace_off`` and ``MACE-OFF`` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_true(values: pd.Series) -> pd.Series:
    """Whether texts or numbers of a CSV file say yes."""
    return values.astype(str).str.lower().isin(("true", "1", "1.0"))


class AdequacyTables:
    """The tidy results of the study of physical adequacy, read once and when they are asked for; callers get copies.

    Anything that is not among the given files counts as not run, and :meth:`missing` says why where it is known.
    """

    def __init__(
        self,
        curves: Mapping[tuple[str, str, str], PathLike] | None = None,
        references: Mapping[tuple[str, str], PathLike] | None = None,
        symmetry: Mapping[tuple[str, str], PathLike] | None = None,
        cost: Sequence[PathLike] = (),
        analysis: Sequence[PathLike] = (),
        unavailable: Sequence[PathLike] = (),
        descriptions: Sequence[PathLike] = (),
    ) -> None:
        """Keep the paths; nothing is read yet.

        Args:
            curves: path of each (potential, precision, scan).
            references: path of each (scan, level).
            symmetry: path of each (potential, precision).
            cost: timings; several tables are put together.
            analysis: measures of curves; several tables are put together.
            unavailable: why potentials were not run.
            descriptions: what potentials are.
        """
        self._curves = {key: Path(path) for key, path in (curves or {}).items()}
        self._references = {key: Path(path) for key, path in (references or {}).items()}
        self._symmetry = {key: Path(path) for key, path in (symmetry or {}).items()}
        self._cost = [Path(path) for path in cost]
        self._analysis = [Path(path) for path in analysis]
        self._unavailable = [Path(path) for path in unavailable]
        self._descriptions = [Path(path) for path in descriptions]
        self._table = cache(lambda path, columns: read_table(path, columns, TEXT_COLUMNS))

    @classmethod
    def from_paths(cls, paths: Iterable[PathLike]) -> AdequacyTables:
        """Recognise files by where they lie; others are ignored.

        ``…/curves/<potential>/<precision>/<scan>.csv``, ``…/reference/<scan>/<level>.csv``,
        ``…/symmetry/<potential>/<precision>.csv``, ``…/cost/<any>.csv``, ``…/analysis.csv``, ``…/unavailable.json``,
        ``…/potentials.json``.

        Args:
            paths: any files, for instance all inputs of a rule.
        """
        curves: dict[tuple[str, str, str], Path] = {}
        references: dict[tuple[str, str], Path] = {}
        symmetry: dict[tuple[str, str], Path] = {}
        cost: list[Path] = []
        analysis: list[Path] = []
        unavailable: list[Path] = []
        descriptions: list[Path] = []
        for path in map(Path, paths):
            above = ("", "", "", *path.parts[:-1])
            if path.name == "unavailable.json":
                unavailable.append(path)
            elif path.name == "potentials.json":
                descriptions.append(path)
            elif path.suffix != ".csv":
                continue
            elif above[-3] == "curves":
                curves[above[-2], above[-1], path.stem] = path
            elif above[-2] == "reference":
                references[above[-1], path.stem] = path
            elif above[-2] == "symmetry":
                symmetry[above[-1], path.stem] = path
            elif above[-1] == "cost":
                cost.append(path)
            elif path.name == "analysis.csv":
                analysis.append(path)
        return cls(curves, references, symmetry, cost, analysis, unavailable, descriptions)

    # --- what there is

    def curves(self) -> list[tuple[str, str, str]]:
        """All (potential, precision, scan) with a curve, in the order given."""
        return list(self._curves)

    def scans(self) -> list[str]:
        """Names of scans with a curve or a reference, each once."""
        return list(dict.fromkeys([*(key[2] for key in self._curves), *(key[0] for key in self._references)]))

    def potentials(self) -> list[str]:
        """Names of potentials with a curve, its analysis or symmetry tests, each once."""
        return list(dict.fromkeys(potential for potential, _ in self._tried()))

    def precisions(self, potential: str) -> list[str]:
        """Precisions in which a potential was run, the best one first."""
        found = {precision for name, precision in self._tried() if name == potential}
        return sorted(found, key=lambda each: (PRECISIONS.index(each) if each in PRECISIONS else 9, each))

    def _tried(self) -> list[tuple[str, str]]:
        """All (potential, precision) that anything is known of."""
        analysed: list[tuple[str, str]] = []
        if self._analysis:
            both = self.analysis()[["potential", "precision"]].drop_duplicates()
            # The reference level is analysed, too.
            analysed = [(str(name), str(how)) for name, how in both.itertuples(index=False) if how in PRECISIONS]
        return [*(key[:2] for key in self._curves), *self._symmetry, *analysed]

    def symmetries(self) -> list[tuple[str, str]]:
        """All (potential, precision) with symmetry tests."""
        return list(self._symmetry)

    def levels(self, scan: str) -> list[str]:
        """File names, without suffix, of the reference levels of a scan."""
        return [level for name, level in self._references if name == scan]

    def find(self, name: str) -> str:
        """The potential that a claim means: the same name but for case and separators, else one that contains it.

        Of several that contain it, for instance sizes of one model, the one called medium, else the first.

        Raises:
            MissingDataError: there is none; the message says why where that is known.
        """
        wanted = plain_name(name)
        known = self.potentials()
        for each in known:
            if plain_name(each) == wanted:
                return each
        near = [each for each in known if wanted in plain_name(each)]
        if near:
            return next((each for each in near if "medium" in plain_name(each)), near[0])
        for each, reason in self.missing().items():
            if wanted in plain_name(each):
                raise MissingDataError(f"{each}: {reason.rstrip('.')}")
        raise MissingDataError(f"{name}: not among the results that were asked for")

    # --- tables

    def curve(self, potential: str, precision: str, scan: str) -> pd.DataFrame:
        """What a potential says along a scan, ordered by point; points that failed are in it.

        Raises:
            MissingDataError: this was not run.
            InputError: the file is damaged or lacks a column.
        """
        key = (potential, precision, scan)
        if key not in self._curves:
            raise MissingDataError(f"{potential}, {precision}, {scan}: not among the results that were asked for")
        return self._read(self._curves[key], CURVE_COLUMNS).sort_values("point", ignore_index=True)

    def best_curve(self, potential: str, scan: str) -> pd.DataFrame:
        """The curve in the best precision that there is.

        Raises:
            MissingDataError: this was not run.
        """
        for precision in self.precisions(potential):
            if (potential, precision, scan) in self._curves:
                return self.curve(potential, precision, scan)
        raise MissingDataError(f"{potential}, {scan}: not among the results that were asked for")

    def methods(self, scan: str, level: str | None = None) -> pd.DataFrame:
        """All calculations of the reference level along a scan: one row per point and method.

        Args:
            scan: name of the scan.
            level: file name of the level; None: the first.

        Returns:
            ``method`` is restricted, broken_symmetry or another state of spin.

        Raises:
            MissingDataError: there is no reference of this scan.
            InputError: the file is damaged or lacks a column.
        """
        frame = self._reference(scan, level)
        states = [column.removesuffix(_STATE) for column in frame if column.endswith(_STATE)]
        states = [state for state in states if state and f"{state}_relative_energy_ev" in frame]
        if not states:
            return frame
        rows = []
        for state in states:
            own = frame.drop(columns=[column for column in frame if column.startswith(tuple(f"{s}_" for s in states))])
            own["method"] = state
            own["energy_ev"] = frame[f"{state}{_STATE}"]
            own["relative_energy_ev"] = frame[f"{state}_relative_energy_ev"]
            done = own["energy_ev"].notna()
            if f"{state}_converged" in frame:
                done &= _is_true(frame[f"{state}_converged"])
            own["status"] = done.map({True: OK, False: "not_converged"})
            rows.append(own[frame[f"{state}{_STATE}"].notna()])
        return pd.concat(rows, ignore_index=True).sort_values(["point", "method"], ignore_index=True)

    def reference(self, scan: str, level: str | None = None) -> pd.DataFrame:
        """The reference along a scan: of each point the lowest converged calculation, else one that did not converge.

        Raises:
            MissingDataError: there is no reference of this scan.
            InputError: the file is damaged or lacks a column.
        """
        frame = self._reference(scan, level)
        order = frame.assign(_failed=frame["status"] != OK)
        order = order.sort_values(["point", "_failed", "energy_ev"], na_position="last")
        return order.groupby("point", as_index=False).head(1).drop(columns="_failed").reset_index(drop=True)

    def _reference(self, scan: str, level: str | None) -> pd.DataFrame:
        """The table of a reference with the columns status, method and level, whatever it has."""
        levels = self.levels(scan)
        if not levels or level not in (None, *levels):
            raise MissingDataError(f"reference of {scan}: not among the results that were asked for")
        frame = self._read(self._references[scan, level or levels[0]], REFERENCE_COLUMNS)
        if "status" not in frame:
            done = frame["energy_ev"].notna()
            if "converged" in frame:
                done &= _is_true(frame["converged"])
            frame["status"] = done.map({True: OK, False: "not_converged"})
        if "method" not in frame:
            frame["method"] = "restricted"
        if "level" not in frame:
            frame["level"] = level or levels[0]
        return frame.sort_values("point", kind="stable", ignore_index=True)

    def level(self, scan: str) -> str:
        """What the reference level of a scan is called.

        Raises:
            MissingDataError: there is no reference of this scan.
        """
        return str(self._reference(scan, None)["level"].iloc[0])

    def symmetry(self, potential: str, precision: str) -> pd.DataFrame:
        """Results of the symmetry tests of a potential.

        Raises:
            MissingDataError: this was not run.
        """
        if (potential, precision) not in self._symmetry:
            raise MissingDataError(f"symmetry tests of {potential}, {precision}: not among the results asked for")
        return self._read(self._symmetry[potential, precision], SYMMETRY_COLUMNS)

    def cost(self) -> pd.DataFrame:
        """Wall times of energies and forces.

        Raises:
            MissingDataError: nothing was timed.
        """
        return self._together(self._cost, COST_COLUMNS, "wall times")

    def analysis(self) -> pd.DataFrame:
        """Measures of all curves: potential, precision, scan, metric, value, unit.

        Raises:
            MissingDataError: there is no such table.
        """
        return self._together(self._analysis, ANALYSIS_COLUMNS, "analysis of the curves")

    def missing(self) -> dict[str, str]:
        """Why each potential that was not run was not; {} if all were.

        Raises:
            InputError: the file is damaged, or a reason is no text.
        """
        reasons: dict[str, str] = {}
        for path in self._unavailable:
            for name, reason in read_json(path).items():
                if not isinstance(reason, str) or not reason:
                    raise InputError(f"{path}: '{name}' has no reason; delete the file and run again")
                reasons[str(name)] = reason
        return reasons

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """What is known of each potential by name: title, family, licence, checksum, cutoff and so on; {} if unknown.

        Raises:
            InputError: the file is damaged.
        """
        result: dict[str, dict[str, Any]] = {}
        for path in map(require, self._descriptions):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                result.update({str(each["name"]): dict(each) for each in content})
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{path}: not a list of potentials ({error}); delete it and run again") from error
        return result

    def _together(self, paths: Sequence[Path], columns: tuple[str, ...], what: str) -> pd.DataFrame:
        if not paths:
            raise MissingDataError(f"{what}: not among the results that were asked for")
        return pd.concat([self._read(path, columns) for path in paths], ignore_index=True)

    def _read(self, path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
        frame: pd.DataFrame = self._table(path, columns)
        return frame.copy()
