"""GemNet-T and GemNet-Q: messages between directed edges through angles and dihedral angles.

Source: J. Gasteiger, F. Becker, S. Günnemann, "GemNet: Universal directional graph neural networks for molecules",
NeurIPS 2021; as used by S. Stocker, J. Gasteiger, F. Becker, S. Günnemann, J. T. Margraf, Mach. Learn.: Sci. Technol.
3, 045010 (2022), where GemNet-T has 1,892,294 and GemNet-Q 2,158,470 trainable parameters.

How the sums are done here
    An edge c→a receives the sum over its quadruplets c→a – b←d of (message of d→b) ⊗ (spherical harmonics of c in the
    frame of the axis a–b, with the dihedral angle θ = ∠(c, ab, d) as azimuth). With α the azimuths of c and d around
    the axis, θ is the unsigned difference of α_c and α_d. cos(mθ) is a sum of products of a function of c and one of d:
    these parts are summed over d once per pair (a, b), as for a multipole expansion, and the term with d = c is taken
    away. Only sin(|m|θ), which depends on the sign of the difference, needs a number per quadruplet. Both sums are
    matrix products over tables of neighbours; no per-quadruplet feature vector is ever made.

Two singularities of GemNet-Q (not of GemNet-T)
    * sin(|m|θ) of an unsigned angle has a kink at θ = 0 and π: the energy has a cusp wherever four atoms c–a–b–d lie in
      one plane, and its force jumps there. Exactly in the plane no force comes from it.
    * Where d, b and a lie on a line and c does not, θ has no value and the harmonics of c do not vanish: the energy is
      discontinuous (its limit depends on the direction of the bend), and forces grow as 1/ρ with the distance ρ of d
      from the line. Nitriles and alkynes do this. Exactly on the line θ is taken as π/2, and no force comes from θ.

    ``smooth_quadruplets=True`` removes both: e^{iθ} is replaced by w = sin φ_abd · e^{iθ} (together with the harmonics'
    own sin φ_cab this is a polynomial in unit vectors), and sin(|m|θ) by Im(w^m) Im(w) sin φ_cab, which is even in the
    sign of θ. The harmonics of degree m thus fade as sin^m φ_abd when d comes to the line, those with m = 0 stay,
    and the energy is infinitely often differentiable. It also needs no number per quadruplet at all. The model is then
    another one: weights of one variant are of no use to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.pieces import cut, join, stack, swap_halves, twice, unstack
from mlip_studies.graph.quadruplets import (
    NeighbourTable,
    Places,
    QuadrupletBlock,
    Quadruplets,
    Triplets,
    neighbour_table,
    quadruplet_blocks,
    triplet_blocks,
)
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.gemnet_scaling import ScaleFactors, factor_names
from mlip_studies.models.layers.activations import silu
from mlip_studies.models.layers.recompute import recomputed
from mlip_studies.models.layers.spherical import (
    SineBasis,
    SphericalBesselBasis,
    harmonic_orders,
    legendre_m0,
    legendre_without_sine,
    polynomial_envelope,
)

#: rows of the table of element embeddings: H to Np
N_ELEMENTS = 93
#: The activation is SiLU(x) / 0.6, which keeps the variance of normally distributed inputs. The factor is applied to
#: the weights that come next, where it costs nothing.
GAIN = 1.0 / 0.6
#: atoms whose triplets and quadruplets are summed at a time on a CPU
CPU_CHUNK = 64

Step = Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]


def he_orthogonal_(weight: Tensor) -> Tensor:
    """Semi-orthogonal weights whose rows have mean 0 and variance 1 / fan-in, in place.

    Args:
        weight: shape (n_out, n_in), or (n_in, m_in, n_out) of a bilinear layer, whose fan-in is n_in · m_in.
    """
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        axes = (1,) if weight.dim() == 2 else (0, 1)
        fan_in = math.prod(weight.shape[axis] for axis in axes)
        variance, mean = torch.var_mean(weight, dim=axes, unbiased=True, keepdim=True)
        weight.sub_(mean).div_((variance + 1e-6).sqrt()).mul_(fan_in**-0.5)
    return weight


class Weight(nn.Module):
    """A weight without bias: (out, in) of a linear layer, or (in, in', out) of a bilinear one."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(he_orthogonal_(torch.empty(shape)))


class Residual(nn.Module):
    """(x + act(W2 act(W1 x))) / sqrt(2)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.first, self.second = Weight(units, units), Weight(units, units)

    def forward(self, x: Tensor, scale: float) -> tuple[Tensor, float]:
        """Output y and factor t, the layer's value being t · y, for the input ``scale`` · x; shape (n, units).

        Factors are passed on to where they can be applied to a weight.
        """
        y = silu(linear(silu(linear(x, scale * self.first.weight)), GAIN * self.second.weight))
        return torch.add(x, y, alpha=GAIN / scale), scale * math.sqrt(0.5)


class AtomSum(nn.Module):
    """MLP(s Σ_{edges into a} m ⊙ W rbf): what an atom gets from the edges into it."""

    def __init__(self, scales: ScaleFactors, name: str, emb_atom: int, emb_edge: int, emb_rbf: int, n: int) -> None:
        super().__init__()
        self._scales, self._name = (scales,), name  # in a tuple: not to be registered here a second time
        self.radial = Weight(emb_edge, emb_rbf)
        self.dense = Weight(emb_atom, emb_edge)
        self.residuals = nn.ModuleList(Residual(emb_atom) for _ in range(n))

    def atoms(self, messages: Tensor, scale: float, radial: Tensor, graph: Geometry) -> tuple[Tensor, float]:
        """Output y and factor t, the value being t · y, shape (n_atoms, emb_atom).

        Args:
            messages: shape (n_edges, emb_edge), to be multiplied with ``scale``.
            scale: see there.
            radial: radial features, shape (n_edges / 2, emb_rbf).
            graph: of the batch.
        """
        (scales,) = self._scales
        factor = getattr(scales, self._name)
        filters = twice(linear(radial, scale * self.radial.weight))
        total = scatter_sum(messages * filters, graph.receivers, graph.n_atoms)
        scales.observe(self._name, messages * scale, lambda: total * factor)
        x, scale = silu(linear(total, factor * self.dense.weight)), GAIN
        for layer in self.residuals:
            x, scale = layer(x, scale)
        return x, scale


class OutputBlock(AtomSum):
    """Atomic energies from messages."""

    def __init__(self, scales: ScaleFactors, name: str, emb_atom: int, emb_edge: int, emb_rbf: int, n: int) -> None:
        super().__init__(scales, name, emb_atom, emb_edge, emb_rbf, n)
        self.energy = Weight(1, emb_atom)

    def forward(self, messages: Tensor, radial: Tensor, graph: Geometry) -> Tensor:
        """Shape (n_atoms, 1), eV, from messages (n_edges, emb_edge) and radial features (n_edges / 2, emb_rbf)."""
        x, scale = self.atoms(messages, 1.0, radial, graph)
        return linear(x, scale * self.energy.weight)


class TripletInteraction(nn.Module):
    """Messages through angles: sum over b of the messages of b→a, for each edge c→a."""

    def __init__(self, scales: ScaleFactors, block: int, size: Sizes) -> None:
        super().__init__()
        self._scales, self._name = (scales,), f"TripInteraction_{block}_"
        self.dense = Weight(size.edge, size.edge)
        self.radial = Weight(size.edge, size.rbf)
        self.down = Weight(size.trip, size.edge)
        self.bilinear = Weight(size.trip, size.cbf, size.bil_trip)
        self.up = Weight(size.edge, size.bil_trip)
        self.up_reverse = Weight(size.edge, size.bil_trip)

    def forward(self, x: Tensor, bases: Bases, graph: Geometry) -> Tensor:
        """Shape (n_edges, 2 emb_edge), before the activation's factor: for the edge and for its reverse.

        Args:
            x: SiLU(W m), without its factor, shape (n_edges, emb_edge).
            bases: of the batch.
            graph: of the batch.
        """
        (scales,) = self._scales
        had_rbf, sum_cbf = (getattr(scales, self._name + part) for part in ("had_rbf", "sum_cbf"))
        y = x * twice(linear(bases.radial_trip, (GAIN * had_rbf) * self.radial.weight))
        scales.observe(self._name + "had_rbf", x * GAIN, lambda: y)
        x = silu(linear(y, self.down.weight))
        weight = self.bilinear.weight
        n_trip, n_cbf, n_bil = weight.shape
        weight = ((GAIN * sum_cbf) * weight.transpose(0, 1)).reshape(n_cbf * n_trip, n_bil)
        places = graph.triplets.places
        messages = cut(places.take(x), [angular.shape[0] * angular.shape[2] for angular in bases.circular_trip])
        # Sum over b before the weights, which are linear in it.
        sums = [
            torch.bmm(angular, part.view(-1, angular.shape[2], n_trip)).view(-1, n_cbf * n_trip) @ weight
            for angular, part in zip(bases.circular_trip, messages, strict=True)
        ]
        y = places.read(join(sums))
        scales.observe(self._name + "sum_cbf", x * GAIN, lambda: y, gather(graph.table.degree - 1, graph.receivers))
        return silu(linear(y, torch.cat([self.up.weight, self.up_reverse.weight])))


class QuadrupletInteraction(nn.Module):
    """Messages through dihedral angles: sum over b and d of the messages of d→b, for each edge c→a."""

    def __init__(self, scales: ScaleFactors, block: int, size: Sizes) -> None:
        super().__init__()
        self._scales, self._name = (scales,), f"QuadInteraction_{block}_"
        self.dense = Weight(size.edge, size.edge)
        self.radial = Weight(size.edge, size.rbf)
        self.down = Weight(size.quad, size.edge)
        self.circular = Weight(size.quad, size.cbf)
        self.bilinear = Weight(size.quad, size.sbf, size.bil_quad)
        self.up = Weight(size.edge, size.bil_quad)
        self.up_reverse = Weight(size.edge, size.bil_quad)

    def forward(self, x: Tensor, bases: Bases, graph: Geometry) -> Tensor:
        """Shape (n_edges, 2 emb_edge), before the activation's factor, as :meth:`TripletInteraction.forward`."""
        (scales,) = self._scales
        assert bases.radial_quad is not None and bases.circular_quad is not None
        had_rbf, had_cbf, sum_sbf = (getattr(scales, self._name + part) for part in ("had_rbf", "had_cbf", "sum_sbf"))
        y = x * twice(linear(bases.radial_quad, (GAIN * had_rbf) * self.radial.weight))
        scales.observe(self._name + "had_rbf", x * GAIN, lambda: y)
        x = silu(linear(y, self.down.weight))
        # Radial part of d_ab, per order l of the angle at b, (n_pairs, l, quad); the same for a pair and its reverse.
        circular = linear(bases.circular_quad, (GAIN * had_cbf) * self.circular.weight)
        weight = self.bilinear.weight
        weight = (sum_sbf * weight).permute(1, 0, 2).reshape(-1, weight.shape[2])
        if scales.observer is not None:
            self._observe_pairs(x, circular, bases, graph)
        assert graph.quadruplets is not None
        values = [
            recomputed(partial(_one, functions), x, circular, weight, *functions.tensors)[0]
            if bases.recompute
            else functions.messages(x, circular, weight, *functions.tensors)
            for functions in bases.quadruplets
        ]
        y = graph.quadruplets.places.read(join(values))
        if scales.observer is not None:
            self._observe_quadruplets(x, circular, bases, lambda: y)
        return silu(linear(y, torch.cat([self.up.weight, self.up_reverse.weight])))

    def _observe_pairs(self, x: Tensor, circular: Tensor, bases: Bases, graph: Geometry) -> None:
        """Show the product with the circular basis, row by row of the intermediate triplets, to the observer."""
        before, after = [], []
        for functions in bases.quadruplets:
            wanted = functions.block.with_d.reshape(-1)
            before.append(gather(x, functions.block.into_b.reshape(-1))[wanted] * GAIN)
            after.append(functions.intermediate(x, circular, functions.tensors[0])[wanted])
        self._scales[0].observe(self._name + "had_cbf", torch.cat(before), lambda: torch.cat(after))

    def _observe_quadruplets(self, x: Tensor, circular: Tensor, bases: Bases, result: Callable[[], Tensor]) -> None:
        """Show the sum over quadruplets to the observer; a row of its input enters once per edge c→a that it meets."""
        before, counts = [], []
        for functions in bases.quadruplets:
            block = functions.block
            before.append(functions.intermediate(x, circular, functions.tensors[0]))
            different = (~block.same & block.with_c.transpose(1, 2).unsqueeze(3)).sum(2)
            counts.append(torch.where(block.with_d, different, 0).reshape(-1))
        self._scales[0].observe(self._name + "sum_sbf", torch.cat(before), result, torch.cat(counts))


class InteractionBlock(nn.Module):
    """One round of messages, then new atoms and edges."""

    def __init__(self, scales: ScaleFactors, block: int, size: Sizes, layers: Layers, quadruplets: bool) -> None:
        super().__init__()
        self.skip = Weight(size.edge, size.edge)
        self.triplets = TripletInteraction(scales, block, size)
        self.quadruplets = QuadrupletInteraction(scales, block, size) if quadruplets else None
        self.before_skip = nn.ModuleList(Residual(size.edge) for _ in range(layers.before_skip))
        self.after_skip = nn.ModuleList(Residual(size.edge) for _ in range(layers.after_skip))
        self.atom_update = AtomSum(scales, f"AtomUpdate_{block}_sum", size.atom, size.edge, size.rbf, layers.atom)
        self.concat = Weight(size.edge, 2 * size.atom + size.edge)
        self.residuals = nn.ModuleList(Residual(size.edge) for _ in range(layers.concat))

    def forward(self, atoms: Tensor, messages: Tensor, bases: Bases, graph: Geometry) -> tuple[Tensor, Tensor]:
        """New atoms (n_atoms, emb_atom) and messages (n_edges, emb_edge)."""
        # The first layers of all branches are one matrix product.
        branches: list[TripletInteraction | QuadrupletInteraction]
        branches = [self.triplets] if self.quadruplets is None else [self.triplets, self.quadruplets]
        weights = torch.cat([self.skip.weight, *(branch.dense.weight for branch in branches)])
        width = self.skip.weight.shape[0]
        x, *inputs = cut(silu(linear(messages, weights)), [width] * (1 + len(branches)), dim=1)
        own, swapped = zip(
            *(cut(branch(y, bases, graph), [width, width], dim=1) for branch, y in zip(branches, inputs, strict=True)),
            strict=True,
        )
        others = sum(own[1:], own[0]) + swap_halves(sum(swapped[1:], swapped[0]))
        x, scale = torch.add(x, others, alpha=math.sqrt(0.5)), GAIN / math.sqrt(1.0 + len(branches))
        for layer in self.before_skip:
            x, scale = layer(x, scale)
        messages, scale = torch.add(messages, x, alpha=scale), math.sqrt(0.5)
        for layer in self.after_skip:
            messages, scale = layer(messages, scale)

        x, factor = self.atom_update.atoms(messages, scale, bases.radial_atom, graph)
        atoms = torch.add(atoms, x, alpha=factor) * math.sqrt(0.5)
        width = self.skip.weight.shape[0]
        weight = torch.cat([self.concat.weight[:, :-width], scale * self.concat.weight[:, -width:]], dim=1)
        x, factor = silu(pair_linear(atoms, messages, weight, graph)), GAIN
        for layer in self.residuals:
            x, factor = layer(x, factor)
        return atoms, torch.add(messages, x, alpha=factor / scale) * (scale * math.sqrt(0.5))


def pair_linear(atoms: Tensor, edges: Tensor, weight: Tensor, graph: Geometry) -> Tensor:
    """W [h_sender, h_receiver, e] without the concatenation: the products with atoms are taken once per atom."""
    width = atoms.shape[1]
    of_sender, of_receiver = linear(atoms, weight[:, :width]), linear(atoms, weight[:, width : 2 * width])
    total = torch.addmm(gather(of_sender, graph.senders), edges, weight[:, 2 * width :].t())
    return total + gather(of_receiver, graph.receivers)


def _one(functions: QuadrupletFunctions, *inputs: Tensor) -> tuple[Tensor, ...]:
    return (functions.messages(*inputs),)


@dataclass(frozen=True)
class Sizes:
    """Widths of the embeddings."""

    atom: int
    edge: int
    trip: int
    quad: int
    rbf: int
    cbf: int
    sbf: int
    bil_trip: int
    bil_quad: int


@dataclass(frozen=True)
class Layers:
    """Numbers of residual layers."""

    before_skip: int
    after_skip: int
    concat: int
    atom: int


@dataclass(frozen=True)
class Geometry:
    """The embedding graph of a batch: edges c→a up to the cutoff, in pairs, and the interaction graph.

    Attributes:
        receivers: a, shape (n_edges,).
        senders: c, shape (n_edges,).
        n_atoms: of the batch.
        distances: of the first half of the edges, shape (n_edges / 2,), Å.
        directions: unit vectors from a to c, shape (n_edges, 3).
        table: edges into each atom.
        triplets: in blocks.
        quadruplets: of a GemNet-Q, in blocks.
        pair_distances: of the first half of the interaction pairs b→a, (n_interactions / 2,), Å; GemNet-Q.
        frames: orthonormal axes of each pair, the first one from a to b, (n_interactions, axis, 3); GemNet-Q.
    """

    receivers: Tensor
    senders: Tensor
    n_atoms: int
    distances: Tensor
    directions: Tensor
    table: NeighbourTable
    triplets: Triplets
    quadruplets: Quadruplets | None = None
    pair_distances: Tensor | None = None
    frames: Tensor | None = None


@dataclass(frozen=True)
class Bases:
    """Basis functions of a batch, after the projections that all blocks share.

    Attributes:
        radial: frequencies' basis, shape (n_edges / 2, num_radial).
        radial_trip: shape (n_edges / 2, emb_rbf); ``radial_atom``, ``radial_out`` and ``radial_quad`` likewise.
        circular_trip: of the triplets c→a←b, block by block, shape (A, C · emb_cbf, B).
        circular_quad: shape (n_interactions / 2, l, emb_cbf); GemNet-Q.
        quadruplets: functions of the quadruplets, block by block; GemNet-Q.
        recompute: whether the blocks' intermediate results are made again for each derivative.
    """

    radial: Tensor
    radial_trip: Tensor
    radial_atom: Tensor
    radial_out: Tensor
    circular_trip: tuple[Tensor, ...]
    radial_quad: Tensor | None = None
    circular_quad: Tensor | None = None
    quadruplets: tuple[QuadrupletFunctions, ...] = ()
    recompute: bool = False


def _powers(n: int, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Any]]:
    """Real and imaginary parts of (x + iy)^m, m = 0 … n; the imaginary part of m = 0 is None, all others tensors."""
    real: list[Tensor] = [torch.ones_like(x), x]
    imaginary: list[Any] = [None, y]
    for _ in range(2, n + 1):
        a, b = real[-1], imaginary[-1]
        real.append(a * x - b * y)
        imaginary.append(a * y + b * x)
    return real[: n + 1], imaginary[: n + 1]


