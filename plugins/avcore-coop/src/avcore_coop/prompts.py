"""MaPLe's prompts (Khattak et al., arXiv:2210.03117).

Shape letters: M = B*T, N tokens, D width of a stream.
"""

import torch
from torch import Tensor, nn

from avcore import Edit, Prompt, PromptLayer
from avcore.injection import BlockView
from avcore.specs import BlockLayout, StreamLayout
from avcore_coop.settings import MapleSettings

__all__ = ["Maple", "MapleLayer"]


class Maple(Prompt):
    """In each of the first blocks n prompts of sentences and a linear map of them to rows of this stream.

    The rows flow on through attention and MLP, and are replaced in the next block that has its own. What sentences get
    is offered, as ``words`` of each block, to a head that reads them.
    """

    def __init__(self, config: MapleSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config

    def layer(self, block: BlockLayout) -> "MapleLayer":
        """A layer in every block."""
        return MapleLayer(self.config, block)


class MapleLayer(PromptLayer):
    """The prompts of one block; behind the last that has its own, what passes them on."""

    def __init__(self, config: MapleSettings, block: BlockLayout) -> None:
        super().__init__()
        own = block.index < config.depth
        self.words = nn.Parameter(torch.randn(config.tokens, config.words_width) * config.std) if own else None
        self.map = nn.Linear(config.words_width, block.width) if own else None

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Rows beside the tokens, keys, values and queries."""
        if self.words is None or self.map is None:
            return Edit(carry=None if at.carried is None else at.lift(at.carried))
        # A tensor of this forward, not the parameter itself.
        return Edit(carry=self.map(self.words), offer={"words": self.words.to(x_MND.dtype, copy=True)})
