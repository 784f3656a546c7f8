"""Robustness of dynamics: what ends a trajectory and what is noted, failures, frames, survival, errors on frames."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

from mlip_studies.artifacts import sha256_of, write_text
from mlip_studies.errors import InputError
from mlip_studies.md.frames import read_frames, sample_frames, uniform_samples
from mlip_studies.md.potentials import open_potential
from mlip_studies.md.robustness import (
    RobustnessConfig,
    _sustained,
    drift_and_error,
    running_mean,
    temperature_limit,
    write_robustness,
)
from mlip_studies.md.start import StartConfig, read_start
from mlip_studies.md.survival import failure_rate, kaplan_meier
from mlip_studies.md.trajectory import Segments, Trajectory, write_trajectory
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.calculators.ase import MLIPCalculator
from mlip_studies.models.potential import Potential
from mlip_studies.models.pretrained import PretrainedSpec, unavailable, weights_sha256
from mlip_studies.models.registry import build_model
from mlip_studies.studies.spot_errors import isolated_energies, write_spot_errors
from mlip_studies.units import BOLTZMANN_EV_PER_K

pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed", exc_type=ImportError)

from mlip_studies.md import engine
from mlip_studies.md.config import MDConfig, MDOutputs
from mlip_studies.md.dynamics import Dynamics, Network
from mlip_studies.md.engine import run_md
from mlip_studies.md.stability import StabilityConfig

OPTIONS = {"n_features": 12, "n_layers": 1, "n_heads": 2, "n_radial": 8}
ATOMS_EV = {1: -13.6, 6: -1027.6, 8: -2039.7}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def network(scale=1.0, seed=7, elements=(1, 6, 8)):
    torch.manual_seed(seed)
    model = build_model("so3krates", OPTIONS)
    return Potential(model, "so3krates", OPTIONS, {"high": [-10.0] * len(elements)}, scale=scale, elements=elements)


# Trajectories that are made up


class Film:
    """A made-up trajectory file: frames of several molecules, 10 fs apart."""

    def __init__(self, folder, starts, ensemble="nvt_langevin"):
        self.folder, self.starts, self.ensemble = folder, starts, ensemble
        self.frames, self.potential, self.kinetic, self.ends = {}, {}, {}, {}
        self.kelvin = [300.0] * len(starts)

    def write(self, n_samples, start_ev=-50.0):
        ptr = np.concatenate([[0], np.cumsum([len(each) for each in self.starts])])
        segments = Segments(self.folder, ptr)
        valid = [len(self.frames[index]) for index in range(len(self.starts))]
        degrees = [3 * len(each) - (3 if self.ensemble == "nve" else 0) for each in self.starts]
        for k in range(n_samples):
            alive = np.array([index for index, n in enumerate(valid) if k < n])
            if not len(alive):
                break
            usual = [0.5 * degrees[i] * BOLTZMANN_EV_PER_K * self.kelvin[i] for i in alive]
            segments.append(
                alive,
                np.concatenate([self.frames[index][k] for index in alive]),
                np.array([self.potential.get(index, np.full(n_samples, start_ev))[k] for index in alive]),
                np.array([self.kinetic[i][k] if i in self.kinetic else e for i, e in zip(alive, usual, strict=True)]),
            )
        segments.flush()
        n = len(self.starts)
        tables = {
            "time_ps": np.arange(n_samples) * 0.01,
            "atomic_numbers": np.concatenate([each.numbers for each in self.starts]),
            "ptr": ptr,
            "start": np.arange(n),
            "temperature_k": np.array(self.kelvin),
            "replica": np.arange(n),
            "n_valid": np.array(valid),
            "start_positions": np.concatenate([each.positions for each in self.starts]),
            "start_potential_ev": np.full(n, start_ev),
        }
        attributes = {
            "config": {"job": "hot", "run": "net", "ensemble": self.ensemble},
            "names": [each.info.get("name", "x") for each in self.starts],
            "ends": [[index, end] for index, end in self.ends.items()],
        }
        path = self.folder / "trajectory.h5"
        write_trajectory(path, segments, n_samples, tables, attributes)
        return path


def named(name, formula):
    atoms = molecule(formula)
    atoms.info["name"] = name
    return atoms


def analyse(path, **limits):
    folder = path.parent
    write_robustness(path, folder / "robustness.csv", folder / "topology.csv", limits)
    table = pd.read_csv(folder / "robustness.csv", keep_default_na=False, na_values={"failure_ps": [""]})
    return table, pd.read_csv(folder / "topology.csv")


def stretched(atoms, atom, other, lengths):
    """Frames in which an atom moves along its bond with another one."""
    direction = atoms.positions[atom] - atoms.positions[other]
    direction /= np.linalg.norm(direction)
    frames = np.repeat(atoms.positions[None], len(lengths), axis=0)
    frames[:, atom] = atoms.positions[other] + direction * np.asarray(lengths)[:, None]
    return frames


@pytest.mark.parametrize(
    ("lengths", "failure", "events", "fragments"),
    [
        # O-H of 0.97 Å: 1.3 R is 1.26 Å and 1.5 times the length 1.45 Å.
        ([0.97, 1.40, 1.44, 1.40, 0.97, 0.97], None, 0, 1),
        ([0.97, 1.60, 0.97, 1.60, 0.97, 0.97], None, 0, 1),
        ([0.97, 0.97, 1.60, 1.60, 0.97, 0.97], 0.02, 1, 1),
        # Between the two limits it stays broken.
        ([0.97, 1.60, 1.40, 1.60, 1.30, 1.60], 0.01, 1, 2),
        ([0.97, 0.97, 0.97, 0.97, 0.97, 1.60], None, 0, 2),
        ([0.97, 0.97, 0.97, 0.97, 1.60, 3.00], 0.04, 1, 2),
    ],
)
def test_a_bond_breaks_when_it_lasts(tmp_path, lengths, failure, events, fragments):
    film = Film(tmp_path, [named("water", "H2O")])
    film.frames[0] = stretched(film.starts[0], 1, 0, lengths)
    table, topology = analyse(film.write(6))
    line = table.iloc[0]
    assert (line["name"], line["formula"], line["n_atoms"], line["replica"]) == ("water", "H2O", 3, 0)
    assert bool(line["failed"]) is (failure is not None)
    assert line["n_events"] == events
    assert line["n_fragments_end"] == fragments
    if failure is None:
        assert np.isnan(line["failure_ps"])
        assert line["failure_kind"] == ""
    else:
        # The hydrogen is alone as long as its bond is broken: the fragment says more than the bond.
        assert line["failure_ps"] == pytest.approx(failure)
        assert line["failure_kind"] == "fragments"
        assert float(line["first_topology_ps"]) == pytest.approx(failure)
        assert line["detail"] == "2 fragments, 1 at the start"
    expected = [abs(length - 0.969) for length in lengths]
    assert topology["largest_bond_change_angstrom"].tolist() == pytest.approx(expected, abs=2e-3)
    assert topology["n_formed"].tolist() == [0] * 6


def test_a_bond_may_be_formed_without_fragments(tmp_path):
    # Two hydrogen molecules, whose fragments do not become more when they meet.
    start = Atoms("H4", [[0, 0, 0], [0, 0, 0.74], [2.0, 0, 0], [2.0, 0, 0.74]])
    start.info["name"] = "hydrogen"
    film = Film(tmp_path, [start])
    frames = np.repeat(start.positions[None], 8, axis=0)
    # R is 0.62 Å: formed below 0.713 Å, gone above 0.806 Å; tilted, so that only two of the atoms meet.
    for k, distance in enumerate([2.0, 0.75, 0.70, 0.75, 0.78, 0.85, 0.70, 2.0]):
        frames[k, 2:, 0] = [distance, distance + 0.74]
        frames[k, 3, 2] = 0.0
    film.frames[0] = frames
    table, topology = analyse(film.write(8))
    assert topology["n_formed"].tolist() == [0, 0, 1, 1, 1, 0, 1, 0]
    assert topology["n_fragments"].tolist() == [2] * 8
    line = table.iloc[0]
    assert (line["failure_kind"], line["detail"], line["n_events"]) == ("topology", "H0-H2 formed", 1)
    assert line["failure_ps"] == pytest.approx(0.02)


def test_events_are_counted_once_per_window(tmp_path):
    film = Film(tmp_path, [named("water", "H2O")])
    pattern = [0.97, 1.6, 1.6, 0.97]
    film.frames[0] = stretched(film.starts[0], 1, 0, pattern * 20)
    path = film.write(80)
    # A bond that breaks every 40 fs: windows of 100 fs hold three.
    assert analyse(path)[0]["n_events"].tolist() == [7]
    assert analyse(path, event_window_fs=1.0)[0]["n_events"].tolist() == [20]
    assert analyse(path, sustained_samples=3)[0]["n_events"].tolist() == [0]
    assert len(analyse(path, topology_lines=20)[1]) == 20


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    film = Film(tmp_path, [named("water", "H2O"), named("ethanol", "CH3CH2OH")])
    for index, start in enumerate(film.starts):
        steps = rng.normal(scale=0.08, size=(300, len(start), 3)).cumsum(axis=0)
        film.frames[index] = start.positions + 0.4 * steps
    path = film.write(300)
    whole = [part.to_csv() for part in analyse(path)]
    assert "fragments" in whole[0]
    monkeypatch.setattr("mlip_studies.md.robustness._BLOCK_BYTES", 24 * 36 * 7)
    assert [part.to_csv() for part in analyse(path)] == whole


def test_runaway_energy_and_temperature(tmp_path):
    film = Film(tmp_path, [named(name, "CH3CH2OH") for name in ("deep", "high", "once", "hot", "flash")])
    for index, start in enumerate(film.starts):
        film.frames[index] = np.repeat(start.positions[None], 20, axis=0)
    levels = np.full((3, 20), -50.0)
    levels[0, 8:] -= 9 * 0.26
    levels[1, 5:] += 9 * 1.01
    levels[2, 7] -= 100.0
    film.potential = dict(enumerate(levels))
    usual = 0.5 * 27 * BOLTZMANN_EV_PER_K * 300.0
    film.kinetic = {3: np.full(20, usual), 4: np.full(20, usual)}
    film.kinetic[3][6:] = 4.0 * usual
    film.kinetic[4][6] = 8.0 * usual
    table, _ = analyse(film.write(20))
    assert table["failure_kind"].tolist() == ["energy", "energy", "", "temperature", ""]
    # The mean of the last five, 1 + 3 k / 5, is above the limit for 27 degrees of freedom from the fifth hot one on.
    assert 1 + 3 * 4 / 5 < temperature_limit(27) < 4.0
    assert table["failure_ps"].tolist()[:2] == pytest.approx([0.08, 0.05])
    assert table["failure_ps"][3] == pytest.approx(0.10)
    assert "-2.34 eV" in table["detail"][0]
    assert table["max_potential_above_start_ev"][1] == pytest.approx(9.09)
    assert table["max_temperature_k"][4] == pytest.approx(300.0 * (4 + 8) / 5)


def test_temperature_limit_of_few_atoms_is_that_of_chance():
    rng = np.random.default_rng(0)
    assert temperature_limit(300) == 3.0
    loose = RobustnessConfig(temperature_tail=1e-3, temperature_factor=1.0)
    for degrees in (6, 9, 30):
        chance = rng.chisquare(degrees, 200_000) / degrees
        assert np.mean(chance > temperature_limit(degrees, loose)) == pytest.approx(1e-3, rel=0.3)
        assert temperature_limit(degrees) > temperature_limit(degrees, loose)


def test_what_ended_early_failed(tmp_path):
    starts = [named(name, "H2O") for name in ("a", "b", "c", "d")]
    film = Film(tmp_path, starts)
    still = np.repeat(starts[0].positions[None], 10, axis=0)
    film.frames = {0: still[:4], 1: still[:0], 2: still, 3: still.copy()}
    film.frames[3][6, 1] = film.frames[3][6, 2] + 0.1
    film.ends = {
        0: {"time_ps": 0.04, "reason": "not_finite", "detail": "not numbers"},
        1: {"time_ps": -0.02, "reason": "broken_bond", "detail": "long"},
    }
    path = film.write(10)
    table, topology = analyse(path)
    assert table["failure_kind"].tolist() == ["not_finite", "topology", "", "collision"]
    assert table["failure_ps"].fillna(-1).tolist() == pytest.approx([0.04, 0.0, -1, 0.06])
    assert table["n_missing"].tolist() == [6, 10, 0, 0]
    assert table["observed_ps"].tolist() == pytest.approx([0.04, 0.0, 0.09, 0.09])
    assert table["detail"].tolist() == ["not numbers", "long", "", "two atoms closer than 0.3 Å"]
    assert topology.groupby("trajectory").size().to_dict() == {0: 4, 2: 10, 3: 10}
    found = sample_frames(path, 3, tmp_path / "frames.npz", tmp_path / "robustness.csv")
    assert found == {"n_frames": 7, "n_missing": 5}
    frames = read_frames(tmp_path / "frames.npz")
    assert frames.n_missing.tolist() == [2, 3, 0, 0]
    assert frames.trajectory.tolist() == [0, 2, 2, 2, 3, 3, 3]
    assert frames.time_ps.tolist() == pytest.approx([0.03, 0.03, 0.06, 0.09, 0.03, 0.06, 0.09])
    assert frames.alive.tolist() == [True, True, True, True, True, False, False]
    assert frames.name.tolist() == ["a", "c", "c", "c", "d", "d", "d"]
    np.testing.assert_allclose(frames.positions[:3], still[3], atol=1e-6)
    assert frames.positions.dtype == np.float64
    assert frames.potential_ev.tolist() == [-50.0] * 7


def test_drift_and_its_error():
    rng = np.random.default_rng(1)
    time = np.arange(4000) * 0.01
    pulls = []
    for _ in range(60):
        noise = np.convolve(rng.normal(size=4100), np.ones(40) / 40, "valid")[:4000]
        slope, error = drift_and_error(time, -4000.0 + 9 * 1e-3 * (0.5 * time + noise), 9)
        pulls.append((slope - 0.5) / error)
    # Student's t with 14 degrees of freedom.
    assert np.std(pulls) == pytest.approx(1.08, abs=0.3)
    assert np.isnan(drift_and_error(time[:60], time[:60], 9)[0])


def test_nve_has_a_drift_before_its_failure(tmp_path):
    film = Film(tmp_path, [named("water", "H2O"), named("water", "H2O")], ensemble="nve")
    still = np.repeat(film.starts[0].positions[None], 200, axis=0)
    film.frames = {0: still, 1: stretched(film.starts[0], 1, 0, [0.97] * 100 + [4.0] * 100)}
    film.potential = {index: -50.0 + 3e-3 * 0.01 * np.arange(200) for index in (0, 1)}
    film.potential[1][100:] -= 40.0
    table, _ = analyse(film.write(200))
    assert table["energy_drift_mev_per_atom_ps"].astype(float).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert table["failure_ps"][1] == pytest.approx(1.0)
    film.ensemble = "nvt_langevin"
    assert analyse(film.write(200))[0]["energy_drift_mev_per_atom_ps"].tolist() == ["", ""]


def test_running_mean_and_sustained():
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]
    assert running_mean(np.zeros(0), 3).tolist() == []
    flags = np.array([True, False, True, True, True])
    assert [_sustained(flags, n) for n in (1, 2, 3, 4)] == [0, 2, 2, None]
    assert _sustained(flags[:1], 2) is None


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"bond_factor": 0}, "robustness.bond_factor: expected more than 0"),
        ({"formed_factor": 1.4}, "robustness.formed_factor: expected less than"),
        ({"temperature_tail": 1.0}, "robustness.temperature_tail"),
        ({"bond": 1.0}, "unknown key 'bond'"),
    ],
)
def test_bad_limits(tmp_path, limits, words):
    film = Film(tmp_path, [named("water", "H2O")])
    film.frames[0] = np.repeat(film.starts[0].positions[None], 3, axis=0)
    with pytest.raises(InputError) as caught:
        analyse(film.write(3), **limits)
    assert words in one_line(caught)


# Frames


def test_uniform_samples():
    assert uniform_samples(200, 4).tolist() == [50, 100, 150, 200]
    assert uniform_samples(100_000, 72)[[0, 35, 71]].tolist() == [1389, 50_000, 100_000]
    assert uniform_samples(3, 3).tolist() == [1, 2, 3]
    for n in (0, 4):
        with pytest.raises(InputError) as caught:
            uniform_samples(3, n)
        assert "expected 1 to 3" in one_line(caught)


def test_frames_of_other_tables(tmp_path):
    film = Film(tmp_path, [named("water", "H2O")])
    film.frames[0] = np.repeat(film.starts[0].positions[None], 3, axis=0)
    path = film.write(3)
    write_text(tmp_path / "two.csv", "trajectory,failed,failure_ps\n0,False,\n1,False,\n")
    write_text(tmp_path / "other.csv", "a\n1\n")
    for name, words in (("two.csv", "2 trajectories; expected the 1"), ("other.csv", "not a table of failures")):
        with pytest.raises(InputError) as caught:
            sample_frames(path, 2, tmp_path / "frames.npz", tmp_path / name)
        assert words in one_line(caught)
    with pytest.raises(InputError) as caught:
        read_frames(path)
    assert "not a file of frames" in one_line(caught)


# Survival


def test_kaplan_meier_of_known_remissions():
    # Remission of 21 patients with 6-mercaptopurine, E. J. Freireich et al., Blood 21, 699 (1963).
    times = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    failed = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    t, survival, low, high = kaplan_meier(times, failed)
    assert t.tolist() == [0, 6, 7, 10, 13, 16, 22, 23, 35]
    expected = [1, 0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482, 0.4482]
    assert survival == pytest.approx(expected, abs=5e-5)
    assert low[1:8] == pytest.approx([0.6197, 0.5631, 0.5032, 0.4316, 0.3675, 0.2678, 0.1881], abs=1e-4)
    assert high[1:8] == pytest.approx([0.9516, 0.9228, 0.8894, 0.8491, 0.8049, 0.7468, 0.6801], abs=1e-4)
    assert np.isnan(low[0])


def test_kaplan_meier_at_the_edges():
    t, survival, low, _ = kaplan_meier([5.0, 5.0], [False, False])
    assert (t.tolist(), survival.tolist()) == ([0.0, 5.0], [1.0, 1.0])
    assert np.isnan(low).all()
    t, survival, low, high = kaplan_meier([0.0, 2.0], [True, True])
    assert (t.tolist(), survival.tolist()) == ([0.0, 2.0], [0.5, 0.0])
    assert 0 < low[0] < 0.5 < high[0] < 1
    assert np.isnan(high[1])
    for times in ([], [-1.0], [np.nan]):
        with pytest.raises(InputError) as caught:
            kaplan_meier(times, [True] * len(times))
        one_line(caught)


def test_rate_of_failures_has_an_exact_interval():
    # Limits of Poisson means: 0 -> 3.689, 10 -> 4.795 and 18.39.
    assert failure_rate([400.0, 600.0], [False, False]) == pytest.approx((0.0, 0.0, 3.6889), abs=1e-4)
    assert failure_rate([1000.0] * 2, [4, 6]) == pytest.approx((5.0, 4.7954 / 2, 18.3904 / 2), abs=1e-4)
    assert np.isnan(failure_rate([0.0], [True])).all()
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        life = rng.exponential(500.0, 12)
        _, low, high = failure_rate(np.minimum(life, 300.0), life < 300.0)
        inside += low <= 2.0 <= high
    assert inside >= 0.93 * 300


# Errors on frames


class Constant(AtomisticModel):
    """Springs between all pairs, which never fails."""

    elements, cutoff = (1, 6, 8), None

    def __init__(self):
        super().__init__()
        self.register_buffer("stiffness", torch.tensor(0.3, dtype=torch.float64))

    def forward(self, batch):
        n = batch.n_pairs
        distance = batch.edge_vectors()[:n].norm(dim=1)
        energy = 0.5 * self.stiffness * distance.square()
        return energy.new_zeros(batch.n_graphs).index_add(0, batch.graph_index[batch.receivers[:n]], energy)


def labelled(folder, shift=0.25):
    """Frames of water and ethanol, and labels that are the network's own energies and forces, moved by a bit."""
    film = Film(folder, [named("water", "H2O"), named("ethanol", "CH3CH2OH")])
    rng = np.random.default_rng(5)
    for index, start in enumerate(film.starts):
        film.frames[index] = start.positions + rng.normal(scale=0.03, size=(9, len(start), 3))
    path = film.write(9)
    sample_frames(path, 4, folder / "frames.npz")
    frames = read_frames(folder / "frames.npz")
    potential = network()
    potential.save(folder / "model.safetensors", {})
    energy, forces = np.zeros(8), np.zeros((len(frames.atomic_numbers), 3))
    for k in range(8):
        atoms = slice(*frames.ptr[k : k + 2])
        image = Atoms(frames.atomic_numbers[atoms], frames.positions[atoms])
        image.calc = MLIPCalculator(folder / "model.safetensors")
        # The labels have other isolated atoms than the network: no error of atomization energies.
        level = sum(ATOMS_EV[z] + 10.0 for z in image.numbers)
        energy[k] = image.get_potential_energy() + level - shift
        forces[atoms] = image.get_forces() + 0.1
    energy[5], forces[frames.ptr[5] : frames.ptr[6]] = np.nan, np.nan
    np.savez(
        folder / "labels.npz",
        energy_ev=energy,
        forces_ev_per_angstrom=forces,
        atomic_numbers_isolated=np.array(list(ATOMS_EV)),
        energies_isolated_ev=np.array(list(ATOMS_EV.values())),
        frames_sha256=np.array(sha256_of(folder / "frames.npz")),
    )
    status = ["converged"] * 5 + ["unconverged"] + ["converged_fallback"] * 2
    strategy = ["diis"] * 5 + ["none"] + ["newton"] * 2
    table = pd.DataFrame({"frame": range(8), "status": status, "strategy": strategy})
    write_text(folder / "labels.csv", table.to_csv(index=False))
    return frames, forces


