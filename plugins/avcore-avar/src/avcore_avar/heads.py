"""Heads that name the class of a whole clip.

Shape letters: B clips, T segments, D width of a backbone, C classes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.specs import STREAMS, StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_avar.config import LinearHeadConfig

__all__ = ["ClipHead", "LinearHead"]


class ClipHead(Head):
    """A head whose output ``logits`` (B, C) says the class of each clip: loss, target and prediction."""

    @property
    def targets(self) -> Mapping[str, Input]:
        """``label`` (), the class of the clip."""
        return {"label": Input(shape=(), dtype="int64")}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``class``: cross-entropy, mean over valid clips; 0 when there is none."""
        each_B = F.cross_entropy(_at_least_single(output["logits"]), batch.targets["label"], reduction="none")
        counted_B = batch.valid.to(each_B.dtype)
        return {"class": (each_B * counted_B).sum() / counted_B.sum().clamp(min=1)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``label`` (B,), the class with the highest score, and ``scores`` (B, C), the probability of each."""
        logits_BC = _at_least_single(output["logits"])
        return {"label": logits_BC.argmax(-1), "scores": logits_BC.softmax(-1)}


class LinearHead(ClipHead):
    """The pooled vectors of the streams side by side, their mean over the segments, Linear to C.

    Output:
        ``logits`` (B, C).
    """

    def __init__(self, config: LinearHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        order = STREAMS if config.first == "visual" else STREAMS[::-1]
        self.streams = tuple(stream for stream in order if stream in layouts)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(sum(layout.width for layout in layouts.values()), len(task.classes))

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        x_BTD = torch.cat([features.stream(stream).pooled for stream in self.streams], dim=-1)
        return {"logits": self.output(self.dropout(x_BTD.mean(1)))}


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
