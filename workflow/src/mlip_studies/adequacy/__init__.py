"""Physical adequacy of potentials: scans of molecules, what potentials and reference methods say of them, and tests."""
