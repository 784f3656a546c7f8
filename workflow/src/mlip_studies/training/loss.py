"""Losses of the studies, and the error measures that go with them.

All of them are sums over molecules or atoms divided by counts, so that a batch can be computed in parts (micro-batches,
several processes) whose losses and gradients add up to those of the whole. Padding has weight zero. Nothing here waits
for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, Labels
from mlip_studies.graph.scatter import scatter_sum
from mlip_studies.runtime.options import check, did_you_mean, read_options


@dataclass(frozen=True)
class Counts:
    """What sums are divided by: molecules and atoms of the whole batch (all parts and processes together)."""

    graphs: float | Tensor
    atoms: float | Tensor


class Errors:
    """Errors of one batch, zero for padding.

    Attributes:
        energy: predicted minus label, shape (n_graphs,), float64.
        forces: the same of forces, shape (n_atoms, 3), or None.
    """

    def __init__(
        self, batch: GraphBatch, labels: Labels, energy: Tensor, forces: Tensor | None, counts: Counts | None = None
    ) -> None:
        """Compare predictions with labels in the same units; see :meth:`Loss.__call__`."""
        error = energy - labels.energy
        self.energy = error if labels.graph_weight is None else error * labels.graph_weight
        self.forces: Tensor | None = None
        if forces is not None:
            if labels.forces is None:
                raise InputError("the loss needs forces, but the data set has no force labels; use an energy loss")
            difference = forces - labels.forces
            self.forces = difference if labels.atom_weight is None else difference * labels.atom_weight.unsqueeze(1)
        if counts is None:
            counts = Counts(
                batch.n_graphs if labels.graph_weight is None else labels.graph_weight.sum(),
                batch.n_atoms if labels.atom_weight is None else labels.atom_weight.sum(),
            )
        self.counts = counts
        self._batch = batch

    @property
    def atoms_per_graph(self) -> Tensor:
        """Atoms of each molecule, shape (n_graphs,), at least 1."""
        return self._batch.atoms_per_graph.clamp(min=1)

    def mean_over_graphs(self, values: Tensor) -> Tensor:
        """Sum of values (n_graphs,) divided by the number of molecules, float64."""
        return values.double().sum() / self.counts.graphs

    def mean_over_atoms(self, values: Tensor) -> Tensor:
        """Sum of values (n_atoms,) divided by the number of atoms, float64."""
        return values.sum().double() / self.counts.atoms

    def mean_over_atoms_of_graphs(self, values: Tensor) -> Tensor:
        """Mean over molecules of the mean of values (n_atoms,) over each molecule's atoms, float64."""
        sums = scatter_sum(values, self._batch.graph_index, self._batch.n_graphs)
        return self.mean_over_graphs(sums / self.atoms_per_graph)

    @torch.no_grad()
    def measures(self) -> dict[str, Tensor]:
        """Mean absolute and squared errors, scalars: ``energy_*``, ``energy_per_atom_*``, ``force_*`` (a component)."""
        result = {}
        for name, error in (("energy", self.energy), ("energy_per_atom", self.energy / self.atoms_per_graph)):
            result[f"{name}_mae"] = self.mean_over_graphs(error.abs())
            result[f"{name}_mse"] = self.mean_over_graphs(error.square())
        if self.forces is not None:
            result["force_mae"] = self.mean_over_atoms(self.forces.abs()) / 3.0
            result["force_mse"] = self.mean_over_atoms(self.forces.square()) / 3.0
        return result


