"""Figures and tables of the data sets, by name: what each is made from. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

# What a product can be made from: where it lies below results/<scale>/data. A role with {dataset} is read per data set.
ROLES: Mapping[str, str] = {
    "funnel": "{dataset}/funnel.csv",
    "self_energies": "{dataset}/self_energies.json",
    "summary": "{dataset}/summary.json",
    "split": "{dataset}/splits/{split}.json",
    "reference_energies": "reference_energies.csv",
    "table31": "table31.csv",
    "nbody": "nbody/nbody.npz",
}


@dataclass(frozen=True)
class Product:
    """A figure or a table.

    Attributes:
        name: file name without suffix; "-<dataset>" is added where there is one per data set.
        kind: figure (png, svg, csv) or table (html, csv).
        title: one line for the report and the page.
        inputs: roles of the files that it is made from (see ``ROLES``).
        caption: file below workflow/report/data.
        per_dataset: one product for each data set.
        in_paper: what it corresponds to in a paper, for the report's labels.
    """

    name: str
    kind: Literal["figure", "table"]
    title: str
    inputs: tuple[str, ...]
    caption: str
    per_dataset: bool = False
    in_paper: str = ""

    @property
    def folder(self) -> str:
        """Folder below results/<scale>/data."""
        return f"{self.kind}s"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of its files; the first one is what the report shows."""
        return ("png", "svg", "csv") if self.kind == "figure" else ("html", "csv")

    def file_name(self, dataset: str | None = None) -> str:
        """File name without suffix."""
        return f"{self.name}-{dataset}" if self.per_dataset else self.name

    def paths(self, root: str, dataset: str | None = None) -> list[str]:
        """Paths of its files below ``root`` (results/<scale>/data)."""
        return [f"{root}/{self.folder}/{self.file_name(dataset)}.{suffix}" for suffix in self.suffixes]

    def input_paths(
        self,
        root: str,
        datasets: Iterable[str] = (),
        splits: Mapping[str, str] | None = None,
        dataset: str | None = None,
    ) -> list[str]:
        """Paths of what it is made from.

        Args:
            root: results/<scale>/data.
            datasets: all data sets that are described.
            splits: named splits: name to data set.
            dataset: the data set of this product, where there is one per data set.
        """
        names = [dataset] if self.per_dataset and dataset else list(datasets)
        paths: list[str] = []
        for role in self.inputs:
            pattern = ROLES[role]
            if role == "split":
                paths += [f"{root}/{pattern.format(dataset=of, split=name)}" for name, of in (splits or {}).items()]
            elif "{dataset}" in pattern:
                paths += [f"{root}/{pattern.format(dataset=name)}" for name in names]
            else:
                paths.append(f"{root}/{pattern}")
        return paths


PRODUCTS: Mapping[str, Product] = {
    (product.name if product.kind == "figure" else f"table-{product.name}"): product
    for product in (
        Product(
            "funnel", "figure", "Rows left after each step of the selection", ("funnel",), "funnel.rst",
            per_dataset=True,
        ),
        Product(
            "funnel", "table", "Rows left after each step of the selection", ("funnel",), "funnel.rst",
            per_dataset=True,
        ),
        Product(
            "energies", "figure", "Energies before and after the per-element regression",
            ("self_energies", "summary"), "energies.rst", per_dataset=True,
        ),
        Product(
            "composition", "figure", "Composition, sizes, energies and forces", ("summary",), "composition.rst",
            per_dataset=True,
        ),
        Product(
            "self-energies", "figure", "Isolated-atom, fitted and published self energies",
            ("reference_energies", "self_energies"), "self-energies.rst",
        ),
        Product(
            "self-energies", "table", "Isolated-atom, fitted and published self energies",
            ("reference_energies", "self_energies"), "self-energies.rst",
        ),
        Product(
            "table3.1", "table", "Energies with and without self energies", ("table31",), "table3.1.rst",
            in_paper="Table 3.1 (Hedelius)",
        ),
        Product("splits", "table", "Named splits and what their parts share", ("split",), "splits.rst"),
        Product("overview", "table", "Data sets", ("summary",), "overview.rst"),
        Product(
            "nbody", "figure", "Charged particles", ("nbody",), "nbody.rst", in_paper="Figure 3.1 (Hedelius)",
        ),
    )
}  # fmt: skip
