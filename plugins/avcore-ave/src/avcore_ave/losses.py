"""Losses of event localisation. Plain functions of tensors; `LinearHead.loss` calls them.

Shape letters: B clips, T segments, C classes with background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.modules import full_precision

__all__ = ["bce_softmax", "cross_entropy"]


def bce_softmax(logits_BTC: Tensor, labels_BT: Tensor, valid_B: Tensor) -> Tensor:
    """LAVISH: binary cross-entropy of softmax(logits) with the one-hot label, mean over all entries; a scalar.

    Args:
        logits_BTC: computed at fp32 at least.
        labels_BT: class indices.
        valid_B: clips that count; 0 when there is none.
    """
    probability = logits_BTC.to(torch.promote_types(logits_BTC.dtype, torch.float32)).softmax(-1)
    truth = F.one_hot(labels_BT, logits_BTC.shape[-1]).to(probability.dtype)
    # Under autocast torch refuses this loss, even at fp32.
    with full_precision(probability):
        each_BT = F.binary_cross_entropy(probability, truth, reduction="none").mean(-1)
    return _mean(each_BT, valid_B)


def cross_entropy(logits_BTC: Tensor, labels_BT: Tensor, valid_B: Tensor) -> Tensor:
    """STG-CMA: cross-entropy of the logits with the one-hot label, mean over all segments; arguments as above."""
    logits_BTC = logits_BTC.to(torch.promote_types(logits_BTC.dtype, torch.float32))
    return _mean(F.cross_entropy(logits_BTC.transpose(1, 2), labels_BT, reduction="none"), valid_B)


def _mean(each_BT: Tensor, valid_B: Tensor) -> Tensor:
    counted_BT = valid_B.to(each_BT.dtype)[:, None].expand_as(each_BT)
    return (each_BT * counted_BT).sum() / counted_BT.sum().clamp(min=1)
