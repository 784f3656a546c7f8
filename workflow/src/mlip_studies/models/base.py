"""What every potential of this package is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mlip_studies.graph.batch import GraphBatch


class AtomisticModel(nn.Module, ABC):
    """A learned energy function of molecules.

    A model predicts the energy of each molecule relative to the frozen per-element shifts, which
    :class:`mlip_studies.models.potential.Potential` adds.
    """

    #: atomic numbers that the model knows
    elements: tuple[int, ...]
    #: pairs farther apart than this (Å) do not interact; None: all pairs of a molecule do
    cutoff: float | None

    @abstractmethod
    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces -dE/dR (n_atoms, 3), eV/Å."""
        positions = batch.positions.detach().requires_grad_(True)
        energy = self(batch.with_positions(positions))
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph, allow_unused=True)
        forces = torch.zeros_like(positions) if gradient is None else -gradient
        return energy, forces

    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
