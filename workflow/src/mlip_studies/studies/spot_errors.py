"""What a network says about frames of dynamics, beside reference calculations of the same frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from mlip_studies.artifacts import PathLike, require, sha256_of, write_text
from mlip_studies.data.self_energies import load_self_energies
from mlip_studies.elements import formula, number, symbol, symbols
from mlip_studies.errors import InputError
from mlip_studies.md.frames import Frames, read_frames
from mlip_studies.md.potentials import open_potential
from mlip_studies.models.calculators.graphs import MovingMolecules
from mlip_studies.models.checks import MIN_DISTANCE, check_elements
from mlip_studies.models.potential import Potential

if TYPE_CHECKING:
    import pandas as pd

#: lines of a table of force components, at most; which ones is drawn with the seed
MAX_COMPONENTS = 20_000
COMPONENT_SEED = 0
#: pairs of atoms evaluated at once, about
_BATCH_PAIRS = 20_000


@dataclass(frozen=True)
class Labels:
    """Reference energies and forces of frames.

    Attributes:
        energy_ev: shape (n,); NaN without a result.
        forces_ev_per_angstrom: shape (n_atoms, 3); NaN likewise.
        atoms_ev: isolated atoms at the same level, by atomic number.
        status, strategy: of each calculation.
    """

    energy_ev: NDArray[np.float64]
    forces_ev_per_angstrom: NDArray[np.float64]
    atoms_ev: dict[int, float]
    status: list[str]
    strategy: list[str]


def read_labels(frames_path: PathLike, frames: Frames, labels_npz: PathLike, labels_csv: PathLike) -> Labels:
    """Read what was calculated for a file of frames.

    Args:
        frames_path: the file of frames.
        frames: its content.
        labels_npz: arrays ``energy_ev``, ``forces_ev_per_angstrom``, ``atomic_numbers_isolated`` and
            ``energies_isolated_ev``, and ``frames_sha256`` of the file of frames.
        labels_csv: one line per frame, in order, with ``frame``, ``status`` and ``strategy``.

    Raises:
        InputError: missing or damaged files, or labels of other frames.
    """
    import pandas as pd

    path = require(labels_npz)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            energy, forces, isolated, energies = (
                np.asarray(arrays[key])
                for key in ("energy_ev", "forces_ev_per_angstrom", "atomic_numbers_isolated", "energies_isolated_ev")
            )
            digest = str(arrays["frames_sha256"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: not a file of labels ({' '.join(str(error).split())}); make it again") from error
    if digest != sha256_of(frames_path):
        raise InputError(f"{path}: labels of other frames than {frames_path}; calculate them again")
    table_path = require(labels_csv)
    try:
        table = pd.read_csv(table_path, keep_default_na=False)[["frame", "status", "strategy"]]
    except (KeyError, ValueError) as error:
        raise InputError(f"{table_path}: not a table of labels ({' '.join(str(error).split())})") from error
    n = len(frames)
    if (
        energy.shape != (n,)
        or forces.shape != (len(frames.atomic_numbers), 3)
        or list(table["frame"]) != list(range(n))
    ):
        raise InputError(f"{path}: {len(energy)} labels, {len(table)} lines; expected one for each of {n} frames")
    atoms = {int(z): float(value) for z, value in zip(isolated, energies, strict=True)}
    return Labels(
        energy.astype(np.float64), forces.astype(np.float64), atoms, list(table["status"]), list(table["strategy"])
    )


def isolated_energies(
    reference: Mapping[Any, float] | PathLike | None, otherwise: Mapping[int, float]
) -> dict[int, float]:
    """Energies of isolated atoms by atomic number, eV.

    Args:
        reference: by symbol or atomic number, or a file of :mod:`mlip_studies.data.isolated_atoms` for one fidelity.
        otherwise: taken without a reference.

    Raises:
        InputError: a key that is no element, or a file that is missing, damaged, or for several fidelities.
    """
    if reference is None:
        return dict(otherwise)
    if not isinstance(reference, Mapping):
        tables = load_self_energies(reference)
        if len(tables) != 1:
            raise InputError(f"{reference}: atoms of {len(tables)} fidelities; expected those of one")
        (table,) = tables.values()
        reference = dict(zip(table.elements, table.coefficients, strict=True))
    known = {}
    for key, value in reference.items():
        z = int(key) if str(key).isdigit() else number(str(key))
        known[number(symbol(z))] = float(value)
    return known


def pair_batches(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive molecules with about :data:`_BATCH_PAIRS` pairs of atoms together.

    Args:
        counts: atoms of each molecule, shape (n,).
    """
    first, pairs = 0, 0
    for index, count in enumerate(counts):
        own = int(count) * (int(count) - 1) // 2
        if index > first and pairs + own > _BATCH_PAIRS:
            yield slice(first, index)
            first, pairs = index, 0
        pairs += own
    if first < len(counts):
        yield slice(first, len(counts))


