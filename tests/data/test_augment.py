"""What ``train.augment`` does to batches: values, one draw for each clip, what moves with pictures, what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avcore.config.transforms import NESTING, PICTURES, AugmentConfig, MixConfig
from avcore.data.augment import Augmentation
from avcore.data.frontends import FilterBank
from avcore.data.randomness import generator
from avcore.data.reader import PARTNER
from avcore.errors import AssemblyError
from avcore.specs import FilterBankGeometry, ImageGeometry, Windows
from avcore.tasks import Batch, Task

SIDE, SEGMENTS, RATE = 16, 2, 8000
FLIP = {"name": "RandomHorizontalFlip", "p": 1.0}
STGCMA = [
    {"name": "RandAugment", "num_ops": 4, "magnitude": 7, "num_magnitude_bins": 11},
    {"name": "RandomResizedCrop", "scale": [0.08, 1.0]},
    {"name": "RandomHorizontalFlip"},
    {"name": "RandomErasing", "p": 0.25, "value": [124, 116, 104]},
]
MASKING = [{"name": "FrequencyMasking", "freq_mask_param": 4}, {"name": "TimeMasking", "time_mask_param": 20}]


class Masks(Task):
    prediction: ClassVar[Mapping[str, str]] = {"masks": "pixel"}
    pixel_targets: ClassVar[Mapping[str, float]] = {"masks": 0}


class Ignores(Masks):
    pixel_targets: ClassVar[Mapping[str, float]] = {"masks": 255}


class Unmovable(Masks):
    pixel_targets: ClassVar[Mapping[str, float]] = {}


class Words(Task):
    prediction: ClassVar[Mapping[str, str]] = {"class": "clip"}


def bank() -> FilterBank:
    return FilterBank(
        FilterBankGeometry(rate=RATE, mel_bins=8, frames=96), Windows(length=1.0, margin=1.0), segments=SEGMENTS
    )


def augmentation(
    visual: Any = (),
    audio: Any = (),
    *,
    seed: int = 0,
    task: type[Task] = Words,
    front_end: nn.Module | None = None,
    streams: tuple[str, ...] = ("visual", "audio"),
    mix: MixConfig = MixConfig(),  # noqa: B008 - frozen
) -> Augmentation:
    listed = AugmentConfig(visual=tuple(visual), audio=tuple(audio), mix=mix)
    config = SimpleNamespace(seed=seed, train=SimpleNamespace(augment=listed))
    model: Any = SimpleNamespace(
        config=config,
        task=task(None),
        image=ImageGeometry(size=SIDE) if "visual" in streams else None,
        sound=FilterBankGeometry(rate=RATE) if "audio" in streams else None,
        streams={"audio": SimpleNamespace(front_end=front_end or bank())},
    )
    return Augmentation(model)


def batch(samples: list[int], *, targets: Any = None, companions: Any = None, pictures: int = 1) -> Batch:
    """Noise that depends on the sample alone."""
    shape = (SEGMENTS, 3, SIDE, SIDE) if pictures == 1 else (SEGMENTS, pictures, 3, SIDE, SIDE)
    draws = [torch.Generator().manual_seed(sample) for sample in samples]
    return Batch(
        frames=torch.stack([torch.randint(0, 256, shape, generator=one, dtype=torch.uint8) for one in draws]),
        waveform=torch.stack([torch.randint(-9999, 9999, (2 * RATE,), generator=one).short() for one in draws]),
        targets=targets or {},
        names=[str(sample) for sample in samples],
        samples=torch.tensor(samples),
        valid=torch.ones(len(samples), dtype=torch.bool),
        companions=companions or {},
    )


def pictures(augment: Augmentation, given: Batch, epoch: int = 0) -> Tensor:
    with augment(given, epoch) as made:
        assert made.frames is not None
        return made.frames


def test_a_certain_flip_mirrors_pictures_and_nothing_else() -> None:
    given = batch([0, 1], targets={"class": torch.tensor([3, 4])})
    with augmentation([FLIP])(given, 0) as made:
        assert torch.equal(made.frames, given.frames.flip(-1))
        assert made.frames.dtype == torch.uint8
        assert made.waveform is given.waveform
        assert made.targets["class"] is given.targets["class"]


# Parameters with which a transform changes noise of 16 x 16 px for certain, and keeps its size.
PARAMETERS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 8},
    "ColorJitter": {"brightness": 0.9},
    "ElasticTransform": {"alpha": 100, "sigma": 1},
    "GaussianBlur": {"kernel_size": 5},
    "Grayscale": {"num_output_channels": 3},
    "Pad": {"padding": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "RandomAffine": {"degrees": [30, 40]},
    "RandomCrop": {"padding": 6},
    "RandomPosterize": {"bits": 2},
    "RandomResize": {"min_size": 20, "max_size": 21},
    "RandomRotation": {"degrees": [30, 40]},
    "RandomShortestSize": {"min_size": 20},
    "RandomSolarize": {"threshold": 100},
    "Resize": {"size": 8},
    "ScaleJitter": {"target_size": [40, 40]},
    **{name: {"transforms": [{"name": "RandomInvert", "p": 1}]} for name in NESTING},
}


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_transform_acts_on_pictures(name: str) -> None:
    """None passes them through untouched, as torchvision does with what a transform has no kernel for."""
    entry = {"name": name, **({"p": 1.0} if name.startswith("Random") else {}), **PARAMETERS.get(name, {})}
    if name in ("RandomAffine", "RandomChannelPermutation", "RandomCrop", "RandomResize", "RandomResizedCrop"):
        del entry["p"]
    if name in ("RandomChoice", "RandomOrder", "RandomRotation", "RandomShortestSize"):
        del entry["p"]
    given = batch([0, 1, 2, 3])
    frames = given.frames // 2 + 20
    made = pictures(augmentation([entry, {"name": "Resize"}]), replace(given, frames=frames))
    assert not torch.equal(made, frames)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("side", [SIDE, 24])
def test_targets_on_pixels_move_with_the_pictures(dtype: torch.dtype, side: int) -> None:
    """At whatever size, in their own type and shape."""
    masks = torch.zeros(1, SEGMENTS, side, side, dtype=dtype)
    masks[:, 0, :, : side // 2] = 1
    given = batch([0], targets={"masks": masks, "class": torch.tensor([1])})
    with augmentation([FLIP, {"name": "ColorJitter", "brightness": 0.4}], task=Masks)(given, 0) as made:
        assert made.targets["masks"].dtype == dtype
        assert torch.equal(made.targets["masks"], masks.flip(-1))


def test_masks_stay_exactly_under_what_they_mask() -> None:
    """A red square and its mask, rotated, scaled and cropped alike; no value appears that was not there."""
    frames = torch.zeros(6, SEGMENTS, 3, SIDE, SIDE, dtype=torch.uint8)
    frames[..., 0, 4:12, 3:9] = 255
    masks = (frames[:, :, 0] > 0).float() / 2
    given = replace(batch(list(range(6)), targets={"masks": masks}), frames=frames)
    moving = [{"name": "RandomAffine", "degrees": 40, "translate": [0.2, 0.2]}, {"name": "RandomPerspective", "p": 1}]
    with augmentation(moving, task=Masks)(given, 0) as made:
        red, moved = made.frames[:, :, 0] > 127, made.targets["masks"]
        assert set(moved.unique().tolist()) == {0.0, 0.5}
        assert not torch.equal(moved, masks)
        # The pictures are interpolated, masks take the nearest: they part at edges alone.
        assert ((moved > 0) == red).float().mean() > 0.93


def test_what_comes_from_outside_has_the_value_that_the_task_gives_it() -> None:
    masks = torch.full((1, SEGMENTS, SIDE, SIDE), 7, dtype=torch.int64)
    masks[..., 0] = 255
    given = batch([0], targets={"masks": masks})
    pad = [{"name": "Pad", "padding": 4, "fill": 99}, {"name": "CenterCrop", "size": SIDE + 4}, {"name": "Resize"}]
    with augmentation(pad, task=Ignores)(given, 0) as made:
        assert set(made.targets["masks"].unique().tolist()) == {7, 255}
        assert (made.targets["masks"][..., 0, :] == 255).all()  # padded
        assert int(made.frames[..., 0, 0, 0].unique()) == 99
    with augmentation(pad, task=Masks)(given, 0) as made:
        assert (made.targets["masks"][..., 0, :] == 0).all()


def test_all_pictures_of_a_clip_share_a_draw() -> None:
    for count in (1, 3):
        given = batch([0, 1], pictures=count)
        frames = (
            given.frames[:, :1, :1].expand_as(given.frames)
            if count > 1
            else given.frames[:, :1].expand(-1, 2, -1, -1, -1)
        )
        made = pictures(augmentation(STGCMA), replace(given, frames=frames.contiguous()))
        assert made.shape == given.frames.shape
        same = made.flatten(1, -4)
        assert torch.equal(same, same[:, :1].expand_as(same))
        assert not torch.equal(made, frames)


def masked(augment: Augmentation, given: Batch, front_end: nn.Module, epoch: int = 0) -> Tensor:
    with augment(given, epoch) as made:
        return front_end(made.waveform)  # type: ignore[no-any-return]


def test_a_clip_is_drawn_alike_in_every_batch_and_otherwise_in_every_epoch() -> None:
    front_end = bank()
    augment = augmentation(STGCMA, MASKING, front_end=front_end)
    alone = {one: (pictures(augment, batch([one])), masked(augment, batch([one]), front_end)) for one in range(5)}
    for samples in ([0, 1, 2, 3, 4], [4, 2, 0], [3, 3]):
        given = batch(samples)
        assert torch.equal(pictures(augment, given), torch.cat([alone[one][0] for one in samples]))
        torch.testing.assert_close(
            masked(augment, given, front_end), torch.cat([alone[one][1] for one in samples]), rtol=0, atol=1e-5
        )
    assert not torch.equal(pictures(augment, batch([0]), epoch=1), alone[0][0])
    assert not torch.equal(masked(augment, batch([0]), front_end, epoch=1), alone[0][1])
    other = augmentation(STGCMA, MASKING, seed=1)
    assert not torch.equal(pictures(other, batch([0, 1, 2])), pictures(augment, batch([0, 1, 2])))


def test_what_is_listed_for_sound_changes_no_picture() -> None:
    one, other = augmentation(STGCMA), augmentation(STGCMA, MASKING)
    assert torch.equal(pictures(one, batch([0, 1])), pictures(other, batch([0, 1])))


def test_masks_of_sound_hold_the_mean_of_the_clip() -> None:
    front_end = bank()
    given = batch([0, 1, 2])
    before = front_end(given.waveform)
    after = masked(augmentation((), MASKING, front_end=front_end), given, front_end)
    assert after.shape == before.shape
    for clip, plain in zip(after.chunk(3), before.chunk(3), strict=True):
        changed = clip != plain
        assert changed.any()
        assert not changed.all()
        torch.testing.assert_close(clip[changed], plain.mean().expand(int(changed.sum())))
        # Whole rows or columns, the same in both segments.
        columns, rows = changed.all(1), changed.all(2)
        assert torch.equal(changed, columns[:, None, :] | rows[:, :, None])
        assert torch.equal(changed[0], changed[1])
    torch.testing.assert_close(front_end(given.waveform), before, rtol=0, atol=0)  # outside nothing is masked


def test_segments_have_masks_of_their_own_where_that_is_listed() -> None:
    front_end, given = bank(), batch([0])
    entry = {"name": "TimeMasking", "time_mask_param": 40, "iid_masks": True}
    first, second = masked(augmentation((), [entry], front_end=front_end), given, front_end) != front_end(
        given.waveform
    )
    assert not torch.equal(first, second)


def test_both_channels_are_masked_alike() -> None:
    geometry = FilterBankGeometry(rate=RATE, mel_bins=8, frames=96, channels=2)
    front_end = FilterBank(geometry, Windows(length=1.0, margin=1.0), segments=SEGMENTS)
    given = batch([0, 1])
    assert given.waveform is not None
    stereo = replace(given, waveform=torch.stack([given.waveform, given.waveform.flip(-1)], 1))
    before = front_end(stereo.waveform)
    changed = masked(augmentation((), MASKING, front_end=front_end), stereo, front_end) != before
    assert changed.shape == (2 * SEGMENTS, 2, 96, 8)
    for clip in changed.chunk(2):
        assert clip.any()
        assert torch.equal(clip, clip[:1, :1].expand_as(clip))


def test_companions_are_drawn_for_themselves() -> None:
    front_end = bank()
    other = batch([0, 1])  # the samples of those that asked
    given = batch([0, 1], companions={"negative": other})
    augment = augmentation(STGCMA, MASKING, front_end=front_end)
    with augment(given, 0) as made:
        own, theirs = made.frames, made.companions["negative"].frames
        assert not torch.equal(theirs, other.frames)
        assert not torch.equal(theirs, own)  # the same pictures, other draws
        heard = front_end(made.companions["negative"].waveform)
        assert not torch.equal(heard, front_end(made.waveform))
    alone = batch([1], companions={"negative": batch([1])})
    with augment(alone, 0) as made:
        assert torch.equal(made.companions["negative"].frames[0], theirs[1])


def test_the_callers_generators_are_left_alone() -> None:
    front_end = bank()
    augment = augmentation(STGCMA, MASKING, front_end=front_end)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with augment(batch([0, 1]), 0) as made:
        front_end(made.waveform)
    augmentation(STGCMA, MASKING)
    assert torch.equal(torch.rand(3), expected)


def test_a_stream_that_is_off_leaves_its_list_at_rest() -> None:
    given = batch([0])
    assert augmentation([FLIP], MASKING, streams=("audio",))._pictures == []
    with augmentation([FLIP], MASKING, streams=("visual",))(replace(given, waveform=None), 0) as made:
        assert torch.equal(made.frames, given.frames.flip(-1))


@pytest.mark.parametrize(
    ("visual", "task", "match"),
    [
        (
            [FLIP],
            Unmovable,
            r"visual\[0\] \(RandomHorizontalFlip\) moves pictures, and Unmovable predicts 'masks' of pixels",
        ),
        ([STGCMA[0]], Masks, r"visual\[0\] \(RandAugment\) may move pictures and cannot move masks with them"),
        (
            [{"name": "RandomApply", "transforms": [{"name": "Grayscale"}, {"name": "RandAugment"}]}],
            Masks,
            r"visual\[0\] \(RandAugment\) may move",
        ),
        ([{"name": "RandomCrop", "size": 8}], Words, r"visual makes pictures \(3, 8, 8\) of \(3, 16, 16\)"),
        (
            [FLIP, {"name": "RandomCrop", "size": 32}],
            Words,
            r"visual\[1\] fails on pictures of 16 x 16 px: Required crop",
        ),
        ([{"name": "RandAugment", "magnitude": 40}], Words, r"visual\[0\] fails on pictures"),
        ([{"name": "Grayscale", "num_output_channels": 1}], Words, r"visual makes pictures \(1, 16, 16\)"),
    ],
)
def test_a_list_that_does_not_go_with_the_model_is_refused(visual: Any, task: type[Task], match: str) -> None:
    with pytest.raises(AssemblyError, match=rf"train\.augment\.{match}"):
        augmentation(visual, task=task)


def test_what_only_shades_needs_no_word_about_targets() -> None:
    assert augmentation([{"name": "ColorJitter", "hue": 0.1}], task=Unmovable)


def test_sound_that_is_no_log_mel_picture_is_refused() -> None:
    with pytest.raises(
        AssemblyError, match=r"Flatten, makes none \(SoundFrontEnd\.log_mel\).*train\.augment\.audio=\[\]"
    ):
        augmentation((), MASKING, front_end=nn.Flatten())


# ------------------------------------------------------------------------------------------------------- mixed sound

SEGMENTS_MIXED = 3
"""Windows of 1 s that overlap in clips of 2.5 s."""


def overlapping(channels: int = 1) -> FilterBank:
    geometry = FilterBankGeometry(rate=RATE, mel_bins=8, frames=96, channels=channels)
    return FilterBank(geometry, Windows(length=1.0, margin=1.1), segments=SEGMENTS_MIXED)


def sounds(samples: list[int], first: int, channels: int = 1) -> Batch:
    """Noise of 2.5 s, whose mean is not zero, in place of a batch's sound."""
    shape = (20000,) if channels == 1 else (channels, 20000)
    draws = [torch.Generator().manual_seed(first + sample) for sample in samples]
    waveform = torch.stack([torch.randint(-5000, 9999, shape, generator=one).short() for one in draws])
    return replace(batch(samples), waveform=waveform)


