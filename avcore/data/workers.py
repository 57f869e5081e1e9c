"""Loader processes: what each does at its start, what they share, and what became of one that is gone."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from avcore.errors import DataError
from avcore.tasks import Batch

__all__ = ["Loaded", "check_shared_memory", "shared", "workers_watched"]

T = TypeVar("T")

STOPS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP})
SHARED_MEMORY = Path("/dev/shm")
IN_FLIGHT = 2  # batches of each process that are made or wait to be taken, as torch has it
_FEWER = "load with fewer (--set data.workers=N; 0 for none), and go on with 'avcore run --resume DIR'"
_END = object()
PATIENCE = 1800.0  # s; what takes longer does not come: one file may take `avcore.data.container.MAX_WORK` of them


class Loaded(Generic[T]):
    """Items in the order of ``sampler``, made by processes of one thread each, or by this one.

    Args:
        dataset: makes the items.
        sampler: what they are asked for by.
        workers: processes; 0 for none.
        stay: whether they wait for another iteration, until `close`; else they end with the first.
    """

    def __init__(
        self, dataset: TorchDataset[T], sampler: Sequence[object], workers: int, *, stay: bool = False
    ) -> None:
        self._processes: list[BaseProcess] = []
        self._overdue = False
        self._loader: DataLoader[T] = DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            persistent_workers=stay and workers > 0,
            worker_init_fn=_start,
            # torch draws a seed for its workers at each epoch: not from the global generator, which must not move.
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[T]:
        """Give the items.

        Raises:
            AVCoreError: a process is gone, or gives nothing for `PATIENCE` s.
        """
        before = multiprocessing.active_children()
        try:
            items = iter(self._loader)
            self._processes += [each for each in multiprocessing.active_children() if each not in before]
            while True:
                with self._awaited():
                    item = next(items, _END)
                if item is _END:
                    return
                yield cast("T", item)
        except (RuntimeError, OSError, EOFError) as error:
            # A queue of a process that is gone fails in ways of its own.
            ended = [process.exitcode for process in self._processes if process.exitcode]
            reason = _late() if self._overdue else _reason(error, -ended[0] if ended else 0)
            if reason is None:
                raise
        # Not from within: the traceback of the first error would keep the other processes alive.
        raise DataError(reason)

    @contextmanager
    def _awaited(self) -> Iterator[None]:
        """Kill the processes if they give nothing for `PATIENCE` s.

        torch waits with a limit for the message that a batch is there, and without one for the process to hand it
        over; and one that is stuck in native code takes no request to end.
        """
        timer = threading.Timer(PATIENCE, self._give_up)
        timer.daemon = True
        if self._processes:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._overdue = True
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End the processes; another iteration starts new ones."""
        if self._loader._iterator is not None:
            # By hand: a traceback may hold the iterator.
            self._loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None
        self._processes.clear()


@contextmanager
def workers_watched() -> Iterator[None]:
    """Let what torch raises when a loader process dies, wherever the program is, say what happened and what to do.

    Raises:
        AVCoreError: a process died.
    """
    try:
        yield
    except RuntimeError as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise DataError(reason) from error


def _late() -> str:
    return (
        f"No batch came from the loader processes for {PATIENCE / 60:g} min: a file server or disk that does not "
        f"answer, or processes that wait for each other. See to it, or {_FEWER}."
    )


def _reason(error: Exception, number: int = 0) -> str | None:
    """What to tell a person of an error, with the signal that ended a process, if that is known; None: no process."""
    text = str(error)
    if not number and not re.search(r"DataLoader worker \(pid", text):
        return None
    named = re.search(r"killed by signal: ([^.]*)\.", text)
    what = signal.strsignal(number) if 0 < number < signal.NSIG else named[1] if named else None
    if what is not None and "Killed" not in what and "Bus error" not in what:
        return (
            f"A loader process ended by itself: {what}. Native code that decodes or a plugin brought it down; "
            f"'avcore data verify' finds a file that does. Else {_FEWER}."
        )
    room = f" or its {SHARED_MEMORY} is full" if what is not None and "Bus error" in what else ""
    return f"A loader process was killed: this machine is probably out of memory{room}. Free some or {_FEWER}."


def check_shared_memory(workers: int, batches: int, batch_bytes: int) -> None:
    """See that the batches which loader processes hold at a time find room where processes share memory.

    Args:
        workers: processes.
        batches: of an epoch.
        batch_bytes: of one batch, at least.

    Raises:
        AVCoreError: they do not.
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:  # another system, which shares memory in another way
        return
    free = found.f_bavail * found.f_frsize
    needed = min(batches, workers * IN_FLIGHT) * batch_bytes
    if needed > free:
        raise DataError(
            f"{workers} loader processes hold {needed / 2**20:.1f} MiB of batches in {SHARED_MEMORY}, where "
            f"{free / 2**20:.1f} MiB are free. {_room(free // (IN_FLIGHT * batch_bytes))}"
        )


def _room(workers: int) -> str:
    return (
        f"Load with fewer (--set data.workers={workers}), make batches smaller (train.batch_size), or give a container "
        "more (docker run --shm-size=2g)."
    )


def shared(batch: Batch) -> Batch:
    """A batch that another process can take over; in the process of the run it is left as it is.

    torch would move it later and, where there is no room, lose it without a word to the run.

    Raises:
        AVCoreError: there is no room.
    """
    worker = get_worker_info()
    if worker is None:
        return batch
    try:
        return batch.map(Tensor.share_memory_)
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise DataError(
            f"{SHARED_MEMORY} is full: {worker.num_workers} loader processes hold more batches than it takes. "
            f"{_room(worker.num_workers // 2)} A run goes on with 'avcore run --resume DIR'."
        ) from error


def _start(index: int) -> None:
    """Compute on one thread, and leave the signals that stop a run to the run, which still needs its data.

    A terminal and a scheduler signal every process of a job. SIGTERM of the run itself ends the worker, even one that
    is stuck in a file.
    """
    torch.set_num_threads(1)
    # In this thread, and so in all that it starts: the signals then wait for `sigwaitinfo`.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(run: int) -> None:
    while True:
        told = signal.sigwaitinfo(STOPS)
        if told.si_signo == signal.SIGTERM and told.si_pid == run:
            os._exit(0)
