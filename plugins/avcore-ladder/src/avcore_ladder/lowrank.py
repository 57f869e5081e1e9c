"""``dtl.side`` and ``dtl.alone``: DTL's compact side network, ended at the features (Fu et al., AAAI 2024).

As in `avcore_ladder.ladder`, the blocks are read and nothing enters them. Shape letters: M = B*T, N tokens, D width of
the features, r rank, Y and X rows and columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avcore import BlockLayout, Features, Fusion, FusionLayer, Prompt, PromptLayer, StreamFeatures, StreamLayout
from avcore.injection import BlockView, PairLayout, PairView
from avcore.specs import STREAMS
from avcore_ladder.settings import LowRankSettings, LowRankSideSettings
from avcore_ladder.side import last_stage, means, taken, with_added, zero

__all__ = ["AloneLayer", "LowRank", "LowRankAlone", "LowRankSide", "Residual", "SideLayer"]


class LowRank(nn.Module):
    """The pair of maps of one block: the code c = h W_down, and what a code adds to the residual, c W_up.

    ``up`` goes to the features. Where a map before the last is to change, in a stage whose width or grid are not those
    of the features, ``own`` goes to it.
    """

    average: Tensor | None

    def __init__(self, settings: LowRankSettings, stream: StreamLayout, block: BlockLayout) -> None:
        super().__init__()
        last = stream.blocks[-1]
        self.down = nn.Linear(block.width, settings.rank, bias=False)
        self.up = zero(nn.Linear(settings.rank, last.width, bias=False))
        self.own: nn.Linear | None = None
        ahead = [tap for tap in taps_to_change(settings, stream) if stream.blocks[tap].stage == block.stage]
        if block.stage != last.stage and any(block.index <= tap for tap in ahead):
            self.own = zero(nn.Linear(settings.rank, block.width, bias=False))
        moved = (block.grid, block.prefix) != (last.grid, last.prefix)
        self.register_buffer("average", means(block, last.grid) if moved else None, persistent=False)

    def to_features(self, code_MNr: Tensor) -> Tensor:
        """What a code adds to the residual at the features' grid, (M, N, D)."""
        if self.average is not None:
            code_MNr = self.average.to(code_MNr.dtype) @ code_MNr
        out: Tensor = self.up(code_MNr)
        return out

    def to_own(self, code_MNr: Tensor) -> Tensor:
        """What a code adds to the residual of the block's own stage."""
        out: Tensor = (self.up if self.own is None else self.own)(code_MNr)
        return out


def taps_to_change(settings: LowRankSettings, stream: StreamLayout) -> tuple[int, ...]:
    """The blocks behind which stand the maps before the last that change."""
    if settings.maps not in ("both", stream.name):
        return ()
    return stream.taps[:-1] if stream.taps[-1] == stream.depth - 1 else stream.taps


