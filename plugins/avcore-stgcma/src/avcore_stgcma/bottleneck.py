"""The bottleneck that all of STG-CMA is made of. Shape letters: M = B*T, N tokens, D width, K hidden width."""

import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError

__all__ = ["Bottleneck"]


class Bottleneck(nn.Module):
    """E(x) = Up(GELU(Down x)); zero at first, because Up starts at zero.

    Args:
        width: D.
        ratio: K is the whole part of D * ratio.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        if hidden == 0:
            raise AssemblyError(f"A bottleneck of ratio={ratio} has no hidden unit at width {width}: raise the ratio.")
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def hidden(self, x_MND: Tensor) -> Tensor:
        """GELU(Down x), (M, N, K)."""
        return F.gelu(self.down(x_MND))

    def forward(self, x_MND: Tensor) -> Tensor:
        """(M, N, D) to (M, N, D)."""
        out: Tensor = self.up(self.hidden(x_MND))
        return out
