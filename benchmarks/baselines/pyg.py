"""PyTorch Geometric's SchNet and DimeNet++ on this package's batches, sharing a model's parameters.

Both find neighbours and triplets with compiled extensions (torch-cluster, torch-sparse) and keep at most 32 neighbours.
Here they get the edges of the batch and their triplets, all of them, so that neither extension is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import SchNet as GeometricSchNet
from torch_geometric.nn.models import dimenet

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.triplets import edge_pairs
from mlip_studies.models.dimenet import DimeNetPP
from mlip_studies.models.schnet import SchNet


def share(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> None:
    """Replace the parameters ``names`` (their submodule -> our submodule, or parameter) by ours of the same shape.

    Raises:
        ValueError: shapes differ, or a parameter of theirs is left without one of ours.
    """
    left = {name for name, _ in theirs.named_parameters(remove_duplicate=False)}
    for theirs_name, ours_name in names.items():
        path, _, last = theirs_name.rpartition(".")
        owner, value = theirs.get_submodule(path), ours.get_parameter(ours_name)
        if getattr(owner, last).shape != value.shape:
            raise ValueError(f"{theirs_name} has shape {getattr(owner, last).shape}, {ours_name} {value.shape}")
        setattr(owner, last, value)
        left.discard(theirs_name)
    if left:
        raise ValueError(f"without a counterpart: {sorted(left)}")


def linear(theirs: str, ours: str, bias: bool = True) -> dict[str, str]:
    """Names of the parameters of one linear layer."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in (("weight", "bias") if bias else ("weight",))}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating-point constants of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class PlainSchNet(nn.Module):
    """torch_geometric.nn.models.SchNet with the parameters of ``model``; constants are exact in the model's type."""

    def __init__(self, model: SchNet) -> None:
        super().__init__()
        layer = model.layers[0]
        with default_dtype(model.embedding.weight.dtype):
            self.network = GeometricSchNet(
                hidden_channels=model.embedding.embedding_dim,
                num_filters=layer.atom_in.out_features,
                num_interactions=len(model.layers),
                num_gaussians=layer.filter_in.in_features,
                cutoff=model.cutoff,
                interaction_graph=lambda *_: self._edges,
            ).to(model.embedding.weight.device)
        names = {"embedding.weight": "embedding.weight"}
        names |= linear("lin1", "readout_in") | linear("lin2", "readout_out")
        for k in range(len(model.layers)):
            block, layer = f"interactions.{k}", f"layers.{k}"
            # Their filter network has two names; they are one module.
            for filters in (f"{block}.mlp", f"{block}.conv.nn"):
                names |= linear(f"{filters}.0", f"{layer}.filter_in") | linear(f"{filters}.2", f"{layer}.filter_out")
            names |= linear(f"{block}.conv.lin1", f"{layer}.atom_in", bias=False)
            names |= linear(f"{block}.conv.lin2", f"{layer}.atom_out") | linear(f"{block}.lin", f"{layer}.dense")
        share(self.network, model, names)
        self._edges: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV; the batch must hold no pairs beyond the cutoff."""
        vectors = batch.positions[batch.senders] - batch.positions[batch.receivers]
        self._edges = torch.stack([batch.senders, batch.receivers]), vectors.norm(dim=1)
        return self.network(batch.atomic_numbers, batch.positions, batch.graph_index).squeeze(1)


class PlainDimeNetPP(nn.Module):
    """torch_geometric.nn.models.DimeNetPlusPlus with the parameters of ``model``.

    Its basis functions are built by sympy, which takes some seconds, and hold zeros of Bessel functions that are
    rounded to single precision: agreement in double precision is limited to about 1e-6 by that.
    """

    def __init__(self, model: DimeNetPP) -> None:
        super().__init__()
        block, out = model.interactions[0], model.outputs[0]
        with default_dtype(out.up.weight.dtype):
            self.network = dimenet.DimeNetPlusPlus(
                hidden_channels=out.up.in_features,
                out_channels=1,
                num_blocks=len(model.interactions),
                int_emb_size=block.down.out_features,
                basis_emb_size=block.radial_down.out_features,
                out_emb_channels=out.up.out_features,
                num_spherical=model.n_spherical,
                num_radial=block.radial_down.in_features,
                cutoff=model.cutoff,
                envelope_exponent=model.envelope_exponent,
                num_before_skip=len(block.before_skip),
                num_after_skip=len(block.after_skip),
                num_output_layers=len(out.layers),
            ).to(out.up.weight.device)
        names = {"rbf.freq": "radial_basis.frequencies", "emb.emb.weight": "embedding.elements.weight"}
        names |= linear("emb.lin_rbf", "embedding.radial") | linear("emb.lin", "embedding.message")
        for k, output in enumerate(model.outputs):
            theirs, ours = f"output_blocks.{k}", f"outputs.{k}"
            names |= linear(f"{theirs}.lin_rbf", f"{ours}.radial", bias=False)
            names |= linear(f"{theirs}.lin_up", f"{ours}.up", bias=False)
            names |= linear(f"{theirs}.lin", f"{ours}.energy", bias=False)
            for n in range(len(output.layers)):
                names |= linear(f"{theirs}.lins.{n}", f"{ours}.layers.{n}")
        for k in range(len(model.interactions)):
            theirs, ours = f"interaction_blocks.{k}", f"interactions.{k}"
            for theirs_name, ours_name, bias in (
                ("lin_rbf1", "radial_down", False),
                ("lin_rbf2", "radial_up", False),
                ("lin_sbf1", "spherical_down", False),
                ("lin_sbf2", "spherical_up", False),
                ("lin_kj", "other", True),
                ("lin_ji", "own", True),
                ("lin_down", "down", False),
                ("lin_up", "up", False),
                ("lin", "skip", True),
            ):
                names |= linear(f"{theirs}.{theirs_name}", f"{ours}.{ours_name}", bias)
            for theirs_list, ours_list, length in (
                ("layers_before_skip", "before_skip", len(block.before_skip)),
                ("layers_after_skip", "after_skip", len(block.after_skip)),
            ):
                for n in range(length):
                    for theirs_name, ours_name in (("lin1", "first"), ("lin2", "second")):
                        names |= linear(
                            f"{theirs}.{theirs_list}.{n}.{theirs_name}", f"{ours}.{ours_list}.{n}.{ours_name}"
                        )
        share(self.network, model, names)

    @staticmethod
    def index_sets(batch: GraphBatch) -> tuple[Tensor, ...]:
        """Receiver i and sender j of each edge, i, j, k of each triplet k→j→i, and its edges k→j and j→i."""
        # Pairs of edges into the same atom a, as (edge i→a, edge k→a): the reverse of the former leaves a for i.
        edge, other = edge_pairs(batch)
        edge_ji = batch.reverse_edge()[edge]
        i, j = batch.receivers, batch.senders
        return i, j, i[edge_ji], j[edge_ji], j[other], other, edge_ji

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV; the batch must hold no pairs beyond the cutoff."""
        index = self.index_sets(batch)
        found = dimenet.radius_graph, dimenet.triplets
        dimenet.radius_graph = lambda *_, **__: torch.stack([batch.senders, batch.receivers])
        dimenet.triplets = lambda *_, **__: index
        try:
            return self.network(batch.atomic_numbers, batch.positions, batch.graph_index).squeeze(1)
        finally:
            dimenet.radius_graph, dimenet.triplets = found
