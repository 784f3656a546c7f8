"""Representative molecules of a store: greedy cover of the elements, then farthest points.

S. Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022), p. 3, run dynamics of 20 representative molecules of
QM7-X in which all atom types occur. The paper names no rule; this one is ours:

1. Every group (molecule) is represented by its row of lowest energy, which is also the start structure. Groups whose
   row is in more than one piece or has an odd number of electrons are left out.
2. A group is described by four blocks of numbers, counted from its geometry: fractions of the elements; atoms and heavy
   atoms; independent rings; bonds by pair of elements and class of length (:data:`LENGTH_CLASSES`). Each block is
   centred and scaled to a total variance of one, so that blocks weigh the same and rare kinds of bonds do not outweigh
   all others.
3. The group that adds most elements not yet present is taken until all are covered; then the group farthest (Euclidean)
   from its nearest chosen one, until there are enough. Ties of the cover go to the farther group.
4. What remains tied, such as the first choice, is settled by a random order of the groups that the seed makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist

from mlip_studies.artifacts import PathLike, require, write_text
from mlip_studies.data.molecules import smiles_facts
from mlip_studies.data.store import Store
from mlip_studies.elements import formula, symbol, symbols
from mlip_studies.elements import numbers as atomic_numbers_of
from mlip_studies.errors import InputError

#: two atoms are bonded when they are closer than this times the sum of their covalent radii
BONDED = 1.3
#: upper ends of the classes of bond length, in sums of the covalent radii: carbon's triple bond lies at 0.79, its
#: double and aromatic bonds at 0.87 to 0.92, amide C-N at 0.92, single bonds at 1.0
LENGTH_CLASSES = {"short": 0.835, "medium": 0.945, "long": BONDED}
_CHUNK = 4096


@dataclass(frozen=True)
class Structure:
    """One molecule to start from.

    Attributes:
        name: unique in its set; tables and messages use it.
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
        group: name of its group in the store, or its own name.
        smiles: empty if unknown.
        row: row of the store, -1 if it is not from one.
    """

    name: str
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    group: str = ""
    smiles: str = ""
    row: int = -1

    @property
    def formula(self) -> str:
        """Hill formula."""
        return formula(self.atomic_numbers)


@dataclass(frozen=True)
class Choice:
    """Why a group was chosen.

    Attributes:
        group: its name.
        row: row of lowest energy.
        formula: Hill formula.
        reason: ``cover`` or ``farthest``.
        elements: symbols that it added.
        distance: to the nearest group chosen before, in units of the descriptor; NaN for the first.
    """

    group: str
    row: int
    formula: str
    reason: str
    elements: tuple[str, ...]
    distance: float


@dataclass(frozen=True)
class Representatives:
    """The chosen groups in the order in which they were chosen.

    Attributes:
        choices: one per group.
        missing: symbols of elements that the choice does not cover, because it is too small.
        n_groups: groups with a label.
        n_left_out: of these, groups in pieces or with an odd number of electrons.
        seed: of the ties.
        fidelity: whose energies were compared.
    """

    choices: tuple[Choice, ...]
    missing: tuple[str, ...]
    n_groups: int
    n_left_out: int
    seed: int
    fidelity: str

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers of the store, shape (n,)."""
        return np.array([choice.row for choice in self.choices], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the undefined distance of the first is None."""
        choices = [asdict(choice) for choice in self.choices]
        for entry in choices:
            entry["distance"] = None if np.isnan(entry["distance"]) else entry["distance"]
        return {
            "rule": "greedy cover of the elements, then farthest points",
            "choices": choices,
            "missing_elements": list(self.missing),
            "n_groups": self.n_groups,
            "n_left_out": self.n_left_out,
            "seed": self.seed,
            "fidelity": self.fidelity,
        }


# ---- bonds ----


def bonds(
    atomic_numbers: NDArray[np.integer], positions: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bonds by distance.

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.

    Returns:
        pairs i < j, shape (n_bonds, 2), and their lengths in sums of the covalent radii, shape (n_bonds,). Radii:
        B. Cordero et al., Dalton Trans. 2832 (2008).
    """
    z = np.asarray(atomic_numbers, dtype=np.int64)
    if len(z) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    radii = covalent_radii[z]
    i, j = np.triu_indices(len(z), 1)
    ratio = pdist(np.asarray(positions, dtype=np.float64)) / (radii[i] + radii[j])
    bonded = ratio < BONDED
    return np.stack([i[bonded], j[bonded]], axis=1), ratio[bonded]


def n_pieces(n_atoms: int, pairs: NDArray[np.integer]) -> int:
    """Number of connected parts of a graph of ``n_atoms`` atoms and bonds ``pairs`` (n_bonds, 2)."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_atoms, n_atoms))
    return int(connected_components(graph, directed=False)[0])


def perceived_smiles(atomic_numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> str:
    """Canonical SMILES of a neutral molecule by RDKit's perception of bonds, empty if that fails.

    (Y. Kim and W. Y. Kim, Bull. Korean Chem. Soc. 36, 1769 (2015), as in RDKit's ``rdDetermineBonds``.)

    Args:
        atomic_numbers: shape (n_atoms,).
        positions: shape (n_atoms, 3), Å.
    """
    lines = [
        f"{symbol(int(z))} {x:.6f} {y:.6f} {w:.6f}" for z, (x, y, w) in zip(atomic_numbers, positions, strict=True)
    ]
    with rdBase.BlockLogs():
        molecule = Chem.MolFromXYZBlock("\n".join([str(len(lines)), "", *lines]))
        if molecule is None:
            return ""
        try:
            rdDetermineBonds.DetermineBonds(molecule, charge=0)
            smiles = str(Chem.MolToSmiles(Chem.RemoveHs(molecule)))
        except (ValueError, RuntimeError):
            return ""
    facts = smiles_facts(smiles)
    if facts is None or "." in smiles or facts.charge or facts.mismatch(np.asarray(atomic_numbers)):
        return ""
    return smiles


# ---- choice ----


@dataclass(frozen=True)
class _Descriptors:
    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    usable: NDArray[np.bool_]


def _lowest_rows(store: Store, fidelity: str) -> NDArray[np.int64]:
    """The row of lowest energy of every group that has one, in the order of the groups."""
    energy, group = store.energies(fidelity), store.groups()
    labelled = np.flatnonzero(np.isfinite(energy))
    # The sort is stable: of equal energies the first row counts.
    order = labelled[np.lexsort((energy[labelled], group[labelled]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(group[order]) != 0
    return order[first]


def _describe(store: Store, rows: NDArray[np.int64], elements: Sequence[int]) -> _Descriptors:
    """Blocks of numbers of the rows, each centred and scaled to a total variance of one, side by side."""
    column = {z: index for index, z in enumerate(elements)}
    counts = np.zeros((len(rows), len(elements)), dtype=np.int64)
    sizes, rings = np.zeros((len(rows), 2)), np.zeros((len(rows), 1))
    usable = np.zeros(len(rows), dtype=bool)
    kinds: list[dict[tuple[int, int, int], int]] = []
    ends = np.array(list(LENGTH_CLASSES.values()))
    index = 0
    for chunk in store.iter_chunks(_CHUNK, rows, fidelities=(), forces=False):
        for number in range(len(chunk)):
            z, xyz = chunk.molecule(number)
            z = z.astype(np.int64)
            for value in z:
                counts[index, column[int(value)]] += 1
            pairs, ratio = bonds(z, xyz)
            pieces = n_pieces(len(z), pairs)
            sizes[index] = len(z), (z > 1).sum()
            rings[index] = len(pairs) - len(z) + pieces
            usable[index] = pieces == 1 and z.sum() % 2 == 0
            found: dict[tuple[int, int, int], int] = {}
            ordered = np.sort(z[pairs], axis=1)
            for (a, b), c in zip(ordered.tolist(), np.searchsorted(ends, ratio).tolist(), strict=True):
                found[a, b, c] = found.get((a, b, c), 0) + 1
            kinds.append(found)
            index += 1
    names = sorted(set().union(*kinds)) if kinds else []
    place = {name: number for number, name in enumerate(names)}
    of_bonds = np.zeros((len(rows), len(names)))
    for index, found in enumerate(kinds):
        for name, count in found.items():
            of_bonds[index, place[name]] = count
    fractions = counts / counts.sum(axis=1, keepdims=True)
    blocks = []
    for block in (fractions, sizes, rings, of_bonds):
        centred = block - block[usable].mean(axis=0) if usable.any() else block
        variance = centred[usable].var(axis=0).sum()
        blocks.append(centred / np.sqrt(variance) if variance > 1e-12 else np.zeros_like(centred))
    return _Descriptors(np.hstack(blocks), counts, usable)


def choose_representatives(
    store: Store,
    n: int,
    seed: int = 0,
    elements: Sequence[int | str] | None = None,
    fidelity: str | None = None,
) -> Representatives:
    """Choose molecules that cover the elements of a store and lie far from each other (rule: see the module).

    One row per group is read in detail, so a store of millions of rows is no matter. The same store, seed and numbers
    give the same choice; more molecules with the same seed begin with the same ones.

    Args:
        store: the data.
        n: number of molecules.
        seed: of the random order that settles ties.
        elements: atomic numbers or symbols to cover; all that occur in a molecule to choose from, if not given.
        fidelity: whose energies say which row is lowest; the store's first one if not given.

    Returns:
        the choice in order. With too small an ``n`` some elements stay uncovered, see :attr:`Representatives.missing`.

    Raises:
        InputError: more molecules asked than there are, no labels, or an element that no molecule has.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"representatives: key 'n': {n!r}; expected a number of molecules, at least 1")
    fidelity = fidelity or store.fidelities[0]
    rows = _lowest_rows(store, fidelity)
    if not len(rows):
        raise InputError(f"{store.path}: no energies of fidelity {fidelity!r}; choose another fidelity")
    present = store.elements
    described = _describe(store, rows, present)
    usable = np.flatnonzero(described.usable)
    if n > len(usable):
        raise InputError(
            f"{store.path}: {n} molecules asked, {len(usable)} of {len(rows)} groups are whole and have an even number "
            "of electrons; ask for fewer"
        )
    has = described.counts > 0
    wanted = np.asarray(has[usable].any(axis=0))
    if elements is not None:
        wanted = np.zeros(len(present), dtype=bool)
        for z in atomic_numbers_of(elements):
            if z not in present or not has[usable, present.index(z)].any():
                raise InputError(
                    f"{store.path}: representatives: key 'elements': no molecule with {symbol(z)}; it holds "
                    f"{', '.join(symbols(present))}"
                )
            wanted[present.index(z)] = True
    # The first of several equals is the first in this order.
    usable = usable[np.random.default_rng(seed).permutation(len(usable))]
    values, has = described.values[usable], has[usable]
    nearest = np.full(len(usable), np.inf)
    taken: list[int] = []
    choices = []
    while len(taken) < n:
        gain = (has & wanted).sum(axis=1)
        candidates = gain == gain.max() if gain.any() else np.ones(len(usable), dtype=bool)
        candidates[taken] = False
        best = int(np.argmax(np.where(candidates, nearest, -np.inf)))
        added = np.flatnonzero(has[best] & wanted)
        row = int(rows[usable[best]])
        numbers, _ = store.read([row], fidelities=(), forces=False).molecule(0)
        choices.append(
            Choice(
                group=store.group_names[int(store.groups([row])[0])],
                row=row,
                formula=formula(numbers),
                reason="cover" if gain.any() else "farthest",
                elements=tuple(symbols([present[i] for i in added])),
                distance=float(nearest[best]) if taken else float("nan"),
            )
        )
        wanted[added] = False
        taken.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(values - values[best], axis=1))
    return Representatives(
        choices=tuple(choices),
        missing=tuple(symbols([z for z, open_ in zip(present, wanted, strict=True) if open_])),
        n_groups=len(rows),
        n_left_out=len(rows) - len(usable),
        seed=seed,
        fidelity=fidelity,
    )


