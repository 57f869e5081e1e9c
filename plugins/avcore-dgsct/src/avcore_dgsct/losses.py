"""The loss of DG-SCT's event localisation.

Shape letters: B clips, T segments, K events (background is none of them).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["event_losses"]


def event_losses(
    output: Mapping[str, Tensor], labels_BT: Tensor, valid_B: Tensor, background: int
) -> dict[str, Tensor]:
    """Four terms of weight 1, over the valid clips: segments and gates against "an event here", clips against theirs.

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
    event_B = (labels_BT * here_BT).amax(1)
    terms = {}
    for name in ("is_event", "gate"):
        logits_BT = _at_least_single(output[name])
        each_BT = F.binary_cross_entropy_with_logits(logits_BT, here_BT.to(logits_BT.dtype), reduction="none")
        terms[name] = _mean(each_BT.mean(1), valid_B)
    for name in ("event", "score"):
        terms[name] = _mean(F.cross_entropy(_at_least_single(output[name]), event_B, reduction="none"), valid_B)
    return terms


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(each_B: Tensor, valid_B: Tensor) -> Tensor:
    counted_B = valid_B.to(each_B.dtype)
    return (each_B * counted_B).sum() / counted_B.sum().clamp(min=1)
