"""Reference curves: spin states where bonds break, sweeps from neighbours, symmetry, points that fail, resumption."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ase.build import molecule

from mlip_studies.adequacy import reference
from mlip_studies.adequacy.reference import (
    COLUMNS,
    SHARD,
    ReferenceConfig,
    calculated_points,
    congruent,
    describe,
    equal_points,
    lowest_state,
    neighbours_of,
    reference_curve,
    states_of,
    unsupported,
)
from mlip_studies.adequacy.scans import Scan, build_scan, cyclobutadiene, write_scan
from mlip_studies.adequacy.structures import Structure
from mlip_studies.dft import open_shell
from mlip_studies.dft.ladder import converge
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.dft.open_shell import (
    follow_down,
    fragment_guess,
    mixed_guess,
    neighbour_guess,
    occupied_orbitals,
    softest_rotation,
    spin_state,
)
from mlip_studies.dft.run import build_molecule, mean_field
from mlip_studies.errors import InputError
from mlip_studies.runtime.state import Requeue
from mlip_studies.units import HARTREE_TO_EV

LEVEL = "pbe0/def2-svp"
SMALL = DFT_LEVELS[LEVEL]


def diatomic(element, length, spin=0):
    return build_molecule(np.array([element] * 2), np.array([[0, 0, 0], [0, 0, length]]), "def2-svp", spin=spin)


def custom_scan(name, kind, coordinate, numbers, positions, reference="minimum", charge=0, multiplicity=1, **columns):
    structures = [
        Structure(np.asarray(numbers), each, f"{name}-{index}", charge, multiplicity)
        for index, each in enumerate(positions)
    ]
    columns = {key: np.asarray(values, dtype=float) for key, values in columns.items()}
    return Scan(name, kind, np.asarray(coordinate, float), "Å", structures, reference, name, "fig7", 1, columns)


def dumbbells(element, lengths):
    positions = [np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]]) for r in lengths]
    return custom_scan("pair", "diatomic", lengths, [element] * 2, positions, "atoms")


def square_scan(n=3):
    x, y = (each.ravel() for each in np.meshgrid(*[np.linspace(1.3, 1.6, n)] * 2, indexing="ij"))
    structures = [cyclobutadiene(a, b) for a, b in zip(x, y, strict=True)]
    positions = [each.positions for each in structures]
    numbers = structures[0].atomic_numbers
    return custom_scan("square", "surface", np.arange(n * n), numbers, positions, x_angstrom=x, y_angstrom=y)


def curve(tmp_path, scan, level=LEVEL, name="out", workers=1, method=reference.WHERE_BONDS_BREAK, **settings):
    path = tmp_path / f"{name}.npz"
    write_scan(scan, path)
    output = tmp_path / name / "curve.csv"
    settings = {"time_limit_s": 300, **settings}
    summary = reference_curve(path, level, output, tmp_path / f"{name}_state", "code", workers, method, settings)
    return summary, pd.read_csv(output, keep_default_na=True)


# Spin states


def test_level_for_scans_has_its_dispersion():
    level = DFT_LEVELS["wb97x-d3bj/def2-tzvp"]
    mf = mean_field(diatomic(1, 3.0), replace(level, basis="def2-svp"))
    mf.kernel()
    bare = mean_field(diatomic(1, 3.0), replace(level, basis="def2-svp", xc="wb97x-v", dispersion=None))
    bare.nlc = 0
    assert mf.converged and mf.scf_summary["dispersion"] < -1e-5
    assert mf.e_tot - mf.scf_summary["dispersion"] == pytest.approx(bare.kernel(), abs=1e-8)


def test_mixed_guess_holds_the_electrons_and_parts_the_spins():
    mol = diatomic(1, 2.5)
    mf = converge(mol, SMALL).mf
    overlap = mol.intor("int1e_ovlp")
    density = mixed_guess(mf.mo_coeff, 1)
    assert np.einsum("sij,ji->s", density, overlap) == pytest.approx([1.0, 1.0], abs=1e-10)
    half = len(overlap) // 2
    on_first = np.einsum("sij,ji->si", density, overlap)[:, :half]
    left = [np.einsum("ij,ji->i", spin, overlap)[:half].sum() for spin in density]
    assert on_first.shape == (2, half)
    assert max(left) > 0.9 and min(left) < 0.1


def test_free_atoms_with_opposite_spins_are_a_start():
    density = fragment_guess([7, 7], SMALL)
    overlap = diatomic(7, 20.0).intor("int1e_ovlp")
    electrons = [np.einsum("ij,ji->i", spin, overlap) for spin in density]
    half = len(overlap) // 2
    assert [[spin[:half].sum(), spin[half:].sum()] for spin in electrons] == pytest.approx(
        np.array([[5.0, 2.0], [2.0, 5.0]]), abs=1e-6
    )
    assert fragment_guess([1, 8], SMALL) is None and fragment_guess([10, 10], SMALL) is None


def test_orbitals_of_a_neighbour_become_orthonormal():
    here, there = diatomic(7, 1.1), diatomic(7, 1.3)
    overlap = there.intor("int1e_ovlp")
    density = neighbour_guess(occupied_orbitals(converge(here, SMALL).mf), overlap)
    assert np.trace(density @ overlap) == pytest.approx(14.0, abs=1e-9)
    assert density @ overlap @ density == pytest.approx(2.0 * density, abs=1e-9)
    both = neighbour_guess(occupied_orbitals(converge(here, SMALL, unrestricted=True).mf), overlap)
    assert both.shape == (2, *overlap.shape) and both.sum(axis=0) == pytest.approx(density, abs=1e-4)


def test_check_finds_the_way_out_of_a_restricted_field():
    mol = diatomic(1, 3.0)
    paired = converge(mol, SMALL).mf.make_rdm1()
    saddle = converge(mol, SMALL, unrestricted=True, guess=np.array([paired, paired]) / 2)
    assert saddle.mf.spin_square()[0] == pytest.approx(0.0, abs=1e-8)
    assert softest_rotation(saddle.mf)[0] < -0.05
    lower, cycles, stable = follow_down(saddle.mf, SMALL)
    assert stable and cycles > 0 and lower.e_tot < saddle.energy - 0.05
    assert lower.spin_square()[0] == pytest.approx(1.0, abs=0.05)
    assert softest_rotation(lower)[0] > open_shell.STABLE_CURVATURE
    near = converge(diatomic(1, 0.74), SMALL, unrestricted=True)
    same, _, stable = follow_down(near.mf, SMALL)
    assert stable and same is near.mf


def test_a_state_needs_a_start_and_keeps_the_lowest():
    mol = diatomic(1, 3.0)
    paired = converge(mol, SMALL).mf
    with pytest.raises(ValueError, match="no start"):
        spin_state(mol, SMALL, "broken_symmetry", {})
    starts = {"paired": np.array([paired.make_rdm1()] * 2) / 2, "mixed": mixed_guess(paired.mo_coeff, 1)}
    found = spin_state(mol, SMALL, "broken_symmetry", starts, stability=False)
    assert found.guess == "mixed" and found.stable is None and found.energy < paired.e_tot - 0.05


def test_the_lowest_state_is_the_reference():
    def state(energy, s_squared=0.0, converged=True):
        return {"energy": energy, "s_squared": s_squared, "converged": converged}

    assert lowest_state({}) is None and lowest_state({"restricted": state(math.nan, converged=False)}) is None
    assert lowest_state({"restricted": state(-1.0), "broken_symmetry": state(-1.0 - 1e-9, 1e-7)}) == "restricted"
    assert lowest_state({"restricted": state(-1.0), "broken_symmetry": state(-1.1, 0.9)}) == "broken_symmetry"
    assert lowest_state({"restricted": state(-1.0), "triplet": state(-1.2, 2.0)}) == "triplet"
    assert lowest_state({"restricted": state(math.nan, converged=False), "triplet": state(-0.2, 2.0)}) == "triplet"


# Curves


def test_hydrogen_ends_at_two_atoms(tmp_path):
    lengths = [0.74, 2.5, 6.5]
    summary, table = curve(tmp_path, dumbbells(1, lengths), forces=True, sweeps=1)
    assert list(table.columns) == list(COLUMNS)
    assert (table["status"] == "ok").all() and table["converged"].all() and summary["counts"] == {"ok": 3}
    assert table["method"].tolist() == ["restricted", "broken_symmetry", "broken_symmetry"]
    assert table["relative_energy_ev"].iloc[-1] == pytest.approx(0.0, abs=1e-3)
    assert -5.0 < table["relative_energy_ev"].iloc[0] < -4.0
    # the restricted curve, relative to the same atoms, ends far above
    assert table["restricted_relative_energy_ev"].iloc[-1] > 2.0
    assert table["s_squared"].tolist() == pytest.approx([0.0, 0.98, 1.0], abs=0.05)
    assert table["restricted_energy_ev"].iloc[0] == table["energy_ev"].iloc[0]
    assert (table["energy_ev"] - table["relative_energy_ev"]).to_numpy() == pytest.approx(table["atoms_energy_ev"])
    assert table["triplet_energy_ev"].isna().all() and (table["same_as"] == -1).all()
    stored = np.load(tmp_path / "out" / "curve.npz")
    assert stored["forces_ev_per_angstrom"].shape == (6, 3) and stored["ptr"].tolist() == [0, 2, 4, 6]
    assert np.linalg.norm(stored["forces_ev_per_angstrom"][2]) == pytest.approx(table["max_force"][1], rel=1e-3)
    assert table["net_force_ev_per_angstrom"].max() < 1e-4 and table["net_torque_ev"].max() < 1e-4
    assert table["max_force"].iloc[-1] < 0.01 and "broken_symmetry" in describe(summary)
    # the state is gone with the outputs in place
    assert not list((tmp_path / "out_state").iterdir())


def test_nitrogen_breaks_three_pairs(tmp_path):
    _, table = curve(tmp_path, dumbbells(7, [1.1, 5.0]), sweeps=0)
    assert table["method"].tolist() == ["restricted", "broken_symmetry"]
    assert table["s_squared"][1] == pytest.approx(3.0, abs=0.03)
    assert table["relative_energy_ev"][1] == pytest.approx(0.0, abs=0.02)
    assert table["restricted_relative_energy_ev"][1] > 5.0 and -11.0 < table["relative_energy_ev"][0] < -8.5
    assert table["max_force"].isna().all() and not (tmp_path / "out" / "curve.npz").exists()


def test_oxygen_is_a_triplet_that_breaks_into_two(tmp_path):
    _, table = curve(tmp_path, dumbbells(8, [1.2, 5.0]), sweeps=0)
    assert table["method"].tolist() == ["triplet", "broken_symmetry"]
    assert table["s_squared"].tolist() == pytest.approx([2.0, 2.0], abs=0.05)
    assert table["relative_energy_ev"][1] == pytest.approx(0.0, abs=0.02)
    assert -6.5 < table["relative_energy_ev"][0] < -4.5


@pytest.mark.slow
def test_ethane_breaks_into_two_methyl_radicals(tmp_path):
    summary, table = curve(tmp_path, build_scan("ethane-cc", {"points": 3}), sweeps=0)
    assert summary["methods"] == {"restricted": 1, "broken_symmetry": 2}
    assert table["coordinate"].tolist() == pytest.approx([1.0, 3.5, 6.0])
    methyl = molecule("C2H6")
    numbers, positions = methyl.numbers[[0, 2, 3, 4]], methyl.positions[[0, 2, 3, 4]]
    mol = build_molecule(numbers, positions, "def2-svp", spin=1)
    radical = converge(mol, replace(SMALL, conv_tol=1e-8)).energy * HARTREE_TO_EV
    assert table["energy_ev"][2] == pytest.approx(2.0 * radical, abs=0.02)
    assert table["restricted_energy_ev"][2] > 2.0 * radical + 1.5 and table["s_squared"][2] == pytest.approx(
        1.0, abs=0.1
    )


def test_closed_shells_are_restricted_and_mirror_images_are_calculated_once(tmp_path):
    scan = build_scan("water-hoh", {"points": 5})
    summary, table = curve(tmp_path, scan)
    assert summary["calculated"] == 3 and (table["method"] == "restricted").all()
    assert table["same_as"].tolist() == [-1, -1, -1, 1, 0]
    assert (table["relative_energy_ev"].to_numpy() == table["relative_energy_ev"].to_numpy()[::-1]).all()
    assert table["relative_energy_ev"].min() == 0.0 and table["broken_symmetry_energy_ev"].isna().all()
    # each point on its own agrees, so nothing was lost by it
    _, alone = curve(tmp_path, scan, name="alone", use_symmetry=False)
    assert alone["same_as"].tolist() == [-1] * 5
    assert alone["energy_ev"].to_numpy() == pytest.approx(table["energy_ev"].to_numpy(), abs=2e-3)


# What is calculated


def test_states_of_the_scans():
    both = ("restricted", "broken_symmetry")
    expected = {
        "diatomic-h2": both, "diatomic-n2": (*both, "triplet"), "diatomic-o2": (*both, "triplet"),
        "diatomic-cl2": both, "ethane-cc": both, "ethanol-oh": both, "cyclobutadiene-1d": both,
        "cyclobutadiene-2d": both, "water-hoh": both[:1], "dihedral-ethane": both[:1], "ethanol-cco": both[:1],
        "rotation-cyclobutadiene": both[:1], "translation-water": both[:1],
    }  # fmt: skip
    for name, states in expected.items():
        assert states_of(build_scan(name, {"points": 3, "grid": 3})) == states, name
    twisted = replace(build_scan("dihedral-ethane", {"points": 3}), molecule="fluoroallene")
    assert states_of(twisted) == both
    assert states_of(build_scan("water-hoh", {"points": 3}), "both") == both
    assert states_of(build_scan("diatomic-h2", {"points": 3}), "restricted") == both[:1]


def test_thinned_points_and_their_neighbours():
    line = dumbbells(1, np.linspace(1.0, 2.0, 8))
    assert calculated_points(line).tolist() == list(range(8))
    # Of bonds those where the well is; of others every third, and the last.
    assert calculated_points(line, 3).tolist() == [0, 1, 3, 7]
    assert calculated_points(replace(line, kind="stretch"), 3).tolist() == [0, 3, 6, 7]
    assert neighbours_of(line, np.array([0, 3, 7])) == {0: (3,), 3: (0, 7), 7: (3,)}
    surface = square_scan(4)
    kept = calculated_points(surface, 2)
    assert kept.tolist() == [0, 2, 3, 8, 10, 11, 12, 14, 15]
    assert neighbours_of(surface, kept)[10] == (2, 8, 11, 14) and neighbours_of(surface, kept)[0] == (2, 8)


def test_congruent_molecules():
    surface = square_scan()
    everything = np.arange(9)
    # x and y exchanged
    assert equal_points(surface, everything) == {0: 0, 1: 1, 2: 2, 3: 1, 4: 4, 5: 5, 6: 2, 7: 5, 8: 8}
    first = molecule("C2H6").positions
    numbers = molecule("C2H6").numbers
    turned = first @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) + 3.0
    assert congruent(numbers, first, turned[[1, 0, 5, 6, 7, 2, 3, 4]])
    assert congruent(numbers, first, turned * [-1.0, 1.0, 1.0])
    moved = first.copy()
    moved[2, 0] += 0.001
    assert not congruent(numbers, first, moved)
    # the same distances between other elements are another molecule
    bent = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.2, 0.0]])
    assert not congruent(np.array([8, 1, 9]), bent, bent[[0, 2, 1]])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"level": "pbe0/def2-sp"}, "did you mean 'pbe0/def2-svp'"),
        ({"method": "open"}, "reference.method: expected one of"),
        ({"workers": 0}, "reference.workers"),
        ({"every": 0}, "reference.every"),
        ({"sweeps": -1}, "reference.sweeps"),
        ({"time_limit_s": 0}, "reference.time_limit_s"),
        ({"memory_limit_mb": math.inf}, "reference.memory_limit_mb"),
        ({"max_basis_functions": 0}, "reference.max_basis_functions"),
    ],
)
def test_wrong_settings_are_one_line(values, text):
    with pytest.raises(InputError, match="reference") as caught:
        ReferenceConfig(**{"level": LEVEL, **values})
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_setting_and_missing_scan(tmp_path):
    with pytest.raises(InputError, match="unknown key 'sweep'; did you mean 'sweeps'"):
        curve(tmp_path, dumbbells(1, [0.7, 0.8, 0.9]), sweep=1)
    with pytest.raises(InputError, match="no such file"):
        reference_curve(tmp_path / "none.npz", LEVEL, tmp_path / "a.csv", tmp_path / "state")


def test_what_a_level_cannot_do_is_listed_with_its_reason(tmp_path):
    config = ReferenceConfig("pbe0+mbd/def2-svp")
    assert unsupported(dumbbells(27, [2.0, 2.1]), config) == "pbe0+mbd/def2-svp has no dispersion parameters for Co"
    assert unsupported(dumbbells(1, [2.0, 2.1]), config) is None
    summary, table = curve(tmp_path, dumbbells(1, [0.7, 0.8, 0.9]), max_basis_functions=9)
    assert (table["status"] == "unsupported").all() and table["energy_ev"].isna().all()
    assert "10 basis functions, more than max_basis_functions (9)" in table["message"][0]
    assert summary["counts"] == {"unsupported": 3} and summary["calculated"] == 0
    odd = custom_scan("hydroxyl", "bond", [1.0], [8, 1], [np.array([[0.0, 0, 0], [0, 0, 1.0]])])
    assert "odd number of electrons" in unsupported(odd, config)
    charged = custom_scan("hydroxide", "bond", [1.0], [8, 1], [np.array([[0.0, 0, 0], [0, 0, 1.0]])], charge=-1)
    assert unsupported(charged, config) is None


# The driver, with a stand-in for the calculation

STAND_IN = """
import json, os, time
from pathlib import Path
import numpy as np

