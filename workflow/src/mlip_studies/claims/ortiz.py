"""Metrics of the study of physical adequacy: what answers each statement of the thesis and of ours.

Every metric takes the tables and the claim's arguments. Potentials are meant by short names (``ani2x``, ``mace_off``,
``orb_v2``); all that a statement names must have been run, in their best precision unless the claim asks for another.
Numbers are deterministic: one potential, one curve. Energies are in eV, lengths in Å, angles in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.adequacy.analysis import largest_fall
from mlip_studies.adequacy.scans import bond_length
from mlip_studies.artifacts import PathLike
from mlip_studies.claims.adequacy_tables import DOUBLE, OK, SINGLE, AdequacyTables
from mlip_studies.claims.evaluate import Metric
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.verdicts import Estimate, estimate
from mlip_studies.errors import InputError
from mlip_studies.units import EV_TO_MEV

FloatArray = NDArray[np.float64]

#: a minimum or maximum lower than this against its surroundings is noise, eV
PROMINENCE = 1e-3
#: two minima closer than this are one energy, eV
SAME_ENERGY = 5e-3
#: energies below this count as zero, eV
ZERO = 1e-6
#: an angle closer than this to 180 degrees is linear
NEAR_LINEAR = 3.0
SURFACE = "cyclobutadiene-2d"
#: how claims name any Kohn-Sham level, and parts of the names of functionals
DFT = "dft"
FUNCTIONALS = (DFT, "pbe", "b97", "b3lyp", "scan")
WATER = "water-hoh"
#: tests of symmetry and conservation laws that "physically adequate" is read as
ADEQUACY_TESTS = (
    "rotation_energy_spread_ev", "translation_energy_spread_ev", "force_equivariance", "force_gradient_error",
    "curl_asymmetry", "permutation_energy_ev", "mirror_energy_ev", "extensivity_ev", "locality_ev",
    "nve_drift_mev_per_atom_ps",
)  # fmt: skip


def read_inputs(paths: Iterable[PathLike]) -> AdequacyTables:
    """The study's results from any files, recognised by where they lie."""
    return AdequacyTables.from_paths(paths)


# --- measures of one curve


def points(frame: pd.DataFrame, column: str = "relative_energy_ev") -> tuple[FloatArray, FloatArray]:
    """Coordinates and values of the points that worked, ordered by coordinate.

    Args:
        frame: a curve.
        column: which values.

    Returns:
        coordinate and value, shape (n,) each.

    Raises:
        MissingDataError: fewer than three points worked.
    """
    good = frame[(frame["status"] == OK) & frame[column].notna()].sort_values("coordinate")
    if len(good) < 3:
        messages = [str(each) for each in frame.get("message", pd.Series(dtype=str)).dropna().unique() if str(each)]
        raise MissingDataError(f"{len(good)} points of {len(frame)} worked{': ' + messages[0] if messages else ''}")
    return good["coordinate"].to_numpy(dtype=float), good[column].to_numpy(dtype=float)


def minimum_position(x: FloatArray, energy: FloatArray) -> float:
    """Place of the lowest minimum, between the points by a parabola through the lowest and its neighbours.

    Args:
        x: coordinate, shape (n,), Å or degrees.
        energy: shape (n,), eV.
    """
    at = int(np.argmin(energy))
    if at in (0, len(x) - 1):
        return float(x[at])
    a, b, _ = np.polyfit(x[at - 1 : at + 2] - x[at], energy[at - 1 : at + 2], 2)
    return float(x[at] - b / (2 * a)) if a > 0 else float(x[at])


def depth(x: FloatArray, energy: FloatArray) -> float:
    """Energy (n,), eV, at the largest coordinate x (n,) above the lowest energy."""
    del x
    return float(energy[-1] - energy.min())


def extrema(energy: FloatArray, periodic: bool, prominence: float = PROMINENCE) -> tuple[list[int], list[int]]:
    """Places of minima and maxima that are at least so high against their surroundings.

    Args:
        energy: shape (n,), eV; of a full turn if periodic, where a repeated last point is left out.
        periodic: whether the ends are neighbours; otherwise they are no extrema.
        prominence: in eV.

    Returns:
        indices of the minima and of the maxima.
    """
    from scipy.signal import find_peaks  # here, because it takes half a second

    values = np.asarray(energy, dtype=float)
    if not periodic:
        return find_peaks(-values, prominence=prominence)[0].tolist(), find_peaks(values, prominence=prominence)[
            0
        ].tolist()
    if abs(values[0] - values[-1]) < SAME_ENERGY:
        values = values[:-1]
    found = []
    for signed in (-values, values):
        # From the lowest point around to it again, so that no peak lies at an end.
        start = int(np.argmin(signed))
        turned = np.concatenate([np.roll(signed, -start), [signed[start]]])
        found.append(sorted(int(each + start) % len(values) for each in find_peaks(turned, prominence=prominence)[0]))
    return found[0], found[1]