def judge(folder, **changes):
    options = {
        "frames": folder / "frames.npz",
        "labels_npz": folder / "labels.npz",
        "labels_csv": folder / "labels.csv",
        "potential": folder / "model.safetensors",
        "output": folder / "judged.csv",
        "judge": "net",
        "atomic_reference": {"H": -10.0, "C": -10.0, 8: -10.0},
        **changes,
    }
    write_spot_errors(**options)
    return pd.read_csv(options["output"])


def test_errors_on_frames(tmp_path, monkeypatch):
    frames, forces = labelled(tmp_path)
    table = judge(tmp_path, components=tmp_path / "components.csv")
    assert table["frame"].tolist() == list(range(8))
    known = table["status"] != "unconverged"
    assert table["ae_error_ev"][known].tolist() == pytest.approx([0.25] * 7, abs=1e-8)
    assert table["energy_predicted_ev"].notna().all()
    empty = ["energy_dft_ev", "ae_dft_ev", "ae_error_ev", "force_mae_ev_per_angstrom", "force_norm_dft"]
    assert table.loc[5, empty].isna().all()
    for column in ("force_mae", "force_rmse", "force_max_error"):
        assert table[f"{column}_ev_per_angstrom"][known].tolist() == pytest.approx([0.1] * 7, abs=1e-8)
    norm = np.linalg.norm(forces[frames.ptr[0] : frames.ptr[1]], axis=1).mean()
    assert table["force_norm_dft"][0] == pytest.approx(norm)
    np.testing.assert_allclose(
        (table["energy_predicted_ev"] - table["ae_predicted_ev"]).to_numpy(), -10.0 * table["n_atoms"].to_numpy()
    )
    parts = pd.read_csv(tmp_path / "components.csv")
    assert len(parts) == 3 * (4 * 3 + 3 * 9)
    assert set(parts["frame"]) == {0, 1, 2, 3, 4, 6, 7}
    np.testing.assert_allclose(parts["force_dft"] - parts["force_predicted"], 0.1, atol=1e-6)
    line = parts[(parts["frame"] == 6) & (parts["atom"] == 2) & (parts["component"] == "y")].iloc[0]
    assert (line["name"], line["element"]) == ("ethanol", "O")
    assert line["force_dft"] == pytest.approx(forces[frames.ptr[6] + 2, 1], rel=1e-6)
    content = {"fidelities": {"pbe0": {"elements": [1, 6, 8], "coefficients_ev": [-10.0] * 3}}}
    write_text(tmp_path / "atoms.json", json.dumps(content))
    pd.testing.assert_frame_equal(judge(tmp_path, atomic_reference=tmp_path / "atoms.json"), table)
    content["fidelities"]["low"] = content["fidelities"]["pbe0"]
    write_text(tmp_path / "atoms.json", json.dumps(content))
    with pytest.raises(InputError) as caught:
        judge(tmp_path, atomic_reference=tmp_path / "atoms.json")
    assert "atoms of 2 fidelities" in one_line(caught)
    # Without a reference of its own, the network has the labels' atoms.
    plain = judge(tmp_path, atomic_reference=None)
    np.testing.assert_allclose(plain["ae_error_ev"][:4], 0.25 - (ATOMS_EV[8] + 2 * ATOMS_EV[1] + 30.0))
    # Small batches give the same.
    monkeypatch.setattr("mlip_studies.studies.spot_errors._BATCH_PAIRS", 5)
    pd.testing.assert_frame_equal(judge(tmp_path), table, rtol=1e-9)
    monkeypatch.setattr("mlip_studies.studies.spot_errors.component_table.__defaults__", (20,))
    judge(tmp_path, components=tmp_path / "components.csv")
    first = (tmp_path / "components.csv").read_text()
    judge(tmp_path, components=tmp_path / "components.csv")
    assert (tmp_path / "components.csv").read_text() == first
    assert first.count("\n") == 21


