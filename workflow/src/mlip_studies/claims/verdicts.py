"""The verdict rule: 95 % intervals over seeds against what a paper states.

With m the mean over seeds and h its 95 % half width (Student t, at least three seeds) a statement is

* reproduced if [m - h, m + h] lies within the stated interval,
* contradicted if it is disjoint from it,
* inconclusive otherwise, and whenever a stochastic quantity has fewer than three seeds.

The stated interval is the paper's value ± tolerance, a half line for an inequality, and (0, ∞) for a paired difference
whose sign is chosen so that positive agrees with the paper.

Molecular dynamics is driven by one network: there the interval is a percentile bootstrap over molecules, or over what
the estimate names, again with at least three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

FloatArray = NDArray[np.float64]

MIN_SEEDS = 3
CONFIDENCE = 0.95
SEEDS = "seeds"
BOOTSTRAP_DRAWS = 4000


class Verdict(StrEnum):
    """Every verdict there is, in words."""

    REPRODUCED = "reproduced"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable at this scale"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Estimate:
    """Mean and 95 % half width of one quantity.

    Attributes:
        name: what the number is.
        mean: mean over seeds, or the value itself if it is deterministic.
        half_width: 95 % half width; 0 for a deterministic quantity, None with fewer than three seeds.
        n: number of seeds (1 for a deterministic quantity).
        deterministic: whether the quantity involves no random draw (a count, a size).
        of: what n counts, in the plural.
        interval: 95 % interval where it is not symmetric, else None.
        floor: smallest number that the measurement can tell from zero, in the same unit; NaN if it should have been
            measured and was not; None where there is no such thing.
        unresolved: why the number cannot be compared with anything, else "".
    """

    name: str
    mean: float
    half_width: float | None
    n: int
    deterministic: bool = False
    of: str = SEEDS
    interval: tuple[float, float] | None = None
    floor: float | None = None
    unresolved: str = ""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The 95 % interval, (m - h, m + h) unless it is not symmetric; None where none can be given."""
        if self.interval is not None and math.isfinite(self.mean):
            return self.interval
        if self.half_width is None or not math.isfinite(self.mean):
            return None
        return self.mean - self.half_width, self.mean + self.half_width


def half_width(values: Sequence[float]) -> float | None:
    """95 % half width of the mean with Student's t; None for fewer than three values.

    Args:
        values: one value per seed, shape (n_seeds,).
    """
    array = np.asarray(values, dtype=float)
    if array.size < MIN_SEEDS:
        return None
    quantile = float(stdtrit(array.size - 1, 0.5 + CONFIDENCE / 2))
    return quantile * float(array.std(ddof=1)) / math.sqrt(array.size)


def estimate(name: str, values: Sequence[float] | float, deterministic: bool = False) -> Estimate:
    """Summarise one quantity over seeds.

    Args:
        name: what the number is.
        values: one value per seed, shape (n_seeds,), or a single number if deterministic.
        deterministic: the quantity involves no random draw.
    """
    array = np.atleast_1d(np.asarray(values, dtype=float))
    if deterministic:
        return Estimate(name, float(array.mean()), 0.0, 1, True)
    return Estimate(name, float(array.mean()), half_width(array.tolist()), int(array.size))


def bootstrap(
    name: str,
    samples: NDArray[np.floating],
    of: str,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    floor: float | None = None,
    unresolved: str = "",
) -> Estimate:
    """Summarise one quantity over what was drawn, for instance molecules, with a percentile bootstrap.

    The draws have a fixed seed. A percentile interval of a few heavy-tailed values is somewhat too narrow.

    Args:
        name: what the number is.
        samples: one row per molecule, shape (n,) or (n, n_columns).
        of: what the rows are, in the plural.
        statistic: maps means of the columns, shape (n_draws, n_columns), to one number per draw; needed with several
            columns, for instance for a ratio of means.
        floor: see Estimate.
        unresolved: see Estimate.
    """
    table = np.asarray(samples, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    of_means = statistic or (lambda means: means[:, 0])
    n = len(table)
    mean = float(of_means(table.mean(axis=0, keepdims=True))[0])
    if n < MIN_SEEDS:
        return Estimate(name, mean, None, n, of=of, floor=floor, unresolved=unresolved)
    rows = np.random.default_rng(0).integers(0, n, size=(BOOTSTRAP_DRAWS, n))
    drawn = of_means(table[rows].mean(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(end) for end in np.nanpercentile(drawn, [tail, 100 - tail]))
    return Estimate(name, mean, (high - low) / 2, n, False, of, (low, high), floor, unresolved)


def judge(one: Estimate, low: float, high: float) -> Verdict:
    """Judge one estimate against the stated interval [low, high]; either end may be infinite."""
    bounds = one.bounds
    if bounds is None:
        return Verdict.INCONCLUSIVE
    if low <= bounds[0] and bounds[1] <= high:
        return Verdict.REPRODUCED
    if bounds[1] < low or bounds[0] > high:
        return Verdict.CONTRADICTED
    return Verdict.INCONCLUSIVE


def judge_difference(one: Estimate) -> Verdict:
    """Judge a paired difference whose positive side is the claimed one; zero is on neither side."""
    bounds = one.bounds
    if bounds is None:
        return Verdict.INCONCLUSIVE
    if bounds[0] > 0:
        return Verdict.REPRODUCED
    if bounds[1] < 0 or (one.deterministic and one.mean == 0):
        return Verdict.CONTRADICTED
    return Verdict.INCONCLUSIVE


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Verdict on a statement with several parts: all must hold, and one contradicted part contradicts it."""
    found = list(verdicts)
    if not found:
        return Verdict.NOT_RUN
    for verdict in (Verdict.CONTRADICTED, Verdict.INCONCLUSIVE):
        if verdict in found:
            return verdict
    return Verdict.REPRODUCED
