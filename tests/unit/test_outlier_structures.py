"""The worst molecules as extended XYZ, chemiscope data set and page."""

import gzip
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import ase.io
import numpy as np
import pytest

from mlip_studies.artifacts import is_intact
from mlip_studies.data.store import Store, StoreWriter
from mlip_studies.errors import InputError
from mlip_studies.studies.outlier_structures import Outlier, StructureOutputs, outlier_structures, to_page
from mlip_studies.studies.run_tables import RunFiles

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
CARBON_DIOXIDE = np.array([[0.0, 0.0, 0.0], [1.16, 0.0, 0.0], [-1.16, 0.0, 0.0]])
HELIUM = np.zeros((1, 3))
N = 6


@pytest.fixture
def inputs(tmp_path):
    """A store, and a run that tests all its rows and errs most in the forces of row 8, then of row 2."""
    rng = np.random.default_rng(0)
    path = tmp_path / "data" / "store.h5"
    path.parent.mkdir()
    with StoreWriter(path, ["dft"], ["dft"], info=("smiles", "subset")) as writer:
        for name, geometry, z in (("w", WATER, [8, 1, 1]), ("c", CARBON_DIOXIDE, [6, 8, 8]), ("7", HELIUM, [2])):
            writer.append(
                np.array(z),
                geometry + rng.normal(0, 0.02, size=(N, *geometry.shape)),
                {"dft": rng.normal(size=N)},
                {"dft": rng.normal(size=(N, *geometry.shape))},
                group=name,
                info={"smiles": "" if name == "7" else f"[{name}](=O)", "subset": "</script><b>set</b>"},
            )
    with Store(path) as store:
        rows = store.read(np.arange(store.n_rows)[::-1])
    predicted = rows.forces["dft"] + 0.1 * rng.normal(size=rows.forces["dft"].shape)
    index = {int(row): int(first) for row, first in zip(rows.rows, rows.ptr[:-1], strict=True)}
    predicted[index[8] + 1] = [0.5, -30.0, 0.0]
    predicted[index[2] + 2, 0] += 12.0
    folder = tmp_path / "run" / "seed3"
    folder.mkdir(parents=True)
    np.savez(
        folder / "predictions.npz",
        rows=rows.rows,
        ptr=rows.ptr,
        group=rows.group,
        atomic_numbers=rows.atomic_numbers,
        energy_label_ev=rows.energy["dft"],
        energy_predicted_ev=rows.energy["dft"],
        forces_label_ev_per_angstrom=rows.forces["dft"],
        forces_predicted_ev_per_angstrom=predicted.astype(np.float32),
    )
    content = {"config": {"seed": 3, "fidelity": "dft"}, "test": {"energy_mae_ev": 0.0}}
    (folder / "run.json").write_text(json.dumps(content))
    return RunFiles.in_folder(folder), path


def outputs_in(folder, name="outliers.json.gz"):
    return StructureOutputs(folder / "outliers.extxyz", folder / name, folder / "outliers-3d.html")


def test_worst_first_with_their_forces(tmp_path, inputs):
    files, store_path = inputs
    outputs = outputs_in(tmp_path / "out")
    outliers = outlier_structures(files, store_path, outputs, "a run", n=5)
    assert [outlier.row for outlier in outliers[:2]] == [8, 2]
    assert len(outliers) == 5
    assert [o.largest for o in outliers] == sorted((o.largest for o in outliers), reverse=True)
    frames = ase.io.read(outputs.extxyz, ":")
    with Store(store_path) as store:
        for outlier, frame in zip(outliers, frames, strict=True):
            rows = store.read([outlier.row])
            np.testing.assert_array_equal(frame.numbers, rows.atomic_numbers)
            np.testing.assert_allclose(frame.positions, rows.positions, atol=1e-6)
            np.testing.assert_allclose(frame.arrays["forces_true"], rows.forces["dft"], atol=1e-6)
            residual = np.linalg.norm(frame.arrays["forces_predicted"] - frame.arrays["forces_true"], axis=1)
            np.testing.assert_allclose(frame.arrays["force_residual"], residual, atol=1e-6)
            assert frame.info["row"] == outlier.row
    assert frames[0].info["smiles"] == "[c](=O)"
    np.testing.assert_allclose(frames[0].arrays["forces_predicted"][1], [0.5, -30.0, 0.0], atol=1e-6)
    assert all(is_intact(path) for path in (outputs.extxyz, outputs.chemiscope, outputs.page))


def test_outlying_components():
    true = np.array([[9.5, 0.0, 9.5], [0.0, 0.0, 7.0]])
    predicted = np.array([[0.9, 20.0, 1.1], [0.0, 0.0, 0.0]])
    outlier = Outlier(0, "H2", {"group": "h"}, np.array([1, 1]), np.array([[0.0, 0, 0], [0.74, 0, 0]]), true, predicted)
    assert outlier.counted == 1
    assert outlier.largest == 20.0
    assert outlier.bonds() == [(0, 1)]