def test_atoms_at_one_place_have_no_prediction(tmp_path):
    film = Film(tmp_path, [named("water", "H2O")])
    film.frames[0] = np.repeat(film.starts[0].positions[None], 3, axis=0)
    film.frames[0][1, 1] = film.frames[0][1, 2]
    sample_frames(film.write(3), 2, tmp_path / "frames.npz")
    network().save(tmp_path / "model.safetensors", {})
    np.savez(
        tmp_path / "labels.npz",
        energy_ev=np.full(2, np.nan),
        forces_ev_per_angstrom=np.full((6, 3), np.nan),
        atomic_numbers_isolated=np.array([1, 8]),
        energies_isolated_ev=np.array([-13.6, -2039.7]),
        frames_sha256=np.array(sha256_of(tmp_path / "frames.npz")),
    )
    write_text(tmp_path / "labels.csv", "frame,status,strategy\n0,bad_geometry,none\n1,timeout,none\n")
    table = judge(tmp_path)
    assert table["energy_predicted_ev"].isna().tolist() == [True, False]


def test_labels_of_other_frames(tmp_path):
    labelled(tmp_path)
    film = Film(tmp_path, [named("water", "H2O")])
    film.frames[0] = np.repeat(film.starts[0].positions[None], 5, axis=0)
    sample_frames(film.write(5), 4, tmp_path / "other.npz")
    with pytest.raises(InputError) as caught:
        judge(tmp_path, frames=tmp_path / "other.npz")
    assert "labels of other frames" in one_line(caught)
    with pytest.raises(InputError) as caught:
        judge(tmp_path, atomic_reference={"H": -10.0})
    assert "no energy of an isolated C" in one_line(caught) or "isolated O" in one_line(caught)
    with pytest.raises(InputError) as caught:
        isolated_energies({"Xx": 1.0}, {})
    assert "no such chemical symbol" in one_line(caught)
    (tmp_path / "labels.csv").write_text("frame,status,strategy\n0,converged,diis\n")
    os.remove(tmp_path / ".sha256" / "labels.csv")
    with pytest.raises(InputError) as caught:
        judge(tmp_path)
    assert "expected one for each of 8 frames" in one_line(caught)
    network(elements=(1, 6)).save(tmp_path / "model.safetensors", {})
    with pytest.raises(InputError) as caught:
        judge(tmp_path)
    one_line(caught)


