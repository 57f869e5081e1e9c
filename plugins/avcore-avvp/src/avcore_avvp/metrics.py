"""F-scores of video parsing by segments and by events, clip by clip, as HAN's evaluation has them.

Shape letters: B clips, T segments, C classes, R runs of segments that are possible, 3 streams: sound, pictures, both.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore.errors import AVCoreError
from avcore.tasks import Batch

__all__ = ["NAMES", "AVVPMetrics", "Counts", "clip_scores", "event_counts", "segment_counts", "thresholded"]

NAMES = ("A", "V", "AV", "Event")
"""The columns of `clip_scores`: sound, pictures, both at once, and sound and pictures counted together."""
Counts = tuple[Tensor, Tensor, Tensor]
"""True positives, false positives and false negatives."""


def thresholded(frame_BT2C: Tensor, clip_BC: Tensor) -> Tensor:
    """What is predicted: the probability of the second and that of the clip are both 0.5 or more; (B, T, 2, C) bool."""
    return (frame_BT2C >= 0.5) & (clip_BC >= 0.5)[:, None, None]


def _streams(seconds_BT2C: Tensor) -> Tensor:
    """Sound, pictures, and what is in both: (B, 3, C, T)."""
    seconds_B2CT = seconds_BT2C.permute(0, 2, 3, 1)
    return torch.cat([seconds_B2CT, seconds_B2CT.all(1, keepdim=True)], dim=1)


def segment_counts(predicted_BT2C: Tensor, truth_BT2C: Tensor) -> Counts:
    """Segments of each clip, stream and class, (B, 3, C) each."""
    predicted, truth = _streams(predicted_BT2C), _streams(truth_BT2C)
    return (predicted & truth).sum(-1), (predicted & ~truth).sum(-1), (~predicted & truth).sum(-1)


def event_counts(predicted_BT2C: Tensor, truth_BT2C: Tensor) -> Counts:
    """Events of each clip, stream and class, (B, 3, C) each. An event is a longest run of segments.

    A predicted event is right if *some* true one overlaps it by half of their union or more, so that a true one may be
    found several times; a true event is missed if no predicted one does.
    """
    predicted, truth = _runs(_streams(predicted_BT2C)), _runs(_streams(truth_BT2C))
    alike_RR = _alike(predicted_BT2C.shape[1]).to(predicted.device)
    right = predicted & ((truth.float() @ alike_RR) > 0)
    found = truth & ((predicted.float() @ alike_RR) > 0)
    return right.sum(-1), (predicted & ~right).sum(-1), (truth & ~found).sum(-1)


@lru_cache(maxsize=8)
def _spans(segments: int) -> tuple[tuple[int, int], ...]:
    """Every run of segments: its first, and the one behind its last."""
    return tuple((first, behind) for first in range(segments) for behind in range(first + 1, segments + 1))


def _runs(here_B3CT: Tensor) -> Tensor:
    """Which of the possible runs are longest runs: (B, 3, C, R) bool."""
    around = torch.nn.functional.pad(here_B3CT, (1, 1))
    # Segments up to here that are not part of it: a run has as many at both of its ends.
    gaps = torch.nn.functional.pad((~here_B3CT).cumsum(-1), (1, 0))
    first, behind = torch.tensor(_spans(here_B3CT.shape[-1]), device=here_B3CT.device).T
    return (gaps[..., first] == gaps[..., behind]) & ~around[..., first] & ~around[..., behind + 1]


@lru_cache(maxsize=8)
def _alike(segments: int) -> Tensor:
    """Which runs overlap by half of their union or more: (R, R) float."""
    first, behind = torch.tensor(_spans(segments)).T
    shared = (torch.minimum(behind[:, None], behind) - torch.maximum(first[:, None], first)).clamp(min=0)
    lengths = behind - first
    alike: Tensor = 2 * shared >= lengths[:, None] + lengths - shared
    return alike.float()


def clip_scores(counts: Counts) -> Tensor:
    """F of each clip, 0 to 1: (B, 4) float64 as `NAMES` says.

    It is the mean of 2 TP / (2 TP + FP + FN) over the classes that are predicted or true, and 1 where there is none.
    For ``Event`` the counts of sound and of pictures are added first.
    """
    rights, extra, missed = (
        torch.cat([count, count[:, :2].sum(1, keepdim=True)], dim=1).double() for count in counts
    )  # (B, 4, C)
    whole = 2 * rights + extra + missed
    occurs = whole > 0
    f_B4C = torch.where(occurs, 2 * rights / whole.clamp(min=1), 0)
    classes = occurs.sum(-1)
    return torch.where(classes > 0, f_B4C.sum(-1) / classes.clamp(min=1), 1.0)


class AVVPMetrics(Metric):
    """The ten numbers of the papers, in percent: means over the clips of a split. Invalid clips count nowhere.

    ``segment_`` and ``event_`` each with ``A``, ``V``, ``AV``, ``Type`` (the mean of these three) and ``Event``; and
    ``coverage``, the share of the clips on the split's list that could be read.

    ``clean`` adds what the clips without a visual event do to V, where there are such: ``segment_V_seen`` and
    ``event_V_seen`` over the clips with one, and ``V_unseen``, the share of the others in which nothing visual is
    predicted, each of which scores 1 in V.

    ``paper`` takes the audio truth as it was before the fix of 2024, which published numbers stand on, and says in
    ``old_truth`` in how many clips that differs.

    Attributes:
        samples: the clips' places in their split.
        scores: (B, 8) of each batch, by segments and by events as `NAMES` says.
        seen: (B,) of each batch, whether anything is truly seen.
        differs: (B,) of each batch, whether the older truth is another.
        listed: the clips on the split's list.
    """

    samples: list[Tensor]
    scores: list[Tensor]
    seen: list[Tensor]
    differs: list[Tensor]
    listed: Tensor

    def __init__(self, protocol: str) -> None:
        super().__init__()
        if protocol not in ("clean", "paper"):
            raise AVCoreError(f"protocol='{protocol}': use clean or paper.")
        self.protocol = protocol
        for state in ("samples", "scores", "seen", "differs"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.add_state("listed", default=torch.tensor(0), dist_reduce_fx="max")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``events`` (B, T, 2, C) against the target ``seconds`` (B, T, 2, C), both bool.

        Raises:
            AVCoreError: prediction and truth differ in shape.
        """
        valid_B = batch.valid.cpu()
        predicted, truth = prediction["events"].cpu(), batch.targets["seconds"].cpu()
        if predicted.shape != truth.shape:
            raise AVCoreError(
                f"Predicted events {tuple(predicted.shape)} and true ones {tuple(truth.shape)} differ in shape; head "
                "and data set must have the same number of segments (data.segments) and the same classes."
            )
        before = batch.targets.get("seconds_before_fix", truth).cpu()
        differs_B = (before != truth).flatten(1).any(1)
        if self.protocol == "paper":
            truth = before
        predicted, truth = predicted[valid_B], truth[valid_B]
        scored = [clip_scores(counts(predicted, truth)) for counts in (segment_counts, event_counts)]
        self.samples.append(batch.samples.cpu()[valid_B])
        self.scores.append(torch.cat(scored, dim=1))
        self.seen.append(truth[:, :, 1].flatten(1).any(1))
        self.differs.append(differs_B[valid_B])
        if "listed" in batch.targets and valid_B.any():
            listed = batch.targets["listed"].cpu()[valid_B].max()
            self.listed = torch.maximum(self.listed, listed.to(self.listed.device))

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing was taken in.
        """
        if not len(self.samples) or not len(dim_zero_cat(self.samples)):
            raise AVCoreError("No clip was evaluated, so there is no F-score; check the clips of the split.")
        order = dim_zero_cat(self.samples).argsort(stable=True)
        scores, seen = dim_zero_cat(self.scores)[order], dim_zero_cat(self.seen)[order]
        found: dict[str, float] = {}
        for kind, one in zip(("segment", "event"), scores.split(len(NAMES), dim=1), strict=True):
            audio, visual, both, event = (100 * one.mean(0)).tolist()
            found |= {f"{kind}_A": audio, f"{kind}_V": visual, f"{kind}_AV": both}
            found |= {f"{kind}_Type": (audio + visual + both) / 3, f"{kind}_Event": event}
        found["coverage"] = 100 * len(order) / max(int(self.listed), len(order))
        if self.protocol == "paper":
            found["old_truth"] = float(dim_zero_cat(self.differs).sum())
        elif not seen.all():
            visual_B2 = scores[:, [NAMES.index("V"), len(NAMES) + NAMES.index("V")]]
            if seen.any():
                found["segment_V_seen"], found["event_V_seen"] = (100 * visual_B2[seen].mean(0)).tolist()
            found["V_unseen"] = 100 * float(visual_B2[~seen, 0].mean())
        return found
