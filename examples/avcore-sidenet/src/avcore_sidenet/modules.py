"""The ladder and the side network.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, k width of the side network, Y and X rows and columns.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import Features, Fusion, FusionLayer, StreamFeatures, StreamLayout
from avcore.injection import PairLayout, PairView
from avcore.specs import STREAMS
from avcore_sidenet import SideSettings

__all__ = ["Rung", "SideNetwork"]

TEMPERATURE = 0.1
"""T of the gates."""


class SideNetwork(Fusion):
    """Ladder side-tuning (Sung et al. 2022, arXiv:2206.06522, section 3) with one side network for both streams.

    Frozen blocks are only read. What the side network makes of them is added to the features, where the paper predicts
    from it alone; the last map starts at zero, so that training starts at the frozen features.
    """

    def __init__(self, config: SideSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        self.streams = {"visual": visual, "audio": audio}
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.ModuleDict({name: nn.Linear(config.width, layout.width) for name, layout in self.streams.items()})
        for up in self.up.values():
            nn.init.zeros_(up.weight)  # type: ignore[arg-type]
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]

    def layer(self, pair: PairLayout) -> "Rung | None":
        """A rung at the last pair of blocks and at every so many before it."""
        return None if (pair.from_end - 1) % self.config.every else Rung(self.config, pair)

    def finish(self, features: Features) -> Features:
        """Climb the ladder, then add what stands at its top to tokens, pooled vectors and the last maps."""
        read = {name: iter(features.offers[f"sidenet.{name}"]) for name in STREAMS}
        side: dict[str, Tensor] = {}
        below: Rung | None = None
        for rung in self.layers.values():
            assert isinstance(rung, Rung)
            side = rung.climb({name: next(offered) for name, offered in read.items()}, side, below)
            below = rung
        made = {name: self._added(name, features, side[name]) for name in STREAMS}
        return features.with_streams(**made)

    def _added(self, name: str, features: Features, side_MNk: Tensor) -> StreamFeatures:
        stream, stage = features.stream(name), self.streams[name].stages[-1]
        up_MND = self.up[name](self.norm(side_MNk)).to(stream.tokens.dtype)
        pooled_BTD = up_MND.mean(1).unflatten(0, (features.clips, features.segments))
        map_MDYX = up_MND[:, stage.prefix :].transpose(1, 2).unflatten(2, stage.grid)
        return replace(
            stream,
            tokens=stream.tokens + up_MND,
            pooled=stream.pooled + pooled_BTD,
            maps=(*stream.maps[:-1], stream.maps[-1] + map_MDYX),
        )


class Rung(FusionLayer):
    """What one pair of blocks feeds into the side network, and the side block that follows."""

    def __init__(self, config: SideSettings, pair: PairLayout) -> None:
        super().__init__()
        blocks = {"visual": pair.visual, "audio": pair.audio}
        self.grids = {name: block.grid for name, block in blocks.items()}
        self.down = nn.ModuleDict({name: nn.Linear(block.width, config.width) for name, block in blocks.items()})
        self.gate = nn.ParameterDict({name: torch.zeros(()) for name in blocks})
        self.block = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.mlp_ratio * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
        """The tokens behind the pair of blocks in the width of the side network, (M, N, k) each."""
        return {"visual": self.down["visual"](visual_MND), "audio": self.down["audio"](audio_MND)}

    def climb(self, read: Mapping[str, Tensor], side: Mapping[str, Tensor], below: "Rung | None") -> dict[str, Tensor]:
        """mu * read + (1 - mu) * side with mu = sigmoid(alpha / T), then the block, over the tokens of both streams.

        Args:
            read: what `read` gave, (M, N, k) each.
            side: what came from the rung ``below``, (M, its N, k) each; nothing at the lowest.
            below: that rung.
        """
        mixed = {}
        for name, read_MNk in read.items():
            mu = torch.sigmoid(self.gate[name] / TEMPERATURE)
            mixed[name] = mu * read_MNk
            if below is not None:
                mixed[name] = mixed[name] + (1 - mu) * _onto(side[name], below.grids[name], self.grids[name])
        counts = [tokens.shape[1] for tokens in mixed.values()]
        pieces = self.block(torch.cat(list(mixed.values()), dim=1)).split(counts, dim=1)
        return dict(zip(mixed, pieces, strict=True))


def _onto(side_MNk: Tensor, before: tuple[int, int], now: tuple[int, int]) -> Tensor:
    """Side tokens on the grid of a later stage: means of the patches that are merged; what is no patch stays."""
    if before == now:
        return side_MNk
    patches = before[0] * before[1]
    first_Mnk, patches_MNk = side_MNk.split([side_MNk.shape[1] - patches, patches], dim=1)
    size = [-(-old // new) for old, new in zip(before, now, strict=True)]
    map_MkYX = F.avg_pool2d(patches_MNk.transpose(1, 2).unflatten(2, before), size, ceil_mode=True)
    return torch.cat([first_Mnk, map_MkYX.flatten(2).transpose(1, 2)], dim=1)
