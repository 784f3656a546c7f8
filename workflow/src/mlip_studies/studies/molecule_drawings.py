"""Drawings of start structures, as figure 2(a) of S. Stocker et al. (2022): molecules projected, with their bonds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from ase.data import covalent_radii
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from mlip_studies.artifacts import PathLike
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.data.representatives import Structure, bonds, read_structures
from mlip_studies.elements import symbol
from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, OKABE_ITO, footer, style
from mlip_studies.studies.context import StudyContext

FloatArray = NDArray[np.float64]

#: fill and colour of the letter of each element; others are reddish purple
COLOURS: dict[int, tuple[str, str]] = {
    1: ("#FFFFFF", "black"),
    6: ("#4D4D4D", "white"),
    7: (OKABE_ITO["blue"], "white"),
    8: (OKABE_ITO["vermillion"], "white"),
    16: (OKABE_ITO["orange"], "black"),
    17: (OKABE_ITO["bluish green"], "white"),
}
_OTHER = (OKABE_ITO["reddish purple"], "black")
# Panels side by side: the most with which letters fit into the atoms.
_COLUMNS = (4, 3, 2)
_MARGIN = 0.7  # Å around the atoms
_ORIENTATIONS = 2000
_LETTER = 9.0  # points


def _radius(number: int) -> float:
    """Drawn radius, Å."""
    return 0.26 if number == 1 else 0.30 + 0.2 * float(covalent_radii[number])


def projected(atomic_numbers: NDArray[np.integer], positions: FloatArray) -> FloatArray:
    """Positions turned so that atoms hide each other least when seen along z; the widest extent lies along x.

    The principal axes and a fixed set of random orientations are compared.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.

    Returns:
        shape (n_atoms, 3), Å, centred on the drawn box.
    """
    centred: FloatArray = positions - positions.mean(axis=0)
    if len(centred) == 1:
        return centred
    _, _, axes = np.linalg.svd(centred)
    axes[2] = np.cross(axes[0], axes[1])
    principal = centred @ axes.T
    quaternions = np.random.default_rng(0).normal(size=(_ORIENTATIONS, 4))
    turns = [np.eye(3), *Rotation.from_quat(quaternions).as_matrix()]
    sizes = np.array([_radius(int(z)) for z in atomic_numbers])
    i, j = np.triu_indices(len(sizes), 1)
    reach = sizes[i] + sizes[j]
    heavy = np.asarray(atomic_numbers) > 1
    # A heavy atom behind another is what makes a drawing unreadable.
    weight = np.where(heavy[i] & heavy[j], 20.0, 1.0)

    def hidden(seen: FloatArray) -> float:
        ratio = pdist(seen[:, :2]) / reach
        return float((weight * np.maximum(0.0, 1.0 - ratio) ** 2 + np.exp(-(ratio**2))).sum())

    # The first wins a tie: the principal axes.
    best = min((principal @ turn.T for turn in turns), key=lambda seen: round(hidden(seen), 6))
    flat = best[:, :2] - best[:, :2].mean(axis=0)
    _, _, plane = np.linalg.svd(flat)
    if np.linalg.det(plane) < 0:
        plane[1] *= -1
    flat = flat @ plane.T
    flat -= (flat.max(axis=0) + flat.min(axis=0)) / 2
    return np.column_stack([flat, best[:, 2]])


def _inch_per_angstrom(n_columns: int, extent: FloatArray) -> float:
    """Scale of the drawing; few small molecules are not blown up."""
    return min(FULL_WIDTH / n_columns / float(extent[:, 0].max()), 0.6)


def _letters_fit(n_columns: int, extent: FloatArray) -> bool:
    """Whether a letter has room in the smallest heavy atom."""
    return 2 * _radius(8) * _inch_per_angstrom(n_columns, extent) * 72 >= _LETTER * 1.4


def _formula(text: str) -> str:
    """A formula with its numbers as subscripts."""
    return "".join(f"$_{{{c}}}$" if c.isdigit() else c for c in text)


def _draw(axis: Axes, structure: Structure, seen: FloatArray, letters: bool) -> None:
    """Bonds and atoms from back to front."""
    pairs, _ = bonds(structure.atomic_numbers, structure.positions)
    depth = seen[:, 2]
    for a, b in pairs:
        axis.plot(seen[[a, b], 0], seen[[a, b], 1], color="#8C8C8C", linewidth=2.2, solid_capstyle="round",
                  zorder=2 + float(np.mean(depth[[a, b]])) * 1e-3)  # fmt: skip
    for place, atom in enumerate(np.argsort(depth, kind="stable")):
        z = int(structure.atomic_numbers[atom])
        fill, ink = COLOURS.get(z, _OTHER)
        level = 3 + place * 0.01
        x, y = (float(value) for value in seen[atom, :2])
        axis.add_patch(Circle((x, y), _radius(z), facecolor=fill, edgecolor="black", linewidth=0.7, zorder=level))
        if letters and z > 1:
            axis.text(x, y, symbol(z), color=ink, fontsize=_LETTER, fontweight="bold", ha="center",
                      va="center_baseline", zorder=level + 0.005)  # fmt: skip


def _legend(numbers: Sequence[int]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker="o", markersize=10 if z > 1 else 7, markeredgecolor="black",
               markeredgewidth=0.7, markerfacecolor=COLOURS.get(z, _OTHER)[0], label=symbol(z))
        for z in numbers
    ]  # fmt: skip


def draw_molecules(xyz: PathLike, output: PathLike, scale: str = "", note: str = "") -> None:
    """Draw all structures of a file, all to the same length scale, with name and formula beneath.

    Args:
        xyz: extxyz file, as ``data/representatives.py`` writes it.
        output: PNG file; SVG and the drawn coordinates (csv) go beside it.
        scale: mini or full, for the footer.
        note: further words for the footer, such as how the molecules were chosen.

    Raises:
        InputError: the file is missing or holds no structures.
    """
    structures = read_structures(xyz)
    views = [projected(structure.atomic_numbers, structure.positions) for structure in structures]
    extent = np.array([np.ptp(view[:, :2], axis=0) for view in views]) + 2 * _MARGIN
    fitting = [n for n in _COLUMNS if _letters_fit(n, extent)] or [_COLUMNS[0]]
    n_rows = -(-len(structures) // fitting[0])
    n_columns = -(-len(structures) // n_rows)
    inch = _inch_per_angstrom(n_columns, extent)
    width = FULL_WIDTH / n_columns / inch
    # A row is as high as its highest molecule.
    heights = [float(extent[row * n_columns : (row + 1) * n_columns, 1].max()) for row in range(n_rows)]
    strip = 0.2 / inch  # Å, at the top of the first row for the bar
    heights[0] += strip
    letters = _letters_fit(n_columns, extent)
    tidy = pd.concat(
        pd.DataFrame(
            {
                "name": structure.name,
                "formula": structure.formula,
                "smiles": structure.smiles,
                "group": structure.group,
                "atom": np.arange(len(view)),
                "element": [symbol(int(z)) for z in structure.atomic_numbers],
                "x_angstrom": view[:, 0].round(6),
                "y_angstrom": view[:, 1].round(6),
            }
        )
        for structure, view in zip(structures, views, strict=True)
    )
    with style():
        figure, axes = plt.subplots(
            n_rows,
            n_columns,
            figsize=(FULL_WIDTH, sum(heights) * inch + 0.45 * n_rows + 0.7),
            height_ratios=heights,
            squeeze=False,
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for number, (structure, view) in enumerate(zip(structures, views, strict=True)):
            row = number // n_columns
            axis = axes.flat[number]
            _draw(axis, structure, view, letters)
            axis.set_xlim(-width / 2, width / 2)
            low = -heights[row] / 2 + (strip / 2 if row == 0 else 0.0)
            axis.set_ylim(low, low + heights[row])
            axis.set_aspect("equal")
            name = textwrap.fill(structure.name, 24)
            axis.text(0.5, -0.02, f"{name}\n{_formula(structure.formula)}", transform=axis.transAxes, ha="center",
                      va="top", fontsize=9)  # fmt: skip
        present = sorted({int(z) for structure in structures for z in structure.atomic_numbers})
        figure.legend(handles=_legend(present), loc="outside upper center", ncols=len(present), handlelength=1.0)
        left, top = -width / 2 + 0.2, heights[0] / 2 + strip / 2 - 0.08 / inch
        axes[0, 0].plot([left, left + 1.0], [top, top], color="black", linewidth=2, solid_capstyle="butt")
        axes[0, 0].text(left + 1.0 + 0.06 / inch, top, "1 Å", ha="left", va="center", fontsize=9)
        words = [f"Scale: {scale}." if scale else "", f"n = {len(structures)} molecules.", note]
        footer(figure, " ".join(word for word in words if word) + f" All drawn to one length scale. {Path(xyz).name}")
        save_figure(figure, tidy, output)


def molecules(tables: RunTables, context: StudyContext, output: PathLike) -> None:
    """Figure 2(a): the molecules that dynamics start from, out of the one extxyz file among ``context.files``.

    The paper shows its 20 molecules without a list of them; ours are chosen by the rule of ``data/representatives.py``.

    Raises:
        InputError: no such file, or several.
    """
    files = [path for path in context.files if Path(path).suffix == ".xyz"]
    if len(files) != 1:
        raise InputError(f"{output}: {len(files)} files of start structures given; expected one .xyz file")
    note = "Ours, not the paper's: first those that cover the elements, then the farthest from each other."
    draw_molecules(files[0], output, context.scale, note)
