"""Fields that are hard to converge: plain DIIS, then level shift and damping, then a second-order solver.

Plain DIIS with a stated limit of cycles is what a convergence rate means. What it leaves is tried again from its last
density with a level shift and damping, which the second-order solver then brings to the end. That solver must not start
from a guess: for stretched bonds it then converges, without a warning, to a state far above. A converged restricted
field of a molecule in pieces is still no trustworthy energy, as the bond has no way to break evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.dft.levels import DFT_LEVELS, DFTLevel
from mlip_studies.dft.run import build_molecule, complete_field, mean_field, on_gpu

LEVEL_SHIFT_HARTREE = 0.5
DAMPING = 0.3
#: cycles of the steps after plain DIIS
SHIFT_CYCLES = 100
SECOND_ORDER_CYCLES = 100
#: share of the memory limit that PySCF may plan its blocks with
MEMORY_SHARE = 0.7
STRATEGIES = ("diis", "level_shift", "newton")


@dataclass
class Field:
    """A Kohn-Sham field after the ladder.

    Attributes:
        mf: PySCF's object, on the backend it was converged on.
        converged: whether any step converged.
        strategy: the step that did, one of :data:`STRATEGIES`; ``none`` if none did.
        cycles: of all steps together.
        energy: of the last step, hartree, without a many-body dispersion energy.
        plain_energy: of plain DIIS, hartree; means nothing if that did not converge.
    """

    mf: Any
    converged: bool
    strategy: str
    cycles: int
    energy: float
    plain_energy: float


def converge(
    mol: Any,
    level: DFTLevel,
    ladder: bool = True,
    backend: str = "cpu",
    unrestricted: bool = False,
    guess: NDArray[np.float64] | None = None,
) -> Field:
    """Converge a field, by the ladder if plain DIIS does not within the level's limit of cycles.

    All backends start from PySCF's own guess, so that their convergence rates mean the same. The second-order solver
    always runs on the CPU.

    Args:
        mol: PySCF's molecule.
        level: the level of theory.
        ladder: try further than plain DIIS.
        backend: ``cpu`` or ``gpu``.
        unrestricted: orbitals of their own for each spin also without unpaired electrons.
        guess: density to start from instead, shape (n_basis, n_basis), of both spins (2, n_basis, n_basis).
    """
    plain = mean_field(mol, level, unrestricted)
    guess = plain.get_init_guess(mol) if guess is None else guess
    mf, cycles = _iterate(on_gpu(plain) if backend == "gpu" else plain, guess)
    plain_energy = energy = float(mf.e_tot)
    if mf.converged and np.isfinite(energy):
        return Field(mf, True, "diis", cycles, energy, plain_energy)
    if ladder:
        density = _density(mf)
        if not np.isfinite(density).all():
            density = guess
        shifted = mean_field(mol, level, unrestricted)
        shifted = on_gpu(shifted) if backend == "gpu" else shifted
        shifted.level_shift, shifted.damp, shifted.max_cycle = LEVEL_SHIFT_HARTREE, DAMPING, SHIFT_CYCLES
        mf, more = _iterate(shifted, density)
        cycles, energy = cycles + more, float(mf.e_tot)
        if mf.converged and np.isfinite(energy):
            return Field(mf, True, "level_shift", cycles, energy, plain_energy)
        density = _density(mf)
        if np.isfinite(density).all():
            second = mean_field(mol, level, unrestricted).newton()
            second.max_cycle = SECOND_ORDER_CYCLES
            mf, more = _iterate(second, density)
            cycles, energy = cycles + more, float(mf.e_tot)
            if mf.converged and np.isfinite(energy):
                return Field(mf, True, "newton", cycles, energy, plain_energy)
    return Field(mf, False, "none", cycles, energy, plain_energy)


def _iterate(mf: Any, density: NDArray[np.float64]) -> tuple[Any, int]:
    """Run a solver from a density; returns it and the number of its cycles."""
    counted = 0

    def count(_: Any) -> None:
        nonlocal counted
        counted += 1

    mf.callback = count
    mf.kernel(dm0=density)
    mf.callback = None
    return mf, max(counted, int(getattr(mf, "cycles", 0) or 0))


def _density(mf: Any) -> NDArray[np.float64]:
    density = mf.make_rdm1()
    return np.asarray(density.get() if hasattr(density, "get") else density)


def warm_up() -> None:
    """Import what :func:`calculate` needs."""
    import pyscf.dft
    import pyscf.grad
    import pyscf.soscf  # noqa: F401


def calculate(task: Mapping[str, Any]) -> dict[str, Any]:
    """One calculation of a worker process, in plain values.

    Args:
        task: either ``element`` (chemical symbol) and ``level`` (name), for an isolated atom; or ``atomic_numbers``
            (n_atoms,), ``positions`` (n_atoms, 3) in Å, ``level``, ``max_cycle``, ``ladder``, ``forces``, ``backend``
            and ``memory_limit_mb``, for an uncharged closed-shell molecule.

    Returns:
        for an atom ``energy`` (hartree, NaN if unconverged) and ``status``
        (:class:`~mlip_studies.dft.atoms.AtomEnergy`); for a molecule ``converged``, ``strategy``, ``cycles``,
        ``n_basis``, ``plain_energy``, ``energy``, ``energy_scf`` and ``energy_mbd`` (hartree; NaN as far as they do not
        exist), ``forces`` (n_atoms, 3) in hartree/Å or None, and ``detail``. Molecules whose numbers break down within
        the solver are unconverged.

    Raises:
        RuntimeError: atoms lie on top of each other, or a free atom of the dispersion correction does not converge.
    """
    if "element" in task:
        from mlip_studies.dft.atoms import isolated_atom

        atom = isolated_atom(task["element"], task["level"])
        return {"energy": atom.energy if atom.converged else float("nan"), "status": atom.status}
    level = replace(DFT_LEVELS[task["level"]], max_cycle=task["max_cycle"])
    numbers, positions = np.asarray(task["atomic_numbers"]), np.asarray(task["positions"], dtype=np.float64)
    memory = MEMORY_SHARE * task["memory_limit_mb"]
    mol = build_molecule(numbers, positions, level.basis, level.cartesian, max_memory=memory)
    nothing = float("nan")
    result: dict[str, Any] = {
        "converged": False, "strategy": "none", "cycles": 0, "n_basis": int(mol.nao), "plain_energy": nothing,
        "energy": nothing, "energy_scf": nothing, "energy_mbd": nothing, "forces": None, "detail": "",
    }  # fmt: skip
    try:
        field = converge(mol, level, task["ladder"], task["backend"])
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        return {**result, "detail": " ".join(f"{type(error).__name__}: {error}".split())}
    result |= {"strategy": field.strategy, "cycles": field.cycles, "plain_energy": field.plain_energy}
    if not field.converged:
        return result
    energy, forces, parts = complete_field(field.mf, field.energy, numbers, positions, level, task["forces"])
    result |= {"energy_scf": parts["energy_scf"], "energy_mbd": parts.get("energy_mbd", 0.0)}
    if not np.isfinite(energy):
        return {**result, "detail": "the field converged, but its many-body dispersion has no solution"}
    finite = forces if task["forces"] else None
    return {**result, "converged": True, "energy": energy, "forces": finite}
