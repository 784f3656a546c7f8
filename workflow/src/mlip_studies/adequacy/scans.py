"""Scans of molecules along one coordinate (or two), with the parameters of the thesis.

Every structure of a scan is built from the start geometry alone, never from the point before, so that no point depends
on the order or on what was calculated. Start geometries are: ASE's G2 molecules (ethane, ethanol, water, benzene);
rectangles with 45° hydrogen atoms for cyclobutadiene, exactly D2h, D4h when square; and, where a relaxation is needed,
the files of ``resources/adequacy`` (:mod:`mlip_studies.mini_data.adequacy_molecules`), whose parts are symmetric so
that a rotation by a and by 360° - a gives mirror images.

Settings, all optional::

    scans: [diatomic-h2, water-hoh]            # all of SCAN_NAMES if left out
    points: {diatomic: 30, water-hoh: 81}      # by name or by kind; one number stands for all; the thesis's if left out
    grid: 9                                    # of the surface, per axis; 60 if left out

File of a scan (npz) with n points and n_atoms atoms in all: ``coordinate`` (n,), ``atomic_numbers`` (n_atoms,), ``ptr``
(n + 1,), ``positions`` (n_atoms, 3), Å; ``name``, ``kind``, ``unit``, ``molecule``, ``reference``, ``figure``,
``charge``, ``multiplicity``, ``fold`` (scalars); and a ``column_<name>`` (n,) for each further column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.adequacy.structures import Structure
from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.data.representatives import read_structures
from mlip_studies.errors import InputError
from mlip_studies.mini_data.adequacy_molecules import COSAN_CHARGE, ROTORS, moving_atoms, rotor_axis
from mlip_studies.runtime.options import did_you_mean

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

RESOURCES = "resources/adequacy"
#: points per axis of the surface
GRID = 60
#: cyclobutadiene at the start, Å
CC, CH = 1.40, 1.08
#: scans that turn or move a whole molecule
RIGID = ("water", "benzene", "ethanol", "cyclobutadiene")
_G2 = {"water": "H2O", "benzene": "C6H6", "ethanol": "CH3CH2OH", "ethane": "C2H6"}
#: range of each diatomic molecule, Å
_DIATOMICS = {
    "h2": ("H", 0.3, 6.5), "n2": ("N", 0.8, 6.5), "c2": ("C", 0.8, 6.5),
    "o2": ("O", 0.9, 6.5), "si2": ("Si", 1.5, 6.5), "cl2": ("Cl", 1.5, 6.5),
}  # fmt: skip
_TRIPLETS = ("o2", "si2")


@dataclass(frozen=True, eq=False)
class Scan:
    """Structures along a coordinate.

    Attributes:
        name: of :data:`SCAN_NAMES`.
        kind: diatomic, bond, angle, dihedral, rotation, translation, stretch, surface or rotor.
        coordinate: shape (n,), in ``unit``; of a surface, the row number.
        unit: ``Å``, ``°``, or ``1`` of a surface.
        structures: n, all of the same molecule.
        reference: what relative energies are relative to: ``minimum`` of the scan, isolated ``atoms``, ``first`` point.
        molecule: name.
        figure: of the thesis, for example ``fig7``.
        fold: the energy repeats ``fold`` times in 360° (3 for ethane); 1 where it does not.
        columns: further coordinates of the points, shape (n,) each; ``x_angstrom`` and ``y_angstrom`` of a surface.
    """

    name: str
    kind: str
    coordinate: FloatArray
    unit: str
    structures: list[Structure]
    reference: str
    molecule: str
    figure: str
    fold: int = 1
    columns: dict[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of points."""
        return len(self.structures)

    @property
    def periodic(self) -> bool:
        """Whether the coordinate is an angle of a full turn."""
        return self.kind in ("dihedral", "rotation", "rotor")

    @property
    def mirrored(self) -> bool:
        """Whether the points at a and at 360° - a are the same molecule or its mirror image."""
        return self.kind in ("dihedral", "rotor") or self.name == "water-hoh"


@dataclass(frozen=True)
class _Definition:
    """What a scan is; see :class:`Scan`."""

    kind: str
    molecule: str
    figure: str
    points: int
    reference: str = "minimum"
    fold: int = 1


