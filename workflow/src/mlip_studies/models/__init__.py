"""Interatomic potentials; see :mod:`mlip_studies.models.catalog` for their names."""
