"""Geometry keys do not change under rotation, reflection, translation and permutation, and nothing else is equal."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mlip_studies.data.geometry import GeometryIndex, distance_descriptor, find_duplicates, shared_geometries
from mlip_studies.data.store import Block, Rows, Store, StoreWriter

Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], dtype=np.uint8)


def as_rows(molecules: list[tuple[np.ndarray, np.ndarray]]) -> Rows:
    ptr = np.concatenate([[0], np.cumsum([len(z) for z, _ in molecules])]).astype(np.int64)
    z = np.concatenate([z for z, _ in molecules]).astype(np.uint8)
    return Rows(np.arange(len(molecules)), z, np.concatenate([x for _, x in molecules]), ptr)


def moved(z: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rotated, reflected, shifted and with its atoms shuffled."""
    order = rng.permutation(len(z))
    rotation = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    return z[order], (-x @ rotation.T + rng.normal(size=3))[order]


def test_descriptor_of_water_by_hand():
    x = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = distance_descriptor(x, np.array([8, 1, 1]))
    # H-H first, then H-O ascending.
    np.testing.assert_allclose(found, [[np.sqrt(5.0), 1.0, 2.0]])


def test_descriptor_is_invariant():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    z2, x2 = moved(Z, x, rng)
    np.testing.assert_allclose(distance_descriptor(x, Z), distance_descriptor(x2, z2), atol=1e-12)


def test_duplicates_are_found_and_others_are_not():
    rng = np.random.default_rng(1)
    pool = [(Z, rng.normal(size=(9, 3))) for _ in range(50)]
    # The same sites with two elements exchanged are another composition or another geometry.
    swapped = (Z[::-1].copy(), pool[3][1])
    shifted = pool[5][1].copy()
    shifted[0, 0] += 0.01
    nearly = pool[6][1] + rng.uniform(-1e-5, 1e-5, size=(9, 3))
    queries = [moved(*pool[7], rng), swapped, (Z, shifted), (Z, nearly), (Z[:4], pool[7][1][:4])]
    assert find_duplicates(as_rows(queries), as_rows(pool)).tolist() == [7, -1, -1, 6, -1]


def test_the_tolerance_decides():
    a = [(np.array([1, 1], dtype=np.uint8), np.array([[0.0, 0, 0], [1.0, 0, 0]]))]
    b = [(np.array([1, 1], dtype=np.uint8), np.array([[0.0, 0, 0], [1.0009, 0, 0]]))]
    assert find_duplicates(as_rows(a), as_rows(b), 1e-3).tolist() == [0]
    assert find_duplicates(as_rows(a), as_rows(b), 5e-4).tolist() == [-1]


def test_single_atoms_and_empty_sets():
    atom = [(np.array([8], dtype=np.uint8), np.zeros((1, 3)))]
    other = [(np.array([1], dtype=np.uint8), np.zeros((1, 3)))]
    assert find_duplicates(as_rows(atom), as_rows(atom)).tolist() == [0]
    assert find_duplicates(as_rows(atom), as_rows(other)).tolist() == [-1]
    empty = Rows(np.zeros(0, int), np.zeros(0, np.uint8), np.zeros((0, 3)), np.zeros(1, np.int64))
    assert find_duplicates(as_rows(atom), empty).tolist() == [-1]
    assert find_duplicates(empty, as_rows(atom)).tolist() == []


def test_blocks_are_labeled_by_source_row():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, 9, 3))
    index = GeometryIndex()
    index.add_block(Block("a", Z, x, {}, {}, np.array([10, 11, 12, 13])))
    z2, x2 = moved(Z, x[2], rng)
    assert index.match_block(Block("b", z2, x2[None], {}, {}, np.array([0]))).tolist() == [12]


def store_of(path: Path, molecules: list[tuple[np.ndarray, np.ndarray]]) -> Store:
    with StoreWriter(path, ["e"], positions_dtype="float64") as writer:
        for number, (z, x) in enumerate(molecules):
            writer.append(z, x[None], {"e": [0.0]}, group=str(number))
    return Store(path)


def by_hand(molecules, rows_a, rows_b, tolerance) -> list[set[int]]:
    """For every row of b all rows of a that are equal, compared one by one."""

    def equal(one: int, other: int) -> bool:
        (z, x), (z2, x2) = molecules[one], molecules[other]
        if sorted(z) != sorted(z2):
            return False
        keys = []
        for numbers, positions in ((z, x), (z2, x2)):
            key = {}
            for i in range(len(numbers)):
                for j in range(i):
                    pair = tuple(sorted((numbers[i], numbers[j])))
                    key.setdefault(pair, []).append(float(np.linalg.norm(positions[i] - positions[j])))
            keys.append({pair: sorted(values) for pair, values in key.items()})
        return all(np.abs(np.subtract(keys[0][pair], keys[1][pair])).max() <= tolerance for pair in keys[0])

    return [{a for a in rows_a if equal(a, b)} for b in rows_b]


