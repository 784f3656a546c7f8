"""Pairs of different molecules whose central atom sees the same distances, or the same distances and angles.

S. N. Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020), show that descriptors of an atom made of distances
(two-body) or of distances and angles (three-body) cannot tell apart some environments, CH4-like ones among them. The
thesis draws such pairs in its figures 6 and 26; those here are constructed for this project.

Three-body pair: four hydrogen atoms at one distance from carbon. Two, u and -u, are opposite to each other. The other
two, v and w, have a fixed angle between each other and lie p above the plane across u in the one molecule, and p above
and p below in the other::

    first:  v.u = +p, w.u = +p        second:  v.u = +p, w.u = -p        both: v.w = c

An atom p below makes the same two angles with u and -u as one p above, in the other order, so that carbon sees the same
six angles: 180°, twice arccos(p) and arccos(-p) each, and arccos(c). Yet the first has both on the side of u and the
second has not. With p = cos 45° and c = 0 both molecules are planar.

Only carbon's environment is the same. The hydrogen atoms see different triangles, so a potential that sums over atoms
can still separate the energies by those; the energy of the carbon atom alone cannot differ where it is made of
distances and angles. A potential with one cutoff between the C-H distance and the shortest H-H distance sees only
carbon's environment and the C-H pairs, and cannot separate the molecules at all if it is three-body; ``bond`` sets the
distance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlip_studies.adequacy.structures import Structure
from mlip_studies.errors import InputError

FloatArray = NDArray[np.float64]

#: angle of v to u, and of v to w, degrees; C-H, Å. The shortest H-H distance is 1.15 times C-H.
POLAR, PAIR, BOND = 70.0, 109.4712206, 1.09
#: the same angles when both molecules are planar; the shortest H-H distance is 0.77 times C-H
PLANAR = (45.0, 90.0)
#: bond and angle of water, Å and degrees
_OH, _HOH = 0.9572, 104.52


def degenerate_environments(
    polar_degrees: float = POLAR, pair_degrees: float = PAIR, bond: float = BOND
) -> tuple[Structure, Structure]:
    """Two different CH4 whose carbon atom sees the same distances and the same angles.

    Args:
        polar_degrees: of v to the axis u, between 0 and 90.
        pair_degrees: between v and w.
        bond: C-H distance, Å.

    Returns:
        the first has v and w on the same side; carbon is atom 0 at the origin, u and -u are atoms 1 and 2.

    Raises:
        InputError: angles that no two directions have, or that make both molecules the same.
    """
    polar, c = np.radians(polar_degrees), np.cos(np.radians(pair_degrees))
    p = np.cos(polar)
    if not (0.0 < polar_degrees < 90.0 and bond > 0):
        raise InputError(
            f"environments: polar angle {polar_degrees} and bond {bond}; expected 0 to 90 degrees, ends left out, and "
            "a positive bond, otherwise both molecules are the same"
        )
    molecules = []
    for name, other in (("ch4-same-side", p), ("ch4-opposite-sides", -p)):
        cosine = (c - p * other) / np.sin(polar) ** 2
        if abs(cosine) > 1 + 1e-12:
            raise InputError(
                f"environments: no directions {polar_degrees} degrees off the axis are {pair_degrees} degrees apart in "
                f"both molecules; expected an angle between them of {180 - 2 * polar_degrees} to {2 * polar_degrees}"
            )
        half = np.arccos(np.clip(cosine, -1.0, 1.0)) / 2
        radial = np.sin(polar) * np.array([np.cos(half), np.sin(half)])
        directions = np.array(
            [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [*radial, p], [radial[0], -radial[1], other]]
        )
        molecules.append(Structure(np.array([6, 1, 1, 1, 1]), bond * directions, name))
    return molecules[0], molecules[1]


def two_body_environments(bond: float = _OH, angle_degrees: float = _HOH) -> tuple[Structure, Structure]:
    """Bent and linear water with equal O-H distances (Å): the same to oxygen if it sees distances alone."""
    molecules = []
    for name, value in (("h2o-bent", angle_degrees), ("h2o-linear", 180.0)):
        half = np.radians(value) / 2
        arms = bond * np.array([[np.sin(half), np.cos(half), 0.0], [-np.sin(half), np.cos(half), 0.0]])
        molecules.append(Structure(np.array([8, 1, 1]), np.vstack([np.zeros((1, 3)), arms]), name))
    return molecules[0], molecules[1]


def central_invariants(structure: Structure, centre: int = 0) -> tuple[FloatArray, FloatArray]:
    """What a three-body descriptor of one atom is made of.

    Args:
        structure: the molecule.
        centre: the atom.

    Returns:
        two-body: rows of (atomic number, distance), shape (n - 1, 2); three-body: rows of (two atomic numbers, their
        two distances, angle between), shape ((n - 1)(n - 2)/2, 5), the smaller (number, distance) first. Å to 1e-9 and
        degrees to 1e-6, and rows in order, so that equal environments give equal arrays.
    """
    numbers = np.delete(structure.atomic_numbers, centre).astype(np.float64)
    arms = np.delete(structure.positions, centre, axis=0) - structure.positions[centre]
    distances = np.linalg.norm(arms, axis=1).round(9)
    pairs = np.column_stack([numbers, distances])
    triples = []
    for i in range(len(arms)):
        for j in range(i):
            low, high = sorted((tuple(pairs[i]), tuple(pairs[j])))
            cross, dot = np.linalg.norm(np.cross(arms[i], arms[j])), arms[i] @ arms[j]
            triples.append([low[0], high[0], low[1], high[1], np.degrees(np.arctan2(cross, dot)).round(6)])
    three = np.array(triples, dtype=np.float64).reshape(-1, 5)
    return pairs[np.lexsort(pairs.T[::-1])], three[np.lexsort(three.T[::-1])]


def same_geometry(first: Structure, second: Structure, tolerance: float = 1e-6) -> bool:
    """Whether two molecules differ by a rotation, a reflection, a shift and an order of atoms at most.

    All orders of the atoms are tried, so the molecules must be small.

    Args:
        first: a molecule.
        second: another.
        tolerance: largest difference of a distance, Å.

    Raises:
        InputError: more than eight atoms.
    """
    from itertools import permutations

    n = len(first)
    if n > 8:
        raise InputError(f"same_geometry: {n} atoms; expected at most 8")
    if n != len(second) or first.formula != second.formula:
        return False
    one, other = (np.linalg.norm(each.positions[:, None] - each.positions, axis=2) for each in (first, second))
    for order in permutations(range(n)):
        chosen = np.array(order)
        if (second.atomic_numbers[chosen] == first.atomic_numbers).all() and (
            np.abs(other[np.ix_(chosen, chosen)] - one).max() <= tolerance
        ):
            return True
    return False
