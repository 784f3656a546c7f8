"""Names and sentences that hold markup, in every kind of page: shown as they are, never run."""

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import test_claims

from mlip_studies.claims.table import write
from mlip_studies.plotting.html_table import render_html_table, render_table
from mlip_studies.studies.ortiz_tables import HEADINGS, with_links
from mlip_studies.studies.outlier_structures import Outlier, to_page

MARK = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><!--<script></script>-->'\"&"
SPLIT = "</title></style></textarea><svg onload=alert(1)>"
HOSTILE = MARK + SPLIT


class Page(HTMLParser):
    """Tags and attributes of a page; scripts by kind, with what they hold."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.handlers, self.scripts, self.text, self._inside = [], [], [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag == "script":
            self.scripts.append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "script"

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def outlier_page(text, folder):
    positions, zeros = np.array([[0.0, 0, 0], [0.0, 0, 0.74]]), np.zeros((2, 3))
    facts = {"group": text, "smiles": text, "subset": text}
    return to_page([Outlier(0, text, facts, np.array([1, 1]), positions, zeros, zeros + 1.0)], text)


def table_page(text, folder):
    frame = pd.DataFrame({text: [text, "x"], "number": [1.0, 2.0]})
    return render_html_table(
        frame, text, text, headings={"number": text}, cell_class=lambda column, value: "good", cards=True, before=text,
        first=render_table(frame, text, text), after={text: text, f"{text} 2": [text]},
    )  # fmt: skip


def scorecard_page(text, folder):
    """The table of potentials against tests, whose figures and curves are links."""
    row = dict.fromkeys(HEADINGS, text)
    return with_links(render_html_table(pd.DataFrame([row]), "Scorecard", headings=HEADINGS, cards=True))


def verdicts_page(text, folder):
    entry = {"id": "one", "sentence": text, "quantity": text, "unit": text, "reason": text, "place": text, "note": text}
    claims = test_claims.claims_of(folder, entry)
    outcome = test_claims.judged(folder, entry, [])
    return write(claims, [outcome], folder / "verdicts.html")[0].read_text(encoding="utf-8")


PAGES = {"outliers": outlier_page, "table": table_page, "scorecard": scorecard_page, "verdicts": verdicts_page}


@pytest.mark.parametrize("kind", PAGES)
def test_markup_in_names_is_text(tmp_path, kind):
    plain, page = PAGES[kind]("harmless", tmp_path), PAGES[kind](HOSTILE, tmp_path)
    expected, found = Page(plain), Page(page)
    # The same elements, and no handler, whatever the names are.
    assert found.tags == expected.tags
    assert found.handlers == [] == expected.handlers
    assert "onerror" in page  # the name itself is there, as text
    # Between <script> and </script> a browser also looks for the beginning of a comment: no "<" at all in data.
    assert len(found.scripts) == len(expected.scripts)
    for script, harmless in zip(found.scripts, expected.scripts, strict=True):
        if script != harmless:
            assert "<" not in script
            assert HOSTILE in json.loads(script)[0]["text"]
    if kind != "outliers":
        assert any(HOSTILE in text for text in found.text)


def test_the_harm_is_real():
    """Pasted into a page without care, the name brings elements and handlers."""
    page = Page(f"<!DOCTYPE html><html><body><p>{HOSTILE}</p></body></html>")
    assert "script" in page.tags and "onerror" in page.handlers and "onload" in page.handlers
