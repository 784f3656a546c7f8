"""The check of signs, units and pairing: right data pass, planted mistakes are named, and little data is not enough."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_readers_layouts import METHANE, WATER, entry, springs

from mlip_studies.data.force_check import ForceCheck, _along_distances
from mlip_studies.data.readers import get_reader
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError
from mlip_studies.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV


def blocks(n: int = 60, spread: float = 0.05) -> list[Block]:
    """Two molecules, each frame turned at random."""
    result = []
    for name, molecule in (("water", WATER), ("methane", METHANE)):
        z, positions, energies, forces = springs(molecule, n, seed=len(name), spread=spread)
        labels = {"level": energies}, {"level": forces}
        result.append(Block(name, z.astype(np.uint8), positions, *labels, np.arange(n)))
    return result


def changed(block: Block, positions=1.0, energies=1.0, forces=1.0) -> Block:
    return dataclasses.replace(
        block,
        positions=block.positions * positions,
        energies={name: values * energies for name, values in block.energies.items()},
        forces={name: values * forces for name, values in block.forces.items()},
    )


def judge(parts, **options) -> dict:
    check = ForceCheck(**options)
    for part in parts:
        check.add(part)
    return check.result("data.h5")


def refused(parts, *fragments: str) -> None:
    with pytest.raises(InputError) as caught:
        judge(parts)
    message = str(caught.value)
    assert message.startswith("data.h5: ") and "\n" not in message
    for fragment in fragments:
        assert fragment in message, message


def test_right_data_are_verified_although_every_frame_is_turned():
    report = judge(blocks())["level"]
    assert report["verdict"] == "verified"
    assert report["correlation"] > 0.99 and report["slope"] == pytest.approx(1.0, abs=0.03)
    assert report["net_force"] < 1e-10 and report["net_torque"] < 1e-10
    assert report["bond_ratio"] == pytest.approx(1.0, abs=0.15)
    assert report["total_energy_ratio"] == pytest.approx(1.0, abs=0.01)
    assert json.loads(json.dumps(report)) == report


def test_forces_along_distances_reproduce_the_forces():
    z, positions, _, forces = springs(METHANE, 5)
    distances, along = _along_distances(z, positions, forces)
    i, j = np.triu_indices(len(z), 1)
    unit = (positions[:, i] - positions[:, j]) / distances[..., None]
    total = np.zeros_like(forces)
    for pair, (a, b) in enumerate(zip(i, j, strict=True)):
        total[:, a] -= along[:, pair, None] * unit[:, pair]
        total[:, b] += along[:, pair, None] * unit[:, pair]
    np.testing.assert_allclose(total, forces, atol=1e-4)


def test_gradients():
    refused([changed(block, forces=-1.0) for block in blocks()], "forces of level point uphill", "holds gradients")


@pytest.mark.parametrize(
    ("factor", "looks"),
    [
        (BOHR_TO_ANGSTROM, "eV/bohr read as eV/Å"),
        (1 / BOHR_TO_ANGSTROM, "eV/Å read as eV/bohr"),
        (HARTREE_TO_EV, "eV/Å read as hartree/Å"),
        (1 / HARTREE_TO_EV, "hartree/Å read as eV/Å"),
        (1 / KCAL_PER_MOL_TO_EV, "kcal/mol/Å read as eV/Å"),
        (KCAL_PER_MOL_TO_EV, "eV/Å read as kcal/mol/Å"),
        (HARTREE_TO_EV / BOHR_TO_ANGSTROM, "eV/Å read as hartree/bohr"),
        (KCAL_PER_MOL_TO_EV / HARTREE_TO_EV, "hartree/Å read as kcal/mol/Å"),
    ],
)
def test_forces_in_another_unit_than_the_energies(factor, looks):
    refused([changed(block, forces=factor) for block in blocks()], "the work of the forces of level is", looks)


@pytest.mark.parametrize(
    ("factor", "looks"),
    [
        (HARTREE_TO_EV, "eV read as hartree"),
        (1 / HARTREE_TO_EV, "hartree read as eV"),
        (1 / KCAL_PER_MOL_TO_EV, "kcal/mol read as eV"),
        (KCAL_PER_MOL_TO_EV, "eV read as kcal/mol"),
    ],
)
def test_energies_and_forces_in_the_same_wrong_unit(factor, looks):
    parts = [changed(block, energies=factor, forces=factor) for block in blocks()]
    refused(parts, "energies of level are", "times those of the atoms", looks)


@pytest.mark.parametrize(
    ("factor", "looks"),
    [(1 / BOHR_TO_ANGSTROM, "bohr read as Å"), (BOHR_TO_ANGSTROM, "Å read as bohr"), (10.0, "Å read as nm")],
)
def test_lengths_in_a_wrong_unit_with_forces_to_match(factor, looks):
    parts = [changed(block, positions=factor, forces=1 / factor) for block in blocks()]
    refused(parts, "neighboring atoms are", looks)


def test_energies_of_other_frames():
    rng = np.random.default_rng(0)
    parts = [dataclasses.replace(b, energies={"level": rng.permutation(b.energies["level"])}) for b in blocks()]
    refused(parts, "forces of level do not belong to its energies")


def test_forces_of_other_frames_or_in_another_atom_order():
    parts = [dataclasses.replace(b, forces={"level": np.roll(b.forces["level"], 1, axis=0)}) for b in blocks()]
    refused(parts, "forces of level leave a net torque of")
    parts = [dataclasses.replace(b, forces={"level": b.forces["level"][:, ::-1]}) for b in blocks()]
    refused(parts, "forces of level leave a net torque of")
    parts = [dataclasses.replace(b, forces={"level": b.forces["level"] + 0.5}) for b in blocks()]
    refused(parts, "forces of level leave a net force of")


def test_rounding_of_single_precision_is_tolerated():
    rng = np.random.default_rng(0)
    noisy = [
        dataclasses.replace(
            b, forces={"level": (b.forces["level"] + rng.normal(scale=2e-3, size=b.forces["level"].shape)).astype("f4")}
        )
        for b in blocks()
    ]
    assert judge(noisy)["level"]["verdict"] == "verified"


def test_little_data_is_not_verified_and_says_why():
    few = judge([block.select(np.arange(60) < 8) for block in blocks()])["level"]
    assert few["verdict"] == "not verified" and "pairs of similar frames, at least 20 are needed" in few["reason"]
    # Wrong signs in so few frames are no error either: nothing is claimed about them.
    assert judge([changed(b.select(np.arange(60) < 8), forces=-1) for b in blocks()])["level"]["verdict"] != "verified"
    singles = [b.select(np.arange(60) == k) for b in blocks() for k in range(60)]
    alone = judge(singles)["level"]
    assert alone["verdict"] == "not verified" and alone["pairs"] == 0 and alone["frames"] > 20
    same = [b.select(np.zeros(60, dtype=int)) for b in blocks()]
    assert judge(same)["level"]["pairs"] == 0


def test_frames_with_other_bonds_are_not_compared():
    def isomers(block: Block) -> Block:
        rng = np.random.default_rng(1)
        order = np.array([rng.permutation(len(block.atomic_numbers)) for _ in range(len(block))])
        # The carbon changes places with hydrogens, as in isomers whose atoms are listed alike.
        positions = np.take_along_axis(block.positions, order[..., None], axis=1)
        forces = np.take_along_axis(block.forces["level"], order[..., None], axis=1)
        return dataclasses.replace(block, positions=positions, forces={"level": forces})

    report = judge([isomers(blocks()[1])])["level"]
    assert report["verdict"] in ("verified", "not verified")
    assert report["pairs"] < 60


def test_large_molecules_are_left_out_of_the_work():
    rng = np.random.default_rng(0)
    shape = (30, 110, 3)
    large = Block(
        "large", np.full(110, 6, np.uint8), rng.normal(scale=9, size=shape), {"level": np.full(30, -1.0)},
        {"level": np.zeros(shape)}, np.arange(30),
    )  # fmt: skip
    report = judge([large])["level"]
    assert report["verdict"] == "not verified" and "1 blocks have more than 100 atoms" in report["reason"]


def test_missing_labels_empty_blocks_and_levels_without_forces():
    parts = []
    for block in blocks():
        energies, forces = block.energies["level"].copy(), block.forces["level"].copy()
        energies[::3], forces[::3] = np.nan, np.nan
        second = np.where(np.arange(60) < 5, np.nan, block.energies["level"])
        parts.append(
            dataclasses.replace(block, energies={"level": energies, "other": second}, forces={"level": forces})
        )
        parts.append(parts[-1].select(np.zeros(60, dtype=bool)))
    report = judge(parts)
    assert report["level"]["verdict"] == "verified" and report["level"]["frames"] == 80
    assert report["other"]["verdict"] == "no forces" and report["other"]["frames"] == 110
    assert judge([]) == {}
    with pytest.raises(InputError, match=r"energies of other are 27.* times those of the atoms"):
        judge([dataclasses.replace(p, energies=p.energies | {"other": 27.2 * p.energies["other"]}) for p in parts])


def test_the_sample_is_bounded():
    block = blocks(n=40)[0]
    check = ForceCheck(max_pairs=50)
    looked: list[int] = []
    pairs = check._pairs
    check._pairs = lambda *arguments: (looked.append(1), pairs(*arguments))[1]
    for _ in range(3000):
        check.add(block)
    assert 100 < len(looked) < 140
    assert check.result("x")["level"]["pairs"] < 50 + 40 + 4 * 140


def test_a_mistake_that_begins_late_is_noticed():
    # 200 right blocks, then 2000 with gradients.
    good = blocks(n=40)[0]
    refused([good] * 200 + [changed(good, forces=-1.0)] * 2000, "forces of level point uphill")


PUBLISHED = [
    ("spice", "spice/SPICE-1.1.4_n2.hdf5", None),
    ("comp6", "comp6/s66x8_wb97x6-31gd.h5", None),
    ("md17", "md17/md17_ethanol_2000.npz", None),
    ("md17", "md17/ethanol_ccsd_t-train.npz", None),
    ("rmd17", "rmd17/rmd17_ethanol_train_01.npz", None),
    ("rmd17", "rmd17/rmd17_ethanol_test_02.npz", {"energy": "old_energies", "forces": "old_forces"}),
    ("extxyz", "bpa/train_300K.xyz", None),
    ("extxyz", "bpa/train_mixedT.xyz", None),
]


@pytest.mark.parametrize(("reader", "name", "keys"), PUBLISHED)
def test_published_data(reader, name, keys):
    folder = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set: no published data to read")
    options = {"fidelities": {"level": keys}} if keys else {}
    parts = list(get_reader(reader).load()(Path(folder) / name, entry(reader, **options), 16384))
    report = judge(parts)["level"]
    assert report["verdict"] == "verified"
    assert report["correlation"] > 0.9 and report["slope"] == pytest.approx(1.0, abs=0.05)
    assert report["net_force"] < 5e-3 and report["net_torque"] < 5e-3
    refused([changed(block, forces=-1.0) for block in parts], "point uphill")
    refused([changed(block, forces=BOHR_TO_ANGSTROM) for block in parts], "eV/bohr read as eV/Å")
    refused([changed(block, forces=1 / KCAL_PER_MOL_TO_EV) for block in parts], "kcal/mol/Å read as eV/Å")
    scale = 1 / BOHR_TO_ANGSTROM
    refused([changed(block, positions=scale, forces=1 / scale) for block in parts], "bohr read as Å")
    refused(
        [changed(block, energies=1 / HARTREE_TO_EV, forces=1 / HARTREE_TO_EV) for block in parts], "hartree read as eV"
    )


# ---- energies that are declared to differ by a constant per molecule ----


def with_formation(part: Block, factor: float = 1.0, noise: float = 0.0, atoms: float = 0.99) -> Block:
    """Adds energies less a constant per molecule, which is most of the energy, without forces."""
    energies = part.energies["level"]
    offset = atoms * float(np.median(energies))
    noisy = energies - offset + noise * np.random.default_rng(1).normal(size=len(energies))
    return dataclasses.replace(part, energies={**part.energies, "formation": factor * noisy})


def test_formation_energies_are_compared_with_total_energies():
    parts = [with_formation(part) for part in blocks()]
    report = judge(parts, relative={"formation": "level"})["formation"]
    assert report["verdict"] == "no forces" and "total_energy_ratio" not in report
    assert report["differences"]["of"] == "level" and report["differences"]["groups"] == 2
    assert report["differences"]["largest_deviation_ev"] < 1e-9
    assert json.loads(json.dumps(report)) == report
    # Formation energies are a small part of the total ones, which may look like a confusion of units.
    unlucky = [with_formation(part, atoms=1 - 0.0104) for part in parts]
    with pytest.raises(InputError, match="which looks like eV read as kJ/mol"):
        judge(unlucky)
    assert judge(unlucky, relative={"formation": "level"})["formation"]["verdict"] == "no forces"


@pytest.mark.parametrize("changes", [{"factor": 27.2114}, {"factor": -1.0}, {"noise": 0.1}])
def test_formation_energies_of_another_unit_sign_or_row_are_refused(changes):
    parts = [with_formation(part, **changes) for part in blocks(spread=0.15)]
    with pytest.raises(InputError, match="do not differ from those of level by a constant per molecule") as caught:
        judge(parts, relative={"formation": "level"})
    assert str(caught.value).startswith("data.h5: ") and "\n" not in str(caught.value)


def test_single_broken_rows_do_not_condemn_formation_energies():
    parts = [with_formation(part) for part in blocks() * 2]
    parts[0].energies["formation"][5] += 40.0
    found = judge(parts, relative={"formation": "level"})["formation"]["differences"]
    assert found["largest_deviation_ev"] == pytest.approx(40.0, abs=1e-6) and found["median_deviation_ev"] < 1e-9
