"""Graphs of molecules that move: what does not depend on the positions is made once."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.artifacts import PathLike
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, GraphBatch, all_pairs
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.checks import check_elements
from mlip_studies.models.potential import FIDELITIES, Potential, load_potential

#: up to this many atoms in the largest molecule all pairs are edges, whose graph never changes and needs no test of
#: distances; above, only pairs within the cutoff are
ALL_PAIRS_ATOMS = 40
#: unordered pairs of all molecules together (about 10000 atoms in one molecule)
MAX_PAIRS = 50_000_000
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Floating-point type by name.

    Raises:
        InputError: neither float32 nor float64.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")


def fidelity_row(fidelity: str) -> int:
    """0 for ``high``, 1 for ``low``.

    Raises:
        InputError: another name.
    """
    if fidelity not in FIDELITIES:
        raise InputError(f"fidelity {fidelity!r} is unknown; choose one of {', '.join(FIDELITIES)}")
    return FIDELITIES.index(fidelity)


def as_potential(
    potential: Potential | AtomisticModel | PathLike, device: torch.device | str, dtype: torch.dtype
) -> Potential:
    """A potential ready for inference on a device: weights frozen; what the caller passed stays as it was.

    Args:
        potential: a potential, the path of its file, or a model that predicts total energies itself.
        device: where to put it.
        dtype: type of the weights.

    Raises:
        InputError: see :func:`mlip_studies.models.potential.load_potential`; or neither of the three.
    """
    if isinstance(potential, str | os.PathLike):
        loaded, _ = load_potential(potential, device, dtype)
    elif isinstance(potential, Potential):
        loaded = copy.deepcopy(potential).to(device=device, dtype=dtype)
    elif isinstance(potential, AtomisticModel):
        loaded = Potential.of_total_energies(copy.deepcopy(potential), type(potential).__name__)
        loaded = loaded.to(device=device, dtype=dtype)
    else:
        raise InputError(f"a potential, a model or the path of a potential's file was expected, not {potential!r}")
    return loaded.eval().requires_grad_(False)


class MovingMolecules:
    """Makes the batches of molecules whose atoms move but stay the same.

    The index tensors are made once. Without a cutoff, or with at most :data:`ALL_PAIRS_ATOMS` atoms in the largest
    molecule, all pairs are edges; otherwise the pairs within the cutoff are chosen anew for each set of positions.
    """

    def __init__(
        self,
        atomic_numbers: Tensor,
        counts: NDArray[np.integer],
        potential: Potential,
        fidelity: str = "high",
    ) -> None:
        """Make the index tensors.

        Args:
            atomic_numbers: shape (n_atoms,), on the potential's device.
            counts: atoms of each molecule, shape (n_graphs,).
            potential: whose elements and cutoff count.
            fidelity: ``high`` or ``low``; which shifts to take, and the input of multi-fidelity models.

        Raises:
            InputError: a molecule without atoms or with an unknown element, or too many pairs.
        """
        counts = np.asarray(counts, dtype=np.int64)
        if len(counts) == 0 or (counts < 1).any():
            empty = np.flatnonzero(counts < 1)
            which = f"molecule {int(empty[0])}" if len(empty) else "the list of molecules"
            raise InputError(f"{which}: no atoms; expected at least one")
        n_atoms, n_pairs, _ = Budget.of_counts(counts)
        if n_pairs > MAX_PAIRS:
            raise InputError(
                f"molecule {int(counts.argmax())}: {int(counts.max())} atoms; all molecules together have {n_pairs} "
                f"pairs, more than {MAX_PAIRS}: split the batch"
            )
        numbers = atomic_numbers.cpu().numpy()
        first = 0
        for index, count in enumerate(counts):
            check_elements(numbers[first : first + count], potential.elements, index)
            first += int(count)
        device = atomic_numbers.device
        per_graph = torch.as_tensor(counts, device=device)
        self._i, self._j = all_pairs(per_graph, n_pairs)
        within = potential.cutoff is not None and int(counts.max()) > ALL_PAIRS_ATOMS
        self._cutoff = potential.cutoff if within else None
        self._graph = GraphBatch(
            atomic_numbers.long(),
            torch.empty(0, 3, device=device),
            torch.repeat_interleave(per_graph, output_size=n_atoms),
            torch.cat([self._i, self._j]),
            torch.cat([self._j, self._i]),
            per_graph,
            torch.full((len(counts),), fidelity_row(fidelity), device=device),
            n_pairs=n_pairs,
        )

    def at(self, positions: Tensor) -> GraphBatch:
        """The batch at positions (n_atoms, 3), Å."""
        if self._cutoff is None:
            return self._graph.with_positions(positions)
        distance = (gather(positions, self._i) - gather(positions, self._j)).detach().norm(dim=1)
        near = torch.nonzero(distance <= self._cutoff).squeeze(1)
        i, j = gather(self._i, near), gather(self._j, near)
        return replace(
            self._graph,
            positions=positions,
            receivers=torch.cat([i, j]),
            senders=torch.cat([j, i]),
            n_pairs=i.shape[0],
        )
