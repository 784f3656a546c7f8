"""From rows of a store to training data: checks, energy reference, scale, and the device."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.data.self_energies import SelfEnergies, load_self_energies
from mlip_studies.data.store import Rows, Store
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.checks import check_molecules

SHIFTS = ("none", "mean", "mean_padded", "per_element", "isolated_atoms")
#: shifts by one energy per element, from a file
PER_ELEMENT = ("per_element", "isolated_atoms")
SCALES = ("none", "std")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class EnergyReference:
    """What separates labels from what a model learns: energy = scale · model + Σ per_atom[Z] + constant, eV.

    Attributes:
        kind: one of :data:`SHIFTS`.
        per_atom: eV by atomic number; elements that are not there have 0.
        constant: eV per molecule.
        scale: eV per unit of the model.
        training_constant: what is subtracted per molecule in training; differs from what prediction adds for
            ``mean_padded`` only.
        n_pad: atoms of the largest molecule, for ``mean_padded``.
        warnings: what the data make questionable about this kind, one line each.
    """

    kind: str
    per_atom: Mapping[int, float]
    constant: float = 0.0
    scale: float = 1.0
    training_constant: float = 0.0
    n_pad: int | None = None
    warnings: tuple[str, ...] = ()

    def baseline(self, rows: Rows) -> NDArray[np.float64]:
        """What is subtracted from the labels in training, shape (n_rows,), eV.

        Raises:
            InputError: per-element energies that lack an element.
        """
        total = np.full(len(rows), self.training_constant)
        if self.kind in PER_ELEMENT:
            elements = tuple(self.per_atom)
            total += SelfEnergies(elements, np.array([self.per_atom[z] for z in elements])).baseline(
                rows.atomic_numbers, rows.ptr
            )
        return total

    def targets(self, energy: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
        """What a model learns for labels (n_rows,), in units of ``scale``."""
        return (energy - self.baseline(rows)) / self.scale

    def predicted(self, model_energy: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
        """Total energies (n_rows,), eV, from a model's (n_rows,)."""
        lookup = np.zeros(256)
        lookup[list(self.per_atom)] = list(self.per_atom.values())
        sums = np.add.reduceat(lookup[rows.atomic_numbers], rows.ptr[:-1]) if len(rows) else np.empty(0)
        return self.scale * model_energy + sums + self.constant

    def for_model(self, elements: tuple[int, ...]) -> list[float]:
        """Per-atom energies in the order of a model's elements, eV."""
        return [float(self.per_atom.get(z, 0.0)) for z in elements]

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": self.kind,
            "per_atom_ev": {str(z): value for z, value in self.per_atom.items()},
            "constant_ev": self.constant,
            "scale_ev": self.scale,
            "training_constant_ev": self.training_constant,
            "n_pad": self.n_pad,
        }


def fit_reference(
    store: Store,
    fidelity: str,
    train: NDArray[np.int64],
    everything: NDArray[np.int64],
    shift: str,
    scale: str,
    self_energies: str | None,
    elements: tuple[int, ...],
) -> EnergyReference:
    """The reference that a configuration asks for, from the training rows.

    ``mean`` subtracts the mean training energy per molecule, and adds it back as a constant. ``mean_padded`` does the
    same in training, but adds it back in equal parts per atom of the largest molecule, as the So3krates study's code
    does: predictions of molecules of N atoms are then off by mean · (N/N_max - 1). ``per_element`` and
    ``isolated_atoms`` both subtract the energies of a file, fitted ones or those of atoms: what is learnt then are
    residuals or atomization energies.

    Args:
        store: the data.
        fidelity: its energy column.
        train: training rows.
        everything: all rows of the run, for the largest molecule.
        shift: one of :data:`SHIFTS`.
        scale: one of :data:`SCALES`; ``std`` is the standard deviation of the training energies after the shift.
        self_energies: JSON file for ``per_element`` and ``isolated_atoms``.
        elements: of the model.

    Raises:
        InputError: unknown kind, or no self energies where they are needed.
    """
    if shift not in SHIFTS:
        raise InputError(f"shift: {shift!r} is unknown; choose one of {', '.join(SHIFTS)}")
    if scale not in SCALES:
        raise InputError(f"scale: {scale!r} is unknown; choose one of {', '.join(SCALES)}")
    reference = EnergyReference(shift, {})
    if shift in PER_ELEMENT:
        if self_energies is None:
            raise InputError(f"self_energies: shift {shift} needs a file of self energies; name it or change shift")
        fits = load_self_energies(self_energies)
        if fidelity not in fits:
            raise InputError(f"{self_energies}: no self energies for fidelity {fidelity!r}; run the regression again")
        table = dict(zip(fits[fidelity].elements, fits[fidelity].coefficients.tolist(), strict=True))
        reference = EnergyReference(shift, table)
    rows = store.read(train, positions=False, fidelities=(fidelity,), forces=False)
    energy = rows.energy[fidelity]
    if len(energy) == 0 or not np.isfinite(energy).all():
        missing = int(np.sum(~np.isfinite(energy)))
        raise InputError(
            f"{store.path}: {missing} of {len(energy)} training rows lack {fidelity}; make the split again"
        )
    if shift.startswith("mean"):
        mean = float(energy.mean())
        largest = int(store.n_atoms(everything).max())
        reference = EnergyReference(
            shift,
            dict.fromkeys(elements, mean / largest) if shift == "mean_padded" else {},
            constant=mean if shift == "mean" else 0.0,
            training_constant=mean,
            n_pad=largest if shift == "mean_padded" else None,
        )
    # By name: a run does not depend on the code of a warning.
    check_shift = importlib.import_module("mlip_studies.data.shift_check").check_shift
    judged = "per_element" if shift in PER_ELEMENT else shift
    found = check_shift(energy, rows.atomic_numbers, rows.ptr, judged, reference.n_pad)
    if found.message is not None:
        reference = replace(reference, warnings=(f"{store.path}: {found.message}",))
    if scale == "std":
        spread = float(np.std(reference.targets(energy, rows)))
        if not spread > 0.0:
            raise InputError("scale: std is 0, because all training energies are equal after the shift; use scale none")
        reference = replace(reference, scale=spread)
    return reference


