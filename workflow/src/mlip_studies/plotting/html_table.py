"""Tables as self-contained HTML pages: sortable by click and by keyboard, readable on a phone, light and dark."""

from __future__ import annotations

import html
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlip_studies.artifacts import PathLike, atomic_path, write_text

CellClass = Callable[[str, Any], str | None]

_CSS = """
:root { color-scheme: light dark; --text: #1b1b1b; --back: #ffffff; --muted: #595959; --line: #d0d0d0;
  --head: #f0f2f4; --stripe: #f8f9fa; --good: #0b6b4f; --good-back: #dff3ec; --bad: #9c2f00; --bad-back: #fbe6dc;
  --open: #6b5300; --open-back: #fbf1cf; --none: #555555; --none-back: #ececec; --focus: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --back: #16181b; --muted: #b0b0b0; --line: #40454b;
  --head: #23272c; --stripe: #1b1e22; --good: #7fdcbb; --good-back: #123a2e; --bad: #ffb08a; --bad-back: #4a2110;
  --open: #f2d675; --open-back: #3d3310; --none: #c0c0c0; --none-back: #2f3338; --focus: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--text); background: var(--back); }
h1 { font-size: 1.2rem; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
p, ul { max-width: 60rem; margin: .3rem 0 .8rem; }
li { margin: .3rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid var(--line); border-radius: 6px; }
.scroll + .scroll { margin-top: 1.2rem; }
.scroll:focus-visible, th button:focus-visible { outline: 3px solid var(--focus); outline-offset: -3px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .6rem .7rem; color: var(--muted); }
caption span { display: block; position: sticky; left: .7rem; max-width: min(60rem, calc(100vw - 4rem)); }
th, td { padding: .4rem .7rem; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--head); padding: 0; white-space: nowrap; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: .45rem .7rem;
  width: 100%; text-align: inherit; cursor: pointer; }
th button::after { content: "\\2195"; opacity: .35; margin-left: .35em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { min-width: 6rem; max-width: 26rem; }
td.long { min-width: 15rem; }
tbody tr:nth-child(even) { background: var(--stripe); }
.good, .bad, .open, .none { border-radius: 4px; padding: .05rem .35rem; font-weight: 600; display: inline-block; }
.good { color: var(--good); background: var(--good-back); } .bad { color: var(--bad); background: var(--bad-back); }
.open { color: var(--open); background: var(--open-back); } .none { color: var(--none); background: var(--none-back); }
@media (max-width: 40rem) { body { padding: .6rem; }
  table.cards thead { position: absolute; left: -9999px; } table.cards, .cards tbody, .cards tr, .cards td,
  .cards caption { display: block; width: 100%; max-width: none; min-width: 0; }
  .cards tr { border-top: 2px solid var(--line); padding: .4rem 0; }
  .cards td { border: 0; padding: .15rem .7rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
  .cards td::before { content: attr(data-label) ": "; color: var(--muted); font-weight: 600; }
  .cards td:empty { display: none; } }
"""

