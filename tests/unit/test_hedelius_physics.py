"""Physics of the SE(3)-Transformer: singular gradients, curl, dynamics from rest, memory, equivariance, and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase.build import molecule as ase_molecule
from ase.io import read
from torch.profiler import ProfilerActivity, profile

from mlip_studies.artifacts import sha256_of, write_text
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.schema import load_claims
from mlip_studies.data.named_splits import PARTS
from mlip_studies.data.store import StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.md import curl
from mlip_studies.md.config import MDConfig, MDOutputs
from mlip_studies.md.robustness import write_robustness
from mlip_studies.md.start import Molecule
from mlip_studies.models import memory, se3_transformer
from mlip_studies.models import se3_singularities as singular
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.equivariance import layer_errors, network_errors
from mlip_studies.models.measure import excite, measured_molecules
from mlip_studies.models.potential import Potential
from mlip_studies.models.registry import build_model
from mlip_studies.models.se3_transformer import Norm, SE3Transformer, SphericalHarmonics, memory_need
from mlip_studies.studies import hedelius_physics as physics
from mlip_studies.studies.context import RunInfo, StudyContext

REPO = Path(__file__).resolve().parents[2]
WATER = REPO / "resources" / "water" / "water.xyz"
DIRECT = "ani1x-se3_basic-per_element-std-w1-r0.001"
GRADIENT = "ani1x-se3_gradient-per_element-std-w1-r0.001"
TINY = {"channels": 4, "n_layers": 1, "n_heads": 2}


def potential(forces: str = "direct", seed: int = 0, **options) -> Potential:
    torch.manual_seed(seed)
    options = {**TINY, "forces": forces, **options}
    model = build_model("se3_transformer", options)
    excite(model, seed)
    return Potential.of_total_energies(model, "se3_transformer", options)


def water() -> Molecule:
    atoms = read(WATER)
    return Molecule(atoms.numbers.astype(np.int64), atoms.positions, "water")


class Swirl(AtomisticModel):
    """E = k Σ|R|²/2, and forces -k R plus a rotation s (-y, x, 0): curl and work are known."""

    elements, cutoff, direct_forces = (1, 8), None, True

    def __init__(self, k: float = 2.0, s: float = 0.5) -> None:
        super().__init__()
        self.k, self.s = k, s
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return batch.sum_atoms(0.5 * self.k * self.weight * batch.positions.square().sum(dim=1))

    def energy_and_forces(self, batch, create_graph=False):
        x = batch.positions
        turn = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], dim=1)
        return self(batch), -self.k * x + self.s * turn


# --- the water molecule and dynamics from rest ----------------------------------------------------------------------


def test_water_is_in_the_card_and_can_be_made_again():
    pytest.importorskip("tblite")
    from mlip_studies.mini_data.water import make_water

    card = (WATER.parent / "DATA_CARD.md").read_text()
    assert sha256_of(WATER) in card
    assert f"| {WATER.stat().st_size} |" in card
    structure, energy = make_water()
    assert f"{energy:.5f} eV" in card
    np.testing.assert_allclose(structure.positions, water().positions, atol=2e-5)
    assert list(structure.atomic_numbers) == [8, 1, 1]


@pytest.mark.parametrize(
    "values",
    [{"ensemble": "nvt_langevin"}, {"thermalise_ps": 0.1}, {"temperature_k": [9.0, 0.0], "thermalise_ps": 0.1}],
)
def test_a_thermostat_needs_a_temperature(values):
    base = {"potential": "x.safetensors", "start": {"file": "x.xyz"}, "time_ps": 0.1, "ensemble": "nve"}
    assert MDConfig.from_dict({**base, "temperature_k": 0.0}).temperature_k == (0.0,)
    with pytest.raises(InputError, match=r"md.temperature_k.*thermostat"):
        MDConfig.from_dict({**base, "temperature_k": 0.0, **values})
    with pytest.raises(InputError, match=r"md.temperature_k"):
        MDConfig.from_dict({**base, "temperature_k": -1.0})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Dynamics of water from rest and reports of curl, with both kinds of forces."""
    pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed", exc_type=ImportError)
    from mlip_studies.md.engine import run_md

    root = tmp_path_factory.mktemp("results") / "mini" / "hedelius"
    for run, forces in ((DIRECT, "direct"), (GRADIENT, "gradient")):
        model = root / "runs" / run / "seed0" / "model.safetensors"
        potential(forces).save(model, {})
        folder = root / "md" / "water" / run
        config = {
            "potential": str(model), "start": {"file": str(WATER)}, "ensemble": "nve", "temperature_k": 0.0,
            "timestep_fs": 0.25, "time_ps": 0.01, "sample_every_fs": 0.25, "precision": "float64",
            "stability": {"ending": ["not_finite"]}, "job": "water", "run": run,
        }  # fmt: skip
        folder.mkdir(parents=True)
        run_md(MDConfig.from_dict(config), MDOutputs.in_folder(folder), folder / ".state", "cpu", threads=1)
        write_robustness(folder / "trajectory.h5", folder / "robustness.csv", folder / "topology.csv")
        curl.force_field_report([model], [water()], root / "curl" / f"{run}.csv")
    return root


