"""Optimizers: Adam and its relatives with the studies' parameter groups, clipping of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from mlip_studies.errors import InputError
from mlip_studies.runtime.options import check

OPTIMIZERS = ("adam", "adamw", "amsgrad")
DECAY_MEANINGS = ("per_learning_rate", "per_step")


@dataclass(frozen=True)
class OptimizerConfig:
    """Options of the optimizer.

    Attributes:
        name: ``adam``; ``adamw``, with decoupled weight decay; ``amsgrad``, Adam with ``amsgrad``.
        learning_rate: base rate, on which schedule and plateau act.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        amsgrad: use the largest second moment so far.
        weight_decay: strength λ of the decay (``adamw``).
        weight_decay_meaning: ``per_learning_rate``: w loses lr(t) λ w per step, as torch does. ``per_step``: it loses
            λ w times lr(t)/learning_rate, as the TensorFlow original of GemNet does; its 2e-6 per step at a rate of
            1e-3 is 2e-3 in torch's meaning.
        no_decay: names (with wildcards) of parameters without decay. Those of embedding layers and those with less than
            two axes (biases, frequencies, gains) never decay.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    weight_decay: float = 0.0
    weight_decay_meaning: str = "per_learning_rate"
    no_decay: tuple[str, ...] = ("embedding", "*frequencies*", "*bias")

    def __post_init__(self) -> None:
        """Check the options."""
        check(self.name in OPTIMIZERS, "optimizer.name", f"one of {', '.join(OPTIMIZERS)}", self.name)
        check(self.learning_rate > 0, "optimizer.learning_rate", "a number above 0", self.learning_rate)
        check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", "two numbers from 0 to below 1", self.betas)
        check(self.eps > 0, "optimizer.eps", "a number above 0", self.eps)
        check(self.weight_decay >= 0, "optimizer.weight_decay", "a number not below 0", self.weight_decay)
        meaning = self.weight_decay_meaning
        check(meaning in DECAY_MEANINGS, "optimizer.weight_decay_meaning", " or ".join(DECAY_MEANINGS), meaning)
        if self.weight_decay > 0 and self.name != "adamw":
            raise InputError(f"optimizer.weight_decay: needs name adamw, found {self.name}")

    @property
    def torch_weight_decay(self) -> float:
        """The decay in torch's meaning, which multiplies it by the present rate."""
        return self.weight_decay / (self.learning_rate if self.weight_decay_meaning == "per_step" else 1.0)


def decays(model: nn.Module, no_decay: Iterable[str]) -> dict[str, bool]:
    """Whether weight decay acts on each parameter of a model, by name; see :class:`OptimizerConfig`."""
    embeddings = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    }
    patterns = tuple(no_decay)
    return {
        name: parameter.ndim > 1 and name not in embeddings and not any(fnmatch(name, each) for each in patterns)
        for name, parameter in model.named_parameters()
    }


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters.

    The update is one fused kernel that never waits for the device, on a CPU several times faster than torch's default.

    Raises:
        InputError: nothing is trainable.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise InputError("no trainable parameters: every weight of the model is frozen")
    with_decay = decays(model, config.no_decay)
    groups: list[dict[str, Any]] = []
    for decay in (True, False):
        members = [p for name, p in parameters.items() if with_decay[name] == decay]
        if members:
            groups.append({"params": members, "weight_decay": config.torch_weight_decay if decay else 0.0})
    return (torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam)(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        amsgrad=config.amsgrad or config.name == "amsgrad",
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the rate of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


class GradientScaler:
    """Multiplies gradients of shared layers by fixed factors before they are clipped."""

    def __init__(self, model: nn.Module, scales: Mapping[str, float] | None) -> None:
        """Find the parameters.

        Args:
            model: the model.
            scales: factors by the name of a parameter or of a module (a point at its end is allowed).

        Raises:
            InputError: a name that the model does not have.
        """
        self._groups: list[tuple[list[nn.Parameter], float]] = []
        for key, factor in (scales or {}).items():
            prefix = key.removesuffix(".")
            members = [p for name, p in model.named_parameters() if name == prefix or name.startswith(f"{prefix}.")]
            if not members:
                raise InputError(f"gradient_scales: the model has no parameter or module {key!r}")
            self._groups.append(([p for p in members if p.requires_grad], factor))

    @torch.no_grad()
    def apply(self) -> None:
        """Scale the gradients that are there."""
        for parameters, factor in self._groups:
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, factor)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    """Scale gradients down to a global norm, and return their norm before (a scalar on the device)."""
    parameters = list(parameters)
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, clip_norm)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
