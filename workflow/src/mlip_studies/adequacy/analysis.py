"""Numbers read off scan curves: minima, barriers, symmetry residuals, smoothness, and errors against a reference.

Table of the analysis: one row per potential, precision, scan and metric, with ``value`` (NaN where a curve does not
say) and ``unit``. Only points whose status is ``ok`` count. The metrics:

* every curve: ``n_points``; ``n_failed`` (points that are not ok); ``rmse_ev`` against the reference over the points of
  it within :data:`WINDOW_EV` of its minimum, after the constant that makes it smallest is taken off;
* ``minimum_position`` (parabola through the lowest point and its neighbours; angles that the molecule's symmetry makes
  equal are folded onto one), ``minimum_error`` (less that of the reference), ``minimum_at_edge`` (the lowest point is
  the first or the last of a scan that is not a full turn), ``n_minima`` (local minima at least :data:`PROMINENCE_EV`
  deep);
* diatomics and bonds: ``well_depth_ev`` (last point, or the atoms of a diatomic, less the minimum),
  ``largest_rise_ev`` (highest point from the bond's well on less the last), ``largest_fall_ev`` (largest fall on the
  way from there to the end) and ``dissociation_monotone`` (1 if that is at most :data:`MONOTONE_EV`); diatomics also
  ``limit_ev`` (last point less the atoms) and ``zero_beyond_angstrom`` (from here on all points equal the last, within
  :data:`ZERO_EV`; NaN if not even the last two do);
* ``barrier_ev``: turns, highest less lowest; water, straight less bent; the surface, lowest square less lowest point;
* ``symmetry_residual_ev``: largest difference of points that symmetry makes equal: E(a) and E(360° - a), E(a) and
  E(a + 360°/fold), E(x, y) and E(y, x); of a molecule that is turned or moved as a whole, highest less lowest energy;
* ``harmonic_r2``: of a parabola over :data:`HARMONIC_DEGREES` either side of the lowest angle, from five points on;
* smoothness: ``tortuosity`` (sum of the steps' sizes over that of the way down and up of a curve with one minimum: 1 is
  the least), ``force_flips`` (changes of sign of the force along the coordinate, from the forces where they are given,
  otherwise from differences of energies; a curve with one minimum has 1), ``largest_jump_ev`` (largest deviation of a
  point from the cubic through its four neighbours; of diatomics and bonds, from the well on). Tortuosity and force
  flips follow the diatomics benchmark of MLIP Arena (Y. Chiang et al., 2025, arXiv:2509.20630).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.adequacy.scans import Scan, bond_length, read_scan, scan_shape
from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError

FloatArray = NDArray[np.float64]

COLUMNS = ("potential", "precision", "scan", "metric", "value", "unit")
#: columns that a curve must have
NEEDED = ("coordinate", "relative_energy_ev", "status")
#: eV above the reference's minimum that errors count
WINDOW_EV = 5.0
#: depth of a local minimum that counts, eV
PROMINENCE_EV = 1e-3
#: fall on the way to dissociation that counts, eV
MONOTONE_EV = 5e-3
#: lengths of a bond within which its well is looked for
BOND_REACH = 1.3
#: difference that counts as zero, eV; float32 resolves total energies no better than this
ZERO_EV = {"float64": 1e-6, "float32": 1e-3}
#: either side of the lowest angle, degrees
HARMONIC_DEGREES = 10.0
#: where bent water is looked for, degrees
_BENT = (80.0, 130.0)
#: forces below this have no sign, eV per unit of the coordinate
_NO_FORCE = 1e-3
_KEY = ["potential", "precision", "scan"]


def analyse(curves: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Analyse many curves.

    Args:
        curves: the rows of all curves with the columns ``potential``, ``precision``, ``scan``, ``coordinate`` (Å or
            degrees), ``relative_energy_ev`` and ``status``; ``x_angstrom`` and ``y_angstrom`` of surfaces; and, where
            forces are known, ``force_along`` (eV per unit of the coordinate, see :func:`force_along`).
        reference: the same rows of the reference method, one level per ``scan``; its ``precision`` is not read, and of
            several rows of one point the lowest that is ok counts. None: no errors against it.

    Returns:
        the table of the module's docstring; the reference's curves are in it with their own ``potential`` (``level`` if
        there is none) and precision ``reference``.

    Raises:
        InputError: a column is missing, or a scan is unknown or has two references.
    """
    _check(curves, [*_KEY, *NEEDED], "curves")
    references: dict[str, pd.DataFrame] = {}
    rows: list[tuple[object, ...]] = []
    if reference is not None and len(reference):
        _check(reference, ["scan", *NEEDED], "reference")
        names = [key for key in ("potential", "level") if key in reference][:1]
        for scan, group in reference.groupby("scan", sort=False):
            if names and group[names[0]].nunique() > 1:
                raise InputError(f"reference of {scan}: {group[names[0]].nunique()} levels; expected one")
            group = references[str(scan)] = one_per_point(group)
            label = str(group[names[0]].iloc[0]) if names else "reference"
            rows += [(label, "reference", scan, *found) for found in curve_metrics(str(scan), group)]
    for key, group in curves.groupby(_KEY, sort=False):
        potential, precision, scan = (str(each) for each in key)
        found = curve_metrics(scan, group, references.get(scan), precision)
        rows += [(potential, precision, scan, *each) for each in found]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def curve_metrics(
    scan: str, curve: pd.DataFrame, reference: pd.DataFrame | None = None, precision: str = "float64"
) -> list[tuple[str, float, str]]:
    """Metric, value and unit of one curve (see the module).

    Raises:
        InputError: a column is missing or the scan is unknown.
    """
    _check(curve, NEEDED, f"curve {scan}")
    shape = scan_shape(scan)
    ok = _usable(curve)
    unit = "angstrom" if shape.unit == "Å" else "degree"
    found: list[tuple[str, float, str]] = [
        ("n_points", float(len(curve)), "1"),
        ("n_failed", float((curve["status"] != "ok").sum()), "1"),
    ]
    if shape.kind == "surface":
        found += _surface(ok)
    elif shape.kind in ("rotation", "translation"):
        energies = ok["relative_energy_ev"].to_numpy(float)
        found.append(("symmetry_residual_ev", float(np.ptp(energies)) if len(energies) > 1 else np.nan, "eV"))
    else:
        found += _line(shape, curve, ok, reference, precision, unit)
    if reference is not None:
        found.append(("rmse_ev", _rmse(ok, _usable(reference)), "eV"))
    return found


