from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from levels import Levels
from torch import Tensor

from avcore.data.changes import MUTED, Change, dropping
from avcore.data.loader import ClipLoader, swap
from avcore.errors import AVCoreError
from avcore.specs import AudioGeometry, ImageGeometry
from avcore.tasks import Clip

SWAPPED, NOISE = Change(sound="swapped"), Change(sound="noise")


def test_swapped_sound_is_of_another_group_and_always_the_same(load: Any) -> None:
    def pairs(loader: ClipLoader) -> dict[int, int]:
        return {
            number: int(wave[0]) - 1
            for batch in loader
            for number, wave in zip(batch.targets["number"].tolist(), batch.waveform, strict=True)  # type: ignore[arg-type]
        }

    loader = load(change=SWAPPED)
    found = pairs(loader)
    assert sorted(found.values()) == list(range(11))
    assert all(number % 3 != donor % 3 for number, donor in found.items())
    loader.set_epoch(5)
    assert pairs(loader) == found
    assert pairs(load(change=SWAPPED, shuffle=False, batch_size=2)) == found
    assert pairs(load(change=SWAPPED, seed=4)) != found


@pytest.mark.parametrize("groups", ["ab", "aabb", "aaabbb", "abcabcc", "", "aaaaabcbcbc"])
@pytest.mark.parametrize("seed", range(20))
def test_every_clip_is_swapped_once_where_groups_allow(groups: str, seed: int) -> None:
    listed = list(groups) or [""] * 7
    donors = swap(len(listed), listed, seed)
    assert sorted(donors) == list(range(len(listed)))
    assert all(donor != clip for clip, donor in enumerate(donors))
    assert all(not group or listed[donor] != group for group, donor in zip(listed, donors, strict=True))


def test_a_group_of_more_than_half_is_still_swapped_with_others() -> None:
    groups = ["a", "a", "a", "a", "b"]
    donors = swap(5, groups, 0)
    assert [groups[donor] for donor in donors] == ["b", "b", "b", "b", "a"]
    with pytest.raises(AVCoreError, match="two groups"):
        swap(3, ["a", "a", "a"], 0)


def test_mute_sound_is_silence_and_reads_no_file(load: Any, clips: list[Clip]) -> None:
    missing = Levels([replace(clip, audio=Path("missing.wav")) for clip in clips])
    for batch in load(dataset=missing, change=MUTED["_mute_audio"]):
        assert batch.waveform.shape == (4, 8000)
        assert not batch.waveform.any()
        assert batch.frames[:, 0, 0, 0, 0].tolist() == batch.targets["number"].tolist()


@pytest.mark.parametrize("frames", [1, 2])
def test_mute_pictures_are_what_the_backbone_takes_to_zero_and_no_file_is_read(
    load: Any, clips: list[Clip], frames: int
) -> None:
    missing = Levels([replace(clip, frames=(Path("missing.png"),) * 2) for clip in clips])
    image = ImageGeometry(size=8, mean=(0.1, 0.5, 0.9), std=(0.2, 0.2, 0.2), frames=frames)
    batch = next(iter(load(dataset=missing, image=image, change=MUTED["_mute_visual"])))
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.shape == (4, 2, *image.shape)
    normed = (batch.frames.movedim(-3, -1) / 255 - torch.tensor(image.mean)) / torch.tensor(image.std)
    assert normed.abs().max() < 0.5 / 255 / 0.2 + 1e-6
    assert batch.waveform[:, 0].tolist() == (batch.targets["number"] + 1).tolist()
    batch = next(iter(load(dataset=missing, image=image, change=MUTED["_mute_both"])))
    assert not batch.waveform.any()
    assert batch.frames.unique().tolist() == [26, 128, 230]


@pytest.mark.parametrize("channels", [1, 2])
def test_noise_is_as_loud_as_the_clip_s_own_sound_and_always_the_same(
    load: Any, clips: list[Clip], make_wav: Any, tmp_path: Path, channels: int
) -> None:
    time = np.arange(8000) / 8000
    tones = [(amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.int16) for amplitude in (0, 1000, 4000, 30000)]
    loud = [
        replace(clip, audio=make_wav(tmp_path / f"{number}.wav", tone, rate=8000))
        for number, (clip, tone) in enumerate(zip(clips, tones, strict=False))
    ]

    def sounds(**changes: Any) -> Tensor:
        given = {"shuffle": False, "dataset": Levels(loud), "audio": AudioGeometry(rate=8000, channels=channels)}
        found = next(iter(load(**(given | changes)))).waveform
        assert found is not None
        return found

    def level(sound: Tensor) -> Tensor:
        return sound.float().square().flatten(1).mean(1).sqrt()

    own, noise = sounds(), sounds(change=NOISE)
    assert noise.dtype == torch.int16
    assert not noise[0].any()  # as silent as its clip
    torch.testing.assert_close(level(noise)[1:3], level(own)[1:3], rtol=0.03, atol=0)
    quiet = sounds(change=replace(NOISE, noise_db=-20.0))
    torch.testing.assert_close(level(quiet)[1:], level(own)[1:] / 10, rtol=0.03, atol=0.5)
    assert (
        sounds(change=replace(NOISE, noise_db=40.0))[3].int().abs() >= 32767
    ).float().mean() > 0.9  # cut, not wrapped
    spectrum = torch.fft.rfft(noise[2].float().reshape(-1, 8000)[0]).abs().square()
    halves = spectrum[1:2000].mean() / spectrum[2000:].mean()
    assert 0.85 < halves < 1.15  # white
    assert torch.equal(sounds(change=NOISE, batch_size=2), noise[:2])
    turned = sounds(change=NOISE, dataset=Levels(loud[::-1]))
    assert torch.equal(turned.flip(0), noise)
    assert not torch.equal(sounds(change=NOISE, seed=4)[1:], noise[1:])


def test_clips_without_a_stream_are_blank_and_the_others_their_own(load: Any) -> None:
    loader = load(change=dropping({"audio": 0.4, "visual": 0.4}))

    def epoch(number: int) -> dict[int, tuple[bool, bool]]:
        loader.set_epoch(number)
        found = {}
        for batch in loader:
            for clip, frames, wave in zip(batch.targets["number"].tolist(), batch.frames, batch.waveform, strict=True):
                seen, heard = frames.flatten()[0].item() == clip, int(wave[0]) == clip + 1
                assert seen or len(frames.unique()) <= 3
                assert heard or not wave.any()
                found[clip] = seen, heard
        return found

    first, second = epoch(0), epoch(1)
    assert first != second, "another epoch, other clips"
    assert epoch(0) == first
    kinds = {*first.values(), *second.values()}
    assert kinds == {(True, True), (False, True), (True, False)}, "no clip has neither"
