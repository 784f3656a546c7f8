"""So3krates as of 2023: a transformer on atoms that keeps invariant features and equivariant variables apart.

Every atom has features x_i (F numbers) and Euclidean variables χ_i, one vector of 2l+1 components per degree l, which
turn with the molecule. A layer lets both attend to the neighbours (the attention depends on both, but on χ only through
invariants of χ_j - χ_i) and then exchanges information between them within each atom. No product of higher-order
tensors is ever formed.

Sources: J. T. Frank, O. T. Unke, K.-R. Müller, NeurIPS 2022 (architecture); J. T. Frank, O. T. Unke, K.-R. Müller, S.
Chmiela, Nat. Commun. 15, 6539 (2024) (the later form); B. Pavlović, So3krates on SPICE (eq. 2-9; the configuration that
is the default here).

How the work is arranged: filters are functions of the pair, not of the direction, and are computed once per pair; both
blocks' filters, queries and keys are worked on together; layers/pair_attention.py has the derivatives of the attention.

The options beyond the default follow the papers' descriptions; only the default form, with the phys and gaussian bases,
has been compared with numbers of the original programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.compat import e3nn_o3
from mlip_studies.models.layers.activations import silu
from mlip_studies.models.layers.cutoffs import cutoff_function as cutoff_by_name
from mlip_studies.models.layers.pair_attention import attend, attention_scores
from mlip_studies.models.layers.radial import FixedTensors
from mlip_studies.models.layers.radial import radial_basis as radial_basis_by_name

o3 = e3nn_o3()

LAYER_NORMS = ("pre", "post")
RESIDUAL_MLPS = ("2023", "plain")
NORMALIZATIONS = ("sqrt_features", "avg_num_neighbors")
CONTRACTIONS = ("filter", "interaction")
LAYER_NORM_EPS = 1e-6


def _lecun_normal(weight: Tensor, fan_in: int) -> None:
    """Truncated normal numbers of variance 1/fan_in, the initialisation of the original."""
    # 0.8796 is the standard deviation of a unit normal distribution that is cut at two standard deviations.
    std = 1.0 / (math.sqrt(fan_in) * 0.87962566103423978)
    nn.init.trunc_normal_(weight, std=std, a=-2.0 * std, b=2.0 * std)


def _linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(n_in, n_out, bias=bias)
    _lecun_normal(linear.weight, n_in)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class SphericalHarmonics(FixedTensors):
    """Orthonormal real spherical harmonics, m = -l..l for each degree.

    These are e3nn's with ``normalization="integral"`` of the axes (y, z, x). They come from the recursion
    Y_l = c_l [Y_(l-1) ⊗ u]_l with Clebsch-Gordan coefficients: one product and one small matrix product per degree.
    """

    scale: Tensor
    parity: Tensor

    def __init__(self, degrees: Sequence[int]) -> None:
        super().__init__()
        self.degrees = tuple(degrees)
        # Scale of each degree's Clebsch-Gordan product, from its value along one direction.
        axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
        previous = axis
        rows = []
        for degree in range(2, max(self.degrees) + 1):
            coupling = o3.wigner_3j(degree - 1, 1, degree, dtype=torch.float64).reshape(-1, 2 * degree + 1)
            product = torch.outer(previous, axis).reshape(-1) @ coupling
            # Components of norm 1 (e3nn's "norm"), with e3nn's sign.
            exact = o3.spherical_harmonics(degree, axis, normalize=False, normalization="norm")
            scale = torch.dot(exact, product) / torch.dot(product, product)
            rows.append((f"coupling_{degree}", coupling * scale))
            previous = product * scale
        for name, values in rows:
            self.fix(name, values)
        self.fix("scale", np.repeat([math.sqrt((2 * n + 1) / (4.0 * math.pi)) for n in self.degrees], self.sizes()))
        self.fix("parity", np.repeat([(-1.0) ** n for n in self.degrees], self.sizes()))

    def sizes(self) -> list[int]:
        """Number of components of each degree."""
        return [2 * degree + 1 for degree in self.degrees]

    def forward(self, unit: Tensor) -> Tensor:
        """Shape (n, sum of 2l+1) from unit vectors (n, 3) in axes (x, y, z)."""
        u = unit.roll(-1, dims=1)
        value, values = u, [u]
        for degree in range(2, max(self.degrees) + 1):
            product = (value.unsqueeze(2) * u.unsqueeze(1)).flatten(1)
            value = product @ getattr(self, f"coupling_{degree}")
            values.append(value)
        return torch.cat([values[degree - 1] for degree in self.degrees], dim=1) * self.scale


class Invariants(FixedTensors):
    """The invariant of each degree, sum over m of χ_lm² / sqrt(2l+1), and the way back from degrees to components."""

    contraction: Tensor
    expansion: Tensor

    def __init__(self, degrees: Sequence[int], rounded: bool = False) -> None:
        super().__init__()
        sizes = [2 * degree + 1 for degree in degrees]
        factors = np.array([1.0 / math.sqrt(size) for size in sizes])
        if rounded:
            factors = factors.astype(np.float32).astype(np.float64)
        expansion = np.repeat(np.eye(len(sizes)), sizes, axis=1)
        self.fix("expansion", expansion)
        self.fix("contraction", (expansion * factors[:, None]).T)

    def forward(self, chi: Tensor) -> Tensor:
        """Shape (n, n_degrees) from (n, n_components)."""
        return chi.square() @ self.contraction

    def expand(self, values: Tensor) -> Tensor:
        """One value per component, (n, n_components), from one per degree, (n, n_degrees)."""
        return values @ self.expansion


class PairFilters(nn.Module):
    """Filters w_ij of the feature block and of the geometric block.

    w_ij = MLP_rad(radial basis) + MLP_sph(invariants), one hidden layer with SiLU in each, no activation of the sum.
    Both blocks (features, geometry) lie side by side: in the last axis of ``radial_in`` (n_radial, 2 F),
    ``spherical_in`` (n_degrees, 2 F/4) and all biases, in the first one of ``radial_out`` (2, F, F) and
    ``spherical_out`` (2, F/4, F).
    """

    def __init__(self, n_features: int, n_radial: int, n_degrees: int) -> None:
        super().__init__()
        hidden = n_features // 4
        self.n_features = n_features
        self.radial_in = nn.Parameter(torch.empty(n_radial, 2 * n_features))
        self.radial_in_bias = nn.Parameter(torch.zeros(2 * n_features))
        self.radial_out = nn.Parameter(torch.empty(2, n_features, n_features))
        self.radial_out_bias = nn.Parameter(torch.zeros(2 * n_features))
        self.spherical_in = nn.Parameter(torch.empty(n_degrees, 2 * hidden))
        self.spherical_in_bias = nn.Parameter(torch.zeros(2 * hidden))
        self.spherical_out = nn.Parameter(torch.empty(2, hidden, n_features))
        self.spherical_out_bias = nn.Parameter(torch.zeros(2 * n_features))
        for weight in (self.radial_in, self.radial_out, self.spherical_in, self.spherical_out):
            _lecun_normal(weight, weight.shape[-2])

    def forward(self, radial: Tensor, invariants: Tensor) -> Tensor:
        """Shape (n_pairs, 2 F) from radial basis (n_pairs, n_radial) and invariants (n_pairs, n_degrees)."""
        from_distance = silu(torch.addmm(self.radial_in_bias, radial, self.radial_in))
        from_sphere = silu(torch.addmm(self.spherical_in_bias, invariants, self.spherical_in))
        bias = (self.radial_out_bias + self.spherical_out_bias).view(2, 1, -1)
        filters = torch.baddbmm(bias, from_distance.unflatten(1, (2, -1)).transpose(0, 1), self.radial_out)
        filters = torch.baddbmm(filters, from_sphere.unflatten(1, (2, -1)).transpose(0, 1), self.spherical_out)
        return filters.transpose(0, 1).flatten(1)


class ResidualMLP(nn.Module):
    """Two dense layers around the features.

    ``2023``: Dense(silu(x + Dense(silu(Dense(silu(x)))))) without biases, in place of x; ``plain``: x +
    Dense(silu(Dense(silu(x)))) with biases. The two are not interchangeable.
    """

    def __init__(self, n_features: int, form: str) -> None:
        super().__init__()
        bias = form == "plain"
        self.inner = _linear(n_features, n_features, bias)
        self.outer = _linear(n_features, n_features, bias)
        self.last = None if bias else _linear(n_features, n_features, False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n_atoms, F) to the same."""
        x = x + self.outer(silu(self.inner(silu(x))))
        return x if self.last is None else self.last(silu(x))


