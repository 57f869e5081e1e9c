"""``avvp.mgn``: tokens of classes that group the seconds of each stream, then those of one stream by the other's.

Shape letters: B clips, T segments, C classes, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from avcore.modules import at_least_single
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Progress, Task
from avcore_avvp.config import MGNHeadConfig
from avcore_avvp.embedding import Embedding, Sources
from avcore_avvp.heads import ParsingHead
from avcore_avvp.losses import class_token_loss
from avcore_avvp.mgn.grouping import Block, Grouping, Groups

__all__ = ["GroupingNetwork", "MGNBase", "MGNHead"]


class _Grouped(nn.Module):
    """Blocks over vectors and tokens side by side, then a grouping of the vectors by the tokens.

    Args:
        classes: C.
        depth: blocks.
        config: of the head.
        between: number of vectors of the other stream by which these are grouped before; 0 for none.
    """

    def __init__(self, classes: int, depth: int, config: MGNHeadConfig, *, between: int = 0) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(config.width, config.heads, config.drop_path) for _ in range(depth)))
        self.by_other = Grouping(between, config.width, config.heads, hard=True) if between else None
        self.grouping = Grouping(classes, config.width, config.heads)

    def forward(self, x_BND: Tensor, tokens_BCD: Tensor, other_BND: Tensor | None = None) -> Groups:
        together = self.blocks(torch.cat([x_BND, tokens_BCD], dim=1))
        x_BND, tokens_BCD = together.split([x_BND.shape[1], tokens_BCD.shape[1]], dim=1)
        if self.by_other is not None:
            x_BND, _ = self.by_other(x_BND, other_BND)
        return self.grouping(x_BND, tokens_BCD)  # type: ignore[no-any-return]


class GroupingNetwork(nn.Module):
    """MGN behind its feature extractors and its maps to one width.

    Sound is grouped by the seconds of the pictures between its blocks and its own grouping, by a slip of the published
    code with hard choices. The probability of a second is that of its stream times 1 + a softmax over the seconds, and
    can exceed 1: it is compared with 0.5 and never in the loss.

    Args:
        classes: C.
        segments: T.
        config: of the head.
    """

    def __init__(self, classes: int, segments: int, config: MGNHeadConfig) -> None:
        super().__init__()
        self.audio_tokens = nn.Parameter(torch.zeros(classes, config.width))
        self.visual_tokens = nn.Parameter(torch.zeros(classes, config.width))
        self.audio = _Grouped(classes, config.depth_audio, config, between=segments)
        self.visual = _Grouped(classes, config.depth_visual, config)
        self.both = _Grouped(classes, config.depth_both, config)
        self.score = nn.Linear(config.width, 1)
        self.audio_score = nn.Linear(config.width, 1)
        self.visual_score = nn.Linear(config.width, 1)
        self.token_class = nn.Linear(config.width, classes)

    def forward(self, audio_BTD: Tensor, visual_BTD: Tensor) -> dict[str, Tensor]:
        """Sound and pictures, (B, T, D) each, to the output of `ParsingHead`, and what the tokens are taken for.

        That is ``audio_class`` and ``visual_class`` (B, C, C), the same for each clip.
        """
        clips = len(audio_BTD)
        audio_BCD, in_audio = self.audio(audio_BTD, self.audio_tokens.expand(clips, -1, -1), visual_BTD)
        visual_BCD, in_visual = self.visual(visual_BTD, self.visual_tokens.expand(clips, -1, -1))
        both_BCD, _ = self.both(audio_BCD, visual_BCD)
        audio_BC = _probability(self.audio_score, audio_BCD)
        visual_BC = _probability(self.visual_score, visual_BCD)
        frames = [_over_time(one, shares) for one, shares in ((audio_BC, in_audio), (visual_BC, in_visual))]
        return {
            "frame": torch.stack(frames, dim=2),
            "clip": _probability(self.score, both_BCD),
            "audio": audio_BC,
            "visual": visual_BC,
            "audio_class": self.token_class(self.audio_tokens).expand(clips, -1, -1),
            "visual_class": self.token_class(self.visual_tokens).expand(clips, -1, -1),
        }


def _probability(score: nn.Module, x_BCD: Tensor) -> Tensor:
    logits: Tensor = score(x_BCD).squeeze(-1)
    return at_least_single(logits).sigmoid()


def _over_time(probability_BC: Tensor, shares_BCT: Tensor) -> Tensor:
    """(B, T, C)."""
    weights_BCT = 1 + shares_BCT.to(probability_BC.dtype).softmax(-1)
    return (probability_BC[..., None] * weights_BCT).transpose(1, 2)


class MGNBase(ParsingHead):
    """What the heads with MGN's network share: its losses.

    Args:
        config, layouts, task: as of every head.
        segments: T.
    """

    def __init__(self, config: MGNHeadConfig, layouts: Mapping[str, StreamLayout], task: Task, segments: int) -> None:
        super().__init__(config, layouts, task)
        self.network = GroupingNetwork(self.classes, segments, config)

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The three of every head, and ``audio_tokens`` and ``visual_tokens``: each token is to be its own class."""
        terms = super().loss(output, batch, progress)
        names: Sequence[str] = ("audio", "visual")
        return {**terms, **{f"{name}_tokens": class_token_loss(output[f"{name}_class"][0]) for name in names}}


class MGNHead(MGNBase):
    """MGN on features from files or on the pooled vectors of the streams; see `Sources`.

    Raises:
        AssemblyError: sound or pictures come from nowhere.
    """

    def __init__(self, config: MGNHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        sources = Sources(layouts, task, "avvp.mgn")
        super().__init__(config, layouts, task, sources.segments)
        self.sources = sources
        self.embedding = Embedding(sources.audio, sources.visual, sources.motion, config.width)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with pooled vectors of the streams, or inputs, that it takes."""
        return self.network(*self.embedding(*self.sources.read(features)))  # type: ignore[no-any-return]
