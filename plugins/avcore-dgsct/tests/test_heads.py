"""The heads: what they give, how clips are scored and named, what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from avcore import AVCoreError
from avcore.model import AVModel
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Progress, StreamFeatures, Task
from avcore_ave.config import AVETaskConfig, TemporalSettings
from avcore_ave.losses import event_losses
from avcore_ave.task import AVETask, AVEWeakTask
from avcore_avs.config import AVSTaskConfig, MS3TaskConfig
from avcore_avs.task import AVSTask
from avcore_avvp.config import AVVPTaskConfig
from avcore_avvp.task import AVVPTask
from avcore_dgsct.ave import AVEHead
from avcore_dgsct.avs import AVSHead
from avcore_dgsct.avvp import AVVPHead
from avcore_dgsct.settings import AVEHeadSettings, AVSHeadSettings, AVVPHeadSettings

B, T = 3, 5
SMALL = TemporalSettings(width=8, feed_forward=12, heads=2, dropout=0.0)


def layout(widths: tuple[int, ...], sides: tuple[int, ...], segments: int = T) -> StreamLayout:
    stages = tuple(
        StageLayout(width=width, heads=1, depth=1, grid=(side, side)) for width, side in zip(widths, sides, strict=True)
    )
    return StreamLayout(stages=stages, segments=segments, taps=tuple(range(len(stages))))


PICTURES, SOUND = layout((2, 4, 6, 8), (8, 4, 2, 1)), layout((9,), (2,))


def features() -> Features:
    torch.manual_seed(0)

    def stream(found: StreamLayout) -> StreamFeatures:
        maps = tuple(torch.randn(B * T, stage.width, *stage.grid) for stage in found.tapped)
        tokens = maps[-1].flatten(2).mT
        pooled = tokens.mean(1).unflatten(0, (B, T))
        return StreamFeatures(pooled=pooled, tokens=tokens, raw_tokens=tokens, maps=maps)

    streams = {"visual": stream(PICTURES), "audio": stream(SOUND)}
    return Features(streams=streams, clips=B, segments=T, valid=torch.ones(B, dtype=torch.bool))


def batch(**targets: torch.Tensor) -> Batch:
    valid = torch.tensor([True, True, False])
    return Batch(
        frames=None, waveform=None, targets=targets, names=["a", "b", "c"], samples=torch.arange(3), valid=valid
    )


# ------------------------------------------------------------------------------------------------ event localisation


def event_head(**settings: Any) -> AVEHead:
    torch.manual_seed(0)
    config = AVEHeadSettings(visual_width=7, audio_width=6, temporal=SMALL, **settings)
    return AVEHead(config, {"visual": PICTURES, "audio": SOUND}, AVETask(AVETaskConfig(classes=("a", "b", "c", "d"))))


def test_segments_are_events_of_the_clip_or_background() -> None:
    head = event_head().eval()
    output = {
        "is_event": torch.tensor([[1.0, -1.0, 0.0]]),
        "event": torch.tensor([[0.0, 2.0, 1.0, 0.0]]),
    }
    made = head.predict(output, features())
    assert made["labels"].tolist() == [[1, 4, 4]]
    event = output["event"].softmax(-1)[0, 1]
    here = output["is_event"].sigmoid()[0]
    torch.testing.assert_close(made["probability"][0], torch.stack([here[0] * event, 1 - here[1], 1 - here[2]]))


def test_the_clip_is_scored_by_its_best_segments() -> None:
    head = event_head(top=2, score_weight=0.5).eval()
    given = features()
    output = head(given)
    shapes = {"is_event": (B, T), "gate": (B, T), "event": (B, 4), "score": (B, 4)}
    assert {name: tuple(tensor.shape) for name, tensor in output.items()} == shapes
    assert 0 < output["gate"].min() < output["gate"].max() < 1
    visual, audio, _ = head.temporal(given.stream("visual").pooled, given.stream("audio").pooled)
    module = head.localisation
    best = [module.visual_score(visual), module.audio_score(audio)]
    expected = sum(scores.sort(1, descending=True).values[:, :2].mean(1) for scores in best) / 2
    torch.testing.assert_close(output["score"], expected)
    event = module.event(((visual + audio) / 2).amax(1)) + 0.5 * expected
    torch.testing.assert_close(output["event"], event)


def test_gates_of_one_stream_scale_the_other() -> None:
    given = features()
    open_, shut = event_head(gamma=0.5).eval(), event_head(gamma=0.0).eval()
    streams = given.stream("visual").pooled, given.stream("audio").pooled
    gated, plain = open_.temporal(*streams), shut.temporal(*streams)
    sides = open_.temporal.audio(open_.temporal.audio_in(streams[1])), plain
    torch.testing.assert_close(gated.visual, plain.visual * (1 + 0.5 * sides[0].gate))
    torch.testing.assert_close(gated.gate, plain.gate)


def test_the_loss_counts_valid_clips_alone() -> None:
    head = event_head()
    output = head(features())
    labels = torch.tensor([[4, 2, 2, 4, 4], [4, 4, 4, 4, 4], [1, 1, 1, 1, 1]])
    terms = head.loss(output, batch(labels=labels), Progress())
    here = (labels != 4).float()[:2]
    expected = {
        "is_event": F.binary_cross_entropy_with_logits(output["is_event"][:2], here),
        "gate": F.binary_cross_entropy_with_logits(output["gate"][:2], here),
        # A clip of nothing but background counts as event 0.
        "event": F.cross_entropy(output["event"][:2], torch.tensor([2, 0])),
        "score": F.cross_entropy(output["score"][:2], torch.tensor([2, 0])),
    }
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    nothing = event_losses(output, labels, torch.zeros(B, dtype=torch.bool), 4)
    assert all(term == 0 for term in nothing.values())


def test_labels_of_clips_alone_take_the_localisation_of_the_weak_model() -> None:
    config = AVEHeadSettings(visual_width=7, audio_width=6, temporal=SMALL)
    task = AVEWeakTask(AVETaskConfig(classes=("a", "b", "c", "d")))
    head = AVEHead(config, {"visual": PICTURES, "audio": SOUND}, task).eval()
    given = features()
    output = head(given)
    made = head.temporal(given.stream("visual").pooled, given.stream("audio").pooled)
    torch.testing.assert_close(output["clip"], (made.gate * output["event"][:, None]).amax(1))
    assert output["event"].shape == (B, 5)
    (term,) = head.loss(output, batch(clip_label=torch.tensor([4, 1, 0])), Progress()).values()
    expected = F.multilabel_soft_margin_loss(output["clip"][:2].softmax(-1), F.one_hot(torch.tensor([4, 1]), 5))
    torch.testing.assert_close(term, expected)
    term.backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    assert (
        head.predict(output, given)["labels"].tolist() == output["event"].argmax(-1, keepdim=True).expand(B, T).tolist()
    )


def test_dropout_is_off_in_evaluation() -> None:
    head = event_head(input_dropout=0.5)
    given = features()
    assert not torch.equal(head(given)["event"], head(given)["event"])
    head.eval()
    assert torch.equal(head(given)["event"], head(given)["event"])


def test_what_event_localisation_refuses() -> None:
    task, config = AVETask(AVETaskConfig()), AVEHeadSettings(temporal=SMALL)
    with pytest.raises(AVCoreError, match="Task has no background"):
        AVEHead(config, {"visual": PICTURES, "audio": SOUND}, Task(None))
    for layouts in ({"audio": SOUND}, {"visual": PICTURES}):
        with pytest.raises(AVCoreError, match="needs both streams"):
            AVEHead(config, layouts, task)
    with pytest.raises(AVCoreError, match=r"head\.top=4 segments speak for a clip, but it has 3"):
        AVEHead(config, {"visual": layout((8,), (2,), segments=3), "audio": layout((9,), (2,), segments=3)}, task)


# ------------------------------------------------------------------------------------------------------ segmentation


def mask_head(task: AVSTaskConfig | None = None, **settings: Any) -> AVSHead:
    torch.manual_seed(0)
    config = AVSHeadSettings(
        size=32, width=8, audio_width=7, output_widths=(6, 4), temporal=SMALL, input_dropout=0.0, **settings
    )
    head = AVSHead(config, {"visual": PICTURES, "audio": SOUND}, AVSTask(task or AVSTaskConfig()))
    for tpavi in head.decoder.tpavi.values():
        torch.nn.init.normal_(tpavi.out_norm.weight)
    return head


def masks() -> Batch:
    drawn = torch.rand(B, T, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.5
    return batch(masks=drawn.float(), labelled=torch.ones(B, T, dtype=torch.bool))


def test_masks_come_from_gated_maps_and_gated_sound() -> None:
    head = mask_head(gamma=0.4).eval()
    given = features()
    maps = [torch.randn(B * T, 8, 4, 4) for _ in range(4)]
    audio = torch.randn(B, T, 7)
    gated, sound = head.temporal(maps, audio)
    from_pictures, from_sound = zip(
        *(scale(x.unflatten(0, (B, T)), audio) for scale, x in zip(head.temporal.scales, maps, strict=True)),
        strict=True,
    )
    for made, x, gate in zip(gated, maps, from_sound, strict=True):
        torch.testing.assert_close(made, x * (1 + 0.4 * gate.flatten()[:, None, None, None]))
    torch.testing.assert_close(sound, audio * (1 + 0.4 * sum(from_pictures) / 4))
    assert head(given)["logits"].shape == (B, T, 1, 32, 32)


@pytest.mark.parametrize("task", [AVSTaskConfig(), MS3TaskConfig()], ids=["s4", "ms3"])
def test_every_parameter_of_segmentation_learns(task: AVSTaskConfig) -> None:
    head = mask_head(task, tpavi_stages=(1, 2))
    terms = head.loss(head(features()), masks(), Progress())
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_frames_without_a_mask_may_be_left_out_in_training() -> None:
    whole, lean = mask_head(), mask_head(skip_unsupervised=True)
    found = [head(features()) for head in (whole, lean)]
    assert [output["logits"].shape[1] for output in found] == [T, 1]
    losses = [head.loss(output, masks(), Progress())["mask"] for head, output in zip((whole, lean), found, strict=True)]
    torch.testing.assert_close(*losses)


def test_what_segmentation_refuses() -> None:
    task = AVSTask(AVSTaskConfig())
    for layouts in ({"audio": SOUND}, {"visual": PICTURES}):
        with pytest.raises(AVCoreError, match="needs"):
            AVSHead(AVSHeadSettings(temporal=SMALL), layouts, task)
    with pytest.raises(ValueError, match="tpavi_stages must be one or more of 0 to 3"):
        AVSHeadSettings(tpavi_stages=())


# ------------------------------------------------------------------------------------------------------- video parsing


def parsing_head(*features: str, **settings: Any) -> AVVPHead:
    torch.manual_seed(0)
    temporal = TemporalSettings(width=4, feed_forward=6, heads=2, dropout=0.0)
    config = AVVPHeadSettings(width=8, heads=2, temporal=temporal, **settings)
    task = AVVPTask(AVVPTaskConfig(classes=("a", "b", "c"), features=features))
    return AVVPHead(config, {"visual": PICTURES, "audio": SOUND}, task)


def test_sound_gates_pictures_and_not_the_reverse() -> None:
    given = features()
    open_, shut = parsing_head(gamma=0.5).eval(), parsing_head(gamma=0.0).eval()
    visual, audio = torch.randn(B, T, 8), torch.randn(B, T, 8)
    gate = open_.temporal.audio(audio).gate
    torch.testing.assert_close(open_.temporal(visual, audio), visual * (1 + 0.5 * gate))
    torch.testing.assert_close(shut.temporal(visual, audio), visual)
    assert open_(given)["frame"].shape == (B, T, 2, 3)


def test_every_parameter_of_video_parsing_learns() -> None:
    head = parsing_head()
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    terms = head.loss(head(features()), batch(labels=labels), Progress())
    assert terms.keys() == {"clip", "audio", "visual", "audio_tokens", "visual_tokens"}
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_video_parsing_on_the_streams_of_a_whole_model(make: Callable[..., AVModel]) -> None:
    model = make(task="avvp")
    assert all("random weights" in notice for notice in model.notices)  # no parameter that no loss depends on
    frames = torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)
    given = Batch(
        frames=frames,
        waveform=torch.zeros(2, 38400, dtype=torch.int16),
        targets={"labels": torch.eye(25)[:2]},
        names=["a", "b"],
        samples=torch.arange(2),
        valid=torch.ones(2, dtype=torch.bool),
    )
    terms = model.losses(model(given), given)
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, one in model.part_modules.named_parameters() if one.requires_grad and one.grad is None] == []
    assert model.predict(model(given))["events"].shape == (2, 4, 2, 25)


def test_what_video_parsing_refuses() -> None:
    task = AVVPTask(AVVPTaskConfig())
    for layouts in ({"audio": SOUND}, {"visual": PICTURES}):
        with pytest.raises(AVCoreError, match=r"'dgsct\.avvp' needs both streams"):
            AVVPHead(AVVPHeadSettings(), layouts, task)
    with pytest.raises(ValueError, match="width must be even"):
        AVVPHeadSettings(width=9, heads=3)
    with pytest.raises(ValueError, match="gamma must be 0 or more"):
        AVVPHeadSettings(gamma=-0.1)
    with pytest.raises(AVCoreError, match=r"'r2plus1d_18' have 10 rows for a clip of 5 segments"):
        parsing_head("r2plus1d_18")


@pytest.mark.parametrize(
    "setting",
    ["head.top=0", "head.visual_width=0", "head.input_dropout=1", "head.temporal.width=9", "head.temporal.heads=3"],
)
def test_settings_out_of_range_are_named(make: Callable[..., AVModel], setting: str) -> None:
    with pytest.raises(AVCoreError, match=setting.partition("=")[0].replace(".", r"\.")):
        make(setting, meta=True)