def _definitions() -> dict[str, _Definition]:
    """All scans in the order of the thesis."""
    table: dict[str, _Definition] = {}
    for name in _DIATOMICS:
        figure = "fig7" if name in ("h2", "n2") else "fig29"
        table[f"diatomic-{name}"] = _Definition("diatomic", name, figure, 100, "atoms")
    table["ethane-cc"] = _Definition("bond", "ethane", "fig8", 80)
    table["ethanol-co"] = _Definition("bond", "ethanol", "fig8", 80)
    table["ethanol-oh"] = _Definition("bond", "ethanol", "fig30", 80)
    table["water-hoh"] = _Definition("angle", "water", "fig9", 200)
    table["ethanol-cco"] = _Definition("angle", "ethanol", "fig9", 100)
    table["dihedral-ethane"] = _Definition("dihedral", "ethane", "fig10", 181, fold=3)
    table["dihedral-biphenyl"] = _Definition("dihedral", "biphenyl", "fig10", 181, fold=2)
    for index in (1, 2, 3):
        table[f"dihedral-biaryl{index}"] = _Definition("dihedral", f"biaryl{index}", "fig31", 181)
    table["dihedral-fluoroallene"] = _Definition("dihedral", "fluoroallene", "fig31", 181, fold=2)
    for kind, points in (("rotation", 181), ("translation", 68)):
        for molecule in RIGID:
            figure = "fig11" if molecule in ("water", "cyclobutadiene") else "fig34"
            table[f"{kind}-{molecule}"] = _Definition(kind, molecule, figure, points, "first")
    table["cyclobutadiene-1d"] = _Definition("stretch", "cyclobutadiene", "fig32", 60)
    table["cyclobutadiene-2d"] = _Definition("surface", "cyclobutadiene", "fig14", GRID)
    table["cosan"] = _Definition("rotor", "cosan", "fig13", 181)
    return table


_DEFINITIONS = _definitions()
SCAN_NAMES: tuple[str, ...] = tuple(_DEFINITIONS)
KINDS: tuple[str, ...] = tuple(dict.fromkeys(each.kind for each in _DEFINITIONS.values()))
_UNITS = dict.fromkeys(("angle", "dihedral", "rotation", "rotor"), "°") | {"surface": "1"}


def scan_names(settings: Mapping[str, Any] | None = None) -> list[str]:
    """Names of the scans that the settings ask for, in the order of the thesis.

    Raises:
        InputError: an unknown scan or setting.
    """
    settings = settings or {}
    for key in settings:
        if key not in ("scans", "points", "grid"):
            raise InputError(f"scans: unknown key {key!r}; expected scans, points or grid")
    wanted = settings.get("scans")
    if wanted is None:
        return list(SCAN_NAMES)
    if isinstance(wanted, str) or not isinstance(wanted, (list, tuple)):
        raise InputError(f"scans: {wanted!r}; expected a list of names")
    for name in wanted:
        _definition(str(name))
    return [name for name in SCAN_NAMES if name in wanted]


def start_file(name: str) -> str | None:
    """Name of the file with the start geometry of a scan, None if it needs none."""
    molecule = _definition(name).molecule
    return f"{molecule}.xyz" if molecule in ROTORS or molecule == "cosan" else None


def scan_shape(name: str) -> Scan:
    """What a scan is, without its points."""
    each = _definition(name)
    unit = _UNITS.get(each.kind, "Å")
    return Scan(name, each.kind, np.zeros(0), unit, [], each.reference, each.molecule, each.figure, each.fold)


def bond_length(name: str) -> float:
    """Length (Å) that the covalent radii give the bond that a scan stretches.

    Raises:
        InputError: unknown scan, or one that parts no two atoms.
    """
    from ase.data import atomic_numbers, covalent_radii

    each = _definition(name)
    if each.kind not in ("diatomic", "bond"):
        raise InputError(f"scan {name} parts no two atoms; expected a diatomic molecule or a bond")
    # The bonds are named after their atoms: ethanol-co.
    symbols = [_DIATOMICS[each.molecule][0]] * 2 if each.kind == "diatomic" else name.rpartition("-")[2].upper()
    return float(sum(covalent_radii[atomic_numbers[symbol]] for symbol in symbols))


