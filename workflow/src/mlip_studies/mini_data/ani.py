"""The mini ANI-1x/ANI-1ccx data set: minima, normal-mode sampling, labels in shards, one file in ANI-1x's layout.

Every step is resumable (see :mod:`mlip_studies.mini_data.shards`).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mlip_studies.artifacts import atomic_path, write_text
from mlip_studies.dft.levels import CC_LEVELS, DFT_LEVELS
from mlip_studies.dft.run import optimise_and_hessian, run_composite_cc, run_dft
from mlip_studies.dft.sampling import normal_modes, sample_displacements
from mlip_studies.errors import InputError
from mlip_studies.mini_data.shards import Row, fill_shard, read_lines


@dataclass(frozen=True)
class MoleculeSpec:
    """One molecule of the recipe: start geometry and how many rows of each fidelity."""

    name: str
    geometry: str
    n_dft: int
    n_cc: int


@dataclass(frozen=True)
class Recipe:
    """Everything that defines the data set (``config/mini_data/ani.yaml``)."""

    seed: int
    temperatures: tuple[float, ...]
    dft_level: str
    cc_level: str
    shard_size: int
    molecules: tuple[MoleculeSpec, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read the YAML recipe."""
        raw = yaml.safe_load(Path(path).read_text())
        molecules = tuple(MoleculeSpec(**entry) for entry in raw.pop("molecules"))
        return cls(molecules=molecules, temperatures=tuple(raw.pop("temperatures")), **raw)

    def molecule(self, name: str) -> MoleculeSpec:
        """The entry called ``name``."""
        for entry in self.molecules:
            if entry.name == name:
                return entry
        raise KeyError(f"no molecule {name!r} in the recipe; known: {', '.join(m.name for m in self.molecules)}")

    def shards(self) -> list[tuple[str, str, int, int]]:
        """All shards as (molecule, kind, first row, last row + 1); kind is ``dft`` or ``cc``."""
        result = []
        for entry in self.molecules:
            for kind, total in (("dft", entry.n_dft), ("cc", entry.n_cc)):
                for first in range(0, total, self.shard_size):
                    result.append((entry.name, kind, first, min(first + self.shard_size, total)))
        return result

    def shard_end(self, molecule: str, kind: str, first: int) -> int:
        """Last row + 1 of the shard that starts at ``first``."""
        entry = self.molecule(molecule)
        return min(first + self.shard_size, entry.n_dft if kind == "dft" else entry.n_cc)


