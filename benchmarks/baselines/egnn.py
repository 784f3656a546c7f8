"""EGNN as one writes it first: every directed edge reads the concatenation [h_i, h_j, |x_i - x_j|², a_ij]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.egnn import EGNN


def _perceptron(x: Tensor, layers: nn.Sequential) -> Tensor:
    """The layers with torch's own SiLU."""
    for layer in layers:
        x = layer(x) if isinstance(layer, nn.Linear) else functional.silu(x)
    return x


class PlainEGNN(nn.Module):
    """The same network with the parameters of ``model``; all layers move the coordinates."""

    def __init__(self, model: EGNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        network = self.model.network
        i, j = batch.receivers, batch.senders
        x = batch.positions
        initial = (x[i] - x[j]).square().sum(dim=1, keepdim=True)
        h = network.embed(self.model.one_hot[batch.atomic_numbers])
        for layer in network.layers:
            difference = x[i] - x[j]
            inputs = [h[i], h[j], difference.square().sum(dim=1, keepdim=True)]
            if self.model.initial_distance:
                inputs.append(initial)
            messages = _perceptron(torch.cat(inputs, dim=1), layer.edge)
            if layer.gate is not None:
                messages = messages * layer.gate(messages)
            if layer.coordinate is not None:
                steps = difference * _perceptron(messages, layer.coordinate)
                total = torch.zeros_like(x).index_add(0, i, steps)
                if network.aggregation == "mean":
                    count = torch.zeros_like(x).index_add(0, i, torch.ones_like(steps))
                    total = total / count.clamp(min=1)
                x = x + total
            received = torch.zeros_like(h).index_add(0, i, messages)
            h = h + _perceptron(torch.cat([h, received], dim=1), layer.node)
        energy = h.new_zeros(batch.n_graphs, dtype=torch.float64)
        return energy.index_add(0, batch.graph_index, network.head(h).flatten().double())

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces -dE/dR (n_atoms, 3), eV/Å."""
        positions = batch.positions.detach().requires_grad_(True)
        energy = self(batch.with_positions(positions))
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
        return energy, -gradient
