"""Construction of the mini data sets shipped in ``resources/`` (real quantum chemistry at the published levels)."""
