"""Energies and forces of structures by potentials of all kinds, behind one interface.

An entry of the configuration names a potential by one key:

* ``pretrained``: name of a published one; beside it ``kind`` (ani, mace, orb), ``path``, ``sha256``, ``options``.
* ``trained``: path of a potential of this package, or what names its run; then ``path`` says where it is.
* ``xtb``: a method of tblite, such as GFN2-xTB.
* ``level`` without one of these: a level of :data:`mlip_studies.dft.levels.DFT_LEVELS`, calculated by PySCF. Beside one
  of these it is the level of theory of the training labels.

For reports an entry has ``name``, ``title``, ``licence``, ``citation``, and it may name the versions of packages that
it needs (``requires``, such as ``torchani>=2.9``) in place of :data:`REQUIREMENTS`.

What a potential cannot say about one structure (an element it does not know, a charge, a number that is not finite, an
error in the middle of a batch, a field that does not converge) is marked there, and the others go on.

Single precision is as the packages run it: positions are not moved to the origin first, and energies of atoms are
summed in single precision by published networks. The steps of 2.4e-4 eV beyond 2048 eV are part of what is looked at.
"""

from __future__ import annotations

import importlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mlip_studies.adequacy.structures import Structure
from mlip_studies.artifacts import PathLike, require, sha256_of, write_text
from mlip_studies.errors import InputError
from mlip_studies.runtime.options import did_you_mean
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from mlip_studies.models.pretrained import PublishedModel

PRECISIONS = ("float64", "float32")
STATUSES = ("ok", "unsupported", "not_finite", "failed", "not_converged")
#: family -> packages and versions that it needs. Files of MACE models cannot be read with e3nn from 0.5.6 on.
REQUIREMENTS = {
    "ani": ("torchani>=2.9",),
    "mace": ("mace-torch>=0.3.14", "e3nn>=0.4.4,<0.5.6"),
    "orb": ("orb-models>=0.5",),
    "trained": (),
    "xtb": ("tblite>=0.3",),
    "dft": ("pyscf>=2.5",),
}
#: licences of methods that have no weights: of the code that calculates them
_LICENCES = {"xtb": "LGPL-3.0-or-later (tblite)", "dft": "Apache-2.0 (PySCF)"}
_KINDS = ("pretrained", "trained", "xtb", "level")
_KEYS = (
    *_KINDS, "name", "title", "family", "licence", "citation", "cutoff", "elements", "precision", "isolated_atoms",
    "requires", "kind", "path", "sha256", "options", "fidelity",
)  # fmt: skip
#: GFN1- and GFN2-xTB have parameters up to radon
_XTB_ELEMENTS = tuple(range(1, 87))
_XTB_METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
#: of the self-consistent charges, relative to tblite's own: 1e-8 hartree in place of 1e-6, so that the steps of a curve
#: are the method's
_XTB_ACCURACY = 0.01
#: atoms of one batch
ATOMS_AT_ONCE = 1024
#: sum of n_atoms^4 over a batch of a trained network: some of these models make all quadruplets of atoms
QUADRUPLETS_AT_ONCE = 1_000_000
_MESSAGE = 300

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What a potential says of n structures.

    Attributes:
        energy_ev: shape (n,), eV; NaN unless ``ok``.
        forces_ev_per_angstrom: of each structure, shape (n_atoms, 3), eV/Å; NaN unless ``ok``.
        status: of each, one of :data:`STATUSES`.
        message: of each, one line; empty where ``ok``.
        seconds: wall time of all.
    """

    energy_ev: FloatArray
    forces_ev_per_angstrom: list[FloatArray]
    status: list[str]
    message: list[str]
    seconds: float

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.status)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which structures have numbers, shape (n,)."""
        return np.array([status == "ok" for status in self.status], dtype=bool)

    def part(self, start: int, stop: int) -> Evaluation:
        """Structures from ``start`` up to ``stop``."""
        here = slice(start, stop)
        return Evaluation(
            self.energy_ev[here], self.forces_ev_per_angstrom[here], self.status[here], self.message[here], self.seconds
        )


