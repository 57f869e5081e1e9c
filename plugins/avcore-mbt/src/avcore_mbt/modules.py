"""Bottleneck fusion. Shape letters: M = B*T, N tokens, R bottleneck tokens, D width."""

import torch
from torch import Tensor, nn

from avcore import Edit, Edits, Fusion, FusionLayer, StreamLayout
from avcore.injection import PairLayout, PairView
from avcore_mbt import MBTSettings

__all__ = ["MBT", "MBTLayer"]


class MBT(Fusion):
    """Nagrani et al. 2021 (arXiv:2107.00135): from layer L_f on, streams exchange information by bottlenecks alone.

    Streams of unequal width have bottlenecks of their own width each, and meet through maps that avcore makes.
    """

    def __init__(self, config: MBTSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.last = config.last
        self.widths = [str(_first_width(stream, config.last)) for stream in (visual, audio)]
        self.start = nn.ParameterDict(
            {width: torch.randn(config.tokens, int(width)) * config.std for width in dict.fromkeys(self.widths)}
        )

    def layer(self, pair: PairLayout) -> "MBTLayer | None":
        """A layer in each of the last pairs."""
        return MBTLayer() if pair.from_end <= self.last else None


class MBTLayer(FusionLayer):
    """Eq. 8: in each stream, bottlenecks flow beside the tokens. Eq. 9: their mean enters the next pair of blocks."""

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """What the pair before made of the bottlenecks is averaged, then flows through both blocks."""
        visual, audio = at.visual.carried, at.audio.carried
        if visual is None or audio is None:
            visual, audio = (at.part.start[width] for width in at.part.widths)
        visual, audio = at.visual.lift(visual), at.audio.lift(audio)
        return Edits(
            visual=Edit(carry=(visual + at.visual.as_own(audio)) / 2),
            audio=Edit(carry=(audio + at.audio.as_own(visual)) / 2),
        )


def _first_width(stream: StreamLayout, last: int) -> int:
    """The width of a stream where the bottlenecks enter: at the first of the last pairs of blocks."""
    return [block.width for block in stream.blocks if block.paired][-last:][0]