def context(root: Path, extra: tuple[Path, ...] = ()) -> StudyContext:
    runs = {
        run: RunInfo(run, (group,), "ani1x", network, "per_element", None, (0,))
        for run, group, network in ((DIRECT, "rates", "se3_basic"), (GRADIENT, "gradient", "se3_gradient"))
    }
    claims = load_claims(REPO / "config" / "claims" / "hedelius.yaml")
    found = [path for path in sorted(root.rglob("*.*")) if ".sha256" not in path.parts]
    files = tuple(str(path) for path in (*found, *extra))
    return StudyContext("mini", claims, runs=runs, files=files)


def tables(study: StudyContext) -> RunTables:
    return RunTables.from_paths(study.files)


def test_dynamics_start_at_rest_and_follow_the_first_force(results):
    direct = next(each for each in physics.water_runs(context(results)) if each.run == DIRECT)
    assert direct.kinetic_ev[0] == 0.0
    assert direct.temperature_k[0] == 0.0
    assert direct.change_ev[0] == 0.0
    assert direct.kinetic_ev[1:].min() > 0.0
    # From rest, a = F/m: after the first step the kinetic energy is (F dt)² / 2 m.
    model = potential("direct").to(dtype=torch.float64)
    start = water()
    _, forces = model.energy_and_forces(make_batch([(start.atomic_numbers, start.positions)], dtype=torch.float64))
    from ase import units
    from ase.data import atomic_masses

    masses = atomic_masses[start.atomic_numbers][:, None]
    momenta = forces.numpy() * 0.25 * units.fs
    expected = float((np.square(momenta) / (2 * masses)).sum())
    assert direct.kinetic_ev[1] == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(direct.distances[0], 0.95921, atol=1e-4)


def test_a_start_at_rest_is_neither_hot_nor_off_its_temperature(results):
    for run in (DIRECT, GRADIENT):
        summary = json.loads((results / "md" / "water" / run / "summary.json").read_text())
        assert summary["temperatures"][0]["temperature_off"] is False
        assert all(note["reason"] != "temperature" for note in summary["noted"])
        line = pd.read_csv(results / "md" / "water" / run / "robustness.csv").iloc[0]
        assert line["mean_temperature_k"] > 0
        assert math.isnan(line["first_temperature_ps"])


# --- curl -----------------------------------------------------------------------------------------------------------


def test_report_of_forces_with_known_curl():
    model = Potential.of_total_energies(Swirl(), "swirl")
    (row,) = curl.report(model, [water()])
    # J = -k 1 + s A with one 2x2 rotation generator per atom: ||J - Jᵀ|| = 2 s sqrt(2 n), ||J + Jᵀ|| = 2 k sqrt(3 n).
    assert row["asymmetry"] == pytest.approx(0.5 * math.sqrt(2 / 3) / 2.0)
    positions = water().positions
    turn = 0.5 * np.hypot(positions[:, 0], positions[:, 1])
    assert row["gradient_error"] == pytest.approx(np.linalg.norm(turn) / (2.0 * np.linalg.norm(positions)))
    # Work of s (-y, x): 2 s times the area of the loop's projection on the x-y plane, summed over atoms.
    points = curl.loop(positions, 0, n_points=4096)
    after = np.roll(points, -1, axis=0)
    area = 0.5 * (points[:, :, 0] * after[:, :, 1] - points[:, :, 1] * after[:, :, 0]).sum()
    assert row["loop_work_ev"] == pytest.approx(2 * 0.5 * area, rel=1e-3)
    assert abs(row["loop_work_ev"]) > 1e-4
    assert row["loop_error_ev"] < 1e-2 * abs(row["loop_work_ev"])
    (row,) = curl.report(Potential.of_total_energies(Swirl(s=0.0), "swirl"), [water()])
    assert (row["asymmetry"], row["gradient_error"]) == (0.0, 0.0)
    assert abs(row["loop_work_ev"]) < 1e-12 < row["loop_path_ev"]


