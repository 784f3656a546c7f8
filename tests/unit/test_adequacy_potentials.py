"""Potentials of all kinds behind one interface: what they say of structures, scans, symmetries and cost."""

import json
import runpy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed

from mlip_studies.adequacy import potentials, symmetry
from mlip_studies.adequacy.cost import CostConfig, alkane, cost_config, fit_exponent, measure_cost, time_evaluator
from mlip_studies.adequacy.potentials import (
    NetworkEvaluator,
    describe,
    entry_family,
    open_evaluator,
    precisions,
    resolve,
    unavailable,
    write_descriptions,
)
from mlip_studies.adequacy.run_scan import isolated_atoms, net_force, net_torque, run_scan, run_scans, scan_table
from mlip_studies.adequacy.scans import Scan, build_scan, write_scan
from mlip_studies.adequacy.structures import Structure
from mlip_studies.adequacy.symmetry import (
    LIMITS,
    SymmetryConfig,
    drift,
    environment_pairs,
    nve,
    symmetry_config,
    symmetry_report,
    symmetry_table,
)
from mlip_studies.dft.levels import DFT_LEVELS
from mlip_studies.errors import InputError
from mlip_studies.graph.scatter import gather
from mlip_studies.models import compat
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.potential import Potential
from mlip_studies.models.pretrained import weights_sha256
from mlip_studies.models.registry import build_model

XTB = {"xtb": "GFN2-xTB"}
ZEROS = "0" * 64


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def structure(name, **options):
    atoms = molecule(name)
    return Structure(atoms.numbers, atoms.positions, name, **options)


