"""A batch of molecules that advance together by the integrators of torch-sim (see :mod:`mlip_studies.md.engine`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_studies.artifacts import PathLike
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.md.config import FS_PER_PS
from mlip_studies.md.observables import degrees_of_freedom
from mlip_studies.md.stability import REASONS, StabilityConfig, Watch, describe_end, find_bonds
from mlip_studies.md.start import Molecule
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.torchsim import MLIPTorchSimModel, ts
from mlip_studies.models.potential import Potential
from mlip_studies.units import BOLTZMANN_EV_PER_K

#: what changes from step to step
_MOVING = ("positions", "momenta", "forces", "energy")


class Network:
    """A potential as torch-sim's integrators see it: double precision outside, the network's own inside."""

    def __init__(
        self,
        potential: Potential | AtomisticModel | PathLike,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        fidelity: str = "high",
    ) -> None:
        """Wrap a potential.

        Args:
            potential: a potential, the path of its file, or a model that predicts total energies itself.
            device: where to compute.
            precision: float32 or float64, of the network.
            fidelity: of potentials that know several.

        Raises:
            InputError: unknown precision or fidelity, or a file that is no potential.
        """
        self.model = MLIPTorchSimModel(potential, device, precision, fidelity)
        self.device, self.dtype = self.model.device, torch.float64

    @property
    def potential(self) -> Potential:
        """The potential itself."""
        return self.model.potential

    def __call__(self, state: Any) -> dict[str, Tensor]:
        """``energy`` (n_systems,), eV, and ``forces`` (n_atoms, 3), eV/Å, float64, of a torch-sim state."""
        view = SimpleNamespace(
            positions=state.positions.to(self.model.dtype),
            atomic_numbers=state.atomic_numbers,
            system_idx=state.system_idx,
            pbc=False,
        )
        output = self.model(view)
        return {"energy": output["energy"].double(), "forces": output["forces"].double()}


class _Recorded:
    """A step on static tensors, recorded as a CUDA graph after a few ordinary calls; on a CPU it is just called.

    Before recording, one call runs with torch's alarm for waiting on the host, and after it the first replay's forces
    are compared with ordinary ones. Whatever fails, the step is undone and goes on unrecorded, with one line.
    """

    WARM_UP = 3

    def __init__(self, function: Callable[[], None], dynamics: Dynamics) -> None:
        self.function, self.dynamics = function, dynamics
        self._graph: Any = None
        self._calls = 0
        self._plain = dynamics.network.device.type != "cuda"

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._plain:
            self.function()
        elif self._calls < self.WARM_UP:
            self._calls += 1
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                self.function()
            current.wait_stream(side)
        else:
            self._record()

    def _record(self) -> None:
        dynamics = self.dynamics
        before = dynamics.snapshot()
        torch.cuda.synchronize()
        mode = torch.cuda.get_sync_debug_mode()
        try:
            torch.cuda.set_sync_debug_mode("error")
            try:
                self.function()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
            dynamics.restore(before)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.function()
            graph.replay()
            expected = dynamics.network(dynamics.state)["forces"]
            if not torch.allclose(expected, dynamics.state.forces, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise RuntimeError("its forces differ from those of an ordinary step")
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            print(f"warning: the step cannot be recorded as a CUDA graph ({reason}); it runs unrecorded", flush=True)
            self._plain = True
            dynamics.restore(before)
            self.function()
            return
        self._graph = graph


@dataclass(frozen=True)
class Observation:
    """What a look at all trajectories of a batch found; arrays over those alive, on the host.

    Attributes:
        positions: relative to the centres of mass, Å, shape (n_atoms, 3).
        potential_ev: shape (n,).
        kinetic_ev: shape (n,).
        temperature_k: of this instant, shape (n,).
        reason: number of one of :data:`mlip_studies.md.stability.REASONS`, the one that ends the trajectory, -1 where
            it goes on, shape (n,).
        held: sum of 2**number over all of these that hold, shape (n,).
    """

    positions: NDArray[np.float64]
    potential_ev: NDArray[np.float64]
    kinetic_ev: NDArray[np.float64]
    temperature_k: NDArray[np.float64]
    reason: NDArray[np.int64]
    held: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_], counts: NDArray[np.int64]) -> Observation:
        """Of the trajectories that are flagged, shape (n,); ``counts``, shape (n,), are the atoms of all."""
        return Observation(
            self.positions[np.repeat(chosen, counts)],
            self.potential_ev[chosen],
            self.kinetic_ev[chosen],
            self.temperature_k[chosen],
            self.reason[chosen],
            self.held[chosen],
        )


class Dynamics:
    """Molecules that advance together; some may leave.

    Attributes:
        network: energies and forces.
        alive: numbers of the molecules that are there, ascending, shape (n_alive,).
        state: torch-sim's state of them; positions in Å, momenta in sqrt(eV u), forces in eV/Å, all float64.
    """

    def __init__(
        self,
        network: Network,
        molecules: Sequence[Molecule],
        temperature_k: Sequence[float] | NDArray[np.float64],
        timestep_fs: float,
        stability: StabilityConfig | None = None,
    ) -> None:
        """Put the molecules on the device, with no momenta.

        Args:
            network: energies and forces.
            molecules: one per trajectory.
            temperature_k: of each, K.
            timestep_fs: fs.
            stability: limits.
        """
        from ase.data import atomic_masses

        self.network = network
        self.molecules = list(molecules)
        self.temperature_k = np.asarray(temperature_k, dtype=np.float64)
        self.stability = stability if stability is not None else StabilityConfig()
        self.counts = np.array([len(each.atomic_numbers) for each in self.molecules], dtype=np.int64)
        # Replicas share their start structure.
        bonds_of: dict[int, NDArray[np.int64]] = {}
        for each in self.molecules:
            if id(each) not in bonds_of:
                bonds_of[id(each)] = find_bonds(each.atomic_numbers, each.positions)
        self.bonds = [bonds_of[id(each)] for each in self.molecules]
        self.lengths = [
            np.linalg.norm(each.positions[pairs[:, 0]] - each.positions[pairs[:, 1]], axis=1)
            for each, pairs in zip(self.molecules, self.bonds, strict=True)
        ]
        self._dt = self._scalar(timestep_fs / FS_PER_PS * ts.units.MetalUnits.time)
        self._masses = [atomic_masses[each.atomic_numbers] for each in self.molecules]
        self.ensemble = ""
        self._friction = 0.0
        positions = np.concatenate([each.positions for each in self.molecules])
        self._set(np.arange(len(self.molecules)), {"positions": torch.as_tensor(positions)})

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.network.device)

    def _set(self, alive: NDArray[np.int64], tensors: Mapping[str, Tensor]) -> None:
        """A batch of these molecules; positions, momenta, forces and energy from ``tensors``, zero if not there."""
        device = self.network.device
        self.alive = alive
        counts = self.counts[alive]
        n, n_atoms = len(alive), int(counts.sum())
        numbers = np.concatenate([self.molecules[index].atomic_numbers for index in alive])
        self._sizes = torch.as_tensor(counts, device=device)
        system = torch.repeat_interleave(self._sizes, output_size=n_atoms)
        masses = torch.as_tensor(np.concatenate([self._masses[index] for index in alive]), device=device)
        self._total_mass = scatter_sum(masses, system, n).unsqueeze(1)
        shapes = {"positions": (n_atoms, 3), "momenta": (n_atoms, 3), "forces": (n_atoms, 3), "energy": (n,)}
        values = {
            name: tensors[name].to(device, torch.float64).clone()
            if name in tensors
            else torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in shapes.items()
        }
        self.state = ts.integrators.md.MDState(
            **values,
            masses=masses,
            cell=torch.zeros((n, 3, 3), dtype=torch.float64, device=device),
            pbc=False,
            system_idx=system,
            atomic_numbers=torch.as_tensor(numbers, device=device),
        )
        self._static = {name: getattr(self.state, name) for name in _MOVING}
        temperature = self.temperature_k[alive]
        self._kt = torch.as_tensor(temperature * BOLTZMANN_EV_PER_K, device=device)
        bonds, lengths = ([values[index] for index in alive] for values in (self.bonds, self.lengths))
        self._watch = Watch(self.stability, counts, bonds, lengths, temperature, device, self.network.model.dtype)
        if self.ensemble:
            self.use(self.ensemble, self._friction)

    def use(self, ensemble: str, friction_per_ps: float = 0.0) -> None:
        """Choose the integrator.

        Args:
            ensemble: ``nvt_langevin`` or ``nve``.
            friction_per_ps: gamma of Langevin dynamics, 1/ps.
        """
        self.ensemble, self._friction = ensemble, friction_per_ps
        degrees = degrees_of_freedom(self.counts[self.alive], ensemble)
        self._degrees = torch.as_tensor(degrees, device=self.network.device)
        if ensemble == "nve":
            _, step = ts.nve(model=self.network, dt=self._dt, kT=self._kt)
        else:
            gamma = self._scalar(friction_per_ps / ts.units.MetalUnits.time)
            _, step = ts.nvt_langevin(model=self.network, dt=self._dt, kT=self._kt, gamma=gamma)
        state = self.state
        # Static tensors, which a recorded step reads and writes.
        static = self._static = {name: getattr(state, name) for name in _MOVING}

        def advance() -> None:
            step(state)
            for name, target in static.items():
                target.copy_(getattr(state, name))
                setattr(state, name, target)

        self._step = _Recorded(advance, self)

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of positions, momenta and forces, (n_atoms, 3), and energy, (n_alive,), of the molecules alive."""
        return {name: getattr(self.state, name).clone() for name in _MOVING}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` gave, of the same shapes; the same molecules must be there."""
        for name, value in snapshot.items():
            self._static[name].copy_(value)
            setattr(self.state, name, self._static[name])

    def go_on(self, alive: NDArray[np.int64], snapshot: Mapping[str, Tensor]) -> None:
        """Continue with these molecules, shape (n_alive,), from where a checkpoint left them (see :meth:`snapshot`)."""
        self._set(np.asarray(alive, dtype=np.int64), snapshot)

    def draw_momenta(self, seed: int) -> None:
        """Draw from the Maxwell-Boltzmann distribution at each molecule's temperature, without net momentum.

        The numbers come from a generator on the CPU, so that they do not depend on the device.
        """
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(self.state.positions.shape, generator=generator, dtype=torch.float64)
        spread = (self.state.masses * gather(self._kt, self.state.system_idx)).sqrt()
        self.state.momenta.copy_(normal.to(spread.device) * spread.unsqueeze(1))
        self.stop_drift()

    def stop_drift(self) -> None:
        """Take the centre of mass's motion from every molecule (but single atoms)."""
        state, system = self.state, self.state.system_idx
        total = scatter_sum(state.momenta, system, len(self.alive)) / self._total_mass
        total = torch.where((self._sizes > 1).unsqueeze(1), total, torch.zeros_like(total))
        state.momenta.sub_(state.masses.unsqueeze(1) * gather(total, system))

    def evaluated(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Potential energies (n_alive,), eV, and whether energy and all forces of each molecule are finite numbers."""
        bad = ~self.state.forces.isfinite().all(dim=1)
        n_bad = scatter_sum(bad.double(), self.state.system_idx, len(self.alive))
        energy = self.state.energy.cpu().numpy().copy()
        return energy, np.isfinite(energy) & (n_bad.cpu().numpy() == 0)

    def evaluate(self) -> None:
        """Energies and forces at the present positions."""
        output = self.network(self.state)
        self.state.energy.copy_(output["energy"])
        self.state.forces.copy_(output["forces"])

    def advance(self, n_steps: int) -> None:
        """Integrate; waits for nothing."""
        for _ in range(n_steps):
            self._step()

    def observe(self) -> Observation:
        """Centre all molecules and look at them; the only place that waits for the device."""
        state, system, n = self.state, self.state.system_idx, len(self.alive)
        centre = scatter_sum(state.positions * state.masses.unsqueeze(1), system, n) / self._total_mass
        state.positions.sub_(gather(centre, system))
        per_atom = state.momenta.square().sum(dim=1) / (2.0 * state.masses)
        kinetic = scatter_sum(per_atom, system, n)
        temperature = 2.0 * kinetic / (self._degrees * BOLTZMANN_EV_PER_K)
        reason, held = self._watch.look(state.positions, state.momenta, state.forces, state.energy, temperature)
        table = torch.stack([state.energy, kinetic, temperature, reason.double(), held.double()]).cpu().numpy()
        positions = state.positions.cpu().numpy().copy()
        return Observation(positions, *table[:3], *table[3:].astype(np.int64))

    def keep(self, flags: NDArray[np.bool_]) -> None:
        """Go on with the molecules that are flagged, shape (n_alive,), among those alive; at least one."""
        atoms = torch.as_tensor(np.repeat(flags, self.counts[self.alive]), device=self.network.device)
        systems = torch.as_tensor(flags, device=self.network.device)
        kept = {name: value[systems if name == "energy" else atoms] for name, value in self.snapshot().items()}
        self._set(self.alive[flags], kept)

    def describe_end(self, position: int, seen: Observation, reason: str | None = None) -> str:
        """What happened to the molecule at ``position`` among those alive.

        Args:
            position: of the molecule.
            seen: what was found.
            reason: one of :data:`mlip_studies.md.stability.REASONS` that holds; the one that ended it if not given.
        """
        index = int(self.alive[position])
        first = int(self.counts[self.alive][:position].sum())
        return describe_end(
            REASONS[int(seen.reason[position])] if reason is None else reason,
            self.molecules[index].atomic_numbers,
            seen.positions[first : first + int(self.counts[index])],
            self.bonds[index],
            self.lengths[index],
            float(seen.temperature_k[position]),
        )