def predict_frames(
    potential: Potential, frames: Frames, fidelity: str = "high"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies (n,), eV, and forces (n_atoms, 3), eV/Å, of frames; NaN where two atoms are at one place.

    Args:
        potential: in the precision to compute in.
        frames: molecules.
        fidelity: of potentials that know several.

    Raises:
        InputError: an element that the potential does not know.
    """
    energy = np.full(len(frames), np.nan)
    forces = np.full((len(frames.atomic_numbers), 3), np.nan)
    counts = np.diff(frames.ptr)
    for index, (first, last) in enumerate(pairwise(frames.ptr)):
        check_elements(frames.atomic_numbers[first:last], potential.elements, index, str(frames.name[index]))
    for rows in pair_batches(counts):
        atoms = slice(int(frames.ptr[rows.start]), int(frames.ptr[rows.stop]))
        numbers = torch.as_tensor(frames.atomic_numbers[atoms], dtype=torch.int64, device=potential.device)
        ptr = frames.ptr[rows.start : rows.stop + 1] - frames.ptr[rows.start]
        # In double precision and about the middle, so that a fragment far away costs no digits.
        position = frames.positions[atoms].copy()
        for first, last in pairwise(ptr):
            position[first:last] -= position[first:last].mean(axis=0)
        moving = MovingMolecules(numbers, counts[rows], potential, fidelity)
        x = torch.as_tensor(position, dtype=potential.dtype, device=potential.device)
        found_energy, found_forces = potential.energy_and_forces(moving.at(x))
        energy[rows] = found_energy.detach().cpu().double().numpy()
        forces[atoms] = found_forces.detach().cpu().double().numpy()
    for index, (first, last) in enumerate(pairwise(frames.ptr)):
        if last - first > 1 and pdist(frames.positions[first:last]).min() < MIN_DISTANCE:
            energy[index], forces[first:last] = math.nan, math.nan
    return energy, forces


def write_spot_errors(
    frames: PathLike,
    labels_npz: PathLike,
    labels_csv: PathLike,
    potential: PathLike | Mapping[str, Any],
    output: PathLike,
    judge: str,
    atomic_reference: Mapping[Any, float] | PathLike | None = None,
    components: PathLike | None = None,
    fidelity: str = "high",
    device: torch.device | str = "cpu",
) -> None:
    """Table of a network's errors on frames, and of its force components.

    Columns, one line per frame: judge, frame, trajectory, start, name, formula, n_atoms, temperature_k, time_ps, alive,
    status, strategy, energy_dft_ev, energy_predicted_ev, ae_dft_ev, ae_predicted_ev, ae_error_ev (predicted less
    reference), force_mae_ev_per_angstrom and force_rmse_ev_per_angstrom (over components),
    force_max_error_ev_per_angstrom (largest of a component), force_norm_dft (mean over atoms, eV/Å). What needs a
    reference is empty where there is none. Atomization energies are less the isolated atoms, each side's at its own
    level: a constant per element between two levels is no error.

    Columns of ``components``: frame, name, atom, element, component, force_dft, force_predicted (eV/Å); at most
    :data:`MAX_COMPONENTS` lines, drawn with a fixed seed.

    Args:
        frames: file of :func:`mlip_studies.md.frames.sample_frames`.
        labels_npz: reference energies and forces, see :func:`read_labels`.
        labels_csv: what became of each calculation, see :func:`read_labels`.
        potential: see :func:`mlip_studies.md.potentials.check_potential`; evaluated in double precision.
        output: CSV file.
        judge: name of the run that the network is of.
        atomic_reference: isolated atoms at the level of the network's training labels, see :func:`isolated_energies`;
            those of the reference calculations if not given.
        components: CSV file; none if not given.
        fidelity: of potentials that know several.
        device: where to compute.

    Raises:
        InputError: missing or damaged files, labels of other frames, an element that the network does not know, or one
            without an isolated atom.
    """
    import pandas as pd

    sampled = read_frames(frames)
    labels = read_labels(frames, sampled, labels_npz, labels_csv)
    network, _ = open_potential(potential, device, torch.float64)
    energy, forces = predict_frames(network, sampled, fidelity)
    difference = forces - labels.forces_ev_per_angstrom
    own = isolated_energies(atomic_reference, labels.atoms_ev)
    lines = []
    for index, (first, last) in enumerate(pairwise(sampled.ptr)):
        numbers, error = sampled.atomic_numbers[first:last], difference[first:last]
        reference = float(labels.energy_ev[index])
        known = labels.forces_ev_per_angstrom[first:last]
        ae_dft = (
            reference - _atoms(labels.atoms_ev, numbers, "the reference calculations")
            if reference == reference
            else math.nan
        )
        ae_predicted = float(energy[index]) - _atoms(own, numbers, judge)
        lines.append(
            {
                "judge": judge,
                "frame": index,
                "trajectory": int(sampled.trajectory[index]),
                "start": int(sampled.start[index]),
                "name": str(sampled.name[index]),
                "formula": formula(numbers),
                "n_atoms": len(numbers),
                "temperature_k": float(sampled.temperature_k[index]),
                "time_ps": float(sampled.time_ps[index]),
                "alive": bool(sampled.alive[index]),
                "status": labels.status[index],
                "strategy": labels.strategy[index],
                "energy_dft_ev": reference,
                "energy_predicted_ev": float(energy[index]),
                "ae_dft_ev": ae_dft,
                "ae_predicted_ev": ae_predicted,
                "ae_error_ev": ae_predicted - ae_dft,
                "force_mae_ev_per_angstrom": float(np.abs(error).mean()),
                "force_rmse_ev_per_angstrom": float(np.sqrt(np.square(error).mean())),
                "force_max_error_ev_per_angstrom": float(np.abs(error).max()),
                "force_norm_dft": float(np.linalg.norm(known, axis=1).mean()),
            }
        )
    columns = (
        "judge",
        "frame",
        "trajectory",
        "start",
        "name",
        "formula",
        "n_atoms",
        "temperature_k",
        "time_ps",
        "alive",
        "status",
        "strategy",
        "energy_dft_ev",
        "energy_predicted_ev",
        "ae_dft_ev",
        "ae_predicted_ev",
        "ae_error_ev",
        "force_mae_ev_per_angstrom",
        "force_rmse_ev_per_angstrom",
        "force_max_error_ev_per_angstrom",
        "force_norm_dft",
    )
    write_text(output, pd.DataFrame(lines, columns=list(columns)).to_csv(index=False, float_format="%.12g"))
    if components is not None:
        table = component_table(sampled, labels.forces_ev_per_angstrom, forces)
        write_text(components, table.to_csv(index=False, float_format="%.8g"))


def _atoms(energies: Mapping[int, float], numbers: NDArray[np.int64], whose: str) -> float:
    """Sum of the isolated atoms, eV."""
    missing = sorted(set(numbers.tolist()) - set(energies))
    if missing:
        raise InputError(f"{whose}: no energy of an isolated {symbol(missing[0])}; give one for each element")
    return math.fsum(energies[int(z)] for z in numbers)


def component_table(
    frames: Frames, reference: NDArray[np.float64], predicted: NDArray[np.float64], max_lines: int = MAX_COMPONENTS
) -> pd.DataFrame:
    """Force components side by side, those with a reference and a prediction.

    Args:
        frames: molecules.
        reference: shape (n_atoms, 3), eV/Å.
        predicted: shape (n_atoms, 3), eV/Å.
        max_lines: more are thinned at random, with a fixed seed.
    """
    import pandas as pd

    counts = np.diff(frames.ptr)
    frame = np.repeat(np.arange(len(frames)), counts)
    atom = np.arange(len(frames.atomic_numbers)) - np.repeat(frames.ptr[:-1], counts)
    known = np.flatnonzero((np.isfinite(reference) & np.isfinite(predicted)).reshape(-1))
    if len(known) > max_lines:
        known = np.sort(np.random.default_rng(COMPONENT_SEED).choice(known, max_lines, replace=False))
    row, axis = np.divmod(known, 3)
    return pd.DataFrame(
        {
            "frame": frame[row],
            "name": frames.name[frame[row]],
            "atom": atom[row],
            "element": symbols(frames.atomic_numbers[row]),
            "component": np.array(list("xyz"))[axis],
            "force_dft": reference.reshape(-1)[known],
            "force_predicted": predicted.reshape(-1)[known],
        }
    )
