"""M_J and M_F of AVSBench with every quirk, and the same without the quirks.

The functions return fractions for frames; `AVSMetrics` gathers clips and returns percentages.
Shape letters: B clips, T frames, M frames, Y and X rows and columns, K = 255 thresholds.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore.errors import AVCoreError
from avcore.tasks import Batch

__all__ = ["BETA_SQUARED", "THRESHOLDS", "AVSMetrics", "f_curves", "frame_iou", "m_f", "m_j"]

THRESHOLDS = 255
BETA_SQUARED = 0.3


def frame_iou(probability_MYX: Tensor, masks_MYX: Tensor) -> Tensor:
    """Intersection over union of each frame, (M,) float64: prediction is probability > 0.5, exactly 0.5 is background.

    With an empty truth it is the share of pixels that are background in the prediction too. 1e-7 is added to the union.
    A fractional mask counts by its value, as in the reference.
    """
    masks = masks_MYX.double()
    predicted = (probability_MYX > 0.5).double()
    inter = (predicted * masks).sum((-2, -1))
    union = torch.maximum(predicted, masks).sum((-2, -1))
    empty = masks.sum((-2, -1)) == 0
    inter = torch.where(empty, ((1 - masks) * (1 - predicted)).sum((-2, -1)), inter)
    union = torch.where(empty, float(masks.shape[-2] * masks.shape[-1]), union)
    return inter / (union + 1e-7)


def f_curves(probability_MYX: Tensor, masks_MYX: Tensor) -> Tensor:
    """F of each frame at each threshold, (M, K) float64: F = 1.3 P R / (0.3 P + R), 0 where P = R = 0.

    A pixel is predicted where probability >= threshold, with thresholds linspace(0, 1 - 1e-10, 255) in fp32, the last
    of which is 1. Instead of comparing 255 times, each pixel is put into the bin of the number of thresholds that it
    reaches; counts from the upper end of that histogram are the reference's counts, ties included.
    """
    frames = probability_MYX.shape[0]
    probability = probability_MYX.float().flatten(1)
    truth = masks_MYX.double().flatten(1)
    thresholds_K = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=probability.device)
    reached = torch.searchsorted(thresholds_K, probability, right=True)
    row = torch.arange(frames, device=reached.device)[:, None] * (THRESHOLDS + 1)
    bins = (reached + row).flatten()

    def at_least(weights: Tensor | None) -> Tensor:
        counts = torch.bincount(bins, weights, minlength=frames * (THRESHOLDS + 1)).double()
        # Column i sums the bins i + 1, i + 2, ...: pixels that reach threshold i.
        return counts.view(frames, THRESHOLDS + 1).flip(1).cumsum(1).flip(1)[:, 1:]

    positive, hit = at_least(None), at_least(truth.flatten())
    precision = hit / (positive + 1e-20)
    recall = hit / (truth.sum(1, keepdim=True) + 1e-20)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(f, nan=0.0)


def m_j(probability_MYX: Tensor, masks_MYX: Tensor) -> float:
    """M_J of one batch of the reference: the mean of `frame_iou`, as a fraction."""
    return float(frame_iou(probability_MYX, masks_MYX).mean())


def m_f(probability_MYX: Tensor, masks_MYX: Tensor) -> float:
    """M_F of one batch of the reference, as a fraction.

    The largest value of the mean F curve of the frames with an object; 0 when no frame has one.
    """
    has_object = masks_MYX.flatten(1).sum(1) > 0
    return _best(f_curves(probability_MYX, masks_MYX)[has_object])


def _best(curves_MK: Tensor) -> float:
    return float(curves_MK.mean(0).max()) if len(curves_MK) else 0.0


class AVSMetrics(Metric):
    """Scores of one split, in percent (0 to 100). Frames that are not ``labelled`` and invalid clips count nowhere.

    ``paper``: ``M_J`` and ``M_F`` of each batch of ``paper_batch`` clips in the order of the split, then the
    plain mean over batches, the smaller last one included; a batch without any object adds 0 to M_F. The loader's
    batches, its order and the number of processes do not matter.

    ``clean``: ``M_J`` is the mean over all frames; ``M_F`` the largest value of the F curve averaged over all frames
    with an object; ``M_F_frame`` the mean of each such frame's own largest value.

    Attributes:
        samples: the clips' places in their split.
        iou: (B, T) float64 of each batch, NaN where a frame is not labelled.
        curves: (B, T, K) float64 of each batch, NaN where no object is labelled.
    """

    samples: list[Tensor]
    iou: list[Tensor]
    curves: list[Tensor]

    def __init__(self, protocol: str, *, paper_batch: int = 4) -> None:
        super().__init__()
        if protocol not in ("clean", "paper"):
            raise AVCoreError(f"protocol='{protocol}': use clean or paper.")
        self.protocol = protocol
        self.paper_batch = paper_batch
        for state in ("samples", "iou", "curves"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in ``masks`` (B, T, Y, X) against the targets ``masks`` and ``labelled`` (B, T).

        Raises:
            AVCoreError: prediction and truth differ in shape.
        """
        # On the CPU: a weighted histogram on a GPU has no reproducible order of summation.
        predicted, truth = prediction["masks"].detach().cpu(), batch.targets["masks"].cpu()
        labelled_BT, valid_B = batch.targets["labelled"].cpu(), batch.valid.cpu()
        if predicted.shape != truth.shape:
            raise AVCoreError(
                f"Predicted masks {tuple(predicted.shape)} and true masks {tuple(truth.shape)} differ in shape; "
                "set data.size and head.size to the same number."
            )
        iou_BT = torch.full(labelled_BT.shape, torch.nan, dtype=torch.float64)
        curves_BTK = iou_BT[..., None].repeat(1, 1, THRESHOLDS)
        for clip in valid_B.nonzero().flatten().tolist():
            frames = labelled_BT[clip].nonzero().flatten()
            masks_MYX, probability_MYX = truth[clip][frames], predicted[clip][frames]
            has_object = masks_MYX.flatten(1).sum(1) > 0
            iou_BT[clip, frames] = frame_iou(probability_MYX, masks_MYX)
            curves_BTK[clip, frames[has_object]] = f_curves(probability_MYX[has_object], masks_MYX[has_object])
        self.samples.append(batch.samples.cpu()[valid_B])
        self.iou.append(iou_BT[valid_B])
        self.curves.append(curves_BTK[valid_B])

    def compute(self) -> dict[str, float]:
        """The scores of all that was taken in.

        Raises:
            AVCoreError: nothing labelled was taken in.
        """
        if not len(self.iou) or dim_zero_cat(self.iou).isnan().all():
            raise AVCoreError("No labelled frame was evaluated, so there is no M_J; check the masks of the split.")
        order = dim_zero_cat(self.samples).argsort(stable=True)
        iou_BT, curves_BTK = dim_zero_cat(self.iou)[order], dim_zero_cat(self.curves)[order]
        scores = (
            _paper(iou_BT, curves_BTK, self.paper_batch) if self.protocol == "paper" else _clean(iou_BT, curves_BTK)
        )
        return {name: 100 * value for name, value in scores.items()}


def _paper(iou_BT: Tensor, curves_BTK: Tensor, size: int) -> dict[str, float]:
    return {
        "M_J": _mean([float(_known(iou).mean()) for iou in iou_BT.split(size)]),
        "M_F": _mean([_best(_known(curves)) for curves in curves_BTK.split(size)]),
    }


def _clean(iou_BT: Tensor, curves_BTK: Tensor) -> dict[str, float]:
    curves_MK = _known(curves_BTK)
    return {
        "M_J": float(_known(iou_BT).mean()),
        "M_F": _best(curves_MK),
        "M_F_frame": float(curves_MK.max(1).values.mean()) if len(curves_MK) else 0.0,
    }


def _known(values: Tensor) -> Tensor:
    """Those of the frames that have a value, (M,) or (M, K)."""
    first = values if values.dim() == 2 else values[..., 0]
    return values[~first.isnan()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
