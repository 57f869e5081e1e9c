"""Maps between streams of different widths and grids, for fusions that read the other stream as their own.

The plan makes them, at the pairs of blocks where such a fusion reads and the blocks differ; all fusions of a run share
them. Shape letters: M = B*T, N tokens, D width.
"""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.injection.parts import Fusion, FusionLayer, PairLayout
from avcore.specs import BlockLayout, StreamLayout

__all__ = ["ALIGN", "Align", "AlignLayer", "on_grid_of"]

ALIGN = "align"
"""What the maps are counted and saved as; no part may have this name."""


class Align(Fusion):
    """The maps of a run, trained like a part that nobody lists.

    DG-SCT (arXiv:2311.05152) bridges widths by a linear map too; its trained map over the tokens is left out here. What
    reads the other stream by attention takes any number of tokens, and gets them as they are; what compares tokens
    place by place gets them resampled.
    """

    def __init__(
        self, visual: StreamLayout, audio: StreamLayout, *, read: Mapping[int, Collection[str]], bias: bool
    ) -> None:
        super().__init__(None, visual, audio)
        self.read = read  # by the number of the visual block: what fusions read there as their own
        self.bias = bias

    def layer(self, pair: PairLayout) -> "AlignLayer | None":
        """The maps of a pair; None where nobody reads, or the blocks are alike in what is read."""
        visual, audio, what = pair.visual, pair.audio, self.read.get(pair.visual.index, ())
        width = "width" in what and visual.width != audio.width
        places = (visual.grid, visual.prefix) != (audio.grid, audio.prefix) and {"grid", "windows"} & set(what)
        return AlignLayer(pair, width=width, bias=self.bias) if width or places else None


class AlignLayer(FusionLayer):
    """W x + b from each stream's width to the other's, initialised as `torch.nn.Linear` is; none without ``width``.

    It acts at no site: fusions reach it through their view, by `SideView.as_own`.
    """

    def __init__(self, pair: PairLayout, *, width: bool, bias: bool) -> None:
        super().__init__()
        self.blocks: Mapping[str, BlockLayout] = {"visual": pair.visual, "audio": pair.audio}
        width_v, width_a = pair.visual.width, pair.audio.width
        self.audio_to_visual = nn.Linear(width_a, width_v, bias=bias) if width else nn.Identity()
        self.visual_to_audio = nn.Linear(width_v, width_a, bias=bias) if width else nn.Identity()

    def forward(self, other_MND: Tensor, stream: str, what: Collection[str]) -> Tensor:
        """Tokens of the other stream as ``stream`` has its own.

        Args:
            other_MND: tokens of the other stream; any sequences of its width where ``what`` is the width alone.
            stream: ``visual`` or ``audio``: whose width and grid are wanted.
            what: ``width``, ``grid`` or ``windows``, or several. ``windows`` is the grid where the stream's block has
                windows, into which the caller then divides it, and nothing where it has none.
        """
        source = "audio" if stream == "visual" else "visual"
        if "width" in what:
            other_MND = (self.audio_to_visual if stream == "visual" else self.visual_to_audio)(other_MND)
        own = self.blocks[stream]
        if "grid" in what or ("windows" in what and own.window is not None):
            return on_grid_of(other_MND, self.blocks[source], own)
        return other_MND


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
