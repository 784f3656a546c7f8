"""SE(3)-Transformer: attention between atoms with kernels that turn with the molecule.

Every atom has features of several degrees l, each with some channels of 2l+1 components. A kernel from degree k to
degree l is a sum over J = |l-k| … l+k of a learned function of the distance times a fixed matrix, the spherical
harmonics of the direction coupled by Clebsch-Gordan coefficients (eq. 2.1 and 2.2 of the thesis). Keys and values are
made by such kernels, queries by linear maps, and each atom attends to its neighbours. The last layer gives one scalar
and one vector per atom:
its energy and the force on it.

Sources: F. B. Fuchs, D. E. Worrall, V. Fischer, M. Welling, NeurIPS 2020 (architecture); N. Thomas et al.,
arXiv:1802.08219 (kernels, norm nonlinearity); B. E. Hedelius, *Learning inter-atomic forces with an SE(3)-Transformer*,
Brigham Young University 2021 (the application to ANI-1x; equation numbers below are of this thesis).

Numbers that are not finite: the thesis had to skip training steps whose loss was not a number and suspected the
harmonics. Those are polynomials of a unit vector and harmless for distinct atoms. What is not harmless is the direction
v/|v| in the norm nonlinearity (eq. 2.9): its derivative grows as 1/|v|, and |v| is exactly zero for every symmetric
environment (a lone atom, a centre of inversion, pseudovectors in a planar molecule), where |v| itself has no
derivative. Here |v| is replaced by (|v|⁴ + ε⁴)^(1/4) in both places. That is an analytic function of the components,
which differs from |v| by a relative ε⁴/(4|v|⁴) only; all derivatives exist at zero, the slope of the direction is at
most 1/ε, and a symmetric atom's zero vector stays zero instead of becoming amplified rounding noise.

How the work is arranged: harmonics and radial networks are evaluated once per unordered pair (a reversed edge has the
sign (-1)^J); fixed matrices meet the sender's features first, and what comes out is mixed over channels by the radial
weights, so the kernel matrix is never formed. The radial weights are the one large tensor, thousands of numbers
per pair; they are made, used and dropped block by block, in the forward and again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.compat import e3nn_o3, wigner_3j
from mlip_studies.models.layers.cutoffs import CUTOFFS
from mlip_studies.models.layers.radial import FixedTensors
from mlip_studies.models.memory import available_bytes, in_words

o3 = e3nn_o3()

STYLES = ("original", "nvidia")
SELF_INTERACTIONS = ("1x1", "attentive")
NORMS = ("layer", "bias")
FORCES = ("direct", "gradient")
#: channels and largest degree of the thesis's three networks, two or four channels for each of eight heads
VARIANTS: dict[str, dict[str, int]] = {
    "basic": {"channels": 16, "max_degree": 2},
    "wider": {"channels": 32, "max_degree": 2},
    "higher_order": {"channels": 32, "max_degree": 3},
}
#: width of the radial networks' two hidden layers
RADIAL_HIDDEN = 32
#: numbers of a block of radial weights: what a CPU's cache holds, and 1 GiB elsewhere
CPU_BLOCK = 2**19
DEVICE_BLOCK = 2**28

#: memory of a second derivative in units of what the first one keeps (measured: 2.2 for degrees 1 to 4)
SECOND_DERIVATIVE = 2.2

#: channels of each degree
Fiber = Mapping[int, int]
#: features of each degree, shape (n, 2l+1, channels): channels last, so that products over components need no copies
Features = dict[int, Tensor]


def _block_rows(values_per_row: int, device: torch.device) -> int:
    budget = CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK
    return max(8, budget // max(1, values_per_row))


class _Mix(Function):
    """Inputs (r, a, c) times weights (r, c, o), block by block; weights are hidden (r, h) @ weight (h, c·o) + bias."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, hidden, weight, bias)
        rows, _, n_in = inputs.shape
        step = _block_rows(weight.shape[1], inputs.device)
        if rows <= step:
            return torch.bmm(inputs, _weights(hidden, weight, bias, n_in))
        result = inputs.new_empty(rows, inputs.shape[1], weight.shape[1] // n_in)
        for start in range(0, rows, step):
            block = slice(start, start + step)
            torch.bmm(inputs[block], _weights(hidden[block], weight, bias, n_in), out=result[block])
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, hidden, weight, bias = ctx.saved_tensors
        n_in = inputs.shape[2]
        if torch.is_grad_enabled():
            # Differentiated again: leave the bookkeeping to autograd.
            weights = _weights(hidden, weight, bias, n_in)
            slopes = torch.bmm(inputs.transpose(1, 2), grad).flatten(1)
            return (
                torch.bmm(grad, weights.transpose(1, 2)),
                slopes @ weight.t(),
                hidden.t() @ slopes,
                None if bias is None else slopes.sum(dim=0),
            )
        rows = inputs.shape[0]
        grad = grad.contiguous()
        d_inputs, d_hidden = torch.empty_like(inputs), torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        step = _block_rows(weight.shape[1], inputs.device)
        transposed = weight.t()
        for start in range(0, rows, step):
            block = slice(start, start + step)
            own = hidden[block]
            torch.bmm(grad[block], _weights(own, weight, bias, n_in).transpose(1, 2), out=d_inputs[block])
            slopes = torch.bmm(inputs[block].transpose(1, 2), grad[block]).flatten(1)
            torch.mm(slopes, transposed, out=d_hidden[block])
            d_weight.addmm_(own.t(), slopes)
            if d_bias is not None:
                d_bias += slopes.sum(dim=0)
        return d_inputs, d_hidden, d_weight, d_bias


def _weights(hidden: Tensor, weight: Tensor, bias: Tensor | None, n_in: int) -> Tensor:
    flat = hidden @ weight if bias is None else torch.addmm(bias, hidden, weight)
    return flat.view(hidden.shape[0], n_in, weight.shape[1] // n_in)


def mix_channels(
    inputs: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, keep_weights: bool = False
) -> Tensor:
    """Mix channels with weights of each row's own, which are a linear function of ``hidden``.

    Args:
        inputs: shape (rows, components, channels_in).
        hidden: shape (rows, n_hidden).
        weight: shape (n_hidden, channels_in · channels_out).
        bias: shape (channels_in · channels_out,), or None.
        keep_weights: keep all rows' weights for the backward pass instead of making them again; pays where the
            result is differentiated twice.

    Returns:
        shape (rows, components, channels_out).
    """
    if keep_weights:
        return torch.bmm(inputs, _weights(hidden, weight, bias, inputs.shape[2]))
    # Blocks are written in place, which takes one type for all: that of the weights, also under autocast.
    with torch.autocast(inputs.device.type, enabled=False):
        own = inputs.to(weight.dtype).contiguous(), hidden.to(weight.dtype).contiguous()
        mixed: Tensor = _Mix.apply(*own, weight, bias)
        return mixed


class SphericalHarmonics(FixedTensors):
    """Real spherical harmonics of degrees 0 … ``max_degree``, orthonormal on the sphere.

    They are e3nn's with ``normalization="integral"``, axes (x, y, z), from the recursion Y_{J+1} ∝ [Y_1 ⊗ Y_J]_{J+1}:
    polynomials, which can be differentiated, converted and captured like any other tensor operation.
    """

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
        first = axis * math.sqrt(3.0 / (4.0 * math.pi))
        value = first
        for degree in range(2, max_degree + 1):
            coupling = o3.wigner_3j(1, degree - 1, degree, dtype=torch.float64).reshape(-1, 2 * degree + 1)
            product = torch.outer(first, value).reshape(-1) @ coupling
            # Orthonormal harmonics have the squared length (2J+1)/4π; the sign is e3nn's.
            exact = o3.spherical_harmonics(degree, axis, normalize=False, normalization="integral")
            length = math.sqrt((2 * degree + 1) / (4.0 * math.pi)) / float(product.norm())
            coupling = coupling * math.copysign(length, float(torch.dot(product, exact)))
            self.fix(f"coupling_{degree}", coupling)
            value = torch.outer(first, value).reshape(-1) @ coupling

    def forward(self, unit: Tensor) -> Tensor:
        """Shape (n, (max_degree + 1)²) from unit vectors (n, 3)."""
        zeroth = torch.full_like(unit[:, :1], math.sqrt(0.25 / math.pi))
        first = unit * math.sqrt(3.0 / (4.0 * math.pi))
        values = [zeroth, first]
        for degree in range(2, self.max_degree + 1):
            product = (first.unsqueeze(2) * values[-1].unsqueeze(1)).flatten(1)
            values.append(product @ getattr(self, f"coupling_{degree}"))
        return torch.cat(values[: self.max_degree + 1], dim=1)


def n_kernels(degree_in: int, degree_out: int) -> int:
    """Number of independent kernels from one degree to another, 2 min(l, k) + 1."""
    return 2 * min(degree_in, degree_out) + 1


class BasisKernels(FixedTensors):
    """The fixed matrices W_J of eq. 2.1 for all edges, J = |l-k| … l+k."""

    coupling: Tensor
    parity: Tensor

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Couple harmonics for these (degree out, degree in).

        The coupling coefficients are Wigner 3j symbols of unit norm.
        """
        super().__init__()
        self.pairs = tuple(pairs)
        top = max(out + into for out, into in self.pairs)
        self.harmonics = SphericalHarmonics(max(1, top))
        n_harmonics = (max(1, top) + 1) ** 2
        blocks, self.sizes = [], []
        for out, into in self.pairs:
            block = torch.zeros(n_harmonics, 2 * out + 1, n_kernels(into, out), 2 * into + 1, dtype=torch.float64)
            for index, order in enumerate(range(abs(out - into), out + into + 1)):
                symbol = wigner_3j(order, into, out)
                block[order**2 : (order + 1) ** 2, :, index, :] = symbol.permute(0, 2, 1)
            blocks.append(block.reshape(n_harmonics, -1))
            self.sizes.append(blocks[-1].shape[1])
        self.fix("coupling", torch.cat(blocks, dim=1))
        signs = [(-1.0) ** order for order in range(max(1, top) + 1) for _ in range(2 * order + 1)]
        self.fix("parity", signs)

    def forward(self, unit: Tensor, both_directions: bool) -> dict[tuple[int, int], Tensor]:
        """For each (l, k): shape (n_edges, (2l+1)·(2 min(l,k) + 1), 2k+1), the second axis being (component, J).

        Args:
            unit: directions, shape (n, 3).
            both_directions: also give the kernels of the reversed edges, in rows 1, 3, 5, …
        """
        harmonics = self.harmonics(unit)
        if both_directions:
            harmonics = torch.stack([harmonics, harmonics * self.parity], dim=1).flatten(0, 1)
        flat = (harmonics @ self.coupling).split(self.sizes, dim=1)
        n_edges = harmonics.shape[0]
        return {
            (out, into): values.view(n_edges, (2 * out + 1) * n_kernels(into, out), 2 * into + 1)
            for (out, into), values in zip(self.pairs, flat, strict=True)
        }


@dataclass(frozen=True)
class Edges:
    """What all layers need to know about a graph's edges; both directions of a pair stand side by side.

    Attributes:
        receivers: shape (n_edges,), int64.
        senders: shape (n_edges,), int64.
        n_nodes: number of nodes.
        directions: 2 where rows 2p and 2p + 1 are each other's reverse, else 1.
        radial: inputs of the radial networks, distance and edge features, shape (n_edges / directions, 1 + n_features).
        basis: see :class:`BasisKernels`.
        weight: of each edge, shape (n_edges, 1); 0 from the cutoff on. None: all 1.
        degree: sum of the weights of the edges into each node, shape (n_nodes, 1).
    """

    receivers: Tensor
    senders: Tensor
    n_nodes: int
    directions: int
    radial: Tensor
    basis: dict[tuple[int, int], Tensor]
    weight: Tensor | None
    degree: Tensor


def edge_softmax(scores: Tensor, edges: Edges) -> Tensor:
    """Softmax over the edges into each node.

    Edges of weight w count w times, and their share is multiplied by w once more, so that it goes to zero with w even
    where no other edge is left.

    Args:
        scores: shape (n_edges, heads).
        edges: the graph.
    """
    if edges.weight is not None:
        scores = torch.where(edges.weight > 0, scores, torch.full_like(scores, -1e30))
    detached = scores.detach()
    index = edges.receivers.unsqueeze(1).expand_as(detached)
    top = detached.new_full((edges.n_nodes, scores.shape[1]), -1e30)
    # Any constant per node gives the same result; the largest one avoids overflow.
    top = top.scatter_reduce(0, index, detached, "amax", include_self=True)
    shares = torch.exp(scores - gather(top, edges.receivers))
    if edges.weight is not None:
        shares = shares * edges.weight
    total = scatter_sum(shares, edges.receivers, edges.n_nodes)
    # Nodes without edges divide by the smallest number instead of by zero.
    shares = shares / gather(total.clamp(min=torch.finfo(total.dtype).tiny), edges.receivers)
    return shares if edges.weight is None else shares * edges.weight


class RadialNetworks(nn.Module):
    """Hidden layers of several radial networks at once: twice Linear, LayerNorm, ReLU."""

    def __init__(self, n_networks: int, n_inputs: int, hidden: int = RADIAL_HIDDEN) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_1 = nn.Parameter(_uniform(n_networks, n_inputs, hidden, fan_in=n_inputs))
        self.bias_1 = nn.Parameter(_uniform(n_networks, 1, hidden, fan_in=n_inputs))
        self.weight_2 = nn.Parameter(_uniform(n_networks, hidden, hidden, fan_in=hidden))
        self.bias_2 = nn.Parameter(_uniform(n_networks, 1, hidden, fan_in=hidden))
        self.scale_1 = nn.Parameter(torch.ones(n_networks, 1, hidden))
        self.shift_1 = nn.Parameter(torch.zeros(n_networks, 1, hidden))
        self.scale_2 = nn.Parameter(torch.ones(n_networks, 1, hidden))
        self.shift_2 = nn.Parameter(torch.zeros(n_networks, 1, hidden))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """One tensor (rows, hidden) of each network from inputs (rows, n_inputs)."""
        x = torch.baddbmm(self.bias_1, inputs.expand(self.weight_1.shape[0], *inputs.shape), self.weight_1)
        x = torch.relu(torch.addcmul(self.shift_1, functional.layer_norm(x, (self.hidden,)), self.scale_1))
        x = torch.baddbmm(self.bias_2, x, self.weight_2)
        x = torch.relu(torch.addcmul(self.shift_2, functional.layer_norm(x, (self.hidden,)), self.scale_2))
        return x.unbind(0)


def _uniform(*shape: int, fan_in: int) -> Tensor:
    """Numbers between ±1/sqrt(fan_in), the default initialisation of a linear layer."""
    return torch.empty(*shape).uniform_(-1.0, 1.0) / math.sqrt(fan_in)


@dataclass(frozen=True)
class KernelGroup:
    """Kernels that share one radial network.

    Attributes:
        degree_out: degree l of the messages.
        degrees_in: degrees k that they come from.
        outputs: name and channels of each kind of message, in the order of the channels.
    """

    degree_out: int
    degrees_in: tuple[int, ...]
    outputs: tuple[tuple[str, int], ...]

    @property
    def channels_out(self) -> int:
        """Channels of all kinds of messages together."""
        return sum(channels for _, channels in self.outputs)


class EdgeMessages(nn.Module):
    """Equivariant messages of all edges: the kernels of eq. 2.2 times the sender's features (eq. 2.4)."""

    def __init__(
        self,
        fiber_in: Fiber,
        outputs: Mapping[str, Fiber],
        fused: bool,
        constant_scalar: bool,
        n_edge_features: int,
        radial_bias: bool,
    ) -> None:
        """Make kernels.

        Args:
            fiber_in: channels of each degree of the features.
            outputs: channels of each degree of every kind of message (``value`` and ``key``, or ``out``).
            fused: one radial network per degree of the messages, for all kinds and all incoming degrees, instead of one
                per pair of degrees.
            constant_scalar: the kernel between scalars has no factor Y_00.
            n_edge_features: edge features that the radial networks read besides the distance.
            radial_bias: whether the radial networks' last layers have a bias.
        """
        super().__init__()
        self.fiber_in = dict(sorted(fiber_in.items()))
        self.kinds = tuple(outputs)
        self.scalar_factor = math.sqrt(0.25 / math.pi) if not constant_scalar else 1.0
        degrees_out = sorted({degree for fiber in outputs.values() for degree in fiber})
        self.groups: list[KernelGroup] = []
        for degree in degrees_out:
            kinds = [(kind, fiber[degree]) for kind, fiber in outputs.items() if degree in fiber]
            # Kinds share a network only where the reference that is followed has them in one convolution.
            joint = [tuple(kinds)] if fused or not radial_bias else [(kind,) for kind in kinds]
            sources = [tuple(self.fiber_in)] if fused else [(degree_in,) for degree_in in self.fiber_in]
            self.groups.extend(KernelGroup(degree, source, members) for members in joint for source in sources)
        self.networks = RadialNetworks(len(self.groups), 1 + n_edge_features)
        sizes = [self._channels_in(group) * group.channels_out for group in self.groups]
        fan = self.networks.hidden
        self.weights = nn.ParameterList(nn.Parameter(_uniform(fan, size, fan_in=fan)) for size in sizes)
        self.biases = (
            nn.ParameterList(nn.Parameter(_uniform(size, fan_in=fan)) for size in sizes) if radial_bias else None
        )

    def _channels_in(self, group: KernelGroup) -> int:
        return sum(n_kernels(into, group.degree_out) * self.fiber_in[into] for into in group.degrees_in)

    def forward(self, features: Features, edges: Edges, keep_weights: bool = False) -> dict[str, Features]:
        """Messages (n_edges, 2l+1, channels) of every kind and degree."""
        n_nodes, n_edges = edges.n_nodes, edges.senders.shape[0]
        flat = torch.cat([features[degree].reshape(n_nodes, -1) for degree in self.fiber_in], dim=1)
        sizes = [(2 * degree + 1) * channels for degree, channels in self.fiber_in.items()]
        parts = gather(flat, edges.senders).split(sizes, dim=1)
        sent = {
            degree: part.view(n_edges, 2 * degree + 1, channels)
            for (degree, channels), part in zip(self.fiber_in.items(), parts, strict=True)
        }
        hidden = self.networks(edges.radial)
        contracted: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        result: dict[str, Features] = {kind: {} for kind in self.kinds}
        for index, group in enumerate(self.groups):
            out = group.degree_out
            key = (out, group.degrees_in)
            if key not in contracted:
                terms = [self._contract(sent[into], edges, out, into) for into in group.degrees_in]
                contracted[key] = terms[0] if len(terms) == 1 else torch.cat(terms, dim=2)
            bias = None if self.biases is None else self.biases[index]
            messages = mix_channels(contracted[key], hidden[index], self.weights[index], bias, keep_weights)
            messages = messages.view(n_edges, 2 * out + 1, group.channels_out)
            kinds = messages.split([channels for _, channels in group.outputs], dim=2)
            for (kind, _), values in zip(group.outputs, kinds, strict=True):
                result[kind][out] = result[kind][out] + values if out in result[kind] else values
        return result

    def _contract(self, sent: Tensor, edges: Edges, out: int, into: int) -> Tensor:
        """Fixed matrices times features, shape (rows, directions·(2l+1), kernels·channels)."""
        rows = edges.radial.shape[0]
        if out == 0 and into == 0:
            values = sent * self.scalar_factor
        elif into == 0:
            values = edges.basis[out, into] * sent
        else:
            values = torch.bmm(edges.basis[out, into], sent)
        return values.reshape(rows, edges.directions * (2 * out + 1), n_kernels(into, out) * sent.shape[2])


class DegreeLinear(nn.Module):
    """A linear map of the channels of each degree, without bias; degrees that are missing at either end are dropped."""

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {
                str(degree): nn.Parameter(torch.randn(channels, fiber_in[degree]) / math.sqrt(fiber_in[degree]))
                for degree, channels in fiber_out.items()
                if degree in fiber_in
            }
        )

    def forward(self, features: Features) -> Features:
        """Shape (n, 2l+1, channels_out) of each degree."""
        return {int(degree): features[int(degree)] @ weight.t() for degree, weight in self.weights.items()}


class AttentiveSelfInteraction(nn.Module):
    """Linear maps with weights of each atom's own, made from the scalar products of its features (eq. 2.6, 2.7).

    Of each degree: the products of all pairs of channels, LayerNorm, LeakyReLU, Linear, and a softmax over the incoming
    channels.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        super().__init__()
        self.fiber_out = {degree: channels for degree, channels in fiber_out.items() if degree in fiber_in}
        self.networks = nn.ModuleDict()
        for degree, channels in self.fiber_out.items():
            n_in = fiber_in[degree]
            self.networks[str(degree)] = nn.Sequential(
                nn.LayerNorm(n_in**2), nn.LeakyReLU(), nn.Linear(n_in**2, channels * n_in)
            )

    def forward(self, features: Features) -> Features:
        """Shape (n, 2l+1, channels_out) of each degree."""
        result = {}
        for degree, channels in self.fiber_out.items():
            x = features[degree]
            products = torch.bmm(x.transpose(1, 2), x).flatten(1)
            weights = self.networks[str(degree)](products).view(x.shape[0], channels, x.shape[2]).softmax(dim=2)
            result[degree] = torch.bmm(x, weights.transpose(1, 2))
        return result


class Norm(nn.Module):
    """Nonlinearity on the length of every channel's vector, which keeps its direction (eq. 2.9)."""

    def __init__(self, fiber: Fiber, kind: str, eps: float) -> None:
        """Make one.

        Args:
            fiber: the same number of channels for each degree.
            kind: ``layer``: ReLU(LayerNorm(|v|)) over the channels of each degree; ``bias``: ReLU(|v| + b).
            eps: ε of the module's docstring.
        """
        super().__init__()
        self.degrees = tuple(fiber)
        self.channels = fiber[self.degrees[0]]
        self.eps = eps
        shape = (len(self.degrees), self.channels)
        self.scale = nn.Parameter(torch.ones(shape)) if kind == "layer" else None
        self.shift = nn.Parameter(torch.zeros(shape) if kind == "layer" else torch.randn(shape))

    def forward(self, features: Features) -> Features:
        """Features of the same shapes."""
        squares = torch.stack([features[degree].square().sum(dim=1) for degree in self.degrees], dim=1)
        lengths = (squares.square() + self.eps**4).sqrt().sqrt()
        if self.scale is None:
            values = lengths + self.shift
        else:
            values = torch.addcmul(self.shift, functional.layer_norm(lengths, (self.channels,)), self.scale)
        factors = (torch.relu(values) / lengths).unsqueeze(2).unbind(1)
        return {degree: features[degree] * factor for degree, factor in zip(self.degrees, factors, strict=True)}


class Attention(nn.Module):
    """Multi-head attention with a skip connection (eq. 2.3-2.5 and 2.8).

    The attended features and the layer's input are concatenated and go through the self-interaction.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        n_heads: int,
        division: int,
        self_interaction: str,
        messages: Callable[[Fiber, Mapping[str, Fiber]], EdgeMessages],
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.value_fiber = {degree: channels // division for degree, channels in fiber_out.items()}
        self.key_fiber = {degree: channels for degree, channels in self.value_fiber.items() if degree in fiber_in}
        self.messages = messages(fiber_in, {"value": self.value_fiber, "key": self.key_fiber})
        self.query = DegreeLinear(fiber_in, self.key_fiber)
        joined = {degree: channels + fiber_in.get(degree, 0) for degree, channels in self.value_fiber.items()}
        interaction = DegreeLinear if self_interaction == "1x1" else AttentiveSelfInteraction
        self.project = interaction(joined, fiber_out)
        # All heads' components count, as in the original.
        n_components = sum((2 * degree + 1) * channels for degree, channels in self.key_fiber.items())
        self.scale = 1.0 / math.sqrt(n_components)

    def forward(self, features: Features, edges: Edges, keep_weights: bool = False) -> Features:
        """New features (n_nodes, 2l+1, channels) of each degree."""
        messages = self.messages(features, edges, keep_weights)
        keys = torch.cat([messages["key"][degree] for degree in self.key_fiber], dim=1)
        query = self.query(features)
        queries = torch.cat([query[degree] for degree in self.key_fiber], dim=1) * self.scale
        n_edges = keys.shape[0]
        scores = (gather(queries, edges.receivers) * keys).sum(dim=1)
        scores = scores.view(n_edges, self.n_heads, keys.shape[2] // self.n_heads).sum(dim=2)
        shares = edge_softmax(scores, edges)
        values = torch.cat([messages["value"][degree] for degree in self.value_fiber], dim=1)
        n_components, channels = values.shape[1], values.shape[2]
        shares = shares.view(n_edges, 1, self.n_heads, 1)
        values = values.view(n_edges, n_components, self.n_heads, channels // self.n_heads) * shares
        attended = scatter_sum(values.view(n_edges, n_components * channels), edges.receivers, edges.n_nodes)
        parts = attended.view(-1, n_components, channels).split([2 * degree + 1 for degree in self.value_fiber], dim=1)
        joined = {}
        for degree, part in zip(self.value_fiber, parts, strict=True):
            joined[degree] = torch.cat([part, features[degree]], dim=2) if degree in features else part
        projected: Features = self.project(joined)
        return projected


class Convolution(nn.Module):
    """Sum or mean of messages over the edges into each node, with a self-interaction; the last layer.

    The node's own term W h is part of every message, so a sum holds it as often as there are edges, and a node without
    edges has none.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        mean: bool,
        messages: Callable[[Fiber, Mapping[str, Fiber]], EdgeMessages],
    ) -> None:
        super().__init__()
        self.mean = mean
        self.fiber_out = dict(fiber_out)
        self.messages = messages(fiber_in, {"out": fiber_out})
        self.own = DegreeLinear(fiber_in, fiber_out)

    def forward(self, features: Features, edges: Edges, keep_weights: bool = False) -> Features:
        """New features (n_nodes, 2l+1, channels) of each degree."""
        messages = self.messages(features, edges, keep_weights)["out"]
        flat = torch.cat([messages[degree].flatten(1) for degree in self.fiber_out], dim=1)
        if edges.weight is not None:
            flat = flat * (edges.weight.square() if self.mean else edges.weight)
        total = scatter_sum(flat, edges.receivers, edges.n_nodes)
        times = edges.degree
        if self.mean:
            count = edges.degree.clamp(min=torch.finfo(total.dtype).tiny)
            total = total / count
            if edges.weight is None:
                times = (edges.degree > 0).to(total.dtype)
            else:
                times = scatter_sum(edges.weight.square(), edges.receivers, edges.n_nodes) / count
        parts = total.split([(2 * degree + 1) * channels for degree, channels in self.fiber_out.items()], dim=1)
        own = self.own(features)
        result = {}
        for (degree, channels), part in zip(self.fiber_out.items(), parts, strict=True):
            values = part.view(-1, 2 * degree + 1, channels)
            result[degree] = values + times.unsqueeze(2) * own[degree] if degree in own else values
        return result


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _constant_bytes(pairs: set[tuple[int, int]], channels: int, n_layers: int) -> int:
    """About what a network takes before it sees a molecule: matrices (also exact ones) and weights, bytes."""
    columns = sum((2 * out + 1) * n_kernels(into, out) * (2 * into + 1) for out, into in pairs)
    top = max(out + into for out, into in pairs)
    # While it is made, the parts of the matrix stand beside the whole.
    matrix = (8 + 8 + 4) * (top + 1) ** 2 * columns
    weights = 2 * n_layers * RADIAL_HIDDEN * channels**2 * sum(n_kernels(into, out) for out, into in pairs)
    return matrix + 4 * weights


