"""The molecules with the largest force residuals in three dimensions: a page that works offline, and a chemiscope file.

The page draws atoms, bonds, and the true and predicted force of every atom; it needs no other file and no network. The
file beside it (``.json.gz``) opens in chemiscope (G. Fraux et al., J. Open Source Softw. 5, 2117 (2020),
https://chemiscope.org), with the same numbers as properties.
"""

from __future__ import annotations

import gzip
import html
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data.colors import jmol_colors
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, write_text
from mlip_studies.data.store import Store
from mlip_studies.elements import formula, symbols
from mlip_studies.errors import InputError

FloatArray = NDArray[np.float64]
MOST = 50  # molecules shown
BOND_FACTOR = 1.15  # of the sum of covalent radii


@dataclass(frozen=True)
class Outlier:
    """A test molecule with its forces.

    Attributes:
        row: row of the store.
        name: name of its group.
        subset: subset of the data set, "" if none is stated.
        formula: chemical formula.
        atomic_numbers: shape (n_atoms,).
        positions: Å, shape (n_atoms, 3).
        true: forces of the data set, eV/Å, shape (n_atoms, 3).
        predicted: forces of the network, eV/Å, shape (n_atoms, 3).
    """

    row: int
    name: str
    subset: str
    formula: str
    atomic_numbers: NDArray[np.integer]
    positions: FloatArray
    true: FloatArray
    predicted: FloatArray

    @property
    def residual(self) -> FloatArray:
        """Largest component of predicted minus true of each atom, eV/Å, shape (n_atoms,)."""
        largest: FloatArray = np.abs(self.predicted - self.true).max(axis=1)
        return largest


def outlier_structures(predictions: PathLike, store: PathLike, n: int = MOST) -> list[Outlier]:
    """The test molecules with the largest force residuals, largest first.

    Args:
        predictions: predictions.npz of one seed of a run.
        store: the data that the run was trained on.
        n: molecules at most.

    Raises:
        InputError: the predictions are missing, damaged, without forces, or not of the store.
    """
    path = require(predictions)
    names = (
        "rows",
        "ptr",
        "atomic_numbers",
        "forces_label_ev_per_angstrom",
        "forces_predicted_ev_per_angstrom",
    )
    try:
        with np.load(path) as file:
            rows, ptr, numbers, true, predicted = (np.asarray(file[name]) for name in names)
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}; train this run again with forces") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an archive of arrays ({error}); delete it and train this run again") from None
    size = np.abs(predicted - true).max(axis=1)
    order = np.argsort(-np.maximum.reduceat(size, ptr[:-1]), kind="stable")[:n]
    with Store(store) as opened:
        try:
            found = opened.read(rows[order], fidelities=(), forces=False)
        except InputError as error:
            raise InputError(f"{path}: its rows are not those of {opened.path} ({error})") from None
        names_of = opened.group_names
        subsets = opened.group_info("subset") if "subset" in opened.info_names else None
    structures = []
    for index, molecule in enumerate(order):
        part = slice(ptr[molecule], ptr[molecule + 1])
        elements, positions = found.molecule(index)
        if not np.array_equal(elements, numbers[part]):
            raise InputError(f"{path}: atoms of row {rows[molecule]} are not those of {store}; name the run's store")
        structures.append(
            Outlier(
                int(rows[molecule]),
                names_of[int(found.group[index])],
                "" if subsets is None else subsets[int(found.group[index])],
                formula(elements),
                np.asarray(elements),
                np.asarray(positions, dtype=np.float64),
                np.asarray(true[part], dtype=np.float64),
                np.asarray(predicted[part], dtype=np.float64),
            )
        )
    return structures


def bonds(atomic_numbers: NDArray[np.integer], positions: FloatArray) -> list[tuple[int, int]]:
    """Pairs of atoms closer than 1.15 times the sum of their covalent radii.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: Å, shape (n_atoms, 3).
    """
    atoms = Atoms(numbers=atomic_numbers, positions=positions)
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND_FACTOR))
    return [(int(i), int(j)) for i, j in zip(first, second, strict=True) if i < j]


