"""Where gradients of an SE(3)-Transformer stop being numbers, measured.

B. E. Hedelius (*Learning inter-atomic forces with an SE(3)-Transformer*, Brigham Young University 2021, section 2.4)
found the network "inherently unstable", blamed derivatives of the spherical harmonics that are undefined at certain
places, and skipped steps without a numerical loss. Two formulas have such places:

* **harmonics**, if they are written in angles: acos and atan2 have no derivative at the poles. As polynomials of the
  unit vector they are smooth everywhere. Either way a network with a force head of its own never differentiates them:
  they depend on positions, and its loss is differentiated with respect to weights only.
* **the direction v/|v|** in the norm nonlinearity (eq. 2.9), whose derivative is 1/|v|. It lies on the path of every
  weight's gradient, and |v| is exactly zero in symmetric environments.

Four parts look at both: the formulas alone (``harmonics``, ``direction``), whole networks on symmetric molecules
(``network``) and a short training with and without such molecules (``training``). Everything is in single precision, as
the thesis trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.graph.batch import GraphBatch, make_batch
from mlip_studies.models.measure import excite
from mlip_studies.models.se3_transformer import Features, Norm, SE3Transformer, SphericalHarmonics

#: guard of published implementations: |v| is not taken smaller than this
CLAMP = 1e-12
#: degrees of the harmonics that kernels between degrees 0, 1 and 2 need
MAX_HARMONIC = 4
#: ε of the smoothed direction, the default of :class:`SE3Transformer`
EPS = 1e-4
UNGUARDED, CLAMPED, SMOOTHED, ANGLES, POLYNOMIALS = "unguarded", "clamped", "smoothed", "angles", "polynomials"
DIRECTIONS = (UNGUARDED, CLAMPED, SMOOTHED)
COLUMNS = ("part", "variant", "case", "quantity", "x", "value", "n_not_finite", "n_values")
#: rad from the pole, and lengths of a vector; zero is the singular point itself
POLAR_ANGLES = (0.0, *np.logspace(-8, 0, 33).tolist())
LENGTHS = (0.0, *np.logspace(-14, 1, 31).tolist())
NETWORK = {"channels": 8, "max_degree": 2, "n_layers": 3, "n_heads": 2}
TRAINED = {"channels": 8, "max_degree": 2, "n_layers": 2, "n_heads": 2}
SYMMETRIC, DISPLACED = "symmetric", "displaced"
#: molecules of ASE's G2 collection that the training uses, all with symmetric minima
TRAINING_MOLECULES = ("CO2", "CH4", "C2H2", "H2O", "NH3", "C2H4", "N2")
LEARNING_RATE = 1e-3
TRAINING_STEPS = 60
#: standard deviation of the displacements in the training without symmetric molecules, Å
SPREAD = 0.05

Molecule = tuple[NDArray[np.int64], NDArray[np.float64]]
#: part, variant, case, quantity, x, value, number of values that are not finite, number of values
Row = tuple[str, str, str, str, float, float, int, int]


class AngularHarmonics(nn.Module):
    """The harmonics of :class:`SphericalHarmonics`, written in polar and azimuthal angle as textbooks do.

    The pole is the y axis, as in e3nn. Same values, other derivatives: those of acos and atan2.
    """

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree

    def forward(self, unit: Tensor) -> Tensor:
        """Shape (n, (max_degree + 1)²) from unit vectors (n, 3)."""
        x, y, z = unit.unbind(1)
        polar, azimuth = torch.acos(y), torch.atan2(x, z)
        cosine, sine = torch.cos(polar), torch.sin(polar)
        legendre = self._legendre(cosine, sine)
        values = []
        for degree in range(self.max_degree + 1):
            for order in range(-degree, degree + 1):
                m = abs(order)
                ratio = math.factorial(degree - m) / math.factorial(degree + m)
                factor = math.sqrt((2 * degree + 1) / (4.0 * math.pi) * ratio * (2.0 if m else 1.0))
                turn = torch.sin(m * azimuth) if order < 0 else torch.cos(m * azimuth)
                values.append(factor * legendre[degree, m] * turn)
        return torch.stack(values, dim=1)

    def _legendre(self, cosine: Tensor, sine: Tensor) -> dict[tuple[int, int], Tensor]:
        """Associated Legendre functions without the Condon-Shortley phase."""
        result = {(0, 0): torch.ones_like(cosine)}
        for m in range(1, self.max_degree + 1):
            result[m, m] = (2 * m - 1) * sine * result[m - 1, m - 1]
        for m in range(self.max_degree):
            result[m + 1, m] = (2 * m + 1) * cosine * result[m, m]
        for m in range(self.max_degree - 1):
            for degree in range(m + 2, self.max_degree + 1):
                below = (degree + m - 1) * result[degree - 2, m]
                result[degree, m] = ((2 * degree - 1) * cosine * result[degree - 1, m] - below) / (degree - m)
        return result


def exact_gradient(max_degree: int = MAX_HARMONIC) -> float:
    """Norm of the gradient of all harmonics up to a degree on the unit sphere, the same everywhere.

    The addition theorem gives sum_m |grad Y_lm|² = l (l + 1) (2 l + 1) / 4π.
    """
    return math.sqrt(sum(d * (d + 1) * (2 * d + 1) for d in range(max_degree + 1)) / (4.0 * math.pi))


def direction(vector: Tensor, variant: str, dim: int = 1, eps: float = EPS) -> Tensor:
    """v/|v|, any shape, as written (``unguarded``), with |v| ≥ 1e-12 (``clamped``), or |v| smoothed (``smoothed``)."""
    return vector / _length(vector, variant, dim, eps)


def _length(vector: Tensor, variant: str, dim: int, eps: float) -> Tensor:
    if variant == SMOOTHED:
        return (vector.square().sum(dim=dim, keepdim=True).square() + eps**4).sqrt().sqrt()
    length = vector.norm(dim=dim, keepdim=True)
    safe: Tensor = length.clamp(min=CLAMP) if variant == CLAMPED else length
    return safe


class NaiveNorm(nn.Module):
    """The norm nonlinearity as eq. 2.9 states it, ReLU(LayerNorm(|v|)) v/|v|, ``unguarded`` or ``clamped``."""

    def __init__(self, norm: Norm, variant: str) -> None:
        """Share the weights of a smoothed one."""
        super().__init__()
        assert norm.scale is not None, "a norm with a bias has no LayerNorm"
        self.norm, self.variant, self.scale = norm, variant, norm.scale

    def forward(self, features: Features) -> Features:
        """Features of the same shapes, (n, 2l+1, channels) of each degree."""
        result = {}
        for index, degree in enumerate(self.norm.degrees):
            lengths = _length(features[degree], self.variant, 1, self.norm.eps)
            values = functional.layer_norm(lengths, (self.norm.channels,)) * self.scale[index] + self.norm.shift[index]
            result[degree] = torch.relu(values) * (features[degree] / lengths)
        return result


def _row(part: str, variant: str, case: str, quantity: str, x: float, values: Tensor, reduce: str) -> Row:
    """One line: what is finite reduced to its maximum or norm, and how many values are not finite."""
    flat = values.detach().double().flatten()
    finite = flat[flat.isfinite()]
    number = math.nan
    if finite.numel():
        number = float(finite.abs().max()) if reduce == "max" else float(finite.norm())
    return part, variant, case, quantity, x, number, flat.numel() - finite.numel(), flat.numel()


def harmonics_rows(angles: Sequence[float] = POLAR_ANGLES, n_azimuths: int = 8) -> Iterator[Row]:
    """Gradient of all harmonics up to degree 4 at polar angles; ``value`` is the largest norm over azimuths."""
    kinds: dict[str, nn.Module] = {
        ANGLES: AngularHarmonics(MAX_HARMONIC),
        POLYNOMIALS: SphericalHarmonics(MAX_HARMONIC),
    }
    for variant, harmonics in kinds.items():
        for angle in angles:
            azimuths = np.arange(n_azimuths) * (2.0 * np.pi / n_azimuths) + 0.1 if angle else np.zeros(1)
            points = np.stack(
                [np.sin(angle) * np.sin(azimuths), np.full_like(azimuths, np.cos(angle)),
                 np.sin(angle) * np.cos(azimuths)], axis=1,
            )  # fmt: skip
            vectors = torch.as_tensor(points, dtype=torch.float32).requires_grad_(True)
            values = harmonics(vectors / vectors.norm(dim=1, keepdim=True))
            columns = [torch.autograd.grad(column.sum(), vectors, retain_graph=True)[0] for column in values.unbind(1)]
            gradient = torch.stack(columns, dim=1).flatten(1)
            norms = gradient.square().sum(dim=1).sqrt()
            row = _row("harmonics", variant, "", "gradient", angle, norms, "max")
            yield (*row[:6], int((~gradient.isfinite()).sum()), gradient.numel())


def direction_rows(lengths: Sequence[float] = LENGTHS, seed: int = 0, n_directions: int = 8) -> Iterator[Row]:
    """Largest element of the derivative of v/|v| at vectors of given lengths (dimensionless)."""
    generator = torch.Generator().manual_seed(seed)
    units = torch.randn(n_directions, 3, generator=generator, dtype=torch.float64)
    units = units / units.norm(dim=1, keepdim=True)
    for variant in DIRECTIONS:
        for length in lengths:
            vectors = (units * length).float().requires_grad_(True)
            values = direction(vectors, variant)
            columns = [torch.autograd.grad(column.sum(), vectors, retain_graph=True)[0] for column in values.unbind(1)]
            yield _row("direction", variant, "", "derivative", length, torch.stack(columns, dim=2), "max")


def _turned(positions: NDArray[np.float64], onto_pole: bool) -> NDArray[np.float64]:
    """Longest axis along the pole of the harmonics (y), or away from it."""
    centred = positions - positions.mean(axis=0)
    _, _, axes = np.linalg.svd(centred)
    along: NDArray[np.float64] = np.roll(centred @ axes.T, 1, axis=1)
    if onto_pole:
        return along
    from scipy.spatial.transform import Rotation

    turned: NDArray[np.float64] = along @ Rotation.from_rotvec([0.6, 0.5, 0.9]).as_matrix().T
    return turned


def _g2(name: str) -> Molecule:
    from ase.build import molecule

    atoms = molecule(name)
    return atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)


def network_cases(seed: int = 0) -> dict[str, Molecule]:
    """Molecules from none to full symmetry; the linear one also along the pole of the harmonics."""
    rng = np.random.default_rng(seed)
    numbers, positions = _g2("CH3CH2OH")
    cases = {"no symmetry": (numbers, positions + rng.normal(scale=0.1, size=positions.shape))}
    for label, name in (("water", "H2O"), ("benzene", "C6H6"), ("methane", "CH4"), ("carbon dioxide", "CO2")):
        numbers, positions = _g2(name)
        cases[label] = (numbers, _turned(positions, False))
    numbers, positions = _g2("CO2")
    line = np.zeros((3, 3))
    # Exactly on the axis, and exactly symmetric.
    line[1:, 1] = np.linalg.norm(positions[1] - positions[0]) * np.array([1.0, -1.0])
    cases["carbon dioxide on the pole"] = (numbers, line)
    cases["lone atom"] = (np.array([8], dtype=np.int64), np.zeros((1, 3)))
    return cases


def variants(seed: int, options: Mapping[str, Any]) -> dict[str, SE3Transformer]:
    """Networks of the same weights: three norms, and the smoothed one with harmonics in angles."""
    result = {}
    for variant in (*DIRECTIONS, ANGLES):
        torch.manual_seed(seed)
        model = SE3Transformer(**options)
        # Shifts of a norm start at zero, where they hide what they multiply.
        excite(model, seed)
        if variant in (UNGUARDED, CLAMPED):
            norms = [norm for norm in model.network.norms if isinstance(norm, Norm)]
            model.network.norms = nn.ModuleList(NaiveNorm(norm, variant) for norm in norms)
        if variant == ANGLES:
            basis = model.network.basis
            basis.register_module("harmonics", AngularHarmonics(basis.harmonics.max_degree))
        result[variant] = model
    return result


def _loss(
    model: SE3Transformer, batch: GraphBatch, energy: Tensor | float = 0.0, forces: Tensor | float = 0.0
) -> Tensor:
    predicted, direct = model.energy_and_forces(batch, create_graph=True)
    return (predicted - energy).square().mean() + (direct - forces).square().mean()


def network_rows(seed: int = 0, n_seeds: int = 2) -> Iterator[Row]:
    """Largest gradient of the loss with respect to weights, and of the energy with respect to positions.

    Forces are direct; the loss is the mean square of energies and forces. ``x`` is the seed of the weights.
    """
    cases = network_cases(seed)
    with torch.random.fork_rng(devices=[]):
        for number in range(seed, seed + n_seeds):
            for variant, model in variants(number, NETWORK).items():
                weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
                for case, molecule in cases.items():
                    batch = make_batch([molecule])
                    slopes = torch.autograd.grad(_loss(model, batch), weights, allow_unused=True)
                    values = torch.cat([slope.flatten() for slope in slopes if slope is not None])
                    yield _row("network", variant, case, "weights", number, values, "max")
                    positions = batch.positions.detach().requires_grad_(True)
                    energy = model(batch.with_positions(positions)).sum()
                    (slope,) = torch.autograd.grad(energy, positions, allow_unused=True)
                    slope = torch.zeros_like(positions) if slope is None else slope
                    yield _row("network", variant, case, "positions", number, slope, "max")


def training_set(case: str, seed: int = 0) -> tuple[GraphBatch, Tensor, Tensor]:
    """Molecules at their minima (``symmetric``, no forces) or displaced, with forces of springs to the minima.

    Returns:
        a batch, energies (n_graphs,) in eV and forces (n_atoms, 3) in eV/Å. The labels only have to be there.
    """
    rng = np.random.default_rng(seed)
    molecules, forces, energies = [], [], []
    for name in TRAINING_MOLECULES:
        numbers, positions = _g2(name)
        moved = rng.normal(scale=SPREAD, size=positions.shape) * (case == DISPLACED)
        molecules.append((numbers, positions + moved))
        forces.append(-10.0 * moved)
        energies.append(-0.5 * len(numbers) + 5.0 * float(np.square(moved).sum()))
    batch = make_batch(molecules)
    return batch, torch.as_tensor(energies), torch.as_tensor(np.concatenate(forces), dtype=torch.float32)


def training_rows(seed: int = 0, steps: int = TRAINING_STEPS) -> Iterator[Row]:
    """Gradient norm of every step of a short training (Adam, not clipped), until a number is not finite.

    ``x`` is the step; ``loss`` and ``gradient norm`` are the quantities.
    """
    with torch.random.fork_rng(devices=[]):
        for case in (SYMMETRIC, DISPLACED):
            batch, energy, forces = training_set(case, seed)
            for variant, model in variants(seed, TRAINED).items():
                if variant == ANGLES:
                    continue
                optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
                for step in range(steps):
                    optimizer.zero_grad(set_to_none=True)
                    loss = _loss(model, batch, energy, forces)
                    loss.backward()
                    slopes = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
                    flat = torch.cat([slope.flatten() for slope in slopes])
                    yield _row("training", variant, case, "loss", step, loss, "max")
                    yield _row("training", variant, case, "gradient norm", step, flat, "norm")
                    if not bool(flat.isfinite().all()):
                        break
                    optimizer.step()


PARTS: Mapping[str, Callable[[int], Iterator[Row]]] = {
    "harmonics": lambda _: harmonics_rows(),
    "direction": lambda seed: direction_rows(seed=seed),
    "network": network_rows,
    "training": training_rows,
}


def nan_gradients(output: PathLike, seed: int = 0, threads: int = 1) -> None:
    """Measure all four parts and write one tidy CSV.

    Columns: part, variant, case, quantity, x (rad from the pole, length of the vector, seed of the weights, or training
    step), value (the largest or, of a training, the norm of the finite numbers; empty if there is none), n_not_finite
    (infinite or no numbers) and n_values. Derivatives of harmonics and directions have no unit, gradients are per unit
    of a weight or, of positions, in eV/Å.

    Args:
        output: path of the CSV file.
        seed: of directions, displacements and weights.
        threads: CPU threads.

    Raises:
        InputError: the file cannot be written.
    """
    torch.set_num_threads(threads)
    rows = [row for part in PARTS.values() for row in part(seed)]
    with atomic_path(output) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
