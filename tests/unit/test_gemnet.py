"""GemNet-T and GemNet-Q: exactness, symmetries, static graphs, singularities, scale factors."""

import importlib
import json
import math
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, GraphBatch, RaggedDataset, make_batch
from mlip_studies.models.gemnet import GemNetQ, GemNetT, Weight, he_orthogonal_
from mlip_studies.models.gemnet_scaling import PUBLISHED, factor_names, fit_scale_factors
from mlip_studies.models.gemnet_singularities import ACETONITRILE, ETHYLENE, compare_variants, off_line, out_of_plane

DOUBLE = torch.float64
TINY = {
    "num_spherical": 4,
    "num_radial": 3,
    "num_blocks": 2,
    "emb_size_atom": 12,
    "emb_size_edge": 14,
    "emb_size_trip": 8,
    "emb_size_rbf": 5,
    "emb_size_cbf": 6,
    "emb_size_bil_trip": 7,
}
TINY_Q = {**TINY, "emb_size_quad": 9, "emb_size_sbf": 10, "emb_size_bil_quad": 11}
MAKE = {
    "T": lambda **options: GemNetT(**{**TINY, **options}),
    "Q": lambda **options: GemNetQ(**{**TINY_Q, **options}),
    "smooth": lambda **options: GemNetQ(**{**TINY_Q, "smooth_quadruplets": True, **options}),
}
WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
HCN = ([6, 1, 7], [[0.0, 0.0, 0.0], [0.0, 0.0, -1.07], [0.0, 0.0, 1.15]])
ATOM = ([7], [[0.3, -0.2, 0.5]])
FAR = ([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 6.0]])


def random_molecule(n, seed=0):
    """Atoms at least 1.1 Å apart in a row of about 8 Å: some pairs are beyond 5 Å."""
    rng = np.random.default_rng(seed)
    positions = [np.zeros(3)]
    while len(positions) < n:
        step = rng.normal(size=3) + np.array([0.6, 0.0, 0.0])
        place = positions[-1] + 1.4 * step / np.linalg.norm(step)
        if min(np.linalg.norm(place - other) for other in positions) > 1.1:
            positions.append(place)
    return rng.choice([1, 6, 7, 8], size=n), np.array(positions)


MOLECULES = [random_molecule(9), WATER, random_molecule(7, 1), HCN, ATOM, FAR, ETHYLENE, ACETONITRILE]


@pytest.fixture(params=sorted(MAKE))
def model(request):
    torch.manual_seed(2)
    return MAKE[request.param]().double()


@pytest.fixture(scope="module")
def plain(repository):
    sys.path.insert(0, str(repository))
    try:
        return importlib.import_module("benchmarks.baselines.gemnet").PlainGemNet
    finally:
        sys.path.remove(str(repository))


def evaluate(model, batch, n_graphs=None, n_atoms=None):
    """Energies, forces and the gradient of a loss with forces, of the first molecules."""
    energy, forces = model.energy_and_forces(batch, create_graph=True)
    energy, forces = energy[:n_graphs], forces[:n_atoms]
    loss = energy.square().sum() + (forces - 0.1).square().sum()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    gradients = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])
    return energy.detach(), forces.detach(), gradients


def assert_same(first, second, tolerance=1e-11):
    for a, b in zip(first, second, strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).abs().max() <= tolerance * (1.0 + b.abs().max())


# The published architecture


def test_numbers_of_parameters():
    assert GemNetT().n_parameters() == 1_892_294
    assert GemNetQ().n_parameters() == 2_158_470
    assert GemNetQ().cutoff == 10.0 and GemNetT().cutoff == 5.0