@dataclass(frozen=True)
class _Point:
    energy: float
    forces: FloatArray
    status: str = "ok"
    message: str = ""


def _lost(structure: Structure, status: str, message: str) -> _Point:
    return _Point(float("nan"), np.full((len(structure), 3), np.nan), status, message)


def _line(error: BaseException) -> str:
    """An error in one short line; its type too, unless it is one that this package words itself."""
    text = " ".join(str(error).split())
    if not isinstance(error, InputError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _MESSAGE else text[: _MESSAGE - 1] + "…"


class Evaluator(ABC):
    """A potential that is ready to be asked.

    Attributes:
        name: key of the potential.
        title: how figures call it.
        family: ani, mace, orb, trained, xtb or dft.
        elements: atomic numbers that it knows; None: whatever the method has a basis for.
        cutoff: longest distance of a direct interaction, Å; None: any.
        precision: float64 or float32.
        direct_forces: whether forces come from a head of their own instead of the energy's gradient.
        level: of theory, of the method or of the training labels; None if not stated.
        licence: of the weights, or of the method's code; None if not stated.
        sha256: of the weights; None if there are none.
        charged: whether charged molecules have a meaning.
    """

    charged: bool = False
    direct_forces: bool = False
    cutoff: float | None = None
    elements: tuple[int, ...] | None = None
    sha256: str | None = None

    def __init__(self, entry: Mapping[str, Any], precision: str) -> None:
        """Take over what an entry says for reports."""
        self.name, self.family, self.precision = entry_name(entry), entry_family(entry), precision
        self.title = str(entry.get("title") or self.name)
        self.level: str | None = entry.get("level")
        self.licence: str | None = entry.get("licence") or _LICENCES.get(self.family)

    def supports(self, atomic_numbers: Sequence[int] | NDArray[np.integer], charge: int = 0) -> str | None:
        """None if a molecule has a meaning for the potential, else the reason, such as ``no cobalt``.

        Args:
            atomic_numbers: shape (n_atoms,).
            charge: elementary charges.
        """
        from ase.data import atomic_names

        reasons = []
        kinds = sorted({int(z) for z in atomic_numbers})
        foreign = [z for z in kinds if not self._knows(z)]
        if foreign:
            names = [atomic_names[z].lower() if 0 < z < len(atomic_names) else f"element {z}" for z in foreign]
            reasons.append(f"no {' and no '.join(names)}")
        if charge and not self.charged:
            reasons.append("charged")
        return "; ".join(reasons) or None

    def _knows(self, number: int) -> bool:
        return self.elements is None or number in self.elements

    def evaluate(self, structures: Sequence[Structure]) -> Evaluation:
        """Energies and forces of any structures, of different molecules too.

        Never raises for a structure: see :class:`Evaluation` for what is marked.
        """
        started = time.perf_counter()
        points: list[_Point | None] = [None] * len(structures)
        reasons: dict[tuple[bytes, int], str | None] = {}
        wanted = []
        for index, structure in enumerate(structures):
            key = structure.atomic_numbers.tobytes(), structure.charge
            if key not in reasons:
                reasons[key] = self.supports(structure.atomic_numbers, structure.charge)
            reason = reasons[key]
            if reason is None:
                wanted.append(index)
            else:
                points[index] = _lost(structure, "unsupported", reason)
        for group in self._groups([structures[index] for index in wanted]):
            chosen = [wanted[index] for index in group]
            found = self._settle([structures[index] for index in chosen])
            for index, point in zip(chosen, found, strict=True):
                points[index] = point
        done = [point for point in points if point is not None]
        return Evaluation(
            np.array([point.energy for point in done], dtype=np.float64),
            [point.forces for point in done],
            [point.status for point in done],
            [point.message for point in done],
            time.perf_counter() - started,
        )

    def _groups(self, structures: Sequence[Structure]) -> Iterator[list[int]]:
        """Numbers of the structures that are calculated together; one by one here."""
        yield from ([index] for index in range(len(structures)))

    def _settle(self, structures: Sequence[Structure]) -> list[_Point]:
        """Calculate together; halve what raises, and look alone at what is not finite."""
        try:
            points = self._compute(structures)
        except Exception as error:  # a potential may raise whatever its package raises
            if len(structures) == 1:
                return [_lost(structures[0], "failed", _line(error))]
            half = len(structures) // 2
            return self._settle(structures[:half]) + self._settle(structures[half:])
        result = []
        for structure, point in zip(structures, points, strict=True):
            if point.status != "ok" or (np.isfinite(point.energy) and np.isfinite(point.forces).all()):
                result.append(point)
            elif len(structures) > 1:
                # A neighbour in the batch may be at fault.
                result += self._settle([structure])
            else:
                what = "forces" if np.isfinite(point.energy) else "energy"
                result.append(_lost(structure, "not_finite", f"{what} not finite (NaN or inf)"))
        return result

    @abstractmethod
    def _compute(self, structures: Sequence[Structure]) -> list[_Point]:
        """Energies and forces; may raise."""

    def atomic_energies(self, structure: Structure) -> FloatArray | None:
        """Energies of the atoms, shape (n_atoms,), eV, each made of the atom's own neighbours.

        None for a potential that states none, and for a structure without a meaning for it.
        """
        return None

    def calculator(self, charge: int = 0, multiplicity: int = 1) -> Calculator:
        """An ASE calculator of this potential; it raises ASE's CalculationFailed where a point is not ``ok``.

        Args:
            charge: of the molecules, elementary charges.
            multiplicity: of the molecules.
        """
        return ase_calculator(self, charge, multiplicity)


def ase_calculator(evaluator: Evaluator, charge: int = 0, multiplicity: int = 1) -> Calculator:
    """See :meth:`Evaluator.calculator`; without state, but for ASE's results of the last geometry."""
    from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

    class EvaluatorCalculator(Calculator):
        implemented_properties: list[str] = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as in ASE)

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: list[str] = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]  # ASE, unannotated
            molecule = self.atoms
            assert molecule is not None
            if molecule.pbc.any():
                raise InputError("periodic molecule: potentials here are for molecules only, set atoms.pbc = False")
            structure = Structure(
                molecule.numbers, molecule.positions, molecule.get_chemical_formula(), charge, multiplicity
            )
            found = evaluator.evaluate([structure])
            if found.status[0] != "ok":
                raise CalculationFailed(f"{evaluator.name}: {structure.name}: {found.status[0]}, {found.message[0]}")
            energy = float(found.energy_ev[0])
            self.results = {"energy": energy, "free_energy": energy, "forces": found.forces_ev_per_angstrom[0]}

    return EvaluatorCalculator()


class NetworkEvaluator(Evaluator):
    """A published or trained network, whose structures share batches."""

    def __init__(self, entry: Mapping[str, Any], precision: str, potential: Any, sha256: str | None = None) -> None:
        """Wrap a potential.

        Args:
            entry: of the configuration.
            precision: that the potential has.
            potential: a :class:`mlip_studies.models.potential.Potential`.
            sha256: of its weights.
        """
        from mlip_studies.models.calculators.graphs import fidelity_row

        super().__init__(entry, precision)
        self.potential = potential
        self.sha256 = sha256
        self.elements, self.cutoff = tuple(potential.elements), potential.cutoff
        self.direct_forces = bool(potential.direct_forces)
        self._fidelity = fidelity_row(str(entry.get("fidelity", "high")))

    def _groups(self, structures: Sequence[Structure]) -> Iterator[list[int]]:
        group: list[int] = []
        atoms = quadruplets = 0
        for index, structure in enumerate(structures):
            n = len(structure)
            atoms += n
            quadruplets += n**4 if self.family == "trained" else 0
            if group and (atoms > ATOMS_AT_ONCE or quadruplets > QUADRUPLETS_AT_ONCE):
                yield group
                group, atoms, quadruplets = [], n, n**4 if self.family == "trained" else 0
            group.append(index)
        if group:
            yield group

    def _compute(self, structures: Sequence[Structure]) -> list[_Point]:
        from mlip_studies.graph.batch import make_batch
        from mlip_studies.models.checks import check_molecule

        for structure in structures:
            check_molecule(structure.atomic_numbers, structure.positions, name=structure.name)
        batch = make_batch(
            [(each.atomic_numbers, each.positions) for each in structures],
            self.potential.cutoff,
            self.potential.device,
            self.potential.dtype,
            [self._fidelity] * len(structures),
        )
        energy, forces = self.potential.energy_and_forces(batch)
        ends = np.cumsum([len(each) for each in structures])[:-1]
        parts = np.split(forces.detach().double().cpu().numpy(), ends)
        return [_Point(float(e), f) for e, f in zip(energy.detach().double().cpu().numpy(), parts, strict=True)]

    def atomic_energies(self, structure: Structure) -> FloatArray | None:
        """Shape (n_atoms,), eV, of ANI potentials; those of other networks have more than the neighbours in them."""
        from dataclasses import replace

        import torch

        from mlip_studies.graph.batch import make_batch
        from mlip_studies.models.pretrained import ANI

        model = self.potential.model
        if not isinstance(model, ANI) or self.supports(structure.atomic_numbers, structure.charge) is not None:
            return None
        batch = make_batch(
            [(structure.atomic_numbers, structure.positions)],
            self.potential.cutoff,
            self.potential.device,
            self.potential.dtype,
        )
        # The same edges, and every atom a molecule of its own in the sum.
        apart = replace(
            batch,
            graph_index=torch.arange(len(structure)),
            atoms_per_graph=torch.ones(len(structure), dtype=torch.int64),
            fidelity=batch.fidelity.repeat(len(structure)),
        )
        with torch.no_grad():
            energies: FloatArray | None = model(apart).double().cpu().numpy()
            return energies


class XTBEvaluator(Evaluator):
    """A semi-empirical method of tblite, one structure at a time, each from its own guess; always double precision."""

    charged = True

    def __init__(self, entry: Mapping[str, Any], precision: str) -> None:
        """Take the method of an entry."""
        super().__init__(entry, precision)
        self.method = str(entry["xtb"])
        self.elements, self.level = _XTB_ELEMENTS, self.method

    def _compute(self, structures: Sequence[Structure]) -> list[_Point]:
        from tblite.interface import Calculator

        result = []
        for each in structures:
            calculator = Calculator(
                self.method,
                each.atomic_numbers,
                each.positions / BOHR_TO_ANGSTROM,
                charge=float(each.charge),
                uhf=each.multiplicity - 1,
            )
            calculator.set("verbosity", 0)
            calculator.set("accuracy", _XTB_ACCURACY)
            try:
                found = calculator.singlepoint()
            except RuntimeError as error:
                status = "not_converged" if "converge" in str(error).lower() else "failed"
                result.append(_lost(each, status, _line(error)))
                continue
            forces = -np.asarray(found.get("gradient"), dtype=np.float64) * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
            result.append(_Point(float(found.get("energy")) * HARTREE_TO_EV, forces))
        return result


class DFTEvaluator(Evaluator):
    """A Kohn-Sham level of PySCF, one structure at a time, each from PySCF's own guess; always double precision.

    Closed shells are restricted: bonds do not break here as they do in nature (see the reference curves).
    """

    charged = True

    def __init__(self, entry: Mapping[str, Any], precision: str) -> None:
        """Take the level of an entry."""
        from mlip_studies.dft.levels import DFT_LEVELS

        super().__init__(entry, precision)
        self._level = DFT_LEVELS[str(entry["level"])]
        self._basis: dict[int, bool] = {}

    def _knows(self, number: int) -> bool:
        if number not in self._basis:
            from mlip_studies.elements import symbol

            try:
                load = importlib.import_module("pyscf.gto.basis").load
                self._basis[number] = bool(load(self._level.basis, symbol(number)))
            except Exception:  # PySCF has no error of its own for a basis without the element
                self._basis[number] = False
        return self._basis[number]

    def _compute(self, structures: Sequence[Structure]) -> list[_Point]:
        from mlip_studies.dft.run import run_dft

        result = []
        for each in structures:
            found, _ = run_dft(
                each.atomic_numbers,
                each.positions,
                self._level,
                charge=each.charge,
                spin=each.multiplicity - 1,
            )
            if found.converged:
                result.append(_Point(found.energy * HARTREE_TO_EV, found.forces * HARTREE_TO_EV))
            else:
                message = f"the field did not converge within {self._level.max_cycle} cycles"
                result.append(_lost(each, "not_converged", message))
        return result