def state(energy, s_squared=0.0, converged=True):
    return {"energy": energy, "s_squared": s_squared, "converged": converged, "cycles": 3, "guess": "atoms",
            "stable": None, "forces": None, "detail": "" if converged else "the field did not converge"}

def calculate(task):
    folder = Path(os.environ["STAND_IN_FOLDER"])
    if "element" in task:
        return {"energy": -0.5, "status": "converged"}
    r = round(float(task["positions"][1, 2]), 3)
    walking = bool(task["neighbours"])
    with open(folder / "calls", "a") as stream:
        stream.write(f"{r} {int(walking)}\\n")
    plan = json.loads((folder / "plan.json").read_text()).get(str(r), "")
    if plan == "hang":
        time.sleep(600)
    if plan == "raise":
        raise ValueError("two\\nlines")
    # only the first geometry finds the low branch from atoms, the others inherit it
    if not walking:
        low = r < 1.05
    else:
        paths = [path for near in task["neighbours"].values() for _, path in near]
        low = any(np.load(path)["low"].item() for path in paths)
    if plan == "lost" and not walking:
        return {"states": {"restricted": state(float("nan"), converged=False)}}
    if plan == "never":
        return {"states": {} if walking else {"restricted": state(float("nan"), converged=False)}}
    states = {"restricted": state(-1.0 - 0.01 * r)}
    if "broken_symmetry" in task["states"]:
        states["broken_symmetry"] = state((-2.0 if low else -1.5) - 0.01 * r, 1.0)
    states = {k: v for k, v in states.items() if v["energy"] < task["known"].get(k, 1e9) - 1e-7}
    if states:
        Path(task["orbitals"]).parent.mkdir(parents=True, exist_ok=True)
        np.savez(task["orbitals"], low=low)
    return {"states": states}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Workers run the stand-in; the folder notes its calls and holds its plan by bond length."""
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "stand_in_for_reference.py").write_text(STAND_IN)
    (folder / "plan.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("STAND_IN_FOLDER", str(folder))
    monkeypatch.setattr(reference, "TARGET", "stand_in_for_reference:calculate")
    return folder


def calls(folder):
    return [tuple(map(float, line.split())) for line in (folder / "calls").read_text().splitlines()]


LENGTHS = [1.0, 1.1, 1.2, 1.3, 1.4]


@pytest.mark.parametrize("workers", [1, 2])
def test_low_fields_spread_from_neighbour_to_neighbour(tmp_path, stand_in, workers):
    low = -2.0 - 0.01 * np.array(LENGTHS)
    for sweeps, reached in ((0, 1), (2, 3), (6, 5)):
        (stand_in / "calls").write_text("")
        _, table = curve(tmp_path, dumbbells(1, LENGTHS), name=f"s{sweeps}", workers=workers, sweeps=sweeps)
        expected = np.where(np.arange(5) < reached, low, low + 0.5) * HARTREE_TO_EV
        assert table["energy_ev"].to_numpy() == pytest.approx(expected, abs=1e-9)
        assert table["sweep"].tolist() == [min(i, 0 if i >= reached else i) for i in range(5)]
    # only those beside a point that came down are tried again, so that it ends by itself
    made = calls(stand_in)
    assert len(made) == 5 + 5 + 2 + 2 + 2 + 1 and table["relative_energy_ev"].to_numpy() == pytest.approx(
        (low + 1.0) * HARTREE_TO_EV, abs=1e-9
    )


def test_points_that_fail_are_marked_and_the_others_go_on(tmp_path, stand_in):
    (stand_in / "plan.json").write_text(json.dumps({"1.1": "hang", "1.2": "raise", "1.4": "never"}))
    _, table = curve(tmp_path, dumbbells(1, LENGTHS), time_limit_s=4, workers=2, sweeps=0)
    assert table["status"].tolist() == ["ok", "failed", "failed", "ok", "not_converged"]
    assert table["message"][1] == "timeout: more than 4 s" and table["message"][2] == "failed: ValueError: two lines"
    assert "did not converge" in table["message"][4] and not table["converged"][4]
    assert table["energy_ev"].isna().tolist() == [False, True, True, False, True]
    assert np.isfinite(table["relative_energy_ev"][[0, 3]]).all()


def test_restricted_points_that_are_lost_come_back_from_neighbours(tmp_path, stand_in):
    (stand_in / "plan.json").write_text(json.dumps({"1.2": "lost"}))
    _, table = curve(tmp_path, dumbbells(1, LENGTHS), method="restricted", sweeps=1)
    assert (table["status"] == "ok").all() and table["sweep"].tolist() == [0, 0, 1, 0, 0]
    assert table["broken_symmetry_energy_ev"].isna().all()
    # the others had nothing to gain
    assert [r for r, walking in calls(stand_in) if walking] == [1.2]


def test_a_run_that_was_stopped_goes_on(tmp_path, stand_in, monkeypatch):
    scan = dumbbells(1, LENGTHS)

    class Stopped(reference.StopRequest):
        @property
        def name(self):
            path = stand_in / "calls"
            return "SIGTERM" if path.exists() and len(path.read_text().splitlines()) >= 3 else None

        @name.setter
        def name(self, value):
            pass

    with monkeypatch.context() as patch, pytest.raises(Requeue):
        patch.setattr(reference, "StopRequest", Stopped)
        curve(tmp_path, scan, sweeps=3)
    assert not (tmp_path / "out" / "curve.csv").exists()
    (shard,) = (tmp_path / "out_state").glob(f"*/{SHARD}")
    kept = shard.read_text().splitlines()
    points = [json.loads(line)["point"] for line in kept if "point" in json.loads(line)]
    assert 1 <= len(points) < 5
    # a line that was cut off is calculated again
    shard.write_text("\n".join(kept) + "\n" + kept[0][:30])
    (stand_in / "calls").write_text("")
    summary, table = curve(tmp_path, scan, sweeps=3)
    assert summary["resumed"] == len(points)
    again = [r for r, walking in calls(stand_in) if not walking]
    assert sorted(again) == [r for index, r in enumerate(LENGTHS) if index not in points]
    _, whole = curve(tmp_path, scan, name="whole", sweeps=3)
    same = [name for name in COLUMNS if "seconds" not in name]
    pd.testing.assert_frame_equal(table[same], whole[same])


def test_limits_that_are_raised_try_again(tmp_path, stand_in, monkeypatch):
    (stand_in / "plan.json").write_text(json.dumps({"1.1": "hang"}))

    def no_room(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot write"):
        patch.setattr(reference, "_write", no_room)
        curve(tmp_path, dumbbells(1, LENGTHS), time_limit_s=3, sweeps=0)
    (stand_in / "plan.json").write_text("{}")
    (stand_in / "calls").write_text("")
    _, table = curve(tmp_path, dumbbells(1, LENGTHS), time_limit_s=5, sweeps=0)
    assert calls(stand_in) == [(1.1, 0.0)] and (table["status"] == "ok").all()


def test_congruent_lines_are_copies(tmp_path, stand_in):
    scan = square_scan()
    _, table = curve(tmp_path, scan, method="both", sweeps=0)
    assert {"x_angstrom", "y_angstrom"} <= set(table.columns) and len(calls(stand_in)) == 6
    assert table["same_as"].tolist() == [-1, -1, -1, 1, -1, -1, 2, 5, -1]
    assert table["energy_ev"][3] == table["energy_ev"][1] and (table["cpu_seconds"][[3, 6, 7]] == 0).all()
