"""``dgsct.ave``: temporal interaction of the streams, then localisation as in CMBS (Xia and Zhao, CVPR 2022).

Shape letters: B clips, T segments, D width, K events (background is none of them).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Batch, Features, Head, Input, Progress, StreamLayout, Task
from avcore_ave.metrics import clip_rule
from avcore_dgsct.losses import event_losses
from avcore_dgsct.settings import AVEHeadSettings
from avcore_dgsct.temporal import CrossDecoder, SegmentEncoder

__all__ = ["AVEHead", "Interacted", "Localisation", "TemporalInteraction"]


class Interacted(NamedTuple):
    """Both streams after they read each other, (B, T, D), and the product of their gates, (B, T, 1)."""

    visual: Tensor
    audio: Tensor
    gate: Tensor


class TemporalInteraction(nn.Module):
    """Each stream over time, decoded from the other's memory and scaled by 1 + gamma times the other's gate."""

    def __init__(self, config: AVEHeadSettings, visual_in: int, audio_in: int) -> None:
        super().__init__()
        width = config.temporal.width
        self.visual_in = nn.Linear(visual_in, config.visual_width)
        self.audio_in = nn.Linear(audio_in, config.audio_width)
        self.dropout = nn.Dropout(config.input_dropout)
        self.visual = SegmentEncoder(config.visual_width, width, config.temporal)
        self.audio = SegmentEncoder(config.audio_width, width // 2, config.temporal)
        self.visual_decoder = CrossDecoder(2 * width, config.temporal)
        self.audio_decoder = CrossDecoder(width, config.temporal)
        self.gamma = config.gamma

    @property
    def unused_in_reference(self) -> int:
        """Of the encoders and decoders."""
        return sum(
            part.unused_in_reference for part in (self.visual, self.audio, self.visual_decoder, self.audio_decoder)
        )

    def forward(self, visual_BTD: Tensor, audio_BTD: Tensor) -> Interacted:
        """Pooled vectors of both streams, of their own widths."""
        visual = self.visual(self.dropout(F.relu(self.visual_in(visual_BTD))))
        audio = self.audio(self.audio_in(audio_BTD))
        visual_BTD = self.visual_decoder(visual.states, audio.memory) * (1 + self.gamma * audio.gate)
        audio_BTD = self.audio_decoder(audio.states, visual.memory) * (1 + self.gamma * visual.gate)
        return Interacted(visual_BTD, audio_BTD, visual.gate * audio.gate)


class Localisation(nn.Module):
    """Is a segment an event, and which event is the clip: CMBS's module without its unused interaction blocks.

    Attributes:
        unused_in_reference: two blocks of cross attention and two norms, created and never used.
    """

    def __init__(self, config: AVEHeadSettings, events: int) -> None:
        super().__init__()
        width = config.temporal.width
        self.visual_score = nn.Linear(width, events)
        self.audio_score = nn.Linear(width, events)
        self.is_event = nn.Linear(width, 1)
        self.event = nn.Linear(width, events)
        self.top, self.score_weight = config.top, config.score_weight
        attention, norm = 4 * width * (width + 1), 2 * width
        self.unused_in_reference = 2 * (attention + norm) + 2 * norm

    def forward(self, visual_BTD: Tensor, audio_BTD: Tensor) -> dict[str, Tensor]:
        """``is_event`` (B, T), ``event`` and ``score`` (B, K): logits."""
        scores = (self.visual_score(visual_BTD), self.audio_score(audio_BTD))
        score_BK = torch.stack([each.topk(self.top, dim=1).values.mean(1) for each in scores]).mean(0)
        fused_BTD = (visual_BTD + audio_BTD) / 2
        event_BK = self.event(fused_BTD.amax(1)) + self.score_weight * score_BK
        return {"is_event": self.is_event(fused_BTD).squeeze(-1), "event": event_BK, "score": score_BK}


class AVEHead(Head):
    """Pooled vectors to the event of the clip and the segments in which it is seen and heard.

    Output:
        ``is_event`` (B, T) and ``event``, ``score`` (B, K): logits; ``gate`` (B, T), a probability.

    Raises:
        AssemblyError: the task names no events in segments, a stream is off, or a clip has too few segments.
    """

    def __init__(self, config: AVEHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        visual, audio = layouts.get("visual"), layouts.get("audio")
        if visual is None or audio is None:
            raise AssemblyError("Head dgsct.ave needs both streams: use --streams both, or --set head.name=ave.linear.")
        if visual.segments < config.top:
            raise AssemblyError(
                f"head.top={config.top} segments speak for a clip, but it has {visual.segments}: lower head.top."
            )
        if task.background is None:
            raise AssemblyError(
                f"Head dgsct.ave tells events from background; {type(task).__name__} has no background."
            )
        self.background = task.background
        self.segments = visual.segments
        self.temporal = TemporalInteraction(config, visual.width, audio.width)
        self.localisation = Localisation(config, len(task.classes) - 1)
        self.unused_in_reference = self.temporal.unused_in_reference + self.localisation.unused_in_reference

    @property
    def targets(self) -> Mapping[str, Input]:
        """``labels`` (T,), a class for each segment."""
        return {"labels": Input(shape=(self.segments,), dtype="int64")}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of both streams."""
        made = self.temporal(features.stream("visual").pooled, features.stream("audio").pooled)
        return {**self.localisation(made.visual, made.audio), "gate": made.gate.squeeze(-1)}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """`event_losses` of the target ``labels`` (B, T)."""
        return event_losses(output, batch.targets["labels"], batch.valid, self.background)

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``labels`` (B, T), the clip's event or background, and ``probability`` (B, T) of that class."""
        dtype = torch.promote_types(output["event"].dtype, torch.float32)
        labels_BT = clip_rule(output["is_event"], output["event"])
        here_BT = output["is_event"].to(dtype).sigmoid()
        event_B1 = output["event"].to(dtype).softmax(-1).amax(-1, keepdim=True)
        probability_BT = torch.where(labels_BT == self.background, 1 - here_BT, here_BT * event_B1)
        return {"labels": labels_BT, "probability": probability_BT}
