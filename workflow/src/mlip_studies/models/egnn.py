"""EGNN of its authors: messages from features and squared distances, which also move the atoms' latent coordinates.

Source: V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021, eq. 3-6; for one layer, with i the receiver,

    m_ij = φ_e(h_i, h_j, |x_i - x_j|², a_ij)
    x_i += C Σ_j (x_i - x_j) φ_x(m_ij),  C = 1 / number of edges into i, or 1
    h_i += φ_h(h_i, Σ_j m_ij)

How the work is arranged: the first linear map of φ_e on [h_i, h_j, …] is taken once per atom for its two node parts and
once per unordered pair for the rest, which is half of the arithmetic of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.layers.activations import silu

AGGREGATIONS = ("mean", "sum")
Step = Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]


class SiLU(nn.Module):
    """x / (1 + exp(-x)) with a cheap second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return silu(x)


class EGNNLayer(nn.Module):
    """One layer of the equations above."""

    def __init__(self, hidden: int, n_edge_features: int, moves: bool, attention: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.edge = nn.Sequential(
            nn.Linear(2 * hidden + 1 + n_edge_features, hidden), SiLU(), nn.Linear(hidden, hidden), SiLU()
        )
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), SiLU(), nn.Linear(hidden, hidden))
        self.coordinate = None
        if moves:
            last = nn.Linear(hidden, 1, bias=False)
            # A small first step: large ones blow the coordinates up early in training.
            nn.init.xavier_uniform_(last.weight, gain=0.001)
            self.coordinate = nn.Sequential(nn.Linear(hidden, hidden), SiLU(), last)
        self.gate = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid()) if attention else None

    def messages(self, nodes: Tensor, edges: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """m_ij, shape (n_edges, hidden); ``edges`` (squared distance and features) are all, or the first half."""
        n = self.hidden
        first = cast("nn.Linear", self.edge[0])
        to_receiver = nn.functional.linear(nodes, first.weight[:, :n], first.bias)
        to_sender = nn.functional.linear(nodes, first.weight[:, n : 2 * n])
        from_edges = nn.functional.linear(edges, first.weight[:, 2 * n :])
        total = gather(to_receiver, receivers) + gather(to_sender, senders)
        if len(edges) == len(receivers):
            total = total + from_edges
        else:
            total = (total.view(2, *from_edges.shape) + from_edges).view(total.shape)
        for module in list(self.edge)[1:]:
            total = module(total)
        return total if self.gate is None else total * self.gate(total)


class EGNNNetwork(nn.Module):
    """The network on any graph: node features and coordinates in, node features and coordinates out."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: int = 128,
        n_layers: int = 4,
        n_edge_features: int = 0,
        aggregation: str = "mean",
        moves: bool = True,
        attention: bool = False,
    ) -> None:
        """Build the network.

        Args:
            n_in: node features that come in.
            n_out: node features that go out.
            hidden: width of all layers.
            n_layers: number of layers.
            n_edge_features: features a_ij of the edges, besides the squared distance.
            aggregation: ``mean`` or ``sum`` of the coordinates' steps over the edges.
            moves: whether the coordinates move at all.
            attention: multiply each message by a learned gate between 0 and 1 (eq. 8 of the paper).

        Raises:
            InputError: an option out of range.
        """
        super().__init__()
        for name, value, least in (
            ("hidden", hidden, 1),
            ("n_layers", n_layers, 1),
            ("n_edge_features", n_edge_features, 0),
        ):
            if value < least:
                raise InputError(f"{name}={value}: expected at least {least}")
        if aggregation not in AGGREGATIONS:
            raise InputError(f"aggregation={aggregation!r} is unknown; choose one of {', '.join(AGGREGATIONS)}")
        self.aggregation = aggregation
        self.n_edge_features = n_edge_features
        self.embed = nn.Linear(n_in, hidden)
        self.layers = nn.ModuleList(EGNNLayer(hidden, n_edge_features, moves, attention) for _ in range(n_layers))
        self.head = nn.Linear(hidden, n_out)

    def layer(
        self,
        index: int,
        h: Tensor,
        x: Tensor,
        receivers: Tensor,
        senders: Tensor,
        edge_features: Tensor | None = None,
        n_pairs: int | None = None,
        edge_shift: Tensor | None = None,
        move: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """One layer: new node features (n_nodes, hidden) and coordinates (n_nodes, 3); arguments as in forward."""
        layer = cast("EGNNLayer", self.layers[index])
        one_way = slice(None) if n_pairs is None else slice(n_pairs)
        difference = gather(x, receivers[one_way]) - gather(x, senders[one_way])
        if edge_shift is not None:
            difference = difference - edge_shift[one_way]
        edges = difference.square().sum(dim=1, keepdim=True)
        if edge_features is not None:
            edges = torch.cat([edges, edge_features[one_way]], dim=1)
        messages = layer.messages(h, edges, receivers, senders)
        if move and layer.coordinate is not None:
            if n_pairs is not None:
                difference = torch.cat([difference, -difference])
            steps = scatter_sum(difference * layer.coordinate(messages), receivers, len(x))
            if self.aggregation == "mean":
                count = scatter_sum(x.new_ones(len(receivers), 1), receivers, len(x))
                steps = steps / count.clamp(min=1.0)
            x = x + steps
        received = scatter_sum(messages, receivers, len(h))
        return h + layer.node(torch.cat([h, received], dim=1)), x

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        receivers: Tensor,
        senders: Tensor,
        edge_features: Tensor | None = None,
        n_pairs: int | None = None,
        edge_shift: Tensor | None = None,
        last_move: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Node features (n_nodes, n_out) and coordinates (n_nodes, 3).

        Args:
            h: shape (n_nodes, n_in).
            x: coordinates, shape (n_nodes, 3).
            receivers: i of each edge, shape (n_edges,), int64.
            senders: j of each edge, shape (n_edges,), int64.
            edge_features: a_ij, shape (n_edges, n_edge_features).
            n_pairs: if given, edges k and k + n_pairs are each other's reverse for all k < n_pairs = n_edges / 2, and
                have the same edge features: those of the first half are read.
            edge_shift: added to x_j - x_i of each edge, shape (n_edges, 3).
            last_move: False saves the last layer's move where nobody reads the coordinates.

        Raises:
            InputError: edge features are missing or of another number than the network has.
        """
        width = 0 if edge_features is None else edge_features.shape[1]
        if width != self.n_edge_features:
            raise InputError(f"{width} edge features; expected {self.n_edge_features}")
        h = self.embed(h)
        last = len(self.layers) - 1
        for index in range(last + 1):
            move = last_move or index < last
            h, x = self.layer(index, h, x, receivers, senders, edge_features, n_pairs, edge_shift, move)
        return self.head(h), x


class EGNN(AtomisticModel):
    """EGNN for molecules: a sum of atomic energies, all pairs of a molecule's atoms being edges.

    There is no cutoff, so the energy of two molecules far apart is not the sum of theirs. The coordinates that the
    last layer would move are read by nobody; its parameters are kept, as the architecture has them.
    """

    extensive = False
    irreps: Mapping[str, str] = {"positions": "1x1o"}

    def __init__(
        self,
        hidden: int = 128,
        n_layers: int = 4,
        initial_distance: bool = True,
        aggregation: str = "mean",
        moves: bool = True,
        attention: bool = False,
        elements: Sequence[int] | None = None,
    ) -> None:
        """Build the network.

        Args:
            hidden: width of all layers.
            n_layers: number of layers.
            initial_distance: the squared distance of the real positions is a feature of every edge in every layer.
            aggregation: ``mean`` or ``sum`` of the coordinates' steps.
            moves: whether the latent coordinates move.
            attention: gated messages.
            elements: atomic numbers; H, C, N, O if not given.

        Raises:
            InputError: an option out of range.
        """
        super().__init__()
        self.elements = (1, 6, 7, 8) if elements is None else tuple(int(z) for z in elements)
        if not self.elements or min(self.elements) < 0 or len(set(self.elements)) < len(self.elements):
            raise InputError(f"elements={list(self.elements)}: expected different atomic numbers")
        self.cutoff = None
        self.initial_distance = initial_distance
        self.network = EGNNNetwork(
            len(self.elements), 1, hidden, n_layers, int(initial_distance), aggregation, moves, attention
        )
        if moves:
            self.unused_parameters = (f"network.layers.{n_layers - 1}.coordinate.",)
        one_hot = torch.zeros(max(self.elements) + 1, len(self.elements))
        one_hot[list(self.elements), torch.arange(len(self.elements))] = 1.0
        self.register_buffer("one_hot", one_hot, persistent=False)

    one_hot: Tensor

    def _edge_features(self, batch: GraphBatch) -> Tensor | None:
        if not self.initial_distance:
            return None
        vectors = batch.edge_vectors()
        # The first half is read only, where edges come in pairs.
        return (vectors if batch.n_pairs is None else vectors[: batch.n_pairs]).square().sum(dim=1, keepdim=True)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64."""
        energy, _ = self.network(
            gather(self.one_hot, batch.atomic_numbers),
            batch.positions,
            batch.receivers,
            batch.senders,
            self._edge_features(batch),
            batch.n_pairs,
            batch.edge_shift,
            last_move=False,
        )
        return batch.sum_atoms(energy)

    def steps(self) -> list[tuple[str, Step]]:
        """The layers, on the features ``nodes`` (n_atoms, hidden) and ``positions`` (n_atoms, 3)."""
        network = self.network

        def embed(batch: GraphBatch, _: dict[str, Tensor]) -> dict[str, Tensor]:
            nodes = network.embed(gather(self.one_hot, batch.atomic_numbers))
            return {"nodes": nodes, "positions": batch.positions}

        def layer(index: int) -> Step:
            def run(batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
                nodes, positions = network.layer(
                    index,
                    features["nodes"],
                    features["positions"],
                    batch.receivers,
                    batch.senders,
                    self._edge_features(batch),
                    batch.n_pairs,
                    batch.edge_shift,
                    move=index < len(network.layers) - 1,
                )
                return {"nodes": nodes, "positions": positions}

            return run

        chain: list[tuple[str, Step]] = [("embedding", embed)]
        chain += [(f"layer {index + 1}", layer(index)) for index in range(len(network.layers))]
        return [
            *chain,
            ("readout", lambda batch, features: {"energy": batch.sum_atoms(network.head(features["nodes"]))}),
        ]