def start_geometry(spec: MoleculeSpec) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and rough positions (n, 3), Å, atoms ordered C, H, N, O as in ani1x-release.h5."""
    from ase import Atoms
    from ase.build import molecule

    if "\n" in spec.geometry:
        rows = [line.split() for line in spec.geometry.strip().splitlines()]
        atoms = Atoms([row[0] for row in rows], [[float(v) for v in row[1:]] for row in rows])
    else:
        atoms = molecule(spec.geometry)
    order = sorted(range(len(atoms)), key=lambda i: ("CHNO".index(atoms[i].symbol), i))
    return atoms.numbers[order].astype(np.uint8), atoms.positions[order]


def make_minimum(recipe: Recipe, name: str, output: Path) -> None:
    """Optimise one molecule and write its minimum and Hessian as JSON."""
    numbers, positions = start_geometry(recipe.molecule(name))
    positions, hessian, energy = optimise_and_hessian(numbers, positions, DFT_LEVELS[recipe.dft_level])
    payload = {
        "molecule": name,
        "level": recipe.dft_level,
        "atomic_numbers": numbers.tolist(),
        "positions_angstrom": positions.tolist(),
        "hessian_hartree_per_angstrom2": hessian.tolist(),
        "energy_hartree": energy,
    }
    write_text(output, json.dumps(payload))


def sample_geometries(recipe: Recipe, minimum: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """All sampled geometries of one molecule, in single precision as the public file stores them.

    Row i is drawn at temperature ``temperatures[i % len(temperatures)]`` from a generator seeded with
    (recipe seed, molecule index, i), so a row never depends on how many rows are asked for.

    Returns:
        positions of shape (n_dft, n_atoms, 3), float32, Å, and temperatures of shape (n_dft,), K.
    """
    from ase.data import atomic_masses

    names = [m.name for m in recipe.molecules]
    spec = recipe.molecule(minimum["molecule"])
    numbers = np.array(minimum["atomic_numbers"])
    positions = np.array(minimum["positions_angstrom"])
    hessian = np.array(minimum["hessian_hartree_per_angstrom2"])
    modes, force_constants = normal_modes(positions, atomic_masses[numbers], hessian)
    geometries = np.empty((spec.n_dft, len(numbers), 3), dtype=np.float32)
    temperatures = np.empty(spec.n_dft)
    for row in range(spec.n_dft):
        rng = np.random.default_rng([recipe.seed, names.index(spec.name), row])
        temperatures[row] = recipe.temperatures[row % len(recipe.temperatures)]
        geometries[row] = positions + sample_displacements(modes, force_constants, temperatures[row], rng)
    return geometries, temperatures


def label_row(
    recipe: Recipe, numbers: np.ndarray, geometry: np.ndarray, kind: str, density: Any = None
) -> tuple[Row, Any]:
    """Label one geometry (n, 3), Å, of atoms (n,); returns the JSON-ready row and the density for the next guess."""
    if kind == "dft":
        result, density = run_dft(numbers, geometry.astype(np.float64), DFT_LEVELS[recipe.dft_level], density)
        row = asdict(result)
        # Without a dispersion correction the parts repeat the totals.
        del row["parts"]
        row["forces"] = result.forces.tolist()
        row["dipole"] = result.dipole.tolist()
        return row, density
    cc = run_composite_cc(numbers, geometry.astype(np.float64), CC_LEVELS[recipe.cc_level])
    return asdict(cc), None


def label_shard(recipe: Recipe, minimum_path: Path, kind: str, first: int, last: int, output: Path) -> None:
    """Label rows ``first``…``last``-1 of one molecule and write them as JSON lines, resuming a partial shard."""
    minimum = json.loads(Path(minimum_path).read_text())
    numbers = np.array(minimum["atomic_numbers"], dtype=np.uint8)
    geometries, temperatures = sample_geometries(recipe, minimum)

    def label(row: int, density: Any) -> tuple[Row, Any]:
        payload, density = label_row(recipe, numbers, geometries[row], kind, density)
        return payload | {"row": row, "temperature": temperatures[row], "positions": geometries[row].tolist()}, density

    fill_shard(output, first, last, label)


def shard_name(molecule: str, kind: str, first: int) -> str:
    """File name of a shard."""
    return f"{molecule}_{kind}_{first:04d}.jsonl"


def read_shards(paths: Iterable[Path]) -> dict[tuple[str, str], list[Row]]:
    """Rows of many shards, keyed by (molecule, kind) and ordered by row."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for path in sorted(paths):
        molecule, kind, _ = path.stem.rsplit("_", 2)
        rows.setdefault((molecule, kind), []).extend(read_lines(path))
    return rows


CC_KEYS = (
    "ccsd(t)_cbs.energy",
    "hf_dz.energy",
    "hf_tz.energy",
    "hf_qz.energy",
    "mp2_dz.corr_energy",
    "mp2_tz.corr_energy",
    "mp2_qz.corr_energy",
    "npno_ccsd(t)_dz.corr_energy",
    "npno_ccsd(t)_tz.corr_energy",
    "tpno_ccsd(t)_dz.corr_energy",
)


def formula(atomic_numbers: np.ndarray) -> str:
    """Group name of atomic numbers (n,) as in ani1x-release.h5, for example ``C1H4O1``."""
    counts = {symbol: int(np.sum(atomic_numbers == z)) for symbol, z in (("C", 6), ("H", 1), ("N", 7), ("O", 8))}
    return "".join(f"{symbol}{count}" for symbol, count in counts.items() if count)