# Numbers sort by value, texts by locale; empty cells stay last in both directions. Buttons bring Enter and Space.
_JS = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = table.tHead.rows[0].cells;
  Array.prototype.forEach.call(heads, function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      Array.prototype.forEach.call(heads, function (other) { other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var numeric = head.classList.contains("number"), body = table.tBodies[0];
      Array.prototype.slice.call(body.rows).sort(function (a, b) {
        var x = a.cells[column].dataset.sort, y = b.cells[column].dataset.sort;
        if (x === "" || y === "") { return (x === "") - (y === ""); }
        var order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, {numeric: true});
        return down ? -order : order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
// Inside a report the files beside the page are not there.
if (location.protocol === "data:" || location.protocol === "blob:" || location.protocol === "about:") {
  document.querySelectorAll("a.file").forEach(function (link) { link.removeAttribute("href"); });
} else if (location.pathname.indexOf("/data/raw/") >= 0) {
  // A zipped report: each page lies in a folder of its own.
  document.querySelectorAll("a.file").forEach(function (link) {
    if (link.dataset.report) { link.setAttribute("href", link.dataset.report); } else { link.removeAttribute("href"); }
  });
}
"""


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def format_value(value: Any) -> str:
    """A cell's text: integers with thin spaces, floats with four significant digits, missing values empty."""
    if _is_missing(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}".replace(",", "\u202f")
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isinf(number):
            return "∞" if number > 0 else "−∞"
        if number != 0 and not 1e-3 <= abs(number) < 1e5:
            return f"{number:.3e}".replace("-", "−")
        return f"{number:.4g}".replace("-", "−")
    return str(value)


def _sort_key(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, numbers.Real):
        return repr(float(value))
    return str(value)


def _list_or_paragraph(heading: str, content: str | Sequence[str]) -> str:
    head = f"<h2>{html.escape(heading)}</h2>\n" if heading else ""
    if isinstance(content, str):
        return f"{head}<p>{html.escape(content)}</p>\n"
    items = "".join(f"<li>{html.escape(item)}</li>\n" for item in content)
    return f"{head}<ul>\n{items}</ul>\n" if items else ""


def render_table(
    frame: pd.DataFrame,
    name: str,
    caption: str = "",
    *,
    headings: Mapping[str, str] | None = None,
    cell_class: CellClass | None = None,
    cards: bool = False,
) -> str:
    """Render a table as a part of a page made by :func:`render_html_table`; arguments as there.

    Args:
        frame: the table; its index is not shown.
        name: what the table is called for those who do not see it.
        caption: see :func:`render_html_table`.
        headings: see :func:`render_html_table`.
        cell_class: see :func:`render_html_table`.
        cards: see :func:`render_html_table`.
    """
    headings = headings or {}
    columns = [str(column) for column in frame.columns]
    numeric = {
        column: pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column])
        for column in frame.columns
    }
    head = "".join(
        f'<th scope="col" aria-sort="none" class="{"number" if numeric[column] else "text"}">'
        f'<button type="button">{html.escape(headings.get(column, column))}</button></th>'
        for column in columns
    )
    rows = []
    for record in frame.itertuples(index=False, name=None):
        cells = []
        for column, value in zip(columns, record, strict=True):
            text = html.escape(format_value(value))
            mark = cell_class(column, value) if cell_class and text else None
            kind = "number" if numeric[column] else "text long" if len(text) > 60 else "text"
            cells.append(
                f'<td class="{kind}" data-label="{html.escape(headings.get(column, column))}" '
                f'data-sort="{html.escape(_sort_key(value))}">'
                + (f'<span class="{mark}">{text}</span>' if mark else text)
                + "</td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">\n'
        f'<table class="sortable{" cards" if cards else ""}">\n'
        f"<caption><span>{html.escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody>\n</table>\n</div>\n"
    )


def render_html_table(
    frame: pd.DataFrame,
    title: str,
    caption: str = "",
    *,
    headings: Mapping[str, str] | None = None,
    cell_class: CellClass | None = None,
    cards: bool = False,
    hidden: Sequence[str] = (),
    before: str = "",
    first: str = "",
    after: Mapping[str, str | Sequence[str]] | None = None,
) -> str:
    """Render a table as a page without external references.

    Args:
        frame: the table; its index is not shown.
        title: title of the page.
        caption: caption of the table: what is shown, at which scale, how many runs.
        headings: column headings by column name, with units.
        cell_class: gives "good", "bad", "open" or "none" to cells to be coloured (their text must say the same).
        cards: on a narrow screen each row becomes a card, for tables with many text columns.
        hidden: columns that are left out of the page (the CSV file has them all).
        before: a paragraph above the table.
        first: another table above it, made by :func:`render_table`.
        after: sections below it: heading to paragraph or list.

    Returns:
        the page.
    """
    table = render_table(
        frame.drop(columns=list(hidden)), title, caption, headings=headings, cell_class=cell_class, cards=cards
    )
    sections = "".join(_list_or_paragraph(heading, content) for heading, content in (after or {}).items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n{_list_or_paragraph('', before) if before else ''}{first}"
        f"{table}{sections}</main>\n<script>{_JS}</script>\n</body>\n</html>\n"
    )


def write_html_table(
    frame: pd.DataFrame,
    path_html: PathLike,
    title: str,
    caption: str = "",
    *,
    headings: Mapping[str, str] | None = None,
    cell_class: CellClass | None = None,
    cards: bool = False,
    hidden: Sequence[str] = (),
    before: str = "",
    after: Mapping[str, str | Sequence[str]] | None = None,
) -> list[Path]:
    """Write the page and, beside it, the same table as CSV with its column names; arguments as for rendering.

    Returns:
        the paths of the page and of the CSV file.
    """
    path = Path(path_html)
    page = render_html_table(
        frame,
        title,
        caption,
        headings=headings,
        cell_class=cell_class,
        cards=cards,
        hidden=hidden,
        before=before,
        after=after,
    )
    write_text(path, page)
    with atomic_path(path.with_suffix(".csv")) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    return [path, path.with_suffix(".csv")]
