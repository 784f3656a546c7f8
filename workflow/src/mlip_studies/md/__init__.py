"""Molecular dynamics with trained potentials: many molecules, temperatures and replicas in one batch."""
