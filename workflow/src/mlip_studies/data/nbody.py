"""Trajectories of charged particles in a box, the N-body benchmark of equivariant networks.

Five particles of charge +1 or -1 move under Coulomb forces (T. Kipf et al., ICML 2018; in three dimensions F. Fuchs et
al., NeurIPS 2020). Time, length, mass and charge are in the units of the simulation, in which masses and the coupling
are 1.

Forces change as 1/r², so that close encounters amplify differences: trajectories without many of them are reproduced
to the last digits on any machine, the others only statistically.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FORMAT = "mlip-studies n-body 1"
# Trajectories moved at once: many hide the cost of the interpreter (some 900 a second on one core, against 5 one by
# one), more no longer fit the cache.
CHUNK = 2048


@dataclass(frozen=True)
class NBodySettings:
    """The simulated system, in its own units; the defaults are those of the benchmark.

    Attributes:
        n_balls: number of particles.
        box: walls stand at plus and minus this coordinate.
        position_scale: standard deviation of the initial coordinates.
        speed: initial speed of every particle.
        strength: factor of the Coulomb force.
        noise: standard deviation of the noise on saved positions and velocities.
        time_step: integration step.
        n_steps: number of steps, the initial half-open one included.
        save_every: every so many steps a frame is saved, except at the start.
        max_force: limit of every component of the force on a particle.
    """

    n_balls: int = 5
    box: float = 5.0
    position_scale: float = 1.0
    speed: float = 0.5
    strength: float = 1.0
    noise: float = 0.0
    time_step: float = 0.001
    n_steps: int = 5000
    save_every: int = 100
    max_force: float = 100.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a setting is out of range.
        """
        if self.n_balls < 2 or self.save_every < 1 or self.n_steps <= self.save_every:
            raise InputError(
                f"n-body settings: n_balls {self.n_balls}, n_steps {self.n_steps}, save_every {self.save_every}; "
                "expected at least two particles and more steps than save_every"
            )

    @property
    def n_frames(self) -> int:
        """Number of saved frames, at the steps save_every, 2 save_every, ... before n_steps."""
        return (self.n_steps - 1) // self.save_every