class Springs(AtomisticModel):
    """Pairs with a Morse-like energy, and whatever a test adds to it."""

    elements, cutoff = (1, 6, 8), 6.0

    def __init__(self, extra=None, field=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.extra, self.field = extra, field
        self.direct_forces = field is not None
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(batch.n_graphs)
        distance = batch.edge_vectors().norm(dim=1)
        pairs = 0.5 * self.weight * ((1.0 - torch.exp(1.2 - distance)) ** 2 - 1.0)
        energy = batch.positions.new_zeros(batch.n_graphs)
        energy = energy.index_add(0, gather(batch.graph_index, batch.receivers), pairs)
        energy = energy + batch.sum_atoms(-10.0 * batch.atomic_numbers.to(pairs.dtype))
        return energy if self.extra is None else energy + self.extra(batch)

    def energy_and_forces(self, batch, create_graph=False):
        energy, forces = super().energy_and_forces(batch, create_graph)
        return energy, forces if self.field is None else forces + self.field(batch)


def evaluator(extra=None, field=None, precision="float64"):
    model = Springs(extra, field)
    potential = Potential.of_total_energies(model, "springs")
    return NetworkEvaluator({"name": "springs", "trained": "x", "level": "a level"}, precision, potential)


def per_graph(batch, values):
    """Sum of values of atoms over each molecule."""
    return values.new_zeros(batch.n_graphs).index_add(0, batch.graph_index, values)


def test_batches_of_any_molecules_are_as_one_by_one(monkeypatch):
    springs = evaluator()
    names = ["H2O", "CH4", "C6H6", "H2", "O", "CH3CH2OH"]
    all_of_them = [structure(name) for name in names]
    together = springs.evaluate(all_of_them)
    assert together.status == ["ok"] * len(names)
    assert springs.potential.model.sizes == [len(names)]
    for index, each in enumerate(all_of_them):
        alone = springs.evaluate([each])
        assert together.energy_ev[index] == pytest.approx(alone.energy_ev[0], abs=1e-10)
        assert together.forces_ev_per_angstrom[index].shape == (len(each), 3)
        assert np.allclose(together.forces_ev_per_angstrom[index], alone.forces_ev_per_angstrom[0], atol=1e-12)
    monkeypatch.setattr(potentials, "ATOMS_AT_ONCE", 9)
    springs.potential.model.sizes.clear()
    again = springs.evaluate(all_of_them)
    assert springs.potential.model.sizes == [2, 1, 2, 1]
    assert np.allclose(again.energy_ev, together.energy_ev, atol=1e-10, rtol=0)
    monkeypatch.setattr(potentials, "ATOMS_AT_ONCE", 1024)
    monkeypatch.setattr(potentials, "QUADRUPLETS_AT_ONCE", 2 * 3**4)
    springs.potential.model.sizes.clear()
    springs.evaluate([structure("H2O")] * 5)
    assert springs.potential.model.sizes == [2, 2, 1]
    assert len(springs.evaluate([])) == 0


def test_a_point_that_raises_or_has_no_number_is_marked_and_the_others_go_on():
    def trouble(batch):
        # Molecules near 3 Å stop the whole batch, those near 4 Å have no number.
        span = per_graph(batch, batch.positions[:, 2].detach())
        if bool(((span - 3.0).abs() < 0.05).any()):
            raise RuntimeError("no\nsuch table entry")
        return torch.where((span - 4.0).abs() < 0.05, torch.nan, 0.0).to(span.dtype)

    springs = evaluator(trouble)
    lengths = np.arange(1.0, 6.1, 0.5)
    points = [Structure([1, 1], [[0, 0, 0], [0, 0, r]], f"h2 {r}") for r in lengths]
    found = springs.evaluate(points)
    expected = ["ok"] * len(lengths)
    expected[4], expected[6] = "failed", "not_finite"
    assert found.status == expected
    assert found.message[4] == "RuntimeError: no such table entry"
    assert "energy" in found.message[6]
    good = evaluator().evaluate(points)
    assert np.allclose(found.energy_ev[found.ok], good.energy_ev[found.ok], atol=1e-12)
    assert np.isnan(found.energy_ev[[4, 6]]).all()
    assert np.isnan(found.forces_ev_per_angstrom[6]).all()
    assert np.isfinite(found.forces_ev_per_angstrom[5]).all()


def test_a_model_without_any_number_is_marked_everywhere():
    springs = evaluator(lambda batch: per_graph(batch, batch.positions[:, 0] * torch.nan))
    assert springs.evaluate([structure("H2O"), structure("CH4")]).status == ["not_finite"] * 2


def test_forces_without_a_number_are_found():
    springs = evaluator(field=lambda batch: torch.full_like(batch.positions, torch.inf))
    found = springs.evaluate([structure("H2O")])
    assert found.status == ["not_finite"]
    assert "forces" in found.message[0]
    assert np.isnan(found.energy_ev[0])


def test_unsupported_elements_charges_and_coincident_atoms():
    springs = evaluator()
    assert springs.supports([1, 6, 8]) is None
    assert springs.supports([27, 6]) == "no cobalt"
    assert springs.supports([27, 5, 1], -1) == "no boron and no cobalt; charged"
    cluster = Structure([27, 6], [[0, 0, 0], [0, 0, 2.0]], "cluster")
    hydroxide = Structure([8, 1], [[0, 0, 0], [0, 0, 0.97]], "hydroxide", charge=-1)
    coincident = Structure([1, 1], [[0, 0, 0], [0, 0, 0]], "twice")
    found = springs.evaluate([cluster, structure("H2O"), hydroxide, coincident, structure("CH4")])
    assert found.status == ["unsupported", "ok", "unsupported", "failed", "ok"]
    assert found.message[:4] == ["no cobalt", "", "charged", found.message[3]]
    assert "coincide" in found.message[3]
    assert open_evaluator(XTB).supports([27, 5, 1], -1) is None
    assert open_evaluator(XTB).supports([92]) == "no uranium"


def test_ase_calculator_of_any_potential():
    atoms = molecule("H2O")
    springs = evaluator()
    atoms.calc = springs.calculator()
    found = springs.evaluate([structure("H2O")])
    assert atoms.get_potential_energy() == pytest.approx(found.energy_ev[0])
    assert np.allclose(atoms.get_forces(), found.forces_ev_per_angstrom[0])
    foreign = molecule("SiH4")
    foreign.calc = springs.calculator()
    with pytest.raises(CalculationFailed, match="no silicon"):
        foreign.get_potential_energy()
    atoms.pbc = True
    with pytest.raises(InputError):
        atoms.get_potential_energy()


# ---- what is at hand ----


def pretrained_entry(path, digest=ZEROS, kind="mace", **more):
    return {"name": "mine", "pretrained": "mine", "kind": kind, "path": str(path), "sha256": digest, **more}


def test_reasons_why_a_potential_cannot_be_run(tmp_path, monkeypatch):
    assert unavailable(pretrained_entry("x", requires=["no-such-package-here>=1"])) == (
        "the package no-such-package-here is not installed; install no-such-package-here>=1"
    )
    old = unavailable(pretrained_entry("x", requires=["numpy<1.0"]))
    assert old.startswith("numpy ")
    assert old.endswith("is installed; it needs numpy<1.0")
    with pytest.raises(InputError) as caught:
        unavailable(pretrained_entry("x", requires=["numpy !! 3"]))
    assert "requires 'numpy !! 3'" in one_line(caught)
    # With the packages there, the weights are looked at.
    monkeypatch.setitem(potentials.REQUIREMENTS, "mace", ("numpy",))
    monkeypatch.setattr("mlip_studies.models.pretrained.PACKAGES", {"mace": ("json", "json")})
    assert "key 'weights'" in unavailable({**pretrained_entry("x"), "path": None})
    path = tmp_path / "weights.model"
    assert "no such file" in unavailable(pretrained_entry(path))
    path.write_bytes(b"weights")
    digest = weights_sha256("mace", path)
    assert f"sha256 is {digest}, expected {ZEROS}" in unavailable(pretrained_entry(path))
    assert unavailable(pretrained_entry(path, digest)) is None
    with pytest.raises(InputError) as caught:
        open_evaluator(pretrained_entry(path))
    assert one_line(caught).startswith(f"potential mine: {path}: sha256 is")


def test_reasons_for_methods_and_trained_potentials(tmp_path):
    assert "did you mean 'GFN2-xTB'" in unavailable({"xtb": "GFN2xTB"})
    assert "no level 'pbe0/none'" in unavailable({"level": "pbe0/none"})
    assert "not trained yet" in unavailable({"trained": str(tmp_path / "model.safetensors")})
    assert unavailable({"trained": {"study": "a", "run": "b"}}) == "no path: not trained yet"
    with pytest.raises(InputError) as caught:
        open_evaluator({"trained": str(tmp_path / "model.safetensors")})
    assert "not trained yet" in one_line(caught)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "a"}, "0 of the keys"),
        ({"xtb": "GFN2-xTB", "trained": "x"}, "2 of the keys"),
        ({"xtb": "GFN2-xTB", "prcision": "float64"}, "did you mean 'precision'"),
        ({"pretrained": "a", "kind": "nequip"}, "choose one of ani, mace, orb"),
        ({"xtb": "GFN2-xTB", "precision": "float32"}, "choose of float64"),
    ],
)
def test_mistakes_in_an_entry_are_one_line(entry, words):
    with pytest.raises(InputError) as caught:
        precisions(entry)
    assert words in one_line(caught)


