"""Figures and tables of the study of physical adequacy from synthetic results in which every number is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mlip_studies.adequacy.analysis import analyse
from mlip_studies.adequacy.scans import SCAN_NAMES, build_scan
from mlip_studies.artifacts import is_intact
from mlip_studies.claims.adequacy_tables import AdequacyTables
from mlip_studies.claims.inputs import MissingDataError
from mlip_studies.claims.ortiz import SURFACE, Surface
from mlip_studies.claims.schema import load_claims
from mlip_studies.errors import InputError
from mlip_studies.studies import ortiz, ortiz_tables
from mlip_studies.studies.context import StudyContext
from mlip_studies.studies.ortiz_products import ALL_SCANS, ANALYSIS, COST, PRODUCTS, SCANS, SYMMETRY
from mlip_studies.studies.pavlovic_cells import number

REPO = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(REPO / "config" / "claims" / "ortiz.yaml")
LEVEL = "wb97x_6-31g(d)"
POTENTIALS: dict[str, dict[str, Any]] = {
    "ani1x": {"title": "ANI-1x", "family": "ani", "licence": "MIT", "cutoff": 5.2, "elements": [1, 6, 7, 8]},
    "ani1ccx": {"title": "ANI-1ccx", "family": "ani", "licence": "MIT"},
    "ani2x": {"title": "ANI-2x", "family": "ani", "licence": "MIT", "cutoff": 5.1},
    "mace_off": {"title": "MACE-OFF23 medium", "family": "mace", "licence": "ASL"},
    "xtb": {"title": "GFN2-xTB", "family": "xtb", "licence": "LGPL-3.0"},
    "gemnet": {"title": "GemNet-Q, QM7-X", "family": "trained"},
}
MISSING = {"mace_off": "weights mace/MACE-OFF23_medium.model are not there"}
#: depth over the reference's, shift of the minimum (Å), fall on the way out (eV)
BOND = {
    "ani1x": (1.5, 0.02, 2.5),
    "ani1ccx": (0.6, 0.02, 3.0),
    "ani2x": (1.3, -0.02, 1.5),
    "xtb": (1.1, 0.01, 0.0),
    "gemnet": (0.4, 0.03, 0.4),
}
#: square over the minimum, eV; 0: a square is lowest
SQUARE = {"reference": 0.32, "ani1x": 0.0, "ani1ccx": 0.0, "ani2x": 0.05, "xtb": 0.25, "gemnet": 0.0}
RUN = tuple(BOND)


def write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def morse(x: np.ndarray, d: float, place: float) -> np.ndarray:
    return d * ((1 - np.exp(-1.9 * (x - place))) ** 2 - 1)


def surface(square: float, x: np.ndarray, y: np.ndarray, bias: float = 0.0) -> np.ndarray:
    """A double well at 1.331/1.571 Å with the square so high, or a single well; one axis lower by the bias."""
    mean, half = (x + y) / 2 - 1.451, (x - y) / 2
    along = square * (1 - (half / 0.12) ** 2) ** 2 if square else 30 * half**2
    return 60 * mean**2 + along + bias * np.tanh(half / 0.1)


def energies(scan: str, name: str, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
    depth, shift, fall = BOND.get(name, (1.0, 0.0, 0.0))
    kind = scan.split("-")[0]
    if scan == SURFACE:
        assert y is not None
        return surface(SQUARE[name], x, y, 0.01 if name == "gemnet" else 0.0)
    if scan == "cyclobutadiene-1d":
        return surface(SQUARE[name], x, np.full_like(x, 1.571))
    if kind == "diatomic":
        place = {"h2": 0.74, "n2": 1.1, "c2": 1.24, "o2": 1.2, "si2": 2.25, "cl2": 1.98}[scan[9:]] + shift
        own = morse(x, 4.5 * depth, place) + fall * np.exp(-(((x - 2.8) / 0.3) ** 2))
        # Nothing beyond the cutoff, up to float64.
        return np.where(x > 5.2, 0.0, own * np.where(x > 4.7, (5.2 - x) / 0.5, 1.0))
    if scan in ("ethane-cc", "ethanol-co", "ethanol-oh"):
        place = {"ethane-cc": 1.53, "ethanol-co": 1.43, "ethanol-oh": 0.97}[scan] + shift
        return morse(x, 4.0 * depth, place) + fall * np.exp(-(((x - 3.2) / 0.4) ** 2))
    if scan == "water-hoh":
        away = np.abs(x - 180) / 75.5
        own = 1.4 * (1 - away**2) ** 2
        return own - (1.9 * np.exp(-(((x - 180) / 20) ** 2)) if name == "ani1x" else 0.0)
    if scan == "ethanol-cco":
        return 2e-3 * (x - 107.1) ** 2
    if kind == "dihedral":
        fold = 3 if scan == "dihedral-ethane" else 2
        # An odd harmonic is what breaks the mirror symmetry.
        tilt = 0.004 * np.sin(np.radians(x)) if name == "gemnet" else 0.0
        return depth * 0.06 * (1 + np.cos(np.radians(fold * x))) + tilt
    if scan == "cosan":
        return 0.15 * (1 - np.cos(np.radians(5 * (x - 180)))) + 0.05 * (1 + np.cos(np.radians(x)))
    rng = np.random.default_rng(len(scan) + len(name))
    return 1e-13 * rng.standard_normal(len(x))


def curve(scan: str, name: str, single: bool = False) -> pd.DataFrame:
    """One synthetic curve; C2 is unsupported by the trained network, one point of N2 by ANI-2x failed."""
    built = build_scan(scan, {"points": 41, "grid": 13})
    x = np.asarray(built.coordinate, dtype=float)
    frame = pd.DataFrame({"point": np.arange(len(x)), "coordinate": x})
    for column, values in built.columns.items():
        frame[column] = values
    first = frame["x_angstrom"].to_numpy() if scan == SURFACE else x
    own = energies(scan, name, first, frame["y_angstrom"].to_numpy() if scan == SURFACE else None)
    rng = np.random.default_rng(0)
    scale = 1e-5 if single else 1e-14
    if single:
        own = own + 1e-5 * rng.standard_normal(len(x))
    if name == "gemnet" and scan.startswith("rotation"):
        own = own + 5e-3 * np.sin(np.radians(2 * x))
    frame["energy_ev"] = own - 1000.0
    least = 0.0 if scan.startswith("diatomic") else own[0] if scan[:3] in ("rot", "tra") else own.min()
    frame["relative_energy_ev"] = own - least
    frame["status"], frame["message"] = "ok", ""
    frame["net_force_ev_per_angstrom"] = scale * np.abs(rng.standard_normal(len(x)))
    frame["net_torque_ev"] = 2 * scale * np.abs(rng.standard_normal(len(x)))
    frame["max_force"] = 1.0
    if unsupported(scan, name):
        frame[["energy_ev", "relative_energy_ev"]] = np.nan
        frame[["status", "message"]] = "unsupported", unsupported(scan, name)
    elif (scan, name) == ("diatomic-n2", "ani2x"):
        frame.loc[7, ["energy_ev", "relative_energy_ev"]] = np.nan
        frame.loc[7, "status"] = "failed"
    return frame


def unsupported(scan: str, name: str) -> str:
    if scan == "cosan" and name != "xtb":
        return "no cobalt"
    if scan == "dihedral-fluoroallene" and name in ("ani1x", "ani1ccx", "gemnet"):
        return "no fluorine"
    if scan in ("diatomic-si2", "diatomic-cl2") and name.startswith(("ani1", "gemnet")):
        return "no silicon" if "si" in scan else "no chlorine"
    return ""


def reference(scan: str) -> pd.DataFrame:
    """Restricted everywhere; broken symmetry beyond twice the minimum, 2 eV lower where bonds break."""
    frame = curve(scan, "reference").assign(method="restricted", s_squared=0.0, converged=True, cycles=9)
    frame = frame.drop(columns=["net_force_ev_per_angstrom", "net_torque_ev", "max_force", "message"])
    if not scan.startswith(("diatomic", "ethan")) or scan == "ethanol-cco":
        return frame
    broken = frame.assign(method="broken_symmetry", s_squared=1.0)
    raised = 2.0 * np.clip((frame["coordinate"] - 2.5) / 3.0, 0, 1)
    frame["energy_ev"] += raised
    frame["relative_energy_ev"] += raised
    return pd.concat([frame, broken], ignore_index=True)


def write_all(root: Path, scale: str = "mini") -> Path:
    out = root / scale / "ortiz"
    curves, references = [], []
    for scan in SCAN_NAMES:
        for name in RUN:
            for precision in ("float64", "float32"):
                if name == "xtb" and precision == "float32":
                    continue
                own = curve(scan, name, precision == "float32")
                write(own, out / "curves" / name / precision / f"{scan}.csv")
                curves.append(own.assign(potential=name, precision=precision, scan=scan))
        if scan[:3] not in ("rot", "tra", "cos"):
            own = reference(scan)
            write(own, out / "reference" / scan / f"{LEVEL}.csv")
            references.append(own.assign(scan=scan, level=LEVEL))
    write(analyse(pd.concat(curves, ignore_index=True), pd.concat(references, ignore_index=True)), out / "analysis.csv")
    for name in RUN:
        for precision in ("float64", "float32")[: 1 if name == "xtb" else 2]:
            write(symmetry(name, precision), out / "symmetry" / name / f"{precision}.csv")
    write(costs(), out / "cost" / "cost.csv")
    (out / "unavailable.json").write_text(json.dumps(MISSING))
    described = [{"name": name, "sha256": "ab" * 32, "direct_forces": name == "gemnet"} for name in POTENTIALS]
    (out / "potentials.json").write_text(json.dumps(described))
    return out


def symmetry(name: str, precision: str) -> pd.DataFrame:
    noise = 1e-12 if precision == "float64" else 1e-5
    rows: list[dict[str, Any]] = []
    for test, unit, limit in (
        ("rotation_energy_spread_ev", "eV", 1e-3), ("translation_energy_spread_ev", "eV", 1e-3),
        ("force_equivariance", "", 1e-2), ("force_gradient_error", "", 1e-2), ("curl_asymmetry", "", 1e-2),
        ("permutation_energy_ev", "eV", 1e-3), ("mirror_energy_ev", "eV", 1e-3), ("extensivity_ev", "eV", 1e-3),
        ("locality_ev", "eV", 1e-3), ("nve_drift_mev_per_atom_ps", "meV/atom/ps", 1.0),
    ):  # fmt: skip
        for molecule, factor in (("water", 1.0), ("ethanol", 3.0)):
            broken = name == "gemnet" and test in ("rotation_energy_spread_ev", "force_equivariance")
            value = 0.05 * factor if broken else 0.0 if test == "locality_ev" else noise * factor
            rows.append({"test": test, "molecule": molecule, "value": value, "unit": unit, "limit": limit,
                         "sense": "below", "n": 8, "status": "ok", "message": ""})  # fmt: skip
    for test, value, limit in (("body_order", 0.21, 1e-3), ("body_order_central", 0.0, 1e-6)):
        if name in ("xtb", "gemnet") and test == "body_order_central":
            continue
        rows.append({"test": test, "molecule": "CH4 pair", "value": value, "unit": "eV", "limit": limit,
                     "sense": "above", "n": 2, "status": "ok", "message": ""})  # fmt: skip
    return pd.DataFrame(rows)


def costs() -> pd.DataFrame:
    """Exponents are 0.5 (overhead), 2 and 3."""
    rows = []
    for name, exponent, at in (("ani2x", 0.5, 3e-2), ("ani1x", 0.5, 2.8e-2), ("xtb", 2.0, 5e-3), ("pbe0", 3.0, 2.0)):
        for carbon in (1, 2, 4, 6, 8):
            n = 3 * carbon + 2
            rows.append({"potential": name, "precision": "float64", "molecule": f"C{carbon}", "n_atoms": n,
                         "seconds": at * (n / 5) ** exponent, "repeats": 3, "threads": 1, "status": "ok"})  # fmt: skip
    rows.append({**rows[-1], "n_atoms": 50, "seconds": math.nan, "status": "skipped"})
    return pd.DataFrame(rows)


def context_of(scale: str = "mini") -> StudyContext:
    return StudyContext(scale, CLAIMS, settings={"potentials": POTENTIALS})


def function_of(key: str) -> Callable[..., None]:
    product = PRODUCTS[key]
    module = {ortiz.__name__: ortiz, ortiz_tables.__name__: ortiz_tables}[product.module]
    made: Callable[..., None] = getattr(module, product.function)
    return made


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def tables(out: Path) -> AdequacyTables:
    return AdequacyTables.from_paths(sorted(out.rglob("*.*")))


# --- the loader


def test_loader_finds_everything_by_place(tables: AdequacyTables) -> None:
    assert tables.potentials() == sorted(RUN)
    assert tables.precisions("ani2x") == ["float64", "float32"]
    assert tables.precisions("xtb") == ["float64"]
    assert set(tables.scans()) == set(SCAN_NAMES)
    assert tables.missing() == MISSING
    assert tables.descriptions()["ani1x"]["sha256"] == "ab" * 32
    assert tables.level("diatomic-h2") == LEVEL
    assert len(tables.curve("ani2x", "float32", "water-hoh")) == 41
    # Callers may change what they get.
    own = tables.curve("ani2x", "float32", "water-hoh")
    own["energy_ev"] = 0.0
    assert (tables.curve("ani2x", "float32", "water-hoh")["energy_ev"] < 0).all()


def test_reference_is_the_lower_of_both_methods(tables: AdequacyTables) -> None:
    own = tables.reference("diatomic-h2")
    assert len(own) == 41
    assert own["relative_energy_ev"].iloc[-1] == pytest.approx(0, abs=1e-9)
    assert len(tables.methods("diatomic-h2")) == 82
    assert set(tables.reference("water-hoh")["method"]) == {"restricted"}
    with pytest.raises(MissingDataError, match="reference of rotation-water"):
        tables.reference("rotation-water")


def test_a_reference_point_that_did_not_converge_does_not_win(tmp_path: Path) -> None:
    frame = reference("diatomic-h2").drop(columns="status")
    frame.loc[frame["method"] == "broken_symmetry", "converged"] = False
    frame.loc[0, "converged"] = False
    path = tmp_path / "reference" / "diatomic-h2" / "small.csv"
    write(frame, path)
    own = AdequacyTables.from_paths([path]).reference("diatomic-h2")
    assert set(own["method"].iloc[1:]) == {"restricted"}
    assert own["status"].tolist() == ["not_converged"] + ["ok"] * 40


def test_names_are_found_however_they_are_written(tables: AdequacyTables) -> None:
    assert tables.find("ANI-2x") == "ani2x"
    with pytest.raises(MissingDataError, match=r"MACE-OFF23_medium\.model are not there"):
        tables.find("mace_off")
    with pytest.raises(MissingDataError, match="orb_v2: not among"):
        tables.find("orb_v2")
    sizes = AdequacyTables({("mace_off_small", "float64", "x"): "x", ("mace_off_medium", "float64", "x"): "x"})
    assert sizes.find("mace_off") == "mace_off_medium"


def test_damaged_files_stop_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "curves" / "ani2x" / "float64" / "water-hoh.csv"
    write(pd.DataFrame({"point": [0], "energy_ev": [1.0]}), path)
    with pytest.raises(InputError, match="column 'coordinate' is missing"):
        AdequacyTables.from_paths([path]).curve("ani2x", "float64", "water-hoh")
    unavailable = tmp_path / "unavailable.json"
    unavailable.write_text('{"orb_v2": 3}')
    with pytest.raises(InputError, match="'orb_v2' has no reason"):
        AdequacyTables.from_paths([unavailable]).missing()
    described = tmp_path / "potentials.json"
    described.write_text('{"a": 1}')
    with pytest.raises(InputError, match="not a list of potentials"):
        AdequacyTables.from_paths([described]).descriptions()


# --- looks


def test_a_potential_looks_the_same_whatever_was_run(tables: AdequacyTables) -> None:
    full, nothing = ortiz.looks(tables, context_of()), ortiz.looks(AdequacyTables(), context_of())
    assert full == nothing
    drawn = {(look.color, look.marker, str(look.line)) for look in full.values()}
    assert len(drawn) == len(POTENTIALS)
    assert {name: look.family for name, look in full.items()}["gemnet"] == "trained"


def test_families_are_known_from_the_entry() -> None:
    for name, entry, family in (
        ("x", {"xtb": "GFN2-xTB"}, "xtb"), ("x", {"level": "pbe0/def2-svp"}, "dft"), ("ani2x", {}, "ani"),
        ("orb_v2", {}, "orb"), ("mace_mp", {}, "mace"), ("q", {"family": "z"}, "z"),
        ("q", {"trained": {"study": "a", "run": "b"}, "level": "PBE0"}, "trained"),
        ("q", {"pretrained": "ani2x", "kind": "ani", "level": "ωB97X"}, "ani"),
    ):  # fmt: skip
        assert ortiz.family_of(name, entry) == family


# --- products


@pytest.mark.parametrize("key", PRODUCTS)
def test_products_are_made(key: str, tables: AdequacyTables, tmp_path: Path) -> None:
    product = PRODUCTS[key]
    paths = [Path(path) for path in product.paths(str(tmp_path))]
    open_before = plt.get_fignums()  # other tests may leave some
    function_of(key)(tables, context_of(), paths[0])
    assert all(path.exists() and is_intact(path) for path in paths)
    assert len(pd.read_csv(paths[-1])) > 0
    if product.kind == "figure":
        height, width = matplotlib.image.imread(paths[0]).shape[:2]
        assert 900 < width < 2000
        assert height < 3200
    assert plt.get_fignums() == open_before


@pytest.mark.parametrize("key", [key for key in PRODUCTS if key not in ("potentials",)])
def test_without_results_products_say_what_is_missing(key: str, tmp_path: Path) -> None:
    context = StudyContext("mini", CLAIMS)
    with pytest.raises(InputError) as error:
        function_of(key)(AdequacyTables(), context, tmp_path / "x.png")
    assert len(str(error.value).splitlines()) == 1
    assert "among its files" in str(error.value)


def test_every_product_names_scans_that_exist() -> None:
    assert set(SCANS) | {*ALL_SCANS, *SYMMETRY, *COST, *ANALYSIS} == set(PRODUCTS)
    assert {scan for scans in SCANS.values() for scan in scans} == set(SCAN_NAMES)
    assert set(ortiz.SCAN_TITLES) <= set(SCAN_NAMES)
    assert all(ortiz.scan_title(scan) != scan for scan in SCAN_NAMES)


def drawn_texts(monkeypatch: pytest.MonkeyPatch, key: str, tables: AdequacyTables, tmp_path: Path, scale: str) -> str:
    """Everything that is written in a figure."""
    found: list[str] = []

    def keep(figure: Any, tidy: pd.DataFrame, path: Any) -> None:
        found.extend(text.get_text() for text in figure.findobj(matplotlib.text.Text))
        figure.canvas.draw()
        found.extend(
            f"size {text.get_fontsize():g}" for text in figure.findobj(matplotlib.text.Text) if text.get_text()
        )
        plt.close(figure)

    monkeypatch.setattr(ortiz, "save_figure", keep)
    function_of(key)(tables, context_of(scale), tmp_path / "x.png")
    return "\n".join(found)


@pytest.mark.parametrize("key", [key for key, product in PRODUCTS.items() if product.kind == "figure"])
def test_figures_state_scale_and_are_legible(
    key: str, tables: AdequacyTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = drawn_texts(monkeypatch, key, tables, tmp_path, "mini")
    flat = " ".join(text.split())
    assert "mini scale (coarse scans" in flat
    assert "n = " in flat
    assert "hesis" in flat
    sizes = [float(size) for size in re.findall(r"^size (\S+)$", text, re.MULTILINE)]
    assert min(sizes) >= 9
    assert "mini scale" not in drawn_texts(monkeypatch, key, tables, tmp_path, "full")


def test_figures_name_the_reference_level_and_what_could_not_run(
    tables: AdequacyTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(drawn_texts(monkeypatch, "fig7-diatomics", tables, tmp_path, "mini").split())
    assert f"Reference: {LEVEL}." in text
    assert "Not run here: MACE-OFF23 medium" in text
    assert "points that failed (ANI-2x, N₂: 1)" in text
    assert "cutoff about 5 Å" in text
    text = " ".join(drawn_texts(monkeypatch, "fig31-dihedrals", tables, tmp_path, "mini").split())
    assert "Not applicable to fluoroallene (no fluorine): ANI-1x, ANI-1ccx, GemNet" in text
    text = " ".join(drawn_texts(monkeypatch, "fig14-cyclobutadiene", tables, tmp_path, "mini").split())
    assert "MACE-OFF and Orb-D3-v2 here, which did not run" in text
    square = 1000 * Surface(tables.reference(SURFACE)).square
    assert f"square: +{number(square, 2)} meV" in text
    assert "1.331/1.571 Å" in text


def test_figures_name_the_precisions_that_they_show(
    tables: AdequacyTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(drawn_texts(monkeypatch, "symmetry-tests", tables, tmp_path, "mini").split())
    assert "float64 and float32" in text
    text = " ".join(drawn_texts(monkeypatch, "fig7-diatomics", tables, tmp_path, "mini").split())
    assert "points per curve, float64." in text


def test_curves_of_the_figure_are_those_of_the_table(tables: AdequacyTables, tmp_path: Path) -> None:
    ortiz.bonds(tables, context_of(), tmp_path / "bonds.png")
    tidy = pd.read_csv(tmp_path / "bonds.csv")
    own = tidy[(tidy["source"] == "ani2x") & (tidy["scan"] == "ethane-cc")]["relative_energy_ev"].to_numpy()
    assert own == pytest.approx(tables.curve("ani2x", "float64", "ethane-cc")["relative_energy_ev"].to_numpy())
    assert {"reference", "reference, restricted"} < set(tidy["source"])


def test_residual_pairs_angles_with_their_mirror_image() -> None:
    x = np.linspace(44, 316, 9)
    frame = pd.DataFrame({"coordinate": x, "energy_ev": np.sin(np.radians(x)) * 0.5, "status": "ok"})
    at, value = ortiz._residual(frame)
    assert at == pytest.approx(x[:5])
    # sin is odd about 180 degrees.
    assert value == pytest.approx(np.abs(np.sin(np.radians(x[:5]))), abs=1e-12)


def test_surfaces_are_read_with_their_minimum_square_and_bias(tables: AdequacyTables) -> None:
    own = Surface(tables.reference(SURFACE))
    assert own.square == pytest.approx(0.32, abs=0.06)
    assert own.largest_bias(1.0) == pytest.approx(0, abs=1e-9)
    assert own.twins == pytest.approx(0, abs=1e-9)
    low = own.minimum
    assert abs(abs(low[0] - low[1]) - 0.24) <= 0.06
    biased = Surface(tables.curve("gemnet", "float64", SURFACE))
    assert 0.01 < biased.largest_bias(1.0) <= 0.021
    assert ortiz.first_surfaces(["reference", "ani1x", "ani2x", "xtb", "mace_off"]) == [
        "reference",
        "mace_off",
        "ani2x",
    ]


def test_cost_fits_the_exponents(tables: AdequacyTables, tmp_path: Path) -> None:
    ortiz.cost(tables, context_of(), tmp_path / "cost.png")
    fitted = pd.read_csv(tmp_path / "cost.csv").groupby("potential")["exponent"].first()
    assert fitted.to_dict() == pytest.approx({"ani2x": 0.5, "ani1x": 0.5, "xtb": 2.0, "pbe0": 3.0})


# --- tables


def test_scorecard_judges_links_and_gives_reasons(tables: AdequacyTables, tmp_path: Path) -> None:
    ortiz_tables.scorecard(tables, context_of(), tmp_path / "scorecard.html")
    frame = pd.read_csv(tmp_path / "scorecard.csv", keep_default_na=False, na_values=[""])
    assert set(frame["verdict"]) == {"pass", "fail", "not run"}

    def verdict(name: str, test: str, subject: str) -> str:
        own = frame[(frame["name"] == name) & (frame["test"] == test) & (frame["subject"] == subject)]
        assert len(own) == 1
        return str(own["verdict"].iloc[0])

    assert verdict("gemnet", "energy does not change", "water rotation") == "fail"
    assert verdict("ani2x", "energy does not change", "water rotation") == "pass"
    assert verdict("gemnet", "mirror and turn symmetry", "biphenyl") == "fail"
    assert verdict("xtb", "dissociates without a fall of the energy", "ethane C–C") == "pass"
    assert verdict("ani1x", "dissociates without a fall of the energy", "ethane C–C") == "fail"
    assert verdict("ani1x", "minimum at the right distances", "cyclobutadiene surface") == "fail"
    assert verdict("ani1x", "degenerate environments", "CH4 pair") == "pass"
    assert verdict("ani1x", "RMSE against the reference", "fluoroallene") == "not run"
    own = frame[frame["name"] == "mace_off"]
    assert own["reason"].tolist() == [MISSING["mace_off"]]
    reasons = frame.loc[(frame["verdict"] == "not run"), "reason"]
    assert reasons.notna().all()
    page = (tmp_path / "scorecard.html").read_text(encoding="utf-8")
    assert '<a class="file" href="../figures/fig7-diatomics.png">fig7-diatomics</a>' in page
    assert '<a class="file" href="../curves/ani2x/float64/water-hoh.csv">CSV</a>' in page
    assert 'class="sortable cards"' in page
    assert {f"{name}.png" for name in PRODUCTS} >= set(frame["figure"].dropna())


def test_a_curve_without_reference_is_not_judged_against_it(out: Path, tmp_path: Path) -> None:
    paths = [path for path in out.rglob("*.*") if "reference" not in path.parts]
    ortiz_tables.scorecard(AdequacyTables.from_paths(paths), context_of(), tmp_path / "scorecard.html")
    frame = pd.read_csv(tmp_path / "scorecard.csv", keep_default_na=False, na_values=[""])
    own = frame[(frame["name"] == "xtb") & frame["test"].str.startswith("minimum at")]
    assert set(own["verdict"]) == {"not run"}
    assert set(own["reason"]) == {"no reference calculation of this scan"}


def test_potentials_say_what_ran_and_why_not(tables: AdequacyTables, tmp_path: Path) -> None:
    ortiz_tables.potentials(tables, context_of(), tmp_path / "potentials.html")
    frame = pd.read_csv(tmp_path / "potentials.csv").set_index("name")
    assert frame.loc["mace_off", "ran"] == "no"
    assert frame.loc["mace_off", "reason"] == MISSING["mace_off"]
    assert frame.loc["ani1x", "elements"] == "H, C, N, O"
    assert frame.loc["gemnet", "direct_forces"] == "predicted directly"
    assert frame.loc["ani2x", "precision"] == "float64, float32"
    assert (frame["sha256"] == "ab" * 32).all()


def test_many_elements_are_counted() -> None:
    assert ortiz_tables._elements(range(1, 90)) == "89 elements, H to Ac"
    assert ortiz_tables._elements(None) == ""


def test_what_is_only_timed_is_not_judged(tables: AdequacyTables, tmp_path: Path) -> None:
    settings = {
        "potentials": {**POTENTIALS, "pbe0": {"level": "pbe0/def2-svp", "title": "PBE0"}},
        "cost_only": ["pbe0"],
    }
    context = StudyContext("mini", CLAIMS, settings=settings)
    ortiz_tables.scorecard(tables, context, tmp_path / "scorecard.html")
    assert "pbe0" not in set(pd.read_csv(tmp_path / "scorecard.csv")["name"])
    ortiz_tables.potentials(tables, context, tmp_path / "potentials.html")
    rows = pd.read_csv(tmp_path / "potentials.csv", keep_default_na=False).set_index("name")
    assert rows.loc["pbe0", "reason"].startswith("timed only")
