"""What parts and heads of several plugins are made of, for their authors.

Shape letters: M = B*T, N tokens, D width, n latent tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GroupedLinear", "TokenBatchNorm", "at_least_single", "full_precision", "plain_attention"]


def at_least_single(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: for losses and probabilities."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast on the device of a tensor, on the meta device neither.

    For what must not be rounded to half precision, such as a loss on probabilities or a recurrent network.
    """
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def plain_attention(queries: Tensor, x_MND: Tensor) -> Tensor:
    """softmax(q x^T) x: neither projections nor scaling, as latent tokens read a stream in LAVISH and DG-SCT.

    Args:
        queries: (n, D) or (M, n, D).
        x_MND: keys and values at once.

    Returns:
        (M, n, D).
    """
    return torch.softmax(queries @ x_MND.mT, dim=-1) @ x_MND


class GroupedLinear(nn.Module):
    """A 1x1 convolution in groups, without bias: each group of inputs makes its own group of outputs."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width_out, width_in // groups))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) to (..., width_out)."""
        groups = zip(x.chunk(self.groups, dim=-1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([F.linear(part, weight) for part, weight in groups], dim=-1)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each component over all tokens of the batch."""

    def forward(self, x_MND: Tensor) -> Tensor:
        """(M, N, D) to (M, N, D)."""
        # As a matrix: on the CPU, torch's gradient is wrong for some layouts of tensors with more axes.
        return super().forward(x_MND.flatten(0, 1)).view_as(x_MND)
