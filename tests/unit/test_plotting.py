"""Style and saving of figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mlip_studies.errors import InputError
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import OKABE_ITO, RC, footer, panel_letters, paper_band, paper_line, style


def draw() -> tuple[Figure, pd.DataFrame]:
    tidy = pd.DataFrame({"x": [1, 2, 3], "y": [0.5, 0.25, 0.125]})
    with style():
        figure, axis = plt.subplots()
        axis.plot(tidy["x"], tidy["y"])
        paper_band(axis, 0.2, 0.3, "y")
        paper_line(axis, 2.0)
        axis.legend()
        panel_letters([axis])
        footer(figure, "mini scale · n = 3 seeds")
    return figure, tidy


def test_three_files_and_the_same_bytes_twice(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        figure, tidy = draw()
        paths = save_figure(figure, tidy, tmp_path / name / "figure.png")
        assert [path.suffix for path in paths] == [".png", ".svg", ".csv"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    svg = written[0][1].decode()
    assert "<dc:date>" not in svg
    assert written[0][2] == b"x,y\n1,0.5\n2,0.25\n3,0.125\n"


def test_png_has_200_dpi(tmp_path: Path) -> None:
    figure, tidy = draw()
    width = figure.get_size_inches()[0]
    path = save_figure(figure, tidy, tmp_path / "figure.png")[0]
    assert plt.imread(path).shape[1] == round(width * 200)


def test_a_failed_save_leaves_nothing_and_closes(tmp_path: Path) -> None:
    figure, tidy = draw()
    figure.savefig = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("disk"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="disk"):
        save_figure(figure, tidy, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
    assert not plt.fignum_exists(figure.number)


def test_what_is_cut_off_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, tidy = draw()
    save_figure(figure, tidy, tmp_path / "whole.png")
    assert capsys.readouterr().out == ""
    figure, tidy = draw()
    figure.axes[0].set_xlabel("a quantity with a name that is far too long for the axis that it stands below " * 2)
    save_figure(figure, tidy, tmp_path / "cut.png")
    told = f"warning: {tmp_path / 'cut.png'}: something is cut off at the edge: left, right\n"
    assert capsys.readouterr().out == told


def test_only_png_names(tmp_path: Path) -> None:
    figure, tidy = draw()
    with pytest.raises(InputError, match=r"\.png"):
        save_figure(figure, tidy, tmp_path / "figure.pdf")
    plt.close(figure)


def test_paper_marks_are_labelled_and_style_stays_local() -> None:
    before = plt.rcParams["font.size"]
    figure, _ = draw()
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["thesis (text)", "thesis (text)"]
    plt.close(figure)
    assert plt.rcParams["font.size"] == before


def test_fonts_are_legible_and_colors_differ() -> None:
    assert all(value >= 9 for key, value in RC.items() if key.endswith("size") and isinstance(value, int | float))

    def luminance(color: str) -> float:
        red, green, blue = to_rgb(color)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert len(set(OKABE_ITO.values())) == len(OKABE_ITO)
    assert max(luminance(color) for color in OKABE_ITO.values()) < 0.75
