"""What the heads compute, their losses, and how little they ask of their surroundings."""

from types import SimpleNamespace

import pytest
import torch

from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Progress, StreamFeatures
from avcore_avar.config import AVARTaskConfig, LinearHeadConfig, TwoMapsHeadConfig
from avcore_avar.heads import ClipHead, LinearHead, TwoMapsHead
from avcore_avar.task import AVARTask

B, T, WIDTHS = 3, 4, {"visual": 6, "audio": 4}
TASK = AVARTask(AVARTaskConfig(classes=tuple("abcdefg")))


def layouts(*streams: str) -> dict[str, StreamLayout]:
    return {
        name: StreamLayout(
            stages=(StageLayout(width=WIDTHS[name], heads=1, depth=1, grid=(2, 2)),), segments=T, taps=(0,)
        )
        for name in streams
    }


def features(*streams: str) -> Features:
    draws = torch.Generator().manual_seed(0)
    made = {}
    for name in streams:
        pooled = torch.randn(B, T, WIDTHS[name], generator=draws)
        empty = torch.empty(0)
        made[name] = StreamFeatures(pooled=pooled, tokens=empty, raw_tokens=empty, maps=())
    return Features(streams=made, clips=B, segments=T, valid=torch.ones(B, dtype=torch.bool))


def batch(labels: list[int], valid: list[bool]) -> Batch:
    clips = len(labels)
    return Batch(
        frames=None,
        waveform=None,
        targets={"label": torch.tensor(labels)},
        names=[""] * clips,
        samples=torch.arange(clips),
        valid=torch.tensor(valid),
    )


@pytest.mark.parametrize("first", ["visual", "audio"])
def test_linear_is_one_map_of_the_mean_over_segments(first: str) -> None:
    seen = features("visual", "audio")
    head = LinearHead(LinearHeadConfig(first=first), layouts("visual", "audio"), TASK).eval()
    order = ("visual", "audio") if first == "visual" else ("audio", "visual")
    mean = torch.cat([seen.stream(name).pooled.mean(1) for name in order], -1)
    expected = mean @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(seen)["logits"], expected)
    assert sum(parameter.numel() for parameter in head.parameters()) == 10 * 7 + 7


def test_two_maps_are_the_mean_of_what_stg_cma_says_of_each_segment() -> None:
    seen = features("visual", "audio")
    head = TwoMapsHead(TwoMapsHeadConfig(hidden=5), layouts("visual", "audio"), TASK).eval()
    each = torch.cat([seen.stream("audio").pooled, seen.stream("visual").pooled], -1)
    torch.testing.assert_close(head(seen)["logits"], head.output(head.hidden(each)).mean(1))
    assert sum(parameter.numel() for parameter in head.parameters()) == 10 * 5 + 5 + 5 * 7 + 7


def test_dropout_is_of_training_alone() -> None:
    seen = features("visual", "audio")
    for head in (
        LinearHead(LinearHeadConfig(dropout=0.5), layouts("visual", "audio"), TASK),
        TwoMapsHead(TwoMapsHeadConfig(), layouts("visual", "audio"), TASK),
    ):
        torch.manual_seed(0)
        assert not torch.equal(head(seen)["logits"], head(seen)["logits"])
        head.eval()
        assert torch.equal(head(seen)["logits"], head(seen)["logits"])


def test_one_stream_is_normed_and_mapped_once() -> None:
    head = TwoMapsHead(TwoMapsHeadConfig(), layouts("audio"), TASK).eval()
    seen = features("audio")
    expected = head.output(torch.nn.functional.layer_norm(seen.stream("audio").pooled.mean(1), (4,)))
    torch.testing.assert_close(head(seen)["logits"], expected)
    assert LinearHead(LinearHeadConfig(), layouts("visual"), TASK)(features("visual"))["logits"].shape == (B, 7)


def test_the_loss_is_the_cross_entropy_of_valid_clips() -> None:
    head = LinearHead(LinearHeadConfig(), layouts("visual", "audio"), TASK)
    logits = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0, 0, 0]])
    found = head.loss({"logits": logits}, batch([0, 1, 3], [True, True, False]), Progress())
    expected = -(logits[0].log_softmax(0)[0] + logits[1].log_softmax(0)[1]) / 2
    torch.testing.assert_close(found["class"], expected)
    assert (
        head.loss({"logits": logits.bfloat16()}, batch([0, 1, 3], [True] * 3), Progress())["class"].dtype
        == logits.dtype
    )
    nothing = head.loss({"logits": logits}, batch([0, 1, 3], [False] * 3), Progress())
    assert float(nothing["class"]) == 0


def test_predictions_are_probabilities_at_single_precision() -> None:
    head = LinearHead(LinearHeadConfig(), layouts("visual", "audio"), TASK)
    logits = torch.randn(B, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = head.predict({"logits": logits}, SimpleNamespace())
    assert found["scores"].dtype == torch.float32
    torch.testing.assert_close(found["scores"].sum(-1), torch.ones(B))
    assert torch.equal(found["label"], found["scores"].argmax(-1))


def test_both_read_the_class_of_the_clip() -> None:
    for kind in (LinearHead, TwoMapsHead):
        assert issubclass(kind, ClipHead)
    assert LinearHead(LinearHeadConfig(), layouts("audio"), TASK).targets["label"].shape == ()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LinearHeadConfig, {"dropout": 1.0}, "dropout"),
        (TwoMapsHeadConfig, {"dropout": -0.1}, "dropout"),
        (TwoMapsHeadConfig, {"hidden": 0}, "hidden"),
        (AVARTaskConfig, {"per_class": -1}, "per_class"),
    ],
)
def test_ranges(kind: type, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
