"""Interface of every potential of this package to torch-sim (torch-sim-atomistic 0.3), for batched dynamics.

torch-sim is imported here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlip_studies.artifacts import PathLike
from mlip_studies.errors import InputError
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.graphs import MovingMolecules, as_dtype, as_potential, fidelity_row
from mlip_studies.models.checks import check_molecules
from mlip_studies.models.potential import Potential

try:
    import torch_sim as ts
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise InputError(f"torch-sim is not installed ({error}); install torch-sim-atomistic>=0.3,<0.4") from error

__all__ = ["MLIPTorchSimModel", "ts"]


class MLIPTorchSimModel(ModelInterface):
    """Energies (n_systems,), eV, and forces (n_atoms, 3), eV/Å, of all molecules of a state at once.

    All pairs within molecules are edges, made on the device when the state's atoms change and kept while they only
    move; if a molecule has more than :data:`mlip_studies.models.calculators.graphs.ALL_PAIRS_ATOMS` atoms, only pairs
    within the cutoff are. Molecules only: no cell, no stress.
    """

    def __init__(
        self,
        potential: Potential | AtomisticModel | PathLike,
        device: torch.device | str = "cpu",
        dtype: str | torch.dtype = "float64",
        fidelity: str = "high",
    ) -> None:
        """Wrap a potential.

        Args:
            potential: a potential, the path of its file, or a model that predicts total energies itself.
            device: where to compute; the states must be there.
            dtype: float32 or float64, of weights, positions and forces; energies are float64 in both.
            fidelity: ``high`` or ``low``; of potentials that know both.

        Raises:
            InputError: unknown type or fidelity, or a file that is no potential.
        """
        super().__init__()
        self._device, self._dtype = torch.device(device), as_dtype(dtype)
        self._compute_forces, self._compute_stress = True, False
        # All pairs of small molecules: memory goes with the number of atoms at a given size of molecules.
        self._memory_scales_with = "n_atoms"
        fidelity_row(fidelity)
        self.fidelity = fidelity
        self.potential = as_potential(potential, self._device, self._dtype)
        self._molecules: MovingMolecules | None = None
        self._seen: tuple[Tensor, int, Tensor, int] | None = None
        self._content: tuple[Tensor, Tensor] | None = None

    def _update(self, numbers: Tensor, system_idx: Tensor, positions: Tensor) -> MovingMolecules:
        """The graph of the state's atoms, made anew (after a check of the positions) only if they changed."""
        # Dynamics hand over the same tensors step after step: then nothing is compared and no device is waited for.
        # The tensors are kept, so that their identity means something; torch counts their changes in place.
        if self._molecules is not None and self._seen is not None:
            old_numbers, numbers_version, old_idx, idx_version = self._seen
            same = numbers is old_numbers and system_idx is old_idx
            if same and numbers._version == numbers_version and system_idx._version == idx_version:
                return self._molecules
        self._seen = (numbers, numbers._version, system_idx, system_idx._version)
        if self._molecules is not None and self._content is not None:
            known = zip(self._content, (numbers, system_idx), strict=True)
            if all(old.shape == new.shape and torch.equal(old, new) for old, new in known):
                return self._molecules
        counts = np.bincount(system_idx.cpu().numpy())
        check_molecules(numbers.cpu().numpy(), positions.cpu().numpy(), np.concatenate([[0], np.cumsum(counts)]))
        self._molecules = MovingMolecules(numbers.long(), counts, self.potential, self.fidelity)
        self._content = (numbers.clone(), system_idx.clone())
        return self._molecules

    def forward(self, state: ts.SimState | dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """Energy and forces of a state.

        Args:
            state: positions (n_atoms, 3), Å; atomic_numbers (n_atoms,); system_idx (n_atoms,), sorted; pbc False.

        Returns:
            ``energy`` (n_systems,), eV, float64, and ``forces`` (n_atoms, 3), eV/Å.

        Raises:
            InputError: a periodic state, another floating-point type or device, an empty molecule, an unknown element,
                or, in the first state with these atoms, positions that are not finite or coincide.
        """
        if isinstance(state, dict):
            state = ts.SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        if bool(np.any(torch.as_tensor(state.pbc).cpu().numpy())):
            raise InputError("periodic state: potentials here are for molecules only; set pbc = False for every system")
        if state.positions.dtype != self._dtype or state.positions.device.type != self._device.type:
            raise InputError(
                f"state in {state.positions.dtype} on {state.positions.device}; the model is {self._dtype} on "
                f"{self._device}: make the state with the model's dtype and device"
            )
        positions = state.positions.detach()
        molecules = self._update(state.atomic_numbers, state.system_idx, positions)
        energy, forces = self.potential.energy_and_forces(molecules.at(positions))
        return {"energy": energy.detach(), "forces": forces.detach()}