def test_precision_of_entries():
    assert precisions(XTB) == ("float64",)
    assert precisions({"trained": "x"}) == ("float64", "float32")
    assert precisions({"trained": "x", "precision": "float32"}) == ("float32",)
    for precision in ("float32", "float16"):
        with pytest.raises(InputError) as caught:
            open_evaluator(XTB, precision)
        assert precision in one_line(caught)


def test_entries_of_the_configuration_are_resolved():
    published = {"ani2x": {"title": "ANI-2x", "kind": "ani", "path": "/w/ani", "sha256": ZEROS, "level": "wb97x"}}
    pattern = "out/{study}/runs/{run}/model"
    entry = resolve("first", {"pretrained": "ani2x", "title": "mine"}, published, pattern)
    assert (entry["name"], entry["title"], entry["path"], entry_family(entry)) == ("first", "mine", "/w/ani", "ani")
    entry = resolve("second", {"trained": {"study": "s", "run": "r"}}, published, pattern)
    assert entry["path"] == "out/s/runs/r/model"
    assert entry_family(resolve("third", {"level": "pbe-d3(bj)/def2-svp"}, published, pattern)) == "dft"
    for bad in ({"pretrained": "ani3x"}, {"trained": {"study": "s"}}):
        with pytest.raises(InputError) as caught:
            resolve("fourth", bad, published, pattern)
        assert "potential fourth" in one_line(caught)


def saved_network(path):
    options = {"hidden": 8, "filters": 8, "n_layers": 1, "n_gaussians": 5, "elements": [1, 6, 8]}
    torch.manual_seed(0)
    model = build_model("schnet", options)
    elements = list(model.elements)
    Potential(model, "schnet", options, {"high": [-1.0] * len(elements)}, elements=elements).save(path, {})
    return path


def test_trained_potentials_and_their_description(tmp_path):
    path = saved_network(tmp_path / "model.safetensors")
    entry = {"trained": {"study": "s", "run": "r"}, "path": str(path), "title": "ours"}
    double, single = (open_evaluator(entry, precision) for precision in ("float64", "float32"))
    assert double.family == "trained"
    assert len(double.sha256) == 64
    water = structure("H2O")
    exact, rounded = double.evaluate([water]), single.evaluate([water])
    assert exact.status == rounded.status == ["ok"]
    assert exact.energy_ev[0] == pytest.approx(rounded.energy_ev[0], abs=1e-3)
    assert unavailable({**entry, "sha256": ZEROS}).startswith(f"{path}: sha256 is")
    entries = {
        "ours": entry,
        "gfn2": XTB,
        "gone": pretrained_entry("x", requires=["no-such-package-here"], cutoff=5.0),
        "not-yet": {"trained": str(tmp_path / "other")},
    }
    write_descriptions(entries, tmp_path / "potentials.json", tmp_path / "unavailable.json")
    described = {each["name"]: each for each in json.loads((tmp_path / "potentials.json").read_text())}
    missing = json.loads((tmp_path / "unavailable.json").read_text())
    assert set(missing) == {"gone", "not-yet"}
    assert list(described) == list(entries)
    assert described["ours"]["available"]
    assert described["ours"]["sha256"] == double.sha256
    assert described["gfn2"]["level"] == "GFN2-xTB"
    assert described["gone"]["reason"] == missing["gone"]
    assert described["gone"]["cutoff"] == 5.0
    path.write_bytes(b"damaged")
    assert not describe(entry)["available"]
    assert "checksum" in describe(entry)["reason"]


# ---- methods without weights ----


