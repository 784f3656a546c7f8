"""A potential's energies, its file, and the checks of molecules."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import RaggedDataset, make_batch
from mlip_studies.models.checks import check_molecule, check_molecules, check_positions, count_edges
from mlip_studies.models.potential import _KEY, Potential, _digest, load_potential
from mlip_studies.models.registry import build_model

NAME = "egnn_rff_as_coded"
OPTIONS = {"encoding": "flag", "hidden": 16}
SHIFTS = {"high": [-13.0, -1035.0, -1488.0, -2045.0], "low": [-13.1, -1036.0, -1489.0, -2046.0]}
WATER = ([8, 1, 1], [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
METHANE = (
    [6, 1, 1, 1, 1],
    [[0, 0, 0], [0.629, 0.629, 0.629], [-0.629, -0.629, 0.629], [-0.629, 0.629, -0.629], [0.629, -0.629, -0.629]],
)


def make_potential(dtype=torch.float32, **arguments):
    torch.manual_seed(5)
    model = build_model(NAME, OPTIONS).to(dtype)
    return Potential(model, NAME, OPTIONS, arguments.pop("shifts", SHIFTS), **arguments).eval()


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_energy_is_scaled_model_energy_plus_shifts_plus_constant():
    potential = make_potential(torch.float64, scale=2.5, constant=0.75)
    batch = make_batch([WATER, METHANE], dtype=torch.float64, fidelity=[0, 1])
    energy, forces = potential.energy_and_forces(batch)
    model_energy, model_forces = potential.model.energy_and_forces(batch)
    reference = torch.tensor([-2045.0 - 2 * 13.0, -1036.0 - 4 * 13.1], dtype=torch.float64) + 0.75
    assert torch.allclose(energy, 2.5 * model_energy + reference, atol=1e-12, rtol=0)
    assert torch.allclose(forces, 2.5 * model_forces, atol=1e-12, rtol=0)
    assert torch.allclose(potential(batch), energy, atol=1e-12, rtol=0)


def test_forces_are_the_gradient_of_the_total_energy():
    potential = make_potential(torch.float64, scale=0.7, constant=-3.0)
    batch = make_batch([WATER, METHANE], dtype=torch.float64)
    _, forces = potential.energy_and_forces(batch)
    step = 1e-5
    for atom, axis in ((0, 2), (4, 1)):
        shift = torch.zeros_like(batch.positions)
        shift[atom, axis] = step
        with torch.no_grad():
            plus = potential(batch.with_positions(batch.positions + shift)).sum()
            minus = potential(batch.with_positions(batch.positions - shift)).sum()
        assert float(-(plus - minus) / (2 * step)) == pytest.approx(float(forces[atom, axis]), abs=1e-6)


def test_forces_can_be_differentiated():
    potential = make_potential(torch.float64, scale=1.5)
    _, forces = potential.energy_and_forces(make_batch([WATER], dtype=torch.float64), create_graph=True)
    forces.square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in potential.parameters())


def test_references_stay_double_whatever_the_weights():
    shifts = {"high": [-13.123456789012345, -1035.1, -1488.2, -2045.3]}
    potential = make_potential(torch.float64, shifts=shifts, scale=1 / 3, constant=1 / 7)
    for each in (potential.float(), potential.half(), potential.double(), potential.to(torch.float32)):
        assert each.shifts.dtype == each.scale.dtype == each.constant.dtype == torch.float64
        assert float(each.shifts[0, 1]) == -13.123456789012345
        assert float(each.scale) == 1 / 3
        assert float(each.constant) == 1 / 7
    assert potential.dtype == torch.float32
    assert potential.double().dtype == torch.float64
    batch = make_batch([WATER] * 2)
    assert potential.float()(batch).dtype == torch.float64


def test_single_precision_does_not_round_total_energies():
    batch = make_batch([WATER], dtype=torch.float64, fidelity=[0])
    exact = make_potential(torch.float32).double()(batch)
    single = make_potential(torch.float32)(batch.to(dtype=torch.float32))
    # One step of single precision at 2000 eV is 1.2e-4 eV.
    assert abs(float((single - exact).detach())) < 5e-6


def test_one_fidelity_serves_both():
    potential = make_potential(torch.float64, shifts={"high": SHIFTS["high"]})
    assert torch.equal(potential.shifts[0].nan_to_num(), potential.shifts[1].nan_to_num())


def test_elements_may_be_fewer_than_the_models():
    potential = make_potential(torch.float64, shifts={"high": [-2045.0, -13.0]}, elements=(8, 1))
    assert potential.elements == (8, 1)
    batch = make_batch([WATER, METHANE], dtype=torch.float64)
    energy = potential(batch)
    assert float(energy[0]) == pytest.approx(float(potential.model(batch)[0]) - 2071.0, abs=1e-9)
    # Carbon was not trained: nothing that looks like an energy.
    assert bool(energy[1].isnan())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"elements": (1, 14)}, "expected some of those that the model knows"),
        ({"elements": (1, 1)}, "each once"),
        ({"shifts": {"high": [0.0]}}, "expected 4 finite energies"),
        ({"shifts": {"high": [0.0, 0.0, 0.0, float("nan")]}}, "finite"),
        ({"shifts": {}}, "no shifts"),
        ({"scale": float("inf")}, "finite"),
    ],
)
def test_constructor_refuses_what_does_not_fit(arguments, words):
    with pytest.raises(InputError) as caught:
        make_potential(**arguments)
    assert words in one_line(caught)


def test_padded_and_ragged_batches_agree():
    potential = make_potential(torch.float64)
    numbers = np.array(WATER[0] + METHANE[0])
    positions = np.concatenate([WATER[1], METHANE[1]])
    data = RaggedDataset(numbers, positions, np.array([0, 3, 8]), np.zeros(2), dtype=torch.float64)
    budget = data.budget(2)
    padded, _ = data.padded_batch(torch.arange(2), budget)
    ragged, _ = data.batch(np.arange(2))
    expected = potential.reference_energy(ragged)
    assert torch.allclose(potential.reference_energy(padded)[:2], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_file_round_trip_is_exact(tmp_path, dtype):
    potential = make_potential(dtype, scale=1.25, constant=-0.5, elements=(1, 6, 8), shifts={"high": [1.0, 2.0, 1 / 3]})
    path = tmp_path / "model.safetensors"
    potential.save(path, {"run": {"seed": 3}, "note": "Å"})
    loaded, header = load_potential(path)
    assert header["provenance"] == {"run": {"seed": 3}, "note": "Å"}
    assert header["units"] == {"energy": "eV", "length": "angstrom"}
    assert header["dtype"] == str(dtype).removeprefix("torch.")
    assert loaded.elements == (1, 6, 8)
    assert loaded.dtype == dtype
    assert not loaded.training
    batch = make_batch([WATER, METHANE], dtype=dtype)
    for one, other in zip(potential.energy_and_forces(batch), loaded.energy_and_forces(batch), strict=True):
        assert torch.equal(one, other)
    double, _ = load_potential(path, dtype=torch.float64)
    assert double.dtype == torch.float64
    expected = potential.double()(batch.to(dtype=torch.float64))
    assert torch.equal(double(batch.to(dtype=torch.float64)), expected)


def test_file_holds_no_pickle(tmp_path):
    path = tmp_path / "model.safetensors"
    make_potential().save(path, {})
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    tensors = [entry for key, entry in header.items() if key != "__metadata__"]
    assert len(content) == 8 + size + sum(end - start for start, end in (entry["data_offsets"] for entry in tensors))


def test_model_outside_the_catalog_is_not_saved(tmp_path):
    potential = make_potential()
    potential.name = "ani-2x"
    with pytest.raises(InputError) as caught:
        potential.save(tmp_path / "model.safetensors", {})
    assert "cannot be saved" in one_line(caught)
    assert list(tmp_path.iterdir()) == []


def rewritten(tmp_path, change, sign=True):
    """A potential's file after ``change(header, tensors)``, with a checksum that holds (or the old one)."""
    source = tmp_path / "good.safetensors"
    make_potential().save(source, {})
    with safe_open(source, framework="pt") as stream:
        header = json.loads(stream.metadata()[_KEY])
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    change(header, tensors)
    if sign:
        header["sha256"] = _digest(header, tensors)
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path, metadata={_KEY: json.dumps(header, sort_keys=True)})
    return path


