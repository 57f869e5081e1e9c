"""``avvp.han``: a layer of self- and cross-attention for both streams, then pooling by learned weights.

Shape letters: B clips, T segments, D width, C classes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import at_least_single
from avcore.specs import StreamLayout
from avcore.tasks import Features, Task
from avcore_avvp.config import HANHeadConfig
from avcore_avvp.embedding import Embedding, Sources
from avcore_avvp.heads import ParsingHead

__all__ = ["HANHead", "HybridAttention", "HybridNetwork"]

DEAD_LAYERS = 3
"""Plain transformer layers that HAN's code creates and never calls."""


class HybridAttention(nn.Module):
    """One layer with the same weights for sound and pictures: x reads itself and the other, then an MLP.

    x = LN(x + self-attention(x) + cross-attention(x to other)), x = LN(x + MLP(x)); both streams read the inputs.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.other = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_mlp = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, other_BTD: Tensor) -> Tensor:
        """One stream, given the other."""
        cross_BTD, _ = self.other(x_BTD, other_BTD, other_BTD, need_weights=False)
        own_BTD, _ = self.own(x_BTD, x_BTD, x_BTD, need_weights=False)
        x_BTD = self.norm_attention(x_BTD + self.dropout(cross_BTD) + self.dropout(own_BTD))
        mlp_BTD = self.down(self.dropout(F.relu(self.up(x_BTD))))
        return self.norm_mlp(x_BTD + self.dropout(mlp_BTD))  # type: ignore[no-any-return]


class HybridNetwork(nn.Module):
    """HAN behind its feature extractors.

    The probability of a second in one stream is weighed by a softmax over the segments times one over the two streams.
    These are not normalised together, so that the probability of a clip can exceed 1.

    Args:
        embedding: from features to vectors of ``width``.
        classes: C.
        config: of the head.
    """

    def __init__(self, embedding: Embedding, classes: int, config: HANHeadConfig) -> None:
        super().__init__()
        self.embedding = embedding
        self.attention = HybridAttention(config.width, config.heads, config.feed_forward, config.dropout)
        self.score = nn.Linear(config.width, classes)
        self.over_time = nn.Linear(config.width, classes)
        self.over_streams = nn.Linear(config.width, classes)

    @property
    def unused_in_reference(self) -> int:
        """Three transformer layers, and the norms of their encoder and of the hybrid one, which are never called."""
        layer = sum(parameter.numel() for parameter in self.attention.parameters())
        layer -= sum(parameter.numel() for parameter in self.attention.other.parameters())
        encoders_with_norms, norms = 2, 2 * 2 * self.score.in_features
        return DEAD_LAYERS * layer + encoders_with_norms * norms

    def forward(self, audio_BTD: Tensor, visual_BND: Tensor, motion_BTD: Tensor | None) -> dict[str, Tensor]:
        """Features of sound, pictures and motion to the output of `ParsingHead`."""
        audio, visual = self.embedding(audio_BTD, visual_BND, motion_BTD)
        x_BT2D = torch.stack([self.attention(audio, visual), self.attention(visual, audio)], dim=2)
        x_BT2D = at_least_single(x_BT2D)
        frame_BT2C = torch.sigmoid(self.score(x_BT2D).to(x_BT2D.dtype))
        over_time = self.over_time(x_BT2D).to(x_BT2D.dtype).softmax(1)
        over_streams = self.over_streams(x_BT2D).to(x_BT2D.dtype).softmax(2)
        weighed_BT2C = over_time * frame_BT2C
        audio_BC, visual_BC = weighed_BT2C.sum(1).unbind(1)
        clip_BC = (weighed_BT2C * over_streams).sum((1, 2))
        return {"frame": frame_BT2C, "clip": clip_BC, "audio": audio_BC, "visual": visual_BC}


class HANHead(ParsingHead):
    """HAN on features from files or on the pooled vectors of the streams; see `Sources`.

    Raises:
        AssemblyError: sound or pictures come from nowhere.
    """

    def __init__(self, config: HANHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.sources = Sources(layouts, task, "avvp.han")
        embedding = Embedding(self.sources.audio, self.sources.visual, self.sources.motion, config.width)
        self.network = HybridNetwork(embedding, self.classes, config)
        self.unused_in_reference = self.network.unused_in_reference

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with pooled vectors of the streams, or inputs, that it takes."""
        return self.network(*self.sources.read(features))  # type: ignore[no-any-return]
