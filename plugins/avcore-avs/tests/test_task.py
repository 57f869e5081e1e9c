"""Drawing, truth and description."""

import numpy as np
import torch

from avcore_avs.config import AVSTaskConfig, MS3TaskConfig
from avcore_avs.drawing import outline
from avcore_avs.task import AVSTask


def scene() -> tuple[np.ndarray, torch.Tensor]:
    frames_TYX3 = np.full((2, 60, 80, 3), 128, dtype=np.uint8)
    masks_TYX = torch.zeros(2, 30, 40)  # half the size of the frames
    masks_TYX[0, 10:20, 10:30] = 1
    return frames_TYX3, masks_TYX


def test_draw_tints_inside_outlines_and_dims_the_rest() -> None:
    frames_TYX3, masks_TYX = scene()
    drawn = AVSTask(AVSTaskConfig()).draw(frames_TYX3, {"masks": masks_TYX})
    assert drawn.shape == frames_TYX3.shape
    assert drawn.dtype == np.uint8
    inside, outside = drawn[0, 30, 40].astype(int), drawn[0, 5, 5].astype(int)
    assert inside[0] > 150
    assert inside[2] < 100
    assert (outside < 128).all()
    assert (drawn[0, 30, 20] > inside).all()  # the outline is brighter than the tint
    assert (drawn[1] < 128).all()  # nothing sounds in the second frame
    assert (frames_TYX3 == 128).all()


def test_frames_without_a_true_mask_stay_as_they_are() -> None:
    frames_TYX3, masks_TYX = scene()
    task = AVSTask(AVSTaskConfig())
    truth = task.truth({"masks": masks_TYX, "labelled": torch.tensor([True, False])})
    drawn = task.draw(frames_TYX3, truth)
    assert (drawn[0] != 128).any()
    assert (drawn[1] == 128).all()


def test_outline_has_its_thickness_and_ignores_the_border() -> None:
    inside_YX = np.zeros((9, 9), dtype=bool)
    inside_YX[2:9, 2:9] = True
    rim = outline(inside_YX, thickness=2)
    assert rim[2:4, 2:].all()
    assert rim[2:, 2:4].all()
    assert not rim[4:, 4:].any()


def test_describe_gives_shares() -> None:
    _, masks_TYX = scene()
    assert AVSTask(AVSTaskConfig()).describe({"masks": masks_TYX}) == "mask: 17 0 % of the picture"


def test_metrics_take_the_batch_of_the_settings() -> None:
    task = AVSTask(MS3TaskConfig(paper_batch=7))
    assert task.metrics("paper").paper_batch == 7
    assert task.metrics("clean").protocol == "clean"
    assert task.score == "M_J"


def test_the_majority_answer_is_the_constant_mask_that_overlaps_more() -> None:
    def clip(*shares: float, labelled: int = 2) -> dict[str, torch.Tensor]:
        masks_TYX = torch.stack([(torch.arange(100) < 100 * share).float().view(10, 10) for share in shares])
        return {"masks": masks_TYX, "labelled": torch.arange(len(shares)) < labelled}

    task = AVSTask(AVSTaskConfig())
    background = task.majority(iter([clip(0.3, 0.4), clip(0.2, 0.0)]), 5)  # 0.9 of 4 masks against 1 of 4
    assert background is not None
    assert background["masks"].shape == (5, 10, 10)
    assert not background["masks"].any()
    foreground = task.majority(iter([clip(0.3, 0.4), clip(0.5, 0.0), clip(0.1, 0.0, labelled=1)]), 2)
    assert foreground is not None
    assert foreground["masks"].all()
    assert task.majority(iter([]), 2) is None
