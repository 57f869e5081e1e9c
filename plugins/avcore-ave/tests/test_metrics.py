"""Accuracy of segments in both protocols."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore.testing.processes import scores_of_processes
from avcore_ave.metrics import AVEMetrics, clip_rule, segment_rule

BACKGROUND = 3


def batch(labels_BT: Tensor, valid: list[bool] | None = None, *, first: int = 0) -> Batch:
    clips = len(labels_BT)
    flags = torch.ones(clips, dtype=torch.bool) if valid is None else torch.tensor(valid)
    names = [str(number) for number in range(clips)]
    return Batch(
        frames=None,
        waveform=None,
        targets={"labels": labels_BT},
        names=names,
        samples=first + torch.arange(clips),
        valid=flags,
    )


def score(protocol: str, predicted_BT: Tensor, truth_BT: Tensor, *, loader: int = 2, paper_batch: int = 2):
    metrics = AVEMetrics(protocol, background=BACKGROUND, paper_batch=paper_batch)
    for at in range(0, len(truth_BT), loader):
        metrics.update({"labels": predicted_BT[at : at + loader]}, batch(truth_BT[at : at + loader], first=at))
    return metrics.compute()


TRUTH = torch.tensor([[0, 0, 3, 3], [1, 1, 1, 1], [3, 2, 2, 3]])
PREDICTED = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 1], [3, 2, 2, 3]])


@pytest.mark.parametrize("loader", [1, 2, 3])
def test_clean_counts_segments_whatever_the_batches(loader: int) -> None:
    scores = score("clean", PREDICTED, TRUTH, loader=loader)
    assert scores == pytest.approx({"accuracy": 75, "accuracy_event": 87.5, "accuracy_background": 50})


@pytest.mark.parametrize("loader", [1, 2, 3])
def test_paper_adds_the_running_mean_over_its_own_batches(loader: int) -> None:
    # Batches of two clips: 5 of 8 right, then 4 of 4, and both count the same.
    scores = score("paper", PREDICTED, TRUTH, loader=loader)
    assert scores == pytest.approx({"accuracy": 75, "accuracy_running": (62.5 + 100) / 2})


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_any_split_over_processes_gives_the_scores_of_one(protocol: str, processes: int) -> None:
    torch.manual_seed(0)
    truth_BT, predicted_BT = torch.randint(4, (11, 4)), torch.randint(4, (11, 4))

    def metrics(clips: Tensor) -> AVEMetrics:
        made = AVEMetrics(protocol, background=BACKGROUND, paper_batch=3)
        for some in clips.split(2) if len(clips) else [torch.tensor([0])]:
            part = batch(truth_BT[some], [bool(len(clips))] * len(some))
            made.update({"labels": predicted_BT[some]}, replace(part, samples=some))
        return made

    alone = metrics(torch.arange(11)).compute()
    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        clips, owner = torch.randperm(11, generator=draws), torch.randint(processes, (11,), generator=draws)
        spread = [metrics(clips[owner == process]) for process in range(processes)]
        assert scores_of_processes(spread) == [alone] * processes
    idle = [metrics(torch.arange(11)), metrics(torch.arange(0))]
    assert scores_of_processes(idle) == [alone] * 2


def test_clips_that_pad_a_batch_count_nowhere() -> None:
    metrics = AVEMetrics("clean", background=BACKGROUND)
    metrics.update({"labels": PREDICTED}, batch(TRUTH, [False, True, True]))
    assert metrics.compute()["accuracy"] == pytest.approx(100 * 7 / 8)


def test_what_does_not_occur_has_no_score() -> None:
    assert score("clean", TRUTH[1:2], TRUTH[1:2]).keys() == {"accuracy", "accuracy_event"}
    silent = torch.full((1, 4), BACKGROUND)
    assert score("clean", silent, silent).keys() == {"accuracy", "accuracy_background"}


def test_mistakes_are_refused() -> None:
    with pytest.raises(AVCoreError, match="clean or paper"):
        AVEMetrics("fair", background=3)
    metrics = AVEMetrics("clean", background=3)
    metrics.update({"labels": PREDICTED}, batch(TRUTH, [False] * 3))
    with pytest.raises(AVCoreError, match="No segment"):
        metrics.compute()
    with pytest.raises(AVCoreError, match=r"data\.segments"):
        metrics.update({"labels": PREDICTED[:, :2]}, batch(TRUTH))


def test_rules() -> None:
    scores = torch.tensor([[[0.0, 2.0, 2.0], [1.0, 0.0, 3.0]]])
    assert segment_rule(scores).tolist() == [[1, 2]]  # the first of equal ones
    is_event_BT = torch.tensor([[0.0, 0.1, -0.1], [5.0, -5.0, 5.0]])
    event_BK = torch.tensor([[1.0, 4.0], [2.0, 2.0]])
    assert clip_rule(is_event_BT, event_BK).tolist() == [[2, 1, 2], [0, 2, 0]]
