"""A backbone that hears left and right, from the files to a prediction."""

import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from installed import installed
from media import grey_video
from torch import Tensor

import avcore
from avcore.data.cache import ClipCache
from avcore.data.frontends import FilterBank, MelSpectrogram
from avcore.data.media import decode_audio
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.runs import Run
from avcore.specs import AudioGeometry, BackboneSpec, FilterBankGeometry, MelGeometry, Windows
from avcore.tasks import Clip
from avcore.testing.toys import at_hand, make_batch

RATE = 8000


def write(path: Path, *channels: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((len(channels), 2, RATE, 0, "NONE", ""))
        file.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())
    return path


@pytest.fixture
def left_right() -> np.ndarray:
    """Two seconds of two tones."""
    time = np.arange(2 * RATE) / RATE
    tones = [9000 * np.sin(2 * np.pi * 300 * time), 4000 * np.sin(2 * np.pi * 700 * time)]
    return np.stack(tones).astype(np.int16)


@pytest.mark.parametrize("rate", [RATE, 16000])
def test_two_channels_of_a_file_stay_apart(left_right: np.ndarray, tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "both.wav", *left_right)
    found = decode_audio(path, rate=rate, start=0.5, seconds=2.0, channels=2)
    assert found.shape == (2, 2 * rate)
    for channel, samples in enumerate(left_right):
        alone = decode_audio(write(tmp_path / f"{channel}.wav", samples), rate=rate, start=0.5, seconds=2.0)
        assert np.abs(found[channel].astype(int) - alone).max() <= 1
    assert not found[:, -rate // 2 + 10 :].any()
    mixed = decode_audio(path, rate=rate, start=0.5, seconds=2.0)
    assert np.abs(mixed - found.astype(int).mean(0)).max() <= 2


def test_one_channel_comes_twice_as_loud_as_it_is(left_right: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "mono.wav", left_right[0])
    found = decode_audio(path, rate=RATE, seconds=2.0, channels=2)
    assert np.array_equal(found, np.stack([left_right[0]] * 2))


def test_two_channels_are_another_entry_of_the_cache(left_right: np.ndarray, tmp_path: Path) -> None:
    sound = write(tmp_path / "both.wav", *left_right)
    clip = Clip(name="one", frames=(), audio=sound, seconds=2.0)
    for _ in range(2):
        cache = ClipCache(tmp_path / "cache", segments=1)
        assert np.array_equal(cache.audio(clip, RATE, 2), left_right)
        assert cache.audio(clip, RATE).shape == (2 * RATE,)
    assert cache.decoded == 0
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


@pytest.mark.parametrize("kind", ["kaldi", "slaney"])
def test_front_ends_make_of_each_channel_what_they_make_of_it_alone(kind: str) -> None:
    def front(channels: int) -> Any:
        windows = Windows(length=0.5, margin=0.6)
        if kind == "kaldi":
            return FilterBank(FilterBankGeometry(rate=RATE, frames=40, channels=channels), windows, 3)
        return MelSpectrogram(MelGeometry(rate=RATE, high_hz=4000.0, channels=channels), windows, 3)

    samples_B2S = torch.randint(-9000, 9000, (4, 2, 2 * RATE), dtype=torch.int16)
    both = front(2)(samples_B2S)
    for channel in (0, 1):
        assert torch.allclose(both[:, channel], front(1)(samples_B2S[:, channel]), atol=1e-4)


def test_a_backbone_hears_one_channel_or_two() -> None:
    assert [FilterBankGeometry(channels=number).shape(0.5) for number in (1, 2)] == [(8000,), (2, 8000)]
    with pytest.raises(ValueError, match="channels must be 1 or 2, not 6"):
        AudioGeometry(channels=6)


# --------------------------------------------------------------------------------------------------------------------
# A whole run


@pytest.fixture(scope="module")
def ears(world: ModuleType) -> Iterator[None]:
    """A backbone that embeds what the left channel has and the right one lacks."""

    class Ears(world.ToyTower):  # type: ignore[misc, name-defined]
        def __init__(self, trunk: Any, stream: str, segments: int) -> None:
            super().__init__(trunk, stream, segments)
            if stream == "audio":
                self.geometry = FilterBankGeometry(rate=RATE, mel_bins=8, frames=96, channels=2)

        def embed(self, image: Tensor) -> Tensor:
            if self.stream == "audio":
                assert image.shape[1:] == (2, 96, 8)
                image = image[:, 0] - image[:, 1]
            return super().embed(image)  # type: ignore[no-any-return]

    class Trunk(world.Trunk):  # type: ignore[misc, name-defined]
        def tower(self, stream: str, settings: Any, segments: int, windows: Any = None) -> Any:
            return Ears(self, stream, segments).freeze()

    class Plugin:
        @hookimpl
        def avcore_backbones(self) -> list[BackboneSpec]:
            fields: dict[str, Any] = {"config": world.TrunkSettings, "presets": {"test_ears": {}}}
            return [at_hand(BackboneSpec, name="ears", thing=Trunk, **fields)]

    with installed(Registry.from_modules({"toy-world": world.Plugin(), "toy-ears": Plugin()})):
        yield


@pytest.fixture
def files(world: ModuleType, tmp_path: Path) -> Path:
    """The clips of the toy world, silent on the right."""
    root: Path = world.render("listen", tmp_path / "files")
    for sound in root.glob("*/*.wav"):
        left = decode_audio(sound, rate=RATE, seconds=2.0)
        write(sound, left, np.zeros_like(left))
    return root


@pytest.fixture
def video(left_right: np.ndarray, tmp_path: Path) -> Path:
    return grey_video(tmp_path / "two.mkv", range(0, 100, 5), left_right.T, RATE)


@pytest.fixture
def done(ears: None, files: Path, tmp_path: Path) -> Callable[[], Run]:
    def start() -> Run:
        where = {"data": files, "out": tmp_path / "run", "quiet": True}
        return avcore.run("rowing", task="listen", visual="test_ears", set=["train.epochs=1"], **where)

    return start


def test_a_tower_of_two_channels_trains_and_predicts(
    done: Callable[[], Run],
    video: Path,
    left_right: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = done()
    assert run.results.status == "finished"
    batch = next(iter(run.data.loader("val")))
    assert batch.waveform is not None
    assert batch.waveform.shape == (4, 2, 2 * RATE)
    assert batch.waveform[:, 0].any()
    assert not batch.waveform[:, 1].any()
    mute = next(iter(run.data.loader("val_mute_audio"))).waveform
    assert mute is not None
    assert mute.shape == batch.waveform.shape
    assert not mute.any()
    assert make_batch(run.model).waveform.shape == (2, 2, 2 * RATE)  # type: ignore[union-attr]

    seen: list[Tensor] = []
    features = type(run.model).features

    def watched(self: Any, batch: Any) -> Any:
        seen.append(batch.waveform)
        return features(self, batch)

    monkeypatch.setattr(type(run.model), "features", watched)
    found = run.predict(video, tmp_path / "predicted")
    assert np.array_equal(torch.cat(seen).numpy(), left_right[None])
    levels = [span.level_db for span in found.spans]
    mixed = 20 * np.log10(np.sqrt(np.mean((left_right.mean(0) / 32768) ** 2)))
    assert levels == pytest.approx([mixed] * len(levels), abs=0.1)
