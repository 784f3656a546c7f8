"""Floor of the checks, isolated atoms as a reference of energies, runs with more steps for more rows, extended data."""

import numpy as np
import pandas as pd
import pytest
import yaml

from mlip_studies.artifacts import atomic_path, write_text
from mlip_studies.data.isolated_atoms import write_isolated_atoms
from mlip_studies.data.named_splits import make_split, write_named_split
from mlip_studies.data.self_energies import load_self_energies
from mlip_studies.data.store import Block, Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.md.frames import read_frames
from mlip_studies.studies.label_floor import write_floor, write_floor_frames
from mlip_studies.studies.runs import expand_runs, run_configuration
from mlip_studies.training.data import fit_reference

ATOMS = {1: -13.6, 8: -2040.0}
SCHEMA = "workflow/schemas/self_energies.schema.yaml"


@pytest.fixture
def water(tmp_path):
    """Forty waters: energies are those of atoms, less 10 eV, less row number / 1000."""
    rng = np.random.default_rng(0)
    path = tmp_path / "water" / "store.h5"
    path.parent.mkdir()
    positions = rng.normal(size=(40, 3, 3)) * 2
    energy = 2 * ATOMS[1] + ATOMS[8] - 10.0 - np.arange(40) / 1000
    forces = rng.normal(size=(40, 3, 3))
    with StoreWriter(path, ["dft"], ["dft"], positions_dtype="float64") as writer:
        writer.append_block(
            Block("water", np.array([8, 1, 1], np.uint8), positions, {"dft": energy}, {"dft": forces}, np.arange(40))
        )
    with Store(path) as store:
        split = make_split(store, {"kind": "random", "train": [10], "val": [5], "test": 20, "seed": 0})
        write_named_split(split, tmp_path / "split.npz", tmp_path / "split.json")
    return path


@pytest.fixture
def own_atoms(tmp_path):
    lines = [
        "level,element,charge,energy_hartree,energy_ev,converged",
        "ours,H,0,0,-13.6,True",
        "ours,O,0,0,-2040.0,True",
    ]
    write_text(tmp_path / "atoms.csv", "\n".join([*lines, "other,H,0,0,-13.0,True"]) + "\n")
    return tmp_path / "atoms.csv"


def test_isolated_atoms_leave_atomization_energies(water, own_atoms, tmp_path):
    write_isolated_atoms(water, "dft", "ours", "config/self_energies.yaml", SCHEMA, own_atoms, tmp_path / "a.json")
    assert dict(zip(*(load_self_energies(tmp_path / "a.json")["dft"].__dict__[k] for k in ("elements", "coefficients")),
                    strict=True)) == pytest.approx(ATOMS)  # fmt: skip
    with Store(water) as store:
        rows = np.arange(10)
        reference = fit_reference(
            store, "dft", rows, rows, "isolated_atoms", "none", str(tmp_path / "a.json"), (1, 6, 8)
        )
        read = store.read(rows, fidelities=("dft",))
    assert reference.targets(read.energy["dft"], read) == pytest.approx(-10 - rows / 1000, abs=1e-9)
    assert reference.predicted(np.zeros(10), read) == pytest.approx(np.full(10, sum(ATOMS.values()) + ATOMS[1]))
    assert not reference.warnings


def test_isolated_atoms_that_do_not_fit(water, own_atoms, tmp_path):
    def write(atoms, fidelity="dft"):
        write_isolated_atoms(
            water, fidelity, atoms, "config/self_energies.yaml", SCHEMA, own_atoms, tmp_path / "a.json"
        )

    with pytest.raises(InputError, match=r"isolated atoms 'nobody': expected one of .*qm7x_atoms.*ours"):
        write("nobody")
    with pytest.raises(InputError, match="'other': no energy of O, which"):
        write("other")
    with pytest.raises(InputError, match="qm7x_atoms is a isolated_atom for pbe0_mbd; expected isolated atoms for dft"):
        write("qm7x_atoms")
    with pytest.raises(InputError, match="no label 'ccsd'"):
        write("ours", "ccsd")
    assert not (tmp_path / "a.json").exists()


