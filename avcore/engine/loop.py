"""Training from the first epoch, or from a checkpoint, to the last: steps, and evaluations that select the best.

What a run tells its listeners (`avcore.engine.listeners.Listener`), in this order::

    run_started
        │      ┌──────────────────── each epoch ─────────────────────┐
        ├─────▶│ epoch_started                                       │
        │      │    step_finished or step_skipped    each step       │
        │      │    reached                      each but the last   │
        │      │ epoch_finished                                      │
        │      │ evaluated, pictured                 train.eval_every│
        │      │ reached                                             │
        │      └─────────────────────────────────────────────────────┘
        ├─────▶ evaluated each split of train.evaluate, then pictured
        ▼
    run_finished      also after an error or a signal, before which training tells once more what it reached

Listeners are told in the order of their list: display and log, record on disk, TensorBoard, hooks of plugins, and last
checkpoints, which are saved at some of what is ``reached`` and are an event themselves: checkpoint_saved.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from avcore.config import RunConfig
from avcore.data.augment import Augmentation
from avcore.engine.average import Average
from avcore.engine.checkpoint import Checkpoint, Reached, Snapshot, restore_optimizer
from avcore.engine.listeners import Listeners, Point
from avcore.engine.optim import Rates, build_optimizer
from avcore.engine.signals import Signals
from avcore.engine.step import BatchLoader, NonFiniteError, Step, TrainStep, groups_of
from avcore.errors import DataError, PluginError
from avcore.model import AVModel
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.tasks import Batch

__all__ = ["Trainer"]


@dataclass(kw_only=True)
class Trainer:
    """Trains a model as ``config.optim`` and ``config.train`` say.

    From a checkpoint of anything that it reached it comes to the same end, bit for bit, as without a stop.

    Attributes:
        model: on ``device``.
        loader: the batches of the training split.
        config: of the run.
        device: where to compute.
        select: evaluates the model after so many steps and returns the scores that select the best checkpoint.
        score: the name among them that decides; larger is better.
        listeners: are told what happens.
        signals: entered; say when to stop.
        nonfinite: writes down a loss or gradient that is not finite; returns where.
        start: the checkpoint to go on from, None to begin.
    """

    model: AVModel
    loader: BatchLoader
    config: RunConfig
    device: torch.device
    select: Callable[[int], Mapping[str, float]]
    score: str
    listeners: Listeners
    signals: Signals
    nonfinite: Callable[[NonFiniteError], Path]
    start: Checkpoint | None = None

    def __post_init__(self) -> None:
        if not len(self.loader):
            raise DataError("There is nothing to train on: the split train has no clips.")
        train, optim = self.config.train, self.config.optim
        self._train = train
        self._epoch_steps = math.ceil(len(self.loader) / optim.accumulate)
        scales = {name: self.config.part_scales.get(name, 1.0) for name in self.config.parts}
        optimizer = build_optimizer(parameter_groups(self.model), optim, scales)
        self._train_step = TrainStep(
            self.model,
            optimizer,
            Rates(optimizer, optim, steps_per_epoch=self._epoch_steps, epochs=train.epochs),
            seed=self.config.seed,
            accumulate=optim.accumulate,
            clip_norm=optim.clip_norm,
            device=self.device,
            augment=Augmentation(self.model),
        )
        self._average = Average(self.model, train)
        self._progress = Reached(epoch=0, step=0)
        if self.start is not None:
            self._restore(self.start)
        # Whether the model is in the state that the progress tells, and those who were told of it took it well.
        self._whole = True

    def run(self) -> Reached:
        """Train to the end; stopped by a signal or an error, tell what was reached and pass the exception on.

        Raises:
            NonFiniteError: training diverged.
            AVCoreError: a clip cannot be read, or a listener fails, as when a checkpoint cannot be written.
            KeyboardInterrupt, Preempted: a signal came.
        """
        with self.signals.deferred():
            try:
                if not self._train.epochs:
                    self._evaluate(self._progress)
                while self._progress.epoch < self._train.epochs:
                    self._steps()
                    self._end_epoch()
            except BaseException:
                if self._whole:
                    self._tell("stop")
                raise
        return self._progress

    def _restore(self, start: Checkpoint) -> None:
        progress, steps = start.progress, self._epoch_steps
        if progress.step != progress.epoch * steps + progress.position:
            raise DataError(
                f"{start.path} was saved at step {progress.step}, in epoch {progress.epoch + 1}, which does not fit "
                f"{steps} steps in an epoch: the split train has other clips than before. Start a new run."
            )
        load_trainable_state(self.model, start.training_state())
        self._average.restore(start.model_state(), progress.averaged)
        restore_optimizer(self._train_step.optimizer, start.path)
        self._progress = progress

    def _steps(self) -> None:
        """What is left of the epoch."""
        epoch, total = self._progress.epoch, self._epoch_steps
        if self._progress.position == total:
            return
        self.loader.set_epoch(epoch)
        self.loader.set_position(self._progress.position * self._train_step.accumulate)
        self.model.train()
        self.listeners.tell("epoch_started", epoch, total)
        try:
            for batches in groups_of(self.signals.waiting(self.loader), self._train_step.accumulate):
                self.signals.agree()
                made = self._step(batches)
                if made is not None:
                    self.listeners.tell("step_finished", made, self._progress.position)
                if self._progress.position < total:
                    self._tell("step")
        finally:
            self.listeners.tell("epoch_finished")

    def _step(self, batches: Sequence[Batch]) -> Step | None:
        """One step; None if its loss or gradient is not finite and the settings allow to skip it."""
        before, made = self._progress, None
        after = replace(before, step=before.step + 1, position=before.position + 1, score=None, scores={})
        self._whole = False
        try:
            made = self._train_step(batches, step=before.step, epoch=before.epoch)
            self._average.step_done()
        except NonFiniteError as error:
            self._whole = True
            after = replace(after, skipped=before.skipped + 1)
            self._skip(error, after.skipped)
        self._progress, self._whole = replace(after, averaged=self._average.count), True
        return made

    def _skip(self, error: NonFiniteError, skipped: int) -> None:
        limit, path = self._train.nonfinite_limit, self.nonfinite(error)
        if self._train.nonfinite == "stop":
            raise NonFiniteError(f"{error} train.nonfinite=skip leaves such steps out. See {path}.", error.report)
        if skipped > limit:
            message = f"{error} Before it, train.nonfinite_limit={limit} steps were skipped. See {path}."
            raise NonFiniteError(message, error.report)
        found = f"step {error.report['step']} is skipped: its {error.report['what']} is not finite"
        self.listeners.tell("step_skipped", f"{found} ({skipped} of {limit} that may be), see {path}")

    def _end_epoch(self) -> None:
        """Evaluate if it is time."""
        epoch = self._progress.epoch + 1
        self._average.epoch_done(epoch)
        self._progress = replace(self._progress, averaged=self._average.count)
        done = replace(self._progress, epoch=epoch, position=0)
        if done.epoch % self._train.eval_every == 0 or done.epoch == self._train.epochs:
            self._evaluate(done)
        else:
            self._progress = done
            self._tell("epoch")

    def _evaluate(self, done: Reached) -> None:
        with self._average.applied(), self.signals.allowed():
            scores = self.select(done.step)
        self._progress = _judge(done, scores, self.score)
        self._tell("epoch")

    def _tell(self, point: Point) -> None:
        """What is reached; a listener that fails is not told of it again."""
        self._whole = False
        self.listeners.tell("reached", self._progress, point, self._snapshot)
        self._whole = True

    def _snapshot(self) -> Snapshot:
        own = trainable_state(self.model)
        return Snapshot(self._train_step.optimizer, self._average.state, own if self._average.count else None)


def _judge(done: Reached, scores: Mapping[str, float], name: str) -> Reached:
    """The progress with these scores, which may be the best so far."""
    if name not in scores:
        raise PluginError(f"The task selects on '{name}', but its metrics give {', '.join(scores)}.")
    value = scores[name]
    done = replace(done, score=value, scores=dict(scores))
    # A score that is not finite is read from a checkpoint as None.
    if done.best is None or not math.isfinite(done.best) or value > done.best:
        done = replace(done, best=value, best_step=done.step)
    return done