def representative_structures(
    store: Store, chosen: Representatives, names: Mapping[str, str] | None = None
) -> list[Structure]:
    """Start structures of a choice.

    Args:
        store: the data.
        chosen: the choice.
        names: group to name; a group that is a number is called ``m<number>`` otherwise, as QM7-X does.
    """
    read = store.read(chosen.rows, fidelities=(), forces=False)
    result = []
    for index, choice in enumerate(chosen.choices):
        stored, coordinates = read.molecule(index)
        z, xyz = stored.astype(np.int64), coordinates.astype(np.float64)
        default = f"m{choice.group}" if choice.group.isdigit() else choice.group
        name = (names or {}).get(choice.group, default)
        result.append(Structure(name, z, xyz, choice.group, perceived_smiles(z, xyz), choice.row))
    return result


def write_representatives(
    store: PathLike, spec: Mapping[str, Any], output: PathLike, report: PathLike | None = None
) -> Representatives:
    """Choose, and write the start structures (extxyz) and what was chosen why (JSON).

    Args:
        store: path of a canonical store.
        spec: ``n``, and optionally ``seed``, ``elements``, ``fidelity`` (see :func:`choose_representatives`) and
            ``names`` (group to name).
        output: extxyz file, see :func:`write_structures`.
        report: JSON file; not written if None.

    Raises:
        InputError: an unknown key, or as :func:`choose_representatives`.
    """
    known = ("n", "seed", "elements", "fidelity", "names")
    if unknown := sorted(set(spec) - set(known)):
        raise InputError(f"representatives: unknown key {unknown[0]!r}; expected {', '.join(known)}")
    if "n" not in spec:
        raise InputError("representatives: key 'n' is missing; expected the number of molecules")
    options = {key: spec[key] for key in ("seed", "elements", "fidelity") if spec.get(key) is not None}
    with Store(store) as opened:
        chosen = choose_representatives(opened, spec["n"], **options)
        structures = representative_structures(opened, chosen, spec.get("names"))
    if chosen.missing:
        print(f"representatives: {spec['n']} molecules do not cover {', '.join(chosen.missing)}")
    write_structures(structures, output)
    if report is not None:
        write_text(report, json.dumps(chosen.to_dict(), indent=2) + "\n")
    return chosen


