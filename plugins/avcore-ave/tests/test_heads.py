"""The head on streams of different widths, its losses, its counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import avcore_ave
import avcore_timm
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.gradients import follow_losses
from avcore.registry import Registry
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features, Head, Progress, StreamFeatures
from avcore_ave.config import AVETaskConfig, LinearHeadConfig
from avcore_ave.heads import LinearHead
from avcore_ave.losses import bce_softmax, cross_entropy
from avcore_ave.task import AVETask

B, T = 3, 4
TASK = AVETask(AVETaskConfig(classes=("Cat", "Dog, bark", "Flute")))


def layout(width: int) -> StreamLayout:
    stage = StageLayout(width=width, heads=1, depth=1, grid=(2, 2), prefix=1)
    return StreamLayout(stages=(stage,), segments=T, taps=(0,))


def stream(width: int) -> StreamFeatures:
    tokens = torch.randn(B * T, 5, width)
    return StreamFeatures(pooled=tokens[:, 0].unflatten(0, (B, T)), tokens=tokens, raw_tokens=tokens, maps=())


def make(visual: int | None = 6, audio: int | None = 8, **settings: object) -> tuple[LinearHead, Features]:
    torch.manual_seed(0)
    config = LinearHeadConfig(**{"hidden": 5, **settings})
    widths = {name: width for name, width in (("visual", visual), ("audio", audio)) if width is not None}
    head = LinearHead(config, {name: layout(width) for name, width in widths.items()}, TASK)
    streams = {name: stream(width) for name, width in widths.items()}
    return head, Features(streams=streams, clips=B, segments=T, valid=torch.ones(B, dtype=torch.bool))


def batch(valid: tuple[bool, ...] = (True,) * B) -> Batch:
    labels = torch.tensor([[0, 1, 2, 3], [3, 3, 3, 3], [1, 1, 0, 0]])
    names = [str(number) for number in range(B)]
    return Batch(
        frames=None,
        waveform=None,
        targets={"labels": labels},
        names=names,
        samples=torch.arange(len(names)),
        valid=torch.tensor(valid),
    )


@pytest.mark.parametrize("first", ["visual", "audio"])
def test_two_linear_maps_of_both_vectors_in_the_order_of_the_settings(first: str) -> None:
    head, features = make(first=first)
    ordered = [features.visual, features.audio] if first == "visual" else [features.audio, features.visual]
    both = torch.cat([found.pooled for found in ordered], dim=-1)
    assert head.hidden is not None
    expected = head.output.weight @ (head.hidden.weight @ both[..., None] + head.hidden.bias[:, None])
    logits = head(features)["logits"]
    assert logits.shape == (B, T, 4)
    torch.testing.assert_close(logits, expected.squeeze(-1) + head.output.bias)


@pytest.mark.parametrize(("visual", "audio"), [(6, None), (None, 8)])
def test_one_stream_has_a_norm_and_one_linear_map(visual: int | None, audio: int | None) -> None:
    head, features = make(visual, audio, dropout=0.5)
    assert {name for name, _ in head.named_parameters()} == {"norm.weight", "norm.bias", "output.weight", "output.bias"}
    pooled = features.stream("audio" if visual is None else "visual").pooled
    normed = (pooled - pooled.mean(-1, keepdim=True)) / (pooled.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    # A single branch has no dropout, in training neither.
    torch.testing.assert_close(head(features)["logits"], head.output(normed), rtol=1e-4, atol=1e-5)


def test_dropout_lies_between_the_linear_maps_and_in_training_alone() -> None:
    head, features = make(dropout=0.5)
    plain, _ = make()
    torch.testing.assert_close(head.eval()(features)["logits"], plain(features)["logits"])
    torch.manual_seed(1)
    dropped = head.train()(features)["logits"]
    torch.manual_seed(1)
    assert head.hidden is not None
    both = torch.cat([features.stream(name).pooled for name in ("visual", "audio")], dim=-1)
    torch.testing.assert_close(dropped, head.output(F.dropout(head.hidden(both), 0.5)))


def test_losses_as_written_in_the_papers() -> None:
    logits_BTC, labels_BT = torch.randn(B, T, 4, dtype=torch.float64), batch().targets["labels"]
    p, y = logits_BTC.softmax(-1), F.one_hot(labels_BT, 4).double()
    valid_B = torch.ones(B, dtype=torch.bool)
    lavish = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(bce_softmax(logits_BTC, labels_BT, valid_B), lavish)
    stgcma = -(y * p.log()).sum(-1).mean()
    torch.testing.assert_close(cross_entropy(logits_BTC, labels_BT, valid_B), stgcma)


@pytest.mark.parametrize("loss", ["bce_softmax", "cross_entropy"])
def test_the_loss_is_a_setting_and_padding_clips_change_nothing(loss: str) -> None:
    head, features = make(loss=loss)
    output = head(features)
    expected = {"bce_softmax": bce_softmax, "cross_entropy": cross_entropy}[loss]
    labels, every = batch().targets["labels"], torch.ones(B, dtype=torch.bool)
    terms = head.loss(output, batch(), Progress())
    assert terms.keys() == {"event"}
    torch.testing.assert_close(terms["event"], expected(output["logits"], labels, every))
    padded = head.loss(output, batch(valid=(True, True, False)), Progress())["event"]
    torch.testing.assert_close(padded, expected(output["logits"][:2], labels[:2], every[:2]))
    assert head.loss(output, batch(valid=(False,) * B), Progress())["event"] == 0
    terms["event"].backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("loss", [bce_softmax, cross_entropy])
def test_half_precision_and_saturated_logits_stay_finite(loss: object) -> None:
    logits_BTC = torch.zeros(B, T, 4, dtype=torch.bfloat16)
    logits_BTC[..., 0] = 200
    logits_BTC.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits_BTC, batch().targets["labels"], torch.ones(B, dtype=torch.bool))
    assert value.dtype == torch.float32
    value.backward()
    assert value.isfinite()
    assert logits_BTC.grad.isfinite().all()


def test_prediction_is_the_arg_max_and_its_probability() -> None:
    head, features = make()
    output = head(features)
    prediction = head.predict(output, features)
    probability: Tensor = output["logits"].softmax(-1)
    assert torch.equal(prediction["labels"], probability.argmax(-1))
    torch.testing.assert_close(prediction["probability"], probability.max(-1).values)


def registry() -> Registry:
    return Registry.from_modules({"avcore-timm": avcore_timm, "avcore-ave": avcore_ave})


@pytest.mark.parametrize(
    ("visual", "streams", "count"),
    [
        ("vit_large_patch16_224.augreg_in21k", "both", 1_063_965),
        ("vit_base_patch16_224.augreg_in21k", "both", 801_821),
        ("vit_large_patch14_clip_quickgelu_224.openai", "both", 1_063_965),
        ("vit_large_patch14_clip_quickgelu_224.openai", "visual", 31_773),
        ("vit_large_patch14_clip_quickgelu_224.openai", "audio", 31_773),
    ],
)
def test_published_counts(visual: str, streams: str, count: int) -> None:
    resolved = resolve_config(registry(), method="none", task="ave", visual=visual, streams=streams, need_data=False)
    model = assemble(resolved.config, registry(), meta=True)
    assert isinstance(model.head, Head)
    assert sum(parameter.numel() for parameter in model.head.parameters()) == count
    assert sum(parameter.numel() for _, parameter in parameter_groups(model)["head"]) == count


def test_published_count_at_the_width_of_swin_large() -> None:
    task = AVETask(AVETaskConfig())
    with torch.device("meta"):
        head = LinearHead(LinearHeadConfig(), {"visual": layout(1536), "audio": layout(1536)}, task)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_588_253


def test_the_width_follows_the_classes_of_the_task() -> None:
    resolved = resolve_config(
        registry(),
        method="none",
        task="ave",
        visual="vit_tiny_patch16_224",
        need_data=False,
        sets=("task_options.classes=[a, b]", "head.hidden=7"),
    )
    model = assemble(resolved.config, registry(), meta=True)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.head.named_parameters()}
    assert shapes == {"hidden.weight": (7, 384), "hidden.bias": (7,), "output.weight": (3, 7), "output.bias": (3,)}


@pytest.mark.parametrize("task", ["ave", "ave-weak"])
@pytest.mark.parametrize("head", ["ave.linear", "ave.avel", "ave.cmbs"])
@pytest.mark.parametrize("visual", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_every_head_on_every_task_and_width_trains_whole(visual: str, head: str, task: str) -> None:
    """Assembled from shapes: the losses reach every parameter, on class tokens and grids of 14 x 14 and 7 x 7."""
    resolved = resolve_config(
        registry(), method="none", task=task, visual=visual, need_data=False, sets=(f"head.name={head}",)
    )
    model = assemble(resolved.config, registry(), meta=True)
    with torch.device("meta"):
        followed = follow_losses(model)
    assert (followed.unread, followed.notice) == ((), "")