def _kind(entry: Mapping[str, Any]) -> str:
    """Which of :data:`_KINDS` an entry is.

    Raises:
        InputError: none, an unknown key, or a value that makes no sense.
    """
    label = f"potential {entry.get('name') or entry.get('pretrained') or '?'}"
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"{label}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    found = [kind for kind in _KINDS[:3] if entry.get(kind)] or [kind for kind in _KINDS[3:] if entry.get(kind)]
    if len(found) != 1:
        raise InputError(f"{label}: {len(found)} of the keys {', '.join(_KINDS)}; expected one of them")
    return found[0]


def resolve(
    name: str, entry: Mapping[str, Any], published: Mapping[str, Mapping[str, Any]], runs: str
) -> dict[str, Any]:
    """An entry of a study's configuration with all that this module reads of it.

    Args:
        name: its key.
        entry: its value: ``pretrained`` is a name in ``published``, ``trained`` has ``study`` and ``run``.
        published: config/pretrained.yaml, with paths as they are to be opened.
        runs: pattern of a trained potential's path, with ``{study}`` and ``{run}``.

    Raises:
        InputError: a mistake in the entry, or no published potential of that name.
    """
    kind = _kind({**entry, "name": name})
    if kind == "pretrained":
        key = str(entry["pretrained"])
        if key not in published:
            raise InputError(f"potential {name}: no published potential {key!r}{did_you_mean(key, published)}")
        return {**published[key], **entry, "name": name}
    if kind == "trained" and isinstance(entry["trained"], Mapping):
        try:
            path = runs.format(**entry["trained"])
        except KeyError as error:
            raise InputError(f"potential {name}: trained: key {error} is missing; expected study and run") from error
        return {"path": path, **entry, "name": name}
    return {**entry, "name": name}


def entry_name(entry: Mapping[str, Any]) -> str:
    """Name of the potential of an entry: what ``name`` says, else what names it."""
    kind = _kind(entry)
    return str(entry.get("name") or (entry[kind] if not isinstance(entry[kind], Mapping) else kind))


def entry_family(entry: Mapping[str, Any]) -> str:
    """ani, mace, orb, trained, xtb or dft.

    Raises:
        InputError: see :func:`open_evaluator`.
    """
    kind = _kind(entry)
    if kind == "pretrained":
        family = str(entry.get("kind"))
        if family not in ("ani", "mace", "orb"):
            raise InputError(f"potential {entry_name(entry)}: kind {family!r}; choose one of ani, mace, orb")
        return family
    return {"trained": "trained", "xtb": "xtb", "level": "dft"}[kind]