# ---- files ----


def write_structures(structures: Sequence[Structure], output: PathLike) -> None:
    """Write structures as extxyz, positions in Å to 8 decimals.

    The comment line holds ``name``, ``formula``, ``group``, ``smiles`` and ``store_row``; the last two are left out
    where they are not known, because readers stumble over empty values.

    Raises:
        InputError: no structures, two of one name, or a name that cannot be written.
    """
    if not structures:
        raise InputError(f"{output}: no structures to write; expected at least one")
    names = [structure.name for structure in structures]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{output}: two structures are called {name!r}; give each a name of its own")
    lines = []
    for structure in structures:
        facts = {"name": structure.name, "formula": structure.formula, "group": structure.group or structure.name}
        facts |= {"smiles": structure.smiles} if structure.smiles else {}
        facts |= {"store_row": str(structure.row)} if structure.row >= 0 else {}
        for key, value in facts.items():
            if not value or re.search(r'["\n]', value):
                raise InputError(f"{output}: {key} {value!r} of {structure.name!r}: expected text without quotes")
        lines.append(str(len(structure.atomic_numbers)))
        words = [f'{key}="{_escaped(value)}"' for key, value in facts.items()]
        lines.append(" ".join(["Properties=species:S:1:pos:R:3", *words, 'pbc="F F F"']))
        for z, xyz in zip(structure.atomic_numbers, structure.positions.round(8) + 0.0, strict=True):
            lines.append(f"{symbol(int(z)):2s} " + " ".join(f"{value:14.8f}" for value in xyz))
    write_text(output, "\n".join(lines) + "\n")