def chemiscope_content(structures: Sequence[Outlier], description: str) -> dict[str, Any]:
    """The molecules as a chemiscope data set: residuals per molecule and per atom.

    Args:
        structures: the molecules.
        description: one sentence about them.
    """
    units = "eV/Å"
    largest = [float(each.residual.max()) for each in structures]
    mean = [float(np.abs(each.predicted - each.true).mean()) for each in structures]

    def per_atom(values: Sequence[FloatArray], what: str) -> dict[str, Any]:
        joined = np.concatenate(values) if values else np.zeros(0)
        return {"target": "atom", "units": units, "description": what, "values": np.round(joined, 4).tolist()}

    return {
        "meta": {"name": "Outliers of the force components", "description": description},
        "structures": [
            {
                "size": len(each.atomic_numbers),
                "names": symbols(each.atomic_numbers),
                **{axis: np.round(each.positions[:, k], 5).tolist() for k, axis in enumerate("xyz")},
            }
            for each in structures
        ],
        "properties": {
            "rank": {"target": "structure", "values": list(range(1, len(structures) + 1))},
            "largest residual": {"target": "structure", "units": units, "values": np.round(largest, 4).tolist()},
            "force MAE": {"target": "structure", "units": units, "values": np.round(mean, 4).tolist()},
            "atoms": {"target": "structure", "values": [len(each.atomic_numbers) for each in structures]},
            "row": {"target": "structure", "values": [each.row for each in structures]},
            "formula": {"target": "structure", "values": [each.formula for each in structures]},
            "subset": {"target": "structure", "values": [each.subset for each in structures]},
            "residual of the atom": per_atom(
                [each.residual for each in structures], "largest component of predicted minus true force"
            ),
            "true force": per_atom([np.linalg.norm(each.true, axis=1) for each in structures], "norm"),
            "predicted force": per_atom([np.linalg.norm(each.predicted, axis=1) for each in structures], "norm"),
        },
        "environments": [
            {"structure": index, "center": atom, "cutoff": 3.5}
            for index, each in enumerate(structures)
            for atom in range(len(each.atomic_numbers))
        ],
    }


def outliers_3d(
    predictions: PathLike, store: PathLike, output: PathLike, *, scale: str, run: str, n: int = MOST
) -> list[Path]:
    """Write the page and, beside it, the chemiscope file (the same name with ``.json.gz``).

    Args:
        predictions: predictions.npz of one seed of a run.
        store: the data that the run was trained on.
        output: path of the HTML file.
        scale: mini or full.
        run: name of the run.
        n: molecules at most.

    Returns:
        both paths.

    Raises:
        InputError: see :func:`outlier_structures`.
    """
    structures = outlier_structures(predictions, store, n)
    path = Path(output)
    text = (
        f"The {len(structures)} test molecules with the largest force residuals of run {run}, first seed, {scale} "
        "scale. Largest first."
    )
    write_text(path, render_view(structures, text))
    other = path.with_suffix(".json.gz")
    content = json.dumps(chemiscope_content(structures, text), ensure_ascii=False, separators=(",", ":"))
    with atomic_path(other) as temporary:
        temporary.write_bytes(gzip.compress(content.encode("utf-8"), mtime=0))
    return [path, other]


def render_view(structures: Sequence[Outlier], text: str) -> str:
    """The page, with everything in it.

    Args:
        structures: the molecules.
        text: what they are.
    """
    molecules = [_molecule(each) for each in structures]
    colors: Mapping[str, str] = {
        name: "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in jmol_colors[z]))
        for z, name in sorted({(int(z), symbols([int(z)])[0]) for each in structures for z in each.atomic_numbers})
    }
    options = "".join(
        f'<option value="{index}">{index + 1}. {html.escape(each.formula)}, {each.residual.max():.2f} eV/Å</option>'
        for index, each in enumerate(structures)
    )
    # "</" would end the script.
    data = json.dumps({"molecules": molecules, "colors": colors}, ensure_ascii=False, separators=(",", ":"))
    return _PAGE.format(text=html.escape(text), options=options, data=data.replace("</", "<\\/"))


