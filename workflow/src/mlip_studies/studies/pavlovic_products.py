"""Figures and tables of the study of So3krates on SPICE, by name. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Mapping

from mlip_studies.studies.products import StudyProduct

#: heading in the report
CATEGORY = "So3krates on SPICE (Pavlović)"
#: the run that stands for the thesis's final model, by our reading of it
MAIN_RUN = "formation-so3krates-mean_padded-b1"
#: the same with energies in the loss and a consistent reference
CURE_RUN = "formation-so3krates-per_element-b0.99"
#: the thesis's final model on the set without ion pairs and outliers
CLEANED_RUN = "cleaned-so3krates-mean_padded-b1"
SPICE = "mlip_studies.studies.pavlovic"
SPICE_TABLES = "mlip_studies.studies.pavlovic_tables"
ETHANOL = "mlip_studies.studies.pavlovic_ethanol"


_SPICE_RUNS = ("slope", "cleaned")
_PUBLISHED = ("published", "published_second", "published_sizes")
_DYNAMICS = ("nvt300", "nvt500", "nve300")

PRODUCTS: Mapping[str, StudyProduct] = {
    "fig3-left-energies": StudyProduct(
        "fig3-left-energies", "figure", SPICE, "energies", runs=(MAIN_RUN,), kinds=("runs", "molecules"),
        in_paper="Figure 3, left",
    ),
    "fig3-right-forces": StudyProduct(
        "fig3-right-forces", "figure", SPICE, "forces", runs=(MAIN_RUN,), groups=("cleaned",),
        kinds=("runs", "forces", "outliers"), in_paper="Figure 3, right",
    ),
    "slope": StudyProduct(
        "slope", "figure", SPICE, "slope", groups=("slope",), kinds=("runs", "molecules"),
        in_paper="section III, the open question",
    ),
    "slope-mechanisms": StudyProduct(
        "slope-mechanisms", "figure", SPICE, "mechanisms", groups=("slope",),
        in_paper="section III, the open question",
    ),
    "convergence": StudyProduct(
        "convergence", "figure", SPICE, "convergence", groups=("convergence",),
        runs=tuple(f"formation-so3krates-{shift}-b0.99" for shift in ("mean_padded", "none", "per_element")),
        in_paper="section III, the open question", demo=False,
    ),
    "beta": StudyProduct(
        "beta", "figure", SPICE, "beta", groups=("slope",),
        runs=(MAIN_RUN, *(f"formation-so3krates-mean_padded-b{b}" for b in ("0.9", "0.99", "0.999"))),
        in_paper="section III", demo=False,
    ),
    "layers": StudyProduct(
        "layers", "figure", SPICE, "layers", runs=(MAIN_RUN,), groups=("layers",), in_paper="section III", demo=False
    ),
    "errors-by": StudyProduct(
        "errors-by", "figure", SPICE, "errors_by", runs=(MAIN_RUN, CURE_RUN),
        kinds=("runs", "molecules", "elements"),
    ),
    "ensemble": StudyProduct(
        "ensemble", "figure", SPICE, "ensemble", runs=(MAIN_RUN, CURE_RUN), kinds=("runs", "ensemble"),
        min_seeds=2,
    ),
    "results-table": StudyProduct(
        "results", "table", SPICE_TABLES, "results_table", groups=_SPICE_RUNS, in_paper="section IV"
    ),
    "outliers-table": StudyProduct(
        "outliers", "table", SPICE_TABLES, "outliers_table", runs=(MAIN_RUN,), groups=("cleaned",),
        kinds=("runs", "outliers"), in_paper="section IV and Figure 3, right",
    ),
    "slope-table": StudyProduct("slope", "table", SPICE_TABLES, "slope_table", groups=("slope",)),
    "shift-check-table": StudyProduct("shift-check", "table", SPICE_TABLES, "shift_check_table", shift_check=True),
    "ethanol-table": StudyProduct(
        "ethanol", "table", ETHANOL, "ethanol", groups=("ethanol",), in_paper="section IV"
    ),
    "ethanol-learning-curve": StudyProduct(
        "ethanol-learning-curve", "figure", ETHANOL, "ethanol_learning_curve", groups=("ethanol", "ethanol_sizes"),
        demo=False,
    ),
    "md-distances": StudyProduct(
        "md-distances", "figure", ETHANOL, "md_distances", md=_DYNAMICS[:2], simulated=("ethanol",)
    ),
    "md-stability": StudyProduct(
        "md-stability", "figure", ETHANOL, "md_stability", md=_DYNAMICS, simulated=("ethanol",)
    ),
    "md-stability-table": StudyProduct(
        "md-stability", "table", ETHANOL, "md_stability_table", md=_DYNAMICS, simulated=("ethanol",)
    ),
    "ethanol-published-table": StudyProduct(
        "ethanol-published", "table", ETHANOL, "ethanol", groups=_PUBLISHED,
        in_paper="section IV", demo=False,
    ),
    "ethanol-published-learning-curve": StudyProduct(
        "ethanol-published-learning-curve", "figure", ETHANOL, "ethanol_learning_curve",
        groups=_PUBLISHED, demo=False,
    ),
    "md-published-distances": StudyProduct(
        "md-published-distances", "figure", ETHANOL, "md_distances", md=_DYNAMICS[:2],
        simulated=("published",), demo=False,
    ),
    "md-published-stability": StudyProduct(
        "md-published-stability", "figure", ETHANOL, "md_stability", md=_DYNAMICS, simulated=("published",),
        demo=False,
    ),
    "fig2-tradeoff": StudyProduct(
        "fig2-tradeoff", "figure", ETHANOL, "fig2_tradeoff", groups=("tradeoff",), md=("nvt500",),
        simulated=("ethanol", "tradeoff"), speed=True, in_paper="Figure 2 a, b (taken from its reference [2])",
        demo=False,
    ),
}  # fmt: skip
