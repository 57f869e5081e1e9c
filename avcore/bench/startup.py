"""How long commands take to start: seconds by the clock, and of processor time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from avcore.bench.record import about
from avcore.errors import AVCoreError

__all__ = ["bench_startup", "timed_command"]

COMMANDS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "--help": (("--help",), None),
    "plugins list": (("plugins", "list"), None),
    "params": (("params",), None),
    "run, to the first step": (("run", "--set", "train.log_every=1"), "epoch 1/"),
}
"""Name of a row -> the command, and how the line begins with which it is over; None for its end."""


def bench_startup(
    options: Sequence[str], *, repeats: int = 3, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure what a person waits for, each command in a process of its own; the first call of each does not count.

    Args:
        options: of ``avcore params`` and ``avcore run``, such as ``--plugin copl --task avs``.
        repeats: calls that count.
        say: told what goes on.

    Returns:
        A record: `about`, and ``rows``: median seconds and seconds of processor time.

    Raises:
        AVCoreError: a command fails.
    """
    rows = []
    for name, (command, until) in COMMANDS.items():
        say(f"avcore {name}")
        given = (*command, *(options if command[0] in ("params", "run") else ()))
        times = [timed_command(given, until) for _ in range(repeats + 1)][1:]
        seconds, processor = zip(*times, strict=True)
        rows.append({"command": name, "seconds": median(seconds), "cpu_seconds": median(processor)})
    return {**about("startup", torch.device("cpu"), {"options": list(options), "repeats": repeats}), "rows": rows}


def timed_command(arguments: Sequence[str], until: str | None = None) -> tuple[float, float]:
    """Seconds, and seconds of processor time, of a call of avcore in a folder of its own.

    Args:
        arguments: behind ``avcore``.
        until: the beginning of the line of its output at which it is ended.

    Raises:
        AVCoreError: it fails, or ends without such a line.
    """
    # Not from the folder of the temporary process, so that a checkout that is not installed is found.
    search = os.pathsep.join([*filter(None, sys.path)])
    with TemporaryDirectory(prefix="avcore-bench-") as folder, (Path(folder) / "errors").open("w+b") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "avcore", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": search},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        with process.stdout as lines:
            reached = until is None
            for line in lines:
                if until is not None and line.decode(errors="replace").startswith(until):
                    reached = True
                    break
            if until is not None:
                os.kill(process.pid, signal.SIGKILL)  # Popen would collect a process that has ended, and its times
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if not reached or (until is None and process.returncode):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise AVCoreError(f"avcore {' '.join(arguments)} failed: {said[-1] if said else 'it said nothing'}")
    return seconds, used.ru_utime + used.ru_stime
