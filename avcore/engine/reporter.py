"""Tells everybody who listens what a run does: the person, the log, TensorBoard, the lifecycle hooks of plugins."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from avcore.engine.board import Board
from avcore.engine.display import Advance, Display
from avcore.engine.loop import Step

__all__ = ["Hooks", "Reporter", "format_scores"]


class Hooks(Protocol):
    """Calls one lifecycle hook of all plugins; `avcore.discovery.Lifecycle` is one."""

    def call(self, name: str, **arguments: Any) -> None:
        """Call hook ``name`` of every plugin that has it."""


def format_scores(scores: Mapping[str, float]) -> str:
    """``M_J 61.25  M_F 70.10``."""
    return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())


class Reporter:
    """One place for everything that is said while a run works.

    Args:
        run: what hooks receive as ``run``.
        display, board, hooks: the listeners.
        log_every: steps between two lines and two points of a curve.
    """

    def __init__(self, run: Any, display: Display, board: Board, hooks: Hooks, *, log_every: int) -> None:
        self.run = run
        self.display = display
        self.board = board
        self.hooks = hooks
        self.log_every = max(1, log_every)

    def started(self) -> None:
        """A run is about to train."""
        self.hooks.call("avcore_run_started", run=self.run)

    def assembled(self, model: Any) -> None:
        """The model stands on its device."""
        self.hooks.call("avcore_model_assembled", run=self.run, model=model)

    def stepped(self, step: Step, advance: Advance, *, first: int) -> None:
        """A step is done, the ``step - first + 1``-th of its stretch of work."""
        scalars = step.scalars()
        rates = "  ".join(f"lr/{kind} {rate:.2e}" for kind, rate in step.rates.items())
        advance(step.step - first + 1, f"loss {step.loss:.4f}  {rates}")
        if step.step % self.log_every == 0:
            self.board.step(scalars)
        self.hooks.call("avcore_step_finished", run=self.run, step=scalars)

    def evaluated(self, split: str, scores: Mapping[str, float], *, step: int, note: str = "") -> None:
        """A split has been evaluated."""
        self.display.line(f"{split}: {format_scores(scores)}{note}")
        self.board.scores(split, scores, step)
        self.hooks.call("avcore_evaluated", run=self.run, split=split, scores=dict(scores), step=step)

    def saved(self, path: Path) -> None:
        """A checkpoint is complete on disk."""
        self.display.record(f"checkpoint: {path}")
        self.hooks.call("avcore_checkpoint_saved", run=self.run, path=path)

    def finished(self, status: str) -> None:
        """The run ended."""
        self.hooks.call("avcore_run_finished", run=self.run, status=status)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        """A stretch of work with progress, such as the steps of an epoch."""
        with self.display.progress(title, total, every=self.log_every) as advance:
            yield advance
