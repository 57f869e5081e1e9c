"""Scores, their sum over processes, and what is painted and said."""

import numpy as np
import pytest
import torch

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore.testing.processes import scores_of_processes
from avcore_avar.config import AVARTaskConfig
from avcore_avar.metrics import AVARMetrics
from avcore_avar.task import AVARTask

NAMES = tuple("abcdefg")
TASK = AVARTask(AVARTaskConfig(classes=NAMES))
# Places of the classes from the best: the true one is first, second, fifth, sixth, last.
RANKS = torch.tensor([0, 1, 4, 5, 6])
TRUTH = torch.tensor([0, 0, 2, 3, 3])


def batch(truth: torch.Tensor, valid: torch.Tensor | None = None) -> Batch:
    return Batch(
        frames=None,
        waveform=None,
        targets={"label": truth},
        names=[""] * len(truth),
        samples=torch.arange(len(truth)),
        valid=torch.ones(len(truth), dtype=torch.bool) if valid is None else valid,
    )


def scores_with(truth: torch.Tensor, rank: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores in which the true class of each clip has a rank from 0."""
    scores = torch.empty(len(truth), len(NAMES))
    for clip, (label, place) in enumerate(zip(truth.tolist(), rank.tolist(), strict=True)):
        others = [index for index in range(len(NAMES)) if index != label]
        order = [*others[:place], label, *others[place:]]
        scores[clip, order] = torch.linspace(0.9, 0.1, len(NAMES))
    return {"label": scores.argmax(-1), "scores": scores}


def test_top_one_top_five_and_means_of_classes() -> None:
    metrics = AVARMetrics(NAMES, per_class=7)
    metrics.update(scores_with(TRUTH, RANKS), batch(TRUTH))
    found = metrics.compute()
    assert found == {
        "top1": 20.0,
        "top5": 60.0,
        "class_mean": pytest.approx(50 / 3),
        "class_a": 50.0,
        "class_c": 0.0,
        "class_d": 0.0,
    }


def test_many_classes_are_not_listed_and_few_have_no_best_five() -> None:
    assert AVARTask(AVARTaskConfig(classes=NAMES, per_class=6)).metrics("paper").per_class is False
    few = AVARMetrics(NAMES[:5], per_class=0)
    few.update({"label": torch.tensor([1]), "scores": torch.eye(5)[[1]]}, batch(torch.tensor([1])))
    assert few.compute() == {"top1": 100.0, "class_mean": 100.0}


def test_invalid_clips_count_nowhere_and_processes_add_up() -> None:
    whole, parts = AVARMetrics(NAMES, per_class=7), [AVARMetrics(NAMES, per_class=7) for _ in range(3)]
    prediction = scores_with(TRUTH, RANKS)
    whole.update(prediction, batch(TRUTH))
    for part, clips in zip(parts[:2], (slice(0, 2), slice(2, 5)), strict=True):
        part.update({name: each[clips] for name, each in prediction.items()}, batch(TRUTH[clips]))
    parts[2].update(prediction, batch(TRUTH, torch.zeros(5, dtype=torch.bool)))
    assert scores_of_processes(parts) == [whole.compute()] * 3


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_evaluated_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(AVCoreError, match="No clip was evaluated"):
        AVARMetrics(NAMES, per_class=7).compute()
    with pytest.raises(AVCoreError, match=r"Scores \(5, 7\) are not of 3 classes"):
        AVARMetrics(NAMES[:3], per_class=7).update(scores_with(TRUTH, RANKS), batch(TRUTH))


def test_the_five_best_are_said_and_of_the_truth_its_name() -> None:
    scores = torch.tensor([0.01, 0.6, 0.05, 0.2, 0.1, 0.03, 0.01])
    assert TASK.describe({"label": torch.tensor(1), "scores": scores}) == "b 60 %, d 20 %, e 10 %, c 5 %, f 3 %"
    assert TASK.describe(TASK.truth({"label": torch.tensor(6)})) == "g"
    two = AVARTask(AVARTaskConfig(classes=("x", "y")))
    assert two.describe({"label": torch.tensor(1), "scores": torch.tensor([0.25, 0.75])}) == "y 75 %, x 25 %"


@pytest.mark.parametrize("side", [12, 48, 224])
def test_bars_are_as_long_as_their_classes_are_sure(side: int) -> None:
    frames = np.full((2, side, side, 3), 200, np.uint8)
    scores = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.01])
    drawn = TASK.draw(frames, {"label": torch.tensor(0), "scores": scores})
    assert (drawn.shape, drawn.dtype) == (frames.shape, np.uint8)
    assert (drawn[:, : side // 2] == 200).all()
    assert not (drawn[:, -1] == 200).any()
    line = drawn[0, -1]  # of the fifth class: little of it is filled
    if side == 224:
        assert [tuple(line[at]) == tuple(line[0]) for at in (3, 30, 200)] == [True, False, False]
    truth = TASK.draw(frames, {"label": torch.tensor(0)})
    assert (truth != drawn).any()
