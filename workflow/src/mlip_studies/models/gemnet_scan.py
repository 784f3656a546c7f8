"""The scans of :mod:`mlip_studies.models.gemnet_singularities` as a tidy file."""

from __future__ import annotations

import pandas as pd
import torch

from mlip_studies.artifacts import PathLike, atomic_path
from mlip_studies.models.gemnet_singularities import compare_variants

COLUMNS = ("variant", "scan", "coordinate_angstrom", "direction_rad", "energy_ev", "force_ev_per_angstrom")


def write_singularities(output: PathLike, seed: int = 0, threads: int = 1) -> None:
    """Scan untrained models in double precision and write one row per geometry.

    Args:
        output: path of the CSV file; ``force_ev_per_angstrom`` is the moved atom's force along the normal in the scan
            ``out_of_plane``, and the largest force on any atom in the scan ``off_line``.
        seed: of the weights.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    rows = []
    for variant, (plane, line) in compare_variants(seed=seed).items():
        for height, energy, force in zip(plane.height, plane.energy, plane.force, strict=True):
            rows.append((variant, "out_of_plane", height, float("nan"), energy, force))
        for i, distance in enumerate(line.distance):
            for k, direction in enumerate(line.direction):
                rows.append((variant, "off_line", distance, direction, line.energy[i, k], line.largest_force[i, k]))
    with atomic_path(output) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
