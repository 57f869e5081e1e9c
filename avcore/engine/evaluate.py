"""Scores of a split, and the predictions of its first clips for pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from avcore.engine.step import BatchLoader
from avcore.errors import DataError
from avcore.ranks import from_all
from avcore.tasks import Batch, Task

__all__ = ["Evaluation", "Example", "evaluate"]

Pictures = Callable[[int], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip with its prediction, on the CPU.

    Attributes:
        name: of the clip.
        frames: (T, 3, Y, X) uint8, the first picture of each segment, or None when the visual stream is off.
        prediction: named predictions of this clip, no B axis.
        targets: named targets of this clip, no B axis.
    """

    name: str
    frames: Tensor | None
    prediction: dict[str, Tensor]
    targets: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores by name, how many clips they stand on, the first clips' predictions, and the scores of each clip alone."""

    scores: dict[str, float]
    clips: int
    examples: list[Example] = field(default_factory=list)
    alone: dict[str, dict[str, float]] = field(default_factory=dict)


def _on_host(value: Tensor) -> Tensor:
    """A copy on the CPU; half precision becomes fp32, which numpy and pictures can hold."""
    return (value.float() if value.is_floating_point() else value).detach().cpu().clone()


def _shown(batch: Batch, index: int, pictures: Pictures | None) -> Tensor | None:
    """The first of the K pictures of each segment of a clip, for which a batch may hold features instead."""
    known = batch.kept.known.get("visual", ()) if batch.kept else ()
    if any(known[index : index + 1]):
        frames = pictures(int(batch.samples[index])) if pictures else None
    else:
        frames = None if batch.frames is None else batch.frames[index]
    return frames[:, 0] if frames is not None and frames.dim() == 5 else frames


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: BatchLoader,
    *,
    task: Task,
    protocol: str,
    device: torch.device,
    examples: int = 0,
    alone: bool = False,
    pictures: Pictures | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run a model in eval mode over a loader. The model is left in the mode in which it came.

    Among several processes, each with a loader of its own share of the split, all get the scores and the number of
    clips of the whole split; examples are those of the share. Their group needs a backend for tensors on the CPU
    (``gloo``, ``cpu:gloo,cuda:nccl``), and each share at least one batch, be it one without a valid clip.

    Args:
        model: an `AVModel`: ``model(batch)``, ``model.predict(out)``.
        loader: the batches of a split.
        task: makes the metrics.
        protocol: ``clean`` or ``paper``.
        device: where the model is.
        examples: keep the predictions of so many clips.
        alone: also score each clip by itself.
        pictures: those of the clip at a place in the split, where a batch has its features in their stead.
        progress: called with the number of batches done.

    Raises:
        AVCoreError: the split has no clips.
    """
    training = model.training
    model.eval()
    metrics = task.metrics(protocol)
    kept: list[Example] = []
    one_by_one = _of_this_process(task.metrics(protocol)) if alone else None
    by_clip: dict[str, dict[str, float]] = {}
    clips = SumMetric()
    clips.update(0.0)
    try:
        for number, batch in enumerate(loader):
            on_device = batch.to(device, non_blocking=True)
            output = model(on_device)
            predicted: dict[str, Tensor] = model.predict(output)  # type: ignore[operator]
            prediction = {key: value.cpu() for key, value in predicted.items()}
            metrics.update(prediction, batch)
            clips.update(batch.valid.sum())
            if one_by_one is not None:
                by_clip |= _alone(one_by_one, prediction, batch)
            for index in torch.nonzero(batch.valid).flatten().tolist()[: examples - len(kept)]:
                kept.append(
                    Example(
                        name=batch.names[index],
                        frames=_shown(batch, index, pictures),
                        prediction={key: _on_host(value[index]) for key, value in prediction.items()},
                        targets={key: _on_host(value[index]) for key, value in batch.targets.items()},
                    )
                )
            if progress is not None:
                progress(number + 1)
    finally:
        model.train(training)
    total = int(clips.compute())
    if not total:
        raise DataError("There is nothing to evaluate: the split has no clips.")
    if alone:
        by_clip = {name: scores for share in from_all(by_clip) for name, scores in share.items()}
    return Evaluation(scores=metrics.compute(), clips=total, examples=kept, alone=by_clip)


def _of_this_process(metrics: Metric) -> Metric:
    """The same without a word to other processes, which have other numbers of clips."""
    for one in metrics.modules():
        if isinstance(one, Metric):
            one.distributed_available_fn = bool  # False
    return metrics


def _alone(metrics: Metric, prediction: Mapping[str, Tensor], batch: Batch) -> dict[str, dict[str, float]]:
    """The scores of each valid clip of a batch, by its name."""
    found = {}
    bare = replace(batch, frames=None, waveform=None, companions={}, kept=None)
    for index in torch.nonzero(batch.valid).flatten().tolist():
        at = slice(index, index + 1)
        clip = replace(bare.map(lambda tensor, at=at: tensor[at]), names=batch.names[at])  # type: ignore[misc]
        metrics.reset()
        metrics.update({name: value[at] for name, value in prediction.items()}, clip)
        found[batch.names[index]] = dict(metrics.compute())
    return found