def check_elements(rows: Rows, model: AtomisticModel, model_name: str, store: Store) -> None:
    """Make sure that a model knows all elements.

    Raises:
        InputError: it does not.
    """
    unknown = sorted(set(np.unique(rows.atomic_numbers).tolist()) - set(model.elements))
    if unknown:
        raise InputError(
            f"{store.path}: element {unknown[0]} is not among those of model {model_name} "
            f"({', '.join(map(str, model.elements))}); filter the data set or choose another model"
        )


def check_geometries(rows: Rows, store: Store, cutoff: float | None = None, max_edges: int | None = None) -> None:
    """Make sure that every molecule can be computed with a model of this cutoff (Å; None: all pairs).

    Raises:
        InputError: positions that are not finite, two atoms at the same place, or more than ``max_edges`` edges.
    """
    try:
        check_molecules(rows.atomic_numbers, rows.positions, rows.ptr, max_edges=max_edges, cutoff=cutoff)
    except InputError as error:
        found = re.match(r"molecule (\d+)", str(error))
        where = f" (row {int(rows.rows[int(found[1])])})" if found else ""
        raise InputError(f"{store.path}{where}: {error}; filter the data set") from None


def build_dataset(
    store: Store,
    rows: NDArray[np.int64],
    fidelity: str,
    reference: EnergyReference,
    model: AtomisticModel,
    model_name: str,
    device: torch.device,
    precision: str,
    forces: bool,
    max_edges: int | None = None,
    force_fidelity: str | None = None,
) -> RaggedDataset:
    """Rows of one fidelity in device memory, with labels in units of the model.

    Args:
        store: the data.
        rows: row numbers, shape (n_rows,).
        fidelity: column of the energies.
        reference: what is subtracted and divided by.
        model: for its elements and cutoff.
        model_name: for messages.
        device: where to.
        precision: ``float32`` or ``float64``.
        forces: whether forces are needed.
        max_edges: most directed edges that one molecule may have; None: any number.
        force_fidelity: column of the forces; None: that of the energies.

    Raises:
        InputError: a row without label, an element that the model does not know, no forces in the store, atoms at the
            same place, or a molecule with too many edges.
    """
    forces_of = force_fidelity or fidelity
    read = store.read(rows, fidelities=(fidelity,), forces=(forces_of,) if forces else False)
    check_elements(read, model, model_name, store)
    check_geometries(read, store, model.cutoff, max_edges)
    energy = read.energy[fidelity]
    lacking = ~np.isfinite(energy)
    if forces and len(read):
        finite = np.isfinite(read.forces[forces_of]).all(axis=1)
        lacking |= ~np.logical_and.reduceat(finite, read.ptr[:-1])
    if lacking.any():
        what = "energy or forces" if forces else "energy"
        raise InputError(
            f"{store.path}: {int(lacking.sum())} chosen rows lack {what} of {fidelity} (first: row "
            f"{int(rows[np.argmax(lacking)])}); make the split again"
        )
    return RaggedDataset(
        read.atomic_numbers,
        read.positions.astype(np.float64),
        read.ptr,
        reference.targets(energy, read),
        np.zeros(len(read), dtype=np.int64),  # high fidelity, what calculators take a single one for
        device,
        DTYPES[precision],
        model.cutoff,
        forces=read.forces[forces_of].astype(np.float64) / reference.scale if forces else None,
    )