RENAME = [
    (r"^rbf_basis\.", "radial_basis."),
    (r"^mlp_rbf3\.", "radial_trip."),
    (r"^mlp_rbf4\.", "radial_quad."),
    (r"^mlp_rbf_h\.", "radial_atom."),
    (r"^mlp_rbf_out\.", "radial_out."),
    (r"^mlp_cbf3\.", "circular_trip."),
    (r"^mlp_cbf4\.", "circular_quad."),
    (r"^mlp_sbf4\.", "spherical_quad."),
    (r"^atom_emb\.embeddings\.", "atom_embedding."),
    (r"^edge_emb\.dense\.", "edge_embedding."),
    (r"^out_blocks\.", "outputs."),
    (r"^int_blocks\.", "interactions."),
    (r"\.quad_interaction\.mlp_cbf\.", ".quad_interaction.circular."),
    (r"\.mlp_[cs]bf\.", ".bilinear."),
    (r"\.trip_interaction\.", ".triplets."),
    (r"\.quad_interaction\.", ".quadruplets."),
    (r"\.layers_(before|after)_skip\.", r".\1_skip."),
    (r"\.residual_m\.", ".residuals."),
    (r"\.concat_layer\.dense\.", ".concat."),
    (r"\.dense_ca\.", ".skip."),
    (r"\.dense_(ba|db)\.", ".dense."),
    (r"\.(dense|mlp)_rbf\.", ".radial."),
    (r"\.down_projection\.", ".down."),
    (r"\.up_projection_ca\.", ".up."),
    (r"\.up_projection_ac\.", ".up_reverse."),
    (r"\.out_energy\.", ".energy."),
    (r"(outputs\.\d+|atom_update)\.layers\.0\.", r"\1.dense."),
    (r"(outputs\.\d+|atom_update)\.layers\.(\d+)\.", lambda m: f"{m[1]}.residuals.{int(m[2]) - 1}."),
    (r"\.dense_mlp\.0\.", ".first."),
    (r"\.dense_mlp\.1\.", ".second."),
]
ALIASES = re.compile(r"\.linear\.weight$|seq_energy|scale_factor$")


def reference_model(folder, variant, **options):
    """The reference's configuration and weights in our model, and its vectors."""
    config = json.loads((folder / f"gemnet_{variant}_small_config.json").read_text())
    kind = GemNetT if variant == "T" else GemNetQ
    names = kind.__init__.__code__.co_varnames[1 : kind.__init__.__code__.co_argcount]
    model = kind(**{name: config[name] for name in names if name in config}, **options).double()
    published = json.loads((folder / "scaling_factors.json").read_text())
    state = {f"scales.{name}": torch.tensor(published[name]) for name in model.scales.names}
    for key, value in torch.load(folder / f"gemnet_{variant}_small_state_dict.pt", weights_only=True).items():
        if ALIASES.search(key):
            continue
        for pattern, replacement in RENAME:
            key = re.sub(pattern, replacement, key)
        state[key] = value.double()
    model.load_state_dict(state)
    assert model.n_parameters() == config["trainable_parameters"]
    return model, np.load(folder / f"gemnet_{variant}_small.npz")


def reference_batch(vectors, name, model, dtype=DOUBLE):
    start = np.concatenate([[0], np.cumsum(vectors[f"{name}_in_N"])])
    numbers, positions = vectors[f"{name}_in_Z"], vectors[f"{name}_in_R"].astype(np.float64)
    molecules = [(numbers[a:b], positions[a:b]) for a, b in pairwise(start)]
    return make_batch(molecules, model.cutoff, dtype=dtype)


@pytest.mark.parametrize("variant", ["T", "Q"])
@pytest.mark.parametrize("name", ["A", "linear"])
def test_energies_and_forces_of_the_reference(parity_folder, variant, name):
    model, vectors = reference_model(parity_folder / "gemnet", variant)
    energy, forces = model.energy_and_forces(reference_batch(vectors, name, model))
    assert np.abs(energy.numpy() - vectors[f"{name}_E_f64"][:, 0]).max() < 1e-5
    assert np.abs(forces.numpy() - vectors[f"{name}_F_f64"]).max() < 1e-5