def test_xtb_is_tblite_and_knows_atoms_and_charges():
    from tblite.ase import TBLite

    gfn2 = open_evaluator(XTB)
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    found = gfn2.evaluate([structure("CH3CH2OH")])
    assert found.energy_ev[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert np.abs(found.forces_ev_per_angstrom[0] - atoms.get_forces()).max() < 1e-4
    hydroxide = Structure([8, 1], [[0, 0, 0], [0, 0, 0.97]], "hydroxide", charge=-1)
    radical = replace(hydroxide, charge=0, multiplicity=2)
    energies = gfn2.evaluate([hydroxide, radical]).energy_ev
    assert np.isfinite(energies).all()
    assert energies[0] < energies[1]


def test_xtb_without_convergence_is_marked(monkeypatch):
    from tblite import interface

    original = interface.Calculator.singlepoint

    def stubborn(self, *arguments, **options):
        if self._natoms == 3:
            raise RuntimeError("SCF not converged in 250 cycles")
        return original(self, *arguments, **options)

    monkeypatch.setattr(interface.Calculator, "singlepoint", stubborn)
    found = open_evaluator(XTB).evaluate([structure("H2"), structure("H2O"), structure("CH4")])
    assert found.status == ["ok", "not_converged", "ok"]
    assert "250 cycles" in found.message[1]


def test_dft_energies_forces_and_fields_that_do_not_converge(monkeypatch):
    from mlip_studies.dft.run import run_dft
    from mlip_studies.units import HARTREE_TO_EV

    level = "pbe-d3(bj)/def2-svp"
    pbe = open_evaluator({"level": level})
    hydrogen = structure("H2")
    found = pbe.evaluate([hydrogen, Structure([1], [[0, 0, 0]], "H", multiplicity=2), Structure([1], [[0, 0, 0]], "H")])
    direct, _ = run_dft(hydrogen.atomic_numbers, hydrogen.positions, DFT_LEVELS[level])
    assert found.status == ["ok", "ok", "failed"]
    assert "spin" in found.message[2]
    assert found.energy_ev[0] == pytest.approx(direct.energy * HARTREE_TO_EV, abs=1e-7)
    assert found.forces_ev_per_angstrom[0] == pytest.approx(direct.forces * HARTREE_TO_EV, abs=1e-7)
    assert pbe.supports([1, 27], -1) is None
    assert pbe.supports([118]) == "no oganesson"
    monkeypatch.setitem(DFT_LEVELS, "short", replace(DFT_LEVELS[level], name="short", max_cycle=1))
    lost = open_evaluator({"level": "short"}).evaluate([hydrogen])
    assert lost.status == ["not_converged"]
    assert np.isnan(lost.energy_ev).all()


# ---- published networks ----


@pytest.fixture(scope="module")
def ani_entry(reference_data):
    pytest.importorskip("torchani", reason="torchani is not installed")
    path = reference_data / "weights" / "ani" / "ani-1x_8x.info"
    if not path.is_file():
        pytest.skip(f"no ANI weights at {path}")
    digest = weights_sha256("ani", path)
    return pretrained_entry(path, digest, "ani", title="ANI-1x", licence="MIT", options={"member": 0})


def test_ani_in_both_precisions(ani_entry):
    double, single = (open_evaluator(ani_entry, precision) for precision in ("float64", "float32"))
    assert (double.family, double.title, double.licence, double.cutoff) == ("ani", "ANI-1x", "MIT", pytest.approx(5.2))
    assert double.supports([9, 6]) == "no fluorine"
    points = build_scan("translation-ethanol", {"points": 12}).structures
    exact, rounded = double.evaluate(points), single.evaluate(points)
    assert exact.status == ["ok"] * 12
    assert np.ptp(exact.energy_ev) < 1e-9
    # As the packages run it: in steps of a single-precision sum, of 2.4e-4 eV and more.
    assert 1e-6 < np.abs(rounded.energy_ev - exact.energy_ev).max() < 5e-3


def test_ani_central_atoms_and_its_table(ani_entry, tmp_path):
    double = open_evaluator(ani_entry)
    pairs = environment_pairs()
    for each in (structure for pair in pairs.values() for structure in pair):
        parts = double.atomic_energies(each)
        assert parts.shape == (len(each),)
        assert parts.sum() == pytest.approx(double.evaluate([each]).energy_ev[0], abs=1e-9)
    assert double.atomic_energies(Structure([27], [[0, 0, 0]], "Co")) is None
    settings = {"molecules": ["water"], "nve_steps": 40, "rotations": 3, "translations": 2}
    symmetry_report(ani_entry, "float64", tmp_path / "table.csv", settings)
    table = pd.read_csv(tmp_path / "table.csv").set_index("test")
    assert set(table.index) == set(LIMITS)
    assert (table["status"] == "ok").all()
    exact = ["rotation_energy_spread_ev", "translation_energy_spread_ev", "permutation_energy_ev", "extensivity_ev"]
    assert (table.loc[exact, "value"] < 1e-9).all()
    assert float(table.loc["force_gradient_error", "value"]) < 1e-3
    # Angles and distances at carbon are the same; those at hydrogen, and the whole, are not.
    central = table.loc["body_order_central"].set_index("molecule")["value"]
    assert central["CH4, equal distances and angles"] < 1e-9
    assert central["H2O, equal distances"] > 1e-2
    assert (table.loc["body_order", "value"] > 1e-2).all()


def imported(name):
    with compat.foreign_imports():
        return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


def test_mace_through_its_entry(tmp_path):
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
    path = tmp_path / "small.model"
    torch.save(network, path)
    entry = pretrained_entry(path, weights_sha256("mace", path), "mace")
    check_network(entry, "mace")


def test_orb_through_its_entry(tmp_path):
    module = imported("orb_models.forcefield.pretrained")
    from orb_models.forcefield.atomic_system import SystemConfig

    torch.manual_seed(0)
    config = SystemConfig(radius=6.0, max_num_neighbors=20)
    network = module.orb_v2_architecture(num_message_passing_steps=5, device="cpu", system_config=config)
    path = tmp_path / "small.ckpt"
    torch.save(network.state_dict(), path)
    entry = pretrained_entry(path, weights_sha256("orb", path), "orb", options={"variant": "orb-d3-xs-v2"})
    check_network(entry, "orb")


def check_network(entry, family):
    """A small random model of a published architecture: both precisions, batches, and a table of all tests."""
    molecules = [structure(name) for name in ("H2O", "CH4", "CH3CH2OH")]
    for precision in ("float64", "float32"):
        opened = open_evaluator(entry, precision)
        together = opened.evaluate(molecules)
        assert together.status == ["ok"] * 3
        alone = [opened.evaluate([each]).energy_ev[0] for each in molecules]
        assert together.energy_ev == pytest.approx(alone, abs=1e-8 if precision == "float64" else 1e-2)
    opened = open_evaluator(entry, "float64")
    assert (opened.family, opened.direct_forces) == (family, family == "orb")
    config = SymmetryConfig(nve_steps=20, rotations=2, translations=2)
    lines = {line["test"]: line for line in symmetry_table(opened, molecules[:1], config)}
    assert lines["translation_energy_spread_ev"]["value"] < 1e-6
    if family == "orb":
        assert lines["force_gradient_error"]["value"] > LIMITS["force_gradient_error"].value
    else:
        assert lines["force_gradient_error"]["value"] < LIMITS["force_gradient_error"].value


# ---- scans ----


def test_net_force_and_torque_are_norms():
    body = Structure([8, 1, 1], [[0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]], "rod")
    # Torque components that add up to zero.
    forces = np.array([[0.0, 0, 0], [0.0, 1.0, 1.0], [0.0, -1.0, -1.0]])
    assert net_force(forces) == 0.0
    assert net_torque(body, forces) == pytest.approx(2.0 * np.sqrt(2.0))
    shifted = body.moved(body.positions + np.array([5.0, -3.0, 1.0]))
    assert net_torque(shifted, forces) == pytest.approx(2.0 * np.sqrt(2.0))
    assert net_force(forces + np.array([0.0, 0.0, 1.0])) == pytest.approx(3.0)


def test_scan_relative_to_isolated_atoms(tmp_path):
    scan = build_scan("diatomic-h2", {"points": 9})
    write_scan(scan, tmp_path / "scan.npz")
    run_scan({**XTB, "name": "gfn2"}, "float64", tmp_path / "scan.npz", tmp_path / "c.csv", tmp_path / "c.npz")
    curve = pd.read_csv(tmp_path / "c.csv")
    assert list(curve.columns) == [
        "point", "coordinate", "energy_ev", "relative_energy_ev", "status", "message", "net_force_ev_per_angstrom",
        "net_torque_ev", "max_force",
    ]  # fmt: skip
    gfn2 = open_evaluator(XTB)
    atom = gfn2.evaluate([Structure([1], [[0, 0, 0]], "H", multiplicity=2)]).energy_ev[0]
    assert np.allclose(curve["relative_energy_ev"], curve["energy_ev"] - 2 * atom, atol=1e-8)
    assert curve["relative_energy_ev"].min() < -3.0
    assert curve["coordinate"].to_numpy() == pytest.approx(scan.coordinate)
    with np.load(tmp_path / "c.npz") as file:
        assert file["forces"].shape == (18, 3)
        assert file["ptr"].tolist() == list(range(0, 19, 2))
        along = file["forces"][1::2, 2]
    assert curve["max_force"].to_numpy() == pytest.approx(np.abs(along))
    assert (curve["net_force_ev_per_angstrom"] < 1e-8).all()


def test_scan_of_an_unsupported_molecule_says_so(tmp_path):
    scan = build_scan("diatomic-si2", {"points": 4})
    table, found = scan_table(evaluator(), scan)
    assert (table["status"] == "unsupported").all()
    assert (table["message"] == "no silicon").all()
    assert table["relative_energy_ev"].isna().all()
    assert not found.ok.any()


def test_references_of_relative_energies_and_marked_points():
    lengths = np.array([0.9, 1.1, 1.5, 2.0])
    points = [Structure([1, 1], [[0, 0, 0], [0, 0, r]], f"h2 {r}") for r in lengths]

    def first_lost(batch):
        span = per_graph(batch, batch.positions[:, 2].detach())
        return torch.where((span - 0.9).abs() < 0.01, torch.nan, 0.0).to(span.dtype)

    for reference, index in (("minimum", 1), ("first", 1)):
        scan = Scan("s", "bond", lengths, "Å", points, reference, "h2", "fig7")
        table, _ = scan_table(evaluator(first_lost), scan)
        assert table["status"].tolist() == ["not_finite", "ok", "ok", "ok"]
        assert table["relative_energy_ev"].isna().tolist() == [True, False, False, False]
        assert table["relative_energy_ev"][index] == 0.0
        assert (table["relative_energy_ev"][1:] >= 0.0).all()
    # Two atoms alone have no number: the curve stays, its zero does not.
    lost = evaluator(lambda batch: torch.where(batch.atoms_per_graph == 1, torch.nan, 0.0))
    scan = Scan("s", "diatomic", lengths, "Å", points, "atoms", "h2", "fig7")
    table, _ = scan_table(lost, scan)
    assert table["energy_ev"].notna().all()
    assert table["relative_energy_ev"].isna().all()
    assert table["message"].str.startswith("no energy of the isolated atom H").all()
    assert isolated_atoms(evaluator(), structure("H2O"))[0] == pytest.approx(-100.0)
    with pytest.raises(InputError):
        scan_table(evaluator(), replace(scan, reference="last"))


def test_surface_keeps_its_coordinates():
    table, _ = scan_table(evaluator(), build_scan("cyclobutadiene-2d", {"grid": 3}))
    assert table["coordinate"].tolist() == list(range(9))
    assert table["x_angstrom"].nunique() == table["y_angstrom"].nunique() == 3
    surface = table.pivot(index="x_angstrom", columns="y_angstrom", values="energy_ev").to_numpy()
    assert np.allclose(surface, surface.T, atol=1e-9)


def test_scan_script(tmp_path, repository):
    write_scan(build_scan("water-hoh", {"points": 5}), tmp_path / "w.npz")
    write_scan(build_scan("diatomic-cl2", {"points": 3}), tmp_path / "c.npz")
    runpy.run_path(
        str(repository / "workflow" / "scripts" / "run_scan.py"),
        {
            "snakemake": SimpleNamespace(
                log=[str(tmp_path / "log")],
                threads=torch.get_num_threads(),
                params=SimpleNamespace(entry=XTB, precision="float64", code="", code_folder=None),
                input=SimpleNamespace(scans=[str(tmp_path / "w.npz"), str(tmp_path / "c.npz")]),
                output=SimpleNamespace(
                    curves=[str(tmp_path / "w.csv"), str(tmp_path / "c.csv")],
                    forces=[str(tmp_path / "w_f.npz"), str(tmp_path / "c_f.npz")],
                ),
            )
        },
    )
    curve = pd.read_csv(tmp_path / "w.csv")
    assert curve["energy_ev"].to_numpy() == pytest.approx(curve["energy_ev"].to_numpy()[::-1], abs=1e-6)
    assert len(pd.read_csv(tmp_path / "c.csv")) == 3
    assert "GFN2-xTB float64 water-hoh: 5 ok" in (tmp_path / "log").read_text()
    with pytest.raises(InputError):
        run_scans(XTB, "float64", [tmp_path / "w.npz"], [], [])


# ---- tests without a reference ----


SMALL = SymmetryConfig(molecules=("water",), rotations=4, translations=3, nve_steps=200, nve_timestep_fs=0.25)


def values(opened, config=SMALL, names=("H2O",), environments=None):
    lines = symmetry_table(opened, [structure(name) for name in names], config, environments)
    assert len({(line["test"], line["molecule"]) for line in lines}) == len(lines)
    return {line["test"]: line for line in lines}


def test_a_molecule_that_flies_apart_is_marked():
    away = evaluator(extra=lambda b: -1e4 * per_graph(b, swirl(b)[:, 0] ** 4))
    (line,) = nve(away, [structure("CH4")], replace(SMALL, nve_steps=400))
    assert line["status"] in ("failed", "not_finite")
    assert line["message"].startswith("step ")
    assert np.isnan(line["value"])


def test_a_conservative_potential_passes_everything_but_body_order():
    lines = symmetry_table(evaluator(), [structure("H2O")], SMALL, environment_pairs())
    found = {line["test"]: line for line in lines}
    assert set(found) == set(LIMITS) - {"body_order_central"}
    for line in lines:
        assert line["status"] == "ok"
        # Energies of pairs cannot tell environments apart whose distances, also between neighbours, are equal.
        blind = line["molecule"].endswith("equal distances and angles")
        assert LIMITS[line["test"]].passed(line["value"]) != blind, line
    assert found["force_gradient_error"]["value"] < 1e-6
    assert found["curl_asymmetry"]["value"] < 1e-6


def swirl(batch):
    """Forces around the z axis of each molecule: no energy has them."""
    centre = torch.stack(
        [per_graph(batch, batch.positions[:, axis]) / batch.atoms_per_graph for axis in range(3)], dim=1
    )
    x = batch.positions - gather(centre, batch.graph_index)
    return torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], dim=1)


