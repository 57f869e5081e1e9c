"""Losses of question answering, plain functions of tensors.

Shape letters: B clips, T segments, M = B*T, C answers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.modules import at_least_single

__all__ = ["answer_loss", "match_loss"]


def answer_loss(logits_BC: Tensor, answer_B: Tensor, valid_B: Tensor) -> Tensor:
    """Cross-entropy with the right answer, mean over valid clips; 0 when there is none."""
    return _mean(F.cross_entropy(at_least_single(logits_BC), answer_B, reduction="none"), valid_B)


def match_loss(own_M2: Tensor, negative_M2: Tensor, valid_M: Tensor) -> Tensor:
    """Cross-entropy of whether sound and picture are of one clip: index 1 for the own pictures, 0 for the others."""
    own_M = F.cross_entropy(at_least_single(own_M2), valid_M.new_ones(len(own_M2), dtype=torch.int64), reduction="none")
    other_M = F.cross_entropy(
        at_least_single(negative_M2), valid_M.new_zeros(len(negative_M2), dtype=torch.int64), reduction="none"
    )
    return _mean(torch.cat([own_M, other_M]), torch.cat([valid_M, valid_M]))


def _mean(each: Tensor, valid: Tensor) -> Tensor:
    counted = valid.to(each.dtype)
    return (each * counted).sum() / counted.sum().clamp(min=1)
