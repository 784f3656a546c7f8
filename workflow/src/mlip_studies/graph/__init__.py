"""Batches of molecules as graphs."""
