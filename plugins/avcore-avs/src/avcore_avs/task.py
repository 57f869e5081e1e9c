"""`AVSTask`: which frames are supervised, how masks are scored, drawn and described."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from avcore.tasks import Task
from avcore_avs.config import AVSTaskConfig
from avcore_avs.drawing import overlay

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["AVSTask"]


class AVSTask(Task):
    """Masks of what sounds, one for each second: S4 and MS3, which differ in their settings alone."""

    score: ClassVar[str] = "M_J"
    prediction: ClassVar[Mapping[str, str]] = {"masks": "pixel"}
    pixel_targets: ClassVar[Mapping[str, float]] = {"masks": 0}
    config: AVSTaskConfig

    def __init__(self, config: AVSTaskConfig) -> None:
        super().__init__(config)

    def metrics(self, protocol: str) -> "Metric":
        """`AVSMetrics` for ``clean`` or ``paper``."""
        from avcore_avs.metrics import AVSMetrics

        return AVSMetrics(protocol, paper_batch=self.config.paper_batch)

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """Tint the mask, outline it, dim the rest.

        Args:
            frames_TYX3: uint8 frames of any size.
            prediction: ``masks`` (T, Y, X) of any size, probabilities or truth. With ``labelled`` (T,), frames that
                have no mask (truth of S4's training clips) stay as they are.
        """
        masks_TYX = prediction["masks"].detach().float().cpu().numpy()
        labelled = prediction.get("labelled")
        drawn = frames_TYX3.copy()
        for index, (frame, mask) in enumerate(zip(frames_TYX3, masks_TYX, strict=True)):
            if labelled is None or bool(labelled[index]):
                drawn[index] = overlay(frame, mask)
        return drawn

    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether no mask has any foreground."""
        return not bool(targets["masks"].any())

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """All foreground or all background, whichever overlaps more with the masks of training (M_J)."""
        from avcore_avs.metrics import frame_iou

        overlaps: dict[float, list[float]] = {1.0: [], 0.0: []}
        masks_MYX = torch.empty(0)
        for truth in truths:
            masks_MYX = truth["masks"][truth["labelled"]]
            for value, found in overlaps.items():
                found += frame_iou(torch.full_like(masks_MYX, value), masks_MYX).tolist()
        if not overlaps[1.0]:
            return None
        best = max(overlaps, key=lambda value: sum(overlaps[value]))
        return {"masks": torch.full((segments, *masks_MYX.shape[1:]), best)}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The true masks of one clip and which of its frames have one."""
        return {"masks": targets["masks"], "labelled": targets["labelled"]}

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``mask: 12 13 0 14 13 % of the picture``, a number for each frame."""
        shares = (prediction["masks"] > 0.5).float().mean((-2, -1)) * 100
        return f"mask: {' '.join(f'{share:.0f}' for share in shares.tolist())} % of the picture"