def _escaped(text: str) -> str:
    """A backslash is a bond direction in a SMILES, and an escape character to readers."""
    return text.replace("\\", "\\\\")


def read_structures(path: PathLike) -> list[Structure]:
    """Read a file written by :func:`write_structures`; any other (ext)xyz gives names ``<file> <number>``.

    Raises:
        InputError: missing, changed, or not such a file.
    """
    from ase.io import read

    path = require(path)
    try:
        images = read(path, index=":", format="extxyz")
    except Exception as error:
        # ASE's readers raise whatever they stumble over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not an extxyz file of molecules ({reason}); make it anew") from error
    lines = path.read_text(encoding="utf-8").splitlines()
    result, at = [], 0
    for index, atoms in enumerate(images):
        # Read as text: ASE turns a group "1004" into a number and a SMILES "F" into a boolean.
        facts: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', lines[at + 1]))
        at += 2 + len(atoms)
        name = facts.get("name", f"{path.stem} {index}")
        result.append(
            Structure(
                name=name,
                atomic_numbers=atoms.numbers.astype(np.int64),
                positions=atoms.positions.astype(np.float64),
                group=facts.get("group", name),
                smiles=facts.get("smiles", "").replace("\\\\", "\\"),
                row=int(facts.get("store_row", -1)),
            )
        )
    if not result:
        raise InputError(f"{path}: no structures; expected at least one")
    return result


def collect_structures(files: Sequence[PathLike], output: PathLike) -> None:
    """Write the structures of several files into one.

    Raises:
        InputError: a file that is missing or damaged, or two structures of one name.
    """
    write_structures([structure for path in files for structure in read_structures(Path(path))], output)
