"""Step 1 of a bottleneck: tokens of the other stream brought to the number and width of its own (Duan et al. 2023).

Shape letters: M = B*T, N own tokens, D own width, K tokens and C width of the other stream.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, BlockLayout

__all__ = ["Resize", "TokensThenWidth"]


class TokensThenWidth(nn.Module):
    """y2 = (W_tok y + b_tok) W^T + b: a map over the token axis, the same for every component, then a linear map."""

    unused_in_reference = 0

    def __init__(self, own: BlockLayout, other: BlockLayout) -> None:
        super().__init__()
        self.tokens = nn.Linear(other.tokens, own.tokens)
        self.width = nn.Linear(other.width, own.width)
        # Both maps are linear and commute: the one that leaves the other less to do goes first.
        tokens_first = own.tokens * other.width * (other.tokens + own.width)
        self.width_first = other.tokens * own.width * (own.tokens + other.width) < tokens_first

    def forward(self, other_MKC: Tensor) -> Tensor:
        """(M, K, C) to (M, N, D)."""
        if not self.width_first:
            mapped_MNC = self.tokens.weight @ other_MKC + self.tokens.bias[:, None]
            return self.width(mapped_MNC)  # type: ignore[no-any-return]
        mapped_MND = self.tokens.weight @ F.linear(other_MKC, self.width.weight)
        # b_tok is the same for all C components, so the linear map makes its row sums of it.
        return mapped_MND + torch.outer(self.tokens.bias, self.width.weight.sum(1)) + self.width.bias


class Resize(nn.Module):
    """y2 = resize(W y + b): the linear map, then the token grid as a picture, bicubic to the own grid."""

    def __init__(self, own: BlockLayout, other: BlockLayout) -> None:
        super().__init__()
        if own.prefix or other.prefix:
            raise AssemblyError(
                f"parts.dgsct.align=resize resizes grids of tokens, but these streams have {other.prefix} and "
                f"{own.prefix} class tokens before their grids: use align=tokens_then_width."
            )
        self.width = nn.Linear(other.width, own.width)
        self.from_grid, self.to_grid = other.grid, own.grid
        self.unused_in_reference = math.prod(own.grid) * (math.prod(other.grid) + 1)

    def forward(self, other_MKC: Tensor) -> Tensor:
        """(M, K, C) to (M, N, D)."""
        grid_MDYX = self.width(other_MKC).mT.unflatten(2, self.from_grid)
        if grid_MDYX.is_meta:
            # There are shapes alone, and torch would work bicubic out in Python, which takes seconds for a model.
            return F.interpolate(grid_MDYX, size=self.to_grid).flatten(2).mT
        return F.interpolate(grid_MDYX, size=self.to_grid, mode="bicubic", align_corners=False).flatten(2).mT
