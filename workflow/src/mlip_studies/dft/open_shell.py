"""Spin states of a molecule whose bonds break: restricted, broken-symmetry and triplet fields, with a stability check.

A restricted field keeps every pair of electrons in one orbital and therefore ends far above two free fragments. An
unrestricted field with as many electrons of either spin can leave that (J. Coulson and I. Fischer, Phil. Mag. 40, 386
(1949)), but only from a start that tells the spins apart: the highest occupied and the lowest empty orbital mixed in
opposite ways for the two spins, or free atoms with opposite spins, or the field of a neighbouring geometry. What is
found is checked against all orbital rotations and followed downhill as long as one lowers the energy. The energy is
that of the determinant; no spin projection is applied, and <S^2> says how far the spin is from pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.dft.ladder import MEMORY_SHARE, converge
from mlip_studies.dft.levels import DFT_LEVELS, DFTLevel
from mlip_studies.dft.run import build_molecule, complete_field, mean_field
from mlip_studies.elements import symbol

FloatArray = NDArray[np.float64]

#: spin state -> number of unpaired electrons
STATES = {"restricted": 0, "broken_symmetry": 0, "triplet": 2}
#: curvatures of the energy against orbital rotations above this count as none, hartree: free atoms turn their open
#: shells at no cost, and what a smaller curvature can gain, its square over that of the next order, is below 1e-5
STABLE_CURVATURE = -1e-3
#: a triplet so far above the other states is not followed further, hartree
TRIPLET_WINDOW_HARTREE = 0.03
#: convergence of energies, hartree; free atoms turn their open shells for many cycles more
CONVERGENCE_HARTREE = 1e-8
#: grid of that check
CURVATURE_GRID = 1
#: limit of the second-order solver from an unstable field
SECOND_ORDER_CYCLES = 30
#: times that an unstable field is followed downhill
STABILITY_ROUNDS = 3
#: a field from another start must lie so much lower to replace one, hartree
LOWER_HARTREE = 1e-7
#: fields with a smaller <S^2> have not left the restricted one
PAIRED_S_SQUARED = 1e-4


@dataclass
class SpinState:
    """A field of one spin state.

    Attributes:
        mf: PySCF's object.
        energy: with dispersion, hartree; NaN if unconverged.
        converged: whether the field converged.
        s_squared: expectation value of the squared spin; 0 of a restricted field.
        cycles: of all starts and steps together.
        guess: the start that led there: ``atoms``, ``mixed``, ``fragments`` or the name of a neighbour.
        stable: no orbital rotation lowers the energy; None if that was not asked for.
    """

    mf: Any
    energy: float
    converged: bool
    s_squared: float
    cycles: int
    guess: str
    stable: bool | None = None


def mixed_guess(orbitals: FloatArray, n_pairs: int) -> FloatArray:
    """Density with the highest occupied and the lowest empty orbital mixed half and half.

    Args:
        orbitals: shape (n_basis, n_orbitals), ordered by energy.
        n_pairs: number of occupied orbitals; at least one orbital must be empty.

    Returns:
        of both spins, shape (2, n_basis, n_basis); (HOMO + LUMO) / sqrt 2 for one, (HOMO - LUMO) / sqrt 2 for the
        other.
    """
    densities = []
    for sign in (1.0, -1.0):
        occupied = np.array(orbitals[:, :n_pairs])
        occupied[:, -1] = (orbitals[:, n_pairs - 1] + sign * orbitals[:, n_pairs]) / np.sqrt(2.0)
        densities.append(occupied @ occupied.T)
    return np.array(densities)


def fragment_guess(atomic_numbers: Sequence[int], level: DFTLevel) -> FloatArray | None:
    """Density of two like free atoms with opposite spins, for a diatomic.

    Args:
        atomic_numbers: shape (2,).
        level: the level of theory.

    Returns:
        of both spins, shape (2, n_basis, n_basis); None if the atoms have no unpaired electrons or differ.
    """
    from mlip_studies.dft.atoms import ground_state_spin

    first, second = (int(z) for z in atomic_numbers)
    spin = ground_state_spin(symbol(first))
    if first != second or not spin:
        return None
    mol = build_molecule(np.array([first]), np.zeros((1, 3)), level.basis, level.cartesian, spin=spin)
    more, fewer = np.asarray(converge(mol, level).mf.make_rdm1())
    n = len(more)
    density = np.zeros((2, 2 * n, 2 * n))
    density[0, :n, :n], density[0, n:, n:] = more, fewer
    density[1, :n, :n], density[1, n:, n:] = fewer, more
    return density


def occupied_orbitals(mf: Any) -> list[FloatArray]:
    """Occupied orbitals of a field, shape (n_basis, n_occupied), of one spin or both."""
    coefficients, occupations = np.asarray(mf.mo_coeff), np.asarray(mf.mo_occ)
    if coefficients.ndim == 2:
        return [coefficients[:, occupations > 0]]
    return [c[:, occupation > 0] for c, occupation in zip(coefficients, occupations, strict=True)]


def neighbour_guess(orbitals: Sequence[FloatArray], overlap: FloatArray) -> FloatArray:
    """Density of the occupied orbitals of another geometry, made orthonormal at this one.

    Args:
        orbitals: occupied, each shape (n_basis, n_occupied), of one spin or both.
        overlap: of the basis at this geometry, shape (n_basis, n_basis).

    Returns:
        shape (n_basis, n_basis) for paired electrons, of both spins (2, n_basis, n_basis).
    """
    densities = []
    for occupied in orbitals:
        if not occupied.shape[1]:
            densities.append(np.zeros_like(overlap))
            continue
        values, vectors = np.linalg.eigh(occupied.T @ overlap @ occupied)
        orthonormal = occupied @ (vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T
        densities.append(orthonormal @ orthonormal.T)
    return 2.0 * densities[0] if len(densities) == 1 else np.array(densities)


def softest_rotation(mf: Any) -> tuple[float, FloatArray]:
    """Lowest curvature of the energy against real rotations of unrestricted orbitals.

    The start vector is irregular: one that keeps a symmetry of the field, such as that between the spins, never leaves
    it, and PySCF's own check then calls a restricted field stable where it is not.

    Args:
        mf: a converged unrestricted object.

    Returns:
        the curvature in hartree and the rotation, shape (n_rotations,), those of the first spin before the second.
    """
    from pyscf import lib
    from pyscf.dft import gen_grid
    from pyscf.soscf import newton_ah

    # A sign is wanted, not digits: a coarse grid makes the products several times as fast.
    mf = mf.copy()
    mf.grids = gen_grid.Grids(mf.mol)
    mf.grids.level = CURVATURE_GRID
    gradient, product, diagonal = newton_ah.gen_g_hop_uhf(mf, mf.mo_coeff, mf.mo_occ, with_symmetry=False)
    diagonal = 2.0 * np.asarray(diagonal)

    def precondition(residual: FloatArray, value: float, _: FloatArray) -> FloatArray:
        shifted = diagonal - value
        shifted[np.abs(shifted) < 1e-8] = 1e-8
        return residual / shifted

    irregular = np.random.default_rng(0).normal(size=len(gradient))
    start = irregular / np.maximum(np.abs(diagonal), 0.05)
    start /= np.linalg.norm(start)
    value, vector = lib.davidson(lambda x: 2.0 * np.real(product(x)), start, precondition, tol=1e-5, max_cycle=50)
    return float(np.ravel(value)[0]), np.asarray(vector).reshape(-1)


def follow_down(mf: Any, level: DFTLevel) -> tuple[Any, int, bool]:
    """Leave an unrestricted field that is no minimum, along its softest rotation.

    Args:
        mf: a converged unrestricted object.
        level: its level of theory.

    Returns:
        the object at the lowest energy found, the number of cycles, and whether it is a minimum.
    """
    from pyscf.scf.stability import _rotate_mo

    cycles = 0
    for _ in range(STABILITY_ROUNDS):
        curvature, rotation = softest_rotation(mf)
        if curvature > STABLE_CURVATURE:
            return mf, cycles, True
        sizes = [int(np.sum(occupation > 0) * np.sum(occupation == 0)) for occupation in mf.mo_occ]
        parts = np.split(rotation, [sizes[0]])
        orbitals = [
            _rotate_mo(c, occupation, part) if len(part) else c
            for c, occupation, part in zip(mf.mo_coeff, mf.mo_occ, parts, strict=True)
        ]
        density = mf.make_rdm1(np.array(orbitals), mf.mo_occ)
        field = converge(mf.mol, level, ladder=False, unrestricted=True, guess=density)
        cycles, lower = cycles + field.cycles, field.mf
        if not field.converged or not field.energy < mf.e_tot - LOWER_HARTREE:
            # DIIS may climb back to the saddle; the second-order solver may not.
            lower = mean_field(mf.mol, level, unrestricted=True).newton()
            lower.max_cycle = SECOND_ORDER_CYCLES
            lower.kernel(mo_coeff=np.array(orbitals), mo_occ=mf.mo_occ)
            cycles += int(getattr(lower, "cycles", 0) or 0)
        if not lower.converged:
            return mf, cycles, False
        if not lower.e_tot < mf.e_tot - LOWER_HARTREE:
            return mf, cycles, True
        mf = _plain(lower, level)
    return mf, cycles, softest_rotation(mf)[0] > STABLE_CURVATURE


def _plain(mf: Any, level: DFTLevel) -> Any:
    """An object without the second-order solver that holds the same field."""
    copy = mean_field(mf.mol, level, unrestricted=True)
    copy.mo_coeff, copy.mo_occ, copy.mo_energy = mf.mo_coeff, mf.mo_occ, mf.mo_energy
    copy.e_tot, copy.converged, copy.scf_summary = float(mf.e_tot), bool(mf.converged), dict(mf.scf_summary)
    return copy


def spin_state(
    mol: Any,
    level: DFTLevel,
    state: str,
    guesses: Mapping[str, FloatArray | None],
    must_beat: float = np.inf,
    stability: bool = True,
) -> SpinState:
    """The lowest field of a spin state from several starts.

    Args:
        mol: PySCF's molecule, with the state's number of unpaired electrons.
        level: the level of theory.
        state: one of :data:`STATES`.
        guesses: start density by name, shape (n_basis, n_basis) or (2, n_basis, n_basis); None for PySCF's
            superposition of atoms.
        must_beat: electronic energy in hartree; if no start comes lower, the check of the stability is left out.
        stability: check unrestricted fields and follow them down.

    Returns:
        the state; its energy is that of the field alone, without many-body dispersion.

    Raises:
        ValueError: no guesses.
    """
    if not guesses:
        raise ValueError(f"state {state}: no start to converge it from")
    unrestricted = state != "restricted"
    best: SpinState | None = None
    cycles = 0
    # The slow steps after plain DIIS are for states that no start converges to without them.
    for ladder in (False, True):
        for name, guess in guesses.items():
            field = converge(mol, level, ladder, unrestricted=unrestricted, guess=guess)
            cycles += field.cycles
            found = SpinState(field.mf, field.energy if field.converged else np.nan, field.converged, 0.0, 0, name)
            if best is None or (found.converged and not found.energy >= best.energy - LOWER_HARTREE):
                best = found
        if best is not None and best.converged:
            break
    assert best is not None
    if unrestricted and best.converged and stability and best.energy < must_beat - LOWER_HARTREE:
        start = best.mf if not hasattr(best.mf, "undo_soscf") else _plain(best.mf, level)
        best.mf, more, best.stable = follow_down(start, level)
        best.energy, cycles = float(best.mf.e_tot), cycles + more
    if unrestricted and best.converged:
        best.s_squared = float(best.mf.spin_square()[0])
    best.cycles = cycles
    return best


def warm_up() -> None:
    """Import what :func:`calculate` needs."""
    import pyscf.dft
    import pyscf.grad
    import pyscf.scf.stability
    import pyscf.soscf  # noqa: F401


def read_orbitals(path: Path, state: str) -> list[FloatArray]:
    """Occupied orbitals (n_basis, n_occupied) of a state's spins as :func:`calculate` wrote them; empty without any."""
    with np.load(path) as stored:
        return [stored[f"{state}_{spin}"] for spin in ("a", "b") if f"{state}_{spin}" in stored]


