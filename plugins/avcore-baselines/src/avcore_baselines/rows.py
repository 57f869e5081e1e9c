"""VPT: rows beside the tokens (Jia et al., ECCV 2022). Letters: M = B*T, N tokens, R rows, D width."""

import math

import torch
from torch import Tensor, nn

from avcore import BlockLayout, Edit, Prompt, PromptLayer, StreamLayout
from avcore.injection import BlockView
from avcore_baselines.settings import DeepSettings, ShallowSettings

__all__ = ["DeepLayer", "Rows", "Shallow", "ShallowLayer"]


class Rows(nn.Module):
    """A set of rows, with dropout; at first uniform within +-sqrt(6 / (3 * patch^2 + D)), as in the published code."""

    def __init__(self, config: ShallowSettings, width: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (3 * config.patch**2 + width))
        self.rows = nn.Parameter(torch.empty(config.length, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_MND: Tensor) -> Tensor:
        """(R, D), common to the batch; with dropout (M, R, D), drawn anew for each picture."""
        if self.training and self.dropout.p:
            return self.dropout(self.rows.expand(len(x_MND), -1, -1))  # type: ignore[no-any-return]
        return self.rows


class Shallow(Prompt):
    """Jia et al. 2022 (arXiv:2203.12119), eq. 4: [x_1, Z_1, E_1] = L_1([x_0, P, E_0]); Z flows on to the last block."""

    def __init__(self, config: ShallowSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.prompts = Rows(config, stream.stages[0].width)

    def layer(self, block: BlockLayout) -> "ShallowLayer":
        """A layer in every block; it has no parameters of its own."""
        return ShallowLayer()


class ShallowLayer(PromptLayer):
    """Sends rows through its block: the part's in the first one, then what the block before made of them."""

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Rows flow beside the tokens, through the frozen merging layers where the width grows."""
        return Edit(carry=at.part.prompts(x_MND) if at.carried is None else at.lift(at.carried))


class DeepLayer(PromptLayer):
    """Jia et al. 2022, eq. 5: [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]), rows P of each block's own."""

    def __init__(self, config: DeepSettings, block: BlockLayout) -> None:
        super().__init__()
        self.prompts = Rows(config, block.width)
        self.row_bias = config.row_bias

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Keys and values for the tokens; what the block would make of the rows is dropped, so it is not computed."""
        return Edit(rows=self.prompts(x_MND), row_bias=self.row_bias)
