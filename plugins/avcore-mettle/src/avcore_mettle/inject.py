"""``mettle.inject``: our reading of Mettle's meta-token injection (arXiv:2506.23271).

Injection is into the maps that the blocks have left, not into the blocks: those of earlier stages would need the last
one's tokens first. Shape letters: M = B*T, K meta-tokens, D width of a map, Y and X its rows and columns, P = Y*X.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Features, Fusion, StreamLayout
from avcore_mettle.settings import InjectSettings

__all__ = ["Inject", "Injection"]


class Injection(nn.Module):
    """f + g Up(GELU(Down(softmax(f s^T / sqrt(D)) s))) with s the tokens of both streams in the map's width; g = 0."""

    def __init__(self, config: InjectSettings, width: int, visual_width: int, audio_width: int) -> None:
        super().__init__()
        inner = max(1, width // config.reduction)
        self.from_visual = nn.Linear(visual_width, width)
        self.from_audio = nn.Linear(audio_width, width)
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.scale = 1 / math.sqrt(width)

    def forward(self, map_MDYX: Tensor, visual_MKD: Tensor, audio_MKD: Tensor) -> Tensor:
        """A map, changed."""
        s_MKD = torch.cat([self.from_visual(visual_MKD), self.from_audio(audio_MKD)], dim=1)
        f_MPD = map_MDYX.flatten(2).mT
        read_MPD = F.scaled_dot_product_attention(f_MPD, s_MKD, s_MKD, scale=self.scale)
        made_MPD: Tensor = f_MPD + self.gate * self.up(F.gelu(self.down(read_MPD)))
        return made_MPD.mT.reshape(map_MDYX.shape)


class Inject(Fusion):
    """The meta-tokens of the last blocks of both streams guide every map of pictures.

    Raises:
        AssemblyError: ``mettle.distill``, whose tokens they are, is not there.
    """

    def __init__(self, config: InjectSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.injections = nn.ModuleList(
            Injection(config, stage.width, visual.width, audio.width) for stage in visual.tapped
        )

    def finish(self, features: Features) -> Features:
        """Change the maps of pictures."""
        offered = [features.offers.get(f"mettle.distill.{stream}.tokens") for stream in ("visual", "audio")]
        if not all(offered):
            raise AssemblyError(
                "Fusion 'mettle.inject' reads the tokens of prompt 'mettle.distill' on both streams: list it too "
                "(--prompts mettle.distill), or leave the fusion out."
            )
        tokens = [one[-1] for one in offered if one]
        stream = features.stream("visual")
        pairs = zip(self.injections, stream.maps, strict=True)
        maps = tuple(inject(one, *tokens).to(one.dtype) for inject, one in pairs)
        return features.with_streams(visual=replace(stream, maps=maps))
