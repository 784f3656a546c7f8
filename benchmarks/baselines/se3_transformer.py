"""The SE(3)-Transformer as one writes it first: every directed edge on its own, one kernel after the other.

Harmonics come from e3nn for every edge, each radial network is a chain of linear layers on every edge, features meet
the fixed matrices before channels are mixed (as NVIDIA's public version does it), and autograd keeps all of it.
"""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn import functional

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.compat import wigner_3j
from mlip_studies.models.se3_transformer import Attention, Convolution, EdgeMessages, SE3Transformer, n_kernels


class PlainSE3Transformer(nn.Module):
    """The same network with the parameters of ``model``: direct forces, no cutoff."""

    def __init__(self, model: SE3Transformer) -> None:
        super().__init__()
        self.model = model
        if model.cutoff is not None or not model.direct_forces:
            raise ValueError("the plain formulation has direct forces and no cutoff")
        self.symbols = {
            (out, into, order): wigner_3j(order, into, out)
            for out, into in model.network.basis.pairs
            for order in range(abs(out - into), out + into + 1)
        }

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        return self.energy_and_forces(batch)[0]

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = True) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å."""
        senders, receivers = batch.senders, batch.receivers
        vectors = batch.positions[senders] - batch.positions[receivers]
        distances = vectors.norm(dim=1, keepdim=True)
        basis = self.kernels(vectors)
        network = self.model.network
        x = {0: self.model.one_hot[batch.atomic_numbers].unsqueeze(1)}
        for attention, norm in zip(network.attention, network.norms, strict=True):
            x = norm(self.attend(attention, x, distances, basis, receivers, senders))
        x = self.convolve(network.readout, x, distances, basis, receivers, senders)
        energy = x[0].new_zeros(batch.n_graphs, dtype=torch.float64)
        return energy.index_add(0, batch.graph_index, x[0].flatten().double()), x[1].squeeze(2)

    def kernels(self, vectors: Tensor) -> dict[tuple[int, int], Tensor]:
        """Fixed matrices (n_edges, 2l+1, J, 2k+1) of all pairs of degrees."""
        top = max(order for _, _, order in self.symbols)
        harmonics = {
            order: o3.spherical_harmonics(order, vectors, normalize=True, normalization="integral")
            for order in range(top + 1)
        }
        result: dict[tuple[int, int], list[Tensor]] = {}
        for (out, into, order), symbol in self.symbols.items():
            symbol = symbol.to(vectors.device, vectors.dtype)
            result.setdefault((out, into), []).append(torch.einsum("em,mba->eab", harmonics[order], symbol))
        return {pair: torch.stack(values, dim=2) for pair, values in result.items()}

    @staticmethod
    def messages(
        module: EdgeMessages,
        x: dict[int, Tensor],
        distances: Tensor,
        basis: dict[tuple[int, int], Tensor],
        senders: Tensor,
    ) -> dict[str, dict[int, Tensor]]:
        """Messages (n_edges, 2l+1, channels) of every kind and degree."""
        nets = module.networks
        result: dict[str, dict[int, Tensor]] = {kind: {} for kind in module.kinds}
        sent = {degree: x[degree][senders] for degree in module.fiber_in}
        for index, group in enumerate(module.groups):
            hidden = functional.linear(distances, nets.weight_1[index].t(), nets.bias_1[index, 0])
            hidden = functional.layer_norm(hidden, (nets.hidden,), nets.scale_1[index, 0], nets.shift_1[index, 0])
            hidden = functional.linear(torch.relu(hidden), nets.weight_2[index].t(), nets.bias_2[index, 0])
            hidden = functional.layer_norm(hidden, (nets.hidden,), nets.scale_2[index, 0], nets.shift_2[index, 0])
            bias = None if module.biases is None else module.biases[index]
            weights = functional.linear(torch.relu(hidden), module.weights[index].t(), bias)
            weights = weights.view(len(senders), -1, group.channels_out)
            terms = []
            for into in group.degrees_in:
                if group.degree_out == 0 and into == 0:
                    term = sent[0] * module.scalar_factor
                else:
                    matrices = basis[group.degree_out, into].flatten(1, 2)
                    term = torch.bmm(matrices, sent[into])
                n = n_kernels(into, group.degree_out) * sent[into].shape[2]
                terms.append(term.view(len(senders), 2 * group.degree_out + 1, n))
            values = torch.bmm(torch.cat(terms, dim=2), weights)
            start = 0
            for kind, channels in group.outputs:
                part = values[:, :, start : start + channels]
                old = result[kind].get(group.degree_out)
                result[kind][group.degree_out] = part if old is None else old + part
                start += channels
        return result

    def attend(
        self,
        layer: Attention,
        x: dict[int, Tensor],
        distances: Tensor,
        basis: dict[tuple[int, int], Tensor],
        receivers: Tensor,
        senders: Tensor,
    ) -> dict[int, Tensor]:
        """Multi-head attention, skip connection, self-interaction."""
        messages = self.messages(layer.messages, x, distances, basis, senders)
        query = layer.query(x)
        n_nodes, heads = len(x[0]), layer.n_heads

        def by_head(values: Tensor) -> Tensor:
            return values.reshape(len(values), values.shape[1], heads, -1)

        n_components = sum((2 * degree + 1) * channels for degree, channels in layer.key_fiber.items())
        scores = sum(
            (by_head(query[degree][receivers]) * by_head(messages["key"][degree])).sum(dim=(1, 3))
            for degree in layer.key_fiber
        ) / math.sqrt(n_components)
        index = receivers.unsqueeze(1).expand_as(scores)
        top = scores.new_full((n_nodes, heads), -math.inf).scatter_reduce(0, index, scores.detach(), "amax")
        shares = torch.exp(scores - top[receivers])
        shares = shares / torch.zeros_like(top).index_add(0, receivers, shares)[receivers]
        joined = {}
        for degree, values in messages["value"].items():
            weighted = (by_head(values) * shares[:, None, :, None]).reshape(values.shape)
            total = values.new_zeros(n_nodes, *values.shape[1:]).index_add(0, receivers, weighted)
            joined[degree] = torch.cat([total, x[degree]], dim=2) if degree in x else total
        return layer.project(joined)

    def convolve(
        self,
        layer: Convolution,
        x: dict[int, Tensor],
        distances: Tensor,
        basis: dict[tuple[int, int], Tensor],
        receivers: Tensor,
        senders: Tensor,
    ) -> dict[int, Tensor]:
        """Sum or mean over edges, the receiver's own term being part of every message."""
        messages = self.messages(layer.messages, x, distances, basis, senders)["out"]
        own = layer.own(x)
        result = {}
        for degree, values in messages.items():
            values = values + own[degree][receivers]
            total = values.new_zeros(len(x[0]), *values.shape[1:]).index_add(0, receivers, values)
            if layer.mean:
                count = torch.bincount(receivers, minlength=len(x[0])).clamp(min=1).view(-1, 1, 1)
                total = total / count
            result[degree] = total
        return result
