"""The molecules whose forces a run predicts worst: as extended XYZ, as a chemiscope data set, and as a page to look at.

The page is self-contained: it draws the molecules on a canvas with a few lines of its own script and loads nothing.
"""

from __future__ import annotations

import gzip
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, write_text
from mlip_studies.data.store import Store
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError
from mlip_studies.studies.run_tables import NEAR_ZERO, OUTLIER_RESIDUAL, RunFiles, entry, read_seed, row_facts

# Atoms count as bonded up to this multiple of the sum of their covalent radii; for the eyes only.
_BOND_FACTOR = 1.25
_ENVIRONMENT_CUTOFF = 3.5  # Å; what chemiscope marks around a chosen atom


@dataclass(frozen=True)
class StructureOutputs:
    """Files to write.

    Attributes:
        extxyz: frames for ASE and other programs.
        chemiscope: data set for https://chemiscope.org, ``.json`` or ``.json.gz``.
        page: self-contained page, ``.html``.
    """

    extxyz: Path
    chemiscope: Path
    page: Path


@dataclass(frozen=True)
class Outlier:
    """One molecule and its forces.

    Attributes:
        row: in the store.
        formula: Hill formula.
        facts: group, and subset and SMILES where the store has them.
        atomic_numbers: shape (n_atoms,).
        positions: Å, shape (n_atoms, 3).
        true: labels, eV/Å, shape (n_atoms, 3).
        predicted: eV/Å, shape (n_atoms, 3).
    """

    row: int
    formula: str
    facts: dict[str, str]
    atomic_numbers: NDArray[np.integer]
    positions: NDArray[np.float64]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]

    @property
    def residual(self) -> NDArray[np.float64]:
        """Predicted minus true forces, eV/Å, shape (n_atoms, 3)."""
        return self.predicted - self.true

    @property
    def largest(self) -> float:
        """Largest component of the residual, eV/Å."""
        return float(np.abs(self.residual).max())

    @property
    def counted(self) -> int:
        """Components with a residual above 8 eV/Å where less than 1 eV/Å is predicted."""
        return int(((np.abs(self.residual) > OUTLIER_RESIDUAL) & (np.abs(self.predicted) < NEAR_ZERO)).sum())

    def bonds(self) -> list[tuple[int, int]]:
        """Pairs of atoms that are close enough for a bond."""
        i, j = np.triu_indices(len(self.atomic_numbers), 1)
        distance = np.linalg.norm(self.positions[i] - self.positions[j], axis=1)
        radius = covalent_radii[np.asarray(self.atomic_numbers, dtype=np.int64)]
        near = distance < _BOND_FACTOR * (radius[i] + radius[j])
        return list(zip(i[near].tolist(), j[near].tolist(), strict=True))


def worst_molecules(files: RunFiles, store: PathLike, n: int = 50) -> list[Outlier]:
    """The test molecules with the largest residuals of any force component, largest first.

    Args:
        files: of one seed.
        store: the data that the run was trained on.
        n: how many; fewer if the test set is smaller.

    Raises:
        InputError: no forces, or as :func:`mlip_studies.studies.run_tables.analyse_run`.
    """
    seed = read_seed(files)
    residual = seed.residual
    if residual is None or seed.forces_label is None or seed.forces_predicted is None:
        raise InputError(f"{files.predictions}: has no forces; choose a run that learns forces")
    if n < 1:
        raise InputError(f"n: {n} molecules asked; ask for at least one")
    test = seed.test
    largest = np.maximum.reduceat(np.abs(residual).max(axis=1), test.ptr[:-1])
    chosen = np.argsort(-largest, kind="stable")[:n]
    with Store(store) as opened:
        known = row_facts(seed, opened, str(entry(seed, "config.fidelity")))
        rows = opened.read(test.rows[chosen], fidelities=(), forces=False)
    result = []
    for place, index in enumerate(chosen.tolist()):
        atoms = slice(int(test.ptr[index]), int(test.ptr[index + 1]))
        numbers, positions = rows.molecule(place)
        facts = {"group": str(known.group[index]), **{name: str(known.info[name][index]) for name in known.info}}
        result.append(
            Outlier(
                int(test.rows[index]),
                str(known.formula[index]),
                facts,
                numbers,
                positions.astype(np.float64),
                seed.forces_label[atoms],
                seed.forces_predicted[atoms],
            )
        )
    return result