def drop(mapping, key):
    del mapping[key]


WEIGHT = "model.head.0.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header, _: header.update(format="another"), "format 'another'"),
        (lambda header, _: header.update(version=1), "version 1"),
        (lambda header, _: header["units"].update(energy="hartree"), "units"),
        (lambda header, _: header.update(model="schrodinger"), "unknown"),
        (lambda header, _: header.update(options={"hiden": 3}), "hiden"),
        (lambda header, _: header.update(options={**OPTIONS, "hidden": 32}), "the model has torch.float32"),
        (lambda header, _: header.update(elements=[1, 79]), "expected some of those that the model knows"),
        (lambda header, _: header.update(elements=[1, 6, 8]), "elements do not belong together"),
        (lambda header, _: drop(header, "options"), "incomplete header"),
        (lambda header, _: header.update(dtype="float64"), "the model has torch.float64"),
        (lambda _, tensors: drop(tensors, WEIGHT), f"{WEIGHT}' missing"),
        (lambda _, tensors: drop(tensors, "scale"), "'scale' missing"),
        (lambda _, tensors: tensors.update(more=torch.zeros(1)), "unknown to the model"),
        (lambda _, tensors: tensors.update({WEIGHT: tensors[WEIGHT][:, :3].contiguous()}), "(16, 3)"),
        (lambda _, tensors: tensors[WEIGHT].fill_(float("nan")), "not finite"),
    ],
)
def test_files_that_do_not_fit_stop_with_one_line(tmp_path, change, words):
    path = rewritten(tmp_path, change)
    with pytest.raises(InputError) as caught:
        load_potential(path)
    message = one_line(caught)
    assert words in message
    assert str(path) in message


