"""The heads of AVEL and CMBS: the papers' counts, and their equations written down again in plain tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Head, Progress, StreamFeatures, Task
from avcore_ave.avel import AVELHead
from avcore_ave.cmbs import CMBSHead
from avcore_ave.config import AVELHeadConfig, AVETaskConfig, CMBSHeadConfig, LinearHeadConfig, TemporalSettings
from avcore_ave.heads import LinearHead
from avcore_ave.losses import soft_margin
from avcore_ave.task import AVETask, AVEWeakTask

B, T, SIDE = 3, 5, 2
CLASSES = ("Cat", "Dog, bark", "Flute")
SUPERVISED, WEAK = AVETask(AVETaskConfig(classes=CLASSES)), AVEWeakTask(AVETaskConfig(classes=CLASSES))
SMALL = TemporalSettings(width=8, feed_forward=12, heads=2)
Weights = Mapping[str, Tensor]


def layout(width: int, side: int = SIDE, segments: int = T) -> StreamLayout:
    stage = StageLayout(width=width, heads=1, depth=1, grid=(side, side))
    return StreamLayout(stages=(stage,), segments=segments, taps=(0,))


def layouts(visual: int = 6, audio: int = 7, **shape: int) -> dict[str, StreamLayout]:
    return {"visual": layout(visual, **shape), "audio": layout(audio, **shape)}


def features(visual: int = 6, audio: int = 7) -> Features:
    drawn = torch.Generator().manual_seed(0)

    def stream(width: int) -> StreamFeatures:
        map_MDYX = torch.randn(B * T, width, SIDE, SIDE, dtype=torch.float64, generator=drawn)
        tokens = map_MDYX.flatten(2).mT
        pooled = tokens.mean(1).unflatten(0, (B, T))
        return StreamFeatures(pooled=pooled, tokens=tokens, raw_tokens=tokens, maps=(map_MDYX,))

    streams = {"visual": stream(visual), "audio": stream(audio)}
    return Features(streams=streams, clips=B, segments=T, valid=torch.ones(B, dtype=torch.bool))


def batch(**targets: Tensor) -> Batch:
    valid = torch.tensor([True, True, False])
    return Batch(frames=None, waveform=None, targets=targets, names=["a"] * B, samples=torch.arange(B), valid=valid)


def randomised(head: Head) -> Head:
    """In float64, and no weight at its first value."""
    head.double().eval()
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=drawn))
    return head


def cmbs(task: Task = SUPERVISED, **settings: object) -> Head:
    config = CMBSHeadConfig(visual_width=8, attention=6, temporal=SMALL, encoder_feed_forward=10, top=2, **settings)
    return randomised(CMBSHead(config, layouts(), task))


def avel(task: Task = SUPERVISED) -> Head:
    return randomised(AVELHead(AVELHeadConfig(attention=9, scores=5, recurrent=3, hidden=4), layouts(), task))


# -------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("build", "task", "count"),
    [
        (lambda task, made: CMBSHead(CMBSHeadConfig(), made, task), AVETask, 13_544_537),
        (lambda task, made: CMBSHead(CMBSHeadConfig(), made, task), AVEWeakTask, 14_789_439),
        (lambda task, made: AVELHead(AVELHeadConfig(), made, task), AVETask, 1_335_246),
        (lambda task, made: AVELHead(AVELHeadConfig(), made, task), AVEWeakTask, 1_335_246),
    ],
    ids=["cmbs", "cmbs-weak", "avel", "avel-weak"],
)
def test_published_counts(build: Callable[..., Head], task: type[AVETask], count: int) -> None:
    """On VGG-19's 7x7 positions of width 512 and VGGish's vectors of width 128, what is never used included."""
    given = {"visual": layout(512, side=7, segments=10), "audio": layout(128, segments=10)}
    with torch.device("meta"):
        head = build(task(AVETaskConfig()), given)
    assert sum(parameter.numel() for parameter in head.parameters()) + head.unused_in_reference == count


def test_what_cmbs_creates_and_never_uses() -> None:
    mha, norm, mlp = 4 * 256 * 257, 2 * 256, 256 * 1024 + 1024 + 1024 * 256 + 256
    decoders = 2 * (2 * mha + 2 * norm + mlp + mha)
    encoders, weak_encoders = 2 * (mha + 2 * norm + mlp), 2 * (mha + 2 * norm + 2 * mlp - 256)
    given = {"visual": layout(512, side=7, segments=10), "audio": layout(128, segments=10)}
    with torch.device("meta"):
        found = [
            CMBSHead(CMBSHeadConfig(), given, task(AVETaskConfig())).unused_in_reference
            for task in (AVETask, AVEWeakTask)
        ]
    bottleneck = 512 * 256 + 256
    assert found == [decoders + encoders + bottleneck + 2 * norm, decoders + weak_encoders + bottleneck + 257]


# ------------------------------------------------------------------------------------------------- the same, once more


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1, dtype=x.dtype))


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(w: Weights, name: str, query: Tensor, seen: Tensor, heads: int) -> Tensor:
    weights, biases = w[f"{name}.in_proj_weight"].chunk(3), w[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ weight.T + bias for x, weight, bias in zip((query, seen, seen), weights, biases, strict=True))
    read = [
        torch.softmax(qh @ kh.mT / math.sqrt(qh.shape[-1]), -1) @ vh
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    ]
    return linear(w, f"{name}.out_proj", torch.cat(read, -1))


def lstm(w: Weights, name: str, x_BTD: Tensor) -> Tensor:
    directions = []
    for suffix, order in (("", range(x_BTD.shape[1])), ("_reverse", reversed(range(x_BTD.shape[1])))):
        h = c = x_BTD.new_zeros(len(x_BTD), w[f"{name}.weight_hh_l0"].shape[1])
        states = {}
        for t in order:
            gates = x_BTD[:, t] @ w[f"{name}.weight_ih_l0{suffix}"].T + w[f"{name}.bias_ih_l0{suffix}"]
            gates = gates + h @ w[f"{name}.weight_hh_l0{suffix}"].T + w[f"{name}.bias_hh_l0{suffix}"]
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states[t] = h
        directions.append(torch.stack([states[t] for t in sorted(states)], 1))
    return torch.cat(directions, -1)


def encode(w: Weights, name: str, x: Tensor) -> Tensor:
    x = linear(w, f"{name}.affine", x)
    for layer in (f"{name}.transformer.layers.0", f"{name}.transformer.layers.1"):
        x = norm(w, f"{layer}.norm1", x + attend(w, f"{layer}.self_attn", x, x, SMALL.heads))
        x = norm(w, f"{layer}.norm2", x + linear(w, f"{layer}.linear2", linear(w, f"{layer}.linear1", x).relu()))
    return x


def decode(w: Weights, name: str, states: Tensor, memory: Tensor) -> Tensor:
    query = linear(w, f"{name}.affine", states)
    read = attend(w, f"{name}.attention", query, torch.cat([memory, query], 1), SMALL.heads)
    x = norm(w, f"{name}.norm_attention", query + read)
    return norm(w, f"{name}.norm_mlp", x + linear(w, f"{name}.down", linear(w, f"{name}.up", x).relu()))


def exchange(w: Weights, name: str, own: Tensor, other: Tensor, heads: int) -> Tensor:
    product = own * other
    return norm(w, f"{name}.norm", product + attend(w, f"{name}.attention", product, torch.cat([own, other], 1), heads))


def best(scores_BTC: Tensor, top: int) -> Tensor:
    return scores_BTC.sort(1, descending=True).values[:, :top].mean(1)


def guided(w: Weights, x_MND: Tensor, a_MA: Tensor, beta: float) -> Tensor:
    seen = []
    for x in x_MND:  # one segment after the other
        energy = linear(w, "pooling.query", x) @ linear(w, "pooling.key", x).T
        seen.append(norm(w, "pooling.norm", x + energy.softmax(-1) @ linear(w, "pooling.value", x)))
    out = []
    for x, s, a in zip(x_MND, seen, a_MA, strict=True):
        query = linear(w, "pooling.visual_self", s).relu() * linear(w, "pooling.mean_self", s.mean(0)).relu()
        alone = linear(w, "pooling.weight_self", query).tanh().softmax(0)[:, 0] @ s
        mixed = linear(w, "pooling.audio_channel", a).relu() * linear(w, "pooling.visual_channel", s).relu()
        gate = linear(w, "pooling.up", linear(w, "pooling.down", mixed.mean(0)).relu()).sigmoid()
        c = x * (gate + 1)
        query = linear(w, "pooling.visual_position", c).relu() * linear(w, "pooling.audio_position", a).relu()
        pooled = linear(w, "pooling.weight_position", query).tanh().softmax(0)[:, 0] @ c
        out.append(pooled + beta * alone.sigmoid() * pooled)
    return torch.stack(out)


def cmbs_again(w: Weights, given: Features, *, weak: bool) -> dict[str, Tensor]:
    """CMBS's two models as its published code computes them."""
    alpha, beta, gamma, heads = (0.2, 0.5, 0.5, 2) if weak else (0.1, 0.4, 0.3, 4)
    x_MND = given.stream("visual").maps[-1].flatten(2).mT
    audio = given.stream("audio").pooled
    visual = guided(w, linear(w, "visual_in", x_MND).relu(), audio.flatten(0, 1), beta).unflatten(0, (B, T))
    if not weak:
        visual, audio = lstm(w, "temporal.visual.lstm", visual), lstm(w, "temporal.audio.lstm", audio)
    memory_v, memory_a = encode(w, "temporal.visual", visual), encode(w, "temporal.audio", audio)
    v = decode(w, "temporal.visual_decoder", visual, memory_a)
    a = decode(w, "temporal.audio_decoder", audio, memory_v)
    gate_v = linear(w, "temporal.visual.gate", memory_v).sigmoid()
    gate_a = linear(w, "temporal.audio.gate", memory_a).sigmoid()
    part = "localisation"
    if weak:
        v, a = (1 - alpha) * v + gate_v * v * alpha, (1 - alpha) * a + gate_a * a * alpha
        own = [linear(w, f"{part}.{name}_score", x).sigmoid() for name, x in (("visual", v), ("audio", a))]
        v = exchange(w, f"{part}.to_visual", v, a, heads)
        a = exchange(w, f"{part}.to_audio", a, v, heads)
        common = linear(w, f"{part}.score", (v + a) / 2)
        event = best(gamma * own[0] * common + gamma * own[1] * common, 2)
        gate = (gate_a + gate_v) / 2
        return {"event": event, "gate": gate[..., 0], "clip": (gate * event[:, None]).max(1).values}
    v, a = v + gate_a * v * alpha, a + gate_v * a * alpha
    score = (best(linear(w, f"{part}.visual_score", v), 2) + best(linear(w, f"{part}.audio_score", a), 2)) / 2
    v = exchange(w, f"{part}.to_visual", v, a, heads)
    a = exchange(w, f"{part}.to_audio", a, v, heads)
    fused = (v + a) / 2
    return {
        "is_event": linear(w, f"{part}.is_event", fused)[..., 0],
        "event": linear(w, f"{part}.event", fused.max(1).values) + gamma * score,
        "score": score,
        "gate": (gate_a * gate_v)[..., 0],
    }


