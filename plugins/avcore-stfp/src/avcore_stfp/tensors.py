"""What the layers of AV-STFP share: how trained tensors start, and how they meet tokens.

Shape letters: M batch, N tokens, D width, R rows.
"""

import torch
from torch import Tensor, nn

__all__ = ["beside", "gate", "gated", "normal"]


def normal(count: int, width: int, std: float) -> nn.Parameter:
    """``count`` vectors (count, width) from a normal distribution."""
    return nn.Parameter(torch.randn(count, width) * std)


def gate(kind: str) -> nn.Parameter | None:
    """A scalar that starts at zero; None unless ``kind`` is ``zero``."""
    return nn.Parameter(torch.zeros(())) if kind == "zero" else None


def gated(factor: nn.Parameter | None, out: Tensor) -> Tensor:
    """``out``, times the gate where there is one."""
    return out if factor is None else factor * out


def beside(rows: Tensor, x_MND: Tensor) -> Tensor:
    """[rows ; x], (M, R + N, D), for rows (R, D)."""
    return torch.cat([rows.to(x_MND.dtype).expand(len(x_MND), -1, -1), x_MND], dim=1)
