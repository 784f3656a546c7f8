"""Batched dynamics: integrators against ASE and theory, stability, resume, observables, speed, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from ase.md.verlet import VelocityVerlet

from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.md.config import MDConfig, MDOutputs
from mlip_studies.md.observables import (
    DistanceHistogram,
    degrees_of_freedom,
    distance_error,
    energy_drift,
    mean_and_error,
    temperature_is_off,
    temperature_of,
    write_observables,
)
from mlip_studies.md.stability import StabilityConfig, find_bonds
from mlip_studies.md.start import Molecule, StartConfig, read_start
from mlip_studies.md.trajectory import Segments, Trajectory
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.ase import MLIPCalculator
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model
from mlip_studies.runtime.state import Requeue
from mlip_studies.units import BOLTZMANN_EV_PER_K

pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed", exc_type=ImportError)

from mlip_studies.md import engine
from mlip_studies.md.dynamics import Dynamics, Network
from mlip_studies.md.engine import build_trajectories, main_md, run_md
from mlip_studies.md.speed import measure_speed, write_speed

OPTIONS = {"n_features": 12, "n_layers": 1, "n_heads": 2, "n_radial": 8}
REST = {(1, 8): 0.96, (1, 1): 1.51, (6, 8): 1.16, (8, 8): 2.32}


class PairSprings(AtomisticModel):
    """A spring between every two atoms of a water or a carbon dioxide molecule."""

    elements, cutoff = (1, 6, 8), None

    def __init__(self, stiffness=20.0):
        super().__init__()
        rest = torch.zeros(9, 9, dtype=torch.float64)
        for (i, j), length in REST.items():
            rest[i, j] = rest[j, i] = length
        self.register_buffer("rest", rest)
        self.stiffness = stiffness

    def forward(self, batch):
        n = batch.n_pairs
        distance = batch.edge_vectors()[:n].norm(dim=1)
        z = batch.atomic_numbers
        stretch = distance - self.rest[z[batch.receivers[:n]], z[batch.senders[:n]]].to(distance.dtype)
        energy = 0.5 * self.stiffness * stretch.square().double()
        return energy.new_zeros(batch.n_graphs).index_add(0, batch.graph_index[batch.receivers[:n]], energy)


def water():
    angle = np.arcsin(0.5 * REST[1, 1] / REST[1, 8])
    x, y = REST[1, 8] * np.sin(angle), REST[1, 8] * np.cos(angle)
    return Molecule(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [x, y, 0], [-x, y, 0]]), "water")


def carbon_dioxide():
    return Molecule(np.array([6, 8, 8]), np.array([[0.0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]]), "carbon dioxide")


def ethanol():
    atoms = molecule("CH3CH2OH")
    return Molecule(atoms.numbers.astype(np.int64), atoms.positions, "ethanol")


def network(scale=1.0, seed=7):
    torch.manual_seed(seed)
    model = build_model("so3krates", OPTIONS)
    return Potential(model, "so3krates", OPTIONS, {"high": [-10.0, -20.0, -30.0]}, scale=scale, elements=(1, 6, 8))


def springs_network():
    return Network(Potential.of_total_energies(PairSprings(), "springs"), precision="float64")


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def inputs(tmp_path):
    """A network whose forces are weak, and ethanol: cold atoms stay where they are for a while, hot ones fly apart."""
    network(scale=0.05).save(tmp_path / "model.safetensors", {})
    write(tmp_path / "start.extxyz", molecule("CH3CH2OH"))
    return tmp_path


def make_config(folder, **changes):
    return {
        "potential": str(folder / "model.safetensors"),
        "start": {"file": str(folder / "start.extxyz")},
        "time_ps": 0.06,
        "thermalise_ps": 0.01,
        "temperature_k": [4.0, 3000.0],
        "replicas": 2,
        "sample_every_fs": 2.0,
        "seed": 11,
        **changes,
    }


def run_in(folder, name="run", **changes):
    outputs = MDOutputs.in_folder(folder / name)
    return run_md(MDConfig.from_dict(make_config(folder, **changes)), outputs, folder / f"{name}-state", "cpu", 1)


def assert_same_run(one, other):
    """Equal samples and survival, bit by bit."""
    assert (one / "samples.csv").read_bytes() == (other / "samples.csv").read_bytes()
    with Trajectory(one / "trajectory.h5") as a, Trajectory(other / "trajectory.h5") as b:
        assert np.array_equal(a.n_valid, b.n_valid)
        for index in range(len(a)):
            assert a.positions(index).tobytes() == b.positions(index).tobytes()
            for left, right in zip(a.energies(index), b.energies(index), strict=True):
                assert left.tobytes() == right.tobytes()
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    assert first["replicas"] == second["replicas"]
    assert (first["steps"], first["config"]["seed"]) == (second["steps"], second["config"]["seed"])


# Integrators


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_nve_equals_velocity_verlet_of_ase(precision):
    potential = network()
    start = ethanol()
    dynamics = Dynamics(Network(potential, precision=precision), [start], [300.0], 0.5)
    dynamics.draw_momenta(3)
    dynamics.evaluate()
    dynamics.use("nve")
    atoms = Atoms(start.atomic_numbers, start.positions)
    atoms.calc = MLIPCalculator(potential, dtype=precision)
    atoms.set_momenta(dynamics.state.momenta.numpy())
    VelocityVerlet(atoms, 0.5 * units.fs).run(50)
    dynamics.advance(50)
    assert np.abs(dynamics.state.positions.numpy() - start.positions).max() > 0.1
    tolerance = 1e-9 if precision == "float64" else 1e-6
    assert np.abs(dynamics.state.positions.numpy() - atoms.positions).max() < tolerance
    assert np.abs(dynamics.state.momenta.numpy() - atoms.get_momenta()).max() < 100 * tolerance
    assert float(dynamics.state.energy[0]) == pytest.approx(atoms.get_potential_energy(), abs=100 * tolerance)
    # Looking at it moves the centre of mass to the origin, and nothing else.
    atoms.positions -= atoms.get_center_of_mass()
    seen = dynamics.observe()
    assert np.abs(seen.positions - atoms.positions).max() < tolerance
    assert seen.kinetic_ev[0] == pytest.approx(atoms.get_kinetic_energy(), abs=100 * tolerance)


def nve_energies(timestep_fs, n_steps, molecules):
    dynamics = Dynamics(springs_network(), molecules, [300.0] * len(molecules), timestep_fs)
    dynamics.draw_momenta(1)
    dynamics.evaluate()
    dynamics.use("nve")
    total = []
    for _ in range(100):
        dynamics.advance(n_steps // 100)
        seen = dynamics.observe()
        assert (seen.reason == -1).all()
        total.append(seen.potential_ev + seen.kinetic_ev)
    return np.array(total), seen


def test_nve_of_springs_conserves_energy_to_second_order():
    molecules = [water(), carbon_dioxide(), water()]
    coarse, seen = nve_energies(0.4, 400, molecules)
    fine, _ = nve_energies(0.2, 800, molecules)
    # Energy is exchanged, but none is lost.
    assert (seen.potential_ev > 1e-3).all()
    time_ps = np.arange(1, 101) * 1.6e-3
    for index in range(3):
        _, rough = energy_drift(time_ps, coarse[:, index], 3)
        drift, smooth = energy_drift(time_ps, fine[:, index], 3)
        assert 3.0 < rough / smooth < 5.0
        assert smooth < 0.2
        assert abs(drift) < 1.0
    # Molecules with other momenta, in the same batch.
    assert abs(fine[0, 0] - fine[0, 2]) > 1e-3


def test_langevin_of_springs_has_the_temperature_of_every_trajectory():
    temperatures = np.array([150.0, 600.0] * 16)
    molecules = [water() if index < 16 else carbon_dioxide() for index in range(32)]
    dynamics = Dynamics(springs_network(), molecules, temperatures, 0.25)
    torch.manual_seed(0)
    dynamics.draw_momenta(5)
    dynamics.evaluate()
    dynamics.use("nvt_langevin", 100.0)
    dynamics.advance(400)
    kelvin, potential = [], []
    for _ in range(150):
        dynamics.advance(10)
        seen = dynamics.observe()
        kelvin.append(seen.temperature_k)
        potential.append(seen.potential_ev)
    assert (dynamics.alive == np.arange(32)).all()
    for nominal in (150.0, 600.0):
        chosen = temperatures == nominal
        statistics = [mean_and_error(values) for values in np.array(kelvin)[:, chosen].T]
        mean = np.mean([value for value, _ in statistics])
        error = np.sqrt(np.sum([value**2 for _, value in statistics])) / len(statistics)
        assert 0 < error < 0.05 * nominal
        assert abs(mean - nominal) < 4 * error
        # Equipartition: three vibrations of water and of carbon dioxide, nearly harmonic, have kT/2 each (the bend of a
        # linear molecule is no spring).
        waters = chosen & (np.arange(32) < 16)
        assert np.mean(np.array(potential)[:, waters]) == pytest.approx(1.5 * BOLTZMANN_EV_PER_K * nominal, rel=0.15)


def test_drawn_momenta_are_maxwell_boltzmann_without_drift():
    dynamics = Dynamics(springs_network(), [water()] * 4000, [300.0] * 4000, 0.5)
    dynamics.draw_momenta(2)
    momenta = dynamics.state.momenta.numpy().reshape(4000, 3, 3)
    assert np.abs(momenta.sum(axis=1)).max() < 1e-10
    dynamics.use("nve")
    seen = dynamics.observe()
    kelvin = temperature_of(seen.kinetic_ev, 6)
    np.testing.assert_allclose(seen.temperature_k, kelvin)
    assert kelvin.mean() == pytest.approx(300.0, abs=4 * 300.0 * np.sqrt(2 / 6 / 4000))
    # The variance of an atom's momentum is m kT (1 - m/M).
    masses = dynamics.state.masses.numpy()[:3]
    expected = masses * BOLTZMANN_EV_PER_K * 300.0 * (1 - masses / masses.sum())
    np.testing.assert_allclose(momenta.var(axis=(0, 2)), expected, rtol=0.06)
    before = dynamics.state.momenta.clone()
    dynamics.draw_momenta(2)
    assert torch.equal(before, dynamics.state.momenta)
    dynamics.draw_momenta(3)
    assert not torch.equal(before, dynamics.state.momenta)


@pytest.mark.parametrize("friction_per_ps", [2.0, 50.0])
def test_friction_is_per_picosecond(friction_per_ps):
    atom = Molecule(np.array([8]), np.zeros((1, 3)), "atom")
    dynamics = Dynamics(springs_network(), [atom], [1e-20], 0.5)
    dynamics.state.momenta.fill_(3.0)
    dynamics.evaluate()
    dynamics.use("nvt_langevin", friction_per_ps)
    dynamics.advance(40)
    # Without noise, p = p0 exp(-gamma t), and the atom moves by the integral of p/m: both in torch-sim's time unit.
    decay = np.exp(-friction_per_ps * 0.02)
    np.testing.assert_allclose(dynamics.state.momenta.numpy(), 3.0 * decay, rtol=1e-6)
    distance = 3.0 / 15.999 * (1 - decay) / friction_per_ps * 1000.0 * units.fs
    np.testing.assert_allclose(dynamics.state.positions.numpy(), distance, rtol=1e-4)


def test_a_single_atom_keeps_its_momentum():
    atom = Molecule(np.array([8]), np.zeros((1, 3)), "atom")
    dynamics = Dynamics(springs_network(), [atom, water()], [300.0, 300.0], 0.5)
    dynamics.draw_momenta(0)
    dynamics.evaluate()
    dynamics.use("nve")
    before = dynamics.state.momenta[0].clone()
    dynamics.advance(5)
    assert float(before.norm()) > 0
    assert torch.equal(before, dynamics.state.momenta[0])
    assert np.isfinite(dynamics.observe().temperature_k).all()
    assert degrees_of_freedom(np.array([1, 3]), "nve").tolist() == [3, 6]


# Stability


def test_a_molecule_that_flies_apart_leaves_and_the_others_do_not_notice():
    def run(molecules, temperatures, momentum):
        dynamics = Dynamics(springs_network(), molecules, temperatures, 0.2)
        for index in range(len(molecules)):
            dynamics.state.momenta[3 * index : 3 * index + 3] = momentum[index]
        dynamics.evaluate()
        dynamics.use("nve")
        return dynamics

    rng = np.random.default_rng(0)
    momenta = [torch.as_tensor(rng.normal(scale=0.15, size=(3, 3))) for _ in range(3)]
    momenta[1] = 150 * momenta[1]
    both = run([water(), carbon_dioxide(), water()], [300.0, 1e6, 300.0], momenta)
    ended = []
    for interval in range(20):
        both.advance(10)
        seen = both.observe()
        for position in np.flatnonzero(seen.reason >= 0):
            ended.append((int(both.alive[position]), interval, both.describe_end(position, seen)))
        if (seen.reason >= 0).any():
            both.keep(seen.reason < 0)
    assert [index for index, _, _ in ended] == [1]
    assert "Å long, 1.16 Å at the start" in ended[0][2]
    assert both.alive.tolist() == [0, 2]
    alone = run([water()], [300.0], [momenta[2]])
    for _ in range(20):
        alone.advance(10)
        seen = alone.observe()
    assert np.abs(both.observe().positions[3:] - seen.positions).max() < 1e-10


@pytest.mark.parametrize(
    ("spoil", "limits", "reason", "words"),
    [
        (lambda state: state.positions[4].fill_(float("nan")), {}, 0, "not finite"),
        (lambda state: state.momenta[3:6].mul_(1e200).mul_(1e200), {}, 0, "not finite"),
        (lambda state: state.positions[5].copy_(state.positions[4] + 0.01), {}, 1, "H1 and H2 are 0.02 Å apart"),
        (lambda state: state.positions[4].mul_(1.6), {}, 2, "O0-H1 is 1.54 Å long, 0.96 Å at the start"),
        (lambda state: state.positions[4].mul_(1.2), {"bond_deviation_angstrom": 0.1}, 2, "O0-H1 is 1.15 Å long"),
        (lambda state: state.momenta[3:6].add_(3.0), {}, 3, "temperature of"),
    ],
)
def test_what_ends_a_trajectory(spoil, limits, reason, words):
    dynamics = Dynamics(springs_network(), [water()] * 3, [300.0] * 3, 0.5, StabilityConfig(**limits))
    dynamics.draw_momenta(0)
    dynamics.evaluate()
    dynamics.use("nvt_langevin", 1.0)
    assert dynamics.observe().reason.tolist() == [-1, -1, -1]
    centre = torch.as_tensor(dynamics.molecules[0].positions)
    dynamics.state.positions.copy_(centre.repeat(3, 1))
    spoil(dynamics.state)
    seen = dynamics.observe()
    assert seen.reason.tolist() == [-1, reason, -1]
    assert words in dynamics.describe_end(1, seen)
    dynamics.keep(seen.reason < 0)
    dynamics.advance(3)
    assert dynamics.observe().reason.tolist() == [-1, -1]


def test_bonds_are_those_of_chemistry():
    start = ethanol()
    bonds = find_bonds(start.atomic_numbers, start.positions)
    kinds = sorted(tuple(sorted(start.atomic_numbers[pair].tolist())) for pair in bonds)
    assert kinds == [(1, 6)] * 5 + [(1, 8), (6, 6), (6, 8)]
    assert find_bonds(np.array([8]), np.zeros((1, 3))).shape == (0, 2)


# Runs


def test_run_writes_everything(inputs):
    summary = run_in(inputs, job="hot", run="net")
    folder = inputs / "run"
    assert summary == json.loads((folder / "summary.json").read_text())
    assert [line["temperature_k"] for line in summary["replicas"]] == [4.0, 4.0, 3000.0, 3000.0]
    assert [line["alive"] for line in summary["replicas"]] == [True, True, False, False]
    assert summary["steps"] == 140
    for line in summary["replicas"]:
        if line["alive"]:
            assert (line["survived_ps"], line["reason"], line["ended_ps"]) == (0.06, "", None)
        else:
            assert line["reason"] == "broken_bond"
            assert "Å long" in line["detail"]
            assert line["survived_ps"] == max(0.0, line["ended_ps"]) < 0.06
    assert [line["n_alive"] for line in summary["temperatures"]] == [2, 0]
    replicas = pd.read_csv(folder / "replicas.csv")
    for key in ("replica", "survived_ps", "alive", "mean_temperature_k"):
        values = pd.Series([line[key] for line in summary["replicas"]], name=key)
        pd.testing.assert_series_equal(replicas[key], values, check_dtype=False)
    assert replicas["reason"].fillna("").tolist() == [line["reason"] for line in summary["replicas"]]
    assert set(replicas["run"]) == {"net"}
    table = pd.read_csv(folder / "samples.csv")
    assert len(table) == 4 * 31
    assert set(table["job"]) == {"hot"}
    assert set(table["run"]) == {"net"}
    with Trajectory(folder / "trajectory.h5") as frames:
        assert frames.time_ps[-1] == pytest.approx(0.06)
        assert frames.n_valid[:2].tolist() == [31, 31]
        for index, line in enumerate(summary["replicas"]):
            # A trajectory that ends at its k-th sample, counted from 0, has k good ones.
            if not line["alive"]:
                assert frames.n_valid[index] == round(line["survived_ps"] / 0.002)
            positions = frames.positions(index)
            potential, kinetic = frames.energies(index)
            assert positions.shape == (frames.n_valid[index], 9, 3)
            assert np.isfinite(positions).all()
            lines = table[table["replica"] == index]
            assert lines["alive"].sum() == frames.n_valid[index]
            np.testing.assert_allclose(lines["potential_ev"].dropna(), potential, rtol=1e-10)
            kelvin = temperature_of(kinetic, 27)
            np.testing.assert_allclose(lines["measured_temperature_k"].dropna(), kelvin, rtol=1e-9)
            if line["alive"]:
                assert line["mean_temperature_k"] == pytest.approx(kelvin.mean())
                assert line["temperature_off"] == temperature_is_off(kelvin.mean(), 4.0)
                # What was written is what the potential says.
                atoms = Atoms(frames.atomic_numbers(index), positions[-1])
                atoms.calc = MLIPCalculator(inputs / "model.safetensors")
                assert atoms.get_potential_energy() == pytest.approx(potential[-1], abs=1e-4)
                masses = atoms.get_masses()
                assert np.abs(masses @ positions / masses.sum()).max() < 1e-5
    assert list((inputs / "run-state").iterdir()) == []


def test_nve_thermalises_and_reports_its_drift(inputs):
    summary = run_in(inputs, ensemble="nve", temperature_k=4.0, time_ps=0.05, precision="float64")
    for line in summary["replicas"]:
        assert line["alive"]
        assert abs(line["drift_mev_per_atom_ps"]) < 1.0
        assert line["fluctuation_mev_per_atom"] < 0.1
    with Trajectory(inputs / "run" / "trajectory.h5") as frames:
        potential, kinetic = frames.energies(0)
        drift, _ = energy_drift(frames.time_ps, potential + kinetic, 9)
        assert summary["replicas"][0]["drift_mev_per_atom_ps"] == pytest.approx(drift)
        # Thermalisation moved the atoms before the first sample.
        start = molecule("CH3CH2OH")
        distances = Atoms("C2OH6", frames.positions(0)[0]).get_all_distances()
        assert np.abs(distances - start.get_all_distances()).max() > 1e-3


def test_nve_starts_with_the_centre_of_mass_at_rest(inputs, monkeypatch):
    use, seen = Dynamics.use, []

    def noting(self, ensemble, friction_per_ps=0.0):
        seen.append((ensemble, friction_per_ps, self.state.momenta.reshape(-1, 9, 3).sum(dim=1).abs().max().item()))
        use(self, ensemble, friction_per_ps)

    monkeypatch.setattr(Dynamics, "use", noting)
    run_in(inputs, ensemble="nve", temperature_k=4.0, thermalise_friction_per_ps=40.0)
    assert [entry[:2] for entry in seen] == [("nvt_langevin", 40.0), ("nve", 1.0)]
    assert seen[1][2] < 1e-12


def test_everything_may_end(inputs):
    summary = run_in(inputs, temperature_k=4000.0, replicas=1, thermalise_ps=0.0)
    assert summary["temperatures"][0]["n_alive"] == 0
    assert summary["steps"] < 120
    table = pd.read_csv(inputs / "run" / "samples.csv")
    assert len(table) == 31
    assert not table["alive"].iloc[-1]
    assert run_in(inputs, "early", temperature_k=4000.0, replicas=1, thermalise_ps=0.3)["replicas"][0][
        "survived_ps"
    ] == pytest.approx(0.0)


def interrupt(monkeypatch, calls, error):
    """Raise at the n-th interval."""
    advance, count = Dynamics.advance, [0]

    def failing(self, n_steps):
        count[0] += 1
        if count[0] == calls:
            error()
        advance(self, n_steps)

    monkeypatch.setattr(Dynamics, "advance", failing)


@pytest.mark.parametrize("at", [3, 9, 24])
@pytest.mark.parametrize("ensemble", ["nvt_langevin", "nve"])
def test_interrupted_run_goes_on_bit_by_bit(inputs, monkeypatch, at, ensemble):
    options = {"checkpoint_seconds": 1e-6, "ensemble": ensemble}
    run_in(inputs, "whole", ensemble=ensemble)

    def fail():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        interrupt(patched, at, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(inputs, "cut", **options)
    assert not (inputs / "cut" / "summary.json").exists()
    # The caller's own random numbers do not matter, and stay.
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    summary = run_in(inputs, "cut", **options)
    assert torch.equal(torch.rand(3), expected)
    assert summary["jobs"] == 2
    assert summary["resumed_from_interval"] == at - 1
    assert_same_run(inputs / "whole", inputs / "cut")


def test_signal_saves_and_asks_to_be_started_again(inputs, monkeypatch, capsys):
    run_in(inputs, "whole")
    with monkeypatch.context() as patched:
        interrupt(patched, 20, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Requeue) as caught:
            run_in(inputs, "cut")
    assert caught.value.code == 75
    assert "SIGTERM: saved at 0.030 ps" in capsys.readouterr().out
    assert run_in(inputs, "cut")["resumed_from_interval"] == 20
    assert_same_run(inputs / "whole", inputs / "cut")


def test_killed_process_loses_nothing(inputs):
    run_in(inputs, "whole", temperature_k=4.0)
    (inputs / "md.yaml").write_text(json.dumps(make_config(inputs, temperature_k=4.0, checkpoint_seconds=1e-6)))
    code = "import sys; from mlip_studies.md.engine import main_md; sys.exit(main_md(sys.argv[1:]))"
    where = [str(inputs / "md.yaml"), "--output", str(inputs / "killed"), "--device", "cpu", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-c", code, *where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list((inputs / "killed").glob(".state/*/md-0000001*.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (inputs / "killed" / "summary.json").exists()
    done = subprocess.run([sys.executable, "-c", code, *where], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "going on at" in done.stdout
    assert "4 K: 2 of 2 trajectories lasted 0.06 ps" in done.stdout
    assert_same_run(inputs / "whole", inputs / "killed")
    assert json.loads((inputs / "killed" / "summary.json").read_text())["jobs"] == 2


def test_damaged_segment_starts_anew(inputs, monkeypatch, capsys):
    run_in(inputs, "whole")

    def fail():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        interrupt(patched, 20, fail)
        with pytest.raises(RuntimeError):
            run_in(inputs, "cut", checkpoint_seconds=1e-6)
    segments = sorted((inputs / "cut-state").glob("*/segment-*.npz"))
    assert len(segments) == 15
    content = bytearray(segments[4].read_bytes())
    content[len(content) // 2] ^= 255
    segments[4].write_bytes(content)
    summary = run_in(inputs, "cut", checkpoint_seconds=1e-6)
    assert "damaged part of a trajectory" in capsys.readouterr().out
    assert summary["jobs"] == 1
    assert_same_run(inputs / "whole", inputs / "cut")


def test_other_potential_starts_anew(inputs, monkeypatch, capsys):
    def fail():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        interrupt(patched, 20, fail)
        with pytest.raises(RuntimeError):
            run_in(inputs, checkpoint_seconds=1e-6)
    network(scale=0.06).save(inputs / "model.safetensors", {})
    assert run_in(inputs)["jobs"] == 1
    assert "starting anew" in capsys.readouterr().out


def test_seed_and_replicas_make_different_trajectories(inputs):
    run_in(inputs, "one", temperature_k=4.0)
    run_in(inputs, "two", temperature_k=4.0, seed=12)
    with Trajectory(inputs / "one" / "trajectory.h5") as one, Trajectory(inputs / "two" / "trajectory.h5") as two:
        frames = [one.positions(0), one.positions(1), two.positions(0)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(frames[i][-1] - frames[j][-1]).max() > 1e-2


def test_long_tables_are_thinned(inputs, monkeypatch):
    monkeypatch.setattr(engine, "TABLE_LINES", 8)
    summary = run_in(inputs, temperature_k=4.0, replicas=1)
    table = pd.read_csv(inputs / "run" / "samples.csv")
    assert summary["samples_stride"] == 4
    assert table["time_ps"].tolist() == pytest.approx(np.arange(8) * 0.008)


def test_many_molecules_in_one_run(inputs):
    write(inputs / "start.extxyz", [molecule("CH3CH2OH"), molecule("H2O"), molecule("CH4")])
    summary = run_in(inputs, start={"file": str(inputs / "start.extxyz"), "frames": ":"}, temperature_k=[3.0, 4.0])
    assert [line["formula"] for line in summary["replicas"]] == ["C2H6O"] * 4 + ["H2O"] * 4 + ["CH4"] * 4
    assert [line["temperature_k"] for line in summary["replicas"]] == [3.0, 3.0, 4.0, 4.0] * 3
    assert [line["start"] for line in summary["replicas"]] == [0] * 4 + [1] * 4 + [2] * 4
    with Trajectory(inputs / "run" / "trajectory.h5") as frames:
        assert [frames.positions(index).shape[1] for index in (0, 4, 8)] == [9, 3, 5]


def test_order_of_trajectories():
    molecules, start, kelvin = build_trajectories([water(), carbon_dioxide()], [100.0, 200.0], 2)
    assert [each.name for each in molecules] == ["water"] * 4 + ["carbon dioxide"] * 4
    assert start.tolist() == [0] * 4 + [1] * 4
    assert kelvin.tolist() == [100.0, 100.0, 200.0, 200.0] * 2


# Observables


def test_distribution_of_distances():
    frames = np.zeros((2, 3, 3))
    frames[:, 1, 0], frames[:, 2, 1] = 1.02, 2.03
    frames[1, 1, 0] = 1.07
    histogram = DistanceHistogram(0.05)
    histogram.add(frames)
    density = histogram.density()
    assert density.sum() * 0.05 == pytest.approx(1.0)
    assert np.flatnonzero(density).tolist() == [20, 21, 40, 45]
    assert density[40] == pytest.approx(2 / 6 / 0.05)
    assert distance_error(histogram, histogram) == 0.0
    far = DistanceHistogram(0.05)
    far.add(3.0 * frames)
    assert distance_error(histogram, far) == pytest.approx(2.0)
    half = DistanceHistogram(0.05)
    half.add(np.concatenate([frames, 3.0 * frames]))
    assert distance_error(histogram, half) == pytest.approx(1.0)


def test_error_of_a_correlated_mean():
    rng = np.random.default_rng(4)
    n, memory = 200_000, 0.95
    noise = rng.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / np.sqrt(1 - memory**2)
    for k in range(1, n):
        series[k] = memory * series[k - 1] + noise[k]
    mean, error = mean_and_error(series + 7.0)
    # Of the mean of x_k = a x_(k-1) + noise: 1 / ((1 - a) sqrt(n)).
    assert error == pytest.approx(1 / ((1 - memory) * np.sqrt(n)), rel=0.5)
    assert error > 3 * series.std() / np.sqrt(n)
    assert abs(mean - 7.0) < 4 * error
    assert np.isnan(mean_and_error(series[:15])[1])
    assert np.isnan(mean_and_error(series[:0])[0])


def test_drift_is_a_slope():
    time_ps = np.linspace(0.0, 10.0, 1001)
    wave = 0.004 * np.sin(2 * np.pi * 5 * time_ps)
    drift, fluctuation = energy_drift(time_ps, -4209.0 + 0.018 * time_ps + wave, 9)
    assert drift == pytest.approx(2.0, abs=0.01)
    assert fluctuation == pytest.approx(4.0 / 9 / np.sqrt(2), rel=0.02)
    assert np.isnan(energy_drift(time_ps[:2], wave[:2], 9)[0])


def test_temperature_flag():
    assert [temperature_is_off(mean, 300.0) for mean in (269.0, 271.0, 329.0, 331.0)] == [True, False, False, True]


def reference_store(folder):
    rng = np.random.default_rng(0)
    start = ethanol()
    with StoreWriter(folder / "store.h5", ["dft"]) as writer:
        frames = start.positions + rng.normal(scale=0.02, size=(30, 9, 3))
        writer.append(start.atomic_numbers, frames, {"dft": np.arange(30.0)[::-1].copy()}, group="ethanol")
        other = water()
        writer.append(other.atomic_numbers, other.positions + np.zeros((4, 1, 1)), {"dft": np.zeros(4)}, group="water")
    return folder / "store.h5"


def test_table_of_distances(inputs):
    store = reference_store(inputs)
    run_in(inputs, job="hot", run="net")
    made, output = inputs / "run" / "trajectory.h5", inputs / "run" / "distances.csv"
    write_observables(made, {"store": str(store), "temperature_k": 500}, output)
    table = pd.read_csv(output)
    reference, cold, single = DistanceHistogram(0.05), DistanceHistogram(0.05), []
    with Store(store) as data:
        reference.add(data.read(np.arange(30)).positions.reshape(30, 9, 3))
    with Trajectory(made) as frames:
        n_hot = int(frames.n_valid[2:].sum())
        for index in (0, 1):
            cold.add(frames.positions(index))
            own = DistanceHistogram(0.05)
            own.add(frames.positions(index))
            single.append(distance_error(own, reference))
    assert set(table["temperature"]) == {4.0, 500.0} | ({3000.0} if n_hot else set())
    for _, part in table.groupby(["source", "temperature"]):
        assert (part["density"] * (part["r_high"] - part["r_low"])).sum() == pytest.approx(1.0, abs=1e-6)
    mine = table[(table["source"] == "md") & (table["temperature"] == 4.0)]
    np.testing.assert_allclose(mine["density"][: len(cold)], cold.density(), rtol=1e-6)
    assert set(mine["n_frames"]) == {62}
    assert (set(mine["job"]), set(mine["run"]), set(mine["formula"])) == ({"hot"}, {"net"}, {"C2H6O"})
    assert mine["distance_mae"].iloc[0] == pytest.approx(distance_error(cold, reference), rel=1e-6)
    assert 0 < mine["distance_mae"].iloc[0] < 1.5
    assert mine[["distance_mae_low", "distance_mae_high"]].iloc[0].tolist() == pytest.approx(sorted(single), rel=1e-6)
    theirs = table[table["source"] == "reference"]
    np.testing.assert_allclose(theirs["density"][: len(reference)], reference.density(), rtol=1e-6)
    assert theirs["distance_mae"].isna().all()
    write_observables(made, {"store": str(store), "max_frames": 7}, output)
    assert set(pd.read_csv(output).query("source == 'reference'")["n_frames"]) == {7}
    # A store without this molecule: no reference, no error.
    write_observables(made, {"store": str(store), "rows": [30, 31]}, output)
    assert set(pd.read_csv(output)["source"]) == {"md"}
    assert pd.read_csv(output)["distance_mae"].isna().all()
    for key, value, words in (("bins", 3, "unknown key 'bins'"), ("rows", [99], "rows beyond the 34")):
        with pytest.raises(InputError) as caught:
            write_observables(made, {"store": str(store), key: value}, output)
        assert words in one_line(caught)


def test_segments_place_samples_of_those_alive(tmp_path):
    segments = Segments(tmp_path, np.array([0, 2, 5]))
    segments.append(np.array([0, 1]), np.arange(15.0).reshape(5, 3), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    segments.append(np.array([1]), np.arange(9.0).reshape(3, 3), np.array([5.0]), np.array([6.0]))
    assert len(segments.flush()) == 1
    assert len(segments.flush()) == 1
    segments.append(np.array([1]), np.zeros((3, 3)), np.array([7.0]), np.array([8.0]))
    digests = segments.flush()
    assert len(digests) == 2
    first, second = list(segments)
    assert np.isnan(first["positions"][1, :2]).all()
    assert first["positions"][1, 2:].ravel().tolist() == list(range(9))
    np.testing.assert_array_equal(first["potential_ev"], [[1.0, 2.0], [np.nan, 5.0]])
    np.testing.assert_array_equal(second["kinetic_ev"], [[np.nan, 8.0]])
    assert segments.go_back_to(digests[:1])
    assert len(list(tmp_path.glob("segment-*.npz"))) == 1
    assert not segments.go_back_to(digests)


# Start structures and bad input


def test_start_from_a_store(tmp_path):
    path = str(reference_store(tmp_path))
    assert [m.name for m in read_start(StartConfig(store=path, rows=[3, 31]))] == ["ethanol (row 3)", "water (row 31)"]
    named = read_start(StartConfig(store=path, rows="lowest_energy", groups=("ethanol", "water")))
    assert [m.name for m in named] == ["ethanol (row 29)", "water (row 30)"]
    assert [m.name for m in read_start(StartConfig(store=path, groups=("water",)))] == ["water (row 30)"]
    np.testing.assert_allclose(named[1].positions, water().positions, atol=1e-6)


def test_start_from_arrays(tmp_path):
    frames = np.stack([water().positions + k for k in range(4)])
    np.savez(tmp_path / "md17.npz", z=np.array([8, 1, 1]), R=frames, E=np.zeros(4))
    read = read_start(StartConfig(file=str(tmp_path / "md17.npz"), frames="1::2"))
    assert [m.name for m in read] == ["md17.npz 1", "md17.npz 3"]
    np.testing.assert_array_equal(read[1].positions, frames[3])
    assert len(read_start(StartConfig(file=str(tmp_path / "md17.npz"), frames="-1"))) == 1
    np.savez(tmp_path / "one.npz", atomic_numbers=np.array([8, 1, 1]), positions=frames[0])
    assert len(read_start(StartConfig(file=str(tmp_path / "one.npz")))) == 1


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({}, "either `store` or `file`"),
        ({"store": "a", "file": "b"}, "either `store` or `file`"),
        ({"file": "none.xyz"}, "no such file"),
        ({"file": "bad.xyz"}, "ASE cannot read"),
        ({"file": "good.xyz", "frames": "5"}, "ASE cannot read frames '5'"),
        ({"file": "crystal.extxyz"}, "periodic"),
        ({"file": "twice.xyz"}, "coincide"),
        ({"file": "bad.npz"}, "not a readable npz"),
        ({"file": "other.npz"}, "no array named atomic_numbers, z or nuclear_charges"),
        ({"file": "shapes.npz"}, "positions of shape (2, 3)"),
        ({"file": "good.npz", "frames": "a"}, "expected a number or a slice"),
        ({"file": "good.npz", "frames": "7:"}, "no structures chosen"),
        ({"store": "store.h5"}, "has 2 groups"),
        ({"store": "store.h5", "rows": "best"}, "expected row numbers or one of first, lowest_energy"),
        ({"store": "store.h5", "rows": [34]}, "row numbers below 34"),
        ({"store": "store.h5", "rows": [0.5]}, "row numbers below 34"),
        ({"store": "store.h5", "groups": ["benzene"]}, "no group 'benzene'"),
        ({"store": "store.h5", "rows": "lowest_energy", "groups": ["water"], "fidelity": "mp2"}, "mp2"),
        ({"store": "missing.h5"}, "missing.h5"),
    ],
)
def test_bad_start(tmp_path, monkeypatch, start, words):
    monkeypatch.chdir(tmp_path)
    reference_store(tmp_path)
    (tmp_path / "bad.xyz").write_text("this is no structure\n")
    (tmp_path / "bad.npz").write_text("neither is this\n")
    np.savez("other.npz", x=np.zeros(3))
    np.savez("shapes.npz", z=np.ones(3), R=np.zeros((2, 3)))
    np.savez("good.npz", z=np.array([8, 1, 1]), R=water().positions)
    write("good.xyz", molecule("H2O"))
    write("crystal.extxyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[9, 9, 9], pbc=True))
    write("twice.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 0]]))
    config = MDConfig.from_dict({"potential": "m", "time_ps": 1, "start": start})
    with pytest.raises(InputError) as caught:
        read_start(config.start)
    assert words in one_line(caught)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ensemble": "npt"}, "md.ensemble: expected one of nvt_langevin, nve"),
        ({"precision": "float16"}, "md.precision"),
        ({"fidelity": "mid"}, "md.fidelity"),
        ({"temperature_k": [300, -1]}, "md.temperature_k"),
        ({"temperature_k": []}, "md.temperature_k"),
        ({"temperature_k": "warm"}, "md.temperature_k"),
        ({"time_ps": 0}, "md.time_ps"),
        ({"time_ps": 0.0004}, "one sample"),
        ({"timestep_fs": -0.5}, "md.timestep_fs"),
        ({"friction_per_ps": -1}, "md.friction_per_ps"),
        ({"sample_every_fs": 0.75}, "a multiple of the time step of 0.5 fs"),
        ({"replicas": 0}, "md.replicas"),
        ({"seed": -1}, "md.seed"),
        ({"stability": {"bond_deviation_angstrom": 0}}, "md.stability.bond_deviation_angstrom"),
        ({"stability": {"bonds": 1}}, "unknown key 'bonds'"),
        ({"frictoin_per_ps": 1}, "did you mean 'friction_per_ps'"),
    ],
)
def test_bad_configuration(tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        MDConfig.from_dict(make_config(tmp_path, **changes))
    assert words in one_line(caught)


def test_configuration_survives_a_file(tmp_path):
    config = MDConfig.from_dict(make_config(tmp_path))
    (tmp_path / "md.yaml").write_text(json.dumps(config.to_dict()))
    assert MDConfig.from_yaml(tmp_path / "md.yaml") == config
    assert (config.steps_per_sample, config.n_thermal, config.n_intervals) == (4, 5, 30)
    (tmp_path / "bad.yaml").write_text("potential: [")
    for name, words in (("bad.yaml", "not valid YAML"), ("none.yaml", "cannot read")):
        with pytest.raises(InputError) as caught:
            main_md([str(tmp_path / name)])
        assert words in one_line(caught)


def test_bad_potentials(inputs):
    write(inputs / "gold.xyz", Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]))
    with pytest.raises(InputError) as caught:
        run_in(inputs, start={"file": str(inputs / "gold.xyz")})
    assert "unknown element Au" in one_line(caught)
    with pytest.raises(InputError) as caught:
        run_in(inputs, potential=str(inputs / "none.safetensors"))
    assert "no such file" in one_line(caught)


def test_trajectory_of_another_kind(tmp_path):
    with pytest.raises(InputError) as caught:
        Trajectory(reference_store(tmp_path))
    assert "expected a trajectory" in one_line(caught)


# Speed


def test_speed_is_measured_for_each_network_and_batch(inputs):
    network(seed=8).save(inputs / "other.safetensors", {})
    potentials = {"weak": inputs / "model.safetensors", "other": inputs / "other.safetensors"}
    start = {"file": str(inputs / "start.extxyz")}
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    table = measure_speed(potentials, start, batches=(1, 3), steps=2, rounds=3)
    assert torch.equal(torch.rand(2), expected)
    assert table[["label", "batch"]].to_numpy().tolist() == [["weak", 1], ["weak", 3], ["other", 1], ["other", 3]]
    assert table["n_atoms"].tolist() == [9, 27, 9, 27]
    assert (table["ms_per_step_low"] <= table["ms_per_step"]).all()
    assert (table["ms_per_step"] <= table["ms_per_step_high"]).all()
    np.testing.assert_allclose(table["steps_per_second"] * table["ms_per_step"], 1000.0)
    np.testing.assert_allclose(table["system_steps_per_second"], table["steps_per_second"] * table["batch"])
    assert set(table["precision"]) == {"float32"}
    write_speed(inputs / "speed.csv", potentials, start, {"batches": [2], "steps": 1, "rounds": 1}, "cpu", 1)
    written = pd.read_csv(inputs / "speed.csv")
    assert written["label"].tolist() == ["weak", "other"]
    assert list(written.columns) == list(table.columns)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"potentials": {}}, "speed.potentials"),
        ({"batches": (0,)}, "speed.batches"),
        ({"steps": 0}, "speed.steps"),
        ({"rounds": 0}, "speed.rounds"),
        ({"potentials": {"gone": "none.safetensors"}}, "speed: gone: none.safetensors: no such file"),
        ({"start": {"fil": "x"}}, "speed.start: unknown key 'fil'"),
    ],
)
def test_bad_speed(inputs, arguments, words):
    usual = {"potentials": {"a": inputs / "model.safetensors"}, "start": {"file": str(inputs / "start.extxyz")}}
    with pytest.raises(InputError) as caught:
        measure_speed(**{**usual, **arguments})
    assert words in one_line(caught)
    with pytest.raises(InputError) as caught:
        write_speed(inputs / "speed.csv", usual["potentials"], usual["start"], {"batch": [1]}, "cpu")
    assert "unknown key 'batch'" in one_line(caught)
