"""The directory of a run: what was asked, what came out, with which versions, and how it ended."""

import configparser
import fcntl
import math
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from avcore.engine.files import clear_leftovers, write_atomic, write_json
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError, why

__all__ = [
    "RunRecord",
    "commit_of",
    "default_directory",
    "peak_bytes",
    "refuse_no_unicode",
    "refuse_used",
    "reset_peak",
    "versions",
]

OWN = ("log.txt", "checkpoints", "clips", "pictures", "events.out.", ".tmp-")
"""How the names begin that stand in a run directory before its configuration does."""
FOUNDATIONS = ("torch", "torchvision", "torchaudio", "timm", "av", "numpy", "safetensors")


@contextmanager
def default_directory(task: str, method: str | None, root: Path = Path("runs")) -> Iterator[Path]:
    """Make ``runs/<task>-<method>-<UTC>`` for a run; one of the same second gets ``-2``, ``-3``, ...

    Making it is what takes the name, so that runs that begin at once share none. Left with an error, it goes again if
    nothing is in it.

    Raises:
        AVCoreError: it cannot be made.
    """
    stem = f"{task}-{method or 'plain'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path, number = root / stem, 1
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            break
        except FileExistsError as error:
            if not path.exists():  # something else is in the way, further up
                raise _cannot_make(path, error) from error
            number += 1
            path = root / f"{stem}-{number}"
        except OSError as error:
            raise _cannot_make(path, error) from error
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            path.rmdir()
            root.rmdir()
        raise


def _cannot_make(directory: Path, error: OSError) -> AVCoreError:
    where = error.filename or directory
    return AVCoreError(f"Cannot make the run directory {directory}: {where}: {why(error)}.")


def refuse_no_unicode(directory: Path) -> None:
    """Refuse a name that TensorBoard cannot write to.

    Raises:
        AVCoreError: it is no UTF-8.
    """
    try:
        str(directory).encode()
    except UnicodeEncodeError as error:
        raise AVCoreError(
            f"{str(directory)!a} is no UTF-8, and TensorBoard writes nothing there: name another --out."
        ) from error


def refuse_used(directory: Path, *, resume: bool = False) -> None:
    """Refuse a directory that holds files, or a file in its place.

    Args:
        resume: accept what a run that was killed in its first moments left, before it wrote its configuration.

    Raises:
        AVCoreError: it is not new and not empty.
    """
    if directory.is_dir() and any(not (resume and path.name.startswith(OWN)) for path in directory.iterdir()):
        has_run = (directory / "config.yaml").is_file()
        hint = f"go on with the run in it (--resume {directory}), " if has_run else ""
        raise AVCoreError(f"{directory} is not empty: {hint}name another --out, or remove it.")
    if directory.exists() and not directory.is_dir():
        raise AVCoreError(f"{directory} is a file: name another --out.")


def versions() -> dict[str, str]:
    """Installed versions of avcore, of every plugin distribution and of what they compute with."""
    # The version that runs, build tag included, not the one that a wheel's name gives.
    return dict(sorted({**_installed(tuple(sys.path)), "torch": torch.__version__}.items()))


@cache
def _installed(path: tuple[str, ...]) -> Mapping[str, str]:
    """Read once for a search path: a process keeps what it has imported, whatever is installed meanwhile."""
    found: dict[str, str] = {}
    for distribution in distributions(path=list(path)):
        name, offers = "", False
        # What is damaged offers nothing; `avcore plugins doctor` tells of it.
        with suppress(OSError, ValueError, configparser.Error):
            name = str(distribution.metadata["Name"])
            offers = any(point.group == "avcore.plugins" for point in distribution.entry_points)
        if offers or name == "avcore" or name.lower() in FOUNDATIONS:
            found.setdefault(name, distribution.version)
    return found


def commit_of(directory: Path) -> str | None:
    """The git commit of a working tree, with ``-dirty`` when tracked files differ from it; None without git.

    Only a tree that tracks ``directory`` counts: an installed package inside somebody else's repository has no commit.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "."):
        return None
    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of this run; the peak of a process on a CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most memory in use: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RunRecord:
    """Writes ``config.yaml``, ``results.json`` and ``log.txt`` of a run directory, alone among all processes.

    Args:
        directory: made if need be; must be empty, unless a run goes on in it.
        resume: a run goes on in it; what a killed process left unfinished is removed.

    Raises:
        AVCoreError: the directory holds files, cannot be made, or another process works in it.
    """

    def __init__(self, directory: Path, *, resume: bool = False) -> None:
        self.directory = directory
        if not resume:
            refuse_used(directory)
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            # Names of files may be no Unicode.
            self._log = open(  # noqa: SIM115 - lives as long as the run
                directory / "log.txt", "a", encoding="utf-8", errors="backslashreplace", buffering=1
            )
            # Of this process alone: loader processes do not inherit it, and it goes with the process.
            fcntl.lockf(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AVCoreError(f"Another process works in {directory}: wait for its end, or stop it first.") from error
        except OSError as error:
            raise _cannot_make(directory, error) from error
        clear_leftovers(directory)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.directory / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Where pictures of predictions go."""
        return self.directory / "pictures"

    def log(self, text: str) -> None:
        """Add lines to ``log.txt``, each with the time (UTC)."""
        for line in text.splitlines():
            self._log.write(f"{datetime.now(UTC):%H:%M:%S} {line}".rstrip() + "\n")

    def write_config(self, text: str) -> None:
        """Write the resolved configuration, in YAML."""
        write_atomic(self.directory / "config.yaml", text.encode())

    def write_nonfinite(self, report: Mapping[str, Any], tree: Mapping[str, Any]) -> Path:
        """Write what is known of a step whose loss or gradient is not finite, with the configuration; returns where."""
        path = self.directory / f"nonfinite-step-{report['step']:08d}.json"
        losses = {name: value if math.isfinite(value) else str(value) for name, value in report["losses"].items()}
        write_json(path, {**report, "losses": losses, "config": tree})
        return path

    def write_results(self, results: RunResult) -> None:
        """Write the results as far as they are known."""
        results.write(self.directory / "results.json")

    def close(self) -> None:
        """Close the log."""
        self._log.close()
