"""What a person sees while a run works: bars on a terminal, plain lines elsewhere, everything also in the log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "Display"]

Advance = Callable[[int, str], None]
"""Called with how much is done and a short note."""


class Display:
    """Speaks to standard output (to wherever it is redirected when it is used).

    Args:
        log: gets every line as well, quiet or not; may be attached later.
        quiet: show nothing.
    """

    def __init__(self, log: Callable[[str], None] | None = None, *, quiet: bool = False) -> None:
        self._log = log
        self._early: list[str] = []
        self.quiet = quiet

    def attach(self, log: Callable[[str], None]) -> None:
        """Log from here on, and what was said before."""
        self._log = log
        for text in self._early:
            log(text)
        self._early.clear()

    @property
    def interactive(self) -> bool:
        """Whether bars can be drawn."""
        return not self.quiet and sys.stdout.isatty()

    def line(self, text: str = "") -> None:
        """Show text and log it: in this order, since a full disk may refuse the log."""
        if not self.quiet:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        self.record(text)

    def record(self, text: str) -> None:
        """Log text without showing it."""
        if self._log is None:
            self._early.append(text)
        else:
            self._log(text)

    @contextmanager
    def progress(self, title: str, total: int, *, every: int | None) -> Iterator[Advance]:
        """A stretch of work of ``total`` units.

        On a terminal it is a bar that goes when the work is done; elsewhere a line each ``every`` units and one at the
        end (``every=None``: no lines). The log gets the lines either way.
        """
        with self._bar(title, total, every) if self.interactive else self._lines(title, total, every) as advance:
            yield advance

    def quarters(self, title: str) -> Callable[[int, int], None]:
        """A callback (done, total) for work whose length shows only as it goes: a line at each quarter."""

        def advance(done: int, total: int) -> None:
            if done * 4 // total > (done - 1) * 4 // total:
                self.line(_progress_line(title, done, total, ""))

        return advance

    @contextmanager
    def _lines(self, title: str, total: int, every: int | None) -> Iterator[Advance]:
        def advance(done: int, note: str = "") -> None:
            if _is_due(done, total, every):
                self.line(_progress_line(title, done, total, note))

        yield advance

    @contextmanager
    def _bar(self, title: str, total: int, every: int | None) -> Iterator[Advance]:
        # Imported here: rich takes a tenth of a second and is of no use where nobody watches.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(file=sys.stdout), transient=True) as bars:
            task = bars.add_task(title, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                bars.update(task, completed=done, note=note)
                if _is_due(done, total, every):
                    self.record(_progress_line(title, done, total, note))

            yield advance


def _is_due(done: int, total: int, every: int | None) -> bool:
    return every is not None and (done % every == 0 or done == total)


def _progress_line(title: str, done: int, total: int, note: str) -> str:
    return f"{title}: {done}/{total}" + (f"  {note}" if note else "")