def _pretrained_spec(entry: Mapping[str, Any]) -> Any:
    from mlip_studies.models.pretrained import PretrainedSpec

    keys = ("kind", "path", "sha256", "options", "licence")
    return PretrainedSpec.from_dict(entry_name(entry), {key: entry[key] for key in keys if key in entry})


def _trained_path(entry: Mapping[str, Any]) -> Path | None:
    path = entry.get("path") or (None if isinstance(entry["trained"], Mapping) else entry["trained"])
    return None if path is None else Path(path)


def _packages(entry: Mapping[str, Any]) -> str | None:
    """What of the packages that an entry needs is missing or of another version."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in entry.get("requires") or REQUIREMENTS[entry_family(entry)]:
        try:
            needed = Requirement(text)
        except InvalidRequirement as error:
            raise InputError(
                f"potential {entry_name(entry)}: requires {text!r}; expected a package and its versions, such as "
                "torchani>=2.9"
            ) from error
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            return f"the package {needed.name} is not installed; install {text}"
        if not needed.specifier.contains(found, prereleases=True):
            return f"{needed.name} {found} is installed; it needs {text}"
    return None


def _versions(entry: Mapping[str, Any]) -> str:
    """Packages that calculate a potential and their versions, as far as they are installed."""
    from packaging.requirements import Requirement

    names = [Requirement(text).name for text in entry.get("requires") or REQUIREMENTS[entry_family(entry)]] or ["torch"]
    result = []
    for name in names:
        try:
            result.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(result)


def unavailable(entry: Mapping[str, Any]) -> str | None:
    """Why a potential cannot be run here, None if it can.

    A package that is missing or of another version, weights that are missing or have another checksum, a level or
    method that does not exist.

    Args:
        entry: see the module.

    Raises:
        InputError: a mistake in the entry itself.
    """
    family, name = entry_family(entry), entry_name(entry)
    reason = _packages(entry)
    if reason is not None:
        return reason
    if family == "xtb":
        method = entry["xtb"]
        return None if method in _XTB_METHODS else f"no method {method!r}{did_you_mean(method, _XTB_METHODS)}"
    if family == "dft":
        from mlip_studies.dft.levels import DFT_LEVELS

        level = entry["level"]
        return None if level in DFT_LEVELS else f"no level {level!r}{did_you_mean(level, DFT_LEVELS)}"
    if family == "trained":
        path = _trained_path(entry)
        if path is None or not path.is_file():
            return f"{path or 'no path'}: not trained yet"
        found, expected = sha256_of(path), entry.get("sha256")
        if expected and found != expected:
            return f"{path}: sha256 is {found}, expected {expected}; train it again or correct `sha256`"
        return None
    if not entry.get("path"):
        return "no weights at hand; name their folder by the key 'weights' of config/config.yaml"
    from mlip_studies.models import pretrained

    if not entry.get("sha256"):
        path = Path(entry["path"])
        if not path.is_file():
            return f"{path}: not found"
        found = pretrained.weights_sha256(family, path)
        return f"{path}: its sha256 is not in config/pretrained.yaml; write {found} there if you trust your copy"
    spec = _pretrained_spec(entry)
    reason = pretrained.unavailable(spec)
    if reason is not None:
        return reason.removeprefix(f"{name}: ")
    found = pretrained.weights_sha256(spec.kind, spec.path)
    if found != spec.sha256:
        return f"{spec.path}: sha256 is {found}, expected {spec.sha256}; copy the weights again or correct `sha256`"
    return None


def open_evaluator(entry: Mapping[str, Any], precision: str = "float64") -> Evaluator:
    """Make a potential ready.

    Args:
        entry: see the module; relative paths start from the working directory.
        precision: float64 or float32, of a network's weights and positions; other methods have float64 only.

    Raises:
        InputError: a mistake in the entry, another precision, or a potential that cannot be run here (see
            :func:`unavailable`).
    """
    family, name = entry_family(entry), entry_name(entry)
    if precision not in PRECISIONS:
        raise InputError(f"potential {name}: precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision not in precisions(entry):
        raise InputError(f"potential {name}: {precision}; {family} calculates in float64 only")
    reason = unavailable(entry)
    if reason is not None:
        raise InputError(f"potential {name}: {reason}")
    if family == "xtb":
        return XTBEvaluator(entry, precision)
    if family == "dft":
        return DFTEvaluator(entry, precision)
    import torch

    dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
    if family == "trained":
        from mlip_studies.models.potential import load_potential

        path = require(str(_trained_path(entry)))
        potential, _ = load_potential(path, dtype=dtype)
        return NetworkEvaluator(entry, precision, potential.requires_grad_(False), sha256_of(path))
    from mlip_studies.models.pretrained import load_pretrained_potential

    spec = _pretrained_spec(entry)
    potential = load_pretrained_potential(spec, dtype=dtype)
    published = cast("PublishedModel", potential.model)
    published.sum_as_published = precision == "float32"
    return NetworkEvaluator(entry, precision, potential, spec.sha256)


def precisions(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Precisions in which a potential is run: both for networks unless ``precision`` says else, float64 for others.

    Raises:
        InputError: ``precision`` names another one.
    """
    known = PRECISIONS if entry_family(entry) not in ("xtb", "dft") else PRECISIONS[:1]
    given = entry.get("precision")
    if given is None:
        return known
    wanted = (given,) if isinstance(given, str) else tuple(given)
    wrong = [each for each in wanted if each not in known]
    if wrong or not wanted:
        raise InputError(
            f"potential {entry_name(entry)}: precision {wrong[0] if wrong else wanted!r}; choose of {', '.join(known)}"
        )
    return wanted


