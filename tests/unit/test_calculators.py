"""Potentials as calculators of ASE and torch-sim."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.ase import MLIPCalculator
from mlip_studies.models.calculators.graphs import ALL_PAIRS_ATOMS, MovingMolecules
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model

NAME, OPTIONS = "egnn_rff_as_coded", {"hidden": 16}
SHIFTS = {"high": [-13.0, -1035.0, -1488.0, -2045.0], "low": [-13.5, -1036.0, -1489.0, -2046.0]}


class Springs(AtomisticModel):
    """Repulsion and an attraction that depends on the number of neighbours; exactly zero at the cutoff."""

    def __init__(self, cutoff=4.0):
        super().__init__()
        self.elements, self.cutoff = (1, 6, 7, 8), cutoff
        self.strength = torch.nn.Parameter(torch.tensor(1.5))
        self.calls = []

    def forward(self, batch):
        self.calls.append(batch.n_edges)
        distance = batch.edge_vectors().norm(dim=1)
        switch = (1 - distance / self.cutoff).clamp(min=0).square()
        repulsion = batch.sum_edges(switch * torch.exp(-2.0 * (distance - 1.2)))
        density = batch.sum_edges(switch * batch.atomic_numbers[batch.senders].sqrt().to(distance.dtype))
        return batch.sum_atoms(self.strength * repulsion - (density + 1e-3).sqrt())


def springs():
    model = Springs()
    return Potential(model, "springs", {}, {"high": [-10.0, -1000.0, -1400.0, -2000.0]})


def network():
    torch.manual_seed(4)
    return Potential(build_model(NAME, OPTIONS), NAME, OPTIONS, SHIFTS)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def sheet(n, seed=0):
    """n atoms of carbon, oxygen and hydrogen on a jittered grid."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(int(np.ceil(n ** (1 / 3))))] * 3), axis=-1).reshape(-1, 3)[:n]
    return Atoms(rng.choice([1, 6, 8], n), 1.4 * points + rng.normal(scale=0.08, size=(n, 3)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fidelity", ["high", "low"])
def test_ase_energy_and_forces_are_the_potentials(dtype, fidelity):
    potential = network()
    atoms = molecule("CH3CH2OH")
    atoms.calc = MLIPCalculator(potential, dtype=dtype, fidelity=fidelity)
    batch = make_batch([(atoms.numbers, atoms.positions)], dtype=torch.float64, fidelity=[int(fidelity == "low")])
    energy, forces = potential.double().energy_and_forces(batch)
    tolerance = 1e-10 if dtype == "float64" else 2e-5
    assert atoms.get_potential_energy() == pytest.approx(float(energy), abs=tolerance)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert np.abs(atoms.get_forces() - forces.numpy()).max() < tolerance
    assert atoms.get_forces().dtype == np.float64


def test_caller_keeps_its_potential():
    potential = network()
    MLIPCalculator(potential, dtype="float64")
    assert potential.dtype == torch.float32
    assert all(p.requires_grad for p in potential.parameters())


def test_ase_takes_a_file(tmp_path):
    potential = network()
    path = tmp_path / "model.safetensors"
    potential.save(path, {})
    atoms = molecule("H2O")
    atoms.calc = MLIPCalculator(str(path))
    first = atoms.get_potential_energy()
    atoms.calc = MLIPCalculator(path)
    assert first == atoms.get_potential_energy()
    atoms.calc = MLIPCalculator(potential)
    assert first == atoms.get_potential_energy()


def test_ase_single_precision_far_from_the_origin():
    atoms = molecule("CH3CH2OH")
    atoms.calc = MLIPCalculator(network(), dtype="float32")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.translate([5000.0, -3000.0, 1000.0])
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)
    assert np.abs(atoms.get_forces() - forces).max() < 1e-4


def test_ase_keeps_the_graph_of_the_same_atoms():
    calculator = MLIPCalculator(springs())
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    atoms.get_forces()
    graph = calculator._graph
    atoms.rattle(0.02, seed=1)
    atoms.get_forces()
    assert calculator._graph is graph
    calls = len(calculator.potential.model.calls)
    atoms.get_potential_energy()
    assert len(calculator.potential.model.calls) == calls
    # Other atoms in the same calculator, as many as before.
    water, ammonia = molecule("H2O"), molecule("NH3")
    expected = []
    for each in (water, ammonia):
        each.calc = MLIPCalculator(springs())
        expected.append(each.get_potential_energy())
    for each, energy in zip((water, ammonia), expected, strict=True):
        each.calc = calculator
        assert each.get_potential_energy() == pytest.approx(energy, abs=1e-12)


def test_ase_optimisation_and_files(tmp_path):
    atoms = molecule("CH4")
    atoms.rattle(0.1, seed=3)
    atoms.calc = MLIPCalculator(springs())
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    assert np.abs(atoms.get_forces()).max() < 1e-4
    assert atoms.get_potential_energy() < before
    write(tmp_path / "relaxed.extxyz", atoms)
    back = read(tmp_path / "relaxed.extxyz")
    assert back.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert np.abs(back.get_forces() - atoms.get_forces()).max() < 1e-6


def test_ase_dynamics_keep_the_energy():
    atoms = molecule("CH4")
    atoms.calc = MLIPCalculator(springs())
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    spread = np.sqrt(atoms.get_masses()[:, None] * units.kB * 600.0)
    atoms.set_momenta(spread * np.random.default_rng(0).normal(size=(5, 3)))
    start = atoms.get_total_energy()
    kinetic = atoms.get_kinetic_energy()
    VelocityVerlet(atoms, 0.1 * units.fs).run(200)
    assert abs(atoms.get_kinetic_energy() - kinetic) > 1e-2
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-4)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (bulk("C"), "molecules only"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[9, 9, 9], pbc=[False, True, False]), "periodic in"),
        (Atoms(), "no atoms"),
        (Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]), "unknown element Au (atoms 0, 1)"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0]]), "atoms 0 and 1 coincide"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "not finite"),
    ],
)
def test_ase_refuses_with_one_line(atoms, words):
    atoms.calc = MLIPCalculator(springs())
    with pytest.raises(InputError) as caught:
        atoms.get_potential_energy()
    assert words in one_line(caught)


