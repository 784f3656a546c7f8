"""Wall time of energy and forces against the size of the molecule, one molecule at a time.

Molecules are all-trans alkanes CnH2n+2 with 1.53 and 1.09 Å bonds and tetrahedral angles. A potential goes on to the
next larger one until a single evaluation is expected to take longer than its limit, from the last one and the power law
of the last two; what was left out is a line with its reason.

Columns of the CSV: ``potential``, ``precision``, ``molecule``, ``n_atoms``, ``seconds`` (median over the repeats),
``seconds_low``, ``seconds_high`` (fastest and slowest repeat), ``repeats``, ``threads``, ``hardware``, ``status`` (of
an evaluator, or ``skipped``), ``message``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip_studies.adequacy.potentials import Evaluator, entry_family, open_evaluator, precisions
from mlip_studies.adequacy.structures import Structure
from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.errors import InputError
from mlip_studies.runtime.options import check, read_options

COLUMNS = (
    "potential", "precision", "molecule", "n_atoms", "seconds", "seconds_low", "seconds_high", "repeats", "threads",
    "hardware", "status", "message",
)  # fmt: skip
CC_BOND = 1.53
CH_BOND = 1.09
#: exponent that is expected before two sizes were timed: none, so that a second one always is
_MAX_EXPONENT = 4.0


@dataclass(frozen=True)
class CostConfig:
    """What is timed.

    Attributes:
        carbons: numbers of carbon atoms, ascending.
        repeats: timed evaluations of each molecule, after one that is not timed.
        max_seconds: an evaluation that is expected to take longer is not begun.
        precision: of networks; other methods have float64.
        families: fields of this table that are others for a family (ani, mace, orb, trained, xtb, dft).
    """

    carbons: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    repeats: int = 5
    max_seconds: float = 60.0
    precision: str = "float64"
    families: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a configuration can get wrong."""
        rising = all(a < b for a, b in zip(self.carbons, self.carbons[1:], strict=False))
        check(bool(self.carbons) and min(self.carbons) >= 1 and rising, "cost.carbons", "rising numbers", self.carbons)
        check(self.repeats >= 1, "cost.repeats", "at least 1", self.repeats)
        check(self.max_seconds > 0, "cost.max_seconds", "above 0", self.max_seconds)


def cost_config(settings: Mapping[str, Any], family: str) -> CostConfig:
    """Settings of one family of potentials.

    Raises:
        InputError: unknown key, or a value that makes no sense.
    """
    common = {key: value for key, value in settings.items() if key != "families"}
    return read_options(CostConfig, {**common, **((settings.get("families") or {}).get(family) or {})}, "cost")


def alkane(n_carbons: int) -> Structure:
    """An all-trans alkane CnH2n+2, its chain along x in the plane xy.

    Raises:
        InputError: no carbon atom.
    """
    if n_carbons < 1:
        raise InputError(f"alkane of {n_carbons} carbon atoms; expected at least 1")
    # Half a tetrahedral angle: cos = 1/sqrt(3), sin = sqrt(2/3).
    along, across = math.sqrt(2.0 / 3.0), math.sqrt(1.0 / 3.0)
    up = np.array([(-1.0) ** k for k in range(n_carbons)])
    carbons = np.stack(
        [CC_BOND * along * np.arange(n_carbons), -0.5 * CC_BOND * across * up, np.zeros(n_carbons)], axis=1
    )
    hydrogens = []
    for k, carbon in enumerate(carbons):
        directions = [[0.0, -across * up[k], along], [0.0, -across * up[k], -along]]
        # At the ends the chain's missing neighbours are hydrogen.
        directions += [[-along, across * up[k], 0.0]] if k == 0 else []
        directions += [[along, across * up[k], 0.0]] if k == n_carbons - 1 else []
        hydrogens += [carbon + CH_BOND * np.array(direction) for direction in directions]
    positions = np.concatenate([carbons, np.array(hydrogens)])
    numbers = np.array([6] * n_carbons + [1] * len(hydrogens))
    name = "CH4" if n_carbons == 1 else f"C{n_carbons}H{2 * n_carbons + 2}"
    return Structure(numbers, positions - positions.mean(axis=0), name)