def with_partner(samples: list[int], channels: int = 1) -> Batch:
    partner = replace(sounds(samples, 100, channels), frames=None)
    return replace(sounds(samples, 0, channels), companions={PARTNER: partner})


def mixing(front_end: nn.Module, p: float, *, alpha: float = 10.0, audio: Any = (), **others: Any) -> Augmentation:
    return augmentation((), audio, front_end=front_end, mix=MixConfig(p=p, alpha=alpha), **others)


def test_mixed_sound_is_the_formula_of_its_source() -> None:
    """Of each second: both whole sounds without their means, r x + (1 - r) y, that second of it, its picture."""
    front_end, given = overlapping(), with_partner([4, 7])
    augment = mixing(front_end, 1.0)
    found = masked(augment, given, front_end, epoch=2).unflatten(0, (2, SEGMENTS_MIXED))
    starts = np.linspace(0, 20000 - int(1.1 * RATE), SEGMENTS_MIXED, dtype=int)
    shares = []
    for clip, sample in enumerate([4, 7]):
        x, y = (
            one.waveform[clip].double() / 32768 - (one.waveform[clip].double() / 32768).mean()
            for one in (given, given.companions[PARTNER])
        )
        draws = generator(0, "augment.mix", 2, sample)
        draws.random()
        for second, share in enumerate(draws.beta(10.0, 10.0, SEGMENTS_MIXED)):
            mixed = share * x + (1 - share) * y
            heard = (mixed - mixed.mean())[starts[second] : starts[second] + RATE]
            torch.testing.assert_close(
                found[clip, second].double(), front_end.pictures(heard[None])[0], rtol=0, atol=1e-4
            )
            shares.append(share)
    assert len(set(shares)) == 6
    assert torch.equal(front_end(given.waveform), overlapping()(given.waveform))  # outside nothing is mixed