@pytest.mark.parametrize("variant", ["T", "Q"])
def test_activations_of_the_reference(parity_folder, variant):
    model, vectors = reference_model(parity_folder / "gemnet", variant)
    batch = reference_batch(vectors, "A", model)
    graph = model.geometry(batch)
    number = {edge: k for k, edge in enumerate(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))}
    rows = [number[edge] for edge in zip(vectors["A_in_id_c"].tolist(), vectors["A_in_id_a"].tolist(), strict=True)]
    assert len(rows) == len(number)
    radial = torch.cat([model.bases(graph).radial] * 2)[rows]
    assert np.abs(radial.detach().numpy() - vectors["A_act_rbf_basis"]).max() < 1e-6
    features, total = {}, 0.0
    with torch.no_grad():
        for block, (_, step) in enumerate(model.steps()[:-1]):
            features = step(batch, features)
            atoms = "A_act_atom_emb" if block == 0 else f"A_act_int_blocks.{block - 1}_0"
            edges = "A_act_edge_emb" if block == 0 else f"A_act_int_blocks.{block - 1}_1"
            # Stored in single precision.
            assert np.abs(features["atoms"].numpy() - vectors[atoms]).max() < 1e-5
            assert np.abs(features["edges"].numpy()[rows] - vectors[edges]).max() < 1e-5
            own, total = features["atomic_energy"] - total, features["atomic_energy"]
            if block:
                assert np.abs(own.numpy() - vectors[f"A_act_out_blocks.{block}_0"]).max() < 1e-5
    assert np.abs(total.numpy() - vectors["A_act_out_blocks.0_0"]).max() < 1e-5


@pytest.mark.parametrize("variant", ["T", "Q"])
def test_single_precision(parity_folder, variant):
    model, vectors = reference_model(parity_folder / "gemnet", variant)
    energy, forces = model.float().energy_and_forces(reference_batch(vectors, "A", model, torch.float32))
    assert np.abs(energy.numpy() - vectors["A_E_f64"][:, 0]).max() < 1e-4
    # The last molecule is on the cusp.
    start = np.cumsum(vectors["A_in_N"])[-2]
    error = np.abs(forces.numpy() - vectors["A_F_f64"]).max(axis=1)
    assert np.delete(error, np.arange(start, len(error)) if variant == "Q" else []).max() < 1e-3


def test_agrees_with_the_plain_formulation(model, plain):
    generic = make_batch([random_molecule(n, n) for n in (6, 8, 10)], model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(model, generic), evaluate(plain(model), generic), 1e-12)
    # Angles are clamped in the plain one, which shows where atoms are collinear, and makes forces there meaningless if
    # one more atom is beside the line.
    batch = make_batch(MOLECULES, model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(model, batch)[:1], evaluate(plain(model), batch)[:1], 1e-7)
    batch = make_batch(MOLECULES[:-1], model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(model, batch), evaluate(plain(model), batch), 1e-7)


@pytest.mark.parametrize("options", [{"num_spherical": 1}, {"num_blocks": 0}, {"num_spherical": 2, "num_atom": 0}])
@pytest.mark.parametrize("kind", sorted(MAKE))
def test_small_options(kind, options, plain):
    model = MAKE[kind](**options).double()
    batch = make_batch([random_molecule(6), ATOM], model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(model, batch), evaluate(plain(model), batch), 1e-12)


@pytest.mark.parametrize(("cutoff", "int_cutoff"), [(4.0, 3.0), (3.0, 6.0)])
def test_other_cutoffs(cutoff, int_cutoff, plain):
    model = MAKE["Q"](cutoff=cutoff, int_cutoff=int_cutoff).double()
    assert model.cutoff == max(cutoff, int_cutoff)
    batch = make_batch([random_molecule(10), random_molecule(8, 4)], model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(model, batch), evaluate(plain(model), batch), 1e-12)


# Graphs


