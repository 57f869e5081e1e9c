"""``segment_embedding``: a trained vector for each segment of a clip.

Shape letters: B clips, T segments, M = B*T, N tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from avcore.injection.parts import Prompt
from avcore.injection.views import StreamView
from avcore.specs import StreamLayout

__all__ = ["SegmentEmbedding"]


class SegmentEmbedding(Prompt):
    """Adds vector t of a (T, D) table, zero at first, to every token of segment t, before a backbone's pre-norm."""

    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.embedding = nn.Parameter(torch.zeros(stream.segments, stream.stages[0].width))

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """The vectors as (M, 1, D)."""
        return self.embedding.repeat(at.B, 1)[:, None]