def test_loop_is_closed_and_keeps_the_centre():
    positions = water().positions
    points = curl.loop(positions, 3)
    np.testing.assert_allclose(np.linalg.norm((points - positions).reshape(len(points), -1), axis=1), curl.LOOP_RADIUS)
    assert np.abs(points.mean(axis=1) - positions.mean(axis=0)).max() < 1e-12
    np.testing.assert_allclose(points.mean(axis=0), positions, atol=1e-12)
    assert np.linalg.norm(points[0] - points[-1]) < 1.01 * 2 * np.pi * curl.LOOP_RADIUS / len(points)
    assert not np.array_equal(points, curl.loop(positions, 4))


def test_jacobian_is_the_derivative_of_the_forces():
    for forces in ("direct", "gradient"):
        model = potential(forces).to(dtype=torch.float64)
        field = curl.force_field(model, water())
        step = 1e-5
        start = water().positions
        for coordinate in (0, 4):
            moved = []
            for sign in (1, -1):
                positions = start.copy()
                positions.flat[coordinate] += sign * step
                batch = make_batch([(water().atomic_numbers, positions)], dtype=torch.float64)
                moved.append(model.energy_and_forces(batch)[1].detach().numpy().ravel())
            slope = (moved[0] - moved[1]) / (2 * step)
            np.testing.assert_allclose(field.jacobian[:, coordinate], slope, atol=1e-5 * np.abs(field.jacobian).max())


def test_direct_forces_have_a_curl_and_gradient_forces_have_none(results):
    study = context(results)
    direct, gradient = (tables(study).curl(run).iloc[0] for run in (DIRECT, GRADIENT))
    assert direct["asymmetry"] > 0.01 > 1e-9 > gradient["asymmetry"]
    assert gradient["gradient_error"] == 0.0 < direct["gradient_error"]
    assert (direct["seed"], direct["structure"], direct["n_atoms"]) == (0, "water", 3)


def test_structures_are_drawn_from_the_test_part(tmp_path):
    start = water()
    kinds = {"water": (start.atomic_numbers, start.positions), "atom": ([8], np.zeros((1, 3)))}
    with StoreWriter(tmp_path / "store.h5", ("low",)) as writer:
        for name, (numbers, positions) in kinds.items():
            writer.append(numbers, np.repeat(positions[None], 4, axis=0), {"low": np.zeros(4)}, group=name)
    parts = {part: np.zeros(0, dtype=np.int64) for part in (*PARTS, "train_sizes", "val_sizes")}
    parts["n_store_rows"] = np.array(8)
    np.savez(tmp_path / "split.npz", **{**parts, "test": np.array([1, 3, 5, 7])})
    found = curl.drawn_structures(tmp_path / "store.h5", tmp_path / "split.npz", 5, 0)
    assert [each.name for each in found] == ["water (row 1)", "water (row 3)"]
    np.savez(tmp_path / "atoms.npz", **{**parts, "test": np.array([5])})
    with pytest.raises(InputError, match="no molecule of two or more atoms"):
        curl.drawn_structures(tmp_path / "store.h5", tmp_path / "atoms.npz", 5, 0)
    with pytest.raises(InputError, match="0 structures"):
        curl.force_field_report([tmp_path / "model.safetensors"], [], tmp_path / "curl.csv")


# --- gradients that are no numbers ----------------------------------------------------------------------------------


