"""Saving of figures: PNG, SVG and the tidy numbers behind them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import imread

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.errors import InputError
from mlip_studies.plotting.style import style

DPI = 200
#: width in pixels of the border that must stay empty, and the darkest value there (white: 1)
_BORDER, _EMPTY = 2, 0.97


def cut_edges(path_png: PathLike) -> list[str]:
    """Edges of a figure at which something is drawn, so that the rest of it may be cut off.

    Args:
        path_png: the figure, on white.
    """
    pixels = imread(str(path_png))[..., :3]
    borders = {
        "left": pixels[:, :_BORDER],
        "right": pixels[:, -_BORDER:],
        "upper": pixels[:_BORDER],
        "lower": pixels[-_BORDER:],
    }
    return [edge for edge, border in borders.items() if border.min() < _EMPTY]


def save_figure(figure: Figure, tidy: pd.DataFrame, path_png: PathLike) -> list[Path]:
    """Write <name>.png (200 dpi), <name>.svg and <name>.csv, each atomically, and close the figure.

    No date or version goes into the files, so that the same numbers give the same bytes. What is cut off at
    an edge (a long name) is told by a line in the log.

    Args:
        figure: the figure.
        tidy: every number that is drawn, one observation per row.
        path_png: path of the PNG file.

    Returns:
        the three paths.
    """
    path = Path(path_png)
    if path.suffix != ".png":
        raise InputError(f"{path}: a figure is named by its .png file; change the suffix")
    paths = [path, path.with_suffix(".svg"), path.with_suffix(".csv")]
    try:
        with style():
            with atomic_path(paths[0]) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
                cut = cut_edges(temporary)
            if cut:
                print(f"warning: {path}: something is cut off at the edge: {', '.join(cut)}", flush=True)
            with atomic_path(paths[1]) as temporary:
                figure.savefig(temporary, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        with atomic_path(paths[2]) as temporary:
            tidy.to_csv(temporary, index=False, lineterminator="\n")
    finally:
        plt.close(figure)
    return paths