def describe(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of potentials says of one; the weights are opened if the potential can be run here.

    Args:
        entry: see the module.

    Returns:
        name, title, family, available, reason (None if available), licence, citation, level, packages, sha256, cutoff
        (Å), elements (atomic numbers, None: any with a basis), precision (list), direct_forces, charged. Of a potential
        that cannot be run, cutoff and elements are what the entry says.

    Raises:
        InputError: a mistake in the entry itself.
    """
    reason, evaluator = unavailable(entry), None
    if reason is None:
        try:
            evaluator = open_evaluator(entry, precisions(entry)[0])
        except InputError as error:  # weights whose checksum holds, and which are none
            reason = str(error)
    known: Any = evaluator or SimpleNamespace(
        level=entry.get("level"),
        licence=entry.get("licence"),
        sha256=entry.get("sha256"),
        cutoff=entry.get("cutoff"),
        elements=entry.get("elements"),
        direct_forces=None,
    )
    return {
        "name": entry_name(entry),
        "title": str(entry.get("title") or entry_name(entry)),
        "family": entry_family(entry),
        "available": evaluator is not None,
        "reason": reason,
        "licence": known.licence,
        "citation": entry.get("citation"),
        "level": known.level,
        "packages": _versions(entry),
        "sha256": known.sha256,
        "cutoff": known.cutoff,
        "elements": None if known.elements is None else list(known.elements),
        "precision": list(precisions(entry)),
        "direct_forces": known.direct_forces,
        "charged": entry_family(entry) in ("xtb", "dft"),
    }


def write_descriptions(entries: Mapping[str, Mapping[str, Any]], output: PathLike, missing: PathLike) -> None:
    """Write what is known of all potentials, and which of them cannot be run here.

    Args:
        entries: by name.
        output: JSON: a list of :func:`describe`.
        missing: JSON: name -> reason.

    Raises:
        InputError: a mistake in an entry.
    """
    described = [describe({**entry, "name": name}) for name, entry in entries.items()]
    reasons = {each["name"]: each["reason"] for each in described if not each["available"]}
    write_text(output, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    write_text(missing, json.dumps(reasons, indent=1, ensure_ascii=False) + "\n")