def test_changed_weights_are_noticed_without_a_record_beside_the_file(tmp_path):
    path = rewritten(tmp_path, lambda _, tensors: tensors[WEIGHT].mul_(1.001), sign=False)
    with pytest.raises(InputError) as caught:
        load_potential(path)
    assert "checksum" in one_line(caught)


def test_unchanged_rewriting_loads(tmp_path):
    potential, _ = load_potential(rewritten(tmp_path, lambda header, tensors: None))
    assert potential.elements == (1, 6, 7, 8)


@pytest.mark.parametrize("kept", [0, 4, 200, 5000, -1])
def test_truncated_files_stop_with_one_line(tmp_path, kept):
    source = tmp_path / "good.safetensors"
    make_potential().save(source, {})
    path = tmp_path / "short.safetensors"
    path.write_bytes(source.read_bytes()[:kept])
    with pytest.raises(InputError) as caught:
        load_potential(path)
    assert str(path) in one_line(caught)


def test_foreign_and_missing_files_stop_with_one_line(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    text = tmp_path / "text.safetensors"
    text.write_text("not weights at all, but long enough to have a header length\n" * 4)
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    for path in (foreign, text, folder, tmp_path / "missing.safetensors"):
        with pytest.raises(InputError) as caught:
            load_potential(path)
        assert str(path) in one_line(caught)


def random_molecule(n, seed=0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(int(np.ceil(n ** (1 / 3))))] * 3), axis=-1).reshape(-1, 3)[:n]
    return np.full(n, 6), 1.5 * grid + rng.normal(scale=0.05, size=(n, 3))


@pytest.mark.parametrize("n", [1, 2, 7, 20, 300])
def test_good_molecules_pass(n):
    numbers, positions = random_molecule(n)
    check_molecule(numbers, positions, (1, 6), max_atoms=n, max_edges=n * n)
    check_molecules(np.tile(numbers, 3), np.tile(positions, (3, 1)), [0, n, 2 * n, 3 * n], (1, 6))


