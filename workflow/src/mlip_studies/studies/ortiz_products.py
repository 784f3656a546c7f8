"""Figures and tables of the study of physical adequacy, by name. Light, so that the rules can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlip_studies.studies.products import StudyProduct

#: heading in the report
CATEGORY = "Physical adequacy of potentials (Ortiz)"
FIGURES = "mlip_studies.studies.ortiz"
TABLES = "mlip_studies.studies.ortiz_tables"


def _figure(name: str, function: str, in_paper: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "figure", FIGURES, function, in_paper=in_paper, **values)


def _table(name: str, function: str, in_paper: str, **values: Any) -> StudyProduct:
    return StudyProduct(name, "table", TABLES, function, in_paper=in_paper, **values)


PRODUCTS: Mapping[str, StudyProduct] = {
    "scorecard": _table("scorecard", "scorecard", "section 5"),
    "potentials": _table("potentials", "potentials", "appendix F"),
    "fig1-cost": _figure("fig1-cost", "cost", "Figure 1, section 4.2"),
    "fig6-body-order": _figure("fig6-body-order", "body_order", "Figures 6 and 26"),
    "fig7-diatomics": _figure("fig7-diatomics", "diatomics", "Figure 7"),
    "fig8-bonds": _figure("fig8-bonds", "bonds", "Figure 8"),
    "fig9-angles": _figure("fig9-angles", "angles", "Figure 9"),
    "fig10-dihedrals": _figure("fig10-dihedrals", "dihedrals", "Figure 10"),
    "fig11-invariance": _figure("fig11-invariance", "invariance", "Figure 11"),
    "fig12-momentum": _figure("fig12-momentum", "momentum", "Figure 12"),
    "fig13-cosan": _figure("fig13-cosan", "cosan", "Figure 13"),
    "fig14-cyclobutadiene": _figure("fig14-cyclobutadiene", "cyclobutadiene", "Figure 14"),
    "fig29-diatomics": _figure("fig29-diatomics", "diatomics_others", "Figure 29"),
    "fig30-ethanol-oh": _figure("fig30-ethanol-oh", "hydroxyl", "Figure 30, which has no caption"),
    "fig31-dihedrals": _figure("fig31-dihedrals", "dihedrals_others", "Figure 31"),
    "fig32-cyclobutadiene-1d": _figure("fig32-cyclobutadiene-1d", "cyclobutadiene_cut", "Figure 32"),
    "fig33-cyclobutadiene-surfaces": _figure("fig33-cyclobutadiene-surfaces", "cyclobutadiene_others", "Figure 33"),
    "fig34-invariance-others": _figure("fig34-invariance-others", "invariance_others", "Figure 34"),
    "symmetry-tests": _figure("symmetry-tests", "symmetry_tests", "section 5.2"),
    "smoothness": _figure("smoothness", "smoothness", "section 5.1"),
    "analysis": _table("analysis", "analysis", "section 5.1"),
}
#: scans that a figure needs, by product; those that are not here need none or, see ALL_SCANS, all
SCANS: Mapping[str, tuple[str, ...]] = {
    "fig7-diatomics": ("diatomic-h2", "diatomic-n2"),
    "fig8-bonds": ("ethane-cc", "ethanol-co"),
    "fig9-angles": ("water-hoh", "ethanol-cco"),
    "fig10-dihedrals": ("dihedral-ethane", "dihedral-biphenyl"),
    "fig11-invariance": (
        "translation-water", "rotation-water", "translation-cyclobutadiene", "rotation-cyclobutadiene",
    ),
    "fig12-momentum": ("translation-water", "rotation-water"),
    "fig13-cosan": ("cosan",),
    "fig14-cyclobutadiene": ("cyclobutadiene-2d",),
    "fig29-diatomics": ("diatomic-c2", "diatomic-o2", "diatomic-si2", "diatomic-cl2"),
    "fig30-ethanol-oh": ("ethanol-oh",),
    "fig31-dihedrals": ("dihedral-biaryl1", "dihedral-biaryl2", "dihedral-biaryl3", "dihedral-fluoroallene"),
    "fig32-cyclobutadiene-1d": ("cyclobutadiene-1d",),
    "fig33-cyclobutadiene-surfaces": ("cyclobutadiene-2d",),
    "fig34-invariance-others": ("translation-benzene", "rotation-benzene", "translation-ethanol", "rotation-ethanol"),
}  # fmt: skip
#: products that need all curves and references
ALL_SCANS = ("scorecard", "potentials", "analysis")
#: products that need the symmetry tests, the timings, or the analysis of the curves
SYMMETRY = ("scorecard", "potentials", "symmetry-tests", "fig6-body-order")
COST = ("fig1-cost",)
ANALYSIS = ("scorecard", "analysis", "smoothness", "fig1-cost")