def hand(batch):
    """Signed volume of each molecule's first four atoms, which changes sign in a mirror."""
    first = torch.cumsum(batch.atoms_per_graph, 0) - batch.atoms_per_graph
    a, b, c = (gather(batch.positions, first + k) - gather(batch.positions, first) for k in (1, 2, 3))
    return (a * torch.linalg.cross(b, c)).sum(dim=1)


BROKEN = {
    "rotation_energy_spread_ev": {"extra": lambda b: 0.1 * per_graph(b, swirl(b)[:, 0] ** 2)},
    "translation_energy_spread_ev": {"extra": lambda b: 0.01 * per_graph(b, b.positions[:, 0] ** 2)},
    "force_equivariance": {"field": swirl},
    "force_gradient_error": {"field": swirl},
    "curl_asymmetry": {"field": swirl},
    "permutation_energy_ev": {
        "extra": lambda b: 0.1 * (gather(b.positions, torch.cumsum(b.atoms_per_graph, 0) - 1) ** 2).sum(dim=1)
    },
    "mirror_energy_ev": {"extra": hand},
    "extensivity_ev": {"extra": lambda b: 0.01 * b.atoms_per_graph.to(torch.float64) ** 2},
    "locality_ev": {"extra": lambda b: 1e-3 * per_graph(b, swirl(b)[:, 1].abs())},
    "nve_drift_mev_per_atom_ps": {"field": lambda b: 5.0 * swirl(b)},
}


