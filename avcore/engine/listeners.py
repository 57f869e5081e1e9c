"""Who listens to a run: the person and the log, the record on disk, TensorBoard, hooks of plugins, checkpoints.

`avcore.engine.loop` draws which event follows which. Each event goes to all listeners in the order of their list.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from avcore.engine.board import Board
from avcore.engine.checkpoint import CheckpointStore, Reached, Snapshot
from avcore.engine.display import Advance, Display
from avcore.engine.evaluate import Example
from avcore.engine.records import RunRecord, peak_bytes
from avcore.engine.result import Status
from avcore.engine.step import Step

__all__ = [
    "Charted",
    "Hooked",
    "Hooks",
    "Listener",
    "Listeners",
    "Point",
    "Recorded",
    "Saved",
    "Shown",
    "format_scores",
]

Examples = Mapping[str, Sequence[Example]]
"""The first clips of a split by the sound that they were evaluated with."""
Point = Literal["step", "epoch", "stop"]
"""Where training stands when it tells what it reached."""


class Hooks(Protocol):
    """Calls one lifecycle hook of all plugins; `avcore.discovery.Lifecycle` is one."""

    def call(self, name: str, **arguments: Any) -> None:
        """Call hook ``name`` of every plugin that has it."""


class Listener:
    """The events of a run, in their order; a listener overrides those that it cares for."""

    def run_started(self) -> None:
        """The model stands on its device and the results say what will be done."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """An epoch, counted from 0, of so many steps begins, or goes on."""

    def step_finished(self, step: Step, done: int) -> None:
        """An update is made, the ``done``-th of its epoch."""

    def step_skipped(self, reason: str) -> None:
        """A step made no update since something was not finite."""

    def reached(self, progress: Reached, point: Point, snapshot: Callable[[], Snapshot]) -> None:
        """Training stands where it can go on from.

        Args:
            progress: so far.
            point: after a ``step`` within an epoch, at the end of an ``epoch``, evaluated if it was time, or at a
                ``stop`` by an error or a signal, be that told before or not.
            snapshot: gives what must be kept to come back; its tensors change with the next step.
        """

    def epoch_finished(self) -> None:
        """No step of the epoch is left, or it was stopped."""

    def evaluated(self, split: str, scores: Mapping[str, float], step: int) -> None:
        """A split was evaluated with the weights of a step."""

    def pictured(self, split: str, drawn: Examples, step: int) -> None:
        """The first clips of that split, for pictures."""

    def checkpoint_saved(self, path: Path) -> None:
        """A checkpoint is complete on disk."""

    def run_finished(self, status: Status, farewell: Sequence[str], failure: str, banner: Sequence[str]) -> None:
        """The run ended; ``failure`` is the traceback of an error or empty, the rest are lines for the person."""


class Listeners:
    """Several listeners, each told of every event in the order of the list."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def tell(self, event: str, *facts: Any) -> None:
        """Tell of an event, a method of `Listener`, with its arguments."""
        for listener in self._listeners:
            getattr(listener, event)(*facts)


def format_scores(scores: Mapping[str, float]) -> str:
    """``M_J 61.25  M_F 70.10``."""
    return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())


class Shown(Listener):
    """Lines and bars for the person, and all of it in the log.

    Args:
        display: where it is shown.
        epochs: of the run.
        every: steps between two lines.
    """

    def __init__(self, display: Display, *, epochs: int, every: int) -> None:
        self.display, self.epochs, self.every = display, epochs, every
        self._bar = ExitStack()
        self._advance: Advance

    def epoch_started(self, epoch: int, steps: int) -> None:
        work = self.display.progress(f"epoch {epoch + 1}/{self.epochs}", steps, every=self.every)
        self._advance = self._bar.enter_context(work)

    def step_finished(self, step: Step, done: int) -> None:
        rates = "  ".join(f"lr/{kind} {rate:.2e}" for kind, rate in step.rates.items())
        told = "".join(f"  {name} {value:.3g}" for name, value in step.statistics.items())
        self._advance(done, f"loss {step.loss:.4f}  {rates}{told}")

    def step_skipped(self, reason: str) -> None:
        self.display.line(reason)

    def epoch_finished(self) -> None:
        self._bar.close()

    def evaluated(self, split: str, scores: Mapping[str, float], step: int) -> None:
        self.display.line(f"{split}: {format_scores(scores)}")

    def checkpoint_saved(self, path: Path) -> None:
        self.display.record(f"checkpoint: {path}")

    def run_finished(self, status: Status, farewell: Sequence[str], failure: str, banner: Sequence[str]) -> None:
        for line in farewell:
            self.display.line(line)
        if failure:
            self.display.record(failure)
        for line in banner:
            self.display.line(line)


