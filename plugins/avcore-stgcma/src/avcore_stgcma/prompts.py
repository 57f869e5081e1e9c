"""``stgcma.base``, ``stgcma.temporal`` and ``stgcma.bottlenecks``: what acts on one stream (Wang et al., CVPRW 2024).

Shape letters: M = B*T, N tokens, D width, H heads.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore import BlockLayout, Edit, Prompt, PromptLayer
from avcore.injection import BlockView
from avcore.specs import STREAMS, TEXT, StreamLayout
from avcore_stgcma.bottleneck import Bottleneck
from avcore_stgcma.settings import BottleneckSettings, TemporalSettings

__all__ = ["Base", "BottlenecksLayer", "Temporal", "TemporalLayer"]


class Base(Prompt):
    """The final norm trains; streams that share a trunk share it."""

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_parts`."""
        return dict.fromkeys((*STREAMS, TEXT), ("norm",))


class Temporal(Prompt):
    """`TemporalLayer` in every block, or in every ``every``-th one from the first."""

    def __init__(self, config: TemporalSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config

    def layer(self, block: BlockLayout) -> "TemporalLayer | None":
        """See `Prompt.layer`."""
        return None if block.index % self.config.every else TemporalLayer(self.config, block)


class TemporalLayer(PromptLayer):
    """x <- x + DropPath(E_T(A(x))), the frozen attention A running over the segments of each token position.

    With ``position_bias`` a trained number for each head and each distance in time is added to A's logits. It starts as
    Swin's own table does.
    """

    keep: Tensor

    def __init__(self, config: TemporalSettings, block: BlockLayout) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(block.width, config.ratio_at(block))
        self.segments = block.segments
        self.position_bias = None
        if config.position_bias:
            self.position_bias = nn.Parameter(torch.empty(2 * block.segments - 1, block.heads))
            nn.init.trunc_normal_(self.position_bias, std=0.02)
        drop = config.drop_path * block.index / max(1, block.depth - 1)
        # A tensor, so that blocks which differ in nothing else share one compiled graph.
        self.register_buffer("keep", torch.tensor(1.0 - drop), persistent=False)

    def before_attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Attend over time, adapt."""
        over_time = at.attend(at.over_time(x_MND), bias=self._bias())
        return Edit(add=self._drop_path(at.from_time(self.bottleneck(over_time))))

    def _bias(self) -> Tensor | None:
        """Of a query at t and a key at s: row T - 1 + t - s of the table."""
        if self.position_bias is None:
            return None
        return self.position_bias.unfold(0, self.segments, 1).flip(-1).transpose(0, 1)

    def _drop_path(self, out_MND: Tensor) -> Tensor:
        """Drop token positions, each in all segments of the batch at once, as the reference does."""
        if not self.training:
            return out_MND
        kept_N1 = torch.bernoulli(self.keep.expand(out_MND.shape[1], 1))
        return out_MND * (kept_N1 / self.keep).to(out_MND.dtype)


class BottlenecksLayer(PromptLayer):
    """x <- x + o + E_S(o) for attention's increment o, then x <- x + o + E_M(o) for the MLP's."""

    def __init__(self, config: BottleneckSettings, block: BlockLayout) -> None:
        super().__init__()
        self.spatial_bottleneck = Bottleneck(block.width, config.ratio_at(block))
        self.mlp_bottleneck = Bottleneck(block.width, config.ratio_at(block))

    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """o + E_S(o)."""
        adapted: Tensor = self.spatial_bottleneck(out_MND)
        return out_MND + adapted

    def mlp_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """o + E_M(o)."""
        adapted: Tensor = self.mlp_bottleneck(out_MND)
        return out_MND + adapted