@pytest.mark.parametrize("test", sorted(BROKEN))
def test_each_test_finds_its_own_defect(test):
    # CH4 has a volume, and its equal atoms an order.
    line = values(evaluator(**BROKEN[test]), names=("CH4",))[test]
    assert line["status"] == "ok"
    assert line["value"] > line["limit"]


def test_body_order_is_found_by_angles_at_every_atom():
    def angles(batch):
        # Three-body terms of every atom: the hydrogen atoms see different ones.
        parts = []
        start = 0
        for count in batch.atoms_per_graph.tolist():
            x = batch.positions[start : start + count]
            vectors = x[None] - x[:, None]
            distance = vectors.norm(dim=2)
            unit = vectors / (distance + torch.eye(count, dtype=x.dtype)).unsqueeze(2)
            # With both distances: bare powers of cosines are equal in the planar pair.
            parts.append((distance[:, :, None] * distance[:, None] * (unit @ unit.transpose(1, 2)) ** 3).sum())
            start += count
        return torch.stack(parts)

    lines = symmetry_table(evaluator(angles), [], replace(SMALL, tests=("body_order",)), environment_pairs())
    assert len(lines) == 3
    assert all(line["value"] > line["limit"] for line in lines)
    assert all(line["sense"] == "above" for line in lines)


