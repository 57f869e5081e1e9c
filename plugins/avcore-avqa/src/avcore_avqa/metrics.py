"""Accuracies of answers by type of question, as AVST's evaluation has them: right ones of all, in percent."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore_avqa.annotations import KINDS

__all__ = ["GROUPS", "NAMES", "AVQAMetrics", "MatchMetrics"]

SHORT = {"Audio": "A", "Visual": "V", "Audio-Visual": "AV"}
NAMES = tuple(f"{SHORT[about]}_{what}" for about, what in KINDS)
"""The scores of the nine types in the order of `KINDS`, such as ``AV_Temporal``."""
GROUPS = {
    f"{short}Q": tuple(place for place, (about, _) in enumerate(KINDS) if about == long)
    for long, short in SHORT.items()
}
"""The types that AQ, VQ and AVQ take together."""


class AVQAMetrics(Metric):
    """Right answers of all: of each type that occurs, of ``AQ``, ``VQ``, ``AVQ``, and of everything, ``accuracy``.

    All are micro-averages, also ``accuracy``, which papers call Avg. Beside them ``prior``, what the most frequent
    training answer to each template scores on the same questions: who answers no better has learned the wording alone.
    It is left out where there are no training questions. ``coverage`` is the share of a split's questions whose video
    could be read. Invalid clips count nowhere; both protocols score alike.

    Attributes:
        right, asked: (9,) right answers and questions of each type.
        prior_right, prior_asked: of questions with a prior.
        listed: the questions on the split's list.
    """

    full_state_update = False

    right: Tensor
    asked: Tensor
    prior_right: Tensor
    prior_asked: Tensor
    listed: Tensor

    def __init__(self, protocol: str) -> None:
        super().__init__()
        if protocol not in ("clean", "paper"):
            raise AVCoreError(f"protocol='{protocol}': use clean or paper.")
        for state in ("right", "asked"):
            self.add_state(state, default=torch.zeros(len(KINDS), dtype=torch.int64), dist_reduce_fx="sum")
        for state in ("prior_right", "prior_asked"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("listed", default=torch.tensor(0), dist_reduce_fx="max")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``answer`` (B,) against the targets ``answer``, ``kind`` and, where they are there, the others.

        Raises:
            AVCoreError: prediction and truth differ in shape.
        """
        valid_B = batch.valid.to(self.right.device)
        given = (prediction["answer"], batch.targets["answer"], batch.targets["kind"])
        answer_B, truth_B, kind_B = (tensor.to(self.right.device) for tensor in given)
        if answer_B.shape != truth_B.shape:
            raise AVCoreError(
                f"Predicted answers {tuple(answer_B.shape)} and true ones {tuple(truth_B.shape)} differ in shape; a "
                "head of this task gives one index for each clip."
            )
        kind_B = kind_B[valid_B].long()
        self.right += torch.bincount(kind_B[(answer_B == truth_B)[valid_B]], minlength=len(KINDS))
        self.asked += torch.bincount(kind_B, minlength=len(KINDS))
        if "prior" in batch.targets:
            prior_B = batch.targets["prior"].to(self.right.device)
            known_B = valid_B & (prior_B >= 0)
            self.prior_asked += known_B.sum()
            self.prior_right += (known_B & (prior_B == truth_B)).sum()
        if "listed" in batch.targets and valid_B.any():
            listed = batch.targets["listed"].to(self.right.device)[valid_B].max()
            self.listed = torch.maximum(self.listed, listed)

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing was taken in.
        """
        right, asked = self.right.tolist(), self.asked.tolist()
        if not sum(asked):
            raise AVCoreError("No question was evaluated, so there is no accuracy; check the clips of the split.")
        found = {"accuracy": 100 * sum(right) / sum(asked)}
        groups = {**GROUPS, **{name: (place,) for place, name in enumerate(NAMES)}}
        for name, places in groups.items():
            if count := sum(asked[place] for place in places):
                found[name] = 100 * sum(right[place] for place in places) / count
        if self.prior_asked:
            found["prior"] = 100 * int(self.prior_right) / int(self.prior_asked)
        found["coverage"] = 100 * sum(asked) / max(int(self.listed), sum(asked))
        return found


class MatchMetrics(Metric):
    """The first stage: how many pictures are told right, in percent: ``own`` ones, ``other`` ones, all (``accuracy``).

    A picture is that of a segment; ``other`` is left out where there are no pictures of other videos. Invalid clips
    count nowhere; both protocols score alike.

    Attributes:
        right, told: (2,) pictures told right, and all, of others and of the own video.
    """

    full_state_update = False

    right: Tensor
    told: Tensor

    def __init__(self, protocol: str) -> None:
        super().__init__()
        if protocol not in ("clean", "paper"):
            raise AVCoreError(f"protocol='{protocol}': use clean or paper.")
        for state in ("right", "told"):
            self.add_state(state, default=torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``match`` (B, T) and, where it is there, ``match_negative`` (B, T)."""
        valid_B = batch.valid.to(self.right.device)
        for place, name in enumerate(("match_negative", "match")):
            if name in prediction:
                said_BT = prediction[name].to(self.right.device)[valid_B] > 0.5
                self.right[place] += (said_BT == bool(place)).sum()
                self.told[place] += said_BT.numel()

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing was taken in.
        """
        right, told = self.right.tolist(), self.told.tolist()
        if not sum(told):
            raise AVCoreError("No picture was evaluated, so there is no accuracy; check the clips of the split.")
        found = {"accuracy": 100 * sum(right) / sum(told)}
        for place, name in enumerate(("other", "own")):
            if told[place]:
                found[name] = 100 * right[place] / told[place]
        return found