def is_turn(x: FloatArray) -> bool:
    """Whether a coordinate, shape (n,), is a full turn of 360 degrees."""
    return bool(x[-1] - x[0] > 350.0)


def end_of_interaction(x: FloatArray, energy: FloatArray, zero: float = ZERO) -> float:
    """Smallest coordinate from which on the energy is zero to within a bound; infinite if it is not zero at the end.

    Args:
        x: coordinate, shape (n,), Å.
        energy: shape (n,), eV.
        zero: the bound, eV.
    """
    above = np.flatnonzero(np.abs(energy) > zero)
    if not len(above):
        return float(x[0])
    return float(x[above[-1] + 1]) if above[-1] + 1 < len(x) else math.inf


def nearest(x: FloatArray, energy: FloatArray, value: float, within: float) -> float:
    """Energy (n,), eV, at the point of the coordinate x (n,) nearest to a value.

    Raises:
        MissingDataError: none is that near.
    """
    at = int(np.argmin(np.abs(x - value)))
    if abs(x[at] - value) > within:
        raise MissingDataError(f"no point within {within:g} of {value:g} worked")
    return float(energy[at])


# --- a surface


class Surface:
    """Energies over two C-C distances of cyclobutadiene.

    Attributes:
        x, y: distances in order, shape (n,) each, Å.
        energy: shape (n, n), first index x, eV above the lowest; NaN where a point failed.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        """From a curve with the columns x_angstrom and y_angstrom.

        Raises:
            InputError: the columns are missing.
            MissingDataError: fewer than three points worked.
        """
        missing = {"x_angstrom", "y_angstrom"} - set(frame.columns)
        if missing:
            raise InputError(f"{SURFACE}: column '{min(missing)}' is missing; delete the curve and run again")
        good = frame[frame["status"] == OK]
        if len(good) < 3:
            messages = [str(each) for each in frame.get("message", pd.Series(dtype=str)).dropna().unique() if str(each)]
            raise MissingDataError(f"{SURFACE}: no point worked{': ' + messages[0] if messages else ''}")
        table = frame.assign(energy=frame["energy_ev"].where(frame["status"] == OK)).pivot_table(
            index="x_angstrom", columns="y_angstrom", values="energy", dropna=False
        )
        self.x = table.index.to_numpy(dtype=float)
        self.y = table.columns.to_numpy(dtype=float)
        energy = table.to_numpy(dtype=float)
        self.energy: FloatArray = energy - np.nanmin(energy)

    @property
    def minimum(self) -> tuple[float, float]:
        """The lowest point, Å."""
        row, column = np.unravel_index(int(np.nanargmin(self.energy)), self.energy.shape)
        return float(self.x[row]), float(self.y[column])

    @property
    def square(self) -> float:
        """Lowest energy on the line x = y above the lowest energy, eV."""
        on_line = [
            self.energy[row, column]
            for row, one in enumerate(self.x)
            for column, other in enumerate(self.y)
            if abs(one - other) < 1e-6
        ]
        if not on_line or not np.isfinite(on_line).any():
            raise MissingDataError(f"{SURFACE}: no point with equal distances")
        return float(np.nanmin(on_line))

    @property
    def twins(self) -> float:
        """Lowest energy with x < y less that with x > y, eV."""
        larger = self.y[None, :] - self.x[:, None]
        return float(np.nanmin(self.energy[larger > 1e-6]) - np.nanmin(self.energy[larger < -1e-6]))

    def largest_bias(self, up_to: float) -> float:
        """Largest |E(x, y) - E(y, x)| over pairs that lie at most so high, eV."""
        difference = np.abs(self.energy - self.energy.T)
        low = np.minimum(self.energy, self.energy.T) <= up_to
        return float(np.nanmax(np.where(low, difference, np.nan)))


# --- potentials


def _each(
    tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str], measure: Callable[..., float]
) -> pd.DataFrame:
    """A measure of each potential (rows) on each scan (columns); all must have been run."""
    rows: dict[str, dict[str, float]] = {}
    for name in potentials:
        potential = tables.find(name)
        rows[potential] = {}
        for scan in scans:
            try:
                rows[potential][scan] = measure(*points(tables.best_curve(potential, scan)))
            except MissingDataError as missing:
                raise MissingDataError(f"{potential}, {scan}: {missing}") from missing
    return pd.DataFrame(rows).T


def _reference(tables: AdequacyTables, scan: str) -> tuple[FloatArray, FloatArray]:
    try:
        return points(tables.reference(scan))
    except MissingDataError as missing:
        raise MissingDataError(f"reference of {scan}: {missing}") from missing


def _one(name: str, value: float) -> list[Estimate]:
    return [estimate(name, value, deterministic=True)]


def _all(values: Mapping[str, float]) -> list[Estimate]:
    return [estimate(str(name), float(value), deterministic=True) for name, value in values.items()]


def minimum_error(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Largest distance (Å or degrees) of the lowest minimum from that of the reference level, over scans."""
    found = _each(tables, potentials, scans, minimum_position)
    true = pd.Series({scan: minimum_position(*_reference(tables, scan)) for scan in scans})
    return _all((found - true).abs().max(axis=1).to_dict())