def labels(tmp_path, frames, shift=0.0, failed=()):
    """Calculations that differ from the labels of `water` by constants per atom, and by `shift` for every molecule."""
    rows = read_frames(frames)
    energy = 2 * -14.0 - 2041.0 - 10.0 - rows.trajectory / 1000 + shift
    status = np.array(["converged"] * len(rows), dtype=object)
    for index in failed:
        energy[index], status[index] = np.nan, "unconverged"
    with Store(tmp_path / "water" / "store.h5") as store:
        forces = store.read(rows.trajectory, fidelities=(), forces=("dft",)).forces["dft"] + 0.25
    with atomic_path(tmp_path / "labels.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, energy_ev=energy, forces_ev_per_angstrom=forces, atomic_numbers_isolated=np.array([1, 8]),
                 energies_isolated_ev=np.array([-14.0, -2041.0]))  # fmt: skip
    write_text(tmp_path / "labels.csv", pd.DataFrame({"status": status}).to_csv(index=False))


def test_the_floor_is_the_difference_of_atomization_energies(water, own_atoms, tmp_path):
    frames = tmp_path / "frames.npz"
    write_floor_frames(water, tmp_path / "split.npz", 6, 0, frames)
    again = read_frames(frames)
    assert len(again) == 6 and set(again.name) == {"water"}
    with np.load(tmp_path / "split.npz") as split:
        assert set(again.trajectory) <= set(split["test"].tolist())
    labels(tmp_path, frames, shift=0.02, failed=[3])
    write_isolated_atoms(water, "dft", "ours", "config/self_energies.yaml", SCHEMA, own_atoms, tmp_path / "a.json")
    paths = (frames, tmp_path / "labels.npz", tmp_path / "labels.csv", tmp_path / "a.json", tmp_path / "floor.csv")
    write_floor(water, "dft", *paths)
    floor = pd.read_csv(tmp_path / "floor.csv")
    good = floor["status"] == "converged"
    assert good.sum() == 5 and floor.loc[good, "ae_difference_ev"].to_numpy() == pytest.approx(0.02)
    assert floor.loc[good, "ae_label_ev"].to_numpy() == pytest.approx(-10 - floor.loc[good, "row"] / 1000)
    assert floor["ae_difference_ev"].isna().sum() == 1
    assert floor["force_mae_ev_per_angstrom"].to_numpy() == pytest.approx(0.25)


def test_the_floor_of_other_frames_is_refused(water, own_atoms, tmp_path):
    frames = tmp_path / "frames.npz"
    write_floor_frames(water, tmp_path / "split.npz", 6, 0, frames)
    labels(tmp_path, frames)
    write_floor_frames(water, tmp_path / "split.npz", 5, 0, frames)
    write_isolated_atoms(water, "dft", "ours", "config/self_energies.yaml", SCHEMA, own_atoms, tmp_path / "a.json")
    with pytest.raises(InputError, match="6 calculations for 5 frames"):
        write_floor(
            water, "dft", frames, tmp_path / "labels.npz", tmp_path / "labels.csv", tmp_path / "a.json", "f.csv"
        )


NUMBERS = yaml.safe_load("""
seeds: [0]
training: {max_steps: 10}
data:
  a: {dataset: set, split: s, fidelity: dft}
  more: {dataset: set, split: s, fidelity: dft, extends: {job: hot, run: a-schnet-isolated_atoms-n5, per_trajectory: 1}}
groups:
  g: {data: a, network: schnet, shift: isolated_atoms, train_size: [5, 50], steps_by_size: {5: 100, 50: 1000}}
  h: {data: more, network: schnet, shift: isolated_atoms, train_size: [7]}
""")
NETWORKS = {"schnet": {"model": "schnet", "trained": {"options": {}, "training": {"recipe": "gemnet"}}}}


def test_more_rows_more_steps():
    runs = expand_runs("x", NUMBERS)
    steps = {run.train_size: run.training["max_steps"] for run in runs.values() if run.data == "a"}
    assert steps == {5: 100, 50: 1000}
    wrong = {**NUMBERS, "groups": {"g": {**NUMBERS["groups"]["g"], "train_size": [5]}}}
    with pytest.raises(InputError, match=r"groups\.g'\.steps_by_size: expected the group's sizes, \[5\]"):
        expand_runs("x", wrong)


def test_extended_data_and_atoms_lie_with_the_study():
    runs = expand_runs("x", NUMBERS)

    def configuration(name):
        run = runs[name]
        return run_configuration(run, 0, NUMBERS["data"][run.data], NETWORKS, "D", study_folder="S")

    usual, extended = configuration("a-schnet-isolated_atoms-n5"), configuration("more-schnet-isolated_atoms-n7")
    assert usual["store"] == "D/set/store.h5" and usual["train_size"] == 5
    assert usual["self_energies"] == "S/isolated_atoms/a.json"
    assert (extended["store"], extended["split"]) == ("S/extended/more/store.h5", "S/extended/more/split.npz")
    assert extended["train_size"] == 7 and extended["self_energies"] == "S/isolated_atoms/more.json"
