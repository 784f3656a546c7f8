"""Trajectories on disk: segments while dynamics run, one HDF5 file in the end.

A file that grows can be damaged when its writer is killed. So each segment of samples is a file of its own in the state
folder, which appears by rename; a checkpoint has their checksums. The HDF5 file is put together from them when
everything is done.

Layout of the HDF5 file, for n_samples samples of n trajectories with n_atoms atoms in all:

* ``time_ps`` (n_samples,): since the end of thermalisation.
* ``atomic_numbers`` (n_atoms,), ``ptr`` (n + 1,): atoms of trajectory k are ``ptr[k]:ptr[k + 1]``.
* ``positions`` (n_samples, n_atoms, 3), Å, float32: relative to the centre of mass; NaN from a trajectory's end on.
* ``potential_ev``, ``kinetic_ev`` (n_samples, n): NaN likewise.
* ``start``, ``temperature_k``, ``replica``, ``n_valid`` (n,): number of the start structure, nominal temperature,
  number of the trajectory, samples before its end.
* ``start_positions`` (n_atoms, 3), Å, and ``start_potential_ev`` (n,): of the start structures, before thermalisation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require, sha256_of
from mlip_studies.data.store import open_hdf5
from mlip_studies.errors import InputError

FORMAT = "mlip-studies-trajectory"
VERSION = 1
_PARTS = ("positions", "potential_ev", "kinetic_ev")
#: bytes of positions in one HDF5 chunk, about
_CHUNK_BYTES = 1 << 20


class Segments:
    """Samples that go to numbered files in a folder; the last ones are in memory until :meth:`flush`.

    Attributes:
        digests: SHA-256 of the segments on disk that count, in order.
    """

    def __init__(self, folder: Path, ptr: NDArray[np.int64]) -> None:
        """Nothing is written yet.

        Args:
            folder: where segments lie.
            ptr: atoms of the trajectories, shape (n_trajectories + 1,).
        """
        self.folder = Path(folder)
        self.digests: list[str] = []
        self._ptr = np.asarray(ptr, dtype=np.int64)
        self._samples: list[dict[str, NDArray[Any]]] = []

    @property
    def buffered_bytes(self) -> int:
        """Size of what is in memory."""
        return len(self._samples) * (12 * int(self._ptr[-1]) + 16 * (len(self._ptr) - 1))

    def append(
        self,
        alive: NDArray[np.int64],
        positions: NDArray[np.floating],
        potential_ev: NDArray[np.float64],
        kinetic_ev: NDArray[np.float64],
    ) -> None:
        """Add one sample.

        Args:
            alive: numbers of the trajectories that are there, ascending, shape (n_alive,).
            positions: of their atoms, Å.
            potential_ev: shape (n_alive,).
            kinetic_ev: shape (n_alive,).
        """
        n = len(self._ptr) - 1
        sample = {
            "positions": np.full((int(self._ptr[-1]), 3), np.nan, dtype=np.float32),
            "potential_ev": np.full(n, np.nan),
            "kinetic_ev": np.full(n, np.nan),
        }
        flags = np.zeros(n, dtype=bool)
        flags[alive] = True
        sample["positions"][np.repeat(flags, np.diff(self._ptr))] = positions
        sample["potential_ev"][alive] = potential_ev
        sample["kinetic_ev"][alive] = kinetic_ev
        self._samples.append(sample)

    def _path(self, number: int) -> Path:
        return self.folder / f"segment-{number:06d}.npz"

    def flush(self) -> list[str]:
        """Write what is in memory as one more segment; returns the checksums of all."""
        if self._samples:
            path = self._path(len(self.digests))
            temporary = path.with_name(".segment.tmp")
            with temporary.open("wb") as stream:
                arrays: dict[str, Any] = {key: np.stack([sample[key] for sample in self._samples]) for key in _PARTS}
                np.savez(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            self.digests.append(sha256_of(temporary))
            os.replace(temporary, path)
            self._samples = []
        return list(self.digests)

    def go_back_to(self, digests: Sequence[str]) -> bool:
        """Keep the segments with these checksums and forget all later ones; False if one is missing or damaged."""
        self._samples = []
        self.digests = list(digests)
        for path in self.folder.glob("segment-*.npz"):
            if path.name >= self._path(len(digests)).name:
                with suppress(OSError):
                    path.unlink()
        for number, digest in enumerate(digests):
            path = self._path(number)
            if not path.is_file() or sha256_of(path) != digest:
                print(f"{path}: missing or damaged part of a trajectory; starting from the beginning", flush=True)
                return False
        return True

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The segments on disk, in order."""
        for number in range(len(self.digests)):
            with np.load(self._path(number), allow_pickle=False) as arrays:
                yield {key: arrays[key] for key in _PARTS}