def _molecule(each: Outlier) -> dict[str, Any]:
    centred = each.positions - each.positions.mean(axis=0)
    where = f"{each.subset}, " if each.subset else ""
    worst = int(each.residual.argmax())
    names = symbols(each.atomic_numbers)
    return {
        "names": names,
        "xyz": np.round(centred, 4).tolist(),
        "true": np.round(each.true, 3).tolist(),
        "predicted": np.round(each.predicted, 3).tolist(),
        "bonds": bonds(each.atomic_numbers, each.positions),
        "about": f"{each.formula} ({each.name}; {where}row {each.row}): largest residual "
        f"{each.residual[worst]:.2f} eV/Å at atom {worst} ({names[worst]}), force MAE "
        f"{np.abs(each.predicted - each.true).mean():.3f} eV/Å",
    }


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Outliers of the force components in three dimensions</title>
<style>
:root {{ color-scheme: light dark; --text: #1b1b1b; --back: #ffffff; --muted: #595959; --line: #d0d0d0;
  --true: #0072b2; --predicted: #d55e00; --bond: #8a8a8a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #ececec; --back: #16181b; --muted: #b0b0b0; --line: #40454b;
  --true: #56b4e9; --predicted: #ffb08a; --bond: #9a9a9a; }} }}
body {{ margin: 0; padding: 1rem; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--text); background: var(--back); }}
h1 {{ font-size: 1.2rem; margin: 0 0 .5rem; }}
p {{ max-width: 60rem; margin: .3rem 0 .6rem; }}
.muted {{ color: var(--muted); }}
.bar {{ display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .4rem 0; }}
select, button, input {{ font: inherit; }}
select {{ max-width: 100%; }}
canvas {{ display: block; width: 100%; height: min(65vh, 36rem); border: 1px solid var(--line); border-radius: 6px;
  touch-action: none; cursor: grab; }}
.true {{ color: var(--true); font-weight: 600; }} .predicted {{ color: var(--predicted); font-weight: 600; }}
</style>
</head>
<body>
<main>
<h1>Outliers of the force components in three dimensions</h1>
<p>{text}</p>
<div class="bar">
<button type="button" id="before">previous</button>
<label>molecule <select id="which">{options}</select></label>
<button type="button" id="next">next</button>
<label>force arrows <input type="range" id="size" min="0" max="100" value="50"></label>
</div>
<p id="about" aria-live="polite"></p>
<canvas id="view" tabindex="0" role="img" aria-label="molecule; arrow keys turn it, + and - change its size"></canvas>
<p class="muted">Arrows: <span class="true">true force</span>, <span class="predicted">predicted force</span>; the
longest of a molecule has a fixed length. Drag or use the arrow keys to turn, the wheel or + and − to change the
size.</p>
</main>
<script>
(function () {{
  var data = {data};
  var canvas = document.getElementById("view"), pen = canvas.getContext("2d");
  var which = document.getElementById("which"), size = document.getElementById("size");
  var turn = [1, 0, 0, 0, 1, 0, 0, 0, 1], zoom = 1, at = 0;
  function color(name) {{ return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }}
  function rotate(x, y) {{
    var a = Math.cos(y), b = Math.sin(y), c = Math.cos(x), d = Math.sin(x);
    var r = [a, 0, b, d * b, c, -d * a, -c * b, d, c * a], m = [];
    for (var i = 0; i < 3; i++) {{ for (var j = 0; j < 3; j++) {{
      m.push(r[3 * i] * turn[j] + r[3 * i + 1] * turn[3 + j] + r[3 * i + 2] * turn[6 + j]);
    }} }}
    turn = m;
    draw();
  }}
  function seen(v) {{
    return [turn[0] * v[0] + turn[1] * v[1] + turn[2] * v[2], turn[3] * v[0] + turn[4] * v[1] + turn[5] * v[2],
      turn[6] * v[0] + turn[7] * v[1] + turn[8] * v[2]];
  }}
  function arrow(from, to, shade) {{
    var dx = to[0] - from[0], dy = to[1] - from[1], length = Math.hypot(dx, dy);
    if (length < 3) {{ return; }}
    var head = Math.min(9, length / 2), ux = dx / length, uy = dy / length;
    pen.strokeStyle = pen.fillStyle = shade;
    pen.lineWidth = 2.5;
    pen.beginPath(); pen.moveTo(from[0], from[1]); pen.lineTo(to[0] - ux * head, to[1] - uy * head); pen.stroke();
    pen.beginPath(); pen.moveTo(to[0], to[1]);
    pen.lineTo(to[0] - ux * head - uy * head / 2, to[1] - uy * head + ux * head / 2);
    pen.lineTo(to[0] - ux * head + uy * head / 2, to[1] - uy * head - ux * head / 2);
    pen.fill();
  }}
  function draw() {{
    var ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    var one = data.molecules[at];
    if (!one) {{ return; }}
    var reach = 1.5, strongest = 1e-9;
    one.xyz.forEach(function (v) {{ reach = Math.max(reach, Math.hypot(v[0], v[1], v[2])); }});
    [one.true, one.predicted].forEach(function (all) {{ all.forEach(function (f) {{
      strongest = Math.max(strongest, Math.hypot(f[0], f[1], f[2])); }}); }});
    var unit = 0.38 * Math.min(width, height) / reach * zoom;
    var stretch = size.value / 50 * Math.max(1.2, 0.45 * reach) / strongest;
    function place(v) {{ return [width / 2 + unit * v[0], height / 2 - unit * v[1], v[2]]; }}
    var points = one.xyz.map(function (v) {{ return place(seen(v)); }}), parts = [];
    one.bonds.forEach(function (b) {{
      parts.push([(points[b[0]][2] + points[b[1]][2]) / 2, function () {{
        pen.strokeStyle = color("--bond"); pen.lineWidth = Math.max(2, 0.12 * unit);
        pen.beginPath(); pen.moveTo(points[b[0]][0], points[b[0]][1]); pen.lineTo(points[b[1]][0], points[b[1]][1]);
        pen.stroke();
      }}]);
    }});
    one.names.forEach(function (name, i) {{
      var p = points[i], radius = Math.max(7, unit * (name === "H" ? 0.22 : 0.34));
      parts.push([p[2] + 0.01, function () {{
        pen.beginPath(); pen.arc(p[0], p[1], radius, 0, 7);
        pen.fillStyle = data.colors[name]; pen.fill(); pen.strokeStyle = "#333333"; pen.lineWidth = 1; pen.stroke();
        pen.fillStyle = "#000000"; pen.textAlign = "center"; pen.textBaseline = "middle";
        pen.font = Math.round(Math.max(10, radius)) + "px sans-serif";
        pen.fillText(name, p[0], p[1]);
      }}]);
    }});
    parts.sort(function (a, b) {{ return a[0] - b[0]; }}).forEach(function (part) {{ part[1](); }});
    [["true", "--true"], ["predicted", "--predicted"]].forEach(function (kind) {{
      one[kind[0]].forEach(function (f, i) {{
        var v = one.xyz[i], end = [v[0] + stretch * f[0], v[1] + stretch * f[1], v[2] + stretch * f[2]];
        arrow(points[i], place(seen(end)), color(kind[1]));
      }});
    }});
    document.getElementById("about").textContent = one.about;
  }}
  function show(index) {{
    var n = data.molecules.length;
    at = n ? (index + n) % n : 0;
    which.value = String(at);
    draw();
  }}
  document.getElementById("before").addEventListener("click", function () {{ show(at - 1); }});
  document.getElementById("next").addEventListener("click", function () {{ show(at + 1); }});
  which.addEventListener("change", function () {{ show(Number(which.value)); }});
  size.addEventListener("input", draw);
  canvas.addEventListener("pointerdown", function (e) {{ canvas.setPointerCapture(e.pointerId); }});
  canvas.addEventListener("pointermove", function (e) {{
    if (e.buttons) {{ rotate(0.01 * e.movementY, 0.01 * e.movementX); }}
  }});
  canvas.addEventListener("wheel", function (e) {{
    e.preventDefault(); zoom *= Math.exp(-0.001 * e.deltaY); draw();
  }}, {{ passive: false }});
  canvas.addEventListener("keydown", function (e) {{
    var turns = {{ ArrowLeft: [0, -0.15], ArrowRight: [0, 0.15], ArrowUp: [-0.15, 0], ArrowDown: [0.15, 0] }}[e.key];
    if (turns) {{ e.preventDefault(); rotate(turns[0], turns[1]); }}
    if (e.key === "+" || e.key === "=") {{ zoom *= 1.15; draw(); }}
    if (e.key === "-") {{ zoom /= 1.15; draw(); }}
  }});
  window.addEventListener("resize", draw);
  show(0);
}})();
</script>
</body>
</html>
"""
