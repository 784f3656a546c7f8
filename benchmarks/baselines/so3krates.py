"""So3krates as one writes it first: every directed edge has its own filters, the same parameters as a model's."""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.so3krates import LAYER_NORM_EPS, Invariants, So3krates, So3kratesLayer


def _sum_into(values: Tensor, receivers: Tensor, n_atoms: int) -> Tensor:
    return values.new_zeros(n_atoms, *values.shape[1:]).index_add(0, receivers, values)


class PlainSo3krates(nn.Module):
    """The network of ``model`` on a ragged list of directed edges, block by block and operation by operation."""

    def __init__(self, model: So3krates) -> None:
        super().__init__()
        self.model = model
        sizes = torch.tensor([2 * degree + 1 for degree in model.degrees])
        self.register_buffer("degree_of", torch.repeat_interleave(torch.arange(len(sizes)), sizes), persistent=False)

    def invariants(self, contraction: Invariants, chi: Tensor) -> Tensor:
        """Shape (n, n_degrees) from (n, n_components)."""
        factors = contraction.contraction.sum(dim=1)
        return torch.zeros(len(chi), len(self.model.degrees), dtype=chi.dtype, device=chi.device).index_add(
            1, self.degree_of, chi.square() * factors
        )

    @staticmethod
    def filters(layer: So3kratesLayer, block: int, radial: Tensor, invariants: Tensor) -> Tensor:
        """Filters of one block, shape (n_edges, F)."""
        f = layer.filters
        radial_in, radial_in_bias, radial_out_bias, spherical_in, spherical_in_bias, spherical_out_bias = (
            value.chunk(2, dim=-1)[block]
            for value in (
                f.radial_in,
                f.radial_in_bias,
                f.radial_out_bias,
                f.spherical_in,
                f.spherical_in_bias,
                f.spherical_out_bias,
            )
        )
        from_distance = silu(linear(radial, radial_in.T, radial_in_bias))
        from_distance = linear(from_distance, f.radial_out[block].T, radial_out_bias)
        from_sphere = silu(linear(invariants, spherical_in.T, spherical_in_bias))
        return from_distance + linear(from_sphere, f.spherical_out[block].T, spherical_out_bias)

    @staticmethod
    def project(x: Tensor, weight: Tensor) -> Tensor:
        """Heads (n_atoms, n_heads, width) of features (n_atoms, F); weight has shape (n_heads, width, width)."""
        return torch.einsum("nhi,hio->nho", x.view(len(x), weight.shape[0], -1), weight)

    def attention(
        self, x: Tensor, weights: tuple[Tensor, Tensor], filters: Tensor, batch: GraphBatch, divisor: float
    ) -> Tensor:
        """Attention weights of one block, shape (n_edges, n_heads)."""
        query = self.project(x, weights[0]).index_select(0, batch.receivers)
        key = self.project(x, weights[1]).index_select(0, batch.senders)
        return (query * filters.view(query.shape) * key).sum(dim=2) / divisor

    def layer(self, layer: So3kratesLayer, batch: GraphBatch, x: Tensor, chi: Tensor, edges: dict[str, Tensor]):
        """New x and chi."""
        width = x.shape[1]
        pre = layer.layer_norm == "pre"
        norms = [(norm.weight, norm.bias) for norm in layer.norms] if layer.layer_norm else []
        read = layer_norm(x, (width,), *norms[0], LAYER_NORM_EPS) if pre else x
        difference = chi.index_select(0, batch.senders) - chi.index_select(0, batch.receivers)
        invariants = self.invariants(layer.filter_invariants, difference)
        feature_divisor, geometry_divisor = layer.normalization
        q, k, v = layer.feature_projection.chunk(3, dim=2)
        filters = self.filters(layer, 0, edges["radial"], invariants)
        alpha = self.attention(read, (q, k), filters, batch, feature_divisor) * edges["switch"]
        values = self.project(read, v).index_select(0, batch.senders)
        x_new = x + _sum_into((alpha.unsqueeze(2) * values).flatten(1), batch.receivers, batch.n_atoms)
        q, k = layer.geometry_projection.chunk(2, dim=2)
        filters = self.filters(layer, 1, edges["radial"], invariants)
        alpha = self.attention(read, (q, k), filters, batch, geometry_divisor) * edges["switch"]
        chi = chi + _sum_into(
            alpha.index_select(1, self.degree_of) * edges["harmonics"], batch.receivers, batch.n_atoms
        )
        x = self.refine(layer, x_new, norms, 0)
        read = layer_norm(x, (width,), *norms[1], LAYER_NORM_EPS) if pre else x
        both = layer.interaction(torch.cat([read, self.invariants(layer.interaction_invariants, chi)], dim=1))
        x = self.refine(layer, x + both[:, :width], norms, 1)
        return x, chi + both[:, width:].index_select(1, self.degree_of) * chi

    @staticmethod
    def refine(layer: So3kratesLayer, x: Tensor, norms: list[tuple[Tensor, Tensor]], place: int) -> Tensor:
        """Residual perceptron and normalisation behind a block."""
        if hasattr(layer, "residuals"):
            x = layer.residuals[place](x)
        return layer_norm(x, x.shape[1:], *norms[place], LAYER_NORM_EPS) if layer.layer_norm == "post" else x

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV."""
        model = self.model
        vectors = batch.positions.index_select(0, batch.senders) - batch.positions.index_select(0, batch.receivers)
        if batch.edge_shift is not None:
            vectors = vectors + batch.edge_shift
        distances = vectors.norm(dim=1)
        harmonics = o3.spherical_harmonics(list(model.degrees), vectors[:, [1, 2, 0]], True, "integral")
        edges = {
            "radial": model.radial_basis(distances),
            "switch": model.switch(distances, model.cutoff).unsqueeze(1),
            "harmonics": harmonics,
        }
        numbers = batch.atomic_numbers
        x = model.embedding.index_select(0, numbers if model.row_is_number else model.place[numbers])
        if model.sphc_normalization is None:
            chi = harmonics.new_zeros(len(x), harmonics.shape[1])
        else:
            chi = _sum_into(edges["switch"] * harmonics, batch.receivers, len(x)) / model.sphc_normalization
        for layer in model.layers:
            x, chi = self.layer(layer, batch, x, chi, edges)
        energies = model.head_out(silu(model.head_in(x))).squeeze(1)
        if model.tables.scales is not None:
            energies = energies * model.tables.scales.index_select(0, model.place[numbers])
        if model.tables.shifts is not None:
            energies = energies + model.tables.shifts.index_select(0, model.place[numbers])
        return energies.new_zeros(batch.n_graphs).index_add(0, batch.graph_index, energies)
