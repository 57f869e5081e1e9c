"""How far two tensors are apart."""

from torch import Tensor

__all__ = ["gap"]

SMALLEST = 1e-6
"""What differences are compared with where everything is nearly zero."""


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference as a share of the largest value of ``other``."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=SMALLEST))
