"""The composite CCSD(T)/CBS recipe against the published column of ANI-1x."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from mlip_studies.dft.levels import composite_ccsd_t_cbs, hf_cbs, mp2_cbs

COMPONENTS = (
    "hf_tz.energy",
    "hf_qz.energy",
    "mp2_tz.corr_energy",
    "mp2_qz.corr_energy",
    "npno_ccsd(t)_dz.corr_energy",
    "npno_ccsd(t)_tz.corr_energy",
    "tpno_ccsd(t)_dz.corr_energy",
)


def test_published_composite_energies():
    folder = os.environ.get("MLIP_STUDIES_REFERENCE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MLIP_STUDIES_REFERENCE_DATA is not set: no published data to compare with")
    checked = missing = 0
    with h5py.File(Path(folder) / "ani" / "ani1x_schema_8rows.h5") as file:
        for group in file.values():
            for row, expected in enumerate(group["ccsd(t)_cbs.energy"][:]):
                found = composite_ccsd_t_cbs(*(float(group[key][row]) for key in COMPONENTS))
                # Rows without coupled cluster lack the components too.
                assert np.isnan(found) == np.isnan(expected)
                if np.isnan(expected):
                    missing += 1
                else:
                    assert abs(found - expected) < 1e-8
                    checked += 1
    assert (checked, missing) == (6, 2)


def test_extrapolations_recover_the_limit_of_their_own_law():
    limit, slope = -76.07, 3.1
    assert hf_cbs(*(limit + slope * np.exp(-5.46 * np.sqrt(n)) for n in (3, 4))) == pytest.approx(limit, abs=1e-12)
    assert mp2_cbs(*(limit + slope * n**-2.51 for n in (3, 4))) == pytest.approx(limit, abs=1e-12)


def test_canonical_coupled_cluster_has_no_local_correction():
    same = composite_ccsd_t_cbs(-76.05, -76.06, -0.26, -0.29, -0.21, -0.27, -0.21)
    shifted = composite_ccsd_t_cbs(-76.05, -76.06, -0.26, -0.29, -0.30, -0.27, -0.30)
    assert same == pytest.approx(shifted, abs=1e-12)
