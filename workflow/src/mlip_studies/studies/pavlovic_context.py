"""What the figures and tables of the study of So3krates on SPICE need besides the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlip_studies.claims.schema import Claim, ClaimSet
from mlip_studies.errors import InputError


@dataclass(frozen=True)
class PavlovicContext:
    """What a product needs besides the results.

    Attributes:
        scale: mini or full.
        claims: the claims of the study: all numbers of the thesis come from here.
        n_train: training frames asked for at this scale, by name of the data.
    """

    scale: str
    claims: ClaimSet
    n_train: Mapping[str, int] = field(default_factory=dict)

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
