"""E(n)-equivariant graph networks with random Fourier features, for energies of mixed fidelity.

The multi-fidelity thesis (F. Krčelić, University of Zagreb) describes one network in its text (sections 2.5-2.7) and
trains another one in its published scripts. Both are here:

* :class:`EGNNAsCoded`: no coordinate update, Fourier features without the factor 2π, sum of the atoms' features first
  and a perceptron afterwards (so the energy of two far molecules is not the sum of their energies).
* :class:`EGNNAsDescribed`: eq. 2.24-2.28 of the text, with coordinate update and a sum of atomic energies.

Sources: V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021 (EGNN); M. Tancik et al., NeurIPS 2020 (Fourier features).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import scatter_sum
from mlip_studies.models.base import AtomisticModel

ELEMENTS = (1, 6, 7, 8)
ENCODINGS = ("flag", "ones_for_high")


class FidelityEncoding(nn.Module):
    """Element one-hot (H, C, N, O) and a fidelity component, shape (n_atoms, 5) (eq. 2.29-2.31).

    ``flag``: the fifth component is 1 for low fidelity and 0 for high fidelity, as the text says.
    ``ones_for_high``: atoms of a high-fidelity molecule are (1, 1, 1, 1, 1) whatever their element, as in the thesis's
    converter for ANI-1ccx.
    """

    lookup: Tensor

    def __init__(self, encoding: str) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise InputError(f"encoding {encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
        self.encoding = encoding
        lookup = torch.full((max(ELEMENTS) + 1,), -1, dtype=torch.int64)
        lookup[list(ELEMENTS)] = torch.arange(len(ELEMENTS))
        self.register_buffer("lookup", lookup, persistent=False)

    def forward(self, batch: GraphBatch, dtype: torch.dtype) -> Tensor:
        """Encode the atoms of a batch."""
        low = batch.fidelity[batch.graph_index].to(dtype).unsqueeze(1)
        one_hot = nn.functional.one_hot(self.lookup[batch.atomic_numbers], len(ELEMENTS)).to(dtype)
        features = torch.cat([one_hot, low], dim=1)
        if self.encoding == "ones_for_high":
            features = low * features + (1.0 - low)
        return features


class RandomFourierFeatures(nn.Module):
    """Sines and cosines of a distance with fixed random frequencies (eq. 2.28 with a_j = 1).

    Args of the constructor: ``dim`` features (half sines, half cosines), ``frequencies`` standard deviation of the
    frequencies in 1/Å, and whether they are multiplied by 2π.
    """

    frequencies: Tensor

    def __init__(self, dim: int, frequency_std: float, two_pi: bool) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(dim // 2) * frequency_std)
        self.factor = 2.0 * math.pi if two_pi else 1.0

    def forward(self, distances: Tensor) -> Tensor:
        """Features of shape (n_edges, dim) from distances of shape (n_edges,) in Å: all sines, then all cosines."""
        phase = distances.unsqueeze(1) * (self.factor * self.frequencies)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class PairLinear(nn.Module):
    """A linear layer on the concatenation [h_i, h_j, e_ij], without forming it.

    W [h_i, h_j, e_ij] = W_i h_i + W_j h_j + W_e e_ij: the first two products are taken once per atom instead of once
    per pair of atoms, which is most of the arithmetic of this layer.
    """

    def __init__(self, node_dim: int, edge_dim: int, out_dim: int) -> None:
        super().__init__()
        self.node_dim = node_dim
        # One parameter of the usual shape, so that the initialisation is that of a plain linear layer.
        self.linear = nn.Linear(2 * node_dim + edge_dim, out_dim)

    def forward(self, nodes: Tensor, edges: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Shape (n_edges, out_dim) from nodes (n_atoms, node_dim) and edges (n_edges, edge_dim)."""
        n = self.node_dim
        weight, bias = self.linear.weight, self.linear.bias
        to_receiver = nn.functional.linear(nodes, weight[:, :n], bias)
        to_sender = nn.functional.linear(nodes, weight[:, n : 2 * n])
        from_edges = nn.functional.linear(edges, weight[:, 2 * n :])
        return from_edges + to_receiver[receivers] + to_sender[senders]


class CodedLayer(nn.Module):
    """One message layer of the published scripts: LayerNorm and ReLU after every linear map, residual update."""

    def __init__(self, hidden: int, rff_dim: int, frequency_std: float) -> None:
        super().__init__()
        self.fourier = RandomFourierFeatures(rff_dim, frequency_std, two_pi=False)
        self.message_in = PairLinear(hidden, rff_dim, hidden)
        self.message_out = nn.Sequential(
            nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()
        )
        self.update = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
        )

    def forward(self, nodes: Tensor, distances: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """New node features (n_atoms, hidden)."""
        messages = self.message_out(self.message_in(nodes, self.fourier(distances), receivers, senders))
        received = scatter_sum(messages, receivers, nodes.shape[0])
        return nodes + self.update(torch.cat([nodes, received], dim=1))


class EGNNAsCoded(AtomisticModel):
    """The network that the thesis's scripts train; 341,505 parameters in the default configuration."""

    def __init__(
        self,
        encoding: str = "flag",
        hidden: int = 128,
        n_layers: int = 3,
        rff_dim: int = 64,
        frequency_std: float = 1.0 / math.sqrt(2.0),
        cutoff: float | None = 10.6,
    ) -> None:
        """Build the network.

        Args:
            encoding: see :class:`FidelityEncoding`.
            hidden: width of all layers.
            n_layers: number of message layers.
            rff_dim: number of Fourier features.
            frequency_std: standard deviation of the frequencies, rad/Å.
            cutoff: Å. The scripts ask for 5 Å per atom in a neighbour list that adds both atoms' radii and a skin,
                which gives 10.6 Å; there is no cutoff function.
        """
        super().__init__()
        self.elements = ELEMENTS
        self.cutoff = cutoff
        self.encode = FidelityEncoding(encoding)
        self.embed = nn.Linear(len(ELEMENTS) + 1, hidden)
        self.layers = nn.ModuleList(CodedLayer(hidden, rff_dim, frequency_std) for _ in range(n_layers))
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        nodes = self.embed(self.encode(batch, batch.positions.dtype))
        distances = (batch.positions[batch.receivers] - batch.positions[batch.senders]).norm(dim=1)
        for layer in self.layers:
            nodes = layer(nodes, distances, batch.receivers, batch.senders)
        return self.head(scatter_sum(nodes, batch.graph_index, batch.n_graphs)).squeeze(1)


class DescribedLayer(nn.Module):
    """One layer of eq. 2.24-2.27: messages from Fourier features of the distance, coordinate and node update."""

    def __init__(self, hidden: int, rff_dim: int, frequency_std: float) -> None:
        super().__init__()
        self.fourier = RandomFourierFeatures(rff_dim, frequency_std, two_pi=True)
        self.message_in = PairLinear(hidden, rff_dim, hidden)
        self.message_out = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.coordinate = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        # A small first step, as in the EGNN paper's code base: otherwise the coordinates blow up early in training.
        nn.init.xavier_uniform_(self.coordinate[2].weight, gain=0.001)
        self.update = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(
        self, nodes: Tensor, positions: Tensor, receivers: Tensor, senders: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New node features (n_atoms, hidden) and coordinates (n_atoms, 3); scale is C = 1/(M - 1) per atom."""
        difference = positions[receivers] - positions[senders]
        # Coordinates are latent after the first update: two atoms may meet, and the norm stays differentiable there.
        distances = (difference.square().sum(dim=1) + 1e-12).sqrt()
        messages = self.message_out(self.message_in(nodes, self.fourier(distances), receivers, senders))
        shift = scatter_sum(difference * self.coordinate(messages), receivers, nodes.shape[0])
        received = scatter_sum(messages, receivers, nodes.shape[0])
        return nodes + self.update(torch.cat([nodes, received], dim=1)), positions + scale * shift


class EGNNAsDescribed(AtomisticModel):
    """The network of the thesis's text: coordinate update, 2π in the Fourier features, sum of atomic energies."""

    def __init__(
        self,
        encoding: str = "flag",
        hidden: int = 128,
        n_layers: int = 3,
        rff_dim: int = 64,
        frequency_std: float = 0.25,
        cutoff: float | None = None,
    ) -> None:
        """Build the network; the text leaves the frequencies' spread open, 0.25 1/Å is our choice."""
        super().__init__()
        self.elements = ELEMENTS
        self.cutoff = cutoff
        self.encode = FidelityEncoding(encoding)
        self.embed = nn.Linear(len(ELEMENTS) + 1, hidden)
        self.layers = nn.ModuleList(DescribedLayer(hidden, rff_dim, frequency_std) for _ in range(n_layers))
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        positions = batch.positions
        nodes = self.embed(self.encode(batch, positions.dtype))
        others = (batch.atoms_per_graph - 1).clamp(min=1).to(positions.dtype)
        scale = (1.0 / others)[batch.graph_index].unsqueeze(1)
        for layer in self.layers:
            nodes, positions = layer(nodes, positions, batch.receivers, batch.senders, scale)
        return scatter_sum(self.head(nodes), batch.graph_index, batch.n_graphs).squeeze(1)
