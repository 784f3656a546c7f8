"""Energies of isolated atoms as a reference of a data set's energies: what is left are atomization energies."""

from __future__ import annotations

from typing import Any

from mlip_studies.artifacts import PathLike
from mlip_studies.data.reference_energies import load_isolated_atoms, load_reference_energies
from mlip_studies.data.self_energies import write_self_energies
from mlip_studies.data.store import Store
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError


def write_isolated_atoms(
    store_path: PathLike,
    fidelity: str,
    atoms: str,
    published: PathLike,
    schema: PathLike,
    own: PathLike,
    output: PathLike,
) -> dict[str, Any]:
    """Write the atoms of a data set in the form that :func:`mlip_studies.data.self_energies.load_self_energies` reads.

    Args:
        store_path: the data, for its elements.
        fidelity: the label that the atoms belong to.
        atoms: a published set of isolated atoms by its name in ``published``, or a level of theory of ``own``.
        published: config/self_energies.yaml.
        schema: its schema.
        own: our own isolated atoms, csv.
        output: JSON file.

    Returns:
        what was written: ``fidelities`` with ``elements`` and ``coefficients_ev``, and ``atoms``.

    Raises:
        InputError: no such atoms, atoms of another label, or an element of the data that has none.
    """
    reference, levels = load_reference_energies(published, schema), load_isolated_atoms(own)
    if atoms in reference.published:
        entry = reference.published[atoms]
        if entry.kind != "isolated_atom" or entry.fidelity != fidelity:
            raise InputError(
                f"{published}: {atoms} is a {entry.kind} for {entry.fidelity}; expected isolated atoms for {fidelity}"
            )
        energies = dict(entry.energies_ev)
    elif atoms.lower() in levels:
        energies = levels[atoms.lower()]
    else:
        known = [name for name, entry in reference.published.items() if entry.kind == "isolated_atom"]
        raise InputError(f"isolated atoms {atoms!r}: expected one of {', '.join([*known, *levels])}")
    with Store(store_path) as store:
        elements = [int(z) for z in store.elements]
        if fidelity not in store.fidelities:
            raise InputError(f"{store_path}: no label {fidelity!r}; it has {', '.join(store.fidelities)}")
        dataset = store.path.parent.name
    missing = symbols([z for z in elements if z not in energies])
    if missing:
        raise InputError(f"isolated atoms {atoms!r}: no energy of {', '.join(missing)}, which {store_path} holds")
    fit = {"elements": elements, "coefficients_ev": [energies[z] for z in elements]}
    content = {"dataset": dataset, "rows": "isolated atoms", "atoms": atoms, "fidelities": {fidelity: fit}}
    write_self_energies(content, output)
    return content
