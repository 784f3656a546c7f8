"""Names of the models and the modules that define them; imports nothing heavy, so the workflow can read it.

Adding a model means adding one line here, and its module.
"""

from __future__ import annotations

from mlip_studies.errors import InputError

#: name -> (module, class). Modules are imported on use, so that editing one model never reruns another's training.
MODELS: dict[str, tuple[str, str]] = {
    "so3krates": ("mlip_studies.models.so3krates", "So3krates"),
    "gemnet_t": ("mlip_studies.models.gemnet", "GemNetT"),
    "gemnet_q": ("mlip_studies.models.gemnet", "GemNetQ"),
    "schnet": ("mlip_studies.models.schnet", "SchNet"),
    "dimenet_plus_plus": ("mlip_studies.models.dimenet", "DimeNetPP"),
    "se3_transformer": ("mlip_studies.models.se3_transformer", "SE3Transformer"),
    "egnn": ("mlip_studies.models.egnn", "EGNN"),
    "egnn_rff_as_coded": ("mlip_studies.models.egnn_rff", "EGNNAsCoded"),
    "egnn_rff_as_described": ("mlip_studies.models.egnn_rff", "EGNNAsDescribed"),
}


def model_module(name: str) -> str:
    """Dotted name of the module that defines a model."""
    if name not in MODELS:
        raise InputError(f"model {name!r} is unknown; choose one of {', '.join(sorted(MODELS))}")
    return MODELS[name][0]
