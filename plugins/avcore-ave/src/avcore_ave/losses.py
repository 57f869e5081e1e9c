"""Losses of event localisation, plain functions of tensors.

Those of ``logits`` (B, T, C) serve labels of clips too, with a clip as one segment.

Shape letters: B clips, T segments, C classes with background, K events.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from avcore.modules import at_least_single, full_precision

__all__ = ["bce_softmax", "cross_entropy", "event_losses", "soft_margin"]


def bce_softmax(logits_BTC: Tensor, labels_BT: Tensor, valid_B: Tensor) -> Tensor:
    """LAVISH: binary cross-entropy of softmax(logits) with the one-hot label, mean over all entries; a scalar.

    Args:
        logits_BTC: computed at fp32 at least.
        labels_BT: class indices.
        valid_B: clips that count; 0 when there is none.
    """
    probability = at_least_single(logits_BTC).softmax(-1)
    truth = F.one_hot(labels_BT, logits_BTC.shape[-1]).to(probability.dtype)
    # Under autocast torch refuses this loss, even at fp32.
    with full_precision(probability):
        each_BT = F.binary_cross_entropy(probability, truth, reduction="none").mean(-1)
    return _mean(each_BT, valid_B)


def cross_entropy(logits_BTC: Tensor, labels_BT: Tensor, valid_B: Tensor) -> Tensor:
    """STG-CMA: cross-entropy of the logits with the one-hot label, mean over all segments; arguments as above."""
    logits_BCT = at_least_single(logits_BTC).transpose(1, 2)
    return _mean(F.cross_entropy(logits_BCT, labels_BT, reduction="none"), valid_B)


def soft_margin(logits_BTC: Tensor, labels_BT: Tensor, valid_B: Tensor) -> Tensor:
    """AVEL, and CMBS with labels of clips: binary cross-entropy of sigmoid(softmax(logits)); arguments as above.

    The published code gives probabilities to ``MultiLabelSoftMarginLoss``, which takes logits: they are squashed twice.
    """
    probability = at_least_single(logits_BTC).softmax(-1)
    truth = F.one_hot(labels_BT, logits_BTC.shape[-1]).to(probability.dtype)
    return _mean(F.multilabel_soft_margin_loss(probability, truth, reduction="none"), valid_B)


def event_losses(
    output: Mapping[str, Tensor], labels_BT: Tensor, valid_B: Tensor, background: int
) -> dict[str, Tensor]:
    """CMBS and DG-SCT: four terms of weight 1. Segments and gates against "an event here", clips against theirs.

    A clip's event is the one of its segments. Two peculiarities are the published code's: the gate, already a
    probability, passes a sigmoid again, and a clip of nothing but background counts as event 0.

    Args:
        output: ``is_event`` and ``gate`` (B, T), ``event`` and ``score`` (B, K), computed at fp32 at least.
        labels_BT: class indices.
        valid_B: clips that count; 0 when there is none.
        background: the class index of background.

    Returns:
        Scalars ``is_event``, ``gate``, ``event`` and ``score``.
    """
    here_BT = labels_BT != background
    event_B1 = (labels_BT * here_BT).amax(1, keepdim=True)
    terms = {}
    for name in ("is_event", "gate"):
        logits_BT = at_least_single(output[name])
        each_BT = F.binary_cross_entropy_with_logits(logits_BT, here_BT.to(logits_BT.dtype), reduction="none")
        terms[name] = _mean(each_BT, valid_B)
    for name in ("event", "score"):
        terms[name] = cross_entropy(output[name][:, None], event_B1, valid_B)
    return terms


def _mean(each_BT: Tensor, valid_B: Tensor) -> Tensor:
    counted_BT = valid_B.to(each_BT.dtype)[:, None].expand_as(each_BT)
    return (each_BT * counted_BT).sum() / counted_BT.sum().clamp(min=1)
