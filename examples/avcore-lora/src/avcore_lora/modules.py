"""The increments of one block. Shape letters: N tokens, D width, r rank; leading axes are free."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout, PromptLayer
from avcore_lora import LoRASettings

__all__ = ["LoRALayer"]


class LoRALayer(PromptLayer):
    """Hu et al. 2021 (arXiv:2106.09685), eq. 3: h = W_0 x + (alpha / r) B A x, with A random and B zero at first."""

    def __init__(self, config: LoRASettings, block: BlockLayout) -> None:
        super().__init__()
        rank, width = config.rank, block.width
        self.scale = config.alpha / rank
        self.dropout = nn.Dropout(config.dropout)
        self.A = nn.ParameterDict({name: torch.randn(rank, width) * width**-0.5 for name in config.targets})
        self.B = nn.ParameterDict({name: torch.zeros(width, rank) for name in config.targets})

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        """What is added to the output of the frozen map ``qkv``, (..., 3 D), or ``proj``, (..., D)."""
        found = {target: self._increment(target, x) for target in _MADE_OF.get(name, ()) if target in self.A}
        if not found:
            return None
        nothing = torch.zeros_like(next(iter(found.values())))
        return torch.cat([found.get(target, nothing) for target in _MADE_OF[name]], dim=-1)

    def weight(self, target: str) -> Tensor:
        """(alpha / r) B A, (D, D): what a merged weight of ``q``, ``k``, ``v`` or ``proj`` has more than the frozen."""
        return self.scale * torch.matmul(self.B[target], self.A[target])

    def _increment(self, target: str, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.dropout(x), self.A[target]), self.B[target])


_MADE_OF = {"qkv": ("q", "k", "v"), "proj": ("proj",)}
"""The targets that a frozen map of the contract consists of."""