class Residual(nn.Module):
    """h_i = h_{i-1} + c_i W_up,i, and swish_beta(h) of the last one added to the features.

    With ``conv`` as in DTL+: a convolution of each component by itself over the patches, one for all blocks, behind the
    swish.

    Args:
        settings: of the part.
        stream: the layout of the backbone.
        read: the blocks that are read, in their order.
    """

    def __init__(self, settings: LowRankSettings, stream: StreamLayout, read: Sequence[BlockLayout]) -> None:
        super().__init__()
        last = last_stage(stream, read)
        self.beta, self.pool, self.prefix, self.grid = settings.beta, stream.pool, last.prefix, last.grid
        self.ends = stream.taps[-1] == stream.depth - 1
        self.conv: nn.Conv2d | None = None
        if settings.conv:
            width, side = last.width, settings.conv
            self.conv = nn.Conv2d(width, width, side, padding=side // 2, groups=width, bias=False)
        # Of each map that changes, the blocks whose codes it takes.
        self.maps: dict[int, list[int]] = {}
        for number, tap in enumerate(taps_to_change(settings, stream)):
            stage = stream.blocks[tap].stage
            places = [place for place, block in enumerate(read) if block.index <= tap and block.stage == stage]
            if places:
                self.maps[number] = places

    def forward(
        self, stream: StreamFeatures, maps: Sequence[LowRank], codes: Sequence[Tensor], segments: int
    ) -> StreamFeatures:
        """The features of a stream, changed by the codes of its blocks, (M, N, r) each."""
        pairs = list(zip(maps, codes, strict=True))
        add_MND = self._swish(_sum([one.to_features(code) for one, code in pairs]))
        if self.conv is not None:
            patches = add_MND[:, self.prefix :].mT.unflatten(2, self.grid)
            add_MND = torch.cat([add_MND[:, : self.prefix], self.conv(patches).flatten(2).mT], dim=1)
        changed = list(stream.maps)
        for number, places in self.maps.items():
            made = self._swish(_sum([pairs[place][0].to_own(pairs[place][1]) for place in places]))
            yx = changed[number].shape[2:]
            changed[number] = changed[number] + made[:, self.prefix :].mT.unflatten(2, yx).to(changed[number].dtype)
        return with_added(replace(stream, maps=tuple(changed)), add_MND, self.pool, self.prefix, self.ends, segments)

    def _swish(self, h_MND: Tensor) -> Tensor:
        return h_MND * torch.sigmoid(self.beta * h_MND)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return sum(tensors[1:], start=tensors[0])


class SideLayer(FusionLayer):
    """The maps of both streams at one pair of blocks; ``hear`` brings the mean code of the other stream into each.

    Args:
        config: of the part.
        layouts: of both streams.
        pair: the blocks.
    """

    def __init__(self, config: LowRankSideSettings, layouts: Mapping[str, StreamLayout], pair: PairLayout) -> None:
        super().__init__()
        blocks = {"visual": pair.visual, "audio": pair.audio}
        self.maps = nn.ModuleDict({name: LowRank(config, layouts[name], block) for name, block in blocks.items()})
        self.hear = nn.ModuleDict()
        if config.exchange:
            self.hear.update({name: nn.Linear(config.rank, config.rank, bias=False) for name in STREAMS})

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
        """The codes of both streams, each with what it hears of the other: (M, N, r)."""
        maps: Any = self.maps
        codes = {"visual": maps["visual"].down(visual_MND), "audio": maps["audio"].down(audio_MND)}
        if self.hear:
            heard = self.hear["visual"](codes["audio"].mean(1, keepdim=True))
            seen = self.hear["audio"](codes["visual"].mean(1, keepdim=True))
            codes = {"visual": codes["visual"] + heard, "audio": codes["audio"] + seen}
        return codes


class LowRankSide(Fusion):
    """DTL beside both streams.

    The residual, the swish and the convolution are the paper's. Beyond it: what is made is added to the features and
    not to the late blocks, so that no gradient enters one; blocks are read behind instead of before; the streams hear
    of each other; where grid or width change, codes go to the features by the means of their cells.
    """

    def __init__(self, config: LowRankSideSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        self.layouts = {"visual": visual, "audio": audio}
        self.read_blocks = {
            name: taken([layout.blocks[index] for index in sorted(layout.paired)], config.every)
            for name, layout in self.layouts.items()
        }
        self.residual = nn.ModuleDict(
            {name: Residual(config, layout, self.read_blocks[name]) for name, layout in self.layouts.items()}
        )

    def layer(self, pair: PairLayout) -> SideLayer | None:
        """See `Fusion.layer`."""
        return SideLayer(self.config, self.layouts, pair) if pair.visual in self.read_blocks["visual"] else None

    def finish(self, features: Features) -> Features:
        """Add up the codes of both streams, then change the features by them."""
        layers: list[Any] = list(self.layers.values())
        made = {}
        for name in STREAMS:
            maps, codes = [layer.maps[name] for layer in layers], features.offers[f"dtl.side.{name}"]
            made[name] = self.residual[name](features.stream(name), maps, codes, features.segments)
        return features.with_streams(**made)


class AloneLayer(PromptLayer):
    """The maps of one stream at one block."""

    def __init__(self, config: LowRankSettings, stream: StreamLayout, block: BlockLayout) -> None:
        super().__init__()
        self.maps = LowRank(config, stream, block)

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        """The code: (M, N, r)."""
        return {"code": self.maps.down(x_MND)}


class LowRankAlone(Prompt):
    """DTL beside one stream, which hears of no other."""

    def __init__(self, config: LowRankSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config, self.stream = config, stream
        self.read_blocks = taken(stream.blocks, config.every)
        self.residual = Residual(config, stream, self.read_blocks)

    def layer(self, block: BlockLayout) -> AloneLayer | None:
        """See `Prompt.layer`."""
        return AloneLayer(self.config, self.stream, block) if block in self.read_blocks else None

    def finish(self, features: Features) -> Features:
        """Add up the codes, then change the features by them."""
        name = self.stream.name
        layers: list[Any] = list(self.layers.values())
        codes = features.offers[f"dtl.alone.{name}.code"]
        made = self.residual(features.stream(name), [layer.maps for layer in layers], codes, features.segments)
        return features.with_streams(**{name: made})
