"""The potential of a run: a trained one, by the path of its file, or a published one, by a few keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from mlip_studies.artifacts import PathLike, require, sha256_of
from mlip_studies.errors import InputError
from mlip_studies.models.potential import Potential, load_potential

#: key that holds a published potential's name; the others are those of
#: :class:`mlip_studies.models.pretrained.PretrainedSpec`
PRETRAINED = "pretrained"


def check_potential(potential: Any, where: str) -> None:
    """Stop unless a value names a potential.

    Args:
        potential: path of a saved potential, or a mapping with ``pretrained`` (a name), ``kind``, ``path`` and
            ``sha256``.
        where: the key, for messages.

    Raises:
        InputError: neither.
    """
    if isinstance(potential, Mapping):
        if not potential.get(PRETRAINED):
            raise InputError(
                f"{where}: a mapping without {PRETRAINED!r}; expected the published potential's name there"
            )
        _spec(potential)
    elif not isinstance(potential, str | os.PathLike) or not str(potential):
        raise InputError(f"{where}: expected a path, or a mapping with {PRETRAINED!r}, found {potential!r}")


def _spec(potential: Mapping[str, Any]) -> Any:
    from mlip_studies.models.pretrained import PretrainedSpec

    entry = {key: value for key, value in potential.items() if key != PRETRAINED}
    return PretrainedSpec.from_dict(str(potential[PRETRAINED]), entry)


def open_potential(
    potential: PathLike | Mapping[str, Any], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> tuple[Potential, str]:
    """Load a potential that a configuration names.

    Args:
        potential: see :func:`check_potential`; relative paths start from the working directory.
        device: where to put it.
        dtype: of its weights.

    Returns:
        the potential, and the SHA-256 of its weights.

    Raises:
        InputError: missing or damaged weights, or a package that is not installed.
    """
    check_potential(potential, "potential")
    if isinstance(potential, Mapping):
        from mlip_studies.models.pretrained import load_pretrained_potential

        spec = _spec(potential)
        return load_pretrained_potential(spec, device, dtype), spec.sha256
    return load_potential(potential, device, dtype)[0].requires_grad_(False), sha256_of(require(potential))
