"""F-scores against ones written again, slowly, and both protocols."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Batch
from avcore.testing.processes import scores_of_processes
from avcore_avvp.metrics import AVVPMetrics, clip_scores, event_counts, segment_counts, thresholded

# ------------------------------------------------------------------------------------- the rules, one clip at a time


def events_of(line: list[int]) -> list[tuple[int, int]]:
    found, start = [], None
    for second, here in enumerate([*line, 0]):
        if here and start is None:
            start = second
        elif not here and start is not None:
            found.append((start, second))
            start = None
    return found


def overlap(one: tuple[int, int], other: tuple[int, int]) -> float:
    shared = len(set(range(*one)) & set(range(*other)))
    return shared / len(set(range(*one)) | set(range(*other)))


def slow_counts(predicted: list[int], truth: list[int], kind: str) -> tuple[int, int, int]:
    if kind == "segment":
        pairs = list(zip(predicted, truth, strict=True))
        return pairs.count((1, 1)), pairs.count((1, 0)), pairs.count((0, 1))
    said, true = events_of(predicted), events_of(truth)
    right = sum(any(overlap(one, other) >= 0.5 for other in true) for one in said)
    missed = sum(all(overlap(one, other) < 0.5 for one in said) for other in true)
    return right, len(said) - right, missed


def f_of(counts: list[tuple[int, int, int]]) -> float:
    each = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts if tp + fp + fn]
    return sum(each) / len(each) if each else 1.0


def slow_clip(predicted_T2C: Tensor, truth_T2C: Tensor, kind: str) -> list[float]:
    classes = range(truth_T2C.shape[-1])
    counts = {}
    for name, modalities in (("A", [0]), ("V", [1]), ("AV", [0, 1])):
        counts[name] = [
            slow_counts(*(x[:, modalities, c].all(1).int().tolist() for x in (predicted_T2C, truth_T2C)), kind)
            for c in classes
        ]
    both = [tuple(a + v for a, v in zip(*pair, strict=True)) for pair in zip(counts["A"], counts["V"], strict=True)]
    return [f_of(counts["A"]), f_of(counts["V"]), f_of(counts["AV"]), f_of(both)]


def drawn(clips: int, segments: int = 10, classes: int = 6, *, seed: int = 0, share: float = 0.4) -> Tensor:
    """Runs of any length, of few classes."""
    draws = torch.Generator().manual_seed(seed)
    here = torch.rand(clips, segments, 2, classes, generator=draws) < share
    return here & (torch.rand(clips, 1, 2, classes, generator=draws) < 0.5)


@pytest.mark.parametrize("segments", [1, 7, 10])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_scores_are_those_of_the_rules_written_again(segments: int, share: float) -> None:
    predicted, truth = (drawn(80, segments, seed=seed, share=share) for seed in (1, 2))
    predicted[:20] = truth[:20] ^ (torch.rand(20, segments, 2, 6, generator=torch.Generator().manual_seed(3)) < 0.1)
    predicted[20:23] = False
    truth[22:25] = False
    for kind, counts in (("segment", segment_counts), ("event", event_counts)):
        found_B4 = clip_scores(counts(predicted, truth))
        expected = [slow_clip(one, other, kind) for one, other in zip(predicted, truth, strict=True)]
        torch.testing.assert_close(found_B4, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    for protocol in ("clean", "paper"):
        scores = score(protocol, predicted, truth)
        for kind in ("segment", "event"):
            each = torch.tensor(
                [slow_clip(p, t, kind) for p, t in zip(predicted, truth, strict=True)], dtype=torch.float64
            )
            audio, visual, both, event = (100 * each.mean(0)).tolist()
            expected_row = {"A": audio, "V": visual, "AV": both, "Type": (audio + visual + both) / 3, "Event": event}
            for name, value in expected_row.items():
                assert scores[f"{kind}_{name}"] == pytest.approx(value, abs=1e-9)


def lines(*rows: str) -> Tensor:
    """One clip of one class, seconds as dots and crosses: of sound alone."""
    seconds = torch.tensor([[letter == "x" for letter in row] for row in rows])
    return torch.stack([seconds, torch.zeros_like(seconds)], dim=-1)[..., None]


@pytest.mark.parametrize(
    ("predicted", "truth", "counts"),
    [
        ("..xx......", "..xxxx....", (1, 0, 0)),  # exactly half
        ("..x.......", "..xxxx....", (0, 1, 1)),
        ("xxxxxxxxx.", "xxxx.xxxx.", (0, 1, 2)),
        ("xxxx.xxxxx", "xxxxxxxxxx", (1, 1, 0)),
        (".........x", ".........x", (1, 0, 0)),  # the last second ends an event
        ("..........", "xxxxxxxxxx", (0, 0, 1)),
    ],
)
def test_events(predicted: str, truth: str, counts: tuple[int, int, int]) -> None:
    found = event_counts(lines(predicted), lines(truth))
    assert tuple(int(count[0, 0, 0]) for count in found) == counts


def test_a_second_takes_both_probabilities() -> None:
    frame = torch.tensor([0.5, 0.5, 0.499, 0.9]).view(1, 1, 1, 4).expand(1, 2, 2, 4)
    clip = torch.tensor([[0.5, 0.499, 1.0, 1.3]])
    assert thresholded(frame, clip)[0, 0, 0].tolist() == [True, False, False, True]


# --------------------------------------------------------------------------------------------------------- the metric


def batch(truth: Tensor, valid: list[bool] | None = None, *, first: int = 0, **targets: Tensor) -> Batch:
    clips = len(truth)
    return Batch(
        frames=None,
        waveform=None,
        targets={"seconds": truth, **targets},
        names=[str(number) for number in range(clips)],
        samples=first + torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool) if valid is None else torch.tensor(valid),
    )


def score(protocol: str, predicted: Tensor, truth: Tensor, *, loader: int = 7, **targets: Tensor) -> dict[str, float]:
    metrics = AVVPMetrics(protocol)
    for at in range(0, len(truth), loader):
        some = slice(at, at + loader)
        more = {name: target[some] for name, target in targets.items()}
        metrics.update({"events": predicted[some]}, batch(truth[some], first=at, **more))
    return metrics.compute()


def test_clips_without_a_visual_event_stand_apart_in_clean() -> None:
    truth, predicted = drawn(12, seed=4), drawn(12, seed=5)
    truth[:5, :, 1] = False
    predicted[:3, :, 1] = False
    truth[5:, 0, 1, 0] = True
    scores = score("clean", predicted, truth)
    assert scores["V_unseen"] == pytest.approx(60)
    of_those = score("clean", predicted[5:], truth[5:])
    assert scores["segment_V_seen"] == pytest.approx(of_those["segment_V"])
    assert scores["event_V_seen"] == pytest.approx(of_those["event_V"])
    assert scores["segment_V"] == pytest.approx((5 * 60 + 7 * scores["segment_V_seen"]) / 12)
    assert not {"V_unseen", "segment_V_seen"} & (of_those.keys() | score("paper", predicted, truth).keys())
    nothing = score("clean", predicted[:5], truth[:5])
    assert nothing["V_unseen"] == pytest.approx(60)
    assert "segment_V_seen" not in nothing


def test_the_paper_protocol_takes_the_truth_before_the_fix() -> None:
    truth, predicted = drawn(9, seed=6), drawn(9, seed=7)
    before = truth.clone()
    truth[[2, 4], 3, 0, 1] = True
    before[[2, 4], :, 0] = False
    clean = score("clean", predicted, truth, seconds_before_fix=before)
    paper = score("paper", predicted, truth, seconds_before_fix=before)
    assert paper["segment_A"] == pytest.approx(score("clean", predicted, before)["segment_A"])
    assert clean["segment_A"] == pytest.approx(score("clean", predicted, truth)["segment_A"])
    assert clean["segment_A"] != paper["segment_A"]
    assert paper["old_truth"] == 2
    assert "old_truth" not in clean


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_coverage_is_the_share_of_the_listed_clips(protocol: str) -> None:
    truth, predicted = drawn(6, seed=8), drawn(6, seed=9)
    metrics = AVVPMetrics(protocol)
    listed = torch.full((6,), 8)
    metrics.update({"events": predicted}, batch(truth, [True] * 4 + [False] * 2, listed=listed))
    assert metrics.compute()["coverage"] == 50
    assert score(protocol, predicted, truth)["coverage"] == 100


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_any_split_over_processes_gives_the_scores_of_one(protocol: str, processes: int) -> None:
    truth, predicted, before = (drawn(11, seed=seed) for seed in (10, 11, 12))
    truth[:3, :, 1] = False

    def metrics(clips: Tensor) -> AVVPMetrics:
        made = AVVPMetrics(protocol)
        for some in clips.split(2) if len(clips) else [torch.tensor([0])]:
            more = {"seconds_before_fix": before[some], "listed": torch.full((len(some),), 15)}
            part = batch(truth[some], [bool(len(clips))] * len(some), **more)
            made.update({"events": predicted[some]}, replace(part, samples=some))
        return made

    alone = metrics(torch.arange(11)).compute()
    assert alone["coverage"] == pytest.approx(100 * 11 / 15)
    for seed in range(5):
        draws = torch.Generator().manual_seed(seed)
        clips, owner = torch.randperm(11, generator=draws), torch.randint(processes, (11,), generator=draws)
        spread = [metrics(clips[owner == process]) for process in range(processes)]
        assert scores_of_processes(spread) == [alone] * processes
    assert scores_of_processes([metrics(torch.arange(11)), metrics(torch.arange(0))]) == [alone] * 2


def test_mistakes_are_refused() -> None:
    with pytest.raises(AVCoreError, match="clean or paper"):
        AVVPMetrics("fair")
    metrics = AVVPMetrics("clean")
    metrics.update({"events": drawn(2)}, batch(drawn(2), [False] * 2))
    with pytest.raises(AVCoreError, match="No clip was evaluated"):
        metrics.compute()
    with pytest.raises(AVCoreError, match=r"data\.segments"):
        metrics.update({"events": drawn(2)[:, :4]}, batch(drawn(2)))
