"""Reader of SPICE's HDF5 layout (releases 1.0 to 2.0).

One group per molecule: ``atomic_numbers`` (n_atoms,), ``conformations`` (n_frames, n_atoms, 3), energies (n_frames,),
``dft_total_gradient`` (n_frames, n_atoms, 3), ``smiles`` (1,) and ``subset`` (1,); units in the attribute ``units``.
The file holds gradients, so the sign is turned. Groups whose conformations were all removed by the release's own force
limit come as blocks of length zero. (P. Eastman et al., Sci. Data 10, 11 (2023).)

The gradients are single precision: net forces of a few meV/Å are rounding, not damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlip_studies.data.readers import finished, reader_options, unit_factors
from mlip_studies.data.readers.hdf5 import Group, Numbers, damage, molecule_blocks, open_root
from mlip_studies.data.store import Block, atomic_number_array
from mlip_studies.errors import InputError

EXPECTED = "SPICE's layout (one group per molecule with atomic_numbers, conformations, smiles, subset and labels)"


def _with_units(group: Group, key: str, unit: str) -> Numbers:
    data = group.numbers(key)
    stated = data.attribute("units")
    # Files without the attribute rely on the declared units; the force check sees whether they hold.
    if stated is not None and stated.lower() != unit.lower():
        raise InputError(
            f"{data.where}: its units attribute says {stated!r}, expected {unit!r} in every group; "
            "convert the group, or set the data set's `units`"
        )
    return data


def _text(group: Group, key: str) -> str:
    texts = group.texts(key)
    if len(texts) != 1 or not texts[0]:
        raise InputError(f"{group.where}: {key} holds {len(texts)} texts, expected one that is not empty")
    return texts[0]


def read(path: Path, entry: Mapping[str, Any], block_rows: int = 16384) -> Iterator[Block]:
    """Stream the molecules of a file.

    Args:
        path: the HDF5 file.
        entry: the data set's entry; ``fidelities`` maps each fidelity to its ``energy`` key and optional ``forces``
            key, under which the gradient is stored.
        block_rows: most frames per block.

    Yields:
        blocks in eV, Å and eV/Å with the facts ``smiles`` and ``subset``.

    Raises:
        InputError: truncated, of another layout, a key missing, other units than declared, or numbers that are NaN or
            infinite.
    """
    reader_options(entry, {})
    energy, length = unit_factors(entry)
    energy_unit, length_unit = entry["units"]["energy"], entry["units"]["length"]
    gradient_unit = f"{energy_unit}/{length_unit}"
    fidelities: Mapping[str, Mapping[str, str]] = entry["fidelities"]
    factors = (length, energy, -energy / length)
    with open_root(path, str(path), EXPECTED) as root, damage(str(path)):
        row = 0
        for name in root.names():
            with damage(f"{path}: group {name}"):
                group = root.subgroup(name)
                stored = group.numbers("atomic_numbers")
                numbers = atomic_number_array(stored.all(), stored.where)
                coordinates = _with_units(group, "conformations", length_unit)
                energies = {f: _with_units(group, keys["energy"], energy_unit) for f, keys in fidelities.items()}
                gradients = {
                    f: _with_units(group, keys["forces"], gradient_unit)
                    for f, keys in fidelities.items()
                    if keys.get("forces")
                }
                info = {"smiles": _text(group, "smiles"), "subset": _text(group, "subset")}
                for block in molecule_blocks(
                    group, numbers, coordinates, energies, gradients, factors, row, block_rows, info
                ):
                    yield finished(block, path)
                    row += len(block)
