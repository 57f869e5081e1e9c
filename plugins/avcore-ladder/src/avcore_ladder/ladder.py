"""``ladder.side`` and ``ladder.alone``: Ladder Side-Tuning of both streams, or of one (Sung et al., NeurIPS 2022).

In the blocks everything is read and reduced; the side network runs behind the last block, in ``finish``. What is read
is detached, so that no gradient enters a backbone and no block keeps anything for one. Shape letters: M = B*T,
N tokens, D width, w width of the side network.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from avcore import BlockLayout, Features, Fusion, FusionLayer, Prompt, PromptLayer, StreamLayout
from avcore.injection import BlockView, PairLayout, PairView, Recomputed
from avcore.specs import STREAMS
from avcore_ladder.settings import AloneSettings, SideSettings
from avcore_ladder.side import Exchange, Rung, WayBack, taken

__all__ = ["Alone", "AloneLayer", "Side", "SideLayer"]


class SideLayer(FusionLayer):
    """The rungs of both streams at one pair of blocks.

    Args:
        config: of the part.
        pair: the blocks.
        before: by stream, the block that the rung below reads; none for the first pair.
    """

    def __init__(self, config: SideSettings, pair: PairLayout, before: Mapping[str, BlockLayout]) -> None:
        super().__init__()
        blocks = {"visual": pair.visual, "audio": pair.audio}
        self.rungs = nn.ModuleDict({name: Rung(config, block, before.get(name)) for name, block in blocks.items()})
        self.exchange = nn.ModuleDict()
        if config.cells:
            self.exchange["visual"] = Exchange(config, pair.visual, pair.audio, config.cells)
            self.exchange["audio"] = Exchange(config, pair.audio, pair.visual, config.cells)

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
        """The tokens of both streams, reduced: ``visual`` and ``audio``, (M, N, w)."""
        reads = dict(zip(STREAMS, (visual_MND, audio_MND), strict=True))
        return {name: self.rungs[name].down(x_MND) for name, x_MND in reads.items()}  # type: ignore[operator]

    def climb(
        self, visual: Tensor, audio: Tensor, below_visual: Tensor | None, below_audio: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """From what was read here and the tokens of the rungs below to those of these rungs, (M, N, w)."""
        rungs: Any = self.rungs
        s = {"visual": rungs["visual"].mix(visual, below_visual), "audio": rungs["audio"].mix(audio, below_audio)}
        if self.exchange:
            # Both read what the other one was before.
            heard = self.exchange["visual"](s["visual"], s["audio"])
            seen = self.exchange["audio"](s["audio"], s["visual"])
            s = {"visual": s["visual"] + heard, "audio": s["audio"] + seen}
        return rungs["visual"].block(s["visual"]), rungs["audio"].block(s["audio"])


class Side(Fusion):
    """Two ladders, one beside each stream, which read each other at every rung.

    LST's equation is `Rung`. Beyond the paper: the exchange; rungs stand where blocks of both streams run
    together; what the side network makes is added to the frozen features instead of taking their place, zero at first;
    and the side network starts at random, since layers see layouts and no weights that could be pruned.
    """

    def __init__(self, config: SideSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        layouts = {"visual": visual, "audio": audio}
        self.read_blocks = {
            name: taken([layout.blocks[index] for index in sorted(layout.paired)], config.every)
            for name, layout in layouts.items()
        }
        self.back = nn.ModuleDict(
            {name: WayBack(config, layout, self.read_blocks[name]) for name, layout in layouts.items()}
        )

    def layer(self, pair: PairLayout) -> SideLayer | None:
        """See `Fusion.layer`."""
        if pair.visual not in self.read_blocks["visual"]:
            return None
        place = self.read_blocks["visual"].index(pair.visual)
        return SideLayer(self.config, pair, {n: read[place - 1] for n, read in self.read_blocks.items() if place})

    def finish(self, features: Features) -> Features:
        """Climb both ladders, then add what stands on their rungs to the features."""
        states: dict[str, list[Tensor]] = {"visual": [], "audio": []}
        visual = audio = None
        offered = (features.offers[f"ladder.side.{name}"] for name in STREAMS)
        for layer, read_visual, read_audio in zip(self.layers.values(), *offered, strict=True):
            visual, audio = kept_less(self, layer, read_visual, read_audio, visual, audio)
            states["visual"].append(visual)
            states["audio"].append(audio)
        made = {n: self.back[n](features.stream(n), states[n], features.segments) for n in STREAMS}
        return features.with_streams(**made)


class AloneLayer(PromptLayer):
    """A rung of one stream."""

    def __init__(self, config: AloneSettings, block: BlockLayout, before: BlockLayout | None) -> None:
        super().__init__()
        self.rung = Rung(config, block, before)

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        """The tokens, reduced: ``tokens``, (M, N, w)."""
        return {"tokens": self.rung.down(x_MND)}

    def climb(self, read_MNw: Tensor, below_MNw: Tensor | None) -> Tensor:
        """From what was read here and the tokens of the rung below to those of this rung."""
        out: Tensor = self.rung.block(self.rung.mix(read_MNw, below_MNw))
        return out


class Alone(Prompt):
    """The ladder of one stream, which reads no other: for one stream, or as an ablation."""

    def __init__(self, config: AloneSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config
        self.stream = stream.name
        self.read_blocks = taken(stream.blocks, config.every)
        self.back = WayBack(config, stream, self.read_blocks)

    def layer(self, block: BlockLayout) -> AloneLayer | None:
        """See `Prompt.layer`."""
        if block not in self.read_blocks:
            return None
        place = self.read_blocks.index(block)
        return AloneLayer(self.config, block, self.read_blocks[place - 1] if place else None)

    def finish(self, features: Features) -> Features:
        """Climb the ladder, then add what stands on its rungs to the features."""
        states: list[Tensor] = []
        offered = features.offers[f"ladder.alone.{self.stream}.tokens"]
        for layer, read_MNw in zip(self.layers.values(), offered, strict=True):
            states.append(kept_less(self, layer, read_MNw, states[-1] if states else None))
        made = self.back(features.stream(self.stream), states, features.segments)
        return features.with_streams(**{self.stream: made})


def kept_less(part: Any, layer: Any, *given: Tensor | None) -> Any:
    """Climb a rung; where the part recomputes, its inputs alone are kept for the backward pass."""
    return Recomputed(layer.modules())(layer.climb, *given) if part.config.recompute else layer.climb(*given)
