"""Table of the tests' coverage by subpackage, from the data of `make coverage`; into a document where asked.

python tests/coverage_table.py                              # print it
python tests/coverage_table.py --document docs/testing.md   # and put it between the document's two marks
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

PACKAGE = "workflow/src/mlip_studies/"
MARKS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")


class Row(NamedTuple):
    """One subpackage: its modules, statements and those that no test ran, and the least covered module."""

    name: str
    modules: int
    statements: int
    missed: int
    lowest: str

    @property
    def percent(self) -> float:
        """Statements that ran, per cent; 100 where there are none."""
        return 100.0 * (1.0 - self.missed / self.statements) if self.statements else 100.0


def summarise(files: dict[str, tuple[int, int]]) -> list[Row]:
    """One row per subpackage in alphabetical order, then the whole.

    Args:
        files: (statements, missed) of each module by its path, relative to the checkout.
    """
    groups: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for path, (statements, missed) in sorted(files.items()):
        inside = path.replace(os.sep, "/").split(PACKAGE)[-1]
        folder, _, rest = inside.partition("/")
        groups[folder if rest else "(top level)"].append((inside, statements, missed))
    rows = [_row(name, modules) for name, modules in sorted(groups.items())]
    return [*rows, _row("whole package", [module for modules in groups.values() for module in modules])]


def _row(name: str, modules: list[tuple[str, int, int]]) -> Row:
    some = [module for module in modules if module[1]]
    lowest = ""
    if some:
        path, statements, missed = max(some, key=lambda module: module[2] / module[1])
        lowest = f"`{path}` {100.0 * (1.0 - missed / statements):.0f} %"
    return Row(name, len(modules), sum(m[1] for m in modules), sum(m[2] for m in modules), lowest)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| subpackage | modules | statements | run by tests | least covered |", "|---|---:|---:|---:|---|"]
    lines += [f"| {row.name} | {row.modules} | {row.statements} | {row.percent:.1f} % | {row.lowest} |" for row in rows]
    return "\n".join(lines) + "\n"


def measured(data_file: Path) -> dict[str, tuple[int, int]]:
    """Statements and missed statements of every module, from a file of coverage.py."""
    import coverage

    measurement = coverage.Coverage(data_file=str(data_file))
    measurement.load()
    files = {}
    for path in sorted(Path(PACKAGE).rglob("*.py")):
        _, statements, _, missing, _ = measurement.analysis2(str(path.resolve()))
        files[path.as_posix()] = (len(statements), len(missing))
    return files


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def heading(data_file: Path) -> str:
    """When, with what command and where the data were taken."""
    day = datetime.fromtimestamp(data_file.stat().st_mtime, tz=UTC).date()
    where = f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}"
    return f"Measured on {day} by `make coverage` on {where}.\n"


def insert(document: str, text: str) -> str:
    """The document with a text between its two marks.

    Raises:
        ValueError: the marks are not there, once and in order.
    """
    begin, end = MARKS
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"expected one line {begin} and after it one line {end}")
    return f"{document.split(begin)[0]}{begin}\n\n{text}\n{end}{document.split(end)[1]}"


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("results/.coverage"), help="data (default: %(default)s)")
    parser.add_argument("--document", type=Path, help="Markdown file with the two marks")
    args = parser.parse_args(argv)
    if not args.data.is_file():
        print(f"{args.data}: no data of coverage; run make coverage", file=sys.stderr)
        return 2
    text = f"{heading(args.data)}\n{table(summarise(measured(args.data)))}"
    print(text)
    if args.document is not None:
        try:
            args.document.write_text(insert(args.document.read_text(encoding="utf-8"), text), encoding="utf-8")
        except (OSError, ValueError) as error:
            print(f"{args.document}: {error}; name a Markdown file with both marks", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