def _rows(*parts: Tensor | None) -> list[Tensor]:
    return [part for part in parts if part is not None]


class QuadrupletFunctions:
    """Functions of the angles of a block of quadruplets, in the form in which :meth:`messages` sums with them.

    ``tensors`` are, with A atoms a, B pairs, C edges c→a and D edges d→b (see :class:`QuadrupletBlock`):

    0. Y_l0 of the angle a–b–d, shape (A B, D, l);
    1. functions of d that are summed over d, shape (A B, functions, D);
    2. radial functions and projection of the spherical basis of edges c→a, shape (A C, emb_sbf, (l, m));
    3. functions of c that these sums are multiplied with, shape (A, C · l, terms · B), for each m of the cosines (and
       of the sines, if smooth);
    4. -1 where c is d, shape (A B, C, D);
    5. functions of c that the sums with 4. are multiplied with, shape (A C, (l, m), B);
    6. unless smooth: the sines' functions of c and d, shape (A, C · (l, m), B · D).
    """

    def __init__(
        self, block: QuadrupletBlock, directions: Tensor, frames: Tensor, radial: Tensor, l_max: int, smooth: bool
    ) -> None:
        """Compute the functions.

        Args:
            block: index sets.
            directions: unit vectors a → c of edges c→a, shape (n_edges, 3).
            frames: axes of interaction pairs, shape (n_interactions, 3, 3).
            radial: of edges c→a, after projection, one row per place of the block, shape (A C, emb_sbf, (l, m)).
            l_max: highest order of the harmonics.
            smooth: without the two singularities.
        """
        self.block, self.l_max = block, l_max
        self.n_a, self.n_b, self.n_d = block.into_b.shape
        self.n_c = block.into_a.shape[1]
        n_a, n_b, n_c, n_d = self.n_a, self.n_b, self.n_c, self.n_d
        axes = gather(frames, block.pairs.reshape(-1))
        to_d = gather(directions, block.into_b.reshape(-1)).view(n_a * n_b, n_d, 3)
        along, x_d, y_d = unstack(torch.bmm(axes, to_d.transpose(1, 2)), 1)
        to_c = gather(directions, block.into_a.reshape(-1)).view(n_a, n_c, 3)
        to_c = torch.bmm(to_c, axes.view(n_a, n_b, 3, 3).permute(0, 3, 2, 1).reshape(n_a, 3, 3 * n_b))
        cosine, x_c, y_c = unstack(to_c.view(n_a, n_c, 3, n_b), 2)
        with_d = block.with_d.view(n_a * n_b, n_d).to(along.dtype)
        polar = legendre_m0(l_max, -along) * with_d.unsqueeze(2)
        legendre = legendre_without_sine(l_max, cosine, dim=2) * block.with_c.to(along.dtype).unsqueeze(2)
        by_order = cut(legendre, [l_max + 1 - m for m in range(l_max + 1)], dim=2)
        same = block.same.to(along.dtype)
        build = self._smooth if smooth else self._exact
        of_d, of_c, factors, of_both = build(x_d, y_d, x_c, y_c, by_order, same)
        self._n_of_c = len(of_c)
        # The terms with c = d: their cosines are 1, and the factors have the sines of the polar angles.
        again = join([part * factor.unsqueeze(2) for part, factor in zip(by_order, factors, strict=True)], dim=2)
        self.tensors = (
            polar,
            stack(of_d, dim=1),
            radial,
            *of_c,
            -same.view(n_a * n_b, n_c, n_d),
            again.view(n_a * n_c, -1, n_b),
            *of_both,
        )

    def _columns(self, legendre: Tensor, terms: list[Tensor]) -> Tensor:
        """Functions (A, C · l, terms · B) from those of the polar angle (A, C, l, B) and terms (A, C, B)."""
        both = legendre.unsqueeze(3) * stack(terms, dim=2).unsqueeze(2)
        return both.view(self.n_a, -1, len(terms) * self.n_b)

    def _exact(
        self, x_d: Tensor, y_d: Tensor, x_c: Tensor, y_c: Tensor, legendre: Sequence[Tensor], same: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        l_max, n_a, n_b, n_d = self.l_max, self.n_a, self.n_b, self.n_d
        square = x_d.square() + y_d.square()
        resolution = 16.0 * torch.finfo(square.dtype).eps
        # Directions below the resolution of the numbers have no azimuth: θ = π/2 then.
        collinear = square < resolution**2
        on_line = collinear.to(square.dtype)
        inverse = torch.where(collinear, 1.0, square).rsqrt() * (1.0 - on_line)
        real_d, imaginary_d = _powers(l_max, x_d * inverse, y_d * inverse)
        real_c, imaginary_c = _powers(l_max, x_c, y_c)
        square = x_c.square() + y_c.square()
        positive = square > 0.0
        sine = torch.where(positive, square, 1.0).sqrt() * positive.to(square.dtype)
        sines = [torch.ones_like(sine)]
        for _ in range(l_max):
            sines.append(sines[-1] * sine)

        # cos(m (α_c - α_d)) = Re e^{imα_c} Re e^{imα_d} + Im e^{imα_c} Im e^{imα_d}
        of_d, of_c = [], []
        for m in range(l_max + 1):
            right = m % 2 == 0 and m > 0
            of_d += _rows(real_d[m], imaginary_d[m], on_line if right else None)
            terms = _rows(real_c[m], imaginary_c[m], sines[m] * (-1.0) ** (m // 2) if right else None)
            of_c.append(self._columns(legendre[m], terms))

        # sin(m |α_c - α_d|): the sign is that of sin(α_c - α_d).
        of_both = []
        if l_max > 0:

            def from_c(values: list[Tensor]) -> Tensor:
                return stack(values, dim=2).unsqueeze(4)  # (A, C, m, B, 1)

            def from_d(values: list[Tensor]) -> Tensor:
                return stack(values, dim=1).view(n_a, n_b, -1, n_d).transpose(1, 2).unsqueeze(1)  # (A, 1, m, B, D)

            signed = from_c(imaginary_c[1:]) * from_d(real_d[1:]) - from_c(real_c[1:]) * from_d(imaginary_d[1:])
            sine_of_difference = signed.detach()[:, :, :1]
            # In a plane, up to rounding, the sign is that of nothing: no force comes from there.
            off_plane = sine_of_difference.abs() > resolution
            sign = torch.sign(sine_of_difference) * (off_plane & ~self.block.same.transpose(1, 2).unsqueeze(2))
            at_right = [sines[m] * round(math.sin(0.5 * math.pi * m)) for m in range(1, l_max + 1)]
            signed = torch.addcmul(signed * sign, from_c(at_right), from_d([on_line]))
            functions = [
                legendre[m].unsqueeze(4) * part.unsqueeze(2)
                for m, part in zip(range(1, l_max + 1), unstack(signed, 2), strict=True)
            ]
            of_both.append(join(functions, dim=2).view(n_a, -1, n_b * n_d))
        return of_d, of_c, sines, of_both

    def _smooth(
        self, x_d: Tensor, y_d: Tensor, x_c: Tensor, y_c: Tensor, legendre: Sequence[Tensor], same: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        l_max, n_a, n_b, n_d = self.l_max, self.n_a, self.n_b, self.n_d
        # With w = z_c z_d*, z = sin φ e^{iα}: Re(w^m) for the cosines, and for the sines
        # Im(w^m) Im(w) = (|w|² Re(w^(m-1)) - Re(w^(m+1))) / 2.
        real_d, imaginary_d = _powers(l_max + 1, x_d, y_d)
        real_c, imaginary_c = _powers(l_max + 1, x_c, y_c)
        square_d, square_c = x_d.square() + y_d.square(), 0.5 * (x_c.square() + y_c.square())
        of_d, of_c = [], []
        for m in range(l_max + 1):
            of_d += _rows(real_d[m], imaginary_d[m])
            of_c.append(self._columns(legendre[m], _rows(real_c[m], imaginary_c[m])))
        for m in range(1, l_max + 1):
            lower = _rows(real_d[m - 1], imaginary_d[m - 1])
            of_d += [*(part * square_d for part in lower), *_rows(real_d[m + 1], imaginary_d[m + 1])]
            lower = [part * square_c for part in _rows(real_c[m - 1], imaginary_c[m - 1])]
            upper = [-0.5 * part for part in _rows(real_c[m + 1], imaginary_c[m + 1])]
            of_c.append(self._columns(legendre[m], [*lower, *upper]))
        # Where c is d, w is the product of the sines.
        z_d = stack([x_d, y_d], dim=2)
        z_same = torch.bmm(same.view(n_a * n_b, -1, n_d), z_d).view(n_a, n_b, -1, 2).transpose(1, 2)
        product = x_c * z_same[..., 0] + y_c * z_same[..., 1]
        factors = [torch.ones_like(product)]
        for _ in range(l_max):
            factors.append(factors[-1] * product)
        return of_d, of_c, factors, []

    def intermediate(self, x: Tensor, circular: Tensor, polar: Tensor) -> Tensor:
        """Message of d→b times the circular basis, shape (A · B · D, emb_quad)."""
        index = torch.remainder(self.block.pairs.reshape(-1), circular.shape[0])
        by_order = gather(circular, index)
        messages = gather(x, self.block.into_b.reshape(-1))
        return torch.bmm(polar, by_order).view(-1, x.shape[1]) * messages

    def messages(self, x: Tensor, circular: Tensor, weight: Tensor, *tensors: Tensor) -> Tensor:
        """Sum over the quadruplets of each edge c→a, shape (A · C, emb_bil).

        Args:
            x: messages of edges d→b, shape (n_edges, emb_quad).
            circular: of pairs, for each order l, shape (n_interactions / 2, l, emb_quad).
            weight: bilinear weights, shape (emb_sbf · emb_quad, emb_bil).
            tensors: :attr:`tensors`.
        """
        polar, of_d, radial, *rest = tensors
        of_c, (same, again, *of_both) = rest[: self._n_of_c], rest[self._n_of_c :]
        n_a, n_b, n_c, n_d, width = self.n_a, self.n_b, self.n_c, self.n_d, x.shape[1]
        y = self.intermediate(x, circular, polar).view(n_a * n_b, n_d, width)
        # One function of d for each term of the functions of c.
        sums = torch.bmm(of_d, y).view(n_a, n_b, -1, width).transpose(1, 2)
        by_part = cut(sums, [part.shape[2] // n_b for part in of_c], dim=1)
        parts = [
            torch.bmm(part, value.reshape(n_a, -1, width)).view(n_a * n_c, -1, width)
            for part, value in zip(of_c, by_part, strict=True)
        ]
        cosines, sines = join(parts[: self.l_max + 1], dim=1), parts[self.l_max + 1 :]
        sums = torch.bmm(same, y).view(n_a, n_b, n_c, width).transpose(1, 2).reshape(n_a * n_c, n_b, width)
        cosines = torch.baddbmm(cosines, again, sums)
        for functions in of_both:
            sines.append(torch.bmm(functions, y.view(n_a, n_b * n_d, width)).view(n_a * n_c, -1, width))
        y = torch.bmm(radial, join([cosines, *sines], dim=1))
        return y.view(n_a * n_c, -1) @ weight


class GemNet(AtomisticModel):
    """What both variants share; use :class:`GemNetT` or :class:`GemNetQ`."""

    cutoff: float
    _columns: Tensor
    _degrees: Tensor

    def __init__(
        self,
        quadruplets: bool,
        num_spherical: int = 7,
        num_radial: int = 6,
        num_blocks: int = 4,
        emb_size_atom: int = 128,
        emb_size_edge: int = 128,
        emb_size_trip: int = 64,
        emb_size_quad: int = 32,
        emb_size_rbf: int = 16,
        emb_size_cbf: int = 16,
        emb_size_sbf: int = 32,
        emb_size_bil_trip: int = 64,
        emb_size_bil_quad: int = 32,
        num_before_skip: int = 1,
        num_after_skip: int = 1,
        num_concat: int = 1,
        num_atom: int = 2,
        cutoff: float = 5.0,
        int_cutoff: float = 10.0,
        envelope_exponent: int = 5,
        scale_factors: str | Mapping[str, float] = "published",
        elements: Sequence[int] | None = None,
        smooth_quadruplets: bool = False,
        chunk: int | None = None,
        recompute: bool = False,
    ) -> None:
        """Build the network; see the variants for the options. Cutoffs are in Å."""
        super().__init__()
        positive = {
            "num_spherical": num_spherical,
            "num_radial": num_radial,
            "emb_size_atom": emb_size_atom,
            "emb_size_edge": emb_size_edge,
            "emb_size_trip": emb_size_trip,
            "emb_size_quad": emb_size_quad,
            "emb_size_rbf": emb_size_rbf,
            "emb_size_cbf": emb_size_cbf,
            "emb_size_sbf": emb_size_sbf,
            "emb_size_bil_trip": emb_size_bil_trip,
            "emb_size_bil_quad": emb_size_bil_quad,
            "envelope_exponent": envelope_exponent,
            "chunk": 1 if chunk is None else chunk,
        }
        counts = {
            "num_blocks": num_blocks,
            "num_before_skip": num_before_skip,
            "num_after_skip": num_after_skip,
            "num_concat": num_concat,
            "num_atom": num_atom,
        }
        for low, options in ((1, positive), (0, counts)):
            for name, value in options.items():
                if isinstance(value, bool) or not isinstance(value, int) or value < low:
                    raise InputError(f"GemNet option {name}={value!r}: expected a whole number of at least {low}")
        for name, length in {"cutoff": cutoff, "int_cutoff": int_cutoff}.items():
            if not (length > 0 and math.isfinite(length)):
                raise InputError(f"GemNet option {name}={length!r}: expected a positive length in Å")
        elements = tuple(range(1, N_ELEMENTS + 1)) if elements is None else tuple(int(z) for z in elements)
        if not elements or min(elements) < 1 or max(elements) > N_ELEMENTS:
            raise InputError(f"GemNet option elements={elements}: expected atomic numbers from 1 to {N_ELEMENTS}")
        self.elements = elements
        self.embedding_cutoff, self.int_cutoff = float(cutoff), float(int_cutoff)
        self.cutoff = max(self.embedding_cutoff, self.int_cutoff) if quadruplets else self.embedding_cutoff
        self.envelope_exponent, self.l_max = envelope_exponent, num_spherical - 1
        self.smooth_quadruplets, self.chunk, self.recompute = smooth_quadruplets, chunk, recompute
        self.has_quadruplets = quadruplets
        size = Sizes(
            emb_size_atom,
            emb_size_edge,
            emb_size_trip,
            emb_size_quad,
            emb_size_rbf,
            emb_size_cbf,
            emb_size_sbf,
            emb_size_bil_trip,
            emb_size_bil_quad,
        )
        layers = Layers(num_before_skip, num_after_skip, num_concat, num_atom)
        self.scales = ScaleFactors(factor_names(num_blocks, quadruplets), scale_factors)

        self.radial_basis = SineBasis(num_radial, self.embedding_cutoff)
        self.bessel_basis = SphericalBesselBasis(num_spherical, num_radial, self.embedding_cutoff)
        self.radial_trip = Weight(size.rbf, num_radial)
        self.radial_atom = Weight(size.rbf, num_radial)
        self.radial_out = Weight(size.rbf, num_radial)
        self.circular_trip = Weight(num_spherical, num_radial, size.cbf)
        if quadruplets:
            self.pair_basis = SphericalBesselBasis(num_spherical, num_radial, self.int_cutoff)
            self.radial_quad = Weight(size.rbf, num_radial)
            self.circular_quad = Weight(size.cbf, num_spherical * num_radial)
            self.spherical_quad = Weight(num_spherical**2, num_radial, size.sbf)
            self._register_columns(num_spherical)
        self.atom_embedding = nn.Embedding(N_ELEMENTS, size.atom)
        nn.init.uniform_(self.atom_embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        self.edge_embedding = Weight(size.edge, 2 * size.atom + num_radial)
        self.interactions = nn.ModuleList(
            InteractionBlock(self.scales, block, size, layers, quadruplets) for block in range(1, num_blocks + 1)
        )
        self.outputs = nn.ModuleList(
            OutputBlock(self.scales, f"OutBlock_{block}_sum", size.atom, size.edge, size.rbf, layers.atom)
            for block in range(num_blocks + 1)
        )
        # Shared layers are used by every block; the authors divide their gradients by the number of uses.
        shared = ["radial_trip", "radial_atom", "circular_trip"]
        shared += ["radial_quad", "circular_quad", "spherical_quad"] if quadruplets else []
        #: factor on the gradients of parameters whose names begin so, before clipping
        self.gradient_scales: dict[str, float] = {f"{name}.": 1.0 / max(num_blocks, 1) for name in shared}
        self.gradient_scales["radial_out."] = 1.0 / (num_blocks + 1)

    def _register_columns(self, num_spherical: int) -> None:
        """Where the harmonics' columns lie in the published order (l, then m = 0 … l, -l … -1), sorted by |m| here."""
        l_max = num_spherical - 1
        order = [(degree, m) for m in range(num_spherical) for degree in range(m, num_spherical)]
        order += [(degree, -m) for m in range(1, num_spherical) for degree in range(m, num_spherical)]
        published = {lm: number for number, lm in enumerate(harmonic_orders(l_max))}
        columns = torch.tensor([published[lm] for lm in order])
        degrees = nn.functional.one_hot(torch.tensor([degree for degree, _ in order]), num_spherical)
        self.register_buffer("_columns", columns, persistent=False)
        self.register_buffer("_degrees", degrees.t().bool(), persistent=False)

    def geometry(self, batch: GraphBatch) -> Geometry:
        """Graphs and directions of a batch.

        Raises:
            InputError: the batch's edges do not come in pairs.
        """
        if batch.n_pairs is None:
            raise InputError("GemNet needs a graph whose edges come in pairs (n_pairs); make it with make_batch")
        half, receivers, senders = batch.n_pairs, batch.receivers, batch.senders
        vectors = batch.edge_vectors()
        distances = vectors[:half].norm(dim=1)
        directions = vectors[:half] / distances.unsqueeze(1)
        pair_distances, pair_directions = distances, directions
        pair_receivers, pair_senders = receivers, senders
        if not batch.is_padded and self.cutoff > self.embedding_cutoff:
            near = (distances.detach() <= self.embedding_cutoff).nonzero().squeeze(1)
            distances, directions = gather(distances, near), gather(directions, near)
            near = torch.cat([near, near + half])
            receivers, senders = gather(receivers, near), gather(senders, near)
        directions = torch.cat([directions, -directions])
        table = neighbour_table(batch, receivers)
        if receivers.shape[0] == 0:
            nothing = Triplets([], Places(receivers, receivers, True))
            return Geometry(receivers, senders, batch.n_atoms, distances, directions, table, nothing)
        chunk = CPU_CHUNK if self.chunk is None and vectors.device.type == "cpu" else self.chunk
        triplets = triplet_blocks(batch, receivers, table, chunk)
        common = (receivers, senders, batch.n_atoms, distances, directions, table, triplets)
        if not self.has_quadruplets:
            return Geometry(*common)
        quadruplets = quadruplet_blocks(batch, receivers, senders, pair_receivers, pair_senders, table, chunk)
        # Two axes at right angles to the pair: any will do, but they must be differentiated with it.
        smallest = pair_directions.detach().abs().argmin(dim=1, keepdim=True)
        smallest = (torch.arange(3, device=smallest.device) == smallest).to(vectors.dtype)
        first = smallest - (smallest * pair_directions).sum(1, keepdim=True) * pair_directions
        first = first * first.square().sum(1, keepdim=True).rsqrt()
        second = torch.linalg.cross(pair_directions, first, dim=1)
        frames = torch.cat([stack([sign * pair_directions, first, second], dim=1) for sign in (1.0, -1.0)])
        return Geometry(*common, quadruplets, pair_distances, frames)

    def _bessel(self, basis: SphericalBesselBasis, distances: Tensor, cutoff: float) -> Tensor:
        envelope = polynomial_envelope(distances / cutoff, self.envelope_exponent)
        radial: Tensor = basis(distances) * envelope.view(-1, 1, 1)
        return radial

    def bases(self, graph: Geometry) -> Bases:
        """Basis functions of a batch."""
        distances = graph.distances
        envelope = polynomial_envelope(distances / self.embedding_cutoff, self.envelope_exponent)
        radial = self.radial_basis(distances) * envelope.unsqueeze(1)
        bessel = self.bessel_basis(distances) * envelope.view(-1, 1, 1)
        weight: Tensor = self.circular_trip.weight  # (l, n, cbf)
        circular = torch.bmm(bessel.transpose(0, 1), weight).permute(1, 2, 0).contiguous()
        circular_trip = []
        for block in graph.triplets.blocks:
            n_atoms, width = block.edges.shape
            edges = block.edges.reshape(-1)
            directions = gather(graph.directions, edges).view(n_atoms, width, 3)
            cosine = torch.bmm(directions, directions.transpose(1, 2))
            angular = legendre_m0(self.l_max, cosine, dim=2) * block.different.to(cosine.dtype).unsqueeze(2)
            of_edge = gather(circular, torch.remainder(edges, circular.shape[0]))
            circular_trip.append(torch.bmm(of_edge, angular.view(len(edges), -1, width)).view(n_atoms, -1, width))
        common = (
            radial,
            linear(radial, self.radial_trip.weight),
            linear(radial, self.radial_atom.weight),
            linear(radial, self.radial_out.weight),
            tuple(circular_trip),
        )
        if graph.quadruplets is None:
            return Bases(*common)
        assert graph.pair_distances is not None and graph.frames is not None
        n_l = self.l_max + 1
        pair_bessel = self._bessel(self.pair_basis, graph.pair_distances, self.int_cutoff)
        weight = self.circular_quad.weight.view(-1, n_l, pair_bessel.shape[2])  # (cbf, l, n)
        circular = torch.bmm(pair_bessel.transpose(0, 1), weight.permute(1, 2, 0)).transpose(0, 1)
        weight = self.spherical_quad.weight.index_select(0, self._columns)  # (lm, n, sbf)
        weight = weight.permute(1, 2, 0) * self._degrees.unsqueeze(1).unsqueeze(1).to(weight.dtype)  # (l, n, sbf, lm)
        n_sbf, n_lm = weight.shape[2:]
        weight = weight.reshape(-1, n_sbf * n_lm)
        bessel = bessel.reshape(bessel.shape[0], -1)
        functions = []
        for quads in graph.quadruplets.blocks:
            places = torch.remainder(quads.into_a.reshape(-1), bessel.shape[0])
            places = (gather(bessel, places) @ weight).view(-1, n_sbf, n_lm)
            functions.append(
                QuadrupletFunctions(quads, graph.directions, graph.frames, places, self.l_max, self.smooth_quadruplets)
            )
        return Bases(*common, linear(radial, self.radial_quad.weight), circular, tuple(functions), self.recompute)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64.

        Raises:
            InputError: the model has no scale factors, or the batch's edges do not come in pairs.
        """
        features: dict[str, Tensor] = {}
        for _, step in self.steps():
            features = step(batch, features)
        return features["energy"]

    def steps(self) -> list[tuple[str, Step]]:
        """The layers.

        Features are ``atoms`` (n_atoms, emb_size_atom), ``edges`` (n_edges, emb_size_edge) and ``atomic_energy``
        (n_atoms, 1). Edges are those up to the embedding graph's cutoff in a ragged batch, all of them in a padded one.
        No feature turns with the molecule.
        """
        self.scales.check()
        kept: list[tuple[GraphBatch, Geometry, Bases]] = []

        def geometry(batch: GraphBatch) -> tuple[Geometry, Bases]:
            # Made by the first layer that sees a batch, and shared with those after it.
            if not kept or kept[0][0] is not batch:
                graph = self.geometry(batch)
                kept[:] = [(batch, graph, self.bases(graph))]
            return kept[0][1:]

        def embedding(batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
            graph, bases = geometry(batch)
            atoms = gather(self.atom_embedding.weight, batch.atomic_numbers - 1)
            edges = silu(pair_linear(atoms, twice(bases.radial), self.edge_embedding.weight, graph)) * GAIN
            return {"atoms": atoms, "edges": edges, "atomic_energy": self.outputs[0](edges, bases.radial_out, graph)}

        def interaction(number: int, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
            graph, bases = geometry(batch)
            atoms, edges = features["atoms"], features["edges"]
            if edges.shape[0]:
                atoms, edges = self.interactions[number](atoms, edges, bases, graph)
            energy = features["atomic_energy"] + self.outputs[number + 1](edges, bases.radial_out, graph)
            return {"atoms": atoms, "edges": edges, "atomic_energy": energy}

        def readout(batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"energy": batch.sum_atoms(features["atomic_energy"])}

        blocks = [(f"interaction {n + 1}", partial(interaction, n)) for n in range(len(self.interactions))]
        return [("embedding", embedding), *blocks, ("readout", readout)]


class GemNetT(GemNet):
    """GemNet-T: messages through angles only; 1,892,294 parameters as published."""

    def __init__(
        self,
        num_spherical: int = 7,
        num_radial: int = 6,
        num_blocks: int = 4,
        emb_size_atom: int = 128,
        emb_size_edge: int = 128,
        emb_size_trip: int = 64,
        emb_size_rbf: int = 16,
        emb_size_cbf: int = 16,
        emb_size_bil_trip: int = 64,
        num_before_skip: int = 1,
        num_after_skip: int = 1,
        num_concat: int = 1,
        num_atom: int = 2,
        cutoff: float = 5.0,
        envelope_exponent: int = 5,
        scale_factors: str | Mapping[str, float] = "published",
        elements: Sequence[int] | None = None,
    ) -> None:
        """Build the network.

        Args:
            num_spherical: orders l of the angular functions, l = 0 … num_spherical - 1.
            num_radial: radial functions.
            num_blocks: interaction blocks.
            emb_size_atom: width of atoms' features.
            emb_size_edge: width of edges' features.
            emb_size_trip: width of messages through angles.
            emb_size_rbf: width of the projected radial basis.
            emb_size_cbf: width of the projected circular basis.
            emb_size_bil_trip: width after the bilinear layer.
            num_before_skip: residual layers before the skip connection of a block.
            num_after_skip: residual layers after it.
            num_concat: residual layers of the edges' update.
            num_atom: residual layers of atoms' updates and of the outputs.
            cutoff: longest edge, Å.
            envelope_exponent: p of the envelope.
            scale_factors: ``published`` (up to four blocks), ``unset`` (to be fitted or loaded before use), or a number
                for each name of :func:`mlip_studies.models.gemnet_scaling.factor_names`.
            elements: atomic numbers that the model is for; 1 to 93 if not given.

        Raises:
            InputError: an option out of range.
        """
        super().__init__(
            False,
            num_spherical=num_spherical,
            num_radial=num_radial,
            num_blocks=num_blocks,
            emb_size_atom=emb_size_atom,
            emb_size_edge=emb_size_edge,
            emb_size_trip=emb_size_trip,
            emb_size_rbf=emb_size_rbf,
            emb_size_cbf=emb_size_cbf,
            emb_size_bil_trip=emb_size_bil_trip,
            num_before_skip=num_before_skip,
            num_after_skip=num_after_skip,
            num_concat=num_concat,
            num_atom=num_atom,
            cutoff=cutoff,
            envelope_exponent=envelope_exponent,
            scale_factors=scale_factors,
            elements=elements,
        )


class GemNetQ(GemNet):
    """GemNet-Q: messages through angles and dihedral angles; 2,158,470 parameters as published."""

    def __init__(
        self,
        num_spherical: int = 7,
        num_radial: int = 6,
        num_blocks: int = 4,
        emb_size_atom: int = 128,
        emb_size_edge: int = 128,
        emb_size_trip: int = 64,
        emb_size_quad: int = 32,
        emb_size_rbf: int = 16,
        emb_size_cbf: int = 16,
        emb_size_sbf: int = 32,
        emb_size_bil_trip: int = 64,
        emb_size_bil_quad: int = 32,
        num_before_skip: int = 1,
        num_after_skip: int = 1,
        num_concat: int = 1,
        num_atom: int = 2,
        cutoff: float = 5.0,
        int_cutoff: float = 10.0,
        envelope_exponent: int = 5,
        scale_factors: str | Mapping[str, float] = "published",
        elements: Sequence[int] | None = None,
        smooth_quadruplets: bool = False,
        chunk: int | None = None,
        recompute: bool = False,
    ) -> None:
        """Build the network.

        Args:
            num_spherical: see :class:`GemNetT`, also for all options that are not listed here.
            num_radial: radial functions.
            num_blocks: interaction blocks.
            emb_size_atom: width of atoms' features.
            emb_size_edge: width of edges' features.
            emb_size_trip: width of messages through angles.
            emb_size_quad: width of messages through dihedral angles.
            emb_size_rbf: width of the projected radial basis.
            emb_size_cbf: width of the projected circular bases.
            emb_size_sbf: width of the projected spherical basis.
            emb_size_bil_trip: width after the bilinear layer of the triplets.
            emb_size_bil_quad: width after that of the quadruplets.
            num_before_skip: residual layers before the skip connection of a block.
            num_after_skip: residual layers after it.
            num_concat: residual layers of the edges' update.
            num_atom: residual layers of atoms' updates and of the outputs.
            cutoff: longest edge, Å.
            int_cutoff: longest distance of the middle atoms a and b of a quadruplet, Å.
            envelope_exponent: p of the envelopes.
            scale_factors: as for GemNet-T.
            elements: as for GemNet-T.
            smooth_quadruplets: remove the two singularities of the dihedral angle, see the module's documentation; its
                scale factors should be fitted.
            chunk: quadruplets are summed for so many atoms at a time; None: 64 on a CPU, whose caches that suits, and
                all at once on a GPU, where fewer and larger operations are faster.
            recompute: keep no intermediate results of these sums for derivatives, but make them again: less memory,
                more work.

        Raises:
            InputError: an option out of range.
        """
        super().__init__(
            True,
            num_spherical,
            num_radial,
            num_blocks,
            emb_size_atom,
            emb_size_edge,
            emb_size_trip,
            emb_size_quad,
            emb_size_rbf,
            emb_size_cbf,
            emb_size_sbf,
            emb_size_bil_trip,
            emb_size_bil_quad,
            num_before_skip,
            num_after_skip,
            num_concat,
            num_atom,
            cutoff,
            int_cutoff,
            envelope_exponent,
            scale_factors,
            elements,
            smooth_quadruplets,
            chunk,
            recompute,
        )
