"""How long trajectories last, when some of them were still well at the end of the observation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtri

from mlip_studies.errors import InputError

PS_PER_NS = 1000.0


def kaplan_meier(
    times: ArrayLike, failed: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Estimate of the probability to last longer than t.

    Source: E. L. Kaplan and P. Meier, J. Am. Stat. Assoc. 53, 457 (1958). The interval is that of the logarithm of
    minus the logarithm of the estimate, with the variance of Greenwood (J. D. Kalbfleisch and R. L. Prentice, The
    Statistical Analysis of Failure Time Data, 2002, section 1.4).

    Args:
        times: of the failure, or of the end of the observation, shape (n,), in any unit.
        failed: whether it failed then, shape (n,). Those that fail at a time count before those censored at it.
        level: of the interval.

    Returns:
        times 0, of each failure, and of the end of the longest observation, ascending; the estimate from each on; lower
        and upper limit, NaN where the formula has no value (an estimate of 1 or 0).

    Raises:
        InputError: no trajectories, or times that are negative or not finite.
    """
    times, failed = _checked(times, np.asarray(failed, dtype=bool))
    events = np.unique(times[failed])
    at_risk = (times[:, None] >= events[None]).sum(axis=0)
    deaths = (times[failed][:, None] == events[None]).sum(axis=0)
    survival = np.cumprod(1.0 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        spread = ndtri(0.5 + level / 2) * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    undefined = ~((survival > 0) & (survival < 1))
    low, high = np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)
    first = [] if len(events) and events[0] == 0.0 else [0.0]
    nothing = [np.nan] * len(first)
    t = np.concatenate([first, events])
    columns = [
        np.concatenate([start, values])
        for start, values in ((np.ones(len(first)), survival), (nothing, low), (nothing, high))
    ]
    if times.max() > t[-1]:
        t = np.append(t, times.max())
        columns = [np.append(values, values[-1]) for values in columns]
    return t, columns[0], columns[1], columns[2]


def failure_rate(times_ps: ArrayLike, failed: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Failures, or events, per time observed, with the exact interval of a Poisson number.

    The interval is that of F. Garwood, Biometrika 28, 437 (1936).

    Args:
        times_ps: observed until the failure or the end, shape (n,), ps.
        failed: whether it failed, or how many events there were, shape (n,).
        level: of the interval.

    Returns:
        rate, lower and upper limit, 1/ns. NaN without any time observed.

    Raises:
        InputError: no trajectories, or times that are negative or not finite.
    """
    times, counts = _checked(times_ps, np.asarray(failed).astype(np.float64))
    exposure, n = times.sum() / PS_PER_NS, float(counts.sum())
    if exposure <= 0:
        return math.nan, math.nan, math.nan
    tail = (1.0 - level) / 2
    low = chdtri(2 * n, 1.0 - tail) / 2 if n else 0.0
    return n / exposure, float(low / exposure), float(chdtri(2 * n + 2, tail) / 2 / exposure)


def _checked(times: ArrayLike, failed: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    values = np.asarray(times, dtype=np.float64)
    if values.ndim != 1 or values.shape != failed.shape or not len(values):
        raise InputError(f"survival: {values.shape} times and {failed.shape} failures; expected as many, at least one")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError("survival: times that are negative or not finite; expected 0 or more")
    return values, failed
