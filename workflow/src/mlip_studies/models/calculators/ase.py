"""ASE calculator of every potential of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mlip_studies.artifacts import PathLike
from mlip_studies.errors import InputError
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.graphs import MovingMolecules, as_dtype, as_potential, fidelity_row
from mlip_studies.models.checks import check_molecule
from mlip_studies.models.potential import Potential


class MLIPCalculator(Calculator):
    """Energy (eV) and forces (eV/Å) of a molecule; ``free_energy`` is the energy.

    Molecules only: a periodic system is refused. Atoms may change from call to call; as long as the elements stay the
    same, the graph is kept.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as in ASE)

    def __init__(
        self,
        potential: Potential | AtomisticModel | PathLike,
        device: torch.device | str = "cpu",
        dtype: str | torch.dtype = "float64",
        fidelity: str = "high",
        **kwargs: Any,
    ) -> None:
        """Wrap a potential.

        Args:
            potential: a potential, the path of its file, or a model that predicts total energies itself.
            device: where to compute.
            dtype: float32 or float64, of weights and positions; energies are summed in float64 in both.
            fidelity: ``high`` or ``low``; of potentials that know both.
            kwargs: for ASE's base class (label, atoms).

        Raises:
            InputError: unknown type or fidelity, or a file that is no potential.
        """
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]  # ASE has it unannotated
        self.fidelity = fidelity
        fidelity_row(fidelity)
        self.potential = as_potential(potential, device, as_dtype(dtype))
        self._graph: MovingMolecules | None = None
        self._numbers: np.ndarray | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute energy and forces of ``atoms``.

        Raises:
            InputError: periodic, empty or damaged molecules, or an element that the potential does not know.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]  # ASE has it unannotated
        molecule = self.atoms
        assert molecule is not None
        formula = molecule.get_chemical_formula()
        if molecule.pbc.any():
            raise InputError(
                f"molecule ({formula}): periodic in {molecule.pbc.tolist()}; potentials here are for molecules only, "
                "set atoms.pbc = False"
            )
        numbers, positions = molecule.numbers, molecule.positions
        same = self._numbers is not None and np.array_equal(numbers, self._numbers)
        # Elements of a molecule that was seen before need no second look; positions always do.
        check_molecule(numbers, positions, None if same else self.potential.elements, name=formula)
        device, dtype = self.potential.device, self.potential.dtype
        if not same or self._graph is None:
            self._graph = MovingMolecules(
                torch.as_tensor(numbers, dtype=torch.int64, device=device),
                np.array([len(molecule)]),
                self.potential,
                self.fidelity,
            )
            self._numbers = numbers.copy()
        # Moved to the origin in double precision, so that single precision keeps its digits far from it.
        centred = torch.as_tensor(positions - positions.mean(axis=0), dtype=dtype, device=device)
        energy, forces = self.potential.energy_and_forces(self._graph.at(centred))
        value = float(energy[0].detach())
        self.results = {
            "energy": value,
            "free_energy": value,
            "forces": forces.detach().to("cpu", torch.float64).numpy(),
        }
