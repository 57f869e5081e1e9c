"""Which event a clip has and in which of its segments, as CMBS decides it (Xia and Zhao, CVPR 2022).

Shape letters: B clips, T segments, D width, K events (background is none of them), C = K + 1 classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.modules import at_least_single
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Progress, Task
from avcore_ave.losses import event_losses, soft_margin
from avcore_ave.targets import EventHead, is_weak
from avcore_ave.temporal import Interacted

__all__ = ["Exchange", "Localisation", "LocalisationHead", "WeakLocalisation"]

EXCHANGE_DROPOUT, ATTENTION_DROPOUT = 0.1, 0.2


class Exchange(nn.Module):
    """The product of both streams attends to the segments of both: LN(p + attention(p; both)) with p = own * other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=ATTENTION_DROPOUT, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(EXCHANGE_DROPOUT)

    def forward(self, own_BTD: Tensor, other_BTD: Tensor) -> Tensor:
        """Two streams (B, T, D) to the first one, (B, T, D)."""
        both_BTD = own_BTD * other_BTD
        seen_BKD = torch.cat([other_BTD, own_BTD], dim=1)
        read_BTD, _ = self.attention(both_BTD, seen_BKD, seen_BKD, need_weights=False)
        return self.norm(both_BTD + self.dropout(read_BTD))  # type: ignore[no-any-return]


class _Fusion(nn.Module):
    """The mean of both streams, after an exchange if there is one (``heads`` above 0): sound reads the new pictures."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.to_visual = Exchange(width, heads) if heads else None
        self.to_audio = Exchange(width, heads) if heads else None

    def fuse(self, visual_BTD: Tensor, audio_BTD: Tensor) -> Tensor:
        if self.to_visual is not None and self.to_audio is not None:
            visual_BTD = self.to_visual(visual_BTD, audio_BTD)
            audio_BTD = self.to_audio(audio_BTD, visual_BTD)
        return (visual_BTD + audio_BTD) / 2


class Localisation(_Fusion):
    """Is a segment an event, and which event is the clip.

    Args:
        width: D.
        events: K.
        top: segments with the highest scores that speak for the clip.
        score_weight: of their mean in the clip's event.
        exchange_heads: of the exchange between the streams; 0 for none, as in DG-SCT.

    Attributes:
        unused_in_reference: two norms, and where there is no exchange its two blocks: created there and never used.
    """

    def __init__(self, width: int, events: int, *, top: int, score_weight: float, exchange_heads: int = 0) -> None:
        super().__init__(width, exchange_heads)
        self.visual_score = nn.Linear(width, events)
        self.audio_score = nn.Linear(width, events)
        self.is_event = nn.Linear(width, 1)
        self.event = nn.Linear(width, events)
        self.top, self.score_weight = top, score_weight
        attention, norm = 4 * width * (width + 1), 2 * width
        self.unused_in_reference = 2 * norm + (0 if exchange_heads else 2 * (attention + norm))

    def forward(self, streams: Interacted) -> dict[str, Tensor]:
        """``is_event`` (B, T), ``event`` and ``score`` (B, K): logits; ``gate`` (B, T), a probability."""
        scores = (self.visual_score(streams.visual), self.audio_score(streams.audio))
        score_BK = torch.stack([each.topk(self.top, dim=1).values.mean(1) for each in scores]).mean(0)
        fused_BTD = self.fuse(streams.visual, streams.audio)
        event_BK = self.event(fused_BTD.amax(1)) + self.score_weight * score_BK
        is_event_BT = self.is_event(fused_BTD).squeeze(-1)
        return {"is_event": is_event_BT, "event": event_BK, "score": score_BK, "gate": streams.gate.squeeze(-1)}


class WeakLocalisation(_Fusion):
    """The same from labels of clips alone: background is a class, and the gate alone says where.

    Arguments as above, with ``classes`` C; ``score_weight`` weighs each stream's own scores as gates of the common
    ones.

    Attributes:
        unused_in_reference: a linear map to one number, in CMBS.
    """

    def __init__(self, width: int, classes: int, *, top: int, score_weight: float, exchange_heads: int = 0) -> None:
        super().__init__(width, exchange_heads)
        self.visual_score = nn.Linear(width, classes)
        self.audio_score = nn.Linear(width, classes)
        self.score = nn.Linear(width, classes, bias=False)
        self.top, self.score_weight = top, score_weight
        self.unused_in_reference = width + 1 if exchange_heads else 0

    def forward(self, streams: Interacted) -> dict[str, Tensor]:
        """``event`` (B, C), logits; ``gate`` (B, T), a probability; ``clip`` (B, C), the maximum of their products."""
        own_BTC = self.visual_score(streams.visual).sigmoid() + self.audio_score(streams.audio).sigmoid()
        scores_BTC = self.score_weight * own_BTC * self.score(self.fuse(streams.visual, streams.audio))
        event_BC = scores_BTC.topk(self.top, dim=1).values.mean(1)
        clip_BC = (streams.gate * event_BC[:, None]).amax(1)
        return {"event": event_BC, "gate": streams.gate.squeeze(-1), "clip": clip_BC}


class LocalisationHead(EventHead):
    """What heads that end in `Localisation` or, for a task with labels of clips alone, `WeakLocalisation` share.

    Subclasses give the output of one of them.

    Raises:
        AssemblyError: the task names no background, a stream is off, or a clip has fewer segments than ``config.top``.
    """

    def __init__(self, config: object, layouts: Mapping[str, StreamLayout], task: Task, *, name: str, top: int) -> None:
        super().__init__(config, layouts, task)
        if not {"visual", "audio"} <= layouts.keys():
            raise AssemblyError(f"Head {name} needs both streams: use --streams both, or --set head.name=ave.linear.")
        if self.segments < top:
            raise AssemblyError(
                f"head.top={top} segments speak for a clip, but it has {self.segments}: lower head.top."
            )
        if task.background is None:
            raise AssemblyError(f"Head {name} tells events from background; {type(task).__name__} has no background.")
        self.background = task.background

    @staticmethod
    def localisation_of(
        task: Task, width: int, *, top: int, score_weight: float, exchange_heads: int = 0
    ) -> Localisation | WeakLocalisation:
        """The one that goes with the labels of the task."""
        weak = is_weak(task)
        classes = len(task.classes) - (not weak)
        kind = WeakLocalisation if weak else Localisation
        return kind(width, classes, top=top, score_weight=score_weight, exchange_heads=exchange_heads)

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """`event_losses` of ``labels``; with labels of clips alone ``event``, the `soft_margin` of ``clip_label``."""
        if self.weak:
            labels_B1 = batch.targets["clip_label"][:, None]
            return {"event": soft_margin(output["clip"][:, None], labels_B1, batch.valid)}
        return event_losses(output, batch.targets["labels"], batch.valid, self.background)

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``labels`` (B, T), the clip's event or background, and ``probability`` (B, T) of that class."""
        from avcore_ave.metrics import clip_rule, weak_clip_rule

        each = at_least_single(output["event"]).softmax(-1)
        if self.weak:
            labels_BT = weak_clip_rule(output["gate"], output["event"])
            return {"labels": labels_BT, "probability": each.gather(-1, labels_BT)}
        labels_BT = clip_rule(output["is_event"], output["event"])
        here_BT = at_least_single(output["is_event"]).sigmoid()
        probability_BT = torch.where(labels_BT == self.background, 1 - here_BT, here_BT * each.amax(-1, keepdim=True))
        return {"labels": labels_BT, "probability": probability_BT}