def test_harmonics_in_angles_have_the_same_values_and_fail_at_the_pole():
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit = points / points.norm(dim=1, keepdim=True)
    exact = SphericalHarmonics(4).double()(unit)
    torch.testing.assert_close(singular.AngularHarmonics(4)(unit), exact, atol=1e-13, rtol=0)
    rows = pd.DataFrame(singular.harmonics_rows((0.0, 1e-5, 1e-2, 1.0)), columns=list(singular.COLUMNS))
    angles = rows[rows["variant"] == singular.ANGLES].set_index("x")
    assert (angles.loc[[0.0, 1e-5], "n_not_finite"] > 0).all()
    assert (angles.loc[[1e-2, 1.0], "n_not_finite"] == 0).all()
    smooth = rows[rows["variant"] == singular.POLYNOMIALS]
    assert (smooth["n_not_finite"] == 0).all()
    np.testing.assert_allclose(smooth["value"], singular.exact_gradient(), rtol=1e-4)


def test_only_the_smoothed_direction_has_a_bounded_derivative():
    rows = pd.DataFrame(singular.direction_rows((0.0, 1e-13, 1e-9, 1e-2)), columns=list(singular.COLUMNS))
    value = rows.set_index(["variant", "x"])["value"]
    broken = rows.set_index(["variant", "x"])["n_not_finite"] > 0
    assert broken[broken].index.tolist() == [(singular.UNGUARDED, 0.0)]
    assert value[singular.CLAMPED, 0.0] == pytest.approx(1 / singular.CLAMP, rel=1e-3)
    assert value[singular.CLAMPED, 1e-9] > 1e8
    assert rows.loc[rows["variant"] == singular.SMOOTHED, "value"].max() <= 1.001 / singular.EPS
    # All three agree where nothing is singular.
    assert np.ptp([value[variant, 1e-2] for variant in singular.DIRECTIONS]) < 1e-4 * value[singular.SMOOTHED, 1e-2]


@pytest.mark.parametrize("variant", [singular.UNGUARDED, singular.CLAMPED])
def test_naive_norm_is_the_smoothed_one_away_from_zero(variant):
    norm = Norm({0: 4, 1: 4, 2: 4}, "layer", 1e-4).double()
    with torch.no_grad():
        norm.shift.normal_()
    generator = torch.Generator().manual_seed(0)
    features = {d: torch.randn(6, 2 * d + 1, 4, generator=generator, dtype=torch.float64) for d in (0, 1, 2)}
    naive = singular.NaiveNorm(norm, variant)(features)
    for degree, values in norm(features).items():
        torch.testing.assert_close(naive[degree], values, atol=1e-6, rtol=1e-6)


def test_weights_of_symmetric_molecules_fail_with_the_norm_and_not_with_the_harmonics(monkeypatch):
    monkeypatch.setattr(singular, "NETWORK", {"channels": 4, "max_degree": 2, "n_layers": 2, "n_heads": 2})
    rows = pd.DataFrame(singular.network_rows(n_seeds=1), columns=list(singular.COLUMNS))
    broken = rows.set_index(["variant", "case", "quantity"])["n_not_finite"] > 0
    on_pole = "carbon dioxide on the pole"
    assert broken[singular.UNGUARDED, on_pole, "weights"]
    assert broken[singular.UNGUARDED, "lone atom", "weights"]
    assert not broken[singular.UNGUARDED, "no symmetry", "weights"]
    assert not broken[singular.SMOOTHED].any()
    # Written in angles, the harmonics break the gradient of positions on the pole, and never that of weights.
    angles = broken[singular.ANGLES]
    assert angles[angles].index.tolist() == [(on_pole, "positions")]


