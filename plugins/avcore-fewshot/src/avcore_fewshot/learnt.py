"""What methods put on words and vectors that are compared: CoOp's context of sentences, CLIP-Adapter's bottleneck.

Shape letters: M sentences, N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Prompt, StreamLayout
from avcore.injection import StreamView
from avcore_fewshot.config import ContextSettings

__all__ = ["Adapter", "Context"]

LEAD = 1
"""Ids before the first word of a sentence."""


class Context(Prompt):
    """CoOp's context (arXiv:2109.01134): vectors of width D, added to the first words of every sentence.

    The class stands behind them, which CoOp calls its end, and all classes share them. They are zero at first, so that
    training starts at the sentence itself.

    Raises:
        AssemblyError: there are more vectors than places.
    """

    def __init__(self, config: ContextSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        stage = stream.stages[0]
        if LEAD + config.tokens > stage.tokens:
            raise AssemblyError(
                f"A context has {config.tokens} vectors for {stage.tokens} tokens of {stream.name}, {LEAD} of them "
                "before the first word: set fewer with parts.NAME.tokens, and parts.NAME.streams=text for sentences."
            )
        self.vectors = nn.Parameter(torch.zeros(config.tokens, stage.width))

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """What is added, (N, D)."""
        return F.pad(self.vectors, (0, 0, LEAD, x_MND.shape[1] - LEAD - len(self.vectors)))


class Adapter(nn.Module):
    """CLIP-Adapter (arXiv:2110.04544): ratio * ReLU(W2 ReLU(W1 x)) + (1 - ratio) * x, without biases.

    Args:
        width: D.
        reduction: W1 maps to D / reduction.
        ratio: of what the maps make.
    """

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.down, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., D) to such."""
        return self.ratio * F.relu(self.up(F.relu(self.down(x)))) + (1 - self.ratio) * x
