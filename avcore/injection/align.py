"""``align``: maps between streams of different widths and grids, read by other fusions.

Shape letters: M = B*T, N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.builtin import AlignSettings
from avcore.injection.parts import Fusion, FusionLayer, PairLayout
from avcore.specs import BlockLayout, StreamLayout

__all__ = ["Align", "AlignLayer", "on_grid_of"]


class Align(Fusion):
    """Two maps at every pair of blocks that is read through them and whose widths or grids differ.

    DG-SCT (arXiv:2311.05152) bridges widths by a linear map too; its trained map over the tokens is left out here. What
    reads the other stream by attention takes any number of tokens, and gets them as they are; what compares tokens
    place by place gets them resampled.
    """

    def __init__(self, config: AlignSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config

    def layer(self, pair: PairLayout) -> "AlignLayer | None":
        """The maps of a pair; None where the blocks are alike."""
        alike = (pair.visual.width, pair.visual.grid, pair.visual.prefix) == (
            pair.audio.width,
            pair.audio.grid,
            pair.audio.prefix,
        )
        return None if alike else AlignLayer(self.config, pair)


class AlignLayer(FusionLayer):
    """W x + b from each stream's width to the other's, initialised as `torch.nn.Linear` is; equal widths need none."""

    def __init__(self, config: AlignSettings, pair: PairLayout) -> None:
        super().__init__()
        self.visual, self.audio = pair.visual, pair.audio
        width_v, width_a = pair.visual.width, pair.audio.width
        equal = width_v == width_a
        self.audio_to_visual = nn.Identity() if equal else nn.Linear(width_a, width_v, bias=config.bias)
        self.visual_to_audio = nn.Identity() if equal else nn.Linear(width_v, width_a, bias=config.bias)

    def align_to_visual(self, audio_MND: Tensor, *, on_grid: bool = False) -> Tensor:
        """(M, N, D of sound) to (M, N, D of pictures)."""
        out: Tensor = self.audio_to_visual(audio_MND)
        return on_grid_of(out, self.audio, self.visual) if on_grid else out

    def align_to_audio(self, visual_MND: Tensor, *, on_grid: bool = False) -> Tensor:
        """(M, N, D of pictures) to (M, N, D of sound)."""
        out: Tensor = self.visual_to_audio(visual_MND)
        return on_grid_of(out, self.visual, self.audio) if on_grid else out


def on_grid_of(x_MND: Tensor, source: BlockLayout, target: BlockLayout) -> Tensor:
    """Tokens of one block where those of another lie: patches bilinearly resampled, prefix tokens kept.

    Prefix tokens that ``target`` has and ``source`` lacks are the mean of the patches.

    Args:
        x_MND: the tokens of ``source``, of any width.
        source, target: the blocks.

    Returns:
        (M, N of ``target``, D).
    """
    prefix, patches = x_MND[:, : source.prefix], x_MND[:, source.prefix :]
    if source.grid != target.grid:
        picture_MDYX = patches.mT.unflatten(-1, source.grid)
        patches = F.interpolate(picture_MDYX, target.grid, mode="bilinear", align_corners=False).flatten(2).mT
    lacking = patches.mean(1, keepdim=True).expand(-1, max(0, target.prefix - source.prefix), -1)
    return torch.cat([prefix[:, : target.prefix], lacking, patches], dim=1)
