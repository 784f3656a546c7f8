"""Tests of a potential that need no reference: symmetries, forces as a gradient, sums over molecules, conservation.

All but the dynamics look at molecules whose atoms were moved at random (0.05 Å), so that no symmetry of a minimum hides
anything: forces are not zero, and a mirror image is another geometry. Every test is a number with a limit, which holds
for all potentials and both precisions:

* ``rotation_energy_spread_ev``, ``translation_energy_spread_ev``: largest less smallest energy over random rotations,
  and over translations of up to 10 Å.
* ``force_equivariance``: largest ||F(Q R) - Q F(R)|| / ||F(R)|| over the rotations Q.
* ``force_gradient_error``: ||F + dE/dR|| / ||dE/dR||, with the gradient by finite differences of fourth order.
* ``curl_asymmetry``: ||J - Jᵀ|| / ||J + Jᵀ||, with J = dF/dR from the same geometries; 0 for the forces of an energy.
* ``permutation_energy_ev``, ``mirror_energy_ev``: largest change of the energy when atoms are written in another order,
  and that of the mirror image.
* ``extensivity_ev``: energy of two copies 100 Å apart less twice that of one.
* ``locality_ev``: change of the energy when a copy 50 Å away moves to 60 Å.
* ``nve_drift_mev_per_atom_ps``: size of the slope of the total energy in dynamics (velocity Verlet) from the given
  geometry with random velocities of a temperature.
* ``body_order``: difference of the energies of two environments that distances and angles alone cannot tell apart (S.
  Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020)). It passes above its limit, all others pass below theirs.
* ``body_order_central``: the same of the energy of the central atom alone, for potentials that state energies of atoms
  made of that atom's neighbours (ANI). The atoms around it see different triangles, and their energies may still tell
  the molecules apart.

Columns of the CSV: ``test``, ``molecule``, ``value``, ``unit``, ``limit``, ``sense`` (below or above), ``n`` (energies
behind the value), ``status`` (of an evaluator; the first that is not ``ok``), ``message``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.adequacy.potentials import Evaluation, Evaluator, open_evaluator
from mlip_studies.adequacy.structures import Structure
from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.errors import InputError
from mlip_studies.runtime.options import check, did_you_mean, read_options
from mlip_studies.units import BOLTZMANN_EV_PER_K, EV_TO_MEV

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """When a test is passed.

    Attributes:
        value: the limit, in ``unit``.
        unit: of the value; empty for a ratio.
        sense: ``below`` or ``above``.
    """

    value: float
    unit: str
    sense: str = "below"

    def passed(self, value: float) -> bool:
        """Whether a value passes; NaN never does."""
        return bool(value <= self.value if self.sense == "below" else value > self.value)


#: test -> limit. 1 meV is a tenth of what the study reports as a defect, and above the steps of single precision.
LIMITS = {
    "rotation_energy_spread_ev": Limit(1e-3, "eV"),
    "translation_energy_spread_ev": Limit(1e-3, "eV"),
    "force_equivariance": Limit(1e-2, ""),
    "force_gradient_error": Limit(1e-2, ""),
    "curl_asymmetry": Limit(1e-2, ""),
    "permutation_energy_ev": Limit(1e-3, "eV"),
    "mirror_energy_ev": Limit(1e-3, "eV"),
    "extensivity_ev": Limit(1e-3, "eV"),
    "locality_ev": Limit(1e-3, "eV"),
    "nve_drift_mev_per_atom_ps": Limit(1.0, "meV/atom/ps"),
    "body_order": Limit(1e-3, "eV", "above"),
    "body_order_central": Limit(1e-6, "eV", "above"),
}
COLUMNS = ("test", "molecule", "value", "unit", "limit", "sense", "n", "status", "message")
#: Å, of the finite differences: single precision needs differences of energies far above its steps
_STEP = {"float64": 5e-4, "float32": 3e-2}
#: derivative of fourth order: places in steps, and weights
_STENCIL = {-2: 1.0 / 12.0, -1: -8.0 / 12.0, 1: 8.0 / 12.0, 2: -1.0 / 12.0}


@dataclass(frozen=True)
class SymmetryConfig:
    """What is tested and how much of it.

    Attributes:
        tests: names of :data:`LIMITS`.
        molecules: of :func:`mlip_studies.adequacy.scans.start_structure`, for all tests but those of body order.
        rotations: random ones.
        translations: random ones.
        permutations: random orders of the atoms.
        rattle_angstrom: standard deviation of the random displacements.
        copy_angstrom: distance of two copies.
        far_angstrom: two distances of the far molecule.
        nve_steps: time steps.
        nve_timestep_fs: fs.
        nve_temperature_k: of the first velocities, K.
        seed: of all that is random.
        limits: other limits than :data:`LIMITS`, by test.
        families: fields of this table that are others for a family (ani, mace, orb, trained, xtb, dft).
    """

    tests: tuple[str, ...] = tuple(LIMITS)
    molecules: tuple[str, ...] = ("water", "benzene", "ethanol", "cyclobutadiene")
    rotations: int = 12
    translations: int = 8
    permutations: int = 4
    rattle_angstrom: float = 0.05
    copy_angstrom: float = 100.0
    far_angstrom: tuple[float, float] = (50.0, 60.0)
    nve_steps: int = 400
    nve_timestep_fs: float = 0.5
    nve_temperature_k: float = 300.0
    seed: int = 0
    limits: dict[str, float] = field(default_factory=dict)
    families: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a configuration can get wrong."""
        for name in (*self.tests, *self.limits):
            if name not in LIMITS:
                raise InputError(f"symmetry: unknown test {name!r}{did_you_mean(name, LIMITS)}")
        for name, least in (("rotations", 1), ("translations", 1), ("permutations", 1), ("nve_steps", 2)):
            check(getattr(self, name) >= least, f"symmetry.{name}", f"at least {least}", getattr(self, name))
        check(self.nve_timestep_fs > 0, "symmetry.nve_timestep_fs", "above 0", self.nve_timestep_fs)

    def limit(self, test: str) -> Limit:
        """Limit of a test."""
        known = LIMITS[test]
        return Limit(float(self.limits.get(test, known.value)), known.unit, known.sense)