class NoSynchronisation(TorchDispatchMode):
    """Refuses operations that make the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        for bad in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.index.Tensor"):
            assert bad not in name, name
        return func(*args, **(kwargs or {}))


def dataset(molecules, cutoff):
    return RaggedDataset(
        np.concatenate([np.asarray(z) for z, _ in molecules]),
        np.concatenate([np.asarray(x) for _, x in molecules]),
        np.concatenate([[0], np.cumsum([len(z) for z, _ in molecules])]),
        np.zeros(len(molecules)),
        dtype=DOUBLE,
        cutoff=cutoff,
    )


def test_padded_graph_and_graph_of_all_pairs(model):
    rows, n_atoms = np.arange(len(MOLECULES)), sum(len(z) for z, _ in MOLECULES)
    data = dataset(MOLECULES, None)
    expected = evaluate(model, dataset(MOLECULES, model.cutoff).batch(rows)[0])
    assert_same(evaluate(model, data.batch(rows)[0]), expected)
    atoms, pairs, triplets = Budget.of_counts(data.counts)
    for extra in (1, 12):
        budget = Budget(
            len(MOLECULES), atoms + extra, pairs + 2 * extra, triplets + extra, int(data.counts.max()) + extra - 1
        )
        padded = data.padded_batch(torch.as_tensor(rows), budget)[0]
        with NoSynchronisation():
            result = evaluate(model, padded, len(MOLECULES), n_atoms)
        assert_same(result, expected)


@pytest.mark.parametrize("kind", ["Q", "smooth"])
@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 7}, {"chunk": 10**6}, {"recompute": True, "chunk": 5}])
def test_chunks_and_recomputation_change_nothing(kind, options):
    torch.manual_seed(2)
    model = MAKE[kind]().double()
    other = MAKE[kind](**options).double()
    other.load_state_dict(model.state_dict())
    batch = make_batch(MOLECULES, model.cutoff, dtype=DOUBLE)
    assert_same(evaluate(other, batch), evaluate(model, batch))


def test_rotation_reflection_and_order_of_atoms(model):
    molecules = [random_molecule(8), random_molecule(6, 3)]
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.random.default_rng(1).permutation(8)
    moved = [(molecules[0][0][order], (molecules[0][1] @ q.T)[order] + 1.0), molecules[1]]
    energy, forces = model.energy_and_forces(make_batch(molecules, model.cutoff, dtype=DOUBLE))
    energy_moved, forces_moved = model.energy_and_forces(make_batch(moved, model.cutoff, dtype=DOUBLE))
    assert torch.allclose(energy, energy_moved, atol=1e-11, rtol=0)
    assert torch.allclose((forces[:8] @ torch.tensor(q.T))[order], forces_moved[:8], atol=1e-10, rtol=0)
    assert forces.abs().max() > 1e-4


def test_forces_are_the_gradient(model):
    numbers, positions = random_molecule(8, 5)
    _, forces = model.energy_and_forces(make_batch([(numbers, positions)], model.cutoff, dtype=DOUBLE))
    rng, h = np.random.default_rng(0), 1e-5
    direction = rng.normal(size=positions.shape)
    with torch.no_grad():
        above, below = (
            model(make_batch([(numbers, positions + s * direction)], model.cutoff, dtype=DOUBLE)) for s in (h, -h)
        )
    slope = ((above - below) / (2 * h)).item()
    assert abs(slope + (forces.numpy() * direction).sum()) < 1e-7 * max(1.0, abs(slope))


def test_atoms_without_edges_have_no_energy(model):
    batch = make_batch([ATOM, FAR], model.cutoff, dtype=DOUBLE)
    energy, forces, gradients = evaluate(model, batch)
    assert torch.all(energy == 0.0) and torch.all(forces == 0.0) and torch.isfinite(gradients).all()


def test_edges_must_come_in_pairs(model):
    batch = make_batch([WATER], model.cutoff, dtype=DOUBLE)
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    with pytest.raises(InputError, match="pairs"):
        model(GraphBatch(**{**fields, "n_pairs": None}))


def test_steps_make_up_the_network(model):
    batch = make_batch(MOLECULES[:3], model.cutoff, dtype=DOUBLE)
    names, features = [], {}
    for name, step in model.steps():
        names.append(name)
        features = step(batch, features)
    assert names == ["embedding", "interaction 1", "interaction 2", "readout"]
    assert torch.equal(features["energy"], model(batch))
    assert features["energy"].dtype == DOUBLE
    # One step of a chain may see another batch than the one before it.
    first, second = model.steps()[:2]
    moved = batch.with_positions(batch.positions + 0.0)
    again = second[1](moved, first[1](batch, {}))
    assert torch.allclose(again["edges"], model.steps()[1][1](batch, model.steps()[0][1](batch, {}))["edges"])


# Linear and planar molecules


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_linear_and_planar_molecules_train(model, dtype):
    batch = make_batch([HCN, ETHYLENE, ACETONITRILE, WATER], model.cutoff, dtype=dtype)
    for values in evaluate(model.to(dtype), batch):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("kind", ["T", "smooth"])
def test_smooth_models_have_second_derivatives_everywhere(kind):
    torch.manual_seed(4)
    model = MAKE[kind]().double()
    for numbers, positions in (HCN, ETHYLENE, ACETONITRILE):
        batch = make_batch([(numbers, positions)], model.cutoff, dtype=DOUBLE)
        hessian = torch.autograd.functional.hessian(
            lambda x, batch=batch: model(batch.with_positions(x)).sum(), batch.positions
        )
        hessian = hessian.reshape(3 * len(numbers), -1)
        assert torch.isfinite(hessian).all()
        assert torch.allclose(hessian, hessian.T, atol=1e-10)
        # Forces on either side of the plane and of the line differ by the Hessian's prediction.
        shift = torch.zeros_like(batch.positions)
        shift[2, 0], shift[2, 2] = 0.6e-4, 0.8e-4
        _, above = model.energy_and_forces(batch.with_positions(batch.positions + shift))
        _, below = model.energy_and_forces(batch.with_positions(batch.positions - shift))
        expected = -2.0 * (hessian @ shift.flatten()).view_as(shift)
        assert torch.allclose(above - below, expected, atol=1e-9, rtol=1e-4)


def test_singularities_of_quadruplets_and_their_removal():
    torch.manual_seed(5)
    sharp, smooth, triplets = (MAKE[kind]().double() for kind in ("Q", "smooth", "T"))
    heights, distances = [-1e-3, -1e-6, 0.0, 1e-6, 1e-3], [1e-5, 1e-4, 1e-3, 1e-2]
    plane, line = out_of_plane(sharp, heights), off_line(sharp, distances)
    # A cusp: the force keeps its size next to the plane, and is 0 in it.
    assert abs(plane.jump) > 1e-4
    assert plane.force[1] == pytest.approx(-plane.force[3], abs=1e-10)
    assert abs(plane.force[2]) < 1e-12
    assert plane.force[4] == pytest.approx(plane.force[3], rel=0.1)
    # A discontinuity: the energy depends on the direction at any distance, and forces go as its inverse.
    assert line.spread.min() > 0.8 * line.spread.max() > 1e-6
    growth = line.largest_force.max(axis=1)
    assert growth[0] / growth[1] == pytest.approx(10.0, rel=0.3)
    for model in (smooth, triplets):
        plane, line = out_of_plane(model, heights), off_line(model, distances)
        assert abs(plane.jump) < 1e-4
        assert plane.force[3] == pytest.approx(1e-3 * plane.force[4], rel=1e-3)
        assert line.spread[0] < 2e-3 * line.spread[-1] + 1e-13
        assert np.ptp(line.largest_force.max(axis=1)[:2]) < 1e-3


def test_smooth_quadruplets_still_depend_on_dihedral_angles():
    torch.manual_seed(5)
    model = MAKE["smooth"]().double()
    # Twisting one half of a molecule changes its dihedral angles, but no distance within the embedding cutoff.
    model = MAKE["smooth"](cutoff=2.4, int_cutoff=5.0).double()
    energies = []
    for angle in (0.4, 1.2, 2.0):
        end = [2.0 + 0.5, math.cos(angle), math.sin(angle)]
        positions = np.array([[-0.5, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], end])
        energies.append(model(make_batch([([1, 8, 8, 1], positions)], model.cutoff, dtype=DOUBLE)).item())
    assert np.ptp(energies) > 1e-6
    without = GemNetT(**{**TINY, "cutoff": 2.4}).double()
    energies = []
    for angle in (0.4, 1.2, 2.0):
        end = [2.0 + 0.5, math.cos(angle), math.sin(angle)]
        positions = np.array([[-0.5, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], end])
        energies.append(without(make_batch([([1, 8, 8, 1], positions)], without.cutoff, dtype=DOUBLE)).item())
    assert np.ptp(energies) < 1e-12


def test_comparison_of_variants():
    torch.manual_seed(0)
    models = {"one": MAKE["T"]().double(), "two": MAKE["smooth"]().double()}
    result = compare_variants(heights=[-0.01, 0.01], distances=[0.01, 0.1], models=models)
    assert list(result) == ["one", "two"]
    plane, line = result["two"]
    assert plane.energy.shape == (2,) and line.energy.shape == line.largest_force.shape == (2, 12)


# Scale factors


def test_missing_scale_factors_are_an_error():
    model = MAKE["Q"](scale_factors="unset")
    batch = make_batch([random_molecule(6)], model.cutoff)
    with pytest.raises(InputError, match=r"no scale factors.*fit_scale_factors"):
        model(batch)
    with pytest.raises(InputError, match="no scale factors"):
        model.steps()
    fitted = MAKE["Q"]()
    state = fitted.state_dict()
    del state["scales.AtomUpdate_2_sum"]
    for strict in (True, False):
        with pytest.raises(InputError, match=r"AtomUpdate_2_sum \(1 of 15 missing\)"):
            model.load_state_dict(state, strict=strict)
    with pytest.raises(InputError, match="no scale factors"):
        model(batch)
    model.load_state_dict(fitted.state_dict())
    assert torch.equal(model(batch), fitted(batch))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "many", None])
def test_bad_scale_factors_are_an_error(value):
    factors = {name: 1.0 for name in factor_names(2, True)}
    MAKE["Q"](scale_factors=factors)
    with pytest.raises(InputError, match="OutBlock_1_sum"):
        MAKE["Q"](scale_factors={**factors, "OutBlock_1_sum": value})


def test_published_factors():
    assert set(PUBLISHED) == set(factor_names(4, True))
    assert GemNetT().scales.values()["TripInteraction_3_sum_cbf"] == PUBLISHED["TripInteraction_3_sum_cbf"]
    with pytest.raises(InputError, match="four blocks"):
        MAKE["T"](num_blocks=5)
    with pytest.raises(InputError, match="'unset'"):
        MAKE["T"](scale_factors="guessed")


def test_published_factors_are_those_of_the_reference(parity_folder):
    published = json.loads((parity_folder / "gemnet" / "scaling_factors.json").read_text())
    assert {name: published[name] for name in PUBLISHED} == PUBLISHED


def test_factors_stay_exact_in_every_type():
    model = MAKE["Q"]()
    expected = model.scales.values()
    model = model.half().float().double()
    assert model.scales.values() == expected
    assert all(buffer.dtype == DOUBLE for buffer in model.scales.buffers())
    assert next(model.parameters()).dtype == DOUBLE
    batch = make_batch([WATER], model.cutoff)
    assert model.float().energy_and_forces(batch)[1].dtype == torch.float32


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_fitted_factors_keep_the_variance(kind):
    torch.manual_seed(6)
    model = MAKE[kind](scale_factors="unset")
    batches = [make_batch([random_molecule(8, 10 * k + j) for j in range(4)], model.cutoff) for k in range(3)]
    fitted = fit_scale_factors(model, batches)
    assert list(fitted) == list(model.scales.names) and fitted == model.scales.values()
    assert torch.isfinite(model(batches[0])).all()
    # Seen again with the fitted factors, every operation has the same variance at its input and output.
    seen = {}

    def observer(name, before, after, weights):
        rows = before.double() if weights is None else before.double().repeat_interleave(weights, dim=0)
        ratio = seen.setdefault(name, [0.0, 0.0])
        ratio[0] += rows.var(dim=0, unbiased=False).mean().item()
        ratio[1] += after.double().var(dim=0, unbiased=False).mean().item()

    model.scales.observer = observer
    with torch.no_grad():
        for batch in batches:
            model(batch)
    assert list(seen) == list(fitted)
    for name, (before, after) in seen.items():
        assert after == pytest.approx(before, rel=1e-4), name


def test_fit_needs_suitable_molecules():
    model = MAKE["Q"](scale_factors="unset")
    with pytest.raises(InputError, match="at least one ragged batch"):
        fit_scale_factors(model, [])
    # Three atoms have no quadruplets.
    with pytest.raises(InputError, match=r"QuadInteraction_1_(had_cbf|sum_sbf)"):
        fit_scale_factors(model, [make_batch([WATER], model.cutoff)])
    with pytest.raises(InputError, match="no scale factors"):
        model(make_batch([WATER], model.cutoff))


def test_rows_of_fitted_quadruplets_are_counted():
    """The weights of a sum's inputs are the numbers of quadruplets and triplets."""
    model = MAKE["Q"]().double()
    numbers, positions = random_molecule(7, 3)
    batch = make_batch([(numbers, positions)], model.cutoff, dtype=DOUBLE)
    counts = {}
    model.scales.observer = lambda name, before, after, weights: counts.setdefault(
        name.split("_", 2)[2] if "Interaction" in name else name,
        len(before) if weights is None else int(weights.sum()),
    )
    with torch.no_grad():
        model(batch)
    distance = np.linalg.norm(positions[:, None] - positions, axis=2)
    near = (distance <= 5.0) & ~np.eye(7, dtype=bool)
    atoms = range(7)
    triplets = sum(near[c, a] and near[b, a] and b != c for a in atoms for b in atoms for c in atoms)
    middle = [(a, b, d) for a in atoms for b in atoms for d in atoms if a != b and near[d, b] and d != a]
    quadruplets = sum(near[c, a] and c not in (b, d) for a, b, d in middle for c in atoms)
    assert counts["sum_cbf"] == triplets
    assert counts["had_cbf"] == len(middle)
    assert counts["sum_sbf"] == quadruplets
    assert counts["had_rbf"] == near.sum()


