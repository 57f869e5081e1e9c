"""Errors that a user can act on, and the suggestions they carry. Imports nothing heavy."""

import difflib
import errno
import shlex
import signal
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "AVCoreError",
    "AssemblyError",
    "ConfigError",
    "DataError",
    "PluginError",
    "Preempted",
    "did_you_mean",
    "why",
]

DISK_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG),
)
"""Reasons for which the system refuses to read or write: nobody's defect, and the user can mend them."""


class AVCoreError(Exception):
    """A mistake of the user or of a file: the message says what was wrong, where, and what to do.

    The command line prints it as one line without a traceback and leaves with exit code 2. The classes below say of
    which kind it is, for code that goes on differently; what is none of them, such as a damaged run, is an
    `AVCoreError` itself.
    """


class ConfigError(AVCoreError):
    """A setting, an option or the name of something is unknown, missing, contradictory or out of range."""


class DataError(AVCoreError):
    """A data set, a clip or a media file is missing, unreadable, or not what the model takes."""


class AssemblyError(AVCoreError):
    """Parts, head and backbones do not go together, or tensors do not fit the model that was made of them."""


class PluginError(AVCoreError):
    """A plugin is missing, broken, made for another release, or did what its contract forbids."""


class Preempted(SystemExit):
    """SIGTERM, SIGUSR1 or SIGHUP came. Unless it is caught the process ends with code 143, without a traceback."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest choice, or ``""`` when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def why(error: Exception) -> str:
    """What the system or a library says against a file, such as ``No space left on device``; never empty.

    Libraries raise an OSError with a text of their own and no ``strerror``, as numpy does on a full disk.
    """
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split()).rstrip(".")


def typed(path: Path | None) -> str:
    """A path as one writes it in a shell, for commands that a message hands out to be copied."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