def to_extxyz(outliers: list[Outlier]) -> str:
    """Frames with the arrays forces_true, forces_predicted (eV/Å) and force_residual (norm, eV/Å) and the facts."""
    frames = []
    for outlier in outliers:
        frame = ase.Atoms(numbers=np.asarray(outlier.atomic_numbers, dtype=np.int64), positions=outlier.positions)
        frame.new_array("forces_true", outlier.true)
        frame.new_array("forces_predicted", outlier.predicted)
        frame.new_array("force_residual", np.linalg.norm(outlier.residual, axis=1))
        facts = {name: value for name, value in outlier.facts.items() if value}
        frame.info = {"row": outlier.row, "largest_component_residual": outlier.largest, **facts}
        frames.append(frame)
    stream = io.StringIO()
    ase.io.write(stream, frames, format="extxyz")
    return stream.getvalue()


def to_chemiscope(outliers: list[Outlier], name: str) -> dict[str, Any]:
    """The input of chemiscope (https://chemiscope.org/docs): structures, properties, environments and arrows.

    Args:
        outliers: the molecules.
        name: title of the data set.

    Returns:
        JSON-ready; the keys ``meta``, ``structures``, ``properties``, ``environments``, ``shapes`` and ``settings``.
    """

    def per_structure(values: list[Any], description: str, units: str | None = None) -> dict[str, Any]:
        extra = {} if units is None else {"units": units}
        return {"target": "structure", "values": values, "description": description, **extra}

    def per_atom(values: list[NDArray[np.float64]], description: str) -> dict[str, Any]:
        norms = np.concatenate([np.linalg.norm(forces, axis=1) for forces in values])
        rounded = [round(value, 5) for value in norms.tolist()]
        return {"target": "atom", "values": rounded, "description": description, "units": "eV/Å"}

    def arrows(values: list[NDArray[np.float64]], color: str) -> dict[str, Any]:
        vectors = [{"vector": vector} for forces in values for vector in np.round(0.1 * forces, 5).tolist()]
        shape = {"baseRadius": 0.06, "headRadius": 0.12, "headLength": 0.2, "color": color}
        return {"kind": "arrow", "parameters": {"global": shape, "atom": vectors}}

    def fact(key: str) -> list[str]:
        return [outlier.facts.get(key, "") for outlier in outliers]

    true, predicted = [o.true for o in outliers], [o.predicted for o in outliers]
    residual = [o.residual for o in outliers]
    properties = {
        "largest residual": per_structure([round(o.largest, 5) for o in outliers], "of any force component", "eV/Å"),
        "outlying components": per_structure(
            [o.counted for o in outliers], "residual above 8 eV/Å where less than 1 eV/Å is predicted"
        ),
        "atoms": per_structure([len(o.atomic_numbers) for o in outliers], "number of atoms"),
        "row": per_structure([o.row for o in outliers], "row of the store"),
        "formula": per_structure([o.formula for o in outliers], "Hill formula"),
        **{key: per_structure(fact(key), f"{key} of the molecule") for key in outliers[0].facts},
        "force residual": per_atom(residual, "norm of predicted minus true force"),
        "true force": per_atom(true, "norm of the label"),
        "predicted force": per_atom(predicted, "norm of the prediction"),
    }
    structures = []
    for outlier in outliers:
        x, y, z = np.round(outlier.positions, 5).T.tolist()
        names = symbols(outlier.atomic_numbers)
        structures.append({"size": len(names), "names": names, "x": x, "y": y, "z": z})
    environments = [
        {"structure": number, "center": atom, "cutoff": _ENVIRONMENT_CUTOFF}
        for number, outlier in enumerate(outliers)
        for atom in range(len(outlier.atomic_numbers))
    ]
    return {
        "meta": {"name": name, "description": "Arrows: 0.1 Å per eV/Å. Residuals are predicted minus true forces."},
        "structures": structures,
        "properties": properties,
        "environments": environments,
        "shapes": {
            "true force": arrows(true, "#0072B2"),
            "predicted force": arrows(predicted, "#E69F00"),
            "force residual": arrows(residual, "#D55E00"),
        },
        "settings": {
            "target": "structure",
            "map": {
                "x": {"property": "atoms"},
                "y": {"property": "largest residual"},
                "color": {"property": "outlying components"},
            },
            "structure": [{"shape": "true force,predicted force", "atomLabels": False}],
        },
    }


