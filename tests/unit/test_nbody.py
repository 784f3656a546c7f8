"""Charged-particle trajectories: published vectors, an independent loop, conservation laws, files."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from mlip_studies.data.nbody import (
    NBodySettings,
    edges,
    read_nbody,
    simulate,
    simulate_chunks,
    write_nbody,
)
from mlip_studies.errors import InputError

SHORT = NBodySettings(n_steps=301, save_every=50)
# Walls and the limit of the force are met all the time.
ROUGH = NBodySettings(n_steps=601, save_every=50, box=1.2, max_force=1.5)


@pytest.fixture(scope="module")
def sample():
    return simulate(64, 7)


def pair_distances(trajectories):
    x = trajectories.positions
    first, second = np.triu_indices(x.shape[-1], 1)
    return np.linalg.norm(x[..., first] - x[..., second], axis=2), edges(trajectories.charges)[:, first, second]


def forces_of(trajectories):
    x, q = trajectories.positions, edges(trajectories.charges)
    vectors = x[..., :, None] - x[..., None, :]
    distances = np.linalg.norm(vectors, axis=2) + np.eye(x.shape[-1])
    return (q[:, None] / distances**3)[:, :, None] * vectors


def energies(trajectories, kick=0.5):
    """Total energy of every frame; half a kick moves the saved velocity to the time of the positions."""
    v = trajectories.velocities + kick * NBodySettings().time_step * forces_of(trajectories).sum(axis=-1)
    distances, products = pair_distances(trajectories)
    return 0.5 * (v**2).sum(axis=(2, 3)) + (products[:, None] / distances).sum(axis=-1)


def calm(trajectories):
    """No force was cut and no two particles of a saved frame were close."""
    return (trajectories.clip_events == 0) & (pair_distances(trajectories)[0].min(axis=(1, 2)) > 0.4)


def one_by_one(n, seed, settings):
    """The same physics, one trajectory and one step at a time, written independently of the package."""
    stream = np.random.RandomState(seed)
    s, all_x, all_v = settings, [], []
    for _ in range(n):
        q = stream.choice([-1.0, 1.0], size=(s.n_balls, 1), p=[0.5, 0.5])[:, 0]
        x = stream.randn(3, s.n_balls) * s.position_scale
        v = stream.randn(3, s.n_balls)
        v *= s.speed / np.linalg.norm(v, axis=0)
        frames_x, frames_v = [], []
        for step in range(s.n_steps):
            if step:
                x += s.time_step * v
            for axis, ball in np.ndindex(x.shape):
                if abs(x[axis, ball]) > s.box:
                    side = np.sign(x[axis, ball])
                    x[axis, ball] = 2 * side * s.box - x[axis, ball]
                    v[axis, ball] = -side * abs(v[axis, ball])
            if step and step % s.save_every == 0:
                frames_x.append(x.copy())
                frames_v.append(v.copy())
            for i in range(s.n_balls):
                others = [j for j in range(s.n_balls) if j != i]
                apart = x[:, [i]] - x[:, others]
                force = (s.strength * q[i] * q[others] * apart / np.linalg.norm(apart, axis=0) ** 3).sum(axis=1)
                v[:, i] += s.time_step * np.clip(force, -s.max_force, s.max_force)
        stream.randn(2, len(frames_x), 3, s.n_balls)
        all_x.append(frames_x)
        all_v.append(frames_v)
    return np.array(all_x), np.array(all_v)


@pytest.mark.parametrize("seed", [42, 43])
def test_published_trajectory(parity_folder, seed):
    """Seed 43 meets a wall once and the limit of the force thirty times."""
    expected = np.load(parity_folder / "se3transformer" / f"nbody_seed{seed}_traj0.npz")
    found = simulate(2, seed)
    assert np.abs(found.positions[0] - expected["loc"]).max() < 1e-9
    assert np.abs(found.velocities[0] - expected["vel"]).max() < 1e-9
    assert np.array_equal(found.charges[0], expected["charges"][:, 0])
    assert np.array_equal(edges(found.charges)[0], expected["edges"])
    assert (found.wall_events[0], found.clip_events[0]) == ((0, 0) if seed == 42 else (1, 30))


@pytest.mark.parametrize(("settings", "n"), [(SHORT, 4), (ROUGH, 3)])
def test_against_a_plain_loop(settings, n):
    found = simulate(n, 11, settings)
    positions, velocities = one_by_one(n, 11, settings)
    assert found.positions.shape == (n, settings.n_frames, 3, settings.n_balls)
    assert np.abs(found.positions - positions).max() < 1e-9
    assert np.abs(found.velocities - velocities).max() < 1e-9
    if settings is ROUGH:
        assert found.wall_events.sum() > 3
        assert (found.clip_events > 0).all()


def test_numbers_do_not_depend_on_chunks_or_count(sample):
    """Not even where the dynamics amplifies the last digit."""
    assert (sample.clip_events[:5] > 100).any()
    parts = list(simulate_chunks(5, 7, chunk=3))
    assert [len(part) for part in parts] == [3, 2]
    for name in ("positions", "velocities", "charges", "wall_events", "clip_events"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(sample, name)[:5]), name
    assert not np.allclose(simulate(1, 8, SHORT).positions, simulate(1, 7, SHORT).positions)


def test_initial_conditions():
    """One step after the start speed and spread are still those that were drawn."""
    settings = NBodySettings(n_steps=3, save_every=1, strength=0.0)
    found = simulate(400, 1, settings)
    assert found.positions.shape[1] == 2
    assert np.allclose(np.linalg.norm(found.velocities, axis=2), 0.5)
    assert found.positions.std() == pytest.approx(1.0, abs=0.03)
    assert set(np.unique(found.charges)) == {-1.0, 1.0}
    assert found.charges.mean() == pytest.approx(0.0, abs=0.1)
    assert np.allclose(found.positions[:, 1] - found.positions[:, 0], 0.001 * found.velocities[:, 1])


def test_energy_is_conserved_without_walls(sample):
    rows = calm(sample) & (sample.wall_events == 0)
    assert rows.sum() >= 3
    total = energies(sample)[rows]
    assert np.abs(total - total[:, :1]).max() < 5e-5
    # The saved velocity itself is half a kick early.
    early = energies(sample, kick=0.0)[rows]
    assert np.abs(early - early[:, :1]).max() > 50 * np.abs(total - total[:, :1]).max()


def test_energy_between_walls(sample):
    """A reflection keeps the speed and moves a particle by less than a step."""
    rows = calm(sample) & (sample.wall_events > 0)
    assert rows.sum() >= 2
    total = energies(sample)[rows]
    assert np.abs(total - total[:, :1]).max() < 5e-4
    momentum = sample.velocities[rows].sum(axis=-1)
    assert (np.abs(momentum - momentum[:, :1]).max(axis=(1, 2)) > 1e-3).all()


def test_momentum_without_walls(sample):
    rows = (sample.clip_events == 0) & (sample.wall_events == 0)
    assert rows.sum() >= 5
    momentum = sample.velocities[rows].sum(axis=-1)
    assert np.abs(momentum - momentum[:, :1]).max() < 1e-11


def test_box_is_closed():
    found = simulate(8, 5, ROUGH)
    assert np.abs(found.positions).max() <= ROUGH.box
    open_box = simulate(8, 5, NBodySettings(n_steps=601, save_every=50, box=100.0, max_force=1.5))
    assert np.abs(open_box.positions).max() > ROUGH.box
    assert (open_box.wall_events == 0).all()


def test_noise_is_added_to_what_is_saved():
    clean = simulate(20, 3, SHORT)
    noisy = simulate(20, 3, NBodySettings(n_steps=301, save_every=50, noise=0.1))
    assert np.array_equal(clean.charges, noisy.charges)
    for name in ("positions", "velocities"):
        difference = getattr(noisy, name) - getattr(clean, name)
        assert difference.std() == pytest.approx(0.1, rel=0.1)
        assert abs(difference.mean()) < 0.02


def test_file_round_trip(tmp_path, capsys):
    path = tmp_path / "deep" / "nbody.npz"
    # Large enough for the arrays to be mapped.
    write_nbody(path, 90, 20, 9, SHORT)
    assert "nbody: 110 of 110 trajectories" in capsys.readouterr().out
    data, expected = read_nbody(path), simulate(110, 9, SHORT)
    assert (data.n_train, data.n_test, data.seed, data.settings) == (90, 20, 9, SHORT)
    assert isinstance(data.trajectories.positions, np.memmap)
    assert (len(data.train), len(data.test)) == (90, 20)
    for name in ("positions", "velocities", "charges", "wall_events", "clip_events"):
        assert np.array_equal(getattr(data.train, name), getattr(expected, name)[:90]), name
        assert np.array_equal(getattr(data.test, name), getattr(expected, name)[90:]), name
    with np.load(path, allow_pickle=False) as archive:
        assert np.array_equal(archive["positions"], expected.positions)
        assert np.array_equal(archive["velocities"], expected.velocities)
    # Twice the same content, and no other file is left behind.
    again = tmp_path / "again.npz"
    write_nbody(again, 90, 20, 9, SHORT)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".sha256", "nbody.npz"]


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("mlip_studies.data.nbody.simulate_chunks", stop)
    with pytest.raises(KeyboardInterrupt):
        write_nbody(tmp_path / "nbody.npz", 3, 1, 9, SHORT)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "nbody.npz"
    with pytest.raises(InputError, match="no such file"):
        read_nbody(path)
    path.write_text("not an archive")
    with pytest.raises(InputError, match=r"nbody\.npz: not a file of n-body trajectories"):
        read_nbody(path)
    np.savez(path, positions=np.zeros((2, 3)))
    with pytest.raises(InputError, match="not a file of n-body trajectories"):
        read_nbody(path)
    write_nbody(path, 2, 1, 9, SHORT)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(InputError, match="checksum"):
        read_nbody(path)
    # Charges of another shape, in an otherwise whole archive.
    whole, wrong = tmp_path / "whole.npz", tmp_path / "wrong.npz"
    whole.write_bytes(content)
    with np.load(whole) as archive:
        np.savez(wrong, **{**archive, "charges": archive["charges"][:, :4]})
    with pytest.raises(InputError, match=r"charges has shape \(3, 4\) instead of \(3, 5\)"):
        read_nbody(wrong)
    with zipfile.ZipFile(whole) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(("n_train", "n_test", "seed"), [(0, 5, 1), (5, -1, 1), (5, 1, -1), (5, 1, 2**32)])
def test_bad_numbers_are_named(tmp_path, n_train, n_test, seed):
    with pytest.raises(InputError, match=str(seed if n_train and n_test > 0 else n_test)):
        write_nbody(tmp_path / "nbody.npz", n_train, n_test, seed, SHORT)
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="save_every 100"):
        NBodySettings(n_steps=100)