def assemble(recipe: Recipe, minima: Path, shards: list[Path], output: Path, rows_csv: Path) -> None:
    """Write all converged rows in the layout and under the key names of ani1x-release.h5.

    One group per formula with ``atomic_numbers`` (N,), ``coordinates`` (M, N, 3) in Å, energies in hartree and forces
    in hartree/Å; NaN where a row has no coupled-cluster label. ``rows_csv`` lists every row with its molecule,
    temperature, convergence and cost; rows whose DFT did not converge are left out of the data file, rows whose coupled
    cluster did not converge keep NaN.

    Raises:
        InputError: a shard is missing rows.
    """
    import h5py

    labelled = read_shards(shards)
    groups: dict[str, dict[str, list[Any]]] = {}
    numbers_of: dict[str, np.ndarray] = {}
    report = []
    for spec in recipe.molecules:
        numbers = np.array(json.loads((minima / f"{spec.name}.json").read_text())["atomic_numbers"], dtype=np.uint8)
        dft, cc = labelled.get((spec.name, "dft"), []), labelled.get((spec.name, "cc"), [])
        if len(dft) != spec.n_dft or len(cc) != spec.n_cc:
            raise InputError(
                f"{spec.name}: {len(dft)} DFT and {len(cc)} coupled-cluster rows in the shards, the recipe asks "
                f"{spec.n_dft} and {spec.n_cc}; remove the molecule's shards and build again"
            )
        name = formula(numbers)
        numbers_of[name] = numbers
        group = groups.setdefault(name, {key: [] for key in ("coordinates", "energy", "forces", "dipole", *CC_KEYS)})
        cc_by_row = {row["row"]: row for row in cc}
        for row in dft:
            partner = cc_by_row.get(row["row"])
            components = partner["components"] if partner is not None and partner["converged"] else {}
            report.append(
                {
                    "group": name,
                    "row": len(group["energy"]) if row["converged"] else -1,
                    "molecule": spec.name,
                    "sample": row["row"],
                    "temperature_k": row["temperature"],
                    "dft_converged": row["converged"],
                    "cc_converged": "" if partner is None else partner["converged"],
                    "dft_seconds": round(row["seconds"], 3),
                    "cc_seconds": "" if partner is None else round(partner["seconds"], 3),
                }
            )
            if not row["converged"]:
                continue
            group["coordinates"].append(row["positions"])
            for key in ("energy", "forces", "dipole"):
                group[key].append(row[key])
            for key in CC_KEYS:
                group[key].append(components.get(key, np.nan))
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as stream:
        stream.attrs["description"] = "Mini data set in the layout of ani1x-release.h5; see DATA_CARD.md"
        stream.attrs["wb97x_dz"] = DFT_LEVELS[recipe.dft_level].name
        stream.attrs["ccsd(t)_cbs"] = (
            "canonical frozen-core CCSD(T) in place of DLPNO-CCSD(T): the npno and tpno keys hold canonical values"
        )
        stream.attrs["seed"] = recipe.seed
        for name in sorted(groups):
            group, content = stream.create_group(name), groups[name]
            options = {"compression": "gzip", "shuffle": True}
            group["atomic_numbers"] = numbers_of[name]
            group.create_dataset("coordinates", data=np.array(content["coordinates"], dtype=np.float32), **options)
            group.create_dataset("wb97x_dz.energy", data=np.array(content["energy"]), **options)
            group.create_dataset("wb97x_dz.forces", data=np.array(content["forces"], dtype=np.float32), **options)
            group.create_dataset("wb97x_dz.dipole", data=np.array(content["dipole"], dtype=np.float32), **options)
            for key in CC_KEYS:
                group.create_dataset(key, data=np.array(content[key]), **options)
    with atomic_path(rows_csv) as temporary, open(temporary, "w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(report[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(report)
