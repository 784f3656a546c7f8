"""Figures and tables of the networks, by name. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelProduct:
    """A figure (png, svg, csv) or a table (html, csv).

    Attributes:
        file_name: without suffix.
        kind: figure or table.
        roles: which files it is made from: ``networks``, ``singularities``, ``runs``, ``histories``.
        in_paper: what it corresponds to in a paper, for the report's labels.
    """

    file_name: str
    kind: Literal["figure", "table"]
    roles: tuple[str, ...]
    in_paper: str = ""

    @property
    def trained(self) -> bool:
        """Whether networks have to be trained for it."""
        return "runs" in self.roles

    def paths(self, root: str) -> list[str]:
        """Paths of its files below ``root`` (results/<scale>/models); the first one is what the report shows."""
        suffixes = ("png", "svg", "csv") if self.kind == "figure" else ("html", "csv")
        return [f"{root}/{self.kind}s/{self.file_name}.{suffix}" for suffix in suffixes]


MODEL_PRODUCTS: Mapping[str, ModelProduct] = {
    "parameters": ModelProduct("parameters", "table", ("networks",)),
    "equivariance": ModelProduct("equivariance", "figure", ("networks",), "section 3.1 (Hedelius)"),
    "equivariance-table": ModelProduct("equivariance", "table", ("networks",), "section 3.1 (Hedelius)"),
    "gemnet-singularities": ModelProduct("gemnet-singularities", "figure", ("singularities",)),
    "training": ModelProduct("training", "figure", ("runs", "histories")),
    "training-table": ModelProduct("training", "table", ("runs",)),
}