@pytest.mark.parametrize("n", [2, 7, 20, 300])
def test_coincident_atoms_are_named(n):
    numbers, positions = random_molecule(n)
    good = positions.copy()
    positions[n - 1] = positions[0] + [0.0, 5e-4, 0.0]
    with pytest.raises(InputError) as caught:
        check_molecule(numbers, positions, name="thing")
    assert f"molecule (thing): atoms 0 and {n - 1} coincide (0.0005 Å apart)" in one_line(caught)
    with pytest.raises(InputError) as caught:
        check_molecules(np.tile(numbers, 2), np.concatenate([good, positions]), [0, n, 2 * n])
    assert f"molecule 1: atoms 0 and {n - 1} coincide" in one_line(caught)
    positions[n - 1] = positions[0] + [0.0, 2e-3, 0.0]
    check_positions(positions)
    check_molecules(np.tile(numbers, 2), np.concatenate([good, positions]), [0, n, 2 * n])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_named(value):
    numbers, positions = random_molecule(6)
    positions[4, 1] = value
    with pytest.raises(InputError) as caught:
        check_molecule(numbers, positions, index=12)
    assert "molecule 12: positions of atoms 4 are not finite" in one_line(caught)
    with pytest.raises(InputError) as caught:
        check_molecules(numbers, positions, [0, 3, 6])
    assert "molecule 1: positions of atoms 1 are not finite" in one_line(caught)


def test_unknown_elements_are_named():
    with pytest.raises(InputError) as caught:
        check_molecule([6, 14, 1, 119], np.eye(4, 3) * 3, (1, 6, 8), name="SiCH")
    message = one_line(caught)
    assert "unknown element Si, atomic number 119 (atoms 1, 3)" in message
    assert "knows H, C, O" in message
    with pytest.raises(InputError) as caught:
        check_molecules([1, 1, 6, 14], np.eye(4, 3) * 3, [0, 2, 4], (1, 6))
    assert "molecule 1: unknown element Si (atoms 1)" in one_line(caught)


def test_empty_molecules_and_wrong_shapes():
    with pytest.raises(InputError) as caught:
        check_molecule([], np.zeros((0, 3)), index=2)
    assert "molecule 2: no atoms" in one_line(caught)
    with pytest.raises(InputError) as caught:
        check_molecules([1, 1], np.eye(2, 3), [0, 1, 1, 2])
    assert "molecule 1: no atoms" in one_line(caught)
    for numbers, positions in (([1, 1], np.zeros((3, 3))), ([1], np.zeros((1, 2))), ([[1]], np.zeros((1, 3)))):
        with pytest.raises(InputError) as caught:
            check_molecule(numbers, positions)
        assert "expected (n,) and (n, 3)" in one_line(caught)
    with pytest.raises(InputError) as caught:
        check_molecules([1, 1], np.zeros((2, 3)), [0, 1])
    assert "belong together" in one_line(caught)


def test_limits_of_one_molecule():
    numbers, positions = random_molecule(27)
    with pytest.raises(InputError) as caught:
        check_molecule(numbers, positions, max_atoms=26)
    assert "27 atoms, more than the limit of 26" in one_line(caught)
    edges = count_edges(positions, 1.8)
    assert edges == 2 * 54  # the bonds of a cubic grid of 3 x 3 x 3 atoms
    assert count_edges(positions, None) == 27 * 26
    check_molecule(numbers, positions, cutoff=1.8, max_edges=edges)
    check_molecules(numbers, positions, [0, 27], cutoff=1.8, max_edges=edges)
    for check in (
        lambda: check_molecule(numbers, positions, cutoff=1.8, max_edges=edges - 1),
        lambda: check_molecules(numbers, positions, [0, 27], cutoff=1.8, max_edges=edges - 1),
    ):
        with pytest.raises(InputError) as caught:
            check()
        assert "108 edges within 1.8 Å, more than the limit of 107" in one_line(caught)


def test_edges_of_large_molecules_are_counted_by_a_tree():
    _, positions = random_molecule(300)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    expected = int((distance <= 3.1).sum()) - 300
    assert count_edges(positions, 3.1) == expected
