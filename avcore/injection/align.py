"""``align``: linear maps between streams of different width, read by other fusions.

Shape letters: M = B*T, N tokens, D width.
"""

from torch import Tensor, nn

from avcore.builtin import AlignSettings
from avcore.injection.parts import Fusion, FusionLayer, PairLayout
from avcore.specs import StreamLayout

__all__ = ["Align", "AlignLayer"]


class Align(Fusion):
    """Two maps at every pair of blocks whose widths differ; elsewhere the other stream's tokens serve as they are.

    DG-SCT (arXiv:2311.05152) bridges widths by such a map too, after one over the tokens, which this part leaves out:
    what reads the other stream by attention takes any number of them.
    """

    def __init__(self, config: AlignSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config

    def layer(self, pair: PairLayout) -> "AlignLayer | None":
        """The maps of a pair; None where widths are equal."""
        if pair.visual.width == pair.audio.width:
            return None
        return AlignLayer(self.config, pair)


class AlignLayer(FusionLayer):
    """W x + b from each stream's width to the other's, initialised as `torch.nn.Linear` is."""

    def __init__(self, config: AlignSettings, pair: PairLayout) -> None:
        super().__init__()
        width_v, width_a = pair.visual.width, pair.audio.width
        self.audio_to_visual = nn.Linear(width_a, width_v, bias=config.bias)
        self.visual_to_audio = nn.Linear(width_v, width_a, bias=config.bias)

    def align_to_visual(self, audio_MND: Tensor) -> Tensor:
        """(M, N, D of sound) to (M, N, D of pictures)."""
        out: Tensor = self.audio_to_visual(audio_MND)
        return out

    def align_to_audio(self, visual_MND: Tensor) -> Tensor:
        """(M, N, D of pictures) to (M, N, D of sound)."""
        out: Tensor = self.visual_to_audio(visual_MND)
        return out