def force_along(scan: Scan, forces: FloatArray) -> FloatArray:
    """Force along the coordinate of a scan: the sum over atoms of force times dR/dq.

    Args:
        scan: with n points.
        forces: of all points one after the other, shape (n_atoms_total, 3), eV/Å; NaN where there are none.

    Returns:
        shape (n,), eV per unit of the coordinate. The derivative of the positions is a second-order difference.

    Raises:
        InputError: a surface, or forces of another number of atoms.
    """
    if scan.kind == "surface":
        raise InputError(f"{scan.name}: a surface has no single coordinate; expected a scan along a line")
    positions = np.stack([each.positions for each in scan.structures])
    if forces.shape != (positions.shape[0] * positions.shape[1], 3):
        raise InputError(f"{scan.name}: forces of shape {forces.shape}; expected ({positions.shape[0]} points times "
                         f"{positions.shape[1]} atoms, 3)")  # fmt: skip
    tangent = np.gradient(positions, scan.coordinate, axis=0, edge_order=2)
    return np.asarray((tangent * forces.reshape(positions.shape)).sum(axis=(1, 2)))


# ---- curves of files ----


def analyse_files(
    curves: Sequence[PathLike], scans: Sequence[PathLike], output: PathLike, references: Sequence[PathLike] = ()
) -> pd.DataFrame:
    """Analyse curve files and write the table as CSV.

    Args:
        curves: ``<potential>/<precision>/<scan>.csv`` in any folder; forces (``forces``, flat) are read from the npz of
            the same name beside it, where there is one.
        scans: ``<scan>.npz`` of :func:`mlip_studies.adequacy.scans.write_scan`.
        output: CSV.
        references: ``<scan>/<level>.csv``, one per scan.

    Raises:
        InputError: missing or damaged files, or a curve without its scan.
    """
    known = {Path(path).stem: path for path in scans}
    tables = []
    for path in curves:
        path = Path(path)
        name = path.stem
        if name not in known:
            raise InputError(f"{path}: no scan {name}; expected {name}.npz among the scans")
        table = _read(path)
        scan = read_scan(known[name])
        if len(table) != len(scan):
            raise InputError(f"{path}: {len(table)} points of a scan of {len(scan)}; make it again")
        forces = path.with_suffix(".npz")
        if scan.kind != "surface" and forces.exists():
            table["force_along"] = force_along(scan, _forces(forces))
        tables.append(table.assign(potential=path.parent.parent.name, precision=path.parent.name, scan=name))
    standards = [
        _read(Path(path)).assign(potential=Path(path).stem, scan=Path(path).parent.name) for path in references
    ]
    empty = pd.DataFrame(columns=[*_KEY, *NEEDED])
    result = analyse(
        pd.concat(tables, ignore_index=True) if tables else empty,
        pd.concat(standards, ignore_index=True) if standards else None,
    )
    with atomic_path(output) as temporary:
        result.to_csv(temporary, index=False)
    return result