class Recorded(Listener):
    """``results.json``, as far as the results are known, with the time and memory that they took.

    Args:
        record: writes it.
        run: has ``results``, with the s that earlier attempts took, and ``data`` that know the broken clips.
        device: whose memory counts.
        started: `time.monotonic` at the beginning.
    """

    def __init__(self, record: RunRecord, run: Any, device: torch.device, *, started: float) -> None:
        self.record, self.run, self.device = record, run, device
        self._since = started - run.results.seconds

    def run_started(self) -> None:
        self._write()

    def pictured(self, split: str, drawn: Examples, step: int) -> None:
        self._measure()
        self._write()

    def run_finished(self, status: Status, farewell: Sequence[str], failure: str, banner: Sequence[str]) -> None:
        if status != "finished":
            self._measure()
        self._write(status=status, broken=self.run.data.broken)

    def _measure(self) -> None:
        self.run.results = replace(
            self.run.results, seconds=round(time.monotonic() - self._since, 3), peak_bytes=peak_bytes(self.device)
        )

    def _write(self, **known: Any) -> None:
        self.run.results = replace(self.run.results, **known)
        self.record.write_results(self.run.results)


class Saved(Listener):
    """The best and the latest checkpoint.

    Args:
        store: where they go.
        others: are told of each that is saved. It is not one of them: torch takes 5 s to end the workers of a loader
            that is collected as part of a cycle.
        every: steps between two of them within an epoch; None saves at its end alone.
        facts: the ``frozen_digest`` and the ``versions`` that each holds.
        since: how far the run was when it began, or went on.
    """

    def __init__(
        self, store: CheckpointStore, others: Listeners, *, every: int | None, facts: Mapping[str, Any], since: Reached
    ) -> None:
        self.store, self.others, self.every, self.facts, self._saved = store, others, every, facts, since

    def reached(self, progress: Reached, point: Point, snapshot: Callable[[], Snapshot]) -> None:
        due = point != "step" or (self.every and progress.step % self.every == 0)
        if due and progress != self._saved:
            path = self.store.save(snapshot(), progress, **self.facts)
            self._saved = progress
            self.others.tell("checkpoint_saved", path)


class Charted(Listener):
    """Curves, pictures and the table of parameters in TensorBoard.

    Args:
        board: writes them.
        table: of the parameters, in Markdown.
        every: steps between two points of a curve.
        draw: makes a picture (Y, X, 3) uint8 of a clip under several sounds.
        glances: clips of a split that are drawn.
    """

    def __init__(self, board: Board, table: str, *, every: int, draw: Callable[..., Any], glances: int) -> None:
        self.board, self.table, self.every, self.draw, self.glances = board, table, every, draw, glances

    def run_started(self) -> None:
        self.board.text("parameters", self.table)

    def step_finished(self, step: Step, done: int) -> None:
        if step.step % self.every == 0:
            self.board.step(step.scalars())

    def evaluated(self, split: str, scores: Mapping[str, float], step: int) -> None:
        self.board.scores(split, scores, step)

    def pictured(self, split: str, drawn: Examples, step: int) -> None:
        for number, examples in enumerate(zip(*drawn.values(), strict=True)):
            if number < self.glances and examples[0].frames is not None:
                picture = self.draw(dict(zip(drawn, examples, strict=True)))
                self.board.picture(f"{split}/{number + 1}", picture, step)


class Hooked(Listener):
    """The lifecycle hooks of plugins.

    Args:
        hooks: calls them.
        run: what they receive as ``run``.
    """

    def __init__(self, hooks: Hooks, run: Any) -> None:
        self.hooks, self.run = hooks, run

    def run_started(self) -> None:
        self.hooks.call("avcore_run_started", run=self.run)
        self.hooks.call("avcore_model_assembled", run=self.run, model=self.run.model)

    def step_finished(self, step: Step, done: int) -> None:
        self.hooks.call("avcore_step_finished", run=self.run, step=step.scalars())

    def evaluated(self, split: str, scores: Mapping[str, float], step: int) -> None:
        self.hooks.call("avcore_evaluated", run=self.run, split=split, scores=dict(scores), step=step)

    def checkpoint_saved(self, path: Path) -> None:
        self.hooks.call("avcore_checkpoint_saved", run=self.run, path=path)

    def run_finished(self, status: Status, farewell: Sequence[str], failure: str, banner: Sequence[str]) -> None:
        self.hooks.call("avcore_run_finished", run=self.run, status=status)
