"""Run what is missing in a sweep: here, so many at once, or through a queue. Every run is a process of its own."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from avcore.engine.files import read_json, write_atomic, write_json
from avcore.errors import AVCoreError, ConfigError, Preempted, why
from avcore.sweeps.folder import Given, Sweep, SweptRun

__all__ = ["Launch", "launch_here", "launch_queued", "shares", "taken"]

COMMAND = (sys.executable, "-m", "avcore")
"""The command line, as a process is given it."""
LOOK = 0.05
"""Seconds between two looks at what is running."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """The process of one run. Calling it runs it to its end; submitit pickles it, and calls it on another machine.

    Attributes:
        command: the program and its arguments.
        log: what it prints goes there.
        failure: why it failed is written there; nothing is while it has not.
        share: what its environment has beside that of the sweep: threads, a GPU.
    """

    command: tuple[str, ...]
    log: Path
    failure: Path
    share: Mapping[str, str]

    @classmethod
    def of(cls, run: SweptRun, given: Given, share: Mapping[str, str]) -> Launch:
        """That of a run of a sweep."""
        return cls((*COMMAND, *run.command(given)), run.log, run.failure, share)

    def begin(self, keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        """Start the process; file descriptors ``keep`` stay open in it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.failure.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.share},
                pass_fds=keep,
            )

    def end(self, code: int) -> str:
        """Why it failed, from the code with which it left, written down; empty for success and after a signal to stop.

        A run that left after such a signal has saved itself, and goes on the next time.
        """
        if code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT):
            return ""
        reason = _last_words(self.log)
        if code < 0:
            reason = f"ended by signal {-code} ({signal.Signals(-code).name}){f': {reason}' if reason else ''}"
        reason = reason or f"left with code {code}"
        write_atomic(self.failure, f"{reason}\n".encode())
        return reason

    def __call__(self) -> int:
        """Run it and wait for it; the code with which it left."""
        process = self.begin()
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        self.end(code)
        return code

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again when a job is preempted or its time is over: the same, resumed."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def shares(jobs: int, device: str | None = None) -> list[dict[str, str]]:
    """What the environment of each of so many runs at once says: threads, and a GPU where there are some.

    A GPU is shared where there are fewer than runs. ``OMP_NUM_THREADS`` that is smaller already stays.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with suppress(KeyError, ValueError):
        threads = min(threads, int(os.environ["OMP_NUM_THREADS"]))
    gpus = [] if device is not None and device != "auto" else _gpus()
    said = {"OMP_NUM_THREADS": str(threads)}
    return [{**said, "CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else said for place in range(jobs)]


def _gpus() -> list[str]:
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in visible.split(",") if one.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []  # no driver, no GPU
    return [str(place) for place, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def taken(directory: Path, tell: Tell) -> Iterator[int]:
    """Within it nobody else works in the folder of a sweep; gives what to `Launch.begin` with.

    Runs inherit the lock: those of a sweep that was killed hold it to their end, which is waited for, so that none is
    begun twice.

    Raises:
        AVCoreError: the folder cannot be written to.
    """
    file = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise AVCoreError(f"Cannot write to {directory}: {why(error)}. Name another --out.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting: another sweep, or runs that one left behind when it was killed, are at work in {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def launch_here(sweep: Sweep, jobs: int, tell: Tell) -> None:
    """Run what is not finished, ``jobs`` at once.

    Raises:
        KeyboardInterrupt, Preempted: a signal came; runs under way have saved themselves.
    """
    with taken(sweep.directory, tell) as lock, _terminable():
        sweep.write()
        waiting = [run for run in sweep.runs if run.results is None]
        places, total = shares(jobs, sweep.given.device), len(waiting)
        tell(f"{sweep.grid.size} runs, {sweep.grid.size - total} finished before, {total} to go")
        running: dict[int, tuple[SweptRun, Launch, subprocess.Popen[bytes]]] = {}
        try:
            while waiting or running:
                for place in range(jobs):
                    if waiting and place not in running:
                        run = waiting.pop(0)
                        launch = Launch.of(run, sweep.given, places[place])
                        running[place] = (run, launch, launch.begin((lock,)))
                time.sleep(LOOK)
                for place, (run, launch, process) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[place]
                        tell(_told(run, launch.end(code), code))
        finally:
            for _, _, process in running.values():
                process.terminate()
            for _, launch, process in running.values():
                launch.end(process.wait())


def launch_queued(sweep: Sweep, cluster: str, parameters: Mapping[str, Any], jobs: int, tell: Tell) -> None:
    """Give what is not finished to submitit, and wait for it.

    Jobs that an earlier call put into the queue are waited for and not put there again, be it that this was killed.

    Args:
        sweep: what to run.
        cluster: ``slurm``, or ``local`` for processes of this machine without a queue.
        parameters: as ``submitit.AutoExecutor.update_parameters`` takes them.
        jobs: how many of the queue's jobs run at once.
        tell: is told what became of each.

    Raises:
        AVCoreError: submitit or the queue is not there, or a parameter is none.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError("--submit takes submitit: pip install 'avcore[slurm]'.") from None
    with taken(sweep.directory, tell):
        sweep.write()
        folder, record = sweep.directory / "queue", sweep.directory / "queue.json"
        queued: dict[str, str] = read_json(record) if record.is_file() else {}
        waiting = {str(run.directory): run for run in sweep.runs if run.results is None}
        found: dict[str, Any] = {}
        if cluster == "slurm":
            earlier: dict[str, Any] = {key: submitit.SlurmJob(folder, queued[key]) for key in waiting if key in queued}
            found = {key: job for key, job in earlier.items() if not job.done()}
        new = [run for key, run in waiting.items() if key not in found]
        tell(f"{sweep.grid.size} runs, {len(found)} in the queue already, {len(new)} to be put there")
        try:
            executor = submitit.AutoExecutor(folder, cluster=cluster)
            array = {"slurm_array_parallelism": jobs} if cluster == "slurm" else {}
            executor.update_parameters(name=sweep.grid.name, **array, **parameters)
            with executor.batch():
                made = [executor.submit(Launch.of(run, sweep.given, {})) for run in new]
        except (ValueError, TypeError, NameError, RuntimeError, OSError) as error:
            raise ConfigError(f"--submit {cluster} cannot be used: {' '.join(str(error).split())}.") from error
        found |= {str(run.directory): job for run, job in zip(new, made, strict=True)}
        write_json(record, {**queued, **{key: job.job_id for key, job in found.items()}})
        while found:
            time.sleep(LOOK if cluster == "local" else 10)
            for key, job in list(found.items()):
                if job.done():
                    run = waiting[key]
                    del found[key]
                    if run.results is None and not run.reason:  # it did not come to write why
                        write_atomic(run.failure, f"its job {job.job_id} ended as {job.state}\n".encode())
                    tell(_told(run, run.reason, int(bool(run.reason))))


def _told(run: SweptRun, reason: str, code: int) -> str:
    if reason:
        return f"failed       {run.name}: {reason}"
    if code or (results := run.results) is None:
        return f"interrupted  {run.name}"
    score = results.score
    return f"finished     {run.name}" + (f": {score.split} {score.name} {score.value:.2f}" if score else "")


def _last_words(log: Path) -> str:
    """What a run said of its failure: its last line that is an error, else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("avcore: error: ")]
    return (errors or lines or [""])[-1].removeprefix("avcore: error: ").strip()


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM ends as Ctrl-C does, so that what runs is told."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