def write_trajectory(
    path: PathLike,
    segments: Segments,
    n_samples: int,
    tables: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
) -> None:
    """Put the segments together.

    Args:
        path: the HDF5 file.
        segments: all samples.
        n_samples: how many there are; what is missing at the end, because nothing was left alive, is NaN.
        tables: ``time_ps`` (n_samples,); ``atomic_numbers`` (n_atoms,); ``ptr`` (n + 1,); ``start``,
            ``temperature_k``, ``replica`` and ``n_valid``, each (n,).
        attributes: configuration and provenance, as JSON can hold them.

    Raises:
        InputError: the folder cannot be written to.
    """
    n_atoms, n = len(tables["atomic_numbers"]), len(tables["replica"])
    frames = max(1, min(n_samples, _CHUNK_BYTES // max(1, 12 * n_atoms)))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, **{key: json.dumps(v) for key, v in attributes.items()})
        for name, values in tables.items():
            file.create_dataset(name, data=values)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "positions": ((n_samples, n_atoms, 3), "f4"),
            "potential_ev": ((n_samples, n), "f8"),
            "kinetic_ev": ((n_samples, n), "f8"),
        }
        data = {
            name: file.create_dataset(name, shape, dtype, chunks=(frames, *shape[1:]), fillvalue=np.nan)
            for name, (shape, dtype) in shapes.items()
        }
        first = 0
        for segment in segments:
            last = first + len(segment["potential_ev"])
            for name, values in segment.items():
                data[name][first:last] = values
            first = last


class Trajectory(AbstractContextManager["Trajectory"]):
    """Reads a trajectory file.

    Attributes:
        time_ps: shape (n_samples,).
        start, temperature_k, replica, n_valid: of each trajectory, shape (n,).
        ptr: first atom of each trajectory, shape (n + 1,).
        names: of the start structures, of each trajectory.
        ends: by number, time (ps), reason and words of the trajectories that ended early.
        attributes: what the writer noted.

    Raises:
        InputError: missing, changed, or no trajectory.
    """

    def __init__(self, path: PathLike) -> None:
        """Open the file."""
        self.path = require(path)
        expected = "a trajectory written by this pipeline"
        self._file = open_hdf5(self.path, expected)
        if self._file.attrs.get("format") != FORMAT or int(self._file.attrs.get("version", 0)) != VERSION:
            self._file.close()
            raise InputError(f"{self.path}: layout of another file; expected {expected}, version {VERSION}")
        skip = ("format", "version")
        self.attributes = {key: json.loads(text) for key, text in self._file.attrs.items() if key not in skip}
        self._numbers = self._file["atomic_numbers"][:]
        self._ptr = self._file["ptr"][:]
        self.time_ps: NDArray[np.float64] = self._file["time_ps"][:]
        self.start: NDArray[np.int64] = self._file["start"][:]
        self.temperature_k: NDArray[np.float64] = self._file["temperature_k"][:]
        self.replica: NDArray[np.int64] = self._file["replica"][:]
        self.n_valid: NDArray[np.int64] = self._file["n_valid"][:]
        self.ptr: NDArray[np.int64] = self._ptr
        names = self.attributes.get("names")
        self.names: list[str] = names if names is not None else [f"start {index}" for index in self.start]
        self.ends: dict[int, dict[str, Any]] = {int(index): end for index, end in self.attributes.get("ends", [])}

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.replica)

    def atomic_numbers(self, index: int) -> NDArray[np.int64]:
        """Of one trajectory, shape (n_atoms,)."""
        numbers: NDArray[np.int64] = self._numbers[self._ptr[index] : self._ptr[index + 1]]
        return numbers

    def positions(self, index: int, frames: slice | Sequence[int] | None = None) -> NDArray[np.float32]:
        """Frames of one trajectory before its end (all by default), shape (n_frames, n_atoms, 3), Å."""
        atoms = slice(int(self._ptr[index]), int(self._ptr[index + 1]))
        kept: NDArray[np.float32] = self._file["positions"][: int(self.n_valid[index]), atoms][
            slice(None) if frames is None else frames
        ]
        return kept

    def start_positions(self, index: int) -> NDArray[np.float64]:
        """Start structure of one trajectory, shape (n_atoms, 3), Å."""
        start: NDArray[np.float64] = self._at_start(
            "start_positions", slice(int(self._ptr[index]), int(self._ptr[index + 1]))
        )
        return start

    def start_potential_ev(self, index: int) -> float:
        """Potential energy of one trajectory's start structure, eV."""
        return float(self._at_start("start_potential_ev", index))

    def _at_start(self, name: str, where: slice | int) -> Any:
        """Part of a table of the start structures.

        Raises:
            InputError: the file was written before they were noted.
        """
        if name not in self._file:
            raise InputError(f"{self.path}: no start structures in it; run the dynamics again")
        return self._file[name][where]

    def block(
        self, frames: slice | NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
        """Samples of all trajectories at once, NaN from their ends on.

        Args:
            frames: a slice, or numbers in ascending order.

        Returns:
            positions (n_frames, n_atoms_total, 3), Å, potential and kinetic energies, each (n_frames, n), eV.
        """
        return tuple(self._file[name][frames] for name in _PARTS)

    def energies(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Potential and kinetic energy of one trajectory before its end, each (n_valid,), eV."""
        n = int(self.n_valid[index])
        return self._file["potential_ev"][:n, index], self._file["kinetic_ev"][:n, index]