def test_a_share_of_the_clips_is_mixed_anew_in_every_epoch() -> None:
    front_end, samples = overlapping(), list(range(12))
    given = with_partner(samples)
    plain = front_end(given.waveform).unflatten(0, (12, SEGMENTS_MIXED))
    augment = mixing(front_end, 0.5)
    seen = []
    for epoch in range(20):
        made = masked(augment, given, front_end, epoch=epoch).unflatten(0, (12, SEGMENTS_MIXED))
        seen.append((made != plain).flatten(1).any(1))
        # In a clip that is not mixed no bit differs, and in one that is every segment does.
        assert torch.equal((made != plain).flatten(2).any(2), seen[-1][:, None].expand(-1, SEGMENTS_MIXED))
    assert 0.4 < torch.stack(seen).double().mean() < 0.6
    assert len({tuple(one.tolist()) for one in seen}) > 15
    # A clip is mixed alike whatever stands beside it.
    alone = masked(augment, with_partner([5]), front_end, epoch=19)
    assert torch.equal(alone, made[5])


def test_shares_follow_their_distribution() -> None:
    augment = mixing(overlapping(), 1.0, alpha=2.0)
    drawn = torch.from_numpy(np.concatenate([augment._shares(sample, 10, 0) for sample in range(300)]))
    assert abs(drawn.mean() - 0.5) < 0.01
    assert abs(drawn.var() - 1 / (4 * (2 * 2.0 + 1))) < 0.003