# Construction


def test_initial_weights():
    torch.manual_seed(0)
    for shape, axes in (((40, 64), (1,)), ((64, 40), (1,)), ((12, 7, 10), (0, 1))):
        weight = he_orthogonal_(torch.empty(shape, dtype=DOUBLE))
        fan_in = math.prod(shape[axis] for axis in axes)
        assert weight.mean(dim=axes).abs().max() < 1e-12
        assert torch.allclose(weight.var(dim=axes) * fan_in, torch.ones(()).double(), rtol=1e-4 * fan_in)
    # Rows are orthogonal where there are fewer of them than columns (up to the shift of their means).
    gram = (lambda w: w @ w.T)(Weight(16, 400).weight.detach())
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 0.2
    embedding = GemNetT().atom_embedding.weight
    assert embedding.shape == (93, 128)
    assert math.sqrt(3) * 0.999 < embedding.abs().max() <= math.sqrt(3)


def test_gradient_scales_name_shared_layers():
    model = GemNetQ()
    names = [name for name, _ in model.named_parameters()]
    for prefix, factor in model.gradient_scales.items():
        assert sum(name.startswith(prefix) for name in names) == 1
        assert factor == (0.2 if prefix == "radial_out." else 0.25)
    assert len(model.gradient_scales) == 7 and len(GemNetT().gradient_scales) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"num_radial": 0},
        {"num_blocks": -1},
        {"emb_size_edge": 12.5},
        {"cutoff": 0.0},
        {"cutoff": math.inf},
        {"elements": [0]},
        {"elements": [94]},
        {"elements": []},
        {"chunk": 0},
    ],
)
def test_bad_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        MAKE["Q"](**options)


def test_elements():
    model = GemNetT(**TINY, elements=[1, 6])
    assert model.elements == (1, 6)
    assert GemNetT(**TINY).elements == tuple(range(1, 94))
