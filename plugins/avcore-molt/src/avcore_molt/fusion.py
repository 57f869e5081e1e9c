"""``molt``: our reading of MoLT's layer-wise latent tokens (arXiv:2512.00115).

Not a reproduction: its formulas could not be had. Tokens are read behind late pairs of blocks and nothing enters them.
Shape letters: B clips, T segments, M = B*T, N own tokens, K tokens of the other stream, n latent tokens, D width of a
block, C that of the other stream.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import Features, Fusion, FusionLayer, StreamLayout
from avcore.injection import PairLayout, PairView
from avcore.specs import STREAMS
from avcore_molt.settings import MoLTSettings

__all__ = ["Bottleneck", "Distilled", "MoLT", "MoLTLayer", "orthogonality"]

DEVIATION = 0.02
ROUTER_WIDTHS = (128, 32)  # AVMoE's


class Bottleneck(nn.Module):
    """u + Up(GELU(Down(LN(u)))); Up is zero at first, so that what was distilled passes as it is."""

    def __init__(self, config: MoLTSettings, width: int) -> None:
        super().__init__()
        inner = max(1, width // config.reduction)
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, u_MnD: Tensor) -> Tensor:
        """Latent tokens to (M, n, D)."""
        return u_MnD + self.up(F.gelu(self.down(self.norm(u_MnD))))  # type: ignore[no-any-return]


class Distilled(nn.Module):
    """Latent tokens of one stream at one pair: unimodal and cross-modal ones, weighed for each segment."""

    def __init__(self, config: MoLTSettings, width: int, other_width: int) -> None:
        super().__init__()
        shape = (config.tokens, width)
        self.own, self.cross = (
            nn.Parameter(torch.rand(shape) if config.initial == "uniform" else torch.randn(shape) * DEVIATION)
            for _ in range(2)
        )
        self.map = nn.Linear(other_width, width)
        self.own_adapter, self.cross_adapter = Bottleneck(config, width), Bottleneck(config, width)
        first, second = ROUTER_WIDTHS
        self.router = (
            nn.Sequential(
                nn.Linear(2 * width, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2)
            )
            if config.router == "learned"
            else None
        )
        self.scale = 1 / math.sqrt(width) if config.scale == "sqrt" else 1.0

    def forward(self, x_MND: Tensor, other_MKC: Tensor) -> Tensor:
        """w_u B_u(U) + w_c B_c(C), (M, n, D)."""
        y_MKD = self.map(other_MKC)
        own_MnD = self.own_adapter(self._collect(self.own, x_MND))
        cross_MnD = self.cross_adapter(self._collect(self.cross, y_MKD))
        if self.router is None:
            return (own_MnD + cross_MnD) / 2  # type: ignore[no-any-return]
        weights_M2 = self.router(torch.cat([x_MND.mean(1), y_MKD.mean(1)], dim=-1)).softmax(-1)
        mixed_MnD: Tensor = weights_M2[:, :1, None] * own_MnD + weights_M2[:, 1:, None] * cross_MnD
        return mixed_MnD

    def _collect(self, latents_nD: Tensor, x_MND: Tensor) -> Tensor:
        """L + softmax(L x^T / sqrt(D)) x."""
        latents_MnD = latents_nD.to(x_MND.dtype).expand(len(x_MND), -1, -1)
        return latents_MnD + F.scaled_dot_product_attention(latents_MnD, x_MND, x_MND, scale=self.scale)


class MoLTLayer(FusionLayer):
    """The latent tokens of both streams at one pair of blocks."""

    def __init__(self, config: MoLTSettings, pair: PairLayout) -> None:
        super().__init__()
        self.visual = Distilled(config, pair.visual.width, pair.audio.width)
        self.audio = Distilled(config, pair.audio.width, pair.visual.width)

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
        """``visual`` and ``audio``: (M, n, D) each. Both streams' tokens come without a graph where none is trained."""
        return {"visual": self.visual(visual_MND, audio_MND), "audio": self.audio(audio_MND, visual_MND)}


class TokenFusion(nn.Module):
    """z = sum_l alpha_l P_l z_l with alpha = softmax_l(s(mean_n P_l z_l)); P_l only where widths of layers differ."""

    def __init__(self, config: MoLTSettings, widths: list[int], width: int) -> None:
        super().__init__()
        differ = set(widths) != {width}
        self.maps = nn.ModuleList(nn.Linear(one, width) for one in widths) if differ else None
        self.score = nn.Linear(width, 1, bias=False) if config.fusion == "learned" else None

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Latent tokens of every layer to (M, n, D) in the last width."""
        mapped = layers if self.maps is None else [to(one) for to, one in zip(self.maps, layers, strict=True)]
        z_MLnD = torch.stack(mapped, dim=1)
        if self.score is None:
            return z_MLnD.mean(1)
        alpha_ML1 = self.score(z_MLnD.mean(2)).softmax(1)
        fused_MnD: Tensor = (alpha_ML1[..., None] * z_MLnD).sum(1)
        return fused_MnD


class MoLT(Fusion):
    """Latent tokens of the last pairs; their mean over tokens is each stream's pooled vector."""

    def __init__(self, config: MoLTSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        self.fusions = nn.ModuleDict()
        for name, stream in zip(STREAMS, (visual, audio), strict=True):
            widths = [block.width for block in stream.blocks if block.paired][-config.last :]
            self.fusions[name] = TokenFusion(config, widths, stream.width)

    def layer(self, pair: PairLayout) -> MoLTLayer | None:
        """A layer at each of the last pairs."""
        return MoLTLayer(self.config, pair) if pair.from_end <= self.config.last else None

    def finish(self, features: Features) -> Features:
        """The mean of the fused latent tokens in place of each pooled vector."""
        changed = {}
        for name in STREAMS:
            z_MnD = self.fusions[name](features.offers[f"molt.{name}"])
            pooled_BTD = z_MnD.mean(1).unflatten(0, (features.clips, features.segments))
            changed[name] = replace(features.stream(name), pooled=pooled_BTD)
        return features.with_streams(**changed)

    def losses(self, features: Features) -> dict[str, Tensor]:
        """``orthogonality``, weighted: the mean over layers and both streams, of valid clips."""
        if not self.config.orthogonality:
            return {}
        if self.config.orthogonal == "latents":
            sides: list[Any] = [side for layer in self.layers.values() for side in layer.children()]
            made = torch.stack([orthogonality(torch.stack([side.own, side.cross])) for side in sides]).mean()
        else:
            layers = [orthogonality(z) for name in STREAMS for z in features.offers[f"molt.{name}"]]
            valid_M = features.valid.repeat_interleave(features.segments, output_size=len(layers[0]))
            made = (torch.stack(layers).mean(0) * valid_M).sum() / valid_M.sum().clamp(min=1)
        return {"orthogonality": self.config.orthogonality * made}


def orthogonality(z_MnD: Tensor) -> Tensor:
    """||Z Z^T - I||_F^2 / (n (n - 1)) with rows of Z normalised, (M,): 0 where all tokens are orthogonal."""
    z_MnD = F.normalize(z_MnD, dim=-1)
    n = z_MnD.shape[1]
    off_Mnn = z_MnD @ z_MnD.mT - torch.eye(n, dtype=z_MnD.dtype, device=z_MnD.device)
    return off_Mnn.square().sum((-2, -1)) / (n * (n - 1))
