"""Learning-rate schedules: factors on the base rate as a function of the step, and the plateau rule on top."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from mlip_studies.runtime.options import check


@dataclass(frozen=True)
class Schedule(ABC):
    """Rate of a step relative to the base rate, in closed form, so that nothing has to be saved."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """Factor of step number ``step``, from 0."""

    @property
    def rising_steps(self) -> int:
        """Steps at the start in which the rate still rises."""
        return 0


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate always."""

    def factor(self, step: int) -> float:
        """See the base class."""
        return 1.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """min((t + 1)/warmup, 1) · rate^(t/steps): So3krates has 0.7 per 100,000, GemNet 0.01 per 4.5e6 after a warm-up.

    Attributes:
        rate: factor per ``steps``.
        steps: steps per ``rate``.
        warmup_steps: steps of linear rise at the start; 0: none.
        staircase: decay in whole multiples of ``steps`` only.
    """

    rate: float = 0.7
    steps: float = 100_000.0
    warmup_steps: int = 0
    staircase: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check(self.rate > 0, "schedule.rate", "a number above 0", self.rate)
        check(self.steps > 0, "schedule.steps", "a number above 0", self.steps)
        check(self.warmup_steps >= 0, "schedule.warmup_steps", "a number not below 0", self.warmup_steps)

    def factor(self, step: int) -> float:
        """See the base class."""
        exponent = step / self.steps
        rise = min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return rise * self.rate ** (math.floor(exponent) if self.staircase else exponent)

    @property
    def rising_steps(self) -> int:
        """See the base class."""
        return self.warmup_steps


@dataclass(frozen=True)
class Steps(Schedule):
    """Another factor from certain steps on: the SE(3)-Transformer study's 1e-3, 1e-5 and 1e-7.

    Attributes:
        milestones: first steps of the new rates, ascending.
        factors: factors on the base rate from there on.
    """

    milestones: tuple[int, ...] = (86_000, 176_000)
    factors: tuple[float, ...] = (1e-2, 1e-4)

    def __post_init__(self) -> None:
        """Check the options."""
        check(
            len(self.milestones) == len(self.factors) and list(self.milestones) == sorted(set(self.milestones)),
            "schedule",
            "as many ascending milestones as factors",
            {"milestones": self.milestones, "factors": self.factors},
        )

    def factor(self, step: int) -> float:
        """See the base class."""
        return (1.0, *self.factors)[bisect.bisect_right(self.milestones, step)]


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine from 1 to ``final``, again and again (I. Loshchilov and F. Hutter, ICLR 2017).

    Attributes:
        period: steps of the first one.
        period_factor: each one is this much longer than the one before.
        final: factor at the end of each.
    """

    period: int = 10_000
    period_factor: float = 1.0
    final: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        check(self.period > 0, "schedule.period", "a number above 0", self.period)
        check(self.period_factor >= 1.0, "schedule.period_factor", "a number not below 1", self.period_factor)
        check(0.0 <= self.final <= 1.0, "schedule.final", "a number from 0 to 1", self.final)

    def factor(self, step: int) -> float:
        """See the base class."""
        if self.period_factor == 1.0:
            phase = (step % self.period) / self.period
        else:
            # Lengths form a geometric series: the number of complete periods in closed form.
            q = self.period_factor
            done = math.floor(math.log(step / self.period * (q - 1.0) + 1.0, q) + 1e-12)
            start = self.period * (q**done - 1.0) / (q - 1.0)
            phase = (step - start) / (self.period * q**done)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * phase))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "steps": Steps,
    "cosine_restarts": CosineRestarts,
}


@dataclass(frozen=True)
class PlateauConfig:
    """Lower the rate when the monitored error stalls.

    Attributes:
        factor: on the rate, each time.
        patience: evaluations without improvement that are tolerated.
        cooldown: evaluations after a reduction in which none are counted.
        threshold: an improvement is a value below best · (1 - threshold).
    """

    factor: float = 0.5
    patience: int = 10
    cooldown: int = 0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the options."""
        check(0.0 < self.factor < 1.0, "plateau.factor", "a number between 0 and 1", self.factor)
        check(self.patience >= 0, "plateau.patience", "a number not below 0", self.patience)
        check(self.cooldown >= 0, "plateau.cooldown", "a number not below 0", self.cooldown)
        check(0.0 <= self.threshold < 1.0, "plateau.threshold", "a number from 0 to 1", self.threshold)


class Plateau:
    """The rule of :class:`PlateauConfig` with its state; multiplies the schedule by :attr:`factor`."""

    def __init__(self, config: PlateauConfig) -> None:
        """Start at factor 1."""
        self.config = config
        self.factor = 1.0
        self.best = math.inf
        self.bad = 0
        self.cooling = 0

    def update(self, value: float) -> None:
        """Take notice of an evaluation's error."""
        if value < self.best * (1.0 - self.config.threshold):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad > self.config.patience:
            self.factor *= self.config.factor
            self.cooling, self.bad = self.config.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """What changes."""
        return {"factor": self.factor, "best": self.best, "bad": self.bad, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for key in self.state_dict():
            setattr(self, key, state[key])
