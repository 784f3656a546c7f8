"""Check of units, sign and pairing of energies and forces from the numbers themselves.

Four physical facts are used, none of which needs to know where the data come from:

1. *Work.* Between two similar geometries of a molecule the energy changes by the work of the mean force, up to third
   order in the displacement. Gradients in place of forces give a correlation near -1, a wrong unit of the forces a
   slope far from 1, energies of other frames no correlation.
2. *Balance.* Forces on an isolated molecule add up to no net force and no net torque. Forces in another atom order or
   of another geometry do not.
3. *Distances.* The nearest neighbor of H, C, N and O is a bond away, so lengths in a wrong unit show.
4. *Totals.* Total energies are within a few percent of the sum of the atoms' energies, so energies in a wrong unit show
   even if the forces have the same mistake. Energies on another scale (formation energies, valence electrons only) are
   left alone: only a match with a known confusion of units counts. Energies that are declared to differ from those of
   another fidelity by a constant per molecule are compared with these instead.

The work is summed over interatomic distances, W = -Σ (φ1 + φ2)·(r2 - r1)/2, where φ = -K B (BᵀKB)⁻¹ F are the forces
along the distances that reproduce F, with most of it in the short distances (B is the derivative of the distances with
respect to the coordinates, K falls with the sixth power of the distance in units of the covalent radii). Distances do
not know how a molecule is turned, and a methyl group that rotates does not seem to be torn apart as it does along the
straight line between two sets of coordinates. So scattered conformations can be compared as well as trajectories:
ethanol frames drawn at random from a trajectory (root-mean-square displacement 0.2 Å) correlate with 0.97 instead of
0.61.

What it cannot see: a small inconsistency between energies and forces, such as forces that lack the dispersion of the
energies (some 10 meV/Å): its work is below the third-order error of pairs of published geometries. Nor mistakes in
frames that it does not look at: it works on a bounded sample (see :class:`ForceCheck`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV

_KJ_PER_MOL_TO_EV = KCAL_PER_MOL_TO_EV / 4.184
_ENERGY_UNITS = {
    "eV": 1.0,
    "hartree": HARTREE_TO_EV,
    "kcal/mol": KCAL_PER_MOL_TO_EV,
    "kJ/mol": _KJ_PER_MOL_TO_EV,
}
_LENGTH_UNITS = {"Å": 1.0, "bohr": BOHR_TO_ANGSTROM, "nm": 10.0}
# All-electron energies of the atoms in eV, to 1 %; elements that are often treated with effective cores are left out.
_ATOM_ENERGY_EV = {
    1: -13.6, 5: -671, 6: -1030, 7: -1486, 8: -2043, 9: -2714, 14: -7877, 15: -9286, 16: -10831, 17: -12522, 35: -70043
}  # fmt: skip
_ORGANIC = (1, 6, 7, 8)
# The neglected third order of the work, relative to the work of the change of the force: 1 to 5 % in published sets.
_THIRD_ORDER = 0.04
_NOISE_EV = 1e-3
# Frames are compared if no distance that is shorter than 2.2 bonds changes by more than this part of itself.
_CLOSE = 2.2
_MAX_CHANGE = 0.35
_MAX_ATOMS = 100
# Energies that differ by a constant per molecule do so to rounding; single rows may be broken, the median is not.
_SAME_DIFFERENCE_EV = 0.01
_WINDOW = 128
_PART = 100


def _confusions(units: Mapping[str, float]) -> dict[str, float]:
    """Factor by which a number is wrong if it is in the first unit and was read as the second one."""
    return {f"{true} read as {read}": units[read] / units[true] for true in units for read in units if true != read}


_ENERGY_CONFUSIONS = _confusions(_ENERGY_UNITS)
_LENGTH_CONFUSIONS = _confusions(_LENGTH_UNITS)
_FORCE_CONFUSIONS = _confusions(
    {f"{e}/{length}": _ENERGY_UNITS[e] / _LENGTH_UNITS[length] for e in _ENERGY_UNITS for length in _LENGTH_UNITS}
)


def _suspects(factor: float, table: Mapping[str, float], tolerance: float) -> list[str]:
    """Confusions of units that explain a factor, the likeliest first.

    Several can have the same factor (kcal/mol/bohr read as eV/bohr, kcal/mol/Å read as eV/Å): common units go first.
    """
    near = [name for name, value in table.items() if abs(math.log(factor / value)) < tolerance]
    return sorted(near, key=lambda name: (2 * name.count("nm") + 2 * name.count("kJ") + name.count("bohr"), name))


@dataclass
class _Evidence:
    """What was gathered for one fidelity."""

    forces: bool = False
    work: list[float] = field(default_factory=list)
    change: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    net_force: list[float] = field(default_factory=list)
    net_torque: list[float] = field(default_factory=list)
    net_force_ev: list[float] = field(default_factory=list)
    bonds: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    frames: int = 0
    too_large: int = 0
    deviations: list[float] = field(default_factory=list)


class ForceCheck:
    """Gathers a bounded sample of the blocks of a file and judges it.

    The first 30 blocks of more than one frame are looked at, then one in twenty of the number seen so far, each at up
    to 128 frames in the middle and a few of the most similar pairs of these; molecules of more than 100 atoms are left
    out of the work. That takes a second or two for the largest data sets.

    A fidelity is *verified* from 20 pairs on if the correlation exceeds 0.7 and the slope lies within a factor of 1.33
    of one. It is an error if the correlation is below -0.5 (gradients), if it is above 0.85 but the slope lies outside
    (unit), if it misses what the pairs allow by more than 0.5, or if the median net force or torque exceeds a fifth of
    what unrelated forces would have (pairing). In all other cases it is *not verified*, with the reason.

    Args:
        max_pairs: number of pairs from which on a block contributes only a few.
        min_pairs: fewest pairs (and frames) for a judgement.
        relative: fidelities whose energies differ from those of another one by a constant per molecule, such as
            formation energies from total energies. They are compared with these in place of the sum of the atoms'
            energies, of which theirs are a small part that may look like a confusion of units.
    """

    def __init__(self, max_pairs: int = 400, min_pairs: int = 20, relative: Mapping[str, str] | None = None) -> None:
        self._relative = dict(relative or {})
        self._max_pairs = max_pairs
        self._min_pairs = min_pairs
        self._evidence: dict[str, _Evidence] = {}
        self._seen: dict[str, int] = {}
        self._next: dict[str, int] = {}

    def add(self, block: Block) -> None:
        """Look at a block (eV, Å, eV/Å)."""
        for name, energies in block.energies.items():
            evidence = self._evidence.setdefault(name, _Evidence())
            forces = block.forces.get(name)
            evidence.forces |= forces is not None
            if len(block) == 0:
                continue
            # Single frames hold no pairs; a set that has nothing else is still looked at for the other facts.
            kind = f"{name} {'single' if len(block) == 1 else 'several'}"
            seen = self._seen[kind] = self._seen.get(kind, 0) + 1
            if seen < self._next.get(kind, 0):
                continue
            self._next[kind] = seen + 1 if seen < 30 else math.ceil(1.05 * seen)
            labeled = np.isfinite(energies)
            if forces is not None:
                labeled &= np.isfinite(forces[:, 0, 0])
            rows = np.flatnonzero(labeled)
            middle = max(0, (len(rows) - _WINDOW) // 2)
            rows = rows[middle : middle + _WINDOW]
            if len(rows) == 0:
                continue
            positions = block.positions[rows].astype(np.float64)
            evidence.frames += len(rows)
            self._scale(evidence, block.atomic_numbers, positions, energies[rows], name not in self._relative)
            if name in self._relative and self._relative[name] in block.energies:
                offset = energies[rows] - block.energies[self._relative[name]][rows]
                offset = offset[np.isfinite(offset)]
                if len(offset) > 1:
                    evidence.deviations.append(float(np.abs(offset - np.median(offset)).max()))
            if forces is not None:
                values = forces[rows].astype(np.float64)
                self._balance(evidence, positions, values)
                self._pairs(evidence, block.atomic_numbers, positions, energies[rows], values, len(block))

    @staticmethod
    def _scale(
        evidence: _Evidence,
        numbers: NDArray[np.uint8],
        positions: NDArray[np.float64],
        energies: NDArray[np.float64],
        totals: bool = True,
    ) -> None:
        if totals and all(int(z) in _ATOM_ENERGY_EV for z in numbers):
            total = sum(_ATOM_ENERGY_EV[int(z)] for z in numbers)
            evidence.totals.append(float(np.median(energies)) / total)
        organic = np.flatnonzero(np.isin(numbers, _ORGANIC))
        if len(numbers) < 3 or len(organic) == 0:
            return
        for frame in positions[:: max(1, len(positions) // 4)][:4]:
            distances = np.linalg.norm(frame[organic, None] - frame[None], axis=-1)
            distances[np.arange(len(organic)), organic] = np.inf
            radii = covalent_radii[numbers[organic]][:, None] + covalent_radii[numbers][None]
            evidence.bonds.append(float(np.median((distances / radii).min(axis=1))))

    @staticmethod
    def _balance(evidence: _Evidence, positions: NDArray[np.float64], forces: NDArray[np.float64]) -> None:
        centered = positions - positions.mean(axis=1, keepdims=True)
        size = np.sqrt((forces**2).sum(axis=(1, 2)))
        lever = np.sqrt(((forces**2).sum(axis=2) * (centered**2).sum(axis=2)).sum(axis=1))
        # At a minimum only noise is left of the forces. A single atom has neither a lever nor a torque.
        use = (size > 0.05 * math.sqrt(positions.shape[1])) & (lever > 0)
        net = np.linalg.norm(forces[use].sum(axis=1), axis=1)
        torque = np.linalg.norm(np.cross(centered[use], forces[use]).sum(axis=1), axis=1)
        evidence.net_force.extend(net / size[use])
        evidence.net_force_ev.extend(net)
        evidence.net_torque.extend(torque / lever[use])

    def _pairs(
        self,
        evidence: _Evidence,
        numbers: NDArray[np.uint8],
        positions: NDArray[np.float64],
        energies: NDArray[np.float64],
        forces: NDArray[np.float64],
        n_frames: int,
    ) -> None:
        if len(numbers) > _MAX_ATOMS:
            evidence.too_large += 1
            return
        if len(numbers) < 2 or len(positions) < 2:
            return
        few = len(evidence.work) >= self._max_pairs
        first, second = _similar(positions, 4 if few else min(max(n_frames // 2, 4), 96))
        if len(first) == 0:
            return
        frames, place = np.unique(np.concatenate([first, second]), return_inverse=True)
        distances, along = _along_distances(numbers, positions[frames], forces[frames])
        one, other = place[: len(first)], place[len(first) :]
        step = distances[other] - distances[one]
        # Across a broken bond or a contact that opens, no formula of second order holds.
        i, j = np.triu_indices(len(numbers), 1)
        shorter = np.minimum(distances[one], distances[other])
        close = shorter < _CLOSE * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
        near = np.where(close, np.abs(step) / shorter, 0.0).max(axis=1, initial=0.0) < _MAX_CHANGE
        one, other, step, first, second = one[near], other[near], step[near], first[near], second[near]
        evidence.work.extend(0.5 * ((along[one] + along[other]) * step).sum(axis=1))
        evidence.error.extend(np.abs(((along[other] - along[one]) * step).sum(axis=1)))
        evidence.change.extend(energies[second] - energies[first])

    def result(self, source: PathLike) -> dict[str, dict[str, Any]]:
        """The verdict per fidelity, ready for JSON.

        Args:
            source: the file, for messages.

        Returns:
            per fidelity: ``verdict`` (verified, not verified with a ``reason``, no forces), ``pairs``, ``frames``, and,
            where known, ``correlation`` and ``slope`` of energy differences against work, median ``net_force`` and
            ``net_torque`` relative to unrelated forces, ``net_force_ev_per_angstrom``, ``bond_ratio`` (nearest neighbor
            distances over sums of covalent radii), ``total_energy_ratio`` (energies over sums of atomic energies) and
            ``differences`` (deviation from another fidelity after a constant per molecule, where one is declared).

        Raises:
            InputError: wrong sign, wrong unit, energies and forces that do not belong together, or energies that do
                not differ from those of the declared fidelity by a constant per molecule.
        """
        return {name: self._judge(f"{source}: ", name, evidence) for name, evidence in self._evidence.items()}

    def _judge(self, where: str, name: str, evidence: _Evidence) -> dict[str, Any]:
        report: dict[str, Any] = {"verdict": "no forces", "pairs": len(evidence.work), "frames": evidence.frames}
        enough = evidence.frames >= self._min_pairs
        if evidence.bonds:
            ratio = report["bond_ratio"] = float(np.median(evidence.bonds))
            suspects = _suspects(ratio, _LENGTH_CONFUSIONS, 0.1) if ratio > 0 else []
            if enough and suspects:
                raise InputError(
                    f"{where}neighboring atoms are {ratio:.2f} bond lengths apart, which looks like {suspects[0]}; "
                    "correct `units.length` of the data set"
                )
        if evidence.totals:
            ratio = report["total_energy_ratio"] = float(np.median(evidence.totals))
            suspects = _suspects(ratio, _ENERGY_CONFUSIONS, 0.06) if ratio > 0 else []
            if enough and suspects:
                raise InputError(
                    f"{where}energies of {name} are {ratio:.3g} times those of the atoms, which looks like "
                    f"{suspects[0]}; correct `units.energy` of the data set"
                )
        if evidence.deviations:
            other, typical = self._relative[name], float(np.median(evidence.deviations))
            report["differences"] = {
                "of": other,
                "groups": len(evidence.deviations),
                "median_deviation_ev": typical,
                "largest_deviation_ev": max(evidence.deviations),
            }
            if typical > _SAME_DIFFERENCE_EV:
                raise InputError(
                    f"{where}energies of {name} do not differ from those of {other} by a constant per molecule (median "
                    f"deviation {typical:.3g} eV); correct their keys or units, or drop `same_differences_as`"
                )
        if not evidence.forces:
            return report
        report |= {"verdict": "not verified"}
        if evidence.net_force:
            force, torque = float(np.median(evidence.net_force)), float(np.median(evidence.net_torque))
            report |= {"net_force": force, "net_torque": torque}
            report["net_force_ev_per_angstrom"] = float(np.median(evidence.net_force_ev))
            # Before the work, because forces of other atoms do any kind of work.
            if len(evidence.net_force) >= self._min_pairs and max(force, torque) > 0.2:
                what = "net force" if force > torque else "net torque"
                raise InputError(
                    f"{where}forces of {name} leave a {what} of {max(force, torque):.2f} of that of unrelated forces, "
                    "expected nearly 0: they are of other frames or in another atom order; correct the keys or the file"
                )
        self._judge_work(where, name, evidence, report)
        return report

    def _judge_work(self, where: str, name: str, evidence: _Evidence, report: dict[str, Any]) -> None:
        if len(evidence.work) < self._min_pairs:
            report["reason"] = f"{len(evidence.work)} pairs of similar frames, at least {self._min_pairs} are needed"
            if evidence.too_large:
                report["reason"] += f"; {evidence.too_large} blocks have more than {_MAX_ATOMS} atoms"
            return
        pairs = np.array([evidence.work, evidence.change, evidence.error])
        # In parts as well as whole, because right blocks must not outvote wrong ones.
        for first in range(0, pairs.shape[1] - _PART + 1, _PART):
            last = first + _PART if pairs.shape[1] - first >= 2 * _PART else pairs.shape[1]
            self._judge_pairs(where, name, pairs[:, first:last], report)
        self._judge_pairs(where, name, pairs, report)

    @staticmethod
    def _judge_pairs(where: str, name: str, pairs: NDArray[np.float64], report: dict[str, Any]) -> None:
        work, change, error = pairs
        report.pop("reason", None)
        report["verdict"] = "not verified"
        sigma = _THIRD_ORDER * error + _NOISE_EV
        # No pair may count more than a few others do.
        weight = 1.0 / (sigma**2 + np.median(sigma) ** 2)
        product, squares, scatter = weight @ (work * change), weight @ work**2, weight @ change**2
        if squares == 0 or scatter == 0:
            report["reason"] = "energies or forces are the same in all similar frames"
            return
        correlation = float(product / math.sqrt(squares * scatter))
        slope = float(product / squares)
        signal = math.sqrt(squares / (weight @ sigma**2))
        possible = signal / math.sqrt(1 + signal**2)
        report |= {"correlation": correlation, "slope": slope}
        if correlation < -0.5:
            raise InputError(
                f"{where}forces of {name} point uphill (correlation of their work with the energy {correlation:.2f}, "
                "expected near 1): the file holds gradients; use a reader that flips the sign"
            )
        # A wrong unit changes both sides' ratio, while errors of the work lower the slope: the ratio is free of that.
        ratio = math.sqrt(squares / scatter)
        if correlation > 0.7 and 1 / 1.33 < ratio < 1.33:
            report["verdict"] = "verified"
            return
        if correlation > 0.85:
            suspects = _suspects(ratio, _FORCE_CONFUSIONS, 0.15)
            looks = f", which looks like {suspects[0]}" if suspects else ""
            raise InputError(
                f"{where}the work of the forces of {name} is {ratio:.3g} times the change of the energy, expected "
                f"1{looks}; correct `units` or the forces' key of the data set"
            )
        if possible - correlation > 0.5:
            raise InputError(
                f"{where}forces of {name} do not belong to its energies (correlation of their work with the energy "
                f"{correlation:.2f}, expected at least {possible:.2f}); correct the keys or the order of the rows"
            )
        report["reason"] = f"similar frames are too far apart (correlation {correlation:.2f}, ratio {ratio:.2f})"


def _similar(positions: NDArray[np.float64], n_pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of frames whose interatomic distances differ least: each frame's nearest, the nearest pairs first."""
    n_frames, n_atoms = positions.shape[:2]
    i, j = np.triu_indices(n_atoms, 1)
    if len(i) > 400:
        # A part of the distances tells frames apart just as well.
        chosen = np.linspace(0, len(i) - 1, 400).astype(int)
        i, j = i[chosen], j[chosen]
    distances = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
    squares = (distances**2).sum(axis=1)
    apart = squares[:, None] + squares[None] - 2 * distances @ distances.T
    # Repeated geometries say nothing.
    apart[apart < 1e-6 * len(i)] = np.inf
    nearest = apart.argmin(axis=1)
    pairs = np.unique(np.sort(np.stack([np.arange(n_frames), nearest], axis=1), axis=1), axis=0)
    gap = apart[pairs[:, 0], pairs[:, 1]]
    order = np.argsort(gap, kind="stable")[: np.isfinite(gap).sum()][:n_pairs]
    return pairs[order, 0], pairs[order, 1]