def n_points(name: str, settings: Mapping[str, Any] | None = None) -> int:
    """Number of points of a scan, of a surface per axis.

    Raises:
        InputError: unknown scan, or a number below 3.
    """
    definition, settings = _definition(name), settings or {}
    if definition.kind == "surface":
        value, where = settings.get("grid", GRID), "grid"
    else:
        points, where = settings.get("points"), "points"
        if isinstance(points, Mapping):
            for key in points:
                if key not in SCAN_NAMES and key not in KINDS:
                    raise InputError(
                        f"points: {key!r} is neither a scan nor a kind{did_you_mean(str(key), (*SCAN_NAMES, *KINDS))}"
                    )
            value = points.get(name, points.get(definition.kind, definition.points))
        else:
            value = definition.points if points is None else points
    if isinstance(value, bool) or not isinstance(value, int) or value < 3:
        raise InputError(f"{where}: {value!r} for {name}; expected a whole number, at least 3")
    return value


def build_scan(name: str, settings: Mapping[str, Any] | None = None, resources: PathLike = RESOURCES) -> Scan:
    """Build a scan.

    Args:
        name: of :data:`SCAN_NAMES`.
        settings: see the module; the thesis's parameters without.
        resources: folder of the start geometries.

    Raises:
        InputError: unknown name, bad settings, or a start geometry that is missing or of another molecule.
    """
    scan_names(settings)
    definition = _definition(name)
    count = n_points(name, settings)
    if definition.kind == "surface":
        x, y = (each.ravel() for each in np.meshgrid(*[np.linspace(1.2, 1.8, count)] * 2, indexing="ij"))
        structures = [cyclobutadiene(a, b) for a, b in zip(x, y, strict=True)]
        coordinate, columns = np.arange(count**2, dtype=np.float64), {"x_angstrom": x, "y_angstrom": y}
    else:
        start = start_structure(definition.molecule, resources)
        coordinate, build = _BUILDERS[definition.kind](name, start, count)
        structures, columns = [start.moved(build(float(value))) for value in coordinate], {}
    named = [each.moved(each.positions, f"{name}-{index}") for index, each in enumerate(structures)]
    return replace(scan_shape(name), coordinate=coordinate, structures=named, columns=columns)


def start_structure(molecule: str, resources: PathLike = RESOURCES) -> Structure:
    """The geometry that the scans of a molecule begin with.

    Raises:
        InputError: unknown molecule, or its file is missing or damaged.
    """
    from ase.build import molecule as g2

    if molecule == "cyclobutadiene":
        return cyclobutadiene(CC, CC)
    if molecule in _G2:
        atoms = g2(_G2[molecule])
        return Structure(atoms.numbers, atoms.positions, molecule)
    if molecule in _DIATOMICS:
        from mlip_studies.elements import number

        element, shortest, _ = _DIATOMICS[molecule]
        positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, shortest]])
        return Structure(
            np.full(2, number(element)), positions, molecule, multiplicity=3 if molecule in _TRIPLETS else 1
        )
    if molecule not in ROTORS and molecule != "cosan":
        raise InputError(f"molecule {molecule!r}: no scan starts with it; expected that of a scan")
    found = read_structures(Path(resources) / f"{molecule}.xyz")[0]
    charge = COSAN_CHARGE if molecule == "cosan" else 0
    return Structure(found.atomic_numbers, found.positions, molecule, charge)


def cyclobutadiene(x: float, y: float, ch: float = CH) -> Structure:
    """Cyclobutadiene with C-C bonds of x and y, Å, in the x-y plane: exactly D2h, D4h if they are equal.

    C-H bonds lie along the diagonals of the axes, so that both angles H-C-C are 135° in every rectangle and the
    molecule of (y, x) is that of (x, y) turned by 90°.
    """
    corners = np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [1.0, -1.0, 0.0]])
    carbon = corners * np.array([x / 2, y / 2, 0.0])
    return Structure(
        np.array([6] * 4 + [1] * 4), np.vstack([carbon, carbon + corners * (ch / np.sqrt(2.0))]), "cyclobutadiene"
    )


# ---- geometry ----


