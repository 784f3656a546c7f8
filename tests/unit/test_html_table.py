"""Tables as self-contained pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlip_studies.plotting.html_table import format_value, render_html_table, write_html_table

FRAME = pd.DataFrame(
    {
        "mix": ["20k/20k", "<b>&", None],
        "rmse_mev": [12.3456, np.nan, -0.5],
        "rows": [160000, 20, 3],
        "verdict": ["reproduced", "contradicted", ""],
    }
)


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of cells."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_page_is_well_formed_and_escaped() -> None:
    page = Page(render_html_table(FRAME, "A <title>", "caption & more", headings={"rmse_mev": "RMSE (meV)"}))
    assert page.cells[:4] == ["20k/20k", "12.35", "160\u202f000", "reproduced"]
    assert page.cells[4:6] == ["<b>&", ""]
    assert page.cells[9] == "−0.5"


def test_page_needs_nothing_else_and_fits_a_phone() -> None:
    text = render_html_table(FRAME, "t", "c")
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://", text)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "overflow-x: auto" in text
    assert "prefers-color-scheme: dark" in text


def test_every_column_sorts_by_value_with_a_button() -> None:
    page = Page(render_html_table(FRAME, "t"))
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert [head["aria-sort"] for head in heads] == ["none"] * 4
    assert [head["class"] for head in heads] == ["text", "number", "number", "text"]
    assert sum(tag == "button" for tag, _ in page.tags) == 4
    keys = [attributes["data-sort"] for tag, attributes in page.tags if tag == "td"]
    assert keys[1::4] == ["12.3456", "", "-0.5"]
    assert sorted(keys[2::4], key=float) == ["3.0", "20.0", "160000.0"]


def test_cells_are_marked_and_columns_hidden_in_the_page_only(tmp_path: Path) -> None:
    marks = {"reproduced": "good", "contradicted": "bad"}
    path, path_csv = write_html_table(
        FRAME,
        tmp_path / "t.html",
        "t",
        cell_class=lambda column, value: marks.get(value) if column == "verdict" else None,
        cards=True,
        hidden=["rows"],
        before="first",
        after={"Notes": ["one < two"], "Empty": []},
    )
    text = path.read_text()
    assert '<span class="good">reproduced</span>' in text
    assert '<span class="bad">contradicted</span>' in text
    assert 'data-label="rows"' not in text
    assert "<li>one &lt; two</li>" in text
    assert "Empty" not in text
    Page(text)
    assert list(pd.read_csv(path_csv).columns) == list(FRAME.columns)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (float("nan"), ""), (pd.NA, ""), (True, "yes"), (1234567, "1\u202f234\u202f567"), (0.0, "0"),
        (1.5e-5, "1.500e−05"), (123456.0, "1.235e+05"), (np.float64(-2.25), "−2.25"), (float("inf"), "∞"), ("a", "a"),
    ],
)  # fmt: skip
def test_numbers_are_readable(value: object, text: str) -> None:
    assert format_value(value) == text


def test_same_table_same_bytes() -> None:
    assert render_html_table(FRAME, "t", "c") == render_html_table(FRAME.copy(), "t", "c")
