"""The scale factors of GemNet: fixed numbers that keep the variance of activations where messages are summed.

They are fitted once, before training, and belong to the model ever after: they lie in its state dict, and a model
without them refuses to compute anything. Source: J. Gasteiger, F. Becker, S. Günnemann, NeurIPS 2021 ("GemNet").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch

if TYPE_CHECKING:
    from mlip_studies.models.gemnet import GemNet

#: The authors' factors for four blocks, which they use for both variants and every data set. Those of GemNet-Q's
#: quadruplet interactions are absent from a GemNet-T.
PUBLISHED: dict[str, float] = {
    "QuadInteraction_1_had_rbf": 3.838575780391693,
    "QuadInteraction_1_had_cbf": 30.91912269592285,
    "QuadInteraction_1_sum_sbf": 2.015521287918091,
    "TripInteraction_1_had_rbf": 2.9607054591178894,
    "TripInteraction_1_sum_cbf": 5.57607889175415,
    "AtomUpdate_1_sum": 1.0634181648492813,
    "QuadInteraction_2_had_rbf": 3.4999656677246094,
    "QuadInteraction_2_had_cbf": 29.30245018005371,
    "QuadInteraction_2_sum_sbf": 1.9548791646957397,
    "TripInteraction_2_had_rbf": 3.0770468711853027,
    "TripInteraction_2_sum_cbf": 6.400703430175781,
    "AtomUpdate_2_sum": 1.023792326450348,
    "QuadInteraction_3_had_rbf": 3.506244122982025,
    "QuadInteraction_3_had_cbf": 30.250303268432617,
    "QuadInteraction_3_sum_sbf": 1.9496761560440063,
    "TripInteraction_3_had_rbf": 3.4999406337738037,
    "TripInteraction_3_sum_cbf": 5.825993537902832,
    "AtomUpdate_3_sum": 0.8776205033063889,
    "QuadInteraction_4_had_rbf": 3.420105278491974,
    "QuadInteraction_4_had_cbf": 30.560321807861328,
    "QuadInteraction_4_sum_sbf": 2.013889789581299,
    "TripInteraction_4_had_rbf": 3.34897518157959,
    "TripInteraction_4_sum_cbf": 5.816178321838379,
    "AtomUpdate_4_sum": 0.8766722679138184,
    "OutBlock_0_sum": 1.1001640558242798,
    "OutBlock_1_sum": 0.989106222987175,
    "OutBlock_2_sum": 0.9261481463909149,
    "OutBlock_3_sum": 0.8048739284276962,
    "OutBlock_4_sum": 0.8166412264108658,
}

_ADVICE = "fit them with mlip_studies.models.gemnet_scaling.fit_scale_factors, or set scale_factors='published'"

Observer = Callable[[str, Tensor, Tensor, Tensor | None], None]


def factor_names(n_blocks: int, quadruplets: bool) -> list[str]:
    """Names of a model's factors, in the order in which its layers use them.

    Args:
        n_blocks: interaction blocks.
        quadruplets: whether it is a GemNet-Q.
    """
    names = ["OutBlock_0_sum"]
    for block in range(1, n_blocks + 1):
        names += [f"TripInteraction_{block}_{part}" for part in ("had_rbf", "sum_cbf")]
        if quadruplets:
            names += [f"QuadInteraction_{block}_{part}" for part in ("had_rbf", "had_cbf", "sum_sbf")]
        names += [f"AtomUpdate_{block}_sum", f"OutBlock_{block}_sum"]
    return names


class ScaleFactors(nn.Module):
    """The factors of one model: float64 numbers in its state dict, one entry per name."""

    def __init__(self, names: list[str], values: str | Mapping[str, float]) -> None:
        """Make the factors.

        Args:
            names: what the model needs.
            values: ``published``, ``unset`` (they are to be fitted or loaded), or one number for every name.

        Raises:
            InputError: another word, a name without a number, or a number that is not positive.
        """
        super().__init__()
        self.names = tuple(names)
        #: sees (name, input of the operation, output, weights of the input's rows) of every scaled operation
        self.observer: Observer | None = None
        for name in names:
            self.register_buffer(name, torch.full((), math.nan, dtype=torch.float64))
        self._known = False
        if isinstance(values, str):
            if values not in ("published", "unset"):
                raise InputError(
                    f"scale_factors={values!r}: expected 'published', 'unset' or a mapping of names to numbers"
                )
            if values == "published":
                self.set(PUBLISHED, "published table (it has four blocks)")
        else:
            self.set(values, "scale_factors")

    def set(self, values: Mapping[str, Any], origin: str) -> None:
        """Take the factors from a mapping, which may have more entries than needed.

        Args:
            values: number of each name.
            origin: where they come from, for the message.

        Raises:
            InputError: a name without a number, or a number that is not positive.
        """
        missing = [name for name in self.names if name not in values]
        if missing:
            raise InputError(
                f"{origin}: no scale factor {missing[0]} ({len(missing)} of {len(self.names)} missing); {_ADVICE}"
            )
        for name in self.names:
            try:
                value = float(values[name])
            except (TypeError, ValueError):
                value = math.nan
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{origin}: scale factor {name}={values[name]}; expected a positive number; {_ADVICE}")
            getattr(self, name).fill_(value)
        self._known = True

    def values(self) -> dict[str, float]:
        """The factors by name (reads them back from the device)."""
        return {name: float(getattr(self, name)) for name in self.names}

    def check(self) -> None:
        """Refuse to go on without factors.

        Raises:
            InputError: they were neither set, loaded nor fitted.
        """
        if not self._known:
            raise InputError(f"this GemNet has no scale factors (scale_factors='unset'); {_ADVICE}")

    def observe(self, name: str, before: Tensor, after: Callable[[], Tensor], weights: Tensor | None = None) -> None:
        """Show an operation to the observer, if there is one.

        Args:
            name: of its factor.
            before: input of the operation, shape (n, features).
            after: makes its output, factor included, shape (m, features).
            weights: how often each row of the input enters, shape (n,); once if not given.
        """
        if self.observer is not None:
            self.observer(name, before, after(), weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScaleFactors:
        # They stay float64 whatever type the weights take: numbers without axes change no other tensor's type.
        exact: dict[str, Tensor] = {name: getattr(self, name) for name in self.names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has it unannotated
        for name, value in exact.items():
            self._buffers[name] = value.to(getattr(self, name).device)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # A partly loaded table would give wrong energies without a word, so strict=False makes no difference here.
        found = {name: state_dict[prefix + name] for name in self.names if prefix + name in state_dict}
        self.set(found, "state dict")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class _Seen(Exception):
    """The forward pass has come as far as the fit needs."""


def _variance(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the features of their variance over rows."""
    rows = rows.double()
    if weights is None:
        return rows.var(dim=0, unbiased=False).mean()
    weights = (weights.double() / weights.sum()).unsqueeze(1)
    mean = (weights * rows).sum(0)
    return (weights * (rows - mean).square()).sum(0).mean()


