"""Errors of trained networks on a whole other data set, such as COMP6, molecule by molecule.

After the next steps of B. E. Hedelius, "Learning inter-atomic forces with an SE(3)-Transformer" (2021), section 3.2,
where the test on COMP6 is announced and not made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.claims.inputs import read_json
from mlip_studies.data.force_check import ForceCheck
from mlip_studies.data.store import Block, Rows, Store
from mlip_studies.elements import formula, symbol
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.potential import Potential, load_potential
from mlip_studies.studies.spot_errors import pair_batches
from mlip_studies.training.device import choose_device
from mlip_studies.training.loss import LOSSES

COLUMNS = (
    "seed", "subset", "group", "formula", "n_atoms", "energy_true_ev", "energy_predicted_ev", "energy_error_ev",
    "relative_energy_error_ev", "force_mae_ev_per_angstrom", "force_rmse_ev_per_angstrom",
)  # fmt: skip
#: rows that are read at a time
CHUNK_ROWS = 4096


def subsets_of(store: Store) -> list[str]:
    """Part of the data set that each group belongs to, in the order of ``group_names``.

    That is the group's fact ``subset`` where the store has it, else its name up to the first ``/`` (COMP6's groups are
    named <part>/<molecule>), or ``all`` for names without one.
    """
    if "subset" in store.info_names:
        return [name or "all" for name in store.group_info("subset")]
    return [name.split("/", 1)[0] if "/" in name else "all" for name in store.group_names]


def check_force_signs(store: Store, fidelity: str) -> dict[str, Any] | None:
    """Compare forces with differences of energies, as when a data set is read (see :class:`ForceCheck`).

    Args:
        store: the data set.
        fidelity: its column.

    Returns:
        what was found; None where the store has no forces.

    Raises:
        InputError: forces of the wrong sign or unit, or of other frames.
    """
    if fidelity not in store.force_fidelities:
        return None
    check = ForceCheck()
    groups = store.groups()
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else ():
        # A group may hold several formulas; a block holds one molecule's frames.
        read = store.read(rows[:CHUNK_ROWS], fidelities=(fidelity,), forces=(fidelity,))
        kinds: dict[bytes, list[int]] = {}
        for index in range(len(read)):
            kinds.setdefault(read.molecule(index)[0].tobytes(), []).append(index)
        for members in kinds.values():
            check.add(_block(read, members, fidelity, store.group_names[int(read.group[0])]))
    return check.result(store.path).get(fidelity)


def _block(read: Rows, members: Sequence[int], fidelity: str, group: str) -> Block:
    atoms = [slice(int(read.ptr[index]), int(read.ptr[index + 1])) for index in members]
    return Block(
        group,
        read.atomic_numbers[atoms[0]],
        np.stack([read.positions[part] for part in atoms]),
        {fidelity: read.energy[fidelity][members]},
        {fidelity: np.stack([read.forces[fidelity][part] for part in atoms])},
        read.rows[members],
    )


def _has_forces(content: Mapping[str, Any], path: Path) -> bool:
    """Whether a run was trained on forces; a head that was not says nothing.

    Raises:
        InputError: ``run.json`` does not say what the loss was.
    """
    try:
        name = content["config"]["training"]["loss"]["name"]
        return bool(LOSSES[name].needs_forces)
    except (KeyError, TypeError):
        raise InputError(f"{path}: key 'config.training.loss.name' is missing; train this run again") from None


def _tested(
    potential: Potential, store: Store, rows: NDArray[np.int64], fidelity: str, with_forces: bool, true_forces: bool
) -> Iterator[dict[str, Any]]:
    """One entry per molecule: what is true, what is predicted and the force errors (eV, eV/Å)."""
    for chunk in store.iter_chunks(
        CHUNK_ROWS, rows, fidelities=(fidelity,), forces=(fidelity,) if true_forces else False
    ):
        unknown = sorted(set(np.unique(chunk.atomic_numbers).tolist()) - set(potential.elements))
        if unknown:
            known = ", ".join(symbol(z) for z in potential.elements)
            raise InputError(
                f"{store.path}: element {symbol(unknown[0])} is not among those of the network ({known}); filter the "
                "data set or train on data with this element"
            )
        molecules = [chunk.molecule(index) for index in range(len(chunk))]
        for part in pair_batches(chunk.n_atoms):
            batch = make_batch(
                molecules[part], potential.cutoff, potential.device, potential.dtype, [0] * (part.stop - part.start)
            )
            forces: NDArray[np.float64] | None = None
            if with_forces and true_forces:
                energy, predicted = potential.energy_and_forces(batch)
                forces = predicted.detach().double().cpu().numpy()
            else:
                with torch.no_grad():
                    energy = potential(batch)
            first = int(chunk.ptr[part.start])
            for offset, value in enumerate(energy.detach().cpu().tolist()):
                index = part.start + offset
                atoms = slice(int(chunk.ptr[index]), int(chunk.ptr[index + 1]))
                entry = {
                    "group": int(chunk.group[index]),
                    "formula": formula(chunk.atomic_numbers[atoms]),
                    "n_atoms": atoms.stop - atoms.start,
                    "energy_true_ev": float(chunk.energy[fidelity][index]),
                    "energy_predicted_ev": value,
                    "force_mae_ev_per_angstrom": np.nan,
                    "force_rmse_ev_per_angstrom": np.nan,
                }
                if forces is not None:
                    error = forces[atoms.start - first : atoms.stop - first] - chunk.forces[fidelity][atoms]
                    entry["force_mae_ev_per_angstrom"] = float(np.abs(error).mean())
                    entry["force_rmse_ev_per_angstrom"] = float(np.sqrt(np.square(error).mean()))
                yield entry


def write_transfer_test(
    models: Sequence[PathLike], store: PathLike, fidelity: str, output: PathLike, device_name: str = "auto"
) -> None:
    """Test all seeds of a run on every labelled row of a store, and write one line per molecule and seed.

    Columns: see :data:`COLUMNS`; energies in eV, forces in eV/Å. ``relative_energy_error_ev`` is the error less the
    mean error of the molecule's group, which a constant per composition cannot change. Force errors are means over a
    molecule's components; NaN for networks that were not trained on forces and for a store without any. The signs of
    the store's forces are checked first. Rows are read in chunks; only the numbers of the table are kept.

    Args:
        models: folders of the seeds, ``…/seed<k>`` with ``model.safetensors`` and ``run.json``.
        store: the data set.
        fidelity: its column, of the level that the run was trained on.
        output: path of the CSV file.
        device_name: auto, cpu or cuda.

    Raises:
        InputError: no seeds, seeds that do not belong together, missing or damaged files, an element that the network
            does not know, no labels, predictions that are not finite, or forces whose sign or unit is wrong.
    """
    if not models:
        raise InputError(f"{output}: no seeds to test; name at least one folder of a run")
    device = choose_device(device_name)
    folders = sorted(map(Path, models), key=lambda folder: (len(folder.name), folder.name))
    frames = []
    with Store(store) as opened:
        labelled = opened.energies(fidelity)
        rows = np.flatnonzero(np.isfinite(labelled))
        if len(rows) == 0:
            raise InputError(f"{opened.path}: no row has an energy of fidelity {fidelity!r}; choose another fidelity")
        check_force_signs(opened, fidelity)
        true_forces = fidelity in opened.force_fidelities
        subsets, names = np.array(subsets_of(opened), dtype=object), np.array(opened.group_names, dtype=object)
        for folder in folders:
            path = folder / "run.json"
            content = read_json(path)
            seed = (content.get("config") or {}).get("seed")
            if folder.name != f"seed{seed}":
                raise InputError(f"{path}: is of seed {seed!r}, expected that of {folder.name}; name the run's folders")
            potential, _ = load_potential(folder / "model.safetensors", device)
            entries = list(_tested(potential, opened, rows, fidelity, _has_forces(content, path), true_forces))
            frame = pd.DataFrame(entries)
            bad = ~np.isfinite(frame["energy_predicted_ev"].to_numpy())
            if bad.any():
                raise InputError(
                    f"{folder}: {int(bad.sum())} predicted energies are not finite on {opened.path} (first: row "
                    f"{int(rows[np.argmax(bad)])}); train this run again"
                )
            frame["energy_error_ev"] = frame["energy_predicted_ev"] - frame["energy_true_ev"]
            mean = frame.groupby("group")["energy_error_ev"].transform("mean")
            frame["relative_energy_error_ev"] = frame["energy_error_ev"] - mean
            frame["subset"], frame["seed"] = subsets[frame["group"]], seed
            frame["group"] = names[frame["group"]]
            frames.append(frame[list(COLUMNS)])
    with atomic_path(output) as temporary:
        pd.concat(frames, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n", float_format="%.12g")
