"""Signals that end a run in order: what was reached is saved, then the process leaves.

SIGTERM, SIGUSR1 (a scheduler's notice) and SIGHUP (a closed terminal) end it with code 143, Ctrl-C with 130. A signal
raises at once where that harms nothing: while data are awaited, decoded or evaluated. Elsewhere, as within a step or a
save, it waits for the end of it.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from avcore.errors import Preempted

__all__ = ["Preempted", "Signals"]

T = TypeVar("T")

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
PATIENCE = 1.0
"""s after which another Ctrl-C stops without saving; a launcher may pass on the same Ctrl-C twice."""
AGAIN = 0.05
"""s after which a signal is given again whose exception was lost."""
LEAVING = 2.0
"""s that loader processes have to end; one that waits for a dead file server cannot."""


class Signals:
    """Handles the signals that stop a run, while it is entered; what handled them before does so again afterwards.

    They raise KeyboardInterrupt or `Preempted`. Outside the main thread, where Python allows no handlers, nothing is
    changed.

    Attributes:
        received: the first one that came, None before.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at_once = True
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._children = set(multiprocessing.active_children())
        self._unraisable = sys.unraisablehook
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in STOPS if not _spared(number)}
            sys.unraisablehook = self._repeat
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt | Preempted):
            self._end_loaders()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._before:
            sys.unraisablehook = self._unraisable

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal is noted, and raises where `allowed` lets it, or at the end."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before
        if before:
            self._raise_received()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within `deferred`, a stretch in which a signal raises at once, also one that came before it."""
        before, self._at_once = self._at_once, True
        try:
            self._raise_received()
            yield
        finally:
            self._at_once = before

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; while one is awaited, signals are `allowed`, but for several processes, which `agree`."""
        from avcore.ranks import ranks

        iterator = iter(items)
        while True:
            with self.allowed() if ranks().world == 1 else nullcontext():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def agree(self) -> None:
        """Raise in all processes where one has received a signal; each calls it at the same place."""
        from avcore.ranks import any_of, ranks  # torch, which is imported with signals handled

        if ranks().world > 1 and any_of(self.received is not None):
            self.received = self.received or signal.SIGTERM
            self._raise_received()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # A forked process has this handler too. There SIGTERM ends it as ever, and the others are the run's business.
        if os.getpid() != self._pid:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGHUP:
            self._leave_terminals()
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
            if self._at_once:
                self._raise_received()
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt

    def _leave_terminals(self) -> None:
        """Write no more to a terminal that is gone: it would refuse the last words, and the error stop the save."""
        for number in self._terminals:
            if not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)

    def _repeat(self, lost: "sys.UnraisableHookArgs") -> None:
        """Raise again, a little later, what was raised in a finaliser: Python prints and forgets exceptions there."""
        if (
            self.received is None
            or os.getpid() != self._pid
            or not issubclass(lost.exc_type, KeyboardInterrupt | Preempted)
        ):
            self._unraisable(lost)
            return
        number, self.received = self.received, None
        again = threading.Timer(AGAIN, self._send, (number,))
        again.daemon = True
        again.start()

    def _send(self, number: signal.Signals) -> None:
        # After the run, that signal would be another's.
        if signal.getsignal(number) == self._receive:
            os.kill(self._pid, number)

    def _raise_received(self) -> None:
        if self.received is not None:
            raise KeyboardInterrupt if self.received == signal.SIGINT else Preempted

    def _end_loaders(self) -> None:
        """End what this run started: torch would wait 5 s for each loader process that is stuck in a file."""
        started = set(multiprocessing.active_children()) - self._children
        for child in started:
            child.terminate()
        deadline = time.monotonic() + LEAVING
        for child in started:
            child.join(max(0.0, deadline - time.monotonic()))


def _spared(number: signal.Signals) -> bool:
    """Whether a run is to survive a signal: ``nohup`` starts it with SIGHUP ignored."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
