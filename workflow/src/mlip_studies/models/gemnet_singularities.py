"""Numbers that show where GemNet-Q is not smooth, and that the option ``smooth_quadruplets`` removes it.

Two molecules suffice (see :mod:`mlip_studies.models.gemnet` for the reasons): in planar ethylene a hydrogen atom leaves
the plane, where the energy has a cusp; in acetonitrile the nitrogen atom leaves the line of its C–C≡N, where the energy
depends on the direction and forces grow without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.graph.batch import make_batch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.gemnet import GemNetQ, GemNetT

#: planar, in the x-y plane, Å; atom 2 is the hydrogen atom that moves
ETHYLENE = (
    (6, 6, 1, 1, 1, 1),
    (
        (0.6695, 0.0, 0.0),
        (-0.6695, 0.0, 0.0),
        (1.2321, 0.9289, 0.0),
        (1.2321, -0.9289, 0.0),
        (-1.2321, 0.9289, 0.0),
        (-1.2321, -0.9289, 0.0),
    ),
)
#: C–C≡N along z, Å; atom 2 is the nitrogen atom that moves
ACETONITRILE = (
    (6, 6, 7, 1, 1, 1),
    (
        (0.0, 0.0, -1.1864),
        (0.0, 0.0, 0.2738),
        (0.0, 0.0, 1.4526),
        (0.0, 1.0247, -1.5622),
        (0.8874, -0.5124, -1.5622),
        (-0.8874, -0.5124, -1.5622),
    ),
)
#: geometries of one batch
AT_ONCE = 16
#: the models that are compared: name and how to make one
VARIANTS: dict[str, Callable[[], AtomisticModel]] = {
    "GemNet-T": GemNetT,
    "GemNet-Q": GemNetQ,
    "GemNet-Q, smooth": lambda: GemNetQ(smooth_quadruplets=True),
}


@dataclass(frozen=True)
class OutOfPlane:
    """Ethylene with one hydrogen atom above its plane.

    Attributes:
        height: of the atom, shape (n,), Å.
        energy: relative to the planar molecule's, shape (n,), eV.
        force: on the atom along the normal, shape (n,), eV/Å.
    """

    height: NDArray[np.float64]
    energy: NDArray[np.float64]
    force: NDArray[np.float64]

    @property
    def jump(self) -> float:
        """Difference of the forces next to the plane, above minus below, eV/Å: 0 for a smooth energy."""
        above, below = self.height > 0.0, self.height < 0.0
        first, last = np.argmin(self.height[above]), np.argmax(self.height[below])
        return float(self.force[above][first] - self.force[below][last])


@dataclass(frozen=True)
class OffLine:
    """Acetonitrile with its nitrogen atom beside the line C–C.

    Attributes:
        distance: ρ from the line, shape (n,), Å.
        direction: of the displacement around the line, shape (k,), rad.
        energy: relative to the linear molecule's, shape (n, k), eV.
        largest_force: norm of the largest force on an atom, shape (n, k), eV/Å.
    """

    distance: NDArray[np.floating]
    direction: NDArray[np.floating]
    energy: NDArray[np.float64]
    largest_force: NDArray[np.float64]

    @property
    def spread(self) -> NDArray[np.float64]:
        """Largest minus smallest energy over the directions, shape (n,), eV: goes to 0 with ρ if it is continuous."""
        spread: NDArray[np.float64] = self.energy.max(axis=1) - self.energy.min(axis=1)
        return spread


def _evaluate(
    model: AtomisticModel, numbers: Sequence[int], positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies (n,), eV, and forces (n, n_atoms, 3), eV/Å, of geometries (n, n_atoms, 3), Å."""
    dtype = next(model.parameters()).dtype
    device = next(model.parameters()).device
    energies, forces = [], []
    # A few at a time: all geometries at once need gigabytes.
    for first in range(0, len(positions), AT_ONCE):
        some = [(numbers, geometry) for geometry in positions[first : first + AT_ONCE]]
        energy, force = model.energy_and_forces(make_batch(some, model.cutoff, device, dtype))
        energies.append(energy.double().cpu().numpy())
        forces.append(force.double().cpu().numpy().reshape(len(some), *positions.shape[1:]))
    return np.concatenate(energies), np.concatenate(forces)


def out_of_plane(model: AtomisticModel, heights: Sequence[float] | NDArray[np.float64]) -> OutOfPlane:
    """Move a hydrogen atom of ethylene out of the plane.

    Args:
        model: in float64, or the numbers near the plane are noise.
        heights: where to, shape (n,), Å; on both sides for :attr:`OutOfPlane.jump`.
    """
    heights = np.asarray(heights, dtype=np.float64)
    numbers, planar = ETHYLENE
    positions = np.repeat(np.array([planar]), len(heights) + 1, axis=0)
    positions[1:, 2, 2] = heights
    energy, forces = _evaluate(model, numbers, positions)
    return OutOfPlane(heights, energy[1:] - energy[0], forces[1:, 2, 2])


def off_line(
    model: AtomisticModel, distances: Sequence[float] | NDArray[np.float64], n_directions: int = 12
) -> OffLine:
    """Move the nitrogen atom of acetonitrile away from the line C–C.

    Args:
        model: in float64, or the numbers near the line are noise.
        distances: ρ, shape (n,), Å, positive.
        n_directions: over a third of a turn (the methyl group repeats after it).
    """
    distances = np.asarray(distances, dtype=np.float64)
    directions = np.arange(n_directions) * (2.0 * np.pi / 3.0 / n_directions)
    numbers, linear = ACETONITRILE
    shape = (len(distances), n_directions)
    positions = np.broadcast_to(np.array(linear), (*shape, len(numbers), 3)).copy()
    positions[:, :, 2, 0] = distances[:, None] * np.cos(directions)
    positions[:, :, 2, 1] = distances[:, None] * np.sin(directions)
    positions = np.concatenate([np.array([linear]), positions.reshape(-1, len(numbers), 3)])
    energy, forces = _evaluate(model, numbers, positions)
    largest = np.linalg.norm(forces[1:], axis=2).max(axis=1)
    return OffLine(distances, directions, (energy[1:] - energy[0]).reshape(shape), largest.reshape(shape))


def compare_variants(
    heights: Sequence[float] | NDArray[np.float64] | None = None,
    distances: Sequence[float] | NDArray[np.float64] | None = None,
    seed: int = 0,
    models: dict[str, AtomisticModel] | None = None,
) -> dict[str, tuple[OutOfPlane, OffLine]]:
    """Both curves of GemNet-T, GemNet-Q and the smooth GemNet-Q.

    Args:
        heights: of ethylene's hydrogen atom, shape (n,), Å; 41 of them up to ±0.05 if not given.
        distances: of acetonitrile's nitrogen atom, shape (n,), Å; 10^-5 … 0.3 if not given.
        seed: of the weights of untrained models.
        models: compare these instead, by name (for example trained ones).
    """
    heights = np.linspace(-0.05, 0.05, 41) if heights is None else heights
    distances = np.logspace(-5, np.log10(0.3), 19) if distances is None else distances
    if models is None:
        models = {}
        for name, make in VARIANTS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models[name] = make().double()
    return {name: (out_of_plane(model, heights), off_line(model, distances)) for name, model in models.items()}
