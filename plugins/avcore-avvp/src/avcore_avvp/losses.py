"""Losses of video parsing from labels of clips, plain functions of tensors.

Shape letters: B clips, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.modules import at_least_single, full_precision

__all__ = ["class_token_loss", "clip_loss", "smoothed"]

MARGIN = 1e-7
"""Probabilities are kept so far from 0 and 1."""


def smoothed(labels_BC: Tensor, validity: float) -> Tensor:
    """Labels of one modality, from those of the clip: v y + (1 - v) / 2, a class may be in the other modality alone."""
    return validity * labels_BC + (1 - validity) / 2


def clip_loss(probability_BC: Tensor, labels_BC: Tensor, valid_B: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the classes of valid clips; 0 when there is none.

    HAN's probabilities of clips can exceed 1, hence the clamp.

    Args:
        probability_BC: taken at fp32 at least.
        labels_BC: 0 to 1.
        valid_B: clips that count.
    """
    probability = at_least_single(probability_BC)
    clamped = probability.clamp(MARGIN, 1 - MARGIN)
    # Under autocast torch refuses this loss, even at fp32.
    with full_precision(clamped):
        each_BC = F.binary_cross_entropy(clamped, labels_BC.to(clamped.dtype), reduction="none")
    counted_BC = valid_B.to(each_BC.dtype)[:, None].expand_as(each_BC)
    return (each_BC * counted_BC).sum() / counted_BC.sum().clamp(min=1)


def class_token_loss(logits_CC: Tensor) -> Tensor:
    """MGN: cross-entropy of what each class's token is taken for; a scalar."""
    logits = at_least_single(logits_CC)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