def test_ase_checks_positions_again_when_atoms_move():
    atoms = molecule("H2O")
    atoms.calc = MLIPCalculator(springs())
    atoms.get_potential_energy()
    atoms.positions[1] = atoms.positions[2]
    with pytest.raises(InputError) as caught:
        atoms.get_potential_energy()
    assert "atoms 1 and 2 coincide" in one_line(caught)


def test_ase_isolated_atom_and_missing_property():
    atoms = Atoms("O", [[3.0, 2.0, 1.0]], cell=[5, 5, 5])
    atoms.calc = MLIPCalculator(springs())
    assert atoms.get_potential_energy() == pytest.approx(-2000.0 - np.sqrt(1e-3), abs=1e-6)
    assert np.array_equal(atoms.get_forces(), np.zeros((1, 3)))
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dtype": "float16"}, "float32"), ({"fidelity": "middle"}, "high, low"), ({"potential": 3}, "expected")],
)
def test_calculator_arguments(arguments, words):
    with pytest.raises(InputError) as caught:
        MLIPCalculator(**{"potential": springs(), **arguments})
    assert words in one_line(caught)


def test_large_molecules_get_only_the_edges_within_the_cutoff():
    potential = springs().double()
    small, large = sheet(ALL_PAIRS_ATOMS), sheet(ALL_PAIRS_ATOMS + 1)
    for atoms in (small, large):
        calculator = MLIPCalculator(potential)
        atoms.calc = calculator
        n = len(atoms)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        edges = calculator.potential.model.calls[-1]
        within = int((atoms.get_all_distances() <= 4.0).sum()) - n
        assert edges == (n * (n - 1) if atoms is small else within)
        whole = make_batch([(atoms.numbers, atoms.positions)], dtype=torch.float64)
        expected, expected_forces = potential.energy_and_forces(whole)
        assert energy == pytest.approx(float(expected), abs=1e-9)
        assert np.abs(forces - expected_forces.numpy()).max() < 1e-10
    assert within < n * (n - 1)


def test_large_molecules_graph_follows_the_atoms():
    atoms = sheet(60, seed=2)
    atoms.calc = MLIPCalculator(springs())
    atoms.get_forces()
    atoms.positions[:, 0] *= 1.8
    expected = atoms.copy()
    expected.calc = MLIPCalculator(springs())
    assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-10)


