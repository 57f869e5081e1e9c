"""Heads that name the class of a whole clip.

Shape letters: B clips, T segments, D width of a backbone, C classes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import at_least_single
from avcore.specs import STREAMS, StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_avar.config import LinearHeadConfig, TwoMapsHeadConfig

__all__ = ["ClipHead", "LinearHead", "TwoMapsHead"]


class ClipHead(Head):
    """A head whose output ``logits`` (B, C) says the class of each clip: loss, target and prediction.

    Args:
        config, layouts, task: as of every head.
        first: the stream that comes first where several are put side by side.
    """

    def __init__(self, config: object, layouts: Mapping[str, StreamLayout], task: Task, *, first: str) -> None:
        super().__init__(config, layouts, task)
        order = STREAMS if first == "visual" else STREAMS[::-1]
        self.streams = tuple(stream for stream in order if stream in layouts)
        self.width = sum(layout.width for layout in layouts.values())

    def pooled(self, features: Features) -> Tensor:
        """The pooled vectors of the streams side by side, their mean over the segments: (B, D)."""
        return torch.cat([features.stream(stream).pooled for stream in self.streams], dim=-1).mean(1)

    @property
    def targets(self) -> Mapping[str, Input]:
        """``label`` (), the class of the clip."""
        return {"label": Input(shape=(), dtype="int64")}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``class``: cross-entropy, mean over valid clips; 0 when there is none."""
        each_B = F.cross_entropy(at_least_single(output["logits"]), batch.targets["label"], reduction="none")
        counted_B = batch.valid.to(each_B.dtype)
        return {"class": (each_B * counted_B).sum() / counted_B.sum().clamp(min=1)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``label`` (B,), the class with the highest score, and ``scores`` (B, C), the probability of each."""
        logits_BC = at_least_single(output["logits"])
        return {"label": logits_BC.argmax(-1), "scores": logits_BC.softmax(-1)}


class LinearHead(ClipHead):
    """The pooled vectors of the streams side by side, their mean over the segments, Linear to C.

    Output:
        ``logits`` (B, C).
    """

    def __init__(self, config: LinearHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, first=config.first)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(self.width, len(task.classes))

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        return {"logits": self.output(self.dropout(self.pooled(features)))}


class TwoMapsHead(ClipHead):
    """The same mean through Linear to ``hidden``, dropout and Linear to C, with no non-linearity: STG-CMA's of AVE.

    With one stream LayerNorm and Linear to C. STG-CMA's code has no recognition; the mean over the segments is ours.

    Output:
        ``logits`` (B, C).
    """

    def __init__(self, config: TwoMapsHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, first=config.first)
        both, classes = len(layouts) > 1, len(task.classes)
        self.hidden = nn.Linear(self.width, config.hidden) if both else None
        self.norm = None if both else nn.LayerNorm(self.width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden if both else self.width, classes)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        x_BD = self.pooled(features)
        if self.hidden is not None:
            x_BD = self.dropout(self.hidden(x_BD))
        if self.norm is not None:
            x_BD = self.norm(x_BD)
        return {"logits": self.output(x_BD)}
