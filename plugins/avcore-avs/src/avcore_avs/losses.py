"""Losses of AVSBench. Plain functions of tensors; `AVSHead.loss` calls them.

Shape letters: B clips, T frames, M = B*T, C channels, Y and X rows and columns.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.modules import at_least_single

__all__ = ["frame_weights", "mask_bce", "matching"]


def frame_weights(labelled_BT: Tensor, valid_B: Tensor, supervised_frames: str) -> Tensor:
    """Frames that enter the loss, (B, T) bool: labelled ones of valid clips; with ``first``, only frame 0 of each."""
    weights_BT = labelled_BT & valid_B[:, None]
    if supervised_frames == "first":
        return weights_BT & (torch.arange(labelled_BT.shape[1], device=labelled_BT.device) == 0)
    return weights_BT


def mask_bce(logits_BTYX: Tensor, masks_BTYX: Tensor, weights_BT: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(logits), mean over all pixels of the frames that ``weights`` selects; a scalar.

    S4: the first frame of each clip, MS3: all five. Computed at fp32 at least. 0 when no frame is selected.
    """
    logits_BTYX = at_least_single(logits_BTYX)
    masks_BTYX = masks_BTYX.to(logits_BTYX.dtype)
    each_BT = F.binary_cross_entropy_with_logits(logits_BTYX, masks_BTYX, reduction="none").mean((-2, -1))
    selected_BT = weights_BT.to(each_BT.dtype)
    return (each_BT * selected_BT).sum() / selected_BT.sum().clamp(min=1)


def matching(
    logits_MYX: Tensor,
    stages: Iterable[tuple[Tensor, Tensor]],
    valid_M: Tensor,
    *,
    normalise: bool = False,
) -> Tensor:
    """Audio-visual matching, AVM (Zhou et al. 2022, eq. 4): the mean over stages of KL(softmax(a) || softmax(v)).

    a is the aligned audio vector of a frame; v is the map of the stage, weighted by the predicted mask and averaged
    over *all* its positions. The mask is the sigmoid of the logits that were averaged down to the map's size, in that
    order; the gradient goes into it too. Frames are summed, not averaged: the term grows with the batch.

    Args:
        logits_MYX: mask logits of all frames.
        stages: (audio (M, C), map (M, C, Y, X)) of each stage.
        valid_M: frames that count.
        normalise: bring a and v to length 1 before the softmax.

    Returns:
        A scalar; 0 when there are no stages.
    """
    dtype = torch.promote_types(logits_MYX.dtype, torch.float32)
    logits_M1YX = logits_MYX.to(dtype).unsqueeze(1)
    terms: list[Tensor] = []
    for audio_MC, map_MCYX in stages:
        rows, columns = map_MCYX.shape[-2:]
        mask_M1YX = F.adaptive_avg_pool2d(logits_M1YX, (rows, columns)).sigmoid()
        audio, visual = audio_MC.to(dtype), (map_MCYX.to(dtype) * mask_M1YX).mean((-2, -1))
        if normalise:
            audio, visual = F.normalize(audio, dim=-1), F.normalize(visual, dim=-1)
        each_M = F.kl_div(visual.log_softmax(-1), audio.softmax(-1), reduction="none").sum(-1)
        terms.append((each_M * valid_M.to(dtype)).sum())
    return torch.stack(terms).mean() if terms else logits_M1YX.new_zeros(())
