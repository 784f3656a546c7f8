"""Energies per element side by side: isolated atoms, published self energies, and our own linear fits.

Also the statistics of total energies before and after self energies are subtracted, as in Table 3.1 of B. E. Hedelius,
Learning inter-atomic forces with an SE(3)-Transformer, Brigham Young University (2021).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.config import read_yaml, validate
from mlip_studies.data.readers import ENERGY_UNITS
from mlip_studies.data.self_energies import Moments, energy_chunks
from mlip_studies.data.store import Store
from mlip_studies.elements import number, symbol, symbols
from mlip_studies.errors import InputError
from mlip_studies.units import HARTREE_TO_EV

if TYPE_CHECKING:
    import pandas

KINDS = {"isolated_atom": "isolated atom", "linear_fit": "linear fit, published"}
OUR_FIT = "linear fit, ours"
OUR_ATOM = "isolated atom, ours"
COLUMNS = ("dataset", "fidelity", "level", "element", "kind", "energy_ev", "standard_error_ev", "source")
TABLE_COLUMNS = (
    "row", "dataset", "fidelity", "energies", "self_energies", "n_rows", "mean_hartree", "std_hartree",
    "paper_label", "paper_mean_hartree", "paper_std_hartree",
)  # fmt: skip
_ATOM_COLUMNS = ("level", "element", "charge", "energy_ev", "converged")


@dataclass(frozen=True)
class PublishedEnergies:
    """Energies per element out of a publication.

    Attributes:
        name: key in config/self_energies.yaml.
        title: what the numbers are.
        kind: ``isolated_atom`` or ``linear_fit``.
        level: level of theory as the source states it.
        source: where the numbers are printed.
        fidelity: the label that they belong to.
        datasets: patterns of data set names that they are compared with.
        energies_ev: atomic number to energy, eV.
        remark: what to know before using them.
    """

    name: str
    title: str
    kind: str
    level: str
    source: str
    fidelity: str
    datasets: tuple[str, ...]
    energies_ev: dict[int, float]
    remark: str = ""

    def belongs_to(self, dataset: str, fidelity: str) -> bool:
        """Whether the numbers are compared with this fidelity of this data set."""
        return fidelity == self.fidelity and any(fnmatchcase(dataset, pattern) for pattern in self.datasets)


@dataclass(frozen=True)
class ReferenceEnergies:
    """The content of config/self_energies.yaml.

    Attributes:
        published: published energies by name.
        isolated_atoms: fidelity to the level of our own isolated atoms.
        table31: rows of Table 3.1 and its source.
    """

    published: dict[str, PublishedEnergies]
    isolated_atoms: dict[str, str]
    table31: dict[str, Any]


def load_reference_energies(path: PathLike, schema: PathLike) -> ReferenceEnergies:
    """Read and check config/self_energies.yaml.

    Args:
        path: the file.
        schema: workflow/schemas/self_energies.schema.yaml.

    Raises:
        InputError: missing, or a key that is unknown or wrong.
    """
    path = Path(path)
    label = f"{path.parent.name}/{path.name}"
    content = read_yaml(path)
    validate(content, Path(schema), label)
    published = {}
    for name, entry in content["published"].items():
        factor = ENERGY_UNITS[entry["unit"]]
        try:
            energies = {number(element): factor * value for element, value in entry["energies"].items()}
        except InputError as error:
            raise InputError(f"{label}: key 'published.{name}.energies': {error}") from None
        published[name] = PublishedEnergies(
            name, entry["title"], entry["kind"], entry["level"], entry["source"], entry["fidelity"],
            tuple(entry["datasets"]), energies, entry.get("remark", ""),
        )  # fmt: skip
    for row, entry in content["table31"]["rows"].items():
        for name in entry["published"]:
            if name not in published:
                raise InputError(
                    f"{label}: key 'table31.rows.{row}.published': {name!r} is not among {', '.join(published)}"
                )
    return ReferenceEnergies(published, content["isolated_atoms"], content["table31"])


def load_isolated_atoms(path: PathLike) -> dict[str, dict[int, float]]:
    """Our own isolated atoms: energies (eV) of the neutral, converged ones, per level and atomic number.

    Args:
        path: csv with the columns level, element, charge, energy_ev and converged.

    Raises:
        InputError: missing, changed, or without these columns.
    """
    import pandas

    path = require(path)
    try:
        table = pandas.read_csv(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a csv file ({str(error).splitlines()[0]}); make it again") from None
    missing = [name for name in _ATOM_COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; expected {', '.join(_ATOM_COLUMNS)}")
    converged = table["converged"].astype(str).str.strip().str.lower().isin(["true", "1", "1.0", "yes"])
    result: dict[str, dict[int, float]] = {}
    kept = table[converged & (table["charge"] == 0)]
    for level, element, energy in zip(kept["level"], kept["element"], kept["energy_ev"], strict=True):
        result.setdefault(str(level).lower(), {})[number(str(element))] = float(energy)
    return result


def comparison_table(
    reference: ReferenceEnergies,
    fits: Iterable[Mapping[str, Any]],
    levels: Mapping[str, Mapping[str, str]] | None = None,
    isolated_atoms: Mapping[str, Mapping[int, float]] | None = None,
) -> pandas.DataFrame:
    """All energies per element of the given data sets, one per line.

    Args:
        reference: published energies.
        fits: our regressions (see :func:`mlip_studies.data.self_energies.regress_store`), one per data set.
        levels: per data set and fidelity the level of theory as captions print it; the fidelity's name by default.
        isolated_atoms: our own atoms (see :func:`load_isolated_atoms`).

    Returns:
        the columns of ``COLUMNS``. ``kind`` is one of ``isolated atom``, ``linear fit, published``,
        ``linear fit, ours`` and ``isolated atom, ours``. Only elements that the data set holds are listed.
        ``standard_error_ev`` is given for our fits: the clustered one, or the textbook one where that does not exist.
    """
    import pandas

    lines: list[tuple[Any, ...]] = []
    for fit in fits:
        dataset = fit["dataset"]
        for fidelity, result in fit["fidelities"].items():
            level = (levels or {}).get(dataset, {}).get(fidelity, fidelity)
            elements = result["elements"]
            errors = result.get("standard_error_clustered_ev") or result["standard_error_ev"]
            determined = result.get("determined") or [True] * len(elements)
            source = f"least squares on {result['n_rows']} rows ({fit['rows']})"
            for z, energy, error, fixed in zip(elements, result["coefficients_ev"], errors, determined, strict=True):
                how = source if fixed else f"{source}, not determined on its own: least norm"
                lines.append((dataset, fidelity, level, symbol(z), OUR_FIT, energy, error, how))
            for entry in reference.published.values():
                if entry.belongs_to(dataset, fidelity):
                    for z in elements:
                        if z in entry.energies_ev:
                            lines.append(
                                (dataset, fidelity, entry.level, symbol(z), KINDS[entry.kind], entry.energies_ev[z],
                                 np.nan, entry.source)
                            )  # fmt: skip
            own = reference.isolated_atoms.get(fidelity, "")
            for z, energy in (isolated_atoms or {}).get(own.lower(), {}).items():
                if z in elements:
                    lines.append((dataset, fidelity, own, symbol(z), OUR_ATOM, energy, np.nan, "isolated_atoms.csv"))
    return pandas.DataFrame(lines, columns=list(COLUMNS))


def residual_statistics(
    store: Store, fidelity: str, energies_ev: Mapping[int, float], rows: ArrayLike | None = None
) -> dict[str, Any]:
    """Mean and spread of the total energies less given self energies, in one pass.

    Args:
        store: the data.
        fidelity: the label.
        energies_ev: atomic number to energy, eV.
        rows: row numbers, shape (n,); all if None. Rows without the label are passed over.

    Returns:
        ``n_rows``, ``mean_ev`` and ``std_ev`` (population standard deviation).

    Raises:
        InputError: an element of the store has no energy, or no row has the label.
    """
    # Elements without an energy may be declared as long as no row holds them.
    elements = [z for z in store.elements if z in energies_ev]
    if not elements:
        raise InputError(f"{store.path}: no self energy for any of {', '.join(symbols(store.elements))}")
    energies = np.array([energies_ev[z] for z in elements])
    moments = Moments()
    for x, y, _ in energy_chunks(store, fidelity, elements, rows):
        moments.add(y - x @ energies)
    if moments.n == 0:
        raise InputError(f"{store.path}: no rows with the label {fidelity!r}")
    return {"n_rows": moments.n, "mean_ev": moments.mean, "std_ev": moments.std}


def table31(
    reference: ReferenceEnergies, stores: Mapping[str, Store], fits: Mapping[str, Mapping[str, Any]]
) -> pandas.DataFrame:
    """Table 3.1: mean and standard deviation of the energies as they are and less self energies, in hartree.

    Args:
        reference: the rows of the table with the thesis's numbers, and the published self energies.
        stores: the data set of each row, by the row's name (ANI-1, ANI-1x).
        fits: our regression on each of them, by the same names.

    Returns:
        the columns of ``TABLE_COLUMNS``. ``energies`` is ``as they are``, ``less linear fit, ours`` or ``less
        <published>``; every line without self energies stands beside the thesis's one number for that.

    Raises:
        InputError: a row without a store or a fit, or a data set without the label.
    """
    import pandas

    lines = []
    for name, row in reference.table31["rows"].items():
        if name not in stores or name not in fits:
            raise InputError(f"table 3.1: no data set for {name}; set table31.{name} in config/data.yaml")
        store, fidelity = stores[name], row["fidelity"]
        fit = fits[name]["fidelities"].get(fidelity)
        if fit is None:
            raise InputError(f"table 3.1: {fits[name]['dataset']} has no regression of {fidelity!r}; run it again")
        head = (name, fits[name]["dataset"], fidelity)
        before, after = row["before"], row["after"]

        def line(
            what: str, by: str, n_rows: int, numbers: Mapping[str, float], paper: Mapping[str, Any],
            head: tuple[str, ...] = head,
        ) -> tuple[Any, ...]:  # fmt: skip
            mean, std = numbers["mean_ev"] / HARTREE_TO_EV, numbers["std_ev"] / HARTREE_TO_EV
            return (*head, what, by, n_rows, mean, std, paper["label"], paper["mean_hartree"], paper["std_hartree"])

        lines.append(line("as they are", "none", fit["n_rows"], fit["before"], before))
        lines.append(line(f"less {OUR_FIT}", f"fit on {fits[name]['rows']} rows", fit["n_rows"], fit["after"], after))
        for key in row["published"]:
            entry = reference.published[key]
            numbers = residual_statistics(store, fidelity, entry.energies_ev)
            what = f"less {KINDS[entry.kind]}" + (", published" if entry.kind == "isolated_atom" else "")
            lines.append(line(what, f"{entry.title} ({entry.source})", numbers["n_rows"], numbers, after))
    return pandas.DataFrame(lines, columns=list(TABLE_COLUMNS))


def write_csv(table: pandas.DataFrame, path: PathLike) -> None:
    """Write a table as csv."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def load_fit(path: PathLike) -> dict[str, Any]:
    """Read a regression with all that it holds.

    Raises:
        InputError: missing, changed, or not a file of self energies.
    """
    path = require(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a file of self energies ({error}); delete it and fit again") from None
    if not isinstance(content, dict) or not isinstance(content.get("fidelities"), dict):
        raise InputError(f"{path}: not a file of self energies (no fidelities); delete it and fit again")
    return content
