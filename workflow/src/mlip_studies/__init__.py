"""Published studies of machine-learned interatomic potentials, reproduced; units are eV, Å, fs and K."""
