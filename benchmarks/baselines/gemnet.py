"""GemNet as one writes it first: a list of edges, of triplets and of quadruplets, and angles for each of them.

Inputs of messages are concatenated, every directed edge is computed, features are gathered for every triplet and
quadruplet, and the harmonics of every quadruplet are formed. As in the public implementation, the sums over the
triplets and quadruplets of an edge are products of matrices that are padded to the largest number of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.gemnet import AtomSum, GemNet, InteractionBlock, Residual
from mlip_studies.models.layers.spherical import (
    angle,
    harmonic_orders,
    legendre_m0,
    polynomial_envelope,
    real_spherical_harmonics,
)


def act(x: Tensor) -> Tensor:
    """Scaled SiLU."""
    return silu(x) / 0.6


def residual(layer: Residual, x: Tensor) -> Tensor:
    """Two layers and a skip connection."""
    y = act(linear(x, layer.first.weight))
    return (x + act(linear(y, layer.second.weight))) / math.sqrt(2.0)


def combine(first: Tensor, second: Tensor) -> Tensor:
    """Pairs (i, j) with first[i] == second[j], shape (2, n), sorted by i."""
    order = torch.argsort(second)
    values = second[order]
    low, high = torch.searchsorted(values, first), torch.searchsorted(values, first, right=True)
    i = torch.repeat_interleave(torch.arange(len(first), device=first.device), high - low)
    start = torch.cumsum(high - low, 0) - (high - low)
    j = torch.arange(len(i), device=first.device) - start[i] + low[i]
    return torch.stack([i, order[j]])


def padded_place(target: Tensor, n_targets: int) -> tuple[Tensor, int]:
    """Number of each row among those with the same target (sorted), and the largest count."""
    counts = torch.bincount(target, minlength=n_targets)
    start = torch.cumsum(counts, 0) - counts
    return torch.arange(len(target), device=target.device) - start[target], int(counts.max()) if len(target) else 0


def padded(values: Tensor, target: Tensor, place: Tensor, n_targets: int, width: int) -> Tensor:
    """Rows (n, features) as (n_targets, width, features) with zeros where there is none."""
    out = values.new_zeros(n_targets * width, values.shape[1])
    return out.index_copy(0, target * width + place, values).view(n_targets, width, -1)


@dataclass
class Indices:
    """Index sets of a batch and the harmonics on them."""

    source: Tensor
    target: Tensor
    swap: Tensor
    rbf: Tensor
    rbf3: Tensor
    rbf_h: Tensor
    rbf_out: Tensor
    triplet_in: Tensor
    triplet_out: Tensor
    triplet_place: Tensor
    harmonics3: Tensor
    circular3: Tensor
    rbf4: Tensor | None = None
    circular4: Tensor | None = None
    middle_edge: Tensor | None = None
    quad_middle: Tensor | None = None
    quad_out: Tensor | None = None
    quad_place: Tensor | None = None
    harmonics4: Tensor | None = None
    spherical4: Tensor | None = None


class PlainGemNet(nn.Module):
    """The same function as a :class:`GemNet`, with its parameters."""

    def __init__(self, model: GemNet) -> None:
        super().__init__()
        self.model = model

    def _harmonics(self, phi_cab: Tensor, phi_abd: Tensor, theta: Tensor) -> Tensor:
        """Functions of each quadruplet's angles, shape (n_quadruplets, (l, m))."""
        harmonics = real_spherical_harmonics(self.model.l_max, phi_cab, theta)
        if not self.model.smooth_quadruplets:
            return harmonics
        odd = torch.sin(phi_abd) * torch.sin(phi_cab) * torch.sin(theta)
        columns = []
        for column, (_, m) in zip(harmonics.unbind(1), harmonic_orders(self.model.l_max), strict=True):
            column = column * torch.sin(phi_abd).pow(abs(m))
            columns.append(column * odd if m < 0 else column)
        return torch.stack(columns, dim=1)

    def _bessel(self, basis: nn.Module, distances: Tensor, cutoff: float) -> Tensor:
        envelope = polynomial_envelope(distances / cutoff, self.model.envelope_exponent)
        return basis(distances) * envelope.view(-1, 1, 1)

    def indices(self, batch: GraphBatch) -> Indices:
        """Everything that all blocks share."""
        model, l_max = self.model, self.model.l_max
        vectors = batch.positions[batch.senders] - batch.positions[batch.receivers]
        if batch.edge_shift is not None:
            vectors = vectors + batch.edge_shift
        lengths = vectors.norm(dim=1)
        near = (lengths.detach() <= model.embedding_cutoff).nonzero().squeeze(1)
        source, target = batch.senders[near], batch.receivers[near]
        edge_vectors, distances = vectors[near], lengths[near]
        n_edges = len(near)
        swap = torch.arange(n_edges, device=near.device).roll(n_edges // 2)

        envelope = polynomial_envelope(distances / model.embedding_cutoff, model.envelope_exponent).unsqueeze(1)
        rbf = model.radial_basis(distances) * envelope
        bessel = self._bessel(model.bessel_basis, distances, model.embedding_cutoff)

        out, into = combine(target, target)
        keep = out != into
        out, into = out[keep], into[keep]
        place, width = padded_place(out, n_edges)
        phi = angle(edge_vectors[out], edge_vectors[into])
        harmonics3 = padded(legendre_m0(l_max, torch.cos(phi)), out, place, n_edges, width)
        circular3 = torch.einsum("eln,lnc->ecl", bessel, model.circular_trip.weight)
        common = (
            source,
            target,
            swap,
            rbf,
            linear(rbf, model.radial_trip.weight),
            linear(rbf, model.radial_atom.weight),
            linear(rbf, model.radial_out.weight),
            into,
            out,
            place,
            harmonics3,
            circular3,
        )
        if not model.has_quadruplets:
            return Indices(*common)

        # Intermediates: (pair b→a, edge d→b) and (pair b→a, edge c→a); quadruplets are those with the same pair.
        a_of, b_of = batch.receivers, batch.senders
        pair_d, edge_d = combine(b_of, target)
        keep = source[edge_d] != a_of[pair_d]
        pair_d, edge_d = pair_d[keep], edge_d[keep]
        edge_c, pair_c = combine(target, a_of)
        keep = source[edge_c] != b_of[pair_c]
        edge_c, pair_c = edge_c[keep], pair_c[keep]
        middle_c, middle_d = combine(pair_c, pair_d)
        keep = source[edge_c[middle_c]] != source[edge_d[middle_d]]
        middle_c, middle_d = middle_c[keep], middle_d[keep]
        quad_out = edge_c[middle_c]

        to_b = vectors  # from a to b, of every pair
        phi_abd = angle(-to_b[pair_d], edge_vectors[edge_d])
        phi_cab = angle(to_b[pair_c], edge_vectors[edge_c])

        def rejection(v: Tensor, axis: Tensor) -> Tensor:
            return v - (v * axis).sum(1, keepdim=True) / (axis * axis).sum(1, keepdim=True) * axis

        reject_d = rejection(edge_vectors[edge_d], to_b[pair_d])
        reject_c = rejection(edge_vectors[edge_c], to_b[pair_c])
        theta = angle(reject_c[middle_c], reject_d[middle_d])
        place, width = padded_place(quad_out, n_edges)
        harmonics = self._harmonics(phi_cab[middle_c], phi_abd[middle_d], theta)
        harmonics4 = padded(harmonics, quad_out, place, n_edges, width).transpose(1, 2)
        pair_bessel = self._bessel(model.pair_basis, lengths, model.int_cutoff)
        circular = pair_bessel[pair_d] * legendre_m0(l_max, torch.cos(phi_abd)).unsqueeze(2)
        # One projection for all m of an order l.
        per_order = [2 * order + 1 for order in range(l_max + 1)]
        orders = torch.repeat_interleave(torch.arange(l_max + 1), torch.tensor(per_order)).to(near.device)
        spherical4 = torch.einsum("ekn,kns->esk", bessel[:, orders], model.spherical_quad.weight)
        return Indices(
            *common,
            linear(rbf, model.radial_quad.weight),
            linear(circular.flatten(1), model.circular_quad.weight),
            edge_d,
            middle_d,
            quad_out,
            place,
            harmonics4,
            spherical4,
        )

    def atom_sum(self, layer: AtomSum, messages: Tensor, rbf: Tensor, target: Tensor, n_atoms: int) -> Tensor:
        """Sum of the edges into each atom, and a perceptron."""
        weighted = messages * linear(rbf, layer.radial.weight)
        total = weighted.new_zeros(n_atoms, weighted.shape[1]).index_add(0, target, weighted)
        x = act(linear(total * getattr(self.model.scales, layer._name), layer.dense.weight))
        for block in layer.residuals:
            x = residual(block, x)
        return x

    def _up(self, layer: nn.Module, x: Tensor, swap: Tensor) -> Tensor:
        forward, backward = act(linear(x, layer.up.weight)), act(linear(x, layer.up_reverse.weight))
        return (forward + backward[swap]) / math.sqrt(2.0)

    def _triplets(self, layer: nn.Module, m: Tensor, ix: Indices) -> Tensor:
        scales, name = self.model.scales, layer._name
        x = act(linear(m, layer.dense.weight)) * linear(ix.rbf3, layer.radial.weight)
        x = act(linear(x * getattr(scales, name + "had_rbf"), layer.down.weight))
        width = ix.harmonics3.shape[1]
        x = padded(x[ix.triplet_in], ix.triplet_out, ix.triplet_place, len(m), width)
        x = ix.circular3 @ (ix.harmonics3.transpose(1, 2) @ x)  # (edges, cbf, trip)
        x = torch.einsum("ect,tcb->eb", x, layer.bilinear.weight) * getattr(scales, name + "sum_cbf")
        return self._up(layer, x, ix.swap)

    def _quadruplets(self, layer: nn.Module, m: Tensor, ix: Indices) -> Tensor:
        scales, name = self.model.scales, layer._name
        x = act(linear(m, layer.dense.weight)) * linear(ix.rbf4, layer.radial.weight)
        x = act(linear(x * getattr(scales, name + "had_rbf"), layer.down.weight))
        x = x[ix.middle_edge] * linear(ix.circular4, layer.circular.weight) * getattr(scales, name + "had_cbf")
        x = padded(x[ix.quad_middle], ix.quad_out, ix.quad_place, len(m), ix.harmonics4.shape[2])
        x = ix.spherical4 @ (ix.harmonics4 @ x)  # (edges, sbf, quad)
        x = torch.einsum("esq,qsb->eb", x, layer.bilinear.weight) * getattr(scales, name + "sum_sbf")
        return self._up(layer, x, ix.swap)

    def _block(self, block: InteractionBlock, h: Tensor, m: Tensor, ix: Indices) -> tuple[Tensor, Tensor]:
        x = act(linear(m, block.skip.weight)) + self._triplets(block.triplets, m, ix)
        if block.quadruplets is None:
            x = x / math.sqrt(2.0)
        else:
            x = (x + self._quadruplets(block.quadruplets, m, ix)) / math.sqrt(3.0)
        for layer in block.before_skip:
            x = residual(layer, x)
        m = (m + x) / math.sqrt(2.0)
        for layer in block.after_skip:
            m = residual(layer, m)
        h = (h + self.atom_sum(block.atom_update, m, ix.rbf_h, ix.target, len(h))) / math.sqrt(2.0)
        x = act(linear(torch.cat([h[ix.source], h[ix.target], m], dim=1), block.concat.weight))
        for layer in block.residuals:
            x = residual(layer, x)
        return h, (m + x) / math.sqrt(2.0)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64."""
        model = self.model
        ix = self.indices(batch)
        h = model.atom_embedding(batch.atomic_numbers - 1)
        m = act(linear(torch.cat([h[ix.source], h[ix.target], ix.rbf], dim=1), model.edge_embedding.weight))
        energy = 0.0
        for number, output in enumerate(model.outputs):
            if number:
                h, m = self._block(model.interactions[number - 1], h, m, ix)
            energy = energy + linear(self.atom_sum(output, m, ix.rbf_out, ix.target, len(h)), output.energy.weight)
        return batch.sum_atoms(energy)

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å."""
        positions = batch.positions.detach().requires_grad_(True)
        with torch.enable_grad():
            energy = self(batch.with_positions(positions))
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
        return energy, -gradient
