"""Figures and tables of the study of the SE(3)-Transformer, by name. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlip_studies.studies.products import ROBUSTNESS_TABLES, StudyProduct

#: heading in the report
CATEGORY = "SE(3)-Transformer on ANI-1 and ANI-1x (Hedelius)"
FIGURES = "mlip_studies.studies.hedelius"
PHYSICS = "mlip_studies.studies.hedelius_physics"
PARTICLES = "mlip_studies.studies.hedelius_nbody"
#: the networks of the thesis: with 2 or 4 channels for each head, and in all
PER_HEAD = ("sizes", "sizes_higher")
IN_ALL = ("channels", "channels_higher")
_NETWORKS = ("se3_basic", "se3_wider", "se3_higher_order")
_IN_ALL = tuple(f"{name}_total" for name in _NETWORKS)


def _figure(name: str, module: str, function: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "figure", module, function, **{"kinds": ("runs", "history"), **values})


def _table(name: str, module: str, function: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "table", module, function, **values)


def _measured(*networks: str) -> tuple[str, ...]:
    return tuple(f"{{results}}/models/networks/{name}.json" for name in networks)


PRODUCTS: Mapping[str, StudyProduct] = {
    "equivariance-table": _table(
        "equivariance", PHYSICS, "equivariance_table", files=_measured(*_NETWORKS), in_paper="section 3.1"
    ),
    "fig3-1-nbody": _figure(
        "fig3.1-nbody", PARTICLES, "nbody", charged_particles=True, in_paper="Figure 3.1"
    ),
    "nbody-errors": _figure(
        "nbody-errors", PARTICLES, "nbody_errors", charged_particles=True, in_paper="section 3.1"
    ),
    "nbody-table": _table("nbody", PARTICLES, "nbody_table", charged_particles=True, in_paper="section 3.1"),
    "fig3-2-first-attempt": _figure(
        "fig3.2-first-attempt", FIGURES, "first_attempt", groups=("first",),
        kinds=("runs", "history", "molecules", "forces"), in_paper="Figure 3.2",
    ),
    "fig3-3-energy-weights": _figure(
        "fig3.3-energy-weights", FIGURES, "energy_weights", groups=("weights",), in_paper="Figure 3.3"
    ),
    "table3-1": _table(
        "table3.1", FIGURES, "table3_1", files=("{results}/data/table31.csv",), in_paper="Table 3.1"
    ),
    "self-energies-effect": _figure(
        "self-energies-effect", FIGURES, "self_energies_effect", groups=("first", "rates"),
        kinds=("runs", "history", "molecules"), files=("{results}/data/table31.csv",), in_paper="section 3.2",
    ),
    "fig3-4-learning-rates": _figure(
        "fig3.4-learning-rates", FIGURES, "learning_rates", groups=("rates",), in_paper="Figure 3.4"
    ),
    "fig3-5-long-run": _figure(
        "fig3.5-long-run", FIGURES, "long_run", groups=("long", "rates"), in_paper="Figure 3.5", demo=False
    ),
    "fig3-6-energy-only": _figure(
        "fig3.6-energy-only", FIGURES, "energy_only", groups=("energy_only",), in_paper="Figure 3.6"
    ),
    "fig3-7-sizes": _figure("fig3.7-sizes", FIGURES, "sizes", groups=PER_HEAD, in_paper="Figure 3.7"),
    "table3-2": _table(
        "table3.2", FIGURES, "table3_2", groups=(*PER_HEAD, "gradient"), kinds=("runs", "history"),
        files=_measured(*_NETWORKS), in_paper="Table 3.2",
    ),
    "table3-2-all": _table(
        "table3.2-all", FIGURES, "table3_2", groups=(*PER_HEAD, *IN_ALL, "gradient", "long"),
        kinds=("runs", "history"), files=_measured(*_NETWORKS, *_IN_ALL),
        in_paper="Table 3.2", demo=False,
    ),
    "channels": _figure(
        "channels", FIGURES, "channels", groups=(*PER_HEAD, *IN_ALL), files=_measured(*_NETWORKS, *_IN_ALL),
        in_paper="section 3.2, its ambiguity", demo=False,
    ),
    "comp6": _figure(
        "comp6", FIGURES, "comp6", groups=(*PER_HEAD, "gradient"), kinds=("runs", "molecules"), tests=("comp6",),
        in_paper="section 3.2, next steps",
    ),
    "comp6-s66x8": _figure(
        "comp6-s66x8", FIGURES, "s66x8", groups=(*PER_HEAD, "gradient"), kinds=("runs", "molecules"), tests=("s66x8",),
        in_paper="section 3.2, next steps", demo=False,
    ),
    "comp6-table": _table(
        "comp6", FIGURES, "comp6_table", groups=(*PER_HEAD, "gradient"), kinds=("runs", "molecules"), tests=("comp6",),
        in_paper="section 3.2, next steps",
    ),
    "water": _figure(
        "water", PHYSICS, "water", md=("water",), md_tables=(*ROBUSTNESS_TABLES, "trajectory.h5"),
        kinds=("runs",), in_paper="section 3.2",
    ),
    "curl": _figure("curl", PHYSICS, "curl", curl=True, groups=("gradient",), kinds=("runs",)),
    "nan-gradients": _figure(
        "nan-gradients", PHYSICS, "nan_gradients", files=("{results}/models/nan_gradients.csv",), in_paper="section 2.4"
    ),
}  # fmt: skip
