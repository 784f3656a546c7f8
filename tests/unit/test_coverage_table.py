"""The table of coverage by subpackage."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("coverage_table", Path(__file__).parents[1] / "coverage_table.py")
coverage_table = importlib.util.module_from_spec(_spec)
sys.modules["coverage_table"] = coverage_table
_spec.loader.exec_module(coverage_table)

FILES = {
    "workflow/src/mlip_studies/units.py": (10, 0),
    "workflow/src/mlip_studies/md/__init__.py": (0, 0),
    "workflow/src/mlip_studies/md/start.py": (40, 10),
    "workflow/src/mlip_studies/md/engine.py": (60, 30),
    "workflow/src/mlip_studies/data/readers/md17.py": (20, 1),
}


def test_rows_add_up_by_subpackage():
    rows = {row.name: row for row in coverage_table.summarise(FILES)}
    assert list(rows) == ["(top level)", "data", "md", "whole package"]
    assert (rows["md"].modules, rows["md"].statements, rows["md"].missed) == (3, 100, 40)
    assert rows["md"].percent == pytest.approx(60.0)
    assert rows["md"].lowest == "`md/engine.py` 50 %"
    assert rows["data"].lowest == "`data/readers/md17.py` 95 %"
    assert rows["whole package"].percent == pytest.approx(100.0 * 89 / 130)


def test_table_has_a_line_per_row():
    lines = coverage_table.table(coverage_table.summarise(FILES)).splitlines()
    assert len(lines) == 6 and "| md | 3 | 100 | 60.0 % | `md/engine.py` 50 % |" in lines


def test_text_between_the_marks_is_replaced():
    begin, end = coverage_table.MARKS
    once = coverage_table.insert(f"before\n{begin}\nold\n{end}\nafter\n", "new\n")
    assert once == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    assert coverage_table.insert(once, "new\n") == once


@pytest.mark.parametrize("document", ["none", "{end}\n{begin}", "{begin}\n{begin}\n{end}"])
def test_a_document_without_marks_is_refused(document):
    begin, end = coverage_table.MARKS
    with pytest.raises(ValueError, match="expected one line"):
        coverage_table.insert(document.format(begin=begin, end=end), "new\n")


def test_missing_data_are_one_line(tmp_path, capsys):
    assert coverage_table.main(["--data", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