def calculate(task: Mapping[str, Any]) -> dict[str, Any]:
    """One geometry in several spin states, or one isolated atom; what a worker process calls, in plain values.

    Args:
        task: either ``element`` (chemical symbol) and ``level`` (name); or ``atomic_numbers`` (n_atoms,), ``positions``
            (n_atoms, 3) in Å, ``charge``, ``level``, ``states`` (names in :data:`STATES`), ``neighbours`` (by state,
            a list of (name, path of orbitals); without any, the molecule starts from atoms), ``known`` (by state, the
            energy in hartree that is to be beaten), ``forces``, ``orbitals`` (path to write to) and
            ``memory_limit_mb``.

    Returns:
        for an atom ``energy`` (hartree, NaN if unconverged) and ``status``; for a molecule ``states``, by name
        ``energy`` (hartree, NaN if unconverged), ``converged``, ``s_squared``, ``cycles``, ``guess``, ``stable`` and
        ``forces`` (n_atoms, 3) in hartree/Å or None. States that do not beat what is known are left out.
    """
    if "element" in task:
        from mlip_studies.dft.atoms import isolated_atom

        atom = isolated_atom(task["element"], task["level"])
        return {"energy": atom.energy if atom.converged else float("nan"), "status": atom.status}
    level = replace(DFT_LEVELS[task["level"]], conv_tol=CONVERGENCE_HARTREE)
    numbers, positions = np.asarray(task["atomic_numbers"]), np.asarray(task["positions"], dtype=np.float64)
    memory = MEMORY_SHARE * task["memory_limit_mb"]
    results: dict[str, dict[str, Any]] = {}
    stored: dict[str, FloatArray] = {}
    restricted: SpinState | None = None
    lowest = np.inf
    walking = bool(task["neighbours"])
    for state in sorted(task["states"], key=list(STATES).index):
        mol = build_molecule(
            numbers, positions, level.basis, level.cartesian, task["charge"], STATES[state], max_memory=memory
        )
        near = task["neighbours"].get(state, ())
        if walking and not near:
            continue
        guesses: dict[str, FloatArray | None] = {}
        if near:
            overlap = mol.intor_symmetric("int1e_ovlp")
            for name, path in near:
                orbitals = read_orbitals(Path(path), state)
                if orbitals:
                    guesses[name] = neighbour_guess(orbitals, overlap)
        elif state == "broken_symmetry":
            guesses = _broken_guesses(mol, level, numbers, restricted)
        else:
            guesses = {"atoms": None}
        if not guesses:
            continue
        known = task["known"].get(state, np.inf)
        # A triplet far above the broken-symmetry state is a stretched bond's, for which no effort pays.
        must_beat = min(known, lowest + TRIPLET_WINDOW_HARTREE) if state == "triplet" else known
        if level.dispersion == "mbd":  # what is known holds more than the field's energy
            must_beat = np.inf
        try:
            found = spin_state(mol, level, state, guesses, must_beat)
        except (np.linalg.LinAlgError, FloatingPointError) as error:
            results[state] = _empty(" ".join(f"{type(error).__name__}: {error}".split()))
            continue
        restricted = found if state == "restricted" else restricted
        if not found.converged:
            if not walking:
                results[state] = _empty("the field did not converge", found)
            continue
        lowest = min(lowest, found.energy)
        energy, forces, _ = complete_field(found.mf, found.energy, numbers, positions, level, task["forces"])
        if not np.isfinite(energy):
            results[state] = _empty("the field converged, but its many-body dispersion has no solution", found)
            continue
        if not energy < known - LOWER_HARTREE:
            continue
        results[state] = {
            "energy": float(energy), "converged": True, "s_squared": found.s_squared, "cycles": found.cycles,
            "guess": found.guess, "stable": found.stable, "forces": forces if task["forces"] else None, "detail": "",
        }  # fmt: skip
        for spin, occupied in zip(("a", "b"), occupied_orbitals(found.mf), strict=False):
            stored[f"{state}_{spin}"] = occupied
    if stored:
        _save(Path(task["orbitals"]), stored)
    return {"states": results}


