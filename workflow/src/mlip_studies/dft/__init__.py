"""Quantum-chemistry reference calculations with PySCF."""
