"""The multi-fidelity network as one writes it first: message inputs concatenated per edge, sums by scatter_add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.egnn_rff import EGNNAsCoded


class PlainEGNNRFF(nn.Module):
    """The network of the thesis's scripts in the plain formulation, sharing the parameters of ``model``."""

    def __init__(self, model: EGNNAsCoded) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        model, positions = self.model, batch.positions
        nodes = model.embed(model.encode(batch, positions.dtype))
        receivers, senders = batch.receivers, batch.senders
        distances = (positions[receivers] - positions[senders]).norm(dim=1)
        for layer in model.layers:
            inputs = torch.cat([nodes[receivers], nodes[senders], layer.fourier(distances)], dim=1)
            messages = layer.message_out(layer.message_in.linear(inputs))
            received = torch.zeros_like(nodes).scatter_add_(0, receivers[:, None].expand_as(messages), messages)
            nodes = nodes + layer.update(torch.cat([nodes, received], dim=1))
        pooled = nodes.new_zeros(batch.n_graphs, nodes.shape[1])
        pooled = pooled.scatter_add_(0, batch.graph_index[:, None].expand_as(nodes), nodes)
        return model.head(pooled).squeeze(1)
