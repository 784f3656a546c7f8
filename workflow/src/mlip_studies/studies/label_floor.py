"""How far reference calculations at the level of the checks are from the labels: below that, no error means anything.

Test rows of a data set are calculated again. Total energies of two levels of theory differ by constants per atom, so
atomization energies are compared, each less the isolated atoms of its own level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.data.named_splits import load_named_split
from mlip_studies.data.self_energies import SelfEnergies, load_self_energies
from mlip_studies.data.store import Store
from mlip_studies.elements import formula
from mlip_studies.errors import InputError
from mlip_studies.md.frames import Frames, read_frames, write_frames


def write_floor_frames(store_path: PathLike, split: PathLike, rows: int, seed: int, output: PathLike) -> None:
    """Choose test rows and write them as frames, with the row as number of the trajectory.

    Args:
        store_path: the data.
        split: a named split of it.
        rows: how many of its test rows; all if it has fewer.
        seed: of the choice.
        output: file of frames (npz); ``potential_ev``, ``temperature_k`` and ``time_ps`` are NaN.

    Raises:
        InputError: a split of another store, or without test rows.
    """
    with Store(store_path) as store:
        test = load_named_split(split, store).test
        if len(test) == 0:
            raise InputError(f"{split}: no test rows to calculate again; choose a split with some")
        chosen = np.sort(np.random.default_rng(seed).permutation(test)[:rows])
        read = store.read(chosen, fidelities=(), forces=False)
        names = [store.group_names[group] for group in read.group]
    n, nothing = len(chosen), np.full(len(chosen), np.nan)
    frames = Frames(
        read.atomic_numbers.astype(np.int64),
        read.ptr.astype(np.int64),
        read.positions.astype(np.float64),
        chosen.astype(np.int64),
        np.arange(n),
        np.zeros(n, dtype=np.int64),
        nothing,
        nothing,
        nothing,
        np.ones(n, dtype=bool),
        np.array(names, dtype=np.str_),
        np.zeros(n, dtype=np.int64),
    )
    write_frames(output, frames)


def write_floor(
    store_path: PathLike, fidelity: str, frames: PathLike, labels: PathLike, table: PathLike, atoms: PathLike,
    output: PathLike,
) -> None:  # fmt: skip
    """Compare labels with calculations.

    Args:
        store_path: the data.
        fidelity: its label.
        frames: of :func:`write_floor_frames`.
        labels: calculations of these frames, npz (see :mod:`mlip_studies.dft.spot_check`).
        table: the same as csv, for the statuses.
        atoms: isolated atoms of the label, JSON (see :mod:`mlip_studies.data.isolated_atoms`).
        output: csv with the columns row, n_atoms, formula, status, energy_label_ev, energy_dft_ev, ae_label_ev,
            ae_dft_ev, ae_difference_ev (calculation less label) and force_mae_ev_per_angstrom; differences are empty
            where a calculation did not converge.

    Raises:
        InputError: missing or damaged files, or calculations of other frames.
    """
    import pandas as pd

    rows = read_frames(frames)
    calculated = _arrays(labels)
    statuses = pd.read_csv(require(table), keep_default_na=False)["status"].tolist()
    if len(calculated["energy_ev"]) != len(rows) or len(statuses) != len(rows):
        raise InputError(
            f"{labels}: {len(calculated['energy_ev'])} calculations for {len(rows)} frames; make them again"
        )
    own = SelfEnergies(tuple(int(z) for z in calculated["atomic_numbers_isolated"]), calculated["energies_isolated_ev"])
    published = load_self_energies(atoms)[fidelity]
    with Store(store_path) as store:
        read = store.read(rows.trajectory, fidelities=(fidelity,), forces=(fidelity,))
    energy, forces = read.energy[fidelity], read.forces[fidelity]
    # The published atoms may be of more elements than these frames hold, the calculated ones are of these.
    label_atoms = published.baseline(read.atomic_numbers, read.ptr)
    dft_atoms = own.baseline(rows.atomic_numbers, rows.ptr)
    lines = []
    for index, row in enumerate(rows.trajectory.tolist()):
        atoms_of = slice(rows.ptr[index], rows.ptr[index + 1])
        ae_label = energy[index] - label_atoms[index]
        ae_dft = calculated["energy_ev"][index] - dft_atoms[index]
        error = np.abs(calculated["forces_ev_per_angstrom"][atoms_of] - forces[atoms_of]).mean()
        lines.append(
            {
                "row": row,
                "n_atoms": int(rows.ptr[index + 1] - rows.ptr[index]),
                "formula": formula(rows.atomic_numbers[atoms_of]),
                "status": statuses[index],
                "energy_label_ev": float(energy[index]),
                "energy_dft_ev": float(calculated["energy_ev"][index]),
                "ae_label_ev": float(ae_label),
                "ae_dft_ev": float(ae_dft),
                "ae_difference_ev": float(ae_dft - ae_label),
                "force_mae_ev_per_angstrom": float(error),
            }
        )
    with atomic_path(output) as temporary:
        pd.DataFrame(lines).to_csv(temporary, index=False)


def _arrays(path: PathLike) -> Mapping[str, Any]:
    path = require(path)
    names = ("energy_ev", "forces_ev_per_angstrom", "atomic_numbers_isolated", "energies_isolated_ev")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a file of reference calculations ({error}); make it again") from error