# Dynamics that go on


@pytest.fixture
def inputs(tmp_path):
    """A network whose forces are weak, and ethanol: cold atoms stay where they are for a while, hot ones fly apart."""
    network(scale=0.05).save(tmp_path / "model.safetensors", {})
    write(tmp_path / "start.extxyz", [named("ethanol", "CH3CH2OH")])
    return tmp_path


def run_in(folder, name="run", **changes):
    config = {
        "potential": str(folder / "model.safetensors"),
        "start": {"file": str(folder / "start.extxyz"), "frames": ":"},
        "time_ps": 0.08,
        "thermalise_ps": 0.01,
        "temperature_k": [4.0, 3000.0],
        "replicas": 2,
        "sample_every_fs": 2.0,
        "seed": 11,
        "stability": {"ending": ["not_finite"]},
        "job": "thermal",
        "run": "net",
        **changes,
    }
    outputs = MDOutputs.in_folder(folder / name)
    return run_md(MDConfig.from_dict(config), outputs, folder / f"{name}-state", "cpu", 1)


def test_broken_molecules_go_on(inputs, capsys):
    summary = run_in(inputs)
    assert [line["alive"] for line in summary["replicas"]] == [True] * 4
    assert [line["survived_ps"] for line in summary["replicas"]] == [0.08] * 4
    assert [line["name"] for line in summary["replicas"]] == ["ethanol"] * 4
    assert [line["first_reason"] for line in summary["replicas"]] == ["", "", "broken_bond", "broken_bond"]
    assert "it goes on" in capsys.readouterr().out
    # As when it ends there: up to that time both are the same dynamics.
    ending = run_in(inputs, "ending", stability={})
    assert [line["ended_ps"] for line in ending["replicas"]][2:] != [None, None]
    firsts = [line["ended_ps"] for line in ending["replicas"] if line["ended_ps"] is not None]
    assert min(firsts) == min(line["first_ps"] for line in summary["replicas"] if line["first_ps"] is not None)
    for line in ending["replicas"]:
        assert (line["first_ps"], line["first_reason"]) == (line["ended_ps"], line["reason"])
    with Trajectory(inputs / "run" / "trajectory.h5") as file:
        assert file.n_valid.tolist() == [41] * 4
        assert file.names == ["ethanol"] * 4
        np.testing.assert_array_equal(file.start_positions(1), molecule("CH3CH2OH").positions)
        atoms = molecule("CH3CH2OH")
        atoms.calc = MLIPCalculator(inputs / "model.safetensors")
        assert file.start_potential_ev(3) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    table, topology = analyse(inputs / "run" / "trajectory.h5")
    assert table["failed"].tolist() == [False, False, True, True]
    assert set(table["failure_kind"][2:]) <= {"fragments", "topology"}
    assert table["replica"].tolist() == [0, 1, 0, 1]
    assert topology[topology["trajectory"] == 3]["n_broken"].iloc[-1] > 0
    found = sample_frames(inputs / "run" / "trajectory.h5", 4, inputs / "frames.npz", inputs / "run" / "robustness.csv")
    assert found == {"n_frames": 16, "n_missing": 0}
    frames = read_frames(inputs / "frames.npz")
    assert frames.alive[:8].all()
    assert not frames.alive[[11, 15]].any()


