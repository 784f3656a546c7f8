"""Frames of trajectories for reference calculations: the same times of every trajectory, evenly spread.

File of frames (npz), for n frames with n_atoms atoms in all:

* ``atomic_numbers`` (n_atoms,), ``ptr`` (n + 1,), ``positions`` (n_atoms, 3), Å, float64.
* ``trajectory``, ``start``, ``sample`` (n,): number of the trajectory, of its start structure, and of the time.
* ``temperature_k`` (nominal), ``time_ps``, ``potential_ev`` (n,): the last is what the network of the run said.
* ``alive`` (n,): before the trajectory's first failure.
* ``name`` (n,): of the start structure.
* ``n_missing`` (n_trajectories,): times at which a trajectory was no longer there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError
from mlip_studies.md.trajectory import Trajectory


@dataclass(frozen=True)
class Frames:
    """What a file of frames holds; see the module."""

    atomic_numbers: NDArray[np.int64]
    ptr: NDArray[np.int64]
    positions: NDArray[np.float64]
    trajectory: NDArray[np.int64]
    start: NDArray[np.int64]
    sample: NDArray[np.int64]
    temperature_k: NDArray[np.float64]
    time_ps: NDArray[np.float64]
    potential_ev: NDArray[np.float64]
    alive: NDArray[np.bool_]
    name: NDArray[np.str_]
    n_missing: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.ptr) - 1


def uniform_samples(n_intervals: int, n_samples: int) -> NDArray[np.int64]:
    """Numbers (n_samples,) of the samples at the ends of equal parts of a trajectory of ``n_intervals`` intervals.

    Raises:
        InputError: more parts than intervals, or none.
    """
    if not 1 <= n_samples <= n_intervals:
        raise InputError(
            f"frames: {n_samples} of a trajectory with {n_intervals} sampled intervals; expected 1 to {n_intervals}"
        )
    return np.round(np.arange(1, n_samples + 1) * (n_intervals / n_samples)).astype(np.int64)


def sample_frames(
    trajectory: PathLike, n_samples: int, output: PathLike, robustness: PathLike | None = None
) -> dict[str, Any]:
    """Write frames of all trajectories of a file.

    S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022) take 72 of each, "uniformly sampled". The first time
    here is one part after the start of sampling, the last is the end.

    Args:
        trajectory: HDF5 file of :func:`mlip_studies.md.engine.run_md`.
        n_samples: frames per trajectory.
        output: npz file.
        robustness: table of :func:`mlip_studies.md.robustness.write_robustness` of the same file, whose first failures
            say what ``alive`` is; without it, all frames count as alive.

    Returns:
        ``n_frames`` and ``n_missing``.

    Raises:
        InputError: missing or damaged files, a table of other trajectories, or more frames than samples.
    """
    with Trajectory(trajectory) as file:
        chosen = uniform_samples(len(file.time_ps) - 1, n_samples)
        failure_ps = np.full(len(file), np.inf) if robustness is None else _failures(robustness, len(file))
        # All trajectories share the chunks of the file, so that each is read once.
        positions, potential, _ = file.block(chosen)
        order = np.arange(len(file)).repeat(n_samples)
        sample = np.tile(np.arange(n_samples), len(file))
        there = chosen[sample] < file.n_valid[order]
        missing = np.bincount(order[~there], minlength=len(file))
        order, sample = order[there], sample[there]
        counts = np.diff(file.ptr)[order]
        slices = [slice(*file.ptr[index : index + 2]) for index in range(len(file))]
        time_ps = file.time_ps[chosen[sample]]
        nothing, none = np.zeros(0, dtype=np.int64), np.zeros((0, 3))
        frames = Frames(
            np.concatenate([nothing, *(file.atomic_numbers(int(index)) for index in order)]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate(
                [none, *(positions[k, slices[index]] for k, index in zip(sample, order, strict=True))], dtype=np.float64
            ),
            order.astype(np.int64),
            file.start[order].astype(np.int64),
            sample.astype(np.int64),
            file.temperature_k[order],
            time_ps,
            potential[sample, order],
            time_ps < failure_ps[order],
            np.array([file.names[index] for index in order], dtype=np.str_),
            missing.astype(np.int64),
        )
    write_frames(output, frames)
    return {"n_frames": len(frames), "n_missing": int(missing.sum())}


def write_frames(output: PathLike, frames: Frames) -> None:
    """Write a file of frames."""
    with atomic_path(output) as temporary:
        np.savez(temporary, **{each.name: getattr(frames, each.name) for each in fields(Frames)})


def read_frames(path: PathLike) -> Frames:
    """Read a file of frames.

    Raises:
        InputError: missing, changed, or no such file.
    """
    path = require(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {each.name: arrays[each.name] for each in fields(Frames)}
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a file of frames ({reason}); make it again") from error
    return Frames(**values)


def _failures(path: PathLike, n: int) -> NDArray[np.float64]:
    """Time of each trajectory's first failure, ps, infinite where there was none."""
    import pandas as pd

    path = require(path)
    try:
        table = pd.read_csv(path)[["trajectory", "failed", "failure_ps"]]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not a table of failures ({' '.join(str(error).split())}); make it again") from error
    if table["trajectory"].tolist() != list(range(n)):
        raise InputError(f"{path}: {len(table)} trajectories; expected the {n} of the trajectory file, in order")
    return np.where(table["failed"].astype(bool), table["failure_ps"].astype(float), np.inf)
