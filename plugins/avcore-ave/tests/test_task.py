"""Drawing, truth and description."""

import numpy as np
import pytest
import torch

from avcore_ave.config import AVETaskConfig
from avcore_ave.drawing import GREY, bar_height, colour
from avcore_ave.task import AVETask, AVEWeakTask

TASK = AVETask(AVETaskConfig(classes=("Dog, bark", "Cat"), paper_batch=5))
FRAMES = np.full((3, 120, 160, 3), 128, dtype=np.uint8)


def test_draw_paints_a_bar_of_the_class_at_the_lower_edge() -> None:
    drawn = TASK.draw(FRAMES, {"labels": torch.tensor([0, 1, 2])})
    assert drawn.shape == FRAMES.shape
    assert drawn.dtype == np.uint8
    assert (FRAMES == 128).all()
    height = bar_height(FRAMES[0])
    assert height == 16
    assert (drawn[:, :-height] == 128).all()
    for index in range(3):
        assert tuple(drawn[index, -1, -1]) == colour(index, 2)
        text = (drawn[index, -height:] > 200).all(-1)  # the name in white
        assert text.sum() > 20
        assert text.any(0)[: 3 * height].any()
    assert tuple(drawn[2, -1, -1]) == GREY
    # The names differ, so do the pictures of the letters.
    assert ((drawn[0, -height:] > 200).all(-1) != (drawn[1, -height:] > 200).all(-1)).any()


def test_the_bar_is_filled_as_far_as_the_prediction_is_sure() -> None:
    prediction = {"labels": torch.tensor([0, 0, 0]), "probability": torch.tensor([1.0, 0.5, 0.0])}
    drawn = TASK.draw(FRAMES, prediction)
    full = np.array(colour(0, 2))
    filled = (drawn[:, -bar_height(FRAMES[0])] == full).all(-1).sum(1)  # above the letters
    assert filled.tolist() == [160, 80, 0]
    assert (drawn[2, -1, -1] < full).all()


@pytest.mark.parametrize("size", [(12, 16), (300, 40), (64, 64)])
def test_any_size_of_frame_and_any_length_of_name(size: tuple[int, int]) -> None:
    task = AVETask(AVETaskConfig(classes=("Female speech, woman speaking in a very long sentence",)))
    frames = np.zeros((1, *size, 3), dtype=np.uint8)
    drawn = task.draw(frames, {"labels": torch.tensor([0])})
    assert drawn.shape == frames.shape
    assert drawn[:, : -bar_height(frames[0])].max() == 0
    assert drawn.max() > 0


def test_classes_have_different_colours() -> None:
    assert len({colour(index, 28) for index in range(29)}) == 29


def test_truth_has_the_form_of_a_prediction() -> None:
    truth = TASK.truth({"labels": torch.tensor([0, 2, 2])})
    np.testing.assert_array_equal(TASK.draw(FRAMES, truth), TASK.draw(FRAMES, {"labels": torch.tensor([0, 2, 2])}))


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0], "Dog, bark"),
        ([2], "background"),
        ([2, 2, 0, 0, 0, 1], "1-2 background | 3-5 Dog, bark | 6 Cat"),
        ([1, 1], "1-2 Cat"),
    ],
)
def test_describe_in_one_line(labels: list[int], text: str) -> None:
    assert TASK.describe({"labels": torch.tensor(labels)}) == text


def test_describe_says_how_sure_a_single_segment_is() -> None:
    assert TASK.describe({"labels": torch.tensor([0]), "probability": torch.tensor([0.873])}) == "Dog, bark 87 %"


def test_metrics_take_their_settings() -> None:
    metrics = TASK.metrics("paper")
    assert (metrics.protocol, metrics.background, metrics.paper_batch) == ("paper", 2, 5)
    assert TASK.score == "accuracy"


def test_the_majority_answer_is_the_most_frequent_class_of_training() -> None:
    for clips, most in (([[1, 1, 2], [0, 2, 1]], 1), ([[2, 2, 1], [2, 0, 1]], 2)):  # the last is background
        found = TASK.majority(iter([{"labels": torch.tensor(labels)} for labels in clips]), 5)
        assert found["labels"].tolist() == [most] * 5


def test_with_weak_labels_it_is_the_most_frequent_class_of_clips() -> None:
    weak = AVEWeakTask(AVETaskConfig(classes=("Dog, bark", "Cat")))
    truths = [{"clip_label": torch.tensor(label), "labels": torch.full((3,), 2)} for label in (1, 0, 1)]
    assert weak.majority(iter(truths), 4)["labels"].tolist() == [1, 1, 1, 1]


def test_events_are_runs_of_a_class_that_is_not_background() -> None:
    labels, sure = (0, 0, 2, 1, 0), (0.5, 0.7, 0.9, 0.8, 0.6)
    each = [
        {"labels": torch.tensor([label]), "probability": torch.tensor([p])}
        for label, p in zip(labels, sure, strict=True)
    ]
    found = TASK.events([(second, second + 1.0) for second in range(5)], each)
    assert [(one.label, one.modality, one.start_s, one.stop_s, round(one.probability, 3)) for one in found] == [
        ("Dog, bark", "", 0, 2, 0.6),
        ("Cat", "", 3, 4, 0.8),
        ("Dog, bark", "", 4, 5, 0.6),
    ]