def test_the_partner_is_not_for_the_model_and_other_companions_are_not_mixed() -> None:
    front_end = overlapping()
    other = sounds([0, 1], 50)
    given = with_partner([0, 1])
    given = replace(given, companions={**given.companions, "negative": other})
    with mixing(front_end, 1.0)(given, 0) as made:
        assert list(made.companions) == ["negative"]
        assert made.frames is given.frames
        heard, theirs = front_end(made.waveform), front_end(made.companions["negative"].waveform)
    assert not torch.equal(heard, front_end(given.waveform))
    assert torch.equal(theirs, front_end(other.waveform))


def test_both_channels_are_mixed_alike() -> None:
    front_end, alone = overlapping(2), overlapping()
    given = with_partner([0, 1], channels=2)
    found = masked(mixing(front_end, 1.0), given, front_end)
    for channel in range(2):
        one = given.map(lambda x, channel=channel: x[:, channel] if x.shape[1:] == (2, 20000) else x)  # type: ignore[misc]
        torch.testing.assert_close(found[:, channel], masked(mixing(alone, 1.0), one, alone))


def test_mixed_sound_is_masked_too() -> None:
    front_end, given = overlapping(), with_partner([0, 1])
    mixed = masked(mixing(front_end, 1.0), given, front_end)
    both = masked(mixing(front_end, 1.0, audio=MASKING), given, front_end)
    changed = mixed != both
    assert changed.any()
    assert not changed.all()


def test_mixing_needs_windows_and_rests_without_sound() -> None:
    with pytest.raises(AssemblyError, match=r"Flatten, is no SoundFrontEnd.*--set train\.augment\.mix\.p=0"):
        mixing(nn.Flatten(), 0.5)
    given = replace(batch([0]), waveform=None)
    with mixing(nn.Flatten(), 0.5, streams=("visual",))(given, 0) as made:
        assert made.frames is given.frames
