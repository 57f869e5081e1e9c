"""The head on backbones of different shapes, its losses, and its refusals."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Progress, StreamFeatures
from avcore_avs.config import AVSHeadConfig, AVSTaskConfig, MS3TaskConfig
from avcore_avs.heads import AVSHead
from avcore_avs.task import AVSTask

SMALL = AVSHeadConfig(size=32, width=8, projected=(3, 4, 5, 6), audio_width=7, output_widths=(6, 4))
B, T = 3, 2


def layout(widths: tuple[int, ...], grids: tuple[int, ...]) -> StreamLayout:
    stages = tuple(
        StageLayout(width=width, heads=1, depth=1, grid=(grid, grid)) for width, grid in zip(widths, grids, strict=True)
    )
    return StreamLayout(stages=stages, segments=T, taps=tuple(range(len(stages))))


VIT = layout((5, 5, 5, 5), (3, 3, 3, 3))
SWIN = layout((2, 4, 6, 8), (8, 4, 2, 1))
SOUND = layout((9,), (2,))


def stream(found: StreamLayout) -> StreamFeatures:
    maps = tuple(torch.randn(B * T, stage.width, *stage.grid) for stage in found.tapped)
    tokens = maps[-1].flatten(2).transpose(1, 2)
    return StreamFeatures(pooled=tokens.mean(1).unflatten(0, (B, T)), tokens=tokens, raw_tokens=tokens, maps=maps)


def make(
    config: AVSHeadConfig = SMALL,
    visual: StreamLayout = VIT,
    audio: StreamLayout | None = SOUND,
    task: AVSTaskConfig | None = None,
) -> tuple[AVSHead, Features]:
    torch.manual_seed(0)
    layouts = {"visual": visual, **({} if audio is None else {"audio": audio})}
    head = AVSHead(config, layouts, AVSTask(task or AVSTaskConfig()))
    for tpavi in head.decoder.tpavi.values():
        torch.nn.init.normal_(tpavi.out_norm.weight)
    streams = {name: stream(found) for name, found in layouts.items()}
    features = Features(streams=streams, clips=B, segments=T, valid=torch.ones(B, dtype=torch.bool))
    return head, features


def batch(size: int = 32, valid: tuple[bool, ...] = (True,) * B) -> Batch:
    return Batch(
        frames=None,
        waveform=None,
        targets={
            "masks": (torch.rand(B, T, size, size, generator=torch.Generator().manual_seed(1)) > 0.5).float(),
            "labelled": torch.ones(B, T, dtype=torch.bool),
        },
        names=["a", "b", "c"],
        samples=torch.arange(B),
        valid=torch.tensor(valid),
    )


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("visual", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("size", [32, 96])
def test_masks_have_the_asked_size_and_all_parameters_learn(visual: StreamLayout, size: int) -> None:
    head, features = make(replace(SMALL, size=size), visual, task=MS3TaskConfig())
    output = head(features)
    assert output["logits"].shape == (B, T, 1, size, size)
    masks = head.predict(output, features)["masks"]
    assert masks.shape == (B, T, size, size)
    assert masks.dtype == torch.float32
    torch.testing.assert_close(masks, output["logits"].squeeze(2).sigmoid())
    total(head.loss(output, batch(size), Progress())).backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_s4_learns_from_first_frames_alone() -> None:
    head, features = make()
    output = head(features)
    clips = batch()
    terms = head.loss(output, clips, Progress())
    assert terms.keys() == {"mask"}
    first = output["logits"][:, 0, 0]
    torch.testing.assert_close(terms["mask"], F.binary_cross_entropy_with_logits(first, clips.targets["masks"][:, 0]))


def test_ms3_adds_half_of_the_matching_loss() -> None:
    head, features = make(task=MS3TaskConfig())
    whole, _ = make(task=MS3TaskConfig(avm_weight=1.0))
    output = head(features)
    terms, doubled = head.loss(output, batch(), Progress()), whole.loss(output, batch(), Progress())
    assert terms.keys() == {"mask", "matching"}
    torch.testing.assert_close(2 * terms["matching"], doubled["matching"])
    logits, masks = output["logits"].squeeze(2), batch().targets["masks"]
    torch.testing.assert_close(terms["mask"], F.binary_cross_entropy_with_logits(logits, masks))


@pytest.mark.parametrize("task", [AVSTaskConfig(), MS3TaskConfig()], ids=["s4", "ms3"])
def test_padding_clips_change_no_loss(task: AVSTaskConfig) -> None:
    head, features = make(task=task)
    output = head.eval()(features)
    padded = total(head.loss(output, batch(valid=(True, True, False)), Progress()))
    kept = {key: value[:2] if len(value) == B else value[: 2 * T] for key, value in output.items()}
    clips = batch()
    clips.targets = {key: value[:2] for key, value in clips.targets.items()}
    clips.valid = clips.valid[:2]
    torch.testing.assert_close(padded, total(head.loss(kept, clips, Progress())))


def test_skipping_unsupervised_frames_keeps_loss_and_gradients() -> None:
    plain, features = make()
    lean, _ = make(replace(SMALL, skip_unsupervised=True))
    lean.load_state_dict(plain.state_dict())
    clips = batch(valid=(True, False, True))
    losses = []
    for head, frames in ((plain, T), (lean, 1)):
        output = head(features)
        assert output["logits"].shape[1] == frames
        losses.append(total(head.loss(output, clips, Progress())))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    for (name, parameter), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
    assert lean.eval()(features)["logits"].shape[1] == T
    supervised_everywhere, _ = make(replace(SMALL, skip_unsupervised=True), task=MS3TaskConfig())
    assert supervised_everywhere(features)["logits"].shape[1] == T


def test_sound_matters_and_its_absence_is_the_visual_ablation() -> None:
    head, features = make()
    head.eval()
    other = features.with_streams(audio=stream(SOUND))
    assert not torch.equal(head(features)["logits"], head(other)["logits"])

    silent, features = make(audio=None, task=MS3TaskConfig())
    output = silent(features)
    assert output.keys() == {"logits", "map_0", "map_1", "map_2", "map_3"}
    terms = silent.loss(output, batch(), Progress())
    assert terms.keys() == {"mask"}
    terms["mask"].backward()
    assert [name for name, parameter in silent.named_parameters() if parameter.grad is None] == []
    # The linear map of the audio vector in each TPAVI, which the reference allocates all the same.
    assert silent.unused_in_reference - head.unused_in_reference == 4 * (7 * 8 + 8)


def test_counts_of_lavish_and_dg_sct() -> None:
    """LAVISH adds 1,291,392 to the decoder, DG-SCT's maps are 738,304 and its ASPP is unused."""
    swin, sound = layout((192, 384, 768, 1536), (48, 24, 12, 6)), layout((1536,), (6,))
    with torch.device("meta"):
        lavish = AVSHead(AVSHeadConfig(), {"visual": swin, "audio": sound}, AVSTask(AVSTaskConfig()))
        direct = AVSHead(AVSHeadConfig(projected=()), {"visual": swin, "audio": sound}, AVSTask(AVSTaskConfig()))
    allocated = sum(parameter.numel() for parameter in lavish.parameters())
    assert allocated + lavish.unused_in_reference == 19_877_569 + 1_291_392
    assert sum(parameter.numel() for parameter in direct.projections.parameters()) == 738_304
    assert direct.unused_in_reference - lavish.unused_in_reference == 9_441_280


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        head, features = make(task=MS3TaskConfig())
        assert total(head.loss(head(features), batch_on_meta(), Progress())).shape == ()


