"""Shared fixtures: where reference data and vectors lie, and the repository's root."""

import os
from pathlib import Path

import pytest

from mlip_studies.models.compat import allow_e3nn_tables

allow_e3nn_tables()  # for the e3nn of the `pretrained` environment, before a test imports it

ROOT = Path(__file__).parents[1]


def _folder(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: published data, reference vectors or texts are not at hand")
    path = Path(value)
    if not path.is_dir():
        pytest.skip(f"{variable}={value} is not a folder")
    return path


@pytest.fixture(scope="session")
def parity_folder():
    """Folder of reference vectors."""
    return _folder("MLIP_STUDIES_PARITY")


@pytest.fixture(scope="session")
def reference_data():
    """Folder of published data."""
    return _folder("MLIP_STUDIES_REFERENCE_DATA")


@pytest.fixture(scope="session")
def papers_folder():
    """Folder of the texts of the papers."""
    return _folder("MLIP_STUDIES_PAPERS")


@pytest.fixture(scope="session")
def repository():
    """Root of the checkout."""
    return ROOT