_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --back: #ffffff; --muted: #595959; --line: #d0d0d0;
  --head: #f0f2f4; --chosen: #dcebf7; --edge: #333333; --true: #0072B2; --predicted: #B87400; --residual: #C04A00; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --back: #16181b; --muted: #b0b0b0; --line: #40454b;
  --head: #23272c; --chosen: #1d3a52; --edge: #d0d0d0; --true: #56B4E9; --predicted: #E69F00; --residual: #FF8A4C; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--text); background: var(--back); }
h1 { font-size: 1.2rem; margin: 0 0 .4rem; }
p { margin: .2rem 0 .7rem; max-width: 62rem; color: var(--muted); }
main { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
#list { flex: 1 1 30rem; max-height: 36rem; overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
#view { flex: 2 1 26rem; min-width: 0; }
canvas { width: 100%; height: 30rem; border: 1px solid var(--line); border-radius: 6px; touch-action: none;
  cursor: grab; display: block; }
canvas:focus-visible, button:focus-visible { outline: 3px solid var(--true); outline-offset: -2px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--head); position: sticky; top: 0; }
th.text, td.text { text-align: left; }
td.wide { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
td button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-decoration: underline;
  cursor: pointer; }
tr[aria-current=true] { background: var(--chosen); }
fieldset { border: 0; padding: .4rem 0; margin: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.true { color: var(--true); } .predicted { color: var(--predicted); } .residual { color: var(--residual); }
#facts { min-height: 3rem; overflow-wrap: anywhere; color: var(--text); }
"""

_SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const canvas = document.getElementById('canvas'), pen = canvas.getContext('2d');
let chosen = 0, turn = [], zoom = 1;
const on = name => document.getElementById('show-' + name).checked;
const colour = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name);
const rotate = v => [0, 3, 6].map(i => turn[i] * v[0] + turn[i + 1] * v[1] + turn[i + 2] * v[2]);
function spin(dx, dy) {
  const [a, b, c, d] = [Math.cos(dx), Math.sin(dx), Math.cos(dy), Math.sin(dy)];
  const step = [a, 0, b, d * b, c, -d * a, -c * b, d, c * a], old = turn.slice();
  turn = step.map((_, k) => [0, 1, 2].reduce((sum, m) => sum + step[3 * (k / 3 | 0) + m] * old[3 * m + k % 3], 0));
}
function arrow(x, y, dx, dy, tone) {
  const length = Math.hypot(dx, dy);
  if (length < 3) return;
  const [ux, uy] = [dx / length, dy / length], head = Math.min(9, length);
  pen.strokeStyle = pen.fillStyle = tone; pen.lineWidth = 2.5;
  pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + dx - ux * head * 0.8, y + dy - uy * head * 0.8); pen.stroke();
  pen.beginPath(); pen.moveTo(x + dx, y + dy);
  pen.lineTo(x + dx - head * ux + head * uy / 2, y + dy - head * uy - head * ux / 2);
  pen.lineTo(x + dx - head * ux - head * uy / 2, y + dy - head * uy + head * ux / 2); pen.fill();
}
function draw() {
  const dense = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * dense; canvas.height = height * dense;
  pen.setTransform(dense, 0, 0, dense, 0, 0); pen.clearRect(0, 0, width, height);
  const m = data[chosen], n = m.names.length;
  const size = Math.max(...m.positions.map(v => Math.hypot(...v))) + 1.2;
  const scale = zoom * Math.min(width, height) / (2 * size);
  const at = m.positions.map(v => { const r = rotate(v); return [width / 2 + scale * r[0],
    height / 2 - scale * r[1], r[2]]; });
  const byAtom = document.querySelector('input[name=colour]:checked').value === 'residual';
  const most = Math.max(...m.norm);
  const items = m.bonds.map(([i, j]) => ({ z: Math.min(at[i][2], at[j][2]) - 0.01, bond: [i, j] }))
    .concat(at.map((v, i) => ({ z: v[2], atom: i }))).sort((a, b) => a.z - b.z);
  pen.textAlign = 'center'; pen.textBaseline = 'middle';
  for (const item of items) {
    if (item.bond) {
      const [p, q] = item.bond.map(k => at[k]);
      pen.strokeStyle = '#8c8c8c'; pen.lineWidth = Math.max(2, 0.13 * scale);
      pen.beginPath(); pen.moveTo(p[0], p[1]); pen.lineTo(q[0], q[1]); pen.stroke();
      continue;
    }
    const i = item.atom, [x, y] = at[i], radius = Math.max(6, scale * m.radii[i]);
    const share = most > 0 ? m.norm[i] / most : 0;
    pen.fillStyle = byAtom ? `rgb(${255 - 42 * share | 0},${255 - 161 * share | 0},${255 - 255 * share | 0})`
      : m.colours[i];
    pen.strokeStyle = colour('edge'); pen.lineWidth = 1;
    pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); pen.fill(); pen.stroke();
    pen.fillStyle = !byAtom && m.dark[i] ? '#ffffff' : '#000000';
    pen.font = `${Math.max(11, Math.min(16, radius))}px system-ui, sans-serif`;
    pen.fillText(m.names[i], x, y);
  }
  const reach = Math.max(...m.true.concat(m.predicted).map(v => Math.hypot(...v)));
  const per = reach > 0 ? 1.3 * scale / reach : 0;
  for (const name of ['true', 'predicted', 'residual']) {
    if (!on(name)) continue;
    for (let i = 0; i < n; i++) {
      const r = rotate(name === 'residual' ? m.true[i].map((t, k) => m.predicted[i][k] - t) : m[name][i]);
      arrow(at[i][0], at[i][1], per * r[0], -per * r[1], colour(name));
    }
  }
  if (per > 0) {
    const step = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].find(s => s * per > 40) || 1000;
    arrow(20, height - 22, step * per, 0, colour('text'));
    pen.textAlign = 'left'; pen.fillStyle = colour('text'); pen.font = '14px system-ui, sans-serif';
    pen.fillText(step + ' eV/Å', 28 + step * per, height - 22);
  }
}
function choose(k) {
  chosen = (k + data.length) % data.length; turn = data[chosen].turn; zoom = 1; spin(0.15, 0.25);
  document.querySelectorAll('tbody tr').forEach((row, i) => row.setAttribute('aria-current', i === chosen));
  const m = data[chosen];
  document.getElementById('facts').textContent = m.text;
  canvas.setAttribute('aria-label', m.text);
  draw();
}
document.querySelectorAll('tbody button').forEach((b, k) => b.addEventListener('click', () => choose(k)));
document.querySelectorAll('input').forEach(i => i.addEventListener('change', draw));
let last = null;
canvas.addEventListener('pointerdown', e => { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener('pointermove', e => { if (!last) return;
  spin((e.clientX - last[0]) / 120, (e.clientY - last[1]) / 120); last = [e.clientX, e.clientY]; draw(); });
for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { last = null; });
canvas.addEventListener('wheel', e => { e.preventDefault();
  zoom = Math.min(6, Math.max(0.4, zoom * Math.exp(-e.deltaY / 600))); draw(); }, { passive: false });
canvas.addEventListener('keydown', e => {
  const move = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[e.key];
  if (move) spin(...move); else if (e.key === '+') zoom *= 1.15; else if (e.key === '-') zoom /= 1.15;
  else if (e.key === 'n') return choose(chosen + 1); else if (e.key === 'p') return choose(chosen - 1); else return;
  e.preventDefault(); draw();
});
window.addEventListener('resize', draw);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
choose(0);
"""


def to_page(outliers: list[Outlier], title: str) -> str:
    """A self-contained page: the list of molecules, and the chosen one with its forces to turn by mouse, touch or keys.

    Args:
        outliers: the molecules.
        title: heading.
    """
    molecules, lines = [], []
    for number, outlier in enumerate(outliers, 1):
        z = np.asarray(outlier.atomic_numbers, dtype=np.int64)
        colors = np.round(255 * jmol_colors[z]).astype(int)
        worst = int(np.argmax(np.abs(outlier.residual).max(axis=1)))
        name = symbols([z[worst]])[0]
        facts = "".join(
            f", {'SMILES' if key == 'smiles' else key} {value}" for key, value in outlier.facts.items() if value
        )
        text = (
            f"{number}. {outlier.formula}, row {outlier.row}{facts}. Largest residual of a force component "
            f"{outlier.largest:.2f} eV/Å, at {name} (atom {worst}): true ({_vector(outlier.true[worst])}), predicted "
            f"({_vector(outlier.predicted[worst])}) eV/Å."
        )
        molecules.append(
            {
                "names": symbols(z),
                "positions": np.round(outlier.positions - outlier.positions.mean(axis=0), 4).tolist(),
                "turn": _facing(outlier.positions).ravel().tolist(),
                "true": np.round(outlier.true, 3).tolist(),
                "predicted": np.round(outlier.predicted, 3).tolist(),
                "norm": np.round(np.linalg.norm(outlier.residual, axis=1), 3).tolist(),
                "bonds": outlier.bonds(),
                "radii": np.round(0.4 * covalent_radii[z] + 0.05, 3).tolist(),
                "colours": [f"rgb({r},{g},{b})" for r, g, b in colors.tolist()],
                "dark": (colors @ [0.299, 0.587, 0.114] < 110).tolist(),
                "text": text,
            }
        )
        where = outlier.facts.get("subset") or outlier.facts["group"]
        lines.append(
            f'<tr><td>{number}</td><td class="text"><button type="button">{html.escape(outlier.formula)}</button></td>'
            f"<td>{outlier.largest:.2f}</td><td>{outlier.counted}</td>"
            f'<td class="text wide">{html.escape(where)}</td></tr>'
        )
    # A fact that holds "</script>" must not end the element, nor one with "<!--<script>" keep it from ending.
    content = json.dumps(molecules, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    last = "Subset" if "subset" in outliers[0].facts else "Group"
    shown = "".join(
        f'<label class="{name}"><input type="checkbox" id="show-{name}"{on}> {label}</label>'
        for name, label, on in (
            ("true", "true force", " checked"),
            ("predicted", "predicted force", " checked"),
            ("residual", "residual (predicted − true)", ""),
        )
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{html.escape(title)}</h1>
<p>The {len(outliers)} test molecules with the largest residual of a force component. Drag or use the arrow keys to
turn, the wheel or + and - to zoom, n and p for the next and the previous molecule. Outliers are components with a
residual above {OUTLIER_RESIDUAL:g} eV/Å where less than {NEAR_ZERO:g} eV/Å is predicted.</p>
<main>
<div id="list"><table><thead><tr><th>#</th><th class="text">Molecule</th><th>Largest, eV/Å</th><th>Outliers</th>
<th class="text">{last}</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>
<div id="view">
<canvas id="canvas" tabindex="0" role="img"></canvas>
<fieldset>{shown}
<label><input type="radio" name="colour" value="element" checked> colour by element</label>
<label><input type="radio" name="colour" value="residual"> by residual</label></fieldset>
<p id="facts" aria-live="polite"></p>
</div>
</main>
<script type="application/json" id="data">{content}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _facing(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) that lays the longest extent of a molecule across the page and the shortest along the view."""
    axes: NDArray[np.float64] = np.linalg.svd(positions - positions.mean(axis=0))[2]
    axes[2] *= np.sign(np.linalg.det(axes))  # no reflection
    return np.round(axes, 5)


def _vector(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def outlier_structures(
    files: RunFiles, store: PathLike, outputs: StructureOutputs, title: str, n: int = 50
) -> list[Outlier]:
    """Write the worst molecules of one seed.

    Args:
        files: of the seed.
        store: the data that the run was trained on.
        outputs: where to.
        title: name of the data set and heading of the page; says the run and the scale.
        n: how many molecules.

    Returns:
        the molecules, worst first.

    Raises:
        InputError: as :func:`worst_molecules`.
    """
    outliers = worst_molecules(files, store, n)
    write_text(outputs.extxyz, to_extxyz(outliers))
    content = json.dumps(to_chemiscope(outliers, title), ensure_ascii=False, separators=(",", ":")).encode()
    # No time stamp: the same molecules give the same bytes.
    data = gzip.compress(content, mtime=0) if Path(outputs.chemiscope).suffix == ".gz" else content
    with atomic_path(outputs.chemiscope) as temporary:
        temporary.write_bytes(data)
    write_text(outputs.page, to_page(outliers, title))
    return outliers