def test_lost_points_mark_their_test_and_no_other():
    def lost(batch):
        return torch.where(batch.atoms_per_graph == 6, torch.nan, 0.0)

    found = values(evaluator(lost))
    assert found["extensivity_ev"]["status"] == found["locality_ev"]["status"] == "not_finite"
    assert np.isnan(found["extensivity_ev"]["value"])
    assert found["mirror_energy_ev"]["status"] == found["nve_drift_mev_per_atom_ps"]["status"] == "ok"
    unsupported = values(evaluator(), names=("SiH4",))
    assert {line["status"] for line in unsupported.values()} == {"unsupported"}
    assert not LIMITS["mirror_energy_ev"].passed(float("nan"))
    assert not LIMITS["body_order"].passed(float("nan"))


def test_dynamics_go_on_without_a_molecule_that_is_lost():
    # Methane's energy is lost once its atoms have moved.
    start = torch.tensor(np.array(structure("CH4").positions))

    def lost(batch):
        own = batch.atoms_per_graph == 5
        if not bool(own.any()):
            return torch.zeros(batch.n_graphs, dtype=torch.float64)
        atoms = batch.positions.detach()[gather(own.long(), batch.graph_index).bool()]
        return torch.where(own & bool((atoms - start).norm() > 1e-3), torch.nan, 0.0)

    lines = nve(evaluator(lost), [structure("CH4"), structure("H2O")], SMALL)
    assert [line["status"] for line in lines] == ["not_finite", "ok"]
    assert lines[0]["message"].startswith("step ")
    # Its neighbour's end changes nothing for water.
    whole = nve(evaluator(), [structure("CH4"), structure("H2O")], SMALL)
    assert lines[1]["value"] == pytest.approx(whole[1]["value"], rel=1e-6)


def test_drift_is_a_slope_without_the_swing():
    time = np.arange(201) * 1e-3
    assert drift(time, 5.0 + 3.0 * time) == pytest.approx(3.0)
    swing = 1e-2 * np.cos(2 * np.pi * time / 0.037)
    plain = np.polyfit(time, 5.0 + 3.0 * time + swing, 1)[0]
    assert abs(drift(time, 5.0 + 3.0 * time + swing) - 3.0) < 0.2 * abs(plain - 3.0)