class So3kratesLayer(nn.Module):
    """Attention of the features and of the Euclidean variables, then their exchange within each atom."""

    def __init__(
        self,
        n_features: int,
        n_heads: int,
        degrees: Sequence[int],
        n_radial: int,
        normalization: tuple[float, float],
        layer_norm: str | None,
        residual_mlp: str | None,
        rounded_contraction: Sequence[str],
    ) -> None:
        super().__init__()
        n_degrees = len(degrees)
        self.n_features, self.n_heads, self.n_degrees = n_features, n_heads, n_degrees
        self.layer_norm = layer_norm
        self.filters = PairFilters(n_features, n_radial, n_degrees)
        self.normalization = normalization
        self.filter_invariants = Invariants(degrees, "filter" in rounded_contraction)
        self.interaction_invariants = Invariants(degrees, "interaction" in rounded_contraction)
        head, degree_head = n_features // n_heads, n_features // n_degrees
        # Head, input channel, (query, key, value) channel.
        self.feature_projection = nn.Parameter(torch.empty(n_heads, head, 3 * head))
        self.geometry_projection = nn.Parameter(torch.empty(n_degrees, degree_head, 2 * degree_head))
        _lecun_normal(self.feature_projection, head)
        _lecun_normal(self.geometry_projection, degree_head)
        self.interaction = _linear(n_features + n_degrees, n_features + n_degrees)
        if layer_norm is not None:
            self.norms = nn.ModuleList(nn.LayerNorm(n_features, eps=LAYER_NORM_EPS) for _ in range(2))
        if residual_mlp is not None:
            self.residuals = nn.ModuleList(ResidualMLP(n_features, residual_mlp) for _ in range(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (divided by the normalisation) and keys of both blocks, (n_atoms, 2 F), and values (n_atoms, F)."""
        by_head = x.unflatten(1, (self.n_heads, -1)).transpose(0, 1) @ self.feature_projection
        by_degree = x.unflatten(1, (self.n_degrees, -1)).transpose(0, 1) @ self.geometry_projection
        q, k, v = (part.transpose(0, 1).flatten(1) for part in by_head.chunk(3, dim=2))
        q_geometry, k_geometry = (part.transpose(0, 1).flatten(1) for part in by_degree.chunk(2, dim=2))
        query = torch.cat([q / self.normalization[0], q_geometry / self.normalization[1]], dim=1)
        return query, torch.cat([k, k_geometry], dim=1), v

    def forward(self, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """New ``x`` and ``chi`` of the same shapes, and the ``attention`` weights (n_edges, heads) that led to them.

        These are taken before the cutoff function. For the other features see :meth:`So3krates.embed`.
        """
        x, chi = features["x"], features["chi"]
        attended = self.norms[0](x) if self.layer_norm == "pre" else x
        filters = self.filters(features["radial"], self.filter_invariants(pair_difference(chi, batch)))
        query, key, value = self.project(attended)
        attention = attention_scores(query, key, filters, batch, (self.n_heads, self.n_degrees))
        weights, degree_weights = (attention * features["switch"]).split((self.n_heads, self.n_degrees), dim=1)
        x = self._refine(x + attend(weights, value, batch), 0)
        chi = chi + batch.sum_edges(self.filter_invariants.expand(degree_weights) * features["harmonics"])
        exchanged = self.norms[1](x) if self.layer_norm == "pre" else x
        exchange = self.interaction(torch.cat([exchanged, self.interaction_invariants(chi)], dim=1))
        for_x, for_chi = exchange.split((self.n_features, self.n_degrees), dim=1)
        x = self._refine(x + for_x, 1)
        chi = chi + self.interaction_invariants.expand(for_chi) * chi
        return features | {"x": x, "chi": chi, "attention": attention}

    def _refine(self, x: Tensor, place: int) -> Tensor:
        if hasattr(self, "residuals"):
            x = self.residuals[place](x)
        return self.norms[place](x) if self.layer_norm == "post" else x


class ElementTables(FixedTensors):
    """Scale and shift of the atomic energies, one number per element; without them, nothing is multiplied or added."""

    scales: Tensor | None
    shifts: Tensor | None

    def __init__(
        self, n_elements: int, scales: Sequence[float] | None, shifts: Sequence[float] | None, trained: bool
    ) -> None:
        super().__init__()
        for name, values, default in (("scales", scales, 1.0), ("shifts", shifts, 0.0)):
            if values is not None and len(values) != n_elements:
                raise InputError(
                    f"So3krates option energy_{name}: {len(values)} numbers for {n_elements} elements; give one each"
                )
            if trained:
                table = torch.tensor([default] * n_elements if values is None else [float(value) for value in values])
                self.register_parameter(name, nn.Parameter(table))
            elif values is None:
                self.register_parameter(name, None)
            else:
                self.fix(name, values)

    def forward(self, energies: Tensor, place: Tensor) -> Tensor:
        """Scaled and shifted energies (n_atoms,), eV; ``place`` (n_atoms,) is each atom's row in the tables."""
        if self.scales is not None:
            energies = energies * gather(self.scales, place)
        return energies if self.shifts is None else energies + gather(self.shifts, place)


def pair_difference(values: Tensor, batch: GraphBatch) -> Tensor:
    """Value of the sender minus that of the receiver, (n_pairs, ...) where edges come in pairs, else (n_edges, ...)."""
    senders, receivers = batch.senders[: batch.n_pairs], batch.receivers[: batch.n_pairs]
    return gather(values, senders) - gather(values, receivers)


class So3krates(AtomisticModel):
    """So3krates; 319,213 parameters in the default configuration, that of the SPICE thesis."""

    irreps_axes = (1, 2, 0)
    cutoff: float
    place: Tensor

    def __init__(
        self,
        elements: Sequence[int] | None = None,
        embedding_rows: int | None = 100,
        n_features: int = 132,
        n_layers: int = 3,
        n_heads: int = 4,
        degrees: Sequence[int] = (1, 2, 3),
        cutoff: float = 5.0,
        radial_basis: str = "phys",
        n_radial: int = 32,
        cutoff_function: str = "cosine",
        layer_norm: str | None = None,
        residual_mlp: str | None = None,
        normalization: str = "sqrt_features",
        avg_num_neighbors: float | None = None,
        sphc_normalization: float | None = None,
        energy_scales: Sequence[float] | None = None,
        energy_shifts: Sequence[float] | None = None,
        train_scales_and_shifts: bool = False,
        rounded_contraction: Sequence[str] = (),
    ) -> None:
        """Build the network.

        Args:
            elements: atomic numbers; all rows of the embedding if not given.
            embedding_rows: rows of the element embedding, the atomic number being the row; None: one row per element,
                in the order of ``elements``.
            n_features: F, a multiple of n_heads, of the number of degrees, and of 4.
            n_layers: number of layers.
            n_heads: attention heads of the feature block; the geometric block has one per degree.
            degrees: degrees l of the Euclidean variables, ascending, from 1 on.
            cutoff: Å.
            radial_basis: ``phys``, ``bernstein`` or ``gaussian``.
            n_radial: number of radial basis functions.
            cutoff_function: ``cosine``, ``polynomial`` or ``exponential``.
            layer_norm: of the features; None: nowhere; ``pre``: of what the two blocks of a layer read (2023);
                ``post``: of what they leave behind (later version).
            residual_mlp: of the features behind each of the two blocks; None, ``2023`` or ``plain`` (later version),
                see :class:`ResidualMLP`.
            normalization: divisor of the attention weights: ``sqrt_features``, the root of a head's width, or
                ``avg_num_neighbors``.
            avg_num_neighbors: mean number of neighbours in the training set, needed for that choice.
            sphc_normalization: if given, χ starts as the sum of the neighbours' harmonics times the cutoff function,
                divided by this number (eq. 4 of the thesis), otherwise at 0.
            energy_scales: factor of each element's atomic energy, in the order of ``elements``; 1 if not given.
            energy_shifts: added to each atomic energy (not scaled), eV; 0 if not given.
            train_scales_and_shifts: whether these are parameters.
            rounded_contraction: where the factors 1/sqrt(2l+1) have single-precision rounding also in double precision:
                ``filter`` and/or ``interaction``. Only for agreement with other programs to more than 1e-7.

        Raises:
            InputError: a value that makes no network.
        """
        super().__init__()
        degrees = tuple(int(degree) for degree in degrees)
        self._check(n_features, n_layers, n_heads, degrees, cutoff)
        for option, chosen, known in (
            ("layer_norm", layer_norm, (None, *LAYER_NORMS)),
            ("residual_mlp", residual_mlp, (None, *RESIDUAL_MLPS)),
            ("normalization", normalization, NORMALIZATIONS),
        ):
            if chosen not in known:
                names = ", ".join(str(name) for name in known)
                raise InputError(f"So3krates option {option}: {chosen!r} is unknown; choose one of {names}")
        if normalization == "avg_num_neighbors" and not (avg_num_neighbors or 0.0) > 0.0:
            raise InputError("So3krates option avg_num_neighbors: a positive number is needed for that normalization")
        if sphc_normalization is not None and not sphc_normalization > 0.0:
            raise InputError("So3krates option sphc_normalization: expected a positive number or none")
        if unknown := sorted(set(rounded_contraction) - set(CONTRACTIONS)):
            raise InputError(
                f"So3krates option rounded_contraction: {unknown[0]!r} is not in {', '.join(CONTRACTIONS)}"
            )
        self.elements = self._elements(elements, embedding_rows)
        self.cutoff = float(cutoff)
        self.degrees = degrees
        harmonics_irreps = "+".join(f"1x{degree}{'o' if degree % 2 else 'e'}" for degree in degrees)
        self.irreps = {"chi": harmonics_irreps, "harmonics": harmonics_irreps}
        self.sphc_normalization = sphc_normalization
        self.switch = cutoff_by_name(cutoff_function)
        self.radial_basis = radial_basis_by_name(radial_basis, n_radial, self.cutoff)
        self.harmonics = SphericalHarmonics(degrees)
        # Row of an element in the tables of energy scales and shifts, and in an embedding of these elements only.
        place = torch.full((max(self.elements) + 1,), -1, dtype=torch.int64)
        place[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("place", place, persistent=False)
        self.row_is_number = embedding_rows is not None
        rows = len(self.elements) if embedding_rows is None else embedding_rows
        self.embedding = nn.Parameter(torch.randn(rows, n_features) / math.sqrt(n_features))
        norms = (math.sqrt(n_features // n_heads), math.sqrt(n_features // len(degrees)))
        if normalization == "avg_num_neighbors" and avg_num_neighbors is not None:
            norms = (float(avg_num_neighbors), float(avg_num_neighbors))
        self.layers = nn.ModuleList(
            So3kratesLayer(n_features, n_heads, degrees, n_radial, norms, layer_norm, residual_mlp, rounded_contraction)
            for _ in range(n_layers)
        )
        self.head_in = _linear(n_features, n_features)
        self.head_out = _linear(n_features, 1)
        self.tables = ElementTables(len(self.elements), energy_scales, energy_shifts, train_scales_and_shifts)

    @staticmethod
    def _check(n_features: int, n_layers: int, n_heads: int, degrees: tuple[int, ...], cutoff: float) -> None:
        if n_layers < 1 or n_heads < 1 or n_features < 4:
            raise InputError(
                f"So3krates options n_layers {n_layers}, n_heads {n_heads}, n_features {n_features}: expected at least "
                "1, 1 and 4"
            )
        if not degrees or degrees[0] < 1 or any(b <= a for a, b in pairwise(degrees)):
            raise InputError(f"So3krates option degrees: {list(degrees)}; expected ascending numbers from 1 on")
        for divisor, what in ((n_heads, "n_heads"), (len(degrees), "the number of degrees"), (4, "4")):
            if n_features % divisor:
                raise InputError(
                    f"So3krates option n_features: {n_features} is not a multiple of {what} ({divisor}); choose one"
                )
        if not cutoff > 0.0:
            raise InputError(f"So3krates option cutoff: {cutoff}; expected a positive length in Å")

    @staticmethod
    def _elements(elements: Sequence[int] | None, embedding_rows: int | None) -> tuple[int, ...]:
        if elements is None:
            if embedding_rows is None or embedding_rows < 2:
                raise InputError("So3krates options: elements, or at least 2 embedding_rows, are needed")
            return tuple(range(1, embedding_rows))
        elements = tuple(int(z) for z in elements)
        last = 118 if embedding_rows is None else embedding_rows - 1
        if not elements or len(set(elements)) < len(elements) or min(elements) < 1 or max(elements) > last:
            raise InputError(
                f"So3krates option elements: {list(elements)}; expected different atomic numbers from 1 to {last}"
            )
        return elements

    def embed(self, batch: GraphBatch, features: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Features before the first layer.

        Returns:
            ``x`` (n_atoms, F), ``chi`` (n_atoms, n_components); of each pair (of each edge where edges do not come in
            pairs) ``radial`` (n_pairs, n_radial); of each edge ``switch`` (n_edges, 1), the cutoff function, and
            ``harmonics`` (n_edges, n_components).
        """
        vectors = batch.edge_vectors()[: batch.n_pairs]
        distances = vectors.square().sum(dim=1).sqrt()
        harmonics = self.harmonics(vectors / distances.unsqueeze(1))
        switch = self.switch(distances, self.cutoff).unsqueeze(1)
        if batch.n_pairs is not None:
            harmonics = torch.cat([harmonics, harmonics * self.harmonics.parity])
            switch = torch.cat([switch, switch])
        if self.sphc_normalization is None:
            chi = harmonics.new_zeros((batch.n_atoms, harmonics.shape[1]))
        else:
            chi = batch.sum_edges(switch * harmonics) / self.sphc_normalization
        rows = batch.atomic_numbers if self.row_is_number else gather(self.place, batch.atomic_numbers)
        radial = self.radial_basis(distances)
        x = gather(self.embedding, rows)
        return {"x": x, "chi": chi, "radial": radial, "switch": switch, "harmonics": harmonics}

    def atomic_energies(self, batch: GraphBatch, x: Tensor) -> Tensor:
        """Energy of each atom, shape (n_atoms,), eV, from its features (n_atoms, F)."""
        energies = self.head_out(silu(self.head_in(x))).squeeze(1)
        read: Tensor = self.tables(energies, gather(self.place, batch.atomic_numbers))
        return read

    def read_out(self, batch: GraphBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The molecules' ``energy``, shape (n_graphs,), eV, from ``x`` (n_atoms, F)."""
        return {"energy": batch.sum_atoms(self.atomic_energies(batch, features["x"]))}

    def steps(self) -> list[tuple[str, Callable[[GraphBatch, dict[str, Tensor]], dict[str, Tensor]]]]:
        """Embedding, layers, readout; see :meth:`embed` and :class:`So3kratesLayer` for their features."""
        layers = [(f"layer {number}", layer) for number, layer in enumerate(self.layers, start=1)]
        return [("embedding", self.embed), *layers, ("readout", self.read_out)]

    def forward(self, batch: GraphBatch) -> Tensor:
        """Energy of each molecule, shape (n_graphs,), eV, float64."""
        features: dict[str, Tensor] = {}
        for _, step in self.steps():
            features = step(batch, features)
        return features["energy"]