def test_too_many_pairs_are_refused_before_memory_is_taken():
    with pytest.raises(InputError) as caught:
        MovingMolecules(torch.full((30_000,), 6), np.array([10, 29_990]), springs())
    assert "molecule 1: 29990 atoms" in one_line(caught)


def test_other_simulation_packages_are_not_imported_with_the_package():
    code = (
        "import sys\n"
        "import mlip_studies.models.potential, mlip_studies.models.pretrained, mlip_studies.models.calculators.ase\n"
        "found = {'torch_sim', 'torchani', 'mace', 'orb_models', 'e3nn'} & set(sys.modules)\n"
        "raise SystemExit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def torch_sim():
    return pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed", exc_type=ImportError)


def torchsim_model(potential, **arguments):
    from mlip_studies.models.calculators.torchsim import MLIPTorchSimModel

    return MLIPTorchSimModel(potential, **arguments)


MOLECULES = ["H2O", "CH3CH2OH", "CH4", "O", "C6H6"]


@pytest.mark.parametrize("make", [springs, network])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torchsim_equals_ase_and_systems_are_independent(torch_sim, make, dtype):
    potential = make()
    molecules = [molecule(name) for name in MOLECULES]
    model = torchsim_model(potential, dtype=dtype)
    state = torch_sim.initialize_state(molecules, model.device, model.dtype)
    assert state.atomic_numbers.dtype != torch.int64
    output = model(state)
    assert output["energy"].shape == (len(molecules),)
    assert output["forces"].shape == (sum(len(atoms) for atoms in molecules), 3)
    assert output["forces"].dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    first = 0
    for index, atoms in enumerate(molecules):
        atoms.calc = MLIPCalculator(potential, dtype=dtype)
        assert float(output["energy"][index]) == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
        forces = output["forces"][first : first + len(atoms)].double().numpy()
        assert np.abs(forces - atoms.get_forces()).max() < tolerance
        first += len(atoms)
        alone = model(torch_sim.initialize_state([atoms], model.device, model.dtype))
        assert float(alone["energy"][0]) == pytest.approx(float(output["energy"][index]), abs=tolerance)
    # In another order, and in the same model: the graph follows the state.
    other = model(torch_sim.initialize_state(molecules[::-1], model.device, model.dtype))
    assert torch.allclose(other["energy"].flip(0), output["energy"], atol=tolerance, rtol=0)


def test_torchsim_batched_langevin(torch_sim):
    model = torchsim_model(springs())
    molecules = [molecule(name) for name in ("H2O", "CH4", "CH3CH2OH", "H2O")]
    state = torch_sim.initialize_state(molecules, model.device, model.dtype)
    init, step = torch_sim.nvt_langevin(
        model=model,
        kT=torch.tensor(300.0 * units.kB, dtype=torch.float64),
        dt=torch.tensor(0.5e-3 * torch_sim.units.MetalUnits.time, dtype=torch.float64),
        seed=1,
    )
    torch.manual_seed(1)
    state = init(state)
    graph = model._molecules
    start = state.positions.clone()
    for _ in range(20):
        state = step(state)
        # What does not depend on positions is made once.
        assert model._molecules is graph
    assert bool(torch.isfinite(state.positions).all())
    assert float((state.positions - start).abs().max()) > 1e-2
    # The last forces are those of the last positions.
    first = 0
    for index, atoms in enumerate(molecules):
        moved = Atoms(atoms.numbers, state.positions[first : first + len(atoms)].numpy())
        moved.calc = MLIPCalculator(springs())
        forces = state.forces[first : first + len(atoms)].numpy()
        assert np.abs(moved.get_forces() - forces).max() < 1e-9
        assert float(state.energy[index]) == pytest.approx(moved.get_potential_energy(), abs=1e-9)
        first += len(atoms)


def test_torchsim_integrate_runs_with_a_temperature_per_step(torch_sim):
    torch.manual_seed(0)
    molecules = [molecule(name) for name in ("CH4", "H2O")] * 3
    final = torch_sim.integrate(
        molecules,
        torchsim_model(springs(), dtype="float32"),
        integrator=torch_sim.nvt_langevin,
        n_steps=5,
        temperature=[100.0, 150.0, 200.0, 250.0, 300.0],
        timestep=0.0005,
        seed=0,
    )
    assert final.n_systems == 6
    assert final.positions.dtype == torch.float32
    assert bool(torch.isfinite(final.positions).all() & torch.isfinite(final.energy).all())
    # Equal molecules got different noise.
    assert float((final.positions[:5] - final.positions[8:13]).abs().max()) > 1e-3


def test_torchsim_dynamics_keep_the_energy_of_every_molecule(torch_sim):
    model = torchsim_model(springs())
    molecules = [molecule(name) for name in ("CH4", "H2O", "CH3CH2OH")]
    for atoms in molecules:
        atoms.calc = MLIPCalculator(springs())
        BFGS(atoms, logfile=None).run(fmax=1e-3, steps=300)
    state = torch_sim.initialize_state(molecules, model.device, model.dtype)
    kt = torch.tensor(600.0 * units.kB, dtype=torch.float64)
    dt = torch.tensor(0.1e-3 * torch_sim.units.MetalUnits.time, dtype=torch.float64)
    init, step = torch_sim.nve(model=model, dt=dt, kT=kt, seed=3)

    def energies(state):
        kinetic = (state.momenta.square().sum(dim=1) / (2 * state.masses)).new_zeros(3)
        per_atom = state.momenta.square().sum(dim=1) / (2 * state.masses)
        return kinetic.index_add(0, state.system_idx, per_atom), state.energy

    state = init(state)
    kinetic, potential = energies(state)
    start, moved = kinetic + potential, torch.zeros(3, dtype=torch.float64)
    for _ in range(150):
        state = step(state, dt=dt)
        now, potential = energies(state)
        moved = torch.maximum(moved, (now - kinetic).abs())
    assert bool((moved > 2e-2).all())
    assert float((now + potential - start).abs().max()) < 2e-3


@pytest.mark.parametrize(
    ("molecules", "words"),
    [
        ([bulk("C")], "molecules only"),
        ([molecule("H2O"), molecule("SiH4")], "molecule 1: unknown element Si"),
        ([molecule("H2O"), Atoms("H2", [[0, 0, 0], [0, 0, 1e-5]])], "molecule 1: atoms 0 and 1 coincide"),
    ],
)
def test_torchsim_refuses_with_one_line(torch_sim, molecules, words):
    model = torchsim_model(springs())
    with pytest.raises(InputError) as caught:
        model(torch_sim.initialize_state(molecules, model.device, model.dtype))
    assert words in one_line(caught)


def test_torchsim_refuses_states_of_another_type(torch_sim):
    model = torchsim_model(springs(), dtype="float64")
    with pytest.raises(InputError) as caught:
        model(torch_sim.initialize_state([molecule("H2O")], model.device, torch.float32))
    assert "float32" in one_line(caught)


def test_torchsim_large_molecules_and_changes_in_place(torch_sim):
    model = torchsim_model(springs())
    atoms = [sheet(60, seed=2), molecule("CH4")]
    state = torch_sim.initialize_state(atoms, model.device, model.dtype)
    energy = model(state)["energy"]
    for index, each in enumerate(atoms):
        each.calc = MLIPCalculator(springs())
        assert float(energy[index]) == pytest.approx(each.get_potential_energy(), abs=1e-9)
    # The same tensor with another element: the graph is made anew.
    state.atomic_numbers[60] = 7
    atoms[1].numbers[0] = 7
    assert float(model(state)["energy"][1]) == pytest.approx(atoms[1].get_potential_energy(), abs=1e-9)


def test_torchsim_batches_of_an_autobatcher(torch_sim):
    model = torchsim_model(springs())
    molecules = [molecule(name) for name in MOLECULES]
    state = torch_sim.initialize_state(molecules, model.device, model.dtype)
    batcher = torch_sim.BinningAutoBatcher(model=model, memory_scales_with="n_atoms", max_memory_scaler=14)
    batcher.load_states(state)
    energies, sizes = [], []
    for part in batcher:
        part = part[0] if isinstance(part, tuple) else part
        sizes.append(part.n_systems)
        energies += model(part)["energy"].tolist()
    assert len(sizes) > 1
    assert sorted(energies) == pytest.approx(sorted(model(state)["energy"].tolist()), abs=1e-9)