@pytest.mark.parametrize("projections", [1, 6])
@pytest.mark.parametrize("chunk_rows", [7, 20_000])
def test_shared_geometries_are_those_found_by_hand(tmp_path, monkeypatch, projections, chunk_rows):
    """Few projections leave many candidates that only the full comparison tells apart."""
    monkeypatch.setattr("mlip_studies.data.geometry._PROJECTIONS", projections)
    monkeypatch.setattr("mlip_studies.data.geometry._QUERIES", 11)
    rng = np.random.default_rng(5)
    molecules = []
    for number in range(30):
        size = int(rng.integers(1, 10))
        z = rng.choice(np.array([1, 6, 8], dtype=np.uint8), size)
        x = rng.normal(size=(size, 3)) * (0.01 if number % 3 == 0 else 1.0)
        molecules.append((z, x))
        for scale in (0.0, 1e-4, 2e-3):
            z2, x2 = moved(z, x + scale * rng.uniform(-1, 1, size=x.shape), rng)
            molecules.append((z2, x2 + 100.0 * rng.normal(size=3)))
    n = len(molecules)
    order = rng.permutation(n)
    a, b = order[: n // 2], np.append(order[n // 2 :], [order[-1], order[0]])
    tolerance = 1e-3
    with store_of(tmp_path / "store.h5", molecules) as store:
        found = shared_geometries(store, a, b, tolerance, chunk_rows)
        expected = by_hand(molecules, a.tolist(), b.tolist(), tolerance)
        assert sum(map(bool, expected)) > 10
        for row, candidates in zip(found.tolist(), expected, strict=True):
            assert row in candidates if candidates else row == -1
        # A row of both sets finds itself.
        assert found[-1] == order[0]
        # The same question to the index in memory.
        index = GeometryIndex(tolerance)
        index.add_rows(store.read(np.sort(a)))
        np.testing.assert_array_equal(index.match_rows(store.read(b)) >= 0, found >= 0)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_shared_geometries_at_the_tolerance(tmp_path, shift):
    """Rounding to single precision must not decide."""
    z = np.array([1, 1], dtype=np.uint8)
    lengths = [1.0, 1.0 + 0.9999e-3, 1.0 + 1.0001e-3]
    molecules = [(z, np.array([[shift, 0, 0], [shift + length, 0, 0]])) for length in lengths]
    with store_of(tmp_path / "store.h5", molecules) as store:
        assert shared_geometries(store, [0], [1, 2], 1e-3).tolist() == [0, -1]


def test_shared_geometries_of_nothing_and_of_atoms(tmp_path):
    atoms = [(np.array([z], dtype=np.uint8), np.full((1, 3), float(number))) for number, z in enumerate([8, 1, 8])]
    with store_of(tmp_path / "store.h5", atoms) as store:
        assert shared_geometries(store, [0], [2, 1]).tolist() == [0, -1]
        assert shared_geometries(store, [], [2, 1]).tolist() == [-1, -1]
        assert shared_geometries(store, [0], []).tolist() == []
        assert shared_geometries(store, [0, 0], [0, 0]).tolist() == [0, 0]


def test_many_equal_geometries(tmp_path):
    """Copies by the hundred neither blow up nor hide the answer."""
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(2, 9, 3))
    molecules = [moved(Z, one, rng) for _ in range(300)] + [moved(Z, other, rng)]
    with store_of(tmp_path / "store.h5", molecules) as store:
        found = shared_geometries(store, np.arange(150), np.arange(150, 301))
        assert (found[:150] >= 0).all() and (found[:150] < 150).all() and found[150] == -1


def test_shared_geometries_need_little_memory(tmp_path):
    """Distances of all rows together would take 20 times as much."""
    script = textwrap.dedent(
        """
        import sys
        import numpy as np
        from mlip_studies.data.geometry import shared_geometries
        from mlip_studies.data.store import Store, StoreWriter
        path, n = sys.argv[1], int(sys.argv[2])
        rng = np.random.default_rng(0)
        with StoreWriter(path, ["e"]) as writer:
            for number in range(n // 500):
                writer.append(np.arange(17) % 3 + 6, 5 * rng.random((500, 17, 3)), {"e": np.zeros(500)})
        with Store(path) as store:
            assert (shared_geometries(store, np.arange(0, n, 2), np.arange(1, n, 2), chunk_rows=1000) < 0).all()
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        """
    )

    def peak(n: int) -> int:
        command = [sys.executable, "-c", script, str(tmp_path / "store.h5"), str(n)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # 40,000 rows with 136 distances of 8 bytes are 44 MB.
    assert peak(42_000) - peak(2_000) < 20_000