@torch.no_grad()
def fit_scale_factors(model: GemNet, batches: Iterable[GraphBatch]) -> dict[str, float]:
    """Fit a freshly initialised model's scale factors, one after the other, and put them into the model.

    Each factor becomes sqrt(variance of the operation's input / variance of its output), with all earlier factors in
    place; a variance is the mean over features of the variance over rows, then the mean over batches.

    Args:
        model: its factors are overwritten.
        batches: ragged batches of typical molecules; 25 batches of 32 are customary.

    Returns:
        the factors by name.

    Raises:
        InputError: no batches, or molecules too small for the operation (for example none with a quadruplet).
    """
    scales, batches = model.scales, list(batches)
    if not batches or any(batch.is_padded for batch in batches):
        raise InputError(
            "fitting GemNet's scale factors needs at least one ragged batch; give 25 batches of 32 molecules"
        )
    was_known = scales._known
    scales._known = True
    try:
        for name in scales.names:
            getattr(scales, name).fill_(1.0)
        for name in scales.names:
            seen: list[tuple[Tensor, Tensor]] = []

            def observer(
                which: str,
                before: Tensor,
                after: Tensor,
                weights: Tensor | None,
                name: str = name,
                seen: list[tuple[Tensor, Tensor]] = seen,
            ) -> None:
                if which == name:
                    if before.shape[0] and after.shape[0]:
                        seen.append((_variance(before, weights), _variance(after, None)))
                    raise _Seen

            scales.observer = observer
            for batch in batches:
                try:
                    model(batch)
                except _Seen:
                    continue
            ratio = math.nan
            if seen:
                ratio = math.sqrt(sum(float(a) for a, _ in seen) / max(sum(float(b) for _, b in seen), 1e-300))
            if not (0.0 < ratio < 1e100):
                raise InputError(
                    f"scale factor {name} cannot be fitted: these molecules are too small for its operation"
                )
            getattr(scales, name).fill_(ratio)
        was_known = True
    finally:
        scales.observer = None
        scales._known = was_known
    return scales.values()
