"""Accuracy of clips.

Shape letters: B clips, C classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from avcore.errors import AVCoreError
from avcore.tasks import Batch

__all__ = ["AVARMetrics"]


class AVARMetrics(Metric):
    """Accuracy of one split, in percent (0 to 100). Invalid clips count nowhere; both protocols are alike.

    ``top1`` and ``top5``: clips whose class has the highest score, one of the five highest; ``top5`` where there are
    more than five classes. ``class_mean``: the mean of the classes' own accuracies, over those that the split has.
    ``class_<name>``: the accuracy of each of them, where there are few classes.

    Args:
        classes: names in the order of their indices.
        per_class: as many classes at most have their ``class_<name>``.

    Attributes:
        total, right, near: (C,) clips of each class, those that are right, those among the best five.
    """

    total: Tensor
    right: Tensor
    near: Tensor

    def __init__(self, classes: Sequence[str], *, per_class: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.per_class = len(self.classes) <= per_class
        for state in ("total", "right", "near"):
            zeros = torch.zeros(len(self.classes), dtype=torch.long)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``label`` (B,) and ``scores`` (B, C) against the target ``label`` (B,).

        Raises:
            AVCoreError: there are not as many scores as classes.
        """
        truth_B = batch.targets["label"][batch.valid]
        label_B, scores_BC = prediction["label"][batch.valid], prediction["scores"][batch.valid]
        if scores_BC.shape[1:] != (len(self.classes),):
            raise AVCoreError(
                f"Scores {tuple(scores_BC.shape)} are not of {len(self.classes)} classes; head and task must have the "
                "same (task_options.classes)."
            )
        best_BK = scores_BC.topk(min(5, len(self.classes)), dim=-1).indices
        near_B = (best_BK == truth_B[:, None]).any(-1)
        for state, counted_B in (
            (self.total, torch.ones_like(near_B)),
            (self.right, label_B == truth_B),
            (self.near, near_B),
        ):
            state += torch.bincount(truth_B[counted_B], minlength=len(self.classes))

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing was taken in.
        """
        clips = int(self.total.sum())
        if not clips:
            raise AVCoreError("No clip was evaluated, so there is no accuracy; check the clips of the split.")
        scores = {"top1": 100 * int(self.right.sum()) / clips}
        if len(self.classes) > 5:
            scores["top5"] = 100 * int(self.near.sum()) / clips
        there = [index for index, total in enumerate(self.total.tolist()) if total]
        own = {self.classes[index]: 100 * int(self.right[index]) / int(self.total[index]) for index in there}
        scores["class_mean"] = sum(own.values()) / len(own)
        if self.per_class:
            scores |= {f"class_{name}": value for name, value in own.items()}
        return scores