def test_dynamics_conserve_energy_better_with_smaller_steps():
    water = [structure("H2O")]
    fine, coarse = (
        nve(evaluator(), water, replace(SMALL, nve_timestep_fs=dt, nve_steps=int(120 / dt)))[0]["value"]
        for dt in (0.5, 4.0)
    )
    assert fine < coarse


def test_settings_of_symmetry_tests():
    settings = {"rotations": 5, "limits": {"curl_asymmetry": 0.5}, "families": {"dft": {"tests": ["mirror_energy_ev"]}}}
    assert symmetry_config(settings, "ani").rotations == 5
    assert symmetry_config(settings, "ani").limit("curl_asymmetry").value == 0.5
    assert symmetry_config(settings, "dft").tests == ("mirror_energy_ev",)
    for bad in ({"rotation": 3}, {"tests": ["mirror"]}, {"rotations": 0}, {"limits": {"mirror": 1.0}}):
        with pytest.raises(InputError) as caught:
            symmetry_config(bad, "ani")
        one_line(caught)


def test_rotations_are_proper():
    turns = symmetry.random_rotations(20, np.random.default_rng(0))
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1.0)


# ---- cost ----


@pytest.mark.parametrize("n_carbons", [1, 2, 3, 8])
def test_alkanes_have_their_bonds_and_angles(n_carbons):
    made = alkane(n_carbons)
    assert made.formula == (f"C{n_carbons}" if n_carbons > 1 else "C") + f"H{2 * n_carbons + 2}"
    x, z = made.positions, made.atomic_numbers
    distance = np.linalg.norm(x[:, None] - x[None], axis=2) + 99.0 * np.eye(len(x))
    carbon = np.flatnonzero(z == 6)
    bonded = distance < 1.7
    assert (bonded[carbon].sum(axis=1) == 4).all()
    assert (bonded[z == 1].sum(axis=1) == 1).all()
    assert distance[np.ix_(carbon, carbon)][bonded[np.ix_(carbon, carbon)]] == pytest.approx(1.53)
    for k in carbon:
        arms = x[bonded[k]] - x[k]
        arms /= np.linalg.norm(arms, axis=1, keepdims=True)
        assert (arms @ arms.T)[np.triu_indices(4, 1)] == pytest.approx(-1.0 / 3.0)
    assert distance[~bonded].min() > 1.7
    with pytest.raises(InputError):
        alkane(0)


def test_exponents():
    n = np.array([5, 8, 14, 26])
    exponent, prefactor = fit_exponent(n, 0.002 * n**2.5)
    assert (exponent, prefactor) == (pytest.approx(2.5), pytest.approx(0.002))
    assert fit_exponent([*n, 50], [*(0.002 * n**2.5), np.nan])[0] == pytest.approx(2.5)
    assert np.isnan(fit_exponent([5], [1.0])[0])


def test_times_are_taken_until_the_limit(monkeypatch):
    springs = evaluator()
    original = springs.evaluate
    # A clock of the third power of the size, in place of the machine's.
    monkeypatch.setattr(
        springs, "evaluate", lambda some: replace(original(some), seconds=1e-3 * float(len(some[0])) ** 3)
    )
    lines = time_evaluator(springs, CostConfig(carbons=(1, 2, 4, 8, 16), repeats=2, max_seconds=5.0))
    assert [line["status"] for line in lines] == ["ok", "ok", "ok", "skipped", "skipped"]
    assert [line["n_atoms"] for line in lines] == [5, 8, 14, 26, 50]
    assert "17.6 s expected" in lines[3]["message"]
    sizes, seconds = zip(*[(line["n_atoms"], line["seconds"]) for line in lines], strict=True)
    assert fit_exponent(sizes, seconds)[0] == pytest.approx(3.0)
    assert np.isnan(lines[3]["seconds"])
    foreign = evaluator()
    foreign.elements = (1,)
    assert {line["status"] for line in time_evaluator(foreign, CostConfig(carbons=(1, 2)))} == {"unsupported"}


def test_cost_table(tmp_path):
    entries = {"gfn2": XTB, "gfn1": {"xtb": "GFN1-xTB"}}
    settings = {"carbons": [1, 2], "repeats": 2, "families": {"xtb": {"repeats": 3}}}
    threads = torch.get_num_threads()
    measure_cost(entries, tmp_path / "cost.csv", settings, threads=threads)
    table = pd.read_csv(tmp_path / "cost.csv")
    assert table["potential"].tolist() == ["gfn2", "gfn2", "gfn1", "gfn1"]
    assert (table["seconds"] > 0).all()
    assert (table["seconds_low"] <= table["seconds"]).all()
    assert (table["repeats"] == 3).all()
    assert (table["threads"] == threads).all()
    for bad in ({"carbons": [4, 2]}, {"repeats": 0}, {"carbon": [1]}):
        with pytest.raises(InputError) as caught:
            cost_config(bad, "xtb")
        one_line(caught)
    with pytest.raises(InputError):
        measure_cost({}, tmp_path / "cost.csv")