def _broken_guesses(
    mol: Any, level: DFTLevel, numbers: NDArray[np.integer], restricted: SpinState | None
) -> dict[str, FloatArray | None]:
    """Starts that tell the spins apart, by name."""
    if restricted is None:
        restricted = spin_state(mol, level, "restricted", {"atoms": None})
    guesses: dict[str, FloatArray | None] = {}
    if len(numbers) == 2 and mol.charge == 0:
        fragments = fragment_guess(numbers.tolist(), level)
        if fragments is not None:
            guesses["fragments"] = fragments
    # The orbitals of an unconverged field need not be in order, but a start may be rough.
    orbitals, n_pairs = np.asarray(restricted.mf.mo_coeff), mol.nelectron // 2
    if n_pairs < orbitals.shape[1]:
        guesses["mixed"] = mixed_guess(orbitals, n_pairs)
    return guesses


def _empty(detail: str, found: SpinState | None = None) -> dict[str, Any]:
    return {
        "energy": float("nan"), "converged": False, "s_squared": float("nan"),
        "cycles": found.cycles if found is not None else 0, "guess": found.guess if found is not None else "",
        "stable": None, "forces": None, "detail": detail,
    }  # fmt: skip


def _save(path: Path, arrays: Mapping[str, FloatArray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    content: dict[str, Any] = dict(arrays)
    np.savez(temporary, **content)
    os.replace(temporary, path)