@dataclass(frozen=True)
class MemoryNeed:
    """What evaluating a network takes besides its weights, in numbers (of 4 bytes in single precision).

    Attributes:
        kept: what a backward pass needs of all layers.
        passing: the most that stands beside it for a moment.
    """

    kept: int
    passing: int


def memory_need(
    network: SE3TransformerNetwork, n_nodes: int, n_edges: int, directions: int = 2, keep_weights: bool = False
) -> MemoryNeed:
    """Count the large tensors of one evaluation; all grow with the number of edges.

    Args:
        network: any.
        n_nodes: nodes.
        n_edges: directed edges.
        directions: edges that share one row of the radial networks, see :class:`Edges`.
        keep_weights: whether radial weights are kept for a second derivative.
    """
    rows = n_edges // directions
    pairs = network.basis.pairs
    basis = n_edges * sum((2 * out + 1) * n_kernels(into, out) * (2 * into + 1) for out, into in pairs)
    harmonics = n_edges * (network.basis.harmonics.max_degree + 1) ** 2
    kept, passing = basis + harmonics, basis
    for layer in (*network.attention, network.readout):
        messages = layer.messages
        degrees = {group.degree_out for group in messages.groups}
        sent = sum((2 * degree + 1) * channels for degree, channels in messages.fiber_in.items())
        contracted = sum(
            (2 * out + 1) * n_kernels(into, out) * channels
            for out in degrees
            for into, channels in messages.fiber_in.items()
        )
        made = [(2 * group.degree_out + 1) * group.channels_out for group in messages.groups]
        # Of each hidden layer: before and after the normalisation, and after ReLU.
        hidden = 6 * RADIAL_HIDDEN * len(messages.groups)
        sizes = [messages._channels_in(group) * group.channels_out for group in messages.groups]
        # Groups of the same messages from other degrees are added up.
        message = sum(
            {
                (group.degree_out, group.outputs): size for group, size in zip(messages.groups, made, strict=True)
            }.values()
        )
        # Keys and values once as messages, once put together, and the queries of each edge.
        own = n_edges * (sent + contracted + 2 * message) + rows * hidden
        own += n_nodes * 4 * sent
        if keep_weights:
            own += rows * sum(sizes)
        kept += own
        block = 0 if keep_weights else min(rows, _block_rows(max(sizes), messages.weights[0].device)) * max(sizes)
        passing = max(passing, n_edges * (contracted + 2 * message + max(made)) + rows * hidden + 2 * block)
    return MemoryNeed(kept, passing)


