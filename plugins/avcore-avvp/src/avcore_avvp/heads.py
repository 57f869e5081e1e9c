"""`ParsingHead`, what heads of video parsing share, and `AttentiveHead`, the plain one.

Shape letters: B clips, T segments, D width of a backbone, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.modules import at_least_single
from avcore.specs import STREAMS, StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_avvp.config import AttentiveHeadConfig, LossSettings
from avcore_avvp.losses import clip_loss, smoothed
from avcore_avvp.task import MODALITIES

__all__ = ["AttentiveHead", "ParsingHead"]


class ParsingHead(Head):
    """A head whose output says what is in each second and in the clip: losses, targets and prediction.

    Output:
        ``frame`` (B, T, 2, C), probabilities in sound and in pictures; ``clip`` (B, C), of the whole clip; ``audio``
        and ``visual`` (B, C), of the clip's sound and pictures, for the streams that run.
    """

    def __init__(self, config: LossSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.classes = len(task.classes)
        self.validity = {"audio": config.audio_smoothing, "visual": config.visual_smoothing}

    @property
    def targets(self) -> Mapping[str, Input]:
        """``labels`` (C,), 1 for each class that occurs in the clip."""
        return {"labels": Input(shape=(self.classes,))}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``clip``, ``audio`` and ``visual``: binary cross-entropies with the labels, smoothed for a modality."""
        labels_BC = batch.targets["labels"]
        terms = {"clip": clip_loss(output["clip"], labels_BC, batch.valid)}
        for name, validity in self.validity.items():
            if name in output:
                terms[name] = clip_loss(output[name], smoothed(labels_BC, validity), batch.valid)
        return terms

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``events`` (B, T, 2, C) bool, and ``probability`` (B, T, 2, C) of each, 0 to 1.

        ``line``, the same events again for the whole clip, and ``place`` (B, T), the number of each segment, let one
        segment be drawn into the time line of its clip.
        """
        from avcore_avvp.metrics import thresholded

        frame = output["frame"]
        events = thresholded(frame, output["clip"])
        place_BT = torch.arange(frame.shape[1], device=frame.device).expand(frame.shape[:2])
        return {"events": events, "probability": frame.clamp(0, 1), "line": events, "place": place_BT}


class AttentiveHead(ParsingHead):
    """Each stream's pooled vectors through two linear maps to C: the probabilities of each second, and their weights.

    The probability of a clip is the mean of those of all seconds of both streams, by the softmax of their weights; the
    one of its sound or its pictures takes those of one stream. A stream that is off has probability 0.
    """

    def __init__(self, config: AttentiveHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.dropout = nn.Dropout(config.dropout)
        widths = {name: layouts[name].width for name in STREAMS if name in layouts}
        self.score = nn.ModuleDict({name: nn.Linear(width, self.classes) for name, width in widths.items()})
        self.weight = nn.ModuleDict({name: nn.Linear(width, self.classes) for name, width in widths.items()})

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        probabilities: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for name in self.score:
            x_BTD = self.dropout(features.stream(name).pooled)
            probabilities[name] = torch.sigmoid(at_least_single(self.score[name](x_BTD)))
            weights[name] = at_least_single(self.weight[name](x_BTD))
        pooled = {name: _pooled(probabilities[name], weights[name]) for name in probabilities}
        clip = _pooled(torch.cat([*probabilities.values()], dim=1), torch.cat([*weights.values()], dim=1))
        nothing = torch.zeros_like(next(iter(probabilities.values())))
        frame = torch.stack([probabilities.get(name, nothing) for name in MODALITIES], dim=2)
        return {"frame": frame, "clip": clip, **pooled}


def _pooled(probability_BNC: Tensor, weight_BNC: Tensor) -> Tensor:
    return (probability_BNC * weight_BNC.softmax(1)).sum(1)