@dataclass(frozen=True)
class Trajectories:
    """Simulated trajectories.

    Attributes:
        positions: shape (n, n_frames, 3, n_balls).
        velocities: shape (n, n_frames, 3, n_balls), before the kick of the saved step.
        charges: shape (n, n_balls), -1 or 1.
        wall_events: reflections of coordinates in each trajectory, shape (n,).
        clip_events: force components cut to the limit in each trajectory, shape (n,).
    """

    positions: FloatArray
    velocities: FloatArray
    charges: FloatArray
    wall_events: IntArray
    clip_events: IntArray

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.charges)

    def __getitem__(self, rows: slice) -> Trajectories:
        """A range of trajectories."""
        return Trajectories(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class NBodyData:
    """A file of trajectories, the training set first.

    Attributes:
        trajectories: all trajectories; positions and velocities are mapped from the file.
        settings: the simulated system.
        n_train: size of the training set.
        n_test: size of the test set.
        seed: seed of the random numbers.
    """

    trajectories: Trajectories
    settings: NBodySettings
    n_train: int
    n_test: int
    seed: int

    @property
    def train(self) -> Trajectories:
        """The training set."""
        return self.trajectories[: self.n_train]

    @property
    def test(self) -> Trajectories:
        """The test set."""
        return self.trajectories[self.n_train :]


def edges(charges: FloatArray) -> FloatArray:
    """Products of charges, shape (..., n_balls, n_balls), the diagonal included, from (..., n_balls), dimensionless."""
    return charges[..., :, None] * charges[..., None, :]


def _draw(
    stream: np.random.RandomState, n: int, settings: NBodySettings
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Charges (n, n_balls), positions and velocities (n, 3, n_balls), noise (2, n, n_frames, 3, n_balls) or empty.

    One stream serves trajectory after trajectory, in each the charges, positions, velocities and the noise, which is
    drawn even where its variance is zero. The dynamics uses no random numbers, so all that a chunk needs can be drawn
    before it moves.
    """
    balls, shape = settings.n_balls, (2, settings.n_frames, 3, settings.n_balls)
    charges, start = np.empty((n, balls)), np.empty((2, n, 3, balls))
    noise = np.empty((2, n, *shape[1:])) if settings.noise else np.empty(0)
    for row in range(n):
        charges[row] = np.where(stream.random_sample(balls) < 0.5, -1.0, 1.0)
        start[:, row] = stream.standard_normal((2, 3, balls))
        draw = stream.standard_normal(shape)
        if settings.noise:
            noise[:, row] = draw
    positions, velocities = start
    velocities *= settings.speed / np.sqrt((velocities**2).sum(axis=1, keepdims=True))
    return charges, positions * settings.position_scale, velocities, noise


class _Forces:
    """Coulomb forces on all particles of many trajectories, in work arrays that are kept.

    Particle pairs are in the order 01, 02, ..., 12, 13, ...; the last axis is the trajectory. All sums run in a fixed
    order and no array library function chooses another one by size, so a trajectory does not depend on its
    neighbours.
    """

    def __init__(self, charges: FloatArray, settings: NBodySettings) -> None:
        n, balls = charges.shape
        self.limit = settings.max_force
        first, second = np.triu_indices(balls, 1)
        self.coupling = settings.strength * (charges[:, first] * charges[:, second]).T
        starts = np.cumsum([0, *range(balls - 1, 0, -1)])
        self.blocks = [slice(a, b) for a, b in itertools.pairwise(starts)]
        pairs = len(first)
        self.vectors, self.products = np.empty((3, pairs, n)), np.empty((3, pairs, n))
        self.squares, self.roots = np.empty((pairs, n)), np.empty((pairs, n))
        self.forces = np.empty((3, balls, n))
        self.clip_events = np.zeros(n, dtype=np.int64)

    def __call__(self, positions: FloatArray) -> FloatArray:
        """Forces at positions of shape (3, n_balls, n), clipped; the array is reused by the next call."""
        vectors, products, forces = self.vectors, self.products, self.forces
        for ball, block in enumerate(self.blocks):
            np.subtract(positions[:, ball, None], positions[:, ball + 1 :], out=vectors[:, block])
        np.multiply(vectors, vectors, out=products)
        np.add(products[0], products[1], out=self.squares)
        self.squares += products[2]
        np.sqrt(self.squares, out=self.roots)
        self.squares *= self.roots
        np.divide(self.coupling, self.squares, out=self.roots)
        vectors *= self.roots
        forces[:] = 0.0
        for ball, block in enumerate(self.blocks):
            forces[:, ball + 1 :] -= vectors[:, block]
            for pair in range(block.start, block.stop):
                forces[:, ball] += vectors[:, pair]
        if forces.max() > self.limit or forces.min() < -self.limit:
            self.clip_events += (np.abs(forces) > self.limit).sum(axis=(0, 1))
            np.clip(forces, -self.limit, self.limit, out=forces)
        return forces


def _reflect(positions: FloatArray, velocities: FloatArray, box: float, events: IntArray) -> None:
    """Mirror coordinates beyond a wall and turn their velocity inwards, in place; (3, n_balls, n)."""
    if positions.max() <= box and positions.min() >= -box:
        return
    for sign in (1.0, -1.0):
        over = sign * positions > box
        positions[over] = sign * 2 * box - positions[over]
        velocities[over] = -sign * np.abs(velocities[over])
        events += over.sum(axis=(0, 1))


def _move(charges: FloatArray, positions: FloatArray, velocities: FloatArray, settings: NBodySettings) -> Trajectories:
    """Trajectories from initial conditions (n, n_balls), (n, 3, n_balls), (n, 3, n_balls)."""
    n, dt = len(charges), settings.time_step
    x, v = (np.ascontiguousarray(start.transpose(1, 2, 0)) for start in (positions, velocities))
    frames = np.empty((2, settings.n_frames, *x.shape))
    walls = np.zeros(n, dtype=np.int64)
    force, scratch = _Forces(charges, settings), np.empty_like(x)
    _reflect(x, v, settings.box, walls)
    v += np.multiply(force(x), dt, out=scratch)
    # The benchmark kicks by a whole step before the first drift, and a saved velocity lacks the kick of its step.
    for step in range(1, settings.n_steps):
        x += np.multiply(v, dt, out=scratch)
        _reflect(x, v, settings.box, walls)
        if step % settings.save_every == 0:
            frames[:, step // settings.save_every - 1] = x, v
        v += np.multiply(force(x), dt, out=scratch)
    saved_x, saved_v = np.ascontiguousarray(frames.transpose(0, 4, 1, 2, 3))
    return Trajectories(saved_x, saved_v, charges, walls, force.clip_events)


def simulate_chunks(
    n: int, seed: int, settings: NBodySettings | None = None, chunk: int = CHUNK
) -> Iterator[Trajectories]:
    """Simulate trajectories in chunks; the numbers do not depend on the size of the chunks.

    Args:
        n: number of trajectories.
        seed: seed of the random numbers.
        settings: the system; by default that of the benchmark.
        chunk: largest number of trajectories simulated together.

    Raises:
        InputError: a number is out of range.
    """
    settings = settings or NBodySettings()
    if n < 1 or chunk < 1 or not 0 <= seed < 2**32:
        raise InputError(f"n-body: {n} trajectories with seed {seed}; expected at least one and a seed below 2^32")
    stream = np.random.RandomState(seed)
    for first in range(0, n, chunk):
        charges, positions, velocities, noise = _draw(stream, min(chunk, n - first), settings)
        result = _move(charges, positions, velocities, settings)
        if settings.noise:
            result.positions[:] += noise[0] * settings.noise
            result.velocities[:] += noise[1] * settings.noise
        yield result


def simulate(n: int, seed: int, settings: NBodySettings | None = None) -> Trajectories:
    """Simulate trajectories in memory (12 kB each); see :func:`simulate_chunks`."""
    chunks = list(simulate_chunks(n, seed, settings))
    return Trajectories(*(np.concatenate([getattr(c, field.name) for c in chunks]) for field in fields(Trajectories)))


def _member(name: str) -> zipfile.ZipInfo:
    # The fixed date of an empty record: equal trajectories give equal files.
    return zipfile.ZipInfo(f"{name}.npy")


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})


def write_nbody(path: PathLike, n_train: int, n_test: int, seed: int, settings: NBodySettings | None = None) -> None:
    """Simulate a training and a test set from one stream of random numbers and write them as an npz file.

    The file holds ``positions`` and ``velocities`` (n_train + n_test, n_frames, 3, n_balls), ``charges`` (n, n_balls),
    ``wall_events`` and ``clip_events`` (n,) and ``settings``, JSON text; products of charges follow from
    :func:`edges`. Memory does not grow with the number of trajectories; about 12 kB of disk are needed for each, and
    half as much again while writing.

    Args:
        path: the file, replaced when it is whole.
        n_train: size of the training set, simulated first.
        n_test: size of the test set.
        seed: seed of the random numbers.
        settings: the system; by default that of the benchmark.

    Raises:
        InputError: a number is out of range, or the folder cannot be written to.
    """
    settings = settings or NBodySettings()
    if n_train < 1 or n_test < 0:
        raise InputError(f"n-body: n_train {n_train}, n_test {n_test}; expected at least one and none trajectories")
    n = n_train + n_test
    shape = (n, settings.n_frames, 3, settings.n_balls)
    facts = {"format": FORMAT, "n_train": n_train, "n_test": n_test, "seed": seed, "system": asdict(settings)}
    small: dict[str, list[np.ndarray]] = {"charges": [], "wall_events": [], "clip_events": []}
    start = last = time.monotonic()
    done = 0
    with (
        atomic_path(path) as temporary,
        tempfile.TemporaryFile(dir=Path(path).parent) as velocities,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        # Both large arrays grow together, but the members of an archive are written one after the other.
        with archive.open(_member("positions"), "w", force_zip64=True) as positions:
            _write_header(positions, shape)
            for part in simulate_chunks(n, seed, settings):
                positions.write(part.positions.astype("<f8", copy=False).tobytes())
                velocities.write(part.velocities.astype("<f8", copy=False).tobytes())
                for name, values in small.items():
                    values.append(getattr(part, name))
                done += len(part)
                if done == n or time.monotonic() - last > 10:
                    last = time.monotonic()
                    print(f"nbody: {done} of {n} trajectories, {done / (last - start):.0f}/s", flush=True)
        velocities.seek(0)
        with archive.open(_member("velocities"), "w", force_zip64=True) as member:
            _write_header(member, shape)
            shutil.copyfileobj(velocities, member, 1 << 22)
        arrays = {name: np.concatenate(values) for name, values in small.items()}
        for name, array in (*arrays.items(), ("settings", np.array(json.dumps(facts, sort_keys=True)))):
            with archive.open(_member(name), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_nbody(path: PathLike) -> NBodyData:
    """Open a file of trajectories; positions and velocities stay on disk until they are used.

    Raises:
        InputError: missing, changed since it was written, or not such a file.
    """
    path = require(path)
    names = [field.name for field in fields(Trajectories)]
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(str(_array(path, archive, "settings")))
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise ValueError("its settings are of another format")
            settings = NBodySettings(**facts["system"])
            n_train, n_test, seed = (int(facts[key]) for key in ("n_train", "n_test", "seed"))
            trajectories = Trajectories(**{name: _array(path, archive, name) for name in names})
        shape = (n_train + n_test, settings.n_frames, 3, settings.n_balls)
        expected = (shape, shape, (shape[0], shape[3]), shape[:1], shape[:1])
        for name, wanted in zip(names, expected, strict=True):
            found = getattr(trajectories, name).shape
            if found != wanted:
                raise ValueError(f"{name} has shape {found} instead of {wanted}")
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of n-body trajectories ({error}); expected one written by the rule nbody, remove it "
            "to have it made again"
        ) from None
    return NBodyData(trajectories, settings, n_train, n_test, seed)


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of the archive; large ones are mapped, which works because members are stored uncompressed."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        if info.file_size < 1 << 16 or info.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(stream, allow_pickle=False)
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"array {name} has format version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        header = stream.tell()
    with path.open("rb") as file:
        # The local header repeats the name and may hold an extra field of another length than the directory's.
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), dtype="<u2")
    offset = info.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")