def symmetry_config(settings: Mapping[str, Any], family: str) -> SymmetryConfig:
    """Settings of one family of potentials.

    Raises:
        InputError: unknown key or test, or a value that makes no sense.
    """
    common = {key: value for key, value in settings.items() if key != "families"}
    special = (settings.get("families") or {}).get(family) or {}
    return read_options(SymmetryConfig, {**common, **special}, "symmetry")


def random_rotations(n: int, rng: np.random.Generator) -> FloatArray:
    """Proper rotations, uniformly distributed, shape (n, 3, 3)."""
    from scipy.spatial.transform import Rotation

    matrices: FloatArray = Rotation.from_quat(rng.normal(size=(n, 4))).as_matrix().reshape(n, 3, 3)
    return matrices


@dataclass(frozen=True)
class _Plan:
    """Structures of one molecule, and what their energies and forces say."""

    molecule: str
    tests: tuple[str, ...]
    structures: list[Structure]
    finish: Callable[[FloatArray, list[FloatArray]], Sequence[float]]


def _rigid(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    turns = random_rotations(config.rotations, rng)
    turned = [base.moved(base.positions @ turn.T) for turn in turns]

    def finish(energy: FloatArray, forces: list[FloatArray]) -> Sequence[float]:
        size = float(np.linalg.norm(forces[0]))
        errors = [np.linalg.norm(f - forces[0] @ turn.T) for f, turn in zip(forces[1:], turns, strict=True)]
        return float(np.ptp(energy)), float(max(errors)) / size if size else float("nan")

    return _Plan(base.name, ("rotation_energy_spread_ev", "force_equivariance"), [base, *turned], finish)


def _translation(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    directions = rng.normal(size=(config.translations, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = 10.0 * np.arange(1, config.translations + 1) / config.translations
    moved = [base.moved(base.positions + step) for step in lengths[:, None] * directions]
    return _Plan(
        base.name, ("translation_energy_spread_ev",), [base, *moved], lambda energy, _: [float(np.ptp(energy))]
    )


def _permutation(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    orders = [rng.permutation(len(base)) for _ in range(config.permutations)]
    others = [
        Structure(base.atomic_numbers[order], base.positions[order], base.name, base.charge, base.multiplicity)
        for order in orders
    ]
    return _Plan(
        base.name,
        ("permutation_energy_ev",),
        [base, *others],
        lambda energy, _: [float(np.abs(energy[1:] - energy[0]).max())],
    )


def _mirror(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    image = base.moved(base.positions * [1.0, 1.0, -1.0])
    return _Plan(base.name, ("mirror_energy_ev",), [base, image], lambda energy, _: [float(abs(energy[1] - energy[0]))])


def _pair(base: Structure, distance: float) -> Structure:
    """Two copies, ``distance`` Å apart along x."""
    return Structure(
        np.tile(base.atomic_numbers, 2),
        np.concatenate([base.positions, base.positions + np.array([distance, 0.0, 0.0])]),
        base.name,
        2 * base.charge,
        2 * base.multiplicity - 1,
    )


def _extensivity(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    return _Plan(
        base.name,
        ("extensivity_ev",),
        [base, _pair(base, config.copy_angstrom)],
        lambda energy, _: [float(abs(energy[1] - 2.0 * energy[0]))],
    )


def _locality(base: Structure, config: SymmetryConfig, rng: np.random.Generator) -> _Plan:
    return _Plan(
        base.name,
        ("locality_ev",),
        [_pair(base, distance) for distance in config.far_angstrom],
        lambda energy, _: [float(abs(energy[1] - energy[0]))],
    )


def _gradient(base: Structure, step: float) -> _Plan:
    n = 3 * len(base)
    displaced = []
    for k in range(n):
        unit = np.zeros(n)
        unit[k] = step
        displaced += [base.moved(base.positions + place * unit.reshape(-1, 3)) for place in _STENCIL]

    def finish(energy: FloatArray, forces: list[FloatArray]) -> Sequence[float]:
        weights = np.array(list(_STENCIL.values())) / step
        gradient = (energy[1:] - energy[0]).reshape(n, len(weights)) @ weights
        values = np.stack(forces[1:]).reshape(n, len(weights), n)
        jacobian = np.einsum("kws,w->sk", values, weights)
        size = float(np.linalg.norm(gradient))
        symmetric = float(np.linalg.norm(jacobian + jacobian.T))
        return (
            float(np.linalg.norm(forces[0].ravel() + gradient)) / size if size else float("nan"),
            float(np.linalg.norm(jacobian - jacobian.T)) / symmetric if symmetric else float("nan"),
        )

    return _Plan(base.name, ("force_gradient_error", "curl_asymmetry"), [base, *displaced], finish)


def environment_pairs() -> dict[str, tuple[Structure, Structure]]:
    """The pairs of the body-order tests, by name: planar and not, and one that distances alone cannot tell apart."""
    from mlip_studies.adequacy.environments import PLANAR, degenerate_environments, two_body_environments

    return {
        "CH4, equal distances and angles": degenerate_environments(),
        "planar CH4, equal distances and angles": degenerate_environments(*PLANAR),
        "H2O, equal distances": two_body_environments(),
    }


def _environments(pairs: Mapping[str, tuple[Structure, Structure]]) -> list[_Plan]:
    return [
        _Plan(name, ("body_order",), list(pair), lambda energy, _: [float(abs(energy[1] - energy[0]))])
        for name, pair in pairs.items()
    ]


def central_atoms(
    evaluator: Evaluator, pairs: Mapping[str, tuple[Structure, Structure]], config: SymmetryConfig
) -> list[dict[str, Any]]:
    """Difference of the energies of each pair's central atoms (atom 0); no lines for a potential that states none.

    A pair with an element that the potential does not know has none, too: ``body_order`` says so.
    """
    lines = []
    for name, pair in pairs.items():
        values = [evaluator.atomic_energies(each) for each in pair]
        if values[0] is not None and values[1] is not None:
            lines.append(_row(config, "body_order_central", name, float(abs(values[1][0] - values[0][0])), 2))
    return lines


_PLANS: tuple[tuple[tuple[str, ...], Callable[[Structure, SymmetryConfig, np.random.Generator], _Plan]], ...] = (
    (("rotation_energy_spread_ev", "force_equivariance"), _rigid),
    (("translation_energy_spread_ev",), _translation),
    (("permutation_energy_ev",), _permutation),
    (("mirror_energy_ev",), _mirror),
    (("extensivity_ev",), _extensivity),
    (("locality_ev",), _locality),
)


def rattled(molecule: Structure, deviation: float, rng: np.random.Generator) -> Structure:
    """The molecule with all atoms moved at random, by normal deviates of ``deviation``, Å."""
    return molecule.moved(molecule.positions + deviation * rng.normal(size=molecule.positions.shape))


def run_plans(evaluator: Evaluator, plans: Sequence[_Plan], config: SymmetryConfig) -> list[dict[str, Any]]:
    """Ask an evaluator for the structures of all plans at once, and finish each; lines of the table."""
    found = evaluator.evaluate([structure for plan in plans for structure in plan.structures])
    ends = np.cumsum([0, *(len(plan.structures) for plan in plans)])
    lines = []
    for plan, (start, stop) in zip(plans, pairwise(ends), strict=True):
        part = found.part(int(start), int(stop))
        status, message = _worst(part)
        values: Sequence[float] = [float("nan")] * len(plan.tests)
        if status == "ok":
            values = plan.finish(part.energy_ev, part.forces_ev_per_angstrom)
        for test, value in zip(plan.tests, values, strict=True):
            if test in config.tests:
                lines.append(_row(config, test, plan.molecule, value, len(part), status, message))
    return lines


def _worst(part: Evaluation) -> tuple[str, str]:
    """Status and message of the first structure that has no numbers."""
    for status, message in zip(part.status, part.message, strict=True):
        if status != "ok":
            return status, message
    return "ok", ""


def _row(
    config: SymmetryConfig, test: str, molecule: str, value: float, n: int, status: str = "ok", message: str = ""
) -> dict[str, Any]:
    limit = config.limit(test)
    return {
        "test": test,
        "molecule": molecule,
        "value": value,
        "unit": limit.unit,
        "limit": limit.value,
        "sense": limit.sense,
        "n": n,
        "status": status,
        "message": message,
    }


def drift(time: FloatArray, total: FloatArray) -> float:
    """Slope of the total energy, in its unit per unit of time.

    Least squares with the weights of a Hann window: what velocity Verlet adds to the energy swings with the bonds, and
    the plain slope of a short run would see where in a swing it began and ended.

    Args:
        time: shape (n,), equally spaced, at least 3, in any unit.
        total: energies, shape (n,), in any unit.
    """
    weight = np.hanning(len(time) + 2)[1:-1]
    centred = time - np.average(time, weights=weight)
    return float((weight * centred) @ (total - total.mean()) / ((weight * centred) @ centred))


def nve(evaluator: Evaluator, molecules: Sequence[Structure], config: SymmetryConfig) -> list[dict[str, Any]]:
    """Drift of the total energy of each molecule; all advance together, so that networks see one batch per step.

    Momenta are drawn at the temperature; those of the centre of mass are removed. A molecule whose energy or forces are
    lost on the way is marked and the others go on.
    """
    from ase.data import atomic_masses
    from ase.units import fs

    rng = np.random.default_rng(config.seed)
    # ASE's unit of time is Å sqrt(u/eV): with it, velocities in Å per unit and energies in eV go together.
    dt = config.nve_timestep_fs * fs
    current = list(molecules)
    masses = [atomic_masses[each.atomic_numbers][:, None] for each in current]
    velocities = []
    for mass in masses:
        velocity = rng.normal(size=(len(mass), 3)) * np.sqrt(BOLTZMANN_EV_PER_K * config.nve_temperature_k / mass)
        velocities.append(velocity - (mass * velocity).sum(axis=0) / mass.sum())
    found = evaluator.evaluate(current)
    forces = list(found.forces_ev_per_angstrom)
    state = list(zip(found.status, found.message, strict=True))
    alive = [index for index, (status, _) in enumerate(state) if status == "ok"]
    times: list[list[float]] = [[] for _ in current]
    totals: list[list[float]] = [[] for _ in current]

    def note(index: int, step: int, energy: float) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            total = energy + 0.5 * float((masses[index] * velocities[index] ** 2).sum())
        times[index].append(step * config.nve_timestep_fs / 1000.0)
        totals[index].append(total)
        return bool(np.isfinite(total))

    for index in alive:
        note(index, 0, float(found.energy_ev[index]))
    for step in range(1, config.nve_steps + 1):
        if not alive:
            break
        for index in alive:
            velocities[index] = velocities[index] + 0.5 * dt * forces[index] / masses[index]
            current[index] = _moved(current[index], current[index].positions + dt * velocities[index])
        found = evaluator.evaluate([current[index] for index in alive])
        still = []
        for place, index in enumerate(alive):
            if found.status[place] != "ok":
                state[index] = found.status[place], f"step {step}: {found.message[place]}"
                continue
            forces[index] = found.forces_ev_per_angstrom[place]
            velocities[index] = velocities[index] + 0.5 * dt * forces[index] / masses[index]
            if note(index, step, float(found.energy_ev[place])):
                still.append(index)
            else:
                state[index] = "failed", f"step {step}: the molecule flew apart, its energy is beyond all numbers"
        alive = still
    lines = []
    for index, molecule in enumerate(molecules):
        status, message = state[index]
        value = float("nan")
        if status == "ok":
            value = abs(drift(np.array(times[index]), np.array(totals[index]))) * EV_TO_MEV / len(molecule)
        test = "nve_drift_mev_per_atom_ps"
        lines.append(_row(config, test, molecule.name, value, config.nve_steps, status, message))
    return lines


def _moved(molecule: Structure, positions: FloatArray) -> Structure:
    """The molecule at other positions; where they have overflowed, atoms coincide, which every evaluator marks."""
    return molecule.moved(positions if np.isfinite(positions).all() else np.zeros_like(positions))


def symmetry_table(
    evaluator: Evaluator,
    molecules: Sequence[Structure],
    config: SymmetryConfig,
    environments: Mapping[str, tuple[Structure, Structure]] | None = None,
) -> list[dict[str, Any]]:
    """Lines of the table, see the module, in the order of the tests.

    Args:
        evaluator: of the potential.
        molecules: at their minima.
        config: what is tested.
        environments: pairs for the body-order tests, by name; none if not given.
    """
    plans = []
    for molecule in molecules:
        # One generator per molecule: no test depends on which others run.
        base = rattled(molecule, config.rattle_angstrom, np.random.default_rng((config.seed, len(molecule))))
        for number, (tests, make) in enumerate(_PLANS):
            if set(tests) & set(config.tests):
                plans.append(make(base, config, np.random.default_rng((config.seed, number))))
        if {"force_gradient_error", "curl_asymmetry"} & set(config.tests):
            plans.append(_gradient(base, _STEP[evaluator.precision]))
    if "body_order" in config.tests:
        plans += _environments(environments or {})
    lines = run_plans(evaluator, plans, config)
    if "body_order_central" in config.tests:
        lines += central_atoms(evaluator, environments or {}, config)
    if "nve_drift_mev_per_atom_ps" in config.tests:
        lines += nve(evaluator, molecules, config)
    order = list(LIMITS)
    return sorted(lines, key=lambda line: order.index(line["test"]))


def symmetry_report(
    entry: Mapping[str, Any], precision: str, output: PathLike, settings: Mapping[str, Any] | None = None
) -> None:
    """Test one potential and write the CSV, see the module for its columns.

    Args:
        entry: of the potential, see :mod:`mlip_studies.adequacy.potentials`.
        precision: float64 or float32.
        output: CSV file.
        settings: fields of :class:`SymmetryConfig`.

    Raises:
        InputError: a potential that cannot be run here, or a mistake in the settings.
    """
    import pandas as pd

    from mlip_studies.adequacy.scans import start_structure

    evaluator = open_evaluator(entry, precision)
    config = symmetry_config(settings or {}, evaluator.family)
    molecules = [start_structure(name) for name in config.molecules]
    lines = symmetry_table(evaluator, molecules, config, environment_pairs())
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    write_text(output, table.to_csv(index=False, lineterminator="\n", float_format="%.10g"))