def _along_distances(
    numbers: NDArray[np.uint8], positions: NDArray[np.float64], forces: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interatomic distances and dE/dr along them, both of shape (n_frames, n_pairs), in Å and eV/Å."""
    n_frames, n_atoms = positions.shape[:2]
    i, j = np.triu_indices(n_atoms, 1)
    difference = positions[:, i] - positions[:, j]
    distances = np.maximum(np.linalg.norm(difference, axis=-1), 1e-3)
    unit = difference / distances[..., None]
    stiffness = (distances / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])) ** -6.0
    outer = stiffness[..., None, None] * unit[..., :, None] * unit[..., None, :]
    model = np.zeros((n_frames, n_atoms, n_atoms, 3, 3))
    model[:, i, j] = model[:, j, i] = -outer
    diagonal = -model.sum(axis=2)
    model[:, np.arange(n_atoms), np.arange(n_atoms)] = diagonal
    matrix = model.transpose(0, 1, 3, 2, 4).reshape(n_frames, 3 * n_atoms, 3 * n_atoms)
    # Translations and rotations have no stiffness; the ridge keeps the solution finite and changes no distance.
    size = np.trace(matrix, axis1=1, axis2=2) / (3 * n_atoms)
    matrix += 1e-8 * size[:, None, None] * np.eye(3 * n_atoms)
    shift = np.linalg.solve(matrix, forces.reshape(n_frames, -1, 1)).reshape(n_frames, n_atoms, 3)
    along = -stiffness * (unit * (shift[:, i] - shift[:, j])).sum(axis=-1)
    return distances, along
