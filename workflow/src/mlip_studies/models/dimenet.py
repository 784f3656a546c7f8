"""DimeNet++: directional message passing between the edges of a molecule.

Sources: J. Gasteiger, S. Giri, J. T. Margraf, S. Günnemann, "Fast and Uncertainty-Aware Directional Message Passing for
Non-Equilibrium Molecules" (arXiv:2011.14115), and J. Gasteiger, J. Groß, S. Günnemann, "Directional Message Passing for
Molecular Graphs" (ICLR 2020). Every neighbour within the cutoff counts.

A message j→i is updated by those of all edges k→j, k ≠ i, with the functions R_ln(d_kj) Y_l0(α) of the angle between
the two steps k→j and j→i: as DimeNet++ defines it, α is π minus the angle at j between k and i. Only its cosine is
needed, so that forces are exact gradients for straight molecules too.

How the sum over triplets is taken here: atoms have a fixed number of places for their edges, and for each atom j
the sums over k are products of small dense matrices,

    Σ_k s_kji ∘ x_kj = Σ_(k,b) t_kji,b (W₂,b ∘ x_kj),    t_kji,b = Σ_l Y_l0(α_kji) Σ_n W₁,bln R_ln(d_kj),

where the radial part, a function of the edge, is never repeated for its triplets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.layers.activations import silu
from mlip_studies.models.layers.spherical import SineBasis, SphericalBesselBasis, polynomial_envelope

#: rows of the element embedding, one per atomic number; row 0 belongs to no element
EMBEDDING_ROWS = 95
OUTPUT_INITS = ("glorot_orthogonal", "zeros")


def glorot_orthogonal(weight: Tensor) -> None:
    """Fill a matrix (n_out, n_in) with random orthogonal weights of variance 2 / (n_in + n_out), in place."""
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        weight.mul_((2.0 / ((weight.shape[0] + weight.shape[1]) * weight.var())).sqrt())


def dense(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A linear layer as DimeNet initialises it."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    if layer.weight.numel() > 1:
        glorot_orthogonal(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def split_directions(values: Tensor, of_pairs: Tensor) -> Tensor:
    """Edge values (n_edges, f) as (directions, n, f) for combining them with a function of the distance (n, f)."""
    return values.view(1 if len(values) == len(of_pairs) else 2, *of_pairs.shape)


def both_directions(values: Tensor, of_pairs: Tensor) -> Tensor:
    """Product of edge values (n_edges, f) and a function of the distance (n, f), n being n_edges or n_pairs."""
    return (split_directions(values, of_pairs) * of_pairs).view(values.shape)


class Residual(nn.Module):
    """x + σ(W₂ σ(W₁ x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = dense(width, width)
        self.second = dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape of x (n, width)."""
        return x + silu(self.second(silu(self.first(x))))


class Embedding(nn.Module):
    """First messages σ(W [h_i ‖ h_j ‖ σ(W_r rbf)]), without forming the concatenation."""

    def __init__(self, hidden: int, n_radial: int) -> None:
        super().__init__()
        self.elements = nn.Embedding(EMBEDDING_ROWS, hidden)
        nn.init.uniform_(self.elements.weight, -(3.0**0.5), 3.0**0.5)
        self.radial = dense(n_radial, hidden)
        self.message = dense(3 * hidden, hidden)

    def forward(self, batch: GraphBatch, rbf: Tensor) -> Tensor:
        """Messages (n_edges, hidden) from the radial basis (n, n_radial) of pairs or edges."""
        atoms = gather(self.elements.weight, batch.atomic_numbers)
        to_i, to_j, from_radial = self.message.weight.chunk(3, dim=1)
        received = gather(linear(atoms, to_i, self.message.bias), batch.receivers)
        sent = gather(linear(atoms, to_j), batch.senders)
        radial = linear(silu(self.radial(rbf)), from_radial)
        message = split_directions(received + sent, radial) + radial
        return silu(message.view(received.shape))


def _chunks(x: Tensor, n_basis: int) -> list[slice]:
    """Atoms to take together: on a CPU as many as keep the largest intermediate in its cache."""
    rows = max(x.shape[0], 1)
    if x.device.type == "cpu":
        rows = max(2**18 // (x.shape[1] * x.shape[2] * n_basis), 1)
    return [slice(start, start + rows) for start in range(0, x.shape[0], rows)]


def _spread(x: Tensor, w: Tensor) -> Tensor:
    """w_bc x_kc for each atom: (n, k · b, c) from x (n, k, c) and w (b, c)."""
    return (x.unsqueeze(2) * w).view(x.shape[0], -1, x.shape[2])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _TripletSum(Function):
    """out_nic = Σ_kb t_n(kb)i w_bc x_nkc.

    Shapes: t (n_atoms, k · b, i), x (n_atoms, k, c), w (b, c), out (n_atoms, i, c). Derivatives are written out, so
    that tensors of n_atoms · k · b · c numbers live for a few atoms at a time only and none is kept. Nothing is written
    in place before the last derivative: a traced step is differentiated as it stands.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(t, x, w)
        return _joined([torch.bmm(t[p].transpose(1, 2), _spread(x[p], w)) for p in _chunks(x, w.shape[0])])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_w = ctx.needs_input_grad[2]
        gradients: tuple[Tensor | None, ...] = _TripletSumGradient.apply(grad.contiguous(), *ctx.saved_tensors, of_w)
        return gradients


class _TripletSumGradient(Function):
    """Derivatives of Σ grad · out by t, x and w, the last one where it is wanted."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, t: Tensor, x: Tensor, w: Tensor, with_w: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.save_for_backward(grad, t, x, w)
        ctx.set_materialize_grads(False)
        to_t, to_x, to_w = [], [], []
        for part in _chunks(x, w.shape[0]):
            to_t.append(torch.bmm(_spread(x[part], w), grad[part].transpose(1, 2)))
            back = torch.bmm(t[part], grad[part]).view(*x[part].shape[:2], *w.shape)
            to_x.append((back * w).sum(dim=2))
            if with_w:
                to_w.append((back * x[part].unsqueeze(2)).sum(dim=(0, 1)))
        return _joined(to_t), _joined(to_x), torch.stack(to_w).sum(dim=0) if with_w else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_t: Tensor | None, of_x: Tensor | None, of_w: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, t, x, w = ctx.saved_tensors
        of_t = torch.zeros_like(t) if of_t is None else of_t.contiguous()
        of_x = torch.zeros_like(x) if of_x is None else of_x.contiguous()
        to_grad, to_t, to_x, to_w = (torch.empty_like(value) for value in (grad, t, x, w))
        to_w.zero_()
        for part in _chunks(x, w.shape[0]):
            g, places = grad[part], x[part].shape[:2]
            spread = _spread(of_x[part], w)
            if of_w is not None:
                spread += _spread(x[part], of_w)
            torch.bmm(t[part].transpose(1, 2), spread, out=to_grad[part])
            to_grad[part].baddbmm_(of_t[part].transpose(1, 2), _spread(x[part], w))
            torch.bmm(spread, g.transpose(1, 2), out=to_t[part])
            back = torch.bmm(of_t[part], g).view(*places, *w.shape)
            direct = torch.bmm(t[part], g).view(*places, *w.shape)
            to_w += (direct * of_x[part].unsqueeze(2)).addcmul_(back, x[part].unsqueeze(2)).sum(dim=(0, 1))
            back.mul_(w)
            if of_w is not None:
                back.addcmul_(direct, of_w)
            torch.sum(back, dim=2, out=to_x[part])
        return to_grad, to_t, to_x, to_w, None


class Interaction(nn.Module):
    """One interaction block, from messages to messages."""

    def __init__(
        self, hidden: int, triplet: int, basis: int, n_spherical: int, n_radial: int, before: int, after: int
    ) -> None:
        super().__init__()
        self.n_spherical = n_spherical
        self.radial_down = dense(n_radial, basis, bias=False)
        self.radial_up = dense(basis, hidden, bias=False)
        self.spherical_down = dense(n_spherical * n_radial, basis, bias=False)
        self.spherical_up = dense(basis, triplet, bias=False)
        self.other = dense(hidden, hidden)
        self.own = dense(hidden, hidden)
        self.down = dense(hidden, triplet, bias=False)
        self.up = dense(triplet, hidden, bias=False)
        self.before_skip = nn.ModuleList(Residual(hidden) for _ in range(before))
        self.skip = dense(hidden, hidden)
        self.after_skip = nn.ModuleList(Residual(hidden) for _ in range(after))

    def forward(self, message: Tensor, features: dict[str, Tensor], n_atoms: int) -> Tensor:
        """New messages (n_edges, hidden) from messages and the geometry of :meth:`DimeNetPP.steps`."""
        gate = linear(features["rbf"], self.radial_up.weight @ self.radial_down.weight)
        x = silu(self.down(both_directions(silu(self.other(message)), gate)))
        x = silu(self.up(self._sum_triplets(x, features, n_atoms)))
        x = silu(self.own(message)) + x
        for layer in self.before_skip:
            x = layer(x)
        message = message + silu(self.skip(x))
        for layer in self.after_skip:
            message = layer(message)
        return message

    def _sum_triplets(self, x: Tensor, features: dict[str, Tensor], n_atoms: int) -> Tensor:
        """Σ_k s_kji ∘ x_kj of each edge j→i, shape (n_edges, triplet), from x_kj (n_edges, triplet)."""
        legendre, incoming, outgoing = features["legendre"], features["incoming"], features["outgoing"]
        n_slots, n_basis, width = legendre.shape[2], self.spherical_up.weight.shape[1], x.shape[1]
        n_places = n_atoms * n_slots
        # Radial part of each edge, (n_edges, basis, l), put into its place among the edges into atom j.
        weight = self.spherical_down.weight.view(n_basis, self.n_spherical, -1)
        radial = torch.einsum("eln,bln->ebl", features["radial"], weight).flatten(1)
        if radial.shape[0] != x.shape[0]:
            radial = torch.cat([radial, radial])
        radial = scatter_sum(radial, incoming, n_places + 1)[:n_places].view(n_places, n_basis, self.n_spherical)
        x = scatter_sum(x, incoming, n_places + 1)[:n_places].view(n_atoms, n_slots, width)
        # (atom j, k and basis, i)
        angular = torch.bmm(radial, legendre).view(n_atoms, n_slots * n_basis, n_slots)
        sums = _TripletSum.apply(angular, x, self.spherical_up.weight.t().contiguous())
        return gather(sums.view(n_places, width), outgoing)


class Output(nn.Module):
    """Atomic energies from the messages into each atom."""

    def __init__(self, hidden: int, out: int, n_radial: int, n_layers: int, output_init: str) -> None:
        super().__init__()
        self.radial = dense(n_radial, hidden, bias=False)
        self.up = dense(hidden, out, bias=False)
        self.layers = nn.ModuleList(dense(out, out) for _ in range(n_layers))
        self.energy = dense(out, 1, bias=False)
        if output_init == "zeros":
            nn.init.zeros_(self.energy.weight)

    def forward(self, batch: GraphBatch, message: Tensor, rbf: Tensor) -> Tensor:
        """Shape (n_atoms, 1) from messages (n_edges, hidden) and the radial basis (n, n_radial)."""
        x = self.up(batch.sum_edges(both_directions(message, self.radial(rbf))))
        for layer in self.layers:
            x = silu(layer(x))
        energies: Tensor = self.energy(x)
        return energies


def edge_places(batch: GraphBatch) -> tuple[Tensor, Tensor, int]:
    """A place for every edge among those into its receiver, and among those out of its sender.

    Returns:
        ``incoming`` and ``outgoing``, int64, shape (n_edges,), and the number m of places of an atom: place
        receiver · m + rank of each edge, and sender · m + rank. Where edges come in pairs, an edge and its reverse have
        the same rank. Padding edges have incoming place n_atoms · m, which no real edge has, and outgoing place 0.
    """
    n_edges, device = batch.n_edges, batch.receivers.device
    place = torch.arange(n_edges, device=device)

    def ranks(atoms: Tensor) -> tuple[Tensor, Tensor]:
        degree = scatter_sum(torch.ones_like(atoms), atoms, batch.n_atoms)
        order = torch.argsort(atoms, stable=True)
        first = torch.cumsum(degree, 0) - degree
        return torch.empty_like(place).scatter_(0, order, place) - gather(first, atoms), degree

    rank, degree = ranks(batch.receivers)
    if batch.n_pairs is None:
        rank_out, degree_out = ranks(batch.senders)
        degree = torch.maximum(degree, degree_out)
    else:
        rank_out = torch.cat([rank[batch.n_pairs :], rank[: batch.n_pairs]])
    if batch.budget is None:
        n_slots = max(int(degree.max()), 1) if batch.n_atoms else 1
        return batch.receivers * n_slots + rank, batch.senders * n_slots + rank_out, n_slots
    n_slots = max(batch.budget.neighbours - 1, 1)
    is_real = gather(batch.graph_index, batch.receivers) < batch.n_graphs - 1
    incoming = torch.where(is_real, batch.receivers * n_slots + rank, batch.n_atoms * n_slots)
    return incoming, torch.where(is_real, batch.senders * n_slots + rank_out, 0), n_slots


class DimeNetPP(AtomisticModel):
    """DimeNet++ with a sum of atomic energies; 1,885,830 parameters in the default configuration."""

    cutoff: float

    def __init__(
        self,
        hidden: int = 128,
        out: int = 256,
        triplet: int = 64,
        basis: int = 8,
        n_blocks: int = 4,
        n_spherical: int = 7,
        n_radial: int = 6,
        cutoff: float = 5.0,
        envelope_exponent: int = 5,
        n_before_skip: int = 1,
        n_after_skip: int = 2,
        n_output_layers: int = 3,
        output_init: str = "glorot_orthogonal",
        elements: Sequence[int] | None = None,
    ) -> None:
        """Build the network.

        Args:
            hidden: width of messages.
            out: width of the output blocks.
            triplet: width of messages in the sum over triplets.
            basis: width that the bases are projected to first.
            n_blocks: number of interaction blocks; there is one output block more.
            n_spherical: angular orders, l = 0 … n_spherical - 1.
            n_radial: radial functions of each order.
            cutoff: Å.
            envelope_exponent: p - 1 of the envelope that takes the bases to 0 at the cutoff.
            n_before_skip: residual layers before a block's skip connection.
            n_after_skip: residual layers after it.
            n_output_layers: nonlinear layers of an output block.
            output_init: ``glorot_orthogonal``, or ``zeros``: all energies are 0 before training.
            elements: atomic numbers that the model shall accept; None: 1 to 94.

        Raises:
            InputError: an option out of its range.
        """
        super().__init__()
        least = {
            "hidden": (hidden, 1),
            "out": (out, 1),
            "triplet": (triplet, 1),
            "basis": (basis, 1),
            "n_blocks": (n_blocks, 1),
            "n_spherical": (n_spherical, 1),
            "n_radial": (n_radial, 1),
            "envelope_exponent": (envelope_exponent, 1),
            "n_before_skip": (n_before_skip, 0),
            "n_after_skip": (n_after_skip, 0),
            "n_output_layers": (n_output_layers, 0),
        }
        for name, (value, bound) in least.items():
            if value < bound:
                raise InputError(f"DimeNet++: {name} = {value}; expected {bound} or more")
        if not cutoff > 0.0:
            raise InputError(f"DimeNet++: cutoff = {cutoff}; expected a positive length in Å")
        if output_init not in OUTPUT_INITS:
            raise InputError(
                f"DimeNet++: output_init {output_init!r} is unknown; choose one of {', '.join(OUTPUT_INITS)}"
            )
        self.elements = tuple(range(1, EMBEDDING_ROWS)) if elements is None else tuple(sorted(set(elements)))
        if not self.elements or self.elements[0] < 1 or self.elements[-1] >= EMBEDDING_ROWS:
            raise InputError(f"DimeNet++: elements = {list(self.elements)}; expected atomic numbers from 1 to 94")
        self.cutoff = cutoff
        self.n_spherical = n_spherical
        self.envelope_exponent = envelope_exponent
        self.radial_basis = SineBasis(n_radial, cutoff, norm=cutoff)
        self.spherical_basis = SphericalBesselBasis(n_spherical, n_radial, cutoff)
        self.embedding = Embedding(hidden, n_radial)
        self.interactions = nn.ModuleList(
            Interaction(hidden, triplet, basis, n_spherical, n_radial, n_before_skip, n_after_skip)
            for _ in range(n_blocks)
        )
        self.outputs = nn.ModuleList(
            Output(hidden, out, n_radial, n_output_layers, output_init) for _ in range(n_blocks + 1)
        )

    def _embed(self, batch: GraphBatch, _: dict[str, Tensor]) -> dict[str, Tensor]:
        vectors = batch.edge_vectors()
        half = vectors[: batch.n_edges if batch.n_pairs is None else batch.n_pairs]
        distances = half.square().sum(dim=1).sqrt()
        envelope = polynomial_envelope(distances / self.cutoff, self.envelope_exponent + 1)
        rbf = self.radial_basis(distances) * envelope.unsqueeze(1)
        # The spherical functions carry the envelope over d / c, and no normalisation with the cutoff.
        scale = envelope * (self.cutoff**2.5 / distances)
        radial = self.spherical_basis(distances) * scale.view(-1, 1, 1)
        directions = half / distances.unsqueeze(1)
        if batch.n_pairs is not None:
            directions = torch.cat([directions, -directions])
        incoming, outgoing, n_slots = edge_places(batch)
        message = self.embedding(batch, rbf)
        return {
            "message": message,
            "energies": self.outputs[0](batch, message, rbf),
            "rbf": rbf,
            "radial": radial,
            "legendre": self._legendre(batch, directions, incoming, outgoing, n_slots),
            "incoming": incoming,
            "outgoing": outgoing,
        }

    def _legendre(
        self, batch: GraphBatch, directions: Tensor, incoming: Tensor, outgoing: Tensor, n_slots: int
    ) -> Tensor:
        """Y_l0 of the angles between the steps k→j and j→i; 0 for k = i. Shape (n_atoms · m, l, m): (j and k, l, i)."""
        n_places = batch.n_atoms * n_slots
        into = scatter_sum(directions, incoming, n_places + 1)[:n_places].view(batch.n_atoms, n_slots, 3)
        if batch.n_pairs is not None:
            # An edge and its reverse have the same place.
            cosines = -torch.bmm(into, into.transpose(1, 2))
            same = torch.eye(n_slots, dtype=torch.bool, device=cosines.device)
        else:
            out_of = scatter_sum(directions, outgoing, n_places).view(batch.n_atoms, n_slots, 3)
            cosines = torch.bmm(into, out_of.transpose(1, 2))
            nobody = torch.full((n_places,), -1, dtype=torch.int64, device=cosines.device)
            sender = nobody.scatter(0, incoming, batch.senders).view(batch.n_atoms, n_slots, 1)
            receiver = nobody.scatter(0, outgoing, batch.receivers).view(batch.n_atoms, 1, n_slots)
            same = sender == receiver
        return self._harmonics(cosines, (~same).to(cosines.dtype).expand_as(cosines)).view(
            n_places, self.n_spherical, n_slots
        )

    def _harmonics(self, cosines: Tensor, factor: Tensor) -> Tensor:
        """Y_l0 times a factor, (n, k, l, i) from cosines and factors (n, k, i)."""
        # The recurrence is linear in the functions: the factor of the first two is that of all.
        before, current = factor, cosines * factor
        columns = [before, current][: self.n_spherical]
        for order in range(2, self.n_spherical):
            before, current = (
                current,
                ((2 * order - 1) / order) * cosines * current - ((order - 1) / order) * before,
            )
            columns.append(current)
        norms = [math.sqrt((2 * order + 1) / (4.0 * math.pi)) for order in range(self.n_spherical)]
        return torch.stack([norm * column for norm, column in zip(norms, columns, strict=True)], dim=2)

    def _interact(self, index: int, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
        message = self.interactions[index](features["message"], features, batch.n_atoms)
        energies = features["energies"] + self.outputs[index + 1](batch, message, features["rbf"])
        return {**features, "message": message, "energies": energies}

    def steps(self) -> list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]]:
        """Embedding (with the geometry, and the first output block), interaction blocks, and the sum over atoms."""
        layers = [(f"layer {k + 1}", partial(self._interact, k)) for k in range(len(self.interactions))]
        return [
            ("embedding", self._embed),
            *layers,
            ("readout", lambda batch, features: {"energy": batch.sum_atoms(features["energies"])}),
        ]

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64."""
        features: dict[str, Tensor] = {}
        for _, step in self.steps():
            features = step(batch, features)
        return features["energy"]
