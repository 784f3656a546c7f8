"""Figures and tables over all studies, and which files they are made from. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: heading in the report
CATEGORY = "All studies"
#: files of each product below the folder of all studies
PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "claims": ("tables/claims{suffix}.html", "tables/claims{suffix}.csv", "tables/claims{suffix}.json"),
    "summary": ("figures/summary{suffix}.png", "figures/summary{suffix}.svg", "figures/summary{suffix}.csv"),
    "regression": (
        "figures/regression{suffix}.png", "tables/regression{suffix}.html", "figures/regression{suffix}.svg",
        "figures/regression{suffix}.csv", "tables/regression{suffix}.csv",
    ),
    "matrix": (
        "tables/matrix{suffix}.html", "figures/matrix{suffix}.png", "figures/matrix{suffix}.svg",
        "figures/matrix{suffix}.csv", "tables/matrix{suffix}.csv",
    ),
}  # fmt: skip
#: of the runs' tables those that a product reads
_READ_BY: Mapping[str, tuple[str, ...]] = {
    "regression": ("runs.csv",),
    "matrix": ("runs.csv", "replicas.csv", "robustness.csv", "summary.json", "speed.csv"),
}


def paths(product: str, out: str, suffix: str = "") -> list[str]:
    """Files of a product; those that the report shows (png and html) come first.

    Args:
        product: claims, summary, regression or matrix.
        out: folder of the results of all studies.
        suffix: "" for what the demo makes, "-all" for everything.
    """
    return [f"{out}/{name.format(suffix=suffix)}" for name in PRODUCTS[product]]


def chosen(product: str, files: Iterable[str]) -> list[str]:
    """Of the tidy files of the studies those that a product reads, sorted, each once.

    Args:
        product: regression or matrix.
        files: all tidy files that the verdicts are judged on.
    """
    return sorted({path for path in files if path.rpartition("/")[2] in _READ_BY[product]})