def batch_on_meta() -> Batch:
    return Batch(
        frames=None,
        waveform=None,
        targets={"masks": torch.zeros(B, T, 32, 32), "labelled": torch.ones(B, T, dtype=torch.bool)},
        names=["a", "b", "c"],
        samples=torch.arange(B),
        valid=torch.ones(B, dtype=torch.bool),
    )


def test_refusals() -> None:
    task = AVSTask(AVSTaskConfig())
    with pytest.raises(AVCoreError, match="needs the visual stream"):
        AVSHead(SMALL, {"audio": SOUND}, task)
    with pytest.raises(AVCoreError, match="4 depths"):
        AVSHead(SMALL, {"visual": layout((5, 5), (3, 3)), "audio": SOUND}, task)
    head, features = make()
    with pytest.raises(AVCoreError, match=r"data\.size and head\.size"):
        head.loss(head(features), batch(size=64), Progress())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 100}, "size"),
        ({"width": 7}, "width"),
        ({"projected": (1, 2)}, "projected"),
        ({"tpavi_stages": (0, 4)}, "tpavi_stages"),
        ({"tpavi_stages": (1, 1)}, "tpavi_stages"),
        ({"audio_width": 0}, "audio_width"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AVSHeadConfig(**settings)


def test_a_decoder_that_does_not_listen_allocates_nothing_for_sound() -> None:
    head, features = make(replace(SMALL, tpavi_stages=()))
    assert head.audio_projection is None
    assert not any("tpavi" in name or "audio" in name for name, _ in head.named_parameters())
    total(head.loss(head(features), batch(), Progress())).backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