@pytest.mark.parametrize("task", [SUPERVISED, WEAK], ids=["supervised", "weak"])
def test_cmbs_as_its_equations_say(task: AVETask) -> None:
    head, given = cmbs(task), features()
    found, expected = head(given), cmbs_again(head.state_dict(), given, weak=task is WEAK)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-9)


def test_avel_as_its_equations_say() -> None:
    head, given = avel(), features()
    w, a_BTA = head.state_dict(), given.stream("audio").pooled
    pooled = []
    for x, a in zip(given.stream("visual").maps[-1].flatten(2).mT, a_BTA.flatten(0, 1), strict=True):
        by_position = linear(w, "pooling.audio_score", linear(w, "pooling.audio", a).relu())
        mixed = linear(w, "pooling.visual_score", linear(w, "pooling.visual", x).relu()) + by_position[:, None]
        pooled.append(linear(w, "pooling.weight", mixed.tanh())[:, 0].softmax(0) @ x)
    v_BTD = torch.stack(pooled).unflatten(0, (B, T))
    both = torch.cat([lstm(w, "audio", a_BTA), lstm(w, "visual", v_BTD)], -1).relu()
    expected = linear(w, "output", linear(w, "hidden", both).relu())
    torch.testing.assert_close(head(given)["logits"], expected, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------------------- losses and rules


def test_the_soft_margin_squashes_probabilities_again() -> None:
    logits_BTC = torch.randn(B, T, 4, dtype=torch.float64)
    labels_BT = torch.arange(B * T).reshape(B, T) % 4
    p, y = logits_BTC.softmax(-1), F.one_hot(labels_BT, 4)
    expected = -(y * p.sigmoid().log() + (1 - y) * (1 - p.sigmoid()).log()).mean()
    torch.testing.assert_close(soft_margin(logits_BTC, labels_BT, torch.ones(B, dtype=torch.bool)), expected)
    torch.testing.assert_close(nn.MultiLabelSoftMarginLoss()(p.flatten(0, 1), y.flatten(0, 1)), expected)
    assert soft_margin(logits_BTC, labels_BT, torch.zeros(B, dtype=torch.bool)) == 0


def linear_head(task: Task, loss: str = "cross_entropy") -> Head:
    return randomised(LinearHead(LinearHeadConfig(hidden=5, loss=loss), layouts(), task))


@pytest.mark.parametrize("build", [cmbs, avel, linear_head])
@pytest.mark.parametrize("task", [SUPERVISED, WEAK], ids=["supervised", "weak"])
def test_every_parameter_learns_and_padding_clips_do_not_count(build: Callable[..., Head], task: AVETask) -> None:
    head, given = build(task), features()
    labels = {"clip_label": torch.tensor([1, 3, 0])} if task is WEAK else {"labels": torch.full((B, T), 1)}
    assert head.targets.keys() == labels.keys()
    output = head(given)
    terms = head.loss(output, batch(**labels), Progress())
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    only = replace(batch(**labels).map(lambda x: x[:2]), names=["a", "a"])
    alone = head.loss({name: value[:2] for name, value in output.items()}, only, Progress())
    for name, term in terms.items():
        torch.testing.assert_close(term, alone[name])


def test_labels_of_clips_are_compared_with_the_highest_scores_over_time() -> None:
    labels = torch.tensor([1, 3, 0])
    y = F.one_hot(labels[:2], 4)
    for build in (avel, linear_head):
        head = build(WEAK)
        output = head(features())
        loss = head.loss(output, batch(clip_label=labels), Progress())["event"]
        p = output["logits"][:2].max(1).values.softmax(-1)
        expected = nn.MultiLabelSoftMarginLoss()(p, y) if build is avel else -(y * p.log()).sum(-1).mean()
        torch.testing.assert_close(loss, expected)
    output = cmbs(WEAK)(features())
    p = (output["gate"][:2, :, None] * output["event"][:2, None]).max(1).values.softmax(-1)
    loss = cmbs(WEAK).loss(output, batch(clip_label=labels), Progress())["event"]
    torch.testing.assert_close(loss, nn.MultiLabelSoftMarginLoss()(p, y))


def test_the_weak_rules() -> None:
    """AVEL decides by segment. CMBS's threshold lets all segments pass, so that whole clips are background or none."""
    event = torch.tensor([[0.1, 2.0, 0.3, 1.0], [0.0, 0.0, -1.0, 0.5]])
    made = cmbs(WEAK).predict({"event": event, "gate": torch.tensor([[1e-6, 0.4, 0.9]] * 2)}, features())
    assert made["labels"].tolist() == [[1, 1, 1], [3, 3, 3]]
    p = event.softmax(-1)
    torch.testing.assert_close(made["probability"], torch.stack([p[0, 1].expand(3), p[1, 3].expand(3)]))
    logits = torch.tensor([[[0.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]]])
    assert avel(WEAK).predict({"logits": logits}, features())["labels"].tolist() == [[3, 0]]


def test_the_weak_rules_and_their_accuracies_by_hand() -> None:
    """Two clips of four seconds, three events and background (3): Dog in seconds 1 and 2, Flute in second 3."""
    truth = torch.tensor([[3, 1, 1, 3], [3, 3, 3, 2]])
    given = replace(features(), clips=2, segments=4)
    clips = Batch(
        frames=None,
        waveform=None,
        targets={"labels": truth},
        names=["a", "b"],
        samples=torch.arange(2),
        valid=torch.ones(2, dtype=torch.bool),
    )

    def accuracies(labels: Tensor) -> dict[str, float]:
        metrics = WEAK.metrics("clean")
        metrics.update({"labels": labels}, clips)
        return {name: float(value) for name, value in metrics.compute().items()}

    # CMBS: a gate g in (0, 1) has sigma(g) > 0.5, however small it is, so the clip's class holds in all seconds. Dog in
    # four seconds is right in two; background, the second clip's best class, is right in three of four.
    output = {
        "event": torch.tensor([[0.0, 2.0, 1.0, -1.0], [0.3, 0.1, 0.2, 0.4]]),
        "gate": torch.tensor([[0.001, 0.2, 0.999, 0.0001], [0.9, 0.9, 0.9, 0.9]]),
    }
    labels = cmbs(WEAK).predict(output, given)["labels"]
    assert labels.tolist() == [[1, 1, 1, 1], [3, 3, 3, 3]]
    assert accuracies(labels) == {
        "accuracy": pytest.approx(100 * 5 / 8),
        "accuracy_event": pytest.approx(100 * 2 / 3),
        "accuracy_background": pytest.approx(100 * 3 / 5),
    }
    # AVEL: the best class of each second by itself, background among them.
    logits = torch.zeros(2, 4, 4)
    for clip, second, best in ((0, 0, 3), (0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 0, 3), (1, 1, 0), (1, 2, 3), (1, 3, 2)):
        logits[clip, second, best] = 0.1
    labels = avel(WEAK).predict({"logits": logits}, given)["labels"]
    assert labels.tolist() == [[3, 1, 2, 3], [3, 0, 3, 2]]
    assert accuracies(labels) == {
        "accuracy": pytest.approx(100 * 6 / 8),
        "accuracy_event": pytest.approx(100 * 2 / 3),
        "accuracy_background": pytest.approx(100 * 4 / 5),
    }


WIDTHS = {
    "ViT-Ti, 14 x 14 and 6 x 8": ((192, (14, 14)), (192, (6, 8))),
    "ViT-B": ((768, (14, 14)), (768, (6, 8))),
    "Swin-L": ((1536, (7, 7)), (1536, (7, 7))),
    "Swin-V2-L and HTS-AT": ((1536, (6, 6)), (768, (8, 8))),
    "VGG-19 and VGGish": ((512, (7, 7)), (128, (1, 1))),
}


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("task", [SUPERVISED, WEAK], ids=["supervised", "weak"])
@pytest.mark.parametrize("build", [CMBSHead, AVELHead])
def test_features_of_any_width_on_any_grid(build: type[Head], task: AVETask, widths: tuple[Any, Any]) -> None:
    """With the published settings, on shapes alone: outputs, losses and predictions."""
    made, given = {}, {}
    for stream, (width, grid) in zip(("visual", "audio"), widths, strict=True):
        stage = StageLayout(width=width, heads=1, depth=1, grid=grid)
        made[stream] = StreamLayout(stages=(stage,), segments=10, taps=(0,))
        map_MDYX = torch.empty(2 * 10, width, *grid, device="meta")
        tokens = map_MDYX.flatten(2).mT
        pooled = tokens.mean(1).unflatten(0, (2, 10))
        given[stream] = StreamFeatures(pooled=pooled, tokens=tokens, raw_tokens=tokens, maps=(map_MDYX,))
    with torch.device("meta"):
        head = build(CMBSHeadConfig() if build is CMBSHead else AVELHeadConfig(), made, task)
        whole = Features(streams=given, clips=2, segments=10, valid=torch.ones(2, dtype=torch.bool))
        targets = {"clip_label": torch.zeros(2).long()} if task is WEAK else {"labels": torch.zeros(2, 10).long()}
        output = head(whole)
        clips = replace(batch(**targets), names=["a", "b"], samples=torch.arange(2), valid=whole.valid)
        assert all(term.shape == () for term in head.loss(output, clips, Progress()).values())
        assert head.predict(output, whole)["labels"].shape == (2, 10)


@pytest.mark.parametrize("name", ["ave.cmbs", "ave.avel"])
def test_both_streams_are_needed(name: str) -> None:
    build = {"ave.cmbs": (CMBSHead, CMBSHeadConfig), "ave.avel": (AVELHead, AVELHeadConfig)}[name]
    for stream in ("visual", "audio"):
        with pytest.raises(AssemblyError, match=rf"Head {name} needs both streams: use --streams both"):
            build[0](build[1](), {stream: layout(6)}, SUPERVISED)


def test_what_cmbs_refuses() -> None:
    with pytest.raises(AssemblyError, match=r"head\.top=4 segments speak for a clip, but it has 3: lower head\.top"):
        CMBSHead(CMBSHeadConfig(), layouts(segments=3), SUPERVISED)
    with pytest.raises(AssemblyError, match="Task has no background"):
        CMBSHead(CMBSHeadConfig(), layouts(), Task(None))
    for settings, message in (
        ({"visual_width": 6}, "visual_width must be a multiple of 4"),
        ({"exchange_heads": 3}, "exchange_heads must be a divisor"),
        ({"input_dropout": 1.0}, "input_dropout must be from 0"),
        ({"top": 0}, "top must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            CMBSHeadConfig(**settings)  # type: ignore[arg-type]