def fit_exponent(n_atoms: ArrayLike, seconds: ArrayLike) -> tuple[float, float]:
    """Exponent and prefactor (seconds) of seconds = prefactor n^exponent, least squares of the logarithms.

    Points that are not finite or not positive are left out; NaN for fewer than two sizes.

    Args:
        n_atoms: shape (n,).
        seconds: shape (n,).
    """
    x, y = np.asarray(n_atoms, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if len(np.unique(x[good])) < 2:
        return float("nan"), float("nan")
    exponent, offset = np.polyfit(np.log(x[good]), np.log(y[good]), 1)
    return float(exponent), float(np.exp(offset))


def _expected(sizes: Sequence[int], seconds: Sequence[float], n_atoms: int) -> float:
    """Seconds of a molecule of ``n_atoms``, from the last two timed."""
    if len(sizes) < 2:
        return 0.0
    exponent, _ = fit_exponent(sizes[-2:], seconds[-2:])
    estimate: float = seconds[-1] * (n_atoms / sizes[-1]) ** min(max(exponent, 0.0), _MAX_EXPONENT)
    return estimate


def time_evaluator(evaluator: Evaluator, config: CostConfig) -> list[dict[str, Any]]:
    """Lines of the table but ``threads`` and ``hardware``, see the module."""
    lines: list[dict[str, Any]] = []
    sizes: list[int] = []
    medians: list[float] = []
    for n_carbons in config.carbons:
        molecule = alkane(n_carbons)
        expected = _expected(sizes, medians, len(molecule))
        seconds: list[float] = []
        status, message = "ok", ""
        if expected > config.max_seconds:
            status, message = "skipped", f"about {expected:.3g} s expected, more than {config.max_seconds:g} s"
        else:
            # The first call allocates memory, compiles, and may fail.
            first = evaluator.evaluate([molecule])
            status, message = first.status[0], first.message[0]
        repeats: NDArray[np.int64] = np.arange(config.repeats if status == "ok" else 0)
        for _ in repeats:
            seconds.append(evaluator.evaluate([molecule]).seconds)
        if seconds:
            sizes.append(len(molecule))
            medians.append(statistics.median(seconds))
        nothing = float("nan")
        lines.append(
            {
                "potential": evaluator.name,
                "precision": evaluator.precision,
                "molecule": molecule.name,
                "n_atoms": len(molecule),
                "seconds": medians[-1] if seconds else nothing,
                "seconds_low": min(seconds, default=nothing),
                "seconds_high": max(seconds, default=nothing),
                "repeats": len(seconds),
                "status": status,
                "message": message,
            }
        )
    return lines


def measure_cost(
    entries: Mapping[str, Mapping[str, Any]],
    output: PathLike,
    settings: Mapping[str, Any] | None = None,
    threads: int = 1,
) -> None:
    """Time all potentials in one process, one after the other, and write the CSV; see the module for its columns.

    Args:
        entries: of the potentials, by name, see :mod:`mlip_studies.adequacy.potentials`.
        output: CSV file.
        settings: fields of :class:`CostConfig`.
        threads: CPU threads of torch and PySCF; tblite takes what OMP_NUM_THREADS says.

    Raises:
        InputError: no potential, one that cannot be run here, or a mistake in the settings.
    """
    import pandas as pd
    import torch

    from mlip_studies.training.device import processor_name

    if not entries:
        raise InputError(f"{output}: no potential to time; expected at least one")
    torch.set_num_threads(threads)
    lines = []
    for name, entry in entries.items():
        own = {**entry, "name": name}
        known = precisions(own)
        if entry_family(own) == "dft":
            from pyscf import lib

            lib.num_threads(threads)
        precision = str((settings or {}).get("precision", CostConfig.precision))
        evaluator = open_evaluator(own, precision if precision in known else known[0])
        config = cost_config(settings or {}, evaluator.family)
        for line in time_evaluator(evaluator, config):
            lines.append({**line, "threads": threads, "hardware": processor_name()})
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    write_text(output, table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
