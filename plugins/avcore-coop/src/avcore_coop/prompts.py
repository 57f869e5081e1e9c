"""CoOp's context (Zhou et al., arXiv:2109.01134) and MaPLe's prompts (Khattak et al., arXiv:2210.03117).

Shape letters: M = B*T, N tokens, D width of a stream, W width of words, n prompts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import Edit, Prompt, PromptLayer
from avcore.errors import AssemblyError
from avcore.injection import BlockView, StreamView
from avcore.specs import BlockLayout, StreamLayout
from avcore_coop.settings import ContextSettings, MapleSettings

__all__ = ["LEAD", "Context", "Maple", "MapleLayer"]

LEAD = 1
"""Ids before the first word of a sentence."""


class Context(Prompt):
    """n vectors of width W, added to the first words of every sentence: the context that all classes share."""

    def __init__(self, config: ContextSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        stage = stream.stages[0]
        if LEAD + config.tokens > stage.tokens:
            raise AssemblyError(
                f"Part 'coop' has {config.tokens} vectors for {stage.tokens} tokens of {stream.name}: set "
                "parts.coop.tokens to fewer, and parts.coop.streams=text for sentences."
            )
        self.vectors = nn.Parameter(torch.randn(config.tokens, stage.width) * config.std)

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """What is added, (N, D)."""
        return F.pad(self.vectors, (0, 0, LEAD, x_MND.shape[1] - LEAD - len(self.vectors)))


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