class SE3TransformerNetwork(nn.Module):
    """The network on any graph whose nodes have features of any degrees, for example charges and velocities.

    (attention, norm) times the number of layers, then one convolution.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        channels: int = 16,
        max_degree: int = 2,
        n_layers: int = 3,
        n_heads: int = 8,
        channel_division: int = 1,
        self_interaction: str = "1x1",
        norm: str = "layer",
        style: str = "original",
        n_edge_features: int = 0,
        norm_eps: float = 1e-4,
        cutoff: float | None = None,
        cutoff_function: str = "cosine",
    ) -> None:
        """Build the network.

        Args:
            fiber_in: channels of each degree of the input.
            fiber_out: channels of each degree of the output.
            channels: of each degree 0 … max_degree between the layers.
            max_degree: largest degree between the layers.
            n_layers: number of attention layers.
            n_heads: attention heads; each has channels / channel_division / n_heads channels of each degree.
            channel_division: keys and values have this many times fewer channels.
            self_interaction: ``1x1`` (linear) or ``attentive`` (eq. 2.6), after each attention.
            norm: ``layer`` (eq. 2.9) or ``bias``, see :class:`Norm`.
            style: ``original``: one radial network per pair of degrees for keys and for values, mean over edges in
                the last layer. ``nvidia``: keys and values in one, one network per degree of the messages wherever all
                degrees come in with the same channels, no last radial bias, no factor Y_00 between scalars where
                networks are not shared, sum over edges in the last layer.
            n_edge_features: invariant features of the edges that radial networks read besides the distance.
            norm_eps: ε of the norm nonlinearity, see the module's docstring.
            cutoff: edges from this length on (Å) contribute nothing; None: all do.
            cutoff_function: name of the function that edges fade out with, see :mod:`~.layers.cutoffs`, or ``hard``.

        Raises:
            InputError: an option out of range.
        """
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1),
            ("max_degree", max_degree, 0),
            ("n_layers", n_layers, 1),
            ("n_heads", n_heads, 1),
            ("channel_division", channel_division, 1),
            ("n_edge_features", n_edge_features, 0),
        ):
            _check(value >= least, f"{name}={value}: expected at least {least}")
        for name, choice, choices in (
            ("style", style, STYLES),
            ("self_interaction", self_interaction, SELF_INTERACTIONS),
            ("norm", norm, NORMS),
            ("cutoff_function", cutoff_function, (*CUTOFFS, "hard")),
        ):
            _check(choice in choices, f"{name}={choice!r} is unknown; choose one of {', '.join(choices)}")
        _check(
            channels % (channel_division * n_heads) == 0,
            f"channels={channels}: expected a multiple of channel_division * n_heads = {channel_division * n_heads}",
        )
        _check(cutoff is None or cutoff > 0, f"cutoff={cutoff}: expected a positive length in Å, or null")
        _check(norm_eps > 0, f"norm_eps={norm_eps}: expected a positive number")
        _check(
            bool(fiber_in) and any(degree <= max_degree for degree in fiber_in),
            f"fiber_in={dict(fiber_in)}: expected features of a degree up to max_degree={max_degree}",
        )
        self.fiber_in = dict(sorted(fiber_in.items()))
        self.fiber_out = dict(sorted(fiber_out.items()))
        self.hidden = dict.fromkeys(range(max_degree + 1), channels)
        self.cutoff, self.cutoff_function = cutoff, cutoff_function
        self.n_edge_features = n_edge_features
        pairs = {(out, into) for out in self.hidden for into in (*self.fiber_in, *self.hidden)}
        pairs |= {(out, into) for out in self.fiber_out for into in self.hidden}
        # Before anything is made: the matrices of a degree too many do not fit in any memory.
        need, have = _constant_bytes(pairs, channels, n_layers), available_bytes(torch.device("cpu"))
        _check(
            need <= have,
            f"max_degree={max_degree}, channels={channels}: matrices and weights need about {in_words(need)}, and "
            f"{in_words(have)} of memory are available; lower max_degree or channels",
        )
        self.basis = BasisKernels(sorted(pairs))

        def messages(source: Fiber, outputs: Mapping[str, Fiber]) -> EdgeMessages:
            fused = style == "nvidia" and set(source) == set(self.hidden) and len(set(source.values())) == 1
            return EdgeMessages(
                source,
                outputs,
                fused,
                constant_scalar=style == "nvidia" and not fused,
                n_edge_features=n_edge_features,
                radial_bias=style == "original",
            )

        self.attention, self.norms = nn.ModuleList(), nn.ModuleList()
        source: Fiber = self.fiber_in
        for _ in range(n_layers):
            self.attention.append(Attention(source, self.hidden, n_heads, channel_division, self_interaction, messages))
            self.norms.append(Norm(self.hidden, norm, norm_eps))
            source = self.hidden
        self.readout = Convolution(source, self.fiber_out, style == "original", messages)

    def edges(
        self,
        vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
        n_nodes: int,
        edge_features: Tensor | None = None,
        n_pairs: int | None = None,
    ) -> Edges:
        """What all layers need to know about a graph.

        Args:
            vectors: sender's minus receiver's position, shape (n_edges, 3), Å, none of length zero.
            receivers: shape (n_edges,), int64.
            senders: shape (n_edges,), int64.
            n_nodes: number of nodes.
            edge_features: shape (n_edges, n_edge_features).
            n_pairs: if given, edges k and k + n_pairs are each other's reverse for all k < n_pairs = n_edges / 2, and
                have
                the same edge features: those of the first half are read.

        Raises:
            InputError: edge features are missing or of another number than the network has.
        """
        width = 0 if edge_features is None else edge_features.shape[1]
        _check(width == self.n_edge_features, f"{width} edge features; expected {self.n_edge_features}")
        directions = 1
        if n_pairs is not None:
            directions = 2
            vectors = vectors[:n_pairs]
            edge_features = None if edge_features is None else edge_features[:n_pairs]
            receivers = torch.stack([receivers[:n_pairs], receivers[n_pairs:]], dim=1).flatten()
            senders = torch.stack([senders[:n_pairs], senders[n_pairs:]], dim=1).flatten()
        distances = vectors.norm(dim=1, keepdim=True)
        basis = self.basis(vectors / distances, directions == 2)
        weight = None
        if self.cutoff is not None:
            if self.cutoff_function == "hard":
                weight = (distances < self.cutoff).to(distances.dtype)
            else:
                weight = CUTOFFS[self.cutoff_function](distances, self.cutoff)
            weight = weight.repeat_interleave(directions, dim=0, output_size=directions * distances.shape[0])
        ones = distances.new_ones(receivers.shape[0], 1) if weight is None else weight
        radial = distances if edge_features is None else torch.cat([distances, edge_features], dim=1)
        degree = scatter_sum(ones, receivers, n_nodes)
        return Edges(receivers, senders, n_nodes, directions, radial, basis, weight, degree)

    def forward(
        self,
        features: Mapping[int, Tensor],
        vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
        edge_features: Tensor | None = None,
        n_pairs: int | None = None,
    ) -> dict[int, Tensor]:
        """Output features of each degree.

        Args:
            features: shape (n_nodes, channels, 2l+1) of each degree; components of a vector are (x, y, z), those of
                other
                degrees as in e3nn.
            vectors: see :meth:`edges`, as the others.
            receivers: see there.
            senders: see there.
            edge_features: see there.
            n_pairs: see there.

        Returns:
            shape (n_nodes, channels, 2l+1) of each degree.
        """
        n_nodes = next(iter(features.values())).shape[0]
        edges = self.edges(vectors, receivers, senders, n_nodes, edge_features, n_pairs)
        x = {degree: values.transpose(1, 2) for degree, values in features.items()}
        for attention, norm in zip(self.attention, self.norms, strict=True):
            x = norm(attention(x, edges))
        return {degree: values.transpose(1, 2) for degree, values in self.readout(x, edges).items()}


class SE3Transformer(AtomisticModel):
    """SE(3)-Transformer for molecules: sum of atomic energies, and forces from a head of their own.

    The default is the thesis's basic network in its per-head reading, 719,008 parameters with four elements. Kernels
    of even and odd parity mix, so mirror images have different energies. Without a cutoff all pairs of a molecule's
    atoms attend to each other, and the energy of two far molecules is not the sum of theirs.
    """

    reflection_symmetric = False
    irreps = {f"degree_{degree}": f"1x{degree}{'oe'[degree % 2 == 0]}" for degree in range(1, 12)}  # noqa: RUF012

    def __init__(
        self,
        variant: str = "basic",
        channels: int | None = None,
        max_degree: int | None = None,
        n_layers: int = 3,
        n_heads: int = 8,
        channel_division: int = 1,
        self_interaction: str = "1x1",
        norm: str = "layer",
        style: str = "original",
        forces: str = "direct",
        cutoff: float | None = None,
        cutoff_function: str = "cosine",
        norm_eps: float = 1e-4,
        elements: Sequence[int] | None = None,
    ) -> None:
        """Build the network; the options not named here are those of :class:`SE3TransformerNetwork`.

        Args:
            variant: ``basic``, ``wider`` or ``higher_order``, the thesis's networks: 16, 32 and 32 channels, degrees up
                to 2, 2 and 3. The two options that follow replace its numbers.
            channels: of each degree.
            max_degree: largest degree.
            n_layers: number of attention layers.
            n_heads: attention heads.
            channel_division: keys and values have this many times fewer channels.
            self_interaction: ``1x1`` or ``attentive``.
            norm: ``layer`` or ``bias``.
            style: ``original`` or ``nvidia``.
            forces: ``direct``: the vector of the last layer is the force, as in the thesis; ``gradient``: minus the
                gradient of the energy, the last layer has no vector.
            cutoff: Å; None, as in the thesis: all pairs of atoms of a molecule.
            cutoff_function: how edges fade out at the cutoff.
            norm_eps: ε of the norm nonlinearity.
            elements: atomic numbers; H, C, N, O if not given.

        Raises:
            InputError: an option out of range.
        """
        super().__init__()
        _check(variant in VARIANTS, f"variant={variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
        _check(forces in FORCES, f"forces={forces!r} is unknown; choose one of {', '.join(FORCES)}")
        self.elements = (1, 6, 7, 8) if elements is None else tuple(int(z) for z in elements)
        _check(
            bool(self.elements) and min(self.elements) >= 0 and len(set(self.elements)) == len(self.elements),
            f"elements={list(self.elements)}: expected different atomic numbers",
        )
        preset = VARIANTS[variant]
        self.cutoff = cutoff
        self.smooth_cutoff = cutoff_function != "hard"
        self.extensive = cutoff is not None
        self.direct_forces = forces == "direct"
        self.network = SE3TransformerNetwork(
            {0: len(self.elements)},
            {0: 1, 1: 1} if self.direct_forces else {0: 1},
            preset["channels"] if channels is None else channels,
            preset["max_degree"] if max_degree is None else max_degree,
            n_layers,
            n_heads,
            channel_division,
            self_interaction,
            norm,
            style,
            norm_eps=norm_eps,
            cutoff=cutoff,
            cutoff_function=cutoff_function,
        )
        #: edges of the largest batch that was found to fit, without and with training
        self._largest: dict[bool, int] = {}
        one_hot = torch.zeros(max(self.elements) + 1, len(self.elements))
        one_hot[list(self.elements), torch.arange(len(self.elements))] = 1.0
        self.register_buffer("one_hot", one_hot, persistent=False)

    one_hot: Tensor

    def memory_bytes(self, n_atoms: int, n_edges: int, training: bool) -> int:
        """About what evaluating energies and forces takes besides the weights, bytes.

        Args:
            n_atoms: of the batch.
            n_edges: of the batch, both directions counted.
            training: whether the result is to be differentiated.
        """
        need = memory_need(self.network, n_atoms, n_edges, keep_weights=not self.direct_forces)
        numbers: float
        if self.direct_forces:
            numbers = max(need.kept, need.passing) if training else need.passing
        else:
            # A second derivative keeps what the first one made.
            numbers = SECOND_DERIVATIVE * need.kept if training else need.kept
        return int(numbers * self.network.basis.coupling.element_size())

    def _check_memory(self, batch: GraphBatch, training: bool) -> None:
        """Stop with one line where a batch would end in a crash; looks only at batches larger than those before.

        Raises:
            InputError: the batch needs more memory than there is.
        """
        if batch.n_edges <= self._largest.get(training, 0) or torch.compiler.is_compiling():
            return
        device = batch.positions.device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return
        need, have = self.memory_bytes(batch.n_atoms, batch.n_edges, training), available_bytes(device)
        _check(
            need <= have,
            f"se3_transformer: max_degree={max(self.network.hidden)}, channels={self.network.hidden[0]} on a batch of "
            f"{batch.n_edges:,} edges{' in training' if training else ''} need about {in_words(need)}, and "
            f"{in_words(have)} of memory are available on {device}; lower max_degree, channels or the batch size",
        )
        self._largest[training] = batch.n_edges

    def _edges(self, batch: GraphBatch) -> Edges:
        vectors = batch.edge_vectors()
        return self.network.edges(vectors, batch.receivers, batch.senders, batch.n_atoms, n_pairs=batch.n_pairs)

    def _embed(self, batch: GraphBatch) -> Features:
        return {0: gather(self.one_hot, batch.atomic_numbers).unsqueeze(1)}

    def _evaluate(self, batch: GraphBatch) -> Features:
        """The last layer's features: a scalar, and a vector with direct forces."""
        edges = self._edges(batch)
        # Forces by gradient differentiate every kernel twice.
        keep = not self.direct_forces and batch.positions.requires_grad
        features = self._embed(batch)
        for attention, norm in zip(self.network.attention, self.network.norms, strict=True):
            features = norm(attention(features, edges, keep))
        outputs: Features = self.network.readout(features, edges, keep)
        return outputs

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64.

        Raises:
            InputError: the batch needs more memory than there is.
        """
        self._check_memory(batch, torch.is_grad_enabled())
        return batch.sum_atoms(self._evaluate(batch)[0])

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, both from one pass if forces are direct.

        Args:
            batch: molecules.
            create_graph: keep what is needed to differentiate both.

        Raises:
            InputError: the batch needs more memory than there is.
        """
        self._check_memory(batch, create_graph)
        if not self.direct_forces:
            return super().energy_and_forces(batch, create_graph)
        with torch.set_grad_enabled(create_graph):
            features = self._evaluate(batch)
            return batch.sum_atoms(features[0]), features[1].squeeze(2)

    def steps(self) -> list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]]:
        """The layers; features ``degree_l`` are (n_atoms, channels, 2l+1)."""

        def pack(features: Features) -> dict[str, Tensor]:
            return {f"degree_{degree}": values.transpose(1, 2) for degree, values in features.items()}

        def unpack(features: dict[str, Tensor]) -> Features:
            return {int(name.removeprefix("degree_")): values.transpose(1, 2) for name, values in features.items()}

        def attend(layer: nn.Module) -> Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]:
            return lambda batch, features: pack(layer(unpack(features), self._edges(batch)))

        def normalise(layer: nn.Module) -> Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]:
            return lambda _, features: pack(layer(unpack(features)))

        def readout(batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
            last = self.network.readout(unpack(features), self._edges(batch))
            result = {"energy": batch.sum_atoms(last[0])}
            if self.direct_forces:
                result["forces"] = last[1].squeeze(2)
            return result

        chain: list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]] = [
            ("embedding", lambda batch, _: pack(self._embed(batch)))
        ]
        for number, (attention, norm) in enumerate(zip(self.network.attention, self.network.norms, strict=True), 1):
            chain.append((f"attention {number}", attend(attention)))
            chain.append((f"norm {number}", normalise(norm)))
        return [*chain, ("readout", readout)]
