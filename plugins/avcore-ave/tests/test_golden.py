"""Parity with the published implementations. Sizes and widths come from each case's tensors and description."""

import pytest
import torch
from torch import Tensor

from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, StreamFeatures
from avcore.testing.golden import assert_close, load_case
from avcore_ave.config import AVETaskConfig, LinearHeadConfig
from avcore_ave.heads import LinearHead
from avcore_ave.losses import bce_softmax, cross_entropy
from avcore_ave.metrics import AVEMetrics, clip_rule, segment_rule
from avcore_ave.task import AVETask

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5
LOSSES = {"c8_loss_lavish_ave": bce_softmax, "c8_loss_stgcma_ave": cross_entropy}
HEADS = {
    "c5_lavish_ave_vit": ("audio", {"mlp_class": "hidden", "mlp_class_2": "output"}),
    "c5_lavish_ave_swin": ("visual", {"mlp_class": "hidden", "mlp_class_2": "output"}),
    "c6_stgcma_clip_ave": ("audio", {"mlp_head.0": "hidden", "mlp_head.2": "output"}),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: str) -> None:
    tensors, _ = load_case(case)
    labels_BT = tensors["in/labels"].argmax(-1)
    assert torch.equal(torch.nn.functional.one_hot(labels_BT, tensors["in/labels"].shape[-1]), tensors["in/labels"])
    logits_MC = tensors["in/logits"].double().requires_grad_()
    valid_B = torch.ones(len(labels_BT), dtype=torch.bool)
    loss = LOSSES[case](logits_MC.unflatten(0, labels_BT.shape), labels_BT, valid_B)
    assert_close(loss, tensors["out/loss"], TOLERANCE)
    loss.backward()
    # The largest gradient may be about 1e-3: relative to it, not to 1.
    assert_close(logits_MC.grad, tensors["grad/in/logits"], TOLERANCE, floor=0)


@pytest.mark.parametrize("case", HEADS)
def test_head(case: str) -> None:
    tensors, meta = load_case(case)
    first, names = HEADS[case]
    input_MD = tensors["out/head_input"].double()
    clips, segments = meta["config"]["B"], meta["config"]["T"]
    width = input_MD.shape[-1] // 2
    weights = {
        f"{new}.{kind}": tensors[f"weights/{old}.{kind}"].double()
        for old, new in names.items()
        for kind in ("weight", "bias")
    }
    hidden, classes = len(weights["hidden.bias"]), len(weights["output.bias"])
    task = AVETask(AVETaskConfig(classes=tuple(map(str, range(classes - 1)))))
    stage = StageLayout(width=width, heads=1, depth=1, grid=(1, 1))
    layout = StreamLayout(stages=(stage,), segments=segments, taps=(0,))
    # Dropout must not matter in eval mode.
    head = (
        LinearHead(LinearHeadConfig(hidden=hidden, first=first, dropout=0.5), {"visual": layout, "audio": layout}, task)
        .double()
        .eval()
    )
    head.load_state_dict(weights)
    halves = dict(zip((first, "audio" if first == "visual" else "visual"), input_MD.split(width, -1), strict=True))
    streams = {name: _stream(half.unflatten(0, (clips, segments))) for name, half in halves.items()}
    logits = head(Features(streams=streams, clips=clips, segments=segments, valid=torch.ones(clips, dtype=torch.bool)))[
        "logits"
    ].flatten(0, 1)
    # Both ends of the stored float32 run.
    tolerance = max(5e-5, 2 * meta["float32_vs_float64"]["out/logits"]["rel_to_max"])
    assert_close(logits, tensors["out/logits"], tolerance, floor=0)
    if "out/softmax" in tensors:
        assert_close(logits.softmax(-1), tensors["out/softmax"], tolerance)
    (logits * tensors["in/cotangent_logits"].double()).sum().backward()
    found = {f"grad/{old}.{kind}": (new, kind) for old, new in names.items() for kind in ("weight", "bias")}
    compared = found.keys() & tensors.keys()
    assert compared
    for key in compared:
        new, kind = found[key]
        assert_close(head.get_parameter(f"{new}.{kind}").grad, tensors[key], tolerance)


def _stream(pooled_BTD: Tensor) -> StreamFeatures:
    tokens = pooled_BTD.flatten(0, 1)[:, None]
    return StreamFeatures(pooled=pooled_BTD, tokens=tokens, raw_tokens=tokens, maps=())


@pytest.mark.parametrize("case", ["c9_metric_ave"])
def test_metric(case: str) -> None:
    tensors, meta = load_case(case)
    truth_BT, logits_BTC = tensors["in/labels"], tensors["in/logits"]
    background, size = logits_BTC.shape[-1] - 1, meta["config"]["batch_for_running_mean"]

    def scores(predicted_BT: Tensor) -> dict[str, float]:
        metrics = AVEMetrics("paper", background=background, paper_batch=size)
        for at in range(0, len(truth_BT), 5):  # the loader's batches are not those of the metric
            metrics.update({"labels": predicted_BT[at : at + 5]}, batch_of(truth_BT[at : at + 5], first=at))
        paper = metrics.compute()
        clean = AVEMetrics("clean", background=background)
        clean.update({"labels": predicted_BT}, batch_of(truth_BT))
        assert clean.compute()["accuracy"] == paper["accuracy"]
        return paper

    linear_BT = segment_rule(logits_BTC)
    assert torch.equal(linear_BT, tensors["out/linear_predictions"])
    assert_close(torch.tensor([scores(linear_BT)["accuracy"] / 100]), tensors["out/linear_accuracy"], 1e-6)
    # The weak rule, an arg-max of each segment too, is applied to the same logits here.
    assert_close(torch.tensor([scores(linear_BT)["accuracy"]]), tensors["out/weak_accuracy_percent"], 1e-6)

    by_clip_BT = clip_rule(tensors["in/is_event"], tensors["in/event"])
    found = scores(by_clip_BT)
    assert_close(torch.tensor([found["accuracy"]]), tensors["out/cmbs_accuracy_percent_all"], 1e-6)
    assert_close(torch.tensor([found["accuracy_running"]]), tensors["out/cmbs_accuracy_percent_running"], 1e-6)
    each_B = 100 * (by_clip_BT == truth_BT).double().mean(1)
    assert_close(each_B, tensors["out/cmbs_accuracy_percent_per_clip"], 1e-6)


def batch_of(labels_BT: Tensor, *, first: int = 0) -> Batch:
    clips = len(labels_BT)
    return Batch(
        frames=None,
        waveform=None,
        targets={"labels": labels_BT},
        names=[str(number) for number in range(clips)],
        samples=first + torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )
