"""E(n)-equivariant graph networks with random Fourier features, for energies of mixed fidelity.

The multi-fidelity thesis (F. Krčelić, University of Zagreb) describes one network in its text (sections 2.5-2.7) and
trains another one in its published scripts. Both are here:

* :class:`EGNNAsCoded`: no coordinate update, Fourier features without the factor 2π, sum of the atoms' features first
  and a perceptron afterwards (so the energy of two far molecules is not the sum of their energies).
* :class:`EGNNAsDescribed`: eq. 2.24-2.28 of the text, with coordinate update and a sum of atomic energies.

Both read functions of the distance once per unordered pair of atoms. Edges beyond the cutoff are dropped by sending
their messages to a row that nobody reads, so any graph that holds the pairs within it gives the same energy.

Sources: V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021 (EGNN); M. Tancik et al., NeurIPS 2020 (Fourier features).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.layers.activations import silu

ELEMENTS = (1, 6, 7, 8)
#: a layer as :meth:`AtomisticModel.steps` has it
Step = Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]
ENCODINGS = ("flag", "ones_for_high")


class SiLU(nn.Module):
    """x / (1 + exp(-x)) with a cheap second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return silu(x)


class FidelityEncoding(nn.Module):
    """Element one-hot (H, C, N, O) and a fidelity component, shape (n_atoms, 5) (eq. 2.29-2.31).

    ``flag``: the fifth component is 1 for low fidelity and 0 for high fidelity, as the text says.
    ``ones_for_high``: atoms of a high-fidelity molecule are (1, 1, 1, 1, 1) whatever their element, as in the thesis's
    converter for ANI-1ccx.
    """

    one_hot: Tensor

    def __init__(self, encoding: str) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise InputError(f"encoding {encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
        self.encoding = encoding
        one_hot = torch.zeros(max(ELEMENTS) + 1, len(ELEMENTS))
        one_hot[list(ELEMENTS), torch.arange(len(ELEMENTS))] = 1.0
        self.register_buffer("one_hot", one_hot, persistent=False)

    def forward(self, batch: GraphBatch, dtype: torch.dtype) -> Tensor:
        """Encoding of the atoms of a batch, shape (n_atoms, n_elements + 1)."""
        low = gather(batch.fidelity, batch.graph_index).to(dtype).unsqueeze(1)
        features = torch.cat([gather(self.one_hot, batch.atomic_numbers).to(dtype), low], dim=1)
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
        """Features of shape (n, dim) from distances of shape (n,) in Å: all sines, then all cosines."""
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
        """Linear map of all edges.

        Args:
            nodes: shape (n_atoms, node_dim).
            edges: shape (n_edges, edge_dim); or, where edges k and k + n_edges / 2 have the same features, those of the
                first half.
            receivers: shape (n_edges,), int64.
            senders: shape (n_edges,), int64.

        Returns:
            shape (n_edges, out_dim).
        """
        n = self.node_dim
        weight, bias = self.linear.weight, self.linear.bias
        to_receiver = nn.functional.linear(nodes, weight[:, :n], bias)
        to_sender = nn.functional.linear(nodes, weight[:, n : 2 * n])
        from_edges = nn.functional.linear(edges, weight[:, 2 * n :])
        from_atoms = gather(to_receiver, receivers) + gather(to_sender, senders)
        if len(edges) == len(receivers):
            return from_atoms + from_edges
        return (from_atoms.view(2, *from_edges.shape) + from_edges).view(from_atoms.shape)


def edge_distances(vectors: Tensor, n_pairs: int | None, eps: float = 0.0) -> Tensor:
    """Lengths (n,) of edge vectors (n_edges, 3), of the first half only where edges come in pairs.

    Args:
        vectors: Å.
        n_pairs: see :class:`GraphBatch`.
        eps: added under the root, Å², where vectors may have no length.
    """
    vectors = vectors if n_pairs is None else vectors[:n_pairs]
    return (vectors.square().sum(dim=1) + eps).sqrt()


class EdgeSum:
    """Sums over the edges into each atom, without those beyond a cutoff."""

    def __init__(self, batch: GraphBatch, cutoff: float | None) -> None:
        """Find the edges within the cutoff (Å) at the batch's positions; None: all."""
        self.n_atoms, self.receivers = batch.n_atoms, batch.receivers
        self.has_drain = cutoff is not None
        if cutoff is not None:
            distances = edge_distances(batch.edge_vectors().detach(), batch.n_pairs)
            near = distances <= cutoff
            near = near if batch.n_pairs is None else torch.cat([near, near])
            self.receivers = torch.where(near, self.receivers, self.n_atoms)

    def __call__(self, values: Tensor) -> Tensor:
        """Shape (n_atoms, ...) from edge values (n_edges, ...)."""
        if not self.has_drain:
            return scatter_sum(values, self.receivers, self.n_atoms)
        return scatter_sum(values, self.receivers, self.n_atoms + 1)[: self.n_atoms]


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

    def forward(
        self, nodes: Tensor, distances: Tensor, receivers: Tensor, senders: Tensor, edge_sum: EdgeSum
    ) -> Tensor:
        """New node features (n_atoms, hidden) from those, and distances, Å, of all edges or of their first half."""
        messages = self.message_out(self.message_in(nodes, self.fourier(distances), receivers, senders))
        updated: Tensor = nodes + self.update(torch.cat([nodes, edge_sum(messages)], dim=1))
        return updated


class EGNNAsCoded(AtomisticModel):
    """The network that the thesis's scripts train; 341,505 parameters in the default configuration."""

    smooth_cutoff = False
    extensive = False

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
        return self._readout(batch, self._layers(batch, self._embed(batch)))

    def _embed(self, batch: GraphBatch) -> Tensor:
        embedded: Tensor = self.embed(self.encode(batch, batch.positions.dtype))
        return embedded

    def _layers(self, batch: GraphBatch, nodes: Tensor, only: int | None = None) -> Tensor:
        distances = edge_distances(batch.edge_vectors(), batch.n_pairs)
        edge_sum = EdgeSum(batch, self.cutoff)
        for layer in self.layers if only is None else [self.layers[only]]:
            nodes = layer(nodes, distances, batch.receivers, batch.senders, edge_sum)
        return nodes

    def _readout(self, batch: GraphBatch, nodes: Tensor) -> Tensor:
        energies: Tensor = self.head(scatter_sum(nodes, batch.graph_index, batch.n_graphs)).squeeze(1)
        return energies

    def steps(self) -> list[tuple[str, Step]]:
        """The layers, on the features ``nodes`` (n_atoms, hidden)."""

        def layer(index: int) -> Step:
            return lambda batch, features: {"nodes": self._layers(batch, features["nodes"], index)}

        chain: list[tuple[str, Step]] = [("embedding", lambda batch, _: {"nodes": self._embed(batch)})]
        chain += [(f"layer {index + 1}", layer(index)) for index in range(len(self.layers))]
        return [*chain, ("readout", lambda batch, features: {"energy": self._readout(batch, features["nodes"])})]


class DescribedLayer(nn.Module):
    """One layer of eq. 2.24-2.27: messages from Fourier features of the distance, coordinate and node update."""

    def __init__(self, hidden: int, rff_dim: int, frequency_std: float) -> None:
        super().__init__()
        self.fourier = RandomFourierFeatures(rff_dim, frequency_std, two_pi=True)
        self.message_in = PairLinear(hidden, rff_dim, hidden)
        self.message_out = nn.Sequential(SiLU(), nn.Linear(hidden, hidden), SiLU())
        self.coordinate = nn.Sequential(nn.Linear(hidden, hidden), SiLU(), nn.Linear(hidden, 1, bias=False))
        # A small first step, as in the EGNN paper's code base: otherwise the coordinates blow up early in training.
        nn.init.xavier_uniform_(cast("nn.Linear", self.coordinate[2]).weight, gain=0.001)
        self.update = nn.Sequential(nn.Linear(2 * hidden, hidden), SiLU(), nn.Linear(hidden, hidden))

    def forward(
        self, nodes: Tensor, batch: GraphBatch, scale: Tensor, edge_sum: EdgeSum, move: bool = True
    ) -> tuple[Tensor, Tensor]:
        """New node features (n_atoms, hidden) and coordinates (n_atoms, 3).

        Args:
            nodes: shape (n_atoms, hidden).
            batch: with this layer's coordinates.
            scale: C = 1/(M - 1) of each atom, shape (n_atoms, 1).
            edge_sum: sums over edges.
            move: False: leave the coordinates where they are.
        """
        vectors = batch.edge_vectors()
        # Coordinates are latent after the first update: two atoms may meet, and the norm stays differentiable there.
        distances = edge_distances(vectors, batch.n_pairs, 1e-12)
        features = self.fourier(distances)
        messages = self.message_out(self.message_in(nodes, features, batch.receivers, batch.senders))
        positions = batch.positions
        if move:
            positions = positions - scale * edge_sum(vectors * self.coordinate(messages))
        return nodes + self.update(torch.cat([nodes, edge_sum(messages)], dim=1)), positions


class EGNNAsDescribed(AtomisticModel):
    """The network of the thesis's text: coordinate update, 2π in the Fourier features, sum of atomic energies.

    The coordinate update is scaled by the number of atoms of the whole molecule, so two molecules far apart do not have
    the sum of their energies. The last layer's coordinates are read by nobody.
    """

    smooth_cutoff = False
    extensive = False
    irreps: Mapping[str, str] = {"positions": "1x1o"}

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
        self.head = nn.Sequential(nn.Linear(hidden, hidden), SiLU(), nn.Linear(hidden, 1))
        self.unused_parameters = (f"layers.{n_layers - 1}.coordinate.",)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        nodes, _ = self._layers(batch, *self._embed(batch))
        return batch.sum_atoms(self.head(nodes))

    def _embed(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        return self.embed(self.encode(batch, batch.positions.dtype)), batch.positions

    def _layers(
        self, batch: GraphBatch, nodes: Tensor, positions: Tensor, only: int | None = None
    ) -> tuple[Tensor, Tensor]:
        others = (batch.atoms_per_graph - 1).clamp(min=1).to(positions.dtype)
        scale = gather(1.0 / others, batch.graph_index).unsqueeze(1)
        # The cutoff is on the molecule's distances, not on those of the moved coordinates.
        edge_sum = EdgeSum(batch, self.cutoff)
        last = len(self.layers) - 1
        for index in range(last + 1) if only is None else [only]:
            moved = batch.with_positions(positions)
            nodes, positions = self.layers[index](nodes, moved, scale, edge_sum, move=index < last)
        return nodes, positions

    def steps(self) -> list[tuple[str, Step]]:
        """The layers, on the features ``nodes`` (n_atoms, hidden) and ``positions`` (n_atoms, 3)."""

        def pack(nodes: Tensor, positions: Tensor) -> dict[str, Tensor]:
            return {"nodes": nodes, "positions": positions}

        def layer(index: int) -> Step:
            return lambda batch, features: pack(*self._layers(batch, features["nodes"], features["positions"], index))

        chain: list[tuple[str, Step]] = [("embedding", lambda batch, _: pack(*self._embed(batch)))]
        chain += [(f"layer {index + 1}", layer(index)) for index in range(len(self.layers))]
        return [
            *chain,
            ("readout", lambda batch, features: {"energy": batch.sum_atoms(self.head(features["nodes"]))}),
        ]
