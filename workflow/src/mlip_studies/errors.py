"""Errors that a user can cause; each is one line that says what to do."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: the message names the file or key, what was expected, and what to do."""
