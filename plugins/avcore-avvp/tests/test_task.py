"""Drawing, truth, description, events and the majority answer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from avcore_avvp.config import AVVPTaskConfig
from avcore_avvp.drawing import QUIET, colour, row_height
from avcore_avvp.task import AVVPTask, runs

TASK = AVVPTask(AVVPTaskConfig(classes=("Speech", "Dog", "Frying_(food)")))
FRAMES = np.full((4, 120, 160, 3), 128, dtype=np.uint8)


def events(**here: str) -> Tensor:
    """``events(a_Dog="x..x")``: four seconds in which Dog is heard."""
    found = torch.zeros(4, 2, 3, dtype=torch.bool)
    for name, line in here.items():
        letter, _, label = name.partition("_")
        found[:, "av".index(letter), TASK.classes.index(label)] = torch.tensor([one == "x" for one in line])
    return found


def dark(index: int) -> tuple[int, ...]:
    return tuple(round(QUIET * value) for value in colour(index))


def test_a_row_of_sound_and_one_of_pictures_for_each_class_that_occurs() -> None:
    drawn = TASK.draw(FRAMES, {"events": events(a_Speech="xx..", v_Dog=".xx.")})
    height = row_height(FRAMES[0])
    assert height == 10
    assert drawn.shape == FRAMES.shape
    assert (FRAMES == 128).all()
    assert (drawn[:, : -4 * height] == 128).all()
    top = 120 - 4 * height
    rows = {"A Speech": (0, "xx.."), "V Speech": (0, "...."), "A Dog": (1, "...."), "V Dog": (1, ".xx.")}
    for number, (index, line) in enumerate(rows.values()):
        for second, letter in enumerate(line):
            found = tuple(drawn[second, top + number * height, -1])
            assert found == (colour(index) if letter == "x" else dark(index))
    assert tuple(drawn[0, top + height - 1, -1]) == tuple(value // 2 for value in colour(0))  # an edge between rows
    letters = (drawn > 220).all(-1)[:, top : top + height]
    assert letters[:, :, :40].any()


def test_one_frame_of_a_longer_clip_has_the_whole_line_and_marks_its_segment() -> None:
    whole = events(a_Speech="x.x.")
    prediction = {"events": whole[2:3], "line": whole, "place": torch.tensor([2]), "probability": whole[2:3].float()}
    drawn = TASK.draw(FRAMES[:1], prediction)[0]
    top = 120 - 2 * row_height(FRAMES[0])
    for second, here in enumerate((True, False, True, False)):
        assert tuple(drawn[top, 40 * second + 20]) in ((colour(0) if here else dark(0)), (255, 255, 255))
    assert [x for x in range(160) if (drawn[top + row_height(FRAMES[0]), x] == 255).all()] == [80, 119]
    assert (drawn[:top] == 128).all()


def test_rows_that_do_not_fit_are_counted() -> None:
    task = AVVPTask(AVVPTaskConfig())
    everything = torch.ones(1, 2, 25, dtype=torch.bool)
    drawn = task.draw(FRAMES[:1], {"events": everything})
    assert (drawn[0, :40] == 128).all()
    assert (drawn[0, -1, -1] == 40).all()
    assert (drawn[0, -row_height(FRAMES[0]) :] > 200).any()  # how many


@pytest.mark.parametrize("size", [(12, 16), (300, 40), (64, 64)])
def test_any_size_of_frame(size: tuple[int, int]) -> None:
    frames = np.zeros((1, *size, 3), dtype=np.uint8)
    drawn = TASK.draw(frames, {"events": torch.ones(1, 2, 3, dtype=torch.bool)})
    assert drawn.shape == frames.shape
    assert drawn.max() > 0
    assert np.array_equal(TASK.draw(frames, {"events": torch.zeros(1, 2, 3, dtype=torch.bool)}), frames)


def test_truth_has_the_form_of_a_prediction() -> None:
    seconds = events(a_Dog="x...")
    truth = TASK.truth({"labels": torch.ones(3), "seconds": seconds})
    np.testing.assert_array_equal(TASK.draw(FRAMES, truth), TASK.draw(FRAMES, {"events": seconds}))
    assert TASK.truth({"labels": torch.ones(3)}) is None
    assert not TASK.is_empty({"labels": torch.ones(3), "seconds": seconds})
    assert TASK.is_empty({"labels": torch.ones(3), "seconds": torch.zeros_like(seconds)})
    assert TASK.is_empty({"labels": torch.zeros(3)})


def test_describe_in_one_line() -> None:
    whole = events(a_Speech="xx.x", v_Speech="..x.", a_Dog="xxxx")
    assert TASK.describe({"events": whole}) == "Speech A 1-2,4 V 3 | Dog A 1-4"
    sure = torch.full((1, 2, 3), 0.873)
    assert TASK.describe({"events": whole[3:], "probability": sure}) == "Speech A 87 % | Dog A 87 %"
    assert TASK.describe({"events": events()}) == ""


def test_events_go_on_from_one_clip_to_the_next() -> None:
    whole = events(a_Speech="xx.x", v_Dog="..xx")
    sure = torch.linspace(0.5, 0.8, 4)[:, None, None].expand(4, 2, 3)
    each = [{"events": whole[at : at + 1], "probability": sure[at : at + 1]} for at in range(4)]
    times = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 3.6)]
    found = [
        (one.label, one.modality, one.start_s, one.stop_s, round(one.probability, 3))
        for one in TASK.events(times, each)
    ]
    assert found == [
        ("Speech", "audio", 0.0, 2.0, 0.55),
        ("Speech", "audio", 3.0, 3.6, 0.8),
        ("Dog", "visual", 2.0, 3.6, 0.75),
    ]


def test_runs() -> None:
    assert runs([]) == []
    assert runs([True]) == [(0, 1)]
    assert runs([False, True, True, False, True]) == [(1, 3), (4, 5)]


def test_the_majority_answer_is_the_commonest_class_throughout() -> None:
    labels = [torch.tensor([1.0, 0, 1]), torch.tensor([0, 0, 1.0])]
    answer = TASK.majority([{"labels": one} for one in labels], 4)["events"]
    assert answer.shape == (4, 2, 3)
    assert answer.any(0).any(0).tolist() == [False, False, True]
    assert answer[..., 2].all()


def test_what_a_person_gives_for_features_is_a_file(tmp_path) -> None:
    task = AVVPTask(AVVPTaskConfig(features=("r2plus1d_18",)))
    np.save(tmp_path / "a.npy", np.ones((10, 512), np.float32))
    assert task.read_input("r2plus1d_18", str(tmp_path / "a.npy")).shape == (10, 512)
