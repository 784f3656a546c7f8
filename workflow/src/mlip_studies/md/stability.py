"""When a trajectory is no longer that of its molecule.

The criterion for bonds is that of X. Fu et al., "Forces are not enough: benchmark and critical evaluation for machine
learning force fields with molecular simulations", Transactions on Machine Learning Research (2023), for flexible
molecules: a simulation is unstable from the time t on at which

    max over bonds (i, j) of | |r_i(t) - r_j(t)| - b_ij |  >  0.5 Å.

There b_ij is the bond's equilibrium length; here it is the bond's length in the start structure, which is why dynamics
should start near a minimum. Three more conditions, which are ours, end a trajectory before it disturbs anything else:
numbers that are not finite, a temperature far beyond the thermostat's, and atoms that fall into each other.

Which of them end a trajectory can be chosen (:attr:`StabilityConfig.ending`); the others are noted when they first hold
and the trajectory goes on. S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022) sampled molecules that had
fallen apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.elements import symbols
from mlip_studies.graph.batch import Budget, all_pairs
from mlip_studies.graph.scatter import gather, scatter_sum

#: two atoms are bonded if they are closer than this times the sum of their covalent radii
BOND_FACTOR = 1.3
#: names of what can end a trajectory; the first that holds is its reason
REASONS = ("not_finite", "collision", "broken_bond", "temperature")
#: Å. Atoms closer than this, in the network's precision, end a trajectory whatever is chosen: a network cannot be asked
#: about atoms at one place (see :data:`mlip_studies.models.checks.MIN_DISTANCE`).
COINCIDENT_ANGSTROM = 0.01


@dataclass(frozen=True)
class StabilityConfig:
    """Limits of a trajectory.

    Attributes:
        bond_deviation_angstrom: largest change of a bond's length, Å.
        max_temperature_factor: largest temperature of an instant, in units of the nominal one. Even a single atom
            exceeds ten times its temperature by chance in one of a million samples only, a molecule never. A start at
            rest (0 K) has no such limit.
        min_distance_angstrom: smallest distance of two atoms, Å.
        ending: which of :data:`REASONS` end a trajectory, ``not_finite`` always among them.
    """

    bond_deviation_angstrom: float = 0.5
    max_temperature_factor: float = 10.0
    min_distance_angstrom: float = 0.3
    ending: tuple[str, ...] = REASONS


def find_bonds(atomic_numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> NDArray[np.int64]:
    """Pairs of atoms closer than 1.3 times the sum of their covalent radii.

    The radii are ASE's: B. Cordero et al., Dalton Trans. 2008, 2832.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.

    Returns:
        the atoms of each bond, the smaller number first, shape (n_bonds, 2).
    """
    from ase import Atoms
    from ase.neighborlist import natural_cutoffs, neighbor_list

    atoms = Atoms(numbers=atomic_numbers, positions=positions)
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND_FACTOR))
    pairs = np.stack([i, j], axis=1).astype(np.int64)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[np.lexsort(pairs.T[::-1])]


class Watch:
    """Looks at all molecules of a batch at once, on their device.

    Attributes:
        config: the limits.
    """

    def __init__(
        self,
        config: StabilityConfig,
        counts: NDArray[np.integer],
        bonds: list[NDArray[np.int64]],
        lengths: list[NDArray[np.float64]],
        temperature_k: NDArray[np.float64],
        device: torch.device,
        precision: torch.dtype = torch.float64,
    ) -> None:
        """Put everything on the device.

        Args:
            config: the limits.
            counts: atoms of each molecule, shape (n_molecules,).
            bonds: of each molecule, shape (n_bonds, 2), atoms counted within the molecule.
            lengths: of these bonds at the start, Å.
            temperature_k: nominal temperature of each molecule, K, shape (n_molecules,).
            device: where the positions are.
            precision: of the positions that the network sees.
        """
        self.config = config
        self._precision = precision
        self._ends = [reason in config.ending for reason in REASONS]
        counts = np.asarray(counts, dtype=np.int64)
        first = np.cumsum(counts) - counts
        self._size = len(counts)
        owner = np.repeat(np.arange(self._size), [len(each) for each in bonds])
        atoms = np.concatenate([each + offset for each, offset in zip(bonds, first, strict=True)]).reshape(-1, 2)
        self._bond_owner = torch.as_tensor(owner, device=device)
        self._bond_i, self._bond_j = (torch.as_tensor(atoms[:, k].copy(), device=device) for k in (0, 1))
        self._length = torch.as_tensor(np.concatenate(lengths), dtype=torch.float64, device=device)
        _, n_pairs, _ = Budget.of_counts(counts)
        self._pair_i, self._pair_j = all_pairs(torch.as_tensor(counts, device=device), n_pairs)
        self._graph = torch.as_tensor(np.repeat(np.arange(self._size), counts), device=device)
        nominal = torch.as_tensor(temperature_k, device=device)
        self._hottest = torch.where(nominal > 0, config.max_temperature_factor * nominal, torch.inf)

    def _any(self, flags: Tensor, owner: Tensor) -> Tensor:
        return scatter_sum(flags.to(torch.float64), owner, self._size) > 0

    def look(
        self, positions: Tensor, momenta: Tensor, forces: Tensor, energy: Tensor, temperature_k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is wrong with each molecule.

        Args:
            positions: shape (n_atoms, 3), Å.
            momenta: shape (n_atoms, 3), amu Å per unit of time of torch-sim.
            forces: shape (n_atoms, 3), eV/Å.
            energy: shape (n_molecules,), eV.
            temperature_k: of this instant, K, shape (n_molecules,).

        Returns:
            number of the first of :data:`REASONS` that holds and ends a trajectory, -1 if none does, and the sum of
            2**number over all that hold, both of shape (n_molecules,), int64.
        """
        seen = positions.to(self._precision).double()
        atoms = torch.cat([positions, momenta, forces, seen], dim=1)
        not_finite = self._any(~atoms.isfinite().all(dim=1), self._graph) | ~energy.isfinite()
        owner = gather(self._graph, self._pair_i)
        distance = self._distance(positions, self._pair_i, self._pair_j)
        collision = self._any(distance < self.config.min_distance_angstrom, owner)
        change = (self._distance(positions, self._bond_i, self._bond_j) - self._length).abs()
        broken = self._any(change > self.config.bond_deviation_angstrom, self._bond_owner)
        hot = temperature_k > self._hottest
        flags = (not_finite, collision, broken, hot)
        reason = torch.full_like(not_finite, -1, dtype=torch.int64)
        for number, holds in reversed(list(enumerate(flags))):
            if self._ends[number]:
                reason = torch.where(holds, number, reason)
        together = torch.zeros_like(not_finite)
        if not all(self._ends):
            together = self._any(self._distance(seen, self._pair_i, self._pair_j) < COINCIDENT_ANGSTROM, owner)
            reason = torch.where(together & (reason < 0), REASONS.index("collision"), reason)
        held = torch.zeros_like(reason)
        for number, holds in enumerate((not_finite, collision | together, broken, hot)):
            held += 2**number * holds.to(torch.int64)
        return reason, held

    @staticmethod
    def _distance(positions: Tensor, i: Tensor, j: Tensor) -> Tensor:
        lengths: Tensor = (gather(positions, i) - gather(positions, j)).norm(dim=1)
        return lengths


