"""Heads: pooling, losses, counts, and what they refuse."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.errors import AssemblyError
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Head, Progress, StreamFeatures
from avcore_avvp.config import FEATURES, AttentiveHeadConfig, AVVPTaskConfig, HANHeadConfig, MGNHeadConfig
from avcore_avvp.han.head import HANHead
from avcore_avvp.heads import AttentiveHead
from avcore_avvp.mgn.grouping import Assignment
from avcore_avvp.mgn.head import MGNHead
from avcore_avvp.task import AVVPTask

B, T = 3, 10
WIDTHS = {"visual": 8, "audio": 6}
CLASSES = ("a", "b", "c", "d")


def layouts(*names: str, segments: int = T) -> dict[str, StreamLayout]:
    return {
        name: StreamLayout(
            stages=(StageLayout(width=WIDTHS[name], heads=1, depth=1, grid=(2, 2)),), segments=segments, taps=(0,)
        )
        for name in names or WIDTHS
    }


def task(*features: str) -> AVVPTask:
    return AVVPTask(AVVPTaskConfig(classes=CLASSES, features=features))


def features(*names: str, inputs: Mapping[str, Tensor] | None = None, segments: int = T) -> Features:
    draws = torch.Generator().manual_seed(0)
    streams = {}
    for name in names or WIDTHS:
        pooled = torch.randn(B, segments, WIDTHS[name], generator=draws)
        tokens = pooled.flatten(0, 1)[:, None]
        streams[name] = StreamFeatures(pooled=pooled, tokens=tokens, raw_tokens=tokens, maps=())
    return Features(
        streams=streams, clips=B, segments=segments, valid=torch.ones(B, dtype=torch.bool), inputs=inputs or {}
    )


def batch(labels_BC: Tensor, valid: list[bool]) -> Batch:
    return Batch(
        frames=None,
        waveform=None,
        targets={"labels": labels_BC},
        names=list("xyz"),
        samples=torch.arange(B),
        valid=torch.tensor(valid),
    )


LABELS = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])


def test_attention_pools_over_time_and_streams() -> None:
    torch.manual_seed(0)
    head = AttentiveHead(AttentiveHeadConfig(), layouts(), task())
    given = features()
    output = head(given)
    p = {name: head.score[name](given.stream(name).pooled).sigmoid() for name in WIDTHS}
    w = {name: head.weight[name](given.stream(name).pooled) for name in WIDTHS}
    for place, name in enumerate(("audio", "visual")):
        torch.testing.assert_close(output["frame"][:, :, place], p[name])
        torch.testing.assert_close(output[name], (p[name] * w[name].softmax(1)).sum(1))
    both = torch.cat([w["audio"], w["visual"]], 1).softmax(1) * torch.cat([p["audio"], p["visual"]], 1)
    torch.testing.assert_close(output["clip"], both.sum(1))
    assert output["clip"].max() < 1
    assert sum(one.numel() for one in head.parameters()) == 2 * 4 * (8 + 1 + 6 + 1)


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_a_stream_that_is_off_is_never_in_an_event(stream: str) -> None:
    head = AttentiveHead(AttentiveHeadConfig(), layouts(stream), task())
    output = head(features(stream))
    off = ("audio", "visual").index("visual" if stream == "audio" else "audio")
    assert not output["frame"][:, :, off].any()
    torch.testing.assert_close(output["clip"], output[stream])
    assert head.loss(output, batch(LABELS, [True] * 3), Progress()).keys() == {"clip", stream}
    assert not head.predict(output, features(stream))["events"][:, :, off].any()


HEADS = [
    (AttentiveHead, AttentiveHeadConfig()),
    (HANHead, HANHeadConfig()),
    (MGNHead, MGNHeadConfig(width=16, heads=4, depth_both=2)),
]


@pytest.mark.parametrize(("kind", "config"), HEADS)
def test_the_loss_counts_valid_clips_alone_and_smooths_the_labels_of_pictures(kind: type[Head], config: object) -> None:
    head = kind(config, layouts(), task()).eval()
    output = head(features())
    terms = head.loss(output, batch(LABELS, [True, True, False]), Progress())
    expected = {
        "clip": F.binary_cross_entropy(output["clip"][:2].clamp(1e-7, 1 - 1e-7), LABELS[:2]),
        "audio": F.binary_cross_entropy(output["audio"][:2], LABELS[:2]),
        "visual": F.binary_cross_entropy(output["visual"][:2], 0.9 * LABELS[:2] + 0.05),
    }
    if kind is MGNHead:
        # Tokens begin at zero: all classes are alike.
        chance = torch.tensor(4.0).log()
        for name in ("audio", "visual"):
            logits = head.network.token_class.bias.expand(4, 4)
            expected[f"{name}_tokens"] = F.cross_entropy(logits, torch.arange(4))
            torch.testing.assert_close(expected[f"{name}_tokens"], chance, rtol=0.2, atol=0)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    nothing = head.loss(head(features()), batch(LABELS, [False] * 3), Progress())
    assert all(term == 0 for name, term in nothing.items() if "tokens" not in name)


@pytest.mark.parametrize(("kind", "config"), HEADS)
def test_a_loss_of_half_precision_is_taken_at_full(kind: type[Head], config: object) -> None:
    head = kind(config, layouts(), task())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = head.loss(head(features()), batch(LABELS, [True] * 3), Progress())
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_what_is_dropped_in_training_is_drawn() -> None:
    for kind, config in (
        (AttentiveHead, AttentiveHeadConfig(dropout=0.5)),
        (HANHead, HANHeadConfig(dropout=0.5)),
        (MGNHead, MGNHeadConfig(width=16, heads=4, depth_both=2, drop_path=0.5)),
    ):
        torch.manual_seed(0)
        head = kind(config, layouts(), task())
        given = features()
        same = [torch.equal(head(given)["visual"], head(given)["visual"]) for _ in range(4)]
        assert not all(same)
        head.eval()
        assert torch.equal(head(given)["visual"], head(given)["visual"])


def test_prediction_takes_both_thresholds() -> None:
    head = AttentiveHead(AttentiveHeadConfig(), layouts(), task())
    frame = torch.rand(B, T, 2, 4) * 1.2
    clip = torch.tensor([[0.5, 0.4, 0.9, 1.2]]).expand(B, 4)
    made = head.predict({"frame": frame, "clip": clip}, features())
    assert torch.equal(made["events"], (frame >= 0.5) & torch.tensor([True, False, True, True]))
    assert made["probability"].max() <= 1
    assert torch.equal(made["line"], made["events"])
    assert made["place"].tolist() == [list(range(T))] * B


def test_han_counts_what_the_published_code_creates() -> None:
    with torch.device("meta"):
        head = HANHead(HANHeadConfig(), layouts("visual"), AVVPTask(AVVPTaskConfig(features=tuple(FEATURES))))
    allocated = sum(parameter.numel() for parameter in head.parameters())
    assert allocated + head.unused_in_reference == 9_307_723
    # Without three encoders that are never called; two norms of the one that is, are not either.
    assert allocated + 2 * 2 * 512 == 4_571_723


def test_han_takes_features_where_there_are_some_and_streams_elsewhere() -> None:
    config = HANHeadConfig(width=8, feed_forward=8)
    inputs = {name: torch.randn(B, *shape) for name, shape in FEATURES.items()}
    for given in ((), ("r2plus1d_18",), ("vggish", "r2plus1d_18"), tuple(FEATURES)):
        head = HANHead(config, layouts(), task(*given))
        widths = [one.in_features for one in (head.network.embedding.audio, head.network.embedding.visual)]
        assert widths == [128 if "vggish" in given else 6, 2048 if "res152" in given else 8]
        assert (head.network.embedding.motion is None) == ("r2plus1d_18" not in given)
        assert head(features(inputs=inputs))["frame"].shape == (B, T, 2, 4)
    head = HANHead(config, layouts("visual"), task("vggish"))
    assert head(features("visual", inputs=inputs))["clip"].shape == (B, 4)
    with pytest.raises(AssemblyError, match=r"'avvp\.han' needs audio: .*task_options\.features=\[vggish\]"):
        HANHead(config, layouts("visual"), task())


@pytest.mark.parametrize(("name", "segments"), [("vggish", 5), ("r2plus1d_18", 5), ("res152", 3)])
def test_features_of_another_number_of_segments_are_refused(name: str, segments: int) -> None:
    for kind, config in HEADS[1:]:
        with pytest.raises(AssemblyError, match=rf"'{name}' have \d+ rows for a clip of {segments} segments"):
            kind(config, layouts(segments=segments), task(name))
    assert HANHead(HANHeadConfig(), layouts(segments=5), task("res152")).sources.visual == 2048


def test_mgn_on_features_of_files() -> None:
    with torch.device("meta"):
        head = MGNHead(MGNHeadConfig(), layouts("visual"), AVVPTask(AVVPTaskConfig(features=tuple(FEATURES))))
    at_dgsct = 4_382_449  # on sound of width 768 and pictures of 1536
    assert sum(parameter.numel() for parameter in head.parameters()) == at_dgsct + 128 * (128 - 768 + 2048 - 1536)
    assert head.unused_in_reference == 0


def test_hard_assignment_gives_each_second_to_one_group() -> None:
    torch.manual_seed(0)
    module = Assignment(8, hard=True)
    tokens, x = torch.randn(2, 3, 8), torch.randn(2, 5, 8, requires_grad=True)
    module.eval()
    _, soft = module(tokens, x)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 5))
    scores = module.query(tokens) * 8**-0.5 @ module.key(x).mT
    shares = F.one_hot(scores.argmax(1), 3).mT.float()
    shares = shares / (shares.sum(-1, keepdim=True) + 1)
    torch.testing.assert_close(module(tokens, x)[0], module.projection(shares @ module.value(x)))
    module.train()
    assert not torch.equal(module(tokens, x)[0], module(tokens, x)[0])  # drawn
    module(tokens, x)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="features must be some of vggish, res152, r2plus1d_18"):
        AVVPTaskConfig(features=("clip",))
    with pytest.raises(ValueError, match="classes must be different names"):
        AVVPTaskConfig(classes=("a", "a"))
    with pytest.raises(ValueError, match=r"heads must be a divisor of width \(512\)"):
        HANHeadConfig(heads=3)
    with pytest.raises(ValueError, match="visual_smoothing must be from 0 to 1"):
        HANHeadConfig(visual_smoothing=1.5)
    with pytest.raises(ValueError, match="dropout"):
        AttentiveHeadConfig(dropout=1.0)
    with pytest.raises(ValueError, match="drop_path must be from 0 to below 1"):
        MGNHeadConfig(drop_path=1.0)
    with pytest.raises(ValueError, match=r"heads must be a divisor of width \(16\)"):
        MGNHeadConfig(width=16, heads=3)
    with pytest.raises(ValueError, match="depth_both must be 1 or more"):
        MGNHeadConfig(depth_both=0)
