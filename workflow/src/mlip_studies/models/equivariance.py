"""How well each layer of a model respects rotations, measured layer by layer.

The error is that of D. R. Hedelius's thesis, eq. 3.1: ||L Φ(f) - Φ(L f)||₂ / ||L Φ(f)||₂ for a layer Φ, an input f and
a rotation L. Every layer gets exactly rotated inputs, so that errors of earlier layers do not add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from mlip_studies.graph.batch import GraphBatch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.compat import e3nn_o3


@dataclass(frozen=True)
class LayerError:
    """Equivariance error of one feature that a layer puts out.

    Attributes:
        layer: name of the layer.
        feature: name of the feature.
        irreps: how its last axis turns (e3nn notation); ``scalar`` if it does not.
        maximum: largest error over the rotations.
        mean: mean error over the rotations.
    """

    layer: str
    feature: str
    irreps: str
    maximum: float
    mean: float


def random_rotations(n: int, seed: int) -> NDArray[np.float64]:
    """Rotation matrices drawn uniformly, in double precision, shape (n, 3, 3)."""
    matrices: NDArray[np.float64] = Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix()
    return matrices


def rotate_feature(model: AtomisticModel, name: str, values: Tensor, rotation: NDArray[np.float64]) -> Tensor:
    """A feature (n, ...) of :meth:`AtomisticModel.steps` as it is after the molecule was rotated by a matrix (3, 3)."""
    if name == "forces":
        return (values.double() @ torch.as_tensor(rotation).T.to(values.device)).to(values.dtype)
    irreps = model.irreps.get(name)
    if irreps is None:
        return values
    o3 = e3nn_o3()

    axes = list(model.irreps_axes)
    permuted = torch.as_tensor(rotation[np.ix_(axes, axes)])
    matrix = _wigner(o3.Irreps(irreps), permuted).to(values.device)
    return (values.double() @ matrix.T).to(values.dtype)


def _wigner(irreps: Any, rotation: Tensor) -> Tensor:
    """Block-diagonal Wigner matrix in double precision.

    Made from harmonics of fixed points, D Y(x) = Y(R x), since e3nn's own matrices carry single-precision noise.
    """
    o3 = e3nn_o3()

    points = torch.as_tensor(np.random.default_rng(7).normal(size=(60, 3)))
    blocks = []
    for multiplicity, (degree, _) in irreps:
        before = o3.spherical_harmonics(degree, points, normalize=True)
        after = o3.spherical_harmonics(degree, points @ rotation.T, normalize=True)
        block = torch.linalg.lstsq(before, after).solution.T
        blocks.extend([block] * multiplicity)
    matrix: Tensor = torch.block_diag(*blocks)
    return matrix


def _moved(batch: GraphBatch, rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> GraphBatch:
    """Rotated about the origin, then translated (Å), in double precision until the end."""
    device = batch.positions.device
    turned = batch.positions.double() @ torch.as_tensor(rotation).T.to(device)
    return batch.with_positions((turned + torch.as_tensor(translation).to(device)).to(batch.positions.dtype))


def random_translations(n: int, seed: int, spread: float) -> NDArray[np.float64]:
    """Normally distributed displacements with this standard deviation of each component, Å, shape (n, 3)."""
    return np.random.default_rng([seed, 1]).normal(scale=spread, size=(n, 3)) if spread else np.zeros((n, 3))


def network_errors(
    model: AtomisticModel, batch: GraphBatch, n_rotations: int = 20, seed: int = 0, translation: float = 0.0
) -> list[LayerError]:
    """Equivariance errors of a whole network: of its energies and its forces, from positions.

    Unlike layer by layer, rounding of one layer goes through all that follow.

    Args:
        model: in the precision that is to be measured.
        batch: molecules.
        n_rotations: how many roto-translations are drawn.
        seed: of these.
        translation: standard deviation of each component of the translations, Å.
    """
    errors: dict[str, list[float]] = {"energy": [], "forces": []}
    energy, forces = (values.detach() for values in model.energy_and_forces(batch))
    moves = random_translations(n_rotations, seed, translation)
    for rotation, move in zip(random_rotations(n_rotations, seed), moves, strict=True):
        found = model.energy_and_forces(_moved(batch, rotation, move))
        expected = (energy, rotate_feature(model, "forces", forces, rotation))
        for key, one, other in zip(errors, found, expected, strict=True):
            norm = float(other.double().norm())
            if norm > 0.0:
                errors[key].append(float((one.detach().double() - other.double()).norm()) / norm)
    return [
        LayerError("whole network", key, "1x1o" if key == "forces" else "scalar", max(v), float(np.mean(v)))
        for key, v in errors.items()
        if v
    ]


def layer_errors(
    model: AtomisticModel, batch: GraphBatch, n_rotations: int = 20, seed: int = 0, translation: float = 0.0
) -> list[LayerError]:
    """Equivariance errors of all layers of a model.

    Args:
        model: in the precision that is to be measured.
        batch: molecules; its positions are rotated about the origin, then translated.
        n_rotations: how many rotations are drawn.
        seed: of the rotations.
        translation: standard deviation of each component of the translations, Å; 0: none.
    """
    rotations = random_rotations(n_rotations, seed)
    moves = random_translations(n_rotations, seed, translation)
    errors: dict[tuple[str, str], list[float]] = {}
    with torch.no_grad():
        features: dict[str, Tensor] = {}
        for layer, function in model.steps():
            result = function(batch, features)
            for rotation, move in zip(rotations, moves, strict=True):
                moved = _moved(batch, rotation, move)
                inputs = {key: rotate_feature(model, key, value, rotation) for key, value in features.items()}
                outputs = function(moved, inputs)
                for key, value in result.items():
                    # Features that a layer hands on untouched are not its work.
                    if not value.is_floating_point() or (key in features and features[key] is value):
                        continue
                    expected = rotate_feature(model, key, value, rotation).double()
                    norm = float(expected.norm())
                    if norm > 0.0:
                        error = float((outputs[key].double() - expected).norm()) / norm
                        errors.setdefault((layer, key), []).append(error)
            features = result
    return [
        LayerError(
            layer, key, model.irreps.get(key, "1x1o" if key == "forces" else "scalar"), max(v), float(np.mean(v))
        )
        for (layer, key), v in errors.items()
    ]