def test_notes_survive_an_interruption(inputs, monkeypatch):
    run_in(inputs, "whole")
    advance, count = Dynamics.advance, [0]

    def failing(self, n_steps):
        count[0] += 1
        if count[0] == 36:
            raise RuntimeError("power cut")
        advance(self, n_steps)

    with monkeypatch.context() as patched:
        patched.setattr(Dynamics, "advance", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(inputs, "cut", checkpoint_seconds=1e-6)
    summary = run_in(inputs, "cut", checkpoint_seconds=1e-6)
    whole = json.loads((inputs / "whole" / "summary.json").read_text())
    assert summary["resumed_from_interval"] == 35
    assert summary["noted"] == whole["noted"]
    assert min(note["time_ps"] for note in whole["noted"]) < 0.06
    assert (inputs / "cut" / "samples.csv").read_bytes() == (inputs / "whole" / "samples.csv").read_bytes()
    with Trajectory(inputs / "cut" / "trajectory.h5") as a, Trajectory(inputs / "whole" / "trajectory.h5") as b:
        assert [a.start_potential_ev(k) for k in range(4)] == [b.start_potential_ev(k) for k in range(4)]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_cannot_be_asked_ends_anyway(precision):
    water = read_start_of(named("water", "H2O"))
    limits = StabilityConfig(ending=("not_finite",))
    spring = Network(Potential.of_total_energies(Constant(), "springs"), precision=precision)
    dynamics = Dynamics(spring, [water] * 5, [300.0] * 5, 0.5, limits)
    dynamics.draw_momenta(0)
    dynamics.evaluate()
    dynamics.use("nvt_langevin", 1.0)
    state = dynamics.state
    state.positions[4] = state.positions[5] + 0.1
    state.positions[7] = state.positions[8] + 1e-4
    state.positions[9:12] *= 1e39
    state.momenta[12:15] *= 1e4
    seen = dynamics.observe()
    too_far = 0 if precision == "float32" else -1
    assert seen.reason.tolist() == [-1, -1, 1, too_far, -1]
    # Bits of: not finite, collision, broken bond, temperature.
    assert [int(held) & 15 for held in seen.held][:3] == [0, 2, 2]
    assert seen.held[4] == 8
    dynamics.keep(seen.reason < 0)
    dynamics.advance(2)
    assert len(dynamics.observe().reason) == 4 - (precision == "float32")


def read_start_of(atoms):
    from mlip_studies.md.start import Molecule

    return Molecule(atoms.numbers.astype(np.int64), atoms.positions, atoms.info["name"])


def test_names_of_start_structures(tmp_path):
    write(tmp_path / "start.xyz", [named("my water", "H2O"), molecule("CH4")], format="extxyz")
    config = StartConfig(file=str(tmp_path / "start.xyz"), frames=":")
    assert [each.name for each in read_start(config)] == ["my water", "start.xyz 1"]


@pytest.mark.parametrize(
    ("stability", "words"),
    [
        ({"ending": []}, "md.stability.ending: expected not_finite and any of collision"),
        ({"ending": ["broken_bond"]}, "md.stability.ending"),
        ({"ending": ["not_finite", "bonds"]}, "md.stability.ending"),
        ({"ending": "not_finite"}, "expected a list"),
    ],
)
def test_bad_endings(inputs, stability, words):
    with pytest.raises(InputError) as caught:
        run_in(inputs, stability=stability)
    assert words in one_line(caught)


class Broken(AtomisticModel):
    """A network without a number for oxygen."""

    elements, cutoff = (1, 6, 8), None

    def __init__(self):
        super().__init__()
        self.register_buffer("value", torch.zeros(9, dtype=torch.float64))
        self.value[8] = float("nan")

    def forward(self, batch):
        energy = self.value[batch.atomic_numbers].double() + 0.0 * batch.positions.double().sum(dim=1)
        return batch.sum_atoms(energy)


def test_bad_starts_are_named(inputs, monkeypatch):
    write(inputs / "start.extxyz", [named("ethanol", "CH3CH2OH"), named("silane", "SiH4")])
    with pytest.raises(InputError) as caught:
        run_in(inputs)
    assert "silane" in one_line(caught)
    assert "unknown element Si" in one_line(caught)
    near = named("near", "H2O")
    near.positions[1] = near.positions[2] + [0.2, 0.0, 0.0]
    write(inputs / "start.extxyz", [named("ethanol", "CH3CH2OH"), near])
    with pytest.raises(InputError) as caught:
        run_in(inputs)
    assert "molecule (near): atoms 1 and 2 coincide (0.2 Å apart); expected at least 0.3 Å" in one_line(caught)
    write(inputs / "start.extxyz", [named("methane", "CH4"), named("ethanol", "CH3CH2OH")])
    broken = Network(Potential.of_total_energies(Broken(), "broken"))
    monkeypatch.setattr(engine, "Network", lambda *_: broken)
    with pytest.raises(InputError) as caught:
        run_in(inputs)
    assert "ethanol (C2H6O) are not finite numbers" in one_line(caught)


# Published potentials


@pytest.mark.parametrize(
    ("potential", "words"),
    [
        (None, "md.potential: expected a path"),
        ("", "md.potential: expected a path"),
        ({"kind": "ani"}, "a mapping without 'pretrained'"),
        ({"pretrained": "ani2x", "kind": "ani"}, "key 'path' is missing"),
        ({"pretrained": "ani2x", "kind": "any", "path": "x", "sha256": "0" * 64}, "kind 'any' is unknown"),
        ({"pretrained": "ani2x", "kind": "ani", "path": "x", "sha256": "0" * 64, "size": 1}, "key 'size' is unknown"),
    ],
)
def test_bad_potentials(inputs, potential, words):
    with pytest.raises(InputError) as caught:
        run_in(inputs, potential=potential)
    assert words in one_line(caught)


def ani2x():
    root = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not root:
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set")
    path = Path(root) / "weights" / "ani" / "ani-2x_8x.info"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    entry = {"kind": "ani", "path": str(path), "sha256": weights_sha256("ani", path)}
    reason = unavailable(PretrainedSpec.from_dict("ani2x", entry))
    if reason is not None:
        pytest.skip(reason)
    return {"pretrained": "ani2x", **entry}


def test_ani_in_the_batched_engine(inputs):
    potential = ani2x()
    write(inputs / "start.extxyz", [named("ethanol", "CH3CH2OH"), named("methanethiol", "CH3SH")])
    summary = run_in(inputs, potential=potential, temperature_k=300.0, time_ps=0.01, precision="float64")
    assert summary["inputs"]["potential"] == potential["sha256"]
    assert [line["formula"] for line in summary["replicas"]] == ["C2H6O"] * 2 + ["CH4S"] * 2
    assert all(line["alive"] for line in summary["replicas"])
    network, _ = open_potential(potential)
    with Trajectory(inputs / "run" / "trajectory.h5") as file:
        positions, energy = file.positions(3)[-1], file.energies(3)[0][-1]
        atoms = Atoms(file.atomic_numbers(3), positions.astype(np.float64))
    atoms.calc = MLIPCalculator(network)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)
    wrong = {**potential, "sha256": "0" * 64}
    with pytest.raises(InputError) as caught:
        run_in(inputs, "wrong", potential=wrong)
    assert "sha256 is" in one_line(caught)
