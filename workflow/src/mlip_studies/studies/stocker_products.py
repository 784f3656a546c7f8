"""Figures and tables of the study of long and hot dynamics, by name. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlip_studies.studies.products import ROBUSTNESS_TABLES, StudyProduct

#: heading in the report
CATEGORY = "Long and hot dynamics (Stocker et al.)"
FIGURES = "mlip_studies.studies.stocker"
ROBUSTNESS = "mlip_studies.studies.stocker_robustness"
LARGE_MOLECULES = "mlip_studies.studies.stocker_large"
CONSERVATION = "mlip_studies.studies.stocker_conservation"
ACTIVE = "mlip_studies.studies.stocker_active"
TABLES = "mlip_studies.studies.stocker_tables"
DRAWINGS = "mlip_studies.studies.molecule_drawings"
#: networks of the learning curves, and the one whose dynamics are the paper's subject
CURVES = ("quadruplets", "triplets", "schnet", "dimenet")
MAIN = ("quadruplets",)
#: fewest and most training rows: what the demo simulates
EXTREMES = (0, -1)


def _figure(name: str, module: str, function: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "figure", module, function, **{"md_tables": ROBUSTNESS_TABLES, **values})


def _table(name: str, module: str, function: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "table", module, function, **{"md_tables": ROBUSTNESS_TABLES, **values})


_THERMAL = {"md": ("thermal",), "checks": True, "floor": True}
_DEMO_THERMAL = {**_THERMAL, "simulated": MAIN, "sizes": EXTREMES}

PRODUCTS: Mapping[str, StudyProduct] = {
    "learning-curves": _figure(
        "learning-curves", FIGURES, "learning_curves", groups=CURVES, floor=True, in_paper="Figure 1"
    ),
    "learning-curves-molecules": _figure(
        "learning-curves-molecules", FIGURES, "learning_curves_molecules", groups=(*CURVES, "by_molecule"), demo=False
    ),
    "high-energy": _figure(
        "high-energy", FIGURES, "high_energy", groups=(*MAIN, "high_energy"), md=("thermal",),
        simulated=(*MAIN, "high_energy"), sizes=(0,), in_paper="p. 5 and its supplement", demo=False,
    ),
    "molecules": _figure("molecules", DRAWINGS, "molecules", starts="qm7x", in_paper="Figure 2 a"),
    "md-errors": _figure(
        "md-errors", FIGURES, "md_errors", groups=MAIN, **_THERMAL, simulated=MAIN, sizes=EXTREMES,
        in_paper="Figure 2 b, c",
    ),
    "md-errors-all": _figure(
        "md-errors-all", FIGURES, "md_errors", groups=MAIN, **_THERMAL, simulated=MAIN, in_paper="Figure 2 b, c",
        demo=False,
    ),
    "dft-convergence": _figure(
        "dft-convergence", FIGURES, "dft_convergence", **_THERMAL, simulated=MAIN, sizes=EXTREMES,
        in_paper="Figure 2 d",
    ),
    "dft-convergence-all": _figure(
        "dft-convergence-all", FIGURES, "dft_convergence", **_THERMAL, simulated=MAIN, in_paper="Figure 2 d",
        demo=False,
    ),
    "breaking-trajectory": _figure(
        "breaking-trajectory", FIGURES, "breaking_trajectory", **_THERMAL, simulated=MAIN, sizes=EXTREMES,
        in_paper="Figure 2 e",
    ),
    "cross-evaluation": _figure(
        "cross-evaluation", FIGURES, "cross_evaluation", **_THERMAL, simulated=MAIN, sizes=EXTREMES, crossed=True,
        in_paper="p. 5",
    ),
    "survival": _figure("survival", ROBUSTNESS, "survival", md=("thermal",), simulated=MAIN, sizes=EXTREMES),
    "survival-networks": _figure(
        "survival-networks", ROBUSTNESS, "survival_networks", md=("thermal",), simulated=(*CURVES, "others"),
        published=True, demo=False,
    ),
    "large-correlations": _figure(
        "large-correlations", LARGE_MOLECULES, "large_correlations", md=("large1200",), checks=True, components=True,
        floor=True, in_paper="Figure 3 a-h", demo=False,
    ),
    "large-hot": _figure(
        "large-hot", LARGE_MOLECULES, "large_hot", md=("large1800",), checks=True, components=True, floor=True,
        in_paper="p. 7 and its supplement", demo=False,
    ),
    "robustness-matrix": _figure(
        "robustness-matrix", ROBUSTNESS, "robustness_matrix", **_THERMAL, simulated=(*CURVES, "others"), published=True,
        demo=False,
    ),
    "robustness-table": _table(
        "robustness", TABLES, "robustness_matrix_table", **_THERMAL, simulated=(*CURVES, "others", "high_energy"),
        published=True, demo=False,
    ),
    "nve-drift": _figure("nve-drift", CONSERVATION, "nve_drift", md=("nve",), demo=False),
    "singularities": _figure(
        "singularities", CONSERVATION, "singularities", md=("singular",), md_tables=(*ROBUSTNESS_TABLES, "spikes.csv")
    ),
    "checks-table": _table("checks", TABLES, "checks_table", **_DEMO_THERMAL, in_paper="Figure 2 d"),
    "results-table": _table(
        "results", TABLES, "results_table", groups=(*CURVES, "high_energy"), **_DEMO_THERMAL, crossed=True,
        in_paper="all numbers of the text",
    ),
    "results-table-all": _table(
        "results-all", TABLES, "results_table", groups=(*CURVES, "high_energy"), checks=True, floor=True, crossed=True,
        md=("thermal", "large1200", "large1800", "nve", "singular"), simulated=(*CURVES, "high_energy"),
        in_paper="all numbers of the text", demo=False,
    ),
    "check-costs-table": _table("check-costs", TABLES, "check_costs_table", **_DEMO_THERMAL),
    "forecast-table": _table(
        "forecast", TABLES, "forecast_table", md=("thermal",), simulated=MAIN, sizes=EXTREMES, checks=True,
        forecast=True, in_paper="280 ns, 17,280 checks",
    ),
    "active-learning": _figure("active-learning", ACTIVE, "active_learning", active=True, demo=False),
}  # fmt: skip
