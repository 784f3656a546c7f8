"""Measurements of the networks and their figures and tables."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from mlip_studies.artifacts import write_text
from mlip_studies.config import load_models
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.equivariance import layer_errors, random_rotations, rotate_feature
from mlip_studies.models.gemnet_scan import COLUMNS
from mlip_studies.models.measure import excite, measure_model, measured_molecules
from mlip_studies.models.registry import build_model
from mlip_studies.studies.model_products import MODEL_PRODUCTS
from mlip_studies.studies.models_overview import draw

SMALL = {"hidden": 12, "n_layers": 2}


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def measured(tmp_path):
    entry = {"title": "EGNN", "source": "a paper", "model": "egnn", "options": SMALL, "parameters": 7}
    other = entry | {"title": "SchNet", "model": "schnet", "options": {"hidden": 8, "filters": 8, "n_layers": 1}}
    del other["parameters"]
    for name, each in (("egnn", entry), ("schnet", other)):
        measure_model(name, each, tmp_path / f"{name}.json", n_rotations=2)
    return [tmp_path / "egnn.json", tmp_path / "schnet.json"]


def test_measured_numbers(measured):
    content = json.loads(measured[0].read_text())
    assert content["parameters"] == build_model("egnn", SMALL).n_parameters()
    assert content["parameters_published"] == 7
    assert content["forces"] == "gradient"
    layers = pd.DataFrame(content["layers"])
    assert set(layers["precision"]) == {"float32", "float64"}
    worst = layers.groupby("precision")["maximum"].max()
    assert 1e-9 < worst["float32"] < 1e-5
    assert 1e-18 < worst["float64"] < 1e-13
    assert (layers["mean"] <= layers["maximum"]).all()


def test_measurements_repeat(measured, tmp_path):
    again = tmp_path / "again.json"
    content = json.loads(measured[0].read_text())
    entry = {"title": "EGNN", "source": "a paper", "model": "egnn", "options": SMALL, "parameters": 7}
    measure_model("egnn", entry, again, n_rotations=2)
    repeated = json.loads(again.read_text())
    # The errors are rounding themselves and may change with the alignment of memory, by a few units of it.
    unit = {"float32": 1e-6, "float64": 1e-14}
    for first, second in zip(content.pop("layers"), repeated.pop("layers"), strict=True):
        for key in ("maximum", "mean"):
            assert first.pop(key) == pytest.approx(second.pop(key), abs=unit[first["precision"]])
        assert first == second
    assert repeated == content


def test_a_layer_that_breaks_the_symmetry_is_found():
    torch.manual_seed(0)
    model = build_model("egnn", SMALL).double()
    steps = model.steps()

    def broken(batch, features):
        features = steps[1][1](batch, features)
        return {key: value * (1 + 1e-6 * batch.positions[:, :1]) for key, value in features.items()}

    model.steps = lambda: [steps[0], ("broken", broken), *steps[2:]]
    batch = make_batch(measured_molecules(), dtype=torch.float64)
    errors = {}
    for error in layer_errors(model, batch, n_rotations=3):
        errors[error.layer] = max(errors.get(error.layer, 0.0), error.maximum)
    assert errors.pop("broken") > 1e-7
    assert max(errors.values()) < 1e-13


def test_rotation_of_features_follows_the_harmonics():
    from e3nn import o3

    model = build_model("so3krates", {"n_features": 12, "n_layers": 1})
    rotation = random_rotations(1, 3)[0]
    points = torch.as_tensor(np.random.default_rng(0).normal(size=(6, 3)))
    axes = list(model.irreps_axes)

    def chi(x):
        return torch.cat([o3.spherical_harmonics(degree, x[:, axes], normalize=True) for degree in (1, 2, 3)], dim=1)

    turned = rotate_feature(model, "chi", chi(points), rotation)
    assert torch.allclose(turned, chi(points @ torch.as_tensor(rotation).T), atol=1e-12)
    assert torch.equal(rotate_feature(model, "x", points, rotation), points)
    forces = rotate_feature(model, "forces", points, rotation)
    assert torch.allclose(forces, points @ torch.as_tensor(rotation).T)


def test_silent_parameters_are_excited_and_others_are_not():
    model = build_model("so3krates", {"n_features": 12, "n_layers": 1})
    before = {name: value.clone() for name, value in model.named_parameters()}
    excite(model, 0)
    for name, value in model.named_parameters():
        silent = float(before[name].detach().abs().max()) == 0.0
        assert torch.equal(value, before[name]) != silent
        assert float(value.detach().abs().max()) > 0.0


def test_tables(measured, tmp_path):
    draw("parameters", {"networks": measured}, tmp_path / "parameters.html", "mini")
    rows = {row["network"]: row for row in rows_of(tmp_path / "parameters.csv")}
    assert (rows["EGNN"]["published"], rows["EGNN"]["agrees"]) == ("7", "no")
    assert (rows["SchNet"]["published"], rows["SchNet"]["agrees"]) == ("", "")
    draw("equivariance-table", {"networks": measured}, tmp_path / "layers.html", "mini")
    layers = rows_of(tmp_path / "layers.csv")
    assert {row["title"] for row in layers} == {"EGNN", "SchNet"}
    for row in layers:
        assert row["within_thesis_limit"] == ("yes" if float(row["float32"]) < 1e-6 else "no")
    assert "eq. 3.1" in (tmp_path / "layers.html").read_text()


def test_equivariance_figure_holds_what_it_draws(measured, tmp_path):
    draw("equivariance", {"networks": measured}, tmp_path / "equivariance.png", "mini")
    drawn = rows_of(tmp_path / "equivariance.csv")
    content = json.loads(measured[0].read_text())["layers"]
    assert sorted(float(row["maximum"]) for row in drawn if row["network"] == "egnn") == sorted(
        layer["maximum"] for layer in content
    )
    assert (tmp_path / "equivariance.svg").stat().st_size > 1000


def test_singularities_figure(tmp_path):
    rows = []
    for variant in ("GemNet-T", "GemNet-Q"):
        rows += [(variant, "out_of_plane", h, float("nan"), h * h, -2 * h) for h in (-0.1, 0.0, 0.1)]
        rows += [(variant, "off_line", r, p, r * p, 1 / r) for r in (1e-3, 1e-2) for p in (0.0, 1.0)]
    path = tmp_path / "scan.csv"
    write_text(path, pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))
    draw("gemnet-singularities", {"singularities": [path]}, tmp_path / "figure.png", "mini")
    assert len(rows_of(tmp_path / "figure.csv")) == len(rows)
    write_text(path, "variant,scan\na,b\n")
    with pytest.raises(InputError, match=r"scan\.csv"):
        draw("gemnet-singularities", {"singularities": [path]}, tmp_path / "figure.png", "mini")


def make_run(folder, name, errors):
    folder = folder / name / "seed0"
    folder.mkdir(parents=True)
    run = {
        "label": f"{name.title()}, big, seed 0",
        "config": {"seed": 0, "store": "results/mini/data/qm7x_mini/store.h5"},
        "n_parameters": 5, "n_train": 3, "n_val": 2, "n_test": 4, "steps": 20, "configurations_per_second": 2.5,
        "train_seconds": 8.0, "device": "cpu", "environment": {"peak_memory_mb": 100.0},
        "test": {"energy_mae_ev": 0.5, "energy_per_atom_mae_ev": 0.1, "force_mae_ev_per_angstrom": 0.25},
    }  # fmt: skip
    write_text(folder / "run.json", json.dumps(run))
    frame = pd.DataFrame(
        {
            "step": [10, 20],
            "validation_force_mae_ev_per_angstrom": errors,
            "validation_energy_per_atom_mae_ev": errors,
        }
    )
    write_text(folder / "history.csv", frame.to_csv(index=False))
    return folder


def test_check_of_training(tmp_path):
    folders = [make_run(tmp_path, "schnet", [2.0, 1.0]), make_run(tmp_path, "egnn", [3.0, 0.5])]
    runs, histories = ([folder / name for folder in folders] for name in ("run.json", "history.csv"))
    draw("training", {"runs": runs, "histories": histories}, tmp_path / "training.png", "mini")
    drawn = rows_of(tmp_path / "training.csv")
    assert [(row["network"], float(row["validation_force_mae_ev_per_angstrom"])) for row in drawn] == [
        ("schnet", 2.0), ("schnet", 1.0), ("egnn", 3.0), ("egnn", 0.5),
    ]  # fmt: skip
    draw("training-table", {"runs": runs}, tmp_path / "table.html", "mini")
    table = rows_of(tmp_path / "table.csv")
    assert [row["network"] for row in table] == ["Schnet, big", "Egnn, big"]
    assert float(table[0]["force_mae_mev_per_angstrom"]) == 250.0


def test_unknown_product_is_one_line(tmp_path):
    with pytest.raises(InputError, match="'loss' of the networks is unknown"):
        draw("loss", {}, tmp_path / "a.png", "mini")


def test_every_product_has_a_caption(repository):
    for key in MODEL_PRODUCTS:
        assert (repository / "workflow" / "report" / "models" / f"{key}.rst").is_file()


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_every_network_of_the_configuration_can_be_built(repository, scale):
    networks = load_models(repository, scale)["networks"]
    for name, entry in networks.items():
        model = build_model(entry["model"], entry["trained"]["options"])
        assert model.n_parameters() > 0
        if scale == "full" and "parameters" in entry:
            assert build_model(entry["model"], entry["options"]).n_parameters() == entry["parameters"], name


def test_training_of_every_network_is_a_valid_configuration(repository):
    from mlip_studies.config import merge
    from mlip_studies.training.config import TrainingConfig

    for scale in ("mini", "full"):
        content = load_models(repository, scale)
        for entry in content["networks"].values():
            if entry["training"]:
                TrainingConfig.from_dict(merge(entry["trained"]["training"], content["training_check"]["training"]))


def test_a_network_of_an_unknown_model_is_one_line(tmp_path, repository):
    text = (repository / "config" / "models.yaml").read_text().replace("model: schnet", "model: shnet")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.yaml").write_text(text)
    (tmp_path / "workflow").symlink_to(repository / "workflow")
    with pytest.raises(InputError, match=r"key .networks\.schnet\.model.: .shnet. is no model; did you mean .schnet."):
        load_models(tmp_path, "mini")
