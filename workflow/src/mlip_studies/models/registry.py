"""Building models by the names of :mod:`mlip_studies.models.catalog`."""

from __future__ import annotations

import importlib
from typing import Any

from mlip_studies.errors import InputError
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.catalog import MODELS, model_module


def build_model(name: str, options: dict[str, Any]) -> AtomisticModel:
    """A new model with freshly drawn weights.

    Raises:
        InputError: unknown model, or an option that it does not have.
    """
    cls = getattr(importlib.import_module(model_module(name)), MODELS[name][1])
    try:
        model: AtomisticModel = cls(**options)
        return model
    except TypeError as error:
        raise InputError(f"model {name!r}: {error}; check the model's options in the study configuration") from error
