"""What a potential says along a scan: a table of the curve, and the forces beside it.

Columns of the CSV: ``point``, ``coordinate`` (in the scan's unit), further columns of the scan (``x_angstrom`` and
``y_angstrom`` of a surface), ``energy_ev``, ``relative_energy_ev``, ``status``, ``message`` (of an evaluator),
``net_force_ev_per_angstrom`` (norm of the sum of all forces), ``net_torque_ev`` (norm of the sum of r x F about the
centre of mass; a sum of its components, which can cancel, would say less), ``max_force`` (of an atom, eV/Å).

Energies are relative to the scan's ``reference``: the lowest point (``minimum``), the first point that has an energy
(``first``), or the isolated ``atoms`` of the same evaluator, in their ground-state multiplicity; if one of these has no
energy, ``relative_energy_ev`` is empty and ``message`` says why. Numbers of points that are not ``ok`` are empty.
Energies of GFN2-xTB are electronic free energies at 300 K: two hydrogen atoms far apart as one closed shell lie 4 kT
ln 2 (0.072 eV) below two atoms with one electron each, by the entropy of half-filled orbitals.

File of forces (npz): ``forces`` (n_atoms of all points, 3), eV/Å, NaN where not ``ok``; ``ptr`` (n + 1,); ``seconds``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlip_studies.adequacy.potentials import Evaluation, Evaluator, open_evaluator
from mlip_studies.adequacy.scans import Scan, read_scan
from mlip_studies.adequacy.structures import Structure, net_force, net_torque
from mlip_studies.artifacts import PathLike, atomic_path, write_text
from mlip_studies.errors import InputError

FloatArray = NDArray[np.float64]
REFERENCES = ("minimum", "atoms", "first")


def isolated_atoms(evaluator: Evaluator, structure: Structure) -> tuple[float, str]:
    """Sum of the energies of a molecule's isolated atoms in their ground states.

    Returns:
        eV, and an empty text; or NaN, and the reason.
    """
    from ase.data import ground_state_magnetic_moments

    from mlip_studies.elements import symbol

    kinds, counts = np.unique(structure.atomic_numbers, return_counts=True)
    atoms = [
        Structure(np.array([z]), np.zeros((1, 3)), symbol(int(z)), 0, int(ground_state_magnetic_moments[z]) + 1)
        for z in kinds
    ]
    found = evaluator.evaluate(atoms)
    for atom, status, message in zip(atoms, found.status, found.message, strict=True):
        if status != "ok":
            return float("nan"), f"no energy of the isolated atom {atom.name}: {message or status}"
    return float(counts @ found.energy_ev), ""


def zero_of(evaluator: Evaluator, scan: Scan, found: Evaluation) -> tuple[float, str]:
    """Energy that relative energies of a scan are relative to, eV, and why it is NaN.

    Raises:
        InputError: the scan names another reference.
    """
    if scan.reference not in REFERENCES:
        raise InputError(f"scan {scan.name}: reference {scan.reference!r}; expected one of {', '.join(REFERENCES)}")
    energies = found.energy_ev[found.ok]
    if not len(energies):
        return float("nan"), ""
    if scan.reference == "atoms":
        return isolated_atoms(evaluator, scan.structures[0])
    return float(energies.min() if scan.reference == "minimum" else energies[0]), ""


def scan_table(evaluator: Evaluator, scan: Scan) -> tuple[pd.DataFrame, Evaluation]:
    """The curve of a scan, see the module for its columns, and what it was made of."""
    found = evaluator.evaluate(scan.structures)
    zero, reason = zero_of(evaluator, scan, found)
    messages = [message or (reason if ok else "") for message, ok in zip(found.message, found.ok, strict=True)]
    pairs = list(zip(scan.structures, found.forces_ev_per_angstrom, strict=True))
    table = pd.DataFrame(
        {
            "point": np.arange(len(scan)),
            "coordinate": scan.coordinate,
            **scan.columns,
            "energy_ev": found.energy_ev,
            "relative_energy_ev": found.energy_ev - zero,
            "status": found.status,
            "message": messages,
            "net_force_ev_per_angstrom": [net_force(forces) for _, forces in pairs],
            "net_torque_ev": [net_torque(structure, forces) for structure, forces in pairs],
            "max_force": [float(np.linalg.norm(forces, axis=1).max()) for _, forces in pairs],
        }
    )
    return table, found


def write_curve(evaluator: Evaluator, scan: Scan, output_csv: PathLike, output_npz: PathLike) -> None:
    """Write the curve and the forces of a scan by one potential, see the module."""
    table, found = scan_table(evaluator, scan)
    write_text(output_csv, table.to_csv(index=False, lineterminator="\n", float_format="%.14g"))
    with atomic_path(output_npz) as temporary:
        np.savez(
            temporary,
            forces=np.concatenate(found.forces_ev_per_angstrom),
            ptr=np.cumsum([0, *(len(each) for each in scan.structures)]).astype(np.int64),
            seconds=np.array(found.seconds),
        )
    counts = table["status"].value_counts().to_dict()
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{evaluator.name} {evaluator.precision} {scan.name}: {summary}; {found.seconds:.2f} s", flush=True)


def run_scan(
    entry: Mapping[str, Any], precision: str, scan_npz: PathLike, output_csv: PathLike, output_npz: PathLike
) -> None:
    """One scan by one potential, see the module for what is written.

    Args:
        entry: of the potential, see :mod:`mlip_studies.adequacy.potentials`.
        precision: float64 or float32.
        scan_npz: file of :func:`mlip_studies.adequacy.scans.write_scan`.
        output_csv: the curve.
        output_npz: the forces.

    Raises:
        InputError: a potential that cannot be run here, or a missing or damaged scan.
    """
    run_scans(entry, precision, [scan_npz], [output_csv], [output_npz])


def run_scans(
    entry: Mapping[str, Any],
    precision: str,
    scans: Sequence[PathLike],
    outputs_csv: Sequence[PathLike],
    outputs_npz: Sequence[PathLike],
    threads: int | None = None,
) -> None:
    """Several scans by one potential, which is opened once; each is a :func:`run_scan`.

    Args:
        entry: of the potential.
        precision: float64 or float32.
        scans: files of scans.
        outputs_csv: a curve for each.
        outputs_npz: forces for each.
        threads: CPU threads of torch; None: as they are.

    Raises:
        InputError: see :func:`run_scan`; or lists of different lengths.
    """
    if not len(scans) == len(outputs_csv) == len(outputs_npz):
        raise InputError(
            f"{len(scans)} scans, {len(outputs_csv)} curves and {len(outputs_npz)} files of forces; expected as many "
            "of each"
        )
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    evaluator = open_evaluator(entry, precision)
    for scan, output_csv, output_npz in zip(scans, outputs_csv, outputs_npz, strict=True):
        write_curve(evaluator, read_scan(scan), output_csv, output_npz)
