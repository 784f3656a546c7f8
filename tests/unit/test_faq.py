"""The lines that docs/faq.md quotes are those that the programs print."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import snakemake
import snakemake_executor_plugin_slurm

ROOT = Path(__file__).parents[2]
FAQ = ROOT / "docs" / "faq.md"
#: where the programs' own text lies
SOURCES = (
    ROOT / "workflow" / "src" / "mlip_studies",
    Path(snakemake.__file__).parent,
    Path(snakemake_executor_plugin_slurm.__file__).parent,
)


def quoted():
    """Every line of every block of printed text."""
    blocks = re.findall(r"^```text\n(.*?)^```$", FAQ.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def pieces(line):
    """The constant text between the places of names and numbers."""
    return [piece for piece in (part.strip() for part in line.split("…")) if re.search(r"\w{2}", piece)]


def template(node):
    """Text of a string in a program, with … in place of values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w*\}", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


@cache
def printed():
    """All strings of the programs; those in files that no parser reads as they stand there."""
    texts = []
    for source in SOURCES:
        for path in source.rglob("*.py"):
            texts += [template(node) for node in ast.walk(ast.parse(path.read_text())) if template(node)]
    for path in (ROOT / "workflow" / "rules").rglob("*.smk"):
        joined = re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        texts += [re.sub(r"\{[^{}]*\}", "…", text) for text in re.findall(r'f?"([^"\n]+)"', joined)]
    return texts


def test_there_are_lines_to_check():
    assert len(quoted()) > 20


@pytest.mark.parametrize("line", quoted())
def test_quoted_line_is_printed(line):
    wanted = pieces(line)
    assert wanted, "nothing but names and numbers"
    pattern = re.compile(".*".join(re.escape(piece) for piece in wanted), re.DOTALL)
    assert any(pattern.search(text) for text in printed()), line


@pytest.mark.parametrize("name", ["faq.md", "cluster.md"])
def test_links_lead_to_files(name):
    page = ROOT / "docs" / name
    links = re.findall(r"\]\(([a-z_]+\.md)\)", page.read_text())
    assert links
    for link in links:
        assert (page.parent / link).is_file(), link
    for path in re.findall(r"`((?:workflow|config|tests|envs)/[\w./-]+\.\w+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["faq.md", "cluster.md"])
def test_make_targets_of_the_pages_exist(name):
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", (ROOT / "docs" / name).read_text()))
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert named & targets
    # Prose also has "make that", which is no command: only what stands in code counts.
    code = set(re.findall(r"`[^`\n]*\bmake ([a-z][a-z-]+)", (ROOT / "docs" / name).read_text()))
    assert code <= targets
