"""Accuracy of segments, and the rules by which published code turns scores into classes.

Shape letters: B clips, T segments, C classes with background, K = C - 1 events.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore.errors import AVCoreError
from avcore.tasks import Batch

__all__ = ["AVEMetrics", "clip_rule", "segment_rule", "weak_clip_rule"]


def segment_rule(scores_BTC: Tensor) -> Tensor:
    """The class of each segment with the highest score, the first of equal ones: (B, T) indices. Linear heads."""
    return scores_BTC.argmax(-1)


def clip_rule(is_event_BT: Tensor, event_BK: Tensor) -> Tensor:
    """CMBS and DG-SCT: the class of the clip where sigmoid(is_event) > 0.5, else background, index K: (B, T).

    Args:
        is_event_BT: logits; exactly 0 is background.
        event_BK: scores of the clip's events, without background; the first of equal ones wins.
    """
    event_B1 = event_BK.argmax(-1, keepdim=True)
    return torch.where(is_event_BT.sigmoid() > 0.5, event_B1, event_BK.shape[-1])


def weak_clip_rule(gate_BT: Tensor, event_BC: Tensor) -> Tensor:
    """CMBS with labels of clips: the class of the clip where sigmoid(gate) > 0.5, else background: (B, T) indices.

    The gate is a probability already and thus never below 0: what the published code writes as a threshold lets every
    segment pass, and background is predicted for whole clips only.

    Args:
        gate_BT: between 0 and 1.
        event_BC: scores of the clip's classes, background last.
    """
    return torch.where(gate_BT.sigmoid() > 0.5, event_BC.argmax(-1, keepdim=True), event_BC.shape[-1] - 1)


class AVEMetrics(Metric):
    """Accuracy of one split, in percent (0 to 100). Invalid clips count nowhere.

    Both protocols: ``accuracy``, right segments of all segments, background included, whatever the batch size.

    ``clean`` adds the same among segments that are truly an event (``accuracy_event``) and truly background
    (``accuracy_background``), where there are any: a model that never says background gets 0 in the second.

    ``paper`` adds ``accuracy_running``, by which DG-SCT selects: the plain mean over batches of ``paper_batch`` clips
    in the order of the split, the smaller last one counting as much as the others.

    Attributes:
        samples: the clips' places in their split.
        right: (B, T) bool of each batch.
        truth: (B, T) classes of each batch.
    """

    samples: list[Tensor]
    right: list[Tensor]
    truth: list[Tensor]

    def __init__(self, protocol: str, *, background: int, paper_batch: int = 8) -> None:
        super().__init__()
        if protocol not in ("clean", "paper"):
            raise AVCoreError(f"protocol='{protocol}': use clean or paper.")
        self.protocol = protocol
        self.background = background
        self.paper_batch = paper_batch
        for state in ("samples", "right", "truth"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``labels`` (B, T) against the target ``labels`` (B, T), both class indices.

        Raises:
            AVCoreError: prediction and truth differ in shape.
        """
        predicted_BT, truth_BT = prediction["labels"], batch.targets["labels"]
        if predicted_BT.shape != truth_BT.shape:
            raise AVCoreError(
                f"Predicted labels {tuple(predicted_BT.shape)} and true ones {tuple(truth_BT.shape)} differ in shape; "
                "head and data set must have the same number of segments (data.segments)."
            )
        self.samples.append(batch.samples[batch.valid].cpu())
        self.right.append((predicted_BT == truth_BT)[batch.valid].cpu())
        self.truth.append(truth_BT[batch.valid].cpu())

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing was taken in.
        """
        if not len(self.samples) or not len(dim_zero_cat(self.samples)):
            raise AVCoreError("No segment was evaluated, so there is no accuracy; check the clips of the split.")
        order = dim_zero_cat(self.samples).argsort(stable=True)
        right_BT, background_BT = dim_zero_cat(self.right)[order], dim_zero_cat(self.truth)[order] == self.background
        scores = {"accuracy": _percent(right_BT)}
        if self.protocol == "paper":
            batches = [_percent(right) for right in right_BT.split(self.paper_batch)]
            scores["accuracy_running"] = sum(batches) / len(batches)
        else:
            for name, among_BT in (("event", ~background_BT), ("background", background_BT)):
                if among_BT.any():
                    scores[f"accuracy_{name}"] = _percent(right_BT[among_BT])
        return scores


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())
