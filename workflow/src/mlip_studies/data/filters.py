"""Selections of configurations, each a named rule with a reason for the funnel table.

A filter is made from an item of a data set's ``filters`` list, ``{name: ..., option: value, ...}``, and sees the blocks
that the filters before it left, in the order of the file. It keeps count of what it saw, so that ``reason`` can say it
once all blocks have passed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlip_studies import elements as periodic
from mlip_studies.data.molecules import smiles_facts
from mlip_studies.data.readers.qm7x import parse_id
from mlip_studies.data.store import Block
from mlip_studies.errors import InputError

# A robust estimate of the standard deviation of normally distributed numbers is this times the median deviation.
_MAD_TO_SIGMA = 1.4826


class Filter(ABC):
    """A rule that keeps or drops configurations.

    Attributes:
        name: its name in the configuration and in the funnel.
        source: the file that is being read, for messages; whoever reads sets it.
    """

    name: ClassVar[str]
    source: str = ""

    @abstractmethod
    def keep(self, block: Block) -> NDArray[np.bool_]:
        """Which frames stay, shape (n_frames,).

        Raises:
            InputError: the block lacks what the rule needs.
        """

    @abstractmethod
    def reason(self) -> str:
        """What the rule asks for and what it met, in one phrase."""

    def _fail(self, block: Block, problem: str) -> InputError:
        where = f"{self.source}: " if self.source else ""
        return InputError(f"{where}group {block.group}: {problem}")

    def _info(self, block: Block, key: str) -> str:
        value = block.info.get(key, "")
        if not value:
            raise self._fail(block, f"it has no {key}, which the filter {self.name} needs; remove the filter")
        return value

    def _column(self, block: Block, key: str) -> NDArray[Any]:
        if key not in block.columns:
            raise self._fail(block, f"it has no column {key}, which the filter {self.name} needs; remove the filter")
        return block.columns[key]


def _all(block: Block, keep: bool) -> NDArray[np.bool_]:
    return np.full(len(block), keep)


def _listing(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{n} of {key}" for key, n in sorted(counts.items(), key=lambda item: str(item[0])))


@dataclass
class Neutral(Filter):
    """Keeps molecules whose total formal charge, the sum over the atoms of the SMILES, is zero.

    The atoms must be those of the SMILES, in the order of its map numbers if it has them.

    Attributes:
        on_bad_smiles: ``error`` or ``drop``: what to do with a SMILES that cannot be parsed or is of other atoms.
    """

    name: ClassVar[str] = "neutral"
    on_bad_smiles: str = "error"
    charges: Counter[int] = field(default_factory=Counter, init=False)
    bad: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.on_bad_smiles not in ("error", "drop"):
            raise InputError(f"filters.neutral.on_bad_smiles: {self.on_bad_smiles!r}; expected error or drop")

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        smiles = self._info(block, "smiles")
        facts = smiles_facts(smiles)
        problem = "RDKit cannot parse it" if facts is None else facts.mismatch(block.atomic_numbers)
        if problem is not None:
            if self.on_bad_smiles == "error":
                raise self._fail(
                    block, f"SMILES {smiles[:80]!r}: {problem}; repair the group or set `on_bad_smiles: drop`"
                )
            self.bad += len(block)
            return _all(block, False)
        assert facts is not None
        if facts.charge != 0 and len(block):
            self.charges[facts.charge] += len(block)
        return _all(block, facts.charge == 0)

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        charged = ", ".join(f"{n} of charge {charge:+d}" for charge, n in sorted(self.charges.items()))
        parts = [f"total formal charge of the SMILES not 0: {charged or 'none'}"]
        if self.bad:
            parts.append(f"{self.bad} with a SMILES that cannot be parsed or is of other atoms")
        return "; ".join(parts)


class Elements(Filter):
    """Keeps molecules of certain elements only.

    Args:
        keep: the elements.

    Attributes:
        allowed: their atomic numbers.
    """

    name = "elements"

    def __init__(self, keep: list[str]) -> None:
        self.allowed = np.array(periodic.numbers(keep))
        self._dropped: Counter[str] = Counter()

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        outside = np.setdiff1d(block.atomic_numbers, self.allowed)
        for name in periodic.symbols(outside) if len(block) else ():
            self._dropped[name] += len(block)
        return _all(block, len(outside) == 0)

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        dropped = ", ".join(f"{n} with {name}" for name, n in sorted(self._dropped.items()))
        return f"elements other than {', '.join(periodic.symbols(self.allowed))}: {dropped or 'none'}"


@dataclass
class Subsets(Filter):
    """Keeps molecules by the beginning of their subset's name.

    Attributes:
        prefixes: the name must begin with one of these.
        exclude: the name must begin with none of these.
    """

    name: ClassVar[str] = "subsets"
    prefixes: list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter, init=False)
    met: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if not self.prefixes and not self.exclude:
            raise InputError("filters.subsets: expected `prefixes` or `exclude` with at least one subset")

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        subset = self._info(block, "subset")
        found = {prefix for prefix in (*(self.prefixes or ()), *self.exclude) if subset.startswith(prefix)}
        self.met |= found
        wanted = not self.prefixes or any(prefix in found for prefix in self.prefixes)
        keep = wanted and not any(prefix in found for prefix in self.exclude)
        if not keep and len(block):
            self.dropped[subset] += len(block)
        return _all(block, keep)

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        rules = []
        if self.prefixes:
            rules.append(f"subset begins with none of {', '.join(self.prefixes)}")
        if self.exclude:
            rules.append(f"subset begins with {', '.join(self.exclude)}")
        text = f"{' or '.join(rules)}: {_listing(self.dropped) or 'none'}"
        absent = [prefix for prefix in (*(self.prefixes or ()), *self.exclude) if prefix not in self.met]
        return text + (f"; not met at all: {', '.join(absent)}" if absent else "")


@dataclass
class MaxForce(Filter):
    """Drops frames with a force component above a limit (frames without forces stay).

    Attributes:
        ev_per_angstrom: the limit. SPICE's own limit of 1 hartree/bohr is 51.4 eV/Å.
        fidelity: whose forces; all by default.
    """

    name: ClassVar[str] = "max_force"
    ev_per_angstrom: float
    fidelity: str | None = None
    largest: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if not self.ev_per_angstrom > 0:
            raise InputError(f"filters.max_force.ev_per_angstrom: {self.ev_per_angstrom}; expected a positive number")

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        keep = _all(block, True)
        for name, forces in block.forces.items():
            if len(block) and self.fidelity in (None, name):
                largest = np.abs(forces).max(axis=(1, 2))
                # NaN, which stands for no label, compares false.
                keep &= ~(largest > self.ev_per_angstrom)
                self.largest = max(self.largest, float(np.max(largest, initial=0.0, where=~np.isnan(largest))))
        return keep

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        which = f" of {self.fidelity}" if self.fidelity else ""
        return f"a force component{which} above {self.ev_per_angstrom:g} eV/Å (largest met: {self.largest:.4g} eV/Å)"


@dataclass
class EnergyOutliers(Filter):
    """Drops frames whose energy is far from the median of their molecule.

    A frame goes if |E - median| > max(threshold · 1.4826 · MAD, floor_ev), with the median absolute deviation MAD of
    the frames of its group (a group of more frames than a block is judged block by block). The defaults remove
    calculations that ended in another state (off by tens of eV and more; SPICE holds dipeptides 2000 eV too low)
    and leave strained or dissociating conformations (a few eV) alone: the floor is about twice the energy of a
    C-C bond, and a threshold of 15 is never reached by thermal samples.

    Attributes:
        threshold: in robust standard deviations.
        floor_ev: deviations below this stay, in eV.
        min_frames: groups of fewer frames are not judged.
        fidelity: whose energies; all by default.
    """

    name: ClassVar[str] = "energy_outliers"
    threshold: float = 15.0
    floor_ev: float = 8.0
    min_frames: int = 5
    fidelity: str | None = None
    groups: set[str] = field(default_factory=set, init=False)
    largest: float = field(default=0.0, init=False)
    small: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.floor_ev >= 0 and self.min_frames >= 1):
            raise InputError("filters.energy_outliers: expected threshold > 0, floor_ev >= 0 and min_frames >= 1")

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        keep = _all(block, True)
        for name, energies in block.energies.items():
            labeled = np.isfinite(energies)
            if self.fidelity not in (None, name) or not labeled.any():
                continue
            if labeled.sum() < self.min_frames:
                self.small += int(labeled.sum())
                continue
            median = np.median(energies[labeled])
            deviation = np.abs(energies - median)
            limit = max(self.threshold * _MAD_TO_SIGMA * float(np.median(deviation[labeled])), self.floor_ev)
            far = deviation > limit
            keep &= ~far
            if far.any():
                self.groups.add(block.group)
                self.largest = max(self.largest, float(deviation[far].max()))
        return keep

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        which = f" of {self.fidelity}" if self.fidelity else ""
        rule = f"energy{which} more than max({self.threshold:g} robust deviations, {self.floor_ev:g} eV) from its group"
        found = f"{len(self.groups)} groups affected, the largest deviation is {self.largest:.4g} eV"
        return f"{rule}: {found if self.groups else 'none'}; {self.small} frames in groups too small to be judged"


class ListedDuplicates(Filter):
    """Drops the equilibrium structures of QM7-X's list of duplicates together with all structures displaced from them.

    Args:
        path: the list, one id such as ``Geom-m1-i1-c1-opt`` per line.

    Raises:
        InputError: no such file, or a line that is no id.
    """

    name = "listed_duplicates"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the list of duplicates (files with `role: duplicates`)")
        self._listed: set[tuple[int, int, int]] = set()
        self._met: set[tuple[int, int, int]] = set()
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                name = line.decode("utf-8", "replace").strip()
                parsed = parse_id(name)
                if parsed is None or parsed.displacement != 0:
                    raise InputError(
                        f"{path}, line {number}: {name[:40]!r}, expected the id of an equilibrium structure "
                        "such as Geom-m1-i1-c1-opt; fetch the file again"
                    )
                self._listed.add((parsed.molecule, parsed.isomer, parsed.conformer))
        if not self._listed:
            raise InputError(f"{path}: it is empty, expected a list of duplicates; fetch the file again")
        # Indexed by molecule, because a block is of one molecule.
        self._by_molecule: dict[int, set[tuple[int, int]]] = {}
        for molecule, isomer, conformer in self._listed:
            self._by_molecule.setdefault(molecule, set()).add((isomer, conformer))

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        isomer, conformer = self._column(block, "isomer"), self._column(block, "conformer")
        displacement = self._column(block, "displacement")
        drop = _all(block, False)
        molecule = int(block.group) if block.group.isdecimal() else -1
        for one, other in self._by_molecule.get(molecule, ()):
            found = (isomer == one) & (conformer == other)
            drop |= found
            if (found & (displacement == 0)).any():
                self._met.add((molecule, one, other))
        return ~drop

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        missing = len(self._listed) - len(self._met)
        return (
            f"listed as duplicates, with their displaced structures: {len(self._listed)} ids listed, "
            f"{len(self._met)} met, {missing} not met"
        )


@dataclass
class _OneKind(Filter):
    """Keeps only or none of the frames of a kind that a column tells.

    Attributes:
        which: ``only`` or ``none``.
    """

    column: ClassVar[str]
    value: ClassVar[int]
    # What goes, for each choice.
    reasons: ClassVar[Mapping[str, str]]
    which: str

    def __post_init__(self) -> None:
        if self.which not in self.reasons:
            raise InputError(f"filters.{self.name}.keep: {self.which!r}; expected only or none")

    def keep(self, block: Block) -> NDArray[np.bool_]:
        """See :meth:`Filter.keep`."""
        kept: NDArray[np.bool_] = (self._column(block, self.column) == self.value) == (self.which == "only")
        return kept

    def reason(self) -> str:
        """See :meth:`Filter.reason`."""
        return self.reasons[self.which]


class Equilibrium(_OneKind):
    """Keeps only or none of the equilibrium structures (column ``displacement`` = 0)."""

    name = "equilibrium"
    column, value = "displacement", 0
    reasons: ClassVar[Mapping[str, str]] = {"only": "displaced structures", "none": "equilibrium structures"}


class HighEnergy(_OneKind):
    """Keeps only or none of the frames that ANI-1 files apart as high in energy (column ``high_energy`` = 1)."""

    name = "high_energy"
    column, value = "high_energy", 1
    reasons: ClassVar[Mapping[str, str]] = {
        "only": "frames outside the high-energy part",
        "none": "the high-energy part of the file",
    }


FILTERS: dict[str, type[Filter]] = {
    kind.name: kind
    for kind in (Neutral, Elements, Subsets, MaxForce, EnergyOutliers, ListedDuplicates, Equilibrium, HighEnergy)
}
# Options whose name in the configuration would hide a method.
_RENAMED = {"equilibrium": {"keep": "which"}, "high_energy": {"keep": "which"}}
_AUXILIARY = {"listed_duplicates": ("duplicates", "path")}


def make_filters(entry: Mapping[str, Any], aux: Mapping[str, Path]) -> list[Filter]:
    """The filters of a data set, in order.

    Args:
        entry: the data set's entry; ``filters`` is a list of ``{name: ..., option: value, ...}``.
        aux: auxiliary files by role.

    Raises:
        InputError: an unknown filter or option, an option missing or of a wrong type, or an auxiliary file missing.
    """
    filters = []
    for number, item in enumerate(entry.get("filters") or ()):
        options = {str(key): value for key, value in item.items()}
        name = options.pop("name", None)
        if name not in FILTERS:
            raise InputError(f"filters[{number}]: no filter {name!r}; expected one of {', '.join(FILTERS)}")
        renamed = _RENAMED.get(name, {})
        arguments = {renamed.get(key, key): value for key, value in options.items()}
        if name in _AUXILIARY:
            role, argument = _AUXILIARY[name]
            if role not in aux:
                raise InputError(
                    f"filters.{name}: the data set has no file with `role: {role}`; add one or drop the filter"
                )
            arguments[argument] = Path(aux[role])
        try:
            filters.append(FILTERS[name](**arguments))
        except TypeError as error:
            message = str(error).split("() ")[-1].split("__init__")[-1]
            raise InputError(f"filters.{name}: {message}; correct the options of the filter") from None
    return filters
