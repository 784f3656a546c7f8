"""What a shift does to a data set: closed forms, brute force, streaming, and data that cannot be judged."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip_studies.data.shift_check import (
    COLUMNS,
    SEVERITIES,
    SHIFTS,
    check_shift,
    shift_table,
    write_shift_table,
)
from mlip_studies.data.store import StoreWriter
from mlip_studies.elements import composition
from mlip_studies.errors import InputError

ATOMS = {1: -13.6, 6: -1030.0, 8: -2043.0}
WATER, METHANE, ETHANOL = [8, 1, 1], [6, 1, 1, 1, 1], [6, 6, 8, 1, 1, 1, 1, 1, 1]


def ragged(molecules, noise: float = 0.2, seed: int = 0):
    """Energies (n,), atomic numbers and offsets of molecules; energies are sums of atoms plus noise."""
    rng = np.random.default_rng(seed)
    energy = np.array([sum(ATOMS[z] for z in molecule) for molecule in molecules]) + noise * rng.normal(
        size=len(molecules)
    )
    return energy, np.concatenate(molecules), np.cumsum([0, *map(len, molecules)])


MIXED = ragged([WATER] * 5 + [METHANE] * 7 + [ETHANOL] * 4)


def test_mean_padded_of_two_molecules_by_hand():
    energy, numbers, ptr = np.array([-10.0, -30.0]), np.array([1, 1, 1, 1, 1, 1]), np.array([0, 2, 6])
    check = check_shift(energy, numbers, ptr, "mean_padded")
    assert check.n_rows == 2 and check.n_compositions == 2 and check.mixed
    assert check.mean_ev == -20.0 and check.n_pad == 4
    assert check.slope_ev_per_atom == -5.0
    # H2 gets back half of the mean: -20 (2/4 - 1) = +10; H4 all of it.
    assert check.perfect_network_mae_ev == pytest.approx(5.0)
    assert check.spread_ev == pytest.approx(10.0) and check.rank == 1
    assert check.severity == "error" and "off by 5 eV on average, -5 eV per atom" in check.message
    wider = check_shift(energy, numbers, ptr, "mean_padded", n_pad=8)
    assert wider.slope_ev_per_atom == -2.5 and wider.perfect_network_mae_ev == pytest.approx(12.5)


@pytest.mark.parametrize("n_pad", [None, 9, 20])
def test_a_perfect_network_under_mean_padded(n_pad):
    """Predictions as training and evaluation make them, without the closed form."""
    energy, numbers, ptr = MIXED
    check = check_shift(energy, numbers, ptr, "mean_padded", n_pad)
    sizes = np.diff(ptr)
    learnt = energy - energy.mean()
    predicted = learnt + np.array([sum([energy.mean() / (n_pad or 9)] * size) for size in sizes])
    assert check.perfect_network_mae_ev == pytest.approx(np.abs(predicted - energy).mean(), rel=1e-12)
    slope, _ = np.polyfit(sizes, predicted - energy, 1)
    assert check.slope_ev_per_atom == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("shift", SHIFTS)
def test_spread_of_the_labels_that_are_learnt(shift):
    energy, numbers, ptr = MIXED
    check = check_shift(energy, numbers, ptr, shift)
    x = composition(numbers, ptr, [1, 6, 8]).astype(float)
    residual = energy - x @ np.linalg.lstsq(x, energy, rcond=None)[0]
    expected = residual if shift == "per_element" else energy
    assert check.spread_ev == pytest.approx(expected.std(), rel=1e-7)
    assert check.per_element_spread_ev == pytest.approx(residual.std(), rel=1e-7)
    assert check.rank == 3 and check.n_compositions == 3 and check.mixed
    assert check.mean_ev == pytest.approx(energy.mean(), rel=1e-14)
    if shift != "mean_padded":
        assert check.slope_ev_per_atom == check.perfect_network_mae_ev == 0.0


def test_severities_differ():
    found = {shift: check_shift(*MIXED, shift) for shift in SHIFTS}
    severities = {shift: check.severity for shift, check in found.items()}
    assert severities == {"none": "warning", "mean": "warning", "mean_padded": "error", "per_element": "none"}
    assert {check.severity for check in found.values()} == set(SEVERITIES)
    assert found["per_element"].message is None
    for shift in ("none", "mean", "mean_padded"):
        message = found[shift].message
        assert message.startswith(f"shift {shift}: 3 compositions: ") and message.endswith("use per_element")
        assert "\n" not in message


@pytest.mark.parametrize("shift", SHIFTS)
def test_one_composition_is_nothing_to_worry_about(shift):
    check = check_shift(*ragged([ETHANOL] * 6), shift)
    assert not check.mixed and check.severity == "none" and check.message is None
    assert check.perfect_network_mae_ev == 0.0 and check.rank == 1
    assert check.spread_ev == pytest.approx(check.per_element_spread_ev)


def test_padding_beyond_the_only_molecule_is_an_error_too():
    check = check_shift(*ragged([ETHANOL] * 6), "mean_padded", n_pad=12)
    assert check.severity == "error" and not check.mixed
    assert check.perfect_network_mae_ev == pytest.approx(abs(check.mean_ev) / 4) and "1 composition: " in check.message


def test_isomers_of_one_size_survive_mean_padded():
    """Different compositions of the same number of atoms get back what was subtracted."""
    check = check_shift(*ragged([[6, 8, 1], [8, 8, 1], [6, 6, 1]]), "mean_padded")
    assert check.mixed and check.perfect_network_mae_ev == 0.0 and check.severity == "warning"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([1, 6, 8]), min_size=1, max_size=7), min_size=1, max_size=12),
    st.floats(-1e4, 1e4),
    st.integers(0, 5),
)
def test_any_molecules(molecules, offset, extra):
    energy, numbers, ptr = ragged(molecules)
    energy = energy + offset
    n_pad = max(map(len, molecules)) + extra
    checks = {shift: check_shift(energy, numbers, ptr, shift, n_pad) for shift in SHIFTS}
    for check in checks.values():
        assert check.n_compositions == len({tuple(sorted(molecule)) for molecule in molecules})
        assert check.rank == np.linalg.matrix_rank(composition(numbers, ptr, [1, 6, 8]))
        assert check.per_element_spread_ev >= 0.0
        assert (check.message is None) == (check.severity == "none")
    sizes = np.array([len(molecule) for molecule in molecules])
    expected = np.abs(energy.mean() * (sizes / n_pad - 1)).mean()
    assert checks["mean_padded"].perfect_network_mae_ev == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("energy", "numbers", "ptr", "options", "message"),
    [
        ([1.0], [1], [0, 1], {"shift": "median"}, "shift: 'median' is unknown; choose one of none, mean, mean_padded"),
        ([1.0, 2.0], [1, 1], [0, 1], {}, "do not fit; expected one offset more than energies"),
        ([1.0], [1, 1], [0, 1], {}, "and 2 atoms do not fit"),
        ([1.0], [1], [1, 1], {}, "do not fit"),
        ([[1.0]], [1], [0, 1], {}, "do not fit"),
        ([1.0, 2.0], [1], [0, 0, 1], {}, "molecule 0 has no atoms"),
        ([1.0, float("nan")], [1, 1], [0, 1, 2], {}, "energy 1 is not finite; choose rows with this label"),
        ([], [], [0], {}, "no energies"),
        ([1.0], [1, 1], [0, 2], {"n_pad": 1}, "n_pad: 1; expected at least 2, the atoms of the largest molecule"),
        ([1.0], [1], [0, 1], {"n_pad": True}, "n_pad: True; expected at least 1"),
        ([1.0], [0], [0, 1], {}, "atomic number 0"),
    ],
)
def test_what_cannot_be_judged(energy, numbers, ptr, options, message):
    with pytest.raises(InputError, match=message) as caught:
        check_shift(np.array(energy), np.array(numbers, dtype=int), np.array(ptr), **{"shift": "mean", **options})
    assert "\n" not in str(caught.value)


# ---- stores ----


@pytest.fixture
def store(tmp_path):
    """Three molecules with two labels; half of the second one is missing, and of ethanol all of it."""
    path = tmp_path / "s.h5"
    rng = np.random.default_rng(1)
    provenance = {"dataset": "toy", "elements": [1, 6, 7, 8]}
    with StoreWriter(path, ["total", "formation"], provenance=provenance) as writer:
        for name, z in (("w", WATER), ("m", METHANE), ("e", ETHANOL)):
            total = sum(ATOMS[n] for n in z) + rng.normal(size=20)
            formation = total - sum(ATOMS[n] for n in z) - 2.0 * len(z)
            formation[::2] = np.nan
            if name == "e":
                formation[:] = np.nan
            writer.append(z, np.zeros((20, len(z), 3)), {"total": total, "formation": formation}, group=name)
    return path


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_streaming_a_store_gives_what_arrays_give(store, chunk_rows):
    from mlip_studies.data.store import Store

    rows = shift_table(store, chunk_rows=chunk_rows)
    assert [(row["fidelity"], row["shift"]) for row in rows] == [
        (fidelity, shift) for fidelity in ("total", "formation") for shift in SHIFTS
    ]
    with Store(store) as opened:
        labeled = {name: opened.read(np.flatnonzero(opened.has_label(name))) for name in ("total", "formation")}
    for row in rows:
        of = labeled[row["fidelity"]]
        expected = check_shift(of.energy[row["fidelity"]], of.atomic_numbers, of.ptr, row["shift"])
        for key in COLUMNS[2:]:
            value = getattr(expected, key)
            if key == "message":
                assert (row[key] is None) == (value is None)
            elif isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key
            else:
                assert row[key] == value, key
    assert {row["n_pad"] for row in rows if row["fidelity"] == "formation"} == {5}
    assert {row["n_rows"] for row in rows if row["fidelity"] == "formation"} == {20}


def test_the_table_as_csv(store, tmp_path):
    rows = shift_table(store, ["total"], dataset="name")
    write_shift_table(rows, tmp_path / "shift_check.csv")
    with (tmp_path / "shift_check.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert tuple(read[0]) == COLUMNS and [line["shift"] for line in read] == list(SHIFTS)
    for line, row in zip(read, rows, strict=True):
        assert line["dataset"] == "name" and float(line["mean_ev"]) == row["mean_ev"]
        assert line["message"] == (row["message"] or "") and line["mixed"] == "True"


def test_stores_that_cannot_be_judged(store, tmp_path):
    with pytest.raises(InputError, match="no energies of fidelity 'pbe'"):
        shift_table(store, ["pbe"])
    with pytest.raises(InputError, match="shift: 'x' is unknown"):
        shift_table(store, shifts=["x"])
    with pytest.raises(InputError, match=r"none.h5"):
        shift_table(tmp_path / "none.h5")
    with StoreWriter(tmp_path / "e.h5", ["a", "b"]) as writer:
        writer.append([1, 1], np.zeros((2, 2, 3)), {"a": np.zeros(2), "b": np.full(2, np.nan)}, group="h")
    with pytest.raises(InputError, match=r"e.h5: b: shift check: no energies"):
        shift_table(tmp_path / "e.h5")
    assert len(shift_table(tmp_path / "e.h5", ["a"])) == 4


def test_the_shifts_are_those_of_training():
    torch = pytest.importorskip("torch")
    from mlip_studies.training import data

    # Isolated atoms take away what differs by composition just as fitted energies do.
    assert torch and {"per_element" if shift in data.PER_ELEMENT else shift for shift in data.SHIFTS} == set(SHIFTS)
