"""SchNet: continuous-filter convolutions over the atoms of a molecule.

Source: K. T. Schütt, H. E. Sauceda, P.-J. Kindermans, A. Tkatchenko, K.-R. Müller, J. Chem. Phys. 148, 241722 (2018),
and K. T. Schütt et al., NeurIPS 2017. As usual since, the filters end smoothly at the cutoff with a cosine function;
every neighbour within it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.layers.activations import shifted_softplus
from mlip_studies.models.layers.cutoffs import cosine_cutoff
from mlip_studies.models.layers.radial import GaussianBasis

#: rows of the element embedding, one per atomic number; row 0 belongs to no element
EMBEDDING_ROWS = 100


def _glorot(layer: nn.Linear) -> nn.Linear:
    """Uniform Glorot weights and no bias, as the papers draw them."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Interaction(nn.Module):
    """One interaction block: v = W₃ ssp(W₂ Σ_j (W₁ x_j) ∘ f(d_ij)), with filters f(d) = (V₂ ssp(V₁ e(d))) · cutoff(d).

    Layers: ``atom_in`` W₁ (no bias), ``filter_in`` V₁, ``filter_out`` V₂, ``atom_out`` W₂, ``dense`` W₃.
    """

    def __init__(self, hidden: int, filters: int, n_gaussians: int) -> None:
        super().__init__()
        self.filter_in = _glorot(nn.Linear(n_gaussians, filters))
        self.filter_out = _glorot(nn.Linear(filters, filters))
        self.atom_in = _glorot(nn.Linear(hidden, filters, bias=False))
        self.atom_out = _glorot(nn.Linear(filters, hidden))
        self.dense = _glorot(nn.Linear(hidden, hidden))

    def forward(self, batch: GraphBatch, nodes: Tensor, basis: Tensor, cutoff: Tensor) -> Tensor:
        """What is added to the atoms' features, shape (n_atoms, hidden).

        Args:
            batch: molecules.
            nodes: features, shape (n_atoms, hidden).
            basis: radial basis, shape (n, n_gaussians); n is the number of pairs, or of edges that are not paired.
            cutoff: values of the cutoff function, shape (n, 1), dimensionless.
        """
        filters = self.filter_out(shifted_softplus(self.filter_in(basis))) * cutoff
        messages = gather(self.atom_in(nodes), batch.senders)
        # Both directions of a pair have the same filter.
        shape = (1 if batch.n_pairs is None else 2, *filters.shape)
        messages = (messages.view(shape) * filters).view(messages.shape)
        update: Tensor = self.dense(shifted_softplus(self.atom_out(batch.sum_edges(messages))))
        return update


class SchNet(AtomisticModel):
    """SchNet with a sum of atomic energies; 455,809 parameters in the default configuration."""

    cutoff: float

    def __init__(
        self,
        hidden: int = 128,
        filters: int = 128,
        n_layers: int = 6,
        n_gaussians: int = 50,
        cutoff: float = 5.0,
        elements: Sequence[int] | None = None,
    ) -> None:
        """Build the network.

        Args:
            hidden: features of an atom, at least 2.
            filters: width of the filters.
            n_layers: number of interaction blocks.
            n_gaussians: radial functions, with centres from 0 to the cutoff and the width of their spacing.
            cutoff: Å.
            elements: atomic numbers that the model shall accept; None: 1 to 99.

        Raises:
            InputError: an option out of its range.
        """
        super().__init__()
        for name, value, least in (("hidden", hidden, 2), ("filters", filters, 1), ("n_layers", n_layers, 1)):
            if value < least:
                raise InputError(f"SchNet: {name} = {value}; expected {least} or more")
        if n_gaussians < 2:
            raise InputError(f"SchNet: n_gaussians = {n_gaussians}; expected 2 or more")
        if not cutoff > 0.0:
            raise InputError(f"SchNet: cutoff = {cutoff}; expected a positive length in Å")
        self.elements = tuple(range(1, EMBEDDING_ROWS)) if elements is None else tuple(sorted(set(elements)))
        if not self.elements or self.elements[0] < 1 or self.elements[-1] >= EMBEDDING_ROWS:
            raise InputError(f"SchNet: elements = {list(self.elements)}; expected atomic numbers from 1 to 99")
        self.cutoff = cutoff
        self.embedding = nn.Embedding(EMBEDDING_ROWS, hidden)
        self.basis = GaussianBasis(n_gaussians, 0.0, cutoff)
        self.layers = nn.ModuleList(Interaction(hidden, filters, n_gaussians) for _ in range(n_layers))
        self.readout_in = _glorot(nn.Linear(hidden, hidden // 2))
        self.readout_out = _glorot(nn.Linear(hidden // 2, 1))

    def _embed(self, batch: GraphBatch, _: dict[str, Tensor]) -> dict[str, Tensor]:
        vectors = batch.edge_vectors()[: batch.n_edges if batch.n_pairs is None else batch.n_pairs]
        distances = vectors.square().sum(dim=1).sqrt()
        return {
            "nodes": gather(self.embedding.weight, batch.atomic_numbers),
            "basis": self.basis(distances),
            "cutoff": cosine_cutoff(distances, self.cutoff).unsqueeze(1),
        }

    @staticmethod
    def _interact(layer: nn.Module, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
        change = layer(batch, features["nodes"], features["basis"], features["cutoff"])
        return {**features, "nodes": features["nodes"] + change}

    def _read_out(self, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
        atomic = self.readout_out(shifted_softplus(self.readout_in(features["nodes"])))
        return {"energy": batch.sum_atoms(atomic)}

    def steps(self) -> list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]]:
        """Embedding, interaction blocks and readout; all features are invariant."""
        layers = [(f"layer {k}", partial(self._interact, layer)) for k, layer in enumerate(self.layers, 1)]
        return [("embedding", self._embed), *layers, ("readout", self._read_out)]

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64."""
        features: dict[str, Tensor] = {}
        for _, step in self.steps():
            features = step(batch, features)
        return features["energy"]
