"""``fewshot.words``: pictures and sound compared with sentences that name the classes.

Shape letters: B clips, T segments, C classes.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_fewshot.config import WordsHeadConfig, WordsSettings
from avcore_fewshot.words import Words, joined, probabilities, scaled_cosine

__all__ = ["ComparingHead", "WordsHead"]


class ComparingHead(Head):
    """What heads with words share: targets, losses and predictions for segments, for clips, and for any words.

    A subclass puts ``logits`` (B, T, C) into its outputs.

    Args:
        config, layouts, task: as of every head.
        background: the class of background, where the task has one, is among the words.

    Attributes:
        words: the sentences.
        per_segment: the task has a class for each segment; otherwise one for the clip, whose logits are the mean.

    Raises:
        AssemblyError: a stream and its sentences lie in no common space.
    """

    def __init__(
        self, config: WordsSettings, layouts: Mapping[str, StreamLayout], task: Task, *, background: bool
    ) -> None:
        super().__init__(config, layouts, task)
        self.left_out = None if background else task.background
        classes = [name for index, name in enumerate(task.classes) if index != self.left_out]
        self.words = Words(config, classes, layouts)
        self.scales = {"visual": config.visual_scale, "audio": config.audio_scale}
        self.per_segment = "labels" in task.prediction
        self.any_words = not {"labels", "label"} & set(task.prediction)
        self.segments, self.classes = next(iter(layouts.values())).segments, len(classes)

    @property
    def targets(self) -> Mapping[str, Input]:
        """``labels`` (T,) of segments, ``label`` () of clips."""
        if self.any_words:
            return {}
        return (
            {"labels": Input(shape=(self.segments,), dtype="int64")}
            if self.per_segment
            else {"label": Input(shape=(), dtype="int64")}
        )

    def similar(self, features: Features, stream: str) -> Tensor:
        """l_v or l_a: the scaled cosines of a stream with its words, (B, T, C)."""
        return scaled_cosine(features.project(stream), self.words.vectors(features, stream), self.scales[stream])

    def cross_entropy(self, output: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Of ``logits``, mean over the segments or clips that count; 0 where there is none.

        Segments of background count where it is a word.
        """
        logits_BTC = output["logits"]
        if self.any_words:
            return (logits_BTC * 0).sum()
        if self.per_segment:
            labels_BT = batch.targets["labels"]
            counted = batch.valid[:, None].expand_as(labels_BT)
            if self.left_out is not None:
                counted = counted & (labels_BT != self.left_out)
                labels_BT = (labels_BT - (labels_BT > self.left_out).long()).clamp(max=self.classes - 1)
            each = F.cross_entropy(logits_BTC.mT, labels_BT, reduction="none")
        else:
            counted = batch.valid
            each = F.cross_entropy(logits_BTC.mean(1), batch.targets["label"], reduction="none")
        weights = counted.to(each.dtype)
        return (each * weights).sum() / weights.sum().clamp(min=1)

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """As the kind of task wants it.

        Segments: ``labels`` and ``probability`` (B, T). Clips: ``label`` (B,) and ``scores`` (B, C). Any words:
        ``scores`` (B, T, C) and those of the streams that run, ``visual`` and ``audio``.
        """
        logits_BTC = output["logits"]
        if self.any_words:
            shown = {name: probabilities(output[name]) for name in self.words.streams}
            return {"scores": probabilities(logits_BTC), **shown}
        if self.per_segment:
            probability_BT, labels_BT = probabilities(logits_BTC).max(-1)
            if self.left_out is not None:
                labels_BT = labels_BT + (labels_BT >= self.left_out).long()
            return {"labels": labels_BT, "probability": probability_BT}
        logits_BC = logits_BTC.mean(1)
        return {"label": logits_BC.argmax(-1), "scores": probabilities(logits_BC)}


class WordsHead(ComparingHead):
    """Scaled cosines with the words, both streams joined. There is nothing to train; parts before it may be trained.

    Output:
        ``visual``, ``audio`` and ``logits``, (B, T, C) each.
    """

    def __init__(self, config: WordsHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, background=config.background)
        self.join = config.join

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of the streams that run."""
        found = {name: self.similar(features, name) for name in self.words.streams}
        return {**found, "logits": joined(self.join, [*found.values()])}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``class``: the cross-entropy of the joined logits."""
        return {"class": self.cross_entropy(output, batch)}
