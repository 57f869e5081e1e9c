"""Errors that a user can act on, and the suggestions they carry. Imports nothing heavy."""

import difflib
from collections.abc import Iterable

__all__ = ["AVCoreError", "did_you_mean"]


class AVCoreError(Exception):
    """A mistake of the user or of a file: the message says what was wrong, where, and what to do.

    The command line prints it as one line without a traceback and leaves with exit code 2.
    """


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest choice, or ``""`` when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
