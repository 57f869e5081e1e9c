"""``mettle.distill``: our reading of Mettle's layer-centric distillation (arXiv:2506.23271).

The abstract says what is read and what is made; the formulae within are open, and each choice is a setting. Tokens are
read behind the blocks and nothing enters them. Shape letters: B clips, T segments, M = B*T, N tokens, K meta-tokens,
D width of a block, h width of the attention.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout, Features, Prompt, PromptLayer, StreamLayout
from avcore.injection import BlockView
from avcore_mettle.settings import DistillSettings

__all__ = ["Attention", "Distill", "DistillLayer"]

DEVIATION = 0.02


class Attention(nn.Module):
    """a = softmax((m W_q)(x W_k)^T / sqrt(h)) (x W_v) W_o; W_o is zero at first."""

    def __init__(self, config: DistillSettings, width: int) -> None:
        super().__init__()
        inner = max(1, width // config.reduction)
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.out.weight)
        self.scale = 1 / math.sqrt(inner) if config.scale == "sqrt" else 1.0

    def forward(self, m_MKD: Tensor, x_MND: Tensor) -> Tensor:
        """Meta-tokens and tokens to (M, K, D)."""
        read_MKh = F.scaled_dot_product_attention(
            self.query(m_MKD), self.key(x_MND), self.value(x_MND), scale=self.scale
        )
        return self.out(read_MKh)  # type: ignore[no-any-return]


class DistillLayer(PromptLayer):
    """z = LN(p + a [+ m]) of one block: what is adapted, a, beside what is preserved, p."""

    def __init__(self, config: DistillSettings, block: BlockLayout) -> None:
        super().__init__()
        shape, width = (config.tokens, block.width), block.width
        initial = torch.rand(shape) if config.initial == "uniform" else torch.randn(shape) * DEVIATION
        self.tokens = nn.Parameter(initial)
        self.attention_in = Attention(config, width) if config.share == "block" else None
        self.norm = nn.LayerNorm(width)
        self.preserve, self.residual = config.preserve, config.residual
        self.scale = 1 / math.sqrt(width) if config.scale == "sqrt" else 1.0
        self.stage = str(block.stage)

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        """``tokens``: (M, K, D)."""
        attention: Any = self.attention_in or at.part.shared[self.stage]
        m_MKD = self.tokens.to(x_MND.dtype).expand(len(x_MND), -1, -1)
        z_MKD = attention(m_MKD, x_MND)
        if self.preserve == "att":
            z_MKD = z_MKD + F.scaled_dot_product_attention(m_MKD, x_MND, x_MND, scale=self.scale)
        elif self.preserve == "mean":
            z_MKD = z_MKD + x_MND.mean(1, keepdim=True)
        if self.residual:
            z_MKD = z_MKD + m_MKD
        return {"tokens": self.norm(z_MKD)}


class Distill(Prompt):
    """Meta-tokens of the blocks of one stream; their mean over tokens and blocks is the stream's pooled vector.

    Where stages differ in width, a linear map for each brings its tokens to the width of the last.
    """

    def __init__(self, config: DistillSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config, self.stream = config, stream
        ends = list({block.stage: block for block in stream.blocks}.values())
        self.read_blocks = {"all": stream.blocks, "ends": ends, "last": stream.blocks[-config.last :]}[config.layers]
        widths = {block.stage: block.width for block in self.read_blocks}
        self.shared = nn.ModuleDict()
        if config.share == "stage":
            self.shared.update({str(stage): Attention(config, width) for stage, width in widths.items()})
        self.maps = nn.ModuleDict()
        if len(widths) > 1:
            self.maps.update({str(stage): nn.Linear(width, stream.width) for stage, width in widths.items()})

    def layer(self, block: BlockLayout) -> DistillLayer | None:
        """See `Prompt.layer`."""
        return DistillLayer(self.config, block) if block in self.read_blocks else None

    def finish(self, features: Features) -> Features:
        """The mean of the meta-tokens in place of the pooled vector."""
        name = self.stream.name
        means = []
        for block, tokens_MKD in zip(self.read_blocks, features.offers[f"mettle.distill.{name}.tokens"], strict=True):
            mean_MD = tokens_MKD.mean(1)
            means.append(self.maps[str(block.stage)](mean_MD) if self.maps else mean_MD)
        pooled_MD = torch.stack(means).mean(0)
        pooled_BTD = pooled_MD.unflatten(0, (features.clips, features.segments))
        return features.with_streams(**{name: replace(features.stream(name), pooled=pooled_BTD)})