def dissociation_fall(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Largest fall of the energy on the way from the bond to its end (eV), over scans, by potential."""
    columns = {}
    for scan in scans:
        bond = bond_length(scan)
        found = _each(tables, potentials, [scan], lambda x, energy, bond=bond: largest_fall(x, energy, bond))
        columns[scan] = found[scan]
    return _all(pd.DataFrame(columns).max(axis=1).to_dict())


def depth_error(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Largest difference of the dissociation energy from the reference level's (eV), over scans, by potential."""
    found = _each(tables, potentials, scans, depth)
    true = pd.Series({scan: depth(*_reference(tables, scan)) for scan in scans})
    return _all((found - true).abs().max(axis=1).to_dict())


def bump(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Highest energy beyond the reference level's minimum above that at the end (eV), smallest over scans."""
    starts = {scan: minimum_position(*_reference(tables, scan)) for scan in scans}
    columns = {}
    for scan in scans:
        found = _each(
            tables, potentials, [scan],
            lambda x, energy, scan=scan: float(energy[x >= starts[scan]].max() - energy[-1]),
        )  # fmt: skip
        columns[scan] = found[scan]
    return _all(pd.DataFrame(columns).min(axis=1).to_dict())


def interaction_end(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Distance (Å) from which on the energy against free atoms is zero to within 1e-6 eV, largest over scans."""
    values = _each(tables, potentials, scans, end_of_interaction).max(axis=1).to_dict()
    never = "The energy is not zero at the end of the scan."
    return [
        estimate(name, value, deterministic=True)
        if math.isfinite(value)
        else Estimate(name, value, 0.0, 1, True, unresolved=never)
        for name, value in values.items()
    ]


def energy_at_end(tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str]) -> list[Estimate]:
    """Size of the energy against free atoms at the largest distance (eV), largest over scans, by potential."""
    found = _each(tables, potentials, scans, lambda x, energy: abs(float(energy[-1])))
    return _all(found.max(axis=1).to_dict())


def number_of_minima(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Minima of at least 1 meV along a scan, by potential."""
    found = _each(tables, potentials, [scan], lambda x, energy: len(extrema(energy, is_turn(x))[0]))
    return _all(found[scan].to_dict())


def linear_over_bent(tables: AdequacyTables, potentials: Sequence[str]) -> list[Estimate]:
    """Energy of linear water above that of the bent minimum (eV), by potential; negative if linear is lower."""
    found = _each(tables, potentials, [WATER], _linear)
    return _all(found[WATER].to_dict())


def _linear(x: FloatArray, energy: FloatArray) -> float:
    bent = energy[(x > 80) & (x < 130)]
    if not len(bent):
        raise MissingDataError("no bent structure worked")
    return nearest(x, energy, 180.0, NEAR_LINEAR) - float(bent.min())


def linear_ratio(tables: AdequacyTables, potentials: Sequence[str]) -> list[Estimate]:
    """Energy of linear above bent water over that of the reference level, by potential."""
    true = _linear(*_reference(tables, WATER))
    return _all((_each(tables, potentials, [WATER], _linear)[WATER] / true).to_dict())


def barrier_ratio(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Largest over smallest barrier (highest less lowest energy) of several potentials."""
    found = _each(tables, potentials, [scan], lambda x, energy: float(np.ptp(energy)))[scan]
    return _one("largest / smallest", float(found.max() / found.min()))


def barrier_to_reference(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Barrier (highest less lowest energy) over that of the reference level, by potential."""
    true = float(np.ptp(_reference(tables, scan)[1]))
    found = _each(tables, potentials, [scan], lambda x, energy: float(np.ptp(energy)))[scan]
    return _all((found / true).to_dict())


def energy_spread(
    tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str], precision: str = DOUBLE
) -> list[Estimate]:
    """Highest less lowest energy along scans that change nothing (meV), largest over scans, by potential."""
    values = {}
    for name in potentials:
        potential = tables.find(name)
        curves = [tables.curve(potential, precision, scan) for scan in scans]
        values[potential] = EV_TO_MEV * max(float(np.ptp(points(curve, "energy_ev")[1])) for curve in curves)
    return _all(values)


def precision_gain(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Decades by which float64 makes the spread of energies along a scan smaller than float32, by potential."""
    values = {}
    for name in potentials:
        potential = tables.find(name)
        spread = {
            each: max(float(np.ptp(points(tables.curve(potential, each, scan), "energy_ev")[1])), 1e-15)
            for each in (SINGLE, DOUBLE)
        }
        values[potential] = math.log10(spread[SINGLE] / spread[DOUBLE])
    return _all(values)


def net_of_forces(
    tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str], quantity: str
) -> list[Estimate]:
    """Largest norm of the net force (eV/Å) or of the net torque (eV) along scans, by potential."""
    columns = {"force": "net_force_ev_per_angstrom", "torque": "net_torque_ev"}
    if quantity not in columns:
        raise InputError(f"quantity '{quantity}' is unknown; known: {', '.join(columns)}")
    values = {}
    for name in potentials:
        potential = tables.find(name)
        curves = [tables.best_curve(potential, scan) for scan in scans]
        if any(columns[quantity] not in curve for curve in curves):
            raise MissingDataError(f"{potential}: no forces along the scan")
        values[potential] = max(float(points(curve, columns[quantity])[1].max()) for curve in curves)
    return _all(values)


def residual_place(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Angle between 180 and 360 degrees at which |E(a) - E(360 - a)| is largest, by potential."""

    def place(x: FloatArray, energy: FloatArray) -> float:
        mirrored = np.interp(360.0 - x, x, energy)
        return float(x[int(np.argmax(np.where(x >= 180.0, np.abs(energy - mirrored), -1.0)))])

    return _all(_each(tables, potentials, [scan], place)[scan].to_dict())


def distinct_minima(tables: AdequacyTables, potentials: Sequence[str], scan: str) -> list[Estimate]:
    """Different energies among the minima along a scan (closer than 5 meV is one), by potential."""

    def levels(x: FloatArray, energy: FloatArray) -> float:
        lows = np.sort(energy[extrema(energy, is_turn(x))[0]])
        return float((np.diff(lows) > SAME_ENERGY).sum() + 1) if len(lows) else 0.0

    return _all(_each(tables, potentials, [scan], levels)[scan].to_dict())


def lowest_at(tables: AdequacyTables, potentials: Sequence[str], scan: str, place: float) -> list[Estimate]:
    """Distance (degrees, at most 180) of the lowest point of a turn from a place, by potential."""

    def distance(x: FloatArray, energy: FloatArray) -> float:
        away = abs(float(x[int(np.argmin(energy))]) - place) % 360.0
        return min(away, 360.0 - away)

    return _all(_each(tables, potentials, [scan], distance)[scan].to_dict())


def minima_rise(
    tables: AdequacyTables, potentials: Sequence[str], scan: str, place: float, apart: float
) -> list[Estimate]:
    """Energies of the minima of a turn by distance from a place, each less that of the next smaller distance (eV).

    Args:
        tables: the results.
        potentials: names in the claim file.
        scan: name of a scan over 360 degrees.
        place: angle of the rotamer that is claimed to be the lowest, degrees.
        apart: minima whose distances from it differ by less are of one kind, and their mean counts, degrees.

    Raises:
        MissingDataError: a potential has minima of fewer than two kinds.
    """
    values = {}
    for name in potentials:
        potential = tables.find(name)
        x, energy = points(tables.best_curve(potential, scan))
        lows = extrema(energy, is_turn(x))[0]
        away = np.abs((x[lows] - place + 180.0) % 360.0 - 180.0)
        order = np.argsort(away)
        kinds = np.split(energy[lows][order], np.flatnonzero(np.diff(away[order]) >= apart) + 1)
        if len(kinds) < 2:
            raise MissingDataError(f"{potential}, {scan}: fewer than two kinds of minima")
        for number, step in enumerate(np.diff([kind.mean() for kind in kinds]), start=1):
            values[f"{potential}: {number + 1} − {number}"] = float(step)
    return _all(values)


def range_order(tables: AdequacyTables, larger: str, smaller: str, scan: str, factor: float) -> list[Estimate]:
    """Range of energies along a scan of one potential less a factor times that of another (eV)."""
    found = _each(tables, [larger, smaller], [scan], lambda x, energy: float(np.ptp(energy)))[scan]
    return _one(f"{larger} − {factor:g} × {smaller}", float(found.iloc[0] - factor * found.iloc[1]))


# --- measures that the analysis holds


def analysed(
    tables: AdequacyTables, potentials: Sequence[str], scans: Sequence[str], metric: str, which: str = "largest"
) -> list[Estimate]:
    """A measure of the curves' analysis, in the best precision, largest or smallest over scans, by potential."""
    if which not in ("largest", "smallest"):
        raise InputError(f"which '{which}' is unknown; known: largest, smallest")
    analysis = tables.analysis()
    values = {}
    for name in potentials:
        potential = tables.find(name)
        own = analysis[(analysis["potential"] == potential) & (analysis["metric"] == metric)]
        own = own[own["precision"] == next(each for each in tables.precisions(potential))]
        found = own[own["scan"].isin(scans)].dropna(subset="value")
        absent = set(scans) - set(found["scan"])
        if absent:
            raise MissingDataError(f"{potential}, {min(absent)}: no {metric.replace('_', ' ')}")
        values[potential] = float(found["value"].max() if which == "largest" else found["value"].min())
    return _all(values)


# --- cyclobutadiene


def _surface(tables: AdequacyTables, name: str) -> Surface:
    if name == "reference":
        return Surface(tables.reference(SURFACE))
    return Surface(tables.best_curve(tables.find(name), SURFACE))


def surface_minimum(tables: AdequacyTables, potential: str) -> list[Estimate]:
    """Shorter and longer C-C distance (Å) at the lowest point of the surface."""
    low = sorted(_surface(tables, potential).minimum)
    return _all({"short": low[0], "long": low[1]})


def surface_square(tables: AdequacyTables, potential: str) -> list[Estimate]:
    """Energy of the best square above the lowest point (meV); potential ``reference`` is the reference level."""
    return _one("square", EV_TO_MEV * _surface(tables, potential).square)


def surface_twins(tables: AdequacyTables, potential: str) -> list[Estimate]:
    """Size of the difference between the lowest energies on either side of the line of squares (eV)."""
    return _one("difference", abs(_surface(tables, potential).twins))


def surface_bias(tables: AdequacyTables, potentials: Sequence[str], up_to: float = 1.0) -> list[Estimate]:
    """Largest |E(x, y) - E(y, x)| among structures that lie at most so high (eV), by potential."""
    return _all({tables.find(name): _surface(tables, name).largest_bias(up_to) for name in potentials})


def surface_oblong(tables: AdequacyTables, potentials: Sequence[str]) -> list[Estimate]:
    """Difference of the two C-C distances at the lowest point (Å), by potential; 0 is a square."""
    values = {}
    for name in potentials:
        low = _surface(tables, name).minimum
        values[tables.find(name)] = abs(low[0] - low[1])
    return _all(values)


# --- symmetry tests, cost, reference


def symmetry_value(
    tables: AdequacyTables,
    potentials: Sequence[str],
    test: str,
    which: str = "largest",
    precision: str = "",
    molecules: str = "",
) -> list[Estimate]:
    """Value of a symmetry test, largest or smallest over molecules (those whose names contain a text), by potential."""
    values = {}
    for name in potentials:
        potential = tables.find(name)
        table = tables.symmetry(potential, precision or tables.precisions(potential)[0])
        named = table["molecule"].astype(str).str.contains(molecules, regex=False)
        own = table.loc[(table["test"] == test) & named, "value"].astype(float).dropna()
        if own.empty:
            raise MissingDataError(f"{potential}: test {test} was not run")
        values[potential] = float(own.max() if which == "largest" else own.min())
    return _all(values)


def broken_laws(tables: AdequacyTables, potentials: Sequence[str]) -> list[Estimate]:
    """Number of symmetry and conservation tests above their limit on any molecule, by potential."""
    values = {}
    for name in potentials:
        potential = tables.find(name)
        table = tables.symmetry(potential, tables.precisions(potential)[0])
        own = table[table["test"].isin(ADEQUACY_TESTS)].dropna(subset=["value", "limit"])
        if own.empty:
            raise MissingDataError(f"{potential}: no test with a limit was run")
        values[potential] = float(own.loc[own["value"] > own["limit"], "test"].nunique())
    return _all(values)


def cost_exponent(n_atoms: FloatArray, seconds: FloatArray) -> float:
    """Slope of log time (n,) against log size (n,) over the larger half of sizes, where overhead matters least."""
    order = np.argsort(n_atoms)
    keep = order[-max(3, (len(order) + 1) // 2) :]
    if len(np.unique(n_atoms[keep])) < 2:
        return math.nan
    return float(np.polyfit(np.log(n_atoms[keep]), np.log(seconds[keep]), 1)[0])


def _times(tables: AdequacyTables, name: str) -> pd.Series:
    frame = tables.cost()
    known = [str(each) for each in dict.fromkeys(frame["potential"])]
    # A level of theory has timings without having curves.
    if name == DFT:
        of_level = [each for each in known if any(part in each.lower() for part in FUNCTIONALS)]
        if not of_level:
            raise MissingDataError("DFT: not timed")
        potential = of_level[0]
    else:
        potential = name if name in known else tables.find(name)
    own = frame[(frame["potential"] == potential) & (frame["seconds"] > 0)]
    if "precision" in own:
        own = own[own["precision"] == (DOUBLE if DOUBLE in set(own["precision"]) else SINGLE)]
    if own.empty:
        raise MissingDataError(f"{potential}: not timed")
    return own.set_index("n_atoms")["seconds"].astype(float).sort_index()


def scaling_exponent(tables: AdequacyTables, potentials: Sequence[str]) -> list[Estimate]:
    """Exponent of the wall time in the number of atoms, by potential."""
    values = {}
    for name in potentials:
        own = _times(tables, name)
        values[name] = cost_exponent(own.index.to_numpy(dtype=float), own.to_numpy())
    if any(math.isnan(value) for value in values.values()):
        raise MissingDataError("too few sizes were timed")
    return _all(values)


def cost_order(tables: AdequacyTables, slower: str, faster: Sequence[str]) -> list[Estimate]:
    """Decades by which one method is slower than others at the largest size that both were timed at."""
    own = _times(tables, slower)
    values = {}
    for name in faster:
        other = _times(tables, name)
        common = own.index.intersection(other.index)
        if common.empty:
            raise MissingDataError(f"{slower} and {name}: no size was timed with both")
        values[f"{slower} / {name}"] = math.log10(own[common.max()] / other[common.max()])
    return _all(values)


def symmetry_breaking(tables: AdequacyTables, scans: Sequence[str]) -> list[Estimate]:
    """Energy at the largest distance, restricted less the lowest of all methods (eV), by scan."""
    values = {}
    for scan in scans:
        frame = tables.methods(scan)
        frame = frame[frame["status"] == OK]
        restricted = frame[frame["method"] == "restricted"].set_index("coordinate")["energy_ev"]
        others = frame[frame["method"] != "restricted"].groupby("coordinate")["energy_ev"].min()
        both = restricted.index.intersection(others.index)
        if both.empty:
            raise MissingDataError(f"reference of {scan}: no point with restricted and broken symmetry")
        values[scan] = float(restricted[both.max()] - min(others[both.max()], restricted[both.max()]))
    return _all(values)


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (
        minimum_error, dissociation_fall, depth_error, bump, interaction_end, energy_at_end, number_of_minima,
        linear_over_bent, linear_ratio, barrier_ratio, barrier_to_reference, energy_spread, precision_gain,
        net_of_forces, residual_place, distinct_minima, lowest_at, minima_rise, range_order, analysed, surface_minimum,
        surface_square, surface_twins, surface_bias, surface_oblong, symmetry_value, broken_laws, scaling_exponent,
        cost_order, symmetry_breaking,
    )
}  # fmt: skip
