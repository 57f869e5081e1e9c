"""What needs no model that looks or listens: the answer that is most frequent in training, scored like a run's own."""

from collections.abc import Iterable, Mapping
from contextlib import closing

import torch
from torch import Tensor, nn

from avcore.data.changes import OWN
from avcore.data.verify import truths
from avcore.engine.evaluate import evaluate
from avcore.engine.result import Scores
from avcore.runs.base import Run
from avcore.tasks import Batch

__all__ = ["majority_scores"]


class _Same(nn.Module):
    """The same answer for every clip."""

    def __init__(self, answer: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: Batch) -> int:
        return len(batch)

    def predict(self, clips: int) -> dict[str, Tensor]:
        return {name: tensor.expand(clips, *tensor.shape) for name, tensor in self.answer.items()}


def majority_scores(run: Run, splits: Iterable[str]) -> Scores:
    """The scores of `Task.majority` on those of the splits that are unchanged; none where the task has no such answer.

    Raises:
        AVCoreError: a target cannot be read.
    """
    data, config, task = run.data, run.config, run.model.task
    train = truths(data.dataset, data.loader("train", train=True).clips, skip=config.data.broken == "skip")
    answer = task.majority(train, data.dataset.segments)
    if answer is None:
        return {}
    found = {}
    for split in dict.fromkeys(splits):
        if data.split(split)[1] != OWN:
            continue
        with closing(data.truths(split)) as loader:
            found[split] = evaluate(
                _Same(answer),
                loader,
                task=task,
                protocol=config.protocol,
                device=torch.device("cpu"),
            ).scores
    return found
