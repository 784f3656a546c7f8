"""A trained model with its frozen per-element shifts, and its one-file form.

The file is safetensors: weights and shifts as tensors, everything else (model name, options, units, provenance) as JSON
in its header. Loading executes nothing from the file.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import scatter_sum
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.registry import build_model

FORMAT = "mlip-studies-potential-1"


class Potential(nn.Module):
    """Total energies: model energy plus the per-element shift of the requested fidelity, summed in float64."""

    shifts: Tensor

    def __init__(
        self, model: AtomisticModel, name: str, options: dict[str, Any], shifts: dict[str, list[float]]
    ) -> None:
        """Wrap a model.

        Args:
            model: predicts energies relative to the shifts.
            name: its name in the registry.
            options: its constructor's options.
            shifts: for ``high`` and ``low``, one energy per element of ``model.elements``, eV.
        """
        super().__init__()
        self.model, self.name, self.options = model, name, options
        table = torch.zeros(2, max(model.elements) + 1, dtype=torch.float64)
        for row, fidelity in enumerate(("high", "low")):
            table[row, list(model.elements)] = torch.tensor(shifts[fidelity], dtype=torch.float64)
        # Row index = GraphBatch.fidelity.
        self.register_buffer("shifts", table)

    def reference_energy(self, batch: GraphBatch) -> Tensor:
        """Sum of per-element shifts, shape (n_graphs,), eV, float64."""
        per_atom = self.shifts[batch.fidelity[batch.graph_index], batch.atomic_numbers]
        return scatter_sum(per_atom, batch.graph_index, batch.n_graphs)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Total energy, shape (n_graphs,), eV, float64."""
        return self.model(batch).double() + self.reference_energy(batch)

    def energy_and_forces(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Total energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å."""
        energy, forces = self.model.energy_and_forces(batch)
        return energy.double() + self.reference_energy(batch), forces

    def save(self, path: PathLike, provenance: dict[str, Any]) -> None:
        """Write the potential to one file."""
        from safetensors.torch import save_file

        header = {
            "format": FORMAT,
            "model": self.name,
            "options": self.options,
            "elements": list(self.model.elements),
            "units": {"energy": "eV", "length": "angstrom"},
            "provenance": provenance,
        }
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"mlip_studies": json.dumps(header, sort_keys=True)})


def load_potential(path: PathLike, device: torch.device | str = "cpu") -> tuple[Potential, dict[str, Any]]:
    """Read a potential and its header.

    Raises:
        InputError: the file is missing, damaged, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = require(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as stream:
            metadata = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); train the model again") from error
    header = json.loads(metadata.get("mlip_studies", "{}"))
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {header.get('format')!r} where {FORMAT!r} was expected; train the model again"
        )
    model = build_model(header["model"], header["options"])
    zero = [0.0] * len(model.elements)
    potential = Potential(model, header["model"], header["options"], {"high": zero, "low": zero})
    dtype = next(value.dtype for key, value in tensors.items() if key.endswith("weight"))
    potential.model.to(dtype)
    potential.load_state_dict(tensors)
    return potential.to(device).eval(), header