@dataclass(frozen=True)
class Loss(ABC):
    """What training minimises; an option of its own per field."""

    #: whether forces enter
    needs_forces: ClassVar[bool] = True

    def __call__(
        self,
        batch: GraphBatch,
        labels: Labels,
        energy: Tensor,
        forces: Tensor | None,
        counts: Counts | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and error measures of a batch.

        Args:
            batch: the molecules.
            labels: what they are compared with, in the units of the predictions.
            energy: predicted, shape (n_graphs,), in the unit of the labels.
            forces: predicted, shape (n_atoms, 3), in the unit of the labels, or None.
            counts: numbers of molecules and atoms of the whole, if this batch is a part of it.

        Returns:
            the loss, a scalar of type float64 with its graph, and detached scalars (:meth:`Errors.measures`).
        """
        errors = Errors(batch, labels, energy, forces, counts)
        return self.value(errors), errors.measures()

    @abstractmethod
    def value(self, errors: Errors) -> Tensor:
        """The loss, float64 scalar."""


@dataclass(frozen=True)
class So3kratesLoss(Loss):
    """(1 - β) (E - Ẽ)² + β/(3N) Σ (F - F̃)² (So3krates study, eq. 10).

    Attributes:
        beta: weight of the forces.
        force_mean: ``components`` averages over all force components of the batch, as the training code does;
            ``molecules`` over those of each molecule first, as the equation says.
    """

    beta: float = 0.99
    force_mean: str = "components"

    def __post_init__(self) -> None:
        """Check the options."""
        check(0.0 <= self.beta <= 1.0, "loss.beta", "a number from 0 to 1", self.beta)
        check(
            self.force_mean in ("components", "molecules"),
            "loss.force_mean",
            "components or molecules",
            self.force_mean,
        )

    def value(self, errors: Errors) -> Tensor:
        """See the class."""
        assert errors.forces is not None
        squares = errors.forces.square().sum(dim=1) / 3.0
        mean = errors.mean_over_atoms if self.force_mean == "components" else errors.mean_over_atoms_of_graphs
        return (1.0 - self.beta) * errors.mean_over_graphs(errors.energy.square()) + self.beta * mean(squares)


@dataclass(frozen=True)
class GemNetLoss(Loss):
    """(1 - ρ) mean |ΔE| + ρ mean over atoms of the length of ΔF (GemNet; 0.1 % of energy in the GemNet study).

    Attributes:
        rho: weight of the forces.
        force_error: ``l2`` for the length of the error vector, ``mae`` for the mean absolute component.
    """

    rho: float = 0.999
    force_error: str = "l2"

    def __post_init__(self) -> None:
        """Check the options."""
        check(0.0 <= self.rho <= 1.0, "loss.rho", "a number from 0 to 1", self.rho)
        check(self.force_error in ("l2", "mae"), "loss.force_error", "l2 or mae", self.force_error)

    def value(self, errors: Errors) -> Tensor:
        """See the class."""
        assert errors.forces is not None
        if self.force_error == "l2":
            lengths = torch.linalg.vector_norm(errors.forces, dim=1)
        else:
            lengths = errors.forces.abs().sum(dim=1) / 3.0
        energy = errors.mean_over_graphs(errors.energy.abs())
        return (1.0 - self.rho) * energy + self.rho * errors.mean_over_atoms(lengths)


@dataclass(frozen=True)
class SE3Loss(Loss):
    """Mean over molecules of W_e ΔE² + (1/M) Σ_atoms |ΔF|² (SE(3)-Transformer study, eq. 3.2).

    Attributes:
        energy_weight: W_e; 1e-5 in the study's first runs, 1 on normalised labels.
    """

    energy_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check(self.energy_weight >= 0.0, "loss.energy_weight", "a number not below 0", self.energy_weight)

    def value(self, errors: Errors) -> Tensor:
        """See the class."""
        assert errors.forces is not None
        forces = errors.mean_over_atoms_of_graphs(errors.forces.square().sum(dim=1))
        return self.energy_weight * errors.mean_over_graphs(errors.energy.square()) + forces


@dataclass(frozen=True)
class EnergyMSE(Loss):
    """Mean squared energy error per molecule (multi-fidelity study)."""

    needs_forces: ClassVar[bool] = False

    def value(self, errors: Errors) -> Tensor:
        """See the class."""
        return errors.mean_over_graphs(errors.energy.square())


@dataclass(frozen=True)
class EnergyMAE(Loss):
    """Mean absolute energy error per molecule."""

    needs_forces: ClassVar[bool] = False

    def value(self, errors: Errors) -> Tensor:
        """See the class."""
        return errors.mean_over_graphs(errors.energy.abs())


LOSSES: dict[str, type[Loss]] = {
    "so3krates": So3kratesLoss,
    "gemnet": GemNetLoss,
    "se3": SE3Loss,
    "energy_mse": EnergyMSE,
    "energy_mae": EnergyMAE,
}


def named(registry: Mapping[str, type[Any]], values: Any, where: str) -> Any:
    """An object of a registry from its name, or from a mapping with ``name`` and its options.

    Raises:
        InputError: unknown name or option.
    """
    if isinstance(values, tuple(registry.values())):
        return values
    options = {"name": values} if isinstance(values, str) else values
    if not isinstance(options, Mapping) or "name" not in options:
        raise InputError(f"{where}: expected a name or a mapping with the key 'name', found {values!r}")
    name = options["name"]
    if name not in registry:
        raise InputError(f"{where}: {name!r} is unknown{did_you_mean(name, registry)}")
    return read_options(registry[name], {key: value for key, value in options.items() if key != "name"}, where)


def plain(registry: Mapping[str, type[Any]], value: Any) -> dict[str, Any]:
    """The mapping that :func:`named` would read."""
    name = next(name for name, cls in registry.items() if type(value) is cls)
    return {"name": name, **asdict(value)}
