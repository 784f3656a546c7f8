"""What every potential of this package is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mlip_studies.graph.batch import GraphBatch


class AtomisticModel(nn.Module, ABC):
    """A learned energy function of molecules.

    A model predicts the energy of each molecule relative to the frozen per-element shifts, which
    :class:`mlip_studies.models.potential.Potential` adds.

    Any graph that holds all pairs within ``cutoff`` gives the same result: edges beyond it contribute exactly nothing.
    Atoms without edges and batches without edges are allowed, and so are padded batches, whose last graph's energy
    means nothing.
    """

    #: atomic numbers that the model knows
    elements: tuple[int, ...]
    #: pairs farther apart than this (Å) do not interact; None: all pairs of a molecule do
    cutoff: float | None
    #: whether the energy goes smoothly to that of the separated atoms; without it, it jumps at the cutoff
    smooth_cutoff: bool = True
    #: whether forces come from a head of their own instead of the energy's gradient
    direct_forces: bool = False
    #: whether two molecules far apart have the sum of their energies
    extensive: bool = True
    #: whether a molecule and its mirror image have the same energy
    reflection_symmetric: bool = True
    #: prefixes of parameters that neither energy nor forces depend on, as the architecture has them
    unused_parameters: tuple[str, ...] = ()
    #: irreps (e3nn notation) of the last axis of those features of :meth:`steps` that turn with the molecule
    irreps: Mapping[str, str] = {}
    #: order of the Cartesian axes in which these irreps are those of e3nn
    irreps_axes: ClassVar[tuple[int, int, int]] = (0, 1, 2)

    @abstractmethod
    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV; float64 where it is a sum over atoms."""

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces -dE/dR (n_atoms, 3), eV/Å.

        Args:
            batch: molecules.
            create_graph: keep what is needed to differentiate the forces, for a loss with forces.
        """
        positions = batch.positions.detach().requires_grad_(True)
        with torch.enable_grad():
            energy = self(batch.with_positions(positions))
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph, allow_unused=True)
        forces = torch.zeros_like(positions) if gradient is None else -gradient
        return (energy if create_graph else energy.detach()), forces

    def steps(self) -> list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]]:
        """The network as a chain of named layers, each from (batch, features) to features.

        The first one gets no features, the last one returns ``energy`` (n_graphs,), and ``forces`` (n_atoms, 3) of a
        model with direct forces. Features named in ``irreps`` turn with the molecule, all others stay.
        """
        return [("network", lambda batch, _: {"energy": self(batch)})]

    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