def test_training_breaks_with_symmetric_molecules_only():
    rows = pd.DataFrame(singular.training_rows(steps=3), columns=list(singular.COLUMNS))
    rows = rows[rows["quantity"] == "gradient norm"]

    def norms(variant: str, case: str) -> pd.DataFrame:
        return rows[(rows["variant"] == variant) & (rows["case"] == case)]

    unguarded = norms(singular.UNGUARDED, singular.SYMMETRIC)
    assert len(unguarded) == 1
    assert unguarded["n_not_finite"].iloc[0] > 0
    for variant in singular.DIRECTIONS:
        displaced = norms(variant, singular.DISPLACED)
        assert len(displaced) == 3
        assert (displaced["n_not_finite"] == 0).all()
    # What is exactly zero without rounding is amplified by 1/|v|.
    smooth, clamped = (norms(variant, singular.SYMMETRIC)["value"] for variant in (singular.SMOOTHED, singular.CLAMPED))
    assert clamped.max() > 100 * smooth.max()


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_bytes(function) -> int:
    """Most memory that torch had handed out at once during a call, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("forces", ["direct", "gradient"])
@pytest.mark.parametrize("degree", [1, 3])
def test_memory_is_estimated_within_a_factor_of_two(degree, forces):
    torch.manual_seed(0)
    model = SE3Transformer(channels=8, n_layers=2, n_heads=2, max_degree=degree, forces=forces)
    rng = np.random.default_rng(0)
    batch = make_batch([(rng.choice([1, 6, 7, 8], 12), 3.0 * rng.normal(size=(12, 3))) for _ in range(5)])

    def train():
        energy, force = model.energy_and_forces(batch, create_graph=True)
        (energy.square().sum() + force.square().sum()).backward()

    train()
    model.zero_grad(set_to_none=True)
    measured = peak_bytes(train)
    estimate = model.memory_bytes(batch.n_atoms, batch.n_edges, True)
    assert 0.5 < estimate / measured < 2.0
    measured = peak_bytes(lambda: model.energy_and_forces(batch))
    assert 0.5 < model.memory_bytes(batch.n_atoms, batch.n_edges, False) / measured < 2.5


def test_memory_grows_with_edges_degree_and_training():
    low, high = (SE3Transformer(channels=8, n_layers=2, n_heads=2, max_degree=degree) for degree in (2, 3))
    assert low.memory_bytes(10, 90, True) > low.memory_bytes(10, 90, False)
    assert high.memory_bytes(10, 90, True) > 1.5 * low.memory_bytes(10, 90, True)
    small, large = (memory_need(low.network, 10 * n, 90 * n) for n in (1, 50))
    assert large.kept == 50 * small.kept


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_that_does_not_fit_is_named_before_it_is_evaluated(monkeypatch, training):
    model = potential().model
    batch = make_batch([(water().atomic_numbers, water().positions)])
    need = model.memory_bytes(batch.n_atoms, batch.n_edges, training)
    monkeypatch.setattr(se3_transformer, "available_bytes", lambda device: need - 1)
    monkeypatch.setattr(model, "_evaluate", lambda batch: pytest.fail("evaluated"))
    message = r"max_degree=2, channels=4 .* 6 edges.*available on cpu; lower max_degree"
    with pytest.raises(InputError, match=message) as found:
        model.energy_and_forces(batch, create_graph=training)
    assert "\n" not in str(found.value)
    assert memory.in_words(need) in str(found.value)


def test_memory_is_looked_up_once_per_size(monkeypatch):
    model = potential().model
    asked = []
    monkeypatch.setattr(se3_transformer, "available_bytes", lambda device: asked.append(device) or 2**40)
    small = make_batch([(water().atomic_numbers, water().positions)])
    large = make_batch([(water().atomic_numbers, water().positions)] * 2)
    for batch in (small, small, large, small):
        model.energy_and_forces(batch)
    assert len(asked) == 2


def test_a_degree_that_no_memory_holds_is_named_before_its_matrices_are_made():
    with pytest.raises(InputError, match=r"max_degree=40, channels=16: .*GiB.*lower max_degree or channels"):
        SE3Transformer(max_degree=40)


def test_available_memory_is_that_of_the_machine_or_less():
    import os

    found = memory.available_bytes(torch.device("cpu"))
    assert 0 < found <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_control_group_limits_the_memory(monkeypatch, tmp_path):
    files = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 5\ninactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes(torch.device("cpu")) == 150
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes(torch.device("cpu")) > 150


@pytest.mark.parametrize(
    ("value", "words"), [(12, "12 B"), (2048, "2 KiB"), (3.5 * 2**20, "3.5 MiB"), (2**41, "2,048.0 GiB")]
)
def test_bytes_in_words(value, words):
    assert memory.in_words(value) == words


# --- degenerate graphs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direct_forces_of_degenerate_graphs(dtype):
    """One atom has no force; forces of atoms on a line lie on the line, and symmetry leaves none at a centre."""
    model = potential(max_degree=2, n_layers=2).model.to(dtype)
    axis = np.array([0.36, 0.48, 0.8])
    line = [np.outer(x, axis) for x in ([0.0, 1.1], [-1.16, 0.0, 1.16], [0.0, 1.0, 2.3])]
    cases = [([8], np.zeros((1, 3))), ([7, 7], line[0]), ([8, 6, 8], line[1]), ([1, 6, 7], line[2])]
    batch = make_batch(cases, dtype=dtype)
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    loss = energy.square().sum() + forces.square().sum()
    slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(slope.isfinite().all() for slope in slopes if slope is not None)
    assert energy.isfinite().all()
    forces = forces.detach().double().numpy()
    tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * np.abs(forces).max()
    assert np.abs(forces[0]).max() == 0.0
    across = forces - np.outer(forces @ axis, axis)
    assert np.abs(across).max() < tolerance
    assert np.abs(forces[1] + forces[2]).max() < tolerance
    assert np.abs(forces[4]).max() < 100 * tolerance
    assert np.abs(forces[6:]).max() > 1e3 * tolerance


# --- equivariance ---------------------------------------------------------------------------------------------------


def test_whole_networks_and_layers_with_rototranslations():
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model = potential(max_degree=2, n_layers=2).model.to(dtype)
        batch = make_batch(measured_molecules(0), dtype=dtype)
        errors = network_errors(model, batch, 4, 0, 1.0)
        assert [error.feature for error in errors] == ["energy", "forces"]
        errors += layer_errors(model, batch, 4, 0, 1.0)
        assert 0.0 < max(error.maximum for error in errors) < bound


def test_a_broken_symmetry_would_be_seen():
    class Shifted(Swirl):
        """Feels an external field."""

    batch = make_batch([(water().atomic_numbers, water().positions)], dtype=torch.float64)
    found = {error.feature: error.maximum for error in network_errors(Shifted().double(), batch, 4, 0, 1.0)}
    assert min(found.values()) > 1e-2


# --- figures and the table ------------------------------------------------------------------------------------------


def network_file(root: Path, name: str, layer: float, whole: float) -> Path:
    def errors(precision: str, factor: float) -> list[dict]:
        lines = [
            ("attention 1", "degree_0"),
            ("attention 2", "degree_1"),
            ("norm 1", "degree_1"),
            ("readout", "energy"),
        ]
        rows = [
            {"layer": one, "feature": two, "maximum": layer * factor * (number + 1) / 4}
            for number, (one, two) in enumerate(lines)
        ]
        rows += [{"layer": "whole network", "feature": key, "maximum": whole * factor} for key in ("energy", "forces")]
        return [{"precision": precision, "irreps": "scalar", "mean": 0.5 * row["maximum"], **row} for row in rows]

    content = {
        "name": name, "parameters": 7, "layers": [], "n_rotations": 20, "translation_angstrom": 1.0,
        "molecules": ["CH3CN", "C6H6"], "rototranslations": errors("float32", 1.0) + errors("float64", 1e-9),
    }  # fmt: skip
    path = root / "models" / "networks" / f"{name}.json"
    write_text(path, json.dumps(content))
    return path


def test_equivariance_table_compares_with_the_right_bound(tmp_path):
    files = (network_file(tmp_path, "good", 4e-7, 4e-6), network_file(tmp_path, "bad", 2e-6, 3e-5))
    study = context(tmp_path)
    physics.equivariance_table(RunTables.from_paths(files), study, tmp_path / "equivariance.html")
    frame = pd.read_csv(tmp_path / "equivariance.csv").set_index(["network", "layer_type", "precision"])
    single = frame.xs("float32", level="precision")
    assert single.loc[("good", "attention"), "maximum"] == pytest.approx(2e-7)
    assert single.loc[("good", "whole network"), "bound"] == pytest.approx(1e-5)
    assert set(single.loc["good", "reading"]) == {"below"}
    assert single.loc[("bad", "readout"), "reading"] == "above"
    assert single.loc[("bad", "whole network"), "reading"] == "above"
    assert frame.xs("float64", level="precision")["bound"].isna().all()
    page = (tmp_path / "equivariance.html").read_text()
    assert "1e−06" not in page
    assert "less than 1e−6" in page


def test_equivariance_table_needs_rototranslations(tmp_path):
    path = tmp_path / "models" / "networks" / "old.json"
    write_text(path, json.dumps({"name": "old", "parameters": 1, "layers": []}))
    with pytest.raises(InputError, match=r"old.json: no 'rototranslations'"):
        physics.equivariance_table(RunTables.from_paths([path]), context(tmp_path), tmp_path / "t.html")
    with pytest.raises(InputError, match="name networks"):
        physics.equivariance_table(RunTables.from_paths([]), context(tmp_path), tmp_path / "t.html")


def test_water_figure(results, tmp_path):
    study = context(results)
    physics.water(tables(study), study, tmp_path / "water.png")
    frame = pd.read_csv(tmp_path / "water.csv")
    assert set(frame["forces"]) == {"direct", "gradient"}
    assert (tmp_path / "water.svg").stat().st_size > 1000
    direct = frame[frame["forces"] == "direct"]
    assert direct["step"].tolist() == list(range(41))
    total = direct["potential_ev"] + direct["kinetic_ev"]
    np.testing.assert_allclose(direct["total_change_ev"], total - total.iloc[0], atol=1e-9)
    with pytest.raises(InputError, match=r"no trajectory.h5 of the job 'water'"):
        physics.water(tables(study), StudyContext("mini", study.claims, runs=study.runs), tmp_path / "none.png")
    unknown = StudyContext("mini", study.claims, files=study.files)
    with pytest.raises(InputError, match="no group makes it"):
        physics.water(tables(study), unknown, tmp_path / "none.png")


def test_curl_figure(results, tmp_path):
    study = context(results)
    physics.curl(tables(study), study, tmp_path / "curl.png")
    frame = pd.read_csv(tmp_path / "curl.csv")
    assert set(frame["panel"]) == set(physics.CURL_PANELS)
    work = frame[frame["panel"] == "loop_work"]
    np.testing.assert_allclose(work["value"], work["loop_work_ev"].abs() * 23.060548, rtol=1e-6)
    with pytest.raises(InputError, match=r"no curl/<run>.csv"):
        physics.curl(RunTables(), study, tmp_path / "none.png")


def test_nan_gradients_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(singular, "NETWORK", {"channels": 4, "max_degree": 2, "n_layers": 1, "n_heads": 2})
    parts = {
        "harmonics": lambda _: singular.harmonics_rows((0.0, 1e-8, 1e-5, 1e-2, 1.0)),
        "direction": lambda seed: singular.direction_rows((0.0, 1e-13, 1e-9, 1e-4, 1.0), seed),
        "network": lambda seed: singular.network_rows(seed, 1),
        "training": lambda seed: singular.training_rows(seed, 2),
    }
    monkeypatch.setattr(singular, "PARTS", parts)
    singular.nan_gradients(tmp_path / "nan_gradients.csv")
    study = context(tmp_path)
    physics.nan_gradients(tables(study), study, tmp_path / "figure.png")
    frame = pd.read_csv(tmp_path / "figure.csv")
    assert set(frame["part"]) == set(parts)
    assert tuple(frame.columns) == singular.COLUMNS
    write_text(tmp_path / "less" / "nan_gradients.csv", frame[frame["part"] != "training"].to_csv(index=False))
    with pytest.raises(InputError, match="part 'training' is missing"):
        physics.nan_gradients(
            RunTables.from_paths([tmp_path / "less" / "nan_gradients.csv"]), study, tmp_path / "x.png"
        )


def test_cases_are_as_symmetric_as_they_say():
    cases = singular.network_cases()
    numbers, line = cases["carbon dioxide on the pole"]
    assert numbers.tolist() == [6, 8, 8]
    assert np.array_equal(line[1], -line[2])
    assert np.abs(line[:, [0, 2]]).max() == 0.0
    _, turned = cases["carbon dioxide"]
    assert np.abs(turned[1] / np.linalg.norm(turned[1])).max() < 0.99
    ethanol = ase_molecule("CH3CH2OH")
    assert np.abs(cases["no symmetry"][1] - ethanol.positions).max() > 0.05
