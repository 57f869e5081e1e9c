"""M_J and M_F against a direct reading of their definition, and what counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore.testing.processes import scores_of_processes
from avcore_avs.metrics import AVSMetrics, f_curves, frame_iou, m_f, m_j


def batch(
    masks_BTYX: Tensor, labelled_BT: Tensor | None = None, valid_B: Tensor | None = None, *, first: int = 0
) -> Batch:
    clips, segments = masks_BTYX.shape[:2]
    return Batch(
        frames=None,
        waveform=None,
        targets={
            "masks": masks_BTYX,
            "labelled": torch.ones(clips, segments, dtype=torch.bool) if labelled_BT is None else labelled_BT,
        },
        names=[str(number) for number in range(clips)],
        samples=first + torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool) if valid_B is None else valid_B,
    )


def naive_curve(probability_YX: Tensor, mask_YX: Tensor) -> Tensor:
    values = []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        predicted = (probability_YX >= threshold).double()
        hit = (predicted * mask_YX).sum()
        precision, recall = hit / (predicted.sum() + 1e-20), hit / (mask_YX.sum() + 1e-20)
        value = 1.3 * precision * recall / (0.3 * precision + recall)
        values.append(torch.where(value.isnan(), 0.0, value))
    return torch.stack(values)


def random_clips(clips: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    masks_BTYX = (torch.rand(clips, 3, 6, 7) > 0.6).float()
    masks_BTYX[0] = 0
    masks_BTYX[1, 1] = 0
    probability_BTYX = (torch.randn(clips, 3, 6, 7) + 2 * masks_BTYX - 1).sigmoid()
    return probability_BTYX, masks_BTYX


def test_curves_equal_255_comparisons_ties_included() -> None:
    thresholds = torch.linspace(0, 1 - 1e-10, 255)
    torch.manual_seed(0)
    on_ties = thresholds[torch.randint(255, (10, 10))]
    probability_MYX = torch.stack(
        [
            on_ties,
            torch.nextafter(on_ties, torch.tensor(0.0)),
            torch.rand(10, 10),
            torch.ones(10, 10),
            torch.zeros(10, 10),
        ]
    )
    masks_MYX = (torch.rand(5, 10, 10) > 0.5).double()
    masks_MYX[2] *= 38 / 255  # a fractional target
    wanted = torch.stack([naive_curve(*pair) for pair in zip(probability_MYX, masks_MYX, strict=True)])
    torch.testing.assert_close(f_curves(probability_MYX, masks_MYX), wanted, rtol=0, atol=1e-12)


def test_iou_of_an_empty_truth_is_the_share_of_common_background() -> None:
    probability_MYX = torch.tensor([[[0.9, 0.5], [0.1, 0.2]], [[0.9, 0.5], [0.1, 0.2]]])
    masks_MYX = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [0, 0]]])
    torch.testing.assert_close(
        frame_iou(probability_MYX, masks_MYX), torch.tensor([0.75, 0.5]).double(), rtol=0, atol=1e-6
    )


def test_paper_means_over_batches_of_four_clips_whatever_the_loader_does() -> None:
    probability_BTYX, masks_BTYX = random_clips(6)
    parts = [slice(0, 4), slice(4, 6)]
    wanted = {
        name: 50 * sum(metric(probability_BTYX[part].flatten(0, 1), masks_BTYX[part].flatten(0, 1)) for part in parts)
        for name, metric in (("M_J", m_j), ("M_F", m_f))
    }
    for size in (1, 3, 6):
        metrics = AVSMetrics("paper")
        for at in range(0, 6, size):
            metrics.update({"masks": probability_BTYX[at : at + size]}, batch(masks_BTYX[at : at + size], first=at))
        assert metrics.compute() == pytest.approx(wanted, abs=1e-9)


def test_paper_counts_a_batch_without_objects_as_zero() -> None:
    probability_BTYX, masks_BTYX = random_clips(2)
    metrics = AVSMetrics("paper", paper_batch=1)
    metrics.update({"masks": probability_BTYX}, batch(masks_BTYX))
    assert metrics.compute()["M_F"] == pytest.approx(50 * m_f(probability_BTYX[1], masks_BTYX[1]))


def test_clean_scores_do_not_depend_on_batches() -> None:
    probability_BTYX, masks_BTYX = random_clips()
    frames = list(zip(probability_BTYX.flatten(0, 1), masks_BTYX.flatten(0, 1), strict=True))
    curves = torch.stack([naive_curve(*pair) for pair in frames if pair[1].any()])
    metrics = AVSMetrics("clean")
    for at in range(0, 5, 2):
        metrics.update({"masks": probability_BTYX[at : at + 2]}, batch(masks_BTYX[at : at + 2], first=at))
    assert metrics.compute() == pytest.approx(
        {
            "M_J": 100 * m_j(probability_BTYX.flatten(0, 1), masks_BTYX.flatten(0, 1)),
            "M_F": 100 * curves.mean(0).max().item(),
            "M_F_frame": 100 * curves.max(1).values.mean().item(),
        },
        abs=1e-9,
    )


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_padding_and_unlabelled_frames_do_not_count(protocol: str) -> None:
    probability_BTYX, masks_BTYX = random_clips(4)
    labelled_BT = torch.tensor([[True, False, False]]).repeat(4, 1)
    padded, lean = AVSMetrics(protocol), AVSMetrics(protocol)
    valid_B = torch.tensor([True, True, True, False])
    padded.update({"masks": probability_BTYX}, batch(masks_BTYX, labelled_BT, valid_B))
    lean.update({"masks": probability_BTYX[:3, :1]}, batch(masks_BTYX[:3, :1]))
    assert padded.compute() == lean.compute()


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_any_split_over_processes_gives_the_scores_of_one(protocol: str, processes: int) -> None:
    probability_BTYX, masks_BTYX = random_clips(9)
    labelled_BT = torch.rand(9, 3) > 0.3

    def metrics(clips: Tensor) -> AVSMetrics:
        made = AVSMetrics(protocol)
        for some in clips.split(2) if len(clips) else [torch.tensor([0])]:
            part = batch(masks_BTYX[some], labelled_BT[some], torch.full((len(some),), bool(len(clips))))
            made.update({"masks": probability_BTYX[some]}, replace(part, samples=some))
        return made

    alone = metrics(torch.arange(9)).compute()
    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        clips, owner = torch.randperm(9, generator=draws), torch.randint(processes, (9,), generator=draws)
        spread = [metrics(clips[owner == process]) for process in range(processes)]
        assert scores_of_processes(spread) == [alone] * processes
    idle = [metrics(torch.arange(9)), metrics(torch.arange(0))]
    assert scores_of_processes(idle) == [alone] * 2


def test_perfect_masks_score_100() -> None:
    _, masks_BTYX = random_clips()
    metrics = AVSMetrics("clean")
    metrics.update({"masks": masks_BTYX}, batch(masks_BTYX))
    assert metrics.compute() == pytest.approx({"M_J": 100, "M_F": 100, "M_F_frame": 100}, abs=1e-4)


def test_nothing_to_score_and_wrong_shapes_are_errors() -> None:
    metrics = AVSMetrics("clean")
    metrics.update({"masks": torch.zeros(1, 3, 4, 4)}, batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3).bool()))
    with pytest.raises(AVCoreError, match="No labelled frame"):
        metrics.compute()
    with pytest.raises(AVCoreError, match=r"data\.size"):
        AVSMetrics("clean").update({"masks": torch.zeros(1, 3, 4, 4)}, batch(torch.zeros(1, 3, 8, 8)))
    with pytest.raises(AVCoreError, match="clean or paper"):
        AVSMetrics("papers")
