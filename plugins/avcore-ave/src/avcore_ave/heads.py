"""`LinearHead`, and what it shares with other heads that score each segment by itself.

Shape letters: B clips, T segments, D width of a backbone, C classes with background.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.modules import at_least_single
from avcore.specs import STREAMS, StreamLayout
from avcore.tasks import Batch, Features, Progress, Task
from avcore_ave.config import LinearHeadConfig
from avcore_ave.losses import bce_softmax, cross_entropy, soft_margin
from avcore_ave.targets import EventHead

__all__ = ["LinearHead", "SegmentHead"]

LOSSES = {"bce_softmax": bce_softmax, "cross_entropy": cross_entropy, "soft_margin": soft_margin}


class SegmentHead(EventHead):
    """A head whose output ``logits`` (B, T, C) says the class of each segment: loss, targets and prediction.

    With labels of clips alone (`EventHead`) the highest logit of each class over time stands for the clip, as in
    AVEL.

    Args:
        config, layouts, task: as of every head.
        loss: a name in `LOSSES`.
    """

    def __init__(self, config: object, layouts: Mapping[str, StreamLayout], task: Task, *, loss: str) -> None:
        super().__init__(config, layouts, task)
        self.criterion = LOSSES[loss]

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``event``: the mean over the segments of valid clips, or over the clips where only they have labels."""
        logits_BTC = output["logits"]
        if self.weak:
            logits_BTC, labels_BT = logits_BTC.amax(1, keepdim=True), batch.targets["clip_label"][:, None]
        else:
            labels_BT = batch.targets["labels"]
        return {"event": self.criterion(logits_BTC, labels_BT, batch.valid)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``labels`` (B, T), the arg-max, and ``probability`` (B, T) of that class."""
        from avcore_ave.metrics import segment_rule

        logits_BTC = output["logits"]
        labels_BT = segment_rule(logits_BTC)
        probability_BTC = at_least_single(logits_BTC).softmax(-1)
        return {"labels": labels_BT, "probability": probability_BTC.gather(-1, labels_BT[..., None]).squeeze(-1)}


class LinearHead(SegmentHead):
    """Both pooled vectors of a segment side by side, Linear to ``hidden``, dropout, Linear to C; no non-linearity.

    With one stream: LayerNorm and Linear to C, STG-CMA's head for a single branch.

    Output:
        ``logits`` (B, T, C).
    """

    def __init__(self, config: LinearHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, loss=config.loss)
        widths = {stream: layout.width for stream, layout in layouts.items()}
        order = STREAMS if config.first == "visual" else STREAMS[::-1]
        self.streams = tuple(stream for stream in order if stream in widths)
        both, total, classes = len(widths) > 1, sum(widths.values()), len(task.classes)
        self.hidden = nn.Linear(total, config.hidden) if both else None
        self.norm = None if both else nn.LayerNorm(total)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden if both else total, classes)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        x_BTD = torch.cat([features.stream(stream).pooled for stream in self.streams], dim=-1)
        if self.hidden is not None:
            x_BTD = self.dropout(self.hidden(x_BTD))
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return {"logits": self.output(x_BTD)}