def describe_end(
    reason: str,
    atomic_numbers: NDArray[np.integer],
    positions: NDArray[np.floating],
    bonds: NDArray[np.int64],
    lengths: NDArray[np.float64],
    temperature_k: float,
) -> str:
    """What happened at the end of a trajectory, in words.

    Args:
        reason: one of :data:`REASONS`.
        atomic_numbers: shape (n_atoms,).
        positions: at the end, shape (n_atoms, 3), Å.
        bonds: shape (n_bonds, 2).
        lengths: of the bonds at the start, shape (n_bonds,), Å.
        temperature_k: at the end, K.
    """
    names = [f"{symbol}{index}" for index, symbol in enumerate(symbols(atomic_numbers))]
    if reason == "broken_bond":
        now = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
        worst = int(np.argmax(np.abs(now - lengths)))
        i, j = bonds[worst]
        return f"{names[i]}-{names[j]} is {now[worst]:.2f} Å long, {lengths[worst]:.2f} Å at the start"
    if reason == "collision":
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
        i, j = np.unravel_index(np.argmin(distance + np.diag(np.full(len(distance), np.inf))), distance.shape)
        return f"{names[i]} and {names[j]} are {distance[i, j]:.2f} Å apart"
    if reason == "temperature":
        return f"temperature of {temperature_k:.0f} K"
    return "positions, momenta, forces or energy are not finite numbers"
