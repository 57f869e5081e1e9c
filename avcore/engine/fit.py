"""Training from the first epoch to the last: steps, evaluations that select the best, checkpoints."""

import math
from collections.abc import Callable, Mapping

import torch

from avcore.config import RunConfig
from avcore.engine.checkpoint import CheckpointStore, Progress
from avcore.engine.loop import BatchLoader, Trainer
from avcore.engine.optim import Schedule, build_optimizer
from avcore.engine.reporter import Reporter
from avcore.errors import AVCoreError
from avcore.model import AVModel

__all__ = ["fit"]


def fit(
    model: AVModel,
    loader: BatchLoader,
    *,
    config: RunConfig,
    device: torch.device,
    select: Callable[[int], Mapping[str, float]],
    score: str,
    store: CheckpointStore,
    reporter: Reporter,
    digest: str,
    versions: Mapping[str, str],
) -> Progress:
    """Train a model as ``config.optim`` and ``config.train`` say, and keep its best and its latest checkpoint.

    Args:
        model: on ``device``.
        loader: the batches of the training split.
        config: of the run.
        device: where to compute.
        select: evaluates the model after so many steps and returns the scores that select the best checkpoint.
        score: the name among them that decides; larger is better.
        store: where checkpoints go.
        reporter: is told what happens.
        digest: of the frozen weights, kept in each checkpoint.
        versions: of the software, kept in each checkpoint.

    Returns:
        The progress at the end.

    Raises:
        NonFiniteError: training diverged.
        AVCoreError: nothing to train, or a setting that makes no training.
    """
    train, optim = config.train, config.optim
    if not len(loader):
        raise AVCoreError("There is nothing to train on: the split train has no clips.")
    steps_per_epoch = math.ceil(len(loader) / optim.accumulate)
    schedule = Schedule.from_config(optim, steps_per_epoch=steps_per_epoch, epochs=train.epochs)
    optimizer = build_optimizer(model.parameter_groups(), optim)
    trainer = Trainer(
        model,
        optimizer,
        schedule,
        seed=config.seed,
        accumulate=optim.accumulate,
        clip_norm=optim.clip_norm,
        precision=train.precision,
        device=device,
    )

    def keep(done: Progress, scores: Mapping[str, float] | None) -> Progress:
        progress, is_best = _judge(done, scores, score)
        path = store.save(
            model.trainable_state(), optimizer, progress, frozen_digest=digest, versions=versions, is_best=is_best
        )
        reporter.saved(path)
        return progress

    progress = Progress(epoch=0, step=0)
    if not train.epochs:
        return keep(progress, select(0))
    for epoch in range(train.epochs):
        first = progress.step
        with reporter.work(f"epoch {epoch + 1}/{train.epochs}", steps_per_epoch) as advance:
            for step in trainer.epoch(loader, epoch=epoch, first_step=first):
                reporter.stepped(step, advance, first=first)
        done = Progress(epoch=epoch + 1, step=first + steps_per_epoch, best=progress.best)
        is_last = epoch + 1 == train.epochs
        scores = select(done.step) if (epoch + 1) % train.eval_every == 0 or is_last else None
        progress = keep(done, scores)
    return progress


def _judge(done: Progress, scores: Mapping[str, float] | None, name: str) -> tuple[Progress, bool]:
    """Whether these scores are the best so far; an unevaluated checkpoint is not."""
    if scores is None:
        return done, False
    if name not in scores:
        raise AVCoreError(f"The task selects on '{name}', but its metrics give {', '.join(scores)}.")
    value = scores[name]
    is_best = done.best is None or value > done.best
    best = value if is_best else done.best
    return Progress(epoch=done.epoch, step=done.step, score=value, best=best, scores=dict(scores)), is_best