def _read(path: Path) -> pd.DataFrame:
    path = require(path)
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise InputError(f"{path}: not a table ({' '.join(str(error).split())}); make it again") from error
    if "status" not in table and "converged" in table:
        # Reference curves say this with another word.
        done = table["converged"].astype(str).str.lower().isin(("true", "1", "1.0"))
        table["status"] = np.where(done, "ok", "not_converged")
    _check(table, NEEDED, str(path))
    return table


def _forces(path: Path) -> FloatArray:
    path = require(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            key = "forces" if "forces" in arrays.files else "forces_ev_per_angstrom"
            return np.asarray(arrays[key], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: not a file of forces ({' '.join(str(error).split())}); make it again") from error


def one_per_point(table: pd.DataFrame) -> pd.DataFrame:
    """Of several rows of one coordinate (methods of a reference), the lowest that is ok, else any of them."""
    energies = pd.to_numeric(table["relative_energy_ev"], errors="coerce")
    ordered = table.assign(_failed=(table["status"] != "ok") | ~np.isfinite(energies), _energy=energies)
    ordered = ordered.sort_values(["coordinate", "_failed", "_energy"], kind="stable", na_position="last")
    return ordered.drop_duplicates("coordinate").drop(columns=["_failed", "_energy"])


def _check(table: pd.DataFrame, columns: Iterable[str], where: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; expected the columns of a curve, make it again")


def _usable(curve: pd.DataFrame) -> pd.DataFrame:
    """Points that are ok and have an energy, along the coordinate.

    Where the isolated atoms have no energy but the molecule has, energies are relative to the last point instead.
    """
    ordered = curve[curve["status"] == "ok"].sort_values("coordinate", kind="stable")
    energies = pd.to_numeric(ordered["relative_energy_ev"], errors="coerce")
    if not np.isfinite(energies).any() and "energy_ev" in ordered:
        totals = pd.to_numeric(ordered["energy_ev"], errors="coerce")
        energies = totals - (totals.iloc[-1] if len(totals) else 0.0)
        ordered = ordered.assign(without_zero=True)
    return ordered.assign(relative_energy_ev=energies)[np.isfinite(energies).to_numpy()]


# ---- one curve ----


def _line(
    shape: Scan, curve: pd.DataFrame, ok: pd.DataFrame, reference: pd.DataFrame | None, precision: str, unit: str
) -> list[tuple[str, float, str]]:
    """Metrics of a curve along one coordinate."""
    x, energy = ok["coordinate"].to_numpy(float), ok["relative_energy_ev"].to_numpy(float)
    enough = len(x) >= 3
    position = minimum_position(shape, x, energy)
    dissociates = shape.kind in ("diatomic", "bond")
    found = [
        ("minimum_position", position, unit),
        ("n_minima", float(count_minima(x, energy, shape.periodic)) if enough else np.nan, "1"),
    ]
    if not shape.periodic:
        edge = float(energy.argmin() in (0, len(energy) - 1)) if enough else np.nan
        found.append(("minimum_at_edge", edge, "1"))
    if reference is not None:
        there = _usable(reference)
        standard = minimum_position(
            shape, there["coordinate"].to_numpy(float), there["relative_energy_ev"].to_numpy(float)
        )
        found.append(("minimum_error", position - standard, unit))
    if dissociates:
        found += _dissociation(shape, x, energy, precision, "without_zero" not in ok) if enough else []
    if shape.periodic:
        found.append(("barrier_ev", float(np.ptp(energy)) if enough else np.nan, "eV"))
    elif shape.name == "water-hoh":
        found.append(("barrier_ev", _linear_barrier(x, energy), "eV"))
    if shape.mirrored or shape.fold > 1:
        found.append(("symmetry_residual_ev", symmetry_residual(shape, x, energy), "eV"))
    if shape.kind == "angle":
        found.append(("harmonic_r2", harmonic_r2(x, energy), "1"))
    if not shape.periodic:
        found.append(("tortuosity", tortuosity(energy), "1"))
    along = ok["force_along"].to_numpy(float) if "force_along" in ok else np.full(len(x), np.nan)
    if not (enough and np.isfinite(along).all()):
        along = -np.diff(energy) / np.diff(x) if enough else np.zeros(0)
    flips = np.sign(along[np.abs(along) > _NO_FORCE])
    found.append(("force_flips", float((np.diff(flips) != 0).sum()) if enough else np.nan, "1"))
    first = well_of(x, energy, bond_length(shape.name)) if dissociates and enough else 0
    # Neighbours in the table are a step apart only where no point between them failed.
    whole = enough and len(ok) == len(curve) and bool(np.allclose(np.diff(x), x[1] - x[0]))
    found.append(("largest_jump_ev", largest_jump(energy[first:]) if whole else np.nan, "eV"))
    return found


def minimum_position(shape: Scan, x: FloatArray, energy: FloatArray) -> float:
    """Where the energy is lowest, from the parabola through the lowest point and its neighbours.

    Args:
        shape: of the scan; its structures are not read.
        x: coordinates, ascending, shape (n,).
        energy: shape (n,), eV.

    Returns:
        the position; angles of a molecule that mirror images or turns make equal are folded onto the smallest. NaN of
        fewer than three points.
    """
    if len(x) < 3:
        return float("nan")
    lowest = int(energy.argmin())
    position = float(x[lowest])
    if shape.periodic and lowest in (0, len(x) - 1) and np.isclose(x[-1] - x[0], 360.0):
        at = np.array([x[-2] - 360.0, x[0], x[1]])
        position = _vertex(at, energy[[-2, 0, 1]])
    elif 0 < lowest < len(x) - 1:
        position = _vertex(x[lowest - 1 : lowest + 2], energy[lowest - 1 : lowest + 2])
    if shape.periodic:
        position %= 360.0 / shape.fold
    if shape.mirrored:
        position = min(position, 360.0 / shape.fold - position)
    return position


def _vertex(x: FloatArray, energy: FloatArray) -> float:
    """Lowest point of the parabola through three points, or the middle one where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b, _ = np.polyfit(x - x[1], energy, 2)
    if not a > 0:
        return float(x[1])
    return float(np.clip(x[1] - b / (2 * a), x[0], x[2]))


def count_minima(x: FloatArray, energy: FloatArray, periodic: bool, prominence: float = PROMINENCE_EV) -> int:
    """Number of local minima at least ``prominence`` (eV) deep; ends of a scan count only where it is a full turn.

    Args:
        x: coordinate of the scan, shape (n,).
        energy: shape (n,), eV.
        periodic: whether the scan is a full turn.
        prominence: eV.
    """
    from scipy.signal import find_peaks

    if not periodic:
        return len(find_peaks(-energy, prominence=prominence)[0])
    if np.isclose(x[-1] - x[0], 360.0):
        energy = energy[:-1]
    n = len(energy)
    if np.ptp(energy) < prominence:
        return 0
    # Turned so that it begins at its highest point: no minimum lies across the ends, and every depth is the right one.
    ring = np.roll(energy, -int(energy.argmax()))
    peaks, _ = find_peaks(-np.append(ring, ring[0]), prominence=prominence)
    return len({int(peak) % n for peak in peaks})


def well_of(x: FloatArray, energy: FloatArray, bond: float) -> int:
    """Index of the lowest point of a curve up to :data:`BOND_REACH` times the length of the bond, else of the curve.

    A wrong curve can be lowest where its parts are far from each other; what leads there is the error.

    Args:
        x: distances, Å, ascending, shape (n,).
        energy: eV, shape (n,).
        bond: length of the bond, Å.
    """
    near = int((x <= BOND_REACH * bond).sum())
    return int(energy[: near or len(energy)].argmin())


def largest_fall(x: FloatArray, energy: FloatArray, bond: float) -> float:
    """By how much the energy (eV) falls, at most, on the way from the well to the largest distance; 0 if it only rises.

    Args:
        x: distances, Å, ascending, shape (n,).
        energy: eV, shape (n,).
        bond: length of the bond, Å; see :func:`well_of`.
    """
    beyond = energy[well_of(x, energy, bond) :]
    return float((np.maximum.accumulate(beyond) - beyond).max())


def _dissociation(
    shape: Scan, x: FloatArray, energy: FloatArray, precision: str, zero_known: bool
) -> list[tuple[str, float, str]]:
    bond = bond_length(shape.name)
    beyond = energy[well_of(x, energy, bond) :]
    limit = 0.0 if shape.kind == "diatomic" else float(energy[-1])
    fall = largest_fall(x, energy, bond)
    found = [
        ("well_depth_ev", limit - float(energy.min()), "eV"),
        ("largest_rise_ev", float(beyond.max() - energy[-1]), "eV"),
        ("largest_fall_ev", fall, "eV"),
        ("dissociation_monotone", float(fall <= MONOTONE_EV), "1"),
    ]
    if shape.kind == "diatomic":
        flat = np.abs(energy - energy[-1]) <= ZERO_EV.get(precision, ZERO_EV["float64"])
        rough = np.flatnonzero(~flat)
        begin = int(rough[-1]) + 1 if len(rough) else 0
        # The last point alone always equals itself.
        zero = float(x[begin]) if begin < len(x) - 1 else float("nan")
        limit_ev = float(energy[-1]) if zero_known else float("nan")
        found += [("limit_ev", limit_ev, "eV"), ("zero_beyond_angstrom", zero, "angstrom")]
    return found


def _linear_barrier(x: FloatArray, energy: FloatArray) -> float:
    """Straight less bent water, eV; negative if the straight one is lower."""
    bent = energy[(x >= _BENT[0]) & (x <= _BENT[1])]
    if not len(bent) or not x[0] <= 180.0 <= x[-1]:
        return float("nan")
    return float(np.interp(180.0, x, energy) - bent.min())


def symmetry_residual(shape: Scan, x: FloatArray, energy: FloatArray) -> float:
    """Largest difference of energies that symmetry makes equal, eV; NaN if no two points are such partners.

    Args:
        shape: the scan, which knows its symmetry.
        x: coordinate, shape (n,), degrees.
        energy: shape (n,), eV.
    """
    worst = float("nan")
    partners = ([360.0 - x] if shape.mirrored else []) + [
        (x + 360.0 * k / shape.fold) for k in range(1, shape.fold if shape.periodic else 1)
    ]
    for where in partners:
        wanted = where % 360.0 if shape.periodic else where
        here = x % 360.0 if shape.periodic else x
        gap = np.abs(here[None] - wanted[:, None])
        gap = np.minimum(gap, 360.0 - gap) if shape.periodic else gap
        nearest = gap.argmin(axis=1) if len(x) else np.zeros(0, dtype=np.int64)
        # A point that is its own partner (water at 180°) says nothing.
        use = (gap.min(axis=1, initial=np.inf) < 1e-6) & (nearest != np.arange(len(x)))
        if use.any():
            worst = float(np.nanmax([worst, np.abs(energy[nearest[use]] - energy[use]).max()]))
    return worst


def harmonic_r2(x: FloatArray, energy: FloatArray) -> float:
    """Coefficient of determination of a parabola around the lowest angle; NaN of fewer than five points there.

    Args:
        x: angle, shape (n,), degrees.
        energy: shape (n,), eV.
    """
    if not len(x):
        return float("nan")
    near = np.abs(x - x[energy.argmin()]) <= HARMONIC_DEGREES + 1e-9
    if near.sum() < 5:
        return float("nan")
    here = energy[near]
    spread = float(((here - here.mean()) ** 2).sum())
    residual = here - np.polyval(np.polyfit(x[near] - x[near].mean(), here, 2), x[near] - x[near].mean())
    return 1.0 - float((residual**2).sum()) / spread if spread > 0 else float("nan")


def tortuosity(energy: FloatArray) -> float:
    """Length of the way of the energy over that from the first point to the lowest and on to the last.

    1 if there is one minimum and no maximum between the ends; NaN if the curve is flat.

    Args:
        energy: shape (n,), eV.
    """
    if len(energy) < 3:
        return float("nan")
    least = float(energy[0] + energy[-1] - 2 * energy.min())
    return float(np.abs(np.diff(energy)).sum()) / least if least > 0 else float("nan")


def largest_jump(energy: FloatArray) -> float:
    """Largest deviation of a point from the cubic through its four neighbours, eV; NaN of fewer than five points.

    Args:
        energy: at equal steps, shape (n,), eV.
    """
    if len(energy) < 5:
        return float("nan")
    cubic = (-energy[:-4] + 4 * energy[1:-3] + 4 * energy[3:-1] - energy[4:]) / 6
    return float(np.abs(energy[2:-2] - cubic).max())


def _surface(ok: pd.DataFrame) -> list[tuple[str, float, str]]:
    """Metrics of the surface of cyclobutadiene; ``minimum_position`` is that of the lowest point, in x and in y."""
    _check(ok, ("x_angstrom", "y_angstrom"), "surface")
    table = ok.assign(
        x=ok["x_angstrom"].round(6), y=ok["y_angstrom"].round(6), energy=ok["relative_energy_ev"].astype(float)
    )
    names = ("minimum_x", "minimum_y", "rectangularity", "barrier_ev", "symmetry_residual_ev", "n_minima")
    units = ("angstrom", "angstrom", "angstrom", "eV", "eV", "1")
    if len(table) < 9:
        return [(name, float("nan"), unit) for name, unit in zip(names, units, strict=True)]
    lowest = table.iloc[int(table["energy"].to_numpy(float).argmin())]
    square = table[table["x"] == table["y"]]["energy"]
    mirrored = table.merge(table, left_on=["x", "y"], right_on=["y", "x"])
    off_axis = mirrored[mirrored["x_x"] != mirrored["y_x"]]
    residual = (off_axis["energy_x"] - off_axis["energy_y"]).abs().max() if len(off_axis) else np.nan
    grid = table.pivot(index="x", columns="y", values="energy").to_numpy(float)
    values = (
        float(lowest["x"]), float(lowest["y"]), abs(float(lowest["x"] - lowest["y"])),
        float(square.min() - lowest["energy"]) if len(square) else float("nan"), float(residual),
        float(_surface_minima(grid)),
    )  # fmt: skip
    return list(zip(names, values, units, strict=True))


def _surface_minima(grid: FloatArray) -> int:
    """Number of points of a grid (n, m) that are lower than all of their eight neighbours; points at the rim count."""
    padded = np.pad(grid, 1, constant_values=np.inf)
    padded[np.isnan(padded)] = np.inf
    middle = padded[1:-1, 1:-1]
    lower = np.isfinite(middle)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            if (i, j) != (0, 0):
                lower &= middle < np.roll(padded, (i, j), axis=(0, 1))[1:-1, 1:-1]
    return int(lower.sum())


def _rmse(ok: pd.DataFrame, reference: pd.DataFrame) -> float:
    """Against the reference, over points near its minimum, after the best constant is taken off, eV."""
    joined = (
        ok.assign(key=ok["coordinate"].round(6))[["key", "relative_energy_ev"]]
        .merge(
            reference.assign(key=reference["coordinate"].round(6))[["key", "relative_energy_ev"]],
            on="key",
            suffixes=("", "_reference"),
        )
        .astype(float)
    )
    standard = joined["relative_energy_ev_reference"]
    near = joined[standard <= standard.min() + WINDOW_EV]
    if len(near) < 2:
        return float("nan")
    difference = near["relative_energy_ev"] - near["relative_energy_ev_reference"]
    return float(np.sqrt(((difference - difference.mean()) ** 2).mean()))