def test_chemiscope(tmp_path, inputs):
    files, store_path = inputs
    outputs = outputs_in(tmp_path / "out")
    outliers = outlier_structures(files, store_path, outputs, "a run")
    with gzip.open(outputs.chemiscope, "rt", encoding="utf-8") as stream:
        content = json.load(stream)
    assert content["meta"]["name"] == "a run"
    structures, n_atoms = content["structures"], sum(len(outlier.atomic_numbers) for outlier in outliers)
    assert len(structures) == len(outliers) == 3 * N  # fewer than the 50 asked for
    for structure, outlier in zip(structures, outliers, strict=True):
        assert structure["size"] == len(structure["names"]) == len(structure["z"]) == len(outlier.atomic_numbers)
        np.testing.assert_allclose(structure["y"], outlier.positions[:, 1], atol=1e-5)
    for name, entry in content["properties"].items():
        assert len(entry["values"]) == (n_atoms if entry["target"] == "atom" else len(structures)), name
    assert {entry["target"] for entry in content["properties"].values()} == {"atom", "structure"}
    expected = [(i, k) for i, outlier in enumerate(outliers) for k in range(len(outlier.atomic_numbers))]
    assert [(entry["structure"], entry["center"]) for entry in content["environments"]] == expected
    residual = np.concatenate([outlier.residual for outlier in outliers])
    norms = content["properties"]["force residual"]["values"]
    np.testing.assert_allclose(norms, np.linalg.norm(residual, axis=1), atol=1e-5)
    for name, shape in content["shapes"].items():
        assert len(shape["parameters"]["atom"]) == n_atoms, name
    vectors = [entry["vector"] for entry in content["shapes"]["force residual"]["parameters"]["atom"]]
    np.testing.assert_allclose(vectors, 0.1 * residual, atol=1e-5)
    for axis in ("x", "y", "color"):
        assert content["settings"]["map"][axis]["property"] in content["properties"]
    # Not compressed, and the same bytes again.
    plain = outputs_in(tmp_path / "plain", "outliers.json")
    outlier_structures(files, store_path, plain, "a run")
    assert json.loads(plain.chemiscope.read_text(encoding="utf-8")) == content
    before = outputs.chemiscope.read_bytes(), outputs.page.read_bytes(), outputs.extxyz.read_bytes()
    outlier_structures(files, store_path, outputs, "a run")
    assert before == (outputs.chemiscope.read_bytes(), outputs.page.read_bytes(), outputs.extxyz.read_bytes())


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.data, self.inside = [], [], "", None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        self.inside = attributes.get("type") if tag == "script" else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "application/json":
            self.data += data


def test_page_is_self_contained_and_holds_the_molecules(tmp_path, inputs):
    files, store_path = inputs
    outputs = outputs_in(tmp_path / "out")
    outliers = outlier_structures(files, store_path, outputs, "a <run>", n=4)
    text = outputs.page.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.links == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.tags.count("script") == 2
    assert "b" not in page.tags  # the subset's name is text
    assert "<title>a &lt;run&gt;</title>" in text
    molecules = json.loads(page.data)
    assert len(molecules) == 4
    for molecule, outlier in zip(molecules, outliers, strict=True):
        np.testing.assert_allclose(molecule["predicted"], outlier.predicted, atol=1e-3)
        turn = np.reshape(molecule["turn"], (3, 3))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)
        assert np.linalg.det(turn) == pytest.approx(1.0, abs=1e-4)
        assert f"row {outlier.row}" in molecule["text"]
    assert "-30.00" in molecules[0]["text"]
    assert "</script><b>set</b>" in molecules[0]["text"]


def test_a_single_atom_has_a_page():
    force = np.array([[0.0, 0.0, 1.0]])
    outlier = Outlier(0, "He", {"group": "he"}, np.array([2]), np.zeros((1, 3)), force, 2 * force)
    page = _Page()
    page.feed(to_page([outlier], "one atom"))
    assert json.loads(page.data)[0]["bonds"] == []
    assert "Group" in to_page([outlier], "one atom")


def test_bad_input(tmp_path, inputs):
    files, store_path = inputs
    outputs = outputs_in(tmp_path / "out")
    with pytest.raises(InputError, match="at least one"):
        outlier_structures(files, store_path, outputs, "a run", n=0)
    with np.load(files.predictions) as archive:
        arrays = {name: archive[name] for name in archive.files}
    swapped = arrays | {
        "energy_label_ev": arrays["energy_label_ev"] + 1,
        "energy_predicted_ev": arrays["energy_label_ev"] + 1,
    }
    np.savez(files.predictions, **swapped)
    with pytest.raises(InputError, match="not those of"):
        outlier_structures(files, store_path, outputs, "a run")
    np.savez(files.predictions, **{name: values for name, values in arrays.items() if not name.startswith("forces")})
    with pytest.raises(InputError, match="has no forces"):
        outlier_structures(files, store_path, outputs, "a run")
    assert not (tmp_path / "out").exists()


def test_light():
    code = "import sys, mlip_studies.studies.outlier_structures; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
