"""Published potentials behind the model interface."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch, RaggedDataset, make_batch
from mlip_studies.models import compat, pretrained
from mlip_studies.models.calculators.ase import MLIPCalculator
from mlip_studies.models.potential import Potential
from mlip_studies.models.pretrained import (
    PretrainedSpec,
    load_pretrained,
    load_pretrained_potential,
    unavailable,
    weights_files,
    weights_sha256,
)
from mlip_studies.units import HARTREE_TO_EV

ANI = ["ani-2x", "ani-1x", "ani-1ccx"]
MOLECULES = ["H2O", "CH3CH2OH", "CH4", "H2", "O"]
DOUBLE = torch.float64


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def pairs_of(names):
    return [(atoms.numbers, atoms.positions) for atoms in map(molecule, names)]


def rotation():
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return q if np.linalg.det(q) > 0 else -q


def finite_difference(model, batch, atom, axis, step=1e-4):
    shift = torch.zeros_like(batch.positions)
    shift[atom, axis] = step
    with torch.no_grad():
        plus = model(batch.with_positions(batch.positions + shift)).sum()
        minus = model(batch.with_positions(batch.positions - shift)).sum()
    return float(-(plus - minus) / (2 * step))


def check_contract(model, names=MOLECULES, tolerance=1e-8, equivariant=True):
    """Symmetries, independence of the batch and of the graph, and forces as gradients."""
    batch = make_batch(pairs_of(names), dtype=DOUBLE)
    energy, forces = model.energy_and_forces(batch)
    assert energy.dtype == torch.float64
    assert energy.shape == (len(names),)
    assert not batch.positions.requires_grad
    assert torch.allclose(model(batch), energy, atol=tolerance, rtol=0)
    if equivariant:
        turn = torch.as_tensor(rotation())
        turned = batch.with_positions(batch.positions @ turn.T + torch.tensor([3.0, -1.0, 2.0], dtype=DOUBLE))
        turned_energy, turned_forces = model.energy_and_forces(turned)
        assert float((turned_energy - energy).abs().max()) < tolerance
        assert float((turned_forces - forces @ turn.T).abs().max()) < tolerance
    # Atoms in another order.
    first = 0
    rng = np.random.default_rng(1)
    for index, (numbers, positions) in enumerate(pairs_of(names)):
        order = rng.permutation(len(numbers))
        own = make_batch([(numbers[order], positions[order])], dtype=DOUBLE)
        own_energy, own_forces = model.energy_and_forces(own)
        assert float((own_energy - energy[index]).abs()) < tolerance
        assert float((own_forces - forces[first : first + len(order)][order]).abs().max()) < tolerance
        first += len(order)
    if not model.direct_forces:
        for atom, axis in ((0, 2), (5, 0), (11, 1)):
            assert finite_difference(model, batch, atom, axis) == pytest.approx(float(forces[atom, axis]), abs=2e-6)
    # A padded batch, and edges in any order.
    arrays = pairs_of(names)
    data = RaggedDataset(
        np.concatenate([numbers for numbers, _ in arrays]),
        np.concatenate([positions for _, positions in arrays]),
        np.concatenate([[0], np.cumsum([len(numbers) for numbers, _ in arrays])]),
        np.zeros(len(arrays)),
        dtype=DOUBLE,
        centre=False,
    )
    padded, _ = data.padded_batch(torch.arange(len(names)), data.budget(len(names)))
    padded_energy, padded_forces = model.energy_and_forces(padded)
    assert padded_energy.shape == (len(names) + 1,)
    assert float((padded_energy[:-1] - energy).abs().max()) < tolerance
    assert float((padded_forces[: len(forces)] - forces).abs().max()) < tolerance
    shuffle = torch.as_tensor(rng.permutation(batch.n_edges))
    directed = GraphBatch(
        batch.atomic_numbers,
        batch.positions,
        batch.graph_index,
        batch.receivers[shuffle],
        batch.senders[shuffle],
        batch.atoms_per_graph,
        batch.fidelity,
    )
    assert float((model(directed) - energy).abs().max()) < tolerance


@pytest.fixture(scope="module")
def ani_folder(reference_data):
    pytest.importorskip("torchani", reason="torchani is not installed")
    folder = reference_data / "weights" / "ani"
    if not folder.is_dir():
        pytest.skip(f"no ANI weights in {folder}")
    return folder


@pytest.fixture(scope="module")
def load_ani(ani_folder):
    """Loads each ensemble once."""
    cache = {}

    def load(name, dtype=DOUBLE):
        if (name, dtype) not in cache:
            cache[name, dtype] = load_pretrained(ani_spec(ani_folder, name), dtype=dtype)
        return cache[name, dtype]

    return load


def ani_spec(folder, name, **options):
    path = folder / f"{name}_8x.info"
    return PretrainedSpec(name, "ani", path, weights_sha256("ani", path), options)


@pytest.mark.parametrize("name", ANI)
def test_ani_equals_torchani_called_directly(ani_folder, load_ani, name, tmp_path, monkeypatch):
    (tmp_path / "Neurochem").symlink_to(ani_folder)
    monkeypatch.setenv("TORCHANI_DATA_DIR", str(tmp_path))
    from torchani.neurochem import load_model_from_info_file

    reference = load_model_from_info_file(tmp_path / "Neurochem" / f"{name}_8x.info").double()
    model = load_ani(name)
    assert model.elements == tuple(reference.atomic_numbers.tolist())
    energy, forces = model.energy_and_forces(make_batch(pairs_of(MOLECULES), dtype=DOUBLE))
    members = model.member_energies(make_batch(pairs_of(MOLECULES), dtype=DOUBLE))
    assert members.shape == (8, len(MOLECULES))
    first = 0
    for index, (numbers, positions) in enumerate(pairs_of(MOLECULES)):
        species = torch.as_tensor(numbers, dtype=torch.int64).unsqueeze(0)
        x = torch.as_tensor(positions).unsqueeze(0).requires_grad_(True)
        expected = reference((species, x)).energies * HARTREE_TO_EV
        (gradient,) = torch.autograd.grad(expected.sum(), x)
        assert float((energy[index] - expected[0]).detach().abs()) < 1e-8
        assert float((forces[first : first + len(numbers)] + gradient[0]).abs().max()) < 1e-10
        each = reference((species, x.detach()), ensemble_values=True).energies[:, 0] * HARTREE_TO_EV
        assert float((members[:, index] - each).detach().abs().max()) < 1e-8
        first += len(numbers)
    assert torch.allclose(members.mean(dim=0), energy, atol=1e-8, rtol=0)
    assert float(members[:, 1].std()) > 1e-4


@pytest.mark.parametrize("name", ANI)
def test_ani_contract(load_ani, name):
    check_contract(load_ani(name))


def test_ani_far_molecules_add_up(load_ani):
    model = load_ani("ani-2x")
    water, methane = pairs_of(["H2O", "CH4"])
    both = (np.concatenate([water[0], methane[0]]), np.concatenate([water[1], methane[1] + [0.0, 0.0, 40.0]]))
    energy = model(make_batch([water, methane, both], dtype=DOUBLE))
    assert float(energy[2]) == pytest.approx(float(energy[0] + energy[1]), abs=1e-9)


def test_ani_energy_is_that_of_the_atoms_beyond_the_cutoff(load_ani):
    model = load_ani("ani-1x")
    atom = ([1], [[0.0, 0.0, 0.0]])
    two = [([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, d]]) for d in (5.3, 9.0, 5.1)]
    energy = model(make_batch([atom, *two], dtype=DOUBLE))
    assert float(energy[1]) == pytest.approx(2 * float(energy[0]), abs=1e-10)
    assert float(energy[2]) == pytest.approx(2 * float(energy[0]), abs=1e-10)
    assert abs(float(energy[3]) - 2 * float(energy[0])) > 1e-6


def test_ani_single_precision(load_ani):
    batch = make_batch(pairs_of(MOLECULES), dtype=DOUBLE)
    exact = load_ani("ani-2x")(batch)
    single = load_ani("ani-2x", torch.float32)
    close = (single(batch.to(dtype=torch.float32)) - exact).abs().max()
    single.sum_as_published = True
    rounded = (single(batch.to(dtype=torch.float32)) - exact).abs().max()
    single.sum_as_published = False
    # A sum in single precision moves in steps of 2.4e-4 eV beyond 2048 eV.
    assert float(close) < 5e-6
    assert 1e-5 < float(rounded) < 5e-3


def test_ani_single_member(ani_folder, load_ani):
    batch = make_batch(pairs_of(MOLECULES), dtype=DOUBLE)
    members = load_ani("ani-1x").member_energies(batch)
    one = load_pretrained(ani_spec(ani_folder, "ani-1x", member=3))
    assert float((one(batch) - members[3]).abs().max()) < 1e-9
    with pytest.raises(InputError) as caught:
        load_pretrained(ani_spec(ani_folder, "ani-1x", member=8))
    assert "0 to 7" in one_line(caught)


def test_ani_unknown_element(load_ani):
    with pytest.raises(InputError) as caught:
        load_ani("ani-1x")(make_batch([([1, 16], [[0, 0, 0], [0, 0, 1.3]])], dtype=DOUBLE))
    assert "unknown element S; the model knows H, C, N, O" in one_line(caught)
    atoms = molecule("SiH4")
    atoms.calc = MLIPCalculator(load_ani("ani-1x"))
    with pytest.raises(InputError) as caught:
        atoms.get_potential_energy()
    assert "unknown element Si" in one_line(caught)


def test_ani_potential_has_no_shifts_and_is_not_saved(ani_folder, load_ani, tmp_path):
    potential = load_pretrained_potential(ani_spec(ani_folder, "ani-1ccx"))
    batch = make_batch(pairs_of(["H2O"]), dtype=DOUBLE, fidelity=[0])
    assert float(potential(batch)) == float(load_ani("ani-1ccx")(batch))
    assert float(potential.reference_energy(batch)) == 0.0
    with pytest.raises(InputError):
        potential.save(tmp_path / "model.safetensors", {})


def test_ani_in_ase_and_torchsim(load_ani):
    torch_sim = pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed", exc_type=ImportError)
    from mlip_studies.models.calculators.torchsim import MLIPTorchSimModel

    potential = Potential.of_total_energies(load_ani("ani-2x"), "ani-2x")
    model = MLIPTorchSimModel(potential)
    molecules = [molecule(name) for name in ("H2O", "CH3CH2OH", "H2O")]
    final = torch_sim.integrate(
        molecules,
        model,
        integrator=torch_sim.nvt_langevin,
        n_steps=5,
        temperature=300.0,
        timestep=0.0005,
        seed=0,
    )
    first = 0
    for index, atoms in enumerate(molecules):
        atoms.positions[:] = final.positions[first : first + len(atoms)].numpy()
        atoms.calc = MLIPCalculator(potential)
        assert float(final.energy[index]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        assert np.abs(final.forces[first : first + len(atoms)].numpy() - atoms.get_forces()).max() < 1e-8
        first += len(atoms)


def copied(folder, target, name="ani-1x"):
    """A copy of the small files and of one network of an ensemble."""
    source = folder / f"{name}_8x"
    own = target / f"{name}_8x"
    (own / "train0" / "networks").mkdir(parents=True)
    for path in [*source.glob("*.params"), source / "sae_linfit.dat"]:
        (own / path.name).write_bytes(path.read_bytes())
    for path in (source / "train0" / "networks").iterdir():
        (own / "train0" / "networks" / path.name).write_bytes(path.read_bytes())
    lines = (folder / f"{name}_8x.info").read_text().split()[:3]
    info = target / "one.info"
    info.write_text("\n".join([*lines, "1"]))
    return info


def test_ani_copy_loads_and_every_file_counts(ani_folder, load_ani, tmp_path):
    info = copied(ani_folder, tmp_path)
    digest = weights_sha256("ani", info)
    batch = make_batch(pairs_of(MOLECULES), dtype=DOUBLE)
    model = load_pretrained(PretrainedSpec("one", "ani", info, digest.upper()))
    assert float((model(batch) - load_ani("ani-1x").member_energies(batch)[0]).abs().max()) < 1e-9
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path).as_posix()}\n"
        for path in sorted(weights_files("ani", info), key=lambda path: path.relative_to(tmp_path).as_posix())
    )
    assert digest == hashlib.sha256(lines.encode()).hexdigest()
    network = tmp_path / "ani-1x_8x" / "train0" / "networks" / "ANN-H.nnf"
    content = network.read_bytes()
    network.write_bytes(content[:-7])
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("one", "ani", info, digest))
    assert "sha256 is" in one_line(caught)
    # With the checksum of the damaged files, the reader's own error becomes one line.
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("one", "ani", info, weights_sha256("ani", info)))
    assert "torchani cannot read these weights" in one_line(caught)
    network.unlink()
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("one", "ani", info, digest))
    assert "sha256 is" in one_line(caught)


def test_ani_info_files_that_make_no_sense(tmp_path):
    info = tmp_path / "model.info"
    for text, words in (
        ("", "four lines"),
        ("a\nb\nc\nmany", "four lines"),
        ("../a\nb\nc\n1", "outside its own folder"),
        ("a\nb\nnetworks/train\n1", "no networks"),
    ):
        info.write_text(text)
        with pytest.raises(InputError) as caught:
            weights_sha256("ani", info)
        assert words in one_line(caught)


GOOD = {"kind": "mace", "path": "weights/mace.model", "sha256": "0" * 64}


def test_specification_from_the_configuration(tmp_path):
    entry = {**GOOD, "options": {"head": "default"}, "licence": "MIT"}
    spec = PretrainedSpec.from_dict("mace-mp", entry, root=tmp_path)
    assert spec.path == tmp_path / "weights" / "mace.model"
    assert (spec.name, spec.kind, spec.options, spec.licence) == ("mace-mp", "mace", {"head": "default"}, "MIT")
    assert (
        PretrainedSpec.from_dict("x", {**GOOD, "path": "/elsewhere/m"}, root=tmp_path).path.as_posix() == "/elsewhere/m"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "nequip"}, "kind 'nequip' is unknown"),
        ({"sha265": "0"}, "'sha265' is unknown"),
        ({"sha256": "12"}, "64 hexadecimal digits"),
        ({"sha256": "z" * 64}, "64 hexadecimal digits"),
        ({"sha256": None}, "'sha256' is missing"),
        ({"path": None}, "'path' is missing"),
        ({"options": {"variant": "orb-v2"}}, "option 'variant' is unknown; mace has head"),
    ],
)
def test_specification_refuses_with_one_line(change, words):
    with pytest.raises(InputError) as caught:
        PretrainedSpec.from_dict("mine", {**GOOD, **change})
    message = one_line(caught)
    assert words in message
    assert message.startswith("mine: ")


class Armed:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled_before_the_checksum_holds(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.PACKAGES, "mace", ("json", "json"))
    trap = tmp_path / "trap"
    path = tmp_path / "armed.model"
    path.write_bytes(pickle.dumps(Armed(trap)))
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("armed", "mace", path, "0" * 64))
    assert f"sha256 is {weights_sha256('mace', path)}, expected {'0' * 64}" in one_line(caught)
    assert not trap.exists()


def test_missing_weights_and_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.PACKAGES, "mace", ("no_such_package_here", "mace-torch"))
    spec = PretrainedSpec.from_dict("mace-mp", GOOD, root=tmp_path)
    assert "the package no_such_package_here is not installed; install mace-torch" in unavailable(spec)
    with pytest.raises(InputError) as caught:
        load_pretrained(spec)
    assert "mace-mp: the package" in one_line(caught)
    monkeypatch.setitem(pretrained.PACKAGES, "mace", ("json", "json"))
    assert "no such file" in unavailable(spec)
    (tmp_path / "weights").mkdir()
    spec.path.write_bytes(b"weights")
    assert unavailable(spec) is None


def test_foreign_imports_put_settings_back(monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    before = torch.get_float32_matmul_precision()
    with compat.foreign_imports():
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_float32_matmul_precision() == before


def imported(name):
    """A module of an optional package, or a skipped test."""
    with compat.foreign_imports():
        return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def mace_file(tmp_path_factory):
    """A small MACE model with random weights, as mace-torch saves it."""
    modules = imported("mace.modules")
    from e3nn import o3

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        network = modules.ScaleShiftMACE(
            r_max=4.0,
            num_bessel=6,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=3,
            hidden_irreps=o3.Irreps("8x0e+8x1o"),
            MLP_irreps=o3.Irreps("4x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.array([-13.6, -1029.0, -2041.0]),
            avg_num_neighbors=5.0,
            atomic_numbers=[1, 6, 8],
            correlation=2,
            atomic_inter_scale=1.3,
            atomic_inter_shift=0.2,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("mace") / "small.model"
    torch.save(network, path)
    return path, network


def test_mace_contract_and_its_own_calculator(mace_file):
    path, network = mace_file
    spec = PretrainedSpec("small", "mace", path, weights_sha256("mace", path))
    model = load_pretrained(spec)
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert (model.elements, model.cutoff) == ((1, 6, 8), pytest.approx(4.0))
    check_contract(model)
    with compat.foreign_imports():
        from mace.calculators import MACECalculator
    for name in MOLECULES:
        atoms = molecule(name)
        own = atoms.copy()
        atoms.calc = MLIPCalculator(load_pretrained_potential(spec))
        own.calc = MACECalculator(models=network, device="cpu", default_dtype="float64")
        assert atoms.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-9)
        assert np.abs(atoms.get_forces() - own.get_forces()).max() < 1e-10


def test_mace_single_precision_and_heads(mace_file):
    path, _ = mace_file
    digest = weights_sha256("mace", path)
    batch = make_batch(pairs_of(MOLECULES), dtype=DOUBLE)
    exact = load_pretrained(PretrainedSpec("small", "mace", path, digest))(batch)
    single = load_pretrained(PretrainedSpec("small", "mace", path, digest), dtype=torch.float32)
    assert float((single(batch.to(dtype=torch.float32)) - exact).abs().max()) < 1e-5
    single.sum_as_published = True
    assert float((single(batch.to(dtype=torch.float32)) - exact).abs().max()) > 1e-5
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("small", "mace", path, digest, {"head": "other"}))
    assert "head 'other'" in one_line(caught)


def test_mace_files_of_something_else(tmp_path):
    imported("mace.modules")
    path = tmp_path / "no.model"
    for content, words in ((b"nothing", "cannot read"), (None, "expected a MACE model")):
        if content is None:
            torch.save({"weights": torch.zeros(2)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_pretrained(PretrainedSpec("no", "mace", path, weights_sha256("mace", path)))
        assert words in one_line(caught)


@pytest.fixture(scope="module")
def orb_spec(tmp_path_factory):
    """The smallest architecture of Orb version 2 with random weights, as orb-models saves them."""
    module = imported("orb_models.forcefield.pretrained")
    from orb_models.forcefield.atomic_system import SystemConfig

    torch.manual_seed(0)
    config = SystemConfig(radius=6.0, max_num_neighbors=20)
    network = module.orb_v2_architecture(num_message_passing_steps=5, device="cpu", system_config=config)
    path = tmp_path_factory.mktemp("orb") / "small.ckpt"
    torch.save(network.state_dict(), path)
    return PretrainedSpec("small", "orb", path, weights_sha256("orb", path), {"variant": "orb-d3-xs-v2"})


def test_orb_contract_and_its_own_calculator(orb_spec):
    model = load_pretrained(orb_spec)
    assert torch.get_default_dtype() == torch.float32
    assert model.direct_forces
    assert len(model.elements) == 89
    check_contract(model, equivariant=False)
    from orb_models.forcefield.calculator import ORBCalculator

    for name in [*MOLECULES, "C6H6"]:
        atoms = molecule(name)
        own = atoms.copy()
        atoms.calc = MLIPCalculator(model)
        own.positions -= own.positions.mean(axis=0)
        torch.set_default_dtype(torch.float64)
        try:
            own.calc = ORBCalculator(model.network, device="cpu")
            assert atoms.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-9)
            assert np.abs(atoms.get_forces() - own.get_forces()).max() < 1e-9
        finally:
            torch.set_default_dtype(torch.float32)


def test_orb_energy_gradient_is_there_and_is_not_the_force(orb_spec):
    model = load_pretrained(orb_spec)
    batch = make_batch(pairs_of(["CH3CH2OH", "H2O"]), dtype=DOUBLE)
    positions = batch.positions.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(batch.with_positions(positions)).sum(), positions)
    for atom, axis in ((0, 1), (10, 2)):
        assert finite_difference(model, batch, atom, axis) == pytest.approx(-float(gradient[atom, axis]), abs=1e-5)
    _, forces = model.energy_and_forces(batch)
    assert float((forces + gradient).abs().max()) > 1e-3
    with pytest.raises(InputError):
        model.energy_and_forces(batch, create_graph=True)


def test_orb_unknown_variant_and_foreign_weights(orb_spec, tmp_path):
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("small", "orb", orb_spec.path, orb_spec.sha256, {"variant": "orb-v9"}))
    assert "variant 'orb-v9' is unknown" in one_line(caught)
    path = tmp_path / "other.ckpt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError) as caught:
        load_pretrained(PretrainedSpec("x", "orb", path, weights_sha256("orb", path), {"variant": "orb-v2"}))
    assert "cannot read these weights as orb-v2" in one_line(caught)


def test_isolated_atom_in_a_calculator(load_ani):
    atoms = Atoms("O", [[1.0, 2.0, 3.0]])
    atoms.calc = MLIPCalculator(load_ani("ani-2x"))
    assert -2100.0 < atoms.get_potential_energy() < -2000.0
    assert np.array_equal(atoms.get_forces(), np.zeros((1, 3)))
