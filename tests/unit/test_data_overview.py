"""Figures and tables of the data sets, and the summary that they are drawn from, on inputs with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mlip_studies.data.nbody import NBodySettings, write_nbody
from mlip_studies.data.self_energies import regress_store, write_self_energies
from mlip_studies.data.store import Block, Store, StoreWriter
from mlip_studies.data.summary import summarise_store, write_summary
from mlip_studies.errors import InputError
from mlip_studies.studies import data_overview as drawn
from mlip_studies.studies.data_overview import PRODUCTS, Context, DataFiles

REPO = Path(__file__).resolve().parents[2]
MINI, FULL = Context("mini", "a mini data set"), Context("full", "a data set")
FUNNEL = [
    ("read", 1000, 0, "1000 rows of spice"),
    ("elements", 1000, 0, "elements outside H, C: none found"),
    ("neutral", 640, 360, "total formal charge from the SMILES is not 0, in " + "many words " * 30),
    ("stored", 640, 0, "labels: 640 dft"),
]
CHECK = {"dft": {"verdict": "verified", "correlation": 0.98, "slope": 1.01, "pairs": 40}}


def block(name, numbers, energies, *, forces=None, info=None, columns=None, fidelity="dft"):
    """Frames of one molecule; every force is (0, 3, 4) times a factor per frame, so its norm is five times that."""
    n = len(energies)
    force = {}
    if forces is not None:
        force = {fidelity: np.asarray(forces)[:, None, None] * np.tile([0.0, 3.0, 4.0], (n, len(numbers), 1))}
    return Block(
        name, np.array(numbers, dtype=np.uint8), np.random.default_rng(len(name)).normal(size=(n, len(numbers), 3)),
        {fidelity: np.asarray(energies, dtype=float)}, force, np.arange(n), info or {}, columns or {},
    )  # fmt: skip


def write_store(path, blocks, fidelities=("dft",), forces=("dft",), elements=(1, 6, 8), **options):
    provenance = {
        "dataset": path.parent.name, "title": "a title", "elements": list(elements), "levels": {"dft": "wB97X"},
        "licence": "MIT", "citation": "us",
        "sources": [{"units": {"energy": "hartree", "length": "bohr"}, "force_check": CHECK}],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(path, fidelities, forces, provenance, **options) as writer:
        for item in blocks:
            writer.append_block(item)
    return path


def molecules():
    """Three groups: water, methane, and one that mixes two compositions."""
    nan = np.nan
    return [
        block("water", [8, 1, 1], [-10.0, -8.0, nan], forces=[1.0, 2.0, nan], info={"subset": "A"},
              columns={"displacement": np.array([0, 1, 2])}),
        block("methane", [6, 1, 1, 1, 1], [-20.0], forces=[0.0], info={"subset": "B"},
              columns={"displacement": np.array([0])}),
        block("mixed", [6, 1], [-5.0, -4.5], forces=[1.0, 1.0], info={"subset": "A"},
              columns={"displacement": np.array([1, 2])}),
        block("mixed", [1, 1], [-1.0], forces=[200.0], columns={"displacement": np.array([-1])}),
    ]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "s" / "store.h5", molecules(), columns=["displacement"], info=["subset"])


# ---- summary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_summary_counts_everything_whatever_the_chunks(store, chunk_rows):
    with Store(store) as opened:
        summary = summarise_store(opened, chunk_rows)
    assert (summary["n_rows"], summary["n_groups"]) == (7, 3)
    assert summary["rows_per_group"] == {"min": 1, "median": 3.0, "max": 3}
    assert summary["elements"] == [
        {"element": "H", "rows": 7, "atoms": 6 + 4 + 2 + 2},
        {"element": "C", "rows": 3, "atoms": 3},
        {"element": "O", "rows": 3, "atoms": 3},
    ]
    assert summary["n_atoms"]["sizes"] == [2, 3, 5]
    assert summary["n_atoms"]["rows"] == [3, 3, 1]
    assert summary["n_atoms"]["mean"] == pytest.approx(20 / 7)
    assert summary["subsets"] == [{"subset": "A", "rows": 6, "groups": 2}, {"subset": "B", "rows": 1, "groups": 1}]
    assert summary["displacement"] == {"equilibrium": 2, "displaced": 4, "unknown": 1}
    entry = summary["fidelities"]["dft"]
    energies = np.array([-10, -8, -20, -5, -4.5, -1])
    assert entry["rows"] == 6
    assert entry["energy"]["mean_ev"] == pytest.approx(energies.mean())
    assert entry["energy"]["std_ev"] == pytest.approx(energies.std())
    assert (entry["energy"]["min_ev"], entry["energy"]["max_ev"]) == (-20, -1)
    # Water alone has two labels and one composition.
    spread = entry["group_energy_range"]
    assert spread["groups"] == 1
    assert spread["left_out"] == {"one_row": 1, "several_compositions": 1}
    assert spread["min_ev"] == spread["median_ev"] == spread["max_ev"] == 2.0
    assert sum(spread["histogram"]["counts"]) == 1
    assert spread["histogram"]["edges"][0] <= 2 < spread["histogram"]["edges"][-1]


def test_summary_of_forces(store):
    with Store(store) as opened:
        forces = summarise_store(opened)["fidelities"]["dft"]["forces"]
    norms = np.array([5.0] * 3 + [10.0] * 3 + [0.0] * 5 + [5.0] * 4 + [1000.0] * 2)
    assert (forces["rows"], forces["atoms"]) == (6, len(norms))
    assert forces["mean_ev_per_angstrom"] == pytest.approx(norms.mean())
    assert forces["rms_ev_per_angstrom"] == pytest.approx(np.sqrt((norms**2).mean()))
    assert forces["max_ev_per_angstrom"] == 1000.0
    histogram = forces["histogram"]
    assert histogram["zeros"] == 5
    assert sum(histogram["counts"]) == len(norms) - 5
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    assert len(edges) == len(counts) + 1
    assert counts[0] == 7 and edges[0] <= 5 < edges[1]
    assert counts[-1] == 2 and edges[-2] <= 1000 * (1 + 1e-12) and edges[-1] > 1000


def test_summary_without_forces_facts_and_labels(tmp_path):
    blocks = [block("a", [1, 1], [-1.0, -2.0]), block("a", [1, 1], [-7.0], fidelity="cc")]
    path = write_store(tmp_path / "s" / "store.h5", blocks, ("dft", "cc"), ())
    write_summary(path, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["subsets"] == []
    assert summary["displacement"] is None
    assert [entry["element"] for entry in summary["elements"]] == ["H"]
    assert summary["fidelities"]["dft"]["forces"] is None
    assert summary["fidelities"]["cc"]["group_energy_range"]["groups"] == 0
    assert summary["fidelities"]["cc"]["group_energy_range"]["max_ev"] is None
    assert summary["title"] == "a title"


# ---- inputs of all products ----------------------------------------------------------------------------------------


def write_funnel(path, rows=FUNNEL):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["step", "rows", "removed", "reason"]).to_csv(path, index=False)


def comparison_rows(dataset="set", fidelity="dft"):
    """Fit, published fit and both kinds of atoms of H and C, and an element that the data set does not hold."""
    head = (dataset, fidelity)
    return [
        (*head, "wB97X", "H", "linear fit, ours", -16.0, 0.1, "fit"),
        (*head, "wB97X", "C", "linear fit, ours", -1036.0, 0.2, "fit"),
        (*head, "wB97X", "Na", "linear fit, ours", 0.0, 0.0, "fit"),
        (*head, "ωB97X", "H", "linear fit, published", -16.5, np.nan, "paper"),
        (*head, "ωB97X", "H", "isolated atom", -13.6, np.nan, "paper"),
        (*head, "ωB97X", "C", "isolated atom", -1030.0, np.nan, "paper"),
        (*head, "ωB97X", "Na", "isolated atom", -4400.0, np.nan, "paper"),
        (*head, "wb97x", "H", "isolated atom, ours", -13.5, np.nan, "ours"),
    ]


def write_reference(path, rows):
    pd.DataFrame(rows, columns=list(drawn.REFERENCE_COLUMNS)).to_csv(path, index=False)


def fit_report(elements, determined=None, rank=None):
    values = np.random.default_rng(0).normal(size=400)
    stages = {}
    for stage, numbers in (("before", values * 100 - 5000), ("after", values)):
        counts, edges = np.histogram(numbers, 20)
        stages[stage] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return {
        "elements": elements, "coefficients_ev": [-10.0] * len(elements), "standard_error_ev": [0.1] * len(elements),
        "rank": rank or len(elements), "determined": determined or [True] * len(elements), "note": None, "n_rows": 400,
        "before": {"mean_ev": -5000.0, "std_ev": 100.0},
        "after": {"mean_ev": 0.0, "std_ev": 1.0, "std_per_atom_ev": 0.02}, "histogram": stages,
    }  # fmt: skip


def write_fit(path, **fits):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": path.parent.name, "rows": "all", "fidelities": fits}))


def write_split(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def leak(rows, geometries, groups):
    return {
        "shared_rows": rows, "shared_geometries": geometries, "shared_groups": groups, "rows_in_shared_groups": 9,
    }  # fmt: skip


def write_table31(path):
    rows = [
        ("ANI-1", "ani1_mini", "dft", "as they are", "none", 12, -100.5, 20.0, "ANI1", -338.0, 60.9),
        ("ANI-1", "ani1_mini", "dft", "less linear fit, ours", "fit", 12, 0.001, 0.02, "ANI1 w/o SI", 0.0574, 0.11),
    ]
    names = [
        "row", "dataset", "fidelity", "energies", "self_energies", "n_rows", "mean_hartree", "std_hartree",
        "paper_label", "paper_mean_hartree", "paper_std_hartree",
    ]  # fmt: skip
    pd.DataFrame(rows, columns=names).to_csv(path, index=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All inputs of all products for one data set, in the pipeline's layout."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    blocks = [
        block(f"m{i}", [6, *[1] * (2 + i % 3)], rng.normal(-1000 - 14 * (i % 3), 1, 8), forces=rng.gamma(2, 1, 8),
              info={"subset": f"SPICE PubChem Set {i % 2} Single Points Dataset v1.2"})
        for i in range(12)
    ]  # fmt: skip
    path = write_store(root / "set" / "store.h5", blocks, elements=(1, 6), info=["subset"])
    write_summary(path, path.with_name("summary.json"))
    with Store(path) as opened:
        write_self_energies(regress_store(opened), path.with_name("self_energies.json"))
    write_funnel(root / "set" / "funnel.csv")
    write_reference(root / "reference_energies.csv", comparison_rows())
    write_table31(root / "table31.csv")
    write_split(
        root / "set" / "splits" / "main.json", kind="held_out_groups", sizes={"train": 320, "val": 80, "test": 101},
        train_sizes=[32, 320], val_sizes=[8, 80], unused=5, seed=42,
        leakage={"train/test": leak(0, 1, 2), "val/test": leak(3, 4, 5), "train/val": leak(6, 7, 8)},
    )  # fmt: skip
    write_nbody(root / "nbody" / "nbody.npz", 2, 1, 7, NBodySettings(n_steps=400, save_every=20))
    return root


@pytest.fixture(scope="module")
def files(data):
    return DataFiles.from_paths(path for path in data.rglob("*") if path.is_file() and path.parent.name != ".sha256")


@pytest.mark.parametrize("key", list(PRODUCTS))
def test_every_product_is_made_and_finds_its_inputs(key, data, tmp_path):
    product = PRODUCTS[key]
    dataset = "set" if product.per_dataset else ""
    given = product.input_paths(str(data), ["set"], {"main": "set"}, dataset or None)
    output = product.paths(str(tmp_path), dataset or None)
    drawn.make_product(key, DataFiles.from_paths(given), MINI, output[0], dataset)
    assert all(Path(path).stat().st_size > 100 for path in output)
    assert {Path(path).name for path in (tmp_path / product.folder).glob("*")} == {
        ".sha256", *(Path(path).name for path in output),
    }  # fmt: skip
    assert len(pd.read_csv(output[-1])) > 0
    assert (REPO / "workflow" / "report" / "data" / product.caption).is_file()
    if product.kind == "table":
        assert "mini scale" in Path(output[0]).read_text()


def test_unknown_and_unnamed_products_are_explained(files, tmp_path):
    with pytest.raises(InputError, match="unknown; known: funnel"):
        drawn.make_product("funel", files, MINI, tmp_path / "x.png")
    with pytest.raises(InputError, match="made for one data set"):
        drawn.make_product("funnel", files, MINI, tmp_path / "x.png")
    with pytest.raises(InputError, match="funnel of other"):
        drawn.make_product("funnel", files, MINI, tmp_path / "x.png", "other")


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


# ---- funnel --------------------------------------------------------------------------------------------------------


def funnel_files(tmp_path, dataset, rows=FUNNEL):
    write_funnel(tmp_path / dataset / "funnel.csv", rows)
    return DataFiles.from_paths([tmp_path / dataset / "funnel.csv"])


def test_funnel_shows_counts_shares_and_reasons(tmp_path):
    files = funnel_files(tmp_path, "spice_mini")
    figure, tidy = drawn.funnel(files, MINI, "spice_mini")
    shown = texts(figure)
    plt.close(figure)
    assert tidy["rows"].tolist() == [1000, 1000, 640, 640]
    assert tidy["percent_of_read"].tolist() == [100, 100, 64, 64]
    assert tidy["percent_removed"].tolist() == [0, 0, 36, 0]
    assert {"640", "64.0 %", "−360", "0", "neutral"} <= set(shown)
    assert not any("680" in text for text in shown)
    assert tidy["paper_rows"].isna().all()
    # The figure shortens the long reason and says so; the table has it whole.
    assert any("see the table" in text for text in shown)
    frame, _, _ = drawn.funnel_table(files, MINI, "spice_mini")
    assert frame.loc[2, "reason"] == FUNNEL[2][3]
    assert "paper_rows" not in frame


def test_spice_at_full_scale_stands_beside_the_paper(tmp_path):
    figure, tidy = drawn.funnel(funnel_files(tmp_path, "spice"), FULL, "spice")
    shown = texts(figure)
    plt.close(figure)
    assert f"about 680{drawn.THIN}000" in shown
    assert tidy["paper_rows"].iloc[-1] == 680_000
    frame, _, caption = drawn.funnel_table(funnel_files(tmp_path, "spice"), FULL, "spice")
    assert frame["paper_rows"].iloc[-1] == 680_000
    assert f"680{drawn.THIN}000" in caption


def test_funnel_that_removes_nothing_or_everything(tmp_path):
    nothing = [("read", 5, 0, "5 rows"), ("stored", 5, 0, np.nan)]
    figure, tidy = drawn.funnel(funnel_files(tmp_path, "a", nothing), MINI, "a")
    plt.close(figure)
    assert tidy["removed"].sum() == 0
    everything = [("read", 5, 0, "5 rows"), ("neutral", 0, 5, "charged"), ("stored", 0, 0, "")]
    figure, tidy = drawn.funnel(funnel_files(tmp_path, "b", everything), MINI, "b")
    plt.close(figure)
    assert tidy["percent_removed"].tolist() == [0, 100, 0]


def test_funnel_that_does_not_add_up_is_refused(tmp_path):
    wrong = [("read", 5, 0, ""), ("neutral", 3, 1, "")]
    with pytest.raises(InputError, match="do not add up"):
        drawn.funnel(funnel_files(tmp_path, "a", wrong), MINI, "a")


def test_shares_are_never_rounded_to_nothing_or_all():
    assert drawn.percent(1, 10_000) == "< 0.1 %"
    assert drawn.percent(9_999, 10_000) == "> 99.9 %"
    assert drawn.percent(0, 10) == "0 %"
    assert drawn.percent(10, 10) == "100 %"
    assert drawn.percent(0, 0) == "0 %"


# ---- energies ------------------------------------------------------------------------------------------------------


def energy_files(tmp_path, files, **fits):
    write_fit(tmp_path / "set" / "self_energies.json", **fits)
    return DataFiles({**files.files, ("self_energies", "set"): tmp_path / "set" / "self_energies.json"})


def test_energies_before_and_after(tmp_path, files):
    figure, tidy = drawn.energies(energy_files(tmp_path, files, dft=fit_report([1, 6])), MINI, "set")
    scales = [axis.get_yscale() for axis in figure.axes]
    plt.close(figure)
    assert tidy.groupby("stage")["count"].sum().to_dict() == {"before": 400, "after": 400}
    assert tidy.groupby("stage")["mean_ev"].first().to_dict() == {"before": -5000.0, "after": 0.0}
    assert scales == ["linear", "linear"]


def test_outliers_and_rank_are_told(tmp_path, files):
    fit = fit_report([1, 6, 8], [False] * 3, rank=1)
    fit["histogram"]["after"] = {"edges": np.arange(11.0).tolist(), "counts": [390, 1, 2, 0, 0, 0, 3, 2, 1, 1]}
    figure, _ = drawn.energies(energy_files(tmp_path, files, dft=fit), MINI, "set")
    scales, note = [axis.get_yscale() for axis in figure.axes], figure._supxlabel.get_text()
    plt.close(figure)
    assert scales == ["linear", "log"]
    assert "rank 1 of 3: single elements are not determined" in note.replace("\n", " ")


# ---- self energies -------------------------------------------------------------------------------------------------


def reference_files(tmp_path, rows, **fits):
    write_reference(tmp_path / "reference_energies.csv", rows)
    paths = [tmp_path / "reference_energies.csv"]
    for dataset, fit in fits.items():
        write_fit(tmp_path / dataset / "self_energies.json", dft=fit)
        paths.append(tmp_path / dataset / "self_energies.json")
    return DataFiles.from_paths(paths)


def test_differences_to_the_isolated_atom_of_the_scale(tmp_path):
    files = reference_files(tmp_path, comparison_rows(), set=fit_report([1, 6, 11], [True, True, False], rank=2))
    mini = drawn.reference_table(files, MINI)
    # Sodium does not occur in the data set: its coefficient is the 0 of the least-norm solution.
    assert set(mini["element"]) == {"H", "C"}
    ours = mini[mini["kind"] == drawn.OUR_FIT].set_index("element")["difference_ev"]
    # Our own atom where there is one, the published one for carbon.
    assert ours.to_dict() == pytest.approx({"H": -16.0 + 13.5, "C": -1036.0 + 1030.0})
    full = drawn.reference_table(files, FULL)
    published = full[full["kind"] == "linear fit, published"]["difference_ev"].item()
    assert published == pytest.approx(-16.5 + 13.6)
    assert full[full["is_reference"]]["kind"].tolist() == ["isolated atom", "isolated atom"]
    assert full["determined"].all()


def test_rank_deficient_fits_are_hollow_and_named(tmp_path):
    rows = [row for row in comparison_rows() if row[3] != "Na"]
    other = [(*row[:5], row[5] / 2, *row[6:]) for row in comparison_rows("ethanol") if row[3] != "Na"][:2]
    other += [row for row in comparison_rows("ethanol") if row[4] == "isolated atom" and row[3] != "Na"]
    fits = {"set": fit_report([1, 6]), "ethanol": fit_report([1, 6], [False, False], rank=1)}
    files = reference_files(tmp_path, rows + other, **fits)
    figure, tidy = drawn.self_energies(files, MINI)
    panel = figure.axes[0]
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white" and line.get_marker() != "None"]
    legend = [text.get_text() for text in figure.legends[0].texts]
    limits, shown = panel.get_xlim(), texts(figure)
    plt.close(figure)
    assert tidy[~tidy["determined"]]["dataset"].unique().tolist() == ["ethanol"]
    assert len(hollow) == 1
    assert any("rank-deficient" in text for text in legend)
    # Half of carbon's energy is missing, hundreds of eV: the number stands at the edge and does not set the scale.
    assert any(text == "512 eV" for text in shown)
    assert limits[0] > -10 and limits[1] < 10


def test_levels_without_an_atom_are_named(tmp_path):
    rows = [*comparison_rows(), ("bare", "pbe", "PBE", "O", drawn.OUR_FIT, -2040.0, 0.1, "fit")]
    files = reference_files(tmp_path, rows)
    figure, tidy = drawn.self_energies(files, MINI)
    note = figure._supxlabel.get_text()
    plt.close(figure)
    assert "O of bare (PBE)" in note
    assert np.isnan(tidy[tidy["dataset"] == "bare"]["difference_ev"].item())
    # A user's own level must not stop the rest: the figure says that there is nothing to compare with.
    figure, tidy = drawn.self_energies(reference_files(tmp_path, rows[-1:]), MINI)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    plt.close(figure)
    assert len(texts) == 1 and "No energies of isolated atoms are known at PBE." in texts[0]
    assert tidy["energy_ev"].tolist() == [-2040.0]


def test_a_single_element_makes_one_panel(tmp_path):
    files = reference_files(tmp_path, [row for row in comparison_rows() if row[3] == "H"])
    figure, _ = drawn.self_energies(files, FULL)
    titles = [axis.get_title() for axis in figure.axes]
    plt.close(figure)
    assert titles == ["H"]


# ---- tables --------------------------------------------------------------------------------------------------------


def test_table31_puts_the_thesis_beside_ours(files):
    frame, headings, _ = drawn.table31(files, MINI)
    assert set(frame["comparable"]) == {"no: other data at this scale"}
    assert frame[["paper_std_hartree", "std_hartree"]].to_numpy().tolist() == [[60.9, 20.0], [0.11, 0.02]]
    assert set(frame.columns) <= set(headings)
    full, _, _ = drawn.table31(files, FULL)
    assert set(full["comparable"]) == {"yes"}


def test_splits_show_nesting_and_leaks(tmp_path, files):
    write_split(tmp_path / "c" / "splits" / "test_only.json", kind="test_only", sizes={"train": 0, "val": 0, "test": 7})
    more = DataFiles({**files.files, ("split", "c", "test_only"): tmp_path / "c" / "splits" / "test_only.json"})
    frame, headings, _ = drawn.splits(more, MINI)
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["train"], first["val"], first["test"]) == ("32 ⊂ 320", "8 ⊂ 80", "101")
    assert first["kind"] == "held out groups"
    assert [first[f"{key}_val/test"] for key in drawn.LEAKS] == [3, 4, 5]
    assert (second["train"], second["test"]) == ("none", "7")
    assert pd.isna(second["shared_rows_train/test"])
    assert set(frame.columns) <= set(headings)
    with pytest.raises(InputError, match="no split report"):
        drawn.splits(DataFiles({}), MINI)


def test_overview_tells_whether_forces_were_verified(files):
    frame, headings, _ = drawn.overview(files, MINI)
    row = frame.iloc[0]
    assert (row["rows"], row["groups"], row["elements"]) == (96, 12, "H, C")
    assert (row["atoms_min"], row["atoms_max"]) == (3, 5)
    assert row["levels"] == "wB97X (96)"
    assert (row["units"], row["forces_verified"]) == ("hartree, bohr", "yes")
    assert (row["force_correlation"], row["force_slope"]) == (0.98, 1.01)
    assert set(frame.columns) == set(headings)
    fidelities = {"a": {"forces": {"rows": 1}}, "b": {"forces": {"rows": 1}}}
    sources = [
        {"force_check": {"a": {"verdict": "verified", "correlation": 0.95, "slope": 0.9}}},
        {"force_check": {"a": {"verdict": "verified", "correlation": 0.99, "slope": 1.05}}},
        {"force_check": {"a": {"verdict": "not verified", "reason": "3 pairs"}}},
    ]
    text, correlation, slope = drawn._force_check(sources, fidelities)
    assert text == "yes, 2 of 3 checks; the others: 3 pairs; not checked: b"
    assert (correlation, slope) == (0.95, 0.9)
    assert drawn._force_check(sources[2:], fidelities) == ("not verified: 3 pairs", pytest.approx(np.nan, nan_ok=True),
                                                           pytest.approx(np.nan, nan_ok=True))  # fmt: skip
    assert drawn._force_check([{"force_check": {}}], fidelities)[0] == "not verified: too few similar geometries"
    assert drawn._force_check(sources, {"a": {"forces": None}})[0] == "no forces"


# ---- composition ---------------------------------------------------------------------------------------------------


def test_composition_numbers(files):
    figure, tidy = drawn.composition(files, MINI, "set")
    titles = [axis.get_title() for axis in figure.axes]
    plt.close(figure)
    assert titles == ["elements", "sizes", "subsets", "energy range of a group", "forces on atoms"]
    elements = tidy[(tidy["panel"] == "elements") & (tidy["series"] == "rows")].set_index("item")["count"]
    assert elements.to_dict() == {"H": 96, "C": 96}
    assert tidy[tidy["panel"] == "sizes"]["count"].tolist() == [32, 32, 32]
    assert tidy[tidy["panel"] == "subsets"]["count"].tolist() == [48, 48]
    assert tidy[tidy["panel"] == "forces"]["count"].sum() == 32 * (3 + 4 + 5)
    assert tidy[tidy["panel"] == "energy range"]["count"].sum() == 12


def test_composition_without_forces_of_one_group(tmp_path):
    path = write_store(tmp_path / "h2" / "store.h5", [block("h2", [1, 1], [-1.0, -3.0])], forces=())
    write_summary(path, path.with_name("summary.json"))
    figure, _ = drawn.composition(DataFiles.from_paths([path.with_name("summary.json")]), MINI, "h2")
    titles, note = [axis.get_title() for axis in figure.axes], figure._supxlabel.get_text()
    plt.close(figure)
    assert titles == ["elements", "sizes"]
    assert "no forces: wB97X" in note
    assert "energy range of a group at wB97X: at most 2 eV" in note


def test_composition_with_displacements_and_two_levels(tmp_path):
    rng = np.random.default_rng(0)
    blocks = []
    for i in range(4):
        numbers, frames = [1, 8, 1], 5
        energies = {"dft": rng.normal(-2000, 1, frames), "cc": rng.normal(-2001, 1, frames)}
        forces = {name: rng.normal(size=(frames, 3, 3)) for name in energies}
        blocks.append(
            Block(f"g{i}", np.array(numbers, dtype=np.uint8), rng.normal(size=(frames, 3, 3)), energies, forces,
                  np.arange(frames), {}, {"displacement": np.arange(frames)})
        )  # fmt: skip
    path = write_store(tmp_path / "w" / "store.h5", blocks, ("dft", "cc"), ("dft", "cc"), columns=["displacement"])
    write_summary(path, path.with_name("summary.json"))
    figure, tidy = drawn.composition(DataFiles.from_paths([path.with_name("summary.json")]), MINI, "w")
    titles = [axis.get_title() for axis in figure.axes]
    plt.close(figure)
    assert "geometries" in titles
    counts = tidy[tidy["panel"] == "geometries"].set_index("item")["count"]
    assert counts.to_dict() == {"equilibrium": 4, "displaced": 16}
    assert tidy[tidy["panel"] == "forces"].groupby("series")["count"].sum().to_dict() == {"cc": 60, "dft": 60}


# ---- charged particles ---------------------------------------------------------------------------------------------


def test_particle_energies_of_two_charges():
    settings = NBodySettings(n_balls=2)
    positions = np.zeros((1, 3, 2))
    positions[0, 0] = [0.0, 2.0]
    velocities = np.zeros((1, 3, 2))
    velocities[0, 1] = [3.0, 0.0]
    kinetic, potential = drawn.particle_energies(positions, velocities, np.array([1.0, -1.0]), settings)
    assert potential[0] == pytest.approx(-0.5)
    # They attract each other with 1/4: half a kick along x for both.
    assert kinetic[0] == pytest.approx(0.5 * (9 + 2 * (0.5e-3 / 4) ** 2))


def test_total_energy_is_conserved_where_forces_are_not_cut(tmp_path):
    settings = NBodySettings(n_steps=1000, save_every=50)
    write_nbody(tmp_path / "nbody.npz", 3, 1, 42, settings)
    figure, tidy = drawn.nbody(DataFiles.from_paths([tmp_path / "nbody.npz"]), MINI)
    note = figure._supxlabel.get_text()
    plt.close(figure)
    assert len(tidy) == 3 * 5 * settings.n_frames
    assert "of n = 4 trajectories" in note
    first = tidy[(tidy["trajectory"] == 0) & (tidy["particle"] == 0)]
    assert first["time"].iloc[0] == pytest.approx(0.05)
    assert np.ptp(first["total"]) < 1e-3 * first["kinetic"].max()
    assert np.ptp(first["kinetic"]) > 0.05
