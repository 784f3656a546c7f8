"""What the figures and tables of a study need besides its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlip_studies.claims.schema import Claim, ClaimSet
from mlip_studies.errors import InputError


@dataclass(frozen=True)
class RunInfo:
    """What a product may know about a training run: attributes of :class:`mlip_studies.studies.runs.Run`.

    Attributes:
        name: of the run.
        groups: groups of the study's configuration that ask for it.
        data: name of its data.
        network: name in config/models.yaml.
        shift: reference of the energies.
        train_size: training rows; None: all of its split.
        seeds: of the run.
        scale: what energies and forces are divided by; None: nothing.
        energy_weight: of the SE(3)-Transformer's loss; None: the network's own loss.
        clip_norm: largest norm of the gradient, 0 for any; None: as the network is trained.
        learning_rate: None: as the network is trained.
        max_steps: None: as the group's training says.
    """

    name: str
    groups: tuple[str, ...]
    data: str
    network: str
    shift: str
    train_size: int | None
    seeds: tuple[int, ...]
    scale: str | None = None
    energy_weight: float | None = None
    clip_norm: float | None = None
    learning_rate: float | None = None
    max_steps: int | None = None


@dataclass(frozen=True)
class PaperContext:
    """The scale of the results and what the paper states.

    Attributes:
        scale: mini or full.
        claims: the claims of the study: all numbers of the paper come from here.
    """

    scale: str
    claims: ClaimSet

    def claim(self, claim_id: str) -> Claim:
        """A claim by id.

        Raises:
            InputError: the claim file has no such claim.
        """
        if claim_id not in self.claims.claims:
            raise InputError(
                f"config/claims/{self.claims.study}.yaml: claim '{claim_id}' is missing; a figure needs it"
            )
        return self.claims.claims[claim_id]

    def paper(self, claim_id: str) -> dict[str, float]:
        """The numbers of a claim or of a quoted number by part, in its unit; a single number has the part "".

        A bound such as "at most 0.05" counts as its number.

        Raises:
            InputError: the claim file has neither.
        """
        if claim_id in self.claims.background:
            return {"": self.claims.background[claim_id].value}
        claim = self.claim(claim_id)
        if isinstance(claim.paper, Mapping) and "relation" in claim.paper:
            return {"": float(claim.paper["value"])}
        return claim.numbers()


@dataclass(frozen=True)
class StudyContext(PaperContext):
    """What a product needs besides the results.

    Attributes:
        scale: mini or full.
        claims: the claims of the study: all numbers of the paper come from here.
        n_train: training rows asked for at this scale, by name of the data.
        runs: the training runs of the study, by name.
        settings: the study's configuration at this scale.
        files: paths of everything that the product is made from.
    """

    n_train: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, RunInfo] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of training rows that runs of the study name, from small to large."""
        return tuple(sorted({run.train_size for run in self.runs.values() if run.train_size is not None}))
