"""Potentials as calculators of simulation packages.

* :mod:`mlip_studies.models.calculators.ase`: one molecule at a time, for ASE's optimisers and dynamics.
* :mod:`mlip_studies.models.calculators.torchsim`: many molecules at a time, for torch-sim's batched dynamics.

Neither package is imported before its module is.
"""
