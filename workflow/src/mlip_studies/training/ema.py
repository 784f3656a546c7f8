"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mlip_studies.runtime.options import check


class EMA:
    """shadow ← decay · shadow + (1 - decay) · weight after every step, starting from the initial weights.

    Addresses never change, so that the update can be captured together with a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the present weights of the parameters that are trained."""
        check(0.0 < decay < 1.0, "training.ema_decay", "a number between 0 and 1", decay)
        self.decay = decay
        self._tensors: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._shadow = [p.detach().clone() for p in self._tensors]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        torch._foreach_lerp_(self._shadow, self._tensors, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        kept = [p.detach().clone() for p in self._tensors]
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._shadow)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._tensors, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, each of the same shape as its parameter."""
        return dict(zip(self._names, self._shadow, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages, each of the same shape as its parameter."""
        for name, shadow in zip(self._names, self._shadow, strict=True):
            shadow.copy_(state[name])