def turned(positions: FloatArray, axis: FloatArray, origin: FloatArray, degrees: float) -> FloatArray:
    """Positions (n, 3), Å, turned right-handed about an axis (3,) through ``origin`` (3,), Å."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(np.asarray(axis) / np.linalg.norm(axis) * np.radians(degrees))
    rotated: FloatArray = rotation.apply(positions - origin) + origin
    return rotated


def angle(positions: FloatArray, i: int, j: int, k: int) -> float:
    """Angle i-j-k, degrees in [0, 180]."""
    a, b = positions[i] - positions[j], positions[k] - positions[j]
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def dihedral(positions: FloatArray, i: int, j: int, k: int, m: int) -> float:
    """Angle by which i must turn about j-k, seen from j, to hide m; degrees in [0, 360).

    Only the direction of j-k counts, so i need not be a neighbour of j.
    """
    axis = (positions[k] - positions[j]) / np.linalg.norm(positions[k] - positions[j])
    first, last = positions[i] - positions[j], positions[m] - positions[k]
    first, last = first - axis * (first @ axis), last - axis * (last @ axis)
    value = float(np.degrees(np.arctan2(axis @ np.cross(first, last), first @ last))) % 360.0
    return 0.0 if np.isclose(value, 360.0, atol=1e-10) else value


Built = tuple[FloatArray, Callable[[float], FloatArray]]


def _diatomic(name: str, start: Structure, count: int) -> Built:
    _, shortest, longest = _DIATOMICS[start.name]
    return np.linspace(shortest, longest, count), lambda r: np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]])


#: bond (first, second) of each bond scan; the part on the side of the second moves along it; the shortest distance, Å
_BONDS = {"ethane-cc": (0, 1, 1.0), "ethanol-co": (1, 2, 1.0), "ethanol-oh": (2, 3, 0.7)}
_LONGEST_BOND = 6.0


def _bond(name: str, start: Structure, count: int) -> Built:
    first, second, shortest = _BONDS[name]
    xyz = start.positions
    moving = moving_atoms(start.atomic_numbers, xyz, (first, second))
    bond = xyz[second] - xyz[first]
    length = np.linalg.norm(bond)

    def build(value: float) -> FloatArray:
        moved = xyz.copy()
        moved[moving] += bond / length * (value - length)
        return moved

    return np.linspace(shortest, _LONGEST_BOND, count), build


def _angle(name: str, start: Structure, count: int) -> Built:
    xyz = start.positions
    if name == "water-hoh":
        i, j, k = 1, 0, 2
        moving = np.array([2])
        now = angle(xyz, i, j, k)
        values = np.linspace(now - 60.0, 420.0 - now, count)
    else:
        i, j, k = 0, 1, 2
        moving = moving_atoms(start.atomic_numbers, xyz, (1, 2))
        now = angle(xyz, i, j, k)
        values = np.linspace(now - 10.0, now + 10.0, count)
    normal = np.cross(xyz[i] - xyz[j], xyz[k] - xyz[j])

    def build(value: float) -> FloatArray:
        moved = xyz.copy()
        moved[moving] = turned(xyz[moving], normal, xyz[j], value - now)
        return moved

    return values, build


def _dihedral_atoms(start: Structure) -> tuple[int, int, int, int]:
    """The atoms whose dihedral angle is the coordinate; those in the middle are the axis."""
    if start.name == "ethane":
        return 2, 0, 1, 5
    first, second = rotor_axis(start.name)
    moving = moving_atoms(start.atomic_numbers, start.positions, (first, second))
    fixed = np.setdiff1d(np.arange(len(start)), moving)
    axis = start.positions[second] - start.positions[first]

    def nearest_off_axis(atoms: IntArray, origin: int) -> int:
        # Atoms on the axis have no dihedral angle: fluoroallene's chain, and para atoms.
        away = start.positions[atoms] - start.positions[origin]
        distance = np.linalg.norm(away, axis=1)
        on_axis = np.linalg.norm(np.cross(away, axis), axis=1) / np.linalg.norm(axis) < 0.3
        return int(atoms[np.where(on_axis, np.inf, distance.round(2)).argmin()])

    return nearest_off_axis(fixed, first), first, second, nearest_off_axis(moving, second)


def _dihedral(name: str, start: Structure, count: int) -> Built:
    xyz = start.positions
    atoms = _dihedral_atoms(start)
    _, j, k, _ = atoms
    moving = moving_atoms(start.atomic_numbers, xyz, (j, k))
    now = dihedral(xyz, *atoms)

    def build(value: float) -> FloatArray:
        moved = xyz.copy()
        moved[moving] = turned(xyz[moving], xyz[k] - xyz[j], xyz[k], value - now)
        return moved

    return np.linspace(0.0, 360.0, count), build


#: where COSAN's start geometry has the carbon atoms of its cages: opposite to each other
_COSAN_START = 180.0


def _rotor(name: str, start: Structure, count: int) -> Built:
    """The second cage turns about the normal of the faces next to cobalt, through cobalt.

    The coordinate is the angle between the middles of the two C-C bonds, seen along that axis.
    """
    xyz = start.positions
    moving = np.arange(23, 45)
    face = xyz[1:6] - xyz[1:6].mean(axis=0)
    normal = np.linalg.svd(face)[2][2]
    normal = normal * np.sign(normal @ (xyz[1:6].mean(axis=0) - xyz[0]))

    def build(value: float) -> FloatArray:
        moved = xyz.copy()
        moved[moving] = turned(xyz[moving], normal, xyz[0], value - _COSAN_START)
        return moved

    return np.linspace(0.0, 360.0, count), build


def _rotation(name: str, start: Structure, count: int) -> Built:
    xyz = start.positions
    middle = _centre_of_mass(start)
    return np.linspace(0.0, 360.0, count), lambda value: turned(xyz, np.array([0.0, 0.0, 1.0]), middle, value)


#: 67 steps of 0.15 Å along (1, 1, 0)
_FARTHEST = 67 * 0.15


def _translation(name: str, start: Structure, count: int) -> Built:
    xyz = start.positions
    direction = np.array([1.0, 1.0, 0.0]) / np.sqrt(2.0)
    return np.linspace(0.0, _FARTHEST, count), lambda value: xyz + direction * value


def _stretch(name: str, start: Structure, count: int) -> Built:
    return np.linspace(1.2, 1.8, count), lambda value: cyclobutadiene(value, CC).positions.copy()


_BUILDERS: dict[str, Callable[[str, Structure, int], Built]] = {
    "diatomic": _diatomic, "bond": _bond, "angle": _angle, "dihedral": _dihedral, "rotor": _rotor,
    "rotation": _rotation, "translation": _translation, "stretch": _stretch,
}  # fmt: skip


def _centre_of_mass(structure: Structure) -> FloatArray:
    from ase.data import atomic_masses

    masses = atomic_masses[structure.atomic_numbers]
    return np.asarray(masses @ structure.positions / masses.sum())


def _definition(name: str) -> _Definition:
    if name not in _DEFINITIONS:
        raise InputError(f"scan {name!r}: no such scan{did_you_mean(name, SCAN_NAMES)}")
    return _DEFINITIONS[name]


# ---- files ----

_TEXTS = ("name", "kind", "unit", "molecule", "reference", "figure")
_PREFIX = "column_"


def write_scan(scan: Scan, output: PathLike) -> None:
    """Write a scan as npz (layout: see the module)."""
    first = scan.structures[0]
    counts = [len(each) for each in scan.structures]
    arrays: dict[str, Any] = {key: np.array(getattr(scan, key)) for key in (*_TEXTS, "coordinate", "fold")}
    arrays |= {"charge": np.array(first.charge), "multiplicity": np.array(first.multiplicity)}
    arrays |= {
        "atomic_numbers": np.concatenate([each.atomic_numbers for each in scan.structures]),
        "ptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "positions": np.concatenate([each.positions for each in scan.structures]),
    }
    arrays |= {_PREFIX + key: value for key, value in scan.columns.items()}
    with atomic_path(output) as temporary:
        np.savez(temporary, **arrays)


def read_scan(path: PathLike) -> Scan:
    """Read a file of :func:`write_scan`.

    Raises:
        InputError: missing, changed, or no such file.
    """
    path = require(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        texts = {key: str(arrays[key]) for key in _TEXTS}
        ptr, charge, multiplicity = arrays["ptr"], int(arrays["charge"]), int(arrays["multiplicity"])
        structures = [
            Structure(
                arrays["atomic_numbers"][begin:end], arrays["positions"][begin:end], f"{texts['name']}-{index}",
                charge, multiplicity,
            )
            for index, (begin, end) in enumerate(pairwise(ptr))
        ]  # fmt: skip
        columns = {key.removeprefix(_PREFIX): value for key, value in arrays.items() if key.startswith(_PREFIX)}
        if len(structures) != len(arrays["coordinate"]):
            raise ValueError(f"{len(structures)} structures for {len(arrays['coordinate'])} points")
        return Scan(
            texts["name"], texts["kind"], arrays["coordinate"], texts["unit"], structures, texts["reference"],
            texts["molecule"], texts["figure"], int(arrays["fold"]), columns,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a file of a scan ({reason}); make it again") from error
