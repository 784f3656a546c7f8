"""Geometry keys do not change under rotation, reflection, translation and permutation, and nothing else is equal."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from mlip_studies.data.geometry import GeometryIndex, distance_descriptor, find_duplicates
from mlip_studies.data.store import Block, Rows

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
